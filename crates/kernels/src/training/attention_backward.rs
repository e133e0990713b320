//! The backward of attention: tiles of scores are computed again from the logarithms of their sums (arXiv 2307.08691).

use std::cell::Cell;
use std::ops::Range;

use super::attention::{CHUNK, KEYS, Packed, Products, QUERIES, Shape, seen, tiles};
use super::factor::Factor;
use super::gemm::Precision;
use super::scores::Tile;
use super::tiles::Left;
use crate::Pool;
use crate::out::{Out, SharedOut};
use crate::scratch::{aligned, sized};

#[derive(Default)]
struct Scratch {
    /// Right factors by tile, as they lie: queries, gradients of outputs, keys.
    q: Vec<i32>,
    d_out: Vec<i32>,
    k: Vec<i32>,
    /// Left factors by tile: queries, gradients of outputs.
    q_left: Vec<i32>,
    d_left: Vec<i32>,
    /// Transposed keys and values by tile.
    kt: Vec<i32>,
    vt: Vec<i32>,
    weights: Vec<f32>,
    d_weights: Vec<f32>,
    /// Of each query: see `scores::gradients`.
    rows: Vec<[f32; 2]>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// What a backward reads.
struct Given<'a> {
    shape: Shape,
    x: Packed<'a>,
    log_sums: &'a [f32],
    d_out: &'a [f32],
    /// Of each token and head the dot product of output and its gradient.
    deltas: &'a [f32],
}

/// Gradients of queries, keys and values from that of the output; all are overwritten. `out` and `log_sums` are what `attention` gave.
///
/// # Panics
/// When shapes do not agree.
pub fn attention_backward(
    pool: &Pool,
    precision: Precision,
    shape: Shape,
    x: Packed<'_>,
    (out, log_sums): (&[f32], &[f32]),
    d_out: &[f32],
    (dq, dk, dv): (&mut [f32], &mut [f32], &mut [f32]),
) {
    let tokens = shape.check(&x);
    let Shape { heads, kv_heads, key, value, .. } = shape;
    assert!(out.len() == tokens * heads * value && log_sums.len() == tokens * heads && d_out.len() == out.len());
    assert!(dq.len() == x.q.len() && dk.len() == x.k.len() && dv.len() == x.v.len());
    let products = Products::new(precision);
    let deltas = deltas(pool, products, value, out, d_out);
    let given = Given { shape, x, log_sums, d_out, deltas: &deltas };
    let dq = SharedOut::new(dq, tokens, heads * key);
    let (dk, dv) = (SharedOut::new(dk, tokens, kv_heads * key), SharedOut::new(dv, tokens, kv_heads * value));
    // Where there are few documents and heads, tiles are computed twice: for their keys, and for their queries. Sums are the same.
    let together = x.documents.len() * kv_heads >= 4 * pool.threads();
    let mut tasks = Vec::new();
    for document in x.documents {
        for part in tiles(document, document.clone(), if together { document.len().max(1) } else { CHUNK }) {
            tasks.extend((0..kv_heads).map(|kv| (document, kv, part.clone())));
        }
    }
    pool.run(tasks.len(), |i| {
        let (document, kv, keys) = &tasks[i];
        // SAFETY: tasks have tokens or heads of their own, and each is run once.
        let (mut dk, mut dv, mut dq) = unsafe {
            let dk = dk.block(keys.clone(), kv * key..(kv + 1) * key);
            let dv = dv.block(keys.clone(), kv * value..(kv + 1) * value);
            let heads = shape.group(*kv);
            (dk, dv, together.then(|| dq.block((*document).clone(), heads.start * key..heads.end * key)))
        };
        backward(
            products,
            &given,
            (document, *kv),
            keys.clone(),
            (*document).clone(),
            (Some((&mut dk, &mut dv)), dq.as_mut()),
        );
    });
    if together {
        return;
    }
    pool.run(tasks.len(), |i| {
        let (document, kv, queries) = &tasks[i];
        let heads = shape.group(*kv);
        // SAFETY: as above.
        let mut dq = unsafe { dq.block(queries.clone(), heads.start * key..heads.end * key) };
        backward(
            products,
            &given,
            (document, *kv),
            document.start..queries.end,
            queries.clone(),
            (None, Some(&mut dq)),
        );
    });
}

