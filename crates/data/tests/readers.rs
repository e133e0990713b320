//! Readers over files: whatever is in them, each record comes once, damage is told with its place, and parts together are the whole.

use std::path::Path;

use farthing_data::part::{self, Part};
use farthing_data::readers::{self, Damaged, Item};
use farthing_data::source::Source;
use farthing_data::{Document, Error};
use proptest::prelude::*;

fn source(settings: &str) -> Source {
    let source: Source = toml::from_str(&format!("name = \"s\"\n{settings}")).unwrap();
    source.check().unwrap();
    source
}

/// Reads a file in parts of so many bytes.
fn read_parts(folder: &Path, source: &Source, part_bytes: u64) -> (Vec<Document>, Vec<Damaged>) {
    try_read_parts(folder, source, part_bytes).unwrap()
}

fn try_read_parts(
    folder: &Path,
    source: &Source,
    part_bytes: u64,
) -> Result<(Vec<Document>, Vec<Damaged>), farthing_data::Error> {
    let (mut documents, mut damaged, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    for file in source.files(folder, None).unwrap() {
        part::of_file(0, source, file, part_bytes, &mut parts).unwrap();
    }
    for part in &parts {
        readers::read(source, part, &mut |item| {
            match item {
                Item::Document(document) => documents.push(document),
                Item::Damaged(place) => damaged.push(place),
                Item::PassedOver(kind) => assert_eq!(kind, "empty file"),
            }
            Ok(())
        })?;
    }
    Ok((documents, damaged))
}

fn read(name: &str, bytes: &[u8], settings: &str) -> (Vec<Document>, Vec<Damaged>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), bytes).unwrap();
    read_parts(folder.path(), &source(&format!("files = [{name:?}]\n{settings}")), u64::MAX / 2)
}

fn texts(documents: &[Document]) -> Vec<&str> {
    documents.iter().map(Document::text).collect()
}

fn problems(damaged: &[Damaged]) -> Vec<(&str, &str)> {
    damaged.iter().map(|d| (d.place.as_str(), d.problem.as_str())).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An empty file is judged the same in every format, compressed or not.
#[test]
fn an_empty_file_is_passed_over() {
    let names =
        ["a.txt", "b.jsonl", "c.csv", "d.tsv", "e.parquet", "f.warc", "g.html", "h.jsonl.gz"].map(|name| (name, ""));
    let nothing = gzip(b"");
    let zipped = ["a.txt", "b.jsonl", "c.csv", "d.tsv", "f.warc", "g.html"].map(|name| (name, "zipped"));
    let separated = [("a.txt", "separator = \"%\"")];
    for (name, how) in names.into_iter().chain(zipped).chain(separated) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), if how.is_empty() { &b""[..] } else { &nothing }).unwrap();
        let settings = if how == "zipped" { "" } else { how };
        let source = source(&format!("files = [\"*\"]\n{settings}"));
        let mut found = Vec::new();
        for part in part::of(std::slice::from_ref(&source), folder.path(), None).unwrap() {
            readers::read(&source, &part, &mut |item| {
                found.push(format!("{item:?}"));
                Ok(())
            })
            .unwrap();
        }
        assert_eq!(found, ["PassedOver(\"empty file\")"], "{name} {how}");
    }
}

/// JSON lines by the ending `.json` too; an array is told with what to do.
#[test]
fn files_that_end_in_json_are_json_lines() {
    let (documents, damaged) = read("a.json", b"{\"text\": \"one\"}\n{\"text\": \"two\"}\n", "");
    assert_eq!((texts(&documents), damaged.len()), (vec!["one", "two"], 0));
    for array in ["[{\"text\": \"one\"}]", "\u{feff}[\n  {\n    \"text\": \"one\"}\n]\n"] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.json"), array).unwrap();
        let source = source("files = [\"a.json\"]");
        let parts = part::of(std::slice::from_ref(&source), folder.path(), None).unwrap();
        let error = readers::read(&source, &parts[0], &mut |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("a.json: a JSON array") && error.contains("jq -c"), "{error}");
    }
}

