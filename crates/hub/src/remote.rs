//! Requests to the hub: redirects, the token, retries and what the answers mean.

use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::client::proxy::matcher::Matcher;
use ureq::http::header::{ACCEPT_ENCODING, AUTHORIZATION, LOCATION, RANGE, RETRY_AFTER};
use ureq::http::{HeaderValue, Response, StatusCode, Uri};
use ureq::{Agent, Body, BodyReader, Proxy};
use url::Url;

use crate::cache::Cache;
use crate::download::Progress;
use crate::error::HubError;
use crate::listing;
use crate::name::Name;
use crate::select::Listing;
use crate::settings::Settings;

const REDIRECTS_MAX: usize = 10;
const JSON_MAX: u64 = 64 << 20;
/// Longest pause between attempts that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Longest pause of our own.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often a wait looks whether it was stopped.
const GLANCE: Duration = Duration::from_millis(50);
/// Bytes read at a time.
const PIECE: usize = 64 << 10;
const WORKERS: usize = 4;

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
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    endpoint: Url,
    token: Option<HeaderValue>,
    /// Proxies by the environment; none for a hub on this machine.
    proxies: Option<Matcher>,
    pub(crate) cache: Cache,
    pub(crate) patience: Patience,
}

/// Whether a wait is to end.
pub(crate) type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

/// Requests that are stopped together.
pub(crate) struct Session<'a> {
    pub(crate) hub: &'a Hub,
    pub(crate) stop: Stop<'a>,
    agent: Agent,
}

