//! A `tokenizer.json` as the vocabulary of a GGUF file: the inverse of `gguf_tokenizer`. What is not the same tokenizer is refused.

use std::collections::HashMap;

use serde_json::Value;

use crate::families::PRE_TOKENIZERS;
use crate::gguf_tokenizer::{CONTROL, USER_DEFINED, Vocabulary};
use crate::{TextError, Tokenizer};

const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const UNUSED: i64 = 5;
const BYTE: i64 = 6;

/// The split that the step `ByteLevel` makes where it splits.
const BYTE_LEVEL: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Texts on which two tokenizers show whether they are one: contractions, digits, spaces and lines, scripts, symbols, code.
const PROBES: [&str; 4] = [
    "Hello, world! I've been told: THEY'RE 'late; we'll see... isn't it? 3 33 333 3333 33333 1,234.5e-6 x=12;y=[7]",
    " leading  two   three\ttab\n\n\nlines \r\n  indented\n    four = {'a': 1, \"b\": [2]}  trailing   ",
    "Größe naïve Ελλάς Привет мир こんにちは世界 カタカナ 한국어 นี่ हिन्दी ١٢٣ ①② ½ café",
    "🚀😶‍🌫️ →≠ $5 #tag @name a_b a-b C++ <b>&amp;</b> https://x.org/?q=1&r=%20 def f(x): return x**2 // ok ----- ======",
];

impl Vocabulary {
    /// The vocabulary of a `tokenizer.json`, which `tokenizer` was made from, with as many tokens as the model has rows; `bos` and `eos` are the model's.
    ///
    /// # Errors
    /// A kind of tokenizer that these files have not, or one whose way to split text none of the known names stands for.
    pub fn of_tokenizer(
        json: &[u8],
        tokenizer: &Tokenizer,
        size: usize,
        bos: Option<u32>,
        eos: Option<u32>,
    ) -> Result<Vocabulary, TextError> {
        let json: Value = serde_json::from_slice(json).map_err(|e| TextError::Tokenizer(format!("not JSON: {e}")))?;
        let model = &json["model"];
        if model["type"] != "BPE" {
            let kind = model["type"].to_string();
            return Err(TextError::Tokenizer(format!("model {kind} has no place in a GGUF file; BPE has")));
        }
        let pieces = model["byte_fallback"] == true;
        let mut vocabulary = Vocabulary {
            model: if pieces { "llama" } else { "gpt2" }.to_string(),
            tokens: (0..size).map(|id| format!("[PAD{id}]")).collect(),
            types: vec![UNUSED; size],
            bos,
            eos,
            ..Vocabulary::default()
        };
        vocabulary.take_tokens(&json, pieces)?;
        let merges = merges(model)?;
        if pieces {
            vocabulary.scores = scores(&vocabulary.tokens, &vocabulary.types, &merges);
        } else {
            vocabulary.merges = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
        }
        vocabulary.take_ends(tokenizer)?;
        vocabulary.take_rule(&json, tokenizer, pieces)?;
        Ok(vocabulary)
    }

    fn take_tokens(&mut self, json: &Value, pieces: bool) -> Result<(), TextError> {
        let size = self.tokens.len();
        let vocab = json["model"]["vocab"].as_object().into_iter().flatten();
        let vocab = vocab.map(|(piece, id)| (piece.as_str(), id.as_u64(), None));
        let added = json["added_tokens"].as_array().into_iter().flatten();
        let added =
            added.map(|t| (t["content"].as_str().unwrap_or_default(), t["id"].as_u64(), Some(t["special"] == true)));
        let unknown = json["model"]["unk_token"].as_str();
        for (piece, id, added) in vocab.chain(added) {
            let Some(id) = id.and_then(|id| usize::try_from(id).ok()).filter(|&id| id < size) else {
                let what = format!("token {piece:?} has no id below {size}, the rows of the model's embedding");
                return Err(TextError::Tokenizer(what));
            };
            self.tokens[id] = piece.to_string();
            self.types[id] = match added {
                _ if pieces && Some(piece) == unknown => {
                    self.unknown = Some(id as u32);
                    UNKNOWN
                }
                Some(true) => CONTROL,
                Some(false) if looks_special(piece) => CONTROL,
                Some(false) => USER_DEFINED,
                None if pieces && is_byte(piece) => BYTE,
                None => NORMAL,
            };
        }
        Ok(())
    }

    /// What is added around a text.
    fn take_ends(&mut self, tokenizer: &Tokenizer) -> Result<(), TextError> {
        let (bare, around) = (tokenizer.encode("a", false)?, tokenizer.encode("a", true)?);
        // What a tokenizer adds may also be less than nothing.
        let extra = around.len().checked_sub(bare.len());
        let begins = extra.and_then(|extra| (0..=extra).find(|&at| around[at..at + bare.len()] == bare[..]));
        let known =
            |ids: &[u32], known: Option<u32>| ids.is_empty() || (ids.len() == 1 && known.is_none_or(|id| id == ids[0]));
        let ends = begins.map(|at| (&around[..at], &around[at + bare.len()..]));
        let Some((first, last)) = ends.filter(|(first, last)| known(first, self.bos) && known(last, self.eos)) else {
            let what = "it adds other tokens around a text than one of beginning and one of end";
            return Err(TextError::Tokenizer(what.to_string()));
        };
        self.add_bos = Some(!first.is_empty());
        self.add_eos = Some(!last.is_empty());
        self.bos = self.bos.or(first.first().copied());
        self.eos = self.eos.or(last.first().copied());
        Ok(())
    }

