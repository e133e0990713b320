//! Tokenizers: read, trained, and applied to documents; text to tokens

pub mod encode;
pub mod report;
pub mod rules;
pub mod split;
pub mod train;

pub use encode::{Encoder, Ends, Tokenizer, tokenize};
