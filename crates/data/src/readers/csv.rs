//! CSV and TSV: records behind a header line, of which only the fields that the recipe names are built (RFC 4180)

use std::io::{self, BufRead, BufReader};

use csv_core::{ReadRecordResult, ReaderBuilder};
use serde_json::{Map, Value};

use super::compressed::Input;
use super::encoding::Encoding;
use super::fields::{Fields, missing};
use super::{Emit, Item, UTF_16, damaged, decompressing, empty_file, id};
use crate::part::Part;
use crate::source::Source;
use crate::store::Handle;
use crate::{Document, Error};

/// Bytes of a record for each of its text: other fields.
const RECORD_PER_TEXT: usize = 4;

/// Fields of a record.
const FIELDS_MAX: usize = 10_000;

/// Bytes of a header line.
const HEADER_BYTES_MAX: usize = 1 << 20;

/// Bytes that are held of a record that is too long, to show what it was.
const SHOWN: usize = 1 << 10;

/// Reads the records of a file whose fields are separated by this byte.
pub fn read(source: &Source, part: &Part, delimiter: u8, emit: Emit) -> Result<(), Error> {
    let fields = Fields::of(source).map_err(|problem| Error::file(&part.file, problem))?;
    let input = match super::open(source, part, 0)? {
        Ok(input) => input,
        Err(problem) => return emit(damaged(part.name.clone(), problem, b"")),
    };
    let mut records = Records::new(input, delimiter);
    let header = match records.next(HEADER_BYTES_MAX) {
        Ok(Found::End) => return emit(empty_file()),
        Ok(Found::Record) => header(source, &records),
        Ok(Found::TooLong(problem)) => Err(format!("its header line has {problem}")),
        Err(error) => Err(decompressing(part.file.path(), records.input.get_mut().is_damage(), error)?),
    };
    let header = match header {
        Ok(header) => header,
        Err(problem) => return emit(damaged(part.name.clone(), problem, records.shown())),
    };
    let columns = columns(&header, &fields).map_err(|problem| Error::file(&part.file, problem))?;
    let reader = Reader { source, part, fields, columns, width: header.len() };
    let max = source.document_bytes_max.saturating_mul(RECORD_PER_TEXT);
    for row in 1.. {
        let problem = match records.next(max) {
            Ok(Found::End) => break,
            Ok(Found::Record) => match reader.document(&records, row) {
                Ok(document) => {
                    emit(Item::Document(document))?;
                    continue;
                }
                Err(problem) => problem,
            },
            Ok(Found::TooLong(problem)) => {
                format!("a record of {problem}; is a quotation mark not closed?")
            }
            Err(error) => {
                // Behind damage it is not known whether a field is open.
                let problem = decompressing(part.file.path(), records.input.get_mut().is_damage(), error)?;
                let problem = format!("{problem}; the rest of the file is not read");
                return emit(damaged(reader.place(row), problem, records.shown()));
            }
        };
        emit(damaged(reader.place(row), problem, records.shown()))?;
    }
    Ok(())
}

/// Names of the columns.
fn header(source: &Source, records: &Records) -> Result<Vec<String>, String> {
    if records.fields().next().is_some_and(|first| first.starts_with(b"\xff\xfe") || first.starts_with(b"\xfe\xff")) {
        return Err(UTF_16.into());
    }
    records.fields().map(|name| Ok(decoded(name, source.encoding)?.trim().to_string())).collect()
}

/// The columns that the recipe names, by number and name.
fn columns(header: &[String], fields: &Fields) -> Result<Vec<(usize, String)>, String> {
    let columns: Vec<(usize, String)> =
        header.iter().cloned().enumerate().filter(|(_, name)| fields.wants(name)).collect();
    for path in fields.needed() {
        match columns.iter().filter(|(_, name)| name == path).count() {
            0 => {
                let problem = missing(path, header.iter().map(String::as_str));
                let problem = problem.replace("the record has fields", "its columns are");
                return Err(format!("{problem}; say in the recipe which column is `text` or `id`"));
            }
            1 => {}
            more => return Err(format!("{more} columns have the name {path:?}, and the recipe names it")),
        }
    }
    Ok(columns)
}

