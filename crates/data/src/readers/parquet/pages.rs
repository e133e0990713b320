//! Pages of a Parquet file with limits: the library allocates what headers say, so these are looked at first

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{ChunkReader, Length, RowGroupReader};
use parquet::record::reader::RowIter;
use parquet::schema::types::{ColumnDescPtr, Type};

use super::thrift;
use crate::store::Handle;

/// Bytes of a page, compressed or not. Writers make pages of about 1 MiB, or of one value if that is longer.
const PAGE_BYTES_MAX: u64 = 128 << 20;

/// Bytes of a page of DELTA_BYTE_ARRAY, whose values may each have as many.
const DELTA_PAGE_BYTES_MAX: usize = 16 << 20;

/// Values of a repeated column in a row group: all could be in one row, which is held as a whole.
const REPEATED_VALUES_MAX: u64 = 1 << 24;

/// A file whose pages are checked before they are read.
pub struct Pages {
    file: Arc<Handle>,
    bytes: u64,
    /// Whether what is read are pages, and not the metadata.
    in_pages: bool,
}

fn refused(problem: impl Into<String>) -> ParquetError {
    ParquetError::General(problem.into())
}

impl Pages {
    /// A file, to read its metadata.
    pub fn new(file: Arc<Handle>, bytes: u64) -> Pages {
        Pages { file, bytes, in_pages: false }
    }

    /// What the system or store refused, if it did: the library makes damage of it.
    pub fn failure(&self) -> Option<io::Error> {
        self.file.failure()
    }

    /// The same file, to read its pages.
    pub fn in_pages(&self) -> Pages {
        Pages { file: self.file.clone(), bytes: self.bytes, in_pages: true }
    }
}

impl Length for Pages {
    fn len(&self) -> u64 {
        self.bytes
    }
}

/// Reads on from a place of the file.
pub struct From {
    file: Arc<Handle>,
    at: u64,
}

impl Read for From {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl ChunkReader for Pages {
    type T = io::BufReader<From>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        if self.in_pages {
            let mut header = Vec::new();
            From { file: self.file.clone(), at: start }.take(32).read_to_end(&mut header)?;
            match thrift::uncompressed_bytes(&header) {
                Some(bytes) if u64::try_from(bytes).is_ok_and(|bytes| bytes <= PAGE_BYTES_MAX) => {}
                Some(bytes) => {
                    return Err(refused(format!("a page of {bytes} bytes, not within 0 to {PAGE_BYTES_MAX}")));
                }
                None => return Err(refused("the header of a page is damaged")),
            }
        }
        // Headers of pages are short; without statistics a few dozen bytes.
        Ok(io::BufReader::with_capacity(512, From { file: self.file.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let end = start.checked_add(length as u64).filter(|end| *end <= self.bytes);
        if end.is_none() || (self.in_pages && length as u64 > PAGE_BYTES_MAX) {
            return Err(refused(format!("{length} bytes at {start} of a file that has {}", self.bytes)));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// A row group whose pages are checked before their values are decoded.
pub struct Limited<'a>(pub Box<dyn RowGroupReader + 'a>);

impl RowGroupReader for Limited<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.0.metadata()
    }

    fn num_columns(&self) -> usize {
        self.0.num_columns()
    }

    fn get_column_page_reader(&self, i: usize) -> Result<Box<dyn PageReader>> {
        let pages = self.0.get_column_page_reader(i)?;
        let column = self.metadata().schema_descr().column(i);
        Ok(Box::new(LimitedPages { pages, column, values: 0 }))
    }

    fn get_column_bloom_filter(&self, _: usize) -> Option<&Sbbf> {
        None
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_row_group(projection, self)
    }
}

struct LimitedPages {
    pages: Box<dyn PageReader>,
    column: ColumnDescPtr,
    /// Values of the pages so far.
    values: u64,
}

impl LimitedPages {
    fn check(&mut self, page: &Page) -> Result<()> {
        let bytes = page.buffer().len();
        if let Page::DictionaryPage { num_values, .. } = page {
            // Every value has at least a byte, or its length.
            return match *num_values as usize > bytes {
                true => Err(refused(format!("a dictionary of {num_values} values in {bytes} bytes"))),
                false => Ok(()),
            };
        }
        self.values += u64::from(page.num_values());
        if self.column.max_rep_level() > 0 && self.values > REPEATED_VALUES_MAX {
            let path = self.column.path();
            return Err(refused(format!(
                "more than {REPEATED_VALUES_MAX} values of the repeated column {path} in a row group"
            )));
        }
        let delta = page.encoding();
        if !matches!(delta, Encoding::DELTA_LENGTH_BYTE_ARRAY | Encoding::DELTA_BYTE_ARRAY) {
            return Ok(());
        }
        if delta == Encoding::DELTA_BYTE_ARRAY && bytes > DELTA_PAGE_BYTES_MAX {
            return Err(refused(format!("a page of DELTA_BYTE_ARRAY of {bytes} bytes, over {DELTA_PAGE_BYTES_MAX}")));
        }
        let lists = if delta == Encoding::DELTA_BYTE_ARRAY { 2 } else { 1 };
        let mut rest = self.values_of(page).unwrap_or_default();
        for _ in 0..lists {
            let (count, after) =
                thrift::delta_packed(rest).ok_or_else(|| refused("lengths of values that are damaged"))?;
            if count > u64::from(page.num_values()) {
                return Err(refused(format!("{count} lengths in a page of {} values", page.num_values())));
            }
            rest = after;
        }
        Ok(())
    }

    /// What stands after the levels of a data page.
    fn values_of<'a>(&self, page: &'a Page) -> Option<&'a [u8]> {
        match page {
            Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. } => {
                buf.get(usize::try_from(u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len)).ok()?..)
            }
            Page::DataPage { buf, rep_level_encoding, def_level_encoding, .. } => {
                let mut rest = &buf[..];
                let levels = [
                    (self.column.max_rep_level(), *rep_level_encoding),
                    (self.column.max_def_level(), *def_level_encoding),
                ];
                for (_, encoding) in levels.into_iter().filter(|(max, _)| *max > 0) {
                    if encoding != Encoding::RLE {
                        return None;
                    }
                    let (length, after) = rest.split_first_chunk()?;
                    rest = after.get(usize::try_from(u32::from_le_bytes(*length)).ok()?..)?;
                }
                Some(rest)
            }
            Page::DictionaryPage { .. } => None,
        }
    }
}

impl Iterator for LimitedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Result<Page>> {
        self.get_next_page().transpose()
    }
}

impl PageReader for LimitedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        if let Some(page) = &page {
            self.check(page)?;
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}
