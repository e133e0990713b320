//! Directories as buckets, and a corpus of every format

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farthing_data::store::{Folder, Store, Stores};

/// Buckets that are directories of one folder.
pub struct Folders(PathBuf);

impl Folders {
    pub fn new(folder: &Path) -> Folders {
        Folders(folder.to_path_buf())
    }
}

impl Stores for Folders {
    fn open(&self, bucket: &str) -> io::Result<Arc<dyn Store>> {
        Ok(Arc::new(Folder::new(self.0.join(bucket))))
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A Parquet file of four row groups, with a column of texts.
fn parquet(texts: &[String]) -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::writer::SerializedFileWriter;
    let schema = parquet::schema::parser::parse_message_type("message m { required binary text (UTF8); }").unwrap();
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Default::default()).unwrap();
    for texts in texts.chunks(texts.len().div_ceil(4)) {
        let values: Vec<ByteArray> = texts.iter().map(|text| text.as_str().into()).collect();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

/// A page with a text to be found in it.
fn page(number: usize) -> String {
    let paragraph = |i: usize| {
        format!(
            "<p>In house {number} of the long street, near door {i}, a lamp is lit each evening, and people who come \
             home late are glad of it. Nobody knows who pays for the oil, but everybody has an opinion.</p>"
        )
    };
    let text: String = (0..8).map(paragraph).collect();
    format!("<html><head><title>Street</title></head><body><article>{text}</article></body></html>")
}

/// Files of every format, plain and compressed; some are longer than a block of an object.
pub fn compressed_corpus(folder: &Path) {
    std::fs::create_dir_all(folder.join("below")).unwrap();
    let texts: Vec<String> = (0..900)
        .map(|i: u64| (0..800).map(|j| format!("{:x} ", (i * 1009 + j).wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect())
        .collect();
    let lines: String = texts.iter().map(|text| format!("{{\"text\": {text:?}}}\n")).collect();
    assert!(lines.len() > 9 << 20);
    let record = |text: &str| {
        let body = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{text}");
        format!(
            "WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http; msgtype=response\r\nWARC-Target-URI: http://a.example/{}\r\nContent-Length: {}\r\n\r\n{body}\r\n\r\n",
            text.len(),
            body.len()
        )
    };
    let warc: Vec<u8> = (0..40).flat_map(|i| gzip(record(&page(i)).as_bytes())).collect();
    let files: [(&str, Vec<u8>); 10] = [
        ("a.txt", texts[0].clone().into_bytes()),
        ("b.txt.gz", gzip(texts[1].as_bytes())),
        ("c.jsonl", lines.clone().into_bytes()),
        ("d.jsonl.gz", gzip(lines.as_bytes())),
        ("e.jsonl.zst", zstd::encode_all(lines.as_bytes(), 1).unwrap()),
        ("f.parquet", parquet(&texts)),
        ("g.warc.gz", warc),
        ("h.html", page(7).into_bytes()),
        ("i.csv", format!("text\n{}", texts.join("\n")).into_bytes()),
        ("below/deep.jsonl", b"{\"text\": \"below\"}\n{\"text\": 1}\n".to_vec()),
    ];
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}
