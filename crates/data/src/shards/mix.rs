//! Mixing: how often each document of each source is trained on, and its place in the order of all documents, cut into shards
//!
//! A source of E epochs fills the order from 0 to 1 with its documents E times over: epoch e lies between e / E and (e + 1) / E, and inside it a
//! document's place is the hash of seed, id and epoch. So all sources have the same share everywhere, and no document comes twice before the others
//! of its source came once. Of the last, partial epoch a hash chooses the documents. Shard s of S has the places from s / S to (s + 1) / S, so that
//! each shard is made alone, from any machine, with the same bytes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use super::run;
use crate::Error;

/// Epochs are counted in units of 1 / `EPOCH`.
const EPOCH: u64 = 1 << 32;

/// Epochs that can be asked for.
const EPOCHS_LIMIT: f64 = 1000.0;

/// Which documents are held out depends on their ids alone: the same whatever the recipe's seed.
const HELD_OUT_SEED: u64 = 0x6865_6c64_206f_7574;

/// How much of a source goes into training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// Each document so many times; 0.3 takes three of ten.
    Epochs(f64),
    /// This share of all tokens, relative to the weights of the other sources.
    Weight(f64),
}

/// Settings of mixing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Tokens of all sources together, where they have weights.
    pub tokens: Option<u64>,
    /// Most epochs that a weight may come to. Four cost almost nothing against new text (Muennighoff et al. 2023, arXiv 2305.16264).
    pub epochs_max: f64,
    /// Share of the documents that are held out from training, beside those that generators hold out.
    pub held_out: f64,
    /// Tokens in a shard, about.
    pub shard_tokens: u64,
    /// Whether each shard has a second one beside it that says of which tokens a loss is taken.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub masks: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { tokens: None, epochs_max: 4.0, held_out: 0.0, shard_tokens: 1 << 26, masks: false }
    }
}

impl Settings {
    /// Whether the settings can be.
    ///
    /// # Errors
    /// In words: the setting that is out of range.
    pub fn check(&self) -> Result<(), String> {
        if !(0.0..=0.5).contains(&self.held_out) {
            return Err(format!("held_out is {}; it goes from 0 to 0.5", self.held_out));
        }
        if !(self.epochs_max > 0.0 && self.epochs_max <= EPOCHS_LIMIT) {
            return Err(format!("epochs_max is {}; it is above 0 and at most {EPOCHS_LIMIT}", self.epochs_max));
        }
        // Fewer make files of a few documents, more a list of documents that does not fit into memory.
        if !(1 << 10..=1 << 30).contains(&self.shard_tokens) {
            return Err(format!("shard_tokens is {}; it goes from 1024 to {}", self.shard_tokens, 1 << 30));
        }
        Ok(())
    }
}

/// Training, or held out from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// What a model is trained on.
    Train,
    /// What it never sees.
    HeldOut,
}

impl Split {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::HeldOut => "held_out",
        }
    }
}

/// Documents and tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Documents.
    pub documents: u64,
    /// Tokens.
    pub tokens: u64,
}

/// A source, tokenized and counted.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name in the recipe.
    pub name: String,
    /// How much of it goes into training.
    pub share: Share,
    /// Its token runs, in the order of its parts.
    runs: Vec<PathBuf>,
    /// What is there for training.
    pub train: Volume,
    /// What is held out.
    pub held_out: Volume,
    tokenizer: Option<[u8; 32]>,
    identity: [u8; 32],
}

impl Source {
    /// Counts what the token runs of a source have for training and what is held out.
    ///
    /// # Errors
    /// Runs that are missing, damaged or of different tokenizers.
    pub fn measure(name: &str, share: Share, runs: Vec<PathBuf>, settings: &Settings) -> Result<Source, Error> {
        let (mut train, mut held_out) = (Volume::default(), Volume::default());
        let (mut tokenizer, mut identity) = (None, blake3::Hasher::new());
        for path in &runs {
            let run = run::Reader::open(path)?;
            let expected = *tokenizer.get_or_insert(run.tokenizer());
            if run.tokenizer() != expected {
                let problem = "it is of another tokenizer than the runs before it; remove it, and the same command makes it again";
                return Err(Error::file(path, problem));
            }
            identity.update(&run.identity());
            run.scan(|entry| {
                let volume = match split_of(&entry, settings.held_out) {
                    Split::Train => &mut train,
                    Split::HeldOut => &mut held_out,
                };
                volume.documents += 1;
                volume.tokens += u64::from(entry.tokens);
                Ok(())
            })?;
        }
        let identity = *identity.finalize().as_bytes();
        Ok(Source { name: name.to_owned(), share, runs, train, held_out, tokenizer, identity })
    }
}

