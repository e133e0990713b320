//! A writer of GGUF files for tests, and a directory that goes with its test.
#![allow(dead_code)] // each test uses its part

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use model::gguf::Value;

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

pub fn write(path: &Path, version: u32, values: &BTreeMap<String, Value>, tensors: &[Written]) {
    let mut out = b"GGUF".to_vec();
    out.extend(version.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((values.len() as u64).to_le_bytes());
    for (key, v) in values {
        text(&mut out, key);
        value(&mut out, v);
    }
    let mut data: Vec<u8> = Vec::new();
    for (name, shape, numbers) in tensors {
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&n| out.extend((n as u64).to_le_bytes()));
        out.extend(0u32.to_le_bytes());
        data.resize(data.len().next_multiple_of(32), 0);
        out.extend((data.len() as u64).to_le_bytes());
        data.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
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
