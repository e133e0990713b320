//! Hugging Face's `config.json` to `Structure`, by a family's row.

use std::path::Path;

use serde_json::Value;

use super::rows::{AttentionOf, COMING, DeepSeekMoe, ExpertsOf, FAMILIES, Family, Windows};
use super::*;
use crate::rope::yarn_temperature;

fn unsupported(c: &Json, what: String) -> CheckpointError {
    CheckpointError::unsupported(c.path, what)
}

/// Theta, scaling, and the scaling's own settings, in either style (`rope_theta` + `rope_scaling`, or `rope_parameters`).
/// `theta` is the family's default.
fn rope<'a>(c: &Json<'a>, theta: f64, context: usize) -> Result<(f64, Scaling, Option<Json<'a>>), CheckpointError> {
    const KINDS: &str = "default, linear, llama3 or yarn";
    let (scaling, parameters) = (c.nested("rope_scaling")?, c.nested("rope_parameters")?);
    let inner = scaling.or(parameters);
    let theta = match &inner {
        Some(inner) if c.absent("rope_theta") => positive_or(inner, "rope_theta", theta)?,
        _ => positive_or(c, "rope_theta", theta)?,
    };
    for settings in [Some(*c), inner].into_iter().flatten() {
        if number_or(&settings, "partial_rotary_factor", 1.0)? != 1.0 {
            let what = format!("partial_rotary_factor {}; supported is 1", settings.shown("partial_rotary_factor"));
            return Err(unsupported(c, what));
        }
    }
    let Some(inner) = inner else { return Ok((theta, Scaling::None, None)) };
    let kind = match (text(&inner, "rope_type")?, text(&inner, "type")?) {
        (Some(kind), _) | (None, Some(kind)) => kind.to_string(),
        // Without a kind nothing may be given that only a kind has.
        (None, None) => {
            let known = ["rope_theta", "partial_rotary_factor", "rope_type", "type"];
            let keys = inner.json.as_object().into_iter().flat_map(|o| o.keys());
            if keys.into_iter().any(|k| !known.contains(&k.as_str())) {
                return Err(wrong(&inner, "rope_type", KINDS));
            }
            "default".to_string()
        }
    };
    let parsed = match kind.as_str() {
        "default" => return Ok((theta, Scaling::None, None)),
        "linear" => Scaling::Linear { factor: positive(&inner, "factor")? },
        "llama3" => Scaling::Llama3 {
            factor: positive(&inner, "factor")?,
            low: positive(&inner, "low_freq_factor")?,
            high: positive(&inner, "high_freq_factor")?,
            original: positive(&inner, "original_max_position_embeddings")?,
        },
        "yarn" if !flag_or(&inner, "truncate", true)? => {
            return Err(unsupported(c, "rope scaling yarn with truncate false".to_string()));
        }
        "yarn" => Scaling::Yarn {
            factor: positive(&inner, "factor")?,
            original: positive_or(&inner, "original_max_position_embeddings", context as f64)?,
            beta_fast: positive_or(&inner, "beta_fast", 32.0)?,
            beta_slow: positive_or(&inner, "beta_slow", 1.0)?,
        },
        other => {
            let other: String = other.chars().take(80).collect();
            return Err(unsupported(c, format!("rope scaling {other:?}; supported are {KINDS}")));
        }
    };
    Ok((theta, parsed, Some(inner)))
}

/// YaRN's factor on cos and sin, outside of DeepSeek: given, or of `mscale` where both are, or the paper's.
fn yarn_amplitude(inner: &Json, factor: f64) -> Result<f64, CheckpointError> {
    if !inner.absent("attention_factor") {
        return positive(inner, "attention_factor");
    }
    let (mscale, all) = (number_or(inner, "mscale", 0.0)?, number_or(inner, "mscale_all_dim", 0.0)?);
    Ok(match mscale != 0.0 && all != 0.0 {
        true => yarn_temperature(factor, mscale) / yarn_temperature(factor, all),
        false => yarn_temperature(factor, 1.0),
    })
}

