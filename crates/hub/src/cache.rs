//! The cache on disk: what is there. Nothing here asks the network.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

use crate::error::HubError;
use crate::listing::is_hex;
use crate::name::{Name, check_repository};
use crate::select::gguf_models;
use crate::snapshot::{directory_entries, entries, model, safetensors};

/// A cache of the Hugging Face layout.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// A model in the cache.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// Its name; with the file for a GGUF model.
    pub name: Name,
    /// Bytes on disk. A blob of several models of one repository counts for the first only.
    pub bytes: u64,
    /// When its newest file was written.
    pub modified: SystemTime,
    /// Whether all its files are there.
    pub complete: bool,
    /// What the loader is given; for an incomplete one, the directory it is in.
    pub path: PathBuf,
}

impl Cache {
    /// The cache in this directory, which need not exist.
    pub fn new(root: PathBuf) -> Cache {
        Cache { root }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What the model loader is given, when all files of the model are there: the snapshot's directory, or the (first)
    /// GGUF file in it.
    pub fn find(&self, name: &Name) -> Result<Option<PathBuf>, HubError> {
        name.check()?;
        match self.snapshot(name)? {
            Some(snapshot) => model(&snapshot, name.file.as_deref()),
            None => Ok(None),
        }
    }

    /// Repositories in the cache whose last part is `short`, whatever the case.
    pub fn by_short_name(&self, short: &str) -> Result<Vec<Name>, HubError> {
        let last =
            |name: &Name| name.repository.rsplit('/').next().is_some_and(|last| last.eq_ignore_ascii_case(short));
        Ok(self.repositories()?.into_iter().filter(last).collect())
    }

    /// All models in the cache, whole or not.
    pub fn list(&self) -> Result<Vec<Pulled>, HubError> {
        let mut pulled = Vec::new();
        for name in self.repositories()? {
            self.list_repository(&name, &mut pulled)?;
        }
        Ok(pulled)
    }

    /// Where everything of a repository is.
    pub fn repository(&self, name: &Name) -> PathBuf {
        self.root.join(name.directory())
    }

    /// The lock that a pull holds, and the locks of single blobs beside it.
    pub(crate) fn lock(&self, name: &Name, file: &str) -> PathBuf {
        self.root.join(".locks").join(name.directory()).join(file)
    }

    /// The snapshot of a name's revision, where there is one.
    pub(crate) fn snapshot(&self, name: &Name) -> Result<Option<PathBuf>, HubError> {
        let repository = self.repository(name);
        let revision = name.revision();
        let commit = match commit_of(&repository.join("refs").join(revision))? {
            Some(commit) => commit,
            None if is_hex(revision, 40) => revision.to_string(),
            None => return Ok(None),
        };
        Ok(Some(repository.join("snapshots").join(commit)).filter(|snapshot| snapshot.is_dir()))
    }

    fn repositories(&self) -> Result<Vec<Name>, HubError> {
        let mut found = Vec::new();
        for entry in directory_entries(&self.root)? {
            let name = entry.file_name();
            let Some((org, name)) = name.to_str().and_then(|n| n.strip_prefix("models--")?.split_once("--")) else {
                continue;
            };
            let repository = format!("{org}/{name}");
            if check_repository(&repository).is_ok() && entry.path().is_dir() {
                found.push(Name { repository, revision: None, file: None });
            }
        }
        found.sort();
        Ok(found)
    }

    fn list_repository(&self, name: &Name, pulled: &mut Vec<Pulled>) -> Result<(), HubError> {
        let repository = self.repository(name);
        let revisions = revisions(&repository)?;
        let mut linked: BTreeSet<PathBuf> = BTreeSet::new();
        for (commit, revision) in &revisions {
            let snapshot = repository.join("snapshots").join(commit);
            let name = Name { revision: revision.clone(), ..name.clone() };
            let paths = entries(&snapshot)?;
            let models = gguf_models(paths.iter().map(String::as_str));
            let tensors = paths.iter().any(|path| path.ends_with(".safetensors"));
            if tensors || models.is_empty() {
                let whole = safetensors(&snapshot).unwrap_or(false);
                let files = paths.iter().filter(|path| !models.iter().flatten().any(|part| part == *path));
                let (bytes, modified) = sum(files.map(|path| snapshot.join(path)), &mut linked);
                let modified = modified.unwrap_or_else(|| written(&snapshot));
                pulled.push(Pulled { name: name.clone(), bytes, modified, complete: whole, path: snapshot.clone() });
            }
            for parts in models {
                let complete = parts.iter().all(|part| snapshot.join(part).is_file());
                let (bytes, modified) = sum(parts.iter().map(|part| snapshot.join(part)), &mut linked);
                let modified = modified.unwrap_or_else(|| written(&snapshot));
                let file = parts.into_iter().next();
                let path = file.as_ref().filter(|_| complete).map_or(snapshot.clone(), |file| snapshot.join(file));
                pulled.push(Pulled { name: Name { file, ..name.clone() }, bytes, modified, complete, path });
            }
            // Small files beside a GGUF model belong to none, but they are no leftovers either.
            sum(paths.iter().map(|path| snapshot.join(path)), &mut linked);
        }
        let blobs = repository.join("blobs");
        let loose: Vec<PathBuf> = entries(&blobs)?.iter().map(|file| blobs.join(file)).collect();
        let (bytes, modified) = sum(loose.into_iter(), &mut linked);
        if bytes > 0 || revisions.is_empty() {
            // What a pull left that was stopped.
            let modified = modified.unwrap_or_else(|| written(&repository));
            pulled.push(Pulled { name: name.clone(), bytes, modified, complete: false, path: repository });
        }
        Ok(())
    }
}

/// The commit in a `refs` file.
pub(crate) fn commit_of(path: &Path) -> Result<Option<String>, HubError> {
    match std::fs::metadata(path) {
        Ok(there) if there.is_file() && there.len() < 1024 => {}
        _ => return Ok(None),
    }
    let text = std::fs::read_to_string(path).map_err(|e| HubError::disk(path, e))?;
    let commit = text.trim();
    if !is_hex(commit, 40) {
        let why = "it should hold a commit of 40 hexadecimal digits; delete it and pull again".to_string();
        return Err(HubError::Layout { path: path.to_path_buf(), why });
    }
    Ok(Some(commit.to_string()))
}

/// Snapshots of a repository as (commit, revision): `main` first, which needs no revision, then other branches and tags,
/// then commits that no reference names.
fn revisions(repository: &Path) -> Result<Vec<(String, Option<String>)>, HubError> {
    let refs = repository.join("refs");
    let mut named: BTreeMap<String, Option<String>> = BTreeMap::new();
    for reference in entries(&refs)? {
        // A damaged reference is no reason to show nothing.
        let Ok(Some(commit)) = commit_of(&refs.join(&reference)) else { continue };
        if reference == "main" {
            named.insert(commit, None);
        } else {
            named.entry(commit).or_insert(Some(reference));
        }
    }
    let snapshots = repository.join("snapshots");
    let mut found: Vec<(u8, String, Option<String>)> = Vec::new();
    if let Ok(read) = std::fs::read_dir(&snapshots) {
        for entry in read.flatten() {
            let Ok(commit) = entry.file_name().into_string() else { continue };
            if !is_hex(&commit, 40) || !entry.path().is_dir() {
                continue;
            }
            let (rank, revision) = match named.get(&commit) {
                Some(None) => (0, None),
                Some(revision) => (1, revision.clone()),
                None => (2, Some(commit.clone())),
            };
            found.push((rank, commit, revision));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, commit, revision)| (commit, revision)).collect())
}

/// Bytes of the files not yet in `seen`, and when the newest of all was written.
fn sum(files: impl Iterator<Item = PathBuf>, seen: &mut BTreeSet<PathBuf>) -> (u64, Option<SystemTime>) {
    let mut bytes = 0u64;
    let mut newest = None;
    for file in files {
        let Ok(there) = std::fs::metadata(&file) else { continue };
        newest = newest.max(there.modified().ok());
        if std::fs::canonicalize(&file).is_ok_and(|real| seen.insert(real)) {
            bytes = bytes.saturating_add(there.len());
        }
    }
    (bytes, newest)
}

fn written(path: &Path) -> SystemTime {
    std::fs::metadata(path).as_ref().ok().map(Metadata::modified).and_then(Result::ok).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A lock between processes: `flock` on a file under `.locks`, as the Python tools have them. Dropping it lets go; the file stays.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Take the lock, or `None` where another process or call holds it.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Lock>, HubError> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| HubError::write(parent, e, 0))?;
        }
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = opened.map_err(|e| HubError::write(path, e, 0))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            // Some network disks have no locks. A pull alone on such a disk is better than none.
            Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOSYS) => Ok(Some(Lock { _file: file })),
            Err(error) => Err(HubError::disk(path, error.into())),
        }
    }
}
