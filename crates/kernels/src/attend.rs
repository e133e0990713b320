//! Attention over one page of keys, as a running softmax. A page's part is computed from scratch and then merged,
//! so that states of separate pages can be computed apart and merged in order with the same bits.
//!
//! Keys, values and queries are packed as f32 in blocks of four: the inner loops read consecutive memory, and stored numbers are
//! widened once for all rows. A row's sums do not depend on the rows beside it: a score is sixteen partial sums and one tree, exponentials
//! are added in four chains (position mod 4), weighted values in the order of positions.

use std::cell::Cell;
use std::ops::Range;

use crate::scratch::sized;
use crate::small_quants::{SIX_BYTES, SMALL, SmallQuants};
use crate::unpack::LINE;
use crate::vectors::{Vectors, array};
use crate::{Attended, Keys, Numbers, Queries};

/// Heads and widths of an attention call.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Query heads that share the keys, of all rows.
    pub heads: usize,
    /// Width of a query and a key.
    pub key: usize,
    /// Width of a value.
    pub value: usize,
    /// Factor on scores.
    pub scale: f32,
}

/// Queries or positions in a block.
pub(crate) const FOUR: usize = 4;

#[derive(Default)]
struct PageScratch {
    /// `[group][step][query][16]`
    queries: Vec<f32>,
    /// `[block][step][position][16]`
    keys: Vec<f32>,
    /// As the keys.
    values: Vec<f32>,
    /// `[group][block][position][query]`: scores, then their exponentials.
    weights: Vec<f32>,
    /// Factors of the state before and of this page, four each a group.
    factors: Vec<[[f32; FOUR]; 2]>,
}

thread_local! {
    // Taken out while in use: a closure around a kernel would be compiled without its instruction set.
    static SCRATCH: Cell<PageScratch> = Cell::default();
}

/// One row to place `j` of a block `[step][4][16]`; the last step is filled with zeros.
#[inline(always)]
fn pack_row<V: Vectors>(isa: V, row: Numbers, j: usize, block: &mut [f32]) {
    let (steps, _) = block.as_chunks_mut::<64>();
    let (at, mut last) = (16 * j..16 * j + 16, [0f32; 16]);
    let rest = match row {
        Numbers::F32(x) => {
            let (chunks, rest) = x.as_chunks::<16>();
            for (x, out) in chunks.iter().zip(&mut *steps) {
                isa.store(isa.load(x), &mut out[at.clone()]);
            }
            last[..rest.len()].copy_from_slice(rest);
            rest.len()
        }
        Numbers::Bf16(x) => {
            let (chunks, rest) = x.as_chunks::<16>();
            for (x, out) in chunks.iter().zip(&mut *steps) {
                isa.store(isa.load_bf16(x), &mut out[at.clone()]);
            }
            let mut part = [0u16; 16];
            part[..rest.len()].copy_from_slice(rest);
            isa.store(isa.load_bf16(&part), &mut last);
            rest.len()
        }
        // Rows of these are whole blocks.
        Numbers::Eight(x, s) => {
            for (c, out) in steps.iter_mut().enumerate().take(s.len()) {
                isa.store(isa.load(&SmallQuants::lanes(x, s, 16 * c)), &mut out[at.clone()]);
            }
            0
        }
        Numbers::Six(x, s) => {
            for (c, out) in steps.iter_mut().enumerate().take(s.len()) {
                isa.store(isa.load(&SmallQuants::lanes(x, s, 16 * c)), &mut out[at.clone()]);
            }
            0
        }
    };
    if rest > 0 {
        steps[steps.len() - 1][at].copy_from_slice(&last);
    }
}

/// Positions `4 * block ..` of a page; those from `count` on keep what the buffer held, and nobody looks at them.
#[inline(always)]
fn pack_block<V: Vectors>(
    isa: V,
    x: Numbers,
    stride: usize,
    width: usize,
    block: usize,
    count: usize,
    out: &mut [f32],
) {
    for j in 0..FOUR.min(count - FOUR * block) {
        let from = (FOUR * block + j) * stride;
        pack_row(isa, x.part(from, width), j, out);
    }
}

