//! Figures: counts of so many, with their standard errors

use serde_json::{Value, json};

/// A share of trials.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// What was counted.
    pub name: String,
    /// Trials that were right; a tie counts one half.
    pub right: f64,
    /// Trials.
    pub of: usize,
    /// Standard error of the share; none where there was no trial.
    pub standard_error: Option<f64>,
}

impl Measure {
    /// Right ones among independent trials: the standard error is that of a proportion, sqrt(p (1 - p) / n).
    pub fn of(name: impl Into<String>, right: usize, of: usize) -> Measure {
        Measure::of_halves(name, 2 * right, of)
    }

    /// As `of`, of trials that are right, wrong or, in a tie, half right: `halves` is the sum of 2, 0 and 1.
    pub fn of_halves(name: impl Into<String>, halves: usize, of: usize) -> Measure {
        let right = halves as f64 / 2.0;
        let share = right / of as f64;
        let standard_error = (of > 0).then(|| (share * (1.0 - share) / of as f64).sqrt());
        Measure { name: name.into(), right, of, standard_error }
    }

    /// The mean of strata of one weight. Its variance is the sum of theirs, over the square of their number.
    pub fn mean(name: impl Into<String>, strata: &[Measure]) -> Measure {
        let variance: f64 = strata.iter().filter_map(|stratum| stratum.standard_error).map(|error| error * error).sum();
        Measure {
            name: name.into(),
            right: strata.iter().map(|stratum| stratum.right).sum(),
            of: strata.iter().map(|stratum| stratum.of).sum(),
            standard_error: (!strata.is_empty()).then(|| variance.sqrt() / strata.len() as f64),
        }
    }

    /// Between 0 and 1; none where there was no trial.
    pub fn share(&self) -> Option<f64> {
        (self.of > 0).then(|| self.right / self.of as f64)
    }

    /// For machines.
    pub fn json(&self) -> Value {
        json!({
            "name": self.name, "right": self.right, "of": self.of, "share": self.share(),
            "standard_error": self.standard_error,
        })
    }
}

/// How many bits a model needs for the bytes of texts, all together.
#[derive(Clone, Debug, PartialEq)]
pub struct BitsPerByte {
    /// Texts.
    pub texts: usize,
    /// Bits over bytes.
    pub value: f64,
    /// Of a ratio of sums over independent texts: sqrt(n / (n - 1) sum of (bits - value bytes)^2) over all bytes.
    pub standard_error: f64,
}

impl BitsPerByte {
    /// Of bits and bytes of each text; `None` where there are fewer than two, or no byte.
    pub fn of(texts: &[(f64, usize)]) -> Option<BitsPerByte> {
        let (bits, bytes) = texts.iter().fold((0.0, 0), |(b, n), (bits, bytes)| (b + bits, n + bytes));
        if texts.len() < 2 || bytes == 0 {
            return None;
        }
        let (n, value) = (texts.len() as f64, bits / bytes as f64);
        let squares: f64 = texts.iter().map(|(bits, bytes)| (bits - value * *bytes as f64).powi(2)).sum();
        Some(BitsPerByte { texts: texts.len(), value, standard_error: (squares * n / (n - 1.0)).sqrt() / bytes as f64 })
    }

    /// For machines.
    pub fn json(&self) -> Value {
        json!({"texts": self.texts, "bits_per_byte": self.value, "standard_error": self.standard_error})
    }
}

/// Whether a word stands in a text, in capitals or not, with no letter or digit beside it.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    let (text, word) = (text.to_lowercase(), word.to_lowercase());
    let inside = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    !word.is_empty()
        && text
            .match_indices(&word)
            .any(|(at, _)| !inside(text[..at].chars().next_back()) && !inside(text[at + word.len()..].chars().next()))
}

/// An answer without what says nothing: in small letters, without white space, quotation marks and a full stop around it.
pub(crate) fn plain(answer: &str) -> String {
    let around = |c: char| c.is_whitespace() || ['"', '\'', '`', '.', '\u{201c}', '\u{201d}'].contains(&c);
    answer.trim_matches(around).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_standard_errors() {
        let measure = Measure::of("exact", 80, 100);
        assert_eq!((measure.share(), measure.standard_error), (Some(0.8), Some(0.04)));
        assert_eq!(Measure::of_halves("pairs", 3, 2).share(), Some(0.75));
        let none = Measure::of("precision", 0, 0);
        assert_eq!((none.share(), none.standard_error), (None, None));
        assert_eq!(none.json()["share"], Value::Null);
        // Two strata of one size: the error of their mean is that of all trials, if they have one share.
        let half = Measure::of("a", 50, 100);
        let mean = Measure::mean("both", &[half.clone(), half]);
        let all = Measure::of("all", 100, 200);
        assert_eq!((mean.right, mean.of), (100.0, 200));
        assert!((mean.standard_error.unwrap() - all.standard_error.unwrap()).abs() < 1e-12);
        // Strata apart say more than trials of one kind.
        let apart = Measure::mean("both", &[Measure::of("a", 0, 100), Measure::of("b", 100, 100)]);
        assert_eq!(apart.standard_error, Some(0.0));
    }

    #[test]
    fn bits_a_byte_weigh_long_texts_more() {
        let figure = BitsPerByte::of(&[(10.0, 10), (60.0, 30)]).unwrap();
        assert_eq!((figure.texts, figure.value), (2, 1.75));
        // Off by 7.5 each, and one text tells nothing of the spread.
        assert!((figure.standard_error - (2.0 * 2.0 * 7.5f64.powi(2)).sqrt() / 40.0).abs() < 1e-12);
        assert_eq!(BitsPerByte::of(&[(20.0, 10), (60.0, 30)]).unwrap().standard_error, 0.0);
        assert!(BitsPerByte::of(&[(10.0, 10)]).is_none() && BitsPerByte::of(&[(0.0, 0), (0.0, 0)]).is_none());
    }

    #[test]
    fn words_stand_alone() {
        assert!(has_word("Then mira, the fox, slept.", "Mira"));
        assert!(!has_word("Miranda slept.", "Mira") && !has_word("Elmira", "mira") && !has_word("text", ""));
        assert!(has_word("Miranda and Mira", "Mira"));
        assert_eq!(plain(" \"The red hat.\"\n"), "the red hat");
        assert_eq!(plain("..."), "");
    }
}
