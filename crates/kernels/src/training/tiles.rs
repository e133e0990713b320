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
    /// To be packed by the part that takes it, as `Layout::Rows`.
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
        let right = right_panels::<V>(words);
        let (a, stride, in_rows) = match part.left {
            Left::Packed(packed, all) => {
                let from = left_at + left_packed::<V>(rows.start, words);
                left_at += left_packed::<V>(all, words);
                (&packed[from..][..left_packed::<V>(rows.len(), words)], left_panels::<V>(words).stride, false)
            }
            Left::Plain(factor) => {
                let plane = rows.len().next_multiple_of(R) * 16;
                let a = aligned(&mut scratch, plane * words.div_ceil(16));
                pack_rows(isa, mul, &factor, rows.clone(), ks.clone(), plane, a);
                (&*a, plane, true)
            }
        };
        let add = k > part.inner.start || part.add;
        for col in columns.clone().step_by(N) {
            let (a, place) = ((a, stride, rows.len()), (col, (part.columns - col).min(N), add));
            let right = &part.b[at + col * words..][..words * right.width_of(part.columns - col)];
            if in_rows {
                panel::<V, M, R, S, T, C, N, true>(isa, mul, a, right, place, out, rows.len());
            } else {
                panel::<V, M, R, S, T, C, N, false>(isa, mul, a, right, place, out, rows.len());
            }
        }
        at += part.columns.next_multiple_of(16) * words;
    }
    PANELS.set(scratch);
}

/// Some rows times a panel of the right factor, `[word][16 or N]`: columns `col..col + valid` of `out`. Panels of the left factor are `stride`
/// words apart and have `all` rows; with `ROWS` it lies in rows instead, whose planes are `stride` words apart (see `Layout`).
#[inline(always)]
fn panel<
    V: Vectors,
    M: Multiply<V>,
    const R: usize,
    const S: usize,
    const T: usize,
    const C: usize,
    const N: usize,
    const ROWS: bool,
>(
    isa: V,
    mul: M,
    (left, stride, all): (&[i32], usize, usize),
    right: &[i32],
    (col, valid, add): (usize, usize, bool),
    out: &mut Out,
    rows: usize,
) {
    let wide = valid > 16;
    let words = right.len() / if wide { N } else { 16 };
    for (i, row) in (0..rows).step_by(R).enumerate() {
        let height = match all - row {
            left if left <= T => T,
            left if left <= S => S,
            _ => R,
        };
        let a = if ROWS { &left[row * 16..] } else { &left[i * stride..][..words * height] };
        let place = Place { row, col, rows: (rows - row).min(height), columns: valid, add, plane: stride };
        match (height == R, height == S, wide && N > 16) {
            (true, _, true) => tile::<V, M, R, C, N, ROWS>(isa, mul, a, right, place, out),
            (true, _, false) => tile::<V, M, R, 1, 16, ROWS>(isa, mul, a, right, place, out),
            (_, true, true) => tile::<V, M, S, C, N, ROWS>(isa, mul, a, right, place, out),
            (_, true, false) => tile::<V, M, S, 1, 16, ROWS>(isa, mul, a, right, place, out),
            (_, _, true) => tile::<V, M, T, C, N, ROWS>(isa, mul, a, right, place, out),
            (_, _, false) => tile::<V, M, T, 1, 16, ROWS>(isa, mul, a, right, place, out),
        }
    }
}

/// How a packed left factor lies.
#[derive(Clone, Copy)]
pub(crate) enum Layout {
    /// Panels, so many words apart, of so many rows in all.
    Panels { stride: usize, rows: usize },
    /// Sixteen words of every row, then the next sixteen of every row, so many words after: as `Multiply::in_order` makes them. Whole tiles of
    /// rows are there.
    Rows { plane: usize },
}

/// Factors that are packed already, of an inner dimension that is treated at once.
pub(crate) struct Strips<'a> {
    pub left: &'a [i32],
    pub layout: Layout,
    /// Panels, so many words apart.
    pub right: &'a [i32],
    pub right_stride: usize,
    /// Words of the inner dimension: at most what is packed.
    pub words: usize,
    /// Whether sums begin with what the output holds.
    pub add: bool,
}

/// Pack rows of a left factor as `Layout::Rows`.
#[inline(always)]
pub(crate) fn pack_rows<V: Vectors, M: Multiply<V>>(
    isa: V,
    mul: M,
    a: &Factor,
    rows: Range<usize>,
    ks: Range<usize>,
    plane: usize,
    packed: &mut [i32],
) {
    for (i, row) in rows.enumerate() {
        for (v, numbers) in a.row(row)[ks.clone()].chunks(16 * M::NUMBERS).enumerate() {
            let whole = numbers.len() == 16 * M::NUMBERS;
            let words = if whole { mul.along(isa, numbers) } else { mul.along_part(isa, numbers) };
            isa.store_i(words, &mut packed[v * plane + 16 * i..][..16]);
        }
    }
}

