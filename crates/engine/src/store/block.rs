//! One block in one file: a header that says what it is, a checksum over all of it, and the bytes of a page.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::{Key, LookupError};

/// Eight bytes that begin every file; the last is the version of this layout.
const MAGIC: [u8; 8] = *b"FARTHNG\x01";
/// Magic, length of the page, fingerprint, key.
const HEAD: usize = 8 + 8 + 32 + 32;
/// What a file has before the page: the head and the checksum.
pub(super) const HEADER: usize = HEAD + 32;

/// What the blocks of one store have in common.
pub(super) struct Header {
    pub fingerprint: [u8; 32],
    pub block_bytes: usize,
}

impl Header {
    /// The length of a file.
    pub fn file_bytes(&self) -> u64 {
        HEADER as u64 + self.block_bytes as u64
    }

    /// All that a file of this store and this name begins with. Reading compares; no number in a file is ever believed.
    fn head(&self, key: &Key) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&MAGIC);
        head[8..16].copy_from_slice(&(self.block_bytes as u64).to_le_bytes());
        head[16..48].copy_from_slice(&self.fingerprint);
        head[48..].copy_from_slice(&key.hash);
        head
    }

    /// Write a new file that only its owner can read, last used as it is told. Nothing is there before; what is there after an error is of no use.
    pub fn write(&self, key: &Key, page: &[u8], used: u64, path: &Path) -> io::Result<()> {
        let head = self.head(key);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        file.write_all(&head)?;
        file.write_all(checksum(&head, page).as_bytes())?;
        file.write_all(page)?;
        // The system's own times are milliseconds behind the clock, which would make it older than what was used just before.
        mark(&file, used);
        Ok(())
    }

    /// The page in a file, if that is a whole block of this store and name. Takes memory for one page, and only once the file has its length.
    pub fn read(&self, key: &Key, file: &File) -> Result<Vec<u8>, LookupError> {
        if !file.metadata().is_ok_and(|about| about.is_file() && about.len() == self.file_bytes()) {
            return Err(LookupError::Damaged);
        }
        // A disk that cannot read what it was given is damage as well.
        self.decode(key, file).ok().flatten().ok_or(LookupError::Damaged)
    }

    fn decode(&self, key: &Key, mut file: impl Read) -> io::Result<Option<Vec<u8>>> {
        let (mut head, mut sum) = ([0; HEAD], [0; 32]);
        file.read_exact(&mut head)?;
        file.read_exact(&mut sum)?;
        if head != self.head(key) {
            return Ok(None);
        }
        let mut page = Vec::with_capacity(self.block_bytes);
        file.take(self.block_bytes as u64).read_to_end(&mut page)?;
        Ok((page.len() == self.block_bytes && checksum(&head, &page) == sum).then_some(page))
    }
}

/// Over page and head: the head makes the key under which the page is hashed.
fn checksum(head: &[u8; HEAD], page: &[u8]) -> blake3::Hash {
    blake3::keyed_hash(&blake3::derive_key("Farthing, context cache, version 1: file", head), page)
}

/// Open a file for [`Header::read`] without following a link and without waiting for whoever might write to a pipe.
pub(super) fn open(path: &Path) -> Result<File, LookupError> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags.bits() as i32);
    }
    options.open(path).map_err(|error| match fs::symlink_metadata(path) {
        // Whatever has come there meanwhile.
        _ if error.kind() == io::ErrorKind::NotFound => LookupError::Absent,
        Ok(metadata) if !metadata.is_file() => LookupError::Damaged,
        Ok(_) => LookupError::Unreadable(error),
        Err(error) if error.kind() == io::ErrorKind::NotFound => LookupError::Absent,
        Err(error) => LookupError::Unreadable(error),
    })
}

/// Write down on a file when it was last used, in nanoseconds since 1970. Where that is not allowed, it will be evicted the sooner.
pub(super) fn mark(file: &File, used: u64) {
    let _ = file.set_modified(UNIX_EPOCH + Duration::from_nanos(used));
}
