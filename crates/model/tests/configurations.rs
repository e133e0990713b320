//! Values of a configuration: one of the wrong type is an error that names it, an absent one is the published default or an error.

mod gguf_writing;
mod running;

use std::collections::BTreeMap;
use std::path::Path;

use gguf_writing::{Directory, write};
use model::Checkpoint;
use model::gguf::Value;
use model::structure::*;
use model::tensors::Tensors;
use running::case;
use serde_json::{Value as Json, json};

fn config(name: &str) -> Json {
    serde_json::from_slice(&std::fs::read(case("oracle").join(name).join("config.json")).unwrap()).unwrap()
}

fn structure(config: &Json) -> Result<Structure, String> {
    let opened = Checkpoint::of_parts(Path::new("config.json"), config, Tensors::default());
    opened.map(|c| c.structure).map_err(|e| e.to_string())
}

fn without(mut config: Json, keys: &[&str]) -> Json {
    keys.iter().for_each(|key| drop(config.as_object_mut().unwrap().remove(*key)));
    config
}

fn with(mut config: Json, changes: &[(&str, Json)]) -> Json {
    changes.iter().for_each(|(key, value)| config[*key] = value.clone());
    config
}

#[test]
fn values_of_the_wrong_type_are_errors() {
    let keys = |name: &'static str, keys: &'static [&'static str]| keys.iter().map(move |key| (name, *key));
    let all = keys(
        "llama-gqa",
        &[
            "model_type",
            "hidden_act",
            "rms_norm_eps",
            "attention_bias",
            "mlp_bias",
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
            "rope_theta",
            "tie_word_embeddings",
            "bos_token_id",
            "eos_token_id",
            "rope_scaling",
            "rope_parameters",
            "layer_types",
            "partial_rotary_factor",
            "temperature",
            "top_p",
            "top_k",
            "repetition_penalty",
            "do_sample",
        ],
    );
    let all = all.chain(keys(
        "qwen3-moe",
        &[
            "use_sliding_window",
            "max_window_layers",
            "norm_topk_prob",
            "mlp_only_layers",
            "decoder_sparse_step",
            "num_experts",
            "num_experts_per_tok",
            "moe_intermediate_size",
        ],
    ));
    let all = all.chain(keys(
        "deepseek-v3-shape",
        &[
            "norm_topk_prob",
            "scoring_func",
            "topk_method",
            "q_lora_rank",
            "kv_lora_rank",
            "qk_nope_head_dim",
            "qk_rope_head_dim",
            "v_head_dim",
            "n_routed_experts",
            "n_shared_experts",
            "num_experts_per_tok",
            "n_group",
            "topk_group",
            "routed_scaling_factor",
            "num_nextn_predict_layers",
            "first_k_dense_replace",
            "moe_layer_freq",
            "attention_bias",
            "rope_interleave",
        ],
    ));
    for (name, key) in all.chain([("mixtral", "num_local_experts"), ("mixtral", "sliding_window")]) {
        let wrong = if matches!(key, "model_type" | "hidden_act" | "scoring_func" | "topk_method") {
            json!(7)
        } else {
            json!("false")
        };
        let error = structure(&with(config(name), &[(key, wrong.clone())])).expect_err(key);
        let said = format!("{key} is {wrong}; it must be");
        assert!(error.contains(&said) && error.contains("config.json"), "{name} {key}: {error}");
    }
    for key in ["factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "original_max_position_embeddings"] {
        let mut spoilt = config("deepseek-v3-shape");
        spoilt["rope_scaling"][key] = json!("40");
        assert!(structure(&spoilt).unwrap_err().contains(&format!("{key} is \"40\"")), "{key}");
    }
    let directory = Directory::new("generation");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(case("oracle/llama-gqa").join(file), directory.0.join(file)).unwrap();
    }
    for (key, value) in [
        ("temperature", json!("0.7")),
        ("temperature", json!(-1)),
        ("top_p", json!(1.5)),
        ("top_k", json!(2.5)),
        ("repetition_penalty", json!(0)),
        ("do_sample", json!("no")),
        ("eos_token_id", json!([1, "2"])),
        ("eos_token_id", json!(-1)),
        ("bos_token_id", json!(1.5)),
    ] {
        std::fs::write(directory.0.join("generation_config.json"), json!({key: value}).to_string()).unwrap();
        let error = Checkpoint::open(&directory.0).err().expect(key).to_string();
        assert!(error.contains(&format!("{key} is {value}")) && error.contains("generation_config.json"), "{error}");
    }
    let sound = json!({"temperature": 0.5, "top_k": -1, "top_p": null, "eos_token_id": [3, 4], "bos_token_id": null});
    std::fs::write(directory.0.join("generation_config.json"), sound.to_string()).unwrap();
    let generation = Checkpoint::open(&directory.0).unwrap().generation;
    assert_eq!((generation.temperature, generation.top_k, generation.top_p), (Some(0.5), Some(0), None));
    assert_eq!((generation.eos, generation.bos), (vec![3, 4], Some(630)));
}

