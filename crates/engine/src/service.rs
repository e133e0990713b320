//! Many requests on one engine, on a thread of its own: each step decodes those that run and reads prompts besides, as the scheduler says.
//! Prefixes are taken from pages that others left, and from disk.
//!
//! What comes of a request is given to its `Sink`, one event after the other. Dropping its `Ticket` cancels it: its pages are free at once, and
//! it is part of no further step.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use model::Cache;
use model::cache::PAGE;
use thiserror::Error;

use crate::disk::LateStore;
use crate::engine::{Engine, EngineError, Finish, Limits, Timing, check};
use crate::sampler::{Sampler, Sampling};
use crate::scheduler::{Arrival, Bounds, Id, QueueFull, Scheduler};
use crate::store::{self, root};
use crate::worker::{Job, work};

/// Keys in memory need no fingerprint: all units there are of one model.
const IN_MEMORY: [u8; 32] = [0; 32];

/// What to generate.
#[derive(Default)]
pub struct Request {
    /// Tokens to continue.
    pub prompt: Vec<u32>,
    /// How tokens are chosen; checked by the caller.
    pub sampling: Sampling,
    /// Ids that end the text.
    pub stops: Vec<u32>,
    /// Tokens at most. 0 reads the prompt only.
    pub tokens_max: usize,
    /// Give log-probabilities: the chosen token's, and those of this many of the likeliest.
    pub log_probabilities: Option<usize>,
    /// Give the log-probabilities of the prompt's tokens too, with this many of the likeliest. Such a prompt is computed whole.
    pub prompt_log_probabilities: Option<usize>,
    /// What the text must obey.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Who asks: accounts share the engine fairly, however many requests each has.
    pub account: u64,
    /// Prefixes are shared among requests of one salt only.
    pub salt: [u8; 32],
    /// Requests of a higher priority go first.
    pub priority: i8,
    /// Longest wait for the first step.
    pub wait_max: Option<Duration>,
    /// Longest time in all; what was generated until then is the answer.
    pub time_max: Option<Duration>,
}

/// What a text must obey, token by token: a grammar, say. It works on a thread of its own, beside the forward: who takes long delays its own request
/// only. What it says must follow from the tokens alone, so that a request gives the same text at any load.
pub trait Constraint: Send {
    /// The ids that may come next, as bits: id `i` is bit `i % 32` of word `i / 32`; ids beyond the words may not.
    ///
    /// # Errors
    /// One line why the text cannot go on.
    fn allowed(&mut self) -> Result<&[u32], String>;

    /// The token that was chosen.
    ///
    /// # Errors
    /// One line why it does not fit.
    fn accept(&mut self, id: u32) -> Result<(), String>;

    /// Whether nothing may follow but the end.
    fn is_done(&self) -> bool;

    /// What stops `allowed` or `accept` while they run on another thread; nobody asks for their answers any more.
    fn stopper(&self) -> Box<dyn Fn() + Send>;
}

/// A token's log-probability, and the likeliest ids with theirs.
pub type Scores = (f32, Vec<(u32, f32)>);

/// What comes of a request, in order: `Started`, the prompt's scores, `Read`, tokens, then one `End` or `Failed`. `Failed` may come at
/// any time; `Started` comes before every other event.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It left the queue, and what the cache has of its prompt is in memory: its first token is computed now.
    Started {
        /// With it the text can be made again.
        seed: u64,
        /// Tokens of the prompt that were in the cache and need no computing.
        cached: usize,
        /// Where the prompt first differs from one that was served before and shares its beginning, where that is known.
        differs_at: Option<usize>,
        /// Time in the queue.
        waited: Duration,
    },
    /// The prompt was computed.
    Read {
        /// Tokens of the prompt that were added to the cache, in whole units; with `cached` no more than the prompt has.
        written: usize,
    },
    /// Scores of prompt tokens, in order, several events for a long prompt. The first token of a prompt has none and is left out.
    Prompt(Vec<Scores>),
    /// A token.
    Token {
        /// Id.
        id: u32,
        /// Its log-probability and the likeliest ids with theirs, where they were asked for.
        log_probabilities: Option<Scores>,
    },
    /// The end.
    End {
        /// Why.
        finish: Finish,
        /// What it took.
        timing: Timing,
    },
    /// It could not be done.
    Failed(EngineError),
}

