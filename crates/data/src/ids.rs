//! Ids of a part's documents on disk: found by number, to name the document that another one repeats; and as hashes in order, to tell of ids that are equal

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::Error;
use crate::atomic::{Digest, Pending};
use crate::join::runs::{self, Merge, Scratch};
use crate::join::{Place, Record, repeats};

/// Bytes of an id that are kept to name a document.
const ID_BYTES_MAX: usize = 300;

/// Writes the ids of a part's documents: one behind the other, then where each ends and how many there are, as little-endian u64.
pub struct Writer {
    out: Pending,
    ends: Vec<u64>,
}

impl Writer {
    /// Begins a file.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn create(path: &Path) -> Result<Writer, Error> {
        Ok(Writer { out: Pending::create(path)?, ends: Vec::new() })
    }

    /// Writes the id of the next document.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn write(&mut self, id: &str) -> Result<(), Error> {
        let id = &id[..id.floor_char_boundary(ID_BYTES_MAX)];
        self.ends.push(self.ends.last().unwrap_or(&0) + id.len() as u64);
        self.out.write_all(id.as_bytes()).map_err(Error::io(self.out.path()))
    }

    /// Ends the file and gives it its name.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn finish(mut self) -> Result<Digest, Error> {
        let count = self.ends.len() as u64;
        for number in self.ends.iter().chain([&count]) {
            self.out.write_all(&number.to_le_bytes()).map_err(Error::io(self.out.path()))?;
        }
        self.out.finish()
    }
}

/// Reads single ids of what [`Writer`] wrote.
pub struct Reader {
    file: File,
    path: PathBuf,
    count: u64,
    /// Byte at which the table of ends begins.
    table: u64,
}

impl Reader {
    /// Opens a file.
    ///
    /// # Errors
    /// Where it is not there, or damaged.
    pub fn open(path: &Path) -> Result<Reader, Error> {
        let file = File::open(path).map_err(Error::io(path))?;
        let bytes = file.metadata().map_err(Error::io(path))?.len();
        let mut reader = Reader { file, path: path.to_path_buf(), count: 0, table: 0 };
        let last = bytes.checked_sub(8).ok_or_else(|| reader.damaged())?;
        reader.count = reader.number(last)?;
        let table = reader.count.checked_mul(8).and_then(|table| last.checked_sub(table));
        reader.table = table.ok_or_else(|| reader.damaged())?;
        Ok(reader)
    }

    /// The id of a document, by its number from 0.
    ///
    /// # Errors
    /// Where the file has no such document, or is damaged.
    pub fn get(&self, number: u32) -> Result<String, Error> {
        let number = u64::from(number);
        if number >= self.count {
            return Err(self.damaged());
        }
        let end = self.number(self.table + 8 * number)?;
        let start = if number == 0 { 0 } else { self.number(self.table + 8 * (number - 1))? };
        let length = end.checked_sub(start).filter(|&length| length <= ID_BYTES_MAX as u64 && end <= self.table);
        let mut id = vec![0; length.ok_or_else(|| self.damaged())? as usize];
        self.file.read_exact_at(&mut id, start).map_err(Error::io(&self.path))?;
        String::from_utf8(id).map_err(|_| self.damaged())
    }

    fn number(&self, at: u64) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, at).map_err(Error::io(&self.path))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn damaged(&self) -> Error {
        Error::file(&self.path, "damaged; remove this file, and the same command makes it again")
    }
}

/// What stands for an id when ids are compared: ids that differ share one with probability 2^-128.
pub fn key(id: &str) -> u128 {
    xxh3_128(id.as_bytes())
}

/// Documents whose id another one has too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EqualIds {
    /// Documents beside the first of each id.
    pub documents: u64,
    /// The first such id.
    pub example: String,
}

/// Counts equal ids by the sorted runs of all parts, and says at which record the first repetition is.
///
/// # Errors
/// Where a run is damaged, or the system refuses.
pub fn repeated(runs: &[PathBuf], scratch: &Path, memory_bytes: usize) -> Result<(u64, Option<Record>), Error> {
    let mut merge = Merge::<Record>::new(runs, Scratch::create(scratch)?, runs::open_within(memory_bytes))?;
    let (mut count, mut first): (u64, Option<Record>) = (0, None);
    for pair in repeats(&mut merge) {
        let (_, other) = pair?;
        count += 1;
        let place = |record: &Record| -> Place { record.place };
        first = Some(first.filter(|first| place(first) <= other.place).unwrap_or(other));
    }
    Ok((count, first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_by_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part.names");
        let ids = ["a#0", "", "\u{e9}", &"\u{e9}".repeat(400)];
        let mut writer = Writer::create(&path).unwrap();
        ids.iter().for_each(|id| writer.write(id).unwrap());
        writer.finish().unwrap();
        let reader = Reader::open(&path).unwrap();
        let back: Vec<String> = (0..4).rev().map(|number| reader.get(number).unwrap()).collect();
        assert_eq!(back, ["\u{e9}".repeat(150).as_str(), "\u{e9}", "", "a#0"]);
        assert!(reader.get(4).is_err());
    }

    #[test]
    fn damaged_files_of_ids_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part.names");
        let number = |n: u64| n.to_le_bytes().to_vec();
        let broken = [
            vec![],
            number(u64::MAX),
            number(7),
            [b"ab".to_vec(), number(9), number(1)].concat(),
            [b"ab".to_vec(), number(2), number(1), number(2)].concat(),
            [b"\xff\xff".to_vec(), number(1), number(2), number(2)].concat(),
        ];
        for bytes in broken {
            std::fs::write(&path, &bytes).unwrap();
            let error = Reader::open(&path).and_then(|reader| reader.get(1).and(reader.get(0))).unwrap_err();
            assert!(error.to_string().contains("remove this file"), "{bytes:?}: {error}");
        }
    }
}
