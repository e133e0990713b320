//! What a model is called on disk follows from the bytes of its files and from its structure.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime};

use farthing_engine::identity::{FileHash, NoHash, file_hash};
use farthing_engine::{Disk, Engine, Event, Limits, Request, Runner, Settings};
use kernels::Pool;
use model::mmap::Mapping;
use model::{CacheFormat, Checkpoint, Transformer};

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m")
}

/// The hash of a file that is opened now; without time for hashing where it must be known already.
fn hash(path: &Path, records: &Path, known: bool) -> Result<FileHash, NoHash> {
    file_hash(&Mapping::open(path).unwrap(), records, &AtomicBool::new(known))
}

/// Other bytes in the same place, and the time of writing as it was.
fn patch(path: &Path, at: usize, bytes: &[u8]) {
    let written = fs::metadata(path).unwrap().modified().unwrap();
    let mut all = fs::read(path).unwrap();
    all[at..at + bytes.len()].copy_from_slice(bytes);
    fs::write(path, all).unwrap();
    File::options().write(true).open(path).unwrap().set_modified(written).unwrap();
    assert_eq!(fs::metadata(path).unwrap().modified().unwrap(), written);
}

#[test]
fn a_hash_is_made_once_and_follows_from_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    let (path, records) = (folder.path().join("weights"), folder.path().join("records"));
    let mut bytes = vec![0; (3 << 20) + 17];
    blake3::Hasher::new().update(b"weights").finalize_xof().fill(&mut bytes);
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(hash(&path, &records, true), Err(NoHash::Stopped)), "nothing is known yet");
    let first = hash(&path, &records, false).unwrap();
    assert_eq!(first, *blake3::hash(&bytes).as_bytes());
    assert_eq!(hash(&path, &records, true).unwrap(), first, "it was kept");
    // One bit between all pieces that anybody would sample.
    patch(&path, 1_234_567, &[bytes[1_234_567] ^ 1]);
    assert!(matches!(hash(&path, &records, true), Err(NoHash::Stopped)), "the record is of other bytes");
    bytes[1_234_567] ^= 1;
    assert_eq!(hash(&path, &records, false).unwrap(), *blake3::hash(&bytes).as_bytes());
    // Another file of the same bytes is the same.
    let copy = folder.path().join("copy");
    fs::write(&copy, &bytes).unwrap();
    assert_eq!(hash(&copy, &records, false).unwrap(), *blake3::hash(&bytes).as_bytes());
    // One that changes after it was opened is not what it was opened as.
    let mapping = Mapping::open(&path).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    patch(&path, 5, &[7]);
    let changed = file_hash(&mapping, &records, &AtomicBool::new(false));
    assert!(matches!(changed, Err(NoHash::Changed(_))), "{changed:?}");
    assert_eq!(
        file_hash(&Mapping::held("held", vec![1, 2]), &records, &AtomicBool::new(false)).unwrap(),
        *blake3::hash(&[1, 2]).as_bytes()
    );
}

#[test]
fn a_record_is_believed_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let (path, records) = (folder.path().join("weights"), folder.path().join("records"));
    fs::write(&path, [5; 1000]).unwrap();
    let known = hash(&path, &records, false).unwrap();
    let record = fs::read_dir(&records).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&record).unwrap();
    let believed = || hash(&path, &records, true).is_ok();
    assert!(believed());
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&record, bytes).unwrap();
        assert!(!believed(), "byte {at}");
        fs::write(&record, &whole[..at]).unwrap();
        assert!(!believed(), "{at} bytes");
    }
    fs::write(&record, [&whole[..], b"x"].concat()).unwrap();
    assert!(!believed());
    assert_eq!(hash(&path, &records, false).unwrap(), known);
    assert!(believed(), "it was written anew");
    // Who may write into the directory may say what he likes.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        for mode in [0o777, 0o770] {
            fs::set_permissions(&records, fs::Permissions::from_mode(mode)).unwrap();
            assert!(!believed(), "{mode:o}");
        }
        fs::set_permissions(&records, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(believed());
    }
}

