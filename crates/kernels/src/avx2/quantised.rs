//! Products with block formats: sixteen weight rows a tile, two registers of eight lanes.
//!
//! A step of 256 columns of a tile is unpacked once into the first cache, interleaved by four columns, and multiplied with the input rows
//! of a panel, a few at a time. Bytes are multiplied and added in pairs of 16 bits (`vpmaddubsw`), as many columns as surely fit, before
//! the pairs are widened. Quants of 8 bits are cut into nibbles, whose products fit: two multiplications and two additions where signs
//! moved to the input would take three instructions of the multiplier. Sums of groups are exact integers either way, and are added in
//! the order of `products`, so the bits are the same. What is not treated here goes there; one input row is `single`'s.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::lanes::{Eight, load};
use super::single;
use crate::dequantize::with_format;
use crate::panels::{Hints, PANEL_ROWS, Panel, PanelPlace, in_turn};
use crate::unpack::{self, LINE, STEP, Starts, Unpack, advance, starts};
use crate::{Input, Matrix, Out, Rows};

/// Weight rows in a register.
const LANES: usize = 8;

/// Weight rows of a tile.
const TILE: usize = 2 * LANES;

type Grid = unpack::Grid<LANES>;

/// Sums of one input row with a tile.
type Sums = [[f32; LANES]; 2];

/// A step of a tile, unpacked.
#[repr(align(64))]
struct Unpacked {
    /// `[four columns][half of the tile]`; of quants of 8 bits the low nibbles.
    quants: [[__m256i; 2]; STEP / 4],
    /// The high nibbles of quants of 8 bits.
    high: [[__m256i; 2]; STEP / 4],
    /// By half of the tile.
    grids: [Grid; 2],
}

/// Room for all that a product works on.
#[repr(align(64))]
struct TileBuffers {
    unpacked: Unpacked,
    sums: [Sums; PANEL_ROWS],
}

/// How many products of four columns may be added in 16 bits: two bytes of at most 128 a sum.
const fn run<B: Unpack>() -> usize {
    let most = if B::EIGHT_BITS { 15 } else { B::MOST as usize };
    // A power of two divides the group.
    let (fit, steps) = (1 << ((1usize << 15) / (2 * 128 * most)).ilog2(), B::GROUP / 4);
    if fit < steps { fit } else { steps }
}

/// Input rows whose sums with a tile fit in registers, 16-bit ones and, where a group is more than a run, 32-bit ones.
const fn many<B: Unpack>() -> usize {
    if B::EIGHT_BITS || run::<B>() == B::GROUP / 4 { 4 } else { 3 }
}

/// Outputs `range` (rows of the weight) of one product.
#[target_feature(enable = "avx2,fma,f16c")]
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
            if panel.rows() == 1 {
                single::product::<B>(w, range, (panel, ahead), from, out)
            } else {
                by_panel::<B>(w, range, (panel, ahead), from, out)
            }
        });
    }
}

/// Outputs of one panel, whose first row is row `from` of the output.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
fn by_panel<B: Unpack>(w: &Matrix, range: Range<usize>, (panel, ahead): (&Panel, &[u8]), from: usize, out: &mut Out) {
    assert!(panel.suits(B::GROUP, B::OFFSET, B::HAS_MIN));
    let n = panel.rows();
    assert!(n <= PANEL_ROWS);
    let mut room = MaybeUninit::<TileBuffers>::uninit();
    // SAFETY: what `Unpacked` holds may be any bits, and is written before it is read; the first n rows of sums are zeroed before they are
    // lent. Clearing all of it for one row would cost more than the row.
    let (u, sums) = unsafe {
        let room = room.as_mut_ptr();
        let sums = (&raw mut (*room).sums).cast::<Sums>();
        sums.write_bytes(0, n);
        (&raw mut (*room).unpacked, std::slice::from_raw_parts_mut(sums, n))
    };
    for first in range.clone().step_by(TILE) {
        let count = TILE.min(range.end - first);
        // A prefetch of an address that is not mapped does nothing.
        let next = if first + TILE < range.end { w.rows_from(first + TILE) } else { ahead };
        // SAFETY: the panel has as many columns as the weight; `u` is this function's own.
        unsafe { tile::<B>(w, first, count, next.as_ptr(), panel, u, sums) };
        for (i, sums) in sums.iter_mut().enumerate() {
            if count == TILE {
                // Of a length that is known: no call.
                out.write(from + i, first, sums.as_flattened().first_chunk::<TILE>().expect("a tile"));
            } else {
                out.write(from + i, first, &sums.as_flattened()[..count]);
            }
            *sums = [[0.0; LANES]; 2];
        }
    }
}

