//! Models that come and go while a server runs: fetched from the hub into the cache, and deleted from it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use hub::{Cache, HubError, Name, Progress, Settings};
use parking_lot::Mutex;
use serve::generation::model_library::{LibraryError, ModelLibrary, PullProgress};
use serve::generation::model_pool::ModelDescription;

use crate::candidate::{Candidate, ModelSource, Planner, seconds_now};
use crate::error::Error;
use crate::loading::{LoadOptions, PlannedModel};
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

/// A model that is here and would not load. Its files are told by their names in the repository.
fn unusable(cache: &Cache, name: &Name, error: Error) -> LibraryError {
    if matches!(error, Error::Isolation(_) | Error::NotIsolated | Error::System(_)) {
        return error.into();
    }
    let said = error.to_string().replace(&cache.repository(name).display().to_string(), &name.repository);
    LibraryError::Refused(format!("{name} is here, but it would not load: {said}"))
}

fn cache() -> Result<Cache, Error> {
    Ok(Cache::new(Settings::from_env()?.cache))
}

impl From<Error> for LibraryError {
    fn from(error: Error) -> LibraryError {
        let message = error.to_string();
        match error {
            Error::Hub(HubError::NotFound { .. } | HubError::Absent { .. }) => LibraryError::Unknown(message),
            Error::Hub(HubError::Name { .. } | HubError::Choice { .. })
            | Error::Argument(_)
            | Error::NoModel(_)
            | Error::NotFetched { .. }
            | Error::Checkpoint(_)
            | Error::Tokenizer(_) => LibraryError::Refused(message),
            Error::Hub(HubError::Gated { .. } | HubError::Offline { .. }) => LibraryError::Denied(message),
            Error::Hub(HubError::Busy { .. }) => LibraryError::Busy(message),
            Error::Hub(HubError::Room { needed, free, .. }) => LibraryError::Full(format!(
                "{needed} bytes are needed and {free} are free where the server keeps its models; make room there, or set its HF_HUB_CACHE to a larger disk"
            )),
            Error::Hub(
                HubError::Unreachable { .. }
                | HubError::Connection { .. }
                | HubError::Client { .. }
                | HubError::Status { .. }
                | HubError::Listing { .. }
                | HubError::Checksum { .. },
            ) => LibraryError::Hub(message),
            Error::Stopped { .. } => LibraryError::Stopped(message),
            _ => LibraryError::Failed { cause: message },
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
        let cache = cache()?;
        let name = hub_name(&cache, given)?;
        progress.note("pulling manifest");
        let sums = Sums { to: progress, files: Mutex::default() };
        let path = match cache.find(&name).map_err(Error::from)? {
            Some(path) => path,
            None => {
                let remote = Remote::look(&name, &sums)?;
                remote.admit(&self.planner.load)?;
                remote.pull(&sums)?
            }
        };
        // Clients go on with the name that they pulled.
        let aliases = Vec::from_iter(
            Some(given.strip_suffix(":latest").unwrap_or(given).to_string()).filter(|given| *given != name.to_string()),
        );
        let source = ModelSource { path: Some(path), name: name.to_string(), aliases };
        let looked = self.planner.candidate(&source, seconds_now()).and_then(|(candidate, _)| {
            // A model that other programs put here was not looked at yet.
            PlannedModel::open(&candidate.path, &candidate.load)?.texts()?;
            Ok(candidate)
        });
        let Candidate { path, load, description, .. } = match looked {
            Ok(candidate) => candidate,
            Err(_) if cache.find(&name).map_err(Error::from)?.is_none() => {
                return Err(LibraryError::Busy(format!("{name} was deleted while it was pulled; pull it again")));
            }
            Err(e) => return Err(unusable(&cache, &name, e)),
        };
        self.known.lock().insert(description.name.clone(), (path, load));
        Ok(description)
    }

    fn served_from(&self, name: &str) -> Result<Vec<String>, LibraryError> {
        let cache = cache()?;
        let known = self.known.lock();
        let served = known.get(name.strip_suffix(":latest").unwrap_or(name));
        if served.is_some_and(|(path, _)| !path.starts_with(cache.root())) {
            let message = format!(
                "{name} was not downloaded from a hub, and only such models are deleted; to serve it no more, start the server without it"
            );
            return Err(LibraryError::Refused(message));
        }
        let name = hub_name(&cache, name)?;
        let repository = cache.repository(&name);
        if !repository.is_dir() {
            return Err(LibraryError::Unknown(format!("{name} is not in the cache of pulled models")));
        }
        // Of one that is not whole nothing is served.
        let found = cache.find(&name).map_err(Error::from)?;
        // A name alone is the whole repository.
        let whole = (name.file.is_none() && name.revision.is_none()).then_some(repository);
        let doomed = |path: &PathBuf| {
            found.as_ref() == Some(path) || whole.as_ref().is_some_and(|whole| path.starts_with(whole))
        };
        Ok(known.iter().filter(|(_, (path, _))| doomed(path)).map(|(id, _)| id.clone()).collect())
    }

    fn delete(&self, name: &str) -> Result<(), LibraryError> {
        let cache = cache()?;
        let name = hub_name(&cache, name)?;
        cache.remove(&name).map_err(Error::from)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hubs_errors_are_told_apart() {
        let (repository, path) = (String::new(), PathBuf::from("/models"));
        let of = |error: HubError| LibraryError::from(Error::Hub(error));
        assert!(matches!(
            of(HubError::Gated { repository: repository.clone(), status: 401, step: String::new() }),
            LibraryError::Denied(_)
        ));
        assert!(matches!(of(HubError::Offline { what: String::new() }), LibraryError::Denied(_)));
        assert!(matches!(of(HubError::Busy { repository: repository.clone() }), LibraryError::Busy(_)));
        let full = of(HubError::Room { needed: 2, free: 1, path: path.clone() });
        assert!(matches!(full, LibraryError::Full(_)) && !full.to_string().contains("/models"), "{full}");
        assert!(matches!(of(HubError::Listing { repository, why: String::new() }), LibraryError::Hub(_)));
        assert!(matches!(of(HubError::Absent { name: String::new() }), LibraryError::Unknown(_)));
        let source = std::io::Error::other("broken");
        let failed = of(HubError::Disk { path, source });
        assert!(!failed.to_string().contains("/models"), "{failed}");
        assert!(matches!(failed, LibraryError::Failed { cause } if cause.contains("/models")));
        assert!(matches!(LibraryError::from(Error::Stopped { name: String::new() }), LibraryError::Stopped(_)));
    }
}
