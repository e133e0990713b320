//! Shards in Megatron-LM's indexed format: NAME.bin holds the tokens, NAME.idx where sequences and documents begin
//!
//! The index (little-endian): the nine bytes `MMIDIDX\0\0`, version 1 (u64), a code of the token type (u8), the number of sequences (u64), the
//! number of document boundaries (u64), a length in tokens for each sequence (i32), its byte offset in NAME.bin (i64), and the boundaries: the
//! number of the first sequence of each document, with the number of sequences at the end (i64). Multimodal data has a byte a sequence behind that.
//! Source: `megatron/core/datasets/indexed_dataset.py`.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::atomic::Pending;

const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const VERSION: u64 = 1;
/// Bytes before the lengths.
const HEADER_BYTES: u64 = 34;
/// Bytes of one sequence in the index: length and offset.
const SEQUENCE_BYTES: u64 = 12;
/// Bytes of one document boundary.
const BOUNDARY_BYTES: u64 = 8;
/// Vocabularies of fewer tokens are stored in 16 bits (`DType.optimal_dtype`).
const SHORT_VOCABULARY: usize = 65_500;
/// Bytes read at once.
const CHUNK_BYTES: usize = 1 << 16;

/// How a token is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenType {
    /// One byte.
    Uint8,
    /// One byte with a sign.
    Int8,
    /// Two bytes with a sign.
    Int16,
    /// Four bytes with a sign.
    Int32,
    /// Eight bytes with a sign.
    Int64,
    /// Two bytes.
    Uint16,
}

impl TokenType {
    /// What Megatron-LM takes for a vocabulary of this size.
    pub fn of_vocabulary(size: usize) -> TokenType {
        if size < SHORT_VOCABULARY { TokenType::Uint16 } else { TokenType::Int32 }
    }

    /// The number in the index; 6 and 7 are floating-point numbers, which tokens never are.
    fn code(self) -> u8 {
        match self {
            TokenType::Uint8 => 1,
            TokenType::Int8 => 2,
            TokenType::Int16 => 3,
            TokenType::Int32 => 4,
            TokenType::Int64 => 5,
            TokenType::Uint16 => 8,
        }
    }

    fn of_code(code: u8) -> Option<TokenType> {
        use TokenType::{Int8, Int16, Int32, Int64, Uint8, Uint16};
        [Uint8, Int8, Int16, Int32, Int64, Uint16].into_iter().find(|kind| kind.code() == code)
    }

    /// Bytes of a token.
    pub fn bytes(self) -> usize {
        match self {
            TokenType::Uint8 | TokenType::Int8 => 1,
            TokenType::Int16 | TokenType::Uint16 => 2,
            TokenType::Int32 => 4,
            TokenType::Int64 => 8,
        }
    }

    /// The largest token that it holds.
    fn token_max(self) -> u32 {
        match self {
            TokenType::Uint8 => u8::MAX.into(),
            TokenType::Int8 => i8::MAX as u32,
            TokenType::Int16 => i16::MAX as u32,
            TokenType::Uint16 => u16::MAX.into(),
            TokenType::Int32 => i32::MAX as u32,
            TokenType::Int64 => u32::MAX,
        }
    }

    /// Appends a token. It has been compared with [`TokenType::token_max`].
    fn put(self, token: u32, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&u64::from(token).to_le_bytes()[..self.bytes()]);
    }

    /// The token in these bytes; none if it is negative or too large.
    fn get(self, bytes: &[u8]) -> Option<u32> {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let value = u64::from_le_bytes(wide);
        // A sign bit makes the value larger than the largest positive one.
        u32::try_from(value).ok().filter(|&token| token <= self.token_max())
    }
}

/// The two files of a shard.
pub fn paths(prefix: &Path) -> (PathBuf, PathBuf) {
    let with = |extension: &str| {
        let mut path = prefix.as_os_str().to_owned();
        path.push(extension);
        PathBuf::from(path)
    };
    (with(".bin"), with(".idx"))
}

/// What a finished shard is, for its description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Documents.
    pub documents: u64,
    /// Tokens.
    pub tokens: u64,
    /// blake3 of the `.bin` file, in hexadecimal.
    pub bin_blake3: String,
    /// blake3 of the `.idx` file, in hexadecimal.
    pub idx_blake3: String,
}

/// Writes a shard: each document is one sequence.
pub struct Writer {
    bin: Pending,
    index: PathBuf,
    token_type: TokenType,
    lengths: Vec<u32>,
    buffer: Vec<u8>,
}

