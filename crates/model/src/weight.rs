//! A weight as it lies in its file, and the set of weights a model needs. Formats stay as stored.

use std::sync::Arc;

use kernels::formats::Format;

use crate::mmap::Mapping;

/// A matrix `rows x cols` (row-major, `y = W x`), bytes borrowed from a mapped file.
#[derive(Clone)]
pub struct Weight {
    /// How its numbers are stored.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// The file it lies in.
    pub file: Arc<Mapping>,
    /// First byte in the file.
    pub offset: usize,
    /// FP8 only: factors of the stored tensor's 128x128 blocks, row-major.
    pub scales: Option<Arc<[f32]>>,
    /// Rows of the stored tensor before this view's first.
    pub scale_row: usize,
}

impl Weight {
    /// Bytes it takes in its file.
    pub fn byte_len(&self) -> usize {
        self.rows * self.format.row_bytes(self.cols).expect("checked when the weight was made")
    }

    /// For the kernels.
    pub fn matrix(&self) -> kernels::Matrix<'_> {
        let bytes = &self.file.bytes()[self.offset..self.offset + self.byte_len()];
        match &self.scales {
            Some(scales) => kernels::Matrix::with_scales(self.rows, self.cols, bytes, scales, self.scale_row),
            None => kernels::Matrix::new(self.format, self.rows, self.cols, bytes),
        }
    }

    /// Rows `from..from + rows` of this weight, as a weight.
    pub fn view(&self, from: usize, rows: usize) -> Weight {
        assert!(from + rows <= self.rows);
        let row_bytes = self.format.row_bytes(self.cols).expect("checked when the weight was made");
        Weight { rows, offset: self.offset + from * row_bytes, scale_row: self.scale_row + from, ..self.clone() }
    }
}

/// Everything `Transformer` multiplies with. Vectors (norms, biases) are widened to f32 at load: they are small.
pub struct Weights {
    /// `[vocab, hidden]`
    pub embedding: Weight,
    /// One per layer.
    pub layers: Vec<LayerWeights>,
    /// `[hidden]`
    pub final_norm: Vec<f32>,
    /// `[vocab, hidden]`; the embedding again when tied.
    pub head: Weight,
    /// The files that all of these lie in.
    pub files: Vec<Arc<Mapping>>,
}

/// Weights of a decoder layer.
pub struct LayerWeights {
    /// `[hidden]`
    pub attention_norm: Vec<f32>,
    /// By kind, as in `Structure`.
    pub attention: AttentionWeights,
    /// `[hidden]`
    pub feed_forward_norm: Vec<f32>,
    /// By kind, as in `Structure`.
    pub feed_forward: FeedForwardWeights,
}

/// Weights of attention.
pub enum AttentionWeights {
    /// Grouped-query.
    Gqa {
        /// `[heads * head_dim, hidden]`
        q: Linear,
        /// `[kv_heads * head_dim, hidden]`
        k: Linear,
        /// `[kv_heads * head_dim, hidden]`
        v: Linear,
        /// `[hidden, heads * head_dim]`
        out: Linear,
        /// `[head_dim]` each, when `qk_norm`.
        q_norm: Option<Vec<f32>>,
        /// See `q_norm`.
        k_norm: Option<Vec<f32>>,
    },
    /// Multi-head latent.
    Mla {
        /// Query path.
        q: MlaQuery,
        /// `[kv_rank + rope_dim, hidden]`: latent rows, then the rotary key's.
        kv_a: Linear,
        /// `[kv_rank]`
        kv_a_norm: Vec<f32>,
        /// From the latent to keys and values.
        kv_b: MlaExpansion,
        /// `[hidden, heads * value_dim]`
        out: Linear,
    },
}

/// MLA's query path; the last projection's rows are, per head, `nope_dim` then `rope_dim`.
pub enum MlaQuery {
    /// `[heads * (nope_dim + rope_dim), hidden]`
    Direct(Linear),
    /// Through a compression.
    Compressed {
        /// `[q_rank, hidden]`
        a: Linear,
        /// `[q_rank]`
        norm: Vec<f32>,
        /// `[heads * (nope_dim + rope_dim), q_rank]`
        b: Linear,
    },
}

/// The expansion of the latent, in either layout that files use; per-head pieces are views of the stored tensor.
pub enum MlaExpansion {
    /// Hugging Face and old GGUF files.
    Joint {
        /// Per head `[nope_dim, kv_rank]`: `k = W c`.
        k: Vec<Weight>,
        /// Per head `[value_dim, kv_rank]`: `v = W c`.
        v: Vec<Weight>,
    },
    /// New GGUF files: keys stored transposed, ready for absorption.
    Split {
        /// Per head `[kv_rank, nope_dim]`: `q_latent = W q_nope`.
        k_transposed: Vec<Weight>,
        /// Per head `[value_dim, kv_rank]`.
        v: Vec<Weight>,
    },
}

/// A matrix and its optional bias.
pub struct Linear {
    /// The matrix.
    pub weight: Weight,
    /// `[rows]`
    pub bias: Option<Vec<f32>>,
}

/// SwiGLU block.
pub struct GatedBlock {
    /// `[inner, hidden]`
    pub gate: Weight,
    /// `[inner, hidden]`
    pub up: Weight,
    /// `[hidden, inner]`
    pub down: Weight,
}

/// Biases of a gated block.
pub struct BlockBiases {
    /// `[inner]`
    pub gate: Vec<f32>,
    /// `[inner]`
    pub up: Vec<f32>,
    /// `[hidden]`
    pub down: Vec<f32>,
}

/// Weights of a feed-forward.
pub enum FeedForwardWeights {
    /// One block, and its biases where it has any.
    Dense(GatedBlock, Option<BlockBiases>),
    /// Routed and shared.
    Moe {
        /// `[experts, hidden]`
        router: Weight,
        /// `[experts]`, when the router has a choice bias.
        router_bias: Option<Vec<f32>>,
        /// One per routed expert.
        experts: Vec<GatedBlock>,
        /// The always-active block.
        shared: Option<GatedBlock>,
    },
}

impl Weights {
    /// Every matrix in turn.
    pub fn each_matrix(&mut self, f: &mut dyn FnMut(&mut Weight)) {
        f(&mut self.embedding);
        f(&mut self.head);
        for layer in &mut self.layers {
            match &mut layer.attention {
                AttentionWeights::Gqa { q, k, v, out, .. } => [q, k, v, out].into_iter().for_each(|l| f(&mut l.weight)),
                AttentionWeights::Mla { q, kv_a, kv_b, out, .. } => {
                    match q {
                        MlaQuery::Direct(q) => f(&mut q.weight),
                        MlaQuery::Compressed { a, b, .. } => [a, b].into_iter().for_each(|l| f(&mut l.weight)),
                    }
                    let (MlaExpansion::Joint { k, v } | MlaExpansion::Split { k_transposed: k, v }) = kv_b;
                    k.iter_mut().chain(v).for_each(&mut *f);
                    [kv_a, out].into_iter().for_each(|l| f(&mut l.weight));
                }
            }
            match &mut layer.feed_forward {
                FeedForwardWeights::Dense(b, _) => [&mut b.gate, &mut b.up, &mut b.down].into_iter().for_each(&mut *f),
                FeedForwardWeights::Moe { router, experts, shared, .. } => {
                    f(router);
                    let blocks = experts.iter_mut().chain(shared);
                    blocks.flat_map(|b| [&mut b.gate, &mut b.up, &mut b.down]).for_each(&mut *f);
                }
            }
        }
    }
}
