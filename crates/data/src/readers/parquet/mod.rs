//! Parquet: rows as records, of the columns that the recipe names only

mod pages;
mod thrift;

use std::sync::Arc;

use parquet::basic::{ConvertedType, Type as PhysicalType};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader};
use parquet::file::properties::ReaderProperties;
use parquet::file::serialized_reader::SerializedRowGroupReader;
use parquet::record::reader::TreeBuilder;
use parquet::record::{Field, Row};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type, TypePtr};
use serde_json::{Map, Value};

use self::pages::{Limited, Pages};
use super::fields::{Fields, missing};
use super::{Emit, Item, damaged, id};
use crate::Error;
use crate::panics::caught;
use crate::part::Part;
use crate::source::Source;
use crate::store::{Handle, Location};

/// Bytes of the metadata at the end of a file.
const METADATA_BYTES_MAX: u64 = 32 << 20;

/// Rows of a column that are decoded at a time.
const BATCH_ROWS: usize = 64;

/// Bytes that the rows of a row group may give, whatever it has.
const EXPANDED_FREELY: u64 = 64 << 20;

fn words(error: impl std::fmt::Display) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("Parquet error: ").chars().take(300).collect()
}

/// A file whose metadata were read.
struct Opened {
    file: Pages,
    metadata: ParquetMetaData,
}

/// Opens a file and reads its metadata. In words, what is wrong with it.
fn open(path: &Location) -> Result<Result<Opened, String>, Error> {
    let file = path.open_at(0).map_err(Error::io(path))?;
    let bytes = file.bytes().map_err(Error::io(path))?;
    if let Err(problem) = check_footer(&file, bytes).map_err(Error::io(path))? {
        return Ok(Err(problem));
    }
    let file = Pages::new(Arc::new(file), bytes);
    let metadata = caught(|| ParquetMetaDataReader::new().parse_and_finish(&file).map_err(words));
    Ok(match metadata {
        Ok(metadata) => Ok(Opened { file, metadata }),
        Err(problem) => Err(if_damage(&file, path, problem)?),
    })
}

/// Damage in words, unless the file could not be read.
fn if_damage(file: &Pages, path: &Location, problem: String) -> Result<String, Error> {
    file.failure().map_or(Ok(problem), |error| Err(Error::io(path)(error)))
}

/// Looks at the metadata before the library allocates what they say.
fn check_footer(file: &Handle, bytes: u64) -> std::io::Result<Result<(), String>> {
    let no_parquet = || Ok(Err("no Parquet file".to_string()));
    let Some(end) = bytes.checked_sub(8) else { return no_parquet() };
    let mut footer = [0; 8];
    file.read_exact_at(&mut footer, end)?;
    let length = u64::from(u32::from_le_bytes(footer[..4].try_into().expect("4 bytes")));
    match &footer[4..] {
        b"PAR1" => {}
        b"PARE" => return Ok(Err("an encrypted Parquet file".into())),
        _ => return no_parquet(),
    }
    if length > METADATA_BYTES_MAX || length > end {
        return Ok(Err(format!(
            "metadata of {length} bytes in a Parquet file of {bytes}; at most {METADATA_BYTES_MAX} are read"
        )));
    }
    let mut metadata = vec![0; length as usize];
    file.read_exact_at(&mut metadata, end - length)?;
    Ok(thrift::check_schema(&metadata))
}

/// Compressed bytes of each row group. None if the file cannot be opened as Parquet, which its reader tells.
pub fn row_groups(path: &Location) -> Result<Option<Vec<u64>>, Error> {
    let Ok(opened) = open(path)? else { return Ok(None) };
    let sizes =
        caught(|| Ok(opened.metadata.row_groups().iter().map(|group| group.compressed_size().max(0) as u64).collect()));
    Ok(sizes.ok())
}