#[test]
fn a_text_file_is_a_document() {
    let (documents, damaged) = read("a.txt", "One.\n\nTwo Ä.\n".as_bytes(), "");
    assert_eq!(texts(&documents), ["One.\n\nTwo Ä.\n"]);
    assert_eq!((documents[0].id.as_str(), damaged.len()), ("s/a.txt#0", 0));
    let (_, damaged) = read("a.txt", b"too long", "document_bytes_max = 5");
    assert!(damaged[0].problem.contains("document_bytes_max = 5"), "{damaged:?}");
    let (documents, _) = read("a.txt", b"sch\xf6n, \xfcber", "");
    assert_eq!((documents[0].text(), &documents[0].labels["encoding"]), ("schön, über", &"windows-1252".into()));
    let (_, damaged) = read("a.txt", b"sch\xf6n", "encoding = \"utf-8\"");
    assert_eq!(problems(&damaged), [("a.txt", "no UTF-8 at byte 3")]);
    assert_eq!(damaged[0].excerpt, "sch\u{fffd}n");
}

#[test]
fn a_line_separates_documents() {
    let text = "<|end|>\nOne.\n\n1\n<|end|>\r\n<|end|> not\nTwo.\r\n<|end|>\n\n <|end|>\n<|end|>\nThree.";
    let (documents, damaged) = read("a.txt", text.as_bytes(), "separator = \"<|end|>\"");
    assert_eq!(texts(&documents), ["One.\n\n1", "<|end|> not\nTwo.", "\n <|end|>", "Three."]);
    assert!(damaged.is_empty());
    for document in &documents {
        let (_, begin) = document.id.rsplit_once('#').unwrap();
        assert!(text[begin.parse::<usize>().unwrap()..].starts_with(document.text()), "{}", document.id);
    }
    let long = format!("a\n---\nb\n{}\nc\n---\nd", "x".repeat(100));
    let (documents, damaged) = read("a.txt", long.as_bytes(), "separator = \"---\"\ndocument_bytes_max = 50");
    assert_eq!(texts(&documents), ["a", "d"]);
    assert_eq!(problems(&damaged), [("a.txt:3", "a text of 104 bytes, over document_bytes_max = 50")]);
    assert_eq!(damaged[0].excerpt, "b\n");
    let utf_16: Vec<u8> = "\u{feff}a\n---\nb".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let (documents, damaged) = read("a.txt", &utf_16, "separator = \"---\"");
    assert!(documents.is_empty() && damaged[0].problem.starts_with("UTF-16"));
}

/// The error of reading lines in parts of so many bytes; none if they can be read.
fn error_of(lines: &[String], settings: &str, part_bytes: u64) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.jsonl"), lines.join("\n")).unwrap();
    let source = source(&format!("files = [\"a.jsonl\"]\n{settings}"));
    let mut parts = Vec::new();
    for file in source.files(folder.path(), None).unwrap() {
        part::of_file(0, &source, file, part_bytes, &mut parts).unwrap();
    }
    let read = |part: &Part| readers::read(&source, part, &mut |_| Ok(()));
    parts.iter().find_map(|part| read(part).err()).map(|error| error.to_string())
}

#[test]
fn a_file_whose_first_records_all_lack_a_field_ends_the_reading() {
    let lines = |count: usize, line: &str| vec![line.to_string(); count];
    let wrong = lines(1000, "{\"body\": \"x\", \"n\": 1}");
    let error = error_of(&wrong, "", u64::MAX / 2).unwrap();
    assert!(error.contains("a.jsonl: none of its first 1000 records is a document"), "{error}");
    assert!(error.contains("a.jsonl:1: no field \"text\"; the record has fields body, n"), "{error}");
    assert!(error.ends_with("say in the recipe which fields are `text`, `id` or `messages`"), "{error}");
    let error = error_of(&lines(1000, "{\"text\": 5}"), "", u64::MAX / 2).unwrap();
    assert!(error.contains("field \"text\" is a number, not text"), "{error}");
    let error = error_of(&lines(1000, "text"), "", u64::MAX / 2).unwrap();
    assert!(error.contains("no JSON") && error.ends_with("which `format` it has"), "{error}");

    let with = |at: usize, line: &str| {
        let mut lines = wrong.clone();
        lines.insert(at, line.into());
        lines
    };
    assert!(error_of(&with(999, ""), "", u64::MAX / 2).is_some(), "empty lines are no records");
    for (lines, why) in [
        (wrong[..999].to_vec(), "too few"),
        (with(0, "{\"text\": \"good\"}"), "one is good"),
        (with(999, "{\"text\": \"good\"}"), "one is good"),
        (with(500, "no json"), "not the same damage"),
        (lines(1500, "{\"text\": \"far too long a text\"}"), "a document, but for a limit"),
    ] {
        assert_eq!(error_of(&lines, "document_bytes_max = 12", u64::MAX / 2), None, "{why}");
    }
    // What comes before the first part that lacks it may be good.
    let good_first = [lines(500, "{\"text\": \"good\"}"), wrong.clone(), wrong].concat();
    assert_eq!(error_of(&good_first, "", 24_000), None);
}