fn split_of(entry: &run::Entry, share: f64) -> Split {
    let hash = xxh3_64_with_seed(&entry.id.to_le_bytes(), HELD_OUT_SEED);
    // 53 bits: a number from 0 to 1 that f64 has exactly.
    let chosen = ((hash >> 11) as f64) < share * (1u64 << 53) as f64;
    if entry.held_out || chosen { Split::HeldOut } else { Split::Train }
}

/// A source in a mix.
#[derive(Clone, Debug)]
pub struct Mixed {
    /// The source.
    pub source: Source,
    /// Epochs, in units of 1 / 2^32.
    epochs: u64,
}

impl Mixed {
    /// How often each document is trained on, on average.
    pub fn epochs(&self) -> f64 {
        self.epochs as f64 / EPOCH as f64
    }

    /// Tokens for training, about: a partial epoch is chosen by hash.
    pub fn tokens(&self) -> u64 {
        (u128::from(self.source.train.tokens) * u128::from(self.epochs) / u128::from(EPOCH)) as u64
    }
}

/// What becomes of every document: enough to make any shard.
#[derive(Clone, Debug)]
pub struct Plan {
    sources: Vec<Mixed>,
    settings: Settings,
    seed: u64,
    vocabulary: usize,
    /// Shards of training and of what is held out.
    shards: [usize; 2],
    tokenizer: [u8; 32],
}

impl Plan {
    /// Plans a mix of tokens of a vocabulary of this size.
    ///
    /// # Errors
    /// In words: a mix that cannot be, with what would do.
    pub fn new(sources: Vec<Source>, settings: &Settings, seed: u64, vocabulary: usize) -> Result<Plan, String> {
        settings.check()?;
        let mut tokenizers: Vec<[u8; 32]> = sources.iter().filter_map(|source| source.tokenizer).collect();
        tokenizers.dedup();
        let tokenizer = match tokenizers[..] {
            [] => return Err("nothing is left to mix: no source has a document".into()),
            [one] => one,
            _ => return Err("the sources were tokenized with different tokenizers".into()),
        };
        let epochs = epochs(&sources, settings)?;
        let sources: Vec<Mixed> =
            sources.into_iter().zip(epochs).map(|(source, epochs)| Mixed { source, epochs }).collect();
        let total = |tokens: &dyn Fn(&Mixed) -> u64| sources.iter().map(tokens).sum::<u64>();
        let (train, held_out) = (total(&Mixed::tokens), total(&|mixed| mixed.source.held_out.tokens));
        if train == 0 {
            return Err("nothing is left to train on: no source has a token in training".into());
        }
        let shards = [train, held_out].map(|tokens| tokens.div_ceil(settings.shard_tokens) as usize);
        Ok(Plan { sources, settings: settings.clone(), seed, vocabulary, shards, tokenizer })
    }

    /// The sources with their epochs.
    pub fn sources(&self) -> &[Mixed] {
        &self.sources
    }

    /// The recipe's seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Tokens in the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// blake3 of the tokenizer's file.
    pub fn tokenizer(&self) -> [u8; 32] {
        self.tokenizer
    }

    /// All shards, those of training first.
    pub fn shards(&self) -> impl Iterator<Item = Shard> {
        [Split::Train, Split::HeldOut]
            .into_iter()
            .flat_map(|split| (0..self.shards[split as usize]).map(move |number| Shard { split, number }))
    }

    /// Whether shards have masks.
    pub fn masks(&self) -> bool {
        self.settings.masks
    }

    /// A hash of all that the shards follow from.
    pub fn identity(&self) -> blake3::Hash {
        let mut hash = blake3::Hasher::new();
        let settings = serde_json::to_vec(&self.settings).expect("settings are JSON");
        hash.update(&settings).update(&self.seed.to_le_bytes()).update(&(self.vocabulary as u64).to_le_bytes());
        for mixed in &self.sources {
            hash.update(&mixed.source.identity).update(&mixed.epochs.to_le_bytes());
        }
        hash.finalize()
    }

    /// Token runs, numbered through all sources.
    pub(super) fn runs(&self) -> impl Iterator<Item = (&Mixed, &PathBuf)> {
        self.sources.iter().flat_map(|mixed| mixed.source.runs.iter().map(move |run| (mixed, run)))
    }

    /// The places of a document of a source: shard, and place in the order.
    pub(super) fn places(&self, mixed: &Mixed, entry: &run::Entry) -> impl Iterator<Item = (Shard, u64)> {
        let split = split_of(entry, self.settings.held_out);
        let epochs = match split {
            Split::Train => mixed.epochs,
            Split::HeldOut => EPOCH,
        };
        let (seed, id, shards) = (self.seed, entry.id, self.shards[split as usize]);
        (0..epochs.div_ceil(EPOCH)).filter_map(move |epoch| {
            let place = place(seed, id, epoch, epochs)?;
            let number = ((u128::from(place) * shards as u128) >> 64) as usize;
            Some((Shard { split, number }, place))
        })
    }
}

