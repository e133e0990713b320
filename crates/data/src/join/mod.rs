//! Steps that compare each document with all others: what a document leaves is sorted and merged with what the others left, and decided in that order

use serde::{Deserialize, Serialize};

use crate::{Document, Error, Verdict};

/// A document by its place in the corpus as it comes to the step: part, then number in the part. The order is that of the recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Part, from 0.
    pub part: u32,
    /// Document in the part, from 0.
    pub document: u32,
}

/// What a document leaves to be compared. Records are merged in the order of their fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// What is equal in two documents that have something in common, such as a hash.
    pub key: u128,
    /// The document.
    pub place: Place,
    /// Where in the document: a line, a byte.
    pub position: u32,
}

/// What was decided about a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decision {
    /// The document.
    pub place: Place,
    /// Where in it.
    pub position: u32,
    /// The document it is compared with, which is kept.
    pub kept: Place,
}

/// A step over all documents.
pub trait Join: Send + Sync {
    /// Puts what this document leaves into `records`, as key and position.
    fn records(&self, document: &mut Document, records: &mut Vec<(u128, u32)>);

    /// Decides, from the records of all documents in their order. `documents[part]` is how many each part has. Decisions may come in any order.
    ///
    /// # Errors
    /// What reading and writing gives.
    fn decide(
        &self,
        records: &mut dyn Iterator<Item = Result<Record, Error>>,
        documents: &[u32],
        decide: &mut dyn FnMut(Decision) -> Result<(), Error>,
    ) -> Result<(), Error>;

    /// Applies what was decided about this document, in order of position.
    fn apply(&self, document: &mut Document, decisions: &[Decision]) -> Verdict;
}
