//! Tokens of documents on their way to training: token runs, mixing, and shards that other programs load too

pub mod megatron;
