//! Attention over one page in 16-bit fixed point: two products a lane and instruction where f32 has one. Softmax stays in f32, and is
//! the one of `attend`.
//!
//! Numbers that lie beside each other are rounded to integers of their largest: of keys and values to 14 bits, one scale a position and
//! part (128 numbers; where values are the first numbers of their keys, all of these are one part), of queries to 13 bits, one scale a
//! block of 64. So the sum of a block's products is an exact i32 in any order; blocks are then added in order in f32. Exponentials times
//! the values' scales become integers of up to 15 bits, one scale a query and page; the sum over a page's positions is an exact i32 too.
//! A row's bits do not depend on the rows beside it, nor on positions that it does not see: no scale is shared by positions.
//!
//! The sum of exponentials is that of the f32 numbers, before they are rounded: a page that holds little of the total keeps its share.
//!
//! A number that is none makes its scale none, and so the score of its position for all who see it, or the sum of the values.

use std::cell::Cell;

use crate::attend::{FOUR, Shape, enter, merge_vector, prefetch_row, seen_by_group, soften, within_keys};
use crate::scratch::room;
use crate::small_quants::{SMALL, SmallQuants};
use crate::vectors::{Vectors, array};
use crate::{Attended, Keys, Numbers, PAGE_MAX, Queries};

/// Numbers in a vector of pairs.
const CHUNK: usize = 32;
/// Chunks of a block, whose products are one integer sum.
const BLOCK: usize = 2;
/// Numbers of a part, where values do not lie within keys.
const PART: usize = 128;
/// Positions in a vector of scores.
const LANES: usize = 16;
/// Pairs of positions in a page.
const PAIRS: usize = PAGE_MAX / 2;

/// The largest integer of a key or value, of a query, of a weight, and the largest sum of a page's weights before they are rounded.
const KEY_MOST: f32 = 8191.0;
const QUERY_MOST: f32 = 4095.0;
const WEIGHT_MOST: f32 = 32767.0;
const WEIGHTS_MOST: f32 = 262_100.0;
// No sum passes an i32; rounding adds at most a half a weight.
const _: () = assert!(QUERY_MOST as i64 * KEY_MOST as i64 * (BLOCK * CHUNK) as i64 <= i32::MAX as i64);
const _: () = assert!((WEIGHTS_MOST as i64 + 1 + PAIRS as i64) * KEY_MOST as i64 <= i32::MAX as i64);

/// Steps below this are taken for zero: their inverse is no number.
const TINY: f32 = 1e-34;

/// Neighbours in a key that share a scale at a position.
#[derive(Clone, Copy, Default)]
struct ScaledPart {
    from: usize,
    len: usize,
    /// Its first chunk and its first block.
    chunk: usize,
    block: usize,
}

impl ScaledPart {
    fn chunks(self) -> usize {
        self.len.div_ceil(CHUNK)
    }

    fn blocks(self) -> usize {
        self.chunks().div_ceil(BLOCK)
    }
}

#[derive(Default)]
struct FixedScratch {
    parts: Vec<ScaledPart>,
    /// `[query][chunk][16]` pairs
    queries: Vec<[i32; 16]>,
    /// `[query][block]`
    query_scales: Vec<f32>,
    /// Sixteen positions on their way: `[chunk][position][16 pairs]`
    rows: Vec<[[i32; 16]; LANES]>,
    /// `[chunk][sixteen positions][16 pairs of numbers][16 positions]`
    keys: Vec<[[i32; 16]; 16]>,
    /// Of every part.
    key_scales: Vec<[f32; PAGE_MAX]>,
    /// `[chunk][pair of positions][32 numbers]`
    values: Vec<[[i32; CHUNK]; PAIRS]>,
    value_scales: Vec<[f32; PAGE_MAX]>,
    /// `[group][query][64]`: scores; then `[group][block][position][query]`, and their exponentials.
    scores: Vec<[f32; FOUR * PAGE_MAX]>,
    /// `[group][pair of positions][query]`
    weights: Vec<[[i32; FOUR]; PAIRS]>,
    /// Of every group: what queries see, factors of the state before, of this page and of its integers.
    groups: Vec<([usize; FOUR], [[f32; FOUR]; 3])>,
}