#[test]
fn damaged_lines_of_json_are_told_and_passed_over() {
    let lines: [&[u8]; 12] = [
        b"\xef\xbb\xbf{\"text\": \"one\"}\r",
        b"",
        b"{\"text\": \"tw",
        b"{\"text\": \"caf\xe9\"}",
        b"[\"text\"]",
        b"{\"body\": \"x\", \"n\": {\"text\": 1}}",
        b"{\"text\": 5}",
        b"{\"text\": \"a\", \"text\": \"b\"}",
        b"{\"text\": \"x\"} {}",
        b"{\"n\": [[[1,{}]]], \"text\": \"two\\u00e4\"}",
        b"{\"text\": \"\\ud800\"}",
        b"{\"text\": \"three\", \"number\": 1e999}",
    ];
    let (documents, damaged) = read("a.jsonl", &lines.join(&b'\n'), "");
    assert_eq!(texts(&documents), ["one", "twoä", "three"]);
    let expected = [
        ("a.jsonl:3", "no JSON: EOF while parsing a string at column 12"),
        ("a.jsonl:4", "no UTF-8 at byte 13"),
        ("a.jsonl:5", "invalid type: sequence, expected an object with fields at column 0"),
        ("a.jsonl:6", "no field \"text\"; the record has fields body, n"),
        ("a.jsonl:7", "field \"text\" is a number, not text"),
        ("a.jsonl:8", "field \"text\" is there twice at column 26"),
        ("a.jsonl:9", "no JSON: trailing characters at column 15"),
        ("a.jsonl:11", "no JSON: unexpected end of hex escape at column 17"),
    ];
    for (found, expected) in problems(&damaged).iter().zip(expected) {
        assert_eq!(*found, expected);
    }
    assert_eq!(damaged.len(), expected.len());
    assert_eq!(damaged[3].excerpt, "{\"body\": \"x\", \"n\": {\"text\": 1}}");
    let (documents, _) = read("a.jsonl", b"{\"text\": \"caf\xe9\"}", "encoding = \"latin1\"");
    assert_eq!(texts(&documents), ["café"]);
}

#[test]
fn a_giant_line_is_passed_over_and_counted() {
    let giant = format!("{{\"text\": \"one\"}}\n{{\"text\": \"{}\"}}\n{{\"text\": \"two\"}}", "x".repeat(3_000_000));
    let (documents, damaged) = read("a.jsonl", giant.as_bytes(), "document_bytes_max = 1000");
    assert_eq!(texts(&documents), ["one", "two"]);
    assert_eq!(problems(&damaged), [("a.jsonl:2", "a line of 3000012 bytes, over 4000 (4 times document_bytes_max)")]);
    // Nested as deep as a stack would be.
    let deep =
        format!("{{\"text\": \"a\", \"other\": {}}}\n{{\"text\": {0}}}\n{{\"text\": \"b\"}}", "[".repeat(200_000));
    let (documents, damaged) = read("a.jsonl", deep.as_bytes(), "");
    assert_eq!((texts(&documents), damaged.len()), (vec!["b"], 2));
}

