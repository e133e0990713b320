//! Requests to the hub: redirects, the token, retries and what the answers mean.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderValue, LOCATION, RANGE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::cache::Cache;
use crate::choice::Listing;
use crate::error::HubError;
use crate::listing;
use crate::name::Name;
use crate::settings::Settings;
use crate::workers::share;

/// Redirects followed for one request.
const REDIRECTS_MAX: usize = 10;
/// Largest JSON answer.
const JSON_MAX: u64 = 64 << 20;
/// Longest pause between attempts that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Longest pause of our own.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often a wait looks whether it was stopped.
const GLANCE: Duration = Duration::from_millis(50);

/// How long the network is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the next bytes of an answer.
    pub idle: Duration,
    /// Before the second attempt; each further pause is twice as long.
    pub pause: Duration,
    /// Attempts since the last progress.
    pub attempts: u32,
}

impl Default for Patience {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Patience { connect: 10 * second, idle: 30 * second, pause: second, attempts: 5 }
    }
}

/// A hub, as the settings name it.
pub struct Hub {
    settings: Settings,
    endpoint: Url,
    token: Option<HeaderValue>,
    client: Client,
    pub(crate) cache: Cache,
    pub(crate) patience: Patience,
    handle: Handle,
    runtime: Option<Runtime>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("settings", &self.settings).field("patience", &self.patience).finish()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // A plain drop of a runtime waits, which panics inside another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Whether a wait is to end.
pub(crate) type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

/// Why an attempt failed.
pub(crate) enum Failure {
    /// Another attempt would fail too.
    Final(HubError),
    /// Another attempt may do, after the pause that the server asks for.
    Again(String, Option<Duration>),
}

/// What a request is for, in words for errors.
#[derive(Clone, Copy)]
pub(crate) enum Asked<'a> {
    Listing(&'a Name),
    File(&'a Name, &'a str),
}

impl Hub {
    /// A hub with the usual patience.
    pub fn new(settings: Settings) -> Result<Hub, HubError> {
        Hub::with_patience(settings, Patience::default())
    }

    /// A hub with other waiting times.
    pub fn with_patience(settings: Settings, patience: Patience) -> Result<Hub, HubError> {
        let wrong = |why: String| HubError::Setting { variable: "HF_ENDPOINT".to_string(), why };
        let endpoint = Url::parse(&settings.endpoint)
            .map_err(|e| wrong(format!("it is no address ({e}); write it like https://huggingface.co")))?;
        let plain = endpoint.username().is_empty() && endpoint.password().is_none();
        let bare = endpoint.query().is_none() && endpoint.fragment().is_none();
        if !["http", "https"].contains(&endpoint.scheme()) || endpoint.host_str().is_none() || !plain || !bare {
            let why =
                "it must be http or https with a host, without user, query or fragment, like https://huggingface.co";
            return Err(wrong(why.to_string()));
        }
        let token = match &settings.token {
            None => None,
            Some(token) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| HubError::Setting {
                    variable: "HF_TOKEN".to_string(),
                    why: "the token holds characters that no header takes; copy it again".to_string(),
                })?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let failed = |why: String| HubError::Client { why };
        let mut client = Client::builder()
            .redirect(Policy::none())
            .referer(false)
            .connect_timeout(patience.connect)
            .user_agent(concat!("farthing/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&endpoint) {
            // No proxy can reach this machine's own addresses.
            client = client.no_proxy();
        }
        let client = client.build().map_err(|e| failed(words(e)))?;
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|e| failed(e.to_string()))?;
        let cache = Cache::new(settings.cache.clone());
        let handle = runtime.handle().clone();
        Ok(Hub { settings, endpoint, token, client, cache, patience, handle, runtime: Some(runtime) })
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Ask what the repository holds.
    pub fn listing(&self, name: &Name) -> Result<Listing, HubError> {
        name.check()?;
        self.online(|| format!("the listing of {name}"))?;
        let mut parts = vec!["api", "models"];
        parts.extend(name.repository.split('/'));
        parts.extend(["revision", name.revision()]);
        let mut url = self.url(&parts);
        url.set_query(Some("blobs=true"));
        let bytes = self.apart(|| self.fetch(&url, Asked::Listing(name), JSON_MAX, None, &|| false))?;
        listing::read(&name.repository, &bytes)
    }

    /// Refuse where the network is forbidden.
    pub(crate) fn online(&self, what: impl Fn() -> String) -> Result<(), HubError> {
        if self.settings.offline { Err(HubError::Offline { what: what() }) } else { Ok(()) }
    }

    /// Address of a file.
    pub(crate) fn file_url(&self, name: &Name, commit: &str, path: &str) -> Url {
        let parts = name.repository.split('/').chain(["resolve", commit]).chain(path.split('/'));
        self.url(&parts.collect::<Vec<_>>())
    }

    fn url(&self, parts: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        // An http address always has segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(parts);
        }
        url
    }

