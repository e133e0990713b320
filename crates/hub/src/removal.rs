//! Removing models from the cache, without leaving it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::cache::Lock;
use crate::cache::{Cache, commit_of};
use crate::error::HubError;
use crate::name::Name;
use crate::select::{Picked, pick_gguf};
use crate::snapshot::entries;

impl Cache {
    /// Remove a repository; with a file, only that GGUF model of it; with a revision alone, only that snapshot. A blob goes
    /// when no other link points at it. Where there is no such model, what a pull that failed has left is removed: nobody knows
    /// of which model that is a part. Gives the bytes freed.
    pub fn remove(&self, name: &Name) -> Result<u64, HubError> {
        name.check()?;
        let repository = self.repository(name);
        if std::fs::symlink_metadata(&repository).is_err() {
            return Err(HubError::Absent { name: name.to_string() });
        }
        real_directory(&repository)?;
        let Some(_lock) = Lock::try_take(&self.lock(name, "lock"))? else {
            return Err(HubError::Busy { repository: name.repository.clone() });
        };
        if name.file.is_none() && name.revision.is_none() {
            let bytes = bytes_under(&repository)?;
            std::fs::remove_dir_all(&repository).map_err(|e| HubError::disk(&repository, e))?;
            return Ok(bytes);
        }
        let Some(snapshot) = self.snapshot(name)? else { return remove_leftovers(&repository, name) };
        let inside = [repository.join("snapshots"), repository.join("blobs"), snapshot.clone()];
        inside.iter().filter(|path| path.exists()).try_for_each(|path| real_directory(path))?;
        let there = entries(&snapshot)?;
        let doomed: Vec<String> = match &name.file {
            Some(file) => match pick_gguf(there.iter().map(String::as_str), Some(file)) {
                Picked::One(parts) => parts.into_iter().filter(|part| there.contains(part)).collect(),
                Picked::None(_) if has_leftovers(&repository)? => return remove_leftovers(&repository, name),
                Picked::Several(models) | Picked::None(models) => {
                    let files: Vec<&str> = models.iter().filter_map(|m| m.first()).map(String::as_str).collect();
                    let why = format!("{file} does not mean one GGUF file; there are: {}", files.join(", "));
                    return Err(layout(&snapshot, why));
                }
            },
            None => {
                self.forget(name, &repository)?;
                if !references(&repository, &snapshot)?.is_empty() {
                    return Ok(0);
                }
                there
            }
        };
        let mut freed = 0;
        let mut blobs: BTreeSet<PathBuf> = BTreeSet::new();
        for path in doomed {
            let path = snapshot.join(path);
            let there = std::fs::symlink_metadata(&path).map_err(|e| HubError::disk(&path, e))?;
            match blob_of(&path, &repository) {
                Some(blob) => {
                    blobs.insert(blob);
                }
                None if there.is_file() => freed += there.len(),
                None => {}
            }
            std::fs::remove_file(&path).map_err(|e| HubError::disk(&path, e))?;
            remove_empty(path.parent(), &snapshot);
        }
        let linked = linked(&repository)?;
        for blob in blobs.difference(&linked) {
            freed += std::fs::symlink_metadata(blob).map_or(0, |there| there.len());
            std::fs::remove_file(blob).map_err(|e| HubError::disk(blob, e))?;
        }
        self.sweep(&repository, &snapshot)?;
        Ok(freed)
    }

    /// Remove the reference that the name's revision is.
    fn forget(&self, name: &Name, repository: &Path) -> Result<(), HubError> {
        let reference = repository.join("refs").join(name.revision());
        match std::fs::remove_file(&reference) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(HubError::disk(&reference, error)),
            _ => Ok(()),
        }
    }

    /// Remove what is empty now: the snapshot with its references, and the repository.
    fn sweep(&self, repository: &Path, snapshot: &Path) -> Result<(), HubError> {
        if !entries(snapshot)?.is_empty() {
            return Ok(());
        }
        for reference in references(repository, snapshot)? {
            std::fs::remove_file(&reference).map_err(|e| HubError::disk(&reference, e))?;
        }
        // No links and no files are left in it.
        std::fs::remove_dir_all(snapshot).map_err(|e| HubError::disk(snapshot, e))?;
        let empty = |part: &str| entries(&repository.join(part)).map(|files| files.is_empty());
        if empty("snapshots")? && empty("blobs")? {
            std::fs::remove_dir_all(repository).map_err(|e| HubError::disk(repository, e))?;
        }
        Ok(())
    }
}

