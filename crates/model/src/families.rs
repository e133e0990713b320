//! Other people's configuration to `Structure`. This file and `loader` are the only ones that know brands.

use std::path::Path;

use serde_json::Value;

use crate::checkpoint::CheckpointError;
use crate::rope::{Scaling, frequencies, yarn_temperature};
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

/// A configuration's values, whatever file they come from.
pub trait Settings {
    /// The file, for messages.
    fn path(&self) -> &Path;
    /// A number.
    fn number(&self, key: &str) -> Option<f64>;
    /// A value as people would see it.
    fn shown(&self, key: &str) -> String;
}

fn wrong<S: Settings>(s: &S, key: &str, expected: impl Into<String>) -> CheckpointError {
    CheckpointError::Config {
        path: s.path().to_path_buf(),
        key: key.to_string(),
        value: s.shown(key),
        expected: expected.into(),
    }
}

/// A whole number in `low..=high`.
pub fn count<S: Settings>(s: &S, key: &str, low: usize, high: usize) -> Result<usize, CheckpointError> {
    let value = s.number(key).filter(|v| v.fract() == 0.0 && *v >= low as f64 && *v <= high as f64);
    value.map(|v| v as usize).ok_or_else(|| wrong(s, key, format!("a whole number from {low} to {high}")))
}

/// As `count`, or `default` where the key is absent.
pub fn count_or<S: Settings>(s: &S, key: &str, default: usize, high: usize) -> Result<usize, CheckpointError> {
    if s.number(key).is_none() && s.shown(key) == "absent" { Ok(default) } else { count(s, key, 0, high) }
}

/// A positive finite number, or `default` where the key is absent.
pub fn positive_or<S: Settings>(s: &S, key: &str, default: f64) -> Result<f64, CheckpointError> {
    match s.number(key) {
        Some(v) if v.is_finite() && v > 0.0 => Ok(v),
        None if s.shown(key) == "absent" => Ok(default),
        _ => Err(wrong(s, key, "a number above 0")),
    }
}

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
        let (heads, widths, rope) = match &layer.attention {
            Attention::Gqa { heads, head_dim, rope, .. } => (*heads, vec![*head_dim], rope),
            Attention::Mla { heads, nope_dim, rope_dim, value_dim, rope, .. } => {
                (*heads, vec![*nope_dim, *rope_dim, *value_dim], rope)
            }
        };
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
        if let FeedForward::Moe { experts, .. } = layer.feed_forward {
            experts_in_all += experts;
        }
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
    Ok(FeedForward::Moe { experts, active, hidden, shared_hidden, router })
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

struct Config<'a> {
    path: &'a Path,
    json: &'a Value,
}

impl Settings for Config<'_> {
    fn path(&self) -> &Path {
        self.path
    }
    fn number(&self, key: &str) -> Option<f64> {
        self.json.get(key).and_then(Value::as_f64)
    }
    fn shown(&self, key: &str) -> String {
        match self.json.get(key) {
            None | Some(Value::Null) => "absent".to_string(),
            Some(value) => {
                let mut text = value.to_string();
                if let Some((end, _)) = text.char_indices().nth(80) {
                    text.truncate(end);
                }
                text
            }
        }
    }
}

