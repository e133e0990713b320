//! Questions on a program, answered from its own manual: the paragraphs that a model answers from, and the commands that it may name
//!
//! It is given a manual and a question, and gives text; the model is the caller's.

use data::generators::help::{context, paragraphs};
use data::generators::manual::Manual;

mod bm25;
mod commands;
mod guide;
mod topic;

use bm25::{Bm25, Hit};
pub use commands::{Commands, Named};
pub use guide::Guides;

/// Paragraphs before a question, at most: as many as records of the generator have.
pub const PARAGRAPHS: usize = 3;

/// The manual of a program, to be searched.
pub struct HelpIndex {
    paragraphs: Vec<String>,
    index: Bm25,
    /// `farthing`.
    program: String,
}

impl HelpIndex {
    /// Takes a manual apart.
    pub fn new(manual: &Manual) -> HelpIndex {
        let paragraphs = paragraphs(manual);
        let name = manual.commands.first().and_then(|command| command.name.split(' ').next());
        HelpIndex {
            index: Bm25::new(paragraphs.iter().map(String::as_str)),
            paragraphs,
            program: name.unwrap_or_default().to_owned(),
        }
    }

    fn best(&self, question: &str) -> Vec<Hit> {
        let mut hits = self.index.search(question);
        hits.truncate(PARAGRAPHS);
        hits
    }

    /// The paragraphs that fit a question best, best first.
    pub fn search(&self, question: &str) -> Vec<&str> {
        self.best(question).into_iter().map(|hit| self.paragraphs[hit.text].as_str()).collect()
    }

    /// The message before a message that a model answers from the manual: the paragraphs that fit best, or the first of the manual where none fits.
    /// None where the message is no question on the program, nor one of the kind that the model declines when it gets paragraphs that do not answer it.
    pub fn context(&self, message: &str) -> Option<String> {
        let hits = self.best(message);
        if !topic::is_about(&self.program, message, &hits) && !topic::is_plain_question(message) {
            return None;
        }
        let found: Vec<&str> = hits.iter().map(|hit| self.paragraphs[hit.text].as_str()).collect();
        Some(context(if found.is_empty() {
            self.paragraphs.iter().take(1).map(String::as_str).collect()
        } else {
            found
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part of the help of Farthing.
    pub fn manual() -> Manual {
        serde_json::from_str(include_str!("../../data/tests/data/manual.json")).unwrap()
    }

    #[test]
    fn questions_get_the_paragraphs_that_fit() {
        let index = HelpIndex::new(&manual());
        let context = index.context("How do I set the port of farthing serve?").unwrap();
        let lines: Vec<&str> = context.lines().collect();
        assert_eq!(lines[..2], ["Help:", "- farthing serve --port PORT: Port (0 = any free one)."]);
        assert_eq!(lines.len(), 1 + PARAGRAPHS);
        let found = index.search("I want to download a model.");
        assert!(found.iter().any(|text| text.starts_with("farthing pull: Download a model")), "{found:?}");
        // The same each time, as where scores are equal the earlier paragraph is first.
        assert_eq!(context, HelpIndex::new(&manual()).context("How do I set the port of farthing serve?").unwrap());
    }

    #[test]
    fn questions_on_the_world_get_paragraphs_that_do_not_answer_them() {
        let index = HelpIndex::new(&manual());
        assert!(index.search("Who painted the Mona Lisa?").is_empty());
        let context = index.context("Who painted the Mona Lisa?").unwrap();
        assert_eq!(context.lines().count(), 2, "{context}");
        assert_eq!(index.context("Tell me a story about a fox named Mira who lost her red hat."), None);
        assert_eq!(HelpIndex::new(&Manual::default()).context("Why?").as_deref(), Some("Help:"));
    }
}
