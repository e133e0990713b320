//! `/v1/responses`: items of OpenAI's newer API. Each request brings its whole history, of which recent items may be references.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value, json};
use text::chat::{Message, Role, ToolCall};

use crate::api::chat::MESSAGES_MAX;
use crate::api::fields::{Field, Fields, ModelDefaults, TextForm, note, wrong};
use crate::api::kept_items::KeptItems;
use crate::api::params::{TOP_MAX, effort, params, thinking_max, tokens, variables};
use crate::api::response::{Event, ResponseInfo, ResponseWriter, decimal, named, scores};
use crate::api::{response_format, tools};
use crate::error::ApiError;
use crate::generation::events::{ChoiceOutput, FinishReason, OutputEvent, TokenLogprob};
use crate::generation::usage::Usage;
use crate::ids::fresh_id;
use crate::request::{GenerateRequest, RequestInput, ResponseFormat, Tool, ToolChoice, Tools};

/// Fields that the response echoes, with their defaults.
fn repeated(fields: &Fields, defaults: &engine::Sampling) -> Map<String, Value> {
    let fallback = [
        ("instructions", Value::Null),
        ("max_output_tokens", Value::Null),
        ("max_tool_calls", Value::Null),
        ("metadata", json!({})),
        ("parallel_tool_calls", true.into()),
        ("previous_response_id", Value::Null),
        ("prompt_cache_key", Value::Null),
        ("reasoning", json!({"effort": null, "summary": null})),
        ("safety_identifier", Value::Null),
        ("temperature", decimal(defaults.temperature)),
        ("text", json!({"format": {"type": "text"}})),
        ("tool_choice", "auto".into()),
        ("tools", json!([])),
        ("top_logprobs", 0.into()),
        ("top_p", decimal(defaults.top_p)),
        ("truncation", "disabled".into()),
        ("user", Value::Null),
    ];
    let given = |(key, fallback): (&'static str, Value)| (key.to_string(), fields.peek(key).unwrap_or(fallback));
    let mut map: Map<String, Value> = fallback.into_iter().map(given).collect();
    if let Some(text) = map.get_mut("text").and_then(Value::as_object_mut) {
        text.entry("format").or_insert(json!({"type": "text"}));
    }
    for tool in map.get_mut("tools").and_then(Value::as_array_mut).into_iter().flatten() {
        for key in ["parameters", "strict"] {
            if let Some(map) = tool.as_object_mut().filter(|map| map.get("type").is_some_and(|kind| kind == "function"))
            {
                map.entry(key).or_insert(Value::Null);
            }
        }
    }
    map.insert("background".to_string(), false.into());
    map.insert("store".to_string(), false.into());
    map
}

/// Parses a body of `/v1/responses`.
///
/// # Errors
/// The first invalid field.
pub fn parse(fields: &mut Fields, model: ModelDefaults<'_>) -> Result<GenerateRequest, ApiError> {
    let repeated = repeated(fields, model.defaults);
    for key in ["previous_response_id", "conversation"] {
        fields.unused(key, |_| false, "nothing is stored here: send the whole conversation as input")?;
    }
    fields.unused("background", |v| *v == false, "answers are waited for, or streamed")?;
    fields.unused("prompt", |_| false, "nothing is stored here: send instructions and input")?;
    fields.unused("truncation", |v| v == "disabled", "what does not fit is refused, never cut: send disabled")?;
    let mut messages = Vec::new();
    if let Some(text) = fields.text("instructions")? {
        messages.push(Message::new(Role::System, text));
    }
    input(fields, &mut messages)?;
    let mut params = params(fields, model, "stop")?;
    params.tokens_max = tokens(fields, "max_output_tokens", 1)?;
    params.log_probabilities = logprobs(fields)?;
    let tools = tools_of(fields)?;
    params.thinking_max = thinking_max(fields, params.tokens_max, "max_output_tokens")?;
    let mut template = variables(fields)?;
    let reasoning = fields.object("reasoning", "an object such as {\"effort\": \"low\"}")?.unwrap_or_default();
    if let Some(value) = reasoning.get("effort").filter(|v| !v.is_null()) {
        effort(&mut template, "reasoning.effort", value)?;
    }
    let (response_format, format_field) = text_format(fields)?;
    fields.count("max_tool_calls", 1, u64::MAX)?;
    metadata(fields)?;
    for key in ["user", "safety_identifier", "prompt_cache_key"] {
        fields.text(key)?;
    }
    let stored = fields.flag("store")?.unwrap_or(true);
    fields.about(&["prompt_cache_retention"]);
    params.unknown = fields.unknown();
    params.ignored = fields.ignored();
    let input = RequestInput::Conversation { messages, continues: false };
    Ok(GenerateRequest { input, tools, template, response_format, format_field, params, repeated, stored })
}

/// `metadata` is echoed, so it must be what the API allows: a few short strings.
fn metadata(fields: &mut Fields) -> Result<(), ApiError> {
    const ALLOWED: &str = "an object of at most 16 strings of at most 512 bytes";
    let Some(value) = fields.take("metadata") else { return Ok(()) };
    let short = |v: &Value| v.as_str().is_some_and(|s| s.len() <= 512);
    let fine = value.as_object().is_some_and(|m| m.len() <= 16 && m.values().all(short));
    if fine { Ok(()) } else { Err(wrong("metadata", &value, ALLOWED)) }
}

/// Log-probabilities: switched on by `include`, with `top_logprobs` alternatives.
fn logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    const WORD: &str = "message.output_text.logprobs";
    let top = fields.count("top_logprobs", 0, TOP_MAX)?;
    let included = match fields.take("include") {
        None => false,
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => list.iter().any(|v| v == WORD),
        Some(other) => return Err(wrong("include", &other, &format!("an array of strings such as {WORD:?}"))),
    };
    Ok((included || top.is_some_and(|n| n > 0)).then(|| top.unwrap_or(0) as usize))
}

