//! Attention over one page of keys, as a running softmax. A page's part is computed from scratch and then merged,
//! so that states of separate pages can be computed apart and merged in order with the same bits.

use crate::vectors::{Vectors, array};
use crate::{Attended, Keys, Numbers, PAGE_MAX};

/// Heads and widths of an attention call.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Query heads that share the keys.
    pub heads: usize,
    /// Width of a query and a key.
    pub key: usize,
    /// Width of a value.
    pub value: usize,
    /// Factor on scores.
    pub scale: f32,
}

#[inline(always)]
fn at<V: Vectors>(x: Numbers, from: usize, len: usize) -> V::F {
    match x {
        Numbers::F32(x) if len == 16 => V::load(&x[from..from + 16]),
        Numbers::F32(x) => V::load_part(&x[from..from + len]),
        Numbers::Bf16(x) if len == 16 => V::load_bf16(&x[from..from + 16]),
        Numbers::Bf16(x) => {
            let mut part = [0u16; 16];
            part[..len].copy_from_slice(&x[from..from + len]);
            V::load_bf16(&part)
        }
    }
}

/// Scores of `H` heads against `K` keys.
#[inline(always)]
fn scores<V: Vectors, const H: usize, const K: usize>(
    q: &[f32],
    shape: Shape,
    keys: &Keys,
    h: usize,
    k: usize,
    out: &mut [f32],
) {
    let d = shape.key;
    let mut acc = [[V::splat(0.0); K]; H];
    let mut i = 0;
    while i < d {
        let len = 16.min(d - i);
        let kv: [V::F; K] = array!(K, b, at::<V>(keys.keys, (k + b) * keys.key_stride + i, len));
        for (a, acc) in acc.iter_mut().enumerate() {
            let qv = at::<V>(Numbers::F32(q), (h + a) * d + i, len);
            for b in 0..K {
                acc[b] = V::fma(qv, kv[b], acc[b]);
            }
        }
        i += len;
    }
    for a in 0..H {
        for b in 0..K {
            out[(h + a) * PAGE_MAX + k + b] = V::sum(acc[a][b]) * shape.scale;
        }
    }
}

/// Weighted sum of values for `H` heads.
#[inline(always)]
fn values<V: Vectors, const H: usize>(p: &[f32], shape: Shape, keys: &Keys, h: usize, part: &mut [f32]) {
    let d = shape.value;
    let mut c = 0;
    while c < d {
        let vectors = if c + 64 <= d { 4 } else { 1 };
        let len = 16.min(d - c);
        if vectors == 4 {
            let mut acc = [[V::splat(0.0); 4]; H];
            for k in 0..keys.count {
                let from = k * keys.value_stride + c;
                let v: [V::F; 4] = array!(4, b, at::<V>(keys.values, from + 16 * b, 16));
                for (a, acc) in acc.iter_mut().enumerate() {
                    let weight = V::splat(p[(h + a) * PAGE_MAX + k]);
                    for b in 0..4 {
                        acc[b] = V::fma(weight, v[b], acc[b]);
                    }
                }
            }
            for (a, acc) in acc.into_iter().enumerate() {
                for (b, v) in acc.into_iter().enumerate() {
                    V::store(v, &mut part[a * d + c + 16 * b..]);
                }
            }
            c += 64;
        } else {
            let mut acc = [V::splat(0.0); H];
            for k in 0..keys.count {
                let v = at::<V>(keys.values, k * keys.value_stride + c, len);
                for (a, acc) in acc.iter_mut().enumerate() {
                    *acc = V::fma(V::splat(p[(h + a) * PAGE_MAX + k]), v, *acc);
                }
            }
            for (a, v) in acc.into_iter().enumerate() {
                let mut lanes = [0f32; 16];
                V::store(v, &mut lanes);
                part[a * d + c..a * d + c + len].copy_from_slice(&lanes[..len]);
            }
            c += len;
        }
    }
}

