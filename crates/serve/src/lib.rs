//! HTTP to engine and text: the APIs of OpenAI, DeepSeek and Anthropic over one model. The only async of the server, and its only JSON.
//!
//! A request is parsed once into a type that cannot be wrong (`validate` to `ask`), becomes tokens (`prepare`), is queued (`running`),
//! answered token by token (`answer`) and written in the shape its caller knows (`wire`). A connection that goes away drops its tickets,
//! which frees the engine.

mod answer;
pub mod ask;
mod calling;
mod complete;
mod infill;
mod listen;
mod loaded;
mod pace;
mod prepare;
mod problem;
mod routes;
mod running;
mod streaming;
mod tokens;
pub mod validate;
mod wire;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::StatusCode;
use engine::Sampling;
use engine::service::Service;
use text::chat::Context;
use text::{TextError, Tokenizer};

pub use listen::listen;
use loaded::Loaded;
use problem::Problem;

/// A chat template that renders, wherever it does so.
pub trait Render: Send + Sync {
    /// The prompt of these messages.
    ///
    /// # Errors
    /// What the template refuses.
    fn render(&self, messages: &[serde_json::Value], context: &Context) -> Result<String, TextError>;

    /// The template itself.
    fn source(&self) -> &str;
}

impl Render for text::chat::Template {
    fn render(&self, messages: &[serde_json::Value], context: &Context) -> Result<String, TextError> {
        text::chat::Template::render(self, messages, context)
    }

    fn source(&self) -> &str {
        text::chat::Template::source(self)
    }
}

/// A model as it is served.
pub struct Served {
    /// Its id in the API.
    pub name: String,
    /// Seconds since 1970 at which it was loaded.
    pub created: u64,
    /// The engine and its queue.
    pub service: Service,
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
    model: OnceLock<Arc<Loaded>>,
    bounds: Bounds,
    bodies: tokio::sync::Semaphore,
    /// Requests that are parsed and rendered at once: each may take many times its bytes.
    parsing: tokio::sync::Semaphore,
    pace: pace::Pace,
    log: Box<dyn Fn(&str) + Send + Sync>,
}

impl State {
    /// A server without its model yet; `log` gets one line for each request.
    pub fn new(bounds: Bounds, log: impl Fn(&str) + Send + Sync + 'static) -> Arc<State> {
        let bodies = tokio::sync::Semaphore::new(bounds.bodies_bytes >> 10);
        let (model, log) = (OnceLock::new(), Box::new(log));
        let (parsing, pace) = (tokio::sync::Semaphore::new(2), pace::Pace::default());
        Arc::new(State { model, bounds, bodies, parsing, pace, log })
    }

    /// The model is loaded: the server is ready.
    pub fn ready(&self, model: Served) {
        let _ = self.model.set(Arc::new(Loaded::new(model)));
    }

    /// The model, once it is there.
    fn model(&self) -> Option<&Arc<Loaded>> {
        self.model.get()
    }

    /// The model, or a 503 until it is there.
    fn loaded(&self) -> Result<Arc<Loaded>, Problem> {
        let loading =
            || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "loading", "the model is being loaded; try again");
        self.model().cloned().ok_or_else(loading)
    }

    /// The model that a request names; the one there is where it names none.
    fn named(&self, name: Option<&str>) -> Result<Arc<Loaded>, Problem> {
        let served = self.loaded()?;
        let Some(name) = name.filter(|name| *name != served.name) else { return Ok(served) };
        let name: String = name.chars().take(200).collect();
        let message = format!("model is {name:?}; this server has {:?}", served.name);
        let problem = Problem::new(StatusCode::NOT_FOUND, "model_not_found", message);
        Err(Problem { param: Some("model".to_string()), ..problem })
    }
}

/// The description of the API, by OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("openapi.json");
