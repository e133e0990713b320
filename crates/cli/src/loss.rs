//! `farthing loss`: how well a model predicts a text, the measure of what a smaller format costs.

use std::path::PathBuf;

use clap::Args;
use engine::sampler::log_probabilities;
use engine::{Limits, Runner};
use kernels::Pool;
use model::cache::PAGE;
use model::{Checkpoint, Transformer};
use serde_json::json;

use crate::loading::{self, Load};
use crate::terminal::{STOPPED, catch_interrupts, interrupt_pending, put, read_text, several};
use crate::{Failure, Outcome, pulling};

/// Measure how well a model predicts a text
///
/// The text is cut into windows that the model reads alone, each after its first token; the loss is the mean of
/// -ln p(token) over all tokens but that one. Bits per byte compare models of different vocabularies.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
#[command(after_long_help = "\
Examples:
  farthing loss model.gguf --text book.txt
  farthing loss model.gguf --text book.txt --cache q8 --json      what a smaller cache costs
  farthing loss models/seed-5.7m --text stories.txt --window 256 --tokens 20000")]
pub struct Arguments {
    /// Path, org/name or the short name of a pulled model
    model: String,
    /// The text (UTF-8)
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens of a window
    #[arg(long, default_value_t = 512, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(2..=16384))]
    window: u32,
    /// Read only so many tokens of the text
    #[arg(long, value_name = "TOKENS", value_parser = crate::terminal::whole::<usize>)]
    tokens: Option<usize>,
    /// A JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    load: Load,
}

pub fn run(a: Arguments) -> Outcome {
    let name = a.text.display().to_string();
    let text = read_text(std::fs::File::open(&a.text).map_err(|e| Failure(format!("{name}: {e}")))?, &name)?;
    let checkpoint = Checkpoint::open(&pulling::find(&a.model, &a.load)?)?;
    let window = (a.window as usize).min(checkpoint.structure.context);
    let load = Load { context: Some(window), ..a.load.clone() };
    let (plan, format) = loading::plan(&checkpoint, &load)?;
    let (tokenizer, _, bos, _) = loading::tokenizer(&checkpoint)?;
    // Every window begins as a text begins for this model.
    let first = tokenizer.id_of(&bos).filter(|_| !bos.is_empty());
    let mut ids = tokenizer.encode(&text, false)?;
    ids.truncate(a.tokens.unwrap_or(usize::MAX));
    let step = window - usize::from(first.is_some());
    if ids.len() < 2 {
        return Err(Failure(format!(
            "{name}: {} are too few to measure; give at least 2",
            several(ids.len(), "token")
        )));
    }
    let weights = checkpoint.weights()?;
    loading::bring_in(&weights);
    let vocab = checkpoint.structure.vocab;
    let pool = Pool::new(load.threads.map_or_else(loading::cores, usize::from));
    let limits = Limits { context: plan.context, cached: plan.context.next_multiple_of(PAGE) };
    let mut runner = Runner::new(Transformer::new(checkpoint.structure, weights), pool, format, limits);

    catch_interrupts();
    let style = indicatif::ProgressStyle::with_template("{bar:30} {pos}/{len} tokens, loss {msg}, {eta} left");
    let bar = indicatif::ProgressBar::new(ids.len() as u64).with_style(style.expect("a sound template"));
    let (mut sum, mut squares, mut count, mut measured_bytes) = (0f64, 0f64, 0usize, 0usize);
    for part in ids.chunks(step) {
        if interrupt_pending() {
            return Err(Failure(format!("{STOPPED}the measurement was stopped after {count} tokens")));
        }
        let tokens: Vec<u32> = first.into_iter().chain(part.iter().copied()).collect();
        if tokens.len() < 2 {
            break;
        }
        let logits = runner.logits(&tokens)?;
        for (row, &next) in logits.chunks(vocab).zip(&tokens[1..]) {
            let loss = -f64::from(log_probabilities(row, next, 0).0);
            sum += loss;
            squares += loss * loss;
            count += 1;
            measured_bytes += tokenizer.bytes(next).map_or(0, |b| b.len());
        }
        bar.inc(part.len() as u64);
        bar.set_message(format!("{:.4}", sum / count as f64));
    }
    bar.finish_and_clear();
    let mean = sum / count as f64;
    let error = ((squares / count as f64 - mean * mean).max(0.0) / count as f64).sqrt();
    let bits_per_byte = sum / std::f64::consts::LN_2 / measured_bytes.max(1) as f64;
    let cache = load.cache.clone().unwrap_or_else(|| format!("{format:?}").to_lowercase());
    if a.json {
        let report = json!({
            "model": a.model, "text": a.text, "tokens": count, "window": window, "cache": cache,
            "loss": mean, "standard_error": error, "perplexity": mean.exp(), "bits_per_byte": bits_per_byte,
        });
        return put(&format!("{report}\n"));
    }
    put(&format!(
        "loss        {mean:.4} nats a token (standard error {error:.4}) over {count} tokens in windows of {window}, cache {cache}\n\
         perplexity  {:.3}; {bits_per_byte:.4} bits a byte\n",
        mean.exp()
    ))
}
