//! Blocks on their way from disk: read in order on a thread of their own, a few ahead of who takes them.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::task::Poll;
use std::time::SystemTime;

use super::directory::nanoseconds;
use super::{Key, LookupError, StoreState, block};

/// Blocks that are read before anybody takes them.
const AHEAD: usize = 4;

/// Blocks being read. Dropping it ends the reading.
pub struct Fetch {
    read: Receiver<Result<Vec<u8>, LookupError>>,
    left: usize,
}

impl Fetch {
    /// The next block in the order of the keys, once it is there. `None` after all of them, and after the first that was missed: what follows a gap in a
    /// prefix is of no use.
    pub fn try_next(&mut self) -> Poll<Option<Result<Vec<u8>, LookupError>>> {
        match self.read.try_recv() {
            _ if self.left == 0 => Poll::Ready(None),
            Err(TryRecvError::Empty) => Poll::Pending,
            Ok(result) => Poll::Ready(self.take(result)),
            Err(TryRecvError::Disconnected) => Poll::Ready(self.take(Err(ended()))),
        }
    }

    /// As [`Fetch::try_next`], but waits.
    #[allow(clippy::should_implement_trait)] // it waits, which a `for` should not hide
    pub fn next(&mut self) -> Option<Result<Vec<u8>, LookupError>> {
        if self.left == 0 {
            return None;
        }
        let result = self.read.recv().unwrap_or_else(|_| Err(ended()));
        self.take(result)
    }

    fn take(&mut self, result: Result<Vec<u8>, LookupError>) -> Option<Result<Vec<u8>, LookupError>> {
        self.left = if result.is_ok() { self.left - 1 } else { 0 };
        Some(result)
    }
}

fn ended() -> LookupError {
    LookupError::Unreadable(io::Error::other("the thread that reads did not start or has ended"))
}

/// Wakes whoever waits also when the thread ends, for whatever reason.
struct Wake<W: Fn()>(W);

impl<W: Fn()> Drop for Wake<W> {
    fn drop(&mut self) {
        (self.0)();
    }
}

pub(super) fn start(shared: Arc<StoreState>, keys: Vec<Key>, wake: impl Fn() + Send + 'static) -> Fetch {
    let (sender, read) = sync_channel(AHEAD);
    let (left, wake) = (keys.len(), Wake(wake));
    // Without a thread nothing is sent, and that is a miss.
    let _ = std::thread::Builder::new().name("cache reader".into()).spawn(move || run(&shared, &keys, sender, &wake));
    Fetch { read, left }
}

/// The sender is gone when `wake` is called for the last time.
fn run<W: Fn()>(shared: &StoreState, keys: &[Key], sender: SyncSender<Result<Vec<u8>, LookupError>>, wake: &Wake<W>) {
    let start = nanoseconds(SystemTime::now());
    let mut ahead = None;
    for (at, key) in keys.iter().enumerate() {
        let file = ahead.take().unwrap_or_else(|| open(shared, key));
        // The disk can begin with the next block while this one is checked and copied.
        ahead = keys.get(at + 1).filter(|_| file.is_ok()).map(|key| open(shared, key));
        let result = file.and_then(|file| read(shared, key, &file, used(start, at)));
        let missed = result.as_ref().is_err_and(|missed| {
            forget(shared, key, missed);
            true
        });
        if sender.send(result).is_err() || missed {
            return;
        }
        (wake.0)();
    }
}

/// Of two blocks of a prefix that are used together the first lasts longer: without it the second is of no use.
pub(super) fn used(start: u64, at: usize) -> u64 {
    start.saturating_sub(at as u64 * 1000)
}

fn open(shared: &StoreState, key: &Key) -> Result<File, LookupError> {
    if !shared.usable.load(Ordering::Relaxed) || shared.directory.check_folder(key.hash[0]).is_err() {
        return Err(LookupError::Absent);
    }
    let file = block::open(&shared.directory.file(key));
    #[cfg(target_os = "linux")]
    if let Ok(file) = &file {
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::WillNeed);
    }
    file
}

fn read(shared: &StoreState, key: &Key, file: &File, used: u64) -> Result<Vec<u8>, LookupError> {
    let page = shared.header.read(key, file)?;
    block::mark(file, used);
    let mut index = shared.index();
    // Another process may have written it a moment ago.
    if !index.touch(key, used) {
        index.insert(*key, shared.disk_bytes(), used);
    }
    drop(index);
    shared.count(|done| done.hits += 1);
    Ok(page)
}

fn forget(shared: &StoreState, key: &Key, missed: &LookupError) {
    shared.count(|done| done.misses += 1);
    if matches!(missed, LookupError::Damaged) {
        shared.count(|done| done.damaged += 1);
        shared.directory.remove(key);
    }
    shared.index().remove(key);
}