thread_local! {
    // Taken out while in use: a closure around a kernel would be compiled without its instruction set.
    static SCRATCH: Cell<FixedScratch> = Cell::default();
}

/// Numbers in one of their formats.
trait Source: Copy {
    /// Thirty-two from `at` on, in two vectors.
    fn whole<V: Vectors>(self, isa: V, at: usize) -> [V::F; 2];
    /// As `whole`, zeros from `end` on.
    fn rest<V: Vectors>(self, isa: V, at: usize, end: usize) -> [V::F; 2];
    /// A bound on their magnitudes, met or nearly; as bits, which NaN and infinity end.
    fn largest(self, from: usize, len: usize) -> u32;
}

impl Source for &[f32] {
    #[inline(always)]
    fn whole<V: Vectors>(self, isa: V, at: usize) -> [V::F; 2] {
        let x: &[f32; CHUNK] = self[at..].first_chunk().expect("a whole chunk");
        [isa.load(&x[..16]), isa.load(&x[16..])]
    }
    #[inline(always)]
    fn rest<V: Vectors>(self, isa: V, at: usize, end: usize) -> [V::F; 2] {
        let mut x = [0f32; CHUNK];
        x[..end - at].copy_from_slice(&self[at..end]);
        Source::whole(&x[..], isa, 0)
    }
    #[inline(always)]
    fn largest(self, from: usize, len: usize) -> u32 {
        let mut most = 0;
        for x in &self[from..from + len] {
            most = most.max(x.to_bits() & 0x7fff_ffff);
        }
        most
    }
}

impl Source for &[u16] {
    #[inline(always)]
    fn whole<V: Vectors>(self, isa: V, at: usize) -> [V::F; 2] {
        let x: &[u16; CHUNK] = self[at..].first_chunk().expect("a whole chunk");
        [isa.load_bf16(&x[..16]), isa.load_bf16(&x[16..])]
    }
    #[inline(always)]
    fn rest<V: Vectors>(self, isa: V, at: usize, end: usize) -> [V::F; 2] {
        let mut x = [0u16; CHUNK];
        x[..end - at].copy_from_slice(&self[at..end]);
        Source::whole(&x[..], isa, 0)
    }
    #[inline(always)]
    fn largest(self, from: usize, len: usize) -> u32 {
        let mut most = 0;
        for x in &self[from..from + len] {
            most = most.max(x & 0x7fff);
        }
        u32::from(most) << 16
    }
}

impl<Q: SmallQuants> Source for (&[Q], &[u16]) {
    #[inline(always)]
    fn whole<V: Vectors>(self, isa: V, at: usize) -> [V::F; 2] {
        [isa.load(&Q::lanes(self.0, self.1, at)), isa.load(&Q::lanes(self.0, self.1, at + SMALL))]
    }
    #[inline(always)]
    fn rest<V: Vectors>(self, isa: V, at: usize, _: usize) -> [V::F; 2] {
        [isa.load(&Q::lanes(self.0, self.1, at)), isa.splat(0.0)]
    }
    /// The largest of scales times the largest quant.
    #[inline(always)]
    fn largest(self, from: usize, len: usize) -> u32 {
        let scales = &self.1[from / SMALL..(from + len) / SMALL];
        (f32::from_bits(scales.largest(0, scales.len())) * Q::MOST).to_bits()
    }
}

/// The step of which the largest number is a multiple by the inverse of `part`, and its inverse.
#[inline(always)]
fn step_of(largest: u32, part: f32) -> (f32, f32) {
    let step = f32::from_bits(largest) * part;
    let inverse = if step > TINY { 1.0 / step } else { 0.0 };
    let step = if step > TINY { step } else { 0.0 };
    if largest < f32::INFINITY.to_bits() { (step, inverse) } else { (f32::NAN, 0.0) }
}

/// Two vectors to integers.
#[inline(always)]
fn round<V: Vectors>(isa: V, x: [V::F; 2], inverse: V::F) -> V::I {
    isa.pack(isa.to_i(isa.mul(x[0], inverse)), isa.to_i(isa.mul(x[1], inverse)))
}

