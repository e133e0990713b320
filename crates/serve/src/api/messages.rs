//! `/v1/messages`: the dialect of Anthropic's clients, with blocks of thinking, text and tool use.

use serde_json::{Map, Value, json};
use text::chat::{Message, Role, ToolCall};

use crate::api::chat::message_list;
use crate::api::fields::{Field, Fields, ModelDefaults, TextForm, empty, wrong};
use crate::api::params::{effort, params, think, thinking_max, tokens, variables};
use crate::api::response::{Event, ResponseInfo, ResponseWriter, named};
use crate::api::{response_format, tools};
use crate::error::{ApiError, Dialect};
use crate::generation::events::{ChoiceOutput, FinishReason, OutputEvent};
use crate::generation::usage::Usage;
use crate::request::{GenerateRequest, Params, RequestInput, ResponseFormat, Tool, ToolChoice, Tools};

/// Parses a body of `/v1/messages` or `/v1/messages/count_tokens`.
///
/// # Errors
/// The first invalid field.
pub fn parse(fields: &mut Fields, model: ModelDefaults<'_>) -> Result<GenerateRequest, ApiError> {
    let (messages, continues) = conversation(fields)?;
    let tokens_max = tokens(fields, "max_tokens", 1)?;
    let thinking_max = thinking_max(fields, tokens_max, "max_tokens")?;
    let mut template = variables_of(fields)?;
    let params = params(fields, model, "stop_sequences")?;
    let mut params = Params { tokens_max, thinking_max, ..params };
    let tools = tools_of(fields)?;
    let (response_format, format_field) = output(fields, &mut template)?;
    match fields.take("mcp_servers") {
        Some(Value::Array(servers)) if !servers.is_empty() => fields.ignore("mcp_servers"),
        Some(other) if !empty(&other) => {
            return Err(wrong("mcp_servers", &other, "an array; servers in it are left out"));
        }
        _ => {}
    }
    fields.unused("container", |_| false, "nothing is run here: leave it out")?;
    // `metadata.user_id` names a session too, so it does not separate caches (nor does it in the API).
    fields.about(&["metadata", "cache_control", "context_management", "betas", "inference_geo", "speed"]);
    params.unknown = fields.unknown();
    params.ignored = fields.ignored();
    let input = RequestInput::Conversation { messages, continues };
    Ok(GenerateRequest { tools, template, response_format, format_field, ..GenerateRequest::new(input, params) })
}

