//! Tokens in two forms, with a space before and without, so that a word has the same tokens wherever it stands
//!
//! Merges are learned from words without their space, and merges of a space with what often begins a word come after all of these. Without twins most tokens begin with a space. A word behind a
//! quotation mark or at the start of a text then has other tokens than in a sentence, and a model that copies it has to know how tokens are spelled.

use std::cmp::Reverse;

use ahash::AHashMap;
use compact_str::CompactString;
use serde_json::{Value, json};
use tokenizers::Model;
use tokenizers::models::bpe::BPE;

/// Candidate shares, in eighths, of the merges that stay as they were learned; the rest become a space and a piece. The share that encodes the sample in the fewest tokens wins.
const EIGHTHS: std::ops::RangeInclusive<usize> = 3..=7;

/// How a vocabulary may be divided.
struct Choice {
    /// Of the sample.
    tokens: u64,
    /// Merges that are kept.
    kept: usize,
    /// First pieces of words that get a twin with a space.
    first: Vec<String>,
}

/// Words of a sample in printable characters, with their counts.
pub(super) struct Words {
    /// Which character stands for a space, where it is taken off.
    pub space: Option<char>,
    /// All, without the space that some have before them.
    pub bare: AHashMap<CompactString, u64>,
    /// Those that have one, without it.
    spaced: Vec<(CompactString, u64)>,
}

impl Words {
    /// `space` is the printable character of that byte; without it all words stay as they are.
    pub fn new(words: impl Iterator<Item = (CompactString, u64)>, space: Option<char>) -> Words {
        let (mut bare, mut spaced) = (AHashMap::<CompactString, u64>::new(), Vec::new());
        for (word, count) in words {
            let behind =
                |space: char| word.strip_prefix(space).filter(|rest| !rest.is_empty() && !rest.starts_with(space));
            match space.and_then(behind) {
                Some(rest) => {
                    *bare.entry(rest.into()).or_default() += count;
                    spaced.push((rest.into(), count));
                }
                None => *bare.entry(word).or_default() += count,
            }
        }
        spaced.sort_unstable();
        Words { space, bare, spaced }
    }

    /// A model with as many tokens as `trained`, which learned from the bare words: some of its merges, and spaces before what most often begins a word.
    ///
    /// # Errors
    /// In words: a sample with too few words.
    pub fn with_spaces(&self, space: char, trained: &BPE, special: usize, count_min: u64) -> Result<BPE, String> {
        let json = serde_json::to_value(trained).map_err(|e| e.to_string())?;
        let merges = json["merges"].as_array().cloned().unwrap_or_default();
        let (base, mut choices) = (256 + special, Vec::new());
        for kept in EIGHTHS.map(|eighths| merges.len() * eighths / 8) {
            choices.extend(self.choice(&json, (&merges[..kept], merges.len() - kept), (space, base), count_min)?);
        }
        let Choice { kept, first, .. } = choices.into_iter().min_by_key(|choice| choice.tokens).ok_or_else(|| {
            format!(
                "too few pieces of words stand behind a space for {} tokens: make vocabulary_size smaller, or leave twins away",
                merges.len() - merges.len() * EIGHTHS.end() / 8
            )
        })?;
        let (mut vocabulary, mut all) = (kept_vocabulary(&json, base + kept), merges[..kept].to_vec());
        for (i, piece) in first.into_iter().enumerate() {
            vocabulary[format!("{space}{piece}")] = (base + kept + i).into();
            all.push(json!([space.to_string(), piece]));
        }
        let model = model(&json, vocabulary, all)?;
        match model.get_vocab_size() == trained.get_vocab_size() {
            true => Ok(model),
            false => Err("two of its tokens are one text: leave twins away".to_string()),
        }
    }

    /// These merges and so many of spaces; `None` where there are not as many that are worth it.
    fn choice(
        &self,
        json: &Value,
        (merges, spaces): (&[Value], usize),
        (space, base): (char, usize),
        count_min: u64,
    ) -> Result<Option<Choice>, String> {
        let bpe = model(json, json["vocab"].clone(), merges.to_vec())?;
        let pieces = |word: &str| bpe.tokenize(word).map_err(|e| e.to_string());
        let mut tokens = 0;
        for (word, count) in &self.bare {
            tokens += count * pieces(word)?.len() as u64;
        }
        let mut first: AHashMap<String, u64> = AHashMap::new();
        for (word, count) in &self.spaced {
            // A space of its own, unless it is merged.
            tokens += count;
            let piece = pieces(word)?.swap_remove(0).value;
            *first.entry(piece).or_default() += count;
        }
        // Words that hold a space, as runs of white space do, may have taught the twin already.
        let known = |piece: &str| {
            let id = json["vocab"][format!("{space}{piece}")].as_u64();
            id.is_some_and(|id| (id as usize) < base + merges.len())
        };
        let worth = |(piece, count): &(String, u64)| *count >= count_min && !known(piece);
        let mut first: Vec<(String, u64)> = first.into_iter().filter(worth).collect();
        first.sort_unstable_by(|(a, n), (b, m)| (Reverse(n), a).cmp(&(Reverse(m), b)));
        if first.len() < spaces {
            return Ok(None);
        }
        first.truncate(spaces);
        tokens -= first.iter().map(|(_, count)| count).sum::<u64>();
        let first = first.into_iter().map(|(piece, _)| piece).collect();
        Ok(Some(Choice { tokens, kept: merges.len(), first }))
    }
}

/// The tokens with the first ids.
fn kept_vocabulary(json: &Value, tokens: usize) -> Value {
    let all = json["vocab"].as_object().into_iter().flatten();
    all.filter(|(_, id)| id.as_u64().is_some_and(|id| (id as usize) < tokens))
        .map(|(t, id)| (t.clone(), id.clone()))
        .collect()
}

fn model(json: &Value, vocabulary: Value, merges: Vec<Value>) -> Result<BPE, String> {
    let mut changed = json.clone();
    changed["vocab"] = vocabulary;
    changed["merges"] = merges.into();
    // Its reader takes only strings that lie in the text.
    serde_json::from_str(&changed.to_string()).map_err(|e| e.to_string())
}
