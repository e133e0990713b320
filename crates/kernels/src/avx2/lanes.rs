//! Eight lanes in a register of AVX2.

use std::arch::x86_64::*;

use crate::lanes::Lanes;
use crate::vectors::array;

/// Eight weight rows.
pub(crate) struct Eight;

// SAFETY (all blocks of this impl): methods are inlined into kernels that run only where AVX2 and F16C are; loads and stores are
// unaligned ones, of arrays, or of what the caller vouches for.
#[allow(clippy::undocumented_unsafe_blocks)] // one reason for all of them, above
impl Lanes<8> for Eight {
    type I = __m256i;
    type F = __m256;

    #[inline(always)]
    unsafe fn words_16(rows: &[*const u8; 8], offset: usize) -> [__m256i; 4] {
        unsafe {
            // Rows r and 4 + r side by side, then a grid of four by four words turned in each half.
            let v: [__m256i; 4] = array!(4, r, {
                let low = _mm_loadu_si128(rows[r].add(offset).cast());
                let high = _mm_loadu_si128(rows[4 + r].add(offset).cast());
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
            });
            let (ab, cd) = (_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpacklo_epi32(v[2], v[3]));
            let (ab2, cd2) = (_mm256_unpackhi_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[2], v[3]));
            [
                _mm256_unpacklo_epi64(ab, cd),
                _mm256_unpackhi_epi64(ab, cd),
                _mm256_unpacklo_epi64(ab2, cd2),
                _mm256_unpackhi_epi64(ab2, cd2),
            ]
        }
    }
    #[inline(always)]
    unsafe fn words_32(rows: &[*const u8; 8], offset: usize) -> [__m256i; 8] {
        let [a, b] = unsafe { [Self::words_16(rows, offset), Self::words_16(rows, offset + 16)] };
        array!(8, j, if j < 4 { a[j % 4] } else { b[j % 4] })
    }
    #[inline(always)]
    fn splat(x: i32) -> __m256i {
        unsafe { _mm256_set1_epi32(x) }
    }
    #[inline(always)]
    fn and(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    fn or(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_or_si256(a, b) }
    }
    #[inline(always)]
    fn xor(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_xor_si256(a, b) }
    }
    #[inline(always)]
    fn or_masked(a: __m256i, b: __m256i, mask: __m256i) -> __m256i {
        Self::or(a, Self::and(b, mask))
    }
    #[inline(always)]
    fn add(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(a, b) }
    }
    #[inline(always)]
    fn left(v: __m256i, by: i32) -> __m256i {
        unsafe { _mm256_sll_epi32(v, _mm_cvtsi32_si128(by)) }
    }
    #[inline(always)]
    fn right(v: __m256i, by: i32) -> __m256i {
        unsafe { _mm256_srl_epi32(v, _mm_cvtsi32_si128(by)) }
    }
    #[inline(always)]
    fn right_signed(v: __m256i, by: i32) -> __m256i {
        unsafe { _mm256_sra_epi32(v, _mm_cvtsi32_si128(by)) }
    }
    #[inline(always)]
    fn shifted(v: __m256i, by: i32) -> __m256i {
        Self::right(Self::left(v, by.max(0)), (-by).max(0))
    }
    #[inline(always)]
    fn below(x: __m256i, bound: i32, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_blendv_epi8(b, a, _mm256_cmpgt_epi32(_mm256_set1_epi32(bound), x)) }
    }
    #[inline(always)]
    fn look_up(table: &[u8; 16], v: __m256i) -> __m256i {
        unsafe { _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), v) }
    }
    #[inline(always)]
    fn fifth_bits(bits: __m256i) -> [__m256i; 8] {
        unsafe {
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
    }
    #[inline(always)]
    fn to_f(v: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(v) }
    }
    #[inline(always)]
    fn as_f(v: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(v) }
    }
    #[inline(always)]
    fn low_halves(v: __m256i) -> __m256 {
        unsafe {
            let low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
            let halves = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(low, low));
            _mm256_cvtph_ps(_mm256_castsi256_si128(halves))
        }
    }
    #[inline(always)]
    fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn negate(a: __m256) -> __m256 {
        unsafe { _mm256_xor_ps(a, _mm256_set1_ps(-0.0)) }
    }
    #[inline(always)]
    fn put(out: &mut [f32; 8], v: __m256) {
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) }
    }
}