/// The listed kind of each layer's attention (true: windowed), where the configuration lists them.
fn layer_types(c: &Json, layers: usize) -> Result<Option<Vec<bool>>, CheckpointError> {
    if c.absent("layer_types") {
        return Ok(None);
    }
    let types = c.list("layer_types")?;
    if types.len() != layers {
        return Err(wrong(c, "layer_types", format!("a list of {layers} kinds, one a layer")));
    }
    let windowed = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => {
            let kind: String = kind.to_string().chars().take(80).collect();
            Err(unsupported(c, format!("layer_types with {kind}; supported are full_attention and sliding_attention")))
        }
    };
    types.iter().map(windowed).collect::<Result<_, _>>().map(Some)
}

/// The window of each layer. A listed kind counts where the family's own code reads it; elsewhere it may only agree.
fn windows(c: &Json, family: &str, windows: Windows, layers: usize) -> Result<Vec<Option<usize>>, CheckpointError> {
    let size = |default: usize| {
        let size = c.count_or_null("sliding_window", default, 0, CONTEXT_MAX)?;
        if size == 0 && !c.absent("sliding_window") {
            return Err(wrong(c, "sliding_window", "at least 1, or null for none"));
        }
        Ok(Some(size).filter(|&w| w > 0))
    };
    let mut each = usize::MAX;
    let (window, first, decides) = match windows {
        Windows::Never => (None, 0, false),
        Windows::All(default) => (size(default)?, 0, false),
        Windows::From(first) => (size(4096)?, count_or(c, "max_window_layers", first, LAYERS_MAX)?, true),
        Windows::ButEach(default) => {
            each = count_or(c, "sliding_window_pattern", default, LAYERS_MAX)?.max(1);
            (size(4096)?, 0, true)
        }
        Windows::Asked { first, listed } => {
            let asked = flag_or(c, "use_sliding_window", false)?;
            let first = count_or(c, "max_window_layers", first, LAYERS_MAX)?;
            (if asked { size(4096)? } else { None }, first, listed)
        }
    };
    let own: Vec<bool> = (0..layers).map(|i| window.is_some() && i >= first && (i + 1) % each != 0).collect();
    let windowed = match layer_types(c, layers)? {
        None => own,
        Some(listed) if listed == own => own,
        Some(listed) if decides && window.is_some() => listed,
        Some(_) => {
            let what = format!(
                "layer_types that disagree with sliding_window {}: architecture {family} {}",
                c.shown("sliding_window"),
                if window.is_some() { "windows other layers" } else { "as configured windows none" }
            );
            return Err(unsupported(c, what));
        }
    };
    Ok(windowed.into_iter().map(|w| window.filter(|_| w)).collect())
}

/// The names of all architectures that are read, for messages.
fn known() -> String {
    FAMILIES.iter().map(|family| family.hf).collect::<Vec<_>>().join(", ")
}

/// Structure from a Hugging Face `config.json`, and the number of multi-token-prediction layers to skip.
pub fn from_config(path: &Path, json: &Value) -> Result<(Structure, usize), CheckpointError> {
    let c = Json { path, json };
    let Some(name) = text(&c, "model_type")? else {
        return Err(wrong(&c, "model_type", format!("one of {}", known())));
    };
    stored_as_read(&c)?;
    let Some(family) = FAMILIES.iter().find(|family| family.hf == name) else {
        let name: String = name.chars().take(80).collect();
        let what = match COMING.contains(&name.as_str()) {
            true => format!("architecture {name} is recognised but not supported yet; supported are {}", known()),
            false => format!("architecture {name:?}; supported are {}", known()),
        };
        return Err(unsupported(&c, what));
    };
    let (structure, skipped) = structure(&c, family)?;
    Ok((consistent(path, structure)?, skipped))
}

/// Blocks that share a factor in FP8 checkpoints.
const FP8_BLOCK: [u64; 2] = [128, 128];

