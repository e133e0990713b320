//! The context cache on disk: what was put comes back, or nothing does. Restarts, bounds, refusals; damage and other processes are in `store_hostile.rs`.

mod storing;

use std::fs;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use farthing_engine::store::{LookupError, Owner, Settings, Store, remove_owned};
use storing::*;

#[test]
fn a_restart_finds_everything() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys("restart", 100);
    let store = open(folder.path(), 1 << 30);
    assert_eq!(store.statistics(), Default::default());
    assert!(matches!(store.fetch(keys.clone(), || {}).next(), Some(Err(LookupError::Absent))));
    put(&store, &keys);
    assert!(keys.iter().all(|key| store.contains(key)));
    assert_eq!(fetched(&store, &keys), 100);
    put(&store, &keys[..1]);
    drop(store);

    let store = open(folder.path(), 1 << 30);
    let statistics = store.statistics();
    assert_eq!((statistics.blocks, statistics.bytes), (100, 100 * ON_DISK));
    assert!(keys.iter().all(|key| store.contains(key)));
    assert_eq!(fetched(&store, &keys), 100);
    assert_eq!((store.statistics().hits, store.statistics().misses), (100, 0));

    // A gap ends a fetch.
    fs::remove_file(file(folder.path(), &keys[7])).unwrap();
    let mut fetch = store.fetch(keys.clone(), || {});
    assert!((0..7).all(|at| fetch.next().unwrap().unwrap() == page(&keys[at])));
    assert!(matches!(fetch.next(), Some(Err(LookupError::Absent))));
    assert!(fetch.next().is_none() && matches!(fetch.try_next(), Poll::Ready(None)) && !store.contains(&keys[7]));
    assert_eq!(store.statistics().misses, 1);
}

#[test]
fn what_was_used_longest_ago_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys("age", 10);
    let store = open(folder.path(), 6 * ON_DISK);
    put(&store, &keys[..6]);
    assert_eq!(fetched(&store, &keys[0..2]), 2);
    store.touch(&keys[2..4]);
    store.flush();
    // 4 and 5 are the oldest; of 0 and 1, and of 2 and 3, which were used together, the second goes first.
    let order = [4, 5, 1, 0, 3, 2];
    let left = |store: &Store| order.map(|at| store.contains(&keys[at]));
    for (at, key) in keys[6..9].iter().enumerate() {
        put(&store, &[*key]);
        assert_eq!(left(&store), std::array::from_fn(|i| i > at), "after {at}");
    }
    assert_eq!((store.statistics().blocks, store.statistics().evicted), (6, 3));
    drop(store);
    // The order outlives the process, and a smaller bound holds for what is there.
    let store = open(folder.path(), 5 * ON_DISK);
    put(&store, &keys[9..]);
    assert_eq!(left(&store), [false, false, false, false, false, true]);
    assert_eq!(names(folder.path()).len(), 5);
    assert_eq!(fetched(&store, &keys[9..]), 1);
}

/// A bound that is one byte short of another block holds without it.
#[test]
fn the_bound_holds_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys("bound", 7);
    for (bytes_max, blocks) in [(6 * ON_DISK - 1, 5), (6 * ON_DISK, 6)] {
        let store = open(folder.path(), bytes_max);
        put(&store, &keys);
        let statistics = store.statistics();
        assert_eq!((statistics.blocks, statistics.bytes), (blocks, blocks * ON_DISK), "{bytes_max}");
        assert_eq!(names(folder.path()).len() as u64, blocks, "{bytes_max}");
    }
    let smaller = open(folder.path(), 6 * ON_DISK - 1);
    until("what is there is brought within a smaller bound", || smaller.statistics().bytes < 6 * ON_DISK);
    assert_eq!(smaller.statistics().blocks, 5);
}