impl Writer {
    /// Begins the shard `prefix.bin` and `prefix.idx`.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn create(prefix: &Path, token_type: TokenType) -> Result<Writer, Error> {
        let (bin, index) = paths(prefix);
        // An index that is there belongs to other tokens.
        match std::fs::remove_file(&index) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&index)(e)),
            _ => {}
        }
        Ok(Writer { bin: Pending::create(&bin)?, index, token_type, lengths: Vec::new(), buffer: Vec::new() })
    }

    /// Writes a document.
    ///
    /// # Errors
    /// A token that the type does not hold, more than 2^31 - 1 tokens, or where the system refuses.
    pub fn document(&mut self, tokens: &[u32]) -> Result<(), Error> {
        let length = i32::try_from(tokens.len()).map_err(|_| {
            let problem = format!("a document of {} tokens; the index holds at most {}", tokens.len(), i32::MAX);
            Error::file(self.bin.path(), problem)
        })?;
        for chunk in tokens.chunks(CHUNK_BYTES / 8) {
            self.buffer.clear();
            for &token in chunk {
                if token > self.token_type.token_max() {
                    let problem = format!("token {token} is above {}, the largest", self.token_type.token_max());
                    return Err(Error::file(self.bin.path(), problem));
                }
                self.token_type.put(token, &mut self.buffer);
            }
            self.bin.write_all(&self.buffer).map_err(Error::io(self.bin.path()))?;
        }
        self.lengths.push(length as u32);
        Ok(())
    }

    /// Gives both files their names: the index last, since a shard without an index is none.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn finish(self) -> Result<Written, Error> {
        let bin_blake3 = self.bin.finish()?.blake3;
        let mut index = Pending::create(&self.index)?;
        let mut put = |bytes: &[u8]| index.write_all(bytes).map_err(Error::io(&self.index));
        let documents = self.lengths.len() as u64;
        put(MAGIC)?;
        put(&VERSION.to_le_bytes())?;
        put(&[self.token_type.code()])?;
        put(&documents.to_le_bytes())?;
        put(&(documents + 1).to_le_bytes())?;
        for length in &self.lengths {
            put(&length.to_le_bytes())?;
        }
        let mut tokens = 0u64;
        for &length in &self.lengths {
            put(&(tokens * self.token_type.bytes() as u64).to_le_bytes())?;
            tokens += u64::from(length);
        }
        for boundary in 0..=documents {
            put(&boundary.to_le_bytes())?;
        }
        let idx_blake3 = index.finish()?.blake3;
        Ok(Written { documents, tokens, bin_blake3, idx_blake3 })
    }
}

/// A shard that is read, by this crate or by Megatron-LM. The index is in memory: 20 bytes a sequence at most.
#[derive(Debug)]
pub struct Reader {
    bin: File,
    bin_path: PathBuf,
    token_type: TokenType,
    lengths: Vec<u32>,
    /// Byte offsets.
    offsets: Vec<u64>,
    /// First sequence of each document, and the number of sequences at the end.
    boundaries: Vec<u64>,
    tokens: u64,
}

impl Reader {
    /// Opens a shard and checks its whole index.
    ///
    /// # Errors
    /// Files that are not there; an index of another kind or version, one that contradicts itself or reaches over the end of the tokens.
    pub fn open(prefix: &Path) -> Result<Reader, Error> {
        let (bin_path, path) = paths(prefix);
        let file = File::open(&path).map_err(Error::io(&path))?;
        let bytes = file.metadata().map_err(Error::io(&path))?.len();
        let bin = File::open(&bin_path).map_err(Error::io(&bin_path))?;
        let bin_bytes = bin.metadata().map_err(Error::io(&bin_path))?.len();
        let mut index = Index { from: BufReader::with_capacity(CHUNK_BYTES, file), path: &path };
        let (token_type, sequences, boundaries) = index.header(bytes)?;
        let lengths = index.lengths(sequences)?;
        let offsets = index.list(sequences)?;
        let boundaries = index.list(boundaries)?;
        let size = token_type.bytes() as u64;
        for (i, (&offset, &length)) in offsets.iter().zip(&lengths).enumerate() {
            let end = offset.checked_add(u64::from(length) * size);
            if offset % size != 0 || end.is_none_or(|end| end > bin_bytes) {
                return Err(index.damaged(format!(
                    "sequence {i} has {length} tokens of {size} bytes at {offset}, which is not inside {} of {bin_bytes} bytes",
                    bin_path.display()
                )));
            }
        }
        let ordered = boundaries.first() == Some(&0) && boundaries.is_sorted() && boundaries.last() == Some(&sequences);
        if !ordered {
            return Err(index.damaged(format!("the document boundaries do not go from 0 up to {sequences} sequences")));
        }
        let tokens = lengths.iter().map(|&length| u64::from(length)).sum();
        Ok(Reader { bin, bin_path, token_type, lengths, offsets, boundaries, tokens })
    }

    /// How tokens are stored.
    pub fn token_type(&self) -> TokenType {
        self.token_type
    }

    /// Sequences.
    pub fn sequences(&self) -> usize {
        self.lengths.len()
    }

