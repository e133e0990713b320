//! Whole recipes: the same bytes by any threads and machines, after any stop; everything that was read is kept, dropped or damaged

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farthing_data::documents::Reader;
use farthing_data::generators::manual::Manual;
use farthing_data::preview::{Effect, StepPreview, preview};
use farthing_data::progress::{Progress, Stage, Unit};
use farthing_data::recipe::Recipe;
use farthing_data::report::Report;
use farthing_data::run::{Options, Run};
use farthing_data::shards::{Shards, Split, megatron};
use farthing_data::shared::StoreFolder;
use farthing_data::store::Folder;
use farthing_data::tokenizer::{Ends, Tokenizer};
use farthing_data::{Document, Error};

mod damage;
mod directories;
mod held_out;

/// Text of these words, in an order that the seed decides.
fn prose(seed: u32, words: usize) -> String {
    let list =
        ["the", "river", "and", "a", "stone", "that", "was", "to", "be", "with", "light", "of", "morning", "have"];
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as usize
    };
    let mut text = String::new();
    for i in 0..words {
        text += list[next() % list.len()];
        text += if i % 11 == 10 { ".\n" } else { " " };
    }
    text + "end."
}

/// A corpus of two sources, with short documents, copies and damaged lines.
fn corpus(folder: &Path) {
    let mut lines = Vec::new();
    for i in 0..300u32 {
        let text = match i % 10 {
            0 => "too short".to_string(),
            1 => prose(7, 120),
            _ => prose(1000 + i, 120),
        };
        lines.push(serde_json::json!({"text": text, "name": i}).to_string());
        if i % 100 == 50 {
            lines.extend(["{\"text\": 17}".to_string(), "no json".to_string()]);
        }
    }
    let half = lines.len() / 2;
    std::fs::write(folder.join("a.jsonl"), lines[..half].join("\n")).unwrap();
    std::fs::write(folder.join("b.jsonl"), lines[half..].join("\n")).unwrap();
    for i in 0..7 {
        std::fs::write(folder.join(format!("book-{i}.txt")), prose(2000 + i / 2, 400)).unwrap();
    }
}

const RECIPE: &str = r#"
name = "test"
seed = 3
held_out = 0.1

[[sources]]
name = "lines"
files = ["*.jsonl"]
keep = ["name"]
licence = "CC0-1.0"

[[sources]]
name = "books"
files = ["book-*.txt"]

[[steps]]
step = "gopher_quality"
words_min = 20

[[steps]]
step = "exact_dedup"

[[steps]]
step = "gopher_quality"
sources = ["books"]
words_min = 30

[tokenizer]
vocabulary_size = 300

[shards]
shard_tokens = 4096
"#;

