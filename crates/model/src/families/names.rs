//! What published checkpoints call their tensors, and those that are rightly left alone.

use crate::tensors::Kind;

/// Names of a layer's tensors: Hugging Face, GGUF.
pub const NAMES: &[(&str, &str)] = &[
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

/// Norms after attention and feed-forward, in models that have them. No GGUF file with such is read.
pub const NORMS_AFTER: [&str; 2] = ["post_attention_layernorm", "post_feedforward_layernorm"];

/// The norm before the feed-forward, in models with norms after attention and without.
pub fn before_feed_forward(after: bool) -> &'static str {
    if after { "pre_feedforward_layernorm" } else { "post_attention_layernorm" }
}

/// Embedding, final norm and output head.
pub fn outside(kind: Kind) -> [&'static str; 3] {
    match kind {
        Kind::Safetensors => ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"],
        Kind::Gguf => ["token_embd.weight", "output_norm.weight", "output.weight"],
    }
}

/// The output head of labels.
pub fn labels(kind: Kind) -> &'static str {
    match kind {
        Kind::Safetensors => "score.weight",
        Kind::Gguf => "cls.output.weight",
    }
}

/// Tensors of a layer that are rightly left alone, by their ending: kind of checkpoint, ending, why.
pub const LEFT_ALONE: &[(Kind, &str, &str)] = &[
    (Kind::Safetensors, "self_attn.rotary_emb.inv_freq", "rotary table: follows from the configuration"),
    (Kind::Safetensors, "self_attn.rotary_emb.cos_cached", "rotary table: follows from the configuration"),
    (Kind::Safetensors, "self_attn.rotary_emb.sin_cached", "rotary table: follows from the configuration"),
    (Kind::Gguf, "attn_rot_embd.weight", "rotary table: follows from the metadata"),
];

/// As `LEFT_ALONE`, outside of layers.
pub const LEFT_ALONE_OUTSIDE: &[(Kind, &str, &str)] = &[
    (Kind::Safetensors, "model.rotary_emb.inv_freq", "rotary table: follows from the configuration"),
    (Kind::Gguf, "rope_freqs.weight", "already in the structure's frequencies; refused there where it cannot be"),
];
