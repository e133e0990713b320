//! Models behind the APIs of OpenAI, DeepSeek and Anthropic.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use engine::{Disk, Engine, Sampling, Settings};
use model::cache::PAGE;
use model::checkpoint::Purpose;
use serve::generation::model_pool::{ModelDescription, ModelPool, ModelUnavailable};
use serve::http::deleted::DeletedOwners;
use serve::http::hosts::Hosts;
use serve::{Access, AppState, Batches, ModelParts, ServedModel, ServerLimits, Tls};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::bundled;
use crate::candidate::{Candidate, Planner, seconds_now};
pub use crate::candidate::{ModelSource, api_name};
use crate::error::Error;
use crate::isolation::{IsolatedTrials, is_isolated};
use crate::library::{Known, Library};
use crate::loading::{LoadOptions, PlannedModel, advised_sampling};
use crate::paths::xdg;
use crate::words::bytes;

/// Bytes on disk where the options do not say.
const DISK: u64 = 10 << 30;

/// How models are served.
pub struct ServerOptions {
    /// The first one answers where a request names none; it is loaded at once, the others when they are asked for.
    pub models: Vec<ModelSource>,
    /// How models are loaded; without a context, what memory allows, at most 16384 tokens.
    pub load: LoadOptions,
    /// Changes the sampling that a model's files advise, for requests that do not say.
    pub sampling: Arc<dyn Fn(Sampling) -> Sampling + Send + Sync>,
    /// Requests that run at once.
    pub parallel: usize,
    /// Requests that wait while others run.
    pub queue: usize,
    /// Directory of the prefix cache on disk; `None`: `farthing/units` in the user's cache directory.
    pub disk_cache_dir: Option<PathBuf>,
    /// Most bytes in it; 0: no cache on disk; `None`: 10 GiB, and at most a quarter of the free space.
    pub disk_cache_bytes: Option<u64>,
    /// The model answers whatever name a request gives, if it is the only one.
    pub any_name: bool,
    /// Memory for all models together; `None`: what is available at the start.
    pub memory: Option<u64>,
    /// Unload a model that nobody used for so long.
    pub idle_unload: Option<Duration>,
    /// Connections, sizes and timeouts.
    pub limits: ServerLimits,
    /// Keys, hosts, proxies, origins.
    pub access: Access,
    /// Files and batches; `None`: none are taken.
    pub batches: Option<Arc<Batches>>,
    /// Certificate.
    pub tls: Option<Arc<Tls>>,
}

impl ServerOptions {
    /// The defaults of `farthing serve` for these models: no keys, and only requests to names of this machine are answered.
    pub fn new(models: Vec<ModelSource>) -> ServerOptions {
        ServerOptions {
            models,
            load: LoadOptions::default(),
            sampling: Arc::new(|advised| advised),
            parallel: 32,
            queue: 64,
            disk_cache_dir: None,
            disk_cache_bytes: None,
            any_name: false,
            memory: None,
            idle_unload: None,
            limits: ServerLimits::default(),
            access: Access { hosts: Hosts::new(&[], true), page: true, ..Access::default() },
            batches: None,
            tls: None,
        }
    }

    /// Directory of the prefix cache on disk, in use or not.
    fn disk_dir(&self) -> Option<PathBuf> {
        self.disk_cache_dir.clone().or_else(|| xdg("XDG_CACHE_HOME", ".cache").map(|dir| dir.join("units")))
    }

    /// Where prefixes are kept on disk, and how many bytes of them.
    fn disk(&self) -> Option<(PathBuf, u64)> {
        let dir = self.disk_dir()?;
        let room = || hub::free_bytes(&dir).map_or(DISK, |free| DISK.min(free / 4));
        let bytes_max = self.disk_cache_bytes.unwrap_or_else(room);
        (bytes_max > 0).then_some((dir, bytes_max))
    }

    /// A directory that was named must be of use; what is wrong with it would else be found out by slow answers.
    fn check_disk(&self) -> Result<(), Error> {
        let Some(dir) = self.disk_cache_dir.as_ref().filter(|_| self.disk_cache_bytes != Some(0)) else {
            return Ok(());
        };
        let tried = std::fs::create_dir_all(dir).and_then(|()| tempfile::tempfile_in(dir));
        let failed = |source| Error::File {
            file: format!("--disk-cache-dir {}", dir.display()),
            source,
            step: "; give a directory that can be written, or --disk-cache off",
        };
        tried.map(drop).map_err(failed)
    }

    fn planner(&self) -> Planner {
        Planner { load: self.load.clone(), memory: self.memory, models: self.models.len().max(1) as u64 }
    }
}

/// Planned models that can be served.
pub struct Server {
    options: ServerOptions,
    candidates: Vec<Candidate>,
    memory: Option<u64>,
}

