//! Every architecture that GGUF files name: reference checkpoints written as GGUF, tensor by tensor as the published converter does,
//! must give the logits of their Hugging Face form.

mod gguf_writing;
mod running;

use std::collections::BTreeMap;

use farthing_model::gguf::Value;
use gguf_writing::{Directory, Written, write};
use running::{Runner, case, floats, largest_difference};
use safetensors::SafeTensors;
use serde_json::Value as Json;

/// A layer's names: Hugging Face, GGUF.
const NAMES: [(&str, &str); 23] = [
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
    ("mlp.gate", "ffn_gate_inp"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_experts.up_proj", "ffn_up_shexp"),
    ("mlp.shared_experts.down_proj", "ffn_down_shexp"),
    ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
];

/// Rows of q and k as GGUF's `llama` keeps them: halves of a head become neighbours.
fn interleaved(x: &[f32], heads: usize, shape: &[usize]) -> Vec<f32> {
    let (cols, head) = (shape[1], shape[0] / heads);
    let row = |h: usize, i: usize| h * head + i / 2 + i % 2 * (head / 2);
    (0..shape[0]).flat_map(|r| x[row(r / head, r % head) * cols..][..cols].iter().copied()).collect()
}

struct Case {
    config: Json,
    /// Stored tensors of a directory, as f32.
    tensors: Vec<Written>,
}

impl Case {
    fn open(name: &str) -> Case {
        let directory = case("oracle").join(name);
        let bytes = std::fs::read(directory.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        Case {
            config: serde_json::from_slice(&std::fs::read(directory.join("config.json")).unwrap()).unwrap(),
            tensors: tensors.tensors().into_iter().map(|(n, t)| (n, t.shape().to_vec(), floats(&t))).collect(),
        }
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.config[key].as_u64()
    }

    /// Tensors under their GGUF names. Experts are stacked, unless `apart`.
    fn written(&self, arch: &str, apart: bool) -> Vec<Written> {
        let mut out: Vec<Written> = Vec::new();
        let mut stacks: BTreeMap<String, BTreeMap<usize, (Vec<usize>, Vec<f32>)>> = BTreeMap::new();
        for (name, shape, x) in &self.tensors {
            let top = match name.as_str() {
                "model.embed_tokens.weight" => Some("token_embd.weight"),
                "model.norm.weight" => Some("output_norm.weight"),
                "lm_head.weight" => Some("output.weight"),
                _ => None,
            };
            if let Some(top) = top {
                out.push((top.to_string(), shape.clone(), x.clone()));
                continue;
            }
            let (layer, part) = name.strip_prefix("model.layers.").and_then(|n| n.split_once('.')).unwrap();
            if let Some((_, expert)) = part.split_once("experts.").filter(|_| !part.contains("shared")) {
                let (e, rest) = expert.split_once('.').unwrap();
                let which = match rest.strip_suffix(".weight").unwrap() {
                    "gate_proj" | "w1" => "gate",
                    "up_proj" | "w3" => "up",
                    "down_proj" | "w2" => "down",
                    other => panic!("{other}"),
                };
                let together = format!("blk.{layer}.ffn_{which}");
                stacks.entry(together).or_default().insert(e.parse().unwrap(), (shape.clone(), x.clone()));
                continue;
            }
            // A layer of multi-token prediction has parts that GGUF calls `nextn`: loaders pass over them.
            let (part, ending) = match part.rsplit_once('.') {
                Some((part, ending @ ("weight" | "bias"))) => (part, format!(".{ending}")),
                _ => (part, String::new()),
            };
            let known =
                NAMES.iter().find(|(hf, _)| *hf == part).map_or(format!("nextn.{part}"), |(_, gguf)| gguf.to_string());
            let heads = match part {
                "self_attn.q_proj" => self.number("num_attention_heads"),
                "self_attn.k_proj" => self.number("num_key_value_heads"),
                _ => None,
            };
            let x = match heads {
                Some(heads) if arch == "llama" => interleaved(x, heads as usize, shape),
                _ => x.clone(),
            };
            out.push((format!("blk.{layer}.{known}{ending}"), shape.clone(), x));
        }
        for (name, experts) in stacks {
            if apart {
                out.extend(experts.into_iter().map(|(e, (shape, x))| (format!("{name}.{e}.weight"), shape, x)));
                continue;
            }
            let shape = &experts[&0].0;
            let shape = vec![experts.len(), shape[0], shape[1]];
            out.push((format!("{name}_exps.weight"), shape, experts.into_values().flat_map(|(_, x)| x).collect()));
        }
        out
    }

    /// Metadata keys of `arch`.
    fn values(&self, arch: &str) -> BTreeMap<String, Value> {
        let mut values = BTreeMap::from([("general.architecture".to_string(), Value::Text(arch.to_string()))]);
        let mut put = |key: &str, value: Value| {
            values.insert(format!("{arch}.{key}"), value);
        };
        for (key, from) in [
            ("embedding_length", "hidden_size"),
            ("context_length", "max_position_embeddings"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
            ("attention.key_length", "head_dim"),
            ("attention.value_length", "head_dim"),
            ("expert_used_count", "num_experts_per_tok"),
            ("expert_count", "num_local_experts"),
            ("expert_count", "num_experts"),
            ("expert_count", "n_routed_experts"),
            ("expert_shared_count", "n_shared_experts"),
            ("expert_feed_forward_length", "moe_intermediate_size"),
            ("expert_group_count", "n_group"),
            ("expert_group_used_count", "topk_group"),
            ("leading_dense_block_count", "first_k_dense_replace"),
            ("nextn_predict_layers", "num_nextn_predict_layers"),
            ("attention.q_lora_rank", "q_lora_rank"),
            ("attention.kv_lora_rank", "kv_lora_rank"),
            ("rope.dimension_count", "qk_rope_head_dim"),
        ] {
            if let Some(n) = self.number(from) {
                put(key, Value::U64(n));
            }
        }
        let layers = self.number("num_hidden_layers").unwrap() + self.number("num_nextn_predict_layers").unwrap_or(0);
        put("block_count", Value::U64(layers));
        put("attention.layer_norm_rms_epsilon", Value::F64(self.config["rms_norm_eps"].as_f64().unwrap()));
        put("rope.freq_base", Value::F64(self.config["rope_theta"].as_f64().unwrap()));
        if arch == "deepseek2" {
            let number = |key: &str| self.number(key).unwrap();
            put("attention.key_length", Value::U64(number("qk_nope_head_dim") + number("qk_rope_head_dim")));
            put("attention.value_length", Value::U64(number("v_head_dim")));
            put("expert_weights_norm", Value::Bool(self.config["norm_topk_prob"].as_bool().unwrap()));
            put("expert_weights_scale", Value::F64(self.config["routed_scaling_factor"].as_f64().unwrap()));
            put("expert_gating_func", Value::U64(if self.config["scoring_func"] == "sigmoid" { 2 } else { 1 }));
            let yarn = &self.config["rope_scaling"];
            put("rope.scaling.type", Value::Text("yarn".to_string()));
            put("rope.scaling.factor", Value::F64(yarn["factor"].as_f64().unwrap()));
            put(
                "rope.scaling.original_context_length",
                Value::U64(yarn["original_max_position_embeddings"].as_u64().unwrap()),
            );
            put("rope.scaling.yarn_log_multiplier", Value::F64(0.1 * yarn["mscale_all_dim"].as_f64().unwrap()));
        }
        values
    }
}

/// The GGUF form of a case gives the logits of its Hugging Face form, and routes alike.
fn check(name: &str, arch: &str, apart: bool) {
    let directory = Directory::new(&format!("arch-{name}-{apart}"));
    let written = Case::open(name);
    let path = directory.0.join("model.gguf");
    write(&path, 3, &written.values(arch), &written.written(arch, apart));
    let tokens: Vec<u32> = (0..180).map(|i| i * 13 % 500).collect();
    let (ours, trace) = Runner::open(&path).whole(&tokens);
    let (theirs, expected) = Runner::open(&case("oracle").join(name)).whole(&tokens);
    assert_eq!(ours.len(), theirs.len());
    let difference = largest_difference(&ours, &theirs);
    assert!(difference < 1e-3, "{name} as {arch}: {difference}");
    for (a, b) in trace.routes.iter().zip(&expected.routes) {
        assert_eq!(a.as_ref().map(|r| &r.experts), b.as_ref().map(|r| &r.experts), "{name} as {arch}");
    }
}

#[test]
fn qwen2() {
    check("qwen2-bias", "qwen2", false);
}

#[test]
fn qwen3_mixture() {
    check("qwen3-moe", "qwen3moe", false);
}

#[test]
fn mixtral_stacked_and_expert_by_expert() {
    check("mixtral", "llama", false);
    check("mixtral", "llama", true);
}

#[test]
fn llama() {
    check("llama-gqa", "llama", false);
}

#[test]
fn deepseek_v2_with_groups() {
    check("deepseek-v2-shape", "deepseek2", false);
}

#[test]
fn deepseek_v3_with_its_prediction_layer() {
    check("deepseek-v3-shape", "deepseek2", false);
    let directory = Directory::new("v3-skipped");
    let written = Case::open("deepseek-v3-shape");
    let path = directory.0.join("model.gguf");
    write(&path, 3, &written.values("deepseek2"), &written.written("deepseek2", false));
    assert_eq!(farthing_model::Checkpoint::open(&path).unwrap().skipped_layers, 1);
    // A router with a bias is not V2's: its kind of score is not guessed.
    let mut values = written.values("deepseek2");
    values.remove("deepseek2.expert_gating_func");
    write(&path, 3, &values, &written.written("deepseek2", false));
    let error = farthing_model::Checkpoint::open(&path).err().expect("refused").to_string();
    assert!(error.contains("expert_gating_func is absent; it must be 1 (softmax) or 2 (sigmoid)"), "{error}");
}

/// There is no reference of dense Qwen3: its attention is that of the mixture, its feed-forward that of Qwen2. Here the mixture's layers
/// get dense blocks, in both forms.
#[test]
fn dense_qwen3() {
    let mut dense = Case::open("qwen3-moe");
    let config = dense.config.as_object_mut().unwrap();
    config.insert("model_type".to_string(), "qwen3".into());
    config.insert("intermediate_size".to_string(), 48.into());
    config.remove("num_experts");
    config.remove("num_experts_per_tok");
    // Expert 0 of every layer becomes the layer's block.
    dense.tensors.retain(|(n, ..)| !n.contains("mlp.gate.") && (!n.contains(".experts.") || n.contains(".experts.0.")));
    for (name, ..) in &mut dense.tensors {
        *name = name.replace(".experts.0.", ".");
    }
    let directory = Directory::new("qwen3");
    let hf = directory.0.join("hf");
    std::fs::create_dir_all(&hf).unwrap();
    std::fs::write(hf.join("config.json"), dense.config.to_string()).unwrap();
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = dense
        .tensors
        .iter()
        .map(|(n, s, x)| (n.clone(), s.clone(), x.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let view = |s: &Vec<usize>, b| safetensors::tensor::TensorView::new(safetensors::Dtype::F32, s.clone(), b).unwrap();
    let views = bytes.iter().map(|(n, s, b)| (n.clone(), view(s, b)));
    safetensors::serialize_to_file(views, None, &hf.join("model.safetensors")).unwrap();
    let path = directory.0.join("model.gguf");
    let mut values = dense.values("qwen3");
    values.remove("qwen3.expert_feed_forward_length");
    write(&path, 3, &values, &dense.written("qwen3", false));
    let tokens: Vec<u32> = (0..100).map(|i| i * 13 % 500).collect();
    let (a, b) = (Runner::open(&path).whole(&tokens).0, Runner::open(&hf).whole(&tokens).0);
    assert!(largest_difference(&a, &b) < 1e-3);
}
