//! Vectors of AVX2, FMA and F16C: sixteen lanes are two registers.

use std::arch::x86_64::*;

use crate::table::{Table, kernels};
use crate::vectors::{Vectors, array, for_features};

mod lanes;
pub(crate) mod natural;
mod quantised;
pub(crate) mod single;

/// Whether this processor (and system) has it.
pub fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// To the nearest integers within -127..=127; a NaN to zero.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn whole(v: __m256) -> __m256i {
    let held = _mm256_max_ps(_mm256_min_ps(v, _mm256_set1_ps(127.0)), _mm256_set1_ps(-127.0));
    let number = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_ORD_Q>(v, v));
    _mm256_and_si256(_mm256_cvtps_epi32(held), number)
}

/// Kernels; products with block formats have inner loops of their own.
pub static TABLE: Table = Table { product: quantised::product, panels: true, ..GENERIC };

/// Every kernel from the common source.
const GENERIC: Table = kernels!("avx2", Avx2, Avx2::proof(), Rounded, "avx2,fma,f16c");

/// The set, where the processor has it.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// The proof of a function that is compiled for the set: whoever calls that function answers for the processor.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn proof() -> Self {
        Avx2(())
    }
}

type Pair = (__m256, __m256);

impl Vectors for Avx2 {
    type F = Pair;
    type I = (__m256i, __m256i);
    const MANY_REGISTERS: bool = false;
    const TILE_ROWS: usize = 3;