/// The tiles of some keys and queries of a document's key/value head: to gradients of the keys, where they are asked for, and of the
/// queries. Sums are over heads, then tiles, each in ascending order.
fn backward(
    products: Products,
    given: &Given,
    (document, kv): (&Range<usize>, usize),
    keys: Range<usize>,
    queries: Range<usize>,
    (mut of_keys, mut of_queries): (Option<(&mut Out, &mut Out)>, Option<&mut Out>),
) {
    let Given { shape, x, .. } = given;
    let Shape { heads, kv_heads, key, value, .. } = *shape;
    let mut scratch = SCRATCH.take();
    let (first_key, first_query) = (keys.start, queries.start);
    if let Some((dk, dv)) = &mut of_keys {
        (0..keys.len()).for_each(|row| {
            dk.row(row, 0, key).fill(0.0);
            dv.row(row, 0, value).fill(0.0);
        });
    }
    if let Some(dq) = &mut of_queries {
        (0..queries.len()).for_each(|row| dq.row(row, 0, shape.group(kv).len() * key).fill(0.0));
    }
    let keys = keys.start.max(shape.first(document, queries.start))..keys.end;
    let queries = queries.start.max(keys.start)..queries.end;
    let key_tiles: Vec<Range<usize>> = tiles(document, keys, KEYS).collect();
    let query_tiles: Vec<Range<usize>> = tiles(document, queries.clone(), QUERIES).collect();
    let sizes = (products.packed(key, KEYS), products.packed(value, KEYS), products.packed(KEYS, key));
    let kt = aligned(&mut scratch.kt, key_tiles.len() * sizes.0);
    let vt = aligned(&mut scratch.vt, key_tiles.len() * sizes.1);
    let k_rows = aligned(&mut scratch.k, key_tiles.len() * sizes.2);
    let k = Factor::new(x.k, kv_heads * key).columns(kv * key..(kv + 1) * key);
    let v = Factor::new(x.v, kv_heads * value).columns(kv * value..(kv + 1) * value);
    for (j, keys) in key_tiles.iter().enumerate() {
        products.pack(k.t(), keys.clone(), 0..key, &mut kt[j * sizes.0..]);
        products.pack(v.t(), keys.clone(), 0..value, &mut vt[j * sizes.1..]);
        if of_queries.is_some() {
            products.pack(k, 0..key, keys.clone(), &mut k_rows[j * sizes.2..]);
        }
    }
    let (q_size, d_size) = (products.packed(QUERIES, key), products.packed(QUERIES, value));
    let q_rows = aligned(&mut scratch.q, query_tiles.len() * q_size);
    let d_rows = aligned(&mut scratch.d_out, query_tiles.len() * d_size);
    let (q_left_size, d_left_size) = (products.packed_left(QUERIES, key), products.packed_left(QUERIES, value));
    let q_left = aligned(&mut scratch.q_left, query_tiles.len() * q_left_size);
    let d_left = aligned(&mut scratch.d_left, query_tiles.len() * d_left_size);
    let rows = sized(&mut scratch.rows, query_tiles.len() * QUERIES);
    let weights = sized(&mut scratch.weights, QUERIES * KEYS);
    let d_weights = sized(&mut scratch.d_weights, QUERIES * KEYS);
    for (of_group, h) in shape.group(kv).enumerate() {
        let q = Factor::new(x.q, heads * key).columns(h * key..(h + 1) * key);
        let d_out = Factor::new(given.d_out, heads * value).columns(h * value..(h + 1) * value);
        for (i, tile) in query_tiles.iter().enumerate() {
            given.rows(h, tile.clone(), &mut rows[i * QUERIES..]);
            products.pack_left(q, tile.clone(), 0..key, &mut q_left[i * q_left_size..]);
            products.pack_left(d_out, tile.clone(), 0..value, &mut d_left[i * d_left_size..]);
            if of_keys.is_some() {
                products.pack(q, 0..key, tile.clone(), &mut q_rows[i * q_size..]);
                products.pack(d_out, 0..value, tile.clone(), &mut d_rows[i * d_size..]);
            }
        }
        for (j, keys) in key_tiles.iter().enumerate() {
            let columns = keys.len().next_multiple_of(16);
            let meet =
                |queries: &Range<usize>| queries.end > keys.start && shape.first(document, queries.start) < keys.end;
            for (i, tile) in query_tiles.iter().enumerate().filter(|(_, tile)| meet(tile)) {
                let n = tile.len();
                let (weights, d_weights) = (&mut weights[..n * columns], &mut d_weights[..n * columns]);
                let (kt, vt) = (&kt[j * sizes.0..], &vt[j * sizes.1..]);
                let mut to = Out::new(weights, n, 0..columns);
                let left = Left::Packed(&q_left[i * q_left_size..], n);
                products.product((left, 0..n), (kt, key, columns), false, &mut to);
                let mut to = Out::new(d_weights, n, 0..columns);
                let left = Left::Packed(&d_left[i * d_left_size..], n);
                products.product((left, 0..n), (vt, value, columns), false, &mut to);
                let (behind, ahead) = seen(shape, tile, keys);
                let seen = Tile { scores: &mut *weights, columns, behind, ahead, scale: shape.scale };
                products.gradients(seen, d_weights, &rows[i * QUERIES..][..n]);
                let (weights, d_weights) = (Factor::new(weights, columns), Factor::new(d_weights, columns));
                if let Some((dk, dv)) = &mut of_keys {
                    let (at, all) = (keys.start - first_key..keys.end - first_key, 0..keys.len());
                    let (q, d_out) = (&q_rows[i * q_size..], &d_rows[i * d_size..]);
                    let mut to = dv.block(at.clone(), 0..value);
                    products.product((Left::Plain(weights.t()), all.clone()), (d_out, n, value), true, &mut to);
                    products.product((Left::Plain(d_weights.t()), all), (q, n, key), true, &mut dk.block(at, 0..key));
                }
                if let Some(dq) = &mut of_queries {
                    let at = tile.start - first_query..tile.end - first_query;
                    let mut to = dq.block(at, of_group * key..(of_group + 1) * key);
                    products.product(
                        (Left::Plain(d_weights), 0..n),
                        (&k_rows[j * sizes.2..], keys.len(), key),
                        true,
                        &mut to,
                    );
                }
            }
        }
    }
    SCRATCH.set(scratch);
}

/// See `Given::deltas`.
fn deltas(pool: &Pool, products: Products, value: usize, out: &[f32], d_out: &[f32]) -> Vec<f32> {
    const TOGETHER: usize = 1024;
    let mut deltas = vec![0f32; out.len() / value];
    let outs = out.chunks(TOGETHER * value).zip(d_out.chunks(TOGETHER * value));
    let mut parts: Vec<_> = deltas.chunks_mut(TOGETHER).zip(outs).collect();
    pool.each(&mut parts, |(deltas, (out, d_out))| {
        for (delta, (out, d_out)) in deltas.iter_mut().zip(out.chunks(value).zip(d_out.chunks(value))) {
            *delta = products.dot(out, d_out);
        }
    });
    drop(parts);
    deltas
}

impl Given<'_> {
    /// What `scores::gradients` takes of queries of a head.
    fn rows(&self, head: usize, tokens: Range<usize>, rows: &mut [[f32; 2]]) {
        for (token, row) in tokens.zip(rows) {
            let at = token * self.shape.heads + head;
            *row = [self.log_sums[at], self.deltas[at]];
        }
    }
}