fn layout(path: &Path, why: String) -> HubError {
    HubError::Layout { path: path.to_path_buf(), why }
}

/// Refuse a link where a directory should be: what it points at is not the cache's.
fn real_directory(path: &Path) -> Result<(), HubError> {
    let there = std::fs::symlink_metadata(path).map_err(|e| HubError::disk(path, e))?;
    if there.is_dir() {
        return Ok(());
    }
    Err(layout(path, "it is a link or a file, not a directory of the cache; remove it by hand".to_string()))
}

/// The blob of this repository that a link points at. Links elsewhere have none.
fn blob_of(link: &Path, repository: &Path) -> Option<PathBuf> {
    let target = std::fs::read_link(link).ok()?;
    let blob = repository.join("blobs").join(target.file_name()?);
    let real = std::fs::symlink_metadata(&blob).ok()?.is_file();
    let same = std::fs::canonicalize(link).ok()? == std::fs::canonicalize(&blob).ok()?;
    (real && same).then_some(blob)
}

/// All blobs that a snapshot links to.
fn linked(repository: &Path) -> Result<BTreeSet<PathBuf>, HubError> {
    let snapshots = repository.join("snapshots");
    let links = entries(&snapshots)?;
    Ok(links.iter().filter_map(|link| blob_of(&snapshots.join(link), repository)).collect())
}

/// Blobs that no snapshot links to, whole or not.
fn leftovers(repository: &Path) -> Result<Vec<PathBuf>, HubError> {
    let blobs = repository.join("blobs");
    if blobs.exists() {
        real_directory(&blobs)?;
    }
    let linked = linked(repository)?;
    Ok(entries(&blobs)?.iter().map(|blob| blobs.join(blob)).filter(|blob| !linked.contains(blob)).collect())
}

fn has_leftovers(repository: &Path) -> Result<bool, HubError> {
    Ok(!leftovers(repository)?.is_empty())
}

/// Remove what a pull left that did not end well, and the repository where nothing else is in it.
fn remove_leftovers(repository: &Path, name: &Name) -> Result<u64, HubError> {
    let loose = leftovers(repository)?;
    if loose.is_empty() {
        return Err(HubError::Absent { name: name.to_string() });
    }
    let mut freed = 0;
    for blob in loose {
        freed += std::fs::symlink_metadata(&blob).map_or(0, |there| there.len());
        std::fs::remove_file(&blob).map_err(|e| HubError::disk(&blob, e))?;
    }
    if entries(&repository.join("snapshots"))?.is_empty() {
        std::fs::remove_dir_all(repository).map_err(|e| HubError::disk(repository, e))?;
    }
    Ok(freed)
}

/// References that name a snapshot.
fn references(repository: &Path, snapshot: &Path) -> Result<Vec<PathBuf>, HubError> {
    let refs = repository.join("refs");
    let commit = snapshot.file_name().and_then(|name| name.to_str());
    let all = entries(&refs)?.into_iter().map(|reference| refs.join(reference));
    Ok(all.filter(|path| matches!(commit_of(path), Ok(Some(c)) if Some(c.as_str()) == commit)).collect())
}

/// Remove directories that became empty, up to `top`, which stays.
fn remove_empty(from: Option<&Path>, top: &Path) {
    let mut at = from;
    while let Some(directory) = at.filter(|d| *d != top && d.starts_with(top)) {
        if std::fs::remove_dir(directory).is_err() {
            return;
        }
        at = directory.parent();
    }
}

/// Bytes of all files, links not followed.
fn bytes_under(directory: &Path) -> Result<u64, HubError> {
    let files = entries(directory)?;
    let sizes = files.iter().filter_map(|file| std::fs::symlink_metadata(directory.join(file)).ok());
    Ok(sizes.filter(|there| there.is_file()).fold(0, |sum, there| sum + there.len()))
}
