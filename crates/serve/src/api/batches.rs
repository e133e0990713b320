//! `/v1/batches`: OpenAI's batches over files of requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use batches::{Batch, Counts, Form, Input, Status};
use serde_json::{Value, json};

use crate::api::fields::{Fields, wrong};
use crate::api::files::{KEPT_SECONDS, Listing, answered, id_in, kept, kept_seconds, listed, owner_of};
use crate::error::{ApiError, refused};
use crate::generation::batch_line::LineEndpoint;
use crate::http::metering::Caller;
use crate::http::request_body::read_json;
use crate::ids::fresh_id;
use crate::state::AppState;
use crate::words::now;

/// Seconds that a batch may take at most.
const WINDOW_SECONDS_MAX: u64 = 7 * 86_400;
/// Pairs of metadata, and characters of a key and a value.
const PAIRS_MAX: usize = 16;
const KEY_MAX: usize = 64;
const VALUE_MAX: usize = 512;
/// Bytes of all keys and values.
const METADATA_BYTES_MAX: usize = 16 << 10;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBatch {
    /// Id of the file with its lines.
    pub input_file: String,
    /// What answers them.
    pub endpoint: LineEndpoint,
    /// How long it may take: as it was said, and in seconds.
    pub window: (String, u64),
    /// What is to be remembered.
    pub metadata: BTreeMap<String, String>,
    /// For how long its results are kept, in seconds.
    pub output_seconds: u64,
}

/// Parses the body of `POST /v1/batches`.
///
/// # Errors
/// The first invalid field.
pub fn parse(fields: &mut Fields) -> Result<NewBatch, ApiError> {
    let missing = |key: &'static str, allowed: &str| wrong(key, &Value::Null, allowed);
    let input_file = fields.text("input_file_id")?;
    let input_file = input_file.ok_or_else(|| missing("input_file_id", "the id of a file of POST /v1/files"))?;
    let given = fields.text("endpoint")?.unwrap_or_default();
    let endpoint = LineEndpoint::OPENAI.into_iter().find(|endpoint| endpoint.path() == given).ok_or_else(|| {
        let paths = LineEndpoint::OPENAI.map(LineEndpoint::path).join(", ");
        wrong("endpoint", &given.as_str().into(), &format!("one of {paths}"))
    })?;
    let given = fields.text("completion_window")?.unwrap_or_default();
    let seconds = window(&given).ok_or_else(|| {
        wrong("completion_window", &given.as_str().into(), "a time up to 7d, such as 24h (with d, h, m or s)")
    })?;
    let output_seconds = match fields.object("output_expires_after", "an object with anchor and seconds")? {
        None => KEPT_SECONDS,
        Some(given) => {
            let anchor = given.get("anchor").and_then(Value::as_str);
            kept_seconds(anchor, given.get("seconds").and_then(Value::as_u64), true)?
        }
    };
    let metadata = metadata(fields)?;
    Ok(NewBatch { input_file, endpoint, window: (given, seconds), metadata, output_seconds })
}

/// Seconds of a time such as `24h`.
fn window(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let number: u64 = digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))?;
    number.checked_mul(unit).filter(|seconds| (1..=WINDOW_SECONDS_MAX).contains(seconds))
}

fn metadata(fields: &mut Fields) -> Result<BTreeMap<String, String>, ApiError> {
    let allowed = format!(
        "an object of at most {PAIRS_MAX} texts: keys to {KEY_MAX} characters, values to {VALUE_MAX}, {METADATA_BYTES_MAX} bytes in all"
    );
    let Some(given) = fields.object("metadata", &allowed)? else { return Ok(BTreeMap::new()) };
    let bad = || wrong("metadata", &given.clone().into(), &allowed);
    let bytes: usize = given.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if given.len() > PAIRS_MAX || bytes > METADATA_BYTES_MAX {
        return Err(bad());
    }
    let pair = |(key, value): (&String, &Value)| {
        let value = value.as_str().filter(|value| value.chars().count() <= VALUE_MAX)?;
        (key.chars().count() <= KEY_MAX).then(|| (key.clone(), value.to_string()))
    };
    given.iter().map(pair).collect::<Option<_>>().ok_or_else(bad)
}

