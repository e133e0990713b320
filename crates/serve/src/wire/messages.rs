//! Anthropic's messages: blocks of thinking, text and calls.

use axum::body::Bytes;
use serde_json::{Value, json};

use super::{Call, Finish, Head, Part, Usage, Whole, Wire, named};
use crate::problem::{Dialect, Problem};

/// The kind of the block that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
    Call(usize),
}

/// An answer of `/v1/messages`.
pub struct Messages {
    head: Head,
    /// Blocks that were begun, and the one that is open.
    begun: usize,
    open: Option<Block>,
    /// Why it ended, and at which string.
    ended: (Finish, Option<String>),
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

fn reason(finish: Finish, stop: Option<&str>) -> &'static str {
    match finish {
        Finish::Stop if stop.is_some() => "stop_sequence",
        Finish::Stop => "end_turn",
        Finish::Calls => "tool_use",
        Finish::Length | Finish::Resource => "max_tokens",
    }
}

/// Arguments are an object; what a model wrote that is none is given as what it is.
fn input(call: &Call) -> Value {
    match serde_json::from_str(&call.arguments) {
        Ok(value @ Value::Object(_)) => value,
        _ if call.arguments.trim().is_empty() => json!({}),
        _ => json!({"INVALID_JSON": call.arguments}),
    }
}

impl Messages {
    pub fn new(head: Head) -> Messages {
        Messages { head, begun: 0, open: None, ended: (Finish::Stop, None), waiting: None }
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

impl Wire for Messages {
    fn opening(&mut self) -> Vec<Bytes> {
        Vec::new()
    }

    fn part(&mut self, _choice: usize, part: &Part) -> Vec<Bytes> {
        let mut events = Vec::new();
        match part {
            Part::Started { prompt, cached, .. } => {
                self.waiting = Some(Usage { prompt: *prompt, cached: *cached, ..Usage::default() });
            }
            Part::Read { written } => self.start(*written, &mut events),
            Part::Text { text, .. } if text.is_empty() => {}
            Part::Text { text, .. } => {
                self.within(Block::Text, json!({"type": "text", "text": ""}), &mut events);
                events.push(self.delta(json!({"type": "text_delta", "text": text})));
            }
            Part::Reasoning { text, .. } => {
                let start = json!({"type": "thinking", "thinking": "", "signature": ""});
                self.within(Block::Thinking, start, &mut events);
                events.push(self.delta(json!({"type": "thinking_delta", "thinking": text})));
            }
            Part::Call { index, id, name } => {
                let start = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                self.within(Block::Call(*index), start, &mut events);
            }
            Part::Arguments { text, .. } => {
                events.push(self.delta(json!({"type": "input_json_delta", "partial_json": text})));
            }
            Part::End(end) => {
                // It may end before its prompt was read.
                self.start(0, &mut events);
                self.close(&mut events);
                self.ended = (end.finish, end.stop.clone());
            }
            Part::Failed(_) => {}
        }
        events
    }

    fn closing(&mut self, total: &Usage) -> Vec<Bytes> {
        let (finish, stop) = &self.ended;
        let delta = json!({"stop_reason": reason(*finish, stop.as_deref()), "stop_sequence": stop});
        let last = json!({"type": "message_delta", "delta": delta, "usage": usage(total)});
        vec![named(&last), named(&json!({"type": "message_stop"}))]
    }

    fn failed(&mut self, problem: &Problem) -> Vec<Bytes> {
        vec![named(&problem.json(Dialect::Anthropic, None))]
    }

    fn whole(&mut self, choices: &[Whole], total: &Usage) -> Value {
        let Some(whole) = choices.first() else { return Value::Null };
        let mut content = Vec::new();
        if !whole.reasoning.is_empty() {
            content.push(json!({"type": "thinking", "thinking": whole.reasoning, "signature": SIGNATURE}));
        }
        if !whole.text.is_empty() {
            content.push(json!({"type": "text", "text": whole.text}));
        }
        let call = |c: &Call| json!({"type": "tool_use", "id": c.id, "name": c.name, "input": input(c)});
        content.extend(whole.calls.iter().map(call));
        self.message(content, reason(whole.finish(), whole.stop()).into(), whole.stop(), usage(total))
    }
}
