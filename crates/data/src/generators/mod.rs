//! Text of our own, with properties that can be checked: generators by the names that recipes give them

use rand_pcg::Pcg64;
use serde_json::{Map, Value};

pub mod about;
pub mod common_words;
pub mod conversation;
pub mod copies;
pub mod english;
pub mod formats;
pub mod frames;
pub mod grammar;
pub mod help;
pub mod json_records;
pub mod manual;
pub mod names;
pub mod questions;
pub mod shares;
pub mod split;
pub mod story;
pub mod sums;
#[cfg(test)]
mod tests;
pub mod word_problems;
pub mod working;

use manual::Manual;

/// A text with what is true of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The text, as a model reads it.
    pub text: String,
    /// What can be checked: names, objects, answers; `frame` is the form it was made from, by which training and held-out sets are told apart.
    pub labels: Map<String, Value>,
}

/// Makes documents, each from a random generator of its own: the same seed and number give the same document everywhere.
pub trait Generator: Send + Sync {
    /// One document. `held_out`: from the frames, names and numbers that training never sees.
    fn generate(&self, random: &mut Pcg64, held_out: bool) -> Generated;
}

/// A generator that recipes can name.
pub struct Kind {
    /// Its name in a recipe.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Makes it from its settings, and from the manual of the program that runs.
    ///
    /// # Errors
    /// In words: a setting that is not known or cannot be.
    pub make: fn(toml::Table, &Manual) -> Result<Box<dyn Generator>, String>,
}

/// All generators, in the order in which help lists them.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "sums",
        help: "sums, differences and products, plain or worked out, as lines or in conversations",
        make: sums::make,
    },
    Kind {
        name: "word_problems",
        help: "word problems of one step or two, with or without working",
        make: word_problems::make,
    },
    Kind {
        name: "questions",
        help: "questions on a passage, whose answer is a span of it or is not there",
        make: questions::make,
    },
    Kind {
        name: "stories",
        help: "short stories to order, with plot, persons, things and places as labels",
        make: story::make,
    },
    Kind {
        name: "json",
        help: "JSON to a small schema: requests in words, by a schema or with the values given",
        make: json_records::make,
    },
    Kind {
        name: "formats",
        help: "tasks of form: lists of so many items, capitals, one word, yes or no, sorting, counting, repeating, tables",
        make: formats::make,
    },
    Kind {
        name: "copies",
        help: "copying to the letter: lists and pairs repeated, looked up, changed, as JSON",
        make: copies::make,
    },
    Kind {
        name: "about",
        help: "short conversations of a small model about itself, with honest limits, and small talk",
        make: about::make,
    },
    Kind {
        name: "help",
        help: "questions on the program's own commands and documents, with the paragraphs that answer them, or none that does",
        make: help::make,
    },
];
