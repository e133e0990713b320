//! A Hugging Face checkpoint as a GGUF file has it: its keys, and where each of its tensors goes. The keys are those of llama.cpp's converter.

use serde_json::Value as JsonValue;

use super::names::{LEFT_ALONE, LEFT_ALONE_OUTSIDE, NAMES, outside};
use super::rows::{FAMILIES, Family};
use super::*;
use crate::gguf::TypedValue;
use crate::tensors::Kind;

/// What a GGUF file says of a model beside its tensors and tokenizer.
pub struct GgufKeys {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// Keys of the architecture, in order.
    pub keys: Vec<(String, TypedValue)>,
    /// Rows of q and k are permuted, so that neighbours are pairs.
    pub permuted: bool,
    /// What each rotary frequency is divided by, where a tensor holds that.
    pub rope_factors: Option<Vec<f32>>,
}

/// Latent attention has one architecture in these files, whatever the family.
const LATENT: &str = "deepseek2";

/// Keys for the structure of a configuration.
///
/// # Errors
/// An architecture of which no GGUF file is read.
pub fn gguf_keys(path: &Path, config: &JsonValue, structure: &Structure) -> Result<GgufKeys, CheckpointError> {
    let c = Json { path, json: config };
    let named = |family: &&Family| family.hf == structure.architecture;
    let family = FAMILIES.iter().find(named);
    let latent = structure.layers.iter().any(|layer| matches!(layer.attention, Attention::Mla(_)));
    let (architecture, permuted) = match family.and_then(|family| family.gguf.as_ref()) {
        _ if latent => (LATENT, false),
        Some(gguf) => (gguf.name, gguf.permuted),
        None => {
            let known: Vec<&str> = FAMILIES.iter().filter(|f| f.gguf.is_some()).map(|f| f.hf).collect();
            let what = format!(
                "architecture {} as a GGUF file; written are {}, deepseek_v3 and kimi_k2",
                structure.architecture,
                known.join(", ")
            );
            return Err(CheckpointError::unsupported(path, what));
        }
    };
    let mut keys = Keys { architecture, keys: Vec::new() };
    keys.count("block_count", structure.layers.len());
    keys.count("context_length", structure.context);
    keys.count("embedding_length", structure.hidden);
    keys.count("feed_forward_length", count(&c, "intermediate_size", 1, WIDTH_MAX)?);
    let Some(layer) = structure.layers.first() else {
        return Err(CheckpointError::unsupported(path, "a model without layers"));
    };
    keys.count("attention.head_count", layer.attention.heads().count);
    match &layer.attention {
        Attention::Gqa(gqa) => keys.count("attention.head_count_kv", gqa.kv_heads),
        Attention::Mla(_) => keys.count("attention.head_count_kv", 1),
    }
    let rope_factors = keys.rope(&c, structure, family)?;
    keys.float("attention.layer_norm_rms_epsilon", f64::from(structure.norm_eps));
    keys.experts(&c, structure)?;
    match &layer.attention {
        Attention::Gqa(gqa) => {
            if !c.absent("head_dim") || gqa.head_dim * gqa.heads != structure.hidden {
                keys.count("attention.key_length", gqa.head_dim);
                keys.count("attention.value_length", gqa.head_dim);
            }
            if let Some(window) = gqa.window {
                keys.count("attention.sliding_window", window);
            }
            keys.count("vocab_size", structure.vocab);
            keys.count("rope.dimension_count", gqa.head_dim);
        }
        Attention::Mla(mla) => keys.latent(mla, structure),
    }
    Ok(GgufKeys { architecture, keys: keys.keys, permuted, rope_factors })
}

struct Keys {
    architecture: &'static str,
    keys: Vec<(String, TypedValue)>,
}

impl Keys {
    fn put(&mut self, key: &str, value: TypedValue) {
        self.keys.push((format!("{}.{key}", self.architecture), value));
    }

    fn count(&mut self, key: &str, count: usize) {
        self.put(key, TypedValue::U32(u32::try_from(count).expect("checked against limits when it was read")));
    }

    fn float(&mut self, key: &str, value: f64) {
        self.put(key, TypedValue::F32(value as f32));
    }