fn fill_parts(parts: &mut Vec<ScaledPart>, shape: Shape, within: bool) {
    parts.clear();
    let mut next = ScaledPart::default();
    while next.from < shape.key {
        let most = if !within {
            PART
        } else if next.from == 0 {
            shape.value
        } else {
            shape.key
        };
        next.len = most.min(shape.key - next.from);
        parts.push(next);
        let (chunk, block) = (next.chunk + next.chunks(), next.block + next.blocks());
        next = ScaledPart { from: next.from + next.len, len: 0, chunk, block };
    }
}

/// Chunks and blocks of a key.
fn sizes(parts: &[ScaledPart]) -> (usize, usize) {
    parts.last().map_or((0, 0), |p| (p.chunk + p.chunks(), p.block + p.blocks()))
}

/// One query to pairs, and its blocks' scales.
#[inline(always)]
fn pack_query<V: Vectors>(isa: V, q: &[f32], parts: &[ScaledPart], out: &mut [[i32; 16]], scales: &mut [f32]) {
    for part in parts {
        for block in 0..part.blocks() {
            let at = BLOCK * CHUNK * block;
            let (from, end) = (part.from + at, part.from + part.len.min(at + BLOCK * CHUNK));
            let (step, inverse) = step_of(q.largest(from, end - from), 1.0 / QUERY_MOST);
            scales[part.block + block] = step;
            for (i, at) in (from..end).step_by(CHUNK).enumerate() {
                let x = if at + CHUNK <= end { q.whole(isa, at) } else { q.rest(isa, at, end) };
                isa.store_i(round(isa, x, isa.splat(inverse)), &mut out[part.chunk + BLOCK * block + i]);
            }
        }
    }
}

/// Rows of a page in one format.
#[derive(Clone, Copy)]
struct StoredRows<'a, S> {
    x: S,
    stride: usize,
    count: usize,
    parts: &'a [ScaledPart],
}

/// Sixteen positions, from vector `g` on, to integers `[chunk][position][16 pairs]` and their scales.
#[inline(always)]
fn round_rows<V: Vectors, S: Source>(
    isa: V,
    StoredRows { x, stride, count, parts }: StoredRows<S>,
    g: usize,
    rows: &mut [[[i32; 16]; LANES]],
    scales: &mut [[f32; PAGE_MAX]],
) {
    for (part, scales) in parts.iter().zip(scales) {
        // Lanes beyond the last position repeat it, and nobody looks at them.
        let from: [usize; LANES] = array!(LANES, r, (LANES * g + r).min(count - 1) * stride + part.from);
        let largest: [u32; LANES] = array!(LANES, r, x.largest(from[r], part.len));
        let (mut steps, mut inverses) = ([0f32; LANES], [0f32; LANES]);
        for r in 0..LANES {
            (steps[r], inverses[r]) = step_of(largest[r], 1.0 / KEY_MOST);
        }
        scales[LANES * g..LANES * (g + 1)].copy_from_slice(&steps);
        let (whole, rest) = (part.len / CHUNK, part.len % CHUNK);
        let rows = &mut rows[part.chunk..part.chunk + part.chunks()];
        for r in 0..LANES {
            let inverse = isa.splat(inverses[r]);
            for (i, rows) in rows[..whole].iter_mut().enumerate() {
                isa.store_i(round(isa, x.whole(isa, from[r] + CHUNK * i), inverse), &mut rows[r]);
            }
            if rest > 0 {
                let at = from[r] + CHUNK * whole;
                isa.store_i(round(isa, x.rest(isa, at, at + rest), inverse), &mut rows[whole][r]);
            }
        }
    }
}

/// Rounded rows to values `[chunk][pair of positions][32 numbers]`.
#[inline(always)]
fn pair_rows<V: Vectors>(isa: V, rows: &[[[i32; 16]; LANES]], g: usize, values: &mut [[[i32; CHUNK]; PAIRS]]) {
    for (rows, values) in rows.iter().zip(values) {
        let (values, _) = values[LANES / 2 * g..].as_chunks_mut::<{ LANES / 2 }>();
        for (r, out) in values[0].iter_mut().enumerate() {
            let (a, b) = (isa.load_i(&rows[2 * r]), isa.load_i(&rows[2 * r + 1]));
            isa.store_i(isa.pairs_low(a, b), &mut out[..16]);
            isa.store_i(isa.pairs_high(a, b), &mut out[16..]);
        }
    }
}

