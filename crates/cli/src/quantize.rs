//! `farthing quantize`: a model written in smaller formats, as a GGUF file.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use convert::{ConvertError, MIXES, Mix, Progress, Written, read_importance};
use farthing::quantize::{QuantizeOptions, measure_importance, name_of, plan, quantize};
use farthing::{Error, LoadOptions, PlannedModel, TokenizerParts, tokenizer};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kernels::{Format, Pool};
use model::{CacheFormat, Checkpoint};
use serde_json::json;

use crate::arguments::ModelArgument;
use crate::terminal::{self, bytes, count, note, put, several};
use crate::{Failure, Outcome, fetch};

/// Write a model in smaller formats, as a GGUF file
///
/// MODEL is a Hugging Face directory or a GGUF file. Each tensor gets the format that llama.cpp's llama-quantize would give it, and the same bytes. Memory
/// is bounded by a piece of a tensor, whatever the model's size. The file is written under a temporary name, opened to see that it is the same
/// model, and then given its name.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  farthing quantize models/seed-5.7m --to Q8_0
  farthing quantize org/name --to Q4_K_M --out name-Q4_K_M.gguf
  farthing quantize org/name --to Q3_K_M --imatrix-text book.txt       what matters for such a text loses less
  farthing quantize model-BF16.gguf --to Q6_K --plan               which format each tensor would get

docs/QUANTIZE.md has bits a weight and what each mix costs.")]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgument,
    /// Mix of formats: F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q3_K_M and others
    #[arg(long, short, value_name = "MIX", default_value = "Q4_K_M", value_parser = mix)]
    to: Mix,
    /// The file [default: NAME-MIX.gguf in the working directory]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Importance matrix of the model, as llama-imatrix writes it: columns that matter lose less
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// A text (UTF-8) on which the importance matrix is measured
    #[arg(long, value_name = "FILE", conflicts_with_all = ["imatrix", "plan"])]
    imatrix_text: Option<PathBuf>,
    /// Tokens of it that are read, in windows of 512, at most
    #[arg(long, value_name = "N", default_value_t = 65536, value_parser = clap::value_parser!(u32).range(2..), requires = "imatrix_text")]
    imatrix_tokens: u32,
    /// Write the matrix that was measured to a file, too
    #[arg(long, value_name = "FILE", requires = "imatrix_text")]
    imatrix_out: Option<PathBuf>,
    /// Write nothing: show each tensor's format
    #[arg(long)]
    plan: bool,
    /// Write over a file that is there
    #[arg(long)]
    replace: bool,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = terminal::threads)]
    threads: Option<u16>,
    /// A JSON object
    #[arg(long)]
    pub json: bool,
    /// No progress, no notes
    #[arg(long, short)]
    quiet: bool,
}

/// Tokens that are read together where importance is measured, as `llama-imatrix` does.
const WINDOW: usize = 512;

/// A mix of the command line.
pub fn mix(name: &str) -> Result<Mix, String> {
    let names: Vec<&str> = MIXES.iter().rev().map(|mix| mix.name).collect();
    Mix::named(name).ok_or_else(|| format!("give one of {}", names.join(", ")))
}

/// A bar over all weights.
struct Bar {
    bar: ProgressBar,
    done: Cell<u64>,
    formats: RefCell<BTreeMap<&'static str, usize>>,
}

impl Progress for Bar {
    fn tensor(&self, name: &str, format: Format, _: usize, _: usize) {
        *self.formats.borrow_mut().entry(format.name()).or_default() += 1;
        self.bar.set_message(format!("{name} {}", format.name()));
    }

    fn advance(&self, numbers: usize) {
        self.done.set(self.done.get() + numbers as u64);
        self.bar.set_position(self.done.get());
    }

    fn goes_on(&self) -> bool {
        !terminal::interrupt_pending()
    }
}

pub fn run(a: Arguments) -> Outcome {
    let path = fetch::find(&a.model, &LoadOptions::default(), a.quiet)?;
    let checkpoint = Checkpoint::open(&path)?;
    let mut options = QuantizeOptions {
        mix: a.to,
        importance: a.imatrix.as_deref().map(read_importance).transpose()?.unwrap_or_default(),
        name: None,
    };
    if a.plan {
        return show(&a, &plan(&checkpoint, options)?);
    }
    let out = a.out.clone().unwrap_or_else(|| PathBuf::from(format!("{}-{}.gguf", name_of(&path), a.to.name)));
    if out.is_dir() {
        return Err(Failure::usage(format!("--out {}: a directory; give a file's name", out.display())));
    }
    if out.exists() && !a.replace {
        return Err(Failure::failed(format!(
            "{}: it is there already: give --replace or another --out",
            out.display()
        )));
    }
    let source = checkpoint.tensors.files.iter().any(|file| same_file(file.path(), &out));
    if source {
        return Err(Failure::usage(format!("--out {}: that is the model itself; give another place", out.display())));
    }
    if let Some(text) = &a.imatrix_text {
        options.importance = measured(&a, &path, text)?;
    }
    let planned = plan(&checkpoint, options.clone())?;
    if planned.rounded_again > 0 && !a.quiet {
        note(&format!(
            "{} of this model are rounded already, and rounding them again loses more: take the original where there is one",
            several(planned.rounded_again, "tensor")
        ));
    }
    let pool = Pool::new(a.threads.map_or_else(farthing::machine::cores, usize::from));
    let target = target(&a);
    let style =
        ProgressStyle::with_template("{bar:24} {percent:>3} %, {eta} left  {wide_msg}").expect("a sound template");
    let bar = ProgressBar::with_draw_target(Some(planned.weights()), target).with_style(style);
    let bar = Bar { bar, done: Cell::new(0), formats: RefCell::default() };
    drop(planned);
    terminal::catch_interrupts();
    let start = Instant::now();
    let outcome = quantize(&checkpoint, &out, options, &pool, &bar);
    bar.bar.finish_and_clear();
    let written = outcome.map_err(|error| match error {
        Error::Convert(stopped @ ConvertError::Stopped { .. }) => Failure::stopped(stopped.to_string()),
        error => Failure::from(error),
    })?;
    report(&a, &out, &written, bar.formats.into_inner(), start.elapsed().as_secs_f64())
}

