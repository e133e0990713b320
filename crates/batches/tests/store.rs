//! The store through its interface: what is kept over kills, what is nobody else's, and what directories of other programs' making do.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use farthing_batches::{
    Batch, Charge, Counts, Form, Input, Limits, Purpose, Record, Status, Store, StoreError, Written,
};
use proptest::prelude::*;

const NOW: u64 = 1_796_000_000;

fn id(prefix: &str, n: usize) -> String {
    format!("{prefix}{n:032x}")
}

fn open(root: &Path) -> Arc<Store> {
    Store::open(root, Limits::default()).unwrap()
}

fn upload(store: &Arc<Store>, owner: &str, n: usize, bytes: &[u8]) -> Result<String, StoreError> {
    let id = id("file-", n);
    let mut upload = store.upload(owner, &id)?;
    bytes.chunks(7).try_for_each(|piece| upload.write(piece))?;
    Ok(upload.finish(&id, "../../in put.jsonl", Purpose::Batch, (NOW, Some(NOW + 100)))?.id)
}

fn batch(owner: &str, n: usize, form: Form, input_file: &str) -> Batch {
    Batch {
        id: id("batch_", n),
        owner: owner.to_string(),
        key: None,
        form,
        endpoint: "/v1/chat/completions".to_string(),
        input_file: input_file.to_string(),
        window: "24h".to_string(),
        metadata: BTreeMap::new(),
        output_file: id("file-", 1000 + 2 * n),
        error_file: id("file-", 1001 + 2 * n),
        output_seconds: 50,
        status: Status::InProgress,
        errors: Vec::new(),
        counts: Counts::default(),
        serial: 0,
        created_at: NOW,
        expires_at: NOW + 86_400,
        in_progress_at: Some(NOW),
        finalizing_at: None,
        cancelling_at: None,
        ended_at: None,
    }
}

fn record(line: usize, ok: bool) -> Record {
    let charge = ok.then(|| Charge { request: format!("r-{line}"), hit: 1, miss: 2, output: 3, reasoning: 0 });
    Record { written: Written { line, ok, charge }, text: format!("{{\"custom_id\": \"{line}\"}}") }
}

fn text(store: &Store, owner: &str, id: &str) -> String {
    let content = store.content(owner, id).unwrap();
    String::from_utf8(content.read(0, usize::MAX).unwrap()).unwrap()
}

fn ended(batch: &mut Batch) {
    (batch.status, batch.ended_at) = (Status::Completed, Some(NOW));
}

#[test]
fn files_are_their_owners_and_stay() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("a/b");
    let store = open(&root);
    let file = upload(&store, "anna", 1, b"one\ntwo\n").unwrap();
    drop(store.upload("anna", &id("file-", 2)).unwrap());
    assert_eq!(std::fs::read_dir(root.join("new")).unwrap().count(), 0, "an upload that is dropped leaves nothing");
    // Two processes do not share it.
    assert!(matches!(Store::open(&root, Limits::default()), Err(StoreError::Locked(_))));
    drop(store);
    let store = open(&root);
    assert_eq!(text(&store, "anna", &file), "one\ntwo\n");
    assert_eq!(store.content("anna", &file).unwrap().read(4, 2).unwrap(), b"tw");
    assert_eq!(store.content("anna", &file).unwrap().read(80, 2).unwrap(), b"");
    assert_eq!(store.file("anna", &file).unwrap().name, "../../in put.jsonl");
    assert!(
        store.file("ben", &file).is_err() && store.delete_file("ben", &file).is_err() && store.files("ben").is_empty()
    );
    for bad in ["", ".", "..", "../file", "/etc/passwd", "file-", "file-..", &"x".repeat(1 << 20)] {
        assert!(matches!(store.content("anna", bad), Err(StoreError::Unknown { .. })), "{bad:.20}");
        assert!(store.upload("anna", bad).is_err() && store.lines(bad).is_err() && store.journal(bad).is_err());
    }
    // In the order in which they came, also after a start.
    (10..14).rev().for_each(|n| drop(upload(&store, "carl", n, b"").unwrap()));
    drop(store);
    let store = open(&root);
    upload(&store, "carl", 5, b"").unwrap();
    let order: Vec<String> = store.files("carl").into_iter().map(|file| file.id).collect();
    assert_eq!(order, [5, 10, 11, 12, 13].map(|n| id("file-", n)));
    order.iter().for_each(|id| store.delete_file("carl", id).unwrap());
    // Read while it is deleted.
    let content = store.content("anna", &file).unwrap();
    store.delete_file("anna", &file).unwrap();
    assert_eq!(content.read(0, 3).unwrap(), b"one");
    assert!(store.delete_file("anna", &file).is_err() && store.files("anna").is_empty());
    assert_eq!(store.sweep(NOW + 1000).unwrap(), 0);
    upload(&store, "anna", 3, b"x").unwrap();
    assert_eq!((store.sweep(NOW + 99).unwrap(), store.sweep(NOW + 100).unwrap()), (0, 1));
    assert_eq!(std::fs::read_dir(root.join("files")).unwrap().count(), 0);
}