impl Config<'_> {
    fn flag(&self, key: &str, default: bool) -> bool {
        self.json.get(key).and_then(Value::as_bool).unwrap_or(default)
    }
    fn text(&self, key: &str) -> Option<&str> {
        self.json.get(key).and_then(Value::as_str)
    }
    fn unsupported(&self, what: String) -> CheckpointError {
        CheckpointError::Unsupported { path: self.path.to_path_buf(), what }
    }

    /// Theta, scaling, and the scaling's own settings, in either style (`rope_theta` + `rope_scaling`, or `rope_parameters`).
    fn rope(&self) -> Result<(f64, Scaling, Option<Config<'_>>), CheckpointError> {
        let nested = |key| self.json.get(key).filter(|v| v.is_object()).map(|json| Config { path: self.path, json });
        let scaling = nested("rope_scaling").or_else(|| nested("rope_parameters"));
        let theta = match &scaling {
            Some(inner) if self.number("rope_theta").is_none() => positive_or(inner, "rope_theta", 10_000.0)?,
            _ => positive_or(self, "rope_theta", 10_000.0)?,
        };
        let Some(inner) = scaling else { return Ok((theta, Scaling::None, None)) };
        let kind = inner.text("rope_type").or(inner.text("type")).unwrap_or("default").to_string();
        let original = || {
            positive_or(
                &inner,
                "original_max_position_embeddings",
                self.number("max_position_embeddings").unwrap_or(4096.0),
            )
        };
        let parsed = match kind.as_str() {
            "default" => return Ok((theta, Scaling::None, None)),
            "linear" => Scaling::Linear { factor: positive_or(&inner, "factor", 1.0)? },
            "llama3" => Scaling::Llama3 {
                factor: positive_or(&inner, "factor", 8.0)?,
                low: positive_or(&inner, "low_freq_factor", 1.0)?,
                high: positive_or(&inner, "high_freq_factor", 4.0)?,
                original: original()?,
            },
            "yarn" => Scaling::Yarn {
                factor: positive_or(&inner, "factor", 1.0)?,
                original: original()?,
                beta_fast: positive_or(&inner, "beta_fast", 32.0)?,
                beta_slow: positive_or(&inner, "beta_slow", 1.0)?,
            },
            other => {
                return Err(
                    self.unsupported(format!("rope scaling {other:?}; supported are default, linear, llama3, yarn"))
                );
            }
        };
        Ok((theta, parsed, Some(inner)))
    }
}

/// The names of all architectures that are read, for messages.
const KNOWN: &str = "llama, mistral, qwen2, qwen3, mixtral, qwen3_moe, deepseek_v2, deepseek_v3";

/// Structure from a Hugging Face `config.json`, and the number of multi-token-prediction layers to skip.
pub fn from_config(path: &Path, json: &Value) -> Result<(Structure, usize), CheckpointError> {
    let c = Config { path, json };
    let Some(family) = c.text("model_type") else {
        return Err(wrong(&c, "model_type", format!("one of {KNOWN}")));
    };
    let (structure, skipped) = match family {
        "llama" | "mistral" | "qwen2" | "qwen3" | "mixtral" | "qwen3_moe" => (grouped(&c, family)?, 0),
        "deepseek_v2" | "deepseek_v3" => latent(&c, family == "deepseek_v3")?,
        "deepseek_v32" | "deepseek_v4" | "deepseek_v41" => {
            let what = format!("architecture {family} is recognised but not supported yet; supported are {KNOWN}");
            return Err(c.unsupported(what));
        }
        other => {
            let other: String = other.chars().take(80).collect();
            return Err(c.unsupported(format!("architecture {other:?}; supported are {KNOWN}")));
        }
    };
    Ok((consistent(path, structure)?, skipped))
}

fn common(c: &Config) -> Result<Sizes, CheckpointError> {
    if let Some(act) = c.text("hidden_act")
        && act != "silu"
    {
        return Err(c.unsupported(format!("hidden_act {act:?}; supported is silu")));
    }
    let vocab = count(c, "vocab_size", 1, VOCAB_MAX)?;
    sizes(c, ["num_hidden_layers", "hidden_size", "max_position_embeddings"], vocab)
}

