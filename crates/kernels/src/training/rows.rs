//! The backward of single rows, the loss, and steps of the optimiser, over `Vectors`.

use std::ops::Range;

use crate::Pool;
use crate::dispatch::table;
use crate::vectors::Vectors;

/// Backward of `rms_norm`: `dx += d loss / d x`, `d_weight += d loss / d weight`, for one row whose output has the gradient `dy`.
///
/// # Panics
/// When shapes do not agree.
pub fn rms_norm_backward(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], d_weight: &mut [f32]) {
    let n = x.len();
    assert!(weight.len() == n && dy.len() == n && dx.len() == n && d_weight.len() == n);
    // SAFETY: the table holds only functions whose instruction set this processor has.
    unsafe { (table().rms_norm_backward)((x, weight, eps), dy, dx, d_weight) }
}

/// `out = silu(gate) * up`, of rows that have gates and ups side by side: `[rows, 2, width]`.
///
/// # Panics
/// When shapes do not agree.
pub fn silu_mul_rows(gate_up: &[f32], width: usize, out: &mut [f32]) {
    assert!(width > 0 && gate_up.len() == 2 * out.len() && out.len().is_multiple_of(width));
    // SAFETY: the table holds only functions whose instruction set this processor has.
    unsafe { (table().silu_mul_rows)(gate_up, width, out) }
}

/// `out[i]` is the dot product of row `i` of `a` and row `i` of `b`, which have `width` numbers.
///
/// # Panics
/// When shapes do not agree.
pub fn row_dots(a: &[f32], b: &[f32], width: usize, out: &mut [f32]) {
    assert!(width > 0 && a.len() == b.len() && a.len() == width * out.len());
    // SAFETY: the table holds only functions whose instruction set this processor has.
    unsafe { (table().dots)(a, b, width, out) }
}

/// Backward of `silu_mul_rows`: from the gradient of the result, those of gates and ups, in their places.
///
/// # Panics
/// When shapes do not agree.
pub fn silu_mul_backward(gate_up: &mut [f32], width: usize, d_hidden: &[f32]) {
    assert!(width > 0 && gate_up.len() == 2 * d_hidden.len() && d_hidden.len().is_multiple_of(width));
    // SAFETY: the table holds only functions whose instruction set this processor has.
    unsafe { (table().silu_mul_backward)(gate_up, width, d_hidden) }
}

/// Cross-entropy of one row: `logits` become `weight * d loss / d logits`; returns the loss in nats, `weight` not applied.
///
/// # Panics
/// When the target is no logit.
pub fn cross_entropy(logits: &mut [f32], target: usize, weight: f32) -> f32 {
    assert!(target < logits.len(), "the target is a logit");
    // SAFETY: the table holds only functions whose instruction set this processor has.
    unsafe { (table().cross_entropy)(logits, target, weight) }
}

/// A step of AdamW (arXiv 1711.05101).
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate.
    pub rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Weight decay, multiplied by the learning rate.
    pub decay: f32,
    /// Whether weights decay only where the step does not make them larger (arXiv 2510.12402).
    pub cautious: bool,
    /// Steps taken, this one included.
    pub step: u32,
    /// Factor of the gradient, for clipping.
    pub scale: f32,
}

/// Numbers that a thread takes at a time.
const CHUNK: usize = 1 << 14;

/// `weights`, and the moments `first` and `second` of their gradient, one step on, as `torch.optim.AdamW` computes it.
///
/// # Panics
/// When shapes do not agree.
pub fn adamw(
    pool: &Pool,
    settings: &AdamW,
    weights: &mut [f32],
    gradient: &[f32],
    (first, second): (&mut [f32], &mut [f32]),
) {
    let n = weights.len();
    assert!(gradient.len() == n && first.len() == n && second.len() == n);
    let moments = first.chunks_mut(CHUNK).zip(second.chunks_mut(CHUNK));
    let mut tasks: Vec<_> = weights.chunks_mut(CHUNK).zip(gradient.chunks(CHUNK)).zip(moments).collect();
    let table = table();
    pool.each(&mut tasks, |((weights, gradient), (first, second))| {
        // SAFETY: the table holds only functions whose instruction set this processor has.
        unsafe { (table.adamw)(settings, weights, gradient, (&mut *first, &mut *second)) }
    });
}

