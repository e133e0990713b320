//! tokenizer.json: loading, a text there and back, and what a stream gives.
use text::Tokenizer;

/// Runs the target on one input.
pub fn run(data: &[u8]) {
    let Ok(tokenizer) = Tokenizer::from_json(data) else { return };
    let _ = (tokenizer.vocab_size(), tokenizer.largest_id());
    for text in ["abc <s> 12 \u{e9}\u{4e2d}\n", ""] {
        if let Ok(ids) = tokenizer.encode(text, true) {
            let _ = tokenizer.decode(&ids, true);
        }
    }
    let _ = tokenizer.decode(&[0, 1, 2, 3, u32::MAX], false);
}
