//! What is counted while documents pass: read, changed, dropped by rule, damaged, kept; of a part, of a source, of a corpus

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Document;
use crate::step::Reason;

/// Samples kept for each rule, and of damaged records.
pub const SAMPLES_MAX: usize = 5;

/// Bytes of text in a sample.
const SAMPLE_BYTES: usize = 600;

/// Documents and the bytes of their texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Documents.
    pub documents: u64,
    /// Bytes of UTF-8 text.
    pub bytes: u64,
}

impl Volume {
    fn count(&mut self, bytes: usize) {
        self.documents += 1;
        self.bytes += bytes as u64;
    }

    fn add(&mut self, other: Volume) {
        self.documents += other.documents;
        self.bytes += other.bytes;
    }
}

/// Lengths of texts: `counts[i]` have from 2^i to 2^(i+1) - 1 bytes; empty ones count as one byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lengths {
    /// Documents by the logarithm of their length.
    pub counts: Vec<u64>,
}

impl Lengths {
    fn count(&mut self, bytes: usize) {
        let bin = bytes.max(1).ilog2() as usize;
        if self.counts.len() <= bin {
            self.counts.resize(bin + 1, 0);
        }
        self.counts[bin] += 1;
    }

    fn add(&mut self, other: &Lengths) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }
}

/// A document that was dropped, or a record that could not be read: enough to judge the rule by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The document's id, or file and line.
    pub id: String,
    /// The value that broke the rule.
    pub detail: String,
    /// The start of the text.
    pub text: String,
}

impl Sample {
    /// A sample that keeps the start of a text.
    pub fn new(id: &str, detail: &str, text: &str) -> Sample {
        let end = text.floor_char_boundary(SAMPLE_BYTES);
        Sample { id: id.to_string(), detail: detail.to_string(), text: text[..end].to_string() }
    }
}

/// What one rule dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// How much.
    #[serde(flatten)]
    pub volume: Volume,
    /// The first few.
    pub samples: Vec<Sample>,
}

impl Dropped {
    fn add(&mut self, other: &Dropped) {
        self.volume.add(other.volume);
        let room = SAMPLES_MAX.saturating_sub(self.samples.len());
        self.samples.extend(other.samples.iter().take(room).cloned());
    }
}

/// How much a step changed without dropping it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Documents whose text is another.
    pub documents: u64,
    /// Bytes that their texts became shorter by; negative where they grew.
    pub bytes: i64,
}

/// Counts of a part, a source or a corpus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Documents as they were read.
    pub read: Volume,
    /// Documents that went through all steps.
    pub kept: Volume,
    /// Documents among them that are held out.
    #[serde(default)]
    pub held_out: Volume,
    /// By step.
    pub changed: BTreeMap<String, Changed>,
    /// By rule.
    pub dropped: BTreeMap<String, Dropped>,
    /// Documents as they were read that have a field of the source's `keep`, by field.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub with_field: BTreeMap<String, u64>,
    /// Records that could not be read.
    pub damaged: Dropped,
    /// Sound records that hold no document, by kind.
    #[serde(default)]
    pub passed_over: BTreeMap<String, u64>,
    /// Duplicates by the source that has the document that was kept.
    pub duplicates_of: BTreeMap<String, u64>,
    /// Lengths as read.
    pub lengths_read: Lengths,
    /// Lengths of what was kept.
    pub lengths_kept: Lengths,
    /// Documents that were kept, by the label `language`.
    pub languages: BTreeMap<String, u64>,
}

impl Tally {
    /// A document was read, of a source that keeps these fields.
    pub fn read(&mut self, document: &Document, keep: &[String]) {
        for field in keep.iter().filter(|field| document.labels.contains_key(*field)) {
            *entry(&mut self.with_field, field) += 1;
        }
        self.read.count(document.text().len());
        self.lengths_read.count(document.text().len());
    }

    /// A record could not be read.
    pub fn damaged(&mut self, sample: Sample, bytes: u64) {
        self.damaged.add(&Dropped { volume: Volume { documents: 1, bytes }, samples: vec![sample] });
    }

    /// A record of this kind holds no document.
    pub fn passed_over(&mut self, kind: &str) {
        *entry(&mut self.passed_over, kind) += 1;
    }

