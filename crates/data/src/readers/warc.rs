//! WARC and WET: pages as a crawler kept them, and their texts (ISO 28500)
//!
//! Read here and not by the crate `warc` 0.4: that one holds headers and blocks of any length, and does not look for the next record behind a
//! damaged one (`RecordIter::next` in its `warc_reader.rs`).

use std::io::{self, Read};

use flate2::read::{MultiGzDecoder, ZlibDecoder};

use super::encoding::{Encoding, decode};
use super::html::{self, PAGE_BYTES_MAX};
use super::lines::{Line, Lines};
use super::{Emit, Item, damaged, decompressing, empty_file, id};
use crate::part::Part;
use crate::source::Source;
use crate::store::Handle;
use crate::{Document, Error};

/// Bytes of the headers of a record, and of an HTTP response in it.
const HEADERS_BYTES_MAX: usize = 64 << 10;

/// Headers of an HTTP response.
const HTTP_HEADERS_MAX: usize = 256;

/// Reads the records of a file.
pub fn read(source: &Source, part: &Part, emit: Emit) -> Result<(), Error> {
    let input = match super::open(source, part, 0)? {
        Ok(input) => input,
        Err(problem) => return emit(damaged(part.name.clone(), problem, b"")),
    };
    let mut reader = Reader { source, part, lines: Lines::new(input, 0), number: 0, lost: false };
    loop {
        match reader.record(emit) {
            Ok(true) => {}
            Ok(false) if reader.lines.offset() == 0 => return emit(empty_file()),
            Ok(false) => return Ok(()),
            Err(Failed::Error(error)) => return Err(error),
            Err(Failed::Reading(error)) => {
                let problem = decompressing(part.file.path(), reader.lines.input().is_damage(), error)?;
                let goes_on = reader.lines.input().resume().map_err(Error::io(&part.file))?;
                emit(damaged(reader.place(), problem, b""))?;
                if !goes_on {
                    return Ok(());
                }
            }
        }
    }
}

enum Failed {
    Reading(io::Error),
    Error(Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::Reading(error)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::Error(error)
    }
}

struct Reader<'a> {
    source: &'a Source,
    part: &'a Part,
    lines: Lines<Handle>,
    /// Records that were begun.
    number: u64,
    /// Whether the next record is looked for after damage that was told.
    lost: bool,
}

/// What the headers of a record say.
#[derive(Default)]
struct Header {
    kind: String,
    url: Option<String>,
    date: Option<String>,
    content_type: String,
    length: Option<u64>,
}

impl Header {
    fn read(&mut self, name: &str, value: &str) {
        match name.to_ascii_lowercase().as_str() {
            "warc-type" => self.kind = value.to_ascii_lowercase(),
            "warc-target-uri" => self.url = Some(value.trim_start_matches('<').trim_end_matches('>').to_string()),
            "warc-date" => self.date = Some(value.to_string()),
            "content-type" => self.content_type = value.to_ascii_lowercase(),
            "content-length" => self.length = value.parse().ok(),
            _ => {}
        }
    }

    /// The kind of what is passed over; none if a document may be in it.
    fn passed_over(&self) -> Option<String> {
        match self.kind.as_str() {
            "response" if self.content_type.starts_with("application/http") => None,
            "response" => Some(type_kind(&self.content_type)),
            "resource" | "conversion" if is_html(&self.content_type) || self.content_type.starts_with("text/plain") => {
                None
            }
            "resource" | "conversion" => Some(type_kind(&self.content_type)),
            kind => Some(format!("record {}", RECORD_TYPES.iter().find(|known| **known == kind).unwrap_or(&"other"))),
        }
    }
}

/// Types of records without a page (ISO 28500, section 6).
const RECORD_TYPES: &[&str] = &["warcinfo", "request", "metadata", "revisit", "continuation"];

/// Content types that are counted by their own name.
const CONTENT_TYPES: &[&str] = &[
    "application/atom+xml",
    "application/javascript",
    "application/json",
    "application/octet-stream",
    "application/pdf",
    "application/rss+xml",
    "application/xml",
    "text/calendar",
    "text/css",
    "text/javascript",
    "text/xml",
];

/// Top-level media types (RFC 6838, section 4.2): the others are counted by them.
const TOP_LEVEL_TYPES: &[&str] =
    &["application", "audio", "font", "image", "message", "model", "multipart", "text", "video"];

/// The kind of what has this content type. Servers say what they like: the number of kinds is bounded.
fn type_kind(content_type: &str) -> String {
    let plain = content_type.split(';').next().unwrap_or_default().trim();
    if let Some(known) = CONTENT_TYPES.iter().find(|known| **known == plain) {
        return format!("type {known}");
    }
    let top = plain.split('/').next().unwrap_or_default();
    match TOP_LEVEL_TYPES.iter().find(|known| **known == top) {
        Some(top) => format!("type {top}/*"),
        None if plain.is_empty() => "type not given".into(),
        None => "type other".into(),
    }
}

