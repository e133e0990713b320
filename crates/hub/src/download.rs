//! One blob: fetched, resumed, verified and put in its place.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Digest, Sha256};
use ureq::http::StatusCode;
use ureq::http::header::CONTENT_RANGE;
use url::Url;

use crate::error::HubError;
use crate::name::Name;
use crate::remote::{Asked, AttemptError, Retry, Session};
use crate::select::RemoteFile;

/// Bytes hashed at a time when a download is resumed.
const BLOCK: usize = 1 << 20;

/// The hash under way that a file is announced with: SHA-256 of a large one, the git object's SHA-1 of a small one.
pub(crate) fn hasher_of(file: &RemoteFile) -> Box<dyn DynDigest> {
    if file.sha256.is_some() {
        return Box::new(Sha256::new());
    }
    Box::new(Sha1::new_with_prefix(format!("blob {}\0", file.size)))
}

pub(crate) fn hex(hasher: Box<dyn DynDigest>) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a pull tells its caller, from several threads.
pub trait Progress: Sync {
    /// A file begins with `there` of its `size` bytes on disk. Said again when it starts over.
    fn file(&self, path: &str, size: u64, there: u64);
    /// So many more bytes of it came.
    fn advance(&self, path: &str, bytes: u64);
    /// Something a person may want to know, such as a retry.
    fn note(&self, text: &str);
    /// The file is there and verified.
    fn finished(&self, path: &str);
    /// Whether the pull is to stop.
    fn cancelled(&self) -> bool;
}

pub(crate) struct BlobDownload<'a> {
    pub(crate) name: &'a Name,
    pub(crate) commit: &'a str,
    pub(crate) file: &'a RemoteFile,
    /// Where it grows.
    pub(crate) incomplete: PathBuf,
    /// Where it ends.
    pub(crate) blob: PathBuf,
    pub(crate) progress: &'a dyn Progress,
}

/// What came that is not what was announced.
struct Mismatch {
    expected: String,
    found: String,
}

/// The file on disk as far as it is.
struct Partial {
    file: File,
    hasher: Box<dyn DynDigest>,
    there: u64,
}

