//! `farthing trace`: what a model computes, in a file, for comparing implementations.

use std::path::PathBuf;

use clap::Args;
use engine::{Engine, Limits};
use kernels::Pool;
use model::{CacheFormat, Checkpoint, Transformer};
use safetensors::tensor::{Dtype, TensorView};

use crate::loading::{self, Load};
use crate::terminal::read_text;
use crate::tokenize::ids;
use crate::{Failure, Outcome, pulling};

/// Write logits, and hidden states and routing, of a list of tokens
///
/// The file holds input_ids [T], logits [T, vocab] (f32) and, with --layers, hidden.L [T, hidden] (the stream after layer L, before
/// the final norm) and moe.L.experts, moe.L.weights [T, k] (ids ascending, weights after normalisation and scaling).
/// The cache is always f32.
///
/// Examples:
///   farthing trace models/seed-5.7m --tokens 0,655,561 --layers -o trace.safetensors
///   farthing trace model.gguf --tokens @ids.txt -o trace.safetensors
#[derive(Args)]
#[command(allow_negative_numbers = true)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// Path, org/name or the short name of a pulled model
    model: String,
    /// Token ids with commas between, or @FILE with such a list
    #[arg(long, value_name = "1,2,3|@FILE")]
    tokens: String,
    /// Also hidden states and routing of every layer
    #[arg(long)]
    layers: bool,
    /// Where to write (safetensors)
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    load: Load,
}

pub fn run(a: Arguments) -> Outcome {
    let list = match a.tokens.strip_prefix('@') {
        Some(file) => read_text(std::fs::File::open(file).map_err(|e| Failure(format!("{file}: {e}")))?, file)?,
        None => a.tokens.clone(),
    };
    let tokens = ids(&list)?;
    if tokens.is_empty() {
        return Err(Failure("no token is given; give ids with commas between, such as --tokens 1,2,3".to_string()));
    }
    let checkpoint = Checkpoint::open(&pulling::find(&a.model, &a.load)?)?;
    let most = checkpoint.structure.context;
    if tokens.len() > most {
        return Err(Failure(format!(
            "{} tokens are {} more than the model's context of {most}",
            tokens.len(),
            tokens.len() - most
        )));
    }
    let load = Load { context: Some(tokens.len()), cache: Some("f32".to_string()), ..a.load };
    loading::plan(&checkpoint, &load)?;
    let weights = checkpoint.weights()?;
    let (vocab, hidden) = (checkpoint.structure.vocab, checkpoint.structure.hidden);
    let pool = Pool::new(load.threads.map_or_else(loading::cores, usize::from));
    let limits = Limits { context: tokens.len(), cached: tokens.len() };
    let mut engine = Engine::new(Transformer::new(checkpoint.structure, weights), pool, CacheFormat::F32, limits);
    let (logits, trace) = engine.trace(&tokens)?;

    let rows = tokens.len();
    let floats = |x: &[f32]| x.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let integers = |x: &[u32]| x.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = vec![
        ("input_ids".to_string(), Dtype::I32, vec![rows], integers(&tokens)),
        ("logits".to_string(), Dtype::F32, vec![rows, vocab], floats(&logits)),
    ];
    if a.layers {
        for (i, states) in trace.hidden.iter().enumerate() {
            tensors.push((format!("hidden.{i}"), Dtype::F32, vec![rows, hidden], floats(states)));
        }
        for (i, routes) in trace.routes.iter().enumerate() {
            let Some(routes) = routes else { continue };
            let shape = vec![rows, routes.experts.len() / rows];
            tensors.push((format!("moe.{i}.experts"), Dtype::I32, shape.clone(), integers(&routes.experts)));
            tensors.push((format!("moe.{i}.weights"), Dtype::F32, shape, floats(&routes.weights)));
        }
    }
    let views: Result<Vec<_>, _> = tensors
        .iter()
        .map(|(name, dtype, shape, data)| TensorView::new(*dtype, shape.clone(), data).map(|view| (name.clone(), view)))
        .collect();
    let bytes = safetensors::serialize(views?, None)?;
    let part = a.output.with_extension("part");
    let failed = |e: std::io::Error| Failure(format!("{}: {e}", a.output.display()));
    std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, &a.output)).map_err(|e| {
        let _ = std::fs::remove_file(&part);
        failed(e)
    })?;
    if !load.quiet {
        eprintln!("wrote {} tensors to {}", tensors.len(), a.output.display());
    }
    Ok(())
}
