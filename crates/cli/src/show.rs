//! `farthing show`: what a model is and what it will take, and whether its tensors are what it needs. Reads headers only.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Args;
use kernels::Pool;
use model::Checkpoint;
use model::checkpoint::TokenizerSource;
use model::plan::MemoryPlan;
use model::structure::Layer;
use model::tensors::Stored;
use serde_json::json;

use crate::loading::{self, Load};
use crate::speed;
use crate::terminal::{STOPPED, bytes, catch_interrupts, count, interrupt_pending, put, several};
use crate::{Failure, Outcome, pulling};

/// Show what a model is, what it takes and what it will do here; no weight is read
///
/// Structure, parameters, bytes, cache per token, memory plan, the longest context that fits, and the speed to expect here,
/// from products with the model's formats of weights, measured in about a second. Works on files that do not fit in memory, and on names at the hub
/// before anything but headers is fetched. A model that will not load, because a tensor is missing, of no use or of an unsupported format, is shown
/// all the same, with what is wrong; the exit code is then 1.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
#[command(after_long_help = "\
Examples:
  farthing show org/name                     before it is fetched
  farthing show models/seed-5.7m --tensors
  farthing show model.gguf --context 32768 --json
  farthing show model.gguf --check           reads every weight and names tensors that hold NaN or infinity")]
pub struct Arguments {
    /// Path, org/name or the short name of a pulled model
    model: String,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Read every weight and name tensors that hold what is no number; exit code 1 if there are any
    #[arg(long)]
    check: bool,
    /// Do not measure this machine: no speed is told
    #[arg(long)]
    no_speed: bool,
    /// A JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    load: Load,
}

/// Tensors with numbers that are none, each with the first of them. Reads everything.
fn damaged(checkpoint: &Checkpoint, json: bool) -> Result<Vec<(String, (usize, usize, f32))>, Failure> {
    catch_interrupts();
    let tensors = &checkpoint.tensors;
    let total: usize = tensors.by_name.values().map(|t| t.bytes).sum();
    let style =
        indicatif::ProgressStyle::with_template("checking {bar:30} {binary_bytes}/{binary_total_bytes}, {eta} left");
    let bar = indicatif::ProgressBar::new(total as u64).with_style(style.expect("a sound template"));
    let names: Vec<&String> = tensors.by_name.keys().collect();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..loading::cores() {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if interrupt_pending() {
                        return;
                    }
                    if let Some(at) = tensors.not_finite(name) {
                        found.lock().unwrap_or_else(|e| e.into_inner()).push((name.to_string(), at));
                    }
                    bar.inc(tensors.by_name[*name].bytes as u64);
                }
            });
        }
    });
    bar.finish_and_clear();
    if interrupt_pending() {
        return Err(Failure(format!("{STOPPED}the check was stopped")));
    }
    let mut found = found.into_inner().unwrap_or_else(|e| e.into_inner());
    found.sort_by(|a, b| a.0.cmp(&b.0));
    if !json {
        for (name, (row, col, value)) in &found {
            put(&format!("damaged     tensor {name} holds {value} in row {row}, column {col}\n"))?;
        }
    }
    Ok(found)
}

/// Runs of equal layers.
fn layers(layers: &[Layer]) -> Vec<String> {
    let mut first = 0;
    let mut lines = Vec::new();
    for run in layers.chunk_by(|a, b| a == b) {
        let last = first + run.len() - 1;
        let which = if first == last { format!("layer {first}") } else { format!("layers {first}-{last}") };
        lines.push(format!("{which}: {}; {}", run[0].attention.describe(), run[0].feed_forward.describe()));
        first = last + 1;
    }
    lines
}

