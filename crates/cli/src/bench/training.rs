//! `farthing bench train`: a training's step beside the processor's peak, measured in the same run.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use ::train::Settings;
use ::train::optimizer::Kind;
use ::train::recipe::count_of;
use ::train::sizes::{Kind as StructureKind, Wanted};
use ::train::speed::{self, Speed};
use clap::Args;
use kernels::training::{Precision, bf16_products};
use kernels::{Pool, measure};
use serde_json::{Map, Value, json};

use crate::external_bench::Rates;
use crate::terminal::{bytes, note, put, threads, whole};
use crate::{Failure, Outcome};

/// Measure a training's speed
///
/// Whole steps (forward, backward, clipping, optimizer) of documents of random tokens: medians over repetitions, as a share of the peak
/// of the numbers' format that this machine shows in the same run (model FLOPs utilisation: products and attention, forward and
/// backward, two operations a multiply-add), and as a share of it in the time that products and attention take. With --against another
/// program's step runs between ours.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  farthing bench train --active 4M
  farthing bench train --active 12M --structure gqa --precision f32,bf16 --json
  farthing bench train --config config.json --against 'python3 step.py config.json'

--against takes a command that prints a JSON line with \"tokens_per_second\" (and \"precision\", where
several are measured); --write-config gives it the structure, in the keys of Hugging Face.")]
pub struct Arguments {
    /// Active parameters
    #[arg(long, value_name = "COUNT", default_value = "4M", value_parser = count_of)]
    active: u64,
    /// Kind of structure: mla-moe, mla-moe-v2, mla, gqa, gqa-moe
    #[arg(long, value_name = "KIND", default_value = "mla-moe", value_parser = structure_kind)]
    structure: StructureKind,
    /// Tokens of the vocabulary
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = whole::<usize>)]
    vocabulary: usize,
    /// A configuration (config.json) instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["active", "structure", "vocabulary"])]
    config: Option<PathBuf>,
    /// Write the configuration, for another program
    #[arg(long, value_name = "FILE")]
    write_config: Option<PathBuf>,
    /// Tokens of a document
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = whole::<usize>)]
    length: usize,
    /// Documents of a step
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = whole::<usize>)]
    documents: usize,
    /// Of products: bf16, f32 or both [default: bf16 where the processor multiplies it]
    #[arg(long, value_name = "FORMAT", value_delimiter = ',', value_parser = precision)]
    precision: Vec<Precision>,
    /// AdamW for all parameters instead of Muon for matrices
    #[arg(long)]
    adamw: bool,
    /// Steps that are timed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = whole::<usize>)]
    repetitions: usize,
    /// Another program's step, run once before each repetition
    #[arg(long, value_name = "COMMAND")]
    against: Option<String>,
    /// Threads [default: all cores]
    #[arg(long, short, value_name = "N", value_parser = threads)]
    threads: Option<u16>,
    /// A JSON object
    #[arg(long)]
    pub json: bool,
}

fn structure_kind(text: &str) -> Result<StructureKind, String> {
    serde_json::from_value(Value::from(text)).map_err(|_| "one of mla-moe, mla-moe-v2, mla, gqa, gqa-moe".to_string())
}

fn precision(text: &str) -> Result<Precision, String> {
    match text {
        "f32" => Ok(Precision::F32),
        "bf16" => Ok(Precision::Bf16),
        _ => Err("f32 or bf16".to_string()),
    }
}

fn name(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    }
}

/// What was measured of one format.
struct Row {
    precision: Precision,
    speed: Speed,
    /// Seconds of steps, and of products and the optimizer in them.
    seconds: Vec<f64>,
    products: Vec<f64>,
    optimizer: Vec<f64>,
    peak: Vec<f64>,
    /// Tokens a second of the other program.
    other: Vec<f64>,
}