/// Template variables. Thinking is off unless the request asks for it.
fn variables_of(fields: &mut Fields) -> Result<Map<String, Value>, ApiError> {
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
fn output(fields: &mut Fields, template: &mut Map<String, Value>) -> Result<response_format::FormatField, ApiError> {
    let config = fields.object("output_config", "an object such as {\"effort\": \"high\"}")?.unwrap_or_default();
    let config = Value::Object(config);
    let config = Field::new("output_config", &config);
    let wanted = config.get("effort");
    if !wanted.value.is_null() {
        effort(template, &wanted.path, wanted.value)?;
    }
    let older = fields.take("output_format").unwrap_or_default();
    let format = match (config.get("format"), Field::new("output_format", &older)) {
        (format, older) if format.value.is_null() && !older.value.is_null() => older,
        (format, _) => format,
    };
    if format.value.is_null() {
        return Ok((ResponseFormat::Text, format.path));
    }
    if format.kind() != Some("json_schema") {
        return Err(format.wrong("{\"type\": \"json_schema\", \"schema\": {...}}"));
    }
    let field = format.get("schema");
    Ok((ResponseFormat::Schema { schema: response_format::schema(&field)?, strict: false }, field.path))
}

/// A tool with an `input_schema`. Those of other types run on Anthropic's servers or have schemas that its models know.
fn one_tool(tool: &Field) -> Result<Option<Tool>, ApiError> {
    match tool.get("type").text()? {
        None | Some("custom") => tools::function(tool, "input_schema").map(Some),
        Some(_) => Ok(None),
    }
}

fn tools_of(fields: &mut Fields) -> Result<Tools, ApiError> {
    let list = tools::list(fields, one_tool)?;
    let mut tools = Tools { list, choice: ToolChoice::Auto, parallel: true, older: false };
    let Some(value) = fields.take("tool_choice") else { return Ok(tools) };
    let field = Field::new("tool_choice", &value);
    let choice = match (field.kind(), value.get("name").and_then(Value::as_str)) {
        (Some("auto"), _) => ToolChoice::Auto,
        (Some("any"), _) => ToolChoice::Required,
        (Some("none"), _) => ToolChoice::None,
        (Some("tool"), Some(name)) => ToolChoice::Named(name.to_string()),
        _ => return Err(field.wrong("an object of type auto, any, none, or tool with a name")),
    };
    tools.parallel = !field.get("disable_parallel_tool_use").flag()?.unwrap_or(false);
    tools.choice = tools::checked("tool_choice", &tools.list, choice)?;
    Ok(tools)
}

/// Messages, and whether the last is the beginning of the answer.
fn conversation(fields: &mut Fields) -> Result<(Vec<Message>, bool), ApiError> {
    let list = Value::Array(message_list(fields)?);
    let mut messages = Vec::new();
    if let Some(mut system) = fields.take("system") {
        strip_billing_header(&mut system);
        messages.push(Message::new(Role::System, TEXT.text(&Field::new("system", &system))?));
    }
    let mut last = Field::new("messages", &Value::Null);
    for message in Field::new("messages", &list).items() {
        let content = message.get("content");
        match message.get("role").value.as_str() {
            Some("user") => user(&content, &mut messages)?,
            Some("assistant") => messages.push(assistant(&content, fields)?),
            Some("system") => messages.push(Message::new(Role::System, TEXT.text(&content)?)),
            _ if !message.value.is_object() => return Err(message.wrong("an object with role and content")),
            _ => return Err(message.get("role").wrong("user or assistant")),
        }
        last = content;
    }
    let begun = messages.last().filter(|m| m.role == Role::Assistant);
    if begun.is_some_and(|m| !m.tool_calls.is_empty()) {
        return Err(last.wrong("followed by the results of its tool_use"));
    }
    let continues = begun.is_some();
    Ok((messages, continues))
}

/// Removes what Claude Code puts before its system prompt for Anthropic's accounting. It differs from session to session, in some
/// versions from request to request, and no prompt behind it would be found in the cache.
fn strip_billing_header(system: &mut Value) {
    const HEADER: &str = "x-anthropic-billing-header:";
    match system {
        Value::String(text) if text.starts_with(HEADER) => {
            *text = text.split_once('\n').map_or_else(String::new, |(_, rest)| rest.to_string());
        }
        Value::Array(blocks) => {
            blocks.retain(|block| !block["text"].as_str().is_some_and(|text| text.starts_with(HEADER)));
        }
        _ => {}
    }
}

const TEXT: TextForm = TextForm {
    allowed: "a string, or an array of blocks of type \"text\"",
    parts: &[("text", "text")],
    instead: "only blocks of type \"text\" are read here",
};

/// A user message. Tool results become messages of their own, before its text.
fn user(content: &Field, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let Value::Array(blocks) = content.value else {
        messages.push(Message::new(Role::User, TEXT.text(content)?));
        return Ok(());
    };
    let (mut said, mut any) = (String::new(), blocks.is_empty());
    for block in content.items() {
        if block.kind() != Some("tool_result") {
            said.push_str(TEXT.part(&block)?);
            any = true;
            continue;
        }
        let id = block.get("tool_use_id").string()?.to_string();
        let result = block.get("content");
        let result = if result.value.is_null() { String::new() } else { TEXT.result(&result)? };
        messages.push(Message { tool_call_id: Some(id), ..Message::new(Role::Tool, result) });
    }
    if any {
        messages.push(Message::new(Role::User, said));
    }
    Ok(())
}

/// An assistant message: thinking, text and calls.
fn assistant(content: &Field, fields: &mut Fields) -> Result<Message, ApiError> {
    if !content.value.is_array() {
        return Ok(Message::new(Role::Assistant, TEXT.text(content)?));
    }
    let (mut said, mut thought, mut tool_calls) = (String::new(), String::new(), Vec::new());
    for block in content.items() {
        match block.kind() {
            Some("thinking") => thought.push_str(block.get("thinking").string()?),
            // Encrypted by its author.
            Some("redacted_thinking") => {}
            // Of tools that ran on Anthropic's servers: `server_tool_use`, `web_search_tool_result`, `mcp_tool_use`.
            Some(kind) if kind.ends_with("_tool_use") || kind.ends_with("_tool_result") => fields.ignore(kind),
            Some("tool_use") => {
                let input = block.get("input");
                if !input.value.is_object() {
                    return Err(input.wrong("an object"));
                }
                let string = |key| block.get(key).string().map(str::to_string);
                tool_calls.push(ToolCall {
                    id: string("id")?,
                    name: string("name")?,
                    arguments: input.value.to_string(),
                });
            }
            _ => said.push_str(TEXT.part(&block)?),
        }
    }
    let reasoning_content = (!thought.is_empty()).then_some(thought);
    Ok(Message { tool_calls, reasoning_content, ..Message::new(Role::Assistant, said) })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContentBlock {
    Thinking,
    Text,
    Call(usize),
}

pub(crate) struct MessagesWriter {
    head: ResponseInfo,
    begun: usize,
    open: Option<ContentBlock>,
    /// Finish reason and stop string.
    ended: (FinishReason, Option<String>),
    /// Usage of the prompt, until `message_start` is written: what the cache took is known only when the prompt is computed.
    waiting: Option<Usage>,
}

/// Not checked, but clients send thinking back only with a signature.
const SIGNATURE: &str = "farthing";

fn usage(usage: &Usage) -> Value {
    let mut json = counts(usage);
    usage.add_cost(&mut json);
    json
}

fn counts(usage: &Usage) -> Value {
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
        if open == ContentBlock::Thinking {
            events.push(self.delta(json!({"type": "signature_delta", "signature": SIGNATURE})));
        }
        events.push(named(&json!({"type": "content_block_stop", "index": self.begun - 1})));
    }

    /// Opens the block that an event belongs to, unless it is open.
    fn within(&mut self, block: ContentBlock, start: Value, events: &mut Vec<Event>) {
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
                self.within(ContentBlock::Text, json!({"type": "text", "text": ""}), &mut events);
                events.push(self.delta(json!({"type": "text_delta", "text": text})));
            }
            OutputEvent::Reasoning { text, .. } => {
                let start = json!({"type": "thinking", "thinking": "", "signature": ""});
                self.within(ContentBlock::Thinking, start, &mut events);
                events.push(self.delta(json!({"type": "thinking_delta", "thinking": text})));
            }
            OutputEvent::Call { index, id, name } => {
                let start = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                self.within(ContentBlock::Call(*index), start, &mut events);
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
