//! Backward of rows, loss and optimiser: against formulas in f64 and finite differences, and every instruction set bit for bit.
#![cfg(not(loom))]

use farthing_kernels::Pool;
use farthing_kernels::dispatch::{tables, with_table};
use farthing_kernels::training::{
    AdamW, adamw, cross_entropy, rms_norm_backward, silu_mul_backward, silu_mul_rows, sum_of_squares,
};

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    };
    (0..n).map(|_| next()).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

const WIDTHS: [usize; 7] = [1, 5, 16, 17, 48, 100, 1000];

fn near(got: &[f32], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len());
    let size = want.iter().fold(1.0, |a: f64, b| a.max(b.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*got) - want).abs() < 3e-6 * size, "{what} {i}: {got}, not {want}");
    }
}

/// `d f / d x` by differences.
fn slopes(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let at = |i: usize, step: f64| {
        let mut moved = x.to_vec();
        moved[i] += step;
        f(&moved)
    };
    (0..x.len()).map(|i| (at(i, STEP) - at(i, -STEP)) / (2.0 * STEP)).collect()
}

/// The same bits from every table, which are returned.
fn every_set<const N: usize>(f: impl Fn() -> [Vec<f32>; N]) -> [Vec<f32>; N] {
    let bits = |x: &[Vec<f32>; N]| x.iter().flatten().map(|x| x.to_bits()).collect::<Vec<u32>>();
    let scalar = with_table(tables().last().unwrap(), &f);
    for table in tables() {
        assert!(bits(&with_table(table, &f)) == bits(&scalar), "{}", table.name);
    }
    scalar
}

#[test]
fn norms() {
    const EPS: f32 = 1e-5;
    for n in WIDTHS {
        let (x, weight, dy) = (numbers(n, 1), numbers(n, 2), numbers(n, 3));
        let [dx, d_weight] = every_set(|| {
            let (mut dx, mut d_weight) = (vec![0.5; n], vec![-0.25; n]);
            rms_norm_backward(&x, &weight, EPS, &dy, &mut dx, &mut d_weight);
            [dx, d_weight]
        });
        let norm = |x: &[f64], weight: &[f64]| -> f64 {
            let factor = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / n as f64 + f64::from(EPS)).sqrt();
            (0..n).map(|i| x[i] * factor * weight[i] * f64::from(dy[i])).sum()
        };
        let shifted = |slopes: Vec<f64>, by: f64| slopes.iter().map(|x| x + by).collect::<Vec<f64>>();
        let (x, weight) = (wide(&x), wide(&weight));
        near(&dx, &shifted(slopes(&x, |x| norm(x, &weight)), 0.5), "dx");
        near(&d_weight, &shifted(slopes(&weight, |weight| norm(&x, weight)), -0.25), "d_weight");
    }
}

#[test]
fn gates() {
    for n in WIDTHS {
        // Two rows.
        let (gate_up, d) = (numbers(4 * n, 4), numbers(2 * n, 6));
        let [hidden, d_gate_up] = every_set(|| {
            let (mut hidden, mut d_gate_up) = (vec![0.0; 2 * n], gate_up.clone());
            silu_mul_rows(&gate_up, n, &mut hidden);
            silu_mul_backward(&mut d_gate_up, n, &d);
            [hidden, d_gate_up]
        });
        let exact = |gate_up: &[f64]| -> Vec<f64> {
            let row = |gate_up: &[f64]| {
                (0..n).map(|i| gate_up[i] / (1.0 + (-gate_up[i]).exp()) * gate_up[n + i]).collect::<Vec<_>>()
            };
            gate_up.chunks(2 * n).flat_map(row).collect()
        };
        let gate_up = wide(&gate_up);
        near(&hidden, &exact(&gate_up), "hidden");
        let along = |gate_up: &[f64]| exact(gate_up).iter().zip(&d).map(|(h, d)| h * f64::from(*d)).sum();
        near(&d_gate_up, &slopes(&gate_up, along), "gates and ups");
    }
}