fn recipe(folder: &Path, text: &str) -> Recipe {
    Recipe::parse(&folder.join("recipe.toml"), text.to_string(), &Manual::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn options(out: &Path, threads: usize) -> Options {
    Options {
        out: out.to_path_buf(),
        threads,
        rank: 0,
        world: 1,
        memory_bytes: 4 << 20,
        replace: false,
        keep_work: false,
        folder: None,
    }
}

fn make(recipe: &Recipe, options: Options) -> Result<Option<Report>, Error> {
    let progress = Progress::default();
    Run::plan(recipe, options, &progress)?.make()
}

/// All files below a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// All documents of a dataset.
fn documents(out: &Path) -> Vec<Document> {
    let names: Vec<PathBuf> = files(&out.join("documents")).into_keys().collect();
    let of_file = |name: &PathBuf| Reader::open(&out.join("documents").join(name)).unwrap().map(Result::unwrap);
    names.iter().flat_map(of_file).collect()
}

fn same(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (path, bytes) in &a {
        assert!(*bytes == b[path], "{} differs", path.display());
    }
}

#[test]
fn what_is_read_is_kept_or_dropped_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let out = folder.path().join("out");
    let report = make(&recipe(folder.path(), RECIPE), options(&out, 2)).unwrap().unwrap();
    let total = &report.total;
    assert_eq!(total.unaccounted(), 0);
    assert_eq!((total.read.documents, total.damaged.volume.documents), (307, 6));
    assert_eq!(total.dropped["gopher_quality.words_min"].volume.documents, 30);
    let duplicates = total.dropped.iter().filter(|(rule, _)| rule.starts_with("exact_dedup"));
    assert_eq!(duplicates.map(|(_, dropped)| dropped.volume.documents).sum::<u64>(), 29 + 3);
    assert_eq!(total.duplicates_of["lines"], 29);
    assert_eq!(total.duplicates_of["books"], 3);

    let mut kept = Vec::new();
    for path in files(&out.join("documents")).keys() {
        let documents = Reader::<Document>::open(&out.join("documents").join(path)).unwrap();
        kept.extend(documents.map(|document| document.unwrap()));
    }
    assert_eq!(kept.len() as u64, total.kept.documents);
    let held_out = kept.iter().filter(|document| document.labels.contains_key("held_out")).count();
    assert!((10..50).contains(&held_out), "{held_out}");
    assert!(kept.iter().any(|document| document.labels.contains_key("name")));
    let rejected = files(&out.join("rejected"));
    let rejected = rejected
        .keys()
        .map(|path| Reader::<serde_json::Value>::open(&out.join("rejected").join(path)).unwrap().count());
    assert_eq!(rejected.sum::<usize>(), 30 + 32 + 6);
    assert!(!out.join("work").exists());

    // Every document is in the shards once, in training or held out from it.
    let shards = Shards::open(&out.join("shards")).unwrap();
    shards.verify(&out.join("shards")).unwrap();
    let in_split = |split| shards.splits[&split].iter().map(|shard| shard.written.documents).sum::<u64>();
    assert_eq!((in_split(Split::Train), in_split(Split::HeldOut)), ((kept.len() - held_out) as u64, held_out as u64));
    assert!(shards.splits[&Split::Train].len() > 2);
    let tokenizer = &report.packed.as_ref().unwrap().tokenizer;
    assert_eq!(tokenizer.vocabulary, 300);
    assert_eq!(tokenizer.groups.values().map(|group| group.counts.documents).sum::<u64>(), kept.len() as u64);
    // What an earlier recipe made and this one does not is gone.
    let without = RECIPE.split("[tokenizer]").next().unwrap();
    let replacing = Options { replace: true, ..options(&out, 1) };
    make(&recipe(folder.path(), without), replacing.clone()).unwrap();
    assert!(out.join("documents").exists() && !out.join("shards").exists() && !out.join("tokenizer").exists());
    make(&recipe(folder.path(), RECIPE), replacing).unwrap();
    // What is there is not made again.
    let again = make(&recipe(folder.path(), RECIPE), options(&out, 1)).unwrap().unwrap();
    assert_eq!(again, report);
}

#[test]
fn threads_and_machines_change_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let recipe = recipe(folder.path(), RECIPE);
    let (one, three, ranks) = (folder.path().join("one"), folder.path().join("three"), folder.path().join("ranks"));
    make(&recipe, options(&one, 1)).unwrap();
    make(&recipe, options(&three, 3)).unwrap();
    same(&one, &three);
    // More machines than parts, too: some have nothing to do.
    for world in [2, 3, 12] {
        std::thread::scope(|scope| {
            for rank in (0..world).rev() {
                let (recipe, options) = (&recipe, Options { rank, world, ..options(&ranks, 1) });
                scope.spawn(move || make(recipe, options).unwrap_or_else(|e| panic!("rank {rank} of {world}: {e}")));
            }
        });
        same(&one, &ranks);
        std::fs::remove_dir_all(&ranks).unwrap();
    }
}

