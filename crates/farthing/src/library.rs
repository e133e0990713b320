//! Models that come and go while a server runs: fetched from the hub into the cache, and deleted from it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use hub::{Cache, HubError, Progress, Settings};
use parking_lot::Mutex;
use serve::generation::model_library::{LibraryError, ModelLibrary, PullProgress};
use serve::generation::model_pool::ModelDescription;

use crate::candidate::{Candidate, ModelSource, Planner, seconds_now};
use crate::error::Error;
use crate::loading::LoadOptions;
use crate::names::{Remote, hub_name};

/// The files of each model of a server by its id, and how it is loaded.
pub(crate) type Known = Arc<Mutex<HashMap<String, (PathBuf, LoadOptions)>>>;

/// The models of a server, and the cache of the hub.
pub(crate) struct Library {
    planner: Planner,
    known: Known,
}

impl Library {
    pub(crate) fn new(planner: Planner, candidates: &[Candidate]) -> Library {
        let one = |c: &Candidate| (c.description.name.clone(), (c.path.clone(), c.load.clone()));
        Library { planner, known: Arc::new(Mutex::new(candidates.iter().map(one).collect())) }
    }

    pub(crate) fn known(&self) -> Known {
        Arc::clone(&self.known)
    }
}

impl From<Error> for LibraryError {
    fn from(error: Error) -> LibraryError {
        let message = error.to_string();
        match error {
            Error::Hub(HubError::NotFound { .. }) => LibraryError::Unknown(message),
            Error::Hub(HubError::Name { .. } | HubError::Choice { .. })
            | Error::Argument(_)
            | Error::NoModel(_)
            | Error::NotFetched { .. } => LibraryError::Refused(message),
            _ => LibraryError::Failed(message),
        }
    }
}

/// Adds up what the hub tells of each file.
struct Sums<'a> {
    to: &'a dyn PullProgress,
    files: Mutex<HashMap<String, (u64, u64)>>,
}

impl Progress for Sums<'_> {
    fn file(&self, path: &str, size: u64, there: u64) {
        self.files.lock().insert(path.to_string(), (there, size));
        self.to.file(path, there, size);
    }

    fn advance(&self, path: &str, bytes: u64) {
        let (here, size) = {
            let mut files = self.files.lock();
            let (here, size) = files.entry(path.to_string()).or_default();
            *here += bytes;
            (*here, *size)
        };
        self.to.file(path, here, size);
    }

    fn note(&self, text: &str) {
        self.to.note(text);
    }

    fn finished(&self, _path: &str) {}

    fn cancelled(&self) -> bool {
        self.to.cancelled()
    }
}

impl ModelLibrary for Library {
    fn pull(&self, given: &str, progress: &dyn PullProgress) -> Result<ModelDescription, LibraryError> {
        let name = hub_name(given)?;
        let cache = Cache::new(Settings::from_env().map_err(Error::from)?.cache);
        let path = match cache.find(&name).map_err(Error::from)? {
            Some(path) => path,
            None => {
                let remote = Remote::look(&name)?;
                remote.admit(&self.planner.load)?;
                remote.pull(&Sums { to: progress, files: Mutex::default() })?
            }
        };
        // Clients go on with the name that they pulled.
        let aliases = Vec::from_iter(
            Some(given.strip_suffix(":latest").unwrap_or(given).to_string()).filter(|given| *given != name.to_string()),
        );
        let source = ModelSource { path: Some(path), name: name.to_string(), aliases };
        let (candidate, _) = self.planner.candidate(&source, seconds_now())?;
        let Candidate { path, load, description, .. } = candidate;
        self.known.lock().insert(description.name.clone(), (path, load));
        Ok(description)
    }

    fn served_from(&self, name: &str) -> Result<Vec<String>, LibraryError> {
        let name = hub_name(name)?;
        let cache = Cache::new(Settings::from_env().map_err(Error::from)?.cache);
        let Some(found) = cache.find(&name).map_err(Error::from)? else {
            return Err(LibraryError::Unknown(format!("{name} is not in the cache of pulled models")));
        };
        // A name alone is the whole repository.
        let whole = (name.file.is_none() && name.revision.is_none()).then(|| cache.repository(&name));
        let doomed = |path: &PathBuf| *path == found || whole.as_ref().is_some_and(|whole| path.starts_with(whole));
        let known = self.known.lock();
        Ok(known.iter().filter(|(_, (path, _))| doomed(path)).map(|(id, _)| id.clone()).collect())
    }

    fn delete(&self, name: &str) -> Result<(), LibraryError> {
        let name = hub_name(name)?;
        let cache = Cache::new(Settings::from_env().map_err(Error::from)?.cache);
        cache.remove(&name).map_err(Error::from)?;
        Ok(())
    }
}
