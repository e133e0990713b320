//! `exact_dedup` against comparing all texts; the driver of all joins

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// The plain twin of `normalize`, by other means than the step's.
fn normalized(normalize: &str, text: &str) -> String {
    match normalize {
        "none" => text.to_string(),
        "whitespace" => text.split_whitespace().collect::<Vec<_>>().join(" "),
        _ => text.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn exactly_the_later_ones_of_equal_texts_are_dropped(
        parts in prop::collection::vec(prop::collection::vec("[aA \u{e9}.\n]{0,4}", 0..40), 1..5),
    ) {
        for normalize in ["none", "whitespace", "letters"] {
            let mut first = HashMap::new();
            let mut expected = Vec::new();
            for (part, texts) in parts.iter().enumerate() {
                for (number, text) in texts.iter().enumerate() {
                    let here = place(part, number);
                    let kept = *first.entry(normalized(normalize, text)).or_insert(here);
                    if kept != here {
                        expected.push((here, kept));
                    }
                }
            }
            let join = join("exact_dedup", &format!("normalize = {normalize:?}"));
            prop_assert_eq!(dropped(&*join, &parts), expected);
        }
    }
}

#[test]
fn a_reason_ends_before_the_document_that_is_kept() {
    let join = join("exact_dedup", "");
    let parts = [vec!["a", "b"], vec![], vec!["b", "c"]];
    let documents = outcome(&*join, &parts);
    let Verdict::Drop(reason) = &documents[2][0].1 else { panic!("it is a duplicate") };
    assert_eq!((reason.rule, reason.detail.as_ref()), ("exact_dedup", "the same text as"));
    assert_eq!(documents[2][0].2[0].kept, place(0, 1));
    assert!(documents[2][1].1 == Verdict::Keep && documents[0].iter().all(|d| d.1 == Verdict::Keep));
}

#[test]
fn settings_that_are_none_are_refused() {
    assert!(refusal("exact_dedup", "normalise = 'none'").contains("normalise"));
    assert!(refusal("exact_dedup", "normalize = 'words'").contains("words"));
}

fn some_parts() -> Vec<Vec<String>> {
    (0..7).map(|part| (0..300 * part).map(|number| (part * number % 911).to_string()).collect()).collect()
}

#[test]
fn decisions_are_the_same_bytes_in_any_order_of_runs_and_with_any_memory() {
    let join = join("exact_dedup", "");
    let parts = some_parts();
    let mut seen: Vec<Vec<Vec<u8>>> = Vec::new();
    for memory_bytes in [1 << 10, 1 << 16, 1 << 24] {
        let directory = tempfile::tempdir().unwrap();
        let mut corpus = Corpus::write(&*join, &parts, directory.path(), memory_bytes);
        corpus.runs.reverse();
        corpus.runs.swap(1, 4);
        let runs = corpus.decide(&directory.path().join("decisions"), memory_bytes);
        seen.push(runs.iter().map(|run| std::fs::read(run).unwrap()).collect());
        let left: Vec<_> = std::fs::read_dir(directory.path().join("decisions")).unwrap().collect();
        assert_eq!(left.len(), parts.len(), "nothing but decisions is left");
    }
    assert!(seen[0].iter().any(|run| run.len() > 1000));
    assert!(seen[0] == seen[1] && seen[1] == seen[2]);
}

#[test]
fn what_is_finished_is_not_made_again_and_what_is_not_is() {
    let join = join("exact_dedup", "");
    let directory = tempfile::tempdir().unwrap();
    let decisions = directory.path().join("decisions");
    let corpus = Corpus::write(&*join, &some_parts(), directory.path(), MEMORY_BYTES);
    let runs = corpus.decide(&decisions, MEMORY_BYTES);
    let times = || -> Vec<_> { runs.iter().map(|run| std::fs::metadata(run).unwrap().modified().unwrap()).collect() };
    let (before, bytes) = (times(), std::fs::read(&runs[3]).unwrap());
    // What a killed run leaves: a part's decisions missing, and scratch.
    std::fs::create_dir_all(decisions.join("sorting")).unwrap();
    std::fs::write(decisions.join("sorting/1.run"), "half").unwrap();
    corpus.decide(&decisions, MEMORY_BYTES);
    assert_eq!(times(), before);
    std::fs::remove_file(&runs[3]).unwrap();
    corpus.decide(&decisions, MEMORY_BYTES);
    assert_eq!(std::fs::read(&runs[3]).unwrap(), bytes);
    assert!(times().iter().zip(&before).enumerate().all(|(part, (now, before))| part == 3 || now == before));
    // Other settings, or other records.
    decide(&*join, &Records { settings: "others", ..corpus.records() }, &decisions, MEMORY_BYTES).unwrap();
    assert!(times().iter().zip(&before).all(|(now, before)| now > before));
}

#[test]
fn records_of_documents_that_are_not_there_are_an_error() {
    let join = join("exact_dedup", "");
    let directory = tempfile::tempdir().unwrap();
    let corpus = Corpus::write(&*join, &[vec!["a", "b"], vec!["c"]], directory.path(), MEMORY_BYTES);
    for documents in [&[2, 0][..], &[2], &[1, 1]] {
        let records = Records { documents, ..corpus.records() };
        let error = decide(&*join, &records, &directory.path().join("decisions"), MEMORY_BYTES).unwrap_err();
        assert!(error.to_string().contains("remove them"), "{error}");
    }
}
