//! The backward of attention: tiles of scores are computed again from the logarithms of their sums (arXiv 2307.08691).

use std::cell::Cell;
use std::ops::Range;

use super::attention::{CHUNK, KEYS, PLANE, Packed, Products, Shape, met, seen, tiles};
use super::factor::Factor;
use super::gemm::Precision;
use super::scores::{Gradients, QUERIES, Tile};
use super::tiles::Layout;
use crate::Pool;
use crate::out::{Out, SharedOut};
use crate::scratch::aligned;

#[derive(Default)]
struct Scratch {
    /// Left factors by tile: keys and values in rows, and transposed keys.
    k: Vec<i32>,
    v: Vec<i32>,
    kt: Vec<i32>,
    /// Right factors of a tile's queries and of the gradients of their outputs: transposed, and as they lie.
    q: [Vec<i32>; 2],
    d_out: [Vec<i32>; 2],
    scores: Vec<f32>,
    d_weights: Vec<f32>,
    /// See `Gradients`.
    weights: Vec<i32>,
    rows: Vec<i32>,
    across: Vec<i32>,
    /// Gradients of a tile's queries, `[key][columns]`.
    dq: Vec<f32>,
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
    let keys = keys.start.max(shape.first(document, queries.start))..keys.end;
    let queries = queries.start.max(keys.start)..queries.end;
    let blocks: Vec<Range<usize>> = tiles(document, keys, KEYS).collect();
    let (k_size, v_size) = (products.planes(key), products.planes(value));
    let (kt_size, of_weights) = (products.left(key, KEYS), products.planes(QUERIES));
    let k_left = aligned(&mut scratch.k, blocks.len() * k_size);
    let v_left = aligned(&mut scratch.v, blocks.len() * v_size);
    let kt_left = aligned(&mut scratch.kt, blocks.len() * kt_size);
    let k = Factor::new(x.k, kv_heads * key).columns(kv * key..(kv + 1) * key);
    let v = Factor::new(x.v, kv_heads * value).columns(kv * value..(kv + 1) * value);
    for (b, keys) in blocks.iter().enumerate() {
        products.pack_rows(k, keys.clone(), 0..key, &mut k_left[b * k_size..]);
        products.pack_rows(v, keys.clone(), 0..value, &mut v_left[b * v_size..]);
        if of_queries.is_some() {
            products.pack_left(k.t(), 0..key, keys.clone(), &mut kt_left[b * kt_size..]);
        }
    }
    let [q_turned, q_rows] =
        scratch.q.each_mut().map(|room| aligned(room, products.right(QUERIES, key.next_multiple_of(QUERIES))));
    let [d_turned, d_rows] =
        scratch.d_out.each_mut().map(|room| aligned(room, products.right(QUERIES, value.next_multiple_of(QUERIES))));
    let scores = aligned(&mut scratch.scores, KEYS * QUERIES);
    let d_weights = aligned(&mut scratch.d_weights, KEYS * QUERIES);
    let weights = aligned(&mut scratch.weights, of_weights);
    let rows = aligned(&mut scratch.rows, of_weights);
    let across = aligned(&mut scratch.across, products.right(KEYS, QUERIES));
    let dq = aligned(&mut scratch.dq, key * QUERIES);
    let in_rows = Layout::Rows { plane: PLANE };
    for (of_group, h) in shape.group(kv).enumerate() {
        let q = Factor::new(x.q, heads * key).columns(h * key..(h + 1) * key);
        let d_out = Factor::new(given.d_out, heads * value).columns(h * value..(h + 1) * value);
        for tile in tiles(document, queries.clone(), QUERIES) {
            let first = shape.first(document, tile.start);
            let meet = |(_, keys): &(usize, &Range<usize>)| tile.end > keys.start && first < keys.end;
            let (n, columns) = (tile.len(), tile.len().next_multiple_of(16));
            let of = given.queries(h, tile.clone());
            let dq = &mut dq[..key * columns];
            dq.fill(0.0);
            if blocks.iter().enumerate().any(|block| meet(&block)) {
                products.pack(q.t(), tile.clone(), 0..key, q_turned);
                products.pack(d_out.t(), tile.clone(), 0..value, d_turned);
                if of_keys.is_some() {
                    products.pack(q, 0..key, tile.clone(), q_rows);
                    products.pack(d_out, 0..value, tile.clone(), d_rows);
                }
            }
            for (b, block) in blocks.iter().enumerate().filter(meet) {
                let keys = met(&tile, block);
                let all = (keys.len(), columns, false);
                let (scores, d_weights) = (&mut scores[..keys.len() * columns], &mut d_weights[..keys.len() * columns]);
                let mut to = Out::new(scores, keys.len(), 0..columns);
                products.product((&k_left[b * k_size..], in_rows), (q_turned, key), all, &mut to);
                let mut to = Out::new(d_weights, keys.len(), 0..columns);
                products.product((&v_left[b * v_size..], in_rows), (d_turned, value), all, &mut to);
                let (behind, ahead) = seen(shape, &tile, &keys);
                let seen = Tile { scores, columns, behind, ahead, scale: shape.scale };
                products.gradients(seen, d_weights, &of, Gradients { weights, rows, plane: PLANE, across });
                if let Some((dk, dv)) = &mut of_keys {
                    let at = keys.start - first_key..keys.end - first_key;
                    let mut to = dv.block(at.clone(), 0..value);
                    products.product((weights, in_rows), (d_rows, n), (keys.len(), value, true), &mut to);
                    let mut to = dk.block(at, 0..key);
                    products.product((rows, in_rows), (q_rows, n), (keys.len(), key, true), &mut to);
                }
                if of_queries.is_some() {
                    let mut to = Out::new(dq, key, 0..columns);
                    let left = (&kt_left[b * kt_size..], products.panels(key, block.len()));
                    products.product(left, (across, keys.len()), (key, columns, true), &mut to);
                }
            }
            if let Some(out) = &mut of_queries {
                let at = tile.start - first_query..tile.end - first_query;
                let mut out = out.block(at, of_group * key..(of_group + 1) * key);
                products.turn(dq, columns, &[1.0; QUERIES], &mut out, n);
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
    pool.each(&mut parts, |(deltas, (out, d_out))| products.dots(out, d_out, value, deltas));
    drop(parts);
    deltas
}

impl Given<'_> {
    /// What `scores::gradients` takes of queries of a head; the last stands for those past it too, as in packed factors.
    fn queries(&self, head: usize, tokens: Range<usize>) -> [[f32; QUERIES]; 2] {
        let at = |i: usize| (tokens.start + i).min(tokens.end - 1) * self.shape.heads + head;
        [std::array::from_fn(|i| self.log_sums[at(i)]), std::array::from_fn(|i| self.deltas[at(i)])]
    }
}