/// The place of a document in the order, from 0 to 2^64; none if it is not chosen for a partial epoch.
fn place(seed: u64, id: u64, epoch: u64, epochs: u64) -> Option<u64> {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&id.to_le_bytes());
    key[8..].copy_from_slice(&epoch.to_le_bytes());
    let hash = xxh3_128_with_seed(&key, seed);
    let (within, chosen) = (hash as u64, (hash >> 96) as u64);
    let start = epoch * EPOCH;
    let width = (epochs - start).min(EPOCH);
    // 32 bits against a width in units of 1 / 2^32.
    let numerator = (u128::from(start) << 64) + u128::from(within) * u128::from(width);
    (chosen < width).then(|| (numerator / u128::from(epochs)) as u64)
}

/// Epochs of each source, in units of 1 / 2^32.
fn epochs(sources: &[Source], settings: &Settings) -> Result<Vec<u64>, String> {
    let weights: Vec<f64> =
        sources.iter().filter_map(|s| if let Share::Weight(w) = s.share { Some(w) } else { None }).collect();
    if weights.is_empty() {
        if let Some(tokens) = settings.tokens {
            return Err(format!("tokens is {tokens}, but no source has a weight; give weights, or leave out tokens"));
        }
        return sources.iter().map(fixed).collect();
    }
    if let Some(source) = sources.iter().find(|source| matches!(source.share, Share::Epochs(_))) {
        return Err(format!(
            "source {} has epochs where others have a weight; give every source a weight, or none",
            source.name
        ));
    }
    let tokens = settings
        .tokens
        .ok_or("sources have weights, but there is no total; set tokens, the tokens of all sources together")?;
    if tokens == 0 {
        return Err("tokens is 0".into());
    }
    let sum: f64 = weights.iter().sum();
    if weights.iter().any(|weight| !weight.is_finite() || *weight <= 0.0) || !sum.is_finite() {
        return Err(format!("weights are {weights:?}; each is above 0"));
    }
    let needed: Vec<f64> = sources
        .iter()
        .zip(&weights)
        .map(|(source, weight)| tokens as f64 * (weight / sum) / source.train.tokens as f64)
        .collect();
    if let Some(source) = sources.iter().find(|source| source.train.tokens == 0) {
        return Err(format!("source {} has a weight, but no tokens for training; leave it out", source.name));
    }
    let worst = (0..sources.len()).max_by(|&a, &b| needed[a].total_cmp(&needed[b])).expect("a source with a weight");
    if needed[worst] > settings.epochs_max {
        let (source, need) = (&sources[worst], needed[worst]);
        let possible = (tokens as f64 * settings.epochs_max / need) as u64;
        return Err(format!(
            "source {} has {} tokens; weight {} of {} tokens needs {need:.1} epochs, more than epochs_max {}: {} tokens would do, or epochs_max {}",
            source.name,
            in_words(source.train.tokens),
            weights[worst] / sum,
            in_words(tokens),
            settings.epochs_max,
            in_words(possible),
            (need * 10.0).ceil() / 10.0,
        ));
    }
    Ok(needed.into_iter().map(|epochs| ((epochs * EPOCH as f64).round() as u64).max(1)).collect())
}

fn fixed(source: &Source) -> Result<u64, String> {
    match source.share {
        Share::Epochs(epochs) if epochs > 0.0 && epochs <= EPOCHS_LIMIT => {
            Ok(((epochs * EPOCH as f64).round() as u64).max(1))
        }
        Share::Epochs(epochs) | Share::Weight(epochs) => {
            Err(format!("source {} has {epochs} epochs; they are above 0 and at most {EPOCHS_LIMIT}", source.name))
        }
    }
}

/// A count as people say it: 1.2 M.
fn in_words(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..1_000_000 => format!("{:.1} k", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", count as f64 / 1e6),
        _ => format!("{:.1} G", count as f64 / 1e9),
    }
}

/// What the name of a mask has behind that of its shard.
pub const MASK_ENDING: &str = "-mask";

/// One shard of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shard {
    /// Training or held out.
    pub split: Split,
    /// Number in it, from 0.
    pub number: usize,
}

impl Shard {
    /// Its name, before `.bin` and `.idx`.
    pub fn name(self) -> String {
        format!("{}-{:05}", self.split.name(), self.number)
    }

    /// The name of its mask, before `.bin` and `.idx`.
    pub fn mask_name(self) -> String {
        format!("{}{MASK_ENDING}", self.name())
    }
}
