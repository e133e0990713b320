//! The language of a document, by the trigrams of its letters: a label, and the languages that are kept

use serde::Deserialize;
use whatlang::Lang;

use super::limits::{at_least, check_shares};
use super::{Made, Settings, Surroundings};
use crate::{Document, Step, Verdict};

/// Every document gets the labels `language` (a BCP 47 tag, `und` where it cannot be told) and `language_confidence`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Language {
    /// Tags of the languages that are kept, such as `en`; all if there are none.
    pub keep: Vec<String>,
    /// Confidence below which a document is dropped. FineWeb asks 0.65 of fastText (arXiv:2406.17557, section 3.3); whatlang's is another scale, 1 in most texts of a paragraph.
    pub confidence_min: f64,
    /// Letters below which the language is not asked for, since a line is told wrongly too often. Such documents are kept as `und`, or dropped.
    pub letters_min: usize,
    /// Whether they are dropped.
    pub drop_short: bool,
    /// Bytes that are looked at, from the middle of the document.
    pub sample_bytes: usize,
}

impl Default for Language {
    fn default() -> Language {
        Language { keep: Vec::new(), confidence_min: 0.65, letters_min: 40, drop_short: false, sample_bytes: 1024 }
    }
}

impl Settings for Language {
    fn make(self, _: Surroundings) -> Result<Made, String> {
        check_shares(&[("confidence_min", self.confidence_min)])?;
        let known = |tag: &str| TAGS.iter().any(|(_, known)| *known == tag);
        if let Some(unknown) = self.keep.iter().find(|tag| !known(tag)) {
            let mut tags = TAGS.map(|(_, tag)| tag);
            tags.sort_unstable();
            return Err(format!("keep: {unknown:?} is none of {}", tags.join(", ")));
        }
        if self.sample_bytes < self.letters_min {
            return Err(format!("sample_bytes {} has no room for letters_min {}", self.sample_bytes, self.letters_min));
        }
        Ok(Made::Alone(Box::new(self)))
    }
}

/// Tags of languages by whatlang's codes, which are those of ISO 639-3.
#[rustfmt::skip]
const TAGS: [(&str, &str); 70] = [
    ("afr", "af"), ("aka", "ak"), ("amh", "am"), ("ara", "ar"), ("aze", "az"), ("bel", "be"), ("ben", "bn"), ("bul", "bg"), ("cat", "ca"), ("ces", "cs"),
    ("cmn", "zh"), ("cym", "cy"), ("dan", "da"), ("deu", "de"), ("ell", "el"), ("eng", "en"), ("epo", "eo"), ("est", "et"), ("fin", "fi"), ("fra", "fr"),
    ("guj", "gu"), ("heb", "he"), ("hin", "hi"), ("hrv", "hr"), ("hun", "hu"), ("hye", "hy"), ("ind", "id"), ("ita", "it"), ("jav", "jv"), ("jpn", "ja"),
    ("kan", "kn"), ("kat", "ka"), ("khm", "km"), ("kor", "ko"), ("lat", "la"), ("lav", "lv"), ("lit", "lt"), ("mal", "ml"), ("mar", "mr"), ("mkd", "mk"),
    ("mya", "my"), ("nep", "ne"), ("nld", "nl"), ("nob", "nb"), ("ori", "or"), ("pan", "pa"), ("pes", "fa"), ("pol", "pl"), ("por", "pt"), ("ron", "ro"),
    ("rus", "ru"), ("sin", "si"), ("slk", "sk"), ("slv", "sl"), ("sna", "sn"), ("spa", "es"), ("srp", "sr"), ("swe", "sv"), ("tam", "ta"), ("tel", "te"),
    ("tgl", "tl"), ("tha", "th"), ("tuk", "tk"), ("tur", "tr"), ("ukr", "uk"), ("urd", "ur"), ("uzb", "uz"), ("vie", "vi"), ("yid", "yi"), ("zul", "zu"),
];

fn tag(language: Lang) -> &'static str {
    TAGS.iter().find(|(code, _)| *code == language.code()).map_or("und", |(_, tag)| tag)
}

/// About so many bytes from the middle.
fn middle(text: &str, bytes: usize) -> &str {
    let start = text.len().saturating_sub(bytes) / 2;
    &text[text.floor_char_boundary(start)..text.floor_char_boundary(start + bytes)]
}

/// Words that English is full of. Other languages have one or two of them, such as Dutch `of` and Polish `to`.
const ENGLISH: [&str; 10] = ["and", "his", "of", "that", "the", "they", "this", "to", "with", "you"];

/// Share of those words from which a text is English beyond doubt. A fifth of English prose is such words.
const ENGLISH_SHARE: f64 = 0.12;

/// Whether a text is English by its words alone, in a twentieth of the time that all languages take. English text of which this is not said is common.
fn is_plainly_english(sample: &str) -> bool {
    let (mut words, mut english, mut different) = (0usize, 0usize, 0u32);
    for word in sample.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
        words += 1;
        if let Some(at) = ENGLISH.iter().position(|known| word.eq_ignore_ascii_case(known)) {
            english += 1;
            different |= 1 << at;
        }
    }
    different.count_ones() >= 3 && english as f64 >= ENGLISH_SHARE * words as f64
}

