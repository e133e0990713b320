//! GGUF files of other layouts, written here from a reference file: split in two, keys and values of latent attention apart; and spoilt ones.

mod gguf_writing;
mod running;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farthing_model::gguf::{self, Value};
use farthing_model::tensors::{Stored, Tensors};
use gguf_writing::{Directory, Written, write};
use proptest::prelude::*;
use running::{Runner, case};

fn read(path: &Path) -> (BTreeMap<String, Value>, Vec<Written>) {
    let mut tensors = Tensors::default();
    let metadata = gguf::read(path, &mut tensors).unwrap();
    let written = tensors
        .by_name
        .iter()
        .map(|(name, t)| {
            assert_eq!(t.stored, Stored::As(kernels::Format::F32));
            let bytes = &tensors.files[t.file].bytes()[t.offset..t.offset + t.bytes];
            let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            (name.clone(), t.shape.clone(), numbers)
        })
        .collect();
    (metadata.values, written)
}

fn original() -> PathBuf {
    case("oracle/deepseek-v2-lite-shape/model-f32.gguf")
}

fn logits(path: &Path) -> Vec<f32> {
    let tokens: Vec<u32> = (0..200).map(|i| i * 13 % 600).collect();
    Runner::open(path).whole(&tokens).0
}

fn near(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3)
}

#[test]
fn new_files_keep_keys_and_values_of_latent_attention_apart() {
    let directory = Directory::new("split-kv");
    let (mut values, tensors) = read(&original());
    // 4 heads of 32 + 16, values 32, latent 64: what the converter of April 2025 and later writes.
    let (heads, nope, value_dim, rank) = (4, 32, 32, 64);
    let number = |n: u64| Value::U64(n);
    for (key, v) in [
        ("head_count_kv", 1),
        ("key_length", 80),
        ("value_length", 64),
        ("key_length_mla", 48),
        ("value_length_mla", 32),
    ] {
        values.insert(format!("deepseek2.attention.{key}"), number(v));
    }
    let mut apart: Vec<Written> = Vec::new();
    for (name, shape, x) in tensors {
        let Some(layer) = name.strip_suffix("attn_kv_b.weight") else {
            apart.push((name, shape, x));
            continue;
        };
        let (mut k, mut v) = (Vec::new(), Vec::new());
        for h in 0..heads {
            let head = &x[h * (nope + value_dim) * rank..(h + 1) * (nope + value_dim) * rank];
            for r in 0..rank {
                k.extend((0..nope).map(|n| head[n * rank + r]));
            }
            v.extend_from_slice(&head[nope * rank..]);
        }
        apart.push((format!("{layer}attn_k_b.weight"), vec![heads, rank, nope], k));
        apart.push((format!("{layer}attn_v_b.weight"), vec![heads, value_dim, rank], v));
    }
    let path = directory.0.join("new.gguf");
    write(&path, 3, &values, &apart);
    assert!(near(&logits(&path), &logits(&original())));

    // Without the multiplier there is no correction of scores: another model, not an error.
    values.remove("deepseek2.rope.scaling.yarn_log_multiplier");
    write(&path, 2, &values, &apart);
    assert!(!near(&logits(&path), &logits(&original())));
}

#[test]
fn split_files_are_one_model() {
    let directory = Directory::new("split");
    let (mut values, tensors) = read(&original());
    values.insert("split.count".to_string(), Value::U64(2));
    let (first, second) = tensors.split_at(tensors.len() / 2);
    let path = |i: usize| directory.0.join(format!("model-0000{i}-of-00002.gguf"));
    write(&path(1), 3, &values, first);
    write(&path(2), 3, &BTreeMap::from([("split.no".to_string(), Value::U64(1))]), second);
    assert_eq!(logits(&path(1)), logits(&original()));
    // Named by its second part it is found too; without it, the missing file is named.
    assert_eq!(logits(&path(2)), logits(&original()));
    std::fs::remove_file(path(2)).unwrap();
    let error = farthing_model::Checkpoint::open(&path(1)).err().expect("incomplete").to_string();
    assert!(error.contains("model-00002-of-00002.gguf"), "{error}");
}

#[test]
fn unknown_types_and_architectures_are_named() {
    let directory = Directory::new("unknown");
    let (mut values, tensors) = read(&original());
    let path = directory.0.join("x.gguf");
    values.insert("general.architecture".to_string(), Value::Text("mamba".to_string()));
    write(&path, 3, &values, &tensors);
    let error = farthing_model::Checkpoint::open(&path).err().expect("refused").to_string();
    assert!(error.contains("\"mamba\"") && error.contains("deepseek2"), "{error}");
    write(&path, 1, &values, &tensors);
    assert!(farthing_model::Checkpoint::open(&path).err().expect("refused").to_string().contains("GGUF version 1"));
    // The type of the first tensor becomes IQ2_XXS.
    let mut bytes = std::fs::read(original()).unwrap();
    let name = b"output.weight";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 2 * 8;
    bytes[at..at + 4].copy_from_slice(&16u32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let opened = farthing_model::Checkpoint::open(&path).unwrap();
    let error = opened.weights().err().expect("refused").to_string();
    assert!(error.contains("IQ2_XXS") && error.contains("output.weight"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Bytes changed anywhere in the header, and a file cut anywhere: an error or a model, never a panic.
    #[test]
    fn spoilt_files_do_not_panic(changes in proptest::collection::vec((0usize..40_000, any::<u8>()), 0..6), cut in proptest::option::of(0usize..40_000), gguf: bool) {
        let directory = Directory::new("spoilt");
        let from = case("stories260K");
        let name = if gguf { "model-q8_0.gguf" } else { "model.safetensors" };
        let mut bytes = std::fs::read(from.join(name)).unwrap();
        // The safetensors header is short: hit it more often.
        let within = if gguf { bytes.len() } else { 5000 };
        for (at, byte) in changes {
            let at = at % within;
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut);
        }
        std::fs::write(directory.0.join(name), bytes).unwrap();
        std::fs::copy(from.join("config.json"), directory.0.join("config.json")).unwrap();
        let path = if gguf { directory.0.join(name) } else { directory.0.clone() };
        if let Ok(checkpoint) = farthing_model::Checkpoint::open(&path)
            && let Ok(weights) = checkpoint.weights()
            && checkpoint.structure.context < 10_000
        {
            Runner::of(farthing_model::Transformer::new(checkpoint.structure, weights)).whole(&[1, 2, 3]);
        }
    }
}
