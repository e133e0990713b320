//! Fields of a record: which of them are a document's text, id and labels

use serde_json::{Map, Value, json};

use crate::Document;
use crate::source::Source;

/// Fields that are listed of a record that lacks one.
const LISTED_MAX: usize = 20;

/// What becomes of the fields of a record.
#[derive(Clone, Debug)]
pub struct Fields {
    text: Text,
    id: Option<String>,
    keep: Vec<String>,
    /// Names that are looked for at the top of a record.
    wanted: Vec<String>,
    text_bytes_max: usize,
}

#[derive(Clone, Debug)]
enum Text {
    Field(String),
    Template(Vec<Piece>),
    Messages(String),
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Literal(String),
    Field(String),
}

impl Fields {
    /// What the source says.
    ///
    /// # Errors
    /// In words: a template that cannot be, `text` beside `messages`.
    pub fn of(source: &Source) -> Result<Fields, String> {
        let text = match (&source.text, &source.messages) {
            (Some(_), Some(_)) => {
                return Err("`text` and `messages` are both given; the contents of the messages are the text".into());
            }
            (None, Some(field)) => Text::Messages(field.clone()),
            (Some(text), None) if text.contains(['{', '}']) => Text::Template(template(text)?),
            (text, None) => Text::Field(text.clone().unwrap_or_else(|| "text".into())),
        };
        let mut fields = Fields {
            text,
            id: source.id.clone(),
            keep: source.keep.clone(),
            wanted: Vec::new(),
            text_bytes_max: source.document_bytes_max,
        };
        let mut wanted: Vec<String> = Vec::new();
        for path in fields.paths() {
            if path.is_empty() {
                return Err("a field without a name".into());
            }
            // Also a field whose own name has dots.
            let first = path.split('.').next().unwrap_or_default();
            wanted.extend([path, first].map(String::from));
        }
        wanted.sort();
        wanted.dedup();
        fields.wanted = wanted;
        Ok(fields)
    }

    /// All fields that are named, with dots.
    fn paths(&self) -> Vec<&str> {
        let text: Vec<&str> = match &self.text {
            Text::Field(field) | Text::Messages(field) => vec![field],
            Text::Template(pieces) => pieces.iter().filter_map(Piece::field).collect(),
        };
        text.into_iter().chain(self.id.as_deref()).chain(self.keep.iter().map(String::as_str)).collect()
    }

    /// All fields without which a record is no document.
    pub fn needed(&self) -> Vec<&str> {
        let keep = self.keep.len();
        let mut paths = self.paths();
        paths.truncate(paths.len() - keep);
        paths
    }

    /// Whether a field at the top of a record is looked for.
    pub fn wants(&self, name: &str) -> bool {
        self.wanted.iter().any(|wanted| wanted == name)
    }

    /// Makes a document of a record, of which only the wanted fields need be there. `id` is its id if the record has none.
    ///
    /// # Errors
    /// In words: a field that is missing or of another type.
    pub fn document(&self, record: &mut Map<String, Value>, id: impl FnOnce() -> String) -> Result<Document, Problem> {
        let mut labels = Map::new();
        for path in &self.keep {
            if let Some(value) = find(record, path) {
                labels.insert(path.clone(), value.clone());
            }
        }
        let id = match &self.id {
            None => id(),
            Some(path) => match find(record, path).ok_or_else(|| Problem::Missing(path.clone()))? {
                Value::String(id) => id.clone(),
                Value::Number(id) => id.to_string(),
                other => return Err(wrong_type(path, other, "text or a number")),
            },
        };
        let text = match &self.text {
            Text::Field(path) => match take(record, path).ok_or_else(|| Problem::Missing(path.clone()))? {
                Value::String(text) => text,
                other => return Err(wrong_type(path, &other, "text")),
            },
            Text::Template(pieces) => self.filled(pieces, record)?,
            Text::Messages(path) => {
                let value = take(record, path).ok_or_else(|| Problem::Missing(path.clone()))?;
                let (messages, text) = messages(path, &value)?;
                labels.insert("messages".into(), messages);
                text
            }
        };
        if text.len() > self.text_bytes_max {
            return Err(Problem::Other(too_long(text.len() as u64, self.text_bytes_max)));
        }
        let mut document = Document::new(id, text);
        document.labels = labels;
        Ok(document)
    }