/// Rounded rows to keys `[chunk][vector][pair of numbers][16 positions]`.
#[inline(always)]
fn turn_rows<V: Vectors>(isa: V, rows: &[[[i32; 16]; LANES]], g: usize, vectors: usize, keys: &mut [[[i32; 16]; 16]]) {
    for (rows, keys) in rows.iter().zip(keys.chunks_exact_mut(vectors)) {
        let mut v: [V::I; LANES] = array!(LANES, r, isa.load_i(&rows[r]));
        isa.transpose(&mut v);
        for r in 0..LANES {
            isa.store_i(v[r], &mut keys[g][r]);
        }
    }
}

/// A page in one format to integers: `keys` and `values`, or one of them where the other is empty.
#[inline(always)]
fn pack<V: Vectors, S: Source>(
    isa: V,
    from: StoredRows<S>,
    rows: &mut [[[i32; 16]; LANES]],
    scales: &mut [[f32; PAGE_MAX]],
    (keys, values): (&mut [[[i32; 16]; 16]], &mut [[[i32; CHUNK]; PAIRS]]),
) {
    let vectors = from.count.div_ceil(LANES);
    for g in 0..vectors {
        round_rows::<V, S>(isa, from, g, rows, scales);
        pair_rows(isa, rows, g, values);
        turn_rows(isa, rows, g, vectors, keys);
    }
}

/// A block of keys and four queries' part of it.
#[derive(Clone, Copy)]
struct Scored<'a> {
    /// Sixteen pairs a chunk.
    queries: [&'a [[i32; 16]]; FOUR],
    query_scales: [f32; FOUR],
    /// `vectors` a chunk.
    keys: &'a [[[i32; 16]; 16]],
    key_scales: &'a [f32; PAGE_MAX],
    vectors: usize,
}

/// Add a block's products with `K` times sixteen positions, from vector `g` on, to scores `[query][64]`.
#[inline(always)]
fn scores<V: Vectors, const K: usize>(isa: V, x: &Scored, g: usize, out: &mut [f32; FOUR * PAGE_MAX]) {
    let mut sums = [[isa.splat_i(0); K]; FOUR];
    for c in 0..x.queries[0].len() {
        let q: [&[i32; 16]; FOUR] = array!(FOUR, a, &x.queries[a][c]);
        let k: [&[[i32; 16]; 16]; K] = array!(K, b, &x.keys[c * x.vectors + g + b]);
        for i in 0..16 {
            let kv: [V::I; K] = array!(K, b, isa.load_i(&k[b][i]));
            for a in 0..FOUR {
                let qv = isa.splat_i(q[a][i]);
                for b in 0..K {
                    sums[a][b] = isa.dot_pairs(sums[a][b], kv[b], qv);
                }
            }
        }
    }
    for b in 0..K {
        let at = LANES * (g + b);
        let key_scale = isa.load(&x.key_scales[at..]);
        for a in 0..FOUR {
            let out = &mut out[PAGE_MAX * a + at..][..LANES];
            let part = isa.mul(isa.to_f(sums[a][b]), key_scale);
            isa.store(isa.fma(part, isa.splat(x.query_scales[a]), isa.load(out)), out);
        }
    }
}

/// Scores `[query][64]` to scores `[block][position][query]`, times the shape's factor.
#[inline(always)]
fn by_four<V: Vectors>(isa: V, x: &mut [f32; FOUR * PAGE_MAX], scale: f32) {
    let from = *x;
    let scale = isa.splat(scale);
    for g in 0..PAGE_MAX / LANES {
        let v = isa.by_four(array!(FOUR, a, isa.mul(isa.load(&from[PAGE_MAX * a + LANES * g..]), scale)));
        for i in 0..4 {
            isa.store(v[i], &mut x[64 * g + 16 * i..]);
        }
    }
}