    /// Lanes 0 to 8 of all columns, then lanes 8 to 16: twelve sums, three inputs and a weight fill the registers.
    #[inline(always)]
    fn dot_tile<const O: usize, const R: usize>(self, w: [&[f32]; O], x: [&[f32]; R], acc: &mut [[Pair; R]; O]) {
        let len = w[0].len();
        assert!(len.is_multiple_of(16));
        for a in 0..O {
            assert!(w[a].len() == len);
        }
        for r in 0..R {
            assert!(x[r].len() == len);
        }
        // SAFETY: the columns are whole vectors of every slice; no alignment is asked for. `self` is the proof that the set is there.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); R]; O];
            for half in [0, 8] {
                for a in 0..O {
                    for r in 0..R {
                        sums[a][r] = if half == 0 { acc[a][r].0 } else { acc[a][r].1 };
                    }
                }
                for k in (half..len).step_by(16) {
                    let xv = array!(R, r, _mm256_loadu_ps(x[r].as_ptr().add(k)));
                    for a in 0..O {
                        let wv = _mm256_loadu_ps(w[a].as_ptr().add(k));
                        for r in 0..R {
                            sums[a][r] = _mm256_fmadd_ps(wv, xv[r], sums[a][r]);
                        }
                    }
                }
                for a in 0..O {
                    for r in 0..R {
                        if half == 0 {
                            acc[a][r].0 = sums[a][r];
                        } else {
                            acc[a][r].1 = sums[a][r];
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, x: &[T]) {
        // SAFETY: a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(x.as_ptr().cast()) }
    }

    for_features! {
        "avx2,fma,f16c";
        /// Halves are added until one lane is left.
        fn sum(self, v: Pair) -> f32 {
            let eight = _mm256_add_ps(v.0, v.1);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
        /// Halves added as in `sum`, of two, four and eight vectors side by side.
        fn sums(self, v: &[Pair; 16]) -> Pair {
            let (low, high) =
                ([v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]], [v[8], v[9], v[10], v[11], v[12], v[13], v[14], v[15]]);
            (sums_of_eight(&low), sums_of_eight(&high))
        }
        fn splat(self, x: f32) -> Pair { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
        fn load(self, x: &[f32]) -> Pair {
            let x = &x[..16];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe { (_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))) }
        }
        fn store(self, v: Pair, out: &mut [f32]) {
            let out = &mut out[..16];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), v.0);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), v.1);
            }
        }
        fn load_f32_bytes(self, x: &[u8]) -> Pair {
            let x = &x[..64];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe { (_mm256_loadu_ps(x.as_ptr().cast()), _mm256_loadu_ps(x.as_ptr().add(32).cast())) }
        }
        fn load_bf16_bytes(self, x: &[u8]) -> Pair {
            let x = &x[..32];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe { (bf16(_mm_loadu_si128(x.as_ptr().cast())), bf16(_mm_loadu_si128(x.as_ptr().add(16).cast()))) }
        }
        fn load_bf16(self, x: &[u16]) -> Pair {
            let x = &x[..16];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe { (bf16(_mm_loadu_si128(x.as_ptr().cast())), bf16(_mm_loadu_si128(x.as_ptr().add(8).cast()))) }
        }
        fn load_f16_bytes(self, x: &[u8]) -> Pair {
            let x = &x[..32];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe {
                let low = _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast()));
                (low, _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(16).cast())))
            }
        }
        fn load_e4m3(self, x: &[u8]) -> Pair {
            let x = &x[..16];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe {
                // Sign and magnitude to where f16 has them; exponents then differ by eight.
                let wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(x.as_ptr().cast()));
                let half = _mm256_and_si256(_mm256_slli_epi16::<7>(wide), _mm256_set1_epi16(0xbf80_u16 as i16));
                let none = _mm256_set1_epi16(0xbf80_u16 as i16);
                let nan = _mm256_cmpeq_epi16(_mm256_or_si256(half, _mm256_set1_epi16(i16::MIN)), none);
                let half = _mm256_blendv_epi8(half, _mm256_set1_epi16(0x7e00), nan);
                let scale = _mm256_set1_ps(256.0);
                let low = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(half)), scale);
                (low, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256::<1>(half)), scale))
            }
        }
        fn add(self, a: Pair, b: Pair) -> Pair { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
        fn sub(self, a: Pair, b: Pair) -> Pair { (_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
        fn mul(self, a: Pair, b: Pair) -> Pair { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
        fn div(self, a: Pair, b: Pair) -> Pair { (_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
        fn fma(self, a: Pair, b: Pair, c: Pair) -> Pair {
            (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1))
        }
        fn fnma(self, a: Pair, b: Pair, c: Pair) -> Pair {
            (_mm256_fnmadd_ps(a.0, b.0, c.0), _mm256_fnmadd_ps(a.1, b.1, c.1))
        }
        fn swap_pairs(self, a: Pair) -> Pair { (_mm256_permute_ps::<0xB1>(a.0), _mm256_permute_ps::<0xB1>(a.1)) }
        fn max(self, a: Pair, b: Pair) -> Pair { (_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
        fn min(self, a: Pair, b: Pair) -> Pair { (_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)) }
        fn round(self, a: Pair) -> Pair {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            (_mm256_round_ps::<NEAREST>(a.0), _mm256_round_ps::<NEAREST>(a.1))
        }
        fn exp2(self, n: Pair) -> Pair { (exp2(n.0), exp2(n.1)) }
        fn to_bf16(self, x: Pair) -> Pair { (to_bf16(x.0), to_bf16(x.1)) }
        fn as_i(self, v: Pair) -> (__m256i, __m256i) { (_mm256_castps_si256(v.0), _mm256_castps_si256(v.1)) }
        fn as_f(self, v: (__m256i, __m256i)) -> Pair { (_mm256_castsi256_ps(v.0), _mm256_castsi256_ps(v.1)) }
        fn below(self, x: Pair, bound: Pair, a: Pair, b: Pair) -> Pair {
            let low = _mm256_blendv_ps(b.0, a.0, _mm256_cmp_ps::<_CMP_LT_OQ>(x.0, bound.0));
            (low, _mm256_blendv_ps(b.1, a.1, _mm256_cmp_ps::<_CMP_LT_OQ>(x.1, bound.1)))
        }
        fn largest(self, a: Pair, b: Pair) -> f32 {
            let bits = _mm256_set1_epi32(i32::MAX);
            let mut most = _mm256_setzero_si256();
            for v in [a.0, a.1, b.0, b.1] {
                most = _mm256_max_epu32(most, _mm256_and_si256(_mm256_castps_si256(v), bits));
            }
            let four = _mm_max_epu32(_mm256_castsi256_si128(most), _mm256_extracti128_si256::<1>(most));
            let two = _mm_max_epu32(four, _mm_shuffle_epi32::<0x4e>(four));
            f32::from_bits(_mm_cvtsi128_si32(_mm_max_epu32(two, _mm_shuffle_epi32::<0xb1>(two))) as u32)
        }
        fn to_bytes(self, v: Pair, out: &mut [i8]) -> i32 {
            let out = &mut out[..16];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe {
                let (low, high) = (whole(v.0), whole(v.1));
                let words = _mm256_permute4x64_epi64::<0xd8>(_mm256_packs_epi32(low, high));
                let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
                _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
                let sum = _mm256_add_epi32(low, high);
                let four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
                let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0x4e>(four));
                _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0xb1>(two)))
            }
        }
        fn splat_i(self, x: i32) -> (__m256i, __m256i) { (_mm256_set1_epi32(x), _mm256_set1_epi32(x)) }
        fn to_f(self, v: (__m256i, __m256i)) -> Pair { (_mm256_cvtepi32_ps(v.0), _mm256_cvtepi32_ps(v.1)) }
        fn dot_step(self, acc: (__m256i, __m256i), tile: &[u8], x: &[i8]) -> (__m256i, __m256i) {
            let (tile, x) = (&tile[..64], &x[..4]);
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe {
                // Even and odd bytes apart, each a 16-bit product that cannot saturate.
                let x = _mm256_set1_epi32(x.as_ptr().cast::<i32>().read_unaligned());
                let x_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
                let x_odd = _mm256_srai_epi16::<8>(x);
                (step(acc.0, &tile[..32], x_even, x_odd), step(acc.1, &tile[32..], x_even, x_odd))
            }
        }
        /// Products of 16 bits, which do not saturate below 64 * 127 * 4, are added as they are.
        fn dot_two_steps(self, acc: (__m256i, __m256i), tile: &[u8], x: &[i8]) -> (__m256i, __m256i) {
            let (tile, x) = (&tile[..128], &x[..8]);
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe {
                let (a, b) = (
                    _mm256_set1_epi32(x.as_ptr().cast::<i32>().read_unaligned()),
                    _mm256_set1_epi32(x.as_ptr().add(4).cast::<i32>().read_unaligned()),
                );
                (two_steps(acc.0, tile, a, b), two_steps(acc.1, &tile[32..], a, b))
            }
        }
        fn load_i(self, x: &[i32]) -> (__m256i, __m256i) {
            let x = &x[..16];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe { (_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(8).cast())) }
        }
        fn store_i(self, v: (__m256i, __m256i), out: &mut [i32]) {
            let out = &mut out[..16];
            // SAFETY: within the slice, whose length was checked; no alignment is asked for.
            unsafe {
                _mm256_storeu_si256(out.as_mut_ptr().cast(), v.0);
                _mm256_storeu_si256(out.as_mut_ptr().add(8).cast(), v.1);
            }
        }
        fn to_i(self, v: Pair) -> (__m256i, __m256i) { (_mm256_cvtps_epi32(v.0), _mm256_cvtps_epi32(v.1)) }
        fn pack(self, a: (__m256i, __m256i), b: (__m256i, __m256i)) -> (__m256i, __m256i) {
            (_mm256_packs_epi32(a.0, b.0), _mm256_packs_epi32(a.1, b.1))
        }
        fn pairs_low(self, x: (__m256i, __m256i), y: (__m256i, __m256i)) -> (__m256i, __m256i) {
            (_mm256_unpacklo_epi16(x.0, y.0), _mm256_unpacklo_epi16(x.1, y.1))
        }
        fn pairs_high(self, x: (__m256i, __m256i), y: (__m256i, __m256i)) -> (__m256i, __m256i) {
            (_mm256_unpackhi_epi16(x.0, y.0), _mm256_unpackhi_epi16(x.1, y.1))
        }
        fn dot_pairs(self, acc: (__m256i, __m256i), a: (__m256i, __m256i), b: (__m256i, __m256i)) -> (__m256i, __m256i) {
            let low = _mm256_add_epi32(acc.0, _mm256_madd_epi16(a.0, b.0));
            (low, _mm256_add_epi32(acc.1, _mm256_madd_epi16(a.1, b.1)))
        }
        fn transpose(self, v: &mut [(__m256i, __m256i); 16]) {
            let (a, b) = (transpose_eight(&array!(8, r, v[r].0)), transpose_eight(&array!(8, r, v[8 + r].0)));
            let (c, d) = (transpose_eight(&array!(8, r, v[r].1)), transpose_eight(&array!(8, r, v[8 + r].1)));
            for r in 0..8 {
                (v[r], v[8 + r]) = ((a[r], b[r]), (c[r], d[r]));
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn bf16(x: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x)))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn to_bf16(x: __m256) -> __m256 {
    let bits = _mm256_castps_si256(x);
    let even = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let near = _mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff)));
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
    let near =
        _mm256_blendv_ps(_mm256_castsi256_ps(near), _mm256_castsi256_ps(quiet), _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
    let exponent = _mm256_and_si256(bits, _mm256_set1_epi32(0x7f80_0000));
    let zero = _mm256_cmpeq_epi32(exponent, _mm256_setzero_si256());
    // Subnormal numbers keep their sign, others their upper half.
    let kept = _mm256_xor_si256(
        _mm256_set1_epi32(0xffff_0000u32 as i32),
        _mm256_and_si256(zero, _mm256_set1_epi32(0x7fff_0000)),
    );
    _mm256_and_ps(near, _mm256_castsi256_ps(kept))
}

