//! A queue of requests before an engine, on a thread of its own. One request runs at a time; the queue is bounded.
//!
//! What comes of a request is given to its `Sink` on the engine's thread. Dropping its `Ticket` cancels it: at the next token if it
//! runs, at once if it waits.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;

use crate::engine::{Engine, EngineError, Finish, Generation, Limits, Step, Timing, check};
use crate::sampler::{Sampler, Sampling};

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

/// What a text must obey, token by token: a grammar, say.
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
}

/// A token's log-probability, and the likeliest ids with theirs.
pub type Scores = (f32, Vec<(u32, f32)>);

/// What comes of a request, in order: `Started`, the prompt's scores, tokens, then one `End` or `Failed`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It left the queue.
    Started {
        /// With it the text can be made again.
        seed: u64,
        /// Tokens of the prompt that were in the cache.
        cached: usize,
        /// Where the prompt first differs from one that was served before and shares its beginning, where that is known.
        differs_at: Option<usize>,
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
    /// Take an event. It runs on the engine's thread, so it must not wait.
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
    /// The prompt cannot be.
    #[error(transparent)]
    Prompt(#[from] EngineError),
}

/// Holds a request's place. Dropping it cancels the request.
#[derive(Debug)]
pub struct Ticket {
    cancelled: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Release);
        // Those that wait and are cancelled make room at once.
        let gone: VecDeque<Job> = {
            let mut state = self.shared.lock();
            let (gone, kept) = state.queue.drain(..).partition(|job: &Job| job.cancelled.load(Ordering::Acquire));
            state.queue = kept;
            gone
        };
        drop(gone);
    }
}

struct Job {
    request: Request,
    sink: Box<dyn Sink>,
    cancelled: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    running: bool,
    ending: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    free_pages: AtomicUsize,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An engine that serves.
pub struct Service {
    shared: Arc<Shared>,
    limits: Limits,
    vocab: usize,
    waiting_max: usize,
    worker: Option<JoinHandle<()>>,
}

impl Service {
    /// Serve with this engine; at most `waiting_max` requests wait while one runs.
    pub fn start(engine: Engine, waiting_max: usize) -> Service {
        let (limits, vocab) = (engine.limits(), engine.model().structure.vocab);
        let free_pages = AtomicUsize::new(engine.free_pages());
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), free_pages });
        let theirs = Arc::clone(&shared);
        let worker = std::thread::spawn(move || work(engine, &theirs));
        Service { shared, limits, vocab, waiting_max, worker: Some(worker) }
    }

    /// Bounds of the engine.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Tokens of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Whether a request runs, and how many wait.
    pub fn load(&self) -> (bool, usize) {
        let state = self.shared.lock();
        (state.running, state.queue.len())
    }

    /// Pages of the cache that no request owns.
    pub fn free_pages(&self) -> usize {
        self.shared.free_pages.load(Ordering::Acquire)
    }

    /// Queue a request.
    ///
    /// # Errors
    /// A full queue, a prompt that cannot be, a service that ends. The sink is not called then.
    pub fn submit(&self, request: Request, sink: impl Sink + 'static) -> Result<Ticket, Refused> {
        check(&request.prompt, 0, self.vocab, self.limits.context)?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let mut state = self.shared.lock();
        if state.ending {
            return Err(Refused::Ending);
        }
        // A place is one that waits; while nothing runs, the first to come does not wait.
        let places = self.waiting_max + usize::from(!state.running);
        if state.queue.len() >= places {
            return Err(Refused::Busy { waiting: state.queue.len() });
        }
        state.queue.push_back(Job { request, sink: Box::new(sink), cancelled: Arc::clone(&cancelled) });
        self.shared.changed.notify_all();
        Ok(Ticket { cancelled, shared: Arc::clone(&self.shared) })
    }

    /// Take no more requests; those that were taken go on.
    pub fn end(&self) {
        self.shared.lock().ending = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Service {
    /// Ends when everything that was taken is done.
    fn drop(&mut self) {
        self.end();
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

fn work(mut engine: Engine, shared: &Shared) {
    loop {
        let job = {
            let mut state = shared.lock();
            state.running = false;
            loop {
                if let Some(job) = state.queue.pop_front() {
                    state.running = true;
                    break job;
                }
                if state.ending {
                    return;
                }
                state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let Job { request, mut sink, cancelled } = job;
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&mut engine, request, &mut *sink, &cancelled)));
        let failed = match outcome {
            Ok(outcome) => outcome.err(),
            Err(payload) => Some(EngineError::Fault(said(&*payload))),
        };
        shared.free_pages.store(engine.free_pages(), Ordering::Release);
        if let Some(error) = failed {
            let _ = catch_unwind(AssertUnwindSafe(|| sink.take(Event::Failed(error))));
        }
    }
}

/// What a panic said.
fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").replace('\n', " ")
}

fn run(engine: &mut Engine, request: Request, sink: &mut dyn Sink, cancelled: &AtomicBool) -> Result<(), EngineError> {
    let gone = || cancelled.load(Ordering::Acquire);
    let sampler = Sampler::new(request.sampling);
    let mut left = sink.take(Event::Started { seed: sampler.seed(), cached: 0, differs_at: None }).is_break();
    let mut sequence = engine.sequence();
    let mut progress =
        |_: usize, _: usize| if left || gone() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let (prompt, stops) = (request.prompt, request.stops);
    let mut generation =
        Generation::start(engine, &mut sequence, &prompt, sampler, stops, request.tokens_max, &mut progress)?;
    loop {
        if left || gone() {
            generation.cancel();
        }
        match generation.step()? {
            Step::Token(id) => {
                let log_probabilities = request.log_probabilities.map(|most| generation.log_probabilities(id, most));
                left |= sink.take(Event::Token { id, log_probabilities }).is_break();
            }
            Step::End(finish) => {
                let timing = generation.timing();
                drop(generation);
                drop(sequence);
                let _ = sink.take(Event::End { finish, timing });
                return Ok(());
            }
        }
    }
}
