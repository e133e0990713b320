//! `farthing bench`: tokens per second beside what memory and arithmetic allow, measured in the same run.

mod measure;
mod report;
mod training;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::arguments::{LoadArguments, ModelArgument};
use crate::plot::plot;
use crate::terminal::{note, put, whole};
use crate::{Failure, Outcome};

/// Measure how fast a model runs on this machine
///
/// Reading prompts (prefill), decoding at an empty context and at depth, and decoding several sequences at once: medians over
/// repetitions, with the share of the memory bandwidth or of the arithmetic peak that this machine shows in the same run, whichever is
/// nearer. With --against another program's benchmark runs between our repetitions, and its figures stand beside ours.
#[derive(Args)]
#[command(allow_negative_numbers = true, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_long_help = "\
Examples:
  farthing bench model.gguf
  farthing bench model.gguf --prefill 512,2048 --depth 0,4096 --sequences 4,32 --json
  farthing bench model.gguf --suite --plot speed.svg
  farthing bench model.gguf --against 'llama-bench -m model.gguf -t 2 -p 512 -n 32 -r 1 -o json'
  farthing bench model.gguf --sequences 32 \\
    --against 'llama-batched-bench -m model.gguf -c 4096 -npp 512 -ntg 16 -npl 32 -pps'

--against takes JSON of llama-bench, and JSON lines or the table of llama-batched-bench; it may be
given several times. Rows are matched by what they measure. Several sequences share a prompt of 512
tokens; what is timed is their decoding, all tokens counted.")]
pub struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    model: ModelArgument,
    /// Prompt lengths
    #[arg(long, value_delimiter = ',', value_name = "TOKENS", default_value = "512", value_parser = whole::<usize>)]
    prefill: Vec<usize>,
    /// Context lengths to decode at
    #[arg(long, value_delimiter = ',', value_name = "TOKENS", default_value = "0,1024", value_parser = whole::<usize>)]
    depth: Vec<usize>,
    /// Numbers of sequences to decode at once
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = whole::<usize>)]
    sequences: Vec<usize>,
    /// Tokens decoded for each figure
    #[arg(long, default_value_t = 32, value_name = "TOKENS", value_parser = whole::<usize>)]
    decode: usize,
    /// Repetitions
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = whole::<usize>)]
    repetitions: usize,
    /// Prompts of 512 and 2048, depths 0, 4096 and 16384 (as far as the context reaches), 1 to 32 sequences: many minutes
    #[arg(long)]
    suite: bool,
    /// Another program's benchmark, run once before each repetition
    #[arg(long, value_name = "COMMAND")]
    against: Vec<String>,
    /// Write a plot (SVG): tokens/s over depth, and over sequences
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// A JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    load: LoadArguments,
}

#[derive(Subcommand)]
enum What {
    Train(Box<training::Arguments>),
}

impl Arguments {
    /// Whether all that is printed is one JSON object.
    pub fn json(&self) -> bool {
        self.json || matches!(&self.what, Some(What::Train(a)) if a.json)
    }
}

pub fn run(mut a: Arguments) -> Outcome {
    if let Some(What::Train(training)) = a.what.take() {
        return training::run(*training);
    }
    let zeros = [
        ("--prefill", a.prefill.contains(&0)),
        ("--sequences", a.sequences.contains(&0)),
        ("--decode", a.decode == 0),
        ("--repetitions", a.repetitions == 0),
        ("--context", a.load.context == Some(0)),
    ];
    if let Some((option, _)) = zeros.into_iter().find(|(_, zero)| *zero) {
        return Err(Failure::usage(format!("{option} 0: give at least 1")));
    }
    if let Some(file) = &a.plot {
        // Minutes later would be late.
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
        opened.map_err(|e| Failure::failed(format!("{}: {e}; give another --plot", file.display())))?;
    }
    let report = measure::measure(&a)?;
    if let Some(file) = &a.plot {
        let title = format!("{}, {} threads, {}", &*a.model, report.threads, kernels::instruction_set());
        plot(file, &title, &report.ours(), &report.others())?;
        note(&format!("wrote {}", file.display()));
    }
    put(&if a.json { format!("{}\n", report.json(&a)) } else { report.text(&a) })
}
