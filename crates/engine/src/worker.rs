//! The engine's thread: receive, schedule, forward, choose, deliver.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use model::cache::PAGE;
use model::{Batch, Span, Wanted};

use crate::engine::{Engine, EngineError, Finish, Timing, numbers};
use crate::guide::Guide;
use crate::sampler::{Sampler, log_probabilities};
use crate::scheduler::{Begun, Id, Part, Restore, Scheduler, Step};
use crate::service::{Constraint, Event, Jobs, Scores, Shared, Sink};
use crate::store::{Fetch, Key};

/// Tokens of prompts in a step where nobody decodes; and the fewest where somebody does.
const READ_MAX: usize = 512;
const READ_MIN: usize = 64;

/// A step takes at most so many times as long where many prompts wait to be read and few requests decode.
const SHARE_MAX: f64 = 4.0;

/// How long the worker sleeps when nothing wakes it.
const SLEEP: Duration = Duration::from_secs(3600);

/// A request, as the worker has it.
pub(crate) struct Job {
    /// Prompt and what was generated.
    pub tokens: Vec<u32>,
    pub prompt: usize,
    pub tokens_max: usize,
    /// Why it ends when it has as many.
    pub full: Finish,
    pub sampler: Sampler,
    pub stops: Vec<u32>,
    pub log_probabilities: Option<usize>,
    pub prompt_log_probabilities: Option<usize>,
    /// Prompt positions whose logits were looked at.
    pub scored: usize,
    /// What its text must obey, until it runs; from then on at work.
    pub constraint: Option<Box<dyn Constraint>>,
    pub guide: Option<Guide>,
    /// What waits for the constraint.
    pub held: Option<Held>,
    /// `Event::Read` was given.
    pub read: bool,
    pub sink: Box<dyn Sink>,
    pub timing: Timing,
    pub arrived: Instant,
    /// When it first ran, and when its last token came.
    pub begun: Option<(Instant, Instant)>,
    /// `Event::Started` was given.
    pub started: bool,
    /// Where its prompt first differs from one that was served before.
    pub differs_at: Option<usize>,
    /// Tokens of its prompt that it added to the cache, and the position after the last of them.
    pub written: (usize, usize),
    /// Its sink wants no more.
    pub left: bool,
    /// What its sink said when it panicked.
    pub broken: Option<String>,
}

/// What of a request waits for its constraint.
pub(crate) enum Held {
    /// Logits, for what may come next.
    Logits(Vec<f32>),
    /// A token that was chosen and given, for whether it ends the text.
    Token,
}

/// What came of a request's part.
enum Chosen {
    /// No token was wanted, or it is late.
    Nothing,
    /// The next token is known.
    Token,
    /// The text has ended.
    End(Finish),
}

impl Job {
    /// Give an event. A sink that fails has left.
    fn give(&mut self, event: Event) {
        if self.left {
            return;
        }
        match catch_unwind(AssertUnwindSafe(|| self.sink.take(event))) {
            Ok(flow) => self.left = flow.is_break(),
            Err(payload) => (self.left, self.broken) = (true, Some(said(&*payload))),
        }
    }

    /// The first event: so many tokens of the prompt were in the cache.
    fn start(&mut self, cached: usize) {
        self.started = true;
        self.timing.cached_tokens = cached;
        let (seed, differs_at, waited) = (self.sampler.seed(), self.differs_at, self.timing.waited);
        self.give(Event::Started { seed, cached, differs_at, waited });
    }

