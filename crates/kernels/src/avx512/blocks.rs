//! Block formats in AVX-512 registers: 64 unsigned quants of a weight row as one vector, and the scales and minima of
//! sixteen weight rows as one vector per group (lane = weight row).
//!
//! A step is up to 256 columns. No products here: `quantised` multiplies what this file unpacks.

use std::arch::x86_64::*;

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

    /// Scales and minima of the first `groups` groups of a step.
    ///
    /// # Safety
    /// AVX-512 F, BW, VL, VNNI and F16C are present; each row has the blocks of `groups` groups readable.
    unsafe fn scales(rows: &Rows, groups: usize, scales: &mut Grid, minima: &mut Grid);

    /// Quants `64 * chunk ..` of one row's step, as unsigned bytes in column order.
    ///
    /// # Safety
    /// As for `scales`, and the blocks of those 64 columns are readable.
    unsafe fn quants(step: *const u8, chunk: usize) -> __m512i;
}

/// 64 bytes.
///
/// # Safety
/// 64 bytes at `p` are readable.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) unsafe fn load_z(p: *const u8) -> __m512i {
    // SAFETY: as the caller's; the load is unaligned.
    unsafe { _mm512_loadu_si512(p.cast()) }
}

/// 32 bytes.
///
/// # Safety
/// 32 bytes at `p` are readable.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) unsafe fn load_y(p: *const u8) -> __m256i {
    // SAFETY: as the caller's; the load is unaligned.
    unsafe { _mm256_loadu_si256(p.cast()) }
}

/// Four runs of sixteen bytes, one per 128-bit lane.
///
/// # Safety
/// Sixteen bytes at each pointer are readable.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) unsafe fn load_x4(p: [*const u8; 4]) -> __m512i {
    // SAFETY: as the caller's; the loads are unaligned.
    let [a, b, c, d] = unsafe { p.map(|p| _mm_loadu_si128(p.cast())) };
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
pub(super) fn quarters(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; 4] {
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

/// Sixteen bytes of each of sixteen rows as four vectors of 32-bit words, lane = row.
///
/// # Safety
/// Sixteen bytes at `offset` of every row are readable.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn headers(rows: &Rows, offset: usize) -> [__m512i; 4] {
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
    let (ab, cd) = (_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpacklo_epi32(v[2], v[3]));
    let (ab2, cd2) = (_mm512_unpackhi_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[2], v[3]));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ab2, cd2),
        _mm512_unpackhi_epi64(ab2, cd2),
    ]
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
    let [d, a, b, c] = unsafe { headers(rows, 0) };
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

/// The f16 scale at the start of each 32-column block of `bytes` bytes.
///
/// # Safety
/// `groups` blocks of every row are readable.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
#[inline]
unsafe fn half_scales(rows: &Rows, groups: usize, bytes: usize, scales: &mut Grid) {
    let mut halves = [[0u16; LANES]; 8];
    for (lane, row) in rows.iter().enumerate() {
        for (g, h) in halves.iter_mut().enumerate().take(groups) {
            // SAFETY: the caller vouches for `groups` blocks.
            h[lane] = unsafe { row.add(g * bytes).cast::<u16>().read_unaligned() };
        }
    }
    for (h, s) in halves.iter().zip(scales.iter_mut()).take(groups) {
        // SAFETY: sixteen u16 are 32 bytes.
        put(s, _mm512_cvtph_ps(unsafe { load_y(h.as_ptr().cast()) }));
    }
}

/// Two 16-byte runs as lanes [a, a, b, b], the low nibble in the first of each pair and the high one in the second.
///
/// # Safety
/// Sixteen bytes at `a` and at `b` are readable.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn nibbles_2x16(a: *const u8, b: *const u8) -> __m512i {
    // SAFETY: as the caller's.
    let v = unsafe { load_x4([a, a, b, b]) };
    let shift = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
    _mm512_and_si512(_mm512_srlv_epi64(v, shift), _mm512_set1_epi8(15))
}

/// 32 bytes twice, low nibbles in the first half and high nibbles in the second.
///
/// # Safety
/// 32 bytes at `p` are readable.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn nibbles_32(p: *const u8) -> __m512i {
    // SAFETY: as the caller's.
    let v = _mm512_broadcast_i64x4(unsafe { load_y(p) });
    let shift = _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4);
    _mm512_and_si512(_mm512_srlv_epi64(v, shift), _mm512_set1_epi8(15))
}

