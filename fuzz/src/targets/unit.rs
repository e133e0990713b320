//! Files of the context cache on disk: bytes in the place of a unit are that unit, or a miss.
use std::sync::OnceLock;

use engine::store::{Settings, Store, root};

/// Runs the target on one input.
pub fn run(data: &[u8]) {
    static STORE: OnceLock<(tempfile::TempDir, Store)> = OnceLock::new();
    let fingerprint = [5; 32];
    let (folder, store) = STORE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { dir: folder.path().to_path_buf(), bytes_max: 1 << 30, fingerprint, block_bytes: 64 };
        (folder, Store::open(settings, |message| panic!("{message}")))
    });
    let key = root(&fingerprint, b"fuzz");
    let place = folder.path().join(&key.to_string()[..2]);
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join(format!("{key}.unit")), data).unwrap();
    if let Some(Ok(page)) = store.fetch(vec![key], || {}).next() {
        assert_eq!(page, (0..64).collect::<Vec<u8>>());
    }
}
