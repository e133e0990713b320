//! `farthing data`: constructs a corpus as a recipe says.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use data::join::pairs::PairFinder;
use data::part::Part;
use data::preview::{Effect, StepPreview};
use data::progress::{Progress, Snapshot, Stage, Unit};
use data::recipe::Recipe;
use data::run::{Options, Run};
use data::shared::StoreFolder;
use data::store::{Address, Folder, Store, Stores, WITHOUT};
use data::{generators, steps};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::manual::manual;
use crate::serve::size;
use crate::terminal::{self, bytes, put, say, several, threads};
use crate::{Failure, Outcome};

/// Construct a corpus: from raw text to documents, a tokenizer and shards, as a recipe says
///
/// A recipe is a TOML file with sources and steps in order. Documents are kept, or dropped with a reason; the report says how many,
/// by which rule, with samples. The same recipe over the same sources gives the same bytes, with any number of threads or machines.
/// What is finished is not done again: a run that was stopped goes on where it was.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  farthing data recipes/generated-data.toml             text of our own, to ./generated-data
  farthing data recipe.toml --plan                      its parts, and what the steps will do; nothing is written
  farthing data recipe.toml --preview 5                 the first documents of each source before and after each step
  farthing data recipe.toml --out corpus --json         the report as JSON
  farthing data recipe.toml --rank 3 --world 8          the fourth of eight machines that share --out
  farthing data recipe.toml --cluster node1:50050       duplicates found on the Ballista cluster of that scheduler
  farthing data --steps                                 steps and generators that a recipe can name

docs/DATA.md has the recipe's format, every step with its source, and speeds.")]
pub struct Arguments {
    /// The recipe
    #[arg(value_name = "RECIPE", required_unless_present = "steps")]
    recipe: Option<PathBuf>,
    /// Directory of what is made, or s3://BUCKET/FOLDER [default: the recipe's name, here]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Directory of this machine for what is being made, if --out is far away [default: the recipe's name and rank, here, if --out is s3://]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    plan: bool,
    /// Show the first N documents of each source before and after each step, and write nothing [default: 3]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "3", conflicts_with_all = ["out", "plan", "world"],
        value_parser = documents)]
    preview: Option<u16>,
    /// List steps and generators
    #[arg(long, conflicts_with_all = ["recipe", "out", "plan", "preview"])]
    steps: bool,
    /// Threads [default: all cores]
    #[arg(long, short, value_name = "N", value_parser = threads)]
    threads: Option<u16>,
    /// Memory for sorting, such as 4G; a number alone is MiB
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = memory)]
    memory: u64,
    /// This machine among those that share the directory, from 0
    #[arg(long, value_name = "RANK", default_value_t = 0, requires = "world")]
    rank: u16,
    /// How many machines share the directory
    #[arg(long, value_name = "WORLD", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    world: u16,
    /// Find the pairs of near_dedup and exact_dedup with DataFusion: `in-process`, or the scheduler of a Ballista cluster
    ///
    /// The same documents are dropped. Only in binaries that were built with the feature `cluster`.
    #[arg(long, value_name = "HOST:PORT")]
    cluster: Option<String>,
    /// Replace the finished dataset of another recipe, or of sources that have changed, in --out
    #[arg(long)]
    replace: bool,
    /// Keep the documents between steps, so that a changed recipe starts late
    #[arg(long)]
    keep_work: bool,
    /// The report as a JSON object
    #[arg(long)]
    pub json: bool,
    /// No progress, no notes
    #[arg(long, short)]
    quiet: bool,
}

/// Documents of a preview.
fn documents(text: &str) -> Result<u16, String> {
    let number = text.parse().ok().filter(|number| (1..=1000).contains(number));
    let next = if std::path::Path::new(text).exists() {
        format!("; the recipe comes first: {text} --preview")
    } else {
        String::new()
    };
    number.ok_or_else(|| format!("give a number of documents from 1 to 1000{next}"))
}

/// Least and most bytes for sorting.
const MEMORY: std::ops::RangeInclusive<u64> = 16 << 20..=16 << 40;

/// Bytes, or MiB if there is no unit.
fn memory(text: &str) -> Result<u64, String> {
    let bytes = match text.parse::<u64>() {
        Ok(mib) => mib.checked_mul(1 << 20),
        Err(_) => Some(size(text)?),
    };
    bytes.filter(|bytes| MEMORY.contains(bytes)).ok_or_else(|| "give 16M to 16T, such as 4G".to_string())
}

