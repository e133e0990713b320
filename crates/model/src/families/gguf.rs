//! The keys of GGUF files to `Structure`: what a key may be, and what an absent one means.

use super::purpose::Purpose;
use super::rows::{AttentionOf, ExpertsOf, FAMILIES, Family, Gguf};
use super::*;
use crate::gguf::{Metadata, Value, shown};
use crate::rope::yarn_temperature;
use crate::tensors::{Depth, Tensors};

/// The keys of a file by their whole names, or those of its architecture without its name before them.
pub(crate) struct GgufKeys<'a> {
    metadata: &'a Metadata,
    /// The architecture; empty for whole names.
    architecture: &'a str,
}

impl<'a> GgufKeys<'a> {
    pub(crate) fn whole(metadata: &'a Metadata) -> GgufKeys<'a> {
        GgufKeys { metadata, architecture: "" }
    }

    /// Keys that begin with the architecture's name, without it.
    pub(crate) fn of_architecture(metadata: &'a Metadata, architecture: &'a str) -> GgufKeys<'a> {
        GgufKeys { metadata, architecture }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        let values = &self.metadata.values;
        if self.architecture.is_empty() { values.get(key) } else { values.get(&format!("{}.{key}", self.architecture)) }
    }

    /// A token's id, where there is one.
    pub(crate) fn token_id(&self, key: &str) -> Result<Option<u32>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.token_id().ok_or_else(|| wrong(self, key, "a token's id, or -1 for none"))
    }
}

impl ConfigValues for GgufKeys<'_> {
    fn path(&self) -> &Path {
        &self.metadata.path
    }
    fn number(&self, key: &str) -> Option<f64> {
        self.get(key).and_then(Value::number)
    }
    fn boolean(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(Value::boolean)
    }
    fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::text)
    }
    fn absent(&self, key: &str) -> bool {
        self.get(key).is_none()
    }
    fn shown(&self, key: &str) -> String {
        shown(self.get(key))
    }
}

/// The structure, the layers of multi-token prediction to skip, and what the model is for.
pub(crate) fn structure(
    metadata: &Metadata,
    tensors: &Tensors,
) -> Result<(Structure, usize, Purpose), CheckpointError> {
    let arch = metadata.architecture.as_str();
    let m = &GgufKeys::of_architecture(metadata, arch);
    let named = |family: &&Family| family.gguf.as_ref().is_some_and(|gguf| gguf.name == arch);
    let Some(family) = FAMILIES.iter().find(named) else {
        let mut known: Vec<&str> = Vec::new();
        for Gguf { name, .. } in FAMILIES.iter().filter_map(|family| family.gguf.as_ref()) {
            if !known.contains(name) {
                known.push(name);
            }
        }
        let what = format!("GGUF architecture {arch:?}; supported are {}", known.join(", "));
        return Err(CheckpointError::unsupported(m.path(), what));
    };
    let Some(embedding) = tensors.by_name.get("token_embd.weight") else {
        return Err(CheckpointError::Missing { path: metadata.path.clone(), tensor: "token_embd.weight".to_string() });
    };
    let vocab = embedding.shape.first().copied().unwrap_or(0);
    let s = sizes(m, ["block_count", "embedding_length", "context_length"], vocab)?;
    let skipped = count_or(m, "nextn_predict_layers", 0, s.layers)?;
    let layers = s.layers - skipped;
    let heads = count(m, "attention.head_count", 1, WIDTH_MAX)?;
    let experts = count_or(m, "expert_count", 0, EXPERTS_MAX)?;
    let theta = positive_or(m, "rope.freq_base", 10_000.0)?;
    let scaling = scaling(m, tensors, s.context)?;
    only_neutral(m, family, s.context)?;
    let latent = matches!(family.attention, AttentionOf::Latent { .. });
    let (head_dim, rope_dim) = head_widths(m, latent, s.hidden, heads, &scaling)?;
    let attention = if latent {
        latent_attention(m, heads, rope_dim, theta, &scaling)?
    } else {
        grouped(m, family, heads, head_dim, theta, &scaling)?
    };
    let layers = (0..layers)
        .map(|i| {
            let any = |parts: &[&str]| parts.iter().any(|part| tensors.has(&format!("blk.{i}.{part}.bias")));
            // No key tells of biases: what is stored is used, by the whole groups that the structure has.
            let mut attention = attention.clone();
            match &mut attention {
                Attention::Gqa(Gqa { qkv_bias, out_bias, .. }) => {
                    *qkv_bias |= any(&["attn_q", "attn_k", "attn_v"]);
                    *out_bias = any(&["attn_output"]);
                }
                Attention::Mla(Mla { bias, .. }) => *bias = any(&["attn_kv_a_mqa"]),
            }
            let bias = any(&["ffn_gate", "ffn_up", "ffn_down"]);
            Ok(Layer { attention, feed_forward: feed_forward(m, family, tensors, i, experts, bias)? })
        })
        .collect::<Result<_, CheckpointError>>()?;
    let mut structure = Structure {
        architecture: arch.to_string(),
        vocab,
        hidden: s.hidden,
        layers,
        context: s.context,
        norm_eps: positive_or(m, "attention.layer_norm_rms_epsilon", 1e-6)? as f32,
        head: if tensors.has("output.weight") { Head::Own } else { Head::Tied },
        scales: Scales::default(),
        norms: Norms::default(),
    };
    let purpose = purpose::of_gguf(m, &GgufKeys::whole(metadata), tensors, &mut structure)?;
    Ok((consistent(m.path(), structure)?, skipped, purpose))
}

