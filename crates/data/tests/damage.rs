//! What becomes of a run whose files were changed behind its back: it is made again, or refused by name, and never published

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farthing_data::Error;
use farthing_data::generators::manual::Manual;
use farthing_data::lock::{Lock, Worker};
use farthing_data::progress::Progress;
use farthing_data::recipe::Recipe;
use farthing_data::report::Report;
use farthing_data::run::{Options, Run};
use farthing_data::shared::StoreFolder;
use farthing_data::store::Folder;

/// A corpus with short documents, copies and damaged lines, in two files.
fn corpus(folder: &Path) {
    for (file, from) in [("a.jsonl", 0), ("b.jsonl", 60)] {
        let line = |i: u32| match i % 10 {
            0 => "{\"text\": 17}".to_string(),
            1 => serde_json::json!({"text": "short"}).to_string(),
            2 => serde_json::json!({"text": "the same in many documents ".repeat(5)}).to_string(),
            _ => {
                serde_json::json!({"text": format!("a text of {i} and of {} ", i * 7919 % 1013).repeat(8)}).to_string()
            }
        };
        std::fs::write(folder.join(file), (from..from + 60).map(line).collect::<Vec<_>>().join("\n")).unwrap();
    }
}

const RECIPE: &str = r#"
name = "test"
held_out = 0.1
[[sources]]
name = "lines"
files = ["a.jsonl"]
[[sources]]
name = "more"
files = ["b.jsonl"]
[[steps]]
step = "patterns"
drop = ['^short']
[[steps]]
step = "exact_dedup"
[tokenizer]
vocabulary_size = 268
[shards]
shard_tokens = 1024
"#;

fn recipe(folder: &Path, text: &str) -> Recipe {
    Recipe::parse(&folder.join("recipe.toml"), text.to_string(), &Manual::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn options(out: &Path) -> Options {
    Options {
        out: out.to_path_buf(),
        threads: 1,
        rank: 0,
        world: 1,
        memory_bytes: 4 << 20,
        replace: false,
        keep_work: true,
        folder: None,
    }
}

fn make(recipe: &Recipe, options: Options) -> Result<Option<Report>, Error> {
    let progress = Progress::default();
    Run::plan(recipe, options, &progress)?.make()
}

/// All files below a folder but for those of the work directory.
fn dataset(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = walkdir::WalkDir::new(folder).into_iter().map(Result::unwrap).filter(|e| e.file_type().is_file());
    let name = |path: &Path| path.strip_prefix(folder).unwrap().to_path_buf();
    let files = files.map(|entry| (name(entry.path()), std::fs::read(entry.path()).unwrap()));
    files.filter(|(name, _)| !name.starts_with("work")).collect()
}

/// Removes what is published: the next run publishes again what lies in the work directory.
fn unpublish(out: &Path) {
    for entry in std::fs::read_dir(out).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("work") {
            std::fs::remove_dir_all(path).unwrap();
        } else if path.is_file() {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// Changes the middle byte of a file, which keeps its length.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn work_files(out: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(out.join("work")).sort_by_file_name().into_iter().map(Result::unwrap);
    entries.filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path()).collect()
}

#[test]
fn a_work_file_of_which_one_bit_was_changed_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let recipe = recipe(folder.path(), RECIPE);
    let out = folder.path().join("out");
    make(&recipe, options(&out)).unwrap();
    let whole = dataset(&out);
    let mut kinds = BTreeMap::new();
    for path in work_files(&out).into_iter().filter(|path| path.metadata().unwrap().len() > 0) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let of_tokenizer = path.parent().unwrap().ends_with("tokenizer");
        let kind = if of_tokenizer { name } else { name.split_once('.').unwrap_or((name, "")).1 }.to_string();
        let kind_of_tokens = kind == "tokens";
        let count: &mut usize = kinds.entry(kind).or_default();
        *count += 1;
        if *count > 4 {
            continue;
        }
        let before = std::fs::read(&path).unwrap();
        unpublish(&out);
        // Tokens are read again if there are no shards.
        if kind_of_tokens {
            let shards = std::fs::read_dir(out.join("work")).unwrap().map(|entry| entry.unwrap().path());
            let mut shards = shards.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("shards-"));
            std::fs::remove_dir_all(shards.next().unwrap()).unwrap();
        }
        damage(&path);
        match make(&recipe, options(&out)) {
            Ok(_) => {
                let made = dataset(&out);
                assert_eq!(made.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>(), "{}", path.display());
                let differs = made.iter().find(|(name, bytes)| whole[*name] != **bytes);
                assert!(differs.is_none(), "{} damaged: {:?} differs", path.display(), differs.unwrap().0);
            }
            // Decisions are checked as they are read; the message says what to remove.
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains(path.to_str().unwrap()) && error.contains("remove this file"), "{error}");
                assert!(path.parent().unwrap().ends_with("decisions"), "{error}");
                assert!(!out.join("dataset.json").exists());
            }
        }
        // Decisions that no later phase needed were not read.
        if path.parent().unwrap().ends_with("decisions") {
            std::fs::write(&path, before).unwrap();
        }
    }
    let kinds: Vec<&str> = kinds.keys().map(String::as_str).collect();
    for kind in [
        "jsonl.zst",
        "held_out.jsonl.zst",
        "rejected.jsonl.zst",
        "records",
        "names",
        "ids",
        "json",
        "tokens",
        "fit.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "bin",
        "idx",
    ] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
}

