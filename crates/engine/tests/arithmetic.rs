//! The bits of the forward, recorded beside the version of the arithmetic: pages on disk are found by that version, so when bits change it must.

use std::path::Path;

use farthing_engine::{ARITHMETIC, Limits, Positions, Runner};
use kernels::Pool;
use model::{CacheFormat, Checkpoint, Transformer};

/// The version that `RECORDED` was made with.
const RECORDED_FOR: u64 = 2;

/// Model, format of the cache, and the beginning of a BLAKE3 hash over the logits of a prompt of 200 tokens and of four tokens after it.
const RECORDED: [(&str, CacheFormat, &str); 9] = [
    ("../../models/seed-5.7m", CacheFormat::F32, "2c2026e9e3ac448e"),
    ("../../models/seed-5.7m", CacheFormat::Bf16, "3d4fa5324cb3dd2e"),
    ("../../models/seed-5.7m", CacheFormat::Eight, "f14be20b4d43b679"),
    ("../../models/seed-5.7m", CacheFormat::Six, "5bdedeff9de6a42d"),
    ("../model/tests/data/oracle/deepseek-v3-fp8", CacheFormat::Bf16, "ecc10f52e8827c96"),
    ("../model/tests/data/oracle/llama-gqa", CacheFormat::F32, "a36df962189085e5"),
    ("../model/tests/data/oracle/llama-gqa", CacheFormat::Eight, "c7d0c8271764aa60"),
    ("../model/tests/data/oracle/qwen3-moe", CacheFormat::Bf16, "77e36dd49e0eddde"),
    ("../model/tests/data/stories260K/model-q8_0.gguf", CacheFormat::Bf16, "afb1c3c3ac755ad9"),
];

fn bits(model: &str, format: CacheFormat) -> String {
    let checkpoint = Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(model)).unwrap();
    let (weights, limits) = (checkpoint.weights().unwrap(), Limits { context: 256, cached: 512 });
    let mut runner = Runner::new(Transformer::new(checkpoint.structure, weights), Pool::new(2), format, limits);
    let tokens: Vec<u32> = (0..200u32).map(|i| (i * 37 + i * i % 13) % 250).collect();
    let mut hasher = blake3::Hasher::new();
    let mut add = |logits: &[f32]| {
        logits.iter().for_each(|x| {
            hasher.update(&x.to_bits().to_le_bytes());
        })
    };
    add(runner.logits(&tokens).unwrap());
    let mut at = Positions::new(0, 256);
    add(runner.read(&mut at, &tokens).unwrap());
    for token in [3, 77, 120, 9] {
        add(runner.decode(&mut [(&mut at, token)]).unwrap());
    }
    hasher.finalize().to_hex()[..16].to_string()
}

/// Every instruction set gives the same bits, so these hold on every machine.
#[test]
fn bits_do_not_change_without_the_version() {
    let now = RECORDED.map(|(model, format, _)| bits(model, format));
    let lines: Vec<String> = RECORDED
        .iter()
        .zip(&now)
        .map(|((model, format, _), bits)| format!("(\"{model}\", CacheFormat::{format:?}, \"{bits}\"),"))
        .collect();
    let lines = lines.join("\n");
    assert_eq!(RECORDED_FOR, ARITHMETIC, "the version was raised: record what the forward gives now:\n{lines}");
    let recorded = RECORDED.map(|(_, _, bits)| bits);
    assert!(
        now.each_ref().map(String::as_str) == recorded,
        "the forward gives other bits than version {ARITHMETIC} did: raise farthing_engine::ARITHMETIC, or every cache on disk mixes pages of both. Now:\n{lines}"
    );
}
