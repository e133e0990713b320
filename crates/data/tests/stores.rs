//! Sources in an object store give the documents of the same files, and what a store does wrong is an error

mod bucket;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bucket::{Folders, compressed_corpus};
use bytes::Bytes;
use farthing_data::part::{self, Part};
use farthing_data::readers::{self, Item};
use farthing_data::source::Source;
use farthing_data::store::{Folder, Object, Store, Stores};

fn source(files: &str) -> Source {
    let source: Source = toml::from_str(&format!("name = \"s\"\nfiles = [{files:?}]")).unwrap();
    source.check().unwrap();
    source
}

fn parts(files: &str, base: &Path, stores: Option<&dyn Stores>, part_bytes: u64) -> Result<Vec<Part>, String> {
    let (source, mut parts) = (source(files), Vec::new());
    for file in source.files(base, stores).map_err(|e| e.to_string())? {
        part::of_file(0, &source, file, part_bytes, &mut parts).map_err(|e| e.to_string())?;
    }
    Ok(parts)
}

/// Ids without the file's folder, and texts; places of damage.
fn read(files: &str, parts: &[Part]) -> Result<Vec<String>, String> {
    let (source, mut found) = (source(files), Vec::new());
    for part in parts {
        readers::read(&source, part, &mut |item| {
            found.push(match item {
                Item::Document(document) => {
                    format!("{} {}", document.id.rsplit('/').next().unwrap(), document.text())
                }
                Item::Damaged(damaged) => format!("{} {}", damaged.place.rsplit('/').next().unwrap(), damaged.problem),
                Item::PassedOver(kind) => kind,
            });
            Ok(())
        })
        .map_err(|e| e.to_string())?;
    }
    Ok(found)
}

#[test]
fn every_format_and_compression_reads_the_same_from_a_store() {
    let folder = tempfile::tempdir().unwrap();
    compressed_corpus(&folder.path().join("corpus/a b"));
    let stores = Folders::new(folder.path());
    let mut read_in_all = 0;
    for ending in [
        "*.txt",
        "*.txt.gz",
        "*.jsonl",
        "*.jsonl.gz",
        "*.jsonl.zst",
        "*.parquet",
        "*.warc.gz",
        "*.html",
        "*/deep.jsonl",
        "**/*.jsonl",
    ] {
        // Whole, and in parts that begin in the middle of lines.
        for part_bytes in [u64::MAX, 700_000] {
            let local = format!("corpus/a b/{ending}");
            let local = read(&local, &parts(&local, folder.path(), None, part_bytes).unwrap()).unwrap();
            let url = format!("s3://corpus/a b/{ending}");
            let parts = parts(&url, Path::new("nowhere"), Some(&stores), part_bytes).unwrap();
            assert!(parts[0].name.starts_with("s3://corpus/a b/"), "{}", parts[0].name);
            let stored = read(&url, &parts).unwrap();
            assert!(!local.is_empty() && stored == local, "{ending}: {} and {}", stored.len(), local.len());
            read_in_all += local.len();
        }
    }
    assert!(read_in_all > 5000, "{read_in_all}");
}

#[test]
fn globs_of_keys_match_as_globs_of_paths_do() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b/x.txt", "a/2.txt", "a/10.txt", "a/deep/er/3.txt", "a/.hidden.txt", "a/no.md", "a/folder", "Z.txt"] {
        let path = folder.path().join("corpus").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, if name == "a/folder" { "" } else { name }).unwrap();
    }
    let stores = Folders::new(folder.path());
    let names = |glob: &str| {
        let files = source(&format!("s3://corpus/{glob}")).files(Path::new("."), Some(&stores));
        let strip = |name: String| name.strip_prefix("s3://corpus/").unwrap().to_string();
        files.map(|files| files.into_iter().map(|file| strip(file.name)).collect::<Vec<_>>()).map_err(|e| e.to_string())
    };
    assert_eq!(names("a/*.txt").unwrap(), ["a/10.txt", "a/2.txt"]);
    assert_eq!(names("**/*.txt").unwrap(), ["Z.txt", "a/10.txt", "a/2.txt", "a/deep/er/3.txt", "b/x.txt"]);
    assert_eq!(names("a/{2,10}.txt").unwrap(), ["a/10.txt", "a/2.txt"]);
    assert_eq!(names("a/.*.txt").unwrap(), ["a/.hidden.txt"]);
    assert_eq!(names("b/x.txt").unwrap(), ["b/x.txt"]);
    // An object that stands for a folder is no document.
    assert_eq!(names("a/*").unwrap(), ["a/10.txt", "a/2.txt", "a/no.md"]);
    let error = names("a/*.jsonl").unwrap_err();
    assert!(error.starts_with("s3://corpus/a/*.jsonl: no such file, which source s needs"), "{error}");
}