/// Where progress is shown.
fn target(a: &Arguments) -> ProgressDrawTarget {
    let hidden = a.quiet || terminal::is_json_only();
    if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
}

/// The importance of columns, measured on a text in windows that begin as a text begins for this model.
fn measured(a: &Arguments, model: &Path, text: &Path) -> Result<BTreeMap<String, Vec<f32>>, Failure> {
    let checkpoint = Checkpoint::open(model)?;
    let window = WINDOW.min(checkpoint.structure.context);
    // What is measured is what the model computes, nothing rounded.
    let (threads, cache) = (a.threads.map(usize::from), Some(CacheFormat::F32));
    let options = LoadOptions { context: Some(window), threads, cache, ..LoadOptions::default() };
    let planned = PlannedModel::new(checkpoint, &options)?.fitting()?;
    let TokenizerParts { tokenizer, bos, .. } = tokenizer(&planned.checkpoint)?;
    let first = tokenizer.id_of(&bos).filter(|_| !bos.is_empty());
    let room = window.saturating_sub(usize::from(first.is_some())).max(1);
    let mut ids = tokenizer.encode(&terminal::read_text_file(text)?, false)?;
    ids.truncate(a.imatrix_tokens as usize);
    let windows: Vec<Vec<u32>> =
        ids.chunks(room).map(|part| first.into_iter().chain(part.iter().copied()).collect()).collect();
    if windows.is_empty() {
        return Err(Failure::failed(format!("{}: no token to measure on", text.display())));
    }
    let style = ProgressStyle::with_template("importance {bar:24} {pos} of {len} windows, {eta} left");
    let bar = ProgressBar::with_draw_target(Some(windows.len() as u64), target(a));
    bar.set_style(style.expect("a sound template"));
    terminal::catch_interrupts();
    let goes_on = |read: usize| {
        bar.set_position(read as u64);
        !terminal::interrupt_pending()
    };
    let measure = measure_importance(planned, &windows, &goes_on);
    bar.finish_and_clear();
    let Some(measure) = measure? else {
        return Err(Failure::stopped("stopped while the importance was measured; nothing is written"));
    };
    if let Some(out) = &a.imatrix_out {
        let name = text.display().to_string();
        measure.save(out, (&name, windows.len() as u32, window as u32))?;
    }
    Ok(measure.importance())
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn report(
    a: &Arguments,
    out: &Path,
    written: &Written,
    formats: BTreeMap<&'static str, usize>,
    seconds: f64,
) -> Outcome {
    if a.json {
        return put(&format!(
            "{}\n",
            json!({
                "file": out, "mix": a.to.name, "bytes": written.bytes, "weights": written.weights,
                "bits_per_weight": written.bits_per_weight(), "tensors_by_format": formats, "seconds": seconds,
            })
        ));
    }
    let formats: Vec<String> = formats.iter().map(|(format, tensors)| format!("{tensors} {format}")).collect();
    put(&format!(
        "{}: {}, {:.2} bits a weight in {} weights ({} tensors); {seconds:.1} s\n",
        out.display(),
        bytes(written.bytes),
        written.bits_per_weight(),
        count(written.weights),
        formats.join(", ")
    ))
}

/// Each tensor with its format.
fn show(a: &Arguments, plan: &convert::GgufPlan) -> Outcome {
    let bits = plan.tensor_bytes() as f64 * 8.0 / plan.weights().max(1) as f64;
    if a.json {
        let tensors = plan
            .tensors
            .iter()
            .map(|t| json!({"name": t.name, "format": t.format.name(), "shape": t.shape, "bytes": t.bytes()}));
        let all = json!({"mix": a.to.name, "tensor_bytes": plan.tensor_bytes(), "bits_per_weight": bits, "tensors": tensors.collect::<Vec<_>>()});
        return put(&format!("{all}\n"));
    }
    let mut lines: Vec<String> = Vec::new();
    for tensor in &plan.tensors {
        lines.push(format!(
            "{:<36} {:<7} {:?} {}",
            tensor.name,
            tensor.format.name(),
            tensor.shape,
            bytes(tensor.bytes() as u64)
        ));
    }
    lines.push(format!("{} in all, {bits:.2} bits a weight", bytes(plan.tensor_bytes())));
    put(&format!("{}\n", lines.join("\n")))
}