fn one_tool(tool: &Field) -> Result<Option<Tool>, ApiError> {
    if tools::is_function(tool)? { tools::function(tool, "parameters").map(Some) } else { Ok(None) }
}

fn tools_of(fields: &mut Fields) -> Result<Tools, ApiError> {
    let mut list = tools::list(fields, one_tool)?;
    let parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true);
    let choice = match fields.take("tool_choice") {
        None => ToolChoice::Auto,
        Some(value) => match tools::allowed_tools(&value, &mut list)? {
            Some(choice) => choice,
            None => tools::choice(&value, |v| v.get("name").and_then(Value::as_str))?,
        },
    };
    let choice = tools::checked("tool_choice", &list, choice)?;
    Ok(Tools { list, choice, parallel, older: false })
}

fn text_format(fields: &mut Fields) -> Result<response_format::FormatField, ApiError> {
    let plain = |response_format| Ok((response_format, "text.format".to_string()));
    let text = fields.object("text", "an object such as {\"format\": {\"type\": \"text\"}}")?.unwrap_or_default();
    let text = Value::Object(text);
    let format = Field::new("text", &text).get("format");
    match format.kind() {
        None if format.value.is_null() => plain(ResponseFormat::Text),
        Some("text") => plain(ResponseFormat::Text),
        Some("json_object") => plain(ResponseFormat::Object),
        Some("json_schema") => response_format::named_schema(&format),
        _ => Err(format.wrong("of type text, json_object or json_schema")),
    }
}

/// Messages of `input`: a text of the user, or items.
fn input(fields: &mut Fields, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let items = match fields.take("input").unwrap_or_default() {
        Value::String(text) => {
            messages.push(Message::new(Role::User, text));
            return Ok(());
        }
        other => other,
    };
    let items = Field::new("input", &items);
    if items.value.as_array().is_none_or(|list| list.is_empty() || list.len() > MESSAGES_MAX) {
        return Err(items.wrong(&format!("a string, or an array of 1 to {MESSAGES_MAX} items")));
    }
    let mut said = Said { messages: std::mem::take(messages), ..Said::default() };
    for item in items.items() {
        one_item(&item, &mut said, fields)?;
    }
    *messages = said.messages;
    if messages.is_empty() {
        return Err(items.wrong("items with a message among them"));
    }
    Ok(())
}

const TEXT: TextForm = TextForm {
    allowed: "a string, or an array of parts of text",
    parts: &[("input_text", "text"), ("output_text", "text"), ("text", "text"), ("refusal", "refusal")],
    instead: "only parts of text are read",
};

/// What is said so far, and reasoning that belongs to the message that comes next.
#[derive(Default)]
struct Said {
    messages: Vec<Message>,
    thought: String,
}

impl Said {
    fn reasoning(&mut self) -> Option<String> {
        (!self.thought.is_empty()).then(|| std::mem::take(&mut self.thought))
    }

