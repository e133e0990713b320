//! `farthing price`: what tokens of a model cost on this machine, beside what others ask, and a price sheet for `serve`.

mod costs;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use farthing::pace::{self, Measured, Wanted, positions_of};
use farthing::power::{POWERCAP, Power};
use farthing::stand_in::StandIn;
use farthing::{Error, LoadOptions, ModelSource, PlannedModel};
use model::Checkpoint;
use model::cache::PAGE;

use crate::arguments::LoadArguments;
use crate::terminal::{catch_interrupts, interrupt_pending, note, put, whole};
use crate::{Failure, Outcome, fetch};
use costs::{Costs, Paid, RivalArguments};
use report::Report;

/// Tokens of prompts where nothing else is asked for.
const PROMPT: usize = 512;

/// Say what tokens of a model cost on this machine
///
/// Measures prompts, cached prompts and answers of several sequences at once, and the watts meanwhile where the processor tells them. From the price of
/// electricity, and that of the machine by the hour or bought, it computes the cost of a million tokens, at full load and at a utilisation, sets it beside
/// others' prices, and writes a price sheet. A model that is not here is not downloaded: its structure runs with empty weights, and every figure says
/// that it is an estimate.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
#[command(after_long_help = "\
Examples:
  farthing price model.gguf --watts 95 --electricity 0.30
  farthing price model.gguf --machine-hour 0.40 --utilisation 0.5
  farthing price model.gguf --purchase 1800 --years 4 --electricity 0.30 --against deepseek-chat@2025-03-01
  farthing price model.gguf --machine-hour 0.40 --margin 1.5 --off-peak 22:00-06:00=0.5 --batch 0.5 --out prices.toml
  farthing serve model.gguf --prices prices.toml
  farthing price qwen3-4b                    before it is downloaded

What is not given is assumed, and the output says so: docs/COST.md has the defaults and the formulas.")]
pub struct Arguments {
    /// Path, org/name or short name (`farthing models`) [default: the bundled model]
    #[arg(add = crate::completions::models())]
    model: Option<String>,
    /// MODEL, as an option
    #[arg(long = "model", short = 'm', value_name = "MODEL", id = "model_option", conflicts_with = "model")]
    also: Option<String>,
    /// Estimate, as for a model that is not here: no weight is read
    #[arg(long)]
    estimate: bool,
    #[command(flatten)]
    paid: Paid,
    #[command(flatten)]
    rivals: RivalArguments,
    /// Longest time between two tokens of an answer, in milliseconds: answers are priced at the best number of sequences that keeps to it [default: 100]
    #[arg(long, value_name = "MS", value_parser = costs::above_zero)]
    latency: Option<f64>,
    /// Tokens of prompts, and before answers [default: 512, or what the model's context allows]
    #[arg(long, value_name = "TOKENS", value_parser = whole::<usize>)]
    prompt: Option<usize>,
    /// Tokens of each answer
    #[arg(long, default_value_t = 32, value_name = "TOKENS", value_parser = whole::<usize>)]
    decode: usize,
    /// Numbers of sequences at once
    #[arg(long, value_delimiter = ',', value_name = "N", default_value = "1,2,4,8,16,32", value_parser = whole::<usize>)]
    sequences: Vec<usize>,
    /// Repetitions
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = whole::<usize>)]
    repetitions: usize,
    /// Write a price sheet for `serve --prices`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace a price sheet that is there
    #[arg(long, requires = "out")]
    force: bool,
    /// The model's id in the sheet [default: the one that `serve` gives it]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    load: LoadArguments,
}

