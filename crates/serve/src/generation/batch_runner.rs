//! Batches under way: their lines go the way of all requests, in the background of the engine, a few at once.
//!
//! A line's result is delivered when it is in the batch's journal, on disk; then it is charged. So a line that a kill cuts short is done again and charged
//! once, and one that was written and not charged is charged at the next start. Each owner's batches run one after the other, the oldest first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::Response;
use batches::{Batch, BatchError, Charge, Form, Journal, Line, Lines, Record, Status, Store, StoreError, Written};
use futures_util::StreamExt;
use ledger::Tokens;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{Id, JoinError, JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::api::embeddings;
use crate::api::generate::{Endpoint, complete};
use crate::error::ApiError;
use crate::generation::batch_line::{Left, LineEndpoint, LineRequest, answered, failed, left, parse_line, validate};
use crate::http::access_log::{LogEntry, RequestLog};
use crate::http::api_keys::Account;
use crate::http::client::Client;
use crate::http::metering::Caller;
use crate::state::AppState;
use crate::words::now;

/// Bytes of a line's answer at most.
const ANSWER_BYTES_MAX: usize = 48 << 20;
/// How often the time and the server's end are looked at.
const TICK: Duration = Duration::from_millis(250);
/// Between tries while the disk or the ledger fails.
const RETRY: Duration = Duration::from_secs(5);
/// How often files and batches are looked over for those whose time is over.
const SWEEP: Duration = Duration::from_secs(60);
/// Longest wait after a refusal that says when to come again.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Results that are charged at once at a start.
const SETTLED_AT_ONCE: usize = 256;

/// Marks the request of a batch's line: it is computed in the background, has no time of its own, and costs a batch's price.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchLine;

/// Files and batches of a server, and how many lines it answers at once.
#[derive(Debug)]
pub struct Batches {
    pub(crate) store: Arc<Store>,
    places: Arc<Semaphore>,
    /// Batches came, or are to stop.
    changed: watch::Sender<()>,
    /// One batch's lines are looked at after the other's.
    validating: tokio::sync::Mutex<()>,
}

impl Batches {
    /// Batches of this store, `lines` of which are answered at once.
    pub fn new(store: Arc<Store>, lines: usize) -> Arc<Batches> {
        let places = Arc::new(Semaphore::new(lines.clamp(1, Semaphore::MAX_PERMITS)));
        Arc::new(Batches { store, places, changed: watch::Sender::new(()), validating: tokio::sync::Mutex::default() })
    }

    /// Batches came, or are to stop.
    pub(crate) fn tell(&self) {
        self.changed.send_replace(());
    }

    /// Works on the store where it may wait for the disk.
    ///
    /// # Errors
    /// The work's.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Store>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let store = Arc::clone(&self.store);
        let done = spawn_blocking(move || work(&store)).await;
        done.map_err(|_| ApiError::fault("a fault while working on batches"))?.map_err(ApiError::from)
    }
}

/// What an account is called in the store: those of a ledger by the ledger, too, so that what is kept of them is known when they are deleted.
pub(crate) fn owner(account: &Account) -> String {
    match account.ledger {
        Some(ledger) => format!("{ledger}{:016x}", account.id),
        None => format!("{:016x}", account.id),
    }
}

/// What a task of `run` is about: a batch, and its owner where the owner's other batches wait for it.
type Driven = (String, Option<String>);

