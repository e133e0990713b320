//! GGUF files that were converted from a safetensors file beside them, kept as what differs from it: the numbers are the same, so most of
//! the file is copied from there. `data/make_twin.py` writes them; length and hash of the original are checked.

use std::path::{Path, PathBuf};

/// Takes the first `N` bytes.
fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (first, rest) = bytes.split_first_chunk().expect("a whole twin");
    *bytes = rest;
    *first
}

/// The original file: pieces of the twin and pieces of its source in turn.
fn restored(mut twin: &[u8], source: &[u8]) -> Vec<u8> {
    let (length, hash) = (u64::from_le_bytes(take(&mut twin)), u64::from_le_bytes(take(&mut twin)));
    let mut file = Vec::new();
    while !twin.is_empty() {
        let (own, rest) = {
            let own = u32::from_le_bytes(take(&mut twin)) as usize;
            twin.split_at(own)
        };
        file.extend(own);
        twin = rest;
        let (start, copied) =
            (u32::from_le_bytes(take(&mut twin)) as usize, u32::from_le_bytes(take(&mut twin)) as usize);
        file.extend(&source[start..start + copied]);
    }
    // FNV-1a in 64 bits.
    let found = file.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    assert_eq!((file.len() as u64, found), (length, hash), "the twin or its source was changed");
    file
}

/// The path of reference data; a file that is kept as a twin is restored under cargo's directory for tests first.
pub fn reference(data: &Path, name: &str) -> PathBuf {
    let path = data.join(name);
    let twin = data.join(format!("{name}.twin"));
    if !twin.exists() {
        return path;
    }
    let mut source = std::fs::read(path.with_file_name("model.safetensors")).unwrap();
    // After the file, its numbers in bfloat16 as f32.
    source.extend(source.clone().chunks_exact(2).flat_map(|half| [0, 0, half[0], half[1]]));
    let file = restored(&std::fs::read(twin).unwrap(), &source);
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("twins").join(name);
    if std::fs::read(&place).is_ok_and(|there| there == file) {
        return place;
    }
    let folder = place.parent().unwrap();
    std::fs::create_dir_all(folder).unwrap();
    // Other tests may be writing the same file.
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let new = folder.join(format!("{}-{count}.new", std::process::id()));
    std::fs::write(&new, file).unwrap();
    std::fs::rename(new, &place).unwrap();
    place
}
