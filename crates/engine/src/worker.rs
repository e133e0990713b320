//! The engine's thread: receive, schedule, forward, sample, deliver.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use model::{Batch, Span, Wanted};

use crate::active::{ActiveRequest, Chosen};
use crate::error::{EngineError, panic_message};
use crate::guide::Guide;
use crate::request::Finish;
use crate::runner::Runner;
use crate::scheduler::{Admitted, BlockLoad, Chunk, Id, Scheduler, Step};
use crate::state::EngineShared;
use crate::store::{Fetch, Key};

/// Tokens of prompts in a step where nobody decodes; and the fewest where somebody does.
pub(crate) const READ_MAX: usize = 512;
const READ_MIN: usize = 64;

/// A step takes at most so many times as long where many prompts wait to be read and few requests decode.
const SHARE_MAX: f64 = 4.0;

/// How long the worker sleeps when nothing wakes it.
const SLEEP: Duration = Duration::from_secs(3600);

/// Blocks of a request that are on their way from disk.
struct Loading {
    fetch: Fetch,
    wanted: VecDeque<BlockLoad>,
}

/// What a forward gave, row after row.
#[derive(Default)]
struct Outputs {
    logits: Vec<f32>,
    states: Vec<f32>,
}

/// Moving averages of what steps take.
#[derive(Default)]
struct StepTimes {
    /// Seconds of a step that only decodes.
    decode: f64,
    /// Seconds more for each token of a prompt.
    token: f64,
}

impl StepTimes {
    fn saw(&mut self, read: usize, took: f64) {
        let (mean, now) = match read {
            0 => (&mut self.decode, took),
            READ_MIN.. => (&mut self.token, (took - self.decode).max(0.1 * took) / read as f64),
            _ => return,
        };
        *mean = if *mean == 0.0 { now } else { 0.7 * *mean + 0.3 * now };
    }

    /// Tokens that can be read beside decoding in so many seconds.
    fn within(&self, seconds: f64) -> usize {
        if self.token == 0.0 {
            return READ_MIN;
        }
        let tokens = ((seconds - self.decode) / self.token).max(0.0) as usize;
        tokens.clamp(READ_MIN, READ_MAX) / READ_MIN * READ_MIN
    }
}

struct Worker {
    runner: Runner,
    scheduler: Scheduler,
    shared: Arc<EngineShared>,
    requests: HashMap<Id, ActiveRequest>,
    loading: HashMap<Id, Loading>,
    /// Logits and final hidden states of a step.
    outputs: Outputs,
    times: StepTimes,
    /// How long a step may take while somebody decodes.
    step_max: Duration,
    /// How long a constraint may take over one token.
    constraint_max: Duration,
}

/// Answer requests until the engine ends and nothing is left to do. A panic ends it too: then every request gets an error, and `fault` is told.
pub(crate) fn work(
    runner: Runner,
    scheduler: Scheduler,
    shared: Arc<EngineShared>,
    (step_max, constraint_max): (Duration, Duration),
    fault: Option<Box<dyn Fn(&str) + Send>>,
) {
    let (requests, loading) = (HashMap::new(), HashMap::new());
    let (outputs, times) = (Outputs::default(), StepTimes::default());
    let mut worker = Worker { runner, scheduler, shared, requests, loading, outputs, times, step_max, constraint_max };
    let served = catch_unwind(AssertUnwindSafe(|| while worker.step() {}));
    if let Err(payload) = served {
        let said = panic_message(&*payload);
        worker.stop(&said);
        if let Some(fault) = fault {
            fault(&said);
        }
    }
}

impl Worker {
    /// One turn of the loop. False at the end.
    fn step(&mut self) -> bool {
        let Some(step) = self.schedule() else { return false };
        let chunks = self.prepare(step);
        if !chunks.is_empty() {
            match self.forward(&chunks) {
                Ok(()) => {
                    self.store_blocks(&chunks);
                    self.sample(&chunks);
                }
                Err(error) => chunks.iter().for_each(|chunk| self.finish(chunk.id, Err(error.clone()))),
            }
        }
        true
    }

