//! From a request's bytes to an answer, the same way for all dialects.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::State;
use crate::accounts::Account;
use crate::ask::Ask;
use crate::client::Client;
use crate::connections::Connection;
use crate::loaded::Loaded;
use crate::models::requested_model;
use crate::prepare::{Asked, Plan};
use crate::problem::{Dialect, Problem};
use crate::record::Record;
use crate::room::{GivenUp, Share};
use crate::running::Running;
use crate::streaming::{Late, Streamed};
use crate::turns::{Turn, apart};
use crate::validate::{self, Fields, Invalid, Model};
use crate::wire::{Chat, Completion, Head, Messages, Responses, Wire};

/// Time after which a request that is not streamed gets its status, before it is known how it ends.
const QUIET: Duration = Duration::from_secs(15);

/// Keywords of the request's schemas that the answer need not obey.
pub const NOT_KEPT: HeaderName = HeaderName::from_static("x-schema-not-kept");

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`
    Messages,
}

impl Kind {
    fn validate(self, fields: &mut Fields, model: Model<'_>) -> Result<Ask, Invalid> {
        match self {
            Kind::Chat => validate::chat(fields, model),
            Kind::Completion => validate::completion(fields, model),
            Kind::Responses => validate::responses(fields, model),
            Kind::Messages => validate::messages(fields, model),
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Kind::Chat => "chatcmpl-",
            Kind::Completion => "cmpl-",
            Kind::Responses => "resp_",
            Kind::Messages => "msg_",
        }
    }

    /// How answers to this request are written.
    fn wire(self, served: &Loaded, ask: &Ask) -> Box<dyn Wire> {
        let head = Head { id: fresh_id(self.prefix()), created: now(), model: served.name.clone() };
        let (w, log_probabilities) = (&ask.wanted, ask.wanted.log_probabilities.is_some());
        let include_usage = w.include_usage;
        match self {
            Kind::Chat => Box::new(Chat { head, log_probabilities, include_usage, older: ask.tools.older }),
            Kind::Completion => Box::new(Completion { head, log_probabilities, include_usage }),
            Kind::Responses => Box::new(Responses::new(head, log_probabilities, ask.repeated.clone())),
            Kind::Messages => Box::new(Messages::new(head)),
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// An id that nobody had before.
pub fn fresh_id(prefix: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    let (a, b) = (RandomState::new().hash_one(1), RandomState::new().hash_one(2));
    format!("{prefix}{a:016x}{b:016x}")
}

/// A body that was read, and its part of the room for bodies.
pub struct Content {
    bytes: Vec<u8>,
    share: Share,
}

/// The room for bodies is needed by others.
fn crowded() -> Problem {
    let message = "the room for bodies of requests is needed by others now; try again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
}

/// The body, whole: JSON by its header, within the bounds of size and time.
pub async fn body(state: &State, head: &Parts, body: Body) -> Result<Content, Problem> {
    let kind = head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let kind: String = kind.chars().take(100).collect();
        let message = format!(
            "the content type is {kind:?}; it must be application/json (curl: -H 'Content-Type: application/json')"
        );
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    let coding = head.headers.get(header::CONTENT_ENCODING).map(|v| String::from_utf8_lossy(v.as_bytes()));
    if let Some(coding) = coding.filter(|coding| !coding.trim().eq_ignore_ascii_case("identity")) {
        let coding: String = coding.chars().take(100).collect();
        let message = format!(
            "the content encoding is {coding:?}; no encoding is understood: send the body as it is, uncompressed"
        );
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    let most = state.bounds.body_bytes;
    if let Some(size) = body.size_hint().exact().filter(|&size| size > most as u64) {
        return Err(large(&size.to_string(), most));
    }
    let share = state.bodies.share(client(head));
    let mut bytes = Vec::new();
    let outcome = tokio::time::timeout(state.bounds.patience, read(body, most, &share, &mut bytes)).await;
    let waited = share.waits();
    if let Some(connection) = head.extensions.get::<Arc<Connection>>() {
        connection.received();
    }
    match outcome {
        Ok(outcome) => outcome.map(|()| Content { bytes, share }),
        Err(_) if waited => Err(crowded()),
        Err(_) => {
            let message = format!("the body did not come within {:?}", state.bounds.patience);
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message))
        }
    }
}

fn large(size: &str, most: usize) -> Problem {
    let message = format!("the body has {size} bytes; at most {most} are taken");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}

/// Reads a body; each piece is kept only where there is room for it.
async fn read(mut body: Body, most: usize, share: &Share, bytes: &mut Vec<u8>) -> Result<(), Problem> {
    loop {
        let frame = tokio::select! {
            frame = poll_fn(|task| Pin::new(&mut body).poll_frame(task)) => frame,
            () = share.given_up() => return Err(crowded()),
        };
        let Some(frame) = frame else { return Ok(()) };
        let frame = frame.map_err(|error| broken(&error))?;
        let Ok(piece) = frame.into_data() else { continue };
        if bytes.len() + piece.len() > most {
            return Err(large(&format!("more than {most}"), most));
        }
        share.take(piece.len()).await.map_err(|GivenUp| crowded())?;
        bytes.extend_from_slice(&piece);
    }
}

/// Why a body could not be read to its end.
fn broken(error: &axum::Error) -> Problem {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    // To the parser chunks that cannot be are invalid, and what ends early is another kind of error.
    let malformed = causes.find_map(|error| error.downcast_ref::<std::io::Error>()).is_some_and(|error| {
        matches!(error.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData)
    });
    if malformed {
        let message = "the chunked body is malformed (RFC 9112, section 7.1): a chunk's size, its end or the trailers \
                       cannot be or are too long; send chunks as the RFC has them, or the body with its Content-Length";
        return Problem::bad("body_malformed", message);
    }
    Problem::bad("body_incomplete", "the body ended before its announced length")
}

/// Whom limits are shared for.
fn client(head: &Parts) -> Client {
    head.extensions.get().copied().unwrap_or_else(Client::unknown)
}

/// Who asks, and how long they wait: `x-request-timeout` in seconds, within the bounds of the server.
fn asked(state: &State, head: &Parts) -> Result<Asked, Problem> {
    const NAME: &str = "x-request-timeout";
    let Account { id: account, salt } = head.extensions.get().copied().unwrap_or(Account::EVERYBODY);
    let (wait_max, time_max) = (Some(state.bounds.wait), state.bounds.time);
    let mut asked = Asked { account, salt, wait_max, time_max, time_asked: false };
    let headers = &head.headers;
    if let Some(value) = headers.get(NAME) {
        let seconds = value.to_str().ok().and_then(|v| v.trim().parse::<f64>().ok());
        let Some(seconds) = seconds.filter(|s| (0.001..=604_800.0).contains(s)) else {
            let value: String = String::from_utf8_lossy(value.as_bytes()).chars().take(100).collect();
            let message = format!("{NAME} is {value:?}; it must be a number of seconds from 0.001 to 604800");
            return Err(Problem { param: Some(NAME.to_string()), ..Problem::bad("invalid_value", message) });
        };
        let wanted = Duration::from_secs_f64(seconds);
        if asked.time_max.is_none_or(|most| wanted < most) {
            (asked.time_max, asked.time_asked) = (Some(wanted), true);
        }
        asked.wait_max = asked.wait_max.map(|wait| wait.min(wanted));
    }
    Ok(asked)
}

/// Work on a body that takes a while, when its client has a turn. What was given up for others before is not worked on.
pub async fn at_turn<T: Send + 'static>(
    state: &State,
    head: &Parts,
    content: Content,
    work: impl FnOnce(&[u8], &Turn) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let Content { bytes, share } = content;
    let share = Arc::new(share);
    let kept = Arc::clone(&share);
    let outcome = apart(&state.parsing, (client(head), bytes.len()), move |turn| {
        // Its room is taken until the work ends, whether its client is there or not.
        if kept.keep() { work(&bytes, turn) } else { Err(crowded()) }
    });
    tokio::select! {
        outcome = outcome => outcome,
        () = share.given_up() => Err(crowded()),
    }
}

/// The fields of a body, and the model that they name: the first one where they name none. It is loaded first where it must be.
pub async fn addressed(state: &State, head: &Parts, content: Body) -> Result<(Content, Arc<Loaded>), Problem> {
    let content = body(state, head, content).await?;
    let served = state.model(requested_model(&content.bytes).as_deref()).await?;
    if let Some(record) = head.extensions.get::<Record>() {
        record.fill(|f| f.model = Some(served.name.clone()));
    }
    Ok((content, served))
}

/// A request, answered.
pub async fn complete(state: Arc<State>, request: Request, kind: Kind) -> Response {
    let path = request.uri().path();
    let dialect = if kind == Kind::Messages { Dialect::Anthropic } else { Dialect::of(path) };
    let Some(record) = request.extensions().get::<Record>().cloned() else {
        return Problem::fault("a request without a record").respond(dialect, None);
    };
    let id = record.id();
    match answer(&state, request, kind, (dialect, &id), &record).await {
        Ok(mut response) => {
            if let Some(Ok(id)) = (dialect == Dialect::Anthropic).then(|| HeaderValue::from_str(&id)) {
                response.headers_mut().insert(HeaderName::from_static("request-id"), id);
            }
            response
        }
        Err(problem) => {
            record.fill(|f| f.error = Some(problem.code));
            problem.respond(dialect, Some(&id))
        }
    }
}

/// A request that is ready to run, and how its answer is written.
async fn planned(
    state: &Arc<State>,
    request: Request,
    kind: Kind,
) -> Result<(Arc<Loaded>, Plan, Box<dyn Wire>), Problem> {
    let (head, content) = request.into_parts();
    let asked = asked(state, &head)?;
    let (content, served) = addressed(state, &head, content).await?;
    at_turn(state, &head, content, move |bytes, turn| {
        let mut fields = Fields::parse(bytes)?;
        let model = Model { defaults: &served.defaults, vocab: served.engine.vocab() };
        let ask = kind.validate(&mut fields, model)?;
        let wire = kind.wire(&served, &ask);
        let plan = Plan::new(&served, ask, asked, turn)?;
        Ok((served, plan, wire))
    })
    .await
}

async fn answer(
    state: &Arc<State>,
    request: Request,
    kind: Kind,
    (dialect, id): (Dialect, &str),
    record: &Record,
) -> Result<Response, Problem> {
    let (served, plan, mut wire) = planned(state, request, kind).await?;
    record.fill(|f| f.unknown = plan.wanted.unknown.clone());
    let (stream, prompt_tokens, unkept) = (plan.wanted.stream, plan.prompt_tokens(), unkept(plan.unkept()));
    let running = Running::start(Arc::clone(state), served, plan, record.clone())?;
    // One that the queue does not take counts no tokens.
    record.fill(|f| f.prompt_tokens = Some(prompt_tokens));
    if stream {
        let ready = wire.opening();
        let mut response = Body::new(Streamed::new(running, wire, ready)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.extend(unkept);
        return Ok(response);
    }
    let mut whole = Box::pin(whole(running, wire));
    if let Ok(outcome) = tokio::time::timeout(QUIET, whole.as_mut()).await {
        let mut response = axum::Json(outcome?).into_response();
        response.headers_mut().extend(unkept);
        return Ok(response);
    }
    // It takes long: empty lines show that somebody works on it. Errors can only be told in the body from now on.
    let (id, record) = (id.to_string(), record.clone());
    let outcome = async move {
        whole.await.unwrap_or_else(|problem| {
            record.fill(|f| f.error = Some(problem.code));
            problem.json(dialect, Some(&id))
        })
    };
    let mut response = Body::new(Late::new(Box::pin(outcome))).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().extend(unkept);
    Ok(response)
}

/// What of a schema is not kept, as a header that holds a JSON array of lines in ASCII. Clients that do not know it pass over it.
fn unkept(lines: &[String]) -> Option<(HeaderName, HeaderValue)> {
    const BYTES_MAX: usize = 4096;
    let mut text = String::new();
    for line in lines {
        let quoted = Value::from(line.as_str()).to_string();
        let ascii: String = quoted
            .chars()
            .map(|c| {
                let mut pair = [0; 2];
                let escape = |unit: &u16| format!("\\u{unit:04x}");
                if (' '..='~').contains(&c) {
                    String::from(c)
                } else {
                    c.encode_utf16(&mut pair).iter().map(escape).collect()
                }
            })
            .collect();
        if text.len() + ascii.len() > BYTES_MAX {
            break;
        }
        text.push_str(if text.is_empty() { "[" } else { ", " });
        text.push_str(&ascii);
    }
    let value = HeaderValue::try_from(text + "]").ok()?;
    (!lines.is_empty() && value != "]").then_some((NOT_KEPT, value))
}

/// All of an answer. Dropping it cancels it.
async fn whole(mut running: Running, mut wire: Box<dyn Wire>) -> Result<Value, Problem> {
    let choices = running.gather().await?;
    Ok(wire.whole(&choices, &running.usage()))
}

/// A body that is computed while it is waited for.
pub type Outcome = Pin<Box<dyn Future<Output = Value> + Send>>;

#[cfg(test)]
mod tests {
    use super::unkept;

    #[test]
    fn what_is_not_kept_is_told_in_a_header_of_ascii() {
        assert_eq!(unkept(&[]), None);
        let lines = ["#/a\u{e9}\u{1f600}: `not` is not supported".to_string(), "b\n".to_string()];
        let (name, value) = unkept(&lines).unwrap();
        assert_eq!(name, "x-schema-not-kept");
        assert_eq!(value, "[\"#/a\\u00e9\\ud83d\\ude00: `not` is not supported\", \"b\\n\"]");
        assert_eq!(serde_json::from_str::<Vec<String>>(value.to_str().unwrap()).unwrap(), lines);
        let many = vec!["x".repeat(900); 100];
        let (_, value) = unkept(&many).unwrap();
        assert_eq!(serde_json::from_str::<Vec<String>>(value.to_str().unwrap()).unwrap(), many[..4]);
    }
}
