//! `farthing publish`: a directory that is ready for a hub.

use std::path::{Path, PathBuf};

use clap::Args;
use convert::{ConvertError, Mix, ModelCard, Progress};
use farthing::publish::{PublishOptions, publish};
use farthing::{Error, LoadOptions};
use kernels::{Format, Pool};
use model::Checkpoint;
use serde_json::json;

use crate::arguments::ModelArgument;
use crate::quantize::mix;
use crate::terminal::{self, bytes, put, several};
use crate::{Failure, Outcome, fetch};

/// Write a directory that is ready for a hub: weights, GGUF files, tokenizer, model card, checksums
///
/// MODEL is a Hugging Face directory. The card is made of the facts in a JSON file and of what the files themselves tell. The directory is there whole or
/// not at all.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  farthing publish models/seed-5.7m --card facts.json --out seed --gguf Q8_0
  farthing publish run/checkpoint --card facts.json --out pocket --weights F32 --gguf Q8_0 --gguf Q4_K_M

docs/QUANTIZE.md says what the facts may be.")]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgument,
    /// The directory to write
    #[arg(long, short, value_name = "DIRECTORY")]
    out: PathBuf,
    /// Facts of the model card: a JSON file
    #[arg(long, value_name = "FILE")]
    card: PathBuf,
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

fn weights(name: &str) -> Result<Format, String> {
    let known = [Format::F32, Format::Bf16, Format::F16, Format::F8E4M3];
    let found = known.into_iter().find(|format| format.name().eq_ignore_ascii_case(name));
    found.ok_or_else(|| "give F32, BF16, F16 or FP8".to_string())
}

fn facts(path: &Path) -> Result<ModelCard, Failure> {
    let text = terminal::read_text_file(path)?;
    serde_json::from_str(&text)
        .map_err(|e| Failure::failed(format!("{}: not the facts of a card: {e}", path.display())))
}

/// Goes on until ctrl-c.
struct Interruptible;

impl Progress for Interruptible {
    fn goes_on(&self) -> bool {
        !terminal::interrupt_pending()
    }
}

pub fn run(a: Arguments) -> Outcome {
    let card = facts(&a.card)?;
    let path = fetch::find(&a.model, &LoadOptions::default(), a.quiet)?;
    let checkpoint = Checkpoint::open(&path)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = Pool::new(a.threads.map_or(cores, usize::from));
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
