//! The directory: which files and batches there are, and whose.
//!
//! ```text
//! lock                            held while a server runs
//! files/ID/file.json, data        a file
//! batches/ID/batch.json           a batch
//! batches/ID/input, journal       its lines and their results, until it ends
//! batches/ID/results              its results in Anthropic's form, when it has ended
//! new/ID/...                      what is on its way there, or out: empty after a start
//! ```
//!
//! Entries come and go by the renaming of their directory, and what is known of a batch is replaced by renaming its file, so a kill leaves the old or the new.

mod removal;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::batch::{Batch, Form, Input};
use crate::disk;
use crate::error::{StoreError, at};
use crate::file::{Content, Purpose, StoredFile, Upload};
use crate::is_id;
use crate::journal::{self, Journal, Written};
use crate::lines::{Line, Lines};

/// Bounds of a store.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of an uploaded file.
    pub file_bytes: u64,
    /// Bytes of all files and batches of an owner; results of a batch under way may exceed it.
    pub owner_bytes: u64,
    /// Bytes of all. Uploads of an owner take at most half of what the others leave.
    pub bytes: u64,
    /// Bytes of the disk that uploads and new batches leave free, and percent of it: the smaller of both.
    pub disk_free: (u64, u64),
    /// Files of an owner.
    pub owner_files: usize,
    /// Batches of an owner that have not ended.
    pub owner_batches: usize,
    /// Batches of an owner that have ended: the oldest goes when another comes.
    pub owner_ended: usize,
    /// Files, and batches, of all.
    pub entries: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            file_bytes: 200 << 20,
            owner_bytes: 4 << 30,
            bytes: 32 << 30,
            disk_free: (1 << 30, 5),
            owner_files: 1000,
            owner_batches: 100,
            owner_ended: 1000,
            entries: 20_000,
        }
    }
}

/// What is there, in memory.
#[derive(Debug, Default)]
struct Shelf {
    files: HashMap<String, StoredFile>,
    batches: HashMap<String, Batch>,
    /// Bytes on disk of each batch's input, journal and results.
    batch_bytes: HashMap<String, u64>,
    /// Bytes of files, uploads and batches, by owner.
    used: HashMap<String, u64>,
    all: u64,
    /// That of the newest file or batch.
    serial: u64,
}

impl Shelf {
    fn add(&mut self, owner: &str, bytes: u64) {
        *self.used.entry(owner.to_string()).or_default() += bytes;
        self.all += bytes;
    }

    fn subtract(&mut self, owner: &str, bytes: u64) {
        if let Some(used) = self.used.get_mut(owner) {
            *used = used.saturating_sub(bytes);
            if *used == 0 {
                self.used.remove(owner);
            }
        }
        self.all = self.all.saturating_sub(bytes);
    }

    /// A batch takes so many bytes now.
    fn weigh(&mut self, id: &str, owner: &str, bytes: u64) {
        let before = self.batch_bytes.insert(id.to_string(), bytes).unwrap_or(0);
        self.subtract(owner, before);
        self.add(owner, bytes);
    }
}

/// Files and batches on disk.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    limits: Limits,
    shelf: Mutex<Shelf>,
    /// Held while entries change on disk.
    writing: Mutex<()>,
    _lock: File,
}

