//! What a model is for, as its files say: text, embeddings of texts, or scores of documents.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::error::CheckpointError;
use crate::settings::*;
use crate::structure::{Head, Structure};
use crate::tensors::Tensors;

/// What a model is for.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Purpose {
    /// Generating text.
    #[default]
    Generate,
    /// Embedding texts.
    Embed(Embedding),
    /// Scoring documents for a query.
    Rank(Ranking),
}

/// How hidden states become the embedding of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// Which states.
    pub pooling: Pooling,
    /// The result is scaled to length 1.
    pub normalize: bool,
    /// Texts that are put before a text, by name (`query`, `document`).
    pub prompts: BTreeMap<String, String>,
    /// The name of the prompt that is used where none is asked for.
    pub default_prompt: Option<String>,
}

/// Which final hidden states stand for a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first token's.
    First,
    /// The last token's.
    Last,
    /// The mean of all tokens'.
    Mean,
}

impl Pooling {
    /// The name of it.
    pub fn name(self) -> &'static str {
        match self {
            Pooling::First => "first token",
            Pooling::Last => "last token",
            Pooling::Mean => "mean",
        }
    }
}

/// How a document is scored for a query.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// The prompt, with `{query}` and `{document}` in it.
    pub prompt: String,
    /// The outputs after the prompt that the score is made of: of two the softmax of the first, of one the sigmoid. Empty: the tokens
    /// "yes" and "no".
    pub outputs: Vec<u32>,
}

/// What Qwen3-Reranker was trained with (its model card).
const RERANK_PROMPT: &str = "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct \
     provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n<Instruct>: Given a web search query, \
     retrieve relevant passages that answer the query\n<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n\
     <think>\n\n</think>\n\n";
const RERANKED: &str = "qwen3";
/// A part of the path of those whose files do not tell that they score documents.
const RERANKER: &str = "qwen3-reranker";

/// The instruction in the prompts of models that score documents, in whose place a request may put its own.
pub const RERANK_INSTRUCTION: &str = "Given a web search query, retrieve relevant passages that answer the query";

/// The head of a Hugging Face configuration's model: of labels where its class is one that classifies.
pub(super) fn head(c: &Json, family: &str, tied: bool) -> Result<Head, CheckpointError> {
    let classes = c.list("architectures")?;
    if !classes.iter().filter_map(Value::as_str).any(|class| class.ends_with("ForSequenceClassification")) {
        return Ok(if tied { Head::Tied } else { Head::Own });
    }
    let labels = match c.nested("id2label")? {
        Some(labels) => labels.json.as_object().map_or(0, serde_json::Map::len),
        None => count_or(c, "num_labels", 2, 1 << 16)?,
    };
    if family != RERANKED || labels != 1 {
        let what = format!(
            "architectures {} with {labels} labels; of models that classify, rerankers of {RERANKED} with 1 label are supported",
            c.shown("architectures")
        );
        return Err(CheckpointError::unsupported(c.path, what));
    }
    Ok(Head::Labels(1))
}

/// A model that scores documents by its labels, or by its path; else `None`.
fn ranking(path: &Path, structure: &Structure, prompt: Option<&str>) -> Option<Ranking> {
    let prompt = prompt.unwrap_or(RERANK_PROMPT).to_string();
    if let Head::Labels(labels) = structure.head {
        return Some(Ranking { prompt, outputs: (0..labels as u32).collect() });
    }
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let named = whole.components().any(|part| part.as_os_str().to_string_lossy().to_lowercase().contains(RERANKER));
    (named && structure.architecture == RERANKED).then(|| Ranking { prompt, outputs: Vec::new() })
}

/// By the files of a directory: those of sentence-transformers, or the class in its configuration.
pub(crate) fn of_directory(path: &Path, structure: &Structure) -> Result<Purpose, CheckpointError> {
    let modules = path.join("modules.json");
    let named = ranking(path, structure, None).map_or(Purpose::Generate, Purpose::Rank);
    if !modules.is_file() || matches!(structure.head, Head::Labels(_)) {
        return Ok(named);
    }
    let list = read_json(&modules, |json| json.is_array(), "a JSON array")?;
    let (mut pooling, mut normalize) = (None, false);
    for module in list.as_array().into_iter().flatten() {
        let m = Json { path: &modules, json: module };
        let kind = text(&m, "type")?.unwrap_or_default();
        match kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Pooling" => pooling = Some(pooling_of(&config_of(path, &m)?, structure.hidden)?),
            "Normalize" => normalize = true,
            "LogitScore" | "CausalScoreHead" => {
                let file = config_of(path, &m)?;
                let json = read_object(&file)?;
                let c = Json { path: &file, json: &json };
                let id = |key| count(&c, key, 0, structure.outputs().max(1) - 1).map(|id| id as u32);
                let outputs = vec![id("true_token_id")?, id("false_token_id")?];
                return Ok(Purpose::Rank(Ranking { prompt: RERANK_PROMPT.to_string(), outputs }));
            }
            _ => {
                let what =
                    format!("type {}; supported are Transformer, Pooling, Normalize and LogitScore", m.shown("type"));
                return Err(CheckpointError::unsupported(&modules, what));
            }
        }
    }
    let Some(pooling) = pooling else { return Ok(named) };
    let (prompts, default_prompt) = prompts(&path.join("config_sentence_transformers.json"))?;
    Ok(Purpose::Embed(Embedding { pooling, normalize, prompts, default_prompt }))
}

