//! GGUF v2 and v3, one file or split: metadata and tensor table. Every count is checked before it is believed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernels::Format;

use crate::error::CheckpointError;
use crate::mmap::Mapping;
use crate::tensors::{DIMENSION_MAX, FETCH, Stored, Tensor, Tensors, bytes_of};

/// Limits that no sound file passes.
const KEYS_MAX: u64 = 1 << 16;
const TENSORS_MAX: u64 = 1 << 18;
/// Elements of all arrays together (a vocabulary of 256k tokens has some 1.5 million).
const ELEMENTS_MAX: u64 = 1 << 23;
/// Bytes before the tensors' data.
const HEADER_BYTES_MAX: usize = 256 << 20;
const NAME_BYTES_MAX: u64 = 1 << 12;
const ALIGNMENT_MAX: u64 = 1 << 20;
pub(crate) const FILES_MAX: usize = 4096;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the names are the types
pub enum Value {
    U64(u64),
    I64(i64),
    F64(f64),
    Bool(bool),
    Text(String),
    Integers(Vec<i64>),
    Floats(Vec<f32>),
    Bools(Vec<bool>),
    Texts(Vec<String>),
}

impl Value {
    /// As a number, where it is one.
    pub fn number(&self) -> Option<f64> {
        match *self {
            Value::U64(v) => Some(v as f64),
            Value::I64(v) => Some(v as f64),
            Value::F64(v) => Some(v),
            _ => None,
        }
    }

    /// As a truth value, where it is one.
    pub fn boolean(&self) -> Option<bool> {
        if let Value::Bool(v) = *self { Some(v) } else { None }
    }

    /// As text, where it is one.
    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    /// A value as people would see it: of lists only what they hold, of texts the beginning.
    pub fn shown(&self) -> String {
        match self {
            Value::U64(v) => v.to_string(),
            Value::I64(v) => v.to_string(),
            Value::F64(v) => v.to_string(),
            Value::Bool(v) => v.to_string(),
            Value::Text(text) => format!("{:?}", text.chars().take(80).collect::<String>()),
            Value::Integers(v) => format!("a list of {} whole numbers", v.len()),
            Value::Floats(v) => format!("a list of {} numbers", v.len()),
            Value::Bools(v) => format!("a list of {} truth values", v.len()),
            Value::Texts(v) => format!("a list of {} texts", v.len()),
        }
    }

    /// As a token's id: `None` where it is no such number, `Some(None)` where it says that there is none (-1, in 32 bits without a sign too).
    pub fn token_id(&self) -> Option<Option<u32>> {
        match self.number()? {
            v if v == -1.0 || v == u32::MAX as f64 => Some(None),
            v if v.fract() == 0.0 && (0.0..u32::MAX as f64).contains(&v) => Some(Some(v as u32)),
            _ => None,
        }
    }
}

/// A metadata value to write, by its type in the file.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the names are the types
pub enum TypedValue {
    U32(u32),
    U64(u64),
    F32(f32),
    Bool(bool),
    Text(String),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Texts(Vec<String>),
    /// Type and value as they stand in another file.
    Bytes(Vec<u8>),
}

impl TypedValue {
    /// Type and value as a file has them.
    pub fn write(&self, out: &mut Vec<u8>) {
        fn number(out: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
            out.extend(kind.to_le_bytes());
            out.extend(bytes);
        }
        fn array(out: &mut Vec<u8>, kind: u32, length: usize) {
            number(out, 9, &kind.to_le_bytes());
            out.extend((length as u64).to_le_bytes());
        }
        match self {
            TypedValue::U32(v) => number(out, 4, &v.to_le_bytes()),
            TypedValue::U64(v) => number(out, 10, &v.to_le_bytes()),
            TypedValue::F32(v) => number(out, 6, &v.to_le_bytes()),
            TypedValue::Bool(v) => number(out, 7, &[u8::from(*v)]),
            TypedValue::Text(v) => {
                out.extend(8u32.to_le_bytes());
                write_text(out, v);
            }
            TypedValue::I32s(all) => {
                array(out, 5, all.len());
                all.iter().for_each(|v| out.extend(v.to_le_bytes()));
            }
            TypedValue::F32s(all) => {
                array(out, 6, all.len());
                all.iter().for_each(|v| out.extend(v.to_le_bytes()));
            }
            TypedValue::Texts(all) => {
                array(out, 8, all.len());
                all.iter().for_each(|v| write_text(out, v));
            }
            TypedValue::Bytes(bytes) => out.extend(bytes),
        }
    }
}

