//! Output of a choice, event by event and as a whole.

use std::time::Duration;

use engine::{EngineError, Timing};
use text::chat::ToolCall;

/// An event of one choice: `Started`, `Read`, its output in pieces, then one `End` or `Failed`.
#[derive(Clone, Debug)]
pub enum OutputEvent {
    Started {
        prompt: usize,
        cached: usize,
        differs_at: Option<usize>,
        /// Time in the queue.
        waited: Duration,
    },
    /// The prompt is computed, and `written` of its tokens were added to the prefix cache.
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
    /// A tool call begins; calls are numbered from 0.
    Call {
        index: usize,
        id: String,
        name: String,
    },
    /// The next piece of a call's arguments (JSON).
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
    /// Stop string that was hit.
    pub stop: Option<String>,
    pub timing: Timing,
    /// The prompt is not all that was given: it was cut to fit.
    pub truncated: bool,
    /// Mean log-probability of the tokens; 0 if none was computed.
    pub mean: f64,
}

/// Finish reason of a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// End of text, or a stop string.
    Stop,
    /// Token limit or context length.
    Length,
    /// The model called tools.
    Calls,
    /// The server's time limit.
    Resource,
}

impl FinishReason {
    /// The name in OpenAI's and DeepSeek's APIs.
    pub fn word(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Calls => "tool_calls",
            FinishReason::Resource => "insufficient_system_resource",
        }
    }
}

/// A token's text with its log-probability.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    pub token: String,
    pub bytes: Vec<u8>,
    /// None for the first token of a prompt.
    pub value: Option<f32>,
    pub top: Vec<(String, Vec<u8>, f32)>,
    /// Characters of the answer before the token.
    pub offset: usize,
}

/// A complete choice.
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
    /// Appends an event's output.
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
