//! The hub's answer about a repository, read with suspicion.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::error::HubError;
use crate::select::{Listing, RemoteFile, check_path};

const FILES_MAX: usize = 100_000;
/// Bytes of a file: half of what the usual file systems take, so that a preview of it can have its true size.
const FILE_MAX: u64 = 8 << 40;

#[derive(Deserialize)]
struct ModelInfo {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    #[serde(alias = "oid")]
    sha256: String,
    size: Option<u64>,
}

/// Read the answer to `/api/models/{repository}/revision/{revision}?blobs=true`.
pub(crate) fn read(repository: &str, bytes: &[u8]) -> Result<Listing, HubError> {
    let refused = |why: String| HubError::Listing { repository: repository.to_string(), why };
    let answer: ModelInfo = serde_json::from_slice(bytes).map_err(|e| refused(format!("it cannot be read: {e}")))?;
    if answer.siblings.len() > FILES_MAX {
        return Err(refused(format!("it has {} files and at most {FILES_MAX} are read", answer.siblings.len())));
    }
    if !is_hex(&answer.sha, 40) {
        return Err(refused("its commit is not 40 hexadecimal digits".to_string()));
    }
    let mut seen = BTreeSet::new();
    let mut files = Vec::with_capacity(answer.siblings.len());
    for sibling in answer.siblings {
        let path = sibling.rfilename;
        check_path(&path).map_err(refused)?;
        if !seen.insert(path.clone()) {
            return Err(refused(format!("{path} is there twice")));
        }
        let (sha256, large) = match sibling.lfs {
            Some(lfs) => (Some(lfs.sha256), lfs.size),
            None => (None, None),
        };
        let Some(size) = large.or(sibling.size) else { return Err(refused(format!("{path} has no size"))) };
        if size > FILE_MAX {
            return Err(refused(format!("{path} has {size} bytes, and at most {FILE_MAX} (8 TiB) are taken")));
        }
        let Some(sha1) = sibling.blob else { return Err(refused(format!("{path} has no blobId"))) };
        if !is_hex(&sha1, 40) || sha256.as_ref().is_some_and(|s| !is_hex(s, 64)) {
            return Err(refused(format!("the hash of {path} is not hexadecimal digits")));
        }
        files.push(RemoteFile { path, size, sha256, sha1 });
    }
    Ok(Listing { commit: answer.sha, files })
}

/// Whether `text` is `digits` lower-case hexadecimal digits.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(file: &str) -> Result<Listing, HubError> {
        read("a/b", format!(r#"{{"sha":"{}","siblings":[{file}]}}"#, "a".repeat(40)).as_bytes())
    }

    #[test]
    fn a_large_file_has_the_size_and_hash_of_its_bytes() {
        let (one, two) = ("1".repeat(40), "2".repeat(64));
        let listing = with(&format!(
            r#"{{"rfilename":"m.gguf","size":9,"blobId":"{one}","lfs":{{"sha256":"{two}","size":9,"pointerSize":3}}}},
               {{"rfilename":"config.json","size":5,"blobId":"{one}","other":null}}"#
        ))
        .unwrap();
        assert_eq!((listing.files[0].size, listing.files[0].blob()), (9, two.as_str()));
        assert_eq!((listing.files[1].size, listing.files[1].blob()), (5, one.as_str()));
    }

    #[test]
    fn hostile_listings_are_refused() {
        let one = "1".repeat(40);
        let good = format!(r#""blobId":"{one}","size":1"#);
        for file in [
            format!(r#"{{"rfilename":"../x",{good}}}"#),
            format!(r#"{{"rfilename":"/x",{good}}}"#),
            format!(r#"{{"rfilename":"a\u0000b",{good}}}"#),
            format!(r#"{{"rfilename":"a\\b",{good}}}"#),
            format!(r#"{{"rfilename":"","size":1,"blobId":"{one}"}}"#),
            format!(r#"{{"rfilename":"x",{good}}},{{"rfilename":"x",{good}}}"#),
            format!(r#"{{"rfilename":"x","size":-1,"blobId":"{one}"}}"#),
            format!(r#"{{"rfilename":"x","size":1.5,"blobId":"{one}"}}"#),
            format!(r#"{{"rfilename":"x","size":18446744073709551615,"blobId":"{one}"}}"#),
            format!(r#"{{"rfilename":"x","blobId":"{one}","size":100000000000000000}}"#),
            format!(r#"{{"rfilename":"x","blobId":"{one}"}}"#),
            r#"{"rfilename":"x","size":1}"#.to_string(),
            r#"{"rfilename":"x","size":1,"blobId":"../../etc"}"#.to_string(),
            format!(r#"{{"rfilename":"x",{good},"lfs":{{"sha256":"../x","size":1}}}}"#),
        ] {
            let error = with(&file).unwrap_err();
            assert!(matches!(error, HubError::Listing { .. }) && !error.to_string().contains('\n'), "{file}: {error}");
        }
        for answer in ["", "[]", "{}", "nul", r#"{"sha":"main","siblings":[]}"#, r#"{"sha":"../../x"}"#] {
            assert!(read("a/b", answer.as_bytes()).is_err(), "{answer}");
        }
        let many = vec![format!(r#"{{"rfilename":"x",{good}}}"#); FILES_MAX + 1].join(",");
        assert!(with(&many).unwrap_err().to_string().contains("100001"));
    }
}
