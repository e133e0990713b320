//! What a model is for: the files of sentence-transformers, classes in a configuration, keys of GGUF files.

mod gguf_writing;
mod running;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farthing_model::checkpoint::{Embedding, Pooling, Purpose};
use farthing_model::gguf::Value;
use farthing_model::structure::Head;
use farthing_model::{Batch, Cache, CacheFormat, Checkpoint, Scratch, Span, Transformer, Wanted};
use gguf_writing::{Directory, write};
use kernels::Pool;
use serde_json::{Value as Json, json};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/embedding")
}

fn json_of(name: &str) -> Json {
    serde_json::from_slice(&std::fs::read(source().join(name)).unwrap()).unwrap()
}

/// A copy of the reference in a directory of this name, without the files of sentence-transformers.
fn plain(name: &str) -> Directory {
    let directory = Directory::new(name);
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(source().join(file), directory.0.join(file)).unwrap();
    }
    directory
}

fn put(directory: &Directory, file: &str, json: &Json) {
    let path = directory.0.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, json.to_string()).unwrap();
}

fn opened(directory: &Directory) -> Result<Checkpoint, String> {
    let checkpoint = Checkpoint::open(&directory.0).map_err(|e| e.to_string())?;
    checkpoint.weights().map_err(|e| e.to_string())?;
    Ok(checkpoint)
}

fn modules(path: &str, kinds: &[&str]) -> Json {
    let module =
        |kind: &&str| json!({"path": if *kind == "Transformer" { "" } else { path }, "type": format!("a.b.{kind}")});
    kinds.iter().map(module).collect()
}

#[test]
fn an_embedding_model_as_it_is_published() {
    let checkpoint = Checkpoint::open(&source()).unwrap();
    let Purpose::Embed(embedding) = &checkpoint.purpose else { panic!("{:?}", checkpoint.purpose) };
    assert_eq!((embedding.pooling, embedding.normalize, embedding.default_prompt.clone()), (Pooling::Last, true, None));
    assert_eq!(embedding.prompts.keys().collect::<Vec<_>>(), ["document", "query"]);
    assert_eq!((checkpoint.structure.head, checkpoint.structure.outputs()), (Head::None, 0));
    assert!(checkpoint.weights().unwrap().head.is_none());
    assert!(checkpoint.tensors.has("model.layers.0.self_attn.q_norm.weight"));
}

#[test]
fn poolings_and_modules() {
    let pooled = |pooling: Json, kinds: &[&str]| {
        let directory = plain("purposes-pooling");
        put(&directory, "modules.json", &modules("1_Pooling", kinds));
        put(&directory, "1_Pooling/config.json", &pooling);
        opened(&directory).map(|checkpoint| checkpoint.purpose)
    };
    let embed = |pooling, normalize| {
        Ok(Purpose::Embed(Embedding { pooling, normalize, prompts: BTreeMap::new(), default_prompt: None }))
    };
    let two = ["Transformer", "Pooling"];
    assert_eq!(
        pooled(json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}), &two),
        embed(Pooling::Mean, false)
    );
    assert_eq!(pooled(json!({"pooling_mode_cls_token": true}), &two), embed(Pooling::First, false));
    let all = ["Transformer", "Pooling", "Normalize"];
    assert_eq!(
        pooled(json!({"pooling_mode": "lasttoken", "embedding_dimension": 32}), &all),
        embed(Pooling::Last, true)
    );
    for (pooling, kinds, said) in [
        (
            json!({"pooling_mode_weightedmean_tokens": true}),
            &two[..],
            "\"weightedmean\"; supported are cls, lasttoken and mean",
        ),
        (json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}), &two, "\"mean and cls\""),
        (json!({}), &two, "pooling mode \"\""),
        (json!({"pooling_mode": "mean", "include_prompt": false}), &two, "include_prompt false"),
        (json!({"pooling_mode": "mean", "word_embedding_dimension": 64}), &two, "word_embedding_dimension is 64"),
        (json!({"pooling_mode": 5}), &two, "pooling_mode is 5"),
        (json!([]), &two, "it must be a JSON object"),
        (
            json!({"pooling_mode": "mean"}),
            &["Transformer", "Pooling", "Dense"],
            "\"a.b.Dense\"; supported are Transformer, Pooling",
        ),
    ] {
        let error = pooled(pooling.clone(), kinds).expect_err(said);
        assert!(error.contains(said), "{pooling}: {error}");
    }
    for path in ["..", "/etc", "a/b", ""] {
        let directory = plain("purposes-path");
        put(&directory, "modules.json", &modules(path, &two));
        let error = opened(&directory).err().unwrap();
        assert!(error.contains("the name of a directory beside this file"), "{path}: {error}");
    }
    // Prompts.
    let directory = plain("purposes-prompts");
    put(&directory, "modules.json", &modules("1_Pooling", &two));
    put(&directory, "1_Pooling/config.json", &json!({"pooling_mode": "mean"}));
    put(
        &directory,
        "config_sentence_transformers.json",
        &json!({"prompts": {"query": "Q: "}, "default_prompt_name": "query"}),
    );
    let Purpose::Embed(embedding) = opened(&directory).unwrap().purpose else { panic!("an embedding model") };
    assert_eq!((embedding.prompts["query"].as_str(), embedding.default_prompt.as_deref()), ("Q: ", Some("query")));
    put(&directory, "config_sentence_transformers.json", &json!({"prompts": {}, "default_prompt_name": "query"}));
    assert!(opened(&directory).err().unwrap().contains("default_prompt_name is \"query\""));
}

