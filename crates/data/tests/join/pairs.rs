//! Decisions from pairs that something else finds are those of the sorted merge, byte for byte

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use farthing_data::Error;
use farthing_data::join::pairs::{Pair, PairFinder, decide};
use farthing_data::join::runs::Reader;
use farthing_data::join::{Place, Record};

use crate::{Corpus, MEMORY_BYTES, join, place};

/// Finds pairs with a table in memory, which gives keys in no order.
struct Table {
    added: Vec<Pair>,
}

impl PairFinder for Table {
    fn describe(&self) -> String {
        "in a table".to_string()
    }

    fn pairs<'a>(
        &'a self,
        runs: &'a [PathBuf],
        directory: &'a Path,
        _memory_bytes: usize,
    ) -> Result<Box<dyn Iterator<Item = Result<Pair, Error>> + 'a>, Error> {
        std::fs::create_dir_all(directory).map_err(Error::io(directory))?;
        let mut places: HashMap<u128, Vec<Place>> = HashMap::new();
        for run in runs {
            for record in Reader::<Record>::open(run)? {
                let record = record?;
                places.entry(record.key).or_default().push(record.place);
            }
        }
        let of_key = |places: Vec<Place>| {
            let first = *places.iter().min().unwrap();
            places.into_iter().filter(move |&other| other != first).map(move |other| Pair { first, other })
        };
        Ok(Box::new(places.into_values().flat_map(of_key).chain(self.added.iter().copied()).map(Ok)))
    }
}

/// Texts of which many are the same or nearly so, in parts of which some are empty.
fn parts() -> Vec<Vec<String>> {
    let text = |seed: usize| (0..40).map(|word| format!("w{} ", (seed * 7 + word * (seed % 3 + 1)) % 97)).collect();
    let part = |part: usize| match part % 4 {
        2 => Vec::new(),
        _ => (0..30).map(|i| text((i * i + part * 5) % 23)).collect(),
    };
    (0..6).map(part).collect()
}

#[test]
fn pairs_give_the_decisions_of_the_sorted_merge() {
    for name in ["near_dedup", "exact_dedup", "line_dedup"] {
        let join = join(name, "");
        let directory = tempfile::tempdir().unwrap();
        let corpus = Corpus::write(&*join, &parts(), directory.path(), MEMORY_BYTES);
        let bytes =
            |runs: Vec<PathBuf>| -> Vec<Vec<u8>> { runs.iter().map(|run| std::fs::read(run).unwrap()).collect() };
        let merged = bytes(corpus.decide(&directory.path().join("merged"), MEMORY_BYTES));
        assert!(merged.iter().any(|run| run.len() > 200), "{name}: something is decided");
        let found = directory.path().join("found");
        let finder = Table { added: Vec::new() };
        assert!(bytes(decide(&*join, &finder, &corpus.records(), &found, MEMORY_BYTES).unwrap()) == merged, "{name}");
        assert_eq!(std::fs::read_dir(&found).unwrap().count(), 6, "{name}: nothing but decisions is left");
    }
}

#[test]
fn pairs_of_documents_that_are_not_there_are_an_error() {
    let join = join("near_dedup", "");
    let directory = tempfile::tempdir().unwrap();
    let corpus = Corpus::write(&*join, &parts(), directory.path(), MEMORY_BYTES);
    for (first, other) in [(place(0, 0), place(0, 30)), (place(0, 0), place(6, 0)), (place(1, 0), place(0, 0))] {
        let finder = Table { added: vec![Pair { first, other }] };
        let error =
            decide(&*join, &finder, &corpus.records(), &directory.path().join("found"), MEMORY_BYTES).unwrap_err();
        assert!(error.to_string().contains("in a table gave the pair"), "{error}");
    }
}
