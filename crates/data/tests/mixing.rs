//! Mixing: every document the right number of times, in an order that follows from the seed, whoever writes the shards

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use farthing_data::Error;
use farthing_data::shards::mix::{Plan, Settings, Share, Source, Split};
use farthing_data::shards::{Shards, Workers, megatron, run, write_shards};
use proptest::prelude::*;

const VOCABULARY: usize = 60_000;

/// A source in runs of the given numbers of documents. The first token of a document is its number and that of its source; others follow.
fn source(directory: &Path, number: u32, parts: &[u32], length: impl Fn(u32) -> u32) -> Vec<PathBuf> {
    let mut document = 0;
    parts
        .iter()
        .enumerate()
        .map(|(part, &documents)| {
            let path = directory.join(format!("{number}-{part}.tokens"));
            let mut writer = run::Writer::create(&path, [1; 32]).unwrap();
            for _ in 0..documents {
                let mut tokens = vec![number * 10_000 + document];
                tokens.resize(1 + length(document) as usize, 59_999);
                let name = char::from(b'a' + number as u8);
                writer.document(&format!("{name}#{document}"), document % 10_000 == 9_999, &tokens).unwrap();
                document += 1;
            }
            writer.finish().unwrap();
            path
        })
        .collect()
}

fn plan(sources: &[(Share, Vec<PathBuf>)], settings: &Settings, seed: u64) -> Result<Plan, String> {
    let measured = sources.iter().zip(["one", "two", "three"]);
    let sources = measured.map(|((share, runs), name)| Source::measure(name, *share, runs.clone(), settings).unwrap());
    Plan::new(sources.collect(), settings, seed, VOCABULARY)
}

const ALONE: Workers = Workers { rank: 0, world: 1, threads: 1 };

fn write(plan: &Plan, directory: &Path, workers: Workers) {
    write_shards(plan, directory, workers, &|_| Ok(())).unwrap();
}

/// The first tokens of the documents of a split, in order.
fn order(shards: &Shards, directory: &Path, split: Split) -> Vec<u32> {
    let mut order = Vec::new();
    for description in shards.splits.get(&split).into_iter().flatten() {
        let shard = megatron::Reader::open(&directory.join(&description.name)).unwrap();
        for document in 0..shard.documents() {
            let mut tokens = Vec::new();
            shard.read(document, &mut tokens).unwrap();
            order.push(tokens[0]);
        }
    }
    order
}

fn mixed(sources: &[(Share, Vec<PathBuf>)], settings: &Settings, seed: u64) -> (Vec<u32>, Vec<u32>) {
    let directory = tempfile::tempdir().unwrap();
    let plan = plan(sources, settings, seed).unwrap();
    write(&plan, directory.path(), ALONE);
    let shards = Shards::collect(&plan, directory.path(), blake3::hash(b"recipe")).unwrap().unwrap();
    shards.verify(directory.path()).unwrap();
    assert_eq!(Shards::open(directory.path()).unwrap(), shards);
    let of = |split| order(&shards, directory.path(), split);
    (of(Split::Train), of(Split::HeldOut))
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (name(&path), std::fs::read(path).unwrap())).collect()
}

fn settings() -> Settings {
    Settings { shard_tokens: 1024, ..Settings::default() }
}

