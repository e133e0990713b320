//! Sorted runs on disk: records of one size in order, checksummed; merged many at a time; and a sorter that spills runs within a bound of memory
//!
//! A run is a header of 64 bytes, then blocks: a count (u32), a checksum (u64), and that many records. The last block has the count 0 and holds the number
//! of all records (u64). A checksum is XXH3 of the block's content, seeded with the checksum before it, the first with that of the header: blocks that are
//! damaged, missing or swapped are found before their records are used. Numbers of the frame are little-endian, those in records big-endian.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{Decision, Place, Record};
use crate::Error;
use crate::atomic::{self, Digest, Pending};

/// Runs that are open at once, by default: below the usual limit of 1,024 open files for two sorters at once.
pub const OPEN_MAX: usize = 256;

/// Bytes of records in a block, and so of memory for each open run.
pub const BLOCK_BYTES: usize = 1 << 16;

const MAGIC: [u8; 8] = *b"FARTHRUN";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
/// Count and checksum of a block.
const FRAME_BYTES: usize = 12;
/// The last block: its frame and the number of records.
const END_BYTES: usize = FRAME_BYTES + 8;

/// What a run holds: a record that takes the same number of bytes each time.
pub trait Row: Copy + Ord {
    /// Bytes on disk.
    const BYTES: usize;
    /// What tells runs of these records from others.
    const KIND: [u8; 4];
    /// Writes it to `BYTES` bytes.
    fn encode(&self, bytes: &mut [u8]);
    /// Reads it from `BYTES` bytes.
    fn decode(bytes: &[u8]) -> Self;
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

impl Place {
    fn encode(self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&self.part.to_be_bytes());
        bytes[4..].copy_from_slice(&self.document.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Place {
        Place { part: u32_at(bytes, 0), document: u32_at(bytes, 4) }
    }
}

impl Row for Record {
    const BYTES: usize = 28;
    const KIND: [u8; 4] = *b"RECO";

    fn encode(&self, bytes: &mut [u8]) {
        bytes[..16].copy_from_slice(&self.key.to_be_bytes());
        self.place.encode(&mut bytes[16..24]);
        bytes[24..].copy_from_slice(&self.position.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Record {
        let key = u128::from_be_bytes(bytes[..16].try_into().expect("sixteen bytes"));
        Record { key, place: Place::decode(&bytes[16..24]), position: u32_at(bytes, 24) }
    }
}

impl Row for Decision {
    const BYTES: usize = 20;
    const KIND: [u8; 4] = *b"DECI";

    fn encode(&self, bytes: &mut [u8]) {
        self.place.encode(&mut bytes[..8]);
        bytes[8..12].copy_from_slice(&self.position.to_be_bytes());
        self.kept.encode(&mut bytes[12..]);
    }

    fn decode(bytes: &[u8]) -> Decision {
        let (place, kept) = (Place::decode(&bytes[..8]), Place::decode(&bytes[12..]));
        Decision { place, position: u32_at(bytes, 8), kept }
    }
}

/// What a run says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// From what it was made, as its writer was told.
    pub identity: [u8; 32],
    /// Number of records.
    pub records: u64,
    /// Checksum of the whole run.
    pub checksum: u64,
}

fn header<R: Row>(identity: &[u8; 32]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&R::KIND);
    header[16..20].copy_from_slice(&(R::BYTES as u32).to_le_bytes());
    header[32..].copy_from_slice(identity);
    header
}

fn damaged(path: &Path, problem: impl std::fmt::Display) -> Error {
    Error::file(path, format!("{problem}; remove this file, and the same command makes it again"))
}

/// An end of file inside a run means that it was cut short; other errors are the system's.
fn cut_short(path: &Path, records: u64) -> impl FnOnce(io::Error) -> Error {
    move |error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged(path, format!("a sorted run that ends after record {records}")),
        _ => Error::io(path)(error),
    }
}

/// Writes a run. What is written is a file under its name only after [`Writer::finish`].
pub struct Writer<R, W = Pending> {
    out: W,
    path: PathBuf,
    block: Vec<u8>,
    last: Option<R>,
    records: u64,
    checksum: u64,
}

impl<R: Row> Writer<R> {
    /// Begins a run that is there whole or not at all. `identity` says what it is made from.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn create(path: &Path, identity: [u8; 32]) -> Result<Writer<R>, Error> {
        Writer::begin(Pending::create(path)?, path, identity)
    }

    /// Ends the run, syncs it and gives it its name.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn finish(mut self) -> Result<Digest, Error> {
        self.end()?;
        self.out.finish()
    }
}

