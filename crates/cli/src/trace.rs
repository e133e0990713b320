//! `farthing trace`: what a model computes, in a file, for comparing implementations.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use model::CacheFormat;
use safetensors::tensor::{Dtype, TensorView};

use crate::arguments::{LoadArguments, ModelArgument};
use crate::terminal::{before_the_end, read_text_file, say, several};
use crate::tokenize::ids;
use crate::{Failure, Outcome};

/// Write logits, and hidden states and routing, of a list of tokens
///
/// The file holds input_ids [T], logits [T, vocab] (f32) and, with --layers, hidden.L [T, hidden]
/// (the residual stream after layer L, before the final norm) and moe.L.experts, moe.L.weights [T, k]
/// (ids ascending, weights after normalisation and scaling). The KV cache is always f32.
///
/// Examples:
///   farthing trace models/seed-5.7m --tokens 0,655,561 --layers -o trace.safetensors
///   farthing trace model.gguf --tokens @ids.txt -o trace.safetensors
#[derive(Args)]
#[command(allow_negative_numbers = true)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgument,
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
    load: LoadArguments,
}

/// A file that is not there until it is whole; what was begun goes with it otherwise.
struct Part<'a> {
    output: &'a Path,
    /// Its name until then. None: the output is a device or a pipe, which is written to as it is.
    path: Option<PathBuf>,
    file: File,
}

impl Part<'_> {
    fn create(output: &Path) -> Result<Part<'_>, Failure> {
        if output.is_dir() {
            return Err(Failure::failed(format!(
                "{}: Is a directory; give the name of a file as --output",
                output.display()
            )));
        }
        let path = std::fs::metadata(output).map_or(true, |there| there.is_file()).then(|| {
            let mut path = output.as_os_str().to_os_string();
            path.push(".part");
            PathBuf::from(path)
        });
        let created = File::create(path.as_deref().unwrap_or(output));
        let file = created.map_err(|e| Failure::failed(format!("{}: {e}; give another --output", output.display())))?;
        if let Some(path) = path.clone() {
            before_the_end(move || drop(std::fs::remove_file(path)));
        }
        Ok(Part { output, path, file })
    }

    fn finish(mut self, bytes: &[u8]) -> Outcome {
        let named = |path: &PathBuf| std::fs::rename(path, self.output);
        let written = self.file.write_all(bytes).and_then(|()| self.path.as_ref().map_or(Ok(()), named));
        written.map_err(|e| Failure::failed(format!("{}: {e}", self.output.display())))
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        // After its new name there is none.
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

pub fn run(a: Arguments) -> Outcome {
    let list = match a.tokens.strip_prefix('@') {
        Some(file) => read_text_file(Path::new(file))?,
        None => a.tokens.clone(),
    };
    let tokens = ids(&list)?;
    if tokens.is_empty() {
        return Err(Failure::usage("no token is given; give ids with commas between, such as --tokens 1,2,3"));
    }
    // A place that cannot be written is told before the work.
    let part = Part::create(&a.output)?;
    let planned = a.load.plan(&a.model, |checkpoint, options| {
        let (n, most, vocab) = (tokens.len(), checkpoint.structure.context, checkpoint.structure.vocab);
        if n > most {
            let said = format!("{} are {} more than the model's context of {most}", several(n, "token"), n - most);
            return Err(Failure::usage(said));
        }
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= vocab) {
            return Err(Failure::usage(format!("token {id} is outside the vocabulary of {vocab}")));
        }
        (options.context, options.cache) = (Some(n), Some(CacheFormat::F32));
        Ok(())
    })?;
    let (vocab, hidden) = (planned.checkpoint.structure.vocab, planned.checkpoint.structure.hidden);
    let mut runner = planned.runner()?;
    let (logits, trace) = runner.trace(&tokens)?;

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
    part.finish(&bytes)?;
    if !a.load.quiet {
        say(&format!("wrote {} to {}", several(tensors.len(), "tensor"), a.output.display()));
    }
    Ok(())
}
