//! Products of one input row with block formats: weight rows one after the other, as they lie in memory.
//!
//! Some processors read one stream at twice the pace of several side by side (Zen 4: 25 to 31 against 10 to 13 GB/s a thread). So a weight
//! row is read from its start to its end and the dot products of its groups, exact integers, are put aside; then, for eight rows, whose bytes
//! are in the first cache by then, scales are unpacked and groups added in the order of `products`, one lane a row.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::LazyLock;

use super::lanes::{Eight, load};
use super::natural::Natural;
use super::transpose_eight;
use crate::panels::{Panel, PanelPlace};
use crate::unpack::{self, LINE, STEP, Unpack, advance};
use crate::vectors::array;
use crate::{Matrix, Out};

/// Weight rows whose sums are one register.
const LANES: usize = 8;

/// Steps of eight rows that are treated at a time: their bytes stay in the first cache.
const STEPS: usize = 8;

/// How far ahead of what is read the processor is asked for bytes, where a row is read in one strip.
const LEAD: usize = 8 << 10;

/// Dot products of a step's groups, in an order that depends on the format.
type Dots = [__m256i; 2];

/// Whether this processor decodes faster so than with the tiles of AVX-512: AMD's do (measured on Zen 4, 5 to 35 % by format), while an
/// Intel Xeon reads tiles at the pace of its memory.
pub(crate) fn preferred() -> bool {
    static AMD: LazyLock<bool> = LazyLock::new(|| {
        let leaf = __cpuid(0);
        [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
    });
    *AMD
}

/// Outputs of the one row of a panel, which is row `to` of the output; `ahead` is what the thread reads next.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
pub(crate) fn product<B: Natural>(
    w: &Matrix,
    range: Range<usize>,
    (panel, ahead): (&Panel, &[u8]),
    to: usize,
    out: &mut Out,
) {
    assert!(panel.rows() == 1 && panel.cols() == w.cols && panel.suits(B::GROUP, B::OFFSET, B::HAS_MIN));
    let mut dots = MaybeUninit::<[[Dots; LANES]; STEPS]>::uninit();
    let dots = dots.as_mut_ptr().cast::<[Dots; LANES]>();
    if range.is_empty() {
        return;
    }
    let (base, stride) = (w.row(0).as_ptr(), w.row(0).len());
    // Rows in one strip are read in their order; those in several are asked for in it, while the rows before are read.
    let lead = if w.cols <= STEPS * STEP { LEAD.min(LANES * stride) } else { LANES * stride };
    let (all, mut asked) = ((range.end - range.start) * stride, lead);
    for first in range.clone().step_by(LANES) {
        let count = LANES.min(range.end - first);
        // The last row stands in for those beyond it.
        let mut at: unpack::Starts<LANES> = array!(8, r, base.wrapping_add((first + r.min(count - 1)) * stride));
        let mut acc = _mm256_setzero_ps();
        for from in (0..w.cols).step_by(STEPS * STEP) {
            let cols = (STEPS * STEP).min(w.cols - from);
            let place = PanelPlace::of(panel, from);
            let mut next = if asked < all {
                base.wrapping_add(range.start * stride + asked)
            } else if ahead.is_empty() {
                at[0]
            } else {
                ahead.as_ptr().wrapping_add(asked - all)
            };
            for r in 0..count {
                // SAFETY: a row has these columns; so has the panel. There is room for `STEPS` steps of eight rows.
                unsafe { along::<B>(at[r], &mut next, cols, place.x, dots.cast::<Dots>().add(r)) };
            }
            asked += count * cols * B::STEP_BYTES / STEP;
            // SAFETY: as above; the steps of `count` rows were just written.
            acc = unsafe { across::<B>(&mut at, count, cols, place, dots, acc) };
        }
        let mut sums = [0.0; LANES];
        // SAFETY: eight f32.
        unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), acc) };
        if count == LANES {
            // Of a length that is known: no call.
            out.write(to, first, &sums);
        } else {
            out.write(to, first, &sums[..count]);
        }
    }
}

/// Dot products of one weight row's groups, each step's at every `LANES`th place of `dots`. Asks for as many bytes from
/// `next` on, and moves it on.
///
/// # Safety
/// Row and input have `cols` columns; there is room for their steps.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn along<B: Natural>(
    mut row: *const u8,
    next: &mut *const u8,
    cols: usize,
    mut x: *const i8,
    mut dots: *mut Dots,
) {
    for k in (0..cols).step_by(STEP) {
        // A prefetch of an address that is not mapped does nothing.
        for line in (0..B::STEP_BYTES).step_by(LINE) {
            _mm_prefetch::<_MM_HINT_T2>(next.wrapping_add(line).cast());
        }
        // SAFETY: as the caller's.
        unsafe {
            *dots = match (cols - k) / 64 {
                1 => step::<B, 2>(row, x),
                2 => step::<B, 4>(row, x),
                3 => step::<B, 6>(row, x),
                _ => step::<B, 8>(row, x),
            };
        }
        (row, *next, x) = (row.wrapping_add(B::STEP_BYTES), next.wrapping_add(B::STEP_BYTES), x.wrapping_add(STEP));
        dots = dots.wrapping_add(LANES);
    }
}

/// Dot products of the groups of the first `32 * N` columns of a step; those after them are zero.
///
/// # Safety
/// The weight and the input have those columns.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn step<B: Natural, const N: usize>(step: *const u8, x: *const i8) -> Dots {
    sums::<B>(array!(8, j, {
        if j < N {
            // SAFETY: as the caller's; reads are unaligned.
            let (w, x) = unsafe { (B::quants(step, j), _mm256_loadu_si256(x.add(32 * j).cast())) };
            if B::EIGHT_BITS {
                // No input byte is -128.
                _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
            } else {
                _mm256_maddubs_epi16(w, x)
            }
        } else {
            _mm256_setzero_si256()
        }
    }))
}

