//! A phase: what is done to a part between two comparisons with all other parts
//!
//! The steps of a recipe are cut at the joins. A phase begins with what a join decided, goes on with steps that look at each document alone, and ends
//! with the records that the next join needs. A part passes a phase alone; its marker, written last, says that it has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic::Digest;
use crate::documents::{Reader, Writer};
use crate::join::runs::{Scratch, Sorter};
use crate::join::{PartDecisions, PartRecords, Place, Record};
use crate::progress::Progress;
use crate::readers::Damaged;
use crate::recipe::{Entry, Recipe};
use crate::run::Run;
use crate::step::{self, Reason, Step, Verdict};
use crate::tally::{Sample, Tally};
use crate::{Document, Error, ids, sealed};

/// Steps between two joins.
pub struct Phase<'a> {
    /// The join whose decisions come first.
    pub opening: Option<&'a Entry>,
    /// Steps that look at each document alone.
    pub steps: &'a [Entry],
    /// The join that records are left for.
    pub closing: Option<&'a Entry>,
    /// Where its files are.
    pub directory: PathBuf,
    /// What its files follow from: sources, parts and all steps up to its end.
    pub identity: [u8; 32],
    /// Whether documents of the held-out set go into files of their own.
    pub splits: bool,
}

/// A part that has passed a phase.
#[derive(Debug, Serialize, Deserialize)]
pub struct Marker {
    /// Documents that go on.
    pub documents: u32,
    /// Bytes of their texts.
    pub bytes: u64,
    /// What was counted.
    pub tally: Tally,
    /// The file of the documents that go on.
    pub kept: Digest,
    /// The file of those that are held out, if the phase has one.
    pub held_out: Option<Digest>,
    /// The file of the documents that were dropped, if there is one.
    pub rejected: Option<Digest>,
    /// What the part leaves for the next join.
    pub records: Option<Digest>,
    /// The ids of the documents that go into it.
    pub names: Option<Digest>,
    /// Hashes of the ids of the documents that went through all steps.
    pub ids: Option<Digest>,
}

/// A document that was dropped, kept aside whole.
#[derive(Serialize)]
struct Rejected<'a> {
    rule: &'a str,
    detail: &'a str,
    #[serde(flatten)]
    document: &'a Document,
}

/// Number of the layout of a phase's files: what has another one is made again.
const LAYOUT: u8 = 3;

/// Cuts the steps of a recipe at its joins. `identity` is that of sources and parts; each phase gets a directory in `work`.
pub fn cut<'a>(recipe: &'a Recipe, identity: &blake3::Hash, work: &Path) -> Vec<Phase<'a>> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(identity.as_bytes());
    let mut phases = Vec::new();
    let (mut opening, mut start) = (None, 0);
    let joins = recipe.steps.iter().enumerate().filter(|(_, entry)| entry.joined().is_some());
    let ends = joins.map(|(at, entry)| (at, Some(entry))).chain([(recipe.steps.len(), None)]);
    for (end, closing) in ends {
        for entry in recipe.steps[start..end].iter().chain(closing) {
            let written = format!("{} {:?} {}\n", entry.name, entry.sources, entry.settings);
            hasher.update(&(written.len() as u64).to_le_bytes()).update(written.as_bytes());
            let read = entry.alone().and_then(Step::identity);
            hasher.update(read.as_ref().map_or(&[0; 32], |hash| hash.as_bytes()));
        }
        // One hash for a phase that ends the recipe, and another for one that leaves records.
        hasher.update(&[u8::from(closing.is_some()), u8::from(recipe.keep_rejected), LAYOUT]);
        let identity = hasher.finalize();
        let directory = work.join(format!("{}-{}", phases.len() + 1, &identity.to_hex()[..12]));
        let splits = closing.is_none() && recipe.held_out > 0.0;
        let (steps, identity) = (&recipe.steps[start..end], identity.into());
        phases.push(Phase { opening, steps, closing, directory, identity, splits });
        (opening, start) = (closing, end + 1);
    }
    phases
}

