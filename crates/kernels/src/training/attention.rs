//! Attention over whole documents that are packed into one row of tokens, without the matrix of scores in memory (arXiv 2307.08691). Scores
//! are made as `[key][query]`, by the tiles of `gemm`: a query has a lane of its own, and weights leave their registers as the factor that the
//! next product takes. All between the products is f32. Tiles lie at multiples of their sizes from a document's start, and sums are in the
//! order of keys: so bits depend on the document alone.

use std::cell::Cell;
use std::ops::Range;

use super::factor::Factor;
use super::gemm::{Kernel, Precision};
use super::scores::{Gradients, QUERIES, Running, Tile};
use super::tiles::{Layout, Strips};
use crate::Pool;
use crate::dispatch::table;
use crate::out::{Out, SharedOut};
use crate::scratch::aligned;
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

/// Keys of a tile: whole panels of every instruction set.
pub(super) const KEYS: usize = 96;
/// Queries, or keys, that a thread takes of a long document: whole tiles of both kinds.
pub(super) const CHUNK: usize = 192;
/// Words of a plane of a left factor whose rows are the keys of a tile: sixteen of each.
pub(super) const PLANE: usize = 16 * KEYS;
// Whole tiles of the highest kind of every instruction set.
const _: () = assert!(KEYS.is_multiple_of(12));

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

    /// Words of a packed right factor.
    pub fn right(self, inner: usize, columns: usize) -> usize {
        (self.kernel.words)(inner) * columns.next_multiple_of(16)
    }

    /// Words of a packed left factor.
    pub fn left(self, rows: usize, inner: usize) -> usize {
        (self.kernel.left)(rows, (self.kernel.words)(inner))
    }

    /// Words of all planes of a left factor that lies in rows.
    pub fn planes(self, inner: usize) -> usize {
        (self.kernel.words)(inner).div_ceil(16) * PLANE
    }

    /// Pack columns of a right factor.
    pub fn pack(self, b: Factor, columns: Range<usize>, inner: Range<usize>, packed: &mut [i32]) {
        // SAFETY: the table holds only functions whose instruction set this processor has.
        unsafe { (self.kernel.pack)(&b, columns, inner, packed) }
    }

    /// Pack rows of a left factor.
    pub fn pack_left(self, a: Factor, rows: Range<usize>, inner: Range<usize>, packed: &mut [i32]) {
        // SAFETY: as above.
        unsafe { (self.kernel.pack_left)(&a, rows, inner, packed) }
    }

    /// Pack rows of a left factor as they lie.
    pub fn pack_rows(self, a: Factor, rows: Range<usize>, inner: Range<usize>, packed: &mut [i32]) {
        // SAFETY: as above.
        unsafe { (self.kernel.pack_rows)(&a, rows, inner, PLANE, packed) }
    }

    /// The layout of a left factor of so many rows and numbers of the inner dimension that is packed in panels.
    pub fn panels(self, rows: usize, inner: usize) -> Layout {
        Layout::Panels { stride: (self.kernel.left)(1, (self.kernel.words)(inner)), rows }
    }

    /// All of `out =` the first rows of a packed left factor, times a packed right factor that has the first `inner` numbers of its inner
    /// dimension; or, where `add`, that is added.
    pub fn product(
        self,
        (left, layout): (&[i32], Layout),
        (right, inner): (&[i32], usize),
        (rows, columns, add): (usize, usize, bool),
        out: &mut Out,
    ) {
        let words = (self.kernel.words)(inner);
        let strips = Strips { left, layout, right, right_stride: words * self.kernel.columns, words, add };
        // SAFETY: as above.
        unsafe { (self.kernel.strips)(&strips, rows, columns, out) }
    }

    fn exponentials(self, tile: Tile, running: &mut Running, acc: &mut [f32], packed: &mut [i32]) {
        // SAFETY: as above.
        unsafe { (self.kernel.exponentials)(tile, running, acc, packed) }
    }

    pub fn gradients(self, tile: Tile, d_weights: &[f32], of: &[[f32; QUERIES]; 2], to: Gradients) {
        // SAFETY: as above.
        unsafe { (self.kernel.gradients)(tile, d_weights, of, to) }
    }

    /// Rows, each a query of a tile `[row][columns]` times its factor.
    pub fn turn(self, x: &[f32], columns: usize, factors: &[f32; QUERIES], out: &mut Out, queries: usize) {
        // SAFETY: as above.
        unsafe { (self.table.turn)(x, columns, factors, out, queries) }
    }

    /// Of each row of `width` numbers the dot product of both.
    pub fn dots(self, a: &[f32], b: &[f32], width: usize, out: &mut [f32]) {
        // SAFETY: as above.
        unsafe { (self.table.dots)(a, b, width, out) }
    }
}

