//! Tokens of documents on their way to training: token runs, mixing, and shards that other programs load too

pub mod manifest;
pub mod megatron;
pub mod mix;
pub mod run;
pub mod write;

pub use manifest::Shards;
pub use mix::{Plan, Share, Source, Split};
pub use write::{Workers, write_shards};
