//! Files that are there whole or not at all: written under a temporary name, synced, then renamed

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::Error;

/// A file that is being written. Dropping it before [`Pending::finish`] removes what was written.
pub struct Pending {
    file: BufWriter<File>,
    temporary: PathBuf,
    path: PathBuf,
    finished: bool,
}

impl Pending {
    /// Begins a file; its directory is made if it is not there.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn create(path: &Path) -> Result<Pending, Error> {
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory).map_err(Error::io(directory))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = directory.join(format!(".{name}.{}.part", std::process::id()));
        let file = File::create(&temporary).map_err(Error::io(&temporary))?;
        Ok(Pending {
            file: BufWriter::with_capacity(1 << 17, file),
            temporary,
            path: path.to_path_buf(),
            finished: false,
        })
    }

    /// Where the file will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// Where the system refuses, such as on a full disk.
    pub fn finish(mut self) -> Result<(), Error> {
        self.file.flush().map_err(Error::io(&self.path))?;
        self.file.get_ref().sync_all().map_err(Error::io(&self.path))?;
        std::fs::rename(&self.temporary, &self.path).map_err(Error::io(&self.path))?;
        self.finished = true;
        Ok(())
    }
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Whether this is the temporary name of a file that is being written, or was when a process was killed.
pub fn is_pending(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") && name.as_encoded_bytes().ends_with(b".part")
}

/// Writes a whole file.
///
/// # Errors
/// Where the system refuses.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut file = Pending::create(path)?;
    file.write_all(bytes).map_err(Error::io(path))?;
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b.bin");
        let mut file = Pending::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(file);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
        write(&path, b"whole").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    }
}