fn router(structure: &Structure, layer: usize) -> &Router {
    let FeedForward::Moe { router, .. } = &structure.layers[layer].feed_forward else { panic!("a mixture") };
    router
}

#[test]
fn absent_keys_are_the_published_defaults() {
    // V3: 8 groups, 4 active, 2.5, normalised, sigmoid, three dense layers, 8 of 256 experts and a shared one.
    let keys = ["n_group", "topk_group", "routed_scaling_factor", "norm_topk_prob", "scoring_func", "topk_method"];
    let sizes = ["first_k_dense_replace", "n_routed_experts", "num_experts_per_tok", "n_shared_experts", "q_lora_rank"];
    let v3 = without(without(config("deepseek-v3-shape"), &keys), &sizes);
    let v3 = structure(&with(v3, &[("num_hidden_layers", json!(4))])).unwrap();
    let expected = Router {
        score: Score::Sigmoid,
        groups: 8,
        groups_active: 4,
        group_score: GroupScore::TopTwo,
        bias: true,
        normalize: true,
        scale: 2.5,
    };
    assert_eq!(*router(&v3, 3), expected);
    assert!(matches!(v3.layers[2].feed_forward, FeedForward::Dense { hidden: 160, bias: false }));
    assert!(matches!(
        v3.layers[3].feed_forward,
        FeedForward::Moe { experts: 256, active: 8, hidden: 24, shared_hidden: 24, .. }
    ));
    assert!(matches!(v3.layers[0].attention, Attention::Mla { q_rank: Some(1536), bias: false, .. }));

    // V2: greedy, one group, as they are, 1.0; every layer a mixture; two shared experts. A null rank is no compression.
    let v2 = without(without(config("deepseek-v2-shape"), &keys), &sizes);
    let v2 = structure(&with(v2, &[("num_experts_per_tok", json!(2)), ("q_lora_rank", Json::Null)])).unwrap();
    let plain = Router { scale: 1.0, ..model::families::softmax_router(false) };
    assert_eq!(*router(&v2, 0), plain);
    assert!(matches!(v2.layers[0].feed_forward, FeedForward::Moe { experts: 64, .. }));
    assert!(matches!(v2.layers[0].attention, Attention::Mla { q_rank: None, .. }));
    assert!(structure(&without(config("deepseek-v2-shape"), &["num_experts_per_tok"])).is_err());

    let gqa = |s: &Structure, layer: usize| match &s.layers[layer].attention {
        Attention::Gqa { kv_heads, head_dim, window, rope, .. } => (*kv_heads, *head_dim, *window, rope.frequencies[1]),
        Attention::Mla { .. } => panic!("grouped"),
    };
    let base = |family: &str| {
        let all = ["num_key_value_heads", "head_dim", "rope_theta", "rms_norm_eps", "tie_word_embeddings"];
        let sized = [("model_type", json!(family)), ("num_attention_heads", json!(32)), ("hidden_size", json!(512))];
        with(without(config("llama-gqa"), &all), &sized)
    };
    let second = |theta: f64, d: f64| theta.powf(-2.0 / d) as f32;
    let of = |family: &str| structure(&base(family)).unwrap();
    assert_eq!(gqa(&of("llama"), 0), (32, 16, None, second(1e4, 16.0)));
    assert_eq!(gqa(&of("mistral"), 3), (8, 16, Some(4096), second(1e4, 16.0)));
    assert_eq!(gqa(&of("qwen2"), 0), (32, 16, None, second(1e4, 16.0)));
    assert_eq!(gqa(&of("qwen3"), 0), (32, 128, None, second(1e4, 128.0)));
    let mixtral = of("mixtral");
    assert_eq!(gqa(&mixtral, 0), (8, 16, None, second(1e6, 16.0)));
    assert_eq!((mixtral.norm_eps, mixtral.tied, of("llama").norm_eps), (1e-5, false, 1e-6));
    assert!(matches!(mixtral.layers[0].feed_forward, FeedForward::Moe { experts: 8, active: 2, .. }));
    assert!(router(&mixtral, 0).normalize);
    let moe = structure(&with(base("qwen3_moe"), &[("moe_intermediate_size", json!(48))])).unwrap();
    assert_eq!(gqa(&moe, 0).0, 4);
    assert!(matches!(moe.layers[0].feed_forward, FeedForward::Moe { experts: 128, active: 8, .. }));
    assert!(!router(&moe, 0).normalize);
    // An explicit null of heads is as many as there are heads of queries.
    assert_eq!(gqa(&structure(&with(base("mistral"), &[("num_key_value_heads", Json::Null)])).unwrap(), 0).0, 32);
}

