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
    let mut squares = isa.splat(0.0);
    for chunk in x.chunks(16) {
        let v = isa.load_part(chunk);
        squares = isa.fma(v, v, squares);
    }
    let factor = isa.splat(1.0 / (isa.sum(squares) / x.len() as f32 + eps).sqrt());
    out.copy_from_slice(x);
    zip_map::<V>(
        isa,
        out,
        weight,
        #[inline(always)]
        |x, w| isa.mul(isa.mul(x, factor), w),
    );
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
