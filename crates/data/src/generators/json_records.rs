//! JSON to a small schema: requests in words, by a schema or with the facts given, and answers that are valid

use std::borrow::Cow;

use rand::RngExt;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};
use serde_json::ser::{Formatter, PrettyFormatter};
use serde_json::{Map, Value, json};

use super::common_words::CommonWords;
use super::conversation::Conversation;
use super::english::{article, enumeration, number_in_words};
use super::frames::{Frame, Section, section, sections};
use super::manual::Manual;
use super::names::{Person, people};
use super::shares::{Shares, chance};
use super::split::{Split, choose};
use super::{Generated, Generator};
use crate::options;

/// Settings of JSON records. Shares of kinds are relative to each other.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Share of requests in words, values to be made up.
    pub invent: f64,
    /// Share of requests for several records in an array.
    pub list: f64,
    /// Share of requests by a JSON schema.
    pub schema: f64,
    /// Share of requests that give the values.
    pub exact: f64,
    /// Share of answers on several lines, which the request then asks for.
    pub indented: f64,
    /// Fields of a record, at most.
    pub fields: usize,
    /// Share of records whose keys and values are any common words: what is asked for can only be copied then.
    pub coined: f64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { invent: 0.4, list: 0.1, schema: 0.2, exact: 0.3, indented: 0.1, fields: 5, coined: 0.0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Task {
    Invent,
    List,
    Schema,
    Exact,
}

impl Task {
    fn name(self) -> &'static str {
        match self {
            Task::Invent => "invent",
            Task::List => "list",
            Task::Schema => "schema",
            Task::Exact => "exact",
        }
    }
}

/// The list of values that are any common words.
const ANYTHING: &str = "anything";

