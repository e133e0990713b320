//! Readers: files to documents. A damaged record is told and passed over; the next one is read

pub mod compressed;
mod csv;
pub mod encoding;
pub mod fields;
pub mod files;
mod html;
mod jsonl;
pub mod lines;
mod objects;
mod parquet;
mod text;
mod warc;

pub use self::parquet::row_groups;

use std::io;
use std::path::Path;

use crate::part::Part;
use crate::source::{Format, Source};
use crate::store::Handle;
use crate::{Document, Error};

/// What a reader finds.
#[derive(Clone, Debug)]
pub enum Item {
    /// A document.
    Document(Document),
    /// What should be one, and is not.
    Damaged(Damaged),
    /// What is none, and is sound: the kind of it, one of a bounded number.
    PassedOver(String),
}

/// A record that is no document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// File and line, row or record, from 1.
    pub place: String,
    /// What is wrong, with the value.
    pub problem: String,
    /// How it begins, to find out what it is.
    pub excerpt: String,
}

/// Where items go. What it returns as an error ends the reading.
pub type Emit<'a> = &'a mut dyn FnMut(Item) -> Result<(), Error>;

/// Reads the documents of a part in their order.
///
/// # Errors
/// A file that cannot be opened or read, one without the columns or fields that the recipe names, and what `emit` gives. Nothing that is wrong with
/// a record.
pub fn read(source: &Source, part: &Part, emit: Emit) -> Result<(), Error> {
    part.files().try_for_each(|file| read_file(source, file, emit))
}

fn read_file(source: &Source, part: &Part, emit: Emit) -> Result<(), Error> {
    if part.range.end == 0 {
        return emit(empty_file());
    }
    match source.format_of(part.file.path())? {
        Format::Text => text::read(source, part, emit),
        Format::Jsonl => jsonl::read(source, part, emit),
        Format::Csv => csv::read(source, part, b',', emit),
        Format::Tsv => csv::read(source, part, b'\t', emit),
        Format::Parquet => parquet::read(source, part, emit),
        Format::Warc => warc::read(source, part, emit),
        Format::Html => html::read(source, part, emit),
    }
}

/// What is wrong with a file of lines that begins with a byte order mark of UTF-16.
const UTF_16: &str = "UTF-16, in which lines are not found; convert the file to UTF-8";

/// Characters of a damaged record that are kept.
const EXCERPT: usize = 200;

fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(4 * EXCERPT)]).chars().take(EXCERPT).collect()
}

fn damaged(place: String, problem: impl Into<String>, bytes: &[u8]) -> Item {
    Item::Damaged(Damaged { place, problem: problem.into(), excerpt: excerpt(bytes) })
}

/// A file without a byte, compressed or not, which holds no document in any format.
fn empty_file() -> Item {
    Item::PassedOver("empty file".into())
}

/// The id of a document whose record has none: source, file and where it begins in the file, as bytes or number of the record.
fn id(source: &Source, part: &Part, begin: u64) -> String {
    format!("{}/{}#{begin}", source.name, part.name)
}

/// Tells the places of lines in a part that may begin in the middle of a file.
struct LinePlaces<'a> {
    part: &'a Part,
    /// Byte at which the part's first line begins, and how many lines the reader passed over before it.
    first: u64,
    skipped: u64,
    /// Lines of the file before the part, counted when the first place is asked for.
    before: Option<u64>,
}

impl<'a> LinePlaces<'a> {
    /// `lines` stands where the part's first line begins.
    fn new(part: &'a Part, lines: &lines::Lines<Handle>) -> LinePlaces<'a> {
        let begins = part.range.start == 0;
        LinePlaces { part, first: lines.offset(), skipped: lines.number(), before: begins.then_some(0) }
    }

    /// `file:line`, where `number` counts the reader's lines from 1.
    fn place(&mut self, number: u64) -> Result<String, Error> {
        let before = match self.before {
            Some(before) => before,
            None => {
                let file = self.part.file.open_at(0).map_err(Error::io(&self.part.file))?;
                lines::count(file, self.first).map_err(Error::io(&self.part.file))?
            }
        };
        self.before = Some(before);
        Ok(format!("{}:{}", self.part.name, before + number.saturating_sub(self.skipped).max(1)))
    }
}

/// Opens the part's file from this byte on. What it is, in words, if it cannot be read.
fn open(source: &Source, part: &Part, from: u64) -> Result<Result<compressed::Input<Handle>, String>, Error> {
    match compressed::open(&part.file, from, source.expansion_max) {
        Ok(input) => Ok(Ok(input)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Err(error.to_string())),
        Err(error) => Err(Error::io(&part.file)(error)),
    }
}

/// Damage of what is compressed, in words; other errors end the reading.
fn decompressing(file: &Path, is_damage: bool, error: io::Error) -> Result<String, Error> {
    if !is_damage {
        return Err(Error::io(file)(error));
    }
    Ok(match error.kind() {
        io::ErrorKind::UnexpectedEof => "the compressed file is cut off".into(),
        _ => format!("compressed data is damaged: {error}"),
    })
}