    fn call(&mut self, call: ToolCall) {
        let reasoning_content = self.reasoning();
        match self.messages.last_mut().filter(|m| reasoning_content.is_none() && m.role == Role::Assistant) {
            Some(message) => message.tool_calls.push(call),
            None => {
                let message = Message::new(Role::Assistant, "");
                self.messages.push(Message { tool_calls: vec![call], reasoning_content, ..message });
            }
        }
    }

    fn result(&mut self, id: String, text: String) {
        self.messages.push(Message { tool_call_id: Some(id), ..Message::new(Role::Tool, text) });
    }
}

fn one_item(item: &Field, said: &mut Said, fields: &mut Fields) -> Result<(), ApiError> {
    if !item.value.is_object() {
        return Err(item.wrong("an object"));
    }
    let string = |key: &str| item.get(key).string().map(str::to_string);
    match item.get("type").text()?.unwrap_or("message") {
        "message" => {
            let role = match item.get("role").value.as_str() {
                Some("user") => Role::User,
                Some("assistant") => Role::Assistant,
                Some("system" | "developer") => Role::System,
                _ => return Err(item.get("role").wrong("user, assistant, system or developer")),
            };
            let message = Message::new(role, TEXT.text(&item.get("content"))?);
            let reasoning_content = if role == Role::Assistant { said.reasoning() } else { None };
            said.messages.push(Message { reasoning_content, ..message });
        }
        "function_call" => {
            let name = match item.get("namespace").text()? {
                Some(namespace) => tools::qualified(namespace, item.get("name").string()?),
                None => string("name")?,
            };
            said.call(ToolCall { id: string("call_id")?, name, arguments: string("arguments")? });
        }
        "function_call_output" => said.result(string("call_id")?, TEXT.result(&item.get("output"))?),
        "reasoning" => {
            for key in ["content", "summary"] {
                let texts = item.value[key].as_array().into_iter().flatten();
                texts.filter_map(|t| t["text"].as_str()).for_each(|t| said.thought.push_str(t));
                if !said.thought.is_empty() {
                    break;
                }
            }
        }
        kind if of_another_tool(kind) => another_tool(item, kind, said, fields)?,
        _ => {
            let instead = "there are message, function_call, function_call_output, reasoning and items of other tools";
            return Err(item.get("type").unsupported(instead));
        }
    }
    Ok(())
}

/// Whether an item belongs to a tool that cannot be called here, or to a service of OpenAI's.
fn of_another_tool(kind: &str) -> bool {
    const OTHERS: [&str; 3] = ["compaction", "compaction_summary", "ghost_snapshot"];
    kind.ends_with("_call") || kind.ends_with("_output") || kind.starts_with("mcp_") || OTHERS.contains(&kind)
}

/// Calls with an id and their results stay a call and its result, other results become a note, and the rest is left out.
fn another_tool(item: &Field, kind: &str, said: &mut Said, fields: &mut Fields) -> Result<(), ApiError> {
    let id = |key: &str| item.get(key).value.as_str().map(str::to_string);
    let call_id = id("call_id").or_else(|| id("id").filter(|_| kind == "mcp_call" || kind.ends_with("_output")));
    let results: Vec<String> = ["output", "outputs", "results", "error"]
        .into_iter()
        .filter_map(|key| result_text(item.get(key).value))
        .collect();
    let results = results.join("\n");
    let Some(call_id) = call_id.filter(|_| kind.ends_with("_call") || kind.ends_with("_output")) else {
        match results.is_empty() {
            true => fields.ignore(kind),
            false => said.messages.push(Message::new(Role::Assistant, format!("[{kind}: {results}]"))),
        }
        return Ok(());
    };
    if kind.ends_with("_output") {
        said.result(call_id, results);
        return Ok(());
    }
    let given = ["arguments", "input", "action", "operation", "actions"].into_iter().find_map(|key| {
        let value = item.get(key).value;
        (!value.is_null()).then(|| match (key, value.as_str()) {
            ("arguments", Some(text)) => text.to_string(),
            _ => json!({ (key): value }).to_string(),
        })
    });
    let name = id("name").unwrap_or_else(|| kind.trim_end_matches("_call").to_string());
    said.call(ToolCall { id: call_id.clone(), name, arguments: given.unwrap_or_else(|| "{}".to_string()) });
    if kind == "mcp_call" {
        said.result(call_id, results);
    }
    Ok(())
}

