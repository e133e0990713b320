//! GGUF files, written: header, keys and table of tensors at once, then the tensors one after the other.

use std::io::{BufWriter, Write};
use std::path::Path;

use kernels::Pool;
use model::gguf::{TypedValue, type_number, write_text};

use crate::encode::{Encoder, Progress};
use crate::error::ConvertError;
use crate::plan::GgufPlan;
use crate::whole_file::{finish, temporary};

/// Tensors begin at multiples of this.
const ALIGNMENT: usize = 32;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of its tensors.
    pub tensor_bytes: u64,
    /// Weights in them.
    pub weights: u64,
}

impl Written {
    /// Bits a weight, of the tensors alone.
    pub fn bits_per_weight(&self) -> f64 {
        self.tensor_bytes as f64 * 8.0 / self.weights.max(1) as f64
    }
}

fn header(plan: &GgufPlan) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((plan.tensors.len() as u64).to_le_bytes());
    out.extend((plan.keys.len() as u64).to_le_bytes());
    for (key, value) in &plan.keys {
        write_text(&mut out, key);
        value.write(&mut out);
    }
    let mut offset = 0u64;
    for tensor in &plan.tensors {
        write_text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&size| out.extend((size as u64).to_le_bytes()));
        out.extend(type_number(tensor.format).expect("formats of GGUF files only, as planned").to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT) as u64;
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

/// Writes the file under a temporary name beside `path`, checks it by `check`, and gives it its name. On any error nothing is left.
///
/// # Errors
/// Numbers that a format cannot hold, a disk that is full, a wish to stop, or what `check` says.
pub fn write_gguf(
    plan: &GgufPlan,
    path: &Path,
    pool: &Pool,
    progress: &dyn Progress,
    check: impl FnOnce(&Path) -> Result<(), ConvertError>,
) -> Result<Written, ConvertError> {
    let wrong = || ConvertError::write(path);
    let (mut file, place) = temporary(path)?;
    let header = header(plan);
    let mut written = Written { bytes: header.len() as u64, tensor_bytes: 0, weights: 0 };
    {
        let mut out = BufWriter::with_capacity(1 << 20, file.as_file_mut());
        out.write_all(&header).map_err(wrong())?;
        let encoder = Encoder { pool, progress, from: &plan.from, to: path };
        for (i, tensor) in plan.tensors.iter().enumerate() {
            progress.tensor(&tensor.name, tensor.format, i, plan.tensors.len());
            encoder.encode(tensor, plan.importance_of(tensor), &mut out)?;
            let bytes = tensor.bytes();
            let padding = bytes.next_multiple_of(ALIGNMENT) - bytes;
            out.write_all(&[0; ALIGNMENT][..padding]).map_err(wrong())?;
            written.bytes += (bytes + padding) as u64;
            written.tensor_bytes += bytes as u64;
            written.weights += tensor.shape.iter().product::<usize>() as u64;
        }
        out.flush().map_err(wrong())?;
    }
    check(file.path())?;
    finish(file, &place)?;
    Ok(written)
}

/// A text key.
pub(crate) fn text(key: &str, value: impl Into<String>) -> (String, TypedValue) {
    (key.to_string(), TypedValue::Text(value.into()))
}
