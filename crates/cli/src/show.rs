//! `farthing show`: what a model is and what it will take, and whether its tensors are what it needs. Reads headers only.

use clap::Args;
use farthing::inspect::{Damage, ModelReport, damaged, inspect};
use farthing::machine::expected;
use farthing::names::Remote;
use farthing::{PlannedModel, words};
use kernels::Pool;
use model::Checkpoint;
use serde_json::{Value, json};

use crate::arguments::{LoadArguments, ModelArgument};
use crate::terminal::{bytes, catch_interrupts, count, interrupt_pending, put, several};
use crate::{Failure, Outcome, fetch};

/// Show a model's structure, memory plan and expected speed, without reading its weights
///
/// Structure, parameters, bytes, KV cache per token, memory plan, the longest context that fits, and the speed to expect here,
/// estimated from matrix products in the model's formats that are measured for about a second. Works on files that do not fit in memory, and on names
/// at the hub: only their headers are downloaded. A model that will not load, because a tensor is missing, unusable or in an unsupported format, is shown
/// all the same, with what is wrong; the exit code is then 1.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
#[command(after_long_help = "\
Examples:
  farthing show org/name                     before it is downloaded
  farthing show models/seed-5.7m --tensors
  farthing show model.gguf --context 32768 --json
  farthing show model.gguf --check           reads every weight, and names tensors with NaN or infinity")]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgument,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Read every weight and name tensors that hold NaN or infinity; exit code 1 if there are any
    #[arg(long)]
    check: bool,
    /// Do not measure this machine, and estimate no speed
    #[arg(long)]
    no_speed: bool,
    /// A JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    load: LoadArguments,
}

/// Tensors with values that are no numbers, with a bar.
fn checked(checkpoint: &Checkpoint) -> Result<Vec<Damage>, Failure> {
    catch_interrupts();
    let total: usize = checkpoint.tensors.by_name.values().map(|t| t.bytes).sum();
    let style =
        indicatif::ProgressStyle::with_template("checking {bar:30} {binary_bytes}/{binary_total_bytes}, {eta} left");
    let bar = indicatif::ProgressBar::new(total as u64).with_style(style.expect("a sound template"));
    let found = damaged(checkpoint, &|bytes| {
        bar.inc(bytes);
        !interrupt_pending()
    });
    bar.finish_and_clear();
    found.ok_or_else(|| Failure::stopped("the check was stopped"))
}

fn json(report: &ModelReport, remote: Option<&Remote>, damage: Option<&[Damage]>) -> Result<Value, Failure> {
    let mut json = serde_json::to_value(report)?;
    if let Some(remote) = remote {
        json["to_fetch"] = json!({"bytes": remote.selection.bytes, "files": remote.selection.files.len()});
    }
    if let Some(damage) = damage {
        let row =
            |d: &Damage| json!({"tensor": d.tensor, "row": d.row, "column": d.column, "value": d.value.to_string()});
        json["damaged"] = damage.iter().map(row).collect();
    }
    Ok(json)
}

