//! A GGUF file as a Hugging Face checkpoint has it: the configuration of its structure. `to_gguf` goes the other way.

use serde_json::{Map, Value as JsonValue, json};

use super::gguf::GgufKeys;
use super::to_gguf::same_in_gguf;
use super::*;
use crate::checkpoint::Checkpoint;
use crate::gguf::{self, Value};
use crate::tensors::{Kind, Tensors};

/// Bounds of Llama 3's rotary scaling, in turns over the original context: the published models have these, and files hold factors only.
const LLAMA3_LOW: f64 = 1.0;
const LLAMA3_HIGH: f64 = 4.0;

/// The configuration of a checkpoint in the keys of `config.json`, and the structure that it describes: channels are paired and named as in a
/// Hugging Face directory.
///
/// # Errors
/// A structure that no configuration describes.
pub fn configuration(checkpoint: &Checkpoint) -> Result<(JsonValue, Structure), CheckpointError> {
    let path = &checkpoint.path;
    if checkpoint.kind == Kind::Safetensors {
        return Ok((crate::checkpoint::configuration(path)?, checkpoint.structure.clone()));
    }
    let first = checkpoint.tensors.files.first().expect("a checkpoint has files");
    let metadata = gguf::read_mapped(first, &mut Tensors::default())?;
    let architecture = metadata.values.get("general.architecture").and_then(Value::text).unwrap_or_default();
    let keys = GgufKeys::of_architecture(&metadata, architecture);
    let mut config = of_structure(&keys, checkpoint)?;
    if let Some(scaling) = scaling(&keys, checkpoint)? {
        config.insert("rope_scaling".to_string(), scaling);
    }
    let config = JsonValue::Object(config);
    let (structure, _) = from_config(path, &config)?;
    if same_in_gguf(&structure, &checkpoint.structure) {
        return Ok((config, structure));
    }
    let what = format!(
        "architecture {architecture} with these keys as a Hugging Face configuration; take the model's Hugging Face directory"
    );
    Err(CheckpointError::unsupported(path, what))
}

/// The rotary scaling; `None`: none.
fn scaling(keys: &GgufKeys, checkpoint: &Checkpoint) -> Result<Option<JsonValue>, CheckpointError> {
    if checkpoint.tensors.has("rope_freqs.weight") {
        let pairs = checkpoint.structure.layers.first().map_or(0, |l| l.attention.heads().rope.frequencies.len());
        let factors = checkpoint.tensors.widened("rope_freqs.weight", &[pairs])?;
        return Ok(Some(llama3(&factors, positive_or(keys, "rope.freq_base", 10_000.0)?)));
    }
    let factor = || positive(keys, "rope.scaling.factor");
    Ok(match text(keys, "rope.scaling.type")? {
        Some("linear") => Some(json!({"rope_type": "linear", "factor": factor()?})),
        Some("yarn") => {
            let mut yarn = json!({"rope_type": "yarn", "factor": factor()?});
            for (key, of) in [
                ("rope.scaling.original_context_length", "original_max_position_embeddings"),
                ("rope.scaling.yarn_beta_fast", "beta_fast"),
                ("rope.scaling.yarn_beta_slow", "beta_slow"),
            ] {
                if let Some(value) = keys.number(key) {
                    yarn[of] = if value.fract() == 0.0 { json!(value as u64) } else { json!(value) };
                }
            }
            // The file's multiplier is a tenth of mscale_all_dim, to which mscale is equal in published models.
            if let Some(multiplier) = keys.number("rope.scaling.yarn_log_multiplier").filter(|&m| m != 0.0) {
                let all = (multiplier / 0.1 * 1e6).round() / 1e6;
                (yarn["mscale"], yarn["mscale_all_dim"]) = (json!(all), json!(all));
            }
            Some(yarn)
        }
        _ => None,
    })
}

/// Llama 3's scaling from what it divides each frequency by. Pairs between the two bounds tell the original context: their factor is
/// interpolated by the turns over it.
fn llama3(factors: &[f32], theta: f64) -> JsonValue {
    let largest = factors.iter().fold(1f32, |a, &b| a.max(b));
    let factor = (f64::from(largest) * 1e4).round() / 1e4;
    let between = factors.iter().enumerate().find(|(_, f)| **f > 1.001 && **f < 0.999 * largest);
    let original = between.map_or(8192.0, |(pair, &f)| {
        let wavelength = std::f64::consts::TAU * theta.powf(pair as f64 / factors.len() as f64);
        let smooth = (1.0 / f64::from(f) - 1.0 / factor) / (1.0 - 1.0 / factor);
        (wavelength * (LLAMA3_LOW + smooth * (LLAMA3_HIGH - LLAMA3_LOW))).round()
    });
    json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": LLAMA3_LOW, "high_freq_factor": LLAMA3_HIGH,
        "original_max_position_embeddings": original as u64})
}

