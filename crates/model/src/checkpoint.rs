//! A checkpoint on disk: a Hugging Face directory or a GGUF file. Opening reads headers only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use crate::error::CheckpointError;
use crate::families;
use crate::families::gguf::{GgufKeys, structure};
pub use crate::families::purpose::{Embedding, Pooling, Purpose, RERANK_INSTRUCTION, Ranking};
use crate::gguf::{self, FILES_MAX, Metadata};
use crate::settings::*;
use crate::structure::{Head, Structure};
pub use crate::tensors::Kind;
use crate::tensors::{self, Depth, FETCH, Stored, Tensors};
use crate::weights::{self, Weights};

/// Where the tokenizer is.
#[derive(Clone, Debug)]
pub enum TokenizerSource {
    /// `tokenizer.json` of a Hugging Face directory.
    HuggingFace {
        /// The file.
        tokenizer: PathBuf,
        /// `tokenizer_config.json`, where there is one.
        config: Option<PathBuf>,
        /// `chat_template.jinja`, where there is one.
        template: Option<PathBuf>,
    },
    /// The `tokenizer.*` keys of a GGUF file.
    Gguf(BTreeMap<String, gguf::Value>),
    /// The checkpoint has none.
    None,
}

/// What the checkpoint says of generation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generation {
    /// Ids that end a text.
    pub eos: Vec<u32>,
    /// Id that starts one.
    pub bos: Option<u32>,
    /// Sampling temperature.
    pub temperature: Option<f32>,
    /// Nucleus.
    pub top_p: Option<f32>,
    /// Candidates.
    pub top_k: Option<usize>,
    /// Repetition penalty.
    pub repetition_penalty: Option<f32>,
}

impl Generation {
    /// Whether the model's files say how to sample.
    pub fn advises_sampling(&self) -> bool {
        let numbers = [self.temperature, self.top_p, self.repetition_penalty];
        self.top_k.is_some() || numbers.iter().any(Option::is_some)
    }
}

/// An opened checkpoint.
pub struct Checkpoint {
    /// Path as given.
    pub path: PathBuf,
    /// Kind.
    pub kind: Kind,
    /// Structure of the model.
    pub structure: Structure,
    /// Where the tokenizer is.
    pub tokenizer: TokenizerSource,
    /// Generation defaults.
    pub generation: Generation,
    /// Stored tensors.
    pub tensors: Tensors,
    /// Multi-token-prediction layers that are there and skipped.
    pub skipped_layers: usize,
    /// What the model is for.
    pub purpose: Purpose,
}