    /// The last event.
    fn end(mut self, finish: Finish) {
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

    fn fail(mut self, error: EngineError) {
        self.left = false;
        self.give(Event::Failed(error));
    }
}

/// Units of a request that are on their way.
struct Coming {
    fetch: Fetch,
    wanted: VecDeque<Restore>,
}

/// A part with what the forward needs of its request, and where its rows of logits begin.
struct Row {
    part: Part,
    prompt: usize,
    pages: Vec<u32>,
    first: usize,
    scores: bool,
}

/// What steps have taken: those that read no prompt, and each token of a prompt besides. Means that forget.
#[derive(Default)]
struct Pace {
    decode: f64,
    token: f64,
}

impl Pace {
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
    engine: Engine,
    shared: Arc<Shared>,
    jobs: Jobs,
    coming: HashMap<Id, Coming>,
    /// Logits of a step.
    logits: Vec<f32>,
    pace: Pace,
    step: Duration,
    /// How long a constraint may take over one token.
    constraint: Duration,
}

/// Serve until the service ends and nothing is left to do. A panic ends it too: then every request gets an error, and `fault` is told.
pub(crate) fn work(
    engine: Engine,
    shared: Arc<Shared>,
    (step, constraint): (Duration, Duration),
    fault: Option<Box<dyn Fn(&str) + Send>>,
) {
    let (jobs, coming) = (HashMap::new(), HashMap::new());
    let (logits, pace) = (Vec::new(), Pace::default());
    let mut worker = Worker { engine, shared, jobs, coming, logits, pace, step, constraint };
    let served = catch_unwind(AssertUnwindSafe(|| {
        while let Some(step) = worker.receive() {
            worker.follow(step);
        }
    }));
    if let Err(payload) = served {
        let said = said(&*payload);
        worker.stop(&said);
        if let Some(fault) = fault {
            fault(&said);
        }
    }
}

impl Worker {
    /// The thread panicked: whatever was asked for ends with an error, and nothing is taken any more.
    fn stop(&mut self, said: &str) {
        let mut state = self.shared.lock();
        state.fault = Some(said.to_string());
        let arrived: Vec<Job> = state.arrived.drain(..).map(|(_, job)| job).collect();
        drop(state);
        self.coming.clear();
        for job in self.jobs.drain().map(|(_, job)| job).chain(arrived) {
            // Whatever panicked may do so again.
            let _ = catch_unwind(AssertUnwindSafe(|| job.fail(EngineError::Fault(said.to_string()))));
        }
    }

    /// What to do now; waits until there is something. `None` at the end.
    fn receive(&mut self) -> Option<(Step, Vec<Row>, Vec<u32>)> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        loop {
            if self.jobs.values().any(|job| job.held.is_some()) {
                drop(state);
                self.resume();
                state = shared.lock();
            }
            self.jobs.extend(state.arrived.drain(..));
            let gone = std::mem::take(&mut state.gone);
            if !gone.is_empty() {
                drop(state);
                gone.into_iter().for_each(|id| self.cancelled(id));
                state = shared.lock();
                continue;
            }
            if !std::mem::replace(&mut state.stored, true) {
                // The cache on disk has come into use: what is in memory goes there too.
                let units: Vec<(Key, u32)> = state.scheduler.pages().each_unit().collect();
                drop(state);
                self.store(&units);
                state = shared.lock();
                continue;
            }
            if state.scheduler.is_idle() && state.ending {
                return None;
            }
            let now = shared.started.elapsed();
            let budget = self.budget();
            let step = state
                .scheduler
                .step(now, budget, &mut |key| shared.store.get().is_some_and(|store| store.contains(key)));
            let Step { expired, overdue, begun, restores, parts, preempted, .. } = &step;
            let lists = [expired.len(), overdue.len(), begun.len(), restores.len(), parts.len(), preempted.len()];
            if !state.woken && lists.iter().all(|&n| n == 0) {
                let until = state.scheduler.next_deadline().map_or(SLEEP, |t| t.saturating_sub(now));
                let until = until.min(self.patience(&state.scheduler));
                state = shared.wait(state, until.max(Duration::from_millis(1)));
                continue;
            }
            state.woken = false;
            state.statistics.preempted += step.preempted.len() as u64;
            state.statistics.expired += step.expired.len() as u64;
            let mut tokens = Vec::new();
            let rows = step.parts.iter().map(|&part| {
                let (all, pages) = state.scheduler.sequence(part.id).expect("parts are of those who run");
                let first = tokens.len();
                tokens.extend_from_slice(&all[part.position..part.position + part.len]);
                let job = &self.jobs[&part.id];
                let scores = job.prompt_log_probabilities.is_some()
                    && part.position + part.len > job.scored
                    && job.scored < job.prompt;
                Row { part, prompt: job.prompt, pages: pages.to_vec(), first, scores }
            });
            let rows = rows.collect();
            return Some((step, rows, tokens));
        }
    }