fn grouped(c: &Config, family: &str) -> Result<Structure, CheckpointError> {
    let Sizes { layers, hidden, vocab, context } = common(c)?;
    let heads = count(c, "num_attention_heads", 1, HEADS_MAX)?;
    let kv_heads = count_or(c, "num_key_value_heads", heads, HEADS_MAX)?;
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(wrong(c, "num_key_value_heads", format!("a divisor of num_attention_heads ({heads})")));
    }
    let head_dim = match count_or(c, "head_dim", 0, HEAD_DIM_MAX)? {
        0 if hidden.is_multiple_of(heads) => hidden / heads,
        0 => return Err(wrong(c, "num_attention_heads", format!("a divisor of hidden_size ({hidden})"))),
        d => d,
    };
    if !head_dim.is_multiple_of(2) {
        return Err(wrong(c, "head_dim", "even"));
    }
    if c.flag("mlp_bias", false) {
        return Err(c.unsupported("mlp_bias".to_string()));
    }
    let (theta, scaling, inner) = c.rope()?;
    let temperature = match (&scaling, &inner) {
        (Scaling::Yarn { factor, .. }, Some(inner)) => match inner.number("attention_factor") {
            Some(given) => given,
            None => yarn_temperature(*factor, 1.0),
        },
        _ => 1.0,
    };
    let biased = c.flag("attention_bias", false);
    let window_used = match family {
        "mistral" | "mixtral" => true,
        _ => c.flag("use_sliding_window", false),
    };
    let window = if window_used { c.number("sliding_window").map(|w| w as usize).filter(|&w| w > 0) } else { None };
    let full_layers = if family.starts_with("qwen") { count_or(c, "max_window_layers", 0, LAYERS_MAX)? } else { 0 };
    let attention = |layer: usize| Attention::Gqa {
        heads,
        kv_heads,
        head_dim,
        qk_norm: family.starts_with("qwen3"),
        qkv_bias: biased || family == "qwen2",
        out_bias: biased && family != "qwen2",
        window: window.filter(|_| layer >= full_layers),
        rope: plain_rope(head_dim, head_dim, theta, &scaling, Pairing::Halves, temperature),
    };
    let feed_forward = |layer: usize| -> Result<FeedForward, CheckpointError> {
        let dense = || Ok(FeedForward::Dense { hidden: count(c, "intermediate_size", 1, WIDTH_MAX)? });
        match family {
            "mixtral" => {
                let experts = count(c, "num_local_experts", 1, EXPERTS_MAX)?;
                let active = count(c, "num_experts_per_tok", 1, EXPERTS_MAX)?;
                mixture(c, experts, active, count(c, "intermediate_size", 1, WIDTH_MAX)?, 0, softmax_router(true))
            }
            "qwen3_moe" => {
                let listed = c.json.get("mlp_only_layers").and_then(Value::as_array);
                let dense_layer = listed.is_some_and(|l| l.iter().any(|v| v.as_u64() == Some(layer as u64)));
                let step = count_or(c, "decoder_sparse_step", 1, LAYERS_MAX)?.max(1);
                if dense_layer || !(layer + 1).is_multiple_of(step) {
                    return dense();
                }
                let key = if c.number("num_experts").is_some() { "num_experts" } else { "num_local_experts" };
                let experts = count(c, key, 1, EXPERTS_MAX)?;
                let active = count(c, "num_experts_per_tok", 1, EXPERTS_MAX)?;
                let normalize = c.flag("norm_topk_prob", false);
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
        norm_eps: positive_or(c, "rms_norm_eps", 1e-6)? as f32,
        tied: c.flag("tie_word_embeddings", false),
    })
}

