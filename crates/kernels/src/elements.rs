//! Functions of single rows, over `Vectors`.

use crate::vectors::Vectors;

#[inline(always)]
fn zip_map<V: Vectors>(isa: V, x: &mut [f32], y: &[f32], f: impl Fn(V::F, V::F) -> V::F) {
    let mut xs = x.chunks_exact_mut(16);
    let mut ys = y.chunks_exact(16);
    for (x, y) in (&mut xs).zip(&mut ys) {
        isa.store(f(isa.load(x), isa.load(y)), x);
    }
    let (x, y) = (xs.into_remainder(), ys.remainder());
    if !x.is_empty() {
        let mut lanes = [0f32; 16];
        isa.store(f(isa.load_part(x), isa.load_part(y)), &mut lanes);
        x.copy_from_slice(&lanes[..x.len()]);
    }
}

/// `out = x / sqrt(mean(x^2) + eps) * weight`
#[inline(always)]
pub fn rms_norm<V: Vectors>(isa: V, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let ((xs, x_rest), (weights, weight_rest)) = (x.as_chunks::<16>(), weight.as_chunks::<16>());
    let (outs, out_rest) = out.as_chunks_mut::<16>();
    let mut squares = isa.splat(0.0);
    for x in xs {
        let v = isa.load(x);
        squares = isa.fma(v, v, squares);
    }
    // Parts of vectors are slow on some processors.
    let v = if x_rest.is_empty() { isa.splat(0.0) } else { isa.load_part(x_rest) };
    squares = isa.fma(v, v, squares);
    let factor = isa.splat(1.0 / (isa.sum(squares) / x.len() as f32 + eps).sqrt());
    for ((x, weight), out) in xs.iter().zip(weights).zip(outs) {
        isa.store(isa.mul(isa.mul(isa.load(x), factor), isa.load(weight)), out);
    }
    if !out_rest.is_empty() {
        let mut lanes = [0f32; 16];
        isa.store(isa.mul(isa.mul(v, factor), isa.load_part(weight_rest)), &mut lanes);
        out_rest.copy_from_slice(&lanes[..out_rest.len()]);
    }
}

/// `gate = gate / (1 + e^-gate) * up`
#[inline(always)]
pub fn silu_mul<V: Vectors>(isa: V, gate: &mut [f32], up: &[f32]) {
    let (zero, one) = (isa.splat(0.0), isa.splat(1.0));
    zip_map::<V>(
        isa,
        gate,
        up,
        #[inline(always)]
        |g, u| isa.mul(isa.div(g, isa.add(one, isa.exp(isa.sub(zero, g)))), u),
    );
}

/// `x = 1 / (1 + e^-x)`
#[inline(always)]
pub fn sigmoid<V: Vectors>(isa: V, x: &mut [f32]) {
    let (zero, one) = (isa.splat(0.0), isa.splat(1.0));
    for chunk in x.chunks_mut(16) {
        let mut lanes = [0f32; 16];
        isa.store(isa.div(one, isa.add(one, isa.exp(isa.sub(zero, isa.load_part(chunk))))), &mut lanes);
        chunk.copy_from_slice(&lanes[..chunk.len()]);
    }
}

/// `x = e^(x - max) / sum`
#[inline(always)]
pub fn softmax<V: Vectors>(isa: V, x: &mut [f32]) {
    let mut max = f32::NEG_INFINITY;
    for &x in x.iter() {
        max = if x > max { x } else { max };
    }
    let mut total = isa.splat(0.0);
    for chunk in x.chunks_mut(16) {
        let mut lanes = [0f32; 16];
        isa.store(isa.exp(isa.sub(isa.load_part(chunk), isa.splat(max))), &mut lanes);
        chunk.copy_from_slice(&lanes[..chunk.len()]);
        total = isa.add(total, isa.load_part(chunk));
    }
    let total = isa.sum(total);
    for x in x.iter_mut() {
        *x /= total;
    }
}

/// `out += a * x`
#[inline(always)]
pub fn add_scaled<V: Vectors>(isa: V, out: &mut [f32], x: &[f32], a: f32) {
    let a = isa.splat(a);
    zip_map::<V>(
        isa,
        out,
        x,
        #[inline(always)]
        |o, x| isa.fma(a, x, o),
    );
}

/// Pairs that lie side by side, turned; enough of them at once for the compiler to make vectors.
#[inline(always)]
pub fn rotate_interleaved(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    #[inline(always)]
    fn turn<'a>(pairs: impl Iterator<Item = (&'a mut [f32; 2], (&'a f32, &'a f32))>) {
        for (pair, (c, s)) in pairs {
            *pair = [pair[0] * c - pair[1] * s, pair[0] * s + pair[1] * c];
        }
    }
    let (eights, rest) = x.as_chunks_mut::<16>();
    let ((cosines, cos), (sines, sin)) = (cos.as_chunks::<8>(), sin.as_chunks::<8>());
    for ((x, cos), sin) in eights.iter_mut().zip(cosines).zip(sines) {
        turn(x.as_chunks_mut::<2>().0.iter_mut().zip(cos.iter().zip(sin)));
    }
    turn(rest.as_chunks_mut::<2>().0.iter_mut().zip(cos.iter().zip(sin)));
}

/// The pairs of two halves, turned.
#[inline(always)]
pub fn rotate_halves(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = x.split_at_mut(cos.len());
    for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
    }
}
