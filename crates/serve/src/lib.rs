//! HTTP to engine and text: the APIs of OpenAI, DeepSeek and Anthropic over models. The only async of the server, and its only JSON.
//!
//! A request passes the gate (who asks, its record), is parsed once into a type that cannot be wrong (`validate` to `ask`), becomes tokens
//! (`prepare`), is queued (`running`), answered token by token (`answer`) and written in the shape its caller knows (`wire`). A connection
//! that goes away drops its tickets, which frees the engine.

pub mod accounts;
mod answer;
pub mod ask;
mod calling;
pub mod client;
mod complete;
mod connections;
pub mod framing;
mod gate;
pub mod hosts;
mod infill;
mod listen;
mod loaded;
pub mod metrics;
pub mod models;
mod pace;
mod prepare;
mod problem;
mod record;
mod room;
mod routes;
mod running;
mod streaming;
mod thinking;
mod tls;
mod tokens;
mod turns;
pub mod validate;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine::{Engine, Sampling};
use text::chat::Context;
use text::grammar::{GrammarError, Trial};
use text::{TextError, Tokenizer};

pub use gate::{Access, Origin};
pub use listen::listen;
pub use loaded::Loaded;
pub use record::{Filled, Record};
pub use tls::{Tls, TlsError};

use crate::metrics::Metrics;
use crate::models::{Description, Models, NoModel};

/// A chat template that renders, wherever it does so.
pub trait Render: Send + Sync {
    /// The prompt of these messages. Where rendering can be stopped it is, once `left` says that nobody waits for it.
    ///
    /// # Errors
    /// What the template refuses.
    fn render(
        &self,
        messages: &[serde_json::Value],
        context: &Context,
        left: &dyn Fn() -> bool,
    ) -> Result<String, TextError>;

    /// The template itself.
    fn source(&self) -> &str;
}

impl Render for text::chat::Template {
    fn render(
        &self,
        messages: &[serde_json::Value],
        context: &Context,
        _left: &dyn Fn() -> bool,
    ) -> Result<String, TextError> {
        text::chat::Template::render(self, messages, context)
    }

    fn source(&self) -> &str {
        text::chat::Template::source(self)
    }
}

/// Where constraints are compiled for the first time, with bounds on time and memory.
pub trait TryConstraint: Send + Sync {
    /// What compiling it says. It is stopped when it passes its bounds, and once `left` says that nobody waits for it.
    ///
    /// # Errors
    /// It could not be tried to the end.
    fn attempt(&self, trial: &Trial, left: &dyn Fn() -> bool) -> Result<Result<(), GrammarError>, NotTried>;
}

/// Why a constraint was not compiled to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotTried {
    /// In words.
    pub why: String,
    /// The constraint is to blame, not the machine.
    pub by_request: bool,
}

/// A model as it is served.
pub struct Served {
    /// Its id in the API.
    pub name: String,
    /// The engine and its queue.
    pub engine: Engine,
    /// Text to ids.
    pub tokenizer: Arc<Tokenizer>,
    /// Messages to a prompt.
    pub template: Box<dyn Render>,
    /// Spelling of the token that starts a text.
    pub bos: String,
    /// Spelling of the token that ends one.
    pub eos: String,
    /// How tokens are chosen where a request does not say.
    pub defaults: Sampling,
    /// Ids that end a text.
    pub stops: Vec<u32>,
    /// Where its constraints are tried before they are compiled here.
    pub trials: Arc<dyn TryConstraint>,
}

/// Bounds of the server.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Open connections; more wait to be accepted.
    pub connections: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Bytes of all bodies that are being read.
    pub bodies_bytes: usize,
    /// Time for the head of a request, for its body, and for a client to take what was written.
    pub patience: Duration,
    /// Longest wait of a request for its first step.
    pub wait: Duration,
    /// Longest time of a request in all, where there is one; what it has by then is its answer.
    pub time: Option<Duration>,
    /// Time that running requests have after the server was told to end.
    pub drain: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            connections: 512,
            body_bytes: 4 << 20,
            bodies_bytes: 64 << 20,
            patience: Duration::from_secs(30),
            wait: Duration::from_secs(600),
            time: None,
            drain: Duration::from_secs(600),
        }
    }
}

/// What the routes share.
pub struct State {
    /// What is served.
    pub models: Arc<Models<Loaded>>,
    /// Numbers for Prometheus.
    pub metrics: Arc<Metrics>,
    gate: gate::Gate,
    bounds: Bounds,
    bodies: Arc<room::Room>,
    /// Requests that are parsed and rendered at once: each may take many times its bytes.
    parsing: Arc<turns::Turns>,
    pace: Arc<pace::Pace>,
    /// The first model was loaded once.
    started: AtomicBool,
}

impl State {
    /// A server of these models, none of them loaded yet.
    pub fn new(bounds: Bounds, access: Access, models: Arc<Models<Loaded>>) -> Arc<State> {
        Arc::new(State {
            models,
            metrics: Arc::default(),
            gate: gate::Gate::new(access),
            bounds,
            bodies: room::Room::new(bounds.bodies_bytes),
            parsing: Arc::default(),
            pace: Arc::default(),
            started: AtomicBool::new(false),
        })
    }

    /// Load the first model: the server is ready then, and stays so when the model is put away.
    ///
    /// # Errors
    /// The model cannot be loaded.
    pub async fn start(&self) -> Result<(), NoModel> {
        self.models.get(None).await?;
        self.started.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether requests are answered: the first model was loaded, its engine and the others' run, and the server is not ending.
    pub fn ready(&self) -> bool {
        self.started.load(Ordering::Acquire) && !self.gate.ending() && self.fault().is_none()
    }

    /// A model whose engine has panicked, and what it said: the process has to be restarted.
    pub fn fault(&self) -> Option<(String, String)> {
        let stopped = |(name, model): (String, Arc<Loaded>)| model.engine.fault().map(|said| (name, said));
        self.models.loaded().into_iter().find_map(stopped)
    }

    /// The model of this name, the first without one; loaded where it must be.
    ///
    /// # Errors
    /// There is none, or it takes longer than the server's patience.
    pub async fn model(&self, name: Option<&str>) -> Result<Arc<Loaded>, NoModel> {
        match tokio::time::timeout(self.bounds.patience, self.models.get(name)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(NoModel::Loading),
        }
    }

    /// Put away models that nobody used for this long, until the server ends.
    pub async fn put_away_unused(self: Arc<Self>, unused: Duration) {
        loop {
            tokio::time::sleep((unused / 4).clamp(Duration::from_millis(100), Duration::from_secs(10))).await;
            for (name, model) in self.models.put_away(unused) {
                tracing::info!(target: "farthing", model = name, "put away: nobody used it");
                // The engine's thread is waited for.
                let _ = tokio::task::spawn_blocking(move || drop(model)).await;
            }
        }
    }

    /// Bring the metrics of engines up to date. A model that is not loaded does nothing, and its counters begin anew.
    fn observe(&self) {
        let loaded: HashMap<String, Arc<Loaded>> = self.models.loaded().into_iter().collect();
        for (Description { name, .. }, _) in self.models.list() {
            let statistics = loaded.get(&name).map(|model| model.engine.statistics()).unwrap_or_default();
            self.metrics.engine(&name, &statistics);
        }
    }
}

/// The description of the API, by OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("openapi.json");
