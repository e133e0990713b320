//! The directory of a run as its machines share it: a file system that all see, where nothing is to do, or a store beside a directory of each machine
//!
//! With a store, each machine works in a directory of its own. What others need of a finished part is put into the store under the same names, its
//! marker last, and fetched where it is needed. Names follow from what files are made from, so that one that is there is never another.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::atomic::Pending;
use crate::progress::Progress;
use crate::publish::{MANIFEST, MANIFEST_BYTES_MAX, Manifest, is_made};
use crate::store::{Location, Store};
use crate::{Error, atomic, lock};

/// The longest pause between two looks at a store.
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// The pause from which a machine that works on something else is reported: before, it may be about to be started again.
const PAUSE_WARNED: Duration = Duration::from_secs(1);

/// Bytes in which a machine says what it works on.
const RUN_BYTES_MAX: u64 = 200;

/// A folder of a store.
#[derive(Clone, Debug)]
pub struct StoreFolder {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Keys begin with this: empty, or with a slash at its end.
    pub prefix: String,
    /// How it is named in messages.
    pub url: PathBuf,
}

/// The directory of a run.
#[derive(Debug)]
pub struct Shared {
    local: PathBuf,
    folder: Option<StoreFolder>,
    /// Whether others need what this machine makes.
    by_several: bool,
    /// Names of files that were seen in the store.
    there: Mutex<BTreeSet<String>>,
    /// What this machine works on, once it has announced it.
    announced: OnceLock<Worker>,
    /// The rank that was checked last, and those that were reported for working on something else.
    checked: Mutex<(usize, BTreeSet<usize>)>,
}

/// What a machine works on.
#[derive(Debug)]
struct Worker {
    rank: usize,
    world: usize,
    /// What its results follow from, and the number of machines.
    run: String,
}

impl Shared {
    /// A directory, and the folder of a store for what leaves this machine.
    pub fn new(local: &Path, folder: Option<StoreFolder>, machines: usize) -> Shared {
        Shared {
            local: local.to_path_buf(),
            folder,
            by_several: machines > 1,
            there: Mutex::default(),
            announced: OnceLock::new(),
            checked: Mutex::default(),
        }
    }

    /// The store, if machines exchange files by one.
    fn exchange(&self) -> Option<&StoreFolder> {
        self.folder.as_ref().filter(|_| self.by_several)
    }

    /// The name of a file or directory below the directory, with slashes.
    fn name(&self, path: &Path) -> String {
        let below = path.strip_prefix(&self.local).expect("files of a run are below its directory");
        below.to_string_lossy().into_owned()
    }

    fn seen(&self, name: &str) -> bool {
        self.there.lock().expect("no panic holds it").contains(name)
    }

    /// Puts finished files where others find them, in this order, unless they are there.
    ///
    /// # Errors
    /// What the store refuses.
    pub fn share(&self, paths: &[PathBuf]) -> Result<(), Error> {
        let Some(folder) = self.exchange() else { return Ok(()) };
        for path in paths {
            let name = self.name(path);
            if !self.seen(&name) {
                folder.put(&name, path)?;
                self.there.lock().expect("no panic holds it").insert(name);
            }
        }
        Ok(())
    }

    /// Announces to the other machines what this one works on, where no common lock does.
    ///
    /// # Errors
    /// What the store or the file system refuses.
    pub fn announce(&self, lock::Worker { identity, rank, world }: lock::Worker) -> Result<(), Error> {
        let Some(folder) = self.exchange() else { return Ok(()) };
        let run = format!("{identity} {world}");
        let file = self.local.join(run_file(rank));
        atomic::write(&file, run.as_bytes())?;
        folder.put(&run_file(rank), &file)?;
        self.announced.get_or_init(|| Worker { rank, world, run });
        Ok(())
    }

    /// Checks what the next of the other ranks works on: for one that makes another dataset, this one would wait for ever.
    fn check_next_rank(&self, progress: &Progress) -> Result<(), Error> {
        let (Some(folder), Some(own)) = (self.exchange(), self.announced.get()) else { return Ok(()) };
        let (rank, reported) = &mut *self.checked.lock().expect("no panic holds it");
        *rank = (*rank + 1) % own.world;
        if *rank == own.rank {
            *rank = (*rank + 1) % own.world;
        }
        let name = run_file(*rank);
        let Some((object, bytes)) = folder.look_up(&name)? else { return Ok(()) };
        let run = object.first(bytes.min(RUN_BYTES_MAX)).map_err(Error::io(folder.url(&name)))?;
        if run != own.run.as_bytes() && reported.insert(*rank) {
            progress.warn(format!(
                "rank {rank} was last started with another recipe, other sources or another --world; give all ranks the same, or they wait for ever"
            ));
        }
        Ok(())
    }

