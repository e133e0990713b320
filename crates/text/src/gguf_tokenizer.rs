//! Tokenizers of GGUF files: their vocabulary as a description that the `tokenizers` library reads.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::TextError;
use crate::families::{PRE_TOKENIZERS, PreTokenizer};

/// What a GGUF file says of its tokenizer.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct Vocabulary {
    /// `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: String,
    /// Name of the rule that splits text before merging.
    pub pre: Option<String>,
    /// Pieces in order of id.
    pub tokens: Vec<String>,
    /// SentencePiece scores.
    pub scores: Vec<f32>,
    /// Kinds: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub types: Vec<i64>,
    /// Merges, `left right`.
    pub merges: Vec<String>,
    /// Id that starts a text.
    pub bos: Option<u32>,
    /// Id that ends one.
    pub eos: Option<u32>,
    /// Id of what has no piece.
    pub unknown: Option<u32>,
    /// Whether texts are started with `bos`.
    pub add_bos: Option<bool>,
    /// Whether texts are ended with `eos`.
    pub add_eos: Option<bool>,
    /// SentencePiece: whether a text gets a leading space.
    pub add_space_prefix: Option<bool>,
}

/// Longest piece that merges are looked for in: the ways to cut a piece grow with its square.
const PIECE_BYTES_MAX: usize = 1024;

pub(crate) const CONTROL: i64 = 3;
pub(crate) const USER_DEFINED: i64 = 4;

/// What depends on the kind of tokenizer.
struct Parts {
    model: Value,
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    /// Texts begin with the beginning-of-text token, unless the file says otherwise.
    bos: bool,
}

fn pre_tokenizer(name: &str) -> Result<&'static PreTokenizer, TextError> {
    PRE_TOKENIZERS.iter().find(|p| p.names.contains(&name)).ok_or_else(|| {
        let known: Vec<&str> = PRE_TOKENIZERS.iter().map(|p| p.names[0]).collect();
        TextError::Tokenizer(format!(
            "pre-tokenizer {name:?} is not supported; supported are {} and their aliases",
            known.join(", ")
        ))
    })
}