/// The text of a result of any form; a note for what has none.
fn result_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => (!text.is_empty()).then(|| text.clone()),
        Value::Array(parts) => {
            let texts: Vec<String> = parts.iter().filter_map(result_text).collect();
            (!texts.is_empty()).then(|| texts.join("\n"))
        }
        Value::Object(map) => {
            let texts = ["text", "stdout", "stderr", "logs", "content", "output", "message"];
            let texts: Vec<&str> =
                texts.into_iter().filter_map(|key| map.get(key)?.as_str()).filter(|text| !text.is_empty()).collect();
            let kind = map.get("type").and_then(Value::as_str);
            if texts.is_empty() { kind.map(note) } else { Some(texts.join("\n")) }
        }
        _ => None,
    }
}

enum OpenItem {
    Reasoning { id: String, text: String },
    Message { id: String, text: String, scored: Vec<TokenLogprob> },
    Call { id: String, call: ToolCall },
}

pub(crate) struct ResponsesWriter {
    head: ResponseInfo,
    log_probabilities: bool,
    repeated: Map<String, Value>,
    /// Functions that were given in namespaces.
    namespaced: Vec<Tool>,
    /// Number of events written.
    number: usize,
    /// Complete items.
    output: Vec<Value>,
    open: Option<OpenItem>,
    finish: FinishReason,
    /// Where items are kept for references, unless the client wants none stored, and the account.
    kept: Option<(Arc<KeptItems>, u64)>,
}

fn usage(usage: &Usage) -> Value {
    let mut json = counts(usage);
    usage.add_cost(&mut json);
    json
}