impl Arguments {
    fn check(&self) -> Outcome {
        let zeros = [
            ("--prompt", self.prompt == Some(0)),
            ("--decode", self.decode == 0),
            ("--sequences", self.sequences.contains(&0)),
            ("--repetitions", self.repetitions == 0),
            ("--context", self.load.context == Some(0)),
        ];
        if let Some((option, _)) = zeros.into_iter().find(|(_, zero)| *zero) {
            return Err(Failure::usage(format!("{option} 0: give at least 1")));
        }
        match &self.out {
            Some(file) => match file.symlink_metadata() {
                Ok(_) if !self.force => Err(there(file)),
                Ok(about) if !about.is_file() => {
                    Err(Failure::failed(format!("{}: it is no plain file, and is not replaced", file.display())))
                }
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// What is measured of a model whose context ends at `most`.
    fn wanted(&self, most: usize) -> Result<Wanted, Failure> {
        let room = self.load.context.unwrap_or(most).min(most).saturating_sub(self.decode + 1);
        let shortest = if self.prompt.is_some() { 1 } else { PAGE };
        let prompt = self.prompt.unwrap_or(PROMPT.min(room / PAGE * PAGE));
        if prompt > room || prompt < shortest {
            return Err(Failure::usage(format!(
                "prompts of {} tokens and answers of {} do not fit a context of {}; give a smaller --prompt or --decode",
                prompt.max(shortest),
                self.decode,
                self.load.context.unwrap_or(most)
            )));
        }
        let mut sequences = self.sequences.clone();
        sequences.sort_unstable();
        sequences.dedup();
        let latency = Duration::from_secs_f64(self.latency.unwrap_or(costs::LATENCY_MS) / 1e3);
        Ok(Wanted { prompt, decoded: self.decode, sequences, latency, repetitions: self.repetitions })
    }
}

fn there(file: &Path) -> Failure {
    Failure::failed(format!("{}: it exists; --force replaces it", file.display()))
}

/// The model's options with as many sequences as fit, at most those that are wanted.
fn fitting(path: &Path, options: LoadOptions, wanted: &mut Wanted) -> Result<(LoadOptions, PlannedModel), Error> {
    let context = options.context.unwrap_or(1).max(wanted.prompt + wanted.decoded + 1);
    loop {
        let most = wanted.sequences.last().copied().unwrap_or(1);
        let cached = positions_of(most, wanted.prompt, wanted.decoded).max(2 * context.next_multiple_of(PAGE));
        let options = LoadOptions { context: Some(context), cached: Some(cached), ..options.clone() };
        let planned = PlannedModel::open(path, &options)?;
        if planned.plan.fits() || wanted.sequences.len() < 2 {
            return Ok((options, planned.fitting()?));
        }
        wanted.sequences.pop();
    }
}

/// A model that was measured, or its stand-in.
struct Paced {
    wanted: Wanted,
    measured: Measured,
    threads: usize,
    estimated: bool,
}

/// Finds the model, or makes its stand-in, and measures it.
fn paced(a: &Arguments, model: &str, power: Option<&Power>) -> Result<Paced, Failure> {
    // What is made for the measurement is removed when it is stopped.
    catch_interrupts();
    fetch::tell_known(model, a.load.quiet);
    let (headers, remote) = fetch::find_headers(model, a.load.quiet)?;
    let named = |e: Error| match &remote {
        Some(remote) => remote.named(e).to_string(),
        None => e.to_string(),
    };
    let checkpoint = Checkpoint::open(&headers).map_err(|e| Failure::failed(named(e.into())))?;
    checkpoint.complete().map_err(|e| Failure::failed(named(e.into())))?;
    if !checkpoint.structure.generates() {
        return Err(Failure::failed(format!("{model}: it generates no text, so its tokens have no price here")));
    }
    let estimated = a.estimate || remote.is_some();
    let mut wanted = a.wanted(checkpoint.structure.context)?;
    let vocab = checkpoint.structure.vocab;
    let stand_in = if estimated { Some(StandIn::of(&checkpoint)?) } else { None };
    drop(checkpoint);
    let (path, vocab) = stand_in.as_ref().map_or((headers.as_path(), vocab), |s| (s.path.as_path(), s.vocab));
    let (options, planned) = fitting(path, a.load.options()?, &mut wanted).map_err(|e| match e {
        Error::Argument(_) => e.into(),
        e => Failure::failed(named(e)),
    })?;
    if !a.load.quiet {
        note(&format!("plan: {}; {} available", planned.describe(), planned.available()));
        if remote.is_some() {
            note("the model is not here: its structure runs with empty weights; `farthing pull` first to measure it");
        }
    }
    let threads = planned.threads;
    let bar = indicatif::ProgressBar::new_spinner();
    let mut first = Some(planned);
    let mut runner = || match first.take() {
        Some(planned) => planned.runner(),
        None => PlannedModel::open(path, &options)?.runner(),
    };
    let mut go_on = |what: &str| {
        bar.set_message(what.to_string());
        bar.tick();
        !interrupt_pending()
    };
    let measured = pace::measure(&mut runner, vocab, &wanted, power, &mut go_on);
    bar.finish_and_clear();
    let measured = measured?.ok_or_else(|| Failure::stopped("the measurement was stopped; nothing was written"))?;
    Ok(Paced { wanted, measured, threads, estimated })
}

/// Writes a sheet, which is whole or not there.
fn write(file: &Path, text: &str, force: bool) -> Outcome {
    use std::io::Write;
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => there(file),
        _ => Failure::failed(format!("{}: {error}; give another --out", file.display())),
    };
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new().prefix(".farthing-prices-").tempfile_in(directory).map_err(failed)?;
    temporary.write_all(text.as_bytes()).map_err(failed)?;
    temporary.as_file().sync_all().map_err(failed)?;
    let kept = if force { temporary.persist(file) } else { temporary.persist_noclobber(file) };
    kept.map(|_| ()).map_err(|error| failed(error.error))
}

pub fn run(a: Arguments) -> Outcome {
    a.check()?;
    a.paid.check()?;
    let rivals = a.rivals.find(&a.paid.currency)?;
    let power = match a.paid.watts {
        Some(_) => None,
        None => match Power::open(Path::new(POWERCAP)) {
            Ok(power) => Some(power),
            Err(why) => {
                if !a.load.quiet {
                    note(&format!("{why}; assumed are {} W a thread", costs::WATTS_PER_THREAD));
                }
                None
            }
        },
    };
    let (model, bundled) = match a.model.as_ref().or(a.also.as_ref()) {
        Some(model) => (model.clone(), None),
        None => (farthing::bundled()?.display().to_string(), Some(ModelSource::bundled().name)),
    };
    let paced = paced(&a, &model, power.as_ref())?;
    let costs = Costs::new(&a.paid, &a.rivals, a.latency, &paced, &rivals)?;
    let shown = bundled.clone().unwrap_or_else(|| model.clone());
    let name = a.name.clone().or(bundled).unwrap_or_else(|| farthing::server::api_name(&model));
    let report = Report { model: &shown, name: &name, paced: &paced, costs: &costs, prompt_given: a.prompt.is_some() };
    if let Some(file) = &a.out {
        write(file, &report.sheet(&a.paid)?, a.force)?;
    }
    if a.json {
        put(&format!("{}\n", report.json(a.out.as_deref())))
    } else {
        put(&report.text())?;
        if let Some(file) = a.out.filter(|_| !a.load.quiet) {
            note(&format!("wrote {}; `farthing serve MODEL --prices FILE` bills by it", file.display()));
        }
        Ok(())
    }
}
