//! Fill in the middle: a share of the texts is cut at two random characters and put in another order, so that a model learns to write what fits between two texts
//!
//! Bavarian et al., "Efficient Training of Language Models to Fill in the Middle" (arXiv 2207.14255): documents are cut at characters, not tokens,
//! before they are packed. Prefix, suffix, middle (PSM): `begin` prefix `hole` suffix `end` middle. Suffix, prefix, middle (SPM, their second
//! variant): `begin` `hole` suffix `end` prefix middle.

use std::ops::Range;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::{Made, Settings, Surroundings};
use crate::Document;
use crate::step::{Step, Verdict};
use crate::steps::marks::{self, MARKS, SPANS};

/// The label with the order that a text was put in: `psm` or `spm`.
const ORDER: &str = "fill_in_middle";

/// Settings. Rate and order are those of DeepSeek-Coder (arXiv 2401.14196: half of the documents, PSM), the marks those of its tokenizer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FillInMiddle {
    /// Share of the documents that are cut.
    rate: f64,
    /// Share of SPM among them.
    spm_rate: f64,
    begin: String,
    hole: String,
    end: String,
}

impl Default for FillInMiddle {
    fn default() -> FillInMiddle {
        FillInMiddle {
            rate: 0.5,
            spm_rate: 0.0,
            begin: "<｜fim▁begin｜>".into(),
            hole: "<｜fim▁hole｜>".into(),
            end: "<｜fim▁end｜>".into(),
        }
    }
}

struct Cutter {
    settings: FillInMiddle,
    seed: u64,
}

impl Settings for FillInMiddle {
    fn make(self, surroundings: Surroundings) -> Result<Made, String> {
        let settings = self;
        for (name, rate) in [("rate", settings.rate), ("spm_rate", settings.spm_rate)] {
            if !(0.0..=1.0).contains(&rate) {
                return Err(format!("{name} is {rate}; it goes from 0 to 1"));
            }
        }
        let FillInMiddle { begin, hole, end, .. } = &settings;
        if begin.is_empty() || hole.is_empty() || end.is_empty() || begin == hole || hole == end || begin == end {
            return Err(format!("begin {begin:?}, hole {hole:?} and end {end:?} are three different marks"));
        }
        Ok(Made::Alone(Box::new(Cutter { settings, seed: surroundings.seed })))
    }
}

impl Step for Cutter {
    /// Leaves alone what has marks already: a conversation has an order of its own.
    fn apply(&self, document: &mut Document) -> Verdict {
        if document.text().is_empty() || document.labels.contains_key(MARKS) || document.labels.contains_key(SPANS) {
            return Verdict::Keep;
        }
        let mut random = Pcg64::from_seed(self.hash(&document.id));
        if !random.random_bool(self.settings.rate) {
            return Verdict::Keep;
        }
        let spm = random.random_bool(self.settings.spm_rate);
        let (text, marks) = self.cut(document.text(), &mut random, spm);
        if text.len() > crate::document::TEXT_BYTES_MAX {
            return Verdict::drop("fill_in_middle.length", format!("{} bytes with marks", text.len()));
        }
        document.set_text(text);
        document.labels.insert(MARKS.into(), marks::to_value(&marks));
        document.labels.insert(ORDER.into(), if spm { "spm" } else { "psm" }.into());
        Verdict::Keep
    }
}

impl Cutter {
    /// 32 bytes that follow from the recipe's seed and the document.
    fn hash(&self, id: &str) -> [u8; 32] {
        let mut seed = [0; 32];
        for (i, half) in seed.chunks_exact_mut(16).enumerate() {
            let hash = xxh3_128_with_seed(id.as_bytes(), self.seed ^ (i as u64 + 1).rotate_right(8));
            half.copy_from_slice(&hash.to_le_bytes());
        }
        seed
    }

    fn cut(&self, text: &str, random: &mut Pcg64, spm: bool) -> (String, Vec<Range<usize>>) {
        let characters = text.chars().count();
        let mut cuts = [random.random_range(0..=characters), random.random_range(0..=characters)];
        cuts.sort_unstable();
        let (first, second) = split_after(text, cuts[0]);
        let (middle, last) = split_after(second, cuts[1] - cuts[0]);
        let FillInMiddle { begin, hole, end, .. } = &self.settings;
        let (prefix, suffix) = (first, last);
        let pieces: [(&str, bool); 6] = if spm {
            [(begin, true), (hole, true), (suffix, false), (end, true), (prefix, false), (middle, false)]
        } else {
            [(begin, true), (prefix, false), (hole, true), (suffix, false), (end, true), (middle, false)]
        };
        let mut to = String::with_capacity(text.len() + begin.len() + hole.len() + end.len());
        let mut marks = Vec::with_capacity(3);
        for (piece, mark) in pieces {
            let start = to.len();
            to.push_str(piece);
            if mark {
                marks.push(start..to.len());
            }
        }
        (to, marks)
    }
}

