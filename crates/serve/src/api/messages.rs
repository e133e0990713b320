//! `/v1/messages`: the dialect of Anthropic's clients, with blocks of thinking, text and tool use.

use axum::response::sse::Event;
use serde_json::{Map, Value, json};
use text::chat::{Message, Role, ToolCall};

use crate::api::chat::message_list;
use crate::api::fields::{Fields, Invalid, ModelDefaults, empty, unsupported, wrong};
use crate::api::params::{effort, params, think, thinking_max, tokens, variables};
use crate::api::response::{ResponseInfo, ResponseWriter, named};
use crate::api::{response_format, tools};
use crate::error::{ApiError, Dialect};
use crate::generation::events::{ChoiceOutput, FinishReason, OutputEvent};
use crate::generation::usage::Usage;
use crate::request::{GenerateRequest, Input, Params, ResponseFormat, Tool, ToolChoice, Tools};

/// Parses a body of `/v1/messages` or `/v1/messages/count_tokens`.
///
/// # Errors
/// The first invalid field.
pub fn parse(fields: &mut Fields, model: ModelDefaults<'_>) -> Result<GenerateRequest, Invalid> {
    let (messages, continues) = conversation(fields)?;
    let tokens_max = tokens(fields, "max_tokens", 1)?;
    let thinking_max = thinking_max(fields, tokens_max, "max_tokens")?;
    let mut template = variables_of(fields)?;
    let params = params(fields, model, "stop_sequences")?;
    let mut params = Params { tokens_max, thinking_max, ..params };
    let tools = tools_of(fields)?;
    let (response_format, format_field) = output(fields, &mut template)?;
    fields.unused("mcp_servers", empty, "call tools by their schema")?;
    fields.unused("container", |_| false, "nothing is run here: leave it out")?;
    // `metadata.user_id` names a session too, so it does not separate caches (nor does it in the API).
    fields.about(&["metadata", "cache_control", "context_management", "betas", "inference_geo", "speed"]);
    params.unknown = fields.unknown();
    let input = Input::Conversation { messages, continues };
    Ok(GenerateRequest { input, tools, template, response_format, format_field, params, repeated: Map::new() })
}

/// Template variables. Thinking is off unless the request asks for it.
fn variables_of(fields: &mut Fields) -> Result<Map<String, Value>, Invalid> {
    let asked = fields.peek("thinking");
    let own = variables(fields)?;
    let mut template = Map::new();
    if asked.is_none() {
        think(&mut template, false);
    }
    template.extend(own);
    Ok(template)
}

/// `output_config`: effort and response format.
fn output(fields: &mut Fields, template: &mut Map<String, Value>) -> Result<response_format::FormatField, Invalid> {
    let config = fields.object("output_config", "an object such as {\"effort\": \"high\"}")?.unwrap_or_default();
    if let Some(value) = config.get("effort").filter(|v| !v.is_null()) {
        effort(template, "output_config.effort", value)?;
    }
    let older = fields.take("output_format");
    let (param, format) = match (config.get("format").filter(|v| !v.is_null()), &older) {
        (Some(format), _) => ("output_config.format", format),
        (None, Some(format)) => ("output_format", format),
        (None, None) => return Ok((ResponseFormat::Text, "output_config.format".to_string())),
    };
    if format.get("type").and_then(Value::as_str) != Some("json_schema") {
        return Err(wrong(param, format, "{\"type\": \"json_schema\", \"schema\": {...}}"));
    }
    let field = format!("{param}.schema");
    let schema = response_format::schema(&field, format.get("schema").unwrap_or(&Value::Null))?;
    Ok((ResponseFormat::Schema { schema, strict: false }, field))
}

fn one_tool(param: &str, map: &Map<String, Value>) -> Result<Tool, Invalid> {
    match map.get("type") {
        None | Some(Value::Null) => {}
        Some(Value::String(kind)) if kind == "custom" => {}
        Some(other) => {
            let instead = "only tools with an input_schema are called";
            return Err(unsupported(&format!("{param}.type"), other, instead));
        }
    }
    tools::function(param, map, "input_schema")
}