/// Text as a file has it: its length, then its bytes.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    elements: u64,
}

impl<'a> Reader<'a> {
    /// Where a next step is said already.
    fn refused(&self, what: impl Into<String>) -> CheckpointError {
        CheckpointError::damaged(self.path, what)
    }

    fn damaged(&self, what: impl std::fmt::Display) -> CheckpointError {
        self.refused(format!("{what}; the file seems damaged: {FETCH}"))
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], CheckpointError> {
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n)).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else {
            return Err(self.refused(format!(
                "{n} bytes are announced at {}, but the file has {}; it may be cut off: {FETCH}",
                self.at,
                self.bytes.len()
            )));
        };
        if end > HEADER_BYTES_MAX {
            return Err(self.damaged(format!("the header has more than {HEADER_BYTES_MAX} bytes")));
        }
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        Ok(self.take(N as u64)?.try_into().expect("taken as long"))
    }

    fn u32(&mut self) -> Result<u32, CheckpointError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, CheckpointError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Text of at most so many bytes; those that are not UTF-8 are replaced (vocabularies of some files hold such).
    fn text(&mut self, most: u64) -> Result<String, CheckpointError> {
        let length = self.u64()?;
        if length > most {
            return Err(self.damaged(format!("a name of {length} bytes")));
        }
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn scalar(&mut self, kind: u32) -> Result<Value, CheckpointError> {
        Ok(match kind {
            0 => Value::U64(self.array::<1>()?[0] as u64),
            1 => Value::I64(self.array::<1>()?[0] as i8 as i64),
            2 => Value::U64(u16::from_le_bytes(self.array()?) as u64),
            3 => Value::I64(i16::from_le_bytes(self.array()?) as i64),
            4 => Value::U64(self.u32()? as u64),
            5 => Value::I64(i32::from_le_bytes(self.array()?) as i64),
            6 => Value::F64(f32::from_le_bytes(self.array()?) as f64),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.text(u64::MAX)?),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(self.damaged(format!("metadata type {other}"))),
        })
    }

    fn value(&mut self, kind: u32) -> Result<Value, CheckpointError> {
        if kind != 9 {
            return self.scalar(kind);
        }
        let (kind, length) = (self.u32()?, self.u64()?);
        // Every element takes at least its smallest size, so a length that the file cannot hold is refused before anything is allocated.
        let least: u64 = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(self.damaged("an array of arrays")),
            other => return Err(self.damaged(format!("an array of metadata type {other}"))),
        };
        let left = (self.bytes.len() - self.at) as u64;
        if length.checked_mul(least).is_none_or(|bytes| bytes > left) {
            return Err(self.refused(format!(
                "an array of {length} elements at {}, but {left} bytes are left; the file may be cut off: {FETCH}",
                self.at
            )));
        }
        self.elements += length;
        if self.elements > ELEMENTS_MAX {
            return Err(self.damaged(format!("arrays of more than {ELEMENTS_MAX} elements")));
        }
        Ok(match kind {
            8 => Value::Texts((0..length).map(|_| self.text(u64::MAX)).collect::<Result<_, _>>()?),
            7 => Value::Bools(self.take(length)?.iter().map(|&b| b != 0).collect()),
            6 | 12 => {
                let float = |value: Value| value.number().unwrap_or(0.0) as f32;
                Value::Floats((0..length).map(|_| self.scalar(kind).map(float)).collect::<Result<_, _>>()?)
            }
            _ => {
                let integer = |value: Value| match value {
                    Value::U64(v) => v as i64,
                    Value::I64(v) => v,
                    _ => 0,
                };
                Value::Integers((0..length).map(|_| self.scalar(kind).map(integer)).collect::<Result<_, _>>()?)
            }
        })
    }
}