pub fn run(a: Arguments) -> Outcome {
    let Some(file) = &a.recipe else { return list(&a) };
    if a.rank >= a.world {
        return Err(Failure::usage(format!("--rank {} is not below --world {}: ranks count from 0", a.rank, a.world)));
    }
    let mut recipe = Recipe::read(file, &manual())?;
    recipe.stores = stores()?;
    if let Some(documents) = a.preview {
        return preview(&a, &recipe, documents.into());
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (out, folder) = out(&a, &recipe)?;
    let options = Options {
        out,
        folder,
        threads: a.threads.map_or(cores, usize::from),
        rank: a.rank.into(),
        world: a.world.into(),
        memory_bytes: a.memory as usize,
        replace: a.replace,
        keep_work: a.keep_work,
    };
    let progress = Progress::default();
    let run = Run::plan(&recipe, options, &progress).map_err(planning)?;
    if a.cluster.is_some() && run.pair_joins().is_empty() {
        let steps = "near_dedup or exact_dedup";
        return Err(Failure::usage(format!("--cluster finds pairs for {steps}: {} has neither", file.display())));
    }
    if a.plan {
        return plan(&a, &run);
    }
    let engine = a.cluster.as_deref().filter(|_| a.rank == 0);
    let finder = engine.map(|engine| pair_finder(engine, run.options.threads, &progress)).transpose()?;
    let run = run.with_pair_finder(finder.as_deref());
    terminal::catch_interrupts();
    if !a.quiet {
        run.describe().iter().for_each(|line| terminal::note(line));
    }
    let start = Instant::now();
    let report = with_bar(&a, &progress, || run.make())?;
    let Some(report) = report else {
        return Ok(());
    };
    if a.json {
        return put(&format!("{}\n", serde_json::to_string(&report).expect("a report is plain data")));
    }
    put(&format!("{}\n", terminal::harmless(&report.lines().join("\n"))))?;
    if !a.quiet {
        let seconds = start.elapsed().as_secs_f64();
        let made = run.options.folder.as_ref().map_or(&run.options.out, |folder| &folder.url);
        let rate = match progress.bytes_read() {
            0 => "nothing was left to be read".to_string(),
            read => format!("{}/s", bytes((read as f64 / seconds.max(0.001)) as u64)),
        };
        say(&format!("{seconds:.1} s, {rate}; report, card and documents are in {}", made.display()));
    }
    Ok(())
}

/// Why there is no plan. Files that are missing are told a line each, since a newcomer has to get all of them.
fn planning(error: data::Error) -> Failure {
    let missing = match &error {
        data::Error::Missing(missing) if missing.len() > 1 => missing,
        _ => return error.into(),
    };
    let one_line = |text: String| text.replace(|c: char| c.is_control(), " ");
    missing.iter().for_each(|file| terminal::note(&one_line(file.to_string())));
    Failure::failed(format!("{} lack files; how to get them stands above", several(missing.len(), "source")))
}

/// The directory of this machine, and the folder that machines share if that is another.
fn out(a: &Arguments, recipe: &Recipe) -> Result<(PathBuf, Option<StoreFolder>), Failure> {
    let out = a.out.clone().unwrap_or_else(|| PathBuf::from(&recipe.name));
    let address = Address::parse(out.to_str().unwrap_or_default()).map_err(|e| Failure::usage(format!("--out {e}")))?;
    let (store, prefix): (Arc<dyn Store>, _) = match (address, &a.work) {
        (Address::Path(""), None) => return Ok((out, None)),
        (Address::Path(path), None) => return Ok((PathBuf::from(path), None)),
        (Address::Path(_), Some(_)) => (Arc::new(Folder::new(out.clone())), String::new()),
        (Address::Object { bucket, key }, _) => {
            if key.is_empty() {
                return Err(Failure::usage(format!("--out s3://{bucket}: add a folder, as in s3://{bucket}/corpus")));
            }
            let without = || Failure::usage(format!("--out {}: {WITHOUT}", out.display()));
            let stores = recipe.stores.as_ref().ok_or_else(without)?;
            (stores.open(bucket)?, format!("{}/", key.trim_end_matches('/')))
        }
    };
    let work = a.work.clone().unwrap_or_else(|| PathBuf::from(format!("{}-rank-{}", recipe.name, a.rank)));
    Ok((work, Some(StoreFolder { store, prefix, url: out })))
}

/// Opens the buckets of object stores.
#[cfg(feature = "stores")]
fn stores() -> Result<Option<Arc<dyn Stores>>, Failure> {
    let s3 = cluster::store::S3::new()?;
    Ok(Some(Arc::new(s3)))
}

/// Nobody opens buckets.
#[cfg(not(feature = "stores"))]
fn stores() -> Result<Option<Arc<dyn Stores>>, Failure> {
    Ok(None)
}

/// What finds pairs with the engine that `--cluster` names.
#[cfg(feature = "cluster")]
fn pair_finder<'a>(engine: &str, threads: usize, progress: &'a Progress) -> Result<Box<dyn PairFinder + 'a>, Failure> {
    use cluster::pairs::{Engine, PlanFinder};
    let engine = Engine::parse(engine).map_err(|problem| Failure::usage(format!("--cluster: {problem}")))?;
    Ok(Box::new(PlanFinder::new(engine, threads, progress)?))
}

