//! Block formats in AVX-512 registers: unsigned quants of 64 columns of sixteen weight rows, interleaved by four columns, and
//! their scales and minima as one vector per group (lane = weight row).
//!
//! A step is up to 256 columns. No products here: `quantised` multiplies what this file unpacks.

use std::arch::x86_64::*;

use crate::blocks::{E2M1, NONLINEAR};
use crate::vectors::array;

/// Weight rows treated together: one lane each.
pub(super) const LANES: usize = 16;
/// Columns of a step.
pub(super) const STEP: usize = 256;

/// Scales (or minima) of a step: one vector of sixteen rows per group; sixteen groups at most.
pub(super) type Grid = [[f32; LANES]; 16];

/// Start of the same step in each of sixteen weight rows.
pub(super) type Rows = [*const u8; LANES];

/// A block format whose quants are unpacked in registers.
pub(super) trait Blocks {
    /// Weights that share a scale: 16 or 32.
    const GROUP: usize;
    /// What is subtracted from an unsigned quant.
    const OFFSET: i32;
    /// Whether groups have minima.
    const MINIMA: bool;
    /// Bytes of 256 columns.
    const STEP_BYTES: usize;

    /// Scales and minima of a step. Formats with a block for each 32 columns have nothing to do here.
    ///
    /// # Safety
    /// AVX-512 F, BW, VL, VNNI and F16C are present; each row has the blocks of a step readable.
    unsafe fn scales(rows: &Rows, scales: &mut Grid, minima: &mut Grid);

    /// Columns `64 * chunk ..` of sixteen rows as unsigned quants, interleaved: byte i of lane r of vector j is column `4 * j + i`
    /// of row r. Formats with a block for each 32 columns put their scales and minima too.
    ///
    /// # Safety
    /// As for `scales`, of the blocks of those 64 columns.
    unsafe fn interleaved(rows: &Rows, chunk: usize, scales: &mut Grid, minima: &mut Grid) -> [__m512i; 16];
}

/// 64 bytes.
///
/// # Safety
/// 64 bytes at `p` are readable.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load_z(p: *const u8) -> __m512i {
    // SAFETY: as the caller's; the load is unaligned.
    unsafe { _mm512_loadu_si512(p.cast()) }
}

/// 32 bytes.
///
/// # Safety
/// 32 bytes at `p` are readable.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load_y(p: *const u8) -> __m256i {
    // SAFETY: as the caller's; the load is unaligned.
    unsafe { _mm256_loadu_si256(p.cast()) }
}

/// Two runs of 32 bytes.
///
/// # Safety
/// 32 bytes at each pointer are readable.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load_y2(a: *const u8, b: *const u8) -> __m512i {
    // SAFETY: as the caller's.
    let (a, b) = unsafe { (load_y(a), load_y(b)) };
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b)
}

/// Four runs of sixteen bytes, one per 128-bit lane.
///
/// # Safety
/// Sixteen bytes at each pointer are readable.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load_x4(p: [*const u8; 4]) -> __m512i {
    // SAFETY: as the caller's; the loads are unaligned.
    let [a, b, c, d] = unsafe { array!(4, i, _mm_loadu_si128(p[i].cast())) };
    let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
    let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(c), d);
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// Transposes sixteen vectors of sixteen 32-bit numbers.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn transpose(v: &mut [__m512i; 16]) {
    let mut t = *v;
    for i in 0..4 {
        let [a, b, c, d] = [v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]];
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ab2, cd2) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        t[4 * i] = _mm512_unpacklo_epi64(ab, cd);
        t[4 * i + 1] = _mm512_unpackhi_epi64(ab, cd);
        t[4 * i + 2] = _mm512_unpacklo_epi64(ab2, cd2);
        t[4 * i + 3] = _mm512_unpackhi_epi64(ab2, cd2);
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

/// Sixteen bytes of each of sixteen rows as four vectors of 32-bit words, lane = row.
///
/// # Safety
/// Sixteen bytes at `offset` of every row are readable.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn words_16(rows: &Rows, offset: usize) -> [__m512i; 4] {
    let mut v = [_mm512_setzero_si512(); 4];
    for (i, v) in v.iter_mut().enumerate() {
        // SAFETY: the caller vouches for sixteen bytes at `offset` of every row.
        unsafe {
            *v = load_x4([
                rows[i].add(offset),
                rows[4 + i].add(offset),
                rows[8 + i].add(offset),
                rows[12 + i].add(offset),
            ]);
        }
    }
    words(v)
}

