//! Multi-head latent attention (arXiv 2405.04434, section 2.1): one latent and one rotary key per token are cached, for all heads.
//!
//! Absorbed: queries are moved into latent space, all heads share one read of a latent. Expanded: keys and values are rebuilt from
//! latents, page by page, for less arithmetic per pair. Which one a token gets follows from its place in its prompt alone.

use kernels::{
    Attended, Input, Keys, Numbers, Pool, Product, Queries, Rows, Shape, Transposed, matmul, matmul_transposed,
};

use super::paged::{Query, SPLIT, Widths, attend_paged, rows_together};
use super::{Buffers, Call, Form, positions, project, project_input, rows};
use crate::batch::Span;
use crate::cache::{Cache, PAGE};
use crate::feed_forward::quantized_wanted;
use crate::structure::Attention;
use crate::weight::{AttentionWeights, MlaExpansion, MlaQuery, Weight};

/// Prompt positions are expanded in whole aligned blocks of this many.
const BLOCK: usize = 128;

/// Pages expanded at a time.
const EXPANDED_PAGES: usize = 4;

/// Heads of a query that read latents together, where `pieces` queries and splits can run at once. Few pieces are cut into fewer heads, so
/// that one decoded token has work for all threads; a head's bits do not depend on its company.
fn heads_together(heads: usize, pieces: usize, threads: usize) -> usize {
    let whole = |&t: &usize| heads.is_multiple_of(t) && t.is_multiple_of(4);
    let least = if heads.is_multiple_of(4) { 4 } else { heads };
    (least..=heads).rev().filter(whole).find(|t| pieces * (heads / t) >= 2 * threads).unwrap_or(least)
}

/// Queries of a head that run together in the expanded form.
const TOGETHER: usize = 64;

/// Rows at the span's start that take the expanded form.
fn expanded_rows(span: &Span, form: Form) -> usize {
    let end = match form {
        Form::ByPlace => span.prompt / BLOCK * BLOCK,
        Form::Absorbed => 0,
        Form::Expanded => usize::MAX,
    };
    end.saturating_sub(span.position).min(span.len)
}

#[derive(Clone, Copy)]
struct Sizes {
    heads: usize,
    kv_rank: usize,
    nope: usize,
    rope: usize,
    value: usize,
    scale: f32,
}

/// Heads' outputs `[rows, heads * value]`.
pub fn mla(
    pool: &Pool,
    kind: &Attention,
    weights: &AttentionWeights,
    call: &Call,
    cache: &mut Cache,
    buffers: &mut Buffers,
) -> Vec<f32> {
    let (
        Attention::Mla { heads, kv_rank, nope_dim, rope_dim, value_dim, latent_eps, rope, .. },
        AttentionWeights::Mla { q, kv_a, kv_a_norm, kv_b, .. },
    ) = (kind, weights)
    else {
        unreachable!("checked by the caller")
    };
    let sizes = Sizes {
        heads: *heads,
        kv_rank: *kv_rank,
        nope: *nope_dim,
        rope: *rope_dim,
        value: *value_dim,
        scale: rope.score_scale,
    };
    let n = call.input.rows;
    let (width, head) = (sizes.kv_rank + sizes.rope, sizes.nope + sizes.rope);
    let mut entries = vec![0f32; n * width];
    let mut qs = vec![0f32; n * sizes.heads * head];
    match q {
        MlaQuery::Direct(q) => project_input(pool, &mut [(q, &mut qs), (kv_a, &mut entries)], call.input),
        MlaQuery::Compressed { a, norm, b } => {
            let rank = norm.len();
            let mut low = vec![0f32; n * rank];
            project_input(pool, &mut [(a, &mut low), (kv_a, &mut entries)], call.input);
            let mut normed = vec![0f32; n * rank];
            for (x, out) in low.chunks(rank).zip(normed.chunks_mut(rank)) {
                kernels::rms_norm(x, norm, *latent_eps, out);
            }
            project(pool, &mut [(b, &mut qs)], &normed, n, &mut buffers.quantized);
        }
    }
    buffers.angles.update(rope, &positions(call.batch));
    let mut latent = vec![0f32; sizes.kv_rank];
    for (row, span, position) in rows(call.batch) {
        let entry = &mut entries[row * width..(row + 1) * width];
        kernels::rms_norm(&entry[..sizes.kv_rank], kv_a_norm, *latent_eps, &mut latent);
        entry[..sizes.kv_rank].copy_from_slice(&latent);
        buffers.angles.rotate(row, rope.pairing, &mut entry[sizes.kv_rank..]);
        cache.write(call.layer, span.pages[position / PAGE], position % PAGE, entry);
        for q in qs[row * sizes.heads * head..(row + 1) * sizes.heads * head].chunks_mut(head) {
            buffers.angles.rotate(row, rope.pairing, &mut q[sizes.nope..]);
        }
    }
    let mut mixed = vec![0f32; n * sizes.heads * sizes.value];
    let mut absorbed = Vec::new();
    for span in call.batch.spans {
        let split = expanded_rows(span, call.form);
        if split > 0 {
            expanded(pool, sizes, kv_b, span, split, &qs, cache, call.layer, buffers, &mut mixed);
        }
        absorbed.extend((split..span.len).map(|i| (span.first + i, span, span.position + i)));
    }
    if !absorbed.is_empty() {
        absorb(pool, sizes, kv_b, &absorbed, &qs, cache, call.layer, buffers, &mut mixed);
    }
    mixed
}

