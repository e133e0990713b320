//! Lines of a file, one after the other, none of them longer than a bound in memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

/// Bytes of a line at most, without its end.
pub const LINE_BYTES_MAX: usize = 4 << 20;

/// A line that is not blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its place in the file, from 0, blank lines counted.
    pub index: usize,
    /// The line without its end.
    pub bytes: Vec<u8>,
    /// False for a line that is too long, of which this is the beginning.
    pub whole: bool,
}

/// Reads lines; blank ones are left out.
pub struct Lines<R = BufReader<File>> {
    reader: R,
    next: usize,
}

impl Lines {
    pub(crate) fn new(file: File) -> Lines {
        Lines::over(BufReader::with_capacity(256 << 10, file))
    }
}

impl<R: BufRead> Lines<R> {
    /// Of any reader.
    pub fn over(reader: R) -> Lines<R> {
        Lines { reader, next: 0 }
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// The disk.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            let mut bytes = Vec::new();
            let most = LINE_BYTES_MAX as u64 + 1;
            if self.reader.by_ref().take(most).read_until(b'\n', &mut bytes)? == 0 {
                return Ok(None);
            }
            let ended = bytes.pop_if(|last| *last == b'\n').is_some();
            let whole = ended || bytes.len() <= LINE_BYTES_MAX;
            if !whole {
                self.reader.skip_until(b'\n')?;
            }
            let index = self.next;
            self.next += 1;
            bytes.pop_if(|last| *last == b'\r');
            // What begins the file in some editors.
            if index == 0 && bytes.starts_with(b"\xef\xbb\xbf") {
                bytes.drain(..3);
            }
            if !bytes.trim_ascii().is_empty() || !whole {
                return Ok(Some(Line { index, bytes, whole }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<(usize, usize, bool)> {
        let mut lines = Lines::over(bytes);
        std::iter::from_fn(|| lines.next_line().unwrap())
            .map(|line| (line.index, line.bytes.len(), line.whole))
            .collect()
    }

    #[test]
    fn blank_lines_are_counted_and_left_out() {
        assert_eq!(all(b""), []);
        assert_eq!(all(b"\n \n\r\n"), []);
        assert_eq!(all(b"\xef\xbb\xbfab\r\n\ncde"), [(0, 2, true), (2, 3, true)]);
        let mut long = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(all(&long), [(0, LINE_BYTES_MAX, true)]);
        long.extend(b"\ny");
        assert_eq!(all(&long), [(0, LINE_BYTES_MAX, true), (1, 1, true)]);
        let mut long = vec![b' '; 3 * LINE_BYTES_MAX];
        long.extend(b"\ny\n");
        assert_eq!(all(&long), [(0, LINE_BYTES_MAX + 1, false), (1, 1, true)]);
    }
}