/// Exponentials `[block][position][query]` times their positions' scales to integers `[pair of positions][query]`, and their steps.
/// `scales` has a position's four times.
#[inline(always)]
fn weigh<V: Vectors>(
    isa: V,
    x: &mut [f32],
    scales: &[f32; FOUR * PAGE_MAX],
    seen: &[usize; FOUR],
    out: &mut [[i32; FOUR]; PAIRS],
) -> [f32; FOUR] {
    let (blocks, _) = x.as_chunks_mut::<16>();
    for (block, scales) in blocks.iter_mut().zip(scales.as_chunks::<16>().0) {
        isa.store(isa.mul(isa.load(block), isa.load(scales)), block);
    }
    for a in 0..FOUR {
        for k in seen[a]..FOUR * blocks.len() {
            blocks[k / FOUR][k % FOUR * FOUR + a] = 0.0; // the scale may be none
        }
    }
    let (mut most, mut total) = (isa.splat(0.0), isa.splat(0.0));
    for block in &*blocks {
        most = isa.max(isa.load(block), most);
        total = isa.add(total, isa.load(block));
    }
    let (mut mosts, mut totals) = ([0f32; 16], [0f32; 16]);
    isa.store(most, &mut mosts);
    isa.store(total, &mut totals);
    let (mut steps, mut inverses) = ([0f32; FOUR], [0f32; FOUR]);
    for a in 0..FOUR {
        let total = (totals[a] + totals[8 + a]) + (totals[4 + a] + totals[12 + a]);
        let most = mosts[a].max(mosts[4 + a]).max(mosts[8 + a].max(mosts[12 + a]));
        let step = (most / WEIGHT_MOST).max(total / WEIGHTS_MOST);
        (steps[a], inverses[a]) = if step > TINY { (step, 1.0 / step) } else { (0.0, 0.0) };
        if !total.is_finite() {
            (steps[a], inverses[a]) = (f32::NAN, 0.0);
        }
    }
    let inverse = isa.load(&array!(16, i, inverses[i % FOUR]));
    for (block, out) in blocks.iter().zip(out.as_flattened_mut().as_chunks_mut::<8>().0) {
        let mut w = [0i32; 16];
        isa.store_i(isa.to_i(isa.mul(isa.load(block), inverse)), &mut w);
        for i in 0..8 {
            let at = i / FOUR * 8 + i % FOUR;
            out[i] = w[at] & 0xffff | w[at + FOUR] << 16;
        }
    }
    steps
}

/// A group's weights, and where they lead.
#[derive(Clone, Copy)]
struct Weighed<'a> {
    /// `[pair of positions][query]`
    weights: &'a [[i32; FOUR]; PAIRS],
    pairs: usize,
    /// Of the queries there are.
    seen: &'a [usize],
    /// Of the state before and of this page, and of this page's integers.
    factors: &'a [[f32; FOUR]; 3],
    width: usize,
}

/// Weighted sums of `C` chunks of the values, from chunk `c` on, for `H` queries of a group, merged into their states.
#[inline(always)]
fn values<V: Vectors, const H: usize, const C: usize>(
    isa: V,
    x: &Weighed,
    from: usize,
    values: &[[[i32; CHUNK]; PAIRS]],
    c: usize,
    into: &mut [f32],
) {
    let chunks: [&[[i32; CHUNK]; PAIRS]; C] = array!(C, b, &values[c + b]);
    let mut sums = [[[isa.splat_i(0); 2]; C]; H];
    for i in 0..x.pairs.min(PAIRS) {
        let v: [[V::I; 2]; C] = array!(C, b, [isa.load_i(&chunks[b][i][..16]), isa.load_i(&chunks[b][i][16..])]);
        for a in 0..H {
            let weight = isa.splat_i(x.weights[i][from + a]);
            for b in 0..C {
                sums[a][b][0] = isa.dot_pairs(sums[a][b][0], v[b][0], weight);
                sums[a][b][1] = isa.dot_pairs(sums[a][b][1], v[b][1], weight);
            }
        }
    }
    for a in 0..H {
        if from + a >= x.seen.len() || x.seen[from + a] == 0 {
            continue;
        }
        let [old, new, step] = array!(3, i, isa.splat(x.factors[i][from + a]));
        let into = &mut into[(from + a) * x.width..(from + a + 1) * x.width];
        for b in 0..C {
            let mut parts = into[CHUNK * (c + b)..].chunks_mut(16);
            for i in 0..2 {
                if let Some(into) = parts.next() {
                    merge_vector(isa, isa.mul(isa.to_f(sums[a][b][i]), step), old, new, into);
                }
            }
        }
    }
}