impl Vocabulary {
    /// The same tokenizer as a `tokenizer.json`.
    ///
    /// # Errors
    /// A vocabulary that contradicts itself, or a kind that is not read.
    pub fn describe(&self) -> Result<Value, TextError> {
        self.check()?;
        let Parts { model, normalizer, pre_tokenizer, decoder, bos } = match self.model.as_str() {
            "gpt2" => self.byte_level()?,
            "llama" => self.sentence_piece()?,
            other => {
                let message = format!("model {other:?} is not supported; supported are gpt2 and llama");
                return Err(TextError::Tokenizer(message));
            }
        };
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": self.added(), "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": self.around(bos)?, "decoder": decoder, "model": model
        }))
    }

    /// Refuses what contradicts itself.
    fn check(&self) -> Result<(), TextError> {
        let (tokens, types) = (self.tokens.len(), self.types.len());
        let message = if tokens == 0 {
            "its vocabulary has no tokens".to_string()
        // A file without kinds has normal tokens only.
        } else if types != 0 && types != tokens {
            format!("{types} kinds of tokens (token_type) for {tokens} tokens")
        } else if let Some(id) = self.unknown.filter(|&id| id as usize >= tokens) {
            format!("unknown_token_id {id} is outside the vocabulary of {tokens}")
        } else if self.model == "gpt2" && self.merges.is_empty() {
            "model \"gpt2\" without merges: take a whole conversion of this model".to_string()
        } else {
            return Ok(());
        };
        Err(TextError::Tokenizer(message))
    }

    fn byte_level(&self) -> Result<Parts, TextError> {
        let rule = pre_tokenizer(self.pre.as_deref().unwrap_or("default"))?;
        let split =
            |s: &&str| json!({"type": "Split", "pattern": {"Regex": s}, "behavior": "Isolated", "invert": false});
        let mut steps: Vec<Value> = rule.splits.iter().map(split).collect();
        if rule.digits {
            steps.push(json!({"type": "Digits", "individual_digits": true}));
        }
        steps.push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}));
        let merges = self.merges.iter().filter_map(|m| split_merge(m)).map(|(a, b)| json!([a, b])).collect();
        Ok(Parts {
            model: self.bpe(merges, rule.ignore_merges, false)?,
            normalizer: Value::Null,
            pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
            decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
            bos: rule.bos,
        })
    }

    fn sentence_piece(&self) -> Result<Parts, TextError> {
        let mut steps = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"})];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if self.add_space_prefix.unwrap_or(true) {
            steps.insert(0, json!({"type": "Prepend", "prepend": "\u{2581}"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        Ok(Parts {
            model: self.bpe(self.merges_by_score()?, false, true)?,
            normalizer: json!({"type": "Sequence", "normalizers": steps}),
            pre_tokenizer: Value::Null,
            decoder: json!({"type": "Sequence", "decoders": decoders}),
            bos: true,
        })
    }

    /// Tokens that are found before the text is split.
    fn added(&self) -> Vec<Value> {
        let added = |(id, token): (usize, &String)| {
            let kind = self.types.get(id).copied().filter(|kind| matches!(*kind, CONTROL | USER_DEFINED))?;
            (!token.is_empty()).then(|| {
                json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": kind == CONTROL})
            })
        };
        self.tokens.iter().enumerate().filter_map(added).collect()
    }

    /// What is added around a text.
    fn around(&self, bos_by_default: bool) -> Result<Value, TextError> {
        let mut single = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
        let mut specials = serde_json::Map::new();
        let mut special = |id: u32| -> Result<Value, TextError> {
            let piece = self.tokens.get(id as usize).ok_or_else(|| {
                TextError::Tokenizer(format!("special id {id} is outside the vocabulary of {}", self.tokens.len()))
            })?;
            specials.insert(piece.clone(), json!({"id": piece, "ids": [id], "tokens": [piece]}));
            Ok(json!({"SpecialToken": {"id": piece, "type_id": 0}}))
        };
        if let Some(bos) = self.bos.filter(|_| self.add_bos.unwrap_or(bos_by_default)) {
            single.insert(0, special(bos)?);
        }
        if let Some(eos) = self.eos.filter(|_| self.add_eos.unwrap_or(false)) {
            single.push(special(eos)?);
        }
        if single.len() == 1 {
            return Ok(Value::Null);
        }
        let mut pair = single.clone();
        pair.push(json!({"Sequence": {"id": "B", "type_id": 1}}));
        Ok(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials}))
    }

    fn bpe(&self, merges: Vec<Value>, ignore_merges: bool, byte_fallback: bool) -> Result<Value, TextError> {
        let mut vocab = serde_json::Map::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            // Of tokens spelled alike the first one counts, as in the programs that made these files.
            vocab.entry(token.clone()).or_insert_with(|| json!(id));
        }
        let known = |v: &Value| v.as_str().is_some_and(|t| vocab.contains_key(t));
        let whole =
            |m: &Value| vocab.contains_key(&format!("{}{}", m[0].as_str().unwrap_or(""), m[1].as_str().unwrap_or("")));
        let merges: Vec<Value> = merges.into_iter().filter(|m| known(&m[0]) && known(&m[1]) && whole(m)).collect();
        let unknown = if byte_fallback { self.unknown.or(Some(0)) } else { None };
        let unknown = unknown.and_then(|id| self.tokens.get(id as usize));
        Ok(json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": byte_fallback, "byte_fallback": byte_fallback, "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges
        }))
    }

    /// SentencePiece merges by score: every way to cut a piece in two pieces, ranked by the whole's score.
    fn merges_by_score(&self) -> Result<Vec<Value>, TextError> {
        if self.scores.len() != self.tokens.len() {
            return Err(TextError::Tokenizer(format!("{} scores for {} tokens", self.scores.len(), self.tokens.len())));
        }
        let ids: HashMap<&str, usize> = self.tokens.iter().enumerate().rev().map(|(i, t)| (t.as_str(), i)).collect();
        let mut merges: Vec<(f32, usize, usize)> = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if self.types.get(id).is_some_and(|&t| t != 1) || token.len() > PIECE_BYTES_MAX {
                continue;
            }
            for (at, _) in token.char_indices().skip(1) {
                if let (Some(&a), Some(&b)) = (ids.get(&token[..at]), ids.get(&token[at..])) {
                    merges.push((self.scores[id], a, b));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        Ok(merges.into_iter().map(|(_, a, b)| json!([self.tokens[a], self.tokens[b]])).collect())
    }
}

/// `left right` at the space that parts them: the first one that is not the first character.
fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let at = first + merge[first..].find(' ')?;
    Some((&merge[..at], &merge[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> Vocabulary {
        let texts = |all: &[&str]| all.iter().map(|t| t.to_string()).collect();
        Vocabulary {
            model: "gpt2".to_string(),
            pre: Some("llama-bpe".to_string()),
            tokens: texts(&["a", "b", "ab", "<s>"]),
            types: vec![1, 1, 1, 3],
            merges: texts(&["a b"]),
            ..Vocabulary::default()
        }
    }

    #[test]
    fn vocabularies_that_contradict_themselves_are_refused() {
        let said = |change: &dyn Fn(&mut Vocabulary)| {
            let mut changed = vocabulary();
            change(&mut changed);
            changed.describe().err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert_eq!(said(&|_| ()), "");
        assert_eq!(said(&|v| v.types.clear()), "");
        assert_eq!(said(&|v| v.unknown = Some(3)), "");
        assert!(said(&|v| v.types.truncate(3)).contains("3 kinds of tokens (token_type) for 4 tokens"));
        assert!(said(&|v| v.types.push(1)).contains("5 kinds of tokens (token_type) for 4 tokens"));
        assert!(said(&|v| v.unknown = Some(4)).contains("unknown_token_id 4 is outside the vocabulary of 4"));
        assert!(said(&|v| v.merges.clear()).contains("without merges"));
        assert!(said(&|v| v.tokens.clear()).contains("no tokens"));
        let pieces = |scores: usize| {
            said(&|v| {
                v.model = "llama".to_string();
                v.scores = vec![0.0; scores];
                v.merges.clear();
            })
        };
        assert!(pieces(0).contains("0 scores for 4 tokens"));
        assert_eq!(pieces(4), "");
    }
}
