//! Anthropic's messages: blocks of thinking, text and calls.

use axum::body::Bytes;
use serde_json::{Value, json};

use super::{ResponseInfo, ResponseWriter, named};
use crate::error::{ApiError, Dialect};
use crate::generation::events::{ChoiceOutput, FinishReason, OutputEvent, ToolCall};
use crate::generation::usage::Usage;

/// The kind of the block that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
    Call(usize),
}

/// An answer of `/v1/messages`.
pub struct MessagesWriter {
    head: ResponseInfo,
    /// Blocks that were begun, and the one that is open.
    begun: usize,
    open: Option<Block>,
    /// Why it ended, and at which string.
    ended: (FinishReason, Option<String>),
    /// What is known of the prompt while `message_start` waits for it to be read: only then is it known what the cache had and took.
    waiting: Option<Usage>,
}

/// Nobody checks it here, but clients send thinking back only with one.
const SIGNATURE: &str = "farthing";

fn usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt.saturating_sub(usage.cached + usage.written),
        "cache_creation_input_tokens": usage.written,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
    })
}

fn reason(finish: FinishReason, stop: Option<&str>) -> &'static str {
    match finish {
        FinishReason::Stop if stop.is_some() => "stop_sequence",
        FinishReason::Stop => "end_turn",
        FinishReason::Calls => "tool_use",
        FinishReason::Length | FinishReason::Resource => "max_tokens",
    }
}

/// Arguments are an object; what a model wrote that is none is given as what it is.
fn input(call: &ToolCall) -> Value {
    match serde_json::from_str(&call.arguments) {
        Ok(value @ Value::Object(_)) => value,
        _ if call.arguments.trim().is_empty() => json!({}),
        _ => json!({"INVALID_JSON": call.arguments}),
    }
}

impl MessagesWriter {
    pub fn new(head: ResponseInfo) -> MessagesWriter {
        MessagesWriter { head, begun: 0, open: None, ended: (FinishReason::Stop, None), waiting: None }
    }

    fn message(&self, content: Vec<Value>, reason: Value, stop: Option<&str>, usage: Value) -> Value {
        json!({
            "id": self.head.id,
            "type": "message",
            "role": "assistant",
            "model": self.head.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": usage,
        })
    }

    /// The message begins, once.
    fn start(&mut self, written: usize, events: &mut Vec<Bytes>) {
        let Some(known) = self.waiting.take() else { return };
        let message = self.message(Vec::new(), Value::Null, None, usage(&Usage { written, ..known }));
        events.push(named(&json!({"type": "message_start", "message": message})));
        events.push(named(&json!({"type": "ping"})));
    }

    fn delta(&self, delta: Value) -> Bytes {
        named(&json!({"type": "content_block_delta", "index": self.begun.saturating_sub(1), "delta": delta}))
    }

    fn close(&mut self, events: &mut Vec<Bytes>) {
        let Some(open) = self.open.take() else { return };
        if open == Block::Thinking {
            events.push(self.delta(json!({"type": "signature_delta", "signature": SIGNATURE})));
        }
        events.push(named(&json!({"type": "content_block_stop", "index": self.begun - 1})));
    }

    /// The block that a part belongs to is open after this.
    fn within(&mut self, block: Block, start: Value, events: &mut Vec<Bytes>) {
        if self.open == Some(block) {
            return;
        }
        self.close(events);
        self.open = Some(block);
        self.begun += 1;
        events.push(named(&json!({"type": "content_block_start", "index": self.begun - 1, "content_block": start})));
    }
}

impl ResponseWriter for MessagesWriter {
    fn opening(&mut self) -> Vec<Bytes> {
        Vec::new()
    }

    fn part(&mut self, _choice: usize, part: &OutputEvent) -> Vec<Bytes> {
        let mut events = Vec::new();
        match part {
            OutputEvent::Started { prompt, cached, .. } => {
                self.waiting = Some(Usage { prompt: *prompt, cached: *cached, ..Usage::default() });
            }
            OutputEvent::Read { written } => self.start(*written, &mut events),
            OutputEvent::Text { text, .. } if text.is_empty() => {}
            OutputEvent::Text { text, .. } => {
                self.within(Block::Text, json!({"type": "text", "text": ""}), &mut events);
                events.push(self.delta(json!({"type": "text_delta", "text": text})));
            }
            OutputEvent::Reasoning { text, .. } => {
                let start = json!({"type": "thinking", "thinking": "", "signature": ""});
                self.within(Block::Thinking, start, &mut events);
                events.push(self.delta(json!({"type": "thinking_delta", "thinking": text})));
            }
            OutputEvent::Call { index, id, name } => {
                let start = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                self.within(Block::Call(*index), start, &mut events);
            }
            OutputEvent::Arguments { text, .. } => {
                events.push(self.delta(json!({"type": "input_json_delta", "partial_json": text})));
            }
            OutputEvent::End(end) => {
                // It may end before its prompt was read.
                self.start(0, &mut events);
                self.close(&mut events);
                self.ended = (end.finish, end.stop.clone());
            }
            OutputEvent::Failed(_) => {}
        }
        events
    }

    fn closing(&mut self, total: &Usage) -> Vec<Bytes> {
        let (finish, stop) = &self.ended;
        let delta = json!({"stop_reason": reason(*finish, stop.as_deref()), "stop_sequence": stop});
        let last = json!({"type": "message_delta", "delta": delta, "usage": usage(total)});
        vec![named(&last), named(&json!({"type": "message_stop"}))]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Bytes> {
        vec![named(&error.json(Dialect::Anthropic, None))]
    }

    fn whole(&mut self, choices: &[ChoiceOutput], total: &Usage) -> Value {
        let Some(whole) = choices.first() else { return Value::Null };
        let mut content = Vec::new();
        if !whole.reasoning.is_empty() {
            content.push(json!({"type": "thinking", "thinking": whole.reasoning, "signature": SIGNATURE}));
        }
        if !whole.text.is_empty() {
            content.push(json!({"type": "text", "text": whole.text}));
        }
        let call = |c: &ToolCall| json!({"type": "tool_use", "id": c.id, "name": c.name, "input": input(c)});
        content.extend(whole.calls.iter().map(call));
        self.message(content, reason(whole.finish(), whole.stop()).into(), whole.stop(), usage(total))
    }
}
