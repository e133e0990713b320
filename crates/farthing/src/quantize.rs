//! A model written in other formats: its plan with the tokenizer, and the check that what was written is the model.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use convert::{ChatTemplates, ConvertError, GgufPlan, Measure, Mix, Progress, Written, write_gguf};
use kernels::{Observer, Pool, observed};
use model::checkpoint::{TokenizerSource, configuration};
use model::families::to_gguf::same_in_gguf;
use model::gguf::TypedValue;
use model::tensors::Kind;
use model::{Checkpoint, CheckpointError};
use text::Vocabulary;

use crate::error::Error;
use crate::loading::PlannedModel;
use crate::tokenizer::{BESIDE_BYTES_MAX, TokenizerParts, tokenizer};

/// How a model is written.
#[derive(Clone, Debug)]
pub struct QuantizeOptions {
    /// Formats of its tensors.
    pub mix: Mix,
    /// Importance of each column, by tensor; empty: none.
    pub importance: BTreeMap<String, Vec<f32>>,
    /// What the model is called in the file; absent: by the directory that it was in, or what a GGUF file says.
    pub name: Option<String>,
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

/// Measures the importance of the columns of a model's weights on texts that it reads, each alone. `goes_on` is told how many were read; `None` if it says no.
///
/// # Errors
/// A model whose weights are rounded to blocks, one that cannot run here, a text that its context does not hold.
pub fn measure_importance(
    planned: PlannedModel,
    texts: &[Vec<u32>],
    goes_on: &dyn Fn(usize) -> bool,
) -> Result<Option<Rc<Measure>>, Error> {
    let measure = Rc::new(Measure::new(&GgufPlan::new(&planned.checkpoint)?)?);
    let observer: Observer = {
        let measure = Rc::clone(&measure);
        Rc::new(move |seen| measure.see(seen))
    };
    let mut runner = planned.runner()?;
    for (number, text) in texts.iter().enumerate() {
        if !goes_on(number) {
            return Ok(None);
        }
        observed(Rc::clone(&observer), || runner.logits(text).map(drop))?;
    }
    Ok(Some(measure))
}

/// What would be written.
///
/// # Errors
/// A model that cannot be written so.
pub fn plan(checkpoint: &Checkpoint, options: QuantizeOptions) -> Result<GgufPlan, Error> {
    let mut plan = GgufPlan::new(checkpoint)?;
    if checkpoint.kind == Kind::Safetensors {
        take_tokenizer(&mut plan, checkpoint)?;
        plan.set("general.name", TypedValue::Text(options.name.unwrap_or_else(|| name_of(&checkpoint.path))));
    }
    plan.choose(options.mix, options.importance)?;
    Ok(plan)
}

/// The name of a model by its file or directory. In the hub's cache the directory is named by its revision.
pub fn name_of(model: &Path) -> String {
    let whole = model.canonicalize().unwrap_or_else(|_| model.to_path_buf());
    let snapshot =
        whole.parent().filter(|p| p.file_name().is_some_and(|name| name == "snapshots")).and_then(Path::parent);
    match snapshot.and_then(|p| p.file_name()?.to_str()?.rsplit("--").next()) {
        Some(name) => name.to_string(),
        None if whole.is_dir() => whole.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        None => whole.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    }
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
    let others: Vec<u32> = ends.iter().copied().filter(|id| Some(*id) != vocabulary.eos).collect();
    let names = ["eot", "eom"];
    if others.len() > names.len() {
        let what = format!("{} tokens that end a text; a GGUF file has a place for three", others.len() + 1);
        return Err(CheckpointError::unsupported(&checkpoint.path, what).into());
    }
    for (name, &id) in names.into_iter().zip(&others) {
        plan.set(&format!("tokenizer.ggml.{name}_token_id"), TypedValue::U32(id));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `write_gguf` asks of a file before it gets its name: another model is refused, and so is one of another size.
    #[test]
    fn a_file_of_another_model_is_refused() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data/oracle");
        let checkpoint = |name: &str| Checkpoint::open(&models.join(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let written = |name: &str| {
            let file = folder.path().join(format!("{name}.gguf"));
            let options = QuantizeOptions { mix: Mix::named("F32").unwrap(), importance: BTreeMap::new(), name: None };
            quantize(&checkpoint(name), &file, options, &Pool::new(1), &()).unwrap();
            file
        };
        let file = written("llama-gqa");
        same(&checkpoint("llama-gqa"), &file).unwrap();
        same(&Checkpoint::open(&file).unwrap(), &file).unwrap();
        for other in [checkpoint("deepseek-v3-shape"), Checkpoint::open(&written("deepseek-v3-shape")).unwrap()] {
            let refused = same(&other, &file).unwrap_err().to_string();
            assert!(refused.contains("a GGUF file cannot hold; write safetensors instead"), "{refused}");
        }
    }
}
