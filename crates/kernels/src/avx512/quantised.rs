//! Products with the common block formats: quants unpacked in registers, sixteen weight rows a vector of the chain.
//!
//! Few input rows: each 64 columns of sixteen weight rows are multiplied and added up in a tree, straight from the stored bytes.
//! Many: sixteen weight rows are unpacked once, interleaved by four columns, and multiplied with up to twelve input rows at a time.
//! Sums have the order of `products`, so the bits are the same. Formats and widths not treated here go there.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::blocks::{self, Blocks, Grid, LANES, STEP, load_z, quarters, transpose};
use crate::vectors::array;
use crate::{Format, Input, Matrix, Out, Quantized, Rows};

/// Up to how many input rows stored bytes are multiplied without a tile.
const DIRECT_ROWS: usize = 3;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Sixteen unpacked weight rows.
#[derive(Default)]
struct Tile {
    /// `[cols / 4][16 rows][4 columns]`
    quants: Vec<Line>,
    /// `[groups][16 rows]`
    scales: Vec<[f32; LANES]>,
    /// `[groups][16 rows]`
    minima: Vec<[f32; LANES]>,
}

/// A cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; 64]);

thread_local! {
    static TILE: RefCell<Tile> = RefCell::default();
}

/// Outputs `range` (rows of the weight) of one product.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn product(w: &Matrix, range: Range<usize>, input: &Input, rows: Rows, out: &Out) {
    assert!(range.end <= w.rows);
    match (w.format, input.quantized) {
        (Format::Q4K, Some(q)) => by_rows::<blocks::Q4K>(w, range, q, rows, out),
        (Format::Q5K, Some(q)) => by_rows::<blocks::Q5K>(w, range, q, rows, out),
        (Format::Q6K, Some(q)) => by_rows::<blocks::Q6K>(w, range, q, rows, out),
        (Format::Q8_0, Some(q)) if w.cols.is_multiple_of(64) => by_rows::<blocks::Q8_0>(w, range, q, rows, out),
        (Format::Q4_0, Some(q)) if w.cols.is_multiple_of(64) => by_rows::<blocks::Q4_0>(w, range, q, rows, out),
        (Format::Q5_0, Some(q)) if w.cols.is_multiple_of(64) => by_rows::<blocks::Q5_0>(w, range, q, rows, out),
        // SAFETY: compiled for the features this function has.
        _ => unsafe { (super::GENERIC.product)(w, range, input, rows, out) },
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn by_rows<B: Blocks>(w: &Matrix, range: Range<usize>, q: &Quantized, rows: Rows, out: &Out) {
    let n = rows.len(q.rows);
    match n {
        0 => {}
        1 => direct::<B, 1>(w, range, q, rows, out),
        2 => direct::<B, 2>(w, range, q, rows, out),
        DIRECT_ROWS => direct::<B, 3>(w, range, q, rows, out),
        _ => TILE.with_borrow_mut(|tile| {
            for first in range.clone().step_by(LANES) {
                let count = LANES.min(range.end - first);
                unpack::<B>(w, first, count, tile);
                let mut i = 0;
                while i < n {
                    i += match n - i {
                        12.. => tiled::<B, 12>(tile, q, rows, i, out, first, count),
                        8.. => tiled::<B, 8>(tile, q, rows, i, out, first, count),
                        4.. => tiled::<B, 4>(tile, q, rows, i, out, first, count),
                        2.. => tiled::<B, 2>(tile, q, rows, i, out, first, count),
                        _ => tiled::<B, 1>(tile, q, rows, i, out, first, count),
                    };
                }
            }
        }),
    }
}

/// Starts of sixteen weight rows; the last of `count` stands in for those beyond it.
#[inline(always)]
fn starts(w: &Matrix, first: usize, count: usize) -> blocks::Rows {
    let mut rows = [std::ptr::null(); LANES];
    for (r, start) in rows.iter_mut().enumerate() {
        *start = w.row(first + r.min(count - 1)).as_ptr();
    }
    rows
}

/// The same place in each row, `bytes` further.
#[inline(always)]
fn advance(rows: &mut blocks::Rows, bytes: usize) {
    for row in rows {
        *row = row.wrapping_add(bytes);
    }
}

/// The sum of quants of group `g`, from sums of sixteen.
#[inline(always)]
fn sum_of<B: Blocks>(sums: &[i32], g: usize) -> i32 {
    if B::GROUP == 16 { sums[g] } else { sums[2 * g] + sums[2 * g + 1] }
}

/// Four rows' products of 64 columns with x: lane 4c + r is row r's sum over columns 16c to 16c + 16.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn quad(w: [__m512i; 4], x: __m512i) -> __m512i {
    let zero = _mm512_setzero_si512();
    let (a, b) = (_mm512_dpbusd_epi32(zero, w[0], x), _mm512_dpbusd_epi32(zero, w[1], x));
    let (c, d) = (_mm512_dpbusd_epi32(zero, w[2], x), _mm512_dpbusd_epi32(zero, w[3], x));
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

/// `N` input rows with sixteen weight rows at a time, straight from stored bytes.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn direct<B: Blocks, const N: usize>(w: &Matrix, range: Range<usize>, q: &Quantized, rows: Rows, out: &Out) {
    let cols = w.cols;
    let x: [&[i8]; N] = array!(N, i, q.row(rows.at(i)));
    let d: [&[f32]; N] = array!(N, i, &q.scales[rows.at(i) * (cols / 32)..][..cols / 32]);
    let sums: [&[i32]; N] = array!(N, i, &q.sums[rows.at(i) * (cols / 16)..][..cols / 16]);
    let (mut scales, mut minima): (Grid, Grid) = ([[0.0; LANES]; 16], [[0.0; LANES]; 16]);
    let per_chunk = 64 / B::GROUP;
    for first in range.clone().step_by(LANES) {
        let count = LANES.min(range.end - first);
        let mut at = starts(w, first, count);
        let mut next = at[0].wrapping_add(LANES * w.row(first).len());
        let mut acc = [_mm512_setzero_ps(); N];
        for k in (0..cols).step_by(STEP) {
            let chunks = ((cols - k) / 64).min(4);
            // SAFETY: each row has `cols` columns of whole blocks, of which `chunks * 64` are left.
            unsafe { B::scales(&at, chunks * per_chunk, &mut scales, &mut minima) };
            for c in 0..chunks {
                // The next rows, a little at a time, into the second cache: the first holds the rows at hand. A prefetch of an
                // address that is not mapped does nothing.
                for line in (0..LANES * B::STEP_BYTES / 4).step_by(LINE) {
                    _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(line).cast());
                }
                next = next.wrapping_add(LANES * B::STEP_BYTES / 4);
                let column = k + 64 * c;
                let mut xs = [_mm512_setzero_si512(); N];
                for (xs, x) in xs.iter_mut().zip(&x) {
                    // SAFETY: the slice has 64 bytes.
                    *xs = unsafe { load_z(x[column..column + 64].as_ptr().cast()) };
                }
                let mut quads = [[_mm512_setzero_si512(); 4]; N];
                for j in 0..4 {
                    // SAFETY: the 64 columns of chunk `c` are within each row.
                    let v = unsafe {
                        [
                            B::quants(at[4 * j], c),
                            B::quants(at[4 * j + 1], c),
                            B::quants(at[4 * j + 2], c),
                            B::quants(at[4 * j + 3], c),
                        ]
                    };
                    for i in 0..N {
                        quads[i][j] = quad(v, xs[i]);
                    }
                }
                for i in 0..N {
                    let [a, b, e, f] = quads[i];
                    let dots = if B::GROUP == 16 {
                        quarters(a, b, e, f)
                    } else {
                        let ab =
                            _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
                        let ef =
                            _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(e, f), _mm512_shuffle_i32x4::<0xdd>(e, f));
                        let (even, odd) = (_mm512_shuffle_i32x4::<0x88>(ab, ef), _mm512_shuffle_i32x4::<0xdd>(ab, ef));
                        [even, odd, even, odd]
                    };
                    for (j, &dot) in dots[..per_chunk].iter().enumerate() {
                        let local = c * per_chunk + j;
                        let sum = sum_of::<B>(sums[i], column / B::GROUP + j);
                        let scale = d[i][(column + j * B::GROUP) / 32];
                        let dot = _mm512_add_epi32(dot, _mm512_set1_epi32(sum.wrapping_mul(-B::OFFSET)));
                        acc[i] = group::<B>(acc[i], dot, &scales[local], &minima[local], scale, sum);
                    }
                }
            }
            advance(&mut at, B::STEP_BYTES);
        }
        for (i, &acc) in acc.iter().enumerate() {
            write(acc, out, i, first, count);
        }
    }
}

