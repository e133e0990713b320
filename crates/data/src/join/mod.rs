//! Steps that compare each document with all others: what a document leaves is sorted and merged with what the others left, and decided in that order
//!
//! A part's documents leave records ([`PartRecords`]), a sorted run each part. When all are there, [`decide`] merges them, lets the join decide, and
//! writes the decisions of each part as a sorted run; [`PartDecisions`] hands them out while the part's documents are read again. Memory is bounded
//! by what the caller allows, besides what a join says it holds for each document. The bytes of every run follow from the documents alone.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic::Digest;
use crate::{Document, Error, Verdict};

pub mod exact;
pub mod lines;
pub mod near;
pub mod pairs;
pub mod runs;
pub mod substrings;

use runs::{Merge, Reader, Scratch, Sorter, Writer};

/// A document by its place in the corpus as it comes to the step: part, then number in the part. The order is that of the recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Part, from 0.
    pub part: u32,
    /// Document in the part, from 0.
    pub document: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {} of part {}", self.document, self.part)
    }
}

/// What a document leaves to be compared. Records are merged in the order of their fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// What is equal in two documents that have something in common, such as a hash.
    pub key: u128,
    /// The document.
    pub place: Place,
    /// Where in the document: a line, a byte.
    pub position: u32,
}

/// What was decided about a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decision {
    /// The document.
    pub place: Place,
    /// Where in it.
    pub position: u32,
    /// The document it is compared with, which is kept.
    pub kept: Place,
}

/// A step over all documents.
pub trait Join: Send + Sync {
    /// What is compared and what can be expected of it, a line each, to be printed before it runs.
    fn describe(&self) -> Vec<String>;

    /// Puts what this document leaves into `records`, as key and position.
    fn records(&self, document: &mut Document, records: &mut Vec<(u128, u32)>);

    /// Decides, from the records of all documents in their order. `documents[part]` is how many each part has. Decisions may come in any order.
    ///
    /// # Errors
    /// What reading and writing gives.
    fn decide(
        &self,
        records: &mut dyn Iterator<Item = Result<Record, Error>>,
        documents: &[u32],
        decide: &mut dyn FnMut(Decision) -> Result<(), Error>,
    ) -> Result<(), Error>;

    /// The join as one of pairs, if it needs no more.
    fn of_pairs(&self) -> Option<&dyn pairs::PairJoin> {
        None
    }

    /// Applies what was decided about this document, in order of position. A reason ends where the id of the first decision's document belongs.
    fn apply(&self, document: &mut Document, decisions: &[Decision]) -> Verdict;
}

/// The first record of each key with every further record of it.
pub(crate) fn repeats(
    records: &mut dyn Iterator<Item = Result<Record, Error>>,
) -> impl Iterator<Item = Result<(Record, Record), Error>> {
    let mut first: Option<Record> = None;
    records.filter_map(move |record| match (record, first) {
        (Err(error), _) => Some(Err(error)),
        (Ok(record), Some(first)) if first.key == record.key => Some(Ok((first, record))),
        (Ok(record), _) => {
            first = Some(record);
            None
        }
    })
}

/// What a document loses before it is dropped, for a rule of that name.
#[derive(Clone, Copy)]
struct LostShare {
    max: f64,
    rule: &'static str,
}

impl LostShare {
    fn check(self) -> Result<LostShare, String> {
        if (0.0..=1.0).contains(&self.max) {
            return Ok(self);
        }
        Err(format!("lost_share_max = {}; a share from 0 to 1 can be", self.max))
    }

    /// Cuts ranges of bytes, which ascend and do not overlap, out of the text. Drops it if that is more than the share, or if only white space is left.
    fn cut(self, document: &mut Document, ranges: impl Iterator<Item = Range<usize>>) -> Verdict {
        let text = document.text();
        let (mut left, mut from) = (String::new(), 0);
        for range in ranges {
            left.push_str(&text[from..range.start]);
            from = range.end;
        }
        left.push_str(&text[from..]);
        let lost = text.len() - left.len();
        let share = lost as f64 / text.len().max(1) as f64;
        if lost > 0 && (share > self.max || left.trim().is_empty()) {
            let (lost, max) = (share * 100.0, self.max * 100.0);
            return Verdict::drop(
                self.rule,
                format!("{lost:.0} % of it is repeated, more than {max:.0} % or all of it; first in"),
            );
        }
        if lost > 0 {
            document.set_text(left);
        }
        Verdict::Keep
    }
}

/// What the documents of one part leave.
pub struct PartRecords<'a> {
    join: &'a dyn Join,
    sorter: Sorter<Record>,
    next: Place,
    left: Vec<(u128, u32)>,
}

impl<'a> PartRecords<'a> {
    /// Begins a part. `scratch` is a directory of its own; memory is `memory_bytes` and what one document leaves.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn create(
        join: &'a dyn Join,
        part: u32,
        scratch: &Path,
        memory_bytes: usize,
    ) -> Result<PartRecords<'a>, Error> {
        let sorter = Sorter::new(Scratch::create(scratch)?, memory_bytes);
        Ok(PartRecords { join, sorter, next: Place { part, document: 0 }, left: Vec::new() })
    }

    /// Takes the next document.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn add(&mut self, document: &mut Document) -> Result<(), Error> {
        self.left.clear();
        self.join.records(document, &mut self.left);
        for &(key, position) in &self.left {
            self.sorter.push(Record { key, place: self.next, position })?;
        }
        self.next.document += 1;
        Ok(())
    }

    /// Passes over a document that is not compared.
    pub fn skip(&mut self) {
        self.next.document += 1;
    }

    /// Writes the run, and says how many documents there were and what the file holds.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn finish(self, path: &Path, identity: [u8; 32]) -> Result<(u32, Digest), Error> {
        let digest = self.sorter.finish_run(path, identity)?;
        Ok((self.next.document, digest))
    }
}