#[test]
fn windows_of_some_layers() {
    let windows = |config: Json| -> Result<Vec<Option<usize>>, String> {
        let of = |l: &Layer| if let Attention::Gqa { window, .. } = l.attention { window } else { None };
        structure(&config).map(|s| s.layers.iter().map(of).collect())
    };
    let (full, sliding) = ("full_attention", "sliding_attention");
    let family = |family: &str, more: &[(&str, Json)]| {
        windows(with(with(config("llama-gqa"), &[("model_type", json!(family))]), more))
    };
    let types = ("layer_types", json!([full, sliding, full, sliding]));
    let (used, size) = (("use_sliding_window", json!(true)), ("sliding_window", json!(64)));
    let listed = family("qwen2", &[types.clone(), used.clone(), size.clone()]);
    assert_eq!(listed.unwrap(), [None, Some(64), None, Some(64)]);
    let from = [used.clone(), size.clone(), ("max_window_layers", json!(3))];
    assert_eq!(family("qwen3", &from).unwrap(), [None, None, None, Some(64)]);
    assert_eq!(family("qwen2", std::slice::from_ref(&used)).unwrap(), [None; 4], "28 layers are full by default");
    assert_eq!(family("qwen2", std::slice::from_ref(&size)).unwrap(), [None; 4]);
    assert_eq!(family("mistral", std::slice::from_ref(&size)).unwrap(), [Some(64); 4]);
    assert_eq!(family("mistral", &[("sliding_window", Json::Null)]).unwrap(), [None; 4]);
    assert_eq!(family("llama", &[("layer_types", json!([full, full, full, full]))]).unwrap(), [None; 4]);
    // Windows that would not be honoured are refused.
    for (name, more) in [
        ("qwen2", vec![types.clone()]),
        ("llama", vec![types.clone(), size.clone()]),
        ("mistral", vec![types.clone(), size.clone()]),
        ("llama", vec![("layer_types", json!([full, full]))]),
        ("llama", vec![("layer_types", json!([full, full, full, "chunked_attention"]))]),
    ] {
        assert!(family(name, &more).unwrap_err().contains("layer_types"), "{name} {more:?}");
    }
    assert!(family("mistral", &[("sliding_window", json!(0))]).unwrap_err().contains("sliding_window is 0"));
    let latent = with(config("deepseek-v3-shape"), &[("layer_types", json!([sliding, full, full]))]);
    assert!(structure(&latent).unwrap_err().contains("layer_types"));
}

