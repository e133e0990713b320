//! The routes: from a request's bytes to an answer's.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use engine::EngineError;
use engine::service::{self, Refused, Ticket};
use serde_json::{Value, json};
use text::chat::Context;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::answer::{Answer, Part};
use crate::validate::{self, Invalid, Prompt, Wanted};
use crate::wire::{self, Head, Kind, Usage};
use crate::{Served, State};

/// An answer that is an error.
pub struct Problem {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    param: Option<String>,
    message: String,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Problem {
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            s if s.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        Problem { status, kind, code, param: None, message: message.into() }
    }

    fn of_engine(error: &EngineError) -> Problem {
        match error {
            EngineError::TooLong { tokens, over, context } => Problem::new(
                StatusCode::BAD_REQUEST,
                "context_length_exceeded",
                format!(
                    "the prompt has {tokens} tokens, {over} more than the {context} that this server takes; shorten it"
                ),
            ),
            EngineError::Empty => Problem::new(
                StatusCode::BAD_REQUEST,
                "invalid_value",
                "prompt is \"\"; it must hold at least one token for this model",
            ),
            EngineError::Vocabulary { .. } => {
                Problem::new(StatusCode::BAD_REQUEST, "invalid_value", format!("prompt: {error}"))
            }
            other => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", other.to_string()),
        }
    }

    fn json(&self) -> Value {
        wire::error(self.kind, self.code, self.param.as_deref(), &self.message)
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Problem {
        let problem = Problem::new(StatusCode::BAD_REQUEST, invalid.code, invalid.message);
        Problem { param: invalid.param, ..problem }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.json())).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// All routes.
pub fn router(state: Arc<State>) -> Router {
    let mut router = Router::new().route("/health", get(health)).route("/ready", get(ready));
    for prefix in ["", "/v1"] {
        router = router
            .route(&format!("{prefix}/models"), get(models))
            .route(&format!("{prefix}/models/{{*id}}"), get(model))
            .route(&format!("{prefix}/chat/completions"), post(chat))
            .route(&format!("{prefix}/completions"), post(completions));
    }
    router.method_not_allowed_fallback(wrong_method).fallback(nothing_here).with_state(state)
}

const ROUTES: &str = "GET /health, /ready, /v1/models; POST /v1/chat/completions, /v1/completions";

async fn nothing_here(method: Method, uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::new(StatusCode::NOT_FOUND, "not_found", format!("{method} {path} is not served; there are {ROUTES}"))
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    let message = format!("{path} does not take {method}; there are {ROUTES}");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

async fn health() -> Response {
    axum::Json(json!({"status": "ok"})).into_response()
}

fn loaded(state: &State) -> Result<&Served, Problem> {
    let loading = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "loading", "the model is being loaded; try again");
    state.model().ok_or_else(loading)
}

async fn ready(Shared(state): Shared<Arc<State>>) -> Result<Response, Problem> {
    let model = loaded(&state)?;
    let (running, waiting) = model.service.load();
    let report = json!({"status": "ready", "model": model.name, "running": running, "waiting": waiting});
    Ok(axum::Json(report).into_response())
}

fn described(model: &Served) -> Value {
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "farthing",
        "context_length": model.service.limits().context,
    })
}

async fn models(Shared(state): Shared<Arc<State>>) -> Result<Response, Problem> {
    let model = loaded(&state)?;
    Ok(axum::Json(json!({"object": "list", "data": [described(model)]})).into_response())
}

fn named(served: &Served, name: &str) -> Result<(), Problem> {
    if name == served.name {
        return Ok(());
    }
    let name: String = name.chars().take(200).collect();
    let message = format!("model is {name:?}; this server has {:?}", served.name);
    let problem = Problem::new(StatusCode::NOT_FOUND, "model_not_found", message);
    Err(Problem { param: Some("model".to_string()), ..problem })
}

async fn model(Shared(state): Shared<Arc<State>>, Path(id): Path<String>) -> Result<Response, Problem> {
    let model = loaded(&state)?;
    named(model, &id)?;
    Ok(axum::Json(described(model)).into_response())
}

async fn chat(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    complete(state, request, Kind::Chat).await
}

async fn completions(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    complete(state, request, Kind::Text).await
}

