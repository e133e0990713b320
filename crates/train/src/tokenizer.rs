//! The tokenizer of shards: whether it is that of a checkpoint, and how many bytes its tokens stand for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use data::tokenizer::encode::{Ends, Tokenizer, read_json};
use model::Checkpoint;
use model::checkpoint::TokenizerSource;
use model::gguf;
use serde_json::Value;

use crate::batch::Batch;
use crate::corpus::Corpus;
use crate::error::Error;

/// The file of the tokenizer of a dataset.
pub(crate) fn file(dataset: &Path) -> PathBuf {
    dataset.join("tokenizer").join("tokenizer.json")
}

/// Bytes of the text of a batch's targets.
pub(crate) fn text_bytes(token_bytes: &[u32], batch: &Batch) -> u64 {
    batch.targets.iter().map(|&t| u64::from(token_bytes.get(t as usize).copied().unwrap_or(0))).sum()
}

/// The tokenizer of a dataset.
///
/// # Errors
/// A file that is no tokenizer.
pub(crate) fn open(dataset: &Path) -> Result<Tokenizer, Error> {
    Ok(Tokenizer::open(&file(dataset), &Ends::default())?)
}

/// Bytes of the text of every token; marks have none.
pub(crate) fn token_bytes(tokenizer: &Tokenizer, vocabulary: usize) -> Vec<u32> {
    let bytes = |id: u32| if tokenizer.is_special(id) { 0 } else { tokenizer.bytes(id).len() as u32 };
    let known = tokenizer.vocabulary().min(vocabulary) as u32;
    let mut all: Vec<u32> = (0..known).map(bytes).collect();
    all.resize(vocabulary, 0);
    all
}

/// Whether the tokenizer in a dataset is that of its shards.
pub(crate) fn of_shards(corpus: &Corpus, dataset: &Path) -> Result<(), Error> {
    let file = file(dataset);
    if blake3::hash(&read_json(&file)?).to_hex().to_string() == corpus.tokenizer() {
        return Ok(());
    }
    let problem = format!(
        "the shards were made with another tokenizer, whose hash is {}: make the dataset again with `farthing data`",
        corpus.tokenizer()
    );
    Err(Error::file(file, problem))
}

/// Whether the shards are of the tokenizer of a checkpoint.
///
/// # Errors
/// Another tokenizer, or none.
pub(crate) fn same(checkpoint: &Checkpoint, corpus: &Corpus, dataset: &Path) -> Result<(), Error> {
    match &checkpoint.tokenizer {
        TokenizerSource::HuggingFace { tokenizer, .. } => {
            if blake3::hash(&read_json(tokenizer)?).to_hex().to_string() == corpus.tokenizer() {
                return Ok(());
            }
            let problem = format!(
                "the shards of {} were made with another tokenizer; set [tokenizer] file to this one in the recipe of the data",
                dataset.display()
            );
            Err(Error::file(tokenizer, problem))
        }
        TokenizerSource::Gguf(keys) => {
            let path = file(dataset);
            let json: Value =
                serde_json::from_slice(&read_json(&path)?).map_err(|e| Error::file(&path, e.to_string()))?;
            let Some(difference) = difference(&json, keys) else { return Ok(()) };
            let problem = format!(
                "it is not the tokenizer of {}: {difference}; `farthing tokenize MODEL --save FOLDER` writes that, for [tokenizer] file in the recipe of the data",
                checkpoint.path.display()
            );
            Err(Error::file(path, problem))
        }
        TokenizerSource::None => {
            let problem = "it has no tokenizer to compare with that of the shards; put the model's own tokenizer.json beside its weights";
            Err(Error::file(&checkpoint.path, problem))
        }
    }
}

/// The first token or merge in which a `tokenizer.json` and the keys of a GGUF file differ. A file may have more tokens, which fill its
/// embedding up.
fn difference(json: &Value, keys: &BTreeMap<String, gguf::Value>) -> Option<String> {
    let texts = |name: &str| match keys.get(&format!("tokenizer.ggml.{name}")) {
        Some(gguf::Value::Texts(texts)) => &texts[..],
        _ => &[],
    };
    let (tokens, merges) = (texts("tokens"), texts("merges"));
    for (id, own) in pieces(json) {
        match tokens.get(id as usize) {
            Some(other) if *other == own => {}
            Some(other) => return Some(format!("token {id} is {own:?}, there {other:?}")),
            None => return Some(format!("token {id} is {own:?}, there are only {} tokens", tokens.len())),
        }
    }
    let own: Vec<String> = json["model"]["merges"].as_array().into_iter().flatten().filter_map(merge).collect();
    // SentencePiece files have scores, and no merges.
    if merges.is_empty() || own == merges {
        return None;
    }
    let at = own.iter().zip(merges).take_while(|(a, b)| a == b).count();
    let shown = |list: &[String]| list.get(at).map_or("not there".to_string(), |merge| format!("{merge:?}"));
    Some(format!("merge {at} is {}, there {}", shown(&own), shown(merges)))
}

/// Ids and pieces of a `tokenizer.json`, added tokens included.
fn pieces(json: &Value) -> BTreeMap<u64, &str> {
    let vocabulary = &json["model"]["vocab"];
    let mut pieces = BTreeMap::new();
    for (piece, id) in vocabulary.as_object().into_iter().flatten() {
        pieces.extend(id.as_u64().map(|id| (id, piece.as_str())));
    }
    // Unigram's are a list of pieces with scores.
    for (id, entry) in vocabulary.as_array().into_iter().flatten().enumerate() {
        pieces.extend(entry[0].as_str().map(|piece| (id as u64, piece)));
    }
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        pieces.extend(token["id"].as_u64().zip(token["content"].as_str()));
    }
    pieces
}

/// A merge as files have it: two pieces with a space between.
fn merge(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(pair) => Some(format!("{} {}", pair.first()?.as_str()?, pair.get(1)?.as_str()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_difference_is_named() {
        let texts = |list: &[&str]| gguf::Value::Texts(list.iter().map(|t| t.to_string()).collect());
        let keys = BTreeMap::from([
            ("tokenizer.ggml.tokens".to_string(), texts(&["a", "b", "ab", "<s>", "[PAD]"])),
            ("tokenizer.ggml.merges".to_string(), texts(&["a b", "ab a"])),
        ]);
        let mut json = json!({
            "model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b", ["ab", "a"]]},
            "added_tokens": [{"id": 3, "content": "<s>"}],
        });
        assert_eq!(difference(&json, &keys), None);
        json["model"]["merges"] = json!(["a b"]);
        assert_eq!(difference(&json, &keys).unwrap(), "merge 1 is not there, there \"ab a\"");
        json["added_tokens"][0]["content"] = json!("</s>");
        assert_eq!(difference(&json, &keys).unwrap(), "token 3 is \"</s>\", there \"<s>\"");
        json["added_tokens"][0]["id"] = json!(7);
        assert_eq!(difference(&json, &keys).unwrap(), "token 7 is \"</s>\", there are only 5 tokens");
    }
}