impl Checkpoint {
    /// Open a directory or a GGUF file: headers and configuration only.
    ///
    /// # Errors
    /// Anything that is not a whole, supported, consistent checkpoint.
    pub fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
        let about = std::fs::metadata(path).map_err(|e| CheckpointError::read(path, e))?;
        if about.is_dir() { open_directory(path) } else { open_gguf(path) }
    }

    /// A checkpoint from the parts of a Hugging Face directory that are already read.
    ///
    /// # Errors
    /// A configuration that is unsupported or contradicts itself.
    pub fn of_parts(
        path: &Path,
        config: &serde_json::Value,
        mut tensors: Tensors,
    ) -> Result<Checkpoint, CheckpointError> {
        let (structure, skipped_layers) = families::from_config(path, config)?;
        tensors.name_as_with_a_head();
        let mut generation = Generation::default();
        take_generation(path, &mut generation, config)?;
        known_ids(path, &generation, structure.vocab)?;
        let (path, tokenizer) = (path.to_path_buf(), TokenizerSource::None);
        Ok(Checkpoint {
            path,
            kind: Kind::Safetensors,
            structure,
            tokenizer,
            generation,
            tensors,
            skipped_layers,
            purpose: Purpose::Generate,
        })
    }

    /// A checkpoint from what `read` gave for each of its files: the first one's metadata, and the tensors of all.
    ///
    /// # Errors
    /// An architecture that is not supported, keys that contradict each other.
    pub fn of_gguf(path: &Path, metadata: Metadata, tensors: Tensors) -> Result<Checkpoint, CheckpointError> {
        let keys = GgufKeys::whole(&metadata);
        let announced = count_or(&keys, "split.count", 0, FILES_MAX)?;
        if announced > 1 && announced != tensors.files.len() {
            let what = format!(
                "split.count is {announced}, but the name says {}; keep the names NAME-00001-of-0000N.gguf",
                tensors.files.len()
            );
            return Err(CheckpointError::damaged(path, what));
        }
        let (structure, skipped_layers, purpose) = structure(&metadata, &tensors)?;
        let mut eos = Vec::new();
        for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            eos.extend(keys.token_id(&format!("tokenizer.ggml.{key}"))?);
        }
        eos.dedup();
        let bos = keys.token_id("tokenizer.ggml.bos_token_id")?;
        let generation = Generation { eos, bos, ..Generation::default() };
        known_ids(path, &generation, structure.vocab)?;
        let keys: BTreeMap<_, _> = metadata.values.into_iter().filter(|(k, _)| k.starts_with("tokenizer.")).collect();
        let tokenizer = if keys.contains_key("tokenizer.ggml.tokens") {
            TokenizerSource::Gguf(keys)
        } else {
            TokenizerSource::None
        };
        Ok(Checkpoint {
            path: path.to_path_buf(),
            kind: Kind::Gguf,
            structure,
            tokenizer,
            generation,
            tensors,
            skipped_layers,
            purpose,
        })
    }

    /// Views of all weights. Vectors are widened; matrices stay where they are.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape, of an unsupported type, or of no use to the structure.
    pub fn weights(&self) -> Result<Weights, CheckpointError> {
        weights::load(&self.structure, &self.tensors, self.kind, self.skipped_layers, Depth::Numbers)
    }

    /// Whether `weights` would find every tensor as it must be, told by headers alone.
    ///
    /// # Errors
    /// As `weights`, but for numbers that are none.
    pub fn complete(&self) -> Result<(), CheckpointError> {
        weights::load(&self.structure, &self.tensors, self.kind, self.skipped_layers, Depth::Headers).map(drop)
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.tensors.files.iter().map(|f| f.bytes().len() as u64).sum()
    }

    /// Bytes of tensors by how they are stored.
    pub fn bytes_by_format(&self) -> BTreeMap<String, (usize, u64)> {
        let mut sums: BTreeMap<String, (usize, u64)> = BTreeMap::new();
        for tensor in self.tensors.by_name.values() {
            let name = match &tensor.stored {
                Stored::As(format) => format.name().to_string(),
                Stored::Unknown(name) => name.clone(),
            };
            let sum = sums.entry(name).or_default();
            *sum = (sum.0 + 1, sum.1 + tensor.bytes as u64);
        }
        sums
    }
}

/// Open a GGUF file, with its siblings if it is split.
fn open_gguf(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let mut tensors = Tensors::default();
    let files = gguf::split_files(path)?.unwrap_or_else(|| vec![path.to_path_buf()]);
    let mut metadata = None;
    for file in &files {
        if file != path && !file.exists() {
            let what = format!(
                "a part of {} that is not there: all {} lie in one directory; {FETCH}",
                path.display(),
                files.len()
            );
            return Err(CheckpointError::damaged(file, what));
        }
        let read = gguf::read(file, &mut tensors)?;
        metadata.get_or_insert(read);
    }
    Checkpoint::of_gguf(path, metadata.expect("at least one file"), tensors)
}

fn open_directory(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let config_path = path.join("config.json");
    // A directory that may not be looked into is not one without a configuration.
    if let Some(e) = std::fs::metadata(&config_path).err().filter(|e| e.kind() != std::io::ErrorKind::NotFound) {
        return Err(CheckpointError::read(&config_path, e));
    }
    if !config_path.is_file() {
        let ggufs: Vec<String> = tensors::names_in(path).into_iter().filter(|name| name.ends_with(".gguf")).collect();
        let what = match &ggufs[..] {
            [] => "no config.json in it; MODEL is a Hugging Face directory or a GGUF file".to_string(),
            [one] => format!("a directory with a GGUF file, which is named itself: {}", path.join(one).display()),
            [first, ..] => {
                let first = path.join(first);
                format!("a directory with {} GGUF files: name one of them, such as {}", ggufs.len(), first.display())
            }
        };
        return Err(CheckpointError::damaged(path, what));
    }
    let object = |path: &Path| crate::settings::read_json(path, serde_json::Value::is_object, "a JSON object");
    let config = object(&config_path)?;
    // What is not supported is said before weights are looked for.
    families::from_config(&config_path, &config)?;
    let mut checkpoint = Checkpoint::of_parts(&config_path, &config, Tensors::of_directory(path)?)?;
    checkpoint.path = path.to_path_buf();
    checkpoint.purpose = families::purpose::of_directory(path, &checkpoint.structure)?;
    if matches!(checkpoint.purpose, Purpose::Embed(_)) {
        checkpoint.structure.head = Head::None;
    }
    let existing = |name: &str| Some(path.join(name)).filter(|p| p.is_file());
    if let Some(tokenizer) = existing("tokenizer.json") {
        checkpoint.tokenizer = TokenizerSource::HuggingFace {
            tokenizer,
            config: existing("tokenizer_config.json"),
            template: existing("chat_template.jinja"),
        };
    }
    if let Some(file) = existing("generation_config.json") {
        take_generation(&file, &mut checkpoint.generation, &object(&file)?)?;
        known_ids(&file, &checkpoint.generation, checkpoint.structure.vocab)?;
    }
    Ok(checkpoint)
}