/// Names of tensor types by their numbers, some of which stand for none.
const TYPES: [&str; 41] = [
    "F32", "F16", "Q4_0", "Q4_1", "", "", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64",
    "F64", "IQ1_M", "BF16", "", "", "", "TQ1_0", "TQ2_0", "", "", "", "MXFP4", "NVFP4",
];

fn format_of(id: u32) -> Stored {
    let Some(&name) = TYPES.get(id as usize).filter(|name| !name.is_empty()) else {
        return Stored::Unknown(format!("type {id}"));
    };
    let known = Format::ALL.into_iter().find(|format| format.name() == name);
    known.map_or_else(|| Stored::Unknown(name.to_string()), Stored::As)
}

/// A value that may be absent, for people.
pub(crate) fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "absent".to_string(), Value::shown)
}

/// The number of a format in the table of tensors; `None` for FP8, which these files have not.
pub fn type_number(format: Format) -> Option<u32> {
    TYPES.iter().position(|&name| name == format.name()).map(|number| number as u32)
}

/// Metadata of a GGUF file.
pub struct Metadata {
    pub(crate) path: PathBuf,
    /// All keys.
    pub values: BTreeMap<String, Value>,
    /// All keys in the file's order, with the bytes of their type and value in the file.
    pub places: Vec<(String, Range<usize>)>,
    /// Its keys begin with it.
    pub(crate) architecture: String,
}

/// Read one file: its metadata, and its tensors into `tensors`.
///
/// # Errors
/// A file that is cut off, or lies about itself.
pub fn read(path: &Path, tensors: &mut Tensors) -> Result<Metadata, CheckpointError> {
    read_mapped(&Arc::new(Mapping::open(path).map_err(|e| CheckpointError::read(path, e))?), tensors)
}

/// As `read`, of a file that is already mapped.
///
/// # Errors
/// As `read`.
pub fn read_mapped(mapping: &Arc<Mapping>, tensors: &mut Tensors) -> Result<Metadata, CheckpointError> {
    let path = mapping.path();
    let mut r = Reader { path, bytes: mapping.bytes(), at: 0, elements: 0 };
    let (tensor_count, key_count) = r.header()?;
    let (mut values, mut places) = (BTreeMap::new(), Vec::new());
    for _ in 0..key_count {
        let key = r.text(NAME_BYTES_MAX)?;
        let start = r.at;
        let kind = r.u32()?;
        let value = r.value(kind)?;
        places.push((key.clone(), start..r.at));
        if values.insert(key.clone(), value).is_some() {
            return Err(r.damaged(format!("key {key} is there twice")));
        }
    }
    let alignment = match values.get("general.alignment").map(Value::number) {
        None => 32,
        Some(Some(a)) if a >= 1.0 && a <= ALIGNMENT_MAX as f64 && (a as u64).is_power_of_two() => a as usize,
        Some(_) => {
            let given = shown(values.get("general.alignment"));
            return Err(r.damaged(format!(
                "general.alignment is {given}; it must be a power of two of at most {ALIGNMENT_MAX}"
            )));
        }
    };
    r.tensors(tensor_count, alignment, mapping, tensors)?;
    let architecture = match values.get("general.architecture") {
        None => String::new(),
        Some(Value::Text(architecture)) => architecture.clone(),
        other => {
            return Err(r.damaged(format!("general.architecture is {}; it must be a text", shown(other))));
        }
    };
    Ok(Metadata { path: path.to_path_buf(), values, places, architecture })
}

