//! Who works in a directory: one run, or the ranks of one run, each once
//!
//! Files of the work directory are locked as long as a process lives, however it ends. A run alone holds `lock` for itself; ranks share it, and each
//! holds `rank-N.lock`. What stands in the files says who holds them.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::Error;

/// Bytes of a lock file that are read.
const BYTES_MAX: u64 = 1000;

/// How often a lock is tried anew: its file was removed meanwhile, or another rank was about to share it.
const TRIES: usize = 40;

const PAUSE: Duration = Duration::from_millis(25);

/// What a file system without locks gives: No Locks Available.
const ENOLCK: i32 = 37;

/// Locks that are held until this is dropped.
#[derive(Debug)]
pub struct Lock {
    _held: Vec<File>,
}

/// A run that wants to work in a directory.
#[derive(Clone, Copy, Debug)]
pub struct Worker<'a> {
    /// What its results follow from.
    pub identity: &'a str,
    /// This machine.
    pub rank: usize,
    /// All machines.
    pub world: usize,
}

impl Lock {
    /// Locks a work directory, which is made if it is not there. On a file system without locks nobody is excluded.
    ///
    /// # Errors
    /// Another run that holds it, the same rank of this run, ranks of another recipe; where the system refuses.
    pub fn take(work: &Path, worker: Worker) -> Result<Lock, Error> {
        std::fs::create_dir_all(work).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                Error::file(work, format!("{error}; name a directory that can be written with --out"))
            }
            _ => Error::io(work)(error),
        })?;
        let Worker { identity, rank, world } = worker;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let process = format!("process {} on {}", std::process::id(), host.trim());
        let run = format!("{identity} {world}");
        let all = work.join("lock");
        if world == 1 {
            let held = exclusive(&all)?.ok_or_else(|| is_held(&all, &first_line(&all)))?;
            write(&held, &format!("{process}\n{run}\n")).map_err(Error::io(&all))?;
            return Ok(Lock { _held: vec![held] });
        }
        let own = work.join(format!("rank-{rank}.lock"));
        let held = exclusive(&own)?.ok_or_else(|| is_held(&own, &format!("rank {rank} too, {}", first_line(&own))))?;
        write(&held, &format!("{process}\n")).map_err(Error::io(&own))?;
        let shared = share(&all, &format!("rank {rank} of {world}, {process}\n{run}\n"))?;
        let shared = shared.ok_or_else(|| is_held(&all, &first_line(&all)))?;
        let found = read(&all);
        match found.lines().nth(1) {
            Some(other) if other != run => {
                let problem = format!(
                    "ranks of another recipe, of other sources or of another --world work in this directory ({}); give all ranks the same",
                    first_line(&all)
                );
                Err(Error::file(work, problem))
            }
            _ => Ok(Lock { _held: vec![held, shared] }),
        }
    }
}

fn is_held(path: &Path, by: &str) -> Error {
    let work = path.parent().unwrap_or(path);
    let problem = format!("another run works in this directory: {by}; wait until it ends, or name another directory");
    Error::file(work, problem)
}

/// The file itself, not what a link under its name leads to.
fn open(path: &Path) -> Result<File, Error> {
    match File::options().read(true).write(true).create_new(true).open(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made.map_err(Error::io(path)),
    }
    match path.symlink_metadata() {
        Ok(metadata) if !metadata.is_file() => Err(Error::file(path, "no plain file; remove it")),
        _ => File::options().read(true).write(true).open(path).map_err(Error::io(path)),
    }
}

/// Whether this open file is the one that the name means: the last run removes its locks with the work directory.
fn is_current(file: &File, path: &Path) -> bool {
    let at = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata().map(at).ok() == path.symlink_metadata().map(at).ok()
}

/// Whether a lock was got; one that the file system does not have is got.
fn got(tried: Result<(), TryLockError>, path: &Path) -> Result<bool, Error> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported || e.raw_os_error() == Some(ENOLCK) => {
            Ok(true)
        }
        Err(TryLockError::Error(e)) => Err(Error::io(path)(e)),
    }
}

/// A file that this process alone holds; none if another does.
fn exclusive(path: &Path) -> Result<Option<File>, Error> {
    for _ in 0..TRIES {
        let file = open(path)?;
        if !got(file.try_lock(), path)? {
            return Ok(None);
        }
        if is_current(&file, path) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// A file that several processes hold: the first writes into it what all must agree on.
fn share(path: &Path, text: &str) -> Result<Option<File>, Error> {
    for _ in 0..TRIES {
        let file = open(path)?;
        if got(file.try_lock(), path)? && is_current(&file, path) {
            write(&file, text).map_err(Error::io(path))?;
            // One lock becomes the other with a moment between them, in which another rank may have it and write the same.
            file.unlock().map_err(Error::io(path))?;
        }
        if got(file.try_lock_shared(), path)? && is_current(&file, path) {
            return Ok(Some(file));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(None)
}

fn write(mut file: &File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(text.as_bytes())?;
    file.flush()
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes));
    read.map_or(String::new(), |_| String::from_utf8_lossy(&bytes).into_owned())
}

/// Who wrote a lock file, without what a terminal would obey.
fn first_line(path: &Path) -> String {
    let text = read(path);
    let line: String = text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
    if line.is_empty() { "a process that has just started".into() } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(work: &Path, identity: &str, rank: usize, world: usize) -> Result<Lock, String> {
        Lock::take(work, Worker { identity, rank, world }).map_err(|e| e.to_string())
    }

    #[test]
    fn a_run_excludes_others_and_ranks_of_one_run_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        let alone = take(&work, "a", 0, 1).unwrap();
        let process = format!("process {}", std::process::id());
        for world in [1, 2] {
            let error = take(&work, "a", 0, world).unwrap_err();
            assert!(error.contains("another run works in this directory: ") && error.contains(&process), "{error}");
        }
        drop(alone);
        let first = take(&work, "a", 0, 3).unwrap();
        let second = take(&work, "a", 1, 3).unwrap();
        let error = take(&work, "a", 1, 3).unwrap_err();
        assert!(error.contains("rank 1 too, ") && error.contains(&process), "{error}");
        for (identity, world) in [("b", 3), ("a", 4)] {
            let error = take(&work, identity, 2, world).unwrap_err();
            assert!(error.contains("ranks of another recipe") && error.contains("of 3, process"), "{error}");
        }
        assert!(take(&work, "a", 0, 1).is_err());
        drop((first, second));
        take(&work, "b", 0, 1).unwrap();
    }

    #[test]
    fn a_lock_that_was_removed_with_its_directory_holds_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        let last = take(&work, "a", 0, 1).unwrap();
        std::fs::remove_dir_all(&work).unwrap();
        let next = take(&work, "b", 0, 1).unwrap();
        drop(last);
        assert!(take(&work, "b", 0, 1).is_err());
        drop(next);
    }

    #[test]
    fn a_link_in_the_place_of_a_lock_is_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let (work, other) = (folder.path().join("work"), folder.path().join("other"));
        std::fs::create_dir(&work).unwrap();
        std::fs::write(&other, "other").unwrap();
        std::os::unix::fs::symlink(&other, work.join("lock")).unwrap();
        assert!(take(&work, "a", 0, 1).unwrap_err().contains("lock: no plain file"));
        assert_eq!(std::fs::read(&other).unwrap(), b"other");
    }
}
