//! Gopher's, C4's and FineWeb's rules decide as datatrove 0.10.1 does, and for the same reason

use std::path::Path;

use farthing_data::steps::{KINDS, Made, Surroundings, c4};
use farthing_data::{Document, Verdict};
use serde_json::{Map, Value};

/// datatrove's reasons and our rules.
const REASONS: &[(&str, &str)] = &[
    ("gopher_short_doc", "gopher_quality.words_min"),
    ("gopher_long_doc", "gopher_quality.words_max"),
    ("gopher_below_avg_threshold", "gopher_quality.word_length_min"),
    ("gopher_above_avg_threshold", "gopher_quality.word_length_max"),
    ("gopher_too_many_hashes", "gopher_quality.hashes_max"),
    ("gopher_too_many_ellipsis", "gopher_quality.ellipses_max"),
    ("gopher_too_many_bullets", "gopher_quality.bullet_lines_max"),
    ("gopher_too_many_end_ellipsis", "gopher_quality.ellipsis_lines_max"),
    ("gopher_below_alpha_threshold", "gopher_quality.alphabetic_words_min"),
    ("gopher_enough_stop_words", "gopher_quality.stop_words_min"),
    ("dup_para_frac", "gopher_repetition.duplicate_paragraphs"),
    ("dup_para_char_frac", "gopher_repetition.duplicate_paragraph_characters"),
    ("dup_line_frac", "gopher_repetition.duplicate_lines"),
    ("dup_line_char_frac", "gopher_repetition.duplicate_line_characters"),
    ("top_2_gram", "gopher_repetition.top_2_gram"),
    ("top_3_gram", "gopher_repetition.top_3_gram"),
    ("top_4_gram", "gopher_repetition.top_4_gram"),
    ("duplicated_5_n_grams", "gopher_repetition.duplicate_5_grams"),
    ("duplicated_6_n_grams", "gopher_repetition.duplicate_6_grams"),
    ("duplicated_7_n_grams", "gopher_repetition.duplicate_7_grams"),
    ("duplicated_8_n_grams", "gopher_repetition.duplicate_8_grams"),
    ("duplicated_9_n_grams", "gopher_repetition.duplicate_9_grams"),
    ("duplicated_10_n_grams", "gopher_repetition.duplicate_10_grams"),
    ("too_few_sentences", "c4.sentences_min"),
    ("lorem_ipsum", "c4.lorem_ipsum"),
    ("curly_bracket", "c4.curly_bracket"),
    ("empty", "fineweb.empty"),
    ("line_punct_ratio", "fineweb.punctuated_lines_min"),
    ("short_line_ratio", "fineweb.short_lines_max"),
    ("char_dup_ratio", "fineweb.duplicate_line_characters_max"),
    ("list_ratio", "fineweb.line_feeds_max"),
];

/// Texts on which the two differ, because their words do: name, filter, our rule.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("differs: brackets are part of a word there", "gopher_quality", "gopher_quality.alphabetic_words_min"),
    ("differs: addresses are one word there", "gopher_quality", "gopher_quality.alphabetic_words_min"),
    ("differs: addresses are one word there", "gopher_repetition", "gopher_repetition.duplicate_5_grams"),
    ("differs: a title has its full stop there", "gopher_quality", "gopher_quality.alphabetic_words_min"),
];

fn records() -> Vec<Map<String, Value>> {
    serde_json::from_str(include_str!("data/rules.json")).unwrap()
}

fn decide(filter: &str, text: &str) -> &'static str {
    let kind = KINDS.iter().find(|kind| kind.name == filter).unwrap();
    let surroundings = Surroundings { directory: Path::new("."), seed: 0 };
    let Ok(Made::Alone(step)) = (kind.make)(toml::Table::new(), surroundings) else { panic!("{filter}") };
    match step.apply(&mut Document::new("test", text)) {
        Verdict::Keep => "",
        Verdict::Drop(reason) => reason.rule,
    }
}

#[test]
fn decisions_and_reasons_are_those_of_datatrove() {
    for record in records() {
        let (name, text) = (record["id"].as_str().unwrap(), record["text"].as_str().unwrap());
        for filter in ["gopher_quality", "gopher_repetition", "c4", "fineweb"] {
            let theirs = record[filter].as_str().unwrap();
            let rule = REASONS.iter().find(|(reason, _)| *reason == theirs).map_or("", |(_, rule)| rule);
            let known = DIFFERENCES.iter().find(|(known, of, _)| *known == name && *of == filter);
            let expected = known.map_or(rule, |(.., rule)| rule);
            assert!(known.is_none() || expected != rule, "{name}: no difference");
            assert_eq!(decide(filter, text), expected, "{filter}: {name}");
        }
    }
}

#[test]
fn every_reason_but_length_is_among_the_texts() {
    let records = records();
    let used = |reason: &str| records.iter().any(|record| record.values().any(|value| value == reason));
    let unused: Vec<&str> = REASONS.iter().map(|(reason, _)| *reason).filter(|reason| !used(reason)).collect();
    assert_eq!(unused, ["gopher_long_doc"]);
}

#[test]
fn c4_leaves_the_same_lines() {
    let lines = c4::Lines { terminal_punctuation: false, ..c4::Lines::default() };
    for record in records() {
        let text = record["text"].as_str().unwrap();
        let theirs = record.get("c4_text").map_or(text, |left| left.as_str().unwrap());
        match lines.lines_left(text) {
            Ok(left) => assert_eq!(left, theirs, "{}", record["id"]),
            Err(reason) => assert_ne!(record["c4_lines"], "", "{}: {}", record["id"], reason.rule),
        }
    }
}