    /// Base and scaling of the rotary embedding; the factors, where the scaling has no key.
    fn rope(
        &mut self,
        c: &Json,
        structure: &Structure,
        family: Option<&Family>,
    ) -> Result<Option<Vec<f32>>, CheckpointError> {
        let inner = c.nested("rope_scaling")?.or(c.nested("rope_parameters")?);
        let default = family.map_or(1e4, |family| family.theta);
        let theta = match &inner {
            Some(inner) if c.absent("rope_theta") => positive_or(inner, "rope_theta", default)?,
            _ => positive_or(c, "rope_theta", default)?,
        };
        let mut factors = None;
        if let Some(inner) = &inner {
            let kind = text(inner, "rope_type")?.or(text(inner, "type")?).unwrap_or("default");
            match kind {
                "linear" | "yarn" => {
                    self.put("rope.scaling.type", TypedValue::Text(kind.to_string()));
                    self.float("rope.scaling.factor", positive(inner, "factor")?);
                }
                "llama3" => factors = Some(stored_factors(structure, theta)),
                _ => {}
            }
            if kind == "yarn" {
                let original = count_or(inner, "original_max_position_embeddings", structure.context, CONTEXT_MAX)?;
                self.count("rope.scaling.original_context_length", original);
                for (key, of) in [("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")] {
                    if !inner.absent(key) {
                        self.float(&format!("rope.scaling.{of}"), positive(inner, key)?);
                    }
                }
                let all = number_or(inner, "mscale_all_dim", 0.0)?;
                if all != 0.0 && self.architecture == LATENT {
                    self.float("rope.scaling.yarn_log_multiplier", 0.1 * all);
                }
            }
        }
        self.float("rope.freq_base", theta);
        Ok(factors)
    }

    fn experts(&mut self, c: &Json, structure: &Structure) -> Result<(), CheckpointError> {
        let mixtures = structure.layers.iter().enumerate().filter_map(|(i, layer)| match &layer.feed_forward {
            FeedForward::Moe(moe) => Some((i, moe)),
            FeedForward::Dense(_) => None,
        });
        let first = mixtures.into_iter().next();
        let latent = self.architecture == LATENT;
        let Some((at, moe)) = first else {
            if latent {
                self.count("leading_dense_block_count", structure.layers.len());
                self.count("expert_feed_forward_length", count(c, "intermediate_size", 1, WIDTH_MAX)?);
                self.count("expert_shared_count", 0);
            }
            return Ok(());
        };
        self.count("expert_count", moe.experts);
        self.count("expert_used_count", moe.active);
        if !c.absent("moe_intermediate_size") {
            self.count("expert_feed_forward_length", moe.hidden);
        }
        if latent {
            let router = &moe.router;
            self.count("expert_group_count", router.groups);
            self.count("expert_group_used_count", router.groups_active);
            let gating = if router.score == Score::Sigmoid { 2 } else { 1 };
            self.count("expert_gating_func", gating);
            self.count("leading_dense_block_count", at);
            self.count("expert_shared_count", moe.shared_hidden / moe.hidden);
            self.float("expert_weights_scale", f64::from(router.scale));
            self.put("expert_weights_norm", TypedValue::Bool(router.normalize));
        }
        Ok(())
    }

    /// Widths of the cached row as those of a head, as if all heads shared one key; and of the heads themselves.
    fn latent(&mut self, mla: &Mla, structure: &Structure) {
        self.count("vocab_size", structure.vocab);
        // 0 for none: llama.cpp misses the key in models of other depths than DeepSeek-V2-Lite's.
        self.count("attention.q_lora_rank", mla.q_rank.unwrap_or(0));
        self.count("attention.kv_lora_rank", mla.kv_rank);
        self.count("attention.key_length", mla.kv_rank + mla.rope_dim);
        self.count("attention.value_length", mla.kv_rank);
        self.count("attention.key_length_mla", mla.nope_dim + mla.rope_dim);
        self.count("attention.value_length_mla", mla.value_dim);
        self.count("rope.dimension_count", mla.rope_dim);
    }
}

/// How many times slower each pair turns than it would without the scaling.
fn stored_factors(structure: &Structure, theta: f64) -> Vec<f32> {
    let rope = structure.layers[0].attention.heads().rope;
    let dim = 2 * rope.frequencies.len();
    let plain = (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64));
    plain.zip(&rope.frequencies).map(|(plain, &scaled)| (plain / f64::from(scaled)) as f32).collect()
}

/// Whether a structure that was read from a GGUF file is that of the configuration which the file was made for. Frequencies may differ as rounding
/// of their base does; how channels are paired and what the architecture is called may differ too.
pub fn same_in_gguf(config: &Structure, gguf: &Structure) -> bool {
    fn near(a: &[f32], b: &[f32]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 2e-6 * a.abs())
    }
    let mut gguf = gguf.clone();
    gguf.architecture.clone_from(&config.architecture);
    let eps = near(&[config.norm_eps], &[gguf.norm_eps]);
    gguf.norm_eps = config.norm_eps;
    for (wanted, found) in config.layers.iter().zip(&mut gguf.layers) {
        let (wanted, found) = match (&wanted.attention, &mut found.attention) {
            (Attention::Gqa(a), Attention::Gqa(b)) => (&a.rope, &mut b.rope),
            (Attention::Mla(a), Attention::Mla(b)) => (&a.rope, &mut b.rope),
            _ => return false,
        };
        let factors = |rope: &Rope| [rope.amplitude, rope.score_scale];
        if !near(&wanted.frequencies, &found.frequencies) || !near(&factors(wanted), &factors(found)) {
            return false;
        }
        *found = wanted.clone();
    }
    eps && gguf == *config
}

