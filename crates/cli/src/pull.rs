//! `farthing pull`, `list` and `rm`: models in the Hugging Face cache, which other tools share.

use std::time::SystemTime;

use clap::Args;
use farthing::known::known_id;
use farthing::names::{Resolved, as_copied, resolve, short_name};
use hub::{Cache, Name, Pulled, Settings};
use serde_json::{Value, json};

use crate::arguments::LoadArguments;
use crate::fetch;
use crate::terminal::{bytes, put, say};
use crate::{Failure, Outcome};

/// Download a model from the Hugging Face hub
///
/// Configuration and headers are read first: a model that would not run here is refused before its weights are downloaded.
/// An interrupted download resumes; every file is checked against the hub's checksum before it is used.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  farthing pull org/name                   safetensors, or Q4_K_M where there are only GGUF files
  farthing pull org/name:Q8_0              the GGUF file of that quantisation
  farthing pull org/name:dir/file.gguf     this file (all parts of a split one)
  farthing pull org/name@revision          a branch, tag or commit

Environment:
  HF_HOME, HF_HUB_CACHE   where the cache is [default: ~/.cache/huggingface]
  HF_TOKEN                for gated models (or the token that `huggingface-cli login` keeps)
  HF_ENDPOINT             another hub
  HF_HUB_OFFLINE=1        never ask the network")]
pub struct Pull {
    /// org/name, org/name:file.gguf, org/name:TAG, org/name@revision, or a short name of `farthing models`
    model: String,
    /// Download it even if it would not run on this machine
    #[arg(long)]
    anyway: bool,
    /// A JSON object: model, path, fetched (whether it was downloaded now)
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    load: LoadArguments,
}

pub fn pull(a: Pull) -> Outcome {
    fetch::tell_known(&a.model, a.load.quiet);
    let (path, fetched) = match resolve(&a.model)? {
        Resolved::Here(path) => (path, false),
        Resolved::Hub(name) => (fetch::fetch(&name, &a.load.options()?, a.load.quiet, a.anyway)?, true),
    };
    if a.json {
        return put(&format!("{}\n", json!({"model": a.model, "path": path, "fetched": fetched})));
    }
    if !a.load.quiet {
        say(if fetched { "downloaded and checked:" } else { "already here:" });
    }
    put(&format!("{}\n", path.display()))
}

/// List the models in the Hugging Face cache
///
/// Models that other tools put there are listed too. The download of an incomplete one was interrupted: `farthing pull` resumes it.
#[derive(Args)]
pub struct List {
    /// A JSON array: name, bytes, complete, path
    #[arg(long)]
    pub json: bool,
}

fn age(modified: SystemTime) -> String {
    let seconds = SystemTime::now().duration_since(modified).map_or(0, |d| d.as_secs());
    match seconds {
        0..120 => "now".to_string(),
        120..7200 => format!("{} minutes ago", seconds / 60),
        7200..172_800 => format!("{} hours ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// Pulled models for programs.
pub fn rows(pulled: &[Pulled]) -> Value {
    pulled
        .iter()
        .map(|p| json!({"name": p.name.to_string(), "bytes": p.bytes, "complete": p.complete, "path": p.path}))
        .collect()
}

/// Pulled models for people, a line each.
pub fn table(pulled: &[Pulled]) -> String {
    let width = pulled.iter().map(|p| p.name.to_string().chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for p in pulled {
        let state = if p.complete { age(p.modified) } else { "incomplete".to_string() };
        out += &format!("{:<width$} {:>10}  {state}\n", p.name.to_string(), bytes(p.bytes));
    }
    out
}

pub fn list(a: List) -> Outcome {
    let cache = Cache::new(Settings::from_env()?.cache);
    let pulled = cache.list()?;
    if a.json {
        return put(&format!("{}\n", rows(&pulled)));
    }
    if pulled.is_empty() {
        say(&format!(
            "nothing is pulled yet (looked in {}); `farthing models` lists models that run, `farthing pull NAME` downloads one",
            cache.root().display()
        ));
        return Ok(());
    }
    put(&table(&pulled))
}

/// Remove a pulled model from the Hugging Face cache
///
/// org/name removes everything of it; org/name:file.gguf that file, and what only it used.
#[derive(Args)]
pub struct Remove {
    /// Name of a pulled model, or the last part of it
    #[arg(required = true)]
    models: Vec<String>,
    /// A JSON array: name, bytes freed
    #[arg(long)]
    pub json: bool,
}

/// A pulled model's name as a person wrote it: whole, or its last part.
fn named(cache: &Cache, text: &str) -> Result<Name, Failure> {
    let copied = as_copied(text);
    let text = copied.as_deref().unwrap_or(text);
    if text.contains('/') {
        return Ok(Name::parse(text)?);
    }
    let known = || known_id(text).map(|known| Name::parse(&known)).transpose();
    short_name(cache, text)?.map_or_else(known, |pulled| Ok(Some(pulled)))?.ok_or_else(|| {
        Failure::failed(format!("{text}: no pulled model has that name; `farthing list` shows those that are there"))
    })
}

pub fn remove(a: Remove) -> Outcome {
    let cache = Cache::new(Settings::from_env()?.cache);
    let mut rows = Vec::new();
    for text in &a.models {
        let name = named(&cache, text)?;
        let freed = cache.remove(&name)?;
        rows.push(json!({"name": name.to_string(), "bytes": freed}));
        if !a.json {
            say(&format!("removed {name}, {} freed", bytes(freed)));
        }
    }
    if a.json { put(&format!("{}\n", serde_json::Value::from(rows))) } else { Ok(()) }
}
