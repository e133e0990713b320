//! Parts of a corpus, the unit of work: a range of a file, or of the documents of a generator

use std::ops::Range;
use std::path::Path;

use crate::Error;
use crate::readers;
use crate::readers::compressed::Compression;
use crate::readers::files::SourceFile;
use crate::source::{Format, Source};
use crate::store::{Location, Stores};

/// Bytes of a file in one part, about.
pub const PART_BYTES: u64 = 64 << 20;

/// Small files in one part: each is a document or a few, and a part is known by a file of its own.
const PART_FILES: usize = 10_000;

/// Documents of a generator in one part.
pub const PART_DOCUMENTS: u64 = 10_000;

/// Bytes that a document of a generator counts as in progress.
pub const GENERATED_BYTES: u64 = 500;

/// A piece of a corpus that is worked on alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Number of its source in the recipe, from 0.
    pub source: u32,
    /// The file's path as the recipe's globs give it; empty for a generator.
    pub name: String,
    /// Where to open it; empty for a generator.
    pub file: Location,
    /// Bytes of the file at which its records begin; row groups of a Parquet file; numbers of a generator's documents. A part up to
    /// `u64::MAX` is the whole file; one that ends at 0 is a file without a byte.
    pub range: Range<u64>,
    /// Bytes of the files that it stands for, or about as many as a generator makes, to tell progress by.
    pub bytes: u64,
    /// Small files of the same source that are read after this one.
    pub small_files: Vec<Part>,
}

impl Part {
    /// This file, then the small ones that belong to the part.
    pub fn files(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(self).chain(&self.small_files)
    }
}

/// Cuts the sources into parts: in the order of the recipe, then of the files' paths, then of the range. `base` is the folder of the recipe.
///
/// # Errors
/// A glob without a file, a file of no known format, what reading gives.
pub fn of(sources: &[Source], base: &Path, stores: Option<&dyn Stores>) -> Result<Vec<Part>, Error> {
    let (mut parts, mut missing) = (Vec::new(), Vec::new());
    for (number, source) in sources.iter().enumerate() {
        if source.generate.is_some() {
            generated(number as u32, source.documents.unwrap_or(0), &mut parts);
            continue;
        }
        let files = match source.files(base, stores) {
            // All of them are told together.
            Err(Error::Missing(files)) => {
                missing.extend(files);
                continue;
            }
            files => files?,
        };
        let mut of_files = Vec::new();
        for file in files {
            of_file(number as u32, source, file, PART_BYTES, &mut of_files)?;
        }
        parts.extend(together(of_files, PART_BYTES));
    }
    if missing.is_empty() { Ok(parts) } else { Err(Error::Missing(missing)) }
}

/// Puts neighbours that are whole files into one part of at most `part_bytes`.
fn together(files: Vec<Part>, part_bytes: u64) -> Vec<Part> {
    let is_whole = |part: &Part| part.range == (0..u64::MAX) || part.range.end == 0;
    let mut parts: Vec<Part> = Vec::new();
    for file in files {
        match parts.last_mut().filter(|last| is_whole(last) && is_whole(&file)) {
            Some(last) if last.bytes + file.bytes <= part_bytes && last.small_files.len() + 1 < PART_FILES => {
                last.bytes += file.bytes;
                last.small_files.push(file);
            }
            _ => parts.push(file),
        }
    }
    parts
}

fn generated(source: u32, documents: u64, parts: &mut Vec<Part>) {
    let mut start = 0;
    while start < documents {
        let end = documents.min(start + PART_DOCUMENTS);
        parts.push(Part {
            source,
            name: String::new(),
            file: Location::nowhere(),
            range: start..end,
            bytes: (end - start) * GENERATED_BYTES,
            small_files: Vec::new(),
        });
        start = end;
    }
}

/// Cuts one file into parts of about `part_bytes`.
///
/// # Errors
/// A file of no known format, what reading gives.
pub fn of_file(
    number: u32,
    source: &Source,
    file: SourceFile,
    part_bytes: u64,
    parts: &mut Vec<Part>,
) -> Result<(), Error> {
    let part = |range: Range<u64>, bytes: u64| Part {
        source: number,
        name: file.name.clone(),
        file: file.path.clone(),
        range,
        bytes,
        small_files: Vec::new(),
    };
    let format = source.format_of(file.path.path())?;
    if file.bytes == 0 {
        parts.push(part(0..0, 0));
        return Ok(());
    }
    let cut = match format {
        Format::Parquet => return of_row_groups(&file, part_bytes, part, parts),
        Format::Text => source.separator.is_some(),
        Format::Jsonl => true,
        // A line break may stand inside a field.
        Format::Csv | Format::Tsv | Format::Warc | Format::Html => false,
    };
    // What cannot be read is told by the reader, as damage.
    let is_plain = || Compression::of_file(&file.path).map(|found| found == Ok(Compression::None));
    if !cut || file.bytes <= part_bytes || !is_plain().map_err(Error::io(&file.path))? {
        parts.push(part(0..u64::MAX, file.bytes));
        return Ok(());
    }
    let mut start = 0;
    while start < file.bytes {
        // The last part is between half and one and a half of the others.
        let end = if file.bytes - start < part_bytes + part_bytes / 2 { file.bytes } else { start + part_bytes };
        parts.push(part(start..if end == file.bytes { u64::MAX } else { end }, end - start));
        start = end;
    }
    Ok(())
}

