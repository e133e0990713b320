//! Tokenizers: trained ones obey their rules and are the same every time; tokens are those of the `tokenizers` library

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use farthing_data::shards::run;
use farthing_data::tokenizer::report::Fit;
use farthing_data::tokenizer::rules::{self, Digits};
use farthing_data::tokenizer::train::{Settings, Trained, WordCounts};
use farthing_data::tokenizer::{Encoder, Ends, Tokenizer, tokenize};
use farthing_data::{Document, Error};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde_json::{Value, json};

/// English from a short list of words, with numbers, punctuation, accents and Chinese.
fn corpus() -> Vec<Document> {
    let mut random = Pcg64::seed_from_u64(1);
    let words = [
        "the",
        "cat",
        "sat",
        "mat",
        "house",
        "Tom's",
        "don't",
        "said",
        "walking",
        "walked",
        "walks",
        "über",
        "naïve",
        "12",
        "1999",
        "3.14",
        "(see",
        "it)",
        "—",
        "\"Yes,\"",
        "中文",
        "日本語",
        "x=y",
        "end.",
        "\n",
        "\n\n",
        "\t",
        "  ",
        "!",
        "?!",
        "e-mail",
        "\u{1f600}",
    ];
    (0..300)
        .map(|i| {
            let count = random.random_range(1..120);
            let text: Vec<&str> = (0..count).map(|_| words[random.random_range(0..words.len())]).collect();
            Document::new(format!("made/{i}"), text.join(" "))
        })
        .collect()
}

fn settings(digits: Digits) -> Settings {
    Settings { vocabulary_size: 340, digits, ..Settings::default() }
}

fn train<'a>(settings: &Settings, documents: impl Iterator<Item = &'a Document>) -> Result<Trained, String> {
    let mut counts = WordCounts::new(settings, 0, 1);
    documents.for_each(|document| counts.add(document).unwrap());
    counts.train(settings)
}

fn loaded(trained: &Trained) -> Tokenizer {
    Tokenizer::from_json(&trained.tokenizer, &trained.config, &Ends::default()).unwrap()
}

static SINGLE: LazyLock<Tokenizer> =
    LazyLock::new(|| loaded(&train(&settings(Digits::Single), corpus().iter()).unwrap()));
static THREE: LazyLock<Tokenizer> =
    LazyLock::new(|| loaded(&train(&settings(Digits::Three), corpus().iter()).unwrap()));

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m/tokenizer.json")
}

static BUNDLED: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::open(&bundled(), &Ends::default()).unwrap());

fn tokens(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut tokens = Vec::new();
    Encoder::new(tokenizer).text(text, &mut tokens).unwrap();
    tokens
}

fn plainly(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut tokens = Vec::new();
    tokenizer.encode_plainly(text, &mut tokens).unwrap();
    tokens
}

#[test]
fn training_gives_the_same_file_whatever_the_order() {
    let documents = corpus();
    for digits in [Digits::Single, Digits::Three] {
        let settings = settings(digits);
        let first = train(&settings, documents.iter()).unwrap();
        assert!(first.tokenizer == train(&settings, documents.iter().rev()).unwrap().tokenizer);
        let mut merged = WordCounts::new(&settings, 0, 1);
        for part in documents.chunks(70) {
            let mut counts = WordCounts::new(&settings, 0, 1);
            part.iter().for_each(|document| counts.add(document).unwrap());
            merged.merge(counts);
        }
        assert!(first.tokenizer == merged.train(&settings).unwrap().tokenizer);
        assert_eq!(first.sample_bytes, documents.iter().map(|document| document.text().len() as u64).sum::<u64>());
    }
}