fn is_html(content_type: &str) -> bool {
    ["text/html", "application/xhtml+xml"].iter().any(|kind| content_type.starts_with(kind))
}

impl Reader<'_> {
    fn place(&self) -> String {
        format!("{}: record {}", self.part.name, self.number.max(1))
    }

    /// Reads one record. False at the end.
    fn record(&mut self, emit: Emit) -> Result<bool, Failed> {
        let mut line = Vec::new();
        let begin = loop {
            let begin = self.lines.offset();
            match self.lines.next(&mut line, HEADERS_BYTES_MAX)? {
                Line::End => return Ok(false),
                _ if line.starts_with(b"WARC/") => break begin,
                _ if line.trim_ascii().is_empty() => {}
                // Told once, then passed over up to the next record.
                _ if self.lost => {}
                _ => {
                    self.lost = true;
                    emit(damaged(self.place(), "no record begins here, but with `WARC/`", &line))?;
                }
            }
        };
        self.number += 1;
        self.lost = false;
        let header = match self.header(&mut line)? {
            Ok(header) => header,
            Err(problem) => {
                self.lost = true;
                emit(damaged(self.place(), problem, &line))?;
                return Ok(true);
            }
        };
        let length = header.length.unwrap_or(0);
        if let Some(kind) = header.passed_over() {
            self.lines.pass(length)?;
            emit(Item::PassedOver(kind))?;
            return Ok(true);
        }
        let max = (self.source.document_bytes_max.max(PAGE_BYTES_MAX) + HEADERS_BYTES_MAX) as u64;
        if length > max {
            emit(damaged(self.place(), format!("a record of {length} bytes, over {max}"), b""))?;
            self.lines.pass(length)?;
            return Ok(true);
        }
        let mut block = Vec::new();
        if self.lines.take(length, &mut block)? < length {
            emit(damaged(
                self.place(),
                format!("a record of {length} bytes, of which {} are there", block.len()),
                &block,
            ))?;
            return Ok(false);
        }
        let start = block[..block.len().min(1 << 10)].to_vec();
        match self.document(&header, block, begin) {
            Ok(Body::Other(kind)) => emit(Item::PassedOver(kind))?,
            Ok(Body::Page(document)) => emit(Item::Document(document))?,
            Err(problem) => emit(damaged(self.place(), problem, &start))?,
        }
        Ok(true)
    }

    /// Reads header lines up to the empty one.
    fn header(&mut self, line: &mut Vec<u8>) -> Result<Result<Header, String>, Failed> {
        let (mut header, mut bytes) = (Header::default(), 0);
        loop {
            match self.lines.next(line, HEADERS_BYTES_MAX)? {
                Line::End => return Ok(Err("headers that are cut off".into())),
                Line::Long(_) => return Ok(Err(format!("headers of more than {HEADERS_BYTES_MAX} bytes"))),
                Line::Whole => {}
            }
            bytes += line.len();
            if bytes > HEADERS_BYTES_MAX {
                return Ok(Err(format!("headers of more than {HEADERS_BYTES_MAX} bytes")));
            }
            let text = String::from_utf8_lossy(line);
            let text = text.trim_ascii_end();
            if text.is_empty() {
                return Ok(if header.length.is_some() {
                    Ok(header)
                } else {
                    Err("headers without a valid Content-Length".into())
                });
            }
            // A line that begins with white space goes on with the one before, of which nothing is used.
            if let Some((name, value)) = text.split_once(':').filter(|_| !text.starts_with([' ', '\t'])) {
                header.read(name, value.trim_ascii());
            }
        }
    }

    /// The document of a record, or the kind of what it holds instead.
    fn document(&self, header: &Header, block: Vec<u8>, begin: u64) -> Result<Body<Document>, String> {
        let (content_type, body) = match header.kind.as_str() {
            "response" => match response(&block)? {
                Body::Page(response) => response,
                Body::Other(kind) => return Ok(Body::Other(kind)),
            },
            _ => (header.content_type.clone(), block),
        };
        let id = id(self.source, self.part, begin);
        let charset = content_type
            .split_once("charset=")
            .map(|(_, name)| name.trim_matches(['"', '\'', ' ']).split(';').next().unwrap_or_default());
        let mut document = if is_html(&content_type) {
            let page = html::decode_page(body, charset, self.source.encoding)?;
            html::document(id, html::main_text(&page)?)
        } else if content_type.starts_with("text/plain") {
            let named = charset
                .and_then(|name| encoding_rs::Encoding::for_label(name.as_bytes()))
                .filter(|named| *named != encoding_rs::UTF_8);
            let encoding = named.map_or(self.source.encoding, Encoding::Named);
            Document::new(id, decode(body, encoding)?.text)
        } else {
            return Ok(Body::Other(type_kind(&content_type)));
        };
        if document.text().len() > self.source.document_bytes_max {
            return Err(super::fields::too_long(document.text().len() as u64, self.source.document_bytes_max));
        }
        for (name, value) in [("url", &header.url), ("date", &header.date)] {
            if let Some(value) = value {
                document.labels.insert(name.into(), value.clone().into());
            }
        }
        Ok(Body::Page(document))
    }
}

