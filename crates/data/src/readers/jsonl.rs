//! JSON lines: an object a line, of which only the fields that the recipe names are built

use std::fmt;

use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::encoding::Encoding;
use super::fields::{self, Fields};
use super::lines::{Line, Lines};
use super::{Emit, Item, LinePlaces, UTF_16, damaged, decompressing, empty_file, id};
use crate::part::Part;
use crate::source::Source;
use crate::store::Handle;
use crate::{Document, Error};

/// Bytes of a line for each of its text: other fields, and escapes.
const LINE_PER_TEXT: usize = 4;

/// Records at the beginning of a file of which one has to be a document, if all have the same damage: then the recipe is wrong, not the records.
const FIRST_RECORDS: u64 = 1000;

/// Reads the lines that begin in the part.
pub fn read(source: &Source, part: &Part, emit: Emit) -> Result<(), Error> {
    let fields = Fields::of(source).map_err(|problem| Error::file(&part.file, problem))?;
    // One byte earlier, to see whether the part begins with a line.
    let from = part.range.start.saturating_sub(1);
    let input = match super::open(source, part, from)? {
        Ok(input) => input,
        Err(problem) => return emit(damaged(part.name.clone(), problem, b"")),
    };
    let (mut lines, mut line) = (Lines::new(input, from), Vec::new());
    if part.range.start > 0 {
        lines.next(&mut line, 0).map_err(Error::io(&part.file))?;
    }
    let places = LinePlaces::new(part, &lines);
    let start = (part.range.start == 0).then(Start::default);
    let mut reader = Reader { source, part, fields, lines, places, start };
    while reader.lines.offset() < part.range.end {
        if !reader.read_line(&mut line, emit)? {
            break;
        }
    }
    Ok(())
}

struct Reader<'a> {
    source: &'a Source,
    part: &'a Part,
    fields: Fields,
    lines: Lines<Handle>,
    places: LinePlaces<'a>,
    /// What the records of the file had so far, while all of them have the same damage.
    start: Option<Start>,
}

/// The first records of a file.
#[derive(Default)]
struct Start {
    records: u64,
    cause: Option<Cause>,
    /// The first of them, with its place.
    first: String,
}

/// What a whole file can have wrong.
#[derive(Clone, Debug, PartialEq)]
enum Cause {
    /// A field that is missing or of another type.
    Field(String),
    /// Lines that are no JSON objects.
    NoObject,
    /// All records are in one JSON array.
    Array,
    /// Anything else: it is the record's alone.
    Other,
}

/// A line that is no document: why, and in words.
type Problem = (Cause, String);

