//! Multi-head latent attention (arXiv 2405.04434, section 2.1): one latent and one rotary key per token are cached, for all heads.
//!
//! Absorbed: queries are moved into latent space, all heads share one read of a latent. Expanded: keys and values are rebuilt from
//! latents, page by page, for less arithmetic per pair. Which one a token gets follows from its place in its prompt alone; whether it is
//! computed in f32 or in fixed point from the cache's format.

use std::any::Any;

use kernels::{
    Attended, Keys, Numbers, Pool, Product, Quantized, Queries, Rows, Shape, Transposed, attend_fixed, matmul,
    matmul_transposed,
};

use super::mla::{Mla, MlaExpansion, MlaLayer, MlaQuery};
use super::paged::{Query, SPLIT, SeenPositions, SplitPart, attend_paged, rows_together};
use super::{AttentionLayer, Call, Form, each_row, places, project, project_input, sized};
use crate::batch::Span;
use crate::cache::{Cache, PAGE, RowsOf};
use crate::weight::{Linear, Weight, prepare};

/// Pages expanded at a time.
const EXPANDED_PAGES: usize = 4;

/// Heads of a query that read latents together, where `pieces` queries and splits can run at once. Few pieces are cut into fewer heads, so
/// that one decoded token has work for all threads, but no further: packing a page is as much work as several heads. A head's bits do
/// not depend on its company.
fn heads_together(heads: usize, pieces: usize, threads: usize) -> usize {
    let whole = |&t: &usize| heads.is_multiple_of(t) && t.is_multiple_of(4);
    let least = if heads.is_multiple_of(4) { 4 } else { heads };
    (least..=heads).rev().filter(whole).find(|t| pieces * (heads / t) >= threads).unwrap_or(least)
}

/// Queries of a head that run together in the expanded form.
const TOGETHER: usize = 128;

/// Rows at the span's start that take the expanded form.
fn expanded_rows(span: &Span, form: Form) -> usize {
    let end = match form {
        Form::ByPlace => super::expanded_prompt(span.prompt),
        Form::Absorbed => 0,
        Form::Expanded => usize::MAX,
    };
    end.saturating_sub(span.position).min(span.len)
}

/// Buffers of latent attention; see `super::Buffers`.
#[derive(Default)]
pub struct Buffers {
    /// Latents and rotary keys of the rows, as they come and as they are cached.
    entries: [Vec<f32>; 2],
    /// Compressed queries, as they come and normed.
    low: [Vec<f32>; 2],
    absorbed: Absorbed,
    expanded: Expanded,
}

/// `[heads][rows]`, but for the queries.
#[derive(Default)]
struct Absorbed {
    nope: Vec<f32>,
    moved: Vec<f32>,
    /// `[rows][heads]`
    queries: Vec<f32>,
    mixed: Vec<f32>,
    values: Vec<f32>,
}

/// `[heads][queries]` of the running softmax, `[heads][positions]` of what is rebuilt, `[positions]` of what it is rebuilt from.
#[derive(Default)]
struct Expanded {
    max: Vec<f32>,
    sum: Vec<f32>,
    acc: Vec<f32>,
    latents: Vec<f32>,
    rotary: Vec<f32>,
    nope: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// A layer as both forms see it, once its entries are in the cache.
struct LatentLayer<'a> {
    pool: &'a Pool,
    shape: &'a Mla,
    kv_b: &'a MlaExpansion,
    /// Queries of all rows, rotated: `[rows, heads, nope + rope]`.
    qs: &'a [f32],
    cached: RowsOf<'a>,
}

impl AttentionLayer for MlaLayer {
    fn is_of(&self, kind: &dyn Any) -> bool {
        kind.downcast_ref() == Some(&self.shape)
    }

    fn inputs(&self) -> Vec<&Weight> {
        let (MlaQuery::Direct(first) | MlaQuery::Compressed { a: first, .. }) = &self.q;
        vec![&first.weight, &self.kv_a.weight]
    }

    fn out(&self) -> &Linear {
        &self.out
    }

