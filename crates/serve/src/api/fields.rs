//! Validation of request bodies. Every error names the field, its value and what is allowed.

use engine::Sampling;
use serde_json::{Map, Value};

use crate::api::json;
use crate::error::ApiError;
use crate::generation::served_model::ServedModel;

/// Most characters of a value that an error quotes.
const SHOWN_MAX: usize = 100;
/// Most names that are recorded of what a request is served without.
const IGNORED_MAX: usize = 32;
const IGNORED_CHARS_MAX: usize = 64;

/// What the model determines about a request.
#[derive(Clone, Copy, Debug)]
pub struct ModelDefaults<'a> {
    /// Default sampling parameters.
    pub defaults: &'a Sampling,
    /// Size of the vocabulary.
    pub vocab: usize,
}

impl ModelDefaults<'_> {
    pub(super) fn of(served: &ServedModel) -> ModelDefaults<'_> {
        ModelDefaults { defaults: &served.defaults, vocab: served.engine.vocab() }
    }
}

/// A value as an error quotes it: short and on one line.
pub(super) fn shown(value: &Value) -> String {
    let kind = match value {
        Value::Array(items) if items.len() > 8 => return format!("an array of {} items", items.len()),
        Value::Object(fields) if fields.len() > 8 => return format!("an object of {} fields", fields.len()),
        Value::String(text) => serde_json::to_string(&text.chars().take(SHOWN_MAX + 1).collect::<String>()),
        other => serde_json::to_string(other),
    };
    let mut text = kind.unwrap_or_default();
    if let Some((at, _)) = text.char_indices().nth(SHOWN_MAX) {
        text.truncate(at);
        text.push('…');
    }
    text
}

pub(crate) fn wrong(param: &str, value: &Value, allowed: &str) -> ApiError {
    ApiError::bad("invalid_value", format!("{param} is {}; it must be {allowed}", shown(value))).of(param)
}

pub(super) fn unsupported(param: &str, value: &Value, instead: &str) -> ApiError {
    let message = format!("{param} is {}, which is not supported; {instead}", shown(value));
    ApiError::bad("unsupported_value", message).of(param)
}

/// A value inside a body, with its path; null if it is absent.
pub(super) struct Field<'v> {
    pub path: String,
    pub value: &'v Value,
}

impl<'v> Field<'v> {
    pub fn new(path: impl Into<String>, value: &'v Value) -> Field<'v> {
        Field { path: path.into(), value }
    }

    pub fn get(&self, key: &str) -> Field<'v> {
        Field { path: format!("{}.{key}", self.path), value: self.value.get(key).unwrap_or(&Value::Null) }
    }

    /// The items of an array; none of anything else.
    pub fn items(&self) -> impl Iterator<Item = Field<'v>> {
        let items = self.value.as_array().into_iter().flatten().enumerate();
        items.map(|(i, value)| Field { path: format!("{}[{i}]", self.path), value })
    }

    /// The member `type`.
    pub fn kind(&self) -> Option<&'v str> {
        self.value.get("type").and_then(Value::as_str)
    }

    pub fn wrong(&self, allowed: &str) -> ApiError {
        wrong(&self.path, self.value, allowed)
    }

    pub fn unsupported(&self, instead: &str) -> ApiError {
        unsupported(&self.path, self.value, instead)
    }

    pub fn string(&self) -> Result<&'v str, ApiError> {
        self.value.as_str().ok_or_else(|| self.wrong("a string"))
    }

    /// A string, if it is there.
    pub fn text(&self) -> Result<Option<&'v str>, ApiError> {
        if self.value.is_null() { Ok(None) } else { self.string().map(Some) }
    }

    /// True or false, if it is there.
    pub fn flag(&self) -> Result<Option<bool>, ApiError> {
        match self.value {
            Value::Null => Ok(None),
            Value::Bool(on) => Ok(Some(*on)),
            _ => Err(self.wrong("true or false")),
        }
    }
}

