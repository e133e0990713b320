//! Tensor names to `Weights`: the published names of Hugging Face checkpoints, and those of GGUF.

use std::cell::RefCell;
use std::collections::BTreeSet;

use kernels::Format;

use crate::checkpoint::{CheckpointError, Kind};
use crate::structure::{Attention, FeedForward, Structure};
use crate::tensors::{Depth, Stored, Tensors};
use crate::weight::*;

/// Names of a layer's tensors: Hugging Face, GGUF.
const NAMES: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.q_a_proj", "attn_q_a"),
    ("self_attn.q_a_layernorm", "attn_q_a_norm"),
    ("self_attn.q_b_proj", "attn_q_b"),
    ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
    ("self_attn.kv_a_layernorm", "attn_kv_a_norm"),
    ("self_attn.kv_b_proj", "attn_kv_b"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_experts.up_proj", "ffn_up_shexp"),
    ("mlp.shared_experts.down_proj", "ffn_down_shexp"),
];

struct Names<'a> {
    tensors: &'a Tensors,
    kind: Kind,
    depth: Depth,
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

    fn has(&self, name: &str) -> bool {
        self.tensors.has(name)
    }

    fn whole(&self, name: &str, rows: usize, cols: usize) -> Result<Weight, CheckpointError> {
        self.note(name);
        self.tensors.matrix(name, rows, cols, self.depth)
    }

    fn stack(&self, name: &str, count: usize, rows: usize, cols: usize) -> Result<Vec<Weight>, CheckpointError> {
        self.note(name);
        self.tensors.stack(name, [count, rows, cols], self.depth)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, CheckpointError> {
        self.note(name);
        self.tensors.vector(name, len, self.depth)
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

    fn norm(&self, layer: usize, part: &str, len: usize) -> Result<Vec<f32>, CheckpointError> {
        self.vector(&self.of(layer, part, "weight"), len)
    }

    fn matrix(&self, layer: usize, part: &str, rows: usize, cols: usize) -> Result<Weight, CheckpointError> {
        self.whole(&self.of(layer, part, "weight"), rows, cols)
    }

    fn bias(&self, layer: usize, part: &str, rows: usize) -> Result<Vec<f32>, CheckpointError> {
        self.vector(&self.of(layer, part, "bias"), rows)
    }

    fn linear(
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

    fn block(&self, layer: usize, prefix: &str, inner: usize, hidden: usize) -> Result<GatedBlock, CheckpointError> {
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
    let names = Names { tensors, kind, depth, used: RefCell::default() };
    let (vocab, hidden) = (structure.vocab, structure.hidden);
    let (embedding, final_norm, head) = match kind {
        Kind::Safetensors => ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"),
        Kind::Gguf => ("token_embd.weight", "output_norm.weight", "output.weight"),
    };
    let embedding = names.whole(embedding, vocab, hidden)?;
    let head = if structure.tied { embedding.clone() } else { names.whole(head, vocab, hidden)? };
    let layers = structure
        .layers
        .iter()
        .enumerate()
        .map(|(i, layer)| {
            Ok(LayerWeights {
                attention_norm: names.norm(i, "input_layernorm", hidden)?,
                attention: attention(&names, i, &layer.attention, hidden)?,
                feed_forward_norm: names.norm(i, "post_attention_layernorm", hidden)?,
                feed_forward: feed_forward(&names, i, &layer.feed_forward, hidden)?,
            })
        })
        .collect::<Result<_, CheckpointError>>()?;
    let final_norm = names.vector(final_norm, hidden)?;
    complete(&names, structure, skipped)?;
    Ok(Weights { embedding, layers, final_norm, head, files: tensors.files.clone() })
}

/// Tensors of a layer that are rightly left alone, by their ending: kind of checkpoint, ending, why.
const LEFT_ALONE: &[(Kind, &str, &str)] = &[
    (Kind::Safetensors, "self_attn.rotary_emb.inv_freq", "rotary table: follows from the configuration"),
    (Kind::Safetensors, "self_attn.rotary_emb.cos_cached", "rotary table: follows from the configuration"),
    (Kind::Safetensors, "self_attn.rotary_emb.sin_cached", "rotary table: follows from the configuration"),
    (Kind::Gguf, "attn_rot_embd.weight", "rotary table: follows from the metadata"),
];

/// As `LEFT_ALONE`, outside of layers.
const LEFT_ALONE_OUTSIDE: &[(Kind, &str, &str)] = &[
    (Kind::Safetensors, "model.rotary_emb.inv_freq", "rotary table: follows from the configuration"),
    (Kind::Gguf, "rope_freqs.weight", "already in the structure's frequencies; refused there where it cannot be"),
];

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
            let file = names.tensors.files.first().map_or_else(Default::default, |f| f.path().to_path_buf());
            return Err(CheckpointError::Damaged { path: file, what });
        }
    }
    Ok(())
}