/// Channels of a head (none of latent attention, whose widths have keys of their own) and how many of them rotate.
fn head_widths(
    m: &GgufKeys,
    latent: bool,
    hidden: usize,
    heads: usize,
    scaling: &Scaling,
) -> Result<(usize, usize), CheckpointError> {
    let (head_dim, rope_dim) = if latent {
        (0, count(m, "rope.dimension_count", 2, HEAD_DIM_MAX)?)
    } else {
        let default = if hidden.is_multiple_of(heads) { hidden / heads } else { 0 };
        let head = count_or(m, "attention.key_length", default, HEAD_DIM_MAX)?;
        (head, count_or(m, "rope.dimension_count", head, HEAD_DIM_MAX)?)
    };
    let rope_sound = rope_dim >= 2 && rope_dim.is_multiple_of(2);
    if !rope_sound || (!latent && head_dim != rope_dim) {
        return Err(CheckpointError::unsupported(m.path(), format!("{rope_dim} rotated of {head_dim} channels")));
    }
    if let Scaling::Factors(factors) = scaling
        && (factors.len() != rope_dim / 2 || factors.iter().any(|f| !f.is_finite() || *f <= 0.0))
    {
        let what = format!("rope_freqs.weight does not hold {} positive factors", rope_dim / 2);
        return Err(CheckpointError::damaged(m.path(), what));
    }
    Ok((head_dim, rope_dim))
}

/// The feed-forward of a layer; `bias` is of a dense block.
fn feed_forward(
    m: &GgufKeys,
    family: &Family,
    tensors: &Tensors,
    layer: usize,
    experts: usize,
    bias: bool,
) -> Result<FeedForward, CheckpointError> {
    if experts == 0 || layer < count_or(m, "leading_dense_block_count", 0, LAYERS_MAX)? {
        return Ok(FeedForward::Dense(Dense {
            hidden: count(m, "feed_forward_length", 1, WIDTH_MAX)?,
            bias,
            activation: Activation::Silu,
        }));
    }
    let inner = match m.absent("expert_feed_forward_length") {
        true => "feed_forward_length",
        false => "expert_feed_forward_length",
    };
    let inner = count(m, inner, 1, WIDTH_MAX)?;
    let active = count(m, "expert_used_count", 1, experts)?;
    if !matches!(family.experts, ExpertsOf::DeepSeek(_)) {
        return mixture(m, experts, active, inner, 0, softmax_router(true));
    }
    let bias = tensors.has(&format!("blk.{layer}.exp_probs_b.bias"));
    let gating = "expert_gating_func";
    let score = match count_or(m, gating, 0, usize::from(u16::MAX))? {
        // Files from before the key are of V2, whose routers have no bias.
        0 if bias => return Err(wrong(m, gating, "1 (softmax) or 2 (sigmoid), as the router has a bias")),
        0 | 1 => Score::Softmax,
        2 => Score::Sigmoid,
        other => {
            let what = format!("expert_gating_func {other}; supported are 1 (softmax) and 2 (sigmoid)");
            return Err(CheckpointError::unsupported(m.path(), what));
        }
    };
    // Routers with sigmoid scores differ in these, and nothing else in a file tells them: no value is assumed.
    if score == Score::Sigmoid {
        let keys = [
            ("expert_group_count", "the published n_group (DeepSeek-V3: 8; Kimi-K2: 1)"),
            ("expert_weights_norm", "the published norm_topk_prob"),
            ("expert_weights_scale", "the published routed_scaling_factor"),
        ];
        if let Some((key, expected)) = keys.into_iter().find(|(key, _)| m.absent(key)) {
            return Err(wrong(m, key, format!("{expected}: take a newer conversion, or write the key into the file")));
        }
    }
    let groups = count_or(m, "expert_group_count", 1, experts)?.max(1);
    let groups_active = match groups {
        1 => count_or(m, "expert_group_used_count", 1, 1)?.max(1),
        _ => count(m, "expert_group_used_count", 1, groups)?,
    };
    let normalize = flag_or(m, "expert_weights_norm", false)? && active > 1;
    // Converters write 0 for none.
    let scale = match m.number("expert_weights_scale") {
        Some(0.0) => 1.0,
        _ => positive_or(m, "expert_weights_scale", 1.0)? as f32,
    };
    let group_score = if score == Score::Sigmoid { GroupScore::TopTwo } else { GroupScore::Max };
    let router = Router { score, groups, groups_active, group_score, bias, normalize, scale };
    let shared = count_or(m, "expert_shared_count", 0, EXPERTS_MAX)?;
    mixture(m, experts, active, inner, shared * inner, router)
}

