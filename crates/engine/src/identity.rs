//! What a model's files are, by their bytes: a BLAKE3 hash of each, which names what the cache on disk keeps of the model.
//!
//! A file is hashed once, on a thread of its own that gives way to everybody else, and the hash is kept beside what the system says of the file: device,
//! inode, length, time of writing and time of change. The last cannot be set from outside, and it moves whenever the bytes do: a file that was patched
//! with its time of writing put back is hashed again. A record that is damaged, of another file, or in a directory where others may write is none.
//!
//! **What it does not see.** Bytes that another process writes through a mapping that it had dirtied before: the system tells of those when it writes them
//! back. A clock or a disk that somebody with the rights to do so sets back.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::mmap::{Mapping, Stamp};

use crate::store;

/// A file's hash.
pub type FileHash = [u8; 32];

/// Bytes that are read and hashed at a time; between them the end of the server is noticed.
const PIECE: usize = 1 << 20;
/// Times of change may be this coarse: a file that changed just now may change again without a sign.
const COARSE: Duration = Duration::from_secs(2);
/// Begins every record; the last byte is the version of its layout.
const MAGIC: [u8; 8] = *b"FARTHID\x01";
/// Magic, stamp, hash, checksum.
const RECORD: usize = 8 + STAMP + 32 + 32;
const STAMP: usize = 7 * 8;
/// Records that are kept; beyond them all go, and files are hashed anew.
const RECORDS_MAX: usize = 4096;

/// Why a file has no hash.
#[derive(Debug, thiserror::Error)]
pub enum NoHash {
    /// The server ends.
    #[error("the server ends")]
    Stopped,
    /// The file is not what it was when it was opened, or changed while it was read.
    #[error("{0} was changed while it was in use")]
    Changed(PathBuf),
    /// It cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// The hash of a file's bytes as it was opened: from its record in `records` where there is one, made and kept where there is none.
///
/// # Errors
/// `stop` was set; the file changed since it was opened; it cannot be read.
pub fn file_hash(file: &Mapping, records: &Path, stop: &AtomicBool) -> Result<FileHash, NoHash> {
    let stamp = file.stamp();
    if stamp != file.opened() {
        return Err(NoHash::Changed(file.path().to_path_buf()));
    }
    if let Some(hash) = stamp.and_then(|stamp| kept(records, &stamp)) {
        return Ok(hash);
    }
    let settled = stamp.is_some_and(|stamp| settle(&stamp, stop));
    let hash = hashed(file, stop)?;
    if file.stamp() != stamp {
        return Err(NoHash::Changed(file.path().to_path_buf()));
    }
    if let Some(stamp) = stamp.filter(|_| settled) {
        // Without a record the next start hashes again.
        let _ = keep(records, &stamp, &hash);
    }
    Ok(hash)
}

fn hashed(file: &Mapping, stop: &AtomicBool) -> Result<FileHash, NoHash> {
    let (mut hasher, mut piece, mut at) = (blake3::Hasher::new(), vec![0; PIECE], 0);
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(NoHash::Stopped);
        }
        match file.read_at(&mut piece, at) {
            Ok(0) => return Ok(*hasher.finalize().as_bytes()),
            Ok(read) => {
                hasher.update(&piece[..read]);
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(NoHash::Unreadable { path: file.path().to_path_buf(), error }),
        }
    }
}

/// Wait until a change from now on shows in the time of change. False where that cannot be told: times to come, or the end of the server.
fn settle(stamp: &Stamp, stop: &AtomicBool) -> bool {
    let (seconds, nanoseconds) = stamp.changed;
    let since = u64::try_from(seconds).unwrap_or(0);
    let changed = UNIX_EPOCH + Duration::new(since, u32::try_from(nanoseconds).unwrap_or(0));
    let begun = SystemTime::now();
    loop {
        match SystemTime::now().duration_since(changed) {
            Ok(age) if age > COARSE => return true,
            _ if stop.load(Ordering::Relaxed) => return false,
            _ if begun.elapsed().is_ok_and(|waited| waited > COARSE) => return false,
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn record(stamp: &Stamp, hash: &FileHash) -> Vec<u8> {
    let Stamp { device, inode, length, written, changed } = *stamp;
    let signed = [written.0, written.1, changed.0, changed.1].map(i64::to_le_bytes);
    let stamp = [[device, inode, length].map(u64::to_le_bytes).as_flattened(), signed.as_flattened()].concat();
    let mut bytes = [&MAGIC[..], &stamp, hash].concat();
    let key = blake3::derive_key("Farthing, context cache, version 1: hash of a file", &bytes);
    bytes.extend_from_slice(&key);
    bytes
}

/// Where the record of a file lies: by device and inode, so that a file has one.
fn place(records: &Path, stamp: &Stamp) -> PathBuf {
    records.join(format!("{:016x}{:016x}.hash", stamp.device, stamp.inode))
}

fn kept(records: &Path, stamp: &Stamp) -> Option<FileHash> {
    store::private(records).ok()?;
    let mut bytes = Vec::with_capacity(RECORD + 1);
    let file = fs::File::open(place(records, stamp)).ok()?;
    file.take(RECORD as u64 + 1).read_to_end(&mut bytes).ok()?;
    let hash: FileHash = bytes.get(8 + STAMP..8 + STAMP + 32)?.try_into().ok()?;
    (bytes == record(stamp, &hash)).then_some(hash)
}

fn keep(records: &Path, stamp: &Stamp, hash: &FileHash) -> io::Result<()> {
    store::make_private(records)?;
    if fs::read_dir(records)?.count() >= RECORDS_MAX {
        fs::read_dir(records)?.flatten().for_each(|entry| drop(fs::remove_file(entry.path())));
    }
    let path = place(records, stamp);
    // Two processes write the same, so the name need be no other's than this process's.
    let unfinished = path.with_extension(format!("{}.part", std::process::id()));
    let written = fs::write(&unfinished, record(stamp, hash)).and_then(|()| fs::rename(&unfinished, &path));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}