impl Phase<'_> {
    fn file(&self, part: usize, ending: &str) -> PathBuf {
        self.directory.join(format!("part-{part:05}.{ending}"))
    }

    /// The documents of a part that went through.
    pub fn documents(&self, part: usize) -> PathBuf {
        self.file(part, "jsonl.zst")
    }

    /// The documents of a part that went through all steps and are held out, if the recipe holds any out.
    pub fn held_out(&self, part: usize) -> PathBuf {
        self.file(part, "held_out.jsonl.zst")
    }

    /// The files of a part's documents.
    pub fn all_documents(&self, part: usize) -> Vec<PathBuf> {
        let held_out = self.splits.then(|| self.held_out(part));
        [self.documents(part)].into_iter().chain(held_out).collect()
    }

    /// The documents of a part that were dropped, if the recipe keeps them.
    pub fn rejected(&self, part: usize) -> PathBuf {
        self.file(part, "rejected.jsonl.zst")
    }

    /// What a part leaves for the next join.
    pub fn records(&self, part: usize) -> PathBuf {
        self.file(part, "records")
    }

    /// The ids of the documents of a part that go into the next join.
    pub fn names(&self, part: usize) -> PathBuf {
        self.file(part, "names")
    }

    /// Hashes of the ids of the documents of a part that went through all steps, sorted.
    pub fn ids(&self, part: usize) -> PathBuf {
        self.file(part, "ids")
    }

    /// What a part leaves for all machines, before its marker.
    pub fn left(&self, part: usize) -> Vec<PathBuf> {
        match self.closing {
            Some(_) => vec![self.records(part), self.names(part)],
            None => self.all_documents(part).into_iter().chain([self.ids(part)]).collect(),
        }
    }

    /// What says that a part has passed.
    pub fn marker_file(&self, part: usize) -> PathBuf {
        self.file(part, "json")
    }

    /// What a part's marker is about.
    fn about(&self, part: usize) -> Vec<u8> {
        [&self.identity[..], &(part as u64).to_le_bytes()].concat()
    }

    /// What is written of a part that has passed. A marker that cannot be read is none: the part is done again.
    pub fn marker(&self, part: usize) -> Option<Marker> {
        sealed::read(&self.marker_file(part), &self.about(part))
    }

    /// Files that a marker vouches for, with what they hold.
    pub fn files<'m>(&self, part: usize, marker: &'m Marker) -> impl Iterator<Item = (PathBuf, &'m Digest)> {
        let files = [
            (self.documents(part), Some(&marker.kept)),
            (self.held_out(part), marker.held_out.as_ref()),
            (self.rejected(part), marker.rejected.as_ref()),
            (self.records(part), marker.records.as_ref()),
            (self.names(part), marker.names.as_ref()),
            (self.ids(part), marker.ids.as_ref()),
        ];
        files.into_iter().filter_map(|(path, digest)| Some((path, digest?)))
    }

    /// In words.
    pub fn describe(&self) -> String {
        let names = self.opening.into_iter().chain(self.steps).map(|entry| entry.name);
        let names: Vec<&str> = names.chain(self.closing.map(|_| "records")).collect();
        if names.is_empty() { "read".to_string() } else { names.join(", ") }
    }
}

/// A part on its way through a phase.
pub struct Passage<'a> {
    phase: &'a Phase<'a>,
    part: usize,
    source: usize,
    recipe: &'a Recipe,
    progress: &'a Progress,
    out: Writer,
    held_out: Option<Writer>,
    rejected: Option<Writer>,
    records: Option<PartRecords<'a>>,
    names: Option<ids::Writer>,
    ids: Option<Sorter<Record>>,
    documents: u32,
    bytes: u64,
    /// What is counted.
    pub tally: Tally,
}

