//! Products with block formats: sixteen weight rows a vector of the chain.
//!
//! 64 columns of sixteen weight rows are unpacked and interleaved by four columns in registers, and multiplied with every input row
//! of a panel; the rows' sums wait in the first cache meanwhile. Sums have the order of `products`, so the bits are the same. What is
//! not treated here goes there.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::lanes::Sixteen;
use crate::avx2::single;
use crate::dequantize::with_format;
use crate::panels::{Hints, PANEL_ROWS, Panel, PanelPlace, in_turn};
use crate::unpack::{self, LINE, STEP, Unpack, advance, starts};
use crate::{Input, Matrix, Out, Rows};

/// Weight rows treated together: one lane each.
const LANES: usize = 16;

type Grid = unpack::Grid<LANES>;

const ZERO: Grid = Grid { scales: [[0.0; LANES]; 16], minima: [[0.0; LANES]; 16] };

/// From how many input rows on two tiles of sixteen weight rows go together.
const TWO_FROM: usize = 9;

/// Input rows whose sums of two tiles, floats and integers, fit in registers.
const MANY: usize = 6;

/// Sums so far: of each input row for up to two tiles of weight rows.
#[repr(align(64))]
struct Sums {
    _rows: [[[f32; LANES]; 2]; PANEL_ROWS],
}

/// Outputs `range` (rows of the weight) of one product.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn product(w: &Matrix, range: Range<usize>, input: &Input, rows: Rows, hints: Hints, out: &mut Out) {
    assert!(range.end <= w.rows);
    if hints.0.is_empty() {
        // SAFETY: compiled for the features this function has.
        return unsafe { (super::GENERIC.product)(w, range, input, rows, hints, out) };
    }
    for (from, panel, ahead) in in_turn(hints, w.rows_from(range.start)) {
        assert_eq!(panel.cols(), w.cols);
        let range = range.clone();
        with_format!(w.format, B, {
            if panel.rows() == 1 && single::preferred() {
                single::product::<B>(w, range, (panel, ahead), from, out);
            } else {
                by_panel::<B>(w, range, (panel, ahead), from, out);
            }
        });
    }
}

/// Outputs of one panel, whose first row is row `from` of the output.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline(never)]
fn by_panel<B: Unpack>(w: &Matrix, range: Range<usize>, (panel, ahead): (&Panel, &[u8]), from: usize, out: &mut Out) {
    assert!(panel.suits(B::GROUP, B::OFFSET, B::HAS_MIN));
    let n = panel.rows();
    assert!(n <= PANEL_ROWS);
    let mut room = MaybeUninit::<Sums>::uninit();
    // SAFETY: the first n of `PANEL_ROWS` rows are zeroed before they are lent; clearing all of them for one row would cost more than it.
    let sums = unsafe {
        let rows = room.as_mut_ptr().cast::<[[f32; LANES]; 2]>();
        rows.write_bytes(0, n);
        std::slice::from_raw_parts_mut(rows, n)
    };
    let mut first = range.start;
    while first < range.end {
        let left = range.end - first;
        let tiles = if n >= TWO_FROM && left > LANES { 2 } else { 1 };
        // A prefetch of an address that is not mapped does nothing.
        let next = if left > tiles * LANES { w.rows_from(first + tiles * LANES) } else { ahead };
        let next = next.as_ptr();
        // SAFETY: the panel has as many columns as the weight.
        unsafe {
            if tiles == 2 {
                two_tiles::<B>(w, first, left.min(2 * LANES), next, panel, sums);
            } else {
                one_tile::<B>(w, first, left.min(LANES), next, panel, sums);
            }
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            if left >= tiles * LANES && tiles == 2 {
                // Of a length that is known: no call.
                out.write(from + i, first, sums.as_flattened().first_chunk::<{ 2 * LANES }>().expect("two tiles"));
            } else {
                out.write(from + i, first, &sums.as_flattened()[..left.min(tiles * LANES)]);
            }
            *sums = [[0.0; LANES]; 2];
        }
        first += tiles * LANES;
    }
}