/// Weights that are quantised in another way than is read have other tensors, which would be told as missing.
fn stored_as_read(c: &Json) -> Result<(), CheckpointError> {
    let Some(quantised) = c.nested("quantization_config")? else { return Ok(()) };
    let supported = "none, or fp8 with blocks of 128 x 128; GGUF files have other formats";
    let method = text(&quantised, "quant_method")?.unwrap_or("none");
    if method != "fp8" {
        let method: String = method.chars().take(80).collect();
        return Err(unsupported(
            c,
            format!("quantization_config with quant_method {method:?}; supported are {supported}"),
        ));
    }
    let block: Option<Vec<u64>> = quantised.list("weight_block_size")?.iter().map(Value::as_u64).collect();
    if block.is_none_or(|block| block != FP8_BLOCK) {
        let given = quantised.shown("weight_block_size");
        return Err(unsupported(
            c,
            format!("quantization_config with weight_block_size {given}; supported are {supported}"),
        ));
    }
    Ok(())
}

fn common(c: &Json, family: &Family) -> Result<Sizes, CheckpointError> {
    let (key, supported) =
        if family.gemma { ("hidden_activation", "gelu_pytorch_tanh") } else { ("hidden_act", "silu") };
    if let Some(act) = text(c, key)?
        && act != supported
    {
        let act: String = act.chars().take(80).collect();
        return Err(unsupported(c, format!("{key} {act:?}; supported is {supported}")));
    }
    // Embedding models made of text models may look both ways.
    if !flag_or(c, "is_causal", true)? {
        return Err(unsupported(c, "is_causal false; supported is true".to_string()));
    }
    let vocab = count(c, "vocab_size", 1, VOCAB_MAX)?;
    sizes(c, ["num_hidden_layers", "hidden_size", "max_position_embeddings"], vocab)
}

fn structure(c: &Json, family: &Family) -> Result<(Structure, usize), CheckpointError> {
    let sizes = common(c, family)?;
    let attention = match family.attention {
        AttentionOf::Grouped { .. } => grouped(c, family, &sizes)?,
        AttentionOf::Latent { q_rank } => latent(c, family, q_rank, &sizes)?,
    };
    let layers = attention
        .into_iter()
        .enumerate()
        .map(|(i, attention)| Ok(Layer { attention, feed_forward: feed_forward(c, family, i)? }))
        .collect::<Result<_, CheckpointError>>()?;
    let structure = Structure {
        architecture: family.hf.to_string(),
        vocab: sizes.vocab,
        hidden: sizes.hidden,
        layers,
        context: sizes.context,
        norm_eps: positive_or(c, "rms_norm_eps", family.norm_eps)? as f32,
        head: purpose::head(c, family.hf, flag_or(c, "tie_word_embeddings", family.tied)?)?,
        scales: scales(c, family, sizes.hidden)?,
        norms: if family.gemma { Norms { after: true, offset: 1.0 } } else { Norms::default() },
    };
    // Layers of multi-token prediction are DeepSeek's.
    let predicts = matches!(family.experts, ExpertsOf::DeepSeek(_));
    Ok((structure, if predicts { count_or(c, "num_nextn_predict_layers", 0, LAYERS_MAX)? } else { 0 }))
}

/// Gemma 3's two rotary embeddings, of layers that see all and of those with windows, in either style of configuration; and what its
/// configuration may not ask for.
fn gemma_ropes(
    c: &Json,
    theta: f64,
    plain: impl Fn(&Json, f64) -> Result<Rope, CheckpointError>,
) -> Result<[Rope; 2], CheckpointError> {
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if !c.absent(key) {
            return Err(unsupported(c, format!("{key} {}; supported is none", c.shown(key))));
        }
    }
    if flag_or(c, "use_bidirectional_attention", false)? {
        return Err(unsupported(c, "use_bidirectional_attention true; supported is false".to_string()));
    }
    let of = |kind: &str, theta: f64| {
        let settings = match c.nested("rope_parameters")? {
            Some(kinds) => kinds.json.get(kind).cloned().unwrap_or(Value::Null),
            None => Value::Null,
        };
        plain(&Json { path: c.path, json: &serde_json::json!({"rope_parameters": settings}) }, theta)
    };
    if c.nested("rope_parameters")?.is_some() {
        return Ok([of("full_attention", theta)?, of("sliding_attention", 1e4)?]);
    }
    Ok([plain(c, theta)?, of("", positive_or(c, "rope_local_base_freq", 1e4)?)?])
}

