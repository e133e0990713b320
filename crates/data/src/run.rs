//! A run of a recipe: parts go through the phases, by as many threads and machines as there are
//!
//! What a part or a join has finished lies in the work directory under a name that follows from all that it was made from, so that a run that was
//! killed goes on where it stopped, and a recipe that was changed does again only what the change touches. Several machines share that directory:
//! each does the parts of its rank and waits for those of the others; one decides the joins.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::atomic::Digest;
use crate::ids::{self, EqualIds};
use crate::join::pairs::{self, PairFinder};
use crate::join::{self, PartDecisions};
use crate::lock::{Lock, Worker};
use crate::packing::Packing;
use crate::part::{GENERATED_BYTES, Part};
use crate::phase::{self, Marker, Originals, Passage, Phase};
use crate::progress::{Progress, Stage};
use crate::readers::Item;
use crate::recipe::{Entry, Recipe};
use crate::report::Report;
use crate::shared::{Shared, StoreFolder};
use crate::steps::Made;
use crate::store::bytes_read;
use crate::tally::Tally;
use crate::{Error, atomic, origin, publish};

/// How long the first machine waits for the others to leave the work directory before it lets it lie.
const LEAVING_MAX: Duration = Duration::from_secs(60);

/// How a recipe is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of what is made.
    pub out: PathBuf,
    /// Threads of this machine.
    pub threads: usize,
    /// This machine among those that share the directory.
    pub rank: usize,
    /// How many machines share it.
    pub world: usize,
    /// Bytes that sorting may hold, of all threads together.
    pub memory_bytes: usize,
    /// Whether a finished dataset of another recipe is replaced, and not kept with an error.
    pub replace: bool,
    /// Whether documents between phases stay.
    pub keep_work: bool,
    /// Where the machines exchange files and what is made goes in the end, if `out` is a directory of this machine alone.
    pub folder: Option<StoreFolder>,
}

/// A recipe with its parts, ready to run.
pub struct Run<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// How.
    pub options: Options,
    /// The units of work.
    pub parts: Vec<Part>,
    /// The phases.
    pub phases: Vec<Phase<'a>>,
    pair_finder: Option<&'a dyn PairFinder>,
    pub(crate) progress: &'a Progress,
    pub(crate) shared: Shared,
}

/// What came out of the phases, for each source and in all.
pub struct Outcome {
    /// By source, in the order of the recipe.
    pub sources: Vec<Tally>,
    /// Of all.
    pub total: Tally,
    /// Documents of each part that went through all phases.
    pub documents: Vec<u32>,
}

