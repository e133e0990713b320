//! `/v1/chat/completions`: conversations as OpenAI's and DeepSeek's clients send them.

use serde_json::{Map, Value, json};

use super::sampling::{CHOICES_MAX, TOP_MAX, params, tokens};
use super::{Fields, Invalid, ModelDefaults, counted_value, empty, format, tools, unsupported, wrong};
use crate::request::{GenerateRequest, Input};

/// Most messages of a conversation.
pub const MESSAGES_MAX: usize = 1 << 14;

/// A request of `/v1/chat/completions`.
///
/// # Errors
/// The first field that cannot be.
pub fn chat(fields: &mut Fields, model: ModelDefaults<'_>) -> Result<GenerateRequest, Invalid> {
    let (messages, prefixed) = conversation(fields)?;
    let mut params = params(fields, model, "stop")?;
    let (old, new) = (tokens(fields, "max_tokens", 1)?, tokens(fields, "max_completion_tokens", 1)?);
    params.tokens_max = new.or(old);
    let on = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs", 0, TOP_MAX)?;
    if let Some(top) = top.filter(|_| !on) {
        return Err(wrong("top_logprobs", &Value::from(top), "absent unless logprobs is true"));
    }
    params.log_probabilities = on.then(|| top.unwrap_or(0) as usize);
    params.choices = fields.count("n", 1, CHOICES_MAX)?.unwrap_or(1) as usize;
    params.best_of = params.choices;
    let tools = tools::openai(fields)?;
    let (response_format, format_field) = format::response_format(fields)?;
    let later = "leave it out";
    fields.unused("modalities", |v| *v == json!(["text"]), "text is all there is")?;
    fields.unused("audio", |_| false, later)?;
    fields.unused("web_search_options", |_| false, later)?;
    let limit = if new.is_some() { "max_completion_tokens" } else { "max_tokens" };
    params.thinking_max = thinking_max(fields, params.tokens_max, limit)?;
    let template = variables(fields)?;
    let continues = continued(fields, &messages, prefixed)?;
    fields.about(&[
        "user",
        "metadata",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "verbosity",
        "prediction",
    ]);
    params.unknown = fields.unknown();
    let input = Input::Conversation { messages, continues };
    Ok(GenerateRequest { input, tools, template, response_format, format_field, params, repeated: Map::new() })
}

/// Variables of the template: the caller's own, and what switches thinking.
pub fn variables(fields: &mut Fields) -> Result<Map<String, Value>, Invalid> {
    const OURS: [&str; 5] = ["messages", "tools", "bos_token", "eos_token", "add_generation_prompt"];
    const THINKING: &str = "{\"type\": \"enabled\"} or {\"type\": \"disabled\"}";
    let mut template = Map::new();
    if let Some(value) = fields.take("thinking") {
        match value.get("type").and_then(Value::as_str) {
            Some("enabled") => think(&mut template, true),
            Some("disabled") => think(&mut template, false),
            Some("adaptive") => {}
            _ => return Err(wrong("thinking", &value, THINKING)),
        }
    }
    if let Some(value) = fields.take("reasoning_effort") {
        effort(&mut template, "reasoning_effort", &value)?;
    }
    if let Some(own) = fields.object("chat_template_kwargs", "an object")? {
        if let Some(key) = own.keys().find(|k| OURS.contains(&k.as_str())) {
            let what = format!("without {key}, which is set by the server");
            return Err(wrong("chat_template_kwargs", &Value::Object(own.clone()), &what));
        }
        template.extend(own);
    }
    Ok(template)
}

/// Tokens that reasoning may take: fewer than the answer, of which it is a part. To be read before `variables`.
pub fn thinking_max(fields: &Fields, tokens_max: Option<usize>, limit: &str) -> Result<Option<usize>, Invalid> {
    const NAME: &str = "thinking.budget_tokens";
    let thinking = fields.peek("thinking").unwrap_or_default();
    let Some(budget) = thinking.get("budget_tokens").filter(|b| !b.is_null()) else { return Ok(None) };
    let tokens = usize::try_from(counted_value(NAME, budget, 1, u64::MAX)?).unwrap_or(usize::MAX);
    match tokens_max.filter(|&most| tokens >= most) {
        Some(most) => Err(wrong(NAME, budget, &format!("less than {limit}, which is {most}"))),
        None => Ok(Some(tokens).filter(|_| thinking["type"] != "disabled")),
    }
}

/// Templates differ in the name of the switch.
pub fn think(template: &mut Map<String, Value>, on: bool) {
    template.insert("thinking".to_string(), on.into());
    template.insert("enable_thinking".to_string(), on.into());
}

/// How much a model thinks. `none` switches thinking off; the other words are the template's to understand.
pub fn effort(template: &mut Map<String, Value>, param: &str, value: &Value) -> Result<(), Invalid> {
    match value.as_str() {
        Some("none") => think(template, false),
        Some(word @ ("minimal" | "low" | "medium" | "high" | "xhigh" | "max" | "ultra")) => {
            template.insert("reasoning_effort".to_string(), word.into());
        }
        _ => return Err(wrong(param, value, "none, minimal, low, medium, high, xhigh, max or ultra")),
    }
    Ok(())
}