// Functions, not closures: a closure is compiled without the instruction set of the kernel that it stands in.

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sums_of_eight(v: &[Pair; 8]) -> __m256 {
    let mut quarters = [_mm256_setzero_pd(); 4];
    for j in 0..4 {
        let (a, b) = (_mm256_add_ps(v[j].0, v[j].1), _mm256_add_ps(v[4 + j].0, v[4 + j].1));
        let (low, high) = (_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
        quarters[j] = _mm256_castps_pd(_mm256_add_ps(low, high));
    }
    let [a, b, c, d] = quarters;
    let ab = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
    let ab = _mm256_add_ps(ab, _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
    let cd = _mm256_castpd_ps(_mm256_unpacklo_pd(c, d));
    let cd = _mm256_add_ps(cd, _mm256_castpd_ps(_mm256_unpackhi_pd(c, d)));
    _mm256_add_ps(_mm256_shuffle_ps::<0x88>(ab, cd), _mm256_shuffle_ps::<0xdd>(ab, cd))
}

/// Transposes a 4x4 grid of 32-bit words in each 128-bit lane.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn words(v: [__m256i; 4]) -> [__m256i; 4] {
    let (ab, cd) = (_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpacklo_epi32(v[2], v[3]));
    let (ab2, cd2) = (_mm256_unpackhi_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[2], v[3]));
    [
        _mm256_unpacklo_epi64(ab, cd),
        _mm256_unpackhi_epi64(ab, cd),
        _mm256_unpacklo_epi64(ab2, cd2),
        _mm256_unpackhi_epi64(ab2, cd2),
    ]
}