#[test]
fn what_is_some_owners_goes_and_a_batch_under_way_stays_until_it_ends() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let [anna, bob] = ["anna", "bob"].map(|owner| upload(&store, owner, owner.len(), b"{}\n").unwrap());
    let created = store.create(batch("anna", 1, Form::OpenAi, &anna), Input::File).unwrap();
    assert_eq!(store.remove_owned(|owner| owner == "anna").unwrap(), 1);
    assert!(store.file("anna", &anna).is_err() && store.get(&created.id).is_ok());
    store.change(&created.id, ended).unwrap();
    assert_eq!(store.remove_owned(|owner| owner == "anna").unwrap(), 1);
    assert!(store.get(&created.id).is_err() && store.file("bob", &bob).is_ok());
    drop(store);
    let store = open(root.path());
    assert_eq!((store.files("anna").len(), store.files("bob").len()), (0, 1));
}

#[test]
fn every_limit_holds_and_room_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let (file_bytes, owner_bytes, bytes) = (10, 25, 50);
    let limits =
        Limits { file_bytes, owner_bytes, bytes, owner_files: 3, owner_batches: 1, entries: 5, ..Limits::default() };
    let store = Store::open(directory.path(), limits).unwrap();
    assert!(matches!(upload(&store, "anna", 1, &[b'x'; 11]), Err(StoreError::TooLarge { bytes_max: 10 })));
    (1..=2).for_each(|n| drop(upload(&store, "anna", n, &[b'x'; 10]).unwrap()));
    assert!(matches!(upload(&store, "anna", 3, &[b'x'; 6]), Err(StoreError::NoRoom { used: 20, most: 25, .. })));
    upload(&store, "anna", 3, &[b'x'; 5]).unwrap();
    assert!(matches!(upload(&store, "anna", 4, b""), Err(StoreError::Many { count: 3, .. })));
    upload(&store, "ben", 5, &[b'x'; 10]).unwrap();
    // Half of what the others leave.
    assert!(matches!(upload(&store, "carl", 6, &[b'x'; 10]), Err(StoreError::NoRoom { used: 7, most: 7, .. })));
    // What is on its way counts, and comes back.
    let mut on_its_way = store.upload("carl", &id("file-", 6)).unwrap();
    on_its_way.write(&[b'x'; 4]).unwrap();
    assert!(upload(&store, "dora", 7, &[b'x'; 6]).is_err());
    drop(on_its_way);
    upload(&store, "dora", 7, &[b'x'; 6]).unwrap();
    assert!(matches!(upload(&store, "emil", 8, b""), Err(StoreError::Many { count: 5, .. })));
    store.delete_file("anna", &id("file-", 1)).unwrap();
    // A batch counts its lines, one at a time.
    let first = batch("anna", 1, Form::OpenAi, &id("file-", 3));
    store.create(first.clone(), Input::File).unwrap();
    assert!(store.check_room("anna").is_ok());
    let (mut journal, _) = store.journal(&first.id).unwrap();
    journal.append(&[record(0, true)]).unwrap();
    store.count(&first.id, &journal, 1, 0);
    assert!(matches!(store.check_room("anna"), Err(StoreError::NoRoom { .. })));
    let second = batch("anna", 2, Form::OpenAi, &id("file-", 3));
    assert!(matches!(store.create(second, Input::File), Err(StoreError::Many { count: 1, .. })));
    store.finish(&first.id, NOW, |_| "{}".to_string(), ended).unwrap();
    store.delete_file("anna", &first.output_file).unwrap();
    assert!(store.check_room("anna").is_ok(), "an ended batch takes no room");
}

