//! Markers: JSON files of the work directory that vouch for other files, sealed by a hash, so that one that was damaged or moved here is none
//!
//! A line of JSON, and a line with the BLAKE3 of what it is about and of that JSON, in hexadecimal. The hash finds damage; it is no signature.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, atomic};

/// Bytes of a marker that is read.
const BYTES_MAX: u64 = 256 << 20;

fn seal(about: &[u8], json: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(about.len() as u64).to_le_bytes()).update(about).update(json);
    hasher.finalize()
}

/// Writes a marker. `about` says what it is the marker of.
///
/// # Errors
/// Where the system refuses.
pub fn write(path: &Path, about: &[u8], value: &impl Serialize) -> Result<(), Error> {
    let mut bytes = serde_json::to_vec(value).expect("markers are plain data");
    let seal = seal(about, &bytes);
    bytes.extend(format!("\n{seal}\n").as_bytes());
    atomic::write(path, &bytes).map(drop)
}

/// Reads a marker of what `about` says; none if there is no such file, or its seal is broken.
pub fn read<T: DeserializeOwned>(path: &Path, about: &[u8]) -> Option<T> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|m| m.is_file()))?;
    file.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let found = std::str::from_utf8(&bytes[end + 1..]).ok()?.strip_suffix('\n')?;
    let is_whole = seal(about, &bytes[..end]).to_hex().as_str() == found;
    is_whole.then(|| serde_json::from_slice(&bytes[..end]).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_with_any_byte_changed_or_of_another_part_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part.json");
        write(&path, b"part 3", &(7, "seven")).unwrap();
        let there = |about: &[u8]| read::<(u32, String)>(&path, about);
        assert_eq!(there(b"part 3"), Some((7, "seven".to_string())));
        assert_eq!(there(b"part 4"), None);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(there(b"part 3"), None, "byte {at}");
            std::fs::write(&path, &good[..at]).unwrap();
            assert_eq!(there(b"part 3"), None, "{at} bytes");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(there(b"part 3"), None);
    }
}