/// 32 bytes of each of sixteen rows as eight vectors of 32-bit words, lane = row.
///
/// # Safety
/// 32 bytes at `offset` of every row are readable.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn words_32(rows: &Rows, offset: usize) -> [__m512i; 8] {
    let (mut a, mut b) = ([_mm512_setzero_si512(); 4], [_mm512_setzero_si512(); 4]);
    for i in 0..4 {
        // SAFETY: the caller vouches for 32 bytes at `offset` of every row.
        unsafe {
            a[i] = load_y2(rows[i].add(offset), rows[4 + i].add(offset));
            b[i] = load_y2(rows[8 + i].add(offset), rows[12 + i].add(offset));
        }
    }
    // 128-bit lanes of a[j]: words j and 4 + j of rows 0 to 4, the same of rows 4 to 8
    let (a, b) = (words(a), words(b));
    [
        _mm512_shuffle_i32x4::<0x88>(a[0], b[0]),
        _mm512_shuffle_i32x4::<0x88>(a[1], b[1]),
        _mm512_shuffle_i32x4::<0x88>(a[2], b[2]),
        _mm512_shuffle_i32x4::<0x88>(a[3], b[3]),
        _mm512_shuffle_i32x4::<0xdd>(a[0], b[0]),
        _mm512_shuffle_i32x4::<0xdd>(a[1], b[1]),
        _mm512_shuffle_i32x4::<0xdd>(a[2], b[2]),
        _mm512_shuffle_i32x4::<0xdd>(a[3], b[3]),
    ]
}

/// Low nibbles of each vector, then high nibbles of each.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn split<const N: usize, const M: usize>(v: [__m512i; N]) -> [__m512i; M] {
    let mut out = [_mm512_setzero_si512(); M];
    let mask = _mm512_set1_epi8(15);
    for i in 0..N {
        out[i] = _mm512_and_si512(v[i], mask);
        out[N + i] = _mm512_and_si512(_mm512_srli_epi16::<4>(v[i]), mask);
    }
    out
}

/// Two halves of 64 columns.
#[inline(always)]
fn join(a: [__m512i; 8], b: [__m512i; 8]) -> [__m512i; 16] {
    array!(16, j, if j < 8 { a[j] } else { b[j - 8] })
}

/// The halves in the low 16 bits of each lane, as f32.
#[target_feature(enable = "avx512f")]
#[inline]
fn low_halves(v: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v))
}

/// Stores one vector of a grid.
#[target_feature(enable = "avx512f")]
#[inline]
fn put(row: &mut [f32; LANES], v: __m512) {
    // SAFETY: the array has room for sixteen f32.
    unsafe { _mm512_storeu_ps(row.as_mut_ptr(), v) }
}

/// Eight 6-bit scales and minima per row, as Q4_K and Q5_K keep them.
///
/// # Safety
/// Sixteen bytes of every row are readable.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
#[inline]
unsafe fn six_bit_scales(rows: &Rows, scales: &mut Grid, minima: &mut Grid) {
    // SAFETY: the caller vouches for sixteen bytes of every row.
    let [d, a, b, c] = unsafe { words_16(rows, 0) };
    let (dmin, d) = (low_halves(_mm512_srli_epi32::<16>(d)), low_halves(d));
    let (six, four, two) =
        (_mm512_set1_epi32(0x3f3f3f3f), _mm512_set1_epi32(0x0f0f0f0f), _mm512_set1_epi32(0x30303030));
    let words = [
        _mm512_and_si512(a, six),
        _mm512_or_si512(_mm512_and_si512(c, four), _mm512_and_si512(_mm512_srli_epi32::<2>(a), two)),
        _mm512_and_si512(b, six),
        _mm512_or_si512(
            _mm512_and_si512(_mm512_srli_epi32::<4>(c), four),
            _mm512_and_si512(_mm512_srli_epi32::<2>(b), two),
        ),
    ];
    let byte = _mm512_set1_epi32(0xff);
    for i in 0..2 {
        let (mut s, mut m) = (words[i], words[2 + i]);
        for j in 0..4 {
            put(&mut scales[4 * i + j], _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_and_si512(s, byte))));
            put(&mut minima[4 * i + j], _mm512_mul_ps(dmin, _mm512_cvtepi32_ps(_mm512_and_si512(m, byte))));
            s = _mm512_srli_epi32::<8>(s);
            m = _mm512_srli_epi32::<8>(m);
        }
    }
}