/// Where a Hugging Face tensor goes in a GGUF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GgufPlace {
    /// A tensor of its own; its rows are permuted where it is of queries or keys.
    Whole {
        /// Its name.
        name: String,
        /// It is of queries (`Some(false)`) or keys (`Some(true)`).
        keys: Option<bool>,
    },
    /// An expert's matrix in the tensor of all.
    Expert {
        /// The tensor's name.
        name: String,
        /// The expert's number.
        expert: usize,
    },
    /// MLA's expansion, which becomes two tensors: keys, transposed, and values.
    Expansion {
        /// Names of the two.
        names: [String; 2],
    },
    /// It is not written.
    Nowhere,
}

/// The place of a tensor of a model with so many layers; `None` for a name that is not known.
pub fn gguf_place(name: &str, layers: usize) -> Option<GgufPlace> {
    let whole = |name: String| Some(GgufPlace::Whole { name, keys: None });
    let (from, to) = (outside(Kind::Safetensors), outside(Kind::Gguf));
    if let Some(at) = from.iter().position(|outside| *outside == name) {
        return whole(to[at].to_string());
    }
    let left_alone = |list: &[(Kind, &str, &str)], name| list.iter().any(|l| l.0 == Kind::Safetensors && l.1 == name);
    if left_alone(LEFT_ALONE_OUTSIDE, name) || name.ends_with("_scale_inv") {
        return Some(GgufPlace::Nowhere);
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    if layer >= layers || left_alone(LEFT_ALONE, part) {
        return Some(GgufPlace::Nowhere);
    }
    let at = |part: &str| format!("blk.{layer}.{part}");
    match part {
        "mlp.gate.e_score_correction_bias" => return whole(at("exp_probs_b.bias")),
        "block_sparse_moe.gate.weight" => return whole(at("ffn_gate_inp.weight")),
        "self_attn.kv_b_proj.weight" => {
            return Some(GgufPlace::Expansion { names: ["attn_k_b.weight", "attn_v_b.weight"].map(at) });
        }
        _ => {}
    }
    if let Some((_, rest)) = part.split_once(".experts.")
        && let Some((expert, matrix)) = rest.split_once('.')
    {
        let name = match matrix {
            "gate_proj.weight" | "w1.weight" => "ffn_gate_exps.weight",
            "up_proj.weight" | "w3.weight" => "ffn_up_exps.weight",
            "down_proj.weight" | "w2.weight" => "ffn_down_exps.weight",
            _ => return None,
        };
        return Some(GgufPlace::Expert { name: at(name), expert: expert.parse().ok()? });
    }
    let (part, ending) = part.rsplit_once('.')?;
    let (_, name) = NAMES.iter().find(|(hf, _)| *hf == part)?;
    let keys = match part {
        "self_attn.q_proj" => Some(false),
        "self_attn.k_proj" => Some(true),
        _ => None,
    };
    Some(GgufPlace::Whole { name: at(&format!("{name}.{ending}")), keys })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_have_their_places() {
        let whole = |name: &str, keys| Some(GgufPlace::Whole { name: name.to_string(), keys });
        for (name, place) in [
            ("model.embed_tokens.weight", whole("token_embd.weight", None)),
            ("lm_head.weight", whole("output.weight", None)),
            ("model.layers.1.self_attn.q_proj.bias", whole("blk.1.attn_q.bias", Some(false))),
            ("model.layers.0.self_attn.k_proj.weight", whole("blk.0.attn_k.weight", Some(true))),
            ("model.layers.0.mlp.gate.weight", whole("blk.0.ffn_gate_inp.weight", None)),
            ("model.layers.0.mlp.shared_experts.up_proj.weight", whole("blk.0.ffn_up_shexp.weight", None)),
            ("model.layers.0.mlp.gate_proj.weight_scale_inv", Some(GgufPlace::Nowhere)),
            ("model.layers.2.mlp.gate_proj.weight", Some(GgufPlace::Nowhere)),
            ("model.layers.0.self_attn.rotary_emb.inv_freq", Some(GgufPlace::Nowhere)),
            ("model.layers.0.mlp.unheard_of.weight", None),
            ("vision.weight", None),
        ] {
            assert_eq!(gguf_place(name, 2), place, "{name}");
        }
        for name in ["mlp.experts.7.down_proj", "block_sparse_moe.experts.7.w2"] {
            let place = gguf_place(&format!("model.layers.1.{name}.weight"), 2);
            let name = "blk.1.ffn_down_exps.weight".to_string();
            assert_eq!(place, Some(GgufPlace::Expert { name, expert: 7 }));
        }
    }
}
