//! Products with weights stored as floats. An output is sixteen partial sums (lane `k mod 16`) and one tree; FP8 adds blocks of 128 columns,
//! each times its factor.
//!
//! A few rows multiply with numbers as they are loaded. Where there are more, some weight rows are widened to f32 first and used for all
//! input rows, in tiles that the registers hold.

use std::cell::Cell;
use std::ops::Range;

use crate::operands::Sides;
use crate::scratch::sized;
use crate::vectors::{Vectors, array};
use crate::{Format, Matrix, Out};

/// Weight rows of a tile.
const TILE: usize = 4;

/// Bytes that the widened rows should take at most, for the second cache.
const WIDENED_BYTES: usize = 128 << 10;

/// Input rows, at most, of a product that does not widen its weights.
const FEW: usize = 8;

/// Columns that a tile multiplies at a time, so that they stay in the first cache.
const NEAR: usize = 128;

/// Columns of an FP8 factor.
const SCALED: usize = 128;

thread_local! {
    // Taken out while in use: a closure around a kernel would be compiled without its instruction set.
    static WIDENED: Cell<Vec<f32>> = Cell::default();
}

/// How 16 stored floats are loaded.
trait Float {
    const BYTES: usize;
    /// Whether every 128 columns have a factor.
    const SCALED: bool;
    /// From how many input rows on weights are widened before use.
    const WIDEN_FROM: usize;
    fn load<V: Vectors>(isa: V, bytes: &[u8]) -> V::F;
}

macro_rules! float {
    ($name:ident, $bytes:expr, $scaled:expr, $widen:expr, $load:ident) => {
        struct $name;
        impl Float for $name {
            const BYTES: usize = $bytes;
            const SCALED: bool = $scaled;
            const WIDEN_FROM: usize = $widen;
            #[inline(always)]
            fn load<V: Vectors>(isa: V, bytes: &[u8]) -> V::F {
                isa.$load(bytes)
            }
        }
    };
}
float!(F32, 4, false, 9, load_f32_bytes);
float!(F16, 2, false, 9, load_f16_bytes);
float!(Bf16, 2, false, 9, load_bf16_bytes);
float!(E4m3, 1, true, 3, load_e4m3);

/// Outputs `range` (rows of the weight) of one product; `ahead` is what the thread will read next.
#[inline(always)]
pub fn product<V: Vectors>(isa: V, x: Sides, range: Range<usize>, ahead: &[u8], out: &mut Out) {
    match x.w.format {
        Format::F32 => of_format::<V, F32>(isa, x, range, ahead, out),
        Format::F16 => of_format::<V, F16>(isa, x, range, ahead, out),
        Format::Bf16 => of_format::<V, Bf16>(isa, x, range, ahead, out),
        _ => of_format::<V, E4m3>(isa, x, range, ahead, out),
    }
}

#[inline(always)]
fn of_format<V: Vectors, T: Float>(isa: V, x: Sides, range: Range<usize>, ahead: &[u8], out: &mut Out) {
    let (w, n) = (x.w, x.inputs());
    if n >= T::WIDEN_FROM {
        return many::<V, T>(isa, x, range, ahead, out);
    }
    let mut xs = [&[][..]; FEW];
    for (i, row) in xs.iter_mut().enumerate().take(n) {
        *row = x.row(i);
    }
    let mut o = range.start;
    while o < range.end {
        let four = o + 4 <= range.end;
        // The rows that come after these, or the next piece.
        let next = if o + 4 < range.end { w.rows_from(o + 4) } else { ahead };
        let mut i = 0;
        while i < n {
            let two = i + 2 <= n;
            // Memory is read with the first rows.
            let next = if i == 0 { next } else { &[] };
            match (four, two) {
                (true, true) if V::MANY_REGISTERS => dots::<V, T, 4, 2>(isa, w, [xs[i], xs[i + 1]], (o, i), next, out),
                (true, true) => {
                    dots::<V, T, 2, 2>(isa, w, [xs[i], xs[i + 1]], (o, i), next, out);
                    let next = next.get(2 * w.cols * T::BYTES..).unwrap_or_default();
                    dots::<V, T, 2, 2>(isa, w, [xs[i], xs[i + 1]], (o + 2, i), next, out);
                }
                (true, false) => dots::<V, T, 4, 1>(isa, w, [xs[i]], (o, i), next, out),
                (false, true) => dots::<V, T, 1, 2>(isa, w, [xs[i], xs[i + 1]], (o, i), next, out),
                (false, false) => dots::<V, T, 1, 1>(isa, w, [xs[i]], (o, i), next, out),
            }
            i += if two { 2 } else { 1 };
        }
        o += if four { 4 } else { 1 };
    }
}