fn service(model: &Path, dir: &Path) -> Engine {
    service_with(model, dir, CacheFormat::Bf16)
}

fn service_with(model: &Path, dir: &Path, format: CacheFormat) -> Engine {
    let checkpoint = Checkpoint::open(model).unwrap();
    let (weights, limits) = (checkpoint.weights().unwrap(), Limits { context: 512, cached: 512 });
    let runner = Runner::new(Transformer::new(checkpoint.structure, weights), Pool::new(1), format, limits);
    let warn = Box::new(|line: &str| println!("warning: {line}"));
    let disk = Some(Disk { dir: dir.to_path_buf(), bytes_max: 1 << 30, warn });
    Engine::start(runner, Settings { disk, ..Settings::default() })
}

/// The text of a prompt, and how many of its tokens the cache had.
fn asked(service: &Engine) -> (Vec<u32>, usize) {
    let prompt = (0..300u32).map(|i| (i * 37 + i * i % 13) % 250).collect();
    let (sender, events) = channel();
    let sink = move |event| {
        let _ = sender.send(event);
        ControlFlow::Continue(())
    };
    let _ticket = service.submit(Request { prompt, tokens_max: 20, ..Request::default() }, sink).unwrap();
    let (mut ids, mut found) = (Vec::new(), None);
    for event in events {
        match event {
            Event::Started { cached, .. } => found = Some(cached),
            Event::Token { id, .. } => ids.push(id),
            _ => {}
        }
    }
    (ids, found.unwrap())
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn copied(to: &Path) -> PathBuf {
    fs::create_dir_all(to).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(bundled().join(file), to.join(file)).unwrap();
    }
    to.join("model.safetensors")
}

/// Nix and image layers give all files one time of writing, and `cp -p` keeps it.
#[test]
fn a_patched_model_finds_nothing_of_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let (model, dir) = (folder.path().join("model"), folder.path().join("units"));
    let weights = copied(&model);
    File::options()
        .write(true)
        .open(&weights)
        .unwrap()
        .set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1))
        .unwrap();
    // The file is young: its hash waits until a change would show. Nobody else does, and what was computed meanwhile is kept in the end.
    let first = service(&model, &dir);
    let (text, found) = asked(&first);
    assert_eq!((found, text.len()), (0, 20));
    until("the blocks of memory go to disk", || first.statistics().disk.is_some_and(|disk| disk.written >= 4));
    drop(first);
    let again = service(&model, &dir);
    until("the hash is kept, so that the blocks are found", || {
        again.statistics().disk.is_some_and(|disk| disk.blocks >= 4)
    });
    assert_eq!(asked(&again), (text.clone(), 256));
    drop(again);
    // Some weights in the middle become zeros, in no place that a sample of 64 pieces would see.
    let length = fs::metadata(&weights).unwrap().len() as usize;
    for piece in 30..34 {
        patch(&weights, length / 64 * piece + 8192, &[0; 100_000]);
    }
    let patched = service(&model, &dir);
    until("it is hashed", || patched.statistics().disk.is_some());
    let (other, found) = asked(&patched);
    assert_eq!(found, 0, "pages of the model as it was");
    assert_ne!(other, text, "the patch is felt");
    drop(patched);
    // The old model again: its blocks are still there.
    fs::copy(bundled().join("model.safetensors"), &weights).unwrap();
    let back = service(&model, &dir);
    until("it is hashed", || back.statistics().disk.is_some_and(|disk| disk.blocks >= 8));
    assert_eq!(asked(&back), (text, 256));
}

/// A file that changes under a running service: what is in memory may be of either.
#[test]
fn a_model_that_changes_in_use_ends_the_cache_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (model, dir) = (folder.path().join("model"), folder.path().join("units"));
    let weights = copied(&model);
    let service = service(&model, &dir);
    until("it is hashed", || service.statistics().disk.is_some());
    let written = fs::metadata(&weights).unwrap().modified().unwrap();
    // In place, as a patch would be.
    let file = File::options().write(true).open(&weights).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4], 6_000_000).unwrap();
    file.set_modified(written).unwrap();
    asked(&service);
    let disk = service.statistics().disk.unwrap();
    assert_eq!((disk.written, disk.dropped), (0, 0));
}