#[test]
fn batches_that_have_ended_have_a_bound_and_the_oldest_goes() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), Limits { owner_ended: 2, ..Limits::default() }).unwrap();
    let file = upload(&store, "anna", 1, b"a\n").unwrap();
    let made = |owner: &str, n: usize, input: Input<'_>| {
        let id = store.create(batch(owner, n, Form::OpenAi, &file), input).unwrap().id;
        store.finish(&id, NOW, |_| "{}".to_string(), ended).unwrap();
        id
    };
    let bens = made("ben", 1, Input::Lines(b"a\n"));
    let all: Vec<String> = (2..6).map(|n| made("anna", n, Input::File)).collect();
    // It goes when the next one comes.
    let left = [&all[3], &all[2], &all[1]].map(String::clone);
    assert_eq!(store.batch_ids("anna", Form::OpenAi), left);
    let running = store.create(batch("anna", 6, Form::OpenAi, &file), Input::File).unwrap();
    assert_eq!(store.batch_ids("anna", Form::OpenAi), [&running.id, &all[3], &all[2]].map(String::clone));
    assert_eq!(std::fs::read_dir(directory.path().join("batches")).unwrap().count(), 4);
    assert!(store.batch("ben", Form::OpenAi, &bens).is_ok() && store.unfinished() == [running.id]);
    assert_eq!(text(&store, "anna", &id("file-", 1001 + 2 * 2)), "{}\n", "results are files of their own");
}

#[test]
fn uploads_leave_some_of_the_disk_free() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let file = upload(&store, "anna", 1, b"a\n").unwrap();
    let running = store.create(batch("anna", 1, Form::OpenAi, &file), Input::File).unwrap();
    drop(store);
    let store = Store::open(directory.path(), Limits { disk_free: (u64::MAX, 100), ..Limits::default() }).unwrap();
    let full = |outcome: Result<(), StoreError>| {
        let error = outcome.unwrap_err();
        assert!(matches!(error, StoreError::DiskFull { .. }) && error.to_string().contains("bytes free"), "{error}");
    };
    full(upload(&store, "anna", 2, b"a\n").map(drop));
    full(store.create(batch("anna", 2, Form::OpenAi, &file), Input::File).map(drop));
    full(store.create(batch("anna", 3, Form::Anthropic, ""), Input::Lines(b"a\n")).map(drop));
    // What is under way goes on, in what is left.
    assert!(store.check_room("anna").is_ok());
    store.finish(&running.id, NOW, |_| "{}".to_string(), ended).unwrap();
    assert_eq!(std::fs::read_dir(directory.path().join("new")).unwrap().count(), 0);
}

