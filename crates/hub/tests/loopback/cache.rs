//! The cache: what of it counts as a model, and what removing takes away.

use super::*;

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
fn what_a_failed_pull_left_is_removed_by_the_name_that_was_pulled() {
    let repository = Repository::new(vec![("m-Q4_K_M.gguf", noise(300_000, 1)), ("m-Q8_0.gguf", noise(9000, 2))]);
    let (place, server) = (Place::new(), sound(&repository));
    let (hub, cache) = (place.hub(&server), place.cache());
    let stopped = Watch { limit: Some(1), ..Watch::default() };
    let blob = place.incomplete(&repository.blob("m-Q4_K_M.gguf"));
    let stop = |asked: &str| {
        let error = pull_as(&hub, asked, &stopped).unwrap_err();
        assert!(matches!(error, HubError::Cancelled) && blob.exists(), "{error}");
        stopped.bytes.store(0, Ordering::SeqCst);
    };
    for asked in ["org/model:Q4_K_M", "org/model@v1", "org/model"] {
        stop("org/model:Q4_K_M");
        assert!(cache.remove(&name(asked)).unwrap() > 0, "{asked}");
        assert!(!place.repository().exists(), "{asked}");
        assert!(matches!(cache.remove(&name(asked)).unwrap_err(), HubError::Absent { .. }));
    }
    // A model beside it stays.
    let other = pull_as(&hub, "org/model:Q8_0", &Watch::default()).unwrap();
    stop("org/model:Q4_K_M");
    assert!(cache.remove(&name("org/model:Q4_K_M")).unwrap() > 0);
    assert!(!blob.exists() && other.is_file());
    assert!(cache.remove(&name("org/model:Q4_K_M")).unwrap_err().to_string().contains("m-Q8_0.gguf"));
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