/// What queries of a tile see of its keys: see `Tile`.
pub(super) fn seen(shape: &Shape, queries: &Range<usize>, keys: &Range<usize>) -> (isize, isize) {
    let ahead = (queries.start + 1) as isize - keys.start as isize;
    (shape.window.map_or(isize::MIN, |w| ahead.saturating_sub_unsigned(w)), ahead)
}

/// The keys of a tile up to the last that a query sees.
pub(super) fn met(queries: &Range<usize>, keys: &Range<usize>) -> Range<usize> {
    keys.start..keys.end.min(queries.end)
}

#[derive(Default)]
struct Scratch {
    /// Left factors by tile: keys in rows, and transposed values.
    keys: Vec<i32>,
    values: Vec<i32>,
    /// Right factors: transposed queries, weights.
    queries: Vec<i32>,
    weights: Vec<i32>,
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
    let (keys_size, values_size) = (products.planes(key), products.left(value, KEYS));
    let packed_keys = aligned(&mut scratch.keys, blocks.len() * keys_size);
    let packed_values = aligned(&mut scratch.values, blocks.len() * values_size);
    let k = Factor::new(x.k, kv_heads * key).columns(kv * key..(kv + 1) * key);
    let v = Factor::new(x.v, kv_heads * value).columns(kv * value..(kv + 1) * value);
    for (b, keys) in blocks.iter().enumerate() {
        products.pack_rows(k, keys.clone(), 0..key, &mut packed_keys[b * keys_size..]);
        products.pack_left(v.t(), 0..value, keys.clone(), &mut packed_values[b * values_size..]);
    }
    let packed_queries = aligned(&mut scratch.queries, products.right(key, QUERIES));
    let weights = aligned(&mut scratch.weights, products.right(KEYS, QUERIES));
    let (scores, acc) = (aligned(&mut scratch.scores, KEYS * QUERIES), aligned(&mut scratch.acc, value * QUERIES));
    for (of_group, h) in shape.group(kv).enumerate() {
        let q = Factor::new(x.q, heads * key).columns(h * key..(h + 1) * key);
        for tile in tiles(document, queries.clone(), QUERIES) {
            let (n, columns) = (tile.len(), tile.len().next_multiple_of(16));
            let mut running = Running { max: [f32::NEG_INFINITY; QUERIES], sum: [0.0; QUERIES] };
            let acc = &mut acc[..value * columns];
            acc.fill(0.0);
            products.pack(q.t(), tile.clone(), 0..key, packed_queries);
            let first = shape.first(document, tile.start);
            for (b, block) in blocks.iter().enumerate().filter(|(_, keys)| keys.end > first && keys.start < tile.end) {
                let keys = met(&tile, block);
                let scores = &mut scores[..keys.len() * columns];
                let mut to = Out::new(scores, keys.len(), 0..columns);
                let left = (&packed_keys[b * keys_size..], Layout::Rows { plane: PLANE });
                products.product(left, (packed_queries, key), (keys.len(), columns, false), &mut to);
                let (behind, ahead) = seen(shape, &tile, &keys);
                let seen = Tile { scores, columns, behind, ahead, scale };
                products.exponentials(seen, &mut running, acc, weights);
                let mut to = Out::new(acc, value, 0..columns);
                let left = (&packed_values[b * values_size..], products.panels(value, block.len()));
                products.product(left, (weights, keys.len()), (value, columns, true), &mut to);
            }
            let row = tile.start - queries.start;
            let shares = running.sum.map(|sum| 1.0 / sum);
            let columns_of = of_group * value..(of_group + 1) * value;
            products.turn(acc, columns, &shares, &mut out.block(row..row + n, columns_of), n);
            for (i, (max, sum)) in running.max.iter().zip(&running.sum).enumerate().take(n) {
                log_sums.write(row + i, of_group, &[max + sum.ln()]);
            }
        }
    }
    SCRATCH.set(scratch);
}
