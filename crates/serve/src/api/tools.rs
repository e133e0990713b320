//! Tools, tool choice, and tool calls in the history, in the form of every dialect.

use serde_json::{Value, json};
use text::chat::ToolCall;

use crate::api::fields::{Field, Fields, unsupported, wrong};
use crate::api::response_format::schema;
use crate::error::ApiError;
use crate::request::{Tool, ToolChoice, Tools};

const TOOLS_MAX: usize = 512;
const NAME_BYTES_MAX: usize = 128;

const NAME: &str = "1 to 128 of the characters a-z A-Z 0-9 _ - . :";

fn is_name(name: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fine)
}

/// A function; `parameters` is the dialect's name of the schema.
pub fn function(field: &Field, parameters: &str) -> Result<Tool, ApiError> {
    let name = tool_name(&field.get("name"))?;
    let description = field.get("description").text()?.map(str::to_string);
    let strict = field.get("strict").flag()?.unwrap_or(false);
    let field = field.get(parameters);
    let parameters = match field.value {
        Value::Null => json!({"type": "object", "properties": {}}),
        Value::Object(_) => schema(&field)?,
        _ => return Err(field.wrong("a JSON schema: an object")),
    };
    Ok(Tool { name, description, parameters, field: field.path, strict, namespace: None })
}

fn tool_name(field: &Field) -> Result<String, ApiError> {
    let name = field.value.as_str().filter(|name| is_name(name));
    name.map(str::to_string).ok_or_else(|| field.wrong(NAME))
}

/// The functions among the tools, with unique names, each parsed by `one`; those of namespaces are told by both names. Other
/// tools cannot be called here (`one` gives nothing): the request is served without them.
pub fn list(
    fields: &mut Fields,
    one: impl Fn(&Field) -> Result<Option<Tool>, ApiError>,
) -> Result<Vec<Tool>, ApiError> {
    let items = fields.take("tools").unwrap_or_else(|| json!([]));
    let items = Field::new("tools", &items);
    let inside = |item: &Field| if item.kind() == Some(NAMESPACE) { item.get("tools").items().count() } else { 1 };
    if items.value.as_array().is_none_or(|_| items.items().map(|item| inside(&item)).sum::<usize>() > TOOLS_MAX) {
        return Err(items.wrong(&format!("an array of at most {TOOLS_MAX} tools")));
    }
    let mut tools: Vec<Tool> = Vec::new();
    for item in items.items() {
        if !item.value.is_object() {
            return Err(item.wrong("an object"));
        }
        if item.kind() != Some(NAMESPACE) {
            add(&mut tools, &item, None, fields, &one)?;
            continue;
        }
        let namespace = tool_name(&item.get("name"))?;
        for inner in item.get("tools").items() {
            if !inner.value.is_object() {
                return Err(inner.wrong("an object"));
            }
            add(&mut tools, &inner, Some(&namespace), fields, &one)?;
        }
    }
    Ok(tools)
}

const NAMESPACE: &str = "namespace";

fn add(
    tools: &mut Vec<Tool>,
    item: &Field,
    namespace: Option<&str>,
    fields: &mut Fields,
    one: impl Fn(&Field) -> Result<Option<Tool>, ApiError>,
) -> Result<(), ApiError> {
    let parsed = if namespace.is_some() && item.kind() == Some(NAMESPACE) { None } else { one(item)? };
    let Some(mut tool) = parsed else {
        let kind = item.kind().unwrap_or_default();
        let name = item.get("name").value.as_str().filter(|name| *name != kind);
        fields.ignore(&name.map_or_else(|| kind.to_string(), |name| format!("{kind}:{name}")));
        return Ok(());
    };
    let nested = if item.value["function"].is_object() { ".function" } else { "" };
    let param = format!("{}{nested}.name", item.path);
    if let Some(namespace) = namespace {
        let whole = qualified(namespace, &tool.name);
        if !is_name(&whole) {
            return Err(wrong(&param, &whole.into(), NAME));
        }
        tool.namespace = Some((namespace.to_string(), std::mem::replace(&mut tool.name, whole)));
    }
    if tools.iter().any(|t| t.name == tool.name) {
        return Err(wrong(&param, &tool.name.into(), "a name that no other tool has"));
    }
    tools.push(tool);
    Ok(())
}

/// The one name by which a model knows a function of a namespace.
pub fn qualified(namespace: &str, name: &str) -> String {
    let between = if namespace.ends_with(['_', '.', '-', ':']) { "" } else { "__" };
    format!("{namespace}{between}{name}")
}

/// A tool of `/v1/chat/completions`.
fn nested(tool: &Field) -> Result<Option<Tool>, ApiError> {
    if !is_function(tool)? {
        return Ok(None);
    }
    let inner = tool.get("function");
    if inner.value.is_object() {
        function(&inner, "parameters").map(Some)
    } else {
        Err(inner.wrong("an object with a name"))
    }
}

/// Whether a tool of OpenAI's is a function.
pub fn is_function(tool: &Field) -> Result<bool, ApiError> {
    match tool.kind() {
        Some(kind) => Ok(kind == "function"),
        None => Err(tool.get("type").wrong("function; tools of other types are left out")),
    }
}