    /// What to do now; waits until there is something. `None` at the end.
    fn schedule(&mut self) -> Option<Step> {
        loop {
            self.resume();
            let (woken, ending) = self.receive();
            if self.scheduler.is_idle() && ending {
                return None;
            }
            let now = self.shared.started.elapsed();
            let (budget, store) = (self.budget(), self.shared.store.get());
            let step = self.scheduler.step(now, budget, &mut |key| store.is_some_and(|store| store.contains(key)));
            if woken || !step.is_empty() {
                return Some(step);
            }
            let until = self.scheduler.next_deadline().map_or(SLEEP, |t| t.saturating_sub(now));
            let until = until.min(self.time_to_wait()).max(Duration::from_millis(1));
            let state = self.shared.lock();
            let news = !state.arrived.is_empty()
                || !state.gone.is_empty()
                || !state.refused.is_empty()
                || state.woken
                || state.unstored;
            if !news && state.ending == ending {
                drop(self.shared.changed.wait_timeout(state, until));
            }
        }
    }

    /// Take what came since: requests, and those who left. Whether something was waited for that is there now, and whether the engine ends.
    fn receive(&mut self) -> (bool, bool) {
        let mut state = self.shared.lock();
        let (arrived, gone) = (std::mem::take(&mut state.arrived), std::mem::take(&mut state.gone));
        let refused = std::mem::take(&mut state.refused);
        let woken = std::mem::take(&mut state.woken);
        let unstored = std::mem::take(&mut state.unstored);
        let ending = state.ending;
        drop(state);
        for (id, new, request) in arrived {
            self.scheduler.arrive(id, new);
            self.requests.insert(id, request);
        }
        gone.into_iter().for_each(|id| self.cancelled(id));
        refused.into_iter().for_each(|id| self.refuse(id));
        if unstored {
            // The cache on disk has come into use: what is in memory goes there too.
            let blocks: Vec<(Key, u32)> = self.scheduler.pages().each_block().collect();
            self.store(&blocks);
        }
        (woken, ending)
    }

    /// Tokens of prompts that this step may read. Those who wait for a prompt to be read and those who decode share the time by their numbers. In the
    /// background no step is long, as somebody may come meanwhile.
    fn budget(&self) -> usize {
        if self.scheduler.only_background() {
            return self.times.within(self.step_max.as_secs_f64());
        }
        let others = || self.requests.values().filter(|request| !request.background);
        let decoding = others().filter(|request| request.timing.generated > 0).count();
        let share = (others().count() as f64 / decoding.max(1) as f64).min(SHARE_MAX);
        if decoding == 0 { READ_MAX } else { self.times.within(self.step_max.as_secs_f64() * share) }
    }

    /// Requests whose constraints have answered go on; those whose constraints take too long end.
    fn resume(&mut self) {
        let mut outcomes = Vec::new();
        for (&id, request) in self.requests.iter_mut().filter(|(_, request)| request.is_held()) {
            // One that had to give way goes on when it has its pages again.
            if !self.scheduler.awaits(id) {
                continue;
            }
            let Some((tokens, _)) = self.scheduler.sequence(id) else { continue };
            let outcome = request.resume(tokens);
            let late = request.guide.as_ref().and_then(|guide| guide.since).map(|since| since.elapsed());
            match late.filter(|late| *late >= self.constraint_max && matches!(outcome, Ok(Chosen::Nothing))) {
                Some(late) => outcomes.push((id, Err(EngineError::ConstraintLate { seconds: late.as_secs_f64() }))),
                None => outcomes.push((id, outcome)),
            }
        }
        outcomes.into_iter().for_each(|(id, outcome)| self.advance(id, outcome));
    }