    fn matrices(&mut self) -> Vec<&mut Weight> {
        let mut all = match &mut self.q {
            MlaQuery::Direct(q) => vec![&mut q.weight],
            MlaQuery::Compressed { a, b, .. } => vec![&mut a.weight, &mut b.weight],
        };
        let (MlaExpansion::Joint { k, v } | MlaExpansion::Split { k_transposed: k, v }) = &mut self.kv_b;
        all.extend(k.iter_mut().chain(v));
        all.extend([&mut self.kv_a.weight, &mut self.out.weight]);
        all
    }

    fn attend(&self, call: &Call, cache: &mut Cache, buffers: &mut super::Buffers) {
        let MlaLayer { shape, q, kv_a, kv_a_norm, kv_b, .. } = self;
        let Mla { heads, kv_rank, nope_dim, value_dim, latent_eps, ref rope, .. } = *shape;
        let pool = call.pool;
        let super::Buffers { angles, quantized, parts, queries: qs, mixed, latent: buffers, .. } = buffers;
        let (n, width, all_heads) = (call.input.rows, shape.entry_width(), heads * shape.query_width());
        let [entries, cached] = &mut buffers.entries;
        let (entries, cached) = (sized(entries, n * width), sized(cached, n * width));
        let qs = sized(qs, n * all_heads);
        match q {
            MlaQuery::Direct(q) => project_input(pool, &mut [(q, &mut *qs), (kv_a, &mut *entries)], call.input),
            MlaQuery::Compressed { a, norm, b } => {
                let rank = norm.len();
                let [low, normed] = &mut buffers.low;
                let (low, normed) = (sized(low, n * rank), sized(normed, n * rank));
                project_input(pool, &mut [(a, &mut *low), (kv_a, &mut *entries)], call.input);
                let mut rows: Vec<_> = low.chunks(rank).zip(normed.chunks_mut(rank)).collect();
                each_row(pool, &mut rows, |(x, out)| kernels::rms_norm(x, norm, latent_eps, out));
                project(pool, &mut [(b, &mut *qs)], normed, n, quantized);
            }
        }
        angles.update(rope, call.batch);
        let by_row = entries.chunks(width).zip(cached.chunks_mut(width)).zip(qs.chunks_mut(all_heads));
        let places = places(call.batch, cache.layout().page());
        let mut rows: Vec<_> = by_row.zip(cache.rows_mut(call.layer, 0, &places)).enumerate().collect();
        each_row(pool, &mut rows, |(row, (((entry, cached), q), place))| {
            let (latent, rotary) = entry.split_at(kv_rank);
            kernels::rms_norm(latent, kv_a_norm, latent_eps, &mut cached[..kv_rank]);
            cached[kv_rank..].copy_from_slice(rotary);
            angles.rotate(*row, rope.pairing, &mut cached[kv_rank..], shape.rope_dim);
            place.write(0, cached);
            angles.rotate(*row, rope.pairing, &mut q[nope_dim..], shape.query_width());
        });
        drop(rows);
        let mixed = sized(mixed, n * heads * value_dim);
        let layer = LatentLayer { pool, shape, kv_b, qs, cached: cache.rows(call.layer, 0) };
        let mut absorbed = Vec::new();
        for span in call.batch.spans {
            let split = expanded_rows(span, call.form);
            if split > 0 {
                layer.expanded(span, split, &mut buffers.expanded, quantized, mixed);
            }
            absorbed.extend((split..span.len).map(|i| (span.first + i, span, span.position + i)));
        }
        if !absorbed.is_empty() {
            layer.absorbed(&absorbed, &mut buffers.absorbed, parts, quantized, mixed);
        }
    }
}

/// One product a head: `x[heads][n][cols]` to `out[heads][n][rows]`.
fn per_head(pool: &Pool, weights: &[Weight], x: &[f32], n: usize, quantized: &mut Quantized, out: &mut [f32]) {
    let (heads, rows, cols) = (weights.len(), weights[0].rows, weights[0].cols);
    let input = prepare(pool, x, heads * n, cols, quantized, weights);
    let mut products: Vec<_> = weights
        .iter()
        .zip(out.chunks_mut(n * rows))
        .enumerate()
        .map(|(h, (w, out))| Product { weight: w.matrix(), input, rows: Rows::Range(h * n, n), out })
        .collect();
    matmul(pool, &mut products);
}

