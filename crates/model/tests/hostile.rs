//! Checkpoints that lie, each refused with a message that names the file, the tensor or the value.

mod gguf_writing;
mod running;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farthing_model::Checkpoint;
use farthing_model::gguf::Value;
use farthing_model::mmap::Mapping;
use farthing_model::tensors::Tensors;
use gguf_writing::{Directory, Written, write};
use running::{Runner, case};
use serde_json::json;

fn refused(path: &Path) -> String {
    let opened = Checkpoint::open(path);
    let error = opened.and_then(|c| c.weights().map(|_| ())).expect_err("refused").to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// A header as given, then these bytes.
fn safetensors(path: &Path, header: &serde_json::Value, data: &[u8]) {
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    std::fs::write(path, bytes).unwrap();
}

/// A directory of llama-gqa that may be spoilt, and its configuration.
fn llama(name: &str) -> (Directory, serde_json::Value) {
    let directory = Directory::new(name);
    let from = case("oracle").join("llama-gqa");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(from.join(file), directory.0.join(file)).unwrap();
    }
    let config = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    (directory, config)
}

#[test]
fn safetensors_headers_that_lie() {
    let (directory, _) = llama("header");
    let file = directory.0.join("model.safetensors");
    let tensor = |dtype: &str, shape: serde_json::Value, offsets: [u64; 2]| json!({"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}});
    // Offsets outside the file, backwards, overlapping, with holes; shapes that overflow or contradict the bytes.
    for header in [
        tensor("F32", json!([4]), [0, 1 << 40]),
        tensor("F32", json!([4]), [16, 0]),
        tensor("F32", json!([1u64 << 62, 1u64 << 62]), [0, 16]),
        tensor("F32", json!([u64::MAX]), [0, 16]),
        tensor("F32", json!([5]), [0, 16]),
        tensor("F32", json!([-4]), [0, 16]),
        tensor("F99", json!([4]), [0, 16]),
        json!({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "y": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}),
        json!({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "y": {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]}}),
        json!([1, 2, 3]),
    ] {
        safetensors(&file, &header, &[0; 16]);
        assert!(refused(&directory.0).contains("model.safetensors"), "{header}");
    }
    safetensors(&file, &tensor("F32", json!([1u64 << 41, 0]), [0, 0]), &[]);
    assert!(refused(&directory.0).contains("tensor x has a dimension of 2199023255552"));
    // A header longer than any: nothing of it is read.
    for length in [u64::MAX, 1 << 40, (32 << 20) + 1] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.resize(64, b' ');
        std::fs::write(&file, bytes).unwrap();
        assert!(refused(&directory.0).contains("a header of"));
    }
}

#[test]
fn tensors_that_are_missing_or_of_another_kind() {
    let (directory, _) = llama("kind");
    let path = directory.0.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let but = |name: &str, dtype: safetensors::Dtype, shape: Vec<usize>, data: &[u8]| {
        let kept = all.tensors().into_iter().filter(|(n, _)| n != name);
        let mut tensors: Vec<_> = kept.collect();
        if !data.is_empty() {
            tensors.push((name.to_string(), safetensors::tensor::TensorView::new(dtype, shape, data).unwrap()));
        }
        safetensors::serialize_to_file(tensors, None, &path).unwrap();
        refused(&directory.0)
    };
    use safetensors::Dtype::*;
    let norm = "model.norm.weight";
    let hidden = all.tensor(norm).unwrap().shape()[0];
    assert!(but(norm, F32, vec![], &[]).contains("tensor model.norm.weight is missing"));
    assert!(but(norm, I64, vec![hidden], &vec![0; hidden * 8]).contains("tensor model.norm.weight is stored as I64"));
    assert!(but(norm, F32, vec![hidden, 1], &vec![0; hidden * 4]).contains("has shape"));
    assert!(but(norm, F8_E4M3, vec![hidden], &vec![0; hidden]).contains("tensor model.norm.weight is a vector in FP8"));
    let mut numbers = vec![1f32; hidden];
    numbers[3] = f32::NAN;
    let data: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    assert!(but(norm, F32, vec![hidden], &data).contains("tensor model.norm.weight holds NaN at 3"));
}

