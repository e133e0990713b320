//! Bytes of a connection: which request gives its length twice is what a plain reader with the server's own parser finds, and a `Host`
//! that is taken is one name or address.
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use axum::body::Body;
use axum::http::{Request, Version, header};
use serve::http::framing::{Ambiguous, Followed};
use serve::http::hosts::Hosts;
use tokio::io::{AsyncRead, ReadBuf};

/// Follows a connection that is read in pieces of this size.
fn followed(data: &[u8], size: usize) -> Ambiguous {
    let (mut stream, ambiguous) = Followed::new(data);
    let mut piece = vec![0; size];
    loop {
        let mut buffer = ReadBuf::new(&mut piece);
        let read = Pin::new(&mut stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer);
        assert!(matches!(read, Poll::Ready(Ok(()))));
        if buffer.filled().is_empty() {
            return ambiguous;
        }
    }
}

/// A number of these digits, and what follows them.
fn number(bytes: &[u8], radix: u32) -> Option<(usize, &[u8])> {
    let digits = bytes.iter().take_while(|b| char::from(**b).is_digit(radix)).count();
    let (digits, rest) = bytes.split_at(digits);
    // As many zeros as there are mean nothing.
    let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.is_empty())?;
    Some((usize::from_str_radix(digits, radix).ok()?, rest))
}

/// What follows a body in chunks (RFC 9112, section 7.1), whose lines end with CR LF only.
fn after_chunks(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (size, rest) = number(bytes, 16)?;
        let end = rest.iter().position(|b| matches!(b, b'\r' | b'\n'))?;
        let between = rest[..end].trim_ascii_start();
        let rest = rest[end..].strip_prefix(b"\r\n").filter(|_| between.is_empty() || between[0] == b';')?;
        if size > 0 {
            bytes = rest.get(size..)?.strip_prefix(b"\r\n")?;
            continue;
        }
        bytes = rest;
        loop {
            let end = bytes.iter().position(|&b| b == b'\r')?;
            bytes = bytes[end..].strip_prefix(b"\r\n")?;
            if end == 0 {
                return Some(bytes);
            }
        }
    }
}

/// Whether a text is a host with a port or without, said another way than by the server.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port_fine = port.is_none_or(|p| matches!(p.parse::<u64>(), Ok(1..=65535)) && !p.starts_with('+'));
    let name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let address = host.len() > 2 && host.starts_with('[') && host.ends_with(']');
    port_fine
        && (address && host[1..host.len() - 1].parse::<std::net::Ipv6Addr>().is_ok()
            || !host.is_empty()
                && host.len() < 256
                && !host.starts_with('.')
                && !host.contains("..")
                && host.chars().all(name))
}

/// A head that the parser takes is judged by its `Host`.
fn judged(head: &httparse::Request) {
    let version = if head.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let builder = Request::builder().version(version).method(head.method.unwrap()).uri(head.path.unwrap());
    let request = head.headers.iter().fold(builder, |b, h| b.header(h.name, h.value));
    let Ok(request) = request.body(Body::empty()) else { return };
    let hosts: Vec<_> = request.headers().get_all(header::HOST).iter().collect();
    if Hosts::default().check(&request).is_ok() {
        assert!(hosts.len() == 1 || version == Version::HTTP_10 && hosts.is_empty(), "{hosts:?}");
        let text = hosts.first().map_or("", |h| h.to_str().expect("ASCII"));
        assert!(text.is_empty() || is_host(text), "{text:?}");
        if Hosts::new(&[], true).check(&request).is_ok() && request.uri().authority().is_none() && !text.is_empty() {
            let lower = text.to_ascii_lowercase();
            let address = lower.strip_prefix('[').and_then(|t| t.split(']').next()?.parse::<std::net::Ipv6Addr>().ok());
            let loops = |a: std::net::Ipv6Addr| a.is_loopback() || a.to_ipv4_mapped().is_some_and(|a| a.is_loopback());
            assert!(lower.contains("localhost") || lower.contains("127.") || address.is_some_and(loops), "{text:?}");
        }
    }
}

/// Runs the target on one input.
pub fn run(data: &[u8]) {
    let found: Vec<Ambiguous> = [1, 7, 4096].map(|size| followed(data, size)).into();
    let mut rest = data;
    for request in 0.. {
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut head = httparse::Request::new(&mut fields);
        let Ok(httparse::Status::Complete(bytes)) = head.parse(rest) else { return };
        judged(&head);
        let named = |name: &str| head.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).collect::<Vec<_>>();
        let (lengths, codings) = (named("content-length"), named("transfer-encoding"));
        let both = !lengths.is_empty() && !codings.is_empty();
        assert!(found.iter().all(|ambiguous| ambiguous.is(request) == both), "request {request}");
        rest = &rest[bytes..];
        rest = if both {
            return;
        } else if !codings.is_empty() {
            match after_chunks(rest) {
                Some(rest) => rest,
                None => return,
            }
        } else if let Some(first) = lengths.first() {
            // What is no number, or two of them, is refused.
            let length = match number(first.value, 10) {
                Some((length, [])) if lengths.iter().all(|l| number(l.value, 10) == Some((length, &[]))) => length,
                _ => return,
            };
            match rest.get(length..) {
                Some(rest) => rest,
                None => return,
            }
        } else {
            rest
        };
    }
}
