//! The response format: `response_format` and its like, and JSON schemas.

use serde_json::{Map, Value};

use crate::api::fields::{Fields, Invalid, wrong};
use crate::request::ResponseFormat;

/// Most levels of a schema, and most values in it.
const DEPTH_MAX: usize = 64;
const NODES_MAX: usize = 1 << 15;

const ALLOWED: &str = "{\"type\": \"text\"}, {\"type\": \"json_object\"} or \
    {\"type\": \"json_schema\", \"json_schema\": {\"name\": ..., \"schema\": {...}}}";

/// A response format, and the path of the field that gave it.
pub type FormatField = (ResponseFormat, String);

/// Parses OpenAI's `response_format` or vLLM's `structured_outputs`.
pub fn parse(fields: &mut Fields) -> Result<FormatField, Invalid> {
    let shaped = openai(fields)?;
    let Some(map) = fields.object("structured_outputs", "an object such as {\"regex\": ...}")? else {
        return Ok(shaped);
    };
    if shaped.0 != ResponseFormat::Text {
        return Err(wrong("structured_outputs", &Value::Object(map), "absent where response_format is given"));
    }
    structured(&map)
}

fn openai(fields: &mut Fields) -> Result<FormatField, Invalid> {
    let plain = |response_format| Ok((response_format, "response_format".to_string()));
    let Some(map) = fields.object("response_format", ALLOWED)? else { return plain(ResponseFormat::Text) };
    match map.get("type").and_then(Value::as_str) {
        Some("text") => plain(ResponseFormat::Text),
        Some("json_object") => plain(ResponseFormat::Object),
        Some("json_schema") => {
            let named = map.get("json_schema").and_then(Value::as_object);
            let named = named.ok_or_else(|| {
                let value = map.get("json_schema").unwrap_or(&Value::Null);
                wrong("response_format.json_schema", value, "{\"name\": ..., \"schema\": {...}}")
            })?;
            named_schema("response_format.json_schema", named)
        }
        _ => Err(wrong(
            "response_format.type",
            map.get("type").unwrap_or(&Value::Null),
            "text, json_object or json_schema",
        )),
    }
}

/// A schema with its name.
pub fn named_schema(param: &str, named: &Map<String, Value>) -> Result<FormatField, Invalid> {
    match named.get("name") {
        None | Some(Value::Null) => {}
        Some(Value::String(name)) if (1..=64).contains(&name.len()) => {}
        Some(other) => return Err(wrong(&format!("{param}.name"), other, "a string of 1 to 64 bytes")),
    }
    let strict = match named.get("strict") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(on)) => *on,
        Some(other) => return Err(wrong(&format!("{param}.strict"), other, "true or false")),
    };
    let value = named.get("schema").unwrap_or(&Value::Null);
    let field = format!("{param}.schema");
    Ok((ResponseFormat::Schema { schema: schema(&field, value)?, strict }, field))
}

/// vLLM's `structured_outputs`.
fn structured(map: &Map<String, Value>) -> Result<FormatField, Invalid> {
    const ALLOWED: &str = "an object with one of json, json_object, regex, choice and grammar";
    let given: Vec<(&String, &Value)> = map.iter().filter(|(_, v)| !v.is_null()).collect();
    let whole = || wrong("structured_outputs", &Value::Object(map.clone()), ALLOWED);
    let [(key, value)] = given[..] else { return Err(whole()) };
    let param = format!("structured_outputs.{}", key.chars().take(64).collect::<String>());
    let text = || value.as_str().map(str::to_string).ok_or_else(|| wrong(&param, value, "a string"));
    let response_format = match key.as_str() {
        "json" => Ok(ResponseFormat::Schema { schema: schema(&param, value)?, strict: false }),
        "json_object" if *value == true => Ok(ResponseFormat::Object),
        "regex" => text().map(ResponseFormat::Regex),
        "grammar" => text().map(ResponseFormat::Grammar),
        "choice" => {
            let list = value.as_array().filter(|l| !l.is_empty());
            let texts = list.and_then(|l| l.iter().map(|v| v.as_str().map(str::to_string)).collect());
            texts.map(ResponseFormat::Choice).ok_or_else(|| wrong(&param, value, "an array of strings"))
        }
        _ => Err(whole()),
    };
    Ok((response_format?, param))
}

/// A JSON schema within the limits of size. Its keywords are checked when it is compiled.
pub fn schema(param: &str, value: &Value) -> Result<Value, Invalid> {
    if !value.is_object() && !value.is_boolean() {
        return Err(wrong(param, value, "a JSON schema: an object"));
    }
    let mut nodes = 0;
    if !bounded(value, DEPTH_MAX, &mut nodes) {
        return Err(wrong(param, value, &format!("at most {DEPTH_MAX} levels deep, with at most {NODES_MAX} values")));
    }
    Ok(value.clone())
}

fn bounded(value: &Value, depth: usize, nodes: &mut usize) -> bool {
    *nodes += 1;
    if depth == 0 || *nodes > NODES_MAX {
        return false;
    }
    match value {
        Value::Array(items) => items.iter().all(|v| bounded(v, depth - 1, nodes)),
        Value::Object(map) => map.values().all(|v| bounded(v, depth - 1, nodes)),
        _ => true,
    }
}