/// Where events go. `Break` ends the request: nothing is given after that but `End` (with `Finish::Cancelled`).
pub trait Sink: Send {
    /// Take an event. It runs on one of the engine's threads, so it must not wait.
    fn take(&mut self, event: Event) -> ControlFlow<()>;
}

impl<F: FnMut(Event) -> ControlFlow<()> + Send> Sink for F {
    fn take(&mut self, event: Event) -> ControlFlow<()> {
        self(event)
    }
}

/// Why a request was not taken.
#[derive(Debug, Error, PartialEq)]
pub enum Refused {
    /// The queue is full.
    #[error("{waiting} requests are waiting, and no more can; try again later")]
    Busy {
        /// Waiting now.
        waiting: usize,
    },
    /// The service is ending.
    #[error("the server is shutting down")]
    Ending,
    /// The engine's thread has panicked: this service computes nothing any more.
    #[error("the engine has stopped after a fault inside: {0}; the server has to be restarted")]
    Stopped(String),
    /// The prompt cannot be.
    #[error(transparent)]
    Prompt(#[from] EngineError),
}

/// Holds a request's place. Dropping it cancels the request.
pub struct Ticket {
    id: Id,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ticket({})", self.id)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.fault.is_some() {
            // Every request was ended, and the schedule is not to be trusted.
            return;
        }
        state.scheduler.leave(self.id);
        // One that never began is not known to the worker.
        let unknown = state.arrived.iter().position(|(id, _)| *id == self.id);
        let never_began = unknown.map(|at| state.arrived.swap_remove(at));
        if never_began.is_none() {
            state.gone.push(self.id);
        }
        drop(state);
        self.shared.changed.notify_all();
        drop(never_began);
    }
}

/// How a service runs.
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

/// A cache on disk.
pub struct Disk {
    /// Directory.
    pub dir: std::path::PathBuf,
    /// Bound of all that is in it.
    pub bytes_max: u64,
    /// Gets a line when the disk cannot be used.
    pub warn: Box<dyn Fn(&str) + Send + Sync>,
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

/// What a service has done, and what it does now.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Requests that run, and that wait.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Pages of the cache, those that no request uses, and units that can be found in them.
    pub pages: usize,
    /// Pages that can be taken.
    pub pages_available: usize,
    /// Units of 64 tokens that can be found in memory.
    pub units: usize,
    /// Units given up for room.
    pub units_evicted: u64,
    /// Forwards.
    pub steps: u64,
    /// Rows of all forwards: tokens that were computed.
    pub rows: u64,
    /// Time in forwards.
    pub busy: Duration,
    /// Prompt tokens that were computed.
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
pub(crate) struct State {
    pub scheduler: Scheduler,
    /// Requests that came since the last step.
    pub arrived: Vec<(Id, Job)>,
    /// Requests whose tickets are gone.
    pub gone: Vec<Id>,
    pub ending: bool,
    /// Something came from disk.
    pub woken: bool,
    /// What is in memory was put on disk, when that came into use.
    pub stored: bool,
    /// What the engine's thread said when it panicked.
    pub fault: Option<String>,
    pub statistics: Statistics,
    next_id: Id,
}

pub(crate) struct Shared {
    state: Mutex<State>,
    pub changed: Condvar,
    pub store: OnceLock<LateStore>,
    pub started: Instant,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Have the worker look at what came.
    pub fn wake(&self) {
        self.lock().woken = true;
        self.changed.notify_all();
    }