/// Told, and not an error: the documents are others.
#[test]
fn equal_ids_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let line = |i: u32| serde_json::json!({"text": prose(i, 30), "id": format!("d{}", i % 18)}).to_string();
    std::fs::write(folder.path().join("a.jsonl"), (0..10).map(line).collect::<Vec<_>>().join("\n")).unwrap();
    std::fs::write(
        folder.path().join("b.jsonl.zst"),
        zstd::encode_all((10..20).map(line).collect::<Vec<_>>().join("\n").as_bytes(), 1).unwrap(),
    )
    .unwrap();
    let text = "name = \"a\"\nheld_out = 0.3\n[[sources]]\nname = \"s\"\nfiles = [\"a.jsonl\"]\nid = \"id\"\n\
                [[sources]]\nname = \"t\"\nfiles = [\"b.jsonl.zst\"]\nid = \"id\"\n[[steps]]\nstep = \"exact_dedup\"\n";
    let out = folder.path().join("out");
    let report = make(&recipe(folder.path(), text), options(&out, 2)).unwrap().unwrap();
    let equal = report.equal_ids.clone().unwrap();
    assert_eq!((equal.documents, equal.example.as_str()), (2, "d0"));
    let said = "documents with the id of an earlier one: 2, the first \"d0\"";
    assert!(report.lines().iter().any(|line| line == said), "{:#?}", report.lines());
    assert!(report.page().contains("2 documents have the id of an earlier one, the first of them d0"));
    assert_eq!(Report::read(&out, None).unwrap(), report);
    let unique = make(&recipe(folder.path(), &text.replace("id = \"id\"\n", "")), options(&folder.path().join("b"), 2));
    assert_eq!(unique.unwrap().unwrap().equal_ids, None);
}

#[test]
fn documents_without_text_are_dropped_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let texts = ["", " \n\u{a0}\t", "a text", "\u{200b}\u{feff}"];
    let lines: Vec<String> = texts.iter().map(|text| serde_json::json!({"text": text}).to_string()).collect();
    std::fs::write(folder.path().join("a.jsonl"), lines.join("\n")).unwrap();
    std::fs::write(folder.path().join("b.jsonl"), "").unwrap();
    let text = "name = \"a\"\n[[sources]]\nname = \"s\"\nfiles = [\"*.jsonl\"]\n[[steps]]\nstep = \"unicode\"\n";
    let recipe = recipe(folder.path(), text);
    let report = make(&recipe, options(&folder.path().join("out"), 2)).unwrap().unwrap();
    let empty = &report.total.dropped["empty"];
    let details: Vec<&str> = empty.samples.iter().map(|sample| sample.detail.as_str()).collect();
    assert_eq!(details, ["no text", "only white space", "no text"]);
    assert_eq!((report.total.kept.documents, report.total.unaccounted()), (1, 0));
    assert_eq!(report.total.passed_over["empty file"], 1);
    let shown = preview(&recipe, 2).unwrap();
    assert!(matches!(
        shown[0].documents[0].steps[..],
        [StepPreview { step: "read", effect: Effect::Dropped { rule: "empty", .. } }]
    ));
}

/// A reader of the report can find the document that another one repeats.
#[test]
fn a_duplicate_names_the_document_that_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let line = |i: u32| serde_json::json!({"text": prose(i, 60), "id": format!("d{i}")}).to_string();
    let lines = |numbers: &[u32]| numbers.iter().map(|&i| line(i)).collect::<Vec<_>>().join("\n");
    std::fs::write(folder.path().join("a.jsonl"), lines(&[1, 2, 3])).unwrap();
    std::fs::write(folder.path().join("b.jsonl"), lines(&[4, 3, 2])).unwrap();
    for (step, settings) in [
        ("exact_dedup", ""),
        ("near_dedup", ""),
        ("line_dedup", "occurrences_max = 1\nkeep = \"first\""),
        ("substring_dedup", "lost_share_max = 0.5"),
    ] {
        let text = format!(
            "name = \"a\"\n[[sources]]\nname = \"s\"\nfiles = [\"a.jsonl\"]\nid = \"id\"\n\
             [[sources]]\nname = \"t\"\nfiles = [\"b.jsonl\"]\n[[steps]]\nstep = {step:?}\n{settings}\n"
        );
        let out = folder.path().join("out");
        let report =
            make(&recipe(folder.path(), &text), Options { replace: true, ..options(&out, 2) }).unwrap().unwrap();
        let dropped = report.total.dropped.values().next().unwrap_or_else(|| panic!("{step}: {report:#?}"));
        let ends: Vec<&str> = dropped.samples.iter().map(|sample| sample.detail.rsplit(' ').next().unwrap()).collect();
        assert_eq!(ends, ["d3", "d2"], "{step}: {dropped:#?}");
    }
}

