//! Whether a snapshot on disk holds all files of a model.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirEntry;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::HubError;
use crate::select::{INDEX, Picked, check_path, pick_gguf};

const INDEX_MAX: u64 = 256 << 20;

#[derive(Deserialize)]
struct WeightIndex {
    weight_map: BTreeMap<String, String>,
}

/// The path for the loader, where the model that `file` means is whole.
pub(crate) fn model(snapshot: &Path, file: Option<&str>) -> Result<Option<PathBuf>, HubError> {
    if file.is_none() && safetensors(snapshot)? {
        return Ok(Some(snapshot.to_path_buf()));
    }
    let paths: Vec<String> = entries(snapshot)?.into_iter().filter(|path| snapshot.join(path).is_file()).collect();
    match pick_gguf(paths.iter().map(String::as_str), file) {
        Picked::One(parts) if parts.iter().all(|part| snapshot.join(part).is_file()) => {
            Ok(parts.first().map(|part| snapshot.join(part)))
        }
        Picked::One(_) | Picked::None(_) => Ok(None),
        Picked::Several(models) => {
            let names: Vec<&str> = models.iter().filter_map(|parts| parts.first()).map(String::as_str).collect();
            let why = format!("several GGUF files could be meant: {}; write one after a colon", names.join(", "));
            Err(HubError::Layout { path: snapshot.to_path_buf(), why })
        }
    }
}

/// Whether `config.json` and all safetensors are there.
pub(crate) fn safetensors(snapshot: &Path) -> Result<bool, HubError> {
    let there = |file: &str| snapshot.join(file).is_file();
    if !there("config.json") {
        return Ok(false);
    }
    if there("model.safetensors") {
        return Ok(true);
    }
    if !there(INDEX) {
        return Ok(false);
    }
    Ok(indexed(&snapshot.join(INDEX))?.iter().all(|file| there(file)))
}

/// Files that an index names.
fn indexed(path: &Path) -> Result<BTreeSet<String>, HubError> {
    let damaged = |why: String| HubError::Layout {
        path: path.to_path_buf(),
        why: format!("{why}; remove the model and pull it again"),
    };
    let bytes = std::fs::metadata(path).map_err(|e| HubError::disk(path, e))?.len();
    if bytes > INDEX_MAX {
        return Err(damaged(format!("the index has {bytes} bytes and at most {INDEX_MAX} are read")));
    }
    let text = std::fs::read(path).map_err(|e| HubError::disk(path, e))?;
    let index: WeightIndex =
        serde_json::from_slice(&text).map_err(|e| damaged(format!("the index cannot be read: {e}")))?;
    let files: BTreeSet<String> = index.weight_map.into_values().collect();
    if files.is_empty() {
        return Err(damaged("the index names no files".to_string()));
    }
    files.iter().try_for_each(|file| check_path(file)).map_err(damaged)?;
    Ok(files)
}

/// Everything under a directory that is no directory, by path relative to it. Linked directories are not entered, and
/// names that are not text are left out.
pub(crate) fn entries(directory: &Path) -> Result<Vec<String>, HubError> {
    let mut found = Vec::new();
    let mut open = vec![(directory.to_path_buf(), String::new())];
    while let Some((at, prefix)) = open.pop() {
        for entry in directory_entries(&at)? {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let kind = entry.file_type().map_err(|e| HubError::disk(&at, e))?;
            let path = format!("{prefix}{name}");
            if kind.is_dir() {
                open.push((entry.path(), format!("{path}/")));
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What is in a directory; nothing where there is none.
pub(crate) fn directory_entries(directory: &Path) -> Result<Vec<DirEntry>, HubError> {
    match std::fs::read_dir(directory).and_then(Iterator::collect) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|e| HubError::disk(directory, e)),
    }
}