/// The 32-bit word at `offset` of each of sixteen rows.
///
/// # Safety
/// Sixteen bytes at `offset` of every row are readable.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn word(rows: &Rows, offset: usize) -> __m512i {
    // SAFETY: as the caller's. What is not asked for is not computed.
    unsafe { words_16(rows, offset)[0] }
}

/// The f16 scales at the start of two blocks of `bytes` bytes, at least sixteen, that make a chunk.
///
/// # Safety
/// Two blocks at `2 * chunk * bytes` of every row are readable.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
#[inline]
unsafe fn half_scales(rows: &Rows, chunk: usize, bytes: usize, scales: &mut Grid) {
    // SAFETY: as the caller's.
    unsafe {
        put(&mut scales[2 * chunk], low_halves(word(rows, 2 * chunk * bytes)));
        put(&mut scales[2 * chunk + 1], low_halves(word(rows, (2 * chunk + 1) * bytes)));
    }
}

/// 16 where a bit is set: bit `4 * j + i` of lane r is for byte i of lane r of vector j.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn fifth_bits(bits: __m512i) -> [__m512i; 8] {
    let (low, high) = (_mm512_set1_epi32(0x0804_0201), _mm512_set1_epi32(0x8040_2010u32 as i32));
    let sixteen = _mm512_set1_epi8(16);
    let first = _mm512_set4_epi32(0x0c0c_0c0c, 0x0808_0808, 0x0404_0404, 0);
    let mut v = [bits; 8];
    for p in 0..4 {
        // byte p of each lane, four times
        let bytes = _mm512_shuffle_epi8(bits, _mm512_add_epi8(first, _mm512_set1_epi8(p as i8)));
        v[2 * p] = _mm512_maskz_mov_epi8(_mm512_test_epi8_mask(bytes, low), sixteen);
        v[2 * p + 1] = _mm512_maskz_mov_epi8(_mm512_test_epi8_mask(bytes, high), sixteen);
    }
    v
}

/// Sixteen bytes of nibbles of every row, with fifth bits.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn five_bits(low: [__m512i; 4], bits: __m512i) -> [__m512i; 8] {
    let (mut v, mask) = (fifth_bits(bits), _mm512_set1_epi8(15));
    for j in 0..4 {
        v[j] = _mm512_ternarylogic_epi32::<0xea>(low[j], mask, v[j]);
        v[4 + j] = _mm512_ternarylogic_epi32::<0xea>(_mm512_srli_epi16::<4>(low[j]), mask, v[4 + j]);
    }
    v
}

/// One block of Q5_0 of every row: scale and quants.
///
/// # Safety
/// 22 bytes at `offset` of every row are readable.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
#[inline]
unsafe fn q5_0_block(rows: &Rows, offset: usize, scale: &mut [f32; LANES]) -> [__m512i; 8] {
    // SAFETY: as the caller's. The f16 scale and 32 high bits are in the first two words, sixteen bytes of nibbles follow.
    let ([a, b, ..], low) = unsafe { (words_16(rows, offset), words_16(rows, offset + 6)) };
    put(scale, low_halves(a));
    five_bits(low, _mm512_or_si512(_mm512_srli_epi32::<16>(a), _mm512_slli_epi32::<16>(b)))
}