/// With twins a word has the same tokens behind a space as without one, but for the first, or has a space of its own before them.
#[test]
fn twins_divide_words_in_the_same_way_wherever_they_stand() {
    for digits in [Digits::Single, Digits::Three] {
        let settings = Settings { twins: true, ..settings(digits) };
        let trained = train(&settings, corpus().iter()).unwrap();
        assert!(trained.tokenizer == train(&settings, corpus().iter().rev()).unwrap().tokenizer);
        let tokenizer = loaded(&trained);
        let text = |ids: &[u32]| ids.iter().map(|&id| tokenizer.bytes(id).to_vec()).collect::<Vec<_>>();
        let mut merged = 0;
        for word in ["the", "cat", "house", "said", "walking", "walked", "walks", "over", "walker", "q", "naïve"] {
            let (bare, spaced) = (text(&tokens(&tokenizer, word)), text(&tokens(&tokenizer, &format!(" {word}"))));
            let begun = [b" ".to_vec(), bare[0].clone()].concat();
            let own = [vec![b" ".to_vec()], bare.clone()].concat();
            let twin = [vec![begun], bare[1..].to_vec()].concat();
            assert!(spaced == twin || spaced == own, "{word}: {bare:?}, {spaced:?}");
            merged += usize::from(spaced == twin);
        }
        assert!(merged >= 7, "{merged}");
        // Without them most words are divided otherwise.
        let plain = if digits == Digits::Single { &*SINGLE } else { &*THREE };
        assert!(tokens(plain, " walking").len() < tokens(plain, "walking").len());
    }
    // No word stands behind a space.
    let lines: Vec<Document> =
        corpus().into_iter().map(|d| Document::new(d.id.to_string(), d.text().replace(' ', "\n"))).collect();
    let few = Settings { twins: true, vocabulary_size: 300, ..settings(Digits::Single) };
    let said = train(&few, lines.iter()).err().unwrap();
    assert!(said.contains("behind a space"), "{said}");
    // White space that was merged already is no second token.
    let broken = |i: usize| Document::new(format!("broken/{i}"), "a line \n  \n\n \n and  \n another \n".repeat(20));
    let documents: Vec<Document> = corpus().into_iter().chain((0..20).map(broken)).collect();
    for digits in [Digits::Single, Digits::Three] {
        let trained = train(&Settings { twins: true, ..settings(digits) }, documents.iter()).unwrap();
        let model: Value = serde_json::from_slice(&trained.tokenizer).unwrap();
        assert_eq!(model["model"]["vocab"].as_object().unwrap().len(), 340);
    }
}

/// The class of a character under the rules of DeepSeek LLM.
fn class(c: char) -> &'static str {
    match c {
        '\n' | '\r' => "line break",
        _ if c.is_whitespace() => "space",
        _ if c.is_numeric() => "digit",
        '\u{4e00}'..='\u{9fa5}' => "Chinese",
        _ if c.is_alphabetic() => "letter",
        _ => "other",
    }
}

#[test]
fn no_token_crosses_classes_of_characters() {
    let vocabulary = SINGLE.vocabulary() as u32;
    assert_eq!(vocabulary, 340);
    let mut learned = 0;
    for id in (0..vocabulary).filter(|&id| !SINGLE.is_special(id)) {
        let Ok(piece) = std::str::from_utf8(SINGLE.bytes(id)) else { continue };
        // One space may stand before letters or punctuation.
        let inner = piece.strip_prefix(char::is_whitespace).filter(|rest| !rest.is_empty()).unwrap_or(piece);
        let classes: std::collections::BTreeSet<_> = inner.chars().map(class).collect();
        assert!(classes.len() <= 1, "{piece:?}");
        assert!(!classes.contains("digit") || piece.len() == 1, "{piece:?}");
        learned += usize::from(piece.len() > 1);
    }
    assert!(learned > 50, "{learned}");
    assert!(SINGLE.bytes(339).len() > 1 && tokens(&SINGLE, " walked").len() == 1);
    assert_eq!(tokens(&SINGLE, "1999").len(), 4);
    assert!(tokens(&THREE, "1999").len() < 4);
}

#[test]
fn the_rules_of_three_are_those_of_the_bundled_model() {
    let json: Value = serde_json::from_slice(&std::fs::read(bundled()).unwrap()).unwrap();
    assert_eq!(Digits::Three.pre_tokenizer(), json["pre_tokenizer"]);
}

