//! Joins that need only the pairs of documents with a key in common, so that something else than the sorted merge can find these: a query engine, on a cluster

use std::path::{Path, PathBuf};

use super::{Decision, Join, Place, Record, Records, repeats};
use crate::Error;

/// Two documents with a key in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// The first document with the key.
    pub first: Place,
    /// A later one.
    pub other: Place,
}

/// A join that decides the same from pairs as from records.
pub trait PairJoin {
    /// Decides, from the pairs of each key's first document with every other, in any order; a pair with several keys may come once or more.
    ///
    /// # Errors
    /// What the pairs and `decide` give.
    fn decide_pairs(
        &self,
        pairs: &mut dyn Iterator<Item = Result<Pair, Error>>,
        documents: &[u32],
        decide: &mut dyn FnMut(Decision) -> Result<(), Error>,
    ) -> Result<(), Error>;
}

/// What finds pairs instead of the sorted merge.
pub trait PairFinder: Send + Sync {
    /// Where it runs, in words.
    fn describe(&self) -> String;

    /// The pairs of these runs of records, for [`PairJoin::decide_pairs`]. `directory` is for its own files; `memory_bytes` bounds what it holds here.
    ///
    /// # Errors
    /// What reading, writing and the engine give.
    fn pairs<'a>(
        &'a self,
        runs: &'a [PathBuf],
        directory: &'a Path,
        memory_bytes: usize,
    ) -> Result<Box<dyn Iterator<Item = Result<Pair, Error>> + 'a>, Error>;
}

/// The pairs of records that come in order: what the sorted merge finds.
pub(super) fn of_records(
    records: &mut dyn Iterator<Item = Result<Record, Error>>,
) -> impl Iterator<Item = Result<Pair, Error>> {
    repeats(records).map(|repeat| repeat.map(|(first, other)| Pair { first: first.place, other: other.place }))
}

/// [`decide`](super::decide), but the pairs of a join that needs no more are found by `finder`.
///
/// # Errors
/// What [`decide`](super::decide) and the finder give; pairs of documents that are not there.
pub fn decide(
    join: &dyn Join,
    finder: &dyn PairFinder,
    records: &Records<'_>,
    directory: &Path,
    memory_bytes: usize,
) -> Result<Vec<PathBuf>, Error> {
    let Some(of_pairs) = join.of_pairs() else { return super::decide(join, records, directory, memory_bytes) };
    let own = directory.join("pairs");
    let decisions = records.decisions(directory, memory_bytes, |decide| {
        let pairs = finder.pairs(records.runs, &own, memory_bytes / 2)?;
        let mut checked = pairs.map(|pair| {
            let pair = pair?;
            let sound = pair.first < pair.other && [pair.first, pair.other].iter().all(|p| records.has(*p).is_ok());
            let problem =
                || format!("{} gave the pair of {} and {}: run it again", finder.describe(), pair.first, pair.other);
            if sound { Ok(pair) } else { Err(Error::file(&own, problem())) }
        });
        of_pairs.decide_pairs(&mut checked, records.documents, decide)
    })?;
    match std::fs::remove_dir_all(&own) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&own)(error)),
        _ => Ok(decisions),
    }
}