/// A block that is put again, fetched, or fetched by another process is used, also for those that open the directory later.
#[test]
fn who_finds_a_unit_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys("found", 12);
    let store = open(folder.path(), 6 * ON_DISK);
    let left = |store: &Store| (0..6).filter(|&at| store.contains(&keys[at])).collect::<Vec<_>>();
    put(&store, &keys[..6]);
    put(&store, &keys[..1]);
    put(&store, &keys[6..7]);
    assert_eq!(left(&store), [0, 2, 3, 4, 5], "the first was put again");
    // Another store stands for another process.
    let other = open(folder.path(), 1 << 30);
    assert_eq!(fetched(&other, &keys[2..3]), 1);
    put(&store, &keys[7..8]);
    assert_eq!(left(&store), [0, 2, 4, 5], "the third was fetched by another");
    assert_eq!(fetched(&store, &keys[4..5]), 1);
    drop((store, other));
    let store = open(folder.path(), 6 * ON_DISK);
    put(&store, &keys[8..9]);
    assert_eq!(left(&store), [0, 2, 4], "the fifth was fetched before the directory was opened");
    // What another has written is known, and young, once it was fetched.
    let other = open(folder.path(), 1 << 30);
    put(&other, &keys[9..10]);
    assert_eq!(fetched(&store, &keys[9..10]), 1);
    assert!(store.contains(&keys[9]));
    put(&store, &keys[10..]);
    assert!(store.contains(&keys[9]));
}

/// Clocks go wrong. Blocks from the future are neither kept forever nor waited for.
#[test]
fn times_to_come_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys("future", 12);
    put(&open(folder.path(), 1 << 30), &keys[..6]);
    for key in &keys[..6] {
        let late = SystemTime::now() + Duration::from_secs(1 << 31);
        fs::File::open(file(folder.path(), key)).unwrap().set_modified(late).unwrap();
    }
    let store = open(folder.path(), 6 * ON_DISK);
    put(&store, &keys[6..]);
    assert!(keys[..6].iter().all(|key| !store.contains(key)) && fetched(&store, &keys[6..]) == 6);
}

#[test]
fn what_is_too_large_or_too_much_is_dropped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), ON_DISK - 1);
    put(&store, &keys("large", 3));
    assert_eq!((store.statistics().dropped, store.statistics().blocks), (3, 0));
    drop(store);

    // The writer stands still in the warning; putting goes on until the queue is full, and further.
    let (block_bytes, dir) = (8 << 20, folder.path().join("much"));
    let settings = Settings { dir: dir.clone(), bytes_max: 1 << 40, fingerprint: FINGERPRINT, block_bytes };
    let (entered, at_warning) = channel();
    let (go_on, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let store = Store::open(settings, move |_| {
        entered.send(()).unwrap();
        let _ = wait.lock().unwrap().recv();
    });
    fs::remove_dir(&dir).unwrap();
    fs::write(&dir, "").unwrap();
    let keys = keys("much", 41);
    store.put(keys[40], vec![1; block_bytes]);
    at_warning.recv().unwrap();
    for key in &keys[..40] {
        store.put(*key, vec![1; block_bytes]);
    }
    assert_eq!(store.statistics().dropped, 1 + 24, "128 MiB wait");
    drop(go_on);
    store.flush();
    assert_eq!(store.statistics().dropped, 41);
}

#[test]
fn a_fetch_wakes_and_reads_only_a_little_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys("ahead", 60);
    let store = open(folder.path(), 1 << 30);
    put(&store, &keys);
    let (wake, woken) = channel();
    let mut fetch = store.fetch(keys.clone(), move || wake.send(()).unwrap());
    let mut came = 0;
    // Sleeping until woken, and never asking otherwise, sees everything; the end closes the channel.
    while let Ok(()) = woken.recv() {
        while let Poll::Ready(Some(block)) = fetch.try_next() {
            assert_eq!(block.unwrap(), page(&keys[came]));
            came += 1;
        }
    }
    assert_eq!(came, 60);

    let before = store.statistics().hits;
    let (wake, woken) = channel();
    let mut fetch = store.fetch(keys.clone(), move || wake.send(()).unwrap_or_default());
    fetch.next().unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(store.statistics().hits - before <= 6, "one taken, four ahead, one in hand");
    drop(fetch);
    // The thread ends: its end of the channel goes away.
    while woken.recv_timeout(Duration::from_secs(60)).is_ok() {}
    assert!(store.statistics().hits - before <= 7);
}

