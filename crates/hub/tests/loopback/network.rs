//! Servers and networks that fail: redirects, the token, resumption, retries, and what their errors say.

use super::*;

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
    let error = place.hub(&server).listing(&name("org/model"), &Watch::default()).unwrap_err();
    assert!(error.to_string().contains("10 redirects"), "{error}");
    assert_eq!(server.requests().len(), 11);
    let server = Server::start(|_| Reply::new(302, "").header("Location", "file:///etc/passwd"));
    let error = place.hub(&server).listing(&name("org/model"), &Watch::default()).unwrap_err();
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
        let error = Hub::new(settings).unwrap().listing(&name("org/model"), &Watch::default()).unwrap_err();
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
        let error = place.hub(&server).listing(&name(asked), &Watch::default()).unwrap_err();
        assert!(matches!(error, HubError::NotFound { .. }) && error.to_string().contains(said), "{error}");
    }
    let repository = Repository::model();
    let server = odd(&repository, |_, _, _| Reply::new(404, ""));
    let error = pull(&place.hub(&server), &Watch::default()).unwrap_err();
    assert!(error.to_string().contains("the file model.safetensors of org/model is not at the hub"), "{error}");
    let server = Server::start(|_| Reply::new(418, ""));
    let error = place.hub(&server).listing(&name("org/model"), &Watch::default()).unwrap_err();
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
    let error = place.hub(&server).listing(&name("org/model"), &Watch::default()).unwrap_err();
    assert!(matches!(error, HubError::Connection { attempts: 5, .. }), "{error}");
    assert_eq!(server.requests().len(), 5);
}

#[test]
fn a_hub_that_is_gone_is_an_error_without_secrets() {
    let place = Place::new();
    let server = Server::start(|_| Reply::new(200, ""));
    let hub = place.hub(&server);
    drop(server);
    let watch = Watch::default();
    let error = hub.listing(&name("org/model"), &watch).unwrap_err();
    let text = error.to_string();
    // At once: nothing has begun that could go on.
    assert!(matches!(error, HubError::Unreachable { .. }) && text.contains("cannot be reached"), "{text}");
    assert!(watch.said.lock().unwrap().is_empty());
    assert!(!text.contains("hf_secret") && !text.contains('\n') && !text.contains("blobs=true"), "{text}");
    assert!(!format!("{hub:?}").contains("hf_secret"));
}

/// Somebody who has gone when they are told of a second attempt.
#[derive(Default)]
struct Gone(AtomicBool);

impl Progress for Gone {
    fn file(&self, _: &str, _: u64, _: u64) {}
    fn advance(&self, _: &str, _: u64) {}
    fn note(&self, _: &str) {
        self.0.store(true, Ordering::SeqCst);
    }
    fn finished(&self, _: &str) {}
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[test]
fn who_leaves_ends_a_listing_and_a_preview() {
    let (place, repository) = (Place::new(), Repository::model());
    let patience = Patience { pause: Duration::from_secs(1), ..Patience::default() };
    let broken = Server::start(|_| Reply::new(500, ""));
    let hub = Hub::with_patience(place.settings(&broken.url()), patience).unwrap();
    let error = hub.listing(&name("org/model"), &Gone::default()).unwrap_err();
    assert!(matches!(error, HubError::Cancelled), "{error}");
    assert_eq!(broken.requests().len(), 1);
    let listing = place.hub(&sound(&repository)).listing(&name("org/model"), &Watch::default()).unwrap();
    let selection = choose(&listing, &name("org/model")).unwrap();
    let error = hub.preview(&name("org/model"), &listing, &selection, &place.root(), &Gone::default()).unwrap_err();
    assert!(matches!(error, HubError::Cancelled), "{error}");
    // An answer that does not come is not waited for.
    let silent = Server::start(|_| {
        std::thread::sleep(Duration::from_secs(20));
        Reply::new(200, "")
    });
    let hub = Hub::with_patience(place.settings(&silent.url()), patience).unwrap();
    let (start, gone) = (Instant::now(), Gone::default());
    let outcome = std::thread::scope(|scope| {
        let asked = scope.spawn(|| hub.listing(&name("org/model"), &gone));
        std::thread::sleep(Duration::from_millis(200));
        gone.note("");
        asked.join().unwrap()
    });
    assert!(matches!(outcome, Err(HubError::Cancelled)) && start.elapsed() < Duration::from_secs(10), "{outcome:?}");
}

#[test]
fn offline_asks_nobody() {
    let (place, repository) = (Place::new(), Repository::model());
    let server = sound(&repository);
    let name = name("org/model");
    let listing = place.hub(&server).listing(&name, &Watch::default()).unwrap();
    let selection = choose(&listing, &name).unwrap();
    let hub = Hub::new(Settings { offline: true, ..place.settings(&server.url()) }).unwrap();
    let into = place.root().join("preview");
    for error in [
        hub.listing(&name, &Watch::default()).unwrap_err(),
        hub.pull(&name, &listing, &selection, &Watch::default()).unwrap_err(),
        hub.preview(&name, &listing, &selection, &into, &Watch::default()).unwrap_err(),
    ] {
        assert!(matches!(error, HubError::Offline { .. }) && error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    }
    assert_eq!(server.requests().len(), 1);
}