/// What a record holds.
#[derive(Debug, PartialEq, Eq)]
enum Body<T> {
    Page(T),
    /// Something else, by its kind.
    Other(String),
}

/// Type and body of an HTTP response of status 200.
fn response(block: &[u8]) -> Result<Body<(String, Vec<u8>)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut parser = httparse::ParserConfig::default();
    parser.allow_spaces_after_header_name_in_responses(true).ignore_invalid_headers_in_responses(true);
    let mut response = httparse::Response::new(&mut headers);
    let head = match parser.parse_response(&mut response, block) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Err("an HTTP response that is cut off in its headers".into()),
        Err(error) => return Err(format!("an HTTP response that is damaged: {error}")),
    };
    match response.code {
        Some(200) => {}
        Some(code @ 100..600) => return Ok(Body::Other(format!("status {code}"))),
        _ => return Ok(Body::Other("status other".into())),
    }
    let value = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.map(|header| String::from_utf8_lossy(header.value).trim().to_ascii_lowercase())
    };
    let content_type = value("content-type").unwrap_or_default();
    let mut body = block[head..].to_vec();
    // Some crawlers keep the header of what they undid.
    if value("transfer-encoding").is_some_and(|coding| coding.contains("chunked"))
        && let Some(whole) = without_chunks(&body)
    {
        body = whole;
    }
    let coding = value("content-encoding").unwrap_or_default();
    let unpacked = match coding.as_str() {
        "gzip" | "x-gzip" if body.starts_with(&[0x1f, 0x8b]) => unpack(MultiGzDecoder::new(&body[..]))?,
        "deflate" => unpack(ZlibDecoder::new(&body[..])).unwrap_or(body),
        // Readability would find text in no bytes of Brotli; those who undid it have text.
        "br" | "zstd" if std::str::from_utf8(&body).is_err() => {
            return Err(format!("an HTTP response with content-encoding {coding}"));
        }
        _ => body,
    };
    Ok(Body::Page((content_type, unpacked)))
}

fn unpack(decoder: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    decoder
        .take(PAGE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("an HTTP response whose body is damaged: {error}"))?;
    if bytes.len() > PAGE_BYTES_MAX { Err(format!("a page of more than {PAGE_BYTES_MAX} bytes")) } else { Ok(bytes) }
}

/// The body of a response in chunks (RFC 9112, section 7.1). None if there are none.
fn without_chunks(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        match httparse::parse_chunk_size(body).ok()? {
            httparse::Status::Partial => return None,
            httparse::Status::Complete((_, 0)) => return Some(whole),
            httparse::Status::Complete((start, size)) => {
                let chunk = body.get(start..)?.get(..usize::try_from(size).ok()?)?;
                whole.extend_from_slice(chunk);
                body = body[start + chunk.len()..].strip_prefix(b"\r\n")?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_undone() {
        let page = |kind: &str, body: &[u8]| Ok(Body::Page((kind.to_string(), body.to_vec())));
        let plain = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=UTF-8\r\n\r\n<p>x".as_slice();
        assert_eq!(response(plain), page("text/html; charset=utf-8", b"<p>x"));
        assert_eq!(response(b"HTTP/1.1 404 Not Found\r\n\r\nx"), Ok(Body::Other("status 404".into())));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(response(chunked), page("", b"abcde"));
        let undone = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n<p>text";
        assert_eq!(response(undone), page("", b"<p>text"));
        assert!(response(b"HTTP/1.1 200 OK\r\nContent-Type").is_err());
        assert!(response(b"no http\r\n\r\n").is_err());
        let huge = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\nabc";
        assert_eq!(response(huge), page("", b"fffffffffffffff\r\nabc"));
    }

    #[test]
    fn kinds_of_what_is_passed_over_are_few() {
        for (content_type, kind) in [
            ("application/pdf; x=1", "type application/pdf"),
            ("application/x-1234", "type application/*"),
            ("image/png", "type image/*"),
            ("text/htmlx", "type text/*"),
            ("", "type not given"),
            ("nonsense", "type other"),
            ("x-y/z", "type other"),
        ] {
            assert_eq!(type_kind(content_type), kind);
        }
        assert_eq!(response(b"HTTP/1.1 999 Denied\r\n\r\nx"), Ok(Body::Other("status other".into())));
        let header = Header { kind: "forged".into(), ..Header::default() };
        assert_eq!(header.passed_over().as_deref(), Some("record other"));
    }
}
