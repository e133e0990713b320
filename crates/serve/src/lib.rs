//! The API server: the APIs of OpenAI, DeepSeek and Anthropic over HTTP. Async code is here and in `ledger` only, the JSON of the APIs here only.
//!
//! A request passes the middleware (`http`), is parsed and validated by its dialect into a `GenerateRequest` (`api`), rendered, tokenized and
//! submitted to the engine, and its output is decoded token by token (`generation`) and written by its dialect (`api`). A connection that closes
//! drops the handles of its request, which cancels it in the engine.

pub mod api;
mod error;
pub mod generation;
pub mod http;
mod ids;
pub mod request;
mod state;
pub mod words;

pub use generation::batch_runner::Batches;
pub use generation::served_model::{ModelParts, NotTried, ServedModel, TryConstraint};
pub use generation::usage::RequestStats;
pub use http::access_log::RequestLog;
pub use http::admission::{Access, Origin};
pub use http::routes::check_metered;
pub use http::server::listen;
pub use http::tls::{Tls, TlsError};
pub use state::{AppState, ServerLimits};

/// The description of the API, by OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("openapi.json");