/// How a dialect writes a text: as a string, or in parts.
pub(super) struct TextForm {
    pub allowed: &'static str,
    /// Types of parts, and the member that holds the text of each.
    pub parts: &'static [(&'static str, &'static str)],
    /// What an error says of other types.
    pub instead: &'static str,
}

impl TextForm {
    pub fn text(&self, field: &Field) -> Result<String, ApiError> {
        match field.value {
            Value::String(text) => Ok(text.clone()),
            Value::Array(_) => field.items().map(|part| self.part(&part)).collect(),
            _ => Err(field.wrong(self.allowed)),
        }
    }

    /// The text of a tool's result. Media, which no model here reads, become a note, so that the conversation goes on.
    pub fn result(&self, field: &Field) -> Result<String, ApiError> {
        match field.value {
            Value::Array(_) => field.items().map(|part| self.part_of_result(&part)).collect(),
            _ => self.text(field),
        }
    }

    fn part_of_result(&self, part: &Field) -> Result<String, ApiError> {
        let Some(kind) = part.kind().filter(|kind| self.parts.iter().all(|(known, _)| known != kind)) else {
            return self.part(part).map(str::to_string);
        };
        // The text of a document, a search result or an embedded resource.
        let plain = part.get("source").value["type"] == "text";
        let text = if plain { part.value.pointer("/source/data") } else { part.value.get("text") };
        let resource = part.value.pointer("/resource/text");
        if let Some(text) = text.or(resource).and_then(Value::as_str) {
            return Ok(text.to_string());
        }
        if part.get("content").value.is_array() {
            return part.get("content").items().map(|inner| self.part(&inner)).collect();
        }
        Ok(note(kind))
    }

    pub fn part<'v>(&self, part: &Field<'v>) -> Result<&'v str, ApiError> {
        match self.parts.iter().find(|(kind, _)| part.kind() == Some(kind)) {
            Some((_, key)) => part.get(key).string(),
            None => Err(part.get("type").unsupported(self.instead)),
        }
    }
}

/// What stands in the place of a part that is not text.
pub(super) fn note(kind: &str) -> String {
    let known = ["image", "screenshot", "audio", "video", "document", "file"];
    let what = known.into_iter().find(|word| kind.contains(word)).unwrap_or("attachment");
    format!("[{what} left out: this model reads text only]")
}

/// The fields of a body. Taking a field removes it; `null` counts as absent.
#[derive(Debug)]
pub struct Fields {
    map: Map<String, Value>,
    /// Keys that were looked up, for a test that compares them with the API's description.
    pub(super) taken: Vec<&'static str>,
    /// Tools and items that were left out of the request, by their types.
    ignored: Vec<String>,
}

impl Fields {
    /// Parses a body.
    ///
    /// # Errors
    /// No JSON object, or a key given twice at any depth.
    pub fn parse(bytes: &[u8]) -> Result<Fields, ApiError> {
        let value = json::parse(bytes).map_err(|refused| match refused {
            json::JsonError::Syntax(e) => ApiError::bad(
                "invalid_json",
                format!("the body is not JSON: {e}; send an object such as {{\"model\": ...}}"),
            ),
            json::JsonError::Twice(path) => {
                ApiError::bad("duplicate_field", format!("{path} is given more than once; give it once")).of(path)
            }
            json::JsonError::Range(path) => {
                let place = if path.is_empty() { "the body" } else { &path };
                let message = format!("{place} is a number out of range; it must lie between -1.8e308 and 1.8e308");
                ApiError { param: (!path.is_empty()).then_some(path), ..ApiError::bad("invalid_value", message) }
            }
        })?;
        match value {
            Value::Object(map) => Ok(Fields { map, taken: Vec::new(), ignored: Vec::new() }),
            other => {
                let message = format!("the body is {}; it must be a JSON object", shown(&other));
                Err(ApiError::bad("invalid_json", message))
            }
        }
    }

