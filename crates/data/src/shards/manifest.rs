//! What shards are: shards.json, with the hash and the counts of every file, and the mix and tokenizer they come from

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::megatron::{self, TokenType, Written};
use super::mix::{MASK_ENDING, Plan, Shard, Split, Volume};
use crate::{Error, atomic};

/// The name of the file.
pub const FILE: &str = "shards.json";

const VERSION: u32 = 1;

/// Bytes of a description that is read.
const JSON_BYTES_MAX: u64 = 64 << 20;

/// A finished shard, in a file of its own beside it (`train-00000.json`): what is finished is not made again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its name, before `.bin` and `.idx`.
    pub name: String,
    /// Hash of the plan that it follows from.
    plan: String,
    /// Counts and hashes.
    #[serde(flatten)]
    pub written: Written,
    /// The same of its mask (`train-00000-mask.bin` and `.idx`): a byte for each token, 1 where a loss is taken of it and 0 elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<Written>,
}

impl Description {
    pub(super) fn new(plan: &Plan, shard: Shard, written: Written, mask: Option<Written>) -> Description {
        Description { name: shard.name(), plan: plan.identity().to_hex().to_string(), written, mask }
    }

    /// The name of its mask, before `.bin` and `.idx`.
    pub fn mask_name(&self) -> String {
        format!("{}{MASK_ENDING}", self.name)
    }

    pub(super) fn write(&self, directory: &Path) -> Result<(), Error> {
        let path = directory.join(format!("{}.json", self.name));
        atomic::write(&path, &json(self)).map(drop)
    }

    /// Whether the files of a shard hold what was written.
    pub(super) fn is_written(&self, directory: &Path) -> bool {
        self.hashes().iter().all(|(name, hash)| same(&directory.join(name), hash).is_ok())
    }

    /// Its files by name, with their blake3 in hexadecimal.
    fn hashes(&self) -> Vec<(String, String)> {
        let pair = |name: &str, written: &Written| {
            [(format!("{name}.bin"), written.bin_blake3.clone()), (format!("{name}.idx"), written.idx_blake3.clone())]
        };
        let mask = self.mask.iter().flat_map(|mask| pair(&self.mask_name(), mask));
        pair(&self.name, &self.written).into_iter().chain(mask).collect()
    }

    /// The description of a shard that this plan made; none if it is still to be made.
    pub(super) fn finished(plan: &Plan, shard: Shard, directory: &Path) -> Result<Option<Description>, Error> {
        let path = directory.join(format!("{}.json", shard.name()));
        match std::fs::exists(&path) {
            Ok(false) => return Ok(None),
            Ok(true) => {}
            Err(e) => return Err(Error::io(&path)(e)),
        }
        // One that is not as it was written is made again with its shard.
        let bytes = read_bytes(&path)?;
        let description: Option<Description> = serde_json::from_slice(&bytes).ok();
        Ok(description.filter(|description| json(description) == bytes).filter(|description| {
            let there = Shards::check(directory, description, TokenType::of_vocabulary(plan.vocabulary())).is_ok();
            description.plan == plan.identity().to_hex().as_str()
                && description.name == shard.name()
                && description.mask.is_some() == plan.masks()
                && there
        }))
    }
}

/// A source as it went into the mix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceShare {
    /// Its name.
    pub name: String,
    /// How often each document is trained on, on average.
    pub epochs: f64,
    /// What it has for training.
    pub train: Volume,
    /// What is held out of it.
    pub held_out: Volume,
}

/// Shards of a corpus: the contents of `shards.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shards {
    version: u32,
    /// blake3 of the recipe.
    pub recipe: String,
    /// blake3 of the tokenizer's file.
    pub tokenizer: String,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// How tokens are stored.
    pub token_type: TokenType,
    /// The seed of the order.
    pub seed: u64,
    /// The sources.
    pub sources: Vec<SourceShare>,
    /// Shards of each split, in order.
    pub splits: BTreeMap<Split, Vec<Description>>,
}

