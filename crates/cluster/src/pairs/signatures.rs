//! Signatures as Parquet: the records of each part's sorted run in a file of its own, with the columns `key_high`, `key_low` and `place`, all unsigned 64-bit numbers
//!
//! The key is the record's 128 bits. The place is the part in the upper 32 bits and the document in the lower ones, so that places are ordered as the corpus is.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data::Error;
use data::atomic::Pending;
use data::join::runs::{self, Reader};
use data::join::{Place, Record};
use data::progress::Progress;
use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::KeyValue;
use datafusion::parquet::file::properties::{EnabledStatistics, WriterProperties};
use datafusion::parquet::file::reader::{FileReader, SerializedFileReader};

/// Rows that are written at once.
const BATCH_ROWS: usize = 1 << 13;
/// Rows of a row group, 6 MB: so much is held.
const GROUP_ROWS: usize = 1 << 18;
/// The entry of the file's metadata that says what it was made from.
const MADE_FROM: &str = "farthing.records";

/// The columns.
pub fn schema() -> Schema {
    Schema::new(["key_high", "key_low", "place"].map(|name| Field::new(name, DataType::UInt64, false)).to_vec())
}

/// A place from its number.
pub fn place(number: u64) -> Place {
    Place { part: (number >> 32) as u32, document: number as u32 }
}

fn number(place: Place) -> u64 {
    u64::from(place.part) << 32 | u64::from(place.document)
}

/// Writes the runs' records to `directory`, a file each, and says how many there are. Files that are there from the same runs stay as they are; others go.
///
/// # Errors
/// Where a run is damaged, the system refuses, or somebody asked to stop.
pub fn write(runs: &[PathBuf], directory: &Path, progress: &Progress) -> Result<u64, Error> {
    std::fs::create_dir_all(directory).map_err(Error::io(directory))?;
    let file = |number: usize| directory.join(format!("{number:05}.parquet"));
    let files: HashSet<PathBuf> = (0..runs.len()).map(file).collect();
    for entry in std::fs::read_dir(directory).map_err(Error::io(directory))? {
        let path = entry.map_err(Error::io(directory))?.path();
        if !files.contains(&path) {
            std::fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    let mut rows = 0;
    for (number, run) in runs.iter().enumerate() {
        let summary = runs::summary::<Record>(run)?;
        let hex: String = summary.identity.iter().map(|byte| format!("{byte:02x}")).collect();
        let made_from = format!("{hex}-{}-{:016x}", summary.records, summary.checksum);
        if made_from_of(&file(number)).as_deref() != Some(&made_from) {
            write_file(run, &file(number), made_from, progress)?;
        }
        rows += summary.records;
    }
    Ok(rows)
}

/// What a whole file says it was made from.
fn made_from_of(path: &Path) -> Option<String> {
    let reader = SerializedFileReader::new(std::fs::File::open(path).ok()?).ok()?;
    let entries = reader.metadata().file_metadata().key_value_metadata()?;
    entries.iter().find(|entry| entry.key == MADE_FROM)?.value.clone()
}

fn write_file(run: &Path, path: &Path, made_from: String, progress: &Progress) -> Result<(), Error> {
    let failed = |error: ParquetError| match error {
        ParquetError::External(error) => match error.downcast::<std::io::Error>() {
            Ok(error) => Error::io(path)(*error),
            Err(error) => Error::file(path, error.to_string()),
        },
        error => Error::file(path, error.to_string()),
    };
    // Hashes do not compress, and every key is looked at.
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_key_value_metadata(Some(vec![KeyValue::new(MADE_FROM.to_string(), made_from)]))
        .build();
    let schema = Arc::new(schema());
    let mut writer =
        ArrowWriter::try_new(Pending::create(path)?, Arc::clone(&schema), Some(properties)).map_err(failed)?;
    let mut records = Reader::<Record>::open(run)?;
    loop {
        progress.check()?;
        let batch: Vec<Record> = records.by_ref().take(BATCH_ROWS).collect::<Result<_, _>>()?;
        if batch.is_empty() {
            break;
        }
        let column = |of: fn(&Record) -> u64| Arc::new(UInt64Array::from_iter_values(batch.iter().map(of))) as ArrayRef;
        let columns = vec![
            column(|record| (record.key >> 64) as u64),
            column(|record| record.key as u64),
            column(|record| number(record.place)),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).expect("three columns of one length");
        writer.write(&batch).map_err(failed)?;
    }
    writer.into_inner().map_err(failed)?.finish().map(drop)
}