    /// Tokens of prompts that this step may read. Those who wait for a prompt to be read and those who decode share the time by their numbers.
    fn budget(&self) -> usize {
        let decoding = self.jobs.values().filter(|job| job.tokens.len() > job.prompt).count();
        let share = (self.jobs.len() as f64 / decoding.max(1) as f64).min(SHARE_MAX);
        if decoding == 0 { READ_MAX } else { self.pace.within(self.step.as_secs_f64() * share) }
    }

    /// Requests whose constraints have answered go on; those whose constraints take too long end.
    fn resume(&mut self) {
        let mut outcomes = Vec::new();
        for (&id, job) in self.jobs.iter_mut().filter(|(_, job)| job.held.is_some()) {
            // One that had to give way goes on when it has its pages again.
            if !self.shared.lock().scheduler.awaits(id) {
                continue;
            }
            let outcome = job.guarded(Job::go_on);
            let late = job.guide.as_ref().and_then(Guide::late_since).map(|since| since.elapsed());
            match late.filter(|late| *late >= self.constraint && matches!(outcome, Ok(Chosen::Nothing))) {
                Some(late) => outcomes.push((id, Err(EngineError::ConstraintLate { seconds: late.as_secs_f64() }))),
                None => outcomes.push((id, outcome)),
            }
        }
        outcomes.into_iter().for_each(|(id, outcome)| self.settle(id, outcome));
    }

    /// How long the worker can sleep before a constraint has taken too long.
    fn patience(&self, scheduler: &Scheduler) -> Duration {
        let held = self.jobs.iter().filter(|(id, job)| job.held.is_some() && scheduler.awaits(**id));
        let late = held.filter_map(|(_, job)| job.guide.as_ref()?.late_since());
        late.map(|since| self.constraint.saturating_sub(since.elapsed())).min().unwrap_or(SLEEP)
    }

    fn cancelled(&mut self, id: Id) {
        self.coming.remove(&id);
        if let Some(mut job) = self.jobs.remove(&id) {
            job.left = true;
            if job.begun.is_some() {
                job.end(Finish::Cancelled);
            }
        }
    }

    fn follow(&mut self, (step, rows, tokens): (Step, Vec<Row>, Vec<u32>)) {
        for id in &step.expired {
            if let Some(job) = self.jobs.remove(id) {
                let seconds = job.arrived.elapsed().as_secs_f64();
                job.fail(EngineError::Waited { seconds });
            }
        }
        for id in &step.overdue {
            self.coming.remove(id);
            if let Some(job) = self.jobs.remove(id) {
                job.end(Finish::Time);
            }
        }
        for id in &step.preempted {
            self.coming.remove(id);
        }
        step.begun.iter().for_each(|begun| self.begin(begun));
        for &(from, to) in &step.copies {
            self.engine.cache().copy_page(from, to);
        }
        let store = self.shared.store.get();
        step.used.iter().for_each(|keys| store.into_iter().for_each(|store| store.touch(keys)));
        for (id, restores) in step.restores {
            let shared = Arc::clone(&self.shared);
            let keys: Vec<Key> = restores.iter().map(|r| r.key).collect();
            let store = self.shared.store.get().filter(|store| store.is_usable());
            match store.and_then(|store| store.fetch(&keys, move || shared.wake())) {
                Some(fetch) => drop(self.coming.insert(id, Coming { fetch, wanted: restores.into() })),
                // The cache on disk has ended a moment ago: all is computed.
                None => drop(self.shared.lock().scheduler.restored(id, false)),
            }
        }
        self.restore();
        if !rows.is_empty() {
            self.start(&rows);
            self.compute(rows, &tokens);
        }
    }

