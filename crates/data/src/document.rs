//! A document on its way from a source to a shard: its text, its words, and what is known about it

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::words;

/// A document: text with an id, and labels beside it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Document {
    /// Where it came from, unique in a corpus: that of its record, or `source/file#number`.
    pub id: String,
    text: String,
    /// Fields of its record that the recipe keeps, and what generators and steps found out.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub labels: Map<String, Value>,
    /// Byte ranges of the words, once somebody asked for them.
    #[serde(skip)]
    words: Option<Vec<Range<u32>>>,
    #[serde(skip)]
    edits: u32,
}

/// Bytes of text in one document: more than any book, and positions fit 32 bits.
pub const TEXT_BYTES_MAX: usize = 1 << 30;

impl Document {
    /// A document without labels.
    ///
    /// # Panics
    /// If the text is longer than [`TEXT_BYTES_MAX`], which readers refuse.
    pub fn new(id: impl Into<String>, text: impl Into<String>) -> Document {
        let mut document = Document { id: id.into(), ..Document::default() };
        document.set_text(text.into());
        document
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Replaces the text.
    ///
    /// # Panics
    /// If it is longer than [`TEXT_BYTES_MAX`].
    pub fn set_text(&mut self, text: String) {
        assert!(text.len() <= TEXT_BYTES_MAX, "a document of {} bytes", text.len());
        self.text = text;
        self.words = None;
        self.edits += 1;
    }

    /// How often the text was set: another number after a step means that it changed the text.
    pub fn edits(&self) -> u32 {
        self.edits
    }

    /// Splits the text into words, unless that is done. After it [`Document::words`] has them.
    pub fn split_words(&mut self) {
        if self.words.is_none() {
            self.words = Some(words::split(&self.text));
        }
    }

    /// The words of the text, punctuation marks among them, white space not: see [`words::split`].
    ///
    /// # Panics
    /// Without [`Document::split_words`] after the last change of the text.
    pub fn words(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        let words = self.words.as_ref().expect("split_words comes first");
        words.iter().map(|range| &self.text[range.start as usize..range.end as usize])
    }
}