pub fn run(a: Arguments) -> Outcome {
    if let Some((option, _)) =
        [("--repetitions", a.repetitions), ("--documents", a.documents)].into_iter().find(|(_, n)| *n == 0)
    {
        return Err(Failure::usage(format!("{option} 0: give at least 1")));
    }
    let config = configuration(&a)?;
    if let Some(file) = &a.write_config {
        std::fs::write(file, format!("{config:#}\n"))
            .map_err(|e| Failure::failed(format!("{}: {e}", file.display())))?;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = Pool::new(a.threads.map_or(cores, usize::from));
    let best = if bf16_products() { Precision::Bf16 } else { Precision::F32 };
    let wanted = if a.precision.is_empty() { vec![best] } else { a.precision.clone() };
    let mut rows = wanted.into_iter().map(|precision| row(&a, &config, precision)).collect::<Result<Vec<_>, _>>()?;
    // The first step makes buffers ready.
    for row in &mut rows {
        row.speed.step(&pool);
    }
    for _ in 0..a.repetitions {
        if let Some(command) = &a.against {
            other(command, &mut rows)?;
        }
        for row in &mut rows {
            row.peak.push(match row.precision {
                Precision::F32 => measure::f32_peak(&pool),
                Precision::Bf16 => measure::bf16_peak(&pool),
            });
            let taken = row.speed.step(&pool);
            row.seconds.push(taken.seconds);
            row.products.push(taken.product_seconds);
            row.optimizer.push(taken.optimizer_seconds);
        }
    }
    if a.json {
        let rows: Vec<Value> = rows.iter().map(json).collect();
        let set = kernels::instruction_set();
        return put(&format!(
            "{}\n",
            json!({"threads": pool.threads(), "instruction_set": set, "config": config, "rows": rows})
        ));
    }
    let structure = &rows[0].speed.network.structure;
    let parameters = structure.parameters();
    note(&format!(
        "{}: {:.2} M parameters, {:.2} M active; {} documents of {} tokens a step; {} threads, {}",
        structure.architecture,
        parameters.total as f64 / 1e6,
        parameters.active as f64 / 1e6,
        a.documents,
        a.length,
        pool.threads(),
        kernels::instruction_set()
    ));
    put(&rows.iter().map(text).collect::<String>())
}

fn configuration(a: &Arguments) -> Result<Value, Failure> {
    if let Some(file) = &a.config {
        let text = std::fs::read(file).map_err(|e| Failure::failed(format!("{}: {e}", file.display())))?;
        return serde_json::from_slice(&text).map_err(|e| Failure::failed(format!("{}: {e}", file.display())));
    }
    let wanted = Wanted {
        kind: a.structure,
        active: a.active,
        vocabulary: a.vocabulary,
        context: a.length.max(2),
        given: Map::new(),
    };
    Ok(wanted.config()?.0)
}

fn row(a: &Arguments, config: &Value, precision: Precision) -> Result<Row, Failure> {
    let file = a.config.clone().unwrap_or_else(|| PathBuf::from("config"));
    let settings = Settings { precision, ..Settings::default() };
    let kind = if a.adamw { Kind::AdamW } else { Kind::Muon };
    let speed = Speed::new(speed::structure(&file, config)?, settings, kind, (a.documents, a.length))?;
    Ok(Row {
        precision,
        speed,
        seconds: Vec::new(),
        products: Vec::new(),
        optimizer: Vec::new(),
        peak: Vec::new(),
        other: Vec::new(),
    })
}

/// Run the other program once.
fn other(command: &str, rows: &mut [Row]) -> Result<(), Failure> {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = errors.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default().trim().to_string();
        return Err(Failure::failed(format!("--against: {command:?} ended with {}: {last}", output.status)));
    }
    let mut found = false;
    for line in text.lines() {
        let Ok(object) = serde_json::from_str::<Value>(line.trim()) else { continue };
        let Some(rate) = object["tokens_per_second"].as_f64().filter(|rate| *rate > 0.0) else { continue };
        let of = object["precision"].as_str();
        for row in rows.iter_mut().filter(|row| of.is_none_or(|of| of == name(row.precision))) {
            row.other.push(rate);
            found = true;
        }
    }
    if !found {
        let problem = format!(
            "--against: {command:?} printed no JSON line with \"tokens_per_second\" of a format that is measured"
        );
        return Err(Failure::failed(problem));
    }
    Ok(())
}

impl Row {
    fn rates(&self) -> Rates {
        let tokens = self.speed.tokens() as f64;
        Rates::of(&self.seconds.iter().map(|s| tokens / s).collect::<Vec<_>>())
    }

    /// Operations a second at the median, and as a share of the peak.
    fn utilisation(&self) -> (f64, f64) {
        let operations = self.speed.operations() / self.speed.tokens() as f64 * self.rates().median;
        (operations, operations / Rates::of(&self.peak).median)
    }

    /// What products and attention take of a step's time, and their operations as a share of the peak in that time.
    fn products(&self) -> (f64, f64) {
        let share = Rates::of(&self.products).median / Rates::of(&self.seconds).median;
        (share, self.utilisation().1 / share)
    }

    fn against(&self) -> Option<(Rates, f64)> {
        let other = (!self.other.is_empty()).then(|| Rates::of(&self.other))?;
        Some((other, self.rates().median / other.median))
    }
}

fn json(row: &Row) -> Value {
    let (operations, share) = row.utilisation();
    json!({
        "precision": name(row.precision),
        "tokens": row.speed.tokens(),
        "tokens_per_second": row.rates().json(),
        "operations_per_second": operations,
        "peak_operations_per_second": Rates::of(&row.peak).median,
        "model_flops_utilisation": share,
        "seconds": Rates::of(&row.seconds).median,
        "product_seconds": Rates::of(&row.products).median,
        "product_share": row.products().0,
        "product_utilisation": row.products().1,
        "optimizer_share": Rates::of(&row.optimizer).median / Rates::of(&row.seconds).median,
        "number_bytes": row.speed.number_bytes,
        "activation_bytes": row.speed.network.buffer_bytes(),
        "against": row.against().map(|(other, ratio)| json!({"tokens_per_second": other.json(), "ratio": ratio})),
    })
}

fn text(row: &Row) -> String {
    let (operations, share) = row.utilisation();
    let rates = row.rates();
    let mut line = format!(
        "{:5} {:8.0} tokens/s ({:.0} to {:.0}), {:.0} GFLOP/s, {:.1} % of a peak of {:.0} ({:.1} % within products, which take {:.1} % of the time, the optimizer {:.1} %); {} of numbers, {} of activations\n",
        name(row.precision),
        rates.median,
        rates.min,
        rates.max,
        operations / 1e9,
        100.0 * share,
        Rates::of(&row.peak).median / 1e9,
        100.0 * row.products().1,
        100.0 * row.products().0,
        100.0 * Rates::of(&row.optimizer).median / Rates::of(&row.seconds).median,
        bytes(row.speed.number_bytes),
        bytes(row.speed.network.buffer_bytes() as u64),
    );
    if let Some((other, ratio)) = row.against() {
        line += &format!(
            "      {:8.0} tokens/s ({:.0} to {:.0}) of the other program: {ratio:.2} times\n",
            other.median, other.min, other.max
        );
    }
    line
}
