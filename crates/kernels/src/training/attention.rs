//! Attention over whole documents that are packed into one row of tokens, without the matrix of scores in memory (arXiv 2307.08691). Tiles of
//! queries and keys of one document are multiplied by the tiles of `gemm`; all between the products is f32. Tiles of documents lie at multiples
//! of their sizes from its start, and sums are in the order of keys: so bits depend on the document alone.

use std::cell::Cell;
use std::ops::Range;

use super::factor::Factor;
use super::gemm::{Kernel, Precision};
use super::scores::Tile;
use super::tiles::{Left, Part};
use crate::Pool;
use crate::dispatch::table;
use crate::out::{Out, SharedOut};
use crate::scratch::{aligned, sized};
use crate::table::Table;

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
    /// The first token that a token sees.
    pub(super) fn first(&self, document: &Range<usize>, token: usize) -> usize {
        self.window.map_or(document.start, |w| document.start.max((token + 1).saturating_sub(w)))
    }

    /// Query heads of a key/value head.
    pub(super) fn group(&self, kv: usize) -> Range<usize> {
        let group = self.heads / self.kv_heads;
        kv * group..(kv + 1) * group
    }

    pub(super) fn check(&self, x: &Packed) -> usize {
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

/// Queries of a tile, a multiple of the rows of every instruction set's tiles of products.
pub(super) const QUERIES: usize = 48;
/// Keys of a tile: whole panels of every instruction set.
pub(super) const KEYS: usize = 64;
/// Queries, or keys, that a thread takes of a long document: whole tiles of both kinds.
pub(super) const CHUNK: usize = 192;

/// Tiles of a part of a document; the first starts at the document's start or so many tiles after it.
pub(super) fn tiles(document: &Range<usize>, part: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let first = document.start + (part.start - document.start) / size * size;
    (first..part.end).step_by(size).map(move |from| from..part.end.min(from + size))
}

/// Products of a part of a head, with right factors packed in one range.
#[derive(Clone, Copy)]
pub(super) struct Products {
    table: &'static Table,
    kernel: &'static Kernel,
}

impl Products {
    pub fn new(precision: Precision) -> Products {
        let table = table();
        Products { table, kernel: Kernel::of(table, precision) }
    }

    /// Words of so many numbers of so many columns.
    pub fn packed(self, inner: usize, columns: usize) -> usize {
        (self.kernel.words)(inner) * columns.next_multiple_of(16)
    }

    /// Pack columns of a right factor.
    pub fn pack(self, b: Factor, columns: Range<usize>, inner: Range<usize>, packed: &mut [i32]) {
        // SAFETY: the table holds only functions whose instruction set this processor has.
        unsafe { (self.kernel.pack)(&b, columns, inner, packed) }
    }

    /// Words of so many packed rows of a left factor.
    pub fn packed_left(self, rows: usize, inner: usize) -> usize {
        (self.kernel.left)(rows, (self.kernel.words)(inner))
    }

    /// Pack rows of a left factor.
    pub fn pack_left(self, a: Factor, rows: Range<usize>, inner: Range<usize>, packed: &mut [i32]) {
        // SAFETY: as above.
        unsafe { (self.kernel.pack_left)(&a, rows, inner, packed) }
    }

    /// Rows of a left factor times a packed factor of so many columns, to `out` or added to it.
    pub fn product(
        self,
        (left, rows): (Left, Range<usize>),
        (b, inner, columns): (&[i32], usize, usize),
        add: bool,
        out: &mut Out,
    ) {
        let part = Part { left, b, columns, inner: 0..inner, depth: inner, add };
        // SAFETY: as above.
        unsafe { (self.kernel.product)(&part, rows, 0..columns, out) }
    }

    fn exponentials(self, tile: Tile, state: &mut [[f32; 2]], acc: &mut [f32], value: usize) {
        // SAFETY: as above.
        unsafe { (self.table.exponentials)(tile, state, acc, value) }
    }

    pub fn gradients(self, tile: Tile, d_weights: &mut [f32], rows: &[[f32; 2]]) {
        // SAFETY: as above.
        unsafe { (self.table.gradients)(tile, d_weights, rows) }
    }

    pub fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        // SAFETY: as above.
        unsafe { (self.table.dot)(a, b) }
    }
}

/// What queries of a tile see of its keys: see `Tile`.
pub(super) fn seen(shape: &Shape, queries: &Range<usize>, keys: &Range<usize>) -> (isize, isize) {
    let ahead = (queries.start + 1) as isize - keys.start as isize;
    (shape.window.map_or(isize::MIN, |w| ahead.saturating_sub_unsigned(w)), ahead)
}

