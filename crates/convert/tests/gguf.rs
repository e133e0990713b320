//! GGUF files that are written: the keys and tensors that llama.cpp's converter writes, and the logits of the source.

// What the model crate's tests share has the crate by its package's name.
extern crate model as farthing_model;

#[path = "../../model/tests/running/mod.rs"]
mod running;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farthing_convert::{GgufPlan, Mix, write_gguf};
use kernels::Pool;
use model::Checkpoint;
use model::families::to_gguf::same_in_gguf;
use model::families::to_hf;
use model::gguf::{self, Metadata};
use model::structure::{Pairing, Structure};
use model::tensors::Tensors;
use running::{Runner, largest_difference};

/// Reference checkpoints of the model crate.
fn case(name: &str) -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data");
    running::twins::reference(&data, name)
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn planned(checkpoint: &Checkpoint, mix: &str) -> GgufPlan {
    let mut plan = GgufPlan::new(checkpoint).unwrap();
    plan.choose(Mix::named(mix).unwrap(), BTreeMap::new()).unwrap();
    plan
}

fn written(plan: &GgufPlan, name: &str) -> PathBuf {
    let file = folder("gguf").join(name);
    write_gguf(plan, &file, &Pool::new(2), &(), |_| Ok(())).unwrap();
    file
}

const CASES: [&str; 10] = [
    "llama-gqa",
    "llama3-rope-scaling",
    "qwen2-bias",
    "qwen3-moe",
    "mixtral",
    "deepseek-v2-lite-shape",
    "deepseek-v2-shape",
    "deepseek-v3-shape",
    "deepseek-v3-fp8",
    "kimi-k2",
];

/// Rows that are permuted, and expansions in two parts, change the order of sums: the last bits of logits.
#[test]
fn every_architecture_is_written_and_gives_the_logits_of_its_source() {
    for name in CASES {
        let source = case(&format!("oracle/{name}"));
        let checkpoint = Checkpoint::open(&source).unwrap();
        let file = written(&planned(&checkpoint, "F32"), &format!("{name}.gguf"));
        let again = Checkpoint::open(&file).unwrap();
        again.complete().unwrap();
        assert!(same_in_gguf(&checkpoint.structure, &again.structure), "{name}");
        // And back: the configuration of the file is that of the directory.
        let (config, described) = to_hf::configuration(&again).unwrap();
        assert!(same_in_gguf(&checkpoint.structure, &described), "{name}: {config}");
        let pairings = |structure: &Structure| -> Vec<Pairing> {
            structure.layers.iter().map(|layer| layer.attention.heads().rope.pairing).collect()
        };
        assert_eq!(pairings(&described), pairings(&checkpoint.structure), "{name}");
        let vocab = checkpoint.structure.vocab as u32;
        let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % vocab).collect();
        let (a, b) = (Runner::open(&source).whole(&tokens).0, Runner::open(&file).whole(&tokens).0);
        let apart = largest_difference(&a, &b);
        let exact = ["qwen2-bias", "qwen3-moe"].contains(&name);
        assert!(if exact { apart == 0.0 } else { apart < 2e-4 }, "{name}: logits differ by {apart}");
    }
}

/// What the converter writes and this writer does not: names that are for people, and keys of other versions of the converter.
#[test]
fn keys_and_tensors_are_those_of_the_converter() {
    for (name, others) in [
        ("llama-gqa", &[][..]),
        ("llama3-rope-scaling", &["rope_freqs.weight"][..]),
        // The converter of then did not split the expansion.
        (
            "deepseek-v2-lite-shape",
            &["attention.head_count_kv", "attention.key_length", "attention.value_length", "attn_kv_b.weight"][..],
        ),
    ] {
        let checkpoint = Checkpoint::open(&case(&format!("oracle/{name}"))).unwrap();
        let own = written(&planned(&checkpoint, "F32"), &format!("{name}-keys.gguf"));
        let (own, own_tensors) = read(&own);
        let (converted, converted_tensors) = read(&case(&format!("oracle/{name}/model-f32.gguf")));
        let skipped = |key: &str| others.iter().any(|other| key.ends_with(other));
        for (key, value) in &converted.values {
            let general = ["general.name", "general.size_label"].contains(&key.as_str());
            if !general && !key.starts_with("tokenizer.") && !skipped(key) {
                assert_eq!(own.values.get(key), Some(value), "{name}: {key}");
            }
        }
        // Types too: other programs take a key of one type only.
        let kinds = |metadata: &Metadata, path: &Path| -> BTreeMap<String, [u8; 4]> {
            let bytes = std::fs::read(path).unwrap();
            let kind = |(key, place): &(String, std::ops::Range<usize>)| {
                (key.clone(), bytes[place.start..place.start + 4].try_into().unwrap())
            };
            metadata.places.iter().map(kind).collect()
        };
        let own_kinds = kinds(&own, &folder("gguf").join(format!("{name}-keys.gguf")));
        for (key, kind) in kinds(&converted, &case(&format!("oracle/{name}/model-f32.gguf"))) {
            assert!(own_kinds.get(&key).is_none_or(|own| *own == kind), "{name}: type of {key}");
        }
        for (tensor, converted) in &converted_tensors.by_name {
            if skipped(tensor) {
                continue;
            }
            let own = &own_tensors.by_name[tensor];
            assert_eq!((&own.shape, &own.stored), (&converted.shape, &converted.stored), "{name}: {tensor}");
            let bytes = |tensors: &Tensors, t: &model::tensors::Tensor| {
                tensors.files[0].bytes()[t.offset..t.offset + t.bytes].to_vec()
            };
            assert!(bytes(&own_tensors, own) == bytes(&converted_tensors, converted), "{name}: {tensor}");
        }
    }
}

fn read(path: &Path) -> (Metadata, Tensors) {
    let mut tensors = Tensors::default();
    let metadata = gguf::read(path, &mut tensors).unwrap();
    (metadata, tensors)
}