/// Why an attempt failed.
pub(crate) enum AttemptError {
    /// Another attempt would fail too.
    Final(HubError),
    /// There was no connection.
    Unreachable(String),
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
        let authorization = |token: &String| {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| HubError::Setting {
                variable: "HF_TOKEN".to_string(),
                why: "the token holds characters that no header takes; copy it again".to_string(),
            })?;
            value.set_sensitive(true);
            Ok(value)
        };
        let token = settings.token.as_ref().map(authorization).transpose()?;
        // No proxy can reach this machine's own addresses.
        let proxies = (!is_loopback(&endpoint)).then(Matcher::from_env);
        let cache = Cache::new(settings.cache.clone());
        Ok(Hub { settings, endpoint, token, proxies, cache, patience })
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Ask what the repository holds. A hub that cannot be reached is an error at once: nothing has begun that could go on.
    pub fn listing(&self, name: &Name, progress: &dyn Progress) -> Result<Listing, HubError> {
        name.check()?;
        self.online(|| format!("the listing of {name}"))?;
        let mut parts = vec!["api", "models"];
        parts.extend(name.repository.split('/'));
        parts.extend(["revision", name.revision()]);
        let mut url = self.url(&parts);
        url.set_query(Some("blobs=true"));
        let bytes = Mutex::new(Vec::new());
        self.share(&[url], &|| progress.cancelled(), |session, url| {
            let answer = session.fetch(url, Asked::Listing(name), (JSON_MAX, None), progress)?;
            *bytes.lock().unwrap_or_else(PoisonError::into_inner) = answer;
            Ok(())
        })?;
        listing::read(&name.repository, &bytes.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Refuse where the network is forbidden.
    pub(crate) fn online(&self, what: impl Fn() -> String) -> Result<(), HubError> {
        if self.settings.offline { Err(HubError::Offline { what: what() }) } else { Ok(()) }
    }

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

    fn session<'a>(&'a self, stop: Stop<'a>) -> Session<'a> {
        let config = Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .proxy(None)
            .timeout_resolve(Some(self.patience.connect))
            .timeout_connect(Some(self.patience.connect))
            .timeout_recv_response(Some(self.patience.idle))
            .timeout_per_read(Some(self.patience.idle))
            .user_agent(concat!("farthing/", env!("CARGO_PKG_VERSION")))
            .build();
        Session { hub: self, stop, agent: config.into() }
    }

    /// Does `work` for all items, a few at a time. The first error stops the others and is returned.
    pub(crate) fn share<T: Sync>(
        &self,
        items: &[T],
        stop: Stop,
        work: impl Fn(&Session, &T) -> Result<(), HubError> + Sync,
    ) -> Result<(), HubError> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let first: Mutex<Option<HubError>> = Mutex::new(None);
        let fail = |error| {
            first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            failed.store(true, Ordering::Relaxed);
        };
        let stopped = || failed.load(Ordering::Relaxed) || stop();
        let session = self.session(&stopped);
        let watcher = std::thread::current();
        let run = || {
            while !failed.load(Ordering::Relaxed) {
                let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                work(&session, item).unwrap_or_else(fail);
            }
            watcher.unpark();
        };
        std::thread::scope(|scope| {
            let spawn = || std::thread::Builder::new().name("hub".to_string()).spawn_scoped(scope, run);
            let workers: Vec<_> = (0..WORKERS.min(items.len())).filter_map(|_| spawn().ok()).collect();
            if workers.is_empty() && !items.is_empty() {
                fail(HubError::Client { why: "the system starts no more threads".to_string() });
            }
            while !workers.iter().all(|worker| worker.is_finished()) {
                if stopped() {
                    // Ends the reads that the workers wait for.
                    return session.agent.clone().shutdown();
                }
                std::thread::park_timeout(GLANCE);
            }
        });
        first.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// The proxy for an address, by the environment.
    fn proxy(&self, url: &Url) -> Option<Proxy> {
        let uri: Uri = url.as_str().parse().ok()?;
        self.proxies.as_ref()?.intercept(&uri)?;
        let names = if url.scheme() == "https" { ["HTTPS_PROXY", "https_proxy"] } else { ["HTTP_PROXY", "http_proxy"] };
        let given = names.into_iter().chain(["ALL_PROXY", "all_proxy"]).find_map(|name| std::env::var(name).ok());
        Proxy::new(&given?).ok()
    }

    fn judge(
        &self,
        response: Response<Body>,
        url: &Url,
        left: bool,
        asked: Asked,
    ) -> Result<Response<Body>, AttemptError> {
        let code = response.status();
        let name = asked.name();
        match code.as_u16() {
            200 | 206 | 416 => Ok(response),
            // A storage host answers so when a signed address has expired: the endpoint gives a new one.
            401 | 403 if left => Err(AttemptError::Again(format!("the storage host answers {code}"), None)),
            401 | 403 => {
                let repository = name.repository.clone();
                let endpoint = self.settings.endpoint.trim_end_matches('/');
                let mut step = format!("accept the licence at {endpoint}/{repository} and set HF_TOKEN");
                if self.token.is_some() {
                    step.push_str(" to a token of the account that accepted it");
                } else if code == StatusCode::UNAUTHORIZED {
                    step.push_str("; or the name is wrong, as the hub answers so for unknown repositories too");
                }
                Err(AttemptError::Final(HubError::Gated { repository, status: code.as_u16(), step }))
            }
            404 | 410 => {
                let code = response.headers().get("x-error-code").and_then(|c| c.to_str().ok()).unwrap_or_default();
                Err(AttemptError::Final(not_found(asked, code)))
            }
            408 | 429 | 500..=599 => {
                let seconds = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
                let after = seconds.map(|s| Duration::from_secs(s).min(RETRY_AFTER_MAX));
                Err(AttemptError::Again(format!("the hub answers {code}"), after))
            }
            _ => Err(AttemptError::Final(status(url, code))),
        }
    }
}

impl Session<'_> {
    /// Fetches a whole answer of at most so many bytes, or the first `prefix` bytes of one, with retries.
    pub(crate) fn fetch(
        &self,
        url: &Url,
        asked: Asked,
        (limit, prefix): (u64, Option<u64>),
        progress: &dyn Progress,
    ) -> Result<Vec<u8>, HubError> {
        let mut retry = Retry::new(self, url);
        loop {
            match self.fetch_once(url, asked, limit, prefix) {
                Ok(bytes) => return Ok(bytes),
                Err(AttemptError::Unreachable(why)) if matches!(asked, Asked::Listing(_)) => {
                    return Err(HubError::Unreachable { endpoint: shown(&self.hub.endpoint), why });
                }
                Err(failure) => retry.pause(failure, &|why| progress.note(&format!("{}: {why}", asked.words())))?,
            }
        }
    }

    fn fetch_once(&self, url: &Url, asked: Asked, limit: u64, prefix: Option<u64>) -> Result<Vec<u8>, AttemptError> {
        let range = prefix.map(|bytes| format!("bytes=0-{}", bytes.saturating_sub(1)));
        let response = self.open(url, range.as_deref(), asked)?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(AttemptError::Again("the range is refused".to_string(), None));
        }
        let limit = prefix.unwrap_or(limit);
        let mut bytes: Vec<u8> = Vec::new();
        let mut body = response.into_body().into_reader();
        // One byte more shows that there are more.
        let most = if prefix.is_some() { limit } else { limit + 1 };
        self.read(&mut body, most, &mut |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
        match prefix {
            None if bytes.len() as u64 > limit => {
                let repository = asked.name().repository.clone();
                let why = format!("the answer has more than {limit} bytes");
                Err(AttemptError::Final(HubError::Listing { repository, why }))
            }
            Some(wanted) if (bytes.len() as u64) < wanted => {
                Err(AttemptError::Again(format!("{} bytes came of {wanted}", bytes.len()), None))
            }
            _ => Ok(bytes),
        }
    }

    /// Sends a request and follows its redirects. The response is 200, 206 or 416.
    pub(crate) fn open(&self, url: &Url, range: Option<&str>, asked: Asked) -> Result<Response<Body>, AttemptError> {
        let hub = self.hub;
        let mut url = url.clone();
        // Once a redirect has left the endpoint, no later request is its own.
        let mut left = false;
        for _ in 0..=REDIRECTS_MAX {
            left |= !same_origin(&url, &hub.endpoint);
            let request = self.agent.get(url.as_str()).header(ACCEPT_ENCODING, "identity");
            let mut request = request.config().proxy(hub.proxy(&url)).build();
            if let (false, Some(token)) = (left, &hub.token) {
                request = request.header(AUTHORIZATION, token.clone());
            }
            if let Some(range) = range {
                request = request.header(RANGE, range);
            }
            let response = request.call().map_err(|e| self.failure(e))?;
            let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
            let (true, Some(location)) = (response.status().is_redirection(), location) else {
                return hub.judge(response, &url, left, asked);
            };
            let Some(next) = redirected(&url, location) else {
                return Err(AttemptError::Final(status(&url, response.status())));
            };
            url = next;
        }
        let why = format!("more than {REDIRECTS_MAX} redirects");
        Err(AttemptError::Final(HubError::Connection { url: shown(&url), why, attempts: 1 }))
    }

    /// Reads a body to its end, or `most` bytes of it, piece by piece.
    pub(crate) fn read(
        &self,
        body: &mut BodyReader,
        most: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<(), AttemptError>,
    ) -> Result<(), AttemptError> {
        let mut piece = vec![0; PIECE];
        let mut rest = most;
        while rest > 0 {
            if (self.stop)() {
                return Err(AttemptError::Final(HubError::Cancelled));
            }
            let room = piece.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            let read = body.read(&mut piece[..room]).map_err(|e| self.failure(e.into()))?;
            if read == 0 {
                break;
            }
            take(&piece[..read])?;
            rest -= read as u64;
        }
        Ok(())
    }

    fn failure(&self, error: ureq::Error) -> AttemptError {
        let Patience { connect, idle, .. } = self.hub.patience;
        let silent = |limit: Duration| format!("nothing came for {:.1} s", limit.as_secs_f64());
        match error {
            _ if (self.stop)() => AttemptError::Final(HubError::Cancelled),
            ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => {
                AttemptError::Unreachable(silent(connect))
            }
            ureq::Error::Timeout(_) => AttemptError::Again(silent(idle), None),
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => AttemptError::Unreachable(words(&error)),
            ureq::Error::Io(ref io) if !was_connected(io.kind()) => AttemptError::Unreachable(words(&error)),
            other => AttemptError::Again(words(&other), None),
        }
    }
}