#[test]
fn a_batch_goes_on_after_a_kill_and_ends_with_each_line_once() {
    let directory = tempfile::tempdir().unwrap();
    for (n, form) in [(1, Form::OpenAi), (2, Form::Anthropic)] {
        let store = open(directory.path());
        let file = upload(&store, "anna", n, b"a\n\nb\nc\nd").unwrap();
        let made = store.create(batch("anna", n, form, &file), Input::File).unwrap();
        assert!(store.create(batch("ben", 9, form, &file), Input::File).is_err(), "another's file");
        store.delete_file("anna", &file).unwrap();
        assert_eq!(store.unfinished(), std::slice::from_ref(&made.id));
        let (mut journal, before) = store.journal(&made.id).unwrap();
        assert_eq!(before, []);
        journal.append(&[record(2, true)]).unwrap();
        journal.append(&[record(0, false), record(4, true)]).unwrap();
        // Killed in the middle of a record, and before its results were in their place.
        let path = directory.path().join("batches").join(&made.id).join("journal");
        let whole = std::fs::read(&path).unwrap();
        for torn in ["{\"li", "{\"line\":3,\"ok\":true,\"charge\":null}\t{\"a\": 1}", "\0\0\0\n"] {
            std::fs::write(&path, [&whole, torn.as_bytes()].concat()).unwrap();
            let (journal, again) = store.journal(&made.id).unwrap();
            assert_eq!(again, [record(2, true), record(0, false), record(4, true)].map(|r| r.written));
            assert_eq!((journal.bytes(), std::fs::read(&path).unwrap()), (whole.len() as u64, whole.clone()));
        }
        drop(store);
        let store = open(directory.path());
        std::fs::create_dir_all(directory.path().join("files").join(&made.output_file)).unwrap();
        let rest = |line: &farthing_batches::Line| format!("{{\"rest\": {:?}}}", String::from_utf8_lossy(&line.bytes));
        let done = store.finish(&made.id, NOW, rest, ended).unwrap();
        assert_eq!((done.status, store.unfinished()), (Status::Completed, Vec::new()));
        let (answers, errors) =
            ("{\"custom_id\": \"2\"}\n{\"custom_id\": \"4\"}\n", "{\"custom_id\": \"0\"}\n{\"rest\": \"c\"}\n");
        if form == Form::OpenAi {
            assert_eq!(text(&store, "anna", &made.output_file), answers);
            assert_eq!(text(&store, "anna", &made.error_file), errors);
            assert!(store.results("anna", &made.id).is_err() && store.delete_batch("anna", &made.id).is_err());
            let output = store.file("anna", &made.output_file).unwrap();
            assert_eq!((output.purpose, output.expires_at), (Purpose::BatchOutput, Some(NOW + 50)));
            let second = store.create(batch("anna", 7, form, &made.output_file), Input::File);
            assert!(second.is_err(), "results are no input");
        } else {
            let results = store.results("anna", &made.id).unwrap().read(0, 1000).unwrap();
            let wanted = "{\"custom_id\": \"2\"}\n{\"custom_id\": \"0\"}\n{\"custom_id\": \"4\"}\n{\"rest\": \"c\"}\n";
            assert_eq!(String::from_utf8(results).unwrap(), wanted);
            assert!(store.results("ben", &made.id).is_err() && store.delete_batch("ben", &made.id).is_err());
        }
        // It has ended, whatever comes.
        assert_eq!(
            store.change(&made.id, |batch| batch.status = Status::Cancelling).unwrap().status,
            Status::Completed
        );
        drop(store);
        let store = open(directory.path());
        assert_eq!(store.batch("anna", form, &made.id).unwrap(), done);
        assert!(!path.exists() && store.batch("ben", form, &made.id).is_err());
        assert_eq!(std::fs::read_dir(directory.path().join("new")).unwrap().count(), 0);
    }
    let store = open(directory.path());
    assert_eq!(store.sweep(NOW + 31 * 86_400).unwrap(), 4, "two batches, and results of one");
    assert_eq!(std::fs::read_dir(directory.path().join("batches")).unwrap().count(), 0);
}

#[test]
fn results_that_are_put_together_twice_are_there_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let file = upload(&store, "anna", 1, b"a\nb").unwrap();
    let made = store.create(batch("anna", 1, Form::OpenAi, &file), Input::File).unwrap();
    let (mut journal, _) = store.journal(&made.id).unwrap();
    journal.append(&[record(0, true)]).unwrap();
    let lines = directory.path().join("batches").join(&made.id);
    let kept: Vec<_> =
        ["input", "journal", "batch.json"].map(|name| (name, std::fs::read(lines.join(name)).unwrap())).into();
    store.finish(&made.id, NOW, |_| "{\"rest\": 1}".to_string(), ended).unwrap();
    drop(store);
    // As a kill after the results and before the end leaves it.
    kept.iter().for_each(|(name, bytes)| std::fs::write(lines.join(name), bytes).unwrap());
    let store = open(directory.path());
    assert_eq!(store.unfinished(), std::slice::from_ref(&made.id));
    store.finish(&made.id, NOW, |_| "{\"rest\": 1}".to_string(), ended).unwrap();
    assert_eq!(text(&store, "anna", &made.output_file), "{\"custom_id\": \"0\"}\n");
    assert_eq!(text(&store, "anna", &made.error_file), "{\"rest\": 1}\n");
    assert_eq!(store.files("anna").len(), 3);
}