#[test]
fn a_recipe_that_is_wrong_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("recipe.toml");
    let error = |text: &str| match Recipe::parse(&file, text.to_string(), &Manual::default()) {
        Ok(_) => panic!("taken: {text}"),
        Err(error) => error.to_string().rsplit("recipe.toml:").next().unwrap().to_string(),
    };
    for (from, to, said) in [
        ("seed = 3", "sead = 3", "3: unknown field `sead`"),
        ("held_out = 0.1", "held_out = 1.5", "4: held_out = 1.5 is no share"),
        ("held_out = 0.1", "held_out = 1", "4: held_out = 1 is no share of the documents: from 0 (none) to below 1"),
        ("[[sources]]\nname = \"lines\"", "[[source]]\nname = \"lines\"", "6: unknown field `source`, expected"),
        ("licence = \"CC0-1.0\"", "weight = 0.5\nepochs = 1", "11: source lines: it has `epochs` and `weight`"),
        ("name = \"test\"", "name = \"a/b\"", "2: name = \"a/b\""),
        ("name = \"test\"", "name = \"..\"", "2: name = \"..\""),
        ("name = \"test\"", "name = test", "2: "),
        ("keep = [\"name\"]", "kept = [\"name\"]", "9: unknown field `kept`"),
        ("keep = [\"name\"]", "keep = 7", "9: "),
        ("name = \"books\"", "name = \"lines\"", "12: source lines: there are two of this name"),
        (
            "step = \"exact_dedup\"",
            "step = \"exact\"",
            "20: step = \"exact\" is not known; did you mean `exact_dedup`?; there are",
        ),
        ("step = \"exact_dedup\"", "", "20: a step needs its name"),
        ("sources = [\"books\"]", "sources = [\"book\"]", "25: `sources` names \"book\""),
        ("words_min = 30", "words_min = \"many\"", "26: gopher_quality: "),
        ("words_min = 30", "words_most = 30", "26: gopher_quality: unknown field `words_most`"),
        ("vocabulary_size = 300", "vocabulary_size = 3", "29: vocabulary_size is 3"),
        ("vocabulary_size = 300", "vocabulary = 300", "29: unknown field `vocabulary`"),
        ("vocabulary_size = 300", "file = \"t.json\"\ndigits = 3", "30: `digits` is for a tokenizer that is trained"),
        ("[tokenizer]\nvocabulary_size = 300", "", "30: [shards] needs a [tokenizer]"),
        ("shard_tokens = 4096", "held_out = 0.1", "32: `held_out` stands at the top"),
        ("shard_tokens = 4096", "shard_tokens = 1", "32: shard_tokens is 1"),
    ] {
        let told = error(&RECIPE.replacen(from, to, 1));
        assert!(told.starts_with(said), "{to}: {told}");
    }
    let single = "name = \"a\"\nseed = 1\n[sources]\nname = \"s\"\nfiles = [\"x\"]\n";
    assert_eq!(error(single), "3: [sources] is a single table; write [[sources]] above each of the sources");
    let without_shards = RECIPE.split("[tokenizer]").next().unwrap().replace("licence = \"CC0-1.0\"", "epochs = 2");
    assert!(error(&without_shards).starts_with("10: source lines: `epochs` is a share"), "{}", error(&without_shards));
    for (from, to, meant) in [
        ("seed = 3", "sead = 3", "seed"),
        ("[[sources]]\nname = \"lines\"", "[[source]]\nname = \"lines\"", "sources"),
        ("keep = [\"name\"]", "kept = [\"name\"]", "keep"),
        ("sources = [\"books\"]", "sources = [\"book\"]", "books"),
        ("words_min = 30", "word_min = 30", "words_min"),
        ("vocabulary_size = 300", "vocab_size = 300", "vocabulary_size"),
        ("files = [\"book-*.txt\"]", "generate = \"story\"\ndocuments = 1", "stories"),
    ] {
        let told = error(&RECIPE.replacen(from, to, 1));
        assert!(told.contains(&format!("did you mean `{meant}`?")), "{to}: {told}");
    }
    assert!(error("name = \"a\"\nsources = []").contains("a recipe needs a source"));
    assert!(error("").contains("missing field `name`"));
}