fn tools_of(fields: &mut Fields) -> Result<Tools, Invalid> {
    let list = tools::list(fields, one_tool)?;
    let mut tools = Tools { list, choice: ToolChoice::Auto, parallel: true, older: false };
    let Some(value) = fields.take("tool_choice") else { return Ok(tools) };
    let choice = match (value.get("type").and_then(Value::as_str), value.get("name").and_then(Value::as_str)) {
        (Some("auto"), _) => ToolChoice::Auto,
        (Some("any"), _) => ToolChoice::Required,
        (Some("none"), _) => ToolChoice::None,
        (Some("tool"), Some(name)) => ToolChoice::Named(name.to_string()),
        _ => {
            let allowed = "an object of type auto, any, none, or tool with a name";
            return Err(wrong("tool_choice", &value, allowed));
        }
    };
    match value.get("disable_parallel_tool_use") {
        None | Some(Value::Null) => {}
        Some(Value::Bool(off)) => tools.parallel = !off,
        Some(other) => return Err(wrong("tool_choice.disable_parallel_tool_use", other, "true or false")),
    }
    tools.choice = tools::checked("tool_choice", &tools.list, choice)?;
    Ok(tools)
}

/// Messages, and whether the last is the beginning of the answer.
fn conversation(fields: &mut Fields) -> Result<(Vec<Message>, bool), Invalid> {
    let list = message_list(fields)?;
    let mut messages = Vec::with_capacity(list.len() + 1);
    if let Some(system) = fields.take("system") {
        messages.push(Message::new(Role::System, text("system", &system)?));
    }
    for (i, message) in list.iter().enumerate() {
        let param = format!("messages[{i}]");
        let content = message.get("content").unwrap_or(&Value::Null);
        let at = format!("{param}.content");
        match message.get("role").and_then(Value::as_str) {
            Some("user") => user(&at, content, &mut messages)?,
            Some("assistant") => messages.push(assistant(&at, content)?),
            Some("system") => messages.push(Message::new(Role::System, text(&at, content)?)),
            _ if !message.is_object() => return Err(wrong(&param, message, "an object with role and content")),
            _ => {
                let role = message.get("role").unwrap_or(&Value::Null);
                return Err(wrong(&format!("{param}.role"), role, "user or assistant"));
            }
        }
    }
    let last = messages.last().filter(|m| m.role == Role::Assistant);
    if last.is_some_and(|m| !m.tool_calls.is_empty()) {
        let param = format!("messages[{}].content", list.len() - 1);
        return Err(wrong(&param, &list[list.len() - 1]["content"], "followed by the results of its tool_use"));
    }
    let continues = last.is_some();
    Ok((messages, continues))
}

/// A string, or an array of text blocks.
fn text(param: &str, value: &Value) -> Result<String, Invalid> {
    let blocks = match value {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(blocks) => blocks,
        other => return Err(wrong(param, other, "a string, or an array of blocks of type \"text\"")),
    };
    blocks.iter().enumerate().map(|(b, block)| text_block(&format!("{param}[{b}]"), block)).collect()
}

fn text_block(param: &str, block: &Value) -> Result<String, Invalid> {
    match (block.get("type").and_then(Value::as_str), block.get("text")) {
        (Some("text"), Some(Value::String(text))) => Ok(text.clone()),
        (Some("text"), other) => Err(wrong(&format!("{param}.text"), other.unwrap_or(&Value::Null), "a string")),
        _ => {
            let kind = block.get("type").unwrap_or(&Value::Null);
            Err(unsupported(&format!("{param}.type"), kind, "only blocks of type \"text\" are read here"))
        }
    }
}

/// A user message. Tool results become messages of their own, before its text.
fn user(param: &str, content: &Value, messages: &mut Vec<Message>) -> Result<(), Invalid> {
    let Value::Array(blocks) = content else {
        messages.push(Message::new(Role::User, text(param, content)?));
        return Ok(());
    };
    let (mut said, mut any) = (String::new(), blocks.is_empty());
    for (b, block) in blocks.iter().enumerate() {
        let at = format!("{param}[{b}]");
        if block.get("type").and_then(Value::as_str) != Some("tool_result") {
            said.push_str(&text_block(&at, block)?);
            any = true;
            continue;
        }
        let id = match block.get("tool_use_id") {
            Some(Value::String(id)) => id.clone(),
            other => return Err(wrong(&format!("{at}.tool_use_id"), other.unwrap_or(&Value::Null), "a string")),
        };
        let result = match block.get("content") {
            None | Some(Value::Null) => String::new(),
            Some(content) => text(&format!("{at}.content"), content)?,
        };
        messages.push(Message { tool_call_id: Some(id), ..Message::new(Role::Tool, result) });
    }
    if any {
        messages.push(Message::new(Role::User, said));
    }
    Ok(())
}

