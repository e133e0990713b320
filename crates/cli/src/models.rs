//! `farthing models`: what is here and what runs, to know what to type first.

use clap::Args;
use farthing::known::{KNOWN, KnownModel, suggested};
use hub::{Cache, Pulled, Settings};
use serde_json::{Value, json};

use crate::terminal::{bytes, put};
use crate::{Outcome, pull};

/// List models: the downloaded ones, then well-known ones that run, with their size and memory
///
/// A name of the first column can be typed wherever MODEL is asked for. Sizes are computed from the published shapes; memory is for a context of
/// 4096 tokens. `farthing show NAME` looks at the files themselves and estimates the speed on this machine.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  farthing models
  farthing chat qwen3-4b               the same as farthing chat Qwen/Qwen3-4B-GGUF:Q4_K_M
  farthing show deepseek-v2-lite       structure, memory plan and expected speed, before it is downloaded")]
pub struct Arguments {
    /// A JSON object: pulled (as of `list`), known, available_bytes, suggested
    #[arg(long)]
    pub json: bool,
}

fn fits(known: &KnownModel, available: Option<u64>) -> &'static str {
    match available {
        None => "?",
        Some(available) if known.memory <= available => "yes",
        Some(_) => "no",
    }
}

fn json(pulled: &[Pulled], available: Option<u64>) -> Value {
    let known = |known: &KnownModel| {
        let mut row = json!(known);
        row["fits"] = json!(available.map(|available| known.memory <= available));
        row["decode"] = known.decode.iter().map(|(isa, rate)| (isa.to_string(), json!(rate))).collect();
        row
    };
    json!({
        "pulled": pull::rows(pulled),
        "known": KNOWN.iter().map(known).collect::<Vec<_>>(),
        "available_bytes": available,
        "suggested": available.and_then(suggested).map(|known| known.name),
    })
}

fn table(pulled: &[Pulled], available: Option<u64>) -> String {
    let mut out = if pulled.is_empty() { String::new() } else { format!("downloaded:\n{}\n", pull::table(pulled)) };
    let here = available.map_or_else(String::new, |available| format!("; {} available here", bytes(available)));
    out += &format!("well-known models that run{here}:\n");
    let line = |cells: [&str; 7]| {
        let [name, parameters, download, memory, fits, licence, measured] = cells;
        let line =
            format!("{name:<23} {parameters:<24} {download:>10} {memory:>10}  {fits:<4} {licence:<10} {measured}");
        line.trim_end().to_string() + "\n"
    };
    out += &line(["name", "parameters", "download", "memory", "fits", "licence", "measured, tokens/s"]);
    for known in KNOWN {
        let (parameters, size, memory) = (known.parameters_in_words(), bytes(known.bytes), bytes(known.memory));
        let cells =
            [known.name, &parameters, &size, &memory, fits(known, available), known.licence, &known.decode_in_words()];
        out += &line(cells);
    }
    if let Some(first) = available.and_then(suggested) {
        out += &format!("to begin with: farthing chat {}   (it is {})\n", first.name, first.id);
    }
    out
}

pub fn run(a: Arguments) -> Outcome {
    let pulled = Cache::new(Settings::from_env()?.cache).list()?;
    let available = model::plan::available();
    put(&if a.json { format!("{}\n", json(&pulled, available)) } else { table(&pulled, available) })
}