fn decoded(bytes: &[u8], encoding: Encoding) -> Result<String, String> {
    match encoding {
        Encoding::Named(encoding) if encoding != encoding_rs::UTF_8 => encoding
            .decode_without_bom_handling_and_without_replacement(bytes)
            .map(|text| text.into_owned())
            .ok_or_else(|| format!("bytes that {} has not", encoding.name())),
        _ => std::str::from_utf8(bytes)
            .map(str::to_string)
            .map_err(|invalid| format!("no UTF-8 at byte {}", invalid.valid_up_to())),
    }
}

struct Reader<'a> {
    source: &'a Source,
    part: &'a Part,
    fields: Fields,
    columns: Vec<(usize, String)>,
    /// Fields that a record has.
    width: usize,
}

impl Reader<'_> {
    fn place(&self, row: u64) -> String {
        format!("{}: row {row}", self.part.name)
    }

    fn document(&self, records: &Records, row: u64) -> Result<Document, String> {
        if records.ends != self.width {
            return Err(format!("{} instead of {} fields", records.ends, self.width));
        }
        let mut record = Map::new();
        for (column, name) in &self.columns {
            let bytes = records.field(*column);
            let text = decoded(bytes, self.source.encoding).map_err(|problem| format!("field {name:?}: {problem}"))?;
            record.insert(name.clone(), Value::String(text));
        }
        let document = self.fields.document(&mut record, || id(self.source, self.part, row));
        document.map_err(|problem| problem.describe(record.keys().map(String::as_str)))
    }
}

/// What stands next in the stream.
enum Found {
    Record,
    /// A record beyond a limit, in words.
    TooLong(String),
    End,
}

/// Records one after another, in buffers that grow up to a limit.
struct Records {
    core: csv_core::Reader,
    input: BufReader<Input<Handle>>,
    /// Contents of the fields, without quotation marks.
    output: Vec<u8>,
    /// Bytes in `output`.
    written: usize,
    /// Where each field ends in `output`, and how many there are.
    field_ends: Vec<usize>,
    ends: usize,
}

impl Records {
    fn new(input: Input<Handle>, delimiter: u8) -> Records {
        Records {
            core: ReaderBuilder::new().delimiter(delimiter).build(),
            input: BufReader::with_capacity(1 << 17, input),
            output: vec![0; 1 << 14],
            written: 0,
            field_ends: vec![0; 1 << 6],
            ends: 0,
        }
    }

    fn field(&self, number: usize) -> &[u8] {
        let start = number.checked_sub(1).map_or(0, |before| self.field_ends[before]);
        &self.output[start..self.field_ends[number]]
    }

    fn fields(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.ends).map(|number| self.field(number))
    }

    /// How the record begins.
    fn shown(&self) -> &[u8] {
        &self.output[..self.written.min(SHOWN)]
    }

    /// Reads the next record, of at most `max` bytes. What is longer is passed over.
    fn next(&mut self, max: usize) -> io::Result<Found> {
        (self.written, self.ends) = (0, 0);
        let (mut beyond, mut too_many) = (0u64, false);
        loop {
            let bytes = match self.input.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let (output, field_ends) = (&mut self.output[self.written..], &mut self.field_ends[self.ends..]);
            let (result, read, written, ends) = self.core.read_record(bytes, output, field_ends);
            self.input.consume(read);
            self.written += written;
            self.ends += ends;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if self.output.len() < max => {
                    self.output.resize((2 * self.output.len()).min(max), 0);
                }
                ReadRecordResult::OutputFull => {
                    // The first bytes stay, to be shown.
                    beyond += (self.written - SHOWN.min(self.written)) as u64;
                    self.written = SHOWN.min(self.written);
                    if self.written == self.output.len() {
                        self.output.resize(self.written + SHOWN, 0);
                    }
                }
                ReadRecordResult::OutputEndsFull if self.field_ends.len() < FIELDS_MAX => {
                    self.field_ends.resize((2 * self.field_ends.len()).min(FIELDS_MAX), 0);
                }
                ReadRecordResult::OutputEndsFull => {
                    too_many = true;
                    self.ends = 0;
                }
                ReadRecordResult::Record if too_many => {
                    return Ok(Found::TooLong(format!("more than {FIELDS_MAX} fields")));
                }
                ReadRecordResult::Record if beyond > 0 || self.written > max => {
                    return Ok(Found::TooLong(format!("{} bytes, over {max}", beyond + self.written as u64)));
                }
                ReadRecordResult::Record => return Ok(Found::Record),
                ReadRecordResult::End => return Ok(Found::End),
            }
        }
    }
}