/// A batch that is to be made, of the owner and key of a request.
pub(super) fn fresh(head: &Parts, form: Form, new: NewBatch) -> Batch {
    let created_at = now();
    let prefix = if form == Form::OpenAi { "batch_" } else { "msgbatch_" };
    Batch {
        id: fresh_id(prefix),
        owner: owner_of(head),
        key: head.extensions.get::<Caller>().map(|caller| caller.key().to_string()),
        form,
        endpoint: new.endpoint.path().to_string(),
        input_file: new.input_file,
        window: new.window.0,
        metadata: new.metadata,
        output_file: fresh_id("file-"),
        error_file: fresh_id("file-"),
        output_seconds: new.output_seconds,
        status: Status::Validating,
        errors: Vec::new(),
        counts: Counts::default(),
        serial: 0,
        created_at,
        expires_at: created_at.saturating_add(new.window.1),
        in_progress_at: None,
        finalizing_at: None,
        cancelling_at: None,
        ended_at: None,
    }
}

/// A batch in OpenAI's form. Files of results are named when they are there.
fn described(state: &AppState, batch: &Batch) -> Value {
    let store = state.batches.as_ref().map(|batches| &batches.store);
    let there = |id: &str| store.is_some_and(|store| store.file(&batch.owner, id).is_ok());
    let result = |id: &str| (batch.status.ended() && there(id)).then(|| id.to_string());
    let ended = |status: Status| batch.ended_at.filter(|_| batch.status == status);
    let errors: Vec<Value> = batch
        .errors
        .iter()
        .map(|e| json!({"code": e.code, "message": e.message, "param": e.param, "line": e.line}))
        .collect();
    let Counts { total, completed, failed, .. } = batch.counts;
    json!({
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": (!errors.is_empty()).then(|| json!({"object": "list", "data": errors})),
        "input_file_id": batch.input_file,
        "completion_window": batch.window,
        "status": batch.status.word(),
        "output_file_id": result(&batch.output_file),
        "error_file_id": result(&batch.error_file),
        "created_at": batch.created_at,
        "in_progress_at": batch.in_progress_at,
        "expires_at": batch.expires_at,
        "finalizing_at": batch.finalizing_at,
        "completed_at": ended(Status::Completed),
        "failed_at": ended(Status::Failed),
        "expired_at": ended(Status::Expired),
        "cancelling_at": batch.cancelling_at,
        "cancelled_at": ended(Status::Cancelled),
        "request_counts": {"total": total, "completed": completed, "failed": failed},
        "metadata": (!batch.metadata.is_empty()).then_some(&batch.metadata),
    })
}

/// `POST /v1/batches`
pub async fn create(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, content) = request.into_parts();
    let made = async |content: Body| {
        let batches = kept(&state, &head)?;
        let content = read_json(&state, &head, content).await?;
        let batch = fresh(&head, Form::OpenAi, parse(&mut Fields::parse(&content.bytes)?)?);
        let batch = batches.work(move |store| store.create(batch, Input::File)).await?;
        batches.tell();
        Ok::<_, ApiError>(batch)
    };
    match made(content).await {
        Ok(batch) => axum::Json(described(&state, &batch)).into_response(),
        Err(error) if error.status == StatusCode::NOT_FOUND && error.code == "not_found" => {
            refused(error.of("input_file_id"), &head)
        }
        Err(error) => refused(error, &head),
    }
}

/// `GET /v1/batches`
pub async fn list(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let outcome = || {
        let (listing, store, owner) = (Listing::of(&head, 20, 100)?, &kept(&state, &head)?.store, owner_of(&head));
        let (ids, more) = listing.page(store.batch_ids(&owner, Form::OpenAi), |id| id, ["after", "before"])?;
        // One that has gone meanwhile is left out.
        let batches = ids.iter().filter_map(|id| store.batch(&owner, Form::OpenAi, id).ok());
        Ok(listed(batches.map(|batch| described(&state, &batch)).collect(), more))
    };
    answered(outcome(), &head)
}

