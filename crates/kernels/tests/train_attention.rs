//! Attention of training and its backward: against sums written out in f64, finite differences, every instruction set bit for bit, and with
//! any number of threads.
#![cfg(not(loom))]

use std::ops::Range;

use farthing_kernels::Pool;
use farthing_kernels::dispatch::{tables, with_table};
use farthing_kernels::training::{Packed, Precision, Shape, attention, attention_backward};

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

struct Case {
    shape: Shape,
    documents: Vec<Range<usize>>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    d_out: Vec<f32>,
}

/// What is computed: output, logarithms of sums, gradients of queries, keys and values.
type All<T> = [Vec<T>; 5];

impl Case {
    fn new(
        (heads, kv_heads, key, value): (usize, usize, usize, usize),
        window: Option<usize>,
        lengths: &[usize],
    ) -> Case {
        let mut at = 0;
        let document = |&n: &usize| {
            at += n;
            at - n..at
        };
        let documents: Vec<Range<usize>> = lengths.iter().map(document).collect();
        let n: usize = lengths.iter().sum();
        Case {
            shape: Shape { heads, kv_heads, key, value, scale: 1.5 / (key as f32).sqrt(), window },
            documents,
            q: numbers(n * heads * key, 1),
            k: numbers(n * kv_heads * key, 2),
            v: numbers(n * kv_heads * value, 3),
            d_out: numbers(n * heads * value, 4),
        }
    }

    fn compute(&self, pool: &Pool, precision: Precision) -> All<f32> {
        let x = Packed { q: &self.q, k: &self.k, v: &self.v, documents: &self.documents };
        let mut out = vec![f32::NAN; self.d_out.len()];
        let mut log_sums = vec![f32::NAN; self.q.len() / self.shape.key];
        attention(pool, precision, self.shape, x, (&mut out, &mut log_sums));
        let like = |x: &[f32]| vec![f32::NAN; x.len()];
        let (mut dq, mut dk, mut dv) = (like(&self.q), like(&self.k), like(&self.v));
        let grads = (&mut dq[..], &mut dk[..], &mut dv[..]);
        attention_backward(pool, precision, self.shape, x, (&out, &log_sums), &self.d_out, grads);
        [out, log_sums, dq, dk, dv]
    }

    /// The same in f64, written out.
    fn plain(&self) -> All<f64> {
        let Shape { heads, kv_heads, key, value, scale, window } = self.shape;
        let zeros = |x: &[f32]| vec![0f64; x.len()];
        let mut all =
            [zeros(&self.d_out), vec![0.0; self.q.len() / key], zeros(&self.q), zeros(&self.k), zeros(&self.v)];
        let [out, log_sums, dq, dk, dv] = &mut all;
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        for document in &self.documents {
            for t in document.clone() {
                for h in 0..heads {
                    let (at, kv) = (t * heads + h, h / (heads / kv_heads));
                    let first = window.map_or(document.start, |w| document.start.max((t + 1).saturating_sub(w)));
                    let q = &self.q[at * key..][..key];
                    let k = |s: usize| &self.k[(s * kv_heads + kv) * key..][..key];
                    let v = |s: usize| &self.v[(s * kv_heads + kv) * value..][..value];
                    let scores: Vec<f64> = (first..=t).map(|s| product(q, k(s)) * f64::from(scale)).collect();
                    log_sums[at] = scores.iter().map(|s| s.exp()).sum::<f64>().ln();
                    let weights: Vec<f64> = scores.iter().map(|s| (s - log_sums[at]).exp()).collect();
                    for (s, p) in (first..=t).zip(&weights) {
                        (0..value).for_each(|c| out[at * value + c] += p * f64::from(v(s)[c]));
                    }
                    let d = &self.d_out[at * value..][..value];
                    let delta: f64 = (0..value).map(|c| f64::from(d[c]) * out[at * value + c]).sum();
                    for (s, p) in (first..=t).zip(&weights) {
                        let ds = p * (product(d, v(s)) - delta) * f64::from(scale);
                        let of = s * kv_heads + kv;
                        (0..value).for_each(|c| dv[of * value + c] += p * f64::from(d[c]));
                        (0..key).for_each(|c| dk[of * key + c] += ds * f64::from(q[c]));
                        (0..key).for_each(|c| dq[at * key + c] += ds * f64::from(k(s)[c]));
                    }
                }
            }
        }
        all
    }
}

/// Documents that end within tiles, at their ends, with one token and none; wide and narrow heads, groups, windows.
fn cases() -> Vec<Case> {
    vec![
        Case::new((2, 2, 16, 16), None, &[1, 0, 2, 47, 48, 49, 64, 65]),
        Case::new((4, 2, 48, 32), None, &[130, 200, 7]),
        Case::new((3, 1, 20, 7), None, &[97, 16]),
        Case::new((2, 1, 8, 40), Some(1), &[70]),
        Case::new((2, 2, 24, 24), Some(50), &[300, 20]),
        Case::new((1, 1, 32, 16), None, &[450]),
        Case::new((2, 1, 16, 16), Some(100), &[420]),
        // The last query of a tile sees one key of the tile before.
        Case::new((1, 1, 16, 16), Some(34), &[300]),
        Case::new((8, 4, 16, 16), None, &[]),
    ]
}

