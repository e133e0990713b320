//! Plain text: a file is a document, or a line of the recipe's stands between two

use std::io::{self, Read};

use super::encoding::decode;
use super::fields::too_long;
use super::lines::{Line, Lines};
use super::{Emit, Item, LinePlaces, UTF_16, damaged, decompressing, empty_file, id};
use crate::part::Part;
use crate::source::Source;
use crate::store::Handle;
use crate::{Document, Error};

/// Reads the documents that begin in the part.
pub fn read(source: &Source, part: &Part, emit: Emit) -> Result<(), Error> {
    match &source.separator {
        None => whole(source, part, emit),
        Some(separator) => separated(source, part, separator.as_bytes(), emit),
    }
}

/// The document of these bytes.
fn document(source: &Source, id: String, bytes: Vec<u8>) -> Result<Document, String> {
    let decoded = decode(bytes, source.encoding)?;
    if decoded.text.len() > source.document_bytes_max {
        return Err(too_long(decoded.text.len() as u64, source.document_bytes_max));
    }
    let mut document = Document::new(id, decoded.text);
    if let Some(encoding) = decoded.guessed {
        document.labels.insert("encoding".into(), encoding.into());
    }
    Ok(document)
}

fn whole(source: &Source, part: &Part, emit: Emit) -> Result<(), Error> {
    let mut bytes = Vec::new();
    let problem = match read_file(source, part, &mut bytes)? {
        Some(problem) => problem,
        None if bytes.is_empty() => return emit(empty_file()),
        None => {
            let start = bytes[..bytes.len().min(1 << 10)].to_vec();
            match document(source, id(source, part, 0), bytes) {
                Ok(document) => return emit(Item::Document(document)),
                Err(problem) => return emit(damaged(part.name.clone(), problem, &start)),
            }
        }
    };
    emit(damaged(part.name.clone(), problem, &bytes))
}

/// Reads a file up to the limit on documents. What is wrong with it, in words.
pub fn read_file(source: &Source, part: &Part, bytes: &mut Vec<u8>) -> Result<Option<String>, Error> {
    let max = source.document_bytes_max;
    let mut input = match super::open(source, part, 0)? {
        Ok(input) => input,
        Err(problem) => return Ok(Some(problem)),
    };
    match (&mut input).take(max as u64 + 1).read_to_end(bytes) {
        Ok(_) if bytes.len() > max => {
            Ok(Some(format!("a file of more than document_bytes_max = {max}; give a separator, or raise the limit")))
        }
        Ok(_) => Ok(None),
        Err(error) => decompressing(part.file.path(), input.is_damage(), error).map(Some),
    }
}

/// Bytes that end a line, at most.
const LINE_END: u64 = 2;

/// A document that is being read.
struct Open {
    /// Byte at which it begins.
    begin: u64,
    /// Number of its first line among those that the reader read.
    line: u64,
    bytes: Vec<u8>,
    /// How many it has, of which no more than allowed are held.
    length: u64,
}

struct Reader<'a> {
    source: &'a Source,
    part: &'a Part,
    separator: &'a [u8],
    lines: Lines<Handle>,
    places: LinePlaces<'a>,
}

fn separated(source: &Source, part: &Part, separator: &[u8], emit: Emit) -> Result<(), Error> {
    // The separator before the part's first document may begin so far before it.
    let from = part.range.start.saturating_sub(separator.len() as u64 + 3);
    let input = match super::open(source, part, from)? {
        Ok(input) => input,
        Err(problem) => return emit(damaged(part.name.clone(), problem, b"")),
    };
    let mut lines = Lines::new(input, from);
    first_document(part, separator, &mut lines).map_err(Error::io(&part.file))?;
    let places = LinePlaces::new(part, &lines);
    let mut reader = Reader { source, part, separator, lines, places };
    while reader.lines.offset() < part.range.end && reader.document(emit)? {}
    Ok(())
}

fn is_separator(line: &[u8], separator: &[u8]) -> bool {
    line.strip_suffix(b"\r").unwrap_or(line) == separator
}

/// Goes to the first document that begins in the part.
fn first_document(part: &Part, separator: &[u8], lines: &mut Lines<Handle>) -> io::Result<()> {
    if part.range.start == 0 {
        return Ok(());
    }
    let (mut line, max) = (Vec::new(), separator.len() + 1);
    if lines.offset() > 0 {
        // A line that began before is not known to be a separator.
        lines.next(&mut line, max)?;
    }
    loop {
        match lines.next(&mut line, max)? {
            Line::End => return Ok(()),
            Line::Whole if is_separator(&line, separator) && lines.offset() >= part.range.start => return Ok(()),
            _ => {}
        }
    }
}

impl Reader<'_> {
    /// Reads one document. False at the end.
    fn document(&mut self, emit: Emit) -> Result<bool, Error> {
        let mut open = Open { begin: self.lines.offset(), line: self.lines.number() + 1, bytes: Vec::new(), length: 0 };
        let mut line = Vec::new();
        let max = self.source.document_bytes_max;
        loop {
            let (read, length) = match self.lines.next(&mut line, max + LINE_END as usize) {
                Ok(Line::End) if self.lines.offset() == 0 => return emit(empty_file()).map(|()| false),
                Ok(Line::End) => return self.finish(open, emit).map(|()| false),
                Ok(Line::Whole) if is_separator(&line, self.separator) => {
                    return self.finish(open, emit).map(|()| true);
                }
                Ok(Line::Whole) => (&line[..], line.len() as u64),
                Ok(Line::Long(length)) => (&line[..], length),
                Err(error) => {
                    let problem = decompressing(self.part.file.path(), self.lines.input().is_damage(), error)?;
                    let goes_on = self.lines.input().resume().map_err(Error::io(&self.part.file))?;
                    self.emit_damaged(&open, problem, emit)?;
                    return Ok(goes_on);
                }
            };
            open.length += length + 1;
            if open.length <= max as u64 + LINE_END {
                open.bytes.extend_from_slice(read);
                open.bytes.push(b'\n');
            } else if open.bytes.is_empty() {
                open.bytes.extend_from_slice(read);
            }
        }
    }

    fn finish(&mut self, mut open: Open, emit: Emit) -> Result<(), Error> {
        let max = self.source.document_bytes_max;
        // What ends the line before the separator belongs to it.
        open.length = open.length.saturating_sub(1);
        if open.length < max as u64 + LINE_END {
            open.bytes.pop();
            open.length -= u64::from(open.bytes.pop_if(|byte| *byte == b'\r').is_some());
        }
        if open.length > max as u64 {
            return self.emit_damaged(&open, too_long(open.length, max), emit);
        }
        // Before the first separator and after the last there may be nothing.
        if open.bytes.trim_ascii().is_empty() {
            return Ok(());
        }
        if open.begin == 0 && (open.bytes.starts_with(b"\xff\xfe") || open.bytes.starts_with(b"\xfe\xff")) {
            return self.emit_damaged(&open, UTF_16.into(), emit);
        }
        let start = open.bytes[..open.bytes.len().min(1 << 10)].to_vec();
        match document(self.source, id(self.source, self.part, open.begin), std::mem::take(&mut open.bytes)) {
            Ok(document) => emit(Item::Document(document)),
            Err(problem) => {
                open.bytes = start;
                self.emit_damaged(&open, problem, emit)
            }
        }
    }

    fn emit_damaged(&mut self, open: &Open, problem: String, emit: Emit) -> Result<(), Error> {
        let place = self.places.place(open.line)?;
        emit(damaged(place, problem, &open.bytes))
    }
}
