//! Tokens in two forms, with a space before and without, so that a word has the same tokens wherever it stands
//!
//! Merges are learned from words without their space, and merges of a space with what may begin a word come behind all of these. Otherwise most tokens hold a space, a word in quotation marks or
//! at the start of a text falls into other pieces than in a sentence, and to copy it a model has to know how its tokens are spelled.

use std::cmp::Reverse;

use ahash::AHashMap;
use compact_str::CompactString;
use serde_json::{Value, json};
use tokenizers::Model;
use tokenizers::models::bpe::BPE;

/// Shares of the merges, in eighths, of which that is taken with which the sample has the fewest tokens; the others are of spaces.
const EIGHTHS: std::ops::RangeInclusive<usize> = 3..=7;

/// How a vocabulary may be divided.
struct Choice {
    /// Of the sample.
    tokens: u64,
    /// Merges that are kept.
    kept: usize,
    /// What the others put a space before.
    spaced: Vec<String>,
}

/// Words of a sample in printable characters, with their counts.
pub(super) struct Words {
    space: char,
    /// All, without the space that some have before them.
    pub bare: AHashMap<CompactString, u64>,
    /// Those that have one, without it.
    spaced: Vec<(CompactString, u64)>,
}

impl Words {
    /// `space` is the printable character of that byte.
    pub fn new(words: impl Iterator<Item = (CompactString, u64)>, space: char) -> Words {
        let (mut bare, mut spaced) = (AHashMap::<CompactString, u64>::new(), Vec::new());
        for (word, count) in words {
            match word.strip_prefix(space).filter(|rest| !rest.is_empty() && !rest.starts_with(space)) {
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
    pub fn with_spaces(&self, trained: &BPE, special: usize, count_min: u64) -> Result<BPE, String> {
        let json = serde_json::to_value(trained).map_err(|e| e.to_string())?;
        let merges = json["merges"].as_array().cloned().unwrap_or_default();
        let mut choices = Vec::new();
        for kept in EIGHTHS.map(|eighths| merges.len() * eighths / 8) {
            choices.extend(self.choice(&json, (&merges[..kept], merges.len() - kept), count_min)?);
        }
        let Choice { kept, spaced, .. } = choices.into_iter().min_by_key(|choice| choice.tokens).ok_or_else(|| {
            format!("too few words stand behind a space for {} tokens of them: make vocabulary_size smaller, or leave twins away", merges.len() / 8)
        })?;
        let base = 256 + special;
        let (mut vocabulary, mut all) = (kept_vocabulary(&json, base + kept), merges[..kept].to_vec());
        for (i, piece) in spaced.into_iter().enumerate() {
            vocabulary[format!("{}{piece}", self.space)] = (base + kept + i).into();
            all.push(json!([self.space.to_string(), piece]));
        }
        model(&json, vocabulary, all)
    }

    /// These merges and so many of spaces; `None` where there are not as many that are worth it.
    fn choice(
        &self,
        json: &Value,
        (merges, spaces): (&[Value], usize),
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
        let mut first: Vec<(String, u64)> = first.into_iter().filter(|(_, count)| *count >= count_min).collect();
        first.sort_unstable_by(|(a, n), (b, m)| (Reverse(n), a).cmp(&(Reverse(m), b)));
        if first.len() < spaces {
            return Ok(None);
        }
        first.truncate(spaces);
        tokens -= first.iter().map(|(_, count)| count).sum::<u64>();
        let spaced = first.into_iter().map(|(piece, _)| piece).collect();
        Ok(Some(Choice { tokens, kept: merges.len(), spaced }))
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
