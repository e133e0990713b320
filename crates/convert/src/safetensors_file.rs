//! Hugging Face directories, written: `model.safetensors` in one float format, and `config.json` that says so.

use std::io::{BufWriter, Write};
use std::path::Path;

use kernels::encode::FP8_BLOCK;
use kernels::{Format, Pool};
use model::tensors::{Kind, Stored, Tensors};
use model::weight::Weight;
use model::{Checkpoint, CheckpointError};
use serde_json::{Map, Value, json};

use crate::encode::{Encoder, Progress};
use crate::error::ConvertError;
use crate::gguf_file::Written;
use crate::plan::Planned;
use crate::source::Source;
use crate::whole_file::{finish, temporary, write_whole};

/// Formats of safetensors files, with their names in the file and in a configuration.
const FORMATS: [(Format, &str, &str); 4] = [
    (Format::F32, "F32", "float32"),
    (Format::Bf16, "BF16", "bfloat16"),
    (Format::F16, "F16", "float16"),
    (Format::F8E4M3, "F8_E4M3", "bfloat16"),
];

fn names(format: Format) -> (&'static str, &'static str) {
    let (_, dtype, configured) =
        FORMATS.into_iter().find(|row| row.0 == format).expect("a format of safetensors files");
    (dtype, configured)
}

/// Matrices that are FP8 in DeepSeek's own files: those of layers, but for routers and for what joins token and stream in a layer of
/// multi-token prediction.
fn is_fp8(name: &str, shape: &[usize]) -> bool {
    let matrix = ["_proj.weight", "kv_a_proj_with_mqa.weight"].iter().any(|ending| name.ends_with(ending));
    shape.len() == 2 && name.starts_with("model.layers.") && matrix && !name.ends_with(".eh_proj.weight")
}

/// What a checkpoint's weights are averaged with.
#[derive(Default)]
pub struct Averaged {
    /// Tensors of the same names and shapes: another checkpoint's, or those of a training's state.
    pub others: Vec<Tensors>,
    /// The share of each in the mean, the checkpoint's own first; they add up to one.
    pub shares: Vec<f32>,
}

/// An embedding and a head that published checkpoints repeat with a layer of multi-token prediction, and where they are the first time. A state of
/// a training has them once.
fn repeated(name: &str) -> Option<&'static str> {
    let (_, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    [("embed_tokens.weight", "model.embed_tokens.weight"), ("shared_head.head.weight", "lm_head.weight")]
        .into_iter()
        .find_map(|(again, first)| (rest == again).then_some(first))
}

impl Averaged {
    /// The numbers of one tensor.
    fn source(&self, name: &str, own: Weight, shape: &[usize]) -> Result<Source, ConvertError> {
        if self.others.is_empty() {
            return Ok(Source::Rows(vec![own]));
        }
        let mut parts = vec![own];
        for other in &self.others {
            let name = repeated(name).filter(|_| !other.has(name)).unwrap_or(name);
            match other.by_name.get(name).map(|tensor| &tensor.shape[..]) {
                Some(found) if found != shape => {
                    let what = format!("tensor {name} has the shape {found:?}, and {shape:?} in the first checkpoint");
                    return Err(ConvertError::refused(file_of(other), what));
                }
                _ => parts.push(other.rows(name)?),
            }
        }
        Ok(Source::Mean(self.shares.iter().copied().zip(parts).collect()))
    }

    /// Refuses tensors that the checkpoint does not have: they would be lost.
    fn complete(&self, checkpoint: &Checkpoint) -> Result<(), ConvertError> {
        for other in &self.others {
            let factors = |name: &str| name.strip_suffix("_scale_inv").is_some_and(|of| other.has(of));
            if let Some(name) = other.by_name.keys().find(|name| !checkpoint.tensors.has(name) && !factors(name)) {
                let what = format!(
                    "tensor {name} is not in {}: only checkpoints of one structure have a mean",
                    checkpoint.path.display()
                );
                return Err(ConvertError::refused(file_of(other), what));
            }
        }
        Ok(())
    }
}

/// The file of tensors, for messages.
fn file_of(tensors: &Tensors) -> &Path {
    tensors.files.first().map_or(Path::new(""), |file| file.path())
}

/// The format that a tensor gets where the others get `format`.
fn format_of(name: &str, shape: &[usize], stored: Format, format: Format) -> Format {
    match format {
        // Biases of choice decide between neighbours: they stay exact, as in published checkpoints.
        _ if stored == Format::F32 && name.ends_with(".e_score_correction_bias") => Format::F32,
        Format::F8E4M3 if !is_fp8(name, shape) => Format::Bf16,
        format => format,
    }
}

