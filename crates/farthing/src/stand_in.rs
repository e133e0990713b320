//! A stand-in for a model: its structure and the sizes of its files, without its weights. It computes nothing of sense, in the time that the model takes

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kernels::Format;
use kernels::encode::encode_row;
use model::Checkpoint;
use model::checkpoint::Kind;
use model::tensors::{Stored, Tensor};

use crate::error::Error;

/// Rows of tables of the vocabulary that get numbers: only ids below are used.
const ROWS: usize = 1024;
/// A configuration file at most, in bytes.
const CONFIGURATION_BYTES_MAX: u64 = 32 << 20;
/// Files that a loader reads beside the weights.
const CONFIGURATIONS: [&str; 3] = ["config.json", "generation_config.json", "model.safetensors.index.json"];

/// A stand-in's files, removed with it. They are sparse: as long as the model's, but only headers take room on disk. Computing brings them into memory, where
/// they take what the model would.
pub struct StandIn {
    /// What the loader opens.
    pub path: PathBuf,
    /// Ids below this are used: the rows of others are nothing.
    pub vocab: usize,
    _directory: tempfile::TempDir,
}

impl StandIn {
    /// A stand-in of a checkpoint, of which no weight is read: a preview of the hub's is enough.
    ///
    /// Weights are zeros, which take the time of others. In a mixture of experts the time depends on which experts are chosen: norms get ones, routers and
    /// the first rows of embeddings random numbers, so that tokens choose evenly.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn of(checkpoint: &Checkpoint) -> Result<StandIn, Error> {
        let directory = tempfile::Builder::new().prefix("farthing-stand-in-").tempdir()?;
        let mut files = Vec::new();
        for (number, mapping) in checkpoint.tensors.files.iter().enumerate() {
            let starts = checkpoint.tensors.by_name.values().filter(|t| t.file == number).map(|t| t.offset);
            let bytes = mapping.bytes();
            let name = mapping.path().file_name().unwrap_or_default();
            let header = &bytes[..starts.min().unwrap_or(bytes.len()).min(bytes.len())];
            files.push(sparse(&directory.path().join(name), header, bytes.len() as u64)?);
        }
        let path = match checkpoint.kind {
            Kind::Gguf => directory.path().join(checkpoint.path.file_name().unwrap_or_default()),
            Kind::Safetensors => {
                CONFIGURATIONS.iter().try_for_each(|name| copy(&checkpoint.path, directory.path(), name))?;
                directory.path().to_path_buf()
            }
        };
        let structure = &checkpoint.structure;
        let experts = structure.layers.iter().filter_map(|layer| layer.feed_forward.experts()).next();
        if let Some((experts, _)) = experts {
            fill(checkpoint, &files, experts)?;
        }
        Ok(StandIn { path, vocab: structure.vocab.min(ROWS), _directory: directory })
    }
}

fn failed(file: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    |source| Error::File { file: file.display().to_string(), source, step: "; TMPDIR names another place" }
}

/// A file with this beginning that is `len` bytes long.
fn sparse(path: &Path, header: &[u8], len: u64) -> Result<File, Error> {
    let made = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = made.map_err(failed(path))?;
    file.write_all(header).and_then(|()| file.set_len(len)).map_err(failed(path))?;
    Ok(file)
}

fn copy(from: &Path, to: &Path, name: &str) -> Result<(), Error> {
    let from = from.join(name);
    if std::fs::metadata(&from).is_ok_and(|about| about.len() <= CONFIGURATION_BYTES_MAX) {
        std::fs::copy(&from, to.join(name)).map_err(failed(&from))?;
    }
    Ok(())
}

/// Numbers for what decides on experts: all norms, routers, and the first rows of the tables of the vocabulary.
fn fill(checkpoint: &Checkpoint, files: &[File], experts: usize) -> Result<(), Error> {
    let (vocab, hidden) = (checkpoint.structure.vocab, checkpoint.structure.hidden);
    for (number, tensor) in checkpoint.tensors.by_name.values().enumerate() {
        let Stored::As(format) = tensor.stored else { continue };
        let (rows, cols) = match tensor.shape[..] {
            [cols] if !format.wants_quantized_input() => (1, cols),
            [rows, cols] if rows == experts && cols == hidden => (rows, cols),
            [rows, cols] if rows == vocab && cols == hidden => (rows.min(ROWS), cols),
            _ => continue,
        };
        let norm = tensor.shape.len() == 1;
        let number_at = |i: usize| if norm { 1.0 } else { noise((number as u64) << 40 | i as u64) };
        let Some(bytes) = encoded(format, rows, cols, number_at) else { continue };
        let Tensor { file, offset, bytes: most, .. } = *tensor;
        let bytes = &bytes[..bytes.len().min(most)];
        files[file].write_all_at(bytes, offset as u64).map_err(failed(checkpoint.tensors.files[file].path()))?;
    }
    Ok(())
}

/// Rows in a format; nothing in those that are not written row by row.
fn encoded(format: Format, rows: usize, cols: usize, number: impl Fn(usize) -> f32) -> Option<Vec<u8>> {
    let row_bytes = format.row_bytes(cols).filter(|_| format != Format::F8E4M3)?;
    let mut bytes = vec![0; rows * row_bytes];
    for (row, out) in bytes.chunks_mut(row_bytes).enumerate() {
        let x: Vec<f32> = (row * cols..(row + 1) * cols).map(&number).collect();
        encode_row(format, &x, None, out);
    }
    Some(bytes)
}

/// A number from -1 to 1 that follows from `i` and looks random (the mixing of SplitMix64).
fn noise(i: u64) -> f32 {
    let x = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ x >> 31) >> 40) as f32 / (1 << 23) as f32 - 1.0
}
