//! The admin API: accounts, keys, invitations, usage and prices of the ledger, for administrators' keys.
//!
//! Answers are the objects that `farthing keys`, `accounts`, `invitations` and `usage` print with `--json`. A change is carried out and logged with who made
//! it, also where the client leaves before it is answered. Secrets are in the answer that makes them and nowhere else.

mod accounts;
mod invitations;
mod keys;
mod usage;

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use ledger::{Ledger, Money};
use serde_json::{Map, Value};

use crate::api::answer::{Answer, Query, of_ledger};
use crate::api::fields::{Fields, wrong};
use crate::error::{ApiError, refused};
use crate::http::access_log::plain;
use crate::http::metering::{self, Metering};
use crate::http::request_body::read_json_within;
use crate::http::routes::check_metered;
use crate::state::AppState;

type Route = MethodRouter<Arc<AppState>>;

/// Bytes of a body.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Longest time for which the old secret of a key is still accepted: a hundred years.
const GRACE_MS_MAX: u64 = 36_500 * 86_400_000;

/// Single requests or entries of an answer: at most, and where the query does not say.
const ROWS_MAX: u32 = 10_000;
const ROWS: u32 = 100;

/// Routes of the admin API: method, path and handler.
pub(crate) fn routes() -> Vec<(&'static str, &'static str, Route)> {
    vec![
        ("GET", "/admin/keys", reads(keys::list)),
        ("POST", "/admin/keys", changes(keys::create)),
        ("GET", "/admin/keys/{key}", reads(keys::show)),
        ("POST", "/admin/keys/{key}/limits", changes(keys::limit)),
        ("POST", "/admin/keys/{key}/rotate", changes(keys::rotate)),
        ("POST", "/admin/keys/{key}/revoke", changes(keys::revoke)),
        ("GET", "/admin/accounts", reads(accounts::list)),
        ("POST", "/admin/accounts", changes(accounts::create)),
        ("GET", "/admin/accounts/{account}", reads(accounts::show)),
        ("DELETE", "/admin/accounts/{account}", deletes(accounts::remove)),
        ("POST", "/admin/accounts/{account}/credit", changes(accounts::credit)),
        ("POST", "/admin/accounts/{account}/deduct", changes(accounts::deduct)),
        ("GET", "/admin/accounts/{account}/entries", reads(accounts::entries)),
        ("GET", "/admin/invitations", reads(invitations::list)),
        ("POST", "/admin/invitations", changes(invitations::create)),
        ("POST", "/admin/invitations/{invitation}/revoke", changes(invitations::revoke)),
        ("GET", "/admin/usage", reads(usage::report)),
        ("GET", "/admin/prices", reads(usage::prices)),
    ]
}

fn reads<F: Future<Output = Result<Answer, ApiError>> + Send + 'static>(work: fn(AdminRequest) -> F) -> Route {
    get(move |State(state): State<Arc<AppState>>, path: Result<Path<String>, PathRejection>, request: Request| {
        handle(state, path, request, work)
    })
}

fn changes<F: Future<Output = Result<Answer, ApiError>> + Send + 'static>(work: fn(AdminRequest) -> F) -> Route {
    post(move |State(state): State<Arc<AppState>>, path: Result<Path<String>, PathRejection>, request: Request| {
        handle(state, path, request, work)
    })
}

fn deletes<F: Future<Output = Result<Answer, ApiError>> + Send + 'static>(work: fn(AdminRequest) -> F) -> Route {
    delete(move |State(state): State<Arc<AppState>>, path: Result<Path<String>, PathRejection>, request: Request| {
        handle(state, path, request, work)
    })
}

/// A request of an administrator.
struct AdminRequest {
    metering: Arc<Metering>,
    /// Who asks, for the log.
    by: String,
    /// What is named in the path, by id or name.
    name: String,
    query: Query,
    fields: Fields,
}

impl AdminRequest {
    fn ledger(&self) -> &Ledger {
        self.metering.ledger()
    }

    /// Writes a change to the log: who, what, and on which object.
    fn log(&self, what: &str, on: &str) {
        tracing::info!(target: "farthing", by = self.by, on = plain(on, 200), "{what}");
    }
}

