//! Pulls: what they lay out, what they refuse before and while they fetch, and several at once.

use super::*;

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
        let listing = hub.listing(&name, &Watch::default()).unwrap();
        let path = hub.preview(&name, &listing, &choose(&listing, &name).unwrap(), &into, &Watch::default()).unwrap();
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
        let listing = hub.listing(&name, &Watch::default()).unwrap();
        let selection = choose(&listing, &name).unwrap();
        let error = hub.preview(&name, &listing, &selection, &place.root(), &Watch::default()).unwrap_err();
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
        let error = place.hub(&server).listing(&name("org/model"), &Watch::default()).unwrap_err();
        assert!(matches!(error, HubError::Listing { .. }), "{start}: {error}");
        assert!(!error.to_string().contains('\n'));
    }
    let server = Server::start(|_| Reply::new(200, vec![b' '; (64 << 20) + 1]));
    let error = place.hub(&server).listing(&name("org/model"), &Watch::default()).unwrap_err();
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
        true => Reply::new(200, there.listing().replace(&format!("\"size\":{size}"), "\"size\":4398046511104")),
        false => there.answer(request),
    });
    let error = pull(&place.hub(&server), &Watch::default()).unwrap_err();
    let HubError::Room { needed, free, .. } = error else { panic!("{error}") };
    assert!(needed >= 1 << 42 && free < needed);
    assert_eq!(server.requests().len(), 1);
    assert!(!place.repository().exists(), "nothing was fetched, and nothing stays");
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
