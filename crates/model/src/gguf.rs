//! GGUF v2 and v3, one file or split: metadata, tensor table, and its keys to `Structure`. Every count is checked before it is believed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernels::Format;

use crate::checkpoint::{self, Checkpoint, CheckpointError, Generation, Kind, TokenizerSource};
use crate::families;
use crate::mmap::Mapping;
use crate::rope::{Scaling, yarn_temperature};
use crate::settings::*;
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
            _ => None,
        }
    }

    /// As a truth value, where it is one.
    pub fn boolean(&self) -> Option<bool> {
        if let Value::Bool(v) = *self { Some(v) } else { None }
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
    let architecture = match values.get("general.architecture") {
        None => String::new(),
        Some(Value::Text(architecture)) => architecture.clone(),
        other => {
            return Err(r.damaged(format!("general.architecture is {}; it must be a text", shown(other))));
        }
    };
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
    let general = General { metadata: &metadata };
    let announced = count_or(&general, "split.count", 0, FILES_MAX)?;
    if announced > 1 && announced != tensors.files.len() {
        let what = format!(
            "split.count is {announced}, but the name says {}; keep the names NAME-00001-of-0000N.gguf",
            tensors.files.len()
        );
        return Err(CheckpointError::Damaged { path: path.to_path_buf(), what });
    }
    let (structure, skipped_layers) = structure(&metadata, &tensors)?;
    let structure = families::consistent(path, structure)?;
    let mut eos = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        eos.extend(general.token_id(&format!("tokenizer.ggml.{key}"))?);
    }
    eos.dedup();
    let bos = general.token_id("tokenizer.ggml.bos_token_id")?;
    let generation = Generation { eos, bos, ..Generation::default() };
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

impl Metadata {
    fn under_prefix(&self, key: &str) -> Option<&Value> {
        self.values.get(&format!("{}.{key}", self.prefix))
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None => "absent".to_string(),
        Some(Value::Text(text)) => format!("{:?}", text.chars().take(80).collect::<String>()),
        Some(Value::Bool(value)) => value.to_string(),
        Some(value) => value.number().map_or_else(|| "not a number".to_string(), |v| v.to_string()),
    }
}

/// The architecture's keys, without its name before them.
impl Settings for Metadata {
    fn path(&self) -> &Path {
        &self.path
    }
    fn number(&self, key: &str) -> Option<f64> {
        self.under_prefix(key).and_then(Value::number)
    }
    fn boolean(&self, key: &str) -> Option<bool> {
        self.under_prefix(key).and_then(Value::boolean)
    }
    fn text(&self, key: &str) -> Option<&str> {
        self.under_prefix(key).and_then(Value::text)
    }
    fn absent(&self, key: &str) -> bool {
        self.under_prefix(key).is_none()
    }
    fn shown(&self, key: &str) -> String {
        shown(self.under_prefix(key))
    }
}

/// All keys by their whole names.
struct General<'a> {
    metadata: &'a Metadata,
}

impl Settings for General<'_> {
    fn path(&self) -> &Path {
        &self.metadata.path
    }
    fn number(&self, key: &str) -> Option<f64> {
        self.metadata.values.get(key).and_then(Value::number)
    }
    fn boolean(&self, key: &str) -> Option<bool> {
        self.metadata.values.get(key).and_then(Value::boolean)
    }
    fn text(&self, key: &str) -> Option<&str> {
        self.metadata.values.get(key).and_then(Value::text)
    }
    fn absent(&self, key: &str) -> bool {
        !self.metadata.values.contains_key(key)
    }
    fn shown(&self, key: &str) -> String {
        shown(self.metadata.values.get(key))
    }
}

