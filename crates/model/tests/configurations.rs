//! Values of a configuration: one of the wrong type is an error that names it, an absent one is the published default or an error.

mod gguf_writing;
mod running;

use std::collections::BTreeMap;
use std::path::Path;

use farthing_model::Checkpoint;
use farthing_model::gguf::Value;
use farthing_model::structure::*;
use farthing_model::tensors::Tensors;
use gguf_writing::{Directory, write};
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
    for (value, said) in [
        (json!("fp8"), "quantization_config is \"fp8\"; it must be an object"),
        (json!({"quant_method": 8}), "quant_method is 8"),
        (json!({"quant_method": "gptq", "bits": 4}), "quant_method \"gptq\""),
        (json!({"bits": 4}), "quant_method \"none\""),
        (json!({"quant_method": "fp8"}), "weight_block_size absent"),
        (json!({"quant_method": "fp8", "weight_block_size": 128}), "weight_block_size is 128"),
        (json!({"quant_method": "fp8", "weight_block_size": [64, 128]}), "weight_block_size [64,128]"),
        (json!({"quant_method": "fp8", "weight_block_size": [128, "128"]}), "weight_block_size [128,\"128\"]"),
    ] {
        let error = structure(&with(config("deepseek-v3-fp8"), &[("quantization_config", value)])).unwrap_err();
        assert!(error.contains(said), "{error}");
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
    for (file, whole) in [("generation_config.json", "[]"), ("generation_config.json", "0.5"), ("config.json", "[]")] {
        let before = std::fs::read(directory.0.join(file)).unwrap();
        std::fs::write(directory.0.join(file), whole).unwrap();
        let error = Checkpoint::open(&directory.0).err().expect(whole).to_string();
        assert!(error.contains(&format!("{file}: it must be a JSON object")), "{error}");
        std::fs::write(directory.0.join(file), before).unwrap();
    }
    let generation = |config_json: Json, generation_json: Json| {
        let spoilt = with(config("llama-gqa"), &[("temperature", config_json)]);
        std::fs::write(directory.0.join("config.json"), spoilt.to_string()).unwrap();
        std::fs::write(directory.0.join("generation_config.json"), generation_json.to_string()).unwrap();
        Checkpoint::open(&directory.0).map(|c| c.generation).map_err(|e| e.to_string())
    };
    assert_eq!(generation(json!(0.9), json!({})).unwrap().temperature, Some(0.9));
    assert_eq!(generation(json!(0.9), json!({"temperature": 0.25})).unwrap().temperature, Some(0.25));
    let greedy = generation(json!(0.9), json!({"temperature": 0.25, "do_sample": false})).unwrap();
    assert_eq!(greedy.temperature, Some(0.0));
    let error = generation(json!(0.9), json!({"eos_token_id": [1, 640]})).unwrap_err();
    assert!(error.contains("eos_token_id is 640; it must be below the vocabulary of 640"), "{error}");
    assert_eq!(generation(Json::Null, json!({"eos_token_id": 639})).unwrap().eos, [639, 631]);
    let sound = json!({"temperature": 0.5, "top_k": -1, "top_p": null, "eos_token_id": [3, 4], "bos_token_id": null});
    std::fs::write(directory.0.join("generation_config.json"), sound.to_string()).unwrap();
    let generation = Checkpoint::open(&directory.0).unwrap().generation;
    assert_eq!((generation.temperature, generation.top_k, generation.top_p), (Some(0.5), Some(0), None));
    // Whatever either file calls the end, is one.
    assert_eq!((generation.eos, generation.bos), (vec![3, 4, 631], Some(630)));
}