#[test]
fn a_recipe_has_so_many_sources_and_steps_at_most() {
    let file = Path::new("recipe.toml");
    let sources = |count: usize| -> String {
        (0..count).map(|n| format!("[[sources]]\nname = \"s{n}\"\nfiles = [\"{n}.txt\"]\n")).collect()
    };
    let steps = |count: usize| "[[steps]]\nstep = \"exact_dedup\"\n".repeat(count);
    let read = |sources: &str, steps: &str| {
        let recipe = Recipe::parse(file, format!("name = \"a\"\n{sources}{steps}"), &Manual::default());
        recipe.map(drop).map_err(|e| e.to_string())
    };
    read(&sources(2000), &steps(200)).unwrap();
    let error = read(&sources(2001), "").unwrap_err();
    assert!(error.starts_with("recipe.toml:6002: 2001 sources; a recipe has at most 2000"), "{error}");
    let error = read(&sources(1), &steps(201)).unwrap_err();
    assert!(error.starts_with("recipe.toml:405: 201 steps; a recipe has at most 200"), "{error}");
}

#[test]
fn sources_without_documents_are_errors_or_empty() {
    let folder = tempfile::tempdir().unwrap();
    let text = "name = \"a\"\n[[sources]]\nname = \"s\"\nfiles = [\"*.txt\"]\nget = \"get it from the library\"";
    let error = make(&recipe(folder.path(), text), options(&folder.path().join("out"), 1)).unwrap_err().to_string();
    assert!(error.contains("*.txt") && error.contains("get it from the library"), "{error}");
    std::fs::write(folder.path().join("empty.jsonl"), "\n").unwrap();
    let text = text.replace("*.txt", "*.jsonl");
    let report = make(&recipe(folder.path(), &text), options(&folder.path().join("out"), 1)).unwrap().unwrap();
    assert_eq!(report.total.kept.documents, 0);
    assert!(report.page().contains("<svg"));
}

/// A newcomer sees at once what all sources need, and what a folder needs to become files.
#[test]
fn all_missing_files_are_told_together() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("texts")).unwrap();
    let source = |name: &str, files: &str| {
        format!("[[sources]]\nname = {name:?}\nfiles = [{files:?}]\nget = \"fetch {name}\"\n")
    };
    let text = format!("name = \"a\"\n{}{}", source("s", "s/*.txt"), source("t", "t.jsonl"));
    let error = make(&recipe(folder.path(), &text), options(&folder.path().join("out"), 1)).unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert!(
        lines.len() == 2
            && lines[0].ends_with("source s needs; fetch s")
            && lines[1].ends_with("source t needs; fetch t"),
        "{error}"
    );
    let text = format!("name = \"a\"\n{}", source("s", "texts"));
    let error = make(&recipe(folder.path(), &text), options(&folder.path().join("out"), 1)).unwrap_err().to_string();
    assert!(error.ends_with("texts: a folder; source s needs files, such as \"texts/**/*\""), "{error}");
}

