//! Token runs: the tokens of one part's documents, with what mixing needs to know of each, in one checksummed file
//!
//! The file (little-endian): the tokens, document after document, each as u32 with [`MASKED`] where no loss is to be taken of it; a record of 32 bytes for each document; and a trailer of 104 bytes:
//! magic, version, numbers of documents and tokens, blake3 of the records, blake3 of the tokenizer, and a hash of the trailer itself. Every record
//! has a hash of its document's tokens, so that reading any of them shows damage.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::Error;
use crate::atomic::{Digest, Pending};

const MAGIC: &[u8; 8] = b"FARTHRUN";
const VERSION: u64 = 1;
const RECORD_BYTES: usize = 32;
const TRAILER_BYTES: usize = 104;
const TOKEN_BYTES: u64 = 4;

/// The bit of a token that no loss is to be taken of. Vocabularies are far smaller.
pub const MASKED: u32 = 1 << 31;

/// What mixing needs to know of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Hash of the document's id, from which its place in the mix follows.
    pub id: u64,
    /// Where its tokens begin in the run, counted in tokens.
    pub start: u64,
    /// How many it has.
    pub tokens: u32,
    /// Whether its generator held it out from training.
    pub held_out: bool,
    /// Hash of its tokens.
    check: u64,
}

/// Writes a token run. Memory: 32 bytes a document.
pub struct Writer {
    out: Pending,
    records: Vec<u8>,
    tokenizer: [u8; 32],
    tokens: u64,
    documents: u64,
    buffer: Vec<u8>,
}

impl Writer {
    /// Begins a run of tokens of the tokenizer with this blake3.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn create(path: &Path, tokenizer: [u8; 32]) -> Result<Writer, Error> {
        let out = Pending::create(path)?;
        Ok(Writer { out, records: Vec::new(), tokenizer, tokens: 0, documents: 0, buffer: Vec::new() })
    }

    /// Writes a document.
    ///
    /// # Errors
    /// More than 2^31 - 1 tokens, or where the system refuses.
    pub fn document(&mut self, id: &str, held_out: bool, tokens: &[u32]) -> Result<(), Error> {
        let count = i32::try_from(tokens.len()).map_err(|_| {
            Error::file(self.out.path(), format!("document {id:?} has {} tokens; at most {}", tokens.len(), i32::MAX))
        })?;
        self.buffer.clear();
        self.buffer.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
        self.out.write_all(&self.buffer).map_err(Error::io(self.out.path()))?;
        self.records.extend(xxh3_64(id.as_bytes()).to_le_bytes());
        self.records.extend(self.tokens.to_le_bytes());
        self.records.extend((count as u32).to_le_bytes());
        self.records.extend(u32::from(held_out).to_le_bytes());
        self.records.extend(xxh3_64(&self.buffer).to_le_bytes());
        self.tokens += tokens.len() as u64;
        self.documents += 1;
        Ok(())
    }

    /// Ends the file and gives it its name.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn finish(mut self) -> Result<Digest, Error> {
        let mut trailer = Vec::with_capacity(TRAILER_BYTES);
        trailer.extend(MAGIC);
        for number in [VERSION, self.documents, self.tokens] {
            trailer.extend(number.to_le_bytes());
        }
        trailer.extend(blake3::hash(&self.records).as_bytes());
        trailer.extend(self.tokenizer);
        trailer.extend(xxh3_64(&trailer).to_le_bytes());
        let path = self.out.path().to_path_buf();
        for bytes in [&self.records, &trailer] {
            self.out.write_all(bytes).map_err(Error::io(&path))?;
        }
        self.out.finish()
    }
}

/// A token run that is read.
#[derive(Debug)]
pub struct Reader {
    file: File,
    path: PathBuf,
    documents: u64,
    tokens: u64,
    records: [u8; 32],
    tokenizer: [u8; 32],
}

impl Reader {
    /// Opens a run and checks its trailer.
    ///
    /// # Errors
    /// A file that is not there, not a run or not whole.
    pub fn open(path: &Path) -> Result<Reader, Error> {
        let file = File::open(path).map_err(Error::io(path))?;
        let bytes = file.metadata().map_err(Error::io(path))?.len();
        let start = bytes.checked_sub(TRAILER_BYTES as u64).ok_or_else(|| damaged(path, "it is too short"))?;
        let mut trailer = [0; TRAILER_BYTES];
        file.read_exact_at(&mut trailer, start).map_err(Error::io(path))?;
        let word = |at: usize| u64::from_le_bytes(trailer[at..at + 8].try_into().expect("eight bytes"));
        let bytes_32 = |at: usize| trailer[at..at + 32].try_into().expect("32 bytes");
        if &trailer[..8] != MAGIC || word(96) != xxh3_64(&trailer[..96]) {
            return Err(damaged(path, "its end is not that of a token run"));
        }
        if word(8) != VERSION {
            return Err(damaged(path, &format!("version {}; {VERSION} is read", word(8))));
        }
        let (documents, tokens) = (word(16), word(24));
        let lists = documents.checked_mul(RECORD_BYTES as u64).zip(tokens.checked_mul(TOKEN_BYTES));
        if lists.and_then(|(a, b)| a.checked_add(b)) != Some(start) {
            return Err(damaged(path, &format!("{documents} documents of {tokens} tokens do not make {bytes} bytes")));
        }
        let path = path.to_path_buf();
        Ok(Reader { file, path, documents, tokens, records: bytes_32(32), tokenizer: bytes_32(64) })
    }