/// Which layers rotate their heads: in SmolLM3 `no_rope_layers` lists 1 for those that do, or each nth does not.
fn rotated(c: &Json, family: &Family, layers: usize) -> Result<Vec<bool>, CheckpointError> {
    if !family.rotates_some {
        return Ok(vec![true; layers]);
    }
    if flag_or(c, "use_sliding_window", false)? {
        return Err(unsupported(c, format!("use_sliding_window true of architecture {}", family.hf)));
    }
    if c.absent("no_rope_layers") {
        let each = count_or(c, "no_rope_layer_interval", 4, LAYERS_MAX)?.max(1);
        return Ok((0..layers).map(|i| !(i + 1).is_multiple_of(each)).collect());
    }
    let listed: Option<Vec<bool>> =
        c.list("no_rope_layers")?.iter().map(|v| v.as_u64().filter(|&n| n < 2).map(|n| n == 1)).collect();
    let wanted = || format!("a list of {layers} zeros and ones");
    listed.filter(|listed| listed.len() == layers).ok_or_else(|| wrong(c, "no_rope_layers", wanted()))
}

/// Granite's factors, and Gemma's on the embedding; they change nothing in other families, whose configurations may not hold them.
fn scales(c: &Json, family: &Family, hidden: usize) -> Result<Scales, CheckpointError> {
    if family.gemma {
        return Ok(Scales { embedding: (hidden as f32).sqrt(), ..Scales::default() });
    }
    if !family.scaled {
        return Ok(Scales::default());
    }
    let factor = |key| positive_or(c, key, 1.0);
    Ok(Scales {
        embedding: factor("embedding_multiplier")? as f32,
        residual: factor("residual_multiplier")? as f32,
        logits: (1.0 / factor("logits_scaling")?) as f32,
    })
}

/// Grouped-query attention of every layer.
fn grouped(c: &Json, family: &Family, sizes: &Sizes) -> Result<Vec<Attention>, CheckpointError> {
    let AttentionOf::Grouped { kv_heads, head_dim, qk_norm, qkv_bias, windows: windowed } = family.attention else {
        return Ok(Vec::new());
    };
    let (heads, hidden) = (count(c, "num_attention_heads", 1, HEADS_MAX)?, sizes.hidden);
    let kv_heads = c.count_or_null("num_key_value_heads", kv_heads.unwrap_or(heads), heads, HEADS_MAX)?;
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(wrong(c, "num_key_value_heads", format!("a divisor of num_attention_heads ({heads})")));
    }
    let head_dim = match c.count_or_null("head_dim", head_dim.unwrap_or(0), 0, HEAD_DIM_MAX)? {
        0 if !c.absent("head_dim") => return Err(wrong(c, "head_dim", "above 0")),
        0 if hidden.is_multiple_of(heads) => hidden / heads,
        0 => return Err(wrong(c, "num_attention_heads", format!("a divisor of hidden_size ({hidden})"))),
        d => d,
    };
    if !head_dim.is_multiple_of(2) {
        return Err(wrong(c, "head_dim", "even"));
    }
    let plain = |c: &Json, theta: f64| -> Result<Rope, CheckpointError> {
        let (theta, scaling, inner) = rope(c, theta, sizes.context)?;
        let temperature = match (&scaling, &inner) {
            (Scaling::Yarn { factor, .. }, Some(inner)) => yarn_amplitude(inner, *factor)?,
            _ => 1.0,
        };
        Ok(plain_rope(head_dim, head_dim, theta, &scaling, Pairing::Halves, temperature))
    };
    let biased = flag_or(c, "attention_bias", false)?;
    let [mut rope, mut windowed_rope] = if family.gemma {
        gemma_ropes(c, family.theta, plain)?
    } else {
        let rope = plain(c, family.theta)?;
        [rope.clone(), rope]
    };
    let given = match (family.scaled, family.gemma) {
        (true, _) => Some(positive_or(c, "attention_multiplier", 1.0)?),
        (_, true) => Some(positive_or(c, "query_pre_attn_scalar", 256.0)?.powf(-0.5)),
        _ => None,
    };
    if let Some(scale) = given {
        (rope.score_scale, windowed_rope.score_scale) = (scale as f32, scale as f32);
    }
    let attention = |(window, rotates)| {
        Attention::Gqa(Gqa {
            rotates,
            heads,
            kv_heads,
            head_dim,
            qk_norm,
            qkv_bias: biased || qkv_bias,
            out_bias: biased && !qkv_bias,
            window,
            rope: if window.is_some() { windowed_rope.clone() } else { rope.clone() },
        })
    };
    let rotated = rotated(c, family, sizes.layers)?;
    Ok(windows(c, family.hf, windowed, sizes.layers)?.into_iter().zip(rotated).map(attention).collect())
}

