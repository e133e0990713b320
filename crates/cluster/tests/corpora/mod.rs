//! Corpora as their records: random ones, and those that are hard for a plan

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use data::join::runs::Writer;
use data::join::{Place, Record, Records};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// A part: how many documents it has, and the keys of each as pairs of document and key.
#[derive(Default)]
pub struct Part {
    pub documents: u32,
    pub keys: Vec<(u32, u128)>,
}

/// The runs of a corpus on disk.
pub struct Corpus {
    pub runs: Vec<PathBuf>,
    documents: Vec<u32>,
}

impl Corpus {
    pub fn write(parts: &[Part], directory: &Path) -> Corpus {
        std::fs::create_dir_all(directory).unwrap();
        let mut runs = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            let record = |&(document, key): &(u32, u128)| {
                let place = Place { part: number as u32, document };
                Record { key, place, position: 0 }
            };
            let mut records: Vec<Record> = part.keys.iter().map(record).collect();
            records.sort_unstable();
            let path = directory.join(format!("{number}.records"));
            let mut writer = Writer::create(&path, [number as u8; 32]).unwrap();
            records.iter().for_each(|record| writer.write(record).unwrap());
            writer.finish().unwrap();
            runs.push(path);
        }
        Corpus { runs, documents: parts.iter().map(|part| part.documents).collect() }
    }

    pub fn records(&self) -> Records<'_> {
        Records { settings: "of a test", runs: &self.runs, documents: &self.documents }
    }
}

/// Spreads a number over all 128 bits, so that keys differ in both halves.
fn key(number: u64) -> u128 {
    u128::from(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)) << 64 | u128::from(!number)
}

/// Parts of so many records, with keys drawn from so many: two records of a document.
pub fn random(parts: u32, records: u32, keys: u64) -> Vec<Part> {
    let mut random = Pcg64::seed_from_u64(u64::from(parts) << 32 | u64::from(records));
    let mut part = |_| Part {
        documents: records / 2,
        keys: (0..records).map(|n| (n / 2, key(random.random_range(0..keys)))).collect(),
    };
    (0..parts).map(&mut part).collect()
}

/// Each with its name and how many documents are dropped.
pub fn corpora() -> Vec<(&'static str, Vec<Part>, RangeInclusive<usize>)> {
    let alone =
        |part: u64| Part { documents: 500, keys: (0..500).map(|n| (n, key(part << 32 | u64::from(n)))).collect() };
    // Document n of one part has a key with n of the next and another with n + 1 of the part before: chains through all parts.
    let chain = |part: u64| Part {
        documents: 100,
        keys: (0..100)
            .flat_map(|n| [(n, key(part << 32 | u64::from(n))), (n, key((part + 1) << 32 | u64::from(n)))])
            .collect(),
    };
    let one = |_| Part { documents: 3000, keys: (0..3000).map(|n| (n, key(7))).collect() };
    // Keys that differ in one half only.
    let halves = Part {
        documents: 6,
        keys: vec![(0, 1), (1, 1 << 64), (2, 1 | 1 << 64), (3, 0), (4, u128::MAX), (5, u128::MAX)],
    };
    let mut with_empty = random(3, 400, 1500);
    with_empty.insert(0, Part::default());
    with_empty.insert(2, Part { documents: 10, keys: Vec::new() });
    with_empty.push(Part::default());
    vec![
        ("no duplicates", (0..5).map(alone).collect(), 0..=0),
        ("chains through all parts", (0..7).map(chain).collect(), 600..=600),
        ("one cluster", (0..6).map(one).collect(), 17_999..=17_999),
        ("halves of keys", vec![halves], 1..=1),
        ("a document alone", vec![Part { documents: 1, keys: vec![(0, 3)] }], 0..=0),
        ("no records", vec![Part { documents: 4, keys: Vec::new() }, Part::default()], 0..=0),
        (
            "the same key twice in a document",
            vec![Part { documents: 2, keys: vec![(0, 3), (0, 3), (1, 3), (1, 3)] }],
            1..=1,
        ),
        ("a large part", vec![Part { documents: 1 << 22, keys: vec![(5, 1), ((1 << 22) - 1, 1)] }], 1..=1),
        ("parts without records", with_empty, 100..=550),
    ]
}
