//! `substring_dedup` against the longest earlier substring at every byte, found by comparing

use proptest::prelude::*;

use super::*;

/// For each byte of the corpus, the bytes of the longest substring around it that also begins earlier, in the same text by `offset_min` bytes.
fn earlier(texts: &[&str], offset_min: usize) -> Vec<Vec<usize>> {
    let mut longest: Vec<Vec<usize>> = texts.iter().map(|text| vec![0; text.len()]).collect();
    for later in 0..texts.len() {
        for before in 0..=later {
            let (one, other) = (texts[before].as_bytes(), texts[later].as_bytes());
            // Common extensions to the left of every two ends.
            let mut row = vec![0; other.len() + 1];
            for i in 0..one.len() {
                for j in (0..other.len()).rev() {
                    row[j + 1] = if one[i] == other[j] { row[j] + 1 } else { 0 };
                    let length = row[j + 1];
                    if length > 0 && (before < later || i + offset_min <= j) {
                        // Only where it cannot go on: what is shorter lies within.
                        let goes_on = i + 1 < one.len() && j + 1 < other.len() && one[i + 1] == other[j + 1];
                        if !goes_on {
                            longest[later][j + 1 - length..=j].iter_mut().for_each(|l| *l = (*l).max(length));
                        }
                    }
                }
            }
        }
    }
    longest
}

/// Which bytes of a text were cut, if what is left comes from it in order and the cuts are as decided.
fn cut_bytes(text: &str, decisions: &[Decision], k: usize) -> Vec<bool> {
    let mut cut = vec![false; text.len()];
    for decision in decisions {
        let start = decision.position as usize;
        cut[start..start + k].fill(true);
    }
    cut
}

/// Texts put together from a few passages, so that there are repeats of all lengths, within and between.
fn texts() -> impl Strategy<Value = Vec<Vec<String>>> {
    let passage = prop_oneof![
        "[ab]{1,3}",
        prop::sample::select(vec![
            "the quick brown fox jumps over the lazy dog ",
            "pack my box with five dozen jugs ",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "\u{6211}\u{7231}\u{4f60}\u{4eec}\u{7684}\u{4e66}",
        ])
        .prop_flat_map(|text| {
            let chars = text.chars().count();
            (0..chars, 0..chars).prop_map(move |(from, count)| text.chars().skip(from).take(count).collect::<String>())
        }),
    ];
    let text = prop::collection::vec(passage, 0..7).prop_map(|passages| passages.concat());
    prop::collection::vec(prop::collection::vec(text, 0..5), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_long_repeat_is_found_up_to_its_ends_and_no_short_one(
        parts in texts(), window in 1usize..9, more in 0usize..12,
    ) {
        let bytes_min = 2 * window + more;
        let k = bytes_min - window + 1;
        let join = join("substring_dedup", &format!("bytes_min = {bytes_min}\nwindow = {window}"));
        let outcomes = outcome(&*join, &parts);
        let texts: Vec<&str> = parts.iter().flatten().map(String::as_str).collect();
        let (any, longest) = (earlier(&texts, 1), earlier(&texts, window));
        let each = texts.iter().zip(outcomes.iter().flatten()).zip(any.iter().zip(&longest));
        for ((text, (left, verdict, decisions)), (any, longest)) in each {
            let cut = cut_bytes(text, decisions, k);
            for (at, &length) in any.iter().enumerate() {
                prop_assert!(!cut[at] || length >= k, "byte {} of {:?} is in no earlier passage of {}", at, text, k);
            }
            // Inside of every run of bytes that one repeat covers, all but `window - 1` at each end are cut.
            let mut begin = 0;
            while begin < longest.len() {
                let length = longest[begin];
                let run = longest[begin..].iter().take_while(|&&l| l == length).count();
                if length >= bytes_min && run == length {
                    let inside = begin + window - 1..begin + run - (window - 1);
                    prop_assert!(cut[inside].iter().all(|&cut| cut), "{:?} from {} for {}", text, begin, length);
                }
                begin += run;
            }
            // What is left are the other bytes, except for the words that a cut would go through.
            if *verdict == Verdict::Keep {
                let mut rest = text.char_indices().peekable();
                for c in left.chars() {
                    while rest.next_if(|&(at, other)| other != c && cut[at..at + other.len_utf8()].iter().all(|&c| c)).is_some() {}
                    prop_assert!(rest.next().is_some(), "{:?} of {:?}", left, text);
                }
                prop_assert!(cut.iter().any(|&cut| cut) || left == text);
            }
        }
    }
}

#[test]
fn a_passage_stays_where_it_is_first() {
    let passage = "This passage of a licence is repeated in very many documents, and nobody has to read it more than once. \
                   It goes on for quite some time, as such passages do, so that it has more than two hundred bytes in all. ";
    let one = format!("The first document begins. {passage}And it ends here.");
    let two = format!("Another one, with other words. {passage}Other words at the end as well.");
    let other = "A third one, in which nothing at all is repeated.".to_string();
    let documents =
        outcome(&*join("substring_dedup", ""), &[vec![one.clone(), two.clone()], vec![other.clone(), one.clone()]]);
    assert_eq!((&documents[0][0].0, &documents[1][0].0), (&one, &other));
    let left = &documents[0][1].0;
    assert!(left.starts_with("Another one, with other words. ") && left.ends_with("Other words at the end as well."));
    assert!(left.len() < two.len() - passage.len() + 2 * (50 + 32), "{left}");
    assert!(left.split(' ').all(|word| two.split(' ').any(|other| word == other)), "whole words: {left}");
    // A copy of the whole: no more than its ends are left.
    let (left, _, decisions) = &documents[1][1];
    assert!(left.len() <= 2 * (49 + 32), "{left}");
    assert!(decisions.iter().all(|decision| decision.kept == place(0, 0)));

    let strict = outcome(&*join("substring_dedup", "lost_share_max = 0.5"), &[vec![one.clone(), two], vec![one]]);
    let Verdict::Drop(reason) = &strict[1][0].1 else { panic!("most of it is repeated") };
    assert_eq!(reason.rule, "substring_dedup.lost_share_max");
}

#[test]
fn settings_that_cannot_be_are_refused() {
    for (settings, said) in [
        ("bytes_min = 1", "bytes_min = 1"),
        ("bytes_min = 100\nwindow = 51", "from 1 to 50"),
        ("window = 0", "window = 0"),
        ("lost_share_max = -0.1", "lost_share_max = -0.1"),
    ] {
        assert!(refusal("substring_dedup", settings).contains(said), "{}", refusal("substring_dedup", settings));
    }
}
