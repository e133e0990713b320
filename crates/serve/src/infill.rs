//! Filling a gap between two texts: the special tokens that models were trained with for it.

use text::{TextError, Tokenizer};

/// Spellings of what stands before the text, at the gap, and after what follows it.
struct Marks {
    begin: &'static str,
    hole: &'static str,
    end: &'static str,
}

/// In the order prefix, suffix, middle. The first is DeepSeek's, the others are Qwen's, StarCoder's, CodeLlama's and Codestral's neighbours.
const KNOWN: [Marks; 5] = [
    Marks { begin: "<｜fim▁begin｜>", hole: "<｜fim▁hole｜>", end: "<｜fim▁end｜>" },
    Marks { begin: "<|fim_prefix|>", hole: "<|fim_suffix|>", end: "<|fim_middle|>" },
    Marks { begin: "<fim_prefix>", hole: "<fim_suffix>", end: "<fim_middle>" },
    Marks { begin: "<fim-prefix>", hole: "<fim-suffix>", end: "<fim-middle>" },
    Marks { begin: "▁<PRE>", hole: "▁<SUF>", end: "▁<MID>" },
];

/// The prompt that asks for what is between two texts; `None` where the model has no tokens for it. Names of special tokens in the
/// texts are text.
///
/// # Errors
/// A text that is too long.
pub fn prompt(tokenizer: &Tokenizer, prefix: &str, suffix: &str) -> Result<Option<Vec<u32>>, TextError> {
    let id = |piece: &str| tokenizer.id_of(piece);
    let found = KNOWN.iter().find_map(|m| Some((id(m.begin)?, id(m.hole)?, id(m.end)?)));
    let Some((begin, hole, end)) = found else { return Ok(None) };
    // What the tokenizer puts before a text, and nothing that it puts behind one.
    let mut ids = tokenizer.encode("", true)?;
    ids.truncate(1);
    ids.push(begin);
    ids.extend(tokenizer.encode_prompt(&tokenizer.shield(prefix))?);
    ids.push(hole);
    ids.extend(tokenizer.encode_prompt(&tokenizer.shield(suffix))?);
    ids.push(end);
    Ok(Some(ids))
}
