//! Answers on the wire, one file a dialect: parts of an answer to events of a stream, or to one object.

mod chat;
mod completion;
mod messages;
mod responses;

use std::time::Duration;

use axum::body::Bytes;
use engine::EngineError;
use engine::Timing;
use serde_json::{Value, json};

pub use chat::Chat;
pub use completion::Completion;
pub use messages::Messages;
pub use responses::Responses;

use crate::problem::Problem;

/// What all parts of one answer share.
#[derive(Clone, Debug)]
pub struct Head {
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
}

/// What comes of one choice: `Started`, `Read`, its text in parts, then one `End` or `Failed`.
#[derive(Clone, Debug)]
pub enum Part {
    Started {
        prompt: usize,
        cached: usize,
        differs_at: Option<usize>,
        /// Time in the queue.
        waited: Duration,
    },
    /// The prompt was read, and so many of its tokens were added to the cache.
    Read {
        written: usize,
    },
    Text {
        text: String,
        scored: Vec<Scored>,
    },
    Reasoning {
        text: String,
        scored: Vec<Scored>,
    },
    /// A call begins; calls are numbered from 0.
    Call {
        index: usize,
        id: String,
        name: String,
    },
    /// More of a call's arguments: JSON, in pieces.
    Arguments {
        index: usize,
        text: String,
    },
    End(End),
    Failed(EngineError),
}

/// How a choice ended.
#[derive(Clone, Debug)]
pub struct End {
    pub finish: Finish,
    /// The string that ended it.
    pub stop: Option<String>,
    pub timing: Timing,
    /// Mean log-probability of its tokens, where it was computed.
    pub mean: f64,
}

/// Why a choice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// By itself, or at a stop string.
    Stop,
    /// As many tokens as were allowed.
    Length,
    /// To have functions called.
    Calls,
    /// The server cut it.
    Resource,
}

impl Finish {
    /// In OpenAI's and DeepSeek's words.
    pub fn word(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Calls => "tool_calls",
            Finish::Resource => "insufficient_system_resource",
        }
    }
}

/// A token with its log-probability, spelled.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    pub token: String,
    pub bytes: Vec<u8>,
    /// None for the first token of a prompt.
    pub value: Option<f32>,
    pub top: Vec<(String, Vec<u8>, f32)>,
    /// Characters of the answer before it.
    pub offset: usize,
}

/// Tokens of a request. Its prompt counts once, however many answers it gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt: usize,
    /// Of the prompt, those that were in the cache.
    pub cached: usize,
    /// Of the prompt, those that were added to the cache.
    pub written: usize,
    /// Tokens that were given: of a choice that goes on, those so far.
    pub completion: usize,
    /// Of the completion, those of reasoning.
    pub reasoning: usize,
    /// Where the prompt first differs from one that was served before, where that is known.
    pub differs_at: Option<usize>,
}

impl Usage {
    /// As OpenAI has it, with DeepSeek's fields.
    pub fn json(&self) -> Value {
        let mut usage = json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
            "prompt_cache_hit_tokens": self.cached,
            "prompt_cache_miss_tokens": self.prompt.saturating_sub(self.cached),
        });
        if let Some(at) = self.differs_at {
            usage["prompt_cache_differs_at"] = at.into();
        }
        usage
    }
}

/// A call, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    pub id: String,
    pub name: String,
    pub arguments: String,
}

/// A choice, whole.
#[derive(Clone, Debug, Default)]
pub struct Whole {
    pub reasoning: String,
    pub reasoning_scored: Vec<Scored>,
    pub text: String,
    pub scored: Vec<Scored>,
    pub calls: Vec<Call>,
    pub end: Option<End>,
}

impl Whole {
    /// A part more of it.
    pub fn add(&mut self, part: Part) {
        match part {
            Part::Started { .. } | Part::Read { .. } | Part::Failed(_) => {}
            Part::Text { text, scored } => {
                self.text.push_str(&text);
                self.scored.extend(scored);
            }
            Part::Reasoning { text, scored } => {
                self.reasoning.push_str(&text);
                self.reasoning_scored.extend(scored);
            }
            Part::Call { id, name, .. } => self.calls.push(Call { id, name, arguments: String::new() }),
            Part::Arguments { index, text } => {
                if let Some(call) = self.calls.get_mut(index) {
                    call.arguments.push_str(&text);
                }
            }
            Part::End(end) => self.end = Some(end),
        }
    }

    pub fn finish(&self) -> Finish {
        self.end.as_ref().map_or(Finish::Stop, |end| end.finish)
    }

    pub fn stop(&self) -> Option<&str> {
        self.end.as_ref().and_then(|end| end.stop.as_deref())
    }
}

/// How a dialect writes an answer: as a stream, or whole.
pub trait Wire: Send {
    /// Events before anything is computed.
    fn opening(&mut self) -> Vec<Bytes>;
    /// Events of a part of a choice.
    fn part(&mut self, choice: usize, part: &Part) -> Vec<Bytes>;
    /// Events when all choices have ended.
    fn closing(&mut self, usage: &Usage) -> Vec<Bytes>;
    /// Events of an answer that cannot go on.
    fn failed(&mut self, problem: &Problem) -> Vec<Bytes>;
    /// An answer that is not streamed.
    fn whole(&mut self, choices: &[Whole], usage: &Usage) -> Value;
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
fn scores(scored: &[Scored]) -> Vec<Value> {
    let entry = |t: &str, b: &[u8], v: f32| json!({"token": t, "logprob": finite(v), "bytes": b});
    let one = |s: &Scored| {
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
