//! The least number of tokens that a text can have, from its bytes alone: what cannot fit need not be encoded.
//!
//! A token holds at most so many digits, letters, `e`s, ... as the one of the vocabulary that holds most. A byte counts only where
//! nothing but a token can take it up: no normalizer, no pre-tokenizer that drops text, no mark that swallows spaces beside it.

use serde_json::Value;

/// Groups of bytes: digits, letters, white space, other ASCII, the rest, and all together.
const GROUPS: usize = 6;
const SPACE: usize = 2;
const REST: usize = 4;
const ALL: usize = 5;
const ASCII: usize = 128;

fn group(byte: u8) -> usize {
    match byte {
        b'0'..=b'9' => 0,
        b'a'..=b'z' | b'A'..=b'Z' => 1,
        b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => SPACE,
        0..=0x7f => 3,
        _ => REST,
    }
}

/// How many there are of each ASCII byte, then of each group.
type Counts = [usize; ASCII + GROUPS];

/// What one token can hold at most, by kind of byte.
#[derive(Clone, Debug)]
pub(crate) struct Least {
    most: Counts,
    /// Whether a byte of this value is certain to be taken up by a token.
    counted: [bool; 256],
    /// A character that is not ASCII may change, or join with the one before it.
    joins: bool,
}

/// What parts of a tokenizer do to a text, as far as it matters here.
#[derive(Clone, Copy, Debug, Default)]
struct Effects {
    joins: bool,
    drops_space: bool,
}

/// None: anything may happen.
fn normalizer(value: &Value, effects: &mut Effects) -> Option<()> {
    match value["type"].as_str() {
        None if value.is_null() => Some(()),
        Some("Sequence") => value["normalizers"].as_array()?.iter().try_for_each(|v| normalizer(v, effects)),
        Some("NFC" | "NFD" | "NFKC" | "NFKD") => {
            effects.joins = true;
            Some(())
        }
        Some("Prepend") => Some(()),
        Some("Replace") if value["pattern"]["String"] == " " && value["content"] == "\u{2581}" => Some(()),
        _ => None,
    }
}

fn pre_tokenizer(value: &Value, effects: &mut Effects) -> Option<()> {
    match value["type"].as_str() {
        None if value.is_null() => Some(()),
        Some("Sequence") => value["pretokenizers"].as_array()?.iter().try_for_each(|v| pre_tokenizer(v, effects)),
        Some("ByteLevel" | "Digits" | "Metaspace") => Some(()),
        Some("Split" | "Punctuation") if value["behavior"] != "Removed" => Some(()),
        Some("Whitespace" | "WhitespaceSplit" | "BertPreTokenizer") => {
            effects.drops_space = true;
            Some(())
        }
        _ => None,
    }
}

impl Least {
    /// From the parts of a tokenizer, as JSON has them, and the bytes of all its tokens. `bytes` of the parts: characters without
    /// a token become bytes; `strips`: some tokens swallow the spaces beside them. None where nothing can be said.
    pub(crate) fn new(parts: &Value, strips: bool, tokens: impl Iterator<Item = Vec<u8>>) -> Option<Least> {
        let mut effects = Effects { drops_space: strips, joins: false };
        normalizer(&parts["normalizer"], &mut effects)?;
        pre_tokenizer(&parts["pre_tokenizer"], &mut effects)?;
        if parts["model"] != "BPE" && parts["model"] != "Unigram" {
            return None;
        }
        let (mut most, mut alone) = ([0; ASCII + GROUPS], [false; 256]);
        for bytes in tokens {
            if let [byte] = bytes[..] {
                alone[usize::from(byte)] = true;
            }
            let mut counts = [0; ASCII + GROUPS];
            bytes.iter().for_each(|&byte| count(&mut counts, byte));
            most.iter_mut().zip(counts).for_each(|(most, n)| *most = n.max(*most));
        }
        let mut counted = alone;
        let rest_vanishes = effects.joins || parts["bytes"] == false;
        for (byte, counted) in (0..=u8::MAX).zip(&mut counted) {
            let group = group(byte);
            *counted &= !(effects.drops_space && group == SPACE || rest_vanishes && group == REST);
        }
        Some(Least { most, counted, joins: effects.joins })
    }

    /// No encoding of this text has fewer tokens.
    pub(crate) fn tokens(&self, text: &str) -> usize {
        let bytes = text.as_bytes();
        let mut counts = [0; ASCII + GROUPS];
        for (at, &byte) in bytes.iter().enumerate() {
            let joined = self.joins && bytes.get(at + 1).is_some_and(|next| !next.is_ascii());
            if self.counted[usize::from(byte)] && !joined {
                count(&mut counts, byte);
            }
        }
        counts.iter().zip(self.most).map(|(n, most)| n.div_ceil(most.max(1))).max().unwrap_or(0)
    }
}

fn count(counts: &mut Counts, byte: u8) {
    if byte.is_ascii() {
        counts[usize::from(byte)] += 1;
    }
    counts[ASCII + group(byte)] += 1;
    counts[ASCII + ALL] += 1;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn least(parts: Value, strips: bool) -> Option<Least> {
        let singles = (0..=u8::MAX).map(|b| vec![b]);
        let words = ["123", "hello", "        ", "eee", "=====-----"].map(|w| w.as_bytes().to_vec());
        Least::new(&parts, strips, singles.chain(words))
    }

    #[test]
    fn what_a_token_holds_bounds_their_number() {
        let bytes = least(json!({"model": "BPE", "pre_tokenizer": {"type": "ByteLevel"}}), false).unwrap();
        for (text, tokens) in [
            ("", 0),
            ("1", 1),
            ("1234567", 3),
            ("hello", 1),
            ("hellohello", 2),
            ("eeeeee", 2),
            // Four `e`s: three fit into one.
            ("heheheheh", 5),
            (&" ".repeat(17), 3),
            ("==========", 2),
            ("\u{e9}\u{e9}", 4),
        ] {
            assert_eq!(bytes.tokens(text), tokens, "{text:?}");
        }
    }

    #[test]
    fn what_may_vanish_is_not_counted() {
        let spaces = " ".repeat(80);
        let plain = json!({"model": "BPE"});
        assert_eq!(least(plain.clone(), false).unwrap().tokens(&spaces), 10);
        assert_eq!(least(plain, true).unwrap().tokens(&spaces), 0);
        let split = json!({"model": "BPE", "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}]}});
        assert_eq!(least(split, false).unwrap().tokens(&spaces), 0);
        let joining = json!({"model": "BPE", "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]}});
        let joining = least(joining, false).unwrap();
        assert_eq!((joining.tokens(&"e\u{301}".repeat(9)), joining.tokens("eeeeee")), (0, 2));
        for parts in [
            json!({"model": "WordPiece"}),
            json!({"model": "BPE", "normalizer": {"type": "Lowercase"}}),
            json!({"model": "BPE", "normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": ""}}),
            json!({"model": "BPE", "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Removed"}}),
            json!({"model": "BPE", "pre_tokenizer": {"type": "CharDelimiterSplit"}}),
        ] {
            assert!(least(parts.clone(), false).is_none(), "{parts}");
        }
        let characters = least(json!({"model": "BPE", "bytes": false}), false).unwrap();
        assert_eq!((characters.tokens("\u{e9}"), characters.tokens("12")), (0, 1));
        // A byte without a token of its own may be dropped.
        let some = Least::new(&json!({"model": "BPE"}), false, [b"a".to_vec(), b"bb".to_vec()].into_iter()).unwrap();
        assert_eq!((some.tokens("aaa"), some.tokens("bbbb")), (3, 0));
    }
}