#[test]
fn fp8_factors_that_are_no_numbers() {
    let directory = Directory::new("factors");
    let from = case("oracle").join("deepseek-v3-fp8");
    std::fs::copy(from.join("config.json"), directory.0.join("config.json")).unwrap();
    let mut bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let places: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let name = "model.layers.1.mlp.experts.0.gate_proj.weight_scale_inv";
    let at = 8 + header + places[name]["data_offsets"][0].as_u64().expect("there") as usize;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(directory.0.join("model.safetensors"), bytes).unwrap();
    let error = refused(&directory.0);
    assert!(error.contains(name) && error.contains("NaN"), "{error}");
}

#[test]
fn configurations_that_contradict_themselves() {
    let (directory, config) = llama("config");
    let with = |key: &str, value: serde_json::Value| {
        let mut spoilt = config.clone();
        spoilt[key] = value;
        std::fs::write(directory.0.join("config.json"), spoilt.to_string()).unwrap();
        refused(&directory.0)
    };
    for (key, value, said) in [
        ("num_hidden_layers", json!(1e9), "num_hidden_layers is 1000000000"),
        ("num_hidden_layers", json!(0), "num_hidden_layers is 0"),
        ("hidden_size", json!("big"), "hidden_size is \"big\""),
        ("hidden_size", json!(1e300), "hidden_size is 1e+300"),
        ("num_attention_heads", json!(7), "num_key_value_heads"),
        ("num_key_value_heads", json!(4), "num_key_value_heads is 4"),
        ("head_dim", json!(1 << 19), "head_dim is 524288"),
        ("head_dim", json!(7), "head_dim is 7; it must be even"),
        ("vocab_size", json!(u64::MAX), "vocab_size is"),
        ("max_position_embeddings", json!(-1), "max_position_embeddings is -1"),
        ("rope_theta", json!(0), "rope_theta is 0"),
        ("rope_theta", json!(1e-300), "rotary embedding"),
        ("rms_norm_eps", json!(-1), "rms_norm_eps is -1"),
        ("rms_norm_eps", json!(1e-300), "epsilon of the norms"),
        ("eos_token_id", json!(4_000_000), "eos_token_id is 4000000; it must be below the vocabulary"),
        ("rope_scaling", json!({"rope_type": "dynamic", "factor": 2}), "rope scaling \"dynamic\""),
        ("rope_scaling", json!({"rope_type": "linear", "factor": -2}), "factor is -2"),
        ("hidden_act", json!("gelu"), "hidden_act"),
        ("model_type", json!(["llama"]), "model_type is"),
        ("model_type", json!("x".repeat(5000)), "architecture"),
    ] {
        let error = with(key, value.clone());
        assert!(error.contains(said) && error.contains("config.json") && error.len() < 700, "{key} {value}: {error}");
    }
    std::fs::write(directory.0.join("config.json"), "[".repeat(100_000)).unwrap();
    assert!(refused(&directory.0).contains("not JSON"));
    std::fs::write(directory.0.join("config.json"), " ".repeat(2 << 20)).unwrap();
    assert!(refused(&directory.0).contains("more than 1048576 bytes"));
}

