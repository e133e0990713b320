//! Multi-head latent attention as data: its sizes, and the weights of a layer. `latent` computes it.

use kernels::Format;

use super::{AttentionKind, AttentionLayer, Heads};
use crate::cache::{CacheFormat, RowKind, common};
use crate::error::CheckpointError;
use crate::identity::IdentityFields;
use crate::loader::Names;
use crate::parameters::{sum, times};
use crate::rope::Rope;
use crate::tensors::{Depth, Kind};
use crate::weight::{Linear, Weight};

/// Prompt positions are expanded in whole aligned blocks of this many.
pub const BLOCK: usize = 128;

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1). Caches `kv_rank + rope_dim` numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Mla {
    /// Query heads.
    pub heads: usize,
    /// Rank of the query compression; `None` = queries straight from the stream.
    pub q_rank: Option<usize>,
    /// Width of the cached latent.
    pub kv_rank: usize,
    /// Width of the unrotated part of a head's q and k.
    pub nope_dim: usize,
    /// Width of the rotated part, one key for all heads.
    pub rope_dim: usize,
    /// Width of a head's value.
    pub value_dim: usize,
    /// Biases on the compressions and the output projection (not on q_b, kv_b).
    pub bias: bool,
    /// Epsilon of the norms on the latents (1e-6 whatever `norm_eps` says).
    pub latent_eps: f32,
    /// Rotary embedding over `rope_dim`.
    pub rope: Rope,
}

impl AttentionKind for Mla {
    fn heads(&self) -> Heads<'_> {
        let widths = vec![self.nope_dim, self.rope_dim, self.value_dim];
        Heads { count: self.heads, cache_width: widths.iter().sum(), widths, rope: &self.rope }
    }

    /// A latent and its rotary key.
    fn cache(&self, format: CacheFormat) -> Vec<RowKind> {
        vec![RowKind::each_token(self.kv_rank + self.rope_dim, common(self.kv_rank, self.rope_dim), format)]
    }

    fn prompt_block(&self) -> Option<usize> {
        Some(BLOCK)
    }

    fn parameters(&self, hidden: usize) -> u64 {
        let Mla { heads, q_rank, kv_rank, nope_dim, rope_dim, value_dim, bias, .. } = *self;
        let q = heads * (nope_dim + rope_dim);
        let query =
            q_rank.map_or(times(&[hidden, q]), |rank| sum(&[times(&[hidden, rank]), rank as u64, times(&[rank, q])]));
        sum(&[
            query,
            times(&[hidden, kv_rank + rope_dim]),
            kv_rank as u64,
            times(&[heads, nope_dim + value_dim, kv_rank]),
            times(&[heads, value_dim, hidden]),
            if bias { sum(&[q_rank.unwrap_or(0) as u64, (kv_rank + rope_dim) as u64, hidden as u64]) } else { 0 },
        ])
    }

    fn identify(&self, fields: &mut IdentityFields) {
        let Mla { heads, q_rank, kv_rank, nope_dim, rope_dim, value_dim, bias, latent_eps, rope } = self;
        fields.size("mla.heads", *heads);
        fields.optional("mla.q_rank", *q_rank);
        fields.size("mla.kv_rank", *kv_rank);
        fields.size("mla.nope_dim", *nope_dim);
        fields.size("mla.rope_dim", *rope_dim);
        fields.size("mla.value_dim", *value_dim);
        fields.flag("mla.bias", *bias);
        fields.float("mla.latent_eps", *latent_eps);
        fields.rope(rope);
    }

    fn describe(&self) -> String {
        let Mla { heads, q_rank, kv_rank, nope_dim, rope_dim, value_dim, .. } = self;
        let q = q_rank.map_or_else(|| "direct".to_string(), |r| format!("rank {r}"));
        format!(
            "MLA, {heads} heads of {nope_dim} + {rope_dim} rotary (values {value_dim}), latent {kv_rank}, queries {q}"
        )
    }

    fn load(&self, names: &Names, i: usize, hidden: usize) -> Result<Box<dyn AttentionLayer>, CheckpointError> {
        let Mla { heads, q_rank, kv_rank, nope_dim, rope_dim, value_dim, bias, .. } = *self;
        let q_rows = heads * (nope_dim + rope_dim);
        let q = match q_rank {
            None => MlaQuery::Direct(names.linear(i, "self_attn.q_proj", q_rows, hidden, false)?),
            Some(rank) => MlaQuery::Compressed {
                a: names.linear(i, "self_attn.q_a_proj", rank, hidden, bias)?,
                norm: names.norm(i, "self_attn.q_a_layernorm", rank)?,
                b: names.linear(i, "self_attn.q_b_proj", q_rows, rank, false)?,
            },
        };
        let (split_k, split_v) = (format!("blk.{i}.attn_k_b.weight"), format!("blk.{i}.attn_v_b.weight"));
        let head = nope_dim + value_dim;
        let joint = || names.matrix(i, "self_attn.kv_b_proj", heads * head, kv_rank);
        let kv_b = if names.kind == Kind::Gguf && names.tensors.has(&split_k) {
            let k_transposed = names.stack(&split_k, heads, kv_rank, nope_dim)?;
            let v = names.stack(&split_v, heads, value_dim, kv_rank)?;
            if names.tensors.has(&format!("blk.{i}.attn_kv_b.weight")) {
                let joint = joint()?;
                if names.depth == Depth::Numbers {
                    same_expansion(names, i, &joint, &k_transposed, &v)?;
                }
            }
            MlaExpansion::Split { k_transposed, v }
        } else {
            let joint = joint()?;
            MlaExpansion::Joint {
                k: (0..heads).map(|h| joint.view(h * head, nope_dim)).collect(),
                v: (0..heads).map(|h| joint.view(h * head + nope_dim, value_dim)).collect(),
            }
        };
        Ok(Box::new(MlaLayer {
            shape: self.clone(),
            q,
            kv_a: names.linear(i, "self_attn.kv_a_proj_with_mqa", kv_rank + rope_dim, hidden, bias)?,
            kv_a_norm: names.norm(i, "self_attn.kv_a_layernorm", kv_rank)?,
            kv_b,
            out: names.linear(i, "self_attn.o_proj", hidden, heads * value_dim, bias)?,
        }))
    }
}