#[test]
fn special_tokens_are_there_and_only_marks_become_them() {
    let trained = train(&settings(Digits::Single), corpus().iter()).unwrap();
    let json: Value = serde_json::from_slice(&trained.tokenizer).unwrap();
    let names: Vec<&str> =
        json["added_tokens"].as_array().unwrap().iter().map(|t| t["content"].as_str().unwrap()).collect();
    let own = [rules::BOS, rules::EOS, rules::PAD, rules::USER, rules::ASSISTANT];
    assert_eq!(names, own.into_iter().chain(rules::FILL_IN_MIDDLE).collect::<Vec<_>>());

    let text = format!("{}Hi {} there{}", rules::USER, rules::USER, rules::EOS);
    let mut document = Document::new("a#0", text.clone());
    let mut encoder = Encoder::new(&SINGLE);
    let mut all = Vec::new();
    let mut of = |document: &Document| encoder.document(document, &mut all).map(|()| all.clone());
    // Without marks a name is text.
    let unmarked = of(&document).unwrap();
    assert_eq!(unmarked.iter().filter(|&&id| SINGLE.is_special(id)).collect::<Vec<_>>(), [&0, &1]);
    let (user, end) = (rules::USER.len(), text.len() - rules::EOS.len());
    document.labels.insert("marks".into(), json!([[0, user], [end, text.len()]]));
    let marked = of(&document).unwrap();
    let between = tokens(&SINGLE, &text[user..end]);
    assert_eq!(marked, [&[0, 3][..], &between, &[1]].concat());
    assert!(between.iter().all(|&id| !SINGLE.is_special(id)));

    document.labels.insert("marks".into(), json!([[user, user + 2]]));
    assert!(of(&document).unwrap_err().contains("\"Hi\", a mark in document \"a#0\", is not in the vocabulary"));
    document.labels.insert("marks".into(), json!([[0, 999]]));
    assert!(of(&document).unwrap_err().contains("does not fit its text"));
    assert_eq!(of(&Document::new("a#1", "")).unwrap(), [0, 1]);
}

#[test]
fn settings_that_cannot_be_are_refused_in_words() {
    let with = |change: &dyn Fn(&mut Settings)| {
        let mut settings = settings(Digits::Single);
        change(&mut settings);
        train(&settings, corpus().iter()).err().unwrap_or_default()
    };
    assert_eq!(with(&|_| ()), "");
    for (said, expected) in [
        (with(&|s| s.vocabulary_size = 263), "256 bytes and the special tokens are 264"),
        (with(&|s| s.vocabulary_size = 100_000), "needs more text"),
        (with(&|s| s.sample_bytes = 0), "sample_bytes is 0"),
        (with(&|s| s.special_tokens = vec!["<｜User｜>".into()]), "there twice"),
        (with(&|s| s.special_tokens = vec!["a b".into()]), "without white space"),
    ] {
        assert!(said.contains(expected), "{said:?} instead of {expected:?}");
    }
    let mut documents = corpus();
    documents[0].labels.insert("marks".into(), json!([[1_000_000, 1_000_001]]));
    assert!(WordCounts::new(&settings(Digits::Single), 0, 1).add(&documents[0]).is_err());
}

#[test]
fn a_sample_has_about_the_bytes_asked_for_and_follows_from_the_seed() {
    let documents: Vec<Document> =
        (0..20_000).map(|i| Document::new(format!("a#{i}"), "one two three four.\n")).collect();
    let settings = Settings { sample_bytes: 100_000, vocabulary_size: 264, ..Settings::default() };
    let sampled = |seed| {
        let mut counts = WordCounts::new(&settings, seed, 400_000);
        documents.iter().for_each(|document| counts.add(document).unwrap());
        counts.train(&settings).unwrap().sample_bytes
    };
    assert!((94_000..106_000).contains(&sampled(1)), "{}", sampled(1));
    assert_eq!(sampled(1), sampled(1));
}

