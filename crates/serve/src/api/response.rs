//! Writing responses: output events to server-sent events, or whole choices to one JSON object.

use serde_json::{Value, json};

use crate::error::{ApiError, Dialect};
use crate::generation::events::{ChoiceOutput, OutputEvent, TokenLogprob};
use crate::generation::usage::Usage;

/// Fields common to all parts of a response.
#[derive(Clone, Debug)]
pub struct ResponseInfo {
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
}

impl ResponseInfo {
    /// A response object of OpenAI's, or a chunk.
    pub fn json(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }
}

/// A piece of a streamed response: a server-sent event, or a line of JSON.
#[derive(Clone, Debug)]
pub struct Event {
    pub name: Option<String>,
    pub data: String,
}

/// Writer of a dialect's responses, streamed or whole.
pub trait ResponseWriter: Send {
    /// Whether a stream is newline-delimited JSON instead of server-sent events.
    fn lines(&self) -> bool {
        false
    }
    /// Events before any output.
    fn opening(&mut self) -> Vec<Event> {
        Vec::new()
    }
    /// Events for an output event of a choice.
    fn event(&mut self, choice: usize, output: &OutputEvent) -> Vec<Event>;
    /// Events after all choices have ended.
    fn closing(&mut self, usage: &Usage) -> Vec<Event>;
    /// Events for an error, which ends the stream.
    fn failed(&mut self, error: &ApiError) -> Vec<Event> {
        vec![event(&error.json(Dialect::OpenAi, None))]
    }
    /// A whole response.
    fn whole(&mut self, choices: &[ChoiceOutput], usage: &Usage) -> Value;
}

/// An event without a name.
pub fn event(value: &Value) -> Event {
    Event { name: None, data: value.to_string() }
}

/// An event named by its `type`.
pub fn named(value: &Value) -> Event {
    Event { name: Some(value["type"].as_str().unwrap_or_default().to_string()), data: value.to_string() }
}

/// The end of an OpenAI stream: a usage chunk if asked for, and `[DONE]`.
pub fn openai_closing(chunk: Option<Value>, usage: &Usage) -> Vec<Event> {
    let last = chunk.map(|mut chunk| {
        chunk["usage"] = usage.json();
        event(&chunk)
    });
    last.into_iter().chain([Event { name: None, data: "[DONE]".to_string() }]).collect()
}

/// Log-probability as JSON, which has no infinity: OpenAI's lowest value instead.
pub fn finite(value: f32) -> f64 {
    f64::from(value).max(-9999.0)
}

/// The shortest decimal of a number, not the 32-bit number as 64 bits.
pub fn decimal(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// Log-probabilities in the form of chat responses.
pub fn scores<'s>(scored: impl IntoIterator<Item = &'s TokenLogprob>) -> Vec<Value> {
    let entry = |t: &str, b: &[u8], v: f32| json!({"token": t, "logprob": finite(v), "bytes": b});
    let one = |s: &TokenLogprob| {
        let mut one = entry(&s.token, &s.bytes, s.value.unwrap_or_default());
        one["top_logprobs"] = s.top.iter().map(|(t, b, v)| entry(t, b, *v)).collect();
        one
    };
    scored.into_iter().map(one).collect()
}

/// Name of this program in responses.
const FINGERPRINT: &str = concat!("farthing-", env!("CARGO_PKG_VERSION"));