/// Transposes eight vectors of eight 32-bit numbers.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn transpose_eight(v: &[__m256i; 8]) -> [__m256i; 8] {
    let mut t = *v;
    // t[4i + j], 128-bit lane l: column 4l + j of rows 4i..4i + 4.
    for i in [0, 4] {
        [t[i], t[i + 1], t[i + 2], t[i + 3]] = words([v[i], v[i + 1], v[i + 2], v[i + 3]]);
    }
    let mut out = *v;
    for j in 0..4 {
        out[j] = _mm256_permute2x128_si256::<0x20>(t[j], t[4 + j]);
        out[4 + j] = _mm256_permute2x128_si256::<0x31>(t[j], t[4 + j]);
    }
    out
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn exp2(n: __m256) -> __m256 {
    let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
}

/// `acc + sum of four products` per lane, over 32 bytes of a tile.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn step(acc: __m256i, tile: &[u8], x_even: __m256i, x_odd: __m256i) -> __m256i {
    let tile = &tile[..32];
    // SAFETY: within the slice, whose length was checked; no alignment is asked for.
    unsafe {
        let t = _mm256_loadu_si256(tile.as_ptr().cast());
        let even = _mm256_and_si256(t, _mm256_set1_epi16(0xff));
        let odd = _mm256_srli_epi16::<8>(t);
        let dot = _mm256_add_epi32(_mm256_madd_epi16(even, x_even), _mm256_madd_epi16(odd, x_odd));
        _mm256_add_epi32(acc, dot)
    }
}

/// As `step` for bytes below 64, at 0 and at 64 of a tile.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn two_steps(acc: __m256i, tile: &[u8], a: __m256i, b: __m256i) -> __m256i {
    let tile = &tile[..96];
    // SAFETY: within the slice, whose length was checked; no alignment is asked for.
    unsafe {
        let first = _mm256_maddubs_epi16(_mm256_loadu_si256(tile.as_ptr().cast()), a);
        let second = _mm256_maddubs_epi16(_mm256_loadu_si256(tile.as_ptr().add(64).cast()), b);
        let pairs = _mm256_add_epi16(first, second);
        _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}
