//! A Ballista scheduler and two executors, as processes of their own on loopback, give the decisions of the sorted merge: also if an executor is killed
//!
//! This executable starts itself again as scheduler and executors. Executors wait where a test wants it, so that "in the middle of the job" is no luck.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use data::Error;
use data::join::decide;
use data::join::near::{Near, NearDedup};
use data::join::pairs;
use data::progress::Progress;
use farthing_cluster::pairs::{Engine, PlanFinder};

#[path = "../corpora/mod.rs"]
mod corpora;
mod nodes;

use corpora::{Corpus, corpora};
use nodes::{Cluster, Hold};

const MEMORY_BYTES: usize = 64 << 20;
/// What is longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["scheduler"] => nodes::scheduler(),
        ["executor", name, scheduler, directory] => nodes::executor(name, scheduler, Path::new(directory)),
        _ => {
            for (name, test) in TESTS {
                let start = Instant::now();
                test();
                println!("test {name} ... ok, {:.1} s", start.elapsed().as_secs_f64());
            }
        }
    }
}

const TESTS: [(&str, fn()); 4] = [
    ("a_cluster_finds_the_clusters_of_the_sorted_merge", a_cluster_finds_the_clusters_of_the_sorted_merge),
    ("an_executor_killed_in_the_middle_changes_nothing", an_executor_killed_in_the_middle_changes_nothing),
    ("a_stopped_job_is_cancelled_and_done_again", a_stopped_job_is_cancelled_and_done_again),
    ("executors_that_are_all_lost_are_an_error", executors_that_are_all_lost_are_an_error),
];

fn bytes(files: &[PathBuf]) -> Vec<Vec<u8>> {
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn near() -> NearDedup {
    NearDedup::new(Near::default(), 1).unwrap()
}

fn found(cluster: &Cluster, corpus: &Corpus, directory: &Path, progress: &Progress) -> Result<Vec<PathBuf>, Error> {
    let finder = PlanFinder::new(Engine::parse(&cluster.address).unwrap(), 2, progress)?;
    pairs::decide(&near(), &finder, &corpus.records(), directory, MEMORY_BYTES)
}

/// A corpus of several parts in `directory`, with what the sorted merge decides.
fn corpus(directory: &Path) -> (Corpus, Vec<Vec<u8>>) {
    let corpus = Corpus::write(&corpora::random(6, 20_000, 40_000), directory);
    let merged = decide(&near(), &corpus.records(), &directory.join("merged"), MEMORY_BYTES).unwrap();
    (corpus, bytes(&merged))
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not in {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn a_cluster_finds_the_clusters_of_the_sorted_merge() {
    let cluster = Cluster::start(&["a", "b"]);
    for (name, parts, _) in corpora() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("a *?[x] % \u{e9}");
        let corpus = Corpus::write(&parts, &directory);
        let merged = decide(&near(), &corpus.records(), &directory.join("merged"), MEMORY_BYTES).unwrap();
        let found = found(&cluster, &corpus, &directory.join("found"), &Progress::default()).unwrap();
        assert!(bytes(&found) == bytes(&merged), "{name}");
    }
    assert!(cluster.stages("a").len() + cluster.stages("b").len() > 0, "executors did it");
}

/// Both executors have done tasks of the first stage and hold one of the last. Then one is killed, and what it shuffled is gone with its disk: the other
/// has to do all of the first stage's work again that was done there.
fn an_executor_killed_in_the_middle_changes_nothing() {
    let cluster = Cluster::start(&["a", "b"]);
    let directory = tempfile::tempdir().unwrap();
    let (corpus, merged) = corpus(directory.path());
    let last = [cluster.hold("a", Hold::LastStage), cluster.hold("b", Hold::LastStage)];
    let first = cluster.hold("b", Hold::FirstStage);
    std::thread::scope(|scope| {
        let job = scope.spawn(|| found(&cluster, &corpus, &directory.path().join("found"), &Progress::default()));
        let (a, b) = (|| cluster.stages("a"), || cluster.stages("b"));
        wait_for("both in the first stage", || !a().is_empty() && !b().is_empty());
        drop(first);
        let in_last = |stages: Vec<usize>| stages.iter().any(|&stage| stage > 1);
        wait_for("both in the last stage", || in_last(a()) && in_last(b()));
        let before = b().iter().filter(|&&stage| stage == 1).count();
        cluster.kill("a");
        drop(last);
        let found = job.join().unwrap().unwrap();
        assert!(bytes(&found) == merged);
        let after = b().iter().filter(|&&stage| stage == 1).count();
        assert!(after > before, "the killed executor's part of the first stage was done again");
    });
}

fn a_stopped_job_is_cancelled_and_done_again() {
    let cluster = Cluster::start(&["a"]);
    let directory = tempfile::tempdir().unwrap();
    let (corpus, merged) = corpus(directory.path());
    let held = cluster.hold("a", Hold::LastStage);
    let (progress, stopped) = (Progress::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_for("in the last stage", || cluster.stages("a").iter().any(|&stage| stage > 1));
            stopped.store(true, Ordering::Relaxed);
            progress.stop();
        });
        let error = found(&cluster, &corpus, &directory.path().join("found"), &progress).unwrap_err();
        assert!(stopped.load(Ordering::Relaxed) && matches!(error, Error::Stopped), "{error}");
    });
    drop(held);
    let found = found(&cluster, &corpus, &directory.path().join("found"), &Progress::default()).unwrap();
    assert!(bytes(&found) == merged);
    // Of the stopped job's sixteen tasks in the last stage only the one that was held was begun.
    let mut jobs = cluster.jobs("a", 2);
    jobs.sort_unstable();
    let of_first = jobs.iter().filter(|job| **job == jobs[0]).count();
    assert!(of_first <= 2 && jobs.len() > 16, "{jobs:?}");
}

fn executors_that_are_all_lost_are_an_error() {
    let cluster = Cluster::start(&["a"]);
    let directory = tempfile::tempdir().unwrap();
    let (corpus, _) = corpus(directory.path());
    let _held = cluster.hold("a", Hold::LastStage);
    std::thread::scope(|scope| {
        let job = scope.spawn(|| found(&cluster, &corpus, &directory.path().join("found"), &Progress::default()));
        wait_for("in the last stage", || cluster.stages("a").iter().any(|&stage| stage > 1));
        cluster.kill("a");
        let error = job.join().unwrap().unwrap_err().to_string();
        assert!(error.starts_with(&cluster.address) && error.contains("The same command"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    });
}
