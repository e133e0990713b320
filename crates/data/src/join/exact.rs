//! `exact_dedup`: of documents with the same text the first is kept

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::pairs::{self, Pair, PairJoin};
use super::{Decision, Join, Record};
use crate::steps::{Made, Settings, Surroundings};
use crate::{Document, Error, Verdict};

/// What of a text counts when two are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalize {
    /// Every byte.
    #[default]
    None,
    /// White space counts as one space wherever there is any, and not at the two ends.
    Whitespace,
    /// Only letters and digits count, in lower case.
    Letters,
}

impl Normalize {
    /// What counts of a text: the text itself, or made in `buffer`.
    pub fn apply<'a>(self, text: &'a str, buffer: &'a mut String) -> &'a str {
        buffer.clear();
        match self {
            Normalize::None => return text,
            Normalize::Whitespace => {
                for word in text.split_whitespace() {
                    if !buffer.is_empty() {
                        buffer.push(' ');
                    }
                    buffer.push_str(word);
                }
            }
            Normalize::Letters => {
                for c in text.chars() {
                    if c.is_ascii() {
                        if c.is_ascii_alphanumeric() {
                            buffer.push(c.to_ascii_lowercase());
                        }
                    } else if c.is_alphanumeric() {
                        buffer.extend(c.to_lowercase());
                    }
                }
            }
        }
        buffer
    }
}

/// Settings of `exact_dedup`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exact {
    /// What counts: `none` (every byte), `whitespace` or `letters`.
    normalize: Normalize,
}

impl Settings for Exact {
    fn make(self, _surroundings: Surroundings) -> Result<Made, String> {
        Ok(Made::Joined(Box::new(self)))
    }
}

impl Join for Exact {
    fn describe(&self) -> Vec<String> {
        let counts = match self.normalize {
            Normalize::None => "every byte counts",
            Normalize::Whitespace => "how much white space there is does not count",
            Normalize::Letters => "only letters and digits count, in lower case",
        };
        vec![format!("exact duplicates: a hash of 128 bits a document; {counts}; the first is kept")]
    }

    fn records(&self, document: &mut Document, records: &mut Vec<(u128, u32)>) {
        // XXH3 of 128 bits: texts that differ share one with probability 2^-128.
        records.push((xxh3_128(self.normalize.apply(document.text(), &mut String::new()).as_bytes()), 0));
    }

    fn decide(
        &self,
        records: &mut dyn Iterator<Item = Result<Record, Error>>,
        documents: &[u32],
        decide: &mut dyn FnMut(Decision) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.decide_pairs(&mut pairs::of_records(records), documents, decide)
    }

    fn of_pairs(&self) -> Option<&dyn PairJoin> {
        Some(self)
    }

    fn apply(&self, _document: &mut Document, decisions: &[Decision]) -> Verdict {
        match decisions {
            [] => Verdict::Keep,
            _ => Verdict::drop("exact_dedup", "the same text as"),
        }
    }
}

impl PairJoin for Exact {
    fn decide_pairs(
        &self,
        pairs: &mut dyn Iterator<Item = Result<Pair, Error>>,
        _documents: &[u32],
        decide: &mut dyn FnMut(Decision) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // A document has one key, so that it is the other one of one pair at most.
        for pair in pairs {
            let Pair { first, other } = pair?;
            decide(Decision { place: other, position: 0, kept: first })?;
        }
        Ok(())
    }
}