    fn filled(&self, pieces: &[Piece], record: &Map<String, Value>) -> Result<String, Problem> {
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Field(path) => match find(record, path).ok_or_else(|| Problem::Missing(path.clone()))? {
                    Value::String(value) => text.push_str(value),
                    value @ (Value::Number(_) | Value::Bool(_)) => text.push_str(&value.to_string()),
                    other => return Err(wrong_type(path, other, "text, a number or a boolean")),
                },
            }
            if text.len() > self.text_bytes_max {
                return Err(Problem::Other(too_long(text.len() as u64, self.text_bytes_max)));
            }
        }
        Ok(text)
    }
}

/// What a document of so many bytes has that is too long.
pub fn too_long(bytes: u64, max: usize) -> String {
    format!("a text of {bytes} bytes, over document_bytes_max = {max}")
}

/// Why a record is no document.
#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    /// It has no such field.
    Missing(String),
    /// A field of another type, and what is wrong with it in words.
    Type(String, String),
    /// Something else, in words.
    Other(String),
}

impl Problem {
    /// The field that is missing or of another type.
    pub fn field(&self) -> Option<&str> {
        match self {
            Problem::Missing(field) | Problem::Type(field, _) => Some(field),
            Problem::Other(_) => None,
        }
    }

    /// In words, for a record with these fields.
    pub fn describe<'a>(self, names: impl Iterator<Item = &'a str>) -> String {
        match self {
            Problem::Other(problem) | Problem::Type(_, problem) => problem,
            Problem::Missing(field) => missing(&field, names),
        }
    }
}

/// Says that a field is missing, and which are there.
pub fn missing<'a>(field: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| name.chars().take(60).collect()).collect();
    let more = if names.len() > LISTED_MAX { format!(" and {} more", names.len() - LISTED_MAX) } else { String::new() };
    let listed = names[..names.len().min(LISTED_MAX)].join(", ");
    format!(
        "no field {field:?}; the record has {}",
        if listed.is_empty() { "none".into() } else { format!("fields {listed}{more}") }
    )
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn wrong_type(path: &str, value: &Value, expected: &str) -> Problem {
    Problem::Type(path.to_string(), format!("field {path:?} is {}, not {expected}", type_name(value)))
}

fn find<'a>(record: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = record.get(path) {
        return Some(value);
    }
    let (first, rest) = path.split_once('.')?;
    find(record.get(first)?.as_object()?, rest)
}

fn take(record: &mut Map<String, Value>, path: &str) -> Option<Value> {
    if let Some(value) = record.get_mut(path) {
        return Some(value.take());
    }
    let (first, rest) = path.split_once('.')?;
    take(record.get_mut(first)?.as_object_mut()?, rest)
}

impl Piece {
    fn field(&self) -> Option<&str> {
        match self {
            Piece::Field(field) => Some(field),
            Piece::Literal(_) => None,
        }
    }
}

