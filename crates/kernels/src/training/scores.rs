//! Scores of attention, a tile of queries and keys at a time, over `Vectors`.

use crate::vectors::Vectors;

/// A tile `[query][columns]` of which query `r` sees the keys from `behind + r` to before `ahead + r`.
pub(crate) struct Tile<'a> {
    pub scores: &'a mut [f32],
    /// A multiple of sixteen.
    pub columns: usize,
    pub behind: isize,
    pub ahead: isize,
    /// Factor of scores.
    pub scale: f32,
}

const LANES: [f32; 16] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];

/// `a` in the lanes from `first` to before `end`, `b` elsewhere; numbers of lanes are small.
#[inline(always)]
fn within<V: Vectors>(isa: V, (first, end): (isize, isize), a: V::F, b: V::F) -> V::F {
    let (lanes, bound) = (isa.load(&LANES), |at: isize| at.clamp(0, 16) as f32);
    isa.below(lanes, isa.splat(bound(first)), b, isa.below(lanes, isa.splat(bound(end)), a, b))
}

/// Scores to exponentials less the largest so far, zeros where a key is not seen; `state` has of each query the largest and the sum,
/// `acc` its weighted values (`value` a query), which are scaled to the new largest.
#[inline(always)]
pub(crate) fn exponentials<V: Vectors>(isa: V, tile: Tile, state: &mut [[f32; 2]], acc: &mut [f32], value: usize) {
    let Tile { scores, columns, behind, ahead, scale } = tile;
    let (zero, scale) = (isa.splat(0.0), isa.splat(scale));
    for (r, ((row, state), acc)) in
        scores.chunks_exact_mut(columns).zip(state).zip(acc.chunks_exact_mut(value)).enumerate()
    {
        let (first, end) = (behind.saturating_add(r as isize), ahead + r as isize);
        if end <= first.max(0) || first >= columns as isize {
            row.fill(0.0);
            continue;
        }
        let whole = first <= 0 && end >= columns as isize;
        let seen = |c: usize| (first.saturating_sub(16 * c as isize), end - 16 * c as isize);
        let mut most = isa.splat(f32::NEG_INFINITY);
        for (c, row) in row.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let v = isa.mul(isa.load(row), scale);
            isa.store(v, row);
            most = isa.max(if whole { v } else { within(isa, seen(c), v, most) }, most);
        }
        let mut lanes = [0f32; 16];
        isa.store(most, &mut lanes);
        let [before, sum] = *state;
        let mut max = before;
        for lane in lanes {
            max = if lane > max { lane } else { max };
        }
        let (top, mut sums) = (isa.splat(max), zero);
        for (c, row) in row.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let p = isa.exp(isa.sub(isa.load(row), top));
            let p = if whole { p } else { within(isa, seen(c), p, zero) };
            sums = isa.add(sums, p);
            isa.store(p, row);
        }
        if max == before {
            *state = [max, sum + isa.sum(sums)];
            continue;
        }
        isa.store(isa.exp(isa.splat(before - max)), &mut lanes);
        *state = [max, sum * lanes[0] + isa.sum(sums)];
        let factor = isa.splat(lanes[0]);
        let (whole, rest) = acc.as_chunks_mut::<16>();
        for acc in whole {
            isa.store(isa.mul(isa.load(acc), factor), acc);
        }
        rest.iter_mut().for_each(|acc| *acc *= lanes[0]);
    }
}

/// Scores to weights, and their gradients, which `d_weights` has, to those of products of queries and keys. `rows` has of each query the
/// logarithm of its sum and the dot product of its output with that one's gradient.
#[inline(always)]
pub(crate) fn gradients<V: Vectors>(isa: V, tile: Tile, d_weights: &mut [f32], rows: &[[f32; 2]]) {
    let Tile { scores, columns, behind, ahead, scale } = tile;
    let (zero, scale) = (isa.splat(0.0), isa.splat(scale));
    for (r, ((scores, d), [log_sum, delta])) in
        scores.chunks_exact_mut(columns).zip(d_weights.chunks_exact_mut(columns)).zip(rows).enumerate()
    {
        let (first, end) = (behind.saturating_add(r as isize), ahead + r as isize);
        let (log_sum, delta) = (isa.splat(*log_sum), isa.splat(*delta));
        let (scores, d) = (scores.as_chunks_mut::<16>().0, d.as_chunks_mut::<16>().0);
        let whole = first <= 0 && end >= columns as isize;
        for (c, (scores, d)) in scores.iter_mut().zip(d).enumerate() {
            let seen = (first.saturating_sub(16 * c as isize), end - 16 * c as isize);
            let p = isa.exp(isa.sub(isa.mul(isa.load(scores), scale), log_sum));
            let ds = isa.mul(isa.mul(p, isa.sub(isa.load(d), delta)), scale);
            isa.store(if whole { p } else { within(isa, seen, p, zero) }, scores);
            isa.store(if whole { ds } else { within(isa, seen, ds, zero) }, d);
        }
    }
}

/// Sixteen partial sums, then those.
#[inline(always)]
pub(crate) fn dot<V: Vectors>(isa: V, a: &[f32], b: &[f32]) -> f32 {
    let mut sums = isa.splat(0.0);
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        sums = if a.len() == 16 {
            isa.fma(isa.load(a), isa.load(b), sums)
        } else {
            isa.fma(isa.load_part(a), isa.load_part(b), sums)
        };
    }
    isa.sum(sums)
}
