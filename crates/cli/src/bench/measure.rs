//! Measuring: each repetition runs every row once, with the machine's own limits and other programs beside it.

use std::time::Instant;

use engine::Positions;
use farthing::pace::{Pace, positions_of};
use farthing::{PlannedModel, machine};
use kernels::measure::{f32_peak, int8_peak, read_bandwidth};
use model::cache::PAGE;

use super::Arguments;
use super::report::Report;
use crate::Failure;
use crate::external_bench::{ExternalBench, Rates};
use crate::work::{SHARED, Work, median};

/// Largest memory this process had since it was last forgotten, in bytes.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Forget the largest memory so far: that of the machine's measurement is not the model's. Systems that cannot count it in.
fn forget_peak_memory() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
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
    (context.next_multiple_of(PAGE) + PAGE).max(positions_of(together, SHARED, decode))
}

/// A machine, a model and what came of measuring.
struct Bench<'a> {
    pace: Pace,
    decode: usize,
    bar: &'a indicatif::ProgressBar,
}

impl Bench<'_> {
    fn say(&self, text: String) {
        self.bar.set_message(text);
        self.bar.tick();
    }

    /// One repetition: every row once.
    fn repeat(
        &mut self,
        i: usize,
        name: &str,
        context: usize,
        work: &[Work],
        rates: &mut [Vec<f64>],
    ) -> Result<(), Failure> {
        let deepest = work.iter().map(|w| if let Work::Decode(d) = w { *d } else { 0 }).max().unwrap_or(0);
        // What is measured takes the same pages, one after the other.
        let mut grown = Positions::new(0, context);
        let long = self.pace.tokens(deepest.max(1), 3);
        let mut order: Vec<usize> = (0..work.len()).collect();
        order.sort_by_key(|&w| work[w]); // prompts, one sequence by depth, several
        for w in order {
            self.say(format!("{name}: {}", work[w].name()));
            let rate = match work[w] {
                Work::Prefill(n) => self.pace.prefill(n, i)?,
                Work::Decode(depth) => {
                    // One sequence grows from depth to depth.
                    let (have, want) = (grown.len(), depth.max(1));
                    if have < want {
                        self.pace.runner.read(&mut grown, &long[have..want])?;
                    }
                    self.pace.decode(&mut grown, self.decode, i)?
                }
                Work::Together(n) => self.pace.together(n, SHARED, self.decode, i)?,
            };
            rates[w].push(rate);
        }
        Ok(())
    }
}

/// The model, planned for all that is to be measured, and that.
fn planned(a: &Arguments) -> Result<(PlannedModel, Vec<Work>), Failure> {
    let mut asked = None;
    let planned = a.load.plan(&a.model, |checkpoint, options| {
        let most = checkpoint.structure.context;
        if options.context.is_some_and(|given| given > most) {
            // Planning refuses it.
            return Ok(());
        }
        let (work, needed) = plan_of(a, most);
        let context = options.context.unwrap_or(1).max(needed);
        if context > most {
            return Err(Failure::usage(format!(
                "this needs a context of {context}, the model was made for {most}; give a smaller --depth, --prefill or --decode"
            )));
        }
        (options.context, options.cached) = (Some(context), Some(cached(&work, context, a.decode)));
        asked = Some(work);
        Ok(())
    })?;
    Ok((planned, asked.unwrap_or_default()))
}

/// Measures what was asked for.
pub fn measure(a: &Arguments) -> Result<Report, Failure> {
    let started = Instant::now();
    let (planned, work) = planned(a)?;
    let checkpoint = &planned.checkpoint;
    let (vocab, context) = (checkpoint.structure.vocab, planned.plan.context);
    let in_bytes = machine::in_bytes(checkpoint);
    let sequences = |w: &Work| if let Work::Together(n) = w { *n } else { 1 };
    let mut report = Report {
        step_bytes: work.iter().map(|w| checkpoint.bytes_per_step(sequences(w)) as f64).collect(),
        rates: vec![Vec::new(); work.len()],
        theirs: Vec::new(),
        decode: a.decode,
        threads: planned.threads,
        in_bytes,
        operations: machine::prefill_operations(checkpoint),
        cache_row: checkpoint.structure.cache_layout(planned.cache).bytes_per_token() as f64,
        bytes_per_token: checkpoint.bytes_per_token() as f64,
        file_bytes: planned.plan.weights,
        load_seconds: 0.0,
        first_token_seconds: 0.0,
        peak_memory: 0,
        bandwidth: 0.0,
        peak: 0.0,
        work,
    };
    let runner = planned.runner()?;
    report.load_seconds = started.elapsed().as_secs_f64();
    let mut others: Vec<ExternalBench> = a.against.iter().map(|command| ExternalBench::new(command)).collect();

    let bar = indicatif::ProgressBar::new_spinner();
    let mut bench = Bench { pace: Pace::new(runner, vocab), decode: a.decode, bar: &bar };
    // One pass unmeasured: pages are touched, threads are awake.
    bench.say("warming up".to_string());
    let mut at = Positions::new(0, 2);
    bench.pace.runner.read(&mut at, &[1])?;
    report.first_token_seconds = started.elapsed().as_secs_f64();
    bench.pace.runner.decode(&mut [(&mut at, 1)])?;
    let (mut bandwidths, mut peaks) = (Vec::new(), Vec::new());
    for i in 0..a.repetitions {
        let repetition = format!("repetition {} of {}", i + 1, a.repetitions);
        for other in &mut others {
            bench.say(format!("{repetition}: the other program"));
            other.run()?;
        }
        bench.say(format!("{repetition}: the machine"));
        report.peak_memory = report.peak_memory.max(peak_memory().unwrap_or(0));
        let pool = bench.pace.pool();
        bandwidths.push(read_bandwidth(pool, 512 << 20));
        peaks.push(if in_bytes { int8_peak(pool) } else { f32_peak(pool) });
        forget_peak_memory();
        bench.repeat(i, &repetition, context, &report.work, &mut report.rates)?;
    }
    bar.finish_and_clear();
    report.peak_memory = report.peak_memory.max(peak_memory().unwrap_or(0));
    (report.bandwidth, report.peak) = (median(&bandwidths), median(&peaks));
    let theirs = |w: &Work| -> Vec<f64> { others.iter().flat_map(|r| r.rates(*w)).collect() };
    report.theirs =
        report.work.iter().map(theirs).map(|found| (!found.is_empty()).then(|| Rates::of(&found))).collect();
    Ok(report)
}
