//! The handler of the endpoints that generate text, from the body's bytes to the response, the same for all dialects.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::api::validate::{self, Fields, Invalid, ModelDefaults};
use crate::api::wire::{ChatWriter, CompletionWriter, MessagesWriter, ResponseInfo, ResponseWriter, ResponsesWriter};
use crate::error::{ApiError, Dialect};
use crate::generation::in_flight::InFlight;
use crate::generation::model_pool::requested_model;
use crate::generation::prepared::{PreparedRequest, RequestContext};
use crate::generation::served_model::ServedModel;
use crate::http::access_log::RequestLog;
use crate::http::api_keys::Account;
use crate::http::body::{SlowJsonBody, SseBody};
use crate::http::body_budget::{BodyReservation, Evicted};
use crate::http::client::Client;
use crate::http::connections::Connection;
use crate::http::work_slots::{WorkSlot, run_in_slot};
use crate::ids::fresh_id;
use crate::request::GenerateRequest;
use crate::state::AppState;

/// Time after which a request that is not streamed gets its status, before it is known how it ends.
const JSON_DELAY_MAX: Duration = Duration::from_secs(15);

/// Keywords of the request's schemas that the answer need not obey.
pub const SCHEMA_NOT_KEPT: HeaderName = HeaderName::from_static("x-schema-not-kept");

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`
    Messages,
}

impl Endpoint {
    fn validate(self, fields: &mut Fields, model: ModelDefaults<'_>) -> Result<GenerateRequest, Invalid> {
        match self {
            Endpoint::Chat => validate::chat(fields, model),
            Endpoint::Completion => validate::completion(fields, model),
            Endpoint::Responses => validate::responses(fields, model),
            Endpoint::Messages => validate::messages(fields, model),
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Endpoint::Chat => "chatcmpl-",
            Endpoint::Completion => "cmpl-",
            Endpoint::Responses => "resp_",
            Endpoint::Messages => "msg_",
        }
    }

    /// How answers to this request are written.
    fn wire(self, served: &ServedModel, request: &GenerateRequest) -> Box<dyn ResponseWriter> {
        let head = ResponseInfo { id: fresh_id(self.prefix()), created: now(), model: served.name.clone() };
        let (w, log_probabilities) = (&request.params, request.params.log_probabilities.is_some());
        let include_usage = w.include_usage;
        match self {
            Endpoint::Chat => {
                Box::new(ChatWriter { head, log_probabilities, include_usage, older: request.tools.older })
            }
            Endpoint::Completion => Box::new(CompletionWriter { head, log_probabilities, include_usage }),
            Endpoint::Responses => Box::new(ResponsesWriter::new(head, log_probabilities, request.repeated.clone())),
            Endpoint::Messages => Box::new(MessagesWriter::new(head)),
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A body that was read, and its part of the room for bodies.
pub struct ReceivedBody {
    bytes: Vec<u8>,
    reservation: BodyReservation,
}

/// The room for bodies is needed by others.
fn budget_exhausted() -> ApiError {
    let message = "the room for bodies of requests is needed by others now; try again";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
}

/// The body, whole: JSON by its header, within the bounds of size and time.
pub async fn body(state: &AppState, head: &Parts, body: Body) -> Result<ReceivedBody, ApiError> {
    let kind = head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let kind: String = kind.chars().take(100).collect();
        let message = format!(
            "the content type is {kind:?}; it must be application/json (curl: -H 'Content-Type: application/json')"
        );
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    let coding = head.headers.get(header::CONTENT_ENCODING).map(|v| String::from_utf8_lossy(v.as_bytes()));
    if let Some(coding) = coding.filter(|coding| !coding.trim().eq_ignore_ascii_case("identity")) {
        let coding: String = coding.chars().take(100).collect();
        let message = format!(
            "the content encoding is {coding:?}; no encoding is understood: send the body as it is, uncompressed"
        );
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    let most = state.limits.body_bytes;
    if let Some(size) = body.size_hint().exact().filter(|&size| size > most as u64) {
        return Err(large(&size.to_string(), most));
    }
    let reservation = state.body_budget.reserve(client(head));
    let mut bytes = Vec::new();
    let outcome = tokio::time::timeout(state.limits.patience, read(body, most, &reservation, &mut bytes)).await;
    let waited = reservation.waits();
    if let Some(connection) = head.extensions.get::<Arc<Connection>>() {
        connection.received();
    }
    match outcome {
        Ok(outcome) => outcome.map(|()| ReceivedBody { bytes, reservation }),
        Err(_) if waited => Err(budget_exhausted()),
        Err(_) => {
            let message = format!("the body did not come within {:?}", state.limits.patience);
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message))
        }
    }
}

fn large(size: &str, most: usize) -> ApiError {
    let message = format!("the body has {size} bytes; at most {most} are taken");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}

/// Why a body could not be read to its end.
fn unreadable(error: &axum::Error) -> ApiError {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    // To the parser chunks that cannot be are invalid, and what ends early is another kind of error.
    let malformed = causes.find_map(|error| error.downcast_ref::<std::io::Error>()).is_some_and(|error| {
        matches!(error.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData)
    });
    if malformed {
        let message = "the chunked body is malformed (RFC 9112, section 7.1): a chunk's size, its end or the trailers \
                       cannot be or are too long; send chunks as the RFC has them, or the body with its Content-Length";
        return ApiError::bad("body_malformed", message);
    }
    ApiError::bad("body_incomplete", "the body ended before its announced length")
}

/// Reads a body; each piece is kept only where there is room for it.
async fn read(mut body: Body, most: usize, reservation: &BodyReservation, bytes: &mut Vec<u8>) -> Result<(), ApiError> {
    loop {
        let frame = tokio::select! {
            frame = poll_fn(|task| Pin::new(&mut body).poll_frame(task)) => frame,
            () = reservation.evicted() => return Err(budget_exhausted()),
        };
        let Some(frame) = frame else { return Ok(()) };
        let frame = frame.map_err(|error| unreadable(&error))?;
        let Ok(piece) = frame.into_data() else { continue };
        if bytes.len() + piece.len() > most {
            return Err(large(&format!("more than {most}"), most));
        }
        reservation.take(piece.len()).await.map_err(|Evicted| budget_exhausted())?;
        bytes.extend_from_slice(&piece);
    }
}

/// Whom limits are shared for.
fn client(head: &Parts) -> Client {
    head.extensions.get().copied().unwrap_or_else(Client::unknown)
}

/// Who asks, and how long they wait: `x-request-timeout` in seconds, within the bounds of the server.
fn context(state: &AppState, head: &Parts) -> Result<RequestContext, ApiError> {
    const NAME: &str = "x-request-timeout";
    let Account { id: account, salt } = head.extensions.get().copied().unwrap_or(Account::EVERYBODY);
    let (wait_max, time_max) = (Some(state.limits.wait), state.limits.time);
    let mut context = RequestContext { account, salt, wait_max, time_max, time_asked: false };
    let headers = &head.headers;
    if let Some(value) = headers.get(NAME) {
        let seconds = value.to_str().ok().and_then(|v| v.trim().parse::<f64>().ok());
        let Some(seconds) = seconds.filter(|s| (0.001..=604_800.0).contains(s)) else {
            let value: String = String::from_utf8_lossy(value.as_bytes()).chars().take(100).collect();
            let message = format!("{NAME} is {value:?}; it must be a number of seconds from 0.001 to 604800");
            return Err(ApiError { param: Some(NAME.to_string()), ..ApiError::bad("invalid_value", message) });
        };
        let wanted = Duration::from_secs_f64(seconds);
        if context.time_max.is_none_or(|most| wanted < most) {
            (context.time_max, context.time_asked) = (Some(wanted), true);
        }
        context.wait_max = context.wait_max.map(|wait| wait.min(wanted));
    }
    Ok(context)
}

/// Work on a body that takes a while, when its client has a turn. What was given up for others before is not worked on.
pub async fn in_slot<T: Send + 'static>(
    state: &AppState,
    head: &Parts,
    content: ReceivedBody,
    work: impl FnOnce(&[u8], &WorkSlot) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let ReceivedBody { bytes, reservation } = content;
    let reservation = Arc::new(reservation);
    let held = Arc::clone(&reservation);
    let outcome = run_in_slot(&state.work_slots, (client(head), bytes.len()), move |slot| {
        // Its room is taken until the work ends, whether its client is there or not.
        if held.keep() { work(&bytes, slot) } else { Err(budget_exhausted()) }
    });
    tokio::select! {
        outcome = outcome => outcome,
        () = reservation.evicted() => Err(budget_exhausted()),
    }
}

/// The fields of a body, and the model that they name: the first one where they name none. It is loaded first where it must be.
pub async fn receive(
    state: &AppState,
    head: &Parts,
    content: Body,
) -> Result<(ReceivedBody, Arc<ServedModel>), ApiError> {
    let content = body(state, head, content).await?;
    let served = state.model(requested_model(&content.bytes).as_deref()).await?;
    if let Some(log) = head.extensions.get::<RequestLog>() {
        log.update(|f| f.model = Some(served.name.clone()));
    }
    Ok((content, served))
}

/// A request, answered.
pub async fn complete(state: Arc<AppState>, request: Request, endpoint: Endpoint) -> Response {
    let path = request.uri().path();
    let dialect = if endpoint == Endpoint::Messages { Dialect::Anthropic } else { Dialect::of(path) };
    let Some(log) = request.extensions().get::<RequestLog>().cloned() else {
        return ApiError::fault("a request without a record").respond(dialect, None);
    };
    let id = log.id();
    match answer(&state, request, endpoint, (dialect, &id), &log).await {
        Ok(mut response) => {
            if let Some(Ok(id)) = (dialect == Dialect::Anthropic).then(|| HeaderValue::from_str(&id)) {
                response.headers_mut().insert(HeaderName::from_static("request-id"), id);
            }
            response
        }
        Err(error) => {
            log.update(|f| f.error = Some(error.code));
            error.respond(dialect, Some(&id))
        }
    }
}

/// A request that is ready to run, and how its answer is written.
async fn prepare(
    state: &Arc<AppState>,
    request: Request,
    endpoint: Endpoint,
) -> Result<(Arc<ServedModel>, PreparedRequest, Box<dyn ResponseWriter>), ApiError> {
    let (head, content) = request.into_parts();
    let context = context(state, &head)?;
    let (content, served) = receive(state, &head, content).await?;
    in_slot(state, &head, content, move |bytes, slot| {
        let mut fields = Fields::parse(bytes)?;
        let model = ModelDefaults { defaults: &served.defaults, vocab: served.engine.vocab() };
        let request = endpoint.validate(&mut fields, model)?;
        let wire = endpoint.wire(&served, &request);
        let prepared = PreparedRequest::new(&served, request, context, slot)?;
        Ok((served, prepared, wire))
    })
    .await
}

async fn answer(
    state: &Arc<AppState>,
    request: Request,
    endpoint: Endpoint,
    (dialect, id): (Dialect, &str),
    log: &RequestLog,
) -> Result<Response, ApiError> {
    let (served, prepared, mut wire) = prepare(state, request, endpoint).await?;
    log.update(|f| f.unknown = prepared.params.unknown.clone());
    let (stream, prompt_tokens, warnings) =
        (prepared.params.stream, prepared.prompt_tokens(), warnings(prepared.schema_warnings()));
    let in_flight = InFlight::start(Arc::clone(state), served, prepared, log.clone())?;
    // One that the queue does not take counts no tokens.
    log.update(|f| f.prompt_tokens = Some(prompt_tokens));
    if stream {
        let ready = wire.opening();
        let mut response = Body::new(SseBody::new(in_flight, wire, ready)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.extend(warnings);
        return Ok(response);
    }
    let mut whole = Box::pin(collect(in_flight, wire));
    if let Ok(outcome) = tokio::time::timeout(JSON_DELAY_MAX, whole.as_mut()).await {
        let mut response = axum::Json(outcome?).into_response();
        response.headers_mut().extend(warnings);
        return Ok(response);
    }
    // It takes long: empty lines show that somebody works on it. Errors can only be told in the body from now on.
    let (id, log) = (id.to_string(), log.clone());
    let outcome = async move {
        whole.await.unwrap_or_else(|error| {
            log.update(|f| f.error = Some(error.code));
            error.json(dialect, Some(&id))
        })
    };
    let mut response = Body::new(SlowJsonBody::new(Box::pin(outcome))).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().extend(warnings);
    Ok(response)
}

/// What of a schema is not kept, as a header that holds a JSON array of lines in ASCII. Clients that do not know it pass over it.
fn warnings(lines: &[String]) -> Option<(HeaderName, HeaderValue)> {
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
    (!lines.is_empty() && value != "]").then_some((SCHEMA_NOT_KEPT, value))
}

/// All of an answer. Dropping it cancels it.
async fn collect(mut in_flight: InFlight, mut wire: Box<dyn ResponseWriter>) -> Result<Value, ApiError> {
    let choices = in_flight.collect().await?;
    Ok(wire.whole(&choices, &in_flight.usage()))
}

#[cfg(test)]
mod tests {
    use super::warnings;

    #[test]
    fn what_is_not_kept_is_told_in_a_header_of_ascii() {
        assert_eq!(warnings(&[]), None);
        let lines = ["#/a\u{e9}\u{1f600}: `not` is not supported".to_string(), "b\n".to_string()];
        let (name, value) = warnings(&lines).unwrap();
        assert_eq!(name, "x-schema-not-kept");
        assert_eq!(value, "[\"#/a\\u00e9\\ud83d\\ude00: `not` is not supported\", \"b\\n\"]");
        assert_eq!(serde_json::from_str::<Vec<String>>(value.to_str().unwrap()).unwrap(), lines);
        let many = vec!["x".repeat(900); 100];
        let (_, value) = warnings(&many).unwrap();
        assert_eq!(serde_json::from_str::<Vec<String>>(value.to_str().unwrap()).unwrap(), many[..4]);
    }
}