impl Store {
    /// Opens a directory, makes it where there is none, and removes what a kill left half done. An entry that is not as it was written is left alone, and the
    /// log says so.
    ///
    /// # Errors
    /// The disk, or another process that has the directory.
    pub fn open(root: &Path, limits: Limits) -> Result<Arc<Store>, StoreError> {
        disk::directory(root)?;
        let path = root.join("lock");
        let lock = disk::create(&path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked(root.to_path_buf())),
            Err(TryLockError::Error(e)) => return Err(at(&path)(e)),
        }
        disk::remove_all(&root.join("new"))?;
        ["files", "batches", "new"].into_iter().try_for_each(|name| disk::directory(&root.join(name)))?;
        let (shelf, writing) = (Mutex::default(), Mutex::default());
        let store = Store { root: root.to_path_buf(), limits, shelf, writing, _lock: lock };
        store.load()?;
        Ok(Arc::new(store))
    }

    /// Bounds.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn temporary(&self, id: &str) -> PathBuf {
        self.root.join("new").join(id)
    }

    fn file_directory(&self, id: &str) -> PathBuf {
        self.root.join("files").join(id)
    }

    fn batch_directory(&self, id: &str) -> PathBuf {
        self.root.join("batches").join(id)
    }

    /// Reads what is there.
    fn load(&self) -> Result<(), StoreError> {
        let mut shelf = self.shelf.lock();
        for id in self.ids("files")? {
            let directory = self.file_directory(&id);
            let found = disk::read_json::<StoredFile>(&directory.join("file.json")).and_then(|file| {
                let bytes = std::fs::metadata(directory.join("data")).map_err(at(&directory))?.len();
                let sound = file.id == id && file.bytes == bytes;
                let damaged =
                    || StoreError::Damaged { path: directory, why: "its data is not what file.json says".into() };
                sound.then_some(file).ok_or_else(damaged)
            });
            match found {
                Ok(file) => {
                    shelf.add(&file.owner, file.bytes);
                    shelf.serial = shelf.serial.max(file.serial);
                    shelf.files.insert(id, file);
                }
                Err(error) => tracing::warn!(target: "farthing", %error, "a file of batches is left alone"),
            }
        }
        for id in self.ids("batches")? {
            let directory = self.batch_directory(&id);
            let found = disk::read_json::<Batch>(&directory.join("batch.json")).and_then(|batch| {
                let sound = batch.id == id && is_id(&batch.output_file) && is_id(&batch.error_file);
                let damaged =
                    || StoreError::Damaged { path: directory.clone(), why: "batch.json has other ids".into() };
                sound.then_some(batch).ok_or_else(damaged)
            });
            match found {
                Ok(batch) => {
                    if batch.status.ended() {
                        self.forget_lines(&id)?;
                    }
                    let size = |name: &str| std::fs::metadata(directory.join(name)).map_or(0, |found| found.len());
                    let bytes = ["input", "journal", "results"].map(size).iter().sum();
                    shelf.weigh(&id, &batch.owner, bytes);
                    shelf.serial = shelf.serial.max(batch.serial);
                    shelf.batches.insert(id, batch);
                }
                Err(error) => tracing::warn!(target: "farthing", %error, "a batch is left alone"),
            }
        }
        Ok(())
    }

    /// Names in a directory that can be ids, as many as there may be.
    fn ids(&self, name: &str) -> Result<Vec<String>, StoreError> {
        let path = self.root.join(name);
        let entries = std::fs::read_dir(&path).map_err(at(&path))?.take(2 * self.limits.entries);
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter(|name| is_id(name)).collect())
    }

    pub(crate) fn next_serial(&self) -> u64 {
        let mut shelf = self.shelf.lock();
        shelf.serial = shelf.serial.saturating_add(1);
        shelf.serial
    }

    /// Counts bytes of an owner's upload, if there is room for them.
    pub(crate) fn take_room(&self, owner: &str, bytes: u64) -> Result<(), StoreError> {
        self.check_disk(bytes)?;
        let mut shelf = self.shelf.lock();
        self.room(&shelf, owner, bytes)?;
        let used = shelf.used.get(owner).copied().unwrap_or(0);
        let most = self.limits.bytes.saturating_sub(shelf.all - used) / 2;
        if used + bytes > most {
            return Err(StoreError::NoRoom { whose: "your files and batches", used, most });
        }
        shelf.add(owner, bytes);
        Ok(())
    }

    /// Whether the disk has so many bytes beside those that are to stay free. Results of batches may use these too.
    fn check_disk(&self, bytes: u64) -> Result<(), StoreError> {
        let disk = rustix::fs::statvfs(&self.root).map_err(|e| at(&self.root)(e.into()))?;
        let (least, percent) = self.limits.disk_free;
        let least = least.min(disk.f_blocks.saturating_mul(disk.f_frsize) / 100 * percent);
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < least.saturating_add(bytes) {
            return Err(StoreError::DiskFull { free, least });
        }
        Ok(())
    }

    fn room(&self, shelf: &Shelf, owner: &str, bytes: u64) -> Result<(), StoreError> {
        let used = shelf.used.get(owner).copied().unwrap_or(0);
        if used + bytes > self.limits.owner_bytes {
            return Err(StoreError::NoRoom { whose: "your files and batches", used, most: self.limits.owner_bytes });
        }
        if shelf.all + bytes > self.limits.bytes {
            return Err(StoreError::NoRoom {
                whose: "all files and batches",
                used: shelf.all,
                most: self.limits.bytes,
            });
        }
        Ok(())
    }

    pub(crate) fn give_back(&self, owner: &str, bytes: u64) {
        self.shelf.lock().subtract(owner, bytes);
    }

    /// Whether more may be written for an owner.
    ///
    /// # Errors
    /// There is no room.
    pub fn check_room(&self, owner: &str) -> Result<(), StoreError> {
        self.room(&self.shelf.lock(), owner, 1)
    }

    /// Begins an upload, which will have this id.
    ///
    /// # Errors
    /// Too many files; the disk.
    pub fn upload(self: &Arc<Store>, owner: &str, id: &str) -> Result<Upload, StoreError> {
        self.check_files(owner)?;
        self.check_room(owner)?;
        self.check_disk(1)?;
        Upload::begin(Arc::clone(self), owner, checked(id)?)
    }

    fn check_files(&self, owner: &str) -> Result<(), StoreError> {
        let shelf = self.shelf.lock();
        let step = "delete some";
        let count = shelf.files.values().filter(|file| file.owner == owner).count();
        if count >= self.limits.owner_files {
            return Err(StoreError::Many { what: "files of yours", count, step });
        }
        match shelf.files.len() {
            count if count >= self.limits.entries => Err(StoreError::Many { what: "files", count, step }),
            _ => Ok(()),
        }
    }

    /// Moves an upload to its place. Its bytes are counted already.
    pub(crate) fn adopt(&self, directory: &Path, file: &StoredFile) -> Result<(), StoreError> {
        let _writing = self.writing.lock();
        self.check_files(&file.owner)?;
        disk::sync_directory(directory)?;
        disk::rename(directory, &self.file_directory(&file.id))?;
        self.shelf.lock().files.insert(file.id.clone(), file.clone());
        Ok(())
    }

    /// Files of an owner, newest first.
    pub fn files(&self, owner: &str) -> Vec<StoredFile> {
        let shelf = self.shelf.lock();
        let mut files: Vec<StoredFile> = shelf.files.values().filter(|file| file.owner == owner).cloned().collect();
        files.sort_by_key(|file| Reverse(file.serial));
        files
    }

    /// What is known of a file of an owner.
    ///
    /// # Errors
    /// There is none.
    pub fn file(&self, owner: &str, id: &str) -> Result<StoredFile, StoreError> {
        let found = self.shelf.lock().files.get(id).filter(|file| file.owner == owner).cloned();
        found.ok_or_else(|| unknown("file", id))
    }

    /// Bytes of a file of an owner.
    ///
    /// # Errors
    /// There is none; the disk.
    pub fn content(&self, owner: &str, id: &str) -> Result<Content, StoreError> {
        let file = self.file(owner, id)?;
        let path = self.file_directory(&file.id).join("data");
        Ok(Content { data: File::open(&path).map_err(at(&path))?, bytes: file.bytes })
    }

    /// Keeps a new batch.
    ///
    /// # Errors
    /// No such file, one with another purpose, too many batches, no room; the disk.
    pub fn create(&self, mut batch: Batch, input: Input<'_>) -> Result<Batch, StoreError> {
        let _writing = self.writing.lock();
        [&batch.id, &batch.output_file, &batch.error_file].into_iter().try_for_each(|id| checked(id).map(drop))?;
        self.check_batches(&batch.owner)?;
        self.check_disk(1)?;
        let directory = self.temporary(&batch.id);
        disk::remove_all(&directory)?;
        disk::directory(&directory)?;
        let path = directory.join("input");
        let bytes = match input {
            Input::File => {
                let file = self.file(&batch.owner, &batch.input_file)?;
                if file.purpose != Purpose::Batch {
                    return Err(unknown("file for batches", &batch.input_file));
                }
                self.room(&self.shelf.lock(), &batch.owner, file.bytes)?;
                let data = self.file_directory(&file.id).join("data");
                // The same bytes on disk, which stay when the file is deleted.
                if std::fs::hard_link(&data, &path).is_err() {
                    std::fs::copy(&data, &path).map_err(at(&path))?;
                }
                file.bytes
            }
            Input::Lines(lines) => {
                self.room(&self.shelf.lock(), &batch.owner, lines.len() as u64)?;
                let mut file = disk::create(&path)?;
                file.write_all(lines).and_then(|()| file.sync_all()).map_err(at(&path))?;
                lines.len() as u64
            }
        };
        batch.serial = self.next_serial();
        disk::write_json(&directory.join("batch.json"), &batch)?;
        disk::rename(&directory, &self.batch_directory(&batch.id))?;
        let mut shelf = self.shelf.lock();
        shelf.weigh(&batch.id, &batch.owner, bytes);
        shelf.batches.insert(batch.id.clone(), batch.clone());
        drop(shelf);
        self.remove_oldest(&batch.owner)?;
        Ok(batch)
    }

    fn check_batches(&self, owner: &str) -> Result<(), StoreError> {
        let shelf = self.shelf.lock();
        let count = shelf.batches.values().filter(|batch| batch.owner == owner && !batch.status.ended()).count();
        if count >= self.limits.owner_batches {
            let (what, step) = ("batches of yours that have not ended", "wait for one of them, or cancel it");
            return Err(StoreError::Many { what, count, step });
        }
        match shelf.batches.len() {
            count if count >= self.limits.entries => {
                Err(StoreError::Many { what: "batches", count, step: "they go 30 days after their end" })
            }
            _ => Ok(()),
        }
    }

    /// Ids of an owner's batches that came by an API, newest first.
    pub fn batch_ids(&self, owner: &str, form: Form) -> Vec<String> {
        let shelf = self.shelf.lock();
        let of = |batch: &&Batch| batch.owner == owner && batch.form == form;
        let mut batches: Vec<&Batch> = shelf.batches.values().filter(of).collect();
        batches.sort_by_key(|batch| Reverse(batch.serial));
        batches.into_iter().map(|batch| batch.id.clone()).collect()
    }

    /// Ids of batches that have not ended, the oldest first.
    pub fn unfinished(&self) -> Vec<String> {
        let shelf = self.shelf.lock();
        let mut all: Vec<&Batch> = shelf.batches.values().filter(|batch| !batch.status.ended()).collect();
        all.sort_by_key(|batch| batch.serial);
        all.into_iter().map(|batch| batch.id.clone()).collect()
    }

    /// A batch of an owner that came by an API.
    ///
    /// # Errors
    /// There is none.
    pub fn batch(&self, owner: &str, form: Form, id: &str) -> Result<Batch, StoreError> {
        let found = self.get(id).ok().filter(|batch| batch.owner == owner && batch.form == form);
        found.ok_or_else(|| unknown("batch", id))
    }

    /// A batch, whosever it is.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, id: &str) -> Result<Batch, StoreError> {
        self.shelf.lock().batches.get(id).cloned().ok_or_else(|| unknown("batch", id))
    }

    /// Changes what is known of a batch, for good when it returns. One that has ended stays as it is.
    ///
    /// # Errors
    /// There is none; the disk.
    pub fn change(&self, id: &str, change: impl FnOnce(&mut Batch)) -> Result<Batch, StoreError> {
        let _writing = self.writing.lock();
        let mut batch = self.get(id)?;
        if !batch.status.ended() {
            change(&mut batch);
            disk::write_json(&self.batch_directory(id).join("batch.json"), &batch)?;
            self.shelf.lock().batches.insert(id.to_string(), batch.clone());
        }
        Ok(batch)
    }

    /// Counts results of a batch, in memory alone: the journal has them too.
    pub fn count(&self, id: &str, journal: &Journal, completed: usize, failed: usize) {
        let mut shelf = self.shelf.lock();
        let Some(batch) = shelf.batches.get_mut(id) else { return };
        (batch.counts.completed, batch.counts.failed) = (completed, failed);
        let owner = batch.owner.clone();
        let input = std::fs::metadata(self.batch_directory(id).join("input")).map_or(0, |found| found.len());
        shelf.weigh(id, &owner, input + journal.bytes());
    }

    /// Lines of a batch that has not ended.
    ///
    /// # Errors
    /// The disk.
    pub fn lines(&self, id: &str) -> Result<Lines, StoreError> {
        let path = self.batch_directory(checked(id)?).join("input");
        Ok(Lines::new(File::open(&path).map_err(at(&path))?))
    }

    /// The journal of a batch that has not ended, and what is in it. What a kill tore is cut.
    ///
    /// # Errors
    /// The disk, or a journal that is not as it was written.
    pub fn journal(&self, id: &str) -> Result<(Journal, Vec<Written>), StoreError> {
        Journal::open(&self.batch_directory(checked(id)?).join("journal"))
    }

    /// Ends a batch: its results are put together, `rest` says what became of the lines that have none, and `end` what is known of it from now on. A kill in
    /// between leaves it to be ended again.
    ///
    /// # Errors
    /// The disk, or a journal that is not as it was written.
    pub fn finish(
        &self,
        id: &str,
        now: u64,
        mut rest: impl FnMut(&Line) -> String,
        end: impl FnOnce(&mut Batch),
    ) -> Result<Batch, StoreError> {
        let batch = self.get(id)?;
        let (answers, errors) = (self.temporary(&batch.output_file), self.temporary(&batch.error_file));
        let mut results = Results::begin(&answers, &errors, batch.form)?;
        // A batch that failed when its lines were looked at has no results, and these no ids.
        if batch.in_progress_at.is_some() {
            let path = self.batch_directory(id).join("journal");
            let done = match path.exists() {
                true => journal::read(&path, |(written, text)| results.write(written.ok, text))?.0,
                false => Vec::new(),
            };
            let done: HashSet<usize> = done.into_iter().map(|written| written.line).collect();
            let mut lines = self.lines(id)?;
            while let Some(line) = lines.next_line().map_err(at(&path))? {
                if !done.contains(&line.index) {
                    results.write(false, rest(&line).as_bytes())?;
                }
            }
        }
        let bytes = results.end()?;
        let writing = self.writing.lock();
        match batch.form {
            Form::Anthropic => {
                disk::rename(&answers.join("data"), &self.batch_directory(id).join("results"))?;
                disk::remove_all(&answers)?;
            }
            Form::OpenAi => {
                self.keep_results(&batch, &answers, &batch.output_file, "output", bytes[0], now)?;
                self.keep_results(&batch, &errors, &batch.error_file, "error", bytes[1], now)?;
            }
        }
        drop(writing);
        let batch = self.change(id, end)?;
        self.forget_lines(id)?;
        let kept = if batch.form == Form::Anthropic { bytes[0] } else { 0 };
        self.shelf.lock().weigh(id, &batch.owner, kept);
        Ok(batch)
    }

    /// Makes results a file of the owner's, unless there are none; one of an earlier try is replaced.
    fn keep_results(
        &self,
        batch: &Batch,
        directory: &Path,
        id: &str,
        what: &str,
        bytes: u64,
        now: u64,
    ) -> Result<(), StoreError> {
        disk::remove_all(&self.file_directory(id))?;
        let mut shelf = self.shelf.lock();
        if let Some(before) = shelf.files.remove(id) {
            shelf.subtract(&before.owner, before.bytes);
        }
        drop(shelf);
        if bytes == 0 {
            return disk::remove_all(directory);
        }
        let file = StoredFile {
            id: id.to_string(),
            owner: batch.owner.clone(),
            name: format!("{}_{what}.jsonl", batch.id),
            purpose: Purpose::BatchOutput,
            bytes,
            serial: self.next_serial(),
            created_at: now,
            expires_at: Some(now.saturating_add(batch.output_seconds)),
        };
        disk::write_json(&directory.join("file.json"), &file)?;
        disk::rename(directory, &self.file_directory(id))?;
        let mut shelf = self.shelf.lock();
        shelf.add(&file.owner, bytes);
        shelf.files.insert(id.to_string(), file);
        Ok(())
    }

    /// Removes what only a batch under way needs.
    fn forget_lines(&self, id: &str) -> Result<(), StoreError> {
        ["input", "journal"].into_iter().try_for_each(|name| disk::remove(&self.batch_directory(id).join(name)))
    }

    /// Results of a batch of Anthropic's form that has ended.
    ///
    /// # Errors
    /// There is none, or it has not ended; the disk.
    pub fn results(&self, owner: &str, id: &str) -> Result<Content, StoreError> {
        let batch = self.batch(owner, Form::Anthropic, id)?;
        if !batch.status.ended() {
            return Err(StoreError::State { id: batch.id, why: "has not ended; its results come when it has" });
        }
        let path = self.batch_directory(&batch.id).join("results");
        let data = File::open(&path).map_err(at(&path))?;
        let bytes = data.metadata().map_err(at(&path))?.len();
        Ok(Content { data, bytes })
    }
}

