//! `farthing loss`: how well a model predicts a text, the measure of what a smaller format costs.

use std::path::PathBuf;

use clap::Args;
use farthing::loading::cache_name;
use farthing::{Model, TokenizerParts, tokenizer};
use serde_json::{Value, json};

use crate::arguments::{LoadArguments, ModelArgument};
use crate::terminal::{catch_interrupts, interrupt_pending, put, read_text_file, several, whole};
use crate::{Failure, Outcome};

/// Measure loss and perplexity: how well a model predicts a text
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
    #[command(flatten)]
    model: ModelArgument,
    /// The text (UTF-8)
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Window in tokens
    #[arg(long, default_value_t = 512, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(2..=16384))]
    window: u32,
    /// Read only the first tokens of the text
    #[arg(long, value_name = "TOKENS", value_parser = at_least_two)]
    tokens: Option<usize>,
    /// A JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    load: LoadArguments,
}

/// A first token predicts a second.
fn at_least_two(text: &str) -> Result<usize, String> {
    whole(text).and_then(|n| if n < 2 { Err("give at least 2".to_string()) } else { Ok(n) })
}

/// How well a text was predicted.
struct Loss {
    tokens: usize,
    /// Bytes that these tokens spell.
    bytes: usize,
    window: usize,
    cache: &'static str,
    /// Sum of -ln p(token), and of its squares.
    sum: f64,
    squares: f64,
}

impl Loss {
    fn mean(&self) -> f64 {
        self.sum / self.tokens as f64
    }

    fn standard_error(&self) -> f64 {
        let n = self.tokens as f64;
        ((self.squares / n - self.mean().powi(2)).max(0.0) / n).sqrt()
    }

    fn bits_per_byte(&self) -> f64 {
        self.sum / std::f64::consts::LN_2 / self.bytes.max(1) as f64
    }

    fn json(&self, a: &Arguments) -> Value {
        json!({
            "model": &*a.model, "text": a.text, "tokens": self.tokens, "window": self.window, "cache": self.cache,
            "loss": self.mean(), "standard_error": self.standard_error(), "perplexity": self.mean().exp(),
            "bits_per_byte": self.bits_per_byte(),
        })
    }
}

fn measured(a: &Arguments) -> Result<Loss, Failure> {
    let name = a.text.display().to_string();
    let text = read_text_file(&a.text)?;
    let planned = a.load.plan(&a.model, |checkpoint, options| {
        if let Some(context) = options.context {
            let problem = format!("--context {context}: here the window is all that a model sees; give --window");
            return Err(Failure::usage(problem));
        }
        options.context = Some((a.window as usize).min(checkpoint.structure.context));
        options.cached = options.context;
        Ok(())
    })?;
    let (window, cache) = (planned.plan.context, cache_name(planned.cache));
    let TokenizerParts { tokenizer, bos, .. } = tokenizer(&planned.checkpoint)?;
    // Every window begins as a text begins for this model.
    let first = tokenizer.id_of(&bos).filter(|_| !bos.is_empty());
    if window < 2 + usize::from(first.is_some()) {
        return Err(Failure::failed(format!(
            "a context of {window} holds no token and the next one: nothing to measure"
        )));
    }
    let mut ids = tokenizer.encode(&text, false)?;
    ids.truncate(a.tokens.unwrap_or(usize::MAX));
    if ids.len() < 2 {
        return Err(Failure::failed(format!(
            "{name}: {} are too few to measure; give at least 2",
            several(ids.len(), "token")
        )));
    }
    let mut loss = Loss { tokens: 0, bytes: 0, window, cache, sum: 0.0, squares: 0.0 };
    let model = Model::batched(planned.load()?, 1);
    catch_interrupts();
    let style = indicatif::ProgressStyle::with_template("{bar:30} {pos}/{len} tokens, loss {msg}, {eta} left");
    let bar = indicatif::ProgressBar::new(ids.len() as u64).with_style(style.expect("a sound template"));
    for part in ids.chunks(window - usize::from(first.is_some())) {
        if interrupt_pending() {
            return Err(Failure::stopped(format!("the measurement was stopped after {} tokens", loss.tokens)));
        }
        let tokens: Vec<u32> = first.into_iter().chain(part.iter().copied()).collect();
        if tokens.len() < 2 {
            break;
        }
        let scores = model.score(tokens.clone())?.log_probabilities()?;
        for (score, &next) in scores.into_iter().zip(&tokens[1..]) {
            let nats = -f64::from(score);
            loss.sum += nats;
            loss.squares += nats * nats;
            loss.tokens += 1;
            loss.bytes += tokenizer.bytes(next).map_or(0, |b| b.len());
        }
        bar.inc(part.len() as u64);
        bar.set_message(format!("{:.4}", loss.mean()));
    }
    bar.finish_and_clear();
    Ok(loss)
}

pub fn run(a: Arguments) -> Outcome {
    let loss = measured(&a)?;
    if a.json {
        return put(&format!("{}\n", loss.json(&a)));
    }
    let (mean, error, Loss { tokens, window, cache, .. }) = (loss.mean(), loss.standard_error(), &loss);
    put(&format!(
        "loss        {mean:.4} nats a token (standard error {error:.4}) over {tokens} tokens in windows of {window}, cache {cache}\n\
         perplexity  {:.3}; {:.4} bits a byte\n",
        mean.exp(),
        loss.bits_per_byte()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nats_are_bits_over_bytes() {
        let sum = 16.0 * std::f64::consts::LN_2;
        let loss = Loss { tokens: 4, bytes: 8, window: 4, cache: "f32", sum, squares: sum * sum / 4.0 };
        assert!((loss.bits_per_byte() - 2.0).abs() < 1e-12 && loss.standard_error() < 1e-6);
    }
}