#[test]
fn a_directory_that_refuses_costs_one_warning_until_it_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let block = folder.path().join("block");
    fs::write(&block, "not a directory").unwrap();
    let (store, warnings) = open_counting(&block.join("cache"), 1 << 30);
    let keys = keys("refused", 20);
    put(&store, &keys);
    assert_eq!(fetched(&store, &keys), 0);
    assert_eq!(store.statistics().dropped, 20);
    assert_eq!(warnings.lock().unwrap().len(), 1, "{warnings:?}");
    assert!(warnings.lock().unwrap()[0].contains("block/cache"), "{warnings:?}");
    fs::remove_file(&block).unwrap();
    until("writing works again", || {
        put(&store, &keys);
        keys.iter().all(|key| store.contains(key))
    });
    assert_eq!(fetched(&store, &keys), 20);
    // The directory goes away, with everything in it.
    fs::remove_dir_all(&block).unwrap();
    until("it is seen", || !store.contains(&keys[0]));
    put(&store, &keys);
    assert_eq!(fetched(&store, &keys), 20);
    assert_eq!(warnings.lock().unwrap().len(), 1);
}

/// A disk that refused is left alone for two seconds: a full one is not asked for every block. A machine that stands still meanwhile
/// sees nothing, so there are several tries.
#[test]
fn a_disk_that_refused_is_not_asked_at_once() {
    let seen = (0..10).any(|_| {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("cache");
        let keys = keys("pause", 2);
        let (store, _) = open_counting(&dir, 1 << 30);
        fs::remove_dir(&dir).unwrap();
        fs::write(&dir, "not a directory").unwrap();
        let before = Instant::now();
        put(&store, &keys[..1]);
        fs::remove_file(&dir).unwrap();
        put(&store, &keys[1..]);
        let (dropped, made) = (store.statistics().dropped, dir.exists());
        if before.elapsed() >= Duration::from_secs(2) {
            return false;
        }
        assert_eq!((dropped, made), (2, false));
        true
    });
    assert!(seen, "two blocks were never put within two seconds");
}

#[test]
fn only_what_is_ours_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys("ours", 4);
    let dir = folder.path().join("a/b");
    put(&open(&dir, 1 << 30), &keys);
    let beside = file(&dir, &keys[0]).parent().unwrap().to_path_buf();
    let stranger = format!("{}0.unit", &keys[0].to_string()[1..]);
    let others = [dir.join("letter.txt"), beside.join("photo.jpg"), beside.join("unit"), beside.join(stranger)];
    others.iter().for_each(|path| fs::write(path, "dear").unwrap());
    let unfinished = |name: &str| beside.join(format!("{}.{name}.part", keys[0]));
    let [old, new, odd] = [unfinished(&"a".repeat(32)), unfinished(&"b".repeat(32)), unfinished("c")];
    for path in [&old, &new, &odd] {
        fs::write(path, "half a block").unwrap();
    }
    let past = SystemTime::now() - Duration::from_secs(3600);
    for path in [&old, &odd] {
        fs::OpenOptions::new().write(true).open(path).unwrap().set_modified(past).unwrap();
    }
    // What a lost block left: too short to be a block.
    let short = file(&dir, &keys[1]);
    fs::write(&short, "").unwrap();
    // A bound below everything: all blocks go.
    let store = open(&dir, 1);
    until("all blocks are gone", || store.statistics().blocks == 0);
    assert!(others.iter().chain([&new, &odd]).all(|path| path.exists()));
    assert!(!old.exists() && !short.exists());
    // An unfinished file becomes old while the folder does not change.
    fs::OpenOptions::new().write(true).open(&new).unwrap().set_modified(past).unwrap();
    until("it is removed", || !new.exists());
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_enter() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("cache");
    let keys = keys("private", 3);
    let (store, warnings) = open_counting(&dir, 1 << 30);
    put(&store, &keys);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for key in &keys {
        let path = file(&dir, key);
        assert_eq!([mode(&path), mode(path.parent().unwrap()), mode(&dir)], [0o600, 0o700, 0o700]);
    }
    // Where others may write, others may choose what the model remembers.
    for wide_mode in [0o777, 0o770, 0o720] {
        fs::set_permissions(&dir, fs::Permissions::from_mode(wide_mode)).unwrap();
        let (wide, wide_warnings) = open_counting(&dir, 1 << 30);
        assert_eq!(fetched(&wide, &keys), 0);
        put(&wide, &keys);
        assert_eq!((wide.statistics().blocks, wide_warnings.lock().unwrap().len()), (0, 1));
        assert!(wide_warnings.lock().unwrap()[0].contains("chmod go-w"));
        until("the one that is open sees it too", || fetched(&store, &keys) == 0);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        until("it is used again", || fetched(&wide, &keys) == 3);
        until("by the one that is open too", || fetched(&store, &keys) == 3);
    }
    assert!(warnings.lock().unwrap().is_empty());
}

