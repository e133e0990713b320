//! From documents to shards: a tokenizer is trained or read, each part is tokenized, and the tokens of all parts are mixed
//!
//! Three stages, each resumable file by file and shared by the machines of a run: one trains the tokenizer, each tokenizes the parts of its rank, and
//! each writes the shards of its rank.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic::Digest;
use crate::phase::{self, Marker};
use crate::progress::{Stage, Unit};
use crate::run::Run;
use crate::shards::mix::{self, Plan, Share, Source};
use crate::shards::{Shards, Workers, write_shards};
use crate::tokenizer::report::{self, Fit};
use crate::tokenizer::train::{self, WordCounts};
use crate::tokenizer::{Ends, Tokenizer, read_json, tokenize};
use crate::{Error, atomic, options, publish, sealed};

/// Which tokenizer, from the table `[tokenizer]`.
#[derive(Clone, Debug)]
pub struct TokenizerSettings {
    /// A `tokenizer.json`; without it, one is trained.
    pub file: Option<PathBuf>,
    /// How it is trained.
    pub training: train::Settings,
    /// Tokens around each document.
    pub ends: Ends,
}

impl TokenizerSettings {
    /// Reads the table. A relative file starts from `directory`.
    ///
    /// # Errors
    /// In words: a key that is not known or cannot be.
    pub fn read(mut table: toml::Table, directory: &Path) -> Result<TokenizerSettings, String> {
        let mut take = |keys: &[&str]| -> toml::Table {
            keys.iter().filter_map(|key| Some((key.to_string(), table.remove(*key)?))).collect()
        };
        let ends: Ends = options::read(take(&["bos", "eos"]))?;
        let file = match take(&["file"]).remove("file") {
            None => None,
            Some(toml::Value::String(file)) => Some(directory.join(file)),
            Some(other) => return Err(format!("`file` = {other} is no path")),
        };
        if let Some(key) = table.keys().next().filter(|_| file.is_some()) {
            return Err(format!("`{key}` is for a tokenizer that is trained, and `file` names one that is there"));
        }
        let training: train::Settings = options::read(table)?;
        training.check()?;
        Ok(TokenizerSettings { file, training, ends })
    }

    /// What it follows from besides the documents.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn identity(&self) -> Result<blake3::Hash, Error> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{:?} {:?}", self.training, self.ends).as_bytes());
        for name in self.file.iter().flat_map(|file| [file.clone(), file.with_file_name("tokenizer_config.json")]) {
            match read_json(&name) {
                Ok(bytes) => _ = hasher.update(blake3::hash(&bytes).as_bytes()),
                Err(Error::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound && Some(&name) != self.file.as_ref() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(hasher.finalize())
    }
}

/// A part that is tokenized.
#[derive(Debug, Serialize, Deserialize)]
struct FitMarker {
    /// The token run.
    tokens: Digest,
    /// How the tokenizer fits the part.
    fit: Fit,
}

/// The files of a tokenizer by name.
type TokenizerMarker = BTreeMap<String, Digest>;

/// What of packing is reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Packed {
    /// How the tokenizer fits the documents.
    pub tokenizer: report::Report,
    /// The shards, if the recipe wants some.
    pub shards: Option<Shards>,
}

/// The stages of one run.
pub struct Packing<'a> {
    run: &'a Run<'a>,
    settings: &'a TokenizerSettings,
    /// Where tokenizer and token runs are.
    tokens: PathBuf,
    /// Where shards are.
    shards: PathBuf,
    /// What everything follows from.
    pub identity: blake3::Hash,
}