/// Attend to pages, one after the other, and merge each into `state`.
#[inline(always)]
pub fn attend<V: Vectors>(
    isa: V,
    queries: &Queries,
    shape: Shape,
    pages: &mut dyn Iterator<Item = Keys>,
    state: &mut Attended,
) {
    let mut scratch = SCRATCH.take();
    let s = &mut scratch;
    let mut packed = None;
    for keys in pages {
        let within = within_keys(&keys, shape) && shape.value > 0;
        if packed != Some(within) {
            fill_parts(&mut s.parts, shape, within);
            pack_queries(isa, queries, shape, s);
            packed = Some(within);
        }
        pack_page(isa, shape, &keys, within, s);
        score_page(isa, queries, shape, &keys, within, s);
        weigh_page(isa, shape, within, s, state);
        value_page(isa, shape, s, state);
    }
    SCRATCH.set(scratch);
}

/// Scores to weights, and what of each query's state stays.
#[inline(always)]
fn weigh_page<V: Vectors>(isa: V, shape: Shape, within: bool, s: &mut FixedScratch, state: &mut Attended) {
    let groups = shape.heads.div_ceil(FOUR);
    let value_scales = if within { &s.key_scales[0] } else { &s.value_scales[0] };
    let mut scales = [0f32; FOUR * PAGE_MAX];
    for (four, &scale) in scales.as_chunks_mut::<FOUR>().0.iter_mut().zip(value_scales) {
        *four = [scale; FOUR];
    }
    let weights = room(&mut s.weights, groups, [[0; FOUR]; PAIRS]);
    for g in 0..groups {
        let rows = FOUR.min(shape.heads - FOUR * g);
        let (seen, factors) = &mut s.groups[g];
        let x = &mut s.scores[g];
        by_four(isa, x, shape.scale);
        let x = &mut x[..16 * seen[rows - 1].div_ceil(FOUR)];
        let (max, sum) = soften(isa, x, *seen);
        let [old, new] = enter(isa, max, sum, &seen[..rows], FOUR * g, state);
        *factors = [old, new, weigh(isa, x, &scales, seen, &mut weights[g])];
    }
}

/// Weighted values of all groups, a few chunks of the values at a time.
#[inline(always)]
fn value_page<V: Vectors>(isa: V, shape: Shape, s: &FixedScratch, state: &mut Attended) {
    let Shape { heads, value: width, .. } = shape;
    let chunks = width.div_ceil(CHUNK);
    let mut c = 0;
    while c < chunks {
        let two = V::MANY_REGISTERS && c + 2 <= chunks;
        for g in 0..heads.div_ceil(FOUR) {
            let rows = FOUR.min(heads - FOUR * g);
            let (seen, factors) = &s.groups[g];
            let pairs = seen[rows - 1].div_ceil(2);
            let x = Weighed { weights: &s.weights[g], pairs, seen: &seen[..rows], factors, width };
            let into = &mut state.acc[FOUR * g * width..(FOUR * g + rows) * width];
            if two {
                values::<V, 4, 2>(isa, &x, 0, &s.values, c, into);
            } else if V::MANY_REGISTERS {
                values::<V, 4, 1>(isa, &x, 0, &s.values, c, into);
            } else {
                values::<V, 2, 1>(isa, &x, 0, &s.values, c, into);
                values::<V, 2, 1>(isa, &x, 2, &s.values, c, into);
            }
        }
        c += if two { 2 } else { 1 };
    }
}

