//! A request while it runs: what its logits give, its scores, the next token within its constraint, and the events for its sink.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use model::Wanted;

use crate::error::{EngineError, panic_message};
use crate::guide::Guide;
use crate::pool::Pool;
use crate::request::{BACKGROUND, Constraint, Event, EventSink, Finish, Request, Scores, Timing};
use crate::runner::numbers;
use crate::sampler::{Sampler, log_probabilities};
use crate::scheduler::Chunk;

/// A request, as the worker has it. Its tokens are the scheduler's.
pub(crate) struct ActiveRequest {
    /// Tokens of its prompt.
    pub prompt: usize,
    /// It rests while others are there.
    pub background: bool,
    tokens_max: usize,
    /// Why it ends when it has as many.
    full: Finish,
    sampler: Sampler,
    stops: Vec<u32>,
    log_probabilities: Option<usize>,
    prompt_log_probabilities: Option<usize>,
    pool: Option<Pool>,
    /// Prompt positions whose logits were looked at.
    scored: usize,
    /// What its text must obey, until it runs; from then on at work.
    pub constraint: Option<Box<dyn Constraint>>,
    pub guide: Option<Guide>,
    /// What waits for the constraint.
    held: Option<Held>,
    /// `Event::Read` was given.
    read: bool,
    sink: Box<dyn EventSink>,
    pub timing: Timing,
    pub arrived: Instant,
    /// When it first ran, and when its last token came.
    pub begun: Option<(Instant, Instant)>,
    /// `Event::Started` was given.
    pub started: bool,
    /// Where its prompt first differs from one that was served before.
    pub differs_at: Option<usize>,
    /// Tokens of its prompt that it added to the cache, and the position after the last of them.
    written: (usize, usize),
    /// Positions of its prompt that are in the cache, for whoever watches.
    pub progress: Arc<AtomicUsize>,
    /// Its sink wants no more.
    pub left: bool,
    /// What its sink said when it panicked.
    broken: Option<String>,
}

/// What of a request waits for its constraint.
enum Held {
    /// Logits, for what may come next.
    Logits(Vec<f32>),
    /// A token that was chosen and given, for whether it ends the text.
    Token(u32),
}

/// What came of a request's chunk.
pub(crate) enum Chosen {
    /// No token was wanted, or it is late.
    Nothing,
    Token(u32),
    End(Finish),
}

impl ActiveRequest {
    /// A request that waits, and the tokens of its prompt.
    pub fn new(request: Request, context: usize, sink: Box<dyn EventSink>) -> (Vec<u32>, ActiveRequest) {
        // The last token that is chosen is not read, so it needs no place.
        let tokens_max = request.tokens_max.min(context - request.prompt.len() + 1);
        let active = ActiveRequest {
            prompt: request.prompt.len(),
            background: request.priority == BACKGROUND,
            full: if tokens_max < request.tokens_max { Finish::Context } else { Finish::Length },
            tokens_max,
            sampler: Sampler::new(request.sampling),
            stops: request.stops,
            log_probabilities: request.log_probabilities,
            prompt_log_probabilities: request.prompt_log_probabilities,
            pool: request.pooled.map(Pool::new),
            scored: 0,
            constraint: request.constraint,
            guide: None,
            held: None,
            read: false,
            sink,
            timing: Timing::default(),
            arrived: Instant::now(),
            begun: None,
            started: false,
            differs_at: None,
            written: (0, 0),
            progress: Arc::default(),
            left: false,
            broken: None,
        };
        (request.prompt, active)
    }

    /// So many of its positions are computed.
    pub fn computed(&self, positions: usize) {
        self.progress.store(positions.min(self.prompt), Ordering::Relaxed);
    }

    /// Whether something of it waits for its constraint.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Whether the scores of a prompt's chunk are still to be given.
    fn wants_scores(&self, chunk: &Chunk) -> bool {
        self.prompt_log_probabilities.is_some() && chunk.position + chunk.len > self.scored && self.scored < self.prompt
    }

    /// What is wanted of a chunk.
    pub fn wants(&self, chunk: &Chunk) -> Wanted {
        match &self.pool {
            Some(pool) => pool.of_chunk(chunk),
            None if self.wants_scores(chunk) => Wanted::All,
            None if chunk.logits => Wanted::Last,
            None => Wanted::None,
        }
    }

    /// Give an event. A sink that fails has left.
    fn give(&mut self, event: Event) {
        if self.left {
            return;
        }
        match catch_unwind(AssertUnwindSafe(|| self.sink.take(event))) {
            Ok(flow) => self.left = flow.is_break(),
            Err(payload) => (self.left, self.broken) = (true, Some(panic_message(&*payload))),
        }
    }

    /// The first event: so many tokens of the prompt were in the cache.
    pub fn start(&mut self, cached: usize) {
        self.started = true;
        self.timing.cached_tokens = cached;
        let (seed, differs_at, waited) = (self.sampler.seed(), self.differs_at, self.timing.waited);
        self.give(Event::Started { seed, cached, differs_at, waited });
    }

    /// The last event.
    pub fn end(mut self, finish: Finish) {
        if !self.started {
            self.start(0);
        }
        if let Some(said) = self.broken.take() {
            return self.fail(EngineError::Fault(said));
        }
        let finish = if self.left { Finish::Cancelled } else { finish };
        self.left = false;
        let timing = self.timing;
        self.give(Event::End { finish, timing });
    }

    pub fn fail(mut self, error: EngineError) {
        self.left = false;
        self.give(Event::Failed(error));
    }