pub(super) struct Q4K;
impl Blocks for Q4K {
    const GROUP: usize = 32;
    const OFFSET: i32 = 0;
    const MINIMA: bool = true;
    const STEP_BYTES: usize = 144;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn scales(rows: &Rows, scales: &mut Grid, minima: &mut Grid) {
        // SAFETY: a block begins with its sixteen bytes of scales.
        unsafe { six_bit_scales(rows, scales, minima) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn interleaved(rows: &Rows, chunk: usize, _scales: &mut Grid, _minima: &mut Grid) -> [__m512i; 16] {
        // SAFETY: 128 bytes of quants follow 16 bytes of scales; chunk < 4.
        split(unsafe { words_32(rows, 16 + 32 * chunk) })
    }
}

pub(super) struct Q5K;
impl Blocks for Q5K {
    const GROUP: usize = 32;
    const OFFSET: i32 = 0;
    const MINIMA: bool = true;
    const STEP_BYTES: usize = 176;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn scales(rows: &Rows, scales: &mut Grid, minima: &mut Grid) {
        // SAFETY: a block begins with its sixteen bytes of scales.
        unsafe { six_bit_scales(rows, scales, minima) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn interleaved(rows: &Rows, chunk: usize, _scales: &mut Grid, _minima: &mut Grid) -> [__m512i; 16] {
        // SAFETY: 32 bytes of high bits and 128 bytes of low nibbles follow 16 bytes of scales; chunk < 4.
        let (low, high) = unsafe { (words_32(rows, 48 + 32 * chunk), words_32(rows, 16)) };
        let mut v: [__m512i; 16] = split(low);
        let c = 2 * chunk as i32;
        let (first, second, bit) = (_mm512_set1_epi32(4 - c), _mm512_set1_epi32(3 - c), _mm512_set1_epi8(16));
        for j in 0..8 {
            v[j] = _mm512_ternarylogic_epi32::<0xf8>(v[j], _mm512_rolv_epi32(high[j], first), bit);
            v[8 + j] = _mm512_ternarylogic_epi32::<0xf8>(v[8 + j], _mm512_rolv_epi32(high[j], second), bit);
        }
        v
    }
}

pub(super) struct Q6K;
impl Q6K {
    /// 64 columns of one row.
    ///
    /// # Safety
    /// The block is readable.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn quants(step: *const u8, chunk: usize) -> __m512i {
        let (half, second) = (chunk / 2, chunk % 2 == 1);
        // SAFETY: 128 bytes of low nibbles, then 64 bytes of high bits; chunk < 4.
        let (low, high) = unsafe { (load_z(step.add(64 * half)), load_y(step.add(128 + 32 * half))) };
        let (low, turn) = if second {
            (_mm512_srli_epi16::<4>(low), _mm512_setr_epi64(0, 0, 0, 0, 62, 62, 62, 62))
        } else {
            (low, _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2))
        };
        let low = _mm512_and_si512(low, _mm512_set1_epi8(15));
        let high = _mm512_rolv_epi64(_mm512_broadcast_i64x4(high), turn);
        _mm512_ternarylogic_epi64::<0xf8>(low, high, _mm512_set1_epi8(0x30))
    }
}
impl Blocks for Q6K {
    const GROUP: usize = 16;
    const OFFSET: i32 = 32;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 210;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn scales(rows: &Rows, scales: &mut Grid, _minima: &mut Grid) {
        // SAFETY: a block ends with sixteen i8 scales, at byte 192, and an f16.
        let (words, [.., d]) = unsafe { (words_16(rows, 192), words_16(rows, 194)) };
        let d = low_halves(_mm512_srli_epi32::<16>(d));
        for (i, word) in words.into_iter().enumerate() {
            let [a, b, c, e] =
                [_mm512_slli_epi32::<24>(word), _mm512_slli_epi32::<16>(word), _mm512_slli_epi32::<8>(word), word];
            for (j, v) in [a, b, c, e].into_iter().enumerate() {
                put(&mut scales[4 * i + j], _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(v))));
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn interleaved(rows: &Rows, chunk: usize, _scales: &mut Grid, _minima: &mut Grid) -> [__m512i; 16] {
        let mut v = [_mm512_setzero_si512(); LANES];
        for (v, &row) in v.iter_mut().zip(rows) {
            // SAFETY: as the caller's.
            *v = unsafe { Self::quants(row, chunk) };
        }
        transpose(&mut v);
        v
    }
}

pub(super) struct Q8_0;
impl Blocks for Q8_0 {
    const GROUP: usize = 32;
    const OFFSET: i32 = 128;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 8 * 34;

    #[inline(always)]
    unsafe fn scales(_rows: &Rows, _scales: &mut Grid, _minima: &mut Grid) {}

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn interleaved(rows: &Rows, chunk: usize, scales: &mut Grid, _minima: &mut Grid) -> [__m512i; 16] {
        // SAFETY: as the caller's.
        unsafe { half_scales(rows, chunk, 34, scales) };
        // SAFETY: two blocks of 34 bytes, 32 of them quants after the f16 scale.
        let v = unsafe { join(words_32(rows, 68 * chunk + 2), words_32(rows, 68 * chunk + 36)) };
        let high = _mm512_set1_epi8(-128);
        array!(16, j, _mm512_xor_si512(v[j], high))
    }
}

pub(super) struct Q4_0;
impl Blocks for Q4_0 {
    const GROUP: usize = 32;
    const OFFSET: i32 = 8;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 8 * 18;

    #[inline(always)]
    unsafe fn scales(_rows: &Rows, _scales: &mut Grid, _minima: &mut Grid) {}

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn interleaved(rows: &Rows, chunk: usize, scales: &mut Grid, _minima: &mut Grid) -> [__m512i; 16] {
        // SAFETY: as the caller's.
        unsafe { half_scales(rows, chunk, 18, scales) };
        // SAFETY: two blocks of 18 bytes, 16 of them quants after the f16 scale.
        unsafe { join(split(words_16(rows, 36 * chunk + 2)), split(words_16(rows, 36 * chunk + 20))) }
    }
}

pub(super) struct Q5_0;
impl Blocks for Q5_0 {
    const GROUP: usize = 32;
    const OFFSET: i32 = 16;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 8 * 22;

    #[inline(always)]
    unsafe fn scales(_rows: &Rows, _scales: &mut Grid, _minima: &mut Grid) {}

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn interleaved(rows: &Rows, chunk: usize, scales: &mut Grid, _minima: &mut Grid) -> [__m512i; 16] {
        let [first, second] = &mut scales[2 * chunk..2 * chunk + 2] else { unreachable!() };
        // SAFETY: two blocks of 22 bytes.
        unsafe { join(q5_0_block(rows, 44 * chunk, first), q5_0_block(rows, 44 * chunk + 22, second)) }
    }
}

/// Bytes to those that a table has for them.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn look_up<const N: usize>(table: &[u8; 16], mut v: [__m512i; N]) -> [__m512i; N] {
    // SAFETY: the table has sixteen bytes.
    let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
    for v in &mut v {
        *v = _mm512_shuffle_epi8(table, *v);
    }
    v
}

/// The halves in the low 16 bits of each lane as scale, those in the high 16 bits, negated, as minimum.
#[target_feature(enable = "avx512f")]
#[inline]
fn scale_and_minimum(word: __m512i, scale: &mut [f32; LANES], minimum: &mut [f32; LANES]) {
    put(scale, low_halves(word));
    let m = _mm512_castps_si512(low_halves(_mm512_srli_epi32::<16>(word)));
    put(minimum, _mm512_castsi512_ps(_mm512_xor_si512(m, _mm512_set1_epi32(i32::MIN))));
}

/// The bytes of each lane, less `less`, times `d`: four vectors of a grid.
#[target_feature(enable = "avx512f")]
#[inline]
fn byte_scales(mut word: __m512i, less: i32, d: __m512, out: &mut [[f32; LANES]]) {
    for out in out {
        let byte = _mm512_and_si512(word, _mm512_set1_epi32(0xff));
        put(out, _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_sub_epi32(byte, _mm512_set1_epi32(less)))));
        word = _mm512_srli_epi32::<8>(word);
    }
}

