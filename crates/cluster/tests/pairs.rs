//! The plan in this process gives the decisions of the sorted merge, byte for byte, whatever the corpus and the memory

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use data::Error;
use data::join::near::{Near, NearDedup};
use data::join::pairs::{self, Pair, PairFinder};
use data::join::runs::Reader;
use data::join::{Decision, decide};
use data::progress::Progress;
use farthing_cluster::pairs::{Engine, PlanFinder};

mod corpora;

use corpora::{Corpus, corpora};

const MEMORY_BYTES: usize = 64 << 20;

fn bytes(files: &[PathBuf]) -> Vec<Vec<u8>> {
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn found(corpus: &Corpus, directory: &Path, memory_bytes: usize) -> Result<Vec<PathBuf>, Error> {
    let (near, progress) = (NearDedup::new(Near::default(), 1).unwrap(), Progress::default());
    let finder = PlanFinder::new(Engine::InProcess, 2, &progress)?;
    pairs::decide(&near, &finder, &corpus.records(), directory, memory_bytes)
}

#[test]
fn a_plan_finds_the_clusters_of_the_sorted_merge() {
    let near = NearDedup::new(Near::default(), 1).unwrap();
    for (name, parts, dropped) in corpora() {
        let directory = tempfile::tempdir().unwrap();
        // A name that a pattern, or a URL, could take for something else.
        let directory = directory.path().join("a *?[x] % \u{e9}");
        let corpus = Corpus::write(&parts, &directory);
        let merged = decide(&near, &corpus.records(), &directory.join("merged"), MEMORY_BYTES).unwrap();
        let decisions = merged.iter().map(|run| Reader::<Decision>::open(run).unwrap().count());
        let decisions: usize = decisions.sum();
        assert!(dropped.contains(&decisions), "{name}: {decisions}");
        let found = found(&corpus, &directory.join("found"), MEMORY_BYTES).unwrap();
        assert!(bytes(&found) == bytes(&merged), "{name}");
        let left = std::fs::read_dir(directory.join("found")).unwrap().count();
        assert_eq!(left, parts.len(), "{name}: nothing but decisions is left");
    }
}

/// 72 MB of signatures in 32 MiB, the least for two threads.
#[test]
fn what_does_not_fit_into_memory_is_spilled() {
    let near = NearDedup::new(Near::default(), 1).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let corpus = Corpus::write(&corpora::random(8, 375_000, 1_000_000), directory.path());
    let merged = decide(&near, &corpus.records(), &directory.path().join("merged"), MEMORY_BYTES).unwrap();
    assert!(bytes(&found(&corpus, &directory.path().join("found"), 1 << 20).unwrap()) == bytes(&merged));
}

/// A finder with somebody who looks: at the directory when the plan has begun, and at every pair.
struct Watched<'a> {
    finder: PlanFinder<'a>,
    begun: &'a (dyn Fn(&Path) + Sync),
    pair: &'a (dyn Fn() + Sync),
}

impl PairFinder for Watched<'_> {
    fn describe(&self) -> String {
        self.finder.describe()
    }

    fn pairs<'a>(
        &'a self,
        runs: &'a [PathBuf],
        directory: &'a Path,
        memory_bytes: usize,
    ) -> Result<Box<dyn Iterator<Item = Result<Pair, Error>> + 'a>, Error> {
        let pairs = self.finder.pairs(runs, directory, memory_bytes)?;
        (self.begun)(&directory.join("signatures"));
        Ok(Box::new(pairs.inspect(|_| (self.pair)())))
    }
}

#[test]
fn a_run_that_was_stopped_goes_on() {
    let near = NearDedup::new(Near::default(), 1).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let corpus = Corpus::write(&corpora::random(4, 100_000, 150_000), directory.path());
    let merged = decide(&near, &corpus.records(), &directory.path().join("merged"), MEMORY_BYTES).unwrap();
    let work = directory.path().join("found");
    let made = |progress: &Progress, begun: &(dyn Fn(&Path) + Sync), pair: &(dyn Fn() + Sync)| {
        let finder = PlanFinder::new(Engine::InProcess, 2, progress).unwrap();
        pairs::decide(&near, &Watched { finder, begun, pair }, &corpus.records(), &work, MEMORY_BYTES)
    };
    let (progress, given) = (Progress::default(), AtomicUsize::new(0));
    let stop = || {
        if given.fetch_add(1, Ordering::Relaxed) == 10 {
            progress.stop();
        }
    };
    let error = made(&progress, &|_| {}, &stop).unwrap_err();
    assert!(matches!(error, Error::Stopped), "{error}");
    // What else a killed run may leave: too many files, one of other records, half of one. The one that is whole stays.
    let file = |number: usize| work.join(format!("pairs/signatures/{number:05}.parquet"));
    std::fs::copy(file(0), file(4)).unwrap();
    std::fs::copy(file(0), file(1)).unwrap();
    std::fs::write(file(2), b"PAR1").unwrap();
    let written = |number: usize| std::fs::metadata(file(number)).unwrap().modified().unwrap();
    let before = [written(0), written(3)];
    let look = |signatures: &Path| {
        assert_eq!(std::fs::read_dir(signatures).unwrap().count(), 4);
        assert_eq!([written(0), written(3)], before);
    };
    let again = made(&Progress::default(), &look, &|| {}).unwrap();
    assert!(bytes(&again) == bytes(&merged));
}

#[test]
fn a_damaged_run_is_an_error_that_names_it() {
    let near = NearDedup::new(Near::default(), 1).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let corpus = Corpus::write(&corpora::random(2, 10_000, 10_000), directory.path());
    let mut run = std::fs::read(&corpus.runs[1]).unwrap();
    run[5000] ^= 1;
    std::fs::write(&corpus.runs[1], run).unwrap();
    let finder_error = found(&corpus, &directory.path().join("found"), MEMORY_BYTES).unwrap_err().to_string();
    let merge_error = decide(&near, &corpus.records(), &directory.path().join("merged"), MEMORY_BYTES).unwrap_err();
    assert_eq!(finder_error, merge_error.to_string());
}

#[test]
fn a_scheduler_that_is_not_there_is_told_at_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let progress = Progress::default();
    let error = PlanFinder::new(Engine::parse(&address).unwrap(), 1, &progress).err().unwrap().to_string();
    assert!(
        error.starts_with(&address) && error.contains("refused") && error.contains("ballista-scheduler"),
        "{error}"
    );
}
