//! The APIs of OpenAI, DeepSeek, Anthropic and Ollama: a file a dialect parses its requests and writes its responses

pub(crate) mod admin;
mod answer;
pub(crate) mod batches;
pub mod chat;
pub mod completions;
pub mod embeddings;
pub(crate) mod fields;
pub(crate) mod files;
pub(crate) mod generate;
mod json;
pub(crate) mod kept_items;
pub mod llama_cpp;
pub(crate) mod message_batches;
pub mod messages;
pub mod ollama;
pub(crate) mod ollama_library;
pub(crate) mod ollama_models;
mod params;
pub(crate) mod redeem;
pub mod rerank;
pub(crate) mod response;
mod response_format;
pub mod responses;
pub mod tokenize;
mod tools;
pub(crate) mod user;

pub use crate::error::ApiError;
pub use fields::{Fields, ModelDefaults};

#[cfg(test)]
mod tests;
