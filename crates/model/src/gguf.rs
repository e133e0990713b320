//! GGUF v2 and v3, one file or split: metadata, tensor table, and its keys to `Structure`. Every count is checked before it is believed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernels::Format;

use crate::checkpoint::{self, Checkpoint, CheckpointError, Generation, Kind, TokenizerSource};
use crate::families::{self, Settings, count, count_or, positive_or};
use crate::mmap::Mapping;
use crate::rope::{Scaling, yarn_temperature};
use crate::structure::*;
use crate::tensors::{DIMENSION_MAX, Stored, Tensor, Tensors};

/// Limits that no sound file passes.
const KEYS_MAX: u64 = 1 << 16;
const TENSORS_MAX: u64 = 1 << 18;
/// Elements of all arrays together (a vocabulary of 256k tokens has some 1.5 million).
const ELEMENTS_MAX: u64 = 1 << 23;
/// Bytes before the tensors' data.
const HEADER_BYTES_MAX: usize = 256 << 20;
const NAME_BYTES_MAX: u64 = 1 << 12;
const ALIGNMENT_MAX: u64 = 1 << 20;
const FILES_MAX: usize = 4096;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the names are the types
pub enum Value {
    U64(u64),
    I64(i64),
    F64(f64),
    Bool(bool),
    Text(String),
    Integers(Vec<i64>),
    Floats(Vec<f32>),
    Bools(Vec<bool>),
    Texts(Vec<String>),
}

impl Value {
    /// As a number, where it is one.
    pub fn number(&self) -> Option<f64> {
        match *self {
            Value::U64(v) => Some(v as f64),
            Value::I64(v) => Some(v as f64),
            Value::F64(v) => Some(v),
            Value::Bool(v) => Some(v as u8 as f64),
            _ => None,
        }
    }

    /// As text, where it is one.
    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }
}

struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    elements: u64,
}

impl<'a> Reader<'a> {
    fn damaged(&self, what: impl Into<String>) -> CheckpointError {
        CheckpointError::Damaged { path: self.path.to_path_buf(), what: what.into() }
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], CheckpointError> {
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n)).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else {
            return Err(self.damaged(format!(
                "{n} bytes are announced at {}, but the file has {}; it may be cut off: fetch it again",
                self.at,
                self.bytes.len()
            )));
        };
        if end > HEADER_BYTES_MAX {
            return Err(self.damaged(format!("the header has more than {HEADER_BYTES_MAX} bytes")));
        }
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        Ok(self.take(N as u64)?.try_into().expect("taken as long"))
    }

    fn u32(&mut self) -> Result<u32, CheckpointError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, CheckpointError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Text; bytes that are not UTF-8 are replaced (vocabularies of some files hold such).
    fn text(&mut self) -> Result<String, CheckpointError> {
        let length = self.u64()?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn name(&mut self) -> Result<String, CheckpointError> {
        let length = self.u64()?;
        if length > NAME_BYTES_MAX {
            return Err(self.damaged(format!("a name of {length} bytes")));
        }
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn scalar(&mut self, kind: u32) -> Result<Value, CheckpointError> {
        Ok(match kind {
            0 => Value::U64(self.array::<1>()?[0] as u64),
            1 => Value::I64(self.array::<1>()?[0] as i8 as i64),
            2 => Value::U64(u16::from_le_bytes(self.array()?) as u64),
            3 => Value::I64(i16::from_le_bytes(self.array()?) as i64),
            4 => Value::U64(self.u32()? as u64),
            5 => Value::I64(i32::from_le_bytes(self.array()?) as i64),
            6 => Value::F64(f32::from_le_bytes(self.array()?) as f64),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(self.damaged(format!("metadata type {other}"))),
        })
    }

    fn value(&mut self, kind: u32) -> Result<Value, CheckpointError> {
        if kind != 9 {
            return self.scalar(kind);
        }
        let (kind, length) = (self.u32()?, self.u64()?);
        // Every element takes at least its smallest size, so a length that the file cannot hold is refused before anything is allocated.
        let least: u64 = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(self.damaged("an array of arrays")),
            other => return Err(self.damaged(format!("an array of metadata type {other}"))),
        };
        let left = (self.bytes.len() - self.at) as u64;
        if length.checked_mul(least).is_none_or(|bytes| bytes > left) {
            return Err(self.damaged(format!(
                "an array of {length} elements at {}, but {left} bytes are left; the file may be cut off",
                self.at
            )));
        }
        self.elements += length;
        if self.elements > ELEMENTS_MAX {
            return Err(self.damaged(format!("arrays of more than {ELEMENTS_MAX} elements")));
        }
        Ok(match kind {
            8 => Value::Texts((0..length).map(|_| self.text()).collect::<Result<_, _>>()?),
            7 => Value::Bools(self.take(length)?.iter().map(|&b| b != 0).collect()),
            6 | 12 => {
                let mut values = Vec::new();
                for _ in 0..length {
                    values.push(self.scalar(kind)?.number().unwrap_or(0.0) as f32);
                }
                Value::Floats(values)
            }
            _ => {
                let mut values = Vec::new();
                for _ in 0..length {
                    values.push(match self.scalar(kind)? {
                        Value::U64(v) => v as i64,
                        Value::I64(v) => v,
                        _ => 0,
                    });
                }
                Value::Integers(values)
            }
        })
    }
}