#[test]
fn files_that_are_no_tokenizers_are_refused_in_words() {
    let good: Value = serde_json::from_slice(&std::fs::read(bundled()).unwrap()).unwrap();
    let config = json!({"bos_token": {"content": rules::BOS}, "eos_token": rules::EOS});
    let of = |change: &dyn Fn(&mut Value), config: &Value| {
        let mut json = good.clone();
        change(&mut json);
        Tokenizer::from_json(json.to_string().as_bytes(), config, &Ends::default()).err().unwrap_or_default()
    };
    assert_eq!(of(&|_| (), &config), "");
    let doublings = vec![json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}); 40];
    for (said, expected) in [
        (of(&|json| json["model"]["dropout"] = 0.5.into(), &config), "model.dropout is 0.5"),
        (of(&|json| json["model"]["type"] = "X".into(), &config), "no tokenizer"),
        (of(&|json| json["model"]["vocab"]["far"] = 4_000_000_000u32.into(), &config), "its largest id is 4000000000"),
        (of(&|_| (), &json!({"bos_token": rules::BOS})), "names no eos_token"),
        (
            of(&|_| (), &json!({"bos_token": "<s>", "eos_token": rules::EOS})),
            "bos_token \"<s>\" is not in its vocabulary",
        ),
        (
            of(&|json| json["normalizer"] = json!({"type": "Sequence", "normalizers": doublings}), &config),
            "its normalizer can make 1099511627776 bytes of one; at most 64 are taken",
        ),
        (
            of(&|json| json["normalizer"] = json!({"type": "Prepend", "prepend": "x".repeat(1 << 20)}), &config),
            "its normalizer can make 1048577 bytes of one",
        ),
        (
            of(&|json| json["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "#"}), &config),
            "its normalizer can make inf bytes of one",
        ),
        (
            of(
                &|json| json["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "(?:a{1000}){1000}"}, "behavior": "Isolated", "invert": false}),
                &config,
            ),
            "no tokenizer",
        ),
        (Tokenizer::from_json(b"{", &config, &Ends::default()).err().unwrap(), "EOF"),
        (Tokenizer::from_json(b"{}", &config, &Ends::default()).err().unwrap(), "no tokenizer"),
    ] {
        assert!(said.contains(expected), "{said:?} instead of {expected:?}");
    }
    let none = Ends { bos: Some(String::new()), eos: Some(String::new()) };
    let bare = Tokenizer::from_json(good.to_string().as_bytes(), &Value::Null, &none).unwrap();
    assert_eq!(bare.ends(), [None, None]);
}

#[test]
fn a_file_that_is_far_too_large_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let refused = || Tokenizer::open(&path, &Ends::default()).err().unwrap().to_string();
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(
        refused().ends_with("tokenizer.json: more than 134217728 bytes, which no tokenizer needs"),
        "{}",
        refused()
    );
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(refused().ends_with("tokenizer.json: not a file; name a tokenizer.json"), "{}", refused());
}

/// Alternatives that are tried again and again: the library gives up, and what is left is one word.
#[test]
fn a_regular_expression_that_backtracks_gives_up() {
    let tokenizer = |regex: &str| {
        let mut json: Value = serde_json::from_slice(&std::fs::read(bundled()).unwrap()).unwrap();
        let split = json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false, "trim_offsets": true});
        json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [split, bytes]});
        let none = Ends { bos: Some(String::new()), eos: Some(String::new()) };
        Tokenizer::from_json(json.to_string().as_bytes(), &Value::Null, &none).unwrap()
    };
    let hostile = tokenizer(r"(?:(a+)+(?!a)\b){2}c");
    let text = "a".repeat(5000);
    let ids = tokens(&hostile, &text);
    assert_eq!(ids, plainly(&hostile, &text));
    assert_eq!(ids.iter().map(|&id| hostile.bytes(id).len()).sum::<usize>(), text.len());
}

