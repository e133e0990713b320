//! A model written in other formats: its plan with the tokenizer, and the check that what was written is the model.

use std::collections::BTreeMap;
use std::path::Path;

use convert::{ChatTemplates, ConvertError, GgufPlan, Mix, Progress, Written, write_gguf};
use kernels::Pool;
use model::checkpoint::{TokenizerSource, configuration};
use model::families::to_gguf::same_in_gguf;
use model::gguf::TypedValue;
use model::tensors::Kind;
use model::{Checkpoint, CheckpointError};
use text::Vocabulary;

use crate::error::Error;
use crate::tokenizer::{TokenizerParts, tokenizer};

/// How a model is written.
#[derive(Clone, Debug)]
pub struct QuantizeOptions {
    /// Formats of its tensors.
    pub mix: Mix,
    /// Importance of each column, by tensor; empty: none.
    pub importance: BTreeMap<String, Vec<f32>>,
}

/// Writes a model as a GGUF file in a mix of formats, and opens that to see that it is the same model.
///
/// # Errors
/// A model that cannot be written so, a disk that is full, or a wish to stop; nothing is left of the file then.
pub fn quantize(
    checkpoint: &Checkpoint,
    to: &Path,
    options: QuantizeOptions,
    pool: &Pool,
    progress: &dyn Progress,
) -> Result<Written, Error> {
    let plan = plan(checkpoint, options)?;
    Ok(write_gguf(&plan, to, pool, progress, |file| same(checkpoint, file))?)
}

/// What would be written.
///
/// # Errors
/// A model that cannot be written so.
pub fn plan(checkpoint: &Checkpoint, options: QuantizeOptions) -> Result<GgufPlan, Error> {
    let mut plan = GgufPlan::new(checkpoint)?;
    if checkpoint.kind == Kind::Safetensors {
        take_tokenizer(&mut plan, checkpoint)?;
    }
    plan.choose(options.mix, options.importance)?;
    Ok(plan)
}

/// Whether a file that was written is the model it was made from.
fn same(checkpoint: &Checkpoint, file: &Path) -> Result<(), ConvertError> {
    let written = Checkpoint::open(file)?;
    written.complete()?;
    let same = match checkpoint.kind {
        Kind::Gguf => written.structure == checkpoint.structure,
        Kind::Safetensors => same_in_gguf(&checkpoint.structure, &written.structure),
    };
    if same {
        return Ok(());
    }
    let what = format!(
        "a part of the structure of architecture {} that a GGUF file cannot hold; write safetensors instead",
        checkpoint.structure.architecture
    );
    Err(CheckpointError::unsupported(&checkpoint.path, what).into())
}

/// The tokenizer of a directory, its templates and the ids of special tokens.
fn take_tokenizer(plan: &mut GgufPlan, checkpoint: &Checkpoint) -> Result<(), Error> {
    let TokenizerSource::HuggingFace { tokenizer: file, config, .. } = &checkpoint.tokenizer else {
        plan.set_tokenizer(None, None, &ChatTemplates::default());
        return Ok(());
    };
    let parts = tokenizer(checkpoint)?;
    let TokenizerParts { tokenizer, template, tool_template, bos, eos } = &parts;
    let known = |piece: &str, or: Option<u32>| tokenizer.id_of(piece).filter(|_| !piece.is_empty()).or(or);
    let ends = &checkpoint.generation.eos;
    let (bos, eos) = (known(bos, checkpoint.generation.bos), known(eos, ends.first().copied()));
    let json = model::tensors::read_bounded(file, BESIDE_BYTES_MAX)?;
    let vocabulary = Vocabulary::of_tokenizer(&json, tokenizer, checkpoint.structure.vocab, bos, eos)
        .map_err(|source| ConvertError::Tokenizer { path: file.clone(), source })?;
    let beside: serde_json::Value = match config {
        Some(config) => {
            serde_json::from_slice(&model::tensors::read_bounded(config, BESIDE_BYTES_MAX)?).unwrap_or_default()
        }
        None => serde_json::Value::Null,
    };
    let padding = &beside["pad_token"];
    let padding = padding.as_str().or(padding["content"].as_str()).unwrap_or_default();
    let given = configuration(&checkpoint.path)?["pad_token_id"].as_u64().and_then(|id| u32::try_from(id).ok());
    let padding = known(padding, given);
    let templates = ChatTemplates { default: template.clone(), tool_use: tool_template.clone() };
    plan.set_tokenizer(Some(&vocabulary), padding, &templates);
    // Other ends of a text: of a turn, of a message.
    let others = ends.iter().filter(|id| Some(**id) != vocabulary.eos);
    for (name, &id) in ["eot", "eom"].into_iter().zip(others) {
        plan.set(&format!("tokenizer.ggml.{name}_token_id"), TypedValue::U32(id));
    }
    Ok(())
}

/// Longest file beside the weights.
const BESIDE_BYTES_MAX: u64 = 128 << 20;
