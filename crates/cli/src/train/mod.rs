//! `farthing train`: trains a model as a recipe says.

mod curve;
mod plots;
mod ranks;
mod report;
pub mod run;
mod series;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ::train::events::Events;
use ::train::log::Log;
use ::train::ranks::Communicator;
use ::train::{Evaluation, Observer, Recipe, Samples, Setup, Step, Trainer};
use clap::Args;
use curve::Curve;
use data::lock::{Lock, Worker};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kernels::Pool;
use ranks::{Silent, Together};
use run::Run;
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
  farthing train recipe.toml --replay     how the loss went, while it runs or later
  farthing chat NAME/model                talk to what came out

docs/TRAIN.md has the recipe's format, docs/SCALE.md how several machines train together.")]
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
    /// Show how the loss of this training went so far and write its report.html, from its log alone
    #[arg(long, conflicts_with_all = ["plan", "json"])]
    replay: bool,
    /// Power of a machine under load, for the cost of electricity
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

impl Arguments {
    fn threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or(cores, usize::from)
    }
}

pub fn run(a: Arguments) -> Outcome {
    if a.replay {
        let recipe = Recipe::read(&a.recipe)?;
        return replay(&recipe, &a.out.clone().unwrap_or_else(|| PathBuf::from(&recipe.name)));
    }
    ranks::together(|ranks| train(&a, ranks))
}

/// What a recipe comes to here, the threads, the directory, and the lock on it, which is held as long as this is.
fn prepare(a: &Arguments, first: bool) -> Result<(Setup, Pool, PathBuf, Option<Lock>), Failure> {
    let setup = Setup::new(Recipe::read(&a.recipe)?)?;
    let pool = Pool::new(a.threads());
    let out = a.out.clone().unwrap_or_else(|| PathBuf::from(&setup.recipe.name));
    let alone = Worker { identity: &setup.recipe.name, rank: 0, world: 1 };
    let lock = if a.plan || !first { None } else { Some(Lock::take(&out, alone)?) };
    Ok((setup, pool, out, lock))
}

fn train(a: &Arguments, ranks: &Rc<dyn Communicator>) -> Outcome {
    let first = ranks.rank() == 0;
    let (mut setup, pool, out, _lock) = ranks::agree(&**ranks, prepare(a, first))?;
    let available = model::plan::available().map(|bytes| bytes / ranks.local_size() as u64);
    let measured = ranks::agree(&**ranks, setup.measure_within(&pool, available).map_err(Failure::from))?;
    let together = Together::new(&**ranks, measured, setup.network.parameters.numbers());
    let plan = plan(a, &setup, &together);
    if a.plan && first {
        return put(&if a.json { format!("{plan}\n") } else { format!("{}\n", lines(&plan).join("\n")) });
    }
    if a.plan {
        return Ok(());
    }
    if !a.quiet && first {
        lines(&plan).iter().for_each(|line| terminal::note(line));
    }
    terminal::catch_interrupts();
    if ranks.size() > 1 {
        terminal::catch_signals_of_launchers();
    }
    let mut view = View::new(a, &setup, together.measured.peak_operations_per_second);
    let opened = if first { open(a, setup, pool, plan, &out, &mut view) } else { join(setup, pool, &out) };
    let mut trainer = ranks::agree(&**ranks, opened)?;
    trainer.join(Rc::clone(ranks))?;
    let observer: &mut dyn Observer = if first { &mut view } else { &mut Silent };
    let result = run_until_stopped(&mut trainer, ranks.size() > 1, observer);
    view.bar.finish_and_clear();
    result.map_err(|error| match error {
        ::train::Error::Stopped => Failure::stopped(error.to_string()),
        error => Failure::from(error),
    })?;
    let model = trainer.export(::train::export::Format::Bf16)?;
    if first { finish(a, view, &out, &model) } else { Ok(()) }
}

/// A trainer at its newest state, with the log of what it does.
fn open(a: &Arguments, setup: Setup, pool: Pool, plan: Value, out: &Path, view: &mut View) -> Result<Trainer, Failure> {
    let trainer = Trainer::open(setup, pool, out, view)?;
    view.record(out, Run::new(a, &trainer, plan, out))?;
    Ok(trainer)
}

/// A trainer at its newest state, of a rank that writes nothing.
fn join(setup: Setup, pool: Pool, out: &Path) -> Result<Trainer, Failure> {
    Ok(Trainer::open(setup, pool, out, &mut Silent)?)
}

/// Says that the work is done, however it ends: nothing waits for a thread that watches work that panicked.
struct Done<'a>(&'a AtomicBool, Thread);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.unpark();
    }
}

