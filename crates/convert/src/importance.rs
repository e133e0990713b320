//! Importance matrices in llama.cpp's two file formats: of each column of a tensor's input the mean square over a text.

use std::collections::BTreeMap;
use std::path::Path;

use model::CheckpointError;
use model::gguf;
use model::tensors::{Tensors, read_bounded};

use crate::error::ConvertError;

/// Largest file that is read.
const BYTES_MAX: u64 = 1 << 30;

/// Reads the importance of each column, by tensor, from a GGUF file of sums and counts, or from the older format.
///
/// # Errors
/// A file that is neither, is cut off or contradicts itself.
pub fn read_importance(path: &Path) -> Result<BTreeMap<String, Vec<f32>>, ConvertError> {
    let bytes = read_bounded(path, BYTES_MAX)?;
    if bytes.starts_with(b"GGUF") { from_gguf(path) } else { from_older(path, &bytes) }
}

fn from_gguf(path: &Path) -> Result<BTreeMap<String, Vec<f32>>, ConvertError> {
    let mut tensors = Tensors::default();
    let metadata = gguf::read(path, &mut tensors)?;
    if metadata.values.get("general.type").and_then(gguf::Value::text) != Some("imatrix") {
        let what = "general.type is not imatrix: this is no importance matrix";
        return Err(CheckpointError::damaged(path, what).into());
    }
    let numbers = |name: &str| -> Result<Vec<f32>, ConvertError> {
        let weight = tensors.rows(name)?;
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
}