pub(super) struct Q4_1;
impl Blocks for Q4_1 {
    const GROUP: usize = 32;
    const OFFSET: i32 = 0;
    const MINIMA: bool = true;
    const STEP_BYTES: usize = 8 * 20;

    #[inline(always)]
    unsafe fn scales(_rows: &Rows, _scales: &mut Grid, _minima: &mut Grid) {}

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn interleaved(rows: &Rows, chunk: usize, scales: &mut Grid, minima: &mut Grid) -> [__m512i; 16] {
        let [at, next] = [40 * chunk, 40 * chunk + 20];
        // SAFETY: two blocks of 20 bytes: f16 scale and minimum, 16 bytes of nibbles.
        unsafe {
            scale_and_minimum(word(rows, at), &mut scales[2 * chunk], &mut minima[2 * chunk]);
            scale_and_minimum(word(rows, next), &mut scales[2 * chunk + 1], &mut minima[2 * chunk + 1]);
            join(split(words_16(rows, at + 4)), split(words_16(rows, next + 4)))
        }
    }
}

pub(super) struct Q5_1;
impl Blocks for Q5_1 {
    const GROUP: usize = 32;
    const OFFSET: i32 = 0;
    const MINIMA: bool = true;
    const STEP_BYTES: usize = 8 * 24;

