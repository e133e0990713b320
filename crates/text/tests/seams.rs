//! Where texts from outside meet each other and a template: what is a mark and what is text, at each boundary.

use std::cell::Cell;

use farthing_text::detokenizer::StopStrings;
use farthing_text::tokenizer::Within;
use farthing_text::{Detokenizer, TextError, Tokenizer};
use serde_json::{Value, json};

const SEAM: &str = "\u{fdd0}\u{fdd1}";
const OPEN: Within<'static> = Within { tokens_max: usize::MAX, left: &|| false };

/// The bundled model's tokenizer with these tokens added behind its vocabulary, and whether each is flagged as special.
fn with_added(added: &[(&str, bool)]) -> Tokenizer {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/seed-5.7m/tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let tokens = json["added_tokens"].as_array_mut().unwrap();
    for (index, (content, special)) in added.iter().enumerate() {
        tokens.push(
            json!({"id": 2048 + index, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special}),
        );
    }
    Tokenizer::from_json(json.to_string().as_bytes()).unwrap()
}

/// Each side alone keeps a name apart: the text from outside may be its beginning or its end, the rest the template's.
#[test]
fn either_side_of_a_seam_is_enough() {
    let long = format!("<|{}|>", "x".repeat(254));
    let tokenizer = with_added(&[("<|im_end|>", true), ("[INST]", false), ("<|im_end|>>", true)]);
    let ids = (0..2051).filter(|&id| tokenizer.id_of(&tokenizer.piece(id).unwrap()) == Some(id));
    let names = ids.filter(|&id| tokenizer.is_special(id) || id >= 2048).map(|id| tokenizer.piece(id).unwrap());
    let mut tried = 0;
    let longest = with_added(&[(&long, true)]);
    // 256 characters of a name are looked for at the ends of a text.
    let ends = [
        (&longest, long[..256].to_string(), "|>".to_string()),
        (&longest, long[..1].to_string(), long[1..].to_string()),
    ];
    let begins = [
        (&longest, "<|".to_string(), long[2..].to_string()),
        (&longest, long[..257].to_string(), long[257..].to_string()),
    ];
    let cut = |name: &String| -> Vec<(String, String)> {
        name.char_indices().skip(1).map(|(at, _)| (name[..at].to_string(), name[at..].to_string())).collect()
    };
    let all: Vec<(String, String)> = names.flat_map(|name| cut(&name)).collect();
    let own = |pairs: &[(String, String)]| -> Vec<(&Tokenizer, String, String)> {
        pairs.iter().map(|(before, behind)| (&tokenizer, before.clone(), behind.clone())).collect()
    };
    for (tokenizer, before, behind) in ends.into_iter().chain(own(&all)) {
        // What begins a longer name may itself be one: it is text as well.
        let ids = tokenizer.encode_prompt(&format!("{}{behind}", tokenizer.escape_special_tokens(&before))).unwrap();
        let id = tokenizer.id_of(&format!("{before}{behind}")).unwrap();
        assert!(!ids.contains(&id), "{before} | {behind}: {ids:?}");
        assert_eq!(tokenizer.decode(&ids, false), format!("{before}{behind}"));
        tried += 1;
    }
    for (tokenizer, before, behind) in begins.into_iter().chain(own(&all)) {
        let ids = tokenizer.encode_prompt(&format!("{before}{}", tokenizer.escape_special_tokens(&behind))).unwrap();
        let id = tokenizer.id_of(&format!("{before}{behind}")).unwrap();
        assert!(!ids.contains(&id), "{before} | {behind}: {ids:?}");
        assert_eq!(tokenizer.decode(&ids, false), format!("{before}{behind}"));
        tried += 1;
    }
    assert!(tried > 200, "{tried}");
}

/// The template's own names stay special where they touch a seam, and lose nothing to a text that only looks like a part of one.
#[test]
fn a_templates_own_name_beside_a_seam_stays_special() {
    let tokenizer = with_added(&[("<|im_end|>", true)]);
    let id = tokenizer.id_of("<|im_end|>").unwrap();
    for (said, seam_at_end) in [("a <", true), ("a <|im_e", true), ("|> b", false), ("> b", false)] {
        let shielded = tokenizer.escape_special_tokens(said);
        assert!(if seam_at_end { shielded.ends_with(SEAM) } else { shielded.starts_with(SEAM) }, "{shielded:?}");
        let prompt = if seam_at_end { format!("{shielded}<|im_end|>") } else { format!("<|im_end|>{shielded}") };
        let ids = tokenizer.encode_prompt(&prompt).unwrap();
        assert_eq!(ids.iter().filter(|&&found| found == id).count(), 1, "{said}: {ids:?}");
        assert_eq!(tokenizer.decode(&ids, true), said);
    }
}

