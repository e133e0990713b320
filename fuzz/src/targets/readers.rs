//! Files of a corpus, text, JSON lines, CSV, WARC or a page, plain or compressed: whole and in parts the same documents come out. The first byte says what
//! the rest is taken for.
use std::cell::RefCell;
use std::path::PathBuf;

use data::Error;
use data::part::Part;
use data::readers::{self, Item};
use data::source::Source;
use serde_json::json;

/// A file that is written anew for each input.
pub struct Scratch {
    _folder: tempfile::TempDir,
    /// Where it is.
    pub file: PathBuf,
}

impl Scratch {
    /// A folder of its own.
    pub fn new(name: &str) -> Scratch {
        let folder = tempfile::tempdir().expect("a folder");
        Scratch { file: folder.path().join(name), _folder: folder }
    }

    /// The file as one part.
    pub fn part(&self, data: &[u8]) -> Part {
        std::fs::write(&self.file, data).expect("a writable file");
        let bytes = data.len() as u64;
        Part {
            source: 0,
            name: "f".into(),
            file: self.file.clone().into(),
            range: 0..u64::MAX,
            bytes,
            small_files: Vec::new(),
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Option<Scratch>> = const { RefCell::new(None) };
}

/// Settings of the source, by the first byte.
fn source(first: u8) -> Option<Source> {
    let settings = match first {
        b't' => json!({"format": "text"}),
        b'u' => json!({"format": "text", "encoding": "utf-8"}),
        b's' => json!({"format": "text", "separator": "--", "document_bytes_max": 200}),
        b'j' => json!({"format": "jsonl", "id": "id", "keep": ["a", "b.c"], "document_bytes_max": 200}),
        b'm' => json!({"format": "jsonl", "messages": "messages"}),
        b'l' => json!({"format": "jsonl", "text": "{a}: {b.c}", "encoding": "windows-1252"}),
        b'c' => json!({"format": "csv", "id": "id", "keep": ["a", "b.c"], "document_bytes_max": 200}),
        b'v' => json!({"format": "tsv", "text": "{a}: {b.c}", "encoding": "windows-1252"}),
        b'w' => json!({"format": "warc"}),
        b'h' => json!({"format": "html"}),
        _ => return None,
    };
    let mut all = json!({"name": "s", "files": ["f"]});
    all.as_object_mut().expect("an object").extend(settings.as_object().expect("an object").clone());
    let source: Source = serde_json::from_value(all).expect("settings of a source");
    source.check().expect("settings that can be");
    Some(source)
}

/// Ids and texts, and places of damage.
fn read(source: &Source, part: &Part) -> Vec<String> {
    let mut found = Vec::new();
    readers::read(source, part, &mut |item| {
        found.push(match item {
            Item::Document(document) => format!("{}\n{}", document.id, document.text()),
            Item::Damaged(damaged) => format!("{} {}", damaged.place, damaged.problem),
            Item::PassedOver(kind) => kind,
        });
        Ok(())
    })
    .or_else(|error| match error {
        // A file that is nothing like what its source says.
        Error::File { problem, .. } => {
            found.push(format!(" first {problem}"));
            Ok(())
        }
        error => Err(error),
    })
    .expect("a file that can be read");
    found
}

/// Runs the target on one input.
pub fn run(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let Some(source) = source(*first) else { return };
    SCRATCH.with_borrow_mut(|scratch| {
        let mut part = scratch.get_or_insert_with(|| Scratch::new("f")).part(rest);
        let whole = read(&source, &part);
        let plain = !rest.starts_with(&[0x1f, 0x8b])
            && !rest.starts_with(&[0x28, 0xb5])
            && rest.get(1..4) != Some(&[0x2a, 0x4d, 0x18]);
        // No part of a file is without a byte, but of one that has none, which is told as such.
        let plain = plain && rest.len() > 1;
        if plain && whole.iter().all(|item| !item.contains(" first")) && matches!(first, b's' | b'j' | b'm' | b'l') {
            let middle = rest.len() as u64 / 2;
            part.range = 0..middle;
            let mut parts = read(&source, &part);
            part.range = middle..u64::MAX;
            parts.extend(read(&source, &part));
            assert_eq!(parts, whole);
        }
    });
}
