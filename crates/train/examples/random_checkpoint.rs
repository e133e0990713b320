//! Writes a checkpoint of random weights with a structure of the trainer's, for measurements:
//! `cargo run --release -p farthing-train --example random_checkpoint -- gqa OUT hidden_size=2048 num_hidden_layers=4`.
//! KEY=VALUE are keys of the configuration; what is not given follows from a hidden size.

use std::error::Error;
use std::path::Path;

use farthing_train::network::Network;
use farthing_train::sizes::Wanted;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value};

/// Numbers from -0.05 to 0.05 in bf16, which follow from their place.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let number = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let x = (state >> 40) as f32 / (1 << 24) as f32 - 0.5;
        ((x / 10.0).to_bits() >> 16) as u16
    };
    (0..count).map(number).flat_map(u16::to_le_bytes).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, out, keys @ ..] = &arguments[..] else { return Err("give KIND OUT [KEY=VALUE ...]".into()) };
    let mut given = Map::new();
    for key in keys {
        let (key, value) = key.split_once('=').ok_or_else(|| format!("{key}: give KEY=VALUE"))?;
        given.insert(key.to_string(), serde_json::from_str(value)?);
    }
    let kind = serde_json::from_value(Value::from(kind.as_str()))?;
    let (mut config, structure) = Wanted { kind, active: 1 << 22, vocabulary: 4096, context: 32768, given }.config()?;
    config["torch_dtype"] = "bfloat16".into();
    let network = Network::new(structure, false)?;
    let total = network.structure.parameters().total;
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = network
        .parameters
        .iter()
        .map(|p| match p.shape[..] {
            // Norms are ones: 0x3f80 in bf16.
            [n] => (p.name.clone(), p.shape.clone(), [0x80, 0x3f].repeat(n)),
            _ => (p.name.clone(), p.shape.clone(), noise(p.shape.iter().product())),
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::BF16, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    std::fs::create_dir_all(out)?;
    safetensors::serialize_to_file(views, None, &Path::new(out).join("model.safetensors"))?;
    std::fs::write(Path::new(out).join("config.json"), format!("{config:#}\n"))?;
    println!("{out}: {:.1} M parameters", total as f64 / 1e6);
    Ok(())
}
