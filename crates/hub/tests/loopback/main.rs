//! A hub on loopback: what is pulled, resumed, refused and found again.

mod cache;
mod network;
mod pulls;
mod server;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farthing_hub::{Cache, Hub, HubError, Listing, Name, Patience, Progress, RemoteFile, Selection, Settings, choose};
use server::{Reply, Repository, Request, Server, git_sha1, noise, ranged, sha256};
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";

/// Progress that remembers, and that may stop the pull after so many bytes.
#[derive(Default)]
struct Watch {
    said: Mutex<Vec<String>>,
    bytes: AtomicU64,
    limit: Option<u64>,
}

impl Watch {
    fn said(&self, part: &str) -> bool {
        self.said.lock().unwrap().iter().any(|line| line.contains(part))
    }

    fn push(&self, line: String) {
        self.said.lock().unwrap().push(line);
    }
}

impl Progress for Watch {
    fn file(&self, path: &str, size: u64, there: u64) {
        self.push(format!("file {path} {there}/{size}"));
    }
    fn advance(&self, _: &str, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }
    fn note(&self, text: &str) {
        assert!(!text.contains('\n'));
        self.push(format!("note {text}"));
    }
    fn finished(&self, path: &str) {
        self.push(format!("finished {path}"));
    }
    fn cancelled(&self) -> bool {
        self.limit.is_some_and(|limit| self.bytes.load(Ordering::SeqCst) >= limit)
    }
}

/// An empty cache and settings for it.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("hub")
    }

    fn cache(&self) -> Cache {
        Cache::new(self.root())
    }

    fn settings(&self, endpoint: &str) -> Settings {
        let token = Some("hf_secret".to_string());
        Settings { cache: self.root(), endpoint: endpoint.to_string(), token, offline: false }
    }

    fn hub(&self, server: &Server) -> Hub {
        let patience = Patience {
            connect: Duration::from_secs(2),
            idle: Duration::from_millis(300),
            pause: Duration::from_millis(2),
            attempts: 5,
        };
        Hub::with_patience(self.settings(&server.url()), patience).unwrap()
    }

    fn repository(&self) -> PathBuf {
        self.root().join("models--org--model")
    }

    fn incomplete(&self, blob: &str) -> PathBuf {
        self.repository().join(format!("blobs/{blob}.incomplete"))
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn pull_as(hub: &Hub, text: &str, progress: &dyn Progress) -> Result<PathBuf, HubError> {
    let name = name(text);
    let listing = hub.listing(&name, progress)?;
    let selection = choose(&listing, &name)?;
    hub.pull(&name, &listing, &selection, progress)
}

fn pull(hub: &Hub, progress: &dyn Progress) -> Result<PathBuf, HubError> {
    pull_as(hub, "org/model", progress)
}

fn sound(repository: &Repository) -> Server {
    let repository = repository.clone();
    Server::start(move |request| repository.answer(request))
}

/// A hub whose weights are answered by `odd`, which knows how many requests for them came before.
fn odd(repository: &Repository, odd: impl Fn(usize, &Request, &[u8]) -> Reply + Send + Sync + 'static) -> Server {
    let repository = repository.clone();
    let count = AtomicUsize::new(0);
    Server::start(move |request| {
        if request.path.ends_with(WEIGHTS) {
            return odd(count.fetch_add(1, Ordering::SeqCst), request, repository.bytes(WEIGHTS));
        }
        repository.answer(request)
    })
}

fn assert_whole(path: &Path, repository: &Repository) {
    for file in ["config.json", "tokenizer.json", WEIGHTS] {
        assert_eq!(std::fs::read(path.join(file)).unwrap(), repository.bytes(file), "{file}");
    }
}
