//! `farthing train`: trains a model as a recipe says.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::train::{Evaluation, Measured, Observer, Recipe, Setup, Step, Trainer};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kernels::Pool;
use serde_json::{Value, json};

use crate::terminal::{self, bytes, put, say, threads};
use crate::{Failure, Outcome};

/// Train a model: from shards to a checkpoint that this and other software runs
///
/// A recipe is a TOML file with the data, the structure's kind and size, and how long to train. A training that was stopped goes on where
/// it was, with the same numbers to the bit.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  farthing train recipe.toml --plan       sizes, memory and time, before anything is done
  farthing train recipe.toml              train into ./NAME; ctrl-c stops, the same command goes on
  farthing chat NAME/model                talk to what came out

docs/TRAIN.md has the recipe's format.")]
pub struct Arguments {
    /// The recipe
    #[arg(value_name = "RECIPE")]
    recipe: PathBuf,
    /// Directory of states, log and model [default: the recipe's name, here]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Say what would be done, time some tokens, and write nothing
    #[arg(long)]
    plan: bool,
    /// Power of the machine under load, for the cost of electricity
    #[arg(long, value_name = "W", value_parser = terminal::number)]
    watts: Option<f32>,
    /// Price of a kilowatt-hour, in any currency
    #[arg(long, value_name = "PRICE", requires = "watts", value_parser = terminal::number)]
    electricity: Option<f32>,
    /// Threads [default: all cores]
    #[arg(long, short, value_name = "N", value_parser = threads)]
    threads: Option<u16>,
    /// The results as a JSON object
    #[arg(long)]
    pub json: bool,
    /// No progress, no notes
    #[arg(long, short)]
    quiet: bool,
}

pub fn run(a: Arguments) -> Outcome {
    let mut setup = Setup::new(Recipe::read(&a.recipe)?)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = Pool::new(a.threads.map_or(cores, usize::from));
    let measured = setup.measure(&pool)?;
    let plan = plan(&a, &setup, measured);
    if a.plan {
        return put(&if a.json { format!("{plan}\n") } else { format!("{}\n", lines(&plan).join("\n")) });
    }
    let out = a.out.clone().unwrap_or_else(|| PathBuf::from(&setup.recipe.name));
    std::fs::create_dir_all(&out).map_err(|e| Failure::failed(format!("{}: {e}", out.display())))?;
    if !a.quiet {
        lines(&plan).iter().for_each(|line| terminal::note(line));
    }
    terminal::catch_interrupts();
    let mut view = View::new(&a, &setup, &out)?;
    let mut trainer = Trainer::open(setup, pool, &out, &mut view)?;
    let (stop, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let result = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if terminal::interrupt_pending() {
                    stop.store(true, Ordering::Relaxed);
                }
                std::thread::park_timeout(Duration::from_millis(100));
            }
        });
        let result = trainer.run(&stop, &mut view);
        done.store(true, Ordering::Relaxed);
        watcher.thread().unpark();
        result
    });
    view.bar.finish_and_clear();
    result.map_err(|error| match error {
        ::train::Error::Stopped => Failure::stopped(error.to_string()),
        error => Failure::from(error),
    })?;
    let model = trainer.export(::train::export::Format::Bf16)?;
    let result = json!({
        "plan": plan,
        "steps": trainer.steps(),
        "tokens": trainer.tokens(),
        "seconds": trainer.seconds(),
        "loss": view.last.as_ref().map(|step| step.loss),
        "held_out_loss": view.evaluated.map(|e| e.loss),
        "bits_per_byte": view.evaluated.map(|e| e.bits_per_byte),
        "model": model,
    });
    std::fs::write(out.join("run.json"), format!("{result:#}\n"))
        .map_err(|e| Failure::failed(format!("{}: {e}", out.join("run.json").display())))?;
    if a.json {
        return put(&format!("{result}\n"));
    }
    say(&format!("the model is in {}", model.display()));
    Ok(())
}

/// What a recipe comes to.
fn plan(a: &Arguments, setup: &Setup, measured: Measured) -> Value {
    let hours = setup.recipe.train.tokens as f64 / measured.tokens_per_second / 3600.0;
    let kilowatt_hours = a.watts.map(|watts| f64::from(watts) * hours / 1000.0);
    let cost = kilowatt_hours.zip(a.electricity).map(|(energy, price)| energy * f64::from(price));
    let structure = &setup.network.structure;
    let parameters = structure.parameters();
    let layers: Vec<String> = structure
        .layers
        .iter()
        .map(|layer| format!("{}; {}", layer.attention.describe(), layer.feed_forward.describe()))
        .collect();
    json!({
        "name": setup.recipe.name,
        "architecture": structure.architecture,
        "layers": layers,
        "hidden": structure.hidden,
        "vocabulary": structure.vocab,
        "parameters": parameters.total,
        "active_parameters": parameters.active,
        "corpus_tokens": setup.corpus.tokens(),
        "tokens": setup.recipe.train.tokens,
        "epochs": setup.recipe.train.tokens as f64 / setup.corpus.tokens() as f64,
        "batch_tokens": setup.batch,
        "steps": setup.recipe.train.tokens.div_ceil(setup.batch),
        "rate": setup.rate,
        "precision": format!("{:?}", setup.settings.precision).to_lowercase(),
        "recompute": setup.settings.recompute,
        "memory_bytes": measured.memory.total(),
        "available_bytes": measured.available,
        "numbers_bytes": measured.memory.numbers + measured.memory.optimizer,
        "moment_bytes": measured.memory.moment,
        "activation_bytes": measured.memory.activations,
        "tokens_per_second": measured.tokens_per_second,
        "operations_per_second": measured.operations_per_second,
        "hours": hours,
        "kilowatt_hours": kilowatt_hours,
        "electricity_cost": cost,
    })
}

