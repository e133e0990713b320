//! Access log: collects a request's id, status, token counts and times; writes one log line and updates the metrics when its response ends.
//!
//! The middleware puts a `RequestLog` into the request's extensions, and handlers add to it. It is written when its last holder drops it: the handler, or
//! the connection, which keeps it until the response was handed to the socket. It never holds prompts, answers or keys.
//!
//! Tokens count when they are delivered. A handler announces those that the next piece of the body completes; they are taken when the connection takes that
//! piece, and delivered when all that the connection took was written to the socket. A large piece is handed over in parts: all of it counts for a client
//! that leaves once the first part was written, as an answer's text comes before its log-probabilities.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ledger::{Money, Tokens};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::ApiError;
use crate::generation::usage::{RequestStats, Usage};
use crate::http::api_keys::Account;
use crate::http::metering::MeteredRequest;
use crate::http::metrics::Metrics;

#[derive(Debug, Default)]
pub(crate) struct LogEntry {
    pub id: String,
    pub method: String,
    pub path: String,
    /// Route as the router writes it: a bounded set of labels.
    pub route: Option<String>,
    pub account: Option<Account>,
    pub status: Option<u16>,
    /// The whole response was handed to the socket.
    pub sent_whole: bool,
    pub stats: RequestStats,
}

/// Log entry of a request; clones share it.
#[derive(Clone, Debug)]
pub struct RequestLog(Arc<LoggedRequest>);

#[derive(Debug)]
struct LoggedRequest {
    started: Instant,
    entry: Mutex<LogEntry>,
    delivery: Mutex<Delivery>,
    /// In the books of a ledger.
    metered: Mutex<Option<MeteredRequest>>,
    metrics: Arc<Metrics>,
    active: watch::Sender<usize>,
}

/// How far a response has come.
#[derive(Debug, Default)]
struct Delivery {
    /// With the next piece of the body.
    announced: Usage,
    /// With the pieces that the connection has taken.
    taken: Usage,
    /// With what was written to the socket.
    delivered: Usage,
    /// As `taken`, with a piece whose first part was.
    begun: Usage,
    /// As `delivered`, with a piece whose first part was: what a request that ends is charged for.
    charged: Usage,
    /// Of the prompts, what was read of them, whatever came of it.
    read: Usage,
    /// The first part of a piece is held: the others wait until it is written.
    parted: bool,
    /// The connection has taken all.
    taken_whole: bool,
    /// Bytes that the connection has taken and not written.
    bytes_held: usize,
    /// Of the body, which waits until more is written.
    waker: Option<Waker>,
}

/// What a connection may hold before it is written: further tokens and bytes wait.
const HELD_TOKENS_MAX: usize = 16;
pub(crate) const HELD_BYTES_MAX: usize = 64 << 10;
/// Bytes of the first part of a larger piece: few enough for the socket of a client that reads next to nothing.
pub(crate) const FIRST_BYTES_MAX: usize = 4 << 10;

impl RequestLog {
    pub(crate) fn new(entry: LogEntry, metrics: Arc<Metrics>, active: watch::Sender<usize>) -> RequestLog {
        active.send_modify(|n| *n += 1);
        let (started, entry, delivery) = (Instant::now(), Mutex::new(entry), Mutex::default());
        let metered = Mutex::default();
        RequestLog(Arc::new(LoggedRequest { started, entry, delivery, metered, metrics, active }))
    }

    /// Whether it is the log of the same request.
    pub(crate) fn is(&self, other: &RequestLog) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Changes the request's numbers.
    pub fn update(&self, change: impl FnOnce(&mut RequestStats)) {
        self.change(|entry| change(&mut entry.stats));
    }

    /// Records the time of the first token, once.
    pub fn first_token(&self) {
        let elapsed = self.0.started.elapsed();
        self.0.entry.lock().stats.first_token.get_or_insert(elapsed);
    }

    /// The request is in flight in the books, which end with this log.
    pub(crate) fn meter(&self, metered: MeteredRequest) {
        *self.0.metered.lock() = Some(metered);
    }

    /// What tokens of this request cost, where it is metered and there are prices.
    pub(crate) fn cost(&self, usage: &Usage) -> Option<Money> {
        self.0.metered.lock().as_ref().and_then(|metered| metered.cost(usage))
    }