#[test]
fn globs_that_cannot_be_are_refused_with_the_recipe() {
    for wrong in ["s3://corpus", "s3://corpus/", "s3://*/a", "gs://corpus/a", "s3://corpus/a/[x", "s3://corpus/*/../a"]
    {
        let source: Source = toml::from_str(&format!("name = \"s\"\nfiles = [{wrong:?}]")).unwrap();
        assert!(source.check().is_err(), "{wrong}");
    }
    let error = source("s3://corpus/*.txt").files(Path::new("."), None).unwrap_err().to_string();
    assert!(error.starts_with("s3://corpus/*.txt: ") && error.contains("--features stores"), "{error}");
}

/// A store with faults.
#[derive(Debug)]
struct Faulty {
    folder: Folder,
    /// Keys that it lists besides.
    keys: Vec<String>,
    /// Sizes that it lists in the place of the true ones.
    bytes: Option<u64>,
    /// Whether its list has no end.
    endless: bool,
}

impl Store for Faulty {
    fn list(&self, folder: &str, found: &mut dyn FnMut(Object) -> io::Result<()>) -> io::Result<()> {
        let object = |key: String| Object { key, bytes: 5, version: "1".into() };
        self.keys.iter().try_for_each(|key| found(object(key.clone())))?;
        let endless = if self.endless { u64::MAX } else { 0 };
        (0..endless).try_for_each(|number| found(object(format!("{folder}{number}.md"))))?;
        self.folder.list(folder, &mut |object| found(Object { bytes: self.bytes.unwrap_or(object.bytes), ..object }))
    }

    fn look_up(&self, key: &str) -> io::Result<Option<Object>> {
        self.folder.look_up(key)
    }

    fn read(&self, object: &Object, range: Range<u64>) -> io::Result<Bytes> {
        let now = self.folder.look_up(&object.key)?.ok_or(io::ErrorKind::NotFound)?;
        assert!(range.start < object.bytes && range.end <= object.bytes);
        self.folder.read(&now, 0..now.bytes)
    }

    fn put(&self, _: &str, _: &Path) -> io::Result<()> {
        unreachable!("sources are not written")
    }

    fn delete(&self, _: &str) -> io::Result<()> {
        unreachable!("sources are not deleted")
    }
}

struct One(Arc<Faulty>);

impl Stores for One {
    fn open(&self, _: &str) -> io::Result<Arc<dyn Store>> {
        Ok(self.0.clone())
    }
}

fn faulty(folder: &Path) -> Faulty {
    Faulty { folder: Folder::new(folder), keys: Vec::new(), bytes: None, endless: false }
}

#[test]
fn what_a_store_lists_is_not_trusted() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), "12345").unwrap();
    let error = |store: Faulty| {
        let stores = One(Arc::new(store));
        let found = parts("s3://corpus/**/*.txt", Path::new("."), Some(&stores), u64::MAX);
        found.and_then(|parts| read("s3://corpus/**/*.txt", &parts)).unwrap_err()
    };
    for key in ["a//b.txt", "a/\u{1b}[31m.txt", &format!("{}.txt", "a".repeat(1100))] {
        let told = error(Faulty { keys: vec![key.into()], ..faulty(folder.path()) });
        assert!(told.starts_with("s3://corpus/") && told.contains("a key") && !told.contains('\u{1b}'), "{told}");
    }
    // Below folders whose names begin with a dot nothing is looked for.
    let keys = vec!["a/../b.txt".into(), "./a.txt".into(), "../../etc/a.txt".into()];
    let stores = One(Arc::new(Faulty { keys, ..faulty(folder.path()) }));
    assert_eq!(parts("s3://corpus/**/*.txt", Path::new("."), Some(&stores), u64::MAX).unwrap()[0].files().count(), 1);
    let told = error(Faulty { endless: true, ..faulty(folder.path()) });
    assert!(told.contains("more than 4000000 objects; name a folder further down"), "{told}");
    // A size that is not that of the bytes.
    for bytes in [4, 6, 1 << 50] {
        let told = error(Faulty { bytes: Some(bytes), ..faulty(folder.path()) });
        assert!(told.starts_with("s3://corpus/a.txt: 5 bytes came instead of"), "{told}");
    }
    assert_eq!(read("*.txt", &parts("*.txt", folder.path(), None, u64::MAX).unwrap()).unwrap(), ["a.txt#0 12345"]);
}

