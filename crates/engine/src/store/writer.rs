//! The thread that writes, keeps within the bound, and looks at what other processes did.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::directory::{FolderListing, make_private, nanoseconds, private};
use super::queue::{Next, WriteJob};
use super::{Key, StoreState, block};

/// How often the directory is looked at.
const SCAN: Duration = Duration::from_secs(2);
/// How long nothing is written after the disk refused.
const PAUSE: Duration = Duration::from_secs(2);
/// How often people hear of it at most.
const WARNING: Duration = Duration::from_secs(3600);
/// Times of a folder may be this coarse: one that changed just now may change again without a sign.
const COARSE: Duration = Duration::from_secs(3);
/// Blocks that are remembered, so that memory has a bound whatever is in the directory.
const BLOCKS_MAX: usize = 1 << 20;

pub(super) struct StoreWriter {
    shared: Arc<StoreState>,
    /// When each folder had last changed as it was last read.
    folders: Vec<Option<SystemTime>>,
    scanned: Instant,
    /// Bytes written since then.
    unscanned: u64,
    paused: Option<Instant>,
    warned: Option<Instant>,
    /// Names of unfinished files: a number of this store, and one that counts.
    number: u64,
    count: u64,
}

impl StoreWriter {
    /// Looks at the directory before it returns.
    pub fn new(shared: Arc<StoreState>) -> StoreWriter {
        let number = RandomState::new().hash_one(std::process::id());
        let (folders, scanned) = (vec![None; 256], Instant::now());
        let mut writer =
            StoreWriter { shared, folders, scanned, unscanned: 0, paused: None, warned: None, number, count: 0 };
        if let Err(error) = make_private(&writer.shared.directory.0) {
            writer.refused(&error);
        }
        writer.scan();
        writer
    }

    /// Until the queue is closed.
    pub fn run(mut self) {
        let _ = self.make_room(0);
        loop {
            let next = self.shared.queue.next(SCAN);
            // Who writes much looks more often: so several processes together stay near the bound however fast they are.
            if self.scanned.elapsed() >= SCAN || self.unscanned > self.shared.bytes_max / 16 {
                self.scan();
                let _ = self.make_room(0);
            }
            match next {
                Next::Closed => return,
                Next::Idle => {}
                Next::WriteJob(WriteJob::Touch(blocks)) => self.touch(&blocks),
                Next::WriteJob(WriteJob::Write(key, page)) => self.write(key, &page),
            }
        }
    }

    fn refused(&mut self, error: &io::Error) {
        self.paused = Some(Instant::now());
        if self.warned.is_none_or(|warned| warned.elapsed() > WARNING) {
            self.warned = Some(Instant::now());
            let directory = self.shared.directory.0.display();
            (self.shared.warn)(&format!(
                "nothing is added to the context cache in {directory} until that works again: {error}"
            ));
        }
    }

    fn write(&mut self, key: Key, page: &[u8]) {
        if self.shared.index().contains(&key) {
            return;
        }
        if self.paused.is_some_and(|paused| paused.elapsed() < PAUSE) {
            return self.shared.count(|done| done.dropped += 1);
        }
        self.paused = None;
        let used = nanoseconds(SystemTime::now());
        match self.write_file(&key, page, used) {
            Ok(()) => {
                self.shared.index().insert(key, self.shared.disk_bytes(), used);
                self.unscanned += self.shared.disk_bytes();
                self.shared.count(|done| done.written += 1);
            }
            Err(error) => {
                self.shared.count(|done| done.dropped += 1);
                // A directory in the place of one block is no fault of the disk.
                if !self.shared.directory.file(&key).is_dir() {
                    self.refused(&error);
                }
            }
        }
    }

    fn write_file(&mut self, key: &Key, page: &[u8], used: u64) -> io::Result<()> {
        let StoreState { directory, header, .. } = &*self.shared;
        self.shared.checked(make_private(&directory.0))?;
        self.make_room(self.shared.disk_bytes())?;
        self.count += 1;
        let unfinished =
            directory.prepare_for(key)?.join(format!("{key}.{:016x}{:016x}.part", self.number, self.count));
        let written =
            header.write(key, page, used, &unfinished).and_then(|()| fs::rename(&unfinished, directory.file(key)));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    fn touch(&self, blocks: &[(Key, u64)]) {
        for (key, used) in blocks {
            if let Ok(file) = block::open(&self.shared.directory.file(key)) {
                block::mark(&file, *used);
            }
        }
    }

    /// Remove what was used longest ago until so many bytes fit.
    fn make_room(&self, wanted: u64) -> io::Result<()> {
        loop {
            let (key, used) = {
                let index = self.shared.index();
                let fits = index.bytes().saturating_add(wanted) <= self.shared.bytes_max && index.len() < BLOCKS_MAX;
                match index.oldest() {
                    Some(oldest) if !fits => oldest,
                    _ => return Ok(()),
                }
            };
            let path = self.shared.directory.file(&key);
            if let Ok(metadata) = fs::symlink_metadata(&path) {
                // Another process may have used it. A time that is still to come is no use.
                let changed = metadata.modified().map_or(0, nanoseconds);
                if metadata.is_file() && changed > used && changed <= nanoseconds(SystemTime::now()) {
                    self.shared.index().touch(&key, changed);
                    continue;
                }
                if metadata.is_file() {
                    match fs::remove_file(&path) {
                        Ok(()) => self.shared.count(|done| done.evicted += 1),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            self.shared.index().remove(&key);
        }
    }

    /// Bring the index up to what is in the directory. Folders that did not change are not read.
    fn scan(&mut self) {
        (self.scanned, self.unscanned) = (Instant::now(), 0);
        let usable = self.shared.checked(private(&self.shared.directory.0)).is_ok();
        for byte in 0..=255 {
            let changed =
                fs::metadata(self.shared.directory.folder(byte)).and_then(|m| m.modified()).ok().filter(|_| usable);
            let seen = &mut self.folders[usize::from(byte)];
            if changed.is_none() || changed != *seen {
                let unfinished = scan_folder(&self.shared, byte, changed.is_some());
                let settled = changed.is_some_and(|changed| changed.elapsed().is_ok_and(|age| age > COARSE));
                *seen = changed.filter(|_| settled && !unfinished);
            }
        }
    }
}

/// Whether the folder must be read again even if it does not change.
fn scan_folder(shared: &StoreState, byte: u8, exists: bool) -> bool {
    let known: BTreeSet<Key> = shared.index().beginning_with(byte);
    let listed = exists.then(|| shared.directory.list(byte, |key| known.contains(key)));
    // Blocks that cannot be listed cannot be counted: they are unknown until they can.
    let (listing, failed) = match listed {
        Some(Ok(listing)) => (listing, false),
        Some(Err(_)) => (FolderListing::default(), true),
        None => (FolderListing::default(), false),
    };
    let mut index = shared.index();
    for key in known.difference(&listing.known) {
        index.remove(key);
    }
    for (key, bytes, used) in listing.new {
        if !index.contains(&key) {
            index.insert(key, super::on_disk(bytes), used);
        }
    }
    failed || listing.unfinished
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}