#[test]
fn mixtures_that_cannot_be() {
    let directory = Directory::new("mixture");
    let from = case("oracle").join("deepseek-v3-shape");
    std::fs::copy(from.join("model.safetensors"), directory.0.join("model.safetensors")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    for (key, value, said) in [
        ("num_experts_per_tok", json!(0), "num_experts_per_tok is 0"),
        ("num_experts_per_tok", json!(16000), "16000 active of"),
        ("n_group", json!(3), "experts in 3 groups"),
        ("topk_group", json!(4000), "4000 active"),
        ("n_routed_experts", json!(1 << 20), "n_routed_experts is 1048576"),
        ("kv_lora_rank", json!(0), "kv_lora_rank is 0"),
        ("qk_rope_head_dim", json!(3), "qk_rope_head_dim is 3; it must be even"),
        ("scoring_func", json!("tanh"), "scoring_func is \"tanh\""),
        ("routed_scaling_factor", json!(0), "routed_scaling_factor is 0"),
    ] {
        let mut spoilt = config.clone();
        spoilt[key] = value.clone();
        std::fs::write(directory.0.join("config.json"), spoilt.to_string()).unwrap();
        let error = refused(&directory.0);
        assert!(error.contains(said), "{key} {value}: {error}");
    }
}

/// A GGUF file of raw parts: keys already written, tensors as (name, sizes innermost first, type, offset), data.
fn raw_gguf(keys: &[Vec<u8>], tensors: &[(&str, &[u64], u32, u64)], data: usize) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    keys.iter().for_each(|k| out.extend(k));
    for (name, shape, kind, offset) in tensors {
        out.extend((name.len() as u64).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend(offset.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(32) + data, 0);
    out
}

fn key(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    let mut out = (name.len() as u64).to_le_bytes().to_vec();
    out.extend(name.as_bytes());
    out.extend(kind.to_le_bytes());
    out.extend(value);
    out
}

fn array(kind: u32, length: u64, bytes: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &length.to_le_bytes(), bytes].concat()
}

#[test]
fn gguf_files_that_lie() {
    let read = |bytes: Vec<u8>| {
        let read =
            farthing_model::gguf::read_mapped(&Arc::new(Mapping::held("lie.gguf", bytes)), &mut Tensors::default());
        read.err().expect("refused").to_string()
    };
    let f32s = |tensors: &[(&str, &[u64], u32, u64)]| read(raw_gguf(&[], tensors, 1024));
    for (bytes, said) in [
        (f32s(&[("x", &[8], 0, 1 << 40)]), "tensor x takes 32 bytes at"),
        (f32s(&[("x", &[8], 0, u64::MAX - 31)]), "impossible place"),
        (f32s(&[("x", &[8], 0, 7)]), "impossible place"),
        (f32s(&[("x", &[512], 0, 0)]), "but the file has"),
        (f32s(&[("x", &[1 << 39, 1 << 39], 0, 0)]), "cannot have shape"),
        (f32s(&[("x", &[u64::MAX, 1], 0, 0)]), "a dimension of"),
        (f32s(&[("x", &[8, 1, 1, 1, 1], 0, 0)]), "5 dimensions"),
        (f32s(&[("x", &[33], 12, 0)]), "cannot have shape"),
        (f32s(&[("x", &[8], 0, 0), ("x", &[8], 0, 32)]), "tensor x is there twice"),
        (f32s(&[("x", &[16], 0, 0), ("y", &[8], 0, 32)]), "tensors x and y overlap"),
        (read(raw_gguf(&[key("a", 7, &[1]), key("a", 7, &[1])], &[], 0)), "key a is there twice"),
        (read(raw_gguf(&[key("a", 77, &[1])], &[], 0)), "metadata type 77"),
        (read(raw_gguf(&[key("a", 8, &u64::MAX.to_le_bytes())], &[], 0)), "18446744073709551615 bytes are announced"),
        (read(raw_gguf(&[key("a", 9, &array(4, 1 << 60, &[]))], &[], 64)), "an array of 1152921504606846976 elements"),
        (read(raw_gguf(&[key("a", 9, &array(9, 1, &[]))], &[], 64)), "an array of arrays"),
        (read(raw_gguf(&[key("a", 9, &array(0, 9 << 20, &vec![0; 9 << 20]))], &[], 0)), "elements"),
        (read(raw_gguf(&[key("general.alignment", 4, &3u32.to_le_bytes())], &[], 0)), "power of two"),
        (read(raw_gguf(&[key("general.alignment", 4, &0u32.to_le_bytes())], &[], 0)), "power of two"),
        (read(raw_gguf(&[key(&"k".repeat(5000), 7, &[1])], &[], 0)), "a name of 5000 bytes"),
    ] {
        assert!(bytes.contains(said) && bytes.starts_with("lie.gguf: "), "{said}: {bytes}");
        assert!(bytes.contains("fetch it again"), "{bytes}");
    }
    let mut counts = raw_gguf(&[], &[], 0);
    counts[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(read(counts.clone()).contains("18446744073709551615 tensors"));
    counts[8..16].copy_from_slice(&(1u64 << 18).to_le_bytes());
    assert!(read(counts).contains("cut off"));
}

#[test]
fn gguf_values_of_every_type() {
    let keys = [
        key("a", 0, &[0xfe]),
        key("b", 1, &[0xfe]),
        key("c", 2, &0xfffe_u16.to_le_bytes()),
        key("d", 3, &(-2i16).to_le_bytes()),
        key("e", 4, &u32::MAX.to_le_bytes()),
        key("f", 5, &(-2i32).to_le_bytes()),
        key("g", 6, &(-0.5f32).to_le_bytes()),
        key("h", 7, &[1]),
        key("i", 10, &u64::MAX.to_le_bytes()),
        key("j", 11, &(-2i64).to_le_bytes()),
        key("k", 12, &0.1f64.to_le_bytes()),
        key("l", 9, &array(1, 2, &[0xff, 3])),
        key("m", 9, &array(5, 1, &(-7i32).to_le_bytes())),
        key("n", 9, &array(7, 2, &[0, 2])),
    ];
    let mapping = Arc::new(Mapping::held("types.gguf", raw_gguf(&keys, &[], 0)));
    let values = farthing_model::gguf::read_mapped(&mapping, &mut Tensors::default()).unwrap().values;
    let expected = [
        Value::U64(254),
        Value::I64(-2),
        Value::U64(65534),
        Value::I64(-2),
        Value::U64(u32::MAX.into()),
        Value::I64(-2),
        Value::F64(-0.5),
        Value::Bool(true),
        Value::U64(u64::MAX),
        Value::I64(-2),
        Value::F64(0.1),
        Value::Integers(vec![-1, 3]),
        Value::Integers(vec![-7]),
        Value::Bools(vec![false, true]),
    ];
    assert_eq!(values.into_values().collect::<Vec<_>>(), expected);
}

/// Data begin at the next multiple of the alignment, wherever the header ends.
#[test]
fn data_are_where_the_alignment_says() {
    for length in 1..64 {
        let keys = [key("general.alignment", 4, &64u32.to_le_bytes()), key(&"k".repeat(length), 7, &[1])];
        let bytes = raw_gguf(&keys, &[("x", &[8], 0, 0), ("y", &[8], 0, 64)], 160);
        let header = raw_gguf(&keys, &[("x", &[8], 0, 0), ("y", &[8], 0, 64)], 0).len();
        let mut tensors = Tensors::default();
        farthing_model::gguf::read_mapped(&Arc::new(Mapping::held("aligned.gguf", bytes)), &mut tensors).unwrap();
        // `header` is the next multiple of 32.
        let start = header.next_multiple_of(64);
        assert_eq!((tensors.by_name["x"].offset, tensors.by_name["y"].offset), (start, start + 64), "{length}");
    }
}

/// Bounds that hold for all parts of a header together, whatever one part says.
#[test]
fn gguf_headers_without_end() {
    let read = |bytes: Vec<u8>| {
        let read =
            farthing_model::gguf::read_mapped(&Arc::new(Mapping::held("long.gguf", bytes)), &mut Tensors::default());
        read.err().expect("refused").to_string()
    };
    // Five million elements each, of eight million.
    let half = array(0, 5 << 20, &vec![0; 5 << 20]);
    assert!(read(raw_gguf(&[key("a", 9, &half), key("b", 9, &half)], &[], 0)).contains("arrays of more than 8388608"));
    // A text of 257 MiB, all of it there (a hole in the file).
    let directory = Directory::new("long");
    let path = directory.0.join("long.gguf");
    std::fs::write(&path, raw_gguf(&[key("a", 8, &(257u64 << 20).to_le_bytes())], &[], 0)).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(300 << 20).unwrap();
    assert!(refused(&path).contains("the header has more than 268435456 bytes"));
}

fn everything(path: &Path) -> (BTreeMap<String, Value>, Vec<Written>) {
    let mut tensors = Tensors::default();
    let metadata = farthing_model::gguf::read(path, &mut tensors).unwrap();
    let written = tensors.by_name.iter().map(|(name, t)| {
        let bytes = &tensors.files[t.file].bytes()[t.offset..t.offset + t.bytes];
        let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        (name.clone(), t.shape.clone(), numbers)
    });
    (metadata.values, written.collect())
}

#[test]
fn gguf_keys_that_contradict_each_other() {
    let directory = Directory::new("keys");
    let (values, tensors) = everything(&case("oracle/deepseek-v2-lite-shape/model-f32.gguf"));
    let path = directory.0.join("keys.gguf");
    for (name, value, said) in [
        ("deepseek2.block_count", Value::U64(u64::MAX), "block_count is"),
        ("deepseek2.attention.head_count", Value::U64(0), "attention.head_count is 0"),
        (
            "deepseek2.attention.head_count",
            Value::Integers(vec![1, 2]),
            "attention.head_count is a list of 2 whole numbers",
        ),
        ("deepseek2.attention.kv_lora_rank", Value::F64(f64::NAN), "attention.kv_lora_rank is NaN"),
        ("deepseek2.rope.freq_base", Value::F64(f64::INFINITY), "rope.freq_base is inf"),
        ("deepseek2.rope.dimension_count", Value::U64(1 << 19), "rope.dimension_count is 524288"),
        ("deepseek2.expert_used_count", Value::U64(4000), "expert_used_count is 4000"),
        ("deepseek2.expert_gating_func", Value::U64(7), "expert_gating_func 7"),
        ("tokenizer.ggml.eos_token_id", Value::U64(1 << 30), "eos_token_id is 1073741824"),
        ("split.count", Value::U64(3), "split.count is 3"),
    ] {
        let mut spoilt = values.clone();
        spoilt.insert(name.to_string(), value);
        write(&path, 3, &spoilt, &tensors);
        let error = refused(&path);
        assert!(error.contains(said), "{name}: {error}");
    }
    // -1 means none.
    let mut none = values.clone();
    none.insert("tokenizer.ggml.eos_token_id".to_string(), Value::U64(u32::MAX as u64));
    write(&path, 3, &none, &tensors);
    assert!(Checkpoint::open(&path).unwrap().generation.eos.iter().all(|&id| id != u32::MAX));
}

#[test]
fn an_index_that_lies_about_places() {
    let (directory, _) = llama("index");
    std::fs::rename(directory.0.join("model.safetensors"), directory.0.join("a.safetensors")).unwrap();
    let index = directory.0.join("model.safetensors.index.json");
    for (text, said) in [
        ("{}", "weight_map"),
        ("{\"weight_map\": 3}", "not an index"),
        ("{\"weight_map\": {}}", "names no tensor"),
        ("{\"weight_map\": {\"x\": \"\"}}", "outside the directory"),
        ("{\"weight_map\": {\"x\": \".\"}}", "outside the directory"),
        ("{\"weight_map\": {\"x\": \"..\"}}", "outside the directory"),
        ("{\"weight_map\": {\"x\": \"C:\\\\a\"}}", "outside the directory"),
        ("{\"weight_map\": {\"x\": \"a.safetensors\"}}", "tensor x should be in a.safetensors"),
        ("{\"weight_map\": {\"x\": \"b.safetensors\"}}", "b.safetensors"),
        ("{\"weight_map\": {\"x\": [1]}}", "not an index"),
    ] {
        std::fs::write(&index, text).unwrap();
        let error = refused(&directory.0);
        assert!(error.contains(said), "{text}: {error}");
    }
}

/// A tensor that lies in another file than the index says.
#[test]
fn an_index_that_mixes_up_its_files() {
    let (directory, _) = llama("mixed");
    let single = directory.0.join("model.safetensors");
    let bytes = std::fs::read(&single).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors();
    let mut map = serde_json::Map::new();
    for (file, odd) in [("a.safetensors", 0), ("b.safetensors", 1)] {
        let part: Vec<_> = all.iter().skip(odd).step_by(2).map(|(n, t)| (n.clone(), t.clone())).collect();
        map.extend(part.iter().map(|(n, _)| (n.clone(), json!(file))));
        safetensors::serialize_to_file(part, None, &directory.0.join(file)).unwrap();
    }
    std::fs::remove_file(single).unwrap();
    let index = directory.0.join("model.safetensors.index.json");
    std::fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
    Checkpoint::open(&directory.0).unwrap().weights().unwrap();
    let name = "model.norm.weight";
    let other = if map[name] == "a.safetensors" { "b.safetensors" } else { "a.safetensors" };
    map[name] = json!(other);
    std::fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
    assert!(refused(&directory.0).contains(&format!("tensor {name} should be in {other}")));
}

#[test]
fn small_files_are_read_within_bounds() {
    let directory = Directory::new("bounds");
    let path = directory.0.join("x.json");
    std::fs::write(&path, "12345").unwrap();
    let read = |max| farthing_model::tensors::read_bounded(&path, max).map_err(|e| e.to_string());
    assert_eq!(read(5).unwrap(), b"12345");
    assert!(read(4).unwrap_err().contains("more than 4 bytes"));
    for other in [Path::new("/dev/null"), &directory.0] {
        let error = farthing_model::tensors::read_bounded(other, 5).unwrap_err().to_string();
        assert!(error.contains("not a plain file"), "{error}");
    }
}

/// What the system will not tell of is no absence.
#[test]
fn a_configuration_that_cannot_be_looked_at_is_not_told_as_missing() {
    let (directory, _) = llama("denied");
    let config = directory.0.join("config.json");
    std::fs::remove_file(&config).unwrap();
    assert!(refused(&directory.0).contains("no config.json in it"));
    std::os::unix::fs::symlink(&config, &config).unwrap();
    let error = refused(&directory.0);
    assert!(error.contains("config.json: ") && !error.contains("no config.json"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_not_a_file_is_not_waited_for() {
    let directory = Directory::new("pipe");
    let pipe = directory.0.join("model.gguf");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
    assert!(refused(&pipe).contains("plain file"));
    assert!(refused(Path::new("/dev/zero")).contains("plain file"));
}

/// Blocks whose scale is NaN: the file opens, runs without a panic, and the tensor is found and named.
#[test]
fn scales_that_are_no_numbers_are_found() {
    let directory = Directory::new("scales");
    let path = directory.0.join("nan.gguf");
    let mut bytes = std::fs::read(case("stories260K/model-q8_0.gguf")).unwrap();
    let (at, width) = {
        let opened = Checkpoint::open(&case("stories260K/model-q8_0.gguf")).unwrap();
        let tensor = &opened.tensors.by_name["blk.2.ffn_gate.weight"];
        (tensor.offset, *tensor.shape.last().unwrap())
    };
    // The second block of the row: a half of all ones is NaN.
    bytes[at + 34..at + 36].copy_from_slice(&[0xff, 0xff]);
    std::fs::write(&path, bytes).unwrap();
    let opened = Checkpoint::open(&path).unwrap();
    let found: Vec<_> = opened.tensors.by_name.keys().filter(|n| opened.tensors.not_finite(n).is_some()).collect();
    assert_eq!(found, ["blk.2.ffn_gate.weight"]);
    let (row, col, x) = opened.tensors.not_finite("blk.2.ffn_gate.weight").unwrap();
    assert!(row == 0 && col == 32 && col < width && x.is_nan());
    let logits = Runner::open(&path).whole(&[1, 2, 3]).0;
    assert!(logits.iter().any(|x| x.is_nan()));
}

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for kind in ["seeds", "findings"] {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(kind).join(target);
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        found.extend(entries.map(|e| e.unwrap().path()).map(|p| (p.clone(), std::fs::read(&p).unwrap())));
    }
    assert!(!found.is_empty(), "{target} has seeds");
    found
}

/// What the fuzzer starts from, and everything it ever found, goes through the readers without a panic.
#[test]
fn seeds_and_findings_of_the_fuzzer() {
    for (path, bytes) in seeds("gguf") {
        let mut tensors = Tensors::default();
        let mapping = Arc::new(Mapping::held("f.gguf", bytes));
        let outcome = farthing_model::gguf::read_mapped(&mapping, &mut tensors)
            .and_then(|metadata| farthing_model::Checkpoint::of_gguf(&path, metadata, tensors))
            .and_then(|c| c.weights().map(|_| ()));
        assert!(outcome.is_ok() || !outcome.unwrap_err().to_string().contains('\n'), "{}", path.display());
    }
    for (path, bytes) in seeds("safetensors") {
        let _ = Tensors::default().add_mapped(Arc::new(Mapping::held(&path.to_string_lossy(), bytes)));
    }
    for (path, bytes) in seeds("index") {
        let _ = farthing_model::tensors::index_places(&path, &bytes);
    }
    for (path, bytes) in seeds("config") {
        let Ok(json) = serde_json::from_slice(&bytes) else { continue };
        let _ = Checkpoint::of_parts(&path, &json, Tensors::default());
    }
}
