//! Other people's configuration to `Structure`. This folder is the only one of the crate that knows brands: a row a family, the two kinds of
//! configuration, and the names of tensors.

pub(crate) mod gguf;
mod hf;
pub(crate) mod names;
pub mod purpose;
mod rows;
pub mod to_gguf;
pub mod to_hf;

use std::path::Path;

pub use hf::from_config;

use crate::error::CheckpointError;
use crate::rope::{Scaling, frequencies};
use crate::settings::*;
use crate::structure::*;

/// Limits that no sound model passes.
const LAYERS_MAX: usize = 1024;
const WIDTH_MAX: usize = 1 << 20;
const VOCAB_MAX: usize = 1 << 24;
const EXPERTS_MAX: usize = 1 << 14;
const CONTEXT_MAX: usize = 1 << 28;
const HEADS_MAX: usize = 1 << 14;
const HEAD_DIM_MAX: usize = 1 << 13;
const EXPERTS_IN_ALL_MAX: usize = 1 << 18;

/// Sizes that every family has.
struct Sizes {
    layers: usize,
    hidden: usize,
    vocab: usize,
    context: usize,
}

fn sizes<S: ConfigValues>(s: &S, keys: [&str; 3], vocab: usize) -> Result<Sizes, CheckpointError> {
    Ok(Sizes {
        layers: count(s, keys[0], 1, LAYERS_MAX)?,
        hidden: count(s, keys[1], 1, WIDTH_MAX)?,
        context: count(s, keys[2], 1, CONTEXT_MAX)?,
        vocab,
    })
}

/// Check what no single key shows: widths of heads, rotations that are numbers, and the sum of experts.
pub fn consistent(path: &Path, structure: Structure) -> Result<Structure, CheckpointError> {
    let refuse = |what: String| Err(CheckpointError::damaged(path, what));
    let mut experts_in_all = 0usize;
    for (i, layer) in structure.layers.iter().enumerate() {
        let Layer { attention, feed_forward } = layer;
        let Heads { count: heads, widths, rope, .. } = attention.heads();
        if heads > HEADS_MAX {
            return refuse(format!("{heads} heads in layer {i}; at most {HEADS_MAX} are possible"));
        }
        if let Some(width) = widths.into_iter().find(|&w| w == 0 || w > HEAD_DIM_MAX) {
            return refuse(format!("a head of {width} channels in layer {i}; from 1 to {HEAD_DIM_MAX} are possible"));
        }
        let angles = rope.frequencies.iter().chain([&rope.amplitude, &rope.score_scale]);
        if let Some(bad) = angles.into_iter().find(|x| !x.is_finite()) {
            return refuse(format!(
                "the numbers of the rotary embedding lead to {bad}; check rope_theta and the scaling"
            ));
        }
        experts_in_all += feed_forward.experts().map_or(0, |(experts, _)| experts);
    }
    if experts_in_all > EXPERTS_IN_ALL_MAX {
        return refuse(format!("{experts_in_all} experts in all layers; at most {EXPERTS_IN_ALL_MAX} are possible"));
    }
    if !(structure.norm_eps > 0.0 && structure.norm_eps.is_finite()) {
        return refuse(format!("the epsilon of the norms is {}", structure.norm_eps));
    }
    Ok(structure)
}

/// Check an expert layout and make its feed-forward.
pub fn mixture<S: ConfigValues>(
    s: &S,
    experts: usize,
    active: usize,
    hidden: usize,
    shared_hidden: usize,
    router: Router,
) -> Result<FeedForward, CheckpointError> {
    let contradiction = |what: String| CheckpointError::damaged(s.path(), what);
    if experts > EXPERTS_MAX || active == 0 || active > experts {
        return Err(contradiction(format!("{active} active of {experts} experts cannot be")));
    }
    if router.groups == 0
        || !experts.is_multiple_of(router.groups)
        || router.groups_active == 0
        || router.groups_active > router.groups
    {
        return Err(contradiction(format!(
            "{experts} experts in {} groups, {} active, cannot be",
            router.groups, router.groups_active
        )));
    }
    if router.groups > 1 && active > experts / router.groups * router.groups_active {
        return Err(contradiction(format!("{active} active experts do not fit in {} groups", router.groups_active)));
    }
    Ok(FeedForward::Moe(Moe { experts, active, hidden, shared_hidden, router }))
}

/// Plain softmax routing (Mixtral, Qwen).
pub fn softmax_router(normalize: bool) -> Router {
    Router {
        score: Score::Softmax,
        groups: 1,
        groups_active: 1,
        group_score: GroupScore::Max,
        bias: false,
        normalize,
        scale: 1.0,
    }
}

/// A rope over `dim` channels with the usual score scale of a head of `head` channels.
pub fn plain_rope(dim: usize, head: usize, theta: f64, scaling: &Scaling, pairing: Pairing, temperature: f64) -> Rope {
    Rope {
        frequencies: frequencies(dim, theta, scaling),
        pairing,
        amplitude: temperature as f32,
        score_scale: (head as f64).powf(-0.5) as f32,
    }
}

/// Rope of latent attention: YaRN's correction goes into the score scale (arXiv 2405.04434, section 3.1.4).
pub fn latent_rope(rope: usize, head: usize, theta: f64, scaling: &Scaling, amplitude: f64, correction: f64) -> Rope {
    let score_scale = ((head as f64).powf(-0.5) * correction * correction) as f32;
    Rope { score_scale, ..plain_rope(rope, head, theta, scaling, Pairing::Interleaved, amplitude) }
}
