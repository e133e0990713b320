//! Request bodies: read within the limits of size and time, and worked on in a slot of their client.

use std::future::poll_fn;
use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode, header};

use crate::error::{ApiError, Dialect};
use crate::http::body_budget::{BodyReservation, Evicted};
use crate::http::client::Client;
use crate::http::connections::Connection;
use crate::http::work_slots::{WorkSlot, run_in_slot};
use crate::state::AppState;

/// A request body with its reservation in the body budget.
pub struct RequestBody {
    pub bytes: Vec<u8>,
    reservation: BodyReservation,
}

fn budget_exhausted() -> ApiError {
    let message = "the room for bodies of requests is needed by others now; try again";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
}

/// Reads a body of JSON, within the limits of size and time.
pub async fn read_json(state: &AppState, head: &Parts, body: Body) -> Result<RequestBody, ApiError> {
    read_json_within(state, head, body, state.limits.body_bytes).await
}

/// Reads a body of JSON of at most `most` bytes.
pub async fn read_json_within(
    state: &AppState,
    head: &Parts,
    body: Body,
    most: usize,
) -> Result<RequestBody, ApiError> {
    let kind = head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") && !takes_any_type(head) {
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
        Ok(outcome) => outcome.map(|()| RequestBody { bytes, reservation }),
        Err(_) if waited => Err(budget_exhausted()),
        Err(_) => {
            let message = format!("the body did not come within {:?}", state.limits.patience);
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message))
        }
    }
}

/// Whether a body may have any content type. Ollama's clients send none, or what curl adds. A browser sends such bodies for any web page
/// without asking first, so what a browser sent must be of JSON.
fn takes_any_type(head: &Parts) -> bool {
    let browser = [header::ORIGIN, header::REFERER, HeaderName::from_static("sec-fetch-site")];
    Dialect::of(head.uri.path()) == Dialect::Ollama && !browser.iter().any(|name| head.headers.contains_key(name))
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

/// Reads a body into `bytes`, reserving each piece first.
async fn read(mut body: Body, most: usize, reservation: &BodyReservation, bytes: &mut Vec<u8>) -> Result<(), ApiError> {
    loop {
        let frame = tokio::select! {
            frame = poll_fn(|task| std::pin::Pin::new(&mut body).poll_frame(task)) => frame,
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

fn client(head: &Parts) -> Client {
    head.extensions.get().copied().unwrap_or_else(Client::unknown)
}

/// Runs slow work on a body once its client has a slot, unless the body was evicted.
pub async fn in_slot<T: Send + 'static>(
    state: &AppState,
    head: &Parts,
    content: RequestBody,
    work: impl FnOnce(&[u8], &WorkSlot) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let RequestBody { bytes, reservation } = content;
    let reservation = Arc::new(reservation);
    let held = Arc::clone(&reservation);
    let outcome = run_in_slot(&state.work_slots, (client(head), bytes.len()), move |slot| {
        // Its bytes stay reserved until the work ends, even if the client leaves.
        if held.keep() { work(&bytes, slot) } else { Err(budget_exhausted()) }
    });
    tokio::select! {
        outcome = outcome => outcome,
        () = reservation.evicted() => Err(budget_exhausted()),
    }
}