/// Keys that would change the numbers, and are not read: they may be there with the value that changes nothing.
fn only_neutral(m: &GgufKeys, family: &Family, context: usize) -> Result<(), CheckpointError> {
    let unsupported = |key: &str, supported: &str| {
        let what = format!("{key} {}; supported is {supported}", m.shown(key));
        Err(CheckpointError::unsupported(m.path(), what))
    };
    let factors = ["rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor"];
    if let Some(key) = factors.into_iter().find(|key| !m.absent(key) && m.number(key) != Some(1.0)) {
        return unsupported(key, "1");
    }
    // Some converters write 0 where there is nothing.
    for key in ["logit_scale", "residual_scale", "embedding_scale"] {
        if !matches!(number_or(m, key, 1.0)?, 0.0 | 1.0) {
            return unsupported(key, "1");
        }
    }
    let others = ["attention.scale", "attention.clamp_kqv", "attention.temperature_scale"];
    for key in others.into_iter().chain(["attn_logit_softcapping", "final_logit_softcapping"]) {
        if number_or(m, key, 0.0)? != 0.0 {
            return unsupported(key, "none");
        }
    }
    if !flag_or(m, "attention.causal", true)? {
        return unsupported("attention.causal", "true");
    }
    let arch = m.architecture;
    // What only DeepSeek's routers have.
    if !matches!(family.experts, ExpertsOf::DeepSeek(_)) {
        if count_or(m, "expert_gating_func", 0, EXPERTS_MAX)? > 1 {
            return unsupported("expert_gating_func", &format!("1 (softmax) of architecture {arch}"));
        }
        if !flag_or(m, "expert_weights_norm", true)? {
            return unsupported("expert_weights_norm", &format!("true of architecture {arch}"));
        }
        if !matches!(number_or(m, "expert_weights_scale", 1.0)?, 0.0 | 1.0) {
            return unsupported("expert_weights_scale", &format!("1 of architecture {arch}"));
        }
        for (key, neutral) in [("expert_shared_count", 0), ("expert_group_count", 1)] {
            if count_or(m, key, 0, EXPERTS_MAX)? > neutral {
                return unsupported(key, &format!("{neutral} of architecture {arch}"));
            }
        }
    }
    if !m.absent("attention.sliding_window_pattern") {
        return unsupported("attention.sliding_window_pattern", "one window of all layers");
    }
    // A window of the whole context hides nothing.
    let window = count_or(m, "attention.sliding_window", 0, usize::MAX >> 12)?;
    if !permuted(family) && window > 0 && window < context {
        return unsupported("attention.sliding_window", &format!("none, or {context}, of architecture {arch}"));
    }
    Ok(())
}

