//! The response format: `response_format` and its like, and JSON schemas.

use serde_json::{Map, Value};

use crate::api::fields::{Field, Fields, wrong};
use crate::api::json;
use crate::error::ApiError;
use crate::request::ResponseFormat;

/// Most levels of a schema, and most values in it.
const DEPTH_MAX: usize = 64;
const NODES_MAX: usize = 1 << 15;

const ALLOWED: &str = "{\"type\": \"text\"}, {\"type\": \"json_object\"} or \
    {\"type\": \"json_schema\", \"json_schema\": {\"name\": ..., \"schema\": {...}}}";

/// A response format, and the path of the field that gave it.
pub type FormatField = (ResponseFormat, String);

/// Parses OpenAI's `response_format`, vLLM's `structured_outputs`, or a field that another server has for a constraint.
pub fn parse(fields: &mut Fields) -> Result<FormatField, ApiError> {
    let mut found = openai(fields)?;
    let mut add = |parsed: FormatField, value: &Value| {
        if found.0 != ResponseFormat::Text {
            let field = parsed.1.split('.').next().unwrap_or_default();
            return Err(wrong(field, value, &format!("absent where {} is given", found.1)));
        }
        found = parsed;
        Ok(())
    };
    if let Some(map) = fields.object("structured_outputs", "an object such as {\"regex\": ...}")? {
        add(structured(&map)?, &Value::Object(map))?;
    }
    for (key, read) in OTHERS {
        if let Some(value) = fields.take(key) {
            add((read(&Field::new(key, &value))?, key.to_string()), &value)?;
        }
    }
    Ok(found)
}

type Read = fn(&Field) -> Result<ResponseFormat, ApiError>;

/// vLLM's older fields, llama.cpp's `json_schema` and `grammar`, SGLang's `json_schema`, `regex` and `ebnf`.
const OTHERS: [(&str, Read); 8] = [
    ("guided_json", json_schema),
    ("guided_regex", regex),
    ("guided_choice", choice),
    ("guided_grammar", grammar),
    ("json_schema", json_schema),
    ("regex", regex),
    ("grammar", grammar),
    ("ebnf", grammar),
];

/// A schema, or the text of one.
fn json_schema(field: &Field) -> Result<ResponseFormat, ApiError> {
    let Some(text) = field.value.as_str() else {
        return Ok(ResponseFormat::Schema { schema: schema(field)?, strict: false });
    };
    let value = json::parse(text.as_bytes()).map_err(|_| field.wrong("a JSON schema: an object, or its text"))?;
    Ok(ResponseFormat::Schema { schema: schema(&Field::new(field.path.clone(), &value))?, strict: false })
}

fn regex(field: &Field) -> Result<ResponseFormat, ApiError> {
    field.string().map(|text| ResponseFormat::Regex(text.to_string()))
}

fn choice(field: &Field) -> Result<ResponseFormat, ApiError> {
    let list = field.value.as_array().filter(|l| !l.is_empty());
    let texts = list.and_then(|l| l.iter().map(|v| v.as_str().map(str::to_string)).collect());
    texts.map(ResponseFormat::Choice).ok_or_else(|| field.wrong("an array of strings"))
}

/// A grammar in Lark. Those in GBNF and EBNF cannot be enforced.
fn grammar(field: &Field) -> Result<ResponseFormat, ApiError> {
    let text = field.string()?;
    if text.contains("::=") {
        let message = format!("{} is a grammar in GBNF or EBNF, which is not supported; write it in Lark", field.path);
        return Err(ApiError::bad("unsupported_field", message).of(field.path.clone()));
    }
    Ok(ResponseFormat::Grammar(text.to_string()))
}

fn openai(fields: &mut Fields) -> Result<FormatField, ApiError> {
    let plain = |response_format| Ok((response_format, "response_format".to_string()));
    let Some(map) = fields.object("response_format", ALLOWED)? else { return plain(ResponseFormat::Text) };
    let map = Value::Object(map);
    let format = Field::new("response_format", &map);
    match format.kind() {
        Some("text") => plain(ResponseFormat::Text),
        // llama.cpp and others take a schema beside it.
        Some("json_object") if !format.get("schema").value.is_null() => {
            let field = format.get("schema");
            Ok((json_schema(&field)?, field.path))
        }
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
    let response_format = match key.as_str() {
        "json" => json_schema(&field),
        "json_object" if *value == true => Ok(ResponseFormat::Object),
        "regex" => regex(&field),
        "grammar" => grammar(&field),
        "choice" => choice(&field),
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