    fn begin(&mut self, begun: &Begun) {
        let Some(job) = self.jobs.get_mut(&begun.id) else { return };
        let now = Instant::now();
        job.begun = Some((now, now));
        job.timing.waited = now - job.arrived;
        job.differs_at = begun.differs_at;
        let shared = Arc::clone(&self.shared);
        match job.constraint.take().map(|constraint| Guide::start(constraint, move || shared.wake())).transpose() {
            Ok(guide) => job.guide = guide,
            Err(error) => {
                self.shared.lock().scheduler.leave(begun.id);
                if let Some(job) = self.jobs.remove(&begun.id) {
                    job.fail(error);
                }
            }
        }
    }

    /// Requests whose first tokens are computed now: what is before them was in the cache.
    fn start(&mut self, rows: &[Row]) {
        for Part { id, position, .. } in rows.iter().map(|row| row.part) {
            let Some(job) = self.jobs.get_mut(&id).filter(|job| !job.started) else { continue };
            self.shared.lock().statistics.cached_tokens += position as u64;
            job.start(position);
        }
    }

    /// Units that came from disk, into their pages.
    fn restore(&mut self) {
        let mut done = Vec::new();
        for (&id, coming) in &mut self.coming {
            loop {
                let unit = match coming.fetch.try_next() {
                    Poll::Pending => break,
                    Poll::Ready(None) => None,
                    Poll::Ready(Some(unit)) => unit.ok(),
                };
                let Some(Restore { page, .. }) = coming.wanted.pop_front() else {
                    done.push(id);
                    break;
                };
                let mut state = self.shared.lock();
                let there = state.scheduler.sequence(id).is_some();
                let came = there && unit.is_some_and(|unit| self.engine.cache().set_page(page, &unit));
                let more = state.scheduler.restored(id, came);
                if !more || coming.wanted.is_empty() {
                    done.push(id);
                    break;
                }
            }
        }
        done.iter().for_each(|id| drop(self.coming.remove(id)));
    }

    fn compute(&mut self, rows: Vec<Row>, tokens: &[u32]) {
        let started = Instant::now();
        let spans: Vec<Span> = rows
            .iter()
            .map(|row| {
                let wanted = match (row.scores, row.part.logits) {
                    (true, _) => Wanted::All,
                    (false, true) => Wanted::Last,
                    (false, false) => Wanted::None,
                };
                let Part { position, len, .. } = row.part;
                Span { first: row.first, len, position, prompt: row.prompt, pages: &row.pages, logits: wanted }
            })
            .collect();
        let batch = Batch { tokens, spans: &spans };
        let (engine, mut logits) = (&mut self.engine, std::mem::take(&mut self.logits));
        let vocab = engine.model().structure.vocab;
        let outcome = catch_unwind(AssertUnwindSafe(|| engine.compute(&batch).map(|now| now.clone_into(&mut logits))));
        if let Err(error) = outcome.unwrap_or_else(|payload| Err(EngineError::Fault(said(&*payload)))) {
            return self.fail(&rows, &error);
        }
        let read: usize = rows.iter().filter(|r| r.part.len > 1).map(|r| r.part.len).sum();
        let took = started.elapsed();
        self.pace.saw(read, took.as_secs_f64());
        self.keep(&rows, took);
        self.choose(&rows, &logits, vocab);
        self.logits = logits;
    }

    /// Nothing of this step is to be believed.
    fn fail(&mut self, rows: &[Row], error: &EngineError) {
        for row in rows {
            self.shared.lock().scheduler.leave(row.part.id);
            if let Some(job) = self.jobs.remove(&row.part.id) {
                job.fail(error.clone());
            }
        }
    }

