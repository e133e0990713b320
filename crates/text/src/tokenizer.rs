//! A tokenizer: the `tokenizers` library behind the few functions that are needed, with limits.

use std::borrow::Cow;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use serde::Serialize;
use serde_json::{Value, json};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{ModelWrapper, OffsetType, PreTokenizer};

use crate::TextError;
use crate::gguf_tokenizer::Vocabulary;
use crate::growth::{GROWTH_MAX, growth};
use crate::least::Least;

/// Longest text encoded at once.
pub const TEXT_BYTES_MAX: usize = 32 << 20;

/// Texts up to this length are encoded in one piece.
const SHORT_BYTES: usize = 4 << 10;

/// Longest part of a special token's name that is looked for at the ends of a text, in characters.
const PART_MAX: usize = 256;

/// Largest description of a tokenizer.
const JSON_BYTES_MAX: usize = 128 << 20;

/// Marks around the number of a special token whose name was in a text: characters that Unicode keeps free of any meaning.
const MARK: char = '\u{fdd0}';
const END_MARK: char = '\u{fdd1}';
/// Where a text from outside begins or ends that may be a part of a special token's name.
const SEAM: &str = "\u{fdd0}\u{fdd1}";

/// How pieces stand for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PieceSpelling {
    /// GPT-2's: every byte is one printable character.
    Bytes,
    /// SentencePiece's: text with U+2581 for spaces, `<0xNN>` for single bytes; whether one leading space of a text is dropped.
    Text { drop_first_space: bool },
}

/// Text to ids and back.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same, to which special tokens are plain text: made when it is first needed.
    plain: OnceLock<Box<tokenizers::Tokenizer>>,
    /// Spellings of the tokens that are marks rather than text, longest first, and the characters they begin with.
    specials: Vec<String>,
    begins: Vec<char>,
    /// The same spellings in order, and turned round in order: what begins or ends with a text is found by halving.
    ordered: [Vec<String>; 2],
    pieces: PieceSpelling,
    added: std::collections::HashMap<u32, (String, bool)>,
    bytes_of: [u16; 512],
    least: OnceLock<Option<Box<Least>>>,
}

/// Bounds on the work for one text.
#[derive(Clone, Copy)]
pub struct Within<'a> {
    /// Tokens at most; a text that has more is refused, before it is encoded where its bytes tell.
    pub tokens_max: usize,
    /// Whether the client has gone; asked between words.
    pub left: &'a dyn Fn() -> bool,
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
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread would be caught and returned as an error: the `tokenizers` library panics on descriptions that
/// contradict themselves. For a program's panic hook, which need not print such a panic.
pub fn panic_is_caught() -> bool {
    GUARDED.get()
}

/// Run code of the library that may panic on a hostile description.
fn guarded<T>(what: &str, f: impl FnOnce() -> Result<T, String>) -> Result<T, TextError> {
    let before = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(f));
    GUARDED.set(before);
    let error = |e: String| TextError::Tokenizer(format!("{what}: {}", e.lines().next().unwrap_or_default()));
    let said = |payload: Box<dyn std::any::Any + Send>| {
        let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
        format!("the description contradicts itself ({})", text.unwrap_or("no more is known"))
    };
    outcome.unwrap_or_else(|payload| Err(said(payload))).map_err(error)
}

/// A part of a tokenizer as its description has it; null where there is none.
fn json_of(part: Option<&impl Serialize>) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}

