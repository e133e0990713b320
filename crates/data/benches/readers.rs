//! Speed of the readers, MB in a CPU-second of one core: of the file, and of the text that comes out.
//!
//! `cargo bench -p farthing-data --bench readers [-- FILE]`: the text is FILE's or made here, in documents of about 3 kB.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use farthing_data::part;
use farthing_data::readers::{self, Item};
use farthing_data::source::Source;
use parquet::basic::{Compression, ConvertedType, Repetition, Type as PhysicalType, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

/// Bytes of text.
const TEXT: usize = 32 << 20;

/// Bytes of a document.
const DOCUMENT: usize = 3000;

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Words in an order that does not repeat soon, some of them with characters that JSON escapes or that are no ASCII.
fn made() -> String {
    let words = [
        "the",
        "fox",
        "ran",
        "over",
        "\"hills\"",
        "and",
        "found",
        "Äpfel",
        "in",
        "a",
        "garden",
        "of",
        "old",
        "stones.\n",
        "Then",
        "it",
        "slept,",
    ];
    let (mut text, mut state) = (String::new(), 1u64);
    while text.len() < TEXT {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        text.push_str(words[(state >> 33) as usize % words.len()]);
        text.push(' ');
    }
    text
}

fn documents(text: &str) -> Vec<&str> {
    let (mut documents, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let (document, after) = rest.split_at(rest.ceil_char_boundary(DOCUMENT));
        documents.push(document);
        rest = after;
    }
    documents
}

fn write_parquet(path: &Path, documents: &[&str]) {
    let column = |name| {
        let column = Type::primitive_type_builder(name, PhysicalType::BYTE_ARRAY).with_repetition(Repetition::OPTIONAL);
        Arc::new(column.with_converted_type(ConvertedType::UTF8).build().unwrap())
    };
    let schema = Type::group_type_builder("schema").with_fields(vec![column("text"), column("url")]).build().unwrap();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_enabled(false);
    let mut writer =
        SerializedFileWriter::new(File::create(path).unwrap(), Arc::new(schema), Arc::new(properties.build())).unwrap();
    for group in documents.chunks(5000) {
        let mut row_group = writer.next_row_group().unwrap();
        for column in 0..2 {
            let values: Vec<ByteArray> = group
                .iter()
                .map(|text| if column == 0 { ByteArray::from(*text) } else { ByteArray::from("http://example.org/") })
                .collect();
            let mut writer = row_group.next_column().unwrap().unwrap();
            writer.typed::<ByteArrayType>().write_batch(&values, Some(&vec![1; values.len()]), None).unwrap();
            writer.close().unwrap();
        }
        row_group.close().unwrap();
    }
    writer.close().unwrap();
}

/// Records of WET, and of WARC with pages around the text.
fn write_warc(path: &Path, documents: &[&str], pages: bool) {
    let mut out = std::io::BufWriter::new(File::create(path).unwrap());
    for text in documents {
        let (kind, content_type, block) = match pages {
            false => ("conversion", "text/plain", text.to_string()),
            true => {
                let menu = "<ul>".to_string() + &"<li><a href=\"/somewhere\">Elsewhere</a></li>".repeat(40) + "</ul>";
                let body: String = text.lines().map(|line| format!("<p class=\"text\">{line}</p>\n")).collect();
                let html = format!(
                    "<html><head><title>A page</title></head><body><nav>{menu}</nav><article>{body}</article></body></html>"
                );
                (
                    "response",
                    "application/http",
                    format!("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{html}"),
                )
            }
        };
        let length = block.len();
        write!(out, "WARC/1.0\r\nWARC-Type: {kind}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{block}\r\n\r\n").unwrap();
    }
}

fn measure(folder: &Path, name: &str, settings: &str) {
    let source: Source = toml::from_str(&format!("name = \"bench\"\nfiles = [{name:?}]\n{settings}")).unwrap();
    let parts = part::of(std::slice::from_ref(&source), folder, None).unwrap();
    let file: u64 = parts.iter().map(|part| part.bytes).sum();
    let (start, mut text, mut documents, mut damaged, mut passes) = (cpu_seconds(), 0, 0, 0, 0);
    while passes == 0 || cpu_seconds() - start < 1.0 {
        for part in &parts {
            let emit = &mut |item| {
                match item {
                    Item::Document(document) => {
                        text += black_box(&document).text().len();
                        documents += 1;
                    }
                    Item::Damaged(_) => damaged += 1,
                    Item::PassedOver(_) => {}
                }
                Ok(())
            };
            readers::read(&source, part, emit).unwrap();
        }
        passes += 1;
    }
    let seconds = cpu_seconds() - start;
    let rate = |bytes: f64| bytes / 1e6 / seconds;
    let (of_file, of_text) = (rate(file as f64 * passes as f64), rate(text as f64));
    println!(
        "{name:14} {of_file:8.1} MB/s of the file  {of_text:8.1} MB/s of text   {} documents, {} damaged",
        documents / passes,
        damaged / passes
    );
}

fn main() {
    let file = std::env::args().skip(1).find(|argument| argument != "--bench");
    let text = file.map_or_else(made, |file| std::fs::read_to_string(file).expect("a file of UTF-8"));
    let documents = documents(&text);
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let lines: String = documents
        .iter()
        .enumerate()
        .map(|(i, text)| json!({"id": i, "url": "http://example.org/", "text": text}).to_string() + "\n")
        .collect();
    write("a.jsonl", lines.as_bytes());
    write("zstd.jsonl", &zstd::encode_all(lines.as_bytes(), 3).unwrap());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(lines.as_bytes()).unwrap();
    write("gzip.jsonl", &gzip.finish().unwrap());
    write("a.txt", documents.join("\n<|end|>\n").as_bytes());
    write_parquet(&folder.path().join("a.parquet"), &documents);
    write_warc(&folder.path().join("texts.wet"), &documents, false);
    write_warc(&folder.path().join("pages.warc"), &documents, true);
    for name in ["a.jsonl", "zstd.jsonl", "gzip.jsonl", "a.parquet", "texts.wet", "pages.warc"] {
        measure(folder.path(), name, "");
    }
    measure(folder.path(), "a.txt", "separator = \"<|end|>\"");
}
