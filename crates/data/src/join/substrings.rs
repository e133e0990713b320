//! `substring_dedup`: passages that occur before are cut out, wherever they begin
//!
//! Passages are found by winnowing (Schleimer, Wilkerson, Aiken 2003): of each `window` consecutive substrings of `k` bytes the one with the least
//! hash leaves a record, where `k = bytes_min - window + 1`. A record whose substring occurs earlier in the corpus has its bytes cut. So
//!
//! - a passage of `bytes_min` bytes or more that occurs earlier, in the same document by `window` bytes or more, is always found: each of its windows is
//!   also a window there, and the same hash is the least;
//! - at each of its two ends at most `window - 1` bytes stay, and of a word or character that a cut would go through the rest;
//! - nothing in it stays between, since records are at most `window` bytes apart and `window <= k`;
//! - nothing is cut that is no part of an earlier passage of at least `k` bytes (but for collisions of 128-bit hashes). From `k` to `bytes_min` bytes they
//!   may be found or not;
//! - where a text repeats itself with a shorter period than `window`, as in rows of hyphens, the first `bytes_min` bytes stay and the last `window - 1`.
//!
//! The text that is left has each passage once, where it is first in the order of the recipe. About `2 / (window + 1)` records a byte are sorted on disk;
//! equal hashes one after the other leave one record a window, so that a text of one character only has few ("robust winnowing", section 5.1 there).

use std::collections::VecDeque;
use std::num::Wrapping;
use std::ops::Range;

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_128;

use super::{Decision, Join, LostShare, Record, repeats};
use crate::steps::{Made, Settings, Surroundings};
use crate::{Document, Error, Verdict};

/// Settings of `substring_dedup`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Substrings {
    /// Passages of so many bytes are always found: 200, about the 50 tokens of Lee et al. 2022 ("Deduplicating training data makes language models better").
    bytes_min: usize,
    /// Substrings of which one leaves a record: smaller ones cut closer to the ends of a passage, and take more disk. At most half of `bytes_min`.
    window: usize,
    /// A document that loses a greater share of its bytes is dropped, with the first occurrences in it; so is one that loses all. 1: only that.
    lost_share_max: f64,
}

impl Default for Substrings {
    fn default() -> Substrings {
        Substrings { bytes_min: 200, window: 50, lost_share_max: 1.0 }
    }
}

const BYTES_MIN_MAX: usize = 1 << 20;

/// Bytes from an end of a passage in which a word is to begin: longer words are cut through, and texts without spaces.
const WORD_BYTES_MAX: usize = 32;

impl Settings for Substrings {
    fn make(self, _surroundings: Surroundings) -> Result<Made, String> {
        if !(2..=BYTES_MIN_MAX).contains(&self.bytes_min) {
            return Err(format!("bytes_min = {}; from 2 to {BYTES_MIN_MAX} can be", self.bytes_min));
        }
        if !(1..=self.bytes_min.div_ceil(2)).contains(&self.window) {
            let half = self.bytes_min.div_ceil(2);
            return Err(format!("window = {}; from 1 to {half}, half of bytes_min, can be", self.window));
        }
        self.lost().check()?;
        Ok(Made::Joined(Box::new(self)))
    }
}

impl Substrings {
    /// Bytes of a substring.
    fn k(&self) -> usize {
        self.bytes_min - self.window + 1
    }

    fn lost(&self) -> LostShare {
        LostShare { max: self.lost_share_max, rule: "substring_dedup.lost_share_max" }
    }

    /// Where the substrings begin that leave a record.
    fn each_selected(&self, bytes: &[u8], mut each: impl FnMut(usize)) {
        let mut least = VecDeque::with_capacity(self.window + 1);
        let mut selected: Option<(usize, u64)> = None;
        for (at, hash) in rolling_hashes(bytes, self.k()).enumerate() {
            // Ascending hashes: what is not less than a later one is never the least again.
            while least.back().is_some_and(|&(_, other)| other >= hash) {
                least.pop_back();
            }
            least.push_back((at, hash));
            let Some(begin) = (at + 1).checked_sub(self.window) else { continue };
            while least[0].0 < begin {
                least.pop_front();
            }
            if !selected.is_some_and(|(at, hash)| at >= begin && hash == least[0].1) {
                selected = Some(least[0]);
                each(least[0].0);
            }
        }
    }
}

/// A hash of the `k` bytes from each position: a polynomial of the bytes modulo 2^64 (Karp, Rabin 1987), mixed so that its order is that of none of them.
fn rolling_hashes(bytes: &[u8], k: usize) -> impl Iterator<Item = u64> {
    const BASE: Wrapping<u64> = Wrapping(0x9e37_79b9_7f4a_7c15);
    let value = |byte: u8| Wrapping(u64::from(byte) + 1);
    let oldest = (0..k).fold(Wrapping(1), |power, _| power * BASE);
    let mut hash = Wrapping(0);
    bytes.iter().enumerate().filter_map(move |(at, &byte)| {
        hash = hash * BASE + value(byte);
        if at >= k {
            hash -= oldest * value(bytes[at - k]);
        }
        let mixed = (hash ^ (hash >> 32)) * Wrapping(0xbf58_476d_1ce4_e5b9);
        (at + 1 >= k).then_some((mixed ^ (mixed >> 29)).0)
    })
}

