//! Stored tensors by name, whatever the file's kind: where they lie, their format and shape. No byte of a weight is read here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernels::Format;
use safetensors::{Dtype, SafeTensors};

use crate::error::CheckpointError;
use crate::mmap::Mapping;
use crate::weight::Weight;

/// Largest number of one dimension, so that products of sizes cannot overflow.
pub(crate) const DIMENSION_MAX: usize = 1 << 40;
/// Longest header of a safetensors file (a hundred thousand tensors take about 15 MB).
const HEADER_BYTES_MAX: u64 = 32 << 20;
/// Longest index (DeepSeek-V3's has 9 MB).
const INDEX_BYTES_MAX: u64 = 32 << 20;
/// Most files of one checkpoint.
const FILES_MAX: usize = 4096;

/// The two kinds of checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Hugging Face directory of safetensors.
    Safetensors,
    /// GGUF file or files.
    Gguf,
}

/// How a tensor is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// In a format that kernels know.
    As(Format),
    /// In one they do not, by name.
    Unknown(String),
}

/// One stored tensor.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Format.
    pub stored: Stored,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Index of its file.
    pub file: usize,
    /// First byte in the file.
    pub offset: usize,
    /// Bytes.
    pub bytes: usize,
}

/// All tensors of a checkpoint.
#[derive(Default)]
pub struct Tensors {
    /// Mapped files.
    pub files: Vec<Arc<Mapping>>,
    /// By name.
    pub by_name: BTreeMap<String, Tensor>,
}

/// How much of a checkpoint is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Names, formats and shapes: vectors come back empty, and no byte of a tensor is read.
    Headers,
    /// Numbers too.
    Numbers,
}

/// What is done about a file that is not there or not sound.
pub(crate) const FETCH: &str = "fetch it again (`farthing pull` does for a model of the hub)";

impl Tensors {
    /// Add a tensor of the file with index `file`, after checking that it lies inside.
    pub(crate) fn add(&mut self, name: String, tensor: Tensor) -> Result<(), CheckpointError> {
        let file = &self.files[tensor.file];
        let path = file.path();
        let end = tensor.offset.checked_add(tensor.bytes).filter(|&end| end <= file.bytes().len());
        if end.is_none() {
            let (Tensor { offset: at, bytes, .. }, len) = (tensor, file.bytes().len());
            let what = format!(
                "tensor {name} takes {bytes} bytes at {at}, but the file has {len}; it may be cut off: fetch it again"
            );
            return Err(CheckpointError::damaged(path, what));
        }
        if let Stored::As(format) = tensor.stored
            && bytes_of(format, &tensor.shape) != Some(tensor.bytes)
        {
            let (format, Tensor { shape, bytes, .. }) = (format.name(), tensor);
            let what = format!("tensor {name} of {format} and shape {shape:?} cannot take {bytes} bytes");
            return Err(CheckpointError::damaged(path, what));
        }
        if let Some(before) = self.by_name.insert(name.clone(), tensor) {
            let other = self.files[before.file].path().display();
            let what = format!("tensor {name} is there twice (also in {other}); {FETCH}");
            return Err(CheckpointError::damaged(self.files[self.by_name[&name].file].path(), what));
        }
        Ok(())
    }

    /// The tensors of one safetensors file.
    ///
    /// # Errors
    /// A file that is not there, is cut off or lies about itself.
    pub fn of_safetensors(path: &Path) -> Result<Tensors, CheckpointError> {
        let mut tensors = Tensors::default();
        tensors.add_safetensors(path)?;
        Ok(tensors)
    }

    /// Read the header of a safetensors file and add its tensors.
    pub(crate) fn add_safetensors(&mut self, path: &Path) -> Result<(), CheckpointError> {
        self.add_mapped(Arc::new(Mapping::open(path).map_err(|e| CheckpointError::read(path, e))?))
    }