    /// Wait for a future. Not from a thread of a runtime: see `apart`.
    pub(crate) fn wait<F: Future>(&self, future: F) -> F::Output {
        self.handle.block_on(future)
    }

    /// Do `work` on a thread of its own, where waiting is allowed whatever the caller is.
    pub(crate) fn apart<T: Send>(&self, work: impl Fn() -> Result<T, HubError> + Sync) -> Result<T, HubError> {
        let given = std::sync::Mutex::new(None);
        share(&[()], &AtomicBool::new(false), |()| {
            let result = work()?;
            if let Ok(mut given) = given.lock() {
                *given = Some(result);
            }
            Ok(())
        })?;
        let lost = || HubError::Client { why: "a thread gave no result".to_string() };
        given.into_inner().ok().flatten().ok_or_else(lost)
    }

    /// Fetch a whole answer of at most `limit` bytes, or the first `prefix` bytes of one, with retries.
    pub(crate) fn fetch(
        &self,
        url: &Url,
        asked: Asked,
        limit: u64,
        prefix: Option<u64>,
        stop: Stop,
    ) -> Result<Vec<u8>, HubError> {
        self.wait(async {
            let mut retry = Retry::new(self.patience, url);
            loop {
                match self.fetch_once(url, asked, limit, prefix, stop).await {
                    Ok(bytes) => return Ok(bytes),
                    Err(failure) => retry.pause(failure, stop, &|_| {}).await?,
                }
            }
        })
    }

    async fn fetch_once(
        &self,
        url: &Url,
        asked: Asked<'_>,
        limit: u64,
        prefix: Option<u64>,
        stop: Stop<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let range = prefix.map(|bytes| format!("bytes=0-{}", bytes.saturating_sub(1)));
        let mut response = self.open(url, range.as_deref(), asked, stop).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(Failure::Again("the range is refused".to_string(), None));
        }
        let limit = prefix.unwrap_or(limit);
        let mut bytes: Vec<u8> = Vec::new();
        while let Some(chunk) = self.chunk(&mut response, stop).await? {
            bytes.extend_from_slice(&chunk);
            if prefix.is_some() && bytes.len() as u64 >= limit {
                bytes.truncate(limit as usize);
                return Ok(bytes);
            }
            if bytes.len() as u64 > limit {
                let repository = asked.name().repository.clone();
                let why = format!("the answer has more than {limit} bytes");
                return Err(Failure::Final(HubError::Listing { repository, why }));
            }
        }
        match prefix {
            Some(wanted) => Err(Failure::Again(format!("{} bytes came of {wanted}", bytes.len()), None)),
            None => Ok(bytes),
        }
    }

