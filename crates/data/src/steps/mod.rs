//! Steps by the names that recipes give them: a row each

use std::path::Path;

use crate::join::Join;
use crate::step::Step;

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

/// All steps, in the order in which help lists them.
pub const KINDS: &[Kind] = &[];
