//! Products with block formats: sixteen weight rows a vector of the chain.
//!
//! 64 columns of sixteen weight rows are unpacked and interleaved by four columns in registers, and multiplied with every input row;
//! the rows' sums wait in memory meanwhile. Sums have the order of `products`, so the bits are the same. What is
//! not treated here goes there.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::blocks::{self, Blocks, Grid, LANES, STEP};
use crate::vectors::array;
use crate::{Format, Input, Matrix, Out, Quantized, Rows};

/// Input rows that go with a weight row before it is unpacked again: what they have should stay in the second cache.
const MOST_ROWS: usize = 64;

/// From how many input rows on two tiles of sixteen weight rows go together.
const TWO_FROM: usize = 16;

/// Bytes of a cache line.
const LINE: usize = 64;

/// What an input row brings to 64 columns, and its sums so far.
#[repr(align(64))]
struct Row {
    /// Sums so far, of up to two tiles of weight rows.
    acc: [[f32; LANES]; 2],
    /// Quants.
    x: *const i8,
    /// Scales of 32 quants.
    scales: *const f32,
    /// Sums of sixteen quants.
    sums: *const i32,
    /// Sums of 32 quants.
    pairs: *const i32,
    /// Sums of 32 quants, scaled.
    weighted: *const f32,
}

thread_local! {
    static ROWS: RefCell<Vec<Row>> = RefCell::default();
}

/// Outputs `range` (rows of the weight) of one product.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn product(w: &Matrix, range: Range<usize>, input: &Input, rows: Rows, out: &Out) {
    assert!(range.end <= w.rows);
    // Blocks of 32 columns may end within a chunk.
    let chunks = w.cols.is_multiple_of(64);
    match (w.format, input.quantized) {
        (Format::Q4K, Some(q)) => by_rows::<blocks::Q4K>(w, range, q, rows, out),
        (Format::Q5K, Some(q)) => by_rows::<blocks::Q5K>(w, range, q, rows, out),
        (Format::Q6K, Some(q)) => by_rows::<blocks::Q6K>(w, range, q, rows, out),
        (Format::Q2K, Some(q)) => by_rows::<blocks::Q2K>(w, range, q, rows, out),
        (Format::Q3K, Some(q)) => by_rows::<blocks::Q3K>(w, range, q, rows, out),
        (Format::Iq4Xs, Some(q)) => by_rows::<blocks::Iq4Xs>(w, range, q, rows, out),
        (Format::Q8_0, Some(q)) if chunks => by_rows::<blocks::Q8_0>(w, range, q, rows, out),
        (Format::Q4_0, Some(q)) if chunks => by_rows::<blocks::Q4_0>(w, range, q, rows, out),
        (Format::Q4_1, Some(q)) if chunks => by_rows::<blocks::Q4_1>(w, range, q, rows, out),
        (Format::Q5_0, Some(q)) if chunks => by_rows::<blocks::Q5_0>(w, range, q, rows, out),
        (Format::Q5_1, Some(q)) if chunks => by_rows::<blocks::Q5_1>(w, range, q, rows, out),
        (Format::Iq4Nl, Some(q)) if chunks => by_rows::<blocks::Iq4Nl>(w, range, q, rows, out),
        (Format::Mxfp4, Some(q)) if chunks => by_rows::<blocks::Mxfp4>(w, range, q, rows, out),
        // SAFETY: compiled for the features this function has.
        _ => unsafe { (super::GENERIC.product)(w, range, input, rows, out) },
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline(never)]
fn by_rows<B: Blocks>(w: &Matrix, range: Range<usize>, q: &Quantized, rows: Rows, out: &Out) {
    let (cols, n) = (w.cols, rows.len(q.rows));
    assert_eq!(cols, q.cols);
    let mut state = ROWS.take();
    for from in (0..n).step_by(MOST_ROWS) {
        state.clear();
        for i in from..n.min(from + MOST_ROWS) {
            let row = rows.at(i);
            state.push(Row {
                acc: [[0.0; LANES]; 2],
                x: q.row(row).as_ptr(),
                scales: q.scales[row * (cols / 32)..][..cols / 32].as_ptr(),
                sums: q.sums[row * (cols / 16)..][..cols / 16].as_ptr(),
                pairs: q.pairs[row * (cols / 32)..][..cols / 32].as_ptr(),
                weighted: q.weighted[row * (cols / 32)..][..cols / 32].as_ptr(),
            });
        }
        let mut first = range.start;
        while first < range.end {
            let left = range.end - first;
            for row in &mut state {
                row.acc = [[0.0; LANES]; 2];
            }
            let tiles = if state.len() >= TWO_FROM && left > LANES { 2 } else { 1 };
            // SAFETY: all of `state` are whole rows of as many columns as the weight has.
            unsafe {
                if tiles == 2 {
                    two_tiles::<B>(w, first, left.min(2 * LANES), &mut state);
                } else {
                    one_tile::<B>(w, first, left.min(LANES), &mut state);
                }
            }
            for (i, row) in state.iter().enumerate() {
                out.write(from + i, first, &row.acc.as_flattened()[..left.min(tiles * LANES)]);
            }
            first += tiles * LANES;
        }
    }
    ROWS.set(state);
}

