//! A source of a recipe: where its documents come from, which fields of a record are the text, and what is known of its origin

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::document::TEXT_BYTES_MAX;
use crate::readers::encoding::Encoding;
use crate::readers::fields::Fields;
use crate::readers::files::{self, SourceFile};
use crate::shards::Share;
use crate::store::Stores;
use crate::{Error, generators, options};

/// Documents that a generator makes at most: a million parts, each of which is held while a run is planned.
const GENERATED_MAX: u64 = 10_000_000_000;

/// Where documents come from: files, or a generator.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its name in reports and in the ids of documents.
    pub name: String,
    /// Globs of its files, relative to the recipe.
    #[serde(default)]
    pub files: Vec<String>,
    /// What the files hold; if absent, their endings tell.
    pub format: Option<Format>,
    /// The field of a record that is the text (dots lead into nested ones), or a template such as `Q: {question}\nA: {answer}`. `text` if absent.
    pub text: Option<String>,
    /// The field of a record that is the document's id.
    pub id: Option<String>,
    /// The field of a record that holds messages, `[{role, content}]`: kept as label `messages`; their contents are the text.
    pub messages: Option<String>,
    /// Fields of a record that become labels.
    #[serde(default)]
    pub keep: Vec<String>,
    /// In text files, the line that stands between two documents. Without it a file is a document.
    pub separator: Option<String>,
    /// How text is encoded: `auto`, or a name of the WHATWG encoding standard such as `utf-8` or `windows-1252`.
    #[serde(default)]
    pub encoding: Encoding,
    /// Where the files were got.
    pub url: Option<String>,
    /// The commit of the repository that they were taken from.
    pub commit: Option<String>,
    /// The licence, for the card.
    pub licence: Option<String>,
    /// SHA-256 of the only file, or of each by its path as the globs give it.
    pub sha256: Option<Checksums>,
    /// How to get the files if they are not there, in words.
    pub get: Option<String>,
    /// How often each document is used.
    pub epochs: Option<f64>,
    /// The share of this source in the tokens of all.
    pub weight: Option<f64>,
    /// Bytes of text of a document; a longer one counts as damaged.
    #[serde(default = "document_bytes_max")]
    pub document_bytes_max: usize,
    /// Bytes that a compressed file may give for each of its own, after the first 64 MiB: what gives more counts as damaged from there.
    #[serde(default = "expansion_max")]
    pub expansion_max: u64,
    /// The generator that makes the documents, instead of files.
    pub generate: Option<String>,
    /// How many documents are generated.
    pub documents: Option<u64>,
    /// The generator's settings.
    #[serde(default)]
    pub settings: toml::Table,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Plain text.
    Text,
    /// A JSON object a line.
    Jsonl,
    /// Records with commas between fields, behind a header line.
    Csv,
    /// The same with tabs.
    Tsv,
    /// Columns.
    Parquet,
    /// Web pages as a crawler kept them (WARC), or the text of them (WET).
    Warc,
    /// A web page.
    Html,
}

/// Expected SHA-256 of files, in hexadecimal.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Checksums {
    /// Of the only file.
    One(String),
    /// Of each file by its path.
    Each(BTreeMap<String, String>),
}

fn document_bytes_max() -> usize {
    16 << 20
}

fn expansion_max() -> u64 {
    250
}

/// Endings of files by format, without those of compression.
const ENDINGS: &[(&str, Format)] = &[
    ("txt", Format::Text),
    ("text", Format::Text),
    ("md", Format::Text),
    ("markdown", Format::Text),
    ("jsonl", Format::Jsonl),
    ("ndjson", Format::Jsonl),
    ("json", Format::Jsonl),
    ("csv", Format::Csv),
    ("tsv", Format::Tsv),
    ("parquet", Format::Parquet),
    ("warc", Format::Warc),
    ("wet", Format::Warc),
    ("html", Format::Html),
    ("htm", Format::Html),
    ("xhtml", Format::Html),
];

impl Format {
    /// What a file holds by its ending, with or without one of compression after it.
    pub fn of_ending(path: &Path) -> Option<Format> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let name = [".gz", ".zst", ".zstd"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
        let (_, ending) = name.rsplit_once('.')?;
        ENDINGS.iter().find(|(known, _)| *known == ending).map(|(_, format)| *format)
    }

    /// Whether its records have fields.
    fn has_fields(self) -> bool {
        matches!(self, Format::Jsonl | Format::Csv | Format::Tsv | Format::Parquet)
    }
}

