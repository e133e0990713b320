//! The structure of a model as plain data, parsed once by `families` and checked there; nothing here names a brand.

use crate::cache::{CacheFormat, CacheLayout};

pub use crate::attention::{Attention, AttentionKind, Gqa, Mla};
pub use crate::feed_forward::{Activation, Dense, FeedForward, FeedForwardKind, GroupScore, Moe, Router, Score};

/// Everything about a model that is not a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Structure {
    /// The architecture as its checkpoint names it (`deepseek_v2`, `llama`, ...), for people to read.
    pub architecture: String,
    /// Rows of the embedding and of the output head.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// One entry per decoder layer.
    pub layers: Vec<Layer>,
    /// Positions the model was made for.
    pub context: usize,
    /// Epsilon of the layers' and the final RMS norm.
    pub norm_eps: f32,
    /// The output head is the embedding.
    pub tied: bool,
    /// Factors on the stream.
    pub scales: Scales,
    /// Norms beside those before attention and feed-forward.
    pub norms: Norms,
}

/// What norms a layer has besides, and how their weights are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Norms {
    /// What attention and feed-forward give is normed before it is added to the stream.
    pub after: bool,
    /// What is added to every stored weight of a norm.
    pub offset: f32,
}

/// Factors on the stream, all 1 in most families.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// On an embedding.
    pub embedding: f32,
    /// On what a layer's two halves add.
    pub residual: f32,
    /// On logits.
    pub logits: f32,
}

impl Default for Scales {
    fn default() -> Scales {
        Scales { embedding: 1.0, residual: 1.0, logits: 1.0 }
    }
}

/// One decoder layer: `x += attention(norm(x)); x += feed_forward(norm(x))`, where `Norms::after` with a norm around both.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// How tokens look at each other.
    pub attention: Attention,
    /// What happens to each token alone.
    pub feed_forward: FeedForward,
}

/// Rotary embedding, ready to use.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Angle per position of each pair (half as many as rotated channels), scaling applied.
    pub frequencies: Vec<f32>,
    /// Which channels make a pair.
    pub pairing: Pairing,
    /// Factor on cos and sin.
    pub amplitude: f32,
    /// Factor of scores before the softmax, `dim^-0.5` and YaRN's correction included.
    pub score_scale: f32,
}

/// Which channels rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `(x0, x1), (x2, x3), ...`
    Interleaved,
    /// `(x_i, x_{i + d/2})`
    Halves,
}

impl Structure {
    /// What a cache keeps of a sequence, with numbers in this format.
    pub fn cache_layout(&self, format: CacheFormat) -> CacheLayout {
        CacheLayout::new(self.layers.iter().map(|layer| layer.attention.cache(format)).collect())
    }
}
