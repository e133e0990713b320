//! `/v1/messages/batches`: Anthropic's batches, whose requests come in one body.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use batches::{Batch, Counts, Form, Input, LINE_BYTES_MAX, Status};
use serde_json::{Value, json};

use crate::api::batches::{NewBatch, fresh, stop};
use crate::api::fields::{Fields, wrong};
use crate::api::files::{KEPT_SECONDS, Listing, answered, id_in, kept, listed, owner_of, streamed};
use crate::error::{ApiError, refused};
use crate::generation::batch_line::{LINES_MAX, LineEndpoint, parse_line};
use crate::http::request_body::{in_slot, read_json_within};
use crate::state::AppState;
use crate::words::date;

/// Bytes of a body with the requests of a batch.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Characters of a `custom_id`.
const CUSTOM_ID_MAX: usize = 64;
/// Seconds that a batch may take.
const WINDOW_SECONDS: u64 = 86_400;

/// Parses a body to the lines of a batch, and how many there are.
///
/// # Errors
/// The first request that cannot be one.
pub fn parse(fields: &mut Fields) -> Result<(Vec<u8>, usize), ApiError> {
    let allowed = format!("an array of 1 to {LINES_MAX} objects with custom_id and params");
    let requests = match fields.take("requests") {
        Some(Value::Array(requests)) if (1..=LINES_MAX).contains(&requests.len()) => requests,
        given => return Err(wrong("requests", &given.unwrap_or_default(), &allowed)),
    };
    let (mut lines, mut seen, count) = (Vec::new(), HashSet::new(), requests.len());
    for (i, request) in requests.into_iter().enumerate() {
        let place = |field: &str| format!("requests[{i}].{field}");
        let id = request.get("custom_id").and_then(Value::as_str).unwrap_or_default().to_string();
        let fit = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        if !(1..=CUSTOM_ID_MAX).contains(&id.len()) || !fit {
            let allowed = format!("1 to {CUSTOM_ID_MAX} letters, digits, _ or -");
            return Err(wrong(&place("custom_id"), &id.as_str().into(), &allowed));
        }
        if seen.contains(&id) {
            let message =
                format!("{} is {id:?}, as another's is; each request needs one of its own", place("custom_id"));
            return Err(ApiError::bad("duplicate_custom_id", message).of(place("custom_id")));
        }
        let line = json!({"custom_id": id, "params": request.get("params").unwrap_or(&Value::Null)}).to_string();
        if line.len() > LINE_BYTES_MAX {
            let message = format!("{} has more than {LINE_BYTES_MAX} bytes", place("params"));
            return Err(ApiError::bad("invalid_value", message).of(place("params")));
        }
        parse_line(line.as_bytes(), LineEndpoint::Messages).map_err(|error| {
            let param = place(&error.param.unwrap_or_default());
            ApiError::bad(error.code, format!("{param}: {}", error.message)).of(param)
        })?;
        seen.insert(id);
        lines.extend_from_slice(line.as_bytes());
        lines.push(b'\n');
    }
    Ok((lines, count))
}

/// A batch in Anthropic's form. Counts are of the end, as theirs are.
fn described(batch: &Batch) -> Value {
    let ended = batch.status.ended();
    let status = match batch.status {
        _ if ended => "ended",
        Status::Cancelling => "canceling",
        _ => "in_progress",
    };
    let Counts { total, completed, failed, expired, cancelled } = batch.counts;
    let counts = match ended {
        true => {
            json!({"processing": 0, "succeeded": completed, "errored": failed, "canceled": cancelled, "expired": expired})
        }
        false => json!({"processing": total, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}),
    };
    json!({
        "id": batch.id,
        "type": "message_batch",
        "processing_status": status,
        "request_counts": counts,
        "created_at": date(batch.created_at),
        "expires_at": date(batch.expires_at),
        "ended_at": batch.ended_at.map(date),
        "cancel_initiated_at": batch.cancelling_at.map(date),
        "archived_at": null,
        // Relative, as only clients know by which name and scheme they reach the server.
        "results_url": ended.then(|| format!("/v1/messages/batches/{}/results", batch.id)),
    })
}