/// Latent attention of every layer.
fn latent(c: &Json, family: &Family, q_rank: usize, sizes: &Sizes) -> Result<Vec<Attention>, CheckpointError> {
    let heads = count(c, "num_attention_heads", 1, HEADS_MAX)?;
    // A null is left out by transformers 5, and V2-Lite's is null; where that is wrong, the tensors of the rank are named as unused.
    let q_rank = Some(c.count_or_null("q_lora_rank", q_rank, 0, WIDTH_MAX)?).filter(|&r| r > 0);
    let kv_rank = count(c, "kv_lora_rank", 1, WIDTH_MAX)?;
    let nope_dim = count(c, "qk_nope_head_dim", 1, HEAD_DIM_MAX)?;
    let rope_dim = count(c, "qk_rope_head_dim", 2, HEAD_DIM_MAX)?;
    let value_dim = count(c, "v_head_dim", 1, HEAD_DIM_MAX)?;
    if !rope_dim.is_multiple_of(2) {
        return Err(wrong(c, "qk_rope_head_dim", "even"));
    }
    if !flag_or(c, "rope_interleave", true)? {
        return Err(unsupported(c, "rope_interleave false; supported is true".to_string()));
    }
    if layer_types(c, sizes.layers)?.is_some_and(|types| types.contains(&true)) {
        return Err(unsupported(c, "layer_types with sliding_attention under latent attention".to_string()));
    }
    let (theta, scaling, inner) = rope(c, family.theta, sizes.context)?;
    let (amplitude, correction) = match (&scaling, &inner) {
        (Scaling::Yarn { factor, .. }, Some(inner)) => {
            let (mscale, all_dim) = (number_or(inner, "mscale", 1.0)?, number_or(inner, "mscale_all_dim", 0.0)?);
            let all = yarn_temperature(*factor, all_dim);
            (yarn_temperature(*factor, mscale) / all, if all_dim == 0.0 { 1.0 } else { all })
        }
        _ => (1.0, 1.0),
    };
    let rope = latent_rope(rope_dim, nope_dim + rope_dim, theta, &scaling, amplitude, correction);
    let bias = flag_or(c, "attention_bias", false)?;
    let attention =
        Attention::Mla(Mla { heads, q_rank, kv_rank, nope_dim, rope_dim, value_dim, bias, latent_eps: 1e-6, rope });
    Ok(vec![attention; sizes.layers])
}

fn feed_forward(c: &Json, family: &Family, layer: usize) -> Result<FeedForward, CheckpointError> {
    let bias = flag_or(c, "mlp_bias", false)?;
    if bias && !family.mlp_bias {
        let with: Vec<&str> = FAMILIES.iter().filter(|f| f.mlp_bias).map(|f| f.hf).collect();
        let what = format!("mlp_bias of architecture {}; it is supported of {}", family.hf, with.join(", "));
        return Err(unsupported(c, what));
    }
    let routed = match &family.experts {
        ExpertsOf::Dense => None,
        ExpertsOf::Mixtral => Some(mixtral_experts(c)?),
        ExpertsOf::Qwen => qwen_experts(c, layer)?,
        ExpertsOf::DeepSeek(defaults) => deepseek_experts(c, defaults, layer)?,
    };
    if let Some(mixture) = routed {
        return Ok(mixture);
    }
    let activation = if family.gemma { Activation::GeluTanh } else { Activation::Silu };
    Ok(FeedForward::Dense(Dense { hidden: count(c, "intermediate_size", 1, WIDTH_MAX)?, bias, activation }))
}

