//! The set of weights that a model needs, found by name in its tensors: every tensor is used, or rightly left alone.

use std::cell::RefCell;
use std::sync::Arc;

use crate::attention::AttentionLayer;
use crate::error::CheckpointError;
use crate::families::names::{LEFT_ALONE, LEFT_ALONE_OUTSIDE, NORMS_AFTER, before_feed_forward, labels, outside};
use crate::feed_forward::FeedForwardLayer;
use crate::loader::Names;
use crate::mmap::Mapping;
use crate::structure::{Head, Structure};
use crate::tensors::{Depth, Kind, Tensors};
use crate::weight::Weight;

/// Everything `Transformer` multiplies with. Vectors (norms, biases) are widened to f32 at load: they are small.
pub struct Weights {
    /// `[vocab, hidden]`
    pub embedding: Weight,
    /// One per layer.
    pub layers: Vec<LayerWeights>,
    /// `[hidden]`
    pub final_norm: Vec<f32>,
    /// `[outputs, hidden]`; the embedding again when tied; `None` in a model that only embeds.
    pub head: Option<Weight>,
    /// The files that all of these lie in.
    pub files: Vec<Arc<Mapping>>,
}

/// Weights of a decoder layer.
pub struct LayerWeights {
    /// `[hidden]`
    pub attention_norm: Vec<f32>,
    /// Its sizes are the structure's.
    pub attention: Box<dyn AttentionLayer>,
    /// `[hidden]`
    pub feed_forward_norm: Vec<f32>,
    /// Its sizes are the structure's.
    pub feed_forward: Box<dyn FeedForwardLayer>,
    /// Norms of what attention and feed-forward give, `[hidden]` each.
    pub after: Option<[Vec<f32>; 2]>,
}

impl Weights {
    /// Every matrix in turn.
    pub fn each_matrix(&mut self, f: &mut dyn FnMut(&mut Weight)) {
        f(&mut self.embedding);
        self.head.iter_mut().for_each(&mut *f);
        for layer in &mut self.layers {
            layer.attention.matrices().into_iter().for_each(&mut *f);
            layer.feed_forward.matrices().into_iter().for_each(&mut *f);
        }
    }
}

/// All weights of the structure. `skipped` layers of multi-token prediction may follow the structure's own. Of weights that were loaded
/// from headers nothing may be multiplied.
///
/// # Errors
/// A tensor that is missing, of another shape or type, or that the structure has no use for.
pub(crate) fn load(
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
    let head = match structure.head {
        Head::Own => Some(names.whole(head, vocab, hidden)?),
        Head::Tied => Some(embedding.clone()),
        Head::Labels(count) => Some(names.whole(labels(kind), count, hidden)?),
        Head::None => None,
    };
    let layers = structure
        .layers
        .iter()
        .enumerate()
        .map(|(i, layer)| {
            let norms_after = || {
                Ok::<_, CheckpointError>([
                    names.norm(i, NORMS_AFTER[0], hidden)?,
                    names.norm(i, NORMS_AFTER[1], hidden)?,
                ])
            };
            Ok(LayerWeights {
                attention_norm: names.norm(i, "input_layernorm", hidden)?,
                attention: layer.attention.load(&names, i, hidden)?,
                feed_forward_norm: names.norm(i, before_feed_forward(structure.norms.after), hidden)?,
                after: structure.norms.after.then(norms_after).transpose()?,
                feed_forward: layer.feed_forward.load(&names, i, hidden)?,
            })
        })
        .collect::<Result<_, CheckpointError>>()?;
    let final_norm = names.norm_named(final_norm, hidden)?;
    complete(&names, structure, skipped)?;
    Ok(Weights { embedding, layers, final_norm, head, files: tensors.files.clone() })
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
        // A model that only embeds has no use for the head that it was trained with.
        let head = name == outside(names.kind)[2] && structure.head == Head::None;
        return head || listed(LEFT_ALONE_OUTSIDE, name) || (name == "lm_head.weight" && repeats_the_embedding(names));
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