/// Attend to one page and merge it into `state`.
#[inline(always)]
pub fn attend<V: Vectors>(q: &[f32], shape: Shape, keys: &Keys, state: &mut Attended) {
    thread_local! {
        // Taken out while in use: a closure around a kernel would be compiled without its instruction set.
        static BUFFER: std::cell::Cell<Vec<f32>> = const { std::cell::Cell::new(Vec::new()) };
    }
    let mut buffer = BUFFER.take();
    let (heads, d) = (shape.heads, shape.value);
    let needed = heads * PAGE_MAX + 4 * d;
    if buffer.len() < needed {
        buffer.resize(needed, 0.0);
    }
    let (p, part) = buffer.split_at_mut(heads * PAGE_MAX);
    let mut h = 0;
    while h < heads {
        let four = h + 4 <= heads;
        let mut k = 0;
        while k < keys.count {
            let wide = k + 4 <= keys.count;
            match (four, wide) {
                (true, true) => scores::<V, 4, 4>(q, shape, keys, h, k, p),
                (true, false) => scores::<V, 4, 1>(q, shape, keys, h, k, p),
                (false, true) => scores::<V, 1, 4>(q, shape, keys, h, k, p),
                (false, false) => scores::<V, 1, 1>(q, shape, keys, h, k, p),
            }
            k += if wide { 4 } else { 1 };
        }
        let group = if four { 4 } else { 1 };
        let mut top = [(0f32, 0f32); 4];
        for (a, top) in top[..group].iter_mut().enumerate() {
            let row = &mut p[(h + a) * PAGE_MAX..(h + a) * PAGE_MAX + PAGE_MAX];
            *top = soften::<V>(&mut row[..keys.count]);
        }
        if four {
            values::<V, 4>(p, shape, keys, h, part)
        } else {
            values::<V, 1>(p, shape, keys, h, part)
        }
        for (a, &(max, sum)) in top[..group].iter().enumerate() {
            let acc = &mut state.acc[(h + a) * d..(h + a + 1) * d];
            merge_head::<V>(max, sum, &part[a * d..(a + 1) * d], &mut state.max[h + a], &mut state.sum[h + a], acc);
        }
        h += group;
    }
    BUFFER.set(buffer);
}

/// Scores to `e^(x - max)`; the maximum and the sum.
#[inline(always)]
fn soften<V: Vectors>(x: &mut [f32]) -> (f32, f32) {
    let mut max = f32::NEG_INFINITY;
    for &x in x.iter() {
        max = if x > max { x } else { max };
    }
    let mut total = V::splat(0.0);
    for chunk in x.chunks_mut(16) {
        let e = V::exp(V::sub(V::load_part(chunk), V::splat(max)));
        let mut lanes = [0f32; 16];
        V::store(e, &mut lanes);
        chunk.copy_from_slice(&lanes[..chunk.len()]);
        total = V::add(total, V::load_part(chunk));
    }
    (max, V::sum(total))
}

#[inline(always)]
fn merge_head<V: Vectors>(max: f32, sum: f32, part: &[f32], into_max: &mut f32, into_sum: &mut f32, into: &mut [f32]) {
    if max == f32::NEG_INFINITY && sum == 0.0 {
        return; // no key was seen
    }
    let top = if max > *into_max { max } else { *into_max };
    let mut factors = [0f32; 16];
    V::store(V::exp(V::sub(V::load_part(&[*into_max, max]), V::splat(top))), &mut factors);
    let (old, new) = (factors[0], factors[1]);
    *into_sum = sum.mul_add(new, *into_sum * old);
    let (old, new) = (V::splat(old), V::splat(new));
    for (into, part) in into.chunks_mut(16).zip(part.chunks(16)) {
        let merged = V::fma(V::load_part(part), new, V::mul(V::load_part(into), old));
        let mut lanes = [0f32; 16];
        V::store(merged, &mut lanes);
        into.copy_from_slice(&lanes[..into.len()]);
    }
    *into_max = top;
}

/// Merge the state `(max, sum, acc)` of later pages into `state`.
#[inline(always)]
pub fn merge<V: Vectors>(heads: usize, value: usize, from: (&[f32], &[f32], &[f32]), state: &mut Attended) {
    for h in 0..heads {
        let acc = &mut state.acc[h * value..(h + 1) * value];
        let part = &from.2[h * value..(h + 1) * value];
        merge_head::<V>(from.0[h], from.1[h], part, &mut state.max[h], &mut state.sum[h], acc);
    }
}