/// Reads a template: `{field}` stands for a field, `{{` and `}}` for braces.
fn template(template: &str) -> Result<Vec<Piece>, String> {
    let wrong = |what: &str| {
        format!("text = {template:?}: {what}; `{{field}}` stands for a field, `{{{{` and `}}}}` for braces")
    };
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = template;
    while let Some(place) = rest.find(['{', '}']) {
        literal.push_str(&rest[..place]);
        let brace = &rest[place..place + 1];
        rest = &rest[place + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            literal.push_str(brace);
            rest = after;
        } else if brace == "}" {
            return Err(wrong("a `}` without `{`"));
        } else {
            let end = rest.find('}').ok_or_else(|| wrong("a `{` without `}`"))?;
            let name = &rest[..end];
            if name.is_empty() || name.contains('{') {
                return Err(wrong("no field between braces"));
            }
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Field(name.into()));
            rest = &rest[end + 1..];
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    if !pieces.iter().any(|piece| piece.field().is_some()) {
        return Err(wrong("it names no field"));
    }
    Ok(pieces)
}

/// Messages as `[{role, content}]`, and their contents joined by blank lines.
fn messages(path: &str, value: &Value) -> Result<(Value, String), Problem> {
    let wrong = |place: usize, what: String| Problem::Other(format!("field {path:?}, message {place}: {what}"));
    let list = value.as_array().ok_or_else(|| wrong_type(path, value, "a list of messages"))?;
    if list.is_empty() {
        return Err(Problem::Other(format!("field {path:?} has no messages")));
    }
    let (mut kept, mut contents) = (Vec::new(), Vec::new());
    for (i, message) in list.iter().enumerate() {
        let object =
            message.as_object().ok_or_else(|| wrong(i + 1, format!("it is {}, not an object", type_name(message))))?;
        let part = |name: &str| match object.get(name) {
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(other) => Err(wrong(i + 1, format!("its {name} is {}, not text", type_name(other)))),
            None => Err(wrong(i + 1, missing(name, object.keys().map(String::as_str)).replace("the record", "it"))),
        };
        let (role, content) = (part("role")?, part("content")?);
        kept.push(json!({"role": role, "content": content}));
        contents.push(content);
    }
    Ok((Value::Array(kept), contents.join("\n\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(settings: &str) -> Result<Fields, String> {
        Fields::of(&toml::from_str(&format!("name = \"a\"\nfiles = [\"a\"]\n{settings}")).unwrap())
    }

    fn document(settings: &str, record: Value) -> Result<(String, String, Value), String> {
        let mut record = record.as_object().unwrap().clone();
        let names: Vec<String> = record.keys().cloned().collect();
        match fields(settings).unwrap().document(&mut record, || "a/1".into()) {
            Ok(document) => Ok((document.id.clone(), document.text().into(), Value::Object(document.labels))),
            Err(problem) => Err(problem.describe(names.iter().map(String::as_str))),
        }
    }

    #[test]
    fn fields_become_text_id_and_labels() {
        let record = json!({"text": "T", "meta": {"id": 7, "lang": "en"}, "a.b": "dots", "url": "u"});
        let made = |id: &str, text: &str, labels: Value| Ok((id.to_string(), text.to_string(), labels));
        assert_eq!(document("", record.clone()), made("a/1", "T", json!({})));
        let all = "id = \"meta.id\"\nkeep = [\"meta.lang\", \"url\", \"nowhere\", \"text\"]";
        assert_eq!(document(all, record.clone()), made("7", "T", json!({"meta.lang": "en", "url": "u", "text": "T"})));
        assert_eq!(document("text = \"a.b\"", record.clone()), made("a/1", "dots", json!({})));
        assert_eq!(document("text = \"meta.lang\"", record.clone()), made("a/1", "en", json!({})));
        let template = "text = \"Q: {meta.lang}\\n{{{meta.id}}}\"";
        assert_eq!(document(template, record), made("a/1", "Q: en\n{7}", json!({})));
    }

    #[test]
    fn messages_become_a_label_and_text() {
        let record =
            json!({"talk": [{"role": "user", "content": "Hi", "x": 1}, {"role": "assistant", "content": "Ho"}]});
        let label = json!({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]});
        assert_eq!(document("messages = \"talk\"", record), Ok(("a/1".into(), "Hi\n\nHo".into(), label)));
        let error = |talk: Value| document("messages = \"talk\"", json!({"talk": talk})).unwrap_err();
        assert_eq!(error(json!([])), "field \"talk\" has no messages");
        assert_eq!(error(json!("x")), "field \"talk\" is text, not a list of messages");
        assert_eq!(
            error(json!([{"from": "human", "value": "x"}])),
            "field \"talk\", message 1: no field \"role\"; it has fields from, value"
        );
        assert_eq!(
            error(json!([{"role": "user", "content": null}])),
            "field \"talk\", message 1: its content is null, not text"
        );
    }

    #[test]
    fn missing_and_wrong_fields_are_named() {
        assert_eq!(document("", json!({"a": 1, "b": 2})).unwrap_err(), "no field \"text\"; the record has fields a, b");
        assert_eq!(document("", json!({})).unwrap_err(), "no field \"text\"; the record has none");
        assert_eq!(document("", json!({"text": null})).unwrap_err(), "field \"text\" is null, not text");
        assert_eq!(
            document("text = \"{a}\"", json!({"a": [1]})).unwrap_err(),
            "field \"a\" is a list, not text, a number or a boolean"
        );
        assert_eq!(
            document("id = \"id\"", json!({"text": "x", "id": {}})).unwrap_err(),
            "field \"id\" is an object, not text or a number"
        );
        assert_eq!(
            document("document_bytes_max = 3", json!({"text": "long"})).unwrap_err(),
            "a text of 4 bytes, over document_bytes_max = 3"
        );
        let many: Map<String, Value> = (0..30).map(|i| (format!("f{i}"), Value::Null)).collect();
        assert!(document("", Value::Object(many)).unwrap_err().ends_with("f19 and 10 more"));
    }

    #[test]
    fn templates_are_checked() {
        for wrong in ["{", "}", "{a", "a}", "{}", "{{a}}", "{a{b}}"] {
            assert!(fields(&format!("text = \"{wrong}\"")).is_err(), "{wrong}");
        }
        assert!(fields("text = \"a\"\nmessages = \"b\"").is_err());
        assert!(fields("keep = [\"\"]").is_err());
    }
}