#[test]
fn long_texts_are_cut_where_words_begin() {
    let mut random = Pcg64::seed_from_u64(2);
    let documents = corpus();
    let mut text = String::new();
    while text.len() < 900_000 {
        text.push_str(documents[random.random_range(0..documents.len())].text());
        text.push_str("\nAnd then");
    }
    for tokenizer in [&*SINGLE, &*THREE, &*BUNDLED] {
        assert!(tokens(tokenizer, &text) == plainly(tokenizer, &text));
    }
    // White space and numbers where a text has to be cut: it is cut at words before them.
    for (offset, between) in
        [(5, " ".repeat(20)), (8, " 12".repeat(40)), (6, "\n \n  \n".repeat(9)), (3, "\t \t".repeat(9))]
    {
        let mut text = "some words ".repeat((256 << 10) / 11);
        text.truncate((256 << 10) - offset);
        text.push_str(&between);
        text.push_str("and the end");
        for tokenizer in [&*SINGLE, &*THREE, &*BUNDLED] {
            assert!(tokens(tokenizer, &text) == plainly(tokenizer, &text), "{between:?}");
        }
    }
    // Without a place to cut, nothing is lost and nothing hangs.
    for giant in ["é".repeat(600_000), " ".repeat(1_000_000), "\n".repeat(1_000_000), "a".repeat(1_000_000)] {
        for tokenizer in [&*SINGLE, &*BUNDLED] {
            let ids = tokens(tokenizer, &giant);
            let bytes: usize = ids.iter().map(|&id| tokenizer.bytes(id).len()).sum();
            assert_eq!(bytes, giant.len());
        }
    }
}

#[test]
fn a_part_is_tokenized_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.tokens");
    let mut documents = corpus();
    documents[5].labels.insert("held_out".into(), true.into());
    let pass = |tokenizer: &Tokenizer| {
        let mut seen = 0;
        let documents = documents.iter().cloned().map(Ok::<_, Error>);
        tokenize(documents, tokenizer, &path, false, |_, _| {
            seen += 1;
            Ok(())
        })
        .unwrap();
        seen
    };
    assert_eq!(pass(&SINGLE), 300);
    assert_eq!(pass(&SINGLE), 0);
    let run = run::Reader::open(&path).unwrap();
    let mut number = 0;
    run.scan(|entry| {
        let mut found = Vec::new();
        run.read(&entry, &mut found).unwrap();
        assert_eq!(found, [&[0][..], &plainly(&SINGLE, documents[number].text()), &[1]].concat());
        assert_eq!(entry.held_out, number == 5);
        number += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(number, 300);
    // Another tokenizer makes the run again.
    assert_eq!(pass(&THREE), 300);
    let error = tokenize(std::iter::once(Err(Error::Stopped)), &SINGLE, &path, false, |_, _| Ok(())).unwrap_err();
    assert!(matches!(error, Error::Stopped));
    assert_eq!(run::Reader::open(&path).unwrap().tokenizer(), THREE.hash());
}

#[test]
fn fit_is_reported_by_language_and_source() {
    let mut english = Document::new("1", "the cat sat 12");
    english.labels.insert("language".into(), "en".into());
    let thai = Document::new("books#2", "กกก the");
    let mut fit = Fit::new(&SINGLE);
    let mut halves = [Fit::new(&SINGLE), Fit::new(&SINGLE)];
    let mut encoder = Encoder::new(&SINGLE);
    for (source, document, half) in [("web", &english, 0), ("books", &thai, 1)] {
        let mut tokens = Vec::new();
        encoder.document(document, &mut tokens).unwrap();
        fit.count(&SINGLE, source, document, &tokens);
        halves[half].count(&SINGLE, source, document, &tokens);
    }
    let report = fit.report(&SINGLE);
    let [mut first, second] = halves;
    first.add(&second);
    assert_eq!(first.report(&SINGLE), report);
    assert_eq!(report.groups.keys().collect::<Vec<_>>(), ["books", "en"]);
    let en = report.groups["en"];
    // Words of their own, a space, and two digits: bos and eos are not text.
    let ids = tokens(&SINGLE, english.text()).len() as u64;
    assert_eq!((en.counts.words, en.counts.bytes, en.counts.tokens, en.counts.byte_tokens), (4, 14, ids, 0));
    assert_eq!(en.fertility, ids as f64 / 4.0);
    // Three characters of three bytes, none of which the sample had.
    assert_eq!(report.groups["books"].counts.byte_tokens, 9);
    assert!((40..76).contains(&report.unused));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn tokens_are_those_of_the_library_and_spell_the_text(
        text in prop_oneof![
            "\\PC{0,60}",
            "[a-zA-Z0-9 .,!?'\\-\\n\\r\\t()éß中あ—\u{2028}\u{a0}\u{1f600}]{0,200}",
            "( |\n|\r\n|a|1|\\.|'s|<｜User｜>|²|½|é|中){0,60}",
        ]
    ) {
        for tokenizer in [&*SINGLE, &*THREE, &*BUNDLED] {
            let mut ids = Vec::new();
            let mut encoder = Encoder::new(tokenizer);
            // Twice: what is remembered is the same.
            for _ in 0..2 {
                ids.clear();
                encoder.text(&text, &mut ids).unwrap();
                prop_assert_eq!(&ids, &plainly(tokenizer, &text));
            }
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.bytes(id).to_vec()).collect();
            prop_assert_eq!(String::from_utf8(bytes).unwrap(), text.clone());
        }
    }
}