    /// Send a request and follow its redirects. What comes back is 200, 206 or 416.
    pub(crate) async fn open(
        &self,
        url: &Url,
        range: Option<&str>,
        asked: Asked<'_>,
        stop: Stop<'_>,
    ) -> Result<Response, Failure> {
        let mut url = url.clone();
        // Once a redirect has left the endpoint, no later request is its own.
        let mut left = false;
        for _ in 0..=REDIRECTS_MAX {
            left |= !same_origin(&url, &self.endpoint);
            let mut request = self.client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
            if let (false, Some(token)) = (left, &self.token) {
                request = request.header(AUTHORIZATION, token.clone());
            }
            if let Some(range) = range {
                request = request.header(RANGE, range);
            }
            let sent = patient(request.send(), self.patience.connect + self.patience.idle, stop).await?;
            let response = sent.map_err(|e| Failure::Again(words(e), None))?;
            let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
            let (true, Some(location)) = (response.status().is_redirection(), location) else {
                return self.judge(response, &url, left, asked);
            };
            let Some(next) = redirected(&url, location) else {
                return Err(Failure::Final(status(&url, response.status())));
            };
            url = next;
        }
        let why = format!("more than {REDIRECTS_MAX} redirects");
        Err(Failure::Final(HubError::Connection { url: shown(&url), why, attempts: 1 }))
    }

    /// What a status means.
    fn judge(&self, response: Response, url: &Url, left: bool, asked: Asked<'_>) -> Result<Response, Failure> {
        let code = response.status();
        let name = asked.name();
        match code.as_u16() {
            200 | 206 | 416 => Ok(response),
            // A storage host answers so when a signed address has expired: the endpoint gives a new one.
            401 | 403 if left => Err(Failure::Again(format!("the storage host answers {code}"), None)),
            401 | 403 => {
                let repository = name.repository.clone();
                let endpoint = self.settings.endpoint.trim_end_matches('/');
                let mut step = format!("accept the licence at {endpoint}/{repository} and set HF_TOKEN");
                if self.token.is_some() {
                    step.push_str(" to a token of the account that accepted it");
                } else if code == StatusCode::UNAUTHORIZED {
                    step.push_str("; or the name is wrong, as the hub answers so for unknown repositories too");
                }
                Err(Failure::Final(HubError::Gated { repository, status: code.as_u16(), step }))
            }
            404 | 410 => {
                let code = response.headers().get("x-error-code").and_then(|c| c.to_str().ok()).unwrap_or_default();
                Err(Failure::Final(not_found(asked, code)))
            }
            408 | 429 | 500..=599 => {
                let seconds = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
                let after = seconds.map(|s| Duration::from_secs(s).min(RETRY_AFTER_MAX));
                Err(Failure::Again(format!("the hub answers {code}"), after))
            }
            _ => Err(Failure::Final(status(url, code))),
        }
    }

    /// The next bytes of an answer, or `None` at its end.
    pub(crate) async fn chunk(&self, response: &mut Response, stop: Stop<'_>) -> Result<Option<Vec<u8>>, Failure> {
        let chunk = patient(response.chunk(), self.patience.idle, stop).await?;
        chunk.map(|bytes| bytes.map(Vec::from)).map_err(|e| Failure::Again(words(e), None))
    }
}

impl Asked<'_> {
    fn name(&self) -> &Name {
        match self {
            Asked::Listing(name) | Asked::File(name, _) => name,
        }
    }
}

fn not_found(asked: Asked, code: &str) -> HubError {
    let name = asked.name();
    let repository = format!("the repository {}", name.repository);
    let revision = format!("the revision {} of {}", name.revision(), name.repository);
    let (what, step) = match asked {
        Asked::File(_, file) => (format!("the file {file} of {}", name.repository), "pull again for a fresh listing"),
        Asked::Listing(_) if code == "RevisionNotFound" => (revision, "look up its branches and tags at the hub"),
        Asked::Listing(_) if code != "RepoNotFound" && name.revision.is_some() => {
            (format!("{repository} or its revision {}", name.revision()), "check both names")
        }
        Asked::Listing(_) => (repository, "check the name; a private one needs HF_TOKEN"),
    };
    HubError::NotFound { what, step: step.to_string() }
}

/// Attempts at one thing.
pub(crate) struct Retry {
    patience: Patience,
    url: String,
    failures: u32,
}

impl Retry {
    pub(crate) fn new(patience: Patience, url: &Url) -> Retry {
        Retry { patience, url: shown(url), failures: 0 }
    }

    /// There was progress: count anew.
    pub(crate) fn progress(&mut self) {
        self.failures = 0;
    }