impl<'a> Passage<'a> {
    /// Begins a part. `memory_bytes` bounds what is held to sort records.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn begin(
        phase: &'a Phase<'a>,
        (part, source): (usize, usize),
        recipe: &'a Recipe,
        memory_bytes: usize,
        progress: &'a Progress,
    ) -> Result<Passage<'a>, Error> {
        let join = phase.closing.and_then(Entry::joined);
        let scratch = phase.file(part, "sorting");
        let records = join.map(|join| PartRecords::create(join, part as u32, &scratch, memory_bytes)).transpose()?;
        let names = join.map(|_| ids::Writer::create(&phase.names(part))).transpose()?;
        let ids = match join {
            Some(_) => None,
            None => Some(Sorter::new(Scratch::create(&scratch)?, memory_bytes)),
        };
        let out = Writer::create(&phase.documents(part))?;
        let held_out = phase.splits.then(|| Writer::create(&phase.held_out(part))).transpose()?;
        let tally = Tally::default();
        Ok(Passage {
            phase,
            part,
            source,
            recipe,
            progress,
            out,
            held_out,
            rejected: None,
            records,
            names,
            ids,
            documents: 0,
            bytes: 0,
            tally,
        })
    }

    /// Takes a document that a join decided on, and sends it on.
    ///
    /// # Errors
    /// Where the system refuses, or somebody asked to stop.
    pub fn decided(
        &mut self,
        mut document: Document,
        decisions: &mut PartDecisions,
        number: u32,
        originals: &mut Originals,
    ) -> Result<(), Error> {
        let entry = self.phase.opening.expect("decisions come from a join");
        let join = entry.joined().expect("a phase opens with a join");
        let decisions = decisions.of(number)?;
        if decisions.is_empty() {
            return self.step(document);
        }
        let (bytes, edits) = (document.text().len(), document.edits());
        match join.apply(&mut document, decisions) {
            Verdict::Keep => {
                if document.edits() != edits {
                    self.tally.changed(entry.name, bytes, document.text().len());
                }
                self.step(document)
            }
            Verdict::Drop(mut reason) => {
                let (source, id) = originals.find(decisions[0].kept)?;
                *self.tally.duplicates_of.entry(source).or_default() += 1;
                reason.detail = format!("{} {id}", reason.detail).into();
                self.reject(&document, &reason)
            }
        }
    }

    /// Sends a document through the steps of the phase.
    ///
    /// # Errors
    /// Where the system refuses, or somebody asked to stop.
    pub fn step(&mut self, mut document: Document) -> Result<(), Error> {
        self.progress.check()?;
        if let Some(reason) = step::empty(&document) {
            return self.reject(&document, &reason);
        }
        for entry in self.phase.steps.iter().filter(|entry| entry.is_for(self.source)) {
            let step = entry.alone().expect("joins are between phases");
            let (bytes, edits) = (document.text().len(), document.edits());
            match step.apply(&mut document) {
                Verdict::Keep if document.edits() != edits => {
                    self.tally.changed(entry.name, bytes, document.text().len());
                }
                Verdict::Keep => {}
                Verdict::Drop(reason) => return self.reject(&document, &reason),
            }
        }
        if let Some(reason) = step::empty(&document) {
            return self.reject(&document, &reason);
        }
        let in_join = self.phase.closing.is_none_or(|entry| entry.is_for(self.source));
        if let Some(records) = &mut self.records {
            if in_join { records.add(&mut document)? } else { records.skip() }
        }
        if let Some(names) = &mut self.names {
            names.write(&document.id)?;
        }
        if let Some(ids) = &mut self.ids {
            let place = Place { part: self.part as u32, document: self.documents };
            ids.push(Record { key: ids::key(&document.id), place, position: 0 })?;
            self.tally.kept(&document);
        }
        self.documents += 1;
        self.bytes += document.text().len() as u64;
        let held_out = self.held_out.as_mut().filter(|_| document.labels.contains_key("held_out"));
        held_out.unwrap_or(&mut self.out).write(&document)
    }

    fn reject(&mut self, document: &Document, reason: &Reason) -> Result<(), Error> {
        self.tally.dropped(document, reason);
        if self.recipe.keep_rejected {
            let rejected = Rejected { rule: reason.rule, detail: &reason.detail, document };
            self.aside()?.write(&rejected)?;
        }
        Ok(())
    }

    /// Keeps a record aside that could not be read.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn damaged(&mut self, damaged: &Damaged) -> Result<(), Error> {
        self.tally
            .damaged(Sample::new(&damaged.place, &damaged.problem, &damaged.excerpt), damaged.excerpt.len() as u64);
        let document = Document::new(damaged.place.as_str(), damaged.excerpt.as_str());
        let rejected = Rejected { rule: "damaged", detail: &damaged.problem, document: &document };
        self.aside()?.write(&rejected)
    }

    fn aside(&mut self) -> Result<&mut Writer, Error> {
        if self.rejected.is_none() {
            self.rejected = Some(Writer::create(&self.phase.rejected(self.part))?);
        }
        Ok(self.rejected.as_mut().expect("it was made"))
    }

    /// Ends the part, and marks it as passed.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn finish(self) -> Result<(), Error> {
        let kept = self.out.finish()?;
        let held_out = self.held_out.map(Writer::finish).transpose()?;
        let rejected = self.rejected.map(Writer::finish).transpose()?;
        let leave = |records: PartRecords| records.finish(&self.phase.records(self.part), self.phase.identity);
        let names = self.names.map(ids::Writer::finish).transpose()?;
        let sort = |ids: Sorter<Record>| ids.finish_run(&self.phase.ids(self.part), self.phase.identity);
        let ids = self.ids.map(sort).transpose()?;
        let records = self.records.map(leave).transpose()?.map(|(_, digest)| digest);
        let Passage { phase, part, documents, bytes, tally, .. } = self;
        let marker = Marker { documents, bytes, tally, kept, held_out, rejected, records, names, ids };
        sealed::write(&phase.marker_file(part), &phase.about(part), &marker)
    }
}