impl<'a> Run<'a> {
    /// Finds the files of a recipe and cuts them into parts.
    ///
    /// # Errors
    /// A source that is not there or not what it should be.
    pub fn plan(recipe: &'a Recipe, options: Options, progress: &'a Progress) -> Result<Run<'a>, Error> {
        publish::check_is_ours(&options.out)?;
        let parts = origin::parts(recipe)?;
        origin::check_apart(recipe, &parts, &options.out)?;
        let work = options.out.join("work");
        let phases = phase::cut(recipe, &origin::identity(recipe, &parts)?, &work);
        let shared = Shared::new(&options.out, options.folder.clone(), options.world);
        Ok(Run { recipe, options, parts, phases, pair_finder: None, progress, shared })
    }

    /// Lets something else than the sorted merge find pairs of documents, for the joins that need no more. The same bytes come out.
    pub fn with_pair_finder(self, pair_finder: Option<&'a dyn PairFinder>) -> Run<'a> {
        Run { pair_finder, ..self }
    }

    /// Makes everything, unless it is there, and reports. Only the first of several machines has a report.
    ///
    /// # Errors
    /// Where the system refuses, a file of the work directory is damaged, or somebody asked to stop. Damaged records of sources are counted.
    pub fn make(&self) -> Result<Option<Report>, Error> {
        let packing = Packing::of(self)?;
        let documents = blake3::Hash::from(self.identity());
        let identity = packing.as_ref().map_or(documents, |packing| packing.identity).to_hex().to_string();
        if let Some(report) = self.finished(&identity)? {
            return Ok(Some(report));
        }
        let (rank, world) = (self.options.rank, self.options.world);
        let worker = Worker { identity: &identity, rank, world };
        let _lock = Lock::take(&self.options.out.join("work"), worker)?;
        self.shared.announce(worker)?;
        // Another run may have finished before the lock was free.
        if let Some(report) = self.finished(&identity)? {
            return Ok(Some(report));
        }
        self.documents()?;
        let last = self.phases.last().expect("a recipe has a phase");
        let packed = match &packing {
            None => None,
            Some(packing) => packing.make(&self.markers(last)?)?,
        };
        if self.options.rank > 0 {
            let left = self.left(self.options.rank, &identity);
            atomic::write(&left, b"")?;
            self.shared.share(&[left])?;
            if !self.options.keep_work {
                self.shared.remove_work(false)?;
            }
            return Ok(None);
        }
        let outcome = self.outcome()?;
        let mut report = Report::new(self.recipe, &outcome.sources, &outcome.total, packed);
        report.equal_ids = self.equal_ids()?;
        let manifest = publish::publish(self, &report, packing.as_ref(), &identity)?;
        self.shared.publish(&manifest, self.progress)?;
        if !self.options.keep_work {
            self.shared.remove_work(self.others_left(&identity)?)?;
        }
        Ok(Some(report))
    }

    /// The report of what is finished already, whose files must be there. Another dataset is an error unless it is to be replaced.
    fn finished(&self, identity: &str) -> Result<Option<Report>, Error> {
        let manifest = match self.shared.manifest()? {
            Some(there) if there.identity == identity => there,
            Some(there) if !self.options.replace => {
                let out = self.options.folder.as_ref().map_or(&self.options.out, |folder| &folder.url);
                return Err(publish::replacing(&there, self.recipe, out));
            }
            _ => return Ok(None),
        };
        self.shared.check_finished(&manifest)?;
        self.shared.fetch_report()?;
        let report = manifest.files.iter().find(|file| file.path == "report.json");
        Report::read(&self.options.out, report.map(|file| file.blake3.as_str())).map(Some)
    }

    /// Sends all parts through all phases.
    fn documents(&self) -> Result<(), Error> {
        for phase in &self.phases {
            self.shared.look(&phase.directory)?;
            self.check_passed(phase)?;
        }
        // Counts and rejected documents of all phases are published: the markers of the earlier ones are needed too.
        let marked = |phase: &Phase| (0..self.parts.len()).all(|part| self.shared.has(&phase.marker_file(part)));
        let done = (0..self.phases.len()).rev().find(|&at| self.is_whole(at) && self.phases[..at].iter().all(marked));
        if done.is_none() {
            self.phase(0)?;
        }
        self.check_sources()?;
        for at in done.unwrap_or(0) + 1..self.phases.len() {
            self.phase(at)?;
            // Machines that share the directory wait for what lies in it: there it stays until the end.
            if self.options.world == 1 && !self.options.keep_work {
                self.forget(&self.phases[at - 1])?;
            }
        }
        Ok(())
    }

    /// Compares the files of an earlier run with their markers. A part that does not fit loses its marker, and is done again.
    fn check_passed(&self, phase: &Phase) -> Result<(), Error> {
        let marked: Vec<usize> = self.mine().filter(|&part| phase.marker_file(part).exists()).collect();
        self.progress.part_of_phase("checking what is finished", 0);
        self.in_parallel(&marked, |part| {
            self.progress.check()?;
            let marker = phase.marker(part);
            let mut fits = marker.is_some();
            for (path, written) in marker.iter().flat_map(|marker| phase.files(part, marker)) {
                // Documents and records that are not needed any more were removed, rejected documents were not.
                if path.exists() {
                    if written != &Digest::of_file(&path)? {
                        publish::remove(&path)?;
                        fits = false;
                    }
                } else if path == phase.rejected(part) {
                    fits = false;
                }
            }
            if fits { Ok(()) } else { publish::remove(&phase.marker_file(part)) }
        })
    }

    /// Ends a run in which a source has records but no document, or documents without a field that is to be kept: the recipe is wrong about it, and not the records.
    fn check_sources(&self) -> Result<(), Error> {
        let mut sources = vec![Tally::default(); self.recipe.sources.len()];
        for (part, marker) in self.parts.iter().zip(self.markers(&self.phases[0])?) {
            sources[part.source as usize].add(&marker.tally);
        }
        for (source, tally) in self.recipe.sources.iter().zip(sources) {
            if let (0, Some(first)) = (tally.read.documents, tally.damaged.samples.first()) {
                let problem = format!(
                    "source {}: none of its {} records is a document (the first, {}: {}); correct the source, or leave it out",
                    source.name, tally.damaged.volume.documents, first.id, first.detail
                );
                return Err(Error::file(&self.recipe.file, problem));
            }
            // Held-out documents have a label of that name whatever their records say.
            let absent = |field: &&String| *field != "held_out" && !tally.with_field.contains_key(*field);
            if let Some(field) = source.keep.iter().find(absent).filter(|_| tally.read.documents > 0) {
                let problem = format!(
                    "source {}: none of its {} documents has the field {field:?} of `keep`; correct the name, or leave it out",
                    source.name, tally.read.documents
                );
                return Err(Error::file(&self.recipe.file, problem));
            }
        }
        Ok(())
    }

    /// Whether all parts have passed a phase, and their documents are there.
    fn is_whole(&self, at: usize) -> bool {
        let phase = &self.phases[at];
        (0..self.parts.len()).all(|part| match self.is_mine(part) {
            true => self.has_passed(phase, part),
            false => self.shared.has(&phase.marker_file(part)),
        })
    }

    /// Whether a part has passed a phase. Documents between phases are on the machine of the part only.
    fn has_passed(&self, phase: &Phase, part: usize) -> bool {
        let left = phase.left(part);
        let is_there = match phase.closing {
            Some(_) => phase.documents(part).exists() && left.iter().all(|file| file.exists()),
            None => left.iter().all(|file| self.shared.has(file)),
        };
        self.shared.has(&phase.marker_file(part)) && is_there
    }

    /// Puts what other machines need of a part where they find it.
    fn share(&self, phase: &Phase, part: usize) -> Result<(), Error> {
        let files = phase.left(part).into_iter().chain([phase.rejected(part), phase.marker_file(part)]);
        let there: Vec<PathBuf> = files.filter(|file| file.exists()).collect();
        self.shared.share(&there)
    }

    fn phase(&self, at: usize) -> Result<(), Error> {
        let phase = &self.phases[at];
        std::fs::create_dir_all(&phase.directory).map_err(Error::io(&phase.directory))?;
        let decisions = match at.checked_sub(1) {
            None => Vec::new(),
            Some(before) => self.decisions(&self.phases[before])?,
        };
        let bytes = |part: usize| match at {
            0 => self.parts[part].bytes,
            _ => self.phases[at - 1].marker(part).map_or(0, |marker| marker.bytes),
        };
        let (passed, to_do): (Vec<usize>, Vec<usize>) = self.mine().partition(|&part| self.has_passed(phase, part));
        let name = phase.describe();
        let (total, before) = (self.mine().map(bytes).sum(), passed.iter().map(|&part| bytes(part)).sum());
        self.begin(at + 1, Stage { name: name.clone(), total, before, ..Stage::default() });
        passed.iter().try_for_each(|&part| self.share(phase, part))?;
        self.in_parallel(&to_do, |part| {
            self.part(at, part, bytes(part), &decisions)?;
            self.share(phase, part)
        })?;
        if self.options.world > 1 {
            self.progress.stage(&format!("{name}: waiting for other machines"));
        }
        self.shared.wait_until(self.progress, &phase.directory, || self.is_whole(at))
    }

    /// Tells that a phase begins, of all that the recipe has: those of its steps, then tokenizer, tokens and shards.
    pub(crate) fn begin(&self, phase: usize, stage: Stage) {
        let packing = usize::from(self.recipe.tokenizer.is_some()) * 2 + usize::from(self.recipe.shards.is_some());
        self.progress.phase(Stage { phase, phases: self.phases.len() + packing, ..stage });
    }

    /// Whether a part is one of this machine. On a file system that all see, every machine can tell of each part.
    fn is_mine(&self, part: usize) -> bool {
        self.options.folder.is_none() || part % self.options.world == self.options.rank
    }

    /// The parts of this machine.
    pub(crate) fn mine(&self) -> impl Iterator<Item = usize> {
        (self.options.rank..self.parts.len()).step_by(self.options.world)
    }

    /// What the documents that come out follow from.
    pub(crate) fn identity(&self) -> [u8; 32] {
        self.phases.last().expect("a recipe has a phase").identity
    }

    /// The file that says that a machine needs nothing more of the work directory.
    fn left(&self, rank: usize, identity: &str) -> PathBuf {
        self.options.out.join("work").join(format!("rank-{rank}-{}.left", &identity[..12]))
    }

    /// Waits until no other machine needs the work directory: a minute at most, since a machine may be gone.
    fn others_left(&self, identity: &str) -> Result<bool, Error> {
        let end = Instant::now() + LEAVING_MAX;
        let all = || (1..self.options.world).all(|rank| self.shared.has(&self.left(rank, identity)));
        let work = self.options.out.join("work");
        self.shared.wait_until(self.progress, &work, || all() || Instant::now() > end)?;
        Ok(all())
    }

    /// Does work for each of these parts. The first failure ends it.
    pub(crate) fn in_parallel(
        &self,
        parts: &[usize],
        work: impl Fn(usize) -> Result<(), Error> + Sync,
    ) -> Result<(), Error> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let one = || {
            while !failed.load(Ordering::Relaxed)
                && let Some(&part) = parts.get(next.fetch_add(1, Ordering::Relaxed))
            {
                if let Err(error) = work(part) {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads = self.options.threads.clamp(1, parts.len().max(1));
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
            let results: Vec<_> = workers.into_iter().map(|w| w.join().expect("workers do not panic")).collect();
            results.into_iter().collect()
        })
    }

    fn part(&self, at: usize, part: usize, bytes: u64, decisions: &[PathBuf]) -> Result<(), Error> {
        let phase = &self.phases[at];
        let source = self.parts[part].source as usize;
        let memory = self.options.memory_bytes / self.options.threads.max(1);
        let mut passage = Passage::begin(phase, (part, source), self.recipe, memory, self.progress)?;
        let (mut shown, before) = (0, bytes_read());
        let is_generated = at == 0 && self.recipe.sources[source].generate.is_some();
        let mut show = |text: usize| {
            // Of files what was read of them, since compressed ones give more bytes than they have.
            let done = match at {
                0 if is_generated => shown + GENERATED_BYTES,
                0 => bytes_read() - before,
                _ => shown + text as u64,
            };
            let step = done.min(bytes).saturating_sub(shown);
            shown += step;
            self.progress.advance(step, 1);
        };
        if at == 0 {
            origin::read(self.recipe, &self.parts[part], &mut |item| match item {
                Item::Document(document) => {
                    show(document.text().len());
                    self.progress.read(document.text().len());
                    passage.tally.read(&document, &self.recipe.sources[source].keep);
                    passage.step(document)
                }
                Item::Damaged(damaged) => passage.damaged(&damaged),
                Item::PassedOver(kind) => {
                    passage.tally.passed_over(&kind);
                    Ok(())
                }
            })?;
        } else {
            let mut decided = PartDecisions::open(&decisions[part])?;
            let mut originals = Originals::new(self, &self.phases[at - 1]);
            for (number, document) in phase::documents_of(&self.phases[at - 1], part)?.enumerate() {
                let document = document?;
                show(document.text().len());
                passage.decided(document, &mut decided, number as u32, &mut originals)?;
            }
        }
        self.progress.advance(bytes - shown, 0);
        passage.finish()
    }

    /// The decisions of the join that ends a phase: made by rank 0, waited for by the others.
    fn decisions(&self, phase: &Phase) -> Result<Vec<PathBuf>, Error> {
        let entry = phase.closing.expect("a phase before another ends with a join");
        let directory = phase.directory.join("decisions");
        let path = |part: usize| join::decisions_file(&directory, part);
        let join = entry.joined().expect("a phase ends with a join");
        let finder = self.pair_finder.filter(|_| self.options.rank == 0 && join.of_pairs().is_some());
        let place = finder.map_or(String::new(), |finder| format!(", {}", finder.describe()));
        self.progress.stage(&format!("{}: comparing all documents{place}", entry.name));
        if self.options.rank > 0 {
            self.shared.wait(self.progress, &directory, &[directory.join("done")])?;
            self.mine().try_for_each(|part| self.shared.fetch(&path(part)))?;
            return Ok((0..self.parts.len()).map(path).collect());
        }
        let runs: Vec<PathBuf> = (0..self.parts.len()).map(|part| phase.records(part)).collect();
        runs.iter().try_for_each(|run| self.shared.fetch(run))?;
        let documents: Vec<u32> = self.markers(phase)?.iter().map(|marker| marker.documents).collect();
        let settings = format!("{} {}", entry.name, entry.settings);
        let records = join::Records { settings: &settings, runs: &runs, documents: &documents };
        let memory_bytes = self.options.memory_bytes;
        let paths = match finder {
            Some(finder) => pairs::decide(join, finder, &records, &directory, memory_bytes)?,
            None => join::decide(join, &records, &directory, memory_bytes)?,
        };
        let done = directory.join("done");
        atomic::write(&done, b"")?;
        self.shared.share(&paths)?;
        self.shared.share(&[done])?;
        Ok(paths)
    }

    fn markers(&self, phase: &Phase) -> Result<Vec<Marker>, Error> {
        let marker = |part: usize| {
            self.shared.fetch(&phase.marker_file(part))?;
            phase::marker_of(phase, part)
        };
        (0..self.parts.len()).map(marker).collect()
    }

    /// Removes what no later phase needs. Markers, and documents that were dropped, stay.
    fn forget(&self, phase: &Phase) -> Result<(), Error> {
        let gone = |path: &Path, result: std::io::Result<()>| match result {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(e)),
            _ => Ok(()),
        };
        for part in 0..self.parts.len() {
            for path in [phase.documents(part), phase.records(part), phase.names(part)] {
                gone(&path, std::fs::remove_file(&path))?;
            }
        }
        let decisions = phase.directory.join("decisions");
        gone(&decisions, std::fs::remove_dir_all(&decisions))
    }

    fn outcome(&self) -> Result<Outcome, Error> {
        let mut sources = vec![Tally::default(); self.recipe.sources.len()];
        let mut documents = vec![0; self.parts.len()];
        for phase in &self.phases {
            for (part, marker) in self.markers(phase)?.into_iter().enumerate() {
                sources[self.parts[part].source as usize].add(&marker.tally);
                documents[part] = marker.documents;
            }
        }
        let mut total = Tally::default();
        sources.iter().for_each(|tally| total.add(tally));
        Ok(Outcome { sources, total, documents })
    }

    /// The ids that several kept documents have, if there are any.
    fn equal_ids(&self) -> Result<Option<EqualIds>, Error> {
        let last = self.phases.last().expect("a recipe has a phase");
        let runs: Vec<PathBuf> = (0..self.parts.len()).map(|part| last.ids(part)).collect();
        runs.iter().try_for_each(|run| self.shared.fetch(run))?;
        let scratch = last.directory.join("merging");
        let (documents, first) = ids::repeated(&runs, &scratch, self.options.memory_bytes)?;
        let Some(first) = first else { return Ok(None) };
        let part = first.place.part as usize;
        last.all_documents(part).iter().try_for_each(|file| self.shared.fetch(file))?;
        for document in phase::documents_of(last, part)? {
            let document = document?;
            if ids::key(&document.id) == first.key {
                return Ok(Some(EqualIds { documents, example: document.id }));
            }
        }
        Err(Error::file(&last.directory, "ids are not those of the documents; remove this directory"))
    }

    /// The joins that a [`PairFinder`] can serve, by name.
    pub fn pair_joins(&self) -> Vec<&'static str> {
        let joins =
            self.recipe.steps.iter().filter(|entry| entry.joined().is_some_and(|join| join.of_pairs().is_some()));
        joins.map(|entry| entry.name).collect()
    }

    /// What can be expected of the steps, to be printed before they run.
    pub fn describe(&self) -> Vec<String> {
        let of = |entry: &Entry| match &entry.made {
            Made::Alone(step) => step.describe(),
            Made::Joined(join) => join.describe(),
        };
        self.recipe.steps.iter().flat_map(of).collect()
    }
}