    /// How long the worker can sleep before a constraint has taken too long.
    fn time_to_wait(&self) -> Duration {
        let held = self.requests.iter().filter(|(id, request)| request.is_held() && self.scheduler.awaits(**id));
        let late = held.filter_map(|(_, request)| request.guide.as_ref()?.since);
        late.map(|since| self.constraint_max.saturating_sub(since.elapsed())).min().unwrap_or(SLEEP)
    }

    /// All of a step but what it computes.
    fn prepare(&mut self, step: Step) -> Vec<Chunk> {
        for &id in &step.expired {
            if let Some(request) = self.retire(id) {
                let seconds = request.arrived.elapsed().as_secs_f64();
                request.fail(EngineError::Waited { seconds });
            }
        }
        for &id in &step.overdue {
            self.finish(id, Ok(Finish::Time));
        }
        for id in &step.preempted {
            self.loading.remove(id);
        }
        self.report(&step);
        step.admitted.iter().for_each(|admitted| self.begin(admitted));
        for &(from, to) in &step.copies {
            self.runner.cache().copy_page(from, to);
        }
        let store = self.shared.store.get();
        step.used.iter().for_each(|keys| store.into_iter().for_each(|store| store.touch(keys)));
        for (id, blocks) in step.loads {
            let shared = Arc::clone(&self.shared);
            let keys: Vec<Key> = blocks.iter().map(|block| block.key).collect();
            let store = self.shared.store.get().filter(|store| store.is_usable());
            match store.and_then(|store| store.fetch(&keys, move || shared.wake())) {
                Some(fetch) => drop(self.loading.insert(id, Loading { fetch, wanted: blocks.into() })),
                // The cache on disk has ended a moment ago: all is computed.
                None => drop(self.scheduler.loaded(id, false)),
            }
        }
        self.load_blocks();
        let mut chunks = step.chunks;
        chunks.retain(|chunk| self.requests.contains_key(&chunk.id));
        chunks
    }

    /// What a step means for the load and the counts that others see.
    fn report(&self, step: &Step) {
        let mut state = self.shared.lock();
        state.statistics.preempted += step.preempted.len() as u64;
        state.statistics.expired += step.expired.len() as u64;
        for id in self.scheduler.running() {
            state.queue.runs(id, true);
        }
        step.preempted.iter().for_each(|&id| state.queue.runs(id, false));
    }

    fn begin(&mut self, admitted: &Admitted) {
        let Some(request) = self.requests.get_mut(&admitted.id) else { return };
        let now = Instant::now();
        request.begun = Some((now, now));
        request.timing.waited = now - request.arrived;
        request.differs_at = admitted.differs_at;
        let shared = Arc::clone(&self.shared);
        match request.constraint.take().map(|constraint| Guide::start(constraint, move || shared.wake())).transpose() {
            Ok(guide) => request.guide = guide,
            Err(error) => self.finish(admitted.id, Err(error)),
        }
    }

    /// Blocks that came from disk, into their pages.
    fn load_blocks(&mut self) {
        let mut done = Vec::new();
        for (&id, loading) in &mut self.loading {
            loop {
                let block = match loading.fetch.try_next() {
                    Poll::Pending => break,
                    Poll::Ready(None) => None,
                    Poll::Ready(Some(block)) => block.ok(),
                };
                let Some(BlockLoad { page, .. }) = loading.wanted.pop_front() else {
                    done.push(id);
                    break;
                };
                let there = self.scheduler.sequence(id).is_some();
                let came = there && block.is_some_and(|block| self.runner.cache().set_page(page, &block));
                if !self.scheduler.loaded(id, came) || loading.wanted.is_empty() {
                    done.push(id);
                    break;
                }
            }
        }
        done.iter().for_each(|id| drop(self.loading.remove(id)));
    }