impl Mla {
    /// Width of a query's head, and of a key that is rebuilt.
    pub(super) fn query_width(&self) -> usize {
        self.nope_dim + self.rope_dim
    }

    /// Width of a row of the cache, and of an absorbed query's head.
    pub(super) fn entry_width(&self) -> usize {
        self.kv_rank + self.rope_dim
    }
}

/// A layer of it.
pub struct MlaLayer {
    /// Its sizes.
    pub shape: Mla,
    /// Query path.
    pub q: MlaQuery,
    /// `[kv_rank + rope_dim, hidden]`: latent rows, then the rotary key's.
    pub kv_a: Linear,
    /// `[kv_rank]`
    pub kv_a_norm: Vec<f32>,
    /// From the latent to keys and values.
    pub kv_b: MlaExpansion,
    /// `[hidden, heads * value_dim]`
    pub out: Linear,
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

/// How far two forms of one expansion may be apart, as a share of the smaller one's length: what rounding explains. Forms that have
/// nothing to do with each other are 1.4 apart, and one that is twice the other 1.
fn apart_at_most(joint: &Weight, split: &Weight) -> f64 {
    let exact = |weight: &Weight| matches!(weight.format, Format::F32 | Format::F16 | Format::Bf16);
    if exact(joint) && exact(split) { 0.02 } else { 0.7 }
}

/// Some converters write MLA's expansion in both layouts. The split one is used, and the joint one must say the same. Of each layer one
/// head is compared, another one in the next layer: where only one of the forms was changed, it was in all of them.
fn same_expansion(
    names: &Names,
    layer: usize,
    joint: &Weight,
    k_transposed: &[Weight],
    v: &[Weight],
) -> Result<(), CheckpointError> {
    let h = layer % v.len();
    let (k_transposed, v) = (&k_transposed[h], &v[h]);
    let (nope, rank) = (k_transposed.cols, joint.cols);
    let decoded = |weight: &Weight| {
        let mut out = vec![0f32; weight.rows * weight.cols];
        out.chunks_mut(weight.cols).enumerate().for_each(|(r, row)| weight.matrix().decode_row(r, row));
        out
    };
    let joint_head = decoded(&joint.view(h * (nope + v.rows), nope + v.rows));
    let (joint_k, joint_v) = joint_head.split_at(nope * rank);
    let transposed = decoded(k_transposed);
    let split_k: Vec<f32> = (0..nope * rank).map(|at| transposed[at % rank * nope + at / rank]).collect();
    for (part, stored, a, b) in [("attn_k_b", k_transposed, joint_k, &split_k), ("attn_v_b", v, joint_v, &decoded(v))] {
        let square = |x: &[f32]| x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        let apart: f64 = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
        let most = apart_at_most(joint, stored).powi(2) * square(a).min(square(b));
        // False too where a number is none.
        let same = apart <= most;
        if !same {
            let what = format!(
                "tensors blk.{layer}.attn_kv_b.weight and blk.{layer}.{part}.weight are two forms of the same numbers, and they differ; \
                one of them is of another model: take another checkpoint"
            );
            return Err(CheckpointError::damaged(&names.tensors.any_path(), what));
        }
    }
    Ok(())
}