    /// The fields of an object inside a body.
    pub(super) fn of(map: Map<String, Value>) -> Fields {
        Fields { map, taken: Vec::new(), ignored: Vec::new() }
    }

    /// Whether a field is absent, null, or an empty string or array.
    pub(super) fn is_empty(&self, key: &str) -> bool {
        self.map.get(key).is_none_or(|v| v.is_null() || *v == "" || v.as_array().is_some_and(Vec::is_empty))
    }

    pub(crate) fn take(&mut self, key: &'static str) -> Option<Value> {
        self.taken.push(key);
        self.map.shift_remove(key).filter(|v| !v.is_null())
    }

    /// The value of a field that is taken later.
    pub(super) fn peek(&self, key: &str) -> Option<Value> {
        self.map.get(key).filter(|v| !v.is_null()).cloned()
    }

    /// The value of a field, to change it before it is taken.
    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.map.get_mut(key)
    }

    pub(super) fn number(&mut self, key: &'static str, low: f64, high: f64) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = value.as_f64().filter(|x| x.is_finite() && *x >= low && *x <= high);
        number.map(|x| Some(x as f32)).ok_or_else(|| wrong(key, &value, &format!("a number from {low} to {high}")))
    }

    pub(super) fn count(&mut self, key: &'static str, low: u64, high: u64) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        counted_value(key, &value, low, high).map(Some)
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Result<Option<bool>, ApiError> {
        Field::new(key, &self.take(key).unwrap_or_default()).flag()
    }

    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<String>, ApiError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(key, &other, "a string")),
        }
    }

    pub(super) fn object(&mut self, key: &'static str, allowed: &str) -> Result<Option<Map<String, Value>>, ApiError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(wrong(key, &other, allowed)),
        }
    }

    /// A field that is accepted only with values that mean it is not used.
    pub(super) fn unused(
        &mut self,
        key: &'static str,
        none: impl Fn(&Value) -> bool,
        instead: &str,
    ) -> Result<(), ApiError> {
        match self.take(key) {
            Some(value) if !none(&value) => Err(unsupported(key, &value, instead)),
            _ => Ok(()),
        }
    }

    /// Fields that do not affect the answer: accepted with any value.
    pub(super) fn about(&mut self, keys: &[&'static str]) {
        keys.iter().for_each(|key| drop(self.take(key)));
    }

    /// Records what is left out of the request: a tool that cannot be called here, or an item of one.
    pub(super) fn ignore(&mut self, what: &str) {
        let what: String = what.chars().take(IGNORED_CHARS_MAX).collect();
        if self.ignored.len() < IGNORED_MAX && !self.ignored.contains(&what) {
            self.ignored.push(what);
        }
    }

    /// What was left out.
    pub(super) fn ignored(&mut self) -> Vec<String> {
        std::mem::take(&mut self.ignored)
    }

    /// Names of fields that were not taken.
    pub(super) fn unknown(&self) -> Vec<String> {
        self.map.keys().take(64).map(|k| k.chars().take(64).collect()).collect()
    }
}

/// A whole number as JSON Schema defines it: `3.0` is one.
pub(super) fn whole(value: &Value) -> Option<i64> {
    let float = || value.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 9.2e18).map(|x| x as i64);
    value.as_i64().or_else(float)
}

pub(super) fn counted_value(param: &str, value: &Value, low: u64, high: u64) -> Result<u64, ApiError> {
    let number = value.as_u64().or_else(|| whole(value).and_then(|n| u64::try_from(n).ok()));
    number.filter(|n| *n >= low && *n <= high).ok_or_else(|| {
        let to = if high == u64::MAX { "on".to_string() } else { format!("to {high}") };
        wrong(param, value, &format!("a whole number from {low} {to}"))
    })
}

pub(super) fn empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}