/// The decisions of one part, for its documents in order.
pub struct PartDecisions {
    from: Reader<Decision>,
    ahead: Option<Decision>,
    of_document: Vec<Decision>,
}

impl PartDecisions {
    /// Opens what [`decide`] wrote.
    ///
    /// # Errors
    /// Where it is not there, or damaged.
    pub fn open(path: &Path) -> Result<PartDecisions, Error> {
        let mut from = Reader::open(path)?;
        let ahead = from.next().transpose()?;
        Ok(PartDecisions { from, ahead, of_document: Vec::new() })
    }

    /// The decisions about a document, by position. Documents come in ascending order.
    ///
    /// # Errors
    /// Where the run is damaged.
    pub fn of(&mut self, document: u32) -> Result<&[Decision], Error> {
        self.of_document.clear();
        while let Some(decision) = self.ahead.filter(|decision| decision.place.document <= document) {
            if decision.place.document == document {
                self.of_document.push(decision);
            }
            self.ahead = self.from.next().transpose()?;
        }
        Ok(&self.of_document)
    }
}

/// All that a join has to decide on.
pub struct Records<'a> {
    /// The join with its settings, in words that differ wherever its decisions could: a run made under other words is made again.
    pub settings: &'a str,
    /// The runs of all parts, in any order.
    pub runs: &'a [PathBuf],
    /// How many documents each part has.
    pub documents: &'a [u32],
}

impl Records<'_> {
    fn identity(&self) -> Result<[u8; 32], Error> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(self.settings.len() as u64).to_le_bytes()).update(self.settings.as_bytes());
        hasher.update(&(self.documents.len() as u64).to_le_bytes());
        for count in self.documents {
            hasher.update(&count.to_le_bytes());
        }
        let summaries = self.runs.iter().map(|run| runs::summary::<Record>(run));
        let mut summaries: Vec<_> =
            summaries.map(|s| s.map(|s| (s.identity, s.records, s.checksum))).collect::<Result<_, _>>()?;
        summaries.sort_unstable();
        for (identity, records, checksum) in summaries {
            hasher.update(&identity).update(&records.to_le_bytes()).update(&checksum.to_le_bytes());
        }
        Ok(*hasher.finalize().as_bytes())
    }

    /// Whether there is such a document, and what there is if not: places come from files.
    fn has(&self, place: Place) -> Result<(), String> {
        match self.documents.get(place.part as usize) {
            Some(&count) if place.document < count => Ok(()),
            Some(count) => Err(format!("that part has {count} documents")),
            None => Err(format!("there are {} parts", self.documents.len())),
        }
    }

    fn check(&self, record: &Record) -> Result<(), Error> {
        self.has(record.place).map_err(|there_are| {
            let problem = format!(
                "the sorted runs in this directory name {}, but {there_are}; remove them, and the same command makes them again",
                record.place
            );
            Error::file(self.runs[0].parent().unwrap_or(Path::new(".")), problem)
        })
    }

    /// The decisions that `make` gives in any order, by document and position, as a run a part in `directory`. Those that are there from the same
    /// records and settings are left as they are.
    fn decisions(
        &self,
        directory: &Path,
        memory_bytes: usize,
        make: impl FnOnce(&mut dyn FnMut(Decision) -> Result<(), Error>) -> Result<(), Error>,
    ) -> Result<Vec<PathBuf>, Error> {
        let identity = self.identity()?;
        let paths: Vec<PathBuf> = (0..self.documents.len()).map(|part| decisions_file(directory, part)).collect();
        if paths.iter().all(|path| is_there(path, &identity)) {
            return Ok(paths);
        }
        let mut sorter = Sorter::new(Scratch::create(&directory.join("sorting"))?, memory_bytes / 2);
        make(&mut |decision| sorter.push(decision))?;
        let mut decisions = sorter.finish()?.peekable();
        for (part, path) in paths.iter().enumerate() {
            let mut writer = if is_there(path, &identity) { None } else { Some(Writer::create(path, identity)?) };
            let in_part =
                |next: &Result<Decision, Error>| next.as_ref().map_or(true, |d| d.place.part as usize <= part);
            while let Some(decision) = decisions.next_if(in_part) {
                let decision = decision?;
                if let Some(writer) = &mut writer {
                    writer.write(&decision)?;
                }
            }
            writer.map(Writer::finish).transpose()?;
        }
        Ok(paths)
    }
}

/// Where [`decide`] puts the decisions of a part.
pub fn decisions_file(directory: &Path, part: usize) -> PathBuf {
    directory.join(format!("part-{part:05}.decisions"))
}

fn is_there(path: &Path, identity: &[u8; 32]) -> bool {
    runs::summary::<Decision>(path).is_ok_and(|summary| summary.identity == *identity)
}

/// Decides about all documents: the decisions of each part, by document and position, as a run in `directory`, whose paths come back by part.
/// Runs that are there from the same records and settings are left as they are. Memory is `memory_bytes`, at least 512 KiB, and what the join holds.
///
/// # Errors
/// Where a run is damaged or names documents that are not there, or the system refuses.
pub fn decide(
    join: &dyn Join,
    records: &Records<'_>,
    directory: &Path,
    memory_bytes: usize,
) -> Result<Vec<PathBuf>, Error> {
    records.decisions(directory, memory_bytes, |decide| {
        let open_max = runs::open_within(memory_bytes / 2);
        let merge = Merge::<Record>::new(records.runs, Scratch::create(&directory.join("merging"))?, open_max)?;
        let mut checked = merge.map(|record| record.and_then(|record| records.check(&record).map(|()| record)));
        join.decide(&mut checked, records.documents, decide)
    })
}