fn mixtral_experts(c: &Json) -> Result<FeedForward, CheckpointError> {
    let experts = count_or(c, "num_local_experts", 8, EXPERTS_MAX)?;
    let active = count_or(c, "num_experts_per_tok", 2, EXPERTS_MAX)?;
    mixture(c, experts, active, count(c, "intermediate_size", 1, WIDTH_MAX)?, 0, softmax_router(true))
}

fn qwen_experts(c: &Json, layer: usize) -> Result<Option<FeedForward>, CheckpointError> {
    let listed = c.list("mlp_only_layers")?;
    if listed.iter().any(|v| !v.is_u64()) {
        return Err(wrong(c, "mlp_only_layers", "a list of layers' numbers"));
    }
    let dense_layer = listed.iter().any(|v| v.as_u64() == Some(layer as u64));
    let step = if c.absent("decoder_sparse_step") { 1 } else { count(c, "decoder_sparse_step", 1, LAYERS_MAX)? };
    if dense_layer || !(layer + 1).is_multiple_of(step) {
        return Ok(None);
    }
    let key = if c.absent("num_experts") { "num_local_experts" } else { "num_experts" };
    let experts = count_or(c, key, 128, EXPERTS_MAX)?;
    let active = count_or(c, "num_experts_per_tok", 8, EXPERTS_MAX)?;
    let router = softmax_router(flag_or(c, "norm_topk_prob", false)?);
    mixture(c, experts, active, count(c, "moe_intermediate_size", 1, WIDTH_MAX)?, 0, router).map(Some)
}

fn deepseek_experts(c: &Json, or: &DeepSeekMoe, layer: usize) -> Result<Option<FeedForward>, CheckpointError> {
    let dense_layers = count_or(c, "first_k_dense_replace", or.dense_layers, LAYERS_MAX)?;
    let every = if c.absent("moe_layer_freq") { 1 } else { count(c, "moe_layer_freq", 1, LAYERS_MAX)? };
    let experts = c.count_or_null("n_routed_experts", or.experts, 0, EXPERTS_MAX)?;
    if experts == 0 || layer < dense_layers || !layer.is_multiple_of(every) {
        return Ok(None);
    }
    let inner = count(c, "moe_intermediate_size", 1, WIDTH_MAX)?;
    let shared = c.count_or_null("n_shared_experts", or.shared, 0, EXPERTS_MAX)?;
    let groups = c.count_or_null("n_group", or.groups[0], 1, EXPERTS_MAX)?.max(1);
    let groups_active = c.count_or_null("topk_group", or.groups[1], 1, EXPERTS_MAX)?.max(1);
    let (grouped, group_score, bias) = match text(c, "topk_method")?.unwrap_or(or.method) {
        "greedy" => (false, GroupScore::Max, false),
        "group_limited_greedy" => (true, GroupScore::Max, false),
        "noaux_tc" => (true, GroupScore::TopTwo, true),
        _ => return Err(wrong(c, "topk_method", "greedy, group_limited_greedy or noaux_tc")),
    };
    let score = match text(c, "scoring_func")?.unwrap_or(or.score) {
        "softmax" => Score::Softmax,
        "sigmoid" => Score::Sigmoid,
        _ => return Err(wrong(c, "scoring_func", "softmax or sigmoid")),
    };
    let active = match or.active {
        Some(active) if c.absent("num_experts_per_tok") => active,
        _ => count(c, "num_experts_per_tok", 1, EXPERTS_MAX)?,
    };
    let normalize = flag_or(c, "norm_topk_prob", or.normalize)? && active > 1;
    // Published V2 code normalises or scales, V3's does both.
    let scaled = or.always_scaled || !normalize;
    let scale = if scaled { positive_or(c, "routed_scaling_factor", or.scale)? as f32 } else { 1.0 };
    let [groups, groups_active] = if grouped { [groups, groups_active] } else { [1, 1] };
    let router = Router { score, groups, groups_active, group_score, bias, normalize, scale };
    mixture(c, experts, active, inner, shared * inner, router).map(Some)
}
