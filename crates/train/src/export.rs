//! A trained model as other software reads it: a Hugging Face directory.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use model::checkpoint::TokenizerSource;
use model::{Checkpoint, gguf};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use crate::checkpoint::{bytes, write_tensors};
use crate::error::Error;
use crate::network::Network;
use crate::parameters::Role;
use crate::pass::Values;
use crate::whole;

/// How matrices are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// As they were trained.
    F32,
    /// Rounded to the nearest.
    #[default]
    Bf16,
}

/// What a model's directory is made of.
pub(crate) struct Model<'a> {
    pub network: &'a Network,
    pub weights: &'a Values,
    pub config: &'a Value,
    /// Directory of the tokenizer's files.
    pub tokenizer: &'a Path,
    /// Source of the chat template of the checkpoint that the training went on from.
    pub template: Option<String>,
}

/// The chat template of a checkpoint, where that has one outside of the tokenizer's files.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn template_of(checkpoint: &Checkpoint) -> Result<Option<String>, Error> {
    match &checkpoint.tokenizer {
        TokenizerSource::HuggingFace { template: Some(file), .. } => {
            let bytes = model::tensors::read_bounded(file, TEMPLATE_BYTES_MAX)?;
            String::from_utf8(bytes).map(Some).map_err(|_| Error::file(file, "it is no UTF-8 text"))
        }
        TokenizerSource::Gguf(keys) => {
            Ok(keys.get("tokenizer.chat_template").and_then(gguf::Value::text).map(str::to_string))
        }
        _ => Ok(None),
    }
}

const TEMPLATE_BYTES_MAX: u64 = 4 << 20;

/// Write a model's directory: it is there whole, or what was there before.
pub(crate) fn write(model: &Model, format: Format, out: &Path) -> Result<(), Error> {
    whole::clear(out.parent().unwrap_or(Path::new(".")))?;
    whole::write(out, |temporary| fill(model, format, temporary))
}

/// Type and bytes of a parameter's numbers in a file.
fn stored(values: &[f32], role: Role, format: Format) -> (Dtype, Cow<'_, [u8]>) {
    match (format, role) {
        // Biases of choice decide between neighbours: they stay exact, as in published checkpoints.
        (Format::Bf16, role) if role != Role::Choice => {
            let mut short = vec![0u16; values.len()];
            kernels::f32_to_bf16(values, &mut short);
            (Dtype::BF16, Cow::Owned(short.iter().flat_map(|x| x.to_le_bytes()).collect()))
        }
        _ => (Dtype::F32, bytes(values)),
    }
}

fn fill(model: &Model, format: Format, out: &Path) -> Result<(), Error> {
    let Model { network, weights, config, tokenizer, template } = model;
    let mut config = (*config).clone();
    let predicts = usize::from(network.predicts());
    if let Some(fields) = config.as_object_mut() {
        let kept = if format == Format::F32 { "float32" } else { "bfloat16" };
        let key = if fields.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        fields.insert(key.to_string(), json!(kept));
        // Of a checkpoint in FP8 that the training went on from.
        fields.remove("quantization_config");
        if predicts > 0 || fields.contains_key("num_nextn_predict_layers") {
            fields.insert("num_nextn_predict_layers".to_string(), json!(predicts));
        }
    }
    let mut tensors = Vec::new();
    for (parameter, values) in network.parameters.iter().zip(*weights) {
        let (dtype, bytes) = stored(values, parameter.role, format);
        // Published checkpoints repeat embedding and head with the module of multi-token prediction.
        let repeated = match parameter.role {
            Role::Embedding => Some("embed_tokens.weight"),
            Role::Head => Some("shared_head.head.weight"),
            _ => None,
        };
        if let Some(name) = repeated.filter(|_| predicts > 0) {
            let name = format!("model.layers.{}.{name}", network.structure.layers.len());
            tensors.push((name, parameter.shape.clone(), dtype, bytes.clone()));
        }
        tensors.push((parameter.name.clone(), parameter.shape.clone(), dtype, bytes));
    }
    let about = [("format".to_string(), "pt".to_string())].into();
    write_tensors(&out.join("model.safetensors"), &tensors, Some(about))?;
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let from = tokenizer.join(name);
        if from.exists() {
            fs::copy(&from, out.join(name)).map_err(Error::io(&from))?;
        }
    }
    if let Some(template) = template {
        data::atomic::write(&out.join("chat_template.jinja"), template.as_bytes())?;
    }
    special_tokens(out, &mut config)?;
    let text = |value: &Value| serde_json::to_vec_pretty(value).expect("JSON");
    let generation = json!({
        "bos_token_id": config.get("bos_token_id"),
        "eos_token_id": config.get("eos_token_id"),
    });
    data::atomic::write(&out.join("generation_config.json"), &text(&generation))?;
    data::atomic::write(&out.join("config.json"), &text(&config))?;
    Ok(())
}

/// Ids of the first and last token of a text, as the tokenizer's files tell.
fn special_tokens(out: &Path, config: &mut Value) -> Result<(), Error> {
    let (Ok(settings), Ok(tokenizer)) =
        (fs::read(out.join("tokenizer_config.json")), fs::read(out.join("tokenizer.json")))
    else {
        return Ok(());
    };
    let parse = |name: &str, bytes: &[u8]| -> Result<Value, Error> {
        serde_json::from_slice(bytes).map_err(|e| Error::file(out.join(name), e.to_string()))
    };
    let (settings, tokenizer) = (parse("tokenizer_config.json", &settings)?, parse("tokenizer.json", &tokenizer)?);
    let added = tokenizer.get("added_tokens").and_then(Value::as_array).cloned().unwrap_or_default();
    for (key, name) in [("bos_token_id", "bos_token"), ("eos_token_id", "eos_token")] {
        let content = settings.get(name).and_then(|t| t.as_str().or_else(|| t.get("content")?.as_str()));
        let id = added.iter().find(|t| t.get("content").and_then(Value::as_str) == content && content.is_some());
        if let (Some(id), Some(fields)) = (id.and_then(|t| t.get("id")), config.as_object_mut()) {
            fields.insert(key.to_string(), id.clone());
        }
    }
    Ok(())
}
