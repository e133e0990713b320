//! Block formats unpacked along a weight row: 32 quants a register, in their natural order.

use std::arch::x86_64::*;

use crate::dequantize::{self, E2M1, NONLINEAR};
use crate::unpack::Unpack;

/// A format whose quants are unpacked along the row.
pub(crate) trait Natural: Unpack {
    /// Quants of columns `32 * j ..` of a step, j below 8: unsigned ones, or signed ones where `MOST` is above 127.
    ///
    /// # Safety
    /// AVX2 is there, and the bytes of those columns.
    unsafe fn quants(step: *const u8, j: usize) -> __m256i;
}

/// 32 bytes.
///
/// # Safety
/// They are readable.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn bytes(step: *const u8, offset: usize) -> __m256i {
    // SAFETY: as the caller's; no alignment is asked for.
    unsafe { _mm256_loadu_si256(step.add(offset).cast()) }
}

/// Each word right by `by`, or left by `-by`; then what `mask` keeps of each byte.
#[target_feature(enable = "avx2")]
#[inline]
fn bits(v: __m256i, by: i32, mask: i8) -> __m256i {
    let v =
        if by < 0 { _mm256_sll_epi16(v, _mm_cvtsi32_si128(-by)) } else { _mm256_srl_epi16(v, _mm_cvtsi32_si128(by)) };
    _mm256_and_si256(v, _mm256_set1_epi8(mask))
}

/// Sixteen bytes of nibbles: the low ones, then the high ones.
///
/// # Safety
/// They are readable.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn nibbles(step: *const u8, offset: usize) -> __m256i {
    // SAFETY: as the caller's; no alignment is asked for.
    let v = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(step.add(offset).cast()) });
    let both = _mm256_srlv_epi32(v, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// 32 bits to sixteens: bit i is for byte i.
///
/// # Safety
/// They are readable.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn fifth_bits(step: *const u8, offset: usize) -> __m256i {
    // SAFETY: as the caller's.
    let four = _mm256_set1_epi32(unsafe { step.add(offset).cast::<i32>().read_unaligned() });
    let which = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(four, which), bit), bit);
    _mm256_and_si256(set, _mm256_set1_epi8(16))
}

/// Bytes below 16 to those that a table has for them.
#[target_feature(enable = "avx2")]
#[inline]
fn look_up(table: &[u8; 16], v: __m256i) -> __m256i {
    // SAFETY: sixteen bytes; no alignment is asked for.
    unsafe { _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), v) }
}

macro_rules! natural {
    ($($format:ident: |$step:ident, $j:ident| $quants:expr;)*) => {$(
        impl Natural for dequantize::$format {
            #[target_feature(enable = "avx2")]
            #[inline]
            unsafe fn quants($step: *const u8, $j: usize) -> __m256i {
                // SAFETY: a step has the bytes of its columns, as the caller says.
                unsafe { $quants }
            }
        }
    )*};
}

natural! {
    Q4K: |step, j| bits(bytes(step, 16 + j / 2 * 32), 4 * (j % 2) as i32, 15);
    Q5K: |step, j| _mm256_or_si256(
        bits(bytes(step, 48 + j / 2 * 32), 4 * (j % 2) as i32, 15),
        bits(bytes(step, 16), j as i32 - 4, 16)
    );
    Q6K: |step, j| _mm256_or_si256(
        bits(bytes(step, 64 * (j / 4) + 32 * (j % 2)), 4 * (j / 2 % 2) as i32, 15),
        bits(bytes(step, 128 + 32 * (j / 4)), 2 * (j % 4) as i32 - 4, 0x30)
    );
    Q2K: |step, j| bits(bytes(step, 16 + 32 * (j / 4)), 2 * (j % 4) as i32, 3);
    Q3K: |step, j| _mm256_or_si256(
        bits(bytes(step, 32 + 32 * (j / 4)), 2 * (j % 4) as i32, 3),
        bits(bytes(step, 0), j as i32 - 2, 4)
    );
    Q8_0: |step, j| bytes(step, 34 * j + 2);
    Q4_0: |step, j| nibbles(step, 18 * j + 2);
    Q4_1: |step, j| nibbles(step, 20 * j + 4);
    Q5_0: |step, j| _mm256_or_si256(nibbles(step, 22 * j + 6), fifth_bits(step, 22 * j + 2));
    Q5_1: |step, j| _mm256_or_si256(nibbles(step, 24 * j + 8), fifth_bits(step, 24 * j + 4));
    Mxfp4: |step, j| look_up(&E2M1, nibbles(step, 17 * j + 1));
    Iq4Nl: |step, j| _mm256_xor_si256(look_up(&NONLINEAR, nibbles(step, 18 * j + 2)), _mm256_set1_epi8(-128));
    Iq4Xs: |step, j| _mm256_xor_si256(look_up(&NONLINEAR, nibbles(step, 16 * j + 8)), _mm256_set1_epi8(-128));
}