    /// Looks what others have put into a directory.
    ///
    /// # Errors
    /// What the store refuses.
    pub fn look(&self, directory: &Path) -> Result<(), Error> {
        let Some(folder) = self.exchange() else { return Ok(()) };
        let names = folder.list(&format!("{}/", self.name(directory)))?;
        self.there.lock().expect("no panic holds it").extend(names.into_keys());
        Ok(())
    }

    /// Whether a file is there, on this machine or when a directory was last looked at.
    pub fn has(&self, path: &Path) -> bool {
        path.exists() || (self.exchange().is_some() && self.seen(&self.name(path)))
    }

    /// Brings a file of others to this machine, unless it is there.
    ///
    /// # Errors
    /// What the store or the file system refuses.
    pub fn fetch(&self, path: &Path) -> Result<(), Error> {
        match self.exchange() {
            Some(folder) if !path.exists() => folder.fetch(&self.name(path), path),
            _ => Ok(()),
        }
    }

    /// Brings the files of a directory that were seen and whose names are wanted.
    ///
    /// # Errors
    /// As [`Shared::fetch`].
    pub fn fetch_all(&self, directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), Error> {
        if self.exchange().is_none() {
            return Ok(());
        }
        let below = format!("{}/", self.name(directory));
        let there = self.there.lock().expect("no panic holds it").clone();
        let mut names: Vec<&str> = there.iter().filter_map(|name| name.strip_prefix(&below)).collect();
        names.retain(|name| !name.contains('/') && wanted(name));
        // Descriptions say that the files beside them are there.
        names.sort_by_key(|name| name.ends_with(".json"));
        names.into_iter().try_for_each(|name| self.fetch(&directory.join(name)))
    }

    /// Waits until these files of a directory are there.
    ///
    /// # Errors
    /// [`Error::Stopped`], and what the store refuses.
    pub fn wait(&self, progress: &Progress, directory: &Path, files: &[PathBuf]) -> Result<(), Error> {
        self.wait_until(progress, directory, || files.iter().all(|file| self.has(file)))
    }

    /// Waits until something is so in a directory, and looks into a store less and less often.
    ///
    /// # Errors
    /// As [`Shared::wait`].
    pub fn wait_until(
        &self,
        progress: &Progress,
        directory: &Path,
        mut is_so: impl FnMut() -> bool,
    ) -> Result<(), Error> {
        let (mut pause, mut next) = (Duration::from_millis(500), Instant::now());
        progress.wait(|| {
            if is_so() {
                return Ok(true);
            }
            if Instant::now() < next {
                return Ok(false);
            }
            self.look(directory)?;
            if pause > PAUSE_WARNED {
                self.check_next_rank(progress)?;
            }
            next = Instant::now() + pause;
            pause = (pause * 3 / 2).min(PAUSE_MAX);
            Ok(is_so())
        })
    }

    /// The manifest of what is finished, on this machine or in the store.
    ///
    /// # Errors
    /// What the store refuses.
    pub fn manifest(&self) -> Result<Option<Manifest>, Error> {
        match &self.folder {
            None => Ok(crate::publish::manifest(&self.local)),
            Some(folder) => folder.manifest(),
        }
    }

    /// Compares the files of what is finished with the sizes of its manifest.
    ///
    /// # Errors
    /// As [`Manifest::check_sizes`].
    pub fn check_finished(&self, manifest: &Manifest) -> Result<(), Error> {
        let Some(folder) = &self.folder else {
            return manifest.check_sizes(&self.local, |path| {
                let metadata = std::fs::metadata(self.local.join(path)).ok();
                Ok(metadata.filter(std::fs::Metadata::is_file).map(|metadata| metadata.len()))
            });
        };
        let mut sizes = BTreeMap::new();
        let names: BTreeSet<&str> =
            manifest.files.iter().filter_map(|file| Some(file.path.split_once('/')?.0)).collect();
        for name in names {
            sizes.extend(folder.list(&format!("{name}/"))?);
        }
        manifest.check_sizes(&folder.url, |path| match path.contains('/') {
            true => Ok(sizes.get(path).copied()),
            false => Ok(folder.look_up(path)?.map(|(_, bytes)| bytes)),
        })
    }