#[test]
fn compressed_files_are_read_up_to_their_damage_and_after_it() {
    let record = |n: usize| format!("{{\"text\": \"record {n}\"}}\n");
    let member = |range: std::ops::Range<usize>| gzip(range.map(record).collect::<String>().as_bytes());
    let mut damaged_member = member(2000..9000);
    let middle = damaged_member.len() / 2;
    damaged_member[middle..middle + 50].fill(0xff);
    let bytes = [member(0..2000), damaged_member, member(9000..9100)].concat();
    let (documents, damaged) = read("a.jsonl.gz", &bytes, "");
    let texts = texts(&documents);
    assert!(texts.len() > 2100 && texts.contains(&"record 0") && texts.contains(&"record 9099"), "{}", texts.len());
    assert!(damaged.iter().any(|d| d.problem.starts_with("compressed data is damaged")), "{damaged:?}");
    let whole = member(0..100);
    let (documents, damaged) = read("a.jsonl", &whole[..whole.len() - 5], "");
    assert_eq!((documents.len(), problems(&damaged)), (100, vec![("a.jsonl:100", "the compressed file is cut off")]));
    let (_, damaged) = read("a.jsonl", b"PK\x03\x04 a zip", "");
    assert_eq!(problems(&damaged), [("a.jsonl", "a zip archive; `unzip` it first")]);
    let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(b'\n'), 1 << 28), 1).unwrap();
    let (documents, damaged) = read("a.jsonl.zst", &bomb, "");
    assert!(documents.is_empty() && damaged[0].problem.contains("expansion_max = 250"), "{damaged:?}");
}

#[test]
fn what_emit_refuses_ends_the_reading() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.jsonl"), "{\"text\": \"a\"}\n{\"text\": \"b\"}\n").unwrap();
    let source = source("files = [\"*.jsonl\"]");
    let parts = part::of(std::slice::from_ref(&source), folder.path(), None).unwrap();
    let mut count = 0;
    let stopped = readers::read(&source, &parts[0], &mut |_| {
        count += 1;
        Err(Error::Stopped)
    });
    assert!(matches!(stopped, Err(Error::Stopped)) && count == 1);
    std::fs::remove_file(folder.path().join("a.jsonl")).unwrap();
    assert!(matches!(readers::read(&source, &parts[0], &mut |_| Ok(())), Err(Error::Io { .. })));
}

#[test]
fn a_file_of_no_known_format_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.xyz"), "{}").unwrap();
    let error = source("files = [\"*\"]").files(folder.path(), None).unwrap_err().to_string();
    assert!(error.contains("a.xyz: its ending names no format; say format"), "{error}");
    let error = source("files = [\"*\"]\nformat = \"jsonl\"\ntext = \"x\"").files(folder.path(), None);
    assert_eq!(error.unwrap().len(), 1);
    std::fs::rename(folder.path().join("a.xyz"), folder.path().join("a.txt")).unwrap();
    let error = source("files = [\"*\"]\ntext = \"x\"").files(folder.path(), None).unwrap_err().to_string();
    assert!(error.contains("`text` names a field"), "{error}");
}

#[test]
fn checksums_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), "abc").unwrap();
    // FIPS 180-2, appendix B.1.
    let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let check = |settings: &str| {
        let source = source(&format!("files = [\"*.txt\"]\n{settings}"));
        source.verify(&source.files(folder.path(), None).unwrap()).map_err(|e| e.to_string())
    };
    check(&format!("sha256 = {sum:?}")).unwrap();
    check(&format!("sha256 = {{ \"a.txt\" = {:?} }}", sum.to_uppercase())).unwrap();
    let wrong = check(&format!("get = \"fetch it\"\nsha256 = {:?}", sum.replace('b', "c"))).unwrap_err();
    assert!(wrong.contains(sum) && wrong.ends_with("; fetch it"), "{wrong}");
    assert!(check(&format!("sha256 = {{ \"b.txt\" = {sum:?} }}")).unwrap_err().contains("b.txt"));
    std::fs::write(folder.path().join("b.txt"), "abc").unwrap();
    assert!(check(&format!("sha256 = {sum:?}")).unwrap_err().contains("2 files and one sha256"));
}

