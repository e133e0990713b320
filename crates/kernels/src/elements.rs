//! Functions of single rows, over `Vectors`.

use crate::vectors::Vectors;

#[inline(always)]
fn zip_map<V: Vectors>(x: &mut [f32], y: &[f32], f: impl Fn(V::F, V::F) -> V::F) {
    let mut xs = x.chunks_exact_mut(16);
    let mut ys = y.chunks_exact(16);
    for (x, y) in (&mut xs).zip(&mut ys) {
        V::store(f(V::load(x), V::load(y)), x);
    }
    let (x, y) = (xs.into_remainder(), ys.remainder());
    if !x.is_empty() {
        let mut lanes = [0f32; 16];
        V::store(f(V::load_part(x), V::load_part(y)), &mut lanes);
        x.copy_from_slice(&lanes[..x.len()]);
    }
}

/// `out = x / sqrt(mean(x^2) + eps) * weight`
#[inline(always)]
pub fn rms_norm<V: Vectors>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut squares = V::splat(0.0);
    for chunk in x.chunks(16) {
        let v = V::load_part(chunk);
        squares = V::fma(v, v, squares);
    }
    let factor = V::splat(1.0 / (V::sum(squares) / x.len() as f32 + eps).sqrt());
    out.copy_from_slice(x);
    zip_map::<V>(
        out,
        weight,
        #[inline(always)]
        |x, w| V::mul(V::mul(x, factor), w),
    );
}

/// `gate = gate / (1 + e^-gate) * up`
#[inline(always)]
pub fn silu_mul<V: Vectors>(gate: &mut [f32], up: &[f32]) {
    let (zero, one) = (V::splat(0.0), V::splat(1.0));
    zip_map::<V>(
        gate,
        up,
        #[inline(always)]
        |g, u| V::mul(V::div(g, V::add(one, V::exp(V::sub(zero, g)))), u),
    );
}

/// `x = 1 / (1 + e^-x)`
#[inline(always)]
pub fn sigmoid<V: Vectors>(x: &mut [f32]) {
    let (zero, one) = (V::splat(0.0), V::splat(1.0));
    for chunk in x.chunks_mut(16) {
        let mut lanes = [0f32; 16];
        V::store(V::div(one, V::add(one, V::exp(V::sub(zero, V::load_part(chunk))))), &mut lanes);
        chunk.copy_from_slice(&lanes[..chunk.len()]);
    }
}

/// `x = e^(x - max) / sum`
#[inline(always)]
pub fn softmax<V: Vectors>(x: &mut [f32]) {
    let mut max = f32::NEG_INFINITY;
    for &x in x.iter() {
        max = if x > max { x } else { max };
    }
    let mut total = V::splat(0.0);
    for chunk in x.chunks_mut(16) {
        let mut lanes = [0f32; 16];
        V::store(V::exp(V::sub(V::load_part(chunk), V::splat(max))), &mut lanes);
        chunk.copy_from_slice(&lanes[..chunk.len()]);
        total = V::add(total, V::load_part(chunk));
    }
    let total = V::sum(total);
    for x in x.iter_mut() {
        *x /= total;
    }
}

/// `out += a * x`
#[inline(always)]
pub fn add_scaled<V: Vectors>(out: &mut [f32], x: &[f32], a: f32) {
    let a = V::splat(a);
    zip_map::<V>(
        out,
        x,
        #[inline(always)]
        |o, x| V::fma(a, x, o),
    );
}
