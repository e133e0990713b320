//! Files of an owner: uploaded piece by piece, read from any place.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{StoreError, at};
use crate::store::Store;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Lines for a batch.
    Batch,
    /// Results of a batch.
    BatchOutput,
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredFile {
    /// Its id, `file-` and 32 digits.
    pub id: String,
    /// Whose it is.
    pub owner: String,
    /// As the client named it; it is no path.
    pub name: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Its length.
    pub bytes: u64,
    /// Place in the order in which files and batches came.
    pub serial: u64,
    /// Seconds since 1970.
    pub created_at: u64,
    /// When it is deleted, in seconds since 1970.
    pub expires_at: Option<u64>,
}

/// A file on its way into the store. Dropped before `finish`, it leaves nothing.
#[derive(Debug)]
pub struct Upload {
    store: Arc<Store>,
    owner: String,
    directory: PathBuf,
    data: File,
    bytes: u64,
    finished: bool,
}

impl Upload {
    pub(crate) fn begin(store: Arc<Store>, owner: &str, id: &str) -> Result<Upload, StoreError> {
        let directory = store.temporary(id);
        disk::remove_all(&directory)?;
        disk::directory(&directory)?;
        let data = disk::create(&directory.join("data"))?;
        Ok(Upload { store, owner: owner.to_string(), directory, data, bytes: 0, finished: false })
    }

    /// Adds a piece.
    ///
    /// # Errors
    /// The file, the owner or the store would hold too much; the disk.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        let bytes_max = self.store.limits().file_bytes;
        if self.bytes + piece.len() as u64 > bytes_max {
            return Err(StoreError::TooLarge { bytes_max });
        }
        self.store.take_room(&self.owner, piece.len() as u64)?;
        self.bytes += piece.len() as u64;
        self.data.write_all(piece).map_err(at(&self.directory))
    }

    /// The file is whole: from now on it is there, also after a kill. `name` and the times are kept as they are given.
    ///
    /// # Errors
    /// The owner has too many files; the disk.
    pub fn finish(
        mut self,
        id: &str,
        name: &str,
        purpose: Purpose,
        (created_at, expires_at): (u64, Option<u64>),
    ) -> Result<StoredFile, StoreError> {
        let (id, owner, name) = (id.to_string(), self.owner.clone(), name.to_string());
        let (bytes, serial) = (self.bytes, self.store.next_serial());
        let file = StoredFile { id, owner, name, purpose, bytes, serial, created_at, expires_at };
        self.data.sync_all().map_err(at(&self.directory))?;
        disk::write_json(&self.directory.join("file.json"), &file)?;
        self.store.adopt(&self.directory, &file)?;
        self.finished = true;
        Ok(file)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.finished {
            self.store.give_back(&self.owner, self.bytes);
            // What cannot be removed now is removed at the next start.
            let _ = disk::remove_all(&self.directory);
        }
    }
}

/// Bytes of a file or of a batch's results, which stay readable when it is deleted meanwhile.
#[derive(Debug)]
pub struct Content {
    pub(crate) data: File,
    pub(crate) bytes: u64,
}

impl Content {
    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// At most `most` bytes from a place on; none at the end.
    ///
    /// # Errors
    /// The disk.
    pub fn read(&self, at: u64, most: usize) -> io::Result<Vec<u8>> {
        let most = most.min(usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(usize::MAX));
        let mut piece = vec![0; most];
        self.data.read_exact_at(&mut piece, at)?;
        Ok(piece)
    }
}