#[test]
fn a_journal_that_is_damaged_inside_is_told_and_not_cut() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let made = store.create(batch("anna", 1, Form::Anthropic, ""), Input::Lines(b"a\nb\nc\n")).unwrap();
    let (mut journal, _) = store.journal(&made.id).unwrap();
    journal.append(&[record(0, true), record(1, true), record(2, true)]).unwrap();
    let path = directory.path().join("batches").join(&made.id).join("journal");
    let whole = std::fs::read_to_string(&path).unwrap();
    let twice = whole.replacen("\"line\":1", "\"line\":0", 1);
    for damaged in [whole.replacen("\"line\":1", "\"lime\":1", 1), twice, format!("\n{whole}")] {
        std::fs::write(&path, &damaged).unwrap();
        assert!(matches!(store.journal(&made.id), Err(StoreError::Damaged { .. })), "{damaged}");
        assert!(store.finish(&made.id, NOW, |_| "{}".to_string(), ended).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
    }
}

#[test]
fn directories_of_others_making_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let file = upload(&store, "anna", 1, b"a").unwrap();
    let made = store.create(batch("anna", 1, Form::OpenAi, &file), Input::File).unwrap();
    let json = |path: &str| std::fs::read_to_string(directory.path().join(path)).unwrap();
    let (good_file, good_batch) =
        (json(&format!("files/{file}/file.json")), json(&format!("batches/{}/batch.json", made.id)));
    drop(store);
    let hostile = |good: &str| {
        [
            String::new(),
            "[".repeat(1 << 18),
            "null".to_string(),
            good[..good.len() / 2].to_string(),
            good.replacen("\"owner\":\"anna\"", "\"owner\":7", 1),
            good.replacen("0000", "..//", 1),
            " ".repeat(2 << 20) + good,
        ]
    };
    for (n, text) in hostile(&good_file).into_iter().enumerate() {
        let path = directory.path().join("files").join(id("file-", 50 + n));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("file.json"), text).unwrap();
        std::fs::write(path.join("data"), "a").unwrap();
    }
    let paths = good_batch.replacen(&made.output_file, "../../x", 1);
    for (n, text) in hostile(&good_batch).into_iter().chain([paths]).enumerate() {
        let path = directory.path().join("batches").join(id("batch_", 50 + n));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("batch.json"), text.replace(&made.id, &id("batch_", 50 + n))).unwrap();
    }
    std::fs::write(directory.path().join("files").join("stray"), "x").unwrap();
    std::fs::write(directory.path().join("batches").join(id("batch_", 99)), "a file").unwrap();
    let store = open(directory.path());
    assert_eq!((store.files("anna").len(), store.unfinished()), (1, vec![made.id]));
    assert_eq!(std::fs::read_dir(directory.path().join("files")).unwrap().count(), 9);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever a kill leaves of the last append, all before it is there and can be gone on with.
    #[test]
    fn a_journal_that_is_cut_anywhere_is_a_shorter_one(count in 1_usize..6, cut in 0_usize..400) {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let made = store.create(batch("anna", 1, Form::Anthropic, ""), Input::Lines(b"a\n")).unwrap();
        let (mut journal, _) = store.journal(&made.id).unwrap();
        let records: Vec<Record> = (0..count).map(|line| record(line, line % 2 == 0)).collect();
        journal.append(&records).unwrap();
        let path = directory.path().join("batches").join(&made.id).join("journal");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..cut.min(whole.len())]).unwrap();
        let (mut journal, left) = store.journal(&made.id).unwrap();
        prop_assert_eq!(&left[..], &records[..left.len()].iter().map(|r| r.written.clone()).collect::<Vec<_>>()[..]);
        prop_assert_eq!(left.len(), whole[..cut.min(whole.len())].iter().filter(|b| **b == b'\n').count());
        journal.append(&records[left.len()..]).unwrap();
        prop_assert_eq!(std::fs::read(&path).unwrap(), whole);
    }
}