/// The bytes of the tokens that a loss is taken of, with how many there are.
fn trained_on(tokenizer: &Tokenizer, tokens: &[u32]) -> (Vec<u8>, usize) {
    let trained: Vec<u32> = tokens.iter().copied().filter(|token| token & run::MASKED == 0).collect();
    (trained.iter().flat_map(|&token| tokenizer.bytes(token).to_vec()).collect(), trained.len())
}

#[test]
fn a_loss_is_taken_of_the_words_of_the_assistant_alone() {
    let [user, assistant, end] = [rules::USER, rules::ASSISTANT, rules::EOS];
    let text = format!("{user}Hi Tom's cat{assistant}  the end.{end}{user}Ciao{assistant}中文 ü!{end}");
    let place = |piece: &str| text.match_indices(piece).map(|(at, _)| at..at + piece.len()).collect::<Vec<_>>();
    let mut marks = [place(user), place(assistant), place(end)].concat();
    marks.sort_by_key(|mark| mark.start);
    let spans = [place(&format!("  the end.{end}")), place(&format!("中文 ü!{end}"))].concat();
    let label = |ranges: &[std::ops::Range<usize>]| ranges.iter().map(|r| json!([r.start, r.end])).collect::<Value>();
    let mut document = Document::new("a#0", text.clone());
    document.labels.insert("marks".into(), label(&marks));
    document.labels.insert("spans".into(), label(&spans));
    for tokenizer in [&*SINGLE, &*THREE, &*BUNDLED] {
        let (mut tokens, mut masked) = (Vec::new(), Vec::new());
        let mut encoder = Encoder::new(tokenizer);
        encoder.document(&document, &mut tokens).unwrap();
        encoder.masked_document(&document, &mut masked).unwrap();
        assert_eq!(masked.iter().map(|token| token & !run::MASKED).collect::<Vec<_>>(), tokens);
        let (bytes, _) = trained_on(tokenizer, &masked);
        assert_eq!(String::from_utf8(bytes).unwrap(), format!("  the end.{end}中文 ü!{end}"));
        // A document without spans is trained on whole, one with none of them not at all.
        let plain = Document::new("a#1", text.clone());
        encoder.document(&plain, &mut tokens).unwrap();
        encoder.masked_document(&plain, &mut masked).unwrap();
        assert_eq!(masked, tokens);
        let mut none = plain.clone();
        none.labels.insert("spans".into(), json!([]));
        encoder.masked_document(&none, &mut masked).unwrap();
        assert_eq!(trained_on(tokenizer, &masked).1, 0);
    }
    document.labels.insert("spans".into(), json!([[0, 9999]]));
    let error = Encoder::new(&SINGLE).masked_document(&document, &mut Vec::new()).unwrap_err();
    assert!(error.contains("label spans of document \"a#0\" does not fit its text"), "{error}");
}

