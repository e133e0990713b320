//! What a training left beside its model: the facts of a model card, in `run.json`

use std::path::{Path, PathBuf};

use convert::ModelCard;
use serde::Deserialize;

use crate::Failure;

/// Bytes of a `run.json`: a recipe has a MiB at most, and a card those of earlier trainings too.
const RUN_BYTES_MAX: u64 = 16 << 20;

/// What `run.json` says of the model beside it.
pub struct Facts {
    pub file: PathBuf,
    /// Whether the model is that of the training's end.
    pub finished: bool,
    pub card: ModelCard,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Run {
    finished: bool,
    /// The model's directory.
    model: PathBuf,
    card: Option<ModelCard>,
}

/// Of the model in this directory; `None` where there are none, or they are of another model.
///
/// # Errors
/// A file that cannot be read, or whose card is none.
pub fn of_model(model: &Path) -> Result<Option<Facts>, Failure> {
    let model = model.canonicalize().unwrap_or_else(|_| model.to_path_buf());
    let Some(file) = model.parent().map(|parent| parent.join("run.json")).filter(|file| file.is_file()) else {
        return Ok(None);
    };
    let bytes = model::tensors::read_bounded(&file, RUN_BYTES_MAX)?;
    let Run { finished, model: of, card } = parsed(serde_json::from_slice(&bytes), &file)?;
    if of.file_name() != model.file_name() {
        return Ok(None);
    }
    Ok(card.map(|card| Facts { file, finished, card }))
}

/// A failure that names the file which is not what it should be.
pub fn parsed<T>(facts: serde_json::Result<T>, file: &Path) -> Result<T, Failure> {
    facts.map_err(|e| Failure::failed(format!("{}: not the facts of a card: {e}", file.display())))
}
