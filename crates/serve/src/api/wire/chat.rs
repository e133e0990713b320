//! OpenAI's chat completions, with DeepSeek's fields: `reasoning_content`, cache hits in the usage.

use axum::body::Bytes;
use serde_json::{Value, json};

use super::{DONE, FINGERPRINT, ResponseInfo, ResponseWriter, event, scores};
use crate::error::{ApiError, Dialect};
use crate::generation::events::{ChoiceOutput, FinishReason, OutputEvent, TokenLogprob, ToolCall};
use crate::generation::usage::Usage;

/// An answer of `/v1/chat/completions`.
pub struct ChatWriter {
    pub head: ResponseInfo,
    pub log_probabilities: bool,
    pub include_usage: bool,
    /// Calls go out as `function_call`.
    pub older: bool,
}

fn logprobs(content: &[TokenLogprob], reasoning: &[TokenLogprob]) -> Value {
    let mut all = json!({"content": scores(content), "refusal": null});
    if !reasoning.is_empty() {
        all["reasoning_content"] = scores(reasoning).into();
    }
    all
}

impl ChatWriter {
    fn chunk(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.head.id,
            "object": "chat.completion.chunk",
            "created": self.head.created,
            "model": self.head.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }

    fn delta(&self, choice: usize, delta: Value, logprobs: Value, finish: Option<&str>) -> Vec<Bytes> {
        let choice = json!({"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish});
        vec![event(&self.chunk(vec![choice]))]
    }

    fn finish(&self, finish: FinishReason) -> &'static str {
        if self.older && finish == FinishReason::Calls { "function_call" } else { finish.word() }
    }

    fn message(&self, whole: &ChoiceOutput) -> Value {
        let content =
            if whole.text.is_empty() && !whole.calls.is_empty() { Value::Null } else { whole.text.as_str().into() };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !whole.reasoning.is_empty() {
            message["reasoning_content"] = whole.reasoning.as_str().into();
        }
        let function = |c: &ToolCall| json!({"name": c.name, "arguments": c.arguments});
        match whole.calls.first() {
            None => {}
            Some(call) if self.older => message["function_call"] = function(call),
            Some(_) => {
                let call = |c: &ToolCall| json!({"id": c.id, "type": "function", "function": function(c)});
                message["tool_calls"] = whole.calls.iter().map(call).collect();
            }
        }
        message
    }
}

impl ResponseWriter for ChatWriter {
    fn opening(&mut self) -> Vec<Bytes> {
        Vec::new()
    }

    fn part(&mut self, choice: usize, part: &OutputEvent) -> Vec<Bytes> {
        let scored = |content: &[TokenLogprob], reasoning: &[TokenLogprob]| {
            let none = !self.log_probabilities || (content.is_empty() && reasoning.is_empty());
            if none { Value::Null } else { logprobs(content, reasoning) }
        };
        match part {
            OutputEvent::Started { .. } => {
                let delta = json!({"role": "assistant", "content": "", "refusal": null});
                self.delta(choice, delta, Value::Null, None)
            }
            OutputEvent::Text { text, scored: s } => {
                self.delta(choice, json!({ "content": text }), scored(s, &[]), None)
            }
            OutputEvent::Reasoning { text, scored: s } => {
                self.delta(choice, json!({ "reasoning_content": text }), scored(&[], s), None)
            }
            OutputEvent::Call { name, .. } if self.older => {
                self.delta(choice, json!({"function_call": {"name": name, "arguments": ""}}), Value::Null, None)
            }
            OutputEvent::Call { index, id, name } => {
                let function = json!({"name": name, "arguments": ""});
                let call = json!({"index": index, "id": id, "type": "function", "function": function});
                self.delta(choice, json!({ "tool_calls": [call] }), Value::Null, None)
            }
            OutputEvent::Arguments { text, .. } if self.older => {
                self.delta(choice, json!({"function_call": {"arguments": text}}), Value::Null, None)
            }
            OutputEvent::Arguments { index, text } => {
                let call = json!({"index": index, "function": {"arguments": text}});
                self.delta(choice, json!({ "tool_calls": [call] }), Value::Null, None)
            }
            OutputEvent::End(end) => self.delta(choice, json!({}), Value::Null, Some(self.finish(end.finish))),
            OutputEvent::Read { .. } | OutputEvent::Failed(_) => Vec::new(),
        }
    }

    fn closing(&mut self, usage: &Usage) -> Vec<Bytes> {
        let mut events = Vec::new();
        if self.include_usage {
            let mut last = self.chunk(Vec::new());
            last["usage"] = usage.json();
            events.push(event(&last));
        }
        events.push(DONE);
        events
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Bytes> {
        vec![event(&error.json(Dialect::OpenAi, None))]
    }

    fn whole(&mut self, choices: &[ChoiceOutput], usage: &Usage) -> Value {
        let choice = |(index, w): (usize, &ChoiceOutput)| {
            let scores = if self.log_probabilities { logprobs(&w.scored, &w.reasoning_scored) } else { Value::Null };
            let finish = self.finish(w.finish());
            json!({"index": index, "message": self.message(w), "logprobs": scores, "finish_reason": finish})
        };
        json!({
            "id": self.head.id,
            "object": "chat.completion",
            "created": self.head.created,
            "model": self.head.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices.iter().enumerate().map(choice).collect::<Vec<_>>(),
            "usage": usage.json(),
        })
    }
}