/// The language of a text and how sure that is.
fn detect(sample: &str) -> (&'static str, f64) {
    if is_plainly_english(sample) {
        return ("en", 1.0);
    }
    whatlang::detect(sample).map_or(("und", 0.0), |info| (tag(info.lang()), info.confidence()))
}

impl Step for Language {
    fn apply(&self, document: &mut Document) -> Verdict {
        let sample = middle(document.text(), self.sample_bytes);
        let letters = sample.chars().filter(|c| c.is_alphabetic()).count();
        let long = letters >= self.letters_min;
        let (tag, confidence) = if long { detect(sample) } else { ("und", 0.0) };
        document.labels.insert("language".into(), tag.into());
        document.labels.insert("language_confidence".into(), ((confidence * 1000.0).round() / 1000.0).into());
        if !long {
            let short =
                || Verdict::drop("language.letters_min", format!("{letters} letters, less than {}", self.letters_min));
            return if self.drop_short { short() } else { Verdict::Keep };
        }
        if !self.keep.is_empty() && !self.keep.iter().any(|kept| kept == tag) {
            return Verdict::drop("language.keep", tag);
        }
        at_least("language.confidence_min", "confidence", confidence, self.confidence_min).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::tests::{broken, refused};

    fn labelled(text: &str) -> String {
        let mut document = Document::new("test", text);
        Language::default().apply(&mut document);
        document.labels["language"].as_str().unwrap().to_owned()
    }

    #[test]
    fn languages_are_labelled() {
        for (tag, text) in [
            ("en", "When they came to the river, the old man said that nobody had crossed it since the flood."),
            (
                "de",
                "Als sie an den Fluss kamen, sagte der alte Mann, dass ihn seit der Flut niemand \u{fc}berquert habe.",
            ),
            (
                "fr",
                "Quand ils arriv\u{e8}rent \u{e0} la rivi\u{e8}re, le vieil homme dit que personne ne l'avait travers\u{e9}e depuis la crue.",
            ),
            (
                "es",
                "Cuando llegaron al r\u{ed}o, el anciano dijo que nadie lo hab\u{ed}a cruzado desde la inundaci\u{f3}n.",
            ),
            (
                "ru",
                "\u{41a}\u{43e}\u{433}\u{434}\u{430} \u{43e}\u{43d}\u{438} \u{43f}\u{440}\u{438}\u{448}\u{43b}\u{438} \u{43a} \u{440}\u{435}\u{43a}\u{435}, \u{441}\u{442}\u{430}\u{440}\u{438}\u{43a} \u{441}\u{43a}\u{430}\u{437}\u{430}\u{43b}, \u{447}\u{442}\u{43e} \u{43d}\u{438}\u{43a}\u{442}\u{43e} \u{435}\u{451} \u{43d}\u{435} \u{43f}\u{435}\u{440}\u{435}\u{445}\u{43e}\u{434}\u{438}\u{43b}.",
            ),
            ("und", "Yes."),
            ("und", "1234567890 1234567890 1234567890 1234567890 1234567890"),
        ] {
            assert_eq!(labelled(text), tag, "{text}");
        }
    }

    #[test]
    fn plainly_english_is_no_other_language() {
        let english = "They said to the old man that nobody had crossed the river.";
        assert_eq!(detect(english), ("en", 1.0));
        assert!(is_plainly_english(english));
        // Few such words among many, and words of the list that others have too.
        for other in [
            "The quick brown fox jumps over lazy dogs, then rests under tall green trees and sleeps until morning comes.",
            "Wil je thee of koffie, of ben je al weg? Kom je vandaag of morgen, of blijf je liever thuis bij je moeder of je zus?",
            "Powiedz mi, co to jest i po co to komu, bo to nie jest takie proste, jak to si\u{119} czasem wydaje ludziom, kt\u{f3}rzy to widz\u{105}.",
            "of of to",
            "",
        ] {
            assert!(!is_plainly_english(other), "{other}");
        }
    }

    #[test]
    fn every_language_has_a_tag() {
        assert!(Lang::all().iter().all(|&language| tag(language) != "und"));
        assert_eq!(Lang::all().len(), TAGS.len());
    }

    #[test]
    fn each_rule() {
        let settings = Language { keep: vec!["en".into(), "fr".into()], drop_short: true, ..Language::default() };
        let english = "When they came to the river, the old man said that nobody had crossed it.";
        assert_eq!(broken(&settings, english), "");
        assert_eq!(
            broken(&settings, "Ich wei\u{df} nicht, was soll es bedeuten, dass ich so traurig bin."),
            "language.keep"
        );
        assert_eq!(broken(&settings, "Hello."), "language.letters_min");
        assert_eq!(
            broken(
                &Language { confidence_min: 1.0, ..Language::default() },
                "Han var i byen og s\u{e5} en hund som var stor og gammel, men den var ikke hans."
            ),
            "language.confidence_min"
        );
        assert!(refused::<Language>("keep = ['english']").starts_with("keep: \"english\" is none of af, ak"));
        assert!(refused::<Language>("sample_bytes = 10").contains("no room"));
    }

    #[test]
    fn the_middle_of_a_text_is_between_characters() {
        assert_eq!(middle("abcdef", 2), "cd");
        assert_eq!(middle("abc", 9), "abc");
        assert_eq!(middle("\u{e9}\u{e9}\u{e9}", 2), "\u{e9}");
    }
}
