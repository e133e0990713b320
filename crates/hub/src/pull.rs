//! A pull: all files of a selection into the cache, so that the snapshot is whole or not there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cache::Lock;
use crate::disk_space::free_bytes;
use crate::download::{BlobDownload, Progress, bytes_there};
use crate::error::HubError;
use crate::listing::is_hex;
use crate::name::Name;
use crate::remote::{Hub, Session, Stop};
use crate::select::{Listing, RemoteFile, Selection, check_path};
use crate::snapshot;

const LOCK_PAUSE: Duration = Duration::from_millis(100);

impl Hub {
    /// Fetch a selection into the cache and give the path for the loader. What an earlier pull left is gone on with. The
    /// links of the snapshot are made when all files are there and verified, the reference last.
    pub fn pull(
        &self,
        name: &Name,
        listing: &Listing,
        selection: &Selection,
        progress: &dyn Progress,
    ) -> Result<PathBuf, HubError> {
        check(name, listing, selection)?;
        self.online(|| name.to_string())?;
        let waiting = || progress.note(&format!("{}: waiting for another pull to end", name.repository));
        let _lock = wait_for(&self.cache.lock(name, "lock"), &|| progress.cancelled(), &waiting)?;
        let repository = self.cache.repository(name);
        let blobs = repository.join("blobs");
        let fetched = self.fetch(name, listing, selection, progress);
        if fetched.is_err() {
            // What holds nothing does not stay.
            let _ = std::fs::remove_dir(&blobs).and_then(|()| std::fs::remove_dir(&repository));
        }
        fetched?;
        let snapshot = repository.join("snapshots").join(&listing.commit);
        for file in &selection.files {
            link(&snapshot, file, &blobs)?;
        }
        if selection.model.is_empty() && !snapshot::safetensors(&snapshot)? {
            let why = "the index names files that the listing does not have; tell the repository's owner".to_string();
            return Err(HubError::Choice { repository: name.repository.clone(), why });
        }
        write_reference(&repository, name.revision(), &listing.commit)?;
        Ok(if selection.model.is_empty() { snapshot } else { snapshot.join(&selection.model) })
    }

    /// All blobs of a selection.
    fn fetch(
        &self,
        name: &Name,
        listing: &Listing,
        selection: &Selection,
        progress: &dyn Progress,
    ) -> Result<(), HubError> {
        let blobs = self.cache.repository(name).join("blobs");
        let mut by_blob: BTreeMap<&str, &RemoteFile> = BTreeMap::new();
        let mut jobs = Vec::new();
        for file in &selection.files {
            if by_blob.insert(file.blob(), file).is_none() {
                let incomplete = blobs.join(format!("{}.incomplete", file.blob()));
                let blob = blobs.join(file.blob());
                jobs.push(BlobDownload { name, commit: &listing.commit, file, incomplete, blob, progress });
            }
        }
        self.check_room(&jobs)?;
        std::fs::create_dir_all(&blobs).map_err(|e| HubError::write(&blobs, e, selection.bytes))?;
        self.share(&jobs, &|| progress.cancelled(), |session, job| {
            if (session.stop)() {
                return Err(HubError::Cancelled);
            }
            self.pull_blob(job, session)
        })
    }

    fn check_room(&self, jobs: &[BlobDownload]) -> Result<(), HubError> {
        let missing = |job: &BlobDownload| {
            if is_there(job) { 0 } else { job.file.size - bytes_there(&job.incomplete, job.file.size) }
        };
        let needed = jobs.iter().map(missing).fold(0, u64::saturating_add);
        let path = self.cache.root();
        match free_bytes(path) {
            Some(free) if free < needed => Err(HubError::Room { needed, free, path: path.to_path_buf() }),
            _ => Ok(()),
        }
    }

    fn pull_blob(&self, job: &BlobDownload, session: &Session) -> Result<(), HubError> {
        let path = &job.file.path;
        // The Python tools lock single blobs.
        let waiting = || job.progress.note(&format!("{path}: waiting for another download of it to end"));
        let lock = self.cache.lock(job.name, &format!("{}.lock", job.file.blob()));
        let _lock = wait_for(&lock, session.stop, &waiting)?;
        if is_there(job) {
            job.progress.file(path, job.file.size, job.file.size);
            job.progress.finished(path);
            return Ok(());
        }
        job.run(session)
    }
}

/// Whether the blob is there. Its name is the hash of what it was when it was put there.
fn is_there(job: &BlobDownload) -> bool {
    std::fs::metadata(&job.blob).is_ok_and(|there| there.is_file() && there.len() == job.file.size)
}

/// Refuse what a caller may have made by hand: paths and hashes become paths on disk.
pub(crate) fn check(name: &Name, listing: &Listing, selection: &Selection) -> Result<(), HubError> {
    name.check()?;
    let refused = |why: String| HubError::Listing { repository: name.repository.clone(), why };
    if !is_hex(&listing.commit, 40) {
        return Err(refused("its commit is not 40 hexadecimal digits".to_string()));
    }
    for file in &selection.files {
        check_path(&file.path).map_err(refused)?;
        if !is_hex(file.blob(), if file.sha256.is_some() { 64 } else { 40 }) {
            return Err(refused(format!("the hash of {} is not hexadecimal digits", file.path)));
        }
    }
    if !selection.model.is_empty() {
        check_path(&selection.model).map_err(refused)?;
    }
    Ok(())
}

/// Wait for a lock; say so once.
fn wait_for(path: &Path, stop: Stop, waiting: &dyn Fn()) -> Result<Lock, HubError> {
    let mut said = false;
    loop {
        if stop() {
            return Err(HubError::Cancelled);
        }
        if let Some(lock) = Lock::try_take(path)? {
            return Ok(lock);
        }
        if !said {
            waiting();
            said = true;
        }
        std::thread::sleep(LOCK_PAUSE);
    }
}

/// Link a file of the snapshot to its blob, or copy it where the disk has no links.
fn link(snapshot: &Path, file: &RemoteFile, blobs: &Path) -> Result<(), HubError> {
    let at = snapshot.join(&file.path);
    let blob = blobs.join(file.blob());
    let parent = at.parent().unwrap_or(snapshot);
    std::fs::create_dir_all(parent).map_err(|e| HubError::write(parent, e, 0))?;
    if let (Ok(there), Ok(wanted)) = (std::fs::canonicalize(&at), std::fs::canonicalize(&blob))
        && there == wanted
    {
        return Ok(());
    }
    let depth = 2 + file.path.matches('/').count();
    let target = format!("{}blobs/{}", "../".repeat(depth), file.blob());
    // Made aside and renamed, so that a file is there whole or not at all. The link is relative to where it ends.
    let aside = blobs.with_file_name(format!("{}.link", file.blob()));
    let _ = std::fs::remove_file(&aside);
    let failed = |e| HubError::write(&at, e, file.size);
    if std::os::unix::fs::symlink(&target, &aside).is_err() {
        std::fs::copy(&blob, &aside).map_err(failed)?;
    }
    std::fs::rename(&aside, &at).map_err(failed)
}

/// Write `refs/<revision>`, whole or not at all. A commit needs none.
fn write_reference(repository: &Path, revision: &str, commit: &str) -> Result<(), HubError> {
    if revision == commit {
        return Ok(());
    }
    let at = repository.join("refs").join(revision);
    let failed = |e| HubError::write(&at, e, 40);
    if let Some(parent) = at.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let aside = repository.join("ref.incomplete");
    std::fs::write(&aside, commit).map_err(failed)?;
    std::fs::rename(&aside, &at).map_err(failed)
}