/// Ask for a row of the page that comes next.
#[inline(always)]
pub(crate) fn prefetch_row<V: Vectors>(isa: V, x: Numbers, stride: usize, width: usize, row: usize) {
    let at = row * stride..row * stride + width;
    match x {
        Numbers::F32(x) => prefetch_lines(isa, x, at),
        Numbers::Bf16(x) => prefetch_lines(isa, x, at),
        Numbers::Eight(x, _) => prefetch_lines(isa, x, at),
        Numbers::Six(x, _) => prefetch_lines(isa, x, at.start / SMALL * SIX_BYTES..at.end / SMALL * SIX_BYTES),
    }
}

#[inline(always)]
fn prefetch_lines<V: Vectors, T>(isa: V, x: &[T], at: Range<usize>) {
    for line in x.get(at).unwrap_or_default().chunks(LINE / size_of::<T>()) {
        isa.prefetch(line);
    }
}

/// Products of `H` queries, from `first` on, with `K` positions of a block, from `from` on, into `acc[4 * position + query]`.
#[inline(always)]
fn tile<V: Vectors, const H: usize, const K: usize>(
    isa: V,
    q: &[f32],
    k: &[f32],
    (first, from): (usize, usize),
    acc: &mut [V::F; 16],
) {
    let mut sums = [[isa.splat(0.0); H]; K];
    for (q, k) in q.as_chunks::<64>().0.iter().zip(k.as_chunks::<64>().0) {
        let kv: [V::F; K] = array!(K, b, isa.load(&k[16 * (from + b)..16 * (from + b) + 16]));
        for a in 0..H {
            let qv = isa.load(&q[16 * (first + a)..16 * (first + a) + 16]);
            for b in 0..K {
                sums[b][a] = isa.fma(qv, kv[b], sums[b][a]);
            }
        }
    }
    for b in 0..K {
        for a in 0..H {
            acc[4 * (from + b) + first + a] = sums[b][a];
        }
    }
}

/// Scores of the first `H` queries of a group with a block of positions, `[position][query]`.
#[inline(always)]
fn scores<V: Vectors, const H: usize>(isa: V, q: &[f32], k: &[f32], scale: f32, out: &mut [f32]) {
    let mut acc = [isa.splat(0.0); 16];
    if V::MANY_REGISTERS {
        tile::<V, H, 4>(isa, q, k, (0, 0), &mut acc);
    } else if H == 1 {
        tile::<V, 1, 4>(isa, q, k, (0, 0), &mut acc);
    } else {
        // As many loads as multiply-adds.
        for (a, b) in [(0, 0), (0, 2), (2, 0), (2, 2)] {
            tile::<V, 2, 2>(isa, q, k, (a, b), &mut acc);
        }
    }
    isa.store(isa.mul(isa.sums(&acc), isa.splat(scale)), out);
}

/// Scores `[block][position][query]` of a group to `e^(x - max)`; each query's largest score and sum. `seen` ascends.
#[inline(always)]
pub(crate) fn soften<V: Vectors>(isa: V, x: &mut [f32], seen: [usize; FOUR]) -> ([f32; FOUR], [f32; FOUR]) {
    let (blocks, _) = x.as_chunks_mut::<16>();
    for a in 0..FOUR {
        for k in seen[a]..FOUR * blocks.len() {
            blocks[k / FOUR][k % FOUR * FOUR + a] = f32::NEG_INFINITY;
        }
    }
    let mut top = isa.splat(f32::NEG_INFINITY);
    for block in &*blocks {
        top = isa.max(isa.load(block), top);
    }
    let mut lanes = [0f32; 16];
    isa.store(top, &mut lanes);
    let mut max = [f32::NEG_INFINITY; FOUR];
    for (i, &x) in lanes.iter().enumerate() {
        max[i % FOUR] = if x > max[i % FOUR] { x } else { max[i % FOUR] };
    }
    let top = isa.load(&array!(16, i, max[i % FOUR]));
    let mut total = isa.splat(0.0);
    for block in blocks {
        let e = isa.exp(isa.sub(isa.load(block), top));
        isa.store(e, block);
        total = isa.add(total, e);
    }
    isa.store(total, &mut lanes);
    (max, array!(FOUR, a, (lanes[a] + lanes[8 + a]) + (lanes[4 + a] + lanes[12 + a])))
}

