//! Output of a choice, event by event and as a whole.

use std::time::Duration;

use engine::{EngineError, Timing};

/// What comes of one choice: `Started`, `Read`, its text in parts, then one `ChoiceEnd` or `Failed`.
#[derive(Clone, Debug)]
pub enum OutputEvent {
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
        scored: Vec<TokenLogprob>,
    },
    Reasoning {
        text: String,
        scored: Vec<TokenLogprob>,
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
    End(ChoiceEnd),
    Failed(EngineError),
}

/// How a choice ended.
#[derive(Clone, Debug)]
pub struct ChoiceEnd {
    pub finish: FinishReason,
    /// The string that ended it.
    pub stop: Option<String>,
    pub timing: Timing,
    /// Mean log-probability of its tokens, where it was computed.
    pub mean: f64,
}

/// Why a choice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// By itself, or at a stop string.
    Stop,
    /// As many tokens as were allowed.
    Length,
    /// To have functions called.
    Calls,
    /// The server cut it.
    Resource,
}

impl FinishReason {
    /// In OpenAI's and DeepSeek's words.
    pub fn word(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Calls => "tool_calls",
            FinishReason::Resource => "insufficient_system_resource",
        }
    }
}

/// A token with its log-probability, spelled.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    pub token: String,
    pub bytes: Vec<u8>,
    /// None for the first token of a prompt.
    pub value: Option<f32>,
    pub top: Vec<(String, Vec<u8>, f32)>,
    /// Characters of the answer before it.
    pub offset: usize,
}

/// A call, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    pub arguments: String,
}

/// A choice, whole.
#[derive(Clone, Debug, Default)]
pub struct ChoiceOutput {
    pub reasoning: String,
    pub reasoning_scored: Vec<TokenLogprob>,
    pub text: String,
    pub scored: Vec<TokenLogprob>,
    pub calls: Vec<ToolCall>,
    pub end: Option<ChoiceEnd>,
}

impl ChoiceOutput {
    /// A part more of it.
    pub fn add(&mut self, part: OutputEvent) {
        match part {
            OutputEvent::Started { .. } | OutputEvent::Read { .. } | OutputEvent::Failed(_) => {}
            OutputEvent::Text { text, scored } => {
                self.text.push_str(&text);
                self.scored.extend(scored);
            }
            OutputEvent::Reasoning { text, scored } => {
                self.reasoning.push_str(&text);
                self.reasoning_scored.extend(scored);
            }
            OutputEvent::Call { id, name, .. } => self.calls.push(ToolCall { id, name, arguments: String::new() }),
            OutputEvent::Arguments { index, text } => {
                if let Some(call) = self.calls.get_mut(index) {
                    call.arguments.push_str(&text);
                }
            }
            OutputEvent::End(end) => self.end = Some(end),
        }
    }

    pub fn finish(&self) -> FinishReason {
        self.end.as_ref().map_or(FinishReason::Stop, |end| end.finish)
    }

    pub fn stop(&self) -> Option<&str> {
        self.end.as_ref().and_then(|end| end.stop.as_deref())
    }
}