    /// Read the header of a safetensors file that is already mapped.
    ///
    /// # Errors
    /// A file that is cut off or lies about itself.
    pub fn add_mapped(&mut self, mapping: Arc<Mapping>) -> Result<(), CheckpointError> {
        let (path, bytes) = (mapping.path(), mapping.bytes());
        pointer(path, bytes)?;
        let announced = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
        if let Some(length) = announced.filter(|&n| n > HEADER_BYTES_MAX) {
            return Err(CheckpointError::damaged(
                path,
                format!("not a safetensors file: a header of {length} bytes; at most {HEADER_BYTES_MAX} are read"),
            ));
        }
        let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| {
            CheckpointError::damaged(path, format!("not a whole safetensors file: {e}; fetch it again"))
        })?;
        let start = header + 8;
        self.files.push(Arc::clone(&mapping));
        for (name, info) in metadata.tensors() {
            let stored = match info.dtype {
                Dtype::F32 => Stored::As(Format::F32),
                Dtype::F16 => Stored::As(Format::F16),
                Dtype::BF16 => Stored::As(Format::Bf16),
                Dtype::F8_E4M3 => Stored::As(Format::F8E4M3),
                other => Stored::Unknown(format!("{other:?}")),
            };
            if let Some(&size) = info.shape.iter().find(|&&n| n > DIMENSION_MAX) {
                return Err(CheckpointError::damaged(path, format!("tensor {name} has a dimension of {size}")));
            }
            let (from, to) = info.data_offsets;
            let tensor = Tensor {
                stored,
                shape: info.shape.clone(),
                file: self.files.len() - 1,
                offset: start.saturating_add(from),
                bytes: to.saturating_sub(from),
            };
            self.add(name, tensor)?;
        }
        Ok(())
    }

    /// Safetensors of a directory: `model.safetensors`, or the files an index names.
    pub(crate) fn of_directory(directory: &Path) -> Result<Tensors, CheckpointError> {
        let mut tensors = Tensors::default();
        let single = directory.join("model.safetensors");
        let index = directory.join("model.safetensors.index.json");
        if single.is_file() {
            tensors.add_safetensors(&single)?;
        } else if index.is_file() {
            let bytes = read_bounded(&index, INDEX_BYTES_MAX)?;
            let places = index_places(&index, &bytes)?;
            let mut files: Vec<&str> = places.values().map(String::as_str).collect();
            files.sort_unstable();
            files.dedup();
            if files.len() > FILES_MAX {
                return Err(CheckpointError::damaged(
                    &index,
                    format!("{} files; at most {FILES_MAX} are read", files.len()),
                ));
            }
            for file in files {
                let file = directory.join(file);
                if matches!(file.try_exists(), Ok(false)) {
                    let what = format!("not there, but {} names it; {FETCH}", index.display());
                    return Err(CheckpointError::damaged(&file, what));
                }
                tensors.add_safetensors(&file)?;
            }
            for (name, file) in &places {
                let there = tensors.by_name.get(name).and_then(|t| tensors.files[t.file].path().file_name());
                if there.is_none_or(|f| f != file.as_str()) {
                    let what = format!("tensor {name} should be in {file} and is not: fetch both files again");
                    return Err(CheckpointError::damaged(&index, what));
                }
            }
        } else {
            return Err(CheckpointError::damaged(directory, without_weights(directory)));
        }
        Ok(tensors)
    }

    /// A model that was saved without its head has other names: they become those of one with a head.
    pub(crate) fn name_as_with_a_head(&mut self) {
        if self.has("embed_tokens.weight") && !self.has("model.embed_tokens.weight") {
            let by_name = std::mem::take(&mut self.by_name).into_iter();
            self.by_name = by_name.map(|(name, tensor)| (format!("model.{name}"), tensor)).collect();
        }
    }

    fn find(&self, name: &str) -> Result<&Tensor, CheckpointError> {
        let missing = || CheckpointError::Missing { path: self.any_path(), tensor: name.to_string() };
        self.by_name.get(name).ok_or_else(missing)
    }

    /// A file of the checkpoint, for messages.
    pub(crate) fn any_path(&self) -> PathBuf {
        self.files.first().map_or_else(PathBuf::new, |f| f.path().to_path_buf())
    }

    fn weight(
        &self,
        name: &str,
        tensor: &Tensor,
        [rows, cols]: [usize; 2],
        depth: Depth,
    ) -> Result<Weight, CheckpointError> {
        let path = self.files[tensor.file].path();
        let format = match &tensor.stored {
            Stored::As(format) => *format,
            Stored::Unknown(kind) => {
                let known: Vec<_> = Format::ALL.iter().map(|f| f.name()).collect();
                let what = format!("tensor {name} is stored as {kind}; supported are {}", known.join(", "));
                return Err(CheckpointError::unsupported(path, what));
            }
        };
        // The factors of an FP8 tensor (`X.weight_scale_inv` multiplies, whatever its name says).
        let factors = || self.numbers(&format!("{name}_scale_inv"), &[rows.div_ceil(128), cols.div_ceil(128)], depth);
        let scales = (format == Format::F8E4M3).then(factors).transpose()?.map(Arc::from);
        Ok(Weight {
            format,
            rows,
            cols,
            file: Arc::clone(&self.files[tensor.file]),
            offset: tensor.offset,
            scales,
            scale_row: 0,
        })
    }

    fn check(&self, name: &str, tensor: &Tensor, wanted: &[usize]) -> Result<(), CheckpointError> {
        if tensor.shape == wanted {
            return Ok(());
        }
        Err(CheckpointError::Shape {
            path: self.files[tensor.file].path().to_path_buf(),
            tensor: name.to_string(),
            found: tensor.shape.clone(),
            expected: wanted.to_vec(),
        })
    }

    /// A tensor's bytes in its file.
    pub(crate) fn bytes(&self, tensor: &Tensor) -> &[u8] {
        &self.files[tensor.file].bytes()[tensor.offset..tensor.offset + tensor.bytes]
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// A matrix of this shape.
    pub(crate) fn matrix(&self, name: &str, rows: usize, cols: usize, depth: Depth) -> Result<Weight, CheckpointError> {
        let tensor = self.find(name)?;
        self.check(name, tensor, &[rows, cols])?;
        self.weight(name, tensor, [rows, cols], depth)
    }

    /// `count` matrices of this shape in one tensor `[count, rows, cols]`.
    pub(crate) fn stack(
        &self,
        name: &str,
        [count, rows, cols]: [usize; 3],
        depth: Depth,
    ) -> Result<Vec<Weight>, CheckpointError> {
        let tensor = self.find(name)?;
        self.check(name, tensor, &[count, rows, cols])?;
        let all = self.weight(name, tensor, [count * rows, cols], depth)?;
        Ok((0..count).map(|i| all.view(i * rows, rows)).collect())
    }

    /// A tensor of any shape as the matrix of its rows, with its factors where it is FP8.
    ///
    /// # Errors
    /// A name that is not there, a format that is not read, or factors that are missing.
    pub fn rows(&self, name: &str) -> Result<Weight, CheckpointError> {
        let tensor = self.find(name)?;
        let rows = tensor.shape.iter().rev().skip(1).product();
        self.weight(name, tensor, [rows, tensor.shape.last().copied().unwrap_or(1)], Depth::Numbers)
    }

    /// A tensor of this shape, widened to f32.
    pub(crate) fn numbers(&self, name: &str, shape: &[usize], depth: Depth) -> Result<Vec<f32>, CheckpointError> {
        let tensor = self.find(name)?;
        self.check(name, tensor, shape)?;
        let len = shape.iter().product();
        if tensor.stored == Stored::As(Format::F8E4M3) {
            let path = self.files[tensor.file].path();
            return Err(CheckpointError::damaged(
                path,
                format!("tensor {name} is a vector in FP8, which has no factors"),
            ));
        }
        let weight = self.weight(name, tensor, [1, len], depth)?;
        if depth == Depth::Headers {
            return Ok(Vec::new());
        }
        let mut out = vec![0f32; len];
        weight.matrix().decode_row(0, &mut out);
        if let Some((at, bad)) = out.iter().enumerate().find(|(_, x)| !x.is_finite()) {
            let path = self.files[tensor.file].path();
            return Err(CheckpointError::damaged(
                path,
                format!("tensor {name} holds {bad} at {at}; it is damaged: fetch it again"),
            ));
        }
        Ok(out)
    }

    /// A tensor of this shape as f32, from whatever format it is stored in. Every number is finite.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape or an unknown format, or that holds a NaN or an infinite number.
    pub fn widened(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let [rows, cols] = *shape else { return self.numbers(name, shape, Depth::Numbers) };
        let weight = self.matrix(name, rows, cols, Depth::Numbers)?;
        let mut out = vec![0f32; rows * cols];
        if cols > 0 {
            out.chunks_mut(cols).enumerate().for_each(|(r, row)| weight.matrix().decode_row(r, row));
        }
        match out.iter().position(|x| !x.is_finite()) {
            None => Ok(out),
            Some(at) => Err(CheckpointError::damaged(
                weight.file.path(),
                format!("tensor {name} holds {} at {at}; it is damaged: {FETCH}", out[at]),
            )),
        }
    }

    /// The first number of a tensor that is none (NaN or infinite), with its place: row and column of the tensor seen as a matrix.
    /// `None` where all are numbers, and for formats that are not known. Reads the whole tensor.
    pub fn not_finite(&self, name: &str) -> Option<(usize, usize, f32)> {
        let tensor = self.by_name.get(name)?;
        let Stored::As(format) = tensor.stored else { return None };
        if tensor.bytes == 0 {
            return None;
        }
        let cols = tensor.shape.last().copied().unwrap_or(1).max(1);
        let rows = tensor.shape.iter().rev().skip(1).product::<usize>();
        // FP8 without its factors: they are checked when they are loaded.
        let ones = vec![1f32; if format == Format::F8E4M3 { rows.div_ceil(128) * cols.div_ceil(128) } else { 0 }];
        let bytes = self.bytes(tensor);
        let matrix = match format {
            Format::F8E4M3 => kernels::Matrix::with_scales(rows, cols, bytes, &ones, 0),
            _ => kernels::Matrix::new(format, rows, cols, bytes),
        };
        let mut row = vec![0f32; cols];
        (0..rows).find_map(|r| {
            matrix.decode_row(r, &mut row);
            row.iter().enumerate().find(|(_, x)| !x.is_finite()).map(|(c, &x)| (r, c, x))
        })
    }
}

