//! A hub on loopback that behaves as a test wants, and a small repository for it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Path with query.
    pub path: String,
    /// By name in small letters.
    pub headers: BTreeMap<String, String>,
}

impl Request {
    /// Start of the range that is asked for.
    pub fn from(&self) -> Option<usize> {
        self.range().map(|(from, _)| from)
    }

    fn range(&self) -> Option<(usize, Option<usize>)> {
        let (from, to) = self.headers.get("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse().ok()?, to.parse().ok()))
    }
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Length that is claimed, where it is not the body's.
    pub claimed: Option<usize>,
    /// The body goes out in this many pieces with a pause before each.
    pub pieces: Option<(usize, Duration)>,
    /// Silence after the body, before the connection is closed.
    pub silence: Duration,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, body: body.into(), ..Reply::default() }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Reply {
        self.headers.push((name.to_string(), value.to_string()));
        self
    }

    /// Half of the body, with the length of all of it.
    pub fn halved(mut self) -> Reply {
        self.claimed = Some(self.body.len());
        self.body.truncate(self.body.len() / 2);
        self
    }
}

/// A server on a free port.
pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let end = Arc::new(AtomicBool::new(false));
        let answer = Arc::new(answer);
        let (log, ends) = (requests.clone(), end.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let (log, answer) = (log.clone(), answer.clone());
                let Ok(stream) = stream else { continue };
                std::thread::spawn(move || {
                    let Some(request) = read(&stream) else { return };
                    log.lock().unwrap().push(request.clone());
                    let reply = answer(&request);
                    let _ = write(&stream, &reply);
                    std::thread::sleep(reply.silence);
                });
            }
        });
        Server { address, requests, end, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Requests whose path ends so.
    pub fn requests_for(&self, end: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|r| r.path.ends_with(end)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_string();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
    }
    Some(Request { path, headers })
}

fn write(mut stream: &TcpStream, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    head.push_str(&format!("Content-Length: {}\r\n", reply.claimed.unwrap_or(reply.body.len())));
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    let (pieces, pause) = reply.pieces.unwrap_or((1, Duration::ZERO));
    for piece in reply.body.chunks(reply.body.len().div_ceil(pieces).max(1)) {
        std::thread::sleep(pause);
        stream.write_all(piece)?;
        stream.flush()?;
    }
    Ok(())
}

/// Bytes that look random and are the same each time.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| byte()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub fn git_sha1(bytes: &[u8]) -> String {
    hex(&Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

/// A repository at the hub. Weights are large files.
#[derive(Clone)]
pub struct Repository {
    pub commit: String,
    pub files: Vec<(String, Vec<u8>)>,
}

impl Repository {
    pub fn new(files: Vec<(&str, Vec<u8>)>) -> Repository {
        let files = files.into_iter().map(|(path, bytes)| (path.to_string(), bytes)).collect();
        Repository { commit: "c".repeat(40), files }
    }

    /// A model of one safetensors file.
    pub fn model() -> Repository {
        let header = br#"{"w":{"dtype":"U8","shape":[300000],"data_offsets":[0,300000]}}"#;
        let mut weights = (header.len() as u64).to_le_bytes().to_vec();
        weights.extend_from_slice(header);
        weights.extend(noise(300_000, 1));
        Repository::new(vec![
            ("README.md", b"read me".to_vec()),
            ("config.json", b"{\"model_type\":\"llama\"}".to_vec()),
            ("tokenizer.json", b"{}".to_vec()),
            ("model.safetensors", weights),
        ])
    }

    pub fn bytes(&self, path: &str) -> &[u8] {
        &self.files.iter().find(|(p, _)| p == path).unwrap().1
    }

    pub fn is_large(path: &str) -> bool {
        path.ends_with(".safetensors") || path.ends_with(".gguf")
    }

    pub fn blob(&self, path: &str) -> String {
        let bytes = self.bytes(path);
        if Self::is_large(path) { sha256(bytes) } else { git_sha1(bytes) }
    }

    pub fn listing(&self) -> String {
        let siblings: Vec<serde_json::Value> = self
            .files
            .iter()
            .map(|(path, bytes)| {
                let mut file = serde_json::json!({"rfilename": path, "size": bytes.len(), "blobId": git_sha1(bytes)});
                if Self::is_large(path) {
                    file["lfs"] = serde_json::json!({"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 134});
                }
                file
            })
            .collect();
        serde_json::json!({"id": "org/model", "sha": self.commit, "siblings": siblings}).to_string()
    }

    /// What a sound hub answers.
    pub fn answer(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap();
        if path.starts_with("/api/models/org/model/revision/") {
            return Reply::new(200, self.listing());
        }
        let prefix = format!("/org/model/resolve/{}/", self.commit);
        let file = path.strip_prefix(&prefix).and_then(|p| self.files.iter().find(|(name, _)| name == p));
        match file {
            Some((_, bytes)) => ranged(bytes, request),
            None => Reply::new(404, "not here").header("X-Error-Code", "RepoNotFound"),
        }
    }
}

/// Bytes, or the range of them that is asked for.
pub fn ranged(bytes: &[u8], request: &Request) -> Reply {
    let Some((from, to)) = request.range() else { return Reply::new(200, bytes) };
    if from >= bytes.len() {
        return Reply::new(416, "").header("Content-Range", format!("bytes */{}", bytes.len()));
    }
    let end = to.map_or(bytes.len(), |to| (to + 1).min(bytes.len()));
    Reply::new(206, &bytes[from..end]).header("Content-Range", format!("bytes {from}-{}/{}", end - 1, bytes.len()))
}
