//! The cache on disk as an engine has it: it waits until the model's files are hashed, and ends when one of them changes.
//!
//! Until the hashes are known there is nothing on disk for the engine, and nothing is put there or queued; requests do not notice. Then what is in memory
//! goes to disk. If a file's time of change moves while it is served, nobody can tell which bytes a page was computed from: nothing is read or written
//! from there on.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use model::mmap::Mapping;

use crate::guide::give_way;
use crate::identity::{FileHash, NoHash, file_hash};
use crate::runner::Fingerprint;
use crate::store::{Fetch, Key, Settings, Statistics, Store};

/// A cache on disk.
pub struct Disk {
    /// Directory.
    pub dir: std::path::PathBuf,
    /// Bound of all that is in it.
    pub bytes_max: u64,
    /// Gets a line when the disk cannot be used.
    pub warn: Box<dyn Fn(&str) + Send + Sync>,
}

/// A cache on disk that comes when it can.
pub(crate) struct LateStore {
    shared: Arc<LateStoreState>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct LateStoreState {
    files: Vec<Arc<Mapping>>,
    store: OnceLock<(Store, [u8; 32])>,
    /// The service ends.
    stop: AtomicBool,
    /// A file changed: what is on disk and what is in memory may be of other bytes.
    off: AtomicBool,
    warn: Arc<dyn Fn(&str) + Send + Sync>,
}

impl LateStore {
    /// Hash the files, then open the store. `wake` is called on another thread once it is there.
    pub fn start(
        disk: Disk,
        files: Vec<Arc<Mapping>>,
        fingerprint: Fingerprint,
        block_bytes: usize,
        wake: impl FnOnce() + Send + 'static,
    ) -> LateStore {
        let Disk { dir, bytes_max, warn } = disk;
        let (stop, off) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(LateStoreState { files, store: OnceLock::new(), stop, off, warn: Arc::from(warn) });
        let theirs = Arc::clone(&shared);
        let hash = move || {
            // Those who decode go first.
            give_way(19);
            match theirs.hashes(dir.join("hashes")) {
                Ok(hashes) => {
                    let (fingerprint, warn) = (fingerprint.with(&hashes), Arc::clone(&theirs.warn));
                    let settings = Settings { dir, bytes_max, fingerprint, block_bytes };
                    let _ = theirs.store.set((Store::open(settings, move |line| warn(line)), fingerprint));
                    wake();
                }
                Err(NoHash::Stopped) => {}
                Err(error) => (theirs.warn)(&format!("the cache on disk is not used until the next start: {error}")),
            }
        };
        let thread = std::thread::Builder::new().name("model hash".into()).spawn(hash);
        if let Err(error) = &thread {
            (shared.warn)(&format!("the cache on disk is not used: no thread to hash the model's files: {error}"));
        }
        LateStore { shared, thread: Mutex::new(thread.ok()) }
    }

    fn now(&self) -> Option<&(Store, [u8; 32])> {
        self.shared.store.get().filter(|_| !self.shared.off.load(Ordering::Relaxed))
    }

    /// As `Store::contains`.
    pub fn contains(&self, key: &Key) -> bool {
        self.now().is_some_and(|(store, fingerprint)| store.contains(&key.on_disk(fingerprint)))
    }

    /// As `Store::put`; nothing where the store is not there.
    pub fn put(&self, key: &Key, bytes: Vec<u8>) {
        if let Some((store, fingerprint)) = self.now() {
            store.put(key.on_disk(fingerprint), bytes);
        }
    }

    /// As `Store::touch`.
    pub fn touch(&self, keys: &[Key]) {
        if let Some((store, fingerprint)) = self.now() {
            let keys: Vec<Key> = keys.iter().map(|key| key.on_disk(fingerprint)).collect();
            store.touch(&keys);
        }
    }

    /// As `Store::fetch`; `None` where the store is not there.
    pub fn fetch(&self, keys: &[Key], wake: impl Fn() + Send + 'static) -> Option<Fetch> {
        let (store, fingerprint) = self.now()?;
        Some(store.fetch(keys.iter().map(|key| key.on_disk(fingerprint)).collect(), wake))
    }

    /// Whether the store is there, and what is in memory follows from the bytes that were hashed. A file that changed ends the cache on disk. One
    /// system call a file.
    pub fn is_usable(&self) -> bool {
        if self.now().is_none() {
            return false;
        }
        let Some(changed) = self.shared.files.iter().find(|file| file.stamp() != file.opened()) else { return true };
        if !self.shared.off.swap(true, Ordering::Relaxed) {
            let path = changed.path().display();
            (self.shared.warn)(&format!(
                "{path} was changed while it was in use (its rights or names, at least): the cache on disk is not used until the next start"
            ));
        }
        false
    }

    /// What is on disk and what was done; `None` until the files are hashed.
    pub fn statistics(&self) -> Option<Statistics> {
        self.shared.store.get().map(|(store, _)| store.statistics())
    }

    /// The service ends: hashing does too, at its next piece, and all that was put is written or dropped when this returns.
    pub fn end(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        if let Some((store, _)) = self.shared.store.get() {
            store.flush();
        }
    }
}

impl LateStoreState {
    fn hashes(&self, records: PathBuf) -> Result<Vec<FileHash>, NoHash> {
        self.files.iter().map(|file| file_hash(file, &records, &self.stop)).collect()
    }
}
