//! Scores of attention, a tile of keys and queries at a time, over `Vectors`: each vector has a key's scores for sixteen queries, so that
//! what is done for a query is done in its lane.

use std::ops::Range;

use super::multiply::Multiply;
use super::tiles::panel_columns;
use crate::out::Out;
use crate::vectors::{Vectors, array};

/// Queries of a tile at most.
pub(crate) const QUERIES: usize = 32;

/// A tile `[key][columns]` of products of keys and queries. What is made of columns past the last query is finite: it is
/// multiplied with zeros.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub scores: &'a [f32],
    /// 16 or 32.
    pub columns: usize,
    /// Query `j` sees the keys from `behind + j` to before `ahead + j`.
    pub behind: isize,
    pub ahead: isize,
    /// Factor of scores.
    pub scale: f32,
}

/// Of each query of a tile: the largest score so far, and the sum of exponentials less it.
#[derive(Clone, Copy)]
pub(crate) struct Running {
    pub max: [f32; QUERIES],
    pub sum: [f32; QUERIES],
}

/// What becomes of a tile in a backward: left factors of gradients of values and keys, as `Layout::Rows` with planes `plane` words apart, and
/// the right factor of those of queries.
pub(crate) struct Gradients<'a> {
    pub weights: &'a mut [i32],
    pub rows: &'a mut [i32],
    pub plane: usize,
    pub across: &'a mut [i32],
}

const LANES: [f32; 16] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];

impl Tile<'_> {
    /// The keys, an even number from an even one on, that all queries see.
    fn free(&self) -> Range<usize> {
        let keys = self.scores.len() / self.columns;
        let from = self.behind.saturating_add(self.columns as isize).clamp(0, keys as isize) as usize;
        let end = self.ahead.clamp(0, keys as isize) as usize;
        from.next_multiple_of(2)..end / 2 * 2
    }

    /// `v` where a query, of the sixteen from `16 * c` on, sees the key, else `other`.
    #[inline(always)]
    fn masked<V: Vectors>(&self, isa: V, c: usize, key: usize, v: V::F, other: V::F) -> V::F {
        let (key, c, lanes) = (key as isize, 16 * c as isize, isa.load(&LANES));
        // Lanes before `first` do not see it yet, those from `end` on no longer.
        let first = isa.splat((key - self.ahead + 1 - c) as f32);
        let v = isa.below(lanes, first, other, v);
        if self.behind == isize::MIN {
            return v;
        }
        let end = isa.splat((key - self.behind + 1 - c) as f32);
        isa.below(lanes, end, v, other)
    }
}

/// Words of sixteen queries and two keys, of `keys` from `key` on, to the panels of a right factor whose inner dimension are the keys; `C`
/// times sixteen queries are in each.
#[inline(always)]
fn put<V: Vectors, M: Multiply<V>, const C: usize>(
    isa: V,
    mul: M,
    [even, odd]: [V::F; 2],
    c: usize,
    (key, keys): (usize, usize),
    to: &mut [i32],
) {
    let (words, word) = (M::words(keys), key / M::NUMBERS);
    let (from, step) = if panel_columns::<V>() > 16 { (16 * c, 16 * C) } else { (16 * c * words, 16) };
    let pair = mul.across(isa, even, odd);
    isa.store_i(pair[0], &mut to[from + word * step..][..16]);
    if M::NUMBERS == 1 && word + 1 < words {
        isa.store_i(pair[1], &mut to[from + (word + 1) * step..][..16]);
    }
}

/// Exponentials of scores less the largest so far, zeros where a key is not seen, as the right factor of a product with values. `acc` has
/// the queries' weighted values `[value][columns]`, which are scaled to the new largest.
#[inline(always)]
pub(crate) fn exponentials<V: Vectors, M: Multiply<V>>(
    isa: V,
    mul: M,
    tile: Tile,
    running: &mut Running,
    acc: &mut [f32],
    packed: &mut [i32],
) {
    if tile.columns == 16 {
        exponentials_of::<V, M, 1>(isa, mul, tile, running, acc, packed)
    } else {
        exponentials_of::<V, M, 2>(isa, mul, tile, running, acc, packed)
    }
}