/// Weight rows `first` to `first + count` with the input rows of `state`.
///
/// # Safety
/// Each of `state` has `w.cols` columns.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn one_tile<B: Blocks>(w: &Matrix, first: usize, count: usize, state: &mut [Row]) {
    let (mut scales, mut minima): (Grid, Grid) = ([[0.0; LANES]; 16], [[0.0; LANES]; 16]);
    let (cols, per_chunk) = (w.cols, 64 / B::GROUP);
    let mut at = starts(w, first, count);
    let mut next = at[0].wrapping_add(LANES * w.row(first).len());
    for k in (0..cols).step_by(STEP) {
        let chunks = ((cols - k) / 64).min(4);
        // SAFETY: each row has `cols` columns of whole blocks, of which `chunks * 64` are left.
        unsafe { B::scales(&at, &mut scales, &mut minima) };
        for c in 0..chunks {
            fetch::<B>(&mut next);
            // SAFETY: the 64 columns of chunk `c` are within each row.
            let v = unsafe { B::interleaved(&at, c, &mut scales, &mut minima) };
            let (s, m) = (&scales[c * per_chunk..][..per_chunk], &minima[c * per_chunk..][..per_chunk]);
            let column = k + 64 * c;
            // SAFETY: input rows have as many columns as the weight, and 64 of them from `column` on.
            unsafe { all_rows::<B>(&v, s, m, state, column) };
        }
        advance(&mut at, B::STEP_BYTES);
    }
}

/// Weight rows `first` to `first + count`, more than sixteen of them: what an input row brings is read once for both tiles.
///
/// # Safety
/// As for `one_tile`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn two_tiles<B: Blocks>(w: &Matrix, first: usize, count: usize, state: &mut [Row]) {
    let (mut scales, mut minima): ([Grid; 2], [Grid; 2]) = ([[[0.0; LANES]; 16]; 2], [[[0.0; LANES]; 16]; 2]);
    let (cols, per_chunk) = (w.cols, 64 / B::GROUP);
    let mut at = [starts(w, first, LANES), starts(w, first + LANES, count - LANES)];
    let mut next = at[0][0].wrapping_add(2 * LANES * w.row(first).len());
    let mut v = [[_mm512_setzero_si512(); 16]; 2];
    for k in (0..cols).step_by(STEP) {
        let chunks = ((cols - k) / 64).min(4);
        for t in 0..2 {
            // SAFETY: each row has `cols` columns of whole blocks, of which `chunks * 64` are left.
            unsafe { B::scales(&at[t], &mut scales[t], &mut minima[t]) };
        }
        for c in 0..chunks {
            for t in 0..2 {
                fetch::<B>(&mut next);
                // SAFETY: the 64 columns of chunk `c` are within each row.
                v[t] = unsafe { B::interleaved(&at[t], c, &mut scales[t], &mut minima[t]) };
            }
            let s = [&scales[0][c * per_chunk..][..per_chunk], &scales[1][c * per_chunk..][..per_chunk]];
            let m = [&minima[0][c * per_chunk..][..per_chunk], &minima[1][c * per_chunk..][..per_chunk]];
            let column = k + 64 * c;
            // SAFETY: input rows have as many columns as the weight, and 64 of them from `column` on.
            unsafe {
                half::<B, 0>(&v, s, m, state, column);
                half::<B, 1>(&v, s, m, state, column);
            }
        }
        for at in &mut at {
            advance(at, B::STEP_BYTES);
        }
    }
}