    #[inline(always)]
    unsafe fn scales(_rows: &Rows, _scales: &mut Grid, _minima: &mut Grid) {}

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn interleaved(rows: &Rows, chunk: usize, scales: &mut Grid, minima: &mut Grid) -> [__m512i; 16] {
        let [at, next] = [48 * chunk, 48 * chunk + 24];
        // SAFETY: two blocks of 24 bytes: f16 scale and minimum, 32 high bits, 16 bytes of nibbles.
        let ([a, bits_a, ..], low_a, [b, bits_b, ..], low_b) =
            unsafe { (words_16(rows, at), words_16(rows, at + 8), words_16(rows, next), words_16(rows, next + 8)) };
        scale_and_minimum(a, &mut scales[2 * chunk], &mut minima[2 * chunk]);
        scale_and_minimum(b, &mut scales[2 * chunk + 1], &mut minima[2 * chunk + 1]);
        join(five_bits(low_a, bits_a), five_bits(low_b, bits_b))
    }
}

pub(super) struct Iq4Nl;
impl Blocks for Iq4Nl {
    const GROUP: usize = 32;
    const OFFSET: i32 = 128;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 8 * 18;

    #[inline(always)]
    unsafe fn scales(_rows: &Rows, _scales: &mut Grid, _minima: &mut Grid) {}

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn interleaved(rows: &Rows, chunk: usize, scales: &mut Grid, _minima: &mut Grid) -> [__m512i; 16] {
        // SAFETY: as the caller's. Two blocks of 18 bytes, 16 of them nibbles after the f16 scale.
        let v: [__m512i; 16] = unsafe {
            half_scales(rows, chunk, 18, scales);
            join(split(words_16(rows, 36 * chunk + 2)), split(words_16(rows, 36 * chunk + 20)))
        };
        look_up(&NONLINEAR, v)
    }
}

pub(super) struct Mxfp4;
impl Blocks for Mxfp4 {
    const GROUP: usize = 32;
    const OFFSET: i32 = 12;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 8 * 17;

    #[inline(always)]
    unsafe fn scales(_rows: &Rows, _scales: &mut Grid, _minima: &mut Grid) {}

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn interleaved(rows: &Rows, chunk: usize, scales: &mut Grid, _minima: &mut Grid) -> [__m512i; 16] {
        let mut v = [[_mm512_setzero_si512(); 8]; 2];
        for (b, v) in v.iter_mut().enumerate() {
            let at = 34 * chunk + 17 * b;
            // SAFETY: two blocks of 17 bytes, 16 of them nibbles after the exponent.
            let (e, low) = unsafe { (word(rows, at), words_16(rows, at + 1)) };
            // 2^(e - 128), the smallest two of which are subnormal
            let e = _mm512_and_si512(e, _mm512_set1_epi32(0xff));
            let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
            let small = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), e);
            let bits = _mm512_mask_mov_epi32(normal, _mm512_cmplt_epu32_mask(e, _mm512_set1_epi32(2)), small);
            put(&mut scales[2 * chunk + b], _mm512_castsi512_ps(bits));
            *v = split(low);
        }
        look_up(&E2M1, join(v[0], v[1]))
    }
}

pub(super) struct Iq4Xs;
impl Blocks for Iq4Xs {
    const GROUP: usize = 32;
    const OFFSET: i32 = 128;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 136;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn scales(rows: &Rows, scales: &mut Grid, _minima: &mut Grid) {
        // SAFETY: a block begins with an f16 scale, eight times two high bits, eight low nibbles.
        let [first, low, ..] = unsafe { words_16(rows, 0) };
        let (d, mut low, mut high) = (low_halves(first), low, _mm512_srli_epi32::<12>(first));
        for s in &mut scales[..8] {
            // The high bits stand at bits 4 and 5.
            let both = _mm512_or_si512(
                _mm512_and_si512(low, _mm512_set1_epi32(15)),
                _mm512_and_si512(high, _mm512_set1_epi32(0x30)),
            );
            put(s, _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_sub_epi32(both, _mm512_set1_epi32(32)))));
            (low, high) = (_mm512_srli_epi32::<4>(low), _mm512_srli_epi32::<2>(high));
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn interleaved(rows: &Rows, chunk: usize, _scales: &mut Grid, _minima: &mut Grid) -> [__m512i; 16] {
        // SAFETY: 128 bytes of nibbles follow eight bytes of scales, 16 for each group; chunk < 4.
        let [a, b, c, d, e, f, g, h] = unsafe { words_32(rows, 8 + 32 * chunk) };
        look_up(&NONLINEAR, join(split([a, b, c, d]), split([e, f, g, h])))
    }
}

