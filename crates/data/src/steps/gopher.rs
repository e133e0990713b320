//! Gopher's quality rules: length, symbols, bullets, ellipses, words with letters, stop words

use serde::Deserialize;

use super::limits::{Passed, at_least, at_most, check_order, check_shares, share};
use super::{Made, Settings, Surroundings};
use crate::lines::{is_space, lines};
use crate::punctuation::is_punctuation;
use crate::{Document, Step, Verdict};

/// Thresholds of Rae et al. 2021 (arXiv:2112.11446), appendix A.1.1 "Quality filtering", in the order in which datatrove's `GopherQualityFilter` asks them.
/// A minimum of 0 or a share of 1 asks nothing.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quality {
    /// Words that are more than punctuation (`min_doc_words`).
    pub words_min: usize,
    /// As above (`max_doc_words`).
    pub words_max: usize,
    /// Mean length of these words in characters (`min_avg_word_length`).
    pub word_length_min: f64,
    /// As above (`max_avg_word_length`).
    pub word_length_max: f64,
    /// Hash marks, and again ellipses, for each word (`max_symbol_word_ratio`).
    pub symbols_max: f64,
    /// Share of lines that begin with a bullet or hyphen (`max_bullet_lines_ratio`).
    pub bullet_lines_max: f64,
    /// Share of lines that end in an ellipsis (`max_ellipsis_lines_ratio`).
    pub ellipsis_lines_max: f64,
    /// Share of words, punctuation marks among them, that have a letter (`max_non_alpha_words_ratio`).
    pub alphabetic_words_min: f64,
    /// Different stop words in the text, as they are written (`min_stop_words`).
    pub stop_words_min: usize,
    /// The stop words (`stop_words`).
    pub stop_words: Vec<String>,
}

impl Default for Quality {
    fn default() -> Quality {
        Quality {
            words_min: 50,
            words_max: 100_000,
            word_length_min: 3.0,
            word_length_max: 10.0,
            symbols_max: 0.1,
            bullet_lines_max: 0.9,
            ellipsis_lines_max: 0.3,
            alphabetic_words_min: 0.8,
            stop_words_min: 2,
            stop_words: ["the", "be", "to", "of", "and", "that", "have", "with"].map(String::from).to_vec(),
        }
    }
}

impl Settings for Quality {
    fn make(self, _: Surroundings) -> Result<Made, String> {
        check_order(("words_min", self.words_min as f64), ("words_max", self.words_max as f64))?;
        check_order(("word_length_min", self.word_length_min), ("word_length_max", self.word_length_max))?;
        check_order(
            ("stop_words_min", self.stop_words_min as f64),
            ("the number of stop_words", self.stop_words.len() as f64),
        )?;
        check_shares(&[
            ("symbols_max", self.symbols_max),
            ("bullet_lines_max", self.bullet_lines_max),
            ("ellipsis_lines_max", self.ellipsis_lines_max),
            ("alphabetic_words_min", self.alphabetic_words_min),
        ])?;
        Ok(Made::Alone(Box::new(self)))
    }
}

/// Counts over the words of a text.
#[derive(Debug, Default, PartialEq)]
struct WordCounts {
    words: usize,
    /// Words that are more than punctuation, and their characters.
    no_marks: usize,
    no_mark_characters: usize,
    /// Words with a letter.
    alphabetic: usize,
}

fn count_words<'a>(words: impl Iterator<Item = &'a str>, characters: impl Fn(&str) -> usize) -> WordCounts {
    let mut counts = WordCounts::default();
    for word in words {
        let letter_first = word.as_bytes()[0].is_ascii_alphabetic();
        counts.words += 1;
        if letter_first || !word.chars().all(is_punctuation) {
            counts.no_marks += 1;
            counts.no_mark_characters += characters(word);
        }
        counts.alphabetic += usize::from(letter_first || word.chars().any(char::is_alphabetic));
    }
    counts
}

/// Different stop words among the words, at most `enough`.
fn count_stop_words<'a>(words: impl Iterator<Item = &'a str>, stop_words: &[String], enough: usize) -> usize {
    let mut seen = vec![false; stop_words.len()];
    let mut count = 0;
    for word in words {
        if count >= enough {
            break;
        }
        if let Some(at) = stop_words.iter().position(|stop_word| stop_word == word) {
            count += usize::from(!std::mem::replace(&mut seen[at], true));
        }
    }
    count
}

/// Lines, those that begin with a bullet, and those that end in an ellipsis.
fn count_lines(text: &str) -> [usize; 3] {
    lines(text).fold([0; 3], |[all, bullets, ellipses], line| {
        let bullet = line.trim_start_matches(is_space).starts_with(['\u{2022}', '-']);
        let end = line.trim_end_matches(is_space);
        let ellipsis = end.ends_with("...") || end.ends_with('\u{2026}');
        [all + 1, bullets + usize::from(bullet), ellipses + usize::from(ellipsis)]
    })
}

/// Hash marks, and ellipses.
fn count_symbols(text: &str) -> [usize; 2] {
    let hashes = memchr::memchr_iter(b'#', text.as_bytes()).count();
    let dots = memchr::memmem::find_iter(text.as_bytes(), "...").count();
    let ellipses = memchr::memmem::find_iter(text.as_bytes(), "\u{2026}").count();
    [hashes, dots + ellipses]
}

