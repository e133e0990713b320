//! The context cache on disk: pages of the cache by a hash of the tokens before and in them, kept from one run to the next.
//!
//! A prefix of a prompt is cut into blocks of as many tokens as a page holds. The [`Key`] of a block says what its bytes follow from ([`root`],
//! [`chain`]); the store maps keys to bytes. It knows no tokens and no pages.
//!
//! **What it guarantees.** Bytes that a [`Fetch`] gives are the bytes that were put under that key by a store of the same fingerprint and length:
//! each file carries a BLAKE3 hash over the page, keyed by a header of format version, length, fingerprint and key, and reading compares all of it. A
//! file that is cut off, changed, of another model or under another name, or no file at all, is a [`LookupError`], and damaged ones are removed. Neither
//! putting nor fetching waits for the disk; memory is bounded: 128 MiB or one block that wait to be written, six blocks a fetch, some hundred bytes a
//! block known. A disk that is full, read-only or gone costs one warning and the blocks that could not be written; it is tried again every two seconds.
//! Files and directories can be entered by their owner only, and a directory (the top one, or one of its 256) that belongs to somebody else than this user
//! or root, or where others than its owner may write, is not used.
//!
//! **What it does not.** That anything put can be fetched later: blocks are dropped when the disk is too slow, evicted, or lost with the power. That
//! the bound holds to the byte: files count as whole clusters of 4 KiB, folders and up to ten minutes of unfinished files of killed processes do not
//! count, and with several processes each learns what the others wrote only after two seconds, or after a sixteenth of the bound that it wrote
//! itself, so each may exceed it by that (of several bounds the smallest holds). Against somebody who can write files as the same user: no hash helps
//! there. Encryption.
//!
//! **One file a block, not segments with an index.** A rename makes a block appear whole or not at all, for every process at once and whatever is
//! killed when; the file system is the index, its times of change are the order of use, and removing a file is eviction to the block. Segment files
//! would need all of that written anew, between processes, with a rewriting of half-dead segments on top. The price is many files where pages are
//! small: 10 GB in blocks of 2 MB are 5,000 files, which opening lists in 12 ms (warm); in blocks of 50 KB they are 200,000.
//!
//! **No fsync, nowhere.** Correctness comes from the checksum, not from the order in which blocks reach the disk: what the power took is found to be
//! damaged or too short, is a miss and is removed. Waiting for the disk would make every block dearer to lose fewer in the rare case.
//!
//! **Owners.** A block may have an [`Owner`], whose digits are in the name of its file: so all blocks of one can be removed ([`remove_owned`]), of whatever
//! model, without knowing what they were computed from. What is found does not follow from it: salts keep owners apart.
//!
//! The directory may hold blocks of several models and versions of this format. They never mistake each other's (the fingerprint is in the key), share
//! the bound, and age together; so nothing is left behind when the model changes. Files with other names are not touched.

mod block;
mod directory;
mod fetch;
mod index;
mod key;
mod queue;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

pub use fetch::Fetch;
pub use key::{Key, Owner, chain, root};

use block::Header;
use directory::Directory;
pub(crate) use directory::{make_private, private};
use index::StoreIndex;
use queue::{WriteJob, WriteQueue};
use writer::StoreWriter;

/// Bytes that may wait to be written: some thousands of tokens that were read at once.
const QUEUE_BYTES: usize = 128 << 20;

/// What a store is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where blocks lie; made if it is missing.
    pub dir: PathBuf,
    /// What all blocks in the directory may take, whoever wrote them.
    pub bytes_max: u64,
    /// The hash of all that blocks follow from besides their tokens; see [`root`].
    pub fingerprint: [u8; 32],
    /// The length of every block.
    pub block_bytes: usize,
}

/// Remove the blocks of owners that are gone from a directory, whichever models they are of and whether a store is open there or not; how many there were.
/// Stores that are open notice within two seconds.
///
/// # Errors
/// A directory that is not private, or a file that cannot be removed. Where there is no directory there are no blocks.
pub fn remove_owned(dir: &Path, gone: impl Fn(&Owner) -> bool) -> std::io::Result<u64> {
    match private(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        checked => checked.and_then(|()| Directory(dir.to_path_buf()).remove_owned(gone)),
    }
}

/// Why a block did not come.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// It was never there, or was evicted.
    #[error("the block is not in the cache")]
    Absent,
    /// What was there is not what was put, and has been removed.
    #[error("what was in place of the block is damaged or foreign, and was removed")]
    Damaged,
    /// It may be there.
    #[error("the block cannot be read: {0}")]
    Unreadable(#[source] std::io::Error),
}