/// The sum of squares, in f64 and in an order that threads do not change.
pub fn sum_of_squares(pool: &Pool, x: &[f32]) -> f64 {
    let mut tasks: Vec<(&[f32], f64)> = x.chunks(CHUNK).map(|x| (x, 0.0)).collect();
    let table = table();
    pool.each(&mut tasks, |(x, sum)| {
        // SAFETY: the table holds only functions whose instruction set this processor has.
        *sum = unsafe { (table.sum_of_squares)(x) };
    });
    tasks.iter().map(|(_, sum)| sum).sum()
}

/// The parts of a row that vectors take.
#[inline(always)]
fn parts(n: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(16).map(move |from| from..n.min(from + 16))
}

#[inline(always)]
fn load<V: Vectors>(isa: V, x: &[f32]) -> V::F {
    if x.len() == 16 { isa.load(x) } else { isa.load_part(x) }
}

#[inline(always)]
fn store<V: Vectors>(isa: V, v: V::F, out: &mut [f32]) {
    if out.len() == 16 {
        return isa.store(v, out);
    }
    let mut lanes = [0f32; 16];
    isa.store(v, &mut lanes);
    out.copy_from_slice(&lanes[..out.len()]);
}

/// With `r` the factor of the norm: `dx += r * dy * weight - x * r^3 * mean(dy * weight * x)`, `d_weight += dy * x * r`.
#[inline(always)]
pub(crate) fn norm_backward<V: Vectors>(
    isa: V,
    (x, weight, eps): (&[f32], &[f32], f32),
    dy: &[f32],
    dx: &mut [f32],
    d_weight: &mut [f32],
) {
    let (mut squares, mut along) = (isa.splat(0.0), isa.splat(0.0));
    for at in parts(x.len()) {
        let v = load(isa, &x[at.clone()]);
        squares = isa.fma(v, v, squares);
        along = isa.fma(isa.mul(load(isa, &dy[at.clone()]), load(isa, &weight[at])), v, along);
    }
    let n = x.len() as f32;
    let factor = 1.0 / (isa.sum(squares) / n + eps).sqrt();
    let back = isa.splat(isa.sum(along) * factor * factor * factor / n);
    let factor = isa.splat(factor);
    for at in parts(x.len()) {
        let (x, d) = (load(isa, &x[at.clone()]), isa.mul(load(isa, &dy[at.clone()]), factor));
        let sum = isa.fma(d, load(isa, &weight[at.clone()]), load(isa, &dx[at.clone()]));
        store(isa, isa.fnma(x, back, sum), &mut dx[at.clone()]);
        store(isa, isa.fma(d, x, load(isa, &d_weight[at.clone()])), &mut d_weight[at]);
    }
}

/// See `silu_mul_rows`.
#[inline(always)]
pub(crate) fn gated<V: Vectors>(isa: V, gate_up: &[f32], width: usize, out: &mut [f32]) {
    let (zero, one) = (isa.splat(0.0), isa.splat(1.0));
    for (gate_up, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
        let (gate, up) = gate_up.split_at(width);
        for at in parts(width) {
            let (g, u) = (load(isa, &gate[at.clone()]), load(isa, &up[at.clone()]));
            let silu = isa.div(g, isa.add(one, isa.exp(isa.sub(zero, g))));
            store(isa, isa.mul(silu, u), &mut out[at]);
        }
    }
}