fn router(structure: &Structure, layer: usize) -> &Router {
    let FeedForward::Moe(Moe { router, .. }) = &structure.layers[layer].feed_forward else { panic!("a mixture") };
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
    assert!(matches!(v3.layers[2].feed_forward, FeedForward::Dense(Dense { hidden: 160, bias: false, .. })));
    assert!(matches!(
        v3.layers[3].feed_forward,
        FeedForward::Moe(Moe { experts: 256, active: 8, hidden: 24, shared_hidden: 24, .. })
    ));
    assert!(matches!(v3.layers[0].attention, Attention::Mla(Mla { q_rank: Some(1536), bias: false, .. })));

    // V2: greedy, one group, as they are, 1.0; every layer a mixture; two shared experts. A null rank is no compression.
    let v2 = without(without(config("deepseek-v2-shape"), &keys), &sizes);
    let v2 = structure(&with(v2, &[("num_experts_per_tok", json!(2)), ("q_lora_rank", Json::Null)])).unwrap();
    let plain = Router { scale: 1.0, ..farthing_model::families::softmax_router(false) };
    assert_eq!(*router(&v2, 0), plain);
    assert!(matches!(v2.layers[0].feed_forward, FeedForward::Moe(Moe { experts: 64, .. })));
    assert!(matches!(v2.layers[0].attention, Attention::Mla(Mla { q_rank: None, .. })));
    assert!(structure(&without(config("deepseek-v2-shape"), &["num_experts_per_tok"])).is_err());

    let gqa = |s: &Structure, layer: usize| match &s.layers[layer].attention {
        Attention::Gqa(Gqa { kv_heads, head_dim, window, rope, .. }) => {
            (*kv_heads, *head_dim, *window, rope.frequencies[1])
        }
        Attention::Mla(Mla { .. }) => panic!("grouped"),
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
    assert_eq!((mixtral.norm_eps, mixtral.head, of("llama").norm_eps), (1e-5, Head::Own, 1e-6));
    assert!(matches!(mixtral.layers[0].feed_forward, FeedForward::Moe(Moe { experts: 8, active: 2, .. })));
    assert!(router(&mixtral, 0).normalize);
    let moe = structure(&with(base("qwen3_moe"), &[("moe_intermediate_size", json!(48))])).unwrap();
    assert_eq!(gqa(&moe, 0).0, 4);
    assert!(matches!(moe.layers[0].feed_forward, FeedForward::Moe(Moe { experts: 128, active: 8, .. })));
    assert!(!router(&moe, 0).normalize);
    // An explicit null of heads is as many as there are heads of queries.
    assert_eq!(gqa(&structure(&with(base("mistral"), &[("num_key_value_heads", Json::Null)])).unwrap(), 0).0, 32);
}

/// Rules that no reference case has: what published code does where keys meet.
#[test]
fn keys_that_meet() {
    // V2's code normalises or scales, V3's does both; one active expert is not normalised.
    let of = |name: &str, more: &[(&str, Json)]| structure(&with(config(name), more)).unwrap();
    let both = [("norm_topk_prob", json!(true)), ("routed_scaling_factor", json!(16))];
    let v2 = of("deepseek-v2-shape", &both);
    assert_eq!((router(&v2, 2).normalize, router(&v2, 2).scale), (true, 1.0));
    let v3 = of("deepseek-v3-shape", &both);
    assert_eq!((router(&v3, 2).normalize, router(&v3, 2).scale), (true, 16.0));
    let one = of("deepseek-v3-shape", &[("num_experts_per_tok", json!(1)), both[0].clone()]);
    assert!(!router(&one, 2).normalize);

    let mixtures = |s: &Structure| -> Vec<usize> {
        let is = |l: &Layer| matches!(l.feed_forward, FeedForward::Moe(Moe { .. }));
        s.layers.iter().enumerate().filter(|(_, l)| is(l)).map(|(i, _)| i).collect()
    };
    let sized = [("num_hidden_layers", json!(6)), ("first_k_dense_replace", json!(1)), ("moe_layer_freq", json!(2))];
    assert_eq!(mixtures(&of("deepseek-v3-shape", &sized)), [2, 4]);
    let sized = [
        ("num_hidden_layers", json!(6)),
        ("decoder_sparse_step", json!(2)),
        ("mlp_only_layers", json!([3])),
        ("intermediate_size", json!(64)),
    ];
    assert_eq!(mixtures(&of("qwen3-moe", &sized)), [1, 5]);

    // More experts than the chosen groups hold.
    let (experts, groups) = (8, 4);
    let few = |active: u64| {
        let keys = [("n_routed_experts", json!(experts)), ("n_group", json!(groups)), ("topk_group", json!(1))];
        let keys: Vec<_> = keys.into_iter().chain([("num_experts_per_tok", json!(active))]).collect();
        structure(&with(config("deepseek-v3-shape"), &keys))
    };
    few(2).unwrap();
    assert!(few(3).unwrap_err().contains("3 active experts do not fit in 1 groups"));

    // YaRN of latent attention: cos and sin by the ratio of both, scores by the second where it is given.
    let yarn = |more: Json| {
        let mut c = config("deepseek-v3-shape");
        let scaling = c["rope_scaling"].as_object_mut().unwrap();
        ["mscale", "mscale_all_dim"].iter().for_each(|key| drop(scaling.remove(*key)));
        scaling.insert("factor".to_string(), json!(40));
        scaling.extend(more.as_object().unwrap().clone());
        let Attention::Mla(Mla { rope, nope_dim, rope_dim, .. }) = structure(&c).unwrap().layers[0].attention.clone()
        else {
            panic!("latent")
        };
        (rope.amplitude, rope.score_scale * ((nope_dim + rope_dim) as f32).sqrt())
    };
    let m = |x: f32| 0.1 * x * 40f32.ln() + 1.0;
    for (more, amplitude, scores) in [
        (json!({"mscale": 1.0, "mscale_all_dim": 1.0}), 1.0, m(1.0) * m(1.0)),
        (json!({"mscale": 1.0, "mscale_all_dim": 0.5}), m(1.0) / m(0.5), m(0.5) * m(0.5)),
        (json!({"mscale": 0.707}), m(0.707), 1.0),
        (json!({}), m(1.0), 1.0),
    ] {
        let (a, s) = yarn(more.clone());
        assert!((a - amplitude).abs() < 1e-5 && (s - scores).abs() < 1e-5, "{more}: {a} {s}");
    }

    // Qwen2's code has biases on queries, keys and values, whatever attention_bias says.
    let qwen = of("qwen2-bias", &[("attention_bias", json!(true))]);
    assert!(matches!(qwen.layers[0].attention, Attention::Gqa(Gqa { qkv_bias: true, out_bias: false, .. })));
}

#[test]
fn windows_of_some_layers() {
    let windows = |config: Json| -> Result<Vec<Option<usize>>, String> {
        let of = |l: &Layer| if let Attention::Gqa(Gqa { window, .. }) = l.attention { window } else { None };
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
        Attention::Gqa(Gqa { rope, .. }) => rope.amplitude,
        Attention::Mla(Mla { .. }) => panic!("grouped"),
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
    let mut values =
        farthing_model::gguf::read(&case(&format!("oracle/{name}/model-f32.gguf")), &mut tensors).unwrap().values;
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
        (
            "tokenizer.ggml.eom_token_id",
            Value::I64(-2),
            "tokenizer.ggml.eom_token_id is -2; it must be a token's id, or -1",
        ),
        ("general.architecture", Value::Texts(vec![String::new()]), "general.architecture is a list of 1 texts"),
        ("general.alignment", text("32"), "general.alignment is \"32\"; it must be a power of two"),
        ("deepseek2.attention.scale", Value::F64(0.5), "attention.scale 0.5; supported is none"),
        ("deepseek2.attention.scale", Value::Bool(true), "attention.scale is true"),
        ("deepseek2.attention.temperature_scale", Value::F64(0.1), "attention.temperature_scale 0.1"),
        ("deepseek2.logit_scale", Value::F64(2.0), "logit_scale 2; supported is 1"),
        ("deepseek2.final_logit_softcapping", Value::F64(30.0), "final_logit_softcapping 30"),
        ("deepseek2.attention.causal", Value::Bool(false), "attention.causal false; supported is true"),
        ("deepseek2.attention.causal", Value::U64(1), "attention.causal is 1"),
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

    // What changes nothing may be there.
    for key in ["logit_scale", "residual_scale", "embedding_scale", "attention.scale", "attn_logit_softcapping"] {
        for value in [0.0, 1.0] {
            let opened = gguf(latent, |v| drop(v.insert(format!("deepseek2.{key}"), Value::F64(value))));
            assert_eq!(opened.is_ok(), value == 0.0 || !key.starts_with("att"), "{key} {value}");
        }
    }
    gguf(latent, put("deepseek2.attention.causal", Value::Bool(true))).unwrap();
    // Routers of other architectures are softmax, normalised and as they are.
    for (key, neutral, other) in [
        ("expert_gating_func", Value::U64(1), Value::U64(2)),
        ("expert_weights_norm", Value::Bool(true), Value::Bool(false)),
        ("expert_weights_scale", Value::F64(0.0), Value::F64(2.5)),
        ("expert_shared_count", Value::U64(0), Value::U64(1)),
        ("expert_group_count", Value::U64(1), Value::U64(4)),
    ] {
        let with = |value: Value| gguf("llama-gqa", |v| drop(v.insert(format!("llama.{key}"), value.clone())));
        with(neutral).unwrap();
        let error = with(other).unwrap_err();
        assert!(error.contains(key) && error.contains("architecture llama"), "{key}: {error}");
    }

    // A head must have channels that are not rotated.
    let head = |n| gguf(latent, put("deepseek2.attention.key_length", Value::U64(n)));
    assert!(head(16).unwrap_err().contains("a head of 16 channels with 16 rotated"));
    head(17).unwrap();
    // A window of the whole context hides nothing; llama's is honoured, as Mistral's files have it.
    let context = gguf(latent, |_| ()).unwrap().context;
    let window = |n: usize| gguf(latent, put("deepseek2.attention.sliding_window", Value::U64(n as u64)));
    window(context).unwrap();
    assert!(window(context - 1).unwrap_err().contains("sliding_window"));
    let llama = gguf("llama-gqa", put("llama.attention.sliding_window", Value::U64(64))).unwrap();
    assert!(llama.layers.iter().all(|l| matches!(l.attention, Attention::Gqa(Gqa { window: Some(64), .. }))));
    let scale = |x: f64| router(&gguf(latent, put("deepseek2.expert_weights_scale", Value::F64(x))).unwrap(), 2).scale;
    assert_eq!((scale(0.0), scale(2.5)), (1.0, 2.5));
    // YaRN outside of latent models has the paper's amplitude, and without an original context the model's own.
    let yarn = |original: Option<u64>| {
        let s = gguf("llama-gqa", |v| {
            put("llama.rope.scaling.type", text("yarn"))(v);
            put("llama.rope.scaling.factor", Value::F64(4.0))(v);
            if let Some(n) = original {
                put("llama.rope.scaling.original_context_length", Value::U64(n))(v);
            }
        });
        let Attention::Gqa(Gqa { rope, .. }) = s.unwrap().layers[0].attention.clone() else { panic!("grouped") };
        rope
    };
    assert!((yarn(None).amplitude - (0.1 * 4f32.ln() + 1.0)).abs() < 1e-6);
    let own = gguf("llama-gqa", |_| ()).unwrap().context as u64;
    assert_eq!(yarn(None).frequencies, yarn(Some(own)).frequencies);
    assert_ne!(yarn(None).frequencies, yarn(Some(4096)).frequencies);

    // A factor without a kind is linear; both names of it count.
    let frequency = |key: &'static str, value: Value| {
        let s = gguf("llama-gqa", put(key, value)).unwrap();
        let Attention::Gqa(Gqa { rope, .. }) = &s.layers[0].attention else { panic!("grouped") };
        rope.frequencies[0]
    };
    assert_eq!(frequency("llama.rope.scaling.factor", Value::F64(4.0)), 0.25);
    assert_eq!(frequency("llama.rope.scale_linear", Value::F64(2.0)), 0.5);
    assert_eq!(frequency("llama.rope.scaling.type", text("none")), 1.0);
    assert!(
        gguf("llama-gqa", put("llama.rope.scaling.type", text("linear"))).unwrap_err().contains("factor is absent")
    );
    // Of the wrong type it is not taken for none.
    for key in ["llama.rope.scaling.factor", "llama.rope.scale_linear"] {
        let error = gguf("llama-gqa", put(key, text("4"))).unwrap_err();
        assert!(error.contains("is \"4\"; it must be"), "{key}: {error}");
    }
}

/// Stored factors are the whole of a scaling: no other one may stand beside them.
#[test]
fn stored_factors_and_a_kind_of_scaling() {
    let name = "llama3-rope-scaling";
    let frequencies = |change: &dyn Fn(&mut BTreeMap<String, Value>)| {
        let directory = Directory::new("factors");
        let from = case(&format!("oracle/{name}/model-f32.gguf"));
        let mut tensors = Tensors::default();
        let mut values = farthing_model::gguf::read(&from, &mut tensors).unwrap().values;
        change(&mut values);
        let numbers = |t: &farthing_model::tensors::Tensor| {
            let bytes = &tensors.files[t.file].bytes()[t.offset..t.offset + t.bytes];
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let written: Vec<_> =
            tensors.by_name.iter().map(|(name, t)| (name.clone(), t.shape.clone(), numbers(t))).collect();
        let path = directory.0.join("factors.gguf");
        write(&path, 3, &values, &written);
        let opened = Checkpoint::open(&path).map_err(|e| e.to_string())?;
        let Attention::Gqa(Gqa { rope, .. }) = &opened.structure.layers[0].attention else { panic!("grouped") };
        Ok::<_, String>(rope.frequencies.clone())
    };
    let put = |key: &str, value: Value| {
        let key = format!("llama.rope.{key}");
        frequencies(&move |values| drop(values.insert(key.clone(), value.clone())))
    };
    let text = |x: &str| Value::Text(x.to_string());
    // Theirs are made for an original context of 8192: short waves as they are, long ones divided.
    let plain = |i: usize| 500_000f64.powf(-2.0 * i as f64 / 32.0) as f32;
    let stored = frequencies(&|_| ()).unwrap();
    assert_eq!((stored[7], stored[15]), (plain(7), plain(15) / 8.0));
    assert_eq!(put("scaling.type", text("none")).unwrap(), stored);
    assert_eq!(put("scaling.factor", Value::F64(1.0)).unwrap(), stored);
    for (key, value, kind) in [
        ("scaling.type", text("linear"), "\"linear\""),
        ("scaling.type", text("yarn"), "\"yarn\""),
        ("scaling.type", text("longrope"), "\"longrope\""),
        ("scaling.factor", Value::F64(8.0), "\"linear\""),
        ("scale_linear", Value::F64(8.0), "\"linear\""),
    ] {
        let error = put(key, value).unwrap_err();
        assert!(
            error.contains("rope_freqs.weight together with rope scaling") && error.contains(kind),
            "{key}: {error}"
        );
    }
}
