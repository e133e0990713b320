//! Request framing: finds requests on a connection that give both Content-Length and Transfer-Encoding.
//!
//! The parser drops the one and says nothing. RFC 9112, section 6.1, lets a server refuse such a request: a proxy before it may have read
//! another length. Nothing else follows from what is found here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

/// Bytes of a line that are kept: more than the names and values that matter have without their padding.
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
enum Expected {
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
    Trailer(Trailer),
    /// What the parser refuses too: nothing follows.
    End,
}

/// Trailers end with an empty line, and to the parser only CR LF ends a line of theirs: a lone LF in them is a byte like any other.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trailer {
    Begin,
    Inside,
    /// Behind a CR, which must be followed by an LF; whether the line is empty.
    Return {
        empty: bool,
    },
}

/// Follows the bytes of a connection.
struct Framing {
    part: Expected,
    /// The beginning of a line that is not yet whole, without padding: see `keep`.
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
                Expected::Body(left) | Expected::Chunk(left) => {
                    let skipped = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= skipped as u64;
                    skipped
                }
                Expected::Trailer(trailer) => {
                    self.part = trailer.after(bytes[0]);
                    1
                }
                Expected::End => return,
                _ => {
                    let end = bytes.iter().position(|&b| b == b'\n');
                    let taken = end.unwrap_or(bytes.len());
                    bytes[..taken].iter().for_each(|&byte| self.keep(byte));
                    if end.is_some() {
                        let line = std::mem::take(&mut self.line);
                        self.part = self.after(&line);
                    }
                    taken + usize::from(end.is_some())
                }
            };
            match self.part {
                Expected::Body(0) => self.part = Expected::Start,
                Expected::Chunk(0) => self.part = Expected::Size,
                _ => {}
            }
            bytes = &bytes[skipped..];
        }
    }

    /// Remember a byte of a line. Spaces and zeros before a number may be any number of bytes, so they are not kept: where a space
    /// makes a difference, the parser refuses the request.
    fn keep(&mut self, byte: u8) {
        let numbered = match self.part {
            Expected::Size => self.line.is_empty(),
            _ => self.line.ends_with(b":"),
        };
        let padding = matches!(byte, b' ' | b'\t' | b'\r') || byte == b'0' && numbered;
        if !padding && self.line.len() < LINE_BYTES_MAX {
            self.line.push(byte);
        }
    }

    /// What comes after a line.
    fn after(&mut self, line: &[u8]) -> Expected {
        match self.part {
            Expected::Start if line.is_empty() => Expected::Start,
            Expected::Start => {
                (self.length, self.chunked) = (None, false);
                Expected::Field
            }
            Expected::Field if line.is_empty() => self.body(),
            Expected::Field => {
                self.field(line);
                Expected::Field
            }
            Expected::Size => {
                let digits = line.split(|&b| b == b';').next().unwrap_or_default();
                let size = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
                match size {
                    // Zeros are not kept.
                    None if digits.is_empty() => Expected::Trailer(Trailer::Begin),
                    Some(size) => size.checked_add(2).map_or(Expected::End, Expected::Chunk),
                    None => Expected::End,
                }
            }
            part => part,
        }
    }

    fn field(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|&b| b == b':') else { return };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.eq_ignore_ascii_case(b"content-length") {
            // Zeros are not kept, and what is no number is refused by the parser.
            self.length = Some(std::str::from_utf8(value).ok().and_then(|value| value.parse().ok()).unwrap_or(0));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = true;
        }
    }

    /// What comes after a head.
    fn body(&mut self) -> Expected {
        let request = self.requests;
        self.requests += 1;
        match (self.length, self.chunked) {
            (Some(_), true) => {
                self.ambiguous.0.store(request, Ordering::Release);
                Expected::End
            }
            (None, true) => Expected::Size,
            (Some(length), false) => Expected::Body(length),
            (None, false) => Expected::Start,
        }
    }
}

impl Trailer {
    fn after(self, byte: u8) -> Expected {
        match (self, byte) {
            (Trailer::Return { empty: true }, b'\n') => Expected::Start,
            (Trailer::Return { empty: false }, b'\n') => Expected::Trailer(Trailer::Begin),
            (Trailer::Return { .. }, _) => Expected::End,
            (_, b'\r') => Expected::Trailer(Trailer::Return { empty: self == Trailer::Begin }),
            _ => Expected::Trailer(Trailer::Inside),
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
            part: Expected::Start,
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

    /// Requests that the parser takes for one, however long their padding is and whatever their bodies and trailers look like.
    #[test]
    fn padding_and_trailers_do_not_hide_where_a_request_ends() {
        let both = "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        let get = "GET / HTTP/1.1\n\n";
        let (length, coding) =
            ("POST / HTTP/1.1\r\nContent-Length:", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
        let (spaces, zeros, bytes) = (" \t".repeat(100), "0".repeat(300), get.len());
        for one in [
            format!("{length}{spaces}{bytes}{spaces}\r\n\r\n{get}"),
            format!("{length}{zeros}{bytes}\r\n\r\n{get}"),
            format!("{length}{zeros}\r\n\r\n"),
            format!("{coding}{zeros}{bytes:x}\r\n{get}\r\n{zeros}\r\n\r\n"),
            format!("{coding}{bytes:X}{spaces};a={spaces}\r\n{get}\r\n0\r\n\r\n"),
            format!("{coding}0\r\nX: a\n\n{get}\r\n\r\n"),
            format!("{coding}0\r\n\n\r\nX: a\r\n\r\n"),
            format!("POST / HTTP/1.1\r\nTransfer-Encoding:{spaces}chunked\r\n\r\n0\r\n\r\n"),
        ] {
            assert_eq!(ambiguous(&one), None, "{one:?}");
            assert_eq!(ambiguous(&format!("{one}{both}")), Some(1), "{one:?}");
        }
        // The parser refuses a CR alone, and nothing follows.
        assert_eq!(ambiguous(&format!("{coding}0\r\nX: a\r\r\n\r\n{both}")), None);
        let hidden = format!("{length} 3\r\nTransfer-Encoding:{spaces}chunked\r\n\r\n");
        assert_eq!(ambiguous(&hidden), Some(0));
    }

    /// What the fuzzer starts from, and what was found: in each of those the second request gives its length twice.
    #[test]
    fn seeds_and_findings_of_the_fuzzer() {
        let texts = |kind: &str| -> Vec<String> {
            let directory =
                std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(kind).join("framing");
            let entries = std::fs::read_dir(directory).unwrap();
            entries.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
        };
        let (seeds, findings) = (texts("seeds"), texts("findings"));
        assert!(seeds.len() >= 5 && findings.len() >= 3);
        assert_eq!(seeds.iter().filter(|seed| ambiguous(seed).is_some()).count(), 1);
        findings.iter().for_each(|finding| assert_eq!(ambiguous(finding), Some(1), "{finding:?}"));
    }
}