    /// Wait for the next attempt, or say why there is none.
    pub(crate) async fn pause(
        &mut self,
        failure: Failure,
        stop: Stop<'_>,
        note: &dyn Fn(&str),
    ) -> Result<(), HubError> {
        let (why, after) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Again(why, after) => (why, after),
        };
        self.failures += 1;
        if self.failures >= self.patience.attempts {
            return Err(HubError::Connection { url: self.url.clone(), why, attempts: self.failures });
        }
        let own = self.patience.pause.saturating_mul(1 << (self.failures - 1).min(16)).min(PAUSE_MAX);
        let pause = own.max(after.unwrap_or_default());
        note(&format!("{why}; trying again in {:.1} s", pause.as_secs_f64()));
        match patient(std::future::pending::<()>(), pause, stop).await {
            Err(Failure::Final(error)) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Wait for a future, at most for `limit`, and look now and then whether to stop.
async fn patient<F: Future>(future: F, limit: Duration, stop: Stop<'_>) -> Result<F::Output, Failure> {
    let mut future = pin!(future);
    let start = Instant::now();
    loop {
        if stop() {
            return Err(Failure::Final(HubError::Cancelled));
        }
        let rest = limit.saturating_sub(start.elapsed());
        if let Ok(output) = tokio::time::timeout(rest.min(GLANCE), &mut future).await {
            return Ok(output);
        }
        if start.elapsed() >= limit {
            return Err(Failure::Again(format!("nothing came for {:.1} s", limit.as_secs_f64()), None));
        }
    }
}

/// Where a redirect leads; `None` where it must not: to another scheme than http and https, or from https to http.
fn redirected(from: &Url, location: &str) -> Option<Url> {
    let mut next = from.join(location).ok()?;
    if next.scheme() != "https" && (next.scheme() != "http" || from.scheme() == "https") {
        return None;
    }
    // Credentials in a redirect's address are not ours to send.
    let _ = next.set_username("");
    let _ = next.set_password(None);
    Some(next)
}

fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host_str() == b.host_str() && a.port_or_known_default() == b.port_or_known_default()
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An address without its query, which may hold a signature.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

fn status(url: &Url, code: StatusCode) -> HubError {
    HubError::Status { url: shown(url), status: code.as_u16() }
}

/// An error of the client in one line, down to its cause.
fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_origin(&Url::parse(a).unwrap(), &Url::parse(b).unwrap());
        assert!(same("https://h/x", "https://h:443/y"));
        assert!(!same("https://h/", "http://h/"));
        assert!(!same("https://h/", "https://h:444/"));
        assert!(!same("https://h/", "https://h.evil/"));
    }

    #[test]
    fn redirects_do_not_leave_https() {
        let to = |from: &str, location: &str| redirected(&Url::parse(from).unwrap(), location).map(String::from);
        assert_eq!(to("https://h/a", "https://u:p@s/b").as_deref(), Some("https://s/b"));
        assert_eq!(to("https://h/a", "/b").as_deref(), Some("https://h/b"));
        assert_eq!(to("http://h/a", "http://s/b").as_deref(), Some("http://s/b"));
        assert_eq!(to("http://h/a", "https://s/b").as_deref(), Some("https://s/b"));
        for (from, location) in [
            ("https://h/a", "http://h/a"),
            ("https://h/a", "http://s/b"),
            ("http://h/a", "ftp://s/b"),
            ("https://h/a", "file:///etc/passwd"),
            ("http://h/a", "http://"),
        ] {
            assert_eq!(to(from, location), None, "{from} to {location}");
        }
    }

    #[test]
    fn endpoints_that_are_none_are_refused() {
        for endpoint in ["", "huggingface.co", "ftp://h", "file:///etc", "https://u:p@h", "https://h?x=1"] {
            let settings =
                Settings { cache: "/nowhere".into(), endpoint: endpoint.into(), token: None, offline: false };
            assert!(matches!(Hub::new(settings), Err(HubError::Setting { .. })), "{endpoint}");
        }
    }
}
