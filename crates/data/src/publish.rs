//! What a run leaves: documents, what was rejected, the report; and a manifest, written last, that says it is all there

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::packing::Packing;
use crate::report::Report;
use crate::run::Run;
use crate::{Error, atomic};

/// Name of the manifest.
pub const MANIFEST: &str = "dataset.json";

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
    if manifest(out).is_some() || !out.exists() {
        return Ok(());
    }
    let mut foreign: Option<String> = None;
    for entry in std::fs::read_dir(out).map_err(Error::io(out))? {
        let name = entry.map_err(Error::io(out))?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !name.ends_with(".new") && !OURS.contains(&name.as_str()) {
            foreign = foreign.into_iter().chain([name]).min();
        }
    }
    match foreign {
        None => Ok(()),
        Some(name) => {
            let problem = format!("has files that are no dataset's, such as {name:?}; name a new directory with --out");
            Err(Error::file(out, problem))
        }
    }
}

/// Puts everything in its place. The work directory is needed until this has ended.
///
/// # Errors
/// Where the system refuses.
pub fn publish(run: &Run, report: &Report, packing: Option<&Packing>, identity: &str) -> Result<Manifest, Error> {
    let out = &run.options.out;
    fetch(run)?;
    remove(&out.join(MANIFEST))?;
    let last = run.phases.last().expect("a recipe has a phase");
    let parts = 0..run.parts.len();
    let documents: Vec<(PathBuf, String)> =
        parts.clone().map(|part| (last.documents(part), format!("part-{part:05}.jsonl.zst"))).collect();
    let rejected = run.phases.iter().enumerate().flat_map(|(at, phase)| {
        parts.clone().map(move |part| (phase.rejected(part), format!("part-{part:05}-phase-{}.jsonl.zst", at + 1)))
    });
    let rejected: Vec<(PathBuf, String)> = rejected.filter(|(path, _)| path.exists()).collect();
    let mut folders = vec![("documents", documents), ("rejected", rejected)];
    for (from, name) in packing.iter().flat_map(|packing| packing.files()) {
        folders.push((name, listed(&from)?));
    }
    // What an earlier recipe made and this one does not.
    for folder in ["tokenizer", "shards"].map(|name| out.join(name)) {
        remove(&folder)?;
    }
    folders.retain(|(name, files)| !files.is_empty() || matches!(*name, "documents" | "rejected"));
    let mut files = Vec::new();
    for (folder, files_in) in &folders {
        place(files_in, &out.join(folder))?;
        for (_, name) in files_in {
            files.push(entry(out, format!("{folder}/{name}"))?);
        }
    }
    report.write(run.recipe, out)?;
    for name in ["README.md", "recipe.toml", "report.html", "report.json"] {
        files.push(entry(out, name.to_string())?);
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let manifest = Manifest { identity: identity.to_string(), files };
    let json = serde_json::to_string_pretty(&manifest).expect("a manifest is plain data");
    atomic::write(&out.join(MANIFEST), format!("{json}\n").as_bytes())?;
    Ok(manifest)
}

/// Brings documents of other machines here.
fn fetch(run: &Run) -> Result<(), Error> {
    let last = run.phases.last().expect("a recipe has a phase");
    (0..run.parts.len()).try_for_each(|part| run.shared.fetch(&last.documents(part)))?;
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

/// Makes a folder of these files, in the place of what was there.
fn place(files: &[(PathBuf, String)], folder: &Path) -> Result<(), Error> {
    let fresh = folder.with_extension("new");
    remove(&fresh)?;
    std::fs::create_dir_all(&fresh).map_err(Error::io(&fresh))?;
    for (from, name) in files {
        let to = fresh.join(name);
        // Some file systems have no hard links.
        if std::fs::hard_link(from, &to).is_err() {
            std::fs::copy(from, &to).map_err(Error::io(&to))?;
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

fn entry(out: &Path, path: String) -> Result<FileEntry, Error> {
    let file = out.join(&path);
    let mut hasher = blake3::Hasher::new();
    let bytes =
        hasher.update_reader(std::fs::File::open(&file).map_err(Error::io(&file))?).map_err(Error::io(&file))?.count();
    Ok(FileEntry { path, bytes, blake3: hasher.finalize().to_hex().to_string() })
}
