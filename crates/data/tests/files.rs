//! Parquet and WARC files of other software (pyarrow 26.0.1, warcio 1.8.1: data/readers/make.py), whole and damaged.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use farthing_data::part;
use farthing_data::readers::{self, Damaged, Item};
use farthing_data::source::Source;
use farthing_data::{Document, Error};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::json;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/readers")
}

fn source(file: &str, settings: &str) -> Source {
    let source: Source = toml::from_str(&format!("name = \"s\"\nfiles = [{file:?}]\n{settings}")).unwrap();
    source.check().unwrap();
    source
}

fn try_read(folder: &Path, source: &Source, part_bytes: u64) -> Result<(Vec<Document>, Vec<Damaged>), Error> {
    let (mut documents, mut damaged, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    for file in source.files(folder, None)? {
        part::of_file(0, source, file, part_bytes, &mut parts)?;
    }
    for part in &parts {
        readers::read(source, part, &mut |item| {
            match item {
                Item::Document(document) => documents.push(document),
                Item::Damaged(place) => damaged.push(place),
                Item::PassedOver(_) => {}
            }
            Ok(())
        })?;
    }
    Ok((documents, damaged))
}

fn read(file: &str, settings: &str) -> (Vec<Document>, Vec<Damaged>) {
    try_read(&folder(), &source(file, settings), u64::MAX / 2).unwrap()
}

/// Reads bytes as a file of this name.
fn read_bytes(name: &str, bytes: &[u8], settings: &str) -> Result<(Vec<Document>, Vec<Damaged>), Error> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), bytes).unwrap();
    try_read(folder.path(), &source(name, settings), u64::MAX / 2)
}

#[test]
fn columns_of_pyarrow_are_read_in_every_coding() {
    let settings = "id = \"id\"\nkeep = [\"n\", \"score\", \"day\", \"meta\", \"meta.lang\"]";
    for name in ["snappy", "zstd-v2", "gzip-delta", "plain"] {
        let file = format!("{name}.parquet");
        let (documents, damaged) = read(&file, settings);
        assert_eq!(documents.len(), 19, "{name}: {damaged:?}");
        for (document, i) in documents.iter().zip((0..20).filter(|i| *i != 7)) {
            assert_eq!(
                (document.id.as_str(), document.text()),
                (&*format!("doc-{i}"), &*format!("Text number {i}, with Äpfel."))
            );
            let lang = if i % 3 == 0 { json!(null) } else { json!("en") };
            let tags = &["a", "b"][..i % 3];
            let labels = json!({"n": i, "score": i as f64 / 4.0, "day": i, "meta": {"lang": lang, "tags": tags}, "meta.lang": lang});
            assert_eq!(serde_json::Value::Object(document.labels.clone()), labels, "{name}");
        }
        assert_eq!(
            (damaged[0].place.as_str(), damaged[0].problem.as_str()),
            (&*format!("{file}: row 8"), "field \"text\" is null, not text")
        );
        // By row groups of 8 rows it is the same.
        let cut = try_read(&folder(), &source(&file, settings), 1).unwrap();
        assert_eq!(
            cut.0.iter().map(|d| &d.id).collect::<Vec<_>>(),
            documents.iter().map(|d| &d.id).collect::<Vec<_>>()
        );
        assert_eq!(cut.1, damaged);
    }
}

#[test]
fn nested_messages_become_text() {
    let (documents, damaged) = read("snappy.parquet", "messages = \"messages\"");
    assert_eq!((documents.len(), damaged.len()), (20, 0));
    assert_eq!((documents[9].text(), documents[9].id.as_str()), ("Q9\n\nA9", "s/snappy.parquet#9"));
    assert_eq!(
        documents[9].labels["messages"],
        json!([{"role": "user", "content": "Q9"}, {"role": "assistant", "content": "A9"}])
    );
    let (documents, _) = read("zstd-v2.parquet", "text = \"{id}: {meta.lang}\"");
    assert_eq!((documents.len(), documents[0].text()), (13, "doc-1: en"));
}