fn attention(names: &Names, i: usize, kind: &Attention, hidden: usize) -> Result<AttentionWeights, CheckpointError> {
    match *kind {
        Attention::Gqa { heads, kv_heads, head_dim, qk_norm, qkv_bias, out_bias, .. } => {
            let norm = |part| qk_norm.then(|| names.norm(i, part, head_dim)).transpose();
            Ok(AttentionWeights::Gqa {
                q: names.linear(i, "self_attn.q_proj", heads * head_dim, hidden, qkv_bias)?,
                k: names.linear(i, "self_attn.k_proj", kv_heads * head_dim, hidden, qkv_bias)?,
                v: names.linear(i, "self_attn.v_proj", kv_heads * head_dim, hidden, qkv_bias)?,
                out: names.linear(i, "self_attn.o_proj", hidden, heads * head_dim, out_bias)?,
                q_norm: norm("self_attn.q_norm")?,
                k_norm: norm("self_attn.k_norm")?,
            })
        }
        Attention::Mla { heads, q_rank, kv_rank, nope_dim, rope_dim, value_dim, bias, .. } => {
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
            let kv_b = if names.kind == Kind::Gguf && names.has(&split_k) {
                let k_transposed = names.stack(&split_k, heads, kv_rank, nope_dim)?;
                let v = names.stack(&split_v, heads, value_dim, kv_rank)?;
                if names.has(&format!("blk.{i}.attn_kv_b.weight")) {
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
            Ok(AttentionWeights::Mla {
                q,
                kv_a: names.linear(i, "self_attn.kv_a_proj_with_mqa", kv_rank + rope_dim, hidden, bias)?,
                kv_a_norm: names.norm(i, "self_attn.kv_a_layernorm", kv_rank)?,
                kv_b,
                out: names.linear(i, "self_attn.o_proj", hidden, heads * value_dim, bias)?,
            })
        }
    }
}

fn feed_forward(
    names: &Names,
    i: usize,
    kind: &FeedForward,
    hidden: usize,
) -> Result<FeedForwardWeights, CheckpointError> {
    let (experts, inner, shared_hidden, biased) = match kind {
        FeedForward::Dense { hidden: inner, bias } => {
            let biases = || {
                Ok::<_, CheckpointError>(BlockBiases {
                    gate: names.bias(i, "mlp.gate_proj", *inner)?,
                    up: names.bias(i, "mlp.up_proj", *inner)?,
                    down: names.bias(i, "mlp.down_proj", hidden)?,
                })
            };
            let block = names.block(i, "mlp", *inner, hidden)?;
            return Ok(FeedForwardWeights::Dense(block, bias.then(biases).transpose()?));
        }
        FeedForward::Moe { experts, hidden, shared_hidden, router, .. } => {
            (*experts, *hidden, *shared_hidden, router.bias)
        }
    };
    let mixtral = format!("model.layers.{i}.block_sparse_moe");
    let old_mixtral = names.kind == Kind::Safetensors && names.has(&format!("{mixtral}.gate.weight"));
    let router = if old_mixtral {
        names.whole(&format!("{mixtral}.gate.weight"), experts, hidden)?
    } else {
        names.matrix(i, "mlp.gate", experts, hidden)?
    };
    let bias_name = match names.kind {
        Kind::Safetensors => format!("model.layers.{i}.mlp.gate.e_score_correction_bias"),
        Kind::Gguf => format!("blk.{i}.exp_probs_b.bias"),
    };
    let router_bias = biased.then(|| names.vector(&bias_name, experts)).transpose()?;
    let stacked = |part: &str, rows, cols| -> Result<Vec<Weight>, CheckpointError> {
        let together = format!("blk.{i}.ffn_{part}_exps.weight");
        if names.has(&together) || !names.has(&format!("blk.{i}.ffn_{part}.0.weight")) {
            return names.stack(&together, experts, rows, cols);
        }
        (0..experts).map(|e| names.whole(&format!("blk.{i}.ffn_{part}.{e}.weight"), rows, cols)).collect()
    };
    let experts = match names.kind {
        Kind::Gguf => {
            let (gate, up) = (stacked("gate", inner, hidden)?, stacked("up", inner, hidden)?);
            let down = stacked("down", hidden, inner)?;
            let blocks = gate.into_iter().zip(up).zip(down);
            blocks.map(|((gate, up), down)| GatedBlock { gate, up, down }).collect()
        }
        Kind::Safetensors if old_mixtral => (0..experts)
            .map(|e| {
                Ok(GatedBlock {
                    gate: names.whole(&format!("{mixtral}.experts.{e}.w1.weight"), inner, hidden)?,
                    up: names.whole(&format!("{mixtral}.experts.{e}.w3.weight"), inner, hidden)?,
                    down: names.whole(&format!("{mixtral}.experts.{e}.w2.weight"), hidden, inner)?,
                })
            })
            .collect::<Result<_, CheckpointError>>()?,
        Kind::Safetensors => (0..experts)
            .map(|e| names.block(i, &format!("mlp.experts.{e}"), inner, hidden))
            .collect::<Result<_, CheckpointError>>()?,
    };
    let shared =
        (shared_hidden > 0).then(|| names.block(i, "mlp.shared_experts", shared_hidden, hidden)).transpose()?;
    Ok(FeedForwardWeights::Moe { router, router_bias, experts, shared })
}
