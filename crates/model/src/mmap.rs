//! The one file-mapping wrapper, and the only `unsafe` outside the kernels crate.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A whole file, mapped read-only (or bytes held in memory, for tests).
pub struct Mapping {
    path: PathBuf,
    bytes: Bytes,
}

enum Bytes {
    Mapped(memmap2::Mmap),
    Held(Vec<u8>),
}

impl Mapping {
    /// Map a file. An empty file maps to no bytes.
    pub fn open(path: &Path) -> io::Result<Mapping> {
        let file = File::open(path)?;
        let bytes = if file.metadata()?.len() == 0 {
            Bytes::Held(Vec::new())
        } else {
            // SAFETY: the mapping is private and read-only. A file that another process shortens or rewrites while mapped
            // is outside what a mapping can promise; the bytes are only ever read as plain numbers.
            Bytes::Mapped(unsafe { memmap2::Mmap::map(&file)? })
        };
        Ok(Mapping { path: path.to_path_buf(), bytes })
    }

    /// Bytes that are already in memory.
    pub fn held(name: &str, bytes: Vec<u8>) -> Mapping {
        Mapping { path: PathBuf::from(name), bytes: Bytes::Held(bytes) }
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Held(held) => held,
        }
    }

    /// Where the bytes come from, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
