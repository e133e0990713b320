//! The context cache on disk when processes are killed, share a directory or find the disk full, and when files are not what was written: a miss, never other bytes.

mod storing;

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use farthing_engine::store::{Key, LookupError, Settings, Store, root};
use proptest::prelude::*;
use storing::*;

const ROLE: &str = "FARTHING_STORE_TEST_ROLE";
const PLACE: &str = "FARTHING_STORE_TEST_DIRECTORY";

/// This test binary again, as another process with a role.
fn child(role: &str, dir: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["another_process", "--exact", "--nocapture"]).env(ROLE, role).env(PLACE, dir);
    command.stdout(Stdio::null()).spawn().unwrap()
}

#[test]
fn another_process() {
    let (Ok(role), Ok(dir)) = (std::env::var(ROLE), std::env::var(PLACE)) else { return };
    match role.split_once(": ").unwrap_or((&role, "")) {
        ("writes until killed", round) => writes_until_killed(Path::new(&dir), round),
        ("puts and fetches", number) => puts_and_fetches(Path::new(&dir), number.parse().unwrap()),
        ("fills a small disk", "") => fills_a_small_disk(Path::new(&dir)),
        ("writes against a limit", "") => writes_against_a_limit(Path::new(&dir)),
        _ => panic!("{role}"),
    }
}

/// Large blocks: so that the end comes in the middle of one.
const LARGE: usize = 1 << 19;
const LARGE_MAX: u64 = 30 << 19;

fn open_large(dir: &Path) -> Store {
    Store::open(Settings { block_bytes: LARGE, ..settings(dir, LARGE_MAX) }, |message| panic!("{message}"))
}

fn writes_until_killed(dir: &Path, round: &str) {
    let store = open_large(dir);
    for salt in 0.. {
        for key in keys(&format!("killed {round} {salt}"), 10) {
            store.put(key, page_of(&key, LARGE));
        }
        store.flush();
    }
}

#[test]
fn a_killed_process_leaves_whole_units_only() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (mut unfinished, mut whole) = (0, 0);
    for round in 0..60u64 {
        let before = names(dir);
        let mut child = child(&format!("writes until killed: {round}"), dir);
        until("it writes", || names(dir) != before);
        // In the middle, at no special place.
        std::thread::sleep(Duration::from_micros(round * 370 % 9000));
        child.kill().unwrap();
        child.wait().unwrap();

        let left = names(dir);
        unfinished += left.iter().filter(|path| key_of(path).is_none() && !before.contains(path)).count();
        let store = open_large(dir);
        store.flush();
        for key in left.iter().filter_map(|path| key_of(path)) {
            match store.fetch(vec![key], || {}).next().unwrap() {
                Ok(bytes) => assert!(bytes == page_of(&key, LARGE)),
                Err(missed) => assert!(matches!(missed, LookupError::Absent), "{missed}"),
            }
            whole += 1;
        }
        assert!(store.statistics().bytes <= LARGE_MAX);
    }
    println!("{whole} whole blocks seen, {unfinished} unfinished");
    assert!(whole > 100);
    // What was left unfinished goes once it is old.
    for path in names(dir).iter().filter(|path| key_of(path).is_none()) {
        let past = SystemTime::now() - Duration::from_secs(601);
        OpenOptions::new().write(true).open(path).unwrap().set_modified(past).unwrap();
    }
    let _store = open_large(dir);
    assert!(names(dir).iter().all(|path| key_of(path).is_some()));
}

