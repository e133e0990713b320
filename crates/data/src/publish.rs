//! What a run leaves: documents, what was rejected, the report; and a manifest, written last, that says it is all there

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic::Digest;
use crate::documents::Reader;
use crate::packing::Packing;
use crate::recipe::Recipe;
use crate::report::Report;
use crate::run::Run;
use crate::shards::Split;
use crate::{Document, Error, atomic, phase};

/// Name of the manifest.
pub const MANIFEST: &str = "dataset.json";

/// What to do about a finished directory that was changed.
pub(crate) const MAKE_AGAIN: &str = "remove dataset.json, and the same command makes the dataset again";

/// What a finished directory holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What everything in it follows from, in hexadecimal.
    pub identity: String,
    /// Files below the directory with their BLAKE3 hashes, in the order of their names.
    pub files: Vec<FileEntry>,
}

/// A file of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its path below the directory.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// BLAKE3 in hexadecimal.
    pub blake3: String,
}

/// Bytes of a manifest that is read.
pub const MANIFEST_BYTES_MAX: u64 = 1 << 30;

/// The manifest of a directory, if it is finished. What is no file, or too long, is none.
pub fn manifest(out: &Path) -> Option<Manifest> {
    let file = out.join(MANIFEST);
    let is_one = std::fs::metadata(&file).is_ok_and(|m| m.is_file() && m.len() <= MANIFEST_BYTES_MAX);
    if !is_one {
        return None;
    }
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

impl Manifest {
    /// Compares the sizes of its files with those that are there; `bytes_of` looks for one.
    ///
    /// # Errors
    /// The first file that is gone or has another size, and what `bytes_of` gives.
    pub fn check_sizes(
        &self,
        directory: &Path,
        mut bytes_of: impl FnMut(&str) -> Result<Option<u64>, Error>,
    ) -> Result<(), Error> {
        for FileEntry { path, bytes, .. } in &self.files {
            let problem = match bytes_of(path)? {
                Some(found) if found == *bytes => continue,
                Some(found) => format!("it has {found} bytes, and {MANIFEST} says {bytes}"),
                None => format!("it is gone, and {MANIFEST} has it"),
            };
            return Err(Error::file(directory.join(path), format!("{problem}; {MAKE_AGAIN}")));
        }
        Ok(())
    }
}

/// What a run writes in its directory. Everything else was there before.
const OURS: [&str; 10] = [
    MANIFEST,
    "README.md",
    "documents",
    "recipe.toml",
    "rejected",
    "report.html",
    "report.json",
    "shards",
    "tokenizer",
    "work",
];

/// Refuses a directory that has files and is no dataset: what is put in its place would replace them. Refuses a work directory that is a link, by which
/// files would be written elsewhere.
///
/// # Errors
/// Such a directory, by the first of these files, or a directory that cannot be read.
pub fn check_is_ours(out: &Path) -> Result<(), Error> {
    let work = out.join("work");
    if work.is_symlink() {
        return Err(Error::file(work, "a link, which is not followed; remove it, and name another place with --work"));
    }
    if out.is_file() {
        return Err(Error::file(out, "a file; a dataset is a directory: name another place with --out"));
    }
    if manifest(out).is_some() || !out.exists() {
        return Ok(());
    }
    // Without a manifest it is a run's that is not finished, which has its locks, or one whose manifest was removed so that it is made again. Where the
    // dataset is in a store, the report alone was brought here.
    let files = if work.is_dir() { listed(&work)? } else { Vec::new() };
    let is_work = work.is_dir() && (files.is_empty() || files.iter().any(|(_, name)| name.ends_with("lock")));
    let was_finished =
        out.join("report.json").is_file() && (out.join("recipe.toml").is_file() || listed(out)?.len() == 1);
    let ours = |name: &str| (is_work || was_finished) && (OURS.contains(&name) || name.ends_with(".new"));
    let mut foreign: Option<(bool, String)> = None;
    for entry in std::fs::read_dir(out).map_err(Error::io(out))? {
        let name = entry.map_err(Error::io(out))?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !ours(&name) {
            foreign = foreign.into_iter().chain([(OURS.contains(&name.as_str()), name)]).min();
        }
    }
    match foreign {
        None => Ok(()),
        Some((_, name)) => {
            let problem = format!("has files that are no dataset's, such as {name:?}; name a new directory with --out");
            Err(Error::file(out, problem))
        }
    }
}

/// Why no other dataset is made in the place of one that is finished: what differs, and how to go on.
pub fn replacing(there: &Manifest, recipe: &Recipe, out: &Path) -> Error {
    let now = blake3::hash(recipe.text.as_bytes()).to_hex();
    let short = |hash: &str| hash.chars().take(12).collect::<String>();
    let before = there.files.iter().find(|file| file.path == "recipe.toml").map_or("", |file| &file.blake3);
    let differs = if before == now.as_str() {
        format!("its recipe is this one (BLAKE3 {}), but the sources or this program have changed", short(before))
    } else {
        format!("BLAKE3 of its recipe.toml is {}, of {} {}", short(before), recipe.file.display(), short(&now))
    };
    let next = "--replace makes the new one in its place; another name, or --out, keeps both";
    Error::file(out, format!("has another dataset, which is finished: {differs}; {next}"))
}

/// Puts everything in its place. The work directory is needed until this has ended.
///
/// # Errors
/// Where the system refuses.
pub fn publish(run: &Run, report: &Report, packing: Option<&Packing>, identity: &str) -> Result<Manifest, Error> {
    let out = &run.options.out;
    fetch(run)?;
    let mut folders = folders(run, report, packing)?;
    check(run, &mut folders)?;
    let before: BTreeSet<String> =
        manifest(out).into_iter().flat_map(|manifest| manifest.files).map(|file| file.path).collect();
    remove(&out.join(MANIFEST))?;
    // What an earlier recipe made and this one does not.
    for name in ["tokenizer", "shards"] {
        if folders.iter().all(|(folder, files)| *folder != name || files.is_empty()) {
            place(&[], out, name, &before)?;
            // It stays if it holds anything else.
            let _ = std::fs::remove_dir(out.join(name));
        }
    }
    folders.retain(|(name, files)| !files.is_empty() || matches!(*name, "documents" | "rejected"));
    let mut files = Vec::new();
    for (folder, files_in) in folders {
        place(&files_in, out, folder, &before)?;
        files.extend(files_in.into_iter().map(|file| {
            let digest = file.digest.expect("all files were checked");
            FileEntry { path: format!("{folder}/{}", file.name), bytes: digest.bytes, blake3: digest.blake3 }
        }));
    }
    report.write(run.recipe, out)?;
    for name in ["README.md", "recipe.toml", "report.html", "report.json"] {
        let Digest { bytes, blake3 } = Digest::of_file(&out.join(name))?;
        files.push(FileEntry { path: name.to_string(), bytes, blake3 });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let manifest = Manifest { identity: identity.to_string(), files };
    let json = serde_json::to_string_pretty(&manifest).expect("a manifest is plain data");
    atomic::write(&out.join(MANIFEST), format!("{json}\n").as_bytes())?;
    Ok(manifest)
}

/// A file that is published.
struct Published {
    /// Where it is in the work directory.
    from: PathBuf,
    /// Its name in its folder.
    name: String,
    /// BLAKE3 of what was written, if something vouches for it.
    written: Option<String>,
    /// What it holds.
    digest: Option<Digest>,
}

impl Published {
    fn new(from: PathBuf, name: String, written: Option<String>) -> Published {
        Published { from, name, written, digest: None }
    }
}

/// The folders of a dataset with their files.
fn folders(
    run: &Run,
    report: &Report,
    packing: Option<&Packing>,
) -> Result<Vec<(&'static str, Vec<Published>)>, Error> {
    let (mut documents, mut rejected) = (Vec::new(), Vec::new());
    for (at, phase) in run.phases.iter().enumerate() {
        for part in 0..run.parts.len() {
            let marker = phase::marker_of(phase, part)?;
            if at + 1 == run.phases.len() {
                let name = |split: Split| format!("{}-{part:05}.jsonl.zst", split.name());
                documents.push(Published::new(phase.documents(part), name(Split::Train), Some(marker.kept.blake3)));
                // What is held out lies in files that say so.
                if let Some(digest) = marker.held_out
                    && Reader::<Document>::open(&phase.held_out(part))?.next().is_some()
                {
                    documents.push(Published::new(phase.held_out(part), name(Split::HeldOut), Some(digest.blake3)));
                }
            }
            if let Some(digest) = marker.rejected {
                let name = format!("part-{part:05}-phase-{}.jsonl.zst", at + 1);
                rejected.push(Published::new(phase.rejected(part), name, Some(digest.blake3)));
            }
        }
    }
    let mut folders = vec![("documents", documents), ("rejected", rejected)];
    if let Some((packing, packed)) = packing.zip(report.packed.as_ref()) {
        for (from, name, written) in packing.folders(packed)? {
            let files = listed(&from)?.into_iter().map(|(path, name)| {
                let hash = written.get(&path).cloned();
                Published::new(path, name, hash)
            });
            folders.push((name, files.collect()));
        }
    }
    Ok(folders)
}

/// Hashes all files, and compares them with what was written.
fn check(run: &Run, folders: &mut [(&'static str, Vec<Published>)]) -> Result<(), Error> {
    let files = || folders.iter().flat_map(|(_, files)| files);
    let bytes = files().map(|file| std::fs::metadata(&file.from).map_or(0, |m| m.len())).sum();
    run.progress.part_of_phase("checking the files", bytes);
    for file in folders.iter_mut().flat_map(|(_, files)| files) {
        run.progress.check()?;
        let found = Digest::of_file(&file.from)?;
        if let Some(blake3) = &file.written {
            Digest { bytes: found.bytes, blake3: blake3.clone() }.check(&found, &file.from)?;
        }
        run.progress.advance(found.bytes, 0);
        file.digest = Some(found);
    }
    Ok(())
}

/// Brings documents of other machines here.
fn fetch(run: &Run) -> Result<(), Error> {
    let last = run.phases.last().expect("a recipe has a phase");
    let documents = (0..run.parts.len()).flat_map(|part| last.all_documents(part));
    documents.into_iter().try_for_each(|file| run.shared.fetch(&file))?;
    for phase in &run.phases {
        run.shared.look(&phase.directory)?;
        run.shared.fetch_all(&phase.directory, |name| name.ends_with(".rejected.jsonl.zst"))?;
    }
    Ok(())
}

/// The files of a folder with their names: none if it is not there.
pub(crate) fn listed(folder: &Path) -> Result<Vec<(PathBuf, String)>, Error> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(folder))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io(folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // A machine that was killed may have left a file without its name.
        if !name.starts_with('.') {
            files.push((entry.path(), name));
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a file of a dataset's folder was made by a run, by its name: a run that was stopped while it put its files in place left no manifest.
pub(crate) fn is_made(name: &str) -> bool {
    let numbered = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    ["part-", "train-", "held_out-"].iter().any(|start| name.strip_prefix(start).is_some_and(numbered))
        || ["tokenizer.json", "tokenizer_config.json", "shards.json"].contains(&name)
}

/// Makes a folder of these files, in the place of those that a run made before. Other files in it stay.
fn place(files: &[Published], out: &Path, name: &str, before: &BTreeSet<String>) -> Result<(), Error> {
    let folder = &out.join(name);
    if files.is_empty() && !folder.exists() {
        return std::fs::create_dir_all(folder).map_err(Error::io(folder));
    }
    let fresh = folder.with_extension("new");
    remove(&fresh)?;
    std::fs::create_dir_all(&fresh).map_err(Error::io(&fresh))?;
    for file in files {
        let to = fresh.join(&file.name);
        // Some file systems have no hard links.
        if std::fs::hard_link(&file.from, &to).is_err() {
            std::fs::copy(&file.from, &to).map_err(Error::io(&to))?;
        }
    }
    if folder.is_dir() {
        for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
            let file = entry.map_err(Error::io(folder))?.file_name();
            let shown = file.to_string_lossy();
            if !is_made(&shown) && !before.contains(&format!("{name}/{shown}")) {
                std::fs::rename(folder.join(&file), fresh.join(&file)).map_err(Error::io(folder.join(&file)))?;
            }
        }
    }
    remove(folder)?;
    std::fs::rename(&fresh, folder).map_err(Error::io(folder))
}

/// Removes a file or folder that may be there.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}
