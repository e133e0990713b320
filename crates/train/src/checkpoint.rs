//! States of a training on disk: whole or not there, and enough of them that the next step has the same bits as without a stop.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use model::mmap::Mapping;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::parameters::Parameters;
use crate::pass::Values;
use crate::schedule::Schedule;
use crate::whole;

/// What a state says of itself besides its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    /// Hash of all that the training's numbers follow from, but for `schedule`.
    pub identity: String,
    /// By which the steps so far were taken.
    pub schedule: Schedule,
    /// Steps taken.
    pub step: u64,
    /// The next piece of the corpus.
    pub place: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Hashes of the files beside it.
    files: BTreeMap<String, String>,
}

const VERSION: u32 = 2;
const STATE: &str = "state.json";
const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE_BYTES_MAX: u64 = 1 << 20;

/// How a state's directory begins.
const PREFIX: &str = "step-";

impl State {
    pub(crate) fn new(
        identity: &str,
        schedule: Schedule,
        (step, place): (u64, u64),
        tokens: u64,
        seconds: f64,
    ) -> State {
        let (identity, files) = (identity.to_string(), BTreeMap::new());
        State { version: VERSION, identity, schedule, step, place, tokens, seconds, files }
    }
}

/// All numbers of a training between two steps.
pub(crate) struct Numbers {
    pub weights: Values,
    /// The optimizer's.
    pub means: Values,
    pub squares: Values,
}

/// The bytes of numbers, without a copy where the machine has them in the file's order.
pub(crate) fn bytes(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        Cow::Borrowed(bytemuck::cast_slice(values))
    } else {
        Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }
}

/// A tensor to write: name, shape, type and bytes.
pub(crate) type Tensor<'a> = (String, Vec<usize>, Dtype, Cow<'a, [u8]>);

/// Write tensors to a new file, synced.
pub(crate) fn write_tensors(
    path: &Path,
    tensors: &[Tensor],
    about: Option<HashMap<String, String>>,
) -> Result<(), Error> {
    let views: Vec<(&str, TensorView)> = tensors
        .iter()
        .map(|(name, shape, dtype, data)| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), data).expect("bytes of the shape"))
        })
        .collect();
    serialize_to_file(views, about, path).map_err(|e| match e {
        safetensors::SafeTensorError::IoError(e) => Error::io(path)(e),
        e => Error::file(path, e.to_string()),
    })?;
    File::open(path).and_then(|f| f.sync_all()).map_err(Error::io(path))
}

fn list<'a>(parameters: &Parameters, prefix: &str, values: &'a Values) -> Vec<Tensor<'a>> {
    let there = parameters.iter().zip(values).filter(|(_, v)| !v.is_empty());
    there.map(|(p, v)| (format!("{prefix}{}", p.name), p.shape.clone(), Dtype::F32, bytes(v))).collect()
}

/// Write a state below `directory`, and remove all but the newest `keep`.
///
/// # Errors
/// Where the system refuses: the states that were there stay.
pub(crate) fn save(
    directory: &Path,
    parameters: &Parameters,
    mut state: State,
    numbers: &Numbers,
    keep: usize,
) -> Result<PathBuf, Error> {
    let path = directory.join(format!("{PREFIX}{:08}", state.step));
    fs::create_dir_all(directory).map_err(Error::io(directory))?;
    whole::clear(directory)?;
    room_for(directory, needed(numbers))?;
    let written = whole::write(&path, |temporary| {
        write_tensors(&temporary.join(WEIGHTS), &list(parameters, "", &numbers.weights), None)?;
        let mut optimizer = list(parameters, "mean.", &numbers.means);
        optimizer.extend(list(parameters, "square.", &numbers.squares));
        write_tensors(&temporary.join(OPTIMIZER), &optimizer, None)?;
        for name in [WEIGHTS, OPTIMIZER] {
            state.files.insert(name.to_string(), hash(&temporary.join(name))?);
        }
        let text = serde_json::to_vec_pretty(&state).expect("a state is JSON");
        Ok(data::atomic::write(&temporary.join(STATE), &text).map(drop)?)
    });
    if let Err(error) = written {
        return Err(Error::Unsaved { source: Box::new(error), last: last(directory) });
    }
    // Those of later steps are damaged, or the training would have gone on from them.
    let older = all(directory)?.into_iter().filter(|(step, _)| *step < state.step).rev();
    for (_, old) in older.skip(keep - 1) {
        fs::remove_dir_all(&old).map_err(Error::io(&old))?;
    }
    Ok(path)
}

/// Bytes of a state: its numbers, and what is around them.
fn needed(numbers: &Numbers) -> u64 {
    let all = [&numbers.weights, &numbers.means, &numbers.squares].into_iter().flatten();
    (1 << 20) + all.map(|values| 4 * values.len() as u64).sum::<u64>()
}

/// Whether a directory's disk has room for this many bytes; where the system does not tell, writing will.
fn room_for(directory: &Path, needed: u64) -> Result<(), Error> {
    let Ok(disk) = rustix::fs::statvfs(directory) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free >= needed {
        return Ok(());
    }
    Err(Error::Space { directory: directory.to_path_buf(), needed, free, last: last(directory) })
}