fn key_of(path: &Path) -> Option<Key> {
    let name = path.file_name()?.to_str()?.strip_suffix(".unit")?;
    let mut key = Key::new([0; 32]);
    for (at, byte) in key.hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&name[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(key)
}

const SHARED: u64 = 48;

/// Prefixes of the processes overlap: each fetches what another may just write or evict.
fn puts_and_fetches(dir: &Path, number: usize) {
    let store = open(dir, SHARED * ON_DISK);
    let mut came = 0;
    for round in 0..80 {
        let keys = keys(&format!("shared {}", (round * 7 + number * 3) % 60), 8);
        came += fetched(&store, &keys);
        put(&store, &keys);
        std::thread::sleep(Duration::from_millis(10));
    }
    let statistics = store.statistics();
    assert_eq!(statistics.damaged, 0);
    println!("{came} came, {statistics:?}");
}

#[test]
fn processes_share_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let mut children: Vec<Child> = (0..3).map(|number| child(&format!("puts and fetches: {number}"), dir)).collect();
    let mut most = 0;
    while children.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        most = most.max(names_of_blocks(dir).len() as u64);
        std::thread::sleep(Duration::from_millis(10));
    }
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    println!("at most {most} blocks of {SHARED}");
    // There are ten times as many blocks. Each process may exceed the bound by a sixteenth and a block; counting while files come and go is inexact.
    assert!(most <= SHARED + 2 * 3 * (SHARED / 16 + 2), "{most} blocks");

    // One alone keeps the bound. It sees what another writes, may fetch it at once, and sees what another removes.
    let (one, other) = (open(dir, SHARED * ON_DISK), open(dir, SHARED * ON_DISK));
    until("the bound holds", || names_of_blocks(dir).len() as u64 <= SHARED);
    let keys = keys("benefit", 20);
    put(&one, &keys[..10]);
    assert_eq!(fetched(&other, &keys[..10]), 10, "without having seen it");
    put(&one, &keys[10..]);
    until("the other has seen it", || keys.iter().all(|key| other.contains(key)));
    assert_eq!(other.statistics().written, 0);
    fs::remove_file(file(dir, &keys[3])).unwrap();
    until("both have seen that it went", || !one.contains(&keys[3]) && !other.contains(&keys[3]));
    // What one uses, the other does not evict.
    std::thread::sleep(Duration::from_millis(20));
    put(&one, &storing::keys("more", 30));
    assert_eq!(fetched(&one, &keys[..3]), 3);
    until("the other has seen that too", || other.statistics().blocks == one.statistics().blocks);
    put(&other, &storing::keys("most", 30));
    assert_eq!(fetched(&other, &keys[..3]), 3);
}

fn names_of_blocks(dir: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|e| e == "unit")).collect()
}

/// Runs where `dir` is a file system of one megabyte that nobody else sees.
fn fills_a_small_disk(dir: &Path) {
    let mount =
        |options: &str| Command::new("mount").args(["-o", options, "tmpfs"]).arg(dir).status().unwrap().success();
    let (store, warnings) = open_counting(dir, 1 << 30);
    let (keys, filler) = (keys("full", 200), dir.join("filler"));
    put(&store, &keys);
    let came = keys.iter().filter(|key| fetched(&store, &[**key]) == 1).count() as u64;
    let statistics = store.statistics();
    assert!(came > 10 && came < 100, "{came} blocks of 12 KiB came");
    assert_eq!((statistics.written, statistics.dropped), (came, 200 - came));
    assert!(names(dir).iter().all(|path| key_of(path).is_some()), "nothing unfinished stays");
    assert_eq!(warnings.lock().unwrap().len(), 1, "{warnings:?}");
    assert!(warnings.lock().unwrap()[0].to_lowercase().contains("no space"), "{warnings:?}");
    // Room comes back.
    names(dir).iter().take(20).for_each(|path| fs::remove_file(path).unwrap());
    let more = storing::keys("room", 10);
    until("writing works again", || {
        put(&store, &more);
        more.iter().all(|key| store.contains(key))
    });
    assert_eq!(fetched(&store, &more), 10);
    // Read-only: what is there is fetched, nothing new is taken, nobody is told again.
    assert!(mount("remount,ro"));
    let late = storing::keys("late", 3);
    put(&store, &late);
    assert_eq!((fetched(&store, &late), fetched(&store, &more)), (0, 10));
    let (fresh, fresh_warnings) = open_counting(dir, 1 << 30);
    put(&fresh, &late);
    assert_eq!((fetched(&fresh, &more), fresh_warnings.lock().unwrap().len()), (10, 1));
    assert!(mount("remount,rw"));
    until("writing works again", || {
        put(&store, &late);
        late.iter().all(|key| store.contains(key))
    });
    assert_eq!(warnings.lock().unwrap().len(), 1);
    // Full when it is opened.
    let _ = fs::write(&filler, vec![1; 2 << 20]);
    let (fresh, fresh_warnings) = open_counting(dir, 1 << 30);
    assert_eq!(fetched(&fresh, &more), 10);
    put(&fresh, &storing::keys("too much", 2));
    assert_eq!(fresh_warnings.lock().unwrap().len(), 1);
}

