//! Bounds on the work for one text: what cannot fit is refused, what is left ends, and all else is as without bounds.

use std::cell::Cell;

use farthing_text::ends::{first_tokens, last_tokens};
use farthing_text::tokenizer::Within;
use farthing_text::{TextError, Tokenizer};

fn tokenizer() -> Tokenizer {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/seed-5.7m/tokenizer.json");
    Tokenizer::from_json(&std::fs::read(path).unwrap()).unwrap()
}

fn texts() -> Vec<String> {
    let story = "Once upon a time, there was a little cat. \"Hello!\" said 12345 dogs.\n\n\tIt's caf\u{e9} time: \u{732b}\u{1f431} e\u{301}\r\n";
    let pieces = ["", "a", "1", " ", "\n", "<\u{ff5c}User\u{ff5c}>", "=-=", "\u{e9}", "\u{0}", "hello world", story];
    pieces.iter().flat_map(|piece| [1, 7, 600].map(|n| piece.repeat(n))).collect()
}

const OPEN: Within<'static> = Within { tokens_max: usize::MAX, left: &|| false };

#[test]
fn within_bounds_a_text_is_encoded_as_without() {
    let tokenizer = tokenizer();
    for text in texts() {
        for special in [false, true] {
            let ids = tokenizer.encode(&text, special).unwrap();
            assert_eq!(tokenizer.encode_within(&text, special, OPEN).unwrap(), ids);
            let exact = Within { tokens_max: ids.len(), ..OPEN };
            assert_eq!(tokenizer.encode_within(&text, special, exact).unwrap(), ids);
            let Some(most) = ids.len().checked_sub(1) else { continue };
            let refused = tokenizer.encode_within(&text, special, Within { tokens_max: most, ..OPEN });
            let least = match refused {
                Err(TextError::TooMany { least, most: said }) if said == most => least,
                other => panic!("{other:?}"),
            };
            assert!(least > most && least <= ids.len(), "{least} of {}", ids.len());
            assert!(tokenizer.tokens_least(&text) <= ids.len());
        }
        let shielded = tokenizer.escape_special_tokens(&text);
        let ids = tokenizer.encode_prompt(&shielded).unwrap();
        let exact = Within { tokens_max: ids.len(), ..OPEN };
        assert_eq!(tokenizer.encode_prompt_within(&shielded, exact).unwrap(), ids);
        if let Some(most) = ids.len().checked_sub(1) {
            let refused = tokenizer.encode_prompt_within(&shielded, Within { tokens_max: most, ..OPEN });
            assert!(matches!(refused, Err(TextError::TooMany { least, .. }) if least > most && least <= ids.len()));
        }
    }
}

/// Four megabytes of digits cannot have fewer tokens than the longest run of digits in the vocabulary allows: no word is encoded.
#[test]
fn what_cannot_fit_is_refused_before_it_is_encoded() {
    let tokenizer = tokenizer();
    let asked = Cell::new(0);
    let left = || {
        asked.set(asked.get() + 1);
        false
    };
    let bound = Within { tokens_max: 16_384, left: &left };
    for text in ["1234567890".repeat(400_000), "Once upon a time ".repeat(200_000), "\u{e9}".repeat(1_000_000)] {
        let refused = tokenizer.encode_within(&text, true, bound);
        assert!(matches!(refused, Err(TextError::TooMany { least, .. }) if least > 16_384), "{refused:?}");
    }
    assert_eq!(asked.get(), 0);
}

#[test]
fn what_nobody_waits_for_ends() {
    let tokenizer = tokenizer();
    let words = Cell::new(0);
    let left = || {
        words.set(words.get() + 1);
        words.get() == 10
    };
    let text = "one two three ".repeat(10_000);
    let bound = Within { tokens_max: usize::MAX, left: &left };
    assert!(matches!(tokenizer.encode_within(&text, true, bound), Err(TextError::Left)));
    assert_eq!(words.get(), 10);
    words.set(9);
    assert!(matches!(tokenizer.encode_prompt_within(&text, bound), Err(TextError::Left)));
}

/// The ends of a long text have the tokens that they have in the whole, and most of it is not encoded.
#[test]
fn the_ends_of_a_long_text_are_encoded_as_in_the_whole() {
    let tokenizer = tokenizer();
    let story = "Once upon a time, there was a little cat. \"Hello!\" said 12345 dogs.\n\n\tIt's caf\u{e9} time: \u{732b}\u{1f431} e\u{301}\r\n";
    let code = "    fn main() {\n        let x = [1, 2, 3];\n\n        println!(\"{}\", x.len());\n    }\n";
    let pieces = [story, code, "one two  three ", "\u{732b}\u{1f431}\u{e9}", "word\n"];
    let mut texts: Vec<String> = pieces.iter().map(|piece| piece.repeat(40_000 / piece.len())).collect();
    // A number in each line, so that no two parts are alike.
    texts.push((0..400).map(|i| format!("{story}{}\n", i * 7919)).collect());
    for text in texts {
        let whole = tokenizer.encode(&text, false).unwrap();
        for wanted in [0, 1, 100, 2000, whole.len() - 1, whole.len()] {
            let longest = Cell::new(0);
            let encode = |part: &str| {
                longest.set(part.len().max(longest.get()));
                tokenizer.encode(part, false)
            };
            let (first, last) = (first_tokens(&text, wanted, encode), last_tokens(&text, wanted, encode));
            let (first, last) = (first.unwrap(), last.unwrap());
            assert_eq!(first[..wanted], whole[..wanted], "{wanted} of {:?}", &text[..20]);
            assert_eq!(last[last.len() - wanted..], whole[whole.len() - wanted..], "{wanted} of {:?}", &text[..20]);
            assert!(wanted == whole.len() || first.len() > wanted && last.len() > wanted);
            assert!(wanted > 100 || longest.get() < 16 << 10, "{} bytes for {wanted}", longest.get());
        }
    }
    let short = tokenizer.encode(story, false).unwrap();
    assert_eq!(first_tokens(story, 2, |part| tokenizer.encode(part, false)).unwrap(), short);
    assert_eq!(last_tokens(story, 2, |part| tokenizer.encode(part, false)).unwrap(), short);
}
