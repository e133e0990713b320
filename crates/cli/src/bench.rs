//! `farthing bench`: tokens per second beside what memory and arithmetic allow, measured in the same run.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use engine::{Limits, Positions, Runner};
use kernels::{Pool, measure};
use model::cache::PAGE;
use model::{Checkpoint, Transformer};
use serde_json::json;

use crate::loading::{self, Load};
use crate::plot::plot;
use crate::rival::{Rates, Rival};
use crate::terminal::{bytes, put, whole};
use crate::{Failure, Outcome, pulling, speed};

/// Measure a model's speed
///
/// Reading prompts (prefill), decoding at an empty context and at depth, and decoding several sequences at once: medians over
/// repetitions, with the share of the memory bandwidth or of the arithmetic peak that this machine shows in the same run, whichever is
/// nearer. With --against another program's benchmark runs between our repetitions, and its figures stand beside ours.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
#[command(after_long_help = "\
Examples:
  farthing bench model.gguf
  farthing bench model.gguf --prefill 512,2048 --depth 0,4096 --sequences 4,32 --json
  farthing bench model.gguf --suite --plot speed.svg
  farthing bench model.gguf --against 'llama-bench -m model.gguf -t 2 -p 512 -n 32 -r 1 -o json'
  farthing bench model.gguf --sequences 32 --against 'llama-batched-bench -m model.gguf -c 4096 -npp 512 -ntg 16 -npl 32 -pps'

--against takes JSON of llama-bench, and JSON lines or the table of llama-batched-bench; it may be given several times. Rows are
matched by what they measure. Several sequences share a prompt of 512 tokens; what is timed is their decoding, all tokens counted.")]
pub struct Arguments {
    /// Path, org/name or the short name of a pulled model
    model: String,
    /// Prompts of so many tokens
    #[arg(long, value_delimiter = ',', value_name = "TOKENS", default_value = "512", value_parser = whole::<usize>)]
    prefill: Vec<usize>,
    /// Decode after so many tokens
    #[arg(long, value_delimiter = ',', value_name = "TOKENS", default_value = "0,1024", value_parser = whole::<usize>)]
    depth: Vec<usize>,
    /// Decode so many sequences at once
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
    /// Another benchmark, run once before each of our repetitions
    #[arg(long, value_name = "COMMAND")]
    against: Vec<String>,
    /// Write a plot (SVG): tokens/s over depth, and over sequences
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// A JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    load: Load,
}

/// What a row of figures measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Work {
    /// Reading a prompt of so many tokens.
    Prefill(usize),
    /// Decoding one sequence after so many tokens.
    Decode(usize),
    /// Decoding so many sequences at once.
    Together(usize),
}

impl Work {
    /// In words.
    pub fn name(self) -> String {
        match self {
            Work::Prefill(n) => format!("prefill {n}"),
            Work::Decode(0) => "decode".to_string(),
            Work::Decode(depth) => format!("decode at depth {depth}"),
            Work::Together(1) => "1 sequence".to_string(),
            Work::Together(n) => format!("{n} sequences at once"),
        }
    }
}

/// Tokens of the prompt that sequences decoded at once share.
const SHARED: usize = 512;

/// Median.
pub fn median(x: &[f64]) -> f64 {
    let mut x = x.to_vec();
    x.sort_by(f64::total_cmp);
    if x.is_empty() { f64::NAN } else { x[x.len() / 2] }
}

/// Token ids that differ from each other, so that a mixture's routing is spread.
fn tokens(n: usize, vocab: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| ((i + seed).wrapping_mul(2_654_435_761) % vocab) as u32).collect()
}

/// Largest memory this process had, in bytes.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// What is measured, in order, and the context it needs.
fn plan_of(a: &Arguments, most: usize) -> (Vec<Work>, usize) {
    let (prefill, depth, sequences) = if a.suite {
        (vec![512, 2048], vec![0, 4096, 16384], vec![1, 2, 4, 8, 16, 32])
    } else {
        (a.prefill.clone(), a.depth.clone(), a.sequences.clone())
    };
    let mut work: Vec<Work> = prefill.into_iter().map(Work::Prefill).collect();
    work.extend(depth.into_iter().map(Work::Decode));
    work.extend(sequences.into_iter().map(Work::Together));
    let needed = |w: &Work| match *w {
        Work::Prefill(n) => n,
        Work::Decode(depth) => depth.max(1) + a.decode * a.repetitions,
        Work::Together(_) => SHARED + a.decode,
    };
    if a.suite {
        work.retain(|w| needed(w) <= most);
    }
    let context = work.iter().map(needed).max().unwrap_or(1);
    (work, context)
}

/// Positions of the cache that all of this needs.
fn cached(work: &[Work], context: usize, decode: usize) -> usize {
    let together = work.iter().map(|w| if let Work::Together(n) = w { *n } else { 0 }).max().unwrap_or(0);
    let each = (SHARED + decode).next_multiple_of(PAGE);
    context.next_multiple_of(PAGE).max((together + 1) * each) + PAGE
}