fn format_of(id: u32) -> Stored {
    use Format::*;
    let known = [
        (0, F32),
        (1, F16),
        (2, Q4_0),
        (3, Q4_1),
        (6, Q5_0),
        (7, Q5_1),
        (8, Q8_0),
        (10, Q2K),
        (11, Q3K),
        (12, Q4K),
        (13, Q5K),
        (14, Q6K),
        (20, Iq4Nl),
        (23, Iq4Xs),
        (30, Bf16),
        (39, Mxfp4),
    ];
    if let Some((_, format)) = known.iter().find(|(i, _)| *i == id) {
        return Stored::As(*format);
    }
    let name = match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        40 => "NVFP4",
        _ => return Stored::Unknown(format!("type {id}")),
    };
    Stored::Unknown(name.to_string())
}

/// Metadata of a GGUF file.
pub struct Metadata {
    path: PathBuf,
    /// All keys.
    pub values: BTreeMap<String, Value>,
    prefix: String,
}

/// Read one file: its metadata, and its tensors into `tensors`.
///
/// # Errors
/// A file that is cut off, or lies about itself.
pub fn read(path: &Path, tensors: &mut Tensors) -> Result<Metadata, CheckpointError> {
    read_mapped(&Arc::new(Mapping::open(path).map_err(|e| CheckpointError::read(path, e))?), tensors)
}