#[test]
fn settings_that_cannot_be_are_told() {
    let error = |settings: &str| {
        let source: Result<Source, String> =
            toml::from_str(settings).map_err(|e: toml::de::Error| e.message().to_string());
        source.and_then(|source| source.check()).unwrap_err()
    };
    let cases = [
        ("name = \"a b\"\nfiles = [\"x\"]", "a b"),
        ("name = \"a\"", "`files` or `generate`"),
        ("name = \"a\"\nfiles = [\"x\"]\ncolour = 1", "unknown field `colour`"),
        ("name = \"a\"\nfiles = [\"x\"]\nepochs = 0", "epochs = 0"),
        ("name = \"a\"\nfiles = [\"x\"]\nweight = nan", "weight = NaN"),
        ("name = \"a\"\nfiles = [\"x\"]\nsha256 = \"12\"", "64 hexadecimal"),
        ("name = \"a\"\nfiles = [\"x\"]\nencoding = \"utf-9\"", "utf-9"),
        ("name = \"a\"\nfiles = [\"x\"]\nformat = \"docx\"", "docx"),
        ("name = \"a\"\nfiles = [\"x\"]\ndocument_bytes_max = 0", "document_bytes_max = 0"),
        ("name = \"a\"\nfiles = [\"x\"]\nseparator = \"\"", "separator"),
        ("name = \"a\"\nfiles = [\"x\"]\nformat = \"jsonl\"\nseparator = \"-\"", "`separator` is for text"),
        ("name = \"a\"\nfiles = [\"x\"]\nformat = \"jsonl\"\nencoding = \"utf-16le\"", "convert the files"),
        ("name = \"a\"\nfiles = [\"x\"]\ntext = \"{a\"", "without `}`"),
        ("name = \"a\"\nfiles = [\"x/*/../y\"]", "`..`"),
        ("name = \"a\"\nfiles = [\"x\"]\ndocuments = 5", "for `generate`"),
        ("name = \"a\"\ngenerate = \"nothing\"\ndocuments = 5", "nothing"),
    ];
    for (settings, expected) in cases {
        let error = error(settings);
        assert!(error.contains(expected), "{settings}: {error}");
    }
}

/// Ids without the file, texts, and damage of a file read in parts.
fn outcome(folder: &Path, source: &Source, part_bytes: u64) -> (Vec<(String, String)>, Vec<Damaged>) {
    let (documents, damaged) = read_parts(folder, source, part_bytes);
    (documents.into_iter().map(|d| (d.id.clone(), d.text().to_string())).collect(), damaged)
}

proptest! {
    /// However a file is cut, the same documents and the same damage come out, in the same order.
    #[test]
    fn parts_together_are_the_whole(
        pieces in prop::collection::vec(prop_oneof![Just("--\n"), Just("--\r\n"), Just("-\n"), Just("\n"), Just("a"), Just("ä\n"), Just("\r"), Just("longer text"), Just("{\"text\":\"x\"}\n"), Just("{\"text\":1}\n")], 0..60),
        part_bytes in 1u64..40,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let text = pieces.concat();
        std::fs::write(folder.path().join("a.txt"), &text).unwrap();
        for settings in ["separator = \"--\"\ndocument_bytes_max = 20", "format = \"jsonl\""] {
            let source = source(&format!("files = [\"a.txt\"]\n{settings}"));
            let whole = outcome(folder.path(), &source, u64::MAX / 2);
            prop_assert_eq!(&outcome(folder.path(), &source, part_bytes), &whole);
            if source.separator.is_some() {
                let expected: Vec<&str> = splits(&text);
                let all = whole.0.len() + whole.1.len();
                prop_assert_eq!(all, expected.len());
                let kept: Vec<&str> = expected.into_iter().filter(|t| t.len() <= 20).collect();
                prop_assert_eq!(whole.0.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), kept);
            }
        }
    }

    /// Whatever the bytes, nothing panics, and every line is a document, damage or blank; only a
    /// JSON array ends the reading of its file.
    #[test]
    fn any_bytes_are_documents_or_damage(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'{'), Just(b'[')], 0..300)) {
        let folder = tempfile::tempdir().unwrap();
        let array = String::from_utf8_lossy(&bytes).trim_start_matches('\u{feff}').trim_ascii_start().starts_with('[');
        for (name, settings) in [("a.jsonl", ""), ("a.txt", ""), ("a.txt", "separator = \"{\"")] {
            for bytes in [bytes.clone(), gzip(&bytes), [b"\x1f\x8b\x08\0", &bytes[..]].concat()] {
                std::fs::write(folder.path().join(name), &bytes).unwrap();
                let source = source(&format!("files = [{name:?}]\n{settings}"));
                if let Err(refused) = try_read_parts(folder.path(), &source, u64::MAX / 2) {
                    let problem = refused.to_string();
                    prop_assert!(name == "a.jsonl" && array && problem.contains("a JSON array"), "{problem}");
                }
            }
        }
    }
}

