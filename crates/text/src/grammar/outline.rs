//! What of a model decides how much work a constraint is: enough to compile constraints elsewhere, only to see whether they compile.

use serde::{Deserialize, Serialize};

use super::{Constraint, GrammarError, Grammars};
use crate::TextError;

/// A model's vocabulary without its words: ids of markers and of ends of text. Words are single bytes, which spell every text.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outline {
    pub(super) vocab: u32,
    pub(super) eos: Vec<u32>,
    pub(super) markers: Vec<(String, u32)>,
}

/// A constraint to be tried, with the marker after which it begins.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// The model's.
    pub outline: Outline,
    /// See `Grammars::compile_after`.
    pub marker: Option<String>,
    /// What is compiled.
    pub constraint: Constraint,
}

impl Trial {
    /// Compile it, for the error. This may take any time and memory: run it where both are bounded.
    ///
    /// # Errors
    /// As `Grammars::compile`, except for what depends on the words of the vocabulary.
    pub fn run(&self) -> Result<(), GrammarError> {
        let grammars = self.outline.grammars().map_err(|e| GrammarError::Fault(e.to_string()))?;
        grammars.compile_after(self.marker.as_deref(), &self.constraint).map(drop)
    }
}

impl Outline {
    fn grammars(&self) -> Result<Grammars, TextError> {
        let mut words = vec![Vec::new(); self.vocab as usize];
        let marked = self.markers.iter().map(|(name, id)| (name.clone(), *id));
        let ends = self.eos.iter().map(|id| (format!("[{id}]"), *id));
        for (name, id) in marked.chain(ends) {
            if let Some(word) = words.get_mut(id as usize) {
                *word = Grammars::special(name.as_bytes());
            }
        }
        words.extend((0..=254).map(|byte| vec![byte]));
        Grammars::of_words(words, &self.eos, self.markers.clone())
    }
}
