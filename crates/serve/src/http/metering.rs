//! Metering: keys of a ledger, and requests that reserve before they are served and are charged for what they delivered.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use ledger::{
    Allowance, Authenticated, Demand, Key, Ledger, LedgerError, Meter, Metered, Money, Noted, Price, PriceSheet, Rate,
    Refusal, Tokens,
};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::error::ApiError;
use crate::generation::batch_runner::BatchLine;
use crate::generation::usage::Usage;
use crate::http::access_log::RequestLog;
use crate::http::api_keys::{Account, LedgerTag, credentials};
use crate::state::AppState;

/// The books of a server, and the prices of its models.
pub struct Metering {
    ledger: Ledger,
    meter: Meter,
    prices: Option<PriceSheet>,
    /// All accounts find each other's cached prompts.
    shared_cache: bool,
    deleted: Notify,
}

/// The key of a request, in its extensions.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    key: Key,
    account: Account,
}

impl Caller {
    /// Whom its requests count for; an administrator has no account.
    pub(crate) fn account(&self) -> Option<Account> {
        (!self.key.admin).then_some(self.account)
    }

    /// Id of its key.
    pub(crate) fn key(&self) -> &str {
        &self.key.id
    }

    /// The id of the key, where it is an administrator's.
    pub(crate) fn administrator(&self) -> Option<String> {
        self.key.admin.then(|| self.key.id.clone())
    }
}

impl Metering {
    /// Meters by these books; a model without a price is free.
    pub fn new(ledger: Ledger, meter: Meter, prices: Option<PriceSheet>, shared_cache: bool) -> Metering {
        Metering { ledger, meter, prices, shared_cache, deleted: Notify::new() }
    }

    /// The books.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The price sheet, if there is one.
    pub(crate) fn prices(&self) -> Option<&PriceSheet> {
        self.prices.as_ref()
    }

    /// An account was deleted: what is kept of it goes at once.
    pub(crate) fn account_deleted(&self) {
        self.deleted.notify_one();
    }

    /// Waits until an account was deleted.
    pub(crate) async fn wait_deleted(&self) {
        self.deleted.notified().await;
    }

    /// Why the books cannot be written at present.
    pub fn trouble(&self) -> Option<String> {
        self.meter.trouble()
    }

    /// Waits until what was ordered is in the books, for ten seconds at most. Whether it is.
    pub async fn flush(&self) -> bool {
        self.meter.flush().await
    }

    /// As `flush`, when the server ends.
    pub async fn end(&self) {
        self.meter.flush().await;
        self.meter.leave().await;
    }

    /// Those of these models that the price sheet has no price for: they are free.
    pub fn unpriced(&self, models: &[String]) -> Vec<String> {
        let sheet = self.prices.as_ref();
        let unpriced =
            |model: &&String| sheet.is_some_and(|sheet| sheet.price(model, self.ledger.now(), false).is_none());
        models.iter().filter(unpriced).cloned().collect()
    }

    /// The key of this id, if it is still good: of a batch, whose requests come without its secret.
    pub(crate) async fn caller_of(&self, key: &str) -> Result<Option<Caller>, ApiError> {
        Ok(self.ledger.valid_key(key).await.map_err(unavailable)?.map(|found| self.caller_with(found)))
    }

    /// Charges what was delivered by a run of this server that did not come to it, unless it did.
    pub(crate) async fn settle(&self, request: &str, tokens: Tokens) {
        self.meter.settle(request, tokens, "done").await;
    }

    fn caller_with(&self, Authenticated { key, salt }: Authenticated) -> Caller {
        let account = Account::of_ledger(&key.account, salt, LedgerTag::of(&self.ledger));
        let account = if self.shared_cache { account.sharing() } else { account };
        Caller { key, account }
    }

    /// What tokens of a model cost now, in a batch or not, where there are prices.
    fn price(&self, model: &str, batch: bool) -> Option<Price> {
        self.prices.as_ref().and_then(|sheet| sheet.price(model, self.ledger.now(), batch))
    }

    /// The key that a request gives, if it is accepted.
    pub(crate) async fn caller(&self, headers: &HeaderMap) -> Result<Option<Caller>, ApiError> {
        for secret in credentials(headers) {
            if let Some(found) = self.ledger.authenticate(secret).await.map_err(unavailable)? {
                return Ok(Some(self.caller_with(found)));
            }
        }
        Ok(None)
    }
}