impl Quality {
    /// Asks all rules of a text and its words.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check<'a>(&self, text: &str, words: impl Iterator<Item = &'a str> + Clone) -> Passed {
        let counts = match text.is_ascii() {
            true => count_words(words.clone(), str::len),
            false => count_words(words.clone(), |word| word.chars().count()),
        };
        let stop_words = count_stop_words(words, &self.stop_words, self.stop_words_min);
        let words = counts.no_marks as f64;
        at_least("gopher_quality.words_min", "words", words, self.words_min as f64)?;
        at_most("gopher_quality.words_max", "words", words, self.words_max as f64)?;
        let length = share(counts.no_mark_characters, counts.no_marks);
        at_least("gopher_quality.word_length_min", "characters a word", length, self.word_length_min)?;
        at_most("gopher_quality.word_length_max", "characters a word", length, self.word_length_max)?;
        let [hashes, ellipses] = count_symbols(text).map(|symbols| share(symbols, counts.words));
        at_most("gopher_quality.hashes_max", "hash marks a word", hashes, self.symbols_max)?;
        at_most("gopher_quality.ellipses_max", "ellipses a word", ellipses, self.symbols_max)?;
        let [lines, bullets, ellipses] = count_lines(text);
        let (bullets, ellipses) = (share(bullets, lines), share(ellipses, lines));
        at_most("gopher_quality.bullet_lines_max", "of the lines begin with a bullet", bullets, self.bullet_lines_max)?;
        at_most(
            "gopher_quality.ellipsis_lines_max",
            "of the lines end in an ellipsis",
            ellipses,
            self.ellipsis_lines_max,
        )?;
        let alphabetic = if counts.words == 0 { 1.0 } else { share(counts.alphabetic, counts.words) };
        at_least(
            "gopher_quality.alphabetic_words_min",
            "of the words have a letter",
            alphabetic,
            self.alphabetic_words_min,
        )?;
        at_least("gopher_quality.stop_words_min", "different stop words", stop_words as f64, self.stop_words_min as f64)
    }
}

impl Step for Quality {
    fn apply(&self, document: &mut Document) -> Verdict {
        document.split_words();
        self.check(document.text(), document.words()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::tests::{broken, refused};

    /// Fifty-odd plain words with stop words among them.
    fn prose() -> String {
        "It was the end of a long day, and she went home to sleep with the cat. ".repeat(4)
    }

    fn rule(text: &str) -> &'static str {
        broken(&Quality::default(), text)
    }

    #[test]
    fn each_rule_by_a_text_that_breaks_it_alone() {
        assert_eq!(rule(&prose()), "");
        assert_eq!(rule("Too short, of course, and that is all."), "gopher_quality.words_min");
        assert_eq!(rule(&prose().repeat(1700)), "gopher_quality.words_max");
        assert_eq!(rule(&"I am so to be of it. ".repeat(20)), "gopher_quality.word_length_min");
        assert_eq!(rule(&"internationalization of misunderstanding ".repeat(30)), "gopher_quality.word_length_max");
        assert_eq!(rule(&(prose() + &"#tag ".repeat(10))), "gopher_quality.hashes_max");
        assert_eq!(rule(&prose().replace(" the", " ...")), "gopher_quality.ellipses_max");
        assert_eq!(rule(&"- one of the things that we have\n".repeat(20)), "gopher_quality.bullet_lines_max");
        assert_eq!(
            rule(&"This is one of the many things that we have \u{2026}\n".repeat(20)),
            "gopher_quality.ellipsis_lines_max"
        );
        assert_eq!(rule(&(prose() + &"+ 4711 ".repeat(40))), "gopher_quality.alphabetic_words_min");
        assert_eq!(
            rule(&"Several people walked slowly down this narrow street. ".repeat(8)),
            "gopher_quality.stop_words_min"
        );
    }

    #[test]
    fn limits_themselves_pass() {
        let text = "and the ".repeat(25);
        assert_eq!(rule(&text), "");
        assert_eq!(rule(text.trim_end_matches("the ")), "gopher_quality.words_min");
        let lines = "- and the old cat\n".repeat(18) + "and the cat\nand the cat\n";
        assert_eq!(rule(&lines), "");
        assert_eq!(rule(&("- and the old cat\n".repeat(19) + "and the cat\n")), "gopher_quality.bullet_lines_max");
    }

    #[test]
    fn counts_of_words() {
        let words = ["The", "\u{2026}", "the", "3", "\u{e9}t\u{e9}", "_", "\u{2019}90s", "the", "of"];
        let counts = count_words(words.into_iter(), |word| word.chars().count());
        assert_eq!(counts, WordCounts { words: 9, no_marks: 7, no_mark_characters: 19, alphabetic: 6 });
        let stop_words = ["the".to_owned(), "of".to_owned(), "is".to_owned()];
        assert_eq!(count_stop_words(words.into_iter(), &stop_words, 9), 2);
        assert_eq!(count_stop_words(words.into_iter(), &stop_words, 1), 1);
    }

    #[test]
    fn settings_make_sense() {
        assert_eq!(refused::<Quality>("words_min = 9\nwords_max = 3"), "words_min 9 is above words_max 3");
        assert_eq!(refused::<Quality>("symbols_max = 10"), "symbols_max 10 is a share, from 0 to 1");
        assert_eq!(refused::<Quality>("stop_words = ['und']"), "stop_words_min 2 is above the number of stop_words 1");
        assert!(refused::<Quality>("word_min = 9").contains("unknown field `word_min`"));
    }

    #[test]
    fn nothing_is_asked_of_an_empty_text_without_limits() {
        let settings = Quality { words_min: 0, word_length_min: 0.0, stop_words_min: 0, ..Quality::default() };
        assert_eq!(broken(&settings, ""), "");
    }
}
