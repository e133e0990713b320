//! A server of the binary, started for a test.

// Each file of tests uses a part of it.
#![allow(dead_code)] // each test uses its part

pub mod books;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The model of the tests: small, and larger contexts than the bundled one's.
pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/seed-5.7m");

/// Where the programs of these tests keep caches and state. An earlier process may have had this one's number, and its prompt cache must not
/// be found.
pub static STATE: LazyLock<PathBuf> = LazyLock::new(|| {
    let state = std::env::temp_dir().join(format!("farthing-server-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&state);
    state
});

/// Ended when it is dropped.
pub struct Server {
    pub child: Child,
    pub address: String,
    /// Lines of its stderr, those before it was ready included.
    pub started: Vec<String>,
    pub log: std::sync::mpsc::Receiver<String>,
}

impl Server {
    pub fn start(args: &[&str]) -> Server {
        Server::start_with(args, &[])
    }

    /// With variables of the environment.
    pub fn start_with(args: &[&str], environment: &[(&str, &str)]) -> Server {
        Server::start_under(&[], args, environment)
    }

    /// By a program that runs another, such as nohup.
    pub fn start_under(runner: &[&str], args: &[&str], environment: &[(&str, &str)]) -> Server {
        let program = [runner, &[env!("CARGO_BIN_EXE_farthing")]].concat();
        // Models come first; a file may name others.
        let own = args.first().is_some_and(|first| !first.starts_with('-') || *first == "--config");
        let mut child = Command::new(program[0])
            .args(&program[1..])
            .args(["serve", "--port", "0"])
            .args((!own).then_some(MODEL))
            .args(args)
            .env("XDG_CACHE_HOME", &*STATE)
            .env("XDG_STATE_HOME", &*STATE)
            .env_remove("FARTHING_API_KEY")
            .env_remove("FARTHING_LEDGER")
            .env_remove("NOTIFY_SOCKET")
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, log) = std::sync::mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|l| drop(sender.send(l))));
        let mut seen = Vec::new();
        let address = loop {
            let line = log.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("no start: {seen:?}"));
            seen.push(line);
            let at = seen[seen.len() - 1].split_once(" at http").and_then(|(_, rest)| rest.split_once("://"));
            if let Some((_, rest)) = at {
                break rest.split('/').next().unwrap().to_string();
            }
        };
        Server { child, address, started: seen, log }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Send bytes, read to the end of the connection.
    pub fn raw(&self, bytes: &str) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub fn get(&self, path: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    pub fn post(&self, path: &str, body: &str) -> String {
        self.raw(&post(path, body))
    }

    /// Wait until the metrics say so: `"running":0`, `"waiting":1`.
    pub fn until(&self, wanted: &str) {
        self.until_with(wanted, "Accept: */*");
    }

    /// The same with a header, such as a key.
    pub fn until_with(&self, wanted: &str, header: &str) {
        let (name, count) = wanted.trim_matches('"').split_once("\":").unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n\r\n");
        let started = Instant::now();
        loop {
            let metrics = self.raw(&request);
            let of = |line: &str| {
                let rest = line.strip_prefix("farthing_requests_")?.strip_prefix(name)?;
                rest.rsplit_once(' ')?.1.parse::<u64>().ok()
            };
            let counts: Vec<u64> = metrics.lines().filter_map(of).collect();
            if !counts.is_empty() && counts.iter().sum::<u64>() == count.parse::<u64>().unwrap() {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(120), "never {wanted}: {metrics}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn logged(&self, wanted: &str) -> String {
        loop {
            let line =
                self.log.recv_timeout(Duration::from_secs(120)).unwrap_or_else(|_| panic!("never logged {wanted}"));
            if line.contains(wanted) {
                return line;
            }
        }
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request with this body.
pub fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