impl General<'_> {
    /// A token's id. Some files say -1 for none, in 32 bits without a sign too.
    fn token_id(&self, key: &str) -> Result<Option<u32>, CheckpointError> {
        if self.absent(key) {
            return Ok(None);
        }
        match self.number(key) {
            Some(v) if v == -1.0 || v == u32::MAX as f64 => Ok(None),
            Some(v) if v.fract() == 0.0 && (0.0..u32::MAX as f64).contains(&v) => Ok(Some(v as u32)),
            _ => Err(wrong(self, key, "a token's id")),
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
    only_neutral(m, arch, s.context)?;
    let latent = arch == "deepseek2";
    let (head_dim, rope_dim) = if latent {
        (0, count(m, "rope.dimension_count", 2, head_max)?)
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
        grouped(m, arch, heads, head_dim, theta, &scaling)?
    };
    let layers = (0..layers)
        .map(|i| {
            let any = |parts: &[&str]| parts.iter().any(|part| tensors.has(&format!("blk.{i}.{part}.bias")));
            // No key tells of biases: what is stored is used, by the whole groups that the structure has.
            let mut attention = attention.clone();
            match &mut attention {
                Attention::Gqa { qkv_bias, out_bias, .. } => {
                    *qkv_bias = arch == "qwen2" || any(&["attn_q", "attn_k", "attn_v"]);
                    *out_bias = any(&["attn_output"]);
                }
                Attention::Mla { bias, .. } => *bias = any(&["attn_kv_a_mqa"]),
            }
            let bias = any(&["ffn_gate", "ffn_up", "ffn_down"]);
            Ok(Layer { attention, feed_forward: feed_forward(m, tensors, i, experts, bias)? })
        })
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

/// The feed-forward of a layer; `bias` is of a dense block.
fn feed_forward(
    m: &Metadata,
    tensors: &Tensors,
    layer: usize,
    experts: usize,
    bias: bool,
) -> Result<FeedForward, CheckpointError> {
    let width = families::width_max();
    if experts == 0 || layer < count_or(m, "leading_dense_block_count", 0, 1024)? {
        return Ok(FeedForward::Dense { hidden: count(m, "feed_forward_length", 1, width)?, bias });
    }
    let inner = match m.absent("expert_feed_forward_length") {
        true => "feed_forward_length",
        false => "expert_feed_forward_length",
    };
    let inner = count(m, inner, 1, width)?;
    let active = count(m, "expert_used_count", 1, experts)?;
    if m.prefix != "deepseek2" {
        return families::mixture(m, experts, active, inner, 0, families::softmax_router(true));
    }
    let bias = tensors.has(&format!("blk.{layer}.exp_probs_b.bias"));
    let gating = "expert_gating_func";
    let score = match count_or(m, gating, 0, usize::from(u16::MAX))? {
        // Files from before the key are of V2, whose routers have no bias.
        0 if bias => return Err(wrong(m, gating, "1 (softmax) or 2 (sigmoid), as the router has a bias")),
        0 | 1 => Score::Softmax,
        2 => Score::Sigmoid,
        other => {
            let what = format!("expert_gating_func {other}; supported are 1 (softmax) and 2 (sigmoid)");
            return Err(CheckpointError::Unsupported { path: m.path.clone(), what });
        }
    };
    // Routers with sigmoid scores differ in these, and nothing else in a file tells them: no value is assumed.
    if score == Score::Sigmoid {
        let keys = [
            ("expert_group_count", "the published n_group (DeepSeek-V3: 8; Kimi-K2: 1)"),
            ("expert_weights_norm", "the published norm_topk_prob"),
            ("expert_weights_scale", "the published routed_scaling_factor"),
        ];
        if let Some((key, expected)) = keys.into_iter().find(|(key, _)| m.absent(key)) {
            return Err(wrong(m, key, format!("{expected}: take a newer conversion, or write the key into the file")));
        }
    }
    let groups = count_or(m, "expert_group_count", 1, experts)?.max(1);
    let groups_active = match groups {
        1 => count_or(m, "expert_group_used_count", 1, 1)?.max(1),
        _ => count(m, "expert_group_used_count", 1, groups)?,
    };
    let normalize = flag_or(m, "expert_weights_norm", false)? && active > 1;
    // Converters write 0 for none.
    let scale = match m.number("expert_weights_scale") {
        Some(0.0) => 1.0,
        _ => positive_or(m, "expert_weights_scale", 1.0)? as f32,
    };
    let group_score = if score == Score::Sigmoid { GroupScore::TopTwo } else { GroupScore::Max };
    let router = Router { score, groups, groups_active, group_score, bias, normalize, scale };
    let shared = count_or(m, "expert_shared_count", 0, 1 << 14)?;
    families::mixture(m, experts, active, inner, shared * inner, router)
}

/// Keys that would change the numbers, and are not read: they may be there with the value that changes nothing.
fn only_neutral(m: &Metadata, arch: &str, context: usize) -> Result<(), CheckpointError> {
    let unsupported = |key: &str, supported: &str| {
        let what = format!("{key} {}; supported is {supported}", m.shown(key));
        Err(CheckpointError::Unsupported { path: m.path.clone(), what })
    };
    let factors = ["rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor"];
    if let Some(key) = factors.into_iter().find(|key| !m.absent(key) && m.number(key) != Some(1.0)) {
        return unsupported(key, "1");
    }
    if !m.absent("attention.sliding_window_pattern") {
        return unsupported("attention.sliding_window_pattern", "one window of all layers");
    }
    // A window of the whole context hides nothing.
    let window = count_or(m, "attention.sliding_window", 0, usize::MAX >> 12)?;
    if arch != "llama" && window > 0 && window < context {
        return unsupported("attention.sliding_window", &format!("none, or {context}, of architecture {arch}"));
    }
    Ok(())
}

fn scaling(m: &Metadata, tensors: &Tensors, context: usize) -> Result<Scaling, CheckpointError> {
    let factor = "rope.scaling.factor";
    // A factor without a kind is a linear scaling, as in files from before the kind had a key.
    let kind = match text(m, "rope.scaling.type")? {
        Some(kind) => kind,
        None if m.number(factor).is_some_and(|f| f != 0.0 && f != 1.0) => "linear",
        None if !m.absent("rope.scale_linear") => "linear",
        None => "none",
    };
    let original = positive_or(m, "rope.scaling.original_context_length", context as f64)?;
    let stored = tensors.by_name.get("rope_freqs.weight");
    if stored.is_some() && kind != "none" {
        let what = format!("rope_freqs.weight together with rope scaling {kind:?}");
        return Err(CheckpointError::Unsupported { path: m.path.clone(), what });
    }
    Ok(match kind {
        "none" => match stored {
            Some(t) => {
                let length = t.shape.first().copied().unwrap_or(0).min(families::head_dim_max());
                Scaling::Factors(tensors.vector("rope_freqs.weight", length)?)
            }
            None => Scaling::None,
        },
        "linear" if m.absent(factor) && !m.absent("rope.scale_linear") => {
            Scaling::Linear { factor: positive(m, "rope.scale_linear")? }
        }
        "linear" => Scaling::Linear { factor: positive(m, factor)? },
        "yarn" => Scaling::Yarn {
            factor: positive(m, factor)?,
            original,
            beta_fast: positive_or(m, "rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: positive_or(m, "rope.scaling.yarn_beta_slow", 1.0)?,
        },
        other => {
            let other: String = other.chars().take(80).collect();
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
    let (key, value) = if !m.absent("attention.key_length_mla") {
        (count(m, "attention.key_length_mla", 1, head_max)?, count(m, "attention.value_length_mla", 1, head_max)?)
    } else {
        (count(m, "attention.key_length", 1, head_max)?, count(m, "attention.value_length", 1, head_max)?)
    };
    if key <= rope_dim {
        let what = format!("a head of {key} channels with {rope_dim} rotated");
        return Err(CheckpointError::Damaged { path: m.path.clone(), what });
    }
    // The key holds 0.1 mscale_all_dim; without it there is no correction. mscale is taken to be equal: the amplitude is 1.
    let multiplier = number_or(m, "rope.scaling.yarn_log_multiplier", 0.0)?;
    let correction = match scaling {
        Scaling::Yarn { factor, .. } if multiplier != 0.0 => yarn_temperature(*factor, multiplier / 0.1),
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
        qkv_bias: false,
        out_bias: false,
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