/// Splits a text after some characters.
fn split_after(text: &str, characters: usize) -> (&str, &str) {
    text.split_at(text.char_indices().nth(characters).map_or(text.len(), |(at, _)| at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(settings: &str, seed: u64) -> Result<Box<dyn Step>, String> {
        match crate::steps::make::<FillInMiddle>(
            settings.parse().unwrap(),
            Surroundings { directory: std::path::Path::new("."), seed },
        )? {
            Made::Alone(step) => Ok(step),
            Made::Joined(_) => unreachable!(),
        }
    }

    fn applied(settings: &str, seed: u64, id: &str, text: &str) -> Document {
        let mut document = Document::new(id, text);
        assert_eq!(step(settings, seed).unwrap().apply(&mut document), Verdict::Keep);
        document
    }

    /// The text as it was, by the marks.
    fn restored(document: &Document) -> String {
        let text = document.text();
        let marks = marks::of(document, MARKS).unwrap();
        let [begin, hole, end] = &marks[..] else { panic!("{marks:?}") };
        assert_eq!((&text[begin.clone()], &text[hole.clone()], &text[end.clone()]), ("<B>", "<H>", "<E>"));
        let (one, two, three) = (&text[begin.end..hole.start], &text[hole.end..end.start], &text[end.end..]);
        match document.labels[ORDER].as_str().unwrap() {
            "psm" => format!("{one}{three}{two}"),
            "spm" => {
                assert_eq!(one, "");
                format!("{three}{two}")
            }
            other => panic!("{other}"),
        }
    }

    const MARKS_SHORT: &str = "begin = \"<B>\"\nhole = \"<H>\"\nend = \"<E>\"\n";

    proptest! {
        #[test]
        fn the_text_comes_back(text in "\\PC{1,40}|(<B>|<H>|é|\u{1f600}| ){1,9}", id in "[a-z]{1,9}", seed: u64) {
            for order in ["spm_rate = 0", "spm_rate = 1", "spm_rate = 0.5"] {
                let document = applied(&format!("rate = 1.0\n{order}\n{MARKS_SHORT}"), seed, &id, &text);
                prop_assert_eq!(restored(&document), text.as_str());
            }
        }
    }

    #[test]
    fn rates_hold_and_cuts_are_uniform_over_characters() {
        let settings = format!("rate = 0.5\nspm_rate = 0.25\n{MARKS_SHORT}");
        let (mut cut, mut spm, mut ends) = (0, 0, [0u32; 11]);
        for i in 0..20_000 {
            let document = applied(&settings, 7, &format!("web/a#{i}"), "éééééééééé");
            let Some(order) = document.labels.get(ORDER) else { continue };
            cut += 1;
            if order == "spm" {
                spm += 1;
            } else {
                let prefix = document.text()["<B>".len()..].find("<H>").unwrap() / 2;
                ends[prefix] += 1;
            }
        }
        assert!((9_700..10_300).contains(&cut), "{cut}");
        assert!((2_300..2_700).contains(&spm), "{spm}");
        // The lesser of two uniform draws from 0..=10 is k in (21 - 2k) of 121 cases.
        for (k, &count) in ends.iter().enumerate() {
            let expected = f64::from(cut - spm) * (21.0 - 2.0 * k as f64) / 121.0;
            assert!((f64::from(count) - expected).abs() < 5.0 * expected.sqrt(), "{k}: {count}, not {expected}");
        }
    }

    #[test]
    fn it_follows_from_seed_and_id_alone_and_leaves_conversations_alone() {
        let text = "Once upon a time there was a cat.";
        let of = |seed, id: &str| applied("rate = 1.0", seed, id, text).text().to_owned();
        assert_eq!(of(1, "a#0"), of(1, "a#0"));
        assert_ne!(of(1, "a#0"), of(2, "a#0"));
        assert_ne!(of(1, "a#0"), of(1, "a#1"));
        let mut conversation = Document::new("a#0", text);
        conversation.labels.insert(SPANS.into(), marks::to_value(&[0..2, 2..4]));
        assert_eq!(step("rate = 1.0", 0).unwrap().apply(&mut conversation), Verdict::Keep);
        assert_eq!(conversation.text(), text);
        assert!(step("rate = 1.5", 0).err().unwrap().contains("rate is 1.5"));
        assert!(step("begin = \"<｜fim▁hole｜>\"", 0).err().unwrap().contains("three different marks"));
    }
}
