//! `/v1/responses`: items of OpenAI's newer API to a conversation. Nothing is stored: each request brings its whole history.

use serde_json::{Map, Value, json};

use super::chat::{MESSAGES_MAX, effort, thinking_max, variables};
use super::sampling::{TOP_MAX, params, tokens};
use super::{Fields, Invalid, ModelDefaults, format, tools, unsupported, wrong};
use crate::request::{GenerateRequest, Input, ResponseFormat, Tool, ToolChoice, Tools};

/// Fields that the answer repeats as they came, each with what it says where they did not.
fn repeated(fields: &Fields, defaults: &engine::Sampling) -> Map<String, Value> {
    // As it was written, not as the nearest number of 32 bits.
    let decimal = |x: f32| x.to_string().parse::<f64>().map_or(Value::Null, Value::from);
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
            if let Some(map) = tool.as_object_mut() {
                map.entry(key).or_insert(Value::Null);
            }
        }
    }
    map.insert("background".to_string(), false.into());
    map.insert("store".to_string(), false.into());
    map
}

/// A request of `/v1/responses`.
///
/// # Errors
/// The first field that cannot be.
pub fn responses(fields: &mut Fields, model: ModelDefaults<'_>) -> Result<GenerateRequest, Invalid> {
    let repeated = repeated(fields, model.defaults);
    for key in ["previous_response_id", "conversation"] {
        fields.unused(key, |_| false, "nothing is stored here: send the whole conversation as input")?;
    }
    fields.unused("background", |v| *v == false, "answers are waited for, or streamed")?;
    fields.unused("prompt", |_| false, "nothing is stored here: send instructions and input")?;
    fields.unused("truncation", |v| v == "disabled", "what does not fit is refused, never cut: send disabled")?;
    let mut messages = Vec::new();
    if let Some(text) = fields.text("instructions")? {
        messages.push(json!({"role": "system", "content": text}));
    }
    input(fields, &mut messages)?;
    let mut params = params(fields, model, "stop")?;
    params.tokens_max = tokens(fields, "max_output_tokens", 1)?;
    params.log_probabilities = scores(fields)?;
    let tools = tools_of(fields)?;
    params.thinking_max = thinking_max(fields, params.tokens_max, "max_output_tokens")?;
    let mut template = variables(fields)?;
    let reasoning = fields.object("reasoning", "an object such as {\"effort\": \"low\"}")?.unwrap_or_default();
    if let Some(value) = reasoning.get("effort").filter(|v| !v.is_null()) {
        effort(&mut template, "reasoning.effort", value)?;
    }
    let (response_format, format_field) = response_format(fields)?;
    fields.count("max_tool_calls", 1, u64::MAX)?;
    metadata(fields)?;
    for key in ["user", "safety_identifier", "prompt_cache_key"] {
        fields.text(key)?;
    }
    fields.about(&["store", "prompt_cache_retention"]);
    params.unknown = fields.unknown();
    let input = Input::Conversation { messages, continues: false };
    Ok(GenerateRequest { input, tools, template, response_format, format_field, params, repeated })
}

/// It is repeated, so it must be what the API says: a few short strings.
fn metadata(fields: &mut Fields) -> Result<(), Invalid> {
    const ALLOWED: &str = "an object of at most 16 strings of at most 512 bytes";
    let Some(value) = fields.take("metadata") else { return Ok(()) };
    let short = |v: &Value| v.as_str().is_some_and(|s| s.len() <= 512);
    let fine = value.as_object().is_some_and(|m| m.len() <= 16 && m.values().all(short));
    if fine { Ok(()) } else { Err(wrong("metadata", &value, ALLOWED)) }
}

/// Log-probabilities: asked for by `include`, with so many of the likeliest.
fn scores(fields: &mut Fields) -> Result<Option<usize>, Invalid> {
    const WORD: &str = "message.output_text.logprobs";
    let top = fields.count("top_logprobs", 0, TOP_MAX)?;
    let included = match fields.take("include") {
        None => false,
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => list.iter().any(|v| v == WORD),
        Some(other) => return Err(wrong("include", &other, &format!("an array of strings such as {WORD:?}"))),
    };
    Ok((included || top.is_some_and(|n| n > 0)).then(|| top.unwrap_or(0) as usize))
}

fn one_tool(param: &str, map: &Map<String, Value>) -> Result<Tool, Invalid> {
    if map.get("type").and_then(Value::as_str) != Some("function") {
        let kind = map.get("type").unwrap_or(&Value::Null);
        return Err(unsupported(&format!("{param}.type"), kind, "only tools of type \"function\" are called"));
    }
    tools::function(param, map, "parameters")
}

fn tools_of(fields: &mut Fields) -> Result<Tools, Invalid> {
    let list = tools::list(fields, one_tool)?;
    let parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true);
    let choice = match fields.take("tool_choice") {
        None => ToolChoice::Auto,
        Some(value) => tools::choice(&value, |v| v.get("name").and_then(Value::as_str))?,
    };
    let choice = tools::checked("tool_choice", &list, choice)?;
    Ok(Tools { list, choice, parallel, older: false })
}