/// The configuration of a Hugging Face directory.
///
/// # Errors
/// A file that is not there or no JSON object.
pub fn configuration(directory: &Path) -> Result<serde_json::Value, CheckpointError> {
    crate::settings::read_json(&directory.join("config.json"), serde_json::Value::is_object, "a JSON object")
}

/// Ids that a configuration names must be tokens.
fn known_ids(path: &Path, generation: &Generation, vocab: usize) -> Result<(), CheckpointError> {
    let named = generation
        .eos
        .iter()
        .map(|id| ("eos_token_id", id))
        .chain(generation.bos.iter().map(|id| ("bos_token_id", id)));
    for (key, &id) in named {
        if id as usize >= vocab {
            return Err(CheckpointError::Config {
                path: path.to_path_buf(),
                key: key.to_string(),
                value: id.to_string(),
                expected: format!("below the vocabulary of {vocab}"),
            });
        }
    }
    Ok(())
}

/// What a configuration says of generation, over what is known already. `null` says nothing.
fn take_generation(path: &Path, generation: &mut Generation, json: &serde_json::Value) -> Result<(), CheckpointError> {
    let c = Json { path, json };
    let id = |v: &serde_json::Value| v.as_u64().and_then(|v| u32::try_from(v).ok());
    match json.get("eos_token_id") {
        None | Some(serde_json::Value::Null) => {}
        Some(given) => {
            let ids = given.as_array().map_or(std::slice::from_ref(given), Vec::as_slice);
            let ids: Option<Vec<u32>> = ids.iter().map(id).collect();
            // Texts end where any of the files says so; the one that is read later is about generation, so its first id is the end.
            let mut ids = ids.ok_or_else(|| wrong(&c, "eos_token_id", "a token's id, or a list of them"))?;
            ids.retain(|id| !generation.eos.contains(id));
            generation.eos.splice(0..0, ids);
        }
    }
    if !c.absent("bos_token_id") {
        let bos = id(&json["bos_token_id"]).ok_or_else(|| wrong(&c, "bos_token_id", "a token's id"))?;
        generation.bos = Some(bos);
    }
    let number = |to: &mut Option<f32>, key: &str, sound: fn(f64) -> bool, expected: &str| {
        let value = number_or(&c, key, f64::NAN)?;
        if !c.absent(key) {
            *to = Some(value as f32).filter(|_| sound(value));
            to.ok_or_else(|| wrong(&c, key, expected))?;
        }
        Ok(())
    };
    number(&mut generation.temperature, "temperature", |v| v >= 0.0, "a number from 0 on")?;
    number(&mut generation.top_p, "top_p", |v| (0.0..=1.0).contains(&v), "a number from 0 to 1")?;
    number(&mut generation.repetition_penalty, "repetition_penalty", |v| v > 0.0, "a number above 0")?;
    // -1 is a common spelling of none.
    let mut top_k = None;
    number(&mut top_k, "top_k", |v| v.fract() == 0.0 && (-1.0..=1e9).contains(&v), "a whole number")?;
    generation.top_k = top_k.map(|k| k.max(0.0) as usize).or(generation.top_k);
    if !flag_or(&c, "do_sample", true)? {
        generation.temperature = Some(0.0);
    }
    Ok(())
}