    /// Whether the books have kept up with what was delivered.
    ///
    /// # Errors
    /// The request is not in flight any more.
    pub(crate) fn poll_metered(&self, task: &mut Context<'_>) -> Poll<Result<(), ApiError>> {
        let taken = self.0.delivery.lock().taken;
        match self.0.metered.lock().as_mut() {
            Some(metered) => metered.poll_ready(&taken, task),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Its id in the books, and what it is charged once all that was taken is delivered.
    pub(crate) fn charge(&self) -> Option<(String, Tokens)> {
        let taken = self.0.delivery.lock().taken;
        self.0.metered.lock().as_ref().map(|metered| metered.charge(&taken))
    }

    /// The code of its error.
    pub(crate) fn error(&self) -> Option<&'static str> {
        self.0.entry.lock().stats.error
    }

    /// All tokens up to those that the next piece of the body completes.
    pub fn announce(&self, usage: Usage) {
        self.0.delivery.lock().announced = usage;
    }

    /// So much of the prompts was read, for a request that ends. It is charged whether or not an answer was delivered: the cache has it from now on.
    pub(crate) fn read(&self, prompt: usize, cached: usize) {
        self.0.delivery.lock().read = Usage { prompt, cached, ..Usage::default() };
    }

    /// The connection takes the first of several parts of a piece of the body.
    pub(crate) fn begins(&self) {
        let mut delivery = self.0.delivery.lock();
        (delivery.begun, delivery.parted) = (delivery.announced, true);
    }

    /// The connection has taken a piece of the body of some bytes, which completes what was announced or does not; `whole`: nothing follows.
    pub(crate) fn taken(&self, bytes: usize, completes: bool, whole: bool) {
        let mut delivery = self.0.delivery.lock();
        if completes {
            (delivery.taken, delivery.begun) = (delivery.announced, delivery.announced);
        }
        delivery.bytes_held = delivery.bytes_held.saturating_add(bytes);
        delivery.taken_whole |= whole;
    }

    /// Whether the connection may take more: not while it holds much that is not written to the socket. So a client that reads slowly gets no more than it
    /// pays for.
    pub(crate) fn poll_written(&self, task: &mut Context<'_>) -> Poll<()> {
        let mut delivery = self.0.delivery.lock();
        let tokens = delivery.taken.completion.saturating_sub(delivery.delivered.completion);
        if tokens < HELD_TOKENS_MAX && delivery.bytes_held < HELD_BYTES_MAX && !delivery.parted {
            return Poll::Ready(());
        }
        delivery.waker = Some(task.waker().clone());
        Poll::Pending
    }

    /// All that the connection has taken was written to the socket.
    pub(crate) fn flushed(&self) {
        let mut delivery = self.0.delivery.lock();
        let news = delivery.delivered != delivery.taken;
        (delivery.delivered, delivery.charged) = (delivery.taken, delivery.begun);
        (delivery.bytes_held, delivery.parted) = (0, false);
        if let Some(waker) = delivery.waker.take() {
            waker.wake();
        }
        if delivery.taken_whole {
            self.0.entry.lock().sent_whole = true;
        }
        if news && let Some(metered) = self.0.metered.lock().as_mut() {
            metered.delivered(&delivery.delivered);
        }
    }

    /// Id that the response carries in `x-request-id`.
    pub fn id(&self) -> String {
        self.0.entry.lock().id.clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut LogEntry)) {
        change(&mut self.0.entry.lock());
    }
}

impl Drop for LoggedRequest {
    fn drop(&mut self) {
        let total = self.started.elapsed();
        let (entry, delivery) = (self.entry.get_mut(), self.delivery.get_mut());
        let (mut charged, read) = (delivery.charged, delivery.read);
        if read.prompt > charged.prompt {
            (charged.prompt, charged.cached) = (read.prompt, read.cached);
        }
        if let Some(metered) = self.metered.get_mut().take() {
            let done = if entry.sent_whole { "done" } else { "client_disconnected" };
            metered.close(&charged, entry.stats.error.unwrap_or(done));
        }
        // What was generated and not delivered is not counted.
        if let Some(tokens) = &mut entry.stats.completion_tokens {
            *tokens = charged.completion;
        }
        // Counted first: a reader of the line finds it in the metrics.
        let status = entry.status.filter(|_| entry.sent_whole);
        self.metrics.request(entry.route.as_deref(), status, &entry.stats, total);
        write(entry, total);
        self.active.send_modify(|n| *n -= 1);
    }
}

fn write(entry: &LogEntry, total: Duration) {
    let seconds = |time: Option<Duration>| time.map(|t| (t.as_secs_f64() * 1e4).round() / 1e4);
    let RequestStats { model, prompt_tokens, completion_tokens, cached_tokens, .. } = &entry.stats;
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                target: "farthing",
                id = entry.id,
                method = entry.method,
                path = entry.path,
                outcome = if entry.sent_whole { "done" } else { "client_disconnected" },
                status = entry.status,
                error = entry.stats.error,
                finish = entry.stats.finish,
                model = model.as_deref(),
                account = entry.account.map(|a| format!("{:08x}", a.id >> 32)),
                prompt_tokens,
                cached_tokens,
                completion_tokens,
                queued_s = seconds(entry.stats.queued),
                first_token_s = seconds(entry.stats.first_token),
                total_s = seconds(Some(total)),
                "request"
            )
        };
    }
    // Probes come every few seconds.
    if ["/health", "/ready", "/metrics"].contains(&entry.path.as_str()) {
        line!(debug);
    } else {
        line!(info);
    }
    if !entry.stats.ignored.is_empty() {
        let names: Vec<String> = entry.stats.ignored.iter().map(|n| plain(n, 60)).collect();
        tracing::info!(target: "farthing", id = entry.id, tools = names.join(", "), "tools that cannot be called here were left out");
    }
    if !entry.stats.unknown.is_empty() {
        let names: Vec<String> = entry.stats.unknown.iter().take(20).map(|n| plain(n, 60)).collect();
        tracing::debug!(target: "farthing", id = entry.id, fields = names.join(", "), "fields were not known");
    }
}

/// Printable and truncated text, for the log.
pub(crate) fn plain(text: &str, most: usize) -> String {
    text.chars().take(most).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}