impl BlobDownload<'_> {
    /// Fetch, verify and put in place. Bytes that are wrong are fetched once more, from the start.
    pub(crate) fn run(&self, session: &Session) -> Result<(), HubError> {
        for attempt in 0..2 {
            let Some(mismatch) = self.whole(session)? else {
                std::fs::rename(&self.incomplete, &self.blob).map_err(|e| HubError::write(&self.blob, e, 0))?;
                self.progress.finished(&self.file.path);
                return Ok(());
            };
            std::fs::remove_file(&self.incomplete).map_err(|e| HubError::disk(&self.incomplete, e))?;
            if attempt > 0 {
                let Mismatch { expected, found } = mismatch;
                return Err(HubError::Checksum { file: self.file.path.clone(), expected, found });
            }
            self.progress.note(&format!("{}: the bytes are wrong; fetching it anew", self.file.path));
        }
        Ok(())
    }

    fn whole(&self, session: &Session) -> Result<Option<Mismatch>, HubError> {
        let size = self.file.size;
        let mut partial = self.resume(session)?;
        let url = session.hub.file_url(self.name, self.commit, &self.file.path);
        let mut retry = Retry::new(session, &url);
        let mut most = partial.there;
        while partial.there < size {
            let failure = match self.attempt(&url, &mut partial, session) {
                Ok(None) => continue,
                Ok(Some(mismatch)) => return Ok(Some(mismatch)),
                Err(failure) => failure,
            };
            // A server that starts over and breaks at the same place makes no progress.
            if partial.there > most {
                most = partial.there;
                retry.progress();
            }
            retry.pause(failure, &|why| self.progress.note(&format!("{}: {why}", self.file.path)))?;
        }
        partial.file.sync_all().map_err(|e| HubError::write(&self.incomplete, e, 0))?;
        let found = hex(partial.hasher);
        let expected = self.file.blob().to_string();
        Ok((found != expected).then_some(Mismatch { expected, found }))
    }

    /// Open what an earlier pull left, and hash it.
    fn resume(&self, session: &Session) -> Result<Partial, HubError> {
        let failed = |e| HubError::write(&self.incomplete, e, self.file.size);
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(nofollow)
            .open(&self.incomplete);
        let mut file = opened.map_err(failed)?;
        let mut there = file.metadata().map_err(failed)?.len();
        if there > self.file.size {
            file.set_len(0).map_err(failed)?;
            there = 0;
        }
        self.progress.file(&self.file.path, self.file.size, there);
        let mut hasher = hasher_of(self.file);
        let mut block = vec![0; BLOCK.min(there as usize)];
        let mut rest = there;
        while rest > 0 {
            if (session.stop)() {
                return Err(HubError::Cancelled);
            }
            let part = &mut block[..BLOCK.min(rest as usize)];
            file.read_exact(part).map_err(|e| HubError::disk(&self.incomplete, e))?;
            hasher.update(part);
            rest -= part.len() as u64;
        }
        Ok(Partial { file, hasher, there })
    }

    fn restart(&self, partial: &mut Partial) -> Result<(), AttemptError> {
        let failed = |e| AttemptError::Final(HubError::write(&self.incomplete, e, self.file.size));
        partial.file.set_len(0).map_err(failed)?;
        partial.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        partial.hasher = hasher_of(self.file);
        partial.there = 0;
        self.progress.file(&self.file.path, self.file.size, 0);
        Ok(())
    }

    fn attempt(&self, url: &Url, partial: &mut Partial, session: &Session) -> Result<Option<Mismatch>, AttemptError> {
        let size = self.file.size;
        let range = (partial.there > 0).then(|| format!("bytes={}-", partial.there));
        let asked = Asked::File(self.name, &self.file.path);
        let response = session.open(url, range.as_deref(), asked)?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let header = response.headers().get(CONTENT_RANGE).and_then(|h| h.to_str().ok());
                if !header.is_some_and(|header| continues(header, partial.there, size)) {
                    self.restart(partial)?;
                    return Err(AttemptError::Again("the answer is another part of the file".to_string(), None));
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                self.restart(partial)?;
                return Err(AttemptError::Again("the rest of the file is refused".to_string(), None));
            }
            _ if partial.there > 0 => self.restart(partial)?,
            _ => {}
        }
        // One byte more shows that there are more.
        let most = size - partial.there + 1;
        session.read(&mut response.into_body().into_reader(), most, &mut |chunk| {
            if partial.there + chunk.len() as u64 > size {
                partial.there = size + 1;
                return Ok(());
            }
            let written = partial.file.write_all(chunk);
            written.map_err(|e| AttemptError::Final(HubError::write(&self.incomplete, e, size - partial.there)))?;
            partial.hasher.update(chunk);
            partial.there += chunk.len() as u64;
            self.progress.advance(&self.file.path, chunk.len() as u64);
            Ok(())
        })?;
        if partial.there > size {
            return Ok(Some(Mismatch { expected: format!("{size} bytes"), found: format!("more than {size} bytes") }));
        }
        if partial.there < size {
            return Err(AttemptError::Again(format!("the answer ended after {} of {size} bytes", partial.there), None));
        }
        Ok(None)
    }
}

/// Whether `bytes FROM-TO/TOTAL` goes on where we are.
fn continues(header: &str, there: u64, size: u64) -> bool {
    let Some((range, total)) = header.trim().strip_prefix("bytes ").and_then(|rest| rest.split_once('/')) else {
        return false;
    };
    let Some((from, _)) = range.split_once('-') else { return false };
    from.trim().parse() == Ok(there) && (total.trim() == "*" || total.trim().parse() == Ok(size))
}

/// Bytes of an incomplete download, as far as they count.
pub(crate) fn bytes_there(incomplete: &Path, size: u64) -> u64 {
    std::fs::symlink_metadata(incomplete).ok().filter(|m| m.is_file() && m.len() <= size).map_or(0, |m| m.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_part_that_was_asked_for_continues() {
        assert!(continues("bytes 5-9/10", 5, 10));
        assert!(continues("bytes 5-9/*", 5, 10));
        for header in ["bytes 4-9/10", "bytes 5-9/11", "bytes */10", "5-9/10", "bytes 5/10", "", "bytes -/"] {
            assert!(!continues(header, 5, 10), "{header}");
        }
    }

    #[test]
    fn hashes_are_those_of_git_and_sha256sum() {
        let mut file = RemoteFile { path: "x".into(), size: 6, sha256: None, sha1: "0".repeat(40) };
        let of = |file: &RemoteFile| {
            let mut hasher = hasher_of(file);
            hasher.update(b"hel");
            hasher.update(b"lo\n");
            hex(hasher)
        };
        // printf 'hello\n' | git hash-object --stdin; printf 'hello\n' | sha256sum
        assert_eq!(of(&file), "ce013625030ba8dba906f756967f9e9ca394464a");
        file.sha256 = Some(String::new());
        assert_eq!(of(&file), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
    }
}