impl Shards {
    /// Writes `shards.json` once all shards of a plan are finished; says nothing if some are not. Any rank may do it: all write the same.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn collect(plan: &Plan, directory: &Path, recipe: blake3::Hash) -> Result<Option<Shards>, Error> {
        let mut splits: BTreeMap<Split, Vec<Description>> = BTreeMap::new();
        for shard in plan.shards() {
            let Some(description) = Description::finished(plan, shard, directory)? else {
                return Ok(None);
            };
            splits.entry(shard.split).or_default().push(description);
        }
        remove_others(plan, directory)?;
        let source = |mixed: &super::mix::Mixed| SourceShare {
            name: mixed.source.name.clone(),
            epochs: mixed.epochs(),
            train: mixed.source.train,
            held_out: mixed.source.held_out,
        };
        let shards = Shards {
            version: VERSION,
            recipe: recipe.to_hex().to_string(),
            tokenizer: blake3::Hash::from(plan.tokenizer()).to_hex().to_string(),
            vocabulary: plan.vocabulary(),
            token_type: TokenType::of_vocabulary(plan.vocabulary()),
            seed: plan.seed(),
            sources: plan.sources().iter().map(source).collect(),
            splits,
        };
        atomic::write(&directory.join(FILE), &json(&shards))?;
        Ok(Some(shards))
    }

    /// Opens the shards of a directory: every index is checked against its hash, and every file has the size it should have.
    ///
    /// # Errors
    /// What is missing, damaged or of another version.
    pub fn open(directory: &Path) -> Result<Shards, Error> {
        let path = directory.join(FILE);
        let shards: Shards = read(&path)?;
        if shards.version != VERSION {
            return Err(Error::file(path, format!("version {}; {VERSION} is read", shards.version)));
        }
        for description in shards.splits.values().flatten() {
            // The names come from a file: they stay in the directory.
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if description.name.is_empty() || !description.name.chars().all(plain) {
                return Err(Error::file(path, format!("{:?} is no name of a shard", description.name)));
            }
            Shards::check(directory, description, shards.token_type)?;
        }
        Ok(shards)
    }

    /// Checks the hash of every file.
    ///
    /// # Errors
    /// The first file that is not what was written.
    pub fn verify(&self, directory: &Path) -> Result<(), Error> {
        self.hashes().try_for_each(|(name, hash)| same(&directory.join(name), &hash))
    }

    /// Tokens, indices and masks of all shards by name, with their blake3 in hexadecimal.
    pub fn hashes(&self) -> impl Iterator<Item = (String, String)> {
        self.splits.values().flatten().flat_map(Description::hashes)
    }

    fn check(directory: &Path, description: &Description, token_type: TokenType) -> Result<(), Error> {
        let Description { written, mask, name, .. } = description;
        Shards::check_pair(&directory.join(name), written, token_type)?;
        let Some(mask) = mask else { return Ok(()) };
        if (mask.documents, mask.tokens) != (written.documents, written.tokens) {
            let (bin, _) = megatron::paths(&directory.join(description.mask_name()));
            let problem = format!(
                "a mask of {} tokens, its shard has {}; remove it with its .json, and the same command makes it again",
                mask.tokens, written.tokens
            );
            return Err(Error::file(bin, problem));
        }
        Shards::check_pair(&directory.join(description.mask_name()), mask, TokenType::Uint8)
    }

    fn check_pair(prefix: &Path, written: &Written, token_type: TokenType) -> Result<(), Error> {
        let Written { documents, tokens, idx_blake3, .. } = written;
        let (bin, index) = megatron::paths(prefix);
        same(&index, idx_blake3)?;
        let shard = megatron::Reader::open(prefix)?;
        let found = (shard.documents() as u64, shard.tokens(), shard.token_type());
        let bytes = std::fs::metadata(&bin).map_err(Error::io(&bin))?.len();
        if found != (*documents, *tokens, token_type) || bytes != tokens * token_type.bytes() as u64 {
            let problem = format!(
                "{bytes} bytes, {found:?}; the description says {documents} documents, {tokens} tokens, {token_type:?}"
            );
            return Err(Error::file(bin, problem));
        }
        Ok(())
    }
}

/// Removes the files of shards that the plan has not, such as those of a larger plan before it.
fn remove_others(plan: &Plan, directory: &Path) -> Result<(), Error> {
    let names = |shard: Shard| {
        let (name, mask) = (shard.name(), plan.masks().then(|| shard.mask_name()));
        [Some(format!("{name}.json")), Some(name), mask].into_iter().flatten()
    };
    let kept: BTreeSet<String> = plan.shards().flat_map(names).collect();
    for entry in std::fs::read_dir(directory).map_err(Error::io(directory))? {
        let path = entry.map_err(Error::io(directory))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let prefix = name.strip_suffix(".bin").or_else(|| name.strip_suffix(".idx")).unwrap_or(name);
        if is_of_shard(name) && !kept.contains(prefix) {
            std::fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

/// Whether this is a name that files of shards have.
fn is_of_shard(name: &str) -> bool {
    let Some((stem, "bin" | "idx" | "json")) = name.rsplit_once('.') else { return false };
    let number = [Split::Train, Split::HeldOut]
        .into_iter()
        .find_map(|split| stem.strip_prefix(split.name())?.strip_prefix('-'))
        .map(|number| number.strip_suffix(MASK_ENDING).unwrap_or(number));
    number.is_some_and(|number| number.len() >= 5 && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether a file has this blake3.
fn same(path: &Path, expected: &str) -> Result<(), Error> {
    let mut hash = blake3::Hasher::new();
    hash.update_reader(File::open(path).map_err(Error::io(path))?).map_err(Error::io(path))?;
    let found = hash.finalize().to_hex();
    if found.as_str() != expected {
        let problem = format!(
            "its blake3 is {found}, not {expected}; remove it with its .json, and the same command makes it again"
        );
        return Err(Error::file(path, problem));
    }
    Ok(())
}

fn json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("names, numbers and lists are JSON");
    bytes.push(b'\n');
    bytes
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    File::open(path).map_err(Error::io(path))?.take(JSON_BYTES_MAX).read_to_end(&mut bytes).map_err(Error::io(path))?;
    Ok(bytes)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    serde_json::from_slice(&read_bytes(path)?).map_err(|e| Error::file(path, e.to_string()))
}