/// Runs where SIGXFSZ is ignored: a write beyond the limit is cut, and the next is an error, as on a full disk.
fn writes_against_a_limit(dir: &Path) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = |bytes: Option<u64>| {
        let Rlimit { maximum, .. } = getrlimit(Resource::Fsize);
        setrlimit(Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).unwrap();
    };
    let (store, warnings) = open_counting(dir, 1 << 30);
    let (before, full, after) = (keys("before", 3), keys("full", 5), keys("after", 3));
    put(&store, &before);
    // In the middle of a block, in its header, and before its first byte; each after the pause that the one before made.
    for (round, bytes) in (1..).zip([BLOCK as u64 / 2, 50, 0]) {
        limit(Some(bytes));
        put(&store, &full);
        assert_eq!((fetched(&store, &full), store.statistics().dropped), (0, 5 * round));
        std::thread::sleep(Duration::from_millis(2100));
    }
    assert_eq!((fetched(&store, &before), store.statistics().written), (3, 3));
    assert!(names(dir).iter().all(|path| key_of(path).is_some()), "nothing unfinished stays");
    assert_eq!(warnings.lock().unwrap().len(), 1, "{warnings:?}");
    assert!(warnings.lock().unwrap()[0].to_lowercase().contains("too large"), "{warnings:?}");
    limit(None);
    until("writing works again", || {
        put(&store, &after);
        after.iter().all(|key| store.contains(key))
    });
    assert_eq!((fetched(&store, &after), fetched(&store, &before)), (3, 3));
    assert_eq!(warnings.lock().unwrap().len(), 1, "{warnings:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_written_whole_costs_one_warning_until_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" another_process --exact --nocapture"]);
    command.arg(std::env::current_exe().unwrap()).env(ROLE, "writes against a limit").env(PLACE, folder.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(names_of_blocks(folder.path()).len(), 6);
}

/// In a user namespace anybody may mount, and the mount ends with the process. Where that is not allowed the test says so, and fails
/// with `FARTHING_MOUNT=required`.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_costs_one_warning_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(folder.path());
        command.arg(std::env::current_exe().unwrap()).env(ROLE, "fills a small disk").env(PLACE, folder.path());
        command
    };
    let mount = "mount -t tmpfs -o size=1m,mode=700 tmpfs \"$1\"";
    let mounted = unshare(mount).output();
    if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
        assert!(std::env::var("FARTHING_MOUNT").as_deref() != Ok("required"), "no small disk: {mounted:?}");
        eprintln!("SKIPPED a full disk: none can be mounted here");
        return;
    }
    let test = format!("{mount} && exec \"$2\" another_process --exact --nocapture");
    let output = unshare(&test).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(names(folder.path()).is_empty());
}

/// What can happen to a file between two runs: power that fails, disks that rot, people who copy things about.
#[derive(Clone, Debug)]
enum Damage {
    Cut(usize),
    Longer(usize),
    Flip { at: usize, bit: u8 },
    Zeros { from: usize, to: usize },
    Garbage { from: usize, bytes: Vec<u8> },
    Other,
    Directory { full: bool },
    Link { to_itself: bool },
    Pipe,
    Sparse(u64),
}

