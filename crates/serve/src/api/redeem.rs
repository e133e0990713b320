//! `POST /invitations/redeem`: a code is turned into an account and a key. Whoever has a code has no key yet, so this route needs none.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use ledger::json;
use serde_json::Value;

use crate::api::answer::{Answer, of_ledger};
use crate::api::fields::{Fields, wrong};
use crate::error::{ApiError, refused};
use crate::http::client::Client;
use crate::http::metering;
use crate::http::request_body::read_json_within;
use crate::state::AppState;

/// Bytes of a body.
const BODY_BYTES_MAX: usize = 4 << 10;

pub(crate) async fn redeem(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, content) = request.into_parts();
    match redeemed(&state, &head, content).await {
        Ok(answer) => answer.into_response(),
        Err(error) => refused(error, &head),
    }
}

async fn redeemed(state: &AppState, head: &Parts, content: Body) -> Result<Answer, ApiError> {
    let metering = Arc::clone(metering::of(state)?);
    let content = read_json_within(state, head, content, BODY_BYTES_MAX).await?;
    let mut fields = Fields::parse(&content.bytes)?;
    let mut text = |key: &'static str, what: &str| {
        let text = fields.text(key)?;
        text.ok_or_else(|| wrong(key, &Value::Null, what))
    };
    let (code, name) = (text("code", "the code of an invitation")?, text("name", "the name of the new account")?);
    if !metering.ledger().is_code(&code).await.map_err(of_ledger)? {
        return Err(wrong_code(state, head));
    }
    // Of its own: it goes on where the client leaves, and is logged.
    let redeemed = tokio::spawn(async move {
        let redeemed = metering.ledger().redeem(&code, &name).await?;
        if let Some((account, key, _)) = &redeemed {
            tracing::info!(target: "farthing", account = account.id, key = key.id, "invitation redeemed");
        }
        let object = |(account, key, secret)| json::with_secret(metering.ledger().key_object(&key, &account), &secret);
        Ok(redeemed.map(object))
    });
    let redeemed = redeemed.await.map_err(|error| ApiError::fault(error.to_string()))?.map_err(of_ledger)?;
    redeemed.map(Answer::Object).ok_or_else(|| wrong_code(state, head))
}

/// One answer for unknown, used-up, revoked and expired codes, and another after too many of them. Codes that are right are taken whatever came before.
fn wrong_code(state: &AppState, head: &Parts) -> ApiError {
    let address = head.extensions.get().copied().unwrap_or_else(Client::unknown).address;
    let Err(wait) = state.redeem_tries.take(address, Instant::now()) else {
        let message = "the code is not accepted; ask for another invitation";
        return ApiError::new(StatusCode::FORBIDDEN, "invitation_refused", message);
    };
    let seconds = wait.as_secs() + 1;
    let message = format!("too many codes that are not accepted; try again in {seconds} s");
    let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message);
    ApiError { retry: Some(seconds), ..error }
}