/// Phases count up to the last, tokenizer and shards among them, and what is begun without a known end has no total.
#[test]
fn progress_tells_the_phase_and_how_many_there_are() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let recipe = recipe(folder.path(), RECIPE);
    let progress = Progress::default();
    let done = std::sync::atomic::AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let watch = || {
            let mut seen: Vec<Stage> = Vec::new();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let stage = progress.snapshot().stage;
                if seen.last() != Some(&stage) {
                    seen.push(stage);
                }
            }
            seen
        };
        let watcher = scope.spawn(watch);
        Run::plan(&recipe, options(&folder.path().join("out"), 2), &progress).unwrap().make().unwrap();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        watcher.join().unwrap()
    });
    let last = progress.snapshot();
    assert_eq!((last.stage.phase, last.stage.phases, last.stage.unit), (5, 5, Unit::Bytes));
    assert_eq!(last.stage.name, "checking the files");
    let packed = seen.iter().find(|stage| stage.name == "packing tokens").expect("it is seen");
    assert_eq!((packed.phase, packed.phases, packed.unit), (5, 5, Unit::Tokens));
    assert_eq!(last.done, last.stage.total);
    assert!(seen.is_sorted_by_key(|stage| stage.phase), "{seen:#?}");
    let trained = seen.iter().filter(|stage| stage.name == "training the tokenizer");
    assert!(trained.clone().count() > 0 && trained.clone().all(|s| s.total == 0 && s.phase == 3), "{seen:#?}");
    let text: u64 = (0..7).map(|i| std::fs::metadata(folder.path().join(format!("book-{i}.txt"))).unwrap().len()).sum();
    assert!(progress.bytes_read() > text);
}

#[test]
fn a_field_to_keep_that_no_document_has_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let out = options(&folder.path().join("out"), 2);
    let text = RECIPE.replace("keep = [\"name\"]", "keep = [\"name\", \"nmae\"]");
    let error = make(&recipe(folder.path(), &text), out.clone()).unwrap_err().to_string();
    assert!(error.contains("source lines: none of its 300 documents has the field \"nmae\" of `keep`"), "{error}");
    let text = RECIPE.replace("keep = [\"name\"]", "keep = [\"name\", \"held_out\"]").replace("held_out = 0.1", "");
    make(&recipe(folder.path(), &text), out).unwrap();
}

#[test]
fn records_of_a_crawl_that_are_passed_over_are_reported_by_kind() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["pages.warc", "pages.warc.gz"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/readers").join(name);
        std::fs::copy(file, folder.path().join(name)).unwrap();
    }
    let text = "name = \"a\"\n[[sources]]\nname = \"crawl\"\nfiles = [\"pages.*\"]\n";
    let report = make(&recipe(folder.path(), text), options(&folder.path().join("out"), 2)).unwrap().unwrap();
    let passed_over = BTreeMap::from([("status 404".to_string(), 2), ("type image/*".to_string(), 2)]);
    assert_eq!((report.total.read.documents, &report.total.passed_over), (6, &passed_over));
    assert_eq!(report.sources[0].tally.passed_over, passed_over);
    assert!(report.lines().iter().any(|line| line.starts_with("status 404") && line.ends_with(" 2")));
    assert!(report.page().contains("<td>status 404</td><td>2</td>"));
}