impl Reader<'_> {
    /// Reads one line. False at the end.
    fn read_line(&mut self, line: &mut Vec<u8>, emit: Emit) -> Result<bool, Error> {
        let begin = self.lines.offset();
        let max = self.source.document_bytes_max.saturating_mul(LINE_PER_TEXT);
        let problem = match self.lines.next(line, max) {
            Ok(Line::End) if begin == 0 => return emit(empty_file()).map(|()| false),
            Ok(Line::End) => return Ok(false),
            Ok(Line::Whole) => match self.document(line, begin) {
                Ok(None) => return Ok(true),
                Ok(Some(document)) => {
                    self.start = None;
                    return emit(Item::Document(document)).map(|()| true);
                }
                Err((Cause::Array, _)) => {
                    let next = "write one object a line, as `jq -c '.[]'` does";
                    return Err(Error::file(&self.part.file, format!("a JSON array, not JSON lines; {next}")));
                }
                Err((cause, problem)) => {
                    self.first_records(cause, &problem)?;
                    problem
                }
            },
            Ok(Line::Long(bytes)) => {
                format!("a line of {bytes} bytes, over {max} ({LINE_PER_TEXT} times document_bytes_max)")
            }
            Err(error) => {
                let problem = decompressing(self.part.file.path(), self.lines.input().is_damage(), error)?;
                let goes_on = self.lines.input().resume().map_err(Error::io(&self.part.file))?;
                self.emit_damaged(problem, line, emit)?;
                return Ok(goes_on);
            }
        };
        self.emit_damaged(problem, line, emit)?;
        Ok(true)
    }

    /// Ends the reading of a file whose first records all have the same damage.
    fn first_records(&mut self, cause: Cause, problem: &str) -> Result<(), Error> {
        let Some(start) = &mut self.start else { return Ok(()) };
        if cause == Cause::Other || start.cause.as_ref().is_some_and(|before| *before != cause) {
            self.start = None;
            return Ok(());
        }
        if start.records == 0 {
            let place = self.places.place(self.lines.number())?;
            start.first = format!("the first, {place}: {problem}");
        }
        start.records += 1;
        if start.records < FIRST_RECORDS {
            start.cause = Some(cause);
            return Ok(());
        }
        let next = match cause {
            Cause::Field(_) => "say in the recipe which fields are `text`, `id` or `messages`",
            _ => "say in the recipe which `format` it has",
        };
        let problem = format!("none of its first {FIRST_RECORDS} records is a document ({}); {next}", start.first);
        Err(Error::file(&self.part.file, problem))
    }

    fn emit_damaged(&mut self, problem: String, line: &[u8], emit: Emit) -> Result<(), Error> {
        let place = self.places.place(self.lines.number())?;
        emit(damaged(place, problem, line))
    }

    /// The document of a line; none if there is nothing on it.
    fn document(&self, line: &[u8], begin: u64) -> Result<Option<Document>, Problem> {
        let decoded;
        let line = match self.source.encoding {
            Encoding::Named(encoding) if encoding != encoding_rs::UTF_8 => {
                decoded = encoding
                    .decode_without_bom_handling_and_without_replacement(line)
                    .ok_or_else(|| (Cause::Other, format!("bytes that {} has not", encoding.name())))?;
                &decoded
            }
            _ if begin == 0 && (line.starts_with(b"\xff\xfe") || line.starts_with(b"\xfe\xff")) => {
                return Err((Cause::Other, UTF_16.into()));
            }
            _ => std::str::from_utf8(line)
                .map_err(|invalid| (Cause::Other, format!("no UTF-8 at byte {}", invalid.valid_up_to())))?,
        };
        let line = if begin == 0 { line.trim_start_matches('\u{feff}') } else { line }.trim_ascii();
        if begin == 0 && line.starts_with('[') {
            return Err((Cause::Array, String::new()));
        }
        if line.is_empty() {
            return Ok(None);
        }
        let mut record = wanted(line, &self.fields).map_err(|problem| (Cause::NoObject, problem))?;
        let problem = match self.fields.document(&mut record, || id(self.source, self.part, begin)) {
            Ok(document) => return Ok(Some(document)),
            Err(problem) => problem,
        };
        let cause = problem.field().map_or(Cause::Other, |field| Cause::Field(field.into()));
        let all: Map<String, Value> = match problem {
            fields::Problem::Missing(_) => {
                serde_json::from_str(line).map_err(|error| (Cause::Other, error.to_string()))?
            }
            _ => Map::new(),
        };
        Err((cause, problem.describe(all.keys().map(String::as_str))))
    }
}

/// The wanted fields of an object.
fn wanted(line: &str, fields: &Fields) -> Result<Map<String, Value>, String> {
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let record = deserializer.deserialize_map(Wanted(fields)).and_then(|record| deserializer.end().map(|()| record));
    record.map_err(|error| {
        let text = error.to_string();
        // The line is always 1.
        let text = text.replace("at line 1 column", "at column");
        if error.is_data() { text } else { format!("no JSON: {text}") }
    })
}

struct Wanted<'a>(&'a Fields);

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Map<String, Value>, A::Error> {
        let mut record = Map::new();
        while let Some(name) = access.next_key::<std::borrow::Cow<str>>()? {
            if !self.0.wants(&name) {
                access.next_value::<IgnoredAny>()?;
            } else if record.insert(name.to_string(), access.next_value()?).is_some() {
                return Err(A::Error::custom(format!("field {name:?} is there twice")));
            }
        }
        Ok(record)
    }
}
