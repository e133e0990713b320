//! The mean of checkpoints of one structure: states of a training, or trainings that went on from the same weights (arXiv 2203.05482, 2306.03241).

use std::path::Path;

use convert::{Averaged, Progress, write_safetensors};
use kernels::{Format, Pool};
use model::tensors::{Kind, Tensors};
use model::{Checkpoint, CheckpointError};

use crate::error::Error;
use crate::publish::{copy_beside, folder_for, keep, unwritten};

/// The weights of a state of a training, in its directory.
const STATE_WEIGHTS: &str = "weights.safetensors";

/// Whether a directory is a state of a training, which has weights and neither configuration nor tokenizer.
pub fn is_state(path: &Path) -> bool {
    path.join(STATE_WEIGHTS).is_file() && !path.join("config.json").exists()
}

/// A checkpoint that has a mean with others.
///
/// # Errors
/// A GGUF file, or what is no checkpoint.
pub fn open(path: &Path) -> Result<Checkpoint, Error> {
    let checkpoint = Checkpoint::open(path)?;
    if checkpoint.kind != Kind::Safetensors {
        let what = "a GGUF file, to be averaged: give the Hugging Face directory that it was made from";
        return Err(CheckpointError::unsupported(path, what).into());
    }
    Ok(checkpoint)
}

/// The tensors of a Hugging Face directory with the structure of `first`, or of a state of a training, which names no structure.
///
/// # Errors
/// A GGUF file, or what is neither; a file that is damaged; another structure.
pub fn tensors(path: &Path, first: &Checkpoint) -> Result<Tensors, Error> {
    if is_state(path) {
        return Ok(Tensors::of_safetensors(&path.join(STATE_WEIGHTS))?);
    }
    let Checkpoint { mut structure, tensors, .. } = open(path)?;
    structure.context = first.structure.context;
    if structure != first.structure {
        let what = format!("to be averaged with {}: its structure is another", first.path.display());
        return Err(CheckpointError::unsupported(path, what).into());
    }
    Ok(tensors)
}

/// Writes `to/model`, the mean of a checkpoint with others, in its structure and with its tokenizer, and `facts` as `to/run.json`. `to` is there
/// whole or not at all. Bytes of the weights.
///
/// # Errors
/// A place that is taken, checkpoints of different structures, a disk that is full, or a wish to stop.
pub fn average(
    first: &Checkpoint,
    averaged: &Averaged,
    (to, facts): (&Path, Option<&str>),
    weights: Format,
    pool: &Pool,
    progress: &dyn Progress,
) -> Result<u64, Error> {
    let folder = folder_for(to)?;
    let model = folder.path().join("model");
    std::fs::create_dir(&model).map_err(unwritten(to))?;
    let written = write_safetensors(first, averaged, &model, weights, pool, progress)?;
    copy_beside(first, &model, &to.join("model"))?;
    if let Some(facts) = facts {
        std::fs::write(folder.path().join("run.json"), facts).map_err(unwritten(&to.join("run.json")))?;
    }
    keep(folder, to)?;
    Ok(written.bytes)
}
