//! Files that are there whole or not at all, and for nobody else to read.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{StoreError, at};

/// Bytes of a file of metadata at most.
const METADATA_BYTES_MAX: u64 = 1 << 20;

/// A directory that only this user reads, with those above it.
pub(crate) fn directory(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))
}

/// A new file that only this user reads, in place of an old one.
pub(crate) fn create(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(at(path))
}

/// Makes what happened to a directory's entries last.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(at(path))
}

/// Moves a file or directory, in place of a file that is there, for good.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    std::fs::rename(from, to).map_err(at(to))?;
    to.parent().map_or(Ok(()), sync_directory)
}

/// Writes metadata, whole or not at all.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    let fresh = path.with_extension("new");
    let bytes = serde_json::to_vec(value).map_err(|e| at(path)(e.into()))?;
    let mut file = create(&fresh)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(at(&fresh))?;
    rename(&fresh, path)
}

/// Reads metadata.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let damaged = |why: String| StoreError::Damaged { path: path.to_path_buf(), why };
    let file = File::open(path).map_err(at(path))?;
    let mut bytes = Vec::new();
    file.take(METADATA_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(at(path))?;
    if bytes.len() as u64 > METADATA_BYTES_MAX {
        return Err(damaged(format!("has more than {METADATA_BYTES_MAX} bytes")));
    }
    serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))
}

/// Removes a file if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(at(path)(e)),
        _ => Ok(()),
    }
}

/// Removes a directory with all that is in it, if it is there.
pub(crate) fn remove_all(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(at(path)(e)),
        _ => Ok(()),
    }
}
