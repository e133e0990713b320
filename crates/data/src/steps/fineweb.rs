//! FineWeb's own quality rules: punctuated lines, short lines, duplicate lines, lists

use serde::Deserialize;

use super::limits::{Passed, at_least, at_most, check_shares, share};
use super::repetition::duplicates;
use super::{Made, Settings, Surroundings};
use crate::lines::is_space;
use crate::punctuation::is_terminal;
use crate::step::Reason;
use crate::{Document, Step, Verdict, words};

const LINE_FEEDS: &str = "fineweb.line_feeds_max";

/// Thresholds of Penedo et al. 2024 (arXiv:2406.17557), section 3.6 "Developing additional heuristic filters", as datatrove's `FineWebQualityFilter` has them. They
/// are made for the lines of web pages: of books, whose lines are wrapped, they drop nearly all.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quality {
    /// Share of lines that end in a mark that ends a sentence (`line_punct_thr`).
    pub punctuated_lines_min: f64,
    /// Share of lines of at most `short_line_characters` (`short_line_thr`).
    pub short_lines_max: f64,
    /// Characters of the longest short line (`short_line_length`).
    pub short_line_characters: usize,
    /// Share of characters in lines that repeat an earlier one (`char_duplicates_ratio`).
    pub duplicate_line_characters_max: f64,
    /// Line feeds for each word (`new_line_ratio`).
    pub line_feeds_max: f64,
}

impl Default for Quality {
    fn default() -> Quality {
        Quality {
            punctuated_lines_min: 0.12,
            short_lines_max: 0.67,
            short_line_characters: 30,
            duplicate_line_characters_max: 0.01,
            line_feeds_max: 0.3,
        }
    }
}

impl Settings for Quality {
    fn make(self, _: Surroundings) -> Result<Made, String> {
        check_shares(&[
            ("punctuated_lines_min", self.punctuated_lines_min),
            ("short_lines_max", self.short_lines_max),
            ("duplicate_line_characters_max", self.duplicate_line_characters_max),
        ])?;
        if self.line_feeds_max.is_nan() || self.line_feeds_max < 0.0 {
            return Err(format!("line_feeds_max {} is below 0", self.line_feeds_max));
        }
        Ok(Made::Alone(Box::new(self)))
    }
}

impl Quality {
    /// Asks all rules of a text with so many words.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, text: &str, words: usize) -> Passed {
        let lines: Vec<&str> = text.split('\n').filter(|line| !line.chars().all(is_space)).collect();
        if lines.is_empty() {
            return Err(Reason { rule: "fineweb.empty", detail: "no line".into() });
        }
        let punctuated = lines.iter().filter(|line| line.ends_with(is_terminal)).count();
        let punctuated = share(punctuated, lines.len());
        at_least(
            "fineweb.punctuated_lines_min",
            "of the lines end in punctuation",
            punctuated,
            self.punctuated_lines_min,
        )?;
        let short = lines.iter().filter(|line| at_most_characters(line, self.short_line_characters)).count();
        let short = share(short, lines.len());
        at_most("fineweb.short_lines_max", "of the lines are short", short, self.short_lines_max)?;
        let [_, _, repeated] = duplicates(lines.iter().copied());
        let line_feeds = memchr::memchr_iter(b'\n', text.as_bytes()).count();
        let repeated = share(repeated, text.chars().count() - line_feeds);
        let max = self.duplicate_line_characters_max;
        at_most("fineweb.duplicate_line_characters_max", "of the characters in repeated lines", repeated, max)?;
        at_most(LINE_FEEDS, "line feeds a word", share(line_feeds, words), self.line_feeds_max)
    }
}

fn at_most_characters(line: &str, max: usize) -> bool {
    line.len() <= max || (line.len() <= 4 * max && line.chars().count() <= max)
}

impl Step for Quality {
    fn apply(&self, document: &mut Document) -> Verdict {
        // Nearly all texts have few line feeds for the words that can be counted without splitting them.
        match self.check(document.text(), words::count_min(document.text())) {
            Err(reason) if reason.rule == LINE_FEEDS => {
                document.split_words();
                self.check(document.text(), document.words().len()).into()
            }
            passed => passed.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::tests::{broken, refused};

    fn rule(text: &str) -> &'static str {
        broken(&Quality::default(), text)
    }

    #[test]
    fn each_rule_by_a_text_that_breaks_it_alone() {
        let line = |i: usize| format!("This is line {i} of the page, and it ends well.");
        let page = |n: usize| (0..n).map(line).collect::<Vec<_>>().join("\n\n");
        assert_eq!(rule(&page(20)), "");
        assert_eq!(rule(" \n\u{1f}\n"), "fineweb.empty");
        assert_eq!(rule(&page(20).replace("well.", "well \u{2026}")), "fineweb.punctuated_lines_min");
        assert_eq!(rule(&(page(10) + &"\nshort.".repeat(21))), "fineweb.short_lines_max");
        assert_eq!(rule(&(page(90) + "\n" + &line(1))), "fineweb.duplicate_line_characters_max");
        assert_eq!(rule(&(page(110) + "\n" + &line(1))), "");
        assert_eq!(rule(&(page(10) + &"\n".repeat(150))), "fineweb.line_feeds_max");
    }

    #[test]
    fn the_shortest_long_line_and_other_scripts() {
        let thirty = "\u{3042}".repeat(29) + "\u{3002}";
        assert_eq!(rule(&thirty), "fineweb.short_lines_max");
        assert_eq!(rule(&("\u{3042}".to_owned() + &thirty)), "");
    }

    #[test]
    fn settings_make_sense() {
        assert!(refused::<Quality>("short_lines_max = 67").contains("is a share"));
        assert_eq!(refused::<Quality>("line_feeds_max = nan"), "line_feeds_max NaN is below 0");
    }
}
