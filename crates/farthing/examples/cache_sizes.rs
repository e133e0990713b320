//! KV cache a token of DeepSeek's published structures, in each format of the cache, beside multi-head and grouped-query attention with the same heads:
//! `cargo run --release -p farthing --example cache_sizes`.

use std::path::Path;

use model::CacheFormat;
use model::families::from_config;
use model::structure::Structure;
use serde_json::{Value, json};

/// Formats, and bits that a number takes in them.
const FORMATS: [(CacheFormat, usize); 3] = [(CacheFormat::Bf16, 16), (CacheFormat::Eight, 9), (CacheFormat::Six, 7)];

/// Keys of the published `config.json` of a model with latent attention.
fn latent(hidden: usize, layers: usize, heads: usize, q_rank: Value, experts: usize) -> Value {
    json!({
        "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads, "q_lora_rank": q_rank,
        "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 12288,
        "moe_intermediate_size": 1536, "n_routed_experts": experts, "n_shared_experts": 2, "num_experts_per_tok": 6,
        "first_k_dense_replace": 1, "moe_layer_freq": 1, "norm_topk_prob": false, "routed_scaling_factor": 1.0,
        "scoring_func": "softmax", "topk_method": "greedy", "n_group": 1, "topk_group": 1, "hidden_act": "silu",
        "max_position_embeddings": 163840, "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": false,
        "attention_bias": false
    })
}

/// Those of DeepSeek LLM 67B, which has grouped queries.
fn grouped_67b() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 102400, "hidden_size": 8192,
        "num_hidden_layers": 95, "num_attention_heads": 64, "num_key_value_heads": 8, "intermediate_size": 22016,
        "hidden_act": "silu", "max_position_embeddings": 4096, "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": false, "attention_bias": false
    })
}

fn bytes(structure: &Structure, format: CacheFormat) -> usize {
    structure.cache_layout(format).bytes_per_token()
}

fn less(of: usize, than: usize) -> String {
    format!("{:+.1} %", 100.0 * (of as f64 / than as f64 - 1.0))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let structure = |config: Value| from_config(Path::new("config.json"), &config).map(|(structure, _)| structure);
    let v2 = structure(latent(5120, 60, 128, json!(1536), 160))?;
    let lite = structure(latent(2048, 27, 16, Value::Null, 64))?;
    let before = structure(grouped_67b())?;
    println!("bytes of KV cache a token; others with the same heads, in 16 bits");
    println!("{:<18} {:>5} {:>9} {:>21} {:>21}", "", "bits", "MLA", "GQA, 8 heads a key", "MHA");
    for (name, structure) in [("DeepSeek-V2", &v2), ("DeepSeek-V2-Lite", &lite)] {
        let grouped = CacheFormat::Bf16.bytes_of(structure.cache_width_grouped());
        let multi_head = CacheFormat::Bf16.bytes_of(structure.cache_width_multi_head());
        for (format, bits) in FORMATS {
            let own = bytes(structure, format);
            println!(
                "{name:<18} {bits:>5} {own:>9} {grouped:>10} {:>10} {multi_head:>10} {:>10}",
                less(own, grouped),
                less(own, multi_head)
            );
        }
    }
    println!(
        "\nDeepSeek-V2 beside DeepSeek 67B (GQA, 95 layers) in 16 bits, {} bytes",
        bytes(&before, CacheFormat::Bf16)
    );
    for (format, bits) in FORMATS {
        let own = bytes(&v2, format);
        println!("{bits:>5} bits {own:>9} {:>10}", less(own, bytes(&before, CacheFormat::Bf16)));
    }
    Ok(())
}
