//! Runs that are stopped, lose a disk or parts of their work, or share only a store: the same bytes in the end.

use super::*;

/// A machine with a directory of its own, and a store that all share.
fn machine(folder: &Path, rank: usize, world: usize) -> Options {
    let (out, shared) = (folder.join(format!("machine-{rank}")), folder.join("bucket"));
    let store =
        StoreFolder { store: Arc::new(Folder::new(&shared)), prefix: "a/run/".into(), url: shared.join("a/run") };
    Options { rank, world, folder: Some(store), ..options(&out, 1) }
}

#[test]
fn machines_that_share_only_a_store_change_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let recipe = recipe(folder.path(), RECIPE);
    let (one, bucket) = (folder.path().join("one"), folder.path().join("bucket"));
    let report = make(&recipe, options(&one, 1)).unwrap();
    for world in [1, 2, 5] {
        // What an earlier run left there.
        std::fs::create_dir_all(bucket.join("a/run/documents")).unwrap();
        std::fs::write(bucket.join("a/run/documents/part-77777.jsonl.zst"), "old").unwrap();
        let foreign = ["a/beside", "a/run/documents/notes.txt", "a/run/shards/notes.bin"];
        for file in foreign {
            std::fs::create_dir_all(bucket.join(file).parent().unwrap()).unwrap();
            std::fs::write(bucket.join(file), "not of the run").unwrap();
        }
        std::thread::scope(|scope| {
            for rank in (0..world).rev() {
                let (recipe, options) = (&recipe, machine(folder.path(), rank, world));
                scope.spawn(move || make(recipe, options).unwrap_or_else(|e| panic!("rank {rank} of {world}: {e}")));
            }
        });
        for file in foreign {
            assert!(bucket.join(file).exists(), "{file}");
            std::fs::remove_file(bucket.join(file)).unwrap();
        }
        same(&one, &bucket.join("a/run"));
        for rank in 0..world {
            let left = folder.path().join(format!("machine-{rank}"));
            assert!(!left.exists(), "{:?}", files(&left).keys());
        }
        // What is there is not made again.
        assert_eq!(make(&recipe, machine(folder.path(), 0, world)).unwrap(), report);
        std::fs::remove_dir_all(&bucket).unwrap();
        std::fs::remove_dir_all(folder.path().join("machine-0")).unwrap();
    }
}

#[test]
fn machines_that_are_stopped_or_lose_their_disk_go_on() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let recipe = recipe(folder.path(), RECIPE);
    let (whole, bucket) = (folder.path().join("whole"), folder.path().join("bucket"));
    make(&recipe, options(&whole, 1)).unwrap();
    let (mut stops, mut lost) = (0, 0);
    for attempt in 0..200u64 {
        let finished = std::thread::scope(|scope| {
            let one = |rank: usize| {
                let progress = Progress::default();
                let run = Run::plan(&recipe, machine(folder.path(), rank, 2), &progress).unwrap();
                let (progress, wait) = (&progress, Duration::from_millis(20 * attempt + 7 * rank as u64));
                std::thread::scope(|scope| {
                    scope.spawn(move || {
                        std::thread::sleep(wait);
                        progress.stop();
                    });
                    run.make()
                })
            };
            let other = scope.spawn(move || one(1));
            [one(0), other.join().unwrap()]
        });
        if bucket.join("a/run/dataset.json").exists() {
            same_but_work(&whole, &bucket.join("a/run"));
        }
        if finished[0].is_ok() {
            break;
        }
        for result in &finished {
            assert!(matches!(result, Ok(_) | Err(Error::Stopped)), "{result:?}");
            stops += usize::from(result.is_err());
        }
        // Another machine takes the place of one.
        let machine = folder.path().join(format!("machine-{}", attempt % 4));
        if machine.exists() {
            std::fs::remove_dir_all(machine).unwrap();
            lost += 1;
        }
    }
    assert!(stops > 0 && lost > 0, "{stops} {lost}");
    same_but_work(&whole, &bucket.join("a/run"));
}

/// No lock is common to machines that share only a store: one that waits for a machine of another run says so.
#[test]
fn a_machine_with_another_recipe_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let other = recipe(folder.path(), &RECIPE.replace("words_min = 30", "words_min = 31"));
    let recipe = recipe(folder.path(), RECIPE);
    let progress = [Progress::default(), Progress::default()];
    let warnings = std::thread::scope(|scope| {
        for (rank, recipe) in [&recipe, &other].into_iter().enumerate() {
            let run = Run::plan(recipe, machine(folder.path(), rank, 2), &progress[rank]).unwrap();
            scope.spawn(move || assert!(matches!(run.make(), Err(Error::Stopped))));
        }
        let end = Instant::now() + Duration::from_secs(120);
        let warnings = loop {
            let warnings = progress[0].take_warnings();
            if !warnings.is_empty() || Instant::now() > end {
                break warnings;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        progress.iter().for_each(Progress::stop);
        warnings
    });
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("rank 1 was last started with another recipe"), "{warnings:?}");
}