#[test]
fn a_preview_shows_what_each_step_does_and_reads_no_further() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let lines = ["{\"text\": \"it\u{e2}\u{20ac}\u{2122}s\\nthe same\", \"name\": \"a\"}", "no json"];
    let rest = std::fs::read_to_string(folder.path().join("a.jsonl")).unwrap();
    std::fs::write(folder.path().join("a.jsonl"), format!("{}\n{rest}", lines.join("\n"))).unwrap();
    // What lies behind the first documents is not read.
    std::fs::write(folder.path().join("book-9.txt"), b"\x1f\x8b\x08 damaged").unwrap();
    let text =
        RECIPE.replacen("[[steps]]", "[[steps]]\nstep = \"unicode\"\n[[steps]]\nstep = \"language\"\n[[steps]]", 1);
    let recipe = recipe(folder.path(), &text);
    let sources = preview(&recipe, 3).unwrap();
    assert_eq!(sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>(), ["lines", "books"]);
    let [lines, books] = &sources[..] else { panic!("{sources:?}") };
    assert_eq!((lines.documents.len(), books.documents.len()), (3, 3));
    assert_eq!((lines.damaged.len(), lines.damaged[0].place.as_str()), (1, "a.jsonl:2"));
    assert!(books.damaged.is_empty() && !lines.given_up);

    let first = &lines.documents[0];
    assert!(first.text.starts_with("it\u{e2}"));
    let effects: Vec<(&str, &Effect)> = first.steps.iter().map(|step| (step.step, &step.effect)).collect();
    let Effect::Changed { bytes, diff, labels } = effects[0].1 else { panic!("{effects:?}") };
    assert_eq!((*bytes, labels.len()), ("it\u{2019}s\nthe same".len(), 0));
    let diff = diff.as_ref().unwrap();
    assert!(diff.contains("-it\u{e2}\u{20ac}\u{2122}s\n+it\u{2019}s\n the same"), "{diff}");
    let Effect::Labelled { labels } = effects[1].1 else { panic!("{effects:?}") };
    assert!(labels.contains_key("language"));
    let dropped = Effect::Dropped { rule: "gopher_quality.words_min", detail: "4 words, less than 20".into() };
    assert_eq!(effects[2..], [("gopher_quality", &dropped)]);

    let steps: Vec<&str> = lines.documents[2].steps.iter().map(|step| step.step).collect();
    assert_eq!(steps, ["unicode", "language", "gopher_quality", "exact_dedup"]);
    assert_eq!(lines.documents[2].steps[3].effect, Effect::Unknown);
    assert_eq!(books.documents[0].steps.len(), 5, "the step that is for books alone");
    // Nothing is written, and a source without documents is given up.
    assert!(!folder.path().join("test").exists() && !folder.path().join("work").exists());
    let wrong: String = (0..12_000).map(|i| if i % 2 == 0 { "no json\n" } else { "{\"body\": 1}\n" }).collect();
    std::fs::write(folder.path().join("a.jsonl"), wrong).unwrap();
    std::fs::write(folder.path().join("b.jsonl"), "").unwrap();
    let sources = preview(&recipe, 3).unwrap();
    assert!(sources[0].documents.is_empty() && sources[0].given_up && sources[0].damaged.len() == 5);
}

#[test]
fn conversations_are_packed_with_masks_of_the_assistants_words() {
    let folder = tempfile::tempdir().unwrap();
    let text = "name = \"a\"\nseed = 5\nheld_out = 0.1\n[[sources]]\nname = \"about\"\ngenerate = \"about\"\ndocuments = 300\n\
                [[steps]]\nstep = \"conversations\"\n[tokenizer]\nvocabulary_size = 400\n[shards]\nmasks = true\nshard_tokens = 2048\n";
    let out = folder.path().join("out");
    make(&recipe(folder.path(), text), options(&out, 2)).unwrap();
    let tokenizer = Tokenizer::open(&out.join("tokenizer/tokenizer.json"), &Ends::default()).unwrap();
    let mut expected: Vec<(String, String)> = Vec::new();
    for path in files(&out.join("documents")).keys() {
        for document in Reader::<Document>::open(&out.join("documents").join(path)).unwrap() {
            let document = document.unwrap();
            let spans = document.labels["spans"].as_array().unwrap();
            let bound = |span: &serde_json::Value, i: usize| span[i].as_u64().unwrap() as usize;
            let words: String = spans.iter().map(|span| &document.text()[bound(span, 0)..bound(span, 1)]).collect();
            expected.push((document.text().to_string(), words));
        }
    }
    let shards = Shards::open(&out.join("shards")).unwrap();
    shards.verify(&out.join("shards")).unwrap();
    let mut found = Vec::new();
    for description in shards.splits.values().flatten() {
        let open = |name: &str| megatron::Reader::open(&out.join("shards").join(name)).unwrap();
        let (tokens, mask) = (open(&description.name), open(&description.mask_name()));
        for number in 0..tokens.documents() {
            let (mut ids, mut bits) = (Vec::new(), Vec::new());
            tokens.read(number, &mut ids).unwrap();
            mask.read(number, &mut bits).unwrap();
            assert_eq!(ids.len(), bits.len());
            let of = |trained: bool| -> String {
                let chosen = ids.iter().zip(&bits).skip(1).filter(|(_, bit)| !trained || **bit == 1);
                String::from_utf8(chosen.flat_map(|(id, _)| tokenizer.bytes(*id).to_vec()).collect()).unwrap()
            };
            found.push((of(false), of(true)));
        }
    }
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}