#[test]
fn a_token_across_the_border_of_a_span_is_trained_on() {
    // The space belongs to the name before it, and its token to the word behind it.
    let text = "User: the cat\nAssistant: walking\nUser: the";
    let start = text.find("walking").unwrap();
    let mut document = Document::new("a#0", text);
    document.labels.insert("spans".into(), json!([[start, start + 7]]));
    let mut tokens = Vec::new();
    Encoder::new(&BUNDLED).masked_document(&document, &mut tokens).unwrap();
    let (bytes, _) = trained_on(&BUNDLED, &tokens);
    assert_eq!(String::from_utf8(bytes).unwrap(), " walking");
    // What ends a text ends it for the model too: the end token is trained on, the one that begins is not.
    let text = "User: the cat\nAssistant: walking";
    let mut document = Document::new("a#1", text);
    document.labels.insert("spans".into(), json!([[start, text.len()]]));
    Encoder::new(&BUNDLED).masked_document(&document, &mut tokens).unwrap();
    let (bytes, _) = trained_on(&BUNDLED, &tokens);
    assert_eq!(String::from_utf8(bytes).unwrap(), format!(" walking{}", rules::EOS));
}

/// The same tokenizer behind a normalizer.
fn normalized(normalizer: Value) -> Tokenizer {
    let trained = train(&settings(Digits::Single), corpus().iter()).unwrap();
    let mut json: Value = serde_json::from_slice(&trained.tokenizer).unwrap();
    json["normalizer"] = normalizer;
    Tokenizer::from_json(json.to_string().as_bytes(), &trained.config, &Ends::default()).unwrap()
}

#[test]
fn masks_fit_texts_that_a_normalizer_changes() {
    let tokenizer = normalized(json!({"type": "Replace", "pattern": {"String": "the"}, "content": "walking"}));
    let text = "the cat sat the mat";
    let mut document = Document::new("a#0", text);
    document.labels.insert("spans".into(), json!([[8, 15]]));
    let mut tokens = Vec::new();
    Encoder::new(&tokenizer).masked_document(&document, &mut tokens).unwrap();
    let (bytes, _) = trained_on(&tokenizer, &tokens);
    assert_eq!(String::from_utf8(bytes).unwrap(), " sat walking");
}

proptest! {
    #[test]
    fn masks_are_exact_at_the_bytes_of_tokens(seed: u64, cuts in prop::collection::vec(0usize..400, 0..12), long in prop::bool::weighted(0.1)) {
        let all = corpus();
        let mut text = all[seed as usize % all.len()].text().repeat(if long { 2000 } else { 1 });
        text.truncate(text.floor_char_boundary(600_000));
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| text.floor_char_boundary(cut * text.len() / 400)).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let spans: Vec<&[usize]> = cuts.chunks_exact(2).collect();
        let mut document = Document::new("a#0", text.clone());
        document.labels.insert("spans".into(), json!(spans));
        for tokenizer in [&*SINGLE, &*BUNDLED] {
            let mut tokens = Vec::new();
            Encoder::new(tokenizer).masked_document(&document, &mut tokens).unwrap();
            let [bos, eos] = tokenizer.ends();
            let mut at = 0;
            for (i, &token) in tokens.iter().enumerate() {
                let (id, trained) = (token & !run::MASKED, token & run::MASKED == 0);
                if i == 0 && Some(id) == bos {
                    prop_assert!(!trained);
                } else if i + 1 == tokens.len() && Some(id) == eos {
                    prop_assert_eq!(trained, spans.last().is_some_and(|span| span[1] == text.len()));
                } else {
                    let end = at + tokenizer.bytes(id).len();
                    let touches = (at..end).any(|byte| spans.iter().any(|span| (span[0]..span[1]).contains(&byte)));
                    prop_assert_eq!(trained, touches, "token {} at {}..{}", i, at, end);
                    at = end;
                }
            }
            prop_assert_eq!(at, text.len());
        }
    }
}