#[test]
fn the_order_is_the_one_that_its_definition_gives() {
    // Computed by a Python program with xxhash 4.1 from the definition in mix.rs.
    let directory = tempfile::tempdir().unwrap();
    let runs = |number| source(directory.path(), number, &[5, 7], |_| 0);
    let sources = [(Share::Epochs(2.5), runs(0)), (Share::Epochs(1.0), runs(1))];
    let name = |order: Vec<u32>| order.into_iter().map(|token| token / 10_000 * 100 + token % 100).collect::<Vec<_>>();
    let expected = [
        110, 1, 6, 4, 10, 0, 104, 11, 9, 5, 100, 106, 8, 7, 105, 3, 109, 2, 10, 11, 103, 6, 4, 7, 9, 111, 3, 5, 1, 107,
        8, 2, 0, 2, 108, 4, 101, 0, 11, 6, 102, 3, 5, 1, 9,
    ];
    assert_eq!(name(mixed(&sources, &settings(), 7).0), expected);
    let settings = Settings { held_out: 0.2, ..settings() };
    let held_out = [1, 11, 100, 106, 7, 108];
    let (train, found) = mixed(&sources, &settings, 7);
    assert_eq!(name(found), held_out);
    // The held-out documents are gone from training, the others stay in their order.
    let rest: Vec<u32> = expected.into_iter().filter(|token| !held_out.contains(token)).collect();
    assert_eq!(name(train), rest);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_document_comes_as_often_as_its_epochs_say(
        parts in prop::collection::vec(prop::collection::vec(0u32..60, 1..4), 1..4),
        epochs in prop::collection::vec(1u32..5, 3),
        held_out in prop_oneof![Just(0.0), Just(0.25)],
        seed: u64,
    ) {
        prop_assume!(parts.iter().flatten().any(|&documents| documents > 8));
        let directory = tempfile::tempdir().unwrap();
        let sources: Vec<_> = parts.iter().zip(&epochs).zip(0..)
            .map(|((parts, &epochs), n)| (Share::Epochs(epochs.into()), source(directory.path(), n, parts, |i| i % 40)))
            .collect();
        let settings = Settings { held_out, ..settings() };
        let (train, out) = mixed(&sources, &settings, seed);
        for (number, parts) in parts.iter().enumerate() {
            for document in 0..parts.iter().sum() {
                let token = number as u32 * 10_000 + document;
                let places: Vec<usize> = (0..train.len()).filter(|&i| train[i] == token).collect();
                let held_out = out.iter().filter(|&&t| t == token).count();
                prop_assert!(held_out == 0 && places.len() == epochs[number] as usize || held_out == 1 && places.is_empty());
            }
        }
        // Nothing else, and an epoch of a source ends before the next one begins.
        let documents: u32 = parts.iter().flatten().sum();
        let distinct: std::collections::HashSet<u32> = train.iter().chain(&out).copied().collect();
        prop_assert_eq!(distinct.len(), documents as usize);
        for number in 0..parts.len() as u32 {
            let of_source: Vec<u32> = train.iter().copied().filter(|token| token / 10_000 == number).collect();
            let once = of_source.len() / epochs[number as usize] as usize;
            for epoch in of_source.chunks(once.max(1)) {
                let mut sorted = epoch.to_vec();
                sorted.sort_unstable();
                sorted.dedup();
                prop_assert_eq!(sorted.len(), once);
            }
        }
        let (other, _) = mixed(&sources, &settings, seed ^ 1);
        prop_assert!(train.len() < 9 || other != train, "another seed, the same order");
    }

    #[test]
    fn ranks_threads_and_interruptions_change_no_byte(world in 1usize..5, threads in 1usize..4, stop_at in 0u64..4000, seed: u64) {
        let directory = tempfile::tempdir().unwrap();
        let runs = |number| source(directory.path(), number, &[40, 0, 25], |i| i * 7 % 90);
        let settings = Settings { held_out: 0.1, ..settings() };
        let sources = [(Share::Epochs(1.7), runs(0)), (Share::Epochs(0.6), runs(1))];
        let plan = plan(&sources, &settings, seed).unwrap();
        let [one, many] = ["one", "many"].map(|name| directory.path().join(name));
        write(&plan, &one, ALONE);
        let recipe = blake3::hash(b"recipe");
        Shards::collect(&plan, &one, recipe).unwrap().unwrap();

        // Stopped in the middle, a shard lost, one cut off: the same command goes on.
        let left = AtomicU64::new(stop_at);
        let stopping = |_| {
            let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(17)));
            if before == Ok(0) { Err(Error::Stopped) } else { Ok(()) }
        };
        let stopped = write_shards(&plan, &many, ALONE, &stopping);
        prop_assert!(matches!(stopped, Ok(()) | Err(Error::Stopped)));
        if stopped.is_err() {
            prop_assert!(Shards::collect(&plan, &many, recipe).unwrap().is_none());
        }
        let _ = std::fs::remove_file(many.join("train-00001.bin"));
        if let Ok(bytes) = std::fs::read(many.join("train-00000.bin")) {
            std::fs::write(many.join("train-00000.bin"), &bytes[..bytes.len() / 2]).unwrap();
        }
        for rank in (0..world).rev() {
            write(&plan, &many, Workers { rank, world, threads });
        }
        Shards::collect(&plan, &many, recipe).unwrap().unwrap();
        prop_assert!(files(&one) == files(&many));
    }
}

