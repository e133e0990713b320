//! Object stores with the interface of S3, by the crate `object_store`, which signs requests and repeats those that fail
//!
//! Credentials, region and endpoint come from the environment, in the names that other tools of S3 read, and stand in no message.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use data::store::{Object, Store, Stores};
use futures_util::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::{
    Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig, WriteMultipart,
};
use tokio::runtime::Runtime;

/// Bytes of one request that puts a file; longer files are put in parts. S3 has at most 10,000 parts.
const PART_BYTES: u64 = 16 << 20;

/// Parts that are under way at once.
const PARTS_AT_ONCE: usize = 4;

/// Threads that wait for the network.
const THREADS: usize = 2;

/// Variables of which one says where credentials come from, or that none are needed.
const CREDENTIALS: [&str; 6] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_METADATA_ENDPOINT",
    "AWS_SKIP_SIGNATURE",
];

/// Without any of them the library would wait minutes for the metadata service of a virtual machine that may not be one.
const WITHOUT_CREDENTIALS: &str = "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for the role of a virtual machine \
                                   AWS_METADATA_ENDPOINT=http://169.254.169.254, for a public bucket AWS_SKIP_SIGNATURE=true";

/// Buckets of S3, or of a server that `AWS_ENDPOINT_URL` names.
pub struct S3 {
    runtime: Arc<Runtime>,
    retries: RetryConfig,
}

impl S3 {
    /// Starts the threads that wait for the network.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn new() -> io::Result<S3> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(THREADS).thread_name("object store").enable_all().build()?;
        let retries = RetryConfig { max_retries: 8, retry_timeout: Duration::from_secs(120), ..RetryConfig::default() };
        Ok(S3 { runtime: Arc::new(runtime), retries })
    }
}

impl Stores for S3 {
    fn open(&self, bucket: &str) -> io::Result<Arc<dyn Store>> {
        if !CREDENTIALS.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, WITHOUT_CREDENTIALS));
        }
        let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(self.retries.clone());
        let store = builder.build().map_err(|error| in_words(bucket, error))?;
        Ok(Arc::new(Bucket { name: bucket.to_string(), store, runtime: self.runtime.clone() }))
    }
}

#[derive(Debug)]
struct Bucket {
    name: String,
    store: AmazonS3,
    runtime: Arc<Runtime>,
}

impl Bucket {
    /// Waits for a request.
    fn wait<T>(&self, request: impl Future<Output = Result<T, Error>>) -> io::Result<T> {
        self.runtime.block_on(request).map_err(|error| in_words(&self.name, error))
    }
}

fn key(text: &str) -> io::Result<Key> {
    Key::parse(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))
}

fn object(meta: ObjectMeta) -> Object {
    let ObjectMeta { location, last_modified, size, e_tag, .. } = meta;
    Object { key: location.to_string(), bytes: size, version: e_tag.unwrap_or_else(|| last_modified.to_rfc3339()) }
}

/// What went wrong and what to do, without what a request holds. The text of a server's answer is cut short.
fn in_words(bucket: &str, error: Error) -> io::Error {
    let chain: Vec<String> =
        std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source()).map(|e| e.to_string()).collect();
    let text = chain.join(": ");
    let code = text.split("<Code>").nth(1).and_then(|rest| rest.split('<').next()).unwrap_or_default();
    // Answers to lists have no variant of their own for a refusal.
    let refused = matches!(error, Error::PermissionDenied { .. } | Error::Unauthenticated { .. })
        || ["403 Forbidden", "401 Unauthorized"].iter().any(|status| text.contains(status));
    let cause = chain.last().map_or(text.as_str(), String::as_str);
    let (kind, problem) = match (&error, code) {
        (_, "NoSuchBucket") => (
            io::ErrorKind::NotFound,
            format!("there is no bucket {bucket:?}; make it, or check the name, AWS_REGION and AWS_ENDPOINT_URL"),
        ),
        (Error::NotFound { .. }, _) => (io::ErrorKind::NotFound, "there is no such object, or no longer".into()),
        (Error::Precondition { .. } | Error::NotModified { .. }, _) => {
            (io::ErrorKind::Other, "it was changed while it was read; the same command reads it anew".into())
        }
        _ if refused => {
            let code = if code.is_empty() { String::new() } else { format!(" ({})", shown(code, 60)) };
            (
                io::ErrorKind::PermissionDenied,
                format!(
                    "the store refuses{code}; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, and \
                     what they may do in bucket {bucket:?}"
                ),
            )
        }
        (Error::InvalidPath { .. }, _) => (io::ErrorKind::Other, format!("{}; rename the object", shown(cause, 300))),
        _ => {
            let endpoint = "check the network, AWS_ENDPOINT_URL, AWS_REGION, and for http:// AWS_ALLOW_HTTP=true";
            (io::ErrorKind::Other, format!("{}; {endpoint}", shown(cause, 300)))
        }
    };
    io::Error::new(kind, problem)
}