/// One step of the chain: `acc += dot * (s * d)`, then `acc -= m * (d * sum)`.
#[target_feature(enable = "avx512f")]
#[inline]
fn group<B: Blocks>(acc: __m512, dot: __m512i, s: &[f32; LANES], m: &[f32; LANES], d: f32, sum: i32) -> __m512 {
    let acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(load(s), _mm512_set1_ps(d)), acc);
    if B::MINIMA { _mm512_fnmadd_ps(load(m), _mm512_set1_ps(d * sum as f32), acc) } else { acc }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(x: &[f32; LANES]) -> __m512 {
    // SAFETY: sixteen f32.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn write(acc: __m512, out: &Out, row: usize, first: usize, count: usize) {
    let mut lanes = [0f32; LANES];
    // SAFETY: sixteen f32.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), acc) }
    out.write(row, first, &lanes[..count]);
}

/// Fills `tile` with weight rows `first` to `first + count`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn unpack<B: Blocks>(w: &Matrix, first: usize, count: usize, tile: &mut Tile) {
    let (cols, groups) = (w.cols, w.cols / B::GROUP);
    tile.quants.resize(cols / 4, Line([0; 64]));
    tile.scales.resize(groups, [0.0; LANES]);
    tile.minima.resize(if B::MINIMA { groups } else { 0 }, [0.0; LANES]);
    let mut at = starts(w, first, count);
    let (mut scales, mut minima): (Grid, Grid) = ([[0.0; LANES]; 16], [[0.0; LANES]; 16]);
    for k in (0..cols).step_by(STEP) {
        let chunks = ((cols - k) / 64).min(4);
        let (from, some) = (k / B::GROUP, chunks * 64 / B::GROUP);
        // SAFETY: each row has `cols` columns of whole blocks, of which `chunks * 64` are left.
        unsafe { B::scales(&at, some, &mut scales, &mut minima) };
        tile.scales[from..from + some].copy_from_slice(&scales[..some]);
        if B::MINIMA {
            tile.minima[from..from + some].copy_from_slice(&minima[..some]);
        }
        for c in 0..chunks {
            let mut v = [_mm512_setzero_si512(); LANES];
            for (v, &row) in v.iter_mut().zip(&at) {
                // SAFETY: the 64 columns of chunk `c` are within each row.
                *v = unsafe { B::quants(row, c) };
            }
            transpose(&mut v);
            for (line, v) in tile.quants[k / 4 + 16 * c..][..16].iter_mut().zip(v) {
                // SAFETY: a line is 64 bytes.
                unsafe { _mm512_storeu_si512(line.0.as_mut_ptr().cast(), v) }
            }
        }
        advance(&mut at, B::STEP_BYTES);
    }
}