#[test]
fn what_is_finished_is_not_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let sources = [(Share::Epochs(1.0), source(directory.path(), 0, &[100], |_| 50))];
    let shards = directory.path().join("shards");
    let count = |plan: &Plan| {
        let tokens = AtomicU64::new(0);
        let written = |n| {
            tokens.fetch_add(n, Ordering::Relaxed);
            Ok(())
        };
        write_shards(plan, &shards, ALONE, &written).unwrap();
        tokens.into_inner()
    };
    let first = plan(&sources, &settings(), 1).unwrap();
    assert_eq!(count(&first), 5100);
    assert_eq!(count(&first), 0);
    // Another plan makes all of them again.
    assert_eq!(count(&plan(&sources, &settings(), 2).unwrap()), 5100);
    std::fs::write(shards.join("train-00001.json"), "{").unwrap();
    let again = count(&plan(&sources, &settings(), 2).unwrap());
    assert!((700..1400).contains(&again), "{again}");
}

#[test]
fn shares_are_those_asked_for_everywhere_in_the_order() {
    let directory = tempfile::tempdir().unwrap();
    let long = source(directory.path(), 0, &[3000, 3000], |_| 99);
    let short = source(directory.path(), 1, &[4000], |_| 19);
    // 600,000 and 80,000 tokens there; 150,000 each asked for: a quarter of an epoch, and 1.875.
    let settings = Settings { tokens: Some(300_000), shard_tokens: 30_000, ..Settings::default() };
    let sources = [(Share::Weight(2.0), long), (Share::Weight(2.0), short)];
    let plan = plan(&sources, &settings, 3).unwrap();
    let epochs: Vec<f64> = plan.sources().iter().map(|mixed| mixed.epochs()).collect();
    assert_eq!(epochs, [0.25, 1.875]);
    let (train, _) = mixed(&sources, &settings, 3);
    let tokens = |part: &[u32]| {
        let of = |number| part.iter().filter(|&&token| token / 10_000 == number).count() as f64;
        [of(0) * 100.0, of(1) * 20.0]
    };
    let [long, short] = tokens(&train);
    assert!((long - 150_000.0).abs() < 10_000.0 && (short - 150_000.0).abs() < 3_000.0, "{long} {short}");
    for part in train.chunks_exact(train.len() / 8) {
        let [long, short] = tokens(part);
        assert!((long / (long + short) - 0.5).abs() < 0.1, "{long} {short}");
    }
    // The partial epoch takes documents from everywhere.
    let first_half = train.iter().filter(|&&token| token < 3000).count() as f64;
    assert!((first_half - 750.0).abs() < 120.0, "{first_half}");
}