async fn made(state: &AppState, head: &Parts, content: Body) -> Result<Batch, ApiError> {
    let batches = kept(state, head)?;
    let content = read_json_within(state, head, content, BODY_BYTES_MAX).await?;
    let (lines, total) = in_slot(state, head, content, |bytes, _| parse(&mut Fields::parse(bytes)?)).await?;
    let new = NewBatch {
        input_file: String::new(),
        endpoint: LineEndpoint::Messages,
        window: ("24h".to_string(), WINDOW_SECONDS),
        metadata: BTreeMap::new(),
        output_seconds: KEPT_SECONDS,
    };
    let mut batch = fresh(head, Form::Anthropic, new);
    (batch.status, batch.in_progress_at) = (Status::InProgress, Some(batch.created_at));
    batch.counts.total = total;
    let batch = batches.work(move |store| store.create(batch, Input::Lines(&lines))).await?;
    batches.tell();
    Ok(batch)
}

/// `POST /v1/messages/batches`
pub async fn create(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, content) = request.into_parts();
    answered(made(&state, &head, content).await.map(|batch| described(&batch)), &head)
}

/// `GET /v1/messages/batches`
pub async fn list(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let outcome = || {
        let (listing, store, owner) = (Listing::of(&head, 20, 1000)?, &kept(&state, &head)?.store, owner_of(&head));
        let (ids, more) = listing.page(store.batch_ids(&owner, Form::Anthropic), |id| id, ["after_id", "before_id"])?;
        // One that has gone meanwhile is left out.
        let batches = ids.iter().filter_map(|id| store.batch(&owner, Form::Anthropic, id).ok());
        Ok(listed(batches.map(|batch| described(&batch)).collect(), more))
    };
    answered(outcome(), &head)
}

/// `GET /v1/messages/batches/{batch}`
pub async fn one(
    State(state): State<Arc<AppState>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let outcome =
        || Ok::<_, ApiError>(kept(&state, &head)?.store.batch(&owner_of(&head), Form::Anthropic, &id_in(id)?)?);
    answered(outcome().map(|batch| described(&batch)), &head)
}

/// `POST /v1/messages/batches/{batch}/cancel`
pub async fn cancel(
    State(state): State<Arc<AppState>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let outcome = async { stop(&state, &head, Form::Anthropic, id_in(id)?).await };
    answered(outcome.await.map(|batch| described(&batch)), &head)
}

/// `DELETE /v1/messages/batches/{batch}`
pub async fn delete(
    State(state): State<Arc<AppState>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let outcome = async {
        let (id, owner) = (id_in(id)?, owner_of(&head));
        let gone = id.clone();
        kept(&state, &head)?.work(move |store| store.delete_batch(&owner, &gone)).await?;
        Ok::<_, ApiError>(json!({"id": id, "type": "message_batch_deleted"}))
    };
    answered(outcome.await, &head)
}

/// `GET /v1/messages/batches/{batch}/results`
pub async fn results(
    State(state): State<Arc<AppState>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let outcome = async {
        let (id, owner) = (id_in(id)?, owner_of(&head));
        kept(&state, &head)?.work(move |store| store.results(&owner, &id)).await
    };
    match outcome.await {
        Ok(content) => streamed(content, "application/x-jsonl"),
        Err(error) => refused(error, &head),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(requests: Value) -> Result<usize, ApiError> {
        let body = json!({ "requests": requests }).to_string();
        parse(&mut Fields::parse(body.as_bytes()).unwrap()).map(|(_, count)| count)
    }

    #[test]
    fn each_request_has_an_id_of_its_own_and_no_stream() {
        let request = |id: &str| json!({"custom_id": id, "params": {"model": "m", "max_tokens": 1}});
        assert_eq!(parsed(json!([request("a"), request("b_-9")])), Ok(2));
        let of = |id: Value, params: Value| json!([request("a"), {"custom_id": id, "params": params}]);
        for (requests, param) in [
            (json!(null), "requests"),
            (json!([]), "requests"),
            (json!({}), "requests"),
            (of(json!("a"), json!({})), "requests[1].custom_id"),
            (of(json!(""), json!({})), "requests[1].custom_id"),
            (of(json!("a b"), json!({})), "requests[1].custom_id"),
            (of(json!("x".repeat(65)), json!({})), "requests[1].custom_id"),
            (of(json!(null), json!({})), "requests[1].custom_id"),
            (of(json!("b"), json!(null)), "requests[1].params"),
            (of(json!("b"), json!([])), "requests[1].params"),
            (of(json!("b"), json!({"stream": true})), "requests[1].stream"),
            (of(json!("b"), json!({"text": "x".repeat(LINE_BYTES_MAX)})), "requests[1].params"),
            (json!([7]), "requests[0].custom_id"),
        ] {
            assert_eq!(parsed(requests.clone()).unwrap_err().param.as_deref(), Some(param), "{requests:.60}");
        }
    }
}