/// Input rows `i` to `i + R` with a tile; returns R.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn tiled<B: Blocks, const R: usize>(
    tile: &Tile,
    q: &Quantized,
    rows: Rows,
    i: usize,
    out: &Out,
    first: usize,
    count: usize,
) -> usize {
    let cols = q.cols;
    let x: [*const i8; R] = array!(R, r, q.row(rows.at(i + r)).as_ptr());
    let d: [*const f32; R] = array!(R, r, q.scales[rows.at(i + r) * (cols / 32)..][..cols / 32].as_ptr());
    let sums: [*const i32; R] = array!(R, r, q.sums[rows.at(i + r) * (cols / 16)..][..cols / 16].as_ptr());
    assert_eq!(tile.quants.len(), cols / 4);
    let mut acc = [_mm512_setzero_ps(); R];
    for (g, lines) in tile.quants.chunks_exact(B::GROUP / 4).enumerate() {
        let mut group_sums = [0; R];
        let mut dots = [_mm512_setzero_si512(); R];
        for r in 0..R {
            // SAFETY: g is a group of a row of x, which has cols / 16 sums.
            group_sums[r] =
                unsafe { if B::GROUP == 16 { *sums[r].add(g) } else { *sums[r].add(2 * g) + *sums[r].add(2 * g + 1) } };
            dots[r] = _mm512_set1_epi32(group_sums[r].wrapping_mul(-B::OFFSET));
        }
        for step in 0..B::GROUP / 4 {
            // SAFETY: a line is 64 bytes.
            let v = unsafe { load_z(lines[step].0.as_ptr()) };
            for r in 0..R {
                // SAFETY: the tile has as many groups of columns as a row of x, which is `cols` long.
                let four = unsafe { x[r].add(g * B::GROUP + 4 * step).cast::<i32>().read_unaligned() };
                dots[r] = _mm512_dpbusd_epi32(dots[r], v, _mm512_set1_epi32(four));
            }
        }
        let s = &tile.scales[g];
        let m = if B::MINIMA { &tile.minima[g] } else { s };
        for r in 0..R {
            // SAFETY: as above; a row of x has cols / 32 scales.
            let scale = unsafe { *d[r].add(g * B::GROUP / 32) };
            acc[r] = group::<B>(acc[r], dots[r], s, m, scale, group_sums[r]);
        }
    }
    for (r, &acc) in acc.iter().enumerate() {
        write(acc, out, i + r, first, count);
    }
    R
}