#[derive(Default)]
struct Scratch {
    queries: Vec<i32>,
    keys: Vec<i32>,
    values: Vec<i32>,
    scores: Vec<f32>,
    acc: Vec<f32>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// `out[tokens, heads, value]`, and of every query the logarithm of its sum of exponentials: `log_sums[tokens, heads]`.
///
/// # Panics
/// When shapes do not agree.
pub fn attention(
    pool: &Pool,
    precision: Precision,
    shape: Shape,
    x: Packed<'_>,
    (out, log_sums): (&mut [f32], &mut [f32]),
) {
    let tokens = shape.check(&x);
    let Shape { heads, kv_heads, value, .. } = shape;
    assert!(out.len() == tokens * heads * value && log_sums.len() == tokens * heads);
    let (out, log_sums) = (SharedOut::new(out, tokens, heads * value), SharedOut::new(log_sums, tokens, heads));
    let mut tasks = Vec::new();
    for document in x.documents {
        for queries in tiles(document, document.clone(), CHUNK) {
            tasks.extend((0..kv_heads).map(|kv| (document, kv, queries.clone())));
        }
    }
    let products = Products::new(precision);
    pool.run(tasks.len(), |i| {
        let (document, kv, queries) = &tasks[i];
        let heads = shape.group(*kv);
        // SAFETY: tasks have queries or heads of their own, and each is run once.
        let (mut out, mut log_sums) = unsafe {
            let columns = heads.start * value..heads.end * value;
            (out.block(queries.clone(), columns), log_sums.block(queries.clone(), heads))
        };
        forward(products, &shape, &x, (document, *kv, queries.clone()), (&mut out, &mut log_sums));
    });
}

/// Queries of a document's key/value head.
fn forward(
    products: Products,
    shape: &Shape,
    x: &Packed,
    (document, kv, queries): (&Range<usize>, usize, Range<usize>),
    (out, log_sums): (&mut Out, &mut Out),
) {
    let Shape { heads, kv_heads, key, value, scale, .. } = *shape;
    let mut scratch = SCRATCH.take();
    let seen_from = shape.first(document, queries.start);
    let blocks: Vec<Range<usize>> = tiles(document, seen_from..queries.end, KEYS).collect();
    let all: usize = blocks.iter().map(|keys| keys.len().next_multiple_of(16)).sum();
    let packed_keys = aligned(&mut scratch.keys, products.packed(key, all));
    let packed_values = aligned(&mut scratch.values, products.packed(all, value));
    let k = Factor::new(x.k, kv_heads * key).columns(kv * key..(kv + 1) * key);
    let v = Factor::new(x.v, kv_heads * value).columns(kv * value..(kv + 1) * value);
    for (b, keys) in blocks.iter().enumerate() {
        products.pack(k.t(), keys.clone(), 0..key, &mut packed_keys[b * products.packed(key, KEYS)..]);
        products.pack(v, 0..value, keys.clone(), &mut packed_values[b * products.packed(KEYS, value)..]);
    }
    let packed_queries = aligned(&mut scratch.queries, products.packed_left(QUERIES, key));
    let (scores, acc) = (sized(&mut scratch.scores, QUERIES * KEYS), sized(&mut scratch.acc, QUERIES * value));
    for (of_group, h) in shape.group(kv).enumerate() {
        let q = Factor::new(x.q, heads * key).columns(h * key..(h + 1) * key);
        for tile in tiles(document, queries.clone(), QUERIES) {
            let (mut state, n) = ([[f32::NEG_INFINITY, 0.0]; QUERIES], tile.len());
            let acc = &mut acc[..n * value];
            acc.fill(0.0);
            products.pack_left(q, tile.clone(), 0..key, packed_queries);
            let q = Left::Packed(packed_queries, n);
            let first = shape.first(document, tile.start);
            for (b, keys) in blocks.iter().enumerate().filter(|(_, keys)| keys.end > first && keys.start < tile.end) {
                let columns = keys.len().next_multiple_of(16);
                let scores = &mut scores[..n * columns];
                let packed = &packed_keys[b * products.packed(key, KEYS)..];
                let mut to = Out::new(scores, n, 0..columns);
                products.product((q, 0..n), (packed, key, columns), false, &mut to);
                let (behind, ahead) = seen(shape, &tile, keys);
                let seen = Tile { scores: &mut *scores, columns, behind, ahead, scale };
                products.exponentials(seen, &mut state[..n], acc, value);
                let packed = &packed_values[b * products.packed(KEYS, value)..];
                let mut to = Out::new(acc, n, 0..value);
                let weights = Left::Plain(Factor::new(scores, columns));
                products.product((weights, 0..n), (packed, keys.len(), value), true, &mut to);
            }
            for (i, (acc, [max, sum])) in acc.chunks_exact(value).zip(state).enumerate() {
                let row = tile.start - queries.start + i;
                let out = out.row(row, of_group * value, value);
                out.iter_mut().zip(acc).for_each(|(out, acc)| *out = acc / sum);
                log_sums.write(row, of_group, &[max + sum.ln()]);
            }
        }
    }
    SCRATCH.set(scratch);
}