    /// A step made another text of one that had `before` bytes.
    pub fn changed(&mut self, step: &str, before: usize, after: usize) {
        let changed = entry(&mut self.changed, step);
        changed.documents += 1;
        changed.bytes += before as i64 - after as i64;
    }

    /// A rule dropped a document.
    pub fn dropped(&mut self, document: &Document, reason: &Reason) {
        let dropped = entry(&mut self.dropped, reason.rule);
        dropped.volume.count(document.text().len());
        if dropped.samples.len() < SAMPLES_MAX {
            dropped.samples.push(Sample::new(&document.id, &reason.detail, document.text()));
        }
    }

    /// A document went through all steps.
    pub fn kept(&mut self, document: &Document) {
        self.kept.count(document.text().len());
        self.lengths_kept.count(document.text().len());
        if document.labels.contains_key("held_out") {
            self.held_out.count(document.text().len());
        }
        if let Some(language) = document.labels.get("language").and_then(|l| l.as_str()) {
            *entry(&mut self.languages, language) += 1;
        }
    }

    /// Adds what was counted elsewhere. The order decides only which samples stay.
    pub fn add(&mut self, other: &Tally) {
        self.read.add(other.read);
        self.kept.add(other.kept);
        self.held_out.add(other.held_out);
        self.damaged.add(&other.damaged);
        self.lengths_read.add(&other.lengths_read);
        self.lengths_kept.add(&other.lengths_kept);
        for (step, changed) in &other.changed {
            let sum = entry(&mut self.changed, step);
            sum.documents += changed.documents;
            sum.bytes += changed.bytes;
        }
        for (rule, dropped) in &other.dropped {
            entry(&mut self.dropped, rule).add(dropped);
        }
        for (kind, count) in &other.passed_over {
            *entry(&mut self.passed_over, kind) += count;
        }
        for (field, count) in &other.with_field {
            *entry(&mut self.with_field, field) += count;
        }
        for (source, count) in &other.duplicates_of {
            *entry(&mut self.duplicates_of, source) += count;
        }
        for (language, count) in &other.languages {
            *entry(&mut self.languages, language) += count;
        }
    }

    /// Documents that were read and neither kept nor dropped: none, once all phases are done.
    pub fn unaccounted(&self) -> i64 {
        let dropped: u64 = self.dropped.values().map(|d| d.volume.documents).sum();
        self.read.documents as i64 - self.kept.documents as i64 - dropped as i64
    }
}

/// The value of a key, made when it is new: keys repeat, and are allocated once.
fn entry<'a, T: Default>(map: &'a mut BTreeMap<String, T>, key: &str) -> &'a mut T {
    if !map.contains_key(key) {
        map.insert(key.to_string(), T::default());
    }
    map.get_mut(key).expect("it was made")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Verdict;

    #[test]
    fn sums_of_parts_are_counts_of_the_whole() {
        let documents: Vec<Document> = (0..40).map(|i| Document::new(i.to_string(), "é".repeat(i))).collect();
        let count = |documents: &[Document]| {
            let mut tally = Tally::default();
            for (i, document) in documents.iter().enumerate() {
                tally.read(document, &[]);
                match i % 4 {
                    0 => tally.kept(document),
                    1 => {
                        tally.changed("unicode", document.text().len() + 7, document.text().len());
                        tally.kept(document);
                    }
                    _ => {
                        let Verdict::Drop(reason) = Verdict::drop("rule.a", "3, not 4") else { unreachable!() };
                        tally.dropped(document, &reason);
                    }
                }
            }
            tally
        };
        let whole = count(&documents);
        let mut sum = Tally::default();
        documents.chunks(8).for_each(|part| sum.add(&count(part)));
        assert_eq!(sum, whole);
        assert_eq!(whole.unaccounted(), 0);
        assert_eq!(whole.changed["unicode"], Changed { documents: 10, bytes: 70 });
        assert_eq!(whole.dropped["rule.a"].samples.len(), SAMPLES_MAX);
        assert_eq!(whole.lengths_read.counts, [1, 1, 2, 4, 8, 16, 8]);
    }

    #[test]
    fn a_sample_ends_between_characters() {
        assert_eq!(Sample::new("a", "b", &"é".repeat(900)).text.len(), 600);
        assert_eq!(Sample::new("a", "b", &format!("x{}", "é".repeat(900))).text.len(), 599);
    }
}
