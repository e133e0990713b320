//! How much a normalizer can lengthen a text: a few replacements in a row can double one forty times

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Bytes that a normalizer may make of one. Published ones make three.
pub const GROWTH_MAX: f64 = 64.0;

/// Bytes that a normalizer, as `tokenizer.json` describes it, makes of one at most.
pub fn growth(normalizer: &Value) -> f64 {
    let length = |value: &Value| value.as_str().unwrap_or_default().len() as f64;
    match normalizer["type"].as_str().unwrap_or_default() {
        "Sequence" => normalizer["normalizers"].as_array().into_iter().flatten().map(growth).product(),
        // A replacement for each match, and for an empty one before each character.
        "Replace" => {
            let (pattern, content) = (length(&normalizer["pattern"]["String"]), length(&normalizer["content"]));
            if pattern > 0.0 { (content / pattern).max(1.0) } else { content + 1.0 }
        }
        // Once a text, which has a byte at least.
        "Prepend" => 1.0 + length(&normalizer["prepend"]),
        "Precompiled" => longest(normalizer["precompiled_charsmap"].as_str().unwrap_or_default()),
        // U+FDFA, of three bytes, becomes 33 in the compatibility forms.
        "NFKC" | "NFKD" => 11.0,
        "NFC" | "NFD" | "Lowercase" | "BertNormalizer" | "ByteLevel" | "StripAccents" => 3.0,
        _ => 1.0,
    }
}

/// Bytes of the longest replacement in SentencePiece's map of characters: the size of a trie, the trie, then texts that end with a zero.
fn longest(base64: &str) -> f64 {
    let Ok(bytes) = STANDARD.decode(base64) else { return f64::INFINITY };
    let Some((size, rest)) = bytes.split_first_chunk::<4>() else { return 1.0 };
    let texts = rest.get(u32::from_le_bytes(*size) as usize..).unwrap_or(rest);
    texts.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(1).max(1) as f64
}
