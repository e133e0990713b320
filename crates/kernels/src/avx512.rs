//! Vectors of AVX-512 (F, BW, DQ, VL, VNNI): sixteen lanes are one register.

use std::arch::x86_64::*;

use crate::table::{Table, kernels};
use crate::vectors::{Vectors, array, for_features};

mod bf16;
pub(crate) mod lanes;
mod quantised;

/// Whether this processor (and system) has it.
pub fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && crate::avx2::available()
}

/// Whether there are products of bf16 too.
pub fn bf16_available() -> bool {
    available() && is_x86_feature_detected!("avx512bf16")
}

/// As `TABLE`, for processors that have products of bf16.
pub static WITH_BF16: Table = Table { bf16: bf16::KERNEL, ..PLAIN_BF16 };

/// Kernels; products with the common block formats have inner loops of their own.
pub static TABLE: Table = PLAIN_BF16;

const PLAIN_BF16: Table = Table { product: quantised::product, panels: true, ..GENERIC };

/// Every kernel from the common source.
const GENERIC: Table =
    kernels!("avx512", Avx512, Avx512::proof(), Rounded, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni");

/// The set, where the processor has it.
#[derive(Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// The proof of a function that is compiled for the set: whoever calls that function answers for the processor.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    #[inline]
    fn proof() -> Self {
        Avx512(())
    }
}

impl Vectors for Avx512 {
    type F = __m512;
    type I = __m512i;
    const MANY_REGISTERS: bool = true;

    #[inline(always)]
    fn prefetch<T>(self, x: &[T]) {
        // SAFETY: a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(x.as_ptr().cast()) }
    }