/// One transposed product a head, `x` giving each its rows, to `out[heads][n][cols]`.
fn per_head_transposed<'x>(
    pool: &Pool,
    weights: &[Weight],
    x: impl Iterator<Item = &'x [f32]>,
    n: usize,
    out: &mut [f32],
) {
    let mut products: Vec<_> = weights
        .iter()
        .zip(x)
        .zip(out.chunks_mut(n * weights[0].cols))
        .map(|((w, x), out)| Transposed { weight: w.matrix(), x, rows: n, out })
        .collect();
    matmul_transposed(pool, &mut products);
}

impl LatentLayer<'_> {
    /// Rows of any spans, with their positions: queries in latent space against the cache.
    fn absorbed(
        &self,
        rows: &[(usize, &Span, usize)],
        buffers: &mut Absorbed,
        parts: &mut Vec<SplitPart>,
        quantized: &mut Quantized,
        mixed: &mut [f32],
    ) {
        let Mla { heads, kv_rank, nope_dim: nope, value_dim: value, .. } = *self.shape;
        let (n, head, key) = (rows.len(), self.shape.query_width(), self.shape.entry_width());
        let q_of = |row: usize, h: usize| &self.qs[(row * heads + h) * head..(row * heads + h + 1) * head];
        let q_nope = sized(&mut buffers.nope, heads * n * nope);
        for (at, out) in q_nope.chunks_mut(nope).enumerate() {
            out.copy_from_slice(&q_of(rows[at % n].0, at / n)[..nope]);
        }
        let moved = sized(&mut buffers.moved, heads * n * kv_rank);
        let v = match self.kv_b {
            MlaExpansion::Split { k_transposed, v } => {
                per_head(self.pool, k_transposed, q_nope, n, quantized, moved);
                v
            }
            MlaExpansion::Joint { k, v } => {
                per_head_transposed(self.pool, k, q_nope.chunks(n * nope), n, moved);
                v
            }
        };
        let moved = &*moved;
        let q = sized(&mut buffers.queries, n * heads * key);
        let mut tasks: Vec<_> = q.chunks_mut(heads * key).enumerate().collect();
        each_row(self.pool, &mut tasks, |(i, q)| {
            for (h, out) in q.chunks_mut(key).enumerate() {
                out[..kv_rank].copy_from_slice(&moved[(h * n + *i) * kv_rank..(h * n + *i + 1) * kv_rank]);
                out[kv_rank..].copy_from_slice(&q_of(rows[*i].0, h)[nope..]);
            }
        });
        drop(tasks);
        let by_head = sized(&mut buffers.mixed, heads * n * kv_rank);
        self.attend_latents(rows, q, by_head, parts);
        let values = sized(&mut buffers.values, heads * n * value);
        per_head(self.pool, v, by_head, n, quantized, values);
        for (i, &(row, _, _)) in rows.iter().enumerate() {
            for (h, out) in mixed[row * heads * value..(row + 1) * heads * value].chunks_mut(value).enumerate() {
                out.copy_from_slice(&values[(h * n + i) * value..(h * n + i + 1) * value]);
            }
        }
    }

    /// Absorbed queries `q[rows][heads]` to mixed latents `out[heads][rows]`.
    fn attend_latents(&self, rows: &[(usize, &Span, usize)], q: &[f32], out: &mut [f32], parts: &mut Vec<SplitPart>) {
        let Mla { heads, kv_rank, ref rope, .. } = *self.shape;
        let key = self.shape.entry_width();
        let (n, threads) = (rows.len(), self.pool.threads());
        let mut outs: Vec<_> = out.chunks_mut(kv_rank).map(Some).collect();
        let together = rows_together(heads, 1, n, threads);
        let pieces = rows.iter().map(|(_, _, position)| (position + 1).div_ceil(SPLIT)).sum::<usize>() / together;
        let part = heads_together(heads, pieces, threads);
        let mut queries: Vec<Query> = Vec::new();
        let mut i = 0;
        while i < n {
            let (row, span, position) = rows[i];
            let count = rows[i..].iter().take(together).take_while(|(_, s, _)| s.first == span.first);
            let count = count.count();
            debug_assert_eq!(rows[i + count - 1].0, row + count - 1);
            for first in (0..heads).step_by(part) {
                let places = (i..i + count).flat_map(|i| (first..first + part).map(move |h| h * n + i));
                queries.push(Query {
                    queries: Queries { q: &q[(i * heads + first) * key..], heads: part, stride: heads * key },
                    outs: places.map(|place| outs[place].take().expect("every place once")).collect(),
                    pages: span.pages,
                    seen: SeenPositions::Range { first: 0, end: position + 1 },
                    key_at: 0,
                    value_at: 0,
                });
            }
            i += count;
        }
        let shape = Shape { heads, key, value: kv_rank, scale: rope.score_scale };
        attend_paged(self.pool, &mut queries, shape, self.cached, parts);
    }

    /// The first `n` rows of a span: keys and values rebuilt, some pages at a time.
    fn expanded(&self, span: &Span, n: usize, buffers: &mut Expanded, quantized: &mut Quantized, mixed: &mut [f32]) {
        let Mla { heads, value_dim: value, .. } = *self.shape;
        sized(&mut buffers.max, heads * n).fill(f32::NEG_INFINITY);
        sized(&mut buffers.sum, heads * n).fill(0.0);
        sized(&mut buffers.acc, heads * n * value);
        let mut states: Vec<_> = buffers.acc[..heads * n * value].chunks_mut(n * value).collect();
        self.pool.each(&mut states, |acc| acc.fill(0.0));
        let end = span.position + n;
        for from in (0..end).step_by(EXPANDED_PAGES * PAGE) {
            let count = (EXPANDED_PAGES * PAGE).min(end - from);
            self.rebuild(span, from, count, buffers, quantized);
            self.attend_rebuilt(span, n, from, count, buffers);
        }
        let (sum, acc) = (&buffers.sum[..heads * n], &buffers.acc[..heads * n * value]);
        let outs = mixed[span.first * heads * value..(span.first + n) * heads * value].chunks_mut(heads * value);
        let mut rows: Vec<_> = outs.enumerate().collect();
        each_row(self.pool, &mut rows, |(i, out)| {
            for (h, out) in out.chunks_mut(value).enumerate() {
                let at = h * n + *i;
                for (o, a) in out.iter_mut().zip(&acc[at * value..(at + 1) * value]) {
                    *o = a / sum[at];
                }
            }
        });
    }

    /// Keys and values of all heads at `count` positions from `from` on.
    fn rebuild(&self, span: &Span, from: usize, count: usize, buffers: &mut Expanded, quantized: &mut Quantized) {
        let Mla { heads, kv_rank, nope_dim: nope, rope_dim: rope, value_dim: value, .. } = *self.shape;
        let (pool, head) = (self.pool, self.shape.query_width());
        let latents = sized(&mut buffers.latents, count * kv_rank);
        let rotary = sized(&mut buffers.rotary, count * rope);
        let mut rows: Vec<_> = latents.chunks_mut(kv_rank).zip(rotary.chunks_mut(rope)).enumerate().collect();
        pool.each(&mut rows, |(i, (latent, rotary))| {
            let (row, _) = self.cached.from(span.pages, from + *i);
            kernels::widen(row, latent);
            kernels::widen(row.skip(kv_rank), rotary);
        });
        drop(rows);
        let (latents, rotary) = (&*latents, &*rotary);
        let k_nope = sized(&mut buffers.nope, heads * count * nope);
        let (ks, vs) = match self.kv_b {
            MlaExpansion::Joint { k, v } => (Some(k), v),
            MlaExpansion::Split { k_transposed, v } => {
                per_head_transposed(pool, k_transposed, std::iter::repeat(latents), count, k_nope);
                (None, v)
            }
        };
        let input = prepare(pool, latents, count, kv_rank, quantized, ks.into_iter().flatten().chain(vs));
        let v = sized(&mut buffers.values, heads * count * value);
        let mut products: Vec<Product> = Vec::new();
        for (w, out) in vs.iter().zip(v.chunks_mut(count * value)) {
            products.push(Product { weight: w.matrix(), input, rows: Rows::All, out });
        }
        for (w, out) in ks.into_iter().flatten().zip(k_nope.chunks_mut(count * nope)) {
            products.push(Product { weight: w.matrix(), input, rows: Rows::All, out });
        }
        matmul(pool, &mut products);
        drop(products);
        let k = sized(&mut buffers.keys, heads * count * head);
        let mut by_head: Vec<_> = k.chunks_mut(count * head).zip(k_nope.chunks(count * nope)).collect();
        pool.each(&mut by_head, |(k, k_nope)| {
            for ((out, nope_part), rotary) in k.chunks_mut(head).zip(k_nope.chunks(nope)).zip(rotary.chunks(rope)) {
                out[..nope].copy_from_slice(nope_part);
                out[nope..].copy_from_slice(rotary);
            }
        });
    }

    /// The first `n` rows of a span to the rebuilt positions.
    fn attend_rebuilt(&self, span: &Span, n: usize, from: usize, count: usize, buffers: &mut Expanded) {
        let Mla { heads, value_dim: value, ref rope, .. } = *self.shape;
        let (head, scale) = (self.shape.query_width(), rope.score_scale);
        let fixed = !self.cached.is_exact();
        let Expanded { max, sum, acc, keys: k, values: v, .. } = buffers;
        let (max, sum, acc) = (&mut max[..heads * n], &mut sum[..heads * n], &mut acc[..heads * n * value]);
        let mut tasks: Vec<Together> = Vec::new();
        let by_head = max.chunks_mut(n).zip(sum.chunks_mut(n)).zip(acc.chunks_mut(n * value));
        for (h, ((max, sum), acc)) in by_head.enumerate() {
            let parts = max.chunks_mut(TOGETHER).zip(sum.chunks_mut(TOGETHER)).zip(acc.chunks_mut(TOGETHER * value));
            for (t, ((max, sum), acc)) in parts.enumerate() {
                let row = span.first + t * TOGETHER;
                let q = Queries { q: &self.qs[(row * heads + h) * head..], heads: 1, stride: heads * head };
                let state = Attended { max, sum, acc };
                tasks.push(Together { head: h, position: span.position + t * TOGETHER, q, state });
            }
        }
        self.pool.each(&mut tasks, |task| {
            let queries = task.state.max.len();
            let shape = Shape { heads: queries, key: head, value, scale };
            let first_sees = |page: usize| (task.position + 1) as isize - (from + page) as isize;
            // Up to the first page that no query of these sees.
            let pages = (0..count).step_by(PAGE).take_while(|&page| first_sees(page) + queries as isize > 1);
            let pages = pages.map(|page| {
                let at = task.head * count + page;
                Keys {
                    keys: Numbers::F32(&k[at * head..]),
                    key_stride: head,
                    values: Numbers::F32(&v[at * value..]),
                    value_stride: value,
                    count: PAGE.min(count - page),
                    first_sees: first_sees(page),
                    next: None,
                }
            });
            if fixed {
                attend_fixed(task.q, shape, pages, &mut task.state);
            } else {
                pages.for_each(|keys| kernels::attend(task.q, shape, keys, &mut task.state));
            }
        });
    }
}

/// Queries of one head that run together, with their running softmax.
struct Together<'a> {
    head: usize,
    /// First query's position.
    position: usize,
    q: Queries<'a>,
    state: Attended<'a>,
}

#[cfg(test)]
mod tests {
    use super::heads_together;

    #[test]
    fn few_queries_are_cut_into_fewer_heads() {
        assert_eq!(heads_together(16, 1, 2), 8);
        assert_eq!(heads_together(16, 2, 2), 16);
        assert_eq!(heads_together(128, 1, 2), 64);
        assert_eq!(heads_together(128, 1, 4), 32);
        assert_eq!(heads_together(6, 1, 8), 6); // no whole groups of four
        assert_eq!(heads_together(4, 1, 8), 4);
        assert_eq!(heads_together(20, 1, 1), 20);
        assert_eq!(heads_together(20, 1, 2), 4);
    }
}
