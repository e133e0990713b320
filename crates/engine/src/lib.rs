//! Requests to tokens: the queue of requests, sequences and their pages, the loop that reads prompts and decodes, and the choice of tokens.
//!
//! Token ids only: no text, no HTTP, no JSON, no async.

mod active;
mod disk;
mod engine;
mod error;
mod guide;
pub mod identity;
mod pool;
pub mod prefix_cache;
pub mod queue;
mod request;
mod runner;
pub mod sampler;
pub mod scheduler;
mod state;
pub mod store;
mod worker;

pub use disk::Disk;
pub use engine::{Engine, RequestHandle, Settings, SubmitError};
pub use error::EngineError;
pub use model::cache::PAGE;
pub use model::checkpoint::{Embedding, Pooling, Purpose, RERANK_INSTRUCTION, Ranking};
pub use request::{BACKGROUND, Constraint, Event, EventSink, Finish, Pooled, Request, Scores, Timing};
pub use runner::{ARITHMETIC, Limits, Positions, Runner};
pub use sampler::{Sampler, Sampling, SamplingError};
pub use state::Statistics;