pub fn run(a: Arguments) -> Outcome {
    let (path, remote) = pulling::find_headers(&a.model)?;
    let checkpoint = Checkpoint::open(&path)?;
    if a.check && remote.is_some() {
        return Err(Failure(format!("--check reads every weight: `farthing pull {}` first", a.model)));
    }
    let pool = Pool::new(a.load.threads.map_or_else(loading::cores, usize::from));
    let expected = if a.no_speed { None } else { speed::expected(&checkpoint, &pool) };
    drop(pool);
    let s = &checkpoint.structure;
    let format = loading::cache_format(&checkpoint, &a.load)?;
    let plan = MemoryPlan::new(&checkpoint, loading::context(&checkpoint, &a.load)?, format);
    let parameters = s.parameters();
    let cache = [
        s.cache_layout(format).bytes_per_token(),
        format.bytes_of(s.cache_width_grouped()),
        format.bytes_of(s.cache_width_multi_head()),
    ];
    let cache = cache.map(|n| n as u64);
    let by_format = checkpoint.bytes_by_format();
    let complete = checkpoint.complete();
    let name = |stored: &Stored| match stored {
        Stored::As(format) => format.name().to_string(),
        Stored::Unknown(name) => name.clone(),
    };
    if a.json {
        let tensors: Vec<_> = checkpoint
            .tensors
            .by_name
            .iter()
            .map(|(n, t)| json!({"name": n, "format": name(&t.stored), "shape": t.shape, "bytes": t.bytes}))
            .collect();
        let formats: serde_json::Map<_, _> = by_format
            .iter()
            .map(|(n, (tensors, bytes))| (n.clone(), json!({"tensors": tensors, "bytes": bytes})))
            .collect();
        let mut report = json!({
            "architecture": s.architecture,
            "files": checkpoint.tensors.files.len(),
            "file_bytes": checkpoint.file_bytes(),
            "vocab": s.vocab,
            "hidden": s.hidden,
            "layers": s.layers.len(),
            "skipped_layers": checkpoint.skipped_layers,
            "layer_kinds": layers(&s.layers),
            "context": s.context,
            "tied": s.tied,
            "parameters": {"total": parameters.total, "active": parameters.active},
            "bytes_by_format": formats,
            "bytes_per_token": checkpoint.bytes_per_token(),
            "cache_bytes_per_token": {"this": cache[0], "grouped_8": cache[1], "multi_head": cache[2]},
            "plan": {
                "context": plan.context,
                "weights": plan.weights,
                "cache": plan.cache,
                "buffers": plan.scratch,
                "total": plan.total(),
                "available": plan.available,
                "fits": plan.fits(),
                "longest_context": plan.longest_context,
            },
        });
        if a.tensors {
            report["tensors"] = tensors.into();
        }
        if let Some(remote) = &remote {
            report["to_fetch"] = json!({"bytes": remote.selection.bytes, "files": remote.selection.files.len()});
        }
        if let Some(e) = expected {
            report["expected_tokens_per_second"] = json!({"decode": e.decode, "prefill": e.prefill});
        }
        let mut found = Vec::new();
        if a.check {
            found = damaged(&checkpoint, true)?;
            let row = |(name, (row, col, value)): &(String, (usize, usize, f32))| json!({"tensor": name, "row": row, "column": col, "value": value.to_string()});
            report["damaged"] = found.iter().map(row).collect();
        }
        if let Err(e) = &complete {
            report["will_not_load"] = json!(e.to_string());
        }
        put(&format!("{report}\n"))?;
        complete?;
        return checked(&a.model, found.len());
    }
    let mut lines = vec![
        format!(
            "{}: {} in {}, {}",
            a.model,
            s.architecture,
            several(checkpoint.tensors.files.len(), "file"),
            bytes(checkpoint.file_bytes())
        ),
        format!(
            "structure   {}, hidden {}, vocabulary {}, context {}{}",
            several(s.layers.len(), "layer"),
            s.hidden,
            s.vocab,
            s.context,
            if s.tied { ", output tied to the embedding" } else { "" }
        ),
    ];
    lines.extend(layers(&s.layers).into_iter().map(|l| format!("            {l}")));
    if checkpoint.skipped_layers > 0 {
        lines.push(format!(
            "            {} of multi-token prediction there and not used",
            several(checkpoint.skipped_layers, "layer")
        ));
    }
    lines.push(format!(
        "parameters  {} in all, {} used by a token ({} read)",
        count(parameters.total),
        count(parameters.active),
        bytes(checkpoint.bytes_per_token())
    ));
    for (i, (name, (tensors, size))) in by_format.iter().enumerate() {
        lines.push(format!(
            "{}{name:<8} {:>10} in {}",
            if i == 0 { "formats     " } else { "            " },
            bytes(*size),
            several(*tensors, "tensor")
        ));
    }
    lines.push(format!(
        "cache       {} a token; with GQA of 8 heads a key {}, with MHA {}",
        bytes(cache[0]),
        bytes(cache[1]),
        bytes(cache[2])
    ));
    let available = plan.available.map_or_else(|| "unknown".to_string(), bytes);
    lines.push(format!(
        "plan        {} weights (mapped) + {} cache ({} tokens) + {} buffers = {}; {available} available",
        bytes(plan.weights),
        bytes(plan.cache),
        plan.context,
        bytes(plan.scratch),
        bytes(plan.total())
    ));
    lines.push(match (plan.fits(), plan.longest_context) {
        (true, longest) => format!("            fits; the longest context that fits is {longest}"),
        (false, 0) => format!("            does not fit: {}", loading::would_fit(&checkpoint, &plan)),
        (false, longest) => format!("            does not fit; the longest context that fits is {longest}"),
    });
    if matches!(checkpoint.tokenizer, TokenizerSource::None) {
        lines.push("tokenizer   none: it cannot read or write text until it has its own (tokenizer.json)".to_string());
    }
    if let Some(e) = expected {
        lines.push(format!(
            "speed       about {} tokens/s of an answer, {} of a prompt, by what this machine showed just now",
            speed::rounded(e.decode),
            speed::rounded(e.prefill)
        ));
    }
    if let Some(remote) = &remote {
        lines.push(format!(
            "to fetch    {} in {}; `farthing pull {}` or any command that runs it",
            bytes(remote.selection.bytes),
            several(remote.selection.files.len(), "file"),
            remote.name
        ));
    }
    if a.tensors {
        for (n, t) in &checkpoint.tensors.by_name {
            lines.push(format!("{n}  {} {:?} {}", name(&t.stored), t.shape, bytes(t.bytes as u64)));
        }
    }
    put(&(lines.join("\n") + "\n"))?;
    if a.check {
        let found = damaged(&checkpoint, false)?;
        checked(&a.model, found.len())?;
        put("checked     every weight is a number\n")?;
    }
    Ok(complete?)
}

fn checked(model: &str, damaged: usize) -> Outcome {
    match damaged {
        0 => Ok(()),
        n => Err(Failure(format!("{model}: {} with what is no number: fetch the model again", several(n, "tensor")))),
    }
}
