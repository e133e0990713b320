//! How varied a set of texts is, by two figures that depend on the size of the sample: texts are compared at the same number of words and bytes

use std::collections::HashSet;

/// Level at which zstd compresses.
const ZSTD_LEVEL: i32 = 19;

/// Share of word trigrams that differ in the first `words` words of the documents, in lower case; trigrams do not cross documents.
pub fn distinct_3(documents: &[String], words: usize) -> f64 {
    let mut seen = HashSet::new();
    let (mut all, mut words_left) = (0, words);
    for document in documents {
        let lower = document.to_lowercase();
        let words: Vec<&str> = lower
            .split(|c: char| !c.is_alphanumeric() && c != '\'')
            .filter(|word| !word.is_empty())
            .take(words_left)
            .collect();
        words_left -= words.len();
        for trigram in words.windows(3) {
            seen.insert(trigram.join(" "));
            all += 1;
        }
    }
    seen.len() as f64 / f64::from(all)
}

/// Bytes of the first `bytes` bytes of the documents, joined by empty lines, over those that zstd makes of them.
///
/// # Panics
/// If zstd cannot compress, which it always can in memory.
pub fn zstd_ratio(documents: &[String], bytes: usize) -> f64 {
    let mut text = documents.join("\n\n").into_bytes();
    text.truncate(bytes);
    text.len() as f64 / zstd::bulk::compress(&text, ZSTD_LEVEL).expect("zstd compresses in memory").len() as f64
}
