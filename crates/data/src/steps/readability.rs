//! Readability: the school grade for which a text is easy enough, by the length of its words and sentences

use serde::Deserialize;

use super::limits::{Passed, at_least, at_most, check_order};
use super::{Made, Settings, Surroundings};
use crate::lines::lines;
use crate::step::Reason;
use crate::{Document, Step, Verdict, sentences};

/// Grades of the Automated Readability Index (Smith and Senter 1967, AMRL-TR-66-220): 1 is a text for children of 6, 13 one for students. It is made for English
/// prose; texts of verse or dialogue count as easy, for their lines are short.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Readability {
    /// The easiest grade that is kept.
    pub grade_min: f64,
    /// The hardest.
    pub grade_max: f64,
}

impl Default for Readability {
    fn default() -> Readability {
        Readability { grade_min: f64::NEG_INFINITY, grade_max: f64::INFINITY }
    }
}

impl Settings for Readability {
    fn make(self, _: Surroundings) -> Result<Made, String> {
        if self.grade_min.is_nan() || self.grade_max.is_nan() {
            return Err("a grade that is no number".into());
        }
        check_order(("grade_min", self.grade_min), ("grade_max", self.grade_max))?;
        Ok(Made::Alone(Box::new(self)))
    }
}

/// The Automated Readability Index: `4.71 characters / words + 0.5 words / sentences - 21.43`, where characters are letters and digits. Nothing of a text without
/// words.
pub fn grade(text: &str) -> Option<f64> {
    let (mut characters, mut words, mut all_sentences) = (0, 0, 0);
    for line in lines(text) {
        let before = words;
        for word in line.split_whitespace() {
            let letters = word.chars().filter(|c| c.is_alphanumeric()).count();
            characters += letters;
            words += usize::from(letters > 0);
        }
        // What has no word, such as a line of dashes, is no sentence.
        if words > before {
            all_sentences += sentences::count(line);
        }
    }
    let per = |a: usize, b: usize| a as f64 / b as f64;
    (words > 0).then(|| 4.71 * per(characters, words) + 0.5 * per(words, all_sentences) - 21.43)
}

impl Readability {
    fn check(&self, grade: Option<f64>) -> Passed {
        let grade = grade.ok_or(Reason { rule: "readability.empty", detail: "no word".into() })?;
        at_least("readability.grade_min", "is its grade", grade, self.grade_min)?;
        at_most("readability.grade_max", "is its grade", grade, self.grade_max)
    }
}

impl Step for Readability {
    fn apply(&self, document: &mut Document) -> Verdict {
        let grade = grade(document.text());
        if let Some(grade) = grade {
            document.labels.insert("grade".into(), ((grade * 10.0).round() / 10.0).into());
        }
        self.check(grade).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::tests::{broken, refused};

    #[test]
    fn the_index_of_counted_texts() {
        // Letters 3 3 3 2 3 3, then 2 3: 22 in 8 words of 2 sentences.
        let easy = "The cat sat on the mat.\n\n* * *\n\nIt ran!";
        assert!((grade(easy).unwrap() - (4.71 * 22.0 / 8.0 + 0.5 * 8.0 / 2.0 - 21.43)).abs() < 1e-9);
        // 15, 12, 14, 13, 13, 13, 12 and 13 letters in one sentence.
        let hard = "Notwithstanding considerable administrative complications, international organisations demonstrated determination";
        assert!((grade(hard).unwrap() - (4.71 * 105.0 / 8.0 + 0.5 * 8.0 - 21.43)).abs() < 1e-9);
        // 172 letters, 43 words and 2 sentences by textstat 0.7.13, whose own index counts punctuation marks too.
        let alice = "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do. \
                     Once or twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it.";
        assert!((grade(alice).unwrap() - (4.71 * 172.0 / 43.0 + 0.5 * 43.0 / 2.0 - 21.43)).abs() < 1e-9);
        assert_eq!(grade(" - \n..."), None);
    }

    #[test]
    fn limits_and_the_label() {
        let step = Readability { grade_min: -8.0, grade_max: 9.0 };
        let easy = "The cat sat on the mat. It ran!";
        assert_eq!(broken(&step, easy), "");
        assert_eq!(broken(&step, &"Internationalisation ".repeat(5)), "readability.grade_max");
        assert_eq!(broken(&step, "I. A. O."), "readability.grade_min");
        assert_eq!(broken(&step, "--"), "readability.empty");
        let mut document = Document::new("a#0", easy);
        step.apply(&mut document);
        assert_eq!(document.labels["grade"], -6.5);
    }

    #[test]
    fn settings_make_sense() {
        assert_eq!(refused::<Readability>("grade_min = 9\ngrade_max = 2"), "grade_min 9 is above grade_max 2");
        assert_eq!(refused::<Readability>("grade_max = nan"), "a grade that is no number");
    }
}
