//! A hub on loopback: what is pulled, resumed, refused and found again.

mod server;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hub::{Cache, Hub, HubError, Listing, Name, Patience, Progress, RemoteFile, Selection, Settings, choose};
use server::{Reply, Repository, Request, Server, git_sha1, noise, ranged, sha256};
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";

/// Progress that remembers, and that may stop the pull after so many bytes.
#[derive(Default)]
struct Watch {
    said: Mutex<Vec<String>>,
    bytes: AtomicU64,
    limit: Option<u64>,
}

impl Watch {
    fn said(&self, part: &str) -> bool {
        self.said.lock().unwrap().iter().any(|line| line.contains(part))
    }

    fn push(&self, line: String) {
        self.said.lock().unwrap().push(line);
    }
}

impl Progress for Watch {
    fn file(&self, path: &str, size: u64, there: u64) {
        self.push(format!("file {path} {there}/{size}"));
    }
    fn advance(&self, _: &str, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }
    fn note(&self, text: &str) {
        assert!(!text.contains('\n'));
        self.push(format!("note {text}"));
    }
    fn finished(&self, path: &str) {
        self.push(format!("finished {path}"));
    }
    fn cancelled(&self) -> bool {
        self.limit.is_some_and(|limit| self.bytes.load(Ordering::SeqCst) >= limit)
    }
}

/// An empty cache and settings for it.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("hub")
    }

    fn cache(&self) -> Cache {
        Cache::new(self.root())
    }

    fn settings(&self, endpoint: &str) -> Settings {
        let token = Some("hf_secret".to_string());
        Settings { cache: self.root(), endpoint: endpoint.to_string(), token, offline: false }
    }

    fn hub(&self, server: &Server) -> Hub {
        let patience = Patience {
            connect: Duration::from_secs(2),
            idle: Duration::from_millis(300),
            pause: Duration::from_millis(2),
            attempts: 5,
        };
        Hub::with_patience(self.settings(&server.url()), patience).unwrap()
    }

    fn repository(&self) -> PathBuf {
        self.root().join("models--org--model")
    }

    fn incomplete(&self, blob: &str) -> PathBuf {
        self.repository().join(format!("blobs/{blob}.incomplete"))
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn pull_as(hub: &Hub, text: &str, progress: &dyn Progress) -> Result<PathBuf, HubError> {
    let name = name(text);
    let listing = hub.listing(&name)?;
    let selection = choose(&listing, &name)?;
    hub.pull(&name, &listing, &selection, progress)
}

fn pull(hub: &Hub, progress: &dyn Progress) -> Result<PathBuf, HubError> {
    pull_as(hub, "org/model", progress)
}

fn sound(repository: &Repository) -> Server {
    let repository = repository.clone();
    Server::start(move |request| repository.answer(request))
}

/// A hub whose weights are answered by `odd`, which knows how many requests for them came before.
fn odd(repository: &Repository, odd: impl Fn(usize, &Request, &[u8]) -> Reply + Send + Sync + 'static) -> Server {
    let repository = repository.clone();
    let count = AtomicUsize::new(0);
    Server::start(move |request| {
        if request.path.ends_with(WEIGHTS) {
            return odd(count.fetch_add(1, Ordering::SeqCst), request, repository.bytes(WEIGHTS));
        }
        repository.answer(request)
    })
}

fn assert_whole(path: &Path, repository: &Repository) {
    for file in ["config.json", "tokenizer.json", WEIGHTS] {
        assert_eq!(std::fs::read(path.join(file)).unwrap(), repository.bytes(file), "{file}");
    }
}

#[test]
fn a_pull_lays_the_cache_out_as_the_python_tools_do() {
    let (place, repository) = (Place::new(), Repository::model());
    let server = sound(&repository);
    assert_eq!(place.cache().find(&name("org/model")).unwrap(), None);
    let watch = Watch::default();
    let path = pull(&place.hub(&server), &watch).unwrap();
    assert_whole(&path, &repository);
    let root = place.repository();
    assert_eq!(path, root.join("snapshots").join(&repository.commit));
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), repository.commit);
    for file in ["config.json", WEIGHTS] {
        let link = std::fs::read_link(path.join(file)).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(repository.blob(file)));
    }
    assert!(!path.join("README.md").exists());
    let left = std::fs::read_dir(root.join("blobs")).unwrap().count();
    assert_eq!(left, 3, "no incomplete files are left");
    assert!(watch.said("finished model.safetensors"));
    let sizes = ["config.json", "tokenizer.json", WEIGHTS].map(|f| repository.bytes(f).len() as u64);
    assert_eq!(watch.bytes.load(Ordering::SeqCst), sizes.iter().sum::<u64>());
    for request in server.requests() {
        assert_eq!(request.headers["authorization"], "Bearer hf_secret");
        assert!(request.headers["user-agent"].starts_with("farthing/"));
    }

    // The second run asks nobody.
    drop(server);
    assert_eq!(place.cache().find(&name("org/model")).unwrap(), Some(path.clone()));
    let commit = format!("org/model@{}", repository.commit);
    assert_eq!(place.cache().find(&name(&commit)).unwrap(), Some(path));
    assert_eq!(place.cache().find(&name("org/model@other")).unwrap(), None);
    assert_eq!(place.cache().by_short_name("MODEL").unwrap(), [name("org/model")]);
    assert!(place.cache().by_short_name("mode").unwrap().is_empty());
}

