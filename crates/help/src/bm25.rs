//! BM25 (Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009): texts ranked by the words that they share with a question
//!
//! score(q, d) = sum over words t of q of idf(t) tf(t, d) (k1 + 1) / (tf(t, d) + k1 (1 - b + b |d| / mean |d|)), with
//! idf(t) = ln(1 + (N - n(t) + 0.5) / (n(t) + 0.5)).

use std::collections::HashMap;

/// Saturation of repeated words.
const K1: f64 = 1.2;
/// How much long texts are held against.
const B: f64 = 0.75;

/// Words that say nothing of what a question is about: those of grammar, and those of asking.
const STOP_WORDS: &str = "a about all also am an and any answer are as ask at be been but by call called can certain command commands could describe \
    did do document documentation does enter exactly example explain explains find first flag flags follow for forgot from get give go had happen \
    happens has have help how i if in into is it its just know let lets like line make may me mean meaning might must my need no not of off on one \
    option options or other our out page please possible say see shall should show so some something somewhere tell than that the their them then \
    there these they thing things this three to try trying two type understand up us use used useful using want was way we well were what when where \
    which while who why will with without word words would wrong you your";

/// An index of texts.
pub(crate) struct Bm25 {
    /// Per word: the texts that have it, and how often.
    postings: HashMap<String, Vec<(usize, f64)>>,
    /// Words of each text.
    lengths: Vec<f64>,
    mean_length: f64,
}

/// How well a text fits a question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hit {
    /// Number of the text.
    pub text: usize,
    /// The sum of the formula.
    pub score: f64,
    /// Share of the question's words that the text has, each weighed by its idf; words that no text has count like the rarest.
    pub coverage: f64,
    /// How many of the question's words it has.
    pub words: usize,
}

impl Bm25 {
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Bm25 {
        let mut postings: HashMap<String, Vec<(usize, f64)>> = HashMap::new();
        let mut lengths = Vec::new();
        for (text, words) in texts.into_iter().map(words).enumerate() {
            lengths.push(words.len() as f64);
            for word in words {
                let entries = postings.entry(word).or_default();
                match entries.last_mut() {
                    Some((last, count)) if *last == text => *count += 1.0,
                    _ => entries.push((text, 1.0)),
                }
            }
        }
        let mean_length = lengths.iter().sum::<f64>() / lengths.len().max(1) as f64;
        Bm25 { postings, lengths, mean_length }
    }

    fn idf(&self, texts: usize) -> f64 {
        let (all, with) = (self.lengths.len() as f64, texts as f64);
        (1.0 + (all - with + 0.5) / (with + 0.5)).ln()
    }

    /// The texts that share a word with the question, best first; of equal ones the earlier.
    pub fn search(&self, question: &str) -> Vec<Hit> {
        let mut asked = words(question);
        asked.sort_unstable();
        asked.dedup();
        let (mut hits, mut weight): (HashMap<usize, Hit>, f64) = (HashMap::new(), 0.0);
        for word in &asked {
            let entries = self.postings.get(word).map_or(&[][..], Vec::as_slice);
            let idf = self.idf(entries.len());
            weight += idf;
            for &(text, count) in entries {
                let long = 1.0 - B + B * self.lengths[text] / self.mean_length;
                let hit = hits.entry(text).or_insert(Hit { text, score: 0.0, coverage: 0.0, words: 0 });
                hit.score += idf * count * (K1 + 1.0) / (count + K1 * long);
                hit.coverage += idf;
                hit.words += 1;
            }
        }
        let mut hits: Vec<Hit> = hits.into_values().map(|hit| Hit { coverage: hit.coverage / weight, ..hit }).collect();
        hits.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.text.cmp(&b.text)));
        hits
    }
}

/// The words of a text in small letters, without endings and without stop words, numbers and single letters.
pub(crate) fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase);
    let says_something = |word: &String| {
        let ascii = word.is_ascii();
        !(ascii && (word.len() < 2 || word.bytes().all(|b| b.is_ascii_digit())))
            && !STOP_WORDS.split_whitespace().any(|stop| stop == word)
    };
    words.filter(says_something).map(stem).collect()
}

/// Without the endings of plurals and verbs, so far that `serves`, `serving` and `served` are one word.
fn stem(mut word: String) -> String {
    if !word.is_ascii() {
        return word;
    }
    for ending in ["ing", "ed", "es", "s"] {
        if word.len() >= ending.len() + 3 && word.ends_with(ending) && !word.ends_with("ss") {
            word.truncate(word.len() - ending.len());
            break;
        }
    }
    if word.len() > 3 && word.ends_with('e') {
        word.pop();
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_words_and_short_texts_count_more() {
        let texts =
            ["serve a model with a key", "serve a model", "list models", "a key opens a door and a gate and a hatch"];
        let index = Bm25::new(texts);
        let order = |question: &str| -> Vec<usize> { index.search(question).iter().map(|hit| hit.text).collect() };
        assert_eq!(order("How do I serve with keys?"), [0, 1, 3]);
        assert_eq!(order("key"), [0, 3]);
        assert_eq!(order("LISTING"), [2]);
        // A word counts once, however often it is asked.
        assert_eq!(index.search("key or keys, a key"), index.search("key"));
        assert!(order("What is the capital of France?").is_empty());
        assert!(order("").is_empty() && Bm25::new([]).search("key").is_empty());
    }

    #[test]
    fn scores_are_those_of_the_formula() {
        let index = Bm25::new(["red fox", "red red hat now"]);
        let hits = index.search("red hat");
        // idf: ln(1 + 0.5 / 2.5) of red, ln(1 + 1.5 / 1.5) of hat; lengths 2 and 4, mean 3.
        let (red, hat) = (1.2_f64.ln(), 2.0_f64.ln());
        let long = 1.2 * (0.25 + 0.75 * 4.0 / 3.0);
        let expected = red * 2.0 * 2.2 / (2.0 + long) + hat * 2.2 / (1.0 + long);
        assert_eq!(hits[0].text, 1);
        assert!((hits[0].score - expected).abs() < 1e-12, "{} {expected}", hits[0].score);
        assert_eq!(hits[0].coverage, 1.0);
        assert!((hits[1].coverage - red / (red + hat)).abs() < 1e-12);
    }

    #[test]
    fn words_lose_their_endings() {
        assert_eq!(words("Serves, serving and served: the caches' classes"), ["serv", "serv", "serv", "cach", "class"]);
        assert_eq!(words("--max-tokens 5"), ["max", "token"]);
        assert_eq!(words("日本語"), ["日本語"]);
    }
}
