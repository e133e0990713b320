//! `farthing bench`: tokens per second beside what memory and arithmetic allow, measured in the same run.

use std::ops::ControlFlow;
use std::time::Instant;

use clap::Args;
use engine::{Engine, Limits, Sequence};
use kernels::{Pool, measure};
use model::cache::PAGE;
use model::{Checkpoint, Transformer};
use serde_json::json;

use crate::loading::{self, Load};
use crate::terminal::{bytes, put};
use crate::{Failure, Outcome, pulling, speed};

/// Measure a model's speed
///
/// Prefill (tokens of a prompt), decode at an empty context and at depth: medians over repetitions, with the share of the memory
/// bandwidth (decode) and of the arithmetic peak (prefill) that this machine shows in the same run.
///
/// Examples:
///   farthing bench model.gguf
///   farthing bench model.gguf --prefill 2048 --depth 4096 --threads 2 --json
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// Path, org/name or the short name of a pulled model
    model: String,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512, value_name = "TOKENS")]
    prefill: usize,
    /// Tokens decoded
    #[arg(long, default_value_t = 32, value_name = "TOKENS")]
    decode: usize,
    /// Context at which decoding is measured again (0 = not)
    #[arg(long, default_value_t = 1024, value_name = "TOKENS")]
    depth: usize,
    /// Repetitions
    #[arg(long, default_value_t = 3, value_name = "N")]
    repetitions: usize,
    /// A JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    load: Load,
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

/// Token ids that differ from each other, so that a mixture's routing is spread.
fn tokens(n: usize, vocab: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| ((i + seed).wrapping_mul(2_654_435_761) % vocab) as u32).collect()
}