pub(super) struct Q2K;
impl Blocks for Q2K {
    const GROUP: usize = 16;
    const OFFSET: i32 = 0;
    const MINIMA: bool = true;
    const STEP_BYTES: usize = 84;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn scales(rows: &Rows, scales: &mut Grid, minima: &mut Grid) {
        // SAFETY: a block begins with sixteen pairs of nibbles and ends with two halves, at byte 80.
        let (words, [.., d]) = unsafe { (words_16(rows, 0), words_16(rows, 68)) };
        let (d, dmin) = (low_halves(d), low_halves(_mm512_srli_epi32::<16>(d)));
        let mask = _mm512_set1_epi8(15);
        for (i, word) in words.into_iter().enumerate() {
            byte_scales(_mm512_and_si512(word, mask), 0, d, &mut scales[4 * i..4 * i + 4]);
            let high = _mm512_and_si512(_mm512_srli_epi32::<4>(word), mask);
            byte_scales(high, 0, dmin, &mut minima[4 * i..4 * i + 4]);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn interleaved(rows: &Rows, chunk: usize, _scales: &mut Grid, _minima: &mut Grid) -> [__m512i; 16] {
        // SAFETY: 64 bytes of four quants each follow sixteen bytes of scales; chunk < 4.
        let words = unsafe { words_32(rows, 16 + 32 * (chunk / 2)) };
        two_bits(words, chunk)
    }
}

pub(super) struct Q3K;
impl Blocks for Q3K {
    const GROUP: usize = 16;
    const OFFSET: i32 = 4;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 110;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn scales(rows: &Rows, scales: &mut Grid, _minima: &mut Grid) {
        // SAFETY: a block ends with twelve bytes of scales, at byte 96, and an f16.
        let ([_, a, b, high], [.., d]) = unsafe { (words_16(rows, 92), words_16(rows, 94)) };
        let d = low_halves(_mm512_srli_epi32::<16>(d));
        let (four, two) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
        let low = [a, b, _mm512_srli_epi32::<4>(a), _mm512_srli_epi32::<4>(b)];
        // Two bits more for each byte, at bits 4 and 5.
        let high = [_mm512_slli_epi32::<4>(high), _mm512_slli_epi32::<2>(high), high, _mm512_srli_epi32::<2>(high)];
        for i in 0..4 {
            let word = _mm512_or_si512(_mm512_and_si512(low[i], four), _mm512_and_si512(high[i], two));
            byte_scales(word, 32, d, &mut scales[4 * i..4 * i + 4]);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn interleaved(rows: &Rows, chunk: usize, _scales: &mut Grid, _minima: &mut Grid) -> [__m512i; 16] {
        // SAFETY: 32 bytes of high bits and 64 bytes of two low bits; chunk < 4.
        let (high, low) = unsafe { (words_32(rows, 0), words_32(rows, 32 + 32 * (chunk / 2))) };
        let mut v = two_bits(low, chunk);
        // bit 2c of the high byte goes to the first half, bit 2c + 1 to the second; both land on bit 2
        let c = 2 * chunk as i32;
        let (first, second, bit) = (_mm512_set1_epi32(2 - c), _mm512_set1_epi32(1 - c), _mm512_set1_epi8(4));
        for j in 0..8 {
            v[j] = _mm512_ternarylogic_epi32::<0xf8>(v[j], _mm512_rolv_epi32(high[j], first), bit);
            v[8 + j] = _mm512_ternarylogic_epi32::<0xf8>(v[8 + j], _mm512_rolv_epi32(high[j], second), bit);
        }
        v
    }
}

/// Quants of two bits: of four in each byte the first two for even chunks, the others for odd ones.
#[target_feature(enable = "avx512f")]
#[inline]
fn two_bits(words: [__m512i; 8], chunk: usize) -> [__m512i; 16] {
    let shift = 4 * (chunk % 2) as i32;
    let (first, second, mask) = (_mm512_set1_epi32(shift), _mm512_set1_epi32(shift + 2), _mm512_set1_epi8(3));
    let mut v = [_mm512_setzero_si512(); 16];
    for j in 0..8 {
        v[j] = _mm512_and_si512(_mm512_srlv_epi32(words[j], first), mask);
        v[8 + j] = _mm512_and_si512(_mm512_srlv_epi32(words[j], second), mask);
    }
    v
}