#[test]
fn a_second_pull_fetches_nothing_again() {
    let (place, repository) = (Place::new(), Repository::model());
    let server = sound(&repository);
    let hub = place.hub(&server);
    pull(&hub, &Watch::default()).unwrap();
    let watch = Watch::default();
    pull(&hub, &watch).unwrap();
    assert_eq!(server.requests_for(WEIGHTS).len(), 1);
    assert_eq!(watch.bytes.load(Ordering::SeqCst), 0);
    assert!(watch.said("finished model.safetensors"));
}

#[test]
fn revisions_with_slashes_are_asked_for_and_kept() {
    let (place, repository) = (Place::new(), Repository::model());
    let server = sound(&repository);
    let path = pull_as(&place.hub(&server), "org/model@refs/pr/3", &Watch::default()).unwrap();
    assert_eq!(server.requests()[0].path, "/api/models/org/model/revision/refs%2Fpr%2F3?blobs=true");
    assert_eq!(place.cache().find(&name("org/model@refs/pr/3")).unwrap(), Some(path));
    assert_eq!(place.cache().find(&name("org/model")).unwrap(), None);
}

#[test]
fn the_token_stays_with_the_endpoint() {
    let (place, repository) = (Place::new(), Repository::model());
    let bytes = repository.bytes(WEIGHTS).to_vec();
    let endpoint = Arc::new(Mutex::new(String::new()));
    // The storage host sends back to the endpoint once more; that request is no longer the endpoint's own.
    let back = endpoint.clone();
    let storage = Server::start(move |request| {
        if request.path.starts_with("/first") {
            return Reply::new(302, "").header("Location", format!("{}/back", back.lock().unwrap()));
        }
        ranged(&bytes, request)
    });
    let (to, there) = (storage.url().replace("http://", "http://user:pass@"), repository.clone());
    let host = storage.address.port();
    let server = Server::start(move |request| match request.path.as_str() {
        "/back" => Reply::new(307, "").header("Location", format!("http://localhost:{host}/last?sig=1")),
        path if path.ends_with(WEIGHTS) => Reply::new(302, "").header("Location", "/moved?x=1"),
        "/moved?x=1" => Reply::new(302, "").header("Location", format!("{to}/first")),
        _ => there.answer(request),
    });
    *endpoint.lock().unwrap() = server.url();
    assert_whole(&pull(&place.hub(&server), &Watch::default()).unwrap(), &repository);
    assert_eq!(server.requests_for("/moved?x=1")[0].headers["authorization"], "Bearer hf_secret");
    assert_eq!(server.requests_for(WEIGHTS)[0].headers["authorization"], "Bearer hf_secret");
    assert_eq!(storage.requests().len(), 2);
    for request in storage.requests().iter().chain(&server.requests_for("/back")) {
        assert!(!request.headers.contains_key("authorization"), "{request:?}");
    }
}

#[test]
fn redirects_end() {
    let place = Place::new();
    let server = Server::start(|_| Reply::new(302, "").header("Location", "/again"));
    let error = place.hub(&server).listing(&name("org/model")).unwrap_err();
    assert!(error.to_string().contains("10 redirects"), "{error}");
    assert_eq!(server.requests().len(), 11);
    let server = Server::start(|_| Reply::new(302, "").header("Location", "file:///etc/passwd"));
    let error = place.hub(&server).listing(&name("org/model")).unwrap_err();
    assert!(matches!(error, HubError::Status { status: 302, .. }), "{error}");
}

#[test]
fn a_broken_connection_is_gone_on_with() {
    let (place, repository) = (Place::new(), Repository::model());
    let half = repository.bytes(WEIGHTS).len() / 2;
    let server = odd(&repository, |count, request, bytes| {
        let reply = ranged(bytes, request);
        if count == 0 { reply.halved() } else { reply }
    });
    let watch = Watch::default();
    assert_whole(&pull(&place.hub(&server), &watch).unwrap(), &repository);
    let froms: Vec<_> = server.requests_for(WEIGHTS).iter().map(Request::from).collect();
    assert_eq!(froms, [None, Some(half)]);
    assert!(watch.said("trying again"));
}

#[test]
fn a_body_that_stays_short_is_an_error_after_five_attempts_without_progress() {
    let (place, repository) = (Place::new(), Repository::model());
    let server = odd(&repository, |_, request, bytes| ranged(&bytes[..1000], request));
    let error = pull(&place.hub(&server), &Watch::default()).unwrap_err();
    assert!(matches!(error, HubError::Connection { attempts: 5, .. }), "{error}");
    assert_eq!(place.cache().find(&name("org/model")).unwrap(), None);
}

#[test]
fn a_server_that_starts_over_and_breaks_makes_no_progress() {
    for breaks in [true, false] {
        let (place, repository) = (Place::new(), Repository::model());
        // In the middle, or with an end where there should be more.
        let server = odd(&repository, move |_, _, bytes| {
            if breaks { Reply::new(200, bytes).halved() } else { Reply::new(200, &bytes[..bytes.len() / 2]) }
        });
        let error = pull(&place.hub(&server), &Watch::default()).unwrap_err();
        assert!(matches!(error, HubError::Connection { .. }), "{error}");
        assert!(server.requests_for(WEIGHTS).len() <= 7, "{}", server.requests_for(WEIGHTS).len());
    }
}