/// Runs batches until the server shuts down and their lines in flight are done: what is left goes on at the next start.
pub async fn run(state: Arc<AppState>) {
    let Some(batches) = state.batches.clone() else { return };
    let (mut changed, mut tick) = (batches.changed.subscribe(), interval(TICK));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut tasks, mut driven): (JoinSet<()>, HashMap<Id, Driven>) = Default::default();
    let mut swept: Option<Instant> = None;
    while !state.admission.shutting_down() {
        if swept.is_none_or(|swept| swept.elapsed() >= SWEEP) {
            swept = Some(Instant::now());
            // What is wrong is in the log.
            let _ = batches.work(|store| store.sweep(now())).await;
        }
        for id in batches.store.unfinished() {
            let Ok(batch) = batches.store.get(&id) else { continue };
            let (owner, looked_at) = (batch.owner.clone(), batch.status == Status::Validating);
            let waits = !looked_at && !stops(&batch);
            let taken = |(other, of): &Driven| *other == id || waits && of.as_ref() == Some(&owner);
            if !driven.values().any(taken) {
                let task = tasks.spawn(drive(Arc::clone(&state), id.clone(), looked_at));
                driven.insert(task.id(), (id, waits.then_some(owner)));
            }
        }
        tokio::select! {
            Some(done) = tasks.join_next_with_id(), if !tasks.is_empty() => {
                driven.remove(&done.map_or_else(|error| error.id(), |(id, ())| id));
            }
            _ = changed.changed() => {}
            _ = tick.tick() => {}
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// Does what is next for a batch.
async fn drive(state: Arc<AppState>, id: String, looked_at: bool) {
    let outcome = if looked_at { look_at(&state, &id).await } else { go_on(&state, &id).await };
    if let Err(error) = outcome {
        give_up(&state, &id, &error).await;
    }
}

/// Whether a batch is to stop before all its lines are answered.
fn stops(batch: &Batch) -> bool {
    let Batch { status, errors, expires_at, .. } = batch;
    matches!(status, Status::Cancelling | Status::Finalizing) || !errors.is_empty() || now() >= *expires_at
}

/// A batch that cannot go on fails where its lines or results are not as they were written, and is tried again where the disk fails.
async fn give_up(state: &AppState, id: &str, error: &StoreError) {
    tracing::error!(target: "farthing", batch = id, %error, "a batch cannot go on at present");
    let Some(batches) = state.batches.as_ref().filter(|_| matches!(error, StoreError::Damaged { .. })) else {
        return sleep(RETRY).await;
    };
    let (id, message) = (id.to_string(), "what the server keeps of this batch is damaged");
    let code = "storage_damaged".to_string();
    let error = BatchError { code, message: message.to_string(), param: None, line: None };
    let end = |batch: &mut Batch| {
        (batch.status, batch.ended_at) = (Status::Failed, Some(now()));
        batch.errors.push(error);
    };
    let _ = batches.work(move |store| store.change(&id, end)).await;
}

/// Finds out whether a batch's lines are requests.
async fn look_at(state: &Arc<AppState>, id: &str) -> Result<(), StoreError> {
    let Some(batches) = &state.batches else { return Ok(()) };
    let _one = batches.validating.lock().await;
    let (models, store, id) = (Arc::clone(&state.models), Arc::clone(&batches.store), id.to_string());
    blocking(move || {
        let batch = store.get(&id)?;
        let known = |model: Option<&str>| models.describe(model).map(drop).map_err(|error| error.to_string());
        let failed = |source| StoreError::Disk { path: id.as_str().into(), source };
        let looked = validate(store.lines(&id)?, endpoint(&batch)?, known).map_err(failed)?;
        if looked.errors.is_empty() {
            store.change(&id, |batch| {
                (batch.counts.total, batch.in_progress_at) = (looked.total, Some(now()));
                if batch.status == Status::Validating {
                    batch.status = Status::InProgress;
                }
            })?;
        } else {
            store.finish(
                &id,
                now(),
                |_| String::new(),
                |batch| {
                    (batch.status, batch.ended_at, batch.errors) = (Status::Failed, Some(now()), looked.errors);
                },
            )?;
        }
        Ok(())
    })
    .await
}

/// Goes on with a batch, to its end or that of the server.
async fn go_on(state: &Arc<AppState>, id: &str) -> Result<(), StoreError> {
    let Some(batches) = &state.batches else { return Ok(()) };
    let batch = batches.store.get(id)?;
    let endpoint = endpoint(&batch)?;
    let mut under_way = UnderWay::begin(state, batches, batch, endpoint).await?;
    if !under_way.answer_lines().await? {
        return Ok(());
    }
    under_way.finish().await
}

/// The endpoint of a batch's lines.
fn endpoint(batch: &Batch) -> Result<LineEndpoint, StoreError> {
    let why = || format!("{:?} answers no batches", batch.endpoint);
    LineEndpoint::of(batch).ok_or_else(|| StoreError::Damaged { path: batch.id.clone().into(), why: why() })
}

/// Runs blocking work, and passes a panic on.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A line that is to be answered.
#[derive(Clone, Debug)]
struct Job {
    line: usize,
    request: Arc<LineRequest>,
}

/// What came of a line.
enum Outcome {
    /// A result, which is delivered when it is written; its log ends then.
    Done(Box<Record>, Option<RequestLog>),
    /// It is to be tried again, so much later.
    Later(Duration),
    /// The account has not enough for it.
    Spent(Box<Record>),
    /// The key may not ask any more.
    NoKey,
}

/// A batch whose lines are answered.
struct UnderWay<'a> {
    state: &'a Arc<AppState>,
    batches: &'a Arc<Batches>,
    batch: Batch,
    endpoint: LineEndpoint,
    journal: Option<Journal>,
    /// Places of lines that have results, and how many of these are good and bad.
    done: HashSet<usize>,
    completed: usize,
    failed: usize,
    lines: Option<Lines>,
    /// Lines that are tried again.
    again: VecDeque<Job>,
    tasks: JoinSet<Outcome>,
    in_flight: HashMap<Id, Job>,
    /// Nothing begins before.
    not_before: Instant,
    /// Nothing begins before one ends: what is reserved for those in flight may be what others lack.
    held: bool,
}

impl<'a> UnderWay<'a> {
    /// Opens its journal, and charges what an earlier run has written and may not have charged.
    async fn begin(
        state: &'a Arc<AppState>,
        batches: &'a Arc<Batches>,
        batch: Batch,
        endpoint: LineEndpoint,
    ) -> Result<UnderWay<'a>, StoreError> {
        let (store, id) = (Arc::clone(&batches.store), batch.id.clone());
        let opened = move || Ok::<_, StoreError>((store.journal(&id)?, store.lines(&id)?));
        let ((journal, written), lines) = blocking(opened).await?;
        let completed = written.iter().filter(|written| written.ok).count();
        let done: HashSet<usize> = written.iter().map(|written| written.line).collect();
        if let Some(metering) = &state.admission.access.metering {
            let charges = written.into_iter().filter_map(|written| written.charge);
            let settle = |Charge { request, hit, miss, output, reasoning }| async move {
                metering.settle(&request, Tokens { hit, miss, output, reasoning }).await;
            };
            futures_util::stream::iter(charges).for_each_concurrent(SETTLED_AT_ONCE, settle).await;
        }
        let failed = done.len() - completed;
        batches.store.count(&batch.id, &journal, completed, failed);
        let (journal, lines) = (Some(journal), Some(lines));
        let (again, tasks, in_flight) = (VecDeque::new(), JoinSet::new(), HashMap::new());
        let not_before = Instant::now();
        let held = false;
        Ok(UnderWay {
            state,
            batches,
            batch,
            endpoint,
            journal,
            done,
            completed,
            failed,
            lines,
            again,
            tasks,
            in_flight,
            not_before,
            held,
        })
    }

    /// Answers lines until all have results, the batch is to stop, or the server ends; false in this case.
    async fn answer_lines(&mut self) -> Result<bool, StoreError> {
        let (mut changed, mut tick) = (self.batches.changed.subscribe(), interval(TICK));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.batch = self.batches.store.get(&self.batch.id)?;
            if stops(&self.batch) {
                // Dropped is cancelled: nothing of them is written or charged.
                self.tasks.shutdown().await;
                return Ok(true);
            }
            let ending = self.state.admission.shutting_down();
            let begins = !ending && !self.held && Instant::now() >= self.not_before;
            if begins && self.again.is_empty() {
                self.read_line().await?;
            }
            if self.tasks.is_empty() && (ending || begins && self.again.is_empty()) {
                return Ok(!ending);
            }
            let places = Arc::clone(&self.batches.places);
            tokio::select! {
                biased;
                Some(done) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => self.ended(done).await?,
                Ok(place) = places.acquire_owned(), if begins && !self.again.is_empty() => self.start(place).await?,
                _ = changed.changed() => {}
                _ = tick.tick() => {}
            }
        }
    }

    /// Reads the next line that has no result.
    async fn read_line(&mut self) -> Result<(), StoreError> {
        let Some(mut lines) = self.lines.take() else { return Ok(()) };
        let (done, endpoint, id) = (std::mem::take(&mut self.done), self.endpoint, self.batch.id.clone());
        let next = move || {
            let found = loop {
                match lines.next_line() {
                    Ok(Some(line)) if done.contains(&line.index) => {}
                    other => break other,
                }
            };
            (lines, done, found)
        };
        let (lines, done, found) = blocking(next).await;
        self.done = done;
        let damaged = |why: String| StoreError::Damaged { path: id.as_str().into(), why };
        if let Some(line) = found.map_err(|error| damaged(error.to_string()))? {
            // It was looked at when the batch began.
            let request = parse_line(&line.bytes, endpoint).map_err(|error| damaged(error.message))?;
            self.again.push_back(Job { line: line.index, request: Arc::new(request) });
            self.lines = Some(lines);
        }
        Ok(())
    }

    /// Begins to answer the next line.
    async fn start(&mut self, place: OwnedSemaphorePermit) -> Result<(), StoreError> {
        let Some(job) = self.again.pop_front() else { return Ok(()) };
        if let Err(full) = self.batches.store.check_room(&self.batch.owner) {
            let text = failed(self.batch.form, &job.request.custom_id, &ApiError::from(full));
            let written = Written { line: job.line, ok: false, charge: None };
            return self.write(vec![(Record { written, text }, None)]).await;
        }
        let (state, batch, endpoint) = (Arc::clone(self.state), self.batch.clone(), self.endpoint);
        let asked = job.clone();
        let task = self.tasks.spawn(async move {
            let outcome = answer(&state, &batch, endpoint, &asked).await;
            drop(place);
            outcome
        });
        self.in_flight.insert(task.id(), job);
        Ok(())
    }

    /// Lines have ended: results are written, others are tried again.
    async fn ended(&mut self, first: Result<(Id, Outcome), JoinError>) -> Result<(), StoreError> {
        let (mut next, mut results) = (Some(first), Vec::new());
        self.held = false;
        while let Some(ended) = next {
            let id = match &ended {
                Ok((id, _)) => *id,
                Err(error) => error.id(),
            };
            if let Some(job) = self.in_flight.remove(&id) {
                let fault = |_| Outcome::Done(Box::new(fault_of(self.batch.form, &job)), None);
                match ended.map_or_else(fault, |(_, outcome)| outcome) {
                    Outcome::Done(record, log) => results.push((*record, log)),
                    Outcome::Spent(record) if self.tasks.is_empty() => results.push((*record, None)),
                    Outcome::Spent(_) => {
                        self.again.push_front(job);
                        self.held = true;
                    }
                    Outcome::Later(wait) => {
                        self.again.push_front(job);
                        self.not_before = self.not_before.max(Instant::now() + wait.min(WAIT_MAX));
                    }
                    Outcome::NoKey => {
                        self.again.push_front(job);
                        self.fail("invalid_api_key", "the key of this batch is revoked, expired or deleted").await?;
                    }
                }
            }
            next = self.tasks.try_join_next_with_id();
        }
        self.held &= !self.tasks.is_empty();
        self.write(results).await
    }

    /// The batch stops with an error.
    async fn fail(&mut self, code: &str, message: &str) -> Result<(), StoreError> {
        let error = BatchError { code: code.to_string(), message: message.to_string(), param: None, line: None };
        let (store, id) = (Arc::clone(&self.batches.store), self.batch.id.clone());
        let change = |batch: &mut Batch| {
            if batch.errors.is_empty() {
                batch.errors.push(error);
            }
        };
        blocking(move || store.change(&id, change).map(drop)).await
    }

    /// Writes results down, however long that takes: from then on they are delivered.
    async fn write(&mut self, results: Vec<(Record, Option<RequestLog>)>) -> Result<(), StoreError> {
        if results.is_empty() {
            return Ok(());
        }
        let (mut records, logs): (Vec<Record>, Vec<Option<RequestLog>>) = results.into_iter().unzip();
        loop {
            let Some(mut journal) = self.journal.take() else { return Ok(()) };
            let append = move || (journal.append(&records), journal, records);
            let (outcome, journal, same) = blocking(append).await;
            self.journal = Some(journal);
            records = same;
            match outcome {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(target: "farthing", batch = self.batch.id, %error, "results of a batch cannot be written; trying again");
                    sleep(RETRY).await;
                }
            }
        }
        logs.iter().flatten().for_each(RequestLog::flushed);
        // Ends them, which charges them.
        drop(logs);
        for Record { written, .. } in &records {
            self.done.insert(written.line);
            *if written.ok { &mut self.completed } else { &mut self.failed } += 1;
        }
        if let Some(journal) = &self.journal {
            self.batches.store.count(&self.batch.id, journal, self.completed, self.failed);
        }
        Ok(())
    }

    /// Puts the results together, when all that was delivered is in the books.
    async fn finish(mut self) -> Result<(), StoreError> {
        let (store, id) = (Arc::clone(&self.batches.store), self.batch.id.clone());
        // Closed before it is read by its name.
        drop(self.journal.take());
        let finalizing = move || {
            store.change(&id, |batch| {
                batch.finalizing_at = batch.finalizing_at.or(Some(now()));
                if batch.status == Status::InProgress {
                    batch.status = Status::Finalizing;
                }
            })
        };
        let batch = blocking(finalizing).await?;
        if let Some(metering) = &self.state.admission.access.metering {
            while !metering.flush().await {
                if self.state.admission.shutting_down() {
                    return Ok(());
                }
                sleep(RETRY).await;
            }
        }
        let (store, endpoint, results) =
            (Arc::clone(&self.batches.store), self.endpoint, (self.completed, self.failed));
        blocking(move || end(&store, &batch, endpoint, results)).await?;
        Ok(())
    }
}