/// Trains until the end or ctrl-c. A launcher may hand on several signals for one: with it, a second one ends nothing.
fn run_until_stopped(trainer: &mut Trainer, launched: bool, observer: &mut dyn Observer) -> Result<(), ::train::Error> {
    let (stop, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if if launched { terminal::interrupted() } else { terminal::interrupt_pending() } {
                    stop.store(true, Ordering::Relaxed);
                }
                std::thread::park_timeout(Duration::from_millis(100));
            }
        });
        let _done = Done(&done, watcher.thread().clone());
        trainer.run(&stop, observer)
    })
}

/// What came out, in `run.json` and for the person or program that waits.
fn finish(a: &Arguments, mut view: View, out: &Path, model: &Path) -> Outcome {
    let run = view.finish()?;
    if a.json {
        return put(&format!("{}\n", serde_json::to_value(run).expect("a run is JSON")));
    }
    if let Some(chart) = view.curve.chart().filter(|_| !a.quiet) {
        say(&chart);
    }
    if !a.quiet {
        say(&format!("curves and samples are in {}", out.join("report.html").display()));
    }
    say(&format!("the model is in {0}; to talk to it: farthing chat {0}", model.display()));
    Ok(())
}

/// The curve of a training's log, and its report.
fn replay(recipe: &Recipe, out: &Path) -> Outcome {
    let log = out.join("log.jsonl");
    let curve = Curve::read(&log)?;
    let steps = terminal::several(curve.steps(), "step");
    let chart = curve.chart().ok_or_else(|| Failure::failed(format!("{}: no step yet", log.display())))?;
    let mut run = Run::read(out)?.unwrap_or_default();
    if run.recipe.is_empty() {
        // Of a training before there was a `run.json` from its start on.
        run.recipe = recipe.text.clone();
        (run.card.name, run.card.description) = (recipe.name.clone(), recipe.description.clone());
    }
    report::write(out, &run)?;
    put(&format!("{chart}{steps}; curves and samples are in {}\n", out.join("report.html").display()))
}

/// What a recipe comes to.
fn plan(a: &Arguments, setup: &Setup, together: &Together) -> Value {
    let measured = together.measured;
    let steps = setup.recipe.train.tokens.div_ceil(setup.batch);
    let computing = setup.recipe.train.tokens as f64 / measured.tokens_per_second;
    let hours = (computing + steps as f64 * together.exchange_seconds) / 3600.0;
    let kilowatt_hours = a.watts.map(|watts| f64::from(watts) * together.machines as f64 * hours / 1000.0);
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
        "context": setup.context,
        "expert_layers": expert_layers(setup),
        "tokens": setup.recipe.train.tokens,
        "epochs": setup.recipe.train.tokens as f64 / setup.corpus.tokens() as f64,
        "batch_tokens": setup.batch,
        "steps": steps,
        "ranks": together.plan(),
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
        "peak_operations_per_second": measured.peak_operations_per_second,
        "hours": hours,
        "kilowatt_hours": kilowatt_hours,
        "electricity_cost": cost,
    })
}