#[inline(always)]
fn pack_page<V: Vectors>(isa: V, shape: Shape, keys: &Keys, within: bool, s: &mut FixedScratch) {
    let (parts, count) = (&s.parts[..], keys.count);
    let ((chunks, _), value_chunks) = (sizes(parts), shape.value.div_ceil(CHUNK));
    let rows = room(&mut s.rows, chunks.max(value_chunks), [[0; 16]; LANES]);
    let k = room(&mut s.keys, chunks * count.div_ceil(LANES), [[0; 16]; 16]);
    // One for values, should keys have no numbers.
    let k_scales = room(&mut s.key_scales, parts.len().max(1), [0.0; PAGE_MAX]);
    let v = room(&mut s.values, value_chunks, [[0; CHUNK]; PAIRS]);
    let v_scales = room(&mut s.value_scales, 1, [0.0; PAGE_MAX]);
    macro_rules! pack {
        ($numbers:expr, $stride:expr, $parts:expr, $scales:expr, $to:expr) => {{
            let (stride, parts) = ($stride, $parts);
            match $numbers {
                Numbers::F32(x) => pack(isa, StoredRows { x, stride, count, parts }, rows, $scales, $to),
                Numbers::Bf16(x) => pack(isa, StoredRows { x, stride, count, parts }, rows, $scales, $to),
                Numbers::Eight(x, s) => pack(isa, StoredRows { x: (x, s), stride, count, parts }, rows, $scales, $to),
                Numbers::Six(x, s) => pack(isa, StoredRows { x: (x, s), stride, count, parts }, rows, $scales, $to),
            }
        }};
    }
    pack!(keys.keys, keys.key_stride, parts, k_scales, (k, if within { &mut *v } else { &mut [][..] }));
    if !within && shape.value > 0 {
        let part = [ScaledPart { len: shape.value, ..ScaledPart::default() }];
        pack!(keys.values, keys.value_stride, &part, v_scales, (&mut [], v));
    }
}

#[inline(always)]
fn pack_queries<V: Vectors>(isa: V, queries: &Queries, shape: Shape, s: &mut FixedScratch) {
    let (chunks, blocks) = sizes(&s.parts);
    let padded = shape.heads.next_multiple_of(FOUR);
    let q = room(&mut s.queries, padded * chunks, [0; 16]);
    let scales = room(&mut s.query_scales, padded * blocks, 0.0);
    for h in 0..shape.heads {
        let (q, scales) = (&mut q[h * chunks..(h + 1) * chunks], &mut scales[h * blocks..(h + 1) * blocks]);
        pack_query(isa, queries.query(h, shape.key), &s.parts, q, scales);
    }
}

/// All scores of the page, a block of keys with all groups at a time, so that it is read from the nearest cache. Every step asks for
/// its share of the next page.
#[inline(always)]
fn score_page<V: Vectors>(isa: V, queries: &Queries, shape: Shape, keys: &Keys, within: bool, s: &mut FixedScratch) {
    let Shape { heads, key, value, .. } = shape;
    let groups = heads.div_ceil(FOUR);
    for (g, group) in room(&mut s.groups, groups, Default::default()).iter_mut().enumerate() {
        group.0 = seen_by_group(keys, queries, g, heads);
    }
    let (chunks, blocks) = sizes(&s.parts);
    let vectors = keys.count.div_ceil(LANES);
    let x = room(&mut s.scores, groups, [0.0; FOUR * PAGE_MAX]);
    x.as_flattened_mut().fill(0.0);
    let mut step = 0;
    for (part, key_scales) in s.parts.iter().zip(&s.key_scales) {
        for block in 0..part.blocks() {
            let first = part.chunk + BLOCK * block;
            let last = (first + BLOCK).min(part.chunk + part.chunks());
            for g in 0..groups {
                if let Some((next_keys, next_values)) = keys.next {
                    for row in PAGE_MAX * step / (blocks * groups)..PAGE_MAX * (step + 1) / (blocks * groups) {
                        prefetch_row(isa, next_keys, keys.key_stride, key, row);
                        if !within {
                            prefetch_row(isa, next_values, keys.value_stride, value, row);
                        }
                    }
                }
                step += 1;
                let scored = Scored {
                    queries: array!(FOUR, a, &s.queries[(FOUR * g + a) * chunks..][first..last]),
                    query_scales: array!(FOUR, a, s.query_scales[(FOUR * g + a) * blocks + part.block + block]),
                    keys: &s.keys[first * vectors..last * vectors],
                    key_scales,
                    vectors,
                };
                match s.groups[g].0[FOUR - 1].div_ceil(LANES) {
                    4 if V::MANY_REGISTERS => scores::<V, 4>(isa, &scored, 0, &mut x[g]),
                    3 if V::MANY_REGISTERS => scores::<V, 3>(isa, &scored, 0, &mut x[g]),
                    2 if V::MANY_REGISTERS => scores::<V, 2>(isa, &scored, 0, &mut x[g]),
                    vectors => {
                        for v in 0..vectors {
                            scores::<V, 1>(isa, &scored, v, &mut x[g]);
                        }
                    }
                }
            }
        }
    }
}