#[inline(always)]
fn exponentials_of<V: Vectors, M: Multiply<V>, const C: usize>(
    isa: V,
    mul: M,
    tile: Tile,
    running: &mut Running,
    acc: &mut [f32],
    packed: &mut [i32],
) {
    let (zero, one, scale) = (isa.splat(0.0), isa.splat(1.0), isa.splat(tile.scale));
    let (free, scores) = (tile.free(), tile.scores.as_chunks::<16>().0.as_chunks::<C>().0);
    let before: [V::F; C] = array!(C, c, isa.load(&running.max[16 * c..]));
    let mut top = before;
    for (key, scores) in scores.iter().enumerate() {
        for c in 0..C {
            let v = isa.mul(isa.load(&scores[c]), scale);
            let v = if free.contains(&key) { v } else { tile.masked(isa, c, key, v, top[c]) };
            top[c] = isa.max(v, top[c]);
        }
    }
    let less: [V::F; C] = array!(C, c, isa.sub(zero, top[c]));
    let mut sums = [zero; C];
    let (pairs, rest) = scores.as_chunks::<2>();
    for (i, pair) in pairs.iter().enumerate() {
        let key = 2 * i;
        for c in 0..C {
            let mut even = isa.exp(isa.fma(isa.load(&pair[0][c]), scale, less[c]));
            let mut odd = isa.exp(isa.fma(isa.load(&pair[1][c]), scale, less[c]));
            if !free.contains(&key) {
                even = tile.masked(isa, c, key, even, zero);
                odd = tile.masked(isa, c, key + 1, odd, zero);
            }
            sums[c] = isa.add(isa.add(sums[c], even), odd);
            put::<V, M, C>(isa, mul, [even, odd], c, (key, scores.len()), packed);
        }
    }
    if let [last] = rest {
        let key = scores.len() - 1;
        for c in 0..C {
            let weight = isa.exp(isa.fma(isa.load(&last[c]), scale, less[c]));
            let weight = tile.masked(isa, c, key, weight, zero);
            sums[c] = isa.add(sums[c], weight);
            put::<V, M, C>(isa, mul, [weight, zero], c, (key, scores.len()), packed);
        }
    }
    for c in 0..C {
        // One where the largest stays, also where there is none yet.
        let factor = isa.below(before[c], top[c], isa.exp(isa.sub(before[c], top[c])), one);
        let sum = isa.fma(isa.load(&running.sum[16 * c..]), factor, sums[c]);
        isa.store(sum, &mut running.sum[16 * c..]);
        isa.store(top[c], &mut running.max[16 * c..]);
        for acc in acc.as_chunks_mut::<16>().0.as_chunks_mut::<C>().0 {
            isa.store(isa.mul(isa.load(&acc[c]), factor), &mut acc[c]);
        }
    }
}

/// Weights of a tile, and the gradients of its scores from those of the weights, `[key][columns]`. `of` has of each query the logarithm of its
/// sum and the dot product of its output with that one's gradient.
#[inline(always)]
pub(crate) fn gradients<V: Vectors, M: Multiply<V>>(
    isa: V,
    mul: M,
    tile: Tile,
    d_weights: &[f32],
    of: &[[f32; QUERIES]; 2],
    to: Gradients,
) {
    if tile.columns == 16 {
        gradients_of::<V, M, 1>(isa, mul, tile, d_weights, of, to)
    } else {
        gradients_of::<V, M, 2>(isa, mul, tile, d_weights, of, to)
    }
}

#[inline(always)]
fn gradients_of<V: Vectors, M: Multiply<V>, const C: usize>(
    isa: V,
    mul: M,
    tile: Tile,
    d_weights: &[f32],
    of: &[[f32; QUERIES]; 2],
    to: Gradients,
) {
    let (zero, scale) = (isa.splat(0.0), isa.splat(tile.scale));
    let (free, scores) = (tile.free(), tile.scores.as_chunks::<16>().0.as_chunks::<C>().0);
    let d_weights = d_weights.as_chunks::<16>().0.as_chunks::<C>().0;
    let less: [V::F; C] = array!(C, c, isa.sub(zero, isa.load(&of[0][16 * c..])));
    let delta: [V::F; C] = array!(C, c, isa.load(&of[1][16 * c..]));
    let (pairs, rest) = scores.as_chunks::<2>();
    let (d_pairs, d_rest) = d_weights.as_chunks::<2>();
    let Gradients { weights, rows, plane, across } = to;
    for (i, (pair, d)) in pairs.iter().zip(d_pairs).enumerate() {
        let key = 2 * i;
        let free = free.contains(&key);
        let even = gradient::<V, C>(isa, &tile, (key, free), (&pair[0], &d[0]), (&less, &delta, scale));
        let odd = gradient::<V, C>(isa, &tile, (key + 1, free), (&pair[1], &d[1]), (&less, &delta, scale));
        for (key, [p, ds]) in [(key, even), (key + 1, odd)] {
            put_row(isa, mul, p, &mut weights[16 * key..], plane);
            put_row(isa, mul, ds, &mut rows[16 * key..], plane);
        }
        for c in 0..C {
            put::<V, M, C>(isa, mul, [even[1][c], odd[1][c]], c, (key, scores.len()), across);
        }
    }
    if let ([last], [d]) = (rest, d_rest) {
        let key = scores.len() - 1;
        let [p, ds] = gradient::<V, C>(isa, &tile, (key, false), (last, d), (&less, &delta, scale));
        put_row(isa, mul, p, &mut weights[16 * key..], plane);
        put_row(isa, mul, ds, &mut rows[16 * key..], plane);
        for c in 0..C {
            put::<V, M, C>(isa, mul, [ds[c], zero], c, (key, scores.len()), across);
        }
    }
}