    pub fn wait<'a>(&self, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// An engine that serves.
pub struct Service {
    shared: Arc<Shared>,
    limits: Limits,
    vocab: usize,
    worker: Option<JoinHandle<()>>,
}

impl Service {
    /// Serve with this engine. All pages of its cache are the service's.
    pub fn start(engine: Engine, settings: Settings) -> Service {
        let (limits, vocab) = (engine.limits(), engine.model().structure.vocab);
        let Settings { waiting, running, step, constraint, disk, fault } = settings;
        let bounds = Bounds {
            page: PAGE,
            form_block: engine.model().form_block(),
            running: running.max(1),
            waiting,
            context: limits.context,
        };
        let scheduler = Scheduler::new(bounds, engine.pages());
        let unit_bytes = Cache::bytes_per_page(&engine.model().structure, engine.format());
        let state = State {
            scheduler,
            arrived: Vec::new(),
            gone: Vec::new(),
            ending: false,
            woken: false,
            stored: true,
            fault: None,
            statistics: Statistics::default(),
            next_id: 0,
        };
        let (state, changed, store) = (Mutex::new(state), Condvar::new(), OnceLock::new());
        let shared = Arc::new(Shared { state, changed, store, started: Instant::now() });
        if let Some(disk) = disk {
            let theirs = Arc::downgrade(&shared);
            let wake = move || {
                if let Some(shared) = theirs.upgrade() {
                    shared.lock().stored = false;
                    shared.wake();
                }
            };
            let files = engine.model().files().to_vec();
            let _ = shared.store.set(LateStore::start(disk, files, engine.fingerprint(), unit_bytes, wake));
        }
        let theirs = Arc::clone(&shared);
        let worker = std::thread::spawn(move || work(engine, theirs, (step, constraint), fault));
        Service { shared, limits, vocab, worker: Some(worker) }
    }

    /// Bounds of the engine.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Tokens of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// How many requests run, and how many wait.
    pub fn load(&self) -> (usize, usize) {
        self.shared.lock().scheduler.load()
    }

    /// What was done, and what is done now.
    pub fn statistics(&self) -> Statistics {
        let state = self.shared.lock();
        let ((running, waiting), pages) = (state.scheduler.load(), state.scheduler.pages());
        let mut now = Statistics {
            running,
            waiting,
            pages: pages.count(),
            pages_available: pages.available(),
            units: pages.units(),
            units_evicted: pages.evicted(),
            ..state.statistics.clone()
        };
        drop(state);
        now.disk = self.shared.store.get().and_then(LateStore::statistics);
        now
    }

    /// Queue a request.
    ///
    /// # Errors
    /// A full queue, a prompt that cannot be, a service that ends. The sink is not called then.
    pub fn submit(&self, request: Request, sink: impl Sink + 'static) -> Result<Ticket, Refused> {
        check(&request.prompt, 0, self.vocab, self.limits.context)?;
        let now = self.shared.started.elapsed();
        let deadline = |time: Option<Duration>| time.map(|t| now.saturating_add(t));
        let arrival = Arrival {
            prompt: request.prompt.clone(),
            root: root(&IN_MEMORY, &request.salt),
            account: request.account,
            priority: request.priority,
            whole: request.prompt_log_probabilities.is_some(),
            wait_until: deadline(request.wait_max),
            end_by: deadline(request.time_max),
        };
        // The last token that is chosen is not read, so it needs no place.
        let tokens_max = request.tokens_max.min(self.limits.context - request.prompt.len() + 1);
        let job = Job {
            full: if tokens_max < request.tokens_max { Finish::Context } else { Finish::Length },
            tokens_max,
            prompt: request.prompt.len(),
            tokens: request.prompt,
            sampler: Sampler::new(request.sampling),
            stops: request.stops,
            log_probabilities: request.log_probabilities,
            prompt_log_probabilities: request.prompt_log_probabilities,
            scored: 0,
            constraint: request.constraint,
            guide: None,
            held: None,
            read: false,
            sink: Box::new(sink),
            timing: Timing::default(),
            arrived: Instant::now(),
            begun: None,
            started: false,
            differs_at: None,
            written: (0, 0),
            left: false,
            broken: None,
        };
        let mut state = self.shared.lock();
        if let Some(fault) = &state.fault {
            return Err(Refused::Stopped(fault.clone()));
        }
        if state.ending {
            return Err(Refused::Ending);
        }
        let id = state.next_id;
        state.scheduler.arrive(id, arrival).map_err(|QueueFull { waiting }| Refused::Busy { waiting })?;
        state.next_id += 1;
        state.arrived.push((id, job));
        drop(state);
        self.shared.changed.notify_all();
        Ok(Ticket { id, shared: Arc::clone(&self.shared) })
    }

    /// What the engine's thread said when it panicked. Such a service answers no request any more.
    pub fn fault(&self) -> Option<String> {
        self.shared.lock().fault.clone()
    }

    /// Take no more requests; those that were taken go on.
    pub fn end(&self) {
        self.shared.lock().ending = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Service {
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

/// Requests by their names, as the worker has them.
pub(crate) type Jobs = HashMap<Id, Job>;