/// A machine, a model and what came of measuring.
struct Bench<'a> {
    runner: Runner,
    vocab: usize,
    decode: usize,
    bar: &'a indicatif::ProgressBar,
}

impl Bench<'_> {
    fn say(&self, text: String) {
        self.bar.set_message(text);
        self.bar.tick();
    }

    fn prefill(&mut self, n: usize, seed: usize) -> Result<f64, Failure> {
        let prompt = tokens(n, self.vocab, 7 * seed);
        let began = Instant::now();
        self.runner.read(&mut Positions::new(0, n), &prompt)?;
        Ok(n as f64 / began.elapsed().as_secs_f64())
    }

    /// Tokens per second of decoding after the positions that are there, which are forgotten again.
    fn decode(&mut self, at: &mut Positions, seed: usize) -> Result<f64, Failure> {
        let before = at.len();
        let began = Instant::now();
        for token in tokens(self.decode, self.vocab, seed) {
            self.runner.decode(&mut [(&mut *at, token)])?;
        }
        let rate = self.decode as f64 / began.elapsed().as_secs_f64();
        at.rewind(before);
        Ok(rate)
    }

    /// Tokens per second of so many sequences together, after a prompt that they share.
    fn together(&mut self, n: usize, seed: usize) -> Result<f64, Failure> {
        let each = (SHARED + self.decode).next_multiple_of(PAGE);
        let place = |i: usize| Positions::new(i * each / PAGE, each);
        let mut shared = place(0);
        self.runner.read(&mut shared, &tokens(SHARED, self.vocab, 5))?;
        let mut copies: Vec<Positions> = (1..=n).map(place).collect();
        copies.iter_mut().for_each(|copy| self.runner.copy(&shared, copy));
        let all = tokens(n * self.decode, self.vocab, seed);
        let began = Instant::now();
        for step in all.chunks(n) {
            self.runner.decode(&mut copies.iter_mut().zip(step.iter().copied()).collect::<Vec<_>>())?;
        }
        Ok((n * self.decode) as f64 / began.elapsed().as_secs_f64())
    }
}