#[test]
fn models_that_score_and_models_that_write() {
    // Without files that say more it generates, by its tied embedding.
    let checkpoint = opened(&plain("purposes-text")).unwrap();
    assert_eq!((checkpoint.purpose, checkpoint.structure.head), (Purpose::Generate, Head::Tied));
    // A published reranker is known by its name only.
    let named = Directory::new("purposes-named");
    let inside = named.0.join("Qwen3-Reranker-0.6B");
    std::fs::create_dir_all(&inside).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(source().join(file), inside.join(file)).unwrap();
    }
    let checkpoint = Checkpoint::open(&inside).unwrap();
    assert_eq!(checkpoint.structure.head, Head::Tied);
    assert!(matches!(checkpoint.purpose, Purpose::Rank(ranking) if ranking.outputs.is_empty()));
    // Or by the ids of its answers.
    let directory = plain("purposes-answers");
    put(&directory, "modules.json", &modules("1_LogitScore", &["Transformer", "LogitScore"]));
    put(&directory, "1_LogitScore/config.json", &json!({"true_token_id": 9, "false_token_id": 8}));
    assert!(matches!(opened(&directory).unwrap().purpose, Purpose::Rank(ranking) if ranking.outputs == [9, 8]));
    put(&directory, "1_LogitScore/config.json", &json!({"true_token_id": 267, "false_token_id": 8}));
    assert!(
        opened(&directory).err().unwrap().contains("true_token_id is 267; it must be a whole number from 0 to 266")
    );

    let (mut config, directory) = (json_of("config.json"), plain("purposes-classes"));
    config["architectures"] = json!(["Qwen3ForSequenceClassification"]);
    config["id2label"] = json!({"0": "LABEL_0"});
    put(&directory, "config.json", &config);
    assert!(opened(&directory).err().unwrap().contains("score.weight is missing"));
    config["id2label"] = json!({"0": "no", "1": "yes"});
    put(&directory, "config.json", &config);
    assert!(opened(&directory).err().unwrap().contains("with 2 labels"));
    config["is_causal"] = false.into();
    put(&directory, "config.json", &config);
    assert!(opened(&directory).err().unwrap().contains("is_causal false; supported is true"));
    // No head and nothing that says how to do without.
    let (mut config, directory) = (json_of("config.json"), plain("purposes-none"));
    config["tie_word_embeddings"] = false.into();
    put(&directory, "config.json", &config);
    assert!(opened(&directory).err().unwrap().contains("lm_head.weight is missing"));
}

