//! One dial for size: from a kind of structure and its active parameters to a whole configuration, in the keys that published checkpoints have.

use std::path::Path;

use model::structure::Structure;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::Error;

/// Kinds of structures that are trained from scratch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Latent attention and a mixture of experts, balanced by biases: DeepSeek-V3.
    #[default]
    #[serde(rename = "mla-moe")]
    MlaMoe,
    /// Latent attention and a mixture of experts, balanced by a loss: DeepSeek-V2.
    #[serde(rename = "mla-moe-v2")]
    MlaMoeV2,
    /// Latent attention and dense blocks.
    #[serde(rename = "mla")]
    Mla,
    /// Grouped-query attention and dense blocks: Llama.
    #[serde(rename = "gqa")]
    Gqa,
    /// Grouped-query attention and a mixture of experts without shared ones: Mixtral's structure with Qwen3's names.
    #[serde(rename = "gqa-moe")]
    GqaMoe,
}

/// What is asked of a structure.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Its kind.
    pub kind: Kind,
    /// Parameters that a token's forward uses.
    pub active: u64,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Positions.
    pub context: usize,
    /// Keys of the configuration that are given; the rest follows.
    pub given: Map<String, Value>,
}

/// Width of a query head's unrotated and rotated parts, and of its value.
const HEAD: [u64; 3] = [32, 16, 32];

/// Streams that are tried.
const HIDDEN: std::ops::RangeInclusive<u64> = 2..=256;
const HIDDEN_STEP: u64 = 32;

impl Wanted {
    /// The configuration: among streams of multiples of 32 the one whose active parameters are nearest to what is wanted. Layers grow with
    /// the width (one for each 36), as in the models of SmolLM's and Qwen's families below a billion parameters; heads have 32 numbers and
    /// 16 rotary ones; the latent is three eighths of the stream. Beside latent attention a token sees three of sixteen experts and a shared block
    /// as wide as two, beside grouped queries four of sixteen.
    ///
    /// # Errors
    /// Keys that contradict each other.
    pub fn config(&self) -> Result<(Value, Structure), Error> {
        let far = |structure: &Structure| (structure.parameters().active as f64 / self.active as f64).ln().abs();
        let mut best: Option<(Value, Structure)> = None;
        let given = self.given.get("hidden_size").and_then(Value::as_u64);
        let streams: Vec<u64> = match given {
            Some(hidden) => vec![hidden],
            None => HIDDEN.map(|n| n * HIDDEN_STEP).collect(),
        };
        for hidden in streams {
            let config = self.of(hidden);
            let (structure, _) = model::families::from_config(Path::new("[model]"), &config)?;
            if best.as_ref().is_some_and(|(_, b)| far(b) < far(&structure)) {
                break;
            }
            best = Some((config, structure));
        }
        Ok(best.expect("at least one stream"))
    }

    fn of(&self, hidden: u64) -> Value {
        let [nope, rope, value] = HEAD;
        let heads = self.given.get("num_attention_heads").and_then(Value::as_u64).unwrap_or((hidden / value).max(1));
        let layers = self.given.get("num_hidden_layers").and_then(Value::as_u64);
        let layers = layers.unwrap_or((hidden as f64 / 36.0).round().max(2.0) as u64);
        let mut config = json!({
            "vocab_size": self.vocabulary,
            "hidden_size": hidden,
            "intermediate_size": whole(hidden.saturating_mul(8) / 3),
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-6,
            "attention_bias": false,
            "tie_word_embeddings": false,
            "initializer_range": 0.02,
            "torch_dtype": "float32",
            "use_cache": true,
        });
        let fields = config.as_object_mut().expect("an object");
        let mut set = |more: Value| {
            if let Value::Object(more) = more {
                more.into_iter().for_each(|(key, value)| {
                    fields.insert(key, value);
                });
            }
        };
        if matches!(self.kind, Kind::MlaMoe | Kind::MlaMoeV2 | Kind::Mla) {
            set(json!({
                "q_lora_rank": null,
                "kv_lora_rank": whole(hidden.saturating_mul(3) / 8),
                "qk_nope_head_dim": nope,
                "qk_rope_head_dim": rope,
                "v_head_dim": value,
                "moe_intermediate_size": whole(hidden.saturating_mul(3) / 8),
                "n_routed_experts": 16,
                "n_shared_experts": 2,
                "num_experts_per_tok": 3,
                "first_k_dense_replace": if self.kind == Kind::Mla { layers } else { 1 },
                "moe_layer_freq": 1,
                "n_group": 1,
                "topk_group": 1,
            }));
        }
        set(self.family(heads, hidden));
        self.given.iter().for_each(|(key, value)| {
            fields.insert(key.clone(), value.clone());
        });
        config
    }

