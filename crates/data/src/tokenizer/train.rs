//! Training of a tokenizer: byte-level BPE on a bounded sample of the documents, by DeepSeek's rules, the same file every time

use std::path::Path;

use ahash::AHashMap;
use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::encode::byte_characters;
use super::rules::{self, Digits};
use super::split::Splitter;
use super::twins::Words;
use crate::steps::marks::{self, MARKS};
use crate::{Document, Error, atomic};

/// Longest word that is learned from, in bytes; longer ones (long Chinese sentences, lines without spaces) are cut.
const WORD_BYTES_MAX: usize = 256;

/// Distinct words that are counted; others after them are not learned from.
const WORDS_MAX: usize = 1 << 22;

/// Most tokens of a vocabulary.
const VOCABULARY_MAX: usize = 1 << 20;

/// Largest sample that can be asked for.
const SAMPLE_BYTES_MAX: u64 = 1 << 30;

/// The trainer counts pairs of bytes in 31 bits.
const PAIRS_MAX: u64 = i32::MAX as u64;

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Tokens, special ones included.
    pub vocabulary_size: usize,
    /// What becomes of numbers.
    pub digits: Digits,
    /// Special tokens beside DeepSeek's for texts, turns and filling in.
    pub special_tokens: Vec<String>,
    /// Bytes of text that it is trained on, about.
    pub sample_bytes: u64,
    /// Least count of a pair that is merged.
    pub count_min: u64,
    /// The most frequent first pieces of words are tokens twice, with and without a space before them; other words have the space as a token of its own: see `twins`.
    pub twins: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            vocabulary_size: 4096,
            digits: Digits::Single,
            special_tokens: Vec::new(),
            sample_bytes: 256 << 20,
            count_min: 2,
            twins: false,
        }
    }
}

impl Settings {
    /// Whether the settings can be.
    ///
    /// # Errors
    /// In words: the setting that is out of range.
    pub fn check(&self) -> Result<(), String> {
        let least = 256 + self.all_special().len();
        if !(least..=VOCABULARY_MAX).contains(&self.vocabulary_size) {
            return Err(format!(
                "vocabulary_size is {}; 256 bytes and the special tokens are {least}, and {VOCABULARY_MAX} the most",
                self.vocabulary_size
            ));
        }
        if !(1..=SAMPLE_BYTES_MAX).contains(&self.sample_bytes) {
            return Err(format!("sample_bytes is {}; it goes from 1 to {SAMPLE_BYTES_MAX}", self.sample_bytes));
        }
        let all = self.all_special();
        for (i, token) in all.iter().enumerate() {
            if token.chars().count() < 2 || token.len() > 256 || token.chars().any(char::is_whitespace) {
                return Err(format!("special token {token:?}: two characters to 256 bytes, without white space"));
            }
            if all[..i].contains(token) {
                return Err(format!("special token {token:?} is there twice; DeepSeek's own need not be named"));
            }
        }
        Ok(())
    }

    fn all_special(&self) -> Vec<&str> {
        let own = [rules::BOS, rules::EOS, rules::PAD, rules::USER, rules::ASSISTANT];
        own.into_iter().chain(rules::FILL_IN_MIDDLE).chain(self.special_tokens.iter().map(String::as_str)).collect()
    }
}

/// Words of a sample with their counts. Memory: about 60 bytes a distinct word, and at most 4,194,304 of them.
pub struct WordCounts {
    splitter: Splitter,
    counts: AHashMap<CompactString, u64>,
    /// A document is in the sample if its hash is below this share of 2^64.
    share: f64,
    seed: u64,
    bytes: u64,
    ignored: u64,
}

impl WordCounts {
    /// Counts a sample of documents that have `bytes` of text in all.
    pub fn new(settings: &Settings, seed: u64, bytes: u64) -> WordCounts {
        let splitter = Splitter::new(&settings.digits.pre_tokenizer()).expect("its own rules");
        let share = settings.sample_bytes as f64 / bytes.max(1) as f64;
        WordCounts { splitter, counts: AHashMap::new(), share, seed, bytes: 0, ignored: 0 }
    }

    /// Counts the words of a document, if it is in the sample. Special tokens in it are not learned from.
    ///
    /// # Errors
    /// In words: marks that do not fit the text.
    pub fn add(&mut self, document: &Document) -> Result<(), String> {
        let hash = xxh3_64_with_seed(document.id.as_bytes(), self.seed);
        let text = document.text();
        // Chance may choose more than asked for, but not past the bound of the trainer's counters.
        if hash as f64 >= self.share * 2f64.powi(64) || self.bytes + text.len() as u64 > PAIRS_MAX {
            return Ok(());
        }
        let mut at = 0;
        for mark in marks::of(document, MARKS)? {
            self.count(&text[at..mark.start]);
            at = mark.end;
        }
        self.count(&text[at..]);
        Ok(())
    }