/// Documents between lines `--`, by another way than the reader's.
fn splits(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let (mut begin, mut line) = (0, 0);
    let push = |piece: &'_ str, documents: &mut Vec<(usize, usize)>, begin: usize| {
        let piece = piece.strip_suffix('\n').unwrap_or(piece);
        let piece = piece.strip_suffix('\r').unwrap_or(piece);
        if !piece.trim_ascii().is_empty() {
            documents.push((begin, begin + piece.len()));
        }
    };
    for piece in text.split_inclusive('\n') {
        let bare = piece.strip_suffix('\n').unwrap_or(piece);
        if bare == "--" || bare == "--\r" {
            push(&text[begin..line], &mut documents, begin);
            begin = line + piece.len();
        }
        line += piece.len();
    }
    push(&text[begin..], &mut documents, begin);
    documents.into_iter().map(|(start, end)| &text[start..end]).collect()
}

/// A part is what others may make too.
#[test]
fn a_part_beyond_the_end_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.jsonl");
    std::fs::write(&file, "{\"text\": \"a\"}\n").unwrap();
    let part =
        Part { source: 0, name: "a.jsonl".into(), file: file.into(), range: 500..600, bytes: 0, small_files: vec![] };
    readers::read(&source("files = [\"a.jsonl\"]"), &part, &mut |_| panic!("nothing is there")).unwrap();
}

