//! Lines of a stream, with a limit on their length: what is longer is passed over without being held

use std::io::{self, BufRead, BufReader, Read};

use super::compressed::Input;

/// What stands next in the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line, without its line feed.
    Whole,
    /// A line of so many bytes, of which only the first are held.
    Long(u64),
    /// The end.
    End,
}

/// Reads lines one after another.
pub struct Lines<R: Read> {
    input: BufReader<Input<R>>,
    /// Byte of the stream at which the next line begins.
    offset: u64,
    /// Lines that were read.
    number: u64,
}

/// Bytes that are held of a line that is too long, to show what it was.
const SHOWN: usize = 1 << 10;

impl<R: Read> Lines<R> {
    /// Lines of a stream that begins at this byte.
    pub fn new(input: Input<R>, offset: u64) -> Lines<R> {
        Lines { input: BufReader::with_capacity(1 << 17, input), offset, number: 0 }
    }

    /// Where the next line begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many lines were read.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The stream below.
    pub fn input(&mut self) -> &mut Input<R> {
        self.input.get_mut()
    }

    /// Reads the next line into `line`, up to `max` bytes of it.
    ///
    /// # Errors
    /// What reading gives. Reading may go on after it.
    pub fn next(&mut self, line: &mut Vec<u8>, max: usize) -> io::Result<Line> {
        line.clear();
        let mut length = 0u64;
        loop {
            let bytes = match self.input.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.offset += length;
                    self.number += u64::from(length > 0);
                    return Err(error);
                }
            };
            if bytes.is_empty() {
                break;
            }
            let end = memchr::memchr(b'\n', bytes);
            let part = &bytes[..end.unwrap_or(bytes.len())];
            length += part.len() as u64;
            if length <= max as u64 {
                line.extend_from_slice(part);
            } else {
                line.extend_from_slice(&part[..part.len().min(SHOWN.saturating_sub(line.len()))]);
                line.truncate(SHOWN);
                line.shrink_to(SHOWN);
            }
            let read = part.len() + usize::from(end.is_some());
            self.input.consume(read);
            self.offset += read as u64;
            if end.is_some() {
                self.number += 1;
                return Ok(if length <= max as u64 { Line::Whole } else { Line::Long(length) });
            }
        }
        if length == 0 {
            return Ok(Line::End);
        }
        self.number += 1;
        Ok(if length <= max as u64 { Line::Whole } else { Line::Long(length) })
    }

    /// Reads so many bytes, and tells how many there were before the end.
    ///
    /// # Errors
    /// What reading gives.
    pub fn take(&mut self, bytes: u64, into: &mut Vec<u8>) -> io::Result<u64> {
        let before = into.len();
        let result = (&mut self.input).take(bytes).read_to_end(into);
        let read = (into.len() - before) as u64;
        self.offset += read;
        result.map(|_| read)
    }

    /// Passes over so many bytes, or up to the end.
    ///
    /// # Errors
    /// What reading gives.
    pub fn pass(&mut self, bytes: u64) -> io::Result<()> {
        self.offset += io::copy(&mut (&mut self.input).take(bytes), &mut io::sink())?;
        Ok(())
    }
}

/// How many line feeds stand in the first bytes of a stream.
///
/// # Errors
/// What reading gives.
pub fn count(input: impl Read, bytes: u64) -> io::Result<u64> {
    let mut input = BufReader::with_capacity(1 << 18, input.take(bytes));
    let mut lines = 0;
    loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            return Ok(lines);
        }
        lines += memchr::memchr_iter(b'\n', bytes).count() as u64;
        let read = bytes.len();
        input.consume(read);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_places_and_limits() {
        let text = format!("one\n\n{}\nend", "x".repeat(300_000));
        let mut lines = Lines::new(Input::plain(text.as_bytes()), 10);
        let mut line = Vec::new();
        let mut read = Vec::new();
        loop {
            let before = lines.offset();
            match lines.next(&mut line, 1000).unwrap() {
                Line::End => break,
                found => read.push((before, found, line.len())),
            }
        }
        let expected =
            [(10, Line::Whole, 3), (14, Line::Whole, 0), (15, Line::Long(300_000), SHOWN), (300_016, Line::Whole, 3)];
        assert_eq!(read, expected);
        assert_eq!(lines.number(), 4);
        assert!(line.capacity() < 10_000);
        assert_eq!(count(text.as_bytes(), 5).unwrap(), 2);
    }
}