impl Reader<'_> {
    /// Magic and version; how many tensors and keys follow.
    fn header(&mut self) -> Result<(u64, u64), CheckpointError> {
        if self.bytes.len() < 4 || &self.bytes[..4] != b"GGUF" {
            crate::tensors::pointer(self.path, self.bytes)?;
            let what = match self.path.extension().is_some_and(|end| end == "safetensors") {
                true => "not a GGUF file; of a Hugging Face model the directory is named, not a file in it",
                false => "not a GGUF file (nor a Hugging Face directory)",
            };
            return Err(self.refused(what));
        }
        self.at = 4;
        let version = self.u32()?;
        if version != 2 && version != 3 {
            let what = format!("GGUF version {version}; supported are 2 and 3 (little-endian)");
            return Err(CheckpointError::unsupported(self.path, what));
        }
        let (tensors, keys) = (self.u64()?, self.u64()?);
        if tensors > TENSORS_MAX || keys > KEYS_MAX {
            return Err(self.damaged(format!("{tensors} tensors and {keys} keys are announced")));
        }
        Ok((tensors, keys))
    }

    /// The table of `count` tensors, whose data follow at the next multiple of `alignment`, into `tensors`.
    fn tensors(
        &mut self,
        count: u64,
        alignment: usize,
        mapping: &Arc<Mapping>,
        tensors: &mut Tensors,
    ) -> Result<(), CheckpointError> {
        let file = tensors.files.len();
        tensors.files.push(Arc::clone(mapping));
        let found = (0..count).map(|_| self.tensor()).collect::<Result<Vec<_>, _>>()?;
        let start = self.at.next_multiple_of(alignment);
        let mut ranges = Vec::new();
        for (name, stored, shape, offset) in found {
            let offset = usize::try_from(offset).ok().filter(|o| o.is_multiple_of(alignment));
            let Some(offset) = offset.and_then(|o| o.checked_add(start)) else {
                return Err(self.damaged(format!("tensor {name} starts at an impossible place")));
            };
            let bytes = match &stored {
                Stored::As(format) => bytes_of(*format, &shape).ok_or_else(|| {
                    self.damaged(format!("tensor {name} of {} cannot have shape {shape:?}", format.name()))
                })?,
                Stored::Unknown(_) => 0,
            };
            ranges.push((offset, bytes, name.clone()));
            tensors.add(name, Tensor { stored, shape, file, offset, bytes })?;
        }
        ranges.sort();
        for pair in ranges.windows(2) {
            if pair[0].0.saturating_add(pair[0].1) > pair[1].0 {
                return Err(self.damaged(format!("tensors {} and {} overlap", pair[0].2, pair[1].2)));
            }
        }
        Ok(())
    }

    /// Name, format, shape (outermost first) and offset of one tensor.
    fn tensor(&mut self) -> Result<(String, Stored, Vec<usize>, u64), CheckpointError> {
        let name = self.text(NAME_BYTES_MAX)?;
        let dimensions = self.u32()?;
        if dimensions > 4 {
            return Err(self.damaged(format!("tensor {name} has {dimensions} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
            if size > DIMENSION_MAX {
                return Err(self.damaged(format!("tensor {name} has a dimension of {size}")));
            }
            shape.insert(0, size);
        }
        Ok((name, format_of(self.u32()?), shape, self.u64()?))
    }
}

/// The other files of a split: `NAME-00001-of-0000N.gguf`.
pub(crate) fn split_files(path: &Path) -> Result<Option<Vec<PathBuf>>, CheckpointError> {
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else { return Ok(None) };
    let Some(stem) = name.strip_suffix(".gguf") else { return Ok(None) };
    let parts: Vec<&str> = stem.rsplitn(4, '-').collect();
    let [total, "of", number, base] = parts[..] else { return Ok(None) };
    let (Ok(total), Ok(_)) = (total.parse::<usize>(), number.parse::<usize>()) else { return Ok(None) };
    if total == 0 || total > FILES_MAX {
        let what = format!("its name says a split of {total} files; from 1 to {FILES_MAX} are read");
        return Err(CheckpointError::damaged(path, what));
    }
    let files = (1..=total).map(|i| path.with_file_name(format!("{base}-{i:05}-of-{total:05}.gguf"))).collect();
    Ok(Some(files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_names() {
        let files = split_files(Path::new("/m/a-b-00002-of-00003.gguf")).unwrap().unwrap();
        assert_eq!(files.len(), 3);
        assert_eq!(files[0], Path::new("/m/a-b-00001-of-00003.gguf"));
        for whole in ["/m/model.gguf", "/m/a-b-of-00003.gguf", "/m/a-00001-of-b.gguf", "/m/a-00001-von-00003.gguf"] {
            assert!(split_files(Path::new(whole)).unwrap().is_none(), "{whole}");
        }
        assert!(split_files(Path::new("/m/a-00001-of-99999.gguf")).is_err());
    }
}
