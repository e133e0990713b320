//! Loss, gradients and optimizer steps against other people's software.

use std::path::Path;

use farthing_train::{Batch, NO_TARGET, Network, Parameter, Role, Settings, clip, from_checkpoint};
use kernels::Pool;
use kernels::training::{AdamW, adamw};
use safetensors::SafeTensors;

fn ints(tensor: &safetensors::tensor::TensorView) -> Vec<i32> {
    tensor.data().chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn floats(tensor: &safetensors::tensor::TensorView) -> Vec<f32> {
    tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn check(case: &str, settings: Settings) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checkpoint = model::Checkpoint::open(&here.join("../model/tests/data/oracle").join(case)).unwrap();
    let network = Network::new(checkpoint.structure.clone(), false).unwrap();
    let mut weights = from_checkpoint(&network, &checkpoint).unwrap();
    let bytes = std::fs::read(here.join("tests/data").join(format!("{case}.safetensors"))).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let get = |name: &str| reference.tensor(name).unwrap();
    let (inputs, labels) = (ints(&get("input_ids")), ints(&get("labels")));
    let (losses, norms) = (floats(&get("losses")), floats(&get("norms")));
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
    let (mut m, mut v) = (network.parameters.zeros(), network.parameters.zeros());
    for (step, (expected_loss, expected_norm)) in losses.into_iter().zip(norms).enumerate() {
        let mut gradients = network.parameters.zeros();
        let outcome = network.train(&pool, &settings, (&weights, &mut gradients), &batch, weight);
        let loss = (outcome.loss / outcome.targets as f64) as f32;
        assert!((loss - expected_loss).abs() < 1e-4 * expected_loss, "{case} step {step}: {loss}, not {expected_loss}");
        if step == 0 {
            let compared = network.parameters.iter().zip(&gradients);
            let compared = compared.filter(|(parameter, gradient)| compare(&reference, parameter, gradient)).count();
            assert_eq!(compared, reference.len() - 4, "{case}");
        }
        let norm = clip(&pool, &mut gradients, 1.0) as f32;
        assert!((norm - expected_norm).abs() < 1e-3 * expected_norm, "{case} step {step}: {norm}, not {expected_norm}");
        for (i, parameter) in network.parameters.iter().enumerate() {
            if parameter.role != Role::Choice {
                let step = step as u32 + 1;
                let (rate, beta1, beta2, eps, decay) = (1e-3, 0.9, 0.95, 1e-8, 0.1);
                let adam = AdamW { rate, beta1, beta2, eps, decay, cautious: false, step, scale: 1.0 };
                adamw(&pool, &adam, &mut weights[i], &gradients[i], (&mut m[i], &mut v[i]));
            }
        }
    }
}

/// Whether the reference has this gradient; then it is compared.
fn compare(reference: &SafeTensors, parameter: &Parameter, gradient: &[f32]) -> bool {
    let Ok(expected) = reference.tensor(&parameter.name) else {
        assert_eq!(parameter.role, Role::Choice, "{}", parameter.name);
        return false;
    };
    let expected = floats(&expected);
    let (largest, norm) = (expected[0], expected[1]);
    let own = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt() as f32;
    assert!((own - norm).abs() <= 1e-3 * norm, "{}: norm {own}, not {norm}", parameter.name);
    for (i, x) in expected[2..].iter().enumerate() {
        let own = gradient[i * gradient.len() / 64];
        assert!((own - x).abs() <= 1e-3 * largest, "{} at {i}: {own}, not {x} (largest {largest})", parameter.name);
    }
    true
}

#[test]
fn losses_gradients_and_steps_are_those_of_torch() {
    let cases =
        ["llama-gqa", "qwen2-bias", "qwen3-moe", "deepseek-v2-lite-shape", "deepseek-v2-shape", "deepseek-v3-shape"];
    for case in cases {
        check(case, Settings::default());
        check(case, Settings { recompute: true, ..Settings::default() });
    }
}