/// An assistant message: thinking, text and calls.
fn assistant(param: &str, content: &Value) -> Result<Message, Invalid> {
    let Value::Array(blocks) = content else {
        return Ok(Message::new(Role::Assistant, text(param, content)?));
    };
    let (mut said, mut thought, mut tool_calls) = (String::new(), String::new(), Vec::new());
    for (b, block) in blocks.iter().enumerate() {
        let at = format!("{param}[{b}]");
        let string = |key: &str| match block.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            other => Err(wrong(&format!("{at}.{key}"), other.unwrap_or(&Value::Null), "a string")),
        };
        match block.get("type").and_then(Value::as_str) {
            Some("thinking") => thought.push_str(&string("thinking")?),
            // Encrypted by its author.
            Some("redacted_thinking") => {}
            Some("tool_use") => {
                let arguments = match block.get("input") {
                    Some(value @ Value::Object(_)) => value.to_string(),
                    other => return Err(wrong(&format!("{at}.input"), other.unwrap_or(&Value::Null), "an object")),
                };
                tool_calls.push(ToolCall { id: string("id")?, name: string("name")?, arguments });
            }
            _ => said.push_str(&text_block(&at, block)?),
        }
    }
    let reasoning_content = (!thought.is_empty()).then_some(thought);
    Ok(Message { tool_calls, reasoning_content, ..Message::new(Role::Assistant, said) })
}

/// Kind of the open block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
    Call(usize),
}

/// Writer of responses of `/v1/messages`.
pub(crate) struct MessagesWriter {
    head: ResponseInfo,
    /// Number of blocks begun.
    begun: usize,
    open: Option<Block>,
    /// Finish reason and stop string.
    ended: (FinishReason, Option<String>),
    /// Usage of the prompt, until `message_start` is written: what the cache took is known only when the prompt is computed.
    waiting: Option<Usage>,
}

/// Not checked, but clients send thinking back only with a signature.
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

/// Arguments as an object; invalid JSON is returned inside one.
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

    /// Writes `message_start`, once.
    fn start(&mut self, written: usize, events: &mut Vec<Event>) {
        let Some(known) = self.waiting.take() else { return };
        let message = self.message(Vec::new(), Value::Null, None, usage(&Usage { written, ..known }));
        events.push(named(&json!({"type": "message_start", "message": message})));
        events.push(named(&json!({"type": "ping"})));
    }

    fn delta(&self, delta: Value) -> Event {
        named(&json!({"type": "content_block_delta", "index": self.begun.saturating_sub(1), "delta": delta}))
    }

    fn close(&mut self, events: &mut Vec<Event>) {
        let Some(open) = self.open.take() else { return };
        if open == Block::Thinking {
            events.push(self.delta(json!({"type": "signature_delta", "signature": SIGNATURE})));
        }
        events.push(named(&json!({"type": "content_block_stop", "index": self.begun - 1})));
    }

    /// Opens the block that an event belongs to, unless it is open.
    fn within(&mut self, block: Block, start: Value, events: &mut Vec<Event>) {
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
    fn event(&mut self, _choice: usize, output: &OutputEvent) -> Vec<Event> {
        let mut events = Vec::new();
        match output {
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
                // It may end before its prompt is computed.
                self.start(0, &mut events);
                self.close(&mut events);
                self.ended = (end.finish, end.stop.clone());
            }
            OutputEvent::Failed(_) => {}
        }
        events
    }

    fn closing(&mut self, total: &Usage) -> Vec<Event> {
        let (finish, stop) = &self.ended;
        let delta = json!({"stop_reason": reason(*finish, stop.as_deref()), "stop_sequence": stop});
        let last = json!({"type": "message_delta", "delta": delta, "usage": usage(total)});
        vec![named(&last), named(&json!({"type": "message_stop"}))]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Event> {
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