#[test]
fn scalings_say_all_that_they_need() {
    let scaled = |scaling: Json| structure(&with(config("llama-gqa"), &[("rope_scaling", scaling)]));
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    scaled(llama3.clone()).unwrap();
    for key in ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"] {
        assert!(scaled(without(llama3.clone(), &[key])).unwrap_err().contains(&format!("{key} is absent")));
    }
    for (scaling, said) in [
        (json!({"rope_type": "yarn"}), "factor is absent"),
        (json!({"type": "linear"}), "factor is absent"),
        (json!({"factor": 2.0}), "rope_type is absent"),
        (json!({"full_attention": {"rope_type": "default"}}), "rope_type is absent"),
        (json!({"rope_type": "default", "partial_rotary_factor": 0.5}), "partial_rotary_factor 0.5"),
        (json!({"rope_type": "yarn", "factor": 2.0, "truncate": false}), "truncate"),
        (json!({"rope_type": "yarn", "factor": 2.0, "attention_factor": "1"}), "attention_factor is \"1\""),
    ] {
        let error = scaled(scaling).unwrap_err();
        assert!(error.contains(said), "{said}: {error}");
    }
    let amplitude = |scaling: Json| match &scaled(scaling).unwrap().layers[0].attention {
        Attention::Gqa { rope, .. } => rope.amplitude,
        Attention::Mla { .. } => panic!("grouped"),
    };
    let ln = 4f32.ln();
    assert!((amplitude(json!({"rope_type": "yarn", "factor": 4.0})) - (0.1 * ln + 1.0)).abs() < 1e-6);
    assert_eq!(amplitude(json!({"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.25})), 1.25);
    let both = json!({"rope_type": "yarn", "factor": 4.0, "mscale": 2.0, "mscale_all_dim": 0.5});
    assert!((amplitude(both) - (0.2 * ln + 1.0) / (0.05 * ln + 1.0)).abs() < 1e-6);
}

/// Metadata of a GGUF file, changed, under its own tensors.
fn gguf(name: &str, change: impl Fn(&mut BTreeMap<String, Value>)) -> Result<Structure, String> {
    let directory = Directory::new(&format!("settings-{:?}", std::thread::current().id()));
    let mut tensors = Tensors::default();
    let mut values = model::gguf::read(&case("oracle").join(name).join("model-f32.gguf"), &mut tensors).unwrap().values;
    change(&mut values);
    let written: Vec<_> = tensors
        .by_name
        .iter()
        .map(|(name, t)| (name.clone(), t.shape.clone(), vec![0f32; t.shape.iter().product()]))
        .collect();
    let path = directory.0.join("settings.gguf");
    write(&path, 3, &values, &written);
    Checkpoint::open(&path).map(|c| c.structure).map_err(|e| e.to_string())
}

#[test]
fn keys_of_gguf_files() {
    let latent = "deepseek-v2-lite-shape";
    let put = |key: &'static str, value: Value| {
        move |values: &mut BTreeMap<String, Value>| drop(values.insert(key.to_string(), value.clone()))
    };
    let text = |x: &str| Value::Text(x.to_string());
    for (key, value, said) in [
        ("general.architecture", Value::U64(3), "general.architecture is"),
        ("deepseek2.block_count", Value::Bool(true), "block_count is true"),
        ("deepseek2.attention.head_count", text("4"), "attention.head_count is \"4\""),
        ("deepseek2.expert_weights_norm", Value::U64(1), "expert_weights_norm is 1; it must be true or false"),
        ("deepseek2.expert_weights_scale", text("1"), "expert_weights_scale is \"1\""),
        ("deepseek2.rope.scaling.type", Value::U64(2), "rope.scaling.type is 2"),
        ("deepseek2.rope.scaling.yarn_log_multiplier", text("x"), "yarn_log_multiplier is \"x\""),
        ("deepseek2.rope.scaling.attn_factor", Value::F64(2.0), "attn_factor 2"),
        ("deepseek2.attention.sliding_window", Value::U64(16), "sliding_window 16"),
        ("deepseek2.attention.sliding_window_pattern", Value::U64(2), "sliding_window_pattern"),
        ("deepseek2.expert_gating_func", Value::U64(2), "expert_"),
        ("deepseek2.expert_group_count", Value::U64(2), "expert_group_used_count is"),
        ("split.count", text("1"), "split.count is \"1\""),
        ("tokenizer.ggml.eos_token_id", text("2"), "tokenizer.ggml.eos_token_id is \"2\""),
        ("tokenizer.ggml.bos_token_id", Value::U64(1 << 40), "tokenizer.ggml.bos_token_id is 1099511627776"),
        ("tokenizer.ggml.eot_token_id", Value::F64(1.5), "tokenizer.ggml.eot_token_id is 1.5"),
    ] {
        let error = gguf(latent, |values| {
            let groups = ["expert_group_count", "expert_group_used_count"];
            groups.iter().for_each(|k| drop(values.remove(&format!("deepseek2.{k}"))));
            put(key, value.clone())(values);
        })
        .expect_err(key);
        assert!(error.contains(said), "{key}: {error}");
    }
    let missing = |key: &'static str| gguf(latent, |v| drop(v.remove(key).expect(key))).unwrap_err();
    assert!(missing("deepseek2.rope.scaling.factor").contains("rope.scaling.factor is absent"));
    assert!(missing("deepseek2.rope.dimension_count").contains("rope.dimension_count is absent"));

    // A factor without a kind is linear; both names of it count.
    let frequency = |key: &'static str, value: Value| {
        let s = gguf("llama-gqa", put(key, value)).unwrap();
        let Attention::Gqa { rope, .. } = &s.layers[0].attention else { panic!("grouped") };
        rope.frequencies[0]
    };
    assert_eq!(frequency("llama.rope.scaling.factor", Value::F64(4.0)), 0.25);
    assert_eq!(frequency("llama.rope.scale_linear", Value::F64(2.0)), 0.5);
    assert_eq!(frequency("llama.rope.scaling.type", text("none")), 1.0);
    assert!(
        gguf("llama-gqa", put("llama.rope.scaling.type", text("linear"))).unwrap_err().contains("factor is absent")
    );
}
