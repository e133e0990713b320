//! Checks of `Host` against the names of this server, so that DNS rebinding gives web pages no access.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{StatusCode, Version, header};

use crate::error::ApiError;

/// Longest name of a host (RFC 1035, section 2.3.4, with the last dot).
const NAME_BYTES_MAX: usize = 254;

/// A name that requests may use for this server, without a port; `*` is any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(String);

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Host, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        let named = |a: Authority| a.as_str().chars().all(plain) && a.port().is_none();
        let fit = text == "*" || text.parse::<IpAddr>().is_ok() || text.parse().is_ok_and(named);
        let name = name(text);
        if fit && !name.is_empty() { Ok(Host(name)) } else { Err("give a name without a port, or *".to_string()) }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As names are compared.
fn name(text: &str) -> String {
    text.trim_end_matches('.').trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase()
}

/// Whether a text is a name or an address of a host, with a port or without: no user, no empty port, and nothing that names do not have.
fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.rfind(':') {
        // A colon inside brackets belongs to the address.
        Some(colon) if !text[colon..].contains(']') => (&text[..colon], Some(&text[colon + 1..])),
        _ => (text, None),
    };
    let digits =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    let labels = |name: &str| name.split('.').all(|label| !label.is_empty() && label.bytes().all(in_names));
    let named = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.len() <= NAME_BYTES_MAX && labels(host.strip_suffix('.').unwrap_or(host)),
    };
    named && port.is_none_or(digits)
}

