//! `/user/balance`, `/user/key` and `/user/usage`: what a key may still use, and what was used with it.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use ledger::{GroupBy, ReportQuery};

use crate::api::answer::{Answer, Query, as_csv, days, of_ledger, sums, told};
use crate::error::{ApiError, refused};
use crate::http::metering;
use crate::state::AppState;

/// Days of a report at most.
const DAYS_MAX: u64 = 366;

type Route = MethodRouter<Arc<AppState>>;

/// Routes of the owner of a key: method, path and handler.
pub(crate) fn routes() -> Vec<(&'static str, &'static str, Route)> {
    vec![
        // DeepSeek's.
        ("GET", "/user/balance", get(balance)),
        ("GET", "/user/key", get(key)),
        ("GET", "/user/usage", get(usage)),
    ]
}

fn respond(outcome: Result<Answer, ApiError>, head: &Parts) -> Response {
    match outcome {
        Ok(answer) => answer.into_response(),
        Err(error) => refused(error, head),
    }
}

async fn balance(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    respond(metering::balance(&state, &head).await.map(Answer::Object), &head)
}

async fn key(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    respond(own_key(&state, &head).await, &head)
}

async fn own_key(state: &AppState, head: &Parts) -> Result<Answer, ApiError> {
    let (metering, id) = metering::own_key(state, head)?;
    Query::parse(&head.uri)?.end()?;
    let ledger = metering.ledger();
    let key = ledger.key(&id).await.map_err(of_ledger)?;
    let account = ledger.account(&key.account).await.map_err(of_ledger)?;
    let left = ledger.left(&id).await.map_err(of_ledger)?;
    Ok(Answer::Object(ledger.key_with_left(&key, &account, &left)))
}

async fn usage(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    respond(own_usage(&state, &head).await, &head)
}

/// Sums of the key's own requests, or of its whole account.
async fn own_usage(state: &AppState, head: &Parts) -> Result<Answer, ApiError> {
    let (metering, id) = metering::own_key(state, head)?;
    let ledger = metering.ledger();
    let mut query = Query::parse(&head.uri)?;
    let by = query.word("by", &[GroupBy::Day, GroupBy::Model].map(|by| (by.name(), by)))?;
    let account = query.word("of", &[("key", false), ("account", true)])?;
    let as_csv = as_csv(&mut query)?;
    let sums = sums(days(&mut query, ledger.now(), DAYS_MAX)?, by);
    query.end()?;
    let report = if account {
        let key = ledger.key(&id).await.map_err(of_ledger)?;
        ReportQuery { account: Some(key.account), ..sums }
    } else {
        ReportQuery { key: Some(id), ..sums }
    };
    Ok(told(ledger.report(&report).await.map_err(of_ledger)?, as_csv))
}
