//! OpenAI's responses: items of reasoning, messages and calls, with numbered events.

use axum::body::Bytes;
use serde_json::{Map, Value, json};

use super::{ResponseInfo, ResponseWriter, named, scores};
use crate::error::ApiError;
use crate::generation::events::{ChoiceOutput, FinishReason, OutputEvent, TokenLogprob, ToolCall};
use crate::generation::usage::Usage;
use crate::ids::fresh_id;

/// An item that is being written.
enum Open {
    Reasoning { id: String, text: String },
    Message { id: String, text: String, scored: Vec<TokenLogprob> },
    Call { id: String, call: ToolCall },
}

/// An answer of `/v1/responses`.
pub struct ResponsesWriter {
    head: ResponseInfo,
    log_probabilities: bool,
    repeated: Map<String, Value>,
    /// Events so far.
    number: usize,
    /// Items that are whole.
    output: Vec<Value>,
    open: Option<Open>,
    finish: FinishReason,
}

fn usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt,
        "input_tokens_details": {
            "cached_tokens": usage.cached,
            "cache_write_tokens": usage.written,
        },
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    })
}

fn reasoning_item(id: &str, text: &str, status: &str) -> Value {
    let content = if text.is_empty() { json!([]) } else { json!([{"type": "reasoning_text", "text": text}]) };
    json!({"id": id, "type": "reasoning", "summary": [], "content": content, "status": status})
}

fn text_part(text: &str, logprobs: Vec<Value>) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs})
}

fn message_item(id: &str, content: Vec<Value>, status: &str) -> Value {
    json!({"id": id, "type": "message", "role": "assistant", "content": content, "status": status})
}

