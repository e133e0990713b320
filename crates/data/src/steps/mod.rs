//! Steps by the names that recipes give them: a row each

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::join::{Join, exact, lines, near, substrings};
use crate::options;
use crate::step::Step;

pub mod c4;
pub mod classifier;
pub mod conversations;
pub mod decontaminate;
pub mod fill_in_middle;
pub mod fineweb;
pub mod gopher;
pub mod language;
pub mod limits;
pub mod marks;
pub mod patterns;
pub mod pii;
pub mod preferences;
pub mod readability;
pub mod repetition;
pub mod text_questions;
pub mod unicode;

/// What a step can know of the recipe around it.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The recipe's directory, from which relative paths start.
    pub directory: &'a Path,
    /// The recipe's seed.
    pub seed: u64,
}

/// What a row of the table makes.
pub enum Made {
    /// Looks at each document alone.
    Alone(Box<dyn Step>),
    /// Compares each document with all others.
    Joined(Box<dyn Join>),
}

/// A step that recipes can name.
pub struct Kind {
    /// Its name in a recipe.
    pub name: &'static str,
    /// One line of help: what it does, with its source.
    pub help: &'static str,
    /// Makes it from its settings.
    ///
    /// # Errors
    /// In words: a setting that is not known or cannot be.
    pub make: fn(toml::Table, Surroundings) -> Result<Made, String>,
}

/// Settings that make a step.
pub trait Settings: DeserializeOwned {
    /// Makes the step.
    ///
    /// # Errors
    /// In words: settings that cannot be, such as a minimum above its maximum.
    fn make(self, surroundings: Surroundings) -> Result<Made, String>;
}

fn make<S: Settings>(table: toml::Table, surroundings: Surroundings) -> Result<Made, String> {
    options::read::<S>(table)?.make(surroundings)
}

/// All steps, in the order in which help lists them.
#[rustfmt::skip]
pub const KINDS: &[Kind] = &[
    Kind { name: "unicode", help: "repair text that was decoded wrongly, remove control and invisible characters, bring to NFC", make: make::<unicode::Repair> },
    Kind { name: "language", help: "label the language and keep those named (whatlang)", make: make::<language::Language> },
    Kind { name: "gopher_quality", help: "drop by length, symbols, bullets, letters and stop words (Gopher, appendix A.1.1)", make: make::<gopher::Quality> },
    Kind { name: "gopher_repetition", help: "drop by repeated lines, paragraphs and n-grams (Gopher, table A1)", make: make::<repetition::Repetition> },
    Kind { name: "c4", help: "remove lines that are no sentences or are boilerplate, drop pages of code and placeholder text (C4)", make: make::<c4::Lines> },
    Kind { name: "fineweb", help: "drop by lines without punctuation, short lines, repeated lines and lists (FineWeb, section 3.6)", make: make::<fineweb::Quality> },
    Kind { name: "pii", help: "replace e-mail addresses, public IP addresses and, if wanted, telephone numbers (FineWeb)", make: make::<pii::Mask> },
    Kind { name: "classifier", help: "drop by a classifier that is trained on examples of good and bad text", make: make::<classifier::Settings> },
    Kind { name: "readability", help: "drop by school grade (Automated Readability Index), which becomes the label `grade`", make: make::<readability::Readability> },
    Kind { name: "patterns", help: "drop documents by regular expressions of the recipe's, replace text in others", make: make::<patterns::Patterns> },
    Kind { name: "exact_dedup", help: "keep the first of documents with the same text", make: make::<exact::Exact> },
    Kind { name: "fill_in_middle", help: "cut a share of the texts in three and put the middle last (Bavarian et al. 2022)", make: make::<fill_in_middle::FillInMiddle> },
    Kind { name: "text_questions", help: "make a question on a passage of the text, whose answer is a span of it or is not there", make: make::<text_questions::TextQuestions> },
    Kind { name: "conversations", help: "turn checked messages into text, with the assistant's part marked", make: make::<conversations::Conversations> },
    Kind { name: "preferences", help: "check prompts with a chosen and a rejected answer and bring them to one form", make: make::<preferences::Preferences> },
    Kind { name: "near_dedup", help: "keep the first of documents that share most of their runs of words (MinHash-LSH, as for FineWeb)", make: make::<near::Near> },
    Kind { name: "line_dedup", help: "cut lines that occur more than some times in the corpus (Llama 3, section 3.1.1)", make: make::<lines::Lines> },
    Kind { name: "substring_dedup", help: "cut long passages that occur before, wherever they begin (Lee et al. 2022), by winnowing", make: make::<substrings::Substrings> },
    Kind { name: "decontaminate", help: "drop texts that share runs of 13 words with evaluation files, or cut those out (GPT-3, appendix C)", make: make::<decontaminate::Decontaminate> },
];

#[cfg(test)]
pub mod tests {
    //! What the tests of steps share.

    use super::*;
    use crate::{Document, Verdict};

    /// The rule for which a step drops a text, or nothing.
    pub fn broken(step: &impl Step, text: &str) -> &'static str {
        match step.apply(&mut Document::new("test", text)) {
            Verdict::Keep => "",
            Verdict::Drop(reason) => reason.rule,
        }
    }

    /// Why these settings cannot be.
    pub fn refused<S: Settings>(settings: &str) -> String {
        let surroundings = Surroundings { directory: Path::new("."), seed: 0 };
        make::<S>(settings.parse().unwrap(), surroundings).err().expect("settings that are refused")
    }
}
