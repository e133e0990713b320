//! Documents on disk between two phases and at the end: one JSON object a line, compressed by zstd

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::atomic::{Digest, Pending};

/// Level of compression: the fastest, since most files are read once.
const LEVEL: i32 = 1;

/// Bytes of one line: a document of the largest text, every byte of it escaped, and its labels.
const LINE_BYTES_MAX: u64 = 8 << 30;

/// Writes records, a line each.
pub struct Writer {
    out: zstd::Encoder<'static, Pending>,
    path: PathBuf,
}

impl Writer {
    /// Begins a file, which is there only once it is finished.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn create(path: &Path) -> Result<Writer, Error> {
        let mut out = zstd::Encoder::new(Pending::create(path)?, LEVEL).map_err(Error::io(path))?;
        out.include_checksum(true).map_err(Error::io(path))?;
        Ok(Writer { out, path: path.to_path_buf() })
    }

    /// Writes one record.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn write(&mut self, record: &impl Serialize) -> Result<(), Error> {
        serde_json::to_writer(&mut self.out, record).map_err(|e| Error::io(&self.path)(e.into()))?;
        self.out.write_all(b"\n").map_err(Error::io(&self.path))
    }

    /// Ends the file and gives it its name.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn finish(self) -> Result<Digest, Error> {
        self.out.finish().map_err(Error::io(&self.path))?.finish()
    }
}

/// A file that is hashed as it is read.
struct Hashed {
    file: File,
    hasher: blake3::Hasher,
}

impl Read for Hashed {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(bytes)?;
        self.hasher.update(&bytes[..read]);
        Ok(read)
    }
}

/// Reads records that [`Writer`] wrote.
pub struct Reader<T> {
    from: BufReader<zstd::Decoder<'static, BufReader<Hashed>>>,
    expected: Option<Digest>,
    path: PathBuf,
    line: Vec<u8>,
    number: u64,
    record: std::marker::PhantomData<T>,
}

impl<T: DeserializeOwned> Reader<T> {
    /// Opens a file.
    ///
    /// # Errors
    /// Where it is not there or cannot be read.
    pub fn open(path: &Path) -> Result<Reader<T>, Error> {
        let file = Hashed { file: File::open(path).map_err(Error::io(path))?, hasher: blake3::Hasher::new() };
        let from = BufReader::with_capacity(1 << 17, zstd::Decoder::new(file).map_err(Error::io(path))?);
        let path = path.to_path_buf();
        Ok(Reader { from, expected: None, path, line: Vec::new(), number: 0, record: std::marker::PhantomData })
    }

    /// Opens a file that must hold what was written: behind its last record another length or hash is an error.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open_written(path: &Path, written: Digest) -> Result<Reader<T>, Error> {
        Ok(Reader { expected: Some(written), ..Reader::open(path)? })
    }

    fn next_record(&mut self) -> Result<Option<T>, Error> {
        self.line.clear();
        self.number += 1;
        let damaged = |problem: String| {
            Error::file(
                &self.path,
                format!("line {}: {problem}; remove this file, and the same command makes it again", self.number),
            )
        };
        let read = (&mut self.from).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.line);
        if read.map_err(|e| damaged(e.to_string()))? == 0 {
            let found = || Digest::of(&self.from.get_ref().get_ref().get_ref().hasher);
            return self.expected.take().map_or(Ok(()), |written| written.check(&found(), &self.path)).map(|()| None);
        }
        serde_json::from_slice(&self.line).map(Some).map_err(|e| damaged(e.to_string()))
    }
}

impl<T: DeserializeOwned> Iterator for Reader<T> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Document;

    #[test]
    fn documents_come_back_as_they_were() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part.jsonl.zst");
        let mut documents: Vec<Document> =
            (0..100).map(|i| Document::new(format!("a#{i}"), "line\n\u{1f600}\0".repeat(i))).collect();
        documents[3].labels.insert("language".into(), "en".into());
        let mut writer = Writer::create(&path).unwrap();
        for document in &documents {
            writer.write(document).unwrap();
        }
        assert!(!path.exists());
        writer.finish().unwrap();
        let back: Vec<Document> = Reader::open(&path).unwrap().map(Result::unwrap).collect();
        let json = |documents: &[Document]| serde_json::to_string(documents).unwrap();
        assert_eq!(json(&back), json(&documents));

        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() / 2);
        std::fs::write(&path, bytes).unwrap();
        let error = Reader::<Document>::open(&path).unwrap().find_map(Result::err).unwrap().to_string();
        assert!(error.contains("remove this file"), "{error}");
    }
}
