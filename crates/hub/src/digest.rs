//! The hash that names a blob: SHA-256 of a large file, the git object's SHA-1 of a small one.

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::choice::RemoteFile;

/// A hash under way.
pub(crate) enum Hasher {
    Large(Box<Sha256>),
    Small(Box<Sha1>),
}

impl Hasher {
    /// The hash that `file` is announced with.
    pub(crate) fn of(file: &RemoteFile) -> Hasher {
        if file.sha256.is_some() {
            return Hasher::Large(Box::default());
        }
        let mut hasher = Sha1::new();
        hasher.update(format!("blob {}\0", file.size));
        Hasher::Small(Box::new(hasher))
    }

    /// Add bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Large(hasher) => hasher.update(bytes),
            Hasher::Small(hasher) => hasher.update(bytes),
        }
    }

    /// The hash in hexadecimal digits.
    pub(crate) fn finish(self) -> String {
        let bytes = match self {
            Hasher::Large(hasher) => hasher.finalize().to_vec(),
            Hasher::Small(hasher) => hasher.finalize().to_vec(),
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_sha256sum() {
        let mut file = RemoteFile { path: "x".into(), size: 6, sha256: None, sha1: "0".repeat(40) };
        let of = |file: &RemoteFile| {
            let mut hasher = Hasher::of(file);
            hasher.add(b"hel");
            hasher.add(b"lo\n");
            hasher.finish()
        };
        // printf 'hello\n' | git hash-object --stdin; printf 'hello\n' | sha256sum
        assert_eq!(of(&file), "ce013625030ba8dba906f756967f9e9ca394464a");
        file.sha256 = Some(String::new());
        assert_eq!(of(&file), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
    }
}