/// The body, whole: JSON by its header, within the bounds of size and time.
async fn body(state: &State, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let kind: String = kind.chars().take(100).collect();
        let message = format!(
            "the content type is {kind:?}; it must be application/json (curl: -H 'Content-Type: application/json')"
        );
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    let most = state.bounds.body_bytes;
    let large = |size: String| {
        let message = format!("the body has {size} bytes; at most {most} are taken");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    };
    let announced = body.size_hint().exact();
    if let Some(size) = announced.filter(|&size| size > most as u64) {
        return Err(large(size.to_string()));
    }
    let reserved = (announced.unwrap_or(most as u64) >> 10) as u32 + 1;
    let read = async {
        let _room = state.bodies.acquire_many(reserved).await;
        axum::body::to_bytes(body, most).await
    };
    match tokio::time::timeout(state.bounds.patience, read).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(e)) if e.to_string().contains("length limit") => Err(large(format!("more than {most}"))),
        Ok(Err(_)) => {
            Err(Problem::new(StatusCode::BAD_REQUEST, "body_incomplete", "the body ended before its announced length"))
        }
        Err(_) => {
            let message = format!("the body did not come within {:?}", state.bounds.patience);
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message))
        }
    }
}

/// A request as the engine takes it.
struct Prepared {
    tokens: Vec<u32>,
    wanted: Wanted,
}

/// Bytes to tokens. May take a while: not for the threads that wait for the network.
fn prepare(served: &Served, bytes: &[u8], kind: Kind) -> Result<Prepared, Problem> {
    let vocab = served.service.vocab();
    let text_problem = |e: text::TextError| {
        let status = match &e {
            text::TextError::Template(_) | text::TextError::TooLong { .. } => StatusCode::BAD_REQUEST,
            text::TextError::Tokenizer(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, "prompt_refused", e.to_string())
    };
    let (tokens, wanted) = match kind {
        Kind::Chat => {
            let mut request = validate::chat(bytes, &served.defaults, vocab)?;
            for message in &mut request.messages {
                shield(served, message);
            }
            let context = Context {
                add_generation_prompt: true,
                bos_token: served.bos.clone(),
                eos_token: served.eos.clone(),
                tools: None,
                extra: request.template,
            };
            let prompt = served.template.render(&request.messages, &context).map_err(text_problem)?;
            (served.tokenizer.encode_prompt(&prompt).map_err(text_problem)?, request.wanted)
        }
        Kind::Text => {
            let request = validate::completion(bytes, &served.defaults, vocab)?;
            let tokens = match request.prompt {
                Prompt::Tokens(tokens) => tokens,
                Prompt::Text(text) => served.tokenizer.encode(&text, true).map_err(text_problem)?,
            };
            (tokens, request.wanted)
        }
    };
    if let Some(name) = &wanted.model {
        named(served, name)?;
    }
    Ok(Prepared { tokens, wanted })
}

/// Every text of a message, so that no name of a special token in it is one.
fn shield(served: &Served, value: &mut Value) {
    match value {
        Value::String(text) => *text = served.tokenizer.shield(text),
        Value::Array(items) => items.iter_mut().for_each(|v| shield(served, v)),
        Value::Object(map) => map.values_mut().for_each(|v| shield(served, v)),
        _ => {}
    }
}

/// What of one request is left when it is done: a line in the log.
struct Record {
    state: Arc<State>,
    started: Instant,
    kind: Kind,
    usage: Usage,
    unknown: Vec<String>,
    ended: Option<String>,
}

impl Drop for Record {
    fn drop(&mut self) {
        let path = if self.kind == Kind::Chat { "/v1/chat/completions" } else { "/v1/completions" };
        let unknown =
            if self.unknown.is_empty() { String::new() } else { format!("; ignored: {}", self.unknown.join(", ")) };
        (self.state.log)(&format!(
            "POST {path} {}: {} + {} tokens in {:.2} s{unknown}",
            self.ended.as_deref().unwrap_or("left"),
            self.usage.prompt,
            self.usage.completion,
            self.started.elapsed().as_secs_f64()
        ));
    }
}

async fn complete(state: Arc<State>, request: Request, kind: Kind) -> Response {
    let mut record = Record {
        state: Arc::clone(&state),
        started: Instant::now(),
        kind,
        usage: Usage::default(),
        unknown: Vec::new(),
        ended: None,
    };
    match answer(&state, request, kind, &mut record).await {
        Ok(Answered::Whole(value)) => {
            record.ended = Some("200".to_string());
            axum::Json(value).into_response()
        }
        Ok(Answered::Stream(mut events)) => {
            events.record = Some(record);
            let mut response = Body::new(*events).into_response();
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            response
        }
        Err(problem) => {
            record.ended = Some(format!("{} ({})", problem.status.as_u16(), problem.message));
            problem.into_response()
        }
    }
}

enum Answered {
    Whole(Value),
    Stream(Box<Events>),
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn fresh_id(kind: Kind) -> String {
    use std::hash::{BuildHasher, RandomState};
    let (a, b) = (RandomState::new().hash_one(1), RandomState::new().hash_one(2));
    format!("{}-{a:016x}{b:016x}", if kind == Kind::Chat { "chatcmpl" } else { "cmpl" })
}

async fn answer(state: &Arc<State>, request: Request, kind: Kind, record: &mut Record) -> Result<Answered, Problem> {
    loaded(state)?;
    let (head, content) = request.into_parts();
    let bytes = body(state, &head.headers, content).await?;
    let prepared = {
        let _turn = state.parsing.acquire().await;
        let state = Arc::clone(state);
        let prepared = tokio::task::spawn_blocking(move || prepare(loaded(&state)?, &bytes, kind)).await;
        prepared.map_err(|_| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "a fault while reading the request")
        })??
    };
    let Prepared { tokens, wanted } = prepared;
    let served = loaded(state)?;
    record.usage.prompt = tokens.len();
    record.unknown = wanted.unknown.clone();
    let room = served.service.limits().context.saturating_sub(tokens.len());
    let (sender, mut parts) = unbounded_channel();
    let sink = Answer::new(Arc::clone(&served.tokenizer), wanted.stop, kind == Kind::Chat, sender);
    let prompt_tokens = tokens.len();
    let ticket = served.service.submit(
        service::Request {
            prompt: tokens,
            sampling: wanted.sampling,
            stops: served.stops.clone(),
            tokens_max: wanted.tokens_max.unwrap_or(usize::MAX).min(room + 1),
            log_probabilities: wanted.log_probabilities,
            ..service::Request::default()
        },
        sink,
    );
    let ticket = ticket.map_err(|refused| match refused {
        Refused::Prompt(error) => Problem::of_engine(&error),
        Refused::Busy { .. } => Problem::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", refused.to_string()),
        Refused::Ending => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ending", refused.to_string()),
    })?;
    let head = Head {
        kind,
        id: fresh_id(kind),
        created: now(),
        model: served.name.clone(),
        log_probabilities: wanted.log_probabilities.is_some(),
    };
    if wanted.stream {
        let include_usage = wanted.include_usage;
        let mut ready = std::collections::VecDeque::new();
        ready.extend(head.opening().map(event));
        return Ok(Answered::Stream(Box::new(Events {
            head,
            parts,
            ready,
            include_usage,
            ended: false,
            record: None,
            _ticket: ticket,
        })));
    }
    let (mut text, mut scored) = (String::new(), Vec::new());
    while let Some(part) = parts.recv().await {
        match part {
            Part::Piece(piece) => {
                text.push_str(&piece.text);
                scored.extend(piece.scored);
            }
            Part::End { finish, timing } => {
                record.usage.completion = timing.generated;
                let usage = Usage { prompt: prompt_tokens, completion: timing.generated };
                return Ok(Answered::Whole(head.whole(&text, &scored, finish, usage)));
            }
            Part::Failed(error) => return Err(Problem::of_engine(&error)),
        }
    }
    Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "the engine ended without an answer"))
}

