//! Importance matrices in llama.cpp's two file formats: of each column of a tensor's input the mean square over a text.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kernels::Format;
use model::CheckpointError;
use model::gguf;
use model::mmap::Mapping;
use model::tensors::{Tensors, read_bounded};

use crate::error::ConvertError;

/// Largest file that is read.
const BYTES_MAX: u64 = 1 << 30;

/// Reads the importance of each column, by tensor, from a GGUF file of sums and counts, or from the older format.
///
/// # Errors
/// A file that is neither, is cut off or contradicts itself.
pub fn read_importance(path: &Path) -> Result<BTreeMap<String, Vec<f32>>, ConvertError> {
    importance_of(path, read_bounded(path, BYTES_MAX)?)
}

/// As [`read_importance`], of the bytes of a file with this name.
///
/// # Errors
/// As [`read_importance`].
pub fn importance_of(path: &Path, bytes: Vec<u8>) -> Result<BTreeMap<String, Vec<f32>>, ConvertError> {
    if bytes.starts_with(b"GGUF") { from_gguf(path, bytes) } else { from_older(path, &bytes) }
}

fn from_gguf(path: &Path, bytes: Vec<u8>) -> Result<BTreeMap<String, Vec<f32>>, ConvertError> {
    let mut tensors = Tensors::default();
    let mapping = Arc::new(Mapping::held(&path.to_string_lossy(), bytes));
    let metadata = gguf::read_mapped(&mapping, &mut tensors)?;
    if metadata.values.get("general.type").and_then(gguf::Value::text) != Some("imatrix") {
        let what = "general.type is not imatrix: this is no importance matrix";
        return Err(CheckpointError::damaged(path, what).into());
    }
    let numbers = |name: &str| -> Result<Vec<f32>, ConvertError> {
        let weight = tensors.rows(name)?;
        // Sums are f32; blocks of a few bits would be many times the file in memory.
        if weight.format != Format::F32 {
            let what = format!("tensor {name} is stored in {}; sums and counts are F32", weight.format.name());
            return Err(CheckpointError::damaged(path, what).into());
        }
        let mut out = vec![0f32; weight.rows * weight.cols];
        let rows = out.chunks_mut(weight.cols.max(1)).enumerate();
        rows.for_each(|(row, out)| weight.matrix().decode_row(row, out));
        Ok(out)
    };
    let mut all = BTreeMap::new();
    for name in tensors.by_name.keys().filter_map(|name| name.strip_suffix(".in_sum2")) {
        let (mut sums, counts) = (numbers(&format!("{name}.in_sum2"))?, numbers(&format!("{name}.counts"))?);
        if counts.is_empty() || !sums.len().is_multiple_of(counts.len()) {
            let what = format!("{} sums and {} counts of tensor {name} cannot be", sums.len(), counts.len());
            return Err(CheckpointError::damaged(path, what).into());
        }
        let cols = sums.len() / counts.len();
        for (sums, &count) in sums.chunks_mut(cols.max(1)).zip(&counts) {
            // Of an expert that no token chose nothing is known: all columns count alike.
            sums.iter_mut().for_each(|x| *x = if count > 0.0 { *x / count } else { 1.0 });
        }
        all.insert(name.to_string(), sums);
    }
    Ok(all)
}

/// The format before GGUF: a count of entries, each a name, a number of calls, and sums that are divided by it.
fn from_older(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Vec<f32>>, ConvertError> {
    let damaged = || CheckpointError::damaged(path, "no importance matrix, or one that is cut off");
    let mut left = bytes;
    let mut take = |n: usize| -> Result<&[u8], CheckpointError> {
        let (taken, rest) = left.split_at_checked(n).ok_or_else(damaged)?;
        left = rest;
        Ok(taken)
    };
    fn number(bytes: &[u8]) -> i32 {
        i32::from_le_bytes(bytes.try_into().expect("four bytes"))
    }
    let size = |bytes: &[u8]| usize::try_from(number(bytes)).map_err(|_| damaged());
    let entries = size(take(4)?)?;
    let mut all = BTreeMap::new();
    for _ in 0..entries {
        let length = size(take(4)?)?;
        let name = std::str::from_utf8(take(length)?).map_err(|_| damaged())?.to_string();
        let calls = number(take(4)?);
        let length = size(take(4)?)?;
        let values = take(length.checked_mul(4).ok_or_else(damaged)?)?;
        let by = if calls > 0 { calls as f32 } else { 1.0 };
        let value = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("four bytes")) / by;
        all.insert(name, values.chunks_exact(4).map(value).collect());
    }
    if all.is_empty() {
        return Err(damaged().into());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_and_what_is_none() {
        let mut bytes = 1i32.to_le_bytes().to_vec();
        bytes.extend(4i32.to_le_bytes());
        bytes.extend(b"blk0");
        bytes.extend(2i32.to_le_bytes());
        bytes.extend(2i32.to_le_bytes());
        [3f32, 8.0].iter().for_each(|x| bytes.extend(x.to_le_bytes()));
        let path = Path::new("x.dat");
        let read = from_older(path, &bytes).unwrap();
        assert_eq!(read, BTreeMap::from([("blk0".to_string(), vec![1.5, 4.0])]));
        for end in 0..bytes.len() {
            assert!(from_older(path, &bytes[..end]).is_err(), "{end}");
        }
        for bytes in [&[0xff; 40][..], b"some text, longer than a few bytes"] {
            assert!(from_older(path, bytes).is_err());
        }
    }
    #[test]
    fn sums_are_divided_by_counts_and_are_f32() {
        let seed = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/importance/sums.gguf");
        let (path, bytes) = (Path::new("x.gguf"), std::fs::read(seed).unwrap());
        let expected = [
            ("blk.0.ffn_down_exps.weight", vec![0.5, 1.0, 1.0, 1.0]),
            ("blk.0.ffn_up.weight", vec![0.5, 1.0, 1.5, 2.0]),
        ];
        let expected = BTreeMap::from(expected.map(|(name, columns)| (name.to_string(), columns)));
        assert_eq!(importance_of(path, bytes.clone()).unwrap(), expected);
        // The type behind the first tensor's name, number of dimensions and two sizes: F16 in the place of F32.
        let name = b"blk.0.ffn_up.weight.in_sum2";
        let at = bytes.windows(name.len()).position(|part| part == name).unwrap() + name.len() + 4 + 16;
        let mut halves = bytes;
        halves[at] = 1;
        let error = importance_of(path, halves).unwrap_err().to_string();
        assert!(
            error.contains("tensor blk.0.ffn_up.weight.in_sum2 is stored in F16; sums and counts are F32"),
            "{error}"
        );
    }
}