/// Numbers of the layers with experts, as tensors are named; that of multi-token prediction is behind the others.
fn expert_layers(setup: &Setup) -> Vec<usize> {
    let layers = &setup.network.structure.layers;
    let experts = |layer: &model::structure::Layer| layer.feed_forward.experts().is_some();
    let mut numbers: Vec<usize> = (0..layers.len()).filter(|&i| experts(&layers[i])).collect();
    let predicts = setup.network.predicts() && layers.last().is_some_and(experts);
    numbers.extend(predicts.then_some(layers.len()));
    numbers
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
    lines.extend(ranks::line(plan));
    lines.push(memory(plan));
    let energy = match (plan["kilowatt_hours"].as_f64(), plan["electricity_cost"].as_f64()) {
        (Some(energy), Some(cost)) => format!(", {energy:.2} kWh, {cost:.2} for electricity"),
        (Some(energy), None) => format!(", {energy:.2} kWh"),
        _ => String::new(),
    };
    lines.push(format!(
        "measured: {:.0} tokens/s, {:.0} GFLOP/s ({:.0} % of the machine's peak) without the optimizer: {:.1} hours{energy}",
        n("tokens_per_second"),
        n("operations_per_second") / 1e9,
        100.0 * n("operations_per_second") / n("peak_operations_per_second").max(1.0),
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

/// Columns of the curve while it is trained.
const CURVE_COLUMNS: usize = 60;
/// Layers whose busiest experts fit into a line.
const MIXTURES_SHOWN: usize = 10;

/// What a person sees, and what is logged.
struct View {
    bar: ProgressBar,
    records: Option<Records>,
    /// Operations per second that the machine reaches.
    peak: f64,
    step: u64,
    evaluated: Option<Evaluation>,
    told: Instant,
    plain: bool,
    total: u64,
    curve: Curve,
    /// Layers of the mixtures.
    layers: Vec<usize>,
}

impl View {
    fn new(a: &Arguments, setup: &Setup, peak: f64) -> View {
        let hidden = a.quiet || terminal::is_json_only();
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(setup.recipe.train.tokens), target);
        let style = "{bar:24} {percent:>3} %, {eta} left\n{msg}";
        bar.set_style(ProgressStyle::with_template(style).expect("a sound template"));
        let plain = !hidden && bar.is_hidden();
        let total = setup.recipe.train.tokens;
        View {
            bar,
            records: None,
            peak,
            step: 0,
            evaluated: None,
            told: Instant::now(),
            plain,
            total,
            curve: Curve::default(),
            layers: expert_layers(setup),
        }
    }

    /// What stands below the bar: no line is wider than a narrow terminal.
    fn lines(&self, step: &Step, tokens_per_second: f64, share: f64) -> String {
        let curve = self.curve.blocks(self.total, CURVE_COLUMNS);
        let held_out = self
            .evaluated
            .map_or(String::new(), |e| format!(", held out {:.3} ({:.3} bits a byte)", e.loss, e.bits_per_byte));
        let mut lines = format!(
            "loss     {curve}\n         {:.3}{held_out}\nspeed    {tokens_per_second:.0} tokens/s, {:.0} % of the peak\n\
             step     {}, rate {:.2e}, norm {:.2}",
            step.loss,
            100.0 * share,
            step.step,
            step.rate,
            step.norm
        );
        if !step.loads.is_empty() {
            let busiest = expert_loads(step, |tokens| tokens.iter().copied().max().unwrap_or(0));
            let all: Vec<String> = busiest.iter().take(MIXTURES_SHOWN).map(|load| format!("{load:.1}")).collect();
            let more = if busiest.len() > MIXTURES_SHOWN { " ..." } else { "" };
            lines += &format!("\nexperts  busiest over even, by layer: {}{more}", all.join(" "));
        }
        lines
    }

    /// Opens log, events and report of a training that goes on.
    fn record(&mut self, out: &Path, run: Run) -> Outcome {
        let (path, step) = (out.join("log.jsonl"), run.steps);
        let (log, cut) = Log::open(&path, step)?;
        if cut > 0 {
            let steps = terminal::several(cut as usize, "step");
            self.warned(&format!("{}: {steps} after step {step} cut, which are taken again", path.display()));
        }
        self.curve = Curve::read(&path)?;
        let events = Events::create(&out.join("tensorboard"), step, now())?;
        self.step = step;
        self.records = Some(Records { log, events, out: out.to_path_buf(), run, failed: false });
        Ok(())
    }

    /// Writes `run.json` and the report as of now.
    fn report(&mut self) -> Outcome {
        let Some(records) = &mut self.records else { return Ok(()) };
        records.run.write(&records.out)?;
        report::write(&records.out, &records.run)
    }

    /// Writes both for the last time, and gives what is known.
    fn finish(&mut self) -> Result<Option<&Run>, Failure> {
        if let Some(records) = &mut self.records {
            records.run.finished = true;
        }
        self.report()?;
        Ok(self.records.as_ref().map(|records| &records.run))
    }

    /// Warns of a failure beside the training once: it goes on.
    fn missed(&mut self, problem: &str) {
        let Some(records) = self.records.as_mut().filter(|records| !records.failed) else { return };
        records.failed = true;
        let line = format!("{problem}; the training goes on, its log or report is not whole");
        self.warned(&line);
    }

    /// Writes a line to the log, and scalars of the last step to the events. A disk that is full is told of once, and the training goes on.
    fn write(&mut self, line: &Value, scalars: &[(&str, f64)]) {
        let Some(records) = &mut self.records else { return };
        let logged = records.log.write(line).map_err(|e| e.to_string());
        let told = match scalars {
            [] => Ok(()),
            scalars => records.events.scalars(self.step, now(), scalars).map_err(|e| e.to_string()),
        };
        let path = records.out.join("log.jsonl");
        if let Err(problem) = logged.and(told) {
            self.missed(&format!("{}: {problem}", path.display()));
        }
    }
}

/// What is written beside the states.
struct Records {
    log: Log,
    events: Events,
    out: PathBuf,
    run: Run,
    /// Whether something could not be written.
    failed: bool,
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// An expert's load of each mixture over what it would be if all were even.
fn expert_loads(step: &Step, pick: fn(&[u64]) -> u64) -> Vec<f64> {
    let share = |load: &::train::Load| {
        let total = load.tokens.iter().sum::<u64>().max(1) as f64;
        (1000.0 * pick(&load.tokens) as f64 * load.tokens.len() as f64 / total).round() / 1000.0
    };
    step.loads.iter().map(share).collect()
}

impl Observer for View {
    fn step(&mut self, step: &Step) {
        let peak = step.loads.iter().map(::train::Load::peak).fold(0.0, f64::max);
        self.step = step.step;
        let (tokens_per_second, operations_per_second) =
            (step.step_tokens as f64 / step.seconds, step.operations / step.seconds);
        let share = operations_per_second / self.peak;
        let busiest = expert_loads(step, |tokens| tokens.iter().copied().max().unwrap_or(0));
        let idlest = expert_loads(step, |tokens| tokens.iter().copied().min().unwrap_or(0));
        let line = json!({
            "step": step.step, "tokens": step.tokens, "loss": step.loss, "bits_per_byte": step.bits_per_byte,
            "prediction": step.prediction, "norm": step.norm, "rate": step.rate, "seconds": step.seconds,
            "optimizer_seconds": step.optimizer_seconds, "tokens_per_second": tokens_per_second,
            "operations_per_second": operations_per_second, "share_of_peak": share, "expert_peak": peak,
            "busiest_experts": busiest, "idlest_experts": idlest,
            "balance": step.loads.iter().map(|l| l.loss).sum::<f64>() / step.loads.len().max(1) as f64,
        });
        let mut scalars = vec![
            ("train/loss", step.loss),
            ("train/gradient_norm", step.norm),
            ("train/rate", step.rate),
            ("speed/tokens_per_second", tokens_per_second),
            ("speed/share_of_peak", share),
        ];
        scalars.extend(step.bits_per_byte.map(|bits| ("train/bits_per_byte", bits)));
        scalars.extend(step.prediction.map(|loss| ("train/prediction_loss", loss)));
        scalars.extend((!step.loads.is_empty()).then_some(("experts/busiest", peak)));
        let tags =
            self.layers.iter().flat_map(|i| ["busiest", "idlest"].map(|what| format!("experts/{what}_of_layer_{i}")));
        let tags: Vec<String> = tags.collect();
        let loads = busiest.iter().zip(&idlest).flat_map(|(&busiest, &idlest)| [busiest, idlest]);
        scalars.extend(tags.iter().map(String::as_str).zip(loads));
        self.write(&line, &scalars);
        self.curve.step(step.tokens, step.loss);
        self.bar.set_position(step.tokens.min(self.total));
        if self.plain && self.told.elapsed() > Duration::from_secs(30) {
            self.told = Instant::now();
            let busiest = if busiest.is_empty() { String::new() } else { format!("  busiest expert {peak:.1}x") };
            let Step { step, loss, .. } = step;
            let share = 100.0 * share;
            terminal::note(&format!(
                "step {step}  loss {loss:.3}  {tokens_per_second:.0} tokens/s  {share:.0} % of the peak{busiest}"
            ));
        }
        if !self.plain {
            self.bar.set_message(self.lines(step, tokens_per_second, share));
        }
        if let Some(Records { run, .. }) = &mut self.records {
            (run.steps, run.tokens, run.loss) = (step.step, step.tokens, Some(step.loss));
            run.seconds += step.seconds;
        }
    }

    fn evaluated(&mut self, evaluation: &Evaluation) {
        let Evaluation { tokens, loss, bits_per_byte } = *evaluation;
        let scalars = [("held_out/loss", loss), ("held_out/bits_per_byte", bits_per_byte)];
        self.write(&json!({"tokens": tokens, "held_out_loss": loss, "bits_per_byte": bits_per_byte}), &scalars);
        let line =
            format!("{:.1} M tokens: held-out loss {loss:.4}, {bits_per_byte:.4} bits a byte", tokens as f64 / 1e6);
        if self.plain {
            terminal::note(&line)
        } else {
            self.bar.println(line)
        }
        self.curve.evaluated(tokens, loss);
        self.evaluated = Some(*evaluation);
        if let Some(Records { run, .. }) = &mut self.records {
            (run.held_out_loss, run.bits_per_byte) = (Some(loss), Some(bits_per_byte));
        }
    }

    fn sampled(&mut self, samples: &Samples) {
        let texts: Vec<Value> = samples
            .texts
            .iter()
            .map(|sample| json!({"prompt": sample.prompt, "text": sample.text, "ended": sample.ended}))
            .collect();
        self.write(&json!({"tokens": samples.tokens, "seconds": samples.seconds, "samples": texts}), &[]);
    }

    fn saving(&mut self) {
        let Some(records) = &self.records else { return };
        if let Err(error) = records.log.sync() {
            self.missed(&format!("{}: {error}", records.out.join("log.jsonl").display()));
        }
    }

    fn saved(&mut self, path: &Path) {
        self.write(&json!({"saved": path}), &[]);
        if let Err(failure) = self.report() {
            self.missed(&failure.to_string());
        }
    }

    fn warned(&mut self, what: &str) {
        self.bar.suspend(|| terminal::note(what));
    }
}
