//! Eight lanes in a register of AVX2.

use std::arch::x86_64::*;

use super::words;
use crate::lanes::Lanes;
use crate::vectors::{array, for_features};

#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn load(x: &[f32; 8]) -> __m256 {
    // SAFETY: eight f32.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

/// Eight weight rows.
#[derive(Clone, Copy)]
pub(crate) struct Eight(());

impl Eight {
    /// The proof of a function that is compiled for the set: whoever calls that function answers for the processor.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub fn proof() -> Self {
        Eight(())
    }
}

impl Lanes<8> for Eight {
    type I = __m256i;
    type F = __m256;

    #[inline(always)]
    unsafe fn words_16(self, rows: &[*const u8; 8], offset: usize) -> [__m256i; 4] {
        // SAFETY: the bytes are there, as the caller says; `self` is the proof that the set is.
        unsafe {
            // Rows r and 4 + r side by side, then a grid of four by four words turned in each half.
            words(array!(4, r, {
                let low = _mm_loadu_si128(rows[r].add(offset).cast());
                let high = _mm_loadu_si128(rows[4 + r].add(offset).cast());
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
            }))
        }
    }

    #[inline(always)]
    unsafe fn words_32(self, rows: &[*const u8; 8], offset: usize) -> [__m256i; 8] {
        // SAFETY: as the caller's.
        let [a, b] = unsafe { [self.words_16(rows, offset), self.words_16(rows, offset + 16)] };
        array!(8, j, if j < 4 { a[j % 4] } else { b[j % 4] })
    }

    for_features! {
        "avx2,fma,f16c";
        fn splat(self, x: i32) -> __m256i { _mm256_set1_epi32(x) }
        fn and(self, a: __m256i, b: __m256i) -> __m256i { _mm256_and_si256(a, b) }
        fn or(self, a: __m256i, b: __m256i) -> __m256i { _mm256_or_si256(a, b) }
        fn xor(self, a: __m256i, b: __m256i) -> __m256i { _mm256_xor_si256(a, b) }
        fn or_masked(self, a: __m256i, b: __m256i, mask: __m256i) -> __m256i {
            _mm256_or_si256(a, _mm256_and_si256(b, mask))
        }
        fn add(self, a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi32(a, b) }
        fn left(self, v: __m256i, by: i32) -> __m256i { _mm256_sll_epi32(v, _mm_cvtsi32_si128(by)) }
        fn right(self, v: __m256i, by: i32) -> __m256i { _mm256_srl_epi32(v, _mm_cvtsi32_si128(by)) }
        fn right_signed(self, v: __m256i, by: i32) -> __m256i { _mm256_sra_epi32(v, _mm_cvtsi32_si128(by)) }
        fn shifted(self, v: __m256i, by: i32) -> __m256i {
            let left = _mm256_sll_epi32(v, _mm_cvtsi32_si128(by.max(0)));
            _mm256_srl_epi32(left, _mm_cvtsi32_si128((-by).max(0)))
        }
        fn below(self, x: __m256i, bound: i32, a: __m256i, b: __m256i) -> __m256i {
            _mm256_blendv_epi8(b, a, _mm256_cmpgt_epi32(_mm256_set1_epi32(bound), x))
        }
        fn look_up(self, table: &[u8; 16], v: __m256i) -> __m256i {
            // SAFETY: within the array; no alignment is asked for.
            unsafe { _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), v) }
        }
        fn fifth_bits(self, bits: __m256i) -> [__m256i; 8] {
            let sixteen = _mm256_set1_epi8(16);
            let first =
                _mm256_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c, 0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c);
            array!(8, j, {
                // Byte j / 2 of each lane four times; then one bit of each.
                let byte = _mm256_shuffle_epi8(bits, _mm256_add_epi8(first, _mm256_set1_epi8((j / 2) as i8)));
                let bit = _mm256_set1_epi32(if j % 2 == 0 { 0x0804_0201 } else { 0x8040_2010u32 as i32 });
                _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(byte, bit), bit), sixteen)
            })
        }
        fn to_f(self, v: __m256i) -> __m256 { _mm256_cvtepi32_ps(v) }
        fn as_f(self, v: __m256i) -> __m256 { _mm256_castsi256_ps(v) }
        fn low_halves(self, v: __m256i) -> __m256 {
            let low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
            let halves = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(low, low));
            _mm256_cvtph_ps(_mm256_castsi256_si128(halves))
        }
        fn mul(self, a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        fn negate(self, a: __m256) -> __m256 { _mm256_xor_ps(a, _mm256_set1_ps(-0.0)) }
        fn put(self, out: &mut [f32; 8], v: __m256) {
            // SAFETY: within the array; no alignment is asked for.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) }
        }
    }
}