#[cfg(not(feature = "cluster"))]
fn pair_finder<'a>(engine: &str, _: usize, _: &'a Progress) -> Result<Box<dyn PairFinder + 'a>, Failure> {
    let build = "cargo build --release --features cluster";
    Err(Failure::usage(format!(
        "--cluster {engine}: this binary was built without clusters; {build} makes one with them"
    )))
}

/// How progress is shown: a share and a rate only where something of a known amount is done.
fn bar_template(now: &Snapshot) -> &'static str {
    match now.stage.unit {
        _ if now.stage.phase == 0 => "{spinner} {wide_msg}",
        _ if now.stage.total == 0 => "{prefix} {spinner} {elapsed}  {wide_msg}",
        _ if now.done <= now.stage.before => "{prefix} {bar:24} {percent:>3} %  {wide_msg}",
        Unit::Bytes => "{prefix} {bar:24} {percent:>3} % {decimal_bytes_per_sec}, {eta} left  {wide_msg}",
        Unit::Tokens => "{prefix} {bar:24} {percent:>3} % of {human_len} tokens, {eta} left  {wide_msg}",
    }
}

/// What is being done, in words.
fn message(now: &Snapshot) -> String {
    if terminal::interrupt_pending() {
        return "stopping after the documents in work; ctrl-c again ends at once".to_string();
    }
    match (now.stage.phase, now.documents) {
        (0, _) => "looking for files".to_string(),
        (_, 0) => now.stage.name.clone(),
        (_, documents) => format!("{} ({})", now.stage.name, several(documents as usize, "document")),
    }
}

/// Does work while a bar shows how far it is, and ctrl-c stops it.
fn with_bar<T: Send>(
    a: &Arguments,
    progress: &Progress,
    work: impl FnOnce() -> Result<T, data::Error> + Send,
) -> Result<T, Failure> {
    let hidden = a.quiet || terminal::is_json_only();
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    let done = Arc::new(AtomicBool::new(false));
    let result = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let (mut stage, mut template) = (Stage::default(), "");
            while !done.load(Ordering::Relaxed) {
                if terminal::interrupt_pending() {
                    progress.stop();
                }
                progress.take_warnings().iter().for_each(|warning| bar.suspend(|| terminal::note(warning)));
                let now = progress.snapshot();
                if now.stage != stage {
                    stage = now.stage.clone();
                    bar.reset();
                    bar.set_length(stage.total);
                    bar.set_position(stage.before);
                    bar.reset_eta();
                }
                if template != bar_template(&now) {
                    template = bar_template(&now);
                    bar.set_style(ProgressStyle::with_template(template).expect("a sound template"));
                }
                bar.set_position(now.done);
                bar.set_prefix(format!("phase {} of {}", stage.phase, stage.phases));
                bar.set_message(message(&now));
                std::thread::park_timeout(Duration::from_millis(100));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        watcher.thread().unpark();
        result
    });
    bar.finish_and_clear();
    result.map_err(|error| match error {
        data::Error::Stopped => Failure::stopped(error.to_string()),
        error => Failure::from(error),
    })
}

/// The first documents of each source and what the steps do to them.
fn preview(a: &Arguments, recipe: &Recipe, documents: usize) -> Outcome {
    let sources = data::preview::preview(recipe, documents)?;
    if a.json {
        return put(&format!("{}\n", json!({"name": recipe.name, "sources": sources})));
    }
    let mut lines = Vec::new();
    for source in &sources {
        lines.push(format!("source {}: {}", source.name, several(source.documents.len(), "document")));
        lines.extend(source.damaged.iter().map(|damaged| format!("  damaged: {}: {}", damaged.place, damaged.problem)));
        lines.extend(source.passed_over.iter().map(|(kind, records)| format!("  passed over: {kind}: {records}")));
        if source.given_up {
            lines.push("  no more records were read: too few of them are documents".into());
        }
        for document in &source.documents {
            lines.push(format!("\n{}: {}", document.id, bytes(document.bytes as u64)));
            lines.extend(shown(&document.text));
            if !document.labels.is_empty() {
                lines.push(format!("  labels: {}", written(&document.labels)));
            }
            for step in &document.steps {
                lines.extend(effect(step));
            }
        }
        lines.push(String::new());
    }
    put(&format!("{}\n", terminal::harmless(lines.join("\n").trim_end())))
}