/// Bytes of a tensor; `None` where rows are no whole blocks, or the size overflows.
pub(crate) fn bytes_of(format: Format, shape: &[usize]) -> Option<usize> {
    let rows = shape.iter().rev().skip(1).try_fold(1usize, |a, &b| a.checked_mul(b))?;
    format.row_bytes(shape.last().copied().unwrap_or(1))?.checked_mul(rows)
}

/// What to say of a directory with a configuration and no weights that are read.
fn without_weights(directory: &Path) -> String {
    let name = "model.safetensors";
    // Links of a cache whose blobs are gone, pipes, directories.
    if std::fs::symlink_metadata(directory.join(name)).is_ok() {
        return format!("{name} is no plain file, or a link to none: fetch it again");
    }
    let names = names_in(directory);
    let found = |wanted: fn(&str) -> bool| names.iter().find(|name| wanted(name));
    if let Some(file) = found(|name| name.ends_with(".safetensors")) {
        return format!(
            "{file} is there, but neither {name} nor {name}.index.json, which tells of several files: fetch that too"
        );
    }
    if let Some(file) = found(|name| [".bin", ".pt", ".pth"].iter().any(|end| name.ends_with(end))) {
        return format!("{file} is no format that is read: take this model's safetensors, or a GGUF file");
    }
    format!("neither {name} nor {name}.index.json is there; MODEL is a Hugging Face directory or a GGUF file")
}