impl<'a> Packing<'a> {
    /// The stages that a recipe wants, if it has a tokenizer.
    ///
    /// # Errors
    /// A tokenizer that is not there.
    pub fn of(run: &'a Run<'a>) -> Result<Option<Packing<'a>>, Error> {
        let Some(settings) = &run.recipe.tokenizer else { return Ok(None) };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&run.identity()).update(settings.identity()?.as_bytes());
        let name = |hasher: &blake3::Hasher, kind: &str| {
            run.options.out.join("work").join(format!("{kind}-{}", &hasher.finalize().to_hex()[..12]))
        };
        if run.recipe.shards.as_ref().is_some_and(|settings| settings.masks) {
            hasher.update(b"masks");
        }
        let tokens = name(&hasher, "tokens");
        let shares: Vec<Share> = run.recipe.sources.iter().map(crate::source::Source::share).collect();
        hasher.update(format!("{:?} {shares:?}", run.recipe.shards).as_bytes());
        let shards = name(&hasher, "shards");
        Ok(Some(Packing { run, settings, tokens, shards, identity: hasher.finalize() }))
    }

    /// Folders to be published, with their names below the directory, and what their files must hold, by path.
    ///
    /// # Errors
    /// A tokenizer without a marker.
    pub fn folders(&self, packed: &Packed) -> Result<Vec<(PathBuf, &'static str, BTreeMap<PathBuf, String>)>, Error> {
        let tokenizer = self.tokens.join("tokenizer");
        let marker = self.tokenizer_marker().ok_or_else(|| self.without_marker())?;
        let of_tokenizer = marker.into_iter().map(|(name, digest)| (tokenizer.join(name), digest.blake3)).collect();
        let of_shards = packed.shards.iter().flat_map(Shards::hashes);
        let of_shards = of_shards.map(|(name, hash)| (self.shards.join(name), hash)).collect();
        Ok([(tokenizer, "tokenizer", of_tokenizer), (self.shards.clone(), "shards", of_shards)].into())
    }

    fn tokenizer_marker_file(&self) -> PathBuf {
        self.tokens.join("tokenizer.json")
    }

    fn tokenizer_marker(&self) -> Option<TokenizerMarker> {
        sealed::read(&self.tokenizer_marker_file(), self.about().as_bytes())
    }

    fn without_marker(&self) -> Error {
        Error::file(
            self.tokenizer_marker_file(),
            "this marker is gone or damaged; the same command makes it and what it is for again",
        )
    }

    /// What markers of the tokenizer and of tokens are about: the name follows from all that they are made from.
    fn about(&self) -> String {
        self.tokens.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Does what falls to this machine. Only the first of several has a report.
    ///
    /// # Errors
    /// A tokenizer or mix that cannot be, damaged files, where the system refuses, or somebody asked to stop.
    pub fn make(&self, markers: &[Marker]) -> Result<Option<Packed>, Error> {
        let run = self.run;
        let tokenizer = self.tokenizer(markers)?;
        let total = run.mine().map(|part| markers[part].bytes).sum();
        run.begin(run.phases.len() + 2, Stage { name: "tokenizing".into(), total, ..Stage::default() });
        run.shared.look(&self.tokens)?;
        run.in_parallel(&run.mine().collect::<Vec<_>>(), |part| self.part(&tokenizer, part))?;
        self.wait("tokenizing", |part| self.fit_file(part))?;
        if let Some(settings) = &run.recipe.shards {
            let plan = self.plan(settings, &tokenizer)?;
            let total = plan.sources().iter().map(|mixed| mixed.tokens() + mixed.source.held_out.tokens).sum();
            let stage = Stage { name: "packing tokens".into(), total, unit: Unit::Tokens, ..Stage::default() };
            run.begin(run.phases.len() + 3, stage);
            let workers =
                Workers { rank: run.options.rank, world: run.options.world, threads: run.options.threads.max(1) };
            write_shards(&plan, &self.shards, workers, &|tokens| {
                run.progress.advance(tokens, 1);
                run.progress.check()
            })?;
            self.share_shards(&plan)?;
            if run.options.rank > 0 {
                return Ok(None);
            }
            let recipe = blake3::hash(run.recipe.text.as_bytes());
            if run.options.world > 1 {
                run.progress.stage("packing tokens: waiting for other machines");
            }
            let shards = self.collect(&plan, recipe)?;
            return self.report(&tokenizer, Some(shards)).map(Some);
        }
        if run.options.rank > 0 { Ok(None) } else { self.report(&tokenizer, None).map(Some) }
    }

    /// Puts the shards of this machine where the first one finds them, each with its description last.
    fn share_shards(&self, plan: &Plan) -> Result<(), Error> {
        let mine = plan.shards().skip(self.run.options.rank).step_by(self.run.options.world);
        let mine: BTreeSet<String> = mine.flat_map(|shard| [shard.name(), shard.mask_name()]).collect();
        let mut files: Vec<PathBuf> = publish::listed(&self.shards)?.into_iter().map(|(path, _)| path).collect();
        files.retain(|path| path.file_stem().and_then(|name| name.to_str()).is_some_and(|name| mine.contains(name)));
        files.sort_by_key(|path| path.extension().is_some_and(|ending| ending == "json"));
        self.run.shared.share(&files)
    }

    /// Waits for the shards of all machines.
    fn collect(&self, plan: &Plan, recipe: blake3::Hash) -> Result<Shards, Error> {
        let descriptions: Vec<PathBuf> =
            plan.shards().map(|shard| self.shards.join(format!("{}.json", shard.name()))).collect();
        self.run.shared.wait(self.run.progress, &self.shards, &descriptions)?;
        self.run.shared.fetch_all(&self.shards, |_| true)?;
        let mut shards = None;
        self.run.progress.wait(|| {
            shards = Shards::collect(plan, &self.shards, recipe)?;
            Ok(shards.is_some())
        })?;
        Ok(shards.expect("collected"))
    }

    fn wait(&self, stage: &str, file: impl Fn(usize) -> PathBuf) -> Result<(), Error> {
        if self.run.options.world > 1 {
            self.run.progress.stage(&format!("{stage}: waiting for other machines"));
        }
        let files: Vec<PathBuf> = (0..self.run.parts.len()).map(file).collect();
        self.run.shared.wait(self.run.progress, &self.tokens, &files)
    }

    fn last(&self) -> &'a phase::Phase<'a> {
        self.run.phases.last().expect("a recipe has a phase")
    }

    /// The tokenizer: trained by the first machine, waited for by the others.
    fn tokenizer(&self, markers: &[Marker]) -> Result<Tokenizer, Error> {
        let directory = self.tokens.join("tokenizer");
        let (file, marker_file) = (directory.join("tokenizer.json"), self.tokenizer_marker_file());
        let shared = &self.run.shared;
        shared.look(&self.tokens)?;
        if self.run.options.rank == 0 && marker_file.exists() && !self.has_tokenizer(&directory)? {
            publish::remove(&marker_file)?;
        }
        if !shared.has(&marker_file) {
            if self.run.options.rank > 0 {
                let name = "waiting for the tokenizer".to_string();
                self.run.begin(self.run.phases.len() + 1, Stage { name, ..Stage::default() });
                shared.wait(self.run.progress, &self.tokens, std::slice::from_ref(&marker_file))?;
            } else {
                let written = self.make_tokenizer(markers, &directory)?;
                sealed::write(&marker_file, self.about().as_bytes(), &written)?;
            }
        }
        shared.fetch(&marker_file)?;
        let written = self.tokenizer_marker().ok_or_else(|| self.without_marker())?;
        let files: Vec<PathBuf> = written.keys().map(|name| directory.join(name)).collect();
        for (path, digest) in files.iter().zip(written.values()) {
            shared.fetch(path)?;
            digest.check(&Digest::of_file(path)?, path)?;
        }
        if self.run.options.rank == 0 {
            shared.share(&files)?;
            shared.share(&[marker_file])?;
        }
        Tokenizer::open(&file, &self.settings.ends)
    }

    /// Whether the tokenizer of an earlier run is what was written.
    fn has_tokenizer(&self, directory: &Path) -> Result<bool, Error> {
        let Some(written) = self.tokenizer_marker() else { return Ok(false) };
        for (name, digest) in &written {
            let path = directory.join(name);
            if !path.exists() || &Digest::of_file(&path)? != digest {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Copies the given tokenizer, or trains one, and says what was written.
    fn make_tokenizer(&self, markers: &[Marker], directory: &Path) -> Result<TokenizerMarker, Error> {
        publish::remove(directory)?;
        let (config, json) = match &self.settings.file {
            Some(given) => {
                let beside = given.with_file_name("tokenizer_config.json");
                (beside.exists().then(|| read_json(&beside)).transpose()?, read_json(given)?)
            }
            None => {
                let trained = self.train(markers)?;
                (Some(serde_json::to_vec_pretty(&trained.config).expect("it is JSON")), trained.tokenizer)
            }
        };
        let files = [("tokenizer_config.json", config), ("tokenizer.json", Some(json))];
        let write =
            |(name, bytes): (&str, Vec<u8>)| Ok((name.to_string(), atomic::write(&directory.join(name), &bytes)?));
        files.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))).map(write).collect()
    }

    fn train(&self, markers: &[Marker]) -> Result<train::Trained, Error> {
        let run = self.run;
        let bytes = markers.iter().map(|marker| marker.bytes).sum();
        let name = "counting words for the tokenizer".to_string();
        run.begin(run.phases.len() + 1, Stage { name, total: bytes, ..Stage::default() });
        let mut counts = WordCounts::new(&self.settings.training, run.recipe.seed, bytes);
        for part in 0..run.parts.len() {
            // What is held out from training is no example of text either: it is in another file.
            run.shared.fetch(&self.last().documents(part))?;
            for document in phase::train_documents_of(self.last(), part)? {
                let document = document?;
                run.progress.check()?;
                counts.add(&document).map_err(|problem| Error::file(&run.recipe.file, problem))?;
                run.progress.advance(document.text().len() as u64, 1);
            }
        }
        run.progress.stage("training the tokenizer");
        counts
            .train(&self.settings.training)
            .map_err(|problem| Error::file(&run.recipe.file, format!("[tokenizer]: {problem}")))
    }

    fn run_file(&self, part: usize) -> PathBuf {
        self.tokens.join(format!("part-{part:05}.tokens"))
    }

    /// How the tokenizer fits a part: written after its tokens, so that it marks the part as finished.
    fn fit_file(&self, part: usize) -> PathBuf {
        self.tokens.join(format!("part-{part:05}.fit.json"))
    }

    fn about_part(&self, part: usize) -> String {
        format!("{} {part}", self.about())
    }

    fn fit_marker(&self, part: usize) -> Option<FitMarker> {
        sealed::read(&self.fit_file(part), self.about_part(part).as_bytes())
    }

    fn part(&self, tokenizer: &Tokenizer, part: usize) -> Result<(), Error> {
        let (tokens, fit_file) = (self.run_file(part), self.fit_file(part));
        let shared = &self.run.shared;
        // Tokens of an earlier run that are not what was counted are made again.
        if fit_file.exists() {
            let fits = match self.fit_marker(part) {
                Some(marker) => !tokens.exists() || Digest::of_file(&tokens)? == marker.tokens,
                None => false,
            };
            if !fits {
                publish::remove(&fit_file)?;
                publish::remove(&tokens)?;
            }
        }
        if shared.has(&fit_file) && shared.has(&tokens) {
            let there: Vec<PathBuf> = [tokens, fit_file].into_iter().filter(|path| path.exists()).collect();
            return shared.share(&there);
        }
        self.last().all_documents(part).iter().try_for_each(|file| shared.fetch(file))?;
        publish::remove(&tokens)?;
        let source = &self.run.recipe.sources[self.run.parts[part].source as usize].name;
        let mut fit = Fit::new(tokenizer);
        let masks = self.run.recipe.shards.as_ref().is_some_and(|settings| settings.masks);
        let documents = phase::documents_of(self.last(), part)?;
        let written = tokenize(documents, tokenizer, &tokens, masks, |document, tokens| {
            fit.count(tokenizer, source, document, tokens);
            self.run.progress.advance(document.text().len() as u64, 1);
            self.run.progress.check()
        })?;
        sealed::write(&fit_file, self.about_part(part).as_bytes(), &FitMarker { tokens: written, fit })?;
        shared.share(&[tokens, fit_file])
    }

    fn plan(&self, settings: &mix::Settings, tokenizer: &Tokenizer) -> Result<Plan, Error> {
        let recipe = self.run.recipe;
        let mut sources = Vec::with_capacity(recipe.sources.len());
        for (number, source) in recipe.sources.iter().enumerate() {
            let parts = (0..self.run.parts.len()).filter(|&part| self.run.parts[part].source as usize == number);
            let runs: Vec<PathBuf> = parts.map(|part| self.run_file(part)).collect();
            runs.iter().try_for_each(|run| self.run.shared.fetch(run))?;
            sources.push(Source::measure(&source.name, source.share(), runs, settings)?);
        }
        Plan::new(sources, settings, recipe.seed, tokenizer.vocabulary())
            .map_err(|problem| Error::file(&recipe.file, format!("[shards]: {problem}")))
    }

    fn report(&self, tokenizer: &Tokenizer, shards: Option<Shards>) -> Result<Packed, Error> {
        let mut fit = Fit::new(tokenizer);
        for part in 0..self.run.parts.len() {
            let file = self.fit_file(part);
            self.run.shared.fetch(&file)?;
            let gone = || Error::file(&file, "it is gone or damaged; the same command makes it again");
            fit.add(&self.fit_marker(part).ok_or_else(gone)?.fit);
        }
        Ok(Packed { tokenizer: fit.report(tokenizer), shards })
    }
}