    /// Documents, of one or more sequences each.
    pub fn documents(&self) -> usize {
        self.boundaries.len() - 1
    }

    /// Tokens of all sequences.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Tokens of a sequence.
    ///
    /// # Panics
    /// If there is no such sequence.
    pub fn length(&self, sequence: usize) -> usize {
        self.lengths[sequence] as usize
    }

    /// The sequences of a document.
    ///
    /// # Panics
    /// If there is no such document.
    pub fn sequences_of(&self, document: usize) -> Range<usize> {
        self.boundaries[document] as usize..self.boundaries[document + 1] as usize
    }

    /// Reads the tokens of a sequence behind those in `tokens`.
    ///
    /// # Errors
    /// Where the system refuses, or a token is negative or above 2^32 - 1.
    ///
    /// # Panics
    /// If there is no such sequence.
    pub fn read(&self, sequence: usize, tokens: &mut Vec<u32>) -> Result<(), Error> {
        self.read_part(sequence, 0..self.length(sequence), tokens)
    }

    /// As `read`, of some tokens of the sequence.
    ///
    /// # Errors
    /// As `read`.
    ///
    /// # Panics
    /// If there are no such tokens.
    pub fn read_part(&self, sequence: usize, part: Range<usize>, tokens: &mut Vec<u32>) -> Result<(), Error> {
        assert!(part.start <= part.end && part.end <= self.length(sequence), "tokens of the sequence");
        let size = self.token_type.bytes();
        let (mut at, mut left) = (self.offsets[sequence] + (part.start * size) as u64, part.len() * size);
        let mut buffer = vec![0; left.min(CHUNK_BYTES)];
        while left > 0 {
            let chunk = &mut buffer[..left.min(CHUNK_BYTES)];
            self.bin.read_exact_at(chunk, at).map_err(Error::io(&self.bin_path))?;
            for (i, bytes) in chunk.chunks_exact(size).enumerate() {
                tokens.push(self.token_type.get(bytes).ok_or_else(|| {
                    let problem = format!("the token at byte {} is negative or too large", at + (i * size) as u64);
                    Error::file(&self.bin_path, problem)
                })?);
            }
            at += chunk.len() as u64;
            left -= chunk.len();
        }
        Ok(())
    }
}

/// An index while it is read.
struct Index<'a> {
    from: BufReader<File>,
    path: &'a Path,
}

impl Index<'_> {
    fn damaged(&self, problem: String) -> Error {
        Error::file(self.path, format!("not a Megatron-LM index: {problem}; make the shard again"))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes).map_err(Error::io(self.path))?;
        Ok(bytes)
    }

    /// Token type, number of sequences and of boundaries, which the size of the file confirms: no list is larger than the file.
    fn header(&mut self, bytes: u64) -> Result<(TokenType, u64, u64), Error> {
        if bytes < HEADER_BYTES {
            return Err(self.damaged(format!("it has {bytes} bytes, its header alone {HEADER_BYTES}")));
        }
        let magic: [u8; 9] = self.bytes()?;
        if &magic != MAGIC {
            return Err(self.damaged(format!("it begins with {:?}", String::from_utf8_lossy(&magic))));
        }
        let version = u64::from_le_bytes(self.bytes()?);
        if version != VERSION {
            return Err(self.damaged(format!("version {version}; {VERSION} is read")));
        }
        let [code] = self.bytes()?;
        let Some(token_type) = TokenType::of_code(code) else {
            return Err(self.damaged(format!("token type {code}; integers are 1 to 5 and 8")));
        };
        let (sequences, boundaries) = (u64::from_le_bytes(self.bytes()?), u64::from_le_bytes(self.bytes()?));
        let lists = |modes: u64| {
            let sequences = sequences.checked_mul(SEQUENCE_BYTES + modes)?;
            boundaries.checked_mul(BOUNDARY_BYTES)?.checked_add(sequences)?.checked_add(HEADER_BYTES)
        };
        if ![lists(0), lists(1)].contains(&Some(bytes)) {
            let problem = format!("{sequences} sequences and {boundaries} boundaries do not make {bytes} bytes");
            return Err(self.damaged(problem));
        }
        Ok((token_type, sequences, boundaries))
    }

    fn lengths(&mut self, count: u64) -> Result<Vec<u32>, Error> {
        (0..count)
            .map(|i| {
                let length = i32::from_le_bytes(self.bytes()?);
                u32::try_from(length).map_err(|_| self.damaged(format!("sequence {i} has {length} tokens")))
            })
            .collect()
    }

    fn list(&mut self, count: u64) -> Result<Vec<u64>, Error> {
        (0..count)
            .map(|i| {
                let value = i64::from_le_bytes(self.bytes()?);
                u64::try_from(value).map_err(|_| self.damaged(format!("number {i} of a list is {value}")))
            })
            .collect()
    }
}