    /// This request added a block of these positions to the cache. One that it computes again, because it had to give way, does not count.
    pub fn wrote(&mut self, first: usize, end: usize) {
        let (written, last) = self.written;
        if end <= self.prompt && end > last.max(self.timing.cached_tokens) {
            self.written = (written + end - first, end);
        }
    }

    /// The scores and the token that follow from the logits of a chunk, or what is pooled of its rows: they are those that it `wants`, each of
    /// this width. `tokens` are the prompt's and what was generated.
    pub fn deliver(
        &mut self,
        chunk: &Chunk,
        (rows, width): (&[f32], usize),
        tokens: &[u32],
    ) -> Result<Chosen, EngineError> {
        let Chunk { position, len, logits: last, .. } = *chunk;
        let wanted = self.wants_scores(chunk);
        if self.timing.generated == 0 {
            self.timing.prompt_tokens += self.prompt.saturating_sub(position).min(len);
        }
        rows.chunks(width.max(1)).try_for_each(numbers)?;
        if wanted {
            self.score(position, rows, width, tokens);
        }
        let pooled = self.pool.as_mut().and_then(|pool| pool.take(chunk, rows, width, tokens.len()));
        if !last {
            return Ok(Chosen::Nothing);
        }
        if !std::mem::replace(&mut self.read, true) {
            self.give(Event::Read { written: self.written.0 });
        }
        if let Some(pooled) = pooled {
            return self.guarded(|request| {
                request.give(Event::Pooled(pooled));
                Ok(Chosen::End(Finish::Complete))
            });
        }
        // One that had to give way while it was held has the same logits again.
        if self.held.is_some() {
            return self.resume(tokens);
        }
        self.guarded(|request| request.sample(&rows[rows.len() - width..], tokens))
    }

    /// Work that may panic, timed as far as it gives tokens.
    fn guarded(
        &mut self,
        work: impl FnOnce(&mut ActiveRequest) -> Result<Chosen, EngineError>,
    ) -> Result<Chosen, EngineError> {
        let before = self.timing.generated;
        let chosen = catch_unwind(AssertUnwindSafe(|| work(self)));
        let ended = !matches!(chosen, Ok(Ok(Chosen::Nothing)));
        let now = Instant::now();
        if let Some((begun, last)) = self.begun.as_mut().filter(|_| ended || self.timing.generated > before) {
            match self.timing.generated {
                0 | 1 if before == 0 => self.timing.prefill = now - *begun,
                _ => self.timing.decode += now - *last,
            }
            *last = now;
        }
        chosen.unwrap_or_else(|payload| Err(EngineError::Fault(panic_message(&*payload))))
    }

    /// Scores of the prompt's tokens from the logits before them.
    fn score(&mut self, position: usize, logits: &[f32], vocab: usize, tokens: &[u32]) {
        let most = self.prompt_log_probabilities.unwrap_or(0);
        let mut scores: Vec<Scores> = Vec::new();
        for (at, row) in (position..).zip(logits.chunks(vocab)) {
            // Those that were computed before, for a request that had to give way, are known.
            if at >= self.scored && at + 1 < self.prompt {
                scores.push(log_probabilities(row, tokens[at + 1], most));
            }
        }
        self.scored = self.scored.max(position + logits.len() / vocab);
        if !scores.is_empty() {
            self.give(Event::Prompt(scores));
        }
    }

    /// The next token from a row of logits; the end where it ends the text.
    fn sample(&mut self, logits: &[f32], tokens: &[u32]) -> Result<Chosen, EngineError> {
        if self.tokens_max == 0 {
            return Ok(Chosen::End(Finish::Length));
        }
        let allowed = match &mut self.guide {
            None => None,
            Some(guide) => match guide.mask()? {
                Some(mask) => Some(mask),
                None => {
                    self.held = Some(Held::Logits(logits.to_vec()));
                    return Ok(Chosen::Nothing);
                }
            },
        };
        let token = self.sampler.sample_of(logits, tokens, allowed.as_deref());
        let token = token.ok_or_else(|| EngineError::Constraint("no token is allowed here".to_string()))?;
        if self.stops.contains(&token) {
            return Ok(Chosen::End(Finish::Stop(token)));
        }
        self.timing.generated += 1;
        let log_probabilities = self.log_probabilities.map(|most| log_probabilities(logits, token, most));
        self.give(Event::Token { id: token, log_probabilities });
        if let Some(guide) = &mut self.guide {
            guide.chose(token);
        }
        self.judged(token)
    }

    /// What comes of the token that was chosen.
    fn judged(&mut self, token: u32) -> Result<Chosen, EngineError> {
        if let Some(guide) = &mut self.guide {
            match guide.accepted()? {
                None => {
                    self.held = Some(Held::Token(token));
                    return Ok(Chosen::Nothing);
                }
                Some(true) => return Ok(Chosen::End(Finish::Complete)),
                Some(false) => {}
            }
        }
        if self.timing.generated >= self.tokens_max { Ok(Chosen::End(self.full)) } else { Ok(Chosen::Token(token)) }
    }

    /// On from where it waited for its constraint.
    pub fn resume(&mut self, tokens: &[u32]) -> Result<Chosen, EngineError> {
        self.guarded(|request| match request.held.take() {
            None => Ok(Chosen::Nothing),
            Some(Held::Logits(logits)) => request.sample(&logits, tokens),
            Some(Held::Token(token)) => request.judged(token),
        })
    }
}