/// Characters of a line, and lines, that a preview shows of a text or a change.
const PREVIEW_COLUMNS: usize = 160;
const PREVIEW_LINES: usize = 12;

fn shortened(line: &str) -> String {
    match line.char_indices().nth(PREVIEW_COLUMNS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_string(),
    }
}

/// The first lines of a text, indented.
fn shown(text: &str) -> Vec<String> {
    let mut lines: Vec<String> =
        text.lines().take(PREVIEW_LINES).map(|line| format!("  | {}", shortened(line))).collect();
    if text.lines().nth(PREVIEW_LINES).is_some() {
        lines.push("  | ...".into());
    }
    lines
}

fn written(labels: &serde_json::Map<String, serde_json::Value>) -> String {
    shortened(&serde_json::to_string(labels).expect("labels are JSON"))
}

/// What a step does to a document, in lines.
fn effect(step: &StepPreview) -> Vec<String> {
    let name = step.step;
    match &step.effect {
        Effect::Kept => vec![format!("  {name}: kept")],
        Effect::Dropped { rule, detail } => vec![format!("  {name}: dropped by {rule}: {}", shortened(detail))],
        Effect::Unknown => vec![format!("  {name}: decided once all documents are read")],
        Effect::Labelled { labels } => vec![format!("  {name}: kept, labels {}", written(labels))],
        Effect::Changed { bytes: after, diff, labels } => {
            let mut lines = vec![format!("  {name}: changed, {}", bytes(*after as u64))];
            if !labels.is_empty() {
                lines.push(format!("    labels: {}", written(labels)));
            }
            lines.extend(diff.iter().flat_map(|diff| shown(diff)));
            lines
        }
    }
}

/// What would be done.
fn plan(a: &Arguments, run: &Run) -> Outcome {
    let is_of = |part: &Part, source: usize| part.source as usize == source && !part.name.is_empty();
    let size = |source: usize| run.parts.iter().filter(|p| is_of(p, source)).map(|p| p.bytes).sum::<u64>();
    let parts = |source: usize| run.parts.iter().filter(|p| p.source as usize == source).count();
    let sources = run.recipe.sources.iter().enumerate();
    if a.json {
        let sources: Vec<_> = sources
            .map(|(i, s)| json!({"name": s.name, "parts": parts(i), "bytes": size(i), "documents": s.documents}))
            .collect();
        let phases: Vec<String> = run.phases.iter().map(|phase| phase.describe()).collect();
        let plan = json!({"name": run.recipe.name, "sources": sources, "phases": phases, "joins": run.describe()});
        return put(&format!("{plan}\n"));
    }
    let mut lines = vec![format!(
        "{}: {}, {}",
        run.recipe.name,
        several(run.parts.len(), "part"),
        several(run.phases.len(), "phase")
    )];
    lines.extend(sources.map(|(i, source)| match source.documents {
        Some(documents) => {
            let documents = several(documents as usize, "generated document");
            format!("  {}: {documents} in {}", source.name, several(parts(i), "part"))
        }
        None => format!("  {}: {} in {}", source.name, bytes(size(i)), several(parts(i), "part")),
    }));
    lines.extend(run.phases.iter().enumerate().map(|(i, phase)| format!("phase {}: {}", i + 1, phase.describe())));
    lines.extend(run.describe());
    put(&format!("{}\n", lines.join("\n")))
}

/// Steps and generators with a line of help each.
fn list(a: &Arguments) -> Outcome {
    let steps: Vec<(&str, &str)> = steps::KINDS.iter().map(|kind| (kind.name, kind.help)).collect();
    let generators: Vec<(&str, &str)> = generators::KINDS.iter().map(|kind| (kind.name, kind.help)).collect();
    if a.json {
        let object = |rows: &[(&str, &str)]| {
            rows.iter().map(|(name, help)| json!({"name": name, "help": help})).collect::<Vec<_>>()
        };
        return put(&format!("{}\n", json!({"steps": object(&steps), "generators": object(&generators)})));
    }
    let lines = |title: &str, rows: &[(&str, &str)]| {
        rows.iter().fold(format!("{title}\n"), |all, (name, help)| format!("{all}  {name:<20} {help}\n"))
    };
    put(&format!(
        "{}\n{}\ndocs/DATA.md has the settings of each with their defaults.\n",
        lines("Steps ([[steps]] step = NAME):", &steps),
        lines("Generators ([[sources]] generate = NAME):", &generators)
    ))
}
