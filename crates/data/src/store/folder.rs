//! A directory as an object store: keys are paths below it

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use walkdir::WalkDir;

use super::{Object, Store, check_key};
use crate::atomic::{self, Pending};

/// A directory that stands for a bucket.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The store of a directory, which is made when something is put into it.
    pub fn new(root: impl Into<PathBuf>) -> Folder {
        Folder { root: root.into() }
    }

    fn path(&self, key: &str) -> io::Result<PathBuf> {
        check_key(key).map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))?;
        Ok(self.root.join(key))
    }
}

fn object(key: &str, metadata: &std::fs::Metadata) -> io::Result<Object> {
    Ok(Object { key: key.to_string(), bytes: metadata.len(), version: format!("{:?}", metadata.modified()?) })
}

/// Nothing, for what is not there.
fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

impl Store for Folder {
    fn list(&self, folder: &str, found: &mut dyn FnMut(Object) -> io::Result<()>) -> io::Result<()> {
        let top = self.path(folder)?;
        if if_there(std::fs::metadata(&top))?.is_none() {
            return Ok(());
        }
        for entry in WalkDir::new(&top) {
            // What is being renamed or removed while this looks is not there.
            let metadata = match entry.as_ref().map(walkdir::DirEntry::metadata) {
                Ok(Ok(metadata)) if metadata.is_file() => metadata,
                _ => continue,
            };
            let entry = entry?;
            let below = entry.path().strip_prefix(&self.root).expect("walks below the root");
            let Some(key) = below.to_str() else { continue };
            if !atomic::is_pending(entry.file_name()) {
                found(object(key, &metadata)?)?;
            }
        }
        Ok(())
    }

    fn look_up(&self, key: &str) -> io::Result<Option<Object>> {
        let metadata = if_there(std::fs::metadata(self.path(key)?))?.filter(std::fs::Metadata::is_file);
        metadata.map(|metadata| object(key, &metadata)).transpose()
    }

    fn read(&self, wanted: &Object, range: Range<u64>) -> io::Result<Bytes> {
        let file = File::open(self.path(&wanted.key)?)?;
        if object(&wanted.key, &file.metadata()?)? != *wanted {
            return Err(io::Error::other("it was changed while it was read; the same command reads it anew"));
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes.into())
    }

    fn put(&self, key: &str, file: &Path) -> io::Result<()> {
        let mut from = File::open(file)?;
        let mut to = Pending::create(&self.path(key)?).map_err(io::Error::other)?;
        let mut buffer = vec![0; 1 << 17];
        loop {
            match from.read(&mut buffer)? {
                0 => return to.finish().map(drop).map_err(io::Error::other),
                read => to.write_all(&buffer[..read])?,
            }
        }
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        if_there(std::fs::remove_file(self.path(key)?)).map(drop)
    }
}