/// Whether the last message is the beginning of the answer: `prefix` in it, or vLLM's pair of flags.
fn continued(fields: &mut Fields, messages: &[Value], prefixed: bool) -> Result<bool, Invalid> {
    let continues = fields.flag("continue_final_message")?.unwrap_or(false);
    let generation = fields.flag("add_generation_prompt")?;
    let assistant = messages.last().is_some_and(|m| m["role"] == "assistant");
    if continues && !assistant {
        return Err(wrong("continue_final_message", &true.into(), "false unless the last message is the assistant's"));
    }
    if continues && generation == Some(true) {
        return Err(wrong("add_generation_prompt", &true.into(), "false with continue_final_message"));
    }
    if generation == Some(false) && !continues && !prefixed {
        let instead = "an answer begins with it; to go on with the last message send continue_final_message";
        return Err(unsupported("add_generation_prompt", &false.into(), instead));
    }
    Ok(continues || prefixed)
}

/// Messages, and whether the last is a prefix.
pub fn conversation(fields: &mut Fields) -> Result<(Vec<Value>, bool), Invalid> {
    let allowed = format!("an array of 1 to {MESSAGES_MAX} messages");
    let list = match fields.take("messages") {
        Some(Value::Array(list)) if !list.is_empty() && list.len() <= MESSAGES_MAX => list,
        other => return Err(wrong("messages", &other.unwrap_or(Value::Null), &allowed)),
    };
    let last = list.len() - 1;
    let mut prefixed = false;
    let mut messages = Vec::with_capacity(list.len());
    for (i, message) in list.into_iter().enumerate() {
        let prefix = message.get("prefix").cloned().filter(|p| !p.is_null() && *p != false);
        if let Some(value) = prefix {
            let fits = value == true && i == last && message["role"] == "assistant";
            if !fits {
                return Err(wrong(
                    &format!("messages[{i}].prefix"),
                    &value,
                    "true, in a last message of the assistant",
                ));
            }
            prefixed = true;
        }
        messages.push(one_message(i, message)?);
    }
    Ok((messages, prefixed))
}

fn one_message(i: usize, message: Value) -> Result<Value, Invalid> {
    let at = |field: &str| format!("messages[{i}].{field}");
    let mut map = match message {
        Value::Object(map) => map,
        other => return Err(wrong(&format!("messages[{i}]"), &other, "an object with role and content")),
    };
    let role = match map.get("role").and_then(Value::as_str) {
        Some(role @ ("system" | "user" | "assistant" | "tool")) => role.to_string(),
        // OpenAI's newer name for the same, and the older one for another.
        Some("developer") => "system".to_string(),
        Some("function") => "tool".to_string(),
        _ => {
            let value = map.get("role").cloned().unwrap_or(Value::Null);
            return Err(wrong(&at("role"), &value, "system, developer, user, assistant or tool"));
        }
    };
    let assistant = role == "assistant";
    // What only an assistant's message has is looked at in others too, and then left out.
    let mut given = |key: &str| map.shift_remove(key).filter(|v| !v.is_null());
    let mut calls = Vec::new();
    if let Some(value) = given("tool_calls").filter(|v| *v != json!([])) {
        calls = tools::calls(&at("tool_calls"), &value)?;
    } else if let Some(value) = given("function_call").filter(|v| !empty(v)) {
        calls = tools::calls(&at("function_call"), &json!([{ "function": value }]))?;
    }
    if !assistant {
        calls.clear();
    }
    let mut reasoning = None;
    for key in ["reasoning_content", "reasoning"] {
        match given(key) {
            None => {}
            Some(Value::String(text)) => reasoning = reasoning.or(Some(text)).filter(|s| assistant && !s.is_empty()),
            Some(other) => return Err(wrong(&at(key), &other, "a string")),
        }
    }
    let refusal = given("refusal").and_then(|v| v.as_str().map(str::to_string)).filter(|_| assistant);
    let mut out = Map::new();
    for key in ["name", "tool_call_id"] {
        match given(key) {
            None => {}
            Some(Value::String(text)) => drop(out.insert(key.to_string(), text.into())),
            Some(other) => return Err(wrong(&at(key), &other, "a string")),
        }
    }
    let absent = assistant && (!calls.is_empty() || reasoning.is_some() || refusal.is_some());
    let text = match map.shift_remove("content") {
        None | Some(Value::Null) if absent => refusal.unwrap_or_default(),
        other => content(&at("content"), other.unwrap_or(Value::Null))?,
    };
    let mut whole = Map::new();
    whole.insert("role".to_string(), role.into());
    whole.insert("content".to_string(), text.into());
    whole.extend(out);
    if !calls.is_empty() {
        whole.insert("tool_calls".to_string(), calls.into());
    }
    if let Some(text) = reasoning {
        whole.insert("reasoning_content".to_string(), text.into());
    }
    Ok(Value::Object(whole))
}

/// A string, or parts of text.
fn content(param: &str, value: Value) -> Result<String, Invalid> {
    let parts = match value {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => return Err(wrong(param, &other, "a string, or an array of {\"type\": \"text\", \"text\": ...}")),
    };
    let mut text = String::new();
    for (p, part) in parts.iter().enumerate() {
        let kind = part.get("type").and_then(Value::as_str);
        match kind {
            Some(key @ ("text" | "refusal")) => match part.get(key) {
                Some(Value::String(piece)) => text.push_str(piece),
                other => {
                    return Err(wrong(&format!("{param}[{p}].{key}"), other.unwrap_or(&Value::Null), "a string"));
                }
            },
            _ => {
                let value = part.get("type").unwrap_or(&Value::Null);
                return Err(unsupported(&format!("{param}[{p}].type"), value, "only parts of type \"text\" are read"));
            }
        }
    }
    Ok(text)
}
