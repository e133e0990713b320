//! The vocabulary in a GGUF file: rebuilding the tokenizer, a text there and back.
use text::{Tokenizer, Vocabulary};

/// Runs the target on one input.
pub fn run(data: &[u8]) {
    let Ok(vocabulary) = serde_json::from_slice::<Vocabulary>(data) else { return };
    let Ok(tokenizer) = Tokenizer::from_vocabulary(&vocabulary) else { return };
    let _ = (tokenizer.vocab_size(), tokenizer.largest_id());
    if let Ok(ids) = tokenizer.encode("abc <s> 12 \u{e9}\n", true) {
        let _ = tokenizer.decode(&ids, false);
    }
}