fn ids_of(tokenizer: &tokenizers::Tokenizer, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
    guarded("encoding", || {
        tokenizer.encode_fast(text, add_special).map(|e| e.get_ids().to_vec()).map_err(|e| e.to_string())
    })
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
        let inner = guarded("it is damaged", || tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| e.to_string()))?;
        if let tokenizers::models::ModelWrapper::BPE(model) = inner.get_model()
            && let Some(dropout) = model.dropout.filter(|&dropout| dropout > 0.0)
        {
            return Err(TextError::Tokenizer(format!(
                "model.dropout is {dropout}: a text would have other tokens each time; set it to null in tokenizer.json"
            )));
        }
        let most = growth(&json_of(inner.get_normalizer()));
        if most > GROWTH_MAX {
            return Err(TextError::Tokenizer(format!(
                "its normalizer can make {most} bytes of one; at most {GROWTH_MAX} are taken"
            )));
        }
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

    fn of(mut inner: tokenizers::Tokenizer) -> Tokenizer {
        // They are for batches in training: a prompt is neither cut nor filled up without a word.
        inner.with_padding(None);
        let _ = inner.with_truncation(None);
        let text = json_of(inner.get_decoder()).to_string();
        let pieces = if text.contains("\"ByteLevel\"") {
            PieceSpelling::Bytes
        } else {
            PieceSpelling::Text { drop_first_space: text.contains("\"Strip\"") || text.contains("\"Metaspace\"") }
        };
        let added: std::collections::HashMap<u32, (String, bool)> =
            inner.get_added_tokens_decoder().into_iter().map(|(id, t)| (id, (t.content.clone(), t.special))).collect();
        let mut bytes_of = [u16::MAX; 512];
        for (byte, c) in byte_characters().into_iter().enumerate() {
            bytes_of[c as usize] = byte as u16;
        }
        // Some vocabularies do not flag their marks of turns and tools as special: what looks like a mark is one.
        let mark =
            |p: &str| p.len() > 2 && (p.starts_with('<') && p.ends_with('>') || p.starts_with('[') && p.ends_with(']'));
        let special =
            |(piece, flagged): &(String, bool)| (*flagged && !piece.is_empty() || mark(piece)).then(|| piece.clone());
        let mut specials: Vec<String> = added.values().filter_map(special).collect();
        specials.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        let mut begins: Vec<char> = specials.iter().filter_map(|s| s.chars().next()).collect();
        begins.sort_unstable();
        begins.dedup();
        let (plain, least) = (OnceLock::new(), OnceLock::new());
        let mut ordered = [specials.clone(), specials.iter().map(|name| name.chars().rev().collect()).collect()];
        ordered.iter_mut().for_each(|names| names.sort_unstable());
        Tokenizer { inner, plain, specials, begins, ordered, pieces, added, bytes_of, least }
    }

    /// No encoding of this text has fewer tokens; 0 where nothing can be said. Takes far less than encoding it.
    pub fn tokens_least(&self, text: &str) -> usize {
        let least = self.least.get_or_init(|| {
            let (model, fallback) = match self.inner.get_model() {
                ModelWrapper::BPE(bpe) => ("BPE", bpe.byte_fallback),
                ModelWrapper::Unigram(unigram) => ("Unigram", unigram.byte_fallback()),
                _ => ("other", false),
            };
            let parts = json!({
                "normalizer": json_of(self.inner.get_normalizer()),
                "pre_tokenizer": json_of(self.inner.get_pre_tokenizer()),
                "model": model,
                "bytes": fallback || self.pieces == PieceSpelling::Bytes,
            });
            let strips = self.inner.get_added_tokens_decoder().values().any(|t| t.lstrip || t.rstrip);
            let ids = 0..=self.largest_id().map_or(0, |(id, _)| id);
            Least::new(&parts, strips, ids.filter_map(|id| self.bytes(id))).map(Box::new)
        });
        least.as_ref().map_or(0, |least| least.tokens(text))
    }

    /// As `encode`, within bounds.
    ///
    /// # Errors
    /// A text that is too long, has more tokens than allowed, or that nobody waits for.
    pub fn encode_within(&self, text: &str, add_special: bool, within: Within<'_>) -> Result<Vec<u32>, TextError> {
        let Within { tokens_max, left } = within;
        let most = tokens_max;
        let least = self.tokens_least(text);
        if least > most {
            return Err(TextError::TooMany { least, most });
        }
        if text.len() <= SHORT_BYTES || self.inner.get_truncation().is_some() || text.len() > TEXT_BYTES_MAX {
            let ids = self.encode(text, add_special)?;
            return if ids.len() > most { Err(TextError::TooMany { least: ids.len(), most }) } else { Ok(ids) };
        }
        let (tokens, gone) = (Cell::new(0), Cell::new(false));
        let encoded = guarded("encoding", || {
            let said = |e: tokenizers::Error| e.to_string();
            let mut words = self.inner.get_added_vocabulary().extract_and_normalize(self.inner.get_normalizer(), text);
            if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut words).map_err(said)?;
            }
            let model = self.inner.get_model();
            let word = |word: &tokenizers::NormalizedString| {
                gone.set(left());
                let ids = tokenizers::Model::tokenize(model, word.get())?;
                tokens.set(tokens.get() + ids.len());
                if gone.get() || tokens.get() > most { Err("enough".into()) } else { Ok(ids) }
            };
            words.tokenize(word).map_err(said)?;
            let encoding = words.into_encoding(None, 0, OffsetType::None).map_err(said)?;
            let whole = self.inner.post_process(encoding, None, add_special).map_err(said)?;
            Ok(whole.get_ids().to_vec())
        });
        match encoded {
            _ if gone.get() => Err(TextError::Left),
            Ok(ids) if ids.len() > most => Err(TextError::TooMany { least: ids.len(), most }),
            Err(_) if tokens.get() > most => Err(TextError::TooMany { least: tokens.get(), most }),
            other => other,
        }
    }

    /// Ids of a text; names of special tokens inside it become their ids. `add_special` adds what the model wants around a text.
    ///
    /// # Errors
    /// A text that is too long.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TextError::TooLong { bytes: text.len(), max: TEXT_BYTES_MAX });
        }
        ids_of(&self.inner, text, add_special)
    }

    /// With this token before every text, if nothing is added to texts yet: what `add_bos_token` means to the classes of Llama's tokenizer
    /// in `transformers` 4, whose files leave it out of the post-processor.
    pub fn beginning_with(mut self, piece: &str) -> Tokenizer {
        let adds = ids_of(&self.inner, "", true).is_ok_and(|ids| !ids.is_empty());
        let fit = !piece.is_empty() && !piece.contains(char::is_whitespace) && !piece.starts_with('$');
        if let Some(id) = self.id_of(piece).filter(|_| fit && !adds) {
            let template = TemplateProcessing::builder()
                .try_single(format!("{piece} $A"))
                .ok()
                .and_then(|builder| builder.special_tokens(vec![(piece.to_string(), id)]).build().ok());
            if let Some(template) = template {
                self.inner.with_post_processor(Some(template));
            }
        }
        self
    }

    /// Escapes the names of special tokens in a text from outside, before a template takes it: they are put behind marks, so that
    /// `encode_prompt` takes them for the text they are and nobody can end a turn by writing so. Where it begins or ends with a part of
    /// such a name, that is marked too: a template may put two texts side by side.
    pub fn escape_special_tokens(&self, text: &str) -> String {
        let seam = |part: bool| if part { SEAM } else { "" };
        let plain = |c| if c == MARK || c == END_MARK { char::REPLACEMENT_CHARACTER } else { c };
        let escaped = self.with_marks(text, |_, _| true, plain);
        format!("{}{escaped}{}", seam(self.is_part(1, text.chars())), seam(self.is_part(0, text.chars().rev())))
    }

    /// A text with the names of special tokens marked that `taken` is true for, by their place; `plain` is what becomes of other
    /// characters.
    fn with_marks(&self, text: &str, taken: impl Fn(usize, &str) -> bool, plain: impl Fn(char) -> char) -> String {
        let (mut out, mut at) = (String::with_capacity(text.len()), 0);
        while let Some(c) = text[at..].chars().next() {
            let may = self.begins.binary_search(&c).is_ok();
            let named = |piece: &String| text[at..].starts_with(piece.as_str()) && taken(at, piece);
            if let Some(index) = may.then(|| self.specials.iter().position(named)).flatten() {
                out.push_str(&format!("{MARK}{index}{END_MARK}"));
                at += self.specials[index].len();
            } else {
                out.push(plain(c));
                at += c.len_utf8();
            }
        }
        out
    }

    /// Whether some characters from an end of a text inwards are the beginning (0) or the end (1) of a special token's name, which goes
    /// on. Words and numbers alone do not count.
    fn is_part(&self, side: usize, inwards: impl Iterator<Item = char>) -> bool {
        let longest = self.specials.first().map_or(0, String::len).min(PART_MAX);
        let (mut part, mut named) = (String::new(), false);
        inwards.take(longest).any(|c| {
            part.insert(0, c);
            named |= !c.is_alphanumeric();
            let names = &self.ordered[side];
            let next = names.partition_point(|name| name.as_str() <= part.as_str());
            named && names.get(next).is_some_and(|name| name.starts_with(part.as_str()))
        })
    }

    /// A rendered prompt without seams; names of special tokens that reach over one are marked as the text they are.
    fn joined<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !text.contains(SEAM) {
            return Cow::Borrowed(text);
        }
        let (mut plain, mut seams) = (String::with_capacity(text.len()), Vec::new());
        for part in text.split(SEAM) {
            plain.push_str(part);
            seams.push(plain.len());
        }
        let over = |at: usize, piece: &str| {
            let next = seams[seams.partition_point(|&seam| seam <= at)..].first();
            next.is_some_and(|&seam| seam < at + piece.len())
        };
        Cow::Owned(self.with_marks(&plain, over, |c| c))
    }

    /// Ids of a rendered prompt: the template's own special tokens are special, escaped ones are text.
    ///
    /// # Errors
    /// A text that is too long.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode_prompt_within(text, Within { tokens_max: usize::MAX, left: &|| false })
    }

    /// As `encode_prompt`, within bounds.
    ///
    /// # Errors
    /// A text that is too long, has more tokens than allowed, or that nobody waits for.
    pub fn encode_prompt_within(&self, text: &str, within: Within<'_>) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::new();
        let text = &*self.joined(text);
        let mut rest = text;
        let most = within.tokens_max;
        // A mark is shorter than the tokens that it stands for, as a rule, but that is not counted on.
        let least = if text.contains(MARK) { 0 } else { self.tokens_least(text) };
        if least > most {
            return Err(TextError::TooMany { least, most });
        }
        let more = |text: &str, so_far: usize| {
            let within = Within { tokens_max: most.saturating_sub(so_far), ..within };
            self.encode_within(text, false, within).map_err(|error| match error {
                TextError::TooMany { least, .. } => TextError::TooMany { least: least + so_far, most },
                other => other,
            })
        };
        while let Some(at) = rest.find(MARK) {
            let mark = &rest[at + MARK.len_utf8()..];
            let end = mark.find(END_MARK);
            let piece = end.and_then(|end| mark[..end].parse::<usize>().ok()).and_then(|i| self.specials.get(i));
            let (Some(end), Some(piece)) = (end, piece) else {
                return Err(TextError::Template("it took apart a mark around a special token's name".to_string()));
            };
            if at > 0 {
                ids.extend(more(&rest[..at], ids.len())?);
            }
            if (within.left)() {
                return Err(TextError::Left);
            }
            if ids.len() > most {
                return Err(TextError::TooMany { least: ids.len(), most });
            }
            let plain = self.plain.get_or_init(|| {
                let mut plain = Box::new(self.inner.clone());
                let all = self.specials.iter().map(|piece| tokenizers::AddedToken::from(piece.as_str(), true));
                let _ = plain.add_special_tokens(all);
                plain.set_encode_special_tokens(true);
                plain
            });
            ids.extend(ids_of(plain, piece, false)?);
            rest = &mark[end + END_MARK.len_utf8()..];
        }
        if !rest.is_empty() {
            ids.extend(more(rest, ids.len())?);
        }
        if ids.len() > most { Err(TextError::TooMany { least: ids.len(), most }) } else { Ok(ids) }
    }

    /// Bytes that a token stands for.
    pub fn bytes(&self, id: u32) -> Option<Vec<u8>> {
        if let Some((content, _)) = self.added.get(&id) {
            return Some(content.clone().into_bytes());
        }
        let piece = self.inner.id_to_token(id)?;
        let bytes = match self.pieces {
            PieceSpelling::Bytes => {
                let byte = |c: char| self.bytes_of.get(c as usize).copied().filter(|&b| b != u16::MAX).map(|b| b as u8);
                let bytes: Option<Vec<u8>> = piece.chars().map(byte).collect();
                bytes.unwrap_or_else(|| piece.into_bytes())
            }
            PieceSpelling::Text { .. } => {
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

    /// Whether a token was added to the vocabulary by name, special or not.
    pub(crate) fn is_added(&self, id: u32) -> bool {
        self.added.contains_key(&id)
    }

    /// Id of a token by its piece.
    pub fn id_of(&self, piece: &str) -> Option<u32> {
        self.inner.token_to_id(piece)
    }

    /// The piece of an id, as the vocabulary spells it.
    pub fn piece(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The largest id that a text can become, with its piece.
    pub fn largest_id(&self) -> Option<(u32, String)> {
        self.inner.get_vocab(true).into_iter().map(|(piece, id)| (id, piece)).max()
    }

    pub(crate) fn drops_first_space(&self) -> bool {
        self.pieces == PieceSpelling::Text { drop_first_space: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_that_is_not_one_text_to_one_row_of_ids_is_refused_or_mended() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/seed-5.7m/tokenizer.json");
        let bundled: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let of = |change: &dyn Fn(&mut Value)| {
            let mut json = bundled.clone();
            change(&mut json);
            Tokenizer::from_json(json.to_string().as_bytes()).map_err(|e| e.to_string())
        };
        let text = "Once upon a time there was a little girl.";
        let ids = of(&|_| ()).unwrap().encode(text, false).unwrap();
        let said = of(&|json| json["model"]["dropout"] = 0.5.into()).err().unwrap();
        assert!(said.contains("model.dropout is 0.5"), "{said}");
        assert!(of(&|json| json["model"]["dropout"] = 0.0.into()).is_ok());
        let twice = serde_json::json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        let said = of(&|json| {
            json["normalizer"] = serde_json::json!({"type": "Sequence", "normalizers": vec![twice.clone(); 40]});
        });
        let said = said.err().unwrap();
        assert!(said.contains("its normalizer can make 1099511627776 bytes of one"), "{said}");
        let cut = of(&|json| {
            json["truncation"] =
                serde_json::json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
            json["padding"] = serde_json::json!({"strategy": {"Fixed": 500}, "direction": "Right", "pad_to_multiple_of": null,
                "pad_id": 0, "pad_type_id": 0, "pad_token": "x"});
        });
        assert_eq!(cut.unwrap().encode(text, false).unwrap(), ids);
    }
}