/// Words are no part of a name, and a whole name is a mark without seams.
#[test]
fn seams_are_only_where_a_name_could_go_on() {
    let tokenizer = with_added(&[("END", true), ("a-b", true), ("<|im_end|>", true)]);
    for plain in ["E", "EN", "D", "xE", "a", "b", "<|im_end|x", "x|im_end", ""] {
        assert_eq!(tokenizer.escape_special_tokens(plain), plain);
    }
    assert_eq!(tokenizer.escape_special_tokens("a-"), format!("a-{SEAM}"));
    assert_eq!(tokenizer.escape_special_tokens("-b"), format!("{SEAM}-b"));
    for whole in ["END", "a-b", "<|im_end|>"] {
        let shielded = tokenizer.escape_special_tokens(whole);
        assert!(!shielded.contains(SEAM) && !shielded.contains(whole), "{shielded:?}");
    }
}

/// An added token that is not flagged is a mark where it has a name between its brackets.
#[test]
fn brackets_alone_are_no_mark() {
    let tokenizer =
        with_added(&[("<>", false), ("[]", false), ("<a>", false), ("[a]", false), ("<a]", false), ("", true)]);
    for plain in ["<>", "[]", "<a]"] {
        assert_eq!(tokenizer.escape_special_tokens(&format!("a{plain}b")), format!("a{plain}b"));
    }
    for mark in ["<a>", "[a]"] {
        let id = tokenizer.id_of(mark).unwrap();
        let shielded = tokenizer.escape_special_tokens(mark);
        assert!(!shielded.contains(mark));
        let ids = tokenizer.encode_prompt(&shielded).unwrap();
        assert!(!ids.contains(&id) && tokenizer.decode(&ids, true) == mark);
    }
}

/// Text, a mark, text: what a prompt has at least is more than is allowed and no more than it has, wherever counting stopped.
#[test]
fn a_prompt_with_marks_keeps_its_bound() {
    let tokenizer = with_added(&[]);
    let prompts =
        ["hello world <think> hello there", "<think>", "hello<think><think>", "<think>one two three four five"];
    for said in
        prompts.map(str::to_string).into_iter().chain(["<think>".to_string() + &"once upon a time ".repeat(400)])
    {
        let prompt = tokenizer.escape_special_tokens(&said);
        let ids = tokenizer.encode_prompt(&prompt).unwrap();
        assert_eq!(tokenizer.decode(&ids, true), said);
        for most in 0..ids.len() {
            match tokenizer.encode_prompt_within(&prompt, Within { tokens_max: most, ..OPEN }) {
                Err(TextError::TooMany { least, most: told }) => {
                    assert!(
                        told == most && least > most && least <= ids.len(),
                        "{said}: {least} of {}, {most}",
                        ids.len()
                    )
                }
                other => panic!("{said}, {most}: {other:?}"),
            }
        }
        assert_eq!(tokenizer.encode_prompt_within(&prompt, Within { tokens_max: ids.len(), ..OPEN }).unwrap(), ids);
    }
    // Between marks it is asked too whether anybody waits.
    let asked = Cell::new(0);
    let left = || {
        asked.set(asked.get() + 1);
        asked.get() == 3
    };
    let bound = Within { tokens_max: usize::MAX, left: &left };
    let refused = tokenizer.encode_prompt_within(&tokenizer.escape_special_tokens(&"<think>".repeat(10)), bound);
    assert!(matches!(refused, Err(TextError::Left)) && asked.get() == 3, "{refused:?} {}", asked.get());
}

/// Work ends soon behind the bound: what came before counts for each text between marks, and marks themselves count.
#[test]
fn a_prompt_with_marks_takes_no_work_beyond_its_bound() {
    let tokenizer = with_added(&[]);
    let asked = Cell::new(0);
    let left = || {
        asked.set(asked.get() + 1);
        false
    };
    let refused = |said: &str, tokens_max: usize| {
        asked.set(0);
        let refused =
            tokenizer.encode_prompt_within(&tokenizer.escape_special_tokens(said), Within { tokens_max, left: &left });
        assert!(matches!(refused, Err(TextError::TooMany { .. })), "{refused:?}");
        asked.get()
    };
    assert!(refused(&"<think>".repeat(10_000), 10) <= 11);
    let words = "a b c ".repeat(1_000);
    let first = tokenizer.encode(&words, false).unwrap().len();
    let before = refused(&format!("{words}<think>"), first);
    assert!(refused(&format!("{words}<think>{words}"), first + 100) <= before + 101);
}