#[test]
fn a_server_without_ranges_starts_over() {
    let (place, repository) = (Place::new(), Repository::model());
    let server = odd(&repository, |count, _, bytes| {
        let reply = Reply::new(200, bytes);
        if count == 0 { reply.halved() } else { reply }
    });
    assert_whole(&pull(&place.hub(&server), &Watch::default()).unwrap(), &repository);
    assert_eq!(server.requests_for(WEIGHTS).len(), 2);
}

#[test]
fn wrong_and_refused_ranges_start_over() {
    for kind in 0..3 {
        let (place, repository) = (Place::new(), Repository::model());
        let server = odd(&repository, move |count, request, bytes| match (count, kind) {
            (0, _) => ranged(bytes, request).halved(),
            (1, 0) => Reply::new(416, ""),
            // The right bytes under a wrong name, and the wrong bytes under none.
            (1, 1) => {
                Reply { headers: vec![("Content-Range".into(), "bytes 7-9/10".into())], ..ranged(bytes, request) }
            }
            (1, _) => Reply::new(206, &bytes[..1000]),
            _ => ranged(bytes, request),
        });
        assert_whole(&pull(&place.hub(&server), &Watch::default()).unwrap(), &repository);
        let froms: Vec<_> = server.requests_for(WEIGHTS).iter().map(|r| r.from().is_some()).collect();
        assert_eq!(froms, [false, true, false], "kind {kind}");
    }
}

#[test]
fn a_silent_server_is_left_and_a_slow_one_is_not() {
    let (place, repository) = (Place::new(), Repository::model());
    let server = odd(&repository, |count, request, bytes| {
        let reply = ranged(bytes, request);
        if count == 0 { Reply { silence: Duration::from_secs(20), ..reply.halved() } } else { reply }
    });
    let (start, watch) = (Instant::now(), Watch::default());
    assert_whole(&pull(&place.hub(&server), &watch).unwrap(), &repository);
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(watch.said("nothing came for 0.3 s"));
    assert!(server.requests_for(WEIGHTS)[1].from().is_some());

    let place = Place::new();
    let slow = odd(&repository, |_, request, bytes| Reply {
        pieces: Some((12, Duration::from_millis(60))),
        ..ranged(bytes, request)
    });
    let start = Instant::now();
    assert_whole(&pull(&place.hub(&slow), &Watch::default()).unwrap(), &repository);
    assert!(start.elapsed() > Duration::from_millis(600), "longer than the idle limit as a whole");
    assert_eq!(slow.requests_for(WEIGHTS).len(), 1);
}

#[test]
fn wrong_bytes_twice_are_an_error_and_nothing_counts() {
    for small in [false, true] {
        let (place, repository) = (Place::new(), Repository::model());
        let there = repository.clone();
        let server = Server::start(move |request| {
            let mut reply = there.answer(request);
            if request.path.ends_with(if small { "config.json" } else { WEIGHTS }) {
                reply.body[3] ^= 1;
            }
            reply
        });
        let error = pull(&place.hub(&server), &Watch::default()).unwrap_err();
        let HubError::Checksum { file, expected, found } = &error else { panic!("{error}") };
        assert_eq!(file, if small { "config.json" } else { WEIGHTS });
        assert_eq!(*expected, repository.blob(file));
        assert_ne!(found, expected);
        assert!(!place.incomplete(expected).exists());
        assert!(!place.repository().join("blobs").join(expected).exists());
        assert_eq!(server.requests_for(file).len(), 2);
        assert_eq!(place.cache().find(&name("org/model")).unwrap(), None);
        assert!(!place.repository().join("refs/main").exists());
    }
}

#[test]
fn wrong_bytes_once_are_fetched_again_from_the_start() {
    let (place, repository) = (Place::new(), Repository::model());
    // The start that an earlier pull left is wrong.
    std::fs::create_dir_all(place.repository().join("blobs")).unwrap();
    std::fs::write(place.incomplete(&repository.blob(WEIGHTS)), noise(5000, 99)).unwrap();
    let server = sound(&repository);
    let watch = Watch::default();
    assert_whole(&pull(&place.hub(&server), &watch).unwrap(), &repository);
    let froms: Vec<_> = server.requests_for(WEIGHTS).iter().map(Request::from).collect();
    assert_eq!(froms, [Some(5000), None]);
    assert!(watch.said("the bytes are wrong"));
}

#[test]
fn more_bytes_than_announced_are_refused() {
    let (place, repository) = (Place::new(), Repository::model());
    let server = odd(&repository, |_, _, bytes| Reply::new(200, [bytes, b"more"].concat()));
    let error = pull(&place.hub(&server), &Watch::default()).unwrap_err();
    assert!(matches!(&error, HubError::Checksum { found, .. } if found.starts_with("more than")), "{error}");
    assert_eq!(place.cache().find(&name("org/model")).unwrap(), None);
}