/// One product a head: `x[heads][n][cols]` to `[heads][n][rows]`.
fn per_head(pool: &Pool, weights: &[Weight], x: &[f32], n: usize, buffers: &mut Buffers) -> Vec<f32> {
    let (heads, rows, cols) = (weights.len(), weights[0].rows, weights[0].cols);
    let wanted = quantized_wanted(weights);
    if wanted {
        buffers.quantized.quantize(pool, x, heads * n, cols);
    }
    let input = Input { x, rows: heads * n, cols, quantized: wanted.then_some(&buffers.quantized) };
    let mut out = vec![0f32; heads * n * rows];
    let mut products: Vec<_> = weights
        .iter()
        .zip(out.chunks_mut(n * rows))
        .enumerate()
        .map(|(h, (w, out))| Product { weight: w.matrix(), input, rows: Rows::Range(h * n, n), out })
        .collect();
    matmul(pool, &mut products);
    drop(products);
    out
}

#[allow(clippy::too_many_arguments)] // a layer's parts, named where it is called
fn absorb(
    pool: &Pool,
    sizes: Sizes,
    kv_b: &MlaExpansion,
    rows: &[(usize, &Span, usize)],
    qs: &[f32],
    cache: &Cache,
    layer: usize,
    buffers: &mut Buffers,
    mixed: &mut [f32],
) {
    let Sizes { heads, kv_rank, nope, rope, value, scale } = sizes;
    let (n, head, key) = (rows.len(), nope + rope, kv_rank + rope);
    let q_at = |row: usize, h: usize| &qs[(row * heads + h) * head..(row * heads + h + 1) * head];
    let mut q_nope = vec![0f32; heads * n * nope];
    for h in 0..heads {
        for (i, &(row, _, _)) in rows.iter().enumerate() {
            q_nope[(h * n + i) * nope..(h * n + i + 1) * nope].copy_from_slice(&q_at(row, h)[..nope]);
        }
    }
    let (moved, v) = match kv_b {
        MlaExpansion::Split { k_transposed, v } => (per_head(pool, k_transposed, &q_nope, n, buffers), v),
        MlaExpansion::Joint { k, v } => {
            let mut moved = vec![0f32; heads * n * kv_rank];
            let mut products: Vec<_> = k
                .iter()
                .zip(q_nope.chunks(n * nope))
                .zip(moved.chunks_mut(n * kv_rank))
                .map(|((w, x), out)| Transposed { weight: w.matrix(), x, rows: n, out })
                .collect();
            matmul_transposed(pool, &mut products);
            drop(products);
            (moved, v)
        }
    };
    let mut q = vec![0f32; n * heads * key];
    for (i, &(row, _, _)) in rows.iter().enumerate() {
        for h in 0..heads {
            let out = &mut q[(i * heads + h) * key..(i * heads + h + 1) * key];
            out[..kv_rank].copy_from_slice(&moved[(h * n + i) * kv_rank..(h * n + i + 1) * kv_rank]);
            out[kv_rank..].copy_from_slice(&q_at(row, h)[nope..]);
        }
    }
    let mut by_head = vec![0f32; heads * n * kv_rank];
    let mut outs: Vec<_> = by_head.chunks_mut(kv_rank).map(Some).collect();
    let together = rows_together(heads, 1, n, pool.threads());
    let pieces = rows.iter().map(|(_, _, position)| (position + 1).div_ceil(SPLIT)).sum::<usize>() / together;
    let part = heads_together(heads, pieces, pool.threads());
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
                first: 0,
                end: position + 1,
                key_at: 0,
                value_at: 0,
            });
        }
        i += count;
    }
    attend_paged(pool, &mut queries, Widths { key, value: kv_rank, scale }, cache, layer);
    drop(queries);
    let values = per_head(pool, v, &by_head, n, buffers);
    for (i, &(row, _, _)) in rows.iter().enumerate() {
        for h in 0..heads {
            mixed[(row * heads + h) * value..(row * heads + h + 1) * value]
                .copy_from_slice(&values[(h * n + i) * value..(h * n + i + 1) * value]);
        }
    }
}

