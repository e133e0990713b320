//! Requests to tokens: the queue of requests, sequences and their pages, the loop that reads prompts and decodes, and the choice of tokens.
//!
//! Token ids only: no text, no HTTP, no JSON, no async.

mod disk;
mod engine;
mod guide;
pub mod identity;
mod pages;
pub mod sampler;
pub mod scheduler;
pub mod service;
pub mod shared;
pub mod store;
mod worker;

pub use engine::{ARITHMETIC, Engine, EngineError, Finish, Generation, Limits, Part, Sequence, Step, Timing};
pub use model::cache::PAGE;
pub use sampler::{Sampler, Sampling, SamplingError};