fn lines(plan: &Value) -> Vec<String> {
    let n = |key: &str| plan[key].as_f64().unwrap_or(0.0);
    let millions = |key: &str| format!("{:.2} M", n(key) / 1e6);
    let mut lines = vec![format!(
        "{}: {}, {} parameters, {} active, stream {}, vocabulary {}",
        plan["name"].as_str().unwrap_or(""),
        plan["architecture"].as_str().unwrap_or(""),
        millions("parameters"),
        millions("active_parameters"),
        n("hidden"),
        n("vocabulary"),
    )];
    let layers = plan["layers"].as_array().cloned().unwrap_or_default();
    for alike in layers.chunk_by(|a, b| a == b) {
        lines.push(format!("  {} x {}", alike.len(), alike[0].as_str().unwrap_or("")));
    }
    lines.push(format!(
        "{} tokens of {} ({:.2} epochs), {} steps of {} tokens, rate {:.2e}, {}",
        millions("tokens"),
        millions("corpus_tokens"),
        n("epochs"),
        n("steps"),
        n("batch_tokens"),
        n("rate"),
        plan["precision"].as_str().unwrap_or("")
    ));
    lines.push(memory(plan));
    let energy = match (plan["kilowatt_hours"].as_f64(), plan["electricity_cost"].as_f64()) {
        (Some(energy), Some(cost)) => format!(", {energy:.2} kWh, {cost:.2} for electricity"),
        (Some(energy), None) => format!(", {energy:.2} kWh"),
        _ => String::new(),
    };
    lines.push(format!(
        "measured: {:.0} tokens/s, {:.0} GFLOP/s without the optimizer: {:.1} hours{energy}",
        n("tokens_per_second"),
        n("operations_per_second") / 1e9,
        n("hours")
    ));
    lines
}

/// What is needed at most, of what, and whether that is there.
fn memory(plan: &Value) -> String {
    let b = |key: &str| bytes(plan[key].as_u64().unwrap_or(0));
    let again = if plan["recompute"] == true { " (computed again in the backward)" } else { "" };
    let available = plan["available_bytes"].as_u64().map(|_| format!("; {} available", b("available_bytes")));
    format!(
        "memory: {} at most: {} of weights, gradients and optimizer, {} while it steps or writes, {} of activations{again}{}",
        b("memory_bytes"),
        b("numbers_bytes"),
        b("moment_bytes"),
        b("activation_bytes"),
        available.unwrap_or_default()
    )
}

/// What a person sees, and what is logged.
struct View {
    bar: ProgressBar,
    log: std::fs::File,
    path: PathBuf,
    last: Option<Step>,
    evaluated: Option<Evaluation>,
    told: Instant,
    plain: bool,
    total: u64,
}

impl View {
    fn new(a: &Arguments, setup: &Setup, out: &Path) -> Result<View, Failure> {
        let hidden = a.quiet || terminal::is_json_only();
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(setup.recipe.train.tokens), target);
        let style = "{bar:24} {percent:>3} %, {eta} left  {wide_msg}";
        bar.set_style(ProgressStyle::with_template(style).expect("a sound template"));
        let path = out.join("log.jsonl");
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
        let plain = !hidden && bar.is_hidden();
        let total = setup.recipe.train.tokens;
        Ok(View { bar, log, path, last: None, evaluated: None, told: Instant::now(), plain, total })
    }

    fn log(&mut self, line: &Value) {
        if let Err(e) = writeln!(self.log, "{line}") {
            terminal::note(&format!("{}: {e}; the log is not whole", self.path.display()));
        }
    }
}

impl Observer for View {
    fn step(&mut self, step: &Step) {
        let peak = step.loads.iter().map(::train::Load::peak).fold(0.0, f64::max);
        self.log(&json!({
            "step": step.step, "tokens": step.tokens, "loss": step.loss, "prediction": step.prediction, "norm": step.norm,
            "rate": step.rate, "seconds": step.seconds, "optimizer_seconds": step.optimizer_seconds,
            "tokens_per_second": step.step_tokens as f64 / step.seconds,
            "operations_per_second": step.operations / step.seconds, "expert_peak": peak,
            "balance": step.loads.iter().map(|l| l.loss).sum::<f64>() / step.loads.len().max(1) as f64,
        }));
        let message = format!(
            "step {}  loss {:.3}  {:.0} tokens/s  {:.0} GFLOP/s{}",
            step.step,
            step.loss,
            step.step_tokens as f64 / step.seconds,
            step.operations / step.seconds / 1e9,
            if step.loads.is_empty() { String::new() } else { format!("  busiest expert {peak:.1}x") }
        );
        self.bar.set_position(step.tokens.min(self.total));
        if self.plain && self.told.elapsed() > Duration::from_secs(30) {
            self.told = Instant::now();
            terminal::note(&message);
        }
        self.bar.set_message(message);
        self.last = Some(step.clone());
    }

    fn evaluated(&mut self, evaluation: &Evaluation) {
        let Evaluation { tokens, loss, bits_per_byte } = *evaluation;
        self.log(&json!({"tokens": tokens, "held_out_loss": loss, "bits_per_byte": bits_per_byte}));
        let line =
            format!("{:.1} M tokens: held-out loss {loss:.4}, {bits_per_byte:.4} bits a byte", tokens as f64 / 1e6);
        if self.plain {
            terminal::note(&line)
        } else {
            self.bar.println(line)
        }
        self.evaluated = Some(*evaluation);
    }

    fn saved(&mut self, path: &Path) {
        self.log(&json!({"saved": path}));
    }

    fn warned(&mut self, what: &str) {
        self.bar.suspend(|| terminal::note(what));
    }
}
