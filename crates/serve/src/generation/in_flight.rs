//! A request's choices in flight: submits as many as the engine's queue accepts, and the rest as others finish.
//!
//! Tokens are taken from here and announced with the piece of the response that they complete. So whatever ends a request (its client leaves, a timeout, a
//! fault), its log has the tokens that were delivered, and those of its prompts that were read.

use std::collections::HashMap;
use std::sync::Arc;

use engine::{EngineError, RequestHandle, SubmitError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::error::ApiError;
use crate::generation::events::{ChoiceEnd, ChoiceOutput, OutputEvent};
use crate::generation::output::{TaggedEvent, TokenCount};
use crate::generation::prepared::PreparedRequest;
use crate::generation::retry_after::Timer;
use crate::generation::usage::Usage;
use crate::http::access_log::RequestLog;
use crate::state::AppState;

/// The submitted choices of a request. Dropping it drops their handles, which cancels them in the engine.
pub struct InFlight {
    state: Arc<AppState>,
    prepared: PreparedRequest,
    handles: Vec<Option<RequestHandle>>,
    sender: UnboundedSender<TaggedEvent>,
    parts: UnboundedReceiver<TaggedEvent>,
    /// Prompt tokens; those of the choices are in `counts`.
    usage: Usage,
    counts: Vec<TokenCount>,
    /// Of each prompt the choice that began first: what it found in the cache was there before, and what it did not find was computed for all.
    first: Vec<Option<FirstChoice>>,
    /// Tokens of the prompts that have begun: nothing is charged for others.
    begun: usize,
    ended: usize,
    log: RequestLog,
    /// Timers of choices that left the queue.
    timers: HashMap<usize, Timer>,
    /// The engine failed, not the request.
    failed: bool,
}

/// The choice of a prompt that began first.
#[derive(Clone, Copy)]
struct FirstChoice {
    choice: usize,
    /// Tokens of the prompt, and those found in the cache.
    prompt: usize,
    cached: usize,
    /// The prompt is computed.
    read: bool,
}

impl InFlight {
    /// Submits the first choices.
    ///
    /// # Errors
    /// The engine accepted none.
    pub fn start(state: Arc<AppState>, prepared: PreparedRequest, log: RequestLog) -> Result<InFlight, ApiError> {
        let (sender, parts) = unbounded_channel();
        let usage = Usage { prompt: prepared.prompt_tokens(), ..Usage::default() };
        let counts = vec![TokenCount::default(); prepared.choices()];
        let (handles, timers) = (Vec::new(), HashMap::new());
        let (first, begun, ended, failed) = (vec![None; prepared.prompts()], 0, 0, false);
        let mut in_flight = InFlight {
            state,
            prepared,
            handles,
            sender,
            parts,
            usage,
            counts,
            first,
            begun,
            ended,
            log,
            timers,
            failed,
        };
        in_flight.submit()?;
        Ok(in_flight)
    }

    /// Submits as many choices as the queue accepts.
    fn submit(&mut self) -> Result<(), ApiError> {
        while self.handles.len() < self.prepared.choices() {
            let (request, decoder) = self.prepared.choice(self.handles.len(), self.sender.clone());
            match self.prepared.served.engine.submit(request, decoder) {
                Ok(handle) => self.handles.push(Some(handle)),
                // Submitted when a running choice ends.
                Err(SubmitError::Busy { .. }) if self.handles.iter().any(Option::is_some) => return Ok(()),
                Err(refused) => {
                    let busy = matches!(refused, SubmitError::Busy { .. });
                    let error = ApiError::from(refused);
                    return Err(if busy { self.with_retry_after(error) } else { error });
                }
            }
        }
        Ok(())
    }

    /// Sets `Retry-After` to the time at which the queue is expected to be empty.
    fn with_retry_after(&self, error: ApiError) -> ApiError {
        let (running, waiting) = self.prepared.served.engine.load();
        let retry = error.retry.map(|_| self.state.request_times.retry_after(running, waiting));
        ApiError { retry, ..error }
    }

    /// The next event; `None` when all choices have ended.
    pub async fn next(&mut self) -> Option<Result<(usize, OutputEvent), ApiError>> {
        if self.ended == self.prepared.choices() {
            return None;
        }
        loop {
            // `self.sender` keeps the channel open.
            let given = self.parts.recv().await.ok_or_else(|| ApiError::fault("the engine ended without an answer"));
            match given {
                Ok((choice, _, OutputEvent::Failed(EngineError::Displaced))) if self.waits_again(choice) => {}
                given => return Some(given.and_then(|given| self.account(given))),
            }
        }
    }

    /// A choice lost its place in the queue. The last of several is submitted again when one of the others has ended.
    fn waits_again(&mut self, choice: usize) -> bool {
        let again =
            choice > 0 && choice + 1 == self.handles.len() && self.handles[..choice].iter().any(Option::is_some);
        if again {
            self.handles.pop();
        }
        again
    }

    fn account(&mut self, (choice, count, part): TaggedEvent) -> Result<(usize, OutputEvent), ApiError> {
        if matches!(part, OutputEvent::Started { .. }) && !self.prepared.ctx.background {
            self.timers.insert(choice, self.state.request_times.began());
        }
        self.counts[choice] = count;
        let begun = self.begin(choice, &part);
        match &part {
            OutputEvent::Started { prompt, cached, differs_at, waited } => {
                self.log.update(|f| f.queued = f.queued.or(Some(*waited)));
                if begun {
                    self.begun += prompt;
                    self.usage.cached += cached;
                    self.usage.differs_at = self.usage.differs_at.or(*differs_at);
                }
            }
            OutputEvent::Read { written } if begun => self.usage.written += written,
            OutputEvent::End(end) => {
                self.timers.remove(&choice);
                // How long one rested says nothing of the queue.
                if !self.prepared.ctx.background {
                    self.state.request_times.ended(end.timing.prefill + end.timing.decode);
                }
                self.log_end(end);
                self.ended += 1;
                self.handles[choice] = None;
                self.submit()?;
            }
            OutputEvent::Failed(error) => {
                self.failed = !matches!(error, EngineError::Constraint(_) | EngineError::ConstraintLate { .. });
                let error = self.with_retry_after(self.prepared.ctx.error(error));
                self.log.update(|f| f.error = Some(error.code));
                return Err(error);
            }
            OutputEvent::Text { .. } | OutputEvent::Reasoning { .. } | OutputEvent::Call { .. } => {
                self.log.first_token()
            }
            _ => {}
        }
        Ok((choice, part))
    }

    /// Notes which choice of each prompt begins first, and when it has read it. Whether this one did.
    fn begin(&mut self, choice: usize, part: &OutputEvent) -> bool {
        let first = &mut self.first[choice / self.prepared.params.best_of];
        match (part, first.as_mut()) {
            (OutputEvent::Started { prompt, cached, .. }, None) => {
                *first = Some(FirstChoice { choice, prompt: *prompt, cached: *cached, read: false });
            }
            (OutputEvent::Read { .. }, Some(first)) => first.read |= first.choice == choice,
            _ => {}
        }
        first.is_some_and(|first| first.choice == choice)
    }

    /// Tokens of the prompts that were read, and those of them that were found in the cache.
    fn read(&self) -> (usize, usize) {
        self.first.iter().flatten().fold(
            (0, 0),
            |(read, found), &FirstChoice { choice, prompt, cached, read: whole }| {
                let running = self.handles.get(choice).and_then(Option::as_ref).filter(|_| !whole);
                (read + running.map_or(prompt, |handle| handle.prompt_read(prompt, cached)), found + cached)
            },
        )
    }

    /// Logs the end of a choice: sums of times, and the last finish reason.
    fn log_end(&self, end: &ChoiceEnd) {
        let timing = end.timing;
        self.log.update(|f| {
            f.prefill = Some(f.prefill.unwrap_or_default() + timing.prefill);
            f.decode = Some(f.decode.unwrap_or_default() + timing.decode);
            f.finish = Some(end.finish.word());
        });
    }

    /// The next piece of the response holds all tokens so far.
    pub fn announce(&self) {
        let usage = Usage { prompt: self.begun, ..self.usage() };
        self.log.announce(usage);
    }

    /// Tokens taken so far.
    pub fn usage(&self) -> Usage {
        let sum = |of: fn(&TokenCount) -> usize| self.counts.iter().map(of).sum();
        let usage = Usage { completion: sum(|c| c.tokens), reasoning: sum(|c| c.reasoning), ..self.usage };
        Usage { cost: self.log.cost(&usage), ..usage }
    }

    /// Waits for all choices; with `best_of`, keeps the most likely of each prompt.
    ///
    /// # Errors
    /// The first choice that failed.
    pub async fn collect(&mut self) -> Result<Vec<ChoiceOutput>, ApiError> {
        let mut all = vec![ChoiceOutput::default(); self.prepared.choices()];
        while let Some(next) = self.next().await {
            let (choice, part) = next?;
            all[choice].add(part);
        }
        let (made, given) = (self.prepared.params.best_of, self.prepared.params.choices);
        if made == given {
            return Ok(all);
        }
        let mean = |w: &ChoiceOutput| w.end.as_ref().map_or(f64::NEG_INFINITY, |end| end.mean);
        let mut best = Vec::new();
        for group in all.chunks_mut(made) {
            group.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
            best.extend(group[..given].iter().cloned());
        }
        Ok(best)
    }
}

impl Drop for InFlight {
    /// Logs the tokens, of which those count that are delivered, however the request ended, and what was read of its prompts, unless the server is why it
    /// ends. A request that was never queued has none.
    fn drop(&mut self) {
        if self.handles.is_empty() {
            return;
        }
        while let Ok((choice, _, part)) = self.parts.try_recv() {
            self.begin(choice, &part);
        }
        // A line of a batch that is done is delivered when its result is on the disk, or is answered again.
        let done = self.prepared.ctx.background && self.ended == self.prepared.choices();
        if !self.failed && !done && !self.state.admission.shutting_down() {
            let (read, cached) = self.read();
            self.log.read(read, cached);
        }
        let usage = self.usage();
        self.log.update(|f| {
            f.completion_tokens = Some(usage.completion);
            f.cached_tokens = Some(usage.cached);
        });
    }
}