impl Source {
    /// Checks what can be known without the files.
    ///
    /// # Errors
    /// In words: a setting that cannot be, and what would do.
    pub fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || !self.name.chars().all(plain) || self.name.starts_with('.') {
            return Err(format!("name = {:?}: letters, digits and `-`, `_`, `.` make a name", self.name));
        }
        match (&self.generate, self.files.is_empty()) {
            (None, true) => return Err(format!("source {}: it needs `files` or `generate`", self.name)),
            (Some(_), false) => {
                return Err(format!("source {}: it has `files` and `generate`; make two sources of it", self.name));
            }
            (Some(generator), true) => self.check_generator(generator)?,
            (None, false) => self.check_files()?,
        }
        for (setting, number) in [("epochs", self.epochs), ("weight", self.weight)] {
            if let Some(number) = number.filter(|n| !n.is_finite() || *n <= 0.0) {
                return Err(format!("source {}: {setting} = {number} is no number above 0", self.name));
            }
        }
        if self.epochs.is_some() && self.weight.is_some() {
            return Err(format!(
                "source {}: it has `epochs` and `weight`; one of them says how much is used",
                self.name
            ));
        }
        Ok(())
    }

    fn check_generator(&self, generator: &str) -> Result<(), String> {
        if !generators::KINDS.iter().any(|kind| kind.name == generator) {
            let known: Vec<&str> = generators::KINDS.iter().map(|kind| kind.name).collect();
            let near = options::did_you_mean(generator, known.iter().copied());
            return Err(format!(
                "source {}: generate = {generator:?} is not known{near}; there are {}",
                self.name,
                known.join(", ")
            ));
        }
        if self.documents.is_none_or(|n| n == 0) {
            return Err(format!("source {}: `documents` says how many documents {generator} makes", self.name));
        }
        if self.documents.is_some_and(|n| n > GENERATED_MAX) {
            return Err(format!("source {}: `documents` is more than {GENERATED_MAX}", self.name));
        }
        let files_only = [
            ("format", self.format.is_some()),
            ("text", self.text.is_some()),
            ("id", self.id.is_some()),
            ("messages", self.messages.is_some()),
            ("keep", !self.keep.is_empty()),
            ("separator", self.separator.is_some()),
            ("sha256", self.sha256.is_some()),
            ("get", self.get.is_some()),
        ];
        match files_only.iter().find(|(_, set)| *set) {
            Some((setting, _)) => Err(format!("source {}: `{setting}` is for files, not for `generate`", self.name)),
            None => Ok(()),
        }
    }

    fn check_files(&self) -> Result<(), String> {
        let in_source = |problem: String| format!("source {}: {problem}", self.name);
        if self.documents.is_some() || !self.settings.is_empty() {
            return Err(in_source("`documents` and `settings` are for `generate`".into()));
        }
        if !(1..=TEXT_BYTES_MAX).contains(&self.document_bytes_max) {
            return Err(in_source(format!(
                "document_bytes_max = {} is not within 1 to {TEXT_BYTES_MAX}",
                self.document_bytes_max
            )));
        }
        if self.expansion_max == 0 {
            return Err(in_source("expansion_max = 0 refuses every compressed file".into()));
        }
        if let Some(separator) = &self.separator
            && (separator.is_empty() || separator.contains(['\n', '\r']) || separator.len() > 1000)
        {
            return Err(in_source(format!("separator = {separator:?} is no line of 1 to 1000 bytes")));
        }
        if let Some(format) = self.format {
            self.check_format(format).map_err(in_source)?;
        }
        Fields::of(self).map_err(in_source)?;
        for glob in &self.files {
            files::check_glob(glob).map_err(in_source)?;
        }
        self.check_checksums().map_err(in_source)
    }

    /// Refuses settings that mean nothing for this format.
    fn check_format(&self, format: Format) -> Result<(), String> {
        let of_records = [
            ("text", self.text.is_some()),
            ("id", self.id.is_some()),
            ("messages", self.messages.is_some()),
            ("keep", !self.keep.is_empty()),
        ];
        if let Some((setting, _)) = of_records.iter().find(|(_, set)| *set).filter(|_| !format.has_fields()) {
            return Err(format!("`{setting}` names a field, and files of format {format:?} have none").to_lowercase());
        }
        if self.separator.is_some() && format != Format::Text {
            return Err(format!("`separator` is for text, not for {format:?}").to_lowercase());
        }
        let is_table = matches!(format, Format::Csv | Format::Tsv);
        if self.messages.is_some() && is_table {
            return Err(format!("`messages` is a list, and fields of format {format:?} are text").to_lowercase());
        }
        let by_lines = format == Format::Jsonl || is_table || self.separator.is_some();
        if let Encoding::Named(encoding) = self.encoding
            && by_lines
            && !encoding.is_ascii_compatible()
        {
            return Err(format!("in encoding {} lines are not found; convert the files to UTF-8", encoding.name()));
        }
        Ok(())
    }

    fn check_checksums(&self) -> Result<(), String> {
        let sums: Vec<&String> = match &self.sha256 {
            None => Vec::new(),
            Some(Checksums::One(sum)) => vec![sum],
            Some(Checksums::Each(sums)) => sums.values().collect(),
        };
        match sums.iter().find(|sum| sum.len() != 64 || !sum.bytes().all(|b| b.is_ascii_hexdigit())) {
            Some(sum) => Err(format!("sha256 = {sum:?} is no SHA-256 of 64 hexadecimal digits")),
            None => Ok(()),
        }
    }

    /// Its files, in the order of their paths' bytes. `base` is the folder of the recipe; `stores` opens the buckets of URLs.
    ///
    /// # Errors
    /// A glob that matches no file, too many files, links that leave the tree, a format that is not known.
    pub fn files(&self, base: &Path, stores: Option<&dyn Stores>) -> Result<Vec<SourceFile>, Error> {
        let found = files::find(self, base, stores)?;
        for file in &found {
            self.format_of(file.path.path())?;
        }
        Ok(found)
    }

    /// What this file of it holds.
    ///
    /// # Errors
    /// An ending that says nothing; settings that the format has not.
    pub fn format_of(&self, path: &Path) -> Result<Format, Error> {
        let unknown = "its ending names no format; say format = \"text\", \"jsonl\", \"csv\", \"tsv\", \"parquet\", \"warc\" or \"html\" in the recipe";
        let format = self.format.or_else(|| Format::of_ending(path)).ok_or_else(|| Error::file(path, unknown))?;
        self.check_format(format).map_err(|problem| Error::file(path, format!("source {}: {problem}", self.name)))?;
        Ok(format)
    }

    /// How much of it goes into training: each document once, unless it has `epochs` or `weight`.
    pub fn share(&self) -> Share {
        match (self.weight, self.epochs) {
            (Some(weight), _) => Share::Weight(weight),
            (None, epochs) => Share::Epochs(epochs.unwrap_or(1.0)),
        }
    }

    /// Compares the files with the checksums of the recipe, if it has any.
    ///
    /// # Errors
    /// A file that differs, a checksum without a file, several files for one checksum; what reading gives.
    pub fn verify(&self, files: &[SourceFile]) -> Result<(), Error> {
        let expected: Vec<(&SourceFile, &str)> = match (&self.sha256, files) {
            (None, _) => return Ok(()),
            (Some(Checksums::One(sum)), [file]) => vec![(file, sum)],
            (Some(Checksums::One(_)), files) => {
                let problem = format!(
                    "source {} has {} files and one sha256; give a table of path = \"sha256\"",
                    self.name,
                    files.len()
                );
                return Err(Error::file(files.first().map_or(Path::new(""), |file| file.path.path()), problem));
            }
            (Some(Checksums::Each(sums)), files) => {
                let mut expected = Vec::new();
                for (name, sum) in sums {
                    let file = files.iter().find(|file| file.name == *name);
                    let file = file.ok_or_else(|| {
                        Error::file(name, format!("its sha256 is given, but no glob of source {} finds it", self.name))
                    })?;
                    expected.push((file, sum.as_str()));
                }
                expected
            }
        };
        for (file, sum) in expected {
            let mut hash = Sha256::new();
            let mut input = file.path.open_at(0).map_err(Error::io(&file.path))?;
            std::io::copy(&mut input, &mut hash).map_err(Error::io(&file.path))?;
            let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            if !found.eq_ignore_ascii_case(sum) {
                let get = self.get.as_ref().map_or(String::new(), |get| format!("; {get}"));
                return Err(Error::file(
                    &file.path,
                    format!("its SHA-256 is {found}, the recipe says {sum}: it is another version or damaged{get}"),
                ));
            }
        }
        Ok(())
    }
}
