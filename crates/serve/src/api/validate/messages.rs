//! `/v1/messages`: conversations as Anthropic's clients send them.

use serde_json::{Map, Value, json};

use super::chat::{MESSAGES_MAX, effort, think, thinking_max, variables};
use super::sampling::{params, tokens};
use super::{Fields, Invalid, ModelDefaults, empty, format, tools, unsupported, wrong};
use crate::request::{GenerateRequest, Input, Params, ResponseFormat, Tool, ToolChoice, Tools};

/// A request of `/v1/messages`, or of `/v1/messages/count_tokens`.
///
/// # Errors
/// The first field that cannot be.
pub fn messages(fields: &mut Fields, model: ModelDefaults<'_>) -> Result<GenerateRequest, Invalid> {
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
    // A user's id here names a session too: caches are kept apart by account only, as the API itself has it.
    fields.about(&["metadata", "cache_control", "context_management", "betas", "inference_geo", "speed"]);
    params.unknown = fields.unknown();
    let input = Input::Conversation { messages, continues };
    Ok(GenerateRequest { input, tools, template, response_format, format_field, params, repeated: Map::new() })
}

/// Variables of the template. Who does not ask for thinking gets none, where the model can do without.
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

/// `output_config`: how much effort, and of which form.
fn output(fields: &mut Fields, template: &mut Map<String, Value>) -> Result<format::FormatField, Invalid> {
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
    let schema = format::schema(&field, format.get("schema").unwrap_or(&Value::Null))?;
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

/// Messages in OpenAI's shape, and whether the last is the beginning of the answer.
fn conversation(fields: &mut Fields) -> Result<(Vec<Value>, bool), Invalid> {
    let allowed = format!("an array of 1 to {MESSAGES_MAX} messages");
    let list = match fields.take("messages") {
        Some(Value::Array(list)) if !list.is_empty() && list.len() <= MESSAGES_MAX => list,
        other => return Err(wrong("messages", &other.unwrap_or(Value::Null), &allowed)),
    };
    let mut messages = Vec::with_capacity(list.len() + 1);
    if let Some(system) = fields.take("system") {
        messages.push(json!({"role": "system", "content": text("system", &system)?}));
    }
    for (i, message) in list.iter().enumerate() {
        let param = format!("messages[{i}]");
        let content = message.get("content").unwrap_or(&Value::Null);
        let at = format!("{param}.content");
        match message.get("role").and_then(Value::as_str) {
            Some("user") => user(&at, content, &mut messages)?,
            Some("assistant") => messages.push(assistant(&at, content)?),
            Some("system") => messages.push(json!({"role": "system", "content": text(&at, content)?})),
            _ if !message.is_object() => return Err(wrong(&param, message, "an object with role and content")),
            _ => {
                let role = message.get("role").unwrap_or(&Value::Null);
                return Err(wrong(&format!("{param}.role"), role, "user or assistant"));
            }
        }
    }
    let last = messages.last().filter(|m| m["role"] == "assistant");
    if last.is_some_and(|m| m.get("tool_calls").is_some()) {
        let param = format!("messages[{}].content", list.len() - 1);
        return Err(wrong(&param, &list[list.len() - 1]["content"], "followed by the results of its tool_use"));
    }
    let continues = last.is_some();
    Ok((messages, continues))
}

/// A string, or blocks of text.
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

/// A turn of the user: results of tools are messages of their own, before its text.
fn user(param: &str, content: &Value, messages: &mut Vec<Value>) -> Result<(), Invalid> {
    let Value::Array(blocks) = content else {
        messages.push(json!({"role": "user", "content": text(param, content)?}));
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
            Some(Value::String(id)) => id,
            other => return Err(wrong(&format!("{at}.tool_use_id"), other.unwrap_or(&Value::Null), "a string")),
        };
        let result = match block.get("content") {
            None | Some(Value::Null) => String::new(),
            Some(content) => text(&format!("{at}.content"), content)?,
        };
        messages.push(json!({"role": "tool", "tool_call_id": id, "content": result}));
    }
    if any {
        messages.push(json!({"role": "user", "content": said}));
    }
    Ok(())
}

/// A turn of the assistant: thinking, text and calls, in one message.
fn assistant(param: &str, content: &Value) -> Result<Value, Invalid> {
    let Value::Array(blocks) = content else {
        return Ok(json!({"role": "assistant", "content": text(param, content)?}));
    };
    let (mut said, mut thought, mut calls) = (String::new(), String::new(), Vec::new());
    for (b, block) in blocks.iter().enumerate() {
        let at = format!("{param}[{b}]");
        let string = |key: &str| match block.get(key) {
            Some(Value::String(text)) => Ok(text.as_str()),
            other => Err(wrong(&format!("{at}.{key}"), other.unwrap_or(&Value::Null), "a string")),
        };
        match block.get("type").and_then(Value::as_str) {
            Some("thinking") => thought.push_str(string("thinking")?),
            // Only who wrote it can read it.
            Some("redacted_thinking") => {}
            Some("tool_use") => {
                let input = match block.get("input") {
                    Some(value @ Value::Object(_)) => value.to_string(),
                    other => return Err(wrong(&format!("{at}.input"), other.unwrap_or(&Value::Null), "an object")),
                };
                calls.push(tools::call(string("id")?, string("name")?, &input));
            }
            _ => said.push_str(&text_block(&at, block)?),
        }
    }
    let mut message = json!({"role": "assistant", "content": said});
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    if !thought.is_empty() {
        message["reasoning_content"] = thought.into();
    }
    Ok(message)
}
