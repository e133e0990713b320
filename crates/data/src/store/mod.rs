//! Object stores: objects by key below a bucket, as S3 has them, and what of them a corpus needs
//!
//! This crate knows no network: a [`Stores`] that does is given to it by whoever has one. [`Folder`] is the plain twin, a directory of files.

mod folder;
mod location;

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

pub use folder::Folder;
pub use location::{Handle, Location, bytes_read};

/// An object as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its key below the bucket, without a slash in front.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// What changes with its contents: an entity tag, a version, or a time.
    pub version: String,
}

/// A bucket. Errors are in words, without the URL, which the caller knows.
pub trait Store: Debug + Send + Sync {
    /// Calls `found` with every object below a folder, which is empty or ends with a slash, in any order.
    ///
    /// # Errors
    /// What the store refuses, and what `found` gives.
    fn list(&self, folder: &str, found: &mut dyn FnMut(Object) -> io::Result<()>) -> io::Result<()>;

    /// The object of a key, if there is one.
    ///
    /// # Errors
    /// What the store refuses.
    fn look_up(&self, key: &str) -> io::Result<Option<Object>>;

    /// Bytes of an object, all of a range that lies within it.
    ///
    /// # Errors
    /// What the store refuses; an object that is gone or was changed since it was looked up.
    fn read(&self, object: &Object, range: Range<u64>) -> io::Result<Bytes>;

    /// Puts a file into the store: the object is there whole or not at all.
    ///
    /// # Errors
    /// What the store or the file system refuses.
    fn put(&self, key: &str, file: &Path) -> io::Result<()>;

    /// Deletes an object that may be there.
    ///
    /// # Errors
    /// What the store refuses.
    fn delete(&self, key: &str) -> io::Result<()>;
}

/// Opens buckets.
pub trait Stores: Send + Sync {
    /// Opens a bucket of S3 by its name, without asking whether it is there.
    ///
    /// # Errors
    /// Credentials or settings that cannot be used.
    fn open(&self, bucket: &str) -> io::Result<Arc<dyn Store>>;
}

/// What `files` of a recipe or `--out` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address<'a> {
    /// A path of the file system.
    Path(&'a str),
    /// A key of a bucket, or a glob of keys.
    Object {
        /// The bucket.
        bucket: &'a str,
        /// The key, without a slash in front.
        key: &'a str,
    },
}

impl<'a> Address<'a> {
    /// Reads a path, a URL `file:///path` or a URL `s3://bucket/key`. Nothing in a URL is percent-encoded.
    ///
    /// # Errors
    /// In words: a URL of another scheme, or one that names no object.
    pub fn parse(text: &'a str) -> Result<Address<'a>, String> {
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(Address::Path(text)) };
        // A URL with a password is not repeated.
        if scheme == "s3" && rest.split('/').next().is_some_and(|bucket| bucket.contains(['@', ':'])) {
            return Err("s3://...: a URL has the name of a bucket and no credentials, which are taken from \
                        AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                .into());
        }
        match scheme {
            "file" if rest.starts_with('/') => Ok(Address::Path(rest)),
            "file" => Err(format!("{text:?}: file:// is followed by an absolute path, as in file:///data/a.txt")),
            "s3" => {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                check_bucket(bucket)?;
                check_key(key).map_err(|problem| format!("{text:?}: {problem}"))?;
                Ok(Address::Object { bucket, key })
            }
            _ => Err(format!("{text:?}: {scheme}:// is not known; there are s3://bucket/key, file:///path and paths")),
        }
    }
}

/// Refuses a URL of a store where only files are read.
///
/// # Errors
/// In words, with the next step.
pub fn check_path(text: &str) -> Result<(), String> {
    match Address::parse(text)? {
        Address::Path(_) => Ok(()),
        Address::Object { .. } => Err(format!("{text:?}: here only files are read; copy the object to a file")),
    }
}

/// Refuses what is no name of a bucket, by the rules of S3 and of older buckets.
fn check_bucket(bucket: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if (3..=255).contains(&bucket.len()) && bucket.chars().all(plain) && !bucket.contains("..") {
        return Ok(());
    }
    Err(format!("s3://{bucket:?}: no name of a bucket: 3 or more letters, digits, `-`, `_` and `.`"))
}

/// Refuses keys that mean something else as a path.
///
/// # Errors
/// In words, without the key.
pub fn check_key(key: &str) -> Result<(), String> {
    let segments = key.strip_suffix('/').unwrap_or(key);
    if key.len() > 1024 {
        return Err(format!("a key of {} bytes; S3 has at most 1024", key.len()));
    }
    if key.chars().any(char::is_control) {
        return Err("a key with control characters; rename the object".into());
    }
    match segments.split('/').find(|segment| matches!(*segment, "" | "." | "..")) {
        Some(segment) if !segments.is_empty() => {
            Err(format!("a key with {segment:?} between slashes; rename the object"))
        }
        _ => Ok(()),
    }
}

/// The URL of a key.
pub fn url(bucket: &str, key: &str) -> PathBuf {
    PathBuf::from(format!("s3://{bucket}/{key}"))
}

/// Why URLs cannot be read, if nobody can open a bucket.
pub const WITHOUT: &str =
    "this binary was built without object stores; build it with: cargo build --release --features stores";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_paths_or_keys_of_buckets() {
        let object = |bucket, key| Ok(Address::Object { bucket, key });
        assert_eq!(Address::parse("a/*.txt"), Ok(Address::Path("a/*.txt")));
        assert_eq!(Address::parse("file:///a/*.txt"), Ok(Address::Path("/a/*.txt")));
        assert_eq!(Address::parse("s3://corpus/a b/%20*.jsonl"), object("corpus", "a b/%20*.jsonl"));
        assert_eq!(Address::parse("s3://corpus"), object("corpus", ""));
        assert_eq!(Address::parse("s3://corpus/run/"), object("corpus", "run/"));
        for wrong in [
            "file://a",
            "gs://corpus/a",
            "http://host/a",
            "s3://",
            "s3://a/b",
            "s3://..../a",
            "s3://corpus/a//b",
            "s3://corpus//a",
            "s3://corpus/a/../b",
            "s3://corpus/./b",
            "s3://corpus/a\nb",
        ] {
            let error = Address::parse(wrong).unwrap_err();
            assert!(!error.contains('\n'), "{error}");
        }
        let error = Address::parse("s3://AKIA123:secret@corpus/a").unwrap_err();
        assert!(!error.contains("AKIA") && !error.contains("secret") && error.contains("AWS_ACCESS_KEY_ID"), "{error}");
    }
}