/// The range that is cut for bytes that occur before: from where a word begins to where one begins, if any do near the two ends, else whole characters.
fn at_words(text: &str, range: Range<usize>) -> Range<usize> {
    let (start, end) = (text.ceil_char_boundary(range.start), text.floor_char_boundary(range.end));
    if start >= end {
        return start..start;
    }
    let is_word_start = |&at: &usize| {
        text.is_char_boundary(at) && (at == 0 || at == text.len() || text[..at].ends_with(char::is_whitespace))
    };
    let start = (start..end.min(start + WORD_BYTES_MAX)).find(is_word_start).unwrap_or(start);
    let end = (start.max(end.saturating_sub(WORD_BYTES_MAX))..=end).rev().find(is_word_start).unwrap_or(end);
    start..end
}

impl Join for Substrings {
    fn describe(&self) -> Vec<String> {
        let (k, window, bytes_min) = (self.k(), self.window, self.bytes_min);
        vec![
            format!(
                "repeated passages: every one of {bytes_min} bytes or more is found, none below {k}; up to {} bytes at its ends stay",
                window - 1
            ),
            format!("about {:.3} records of 28 bytes on disk for each byte of text", 2.0 / (window + 1) as f64),
        ]
    }

    fn records(&self, document: &mut Document, records: &mut Vec<(u128, u32)>) {
        let bytes = document.text().as_bytes();
        self.each_selected(bytes, |at| records.push((xxh3_128(&bytes[at..at + self.k()]), at as u32)));
    }

    fn decide(
        &self,
        records: &mut dyn Iterator<Item = Result<Record, Error>>,
        _documents: &[u32],
        decide: &mut dyn FnMut(Decision) -> Result<(), Error>,
    ) -> Result<(), Error> {
        repeats(records).try_for_each(|repeat| {
            let (first, other) = repeat?;
            decide(Decision { place: other.place, position: other.position, kept: first.place })
        })
    }

    fn apply(&self, document: &mut Document, decisions: &[Decision]) -> Verdict {
        let mut repeated: Vec<Range<usize>> = Vec::new();
        for decision in decisions {
            // Decisions come from a file, and could be about another text.
            let start = (decision.position as usize).min(document.text().len());
            let end = (start + self.k()).min(document.text().len());
            match repeated.last_mut() {
                Some(last) if last.end >= start => last.end = end,
                _ => repeated.push(start..end),
            }
        }
        for range in &mut repeated {
            *range = at_words(document.text(), range.clone());
        }
        self.lost().cut(document, repeated.into_iter())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn selected(settings: &Substrings, text: &str) -> Vec<usize> {
        let mut selected = Vec::new();
        settings.each_selected(text.as_bytes(), |at| selected.push(at));
        selected
    }

    proptest! {
        /// The plain definition: hashes from nothing, and a look at the whole window each time.
        #[test]
        fn selection_is_robust_winnowing(text in "[ab]{0,80}", bytes_min in 2usize..12, window in 1usize..6) {
            let settings = Substrings { bytes_min: bytes_min.max(2 * window - 1), window, lost_share_max: 1.0 };
            let k = settings.k();
            let base = 0x9e37_79b9_7f4a_7c15u64;
            let hash = |substring: &[u8]| {
                let hash = substring.iter().fold(0u64, |hash, &byte| hash.wrapping_mul(base).wrapping_add(u64::from(byte) + 1));
                let mixed = (hash ^ (hash >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed ^ (mixed >> 29)
            };
            let hashes: Vec<u64> = text.as_bytes().windows(k).map(hash).collect();
            let mut expected: Vec<usize> = Vec::new();
            for (begin, hashes_of) in hashes.windows(window).enumerate() {
                let least = *hashes_of.iter().min().unwrap();
                if expected.last().is_some_and(|&last| last >= begin && hashes[last] == least) {
                    continue;
                }
                expected.push(begin + hashes_of.iter().rposition(|&hash| hash == least).unwrap());
            }
            prop_assert_eq!(selected(&settings, &text), expected);
        }
    }

    #[test]
    fn one_character_leaves_one_record_a_window() {
        let settings = Substrings::default();
        assert_eq!(selected(&settings, &"-".repeat(10_000)).len(), (10_000 - 200) / 50 + 1);
        assert!(selected(&settings, &"-".repeat(199)).is_empty());
        assert_eq!(selected(&settings, &"-".repeat(200)).len(), 1);
    }

    #[test]
    fn density_is_as_published() {
        let settings = Substrings::default();
        let text: String = (0..40_000u64).map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        let density = selected(&settings, &text).len() as f64 / text.len() as f64;
        assert!((density * 51.0 / 2.0 - 1.0).abs() < 0.03, "{density}");
    }

    #[test]
    fn cuts_lie_at_words_or_else_at_characters() {
        let cut = |text: &str, range| text[at_words(text, range)].to_string();
        assert_eq!(cut("some words in a row", 2..14), "words in ");
        assert_eq!(cut("some words in a row", 5..19), "words in a row");
        assert_eq!(cut("some words in a row", 0..7), "some ");
        assert_eq!(cut("some words in a row", 2..13), "words ");
        assert_eq!(cut("some words in a row", 6..9), "ord");
        let chinese = "\u{6211}".repeat(40);
        assert_eq!(cut(&chinese, 1..119), "\u{6211}".repeat(38));
        assert_eq!(cut(&chinese, 4..5), "");
        assert_eq!(cut("\u{1f600}\u{1f600}", 1..3), "");
        assert_eq!(cut(&"x".repeat(100), 10..90), "x".repeat(80));
    }
}