/// Text from outside on one line, not longer than this.
fn shown(text: &str, chars: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(chars).collect()
}

impl Store for Bucket {
    fn list(&self, folder: &str, found: &mut dyn FnMut(Object) -> io::Result<()>) -> io::Result<()> {
        let prefix = key(folder)?;
        let mut listed = self.store.list(Some(&prefix));
        while let Some(meta) = self.runtime.block_on(listed.next()) {
            found(object(meta.map_err(|error| in_words(&self.name, error))?))?;
        }
        Ok(())
    }

    fn look_up(&self, name: &str) -> io::Result<Option<Object>> {
        match self.runtime.block_on(self.store.head(&key(name)?)) {
            Ok(meta) => Ok(Some(object(meta))),
            // Without a body, as the answer to HEAD is, a bucket that is not there looks the same.
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(in_words(&self.name, error)),
        }
    }

    fn read(&self, object: &Object, range: Range<u64>) -> io::Result<Bytes> {
        let name = key(&object.key)?;
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            if_match: object.version.starts_with('"').then(|| object.version.clone()),
            ..GetOptions::default()
        };
        let request = async {
            let answer = self.store.get_opts(&name, options).await?;
            let now = self::object(answer.meta.clone());
            let mut bytes = BytesMut::new();
            let mut stream = answer.into_stream();
            // Not more is held than was asked for.
            while (bytes.len() as u64) <= range.end - range.start
                && let Some(piece) = stream.next().await
            {
                bytes.extend_from_slice(&piece?);
            }
            Ok((now, bytes.freeze()))
        };
        let (now, bytes) = self.wait(request)?;
        match (now.version == object.version && now.bytes == object.bytes, bytes.len() as u64) {
            (true, length) if length == range.end - range.start => Ok(bytes),
            (true, length) => {
                Err(io::Error::other(format!("{length} bytes came instead of {}", range.end - range.start)))
            }
            (false, _) => Err(io::Error::other("it was changed while it was read; the same command reads it anew")),
        }
    }

    fn put(&self, name: &str, file: &Path) -> io::Result<()> {
        let name = key(name)?;
        let mut file = File::open(file)?;
        let bytes = file.metadata()?.len();
        if bytes <= PART_BYTES {
            let mut whole = Vec::with_capacity(bytes as usize);
            file.read_to_end(&mut whole)?;
            return self.wait(self.store.put(&name, PutPayload::from(whole))).map(drop);
        }
        // 10,000 parts are enough for any size.
        let part_bytes = PART_BYTES.max(bytes.div_ceil(9_000)) as usize;
        let upload = self.wait(self.store.put_multipart(&name))?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, part_bytes);
        let mut part = vec![0; part_bytes];
        loop {
            let mut filled = 0;
            while filled < part.len() {
                match file.read(&mut part[filled..])? {
                    0 => break,
                    read => filled += read,
                }
            }
            if filled == 0 {
                return self.wait(parts.finish()).map(drop);
            }
            // Tasks of the upload run on the threads of the runtime.
            let sent = self.runtime.block_on(async {
                parts.wait_for_capacity(PARTS_AT_ONCE).await?;
                parts.write(&part[..filled]);
                Ok(())
            });
            if let Err(error) = sent {
                let _ = self.runtime.block_on(parts.abort());
                return Err(in_words(&self.name, error));
            }
        }
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        match self.runtime.block_on(self.store.delete(&key(name)?)) {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(in_words(&self.name, error)),
        }
    }
}