/// Cuts a Parquet file between row groups.
fn of_row_groups(
    file: &SourceFile,
    part_bytes: u64,
    part: impl Fn(Range<u64>, u64) -> Part,
    parts: &mut Vec<Part>,
) -> Result<(), Error> {
    let Some(groups) = readers::row_groups(&file.path)? else {
        // The reader tells what is wrong with it.
        parts.push(part(0..u64::MAX, file.bytes));
        return Ok(());
    };
    let (mut start, mut bytes) = (0, 0u64);
    for (i, group) in groups.iter().enumerate() {
        bytes = bytes.saturating_add(*group);
        let end = i as u64 + 1;
        if bytes >= part_bytes || end == groups.len() as u64 {
            parts.push(part(start..end, bytes));
            (start, bytes) = (end, 0);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_each_file_once_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("b.jsonl"), "x".repeat(1000)).unwrap();
        std::fs::write(folder.path().join("a.txt"), "x".repeat(1000)).unwrap();
        std::fs::write(folder.path().join("c.jsonl"), zstd::encode_all(&[1; 1000][..], 1).unwrap()).unwrap();
        let source: Source = toml::from_str("name = \"s\"\nfiles = [\"*\"]").unwrap();
        let mut parts = Vec::new();
        for file in source.files(folder.path(), None).unwrap() {
            of_file(3, &source, file, 300, &mut parts).unwrap();
        }
        let found: Vec<(&str, Range<u64>, u64)> =
            parts.iter().map(|p| (p.name.as_str(), p.range.clone(), p.bytes)).collect();
        let compressed = parts.last().unwrap().bytes;
        let jsonl = [("b.jsonl", 0..300, 300), ("b.jsonl", 300..600, 300), ("b.jsonl", 600..u64::MAX, 400)];
        let expected: Vec<_> = [("a.txt", 0..u64::MAX, 1000)]
            .into_iter()
            .chain(jsonl)
            .chain([("c.jsonl", 0..u64::MAX, compressed)])
            .collect();
        assert_eq!(found, expected);
        assert!(parts.iter().all(|part| part.source == 3));
    }

    #[test]
    fn small_files_are_put_into_one_part() {
        let file = |name: &str, range: Range<u64>, bytes: u64| Part {
            source: 0,
            name: name.into(),
            file: Location::File(name.into()),
            range,
            bytes,
            small_files: Vec::new(),
        };
        let whole = 0..u64::MAX;
        let files = vec![
            file("a", whole.clone(), 40),
            file("b", whole.clone(), 60),
            file("c", whole.clone(), 1),
            file("d", 0..300, 30),
            file("d", 300..u64::MAX, 20),
            file("e", whole.clone(), 500),
            file("f", whole.clone(), 1),
        ];
        let parts = together(files.clone(), 100);
        let found: Vec<(String, u64)> = parts
            .iter()
            .map(|part| (part.files().map(|file| file.name.as_str()).collect::<Vec<_>>().join(" "), part.bytes))
            .collect();
        let expected = [("a b", 100), ("c", 1), ("d", 30), ("d", 20), ("e", 500), ("f", 1)];
        assert_eq!(found, expected.map(|(names, bytes)| (names.to_string(), bytes)));
        let many = together((0..2 * PART_FILES + 1).map(|_| file("a", whole.clone(), 0)).collect(), 100);
        assert_eq!(many.iter().map(|part| part.files().count()).collect::<Vec<_>>(), [PART_FILES, PART_FILES, 1]);
    }

    #[test]
    fn generators_are_cut_by_documents() {
        let mut parts = Vec::new();
        generated(1, 25_000, &mut parts);
        assert_eq!(
            parts.iter().map(|part| part.range.clone()).collect::<Vec<_>>(),
            [0..10_000, 10_000..20_000, 20_000..25_000]
        );
    }
}