fn damage() -> impl Strategy<Value = Damage> {
    let length = BLOCK + 112;
    // The header is small, and most of what matters.
    let place = prop_oneof![0..112usize, 0..length];
    prop_oneof![
        2 => prop_oneof![0..112usize, 0..length, Just(length - 1)].prop_map(Damage::Cut),
        1 => (1..5000usize).prop_map(Damage::Longer),
        4 => (place.clone(), 0..8u8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        2 => (place.clone(), 1..length).prop_map(move |(from, count)| Damage::Zeros { from, to: length.min(from + count) }),
        2 => (place, prop::collection::vec(any::<u8>(), 1..200)).prop_map(|(from, bytes)| Damage::Garbage { from, bytes }),
        1 => Just(Damage::Other),
        1 => any::<bool>().prop_map(|full| Damage::Directory { full }),
        1 => any::<bool>().prop_map(|to_itself| Damage::Link { to_itself }),
        1 => Just(Damage::Pipe),
        1 => (1u64 << 33..1 << 42).prop_map(Damage::Sparse),
    ]
}

fn apply(damage: &Damage, path: &Path, other: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let file = || OpenOptions::new().write(true).open(path).unwrap();
    match damage {
        Damage::Cut(length) => file().set_len(*length as u64).unwrap(),
        Damage::Sparse(length) => file().set_len(*length).unwrap(),
        Damage::Longer(more) => bytes.extend(vec![0; *more]),
        Damage::Flip { at, bit } => bytes[*at] ^= 1 << bit,
        Damage::Zeros { from, to } => bytes[*from..*to].fill(0),
        Damage::Garbage { from, bytes } => {
            let mut file = file();
            file.seek(SeekFrom::Start(*from as u64)).unwrap();
            file.write_all(bytes).unwrap();
        }
        Damage::Other => bytes = fs::read(other).unwrap(),
        Damage::Directory { full } => {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
            if *full {
                fs::write(path.join("something"), "of somebody").unwrap();
            }
        }
        Damage::Link { to_itself } => {
            // Even to a whole copy of the right block: nothing outside is read.
            let copy = path.parent().unwrap().parent().unwrap().join("copy");
            fs::rename(path, &copy).unwrap();
            #[cfg(unix)]
            std::os::unix::fs::symlink(if *to_itself { path } else { &copy }, path).unwrap();
        }
        Damage::Pipe => {
            fs::remove_file(path).unwrap();
            #[cfg(target_os = "linux")]
            rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RUSR).unwrap();
        }
    }
    if matches!(damage, Damage::Longer(_) | Damage::Flip { .. } | Damage::Zeros { .. } | Damage::Other) {
        fs::write(path, bytes).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    /// With the store open or closed meanwhile: the damaged block is a miss, its neighbours are whole, and it can be put again.
    #[test]
    fn a_damaged_file_is_a_miss_and_goes(damage in damage(), reopened: bool) {
        let folder = tempfile::tempdir().unwrap();
        let (dir, keys) = (folder.path(), keys("damage", 3));
        let mut store = open(dir, 1 << 50);
        put(&store, &keys);
        let path = file(dir, &keys[1]);
        let before = fs::read(&path).unwrap();
        apply(&damage, &path, &file(dir, &keys[2]));
        if reopened {
            store = open(dir, 1 << 50);
        }
        if path.symlink_metadata().is_ok_and(|m| m.is_file() && m.len() < 1 << 20) && fs::read(&path).unwrap() == before {
            prop_assert_eq!(fetched(&store, &keys), 3);
            return Ok(());
        }
        prop_assert_eq!(fetched(&store, &keys), 1);
        let statistics = store.statistics();
        // What is too short to be a block goes when the store is opened.
        prop_assert_eq!(statistics.damaged + u64::from(reopened && !path.exists() && matches!(damage, Damage::Cut(..112))) , 1);
        prop_assert!(!store.contains(&keys[1]));
        prop_assert_eq!(fetched(&store, &keys[2..]), 1);
        if matches!(damage, Damage::Directory { full: true }) {
            // Somebody's file is in there: it stays, and the block can never be written.
            prop_assert!(path.join("something").exists());
            put(&store, &keys[1..2]);
            prop_assert_eq!((store.statistics().dropped, fetched(&store, &keys)), (1, 1));
        } else {
            prop_assert!(path.symlink_metadata().is_err(), "it is removed");
            put(&store, &keys[1..2]);
            prop_assert_eq!(fetched(&store, &keys), 3);
        }
    }
}

/// The power fails: of many files written last, some are empty, some end early, some have zeros where blocks never came.
#[test]
fn after_the_power_failed_nothing_unreadable_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, keys) = (folder.path(), keys("power", 120));
    put(&open(dir, 1 << 30), &keys);
    for (at, key) in keys.iter().enumerate().skip(60) {
        let path = file(dir, key);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        match at % 4 {
            0 => file.set_len(0).unwrap(),
            1 => file.set_len(4096).unwrap(),
            2 => {
                file.set_len(0).unwrap();
                file.set_len(BLOCK as u64 + 112).unwrap();
            }
            _ => {
                file.set_len(4096).unwrap();
                file.set_len(BLOCK as u64 + 112).unwrap();
            }
        }
    }
    let store = open(dir, 1 << 30);
    assert_eq!(fetched(&store, &keys), 60);
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(fetched(&store, &[*key]), usize::from(at < 60), "{at}");
    }
    assert_eq!((names(dir).len(), store.statistics().blocks), (60, 60));
}