fn go(_: usize, _: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Tokens per second of decoding after what the sequence holds.
fn decode(engine: &mut Engine, sequence: &mut Sequence, n: usize, vocab: usize, seed: usize) -> Result<f64, Failure> {
    let started = Instant::now();
    for token in tokens(n, vocab, seed) {
        engine.decode(&mut [(&mut *sequence, token)])?;
    }
    Ok(n as f64 / started.elapsed().as_secs_f64())
}

/// Largest memory this process had, in bytes.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

pub fn run(a: Arguments) -> Outcome {
    if a.prefill == 0 || a.decode == 0 || a.repetitions == 0 {
        return Err(Failure("--prefill, --decode and --repetitions must be at least 1".to_string()));
    }
    let started = Instant::now();
    let checkpoint = Checkpoint::open(&pulling::find(&a.model, &a.load)?)?;
    let needed = a.prefill.max(a.decode + 1).max(a.depth + a.repetitions * a.decode);
    let context = a.load.context.unwrap_or(needed).max(needed);
    if context > checkpoint.structure.context {
        return Err(Failure(format!(
            "this needs a context of {context}, the model was made for {}; give a smaller --depth or --prefill",
            checkpoint.structure.context
        )));
    }
    let load = Load { context: Some(context), ..a.load };
    let (plan, format) = loading::plan(&checkpoint, &load)?;
    let weights = checkpoint.weights()?;
    let per_token = checkpoint.bytes_per_token() as f64;
    let cache_row = (checkpoint.structure.cache_width() * format.bytes()) as f64;
    let s = checkpoint.structure.clone();
    let in_bytes = speed::in_bytes(&checkpoint);
    let operations = speed::prefill_operations(&checkpoint);
    let threads = load.threads.map_or_else(loading::cores, usize::from);
    let pool = Pool::new(threads);
    let limits = Limits { context: plan.context, cached: plan.context.next_multiple_of(PAGE) };
    let mut engine = Engine::new(Transformer::new(checkpoint.structure, weights), pool, format, limits);
    let load_seconds = started.elapsed().as_secs_f64();

    let bandwidth = measure::read_bandwidth(engine.pool(), 512 << 20);
    let peak = if in_bytes { measure::int8_peak(engine.pool()) } else { measure::f32_peak(engine.pool()) };
    let bar = indicatif::ProgressBar::new_spinner();
    // One pass unmeasured: pages are touched, threads are awake.
    bar.set_message("warming up");
    bar.tick();
    let mut first = None;
    {
        let mut sequence = engine.sequence();
        engine.prefill(&mut sequence, &tokens(1, s.vocab, 1), &mut go)?;
        first.get_or_insert(started.elapsed().as_secs_f64());
        engine.decode(&mut [(&mut sequence, 1)])?;
    }
    let (mut prefills, mut decodes, mut deep) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..a.repetitions {
        bar.set_message(format!("prefill {} of {}", i + 1, a.repetitions));
        bar.tick();
        let mut sequence = engine.sequence();
        let prompt = tokens(a.prefill, s.vocab, 7 * i);
        let began = Instant::now();
        engine.prefill(&mut sequence, &prompt, &mut go)?;
        prefills.push(a.prefill as f64 / began.elapsed().as_secs_f64());
        sequence.rewind(0);
        bar.set_message(format!("decode {} of {}", i + 1, a.repetitions));
        bar.tick();
        engine.prefill(&mut sequence, &[1], &mut go)?;
        decodes.push(decode(&mut engine, &mut sequence, a.decode, s.vocab, i)?);
    }
    if a.depth > 0 {
        bar.set_message(format!("reading {} tokens", a.depth));
        bar.tick();
        let mut sequence = engine.sequence();
        engine.prefill(&mut sequence, &tokens(a.depth, s.vocab, 3), &mut go)?;
        for i in 0..a.repetitions {
            deep.push(decode(&mut engine, &mut sequence, a.decode, s.vocab, i)?);
        }
    }
    bar.finish_and_clear();

    let memory = peak_memory().unwrap_or(0);
    let row = |name: &str, rates: &[f64], share: f64, limit: &str| {
        let (low, high) = rates.iter().fold((f64::MAX, 0f64), |(l, h), &x| (l.min(x), h.max(x)));
        (name.to_string(), low, median(rates.to_vec()), high, share, limit.to_string())
    };
    let decode_share = |rate: f64, depth: f64| rate * (per_token + depth * cache_row) / bandwidth;
    let mut rows = vec![
        row(&format!("prefill {}", a.prefill), &prefills, median(prefills.clone()) * operations / peak, "arithmetic"),
        row(
            &format!("decode {}", a.decode),
            &decodes,
            decode_share(median(decodes.clone()), a.decode as f64 / 2.0),
            "bandwidth",
        ),
    ];
    if a.depth > 0 {
        let share = decode_share(median(deep.clone()), a.depth as f64);
        rows.push(row(&format!("decode {} at depth {}", a.decode, a.depth), &deep, share, "bandwidth"));
    }
    if a.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, low, mid, high, share, limit)| {
                json!({"name": name, "tokens_per_second": {"min": low, "median": mid, "max": high}, "share": share, "of": limit})
            })
            .collect();
        let report = json!({
            "model": a.model,
            "instruction_set": kernels::instruction_set(),
            "threads": threads,
            "repetitions": a.repetitions,
            "load_seconds": load_seconds,
            "first_token_seconds": first,
            "peak_memory_bytes": memory,
            "file_bytes": plan.weights,
            "bandwidth_bytes_per_second": bandwidth,
            "arithmetic_peak": {"kind": if in_bytes { "int8" } else { "f32" }, "operations_per_second": peak},
            "bytes_per_decoded_token": per_token,
            "cache_bytes_per_position": cache_row,
            "operations_per_prefilled_token": operations,
            "rows": rows,
        });
        return put(&format!("{report}\n"));
    }
    let mut out = format!(
        "{}, {threads} threads, {}; loaded in {load_seconds:.2} s, first token after {:.2} s\n\
         measured: memory {:.1} GB/s, {} {:.0} GOP/s; a decoded token reads {}, a prompt's token takes {:.2} GOP\n\n\
         {:<24} {:>8} {:>8} {:>8}   share of measured limit\n",
        a.model,
        kernels::instruction_set(),
        first.unwrap_or(0.0),
        bandwidth / 1e9,
        if in_bytes { "int8" } else { "f32" },
        peak / 1e9,
        bytes(per_token as u64),
        operations / 1e9,
        "tokens/s",
        "min",
        "median",
        "max"
    );
    for (name, low, mid, high, share, limit) in rows {
        out += &format!("{name:<24} {low:>8.2} {mid:>8.2} {high:>8.2}   {:.0} % of {limit}\n", share * 100.0);
    }
    out += &format!("\npeak memory {} (files {})\n", bytes(memory), bytes(plan.weights));
    put(&out)
}