/// All input rows with half `H` of 64 columns of two tiles.
///
/// # Safety
/// As for `chunk`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
unsafe fn half<B: Blocks, const H: usize>(
    v: &[[__m512i; 16]; 2],
    s: [&[[f32; LANES]]; 2],
    m: [&[[f32; LANES]]; 2],
    rows: &mut [Row],
    column: usize,
) {
    let per_half = 32 / B::GROUP;
    let v: [[__m512i; 8]; 2] = array!(2, t, array!(8, j, v[t][8 * H + j]));
    let (s, m) = (array!(2, t, &s[t][H * per_half..]), array!(2, t, &m[t][H * per_half..]));
    let mut twos = rows.chunks_exact_mut(2);
    // SAFETY: as the caller's.
    unsafe {
        for two in &mut twos {
            both::<B, 2>(&v, s, m, two, column + 32 * H);
        }
        if let rest @ [_] = twos.into_remainder() {
            both::<B, 1>(&v, s, m, rest, column + 32 * H);
        }
    }
}

/// `R` input rows with 32 columns of two tiles.
///
/// # Safety
/// `rows` holds `R` rows that have 32 columns from `column` on; `s` and `m` begin with these columns' groups.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
unsafe fn both<B: Blocks, const R: usize>(
    v: &[[__m512i; 8]; 2],
    s: [&[[f32; LANES]]; 2],
    m: [&[[f32; LANES]]; 2],
    rows: &mut [Row],
    column: usize,
) {
    let mut acc = [[_mm512_setzero_ps(); 2]; R];
    for r in 0..R {
        acc[r] = [load(&rows[r].acc[0]), load(&rows[r].acc[1])];
    }
    // SAFETY: as the caller's.
    unsafe {
        group_of_two::<B, R, 0>(v, [&s[0][0], &s[1][0]], [&m[0][0], &m[1][0]], rows, column, &mut acc);
        if B::GROUP == 16 {
            group_of_two::<B, R, 1>(v, [&s[0][1], &s[1][1]], [&m[0][1], &m[1][1]], rows, column, &mut acc);
        }
    }
    for r in 0..R {
        for t in 0..2 {
            // SAFETY: sixteen f32.
            unsafe { _mm512_storeu_ps(rows[r].acc[t].as_mut_ptr(), acc[r][t]) };
        }
    }
}

/// Group `J` of those columns, as `group` has it.
///
/// # Safety
/// As for `both`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
unsafe fn group_of_two<B: Blocks, const R: usize, const J: usize>(
    v: &[[__m512i; 8]; 2],
    s: [&[f32; LANES]; 2],
    m: [&[f32; LANES]; 2],
    rows: &[Row],
    column: usize,
    acc: &mut [[__m512; 2]; R],
) {
    let (g, block) = (column / B::GROUP + J, column / 32);
    let mut dots = [[_mm512_setzero_si512(); 2]; R];
    for r in 0..R {
        if B::OFFSET != 0 {
            // SAFETY: g is a group of the row.
            let sum = unsafe { if B::GROUP == 16 { *rows[r].sums.add(g) } else { *rows[r].pairs.add(g) } };
            dots[r] = [_mm512_set1_epi32(sum.wrapping_mul(-B::OFFSET)); 2];
        }
    }
    for step in 0..B::GROUP / 4 {
        let at = J * B::GROUP + 4 * step;
        for r in 0..R {
            // SAFETY: the row has 32 columns from `column` on; the read is unaligned.
            let four = unsafe { rows[r].x.add(column + at).cast::<i32>().read_unaligned() };
            let four = _mm512_set1_epi32(four);
            dots[r][0] = _mm512_dpbusd_epi32(dots[r][0], v[0][at / 4], four);
            dots[r][1] = _mm512_dpbusd_epi32(dots[r][1], v[1][at / 4], four);
        }
    }
    for r in 0..R {
        // SAFETY: the row has such a block and group.
        let (d, weighted) = unsafe {
            let d = *rows[r].scales.add(block);
            (d, if B::GROUP == 16 { d * *rows[r].sums.add(g) as f32 } else { *rows[r].weighted.add(block) })
        };
        let (d, weighted) = (_mm512_set1_ps(d), _mm512_set1_ps(weighted));
        for t in 0..2 {
            acc[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r][t]), _mm512_mul_ps(load(s[t]), d), acc[r][t]);
            if B::MINIMA {
                acc[r][t] = _mm512_fnmadd_ps(load(m[t]), weighted, acc[r][t]);
            }
        }
    }
}

