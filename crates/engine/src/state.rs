//! What an engine's worker and those who submit share: requests that came and went, and what is counted.

use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::active::ActiveRequest;
use crate::disk::LateStore;
use crate::queue::Queue;
use crate::scheduler::{Id, NewRequest};
use crate::store;

/// What an engine has done, and what it does now.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Requests that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Pages of the cache.
    pub pages: usize,
    /// Pages that can be taken.
    pub pages_available: usize,
    /// Blocks of 64 tokens that can be found in memory.
    pub blocks: usize,
    /// Blocks given up for room.
    pub blocks_evicted: u64,
    /// Forwards.
    pub steps: u64,
    /// Rows of all forwards: tokens that were computed.
    pub rows: u64,
    /// Time in forwards.
    pub busy: Duration,
    /// Prompt tokens that were computed, cache hits left out.
    pub prompt_tokens: u64,
    /// Prompt tokens that were in the cache, as `Event::Started` tells each request.
    pub cached_tokens: u64,
    /// Times a request gave back its pages and waited again.
    pub preempted: u64,
    /// Requests that waited too long.
    pub expired: u64,
    /// Of each layer with experts, how often each was chosen.
    pub experts: Vec<Vec<u64>>,
    /// The cache on disk; `None` where there is none, and until the model's files are hashed.
    pub disk: Option<store::Statistics>,
}

/// What the worker and those who submit share.
#[derive(Default)]
pub(crate) struct State {
    pub queue: Queue,
    /// Requests that came since the worker looked, in order.
    pub arrived: Vec<(Id, NewRequest, ActiveRequest)>,
    /// Requests whose handles are gone.
    pub gone: Vec<Id>,
    /// Requests that lost their places in the queue to those of others.
    pub refused: Vec<Id>,
    pub ending: bool,
    /// Something that the worker waits for is there: blocks from disk, an answer of a constraint.
    pub woken: bool,
    /// The cache on disk has come into use: what is in memory is still to be put there.
    pub unstored: bool,
    /// What the engine's thread said when it panicked.
    pub fault: Option<String>,
    pub statistics: Statistics,
    pub next_id: Id,
}

pub(crate) struct EngineShared {
    pub state: Mutex<State>,
    pub changed: Condvar,
    pub store: OnceLock<LateStore>,
    pub started: Instant,
}

impl EngineShared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Have the worker look at what came.
    pub fn wake(&self) {
        self.lock().woken = true;
        self.changed.notify_all();
    }
}