fn unknown(what: &'static str, id: &str) -> StoreError {
    StoreError::Unknown { what, id: id.chars().take(100).collect() }
}

fn checked(id: &str) -> Result<&str, StoreError> {
    is_id(id).then_some(id).ok_or_else(|| unknown("entry", id))
}

/// The results of a batch while they are put together.
struct Results {
    /// Answers, and errors where they are apart.
    parts: [Option<(PathBuf, BufWriter<File>, u64)>; 2],
}

impl Results {
    fn begin(answers: &Path, errors: &Path, form: Form) -> Result<Results, StoreError> {
        let open = |directory: &Path| {
            disk::remove_all(directory)?;
            disk::directory(directory)?;
            let path = directory.join("data");
            let file = disk::create(&path)?;
            Ok::<_, StoreError>(Some((path, BufWriter::new(file), 0)))
        };
        let errors = if form == Form::OpenAi { open(errors)? } else { None };
        Ok(Results { parts: [open(answers)?, errors] })
    }

    fn write(&mut self, ok: bool, text: &[u8]) -> Result<(), StoreError> {
        let [answers, errors] = &mut self.parts;
        let part = if ok || errors.is_none() { answers } else { errors };
        let Some((path, file, bytes)) = part else { return Ok(()) };
        file.write_all(text).and_then(|()| file.write_all(b"\n")).map_err(at(path))?;
        *bytes += text.len() as u64 + 1;
        Ok(())
    }

    /// Bytes of both, when they are on disk.
    fn end(self) -> Result<[u64; 2], StoreError> {
        let mut all = [0; 2];
        for (part, total) in self.parts.into_iter().zip(&mut all) {
            let Some((path, file, bytes)) = part else { continue };
            let file = file.into_inner().map_err(|e| at(&path)(e.into_error()))?;
            file.sync_all().map_err(at(&path))?;
            *total = bytes;
        }
        Ok(all)
    }
}
