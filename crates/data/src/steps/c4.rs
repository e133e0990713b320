//! C4's rules: lines that are no sentences or are boilerplate are removed, pages of code or placeholder text dropped

use std::borrow::Cow;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use regex::Regex;
use serde::Deserialize;

use super::limits::at_least;
use super::{Made, Settings, Surroundings};
use crate::lines::{is_space, lines, trim};
use crate::step::Reason;
use crate::{Document, Step, Verdict, sentences};

/// Rules of Raffel et al. 2020 (JMLR 21, 20-074), section 2.2, and of its code, as datatrove's `C4QualityFilter` has them. The list of bad words is not among them.
/// FineWeb uses them with `terminal_punctuation = false`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lines {
    /// Removes lines that do not end in `.`, `?`, `!` or a quotation mark, or end in `...` (`filter_no_terminal_punct`).
    pub terminal_punctuation: bool,
    /// Words of a line, of white space between them; shorter lines are removed (`min_words_per_line`).
    pub line_words_min: usize,
    /// Characters of a word; lines with a longer one are removed (`max_word_length`).
    pub word_characters_max: usize,
    /// Sentences in the lines that are left; pages with fewer are dropped (`min_num_sentences`).
    pub sentences_min: usize,
    /// Drops pages with `{` (`filter_curly_bracket`).
    pub curly_bracket: bool,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines {
            terminal_punctuation: true,
            line_words_min: 3,
            word_characters_max: 1000,
            sentences_min: 5,
            curly_bracket: true,
        }
    }
}

impl Settings for Lines {
    fn make(self, _: Surroundings) -> Result<Made, String> {
        Ok(Made::Alone(Box::new(self)))
    }
}

/// What becomes of a line.
#[derive(Debug, PartialEq)]
enum Line<'a> {
    Kept(Cow<'a, str>),
    Removed,
    /// The whole page is dropped.
    Page(Reason),
}

/// The placeholder text, JavaScript (`filter_javascript`), and phrases of terms and policies (`POLICY_SUBSTRINGS`).
static PHRASES: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let phrases = [
        "lorem ipsum",
        "javascript",
        "terms of use",
        "privacy policy",
        "cookie policy",
        "uses cookies",
        "use of cookies",
        "use cookies",
    ];
    // They begin and end in common letters: looking for those first takes longer.
    let mut builder = AhoCorasick::builder();
    builder.ascii_case_insensitive(true).kind(Some(AhoCorasickKind::DFA)).prefilter(false);
    builder.build(phrases).expect("phrases of this file")
});

/// Whether a line has the placeholder text, JavaScript, and a policy.
fn phrases(line: &str) -> [bool; 3] {
    let mut found = [false; 3];
    PHRASES.find_iter(line).for_each(|phrase| found[phrase.pattern().as_usize().min(2)] = true);
    found
}

/// Whether a line of the text may have one of these: as it stands, or once a citation inside it is removed.
fn may_have_phrases(text: &str) -> bool {
    memchr::memchr(b'[', text.as_bytes()).is_some() || PHRASES.is_match(text)
}

/// `CITATION_REGEX`, whose digits are those of any script.
static CITATION: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\[\d*\]|\[edit\]|\[citation needed\]").expect("an expression of this file"));

fn without_citations(line: &str) -> Cow<'_, str> {
    if memchr::memchr(b'[', line.as_bytes()).is_some() { CITATION.replace_all(line, "") } else { line.into() }
}