/// Weight rows `first` to `first + count` with the input rows of a panel; `next` is what comes after them.
///
/// # Safety
/// The panel has `w.cols` columns, and `sums` as many rows as the panel.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn one_tile<B: Unpack>(
    w: &Matrix,
    first: usize,
    count: usize,
    mut next: *const u8,
    panel: &Panel,
    sums: &mut [[[f32; LANES]; 2]],
) {
    let mut grid = ZERO;
    let (cols, per_chunk) = (w.cols, 64 / B::GROUP);
    let mut at = starts(w, first, count);
    for k in (0..cols).step_by(STEP) {
        let chunks = ((cols - k) / 64).min(4);
        for row in at {
            for line in (0..B::STEP_BYTES).step_by(LINE) {
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(B::STEP_BYTES + line).cast());
            }
        }
        // SAFETY: each row has `cols` columns of whole blocks, of which `chunks * 64` are left.
        unsafe { B::scales(Sixteen::proof(), &at, &mut grid) };
        for c in 0..chunks {
            fetch::<B>(&mut next);
            // SAFETY: the 64 columns of chunk `c` are within each row.
            let v = unsafe { B::interleaved(Sixteen::proof(), &at, c, &mut grid) };
            let (s, m) = (&grid.scales[c * per_chunk..][..per_chunk], &grid.minima[c * per_chunk..][..per_chunk]);
            let place = PanelPlace::of(panel, k + 64 * c);
            // SAFETY: the panel has 64 columns from there on, and `sums` its rows.
            unsafe {
                let (mut row, n) = (0, sums.len());
                for group in 0..n.div_ceil(MANY) {
                    let to = n * (group + 1) / n.div_ceil(MANY);
                    match to - row {
                        6 => chunk::<B, 6>(&v, s, m, place, row, sums),
                        5 => chunk::<B, 5>(&v, s, m, place, row, sums),
                        4 => chunk::<B, 4>(&v, s, m, place, row, sums),
                        3 => chunk::<B, 3>(&v, s, m, place, row, sums),
                        2 => chunk::<B, 2>(&v, s, m, place, row, sums),
                        _ => chunk::<B, 1>(&v, s, m, place, row, sums),
                    }
                    row = to;
                }
            }
        }
        advance(&mut at, B::STEP_BYTES);
    }
}

/// A step of two tiles, unpacked: what many input rows multiply with before the next step.
#[repr(align(64))]
struct Unpacked {
    /// `[four columns][tile]`
    quants: [[__m512i; 2]; STEP / 4],
    /// By tile.
    grids: [Grid; 2],
}

/// Weight rows `first` to `first + count`, more than sixteen of them: what an input row brings is read once for both tiles, and a step
/// of weights is unpacked once for all input rows.
///
/// # Safety
/// As for `one_tile`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn two_tiles<B: Unpack>(
    w: &Matrix,
    first: usize,
    count: usize,
    mut next: *const u8,
    panel: &Panel,
    sums: &mut [[[f32; LANES]; 2]],
) {
    let mut u = Unpacked { quants: [[_mm512_setzero_si512(); 2]; STEP / 4], grids: [ZERO; 2] };
    let cols = w.cols;
    let mut at = [starts(w, first, LANES), starts(w, first + LANES, count - LANES)];
    for k in (0..cols).step_by(STEP) {
        let chunks = ((cols - k) / 64).min(4);
        for t in 0..2 {
            // SAFETY: each row has `cols` columns of whole blocks, of which `chunks * 64` are left.
            unsafe { B::scales(Sixteen::proof(), &at[t], &mut u.grids[t]) };
            for c in 0..chunks {
                fetch::<B>(&mut next);
                // SAFETY: the 64 columns of chunk `c` are within each row.
                let v = unsafe { B::interleaved(Sixteen::proof(), &at[t], c, &mut u.grids[t]) };
                for j in 0..16 {
                    u.quants[16 * c + j][t] = v[j];
                }
            }
        }
        let (place, groups) = (PanelPlace::of(panel, k), chunks * 64 / B::GROUP);
        let (mut row, n) = (0, sums.len());
        // SAFETY: the panel has `chunks * 64` columns from `k` on, and `sums` its rows.
        unsafe {
            for group in 0..n.div_ceil(MANY) {
                // Six rows and five in turn rather than six and one.
                let to = n * (group + 1) / n.div_ceil(MANY);
                match to - row {
                    6 => many::<B, 6>(&u, groups, place, row, sums),
                    5 => many::<B, 5>(&u, groups, place, row, sums),
                    4 => many::<B, 4>(&u, groups, place, row, sums),
                    3 => many::<B, 3>(&u, groups, place, row, sums),
                    2 => many::<B, 2>(&u, groups, place, row, sums),
                    _ => many::<B, 1>(&u, groups, place, row, sums),
                }
                row = to;
            }
        }
        for at in &mut at {
            advance(at, B::STEP_BYTES);
        }
    }
}