/// Names of files in a directory, in order; of a huge one not all.
pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().take(10_000);
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// What stands in the place of a large file where Git LFS did not bring it.
pub(crate) fn pointer(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    match bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        true => Err(CheckpointError::damaged(
            path,
            "a pointer of Git LFS, not the file itself: `git lfs pull` beside it fetches the file",
        )),
        false => Ok(()),
    }
}

/// A whole plain file of at most `max` bytes.
///
/// # Errors
/// A file that cannot be read, is longer, or is none (a pipe would wait for ever).
pub fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, CheckpointError> {
    use std::io::Read;
    let about = std::fs::metadata(path).map_err(|e| CheckpointError::read(path, e))?;
    if !about.is_file() {
        return Err(CheckpointError::damaged(path, "not a plain file"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| CheckpointError::read(path, e))?;
    file.take(max + 1).read_to_end(&mut bytes).map_err(|e| CheckpointError::read(path, e))?;
    if bytes.len() as u64 > max {
        return Err(CheckpointError::damaged(
            path,
            format!("more than {max} bytes, which is more than such a file may have"),
        ));
    }
    pointer(path, &bytes)?;
    Ok(bytes)
}

/// The file of each tensor, by an index; a name that leaves the directory is refused.
///
/// # Errors
/// Bytes that are no index.
pub fn index_places(index: &Path, bytes: &[u8]) -> Result<BTreeMap<String, String>, CheckpointError> {
    #[derive(serde::Deserialize)]
    struct SafetensorsIndex {
        weight_map: BTreeMap<String, String>,
    }
    let parsed: SafetensorsIndex = serde_json::from_slice(bytes)
        .map_err(|e| CheckpointError::damaged(index, format!("not an index of safetensors files: {e}")))?;
    if parsed.weight_map.is_empty() {
        return Err(CheckpointError::damaged(index, "weight_map names no tensor"));
    }
    for (tensor, file) in &parsed.weight_map {
        let mut parts = Path::new(file).components();
        let single = matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(_)), None));
        if !single || file.contains(['/', '\\', '\0']) {
            let file: String = file.chars().take(200).collect();
            let what = format!("weight_map of {tensor} names {file:?}, which is outside the directory");
            return Err(CheckpointError::damaged(index, what));
        }
    }
    Ok(parsed.weight_map)
}
