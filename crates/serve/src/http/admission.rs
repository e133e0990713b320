//! Admission of requests: hosts, API keys, framing, and refusal during shutdown.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::Request;
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::watch;

use crate::error::ApiError;
use crate::http::access_log::plain;
use crate::http::api_keys::{Account, ApiKeys};
use crate::http::client::Proxy;
use crate::http::hosts::Hosts;
use crate::http::metering::{Caller, Metering};

/// The route that is for people without a key.
pub(crate) const REDEEM: &str = "/invitations/redeem";

/// Who may use the server, and from where.
#[derive(Default)]
pub struct Access {
    /// API keys; without any, everybody may use the server.
    pub keys: ApiKeys,
    /// Keys of administrators, who see metrics that could tell one account what another does.
    pub admin_keys: ApiKeys,
    /// The books of keys, requests and balances; beside them `keys` has none.
    pub metering: Option<Arc<Metering>>,
    /// Host names that the server answers to.
    pub hosts: Hosts,
    /// Proxies trusted to report the client's address.
    pub proxies: Vec<Proxy>,
    /// Show `/metrics` without a key.
    pub open_metrics: bool,
    /// Show `/v1/models` without a key, to routers that learn there what to send here.
    pub open_models: bool,
    /// Origins of web pages that may use the server; without any, no CORS headers are sent.
    pub origins: Vec<Origin>,
    /// Show browsers the page.
    pub page: bool,
}

/// An origin of web pages, `https://example.org`, or `*` for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(pub(crate) HeaderValue);

impl Origin {
    /// Any origin.
    pub fn any() -> Origin {
        Origin(HeaderValue::from_static("*"))
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Origin, String> {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        let fit = text == "*" || host.is_some_and(|host| !host.is_empty() && host.chars().all(plain));
        let value = HeaderValue::from_str(text).ok().filter(|_| fit);
        value
            .map(Origin)
            .ok_or_else(|| "an origin is https://host, with a port where it has one and no path, or *".to_string())
    }
}

/// Admission of requests: access, shutdown, and the number of active requests.
pub(crate) struct Admission {
    pub(crate) access: Access,
    shutting_down: AtomicBool,
    /// Requests between their head and the end of their response.
    pub(crate) active: watch::Sender<usize>,
}

impl Admission {
    pub(crate) fn new(access: Access) -> Admission {
        Admission { access, shutting_down: AtomicBool::new(false), active: watch::Sender::new(0) }
    }

    /// Refuses new requests from now on.
    pub(crate) fn shut_down(&self) {
        self.shutting_down.store(true, Ordering::Release);
    }

    pub(crate) fn shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Acquire)
    }

    /// Waits until no request is active.
    pub(crate) async fn wait_idle(&self) {
        let _ = self.active.subscribe().wait_for(|&n| n == 0).await;
    }

    /// Whether everybody may use the server.
    pub(crate) fn open(&self) -> bool {
        self.access.keys.is_empty() && self.access.metering.is_none()
    }

    /// Whether a request comes from an administrator. Without any keys, everybody is one.
    pub(crate) fn is_admin(&self, headers: &HeaderMap, extensions: &Extensions) -> bool {
        self.has_admin_key(headers, extensions) || (self.access.admin_keys.is_empty() && self.open())
    }

    /// Whether a key of an administrator was given. Without such keys there is nobody.
    pub(crate) fn has_admin_key(&self, headers: &HeaderMap, extensions: &Extensions) -> bool {
        self.administrator(headers, extensions).is_some()
    }

    /// Whose key of an administrator was given, for the log: the id of a key in the ledger, or which one of the file.
    pub(crate) fn administrator(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<String> {
        let keys = &self.access.admin_keys;
        let in_file = || (!keys.is_empty()).then(|| keys.account(headers)).flatten();
        let caller = extensions.get::<Caller>().and_then(Caller::administrator);
        caller.or_else(|| in_file().map(|account| format!("admin key {:016x}", account.id)))
    }

    /// Refuses what is not worth a look at its key: other hosts' requests, and bodies whose length is not clear.
    pub(crate) fn check(&self, request: &Request) -> Result<(), ApiError> {
        self.access.hosts.check(request)?;
        check_framing(request)
    }

    /// The account of an admitted request, if it needs one.
    pub(crate) fn admit(&self, request: &Request) -> Result<Option<Account>, ApiError> {
        let path = request.uri().path();
        if path == "/health" {
            return Ok(None);
        }
        if self.shutting_down() {
            let message = "the server is shutting down; try again".to_string();
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "ending", message));
        }
        let admin = self.is_admin(request.headers(), request.extensions());
        // Probes have no keys.
        // Metrics show who is active when, to the token: public only without keys, or with --open-metrics.
        let open = match path {
            "/" | "/ready" => true,
            // Files of the page, which are the same for everybody.
            path if path.strip_prefix("/page/").is_some_and(|file| !file.is_empty() && !file.contains('/')) => true,
            "/metrics" => self.access.open_metrics || admin,
            "/v1/models" if self.access.open_models => true,
            // An administrator has no account; what these show and do is no account's.
            "/v1/models" | "/models/load" | "/models/unload" | "/api/pull" | "/api/delete" | "/api/tags"
            | "/api/ps" | "/api/show" => admin,
            // Whoever has an invitation has no key yet.
            REDEEM => self.access.metering.is_some(),
            path => admin && path.starts_with("/admin/"),
        };
        let account = match &self.access.metering {
            Some(_) => request.extensions().get::<Caller>().and_then(Caller::account),
            None => self.access.keys.account(request.headers()),
        };
        if account.is_none() && !open {
            if self.has_admin_key(request.headers(), request.extensions()) {
                let message = "an administrator's key opens /admin, /metrics, /v1/models, /models/load and /models/unload, and Ollama's /api/tags, /api/ps, /api/show, /api/pull and /api/delete; send an API key here";
                return Err(ApiError::new(StatusCode::FORBIDDEN, "admin_key", message));
            }
            let message = "no key, or one that is unknown here, revoked or expired; send it as `Authorization: Bearer KEY` or `x-api-key: KEY`";
            let (status, code) = (StatusCode::UNAUTHORIZED, "invalid_api_key");
            return Err(ApiError::new(status, code, message));
        }
        if path == "/metrics" && !open && (self.access.metering.is_some() || self.access.keys.len() > 1) {
            return Err(ApiError::admins_only("metrics tell accounts of each other, and are shown"));
        }
        Ok(account)
    }
}

/// Marks a request that gives both Content-Length and Transfer-Encoding.
#[derive(Clone, Copy)]
pub(crate) struct ConflictingLengths;

/// Refuses a body with two lengths, or with a transfer coding other than chunked (RFC 9112, section 6.1).
fn check_framing(request: &Request) -> Result<(), ApiError> {
    if request.extensions().get::<ConflictingLengths>().is_some() {
        let message = "both Content-Length and Transfer-Encoding are given; give one of them";
        return Err(ApiError::bad("two_lengths", message));
    }
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).into_iter();
    let fit = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    let Some(other) = codings.next().filter(|first| !fit(first)).or(codings.next()) else { return Ok(()) };
    let coding = plain(&String::from_utf8_lossy(other.as_bytes()), 100);
    let message = format!("Transfer-Encoding is {coding:?}; only chunked is understood: send the body as it is");
    Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, "transfer_coding_unsupported", message))
}