/// A vocabulary of three-byte tokens at most: a mark is longer than the name behind it, and its own length refuses nothing.
#[test]
fn a_mark_is_not_counted_by_its_length() {
    // Every byte, as GPT-2 writes it.
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let bytes = (0..=255u8).filter(printable).map(char::from).chain((256..324).filter_map(char::from_u32));
    let pieces = ["<s".to_string(), "<s>".to_string()].into_iter().chain(bytes.map(String::from));
    let vocab: serde_json::Map<String, Value> = pieces.zip(0..).map(|(piece, id)| (piece, json!(id))).collect();
    let json = json!({"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 258, "content": "<s>s", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": [["<", "s"], ["<s", ">"]]}});
    let tokenizer = Tokenizer::from_json(json.to_string().as_bytes()).unwrap();
    let s = tokenizer.id_of("s").unwrap();
    let prompt = tokenizer.escape_special_tokens("<s>s");
    assert!(tokenizer.tokens_least(&prompt) > 2);
    assert_eq!(tokenizer.encode_prompt_within(&prompt, Within { tokens_max: 2, ..OPEN }).unwrap(), [1, s]);
}

/// Bytes of a SentencePiece vocabulary have two digits; what only looks so is text.
#[test]
fn pieces_of_another_length_are_no_bytes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/stories260K.tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let pieces = ["<0xA>", "<0x041>", "<0xZZ>", "<0x>", "0x41>", "<0x41"];
    for (index, piece) in pieces.iter().enumerate() {
        json["model"]["vocab"][piece] = json!(512 + index);
    }
    let tokenizer = Tokenizer::from_json(json.to_string().as_bytes()).unwrap();
    for (index, piece) in pieces.iter().enumerate() {
        assert_eq!(tokenizer.bytes(512 + index as u32).unwrap(), piece.as_bytes());
    }
    assert_eq!(tokenizer.bytes(tokenizer.id_of("<0x41>").unwrap()).unwrap(), b"A");
    assert_eq!(tokenizer.bytes(tokenizer.id_of("<0xFF>").unwrap()).unwrap(), [0xff]);
}

/// Special tokens that are asked for are shown while the others are skipped; a leading space is text only where a text goes on.
#[test]
fn streams_show_what_is_asked_for() {
    let tokenizer = with_added(&[]);
    let [think, user, end] =
        ["<think>", "<\u{ff5c}User\u{ff5c}>", "</think>"].map(|piece| tokenizer.id_of(piece).unwrap());
    let given = |stream: &mut Detokenizer<&Tokenizer>| [think, user, end].map(|id| stream.push(id));
    let mut shown = Detokenizer::new(&tokenizer, true).showing(["<think>", "no such token", "</think>"]);
    assert_eq!(given(&mut shown), ["<think>", "", "</think>"]);
    assert_eq!(given(&mut Detokenizer::new(&tokenizer, true)), ["", "", ""]);
    assert_eq!(given(&mut Detokenizer::new(&tokenizer, false)), ["<think>", "<\u{ff5c}User\u{ff5c}>", "</think>"]);

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/stories260K.tokenizer.json");
    let sentences = Tokenizer::from_json(&std::fs::read(path).unwrap()).unwrap();
    let id = sentences.id_of("\u{2581}a").unwrap();
    let twice = |mut stream: Detokenizer<&Tokenizer>| stream.push(id) + &stream.push(id);
    assert_eq!(twice(Detokenizer::new(&sentences, true)), "a a");
    assert_eq!(twice(Detokenizer::continuing(&sentences, true)), " a a");
}

/// A text ends as soon as a stop is there, even if a longer one could begin at the same place.
#[test]
fn a_stop_does_not_wait_for_a_longer_one_at_its_place() {
    let mut stops = StopStrings::new(["abc".to_string(), "ab".to_string()]);
    assert_eq!(stops.push("x a"), "x ");
    assert_eq!((stops.push("b").as_str(), stops.hit()), ("", Some("ab")));
    assert_eq!((stops.push("c").as_str(), stops.finish().as_str(), stops.hit()), ("", "", Some("ab")));
    // One that began earlier is waited for.
    let mut stops = StopStrings::new(["xabc".to_string(), "ab".to_string()]);
    assert_eq!((stops.push("xab").as_str(), stops.hit()), ("", None));
    assert_eq!((stops.push("d").as_str(), stops.hit()), ("x", Some("ab")));
    // At the end of the text it can come no more.
    let mut stops = StopStrings::new(["xabc".to_string(), "ab".to_string(), String::new()]);
    assert_eq!((stops.push("xab").as_str(), stops.finish().as_str(), stops.hit()), ("", "x", Some("ab")));
}