/// Input rows `x`, of which the first is number `i`, with `O` weight rows from `o` on. Asks for the first rows of `next`, a line when one of these is read.
#[inline(always)]
fn dots<V: Vectors, T: Float, const O: usize, const R: usize>(
    isa: V,
    w: &Matrix,
    x: [&[f32]; R],
    (o, i): (usize, usize),
    next: &[u8],
    out: &mut Out,
) {
    const LINE: usize = 64;
    let cols = w.cols;
    let row = cols * T::BYTES;
    let bytes: [&[u8]; O] = array!(O, a, w.row(o + a));
    let next: [&[u8]; O] = array!(O, a, next.get(a * row..).unwrap_or_default());
    let mut total = [[isa.splat(0.0); R]; O];
    let block = if T::SCALED { SCALED } else { cols.max(1) };
    let mut from = 0;
    while from < cols {
        let to = (from + block).min(cols);
        let mut acc = [[isa.splat(0.0); R]; O];
        let mut k = from;
        while k + 16 <= to {
            if (k * T::BYTES).is_multiple_of(LINE) {
                for a in 0..O {
                    if let Some(line) = next[a].get(k * T::BYTES..) {
                        isa.prefetch(line);
                    }
                }
            }
            let xv: [V::F; R] = array!(R, r, isa.load(&x[r][k..k + 16]));
            for a in 0..O {
                let wv = T::load(isa, &bytes[a][k * T::BYTES..(k + 16) * T::BYTES]);
                for r in 0..R {
                    acc[a][r] = isa.fma(wv, xv[r], acc[a][r]);
                }
            }
            k += 16;
        }
        if k < to {
            for a in 0..O {
                let wv = last::<V, T>(isa, bytes[a], k);
                for r in 0..R {
                    acc[a][r] = isa.fma(wv, isa.load_part(&x[r][k..to]), acc[a][r]);
                }
            }
        }
        add_block::<V, T, O, R>(isa, w, o, from, &acc, &mut total);
        from = to;
    }
    for r in 0..R {
        let sums: [f32; O] = array!(O, a, isa.sum(total[a][r]));
        out.write(i + r, o, &sums);
    }
}

/// The last columns of a row, from `k` on and fewer than 16, and zeros.
#[inline(always)]
fn last<V: Vectors, T: Float>(isa: V, bytes: &[u8], k: usize) -> V::F {
    let (mut tail, rest) = ([0u8; 64], &bytes[k * T::BYTES..]);
    tail[..rest.len()].copy_from_slice(rest);
    T::load(isa, &tail[..16 * T::BYTES])
}

/// A block of columns to the sums of a tile, with the factors of its weight rows where they have some.
#[inline(always)]
fn add_block<V: Vectors, T: Float, const O: usize, const R: usize>(
    isa: V,
    w: &Matrix,
    o: usize,
    from: usize,
    acc: &[[V::F; R]; O],
    total: &mut [[V::F; R]; O],
) {
    if !T::SCALED {
        *total = *acc;
        return;
    }
    for a in 0..O {
        let scale = isa.splat(w.scales_of_row(o + a)[from / SCALED]);
        for r in 0..R {
            total[a][r] = isa.fma(acc[a][r], scale, total[a][r]);
        }
    }
}

/// Widened weight rows, and where their tiles stand.
#[derive(Clone, Copy)]
struct Widened<'a> {
    /// `[row][stride]`, zeros beyond the columns, to a multiple of 16.
    rows: &'a [f32],
    /// The first of them.
    first: usize,
    /// Numbers from one row to the next.
    stride: usize,
}

