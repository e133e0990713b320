//! Asking a running server whether it is ready, for containers without curl.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::{Failure, Outcome};

/// Bytes of an answer that are looked at.
const ANSWER_BYTES_MAX: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(5);

/// Ask `http://HOST:PORT[/PATH]`; without a path, `/ready`. Done when it says 200.
pub fn check(url: &str) -> Outcome {
    let failed = |why: String| Failure::failed(format!("{url}: {why}"));
    let wrong = |why: &str| Failure::usage(format!("{url}: {why}"));
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| wrong("give http://HOST:PORT; behind TLS, probe with a client that knows the certificate"))?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() || path == "/" { "/ready" } else { path };
    if rest.chars().any(|c| c.is_control() || c == ' ') {
        return Err(wrong("no URL has spaces"));
    }
    let port = if host.ends_with(']') || !host.contains(':') { ":80" } else { "" };
    let addresses = format!("{host}{port}").to_socket_addrs().map_err(|e| failed(e.to_string()))?;
    let mut last = "no address".to_string();
    for address in addresses {
        match ask(&address, host, path) {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => return Ok(()),
            Ok(answer) => last = told(&answer),
            Err(e) => last = format!("{e}; is the server there? `farthing serve` prints its address"),
        }
    }
    Err(failed(last))
}

/// The status line of an answer, and what its error says.
fn told(answer: &str) -> String {
    let status = answer.lines().next().unwrap_or("no answer");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let body: Option<serde_json::Value> = serde_json::from_str(body).ok();
    match body.as_ref().and_then(|body| body["error"]["message"].as_str()) {
        Some(message) => format!("{status}: {}", message.replace(char::is_control, " ")),
        None => status.to_string(),
    }
}

fn ask(address: &std::net::SocketAddr, host: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
