//! Books of a test: a ledger in a directory or a database of its own, and servers that meter by it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::Server;

/// A sheet whose prices are easy to add up: 1 a million tokens that are found, 2 that are computed, 5 of the answer.
pub const PRICES: &str = "currency = \"EUR\"\n[[models]]\nname = \"*\"\nhit = 1\nmiss = 2\noutput = 5\n";

/// A ledger with `PRICES`.
pub struct Books {
    pub directory: tempfile::TempDir,
    /// What `--ledger` takes.
    pub address: String,
    _postgres: Option<Postgres>,
}

impl Books {
    /// A new file.
    pub fn new() -> Books {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("prices.toml"), PRICES).unwrap();
        let address = directory.path().join("ledger.db").to_str().unwrap().to_string();
        Books { directory, address, _postgres: None }
    }

    /// A new database of PostgreSQL; `None` where it is not installed, which FARTHING_POSTGRES=required forbids.
    pub fn postgres() -> Option<Books> {
        let postgres = Postgres::start()?;
        Some(Books { address: format!("{}/postgres", postgres.address), _postgres: Some(postgres), ..Books::new() })
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_string()
    }

    /// What a command on the ledger prints.
    pub fn run(&self, args: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_farthing"))
            .args(args)
            .env("FARTHING_LEDGER", &self.address)
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The secret of a new key.
    pub fn key(&self, name: &str, args: &[&str]) -> String {
        self.run(&[&["keys", "create", name, "--currency", "EUR", "--quiet"], args].concat()).trim().to_string()
    }

    pub fn server(&self) -> Server {
        self.server_with(&[])
    }

    pub fn server_with(&self, args: &[&str]) -> Server {
        let (prices, own) = (self.path("prices.toml"), ["--server-name", "one"]);
        Server::start(&[&["--ledger", &self.address, "--prices", &prices], &own[..], args].concat())
    }

    /// Requests of a key that ended, newest first.
    pub fn requests(&self, key: &str) -> Vec<Value> {
        let printed = self.run(&["usage", "--requests", "--most", "100000", "--key", key, "--json"]);
        let rows: Value = serde_json::from_str(&printed).unwrap();
        rows["requests"].as_array().unwrap().clone()
    }

    /// The newest of a key's requests, once so many have ended.
    pub fn ended(&self, key: &str, count: usize) -> Value {
        for _ in 0..300 {
            let rows = self.requests(key);
            if rows.len() == count {
                return rows[0].clone();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("not {count} requests of {key}: {:?}", self.requests(key));
    }

    /// The books agree with themselves.
    pub fn check(&self) {
        assert_eq!(self.run(&["ledger", "check", "--quiet"]).trim(), "");
    }
}

/// Micro-units of what tokens cost by `PRICES`.
pub fn cost(usage: &Value) -> u64 {
    let of = |name: &str| usage[name].as_u64().unwrap_or_else(|| panic!("{name}: {usage}"));
    of("hit") + 2 * of("miss") + 5 * of("output")
}

/// A request with a key, and its answer.
pub fn ask(server: &Server, key: &str, method: &str, path: &str, body: &Value) -> String {
    server.raw(&request(key, method, path, body))
}

pub fn request(key: &str, method: &str, path: &str, body: &Value) -> String {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n");
    format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The JSON of an answer.
pub fn body(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or_else(|e| panic!("{e}: {answer}"))
}

/// A story that does not end by itself.
pub fn story(stream: bool, max_tokens: Option<u64>) -> Value {
    let mut story = json!({
        "messages": [{"role": "user", "content": "Tell me a long story."}],
        "stream": stream, "temperature": 1, "seed": 1, "logit_bias": {"1": -100},
    });
    if let Some(most) = max_tokens {
        story["max_tokens"] = most.into();
    }
    story
}

/// A PostgreSQL server on loopback, ended when it is dropped.
struct Postgres {
    address: String,
    script: Child,
    /// The script ends with it.
    input: Option<ChildStdin>,
}

impl Postgres {
    fn start() -> Option<Postgres> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../ledger/tests/books/postgres.sh");
        let mut script =
            Command::new("sh").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh");
        let mut address = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let address = address.trim().to_string();
        if address == "none" {
            let _ = script.wait();
            let required = std::env::var("FARTHING_POSTGRES").is_ok_and(|value| value == "required");
            assert!(!required, "PostgreSQL is not installed (apt-get install postgresql)");
            let _ = writeln!(std::io::stderr(), "SKIPPED over PostgreSQL, which is not installed");
            return None;
        }
        assert!(address.starts_with("postgres://"), "PostgreSQL did not start: see above");
        Some(Postgres { address, input: script.stdin.take(), script })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.script.wait();
    }
}