pub(super) struct Q4K;
impl Blocks for Q4K {
    const GROUP: usize = 32;
    const OFFSET: i32 = 0;
    const MINIMA: bool = true;
    const STEP_BYTES: usize = 144;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn scales(rows: &Rows, _groups: usize, scales: &mut Grid, minima: &mut Grid) {
        // SAFETY: a block begins with its sixteen bytes of scales.
        unsafe { six_bit_scales(rows, scales, minima) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn quants(step: *const u8, chunk: usize) -> __m512i {
        // SAFETY: 128 bytes of quants follow 16 bytes of scales; chunk < 4.
        unsafe { nibbles_32(step.add(16 + 32 * chunk)) }
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
    unsafe fn scales(rows: &Rows, _groups: usize, scales: &mut Grid, minima: &mut Grid) {
        // SAFETY: a block begins with its sixteen bytes of scales.
        unsafe { six_bit_scales(rows, scales, minima) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn quants(step: *const u8, chunk: usize) -> __m512i {
        // SAFETY: 32 bytes of high bits and 128 bytes of low nibbles follow 16 bytes of scales; chunk < 4.
        let (low, high) = unsafe { (nibbles_32(step.add(48 + 32 * chunk)), load_y(step.add(16))) };
        // bit 2c of the high byte goes to the first half, bit 2c + 1 to the second; both land on bit 4
        let c = 2 * chunk as i64;
        let turn = _mm512_mask_blend_epi64(0xf0, _mm512_set1_epi64(4 - c), _mm512_set1_epi64(3 - c));
        let high = _mm512_rolv_epi64(_mm512_broadcast_i64x4(high), turn);
        _mm512_ternarylogic_epi64::<0xf8>(low, high, _mm512_set1_epi8(16))
    }
}

pub(super) struct Q6K;
impl Blocks for Q6K {
    const GROUP: usize = 16;
    const OFFSET: i32 = 32;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 210;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn scales(rows: &Rows, _groups: usize, scales: &mut Grid, _minima: &mut Grid) {
        let mut halves = [0u16; LANES];
        for (h, row) in halves.iter_mut().zip(rows) {
            // SAFETY: a block ends with its f16 scale, at byte 208.
            *h = unsafe { row.add(208).cast::<u16>().read_unaligned() };
        }
        // SAFETY: the sixteen i8 scales are at bytes 192..208; sixteen u16 are 32 bytes.
        let (words, d) = unsafe { (headers(rows, 192), _mm512_cvtph_ps(load_y(halves.as_ptr().cast()))) };
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

pub(super) struct Q8_0;
impl Blocks for Q8_0 {
    const GROUP: usize = 32;
    const OFFSET: i32 = 128;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 8 * 34;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn scales(rows: &Rows, groups: usize, scales: &mut Grid, _minima: &mut Grid) {
        // SAFETY: as the caller's.
        unsafe { half_scales(rows, groups, 34, scales) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn quants(step: *const u8, chunk: usize) -> __m512i {
        // SAFETY: two blocks of 34 bytes, 32 of them quants after the f16 scale.
        let (a, b) = unsafe { (load_y(step.add(68 * chunk + 2)), load_y(step.add(68 * chunk + 36))) };
        let v = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
        _mm512_xor_si512(v, _mm512_set1_epi8(-128))
    }
}

pub(super) struct Q4_0;
impl Blocks for Q4_0 {
    const GROUP: usize = 32;
    const OFFSET: i32 = 8;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 8 * 18;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn scales(rows: &Rows, groups: usize, scales: &mut Grid, _minima: &mut Grid) {
        // SAFETY: as the caller's.
        unsafe { half_scales(rows, groups, 18, scales) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn quants(step: *const u8, chunk: usize) -> __m512i {
        // SAFETY: two blocks of 18 bytes, 16 of them quants after the f16 scale.
        unsafe { nibbles_2x16(step.add(36 * chunk + 2), step.add(36 * chunk + 20)) }
    }
}

pub(super) struct Q5_0;
impl Blocks for Q5_0 {
    const GROUP: usize = 32;
    const OFFSET: i32 = 16;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 8 * 22;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
    #[inline]
    unsafe fn scales(rows: &Rows, groups: usize, scales: &mut Grid, _minima: &mut Grid) {
        // SAFETY: as the caller's.
        unsafe { half_scales(rows, groups, 22, scales) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn quants(step: *const u8, chunk: usize) -> __m512i {
        // SAFETY: two blocks of 22 bytes: f16 scale, 32 high bits, 16 bytes of low nibbles.
        let (low, a, b) = unsafe {
            let p = step.add(44 * chunk);
            (
                nibbles_2x16(p.add(6), p.add(28)),
                p.add(2).cast::<u32>().read_unaligned(),
                p.add(24).cast::<u32>().read_unaligned(),
            )
        };
        _mm512_mask_add_epi8(low, u64::from(a) | u64::from(b) << 32, low, _mm512_set1_epi8(16))
    }
}
