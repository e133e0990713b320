//! Prompts through the engine for what is pooled of them instead of a text: as many at once as the queue takes, up to a limit.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use engine::{Event, Finish, Pooled, Request, RequestHandle, SubmitError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::error::ApiError;
use crate::generation::prepared::RequestContext;
use crate::generation::retry_after::Timer;
use crate::generation::served_model::ServedModel;
use crate::generation::usage::Usage;
use crate::http::access_log::RequestLog;
use crate::state::AppState;

/// Prompts of one request that are in the engine at once: others find room in its queue.
const AT_ONCE: usize = 32;

/// A request's prompts, and what is wanted of each.
pub struct PooledRequest {
    pub served: Arc<ServedModel>,
    /// Each of at least one token, and within the context.
    pub prompts: Vec<Vec<u32>>,
    pub wanted: Pooled,
    pub context: RequestContext,
}

/// A request's prompts on their way. Dropping it cancels them.
struct Running {
    state: Arc<AppState>,
    request: PooledRequest,
    log: RequestLog,
    next: usize,
    handles: HashMap<usize, (RequestHandle, Option<Timer>)>,
    sender: UnboundedSender<(usize, Event)>,
    events: UnboundedReceiver<(usize, Event)>,
    cached: usize,
    /// Of each prompt its tokens, and those found in the cache once it began.
    begun: Vec<(usize, Option<usize>)>,
    /// The engine failed, not the request.
    failed: bool,
}

impl PooledRequest {
    /// Tokens of all prompts.
    pub fn tokens(&self) -> usize {
        self.prompts.iter().map(Vec::len).sum()
    }

    /// What is wanted of each prompt, in their order. The log gets the counts.
    ///
    /// # Errors
    /// The first prompt that was not taken, or failed; the request's time is over.
    pub async fn run(self, state: Arc<AppState>, log: RequestLog) -> Result<Vec<Vec<f32>>, ApiError> {
        let context = self.context;
        let Some(time_max) = context.time_max else { return self.run_to_the_end(state, log).await };
        let outcome = tokio::time::timeout(time_max, self.run_to_the_end(state, log)).await;
        outcome.unwrap_or_else(|_| Err(context.time_is_over()))
    }

    async fn run_to_the_end(self, state: Arc<AppState>, log: RequestLog) -> Result<Vec<Vec<f32>>, ApiError> {
        let (count, tokens, context) = (self.prompts.len(), self.tokens(), self.context);
        let (sender, events) = unbounded_channel();
        let (next, handles, cached, failed) = (0, HashMap::new(), 0, false);
        let begun = self.prompts.iter().map(|prompt| (prompt.len(), None)).collect();
        let mut running = Running { state, request: self, log, next, handles, sender, events, cached, begun, failed };
        running.submit()?;
        running.log.update(|f| (f.prompt_tokens, f.completion_tokens) = (Some(tokens), Some(0)));
        let mut pooled = vec![Vec::new(); count];
        let mut left = count;
        while left > 0 {
            // `sender` keeps the channel open.
            let (i, event) = running.events.recv().await.ok_or_else(|| ApiError::fault("the engine ended"))?;
            match event {
                Event::Pooled(numbers) => pooled[i] = numbers,
                Event::End { .. } | Event::Failed(_) => {
                    running.ended(i, event)?;
                    left -= 1;
                    running.submit()?;
                }
                Event::Started { cached, waited, .. } => {
                    running.begun[i].1 = Some(cached);
                    running.cached += cached;
                    let cached = running.cached;
                    running.log.update(|f| {
                        f.cached_tokens = Some(cached);
                        f.queued = f.queued.or(Some(waited));
                    });
                    let timer = (!context.background).then(|| running.state.request_times.began());
                    running.handles.entry(i).and_modify(|(_, of)| *of = timer);
                }
                _ => {}
            }
        }
        let usage = Usage { prompt: tokens, cached: running.cached, ..Usage::default() };
        running.log.announce(usage);
        Ok(pooled)
    }
}

impl Running {
    /// Submits as many prompts as the queue takes and the limit allows.
    fn submit(&mut self) -> Result<(), ApiError> {
        let PooledRequest { served, prompts, wanted, context } = &mut self.request;
        while self.next < prompts.len() && self.handles.len() < AT_ONCE {
            let (i, sender) = (self.next, self.sender.clone());
            let request = Request {
                prompt: prompts[i].clone(),
                pooled: Some(wanted.clone()),
                account: context.account,
                priority: context.priority(0),
                salt: context.salt,
                owner: context.owner,
                wait_max: context.wait_max,
                time_max: context.time_max,
                ..Request::default()
            };
            let sink = move |event| match sender.send((i, event)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            };
            match served.engine.submit(request, sink) {
                Ok(handle) => drop(self.handles.insert(i, (handle, None))),
                // Submitted when a running one ends.
                Err(SubmitError::Busy { .. }) if !self.handles.is_empty() => break,
                Err(refused) => {
                    let (running, waiting) = served.engine.load();
                    let error = ApiError::from(refused);
                    let retry = error.retry.map(|_| self.state.request_times.retry_after(running, waiting));
                    return Err(ApiError { retry, ..error });
                }
            }
            prompts[i] = Vec::new();
            self.next += 1;
        }
        Ok(())
    }

    /// A prompt has ended.
    fn ended(&mut self, i: usize, event: Event) -> Result<(), ApiError> {
        self.handles.remove(&i);
        match event {
            Event::Failed(error) => {
                self.failed = true;
                Err(self.request.context.error(&error))
            }
            Event::End { finish: Finish::Time, .. } => Err(self.request.context.time_is_over()),
            Event::End { timing, .. } => {
                if !self.request.context.background {
                    self.state.request_times.ended(timing.prefill);
                }
                self.log.update(|f| f.prefill = Some(f.prefill.unwrap_or_default() + timing.prefill));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Running {
    /// Logs what was read of the prompts, unless the server is why the request ends.
    fn drop(&mut self) {
        while let Ok((i, event)) = self.events.try_recv() {
            if let Event::Started { cached, .. } = event {
                self.begun[i].1 = Some(cached);
            }
        }
        // A line of a batch that is done is delivered when its result is on the disk, or is answered again.
        let done = self.request.context.background && self.handles.is_empty() && self.next == self.begun.len();
        if self.failed || done || self.state.admission.shutting_down() {
            return;
        }
        let begun = self.begun.iter().enumerate().filter_map(|(i, &(tokens, cached))| Some((i, tokens, cached?)));
        let (read, cached) = begun.fold((0, 0), |(read, found), (i, tokens, cached)| {
            let running = self.handles.get(&i);
            (read + running.map_or(tokens, |(handle, _)| handle.prompt_read(tokens, cached)), found + cached)
        });
        self.log.read(read, cached);
    }
}
