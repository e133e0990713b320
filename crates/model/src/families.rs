//! Other people's configuration to `Structure`. This file, `gguf_keys` and `loader` are the only ones that know brands.

use std::path::Path;

use serde_json::Value;

use crate::checkpoint::CheckpointError;
use crate::rope::{Scaling, frequencies, yarn_temperature};
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
pub struct Sizes {
    /// Layers.
    pub layers: usize,
    /// Stream.
    pub hidden: usize,
    /// Vocabulary.
    pub vocab: usize,
    /// Context.
    pub context: usize,
}

/// Check the sizes every family has.
pub fn sizes<S: Settings>(s: &S, keys: [&str; 3], vocab: usize) -> Result<Sizes, CheckpointError> {
    Ok(Sizes {
        layers: count(s, keys[0], 1, LAYERS_MAX)?,
        hidden: count(s, keys[1], 1, WIDTH_MAX)?,
        context: count(s, keys[2], 1, CONTEXT_MAX)?,
        vocab,
    })
}

/// Largest width of anything.
pub const fn width_max() -> usize {
    WIDTH_MAX
}

/// Largest width of a head.
pub const fn head_dim_max() -> usize {
    HEAD_DIM_MAX
}

/// Check what no single key shows: widths of heads, rotations that are numbers, and the sum of experts.
pub fn consistent(path: &Path, structure: Structure) -> Result<Structure, CheckpointError> {
    let refuse = |what: String| Err(CheckpointError::Damaged { path: path.to_path_buf(), what });
    let mut experts_in_all = 0usize;
    for (i, layer) in structure.layers.iter().enumerate() {
        let Layer { attention, feed_forward } = layer;
        let (heads, widths, rope) = (attention.heads(), attention.head_widths(), attention.rope());
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
pub fn mixture<S: Settings>(
    s: &S,
    experts: usize,
    active: usize,
    hidden: usize,
    shared_hidden: usize,
    router: Router,
) -> Result<FeedForward, CheckpointError> {
    let contradiction = |what: String| CheckpointError::Damaged { path: s.path().to_path_buf(), what };
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
    Rope {
        frequencies: frequencies(rope, theta, scaling),
        pairing: Pairing::Interleaved,
        amplitude: amplitude as f32,
        score_scale: ((head as f64).powf(-0.5) * correction * correction) as f32,
    }
}

fn unsupported(c: &Json, what: String) -> CheckpointError {
    CheckpointError::Unsupported { path: c.path.to_path_buf(), what }
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
fn windows(c: &Json, family: &str, layers: usize) -> Result<Vec<Option<usize>>, CheckpointError> {
    let size = |default: usize| {
        let size = c.count_or_null("sliding_window", default, 0, CONTEXT_MAX)?;
        if size == 0 && !c.absent("sliding_window") {
            return Err(wrong(c, "sliding_window", "at least 1, or null for none"));
        }
        Ok(Some(size).filter(|&w| w > 0))
    };
    let qwen = family.starts_with("qwen");
    let window = match family {
        "mistral" => size(4096)?,
        "mixtral" => size(0)?,
        _ if qwen && flag_or(c, "use_sliding_window", false)? => size(4096)?,
        _ => None,
    };
    let first = match family {
        "qwen2" | "qwen3" => count_or(c, "max_window_layers", 28, LAYERS_MAX)?,
        "qwen3_moe" => count_or(c, "max_window_layers", 0, LAYERS_MAX)?,
        _ => 0,
    };
    let own: Vec<bool> = (0..layers).map(|i| window.is_some() && i >= first).collect();
    let windowed = match layer_types(c, layers)? {
        None => own,
        Some(listed) if listed == own => own,
        Some(listed) if matches!(family, "qwen2" | "qwen3") && window.is_some() => listed,
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
const KNOWN: &str = "llama, mistral, qwen2, qwen3, mixtral, qwen3_moe, deepseek_v2, deepseek_v3";

/// Structure from a Hugging Face `config.json`, and the number of multi-token-prediction layers to skip.
pub fn from_config(path: &Path, json: &Value) -> Result<(Structure, usize), CheckpointError> {
    let c = Json { path, json };
    let Some(family) = text(&c, "model_type")? else {
        return Err(wrong(&c, "model_type", format!("one of {KNOWN}")));
    };
    stored_as_read(&c)?;
    let (structure, skipped) = match family {
        "llama" | "mistral" | "qwen2" | "qwen3" | "mixtral" | "qwen3_moe" => (grouped(&c, family)?, 0),
        "deepseek_v2" | "deepseek_v3" => latent(&c, family == "deepseek_v3")?,
        "deepseek_v32" | "deepseek_v4" | "deepseek_v41" => {
            let what = format!("architecture {family} is recognised but not supported yet; supported are {KNOWN}");
            return Err(unsupported(&c, what));
        }
        other => {
            let other: String = other.chars().take(80).collect();
            return Err(unsupported(&c, format!("architecture {other:?}; supported are {KNOWN}")));
        }
    };
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

fn common(c: &Json) -> Result<Sizes, CheckpointError> {
    if let Some(act) = text(c, "hidden_act")?
        && act != "silu"
    {
        let act: String = act.chars().take(80).collect();
        return Err(unsupported(c, format!("hidden_act {act:?}; supported is silu")));
    }
    let vocab = count(c, "vocab_size", 1, VOCAB_MAX)?;
    sizes(c, ["num_hidden_layers", "hidden_size", "max_position_embeddings"], vocab)
}

fn grouped(c: &Json, family: &str) -> Result<Structure, CheckpointError> {
    let Sizes { layers, hidden, vocab, context } = common(c)?;
    let heads = count(c, "num_attention_heads", 1, HEADS_MAX)?;
    let kv_default = match family {
        "mistral" | "mixtral" => 8,
        "qwen2" | "qwen3" => 32,
        "qwen3_moe" => 4,
        _ => heads,
    };
    let kv_heads = c.count_or_null("num_key_value_heads", kv_default, heads, HEADS_MAX)?;
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(wrong(c, "num_key_value_heads", format!("a divisor of num_attention_heads ({heads})")));
    }
    let head_dim = match c.count_or_null("head_dim", if family == "qwen3" { 128 } else { 0 }, 0, HEAD_DIM_MAX)? {
        0 if !c.absent("head_dim") => return Err(wrong(c, "head_dim", "above 0")),
        0 if hidden.is_multiple_of(heads) => hidden / heads,
        0 => return Err(wrong(c, "num_attention_heads", format!("a divisor of hidden_size ({hidden})"))),
        d => d,
    };
    if !head_dim.is_multiple_of(2) {
        return Err(wrong(c, "head_dim", "even"));
    }
    let mlp_bias = flag_or(c, "mlp_bias", false)?;
    if mlp_bias && family != "llama" {
        return Err(unsupported(c, format!("mlp_bias of architecture {family}; it is supported of llama")));
    }
    let (theta, scaling, inner) = rope(c, if family == "mixtral" { 1e6 } else { 1e4 }, context)?;
    let temperature = match (&scaling, &inner) {
        (Scaling::Yarn { factor, .. }, Some(inner)) => yarn_amplitude(inner, *factor)?,
        _ => 1.0,
    };
    let biased = flag_or(c, "attention_bias", false)?;
    let windows = windows(c, family, layers)?;
    let attention = |layer: usize| {
        Attention::Gqa(Gqa {
            heads,
            kv_heads,
            head_dim,
            qk_norm: family.starts_with("qwen3"),
            qkv_bias: biased || family == "qwen2",
            out_bias: biased && family != "qwen2",
            window: windows[layer],
            rope: plain_rope(head_dim, head_dim, theta, &scaling, Pairing::Halves, temperature),
        })
    };
    let feed_forward = |layer: usize| -> Result<FeedForward, CheckpointError> {
        let dense =
            || Ok(FeedForward::Dense(Dense { hidden: count(c, "intermediate_size", 1, WIDTH_MAX)?, bias: mlp_bias }));
        match family {
            "mixtral" => {
                let experts = count_or(c, "num_local_experts", 8, EXPERTS_MAX)?;
                let active = count_or(c, "num_experts_per_tok", 2, EXPERTS_MAX)?;
                mixture(c, experts, active, count(c, "intermediate_size", 1, WIDTH_MAX)?, 0, softmax_router(true))
            }
            "qwen3_moe" => {
                let listed = c.list("mlp_only_layers")?;
                if listed.iter().any(|v| !v.is_u64()) {
                    return Err(wrong(c, "mlp_only_layers", "a list of layers' numbers"));
                }
                let dense_layer = listed.iter().any(|v| v.as_u64() == Some(layer as u64));
                let step =
                    if c.absent("decoder_sparse_step") { 1 } else { count(c, "decoder_sparse_step", 1, LAYERS_MAX)? };
                if dense_layer || !(layer + 1).is_multiple_of(step) {
                    return dense();
                }
                let key = if c.absent("num_experts") { "num_local_experts" } else { "num_experts" };
                let experts = count_or(c, key, 128, EXPERTS_MAX)?;
                let active = count_or(c, "num_experts_per_tok", 8, EXPERTS_MAX)?;
                let normalize = flag_or(c, "norm_topk_prob", false)?;
                mixture(
                    c,
                    experts,
                    active,
                    count(c, "moe_intermediate_size", 1, WIDTH_MAX)?,
                    0,
                    softmax_router(normalize),
                )
            }
            _ => dense(),
        }
    };
    let layers = (0..layers)
        .map(|i| Ok(Layer { attention: attention(i), feed_forward: feed_forward(i)? }))
        .collect::<Result<_, CheckpointError>>()?;
    Ok(Structure {
        architecture: family.to_string(),
        vocab,
        hidden,
        layers,
        context,
        norm_eps: positive_or(c, "rms_norm_eps", if family == "mixtral" { 1e-5 } else { 1e-6 })? as f32,
        tied: flag_or(c, "tie_word_embeddings", false)?,
    })
}

fn latent(c: &Json, v3: bool) -> Result<(Structure, usize), CheckpointError> {
    let Sizes { layers, hidden, vocab, context } = common(c)?;
    let heads = count(c, "num_attention_heads", 1, HEADS_MAX)?;
    // A null is left out by transformers 5, and V2-Lite's is null; where that is wrong, the tensors of the rank are named as unused.
    let q_rank = c.count_or_null("q_lora_rank", if v3 { 1536 } else { 0 }, 0, WIDTH_MAX)?;
    let q_rank = Some(q_rank).filter(|&r| r > 0);
    let kv_rank = count(c, "kv_lora_rank", 1, WIDTH_MAX)?;
    let nope_dim = count(c, "qk_nope_head_dim", 1, HEAD_DIM_MAX)?;
    let rope_dim = count(c, "qk_rope_head_dim", 2, HEAD_DIM_MAX)?;
    let value_dim = count(c, "v_head_dim", 1, HEAD_DIM_MAX)?;
    if !rope_dim.is_multiple_of(2) {
        return Err(wrong(c, "qk_rope_head_dim", "even"));
    }
    for (key, neutral) in [("mlp_bias", false), ("rope_interleave", true)] {
        if flag_or(c, key, neutral)? != neutral {
            return Err(unsupported(c, format!("{key} {}; supported is {neutral}", !neutral)));
        }
    }
    if layer_types(c, layers)?.is_some_and(|types| types.contains(&true)) {
        return Err(unsupported(c, "layer_types with sliding_attention under latent attention".to_string()));
    }
    let (theta, scaling, inner) = rope(c, 1e4, context)?;
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
    // Absent keys are the published configuration classes' defaults, which differ between V2 and V3.
    let or = |v3_default, v2_default| if v3 { v3_default } else { v2_default };
    let dense_layers = count_or(c, "first_k_dense_replace", or(3, 0), LAYERS_MAX)?;
    let every = if c.absent("moe_layer_freq") { 1 } else { count(c, "moe_layer_freq", 1, LAYERS_MAX)? };
    let experts = c.count_or_null("n_routed_experts", or(256, 64), 0, EXPERTS_MAX)?;
    let feed_forward = |layer: usize| -> Result<FeedForward, CheckpointError> {
        if experts == 0 || layer < dense_layers || !layer.is_multiple_of(every) {
            return Ok(FeedForward::Dense(Dense { hidden: count(c, "intermediate_size", 1, WIDTH_MAX)?, bias: false }));
        }
        let inner = count(c, "moe_intermediate_size", 1, WIDTH_MAX)?;
        let shared = c.count_or_null("n_shared_experts", or(1, 2), 0, EXPERTS_MAX)?;
        let groups = c.count_or_null("n_group", or(8, 1), 1, EXPERTS_MAX)?.max(1);
        let groups_active = c.count_or_null("topk_group", or(4, 1), 1, EXPERTS_MAX)?.max(1);
        let method = text(c, "topk_method")?.unwrap_or(if v3 { "noaux_tc" } else { "greedy" });
        let (grouped, group_score, biased) = match method {
            "greedy" => (false, GroupScore::Max, false),
            "group_limited_greedy" => (true, GroupScore::Max, false),
            "noaux_tc" => (true, GroupScore::TopTwo, true),
            _ => return Err(wrong(c, "topk_method", "greedy, group_limited_greedy or noaux_tc")),
        };
        let score = match text(c, "scoring_func")?.unwrap_or(if v3 { "sigmoid" } else { "softmax" }) {
            "softmax" => Score::Softmax,
            "sigmoid" => Score::Sigmoid,
            _ => return Err(wrong(c, "scoring_func", "softmax or sigmoid")),
        };
        let active = match c.absent("num_experts_per_tok") && v3 {
            true => 8,
            false => count(c, "num_experts_per_tok", 1, EXPERTS_MAX)?,
        };
        let normalize = flag_or(c, "norm_topk_prob", v3)? && active > 1;
        // Published V2 code normalises or scales, V3's does both.
        let scale = if normalize && !v3 {
            1.0
        } else {
            positive_or(c, "routed_scaling_factor", if v3 { 2.5 } else { 1.0 })? as f32
        };
        let router = Router {
            score,
            groups: if grouped { groups } else { 1 },
            groups_active: if grouped { groups_active } else { 1 },
            group_score,
            bias: biased,
            normalize,
            scale,
        };
        mixture(c, experts, active, inner, shared * inner, router)
    };
    let layers = (0..layers)
        .map(|i| {
            let attention = Attention::Mla(Mla {
                heads,
                q_rank,
                kv_rank,
                nope_dim,
                rope_dim,
                value_dim,
                bias,
                latent_eps: 1e-6,
                rope: rope.clone(),
            });
            Ok(Layer { attention, feed_forward: feed_forward(i)? })
        })
        .collect::<Result<_, CheckpointError>>()?;
    let structure = Structure {
        architecture: if v3 { "deepseek_v3" } else { "deepseek_v2" }.to_string(),
        vocab,
        hidden,
        layers,
        context,
        norm_eps: positive_or(c, "rms_norm_eps", 1e-6)? as f32,
        tied: flag_or(c, "tie_word_embeddings", false)?,
    };
    Ok((structure, count_or(c, "num_nextn_predict_layers", 0, LAYERS_MAX)?))
}