/// Reads the row groups of the part.
pub fn read(source: &Source, part: &Part, emit: Emit) -> Result<(), Error> {
    let fields = Fields::of(source).map_err(|problem| Error::file(&part.file, problem))?;
    let opened = match open(&part.file)? {
        Ok(opened) => opened,
        Err(problem) => return emit(damaged(part.name.clone(), problem, b"")),
    };
    let schema = opened.metadata.file_metadata().schema();
    for path in fields.needed() {
        if !has(schema, path) {
            let problem = missing(path, schema.get_fields().iter().map(|field| field.name()))
                .replace("the record has fields", "its columns are");
            return Err(Error::file(
                &part.file,
                format!("{problem}; say in the recipe which column is `text`, `id` or `messages`"),
            ));
        }
    }
    let (rows, metadata) = match caught(|| reopen(&opened, &fields)) {
        Ok(reopened) => reopened,
        Err(problem) => {
            let problem = if_damage(&opened.file, &part.file, problem)?;
            return emit(damaged(part.name.clone(), problem, b""));
        }
    };
    let pages = Arc::new(opened.file.in_pages());
    let mut first_row = 0u64;
    for (number, row_group) in metadata.row_groups().iter().enumerate() {
        let count = row_group.num_rows().max(0) as u64;
        if part.range.contains(&(number as u64)) {
            let mut group = Group { source, part, fields: &fields, number, first_row, count, given: 0, given_max: 0 };
            group.read(pages.clone(), &metadata, &rows, emit)?;
        }
        first_row = first_row.saturating_add(count);
    }
    Ok(())
}

/// Reads the metadata again, with the wanted columns, and strings as bytes: so one that is no UTF-8 is damage of its row alone.
fn reopen(opened: &Opened, fields: &Fields) -> Result<(SchemaDescPtr, ParquetMetaData), String> {
    let schema = opened.metadata.file_metadata().schema();
    let bytes = Arc::new(SchemaDescriptor::new(strings_as_bytes(schema, true).map_err(words)?));
    let wanted = bytes.root_schema().get_fields().iter().filter(|field| fields.wants(field.name())).cloned().collect();
    let wanted = Type::group_type_builder(schema.name()).with_fields(wanted).build().map_err(words)?;
    let options = ParquetMetaDataOptions::new().with_schema(bytes);
    let metadata = ParquetMetaDataReader::new()
        .with_metadata_options(Some(options))
        .parse_and_finish(&opened.file)
        .map_err(words)?;
    Ok((Arc::new(SchemaDescriptor::new(Arc::new(wanted))), metadata))
}

/// The same schema, with no type of text.
fn strings_as_bytes(schema: &Type, root: bool) -> parquet::errors::Result<TypePtr> {
    let info = schema.get_basic_info();
    if schema.is_primitive() {
        if schema.get_physical_type() != PhysicalType::BYTE_ARRAY || info.converted_type() == ConvertedType::DECIMAL {
            return Ok(Arc::new(schema.clone()));
        }
        let plain =
            Type::primitive_type_builder(schema.name(), PhysicalType::BYTE_ARRAY).with_repetition(info.repetition());
        return plain.build().map(Arc::new);
    }
    let fields: Result<Vec<TypePtr>, _> =
        schema.get_fields().iter().map(|field| strings_as_bytes(field, false)).collect();
    let group = Type::group_type_builder(schema.name()).with_converted_type(info.converted_type()).with_fields(fields?);
    let group = if root { group } else { group.with_repetition(info.repetition()) };
    group.build().map(Arc::new)
}

/// Whether a column is there, by its path with dots as far as groups go.
fn has(schema: &Type, path: &str) -> bool {
    let field = |name: &str| schema.get_fields().iter().find(|field| field.name() == name);
    if field(path).is_some() {
        return true;
    }
    let Some((first, rest)) = path.split_once('.') else { return false };
    field(first).is_some_and(|field| field.is_group() && has(field, rest))
}

/// A row group that is read.
struct Group<'a> {
    source: &'a Source,
    part: &'a Part,
    fields: &'a Fields,
    /// From 0.
    number: usize,
    /// Rows of the row groups before it.
    first_row: u64,
    /// Rows that it says to have.
    count: u64,
    /// Bytes of what its rows gave so far, and how many they may give.
    given: u64,
    given_max: u64,
}