#[test]
fn columns_that_are_not_there_are_an_error_with_those_that_are() {
    let error = |settings: &str| try_read(&folder(), &source("plain.parquet", settings), 1000).unwrap_err().to_string();
    let expected = "no field \"body\"; its columns are id, text, n, score, day, meta, messages; say in the recipe which column is `text`, `id` or `messages`";
    assert!(error("text = \"body\"").ends_with(expected), "{}", error("text = \"body\""));
    assert!(error("text = \"meta.body\"").contains("no field \"meta.body\""));
}

#[test]
fn a_row_that_is_no_utf_8_is_damage_of_that_row_alone() {
    let (documents, damaged) = read("no-utf-8.parquet", "");
    assert_eq!(documents.iter().map(Document::text).collect::<Vec<_>>(), ["one", "three"]);
    assert_eq!(
        (damaged[0].place.as_str(), damaged[0].problem.as_str()),
        ("no-utf-8.parquet: row 2", "field \"text\": no UTF-8 at byte 0")
    );
}

#[test]
fn damaged_parquet_is_told_and_the_next_row_group_is_read() {
    let whole = std::fs::read(folder().join("snappy.parquet")).unwrap();
    let damaged_file = |bytes: &[u8]| read_bytes("a.parquet", bytes, "").unwrap();
    for (bytes, expected) in [(&b"PAR1"[..], "no Parquet file"), (&whole[..whole.len() - 1], "no Parquet file")] {
        let (documents, damaged) = damaged_file(bytes);
        assert!(documents.is_empty());
        assert_eq!((damaged[0].place.as_str(), damaged[0].problem.as_str()), ("a.parquet", expected));
    }
    // Any byte of the data may be wrong (one of seven is tried): what can be read is read, and nothing panics beyond the reader.
    let metadata = u32::from_le_bytes(whole[whole.len() - 8..whole.len() - 4].try_into().unwrap()) as usize;
    let (mut rest_read, mut told) = (0, 0);
    for place in (4..whole.len() - 8 - metadata).step_by(7) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0xff;
        let (documents, damaged) = damaged_file(&bytes);
        told += usize::from(damaged.len() > 1);
        rest_read += usize::from(documents.len() >= 11);
    }
    assert!(told > 14 && rest_read > 140, "{told} {rest_read}");
    for place in whole.len() - 8 - metadata..whole.len() {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x55;
        let _ = read_bytes("a.parquet", &bytes, "messages = \"messages\"\nkeep = [\"meta\", \"day\", \"score\"]");
    }
}

