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

#[cfg(test)]
mod tests {
    use super::*;

    /// A training that goes on from the bundled model has its history from the file beside it.
    #[test]
    fn the_bundled_model_has_its_facts_beside_it() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/pocket");
        let Facts { finished, card, .. } = of_model(&folder.join("pocket-Q8_0.gguf")).unwrap().unwrap();
        assert!(finished && card.license == "Apache-2.0");
        let text = std::fs::read_to_string(folder.join("README.md")).unwrap();
        let trainings = card.earlier.iter().map(|earlier| &earlier.training).chain(&card.training);
        for training in trainings {
            assert!(
                text.contains(&format!("- {} steps, {} tokens\n", training.steps, training.tokens)),
                "{training:?}"
            );
        }
        for source in &card.data {
            let row = format!("| {} | {} | {} |", source.name, source.license, source.tokens.unwrap());
            assert!(text.contains(&row), "{row}");
        }
        assert!(card.results.iter().all(|result| text.contains(&format!("| {} | {} |", result.name, result.value))));
        assert!(of_model(&folder.join("another.gguf")).unwrap().is_none());
    }
}
