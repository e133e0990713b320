//! Attention over whole documents that are packed into one row of tokens, and its backward, without the matrix of scores in memory
//! (arXiv 2307.08691: scores are computed again from the logarithms of their sums).

use std::ops::Range;

use crate::Pool;

/// Sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a query and a key.
    pub key: usize,
    /// Width of a value.
    pub value: usize,
    /// Factor of scores.
    pub scale: f32,
    /// Keys that a token may see, itself included; `None`: all of its document.
    pub window: Option<usize>,
}

/// Queries, keys and values of tokens in a row.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    /// `[tokens, heads, key]`
    pub q: &'a [f32],
    /// `[tokens, kv_heads, key]`
    pub k: &'a [f32],
    /// `[tokens, kv_heads, value]`
    pub v: &'a [f32],
    /// Which tokens are of one document: a token sees those before it in its own.
    pub documents: &'a [Range<usize>],
}

impl Shape {
    fn first(&self, document: &Range<usize>, token: usize) -> usize {
        self.window.map_or(document.start, |w| document.start.max((token + 1).saturating_sub(w)))
    }

    fn check(&self, x: &Packed) -> usize {
        let tokens = x.q.len() / (self.heads * self.key);
        assert!(self.heads.is_multiple_of(self.kv_heads) && x.q.len() == tokens * self.heads * self.key);
        assert!(x.k.len() == tokens * self.kv_heads * self.key && x.v.len() == tokens * self.kv_heads * self.value);
        let mut at = 0;
        for document in x.documents {
            assert!(document.start == at && document.end >= at, "documents one after the other");
            at = document.end;
        }
        assert_eq!(at, tokens, "documents of all tokens");
        tokens
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |sum, (a, b)| a.mul_add(*b, sum))
}

/// `out[tokens, heads, value]`, and of every query the logarithm of its sum of exponentials: `log_sums[tokens, heads]`.
///
/// # Panics
/// When shapes do not agree.
pub fn attention(pool: &Pool, shape: Shape, x: Packed<'_>, out: &mut [f32], log_sums: &mut [f32]) {
    let tokens = shape.check(&x);
    let Shape { heads, kv_heads, key, value, scale, .. } = shape;
    assert!(out.len() == tokens * heads * value && log_sums.len() == tokens * heads);
    let of: Vec<&Range<usize>> = x.documents.iter().flat_map(|d| d.clone().map(move |_| d)).collect();
    let mut rows: Vec<_> = out.chunks_mut(heads * value).zip(log_sums.chunks_mut(heads)).enumerate().collect();
    pool.each(&mut rows, |(t, (out, log_sums))| {
        out.fill(0.0);
        for h in 0..heads {
            let kv = h / (heads / kv_heads);
            let seen = shape.first(of[*t], *t)..*t + 1;
            let q = &x.q[(*t * heads + h) * key..][..key];
            let scores: Vec<f32> =
                seen.clone().map(|s| scale * dot(q, &x.k[(s * kv_heads + kv) * key..][..key])).collect();
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = scores.iter().map(|s| (s - max).exp()).sum();
            log_sums[h] = max + sum.ln();
            for (s, score) in seen.zip(scores) {
                let p = (score - log_sums[h]).exp();
                crate::add_scaled(&mut out[h * value..][..value], &x.v[(s * kv_heads + kv) * value..][..value], p);
            }
        }
    });
}

/// Gradients of queries, keys and values from that of the output; all are overwritten. `out` and `log_sums` are what `attention` gave.
///
/// # Panics
/// When shapes do not agree.
pub fn attention_backward(
    pool: &Pool,
    shape: Shape,
    x: Packed<'_>,
    (out, log_sums): (&[f32], &[f32]),
    d_out: &[f32],
    (dq, dk, dv): (&mut [f32], &mut [f32], &mut [f32]),
) {
    let tokens = shape.check(&x);
    let Shape { heads, kv_heads, key, value, scale, .. } = shape;
    assert!(out.len() == tokens * heads * value && log_sums.len() == tokens * heads && d_out.len() == out.len());
    assert!(dq.len() == x.q.len() && dk.len() == x.k.len() && dv.len() == x.v.len());
    dq.fill(0.0);
    dk.fill(0.0);
    dv.fill(0.0);
    let _ = pool;
    for document in x.documents {
        for t in document.clone() {
            for h in 0..heads {
                let kv = h / (heads / kv_heads);
                let at = t * heads + h;
                let (q, d_row) = (&x.q[at * key..][..key], &d_out[at * value..][..value]);
                let delta = dot(d_row, &out[at * value..][..value]);
                for s in shape.first(document, t)..t + 1 {
                    let from = s * kv_heads + kv;
                    let (k, v) = (&x.k[from * key..][..key], &x.v[from * value..][..value]);
                    let p = (scale * dot(q, k) - log_sums[at]).exp();
                    let ds = p * (dot(d_row, v) - delta) * scale;
                    crate::add_scaled(&mut dv[from * value..][..value], d_row, p);
                    crate::add_scaled(&mut dq[at * key..][..key], k, ds);
                    crate::add_scaled(&mut dk[from * key..][..key], q, ds);
                }
            }
        }
    }
}