async fn handle<F: Future<Output = Result<Answer, ApiError>> + Send + 'static>(
    state: Arc<AppState>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
    work: fn(AdminRequest) -> F,
) -> Response {
    let (head, content) = request.into_parts();
    let outcome = async {
        let request = administered(&state, &head, path, content).await?;
        // Of its own: it goes on where the client leaves.
        tokio::spawn(work(request)).await.map_err(|error| ApiError::fault(error.to_string()))?
    };
    match outcome.await {
        Ok(answer) => answer.into_response(),
        Err(error) => refused(error, &head),
    }
}

/// Reads a request of an administrator.
async fn administered(
    state: &AppState,
    head: &Parts,
    path: Result<Path<String>, PathRejection>,
    content: Body,
) -> Result<AdminRequest, ApiError> {
    let metering = Arc::clone(metering::of(state)?);
    let Some(by) = state.admission.administrator(&head.headers, &head.extensions) else {
        let message = "accounts, keys and usage of all are for an administrator's key: one of `farthing keys create NAME --admin`, or of --admin-key-file";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "admin_key_needed", message));
    };
    let name = match path {
        Ok(Path(name)) if name.contains('\0') => {
            return Err(ApiError::bad("invalid_path", "the path has a NUL, and no name has one"));
        }
        Ok(Path(name)) => name,
        // Paths without a name.
        Err(PathRejection::FailedToDeserializePathParams(_)) if !head.uri.path().contains('%') => String::new(),
        Err(_) => return Err(ApiError::bad("invalid_path", "the path is not UTF-8 where it is percent-encoded")),
    };
    let query = Query::parse(&head.uri)?;
    let empty = head.method != Method::POST || content.size_hint().exact() == Some(0);
    let fields = if empty {
        Fields::of(Map::new())
    } else {
        Fields::parse(&read_json_within(state, head, content, BODY_BYTES_MAX).await?.bytes)?
    };
    Ok(AdminRequest { metering, by, name, query, fields })
}

/// Refuses fields that are not known: a limit that is misspelt would not hold.
fn end(fields: &Fields) -> Result<(), ApiError> {
    match fields.unknown().first() {
        Some(name) => Err(ApiError::bad("unknown_field", format!("{name} is no field of this request")).of(name)),
        None => Ok(()),
    }
}

/// A text that must be there.
fn required(fields: &mut Fields, key: &'static str, what: &str) -> Result<String, ApiError> {
    let text = fields.text(key)?;
    text.ok_or_else(|| wrong(key, &Value::Null, what))
}

/// An amount of money, in micro-units.
fn amount(fields: &mut Fields, key: &'static str) -> Result<Option<Money>, ApiError> {
    let most = ledger::AMOUNT_MAX.0.unsigned_abs();
    Ok(fields.count(key, 1, most)?.map(|micros| Money(micros as i64)))
}

/// When something expires, in milliseconds since 1970; 0 is never.
fn expires_at(fields: &mut Fields) -> Result<Option<i64>, ApiError> {
    Ok(fields.count("expires_at", 0, i64::MAX.unsigned_abs())?.map(|ms| ms as i64))
}

/// An object of limits, if there is one. Its endpoints are some that a server has.
fn patch(fields: &mut Fields) -> Result<Option<Map<String, Value>>, ApiError> {
    let patch = fields.object("limits", "an object such as {\"requests_per_minute\": 60}")?;
    let endpoints = patch.as_ref().and_then(|patch| patch.get("endpoints")?.as_array());
    for path in endpoints.into_iter().flatten().filter_map(Value::as_str) {
        check_metered(path).map_err(|why| ApiError::bad("invalid_value", why).of("limits"))?;
    }
    Ok(patch)
}

/// How many rows an answer has at most: `most` of the query.
fn most(query: &mut Query, beside: &str) -> Result<u32, ApiError> {
    let Some(text) = query.take("most") else { return Ok(ROWS) };
    let most = text.parse::<u32>().ok().filter(|most| (1..=ROWS_MAX).contains(most));
    most.ok_or_else(|| wrong("most", &text.into(), &format!("a whole number from 1 to {ROWS_MAX}{beside}")))
}

/// The answer with an object of the ledger.
fn object(value: Value) -> Result<Answer, ApiError> {
    Ok(Answer::Object(value))
}