/// A request in flight, in its log.
#[derive(Debug)]
pub(crate) struct MeteredRequest {
    metered: Metered,
    /// What its tokens cost; `None` where there is no price sheet.
    price: Option<Price>,
    /// When the last note went out, and the one before: what is not in the books is younger than that.
    noted_at: Instant,
    noted_before: Instant,
    /// When the books last answered, and whether they are being asked.
    confirmed_at: Instant,
    confirming: bool,
}

/// How long an answer of the books holds: older ones are asked for again before more is delivered.
const CONFIRMED: Duration = Duration::from_secs(5);
/// Tokens after which a stream's progress is written down, and the time after which one is enough.
const NOTE_TOKENS: u64 = 16;
const NOTE_INTERVAL: Duration = Duration::from_millis(100);

impl MeteredRequest {
    /// What tokens cost, where there are prices.
    pub(crate) fn cost(&self, usage: &Usage) -> Option<Money> {
        self.price.map(|price| price.cost(&tokens(usage)))
    }

    /// Its id in the books, and what it is charged for this.
    pub(crate) fn charge(&self, usage: &Usage) -> (String, Tokens) {
        (self.metered.id().to_string(), tokens(usage))
    }

    /// Writes down what was delivered, every 16 tokens or 100 ms.
    pub(crate) fn delivered(&mut self, usage: &Usage) {
        let every = if self.noted_at.elapsed() >= NOTE_INTERVAL { 1 } else { NOTE_TOKENS };
        self.note(tokens(usage), every);
    }

    fn note(&mut self, delivered: Tokens, every: u64) {
        if self.metered.progress(delivered, every) {
            self.noted_before = std::mem::replace(&mut self.noted_at, Instant::now());
        }
    }