/// Files of ids that are open at once, of those that the documents of one part repeat.
const OPEN_MAX: usize = 16;

/// Names the documents that others repeat, by their places in an earlier phase.
pub struct Originals<'a> {
    run: &'a Run<'a>,
    phase: &'a Phase<'a>,
    open: BTreeMap<u32, ids::Reader>,
}

impl<'a> Originals<'a> {
    /// Documents that went into the join that ends this phase.
    pub fn new(run: &'a Run<'a>, phase: &'a Phase<'a>) -> Originals<'a> {
        Originals { run, phase, open: BTreeMap::new() }
    }

    /// The source of a document, and its id.
    fn find(&mut self, place: Place) -> Result<(String, String), Error> {
        let part = place.part as usize;
        if !self.open.contains_key(&place.part) {
            if self.open.len() == OPEN_MAX {
                self.open.pop_first();
            }
            let names = self.phase.names(part);
            self.run.shared.fetch(&names)?;
            self.open.insert(place.part, ids::Reader::open(&names)?);
        }
        let source = self.run.parts.get(part).map_or(0, |part| part.source as usize);
        Ok((self.run.recipe.sources[source].name.clone(), self.open[&place.part].get(place.document)?))
    }
}

/// The documents of a part that passed a phase: those that are held out last. Behind the last of a file, one that is not what the marker says is an
/// error.
///
/// # Errors
/// Where they are not there.
pub fn documents_of(phase: &Phase, part: usize) -> Result<impl Iterator<Item = Result<Document, Error>>, Error> {
    let marker = marker_of(phase, part)?;
    let held_out = marker.held_out.map(|written| Reader::open_written(&phase.held_out(part), written)).transpose()?;
    Ok(Reader::open_written(&phase.documents(part), marker.kept)?.chain(held_out.into_iter().flatten()))
}

/// As [`documents_of`], without those that are held out by a phase that has files for them.
///
/// # Errors
/// Where they are not there.
pub fn train_documents_of(phase: &Phase, part: usize) -> Result<Reader<Document>, Error> {
    Reader::open_written(&phase.documents(part), marker_of(phase, part)?.kept)
}

/// A marker that must be there.
///
/// # Errors
/// One that is not, or is damaged.
pub fn marker_of(phase: &Phase, part: usize) -> Result<Marker, Error> {
    let problem = "this marker is gone or damaged; the same command makes it and what it is for again";
    phase.marker(part).ok_or_else(|| Error::file(phase.marker_file(part), problem))
}
