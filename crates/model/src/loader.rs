//! Tensor names to `Weights`: the published names of Hugging Face checkpoints, and those of GGUF.

use crate::checkpoint::{CheckpointError, Kind};
use crate::structure::{Attention, FeedForward, Structure};
use crate::tensors::Tensors;
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
}

impl Names<'_> {
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
        self.tensors.vector(&self.of(layer, part, "weight"), len)
    }

    fn matrix(&self, layer: usize, part: &str, rows: usize, cols: usize) -> Result<Weight, CheckpointError> {
        self.tensors.matrix(&self.of(layer, part, "weight"), rows, cols)
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
        let bias = bias.then(|| self.tensors.vector(&self.of(layer, part, "bias"), rows)).transpose()?;
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

/// All weights of the structure.
pub fn load(structure: &Structure, tensors: &Tensors, kind: Kind) -> Result<Weights, CheckpointError> {
    let names = Names { tensors, kind };
    let (vocab, hidden) = (structure.vocab, structure.hidden);
    let (embedding, final_norm, head) = match kind {
        Kind::Safetensors => ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"),
        Kind::Gguf => ("token_embd.weight", "output_norm.weight", "output.weight"),
    };
    let embedding = tensors.matrix(embedding, vocab, hidden)?;
    let head = if structure.tied { embedding.clone() } else { tensors.matrix(head, vocab, hidden)? };
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
    Ok(Weights {
        embedding,
        layers,
        final_norm: tensors.vector(final_norm, hidden)?,
        head,
        files: tensors.files.clone(),
    })
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
            let kv_b = if names.kind == Kind::Gguf && names.tensors.has(&split_k) {
                MlaExpansion::Split {
                    k_transposed: names.tensors.stack(&split_k, heads, kv_rank, nope_dim)?,
                    v: names.tensors.stack(&split_v, heads, value_dim, kv_rank)?,
                }
            } else {
                let head = nope_dim + value_dim;
                let joint = names.matrix(i, "self_attn.kv_b_proj", heads * head, kv_rank)?;
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
        FeedForward::Dense { hidden: inner } => {
            return Ok(FeedForwardWeights::Dense(names.block(i, "mlp", *inner, hidden)?));
        }
        FeedForward::Moe { experts, hidden, shared_hidden, router, .. } => {
            (*experts, *hidden, *shared_hidden, router.bias)
        }
    };
    let tensors = names.tensors;
    let mixtral = format!("model.layers.{i}.block_sparse_moe");
    let old_mixtral = names.kind == Kind::Safetensors && tensors.has(&format!("{mixtral}.gate.weight"));
    let router = if old_mixtral {
        tensors.matrix(&format!("{mixtral}.gate.weight"), experts, hidden)?
    } else {
        names.matrix(i, "mlp.gate", experts, hidden)?
    };
    let bias_name = match names.kind {
        Kind::Safetensors => format!("model.layers.{i}.mlp.gate.e_score_correction_bias"),
        Kind::Gguf => format!("blk.{i}.exp_probs_b.bias"),
    };
    let router_bias = biased.then(|| tensors.vector(&bias_name, experts)).transpose()?;
    let stacked = |part: &str, rows, cols| -> Result<Vec<Weight>, CheckpointError> {
        let together = format!("blk.{i}.ffn_{part}_exps.weight");
        if tensors.has(&together) || !tensors.has(&format!("blk.{i}.ffn_{part}.0.weight")) {
            return tensors.stack(&together, experts, rows, cols);
        }
        (0..experts).map(|e| tensors.matrix(&format!("blk.{i}.ffn_{part}.{e}.weight"), rows, cols)).collect()
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
                    gate: tensors.matrix(&format!("{mixtral}.experts.{e}.w1.weight"), inner, hidden)?,
                    up: tensors.matrix(&format!("{mixtral}.experts.{e}.w3.weight"), inner, hidden)?,
                    down: tensors.matrix(&format!("{mixtral}.experts.{e}.w2.weight"), hidden, inner)?,
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
