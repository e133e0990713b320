//! Tensor names to `Weights`: the published names of Hugging Face checkpoints, and those of GGUF.

use std::cell::RefCell;
use std::collections::BTreeSet;

use kernels::Format;

use crate::checkpoint::{CheckpointError, Kind};
use crate::families::names::{LEFT_ALONE, LEFT_ALONE_OUTSIDE, NAMES, NORMS_AFTER, before_feed_forward, outside};
use crate::structure::Structure;
use crate::tensors::{Depth, Stored, Tensors};
use crate::weight::{GatedBlock, LayerWeights, Linear, Weight, Weights};

/// Tensors by the names that their kind of checkpoint has for them.
pub(crate) struct Names<'a> {
    tensors: &'a Tensors,
    pub kind: Kind,
    pub depth: Depth,
    norm_offset: f32,
    /// Tensors that became weights; `complete` names the others.
    used: RefCell<BTreeSet<String>>,
}

impl Names<'_> {
    fn note(&self, name: &str) {
        let mut used = self.used.borrow_mut();
        if self.tensors.by_name.get(name).is_some_and(|t| t.stored == Stored::As(Format::F8E4M3)) {
            used.insert(format!("{name}_scale_inv"));
        }
        used.insert(name.to_string());
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.has(name)
    }

    pub fn whole(&self, name: &str, rows: usize, cols: usize) -> Result<Weight, CheckpointError> {
        self.note(name);
        self.tensors.matrix(name, rows, cols, self.depth)
    }

    pub fn stack(&self, name: &str, count: usize, rows: usize, cols: usize) -> Result<Vec<Weight>, CheckpointError> {
        self.note(name);
        self.tensors.stack(name, [count, rows, cols], self.depth)
    }

    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, CheckpointError> {
        self.note(name);
        self.tensors.vector(name, len, self.depth)
    }

    /// A file of the checkpoint, for messages.
    pub fn file(&self) -> std::path::PathBuf {
        self.tensors.files.first().map_or_else(Default::default, |f| f.path().to_path_buf())
    }

    /// The stored name of a layer's part (by its Hugging Face name), with its ending.
    fn of(&self, layer: usize, part: &str, ending: &str) -> String {
        match self.kind {
            Kind::Safetensors => format!("model.layers.{layer}.{part}.{ending}"),
            Kind::Gguf => {
                let (_, name) = NAMES.iter().find(|(hf, _)| *hf == part).expect("every part has a name");
                format!("blk.{layer}.{name}.{ending}")
            }
        }
    }

    pub fn norm(&self, layer: usize, part: &str, len: usize) -> Result<Vec<f32>, CheckpointError> {
        self.norm_named(&self.of(layer, part, "weight"), len)
    }

    fn norm_named(&self, name: &str, len: usize) -> Result<Vec<f32>, CheckpointError> {
        let mut weight = self.vector(name, len)?;
        weight.iter_mut().for_each(|w| *w += self.norm_offset);
        Ok(weight)
    }

    pub fn matrix(&self, layer: usize, part: &str, rows: usize, cols: usize) -> Result<Weight, CheckpointError> {
        self.whole(&self.of(layer, part, "weight"), rows, cols)
    }

    pub fn bias(&self, layer: usize, part: &str, rows: usize) -> Result<Vec<f32>, CheckpointError> {
        self.vector(&self.of(layer, part, "bias"), rows)
    }

    pub fn linear(
        &self,
        layer: usize,
        part: &str,
        rows: usize,
        cols: usize,
        bias: bool,
    ) -> Result<Linear, CheckpointError> {
        let weight = self.matrix(layer, part, rows, cols)?;
        let bias = bias.then(|| self.bias(layer, part, rows)).transpose()?;
        Ok(Linear { weight, bias })
    }

    pub fn block(
        &self,
        layer: usize,
        prefix: &str,
        inner: usize,
        hidden: usize,
    ) -> Result<GatedBlock, CheckpointError> {
        Ok(GatedBlock {
            gate: self.matrix(layer, &format!("{prefix}.gate_proj"), inner, hidden)?,
            up: self.matrix(layer, &format!("{prefix}.up_proj"), inner, hidden)?,
            down: self.matrix(layer, &format!("{prefix}.down_proj"), hidden, inner)?,
        })
    }
}