#[test]
fn a_gated_repository_says_what_to_do() {
    for (status, token) in [(401, false), (401, true), (403, false), (403, true)] {
        let place = Place::new();
        let server = Server::start(move |_| Reply::new(status, "{}"));
        let mut settings = place.settings(&server.url());
        settings.token = settings.token.filter(|_| token);
        let error = Hub::new(settings).unwrap().listing(&name("org/model")).unwrap_err();
        assert!(matches!(error, HubError::Gated { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("accept the licence at {}/org/model and set HF_TOKEN", server.url())), "{text}");
        assert_eq!(text.contains("the name is wrong"), status == 401 && !token, "{text}");
        assert!(!text.contains("hf_secret") && !text.contains('\n'));
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn a_storage_host_that_refuses_is_asked_by_a_fresh_redirect() {
    let (place, repository) = (Place::new(), Repository::model());
    let (bytes, count) = (repository.bytes(WEIGHTS).to_vec(), AtomicUsize::new(0));
    let storage = Server::start(move |request| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(403, "expired"),
        _ => ranged(&bytes, request),
    });
    let to = storage.url();
    let server = odd(&repository, move |_, _, _| Reply::new(302, "").header("Location", format!("{to}/w")));
    assert_whole(&pull(&place.hub(&server), &Watch::default()).unwrap(), &repository);
    assert_eq!(server.requests_for(WEIGHTS).len(), 2);
}

#[test]
fn what_is_not_there_is_said_in_words() {
    let place = Place::new();
    for (code, asked, said) in [
        ("RepoNotFound", "org/none", "the repository org/none is not at the hub"),
        ("RevisionNotFound", "org/none@v9", "the revision v9 of org/none is not at the hub"),
        ("", "org/none@v9", "the repository org/none or its revision v9 is not at the hub"),
        ("", "org/none", "the repository org/none is not at the hub"),
    ] {
        let server = Server::start(move |_| Reply::new(404, "").header("X-Error-Code", code));
        let error = place.hub(&server).listing(&name(asked)).unwrap_err();
        assert!(matches!(error, HubError::NotFound { .. }) && error.to_string().contains(said), "{error}");
    }
    let repository = Repository::model();
    let server = odd(&repository, |_, _, _| Reply::new(404, ""));
    let error = pull(&place.hub(&server), &Watch::default()).unwrap_err();
    assert!(error.to_string().contains("the file model.safetensors of org/model is not at the hub"), "{error}");
    let server = Server::start(|_| Reply::new(418, ""));
    let error = place.hub(&server).listing(&name("org/model")).unwrap_err();
    assert!(matches!(error, HubError::Status { status: 418, .. }), "{error}");
}

#[test]
fn a_server_that_is_busy_is_asked_again() {
    let (place, repository) = (Place::new(), Repository::model());
    let (there, listings) = (repository.clone(), AtomicUsize::new(0));
    let files = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        if request.path.starts_with("/api/") {
            return match listings.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => Reply::new(500, ""),
                2 => Reply::new(408, ""),
                _ => there.answer(request),
            };
        }
        match request.path.ends_with(WEIGHTS).then(|| files.fetch_add(1, Ordering::SeqCst)) {
            Some(0) => Reply::new(429, "").header("Retry-After", 1),
            Some(1) => Reply::new(503, "").header("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT"),
            _ => there.answer(request),
        }
    });
    let (start, watch) = (Instant::now(), Watch::default());
    assert_whole(&pull(&place.hub(&server), &watch).unwrap(), &repository);
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(watch.said("429") && watch.said("trying again in 1.0 s"));
    assert_eq!(server.requests_for("blobs=true").len(), 4);

    let server = Server::start(|_| Reply::new(502, ""));
    let error = place.hub(&server).listing(&name("org/model")).unwrap_err();
    assert!(matches!(error, HubError::Connection { attempts: 5, .. }), "{error}");
    assert_eq!(server.requests().len(), 5);
}

#[test]
fn a_hub_that_is_gone_is_an_error_without_secrets() {
    let place = Place::new();
    let server = Server::start(|_| Reply::new(200, ""));
    let hub = place.hub(&server);
    drop(server);
    let error = hub.listing(&name("org/model")).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, HubError::Connection { attempts: 5, .. }), "{text}");
    assert!(!text.contains("hf_secret") && !text.contains('\n') && !text.contains("blobs=true"), "{text}");
    assert!(!format!("{hub:?}").contains("hf_secret"));
}