/// Checks that a required call is possible.
pub fn checked(param: &str, list: &[Tool], choice: ToolChoice) -> Result<ToolChoice, ApiError> {
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
pub fn choice<'v>(value: &'v Value, name: impl Fn(&'v Value) -> Option<&'v str>) -> Result<ToolChoice, ApiError> {
    match (value.as_str(), value.get("type").and_then(Value::as_str)) {
        (Some("none"), _) => Ok(ToolChoice::None),
        (Some("auto"), _) => Ok(ToolChoice::Auto),
        (Some("required"), _) => Ok(ToolChoice::Required),
        (None, Some("function")) => match name(value) {
            Some(name) => Ok(ToolChoice::Named(name.to_string())),
            None => Err(wrong("tool_choice", value, CHOICE)),
        },
        (None, Some(_)) => Err(unsupported("tool_choice", value, "only functions can be called here")),
        _ => Err(wrong("tool_choice", value, CHOICE)),
    }
}

/// `allowed_tools`: removes all other tools.
pub fn allowed_tools(value: &Value, list: &mut Vec<Tool>) -> Result<Option<ToolChoice>, ApiError> {
    if value.get("type").and_then(Value::as_str) != Some("allowed_tools") {
        return Ok(None);
    }
    const ALLOWED: &str = "{\"mode\": \"auto\" or \"required\", \"tools\": [...]}";
    let inner = value.get("allowed_tools").unwrap_or(value);
    let bad = || wrong("tool_choice.allowed_tools", inner, ALLOWED);
    let names = inner.get("tools").and_then(Value::as_array).ok_or_else(bad)?;
    let name = |v: &Value| v.pointer("/function/name").or(v.get("name")).and_then(Value::as_str).map(str::to_string);
    // Others are left out of the tools too.
    let functions = names.iter().filter(|v| v.get("type").is_none_or(|kind| kind == "function"));
    let names: Vec<String> = functions.map(name).collect::<Option<_>>().ok_or_else(bad)?;
    let choice = match inner.get("mode").and_then(Value::as_str) {
        Some("auto") => ToolChoice::Auto,
        Some("required") => ToolChoice::Required,
        _ => return Err(bad()),
    };
    for name in &names {
        checked("tool_choice.allowed_tools", list, ToolChoice::Named(name.clone()))?;
    }
    list.retain(|t| names.contains(&t.name));
    let choice = checked("tool_choice.allowed_tools", list, choice)?;
    Ok(Some(choice))
}

/// Tools of `/v1/chat/completions`, including the deprecated `functions`.
pub fn openai(fields: &mut Fields) -> Result<Tools, ApiError> {
    let mut tools = list(fields, nested)?;
    let functions = match fields.take("functions") {
        None => Vec::new(),
        Some(Value::Array(items)) if items.len() <= TOOLS_MAX => items,
        Some(other) => return Err(wrong("functions", &other, &format!("an array of at most {TOOLS_MAX} functions"))),
    };
    let older = !functions.is_empty();
    for item in Field::new("functions", &Value::Array(functions)).items() {
        if !item.value.is_object() {
            return Err(item.wrong("an object with a name"));
        }
        tools.push(function(&item, "parameters")?);
    }
    let parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true) && !older;
    let chosen = match fields.take("tool_choice") {
        None => None,
        Some(value) => Some(match allowed_tools(&value, &mut tools)? {
            Some(choice) => choice,
            None => choice(&value, |v| v.pointer("/function/name").and_then(Value::as_str))?,
        }),
    };
    let older_choice = match fields.take("function_call") {
        None => None,
        Some(value) => match (value.as_str(), value.get("name").and_then(Value::as_str)) {
            (Some("none"), _) => Some(ToolChoice::None),
            (Some("auto"), _) => Some(ToolChoice::Auto),
            (None, Some(name)) => Some(ToolChoice::Named(name.to_string())),
            _ => return Err(wrong("function_call", &value, "none, auto or {\"name\": ...}")),
        },
    };
    let key = if chosen.is_some() { "tool_choice" } else { "function_call" };
    let choice = checked(key, &tools, chosen.or(older_choice).unwrap_or_default())?;
    Ok(Tools { list: tools, choice, parallel, older })
}

/// Calls of an assistant message.
pub fn calls(field: &Field) -> Result<Vec<ToolCall>, ApiError> {
    if field.value.as_array().is_none_or(|calls| calls.len() > TOOLS_MAX) {
        return Err(field.wrong(&format!("an array of at most {TOOLS_MAX} calls")));
    }
    field.items().map(|call| one_call(&call)).collect()
}

fn one_call(call: &Field) -> Result<ToolCall, ApiError> {
    if !call.value.is_object() {
        return Err(call.wrong("an object with id, type and function"));
    }
    let id = call.get("id").text()?.unwrap_or_default().to_string();
    let function = call.get("function");
    let name = tool_name(&function.get("name"))?;
    let arguments = function.get("arguments");
    let arguments = match arguments.value {
        Value::Null => "{}".to_string(),
        Value::String(text) => text.clone(),
        Value::Object(_) => arguments.value.to_string(),
        _ => return Err(arguments.wrong("a string of JSON")),
    };
    Ok(ToolCall { id, name, arguments })
}