/// Each of the 256 folders is judged as the top one is.
#[cfg(unix)]
#[test]
fn a_folder_where_others_may_write_is_not_used() {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    let folder = tempfile::tempdir().unwrap();
    let (dir, elsewhere) = (folder.path().join("cache"), folder.path().join("elsewhere"));
    let keys = keys("folders", 1);
    put(&open(&dir, 1 << 30), &keys);
    let inner = file(&dir, &keys[0]).parent().unwrap().to_path_buf();
    let rejected = |why: &str| {
        let (store, warnings) = open_counting(&dir, 1 << 30);
        assert_eq!((fetched(&store, &keys), store.statistics().blocks), (0, 0), "{why}");
        put(&store, &keys);
        assert_eq!(warnings.lock().unwrap().len(), 1, "{why}");
        assert!(warnings.lock().unwrap()[0].contains(why), "{:?}", warnings.lock().unwrap());
    };
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o770)).unwrap();
    rejected("chmod go-w");
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o700)).unwrap();
    fs::rename(&inner, &elsewhere).unwrap();
    symlink(&elsewhere, &inner).unwrap();
    rejected("is a link");
    fs::remove_file(&inner).unwrap();
    fs::rename(&elsewhere, &inner).unwrap();
    // Only root can give a folder away.
    if chown(&inner, Some(4321), None).is_ok() {
        rejected("belongs to user 4321");
        chown(&inner, Some(rustix::process::geteuid().as_raw()), None).unwrap();
        chown(&dir, Some(4321), None).unwrap();
        rejected("belongs to user 4321");
        chown(&dir, Some(rustix::process::geteuid().as_raw()), None).unwrap();
    }
    assert_eq!(fetched(&open(&dir, 1 << 30), &keys), 1);
}

/// Many threads at one store: whatever comes is right.
#[test]
fn threads_share_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open(folder.path(), 40 * ON_DISK));
    let threads = (0..4).map(|thread| {
        let store = store.clone();
        std::thread::spawn(move || {
            for round in 0..20 {
                let keys = keys(&format!("shared {}", (thread + round) % 6), 10);
                put(&store, &keys);
                fetched(&store, &keys);
            }
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    store.flush();
    assert!(store.statistics().bytes <= 40 * ON_DISK && store.statistics().hits > 0 && store.statistics().damaged == 0);
    assert_eq!(names(folder.path()).len() as u64, store.statistics().blocks);
}

#[test]
fn blocks_of_an_owner_are_removed_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let owners = [Owner([1; 16]), Owner([2; 16]), Owner::NOBODY];
    let of = |owner: Owner| -> Vec<_> {
        keys(&format!("{owner:?}"), 20).into_iter().map(|key| key.owned_by(owner)).collect()
    };
    let [gone, other, nobodys] = owners.map(of);
    assert_eq!(remove_owned(&folder.path().join("none"), |_| true).unwrap(), 0);
    let store = open(folder.path(), 1 << 30);
    for keys in [&gone, &other, &nobodys] {
        put(&store, keys);
        assert_eq!(fetched(&store, keys), 20);
    }
    // The same block of another owner is another one.
    assert!(!store.contains(&gone[0].owned_by(owners[1])) && !store.contains(&gone[0].owned_by(Owner::NOBODY)));
    let half = file(folder.path(), &gone[0]).with_extension(format!("{}.part", "a".repeat(32)));
    fs::write(&half, "half a block").unwrap();
    assert_eq!(remove_owned(folder.path(), |owner| *owner != owners[1]).unwrap(), 20);
    // The store that is open notices, and one that is opened finds the others.
    until("the blocks are gone", || gone.iter().all(|key| !store.contains(key)));
    assert_eq!([&gone, &other, &nobodys].map(|keys| fetched(&store, keys)), [0, 20, 20]);
    assert!(half.exists(), "what is being written is found when it is there");
    drop(store);
    let store = open(folder.path(), 1 << 30);
    assert_eq!((store.statistics().blocks, fetched(&store, &other)), (40, 20));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(remove_owned(folder.path(), |_| true).is_err(), "others may write there");
    }
}
