//! Tools, tool choice, and tool calls in the history, in the form of every dialect.

use serde_json::{Map, Value, json};
use text::chat::ToolCall;

use crate::api::fields::{Fields, Invalid, unsupported, wrong};
use crate::api::response_format::schema;
use crate::request::{Tool, ToolChoice, Tools};

/// Most tools of a request.
const TOOLS_MAX: usize = 512;
/// Longest name of a tool.
const NAME_BYTES_MAX: usize = 128;

const NAME: &str = "1 to 128 of the characters a-z A-Z 0-9 _ - . :";

fn is_name(name: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fine)
}

/// A function; `parameters` is the dialect's name of the schema.
pub fn function(param: &str, map: &Map<String, Value>, parameters: &str) -> Result<Tool, Invalid> {
    let at = |field: &str| format!("{param}.{field}");
    let get = |field: &str| map.get(field).filter(|v| !v.is_null());
    let name = match get("name") {
        Some(Value::String(name)) if is_name(name) => name.clone(),
        other => return Err(wrong(&at("name"), other.unwrap_or(&Value::Null), NAME)),
    };
    let description = match get("description") {
        None => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => return Err(wrong(&at("description"), other, "a string")),
    };
    let strict = match get("strict") {
        None => false,
        Some(Value::Bool(on)) => *on,
        Some(other) => return Err(wrong(&at("strict"), other, "true or false")),
    };
    let field = at(parameters);
    let parameters = match get(parameters) {
        None => json!({"type": "object", "properties": {}}),
        Some(value) if value.is_object() => schema(&field, value)?,
        Some(other) => return Err(wrong(&field, other, "a JSON schema: an object")),
    };
    Ok(Tool { name, description, parameters, field, strict })
}

/// A list of tools with unique names, each parsed by `one`.
pub fn list(
    fields: &mut Fields,
    one: impl Fn(&str, &Map<String, Value>) -> Result<Tool, Invalid>,
) -> Result<Vec<Tool>, Invalid> {
    let allowed = format!("an array of at most {TOOLS_MAX} tools");
    let items = match fields.take("tools") {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) if items.len() <= TOOLS_MAX => items,
        Some(other) => return Err(wrong("tools", &other, &allowed)),
    };
    let mut tools: Vec<Tool> = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let param = format!("tools[{i}]");
        let map = item.as_object().ok_or_else(|| wrong(&param, item, "an object"))?;
        let tool = one(&param, map)?;
        if tools.iter().any(|t| t.name == tool.name) {
            let nested = if item["function"].is_object() { ".function" } else { "" };
            return Err(wrong(&format!("{param}{nested}.name"), &tool.name.into(), "a name that no other tool has"));
        }
        tools.push(tool);
    }
    Ok(tools)
}

/// A tool of `/v1/chat/completions`.
fn nested(param: &str, map: &Map<String, Value>) -> Result<Tool, Invalid> {
    match map.get("type") {
        Some(Value::String(kind)) if kind == "function" => {}
        other => {
            let value = other.unwrap_or(&Value::Null);
            return Err(unsupported(&format!("{param}.type"), value, "only tools of type \"function\" are called"));
        }
    }
    let inner = map.get("function").unwrap_or(&Value::Null);
    let at = format!("{param}.function");
    function(&at, inner.as_object().ok_or_else(|| wrong(&at, inner, "an object with a name"))?, "parameters")
}

/// Checks that a required call is possible.
pub fn checked(param: &str, list: &[Tool], choice: ToolChoice) -> Result<ToolChoice, Invalid> {
    match &choice {
        ToolChoice::Required if list.is_empty() => Err(wrong(param, &"required".into(), "none or auto without tools")),
        ToolChoice::Named(name) if !list.iter().any(|t| t.name == *name) => {
            let names: Vec<&str> = list.iter().take(8).map(|t| t.name.as_str()).collect();
            Err(wrong(param, &name.as_str().into(), &format!("the name of one of the tools ({})", names.join(", "))))
        }
        _ => Ok(choice),
    }
}

const CHOICE: &str = "none, auto, required or {\"type\": \"function\", \"function\": {\"name\": ...}}";

/// `tool_choice` in OpenAI's words; `name` finds the name in an object of type `function`.
pub fn choice<'v>(value: &'v Value, name: impl Fn(&'v Value) -> Option<&'v str>) -> Result<ToolChoice, Invalid> {
    match (value.as_str(), value.get("type").and_then(Value::as_str)) {
        (Some("none"), _) => Ok(ToolChoice::None),
        (Some("auto"), _) => Ok(ToolChoice::Auto),
        (Some("required"), _) => Ok(ToolChoice::Required),
        (None, Some("function")) => match name(value) {
            Some(name) => Ok(ToolChoice::Named(name.to_string())),
            None => Err(wrong("tool_choice", value, CHOICE)),
        },
        _ => Err(wrong("tool_choice", value, CHOICE)),
    }
}

