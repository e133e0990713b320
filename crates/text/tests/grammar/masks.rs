//! Expressions, choices and Lark grammars, and the masks of any constraint.

use super::*;

#[test]
fn expressions_choices_and_grammars_are_kept() {
    let (tokenizer, grammars) = bundled();
    let run = |wanted: &Constraint, seed| {
        let mut matcher = grammars.compile(wanted).unwrap();
        let output = sample(&mut matcher, &tokenizer, EOS, &mut Random(seed), 300, &[]).unwrap();
        assert!(output.finished);
        text_of(&tokenizer, &output.ids)
    };
    let choices: Vec<String> =
        ["yes", "yes, but", "no", "a \"quoted\"\nline\\", "\u{4e2d}\u{6587}"].map(String::from).into();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..80 {
        let text = run(&Constraint::Choice(choices.clone()), seed);
        assert!(choices.contains(&text), "{text:?}");
        seen.insert(text);
    }
    assert_eq!(seen.len(), choices.len());
    for seed in 0..30 {
        let text = run(&Constraint::Regex(r"[a-f]{2,4}/\d+(\.\d)?".to_string()), seed);
        let (word, number) = text.split_once('/').unwrap();
        assert!((2..=4).contains(&word.len()) && word.bytes().all(|b| (b'a'..=b'f').contains(&b)), "{text}");
        assert!(number.parse::<f64>().is_ok(), "{text}");
        let sum = run(&Constraint::Lark("start: N (\"+\" N)*\nN: /[0-9]{1,3}/".to_string()), seed);
        assert!(sum.split('+').all(|n| n.len() <= 3 && n.parse::<u32>().is_ok()), "{sum}");
    }
    let marked = Constraint::Lark("start: \"a\" <think> \"b\"".to_string());
    assert_eq!(run(&marked, 1), "a<think>b");
    assert!(grammars.compile(&Constraint::Lark("start: <[2060]>".to_string())).is_err());
    for none in [vec![], vec![String::new()], vec!["a".repeat(70_000)], vec!["a".to_string(); 3_000]] {
        assert!(grammars.compile(&Constraint::Choice(none)).is_err());
    }
}

#[test]
fn masks_hold_no_foreign_id_and_end_only_at_the_end() {
    let (tokenizer, grammars) = bundled();
    let mut matcher = grammars.compile(&Constraint::Choice(vec!["ab".to_string()])).unwrap();
    let set = |bits: &[u32]| -> Vec<u32> {
        (0..bits.len() as u32 * 32).filter(|&id| bits[id as usize / 32] >> (id % 32) & 1 == 1).collect()
    };
    let first = set(matcher.allowed().unwrap());
    assert_eq!(matcher.allowed().unwrap().len(), 2064usize.div_ceil(32));
    assert!(
        !first.is_empty()
            && first.iter().all(|&id| b"ab".starts_with(&tokenizer.bytes(id).unwrap()) && !tokenizer.is_special(id)),
        "{first:?}"
    );
    // Refused tokens leave it where it was.
    for id in [EOS, 0, 7, 2047, 2050, 2063, 2064, u32::MAX] {
        assert!(matches!(matcher.accept(id), Err(GrammarError::NotAllowed(_))), "{id}");
    }
    assert!(!matcher.is_done() && !matcher.may_end());
    for id in tokenizer.encode("ab", false).unwrap() {
        matcher.accept(id).unwrap();
    }
    assert!(matcher.may_end() && matcher.is_done());
    assert_eq!(set(matcher.allowed().unwrap()), [EOS]);
    // Everything text may be is in a free mask: each byte, and nothing without a token.
    let mut free = grammars.compile(&Constraint::Regex("(?s:.*)".to_string())).unwrap();
    let all = set(free.allowed().unwrap());
    assert!(
        all.len() > 1_800 && all.contains(&EOS) && all.iter().all(|&id| id == EOS || !tokenizer.is_special(id)),
        "{}",
        all.len()
    );
    assert!(all.iter().all(|&id| id < 2048));
}

/// SentencePiece vocabularies have two ids for one text, a piece and a byte: both may come.
#[test]
fn two_ids_of_one_text_are_both_allowed() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stories260K.tokenizer.json");
    let tokenizer = Tokenizer::from_json(&std::fs::read(path).unwrap()).unwrap();
    let grammars = Grammars::new(&tokenizer, &[2], 512).unwrap();
    let mut matcher = grammars.compile(&Constraint::Choice(vec!["e".to_string()])).unwrap();
    let bits = matcher.allowed().unwrap().to_vec();
    let found: Vec<u32> = (0..512).filter(|&id| bits[id as usize / 32] >> (id % 32) & 1 == 1).collect();
    let same: Vec<u32> =
        (0..512).filter(|&id| !tokenizer.is_special(id) && tokenizer.bytes(id).is_some_and(|b| b == b"e")).collect();
    assert_eq!(same.len(), 2);
    assert_eq!(found, same);
    for id in same {
        let mut one = matcher.clone();
        one.accept(id).unwrap();
        assert!(one.is_done());
    }
}

#[test]
fn vocabularies_that_contradict_are_refused() {
    let (tokenizer, _) = bundled();
    assert!(Grammars::new(&tokenizer, &[], 2048).is_err());
    assert!(Grammars::new(&tokenizer, &[2048], 2048).is_err());
}

#[test]
fn reasoning_is_free_until_its_marker() {
    let (tokenizer, grammars) = bundled();
    let wanted = strict(
        json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false}),
    );
    for marker in ["</think>", "[/THINK]"] {
        let wish = tokenizer.encode(marker, false).unwrap();
        assert_eq!(wish.len() == 1, marker == "</think>");
        let mut finished = 0;
        for seed in 0..40 {
            let mut matcher = grammars.compile_after(Some(marker), &wanted).unwrap();
            assert!(!matcher.may_end());
            let output = sample(&mut matcher, &tokenizer, EOS, &mut Random(seed), 200, &wish).unwrap();
            if output.finished {
                finished += 1;
                let text = text_of(&tokenizer, &output.ids);
                let (_, answer) = text.split_once(marker).unwrap_or_else(|| panic!("{text}"));
                let value: Value = serde_json::from_str(answer).unwrap_or_else(|e| panic!("{e}: {text}"));
                assert!(value["n"].is_i64() || value["n"].is_u64() || value["n"].is_number(), "{text}");
            }
        }
        assert!(finished > 10, "{marker}: {finished}");
    }
}

#[test]
fn matchers_move_between_threads() {
    fn sent<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    sent::<Matcher>();
    shared::<Grammars>();
}