#[test]
fn impossible_mixes_say_what_would_do() {
    let directory = tempfile::tempdir().unwrap();
    let long = source(directory.path(), 0, &[1000], |_| 99);
    let short = source(directory.path(), 1, &[10], |_| 19);
    let empty = source(directory.path(), 2, &[0], |_| 0);
    let error = |a: (Share, &Vec<PathBuf>), b: (Share, &Vec<PathBuf>), settings: Settings| {
        plan(&[(a.0, a.1.clone()), (b.0, b.1.clone())], &settings, 0).err().unwrap_or_default()
    };
    let with = |tokens| Settings { tokens, ..settings() };
    let (weight, epochs) = (Share::Weight, Share::Epochs);
    let said = error((weight(1.0), &long), (weight(1.0), &short), with(Some(20_000)));
    let expected = "source two has 200 tokens; weight 0.5 of 20.0 k tokens needs 50.0 epochs, more than epochs_max 4: 1600 tokens would do, or epochs_max 50";
    assert_eq!(said, expected);
    assert_eq!(error((weight(1.0), &long), (weight(1.0), &short), with(Some(1600))), "");
    for (said, expected) in [
        (error((weight(1.0), &long), (weight(1.0), &short), with(None)), "set tokens"),
        (error((weight(1.0), &long), (weight(1.0), &short), with(Some(0))), "tokens is 0"),
        (error((weight(1.0), &long), (epochs(1.0), &short), with(Some(1000))), "source two has epochs where"),
        (error((epochs(1.0), &long), (epochs(1.0), &short), with(Some(1000))), "no source has a weight"),
        (error((weight(1.0), &long), (weight(0.0), &short), with(Some(1000))), "each is above 0"),
        (error((weight(1.0), &long), (weight(f64::NAN), &short), with(Some(1000))), "each is above 0"),
        (
            error((weight(1.0), &long), (weight(1.0), &empty), with(Some(1000))),
            "source two has a weight, but no tokens",
        ),
        (error((epochs(0.0), &long), (epochs(1.0), &short), with(None)), "source one has 0 epochs"),
        (error((epochs(f64::INFINITY), &long), (epochs(1.0), &short), with(None)), "has inf epochs"),
        (error((epochs(1.0), &empty), (epochs(1.0), &empty), with(None)), "nothing is left"),
        (
            error((epochs(1.0), &long), (epochs(1.0), &short), Settings { held_out: 0.7, ..settings() }),
            "held_out is 0.7",
        ),
        (
            error((epochs(1.0), &long), (epochs(1.0), &short), Settings { shard_tokens: 3, ..settings() }),
            "shard_tokens is 3",
        ),
        (
            error((epochs(1.0), &long), (epochs(1.0), &short), Settings { epochs_max: -1.0, ..settings() }),
            "epochs_max is -1",
        ),
    ] {
        assert!(said.contains(expected), "{said:?} instead of {expected:?}");
    }
}

#[test]
fn documents_that_generators_hold_out_stay_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run");
    let mut writer = run::Writer::create(&path, [0; 32]).unwrap();
    for i in 0..100 {
        writer.document(&format!("sums#{i}"), i % 10 == 3, &[i; 20]).unwrap();
    }
    writer.finish().unwrap();
    let (train, mut held_out) = mixed(&[(Share::Epochs(3.0), vec![path])], &settings(), 0);
    held_out.sort_unstable();
    assert_eq!(held_out, (0..10).map(|i| i * 10 + 3).collect::<Vec<u32>>());
    assert!(train.iter().all(|token| token % 10 != 3));
    assert_eq!(train.len(), 270);
}

#[test]
fn damage_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let runs = source(directory.path(), 0, &[30, 30], |_| 60);
    let shards = directory.path().join("shards");
    let sources = [(Share::Epochs(1.0), runs.clone())];
    let plan = plan(&sources, &settings(), 0).unwrap();
    let good = std::fs::read(&runs[1]).unwrap();
    let mut bytes = good.clone();
    bytes[400] ^= 4;
    std::fs::write(&runs[1], &bytes).unwrap();
    let error = write_shards(&plan, &shards, ALONE, &|_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("0-1.tokens") && error.contains("another hash"), "{error}");
    assert!(Shards::collect(&plan, &shards, blake3::hash(b"")).unwrap().is_none());
    std::fs::write(&runs[1], good).unwrap();
    write(&plan, &shards, ALONE);
    let whole = Shards::collect(&plan, &shards, blake3::hash(b"")).unwrap().unwrap();

    let flip = |name: &str| {
        let path = shards.join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[37] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let opened = || Shards::open(&shards).map(|_| ()).map_err(|e| e.to_string());
    flip("train-00000.bin");
    opened().unwrap();
    let error = whole.verify(&shards).unwrap_err().to_string();
    assert!(error.contains("train-00000.bin: its blake3 is"), "{error}");
    flip("train-00000.bin");
    flip("train-00001.idx");
    assert!(opened().unwrap_err().contains("train-00001.idx: its blake3 is"));
    flip("train-00001.idx");
    opened().unwrap();
    let json = std::fs::read_to_string(shards.join("shards.json")).unwrap();
    for (from, to, expected) in [
        ("train-00000", "../x/train-00000", "is no name of a shard"),
        ("\"version\": 1", "\"version\": 2", "version 2"),
        ("\"seed\"", "\"seeds\"", "seeds"),
        ("\"uint16\"", "\"int32\"", "the description says"),
    ] {
        std::fs::write(shards.join("shards.json"), json.replacen(from, to, 1)).unwrap();
        let error = opened().unwrap_err();
        assert!(error.contains(expected), "{error:?} instead of {expected:?}");
    }
}

