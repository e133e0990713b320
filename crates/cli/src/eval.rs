//! `farthing eval`: skills of a model, measured on prompts that its training never has.

use std::cell::Cell;
use std::time::Instant;

use ::eval::figures::Measure;
use ::eval::{CONTEXT, EvalError, Measured, Progress, SKILLS, Settings, Skill};
use clap::Args;
use farthing::Model;
use serde_json::{Value, json};

use crate::arguments::{LoadArguments, ModelArgument};
use crate::terminal::{catch_interrupts, interrupt_pending, put, say, several, whole};
use crate::{Failure, Outcome};

/// Prompts that are answered at once.
const BATCH: usize = 32;
/// Texts of the whole context that the cache holds: most prompts are far shorter.
const CACHED: usize = 16;

/// Measure skills of a chat model: stories, sums, answers from a passage, help, JSON, grammar
///
/// Prompts come from Farthing's generators, with frames, names and numbers that no training data of theirs has, and go
/// through the model's chat template; answers are greedy. BLiMP's pairs are scored by their log-probabilities. Each
/// figure has its standard error. docs/EVAL.md says how each skill is scored.
#[derive(Args)]
#[command(after_long_help = long_help())]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgument,
    /// Skills with commas between [default: all]
    #[arg(long, value_name = "SKILLS", value_delimiter = ',', value_parser = skill)]
    skill: Vec<&'static Skill>,
    /// Prompts of each skill, at most (blimp: pairs of each paradigm)
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    samples: u32,
    /// Seed of the prompts
    #[arg(long, default_value_t = 0, value_parser = whole::<u32>)]
    seed: u32,
    /// A JSON object: figures, and some answers that were wrong
    #[arg(long)]
    pub json: bool,
    /// Wrong answers of each skill in the JSON, at most
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100_000), requires = "json")]
    wrong: u32,
    #[command(flatten)]
    load: LoadArguments,
}

/// The skills and how they are asked for.
fn long_help() -> String {
    let skills: String = SKILLS.iter().map(|skill| format!("  {:<14} {}\n", skill.name, skill.help)).collect();
    format!(
        "Skills:\n{skills}
Examples:
  farthing eval models/seed-5.7m
  farthing eval model.gguf --skill sums,json --samples 100
  farthing eval model.gguf --skill blimp --json      accuracy of each paradigm, too
  farthing eval model.gguf --skill json --json --wrong 500 | jq '.skills[].wrong[]'"
    )
}

fn skill(name: &str) -> Result<&'static Skill, String> {
    ::eval::skill(name).map_err(|error| error.to_string())
}

/// `  95.2 %  1.0 %`, or dashes where there was no trial.
fn shares(measure: &Measure) -> String {
    match (measure.share(), measure.standard_error) {
        (Some(share), Some(error)) => format!("{:>6.1} %  {:>4.1} %", share * 100.0, error * 100.0),
        _ => format!("{:>8}  {:>6}", "-", "-"),
    }
}

fn row(skill: &str, measure: &Measure) -> String {
    format!("{skill:<14} {:<24} {:>8} {:>6} {}\n", measure.name, measure.right, measure.of, shares(measure))
}

fn table(skill: &Skill, measured: &Measured, alone: bool) -> String {
    let mut out = String::new();
    for (number, measure) in measured.measures.iter().enumerate() {
        out += &row(if number == 0 { skill.name } else { "" }, measure);
    }
    if let Some(figure) = &measured.bits_per_byte {
        let (value, error) = (figure.value, figure.standard_error);
        out += &format!(
            "{:<14} {:<24} {:>8} {:>6} {value:>8.4}  {error:>6.4}\n",
            skill.name, "bits a byte", "", figure.texts
        );
    }
    if alone {
        for measure in &measured.paradigms {
            out += &format!("  {:<52} {}\n", measure.name, shares(measure));
        }
    }
    out
}

fn progress_bar() -> indicatif::ProgressBar {
    let style = indicatif::ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}, {eta} left");
    indicatif::ProgressBar::no_length().with_style(style.expect("a sound template"))
}

/// What was measured, as JSON.
fn report(a: &Arguments, seconds: f64, skills: Vec<Value>, problem: Option<String>) -> Value {
    json!({
        "model": &*a.model, "samples": a.samples, "seed": a.seed, "seconds": seconds, "skills": skills, "error": problem,
    })
}

pub fn run(a: Arguments) -> Outcome {
    let planned = a.load.plan(&a.model, |checkpoint, options| {
        let context = options.context.unwrap_or(CONTEXT.min(checkpoint.structure.context));
        (options.context, options.cached) = (Some(context), Some(CACHED * context));
        Ok(())
    })?;
    let model = Model::batched(planned.load()?, BATCH);
    let skills: Vec<&'static Skill> = if a.skill.is_empty() { SKILLS.iter().collect() } else { a.skill.clone() };
    let manual = crate::manual::manual();
    let settings = Settings {
        skills: &skills,
        samples: a.samples as usize,
        seed: u64::from(a.seed),
        wrong: a.wrong as usize,
        manual: &manual,
    };
    catch_interrupts();
    // Nobody reads what comes: there is nothing to go on for.
    let closed = Cell::new(false);
    let begun = Instant::now();
    let bar = progress_bar();
    let mut proceed = |progress: Progress| {
        if bar.message() != progress.skill {
            bar.reset();
            bar.set_message(progress.skill);
            bar.set_length(progress.of as u64);
        }
        bar.set_position(progress.done as u64);
        !interrupt_pending() && !closed.get()
    };
    let (mut all, mut written): (Vec<Value>, Outcome) = (Vec::new(), Ok(()));
    let mut heading = format!("{:<14} {:<24} {:>8} {:>6} {:>8}  {:>6}\n", "skill", "", "right", "of", "share", "s.e.");
    let mut give = |skill: &'static Skill, measured: Measured| {
        if a.json {
            return all.push(measured.json(skill));
        }
        let rows = std::mem::take(&mut heading) + &table(skill, &measured, skills.len() == 1);
        bar.suspend(|| {
            if written.is_ok() {
                written = put(&rows);
                closed.set(written.is_err());
            }
            if measured.too_long > 0 {
                say(&format!(
                    "{}: {} too long for the context and {}",
                    skill.name,
                    several(measured.too_long, "prompt"),
                    if measured.measures.is_empty() { "left out" } else { "counted as wrong" }
                ));
            }
        });
    };
    let outcome = ::eval::measure(&model, &settings, &mut proceed, &mut give);
    bar.finish_and_clear();
    // What was measured before a stop or an error is not lost.
    let problem = outcome.as_ref().err().map(ToString::to_string);
    if a.json {
        let report = report(&a, begun.elapsed().as_secs_f64(), all, problem);
        put(&format!("{report}\n"))?;
    }
    match outcome {
        _ if closed.get() => {}
        Ok(()) => {}
        Err(EvalError::Model(error)) => return Err(error.into()),
        Err(stopped @ EvalError::Stopped { .. }) => return Err(Failure::stopped(stopped.to_string())),
        Err(error @ EvalError::UnknownSkill { .. }) => return Err(Failure::usage(error)),
    }
    written
}
