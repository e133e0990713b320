//! Validation of request bodies. Every error names the field, its value and what is allowed.

mod chat;
mod completion;
mod format;
mod json;
mod messages;
mod responses;
mod sampling;
mod tokens;
mod tools;

use engine::Sampling;
use serde_json::{Map, Value};

pub use chat::chat;
pub use completion::completion;
pub use messages::messages;
pub use responses::responses;
pub use tokens::{TokenizeRequest, detokenize, tokenize};

/// Longest value that an error repeats.
const SHOWN_MAX: usize = 100;

/// A refusal, for a 400.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The field, as a path: `messages[2].content`.
    pub param: Option<String>,
    /// One line: the field, its value, what is allowed.
    pub message: String,
    /// A word for programs.
    pub code: &'static str,
}

/// What a request is checked against: the model's own.
#[derive(Clone, Copy, Debug)]
pub struct ModelDefaults<'a> {
    /// How tokens are chosen where the request does not say.
    pub defaults: &'a Sampling,
    /// Ids are below it.
    pub vocab: usize,
}

/// A value as an error repeats it: short, on one line.
fn shown(value: &Value) -> String {
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

fn wrong(param: &str, value: &Value, allowed: &str) -> Invalid {
    let message = format!("{param} is {}; it must be {allowed}", shown(value));
    Invalid { param: Some(param.to_string()), message, code: "invalid_value" }
}

fn unsupported(param: &str, value: &Value, instead: &str) -> Invalid {
    let message = format!("{param} is {}, which is not supported; {instead}", shown(value));
    Invalid { param: Some(param.to_string()), message, code: "unsupported_value" }
}

/// The fields of a request; what is taken is known, `null` is absent.
#[derive(Debug)]
pub struct Fields {
    map: Map<String, Value>,
    /// What was asked for, whether it was there or not: the description of the API must name it.
    taken: Vec<&'static str>,
}

impl Fields {
    /// The body of a request.
    ///
    /// # Errors
    /// What is no JSON object, and a key that is given twice, at any depth.
    pub fn parse(bytes: &[u8]) -> Result<Fields, Invalid> {
        let plain = |message: String| Invalid { param: None, message, code: "invalid_json" };
        let value = json::parse(bytes).map_err(|refused| match refused {
            json::Refused::Syntax(e) => {
                plain(format!("the body is not JSON: {e}; send an object such as {{\"model\": ...}}"))
            }
            json::Refused::Twice(path) => Invalid {
                message: format!("{path} is given more than once; give it once"),
                param: Some(path),
                code: "duplicate_field",
            },
            json::Refused::Range(path) => {
                let place = if path.is_empty() { "the body" } else { &path };
                let message = format!("{place} is a number out of range; it must lie between -1.8e308 and 1.8e308");
                Invalid { message, param: (!path.is_empty()).then_some(path), code: "invalid_value" }
            }
        })?;
        match value {
            Value::Object(map) => Ok(Fields { map, taken: Vec::new() }),
            other => Err(plain(format!("the body is {}; it must be a JSON object", shown(&other)))),
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.taken.push(key);
        self.map.shift_remove(key).filter(|v| !v.is_null())
    }

    /// A field that is taken later.
    fn peek(&self, key: &str) -> Option<Value> {
        self.map.get(key).filter(|v| !v.is_null()).cloned()
    }

    fn number(&mut self, key: &'static str, low: f64, high: f64) -> Result<Option<f32>, Invalid> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = value.as_f64().filter(|x| x.is_finite() && *x >= low && *x <= high);
        number.map(|x| Some(x as f32)).ok_or_else(|| wrong(key, &value, &format!("a number from {low} to {high}")))
    }

    fn count(&mut self, key: &'static str, low: u64, high: u64) -> Result<Option<u64>, Invalid> {
        let Some(value) = self.take(key) else { return Ok(None) };
        counted_value(key, &value, low, high).map(Some)
    }

    fn flag(&mut self, key: &'static str) -> Result<Option<bool>, Invalid> {
        let Some(value) = self.take(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| wrong(key, &value, "true or false"))
    }

    fn text(&mut self, key: &'static str) -> Result<Option<String>, Invalid> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(key, &other, "a string")),
        }
    }

    fn object(&mut self, key: &'static str, allowed: &str) -> Result<Option<Map<String, Value>>, Invalid> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(wrong(key, &other, allowed)),
        }
    }

    /// A field whose only accepted values mean that it is not used.
    fn unused(&mut self, key: &'static str, none: impl Fn(&Value) -> bool, instead: &str) -> Result<(), Invalid> {
        match self.take(key) {
            Some(value) if !none(&value) => Err(unsupported(key, &value, instead)),
            _ => Ok(()),
        }
    }

    /// Fields that say nothing about the answer: who asks, where to keep it. They are taken whatever they hold.
    fn about(&mut self, keys: &[&'static str]) {
        keys.iter().for_each(|key| drop(self.take(key)));
    }

    /// Names of what was never asked for.
    fn unknown(&self) -> Vec<String> {
        self.map.keys().take(64).map(|k| k.chars().take(64).collect()).collect()
    }
}

/// A whole number, as JSON Schema has it: `3.0` is one too.
fn whole(value: &Value) -> Option<i64> {
    let float = || value.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 1e15).map(|x| x as i64);
    value.as_i64().or_else(float)
}

fn counted_value(param: &str, value: &Value, low: u64, high: u64) -> Result<u64, Invalid> {
    let number = value.as_u64().or_else(|| whole(value).and_then(|n| u64::try_from(n).ok()));
    number.filter(|n| *n >= low && *n <= high).ok_or_else(|| {
        let to = if high == u64::MAX { "on".to_string() } else { format!("to {high}") };
        wrong(param, value, &format!("a whole number from {low} {to}"))
    })
}

fn empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

#[cfg(test)]
mod tests;
