//! Loss, gradients and optimizer steps against other people's software.

use std::path::Path;

use farthing_train::{AdamW, Batch, NO_TARGET, Network, Role, Settings, clip, from_checkpoint};
use kernels::Pool;
use safetensors::SafeTensors;

fn ints(tensor: &safetensors::tensor::TensorView) -> Vec<i32> {
    tensor.data().chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn floats(tensor: &safetensors::tensor::TensorView) -> Vec<f32> {
    tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn check(directory: &Path, settings: Settings) {
    let checkpoint = model::Checkpoint::open(directory).unwrap();
    let network = Network::new(checkpoint.structure.clone(), false).unwrap();
    let mut weights = from_checkpoint(&network, &checkpoint).unwrap();
    let bytes = std::fs::read(directory.join("train.safetensors")).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let figures: serde_json::Value =
        serde_json::from_slice(&std::fs::read(directory.join("train.json")).unwrap()).unwrap();
    let (inputs, labels) = (ints(&reference.tensor("input_ids").unwrap()), ints(&reference.tensor("labels").unwrap()));
    let mut batch = Batch::default();
    for (row, labels) in inputs.chunks(48).zip(labels.chunks(48)) {
        let start = batch.tokens.len();
        batch.document(&row.iter().map(|&t| t as u32).collect::<Vec<_>>());
        for i in 0..48 {
            batch.targets[start + i] = match labels.get(i + 1) {
                Some(&label) if label >= 0 => label as u32,
                _ => NO_TARGET,
            };
        }
    }
    let pool = Pool::new(2);
    let weight = 1.0 / batch.wanted() as f32;
    let adam = AdamW { rate: 1e-3, betas: [0.9, 0.95], epsilon: 1e-8, decay: 0.1 };
    let (mut m, mut v) = (network.parameters.zeros(), network.parameters.zeros());
    for step in 0..6 {
        let mut gradients = network.parameters.zeros();
        let outcome = network.train(&pool, &settings, (&weights, &mut gradients), &batch, weight);
        let loss = outcome.loss / outcome.targets as f64;
        let expected = figures["losses"][step].as_f64().unwrap();
        assert!((loss - expected).abs() < 1e-4 * expected, "step {step}: loss {loss}, not {expected}");
        if step == 0 {
            let mut seen = 0;
            for (parameter, gradient) in network.parameters.iter().zip(&gradients) {
                let Ok(expected) = reference.tensor(&parameter.name) else {
                    assert_eq!(parameter.role, Role::Choice, "{}", parameter.name);
                    continue;
                };
                seen += 1;
                let expected = floats(&expected);
                let largest = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
                let apart = gradient.iter().zip(&expected).fold(0f32, |a, (x, y)| a.max((x - y).abs()));
                assert!(apart <= 1e-3 * largest, "{}: {apart} apart of {largest}", parameter.name);
            }
            assert_eq!(seen, reference.len() - 2);
        }
        let norm = clip(&mut gradients, 1.0);
        let expected = figures["grad_norm_before_clip"][step].as_f64().unwrap();
        assert!((norm - expected).abs() < 1e-3 * expected, "step {step}: norm {norm}, not {expected}");
        for (i, parameter) in network.parameters.iter().enumerate() {
            if parameter.role != Role::Choice {
                adam.step(step as u64 + 1, &mut weights[i], &gradients[i], &mut m[i], &mut v[i]);
            }
        }
    }
}

#[test]
fn reference_losses_gradients_and_steps() {
    for case in ["llama-gqa", "deepseek-v2-lite-shape", "deepseek-v3-shape"] {
        let directory = Path::new("/work/shared/oracle").join(case);
        check(&directory, Settings::default());
        check(&directory, Settings { recompute: true, ..Settings::default() });
    }
}