impl Server {
    /// Reads the models' headers and plans them; no weight is read.
    ///
    /// # Errors
    /// A checkpoint that cannot be read, options that do not suit it, two models of one name.
    pub fn plan(options: ServerOptions) -> Result<Server, Error> {
        options.check_disk()?;
        let (planner, created) = (options.planner(), seconds_now());
        let (mut candidates, mut available): (Vec<Candidate>, _) = (Vec::new(), None);
        for source in &options.models {
            let mut ids = std::iter::once(&source.name).chain(&source.aliases);
            let taken = |id: &&String| candidates.iter().find(|c| c.has(id));
            if let Some((id, same)) = ids.find_map(|id| Some((id, taken(&id)?))) {
                let path = source.path.as_deref().unwrap_or(Path::new(bundled::NAME));
                return Err(Error::Argument(format!(
                    "{} and {} would both be {id:?} in the API; give each a --name",
                    same.path.display(),
                    path.display()
                )));
            }
            let (candidate, there) = planner.candidate(source, created)?;
            available = available.or(there);
            candidates.push(candidate);
        }
        let memory = options.memory.or(available);
        Ok(Server { options, candidates, memory })
    }

    /// What follows from the options, in lines.
    pub fn describe(&self) -> Vec<String> {
        let all = &self.candidates;
        let mut lines: Vec<String> = all.iter().map(|c| format!("plan: {}: {}", c.description.name, c.plan)).collect();
        let together = all.iter().fold(0u64, |sum, c| sum.saturating_add(c.description.bytes));
        lines.push(format!(
            "memory: {} for models{}",
            self.memory.map_or_else(|| "an unknown amount".to_string(), bytes),
            if all.len() > 1 { format!(", {} if all are loaded", bytes(together)) } else { String::new() }
        ));
        let contexts: Vec<String> = all.iter().map(|c| c.description.context.to_string()).collect();
        let pages: Vec<String> = all.iter().map(|c| (c.cached / PAGE).to_string()).collect();
        lines.push(format!(
            "limits: {} threads, a context of {} tokens, {} pages of {PAGE} tokens, {} requests at once, {} waiting, {} connections",
            all.first().map_or(0, |c| c.threads),
            contexts.join(" and "),
            pages.join(" + "),
            self.options.parallel,
            self.options.queue,
            self.options.limits.connections
        ));
        lines.push(match self.options.disk() {
            Some((dir, most)) => format!("cache on disk: at most {} in {}", bytes(most), dir.display()),
            None if self.options.disk_cache_bytes == Some(0) => "cache on disk: off".to_string(),
            None => "cache on disk: off, there is no room for it where it would be".to_string(),
        });
        lines
    }

    /// Ids of the models in the API.
    pub fn names(&self) -> Vec<String> {
        self.candidates.iter().map(|c| c.description.name.clone()).collect()
    }

    /// Serves until `end` is there, then finishes what runs. `ready` is called when the first model is loaded.
    ///
    /// # Errors
    /// No `isolate`; a first model that cannot be loaded; an engine that panicked; requests that were not done in time.
    pub async fn run(
        self,
        listener: TcpListener,
        end: impl Future<Output = ()> + Send + 'static,
        ready: impl FnOnce(),
    ) -> Result<(), Error> {
        if !is_isolated() {
            return Err(Error::NotIsolated);
        }
        let (faults, mut fault): (_, UnboundedReceiver<String>) = unbounded_channel();
        let library = Arc::new(Library::new(self.options.planner(), &self.candidates));
        let loader = Box::new(self.loader(faults, library.known()));
        let disk_dir = self.options.disk_dir();
        let descriptions = self.candidates.into_iter().map(|c| c.description).collect();
        let ServerOptions { limits, access, batches, tls, idle_unload, any_name, .. } = self.options;
        let models = ModelPool::new(descriptions, self.memory, any_name, loader);
        let state = AppState::new(limits, access, models, Some(library), batches);
        let end = async move {
            tokio::select! {
                () = end => None,
                // A service manager starts it again; here nothing can be computed any more.
                said = fault.recv() => said,
            }
        };
        let server = tokio::spawn(serve::listen(listener, tls, Arc::clone(&state), end));
        state.start().await.map_err(|e| match e {
            ModelUnavailable::Failed { cause, .. } => Error::Serve(cause),
            other => Error::Serve(other.to_string()),
        })?;
        let idle = idle_unload.map(|unused| tokio::spawn(Arc::clone(&state).unload_idle(unused)));
        let forgets = tokio::spawn(Arc::clone(&state).forget_deleted(move |deleted| {
            if let Some(dir) = &disk_dir {
                forget_blocks(dir, deleted);
            }
        }));
        let batches = tokio::spawn(serve::generation::batch_runner::run(Arc::clone(&state)));
        ready();
        let (finished, fault) = server.await.map_err(|e| Error::Serve(e.to_string()))?;
        for task in idle.into_iter().chain([batches, forgets]) {
            // It holds the models: what waits to be written to disk is written when they go.
            task.abort();
            let _ = task.await;
        }
        match (fault, finished) {
            (Some(said), _) => Err(Error::Serve(said)),
            (None, false) => Err(Error::Serve("some requests were not done in time and were left".to_string())),
            (None, true) => Ok(()),
        }
    }

