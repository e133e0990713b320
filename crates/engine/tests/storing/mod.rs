//! Stores for tests: the bytes of every block follow from its key, so anybody can tell whether they are right.
#![allow(dead_code)] // each test uses its part

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farthing_engine::store::{Key, LookupError, Settings, Store, chain, root};

pub const FINGERPRINT: [u8; 32] = [5; 32];
pub const BLOCK: usize = 10_000;
/// What such a block takes in clusters of 4 KiB, with its header.
pub const ON_DISK: u64 = 3 * 4096;

pub fn settings(dir: &Path, bytes_max: u64) -> Settings {
    Settings { dir: dir.to_path_buf(), bytes_max, fingerprint: FINGERPRINT, block_bytes: BLOCK }
}

pub fn open(dir: &Path, bytes_max: u64) -> Store {
    Store::open(settings(dir, bytes_max), |message| panic!("{message}"))
}

pub fn open_counting(dir: &Path, bytes_max: u64) -> (Store, Arc<Mutex<Vec<String>>>) {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let heard = warnings.clone();
    (Store::open(settings(dir, bytes_max), move |message| heard.lock().unwrap().push(message.to_string())), warnings)
}

pub fn keys(salt: &str, count: usize) -> Vec<Key> {
    let mut key = root(&FINGERPRINT, salt.as_bytes());
    let mut next = |at| {
        key = chain(&key, 0, &[at]);
        key
    };
    (0..count as u32).map(&mut next).collect()
}

pub fn page(key: &Key) -> Vec<u8> {
    page_of(key, BLOCK)
}

pub fn page_of(key: &Key, length: usize) -> Vec<u8> {
    let mut page = vec![0; length];
    blake3::Hasher::new().update(&key.hash).finalize_xof().fill(&mut page);
    page
}

pub fn file(dir: &Path, key: &Key) -> PathBuf {
    dir.join(&key.to_string()[..2]).join(format!("{key}.unit"))
}

/// One after another, so that each is a little younger than the one before.
pub fn put(store: &Store, keys: &[Key]) {
    for key in keys {
        store.put(*key, page(key));
        store.flush();
    }
}

/// How many blocks came, all of which must be right.
pub fn fetched(store: &Store, keys: &[Key]) -> usize {
    let mut fetch = store.fetch(keys.to_vec(), || {});
    for (at, key) in keys.iter().enumerate() {
        match fetch.next().expect("a block or a miss") {
            Ok(bytes) => assert!(bytes == page(key), "other bytes under {key}"),
            Err(LookupError::Unreadable(error)) => panic!("{error}"),
            Err(_) => return at,
        }
    }
    assert!(fetch.next().is_none());
    keys.len()
}

/// All files under a directory.
pub fn names(dir: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())).collect()
}

/// Things that happen within seconds. Counted in looks, not in time: the machine may stand still for minutes.
pub fn until(what: &str, mut happened: impl FnMut() -> bool) {
    for _ in 0..1200 {
        if happened() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("not within a minute: {what}");
}