fn response_format(fields: &mut Fields) -> Result<format::FormatField, Invalid> {
    let plain = |response_format| Ok((response_format, "text.format".to_string()));
    let text = fields.object("text", "an object such as {\"format\": {\"type\": \"text\"}}")?.unwrap_or_default();
    let Some(form) = text.get("format").filter(|v| !v.is_null()) else { return plain(ResponseFormat::Text) };
    match (form.get("type").and_then(Value::as_str), form.as_object()) {
        (Some("text"), _) => plain(ResponseFormat::Text),
        (Some("json_object"), _) => plain(ResponseFormat::Object),
        (Some("json_schema"), Some(map)) => format::named_schema("text.format", map),
        _ => Err(wrong("text.format", form, "of type text, json_object or json_schema")),
    }
}

/// The conversation: a text of the user, or items.
fn input(fields: &mut Fields, messages: &mut Vec<Value>) -> Result<(), Invalid> {
    let allowed = format!("a string, or an array of 1 to {MESSAGES_MAX} items");
    let items = match fields.take("input") {
        Some(Value::String(text)) => {
            messages.push(json!({"role": "user", "content": text}));
            return Ok(());
        }
        Some(Value::Array(items)) if !items.is_empty() && items.len() <= MESSAGES_MAX => items,
        other => return Err(wrong("input", &other.unwrap_or(Value::Null), &allowed)),
    };
    let mut thought = String::new();
    for (i, item) in items.iter().enumerate() {
        one_item(&format!("input[{i}]"), item, messages, &mut thought)?;
    }
    Ok(())
}

fn one_item(param: &str, item: &Value, messages: &mut Vec<Value>, thought: &mut String) -> Result<(), Invalid> {
    let at = |key: &str| format!("{param}.{key}");
    let get = |key: &str| item.get(key).unwrap_or(&Value::Null);
    let string = |key: &str| get(key).as_str().ok_or_else(|| wrong(&at(key), get(key), "a string"));
    let kind = match get("type") {
        Value::Null if item.is_object() => "message",
        Value::String(kind) => kind,
        other if item.is_object() => return Err(wrong(&at("type"), other, "a string")),
        _ => return Err(wrong(param, item, "an object")),
    };
    match kind {
        "message" => {
            let role = match get("role").as_str() {
                Some(role @ ("user" | "assistant" | "system")) => role,
                Some("developer") => "system",
                _ => return Err(wrong(&at("role"), get("role"), "user, assistant, system or developer")),
            };
            let mut message = json!({"role": role, "content": content(&at("content"), get("content"))?});
            if role == "assistant" && !thought.is_empty() {
                message["reasoning_content"] = std::mem::take(thought).into();
            }
            messages.push(message);
        }
        "function_call" => {
            let call = tools::call(string("call_id")?, string("name")?, string("arguments")?);
            let begun = thought.is_empty() && messages.last().is_some_and(|m| m["role"] == "assistant");
            if !begun {
                let mut message = json!({"role": "assistant", "content": ""});
                if !thought.is_empty() {
                    message["reasoning_content"] = std::mem::take(thought).into();
                }
                messages.push(message);
            }
            let last = messages.last_mut().and_then(Value::as_object_mut).expect("one was just there");
            let calls = last.entry("tool_calls").or_insert_with(|| json!([]));
            calls.as_array_mut().expect("made so above").push(call);
        }
        "function_call_output" => {
            let output = content(&at("output"), get("output"))?;
            messages.push(json!({"role": "tool", "tool_call_id": string("call_id")?, "content": output}));
        }
        "reasoning" => {
            for key in ["content", "summary"] {
                let texts = get(key).as_array().into_iter().flatten();
                texts.filter_map(|t| t["text"].as_str()).for_each(|t| thought.push_str(t));
                if !thought.is_empty() {
                    break;
                }
            }
        }
        _ => {
            let instead = "there are message, function_call, function_call_output and reasoning";
            return Err(unsupported(&at("type"), get("type"), instead));
        }
    }
    Ok(())
}

/// A string, or parts of text.
fn content(param: &str, value: &Value) -> Result<String, Invalid> {
    let parts = match value {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        other => return Err(wrong(param, other, "a string, or an array of parts of text")),
    };
    let mut text = String::new();
    for (p, part) in parts.iter().enumerate() {
        let key = match part.get("type").and_then(Value::as_str) {
            Some("input_text" | "output_text" | "text") => "text",
            Some("refusal") => "refusal",
            _ => {
                let kind = part.get("type").unwrap_or(&Value::Null);
                return Err(unsupported(&format!("{param}[{p}].type"), kind, "only parts of text are read"));
            }
        };
        let piece = part.get(key).unwrap_or(&Value::Null);
        text.push_str(piece.as_str().ok_or_else(|| wrong(&format!("{param}[{p}].{key}"), piece, "a string"))?);
    }
    Ok(text)
}