/// Underscores stand in names of containers and services.
fn in_names(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Names that only this machine gives itself.
fn is_local(host: &str) -> bool {
    let literal = host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    literal || host == "localhost" || host.ends_with(".localhost")
}

/// Judges the names of requests. None: any name is right.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Option<Vec<Host>>);

impl Hosts {
    /// Names of this machine and `allowed` only, where something is allowed or `local_only` (a server without keys on a
    /// loopback address).
    pub fn new(allowed: &[Host], local_only: bool) -> Hosts {
        let any = allowed.iter().any(|host| host.0 == "*");
        Hosts(((local_only || !allowed.is_empty()) && !any).then(|| allowed.to_vec()))
    }

    /// A request must say once whom it is for (RFC 9112, section 3.2), and that must be us.
    ///
    /// # Errors
    /// A 400 or a 421.
    pub fn check(&self, request: &Request) -> Result<(), ApiError> {
        let mut given = request.headers().get_all(header::HOST).into_iter();
        let (first, second) = (given.next(), given.next());
        if second.is_some() {
            return Err(ApiError::bad("invalid_host", "Host is given more than once; give it once"));
        }
        let parsed = |text: &str| text.parse::<Authority>().ok().filter(|a| is_host_and_port(a.as_str())).ok_or(());
        let host = match first.map(|value| value.to_str()) {
            Some(Ok("")) => None,
            Some(Ok(text)) => Some(parsed(text)),
            Some(Err(_)) => Some(Err(())),
            None if request.version() == Version::HTTP_11 => {
                let message = "there is no Host; HTTP/1.1 requires it (RFC 9112, section 3.2)";
                return Err(ApiError::bad("invalid_host", message));
            }
            // HTTP/1.0, which no browser sends.
            None => return Ok(()),
        };
        let Ok(host) = host.transpose() else {
            let message = "Host is no name or address of a server, with a port from 1 to 65535 or without";
            return Err(ApiError::bad("invalid_host", message));
        };
        if request.uri().authority().is_some_and(|a| !is_host_and_port(a.as_str())) {
            let message = "the request line names no server by name or address, with a port from 1 to 65535 or without";
            return Err(ApiError::bad("invalid_host", message));
        }
        let Some(allowed) = &self.0 else { return Ok(()) };
        // The request line takes precedence.
        let asked = request.uri().authority().or(host.as_ref()).map(|a| name(a.host())).unwrap_or_default();
        if is_local(&asked) || allowed.iter().any(|host| host.0 == asked) {
            return Ok(());
        }
        if asked.is_empty() {
            let message = "Host is empty; send the name of this server, such as localhost";
            return Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, "host_not_allowed", message));
        }
        let shown: String = asked.chars().take(100).collect();
        let message = format!(
            "this server does not answer to the name {shown:?}; use localhost, or start it with --allowed-host {shown}"
        );
        Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, "host_not_allowed", message))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn parsed(hosts: &Hosts, version: Version, uri: &str, given: &[&str]) -> u16 {
        let request = given.iter().fold(Request::builder().version(version).uri(uri), |r, h| r.header("host", *h));
        hosts.check(&request.body(Body::empty()).unwrap()).map_or_else(|p| p.status.as_u16(), |()| 200)
    }

    #[test]
    fn names_of_others_are_refused_where_it_matters() {
        let allowed: Vec<Host> = ["Models.Example.", "192.168.1.5", "fd00::5"].map(|h| h.parse().unwrap()).into();
        let (local, some, open) = (Hosts::new(&[], true), Hosts::new(&allowed, true), Hosts::new(&[], false));
        let v = Version::HTTP_11;
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "a.localhost",
            "localhost.",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:8080",
            "[::1]",
        ] {
            assert_eq!(parsed(&local, v, "/", &[host]), 200, "{host}");
            assert_eq!(parsed(&some, v, "/", &[host]), 200, "{host}");
        }
        for host in ["models.example", "models.example:80", "192.168.1.5:8080", "[fd00::5]"] {
            assert_eq!(parsed(&local, v, "/", &[host]), 421, "{host}");
            assert_eq!(parsed(&some, v, "/", &[host]), 200, "{host}");
        }
        for host in
            ["evil.example", "127.0.0.1.evil.example", "notlocalhost", "localhost.evil.example:8080", "10.0.0.1", ""]
        {
            assert_eq!(parsed(&some, v, "/", &[host]), 421, "{host}");
            assert_eq!(parsed(&open, v, "/", &[host]), 200, "{host}");
        }
        let nameless = Request::builder().uri("/").header("host", "").body(Body::empty()).unwrap();
        assert!(some.check(&nameless).unwrap_err().message.starts_with("Host is empty"));
        // The address of the request line goes before Host.
        assert_eq!(parsed(&local, v, "http://evil.example/", &["localhost"]), 421);
        assert_eq!(parsed(&local, v, "http://localhost/", &["evil.example"]), 200);
        assert_eq!(parsed(&Hosts::new(&["*".parse().unwrap()], true), v, "/", &["evil.example"]), 200);
        assert_eq!(parsed(&Hosts::new(&allowed, false), v, "/", &["evil.example"]), 421);
        for bad in ["", "a b", "a:80", "https://a", "a/b", "u@a", "."] {
            assert!(bad.parse::<Host>().is_err(), "{bad}");
        }
    }

    /// Whatever names are allowed: what is no host is told so, not passed on.
    #[test]
    fn what_is_no_host_with_a_port_is_refused() {
        let any = Hosts::new(&["*".parse().unwrap()], true);
        for hosts in [&Hosts::default(), &Hosts::new(&[], true), &any] {
            for host in [
                "user@localhost",
                "user:secret@localhost:80",
                "@localhost",
                "localhost@",
                "localhost:",
                "localhost:x",
                "localhost:0",
                "localhost:65536",
                "localhost:+80",
                "localhost:80:80",
                ":80",
                ":",
                "[::1",
                "::1",
                "[::1]80",
                "[::1]:",
                "[localhost]",
                "[]",
                "a b",
                "a/b",
                "a\\b",
                "a,b",
                "a%20b",
                "a$b",
                "a'b",
                "a(b)",
                "<a>",
                "a?b",
                "a#b",
                "a..b",
                ".",
                ".a",
                "*",
                &"a".repeat(255),
            ] {
                assert_eq!(parsed(hosts, Version::HTTP_11, "/", &[host]), 400, "{host}");
                assert_eq!(parsed(hosts, Version::HTTP_10, "/", &[host]), 400, "{host}");
            }
            for uri in ["http://user@localhost/", "http://localhost:0/", "http://a$b/"] {
                assert_eq!(parsed(hosts, Version::HTTP_11, uri, &["localhost"]), 400, "{uri}");
            }
            for host in ["localhost", "localhost.:80", "127.0.0.1:65535", "[::1]:1", "[::ffff:127.0.0.1]"] {
                assert_eq!(parsed(hosts, Version::HTTP_11, "/", &[host]), 200, "{host}");
            }
        }
        assert_eq!(parsed(&any, Version::HTTP_11, "/", &["my_service-1.example:080"]), 200);
    }

    #[test]
    fn whom_a_request_is_for_is_said_once() {
        let open = Hosts::default();
        assert_eq!(parsed(&open, Version::HTTP_11, "/", &[]), 400);
        assert_eq!(parsed(&open, Version::HTTP_10, "/", &[]), 200);
        assert_eq!(parsed(&Hosts::new(&[], true), Version::HTTP_10, "/", &[]), 200);
        assert_eq!(parsed(&Hosts::new(&[], true), Version::HTTP_10, "/", &["evil.example"]), 421);
        for version in [Version::HTTP_10, Version::HTTP_11] {
            assert_eq!(parsed(&open, version, "/", &["a", "a"]), 400);
            assert_eq!(parsed(&open, version, "/", &["a b"]), 400);
            assert_eq!(parsed(&open, version, "/", &["a"]), 200);
        }
    }
}