/// Merge four queries' largest scores and sums into the state; the factors of what it held and of what comes.
#[inline(always)]
fn factors<V: Vectors>(
    isa: V,
    max: [f32; FOUR],
    sum: [f32; FOUR],
    into_max: &mut [f32],
    into_sum: &mut [f32],
) -> [[f32; FOUR]; 2] {
    let (mut x, mut top) = ([0f32; 16], [0f32; 16]);
    for (a, &into) in into_max.iter().enumerate() {
        (x[a], x[FOUR + a]) = (into, max[a]);
        top[a] = if max[a] > into { max[a] } else { into };
        top[FOUR + a] = top[a];
    }
    isa.store(isa.exp(isa.sub(isa.load(&x), isa.load(&top))), &mut x);
    for a in 0..into_max.len() {
        into_max[a] = top[a];
        into_sum[a] = sum[a].mul_add(x[FOUR + a], into_sum[a] * x[a]);
    }
    [array!(FOUR, a, x[a]), array!(FOUR, a, x[FOUR + a])]
}

/// Merge the largest scores and sums of the queries from `first` on that see anything into their state; factors as `factors` gives them.
#[inline(always)]
pub(crate) fn enter<V: Vectors>(
    isa: V,
    max: [f32; FOUR],
    sum: [f32; FOUR],
    seen: &[usize],
    first: usize,
    state: &mut Attended,
) -> [[f32; FOUR]; 2] {
    let rows = seen.len();
    let (into_max, into_sum) = (&mut state.max[first..first + rows], &mut state.sum[first..first + rows]);
    let before: [(f32, f32); FOUR] = array!(FOUR, a, if a < rows { (into_max[a], into_sum[a]) } else { (0.0, 0.0) });
    let factors = factors(isa, max, sum, into_max, into_sum);
    for a in 0..rows {
        if seen[a] == 0 {
            (into_max[a], into_sum[a]) = before[a];
        }
    }
    factors
}

/// `into * old + part * new`
#[inline(always)]
pub(crate) fn merge_vector<V: Vectors>(isa: V, part: V::F, old: V::F, new: V::F, into: &mut [f32]) {
    if into.len() >= 16 {
        isa.store(isa.fma(part, new, isa.mul(isa.load(into), old)), into);
    } else {
        let mut lanes = [0f32; 16];
        isa.store(isa.fma(part, new, isa.mul(isa.load_part(into), old)), &mut lanes);
        into.copy_from_slice(&lanes[..into.len()]);
    }
}

