//! What is removed from a store: by its owner, with its owner, when its time is over, or because there is too much.

use std::cmp::Reverse;
use std::path::Path;

use super::Store;
use crate::batch::{Batch, Form};
use crate::disk;
use crate::error::StoreError;
use crate::file::StoredFile;

/// Seconds for which a batch is kept when it has ended.
const KEPT_SECONDS: u64 = 30 * 86_400;

impl Store {
    /// Deletes a file of an owner. A batch under way keeps its lines.
    ///
    /// # Errors
    /// There is none; the disk.
    pub fn delete_file(&self, owner: &str, id: &str) -> Result<(), StoreError> {
        let _writing = self.writing.lock();
        let file = self.file(owner, id)?;
        self.remove_file(&file)
    }

    fn remove_file(&self, file: &StoredFile) -> Result<(), StoreError> {
        self.discard(&self.file_directory(&file.id), &file.id)?;
        let mut shelf = self.shelf.lock();
        shelf.files.remove(&file.id);
        shelf.subtract(&file.owner, file.bytes);
        Ok(())
    }

    /// Takes a directory away at once, then what is in it.
    fn discard(&self, directory: &Path, id: &str) -> Result<(), StoreError> {
        let away = self.temporary(id);
        disk::remove_all(&away)?;
        disk::rename(directory, &away)?;
        disk::remove_all(&away)
    }

    /// Deletes the oldest of an owner's batches that have ended, as far as they are more than there may be. Files of their results stay.
    pub(super) fn remove_oldest(&self, owner: &str) -> Result<(), StoreError> {
        let shelf = self.shelf.lock();
        let mut ended: Vec<&Batch> =
            shelf.batches.values().filter(|batch| batch.owner == owner && batch.status.ended()).collect();
        ended.sort_by_key(|batch| Reverse((batch.ended_at, batch.serial)));
        let gone: Vec<Batch> = ended.into_iter().skip(self.limits.owner_ended).cloned().collect();
        drop(shelf);
        gone.iter().try_for_each(|batch| self.remove_batch(batch))
    }

    /// Deletes a batch of Anthropic's form that has ended.
    ///
    /// # Errors
    /// There is none, or it has not ended; the disk.
    pub fn delete_batch(&self, owner: &str, id: &str) -> Result<(), StoreError> {
        let _writing = self.writing.lock();
        let batch = self.batch(owner, Form::Anthropic, id)?;
        if !batch.status.ended() {
            return Err(StoreError::State { id: batch.id, why: "has not ended; cancel it first" });
        }
        self.remove_batch(&batch)
    }

    fn remove_batch(&self, batch: &Batch) -> Result<(), StoreError> {
        self.discard(&self.batch_directory(&batch.id), &batch.id)?;
        let mut shelf = self.shelf.lock();
        shelf.weigh(&batch.id, &batch.owner, 0);
        shelf.batch_bytes.remove(&batch.id);
        shelf.batches.remove(&batch.id);
        Ok(())
    }

    /// Deletes files whose time is over, and batches that ended thirty days ago. How many.
    ///
    /// # Errors
    /// The disk.
    pub fn sweep(&self, now: u64) -> Result<usize, StoreError> {
        let _writing = self.writing.lock();
        let shelf = self.shelf.lock();
        let over = |time: Option<u64>| time.is_some_and(|time| time <= now);
        let files: Vec<StoredFile> = shelf.files.values().filter(|file| over(file.expires_at)).cloned().collect();
        let old = |batch: &&Batch| over(batch.ended_at.map(|time| time.saturating_add(KEPT_SECONDS)));
        let batches: Vec<Batch> = shelf.batches.values().filter(old).cloned().collect();
        drop(shelf);
        self.remove(&files, &batches)
    }

    /// Deletes files of some owners, and those of their batches that have ended. How many.
    ///
    /// # Errors
    /// The disk.
    pub fn remove_owned(&self, gone: impl Fn(&str) -> bool) -> Result<usize, StoreError> {
        let _writing = self.writing.lock();
        let shelf = self.shelf.lock();
        let files: Vec<StoredFile> = shelf.files.values().filter(|file| gone(&file.owner)).cloned().collect();
        let batches: Vec<Batch> = shelf.batches.values().filter(|batch| gone(&batch.owner)).cloned().collect();
        drop(shelf);
        self.remove(&files, &batches)
    }

    fn remove(&self, files: &[StoredFile], batches: &[Batch]) -> Result<usize, StoreError> {
        files.iter().try_for_each(|file| self.remove_file(file))?;
        let ended = batches.iter().filter(|batch| batch.status.ended());
        ended.clone().try_for_each(|batch| self.remove_batch(batch))?;
        Ok(files.len() + ended.count())
    }
}