    /// Units that became whole go to disk.
    fn keep(&mut self, rows: &[Row], took: Duration) {
        let mut units = Vec::new();
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        for row in rows {
            let Part { id, position, len, .. } = row.part;
            let now = state.scheduler.computed(id, len);
            if let Some(job) = self.jobs.get_mut(&id) {
                now.iter().for_each(|unit| job.wrote(unit.end));
            }
            units.extend(now);
            state.statistics.prompt_tokens += row.prompt.saturating_sub(position).min(len) as u64;
        }
        state.statistics.steps += 1;
        state.statistics.rows += rows.iter().map(|r| r.part.len as u64).sum::<u64>();
        state.statistics.busy += took;
        self.engine.expert_counts().clone_into(&mut state.statistics.experts);
        drop(state);
        let units: Vec<(Key, u32)> = units.iter().map(|unit| (unit.key, unit.page)).collect();
        self.store(&units);
    }

    /// Units to disk, where that is in use.
    fn store(&mut self, units: &[(Key, u32)]) {
        let Some(store) = self.shared.store.get() else { return };
        let new: Vec<_> = units.iter().filter(|(key, _)| !store.contains(key)).collect();
        if new.is_empty() || !store.is_usable() {
            return;
        }
        for (key, page) in new {
            store.put(key, self.engine.cache().page_bytes(*page));
        }
    }

    /// What the logits of the parts mean for their requests: each is its own work, so they share the threads.
    fn choose(&mut self, rows: &[Row], logits: &[f32], vocab: usize) {
        let mut first = 0;
        let mut wanted: HashMap<Id, (&Row, &[f32])> = HashMap::new();
        for row in rows {
            let count = if row.scores { row.part.len } else { usize::from(row.part.logits) };
            wanted.insert(row.part.id, (row, &logits[first * vocab..(first + count) * vocab]));
            first += count;
        }
        let mut tasks: Vec<Choice> = Vec::with_capacity(rows.len());
        for (id, job) in &mut self.jobs {
            if let Some(&(row, logits)) = wanted.get(id) {
                tasks.push(Choice { job, row, logits, outcome: Ok(Chosen::Nothing) });
            }
        }
        let one = |task: &mut Choice| task.outcome = task.job.deliver(task.row, task.logits, vocab);
        match &mut tasks[..] {
            [only] => one(only),
            all => self.engine.pool().each(all, one),
        }
        let outcomes: Vec<_> = tasks.into_iter().map(|t| (t.row.part.id, t.outcome)).collect();
        outcomes.into_iter().for_each(|(id, outcome)| self.settle(id, outcome));
    }

    /// A request goes on with its next token, or ends.
    fn settle(&mut self, id: Id, outcome: Result<Chosen, EngineError>) {
        let job = self.jobs.get_mut(&id).expect("it was just there");
        let ends = matches!(outcome, Ok(Chosen::End(_)) | Err(_)) || job.left;
        let mut state = self.shared.lock();
        if !ends {
            if matches!(outcome, Ok(Chosen::Token)) {
                state.scheduler.push(id, *job.tokens.last().expect("one was chosen"));
            }
            return;
        }
        state.scheduler.leave(id);
        drop(state);
        let job = self.jobs.remove(&id).expect("it was just there");
        match outcome {
            Err(error) => job.fail(error),
            Ok(Chosen::End(finish)) => job.end(finish),
            Ok(Chosen::Nothing | Chosen::Token) => job.end(Finish::Cancelled),
        }
    }
}

/// A request with the logits of its part, and what came of them.
struct Choice<'a> {
    job: &'a mut Job,
    row: &'a Row,
    logits: &'a [f32],
    outcome: Result<Chosen, EngineError>,
}

impl Job {
    /// A unit that ends there was added to the cache by this request. One that it computes again, because it had to give way, does not count.
    fn wrote(&mut self, end: usize) {
        let (written, last) = self.written;
        if end <= self.prompt && end > last.max(self.timing.cached_tokens) {
            self.written = (written + PAGE, end);
        }
    }