/// Queries of one head that run together, with their running softmax.
struct Together<'a> {
    head: usize,
    /// First query's position.
    position: usize,
    q: Queries<'a>,
    max: &'a mut [f32],
    sum: &'a mut [f32],
    acc: &'a mut [f32],
}

#[allow(clippy::too_many_arguments)] // a layer's parts, named where it is called
fn expanded(
    pool: &Pool,
    sizes: Sizes,
    kv_b: &MlaExpansion,
    span: &Span,
    n: usize,
    qs: &[f32],
    cache: &Cache,
    layer: usize,
    buffers: &mut Buffers,
    mixed: &mut [f32],
) {
    let Sizes { heads, kv_rank, nope, rope, value, scale } = sizes;
    let (head, width) = (nope + rope, kv_rank + rope);
    let mut max = vec![f32::NEG_INFINITY; heads * n];
    let mut sum = vec![0f32; heads * n];
    let mut acc = vec![0f32; heads * n * value];
    let end = span.position + n;
    for from in (0..end).step_by(EXPANDED_PAGES * PAGE) {
        let count = (EXPANDED_PAGES * PAGE).min(end - from);
        // Latents of all heads' keys and values, and the shared rotary keys.
        let mut latents = vec![0f32; count * kv_rank];
        let mut rotary = vec![0f32; count * rope];
        let mut rows: Vec<_> = latents.chunks_mut(kv_rank).zip(rotary.chunks_mut(rope)).enumerate().collect();
        pool.each(&mut rows, |(i, (latent, rotary))| {
            let page = cache.page(layer, span.pages[(from + *i) / PAGE]);
            let row = page.part((from + *i) % PAGE * width, width);
            kernels::widen(row, latent);
            kernels::widen(row.skip(kv_rank), rotary);
        });
        let mut k_nope = vec![0f32; heads * count * nope];
        let mut v = vec![0f32; heads * count * value];
        let (ks, vs) = match kv_b {
            MlaExpansion::Joint { k, v } => (Some(k), v),
            MlaExpansion::Split { k_transposed, v } => {
                let mut products: Vec<_> = k_transposed
                    .iter()
                    .zip(k_nope.chunks_mut(count * nope))
                    .map(|(w, out)| Transposed { weight: w.matrix(), x: &latents, rows: count, out })
                    .collect();
                matmul_transposed(pool, &mut products);
                (None, v)
            }
        };
        let wanted = quantized_wanted(ks.into_iter().flatten().chain(vs));
        if wanted {
            buffers.quantized.quantize(pool, &latents, count, kv_rank);
        }
        let input = Input { x: &latents, rows: count, cols: kv_rank, quantized: wanted.then_some(&buffers.quantized) };
        let mut products: Vec<Product> = Vec::new();
        for (w, out) in vs.iter().zip(v.chunks_mut(count * value)) {
            products.push(Product { weight: w.matrix(), input, rows: Rows::All, out });
        }
        if let Some(ks) = ks {
            for (w, out) in ks.iter().zip(k_nope.chunks_mut(count * nope)) {
                products.push(Product { weight: w.matrix(), input, rows: Rows::All, out });
            }
        }
        matmul(pool, &mut products);
        drop(products);
        let mut k = vec![0f32; heads * count * head];
        let mut by_head: Vec<_> = k.chunks_mut(count * head).zip(k_nope.chunks(count * nope)).collect();
        pool.each(&mut by_head, |(k, k_nope)| {
            for ((out, nope_part), rotary) in k.chunks_mut(head).zip(k_nope.chunks(nope)).zip(rotary.chunks(rope)) {
                out[..nope].copy_from_slice(nope_part);
                out[nope..].copy_from_slice(rotary);
            }
        });
        let mut tasks: Vec<Together> = Vec::new();
        let by_head = max.chunks_mut(n).zip(sum.chunks_mut(n)).zip(acc.chunks_mut(n * value));
        for (h, ((max, sum), acc)) in by_head.enumerate() {
            let parts = max.chunks_mut(TOGETHER).zip(sum.chunks_mut(TOGETHER)).zip(acc.chunks_mut(TOGETHER * value));
            for (t, ((max, sum), acc)) in parts.enumerate() {
                let row = span.first + t * TOGETHER;
                let q = Queries { q: &qs[(row * heads + h) * head..], heads: 1, stride: heads * head };
                tasks.push(Together { head: h, position: span.position + t * TOGETHER, q, max, sum, acc });
            }
        }
        pool.each(&mut tasks, |task| {
            let queries = task.max.len();
            for page in (0..count).step_by(PAGE) {
                let first_sees = (task.position + 1) as isize - (from + page) as isize;
                if first_sees + queries as isize <= 1 {
                    break; // no query of these sees the page
                }
                let at = task.head * count + page;
                let keys = Keys {
                    keys: Numbers::F32(&k[at * head..]),
                    key_stride: head,
                    values: Numbers::F32(&v[at * value..]),
                    value_stride: value,
                    count: PAGE.min(count - page),
                    first_sees,
                    next: None,
                };
                let mut state = Attended { max: task.max, sum: task.sum, acc: task.acc };
                kernels::attend(task.q, Shape { heads: queries, key: head, value, scale }, keys, &mut state);
            }
        });
    }
    for h in 0..heads {
        for i in 0..n {
            let out = &mut mixed[((span.first + i) * heads + h) * value..((span.first + i) * heads + h + 1) * value];
            let total = sum[h * n + i];
            for (o, a) in out.iter_mut().zip(&acc[(h * n + i) * value..(h * n + i + 1) * value]) {
                *o = a / total;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::heads_together;

    #[test]
    fn few_queries_are_cut_into_fewer_heads() {
        assert_eq!(heads_together(16, 1, 2), 4);
        assert_eq!(heads_together(16, 4, 2), 16);
        assert_eq!(heads_together(128, 1, 2), 32);
        assert_eq!(heads_together(6, 1, 8), 6); // no whole groups of four
        assert_eq!(heads_together(4, 1, 8), 4);
        assert_eq!(heads_together(20, 1, 1), 4);
    }
}