/// What is on disk is found by these: a change that was not meant would empty every cache. The encoding names every field by itself, so a field that
/// is renamed or moved changes nothing.
#[test]
fn structures_are_written_as_they_were() {
    let models =
        ["../../models/seed-5.7m", "../model/tests/data/oracle/llama-gqa", "../model/tests/data/oracle/qwen3-moe"];
    let written = models.map(|model| {
        let checkpoint = Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(model)).unwrap();
        let mut hasher = blake3::Hasher::new();
        checkpoint.structure.identify(&mut |bytes| {
            hasher.update(bytes);
        });
        hasher.finalize().to_hex()[..16].to_string()
    });
    assert_eq!(written, ["446c012eb6da0753", "649caedf3e6a1d2f", "32536202de1ae738"]);
}

/// Names and bytes of what is on disk after a prompt of 300 tokens: fingerprint, keys, headers, checksums and the bytes of blocks.
#[test]
fn files_on_disk_are_written_as_they_were() {
    const LLAMA: &str = "../model/tests/data/oracle/llama-gqa";
    const SEED: &str = "../../models/seed-5.7m";
    const WRITTEN: [(&str, CacheFormat, &str); 6] = [
        (SEED, CacheFormat::F32, "3e5527b75f475bf6"),
        (SEED, CacheFormat::Bf16, "8e9664f924f6eb4c"),
        (SEED, CacheFormat::Eight, "644f26f5384db8d9"),
        (SEED, CacheFormat::Six, "27896d5b1b84354f"),
        (LLAMA, CacheFormat::Bf16, "ec890427f33c2342"),
        (LLAMA, CacheFormat::Six, "a7fa15e52ad6932c"),
    ];
    let now = WRITTEN.map(|(model, format, _)| {
        let folder = tempfile::tempdir().unwrap();
        let service = service_with(&Path::new(env!("CARGO_MANIFEST_DIR")).join(model), folder.path(), format);
        asked(&service);
        until("four blocks are written", || service.statistics().disk.is_some_and(|disk| disk.written >= 4));
        drop(service);
        let mut hasher = blake3::Hasher::new();
        let mut folders: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        folders.retain(|path| !path.ends_with("hashes"));
        let files = folders.iter().flat_map(|path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        let mut files: Vec<_> = files.collect();
        files.sort();
        assert_eq!(files.len(), 4);
        for file in files {
            hasher.update(file.file_name().unwrap().as_encoded_bytes()).update(&fs::read(file).unwrap());
        }
        hasher.finalize().to_hex()[..16].to_string()
    });
    assert_eq!(now.each_ref().map(String::as_str), WRITTEN.map(|(_, _, written)| written));
}

/// `cargo test -p farthing-engine --test identity -- --ignored --nocapture`, with `FARTHING_HASHED` naming a file in the page cache, else one of 1 GiB is made.
#[test]
#[ignore = "a measurement"]
fn how_fast_files_are_hashed() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("file");
    let path = std::env::var_os("FARTHING_HASHED").map_or_else(|| made.clone(), PathBuf::from);
    if path == made {
        fs::write(&made, vec![1; 1 << 30]).unwrap();
        std::thread::sleep(Duration::from_secs(3));
    }
    let mapping = Mapping::open(&path).unwrap();
    for run in 0..5 {
        let begun = Instant::now();
        let records = folder.path().join(format!("records {run}"));
        file_hash(&mapping, &records, &AtomicBool::new(false)).unwrap();
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "{:.2} GB/s: {} bytes in {seconds:.3} s",
            mapping.bytes().len() as f64 / seconds / 1e9,
            mapping.bytes().len()
        );
        let begun = Instant::now();
        file_hash(&mapping, &records, &AtomicBool::new(false)).unwrap();
        println!("from its record: {:.1} us", begun.elapsed().as_secs_f64() * 1e6);
    }
}
