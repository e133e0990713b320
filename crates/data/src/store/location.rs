//! Where a file of a source is, and reading it: a file, or an object that is read in blocks

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{Object, Store};

/// Bytes of an object that are asked for at once.
const BLOCK_BYTES: u64 = 4 << 20;

/// Blocks that are held of an open object: columns of a Parquet file are read side by side.
const BLOCKS: usize = 8;

/// Where a file is.
#[derive(Clone, Debug)]
pub enum Location {
    /// In the file system.
    File(PathBuf),
    /// In a store.
    Object(Arc<Stored>),
}

/// An object with its store, as it was when it was listed.
#[derive(Debug)]
pub struct Stored {
    url: PathBuf,
    store: Arc<dyn Store>,
    object: Object,
}

impl Location {
    /// An object of a store.
    pub fn object(url: PathBuf, store: Arc<dyn Store>, object: Object) -> Location {
        Location::Object(Arc::new(Stored { url, store, object }))
    }

    /// No file: of a generator.
    pub fn nowhere() -> Location {
        Location::File(PathBuf::new())
    }

    /// Its path or URL.
    pub fn path(&self) -> &Path {
        match self {
            Location::File(path) => path,
            Location::Object(stored) => &stored.url,
        }
    }

    /// Opens it, to be read from this byte on.
    ///
    /// # Errors
    /// What the system refuses. An object is asked for when it is read.
    pub fn open_at(&self, at: u64) -> io::Result<Handle> {
        let opened = match self {
            Location::File(path) => Opened::File(File::open(path)?),
            Location::Object(stored) => Opened::Object(stored.clone(), Mutex::default()),
        };
        Ok(Handle { opened, at, failure: Mutex::default() })
    }

    /// Its first bytes, so many or all.
    ///
    /// # Errors
    /// What the system or store refuses.
    pub fn first(&self, count: u64) -> io::Result<Vec<u8>> {
        match self {
            Location::Object(stored) => stored.read(0, count).map(Vec::from),
            Location::File(path) => {
                let mut first = Vec::new();
                File::open(path)?.take(count).read_to_end(&mut first)?;
                Ok(first)
            }
        }
    }

    /// What changes when its contents do, as text.
    ///
    /// # Errors
    /// A file that is gone.
    pub fn version(&self) -> io::Result<String> {
        match self {
            Location::Object(stored) => Ok(format!("{} {:?}", stored.object.bytes, stored.object.version)),
            Location::File(path) => {
                let metadata = std::fs::metadata(path)?;
                Ok(format!("{:?}", (metadata.len(), metadata.modified()?)))
            }
        }
    }
}

impl AsRef<Path> for Location {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Location {
        Location::File(path)
    }
}

impl PartialEq for Location {
    fn eq(&self, other: &Location) -> bool {
        match (self, other) {
            (Location::File(one), Location::File(two)) => one == two,
            (Location::Object(one), Location::Object(two)) => one.url == two.url && one.object == two.object,
            _ => false,
        }
    }
}

impl Eq for Location {}

impl Stored {
    /// Bytes from a place on, up to the object's end.
    fn read(&self, at: u64, count: u64) -> io::Result<Bytes> {
        let end = at.saturating_add(count).min(self.object.bytes);
        if at >= end {
            return Ok(Bytes::new());
        }
        // Readers take some kinds of errors for damage of what they read.
        let bytes = self.store.read(&self.object, at..end).map_err(|e| io::Error::other(e.to_string()))?;
        match bytes.len() as u64 == end - at {
            true => Ok(bytes),
            false => Err(io::Error::other(format!("{} bytes came instead of {}", bytes.len(), end - at))),
        }
    }
}

#[derive(Debug)]
enum Opened {
    File(File),
    /// With blocks by number, the one that was used last at the end.
    Object(Arc<Stored>, Mutex<VecDeque<(u64, Bytes)>>),
}

/// An open file or object. Of an object up to 32 MiB are held.
#[derive(Debug)]
pub struct Handle {
    opened: Opened,
    at: u64,
    failure: Mutex<Option<String>>,
}

thread_local! {
    static READ: Cell<u64> = const { Cell::new(0) };
}

/// Bytes of files and objects that this thread has read through handles: as they are stored, whatever they expand to.
pub fn bytes_read() -> u64 {
    READ.get()
}

impl Handle {
    /// Its size.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn bytes(&self) -> io::Result<u64> {
        match &self.opened {
            Opened::File(file) => Ok(file.metadata()?.len()),
            Opened::Object(stored, _) => Ok(stored.object.bytes),
        }
    }

    /// Reads some bytes at a place; none at the end.
    ///
    /// # Errors
    /// What the system or store refuses.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let read = match &self.opened {
            Opened::File(file) => file.read_at(buffer, at),
            Opened::Object(stored, blocks) => read_blocks(stored, blocks, buffer, at),
        };
        read.inspect(|&read| READ.set(READ.get() + read as u64)).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                *self.failure.lock().expect("no panic holds it") = Some(error.to_string());
            }
        })
    }

    /// Fills a buffer from a place.
    ///
    /// # Errors
    /// What the system or store refuses, and an end before.
    pub fn read_exact_at(&self, mut buffer: &mut [u8], mut at: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    buffer = &mut buffer[read..];
                    at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What the system or store refused, if it did: for libraries that make damage of it.
    pub fn failure(&self) -> Option<io::Error> {
        self.failure.lock().expect("no panic holds it").clone().map(io::Error::other)
    }
}

fn read_blocks(
    stored: &Stored,
    blocks: &Mutex<VecDeque<(u64, Bytes)>>,
    buffer: &mut [u8],
    at: u64,
) -> io::Result<usize> {
    if at >= stored.object.bytes {
        return Ok(0);
    }
    let number = at / BLOCK_BYTES;
    let mut blocks = blocks.lock().expect("no panic holds it");
    let block = match blocks.iter().position(|(held, _)| *held == number) {
        Some(place) => blocks.remove(place).expect("it is there").1,
        None => {
            if blocks.len() >= BLOCKS {
                blocks.pop_front();
            }
            stored.read(number * BLOCK_BYTES, BLOCK_BYTES)?
        }
    };
    let from = &block[(at % BLOCK_BYTES) as usize..];
    let count = from.len().min(buffer.len());
    buffer[..count].copy_from_slice(&from[..count]);
    blocks.push_back((number, block));
    Ok(count)
}

impl Read for Handle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_reads_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, [7; 100]).unwrap();
        let file = Location::from(path).open_at(0).unwrap();
        let before = bytes_read();
        file.read_exact_at(&mut [0; 30], 5).unwrap();
        assert_eq!(file.read_at(&mut [0; 30], 90).unwrap(), 10);
        assert_eq!(bytes_read() - before, 40);
        assert_eq!(std::thread::spawn(bytes_read).join().unwrap(), 0);
    }
}
