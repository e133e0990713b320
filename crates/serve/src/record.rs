//! What is known of a request when it is done: one line in the log, and its part of the metrics.
//!
//! The gate makes a record and puts it into the request's extensions; routes only fill it. It is written when the last of its
//! holders lets go: the handler, and the body of the response. Prompts, answers and keys never go into it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::accounts::Account;
use crate::metrics::Metrics;

/// What routes tell.
#[derive(Clone, Debug, Default)]
pub struct Filled {
    /// Id of the model that answers.
    pub model: Option<String>,
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: Option<usize>,
    /// Tokens generated.
    pub completion_tokens: Option<usize>,
    /// Tokens of the prompt that were not computed again.
    pub cached_tokens: Option<usize>,
    /// Time in the queue.
    pub queued: Option<Duration>,
    /// Time for the prompt.
    pub prefill: Option<Duration>,
    /// Time for the tokens generated.
    pub decode: Option<Duration>,
    /// From the request's head to its first token; `Record::first_token` sets it.
    pub first_token: Option<Duration>,
    /// Why the text ended: `stop`, `length`, `tool_calls`, ...
    pub finish: Option<&'static str>,
    /// Code of the error, where it is one. No message: it may quote the request.
    pub error: Option<&'static str>,
    /// Names of fields that were not known; told at the level `debug`.
    pub unknown: Vec<String>,
}

/// What the gate knows.
#[derive(Debug)]
struct Known {
    id: String,
    method: String,
    path: String,
    /// The route as it is written in the router: a bounded set.
    route: Option<String>,
    account: Option<Account>,
    status: Option<u16>,
    /// All of the response went to the connection.
    whole: bool,
    filled: Filled,
}

/// A request's record; clones are the same one.
#[derive(Clone, Debug)]
pub struct Record(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    known: Mutex<Known>,
    metrics: Arc<Metrics>,
    active: watch::Sender<usize>,
}

impl Record {
    pub(crate) fn new(
        id: String,
        method: String,
        path: String,
        route: Option<String>,
        metrics: Arc<Metrics>,
        active: watch::Sender<usize>,
    ) -> Record {
        active.send_modify(|n| *n += 1);
        let filled = Filled::default();
        let known = Known { id, method, path, route, account: None, status: None, whole: false, filled };
        Record(Arc::new(Inner { started: Instant::now(), known: Mutex::new(known), metrics, active }))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tell more of the request.
    pub fn fill(&self, tell: impl FnOnce(&mut Filled)) {
        tell(&mut self.lock().filled);
    }

    /// The first token is there: now, unless it was before.
    pub fn first_token(&self) {
        let elapsed = self.0.started.elapsed();
        self.lock().filled.first_token.get_or_insert(elapsed);
    }

    /// The id that the response carries in `x-request-id`.
    pub fn id(&self) -> String {
        self.lock().id.clone()
    }

    pub(crate) fn account(&self, account: Account) {
        self.lock().account = Some(account);
    }

    pub(crate) fn status(&self, status: u16) {
        self.lock().status = Some(status);
    }

    pub(crate) fn whole(&self) {
        self.lock().whole = true;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let total = self.started.elapsed();
        let known = self.known.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Whoever reads the line finds it counted.
        count(&self.metrics, known, total);
        write(known, total);
        self.active.send_modify(|n| *n -= 1);
    }
}

/// `200`, or `left` where the client went before it had everything.
fn outcome(known: &Known) -> &'static str {
    if known.whole { "done" } else { "left" }
}

fn write(known: &Known, total: Duration) {
    let seconds = |time: Option<Duration>| time.map(|t| (t.as_secs_f64() * 1e4).round() / 1e4);
    let Filled { model, prompt_tokens, completion_tokens, cached_tokens, .. } = &known.filled;
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                target: "farthing",
                id = known.id,
                method = known.method,
                path = known.path,
                outcome = outcome(known),
                status = known.status,
                error = known.filled.error,
                finish = known.filled.finish,
                model = model.as_deref(),
                account = known.account.map(|a| format!("{:08x}", a.id >> 32)),
                prompt_tokens,
                cached_tokens,
                completion_tokens,
                queued_s = seconds(known.filled.queued),
                first_token_s = seconds(known.filled.first_token),
                total_s = seconds(Some(total)),
                "request"
            )
        };
    }
    // Probes come every few seconds and say the same.
    if ["/health", "/ready", "/metrics"].contains(&known.path.as_str()) {
        line!(debug);
    } else {
        line!(info);
    }
    if !known.filled.unknown.is_empty() {
        let names: Vec<String> = known.filled.unknown.iter().take(20).map(|n| plain(n, 60)).collect();
        tracing::debug!(target: "farthing", id = known.id, fields = names.join(", "), "fields were not known");
    }
}

/// Bounded and printable, for the log.
pub(crate) fn plain(text: &str, most: usize) -> String {
    text.chars().take(most).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

fn count(metrics: &Metrics, known: &Known, total: Duration) {
    let status = if known.whole { known.status } else { None };
    metrics.request(known.route.as_deref(), status, &known.filled, total);
}
