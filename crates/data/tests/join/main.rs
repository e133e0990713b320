//! Joins against plain definitions of what they do, over small random corpora; sorted runs against sorting in memory

use std::path::{Path, PathBuf};

use farthing_data::join::{Decision, Join, PartDecisions, PartRecords, Place, Records, decide};
use farthing_data::steps::{KINDS, Made, Surroundings};
use farthing_data::{Document, Verdict};

mod exact;
mod lines;
mod near;
mod pairs;
mod runs;
mod substrings;

/// A join by its name and settings, as a recipe gives them.
fn join(name: &str, settings: &str) -> Box<dyn Join> {
    match make(name, settings).unwrap() {
        Made::Joined(join) => join,
        Made::Alone(_) => panic!("{name} is no join"),
    }
}

fn make(name: &str, settings: &str) -> Result<Made, String> {
    let kind = KINDS.iter().find(|kind| kind.name == name).expect("a step");
    (kind.make)(toml::from_str(settings).unwrap(), Surroundings { directory: Path::new("."), seed: 1 })
}

fn refusal(name: &str, settings: &str) -> String {
    make(name, settings).err().expect("a refusal")
}

/// A corpus on disk: the runs of its parts.
struct Corpus<'a> {
    join: &'a dyn Join,
    runs: Vec<PathBuf>,
    documents: Vec<u32>,
}

const MEMORY_BYTES: usize = 1 << 20;

impl<'a> Corpus<'a> {
    fn write<T: AsRef<str>>(join: &'a dyn Join, parts: &[Vec<T>], directory: &Path, memory_bytes: usize) -> Corpus<'a> {
        let mut runs = Vec::new();
        let mut documents = Vec::new();
        for (part, texts) in parts.iter().enumerate() {
            let path = directory.join(format!("{part}.records"));
            let mut records = PartRecords::create(join, part as u32, &directory.join("scratch"), memory_bytes).unwrap();
            for text in texts {
                records.add(&mut Document::new("", text.as_ref())).unwrap();
            }
            documents.push(records.finish(&path, [0; 32]).unwrap().0);
            runs.push(path);
        }
        Corpus { join, runs, documents }
    }

    fn records(&self) -> Records<'_> {
        Records { settings: "of a test", runs: &self.runs, documents: &self.documents }
    }

    fn decide(&self, directory: &Path, memory_bytes: usize) -> Vec<PathBuf> {
        decide(self.join, &self.records(), directory, memory_bytes).unwrap()
    }
}

/// What becomes of each document of a corpus in parts: its text and verdict, and the decisions about it.
fn outcome<T: AsRef<str>>(join: &dyn Join, parts: &[Vec<T>]) -> Vec<Vec<(String, Verdict, Vec<Decision>)>> {
    let directory = tempfile::tempdir().unwrap();
    let corpus = Corpus::write(join, parts, directory.path(), MEMORY_BYTES);
    let runs = corpus.decide(&directory.path().join("decisions"), MEMORY_BYTES);
    let of_part = |(texts, run): (&Vec<T>, &PathBuf)| {
        let mut decisions = PartDecisions::open(run).unwrap();
        let each = texts.iter().enumerate().map(|(number, text)| {
            let decisions = decisions.of(number as u32).unwrap();
            let mut document = Document::new("", text.as_ref());
            let verdict = join.apply(&mut document, decisions);
            (document.text().to_string(), verdict, decisions.to_vec())
        });
        each.collect()
    };
    parts.iter().zip(&runs).map(of_part).collect()
}

/// For each document that is dropped the one it is compared with.
fn dropped<T: AsRef<str>>(join: &dyn Join, parts: &[Vec<T>]) -> Vec<(Place, Place)> {
    let documents = outcome(join, parts).into_iter().flatten();
    documents.filter(|(_, verdict, _)| *verdict != Verdict::Keep).map(|(_, _, d)| (d[0].place, d[0].kept)).collect()
}

fn place(part: usize, document: usize) -> Place {
    Place { part: part as u32, document: document as u32 }
}