    /// The keys of the family that a kind is published in.
    fn family(&self, heads: u64, hidden: u64) -> Value {
        let value = HEAD[2];
        match self.kind {
            Kind::MlaMoe | Kind::Mla => json!({
                "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "topk_method": "noaux_tc",
                "scoring_func": "sigmoid", "norm_topk_prob": true, "routed_scaling_factor": 1.0,
                "num_nextn_predict_layers": 0,
            }),
            Kind::MlaMoeV2 => json!({
                "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "topk_method": "greedy",
                "scoring_func": "softmax", "norm_topk_prob": false, "routed_scaling_factor": 1.0,
            }),
            Kind::Gqa => json!({
                "architectures": ["LlamaForCausalLM"], "model_type": "llama", "mlp_bias": false,
                "num_key_value_heads": grouped(heads), "head_dim": value,
            }),
            Kind::GqaMoe => json!({
                "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "norm_topk_prob": true,
                "num_key_value_heads": grouped(heads), "head_dim": value, "num_experts": 16, "num_experts_per_tok": 4,
                "moe_intermediate_size": whole(hidden / 2), "decoder_sparse_step": 1, "mlp_only_layers": [],
            }),
        }
    }
}

/// To a multiple of 32 below, but not to zero.
fn whole(x: u64) -> u64 {
    (x / 32).max(1) * 32
}

/// Key/value heads of grouped queries: a quarter of the heads, where that divides them.
fn grouped(heads: u64) -> u64 {
    [4, 3, 2].into_iter().find(|n| heads.is_multiple_of(*n)).map_or(heads, |n| heads / n)
}

#[cfg(test)]
mod tests {
    use model::structure::{FeedForward, Layer};

    use super::*;

    #[test]
    fn the_dial_gives_what_it_says() {
        for kind in [Kind::MlaMoe, Kind::MlaMoeV2, Kind::Mla, Kind::Gqa, Kind::GqaMoe] {
            for active in [1_000_000, 5_000_000, 30_000_000, 100_000_000] {
                let wanted = Wanted { kind, active, vocabulary: 4096, context: 1024, given: Map::new() };
                let (_, structure) = wanted.config().unwrap();
                let got = structure.parameters().active as f64 / active as f64;
                assert!((0.7..1.4).contains(&got), "{kind:?} {active}: {got}");
            }
        }
    }

    #[test]
    fn a_dense_structure_has_no_experts_whatever_its_layers() {
        let given = Map::from_iter([("num_hidden_layers".to_string(), json!(12))]);
        let wanted = Wanted { kind: Kind::Mla, active: 5_000_000, vocabulary: 4096, context: 1024, given };
        let (_, structure) = wanted.config().unwrap();
        let dense = |layer: &Layer| matches!(layer.feed_forward, FeedForward::Dense(_));
        assert!(structure.layers.len() == 12 && structure.layers.iter().all(dense));
    }

    #[test]
    fn a_given_key_stays_and_a_contradiction_is_named() {
        let with = |key: &str, value: Value| {
            let given = Map::from_iter([(key.to_string(), value)]);
            Wanted { kind: Kind::MlaMoe, active: 5_000_000, vocabulary: 4096, context: 1024, given }.config()
        };
        assert_eq!(with("hidden_size", json!(256)).unwrap().1.hidden, 256);
        assert!(with("hidden_size", json!(u64::MAX)).is_err());
        let error = with("num_experts_per_tok", json!(99)).unwrap_err().to_string();
        assert!(error.contains("99 active of 16 experts"), "{error}");
    }
}