/// Ends a batch: lines without results get the reason.
fn end(store: &Store, batch: &Batch, endpoint: LineEndpoint, results: (usize, usize)) -> Result<(), StoreError> {
    let why = match batch {
        Batch { errors, .. } if !errors.is_empty() => Left::Failed,
        Batch { cancelling_at: Some(_), .. } => Left::Cancelled,
        _ => Left::Expired,
    };
    let others = std::cell::Cell::new(0);
    let rest = |line: &Line| {
        others.set(others.get() + 1);
        let custom_id = parse_line(&line.bytes, endpoint).map_or_else(|_| String::new(), |request| request.custom_id);
        left(batch.form, &custom_id, why)
    };
    store.finish(&batch.id, now(), rest, |batch| {
        (batch.counts.completed, batch.counts.failed) = results;
        batch.ended_at = Some(now());
        batch.status = match why {
            Left::Failed => Status::Failed,
            Left::Cancelled => Status::Cancelled,
            Left::Expired if others.get() == 0 => Status::Completed,
            Left::Expired => Status::Expired,
        };
        match why {
            Left::Failed => batch.counts.failed += others.get(),
            Left::Cancelled => batch.counts.cancelled = others.get(),
            Left::Expired => batch.counts.expired = others.get(),
        }
    })?;
    Ok(())
}