/// Weighted sums of `C` vectors of the values, from vector `c` on, for queries `from..from + H` of a group, merged into their states.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // one inner loop's operands; a struct would only rename them
fn values<V: Vectors, const H: usize, const C: usize>(
    isa: V,
    weights: &[f32],
    from: usize,
    values: &[f32],
    steps: usize,
    c: usize,
    seen: &[usize; FOUR],
    factors: &[[f32; FOUR]; 2],
    width: usize,
    into: &mut [f32],
) {
    let mut acc = [[isa.splat(0.0); C]; H];
    // Blocks that all these queries see whole, then position by position.
    let whole = seen[from] / FOUR;
    let blocks = weights.as_chunks::<16>().0.iter().zip(values.chunks_exact(64 * steps));
    for (i, (weights, block)) in blocks.enumerate() {
        let block = &block[64 * c..64 * (c + C)];
        if i < whole {
            for j in 0..FOUR {
                let v: [V::F; C] = array!(C, b, isa.load(&block[64 * b + 16 * j..64 * b + 16 * j + 16]));
                for a in 0..H {
                    let weight = isa.splat(weights[FOUR * j + from + a]);
                    for b in 0..C {
                        acc[a][b] = isa.fma(weight, v[b], acc[a][b]);
                    }
                }
            }
            continue;
        }
        for j in 0..FOUR {
            for a in 0..H {
                if FOUR * i + j < seen[from + a] {
                    let weight = isa.splat(weights[FOUR * j + from + a]);
                    for b in 0..C {
                        acc[a][b] = isa.fma(weight, isa.load(&block[64 * b + 16 * j..]), acc[a][b]);
                    }
                }
            }
        }
    }
    for a in 0..H {
        if seen[from + a] == 0 {
            continue;
        }
        let (old, new) = (isa.splat(factors[0][from + a]), isa.splat(factors[1][from + a]));
        let into = &mut into[(from + a) * width..(from + a + 1) * width];
        for b in 0..C {
            let at = 16 * (c + b);
            merge_vector(isa, acc[a][b], old, new, &mut into[at..width.min(at + 16)]);
        }
    }
}

/// Whether values are the first numbers of their keys, in the same memory.
pub(crate) fn within_keys(keys: &Keys, shape: Shape) -> bool {
    let same = match (keys.keys, keys.values) {
        (Numbers::F32(k), Numbers::F32(v)) => std::ptr::eq(k.as_ptr(), v.as_ptr()),
        (Numbers::Bf16(k), Numbers::Bf16(v)) => std::ptr::eq(k.as_ptr(), v.as_ptr()),
        (Numbers::Eight(k, _), Numbers::Eight(v, _)) => std::ptr::eq(k.as_ptr(), v.as_ptr()),
        (Numbers::Six(k, _), Numbers::Six(v, _)) => std::ptr::eq(k.as_ptr(), v.as_ptr()),
        _ => false,
    };
    same && keys.key_stride == keys.value_stride && shape.value <= shape.key
}