    /// Documents.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Tokens of all documents.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// blake3 of the tokenizer's file.
    pub fn tokenizer(&self) -> [u8; 32] {
        self.tokenizer
    }

    /// A hash of the contents by way of the hashes in the file: two runs with the same are the same.
    pub fn identity(&self) -> [u8; 32] {
        let mut hash = blake3::Hasher::new();
        hash.update(&self.records).update(&self.tokenizer).update(&self.documents.to_le_bytes());
        *hash.finalize().as_bytes()
    }

    /// Goes through the documents in order; the records are checked as a whole behind the last.
    ///
    /// # Errors
    /// Records that are damaged, where the system refuses, and what `each` gives.
    pub fn scan(&self, mut each: impl FnMut(Entry) -> Result<(), Error>) -> Result<(), Error> {
        let records = Records { file: &self.file, at: self.tokens * TOKEN_BYTES };
        let mut from = BufReader::with_capacity(1 << 16, records);
        let mut hash = blake3::Hasher::new();
        let mut expected = 0;
        for number in 0..self.documents {
            let mut record = [0; RECORD_BYTES];
            from.read_exact(&mut record).map_err(Error::io(&self.path))?;
            hash.update(&record);
            let word = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().expect("eight bytes"));
            let half = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().expect("four bytes"));
            let entry =
                Entry { id: word(0), start: word(8), tokens: half(16), held_out: half(20) != 0, check: word(24) };
            if entry.start != expected || entry.start + u64::from(entry.tokens) > self.tokens {
                return Err(damaged(&self.path, &format!("document {number} is not where the one before it ends")));
            }
            expected += u64::from(entry.tokens);
            each(entry)?;
        }
        if hash.finalize().as_bytes() != &self.records {
            return Err(damaged(&self.path, "its records have another hash"));
        }
        Ok(())
    }

    /// Reads the tokens of a document of this run.
    ///
    /// # Errors
    /// Damage, or where the system refuses.
    pub fn read(&self, entry: &Entry, tokens: &mut Vec<u32>) -> Result<(), Error> {
        let mut bytes = vec![0; entry.tokens as usize * TOKEN_BYTES as usize];
        self.file.read_exact_at(&mut bytes, entry.start * TOKEN_BYTES).map_err(Error::io(&self.path))?;
        if xxh3_64(&bytes) != entry.check {
            return Err(damaged(&self.path, &format!("the document at token {} has another hash", entry.start)));
        }
        tokens.clear();
        tokens.extend(bytes.chunks_exact(4).map(|token| u32::from_le_bytes(token.try_into().expect("four bytes"))));
        Ok(())
    }
}

/// The records of a run as a stream, which leaves the file's own position alone: threads share the file.
struct Records<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Records<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(bytes, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

fn damaged(path: &Path, problem: &str) -> Error {
    Error::file(path, format!("{problem}; remove this file, and the same command makes it again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(run: &Reader) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        run.scan(|entry| {
            entries.push(entry);
            Ok(())
        })?;
        Ok(entries)
    }

    #[test]
    fn documents_come_back_and_any_flipped_bit_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part.tokens");
        let documents: Vec<Vec<u32>> = (0..5).map(|i| (0..i * 3).map(|token| token * 70_000).collect()).collect();
        let mut writer = Writer::create(&path, [7; 32]).unwrap();
        for (i, tokens) in documents.iter().enumerate() {
            writer.document(&format!("a#{i}"), i == 2, tokens).unwrap();
        }
        assert!(!path.exists());
        writer.finish().unwrap();

        let read_all = || -> Result<Vec<(Entry, Vec<u32>)>, Error> {
            let run = Reader::open(&path)?;
            let with_tokens = |entry: Entry| {
                let mut tokens = Vec::new();
                run.read(&entry, &mut tokens).map(|()| (entry, tokens))
            };
            entries(&run)?.into_iter().map(with_tokens).collect()
        };
        let run = Reader::open(&path).unwrap();
        assert_eq!((run.documents(), run.tokens(), run.tokenizer()), (5, 30, [7; 32]));
        let back = read_all().unwrap();
        assert_eq!(back.iter().map(|(_, tokens)| tokens.clone()).collect::<Vec<_>>(), documents);
        let held_out: Vec<bool> = back.iter().map(|(entry, _)| entry.held_out).collect();
        assert_eq!(held_out, [false, false, true, false, false]);

        let good = std::fs::read(&path).unwrap();
        for byte in 0..good.len() {
            let mut bytes = good.clone();
            bytes[byte] ^= 1 << (byte % 8);
            std::fs::write(&path, bytes).unwrap();
            let error = read_all().map(|_| byte).unwrap_err().to_string();
            assert!(error.contains("remove this file"), "{error}");
        }
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(read_all().is_err(), "{length} bytes");
        }
    }
}