/// The reference as GGUF, with these keys and a classifier of so many rows.
fn gguf(pooling: Option<u64>, labels: usize, prompt: Option<&str>) -> Result<Checkpoint, String> {
    let checkpoint = Checkpoint::open(&source()).unwrap();
    let config = json_of("config.json");
    let mut values = BTreeMap::from([("general.architecture".to_string(), Value::Text("qwen3".to_string()))]);
    let mut number = |key: &str, value: u64| values.insert(format!("qwen3.{key}"), Value::U64(value));
    for (key, of) in [
        ("block_count", "num_hidden_layers"),
        ("embedding_length", "hidden_size"),
        ("context_length", "max_position_embeddings"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("attention.key_length", "head_dim"),
        ("attention.value_length", "head_dim"),
    ] {
        number(key, config[of].as_u64().unwrap());
    }
    pooling.map(|pooling| number("pooling_type", pooling));
    values.insert("qwen3.rope.freq_base".to_string(), Value::F64(1e6));
    if let Some(prompt) = prompt {
        values.insert("tokenizer.chat_template.rerank".to_string(), Value::Text(prompt.to_string()));
    }
    const NAMES: [(&str, &str); 13] = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_", "attn_q_"),
        ("self_attn.k_", "attn_k_"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("_proj", ""),
    ];
    let mut tensors = Vec::new();
    for (name, tensor) in &checkpoint.tensors.by_name {
        let bytes = &checkpoint.tensors.files[0].bytes()[tensor.offset..tensor.offset + tensor.bytes];
        let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let name = NAMES.iter().fold(name.clone(), |name, (theirs, ours)| name.replace(theirs, ours));
        tensors.push((name, tensor.shape.clone(), numbers));
    }
    if labels > 0 {
        tensors.push(("cls.output.weight".to_string(), vec![labels, 32], vec![0.5; 32 * labels]));
    }
    let directory = Directory::new("purposes-gguf");
    let path = directory.0.join("model.gguf");
    write(&path, 3, &values, &tensors);
    let opened = Checkpoint::open(&path).map_err(|e| e.to_string())?;
    opened.weights().map_err(|e| e.to_string())?;
    Ok(opened)
}

/// Logits and final hidden states of what is wanted of a few tokens.
fn computed(checkpoint: Checkpoint, logits: Wanted) -> (Vec<f32>, Vec<f32>) {
    let mut cache = Cache::new(checkpoint.structure.cache_layout(CacheFormat::F32), 1);
    let (tokens, mut scratch) = ([5, 7, 200, 264], Scratch::new());
    let span = Span { first: 0, len: 4, position: 0, prompt: 4, pages: &[0], logits };
    let model = Transformer::new(checkpoint.structure.clone(), checkpoint.weights().unwrap());
    let batch = Batch { tokens: &tokens, spans: &[span] };
    let logits = model.forward(&Pool::new(1), &batch, &mut cache, &mut scratch, None).to_vec();
    (logits, scratch.states().to_vec())
}

#[test]
fn states_and_labels() {
    let (none, states) = computed(Checkpoint::open(&source()).unwrap(), Wanted::States);
    assert_eq!((none.len(), states.len()), (0, 4 * 32));
    let (_, last) = computed(gguf(Some(3), 0, None).unwrap(), Wanted::LastState);
    assert_eq!(last, states[3 * 32..], "both kinds of files have the same weights");
    let (labels, none) = computed(gguf(Some(4), 2, None).unwrap(), Wanted::Last);
    let half: f32 = last.iter().sum::<f32>() / 2.0;
    assert!(
        none.is_empty() && labels.len() == 2 && labels.iter().all(|x| (x - half).abs() < 1e-5),
        "{labels:?} {half}"
    );
}

#[test]
fn keys_of_gguf_files() {
    for (pooling, wanted) in [(1, Pooling::Mean), (2, Pooling::First), (3, Pooling::Last)] {
        let checkpoint = gguf(Some(pooling), 0, None).unwrap();
        assert_eq!(checkpoint.structure.head, Head::None);
        assert!(matches!(checkpoint.purpose, Purpose::Embed(e) if e.pooling == wanted && e.normalize), "{pooling}");
    }
    for none in [None, Some(0)] {
        assert_eq!(gguf(none, 0, None).unwrap().purpose, Purpose::Generate);
    }
    for (labels, prompt) in [(2, None), (1, None), (2, Some("{query} {document}"))] {
        let checkpoint = gguf(Some(4), labels, prompt).unwrap();
        assert_eq!((checkpoint.structure.head, checkpoint.structure.generates()), (Head::Labels(labels), false));
        let Purpose::Rank(ranking) = checkpoint.purpose else { panic!("it scores") };
        assert_eq!(ranking.outputs, (0..labels as u32).collect::<Vec<_>>());
        assert!(prompt.is_none_or(|prompt| ranking.prompt == prompt) && ranking.prompt.contains("{document}"));
    }
    assert!(gguf(Some(4), 3, None).err().unwrap().contains("with 3 labels"));
    assert!(gguf(Some(4), 0, None).err().unwrap().contains("with 0 labels"));
    assert!(gguf(Some(4), 2, Some("{query}")).err().unwrap().contains("{document}"));
    assert!(gguf(Some(5), 0, None).err().unwrap().contains("pooling_type is 5"));
    // A classifier of no use is named.
    assert!(gguf(Some(3), 2, None).err().unwrap().contains("cls.output.weight"));
}