    fn count(&mut self, text: &str) {
        self.bytes += text.len() as u64;
        let WordCounts { splitter, counts, ignored, .. } = self;
        splitter.words(text, &mut |mut word| {
            while !word.is_empty() {
                let (piece, rest) = word.split_at(word.floor_char_boundary(WORD_BYTES_MAX));
                count(counts, ignored, piece, 1);
                word = rest;
            }
        });
    }

    /// Adds the counts of another sample. The order counts once there are too many distinct words.
    pub fn merge(&mut self, other: WordCounts) {
        self.bytes += other.bytes;
        self.ignored += other.ignored;
        let mut words: Vec<(CompactString, u64)> = other.counts.into_iter().collect();
        words.sort_unstable();
        for (word, n) in words {
            count(&mut self.counts, &mut self.ignored, &word, n);
        }
    }

    /// Trains a tokenizer.
    ///
    /// # Errors
    /// In words: a sample that does not give as many tokens as asked for.
    pub fn train(self, settings: &Settings) -> Result<Trained, String> {
        settings.check()?;
        if self.bytes > PAIRS_MAX {
            return Err(format!("the sample has {} bytes; at most {PAIRS_MAX}: make sample_bytes smaller", self.bytes));
        }
        let characters = byte_characters();
        let printable = |word: &str| word.bytes().map(|byte| characters[byte as usize]).collect::<CompactString>();
        let counts = self.counts.iter().map(|(word, &count)| (printable(word), count));
        let words = Words::new(counts, settings.twins.then_some(characters[usize::from(b' ')]));
        let special: Vec<AddedToken> =
            settings.all_special().iter().map(|token| AddedToken::from(*token, true).normalized(false)).collect();
        let trainer = BpeTrainer::builder()
            .vocab_size(settings.vocabulary_size)
            .min_frequency(settings.count_min)
            .show_progress(false)
            .special_tokens(special.clone())
            .initial_alphabet(characters.into_iter().collect())
            .build();
        let mut model = BPE::default();
        trainer.do_train(&words.bare, &mut model).map_err(|e| e.to_string())?;
        let tokens = tokenizers::Model::get_vocab_size(&model);
        if tokens != settings.vocabulary_size {
            return Err(format!(
                "the sample of {} bytes with {} distinct words gives {tokens} tokens; vocabulary_size {} needs more text, or make it smaller",
                self.bytes,
                self.counts.len(),
                settings.vocabulary_size
            ));
        }
        if let Some(space) = words.space {
            model = words.with_spaces(space, &model, special.len(), settings.count_min)?;
        }
        Ok(Trained::new(settings, &model, &special, self.bytes, self.counts.len(), self.ignored))
    }
}

fn count(counts: &mut AHashMap<CompactString, u64>, ignored: &mut u64, word: &str, n: u64) {
    if let Some(count) = counts.get_mut(word) {
        *count += n;
    } else if counts.len() < WORDS_MAX {
        counts.insert(word.into(), n);
    } else {
        *ignored += n;
    }
}

/// A trained tokenizer.
pub struct Trained {
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`.
    pub config: Value,
    /// Bytes of text that it was trained on.
    pub sample_bytes: u64,
    /// Distinct words in it.
    pub distinct_words: usize,
    /// Words that were not learned from, since there were too many distinct ones before them.
    pub ignored_words: u64,
}

impl Trained {
    fn new(
        settings: &Settings,
        model: &BPE,
        special: &[AddedToken],
        sample_bytes: u64,
        distinct_words: usize,
        ignored_words: u64,
    ) -> Trained {
        let added = |(id, token): (usize, &AddedToken)| {
            let AddedToken { content, single_word, lstrip, rstrip, normalized, special } = token;
            json!({
                "id": id, "content": content, "single_word": single_word, "lstrip": lstrip, "rstrip": rstrip,
                "normalized": normalized, "special": special,
            })
        };
        let bos = json!({"SpecialToken": {"id": rules::BOS, "type_id": 0}});
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": special.iter().enumerate().map(added).collect::<Vec<_>>(),
            "normalizer": null,
            "pre_tokenizer": settings.digits.pre_tokenizer(),
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [
                    bos, {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": rules::BOS, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}},
                ],
                "special_tokens": {rules::BOS: {"id": rules::BOS, "ids": [0], "tokens": [rules::BOS]}},
            },
            "decoder": byte_level,
            "model": model,
        });
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": rules::BOS,
            "eos_token": rules::EOS,
            "pad_token": rules::PAD,
            "add_bos_token": true,
            "clean_up_tokenization_spaces": false,
            "chat_template": rules::CHAT_TEMPLATE,
        });
        Trained { tokenizer: json_bytes(&tokenizer), config, sample_bytes, distinct_words, ignored_words }
    }

    /// Writes both files into a directory: `tokenizer.json` last, since it is the one that is looked for.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn write(&self, directory: &Path) -> Result<(), Error> {
        atomic::write(&directory.join("tokenizer_config.json"), &json_bytes(&self.config))?;
        atomic::write(&directory.join("tokenizer.json"), &self.tokenizer).map(drop)
    }
}

fn json_bytes(value: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("strings, numbers and lists are JSON");
    bytes.push(b'\n');
    bytes
}
