//! `farthing doctor`: what this machine offers, and what Farthing makes of it.

use std::path::Path;

use clap::Args;
use hub::{Settings, free_bytes};
use kernels::Pool;
use serde_json::{Value, json};

use crate::Outcome;
use crate::loading::cores;
use crate::speed::{self, Machine, rounded};
use crate::terminal::{bytes, put, say};

/// Show what this machine offers and what Farthing makes of it
///
/// Measures memory bandwidth and arithmetic for some seconds, and looks at memory, huge pages, disk and the model cache.
/// What slows models down here is said with what to do about it.
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

fn memory_total() -> Option<u64> {
    field("/proc/meminfo", "MemTotal")?.split_whitespace().next()?.parse::<u64>().ok().map(|kb| kb * 1024)
}

/// The word in brackets: `always [madvise] never`.
fn huge_pages() -> Option<String> {
    let line = first_line("/sys/kernel/mm/transparent_hugepage/enabled")?;
    Some(line.split('[').nth(1)?.split(']').next()?.to_string())
}

pub fn run(a: Arguments) -> Outcome {
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = a.threads.map_or_else(cores, usize::from);
    if !a.json {
        say("measuring for some seconds ...");
    }
    let one = Machine::measure(&Pool::new(1));
    let pool = Pool::new(threads);
    let all = if threads > 1 { Machine::measure(&pool) } else { one };
    let per_gib = speed::decoding_rate(&pool) / f64::from(1u32 << 30);
    drop(pool);
    let load = first_line("/proc/loadavg").and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
    let (total, available) = (memory_total(), model::plan::available());
    let settings = Settings::from_env();
    let cache = settings.as_ref().map(|s| s.cache.clone()).ok();
    let disk = cache.as_deref().and_then(free_bytes);
    let set = kernels::instruction_set();
    let processor = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_string());
    let pages = huge_pages();

    // A 4-bit model: the largest that fits, and the speed at which its active part is read.
    let fits = available.map(|a| a.saturating_sub(a / 10));
    let mut advice: Vec<String> = Vec::new();
    if set == "scalar" {
        advice.push("no vector instructions are used: expect a tenth of the speed (FARTHING_ISA pins a set; AVX2 or AVX-512 is wanted)".to_string());
    }
    if let Some(load) = load.filter(|l| *l > 0.5 + logical as f64 / 4.0) {
        advice.push(format!(
            "other programs are running (load {load:.1}): speeds above and below are lower than they could be"
        ));
    }
    if let (Some(total), Some(available)) = (total, available)
        && available < total / 2
    {
        advice.push(format!(
            "{} of {} of memory is taken by others: closing programs lets larger models fit",
            bytes(total - available),
            bytes(total)
        ));
    }
    if threads > 1 && all.bandwidth < 1.2 * one.bandwidth {
        advice.push(
            "one thread reads memory as fast as all: answers do not get faster with more threads, prompts do"
                .to_string(),
        );
    }
    if disk.is_some_and(|d| d < 10 << 30) {
        advice.push("less than 10 GiB are free where models are kept: HF_HOME names another place".to_string());
    }
    if let Err(e) = &settings {
        advice.push(e.to_string());
    }
    if a.json {
        let machine = |m: Machine| json!({"bandwidth_bytes_per_second": m.bandwidth, "int8_operations_per_second": m.int8, "f32_operations_per_second": m.f32});
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "processor": processor,
            "cores": cores(),
            "logical_processors": logical,
            "threads": threads,
            "instruction_set": set,
            "instruction_sets": kernels::instruction_sets(),
            "one_thread": machine(one),
            "all_threads": machine(all),
            "memory": {"total": total, "available": available},
            "huge_pages": pages,
            "load": load,
            "cache": cache,
            "disk_free": disk,
            "hub": settings.as_ref().map(|s| json!({"endpoint": s.endpoint, "token": s.token.is_some(), "offline": s.offline})).unwrap_or(Value::Null),
            "largest_weights": fits,
            "decode_tokens_per_second_per_gib_read": per_gib,
            "advice": advice,
        });
        return put(&format!("{report}\n"));
    }
    let or_unknown = |x: Option<u64>| x.map_or_else(|| "unknown".to_string(), bytes);
    let speeds = |m: Machine| {
        format!(
            "reads {:.1} GB/s, {:.0} GOP/s in 8 bits, {:.0} GFLOP/s in f32",
            m.bandwidth / 1e9,
            m.int8 / 1e9,
            m.f32 / 1e9
        )
    };
    let mut lines = vec![
        format!("farthing    {}", env!("CARGO_PKG_VERSION")),
        format!("processor   {processor}; {} cores, {logical} logical", cores()),
        format!("uses        {threads} threads, {set} (there are {})", kernels::instruction_sets().join(", ")),
        format!("one thread  {}", speeds(one)),
    ];
    if threads > 1 {
        lines.push(format!("{:<11} {}", format!("{threads} threads"), speeds(all)));
    }
    lines.push(format!("memory      {} available of {}", or_unknown(available), or_unknown(total)));
    lines.push(format!("huge pages  {}", pages.as_deref().unwrap_or("unknown")));
    let place = cache.as_deref().unwrap_or(Path::new("unknown"));
    lines.push(format!("models      {}; {} free on that disk", place.display(), or_unknown(disk)));
    if let Ok(s) = &settings {
        let token = if s.token.is_some() { "with a token" } else { "without a token" };
        lines.push(format!("hub         {} {token}{}", s.endpoint, if s.offline { ", offline" } else { "" }));
    }
    lines.push(String::new());
    lines.push(format!(
        "So models of up to about {} run here. An answer comes at about {} tokens/s for each GiB that a token reads",
        or_unknown(fits),
        rounded(per_gib)
    ));
    lines.push(
        "(`farthing show MODEL` says how much that is: all of a dense model, the active part of a mixture)."
            .to_string(),
    );
    for a in advice {
        lines.push(format!("- {a}"));
    }
    put(&(lines.join("\n") + "\n"))
}