#[test]
fn offline_asks_nobody() {
    let (place, repository) = (Place::new(), Repository::model());
    let server = sound(&repository);
    let name = name("org/model");
    let listing = place.hub(&server).listing(&name).unwrap();
    let selection = choose(&listing, &name).unwrap();
    let hub = Hub::new(Settings { offline: true, ..place.settings(&server.url()) }).unwrap();
    let into = place.root().join("preview");
    for error in [
        hub.listing(&name).unwrap_err(),
        hub.pull(&name, &listing, &selection, &Watch::default()).unwrap_err(),
        hub.preview(&name, &listing, &selection, &into).unwrap_err(),
    ] {
        assert!(matches!(error, HubError::Offline { .. }) && error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    }
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_stopped_pull_leaves_nothing_that_counts_and_is_gone_on_with() {
    let (place, repository) = (Place::new(), Repository::model());
    let server = odd(&repository, |count, request, bytes| {
        let reply = ranged(bytes, request);
        if count == 0 { Reply { silence: Duration::from_secs(20), ..reply.halved() } } else { reply }
    });
    let patient = Hub::new(place.settings(&server.url())).unwrap();
    let (start, watch) = (Instant::now(), Watch { limit: Some(100_000), ..Watch::default() });
    let error = pull(&patient, &watch).unwrap_err();
    assert!(matches!(error, HubError::Cancelled), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10), "it does not wait for the server");
    assert_eq!(place.cache().find(&name("org/model")).unwrap(), None);
    let listed = place.cache().list().unwrap();
    assert!(listed.len() == 1 && !listed[0].complete && listed[0].bytes >= 100_000, "{listed:?}");
    let there = std::fs::metadata(place.incomplete(&repository.blob(WEIGHTS))).unwrap().len();
    let path = pull(&place.hub(&server), &Watch::default()).unwrap();
    assert_whole(&path, &repository);
    assert_eq!(server.requests_for(WEIGHTS)[1].from(), Some(there as usize));
}

#[test]
fn a_preview_is_headers_in_files_of_the_true_size() {
    let header = format!("{{\"__metadata__\":{{\"x\":\"{}\"}}}}", "y".repeat(400_000));
    let mut large = (header.len() as u64).to_le_bytes().to_vec();
    large.extend(header.as_bytes());
    large.extend(noise(600_000, 5));
    let mut repository = Repository::model();
    repository.files.push(("model-00001-of-00001.safetensors".to_string(), large.clone()));
    repository.files.push(("model.safetensors.index.json".to_string(), b"{\"weight_map\":{}}".to_vec()));
    repository.files.push(("big.gguf".to_string(), noise((16 << 20) + 5000, 6)));
    let (place, server) = (Place::new(), sound(&repository));
    let hub = place.hub(&server);
    for (asked, file, kept) in [
        ("org/model", "model-00001-of-00001.safetensors", 8 + header.len()),
        ("org/model:big.gguf", "big.gguf", 16 << 20),
    ] {
        let into = place.directory.path().join(file.replace('.', "-"));
        let name = name(asked);
        let listing = hub.listing(&name).unwrap();
        let path = hub.preview(&name, &listing, &choose(&listing, &name).unwrap(), &into).unwrap();
        assert_eq!(path, if file == "big.gguf" { into.join(file) } else { into.clone() });
        let (whole, there) = (repository.bytes(file), std::fs::read(into.join(file)).unwrap());
        assert_eq!(there.len(), whole.len());
        assert_eq!(there[..kept], whole[..kept]);
        assert!(there[kept..].iter().all(|byte| *byte == 0));
        assert!(server.requests_for(file).iter().all(|request| request.headers.contains_key("range")));
    }
    assert!(place.directory.path().join("model-00001-of-00001-safetensors/config.json").exists());
    assert!(!place.root().exists(), "the cache is left alone");
}

#[test]
fn a_preview_refuses_headers_that_cannot_be() {
    for header in [u64::MAX, 40 << 20, 1000] {
        let mut repository = Repository::model();
        repository.files[3].1 = [header.to_le_bytes().as_slice(), b"{}"].concat();
        let (place, server) = (Place::new(), sound(&repository));
        let (hub, name) = (place.hub(&server), name("org/model"));
        let listing = hub.listing(&name).unwrap();
        let selection = choose(&listing, &name).unwrap();
        let error = hub.preview(&name, &listing, &selection, &place.root()).unwrap_err();
        assert!(matches!(error, HubError::Listing { .. }), "{error}");
    }
}

#[test]
fn hostile_answers_are_refused() {
    let place = Place::new();
    let sha = "1".repeat(40);
    let file = |path: &str, size: &str| {
        let path = serde_json::Value::from(path);
        format!(r#"{{"sha":"{sha}","siblings":[{{"rfilename":{path},"size":{size},"blobId":"{sha}"}}]}}"#)
    };
    let one = format!(r#"{{"rfilename":"x","size":1,"blobId":"{sha}"}}"#);
    let answers = [
        file("../x", "1"),
        file("/etc/x", "1"),
        file("a/../../x", "1"),
        file("a\\x", "1"),
        file("a\u{7}x", "1"),
        file("", "1"),
        file("x", "-5"),
        file("x", "1e400"),
        file("x", "null"),
        format!(r#"{{"sha":"{sha}","siblings":[{}]}}"#, vec![one; 100_001].join(",")),
        "<html>".to_string(),
        "[".repeat(100_000),
    ];
    for answer in answers {
        let start: String = answer.chars().take(80).collect();
        let server = Server::start(move |_| Reply::new(200, answer.clone()));
        let error = place.hub(&server).listing(&name("org/model")).unwrap_err();
        assert!(matches!(error, HubError::Listing { .. }), "{start}: {error}");
        assert!(!error.to_string().contains('\n'));
    }
    let server = Server::start(|_| Reply::new(200, vec![b' '; (64 << 20) + 1]));
    let error = place.hub(&server).listing(&name("org/model")).unwrap_err();
    assert!(error.to_string().contains("more than 67108864 bytes"), "{error}");
    assert!(!place.root().exists());
}

#[test]
fn selections_made_by_hand_cannot_leave_the_cache() {
    let (place, repository) = (Place::new(), Repository::model());
    let server = sound(&repository);
    let good = RemoteFile { path: "x.gguf".into(), size: 1, sha256: None, sha1: "1".repeat(40) };
    for bad in [
        RemoteFile { path: "../../x".into(), ..good.clone() },
        RemoteFile { sha1: "../../x".into(), ..good.clone() },
        RemoteFile { sha256: Some("../../x".into()), ..good.clone() },
    ] {
        let listing = Listing { commit: "1".repeat(40), files: vec![bad.clone()] };
        let selection = Selection { files: vec![bad], model: String::new(), bytes: 1 };
        let error = place.hub(&server).pull(&name("a/b"), &listing, &selection, &Watch::default()).unwrap_err();
        assert!(matches!(error, HubError::Listing { .. }), "{error}");
    }
    let made = Name { repository: "../x".into(), revision: None, file: None };
    assert!(place.cache().find(&made).is_err() && place.cache().remove(&made).is_err());
}

#[test]
fn too_little_room_is_said_before_anything_is_fetched() {
    let (place, repository) = (Place::new(), Repository::model());
    let there = repository.clone();
    let size = repository.bytes(WEIGHTS).len().to_string();
    let server = Server::start(move |request| match request.path.starts_with("/api/") {
        true => Reply::new(200, there.listing().replace(&format!("\"size\":{size}"), "\"size\":576460752303423488")),
        false => there.answer(request),
    });
    let error = pull(&place.hub(&server), &Watch::default()).unwrap_err();
    let HubError::Room { needed, free, .. } = error else { panic!("{error}") };
    assert!(needed >= 1 << 59 && free < needed);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn an_index_that_names_more_than_there_is_makes_no_model() {
    let index = br#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    let mut repository = Repository::new(vec![
        ("config.json", b"{}".to_vec()),
        ("model.safetensors.index.json", index.to_vec()),
        ("model-00001-of-00002.safetensors", noise(500, 1)),
    ]);
    let place = Place::new();
    let error = pull(&place.hub(&sound(&repository)), &Watch::default()).unwrap_err();
    assert!(matches!(error, HubError::Choice { .. }), "{error}");
    assert_eq!(place.cache().find(&name("org/model")).unwrap(), None);
    repository.files.push(("model-00002-of-00002.safetensors".to_string(), noise(500, 2)));
    let path = pull(&place.hub(&sound(&repository)), &Watch::default()).unwrap();
    assert_eq!(place.cache().find(&name("org/model")).unwrap(), Some(path));
}

#[test]
fn gguf_by_tag_split_listed_and_removed() {
    let one = "Q8_0/m-Q8_0-00001-of-00002.gguf";
    let two = "Q8_0/m-Q8_0-00002-of-00002.gguf";
    let repository = Repository::new(vec![
        ("m-Q4_K_M.gguf", noise(3000, 1)),
        ("m-Q2_K.gguf", noise(2000, 2)),
        (one, noise(4000, 3)),
        (two, noise(5000, 4)),
    ]);
    let (place, server) = (Place::new(), sound(&repository));
    let (hub, cache) = (place.hub(&server), place.cache());
    let preferred = pull(&hub, &Watch::default()).unwrap();
    assert!(preferred.ends_with("m-Q4_K_M.gguf"));
    let split = pull_as(&hub, "org/model:q8_0", &Watch::default()).unwrap();
    assert!(split.ends_with(one));
    assert_eq!(std::fs::read(split.with_file_name("m-Q8_0-00002-of-00002.gguf")).unwrap(), repository.bytes(two));
    assert_eq!(server.requests_for("m-Q2_K.gguf").len(), 0);
    for asked in ["org/model:q8_0", "org/model:Q8_0/m-Q8_0-00001-of-00002.gguf"] {
        assert_eq!(cache.find(&name(asked)).unwrap(), Some(split.clone()));
    }
    assert_eq!(cache.find(&name("org/model:Q2_K")).unwrap(), None);
    assert_eq!(cache.find(&name("org/model")).unwrap(), Some(preferred));
    let error = pull_as(&hub, "org/model:Q9", &Watch::default()).unwrap_err().to_string();
    assert!(error.contains("m-Q2_K.gguf") && error.contains(one), "{error}");

    let listed: Vec<_> = cache.list().unwrap().into_iter().map(|p| (p.name.to_string(), p.bytes, p.complete)).collect();
    assert_eq!(listed, [(format!("org/model:{one}"), 9000, true), ("org/model:m-Q4_K_M.gguf".to_string(), 3000, true)]);

    assert!(cache.remove(&name("org/model:Q2_K")).unwrap_err().to_string().contains("m-Q4_K_M.gguf"));
    assert_eq!(cache.remove(&name("org/model:Q8_0")).unwrap(), 9000);
    assert_eq!(cache.find(&name("org/model:Q8_0")).unwrap(), None);
    assert!(cache.find(&name("org/model:Q4_K_M")).unwrap().is_some());
    assert_eq!(cache.remove(&name("org/model:m-Q4_K_M.gguf")).unwrap(), 3000);
    assert!(!place.repository().exists());
    assert!(cache.list().unwrap().is_empty());
    assert!(cache.remove(&name("org/model")).unwrap_err().to_string().contains("not in the cache"));
}

#[test]
fn a_split_is_there_with_all_its_parts_and_a_number_beyond_them_makes_none() {
    let two = ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"];
    let repository = Repository::new(vec![(two[0], noise(4000, 3)), (two[1], noise(5000, 4))]);
    let (place, server) = (Place::new(), sound(&repository));
    let first = pull(&place.hub(&server), &Watch::default()).unwrap();
    assert_eq!(place.cache().find(&name("org/model")).unwrap(), Some(first.clone()));
    std::fs::remove_file(first.with_file_name(two[1])).unwrap();
    assert_eq!(place.cache().find(&name("org/model")).unwrap(), None);

    let alone = Repository::new(vec![("m-Q8_0-00003-of-00002.gguf", noise(4000, 3))]);
    let (place, server) = (Place::new(), sound(&alone));
    assert!(pull(&place.hub(&server), &Watch::default()).unwrap().ends_with("m-Q8_0-00003-of-00002.gguf"));
}

/// A cache as huggingface_hub writes it: two commits that share the weights.
fn python_cache(place: &Place) -> (String, String) {
    let root = place.repository();
    let (old, new) = ("a".repeat(40), "b".repeat(40));
    let weights = noise(700, 1);
    for directory in ["blobs", "refs"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    let configs = [("a", b"{\"a\":1}".to_vec()), ("b", b"{\"b\":22}".to_vec())];
    std::fs::write(root.join("blobs").join(sha256(&weights)), &weights).unwrap();
    for ((_, config), commit) in configs.iter().zip([&old, &new]) {
        let snapshot = root.join("snapshots").join(commit);
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::write(root.join("blobs").join(git_sha1(config)), config).unwrap();
        for (file, blob) in [("config.json", git_sha1(config)), (WEIGHTS, sha256(&weights))] {
            std::os::unix::fs::symlink(format!("../../blobs/{blob}"), snapshot.join(file)).unwrap();
        }
    }
    std::fs::write(root.join("refs/main"), &new).unwrap();
    (old, new)
}

#[test]
fn a_cache_of_the_python_tools_is_found_and_its_shared_blobs_stay() {
    let place = Place::new();
    let (old, new) = python_cache(&place);
    let cache = place.cache();
    let snapshots = place.repository().join("snapshots");
    assert_eq!(cache.find(&name("org/model")).unwrap(), Some(snapshots.join(&new)));
    let previous = name(&format!("org/model@{old}"));
    assert_eq!(cache.find(&previous).unwrap(), Some(snapshots.join(&old)));
    let listed: Vec<_> = cache.list().unwrap().into_iter().map(|p| (p.name, p.bytes, p.complete)).collect();
    assert_eq!(listed, [(name("org/model"), 708, true), (previous.clone(), 7, true)]);

    assert_eq!(cache.remove(&previous).unwrap(), 7);
    assert_eq!(cache.find(&previous).unwrap(), None);
    let path = cache.find(&name("org/model")).unwrap().unwrap();
    assert_eq!(std::fs::read(path.join(WEIGHTS)).unwrap().len(), 700);

    // A link whose blob is gone does not count as there.
    std::fs::rename(std::fs::canonicalize(path.join(WEIGHTS)).unwrap(), place.directory.path().join("x")).unwrap();
    assert_eq!(cache.find(&name("org/model")).unwrap(), None);
    // The small file and the reference.
    assert_eq!(cache.remove(&name("org/model")).unwrap(), 8 + 40);
    assert!(!place.repository().exists());
}

#[test]
fn a_gguf_shared_by_two_snapshots_stays_until_the_last_link_goes() {
    let mut repository = Repository::new(vec![("m.gguf", noise(900, 1))]);
    let place = Place::new();
    pull_as(&place.hub(&sound(&repository)), "org/model@old", &Watch::default()).unwrap();
    repository.commit = "d".repeat(40);
    pull(&place.hub(&sound(&repository)), &Watch::default()).unwrap();
    let cache = place.cache();
    assert_eq!(cache.remove(&name("org/model@old:m.gguf")).unwrap(), 0);
    assert!(cache.find(&name("org/model:m.gguf")).unwrap().is_some());
    assert_eq!(cache.remove(&name("org/model:m.gguf")).unwrap(), 900);
}

#[test]
fn a_snapshot_stays_as_long_as_another_reference_means_it() {
    let place = Place::new();
    let (_, new) = python_cache(&place);
    std::fs::write(place.repository().join("refs/dev"), &new).unwrap();
    let cache = place.cache();
    assert_eq!(cache.remove(&name("org/model@dev")).unwrap(), 0);
    assert_eq!(cache.find(&name("org/model@dev")).unwrap(), None);
    assert!(cache.find(&name("org/model")).unwrap().is_some());
}

#[test]
fn a_link_elsewhere_is_no_link_to_the_blob_of_that_name() {
    let place = Place::new();
    let (_, new) = python_cache(&place);
    let (blob, outside) =
        (place.repository().join("blobs").join("c".repeat(64)), place.directory.path().join("outside"));
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(&blob, "ours").unwrap();
    std::fs::write(outside.join("c".repeat(64)), "theirs").unwrap();
    let link = place.repository().join("snapshots").join(&new).join("y.gguf");
    std::os::unix::fs::symlink(outside.join("c".repeat(64)), link).unwrap();
    assert_eq!(place.cache().remove(&name("org/model:y.gguf")).unwrap(), 0);
    assert!(blob.exists() && outside.join("c".repeat(64)).exists());
}

#[test]
fn removing_follows_no_link_out_of_the_cache() {
    let place = Place::new();
    let (_, new) = python_cache(&place);
    let outside = place.directory.path().join("outside");
    std::fs::create_dir_all(outside.join("deep")).unwrap();
    std::fs::write(outside.join("deep/x.gguf"), "keep").unwrap();
    let snapshot = place.repository().join("snapshots").join(&new);
    std::os::unix::fs::symlink(outside.join("deep/x.gguf"), snapshot.join("y.gguf")).unwrap();
    std::os::unix::fs::symlink(&outside, snapshot.join("linked")).unwrap();
    let cache = place.cache();
    assert_eq!(cache.remove(&name("org/model:y.gguf")).unwrap(), 0);
    assert!(!snapshot.join("y.gguf").exists());
    cache.remove(&name("org/model")).unwrap();
    assert_eq!(std::fs::read_to_string(outside.join("deep/x.gguf")).unwrap(), "keep");
    // A repository that is itself a link is not entered.
    std::os::unix::fs::symlink(&outside, place.repository()).unwrap();
    assert!(matches!(cache.remove(&name("org/model")).unwrap_err(), HubError::Layout { .. }));
    assert!(outside.join("deep/x.gguf").exists());
}

#[test]
fn a_damaged_cache_is_said_and_does_not_hide_the_rest() {
    let place = Place::new();
    python_cache(&place);
    let other = place.root().join("models--x--y");
    std::fs::create_dir_all(other.join("refs")).unwrap();
    std::fs::write(other.join("refs/main"), "../../outside").unwrap();
    std::fs::create_dir_all(place.root().join("models--bad")).unwrap();
    std::fs::create_dir_all(place.root().join("datasets--a--b")).unwrap();
    assert!(matches!(place.cache().find(&name("x/y")).unwrap_err(), HubError::Layout { .. }));
    let listed = place.cache().list().unwrap();
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().any(|p| p.name == name("x/y") && !p.complete));
}

#[test]
fn two_pulls_do_not_fight_and_removal_waits_its_turn() {
    let (place, repository) = (Place::new(), Repository::model());
    let gate = Arc::new(AtomicBool::new(false));
    let opened = gate.clone();
    let server = odd(&repository, move |_, request, bytes| {
        while !opened.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        ranged(bytes, request)
    });
    let until = |done: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !done() {
            if start.elapsed() > Duration::from_secs(20) {
                gate.store(true, Ordering::SeqCst);
                panic!("waited in vain");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let hubs = [(); 2].map(|()| Hub::new(place.settings(&server.url())).unwrap());
    let second = Watch::default();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| pull(&hubs[0], &Watch::default()));
        until(&|| server.requests_for(WEIGHTS).len() == 1);
        let other = scope.spawn(|| pull(&hubs[1], &second));
        until(&|| second.said("waiting for another pull"));
        let error = place.cache().remove(&name("org/model")).unwrap_err();
        assert!(matches!(error, HubError::Busy { .. }), "{error}");
        gate.store(true, Ordering::SeqCst);
        assert_eq!(first.join().unwrap().unwrap(), other.join().unwrap().unwrap());
    });
    assert_eq!(server.requests_for(WEIGHTS).len(), 1);
}

#[test]
fn blocking_calls_work_inside_another_runtime() {
    let (place, repository) = (Place::new(), Repository::model());
    let server = sound(&repository);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let hub = place.hub(&server);
        assert_whole(&pull(&hub, &Watch::default()).unwrap(), &repository);
    });
}

#[test]
fn at_most_four_files_come_at_the_same_time() {
    let file = |i: u64| (format!("model-0000{i}-of-00008.safetensors"), noise(2000, i));
    let shards: Vec<(String, Vec<u8>)> = (1..=8).map(file).collect();
    let map: serde_json::Map<_, _> = shards.iter().map(|(path, _)| (path.clone(), path.clone().into())).collect();
    let index = serde_json::json!({ "weight_map": map }).to_string();
    let mut repository =
        Repository::new(vec![("config.json", b"{}".to_vec()), ("model.safetensors.index.json", index.into_bytes())]);
    repository.files.extend(shards);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (open, highest, there) = (now, most.clone(), repository.clone());
    let server = Server::start(move |request| {
        if request.path.contains("-of-") {
            highest.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(80));
            open.fetch_sub(1, Ordering::SeqCst);
        }
        there.answer(request)
    });
    let place = Place::new();
    let path = pull(&place.hub(&server), &Watch::default()).unwrap();
    assert_eq!(place.cache().find(&name("org/model")).unwrap(), Some(path));
    let most = most.load(Ordering::SeqCst);
    assert!((2..=4).contains(&most), "{most}");
}
