//! Sixteen lanes in a register of AVX-512, and the turns of whole registers that other kernels share.

use std::arch::x86_64::*;

use crate::lanes::Lanes;
use crate::unpack::Starts;
use crate::vectors::{array, for_features};

/// Transposes sixteen vectors of sixteen 32-bit numbers.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn transpose(v: &mut [__m512i; 16]) {
    let mut t = *v;
    for i in 0..4 {
        [t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]] =
            words([v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]]);
    }
    // t[4i + j], 128-bit lane l = element 4l + j of rows 4i..4i+4
    for j in 0..4 {
        let w = quarters(t[j], t[4 + j], t[8 + j], t[12 + j]);
        for l in 0..4 {
            v[4 * l + j] = w[l];
        }
    }
}

/// Transposes a 4x4 grid of 128-bit lanes.
#[target_feature(enable = "avx512f")]
#[inline]
fn quarters(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; 4] {
    let ab_even = _mm512_shuffle_i32x4::<0x88>(a, b);
    let ab_odd = _mm512_shuffle_i32x4::<0xdd>(a, b);
    let cd_even = _mm512_shuffle_i32x4::<0x88>(c, d);
    let cd_odd = _mm512_shuffle_i32x4::<0xdd>(c, d);
    [
        _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even),
        _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd),
        _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even),
        _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd),
    ]
}

/// `v[query][position]` to four vectors `[4 positions][4 queries]`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn by_four(v: [__m512; 4]) -> [__m512; 4] {
    let v = array!(4, i, _mm512_castps_si512(v[i]));
    let [a, b, c, d] = words(v);
    let v = quarters(a, b, c, d);
    array!(4, i, _mm512_castsi512_ps(v[i]))
}

/// Transposes a 4x4 grid of 32-bit words in each 128-bit lane.
#[target_feature(enable = "avx512f")]
#[inline]
fn words(v: [__m512i; 4]) -> [__m512i; 4] {
    let (ab, cd) = (_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpacklo_epi32(v[2], v[3]));
    let (ab2, cd2) = (_mm512_unpackhi_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[2], v[3]));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ab2, cd2),
        _mm512_unpackhi_epi64(ab2, cd2),
    ]
}

/// Sixteen weight rows.
#[derive(Clone, Copy)]
pub(crate) struct Sixteen(());

impl Sixteen {
    /// The proof of a function that is compiled for the set: whoever calls that function answers for the processor.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    #[inline]
    pub fn proof() -> Self {
        Sixteen(())
    }
}

impl Lanes<16> for Sixteen {
    type I = __m512i;
    type F = __m512;

    #[inline(always)]
    unsafe fn words_16(self, rows: &Starts<16>, offset: usize) -> [__m512i; 4] {
        // SAFETY: the bytes are there, as the caller says; `self` is the proof that the set is.
        unsafe {
            // Rows r, 4 + r, 8 + r and 12 + r side by side, then a grid of four by four words turned in each quarter.
            words(array!(4, r, {
                let [a, b, c, d] = array!(4, i, _mm_loadu_si128(rows[4 * i + r].add(offset).cast()));
                let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
                let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(c), d);
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
            }))
        }
    }

    #[inline(always)]
    unsafe fn words_32(self, rows: &Starts<16>, offset: usize) -> [__m512i; 8] {
        // SAFETY: the bytes are there, as the caller says; `self` is the proof that the set is.
        unsafe {
            // 128-bit lanes of a[j]: words j and 4 + j of rows 0 to 4, the same of rows 4 to 8; of b[j] those of rows 8 to 16.
            let [a, b] = array!(2, half, {
                words(array!(4, r, {
                    let low = _mm256_loadu_si256(rows[8 * half + r].add(offset).cast());
                    let high = _mm256_loadu_si256(rows[8 * half + 4 + r].add(offset).cast());
                    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
                }))
            });
            array!(8, j, {
                let (a, b) = (a[j % 4], b[j % 4]);
                if j < 4 { _mm512_shuffle_i32x4::<0x88>(a, b) } else { _mm512_shuffle_i32x4::<0xdd>(a, b) }
            })
        }
    }

    for_features! {
        "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni";
        fn splat(self, x: i32) -> __m512i { _mm512_set1_epi32(x) }
        fn and(self, a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn or(self, a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn xor(self, a: __m512i, b: __m512i) -> __m512i { _mm512_xor_si512(a, b) }
        fn or_masked(self, a: __m512i, b: __m512i, mask: __m512i) -> __m512i {
            _mm512_ternarylogic_epi32::<0xf8>(a, b, mask)
        }
        fn add(self, a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn left(self, v: __m512i, by: i32) -> __m512i { _mm512_sll_epi32(v, _mm_cvtsi32_si128(by)) }
        fn right(self, v: __m512i, by: i32) -> __m512i { _mm512_srl_epi32(v, _mm_cvtsi32_si128(by)) }
        fn right_signed(self, v: __m512i, by: i32) -> __m512i { _mm512_sra_epi32(v, _mm_cvtsi32_si128(by)) }
        fn shifted(self, v: __m512i, by: i32) -> __m512i { _mm512_rolv_epi32(v, _mm512_set1_epi32(by)) }
        fn below(self, x: __m512i, bound: i32, a: __m512i, b: __m512i) -> __m512i {
            _mm512_mask_mov_epi32(b, _mm512_cmplt_epi32_mask(x, _mm512_set1_epi32(bound)), a)
        }
        fn look_up(self, table: &[u8; 16], v: __m512i) -> __m512i {
            // SAFETY: within the array; no alignment is asked for.
            unsafe { _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), v) }
        }
        fn fifth_bits(self, bits: __m512i) -> [__m512i; 8] {
            let sixteen = _mm512_set1_epi8(16);
            let first = _mm512_set4_epi32(0x0c0c_0c0c, 0x0808_0808, 0x0404_0404, 0);
            array!(8, j, {
                // Byte j / 2 of each lane four times; then one bit of each.
                let byte = _mm512_shuffle_epi8(bits, _mm512_add_epi8(first, _mm512_set1_epi8((j / 2) as i8)));
                let bit = _mm512_set1_epi32(if j % 2 == 0 { 0x0804_0201 } else { 0x8040_2010u32 as i32 });
                _mm512_maskz_mov_epi8(_mm512_test_epi8_mask(byte, bit), sixteen)
            })
        }
        fn to_f(self, v: __m512i) -> __m512 { _mm512_cvtepi32_ps(v) }
        fn as_f(self, v: __m512i) -> __m512 { _mm512_castsi512_ps(v) }
        fn low_halves(self, v: __m512i) -> __m512 { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)) }
        fn mul(self, a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn negate(self, a: __m512) -> __m512 { _mm512_xor_ps(a, _mm512_set1_ps(-0.0)) }
        fn put(self, out: &mut [f32; 16], v: __m512) {
            // SAFETY: within the array; no alignment is asked for.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
        }
    }
}
