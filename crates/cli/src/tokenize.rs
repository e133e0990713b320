//! `farthing tokenize`: text to ids and back.

use std::path::PathBuf;

use clap::Args;
use farthing::{TokenizerParts, save_tokenizer, tokenizer};
use model::Checkpoint;
use serde_json::json;

use crate::arguments::ModelArgument;
use crate::fetch::find_headers;
use crate::terminal::{put, read_text, say};
use crate::{Failure, Outcome};

/// Show the tokens of a text
///
/// Prints one token per line: its id and its bytes. Text comes from the command line or stdin.
///
/// Examples:
///   farthing tokenize model.gguf "Hello world"
///   farthing tokenize model.gguf --ids-only < prompt.txt
///   farthing tokenize model.gguf --decode 655,561,267
///   farthing tokenize model.gguf --save tokenizer
#[derive(Args)]
#[command(allow_negative_numbers = true)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgument,
    /// The text; without it, stdin is read
    text: Option<String>,
    /// Only ids, on one line, with commas
    #[arg(long)]
    ids_only: bool,
    /// Add the special tokens that the model expects around a text (such as its first token)
    #[arg(long)]
    special: bool,
    /// The text is ids with commas or spaces between: print what they spell
    #[arg(long)]
    decode: bool,
    /// Write the model's tokenizer into a folder, as tokenizer.json and tokenizer_config.json: for the recipe of a dataset
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["text", "ids_only", "special", "decode", "json"])]
    save: Option<PathBuf>,
    /// With --save: in the place of another tokenizer that is there
    #[arg(long, requires = "save")]
    replace: bool,
    /// A JSON object: ids and pieces, or text
    #[arg(long)]
    pub json: bool,
}

/// Ids with commas or white space between.
pub fn ids(text: &str) -> Result<Vec<u32>, Failure> {
    let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|w| !w.is_empty());
    words
        .map(|w| {
            w.parse().map_err(|_| Failure::usage(format!("{w:?} is no token id; give numbers with commas between")))
        })
        .collect()
}

pub fn run(a: Arguments) -> Outcome {
    if let Some(folder) = &a.save {
        let (path, _remote) = find_headers(&a.model, false)?;
        save_tokenizer(&Checkpoint::open(&path)?, folder, a.replace)?;
        say(&format!("the tokenizer is in {}", folder.display()));
        return Ok(());
    }
    let text = match a.text {
        Some(text) => text,
        None => read_text(std::io::stdin(), "the text on stdin")?,
    };
    let (path, _remote) = find_headers(&a.model, false)?;
    let TokenizerParts { tokenizer, .. } = tokenizer(&Checkpoint::open(&path)?)?;
    if a.decode {
        let ids = ids(&text)?;
        if let Some(id) = ids.iter().find(|&&id| tokenizer.bytes(id).is_none()) {
            return Err(Failure::usage(format!(
                "no token of this model has id {id}; its tokenizer has {}",
                tokenizer.vocab_size()
            )));
        }
        let text = tokenizer.decode(&ids, false);
        return put(&if a.json { format!("{}\n", json!({ "text": text })) } else { format!("{text}\n") });
    }
    let ids = tokenizer.encode(&text, a.special)?;
    let piece = |id: u32| String::from_utf8_lossy(&tokenizer.bytes(id).unwrap_or_default()).into_owned();
    if a.json {
        let pieces: Vec<String> = ids.iter().map(|&id| piece(id)).collect();
        return put(&format!("{}\n", json!({"ids": ids, "pieces": pieces})));
    }
    if a.ids_only {
        let line: Vec<String> = ids.iter().map(u32::to_string).collect();
        return put(&format!("{}\n", line.join(",")));
    }
    ids.iter().try_for_each(|&id| put(&format!("{id}\t{:?}\n", piece(id))))
}