const NAMES: [&str; 5] = ["out", "log_sums", "dq", "dk", "dv"];

/// Each precision with what its rounding may cost: bf16 has eight bits.
const PRECISIONS: [(Precision, f64); 2] = [(Precision::F32, 2e-6), (Precision::Bf16, 2e-2)];

#[test]
fn equals_sums_written_out() {
    for (case, (precision, bound)) in cases().iter().flat_map(|case| PRECISIONS.map(|p| (case, p))) {
        for (name, (got, want)) in NAMES.iter().zip(case.compute(&Pool::new(1), precision).iter().zip(&case.plain())) {
            let size = want.iter().fold(1.0, |a: f64, b| a.max(b.abs()));
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                let off = (f64::from(*got) - want).abs() / size;
                assert!(off < bound, "{:?} {precision:?} {name} {i}: {got}, not {want}", case.shape);
            }
        }
    }
}

/// A key that no query may see is far above all others: it must not be their largest, or nothing is left of them.
#[test]
fn keys_that_are_not_seen_have_no_say_in_the_scale() {
    let mut case = Case::new((1, 1, 16, 16), None, &[200]);
    case.shape.scale = 40.0;
    case.q.iter_mut().for_each(|q| *q = q.abs());
    case.k.iter_mut().for_each(|k| *k *= 0.1);
    case.k[48 * 16..][..16].fill(1.0);
    let (all, want) = (case.compute(&Pool::new(1), Precision::F32), case.plain());
    // Queries before the key, in its tile.
    for (i, (got, want)) in all[0][32 * 16..48 * 16].iter().zip(&want[0][32 * 16..]).enumerate() {
        assert!((f64::from(*got) - want).abs() < 1e-3, "{i}: {got}, not {want}");
    }
    assert!(all.iter().flatten().all(|x| x.is_finite()));
}

/// The f64 twin itself: its gradients are those of `sum(out * d_out)`.
#[test]
fn finite_differences() {
    let mut case = Case::new((2, 1, 6, 5), Some(4), &[5, 3]);
    let [_, _, dq, dk, dv] = case.compute(&Pool::new(1), Precision::F32);
    let loss = |case: &Case| -> f64 { case.plain()[0].iter().zip(&case.d_out).map(|(a, b)| a * f64::from(*b)).sum() };
    const STEP: f32 = 1.0 / 1024.0;
    for (which, gradient) in [dq, dk, dv].iter().enumerate() {
        for i in 0..gradient.len() {
            let mut ends = [0.0; 2];
            for (end, step) in ends.iter_mut().zip([STEP, -STEP]) {
                let of = |case: &mut Case| match which {
                    0 => case.q[i] += step,
                    1 => case.k[i] += step,
                    _ => case.v[i] += step,
                };
                let before = (case.q.clone(), case.k.clone(), case.v.clone());
                of(&mut case);
                *end = loss(&case);
                (case.q, case.k, case.v) = before;
            }
            let want = (ends[0] - ends[1]) / f64::from(2.0 * STEP);
            let got = f64::from(gradient[i]);
            assert!((got - want).abs() < 1e-4, "{} {i}: {got}, not {want}", NAMES[2 + which]);
        }
    }
}

fn bits(all: &All<f32>) -> Vec<u32> {
    all.iter().flatten().map(|x| x.to_bits()).collect()
}

#[test]
fn bits_do_not_depend_on_the_instruction_set() {
    let pool = Pool::new(1);
    for (case, (precision, _)) in cases().iter().flat_map(|case| PRECISIONS.map(|p| (case, p))) {
        let scalar = bits(&with_table(tables().last().unwrap(), || case.compute(&pool, precision)));
        for table in tables() {
            let got = bits(&with_table(table, || case.compute(&pool, precision)));
            assert!(got == scalar, "{} {precision:?} {:?}", table.name, case.shape);
        }
    }
}

/// With many threads the parts of a document are computed apart.
#[test]
fn bits_do_not_depend_on_threads() {
    for (case, (precision, _)) in cases().iter().flat_map(|case| PRECISIONS.map(|p| (case, p))) {
        let one = bits(&case.compute(&Pool::new(1), precision));
        for threads in [2, 3, 8] {
            let got = bits(&case.compute(&Pool::new(threads), precision));
            assert!(got == one, "{threads} threads {precision:?} {:?}", case.shape);
        }
    }
}

/// Nor on the documents beside one.
#[test]
fn bits_do_not_depend_on_company() {
    let together = Case::new((2, 1, 16, 16), None, &[100, 70]);
    let mut alone = Case::new((2, 1, 16, 16), None, &[70]);
    let tail = |x: &[f32]| x[x.len() / 17 * 10..].to_vec();
    (alone.q, alone.k) = (tail(&together.q), tail(&together.k));
    (alone.v, alone.d_out) = (tail(&together.v), tail(&together.d_out));
    let pool = Pool::new(1);
    for (precision, _) in PRECISIONS {
        let of_both = together.compute(&pool, precision).map(|x| tail(&x));
        assert!(bits(&of_both) == bits(&alone.compute(&pool, precision)), "{precision:?}");
    }
}
