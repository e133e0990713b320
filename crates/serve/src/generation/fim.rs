//! Fill in the middle: prompts for the text between a prefix and a suffix, with the special tokens that models were trained with.

use text::families::fim_marks;
use text::tokenizer::Within;
use text::{TextError, Tokenizer};

/// The prompt that asks for what is between two texts; `None` where the model has no tokens for it. Names of special tokens in the
/// texts are text.
///
/// # Errors
/// A text that is too long.
pub fn prompt(
    tokenizer: &Tokenizer,
    prefix: &str,
    suffix: &str,
    within: Within<'_>,
) -> Result<Option<Vec<u32>>, TextError> {
    let id = |piece: &str| tokenizer.id_of(piece);
    let found = fim_marks().find_map(|m| Some((id(m.begin)?, id(m.hole)?, id(m.end)?)));
    let Some((begin, hole, end)) = found else { return Ok(None) };
    // The tokenizer's prefix of a text, without its suffix.
    let mut ids = tokenizer.encode("", true)?;
    ids.truncate(1);
    ids.push(begin);
    ids.extend(tokenizer.encode_prompt_within(&tokenizer.escape_special_tokens(prefix), within)?);
    ids.push(hole);
    ids.extend(tokenizer.encode_prompt_within(&tokenizer.escape_special_tokens(suffix), within)?);
    ids.push(end);
    Ok(Some(ids))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Within<'static> = Within { tokens_max: usize::MAX, left: &|| false };

    /// A tokenizer of a few letters, with these special tokens.
    fn tokenizer(specials: &[&str]) -> Tokenizer {
        let added = specials.iter().enumerate().map(|(i, content)| {
            serde_json::json!({"id": 9 + i, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        });
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(), "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "<": 2, ">": 3, "|": 4, "_": 5, "f": 6, "i": 7, "m": 8}, "merges": []}
        });
        Tokenizer::from_json(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_gap_is_between_the_texts_and_names_in_them_are_text() {
        let codes = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"];
        let ids = prompt(&tokenizer(&codes), "ab", "b", OPEN).unwrap();
        assert_eq!(ids, Some(vec![9, 0, 1, 10, 1, 11]));
        let named = prompt(&tokenizer(&codes), "a<|fim_middle|>", "b", OPEN).unwrap().unwrap();
        assert_eq!(named.iter().filter(|&&id| id >= 9).count(), 3, "{named:?}");
        let deepseek = ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"];
        assert_eq!(prompt(&tokenizer(&deepseek), "", "a", OPEN).unwrap(), Some(vec![9, 10, 0, 11]));
        assert_eq!(prompt(&tokenizer(&codes[..2]), "a", "b", OPEN).unwrap(), None);
    }
}
