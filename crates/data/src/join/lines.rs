//! `line_dedup`: lines that occur more than some times in the corpus are cut out, such as menus, notices and signatures

use std::ops::Range;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::exact::Normalize;
use super::{Decision, Join, LostShare, Record};
use crate::steps::{Made, Settings, Surroundings};
use crate::{Document, Error, Verdict};

/// Which occurrences stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// The first one in the order of the recipe.
    First,
    /// None: what occurs so often is no text.
    None,
}

/// Settings of `line_dedup`. The defaults are those of Llama 3 (Dubey et al. 2024, section 3.1.1: lines that appear more than 6 times in a bucket of 30
/// million documents are removed), where there are any.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lines {
    /// A line that occurs more often is cut.
    occurrences_max: usize,
    /// Which occurrences of it stay: `first` or `none`.
    keep: Keep,
    /// What of a line counts: `none` (every byte), `whitespace` or `letters`.
    normalize: Normalize,
    /// Lines of fewer characters that count are never cut. Empty lines are none anyway.
    chars_min: usize,
    /// A document that loses a greater share of its bytes is dropped, with the first occurrences in it; so is one that loses all. 1: only that.
    lost_share_max: f64,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines {
            occurrences_max: 6,
            keep: Keep::None,
            normalize: Normalize::Whitespace,
            chars_min: 1,
            lost_share_max: 1.0,
        }
    }
}

/// The records of one key that are held until there are more: 32 MiB.
const OCCURRENCES_MAX: usize = 1 << 20;

impl Settings for Lines {
    fn make(self, _surroundings: Surroundings) -> Result<Made, String> {
        if !(1..=OCCURRENCES_MAX).contains(&self.occurrences_max) {
            return Err(format!("occurrences_max = {}; from 1 to {OCCURRENCES_MAX} can be", self.occurrences_max));
        }
        self.lost().check()?;
        Ok(Made::Joined(Box::new(self)))
    }
}

impl Lines {
    fn lost(&self) -> LostShare {
        LostShare { max: self.lost_share_max, rule: "line_dedup.lost_share_max" }
    }
}

/// Where each line is, its border included.
fn lines(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    text.split_inclusive('\n').map(move |line| {
        at += line.len();
        at - line.len()..at
    })
}

impl Join for Lines {
    fn describe(&self) -> Vec<String> {
        let stay = match self.keep {
            Keep::First => "all but the first occurrence",
            Keep::None => "all occurrences",
        };
        vec![format!("repeated lines: {stay} of a line that occurs more than {} times are cut", self.occurrences_max)]
    }

    fn records(&self, document: &mut Document, records: &mut Vec<(u128, u32)>) {
        let text = document.text();
        let mut buffer = String::new();
        for (number, line) in lines(text).enumerate() {
            let counts = self.normalize.apply(text[line].trim_end_matches(['\r', '\n']), &mut buffer);
            if !counts.trim().is_empty() && counts.chars().take(self.chars_min).count() == self.chars_min {
                records.push((xxh3_128(counts.as_bytes()), number as u32));
            }
        }
    }

    fn decide(
        &self,
        records: &mut dyn Iterator<Item = Result<Record, Error>>,
        _documents: &[u32],
        decide: &mut dyn FnMut(Decision) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut first: Option<Record> = None;
        // Later occurrences, as long as there are not too many.
        let mut held: Vec<Record> = Vec::new();
        let mut count = 0;
        for record in records {
            let record = record?;
            let Some(kept) = first.filter(|first| first.key == record.key) else {
                (first, count) = (Some(record), 1);
                held.clear();
                continue;
            };
            count += 1;
            held.push(record);
            if count <= self.occurrences_max {
                continue;
            }
            let first_too = Some(kept).filter(|_| self.keep == Keep::None && count == self.occurrences_max + 1);
            for Record { place, position, .. } in first_too.into_iter().chain(held.drain(..)) {
                decide(Decision { place, position, kept: kept.place })?;
            }
        }
        Ok(())
    }

    fn apply(&self, document: &mut Document, decisions: &[Decision]) -> Verdict {
        let mut numbers = decisions.iter().map(|decision| decision.position as usize).peekable();
        let all: Vec<Range<usize>> = lines(document.text())
            .enumerate()
            .filter(|(n, _)| numbers.next_if_eq(n).is_some())
            .map(|(_, r)| r)
            .collect();
        self.lost().cut(document, all.into_iter())
    }
}