#[test]
fn a_store_that_fails_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    compressed_corpus(&folder.path().join("corpus"));
    for ending in
        ["*.txt", "*.txt.gz", "*.jsonl", "*.jsonl.gz", "*.jsonl.zst", "*.parquet", "*.warc.gz", "*.html", "*.csv"]
    {
        let url = format!("s3://corpus/{ending}");
        let stores = Failing { folder: Folder::new(folder.path().join("corpus")), whole: AtomicUsize::new(usize::MAX) };
        let stores = Arc::new(stores);
        let opened = FailingStores(stores.clone());
        let parts = parts(&url, Path::new("."), Some(&opened), u64::MAX).unwrap();
        assert!(!read(&url, &parts).unwrap().is_empty());
        // From the first request on, or after the first.
        for whole in [0, 1] {
            stores.whole.store(whole, Ordering::Relaxed);
            match read(&url, &parts) {
                Err(told) => assert!(told.contains("s3://corpus/") && told.ends_with("the network is gone"), "{told}"),
                Ok(_) => assert!(whole == 1 && parts.len() == 1 && parts[0].bytes <= 4 << 20, "{ending}"),
            }
        }
        stores.whole.store(usize::MAX, Ordering::Relaxed);
    }
}

/// A store that answers so many requests and no more.
#[derive(Debug)]
struct Failing {
    folder: Folder,
    whole: AtomicUsize,
}

impl Store for Failing {
    fn list(&self, folder: &str, found: &mut dyn FnMut(Object) -> io::Result<()>) -> io::Result<()> {
        self.folder.list(folder, found)
    }

    fn look_up(&self, key: &str) -> io::Result<Option<Object>> {
        self.folder.look_up(key)
    }

    fn read(&self, object: &Object, range: Range<u64>) -> io::Result<Bytes> {
        let left = self.whole.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        // An error that readers of compressed files take for damage, if it is not told apart.
        left.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the network is gone"))?;
        self.folder.read(object, range)
    }

    fn put(&self, _: &str, _: &Path) -> io::Result<()> {
        unreachable!("sources are not written")
    }

    fn delete(&self, _: &str) -> io::Result<()> {
        unreachable!("sources are not deleted")
    }
}

struct FailingStores(Arc<Failing>);

impl Stores for FailingStores {
    fn open(&self, _: &str) -> io::Result<Arc<dyn Store>> {
        Ok(self.0.clone())
    }
}

#[test]
fn an_object_that_was_changed_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = folder.path().join("corpus");
    compressed_corpus(&bucket);
    let stores = Folders::new(folder.path());
    for ending in ["*.jsonl", "*.parquet"] {
        let url = format!("s3://corpus/{ending}");
        let parts = parts(&url, Path::new("."), Some(&stores), u64::MAX).unwrap();
        let version = parts[0].file.version().unwrap();
        let path = bucket.join(parts[0].name.rsplit('/').next().unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.push(b'\n');
        std::fs::write(&path, bytes).unwrap();
        let error = read(&url, &parts).unwrap_err();
        assert!(error.contains("s3://corpus/") && error.contains("was changed while it was read"), "{error}");
        // The next run is another one.
        let again = self::parts(&url, Path::new("."), Some(&stores), u64::MAX).unwrap();
        assert!(again[0].file.version().unwrap() != version);
    }
}