impl<R: Row> Writer<R, BufWriter<File>> {
    /// Begins a run that nobody needs after this process, so that nothing waits for the disk.
    fn scratch(path: &Path) -> Result<Self, Error> {
        let file = atomic::create_anew(path)?;
        Writer::begin(BufWriter::with_capacity(1 << 16, file), path, [0; 32])
    }

    fn finish_scratch(mut self) -> Result<(), Error> {
        self.end()?;
        self.out.flush().map_err(Error::io(&self.path))
    }
}

impl<R: Row, W: Write> Writer<R, W> {
    fn begin(mut out: W, path: &Path, identity: [u8; 32]) -> Result<Self, Error> {
        let header = header::<R>(&identity);
        out.write_all(&header).map_err(Error::io(path))?;
        let block = Vec::with_capacity(BLOCK_BYTES);
        Ok(Writer { out, path: path.to_path_buf(), block, last: None, records: 0, checksum: xxh3_64(&header) })
    }

    /// Writes the next record.
    ///
    /// # Errors
    /// Where the system refuses.
    ///
    /// # Panics
    /// If it is less than the one before.
    pub fn write(&mut self, record: &R) -> Result<(), Error> {
        assert!(self.last.is_none_or(|last| last <= *record), "records of a run come in order");
        self.last = Some(*record);
        if self.block.len() + R::BYTES > BLOCK_BYTES {
            self.flush_block()?;
        }
        let start = self.block.len();
        self.block.resize(start + R::BYTES, 0);
        record.encode(&mut self.block[start..]);
        self.records += 1;
        Ok(())
    }

    fn flush_block(&mut self) -> Result<(), Error> {
        let count = (self.block.len() / R::BYTES) as u32;
        if count > 0 {
            self.put(count)?;
        }
        Ok(())
    }

    fn put(&mut self, count: u32) -> Result<(), Error> {
        self.checksum = xxh3_64_with_seed(&self.block, self.checksum);
        let mut frame = [0; FRAME_BYTES];
        frame[..4].copy_from_slice(&count.to_le_bytes());
        frame[4..].copy_from_slice(&self.checksum.to_le_bytes());
        self.out.write_all(&frame).and_then(|()| self.out.write_all(&self.block)).map_err(Error::io(&self.path))?;
        self.block.clear();
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        self.flush_block()?;
        self.block.extend_from_slice(&self.records.to_le_bytes());
        self.put(0)
    }
}

/// Reads a run, in order.
pub struct Reader<R> {
    from: BufReader<File>,
    path: PathBuf,
    block: Vec<u8>,
    at: usize,
    records: u64,
    checksum: u64,
    last: Option<R>,
    ended: bool,
}

impl<R: Row> Reader<R> {
    /// Opens a run.
    ///
    /// # Errors
    /// Where it is not there, or is no run of these records.
    pub fn open(path: &Path) -> Result<Reader<R>, Error> {
        let mut from = BufReader::with_capacity(1 << 13, File::open(path).map_err(Error::io(path))?);
        let header = read_header::<R>(&mut from, path)?;
        let path = path.to_path_buf();
        let checksum = xxh3_64(&header);
        Ok(Reader { from, path, block: Vec::new(), at: 0, records: 0, checksum, last: None, ended: false })
    }

    /// Reads and checks the next block; at the end of the run it is empty.
    fn next_block(&mut self) -> Result<(), Error> {
        let mut frame = [0; FRAME_BYTES];
        self.from.read_exact(&mut frame).map_err(cut_short(&self.path, self.records))?;
        let count = u32::from_le_bytes(frame[..4].try_into().expect("four bytes")) as usize;
        let checksum = u64::from_le_bytes(frame[4..].try_into().expect("eight bytes"));
        if count > BLOCK_BYTES / R::BYTES {
            let problem = format!("a damaged sorted run: a block of {count} records after record {}", self.records);
            return Err(damaged(&self.path, problem));
        }
        let bytes = if count == 0 { END_BYTES - FRAME_BYTES } else { count * R::BYTES };
        self.block.resize(bytes, 0);
        self.from.read_exact(&mut self.block).map_err(cut_short(&self.path, self.records))?;
        if xxh3_64_with_seed(&self.block, self.checksum) != checksum {
            let problem = format!("a damaged sorted run: wrong checksum after record {}", self.records);
            return Err(damaged(&self.path, problem));
        }
        (self.checksum, self.at) = (checksum, 0);
        if count == 0 {
            self.end()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        let records = u64::from_le_bytes(self.block[..8].try_into().expect("eight bytes"));
        if records != self.records {
            let problem = format!("a damaged sorted run: {} records, where it says {records}", self.records);
            return Err(damaged(&self.path, problem));
        }
        if self.from.read(&mut [0]).map_err(Error::io(&self.path))? != 0 {
            return Err(damaged(&self.path, "bytes after the end of a sorted run"));
        }
        self.block.clear();
        self.ended = true;
        Ok(())
    }

    fn next_row(&mut self) -> Result<Option<R>, Error> {
        if self.at == self.block.len() && !self.ended {
            self.next_block()?;
        }
        if self.ended {
            return Ok(None);
        }
        let row = R::decode(&self.block[self.at..self.at + R::BYTES]);
        self.at += R::BYTES;
        if self.last.is_some_and(|last| last > row) {
            let problem = format!("record {} of a sorted run is less than the one before it", self.records);
            return Err(damaged(&self.path, problem));
        }
        self.last = Some(row);
        self.records += 1;
        Ok(Some(row))
    }
}

impl<R: Row> Iterator for Reader<R> {
    type Item = Result<R, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.next_row().transpose();
        if let Some(Err(_)) = row {
            self.ended = true;
            self.block.clear();
            self.at = 0;
        }
        row
    }
}

