//! Files that are there whole or not at all: written under a temporary name, synced, then renamed

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;

/// What a file holds, to be compared when it is read or published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Its bytes.
    pub bytes: u64,
    /// BLAKE3 in hexadecimal.
    pub blake3: String,
}

impl Digest {
    /// The digest of a file, read once.
    ///
    /// # Errors
    /// Where it is not there or cannot be read.
    pub fn of_file(path: &Path) -> Result<Digest, Error> {
        let mut hasher = blake3::Hasher::new();
        let file = File::open(path).map_err(Error::io(path))?;
        hasher.update_reader(file).map_err(Error::io(path))?;
        Ok(Digest::of(&hasher))
    }

    /// The digest of what was hashed.
    pub fn of(hasher: &blake3::Hasher) -> Digest {
        Digest { bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string() }
    }

    /// Compares what was found in a file with what was written.
    ///
    /// # Errors
    /// Another length or hash, by the file.
    pub fn check(&self, found: &Digest, path: &Path) -> Result<(), Error> {
        if self == found {
            return Ok(());
        }
        let problem = format!(
            "it was changed after it was written: {} bytes with BLAKE3 {}, where its marker says {} bytes with {}; the same command makes it again",
            found.bytes, found.blake3, self.bytes, self.blake3
        );
        Err(Error::file(path, problem))
    }
}

/// A file that is being written. Dropping it before [`Pending::finish`] removes what was written.
pub struct Pending {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
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
        let file = create_anew(&temporary)?;
        Ok(Pending {
            file: BufWriter::with_capacity(1 << 17, file),
            hasher: blake3::Hasher::new(),
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
    pub fn finish(mut self) -> Result<Digest, Error> {
        self.file.flush().map_err(Error::io(&self.path))?;
        self.file.get_ref().sync_all().map_err(Error::io(&self.path))?;
        std::fs::rename(&self.temporary, &self.path).map_err(Error::io(&self.path))?;
        self.finished = true;
        Ok(Digest::of(&self.hasher))
    }
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
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

/// Creates a file in the place of what an earlier process left under this name. A link is removed, not followed.
///
/// # Errors
/// Where the system refuses.
pub fn create_anew(path: &Path) -> Result<File, Error> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io(path)(e)),
        _ => {}
    }
    File::create_new(path).map_err(Error::io(path))
}

/// Writes a whole file.
///
/// # Errors
/// Where the system refuses.
pub fn write(path: &Path, bytes: &[u8]) -> Result<Digest, Error> {
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
        let digest = write(&path, b"whole").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!((digest.bytes, &*digest.blake3), (5, &*blake3::hash(b"whole").to_hex()));
        assert_eq!(Digest::of_file(&path).unwrap(), digest);
        std::fs::write(&path, b"whole!").unwrap();
        let error = digest.check(&Digest::of_file(&path).unwrap(), &path).unwrap_err().to_string();
        assert!(error.contains("b.bin: it was changed after it was written: 6 bytes"), "{error}");
    }

    #[test]
    fn a_link_under_the_temporary_name_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("b.bin"), directory.path().join("other"));
        std::fs::write(&other, b"other").unwrap();
        let temporary = directory.path().join(format!(".b.bin.{}.part", std::process::id()));
        std::os::unix::fs::symlink(&other, &temporary).unwrap();
        write(&path, b"whole").unwrap();
        assert_eq!(std::fs::read(&other).unwrap(), b"other");
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert!(!path.is_symlink());
    }
}
