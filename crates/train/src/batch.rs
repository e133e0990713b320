//! Tokens that are computed together: documents one after the other, each of which sees itself alone.

use std::ops::Range;

/// The target of a position from which nothing is to be learnt.
pub const NO_TARGET: u32 = u32::MAX;

/// Documents one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Of all documents.
    pub tokens: Vec<u32>,
    /// The token that follows each, or `NO_TARGET`.
    pub targets: Vec<u32>,
    /// Where the documents are, without gaps; positions are counted from the start of each.
    pub documents: Vec<Range<usize>>,
}

impl Batch {
    /// One more document, whose every token but the first is a target.
    pub fn document(&mut self, tokens: &[u32]) {
        let start = self.tokens.len();
        self.tokens.extend(tokens);
        self.targets.extend(tokens.iter().skip(1));
        self.targets.resize(self.tokens.len(), NO_TARGET);
        self.documents.push(start..self.tokens.len());
    }

    /// Positions with a target.
    pub fn wanted(&self) -> usize {
        self.targets.iter().filter(|&&t| t != NO_TARGET).count()
    }

    /// Position of every token in its document.
    pub(crate) fn positions(&self) -> Vec<usize> {
        self.documents.iter().flat_map(|d| 0..d.len()).collect()
    }
}