impl Lines {
    /// Asks the rules of a line in the order of the reference.
    fn line<'a>(&self, line: &'a str, has_phrases: bool) -> Line<'a> {
        let line = trim(line);
        let mut words = line.split(is_space).filter(|word| !word.is_empty());
        let few = words.clone().take(self.line_words_min).count() < self.line_words_min;
        let long =
            |word: &str| word.len() > self.word_characters_max && word.chars().count() > self.word_characters_max;
        if line.len() > self.word_characters_max && words.any(long) {
            return Line::Removed;
        }
        let line = without_citations(line);
        let sentence = line.ends_with(['.', '?', '!', '"', '\'']) && !line.ends_with("...");
        if few || (self.terminal_punctuation && !sentence) {
            return Line::Removed;
        }
        let [placeholder, javascript, policy] = if has_phrases { phrases(&line) } else { [false; 3] };
        let bracket = self.curly_bracket && memchr::memchr(b'{', line.as_bytes()).is_some();
        match (placeholder, javascript, bracket, policy) {
            (true, ..) => Line::Page(Reason { rule: "c4.lorem_ipsum", detail: excerpt(&line) }),
            (_, true, ..) => Line::Removed,
            (_, _, true, _) => Line::Page(Reason { rule: "c4.curly_bracket", detail: excerpt(&line) }),
            (_, _, _, true) => Line::Removed,
            _ => Line::Kept(line),
        }
    }

    /// The lines that are left.
    ///
    /// # Errors
    /// The rule for which the page is dropped.
    pub fn lines_left(&self, text: &str) -> Result<String, Reason> {
        let has_phrases = may_have_phrases(text);
        let mut left = String::with_capacity(text.len());
        let mut sentences = 0;
        for line in lines(text) {
            match self.line(line, has_phrases) {
                Line::Kept(line) => {
                    if sentences < self.sentences_min {
                        sentences += sentences::count(&line);
                    }
                    left.push_str(&line);
                    left.push('\n');
                }
                Line::Removed => {}
                Line::Page(reason) => return Err(reason),
            }
        }
        at_least("c4.sentences_min", "sentences", sentences as f64, self.sentences_min as f64)?;
        left.truncate(trim(&left).len());
        Ok(left)
    }
}

/// What a reader of the report recognises a line by.
fn excerpt(line: &str) -> Cow<'static, str> {
    line.chars().take(100).collect::<String>().into()
}

impl Step for Lines {
    fn apply(&self, document: &mut Document) -> Verdict {
        match self.lines_left(document.text()) {
            Ok(left) => {
                if left != document.text() {
                    document.set_text(left);
                }
                Verdict::Keep
            }
            Err(reason) => Verdict::Drop(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::tests::{broken, refused};

    const PAGE: &str = "One is here. Two is here. Three is here.\nFour is here. Five is here.";

    fn left(text: &str) -> String {
        Lines::default().lines_left(&format!("{text}\n{PAGE}")).unwrap().strip_suffix(PAGE).unwrap().to_owned()
    }

    #[test]
    fn each_rule_of_lines() {
        assert_eq!(left("  A line that stays.\t\r\n\r\n"), "A line that stays.\n");
        assert_eq!(left("He said \"no way!\"\rShe did not say 'yes'"), "He said \"no way!\"\nShe did not say 'yes'\n");
        assert_eq!(left("Menu of the page\nRead more about it...\nWait for it \u{2026}"), "");
        assert_eq!(left("Too short."), "");
        assert_eq!(
            left(&format!("A word of {} characters.", "x".repeat(1000))),
            format!("A word of {} characters.\n", "x".repeat(1000))
        );
        assert_eq!(left(&format!("A word of {} characters.", "x".repeat(1001))), "");
        assert_eq!(left("Please enable JavaScript { in your } browser."), "");
        assert_eq!(left("Read our Privacy Policy before that."), "");
        assert_eq!(left("Read our priva[1]cy policy before that."), "");
        assert_eq!(left("So it was[1] once[citation needed] and[edit] again[][a]."), "So it was once and again[a].\n");
    }

    #[test]
    fn each_rule_of_pages() {
        assert_eq!(broken(&Lines::default(), PAGE), "");
        assert_eq!(broken(&Lines::default(), PAGE.split_once(". ").unwrap().1), "c4.sentences_min");
        assert_eq!(broken(&Lines::default(), &format!("{PAGE}\nLorem ipsum dolor sit.")), "c4.lorem_ipsum");
        assert_eq!(broken(&Lines::default(), &format!("{PAGE}\nif (it) {{ do this now; }}.")), "c4.curly_bracket");
        // A line that is removed is not looked at.
        assert_eq!(broken(&Lines::default(), &format!("{PAGE}\nif (it) {{ do this now; }}")), "");
    }

    #[test]
    fn fineweb_leaves_lines_without_punctuation() {
        let settings = Lines { terminal_punctuation: false, ..Lines::default() };
        assert_eq!(
            settings.lines_left(&format!("{PAGE}\nMenu of the page\nMenu")).unwrap(),
            format!("{PAGE}\nMenu of the page")
        );
        assert!(refused::<Lines>("sentence_min = 5").contains("unknown field"));
    }
}
