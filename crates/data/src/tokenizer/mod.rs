//! Tokenizers: read, trained, and applied to documents; text to tokens

pub mod encode;
mod growth;
pub mod report;
pub mod rules;
pub mod split;
pub mod train;
mod twins;

pub use encode::{Encoder, Ends, Tokenizer, read_json, tokenize};