/// A part of several small files has the documents of each, in order, under its own name.
#[test]
fn small_files_are_read_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("a.txt", "A."), ("b.jsonl", "{\"text\": \"B.\"}\nno JSON\n"), ("c.txt", "C.")] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let source = source("files = [\"*\"]");
    let parts = part::of(std::slice::from_ref(&source), folder.path(), None).unwrap();
    assert_eq!((parts.len(), parts[0].bytes), (1, 27));
    let (mut ids, mut damaged) = (Vec::new(), Vec::new());
    readers::read(&source, &parts[0], &mut |item| {
        match item {
            Item::Document(document) => ids.push(format!("{} {}", document.id, document.text())),
            Item::Damaged(place) => damaged.push(place.place),
            Item::PassedOver(kind) => panic!("{kind} is passed over"),
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(ids, ["s/a.txt#0 A.", "s/b.jsonl#0 B.", "s/c.txt#0 C."]);
    assert_eq!(damaged, ["b.jsonl:2"]);
}

#[test]
fn fields_of_csv_are_found_by_the_header() {
    let csv = "\u{feff}id,text,\"other, one\"\r\n1,plain,x\r\n\r\n2,\"two\nlines, with \"\"quotes\"\"\",\r\n3,Äpfel,z";
    for (name, bytes) in [
        ("a.csv", csv.as_bytes().to_vec()),
        ("a.csv.gz", gzip(csv.as_bytes())),
        ("a.csv.zst", zstd::encode_all(csv.as_bytes(), 1).unwrap()),
    ] {
        let (documents, damaged) = read(name, &bytes, "id = \"id\"\nkeep = [\"other, one\"]");
        assert!(damaged.is_empty(), "{damaged:?}");
        assert_eq!(texts(&documents), ["plain", "two\nlines, with \"quotes\"", "Äpfel"]);
        assert_eq!(documents.iter().map(|d| d.id.as_str()).collect::<Vec<_>>(), ["1", "2", "3"]);
        let kept: Vec<&str> = documents.iter().map(|d| d.labels["other, one"].as_str().unwrap()).collect();
        assert_eq!(kept, ["x", "", "z"]);
    }
    let (documents, _) = read("a.tsv", b"q\ta\nWho?\tAnn, and Bob\n", "text = \"Q: {q} A: {a}\"");
    assert_eq!((texts(&documents), documents[0].id.as_str()), (vec!["Q: Who? A: Ann, and Bob"], "s/a.tsv#1"));
    let (documents, _) = read("a.csv", b"text\nsch\xf6n\n", "encoding = \"windows-1252\"");
    assert_eq!(texts(&documents), ["schön"]);
}

#[test]
fn damaged_records_of_csv_are_told_and_passed_over() {
    let mut csv = b"id,text\n1,good\n2\n3,a,b\n4,caf\xe9\n5,".to_vec();
    csv.extend("x".repeat(300_000).into_bytes());
    csv.extend(b"\n6,");
    csv.extend(",".repeat(20_000).into_bytes());
    csv.extend(b"\n7,also good\n8,too long for a text\n9,\"not closed\n10,lost\n");
    csv.extend("y".repeat(300).into_bytes());
    let (documents, damaged) = read("a.csv", &csv, "document_bytes_max = 15");
    assert_eq!(texts(&documents), ["good", "also good"]);
    let expected = [
        ("a.csv: row 2", "1 instead of 2 fields"),
        ("a.csv: row 3", "3 instead of 2 fields"),
        ("a.csv: row 4", "field \"text\": no UTF-8 at byte 3"),
        ("a.csv: row 5", "a record of 300001 bytes, over 60; is a quotation mark not closed?"),
        ("a.csv: row 6", "a record of more than 10000 fields; is a quotation mark not closed?"),
        ("a.csv: row 8", "a text of 19 bytes, over document_bytes_max = 15"),
        ("a.csv: row 9", "a record of 320 bytes, over 60; is a quotation mark not closed?"),
    ];
    assert_eq!(problems(&damaged), expected);
    assert!(damaged[3].excerpt.starts_with("5xxx") && damaged[3].excerpt.len() <= 200);

    let utf_16: Vec<u8> = "\u{feff}text\nb".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(read("a.csv", &utf_16, "").1[0].problem.starts_with("UTF-16"));
    let mut cut = gzip("text\none\n".repeat(1000).as_bytes());
    cut.truncate(cut.len() - 10);
    let (documents, damaged) = read("a.csv.gz", &cut, "");
    assert!(documents.len() < 2000 && damaged.len() == 1, "{damaged:?}");
    assert_eq!(damaged[0].problem, "the compressed file is cut off; the rest of the file is not read");
    let many = vec!["c"; 20_000].join(",");
    assert!(read("a.csv", many.as_bytes(), "").1[0].problem.contains("more than 10000 fields"));
}

#[test]
fn csv_without_a_column_ends_the_reading() {
    let error = |csv: &str, settings: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.csv"), csv).unwrap();
        let source = source(&format!("files = [\"a.csv\"]\n{settings}"));
        let parts = part::of(std::slice::from_ref(&source), folder.path(), None).unwrap();
        readers::read(&source, &parts[0], &mut |_| Ok(())).unwrap_err().to_string()
    };
    let told = error("id,body\n1,x\n", "");
    assert!(
        told.ends_with("no field \"text\"; its columns are id, body; say in the recipe which column is `text` or `id`"),
        "{told}"
    );
    assert!(error("text,text\n1,x\n", "").ends_with("2 columns have the name \"text\", and the recipe names it"));
    let of_messages: Source =
        toml::from_str("name = \"s\"\nfiles = [\"a.csv\"]\nmessages = \"m\"\nformat = \"csv\"").unwrap();
    assert!(of_messages.check().unwrap_err().contains("`messages` is a list"));
}

proptest! {
    #[test]
    fn what_is_written_as_csv_is_read_back(rows in prop::collection::vec((".{0,40}", "[a\"\n\r, é]{1,40}"), 1..20)) {
        let quoted = |field: &str| format!("\"{}\"", field.replace('"', "\"\""));
        let lines: Vec<String> = rows.iter().map(|(a, b)| format!("{},{}", quoted(a), quoted(b))).collect();
        let (documents, damaged) = read("a.csv", format!("a,text\n{}\n", lines.join("\n")).as_bytes(), "keep = [\"a\"]");
        prop_assert!(damaged.is_empty(), "{:?}", damaged);
        let found: Vec<(&str, &str)> = documents.iter().map(|d| (d.labels["a"].as_str().unwrap(), d.text())).collect();
        let expected: Vec<(&str, &str)> = rows.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        prop_assert_eq!(found, expected);
    }
}