#[test]
fn losses() {
    for n in WIDTHS {
        for target in [0, n / 2, n - 1] {
            let logits: Vec<f32> = numbers(n, 7).iter().map(|x| x * 4.0 + 30.0).collect();
            let [gradient, loss] = every_set(|| {
                let mut gradient = logits.clone();
                let loss = cross_entropy(&mut gradient, target, 0.75);
                [gradient, vec![loss]]
            });
            let exact = |x: &[f64]| x.iter().map(|x| x.exp()).sum::<f64>().ln() - x[target];
            let logits = wide(&logits);
            near(&loss, &[exact(&logits)], "loss");
            let want: Vec<f64> = slopes(&logits, exact).iter().map(|x| x * 0.75).collect();
            near(&gradient, &want, "gradient");
        }
    }
    assert!(cross_entropy(&mut [0.0, f32::NAN], 0, 1.0).is_nan(), "a loss that is no number is seen");
    let mut masked = [f32::NEG_INFINITY, 1.0, 1.0];
    assert!((cross_entropy(&mut masked, 1, 1.0) - std::f32::consts::LN_2).abs() < 1e-6);
    assert_eq!(masked[0], 0.0);
}

#[test]
fn adamw_is_its_formula() {
    let n = 40_007;
    for cautious in [false, true] {
        let (weights, scale) = (numbers(n, 8), 0.5);
        let settings =
            |step| AdamW { rate: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1, cautious, step, scale };
        let gradient = |step: u32| numbers(n, 9 + u64::from(step));
        let got = every_set(|| {
            let (mut w, mut m, mut v) = (weights.clone(), vec![0.0; n], vec![0.0; n]);
            for step in 1..=6 {
                adamw(&Pool::new(1), &settings(step), &mut w, &gradient(step), (&mut m, &mut v));
            }
            [w, m, v]
        });
        let (mut w, mut m, mut v) = (wide(&weights), vec![0f64; n], vec![0f64; n]);
        for step in 1..=6 {
            let AdamW { rate, beta1, beta2, eps, decay, .. } = settings(step);
            let [rate, beta1, beta2, eps, decay] = [rate, beta1, beta2, eps, decay].map(f64::from);
            for (i, g) in gradient(step).iter().enumerate() {
                let g = f64::from(*g) * f64::from(scale);
                m[i] = beta1 * m[i] + (1.0 - beta1) * g;
                v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
                let ends = [1.0 - beta1.powf(step.into()), 1.0 - beta2.powf(step.into())];
                let update = m[i] / ends[0] / ((v[i] / ends[1]).sqrt() + eps);
                // Where the sign of a moment is open, so is whether the weight decays.
                if !cautious || m[i] * w[i] >= 0.0 {
                    w[i] *= 1.0 - rate * decay;
                }
                w[i] -= rate * update;
            }
        }
        for (name, (got, want)) in ["weights", "first", "second"].iter().zip(got.iter().zip([&w, &m, &v])) {
            near(got, want, name);
        }
        let mut three = (weights.clone(), vec![0.0; n], vec![0.0; n]);
        for step in 1..=6 {
            let moments = (&mut three.1[..], &mut three.2[..]);
            adamw(&Pool::new(3), &settings(step), &mut three.0, &gradient(step), moments);
        }
        assert!([three.0, three.1, three.2] == got, "three threads");
    }
}

#[test]
fn sums_of_squares() {
    for n in [0, 1, 15, 100_003] {
        let x = numbers(n, 20);
        let want: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let scalar = with_table(tables().last().unwrap(), || sum_of_squares(&Pool::new(1), &x));
        assert!((scalar - want).abs() <= 1e-12 * want, "{scalar}, not {want}");
        for table in tables() {
            for threads in [1, 2, 3] {
                let got = with_table(table, || sum_of_squares(&Pool::new(threads), &x));
                assert_eq!(got.to_bits(), scalar.to_bits(), "{} {threads} threads", table.name);
            }
        }
    }
}