fn event(value: Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}

/// A streamed answer. Dropping it (the client left) drops its ticket, which cancels the request.
struct Events {
    head: Head,
    parts: UnboundedReceiver<Part>,
    ready: std::collections::VecDeque<Bytes>,
    include_usage: bool,
    ended: bool,
    record: Option<Record>,
    _ticket: Ticket,
}

impl Events {
    fn take(&mut self, part: Option<Part>) {
        match part {
            Some(Part::Piece(piece)) => self.ready.push_back(event(self.head.delta(&piece))),
            Some(Part::End { finish, timing }) => {
                self.ended = true;
                self.ready.push_back(event(self.head.closing(finish)));
                let mut usage = Usage { prompt: 0, completion: timing.generated };
                if let Some(record) = &mut self.record {
                    record.usage.completion = timing.generated;
                    record.ended = Some("200".to_string());
                    usage.prompt = record.usage.prompt;
                }
                if self.include_usage {
                    self.ready.push_back(event(self.head.usage(usage)));
                }
                self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
            }
            Some(Part::Failed(error)) => {
                self.ended = true;
                let problem = Problem::of_engine(&error);
                if let Some(record) = &mut self.record {
                    record.ended = Some(format!("failed ({})", problem.message));
                }
                self.ready.push_back(event(problem.json()));
            }
            None => self.ended = true,
        }
    }
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(http_body::Frame::data(bytes))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let part = match self.parts.poll_recv(task) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(part) => part,
            };
            self.take(part);
        }
    }
}