    /// The chunks of a step through the model: logits of the rows that are wanted.
    fn forward(&mut self, chunks: &[Chunk]) -> Result<(), EngineError> {
        let began = Instant::now();
        let (mut tokens, mut spans) = (Vec::new(), Vec::new());
        for chunk in chunks {
            let Some(request) = self.requests.get_mut(&chunk.id) else { continue };
            if !request.started {
                // Its first tokens are computed now: what is before them was in the cache.
                self.shared.lock().statistics.cached_tokens += chunk.position as u64;
                request.start(chunk.position);
            }
            let (all, pages) = self.scheduler.sequence(chunk.id).expect("chunks are of those who run");
            let logits = request.wants(chunk);
            let Chunk { position, len, .. } = *chunk;
            spans.push(Span { first: tokens.len(), len, position, prompt: request.prompt, pages, logits });
            tokens.extend_from_slice(&all[position..position + len]);
        }
        let (runner, outputs) = (&mut self.runner, &mut self.outputs);
        let batch = Batch { tokens: &tokens, spans: &spans };
        let computed = catch_unwind(AssertUnwindSafe(|| {
            runner.forward(&batch)?.clone_into(&mut outputs.logits);
            runner.states().clone_into(&mut outputs.states);
            Ok(())
        }));
        computed.unwrap_or_else(|payload| Err(EngineError::Fault(panic_message(&*payload))))?;
        let took = began.elapsed();
        let read: usize = chunks.iter().filter(|chunk| chunk.len > 1).map(|chunk| chunk.len).sum();
        self.times.saw(read, took.as_secs_f64());
        let mut state = self.shared.lock();
        state.statistics.steps += 1;
        state.statistics.rows += tokens.len() as u64;
        state.statistics.busy += took;
        Ok(())
    }

    /// Blocks that became whole can be found from now on, and go to disk.
    fn store_blocks(&mut self, chunks: &[Chunk]) {
        let (mut blocks, mut read) = (Vec::new(), 0);
        for &Chunk { id, position, len, .. } in chunks {
            let Some(request) = self.requests.get_mut(&id) else { continue };
            read += request.prompt.saturating_sub(position).min(len);
            request.computed(position + len);
            for block in self.scheduler.computed(id, len) {
                request.wrote(block.first, block.end);
                blocks.push((block.key, block.page));
            }
        }
        self.publish(read);
        self.store(&blocks);
    }

    /// Blocks to disk, where that is in use.
    fn store(&mut self, blocks: &[(Key, u32)]) {
        let Some(store) = self.shared.store.get() else { return };
        let new: Vec<_> = blocks.iter().filter(|(key, _)| !store.contains(key)).collect();
        if new.is_empty() || !store.is_usable() {
            return;
        }
        for (key, page) in new {
            store.put(key, self.runner.cache().page_bytes(*page));
        }
    }

    /// What the logits mean for their requests: each is its own work, so they share the threads.
    fn sample(&mut self, chunks: &[Chunk]) {
        let structure = &self.runner.model().structure;
        let (logits, states) = (structure.outputs(), structure.hidden);
        let (mut left, mut wanted) = ((&self.outputs.logits[..], &self.outputs.states[..]), HashMap::new());
        for chunk in chunks {
            let Some(request) = self.requests.get(&chunk.id) else { continue };
            let (of, count, width) = match request.wants(chunk) {
                Wanted::None => (&mut left.0, 0, logits),
                Wanted::Last => (&mut left.0, 1, logits),
                Wanted::All => (&mut left.0, chunk.len, logits),
                Wanted::LastState => (&mut left.1, 1, states),
                Wanted::States => (&mut left.1, chunk.len, states),
            };
            let (rows, others) = of.split_at(count * width);
            *of = others;
            wanted.insert(chunk.id, (chunk, (rows, width)));
        }
        let mut tasks = Vec::with_capacity(chunks.len());
        for (id, request) in &mut self.requests {
            if let Some(&(chunk, rows)) = wanted.get(id) {
                let (tokens, _) = self.scheduler.sequence(*id).expect("chunks are of those who run");
                tasks.push(Task { request, chunk, rows, tokens, outcome: Ok(Chosen::Nothing) });
            }
        }
        let one = |t: &mut Task| t.outcome = t.request.deliver(t.chunk, t.rows, t.tokens);
        match &mut tasks[..] {
            [only] => one(only),
            all => self.runner.pool().each(all, one),
        }
        let outcomes: Vec<_> = tasks.into_iter().map(|t| (t.chunk.id, t.outcome)).collect();
        outcomes.into_iter().for_each(|(id, outcome)| self.advance(id, outcome));
    }

