//! `line_dedup` against counting all lines

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn exactly_the_lines_above_the_limit_are_cut(
        parts in prop::collection::vec(prop::collection::vec("([abAB] ?\n|\n|\u{e9}\r\n){0,8}[ab ]{0,2}", 0..12), 1..4),
        occurrences_max in 1usize..6,
        keep_first: bool,
    ) {
        let trimmed = |line: &str| line.trim().to_string();
        let mut counts: HashMap<String, usize> = HashMap::new();
        for line in parts.iter().flatten().flat_map(|text| text.split('\n')) {
            *counts.entry(trimmed(line)).or_default() += 1;
        }
        counts.remove("");
        let mut seen = HashMap::new();
        let keep = if keep_first { "first" } else { "none" };
        let join = join("line_dedup", &format!("occurrences_max = {occurrences_max}\nkeep = {keep:?}"));
        let outcomes = outcome(&*join, &parts);
        for (text, (left, verdict, _)) in parts.iter().flatten().zip(outcomes.iter().flatten()) {
            let mut expected = String::new();
            for line in text.split_inclusive('\n') {
                let key = trimmed(line);
                let occurrence = *seen.entry(key.clone()).and_modify(|n| *n += 1).or_insert(0);
                let too_many = counts.get(&key).is_some_and(|&count| count > occurrences_max);
                if !too_many || (keep_first && occurrence == 0) {
                    expected.push_str(line);
                }
            }
            if expected.trim().is_empty() && expected != *text {
                prop_assert!(matches!(verdict, Verdict::Drop(_)));
            } else {
                prop_assert_eq!(verdict, &Verdict::Keep);
                prop_assert_eq!(left, &expected);
            }
        }
    }
}

#[test]
fn short_lines_stay_and_documents_that_lose_too_much_go() {
    let parts = [vec!["}\nMenu of all\nA text of its own\n", "}\nMENU of  all\nx\n"], vec!["}\nMenu, of all!"]];
    let with = |more: &str| {
        let settings = format!("occurrences_max = 1\nkeep = 'first'\nnormalize = 'letters'\nchars_min = 3\n{more}");
        outcome(&*join("line_dedup", &settings), &parts)
            .into_iter()
            .flatten()
            .map(|(t, v, _)| (t, v))
            .collect::<Vec<_>>()
    };
    let kept = with("");
    assert_eq!(kept.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>(), [parts[0][0], "}\nx\n", "}\n"]);
    let strict = with("lost_share_max = 0.8");
    assert_eq!(strict[1].1, Verdict::Keep, "12 of 16 bytes");
    let Verdict::Drop(reason) = &strict[2].1 else { panic!("13 of 15 bytes") };
    assert_eq!(reason.rule, "line_dedup.lost_share_max");
    assert!(reason.detail.contains("87 %") && reason.detail.ends_with("first in"), "{}", reason.detail);
}

#[test]
fn settings_that_cannot_be_are_refused() {
    assert!(refusal("line_dedup", "occurrences_max = 0").contains("occurrences_max = 0"));
    assert!(refusal("line_dedup", "lost_share_max = 1.5").contains("lost_share_max = 1.5"));
    assert!(refusal("line_dedup", "lost_share_max = nan").contains("lost_share_max"));
    assert!(refusal("line_dedup", "keep = 'last'").contains("last"));
}
