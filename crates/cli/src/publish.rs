//! `farthing publish`: a directory that is ready for a hub.

use std::path::{Path, PathBuf};

use clap::Args;
use convert::{ConvertError, Mix, ModelCard, Progress};
use farthing::publish::{PublishOptions, publish};
use farthing::{Error, LoadOptions};
use kernels::{Format, Pool};
use model::Checkpoint;
use serde_json::{Value, json};

use crate::arguments::ModelArgument;
use crate::facts::{Facts, of_model, parsed};
use crate::quantize::mix;
use crate::terminal::{self, bytes, put, several};
use crate::{Failure, Outcome, fetch};

/// Write a directory that is ready for a hub: weights, GGUF files, tokenizer, model card, checksums
///
/// MODEL is a Hugging Face directory. The card is made of what `farthing train` left beside it, of the facts in a JSON file, which hold over that, and of what
/// the files themselves tell. The directory is there whole or not at all.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  farthing publish models/seed-5.7m --card facts.json --out seed --gguf Q8_0
  farthing publish pocket/model --out pocket-hub                    what farthing train made: sources, recipe, hours and loss are known
  farthing publish pocket/model --card licence.json --out pocket-hub --weights F32 --gguf Q8_0 --gguf Q4_K_M

docs/QUANTIZE.md says what the facts may be.")]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgument,
    /// The directory to write
    #[arg(long, short, value_name = "DIRECTORY")]
    out: PathBuf,
    /// Facts of the model card: a JSON file [default: those of the training, in the run.json beside MODEL]
    #[arg(long, value_name = "FILE")]
    card: Option<PathBuf>,
    /// Format of the safetensors: F32, BF16, F16 or FP8
    #[arg(long, value_name = "FORMAT", default_value = "BF16", value_parser = weights)]
    weights: Format,
    /// A GGUF file in this mix, too; may be given several times
    #[arg(long, value_name = "MIX", value_parser = mix)]
    gguf: Vec<Mix>,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = terminal::threads)]
    threads: Option<u16>,
    /// A JSON object
    #[arg(long)]
    pub json: bool,
    /// No notes
    #[arg(long, short)]
    quiet: bool,
}

/// A format of safetensors.
pub fn weights(name: &str) -> Result<Format, String> {
    let known = [Format::F32, Format::Bf16, Format::F16, Format::F8E4M3];
    let found = known.into_iter().find(|format| format.name().eq_ignore_ascii_case(name));
    found.ok_or_else(|| "give F32, BF16, F16 or FP8".to_string())
}

/// Objects are joined key by key; of anything else the second holds.
fn joined(first: Value, second: Value) -> Value {
    match (first, second) {
        (Value::Object(mut first), Value::Object(second)) => {
            for (key, value) in second {
                let before = first.remove(&key).unwrap_or_default();
                first.insert(key, joined(before, value));
            }
            Value::Object(first)
        }
        (_, second) => second,
    }
}

/// The facts of the card: those of the training, and over them those that a person gives.
fn facts(a: &Arguments, model: &Path) -> Result<ModelCard, Failure> {
    let note = |text: String| {
        if !a.quiet {
            terminal::note(&text);
        }
    };
    let found = match of_model(model) {
        // Whoever gives the facts needs none of another program's file of that name.
        Err(problem) if a.card.is_some() => {
            note(format!("not taken: {problem}"));
            None
        }
        found => found?,
    };
    let trained = match found {
        Some(Facts { file, finished: true, card }) => {
            note(format!("facts of the card are in {}", file.display()));
            Some(serde_json::to_value(card).expect("a card is JSON"))
        }
        Some(Facts { file, .. }) if a.card.is_none() => {
            let problem = "the training has not ended, so what it says is not of this model; go on with `farthing train`, or give facts with --card";
            return Err(Failure::failed(format!("{}: {problem}", file.display())));
        }
        Some(Facts { file, .. }) => {
            note(format!("{}: not taken, since the training has not ended", file.display()));
            None
        }
        None => None,
    };
    let card = match (trained, &a.card) {
        (trained, Some(file)) => {
            let own: Value = parsed(serde_json::from_str(&terminal::read_text_file(file)?), file)?;
            parsed(serde_json::from_value(trained.map_or(own.clone(), |trained| joined(trained, own))), file)?
        }
        (Some(trained), None) => parsed(serde_json::from_value(trained), model)?,
        (None, None) => {
            return Err(Failure::usage(
                "give the facts of the card with --card: no run.json of a training is beside the model",
            ));
        }
    };
    let card: ModelCard = card;
    if card.license.is_empty() {
        note(
            "the card has no licence of the model: give it with --card, a file such as {\"license\": \"apache-2.0\"}"
                .to_string(),
        );
    }
    Ok(card)
}

/// Goes on until ctrl-c.
pub struct Interruptible;

impl Progress for Interruptible {
    fn goes_on(&self) -> bool {
        !terminal::interrupt_pending()
    }
}

pub fn run(a: Arguments) -> Outcome {
    let path = fetch::find(&a.model, &LoadOptions::default(), a.quiet)?;
    let card = facts(&a, &path)?;
    let checkpoint = Checkpoint::open(&path)?;
    let pool = Pool::new(a.threads.map_or_else(farthing::machine::cores, usize::from));
    terminal::catch_interrupts();
    let options = PublishOptions { card, weights: a.weights, ggufs: a.gguf };
    let files = publish(&checkpoint, &a.out, &options, &pool, &Interruptible).map_err(|error| match error {
        Error::Convert(ConvertError::Stopped { .. }) => {
            Failure::stopped(format!("stopped; nothing is left of {}", a.out.display()))
        }
        error => Failure::from(error),
    })?;
    let all: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    if a.json {
        let files: Vec<_> = files.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect();
        return put(&format!("{}\n", json!({"directory": a.out, "bytes": all, "files": files})));
    }
    put(&format!("{}: {} in {}\n", a.out.display(), bytes(all), several(files.len(), "file")))
}