    /// A request goes on with its next token, or ends.
    fn advance(&mut self, id: Id, outcome: Result<Chosen, EngineError>) {
        let Some(request) = self.requests.get(&id) else { return };
        match outcome {
            Err(error) => self.finish(id, Err(error)),
            Ok(Chosen::End(finish)) => self.finish(id, Ok(finish)),
            Ok(Chosen::Nothing | Chosen::Token(_)) if request.left => self.finish(id, Ok(Finish::Cancelled)),
            Ok(Chosen::Nothing) => {}
            Ok(Chosen::Token(token)) => self.scheduler.push(id, &[token]),
        }
    }

    /// A request ends, with all that it gave or with an error.
    fn finish(&mut self, id: Id, finish: Result<Finish, EngineError>) {
        if let Some(request) = self.retire(id) {
            match finish {
                Ok(finish) => request.end(finish),
                Err(error) => request.fail(error),
            }
        }
    }

    /// Another has its place in the queue, unless it began a moment before.
    fn refuse(&mut self, id: Id) {
        if self.requests.get(&id).is_some_and(|request| request.begun.is_none())
            && let Some(request) = self.retire(id)
        {
            request.fail(EngineError::Displaced);
        }
    }

    fn cancelled(&mut self, id: Id) {
        if let Some(mut request) = self.retire(id) {
            request.left = true;
            if request.begun.is_some() {
                request.end(Finish::Cancelled);
            }
        }
    }

    /// A request is over: its pages and its place are free before it is told.
    fn retire(&mut self, id: Id) -> Option<ActiveRequest> {
        self.loading.remove(&id);
        self.scheduler.leave(id);
        let request = self.requests.remove(&id)?;
        self.shared.lock().queue.leave(id);
        self.publish(0);
        Some(request)
    }

    /// Counts that others see: pages, and tokens of prompts that were read since.
    fn publish(&self, read: usize) {
        let pages = self.scheduler.pages();
        let mut state = self.shared.lock();
        let now = &mut state.statistics;
        (now.pages, now.pages_available) = (pages.count(), pages.available());
        (now.blocks, now.blocks_evicted) = (pages.blocks(), pages.evicted());
        now.prompt_tokens += read as u64;
    }

    /// The thread panicked: whatever was asked for ends with an error, and nothing is taken any more.
    fn stop(&mut self, said: &str) {
        let mut state = self.shared.lock();
        state.fault = Some(said.to_string());
        let arrived: Vec<ActiveRequest> = state.arrived.drain(..).map(|(.., request)| request).collect();
        drop(state);
        self.loading.clear();
        for request in self.requests.drain().map(|(_, request)| request).chain(arrived) {
            // Whatever panicked may do so again.
            let _ = catch_unwind(AssertUnwindSafe(|| request.fail(EngineError::Fault(said.to_string()))));
        }
    }
}

/// A request with the rows of its chunk that it wants and their width, and what came of them.
struct Task<'a> {
    request: &'a mut ActiveRequest,
    chunk: &'a Chunk,
    rows: (&'a [f32], usize),
    tokens: &'a [u32],
    outcome: Result<Chosen, EngineError>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_read_within_the_time_that_is_left_beside_decoding() {
        let mut times = StepTimes::default();
        assert_eq!(times.within(1.0), READ_MIN);
        for _ in 0..50 {
            times.saw(0, 0.4);
            times.saw(128, 0.4 + 1.28);
        }
        // 100 tokens a second beside 0.4 s of decoding.
        assert_eq!([0.1, 1.0, 2.4, 60.0].map(|seconds| times.within(seconds)), [64, 64, 192, 512]);
    }
}