/// The result of a line whose task panicked.
fn fault_of(form: Form, job: &Job) -> Record {
    let text = failed(form, &job.request.custom_id, &ApiError::fault("a fault while this line was answered"));
    Record { written: Written { line: job.line, ok: false, charge: None }, text }
}

/// Whom a batch's requests count for; `None` where its key may not ask any more.
async fn identity(state: &AppState, batch: &Batch) -> Result<Option<(Account, Option<Caller>)>, ApiError> {
    let found = match (&state.admission.access.metering, &batch.key) {
        (Some(metering), Some(key)) => {
            let caller = metering.caller_of(key).await?;
            caller.and_then(|caller| Some((caller.account()?, Some(caller))))
        }
        (Some(_), None) => None,
        (None, _) => {
            let id = u64::from_str_radix(&batch.owner, 16).ok();
            id.and_then(|id| state.admission.access.keys.account_of(id)).map(|account| (account, None))
        }
    };
    Ok(found.filter(|(account, _)| owner(account) == batch.owner))
}

/// Answers a line.
async fn answer(state: &Arc<AppState>, batch: &Batch, endpoint: LineEndpoint, job: &Job) -> Outcome {
    let Job { line, request } = job;
    let (account, caller) = match identity(state, batch).await {
        Ok(Some(identity)) => identity,
        Ok(None) => return Outcome::NoKey,
        Err(_) => return Outcome::Later(RETRY),
    };
    // In the ledger and the log the line is found by it.
    let id = format!("{}-{}", batch.id, line + 1);
    let entry = LogEntry {
        id: id.clone(),
        method: "POST".to_string(),
        path: endpoint.path().to_string(),
        route: Some("/v1/batches".to_string()),
        account: Some(account),
        ..LogEntry::default()
    };
    let log = RequestLog::new(entry, Arc::clone(&state.metrics), state.admission.active.clone());
    log.update(|stats| stats.background = true);
    let body = match serde_json::to_vec(&request.body) {
        Ok(body) => body,
        Err(_) => return Outcome::Done(Box::new(fault_of(batch.form, job)), None),
    };
    let mut asked = Request::new(Body::from(body));
    *asked.method_mut() = axum::http::Method::POST;
    *asked.uri_mut() = axum::http::Uri::from_static(endpoint.path());
    asked.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    let extensions = asked.extensions_mut();
    extensions.insert(BatchLine);
    extensions.insert(account);
    extensions.insert(Client::new(Some(&account), Client::unknown().address));
    extensions.insert(log.clone());
    if let Some(caller) = caller {
        extensions.insert(caller);
    }
    let response = respond(state, endpoint, asked).await;
    log.change(|entry| entry.status = Some(response.status().as_u16()));
    outcome(batch.form, job, (&id, log), response).await
}