fn read_header<R: Row>(from: &mut impl Read, path: &Path) -> Result<[u8; HEADER_BYTES], Error> {
    let mut found = [0; HEADER_BYTES];
    from.read_exact(&mut found).map_err(cut_short(path, 0))?;
    let expected = header::<R>(&[0; 32]);
    if found[..8] != MAGIC {
        return Err(damaged(path, "not a sorted run"));
    }
    if found[..32] != expected[..32] {
        let problem = format!(
            "a sorted run of version {} with records {:?}; version {VERSION} with records {:?} is read here",
            u32::from_le_bytes(found[8..12].try_into().expect("four bytes")),
            String::from_utf8_lossy(&found[12..16]),
            String::from_utf8_lossy(&R::KIND),
        );
        return Err(damaged(path, problem));
    }
    Ok(found)
}

/// Reads the two ends of a run, without its records.
///
/// # Errors
/// Where it is not there, or is no run of these records.
pub fn summary<R: Row>(path: &Path) -> Result<Summary, Error> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let header = read_header::<R>(&mut file, path)?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    if length < (HEADER_BYTES + END_BYTES) as u64 {
        return Err(damaged(path, "a sorted run without an end"));
    }
    let mut end = [0; END_BYTES];
    file.seek(SeekFrom::End(-(END_BYTES as i64))).map_err(Error::io(path))?;
    file.read_exact(&mut end).map_err(cut_short(path, 0))?;
    if end[..4] != [0; 4] {
        return Err(damaged(path, "a sorted run without an end"));
    }
    Ok(Summary {
        identity: header[32..].try_into().expect("32 bytes"),
        records: u64::from_le_bytes(end[FRAME_BYTES..].try_into().expect("eight bytes")),
        checksum: u64::from_le_bytes(end[4..FRAME_BYTES].try_into().expect("eight bytes")),
    })
}

/// A directory of runs that nobody needs after this process: removed at the end, and emptied at the start of what a killed process left.
pub struct Scratch {
    directory: PathBuf,
    next: u64,
}

