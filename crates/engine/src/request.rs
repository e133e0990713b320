//! What is asked of the engine and what it gives back: requests, constraints, events.

use std::ops::ControlFlow;
use std::time::Duration;

use model::checkpoint::Pooling;

use crate::error::EngineError;
use crate::sampler::Sampling;
use crate::store::Owner;

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
    /// What is wanted of the prompt instead of a text.
    pub pooled: Option<Pooled>,
    /// What the text must obey.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Who asks: accounts share the engine fairly, however many requests each has.
    pub account: u64,
    /// Prefixes are shared among requests of one salt only.
    pub salt: [u8; 32],
    /// Whose its blocks on disk are.
    pub owner: Owner,
    /// Of the requests of an account those of a higher priority go first; those of [`BACKGROUND`] are computed while there are no others of anybody.
    pub priority: i8,
    /// Longest wait for the first step.
    pub wait_max: Option<Duration>,
    /// Longest time in all; what was generated until then is the answer.
    pub time_max: Option<Duration>,
}

/// The lowest priority, for idle capacity: such requests are computed only in steps in which no other request runs or waits, give way with the next step when
/// one comes, and take no place in the queue from it.
pub const BACKGROUND: i8 = i8::MIN;

/// What is wanted of a prompt instead of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pooled {
    /// Final hidden states, pooled.
    States(Pooling),
    /// Logits of these outputs after the last token.
    Logits(Vec<u32>),
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

/// What comes of a request, in order: `Started`, the prompt's scores, `Read`, tokens or `Pooled`, then one `End` or `Failed`. `Failed` may come at
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
        /// Tokens of the prompt that were added to the cache, in whole blocks; with `cached` no more than the prompt has.
        written: usize,
    },
    /// Scores of prompt tokens, in order, several events for a long prompt. The first token of a prompt has none and is left out.
    Prompt(Vec<Scores>),
    /// What was wanted of the prompt: as many numbers as the model is wide, or as logits were asked for.
    Pooled(Vec<f32>),
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
pub trait EventSink: Send {
    /// Take an event. It runs on one of the engine's threads, so it must not wait.
    fn take(&mut self, event: Event) -> ControlFlow<()>;
}

impl<F: FnMut(Event) -> ControlFlow<()> + Send> EventSink for F {
    fn take(&mut self, event: Event) -> ControlFlow<()> {
        self(event)
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// One of the stop ids was chosen.
    Stop(u32),
    /// As many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
    /// What the text had to obey allows nothing further.
    Complete,
    /// The time it was given is over.
    Time,
    /// The caller stopped it.
    Cancelled,
}

/// What a generation took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    /// Prompt tokens computed (not those that were there).
    pub prompt_tokens: usize,
    /// Time for them.
    pub prefill: Duration,
    /// Tokens generated.
    pub generated: usize,
    /// Time for them, the first apart from its prompt included.
    pub decode: Duration,
    /// Prompt tokens that were in the cache.
    pub cached_tokens: usize,
    /// Time in the queue.
    pub waited: Duration,
}