#[test]
fn units_of_other_models_lengths_and_versions_are_foreign() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, keys) = (folder.path(), keys("foreign", 4));
    let others = [
        Settings { fingerprint: [6; 32], ..settings(dir, 1 << 30) },
        Settings { block_bytes: BLOCK - 1, ..settings(dir, 1 << 30) },
    ];
    for other in others {
        put(&open(dir, 1 << 30), &keys);
        let store = Store::open(other.clone(), |message| panic!("{message}"));
        for key in &keys {
            assert!(store.contains(key));
            assert!(matches!(store.fetch(vec![*key], || {}).next(), Some(Err(LookupError::Damaged))));
            assert!(!store.contains(key) && !file(dir, key).exists());
        }
        // Its own block under the same key is its own, and the first store's no longer.
        store.put(keys[0], vec![1; other.block_bytes]);
        store.flush();
        assert_eq!(store.fetch(keys.clone(), || {}).next().unwrap().unwrap(), vec![1; other.block_bytes]);
        assert_eq!(fetched(&open(dir, 1 << 30), &keys), 0);
    }
    // Under another name, though every byte of the file is as it was written.
    put(&open(dir, 1 << 30), &keys);
    fs::rename(file(dir, &keys[0]), file(dir, &keys[1])).unwrap();
    let store = open(dir, 1 << 30);
    assert!(matches!(store.fetch(vec![keys[1]], || {}).next(), Some(Err(LookupError::Damaged))));
    // Every single bit of the header, the version's among them.
    let path = file(dir, &keys[2]);
    let whole = fs::read(&path).unwrap();
    for bit in 0..112 * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, bytes).unwrap();
        assert!(matches!(store.fetch(vec![keys[2]], || {}).next(), Some(Err(LookupError::Damaged))), "bit {bit}");
    }
    fs::write(&path, whole).unwrap();
    assert_eq!(fetched(&store, &keys[2..]), 2);
}

/// Where the fuzzer starts and what it found: only the whole one is a block. The BLAKE3 of Python wrote it; it must stay readable.
#[test]
fn seeds_and_findings_of_the_fuzzer() {
    let folder = tempfile::tempdir().unwrap();
    let key = root(&FINGERPRINT, b"fuzz");
    let store =
        Store::open(Settings { block_bytes: 64, ..settings(folder.path(), 1 << 30) }, |message| panic!("{message}"));
    let place = file(folder.path(), &key);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    let mut whole = 0;
    for kind in ["seeds", "findings"] {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(kind).join("unit");
        for path in fs::read_dir(seeds).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            fs::copy(&path, &place).unwrap();
            let block = store.fetch(vec![key], || {}).next().unwrap();
            assert_eq!(block.is_ok(), path.ends_with("whole.unit"), "{}", path.display());
            if let Ok(page) = block {
                assert_eq!(page, (0..64).collect::<Vec<u8>>());
                whole += 1;
            }
        }
    }
    assert_eq!(whole, 1);
}