/// `allowed_tools`: removes all other tools.
fn allowed_tools(value: &Value, list: &mut Vec<Tool>) -> Result<Option<ToolChoice>, Invalid> {
    if value.get("type").and_then(Value::as_str) != Some("allowed_tools") {
        return Ok(None);
    }
    const ALLOWED: &str = "{\"mode\": \"auto\" or \"required\", \"tools\": [...]}";
    let inner = value.get("allowed_tools").unwrap_or(value);
    let bad = || wrong("tool_choice.allowed_tools", inner, ALLOWED);
    let names = inner.get("tools").and_then(Value::as_array).ok_or_else(bad)?;
    let name = |v: &Value| v.pointer("/function/name").or(v.get("name")).and_then(Value::as_str).map(str::to_string);
    let names: Vec<String> = names.iter().map(name).collect::<Option<_>>().ok_or_else(bad)?;
    let choice = match inner.get("mode").and_then(Value::as_str) {
        Some("auto") => ToolChoice::Auto,
        Some("required") => ToolChoice::Required,
        _ => return Err(bad()),
    };
    for name in &names {
        checked("tool_choice.allowed_tools", list, ToolChoice::Named(name.clone()))?;
    }
    list.retain(|t| names.contains(&t.name));
    Ok(Some(choice))
}

/// Tools of `/v1/chat/completions`, including the deprecated `functions`.
pub fn openai(fields: &mut Fields) -> Result<Tools, Invalid> {
    let mut tools = list(fields, nested)?;
    let functions = match fields.take("functions") {
        None => Vec::new(),
        Some(Value::Array(items)) if items.len() <= TOOLS_MAX => items,
        Some(other) => return Err(wrong("functions", &other, &format!("an array of at most {TOOLS_MAX} functions"))),
    };
    for (i, item) in functions.iter().enumerate() {
        let param = format!("functions[{i}]");
        let map = item.as_object().ok_or_else(|| wrong(&param, item, "an object with a name"))?;
        tools.push(function(&param, map, "parameters")?);
    }
    let parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true) && functions.is_empty();
    let chosen = match fields.take("tool_choice") {
        None => None,
        Some(value) => Some(match allowed_tools(&value, &mut tools)? {
            Some(choice) => choice,
            None => choice(&value, |v| v.pointer("/function/name").and_then(Value::as_str))?,
        }),
    };
    let older = match fields.take("function_call") {
        None => None,
        Some(value) => match (value.as_str(), value.get("name").and_then(Value::as_str)) {
            (Some("none"), _) => Some(ToolChoice::None),
            (Some("auto"), _) => Some(ToolChoice::Auto),
            (None, Some(name)) => Some(ToolChoice::Named(name.to_string())),
            _ => return Err(wrong("function_call", &value, "none, auto or {\"name\": ...}")),
        },
    };
    let key = if chosen.is_some() { "tool_choice" } else { "function_call" };
    let choice = checked(key, &tools, chosen.or(older).unwrap_or_default())?;
    Ok(Tools { list: tools, choice, parallel, older: !functions.is_empty() })
}

/// Calls of an assistant message.
pub fn calls(param: &str, value: &Value) -> Result<Vec<ToolCall>, Invalid> {
    let items = value.as_array().filter(|c| c.len() <= TOOLS_MAX);
    let items = items.ok_or_else(|| wrong(param, value, &format!("an array of at most {TOOLS_MAX} calls")))?;
    items.iter().enumerate().map(|(i, item)| one_call(&format!("{param}[{i}]"), item)).collect()
}

fn one_call(param: &str, item: &Value) -> Result<ToolCall, Invalid> {
    let at = |field: &str| format!("{param}.{field}");
    let map = item.as_object().ok_or_else(|| wrong(param, item, "an object with id, type and function"))?;
    let id = match map.get("id") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(id)) => id.clone(),
        Some(other) => return Err(wrong(&at("id"), other, "a string")),
    };
    let function = map.get("function").unwrap_or(&Value::Null);
    let name = function.get("name").and_then(Value::as_str).filter(|n| is_name(n));
    let name = name.ok_or_else(|| wrong(&at("function.name"), function.get("name").unwrap_or(&Value::Null), NAME))?;
    let arguments = match function.get("arguments") {
        None | Some(Value::Null) => "{}".to_string(),
        Some(Value::String(text)) => text.clone(),
        Some(value @ Value::Object(_)) => value.to_string(),
        Some(other) => return Err(wrong(&at("function.arguments"), other, "a string of JSON")),
    };
    Ok(ToolCall { id, name: name.to_string(), arguments })
}
