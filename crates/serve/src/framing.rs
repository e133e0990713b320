//! Where requests begin and end on a connection, to see those that give both Content-Length and Transfer-Encoding
//!
//! The parser drops the one and says nothing. RFC 9112, section 6.1, lets a server refuse such a request: a proxy before it may have read
//! another length. Nothing else follows from what is found here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a line that are looked at: more than the names and values that matter.
const LINE_BYTES_MAX: usize = 128;
/// No request, as a number.
const NONE: u64 = u64::MAX;

/// The request of a connection, counted from 0, that gives its length twice. The connection ends after it, so there is one at most.
#[derive(Clone)]
pub struct Ambiguous(Arc<AtomicU64>);

impl Ambiguous {
    /// Whether it is this one.
    pub fn is(&self, request: u64) -> bool {
        self.0.load(Ordering::Acquire) == request
    }
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    /// A request line, after empty lines perhaps.
    Start,
    /// A field of the head.
    Field,
    /// So many bytes of a body.
    Body(u64),
    /// The size of a chunk.
    Size,
    /// So many bytes of a chunk, and the end of its line.
    Chunk(u64),
    /// Fields after the last chunk.
    Trailer,
    /// What the parser refuses too: nothing follows.
    End,
}

/// Follows the bytes of a connection.
struct Framing {
    part: Part,
    /// The beginning of a line that is not yet whole.
    line: Vec<u8>,
    length: Option<u64>,
    chunked: bool,
    /// Requests whose head was read.
    requests: u64,
    ambiguous: Ambiguous,
}

impl Framing {
    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = match &mut self.part {
                Part::Body(left) | Part::Chunk(left) => {
                    let skipped = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= skipped as u64;
                    skipped
                }
                Part::End => return,
                _ => {
                    let end = bytes.iter().position(|&b| b == b'\n');
                    let taken = end.unwrap_or(bytes.len());
                    let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
                    self.line.extend_from_slice(&bytes[..taken.min(room)]);
                    if end.is_some() {
                        let line = std::mem::take(&mut self.line);
                        self.part = self.after(line.trim_ascii());
                    }
                    taken + usize::from(end.is_some())
                }
            };
            match self.part {
                Part::Body(0) => self.part = Part::Start,
                Part::Chunk(0) => self.part = Part::Size,
                _ => {}
            }
            bytes = &bytes[skipped..];
        }
    }

    /// What comes after a line.
    fn after(&mut self, line: &[u8]) -> Part {
        match self.part {
            Part::Start if line.is_empty() => Part::Start,
            Part::Start => {
                (self.length, self.chunked) = (None, false);
                Part::Field
            }
            Part::Field if line.is_empty() => self.body(),
            Part::Field => {
                self.field(line);
                Part::Field
            }
            Part::Size => {
                let digits = line.split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
                let size = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
                match size {
                    Some(0) => Part::Trailer,
                    Some(size) => size.checked_add(2).map_or(Part::End, Part::Chunk),
                    None => Part::End,
                }
            }
            Part::Trailer if line.is_empty() => Part::Start,
            part => part,
        }
    }

    fn field(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|&b| b == b':') else { return };
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            self.length = Some(std::str::from_utf8(value).ok().and_then(|value| value.parse().ok()).unwrap_or(0));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = true;
        }
    }

    /// What comes after a head.
    fn body(&mut self) -> Part {
        let request = self.requests;
        self.requests += 1;
        match (self.length, self.chunked) {
            (Some(_), true) => {
                self.ambiguous.0.store(request, Ordering::Release);
                Part::End
            }
            (None, true) => Part::Size,
            (Some(length), false) => Part::Body(length),
            (None, false) => Part::Start,
        }
    }
}

/// A connection whose requests are followed as they are read.
pub struct Followed<S> {
    stream: S,
    framing: Framing,
}

impl<S> Followed<S> {
    /// From its first byte on.
    pub fn new(stream: S) -> (Followed<S>, Ambiguous) {
        let ambiguous = Ambiguous(Arc::new(AtomicU64::new(NONE)));
        let framing = Framing {
            part: Part::Start,
            line: Vec::new(),
            length: None,
            chunked: false,
            requests: 0,
            ambiguous: ambiguous.clone(),
        };
        (Followed { stream, framing }, ambiguous)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Followed<S> {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(task, buffer);
        if outcome.is_ready() {
            self.framing.push(&buffer.filled()[before..]);
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Followed<S> {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(task, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(task, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of the request that gives its length twice, whatever pieces the bytes come in.
    fn ambiguous(text: &str) -> Option<u64> {
        let mut found = Vec::new();
        for size in [1, 2, 7, 1 << 16] {
            let (mut followed, ambiguous) = Followed::new(());
            text.as_bytes().chunks(size).for_each(|piece| followed.framing.push(piece));
            found.push(ambiguous.0.load(Ordering::Acquire));
        }
        assert!(found.iter().all(|n| *n == found[0]), "{text:?}: {found:?}");
        Some(found[0]).filter(|&n| n != NONE)
    }

    #[test]
    fn requests_are_told_from_their_bodies() {
        let both = "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        let turned = "POST / HTTP/1.1\ntransfer-ENCODING:chunked\nHost: a\ncontent-length :0\n\n";
        let get = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let length = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{both}", both.len());
        let chunk = format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x};a=b\r\n{both}\r\n0\r\nContent-Length: 3\r\n\r\n",
            both.len()
        );
        let long = format!(
            "GET / HTTP/1.1\r\nX: {}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "x".repeat(500)
        );
        for text in [
            get,
            &length,
            &chunk,
            &long,
            "",
            "\0\u{ff}",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        ] {
            assert_eq!(ambiguous(text), None, "{text:?}");
        }
        assert_eq!((ambiguous(both), ambiguous(turned)), (Some(0), Some(0)));
        assert_eq!(ambiguous(&format!("{get}{length}{chunk}{long}{both}")), Some(4));
    }
}
