//! A tokenizer: the `tokenizers` library behind the few functions that are needed, with limits.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

use crate::TextError;
use crate::rebuilt::Vocabulary;
use crate::stream::Stream;

/// Longest text encoded at once.
pub const TEXT_BYTES_MAX: usize = 32 << 20;

/// Largest description of a tokenizer.
const JSON_BYTES_MAX: usize = 128 << 20;

/// How pieces stand for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pieces {
    /// GPT-2's: every byte is one printable character.
    Bytes,
    /// SentencePiece's: text with U+2581 for spaces, `<0xNN>` for single bytes; whether one leading space of a text is dropped.
    Text { drop_first_space: bool },
}

/// Text to ids and back.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pieces: Pieces,
    added: std::collections::HashMap<u32, (String, bool)>,
    bytes_of: [u16; 512],
}

/// GPT-2's table: the character of each byte.
pub(crate) fn byte_characters() -> [char; 256] {
    let mut table = ['\0'; 256];
    let mut next = 256u32;
    for byte in 0..=255u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        table[byte as usize] = if printable {
            byte as char
        } else {
            next += 1;
            char::from_u32(next - 1).expect("below the surrogates")
        };
    }
    table
}

thread_local! {
    /// Whether this thread is inside `guarded`: its panics are answers there, and not printed.
    static SILENT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Run code of the library that may panic on a hostile description.
fn guarded<T>(what: &str, f: impl FnOnce() -> Result<T, String>) -> Result<T, TextError> {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !SILENT.with(std::cell::Cell::get) {
                before(info);
            }
        }));
    });
    let before = SILENT.with(|silent| silent.replace(true));
    let outcome = catch_unwind(AssertUnwindSafe(f));
    SILENT.with(|silent| silent.set(before));
    let error = |e: String| TextError::Tokenizer(format!("{what}: {}", e.lines().next().unwrap_or_default()));
    outcome.unwrap_or_else(|_| Err("the description contradicts itself".to_string())).map_err(error)
}

impl Tokenizer {
    /// From the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// A description that is too large, or that the library does not take.
    pub fn from_json(bytes: &[u8]) -> Result<Tokenizer, TextError> {
        if bytes.len() > JSON_BYTES_MAX {
            return Err(TextError::Tokenizer(format!("{} bytes; at most {JSON_BYTES_MAX} are read", bytes.len())));
        }
        let inner = guarded("tokenizer.json", || tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| e.to_string()))?;
        Ok(Self::of(inner))
    }

    /// From the vocabulary of a GGUF file.
    ///
    /// # Errors
    /// A model or pre-tokenizer that is not known, by name; a vocabulary that contradicts itself.
    pub fn from_vocabulary(vocabulary: &Vocabulary) -> Result<Tokenizer, TextError> {
        let json = vocabulary.describe()?;
        let inner = guarded("vocabulary", || serde_json::from_value(json).map_err(|e| e.to_string()))?;
        Ok(Self::of(inner))
    }

    fn of(inner: tokenizers::Tokenizer) -> Tokenizer {
        let decoder = inner.get_decoder().and_then(|d| serde_json::to_value(d).ok()).unwrap_or(Value::Null);
        let text = decoder.to_string();
        let pieces = if text.contains("\"ByteLevel\"") {
            Pieces::Bytes
        } else {
            Pieces::Text { drop_first_space: text.contains("\"Strip\"") || text.contains("\"Metaspace\"") }
        };
        let added =
            inner.get_added_tokens_decoder().into_iter().map(|(id, t)| (id, (t.content.clone(), t.special))).collect();
        let mut bytes_of = [u16::MAX; 512];
        for (byte, c) in byte_characters().into_iter().enumerate() {
            bytes_of[c as usize] = byte as u16;
        }
        Tokenizer { inner, pieces, added, bytes_of }
    }

    /// Ids of a text; names of special tokens inside it become their ids. `add_special` adds what the model wants around a text.
    ///
    /// # Errors
    /// A text that is too long.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TextError::TooLong { bytes: text.len(), max: TEXT_BYTES_MAX });
        }
        guarded("encoding", || {
            self.inner.encode_fast(text, add_special).map(|e| e.get_ids().to_vec()).map_err(|e| e.to_string())
        })
    }

    /// Text of ids. Ids without a token are passed over.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut stream = Stream::new(self, skip_special);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&stream.push(id));
        }
        text + &stream.finish()
    }

    /// Bytes that a token stands for.
    pub fn bytes(&self, id: u32) -> Option<Vec<u8>> {
        if let Some((content, _)) = self.added.get(&id) {
            return Some(content.clone().into_bytes());
        }
        let piece = self.inner.id_to_token(id)?;
        let bytes = match self.pieces {
            Pieces::Bytes => {
                let byte = |c: char| self.bytes_of.get(c as usize).copied().filter(|&b| b != u16::MAX).map(|b| b as u8);
                let bytes: Option<Vec<u8>> = piece.chars().map(byte).collect();
                bytes.unwrap_or_else(|| piece.into_bytes())
            }
            Pieces::Text { .. } => {
                let hex = piece.strip_prefix("<0x").and_then(|p| p.strip_suffix('>'));
                match hex.and_then(|h| u8::from_str_radix(h, 16).ok()).filter(|_| piece.len() == 6) {
                    Some(byte) => vec![byte],
                    None => piece.replace('\u{2581}', " ").into_bytes(),
                }
            }
        };
        Some(bytes)
    }

    /// Whether a token is a special one (control, not text).
    pub fn is_special(&self, id: u32) -> bool {
        self.added.get(&id).is_some_and(|(_, special)| *special)
    }

    /// Id of a token by its piece.
    pub fn id_of(&self, piece: &str) -> Option<u32> {
        self.inner.token_to_id(piece)
    }

    /// The piece of an id, as the vocabulary spells it.
    pub fn piece(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The largest id that a text can become, with its piece.
    pub fn largest_id(&self) -> Option<(u32, String)> {
        self.inner.get_vocab(true).into_iter().map(|(piece, id)| (id, piece)).max()
    }

    /// Spellings of the special tokens.
    pub fn special_pieces(&self) -> impl Iterator<Item = &str> {
        self.added.values().filter(|(_, special)| *special).map(|(piece, _)| piece.as_str())
    }

    pub(crate) fn drops_first_space(&self) -> bool {
        self.pieces == Pieces::Text { drop_first_space: true }
    }
}
