//! Questions on a program, answered from its own manual: the paragraphs that a model answers from, and the commands that it may name
//!
//! It is given a manual and a question, and gives text; the model is the caller's.

use data::generators::help::{context, paragraphs};
use data::generators::manual::Manual;

mod bm25;
mod commands;
mod guide;

use bm25::{Bm25, Hit};
pub use commands::{Commands, Named};
pub use guide::Guides;

/// Paragraphs before a question, at most: as many as records of the generator have.
pub const PARAGRAPHS: usize = 3;

/// Least coverage of the best paragraph at which a question is taken to be about the program.
const COVERAGE_MIN: f64 = 0.6;

/// Most words of a question that is answered from the manual, or declined because the manual does not have it.
const WORDS_MAX: usize = 30;

/// The manual of a program, to be searched.
pub struct HelpIndex {
    paragraphs: Vec<String>,
    index: Bm25,
    program: String,
}

/// What a message is taken to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// A question about the program.
    Program,
    /// A question about the world, which the manual does not answer.
    World,
    /// Anything else: a request, a sum, talk with the model.
    Other,
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

    /// The paragraphs that fit a question best, best first.
    pub fn search(&self, question: &str) -> Vec<&str> {
        let hits = self.index.search(question);
        hits.iter().take(PARAGRAPHS).map(|hit| self.paragraphs[hit.text].as_str()).collect()
    }

    /// What a message is about.
    pub fn topic(&self, message: &str) -> Topic {
        let best = self.index.search(message).into_iter().take(PARAGRAPHS);
        let coverage = best.map(|hit: Hit| hit.coverage).fold(0.0, f64::max);
        let words = message.split_whitespace().count();
        if words > WORDS_MAX || message.contains('\n') {
            return Topic::Other;
        }
        let named = bm25::words(message).contains(&self.program) || message.contains(" --");
        if named || coverage >= COVERAGE_MIN { Topic::Program } else { Topic::Other }
    }

    /// The message before a question that a model answers from the manual: the paragraphs that fit best. None where the message is no such question.
    pub fn context(&self, message: &str) -> Option<String> {
        (self.topic(message) != Topic::Other).then(|| context(self.search(message)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part of the help of Farthing.
    pub fn manual() -> Manual {
        serde_json::from_str(include_str!("../../data/tests/data/manual.json")).unwrap()
    }
}