/// Attend to one page and merge it into `state`.
#[inline(always)]
pub fn attend<V: Vectors>(isa: V, queries: &Queries, shape: Shape, keys: &Keys, state: &mut Attended) {
    let mut scratch = SCRATCH.take();
    let Shape { heads, key, value, scale } = shape;
    let (key_steps, value_steps) = (key.div_ceil(16), value.div_ceil(16));
    let (groups, blocks) = (heads.div_ceil(FOUR), keys.count.div_ceil(FOUR));
    let within = within_keys(keys, shape);
    let q = sized(&mut scratch.queries, 64 * key_steps * groups);
    let k = sized(&mut scratch.keys, 64 * key_steps * blocks);
    let v = sized(&mut scratch.values, if within { 0 } else { 64 * value_steps * blocks });
    let p = sized(&mut scratch.weights, 16 * blocks * groups);
    let f = sized(&mut scratch.factors, groups);
    let (q_len, k_len, p_len) = (64 * key_steps, 64 * key_steps, 16 * blocks);
    for h in 0..heads {
        let group = &mut q[h / FOUR * q_len..(h / FOUR + 1) * q_len];
        pack_row(isa, Numbers::F32(queries.query(h, key)), h % FOUR, group);
    }
    for b in 0..blocks {
        let block = &mut k[b * k_len..(b + 1) * k_len];
        pack_block(isa, keys.keys, keys.key_stride, key, b, keys.count, block);
        for g in 0..groups {
            if let Some((next_keys, next_values)) = keys.next {
                // A row a group, so that requests are spread over the work; what is left with the last group.
                let rows = if g + 1 < groups { g..(g + 1).min(FOUR) } else { g.min(FOUR)..FOUR };
                for row in rows {
                    prefetch_row(isa, next_keys, keys.key_stride, key, FOUR * b + row);
                    if !within {
                        prefetch_row(isa, next_values, keys.value_stride, value, FOUR * b + row);
                    }
                }
            }
            let last = (FOUR * g + 3).min(heads - 1);
            if keys.seen_by(queries, last) <= FOUR * b {
                continue;
            }
            let (q, out) = (&q[g * q_len..(g + 1) * q_len], &mut p[g * p_len + 16 * b..g * p_len + 16 * b + 16]);
            if last == FOUR * g {
                scores::<V, 1>(isa, q, block, scale, out);
            } else {
                scores::<V, 4>(isa, q, block, scale, out);
            }
        }
    }
    for g in 0..groups {
        let rows = FOUR.min(heads - FOUR * g);
        let seen = seen_by_group(keys, queries, g, heads);
        let blocks = seen[rows - 1].div_ceil(FOUR);
        let (max, sum) = soften(isa, &mut p[g * p_len..g * p_len + 16 * blocks], seen);
        f[g] = enter(isa, max, sum, &seen[..rows], FOUR * g, state);
    }
    let v = if within {
        &*k
    } else {
        for b in 0..blocks {
            let block = &mut v[64 * value_steps * b..64 * value_steps * (b + 1)];
            pack_block(isa, keys.values, keys.value_stride, value, b, keys.count, block);
        }
        &*v
    };
    let steps = if within { key_steps } else { value_steps };
    let mut c = 0;
    while c < value_steps {
        let four = c + 4 <= value_steps;
        for g in 0..groups {
            let rows = FOUR.min(heads - FOUR * g);
            let seen = seen_by_group(keys, queries, g, heads);
            let p = &p[g * p_len..g * p_len + 16 * seen[rows - 1].div_ceil(FOUR)];
            let into = &mut state.acc[FOUR * g * value..(FOUR * g + rows) * value];
            match (rows == FOUR, four) {
                (true, true) if V::MANY_REGISTERS => {
                    values::<V, 4, 4>(isa, p, 0, v, steps, c, &seen, &f[g], value, into);
                }
                (true, _) => {
                    for c in c..c + if four { 4 } else { 1 } {
                        values::<V, 4, 1>(isa, p, 0, v, steps, c, &seen, &f[g], value, into);
                    }
                }
                (false, true) => {
                    for a in 0..rows {
                        values::<V, 1, 4>(isa, p, a, v, steps, c, &seen, &f[g], value, into);
                    }
                }
                (false, false) => {
                    for a in 0..rows {
                        values::<V, 1, 1>(isa, p, a, v, steps, c, &seen, &f[g], value, into);
                    }
                }
            }
        }
        c += if four { 4 } else { 1 };
    }
    SCRATCH.set(scratch);
}

/// Keys that each query of a group sees; places beyond the last query see what it sees.
#[inline(always)]
pub(crate) fn seen_by_group(keys: &Keys, queries: &Queries, g: usize, heads: usize) -> [usize; FOUR] {
    array!(FOUR, a, keys.seen_by(queries, (FOUR * g + a).min(heads - 1)))
}

/// Merge the state `(max, sum, acc)` of later pages into `state`.
#[inline(always)]
pub fn merge<V: Vectors>(isa: V, heads: usize, value: usize, from: (&[f32], &[f32], &[f32]), state: &mut Attended) {
    for h in 0..heads {
        let (max, sum) = (from.0[h], from.1[h]);
        if max == f32::NEG_INFINITY && sum == 0.0 {
            continue; // no key was seen
        }
        let (into_max, into_sum) = (&mut state.max[h..h + 1], &mut state.sum[h..h + 1]);
        let [old, new] = factors(isa, [max; FOUR], [sum; FOUR], into_max, into_sum);
        let (old, new) = (isa.splat(old[0]), isa.splat(new[0]));
        let into = &mut state.acc[h * value..(h + 1) * value];
        for (into, part) in into.chunks_mut(16).zip(from.2[h * value..(h + 1) * value].chunks(16)) {
            let part = if part.len() == 16 { isa.load(part) } else { isa.load_part(part) };
            merge_vector(isa, part, old, new, into);
        }
    }
}
