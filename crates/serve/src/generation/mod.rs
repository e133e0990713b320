//! A request from its validated form to the engine, and the engine's tokens to output: what is the same for every API

pub mod batch_line;
pub mod batch_runner;
pub(crate) mod events;
pub(crate) mod fim;
pub(crate) mod in_flight;
pub mod model_library;
pub mod model_pool;
pub(crate) mod output;
pub(crate) mod pooled;
pub(crate) mod prepared;
pub(crate) mod reasoning_budget;
pub(crate) mod retry_after;
pub(crate) mod served_model;
pub(crate) mod tool_prompt;
pub(crate) mod usage;