/// All columns of `rows` rows, which are what `out` has.
#[inline(always)]
pub(crate) fn strips<V: Vectors, M: Multiply<V>>(
    isa: V,
    mul: M,
    strips: &Strips,
    rows: usize,
    columns: usize,
    out: &mut Out,
) {
    let Strips { left, layout, right, right_stride, words, add } = *strips;
    let width = panel_columns::<V>();
    let (left, in_rows) = match layout {
        Layout::Panels { stride, rows } => ((left, stride, rows), false),
        Layout::Rows { plane } => ((left, plane, rows), true),
    };
    for (i, col) in (0..columns).step_by(width).enumerate() {
        let valid = (columns - col).min(width);
        let right = &right[i * right_stride..][..words * if valid > 16 { width } else { 16 }];
        let place = (col, valid, add);
        match (in_rows, V::MANY_REGISTERS) {
            (false, true) => panel::<V, M, 12, 8, 4, 2, 32, false>(isa, mul, left, right, place, out, rows),
            (false, false) => panel::<V, M, 6, 4, 2, 1, 16, false>(isa, mul, left, right, place, out, rows),
            (true, true) => panel::<V, M, 12, 8, 4, 2, 32, true>(isa, mul, left, right, place, out, rows),
            (true, false) => panel::<V, M, 6, 4, 2, 1, 16, true>(isa, mul, left, right, place, out, rows),
        }
    }
}

/// Where a tile's sums lie.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    col: usize,
    rows: usize,
    columns: usize,
    /// Whether sums begin with what is there.
    add: bool,
    /// Of a left factor in rows.
    plane: usize,
}

#[inline(always)]
fn tile<V: Vectors, M: Multiply<V>, const R: usize, const C: usize, const N: usize, const ROWS: bool>(
    isa: V,
    mul: M,
    a: &[i32],
    b: &[i32],
    place: Place,
    out: &mut Out,
) {
    const { assert!(N == 16 * C) };
    let Place { add, plane, .. } = place;
    let start = if add { sums_before::<V, R, C, N>(isa, place, out) } else { [[isa.splat(0.0); C]; R] };
    // An array of its own, every index of which is a constant: so it is in registers.
    let mut sums = start;
    if ROWS {
        for (v, b) in b.as_chunks::<N>().0.chunks(16).enumerate() {
            let rows: &[[i32; 16]; R] = a[v * plane..].as_chunks::<16>().0.first_chunk().expect("whole tiles of rows");
            for (w, b) in b.iter().enumerate() {
                let b: [V::I; C] = array!(C, c, isa.load_i(&b[16 * c..]));
                for r in 0..R {
                    for c in 0..C {
                        sums[r][c] = mul.step(isa, sums[r][c], rows[r][(w ^ M::SWAPPED) % 16], b[c]);
                    }
                }
            }
        }
    } else {
        for (a, b) in a.as_chunks::<R>().0.iter().zip(b.as_chunks::<N>().0) {
            let b: [V::I; C] = array!(C, c, isa.load_i(&b[16 * c..]));
            for r in 0..R {
                for c in 0..C {
                    sums[r][c] = mul.step(isa, sums[r][c], a[r], b[c]);
                }
            }
        }
    }
    put_sums::<V, R, C, N>(isa, sums, place, out);
}

/// What the output holds.
#[inline(always)]
fn sums_before<V: Vectors, const R: usize, const C: usize, const N: usize>(
    isa: V,
    place: Place,
    out: &mut Out,
) -> [[V::F; C]; R] {
    let Place { row, col, rows, columns, .. } = place;
    let mut sums = [[isa.splat(0.0); C]; R];
    if rows == R && columns == N {
        let mut to = out.tile::<R, N>(row, col);
        for r in 0..R {
            for c in 0..C {
                sums[r][c] = isa.load(&to.row(r)[16 * c..]);
            }
        }
        return sums;
    }
    for r in 0..R {
        if r < rows {
            let out = out.row(row + r, col, columns);
            for c in 0..C {
                // Masked loads are slow on some processors.
                sums[r][c] = if columns == N { isa.load(&out[16 * c..]) } else { isa.load_part(part_of(out, c)) };
            }
        }
    }
    sums
}

#[inline(always)]
fn put_sums<V: Vectors, const R: usize, const C: usize, const N: usize>(
    isa: V,
    sums: [[V::F; C]; R],
    place: Place,
    out: &mut Out,
) {
    let Place { row, col, rows, columns, .. } = place;
    if rows == R && columns == N {
        let mut to = out.tile::<R, N>(row, col);
        for r in 0..R {
            for c in 0..C {
                isa.store(sums[r][c], &mut to.row(r)[16 * c..]);
            }
        }
        return;
    }
    for r in 0..R {
        if r < rows {
            let out = out.row(row + r, col, columns);
            for c in 0..C {
                if columns == N {
                    isa.store(sums[r][c], &mut out[16 * c..]);
                } else {
                    isa.store_part(sums[r][c], part_of_mut(out, c));
                }
            }
        }
    }
}

/// Vector `c` of a row, as far as it goes.
#[inline(always)]
fn part_of(x: &[f32], c: usize) -> &[f32] {
    &x[(16 * c).min(x.len())..(16 * c + 16).min(x.len())]
}

#[inline(always)]
fn part_of_mut(x: &mut [f32], c: usize) -> &mut [f32] {
    let end = x.len();
    &mut x[(16 * c).min(end)..(16 * c + 16).min(end)]
}