/// Weights of a key for all queries, and the gradients of its scores; zeros past the queries that there are.
#[inline(always)]
fn gradient<V: Vectors, const C: usize>(
    isa: V,
    tile: &Tile,
    (key, free): (usize, bool),
    (scores, d_weights): (&[[f32; 16]; C], &[[f32; 16]; C]),
    (less, delta, scale): (&[V::F; C], &[V::F; C], V::F),
) -> [[V::F; 2]; 2] {
    let zero = isa.splat(0.0);
    let mut to = [[zero; 2]; 2];
    for c in 0..C {
        let mut p = isa.exp(isa.fma(isa.load(&scores[c]), scale, less[c]));
        let mut ds = isa.mul(isa.mul(p, isa.sub(isa.load(&d_weights[c]), delta[c])), scale);
        if !free {
            p = tile.masked(isa, c, key, p, zero);
            ds = tile.masked(isa, c, key, ds, zero);
        }
        (to[0][c], to[1][c]) = (p, ds);
    }
    to
}

/// A row of a left factor.
#[inline(always)]
fn put_row<V: Vectors, M: Multiply<V>>(isa: V, mul: M, [low, high]: [V::F; 2], to: &mut [i32], plane: usize) {
    let words = mul.in_order(isa, low, high);
    isa.store_i(words[0], &mut to[..16]);
    if M::NUMBERS == 1 {
        isa.store_i(words[1], &mut to[plane..plane + 16]);
    }
}

/// A tile `[row][columns]`, each column times its factor, transposed: those of `queries` to the rows of `out`.
#[inline(always)]
pub(crate) fn turn<V: Vectors>(
    isa: V,
    x: &[f32],
    columns: usize,
    factors: &[f32; QUERIES],
    out: &mut Out,
    queries: usize,
) {
    let rows = x.len() / columns;
    for c in 0..columns / 16 {
        let factor = isa.load(&factors[16 * c..]);
        for row in (0..rows).step_by(16) {
            let width = (rows - row).min(16);
            let tile = &x[row * columns + 16 * c..];
            let mut v: [V::I; 16] =
                array!(16, r, isa.as_i(isa.mul(isa.load(&tile[r.min(width - 1) * columns..]), factor)));
            isa.transpose(&mut v);
            for (i, v) in v.into_iter().enumerate().take(queries.saturating_sub(16 * c)) {
                isa.store_part(isa.as_f(v), out.row(16 * c + i, row, width));
            }
        }
    }
}

/// Of each row of `width` numbers the dot product of both: sixteen partial sums, then those in their order.
#[inline(always)]
pub(crate) fn dots<V: Vectors>(isa: V, a: &[f32], b: &[f32], width: usize, out: &mut [f32]) {
    let rows = a.chunks(16 * width).zip(b.chunks(16 * width));
    for (out, (a, b)) in out.chunks_mut(16).zip(rows) {
        let mut partial = [isa.splat(0.0); 16];
        for (partial, (a, b)) in partial.iter_mut().zip(a.chunks(width).zip(b.chunks(width))) {
            for (a, b) in a.chunks(16).zip(b.chunks(16)) {
                *partial = if a.len() == 16 {
                    isa.fma(isa.load(a), isa.load(b), *partial)
                } else {
                    isa.fma(isa.load_part(a), isa.load_part(b), *partial)
                };
            }
        }
        let mut lanes: [V::I; 16] = array!(16, r, isa.as_i(partial[r]));
        isa.transpose(&mut lanes);
        let mut sums = isa.as_f(lanes[0]);
        for lane in &lanes[1..] {
            sums = isa.add(sums, isa.as_f(*lane));
        }
        isa.store_part(sums, out);
    }
}