    /// The scores and the token that follow from the logits of a part.
    fn deliver(&mut self, row: &Row, logits: &[f32], vocab: usize) -> Result<Chosen, EngineError> {
        let Part { position, len, logits: last, .. } = row.part;
        if self.tokens.len() == self.prompt {
            self.timing.prompt_tokens += row.prompt.saturating_sub(position).min(len);
        }
        logits.chunks(vocab).try_for_each(numbers)?;
        if row.scores {
            self.score(position, logits, vocab);
        }
        if !last {
            return Ok(Chosen::Nothing);
        }
        if !std::mem::replace(&mut self.read, true) {
            self.give(Event::Read { written: self.written.0 });
        }
        // One that had to give way while it was held has the same logits again.
        if self.held.is_some() {
            return self.guarded(Job::go_on);
        }
        self.guarded(|job| job.choose(&logits[logits.len() - vocab..]))
    }

    /// Work that may panic, timed as far as it gives tokens.
    fn guarded(&mut self, work: impl FnOnce(&mut Job) -> Result<Chosen, EngineError>) -> Result<Chosen, EngineError> {
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
        chosen.unwrap_or_else(|payload| Err(EngineError::Fault(said(&*payload))))
    }

    /// Scores of the prompt's tokens from the logits before them.
    fn score(&mut self, position: usize, logits: &[f32], vocab: usize) {
        let most = self.prompt_log_probabilities.unwrap_or(0);
        let mut scores: Vec<Scores> = Vec::new();
        for (at, row) in (position..).zip(logits.chunks(vocab)) {
            // Those that were computed before, for a request that had to give way, are known.
            if at >= self.scored && at + 1 < self.prompt {
                scores.push(log_probabilities(row, self.tokens[at + 1], most));
            }
        }
        self.scored = self.scored.max(position + logits.len() / vocab);
        if !scores.is_empty() {
            self.give(Event::Prompt(scores));
        }
    }

    /// The next token from a row of logits; the end where it ends the text.
    fn choose(&mut self, logits: &[f32]) -> Result<Chosen, EngineError> {
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
        let token = self.sampler.sample_of(logits, &self.tokens, allowed.as_deref());
        let token = token.ok_or_else(|| EngineError::Constraint("no token is allowed here".to_string()))?;
        if self.stops.contains(&token) {
            return Ok(Chosen::End(Finish::Stop(token)));
        }
        self.tokens.push(token);
        self.timing.generated += 1;
        let log_probabilities = self.log_probabilities.map(|most| log_probabilities(logits, token, most));
        self.give(Event::Token { id: token, log_probabilities });
        if let Some(guide) = &mut self.guide {
            guide.chose(token);
        }
        self.judged()
    }

    /// What comes of the token that was chosen.
    fn judged(&mut self) -> Result<Chosen, EngineError> {
        if let Some(guide) = &mut self.guide {
            match guide.accepted()? {
                None => {
                    self.held = Some(Held::Token);
                    return Ok(Chosen::Nothing);
                }
                Some(true) => return Ok(Chosen::End(Finish::Complete)),
                Some(false) => {}
            }
        }
        if self.timing.generated >= self.tokens_max { Ok(Chosen::End(self.full)) } else { Ok(Chosen::Token) }
    }

    /// On from where it waited for its constraint.
    fn go_on(&mut self) -> Result<Chosen, EngineError> {
        match self.held.take() {
            None => Ok(Chosen::Nothing),
            Some(Held::Logits(logits)) => self.choose(&logits),
            Some(Held::Token) => self.judged(),
        }
    }
}

/// What a panic said.
pub(crate) fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_read_within_the_time_that_is_left_beside_decoding() {
        let mut pace = Pace::default();
        assert_eq!(pace.within(1.0), READ_MIN);
        for _ in 0..50 {
            pace.saw(0, 0.4);
            pace.saw(128, 0.4 + 1.28);
        }
        // 100 tokens a second beside 0.4 s of decoding.
        assert_eq!([0.1, 1.0, 2.4, 60.0].map(|seconds| pace.within(seconds)), [64, 64, 192, 512]);
    }
}