/// `gate = d * up * s * (1 + gate * (1 - s))`, `up = d * gate * s`, with `s` the sigmoid of the gate.
#[inline(always)]
pub(crate) fn gated_backward<V: Vectors>(isa: V, gate_up: &mut [f32], width: usize, d_hidden: &[f32]) {
    let (zero, one) = (isa.splat(0.0), isa.splat(1.0));
    for (gate_up, d) in gate_up.chunks_exact_mut(2 * width).zip(d_hidden.chunks_exact(width)) {
        let (gate, up) = gate_up.split_at_mut(width);
        for at in parts(width) {
            let (g, u, d) = (load(isa, &gate[at.clone()]), load(isa, &up[at.clone()]), load(isa, &d[at.clone()]));
            let s = isa.div(one, isa.add(one, isa.exp(isa.sub(zero, g))));
            let slope = isa.mul(s, isa.fma(g, isa.sub(one, s), one));
            store(isa, isa.mul(isa.mul(d, u), slope), &mut gate[at.clone()]);
            store(isa, isa.mul(d, isa.mul(g, s)), &mut up[at]);
        }
    }
}

/// See `cross_entropy`.
#[inline(always)]
pub(crate) fn loss<V: Vectors>(isa: V, logits: &mut [f32], target: usize, weight: f32) -> f32 {
    let mut max = f32::NEG_INFINITY;
    let mut most = isa.splat(max);
    for at in parts(logits.len()).filter(|at| at.len() == 16) {
        most = isa.max(isa.load(&logits[at]), most);
    }
    let mut lanes = [0f32; 16];
    isa.store(most, &mut lanes);
    for &x in lanes.iter().chain(logits.as_chunks::<16>().1) {
        max = if x > max { x } else { max };
    }
    let (wanted, top, mut sums) = (logits[target], isa.splat(max), isa.splat(0.0));
    for at in parts(logits.len()) {
        let v = isa.exp(isa.sub(load(isa, &logits[at.clone()]), top));
        store(isa, v, &mut logits[at.clone()]);
        sums = isa.add(sums, load(isa, &logits[at]));
    }
    let sum = f64::from(isa.sum(sums));
    let factor = isa.splat((f64::from(weight) / sum) as f32);
    for at in parts(logits.len()) {
        store(isa, isa.mul(load(isa, &logits[at.clone()]), factor), &mut logits[at]);
    }
    logits[target] -= weight;
    (sum.ln() + f64::from(max) - f64::from(wanted)) as f32
}

/// Plain Rust, number by number, which the compiler turns into vectors.
#[inline(always)]
pub(crate) fn step(settings: &AdamW, weights: &mut [f32], gradient: &[f32], (first, second): (&mut [f32], &mut [f32])) {
    let AdamW { rate, beta1, beta2, eps, decay, cautious, step, scale } = *settings;
    let power = |beta: f32| 1.0 - f64::from(beta).powf(f64::from(step));
    let (size, root) = ((f64::from(rate) / power(beta1)) as f32, power(beta2).sqrt() as f32);
    let kept = 1.0 - rate * decay;
    let moments = first.iter_mut().zip(second.iter_mut());
    for ((w, g), (m, v)) in weights.iter_mut().zip(gradient).zip(moments) {
        let g = g * scale;
        *m += (g - *m) * (1.0 - beta1);
        *v = *v * beta2 + g * g * (1.0 - beta2);
        let decays = !cautious || *m * *w >= 0.0;
        let held = if decays { *w * kept } else { *w };
        *w = held - size * (*m / (v.sqrt() / root + eps));
    }
}

/// See `sum_of_squares`.
#[inline(always)]
pub(crate) fn squares(x: &[f32]) -> f64 {
    let mut sums = [0f64; 16];
    let (whole, rest) = x.as_chunks::<16>();
    for x in whole {
        for i in 0..16 {
            sums[i] += f64::from(x[i]) * f64::from(x[i]);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(*x) * f64::from(*x);
    }
    sums.iter().sum()
}
