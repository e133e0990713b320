//! How far a run is, for whoever shows it: read at any time, from any thread

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::Error;

/// What a run tells while it goes, and how it is told to stop.
#[derive(Debug, Default)]
pub struct Progress {
    stage: Mutex<String>,
    total: AtomicU64,
    done: AtomicU64,
    documents: AtomicU64,
    stop: AtomicBool,
}

/// The state of a run at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What is being done, in words.
    pub stage: String,
    /// Bytes that this stage goes through; 0 if that is not known.
    pub total: u64,
    /// Bytes of them that are done.
    pub done: u64,
    /// Documents that went through this stage.
    pub documents: u64,
}

impl Progress {
    /// Begins a stage.
    pub fn stage(&self, name: &str, total: u64) {
        *self.stage.lock().expect("no panic holds it") = name.to_string();
        self.total.store(total, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
        self.documents.store(0, Ordering::Relaxed);
    }

    /// So much more is done.
    pub fn advance(&self, bytes: u64, documents: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.documents.fetch_add(documents, Ordering::Relaxed);
    }

    /// The state now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            stage: self.stage.lock().expect("no panic holds it").clone(),
            total: self.total.load(Ordering::Relaxed),
            done: self.done.load(Ordering::Relaxed),
            documents: self.documents.load(Ordering::Relaxed),
        }
    }

    /// Asks the run to stop: it ends with [`Error::Stopped`] after the documents that are being worked on.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Ends the work if somebody asked for it.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn check(&self) -> Result<(), Error> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Stopped) } else { Ok(()) }
    }

    /// Waits until other machines have made something, and looks for it twice a second.
    ///
    /// # Errors
    /// [`Error::Stopped`], and what looking gives.
    pub fn wait(&self, mut is_there: impl FnMut() -> Result<bool, Error>) -> Result<(), Error> {
        while !is_there()? {
            self.check()?;
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }
}