    /// Whether more may be delivered than was `taken`: not while 16 tokens or more, the first of them longer than 100 ms ago, are not in the books, nor
    /// while they do not answer.
    ///
    /// # Errors
    /// The request is not in flight any more.
    pub(crate) fn poll_ready(&mut self, taken: &Usage, task: &mut Context<'_>) -> Poll<Result<(), ApiError>> {
        let unnoted = tokens(taken).all().saturating_sub(self.metered.noted().all());
        let late = unnoted >= NOTE_TOKENS && self.noted_before.elapsed() >= NOTE_INTERVAL;
        if late {
            self.note(Tokens::default(), 1);
        }
        if self.confirmed_at.elapsed() > CONFIRMED && !self.confirming {
            self.confirming = true;
            self.metered.confirm();
        }
        match self.metered.poll_noted(task) {
            Poll::Ready(Noted::Written) => {
                (self.confirmed_at, self.confirming) = (Instant::now(), false);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Noted::Gone) => {
                let message = "the account of this request was deleted, or its server was taken for dead";
                Poll::Ready(Err(ApiError::new(StatusCode::FORBIDDEN, "account_gone", message)))
            }
            Poll::Pending if late || self.confirming => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    /// Ends it and charges what was delivered.
    pub(crate) fn close(self, usage: &Usage, status: &str) {
        self.metered.close(tokens(usage), status);
    }
}

fn tokens(usage: &Usage) -> Tokens {
    Tokens {
        hit: usage.cached.min(usage.prompt) as u64,
        miss: usage.prompt.saturating_sub(usage.cached) as u64,
        output: usage.completion as u64,
        reasoning: usage.reasoning as u64,
    }
}

/// What a request may take: tokens of its prompts, and the longest answer of each of its choices.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Size {
    pub(crate) prompt: usize,
    pub(crate) output: usize,
    /// The client named `output`.
    pub(crate) named: bool,
    pub(crate) choices: usize,
}

/// What was reserved for a request.
#[derive(Debug, Default)]
pub(crate) struct Reserved {
    /// Longest answer of each choice; `None`: as asked.
    pub(crate) output: Option<usize>,
    /// Headers of its response.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Refuses what the request's key cannot have, before anything is loaded or computed for it: a model or a path that it is not for, and any where not even a
/// token of a prompt would be served.
///
/// # Errors
/// The key is for others, or nothing is left of its limits or balance; the books cannot be read.
pub(crate) async fn check(state: &AppState, head: &Parts, model: Option<&str>) -> Result<(), ApiError> {
    let (Some(metering), Some(caller)) = (&state.admission.access.metering, head.extensions.get::<Caller>()) else {
        return Ok(());
    };
    // A model that is not known is told so elsewhere.
    let Ok((model, _)) = state.models.describe(model) else { return Ok(()) };
    caller.key.limits.check_scopes(&model.name, head.uri.path()).map_err(refused)?;
    let least = Demand {
        request: String::new(),
        key: caller.key.id.clone(),
        endpoint: head.uri.path().to_string(),
        model: model.name.clone(),
        price: metering.price(&model.name, false).unwrap_or(Price::FREE),
        prompt: 1,
        output: 0,
        named: false,
        choices: 0,
    };
    match metering.ledger.refusal(&least).await.map_err(unavailable)? {
        Some(refusal) => Err(refused(refusal)),
        None => Ok(()),
    }
}

/// Refuses a key that is for other paths of the API than `endpoint`, where nothing is computed.
///
/// # Errors
/// The key is for others.
pub(crate) fn check_endpoint(head: &Parts, endpoint: &str) -> Result<(), ApiError> {
    let Some(Caller { key, .. }) = head.extensions.get::<Caller>() else { return Ok(()) };
    let allowed = &key.limits.endpoints;
    if allowed.is_empty() || allowed.iter().any(|one| one == endpoint) {
        return Ok(());
    }
    Err(refused(Refusal::Endpoint { endpoint: endpoint.to_string(), allowed: allowed.join(", ") }))
}

/// Reserves the most that a request may take, in the ledger where there is one. Its log ends it.
///
/// # Errors
/// The key's limits, budgets or balance do not hold it; the books cannot be written.
pub(crate) async fn reserve(state: &AppState, head: &Parts, model: &str, size: Size) -> Result<Reserved, ApiError> {
    let Some(metering) = &state.admission.access.metering else { return Ok(Reserved::default()) };
    let (Some(caller), Some(log)) = (head.extensions.get::<Caller>(), head.extensions.get::<RequestLog>()) else {
        return Err(ApiError::fault("a request without a key"));
    };
    let price = metering.price(model, head.extensions.get::<BatchLine>().is_some());
    let demand = Demand {
        request: log.id(),
        key: caller.key.id.clone(),
        endpoint: head.uri.path().to_string(),
        model: model.to_string(),
        price: price.unwrap_or(Price::FREE),
        prompt: size.prompt as u64,
        output: size.output as u64,
        named: size.named,
        choices: size.choices as u64,
    };
    let metered = metering.meter.reserve(demand).await.map_err(unavailable)?.map_err(refused)?;
    let headers = allowance(&metered.reservation().allowance);
    let output = metered.reservation().output as usize;
    let now = Instant::now();
    log.meter(MeteredRequest {
        metered,
        price,
        noted_at: now,
        noted_before: now,
        confirmed_at: now,
        confirming: false,
    });
    Ok(Reserved { output: (output < size.output).then_some(output), headers })
}

pub(crate) fn unavailable(error: LedgerError) -> ApiError {
    // The meter says it once, at the level of errors.
    tracing::debug!(target: "farthing", %error, "a request is refused");
    let message = "the ledger of this server cannot be written at present, and nothing is served unmetered; try again";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "ledger_unavailable", message)
}

fn refused(refusal: Refusal) -> ApiError {
    let message = refusal.to_string();
    let seconds = |ms: u64| ms.div_ceil(1000).max(1);
    let error = |status, code| ApiError::new(status, code, message.clone());
    let spent = |wait_ms: Option<u64>| ApiError {
        retry: wait_ms.map(seconds),
        ..error(StatusCode::PAYMENT_REQUIRED, "insufficient_quota")
    };
    match refusal {
        Refusal::Key => error(StatusCode::UNAUTHORIZED, "invalid_api_key"),
        Refusal::Model { .. } => error(StatusCode::FORBIDDEN, "model_not_allowed").of("model"),
        Refusal::Endpoint { .. } => error(StatusCode::FORBIDDEN, "endpoint_not_allowed"),
        Refusal::Concurrency { .. } => error(StatusCode::TOO_MANY_REQUESTS, "concurrency_exceeded"),
        Refusal::Requests { limit, wait_ms } => {
            let headers = headers(rate("requests", &Rate { limit, remaining: 0, reset_ms: wait_ms }));
            ApiError {
                retry: Some(seconds(wait_ms)),
                headers,
                ..error(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded")
            }
        }
        Refusal::Tokens { limit, wait_ms } => {
            let headers = headers(rate("tokens", &Rate { limit, remaining: 0, reset_ms: wait_ms }));
            ApiError {
                retry: Some(seconds(wait_ms)),
                headers,
                ..error(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded")
            }
        }
        Refusal::Prompt { .. } => {
            ApiError { retry: None, ..error(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded") }
        }
        Refusal::TokenBudget { wait_ms, .. } | Refusal::MoneyBudget { wait_ms, .. } => spent(wait_ms),
        Refusal::Balance { .. } => spent(None),
    }
}

fn headers(headers: [(HeaderName, HeaderValue); 3]) -> Option<Box<HeaderMap>> {
    Some(Box::new(headers.into_iter().collect()))
}

/// OpenAI's headers of what a key may still do.
fn allowance(allowance: &Allowance) -> Vec<(HeaderName, HeaderValue)> {
    let of = |kind, given: &Option<Rate>| given.as_ref().map(|given| rate(kind, given)).into_iter().flatten();
    of("requests", &allowance.requests).chain(of("tokens", &allowance.tokens)).collect()
}

fn rate(kind: &str, rate: &Rate) -> [(HeaderName, HeaderValue); 3] {
    let name =
        |what: &str| HeaderName::from_bytes(format!("x-ratelimit-{what}-{kind}").as_bytes()).expect("a header's name");
    let reset = format!("{}.{:03}s", rate.reset_ms / 1000, rate.reset_ms % 1000);
    [
        (name("limit"), rate.limit.into()),
        (name("remaining"), rate.remaining.into()),
        (name("reset"), HeaderValue::from_str(&reset).expect("digits")),
    ]
}

/// The names of these headers, which web pages may read.
pub(crate) fn rate_headers() -> impl Iterator<Item = HeaderName> {
    let none = Rate { limit: 0, remaining: 0, reset_ms: 0 };
    ["requests", "tokens"].into_iter().flat_map(move |kind| rate(kind, &none)).map(|(name, _)| name)
}

/// The books of a server that has some.
///
/// # Errors
/// No ledger.
pub(crate) fn of(state: &AppState) -> Result<&Arc<Metering>, ApiError> {
    let message = "this server keeps no ledger; `--ledger` names one";
    let none = || ApiError::new(StatusCode::NOT_FOUND, "no_ledger", message);
    state.admission.access.metering.as_ref().ok_or_else(none)
}

/// The books, and the id of the key of a request.
///
/// # Errors
/// No ledger, or a request without a key of it.
pub(crate) fn own_key<'a>(state: &'a AppState, head: &Parts) -> Result<(&'a Metering, String), ApiError> {
    let metering = of(state)?;
    let message = "send the key that is asked about";
    let none = || ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message);
    Ok((metering, head.extensions.get::<Caller>().map(|caller| caller.key.id.clone()).ok_or_else(none)?))
}

/// `GET /user/balance` in DeepSeek's form. An account that is only metered has nothing to spend and may go on.
///
/// # Errors
/// No ledger, or it cannot be read.
pub(crate) async fn balance(state: &AppState, head: &Parts) -> Result<Value, ApiError> {
    let (metering, key) = own_key(state, head)?;
    let ledger = metering.ledger();
    let key = ledger.key(&key).await.map_err(unavailable)?;
    let account = ledger.account(&key.account).await.map_err(unavailable)?;
    let available = !account.prepaid || account.balance().minus(account.reserved) > Money::ZERO;
    Ok(json!({
        "is_available": available,
        "balance_infos": [{
            "currency": metering.ledger.currency(),
            "total_balance": account.balance().to_string(),
            "granted_balance": account.granted.to_string(),
            "topped_up_balance": account.topped_up.to_string(),
        }],
    }))
}