fn latent(c: &Config, v3: bool) -> Result<(Structure, usize), CheckpointError> {
    let Sizes { layers, hidden, vocab, context } = common(c)?;
    let heads = count(c, "num_attention_heads", 1, HEADS_MAX)?;
    let q_rank = Some(count_or(c, "q_lora_rank", 0, WIDTH_MAX)?).filter(|&r| r > 0);
    let kv_rank = count(c, "kv_lora_rank", 1, WIDTH_MAX)?;
    let nope_dim = count(c, "qk_nope_head_dim", 1, HEAD_DIM_MAX)?;
    let rope_dim = count(c, "qk_rope_head_dim", 2, HEAD_DIM_MAX)?;
    let value_dim = count(c, "v_head_dim", 1, HEAD_DIM_MAX)?;
    if !rope_dim.is_multiple_of(2) {
        return Err(wrong(c, "qk_rope_head_dim", "even"));
    }
    let (theta, scaling, inner) = c.rope()?;
    let (amplitude, correction) = match (&scaling, &inner) {
        (Scaling::Yarn { factor, .. }, Some(inner)) => {
            let m = |key, default| inner.number(key).unwrap_or(default);
            let all = yarn_temperature(*factor, m("mscale_all_dim", 0.0));
            (yarn_temperature(*factor, m("mscale", 1.0)) / all, if m("mscale_all_dim", 0.0) == 0.0 { 1.0 } else { all })
        }
        _ => (1.0, 1.0),
    };
    let rope = latent_rope(rope_dim, nope_dim + rope_dim, theta, &scaling, amplitude, correction);
    let bias = c.flag("attention_bias", false);
    let dense_layers = count_or(c, "first_k_dense_replace", 0, LAYERS_MAX)?;
    let every = count_or(c, "moe_layer_freq", 1, LAYERS_MAX)?.max(1);
    let experts = count_or(c, "n_routed_experts", 0, EXPERTS_MAX)?;
    let feed_forward = |layer: usize| -> Result<FeedForward, CheckpointError> {
        if experts == 0 || layer < dense_layers || !layer.is_multiple_of(every) {
            return Ok(FeedForward::Dense { hidden: count(c, "intermediate_size", 1, WIDTH_MAX)? });
        }
        let inner = count(c, "moe_intermediate_size", 1, WIDTH_MAX)?;
        let shared = count_or(c, "n_shared_experts", 0, EXPERTS_MAX)?;
        let groups = count_or(c, "n_group", 1, EXPERTS_MAX)?.max(1);
        let groups_active = count_or(c, "topk_group", 1, EXPERTS_MAX)?.max(1);
        let method = c.text("topk_method").unwrap_or(match (v3, groups) {
            (true, _) => "noaux_tc",
            (false, 1) => "greedy",
            (false, _) => "group_limited_greedy",
        });
        let (grouped, group_score, biased) = match method {
            "greedy" => (false, GroupScore::Max, false),
            "group_limited_greedy" => (true, GroupScore::Max, false),
            "noaux_tc" => (true, GroupScore::TopTwo, true),
            _ => return Err(wrong(c, "topk_method", "greedy, group_limited_greedy or noaux_tc")),
        };
        let score = match c.text("scoring_func").unwrap_or(if v3 { "sigmoid" } else { "softmax" }) {
            "softmax" => Score::Softmax,
            "sigmoid" => Score::Sigmoid,
            _ => return Err(wrong(c, "scoring_func", "softmax or sigmoid")),
        };
        let active = count(c, "num_experts_per_tok", 1, EXPERTS_MAX)?;
        let normalize = c.flag("norm_topk_prob", v3) && active > 1;
        // Published V2 code normalises or scales, V3's does both.
        let scale = if normalize && !v3 { 1.0 } else { positive_or(c, "routed_scaling_factor", 1.0)? as f32 };
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
            let attention = Attention::Mla {
                heads,
                q_rank,
                kv_rank,
                nope_dim,
                rope_dim,
                value_dim,
                bias,
                latent_eps: 1e-6,
                rope: rope.clone(),
            };
            Ok(Layer { attention, feed_forward: feed_forward(i)? })
        })
        .collect::<Result<_, CheckpointError>>()?;
    let structure = Structure {
        architecture: c.text("model_type").unwrap_or_default().to_string(),
        vocab,
        hidden,
        layers,
        context,
        norm_eps: positive_or(c, "rms_norm_eps", 1e-6)? as f32,
        tied: c.flag("tie_word_embeddings", false),
    };
    Ok((structure, count_or(c, "num_nextn_predict_layers", 0, LAYERS_MAX)?))
}