/// Rank 0 may be stopped while it waits for another to leave the work directory.
fn same_but_work(a: &Path, b: &Path) {
    if b.join("work").exists() {
        std::fs::remove_dir_all(b.join("work")).unwrap();
    }
    same(a, b);
}

#[test]
fn a_stopped_run_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let recipe = recipe(folder.path(), RECIPE);
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    make(&recipe, options(&whole, 1)).unwrap();
    let mut stops = 0;
    for attempt in 0..200u64 {
        let progress = Progress::default();
        let run = Run::plan(&recipe, options(&stopped, 2), &progress).unwrap();
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(100 * attempt + 20 * attempt * attempt));
                progress.stop();
            });
            run.make()
        });
        match result {
            Err(Error::Stopped) => stops += 1,
            Err(error) => panic!("{error}"),
            Ok(_) => break,
        }
        assert!(!stopped.join("dataset.json").exists());
    }
    assert!(stops > 0);
    same(&whole, &stopped);
}

#[test]
fn a_changed_recipe_does_again_what_the_change_touches() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let out = folder.path().join("out");
    let keep = Options { keep_work: true, replace: true, ..options(&out, 2) };
    make(&recipe(folder.path(), RECIPE), keep.clone()).unwrap();
    let phases = || {
        let names = std::fs::read_dir(out.join("work")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(|c: char| c.is_ascii_digit())).collect();
        names.sort();
        names
    };
    let before = phases();
    make(&recipe(folder.path(), &RECIPE.replace("words_min = 30", "words_min = 31")), keep).unwrap();
    let after = phases();
    assert_eq!((before.len(), after.len()), (2, 3));
    assert!(before.iter().all(|name| after.contains(name)));
}

#[test]
fn a_source_whose_records_are_all_damaged_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    std::fs::write(folder.path().join("other.ndjson"), "{\"body\": \"x\"}\n{\"body\": \"y\"}\n").unwrap();
    let text = "name = \"a\"\n[[sources]]\nname = \"lines\"\nfiles = [\"*.jsonl\"]\n\
                [[sources]]\nname = \"other\"\nfiles = [\"*.ndjson\"]\n[[steps]]\nstep = \"exact_dedup\"\n";
    let out = folder.path().join("out");
    // The same however often it is run: what was read stays read.
    for _ in 0..2 {
        let error = make(&recipe(folder.path(), text), options(&out, 2)).unwrap_err().to_string();
        assert!(error.contains("recipe.toml: source other: none of its 2 records is a document"), "{error}");
        assert!(error.contains("other.ndjson:1: no field \"text\"; the record has fields body"), "{error}");
        assert!(!out.join("dataset.json").exists());
    }
    std::fs::write(folder.path().join("other.ndjson"), "{\"body\": \"x\"}\n{\"text\": \"y\"}\n").unwrap();
    let report = make(&recipe(folder.path(), text), options(&out, 2)).unwrap().unwrap();
    assert_eq!((report.total.read.documents, report.total.damaged.volume.documents), (301, 7));
}

#[test]
fn what_is_lost_from_the_work_directory_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let recipe = recipe(folder.path(), RECIPE);
    let (whole, out) = (folder.path().join("whole"), folder.path().join("out"));
    make(&recipe, options(&whole, 1)).unwrap();
    let keep = Options { keep_work: true, ..options(&out, 2) };
    make(&recipe, keep.clone()).unwrap();
    let work = out.join("work");
    let lost = [
        "part-00000.jsonl.zst",
        "part-00001.held_out.jsonl.zst",
        "part-00001.ids",
        "part-00001.tokens",
        "part-00000.fit.json",
        "part-00001.json",
    ];
    for name in lost {
        let mut found = 0;
        for path in files(&work).keys().filter(|path| path.ends_with(name)) {
            std::fs::remove_file(work.join(path)).unwrap();
            found += 1;
        }
        assert!(found > 0, "{name}");
        for published in ["dataset.json", "documents", "shards"].map(|name| out.join(name)) {
            if published.is_dir() { std::fs::remove_dir_all(published) } else { std::fs::remove_file(published) }
                .unwrap();
        }
        make(&recipe, keep.clone()).unwrap_or_else(|e| panic!("without {name}: {e}"));
        for folder in ["documents", "shards", "tokenizer"] {
            same(&whole.join(folder), &out.join(folder));
        }
    }
}
