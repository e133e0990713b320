//! The journal of a batch: a line for each result, which is on disk before anybody hears of it. What a kill tore at its end is cut when it is opened.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{StoreError, at};

/// Bytes of a record at most: a result, or what was made of the longest line.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// What a result is charged in a ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// Id of the request in the ledger.
    pub request: String,
    /// Tokens of the prompt that were cached.
    pub hit: u64,
    /// Tokens of the prompt that were computed.
    pub miss: u64,
    /// Tokens of the answer.
    pub output: u64,
    /// Those of reasoning among them.
    pub reasoning: u64,
}

/// What is known of a result without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Place of its line in the input.
    pub line: usize,
    /// The request succeeded.
    pub ok: bool,
    /// What it is charged; `None` where there is no ledger, or nothing to charge.
    pub charge: Option<Charge>,
}

/// A result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What is known of it.
    pub written: Written,
    /// Its line of the results, without an end.
    pub text: String,
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes of whole records.
    len: u64,
    /// An append failed: there may be more bytes than `len`.
    dirty: bool,
}

impl Journal {
    /// Opens it, makes it where it is missing, and says what is in it.
    pub(crate) fn open(path: &Path) -> Result<(Journal, Vec<Written>), StoreError> {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(at(path))?;
        let (all, len) = read(path, |_| Ok(()))?;
        let mut journal = Journal { path: path.to_path_buf(), file, len, dirty: true };
        journal.cut()?;
        Ok((journal, all))
    }

    /// Bytes in it.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    fn cut(&mut self) -> Result<(), StoreError> {
        if self.dirty {
            self.file.set_len(self.len).and_then(|()| self.file.sync_data()).map_err(at(&self.path))?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Adds results: when it returns they are on disk, and when it fails none of them is.
    ///
    /// # Errors
    /// The disk.
    pub fn append(&mut self, records: &[Record]) -> Result<(), StoreError> {
        self.cut()?;
        let mut bytes = Vec::new();
        for Record { written, text } in records {
            serde_json::to_writer(&mut bytes, written).map_err(|e| at(&self.path)(e.into()))?;
            bytes.push(b'\t');
            // JSON on one line has neither.
            bytes.extend(text.bytes().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { b }));
            bytes.push(b'\n');
        }
        self.dirty = true;
        self.file.write_all(&bytes).and_then(|()| self.file.sync_data()).map_err(at(&self.path))?;
        self.len += bytes.len() as u64;
        self.dirty = false;
        Ok(())
    }
}

/// Goes through the whole records of a journal; beside them, their bytes. A torn one at the end is left out.
pub(crate) fn read(
    path: &Path,
    mut each: impl FnMut((&Written, &[u8])) -> Result<(), StoreError>,
) -> Result<(Vec<Written>, u64), StoreError> {
    let mut reader = BufReader::with_capacity(256 << 10, File::open(path).map_err(at(path))?);
    let (mut all, mut seen, mut len, mut bytes) = (Vec::new(), HashSet::new(), 0, Vec::new());
    loop {
        bytes.clear();
        let most = RECORD_BYTES_MAX as u64;
        std::io::Read::take(&mut reader, most).read_until(b'\n', &mut bytes).map_err(at(path))?;
        if bytes.last() != Some(&b'\n') && (bytes.len() as u64) < most {
            return Ok((all, len));
        }
        match parse(&bytes).filter(|(written, _)| seen.insert(written.line)) {
            Some((written, text)) => {
                each((&written, text))?;
                all.push(written);
                len += bytes.len() as u64;
            }
            // The last record may have its length and not its bytes after a loss of power.
            None if reader.fill_buf().map_err(at(path))?.is_empty() => return Ok((all, len)),
            None => {
                let why = format!("record {} is not as it was written", all.len() + 1);
                return Err(StoreError::Damaged { path: path.to_path_buf(), why });
            }
        }
    }
}

fn parse(record: &[u8]) -> Option<(Written, &[u8])> {
    let record = record.strip_suffix(b"\n")?;
    let tab = record.iter().position(|b| *b == b'\t')?;
    let written = serde_json::from_slice(&record[..tab]).ok()?;
    let text = &record[tab + 1..];
    (text.starts_with(b"{") && text.ends_with(b"}")).then_some((written, text))
}