fn scaling(m: &GgufKeys, tensors: &Tensors, context: usize) -> Result<Scaling, CheckpointError> {
    let factor = "rope.scaling.factor";
    // A factor without a kind is a linear scaling, as in files from before the kind had a key.
    let kind = match text(m, "rope.scaling.type")? {
        Some(kind) => kind,
        None if !matches!(number_or(m, factor, 1.0)?, 0.0 | 1.0) => "linear",
        None if !m.absent("rope.scale_linear") => "linear",
        None => "none",
    };
    let original = positive_or(m, "rope.scaling.original_context_length", context as f64)?;
    let stored = tensors.by_name.get("rope_freqs.weight");
    if stored.is_some() && kind != "none" {
        let what = format!("rope_freqs.weight together with rope scaling {kind:?}");
        return Err(CheckpointError::unsupported(m.path(), what));
    }
    Ok(match kind {
        "none" => match stored {
            Some(t) => {
                let length = t.shape.first().copied().unwrap_or(0).min(HEAD_DIM_MAX);
                Scaling::Factors(tensors.numbers("rope_freqs.weight", &[length], Depth::Numbers)?)
            }
            None => Scaling::None,
        },
        "linear" if m.absent(factor) && !m.absent("rope.scale_linear") => {
            Scaling::Linear { factor: positive(m, "rope.scale_linear")? }
        }
        "linear" => Scaling::Linear { factor: positive(m, factor)? },
        "yarn" => Scaling::Yarn {
            factor: positive(m, factor)?,
            original,
            beta_fast: positive_or(m, "rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: positive_or(m, "rope.scaling.yarn_beta_slow", 1.0)?,
        },
        other => {
            let other: String = other.chars().take(80).collect();
            let what = format!("rope scaling {other:?}; supported are none, linear, yarn");
            return Err(CheckpointError::unsupported(m.path(), what));
        }
    })
}

fn latent_attention(
    m: &GgufKeys,
    heads: usize,
    rope_dim: usize,
    theta: f64,
    scaling: &Scaling,
) -> Result<Attention, CheckpointError> {
    // New files call the widths of a head `*_mla`, and the cache's `key_length`; old files have only the head's.
    let (key, value) = if !m.absent("attention.key_length_mla") {
        (
            count(m, "attention.key_length_mla", 1, HEAD_DIM_MAX)?,
            count(m, "attention.value_length_mla", 1, HEAD_DIM_MAX)?,
        )
    } else {
        (count(m, "attention.key_length", 1, HEAD_DIM_MAX)?, count(m, "attention.value_length", 1, HEAD_DIM_MAX)?)
    };
    if key <= rope_dim {
        return Err(CheckpointError::damaged(m.path(), format!("a head of {key} channels with {rope_dim} rotated")));
    }
    // The key holds 0.1 mscale_all_dim; without it there is no correction. mscale is taken to be equal: the amplitude is 1.
    let multiplier = number_or(m, "rope.scaling.yarn_log_multiplier", 0.0)?;
    let correction = match scaling {
        Scaling::Yarn { factor, .. } if multiplier != 0.0 => yarn_temperature(*factor, multiplier / 0.1),
        _ => 1.0,
    };
    Ok(Attention::Mla(Mla {
        heads,
        q_rank: Some(count_or(m, "attention.q_lora_rank", 0, WIDTH_MAX)?).filter(|&r| r > 0),
        kv_rank: count(m, "attention.kv_lora_rank", 1, WIDTH_MAX)?,
        nope_dim: key - rope_dim,
        rope_dim,
        value_dim: value,
        bias: false,
        latent_eps: 1e-6,
        rope: latent_rope(rope_dim, key, theta, scaling, 1.0, correction),
    }))
}

fn permuted(family: &Family) -> bool {
    family.gguf.as_ref().is_some_and(|gguf| gguf.permuted)
}

fn grouped(
    m: &GgufKeys,
    family: &Family,
    heads: usize,
    head_dim: usize,
    theta: f64,
    scaling: &Scaling,
) -> Result<Attention, CheckpointError> {
    let kv_heads = count_or(m, "attention.head_count_kv", heads, heads)?;
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        let what = format!("{heads} heads over {kv_heads} key/value heads cannot be");
        return Err(CheckpointError::damaged(m.path(), what));
    }
    let temperature = match scaling {
        Scaling::Yarn { factor, .. } => yarn_temperature(*factor, 1.0),
        _ => 1.0,
    };
    let AttentionOf::Grouped { qk_norm, qkv_bias, .. } = family.attention else {
        let what = format!("grouped-query attention of architecture {}", m.architecture);
        return Err(CheckpointError::unsupported(m.path(), what));
    };
    let pairing = if permuted(family) { Pairing::Interleaved } else { Pairing::Halves };
    Ok(Attention::Gqa(Gqa {
        heads,
        kv_heads,
        head_dim,
        rotates: true,
        qk_norm,
        qkv_bias,
        out_bias: false,
        window: Some(count_or(m, "attention.sliding_window", 0, usize::MAX >> 12)?)
            .filter(|&w| w > 0 && permuted(family)),
        rope: plain_rope(head_dim, head_dim, theta, scaling, pairing, temperature),
    }))
}