/// As `read`, of a file that is already mapped.
///
/// # Errors
/// As `read`.
pub fn read_mapped(mapping: &Arc<Mapping>, tensors: &mut Tensors) -> Result<Metadata, CheckpointError> {
    let path = mapping.path();
    let mut r = Reader { path, bytes: mapping.bytes(), at: 0, elements: 0 };
    if r.bytes.len() < 4 || &r.bytes[..4] != b"GGUF" {
        return Err(r.damaged("not a GGUF file (nor a Hugging Face directory)"));
    }
    r.at = 4;
    let version = r.u32()?;
    if version != 2 && version != 3 {
        let what = format!("GGUF version {version}; supported are 2 and 3 (little-endian)");
        return Err(CheckpointError::Unsupported { path: path.to_path_buf(), what });
    }
    let (tensor_count, key_count) = (r.u64()?, r.u64()?);
    if tensor_count > TENSORS_MAX || key_count > KEYS_MAX {
        return Err(r.damaged(format!("{tensor_count} tensors and {key_count} keys are announced")));
    }
    let mut values = BTreeMap::new();
    for _ in 0..key_count {
        let key = r.name()?;
        let kind = r.u32()?;
        let value = r.value(kind)?;
        if values.insert(key.clone(), value).is_some() {
            return Err(r.damaged(format!("key {key} is there twice")));
        }
    }
    let alignment = match values.get("general.alignment").map(Value::number) {
        None => 32,
        Some(Some(a)) if a >= 1.0 && a <= ALIGNMENT_MAX as f64 && (a as u64).is_power_of_two() => a as usize,
        Some(other) => return Err(r.damaged(format!("general.alignment is {other:?}; it must be a power of two"))),
    };
    let file = tensors.files.len();
    tensors.files.push(Arc::clone(mapping));
    let mut found = Vec::new();
    for _ in 0..tensor_count {
        let name = r.name()?;
        let dimensions = r.u32()?;
        if dimensions > 4 {
            return Err(r.damaged(format!("tensor {name} has {dimensions} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = usize::try_from(r.u64()?).unwrap_or(usize::MAX);
            if size > DIMENSION_MAX {
                return Err(r.damaged(format!("tensor {name} has a dimension of {size}")));
            }
            shape.insert(0, size);
        }
        let (stored, offset) = (format_of(r.u32()?), r.u64()?);
        found.push((name, stored, shape, offset));
    }
    let start = r.at.next_multiple_of(alignment);
    let mut ranges = Vec::new();
    for (name, stored, shape, offset) in found {
        let offset =
            usize::try_from(offset).ok().filter(|o| o.is_multiple_of(alignment)).and_then(|o| o.checked_add(start));
        let Some(offset) = offset else {
            return Err(r.damaged(format!("tensor {name} starts at an impossible place")));
        };
        let bytes = match &stored {
            Stored::As(format) => {
                let cols = shape.last().copied().unwrap_or(1);
                let rows = shape.iter().rev().skip(1).try_fold(1usize, |a, &b| a.checked_mul(b));
                let bytes = rows.and_then(|rows| format.row_bytes(cols)?.checked_mul(rows));
                bytes.ok_or_else(|| {
                    r.damaged(format!("tensor {name} of {} cannot have shape {shape:?}", format.name()))
                })?
            }
            Stored::Unknown(_) => 0,
        };
        ranges.push((offset, bytes, name.clone()));
        tensors.add(name, Tensor { stored, shape, file, offset, bytes })?;
    }
    ranges.sort();
    for pair in ranges.windows(2) {
        if pair[0].0.saturating_add(pair[0].1) > pair[1].0 {
            return Err(r.damaged(format!("tensors {} and {} overlap", pair[0].2, pair[1].2)));
        }
    }
    let architecture = values.get("general.architecture").and_then(Value::text).unwrap_or_default().to_string();
    Ok(Metadata { path: path.to_path_buf(), values, prefix: architecture })
}

/// The other files of a split: `NAME-00001-of-0000N.gguf`.
fn split_files(path: &Path) -> Result<Option<Vec<PathBuf>>, CheckpointError> {
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else { return Ok(None) };
    let Some(stem) = name.strip_suffix(".gguf") else { return Ok(None) };
    let parts: Vec<&str> = stem.rsplitn(4, '-').collect();
    let [total, "of", number, base] = parts[..] else { return Ok(None) };
    let (Ok(total), Ok(_)) = (total.parse::<usize>(), number.parse::<usize>()) else { return Ok(None) };
    if total == 0 || total > FILES_MAX {
        let what = format!("a split of {total} files");
        return Err(CheckpointError::Damaged { path: path.to_path_buf(), what });
    }
    let files = (1..=total).map(|i| path.with_file_name(format!("{base}-{i:05}-of-{total:05}.gguf"))).collect();
    Ok(Some(files))
}

/// Open a GGUF file, with its siblings if it is split.
pub(crate) fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let mut tensors = Tensors::default();
    let files = split_files(path)?.unwrap_or_else(|| vec![path.to_path_buf()]);
    let mut metadata = None;
    for file in &files {
        let read = read(file, &mut tensors)?;
        metadata.get_or_insert(read);
    }
    of_parts(path, metadata.expect("at least one file"), tensors)
}

/// A checkpoint from what `read` gave for each of its files: the first one's metadata, and the tensors of all.
///
/// # Errors
/// An architecture that is not supported, keys that contradict each other.
pub fn of_parts(path: &Path, metadata: Metadata, tensors: Tensors) -> Result<Checkpoint, CheckpointError> {
    if let Some(announced) = metadata.values.get("split.count").and_then(Value::number)
        && announced > 1.0
        && announced as usize != tensors.files.len()
    {
        let what = format!(
            "split.count is {announced}, but the name says {}; keep the names NAME-00001-of-0000N.gguf",
            tensors.files.len()
        );
        return Err(CheckpointError::Damaged { path: path.to_path_buf(), what });
    }
    let (structure, skipped_layers) = structure(&metadata, &tensors)?;
    let structure = families::consistent(path, structure)?;
    // Some files say -1 for none.
    let id = |key: &str| {
        metadata
            .values
            .get(key)
            .and_then(Value::number)
            .filter(|&v| v >= 0.0)
            .map(|v| v as u32)
            .filter(|&v| v != u32::MAX)
    };
    let mut eos: Vec<u32> = ["eos_token_id", "eot_token_id", "eom_token_id"]
        .iter()
        .filter_map(|k| id(&format!("tokenizer.ggml.{k}")))
        .collect();
    eos.dedup();
    let generation = Generation { eos, bos: id("tokenizer.ggml.bos_token_id"), ..Generation::default() };
    checkpoint::known_ids(path, &generation, structure.vocab)?;
    let keys: BTreeMap<_, _> = metadata.values.into_iter().filter(|(k, _)| k.starts_with("tokenizer.")).collect();
    let tokenizer =
        if keys.contains_key("tokenizer.ggml.tokens") { TokenizerSource::Gguf(keys) } else { TokenizerSource::None };
    Ok(Checkpoint {
        path: path.to_path_buf(),
        kind: Kind::Gguf,
        structure,
        tokenizer,
        generation,
        tensors,
        skipped_layers,
    })
}

impl Settings for Metadata {
    fn path(&self) -> &Path {
        &self.path
    }
    fn number(&self, key: &str) -> Option<f64> {
        self.values.get(&format!("{}.{key}", self.prefix)).and_then(Value::number)
    }
    fn shown(&self, key: &str) -> String {
        match self.values.get(&format!("{}.{key}", self.prefix)) {
            None => "absent".to_string(),
            Some(value) => value.number().map_or_else(|| "not a number".to_string(), |v| v.to_string()),
        }
    }
}

const KNOWN: &str = "llama, qwen2, qwen3, qwen3moe, deepseek2";

fn structure(m: &Metadata, tensors: &Tensors) -> Result<(Structure, usize), CheckpointError> {
    let (width, head_max) = (families::width_max(), families::head_dim_max());
    let unsupported = |what: String| CheckpointError::Unsupported { path: m.path.clone(), what };
    let arch = m.prefix.as_str();
    if !["llama", "qwen2", "qwen3", "qwen3moe", "deepseek2"].contains(&arch) {
        return Err(unsupported(format!("GGUF architecture {arch:?}; supported are {KNOWN}")));
    }
    let Some(embedding) = tensors.by_name.get("token_embd.weight") else {
        return Err(CheckpointError::Missing { path: m.path.clone(), tensor: "token_embd.weight".to_string() });
    };
    let vocab = embedding.shape.first().copied().unwrap_or(0);
    let s = families::sizes(m, ["block_count", "embedding_length", "context_length"], vocab)?;
    let skipped = count_or(m, "nextn_predict_layers", 0, s.layers)?;
    let layers = s.layers - skipped;
    let heads = count(m, "attention.head_count", 1, width)?;
    let experts = count_or(m, "expert_count", 0, 1 << 14)?;
    let theta = positive_or(m, "rope.freq_base", 10_000.0)?;
    let scaling = scaling(m, tensors, s.context)?;
    let latent = arch == "deepseek2";
    let (head_dim, rope_dim) = if latent {
        (0, count_or(m, "rope.dimension_count", 64, head_max)?)
    } else {
        let default = if s.hidden.is_multiple_of(heads) { s.hidden / heads } else { 0 };
        let head = count_or(m, "attention.key_length", default, head_max)?;
        (head, count_or(m, "rope.dimension_count", head, head_max)?)
    };
    let rope_sound = rope_dim >= 2 && rope_dim.is_multiple_of(2);
    if !rope_sound || (!latent && head_dim != rope_dim) {
        return Err(unsupported(format!("{rope_dim} rotated of {head_dim} channels")));
    }
    if let Scaling::Factors(factors) = &scaling
        && (factors.len() != rope_dim / 2 || factors.iter().any(|f| !f.is_finite() || *f <= 0.0))
    {
        return Err(CheckpointError::Damaged {
            path: m.path.clone(),
            what: format!("rope_freqs.weight does not hold {} positive factors", rope_dim / 2),
        });
    }
    let attention = if latent {
        latent_attention(m, heads, rope_dim, theta, &scaling)?
    } else {
        grouped(m, arch, heads, head_dim, theta, &scaling, tensors)?
    };
    let feed_forward = |layer: usize| -> Result<FeedForward, CheckpointError> {
        if experts == 0 || layer < count_or(m, "leading_dense_block_count", 0, 1024)? {
            return Ok(FeedForward::Dense { hidden: count(m, "feed_forward_length", 1, width)? });
        }
        let inner = if m.number("expert_feed_forward_length").is_some() {
            "expert_feed_forward_length"
        } else {
            "feed_forward_length"
        };
        let inner = count(m, inner, 1, width)?;
        let active = count(m, "expert_used_count", 1, experts)?;
        if !latent {
            return families::mixture(m, experts, active, inner, 0, families::softmax_router(true));
        }
        let bias = tensors.has(&format!("blk.{layer}.exp_probs_b.bias"));
        let score = match count_or(m, "expert_gating_func", 0, 8)? {
            0 if bias => Score::Sigmoid,
            0 | 1 => Score::Softmax,
            2 => Score::Sigmoid,
            other => {
                return Err(unsupported(format!(
                    "expert_gating_func {other}; supported are 1 (softmax) and 2 (sigmoid)"
                )));
            }
        };
        let v3 = score == Score::Sigmoid;
        let groups = count_or(m, "expert_group_count", if v3 && experts == 256 { 8 } else { 1 }, experts)?.max(1);
        let groups_active = count_or(m, "expert_group_used_count", if groups == 8 { 4 } else { 1 }, groups)?.max(1);
        let normalize = m.number("expert_weights_norm").is_some_and(|v| v != 0.0) && active > 1;
        let scale = match m.number("expert_weights_scale") {
            Some(v) if v != 0.0 => positive_or(m, "expert_weights_scale", 1.0)? as f32,
            _ => 1.0,
        };
        let group_score = if v3 { GroupScore::TopTwo } else { GroupScore::Max };
        let router = Router { score, groups, groups_active, group_score, bias, normalize, scale };
        let shared = count_or(m, "expert_shared_count", 0, 1 << 14)?;
        families::mixture(m, experts, active, inner, shared * inner, router)
    };
    let layers = (0..layers)
        .map(|i| Ok(Layer { attention: attention.clone(), feed_forward: feed_forward(i)? }))
        .collect::<Result<_, CheckpointError>>()?;
    let structure = Structure {
        architecture: arch.to_string(),
        vocab,
        hidden: s.hidden,
        layers,
        context: s.context,
        norm_eps: positive_or(m, "attention.layer_norm_rms_epsilon", 1e-6)? as f32,
        tied: !tensors.has("output.weight"),
    };
    Ok((structure, skipped))
}

fn scaling(m: &Metadata, tensors: &Tensors, context: usize) -> Result<Scaling, CheckpointError> {
    let kind = m.values.get(&format!("{}.rope.scaling.type", m.prefix)).and_then(Value::text).unwrap_or("none");
    let factor = positive_or(m, "rope.scaling.factor", 1.0)?;
    let original = positive_or(m, "rope.scaling.original_context_length", context as f64)?;
    Ok(match kind {
        "none" => match tensors.by_name.get("rope_freqs.weight") {
            Some(t) if t.shape.len() == 1 => Scaling::Factors(tensors.vector("rope_freqs.weight", t.shape[0])?),
            _ => Scaling::None,
        },
        "linear" => Scaling::Linear { factor },
        "yarn" => Scaling::Yarn {
            factor,
            original,
            beta_fast: positive_or(m, "rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: positive_or(m, "rope.scaling.yarn_beta_slow", 1.0)?,
        },
        other => {
            let what = format!("rope scaling {other:?}; supported are none, linear, yarn");
            return Err(CheckpointError::Unsupported { path: m.path.clone(), what });
        }
    })
}

fn latent_attention(
    m: &Metadata,
    heads: usize,
    rope_dim: usize,
    theta: f64,
    scaling: &Scaling,
) -> Result<Attention, CheckpointError> {
    let (width, head_max) = (families::width_max(), families::head_dim_max());
    // New files call the widths of a head `*_mla`, and the cache's `key_length`; old files have only the head's.
    let (key, value) = if m.number("attention.key_length_mla").is_some() {
        (count(m, "attention.key_length_mla", 1, head_max)?, count(m, "attention.value_length_mla", 1, head_max)?)
    } else {
        (count(m, "attention.key_length", 1, head_max)?, count(m, "attention.value_length", 1, head_max)?)
    };
    if key <= rope_dim {
        let what = format!("a head of {key} channels with {rope_dim} rotated");
        return Err(CheckpointError::Damaged { path: m.path.clone(), what });
    }
    // The key holds 0.1 mscale_all_dim; without it there is no correction. mscale is taken to be equal: the amplitude is 1.
    let correction = match (scaling, m.number("rope.scaling.yarn_log_multiplier")) {
        (Scaling::Yarn { factor, .. }, Some(multiplier)) if multiplier != 0.0 => {
            yarn_temperature(*factor, multiplier / 0.1)
        }
        _ => 1.0,
    };
    Ok(Attention::Mla {
        heads,
        q_rank: Some(count_or(m, "attention.q_lora_rank", 0, width)?).filter(|&r| r > 0),
        kv_rank: count(m, "attention.kv_lora_rank", 1, width)?,
        nope_dim: key - rope_dim,
        rope_dim,
        value_dim: value,
        bias: false,
        latent_eps: 1e-6,
        rope: families::latent_rope(rope_dim, key, theta, scaling, 1.0, correction),
    })
}

fn grouped(
    m: &Metadata,
    arch: &str,
    heads: usize,
    head_dim: usize,
    theta: f64,
    scaling: &Scaling,
    tensors: &Tensors,
) -> Result<Attention, CheckpointError> {
    let kv_heads = count_or(m, "attention.head_count_kv", heads, heads)?;
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        let what = format!("{heads} heads over {kv_heads} key/value heads cannot be");
        return Err(CheckpointError::Damaged { path: m.path.clone(), what });
    }
    let temperature = match scaling {
        Scaling::Yarn { factor, .. } => yarn_temperature(*factor, 1.0),
        _ => 1.0,
    };
    // Files of arch llama hold q and k rows permuted, so that neighbours are pairs.
    let pairing = if arch == "llama" { Pairing::Interleaved } else { Pairing::Halves };
    Ok(Attention::Gqa {
        heads,
        kv_heads,
        head_dim,
        qk_norm: arch.starts_with("qwen3"),
        qkv_bias: tensors.has("blk.0.attn_q.bias"),
        out_bias: tensors.has("blk.0.attn_output.bias"),
        window: Some(count_or(m, "attention.sliding_window", 0, usize::MAX >> 12)?)
            .filter(|&w| w > 0 && arch == "llama"),
        rope: families::plain_rope(head_dim, head_dim, theta, scaling, pairing, temperature),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_names() {
        let files = split_files(Path::new("/m/a-b-00002-of-00003.gguf")).unwrap().unwrap();
        assert_eq!(files.len(), 3);
        assert_eq!(files[0], Path::new("/m/a-b-00001-of-00003.gguf"));
        assert!(split_files(Path::new("/m/model.gguf")).unwrap().is_none());
        assert!(split_files(Path::new("/m/a-00001-of-99999.gguf")).is_err());
    }
}