/// Tensors of a directory in a format, the widest first: every offset is a multiple of its numbers' size then.
fn planned(checkpoint: &Checkpoint, averaged: &Averaged, format: Format) -> Result<Vec<Planned>, ConvertError> {
    averaged.complete(checkpoint)?;
    let mut tensors = Vec::new();
    for (name, tensor) in &checkpoint.tensors.by_name {
        // Factors are read with the tensor that they are of.
        if name.strip_suffix("_scale_inv").is_some_and(|of| checkpoint.tensors.has(of)) {
            continue;
        }
        if let Stored::Unknown(kind) = &tensor.stored {
            let what = format!("tensor {name} is stored as {kind}");
            return Err(CheckpointError::unsupported(&checkpoint.path, what).into());
        }
        let weight = checkpoint.tensors.rows(name)?;
        let format = format_of(name, &tensor.shape, weight.format, format);
        let source = averaged.source(name, weight, &tensor.shape)?;
        let (name, shape) = (name.clone(), tensor.shape.clone());
        tensors.push(Planned { name, shape, format, source });
    }
    tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.format.block_bytes()));
    Ok(tensors)
}

/// Rows and columns of the factors of an FP8 tensor.
fn factors(tensor: &Planned) -> Option<[usize; 2]> {
    let (rows, cols) = tensor.matrix();
    (tensor.format == Format::F8E4M3).then(|| [rows, cols].map(|size| size.div_ceil(FP8_BLOCK)))
}

/// The header, with factors of FP8 tensors behind all tensors.
fn header(tensors: &[Planned]) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_string(), json!({"format": "pt"}));
    let mut at = 0;
    let mut put = |name: String, dtype: &str, shape: &[usize], bytes: usize| {
        entries.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": [at, at + bytes]}));
        at += bytes;
    };
    for tensor in tensors {
        put(tensor.name.clone(), names(tensor.format).0, &tensor.shape, tensor.bytes());
    }
    for tensor in tensors {
        if let Some(shape) = factors(tensor) {
            put(format!("{}_scale_inv", tensor.name), "F32", &shape, 4 * shape[0] * shape[1]);
        }
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    // Tensors begin at a multiple of 8.
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json);
    out
}

/// Writes `model.safetensors` and `config.json` of a Hugging Face directory into `folder`: a checkpoint, or its mean with others.
///
/// # Errors
/// A GGUF file, tensors of another name or shape, numbers that the format cannot hold, a disk that is full, or a wish to stop.
pub fn write_safetensors(
    checkpoint: &Checkpoint,
    averaged: &Averaged,
    folder: &Path,
    format: Format,
    pool: &Pool,
    progress: &dyn Progress,
) -> Result<Written, ConvertError> {
    if checkpoint.kind != Kind::Safetensors {
        let what = "safetensors are written of Hugging Face directories only, and this is a GGUF file";
        return Err(ConvertError::refused(&checkpoint.path, what));
    }
    checkpoint.complete()?;
    let tensors = planned(checkpoint, averaged, format)?;
    let path = folder.join("model.safetensors");
    let wrong = || ConvertError::write(&path);
    let (mut file, place) = temporary(&path)?;
    let header = header(&tensors);
    let mut written = Written { bytes: header.len() as u64, tensor_bytes: 0, weights: 0 };
    {
        let mut out = BufWriter::with_capacity(1 << 20, file.as_file_mut());
        out.write_all(&header).map_err(wrong())?;
        let encoder = Encoder { pool, progress, from: &checkpoint.path, to: &path };
        let mut all_factors = Vec::new();
        for (i, tensor) in tensors.iter().enumerate() {
            progress.tensor(&tensor.name, tensor.format, i, tensors.len());
            all_factors.extend(encoder.encode(tensor, None, &mut out)?);
            written.tensor_bytes += tensor.bytes() as u64;
            written.weights += tensor.shape.iter().product::<usize>() as u64;
        }
        for factor in &all_factors {
            out.write_all(&factor.to_le_bytes()).map_err(wrong())?;
        }
        written.tensor_bytes += 4 * all_factors.len() as u64;
        out.flush().map_err(wrong())?;
    }
    written.bytes += written.tensor_bytes;
    finish(file, &place)?;
    write_config(checkpoint, folder, format)?;
    Ok(written)
}

/// The configuration, with the format of the weights.
fn write_config(checkpoint: &Checkpoint, folder: &Path, format: Format) -> Result<(), ConvertError> {
    let mut config = model::checkpoint::configuration(&checkpoint.path)?;
    let key = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    config[key] = names(format).1.into();
    if let Some(config) = config.as_object_mut() {
        config.shift_remove("quantization_config");
    }
    if format == Format::F8E4M3 {
        config["quantization_config"] = json!({
            "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
        });
    }
    let text = serde_json::to_string_pretty(&config).expect("JSON is text");
    let path = folder.join("config.json");
    write_whole(&path, (text + "\n").as_bytes())
}