#[test]
fn masks_are_shards_beside_those_of_the_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.tokens");
    let mut writer = run::Writer::create(&path, [1; 32]).unwrap();
    for document in 0..200u32 {
        // A loss is taken of each token whose place the document's number divides.
        let token = |i: u32| if i.is_multiple_of(document + 1) { i + 1 } else { (i + 1) | run::MASKED };
        let tokens: Vec<u32> = (0..document % 50).map(token).collect();
        writer
            .document(&format!("a#{document}"), document % 10 == 0, &[&[document + 1000][..], &tokens].concat())
            .unwrap();
    }
    writer.finish().unwrap();
    let sources = [(Share::Epochs(2.0), vec![path])];
    let (with, without) = (directory.path().join("with"), directory.path().join("without"));
    let masked = plan(&sources, &Settings { masks: true, ..settings() }, 3).unwrap();
    write(&masked, &with, ALONE);
    let plain = plan(&sources, &settings(), 3).unwrap();
    write(&plain, &without, ALONE);
    let recipe = blake3::hash(b"");
    let shards = Shards::collect(&masked, &with, recipe).unwrap().unwrap();
    assert!(Shards::collect(&plain, &without, recipe).unwrap().unwrap().splits[&Split::Train][0].mask.is_none());

    let mut documents = 0;
    for description in shards.splits.values().flatten() {
        for ending in ["bin", "idx"] {
            let name = format!("{}.{ending}", description.name);
            assert!(std::fs::read(with.join(&name)).unwrap() == std::fs::read(without.join(&name)).unwrap(), "{name}");
        }
        let tokens = megatron::Reader::open(&with.join(&description.name)).unwrap();
        let mask = megatron::Reader::open(&with.join(description.mask_name())).unwrap();
        assert_eq!(mask.token_type(), megatron::TokenType::Uint8);
        assert_eq!((mask.documents(), mask.tokens()), (tokens.documents(), tokens.tokens()));
        for document in 0..tokens.documents() {
            let (mut ids, mut bits) = (Vec::new(), Vec::new());
            tokens.read(document, &mut ids).unwrap();
            mask.read(document, &mut bits).unwrap();
            let number = ids[0] - 1000;
            let expected: Vec<u32> = ids[1..].iter().map(|id| u32::from((id - 1).is_multiple_of(number + 1))).collect();
            assert_eq!(bits, [&[1][..], &expected].concat(), "document {number}");
            documents += 1;
        }
    }
    assert_eq!(documents, 180 * 2 + 20);

    Shards::open(&with).unwrap().verify(&with).unwrap();
    let bin = with.join("train-00000-mask.bin");
    let mut bytes = std::fs::read(&bin).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&bin, &bytes).unwrap();
    let error = shards.verify(&with).unwrap_err().to_string();
    assert!(error.contains("train-00000-mask.bin: its blake3 is"), "{error}");
    std::fs::write(&bin, &bytes[1..]).unwrap();
    assert!(Shards::open(&with).unwrap_err().to_string().contains("train-00000-mask.bin"));
    // A mask that is lost or damaged is made again with its shard.
    std::fs::remove_file(&bin).unwrap();
    write(&masked, &with, ALONE);
    Shards::collect(&masked, &with, recipe).unwrap().unwrap().verify(&with).unwrap();
}

#[test]
fn shards_that_no_plan_has_any_more_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let sources = [(Share::Epochs(1.0), source(directory.path(), 0, &[100], |_| 50))];
    let shards = directory.path().join("shards");
    let many = plan(&sources, &Settings { masks: true, ..settings() }, 1).unwrap();
    write(&many, &shards, ALONE);
    let one = plan(&sources, &Settings { shard_tokens: 1 << 20, ..settings() }, 1).unwrap();
    write(&one, &shards, ALONE);
    std::fs::write(shards.join("train-notes.txt"), "not ours").unwrap();
    Shards::collect(&one, &shards, blake3::hash(b"")).unwrap().unwrap();
    let left: Vec<String> = files(&shards).into_keys().collect();
    assert_eq!(left, ["shards.json", "train-00000.bin", "train-00000.idx", "train-00000.json", "train-notes.txt"]);
}