    for_features! {
        "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni";
        /// Halves added as in `sum`, of two, four, eight and sixteen vectors side by side.
        fn sums(self, v: &[__m512; 16]) -> __m512 {
            let mut quarters = [_mm512_setzero_ps(); 4];
            for j in 0..4 {
                let (a, b, c, d) = (v[j], v[4 + j], v[8 + j], v[12 + j]);
                let ab = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
                let cd = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
                quarters[j] = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
            }
            let (a, b) = (_mm512_castps_pd(quarters[0]), _mm512_castps_pd(quarters[1]));
            let (c, d) = (_mm512_castps_pd(quarters[2]), _mm512_castps_pd(quarters[3]));
            let ab = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            let ab = _mm512_add_ps(ab, _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
            let cd = _mm512_castpd_ps(_mm512_unpacklo_pd(c, d));
            let cd = _mm512_add_ps(cd, _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)));
            _mm512_add_ps(_mm512_shuffle_ps::<0x88>(ab, cd), _mm512_shuffle_ps::<0xdd>(ab, cd))
        }
        fn splat(self, x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn load(self, x: &[f32]) -> __m512 {
            let x = &x[..16];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe { _mm512_loadu_ps(x.as_ptr()) }
        }
        fn store(self, v: __m512, out: &mut [f32]) {
            let out = &mut out[..16];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
        }
        fn load_part(self, x: &[f32]) -> __m512 {
            let x = &x[..x.len().min(16)];
            // SAFETY: no more than the slice has is read; no alignment is asked for.
            unsafe { _mm512_maskz_loadu_ps(((1u32 << x.len()) - 1) as u16, x.as_ptr()) }
        }
        fn store_part(self, v: __m512, out: &mut [f32]) {
            let end = out.len().min(16);
            let out = &mut out[..end];
            // SAFETY: no more than the slice has is written; no alignment is asked for.
            unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), ((1u32 << out.len()) - 1) as u16, v) }
        }
        fn load_f32_bytes(self, x: &[u8]) -> __m512 {
            let x = &x[..64];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe { _mm512_loadu_ps(x.as_ptr().cast()) }
        }
        fn load_bf16_bytes(self, x: &[u8]) -> __m512 {
            let x = &x[..32];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
        fn load_bf16(self, x: &[u16]) -> __m512 {
            let x = &x[..16];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
        fn load_f16_bytes(self, x: &[u8]) -> __m512 {
            let x = &x[..32];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
        }
        fn load_e4m3(self, x: &[u8]) -> __m512 {
            let x = &x[..16];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe {
                let wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(x.as_ptr().cast()));
                let magnitude = _mm256_and_si256(wide, _mm256_set1_epi16(0x7f));
                let sign = _mm256_slli_epi16::<8>(_mm256_andnot_si256(_mm256_set1_epi16(0x7f), wide));
                let half = _mm256_or_si256(sign, _mm256_slli_epi16::<7>(magnitude));
                let value = _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0));
                let nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7f));
                _mm512_mask_blend_ps(nan, value, _mm512_set1_ps(f32::NAN))
            }
        }
        fn add(self, a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(self, a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(self, a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(self, a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fnmadd_ps(a, b, c) }
        fn swap_pairs(self, a: __m512) -> __m512 { _mm512_permute_ps::<0xB1>(a) }
        fn max(self, a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn min(self, a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn round(self, a: __m512) -> __m512 {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
        }
        fn exp2(self, n: __m512) -> __m512 {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
        fn to_bf16(self, x: __m512) -> __m512 {
            let bits = _mm512_castps_si512(x);
            let even = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let near = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
            let near = _mm512_mask_or_epi32(near, nan, bits, _mm512_set1_epi32(0x0040_0000));
            let upper = _mm512_and_si512(near, _mm512_set1_epi32(0xffff_0000u32 as i32));
            // Subnormal numbers keep their sign.
            let zero = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7f80_0000));
            _mm512_castsi512_ps(_mm512_mask_and_epi32(upper, zero, bits, _mm512_set1_epi32(i32::MIN)))
        }
        fn as_i(self, v: __m512) -> __m512i { _mm512_castps_si512(v) }
        fn as_f(self, v: __m512i) -> __m512 { _mm512_castsi512_ps(v) }
        fn below(self, x: __m512, bound: __m512, a: __m512, b: __m512) -> __m512 {
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, bound), b, a)
        }
        fn largest(self, a: __m512, b: __m512) -> f32 {
            let bits = _mm512_set1_epi32(i32::MAX);
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            let most = _mm512_max_epu32(_mm512_and_si512(a, bits), _mm512_and_si512(b, bits));
            f32::from_bits(_mm512_reduce_max_epu32(most))
        }
        fn to_bytes(self, v: __m512, out: &mut [i8]) -> i32 {
            let out = &mut out[..16];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe {
                let held = _mm512_max_ps(_mm512_min_ps(v, _mm512_set1_ps(127.0)), _mm512_set1_ps(-127.0));
                let whole = _mm512_maskz_cvtps_epi32(_mm512_cmp_ps_mask::<_CMP_ORD_Q>(v, v), held);
                _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(whole));
                _mm512_reduce_add_epi32(whole)
            }
        }
        fn splat_i(self, x: i32) -> __m512i { _mm512_set1_epi32(x) }
        fn to_f(self, v: __m512i) -> __m512 { _mm512_cvtepi32_ps(v) }
        fn dot_step(self, acc: __m512i, tile: &[u8], x: &[i8]) -> __m512i {
            let (tile, x) = (&tile[..64], &x[..4]);
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe {
                let x = _mm512_set1_epi32(x.as_ptr().cast::<i32>().read_unaligned());
                _mm512_dpbusd_epi32(acc, _mm512_loadu_si512(tile.as_ptr().cast()), x)
            }
        }
        fn load_i(self, x: &[i32]) -> __m512i {
            let x = &x[..16];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
        }
        fn store_i(self, v: __m512i, out: &mut [i32]) {
            let out = &mut out[..16];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), v) }
        }
        fn to_i(self, v: __m512) -> __m512i { _mm512_cvtps_epi32(v) }
        fn pack(self, a: __m512i, b: __m512i) -> __m512i { _mm512_packs_epi32(a, b) }
        fn pairs_low(self, x: __m512i, y: __m512i) -> __m512i { _mm512_unpacklo_epi16(x, y) }
        fn pairs_high(self, x: __m512i, y: __m512i) -> __m512i { _mm512_unpackhi_epi16(x, y) }
        fn dot_pairs(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i { _mm512_dpwssd_epi32(acc, a, b) }
        fn transpose(self, v: &mut [__m512i; 16]) { lanes::transpose(v) }
        fn by_four(self, v: [__m512; 4]) -> [__m512; 4] { lanes::by_four(v) }
        /// A transposition of four bytes each.
        fn interleave(self, u: &[u8], stride: usize, out: &mut [u8]) {
            let (u, out) = (&u[..15 * stride + 64], &mut out[..1024]);
            // SAFETY: within the slices, whose lengths were checked; no alignment is asked for.
            unsafe {
                let mut v = array!(16, r, _mm512_loadu_si512(u.as_ptr().add(r * stride).cast()));
                lanes::transpose(&mut v);
                for step in 0..16 {
                    _mm512_storeu_si512(out.as_mut_ptr().add(64 * step).cast(), v[step]);
                }
            }
        }
    }
}