fn call_item(id: &str, call: &ToolCall, status: &str) -> Value {
    let ToolCall { id: call_id, name, arguments } = call;
    json!({"id": id, "type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, "status": status})
}

impl ResponsesWriter {
    pub fn new(head: ResponseInfo, log_probabilities: bool, repeated: Map<String, Value>) -> ResponsesWriter {
        let (output, open, finish) = (Vec::new(), None, FinishReason::Stop);
        ResponsesWriter { head, log_probabilities, repeated, number: 0, output, open, finish }
    }

    fn scores(&self, scored: &[TokenLogprob]) -> Vec<Value> {
        if self.log_probabilities { scores(scored) } else { Vec::new() }
    }

    /// The response as it is now.
    fn response(&self, status: &str, error: Value, usage: Value) -> Value {
        let cut = if status == "incomplete" { json!({"reason": "max_output_tokens"}) } else { Value::Null };
        let mut whole = json!({
            "id": self.head.id,
            "object": "response",
            "created_at": self.head.created,
            "status": status,
            "error": error,
            "incomplete_details": cut,
            "model": self.head.model,
            "output": self.output,
            "usage": usage,
        });
        if let Some(map) = whole.as_object_mut() {
            map.extend(self.repeated.clone());
        }
        whole
    }

    fn status(&self) -> &'static str {
        match self.finish {
            FinishReason::Length | FinishReason::Resource => "incomplete",
            FinishReason::Stop | FinishReason::Calls => "completed",
        }
    }

    fn event(&mut self, mut value: Value) -> Bytes {
        value["sequence_number"] = self.number.into();
        self.number += 1;
        named(&value)
    }

    /// An event of the item that is open.
    fn inside(&mut self, kind: &str, id: &str, fields: Value) -> Bytes {
        let mut value = json!({"type": kind, "item_id": id, "output_index": self.output.len()});
        if let (Some(all), Value::Object(fields)) = (value.as_object_mut(), fields) {
            all.extend(fields);
        }
        self.event(value)
    }

    fn added(&mut self, item: Value) -> Bytes {
        let index = self.output.len();
        self.event(json!({"type": "response.output_item.added", "output_index": index, "item": item}))
    }

    fn close(&mut self, events: &mut Vec<Bytes>, status: &str) {
        let Some(open) = self.open.take() else { return };
        let item = match open {
            Open::Reasoning { id, text } => {
                let part = json!({"type": "reasoning_text", "text": text});
                let done = json!({"content_index": 0, "text": text});
                events.push(self.inside("response.reasoning_text.done", &id, done));
                let done = json!({"content_index": 0, "part": part});
                events.push(self.inside("response.content_part.done", &id, done));
                reasoning_item(&id, &text, status)
            }
            Open::Message { id, text, scored } => {
                let scored = self.scores(&scored);
                let done = json!({"content_index": 0, "text": text, "logprobs": scored});
                events.push(self.inside("response.output_text.done", &id, done));
                let part = text_part(&text, scored);
                let done = json!({"content_index": 0, "part": part});
                events.push(self.inside("response.content_part.done", &id, done));
                message_item(&id, vec![part], status)
            }
            Open::Call { id, call } => {
                let done = json!({"name": call.name, "arguments": call.arguments});
                events.push(self.inside("response.function_call_arguments.done", &id, done));
                call_item(&id, &call, status)
            }
        };
        let index = self.output.len();
        events.push(self.event(json!({"type": "response.output_item.done", "output_index": index, "item": item})));
        self.output.push(item);
    }

    fn text(&mut self, text: &str, scored: &[TokenLogprob], events: &mut Vec<Bytes>) {
        if !matches!(self.open, Some(Open::Message { .. })) {
            self.close(events, "completed");
            let id = fresh_id("msg_");
            events.push(self.added(message_item(&id, Vec::new(), "in_progress")));
            let part = json!({"content_index": 0, "part": text_part("", Vec::new())});
            events.push(self.inside("response.content_part.added", &id, part));
            self.open = Some(Open::Message { id, text: String::new(), scored: Vec::new() });
        }
        let Some(Open::Message { id, text: all, scored: scores }) = &mut self.open else { return };
        all.push_str(text);
        scores.extend_from_slice(scored);
        let id = id.clone();
        let delta = json!({"content_index": 0, "delta": text, "logprobs": self.scores(scored)});
        events.push(self.inside("response.output_text.delta", &id, delta));
    }

    fn reasoning(&mut self, text: &str, events: &mut Vec<Bytes>) {
        if !matches!(self.open, Some(Open::Reasoning { .. })) {
            self.close(events, "completed");
            let id = fresh_id("rs_");
            events.push(self.added(reasoning_item(&id, "", "in_progress")));
            let part = json!({"content_index": 0, "part": {"type": "reasoning_text", "text": ""}});
            events.push(self.inside("response.content_part.added", &id, part));
            self.open = Some(Open::Reasoning { id, text: String::new() });
        }
        let Some(Open::Reasoning { id, text: all }) = &mut self.open else { return };
        all.push_str(text);
        let id = id.clone();
        events.push(self.inside("response.reasoning_text.delta", &id, json!({"content_index": 0, "delta": text})));
    }
}

impl ResponseWriter for ResponsesWriter {
    fn opening(&mut self) -> Vec<Bytes> {
        let now = self.response("in_progress", Value::Null, Value::Null);
        let created = self.event(json!({"type": "response.created", "response": now}));
        let running = self.event(json!({"type": "response.in_progress", "response": now}));
        vec![created, running]
    }

    fn part(&mut self, _choice: usize, part: &OutputEvent) -> Vec<Bytes> {
        let mut events = Vec::new();
        match part {
            OutputEvent::Started { .. } | OutputEvent::Read { .. } | OutputEvent::Failed(_) => {}
            OutputEvent::Text { text, scored } => self.text(text, scored, &mut events),
            OutputEvent::Reasoning { text, .. } => self.reasoning(text, &mut events),
            OutputEvent::Call { id: call_id, name, .. } => {
                self.close(&mut events, "completed");
                let id = fresh_id("fc_");
                let call = ToolCall { id: call_id.clone(), name: name.clone(), arguments: String::new() };
                events.push(self.added(call_item(&id, &call, "in_progress")));
                self.open = Some(Open::Call { id, call });
            }
            OutputEvent::Arguments { text, .. } => {
                let Some(Open::Call { id, call }) = &mut self.open else { return events };
                call.arguments.push_str(text);
                let id = id.clone();
                events.push(self.inside("response.function_call_arguments.delta", &id, json!({ "delta": text })));
            }
            OutputEvent::End(end) => {
                self.finish = end.finish;
                self.close(&mut events, self.status());
            }
        }
        events
    }

    fn closing(&mut self, total: &Usage) -> Vec<Bytes> {
        let whole = self.response(self.status(), Value::Null, usage(total));
        let kind = format!("response.{}", self.status());
        vec![self.event(json!({"type": kind, "response": whole}))]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Bytes> {
        let code = if error.status.is_server_error() { "server_error" } else { "invalid_prompt" };
        let error = json!({"code": code, "message": error.message});
        let whole = self.response("failed", error, Value::Null);
        vec![self.event(json!({"type": "response.failed", "response": whole}))]
    }

    fn whole(&mut self, choices: &[ChoiceOutput], total: &Usage) -> Value {
        let Some(whole) = choices.first() else { return Value::Null };
        self.finish = whole.finish();
        let status = self.status();
        if !whole.reasoning.is_empty() {
            self.output.push(reasoning_item(&fresh_id("rs_"), &whole.reasoning, "completed"));
        }
        if !whole.text.is_empty() || whole.calls.is_empty() {
            let part = text_part(&whole.text, self.scores(&whole.scored));
            self.output.push(message_item(&fresh_id("msg_"), vec![part], status));
        }
        self.output.extend(whole.calls.iter().map(|c| call_item(&fresh_id("fc_"), c, status)));
        self.response(status, Value::Null, usage(total))
    }
}
