//! Writing responses: output events to server-sent events, or whole choices to one JSON object.

mod chat;
mod completion;
mod messages;
mod responses;

use axum::body::Bytes;
use serde_json::{Value, json};

pub use chat::ChatWriter;
pub use completion::CompletionWriter;
pub use messages::MessagesWriter;
pub use responses::ResponsesWriter;

use crate::error::ApiError;
use crate::generation::events::{ChoiceOutput, OutputEvent, TokenLogprob};
use crate::generation::usage::Usage;

/// What all parts of one answer share.
#[derive(Clone, Debug)]
pub struct ResponseInfo {
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
}

/// How a dialect writes an answer: as a stream, or whole.
pub trait ResponseWriter: Send {
    /// Events before anything is computed.
    fn opening(&mut self) -> Vec<Bytes>;
    /// Events of a part of a choice.
    fn part(&mut self, choice: usize, part: &OutputEvent) -> Vec<Bytes>;
    /// Events when all choices have ended.
    fn closing(&mut self, usage: &Usage) -> Vec<Bytes>;
    /// Events of an answer that cannot go on.
    fn failed(&mut self, error: &ApiError) -> Vec<Bytes>;
    /// An answer that is not streamed.
    fn whole(&mut self, choices: &[ChoiceOutput], usage: &Usage) -> Value;
}

/// An event without a name.
pub fn event(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}

/// An event whose name is its type.
pub fn named(value: &Value) -> Bytes {
    Bytes::from(format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap_or_default()))
}

/// What a stream of OpenAI's ends with.
const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// JSON has no infinity: what is less likely than anything gets the number that OpenAI uses.
fn finite(value: f32) -> f64 {
    f64::from(value).max(-9999.0)
}

/// Tokens with their scores, in the shape of chat answers.
fn scores(scored: &[TokenLogprob]) -> Vec<Value> {
    let entry = |t: &str, b: &[u8], v: f32| json!({"token": t, "logprob": finite(v), "bytes": b});
    let one = |s: &TokenLogprob| {
        let mut one = entry(&s.token, &s.bytes, s.value.unwrap_or_default());
        one["top_logprobs"] = s.top.iter().map(|(t, b, v)| entry(t, b, *v)).collect();
        one
    };
    scored.iter().map(one).collect()
}

/// Names the program that answered.
const FINGERPRINT: &str = concat!("farthing-", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests;
