//! How much a tokenizer's normalizer can lengthen a text: it came with a model, and a few replacements in a row can double a text forty times.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Most bytes that a normalizer makes of one. Published ones make three.
pub(crate) const GROWTH_MAX: f64 = 64.0;

/// Bytes that a normalizer, in the library's own description, makes of one at most.
pub(crate) fn growth(normalizer: &Value) -> f64 {
    let list = normalizer["normalizers"].as_array();
    let length = |value: &Value| value.as_str().unwrap_or_default().len() as f64;
    match normalizer["type"].as_str().unwrap_or_default() {
        "Sequence" => list.into_iter().flatten().map(growth).product(),
        // A replacement for each match, and an empty match before each character.
        "Replace" => {
            let matched = length(&normalizer["pattern"]["String"]);
            let content = length(&normalizer["content"]);
            if matched > 0.0 { (content / matched).max(1.0) } else { content + 1.0 }
        }
        // Once a text, which has a byte at least.
        "Prepend" => 1.0 + length(&normalizer["prepend"]) / 16.0,
        "Precompiled" => longest(normalizer["precompiled_charsmap"].as_str().unwrap_or_default()) as f64,
        // U+FDFA, of three bytes, becomes 33 in the compatibility forms.
        "NFKC" | "NFKD" => 11.0,
        "NFC" | "NFD" | "Lowercase" | "BertNormalizer" | "ByteLevel" | "StripAccents" => 3.0,
        _ => 1.0,
    }
}

/// The longest replacement in SentencePiece's map of characters: a trie, then texts that end with a zero.
fn longest(base64: &str) -> usize {
    let Ok(bytes) = STANDARD.decode(base64) else { return usize::MAX };
    let Some((size, rest)) = bytes.split_first_chunk::<4>() else { return 1 };
    let texts = rest.get(u32::from_le_bytes(*size) as usize..).unwrap_or(rest);
    texts.split(|&b| b == 0).map(<[u8]>::len).max().unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn growth_multiplies() {
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        assert_eq!(growth(&Value::Null), 1.0);
        assert_eq!(growth(&replace(" ", "\u{2581}")), 3.0);
        assert_eq!(growth(&replace("aaaa", "b")), 1.0);
        assert_eq!(growth(&replace("", "abc")), 4.0);
        assert_eq!(growth(&json!({"type": "Replace", "pattern": {"Regex": "."}, "content": "abc"})), 4.0);
        let twice: Vec<Value> = (0..40).map(|_| replace("a", "aa")).collect();
        assert_eq!(growth(&json!({"type": "Sequence", "normalizers": twice})), 2f64.powi(40));
        // A trie of four bytes, then "ab", "abcde" and "c".
        let map = "BAAAAAAAAABhYgBhYmNkZQBjAA==";
        assert_eq!(longest(map), 5);
        assert_eq!(growth(&json!({"type": "Precompiled", "precompiled_charsmap": map})), 5.0);
    }
}