/// The newest state by its name, for messages.
pub(crate) fn last(directory: &Path) -> String {
    let newest = all(directory).ok().and_then(|mut states| states.pop());
    newest.map_or_else(|| "none yet".to_string(), |(_, path)| path.display().to_string())
}

fn hash(path: &Path) -> Result<String, Error> {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path).map_err(Error::io(path))?;
    std::io::copy(&mut file, &mut hasher).map_err(Error::io(path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The states below a directory by their steps, the oldest first.
fn all(directory: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(directory)(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io(directory))?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|n| n.strip_prefix(PREFIX)).and_then(|n| n.parse::<u64>().ok());
        found.extend(step.map(|step| (step, entry.path())));
    }
    found.sort();
    Ok(found)
}

/// The newest state below a directory that is whole; damaged ones are told to `damaged`.
///
/// # Errors
/// A state of another training or of another version of this program; a system that refuses.
pub(crate) fn newest(
    directory: &Path,
    parameters: &Parameters,
    identity: &str,
    damaged: &mut dyn FnMut(&Path, &Error),
) -> Result<Option<(State, Numbers)>, Error> {
    for (_, path) in all(directory)?.into_iter().rev() {
        check_version(&path.join(STATE))?;
        match read(&path, parameters) {
            Ok((state, _)) if state.identity != identity => {
                let problem = "it is of a training with other settings, data or structure; train into another directory, or remove this one";
                return Err(Error::file(path, problem));
            }
            Ok(found) => return Ok(Some(found)),
            Err(error) => damaged(&path, &error),
        }
    }
    Ok(None)
}

/// Refuses a state of another version: it is not damaged, and what trains from the start in its place would remove it.
fn check_version(file: &Path) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Ok(text) = model::tensors::read_bounded(file, STATE_BYTES_MAX) else { return Ok(()) };
    match serde_json::from_slice::<Versioned>(&text) {
        Ok(Versioned { version }) if version != VERSION => {
            let problem = format!(
                "it is of version {version}, and this program reads {VERSION}: go on with the program that wrote it, or train into another directory"
            );
            Err(Error::file(file, problem))
        }
        _ => Ok(()),
    }
}

fn read(path: &Path, parameters: &Parameters) -> Result<(State, Numbers), Error> {
    let file = path.join(STATE);
    let text = model::tensors::read_bounded(&file, STATE_BYTES_MAX)?;
    let state: State = serde_json::from_slice(&text).map_err(|e| Error::file(&file, e.to_string()))?;
    let expected: u64 = 64 * (1 << 20) + 4 * 4 * parameters.numbers() as u64;
    // Files are mapped: beside the numbers that are made of them their bytes take no memory.
    let tensors = |name: &str| -> Result<Mapping, Error> {
        let file = path.join(name);
        let mapping = Mapping::open(&file).map_err(Error::io(&file))?;
        let whole = mapping.bytes().len() as u64 <= expected;
        let hash = whole.then(|| blake3::hash(mapping.bytes()).to_hex().to_string());
        if hash.is_none() || state.files.get(name) != hash.as_ref() {
            return Err(Error::file(file, "its bytes are not those that were written"));
        }
        Ok(mapping)
    };
    let (weights, optimizer) = (tensors(WEIGHTS)?, tensors(OPTIMIZER)?);
    let numbers = Numbers {
        weights: values(&path.join(WEIGHTS), weights.bytes(), parameters, "", true)?,
        means: values(&path.join(OPTIMIZER), optimizer.bytes(), parameters, "mean.", false)?,
        squares: values(&path.join(OPTIMIZER), optimizer.bytes(), parameters, "square.", false)?,
    };
    Ok((state, numbers))
}

fn values(path: &Path, bytes: &[u8], parameters: &Parameters, prefix: &str, all: bool) -> Result<Values, Error> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| Error::file(path, e.to_string()))?;
    let one = |p: &crate::Parameter| {
        let name = format!("{prefix}{}", p.name);
        match tensors.tensor(&name) {
            Ok(tensor) if tensor.shape() == p.shape && tensor.dtype() == Dtype::F32 => {
                let numbers = tensor.data().chunks_exact(4);
                Ok(numbers.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
            }
            Ok(tensor) => Err(Error::file(path, format!("tensor {name} has the shape {:?}", tensor.shape()))),
            Err(_) if all => Err(Error::file(path, format!("tensor {name} is missing"))),
            Err(_) => Ok(Vec::new()),
        }
    };
    parameters.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_named_with_the_last_state() {
        let folder = tempfile::tempdir().unwrap();
        room_for(folder.path(), 1).unwrap();
        let error = room_for(folder.path(), u64::MAX).unwrap_err().to_string();
        assert!(error.contains("needs 18446744073709551615 bytes and ") && error.contains("is none yet;"), "{error}");
        for step in ["step-00000009", "step-00000011"] {
            fs::create_dir(folder.path().join(step)).unwrap();
        }
        let error = room_for(folder.path(), u64::MAX).unwrap_err().to_string();
        assert!(error.contains("step-00000011; make room"), "{error}");
        let numbers = Numbers { weights: vec![vec![0.0; 3], vec![0.0; 2]], means: vec![vec![0.0; 5]], squares: vec![] };
        assert_eq!(needed(&numbers), (1 << 20) + 40);
    }
}