fn counts(usage: &Usage) -> Value {
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

fn call_item(id: &str, call: &ToolCall, status: &str, namespaced: &[Tool]) -> Value {
    let ToolCall { id: call_id, name, arguments } = call;
    let mut item = json!({"id": id, "type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, "status": status});
    let tool = namespaced.iter().find(|tool| tool.name == *name);
    if let Some((namespace, inner)) = tool.and_then(|tool| tool.namespace.as_ref()) {
        (item["namespace"], item["name"]) = (namespace.as_str().into(), inner.as_str().into());
    }
    item
}

impl ResponsesWriter {
    pub fn new(head: ResponseInfo, request: &GenerateRequest, kept: (Arc<KeptItems>, u64)) -> ResponsesWriter {
        let (output, open, finish) = (Vec::new(), None, FinishReason::Stop);
        let log_probabilities = request.params.log_probabilities.is_some();
        let repeated = request.repeated.clone();
        let namespaced = request.tools.list.iter().filter(|tool| tool.namespace.is_some()).cloned().collect();
        let kept = Some(kept).filter(|_| request.stored);
        ResponsesWriter { head, log_probabilities, repeated, namespaced, number: 0, output, open, finish, kept }
    }

    fn scores(&self, scored: &[TokenLogprob]) -> Vec<Value> {
        if self.log_probabilities { scores(scored) } else { Vec::new() }
    }

    /// The response object in its present state.
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

    fn numbered(&mut self, mut value: Value) -> Event {
        value["sequence_number"] = self.number.into();
        self.number += 1;
        named(&value)
    }

    /// An event of the open item.
    fn inside(&mut self, kind: &str, id: &str, fields: Value) -> Event {
        let mut value = json!({"type": kind, "item_id": id, "output_index": self.output.len()});
        if let (Some(all), Value::Object(fields)) = (value.as_object_mut(), fields) {
            all.extend(fields);
        }
        self.numbered(value)
    }

    fn added(&mut self, item: Value) -> Event {
        let index = self.output.len();
        self.numbered(json!({"type": "response.output_item.added", "output_index": index, "item": item}))
    }

    fn close(&mut self, events: &mut Vec<Event>, status: &str) {
        let Some(open) = self.open.take() else { return };
        let item = match open {
            OpenItem::Reasoning { id, text } => {
                let part = json!({"type": "reasoning_text", "text": text});
                let done = json!({"content_index": 0, "text": text});
                events.push(self.inside("response.reasoning_text.done", &id, done));
                let done = json!({"content_index": 0, "part": part});
                events.push(self.inside("response.content_part.done", &id, done));
                reasoning_item(&id, &text, status)
            }
            OpenItem::Message { id, text, scored } => {
                let scored = self.scores(&scored);
                let done = json!({"content_index": 0, "text": text, "logprobs": scored});
                events.push(self.inside("response.output_text.done", &id, done));
                let part = text_part(&text, scored);
                let done = json!({"content_index": 0, "part": part});
                events.push(self.inside("response.content_part.done", &id, done));
                message_item(&id, vec![part], status)
            }
            OpenItem::Call { id, call } => {
                let item = call_item(&id, &call, status, &self.namespaced);
                let done = json!({"name": item["name"], "arguments": call.arguments});
                events.push(self.inside("response.function_call_arguments.done", &id, done));
                item
            }
        };
        let index = self.output.len();
        events.push(self.numbered(json!({"type": "response.output_item.done", "output_index": index, "item": item})));
        self.output.push(item);
        self.keep(index);
    }

    /// Keeps the items from this one on for references.
    fn keep(&self, first: usize) {
        if let Some((kept, account)) = &self.kept {
            kept.keep(*account, &self.output[first..], Instant::now());
        }
    }

    fn text(&mut self, text: &str, scored: &[TokenLogprob], events: &mut Vec<Event>) {
        if !matches!(self.open, Some(OpenItem::Message { .. })) {
            self.close(events, "completed");
            let id = fresh_id("msg_");
            events.push(self.added(message_item(&id, Vec::new(), "in_progress")));
            let part = json!({"content_index": 0, "part": text_part("", Vec::new())});
            events.push(self.inside("response.content_part.added", &id, part));
            self.open = Some(OpenItem::Message { id, text: String::new(), scored: Vec::new() });
        }
        let Some(OpenItem::Message { id, text: all, scored: scores }) = &mut self.open else { return };
        all.push_str(text);
        scores.extend_from_slice(scored);
        let id = id.clone();
        let delta = json!({"content_index": 0, "delta": text, "logprobs": self.scores(scored)});
        events.push(self.inside("response.output_text.delta", &id, delta));
    }

    fn reasoning(&mut self, text: &str, events: &mut Vec<Event>) {
        if !matches!(self.open, Some(OpenItem::Reasoning { .. })) {
            self.close(events, "completed");
            let id = fresh_id("rs_");
            events.push(self.added(reasoning_item(&id, "", "in_progress")));
            let part = json!({"content_index": 0, "part": {"type": "reasoning_text", "text": ""}});
            events.push(self.inside("response.content_part.added", &id, part));
            self.open = Some(OpenItem::Reasoning { id, text: String::new() });
        }
        let Some(OpenItem::Reasoning { id, text: all }) = &mut self.open else { return };
        all.push_str(text);
        let id = id.clone();
        events.push(self.inside("response.reasoning_text.delta", &id, json!({"content_index": 0, "delta": text})));
    }
}

impl ResponseWriter for ResponsesWriter {
    fn opening(&mut self) -> Vec<Event> {
        let now = self.response("in_progress", Value::Null, Value::Null);
        let created = self.numbered(json!({"type": "response.created", "response": now}));
        let running = self.numbered(json!({"type": "response.in_progress", "response": now}));
        vec![created, running]
    }

    fn event(&mut self, _choice: usize, output: &OutputEvent) -> Vec<Event> {
        let mut events = Vec::new();
        match output {
            OutputEvent::Started { .. } | OutputEvent::Read { .. } | OutputEvent::Failed(_) => {}
            OutputEvent::Text { text, scored } => self.text(text, scored, &mut events),
            OutputEvent::Reasoning { text, .. } => self.reasoning(text, &mut events),
            OutputEvent::Call { id: call_id, name, .. } => {
                self.close(&mut events, "completed");
                let id = fresh_id("fc_");
                let call = ToolCall { id: call_id.clone(), name: name.clone(), arguments: String::new() };
                events.push(self.added(call_item(&id, &call, "in_progress", &self.namespaced)));
                self.open = Some(OpenItem::Call { id, call });
            }
            OutputEvent::Arguments { text, .. } => {
                let Some(OpenItem::Call { id, call }) = &mut self.open else { return events };
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

    fn closing(&mut self, total: &Usage) -> Vec<Event> {
        let whole = self.response(self.status(), Value::Null, usage(total));
        let kind = format!("response.{}", self.status());
        vec![self.numbered(json!({"type": kind, "response": whole}))]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Event> {
        let code = if error.status.is_server_error() { "server_error" } else { "invalid_prompt" };
        let error = json!({"code": code, "message": error.message});
        let whole = self.response("failed", error, Value::Null);
        vec![self.numbered(json!({"type": "response.failed", "response": whole}))]
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
        self.output.extend(whole.calls.iter().map(|c| call_item(&fresh_id("fc_"), c, status, &self.namespaced)));
        self.keep(0);
        self.response(status, Value::Null, usage(total))
    }
}