/// All weights of the structure. `skipped` layers of multi-token prediction may follow the structure's own. Of weights that were loaded
/// from headers nothing may be multiplied.
///
/// # Errors
/// A tensor that is missing, of another shape or type, or that the structure has no use for.
pub fn load(
    structure: &Structure,
    tensors: &Tensors,
    kind: Kind,
    skipped: usize,
    depth: Depth,
) -> Result<Weights, CheckpointError> {
    let names = Names { tensors, kind, depth, norm_offset: structure.norms.offset, used: RefCell::default() };
    let (vocab, hidden) = (structure.vocab, structure.hidden);
    let [embedding, final_norm, head] = outside(kind);
    let embedding = names.whole(embedding, vocab, hidden)?;
    let head = if structure.tied { embedding.clone() } else { names.whole(head, vocab, hidden)? };
    let layers = structure
        .layers
        .iter()
        .enumerate()
        .map(|(i, layer)| {
            Ok(LayerWeights {
                attention_norm: names.norm(i, "input_layernorm", hidden)?,
                attention: layer.attention.load(&names, i, hidden)?,
                feed_forward_norm: names.norm(i, before_feed_forward(structure.norms.after), hidden)?,
                after: structure.norms.after.then(|| after(&names, i, hidden)).transpose()?,
                feed_forward: layer.feed_forward.load(&names, i, hidden)?,
            })
        })
        .collect::<Result<_, CheckpointError>>()?;
    let final_norm = names.norm_named(final_norm, hidden)?;
    complete(&names, structure, skipped)?;
    Ok(Weights { embedding, layers, final_norm, head, files: tensors.files.clone() })
}

/// Norms after attention and feed-forward.
fn after(names: &Names, i: usize, hidden: usize) -> Result<[Vec<f32>; 2], CheckpointError> {
    Ok([names.norm(i, NORMS_AFTER[0], hidden)?, names.norm(i, NORMS_AFTER[1], hidden)?])
}

/// Every tensor is used or rightly left alone.
fn complete(names: &Names, structure: &Structure, skipped: usize) -> Result<(), CheckpointError> {
    let used = names.used.borrow();
    let mut unused = names.tensors.by_name.keys().filter(|name| !used.contains(*name));
    let Some(first) = unused.by_ref().find(|name| !left_alone(names, structure, skipped, name)) else { return Ok(()) };
    let others = unused.filter(|name| !left_alone(names, structure, skipped, name)).count();
    let file = names.tensors.by_name[first].file;
    Err(CheckpointError::Unused { path: names.tensors.files[file].path().to_path_buf(), tensor: first.clone(), others })
}

fn left_alone(names: &Names, structure: &Structure, skipped: usize, name: &str) -> bool {
    let listed = |list: &[(Kind, &str, &str)], name: &str| list.iter().any(|l| l.0 == names.kind && l.1 == name);
    let prefix = match names.kind {
        Kind::Safetensors => "model.layers.",
        Kind::Gguf => "blk.",
    };
    let layer = name.strip_prefix(prefix).and_then(|rest| rest.split_once('.'));
    let Some((layer, part)) = layer.and_then(|(n, part)| Some((n.parse::<usize>().ok()?, part))) else {
        return listed(LEFT_ALONE_OUTSIDE, name) || (name == "lm_head.weight" && repeats_the_embedding(names));
    };
    let layers = structure.layers.len();
    // Layers of multi-token prediction follow the model's own, and predict what the model is not asked for.
    if (layers..layers + skipped).contains(&layer) {
        return true;
    }
    layer < layers && listed(LEFT_ALONE, part)
}

/// Whether the output head of a tied model holds the very bytes of the embedding.
fn repeats_the_embedding(names: &Names) -> bool {
    let tensors = names.tensors;
    let (Some(head), Some(embedding)) =
        (tensors.by_name.get("lm_head.weight"), tensors.by_name.get("model.embed_tokens.weight"))
    else {
        return false;
    };
    let alike = head.stored == embedding.stored && head.shape == embedding.shape;
    alike && (names.depth == Depth::Headers || tensors.bytes(head) == tensors.bytes(embedding))
}