#[inline(always)]
fn many<V: Vectors, T: Float>(isa: V, x: Sides, range: Range<usize>, ahead: &[u8], out: &mut Out) {
    let (w, n, row) = (x.w, x.inputs(), x.w.cols * T::BYTES);
    let width = w.cols.next_multiple_of(16);
    // An odd number of lines, so that rows do not share a few sets of the first cache.
    let stride = 16 * ((width / 16) | 1);
    let together = (WIDENED_BYTES / (4 * stride)).clamp(TILE, 32) / TILE * TILE;
    let mut buffer = WIDENED.take();
    let mut first = range.start;
    while first < range.end {
        let count = together.min(range.end - first);
        let widened = sized(&mut buffer, count * stride);
        for (r, out) in widened.chunks_exact_mut(stride).enumerate() {
            let bytes = w.row(first + r);
            for (bytes, out) in bytes.chunks_exact(16 * T::BYTES).zip(out.chunks_exact_mut(16)) {
                isa.store(T::load(isa, bytes), out);
            }
            if width > w.cols {
                isa.store(last::<V, T>(isa, bytes, width - 16), &mut out[width - 16..width]);
            }
        }
        let after = first + count;
        let next = if after < range.end { w.rows_from(after) } else { ahead };
        let mut next = next[..next.len().min(together.min(w.rows) * row)].chunks(64);
        let tiles = count.div_ceil(TILE) * n.div_ceil(V::TILE_ROWS);
        let lines = next.len().div_ceil(tiles);
        let widened = Widened { rows: widened, first, stride };
        let mut i = 0;
        while i < n {
            // A last row alone would leave most of the arithmetic idle.
            let most = if n - i == V::TILE_ROWS + 1 { V::TILE_ROWS - 1 } else { V::TILE_ROWS };
            let some = most.min(n - i);
            for o in (0..count).step_by(TILE) {
                for line in next.by_ref().take(lines) {
                    isa.prefetch(line);
                }
                let weights = TILE.min(count - o);
                match (weights == TILE, some) {
                    (true, 4) => tile::<V, T, TILE, 4>(isa, x, widened, (o, i), out),
                    (true, 3) => tile::<V, T, TILE, 3>(isa, x, widened, (o, i), out),
                    (true, 2) => tile::<V, T, TILE, 2>(isa, x, widened, (o, i), out),
                    (true, _) => tile::<V, T, TILE, 1>(isa, x, widened, (o, i), out),
                    (false, _) => {
                        for o in o..o + weights {
                            for i in i..i + some {
                                tile::<V, T, 1, 1>(isa, x, widened, (o, i), out);
                            }
                        }
                    }
                }
            }
            i += some;
        }
        first = after;
    }
    WIDENED.set(buffer);
}

/// `R` input rows, from `i` on, with `O` widened rows from number `o` on.
#[inline(always)]
fn tile<V: Vectors, T: Float, const O: usize, const R: usize>(
    isa: V,
    sides: Sides,
    widened: Widened,
    (o, i): (usize, usize),
    out: &mut Out,
) {
    let (w, cols, Widened { first, stride, .. }) = (sides.w, sides.w.cols, widened);
    let ws: [&[f32]; O] = array!(O, a, &widened.rows[(o + a) * stride..][..stride]);
    let x: [&[f32]; R] = array!(R, r, sides.row(i + r));
    let mut total = [[isa.splat(0.0); R]; O];
    let block = if T::SCALED { SCALED } else { cols.max(1) };
    let mut from = 0;
    while from < cols {
        let to = (from + block).min(cols);
        let whole = from + (to - from) / 16 * 16;
        let mut acc = [[isa.splat(0.0); R]; O];
        let mut k = from;
        while k < whole {
            let end = whole.min(k + NEAR);
            isa.dot_tile(array!(O, a, &ws[a][k..end]), array!(R, r, &x[r][k..end]), &mut acc);
            k = end;
        }
        if whole < to {
            for a in 0..O {
                let wv = isa.load(&ws[a][whole..]);
                for r in 0..R {
                    acc[a][r] = isa.fma(wv, isa.load_part(&x[r][whole..to]), acc[a][r]);
                }
            }
        }
        add_block::<V, T, O, R>(isa, w, first + o, from, &acc, &mut total);
        from = to;
    }
    for r in 0..R {
        let sums: [f32; O] = array!(O, a, isa.sum(total[a][r]));
        out.write(i + r, first + o, &sums);
    }
}
