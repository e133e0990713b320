//! `farthing average`: the mean of checkpoints of one structure.

use std::path::{Path, PathBuf};

use clap::Args;
use convert::{Averaged, CardEarlier, CardShare, ConvertError, ModelCard};
use farthing::Error;
use farthing::average::{average, is_state, open, tensors};
use kernels::{Format, Pool};
use serde_json::json;

use crate::facts::{Facts, of_model};
use crate::publish::{Interruptible, weights};
use crate::terminal::{self, bytes, put};
use crate::train::run::LOSS_IS_HELD_OUT;
use crate::{Failure, Outcome};

/// Write the mean of checkpoints: states of a training, or trainings that went on from the same weights
///
/// CHECKPOINT is a Hugging Face directory, or a state of a training (states/step-...). The first is a directory: the mean has its structure, tokenizer and
/// chat template. --out gets model/ and, where a training left its facts, run.json, so that `farthing publish` knows what the mean was trained on.
#[derive(Args)]
#[command(after_long_help = "\
What states of one training differ in by chance is less in their mean; weights of trainings that began apart have no useful mean.

Examples:
  farthing average pocket/model pocket/states/step-00001955 --out mean      half of each
  farthing average a/model b/model c/model --shares 2,1,1 --out mean        half of a, a quarter of b and of c
  farthing average base pocket/states/step-* --shares 0,1,1 --out mean      of two states alone, with the tokenizer of base
  farthing eval mean/model")]
pub struct Arguments {
    /// Directories of models and of states
    #[arg(value_name = "CHECKPOINT", required = true, num_args = 2..)]
    checkpoints: Vec<PathBuf>,
    /// What to write
    #[arg(long, short, value_name = "DIRECTORY")]
    out: PathBuf,
    /// Share of each checkpoint, with commas between; they need not add up to 1 [default: the same for all]
    #[arg(long, value_name = "SHARES", value_delimiter = ',', value_parser = share)]
    shares: Vec<f64>,
    /// Format of the weights: F32, BF16, F16 or FP8
    #[arg(long, value_name = "FORMAT", default_value = "BF16", value_parser = weights)]
    weights: Format,
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

fn share(text: &str) -> Result<f64, String> {
    let share: Option<f64> = text.trim().parse().ok();
    share.filter(|share| (0.0..=1e6).contains(share)).ok_or_else(|| "a number from 0 on, such as 0.5".to_string())
}

impl Arguments {
    /// The share of each checkpoint; they add up to one.
    fn normalised(&self) -> Result<Vec<f64>, Failure> {
        let count = self.checkpoints.len();
        let shares = if self.shares.is_empty() { vec![1.0; count] } else { self.shares.clone() };
        if shares.len() != count {
            return Err(Failure::usage(format!(
                "--shares: {} of them, and {count} checkpoints; give one for each",
                shares.len()
            )));
        }
        let sum: f64 = shares.iter().sum();
        if sum <= 0.0 {
            return Err(Failure::usage("--shares: all are 0; give a share to one checkpoint at least"));
        }
        Ok(shares.iter().map(|share| share / sum).collect())
    }
}

/// The name of a checkpoint, with that of the training where it has none of its own.
fn name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let last = |path: Option<&Path>| {
        path.and_then(Path::file_name).map_or(String::new(), |name| name.to_string_lossy().into_owned())
    };
    let own = last(Some(&path));
    let above = path.parent();
    match () {
        () if own == "model" => format!("{}/{own}", last(above)),
        () if last(above) == "states" => format!("{}/{own}", last(above.and_then(Path::parent))),
        () => own,
    }
}

/// What a training left of a checkpoint; of a state, whether it has ended or not.
fn facts_of(path: &Path) -> Result<Option<Facts>, Failure> {
    if !is_state(path) {
        return of_model(path);
    }
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    path.parent().and_then(Path::parent).map_or(Ok(None), |run| of_model(&run.join("model")))
}

/// The trainings that a model has been through, the first one first.
fn trainings(card: &ModelCard) -> Vec<CardEarlier> {
    let last = card.training.clone().map(|training| CardEarlier { training, recipe: card.recipe.clone() });
    card.earlier.iter().cloned().chain(last).collect()
}

