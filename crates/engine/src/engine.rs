//! Many requests on one model, on a thread of its own: each step decodes those that run and reads prompts besides, as the scheduler says.
//! Prefixes are taken from pages that others left, and from disk.
//!
//! What comes of a request is given to its `EventSink`, one event after the other. Dropping its `RequestHandle` cancels it: it is part of no
//! further step, and its pages are free before that.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use model::ExpertCounts;
use thiserror::Error;

use crate::active::ActiveRequest;
use crate::disk::{Disk, LateStore};
use crate::error::EngineError;
use crate::pool::Pool;
use crate::queue::{Queue, QueueFull};
use crate::request::{BACKGROUND, Event, EventSink, Pooled, Request};
use crate::runner::{Limits, Runner, check};
use crate::scheduler::{Bounds, Id, NewRequest, Scheduler};
use crate::state::{EngineShared, State, Statistics};
use crate::store::root;
use crate::worker::{READ_MAX, work};

/// Keys in memory need no fingerprint: all blocks there are of one model.
const IN_MEMORY: [u8; 32] = [0; 32];

/// Why a request was not taken.
#[derive(Debug, Error, PartialEq)]
pub enum SubmitError {
    /// The queue is full.
    #[error("{waiting} requests are waiting, and no more can; try again later")]
    Busy {
        /// Waiting now.
        waiting: usize,
    },
    /// The engine is ending.
    #[error("the server is shutting down")]
    Ending,
    /// The engine's thread has panicked: it computes nothing any more.
    #[error("the engine has stopped after a fault inside: {0}; the server has to be restarted")]
    Stopped(String),
    /// The prompt cannot be.
    #[error(transparent)]
    Prompt(#[from] EngineError),
}

/// Holds a request's place. Dropping it cancels the request.
pub struct RequestHandle {
    id: Id,
    progress: Arc<AtomicUsize>,
    shared: Arc<EngineShared>,
}

impl std::fmt::Debug for RequestHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RequestHandle({})", self.id)
    }
}

impl RequestHandle {
    /// Tokens of the prompt that are in the cache by now.
    pub fn prompt_progress(&self) -> usize {
        self.progress.load(Ordering::Relaxed)
    }

    /// Tokens of a prompt of this length that are in the cache when the step at work has ended, at most; `cached` were there before.
    pub fn prompt_read(&self, prompt: usize, cached: usize) -> usize {
        self.prompt_progress().max(cached).saturating_add(READ_MAX).min(prompt)
    }
}

impl Drop for RequestHandle {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.fault.is_some() {
            // Every request was ended.
            return;
        }
        state.queue.leave(self.id);
        // One that never began is not known to the worker.
        let unknown = state.arrived.iter().position(|(id, ..)| *id == self.id);
        let never_began = unknown.map(|at| state.arrived.remove(at));
        if never_began.is_none() {
            state.gone.push(self.id);
        }
        drop(state);
        self.shared.changed.notify_all();
        drop(never_began);
    }
}

/// How an engine runs.
pub struct Settings {
    /// Requests that wait while others run.
    pub waiting: usize,
    /// Requests that run at once.
    pub running: usize,
    /// How long a step may take while somebody decodes: prompts are read in pieces for that. One token of each takes what it takes.
    pub step: Duration,
    /// How long a constraint may take over one token before its request ends with an error.
    pub constraint: Duration,
    /// Where prefixes are kept, and how many bytes of them; `None`: in memory only.
    pub disk: Option<Disk>,
    /// Called once if the engine's thread panics, on that thread, after every request has got its error.
    pub fault: Option<Box<dyn Fn(&str) + Send>>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            waiting: 128,
            running: 32,
            step: Duration::from_secs(1),
            constraint: Duration::from_secs(30),
            disk: None,
            fault: None,
        }
    }
}

/// A model that answers requests.
pub struct Engine {
    shared: Arc<EngineShared>,
    limits: Limits,
    vocab: usize,
    running_max: usize,
    /// Rows of the output head, and whether they are tokens.
    outputs: (usize, bool),
    experts: Arc<ExpertCounts>,
    worker: Option<JoinHandle<()>>,
}