impl Group<'_> {
    fn read(
        &mut self,
        pages: Arc<Pages>,
        metadata: &ParquetMetaData,
        rows: &SchemaDescPtr,
        emit: Emit,
    ) -> Result<(), Error> {
        let row_group = metadata.row_group(self.number);
        let bytes = row_group.compressed_size().max(0) as u64;
        self.given_max = bytes.saturating_mul(self.source.expansion_max).max(EXPANDED_FREELY);
        let iterator = caught(|| {
            let index = metadata.page_index_for_row_group(self.number);
            let properties = Arc::new(ReaderProperties::builder().build());
            let group = SerializedRowGroupReader::new(pages.clone(), row_group, index, properties).map_err(words)?;
            TreeBuilder::new()
                .with_batch_size(BATCH_ROWS)
                .as_iter(rows.clone(), &Limited(Box::new(group)))
                .map_err(words)
        });
        let mut iterator = match iterator {
            Ok(iterator) => iterator,
            Err(problem) => {
                let problem = if_damage(&pages, &self.part.file, problem)?;
                return self.emit_damaged(0, problem, emit);
            }
        };
        for row in 0..self.count {
            match caught(|| iterator.next().transpose().map_err(words)) {
                Ok(Some(columns)) => self.row(row, columns, emit)?,
                Ok(None) => break,
                Err(problem) => {
                    let problem = if_damage(&pages, &self.part.file, problem)?;
                    return self.emit_damaged(row, problem, emit);
                }
            }
            if self.given > self.given_max {
                let problem = format!(
                    "{bytes} bytes of it give more than {}, over expansion_max = {}",
                    self.given_max, self.source.expansion_max
                );
                return self.emit_damaged(row + 1, problem, emit);
            }
        }
        Ok(())
    }

    /// Tells that the row group is not read from this row on.
    fn emit_damaged(&self, row: u64, problem: String, emit: Emit) -> Result<(), Error> {
        let left = self.count.saturating_sub(row);
        let rest =
            if left > 1 { format!("; {left} rows of row group {} are not read", self.number) } else { String::new() };
        emit(damaged(self.place(row), format!("{problem}{rest}"), b""))
    }

    fn place(&self, row: u64) -> String {
        format!("{}: row {}", self.part.name, self.first_row.saturating_add(row).saturating_add(1))
    }

    fn row(&mut self, row: u64, columns: Row, emit: Emit) -> Result<(), Error> {
        let mut record = Map::new();
        self.given += ROW_BYTES;
        for (name, field) in columns.into_columns() {
            match value(&field, &mut self.given) {
                Ok(value) => drop(record.insert(name, value)),
                Err(problem) => return emit(damaged(self.place(row), format!("field {name:?}: {problem}"), b"")),
            }
        }
        let number = self.first_row.saturating_add(row);
        match self.fields.document(&mut record, || id(self.source, self.part, number)) {
            Ok(document) => emit(Item::Document(document)),
            Err(problem) => {
                let problem = problem.describe(record.keys().map(String::as_str));
                emit(damaged(self.place(row), problem, Value::Object(record).to_string().as_bytes()))
            }
        }
    }
}

/// Bytes that a value or row counts for, beside its text.
const ROW_BYTES: u64 = 16;

/// A value as JSON has it. Dates and times are the integers that are stored. `given` counts its bytes.
fn value(field: &Field, given: &mut u64) -> Result<Value, String> {
    *given += ROW_BYTES;
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) | Field::Date(value) | Field::TimeMillis(value) => (*value).into(),
        Field::Long(value)
        | Field::TimeMicros(value)
        | Field::TimestampMillis(value)
        | Field::TimestampMicros(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        Field::Float16(value) => f64::from(*value).into(),
        Field::Float(value) => f64::from(*value).into(),
        Field::Double(value) => (*value).into(),
        Field::Decimal(_) => field.to_string().into(),
        Field::Str(text) => text.clone().into(),
        Field::Bytes(bytes) => {
            *given += bytes.len() as u64;
            let text = std::str::from_utf8(bytes.data())
                .map_err(|invalid| format!("no UTF-8 at byte {}", invalid.valid_up_to()))?;
            text.into()
        }
        Field::Group(row) => {
            let values = row.get_column_iter().map(|(name, field)| Ok((name.clone(), value(field, given)?)));
            Value::Object(values.collect::<Result<_, String>>()?)
        }
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().map(|field| value(field, given)).collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let values = map.entries().iter().map(|(key, field)| {
                let key = match value(key, given)? {
                    Value::String(key) => key,
                    other => other.to_string(),
                };
                Ok((key, value(field, given)?))
            });
            Value::Object(values.collect::<Result<_, String>>()?)
        }
    })
}
