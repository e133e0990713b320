//! Small rules of English: articles, plurals, numbers in words, enumerations

/// `a` or `an`, by the sound that the word begins with.
pub fn article(word: &str) -> &'static str {
    const VOWEL_SOUND: [&str; 4] = ["hour", "honest", "heir", "honor"];
    const CONSONANT_SOUND: [&str; 8] = ["uni", "use", "usu", "euro", "one", "once", "ukulele", "ute"];
    let lower = word.to_ascii_lowercase();
    let begins = |list: &[&str]| list.iter().any(|start| lower.starts_with(start));
    let vowel = lower.starts_with(['a', 'e', 'i', 'o', 'u', '8']) || lower == "11" || lower == "18";
    let uninteresting = lower.starts_with("unin") || lower.starts_with("unim");
    if begins(&VOWEL_SOUND) || vowel && (uninteresting || !begins(&CONSONANT_SOUND)) { "an" } else { "a" }
}

/// A noun in its two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noun {
    /// For one.
    pub one: &'static str,
    /// For any other number.
    pub many: &'static str,
}

impl Noun {
    /// Reads `apple/apples`.
    ///
    /// # Panics
    /// Without a slash.
    pub fn new(forms: &'static str) -> Noun {
        let (one, many) = forms.split_once('/').unwrap_or_else(|| panic!("a noun in two forms: {forms}"));
        Noun { one, many }
    }

    /// The form that goes with a number.
    pub fn form(&self, number: i64) -> &'static str {
        if number == 1 { self.one } else { self.many }
    }
}

/// Appends a number from 0 to 999 in words; others in digits.
pub fn number_in_words(number: i64, out: &mut String) {
    const SMALL: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    match number {
        0..20 => out.push_str(SMALL[number as usize]),
        20..100 => {
            out.push_str(TENS[number as usize / 10]);
            if number % 10 > 0 {
                out.push('-');
                out.push_str(SMALL[number as usize % 10]);
            }
        }
        100..1000 => {
            out.push_str(SMALL[number as usize / 100]);
            out.push_str(" hundred");
            if number % 100 > 0 {
                out.push_str(" and ");
                number_in_words(number % 100, out);
            }
        }
        _ => push_number(number, out),
    }
}

/// Appends a number in digits.
pub fn push_number(number: i64, out: &mut String) {
    use std::fmt::Write;
    let _ = write!(out, "{number}");
}

/// `a`, `a and b`, `a, b and c`.
pub fn enumeration(items: &[impl AsRef<str>], conjunction: &str) -> String {
    let Some((last, others)) = items.split_last() else { return String::new() };
    let mut out = String::new();
    for (i, item) in others.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        out.push_str(item.as_ref());
    }
    if !others.is_empty() {
        out.push(' ');
        out.push_str(conjunction);
        out.push(' ');
    }
    out.push_str(last.as_ref());
    out
}

/// With a capital at the front.
pub fn capitalized(text: &str) -> String {
    let mut out = text.to_owned();
    if let Some(first) = out.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles_follow_the_sound() {
        for word in ["apple", "egg", "hour", "umbrella", "uncle", "8", "11", "uninteresting", "Owl", "unimportant"] {
            assert_eq!(article(word), "an", "{word}");
        }
        for word in ["pear", "unicorn", "uniform", "university", "useful", "European", "one", "house", "110"] {
            assert_eq!(article(word), "a", "{word}");
        }
    }

    #[test]
    fn numbers_in_words() {
        let words = |n| {
            let mut out = String::new();
            number_in_words(n, &mut out);
            out
        };
        assert_eq!(words(0), "zero");
        assert_eq!(words(14), "fourteen");
        assert_eq!(words(40), "forty");
        assert_eq!(words(85), "eighty-five");
        assert_eq!(words(300), "three hundred");
        assert_eq!(words(942), "nine hundred and forty-two");
        assert_eq!(words(1000), "1000");
    }

    #[test]
    fn enumerations_and_nouns() {
        assert_eq!(enumeration(&["a"], "and"), "a");
        assert_eq!(enumeration(&["a", "b"], "or"), "a or b");
        assert_eq!(enumeration(&["a", "b", "c"], "and"), "a, b and c");
        assert_eq!(Noun::new("knife/knives").form(1), "knife");
        assert_eq!(Noun::new("knife/knives").form(0), "knives");
        assert_eq!(capitalized("owl"), "Owl");
        assert_eq!(capitalized(""), "");
    }
}