    /// Brings the report of what is finished to this machine.
    ///
    /// # Errors
    /// As [`Shared::fetch`].
    pub fn fetch_report(&self) -> Result<(), Error> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let path = self.local.join("report.json");
        crate::publish::remove(&path)?;
        folder.fetch("report.json", &path)
    }

    /// Puts what was published into the store, the manifest last, and removes it here. What an earlier recipe left in its folders is deleted.
    ///
    /// # Errors
    /// What the store refuses.
    pub fn publish(&self, manifest: &Manifest, progress: &Progress) -> Result<(), Error> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let before = folder.manifest()?.map_or(Vec::new(), |manifest| manifest.files);
        let before: BTreeSet<&str> = before.iter().map(|file| file.path.as_str()).collect();
        folder.delete(MANIFEST)?;
        let total = manifest.files.iter().map(|file| file.bytes).sum();
        progress.part_of_phase("putting the dataset into the store", total);
        for file in &manifest.files {
            progress.check()?;
            folder.put(&file.path, &self.local.join(&file.path))?;
            progress.advance(file.bytes, 0);
        }
        let kept: BTreeSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
        let mut folders: BTreeSet<&str> = kept.iter().filter_map(|path| Some(path.split_once('/')?.0)).collect();
        folders.extend(["documents", "rejected", "tokenizer", "shards"]);
        for name in &folders {
            let there = folder.list(&format!("{name}/"))?;
            // Objects of others stay, as files of others do in a directory.
            let made = |path: &str| before.contains(path) || is_made(&path[name.len() + 1..]);
            for path in there.keys().filter(|path| !kept.contains(path.as_str()) && made(path)) {
                folder.delete(path)?;
            }
        }
        folder.put(MANIFEST, &self.local.join(MANIFEST))?;
        let files = manifest.files.iter().map(|file| file.path.as_str()).filter(|path| !path.contains('/'));
        files.chain([MANIFEST]).chain(folders).try_for_each(|name| crate::publish::remove(&self.local.join(name)))
    }

    /// Removes the work directory here, and if nobody needs it any more, in the store.
    ///
    /// # Errors
    /// What the store or the file system refuses.
    pub fn remove_work(&self, of_all: bool) -> Result<(), Error> {
        if self.folder.is_some() || of_all {
            crate::publish::remove(&self.local.join("work"))?;
        }
        if let Some(folder) = &self.folder {
            if of_all {
                folder.list("work/")?.keys().try_for_each(|name| folder.delete(name))?;
            }
            // It stays if it holds anything else.
            let _ = std::fs::remove_dir(&self.local);
        }
        Ok(())
    }
}

/// The name under which a machine says what it works on.
fn run_file(rank: usize) -> String {
    format!("work/rank-{rank}.run")
}

impl StoreFolder {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn url(&self, name: &str) -> PathBuf {
        self.url.join(name)
    }

    fn put(&self, name: &str, file: &Path) -> Result<(), Error> {
        self.store.put(&self.key(name), file).map_err(Error::io(self.url(name)))
    }

    fn delete(&self, name: &str) -> Result<(), Error> {
        self.store.delete(&self.key(name)).map_err(Error::io(self.url(name)))
    }

    /// Names of the files below a folder, with their sizes.
    fn list(&self, folder: &str) -> Result<BTreeMap<String, u64>, Error> {
        let mut names = BTreeMap::new();
        let listed = self.store.list(&self.key(folder), &mut |object| {
            let name = object.key.strip_prefix(&self.prefix).filter(|name| name.starts_with(folder));
            let name = name.ok_or_else(|| io::Error::other(format!("the store lists {:?} there", object.key)))?;
            names.insert(name.to_string(), object.bytes);
            Ok(())
        });
        listed.map_err(Error::io(self.url(folder)))?;
        Ok(names)
    }

    fn look_up(&self, name: &str) -> Result<Option<(Location, u64)>, Error> {
        let object = self.store.look_up(&self.key(name)).map_err(Error::io(self.url(name)))?;
        Ok(object.map(|object| {
            let bytes = object.bytes;
            (Location::object(self.url(name), self.store.clone(), object), bytes)
        }))
    }

    fn fetch(&self, name: &str, path: &Path) -> Result<(), Error> {
        let Some((object, _)) = self.look_up(name)? else {
            return Err(Error::file(
                self.url(name),
                "it is gone from the store; start all machines again, and what is missing is made again",
            ));
        };
        let mut file = Pending::create(path)?;
        let copied = object.open_at(0).and_then(|mut object| io::copy(&mut object, &mut file));
        copied.map_err(Error::io(self.url(name)))?;
        file.flush().map_err(Error::io(path))?;
        file.finish().map(drop)
    }

    fn manifest(&self) -> Result<Option<Manifest>, Error> {
        let Some((object, bytes)) = self.look_up(MANIFEST)? else { return Ok(None) };
        if bytes > MANIFEST_BYTES_MAX {
            return Err(Error::file(self.url(MANIFEST), format!("{bytes} bytes are no manifest; remove it")));
        }
        let json = object.first(bytes).map_err(Error::io(self.url(MANIFEST)))?;
        Ok(serde_json::from_slice(&json).ok())
    }
}
