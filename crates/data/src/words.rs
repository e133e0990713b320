//! Words of a text, the units that quality rules count and near-duplicates are compared by

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// Words and punctuation marks by Unicode's default word boundaries (UAX #29), without white space: byte ranges in order.
pub fn split(text: &str) -> Vec<Range<u32>> {
    text.split_word_bound_indices()
        .filter(|(_, word)| !word.chars().all(char::is_whitespace))
        .map(|(start, word)| start as u32..(start + word.len()) as u32)
        .collect()
}
