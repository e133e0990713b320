//! Directories that are there whole, or what was there before: written under a temporary name, synced, then renamed.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::error::Error;

/// Write a directory by `fill`, which is given its temporary name. What is there already under its name is replaced in one step where the file
/// system can exchange two names.
///
/// # Errors
/// What `fill` gives, and where the system refuses: what was there stays.
pub(crate) fn write(path: &Path, fill: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent.join(format!(".{name}.{}.part", std::process::id()));
    let written = fs::create_dir_all(&temporary).map_err(Error::io(&temporary));
    let written = written.and_then(|()| fill(&temporary)).and_then(|()| {
        sync(&temporary)?;
        if path.exists() {
            exchange(&temporary, path)?;
        } else {
            fs::rename(&temporary, path).map_err(Error::io(path))?;
        }
        sync(parent)
    });
    // After an exchange it has what was there before.
    let removed = if temporary.exists() { fs::remove_dir_all(&temporary) } else { Ok(()) };
    written.and_then(|()| removed.map_err(Error::io(&temporary)))
}

/// Give each of two directories the name of the other.
fn exchange(temporary: &Path, path: &Path) -> Result<(), Error> {
    if renameat_with(CWD, temporary, CWD, path, RenameFlags::EXCHANGE).is_ok() {
        return Ok(());
    }
    let aside = temporary.with_extension("old.part");
    fs::rename(path, &aside).map_err(Error::io(path))?;
    if let Err(error) = fs::rename(temporary, path) {
        let _ = fs::rename(&aside, path);
        return Err(Error::io(path)(error));
    }
    fs::rename(&aside, temporary).map_err(Error::io(temporary))
}

fn sync(directory: &Path) -> Result<(), Error> {
    File::open(directory).and_then(|d| d.sync_all()).map_err(Error::io(directory))
}

/// Remove what killed processes left unfinished in a directory, which may not be there.
///
/// # Errors
/// Where the system refuses.
pub(crate) fn clear(directory: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io(directory))?,
    };
    for entry in entries {
        let path = entry.map_err(Error::io(directory))?.path();
        if path.is_dir() && !path.is_symlink() && path.file_name().is_some_and(data::atomic::is_pending) {
            fs::remove_dir_all(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &'static str) -> impl FnOnce(&Path) -> Result<(), Error> {
        move |directory| fs::write(directory.join("a"), text).map_err(Error::io(directory))
    }

    #[test]
    fn a_directory_is_replaced_whole_or_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let read = || fs::read_to_string(path.join("a")).unwrap();
        write(&path, file("one")).unwrap();
        assert_eq!(read(), "one");
        fs::write(path.join("b"), "of the first").unwrap();
        let error = write(&path, |directory| {
            fs::write(directory.join("a"), "two").unwrap();
            Err(Error::file(directory, "full"))
        });
        assert!(error.is_err() && read() == "one" && path.join("b").exists());
        write(&path, file("two")).unwrap();
        assert!(read() == "two" && !path.join("b").exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_was_left_unfinished_goes() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".step-00000001.7.part", ".model.8.part", "step-00000001", ".mine"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        clear(folder.path()).unwrap();
        clear(&folder.path().join("nowhere")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
