//! The context cache on disk: putting, opening and fetching, beside what copying the same files takes. The best of several runs, and the middle one.
//!
//! `cargo bench -p farthing-engine --bench store`, with a directory on the disk in question (else the temporary one). "Cold" asks the operating system to
//! forget the files first (Linux), which it may decline.

use std::path::{Path, PathBuf};
use std::time::Instant;

use farthing_engine::store::{Key, Settings, Store, chain, root};

const BLOCKS: usize = 64;

fn main() {
    let place = std::env::args().nth(1).filter(|a| !a.starts_with('-')).map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(place).unwrap();
    for block_bytes in [2 << 20, 50 << 10] {
        let dir = folder.path().join(block_bytes.to_string());
        println!("{BLOCKS} blocks of {block_bytes} bytes");
        transfer(&dir, block_bytes);
    }
    let dir = folder.path().join("many");
    let store = open(&dir, 4096);
    let keys = keys(5000);
    keys.iter().for_each(|key| store.put(*key, vec![1; 4096]));
    store.flush();
    drop(store);
    let mut seconds: Vec<f64> = (0..9).map(|_| timed(|| drop(open(&dir, 4096)))).collect();
    report("open with 5000 blocks", &mut seconds, 0);
}

fn open(dir: &Path, block_bytes: usize) -> Store {
    let settings = Settings { dir: dir.to_path_buf(), bytes_max: 1 << 40, fingerprint: [1; 32], block_bytes };
    Store::open(settings, |message| println!("{message}"))
}

fn keys(count: usize) -> Vec<Key> {
    let start = root(&[1; 32], b"");
    (0..count as u32).scan(start, |key, at| Some(std::mem::replace(key, chain(key, 0, &[at])))).collect()
}

fn transfer(dir: &Path, block_bytes: usize) {
    let (mut put, mut warm, mut cold, mut copy, mut first) = (vec![], vec![], vec![], vec![], vec![]);
    let keys = keys(BLOCKS);
    for _ in 0..9 {
        let _ = std::fs::remove_dir_all(dir);
        let store = open(dir, block_bytes);
        put.push(timed(|| {
            keys.iter().for_each(|key| store.put(*key, vec![7; block_bytes]));
            store.flush();
        }));
        first.push(timed(|| drop(store.fetch(keys.clone(), || {}).next().unwrap().unwrap())));
        warm.push(timed(|| fetch(&store, &keys)));
        let files: Vec<PathBuf> =
            keys.iter().map(|key| dir.join(&key.to_string()[..2]).join(format!("{key}.unit"))).collect();
        copy.push(timed(|| files.iter().for_each(|file| drop(std::fs::read(file).unwrap()))));
        files.iter().for_each(|file| forget(file));
        cold.push(timed(|| fetch(&store, &keys)));
    }
    let bytes = BLOCKS * block_bytes;
    report("put and written", &mut put, bytes);
    report("fetched, warm", &mut warm, bytes);
    report("  the first of them", &mut first, block_bytes);
    report("  files read, unchecked", &mut copy, bytes);
    report("fetched, cold", &mut cold, bytes);
}

fn fetch(store: &Store, keys: &[Key]) {
    let mut fetch = store.fetch(keys.to_vec(), || {});
    let mut count = 0;
    while let Some(block) = fetch.next() {
        std::hint::black_box(block.unwrap());
        count += 1;
    }
    assert_eq!(count, keys.len());
}

fn forget(path: &Path) {
    let file = std::fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn report(what: &str, seconds: &mut [f64], bytes: usize) {
    seconds.sort_by(f64::total_cmp);
    let (best, middle) = (seconds[0], seconds[seconds.len() / 2]);
    print!("  {what:28} best {:8.2} ms, middle {:8.2} ms", best * 1e3, middle * 1e3);
    println!(
        "{}",
        if bytes == 0 { String::new() } else { format!(", {:6.0} MB/s at best", bytes as f64 / best / 1e6) }
    );
}
