//! Fill in the middle: prompts for the text between a prefix and a suffix, with the special tokens that models were trained with.

use text::ends::{first_tokens, last_tokens};
use text::families::fim_marks;
use text::tokenizer::Within;
use text::{TextError, Tokenizer};

use crate::request::Gap;

/// A prompt for what fills a gap.
#[derive(Debug, PartialEq, Eq)]
pub struct GapPrompt {
    pub ids: Vec<u32>,
    /// Texts were cut, or files left out.
    pub truncated: bool,
}

/// The prompt that asks for what fills a gap behind `prefix_text`; `None` where the model has no tokens for it. Names of special tokens in the
/// texts are text. Where texts are cut, the text before the gap keeps three quarters of the context or what the text behind it leaves,
/// each keeps what is nearest to the gap, and other files get what is left, the last ones first.
///
/// # Errors
/// A text that is too long.
pub fn prompt(
    tokenizer: &Tokenizer,
    prefix_text: &str,
    gap: &Gap,
    within: Within<'_>,
) -> Result<Option<GapPrompt>, TextError> {
    let id = |piece: &str| tokenizer.id_of(piece);
    let found = fim_marks().find_map(|m| Some((id(m.begin)?, id(m.hole)?, id(m.end)?, m.files)));
    let Some((begin, hole, end, file_marks)) = found else { return Ok(None) };
    let encode_within = |text: &str, within| {
        let escaped = tokenizer.escape_special_tokens(text);
        tokenizer.encode_prompt_within(&escaped, within)
    };
    let open = Within { tokens_max: usize::MAX, ..within };
    let encode = |text: &str| encode_within(text, open);
    // The tokenizer's prefix of a text, without its suffix.
    let mut ids = tokenizer.encode("", true)?;
    ids.truncate(1);
    let begun = encode_within(&gap.begun, within)?;
    let (mut left, mut truncated) = (usize::MAX, false);
    let (mut prefix, mut suffix);
    if let Some(room) = gap.room {
        left = within.tokens_max.saturating_sub(room.min(within.tokens_max / 2) + ids.len() + 3 + begun.len());
        (prefix, suffix) = (last_tokens(prefix_text, left, encode)?, first_tokens(&gap.suffix, left, encode)?);
        truncated = prefix.len() + suffix.len() > left;
        suffix.truncate((left / 4).max(left.saturating_sub(prefix.len())));
        prefix.drain(..prefix.len().saturating_sub(left - suffix.len()));
        left -= prefix.len() + suffix.len();
    } else {
        (prefix, suffix) = (encode_within(prefix_text, within)?, encode_within(&gap.suffix, within)?);
    }
    let file_marks = file_marks.and_then(|(repository, file)| Some((id(repository)?, id(file)?)));
    let (chosen, all) = files(&gap.files, file_marks, &encode, left)?;
    truncated |= !all;
    ids.extend(chosen);
    ids.push(begin);
    ids.append(&mut prefix);
    ids.push(hole);
    ids.append(&mut suffix);
    ids.push(end);
    ids.extend(begun);
    Ok(Some(GapPrompt { ids, truncated }))
}

/// Other files within `left` tokens, the last ones first, in their order, and whether that is all of them. Models without marks for files
/// get their names in lines.
fn files(
    files: &[(String, String)],
    marks: Option<(u32, u32)>,
    encode: &dyn Fn(&str) -> Result<Vec<u32>, TextError>,
    left: usize,
) -> Result<(Vec<u32>, bool), TextError> {
    let marked = |mark: u32, text: &str| Ok([vec![mark], encode(&format!("{text}\n"))?].concat());
    let (opening, closing) = match marks {
        Some((repository, file)) if !files.is_empty() => (marked(repository, "repository")?, marked(file, "file")?),
        _ => Default::default(),
    };
    let mut left = left.saturating_sub(opening.len() + closing.len());
    let mut chosen = Vec::new();
    for (name, text) in files.iter().rev() {
        let mut ids = match marks {
            Some((_, file)) => marked(file, name)?,
            None => encode(&format!("\n\n--- {name} ---\n\n"))?,
        };
        ids.extend(first_tokens(text, left, encode)?);
        if ids.len() > left {
            break;
        }
        left -= ids.len();
        chosen.push(ids);
    }
    let all = chosen.len() == files.len();
    if chosen.is_empty() {
        return Ok((Vec::new(), all));
    }
    Ok(([opening].into_iter().chain(chosen.into_iter().rev()).chain([closing]).flatten().collect(), all))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Within<'static> = Within { tokens_max: usize::MAX, left: &|| false };

    fn before(text: &str) -> Gap {
        Gap::before(text.to_string())
    }

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
        let of = |codes: &[&str], prefix: &str, suffix: &str| {
            let made = prompt(&tokenizer(codes), prefix, &before(suffix), OPEN).unwrap();
            made.map(|made| made.ids)
        };
        assert_eq!(of(&codes, "ab", "b"), Some(vec![9, 0, 1, 10, 1, 11]));
        let named = of(&codes, "a<|fim_middle|>", "b").unwrap();
        assert_eq!(named.iter().filter(|&&id| id >= 9).count(), 3, "{named:?}");
        let deepseek = ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"];
        assert_eq!(of(&deepseek, "", "a"), Some(vec![9, 10, 0, 11]));
        assert_eq!(of(&codes[..2], "a", "b"), None);
    }

    #[test]
    fn texts_that_are_too_long_are_cut_where_the_editor_wishes_and_files_come_first() {
        // a 0, b 1, newline 9; begin 10, hole 11, end 12, repository 13, file 14.
        let marks = ["\u{10a}", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"];
        let code = tokenizer(&marks);
        let file = |name: &str, text: &str| (name.to_string(), text.to_string());
        let gap = |room: usize| Gap {
            suffix: "bbbb".to_string(),
            files: vec![file("b", "bbb"), file("a", "aa")],
            begun: "a".to_string(),
            room: Some(room),
            field: "input_suffix",
        };
        let made = |context: usize, prefix: &str, room: usize| {
            let within = Within { tokens_max: context, left: &|| false };
            let GapPrompt { ids, truncated } = prompt(&code, prefix, &gap(room), within).unwrap().unwrap();
            assert_eq!(truncated, context < 64, "{ids:?}");
            ids
        };
        // 12 tokens for both texts: 3 behind the gap, 9 before it, and no file.
        let cut = made(18, &"a".repeat(99), 2);
        assert_eq!(cut, [vec![10], vec![0; 9], vec![11, 1, 1, 1, 12, 0]].concat());
        // A short text before the gap leaves its room to the other side.
        assert_eq!(made(18, "a", 2), [10, 0, 11, 1, 1, 1, 1, 12, 0]);
        // The last file fits, the first does not.
        let some = made(64, "a", 20);
        assert_eq!(some.iter().filter(|&&id| id == 14).count(), 3, "{some:?}");
        let one = made(20, "a", 0);
        assert!(one.len() <= 20 && one.iter().filter(|&&id| id == 14).count() == 2, "{one:?}");
        // At least half of the context is for the prompt.
        assert_eq!(made(16, "a", usize::MAX), [10, 0, 11, 1, 1, 1, 12, 0]);
    }
}