impl Asked<'_> {
    fn name(&self) -> &Name {
        match self {
            Asked::Listing(name) | Asked::File(name, _) => name,
        }
    }

    /// What it is, for notes.
    fn words(&self) -> &str {
        match self {
            Asked::Listing(name) => &name.repository,
            Asked::File(_, file) => file,
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

pub(crate) struct Retry<'a> {
    session: &'a Session<'a>,
    url: String,
    failures: u32,
}

impl Retry<'_> {
    pub(crate) fn new<'a>(session: &'a Session<'a>, url: &Url) -> Retry<'a> {
        Retry { session, url: shown(url), failures: 0 }
    }

    /// There was progress: count anew.
    pub(crate) fn progress(&mut self) {
        self.failures = 0;
    }

    /// Waits for the next attempt, or says why there is none.
    pub(crate) fn pause(&mut self, failure: AttemptError, note: &dyn Fn(&str)) -> Result<(), HubError> {
        let (why, after) = match failure {
            AttemptError::Final(error) => return Err(error),
            AttemptError::Unreachable(why) => (why, None),
            AttemptError::Again(why, after) => (why, after),
        };
        let patience = self.session.hub.patience;
        self.failures += 1;
        if self.failures >= patience.attempts {
            return Err(HubError::Connection { url: self.url.clone(), why, attempts: self.failures });
        }
        let own = patience.pause.saturating_mul(1 << (self.failures - 1).min(16)).min(PAUSE_MAX);
        let pause = own.max(after.unwrap_or_default());
        note(&format!("{why}; trying again in {:.1} s", pause.as_secs_f64()));
        let start = Instant::now();
        while !(self.session.stop)() {
            let rest = pause.saturating_sub(start.elapsed());
            if rest.is_zero() {
                return Ok(());
            }
            std::thread::sleep(rest.min(GLANCE));
        }
        Err(HubError::Cancelled)
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

/// Whether an error of this kind is one of a connection that was there. A name that is not resolved has a kind without a name.
fn was_connected(kind: ErrorKind) -> bool {
    use ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, InvalidData, NotConnected, TimedOut,
        UnexpectedEof, WouldBlock,
    };
    matches!(
        kind,
        ConnectionReset
            | ConnectionAborted
            | BrokenPipe
            | UnexpectedEof
            | NotConnected
            | InvalidData
            | TimedOut
            | Interrupted
            | WouldBlock
    )
}

/// An error of the client in one line, down to its cause.
fn words(error: &ureq::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
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