/// All input rows with 64 columns of sixteen weight rows.
///
/// # Safety
/// As for `chunk`, for each of `rows`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
unsafe fn all_rows<B: Blocks>(
    v: &[__m512i; 16],
    s: &[[f32; LANES]],
    m: &[[f32; LANES]],
    mut rows: &mut [Row],
    column: usize,
) {
    // SAFETY: as the caller's.
    unsafe {
        // More rows at a time hide more of the latency of short chains; registers suffice for two rows of long ones.
        if B::GROUP == 16 {
            let mut fours = rows.chunks_exact_mut(4);
            for four in &mut fours {
                chunk::<B, 4>(v, s, m, four, column);
            }
            rows = fours.into_remainder();
        }
        let mut twos = rows.chunks_exact_mut(2);
        for two in &mut twos {
            chunk::<B, 2>(v, s, m, two, column);
        }
        if let rest @ [_] = twos.into_remainder() {
            chunk::<B, 1>(v, s, m, rest, column);
        }
    }
}

/// `R` input rows with 64 columns of sixteen weight rows.
///
/// # Safety
/// `rows` holds `R` rows that have 64 columns from `column` on; `s` and `m` are of these columns' groups.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
unsafe fn chunk<B: Blocks, const R: usize>(
    v: &[__m512i; 16],
    s: &[[f32; LANES]],
    m: &[[f32; LANES]],
    rows: &mut [Row],
    column: usize,
) {
    let mut acc = [_mm512_setzero_ps(); R];
    for r in 0..R {
        acc[r] = load(&rows[r].acc[0]);
    }
    // SAFETY: as the caller's. Each group by its number: registers cannot be counted through.
    unsafe {
        group::<B, R, 0>(v, &s[0], &m[0], rows, column, &mut acc);
        group::<B, R, 1>(v, &s[1], &m[1], rows, column, &mut acc);
        if B::GROUP == 16 {
            group::<B, R, 2>(v, &s[2], &m[2], rows, column, &mut acc);
            group::<B, R, 3>(v, &s[3], &m[3], rows, column, &mut acc);
        }
    }
    for r in 0..R {
        // SAFETY: sixteen f32.
        unsafe { _mm512_storeu_ps(rows[r].acc[0].as_mut_ptr(), acc[r]) };
    }
}

/// Group `J` of those columns: `acc += dot * (s * d)`, then `acc -= m * (d * sum)`.
///
/// # Safety
/// As for `chunk`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
unsafe fn group<B: Blocks, const R: usize, const J: usize>(
    v: &[__m512i; 16],
    s: &[f32; LANES],
    m: &[f32; LANES],
    rows: &[Row],
    column: usize,
    acc: &mut [__m512; R],
) {
    let (g, block) = (column / B::GROUP + J, (column + J * B::GROUP) / 32);
    let mut dots = [_mm512_setzero_si512(); R];
    for r in 0..R {
        if B::OFFSET != 0 {
            // SAFETY: g is a group of the row.
            let sum = unsafe { if B::GROUP == 16 { *rows[r].sums.add(g) } else { *rows[r].pairs.add(g) } };
            dots[r] = _mm512_set1_epi32(sum.wrapping_mul(-B::OFFSET));
        }
    }
    for step in 0..B::GROUP / 4 {
        let at = J * B::GROUP + 4 * step;
        for r in 0..R {
            // SAFETY: the row has 64 columns from `column` on; the read is unaligned.
            let four = unsafe { rows[r].x.add(column + at).cast::<i32>().read_unaligned() };
            dots[r] = _mm512_dpbusd_epi32(dots[r], v[at / 4], _mm512_set1_epi32(four));
        }
    }
    let (s, m) = (load(s), load(m));
    for r in 0..R {
        // SAFETY: the row has such a block and group.
        let (d, weighted) = unsafe {
            let d = *rows[r].scales.add(block);
            (d, if B::GROUP == 16 { d * *rows[r].sums.add(g) as f32 } else { *rows[r].weighted.add(block) })
        };
        acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r]), _mm512_mul_ps(s, _mm512_set1_ps(d)), acc[r]);
        if B::MINIMA {
            acc[r] = _mm512_fnmadd_ps(m, _mm512_set1_ps(weighted), acc[r]);
        }
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

/// Asks for a quarter of a step of the next sixteen rows, into the second cache: the first holds the rows at hand. A prefetch of an
/// address that is not mapped does nothing.
#[target_feature(enable = "avx512f")]
#[inline]
fn fetch<B: Blocks>(next: &mut *const u8) {
    for line in (0..LANES * B::STEP_BYTES / 4).step_by(LINE) {
        _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(line).cast());
    }
    *next = next.wrapping_add(LANES * B::STEP_BYTES / 4);
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(x: &[f32; LANES]) -> __m512 {
    // SAFETY: sixteen f32.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}