/// Weight rows `first` to `first + count` with the input rows of a panel; `next` is what comes after them.
///
/// # Safety
/// The panel has `w.cols` columns, and `sums` as many rows as the panel; `u` can be written.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<B: Unpack>(
    w: &Matrix,
    first: usize,
    count: usize,
    mut next: *const u8,
    panel: &Panel,
    u: *mut Unpacked,
    sums: &mut [Sums],
) {
    let cols = w.cols;
    let mut at: [Starts<LANES>; 2] = [
        starts(w, first, count),
        starts(w, (first + LANES).min(first + count - 1), count.saturating_sub(LANES).max(1)),
    ];
    for k in (0..cols).step_by(STEP) {
        let chunks = ((cols - k) / 64).min(4);
        for (t, at) in at.iter_mut().enumerate() {
            // SAFETY: each row has `cols` columns of whole blocks, of which `chunks * 64` are left; `u` can be written.
            unsafe { step::<B>(at, chunks, &mut next, t, u) };
            advance(at, B::STEP_BYTES);
        }
        let (place, groups, n) = (PanelPlace::of(panel, k), chunks * 64 / B::GROUP, sums.len());
        let mut row = 0;
        for part in 0..n.div_ceil(many::<B>()) {
            // Three rows and three rather than four and two.
            let to = n * (part + 1) / n.div_ceil(many::<B>());
            // SAFETY: the panel has `chunks * 64` columns from `k` on, and `sums` its rows; these groups of `u` were just written.
            unsafe {
                match to - row {
                    4 => rows::<B, 4>(&*u, groups, place, row, sums),
                    3 => rows::<B, 3>(&*u, groups, place, row, sums),
                    _ => rows::<B, 2>(&*u, groups, place, row, sums),
                }
            }
            row = to;
        }
    }
}

/// Unpacks `chunks` times 64 columns of one half of a tile, and asks for its share of what comes next, not into the first cache: that
/// holds the rows at hand. On Zen 4 the hint of the third level decodes 6 % faster than that of the second, which Intel does not tell apart.
///
/// # Safety
/// Each row has these columns, and `u` can be written.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn step<B: Unpack>(at: &Starts<LANES>, chunks: usize, next: &mut *const u8, t: usize, u: *mut Unpacked) {
    // SAFETY: as the caller's.
    unsafe {
        let grid = &mut (*u).grids[t];
        B::scales(Eight::proof(), at, grid);
        for c in 0..chunks {
            for line in (0..LANES * B::STEP_BYTES / 4).step_by(LINE) {
                _mm_prefetch::<_MM_HINT_T2>(next.wrapping_add(line).cast());
            }
            *next = next.wrapping_add(LANES * B::STEP_BYTES / 4);
            let v = B::interleaved(Eight::proof(), at, c, grid);
            let nibble = _mm256_set1_epi8(15);
            for j in 0..16 {
                if B::EIGHT_BITS {
                    (*u).quants[16 * c + j][t] = _mm256_and_si256(v[j], nibble);
                    (*u).high[16 * c + j][t] = _mm256_and_si256(_mm256_srli_epi16::<4>(v[j]), nibble);
                } else {
                    (*u).quants[16 * c + j][t] = v[j];
                }
            }
        }
    }
}