/// What a store holds, and what it did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Blocks in the directory, of any model, as last seen.
    pub blocks: u64,
    /// Bytes that they take, in clusters of 4 KiB.
    pub bytes: u64,
    /// Blocks fetched.
    pub hits: u64,
    /// Fetches that ended early, for whatever reason.
    pub misses: u64,
    /// Blocks written.
    pub written: u64,
    /// Blocks put that were not written, because too many waited or the disk refused.
    pub dropped: u64,
    /// Misses because of a damaged block.
    pub damaged: u64,
    /// Blocks removed to keep within the bound.
    pub evicted: u64,
}

/// What the threads of a store share.
struct StoreState {
    directory: Directory,
    header: Header,
    bytes_max: u64,
    index: Mutex<StoreIndex>,
    queue: WriteQueue,
    /// Nobody else can put files into the directory, as last seen.
    usable: AtomicBool,
    /// What was done; what is there follows from the index.
    done: Mutex<Statistics>,
    warn: Box<dyn Fn(&str) + Send + Sync>,
}

impl StoreState {
    fn index(&self) -> MutexGuard<'_, StoreIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remember whether the directory can be used.
    fn checked(&self, found: std::io::Result<()>) -> std::io::Result<()> {
        self.usable.store(found.is_ok(), Ordering::Relaxed);
        found
    }

    fn count(&self, done: impl FnOnce(&mut Statistics)) {
        done(&mut self.done.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What one block takes.
    fn disk_bytes(&self) -> u64 {
        on_disk(self.header.file_bytes())
    }
}

/// What a file takes in clusters of 4 KiB.
fn on_disk(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(4096).unwrap_or(u64::MAX)
}

/// The cache on disk. Dropping it forgets what waits to be written; [`Store::flush`] before that.
pub struct Store {
    shared: Arc<StoreState>,
}

impl Store {
    /// Open the directory and look at what is in it. That always succeeds: with a directory that cannot be used every block is a miss until it can.
    /// `warn` hears of that, or of a disk that refuses later, at most once an hour: before this returns, or on the writer's thread.
    pub fn open(settings: Settings, warn: impl Fn(&str) + Send + Sync + 'static) -> Store {
        let Settings { dir, bytes_max, fingerprint, block_bytes } = settings;
        let shared = Arc::new(StoreState {
            directory: Directory(dir),
            header: Header { fingerprint, block_bytes },
            bytes_max,
            index: Mutex::default(),
            queue: WriteQueue::new(QUEUE_BYTES),
            usable: AtomicBool::new(false),
            done: Mutex::default(),
            warn: Box::new(warn),
        });
        let writer = StoreWriter::new(shared.clone());
        if let Err(error) = std::thread::Builder::new().name("cache writer".into()).spawn(move || writer.run()) {
            (shared.warn)(&format!("nothing is added to the context cache on disk: no thread for it: {error}"));
        }
        Store { shared }
    }

    /// Whether the block is in the directory, as far as is known: others may have written or removed it in the last two seconds.
    pub fn contains(&self, key: &Key) -> bool {
        self.shared.index().contains(key)
    }

    /// Keep a block, if that is possible without waiting. One that is there already stays as it is.
    ///
    /// # Panics
    ///
    /// If `bytes` are not as many as the settings say.
    pub fn put(&self, key: Key, bytes: Vec<u8>) {
        assert_eq!(bytes.len(), self.shared.header.block_bytes, "the length of a block");
        if self.contains(&key) {
            self.touch(&[key]);
        } else if self.shared.disk_bytes() > self.shared.bytes_max
            || !self.shared.queue.push(WriteJob::Write(key, bytes))
        {
            self.shared.count(|done| done.dropped += 1);
        }
    }

    /// Read blocks of one prefix, from its beginning, in order. `wake` is called whenever something came and once at the end, on another thread.
    pub fn fetch(&self, keys: Vec<Key>, wake: impl Fn() + Send + 'static) -> Fetch {
        fetch::start(self.shared.clone(), keys, wake)
    }

    /// Blocks of one prefix, from its beginning, were used, though not fetched from here: so they are not evicted before what is used less.
    /// Of blocks that are touched together the first lasts longest.
    pub fn touch(&self, keys: &[Key]) {
        let now = directory::nanoseconds(SystemTime::now());
        let mut index = self.shared.index();
        let used = keys.iter().enumerate().map(|(at, key)| (*key, fetch::used(now, at)));
        let known: Vec<(Key, u64)> = used.filter(|(key, used)| index.touch(key, *used)).collect();
        drop(index);
        if !known.is_empty() {
            // Without room in the queue this process knows it, and others do not.
            self.shared.queue.push(WriteJob::Touch(known));
        }
    }

    /// What is there, and what was done.
    pub fn statistics(&self) -> Statistics {
        let index = self.shared.index();
        let (blocks, bytes) = (index.len() as u64, index.bytes());
        drop(index);
        Statistics { blocks, bytes, ..*self.shared.done.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Wait until all that was put is written or dropped. The operating system has it then; that it lies on the disk is another matter.
    pub fn flush(&self) {
        self.shared.queue.wait_until_done();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}