/// `GET /v1/batches/{batch}`
pub async fn one(
    State(state): State<Arc<AppState>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let outcome =
        || Ok::<_, ApiError>(kept(&state, &head)?.store.batch(&owner_of(&head), Form::OpenAi, &id_in(id)?)?);
    answered(outcome().map(|batch| described(&state, &batch)), &head)
}

/// Tells a batch to stop. One that is being put together ends by itself.
pub(super) async fn stop(state: &AppState, head: &Parts, form: Form, id: String) -> Result<Batch, ApiError> {
    let (batches, owner) = (kept(state, head)?, owner_of(head));
    let batch = batches
        .work(move |store| {
            let batch = store.batch(&owner, form, &id)?;
            if batch.status.ended() {
                let why = "has ended and cannot be cancelled";
                return Err(batches::StoreError::State { id, why });
            }
            store.change(&id, |batch| {
                if matches!(batch.status, Status::Validating | Status::InProgress) {
                    (batch.status, batch.cancelling_at) = (Status::Cancelling, Some(now()));
                }
            })
        })
        .await?;
    batches.tell();
    Ok(batch)
}

/// `POST /v1/batches/{batch}/cancel`
pub async fn cancel(
    State(state): State<Arc<AppState>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let outcome = async { stop(&state, &head, Form::OpenAi, id_in(id)?).await };
    answered(outcome.await.map(|batch| described(&state, &batch)), &head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(change: impl FnOnce(&mut Value)) -> Result<NewBatch, ApiError> {
        let mut body = json!({"input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h"});
        change(&mut body);
        parse(&mut Fields::parse(body.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn a_batch_says_its_file_endpoint_and_time() {
        let new = parsed(|body| body["metadata"] = json!({"a": "b"})).unwrap();
        assert_eq!((new.endpoint, new.window.1, new.output_seconds), (LineEndpoint::Embeddings, 86_400, 2_592_000));
        assert_eq!(new.metadata, BTreeMap::from([("a".to_string(), "b".to_string())]));
        for (key, value, param) in [
            ("input_file_id", json!(null), "input_file_id"),
            ("input_file_id", json!(7), "input_file_id"),
            ("endpoint", json!("/v1/messages"), "endpoint"),
            ("endpoint", json!(null), "endpoint"),
            ("completion_window", json!("25"), "completion_window"),
            ("completion_window", json!(null), "completion_window"),
            ("metadata", json!({"a": 1}), "metadata"),
            ("metadata", json!({"a": "x".repeat(513)}), "metadata"),
            ("metadata", json!({"x".repeat(65): "b"}), "metadata"),
            (
                "metadata",
                json!((0..17).map(|n| (n.to_string(), json!("b"))).collect::<serde_json::Map<_, _>>()),
                "metadata",
            ),
            (
                "metadata",
                json!(
                    (0..16).map(|n| (n.to_string(), json!("\u{1f600}".repeat(512)))).collect::<serde_json::Map<_, _>>()
                ),
                "metadata",
            ),
            ("output_expires_after", json!({"anchor": "created_at"}), "expires_after.seconds"),
        ] {
            assert_eq!(
                parsed(|body| body[key] = value.clone()).unwrap_err().param.as_deref(),
                Some(param),
                "{key} {value}"
            );
        }
    }

    #[test]
    fn times_have_units() {
        for (text, seconds) in [("24h", Some(86_400)), ("90m", Some(5400)), ("2s", Some(2)), ("7d", Some(604_800))] {
            assert_eq!(window(text), seconds, "{text}");
        }
        for bad in ["", "h", "24", "0s", "8d", "-1h", "+1h", "1.5h", "24H", "99999999999999999999h", "1ä"] {
            assert_eq!(window(bad), None, "{bad}");
        }
    }
}
