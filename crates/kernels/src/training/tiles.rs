//! Tiles of products: sums of some rows and columns in registers, over packed factors.

use std::cell::Cell;
use std::ops::Range;

use super::factor::{Factor, Panels};
use super::multiply::Multiply;
use crate::out::Out;
use crate::scratch::aligned;
use crate::vectors::{Vectors, array};

/// Words of the inner dimension that are packed and multiplied at a time: a panel of the right factor then stays in the first cache.
pub(crate) const DEPTH: usize = 384;

/// Columns of the widest panel of a right factor.
pub(crate) const fn panel_columns<V: Vectors>() -> usize {
    if V::MANY_REGISTERS { 32 } else { 16 }
}

/// Panels of a right factor, of so many words a lane.
fn right_panels<V: Vectors>(words: usize) -> Panels {
    let width = panel_columns::<V>();
    Panels { width, last: [16, 16], stride: width * words }
}

/// Rows of the highest tile.
const fn tile_rows<V: Vectors>() -> usize {
    if V::MANY_REGISTERS { 12 } else { 6 }
}

/// Panels of a left factor, of so many words a lane.
fn left_panels<V: Vectors>(words: usize) -> Panels {
    let width = tile_rows::<V>();
    Panels { width, last: [width / 3, width / 3 * 2], stride: width * words + 16 }
}

/// Words of so many packed rows of a left factor, of so many words each.
pub(crate) fn left_packed<V: Vectors>(rows: usize, words: usize) -> usize {
    rows.div_ceil(tile_rows::<V>()) * left_panels::<V>(words).stride
}

/// Pack rows `rows` of a left factor, the inner numbers `ks`: panel after panel.
#[inline(always)]
pub(crate) fn pack_left<V: Vectors, M: Multiply<V>>(
    isa: V,
    mul: M,
    a: &Factor,
    rows: Range<usize>,
    ks: Range<usize>,
    packed: &mut [i32],
) {
    let panels = left_panels::<V>(M::words(ks.len()));
    a.pack(isa, mul, (rows, ks), panels, packed);
}

/// The left factor of a product.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// To be packed by the part that takes it.
    Plain(Factor<'a>),
    /// For each range of `depth`, every panel in turn; and how many rows these have.
    Packed(&'a [i32], usize),
}

/// A part of a product.
pub(crate) struct Part<'a> {
    pub left: Left<'a>,
    /// The packed right factor: for each range of `depth`, every panel in turn.
    pub b: &'a [i32],
    /// Columns of the right factor.
    pub columns: usize,
    /// Numbers of the inner dimension, and how many are treated at a time.
    pub inner: Range<usize>,
    pub depth: usize,
    /// Whether sums begin with what the output holds.
    pub add: bool,
}

thread_local! {
    static PANELS: Cell<Vec<i32>> = const { Cell::new(Vec::new()) };
}

/// Pack columns `columns` of a right factor, the inner numbers `ks`: panel after panel.
#[inline(always)]
pub(crate) fn pack<V: Vectors, M: Multiply<V>>(
    isa: V,
    mul: M,
    b: &Factor,
    columns: Range<usize>,
    ks: Range<usize>,
    packed: &mut [i32],
) {
    let panels = right_panels::<V>(M::words(ks.len()));
    b.t().pack(isa, mul, (columns, ks), panels, packed);
}

/// Rows `rows` and columns `columns` of a product, which are what `out` has; the first of each start panels.
#[inline(always)]
pub(crate) fn product<V: Vectors, M: Multiply<V>>(
    isa: V,
    mul: M,
    part: &Part,
    rows: Range<usize>,
    columns: Range<usize>,
    out: &mut Out,
) {
    if V::MANY_REGISTERS {
        blocks::<V, M, 12, 8, 4, 2, 32>(isa, mul, part, rows, columns, out)
    } else {
        blocks::<V, M, 6, 4, 2, 1, 16>(isa, mul, part, rows, columns, out)
    }
}

/// Tiles of `R` rows and `C` vectors, `N` columns; the last have `S` or `T` rows where those are enough.
#[inline(always)]
fn blocks<
    V: Vectors,
    M: Multiply<V>,
    const R: usize,
    const S: usize,
    const T: usize,
    const C: usize,
    const N: usize,
