//! Values of a configuration by type, whatever file they come from: each is absent, sound, or an error that names key and value.

use std::path::Path;

use serde_json::Value;

use crate::error::CheckpointError;
use crate::tensors::read_bounded;

/// A configuration's values.
pub trait ConfigValues {
    /// The file, for messages.
    fn path(&self) -> &Path;
    /// A number; `None` where there is none.
    fn number(&self, key: &str) -> Option<f64>;
    /// A truth value; `None` where there is none.
    fn boolean(&self, key: &str) -> Option<bool>;
    /// A text; `None` where there is none.
    fn text(&self, key: &str) -> Option<&str>;
    /// Nothing is given under the key.
    fn absent(&self, key: &str) -> bool;
    /// A value as people would see it.
    fn shown(&self, key: &str) -> String;
}

/// Largest configuration file that is read.
const JSON_BYTES_MAX: u64 = 1 << 20;

/// A configuration file.
pub(crate) fn read_json(
    path: &Path,
    is_sound: impl Fn(&Value) -> bool,
    expected: &str,
) -> Result<Value, CheckpointError> {
    let bytes = read_bounded(path, JSON_BYTES_MAX)?;
    let damaged = |what| CheckpointError::damaged(path, what);
    let json: Value = serde_json::from_slice(&bytes).map_err(|e| damaged(format!("not JSON: {e}")))?;
    if is_sound(&json) { Ok(json) } else { Err(damaged(format!("it must be {expected}"))) }
}

/// The error of a value that cannot be.
pub fn wrong<S: ConfigValues>(s: &S, key: &str, expected: impl Into<String>) -> CheckpointError {
    CheckpointError::Config {
        path: s.path().to_path_buf(),
        key: key.to_string(),
        value: s.shown(key),
        expected: expected.into(),
    }
}

/// A whole number in `low..=high`.
pub fn count<S: ConfigValues>(s: &S, key: &str, low: usize, high: usize) -> Result<usize, CheckpointError> {
    let value = s.number(key).filter(|v| v.fract() == 0.0 && *v >= low as f64 && *v <= high as f64);
    value.map(|v| v as usize).ok_or_else(|| wrong(s, key, format!("a whole number from {low} to {high}")))
}

/// A whole number in `0..=high`, or `default` where the key is absent.
pub fn count_or<S: ConfigValues>(s: &S, key: &str, default: usize, high: usize) -> Result<usize, CheckpointError> {
    if s.absent(key) { Ok(default) } else { count(s, key, 0, high) }
}

/// A positive finite number.
pub fn positive<S: ConfigValues>(s: &S, key: &str) -> Result<f64, CheckpointError> {
    let value = s.number(key).filter(|v| v.is_finite() && *v > 0.0);
    value.ok_or_else(|| wrong(s, key, "a number above 0"))
}

/// A positive finite number, or `default` where the key is absent.
pub fn positive_or<S: ConfigValues>(s: &S, key: &str, default: f64) -> Result<f64, CheckpointError> {
    if s.absent(key) { Ok(default) } else { positive(s, key) }
}

/// A finite number, or `default` where the key is absent.
pub fn number_or<S: ConfigValues>(s: &S, key: &str, default: f64) -> Result<f64, CheckpointError> {
    if s.absent(key) {
        return Ok(default);
    }
    s.number(key).filter(|v| v.is_finite()).ok_or_else(|| wrong(s, key, "a finite number"))
}

/// A truth value, or `default` where the key is absent.
pub fn flag_or<S: ConfigValues>(s: &S, key: &str, default: bool) -> Result<bool, CheckpointError> {
    if s.absent(key) {
        return Ok(default);
    }
    s.boolean(key).ok_or_else(|| wrong(s, key, "true or false"))
}

/// A text, where there is one.
pub fn text<'a, S: ConfigValues>(s: &'a S, key: &str) -> Result<Option<&'a str>, CheckpointError> {
    if s.absent(key) {
        return Ok(None);
    }
    s.text(key).map(Some).ok_or_else(|| wrong(s, key, "a text"))
}

/// An object of a JSON file. `null` counts as absent.
#[derive(Clone, Copy)]
pub struct Json<'a> {
    /// The file.
    pub path: &'a Path,
    /// The object.
    pub json: &'a Value,
}

impl ConfigValues for Json<'_> {
    fn path(&self) -> &Path {
        self.path
    }
    fn number(&self, key: &str) -> Option<f64> {
        self.json.get(key).and_then(Value::as_f64)
    }
    fn boolean(&self, key: &str) -> Option<bool> {
        self.json.get(key).and_then(Value::as_bool)
    }
    fn text(&self, key: &str) -> Option<&str> {
        self.json.get(key).and_then(Value::as_str)
    }
    fn absent(&self, key: &str) -> bool {
        self.json.get(key).is_none_or(Value::is_null)
    }
    fn shown(&self, key: &str) -> String {
        if self.absent(key) {
            return "absent".to_string();
        }
        self.json[key].to_string().chars().take(80).collect()
    }
}

impl<'a> Json<'a> {
    /// As `count_or`, where an explicit `null` means something else than an absent key.
    pub fn count_or_null(&self, key: &str, absent: usize, null: usize, high: usize) -> Result<usize, CheckpointError> {
        count_or(self, key, if self.json.get(key).is_none() { absent } else { null }, high)
    }

    /// An object inside.
    pub fn nested(&self, key: &str) -> Result<Option<Json<'a>>, CheckpointError> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(json) if json.is_object() => Ok(Some(Json { path: self.path, json })),
            Some(_) => Err(wrong(self, key, "an object")),
        }
    }

    /// A list; empty where it is absent.
    pub fn list(&self, key: &str) -> Result<&'a [Value], CheckpointError> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(&[]),
            Some(Value::Array(values)) => Ok(values),
            Some(_) => Err(wrong(self, key, "a list")),
        }
    }
}