async fn respond(state: &Arc<AppState>, endpoint: LineEndpoint, asked: Request) -> Response {
    let state = Arc::clone(state);
    match endpoint {
        LineEndpoint::Chat => complete(state, asked, Endpoint::Chat).await,
        LineEndpoint::Completions => complete(state, asked, Endpoint::Completion).await,
        LineEndpoint::Responses => complete(state, asked, Endpoint::Responses).await,
        LineEndpoint::Messages => complete(state, asked, Endpoint::Messages).await,
        LineEndpoint::Embeddings => embeddings::embed(state, asked, embeddings::Form::OpenAi).await,
    }
}

/// The refusal was heard, and delivered nothing.
fn tell_refused(log: &RequestLog) {
    log.taken(0, false, true);
    log.flushed();
}

/// What a response means for a line.
async fn outcome(form: Form, job: &Job, (id, log): (&str, RequestLog), response: Response) -> Outcome {
    let (status, custom_id) = (response.status(), &job.request.custom_id);
    let wait = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
    let again = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    if let Some(seconds) = wait.filter(|_| again && log.error() != Some("model_failed")) {
        tell_refused(&log);
        return Outcome::Later(Duration::from_secs(seconds));
    }
    if status == StatusCode::UNAUTHORIZED {
        tell_refused(&log);
        return Outcome::NoKey;
    }
    let body = to_bytes(response.into_body(), ANSWER_BYTES_MAX).await.ok();
    let body = body.as_ref().and_then(|body| std::str::from_utf8(body).ok());
    // One that is too large was computed, and is charged.
    let computed = status == StatusCode::OK;
    let ok = computed && body.is_some();
    let text = match body {
        Some(body) => answered(form, custom_id, (status.as_u16(), id), body.trim()),
        None => {
            let message =
                format!("the answer has more than {ANSWER_BYTES_MAX} bytes, and is charged; ask for less in a line");
            failed(form, custom_id, &ApiError::bad("answer_too_large", message))
        }
    };
    log.taken(text.len(), computed, true);
    let charge = log.charge().filter(|_| computed);
    let charge = charge.map(|(request, Tokens { hit, miss, output, reasoning })| Charge {
        request,
        hit,
        miss,
        output,
        reasoning,
    });
    let record = Box::new(Record { written: Written { line: job.line, ok, charge }, text });
    if status == StatusCode::PAYMENT_REQUIRED {
        tell_refused(&log);
        return Outcome::Spent(record);
    }
    Outcome::Done(record, Some(log))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::usage::Usage;
    use crate::http::metrics::Metrics;

    #[tokio::test]
    async fn an_answer_that_is_too_large_is_charged() {
        let metrics = Arc::new(Metrics::new());
        let request = LineRequest { custom_id: "a".to_string(), model: None, body: serde_json::Map::new() };
        let job = Job { line: 0, request: Arc::new(request) };
        for (bytes, ok, tokens) in [(2, true, 3), (ANSWER_BYTES_MAX + 1, false, 6)] {
            let log = RequestLog::new(LogEntry::default(), Arc::clone(&metrics), watch::channel(0).0);
            log.update(|stats| (stats.model, stats.completion_tokens) = (Some("m".to_string()), Some(3)));
            log.announce(Usage { completion: 3, ..Usage::default() });
            let response = Response::new(Body::from("1".repeat(bytes)));
            let Outcome::Done(record, log) = outcome(Form::OpenAi, &job, ("b-1", log), response).await else {
                panic!("it is done")
            };
            assert_eq!((record.written.ok, record.text.contains("answer_too_large")), (ok, !ok));
            log.iter().for_each(RequestLog::flushed);
            drop(log);
            let text = metrics.text(true);
            assert!(text.contains(&format!("farthing_generation_tokens_total{{model=\"m\"}} {tokens}\n")), "{text}");
        }
    }
}