fn lines(model: &str, r: &ModelReport, remote: Option<&Remote>) -> Vec<String> {
    let mut lines = vec![
        format!("{model}: {} in {}, {}", r.architecture, several(r.files, "file"), bytes(r.file_bytes)),
        format!(
            "structure   {}, hidden {}, vocabulary {}, context {}{}",
            several(r.layers, "layer"),
            r.hidden,
            r.vocab,
            r.context,
            if r.tied { ", output tied to the embedding" } else { "" }
        ),
    ];
    if r.purpose != "text" {
        lines.insert(1, format!("purpose     {}", r.purpose));
    }
    lines.extend(r.layer_kinds.iter().map(|l| format!("            {l}")));
    if r.skipped_layers > 0 {
        let layers = several(r.skipped_layers, "layer");
        lines.push(format!("            {layers} of multi-token prediction there and not used"));
    }
    lines.push(format!(
        "parameters  {} in all, {} used by a token ({} read)",
        count(r.parameters.total),
        count(r.parameters.active),
        bytes(r.bytes_per_token)
    ));
    for (i, (name, f)) in r.bytes_by_format.iter().enumerate() {
        let head = if i == 0 { "formats     " } else { "            " };
        lines.push(format!("{head}{name:<8} {:>10} in {}", bytes(f.bytes), several(f.tensors, "tensor")));
    }
    let [this, grouped, multi_head] =
        [r.cache_bytes_per_token.this, r.cache_bytes_per_token.grouped_8, r.cache_bytes_per_token.multi_head]
            .map(bytes);
    lines.push(format!("cache       {this} a token; with GQA of 8 heads a key {grouped}, with MHA {multi_head}"));
    lines.push(format!(
        "plan        {} weights (mapped) + {} cache ({} tokens) + {} buffers = {}; {} available",
        bytes(r.plan.weights),
        bytes(r.plan.cache),
        r.plan.context,
        bytes(r.plan.buffers),
        bytes(r.plan.total),
        r.plan.available.map_or_else(|| "unknown".to_string(), bytes)
    ));
    lines.push(match (r.plan.fits, r.plan.longest_context) {
        (true, longest) => format!("            fits; the longest context that fits is {longest}"),
        (false, 0) => format!("            does not fit: {}", r.smaller_weights),
        (false, longest) => format!("            does not fit; the longest context that fits is {longest}"),
    });
    if !r.has_tokenizer {
        lines.push("tokenizer   none: it cannot read or write text until it has its own (tokenizer.json)".to_string());
    }
    if let Some(remote) = remote {
        lines.push(format!(
            "to fetch    {} in {}; `farthing pull {}` or any command that runs it",
            bytes(remote.selection.bytes),
            several(remote.selection.files.len(), "file"),
            remote.name
        ));
    }
    let tensor = |t: &farthing::inspect::TensorReport| {
        format!("{}  {} {:?} {}", t.name, t.format, t.shape, bytes(t.bytes as u64))
    };
    lines.extend(r.tensors.iter().map(tensor));
    lines
}

pub fn run(a: Arguments) -> Outcome {
    fetch::tell_known(&a.model, a.load.quiet);
    let (path, remote) = fetch::find_headers(&a.model, a.load.quiet)?;
    let planned = PlannedModel::open(&path, &a.load.options()?).map_err(|e| match &remote {
        Some(remote) => remote.named(e),
        None => e,
    })?;
    if a.check && remote.is_some() {
        return Err(Failure::failed(format!("--check reads every weight: `farthing pull {}` first", &*a.model)));
    }
    let report = inspect(&planned, a.tensors, a.json && !a.no_speed);
    if !a.json {
        put(&(lines(&a.model, &report, remote.as_ref()).join("\n") + "\n"))?;
        // What is known at once does not wait for a measurement.
        if !a.no_speed
            && let Some(e) = expected(&planned.checkpoint, &Pool::new(planned.threads))
        {
            put(&format!(
                "speed       about {} tokens/s of an answer, {} of a prompt, estimated from a measurement just now\n",
                words::rounded(e.decode),
                words::rounded(e.prefill)
            ))?;
        }
    }
    let damage = if a.check { Some(checked(&planned.checkpoint)?) } else { None };
    let damage = damage.as_deref();
    if a.json {
        put(&format!("{}\n", json(&report, remote.as_ref(), damage)?))?;
    } else if let Some(damage) = damage {
        for Damage { tensor, row, column, value } in damage {
            put(&format!("damaged     tensor {tensor} holds {value} in row {row}, column {column}\n"))?;
        }
        if damage.is_empty() {
            put("checked     every weight is a number\n")?;
        }
    }
    if let Some(why) = report.will_not_load {
        return Err(Failure::Failed(why));
    }
    match damage.map_or(0, <[Damage]>::len) {
        0 => Ok(()),
        n => Err(Failure::failed(format!(
            "{}: {} with NaN or infinity: fetch the model again",
            &*a.model,
            several(n, "tensor")
        ))),
    }
}