    /// The name of the rule that splits text before merging, or whether a text gets a leading space: such that texts have the same tokens.
    fn take_rule(&mut self, json: &Value, tokenizer: &Tokenizer, pieces: bool) -> Result<(), TextError> {
        if pieces {
            self.pre = Some("default".to_string());
            // Most tokenizers of pieces have one.
            for prefix in [true, false] {
                self.add_space_prefix = Some(prefix);
                if self.is_same(tokenizer)? {
                    return Ok(());
                }
            }
            return Err(TextError::Tokenizer("its way from text to pieces has no place in a GGUF file".to_string()));
        }
        let splits = splits(&json["pre_tokenizer"]);
        let ignore_merges = json["model"]["ignore_merges"] == true;
        let mut rules: Vec<_> = PRE_TOKENIZERS.iter().filter(|rule| rule.ignore_merges == ignore_merges).collect();
        rules.sort_by_key(|rule| {
            let digits = rule.digits.then_some(r"\p{N}");
            !rule.splits.iter().copied().chain(digits).eq(splits.iter().map(String::as_str))
        });
        for rule in rules {
            // llama.cpp's own name is the second where a family's came later.
            self.pre = Some(rule.names.iter().find(|name| **name == "llama-bpe").unwrap_or(&rule.names[0]).to_string());
            if self.is_same(tokenizer)? {
                return Ok(());
            }
        }
        let known: Vec<&str> = PRE_TOKENIZERS.iter().map(|rule| rule.names[0]).collect();
        Err(TextError::Tokenizer(format!(
            "its pre-tokenizer splits text as none of those do that a GGUF file can name: {}",
            known.join(", ")
        )))
    }

    /// Whether both give the same tokens for the probes.
    fn is_same(&self, tokenizer: &Tokenizer) -> Result<bool, TextError> {
        let Ok(own) = Tokenizer::from_vocabulary(self) else { return Ok(false) };
        for probe in PROBES {
            if own.encode(probe, true)? != tokenizer.encode(probe, true)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Names of tokens that are marks, though they are not flagged so.
fn looks_special(piece: &str) -> bool {
    let between =
        |first: &str, last: &str| piece.starts_with(first) && piece.ends_with(last) && piece.len() > first.len();
    piece == "<pad>" || piece == "<mask>" || between("<|", "|>") || between("<｜", "｜>")
}

/// `<0x00>` to `<0xFF>`.
fn is_byte(piece: &str) -> bool {
    piece.len() == 6 && piece.starts_with("<0x") && piece.ends_with('>')
}

/// Merges in either style: `"a b"`, or `["a", "b"]`.
fn merges(model: &Value) -> Result<Vec<(String, String)>, TextError> {
    let pair = |merge: &Value| -> Option<(String, String)> {
        if let Some((a, b)) = merge.as_str().and_then(|merge| merge.split_once(' ')) {
            return Some((a.to_string(), b.to_string()));
        }
        Some((merge[0].as_str()?.to_string(), merge[1].as_str()?.to_string()))
    };
    let all = model["merges"].as_array().into_iter().flatten();
    let merges: Option<Vec<_>> = all.map(pair).collect();
    merges.ok_or_else(|| TextError::Tokenizer("a merge that is no pair of pieces".to_string()))
}

/// Scores that rank pieces as the merges do which first lead to them; pieces without a merge come last.
fn scores(tokens: &[String], types: &[i64], merges: &[(String, String)]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, (a, b)) in merges.iter().enumerate() {
        ranks.entry(format!("{a}{b}")).or_insert(rank);
    }
    let score = |(token, &kind): (&String, &i64)| match ranks.get(token) {
        _ if kind != NORMAL => 0.0,
        Some(&rank) => -(rank as f32),
        None => -(merges.len() as f32),
    };
    tokens.iter().zip(types).map(score).collect()
}

/// The regular expressions of a pre-tokenizer, in order.
fn splits(step: &Value) -> Vec<String> {
    match step["type"].as_str().unwrap_or_default() {
        "Sequence" => step["pretokenizers"].as_array().into_iter().flatten().flat_map(splits).collect(),
        "Split" => step["pattern"]["Regex"].as_str().into_iter().map(str::to_string).collect(),
        "Digits" if step["individual_digits"] == true => vec![r"\p{N}".to_string()],
        "ByteLevel" if step["use_regex"] != false => vec![BYTE_LEVEL.to_string()],
        _ => Vec::new(),
    }
}
