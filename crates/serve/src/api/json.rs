//! JSON parsing that refuses duplicate keys.

use std::cell::{OnceCell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

/// Most characters of a path in an error.
const PATH_MAX: usize = 200;

/// Why parsing failed.
pub enum JsonError {
    /// Not JSON.
    Syntax(serde_json::Error),
    /// Path of a duplicate key: `messages[0].role`.
    Twice(String),
    /// A number is beyond what floating point holds: its path, empty where it is the whole text.
    Range(String),
}

/// Parses JSON without duplicate keys. Depth is limited by `serde_json` to 128.
///
/// # Errors
/// See `JsonError`.
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    let (twice, at) = (RefCell::new(None), OnceCell::new());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = ValueSeed { path: &Path::Root, twice: &twice, failed: &at }.deserialize(&mut deserializer);
    let parsed = parsed.and_then(|value| deserializer.end().map(|()| value));
    parsed.map_err(|error| match twice.take() {
        Some(path) => JsonError::Twice(path),
        // `serde_json` has no other word for it than this text.
        None if error.to_string().starts_with("number out of range") => {
            JsonError::Range(at.into_inner().unwrap_or_default())
        }
        None => JsonError::Syntax(error),
    })
}

enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    fn write(&self, out: &mut String) {
        match self {
            Path::Root => {}
            Path::Key(parent, key) => {
                parent.write(out);
                let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-$".contains(&b));
                if !plain {
                    out.push_str(&format!("[{}]", Value::from(*key)));
                } else {
                    out.push_str(if out.is_empty() { "" } else { "." });
                    out.push_str(key);
                }
            }
            Path::Index(parent, index) => {
                parent.write(out);
                out.push_str(&format!("[{index}]"));
            }
        }
    }

    /// The path, truncated if long.
    fn shown(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        if let Some((at, _)) = out.char_indices().nth(PATH_MAX) {
            out.truncate(at);
            out.push('…');
        }
        out
    }
}

/// Deserializer of the value at a path.
#[derive(Clone, Copy)]
struct ValueSeed<'a> {
    path: &'a Path<'a>,
    twice: &'a RefCell<Option<String>>,
    /// The innermost place where something was refused.
    failed: &'a OnceCell<String>,
}

impl ValueSeed<'_> {
    /// Remember the place of a refusal, unless a deeper one is known.
    fn located<T, E>(&self, outcome: Result<T, E>) -> Result<T, E> {
        if outcome.is_err() {
            self.failed.get_or_init(|| self.path.shown());
        }
        outcome
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        loop {
            let path = Path::Index(self.path, array.len());
            let at = ValueSeed { path: &path, ..self };
            match at.located(items.next_element_seed(at))? {
                Some(value) => array.push(value),
                None => return Ok(Value::Array(array)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            match map.entry(key) {
                Entry::Vacant(place) => {
                    let path = Path::Key(self.path, place.key());
                    let at = ValueSeed { path: &path, ..self };
                    let value = at.located(members.next_value_seed(at))?;
                    place.insert(value);
                }
                Entry::Occupied(there) => {
                    self.twice.replace(Some(Path::Key(self.path, there.key()).shown()));
                    return Err(A::Error::custom("a key is given twice"));
                }
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        match parse(text.as_bytes()) {
            Ok(value) => format!("taken: {value}"),
            Err(JsonError::Syntax(error)) => format!("syntax: {error}"),
            Err(JsonError::Twice(path)) => path,
            Err(JsonError::Range(path)) => format!("range: {path}"),
        }
    }

    #[test]
    fn a_key_that_comes_twice_is_named_by_its_path() {
        for (text, path) in [
            (r#"{"n": 1, "n": 2}"#, "n"),
            (r#"{"n": 1, "n": 1}"#, "n"),
            (r#"{"n": null, "\u006e": 1}"#, "n"),
            (r#"{"messages": [{}, {"role": "user", "content": "", "role": "user"}]}"#, "messages[1].role"),
            (r#"{"a": {"b c": [[{"": 1, "": 2}]]}}"#, r#"a["b c"][0][0][""]"#),
            (r#"[{"a": 1}, {"a": 1, "a": 2}]"#, "[1].a"),
            // What comes after it is not read.
            (r#"{"n": 1, "n": !"#, "n"),
        ] {
            assert_eq!(refused(text), path, "{text}");
        }
        let long = format!(r#"{{"{0}": 1, "{0}": 1}}"#, "k".repeat(1 << 20));
        assert!(refused(&long).len() < 300);
        let deep = format!("{}{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
        assert!(refused(&deep).contains("recursion limit exceeded"), "{}", refused(&deep));
    }

    #[test]
    fn a_number_out_of_range_is_named_by_its_path() {
        let digits = "9".repeat(400);
        for (text, path) in [
            (r#"{"temperature": 1e999}"#.to_string(), "temperature"),
            (format!(r#"{{"a": [1, {{"b c": -{digits}}}]}}"#), r#"a[1]["b c"]"#),
            (digits.clone(), ""),
            ("[0, 1e400]".to_string(), "[1]"),
        ] {
            assert_eq!(refused(&text), format!("range: {path}"), "{text}");
        }
        assert!(refused(r#"{"a": 1e5e5}"#).starts_with("syntax: "));
    }

    /// Everything else is as `serde_json` reads it.
    #[test]
    fn other_values_are_read_as_they_are() {
        for text in [
            "null",
            "[]",
            "{}",
            " [1, -1, 0.5, 1e300, 18446744073709551615, -9223372036854775808, -0, -0.0, true, false, null]",
            "\"a\\ud83d\\ude00\"",
            r#"{"b": 1, "a": {"b": [], "c": "x"}, "B": 2}"#,
            "1 2",
            "{\"a\": 1,}",
            "[1",
            "",
            "nul",
            "\"\\ud800\"",
            "{\"a\": 1} x",
            "\u{ff}",
        ] {
            let (ours, plain) = (parse(text.as_bytes()), serde_json::from_str::<Value>(text));
            match (ours, plain) {
                (Ok(ours), Ok(plain)) => assert_eq!(ours.to_string(), plain.to_string(), "{text}"),
                (Err(JsonError::Syntax(ours)), Err(plain)) => assert_eq!(ours.to_string(), plain.to_string(), "{text}"),
                _ => panic!("{text}: {}", refused(text)),
            }
        }
    }
}