/// Adds to a card what another checkpoint of the mean was trained on, where that is more: trainings and sources. How many tokens of a source both
/// have seen together is not known where they have counted differently.
fn join(card: &mut ModelCard, other: ModelCard) {
    let known = trainings(card);
    let further: Vec<CardEarlier> =
        trainings(&other).into_iter().filter(|training| !known.contains(training)).collect();
    if further.is_empty() {
        return;
    }
    card.earlier.extend(further);
    for source in other.data {
        match card.place_of(&source) {
            Some(place) if card.data[place].tokens != source.tokens => card.data[place].tokens = None,
            Some(_) => {}
            None => card.data.push(source),
        }
    }
    card.add_languages(other.languages);
}

/// The facts of the mean, as a training writes its own; none where nothing is known of a checkpoint in it.
fn facts(a: &Arguments, shares: &[f64]) -> Result<Option<String>, Failure> {
    let mut cards: Vec<ModelCard> = Vec::new();
    for (path, _) in a.checkpoints.iter().zip(shares).filter(|(_, share)| **share > 0.0) {
        let Some(Facts { card, .. }) = facts_of(path)? else {
            if !a.quiet {
                let file = path.display();
                terminal::note(&format!("{file}: no facts of a training are beside it, and so none of the mean"));
            }
            return Ok(None);
        };
        cards.push(card);
    }
    // The one that has been through the most has been through what it went on from, too.
    cards.sort_by_key(|card| std::cmp::Reverse(card.earlier.len()));
    let mut cards = cards.into_iter();
    let Some(mut card) = cards.next() else { return Ok(None) };
    cards.for_each(|other| join(&mut card, other));
    if let Some(training) = &mut card.training {
        // They are of other weights, and so is what the card says of them.
        (training.loss, training.bits_per_byte) = (None, None);
        card.limits.retain(|limit| limit != LOSS_IS_HELD_OUT);
    }
    let parts = a.checkpoints.iter().zip(shares).filter(|(_, share)| **share > 0.0);
    let parts: Vec<CardShare> = parts.map(|(path, &share)| CardShare { name: name(path), share }).collect();
    if parts.len() > 1 {
        card.limits.push("No loss of the mean was measured.".to_string());
        card.mean_of = parts;
    }
    let run = json!({"finished": true, "model": a.out.join("model"), "card": card});
    Ok(Some(serde_json::to_string_pretty(&run).expect("JSON") + "\n"))
}

pub fn run(a: Arguments) -> Outcome {
    let shares = a.normalised()?;
    let first = &a.checkpoints[0];
    if is_state(first) {
        return Err(Failure::usage(format!(
            "{}: a state of a training has no configuration and no tokenizer: give a model's directory first (with a share of 0 to have its files alone)",
            first.display()
        )));
    }
    let checkpoint = open(first)?;
    let others = a.checkpoints[1..].iter().map(|path| tensors(path, &checkpoint)).collect::<Result<_, _>>()?;
    let averaged = Averaged { others, shares: shares.iter().map(|&share| share as f32).collect() };
    let facts = facts(&a, &shares)?;
    let pool = Pool::new(a.threads.map_or_else(farthing::machine::cores, usize::from));
    terminal::catch_interrupts();
    let to = (a.out.as_path(), facts.as_deref());
    let written =
        average(&checkpoint, &averaged, to, a.weights, &pool, &Interruptible).map_err(|error| match error {
            Error::Convert(ConvertError::Stopped { .. }) => {
                Failure::stopped(format!("stopped; nothing is left of {}", a.out.display()))
            }
            error => Failure::from(error),
        })?;
    let parts = || a.checkpoints.iter().zip(&shares);
    if a.json {
        let parts: Vec<_> = parts().map(|(path, share)| json!({"checkpoint": path, "share": share})).collect();
        let all = json!({"directory": a.out, "model": a.out.join("model"), "bytes": written, "mean_of": parts});
        return put(&format!("{all}\n"));
    }
    let parts: Vec<String> = parts().map(|(path, share)| format!("{share:.3} of {}", path.display())).collect();
    put(&format!("{}: {}: {}\n", a.out.join("model").display(), bytes(written), parts.join(", ")))
}
