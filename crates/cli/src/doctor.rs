//! `farthing doctor`: what this machine offers, and what Farthing makes of it.

use std::path::Path;

use clap::Args;
use farthing::machine::{self, Machine, cores};
use hub::{HubError, Settings, free_bytes};
use kernels::Pool;
use serde_json::{Value, json};

use crate::Outcome;
use crate::terminal::{bytes, put, rounded, say};

/// Show what this machine offers and what Farthing makes of it
///
/// Measures memory bandwidth and arithmetic for a few seconds, and looks at memory, huge pages, disk and the model cache.
/// Names what slows models down here and how to fix it.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct Arguments {
    /// A JSON object
    #[arg(long)]
    pub json: bool,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = crate::terminal::threads)]
    threads: Option<u16>,
}

fn first_line(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.lines().next()?.trim().to_string())
}

/// A field of a `/proc` table such as `MemTotal:  16 kB`.
fn field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|l| l.split(':').next().is_some_and(|f| f.trim() == name))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// The processor's name.
pub fn processor() -> String {
    field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_string())
}

/// Bytes of memory of this machine, free or not.
pub fn memory_total() -> Option<u64> {
    field("/proc/meminfo", "MemTotal")?.split_whitespace().next()?.parse::<u64>().ok().map(|kb| kb * 1024)
}

/// The word in brackets: `always [madvise] never`.
fn huge_pages() -> Option<String> {
    let line = first_line("/sys/kernel/mm/transparent_hugepage/enabled")?;
    Some(line.split('[').nth(1)?.split(']').next()?.to_string())
}

/// What this machine offers.
struct Machines {
    processor: String,
    logical: usize,
    threads: usize,
    one: Machine,
    all: Machine,
    /// Tokens per second of an answer for each GiB that a token reads.
    per_gib: f64,
    load: Option<f64>,
    total: Option<u64>,
    available: Option<u64>,
    pages: Option<String>,
    settings: Result<Settings, HubError>,
    disk: Option<u64>,
}

impl Machines {
    fn measure(threads: usize) -> Machines {
        let one = Machine::measure(&Pool::new(1));
        let pool = Pool::new(threads);
        let all = if threads > 1 { Machine::measure(&pool) } else { one };
        let settings = Settings::from_env();
        Machines {
            processor: processor(),
            logical: std::thread::available_parallelism().map_or(1, usize::from),
            threads,
            one,
            all,
            per_gib: machine::decoding_rate(&pool) / f64::from(1u32 << 30),
            load: first_line("/proc/loadavg").and_then(|l| l.split_whitespace().next()?.parse().ok()),
            total: memory_total(),
            available: model::plan::available(),
            pages: huge_pages(),
            disk: settings.as_ref().ok().and_then(|s| free_bytes(&s.cache)),
            settings,
        }
    }

    /// Bytes of the largest weights that fit.
    fn fits(&self) -> Option<u64> {
        self.available.map(|a| a.saturating_sub(a / 10))
    }