/// Input rows `row..row + R` with the first `groups` groups of an unpacked step: for each, `acc += dot * (s * d)`, then
/// `acc -= m * (d * sum)`.
///
/// # Safety
/// `place` has these groups and rows, and `sums` the rows.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
unsafe fn rows<B: Unpack, const R: usize>(
    u: &Unpacked,
    groups: usize,
    place: PanelPlace,
    row: usize,
    sums: &mut [Sums],
) {
    // A number that the compiler does not know: it would unroll the run, then add its products in trees that no register file holds.
    let steps = std::hint::black_box(run::<B>());
    let sums: &mut [Sums] = &mut sums[row..row + R];
    for g in 0..groups {
        let block = g * B::GROUP / 32;
        // SAFETY: the group, its block and these rows are there; reads are unaligned. Pointers, for no check may stand between the rows.
        unsafe {
            let x = place.x.add(32 * (block * place.rows + row) + g * B::GROUP % 32).cast::<i32>();
            let (quants, high) = (u.quants.as_ptr().add(g * B::GROUP / 4), u.high.as_ptr().add(g * B::GROUP / 4));
            let mut dots = [[_mm256_setzero_si256(); 2]; R];
            if B::OFFSET != 0 {
                for r in 0..R {
                    dots[r] = [_mm256_set1_epi32(*place.starts.add(g * place.rows + row + r)); 2];
                }
            }
            for from in (0..B::GROUP / 4).step_by(run::<B>()) {
                dots = if B::EIGHT_BITS {
                    nibbles(quants.add(from), high.add(from), x.add(from), steps, dots)
                } else {
                    pairs(quants.add(from), x.add(from), steps, dots)
                };
            }
            for r in 0..R {
                let d = _mm256_set1_ps(*place.scales.add(block * place.rows + row + r));
                let weighted = if B::HAS_MIN { *place.weighted.add(g * place.rows + row + r) } else { 0.0 };
                for t in 0..2 {
                    let s = _mm256_mul_ps(load(u.grids[t].scales.get_unchecked(g)), d);
                    let mut acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[r][t]), s, load(&sums[r][t]));
                    if B::HAS_MIN {
                        acc = _mm256_fnmadd_ps(load(u.grids[t].minima.get_unchecked(g)), _mm256_set1_ps(weighted), acc);
                    }
                    _mm256_storeu_ps(sums[r][t].as_mut_ptr(), acc);
                }
            }
        }
    }
}

/// A run of products of four columns, added to `dots`.
///
/// # Safety
/// A run of quants and, for each of `R` rows, of input is there, a block of 32 bytes from row to row.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn pairs<const R: usize>(
    quants: *const [__m256i; 2],
    x: *const i32,
    steps: usize,
    mut dots: [[__m256i; 2]; R],
) -> [[__m256i; 2]; R] {
    let mut acc = [[_mm256_setzero_si256(); 2]; R];
    for step in 0..steps {
        // SAFETY: as the caller's; reads are unaligned.
        let v = unsafe { *quants.add(step) };
        for r in 0..R {
            // SAFETY: as above.
            let four = _mm256_set1_epi32(unsafe { x.add(8 * r + step).read_unaligned() });
            for t in 0..2 {
                acc[r][t] = _mm256_add_epi16(acc[r][t], _mm256_maddubs_epi16(v[t], four));
            }
        }
    }
    let ones = _mm256_set1_epi16(1);
    for r in 0..R {
        for t in 0..2 {
            dots[r][t] = _mm256_add_epi32(dots[r][t], _mm256_madd_epi16(acc[r][t], ones));
        }
    }
    dots
}

/// As `pairs`, of quants in two nibbles; one half of the tile after the other, for both have more sums than there are registers.
///
/// # Safety
/// As for `pairs`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn nibbles<const R: usize>(
    low: *const [__m256i; 2],
    high: *const [__m256i; 2],
    x: *const i32,
    steps: usize,
    mut dots: [[__m256i; 2]; R],
) -> [[__m256i; 2]; R] {
    let (one, sixteen) = (_mm256_set1_epi16(1), _mm256_set1_epi16(16));
    for t in 0..2 {
        let mut acc = [[_mm256_setzero_si256(); 2]; R];
        for step in 0..steps {
            // SAFETY: as the caller's; reads are unaligned.
            let v = unsafe { [(*low.add(step))[t], (*high.add(step))[t]] };
            for r in 0..R {
                // SAFETY: as above.
                let four = _mm256_set1_epi32(unsafe { x.add(8 * r + step).read_unaligned() });
                for h in 0..2 {
                    acc[r][h] = _mm256_add_epi16(acc[r][h], _mm256_maddubs_epi16(v[h], four));
                }
            }
        }
        for r in 0..R {
            let [low, high] = acc[r];
            let dot = _mm256_add_epi32(_mm256_madd_epi16(low, one), _mm256_madd_epi16(high, sixteen));
            dots[r][t] = _mm256_add_epi32(dots[r][t], dot);
        }
    }
    dots
}