>(
    isa: V,
    mul: M,
    part: &Part,
    rows: Range<usize>,
    columns: Range<usize>,
    out: &mut Out,
) {
    let mut scratch = PANELS.take();
    let (mut at, mut left_at) = (0, 0);
    for k in part.inner.clone().step_by(part.depth) {
        let ks = k..part.inner.end.min(k + part.depth);
        let words = M::words(ks.len());
        let (left, right) = (left_panels::<V>(words), right_panels::<V>(words));
        let a = match part.left {
            Left::Packed(packed, all) => {
                let from = left_at + left_packed::<V>(rows.start, words);
                left_at += left_packed::<V>(all, words);
                &packed[from..][..left_packed::<V>(rows.len(), words)]
            }
            Left::Plain(factor) => {
                let a = aligned(&mut scratch, left_packed::<V>(rows.len(), words));
                factor.pack(isa, mul, (rows.clone(), ks.clone()), left, a);
                a
            }
        };
        let from_zero = k == part.inner.start && !part.add;
        for col in columns.clone().step_by(N) {
            let width = right.width_of(part.columns - col);
            let b = &part.b[at + col * words..][..words * width];
            let valid = (part.columns - col).min(N);
            for (i, row) in (0..rows.len()).step_by(R).enumerate() {
                let height = left.width_of(rows.len() - row);
                let a = &a[i * left.stride..][..words * height];
                let place = Place { row, col, rows: (rows.len() - row).min(height), columns: valid, from_zero };
                match (height == R, height == S, width == N) {
                    (true, _, true) => tile::<V, M, R, C, N>(isa, mul, a, b, place, out),
                    (true, _, false) => tile::<V, M, R, 1, 16>(isa, mul, a, b, place, out),
                    (_, true, true) => tile::<V, M, S, C, N>(isa, mul, a, b, place, out),
                    (_, true, false) => tile::<V, M, S, 1, 16>(isa, mul, a, b, place, out),
                    (_, _, true) => tile::<V, M, T, C, N>(isa, mul, a, b, place, out),
                    (_, _, false) => tile::<V, M, T, 1, 16>(isa, mul, a, b, place, out),
                }
            }
        }
        at += part.columns.next_multiple_of(16) * words;
    }
    PANELS.set(scratch);
}

/// Where a tile's sums lie.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    col: usize,
    rows: usize,
    columns: usize,
    from_zero: bool,
}

#[inline(always)]
fn tile<V: Vectors, M: Multiply<V>, const R: usize, const C: usize, const N: usize>(
    isa: V,
    mul: M,
    a: &[i32],
    b: &[i32],
    place: Place,
    out: &mut Out,
) {
    const { assert!(N == 16 * C) };
    let Place { row, col, rows, columns, from_zero } = place;
    let whole = rows == R && columns == N;
    let mut start = [[isa.splat(0.0); C]; R];
    if !from_zero {
        for r in 0..R.min(rows) {
            let out = out.row(row + r, col, columns);
            for c in 0..C {
                start[r][c] = if whole { isa.load(&out[16 * c..]) } else { isa.load_part(part_of(out, c)) };
            }
        }
    }
    // An array of its own, every index of which is a constant: so it is in registers.
    let mut sums = start;
    for (a, b) in a.as_chunks::<R>().0.iter().zip(b.as_chunks::<N>().0) {
        let b: [V::I; C] = array!(C, c, isa.load_i(&b[16 * c..]));
        for r in 0..R {
            for c in 0..C {
                sums[r][c] = mul.step(isa, sums[r][c], a[r], b[c]);
            }
        }
    }
    let ends = sums;
    for r in 0..R.min(rows) {
        let (out, mut lanes) = (out.row(row + r, col, columns), [0f32; N]);
        for c in 0..C {
            let to = if whole { &mut *out } else { &mut lanes };
            isa.store(ends[r][c], &mut to[16 * c..]);
        }
        if !whole {
            out.copy_from_slice(&lanes[..columns]);
        }
    }
}

/// Vector `c` of a row, as far as it goes.
#[inline(always)]
fn part_of(x: &[f32], c: usize) -> &[f32] {
    &x[(16 * c).min(x.len())..(16 * c + 16).min(x.len())]
}
