//! Hugging Face directories, written: `model.safetensors` in one float format, and `config.json` that says so.

use std::io::{BufWriter, Write};
use std::path::Path;

use kernels::encode::FP8_BLOCK;
use kernels::{Format, Pool};
use model::tensors::{Kind, Stored};
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

/// Tensors of a directory in a format, the widest first: every offset is a multiple of its numbers' size then.
fn planned(checkpoint: &Checkpoint, format: Format) -> Result<Vec<Planned>, ConvertError> {
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
        let format = match format {
            Format::F8E4M3 if !is_fp8(name, &tensor.shape) => Format::Bf16,
            format => format,
        };
        let (name, shape) = (name.clone(), tensor.shape.clone());
        tensors.push(Planned { name, shape, format, source: Source::Rows(vec![weight]) });
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

/// Writes `model.safetensors` and `config.json` of a Hugging Face directory into `folder`.
///
/// # Errors
/// A GGUF file, numbers that the format cannot hold, a disk that is full, or a wish to stop.
pub fn write_safetensors(
    checkpoint: &Checkpoint,
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
    let tensors = planned(checkpoint, format)?;
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