#[test]
fn a_file_of_another_machine_that_was_changed_is_refused_by_name_until_it_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let recipe = recipe(folder.path(), RECIPE);
    let (alone, out) = (folder.path().join("alone"), folder.path().join("out"));
    make(&recipe, options(&alone)).unwrap();
    let rank = |rank| make(&recipe, Options { rank, world: 2, ..options(&out) });
    std::thread::scope(|scope| {
        let other = scope.spawn(|| rank(1).unwrap());
        rank(0).unwrap();
        other.join().unwrap();
    });
    // Another text in a sound file, such as a stranger would put there; a rejected document; tokens of a shard.
    let forged = |name: &str| -> PathBuf {
        work_files(&out).into_iter().rfind(|path| path.ends_with(name)).unwrap_or_else(|| panic!("{name}"))
    };
    for name in ["part-00001.jsonl.zst", "part-00001.rejected.jsonl.zst", "train-00001.bin"] {
        unpublish(&out);
        let path = forged(name);
        if name.ends_with("zst") {
            let document = b"{\"id\":\"x\",\"text\":\"something else\",\"labels\":{}}\n";
            std::fs::write(&path, zstd::encode_all(&document[..], 1).unwrap()).unwrap();
        } else {
            damage(&path);
        }
        let error = rank(0).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains("changed after it was written"), "{error}");
        assert!(!out.join("dataset.json").exists());
        rank(1).unwrap();
        rank(0).unwrap();
        assert!(dataset(&out) == dataset(&alone), "{name}");
    }
}

#[test]
fn a_finished_dataset_whose_files_were_changed_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let recipe = recipe(folder.path(), RECIPE);
    for in_store in [false, true] {
        let (out, machine) = (folder.path().join("out"), folder.path().join("machine"));
        let options = || match in_store {
            false => Options { keep_work: false, ..options(&out) },
            true => {
                let store = Arc::new(Folder::new(&out));
                let folder = StoreFolder { store, prefix: String::new(), url: out.clone() };
                Options { keep_work: false, folder: Some(folder), ..options(&machine) }
            }
        };
        let report = make(&recipe, options()).unwrap();
        assert_eq!(make(&recipe, options()).unwrap(), report);
        let before = dataset(&out);
        for (name, bytes, problem) in [
            ("documents/train-00000.jsonl.zst", Some(&b"shorter"[..]), "it has 7 bytes, and dataset.json says"),
            ("shards/train-00000.bin", None, "it is gone, and dataset.json has it"),
            ("README.md", Some(b"longer than nothing"), "it has 19 bytes, and dataset.json says"),
        ] {
            match bytes {
                Some(bytes) => std::fs::write(out.join(name), bytes).unwrap(),
                None => std::fs::remove_file(out.join(name)).unwrap(),
            }
            let error = make(&recipe, options()).unwrap_err().to_string();
            assert!(error.contains(out.join(name).to_str().unwrap()) && error.contains(problem), "{error}");
            std::fs::write(out.join(name), &before[Path::new(name)]).unwrap();
        }
        // The report is read, so it is hashed.
        damage(&out.join("report.json"));
        let error = make(&recipe, options()).unwrap_err().to_string();
        assert!(error.contains("report.json: its BLAKE3 is ") && error.contains("remove dataset.json"), "{error}");
        std::fs::remove_file(out.join("dataset.json")).unwrap();
        make(&recipe, options()).unwrap();
        assert!(dataset(&out) == before);
        std::fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn two_runs_in_one_directory_exclude_each_other() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let recipe = recipe(folder.path(), RECIPE);
    let out = folder.path().join("out");
    let held = Lock::take(&out.join("work"), Worker { identity: "another", rank: 0, world: 1 }).unwrap();
    let error = make(&recipe, options(&out)).unwrap_err().to_string();
    assert!(error.contains("work: another run works in this directory: process "), "{error}");
    drop(held);
    let held = Lock::take(&out.join("work"), Worker { identity: "another", rank: 0, world: 2 }).unwrap();
    let error = make(&recipe, Options { rank: 1, world: 2, ..options(&out) }).unwrap_err().to_string();
    assert!(error.contains("ranks of another recipe"), "{error}");
    drop(held);
    make(&recipe, options(&out)).unwrap();
    // What is finished is read by anybody.
    let _held = Lock::take(&out.join("work"), Worker { identity: "another", rank: 0, world: 1 }).unwrap();
    make(&recipe, options(&out)).unwrap();
}