impl Scratch {
    /// Makes the directory, empty. It belongs to one sorter or merge at a time.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn create(directory: &Path) -> Result<Scratch, Error> {
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io(directory)(error)),
            _ => {}
        }
        std::fs::create_dir_all(directory).map_err(Error::io(directory))?;
        Ok(Scratch { directory: directory.to_path_buf(), next: 0 })
    }

    fn next_path(&mut self) -> PathBuf {
        self.next += 1;
        self.directory.join(format!("{}.run", self.next))
    }

    fn owns(&self, path: &Path) -> bool {
        path.starts_with(&self.directory)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// How many runs may be open at once within a bound of memory: a block and the buffer of its file for each.
pub fn open_within(memory_bytes: usize) -> usize {
    (memory_bytes / (BLOCK_BYTES + (1 << 14))).clamp(2, OPEN_MAX)
}

/// Runs merged into one order.
pub struct Merge<R: Row> {
    readers: Vec<Reader<R>>,
    heap: BinaryHeap<Reverse<(R, usize)>>,
    failed: Option<Error>,
    _scratch: Option<Scratch>,
}

impl<R: Row> Merge<R> {
    /// Merges any number of runs. Above `open_max` the first ones are merged into runs in `scratch`, until no more are left.
    ///
    /// # Errors
    /// Where a run cannot be read, or the system refuses.
    pub fn new(runs: &[PathBuf], mut scratch: Scratch, open_max: usize) -> Result<Merge<R>, Error> {
        let open_max = open_max.max(2);
        let mut runs: VecDeque<PathBuf> = runs.iter().cloned().collect();
        while runs.len() > open_max {
            // No more than it takes to come down to `open_max`: less is written twice.
            let count = open_max.min(runs.len() - open_max + 1);
            let some: Vec<PathBuf> = runs.drain(..count).collect();
            let path = scratch.next_path();
            let mut writer = Writer::<R, _>::scratch(&path)?;
            for row in Merge::<R>::open(&some, None)? {
                writer.write(&row?)?;
            }
            writer.finish_scratch()?;
            for run in some.iter().filter(|run| scratch.owns(run)) {
                std::fs::remove_file(run).map_err(Error::io(run))?;
            }
            runs.push_back(path);
        }
        Merge::open(runs.make_contiguous(), Some(scratch))
    }

    fn open(runs: &[PathBuf], scratch: Option<Scratch>) -> Result<Merge<R>, Error> {
        let readers: Vec<Reader<R>> = runs.iter().map(|run| Reader::open(run)).collect::<Result<_, _>>()?;
        let heap = BinaryHeap::with_capacity(readers.len());
        let mut merge = Merge { readers, heap, failed: None, _scratch: scratch };
        for reader in 0..merge.readers.len() {
            if let Some(row) = merge.readers[reader].next() {
                merge.heap.push(Reverse((row?, reader)));
            }
        }
        Ok(merge)
    }
}

impl<R: Row> Iterator for Merge<R> {
    type Item = Result<R, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.heap.clear();
            return Some(Err(error));
        }
        let mut least = self.heap.peek_mut()?;
        let Reverse((row, reader)) = *least;
        match self.readers[reader].next() {
            Some(Ok(next)) => least.0.0 = next,
            None => {
                std::collections::binary_heap::PeekMut::pop(least);
            }
            Some(Err(error)) => self.failed = Some(error),
        }
        Some(Ok(row))
    }
}

/// Sorts records that come in any order, within a bound of memory.
pub struct Sorter<R> {
    rows: Vec<R>,
    rows_max: usize,
    open_max: usize,
    spilled: Vec<PathBuf>,
    scratch: Scratch,
}

impl<R: Row> Sorter<R> {
    /// Sorts within `memory_bytes`, but at least 256 KiB; what is more goes to `scratch`.
    pub fn new(scratch: Scratch, memory_bytes: usize) -> Sorter<R> {
        let rows_max = (memory_bytes / size_of::<R>()).max(1);
        Sorter { rows: Vec::new(), rows_max, open_max: open_within(memory_bytes), spilled: Vec::new(), scratch }
    }

    /// Takes a record.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn push(&mut self, row: R) -> Result<(), Error> {
        if self.rows.capacity() == 0 {
            // All at once: growing would need the memory twice. Pages that are never written take none.
            self.rows.reserve_exact(self.rows_max);
        }
        self.rows.push(row);
        if self.rows.len() == self.rows_max { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<(), Error> {
        self.rows.sort_unstable();
        let path = self.scratch.next_path();
        let mut writer = Writer::<R, _>::scratch(&path)?;
        for row in &self.rows {
            writer.write(row)?;
        }
        writer.finish_scratch()?;
        self.spilled.push(path);
        self.rows.clear();
        Ok(())
    }

    /// All records in order.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn finish(mut self) -> Result<Sorted<R>, Error> {
        if self.spilled.is_empty() {
            self.rows.sort_unstable();
            return Ok(Sorted::Memory(self.rows.into_iter()));
        }
        self.spill()?;
        self.rows = Vec::new();
        Ok(Sorted::Disk(Merge::new(&self.spilled, self.scratch, self.open_max)?))
    }

    /// All records in order, as a run.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn finish_run(self, path: &Path, identity: [u8; 32]) -> Result<Digest, Error> {
        let mut writer = Writer::create(path, identity)?;
        for row in self.finish()? {
            writer.write(&row?)?;
        }
        writer.finish()
    }
}

/// What a [`Sorter`] gives back.
pub enum Sorted<R: Row> {
    /// All of it fit.
    Memory(std::vec::IntoIter<R>),
    /// It was spilled.
    Disk(Merge<R>),
}

impl<R: Row> Iterator for Sorted<R> {
    type Item = Result<R, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Sorted::Memory(rows) => rows.next().map(Ok),
            Sorted::Disk(merge) => merge.next(),
        }
    }
}
