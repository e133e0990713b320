//! A writer of GGUF files for tests, and a directory that goes with its test.
#![allow(dead_code)] // each test uses its part

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farthing_model::gguf::Value;

/// A tensor to write: name, shape (outermost first), f32 numbers.
pub type Written = (String, Vec<usize>, Vec<f32>);

fn text(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

fn value(out: &mut Vec<u8>, v: &Value) {
    let kind = |out: &mut Vec<u8>, k: u32| out.extend(k.to_le_bytes());
    let array = |out: &mut Vec<u8>, k: u32, n: usize| {
        out.extend(9u32.to_le_bytes());
        out.extend(k.to_le_bytes());
        out.extend((n as u64).to_le_bytes());
    };
    match v {
        Value::U64(v) => {
            kind(out, 10);
            out.extend(v.to_le_bytes());
        }
        Value::I64(v) => {
            kind(out, 11);
            out.extend(v.to_le_bytes());
        }
        Value::F64(v) => {
            kind(out, 12);
            out.extend(v.to_le_bytes());
        }
        Value::Bool(v) => {
            kind(out, 7);
            out.push(*v as u8);
        }
        Value::Text(v) => {
            kind(out, 8);
            text(out, v);
        }
        Value::Integers(v) => {
            array(out, 11, v.len());
            v.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Value::Floats(v) => {
            array(out, 6, v.len());
            v.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Value::Bools(v) => {
            array(out, 7, v.len());
            v.iter().for_each(|&x| out.push(x as u8));
        }
        Value::Texts(v) => {
            array(out, 8, v.len());
            v.iter().for_each(|x| text(out, x));
        }
    }
}

/// A tensor to write as it will lie in the file: name, shape (outermost first), number of its type, bytes.
pub type Stored = (String, Vec<usize>, u32, Vec<u8>);

/// As f32.
pub fn exact((name, shape, x): &Written) -> Stored {
    (name.clone(), shape.clone(), 0, x.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// As Q8_0 with scales that are powers of two, and the numbers that the blocks then hold.
pub fn eight_bits((name, shape, x): &Written) -> (Stored, Written) {
    let (mut bytes, mut numbers) = (Vec::new(), Vec::new());
    for block in x.chunks(32) {
        let largest = block.iter().fold(1e-4f32, |m, x| m.max(x.abs()));
        let power = (largest / 127.0).log2().ceil().max(-14.0);
        bytes.extend((((power as i32 + 15) as u16) << 10).to_le_bytes());
        let quants = block.iter().map(|x| (x / power.exp2()).round() as i8);
        bytes.extend(quants.clone().map(|q| q as u8));
        numbers.extend(quants.map(|q| f32::from(q) * power.exp2()));
    }
    ((name.clone(), shape.clone(), 8, bytes), (name.clone(), shape.clone(), numbers))
}

pub fn write(path: &Path, version: u32, values: &BTreeMap<String, Value>, tensors: &[Written]) {
    write_stored(path, version, values, &tensors.iter().map(exact).collect::<Vec<_>>());
}

pub fn write_stored(path: &Path, version: u32, values: &BTreeMap<String, Value>, tensors: &[Stored]) {
    let mut out = b"GGUF".to_vec();
    out.extend(version.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((values.len() as u64).to_le_bytes());
    for (key, v) in values {
        text(&mut out, key);
        value(&mut out, v);
    }
    let mut data: Vec<u8> = Vec::new();
    for (name, shape, kind, bytes) in tensors {
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&n| out.extend((n as u64).to_le_bytes()));
        out.extend(kind.to_le_bytes());
        data.resize(data.len().next_multiple_of(32), 0);
        out.extend((data.len() as u64).to_le_bytes());
        data.extend(bytes);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    std::fs::write(path, out).unwrap();
}

pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("farthing-gguf-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
