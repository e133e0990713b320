//! What attention in fixed point loses, beside what a cache of bfloat16 loses: keys and values as they come from models, with softmaxes
//! from flat to peaked and with channels that are twenty times the others.

use farthing_kernels::*;

/// Sums of twelve uniform numbers: nearly normal, and the same everywhere.
struct Normal(u64);

impl Normal {
    fn next(&mut self) -> f32 {
        let mut uniform = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..12).map(|_| uniform()).sum::<f32>() - 6.0
    }
}

struct Case {
    key: usize,
    value: usize,
    within: bool,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    scale: f32,
}

const HEADS: usize = 16;
const COUNT: usize = 256;

impl Case {
    /// `spread` is the scores' deviation, `outliers` the size of every 97th channel, `mean` what all values share.
    fn new(within: bool, spread: f32, outliers: f32, mean: f32, seed: u64) -> Case {
        let (key, value) = if within { (576, 512) } else { (192, 128) };
        let mut normal = Normal(seed);
        let mut rows = |n: usize, width: usize, mean: f32| {
            let channel = |i: usize| if i % width % 97 == 13 { outliers } else { 1.0 };
            (0..n * width).map(|i| mean + normal.next() * channel(i)).collect::<Vec<f32>>()
        };
        let (q, k) = (rows(HEADS, key, 0.0), rows(COUNT, key, mean));
        let v = if within { k.clone() } else { rows(COUNT, value, mean) };
        let size: f32 = (0..key).map(|i| if i % 97 == 13 { outliers.powi(4) } else { 1.0 }).sum();
        Case { key, value, within, q, k, v, scale: spread / size.sqrt() }
    }

    fn value_stride(&self) -> usize {
        if self.within { self.key } else { self.value }
    }

    /// In f64, of keys and values as `seen`.
    fn exact(&self, seen: impl Fn(f32) -> f32) -> Vec<f64> {
        let mut out = Vec::new();
        for q in self.q.chunks(self.key) {
            let score = |k: &[f32]| k.iter().zip(q).map(|(&k, &q)| seen(k) as f64 * q as f64).sum::<f64>();
            let scores: Vec<f64> = self.k.chunks(self.key).map(|k| score(k) * self.scale as f64).collect();
            let top = scores.iter().fold(f64::MIN, |a, &b| a.max(b));
            let weights: Vec<f64> = scores.iter().map(|x| (x - top).exp()).collect();
            let total: f64 = weights.iter().sum();
            out.extend((0..self.value).map(|j| {
                let at = |i: usize| seen(self.v[i * self.value_stride() + j]) as f64;
                (0..COUNT).map(|i| weights[i] * at(i)).sum::<f64>() / total
            }));
        }
        out
    }

    fn fixed(&self) -> Vec<f32> {
        let shape = Shape { heads: HEADS, key: self.key, value: self.value, scale: self.scale };
        let (mut max, mut sum) = (vec![f32::NEG_INFINITY; HEADS], vec![0f32; HEADS]);
        let mut acc = vec![0f32; HEADS * self.value];
        let mut state = Attended { max: &mut max, sum: &mut sum, acc: &mut acc };
        let values = if self.within { &self.k } else { &self.v };
        let pages = (0..COUNT).step_by(64).map(|at| Keys {
            keys: Numbers::F32(&self.k[at * self.key..]),
            key_stride: self.key,
            values: Numbers::F32(&values[at * self.value_stride()..]),
            value_stride: self.value_stride(),
            count: 64,
            first_sees: Keys::ALL,
            next: None,
        });
        attend_fixed(Queries::one(&self.q, HEADS), shape, pages, &mut state);
        attend_finish(HEADS, self.value, &mut state);
        acc
    }
}

fn root_mean_square(x: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = x.len() as f64;
    (x.map(|x| x * x).sum::<f64>() / n).sqrt()
}

fn bfloat16(x: f32) -> f32 {
    let (mut half, mut back) = ([0u16], [0f32]);
    f32_to_bf16(&[x], &mut half);
    bf16_to_f32(&half, &mut back);
    back[0]
}

#[test]
fn fixed_point_loses_less_than_a_cache_of_bfloat16() {
    for (i, (outliers, mean)) in [(1.0, 0.0), (1.0, 1.0), (20.0, 0.0)].into_iter().enumerate() {
        for within in [true, false] {
            for spread in [0.1, 1.0, 3.0, 10.0, 40.0] {
                let case = Case::new(within, spread, outliers, mean, i as u64);
                let exact = case.exact(|x| x);
                let size = root_mean_square(exact.iter().copied());
                let halves = case.exact(bfloat16);
                let lost = |x: f64| x / size;
                let of_halves = lost(root_mean_square(halves.iter().zip(&exact).map(|(a, b)| a - b)));
                let of_fixed = lost(root_mean_square(case.fixed().iter().zip(&exact).map(|(&a, b)| a as f64 - b)));
                println!(
                    "outliers {outliers:2} mean {mean} within {within:5} spread {spread:4}: bf16 {of_halves:.1e} fixed {of_fixed:.1e}"
                );
                assert!(
                    of_fixed < of_halves,
                    "outliers {outliers} mean {mean} within {within} spread {spread}: {of_fixed} {of_halves}"
                );
            }
        }
    }
}
