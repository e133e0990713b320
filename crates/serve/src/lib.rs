//! HTTP to engine and text: OpenAI's chat and text completions over one model. The only async of the server, and its only JSON.
//!
//! A request is parsed once into a type that cannot be wrong (`validate`), queued, answered token by token (`answer`) and written in
//! the shape its caller knows (`wire`). A connection that goes away drops its ticket, which frees the engine.

mod answer;
mod listen;
mod routes;
pub mod validate;
mod wire;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use engine::Sampling;
use engine::service::Service;
use text::chat::Context;
use text::{TextError, Tokenizer};

pub use listen::listen;

/// A chat template that renders, wherever it does so.
pub trait Render: Send + Sync {
    /// The prompt of these messages.
    ///
    /// # Errors
    /// What the template refuses.
    fn render(&self, messages: &[serde_json::Value], context: &Context) -> Result<String, TextError>;
}

impl Render for text::chat::Template {
    fn render(&self, messages: &[serde_json::Value], context: &Context) -> Result<String, TextError> {
        text::chat::Template::render(self, messages, context)
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
            drain: Duration::from_secs(600),
        }
    }
}

/// What the routes share.
pub struct State {
    model: OnceLock<Served>,
    bounds: Bounds,
    bodies: tokio::sync::Semaphore,
    /// Requests that are parsed and rendered at once: each may take many times its bytes.
    parsing: tokio::sync::Semaphore,
    log: Box<dyn Fn(&str) + Send + Sync>,
}

impl State {
    /// A server without its model yet; `log` gets one line for each request.
    pub fn new(bounds: Bounds, log: impl Fn(&str) + Send + Sync + 'static) -> Arc<State> {
        let bodies = tokio::sync::Semaphore::new(bounds.bodies_bytes >> 10);
        let (model, log) = (OnceLock::new(), Box::new(log));
        Arc::new(State { model, bounds, bodies, parsing: tokio::sync::Semaphore::new(2), log })
    }

    /// The model is loaded: the server is ready.
    pub fn ready(&self, model: Served) {
        let _ = self.model.set(model);
    }

    /// The model, once it is there.
    pub fn model(&self) -> Option<&Served> {
        self.model.get()
    }
}
