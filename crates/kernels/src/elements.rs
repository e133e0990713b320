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
    // Masked loads are slow on some processors.
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

/// See `crate::rotate_interleaved`.
#[inline(always)]
pub fn rotate_interleaved<V: Vectors>(isa: V, x: &mut [f32], stride: usize, cos: &[f32], sin: &[f32]) {
    let ((cosines, cos_rest), (sines, sin_rest)) = (cos.as_chunks::<8>(), sin.as_chunks::<8>());
    for (i, (cos, sin)) in cosines.iter().zip(sines).enumerate() {
        // (a, b) to (a c + b (-s), b c + a s): as they are subtracted and added one by one.
        let (mut c, mut s) = ([0f32; 16], [0f32; 16]);
        for pair in 0..8 {
            (c[2 * pair], c[2 * pair + 1]) = (cos[pair], cos[pair]);
            (s[2 * pair], s[2 * pair + 1]) = (-sin[pair], sin[pair]);
        }
        let (c, s) = (isa.load(&c), isa.load(&s));
        for head in x.chunks_mut(stride) {
            let pairs = &mut head[16 * i..][..16];
            let v = isa.load(pairs);
            isa.store(isa.add(isa.mul(v, c), isa.mul(isa.swap_pairs(v), s)), pairs);
        }
    }
    if !cos_rest.is_empty() {
        for head in x.chunks_mut(stride) {
            let pairs = head[16 * cosines.len()..].as_chunks_mut::<2>().0;
            for ((pair, c), s) in pairs.iter_mut().zip(cos_rest).zip(sin_rest) {
                *pair = [pair[0] * c - pair[1] * s, pair[0] * s + pair[1] * c];
            }
        }
    }
}

/// See `crate::rotate_halves`.
#[inline(always)]
pub fn rotate_halves<V: Vectors>(isa: V, x: &mut [f32], stride: usize, cos: &[f32], sin: &[f32]) {
    let (half, whole) = (cos.len(), cos.len() / 16 * 16);
    for head in x.chunks_mut(stride) {
        let (low, high) = head.split_at_mut(half);
        for at in (0..whole).step_by(16) {
            let (low, high) = (&mut low[at..][..16], &mut high[at..][..16]);
            let (a, b, c, s) = (isa.load(low), isa.load(high), isa.load(&cos[at..]), isa.load(&sin[at..]));
            isa.store(isa.sub(isa.mul(a, c), isa.mul(b, s)), low);
            isa.store(isa.add(isa.mul(a, s), isa.mul(b, c)), high);
        }
        let angles = cos[whole..].iter().zip(&sin[whole..]);
        for ((a, b), (c, s)) in low[whole..].iter_mut().zip(&mut high[whole..]).zip(angles) {
            (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
        }
    }
}
