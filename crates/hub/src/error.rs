//! What can go wrong. Every message is one line that names the value and the next step.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::disk_space;

/// Why a model could not be named, found, listed, pulled or removed.
#[derive(Debug, Error)]
pub enum HubError {
    /// Text that is no model name.
    #[error(
        "{text:?} is no model name: {why}; write org/name, org/name:file.gguf, org/name:Q4_K_M or org/name@revision"
    )]
    Name {
        /// As given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// An environment variable or setting that cannot be used.
    #[error("{variable}: {why}")]
    Setting {
        /// Its name.
        variable: String,
        /// What is wrong and what would do.
        why: String,
    },
    /// The network was forbidden.
    #[error("HF_HUB_OFFLINE is set, so {what} cannot be fetched; unset it, or use a model that is in the cache")]
    Offline {
        /// What was wanted.
        what: String,
    },
    /// The hub wants a token, or an accepted licence.
    #[error("{repository}: the hub answers {status}: {step}")]
    Gated {
        /// Repository.
        repository: String,
        /// 401 or 403.
        status: u16,
        /// What to do.
        step: String,
    },
    /// Not at the hub.
    #[error("{what} is not at the hub; {step}")]
    NotFound {
        /// Repository, revision or file, in words.
        what: String,
        /// What to do.
        step: String,
    },
    /// The repository holds nothing that can be taken, or too many things.
    #[error("{repository}: {why}")]
    Choice {
        /// Repository.
        repository: String,
        /// What there is and what to write.
        why: String,
    },
    /// A listing that cannot be trusted.
    #[error("{repository}: the hub's listing is refused: {why}; check HF_ENDPOINT, or tell the repository's owner")]
    Listing {
        /// Repository.
        repository: String,
        /// What is wrong with it.
        why: String,
    },
    /// An answer that says neither yes nor try again.
    #[error("{url} answers {status}; check HF_ENDPOINT and try again later")]
    Status {
        /// Address, without its query.
        url: String,
        /// Status.
        status: u16,
    },
    /// There is no way to the hub.
    #[error(
        "{endpoint} cannot be reached: {why}; models that are already downloaded need no network; to download one, check the connection, set HTTPS_PROXY to a proxy or HF_ENDPOINT to a mirror, or give the path of a model that is on this machine"
    )]
    Unreachable {
        /// Address of the hub.
        endpoint: String,
        /// The failure.
        why: String,
    },
    /// The network failed more often than is tried.
    #[error(
        "{url}: {why}; tried {}: check the network, then pull again to go on from here; where the hub cannot be reached, set HTTPS_PROXY to a proxy or HF_ENDPOINT to a mirror, or give the path of a model that is on this machine",
        times(*attempts)
    )]
    Connection {
        /// Address, without its query.
        url: String,
        /// The last failure.
        why: String,
        /// Attempts since the last progress.
        attempts: u32,
    },
    /// Bytes that are not those the hub announced, twice.
    #[error(
        "{file}: expected {expected}, found {found}, twice; nothing of it was kept: pull again, or check what lies between here and the hub"
    )]
    Checksum {
        /// Path in the repository.
        file: String,
        /// Announced by the listing.
        expected: String,
        /// Of the bytes that came.
        found: String,
    },
    /// The disk is too small.
    #[error("{}: {needed} bytes are needed and {free} are free; make room, or set HF_HUB_CACHE to a larger disk", path.display())]
    Room {
        /// Bytes still to write.
        needed: u64,
        /// Bytes free.
        free: u64,
        /// Where.
        path: PathBuf,
    },
    /// Another process pulls this repository.
    #[error("{repository} is being pulled by another process; wait for it to end and try again")]
    Busy {
        /// Repository.
        repository: String,
    },
    /// The caller stopped the pull.
    #[error("the pull was stopped; pull again to go on from here")]
    Cancelled,
    /// The system would not read or write.
    #[error("{}: {source}", path.display())]
    Disk {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It was not downloaded.
    #[error("{name} is not in the cache; list the cache to see what is")]
    Absent {
        /// The model.
        name: String,
    },
    /// A cache that is not laid out as it should be.
    #[error("{}: {why}", path.display())]
    Layout {
        /// File or directory.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// The HTTP client would not start.
    #[error("the network cannot be used: {why}; check the proxy variables and try again")]
    Client {
        /// Why.
        why: String,
    },
}

impl HubError {
    pub(crate) fn disk(path: &Path, source: std::io::Error) -> HubError {
        HubError::Disk { path: path.to_path_buf(), source }
    }

    /// A failed write of `needed` more bytes: a full disk is said as such.
    pub(crate) fn write(path: &Path, source: std::io::Error, needed: u64) -> HubError {
        let full = [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT].map(|e| Some(e.raw_os_error()));
        if full.contains(&source.raw_os_error()) {
            let free = disk_space::free_bytes(path).unwrap_or(0);
            return HubError::Room { needed, free, path: path.to_path_buf() };
        }
        HubError::disk(path, source)
    }
}

fn times(n: u32) -> String {
    if n == 1 { "once".to_string() } else { format!("{n} times") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who cannot reach the hub is told each way around it.
    #[test]
    fn an_unreachable_hub_is_told_with_what_to_do() {
        let told = |attempts| HubError::Connection { url: "u".into(), why: "refused".into(), attempts }.to_string();
        for way in ["HTTPS_PROXY", "HF_ENDPOINT", "the path of a model", "tried 3 times"] {
            assert!(told(3).contains(way), "{}", told(3));
        }
        let unreachable = HubError::Unreachable { endpoint: "u".into(), why: "refused".into() }.to_string();
        for way in ["HTTPS_PROXY", "HF_ENDPOINT", "the path of a model", "need no network"] {
            assert!(unreachable.contains(way) && !unreachable.contains("pull again"), "{unreachable}");
        }
        assert!(told(1).contains("tried once"));
    }

    #[test]
    fn a_full_disk_is_no_ordinary_write_error() {
        let full = std::io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        let error = HubError::write(Path::new("/tmp/x"), full, 17);
        assert!(matches!(error, HubError::Room { needed: 17, .. }), "{error}");
        let other = std::io::Error::from_raw_os_error(rustix::io::Errno::ACCESS.raw_os_error());
        assert!(matches!(HubError::write(Path::new("/tmp/x"), other, 17), HubError::Disk { .. }));
    }
}