impl Engine {
    /// Answer requests with this runner. All pages of its cache are the engine's.
    pub fn start(runner: Runner, settings: Settings) -> Engine {
        let (limits, structure, experts) = (runner.limits(), &runner.model().structure, runner.expert_counts());
        let (vocab, outputs) = (structure.vocab, (structure.outputs(), structure.generates()));
        let Settings { waiting, running, step, constraint, disk, fault } = settings;
        let running = running.max(1);
        let (page, block_bytes) = (runner.layout().page(), runner.layout().page_bytes());
        let bounds = Bounds { page, form_block: runner.model().form_block(), running, context: limits.context };
        let scheduler = Scheduler::new(bounds, runner.pages());
        let (pages, pages_available) = (runner.pages(), runner.pages());
        let state = State {
            queue: Queue::new(waiting, running),
            statistics: Statistics { pages, pages_available, ..Statistics::default() },
            ..State::default()
        };
        let (state, changed, store) = (Mutex::new(state), Condvar::new(), OnceLock::new());
        let shared = Arc::new(EngineShared { state, changed, store, started: Instant::now() });
        if let Some(disk) = disk {
            let theirs = Arc::downgrade(&shared);
            let wake = move || {
                if let Some(shared) = theirs.upgrade() {
                    shared.lock().unstored = true;
                    shared.wake();
                }
            };
            let files = runner.model().files().to_vec();
            let _ = shared.store.set(LateStore::start(disk, files, runner.fingerprint(), block_bytes, wake));
        }
        let theirs = Arc::clone(&shared);
        let worker = std::thread::spawn(move || work(runner, scheduler, theirs, (step, constraint), fault));
        Engine { shared, limits, vocab, running_max: running, outputs, experts, worker: Some(worker) }
    }

    /// Bounds of a request.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Tokens of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Requests that run at once.
    pub fn running_max(&self) -> usize {
        self.running_max
    }

    /// Whether the model generates text, and not only embeds or scores it.
    pub fn generates(&self) -> bool {
        self.outputs.1
    }

    /// How many requests run, and how many wait.
    pub fn load(&self) -> (usize, usize) {
        self.shared.lock().queue.load()
    }

    /// What was done, and what is done now.
    pub fn statistics(&self) -> Statistics {
        let state = self.shared.lock();
        let (running, waiting) = state.queue.load();
        let mut now = Statistics { running, waiting, ..state.statistics.clone() };
        drop(state);
        now.experts = self.experts.read();
        now.disk = self.shared.store.get().and_then(LateStore::statistics);
        now
    }

    /// Queue a request.
    ///
    /// # Errors
    /// A full queue (one of an account that has more there is refused instead, with `EngineError::Displaced`), a prompt that cannot be, an engine that ends. The sink is not called then.
    pub fn submit(&self, request: Request, sink: impl EventSink + 'static) -> Result<RequestHandle, SubmitError> {
        check(&request.prompt, 0, self.vocab, self.limits.context)?;
        let (outputs, generates) = self.outputs;
        match &request.pooled {
            None if !generates => return Err(EngineError::NoText.into()),
            Some(Pooled::Logits(ids)) => {
                if let Some(&output) = ids.iter().find(|&&id| id as usize >= outputs) {
                    return Err(EngineError::Output { output, outputs }.into());
                }
            }
            _ => {}
        }
        let now = self.shared.started.elapsed();
        let deadline = |time: Option<Duration>| time.map(|t| now.saturating_add(t));
        let new = NewRequest {
            root: root(&IN_MEMORY, &request.salt).owned_by(request.owner),
            account: request.account,
            priority: request.priority,
            whole: request.prompt_log_probabilities.is_some() || request.pooled.as_ref().is_some_and(Pool::whole),
            wait_until: deadline(request.wait_max),
            end_by: deadline(request.time_max),
            prompt: Vec::new(),
        };
        let (prompt, active) = ActiveRequest::new(request, self.limits.context, Box::new(sink));
        let progress = Arc::clone(&active.progress);
        let mut state = self.shared.lock();
        if let Some(fault) = &state.fault {
            return Err(SubmitError::Stopped(fault.clone()));
        }
        if state.ending {
            return Err(SubmitError::Ending);
        }
        let id = state.next_id;
        let refused = state
            .queue
            .enter(id, new.account, new.priority == BACKGROUND)
            .map_err(|QueueFull { waiting }| SubmitError::Busy { waiting })?;
        state.refused.extend(refused);
        state.next_id += 1;
        state.arrived.push((id, NewRequest { prompt, ..new }, active));
        drop(state);
        self.shared.changed.notify_all();
        Ok(RequestHandle { id, progress, shared: Arc::clone(&self.shared) })
    }

    /// Queue a request whose events come through a channel.
    ///
    /// # Errors
    /// As `submit`.
    pub fn generate(&self, request: Request) -> Result<(RequestHandle, Receiver<Event>), SubmitError> {
        let (sender, events) = channel();
        let sink =
            move |event| if sender.send(event).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        Ok((self.submit(request, sink)?, events))
    }

    /// What the engine's thread said when it panicked. Such an engine answers no request any more.
    pub fn fault(&self) -> Option<String> {
        self.shared.lock().fault.clone()
    }

    /// Take no more requests; those that were taken go on.
    pub fn end(&self) {
        self.shared.lock().ending = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Engine {
    /// Ends when everything that was taken is done, and what is to be kept is on disk.
    fn drop(&mut self) {
        self.end();
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
        if let Some(store) = self.shared.store.get() {
            store.end();
        }
    }
}