/// Input rows `row..row + R` with the first `groups` groups of an unpacked step, as `group` has them.
///
/// # Safety
/// `place` has these groups and rows, and `sums` the rows.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline(never)]
unsafe fn many<B: Unpack, const R: usize>(
    u: &Unpacked,
    groups: usize,
    place: PanelPlace,
    row: usize,
    sums: &mut [[[f32; LANES]; 2]],
) {
    let sums: &mut [[[f32; LANES]; 2]] = &mut sums[row..row + R];
    let mut acc = [[_mm512_setzero_ps(); 2]; R];
    for r in 0..R {
        acc[r] = [load(&sums[r][0]), load(&sums[r][1])];
    }
    for g in 0..groups {
        let (block, steps) = (g * B::GROUP / 32, B::GROUP / 4);
        // SAFETY: the group, its block and these rows are there; reads are unaligned. Pointers, for no check may stand between the rows.
        unsafe {
            let x = place.x.add(32 * (block * place.rows + row) + g * B::GROUP % 32).cast::<i32>();
            let quants = u.quants.as_ptr().add(g * steps);
            let mut dots = [[_mm512_setzero_si512(); 2]; R];
            if B::OFFSET != 0 {
                for r in 0..R {
                    dots[r] = [_mm512_set1_epi32(*place.starts.add(g * place.rows + row + r)); 2];
                }
            }
            for step in 0..steps {
                let v = *quants.add(step);
                for r in 0..R {
                    let four = _mm512_set1_epi32(x.add(8 * r + step).read_unaligned());
                    dots[r][0] = _mm512_dpbusd_epi32(dots[r][0], v[0], four);
                    dots[r][1] = _mm512_dpbusd_epi32(dots[r][1], v[1], four);
                }
            }
            for r in 0..R {
                let d = _mm512_set1_ps(*place.scales.add(block * place.rows + row + r));
                for t in 0..2 {
                    let s = load(u.grids[t].scales.get_unchecked(g));
                    acc[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r][t]), _mm512_mul_ps(s, d), acc[r][t]);
                }
                if B::HAS_MIN {
                    let weighted = _mm512_set1_ps(*place.weighted.add(g * place.rows + row + r));
                    for t in 0..2 {
                        let m = load(u.grids[t].minima.get_unchecked(g));
                        acc[r][t] = _mm512_fnmadd_ps(m, weighted, acc[r][t]);
                    }
                }
            }
        }
    }
    for r in 0..R {
        for t in 0..2 {
            store(acc[r][t], &mut sums[r][t]);
        }
    }
}

/// Input rows `row..row + R` with 64 columns of sixteen weight rows.
///
/// # Safety
/// `place` has 64 columns and as many rows as `sums`, and these are among them; `s` and `m` are of these columns' groups.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
unsafe fn chunk<B: Unpack, const R: usize>(
    v: &[__m512i; 16],
    s: &[[f32; LANES]],
    m: &[[f32; LANES]],
    place: PanelPlace,
    row: usize,
    sums: &mut [[[f32; LANES]; 2]],
) {
    let mut acc = [_mm512_setzero_ps(); R];
    for r in 0..R {
        acc[r] = load(&sums[row + r][0]);
    }
    // SAFETY: as the caller's. Each group by its number: registers cannot be counted through.
    unsafe {
        group::<B, R, 0>(v, &s[0], &m[0], place, row, &mut acc);
        group::<B, R, 1>(v, &s[1], &m[1], place, row, &mut acc);
        if B::GROUP == 16 {
            group::<B, R, 2>(v, &s[2], &m[2], place, row, &mut acc);
            group::<B, R, 3>(v, &s[3], &m[3], place, row, &mut acc);
        }
    }
    for r in 0..R {
        store(acc[r], &mut sums[row + r][0]);
    }
}

/// Group `J` of those columns: `acc += dot * (s * d)`, then `acc -= m * (d * sum)`.
///
/// # Safety
/// As for `chunk`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
unsafe fn group<B: Unpack, const R: usize, const J: usize>(
    v: &[__m512i; 16],
    s: &[f32; LANES],
    m: &[f32; LANES],
    place: PanelPlace,
    row: usize,
    acc: &mut [__m512; R],
) {
    let block = J * B::GROUP / 32;
    let mut dots = [_mm512_setzero_si512(); R];
    if B::OFFSET != 0 {
        for r in 0..R {
            // SAFETY: such a group and row are there.
            dots[r] = _mm512_set1_epi32(unsafe { *place.starts.add(J * place.rows + row + r) });
        }
    }
    for step in 0..B::GROUP / 4 {
        let at = J * B::GROUP + 4 * step;
        for r in 0..R {
            let x = 32 * (block * place.rows + row + r) + at % 32;
            // SAFETY: the row has 64 columns, in two blocks; the read is unaligned.
            let four = unsafe { place.x.add(x).cast::<i32>().read_unaligned() };
            dots[r] = _mm512_dpbusd_epi32(dots[r], v[at / 4], _mm512_set1_epi32(four));
        }
    }
    let (s, m) = (load(s), load(m));
    for r in 0..R {
        // SAFETY: such a block, group and row are there.
        let d = _mm512_set1_ps(unsafe { *place.scales.add(block * place.rows + row + r) });
        acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r]), _mm512_mul_ps(s, d), acc[r]);
        if B::HAS_MIN {
            // SAFETY: as above.
            let weighted = _mm512_set1_ps(unsafe { *place.weighted.add(J * place.rows + row + r) });
            acc[r] = _mm512_fnmadd_ps(m, weighted, acc[r]);
        }
    }
}

/// Asks for a quarter of a step of the next sixteen rows, into the second cache: the first holds the rows at hand.
#[target_feature(enable = "avx512f")]
#[inline]
fn fetch<B: Unpack>(next: &mut *const u8) {
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

#[target_feature(enable = "avx512f")]
#[inline]
fn store(v: __m512, x: &mut [f32; LANES]) {
    // SAFETY: sixteen f32.
    unsafe { _mm512_storeu_ps(x.as_mut_ptr(), v) }
}