fn read_object(path: &Path) -> Result<Value, CheckpointError> {
    read_json(path, Value::is_object, "a JSON object")
}

/// The configuration of a module, in a directory of this one.
fn config_of(directory: &Path, module: &Json) -> Result<PathBuf, CheckpointError> {
    let inner = Path::new(text(module, "path")?.unwrap_or_default());
    let mut parts = inner.components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(name)), None) => Ok(directory.join(name).join("config.json")),
        _ => Err(wrong(module, "path", "the name of a directory beside this file")),
    }
}

fn pooling_of(path: &Path, hidden: usize) -> Result<Pooling, CheckpointError> {
    const MODES: [(&str, Pooling); 3] =
        [("cls", Pooling::First), ("lasttoken", Pooling::Last), ("mean", Pooling::Mean)];
    let json = read_object(path)?;
    let c = Json { path, json: &json };
    for key in ["word_embedding_dimension", "embedding_dimension"] {
        if !c.absent(key) && c.number(key) != Some(hidden as f64) {
            return Err(wrong(&c, key, format!("the model's hidden_size, {hidden}")));
        }
    }
    if !flag_or(&c, "include_prompt", true)? {
        return Err(CheckpointError::unsupported(path, "include_prompt false; supported is true"));
    }
    // A flag a mode, in files of before version 5.4 of sentence-transformers.
    let mut modes: Vec<&str> = Vec::new();
    for (key, _) in json.as_object().into_iter().flatten() {
        if let Some(mode) = key.strip_prefix("pooling_mode_").filter(|_| c.boolean(key) == Some(true)) {
            modes.push(mode.strip_suffix("_token").or(mode.strip_suffix("_tokens")).unwrap_or(mode));
        }
    }
    modes.extend(text(&c, "pooling_mode")?);
    match modes[..] {
        [mode] => MODES.into_iter().find(|(name, _)| *name == mode).map(|(_, pooling)| pooling),
        _ => None,
    }
    .ok_or_else(|| {
        let modes: String = modes.join(" and ").chars().take(80).collect();
        CheckpointError::unsupported(path, format!("pooling mode {modes:?}; supported are cls, lasttoken and mean"))
    })
}

/// Prompts by name, and the name of the one that is used where none is asked for.
fn prompts(path: &Path) -> Result<(BTreeMap<String, String>, Option<String>), CheckpointError> {
    if !path.is_file() {
        return Ok(Default::default());
    }
    let json = read_object(path)?;
    let c = Json { path, json: &json };
    let mut prompts = BTreeMap::new();
    if let Some(given) = c.nested("prompts")? {
        for name in given.json.as_object().into_iter().flatten().map(|(name, _)| name) {
            prompts.insert(name.clone(), text(&given, name)?.unwrap_or_default().to_string());
        }
    }
    let default = text(&c, "default_prompt_name")?.map(str::to_string);
    if default.as_ref().is_some_and(|name| !prompts.contains_key(name)) {
        return Err(wrong(&c, "default_prompt_name", "the name of one of the prompts"));
    }
    Ok((prompts, default))
}

/// By the keys of a GGUF file: how its states are pooled, and how many labels it has.
pub(crate) fn of_gguf<S: ConfigValues>(
    keys: &S,
    whole: &S,
    tensors: &Tensors,
    structure: &mut Structure,
) -> Result<Purpose, CheckpointError> {
    let pooling = match count_or(keys, "pooling_type", 0, usize::from(u16::MAX))? {
        0 => None,
        1 => Some(Pooling::Mean),
        2 => Some(Pooling::First),
        3 => Some(Pooling::Last),
        4 => {
            let labels = tensors.by_name.get("cls.output.weight").and_then(|t| t.shape.first()).copied().unwrap_or(0);
            let prompt = text(whole, "tokenizer.chat_template.rerank")?;
            if !matches!(labels, 1 | 2) || (prompt.is_none() && structure.architecture != RERANKED) {
                let what = format!(
                    "pooling_type 4 (rank) with {labels} labels in cls.output.weight and architecture {}; supported are 1 or 2 labels with a \
                     prompt in tokenizer.chat_template.rerank, or architecture {RERANKED}",
                    structure.architecture
                );
                return Err(CheckpointError::unsupported(keys.path(), what));
            }
            if let Some(place) =
                ["{query}", "{document}"].into_iter().find(|place| prompt.is_some_and(|p| !p.contains(place)))
            {
                return Err(wrong(whole, "tokenizer.chat_template.rerank", format!("a text with {place} in it")));
            }
            structure.head = Head::Labels(labels);
            return Ok(ranking(keys.path(), structure, prompt).map_or(Purpose::Generate, Purpose::Rank));
        }
        _ => return Err(wrong(keys, "pooling_type", "0 (none), 1 (mean), 2 (cls), 3 (last) or 4 (rank)")),
    };
    let embedding = |pooling| Embedding { pooling, normalize: true, prompts: BTreeMap::new(), default_prompt: None };
    Ok(match (pooling, ranking(keys.path(), structure, None)) {
        (Some(pooling), _) => {
            structure.head = Head::None;
            Purpose::Embed(embedding(pooling))
        }
        (None, Some(ranking)) => Purpose::Rank(ranking),
        (None, None) => Purpose::Generate,
    })
}
