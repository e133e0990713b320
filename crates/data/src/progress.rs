//! How far a run is, for whoever shows it: read at any time, from any thread

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::Error;

/// What a run tells while it goes, and how it is told to stop.
#[derive(Debug, Default)]
pub struct Progress {
    stage: Mutex<Stage>,
    done: AtomicU64,
    documents: AtomicU64,
    read: AtomicU64,
    stop: AtomicBool,
    warnings: Mutex<Vec<String>>,
}

/// What a stage goes through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of text or files.
    #[default]
    Bytes,
    /// Tokens.
    Tokens,
}

/// What is being done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// Number of its phase, from 1; 0 before the first.
    pub phase: usize,
    /// How many phases there are.
    pub phases: usize,
    /// In words.
    pub name: String,
    /// Units that it goes through; 0 if that is not known.
    pub total: u64,
    /// Units that were done when it began, by an earlier run.
    pub before: u64,
    /// What is counted.
    pub unit: Unit,
}

/// The state of a run at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What is being done.
    pub stage: Stage,
    /// Units of the stage that are done.
    pub done: u64,
    /// Documents that went through this stage.
    pub documents: u64,
}

impl Progress {
    /// Begins a phase.
    pub fn phase(&self, stage: Stage) {
        let mut now = self.stage.lock().expect("no panic holds it");
        self.done.store(stage.before, Ordering::Relaxed);
        self.documents.store(0, Ordering::Relaxed);
        *now = stage;
    }

    /// Begins a stage of the phase of which it is not known how much there is to do.
    pub fn stage(&self, name: &str) {
        self.part_of_phase(name, 0);
    }

    /// Begins a stage of the phase that goes through so many bytes.
    pub fn part_of_phase(&self, name: &str, total: u64) {
        let Stage { phase, phases, .. } = self.snapshot().stage;
        self.phase(Stage { phase, phases, name: name.to_string(), total, ..Stage::default() });
    }

    /// So much more is done.
    pub fn advance(&self, units: u64, documents: u64) {
        self.done.fetch_add(units, Ordering::Relaxed);
        self.documents.fetch_add(documents, Ordering::Relaxed);
    }

    /// So many bytes of text were read from sources.
    pub fn read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of text that were read from sources, in all.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// The state now.
    pub fn snapshot(&self) -> Snapshot {
        let stage = self.stage.lock().expect("no panic holds it").clone();
        let (done, documents) = (self.done.load(Ordering::Relaxed), self.documents.load(Ordering::Relaxed));
        Snapshot { stage, done, documents }
    }

    /// Tells what a person should know before the run ends.
    pub fn warn(&self, warning: String) {
        self.warnings.lock().expect("no panic holds it").push(warning);
    }

    /// The warnings since this was asked last.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock().expect("no panic holds it"))
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