/// All keys but the rotary scaling.
fn of_structure(keys: &GgufKeys, checkpoint: &Checkpoint) -> Result<Map<String, JsonValue>, CheckpointError> {
    let structure = &checkpoint.structure;
    let Some(layer) = structure.layers.first() else {
        return Err(CheckpointError::unsupported(&checkpoint.path, "a model without layers"));
    };
    let heads = layer.attention.heads().count;
    let mut config = Map::new();
    let mut set = |more: JsonValue| {
        if let JsonValue::Object(more) = more {
            config.extend(more);
        }
    };
    set(json!({
        "vocab_size": structure.vocab,
        "hidden_size": structure.hidden,
        "num_hidden_layers": structure.layers.len(),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "hidden_act": "silu",
        "max_position_embeddings": structure.context,
        "rms_norm_eps": decimal(structure.norm_eps),
        "rope_theta": positive_or(keys, "rope.freq_base", 10_000.0)?,
        "tie_word_embeddings": structure.head == Head::Tied,
        "initializer_range": 0.02,
        "torch_dtype": "float32",
        "use_cache": true,
    }));
    let inner = structure.layers.iter().find_map(|l| match &l.feed_forward {
        FeedForward::Dense(dense) => Some(dense.hidden),
        FeedForward::Moe(_) => None,
    });
    set(json!({"intermediate_size": inner.unwrap_or(count_or(keys, "feed_forward_length", 0, WIDTH_MAX)?)}));
    match checkpoint.generation.eos[..] {
        [] => {}
        [one] => set(json!({"eos_token_id": one})),
        ref several => set(json!({"eos_token_id": several})),
    }
    if let Some(bos) = checkpoint.generation.bos {
        set(json!({"bos_token_id": bos}));
    }
    match &layer.attention {
        Attention::Gqa(gqa) => set(grouped(gqa, structure)),
        Attention::Mla(mla) => set(latent(mla, structure)),
    }
    Ok(config)
}

/// A number of 32 bits as people write it: `1e-5`, not the binary number nearest to it in 64 bits.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().expect("a number is one again")
}

/// Keys of grouped-query attention and of what goes with it.
fn grouped(gqa: &Gqa, structure: &Structure) -> JsonValue {
    let moe = structure.layers.iter().find_map(|layer| match &layer.feed_forward {
        FeedForward::Moe(moe) => Some(moe),
        FeedForward::Dense(_) => None,
    });
    let mlp_bias = matches!(&structure.layers[0].feed_forward, FeedForward::Dense(dense) if dense.bias);
    let (class, kind, more) = match (structure.architecture.as_str(), moe) {
        ("llama", Some(moe)) => {
            let experts = json!({"num_local_experts": moe.experts, "num_experts_per_tok": moe.active,
                "intermediate_size": moe.hidden});
            ("MixtralForCausalLM", "mixtral", experts)
        }
        ("llama", None) if gqa.window.is_some() => ("MistralForCausalLM", "mistral", json!({})),
        (_, Some(moe)) => {
            let experts = json!({"num_experts": moe.experts, "num_experts_per_tok": moe.active,
                "moe_intermediate_size": moe.hidden, "norm_topk_prob": moe.router.normalize,
                "decoder_sparse_step": 1, "mlp_only_layers": []});
            ("Qwen3MoeForCausalLM", "qwen3_moe", experts)
        }
        ("qwen2", None) => ("Qwen2ForCausalLM", "qwen2", json!({})),
        ("qwen3", None) => ("Qwen3ForCausalLM", "qwen3", json!({})),
        _ => {
            let biases = json!({"attention_bias": gqa.qkv_bias || gqa.out_bias, "mlp_bias": mlp_bias});
            ("LlamaForCausalLM", "llama", biases)
        }
    };
    let mut config = json!({
        "architectures": [class], "model_type": kind, "num_key_value_heads": gqa.kv_heads, "head_dim": gqa.head_dim,
    });
    if let Some(window) = gqa.window {
        config["sliding_window"] = json!(window);
    } else if ["MistralForCausalLM", "MixtralForCausalLM"].contains(&class) {
        config["sliding_window"] = JsonValue::Null;
    }
    if let (Some(config), JsonValue::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
    config
}

/// Keys of latent attention: DeepSeek-V3 where routers have biases of choice or there are none, else DeepSeek-V2.
fn latent(mla: &Mla, structure: &Structure) -> JsonValue {
    let mut config = json!({
        "q_lora_rank": mla.q_rank,
        "kv_lora_rank": mla.kv_rank,
        "qk_nope_head_dim": mla.nope_dim,
        "qk_rope_head_dim": mla.rope_dim,
        "v_head_dim": mla.value_dim,
        "attention_bias": mla.bias,
        "num_nextn_predict_layers": 0,
    });
    let first = structure.layers.iter().position(|layer| matches!(layer.feed_forward, FeedForward::Moe(_)));
    let v3 = match first.map(|at| &structure.layers[at].feed_forward) {
        Some(FeedForward::Moe(moe)) => {
            let router = &moe.router;
            let method = match (router.bias, router.groups) {
                (true, _) => "noaux_tc",
                (false, 1) => "greedy",
                (false, _) => "group_limited_greedy",
            };
            let experts = json!({
                "n_routed_experts": moe.experts,
                "n_shared_experts": moe.shared_hidden / moe.hidden,
                "num_experts_per_tok": moe.active,
                "moe_intermediate_size": moe.hidden,
                "first_k_dense_replace": first,
                "moe_layer_freq": 1,
                "n_group": router.groups,
                "topk_group": router.groups_active,
                "topk_method": method,
                "scoring_func": if router.score == Score::Sigmoid { "sigmoid" } else { "softmax" },
                "norm_topk_prob": router.normalize,
                "routed_scaling_factor": decimal(router.scale),
            });
            if let (Some(config), JsonValue::Object(experts)) = (config.as_object_mut(), experts) {
                config.extend(experts);
            }
            router.bias
        }
        _ => {
            config["first_k_dense_replace"] = json!(structure.layers.len());
            true
        }
    };
    let (class, kind) =
        if v3 { ("DeepseekV3ForCausalLM", "deepseek_v3") } else { ("DeepseekV2ForCausalLM", "deepseek_v2") };
    (config["architectures"], config["model_type"]) = (json!([class]), json!(kind));
    config
}