    /// Loads a candidate, on the thread of whoever asked for it. `faults` hears of an engine that panics.
    fn loader(
        &self,
        faults: UnboundedSender<String>,
        known: Known,
    ) -> impl Fn(&ModelDescription) -> Result<ServedModel, String> + use<> {
        let (sampling, disk) = (Arc::clone(&self.options.sampling), self.options.disk());
        let (running, waiting) = (self.options.parallel, self.options.queue);
        let trials: Arc<dyn serve::TryConstraint> = Arc::new(IsolatedTrials::new());
        move |wanted| {
            let name = &wanted.name;
            let (path, options) = known.lock().get(name).cloned().ok_or("no such model")?;
            let loaded = PlannedModel::open(&path, &options).and_then(PlannedModel::fitting);
            let m = loaded.and_then(PlannedModel::load).map_err(|e| e.to_string())?;
            let (vocab, width) = (m.runner.model().structure.vocab, m.runner.model().structure.hidden);
            let defaults = sampling(advised_sampling(&m.generation));
            defaults.validate(vocab).map_err(|e| e.to_string())?;
            tracing::info!(target: "farthing", model = name, "loaded");
            let warn = |line: &str| tracing::warn!(target: "farthing", "{line}");
            // Texts that are embedded or scored are rarely read again.
            let disk = disk.clone().filter(|_| m.purpose == Purpose::Generate);
            let disk = disk.map(|(dir, bytes_max)| Disk { dir, bytes_max, warn: Box::new(warn) });
            let (model, faults) = (name.clone(), faults.clone());
            let fault = move |said: &str| {
                tracing::error!(target: "farthing", model, "the engine has stopped after a fault inside, which please report: {said}");
                let _ = faults.send(format!("the engine of {model} has stopped after a fault inside: {said}"));
            };
            let settings = Settings { running, waiting, disk, fault: Some(Box::new(fault)), ..Settings::default() };
            let engine = Engine::start(m.runner, settings);
            #[cfg(debug_assertions)]
            planted::panic(&engine);
            Ok(ServedModel::new(ModelParts {
                name: name.clone(),
                engine,
                purpose: m.purpose,
                width,
                tokenizer: Arc::new(m.tokenizer),
                template: m.template,
                tool_template: m.tool_template,
                bos: m.bos,
                eos: m.eos,
                defaults,
                stops: m.stops,
                trials: Arc::clone(&trials),
            }))
        }
    }
}

/// Removes the blocks of deleted accounts from the cache on disk.
fn forget_blocks(dir: &Path, deleted: &DeletedOwners) {
    match engine::store::remove_owned(dir, |owner| deleted.contains(owner)) {
        Ok(0) => {}
        Ok(blocks) => {
            tracing::info!(target: "farthing", blocks, "blocks of deleted accounts were removed from the cache on disk");
        }
        Err(error) => {
            let dir = dir.display();
            tracing::warn!(target: "farthing", %error, "blocks of deleted accounts are still in {dir}");
        }
    }
}

/// For the tests, in builds with assertions only: an engine that panics, to see what a server does then.
#[cfg(debug_assertions)]
mod planted {
    use std::ops::ControlFlow;
    use std::time::Duration;

    use engine::{Engine, Event, EventSink, Request};

    struct Planted;

    impl EventSink for Planted {
        fn take(&mut self, event: Event) -> ControlFlow<()> {
            // Some time is left to those that run beside it.
            if matches!(event, Event::Token { .. }) {
                std::thread::sleep(Duration::from_millis(20));
            }
            ControlFlow::Continue(())
        }
    }

    impl Drop for Planted {
        fn drop(&mut self) {
            panic!("planted");
        }
    }

    /// Ends the engine's thread after so many tokens of a request of its own as the variable says.
    pub fn panic(engine: &Engine) {
        let wanted = std::env::var("FARTHING_PLANTED_PANIC").ok().and_then(|n| n.parse().ok());
        let Some(tokens_max) = wanted else { return };
        let request = Request { prompt: vec![2], tokens_max, ..Request::default() };
        // Its handle would cancel it.
        std::mem::forget(engine.submit(request, Planted));
    }
}