/// What a field holds. Texts are named by their list of values.
#[derive(Clone, Debug)]
enum Type {
    Name,
    Text(&'static str),
    Integer(i64, i64),
    Decimal(i64, i64),
    Boolean,
    Choice(Vec<&'static str>),
    List(&'static str),
    Maybe(&'static str),
    Object(Vec<Field>),
}

#[derive(Clone, Debug)]
struct Field {
    key: Cow<'static, str>,
    kind: Type,
}

#[derive(Clone, Debug)]
struct Record {
    noun: &'static str,
    fields: Vec<Field>,
    line: u32,
}

/// The generator.
pub struct Json {
    settings: Settings,
    tasks: Shares<Task>,
    values: Vec<(&'static str, Split<&'static str>)>,
    people: Split<Person>,
    words: CommonWords,
    records: Split<Record>,
    requests: Vec<(&'static str, Split<Frame>)>,
}

/// Makes the generator from its settings.
///
/// # Errors
/// In words: a setting that is not known or cannot be.
pub fn make(table: toml::Table, _: &Manual) -> Result<Box<dyn Generator>, String> {
    Ok(Box::new(Json::new(options::read(table)?)?))
}

fn read_field(text: &'static str) -> Field {
    let (key, kind) = text.split_once(' ').expect("a key and its type");
    let (kind, rest) = kind.split_once(' ').unwrap_or((kind, ""));
    let range = || {
        let (low, high) = rest.split_once(' ').expect("a range");
        (low.parse().expect("a number"), high.parse().expect("a number"))
    };
    let kind = match kind {
        "name" => Type::Name,
        "text" => Type::Text(rest),
        "integer" => Type::Integer(range().0, range().1),
        "decimal" => Type::Decimal(range().0, range().1),
        "boolean" => Type::Boolean,
        "choice" => Type::Choice(rest.split('|').collect()),
        "list" => Type::List(rest),
        "maybe" => Type::Maybe(rest),
        "object" => Type::Object(rest.split("; ").map(read_field).collect()),
        _ => panic!("no type of a field: {text}"),
    };
    Field { key: key.into(), kind }
}

fn read_record(section: &Section) -> Option<Record> {
    section.name.strip_prefix("record ")?;
    let noun = section.lines.iter().find(|line| line.mark == '=')?;
    let fields = section.texts('-').map(read_field).collect();
    Some(Record { noun: noun.text, fields, line: noun.number })
}

impl Json {
    /// Checks the settings.
    ///
    /// # Errors
    /// In words: a setting that cannot be.
    pub fn new(settings: Settings) -> Result<Json, String> {
        chance("indented", settings.indented)?;
        chance("coined", settings.coined)?;
        if !(1..=7).contains(&settings.fields) {
            return Err(format!("fields {}: from 1 to 7", settings.fields));
        }
        let tasks = Shares::new(&[
            ("invent", Task::Invent, settings.invent),
            ("list", Task::List, settings.list),
            ("schema", Task::Schema, settings.schema),
            ("exact", Task::Exact, settings.exact),
        ])?;
        let sections = sections(include_str!("json_records.txt"));
        let values = sections.iter().filter_map(|section| {
            let name = section.name.strip_prefix("values ")?;
            let values = section.texts('-').flat_map(|line| line.split(", "));
            Some((name, Split::new(values, |value| (*value).to_owned())))
        });
        let requests = ["invent", "list", "schema", "exact", "indent"];
        Ok(Json {
            tasks,
            values: values.collect(),
            people: people(),
            words: CommonWords::read(),
            records: Split::new(sections.iter().filter_map(read_record), |record| record.noun.to_owned()),
            requests: requests.map(|name| (name, section(&sections, name).split('?'))).to_vec(),
            settings,
        })
    }

    fn request(&self, name: &str, random: &mut Pcg64, held_out: bool) -> &Frame {
        let (_, frames) = self.requests.iter().find(|(task, _)| *task == name).expect("requests of every task");
        frames.choose(random, held_out)
    }

    fn text(&self, list: &str, random: &mut Pcg64, held_out: bool) -> Cow<'static, str> {
        match list {
            "names" => return self.people.choose(random, held_out).name.into(),
            ANYTHING => return self.words.value(random, held_out).into(),
            _ => {}
        }
        let (_, values) = self.values.iter().find(|(name, _)| *name == list).expect("a list of values");
        (*values.choose(random, held_out)).into()
    }

    /// A value. Of a choice that is left to the answer it is the first: which one is taken then has to be seen in the request, and not guessed.
    fn value(&self, kind: &Type, given: bool, random: &mut Pcg64, held_out: bool) -> Value {
        match kind {
            Type::Name => self.text("names", random, held_out).into(),
            Type::Text(list) => self.text(list, random, held_out).into(),
            Type::Integer(low, high) => integer(*low, *high, random).into(),
            Type::Decimal(low, high) => {
                // Prices end in 5 or 0 cents.
                let cents = random.random_range(low * 20..=high * 20) * 5;
                json!(cents as f64 / 100.0)
            }
            Type::Boolean => random.random_bool(0.5).into(),
            Type::Choice(choices) if given => (*choose(random, choices)).into(),
            Type::Choice(choices) => choices[0].into(),
            Type::Maybe(_) if random.random_bool(0.4) => Value::Null,
            Type::Maybe(list) => self.text(list, random, held_out).into(),
            Type::List(list) => {
                let mut values: Vec<Cow<str>> = Vec::new();
                for _ in 0..random.random_range(1..=3) {
                    let value = self.text(list, random, held_out);
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
                values.into()
            }
            Type::Object(fields) => self.object(fields, given, random, held_out),
        }
    }

    /// A record of any common words.
    fn coined(&self, random: &mut Pcg64, held_out: bool) -> Record {
        let count = random.random_range(2..=self.settings.fields.max(2));
        Record { noun: self.words.thing(random, held_out), fields: self.fields(count, true, random, held_out), line: 0 }
    }

    /// So many fields of different keys; an object among them only if it may be.
    fn fields(&self, count: usize, deep: bool, random: &mut Pcg64, held_out: bool) -> Vec<Field> {
        let mut fields: Vec<Field> = Vec::with_capacity(count);
        while fields.len() < count {
            let key = self.words.name_of_field(random, held_out).replace(' ', "_");
            if fields.iter().any(|field| field.key == key) {
                continue;
            }
            let kind = match random.random_range(0..20) {
                0..7 => Type::Text(ANYTHING),
                7..11 => Type::Integer(0, *choose(random, &[10, 100, 1000, 10_000])),
                11 => Type::Decimal(0, 100),
                12 | 13 => Type::Boolean,
                14 | 15 => {
                    let choices = (0..random.random_range(2..=4)).map(|_| self.words.quality(random, held_out));
                    let mut choices: Vec<&str> = choices.collect();
                    choices.sort_unstable();
                    choices.dedup();
                    Type::Choice(choices)
                }
                16 => Type::List(ANYTHING),
                17 => Type::Maybe(ANYTHING),
                18 => Type::Name,
                _ if deep => Type::Object(self.fields(random.random_range(2..=3), false, random, held_out)),
                _ => Type::Text(ANYTHING),
            };
            fields.push(Field { key: key.into(), kind });
        }
        fields
    }

    fn object(&self, fields: &[Field], given: bool, random: &mut Pcg64, held_out: bool) -> Value {
        let value = |field: &Field| (field.key.to_string(), self.value(&field.kind, given, random, held_out));
        Value::Object(fields.iter().map(value).collect())
    }
}

/// A number of a range that may span several orders: round numbers are taken from the upper ones.
fn integer(low: i64, high: i64, random: &mut Pcg64) -> i64 {
    let number = random.random_range(low..=high);
    if high - low > 20_000 { number / 1000 * 1000 } else { number }.max(low)
}

impl Generator for Json {
    fn generate(&self, random: &mut Pcg64, held_out: bool) -> Generated {
        let task = self.tasks.choose(random);
        let coined = random.random_bool(self.settings.coined).then(|| self.coined(random, held_out));
        let record = coined.as_ref().unwrap_or_else(|| self.records.choose(random, held_out));
        let fields = some_of(&record.fields, self.settings.fields, random);
        let count = if task == Task::List { random.random_range(2..=4) } else { 1 };
        let mut schema = schema_of(&fields);
        let given = task == Task::Exact;
        let mut answer = self.object(&fields, given, random, held_out);
        if task == Task::List {
            let more = (1..count).map(|_| self.object(&fields, given, random, held_out));
            answer = std::iter::once(answer).chain(more.collect::<Vec<_>>()).collect();
            schema = json!({"type": "array", "items": schema, "minItems": count, "maxItems": count});
        }

        let indented = random.random_bool(self.settings.indented);
        let frame = self.request(task.name(), random, held_out);
        let mut lines: Vec<u32> = coined.is_none().then_some(record.line).into_iter().chain([frame.line]).collect();
        let request = Request { task, record, fields, count, answer, schema };
        let mut asked = request.write(frame, random);
        if indented {
            let frame = self.request("indent", random, held_out);
            lines.push(frame.line);
            asked.push(if asked.contains('\n') { '\n' } else { ' ' });
            frame.write(&[][..] as &[(&str, &str)], &mut asked);
        }
        let reply =
            if indented { write(&request.answer, PrettyFormatter::new()) } else { write(&request.answer, OneLine) };

        let mut labels = Map::new();
        labels.insert("answer".into(), reply.clone().into());
        labels.insert("kind".into(), task.name().into());
        let lines: Vec<String> = lines.iter().map(u32::to_string).collect();
        labels.insert("frame".into(), lines.join("+").into());
        labels.insert("schema".into(), request.schema);
        labels.insert("exact".into(), (task == Task::Exact).into());
        Conversation::exchange(asked, reply).generated(labels)
    }
}

/// What is asked for, with its answer.
struct Request<'a> {
    task: Task,
    record: &'a Record,
    fields: Vec<Field>,
    count: usize,
    answer: Value,
    schema: Value,
}

impl Request<'_> {
    fn write(&self, frame: &Frame, random: &mut Pcg64) -> String {
        let keys: Vec<&str> = self.fields.iter().map(|field| &*field.key).collect();
        let described: Vec<String> = self.fields.iter().map(described).collect();
        let noun = self.record.noun;
        let mut records = String::new();
        number_in_words(self.count as i64, &mut records);
        records.push(' ');
        records.push_str(&plural(noun));
        let facts = if self.task == Task::Exact { facts(&self.fields, &self.answer, random) } else { String::new() };
        let schema = if self.task == Task::Schema { write(&self.schema, OneLine) } else { String::new() };
        let asked = frame.fill(
            &[
                ("record", &*format!("{} {noun}", article(noun))),
                ("noun", noun),
                ("records", &records),
                ("fields", &enumeration(&described, "and")),
                ("keys", &enumeration(&keys, "and")),
                ("facts", &facts),
                ("schema", &schema),
            ][..],
        );
        // Facts that stand on lines of their own need no spaces around them.
        asked.replace(" \n", "\n").replace("\n ", "\n").trim().to_owned()
    }
}

fn plural(noun: &str) -> String {
    match noun.strip_suffix('y') {
        Some(stem) if !noun.ends_with(['a', 'e', 'o']) && !stem.ends_with(['a', 'e', 'o']) => format!("{stem}ies"),
        _ if noun.ends_with(['s', 'x', 'z']) || noun.ends_with("ch") || noun.ends_with("sh") => format!("{noun}es"),
        _ => format!("{noun}s"),
    }
}

/// Some of the fields, in any order.
fn some_of(fields: &[Field], max: usize, random: &mut Pcg64) -> Vec<Field> {
    let mut left: Vec<&Field> = fields.iter().collect();
    let count = random.random_range(1..=max.min(left.len())).max(2.min(max));
    let mut chosen: Vec<Field> = Vec::new();
    while chosen.len() < count && !left.is_empty() {
        let field = left.remove(random.random_range(0..left.len()));
        // Requests stay short: one object or list is enough.
        let long = |field: &Field| matches!(field.kind, Type::Object(_) | Type::List(_));
        if !(long(field) && chosen.iter().filter(|field| long(field)).count() > 1) {
            chosen.push(field.clone());
        }
    }
    chosen
}

/// A key with what the type allows, where its name does not say it: `married (true or false)`.
fn described(field: &Field) -> String {
    let key = &field.key;
    match &field.kind {
        Type::Boolean => format!("{key} (true or false)"),
        Type::Choice(choices) => format!("{key} ({})", enumeration(choices, "or")),
        Type::List(_) => format!("{key} (a list)"),
        Type::Maybe(_) => format!("{key} (or null)"),
        Type::Object(fields) => {
            let keys: Vec<String> = fields.iter().map(described).collect();
            format!("{key} (with {})", enumeration(&keys, "and"))
        }
        Type::Integer(..) => format!("{key} (a whole number)"),
        Type::Decimal(..) => format!("{key} (a number)"),
        Type::Name | Type::Text(_) => key.to_string(),
    }
}

/// JSON schema, 2020-12, of an object with these fields and no others.
fn schema_of(fields: &[Field]) -> Value {
    let mut properties = Map::new();
    for field in fields {
        let schema = match &field.kind {
            Type::Name | Type::Text(_) => json!({"type": "string"}),
            Type::Integer(..) => json!({"type": "integer"}),
            Type::Decimal(..) => json!({"type": "number"}),
            Type::Boolean => json!({"type": "boolean"}),
            Type::Choice(choices) => json!({"enum": choices}),
            Type::List(_) => json!({"type": "array", "items": {"type": "string"}}),
            Type::Maybe(_) => json!({"type": ["string", "null"]}),
            Type::Object(fields) => schema_of(fields),
        };
        properties.insert(field.key.to_string(), schema);
    }
    let required: Vec<&str> = fields.iter().map(|field| &*field.key).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// The values in words: `name: Mira; age: 7.`, one a line, or `The name is Mira and the age is 7.`
fn facts(fields: &[Field], answer: &Value, random: &mut Pcg64) -> String {
    // A sentence suits values that are a word or a number, and keys that are nouns.
    let simple = |field: &Field| {
        matches!(field.kind, Type::Name | Type::Text(_) | Type::Integer(..) | Type::Decimal(..) | Type::Choice(_))
            && !["from", "to", "by"].contains(&&*field.key)
    };
    let style = random.random_range(0..if fields.iter().all(simple) { 6 } else { 3 });
    let facts = fields.iter().map(|field| {
        let value = in_words(&answer[&*field.key]);
        let key = field.key.replace('_', " ");
        match style {
            0 | 1 => format!("{key}: {value}"),
            2 => format!("{key} = {value}"),
            _ if matches!(field.kind, Type::Integer(..)) && key.ends_with('s') => {
                format!("the number of {key} is {value}")
            }
            _ => format!("the {key} is {value}"),
        }
    });
    let facts: Vec<String> = facts.collect();
    match style {
        0 | 2 => facts.join("; ") + ".",
        1 => format!("\n{}\n", facts.join("\n")),
        _ => super::english::capitalized(&enumeration(&facts, "and")) + ".",
    }
}

fn in_words(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(in_words).collect::<Vec<_>>().join(", ")),
        Value::Object(object) => {
            let parts: Vec<String> = object.iter().map(|(key, value)| format!("{key} {}", in_words(value))).collect();
            format!("({})", parts.join(", "))
        }
    }
}

/// One line, with a space after colons and commas.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

fn write(value: &Value, formatter: impl Formatter) -> String {
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    value.serialize(&mut serializer).expect("writing into memory");
    String::from_utf8(out).expect("JSON is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generators::tests::documents;

    fn exchange(document: &Generated) -> (&str, &str) {
        let messages = &document.labels["messages"];
        (messages[0]["content"].as_str().unwrap(), messages[1]["content"].as_str().unwrap())
    }

    #[test]
    fn answers_are_valid_to_their_schemas() {
        let json = Json::new(Settings::default()).unwrap();
        let coined = Json::new(Settings { coined: 1.0, ..Settings::default() }).unwrap();
        let known = [documents(&json, false, 5_000), documents(&json, true, 1_000)];
        for document in [known.concat(), documents(&coined, false, 3_000), documents(&coined, true, 1_000)].concat() {
            let (_, reply) = exchange(&document);
            let answer: Value = serde_json::from_str(reply).unwrap();
            let schema = &document.labels["schema"];
            assert!(jsonschema::draft202012::is_valid(schema, &answer), "{}", document.text);
            // The schema says something: nothing else is valid.
            assert!(!jsonschema::draft202012::is_valid(schema, &json!({"other": 1})));
        }
    }

    #[test]
    fn schemas_in_requests_are_those_of_the_labels() {
        let json = Json::new(Settings { schema: 1.0, invent: 0.0, list: 0.0, exact: 0.0, ..Settings::default() });
        for document in documents(&json.unwrap(), false, 1_000) {
            let (request, _) = exchange(&document);
            let start = request.find('{').unwrap();
            let mut values = serde_json::Deserializer::from_str(&request[start..]).into_iter::<Value>();
            assert_eq!(values.next().unwrap().unwrap(), document.labels["schema"], "{request}");
        }
    }

    #[test]
    fn given_values_are_kept_and_keys_are_asked_for() {
        let json = Json::new(Settings { coined: 0.5, ..Settings::default() }).unwrap();
        let mut exact = 0;
        for document in documents(&json, false, 5_000) {
            let (request, reply) = exchange(&document);
            let answer: Value = serde_json::from_str(reply).unwrap();
            let object = answer.as_array().map_or(&answer, |items| &items[0]).as_object().unwrap();
            for (key, value) in object {
                assert!(request.contains(&**key) || request.contains(&key.replace('_', " ")), "{key}: {request}");
                if document.labels["exact"] == true {
                    let strings = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
                    for text in strings.iter().filter_map(Value::as_str) {
                        assert!(request.contains(text), "{text}: {request}");
                    }
                    assert!(!value.is_number() || request.contains(&value.to_string()), "{value}: {request}");
                    exact += 1;
                }
            }
        }
        assert!(exact > 3_000, "{exact}");
    }

    /// What the answer has to decide can be seen in the request: which values are numbers, and which of a choice is taken.
    #[test]
    fn requests_in_words_say_what_a_valid_answer_needs() {
        let json = Json::new(Settings { schema: 0.0, exact: 0.0, coined: 0.5, ..Settings::default() }).unwrap();
        let mut seen = [0; 3];
        for document in documents(&json, false, 2_000).into_iter().chain(documents(&json, true, 500)) {
            let (request, reply) = exchange(&document);
            let schema = &document.labels["schema"];
            let schema = schema.get("items").filter(|_| schema["type"] == "array").unwrap_or(schema);
            let answer: Value = serde_json::from_str(reply).unwrap();
            for (key, of_key) in schema["properties"].as_object().unwrap() {
                let says = |what: &str| request.contains(&format!("{key} ({what})"));
                let value = &answer.as_array().map_or(&answer, |items| &items[0])[key];
                match of_key["type"].as_str() {
                    Some("integer") => assert!(says("a whole number"), "{key}: {request}"),
                    Some("number") => assert!(says("a number"), "{key}: {request}"),
                    _ if of_key["enum"].is_array() => assert_eq!(value, &of_key["enum"][0], "{request}"),
                    _ => continue,
                }
                seen[if of_key["enum"].is_array() { 0 } else { 1 + usize::from(of_key["type"] == "number") }] += 1;
            }
        }
        assert!(seen.iter().all(|&count| count > 50), "{seen:?}");
    }

    #[test]
    fn records_and_their_nouns() {
        assert_eq!(plural("city"), "cities");
        assert_eq!(plural("match"), "matches");
        assert_eq!([plural("trip"), plural("fox"), plural("brush")], ["trips", "foxes", "brushes"]);
        let json = Json::new(Settings::default()).unwrap();
        assert!(json.records.of(false).len() >= 28 && json.records.of(true).len() >= 2);
        assert!(Json::new(Settings { fields: 0, ..Settings::default() }).err().unwrap().contains("fields 0"));
    }
}
