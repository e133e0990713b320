//! The response format: `response_format` and its like, and JSON schemas.

use serde_json::{Map, Value};

use crate::api::fields::{Field, Fields, wrong};
use crate::error::ApiError;
use crate::request::ResponseFormat;

/// Most levels of a schema, and most values in it.
const DEPTH_MAX: usize = 64;
const NODES_MAX: usize = 1 << 15;

const ALLOWED: &str = "{\"type\": \"text\"}, {\"type\": \"json_object\"} or \
    {\"type\": \"json_schema\", \"json_schema\": {\"name\": ..., \"schema\": {...}}}";

/// A response format, and the path of the field that gave it.
pub type FormatField = (ResponseFormat, String);

/// Parses OpenAI's `response_format` or vLLM's `structured_outputs`.
pub fn parse(fields: &mut Fields) -> Result<FormatField, ApiError> {
    let shaped = openai(fields)?;
    let Some(map) = fields.object("structured_outputs", "an object such as {\"regex\": ...}")? else {
        return Ok(shaped);
    };
    if shaped.0 != ResponseFormat::Text {
        return Err(wrong("structured_outputs", &Value::Object(map), "absent where response_format is given"));
    }
    structured(&map)
}

fn openai(fields: &mut Fields) -> Result<FormatField, ApiError> {
    let plain = |response_format| Ok((response_format, "response_format".to_string()));
    let Some(map) = fields.object("response_format", ALLOWED)? else { return plain(ResponseFormat::Text) };
    let map = Value::Object(map);
    let format = Field::new("response_format", &map);
    match format.kind() {
        Some("text") => plain(ResponseFormat::Text),
        Some("json_object") => plain(ResponseFormat::Object),
        Some("json_schema") => {
            let named = format.get("json_schema");
            if named.value.is_object() {
                named_schema(&named)
            } else {
                Err(named.wrong("{\"name\": ..., \"schema\": {...}}"))
            }
        }
        _ => Err(format.get("type").wrong("text, json_object or json_schema")),
    }
}

/// A schema with its name.
pub fn named_schema(named: &Field) -> Result<FormatField, ApiError> {
    let name = named.get("name");
    if !name.value.is_null() && !name.value.as_str().is_some_and(|name| (1..=64).contains(&name.len())) {
        return Err(name.wrong("a string of 1 to 64 bytes"));
    }
    let strict = named.get("strict").flag()?.unwrap_or(false);
    let field = named.get("schema");
    Ok((ResponseFormat::Schema { schema: schema(&field)?, strict }, field.path))
}

/// vLLM's `structured_outputs`.
fn structured(map: &Map<String, Value>) -> Result<FormatField, ApiError> {
    const ALLOWED: &str = "an object with one of json, json_object, regex, choice and grammar";
    let given: Vec<(&String, &Value)> = map.iter().filter(|(_, v)| !v.is_null()).collect();
    let whole = || wrong("structured_outputs", &Value::Object(map.clone()), ALLOWED);
    let [(key, value)] = given[..] else { return Err(whole()) };
    let field = Field::new(format!("structured_outputs.{}", key.chars().take(64).collect::<String>()), value);
    let text = || field.string().map(str::to_string);
    let response_format = match key.as_str() {
        "json" => Ok(ResponseFormat::Schema { schema: schema(&field)?, strict: false }),
        "json_object" if *value == true => Ok(ResponseFormat::Object),
        "regex" => text().map(ResponseFormat::Regex),
        "grammar" => text().map(ResponseFormat::Grammar),
        "choice" => {
            let list = value.as_array().filter(|l| !l.is_empty());
            let texts = list.and_then(|l| l.iter().map(|v| v.as_str().map(str::to_string)).collect());
            texts.map(ResponseFormat::Choice).ok_or_else(|| field.wrong("an array of strings"))
        }
        _ => Err(whole()),
    };
    Ok((response_format?, field.path))
}

/// A JSON schema within the limits of size. Its keywords are checked when it is compiled.
pub fn schema(field: &Field) -> Result<Value, ApiError> {
    if !field.value.is_object() && !field.value.is_boolean() {
        return Err(field.wrong("a JSON schema: an object"));
    }
    if !bounded(field.value, DEPTH_MAX, &mut 0) {
        return Err(field.wrong(&format!("at most {DEPTH_MAX} levels deep, with at most {NODES_MAX} values")));
    }
    Ok(field.value.clone())
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