    /// What slows models down here, and what to do about it.
    fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        if kernels::instruction_set() == "scalar" {
            advice.push("no vector instructions are used: expect a tenth of the speed (FARTHING_ISA pins a set; AVX2 or AVX-512 is wanted)".to_string());
        }
        if let Some(load) = self.load.filter(|l| *l > 0.5 + self.logical as f64 / 4.0) {
            advice.push(format!(
                "other programs are running (load {load:.1}): speeds above and below are lower than they could be"
            ));
        }
        if let (Some(total), Some(available)) = (self.total, self.available)
            && available < total / 2
        {
            advice.push(format!(
                "{} of {} of memory is taken by others: closing programs lets larger models fit",
                bytes(total - available),
                bytes(total)
            ));
        }
        if self.threads > 1 && self.all.bandwidth < 1.2 * self.one.bandwidth {
            advice.push(
                "one thread reads memory as fast as all: answers do not get faster with more threads, prompts do"
                    .to_string(),
            );
        }
        if self.disk.is_some_and(|d| d < 10 << 30) {
            advice.push("less than 10 GiB are free where models are kept: HF_HOME names another place".to_string());
        }
        advice.extend(self.settings.as_ref().err().map(ToString::to_string));
        advice
    }

    fn json(&self) -> Value {
        let machine = |m: Machine| json!({"bandwidth_bytes_per_second": m.bandwidth, "int8_operations_per_second": m.int8, "f32_operations_per_second": m.f32});
        let hub = |s: &Settings| json!({"endpoint": s.endpoint, "token": s.token.is_some(), "offline": s.offline});
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "processor": self.processor,
            "cores": cores(),
            "logical_processors": self.logical,
            "threads": self.threads,
            "instruction_set": kernels::instruction_set(),
            "instruction_sets": kernels::instruction_sets(),
            "one_thread": machine(self.one),
            "all_threads": machine(self.all),
            "memory": {"total": self.total, "available": self.available},
            "huge_pages": self.pages,
            "load": self.load,
            "cache": self.settings.as_ref().map(|s| &s.cache).ok(),
            "disk_free": self.disk,
            "hub": self.settings.as_ref().map_or(Value::Null, hub),
            "largest_weights": self.fits(),
            "decode_tokens_per_second_per_gib_read": self.per_gib,
            "advice": self.advice(),
        })
    }

    fn lines(&self) -> Vec<String> {
        let or_unknown = |x: Option<u64>| x.map_or_else(|| "unknown".to_string(), bytes);
        let (set, sets, threads) = (kernels::instruction_set(), kernels::instruction_sets().join(", "), self.threads);
        let speeds = |m: Machine| {
            let (bandwidth, int8, f32) = (m.bandwidth / 1e9, m.int8 / 1e9, m.f32 / 1e9);
            format!("reads {bandwidth:.1} GB/s, {int8:.0} GOP/s in 8 bits, {f32:.0} GFLOP/s in f32")
        };
        let mut lines = vec![
            format!("farthing    {}", env!("CARGO_PKG_VERSION")),
            format!("processor   {}; {} cores, {} logical", self.processor, cores(), self.logical),
            format!("uses        {threads} threads, {set} (there are {sets})"),
            format!("one thread  {}", speeds(self.one)),
        ];
        if threads > 1 {
            lines.push(format!("{:<11} {}", format!("{threads} threads"), speeds(self.all)));
        }
        lines.push(format!("memory      {} available of {}", or_unknown(self.available), or_unknown(self.total)));
        lines.push(format!("huge pages  {}", self.pages.as_deref().unwrap_or("unknown")));
        let place = self.settings.as_ref().map_or(Path::new("unknown"), |s| &s.cache);
        lines.push(format!("models      {}; {} free on that disk", place.display(), or_unknown(self.disk)));
        if let Ok(s) = &self.settings {
            let token = if s.token.is_some() { "with a token" } else { "without a token" };
            lines.push(format!("hub         {} {token}{}", s.endpoint, if s.offline { ", offline" } else { "" }));
        }
        // A 4-bit model: the largest that fits, and the speed at which its active part is read.
        lines.extend([
            String::new(),
            format!(
                "So models of up to about {} run here. Expect about {} / N tokens/s of an answer, where N is the GiB of weights that a token reads",
                or_unknown(self.fits()),
                rounded(self.per_gib)
            ),
            "(`farthing show MODEL` says how much that is: all of a dense model, the active part of a mixture)."
                .to_string(),
        ]);
        lines.extend(self.advice().iter().map(|a| format!("- {a}")));
        lines
    }
}

pub fn run(a: Arguments) -> Outcome {
    if !a.json {
        say("measuring for a few seconds ...");
    }
    let machines = Machines::measure(a.threads.map_or_else(cores, usize::from));
    put(&if a.json { format!("{}\n", machines.json()) } else { machines.lines().join("\n") + "\n" })
}