/// Sums of the groups of a step from sixteen sums of pairs for each 32 columns.
#[target_feature(enable = "avx2")]
#[inline]
fn sums<B: Unpack>(products: [__m256i; 8]) -> [__m256i; 2] {
    // How many pairs of products may be added in 16 bits.
    let fit = if B::EIGHT_BITS { 1 } else { 32767 / (2 * 127 * B::MOST) };
    let (v, wide) = widened(products, fit < 2);
    let v: [__m256i; 4] = array!(4, j, {
        let (a, b) = (v[2 * j], v[2 * j + 1]);
        add(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b), wide)
    });
    let (v, wide) = (if wide { v } else { widened(v, fit < 4).0 }, wide || fit < 4);
    let v: [__m256i; 2] = array!(2, j, {
        let (a, b) = (_mm256_castsi256_ps(v[2 * j]), _mm256_castsi256_ps(v[2 * j + 1]));
        let (even, odd) = (_mm256_shuffle_ps::<0b10_00_10_00>(a, b), _mm256_shuffle_ps::<0b11_01_11_01>(a, b));
        add(_mm256_castps_si256(even), _mm256_castps_si256(odd), wide)
    });
    if B::GROUP == 16 {
        return if wide { v } else { widened(v, true).0 };
    }
    let (v, wide) = (if wide { v } else { widened(v, fit < 8).0 }, wide || fit < 8);
    let (low, high) = (_mm256_permute2x128_si256::<0x20>(v[0], v[1]), _mm256_permute2x128_si256::<0x31>(v[0], v[1]));
    let v = add(low, high, wide);
    [if wide { v } else { _mm256_madd_epi16(v, _mm256_set1_epi16(1)) }, _mm256_setzero_si256()]
}

/// Pairs of 16-bit integers added to 32 bits, or left as they are; and whether they are 32 bits.
#[target_feature(enable = "avx2")]
#[inline]
fn widened<const N: usize>(mut v: [__m256i; N], widen: bool) -> ([__m256i; N], bool) {
    if widen {
        for v in &mut v {
            *v = _mm256_madd_epi16(*v, _mm256_set1_epi16(1));
        }
    }
    (v, widen)
}

/// Sums of 32-bit integers, or of 16-bit ones.
#[target_feature(enable = "avx2")]
#[inline]
fn add(a: __m256i, b: __m256i, wide: bool) -> __m256i {
    if wide { _mm256_add_epi32(a, b) } else { _mm256_add_epi16(a, b) }
}

/// The groups of `cols` columns of eight rows added to their sums: for each, `acc += dot * (s * d)`, then `acc -= m * (d * sum)`. Moves on
/// in the rows.
///
/// # Safety
/// The rows and `place` have these columns; the dot products of `count` rows are written.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn across<B: Natural>(
    at: &mut unpack::Starts<LANES>,
    count: usize,
    cols: usize,
    place: PanelPlace,
    dots: *const [Dots; LANES],
    mut acc: __m256,
) -> __m256 {
    for (i, k) in (0..cols).step_by(STEP).enumerate() {
        // SAFETY: as the caller's.
        unsafe {
            let dots = &*dots.add(i);
            acc = match (cols - k) / 64 {
                1 => across_step::<B, 1>(at, count, (place, i), dots, acc),
                2 => across_step::<B, 2>(at, count, (place, i), dots, acc),
                3 => across_step::<B, 3>(at, count, (place, i), dots, acc),
                _ => across_step::<B, 4>(at, count, (place, i), dots, acc),
            };
        }
        advance(at, B::STEP_BYTES);
    }
    acc
}

/// The groups of the first `64 * C` columns of step `i`, as in `across`.
///
/// # Safety
/// As for `across`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn across_step<B: Natural, const C: usize>(
    at: &unpack::Starts<LANES>,
    count: usize,
    (place, i): (PanelPlace, usize),
    dots: &[Dots; LANES],
    mut acc: __m256,
) -> __m256 {
    let mut grid = MaybeUninit::<unpack::Grid<LANES>>::uninit();
    // SAFETY: as the caller's; scales and minima are written before they are read. A row that stands in for one that is not there has the
    // dot products of the last.
    unsafe {
        let grid = &mut *grid.as_mut_ptr();
        B::scales(Eight::proof(), at, grid);
        for c in 0..C {
            // Quants are not asked for, so they are not unpacked.
            let _ = B::interleaved(Eight::proof(), at, c, grid);
        }
        for half in 0..STEP / B::GROUP / 8 {
            let lanes = transpose_eight(&array!(8, r, dots[r.min(count - 1)][half]));
            for g in 0..(C * 64 / B::GROUP - 8 * half).min(8) {
                // Of eight groups of sixteen the first halves of 32 columns come first.
                let mut dot = lanes[if B::GROUP == 16 { g / 2 + 4 * (g % 2) } else { g }];
                let g = 8 * half + g;
                let group = i * (STEP / B::GROUP) + g;
                if B::OFFSET != 0 && !B::EIGHT_BITS {
                    dot = _mm256_add_epi32(dot, _mm256_set1_epi32(*place.starts.add(group)));
                }
                let d = _mm256_set1_ps(*place.scales.add(i * (STEP / 32) + g * B::GROUP / 32));
                acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(load(&grid.scales[g]), d), acc);
                if B::HAS_MIN {
                    acc = _mm256_fnmadd_ps(load(&grid.minima[g]), _mm256_set1_ps(*place.weighted.add(group)), acc);
                }
            }
        }
    }
    acc
}