#[test]
fn rows_that_expand_too_far_are_not_read() {
    // One text of half a MiB in a dictionary, and 300 rows that are it.
    let text: String = (0u64..1 << 15).map(|i| format!("{:016x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let schema = Arc::new(parse_message_type("message m { REQUIRED BYTE_ARRAY text (UTF8); }").unwrap());
    let properties = WriterProperties::builder().set_dictionary_page_size_limit(4 << 20).build();
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let rows = vec![ByteArray::from(text.as_str()); 300];
    column.typed::<ByteArrayType>().write_batch(&rows, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    assert!(bytes.len() < 4 << 20, "{}", bytes.len());

    let (documents, damaged) = read_bytes("a.parquet", &bytes, "expansion_max = 2").unwrap();
    assert!((100..150).contains(&documents.len()) && documents.iter().all(|d| d.text() == text), "{}", documents.len());
    assert_eq!(damaged.len(), 1);
    let problem = &damaged[0].problem;
    assert!(problem.contains("give more than 67108864, over expansion_max = 2"), "{problem}");
    assert!(problem.ends_with(&format!("{} rows of row group 0 are not read", 300 - documents.len())), "{problem}");
    let (documents, damaged) = read_bytes("a.parquet", &bytes, "expansion_max = 1000").unwrap();
    assert_eq!((documents.len(), damaged.len()), (300, 0));
}

#[test]
fn pages_of_a_crawl_become_documents() {
    for file in ["pages.warc", "pages.warc.gz"] {
        let (documents, damaged) = read(file, "");
        assert!(damaged.is_empty(), "{damaged:?}");
        let urls: Vec<&str> = documents.iter().map(|d| d.labels["url"].as_str().unwrap()).collect();
        assert_eq!(urls, ["http://example.org/1", "http://example.org/3", "http://example.org/5"]);
        assert_eq!(
            (&documents[1].labels["title"], &documents[1].labels["date"]),
            (&json!("Page 3"), &json!("2026-01-02T03:04:05Z"))
        );
        assert!(documents[1].text().starts_with("The fox ran") && !documents[1].text().contains("Home"));
        assert_eq!(documents[2].text(), "Plain text, with Äpfel.\n");
    }
}

#[test]
fn what_a_crawl_has_beside_pages_is_told_by_kind() {
    for file in ["pages.warc", "pages.warc.gz"] {
        let source = source(file, "");
        let mut parts = Vec::new();
        for file in source.files(&folder(), None).unwrap() {
            part::of_file(0, &source, file, u64::MAX / 2, &mut parts).unwrap();
        }
        let mut kinds = Vec::new();
        readers::read(&source, &parts[0], &mut |item| {
            if let Item::PassedOver(kind) = item {
                kinds.push(kind);
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(kinds, ["status 404", "type image/*"]);
    }
}

#[test]
fn damaged_records_of_a_crawl_are_passed_over() {
    let whole = std::fs::read(folder().join("pages.warc")).unwrap();
    let urls = |bytes: &[u8]| {
        let (documents, damaged) = read_bytes("a.warc", bytes, "").unwrap();
        (
            documents
                .iter()
                .map(|d| d.labels["url"].as_str().unwrap().rsplit_once('/').unwrap().1.to_string())
                .collect::<Vec<_>>(),
            damaged,
        )
    };
    // The first record says to be longer, shorter, endless, and not how long.
    let start = whole.windows(16).position(|bytes| bytes == b"Content-Length: ").unwrap();
    let end = start + whole[start..].iter().position(|&byte| byte == b'\r').unwrap();
    let with = |other: &str| [&whole[..start], other.as_bytes(), &whole[end..]].concat();
    let (found, damaged) = urls(&with("Content-Length: 10"));
    assert_eq!((found, damaged.len()), (vec!["3".to_string(), "5".to_string()], 2), "{damaged:?}");
    let (found, damaged) = urls(&with("Content-Length: 99999999999999"));
    assert!(found.is_empty() && damaged[0].problem.contains("a record of 99999999999999 bytes"), "{damaged:?}");
    let (_, damaged) = urls(&with("Content-Length: -1"));
    assert_eq!(
        (damaged[0].place.as_str(), damaged[0].problem.as_str()),
        ("a.warc: record 1", "headers without a valid Content-Length")
    );
    let (found, damaged) = urls(&[b"garbage\nmore\n", &whole[..]].concat());
    assert_eq!(
        (found.len(), damaged[0].problem.as_str(), damaged.len()),
        (3, "no record begins here, but with `WARC/`", 1)
    );
    let (found, damaged) = urls(&whole[..whole.len() - 10]);
    assert_eq!((found.len(), damaged.len()), (2, 1));
}

#[test]
fn a_damaged_member_of_a_crawl_costs_its_record() {
    let mut bytes = std::fs::read(folder().join("pages.warc.gz")).unwrap();
    bytes[100..140].fill(0xff);
    let (documents, damaged) = read_bytes("a.warc.gz", &bytes, "").unwrap();
    assert_eq!(documents.len(), 2, "{damaged:?}");
    assert!(damaged.iter().any(|d| d.problem.starts_with("compressed data is damaged")));
}

#[test]
fn files_of_other_software_are_decompressed() {
    for file in ["members.jsonl.gz", "command.jsonl.zst"] {
        let (documents, damaged) = read(file, "");
        assert!(damaged.is_empty());
        assert_eq!(
            documents.iter().map(Document::text).collect::<Vec<_>>(),
            ["line 0", "line 1", "line 2", "line 3", "line 4", "line 5"]
        );
    }
}