pub fn run(a: Arguments) -> Outcome {
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
        opened.map_err(|e| Failure(format!("{}: {e}; give another --plot", file.display())))?;
    }
    let started = Instant::now();
    let checkpoint = Checkpoint::open(&pulling::find(&a.model, &a.load)?)?;
    let most = checkpoint.structure.context;
    let (work, needed) = plan_of(&a, most);
    let context =
        loading::context(&checkpoint, &Load { context: a.load.context.or(Some(1)), ..a.load.clone() })?.max(needed);
    if context > most {
        return Err(Failure::usage(format!(
            "this needs a context of {context}, the model was made for {most}; give a smaller --depth, --prefill or --decode"
        )));
    }
    let load = Load { context: Some(context), ..a.load.clone() };
    let (plan, format) = loading::plan(&checkpoint, &load)?;
    let cached = cached(&work, context, a.decode);
    let weights = checkpoint.weights()?;
    loading::bring_in(&weights);
    let s = checkpoint.structure.clone();
    let cache_row = s.cache_layout(format).bytes_per_token() as f64;
    let in_bytes = speed::in_bytes(&checkpoint);
    let operations = speed::prefill_operations(&checkpoint);
    let step_bytes: Vec<f64> =
        work.iter().map(|w| checkpoint.bytes_per_step(if let Work::Together(n) = w { *n } else { 1 }) as f64).collect();
    let per_token = checkpoint.bytes_per_token() as f64;
    let threads = load.threads.map_or_else(loading::cores, usize::from);
    let pool = Pool::new(threads);
    let runner = Runner::new(Transformer::new(checkpoint.structure, weights), pool, format, Limits { context, cached });
    let load_seconds = started.elapsed().as_secs_f64();
    let mut rivals: Vec<Rival> = a.against.iter().map(|command| Rival::new(command)).collect();

    let bar = indicatif::ProgressBar::new_spinner();
    let mut bench = Bench { runner, vocab: s.vocab, decode: a.decode, bar: &bar };
    // One pass unmeasured: pages are touched, threads are awake.
    bench.say("warming up".to_string());
    let mut at = Positions::new(0, 2);
    bench.runner.read(&mut at, &[1])?;
    let first_token = started.elapsed().as_secs_f64();
    bench.runner.decode(&mut [(&mut at, 1)])?;
    let mut rates = vec![Vec::new(); work.len()];
    let (mut bandwidths, mut peaks) = (Vec::new(), Vec::new());
    for i in 0..a.repetitions {
        for rival in &mut rivals {
            bench.say(format!("repetition {} of {}: the other program", i + 1, a.repetitions));
            rival.run()?;
        }
        bench.say(format!("repetition {} of {}: the machine", i + 1, a.repetitions));
        bandwidths.push(measure::read_bandwidth(bench.runner.pool(), 512 << 20));
        let pool = bench.runner.pool();
        peaks.push(if in_bytes { measure::int8_peak(pool) } else { measure::f32_peak(pool) });
        let deepest = work.iter().map(|w| if let Work::Decode(d) = w { *d } else { 0 }).max().unwrap_or(0);
        // What is measured takes the same pages, one after the other.
        let mut grown = Positions::new(0, context);
        let long = tokens(deepest.max(1), s.vocab, 3);
        let mut order: Vec<usize> = (0..work.len()).collect();
        order.sort_by_key(|&w| work[w]); // prompts, one sequence by depth, several
        for w in order {
            bench.say(format!("repetition {} of {}: {}", i + 1, a.repetitions, work[w].name()));
            let rate = match work[w] {
                Work::Prefill(n) => bench.prefill(n, i)?,
                Work::Decode(depth) => {
                    // One sequence grows from depth to depth.
                    let (have, want) = (grown.len(), depth.max(1));
                    if have < want {
                        bench.runner.read(&mut grown, &long[have..want])?;
                    }
                    bench.decode(&mut grown, i)?
                }
                Work::Together(n) => bench.together(n, i)?,
            };
            rates[w].push(rate);
        }
    }
    bar.finish_and_clear();

    let memory = peak_memory().unwrap_or(0);
    let (bandwidth, peak) = (median(&bandwidths), median(&peaks));
    // The larger share: what is nearer to its limit.
    let share = |w: usize| {
        let rate = median(&rates[w]);
        let (steps, rows, depth) = match work[w] {
            Work::Prefill(_) => return (rate * operations / peak, "arithmetic"),
            Work::Decode(depth) => (rate, 1.0, (depth + a.decode / 2) as f64),
            Work::Together(n) => (rate / n as f64, n as f64, (SHARED + a.decode / 2) as f64),
        };
        let read = steps * (step_bytes[w] + rows * depth * cache_row) / bandwidth;
        let computed = rate * operations / peak;
        if read >= computed { (read, "bandwidth") } else { (computed, "arithmetic") }
    };
    let theirs = |w: usize| {
        let found: Vec<f64> = rivals.iter().flat_map(|r| r.rates(work[w])).collect();
        (!found.is_empty()).then(|| Rates::of(&found))
    };
    if let Some(file) = &a.plot {
        let ours: Vec<(Work, f64)> = work.iter().zip(&rates).map(|(w, r)| (*w, median(r))).collect();
        let others: Vec<(Work, f64)> = (0..work.len()).filter_map(|w| Some((work[w], theirs(w)?.median))).collect();
        let title = format!("{}, {threads} threads, {}", a.model, kernels::instruction_set());
        plot(file, &title, &ours, &others)?;
        crate::terminal::note(&format!("wrote {}", file.display()));
    }
    if a.json {
        let rows: Vec<_> = (0..work.len())
            .map(|w| {
                let ours = Rates::of(&rates[w]);
                let (share, of) = share(w);
                let mut row =
                    json!({"name": work[w].name(), "tokens_per_second": ours.json(), "share": share, "of": of});
                if let Some(theirs) = theirs(w) {
                    row["against"] = theirs.json();
                    row["ratio"] = (ours.median / theirs.median).into();
                }
                row
            })
            .collect();
        let report = json!({
            "model": a.model,
            "instruction_set": kernels::instruction_set(),
            "threads": threads,
            "repetitions": a.repetitions,
            "load_seconds": load_seconds,
            "first_token_seconds": first_token,
            "peak_memory_bytes": memory,
            "file_bytes": plan.weights,
            "bandwidth_bytes_per_second": bandwidth,
            "arithmetic_peak": {"kind": if in_bytes { "int8" } else { "f32" }, "operations_per_second": peak},
            "bytes_per_decoded_token": per_token,
            "cache_bytes_per_position": cache_row,
            "operations_per_prefilled_token": operations,
            "against": a.against,
            "rows": rows,
        });
        return put(&format!("{report}\n"));
    }
    let beside = if rivals.is_empty() { "" } else { "   other: min   median      max    ratio" };
    let mut out = format!(
        "{}, {threads} threads, {}; loaded in {load_seconds:.2} s, first token after {first_token:.2} s\n\
         measured: memory {:.1} GB/s, {} {:.0} GOP/s; a decoded token reads {}, a prompt's token takes {:.2} GOP\n\n\
         {:<24} {:>8} {:>8} {:>8}   share of measured limit{beside}\n",
        a.model,
        kernels::instruction_set(),
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
    for w in 0..work.len() {
        let ours = Rates::of(&rates[w]);
        let (share, of) = share(w);
        let mut line = format!(
            "{:<24} {:>8.2} {:>8.2} {:>8.2}   {:<23}",
            work[w].name(),
            ours.min,
            ours.median,
            ours.max,
            format!("{:.0} % of {of}", share * 100.0)
        );
        if let Some(t) = theirs(w) {
            line += &format!("   {:>10.2} {:>8.2} {:>8.2} {:>8.2}", t.min, t.median, t.max, ours.median / t.median);
        }
        out += line.trim_end();
        out.push('\n');
    }
    out += &format!("\npeak memory {} (files {})\n", bytes(memory), bytes(plan.weights));
    put(&out)
}
