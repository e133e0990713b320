//! How well a tokenizer fits a corpus: tokens a word, bytes a token, characters that are spelled in bytes, and tokens that are never used

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Tokenizer;
use crate::Document;

/// Counts of the documents of one language or source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Documents.
    pub documents: u64,
    /// Bytes of text.
    pub bytes: u64,
    /// Words: runs of characters between white space.
    pub words: u64,
    /// Tokens of text; special ones are not counted.
    pub tokens: u64,
    /// Tokens that are a part of a character: what the vocabulary has no piece for is spelled in bytes.
    pub byte_tokens: u64,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.documents += other.documents;
        self.bytes += other.bytes;
        self.words += other.words;
        self.tokens += other.tokens;
        self.byte_tokens += other.byte_tokens;
    }

    /// Tokens a word.
    pub fn fertility(&self) -> f64 {
        self.tokens as f64 / self.words.max(1) as f64
    }

    /// Bytes a token.
    pub fn bytes_per_token(&self) -> f64 {
        self.bytes as f64 / self.tokens.max(1) as f64
    }

    /// Share of the tokens that are a part of a character.
    pub fn byte_share(&self) -> f64 {
        self.byte_tokens as f64 / self.tokens.max(1) as f64
    }
}

/// Counts by language, by source where a document has no label `language`, and of each token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fit {
    groups: BTreeMap<String, Counts>,
    used: Vec<u64>,
}

/// What a report says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Tokens that no document has, special ones and single bytes apart.
    pub unused: usize,
    /// By language or source.
    pub groups: BTreeMap<String, Figures>,
}

/// Figures of a language or source.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// What was counted.
    #[serde(flatten)]
    pub counts: Counts,
    /// Tokens a word.
    pub fertility: f64,
    /// Bytes a token.
    pub bytes_per_token: f64,
    /// Share of the tokens that are a part of a character.
    pub byte_share: f64,
}

impl Fit {
    /// Nothing counted yet.
    pub fn new(tokenizer: &Tokenizer) -> Fit {
        Fit { groups: BTreeMap::new(), used: vec![0; tokenizer.vocabulary()] }
    }

    /// Counts a document of this source and its tokens.
    pub fn count(&mut self, tokenizer: &Tokenizer, source: &str, document: &Document, tokens: &[u32]) {
        let mut counts = Counts { documents: 1, bytes: document.text().len() as u64, ..Counts::default() };
        counts.words = document.text().split_whitespace().count() as u64;
        for &token in tokens {
            self.used[token as usize] += 1;
            if !tokenizer.is_special(token) {
                counts.tokens += 1;
                counts.byte_tokens += u64::from(std::str::from_utf8(tokenizer.bytes(token)).is_err());
            }
        }
        let language = document.labels.get("language").and_then(|language| language.as_str());
        let name = language.unwrap_or(source);
        match self.groups.get_mut(name) {
            Some(group) => group.add(&counts),
            None => {
                self.groups.insert(name.to_owned(), counts);
            }
        }
    }

    /// Adds what was counted elsewhere with the same tokenizer.
    pub fn add(&mut self, other: &Fit) {
        for (name, counts) in &other.groups {
            self.groups.entry(name.clone()).or_default().add(counts);
        }
        for (used, more) in self.used.iter_mut().zip(&other.used) {
            *used += more;
        }
    }

    /// The figures.
    pub fn report(&self, tokenizer: &Tokenizer) -> Report {
        let text = |id: &u32| !tokenizer.is_special(*id) && tokenizer.bytes(*id).len() > 1;
        let unused = (0..self.used.len() as u32).filter(|id| self.used[*id as usize] == 0).filter(text).count();
        let figures = |counts: &Counts| Figures {
            counts: *counts,
            fertility: counts.fertility(),
            bytes_per_token: counts.bytes_per_token(),
            byte_share: counts.byte_share(),
        };
        let groups = self.groups.iter().map(|(name, counts)| (name.clone(), figures(counts))).collect();
        Report { vocabulary: self.used.len(), unused, groups }
    }
}
