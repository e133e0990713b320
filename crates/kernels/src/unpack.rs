//! Block formats in registers: unsigned quants of 64 columns of as many weight rows as a register has lanes
//!
//! Quants are interleaved by four columns; scales and minima are one vector per group (lane = weight row). A step is up to 256 columns. Written once over `Lanes`; no products here: those of each instruction set multiply what this file
//! unpacks. `blocks` has the plain definition of every format.

use crate::Matrix;
use crate::blocks::{E2M1, NONLINEAR};
use crate::lanes::Lanes;
use crate::vectors::array;

/// Columns of a step.
pub(crate) const STEP: usize = 256;

/// Scales (or minima) of a step: one vector of rows per group; sixteen groups at most.
pub(crate) type Grid<const ROWS: usize> = [[f32; ROWS]; 16];

/// Start of the same step in each of some weight rows.
pub(crate) type Starts<const ROWS: usize> = [*const u8; ROWS];

/// A block format whose quants are unpacked in registers.
pub(crate) trait Unpack {
    /// Weights that share a scale: 16 or 32.
    const GROUP: usize;
    /// What is subtracted from an unsigned quant.
    const OFFSET: i32;
    /// The largest unsigned quant.
    const MOST: i32;
    /// Whether groups have minima.
    const MINIMA: bool;
    /// Bytes of 256 columns.
    const STEP_BYTES: usize;

    /// Scales and minima of a step. Formats with a block for each 32 columns have nothing to do here.
    ///
    /// # Safety
    /// `L` can be run; each row has the blocks of a step readable.
    #[inline(always)]
    unsafe fn scales<L: Lanes<R>, const R: usize>(_rows: &Starts<R>, _scales: &mut Grid<R>, _minima: &mut Grid<R>) {}

    /// Columns `64 * chunk ..` of the rows as unsigned quants, interleaved: byte i of lane r of vector j is column `4 * j + i`
    /// of row r. Formats with a block for each 32 columns put their scales and minima too.
    ///
    /// # Safety
    /// As for `scales`, of the blocks of those 64 columns.
    unsafe fn interleaved<L: Lanes<R>, const R: usize>(
        rows: &Starts<R>,
        chunk: usize,
        scales: &mut Grid<R>,
        minima: &mut Grid<R>,
    ) -> [L::I; 16];
}

/// Starts of rows from `first` on; the last of `count` stands in for those beyond it.
#[inline(always)]
pub(crate) fn starts<const ROWS: usize>(w: &Matrix, first: usize, count: usize) -> Starts<ROWS> {
    let mut rows = [std::ptr::null(); ROWS];
    for (r, start) in rows.iter_mut().enumerate() {
        *start = w.row(first + r.min(count - 1)).as_ptr();
    }
    rows
}

/// The same place in each row, `bytes` further.
#[inline(always)]
pub(crate) fn advance<const ROWS: usize>(rows: &mut Starts<ROWS>, bytes: usize) {
    for row in rows {
        *row = row.wrapping_add(bytes);
    }
}

/// Run `$body` with `$B` bound to what unpacks a quantised `$format`.
macro_rules! with_unpack {
    ($format:expr, $B:ident, $body:expr) => {{
        macro_rules! run {
            ($name:ident) => {{
                type $B = $crate::unpack::$name;
                $body
            }};
        }
        use $crate::Format;
        match $format {
            Format::Q4K => run!(Q4K),
            Format::Q5K => run!(Q5K),
            Format::Q6K => run!(Q6K),
            Format::Q2K => run!(Q2K),
            Format::Q3K => run!(Q3K),
            Format::Iq4Xs => run!(Iq4Xs),
            Format::Q8_0 => run!(Q8_0),
            Format::Q4_0 => run!(Q4_0),
            Format::Q4_1 => run!(Q4_1),
            Format::Q5_0 => run!(Q5_0),
            Format::Q5_1 => run!(Q5_1),
            Format::Iq4Nl => run!(Iq4Nl),
            Format::Mxfp4 => run!(Mxfp4),
            Format::F32 | Format::F16 | Format::Bf16 | Format::F8E4M3 => unreachable!("not made of blocks"),
        }
    }};
}
pub(crate) use with_unpack;

/// Low nibbles of each vector, then high nibbles of each.
#[inline(always)]
fn split<L: Lanes<R>, const R: usize, const N: usize, const M: usize>(v: [L::I; N]) -> [L::I; M] {
    let mask = L::splat_bytes(15);
    array!(M, i, if i < N { L::and(v[i % N], mask) } else { L::and(L::right(v[i % N], 4), mask) })
}

/// Two halves of 64 columns.
#[inline(always)]
fn join<T: Copy>(a: [T; 8], b: [T; 8]) -> [T; 16] {
    array!(16, j, if j < 8 { a[j % 8] } else { b[j % 8] })
}

/// Eight 6-bit scales and minima per row, as Q4_K and Q5_K keep them.
///
/// # Safety
/// Sixteen bytes of every row are readable.
#[inline(always)]
unsafe fn six_bit_scales<L: Lanes<R>, const R: usize>(rows: &Starts<R>, scales: &mut Grid<R>, minima: &mut Grid<R>) {
    // SAFETY: the caller vouches for sixteen bytes of every row.
    let [d, a, b, c] = unsafe { L::words_16(rows, 0) };
    let (dmin, d) = (L::low_halves(L::right(d, 16)), L::low_halves(d));
    let (six, four, two) = (L::splat_bytes(0x3f), L::splat_bytes(0x0f), L::splat_bytes(0x30));
    let words = [
        L::and(a, six),
        L::or_masked(L::and(c, four), L::right(a, 2), two),
        L::and(b, six),
        L::or_masked(L::and(L::right(c, 4), four), L::right(b, 2), two),
    ];
    for i in 0..2 {
        byte_scales::<L, R>(words[i], 0, d, &mut scales[4 * i..4 * i + 4]);
        byte_scales::<L, R>(words[2 + i], 0, dmin, &mut minima[4 * i..4 * i + 4]);
    }
}

/// The bytes of each lane, less `less`, times `d`: four vectors of a grid.
#[inline(always)]
fn byte_scales<L: Lanes<R>, const R: usize>(mut word: L::I, less: i32, d: L::F, out: &mut [[f32; R]]) {
    for out in out {
        let byte = L::and(word, L::splat(0xff));
        L::put(out, L::mul(d, L::to_f(L::add(byte, L::splat(-less)))));
        word = L::right(word, 8);
    }
}

/// The 32-bit word at `offset` of each row.
///
/// # Safety
/// Sixteen bytes at `offset` of every row are readable.
#[inline(always)]
unsafe fn word<L: Lanes<R>, const R: usize>(rows: &Starts<R>, offset: usize) -> L::I {
    // SAFETY: as the caller's. What is not asked for is not computed.
    unsafe { L::words_16(rows, offset)[0] }
}

/// The f16 scales at the start of two blocks of `bytes` bytes, at least sixteen, that make a chunk.
///
/// # Safety
/// Two blocks at `2 * chunk * bytes` of every row are readable.
#[inline(always)]
unsafe fn half_scales<L: Lanes<R>, const R: usize>(rows: &Starts<R>, chunk: usize, bytes: usize, scales: &mut Grid<R>) {
    for b in 2 * chunk..2 * chunk + 2 {
        // SAFETY: as the caller's.
        L::put(&mut scales[b], L::low_halves(unsafe { word::<L, R>(rows, b * bytes) }));
    }
}

/// The halves in the low 16 bits of each lane as scale, those in the high 16 bits, negated, as minimum.
#[inline(always)]
fn scale_and_minimum<L: Lanes<R>, const R: usize>(word: L::I, scale: &mut [f32; R], minimum: &mut [f32; R]) {
    L::put(scale, L::low_halves(word));
    L::put(minimum, L::negate(L::low_halves(L::right(word, 16))));
}

/// Two blocks' sixteen bytes of nibbles.
///
/// # Safety
/// Sixteen bytes at both offsets of every row are readable.
#[inline(always)]
unsafe fn nibble_blocks<L: Lanes<R>, const R: usize>(rows: &Starts<R>, a: usize, b: usize) -> [L::I; 16] {
    // SAFETY: as the caller's.
    let (a, b) = unsafe { (L::words_16(rows, a), L::words_16(rows, b)) };
    join(split::<L, R, 4, 8>(a), split::<L, R, 4, 8>(b))
}

/// Sixteen bytes of nibbles of every row, with fifth bits.
#[inline(always)]
fn five_bits<L: Lanes<R>, const R: usize>(low: [L::I; 4], bits: L::I) -> [L::I; 8] {
    let (fifth, mask) = (L::fifth_bits(bits), L::splat_bytes(15));
    array!(8, j, L::or_masked(fifth[j], if j < 4 { low[j % 4] } else { L::right(low[j % 4], 4) }, mask))
}

/// One block of Q5_0 of every row: scale and quants.
///
/// # Safety
/// 22 bytes at `offset` of every row are readable.
#[inline(always)]
unsafe fn q5_0_block<L: Lanes<R>, const R: usize>(rows: &Starts<R>, offset: usize, scale: &mut [f32; R]) -> [L::I; 8] {
    // SAFETY: as the caller's. The f16 scale and 32 fifth bits are in the first two words, 16 bytes of nibbles follow.
    let ([first, second, ..], low) = unsafe { (L::words_16(rows, offset), L::words_16(rows, offset + 6)) };
    L::put(scale, L::low_halves(first));
    five_bits::<L, R>(low, L::or(L::right(first, 16), L::left(second, 16)))
}

/// Bytes to those that a table has for them.
#[inline(always)]
fn look_up<L: Lanes<R>, const R: usize>(table: &[u8; 16], v: [L::I; 16]) -> [L::I; 16] {
    array!(16, j, L::look_up(table, v[j]))
}

/// Quants of two bits: of four in each byte the first two for even chunks, the others for odd ones.
#[inline(always)]
fn two_bits<L: Lanes<R>, const R: usize>(words: [L::I; 8], chunk: usize) -> [L::I; 16] {
    let (shift, mask) = (4 * (chunk % 2) as i32, L::splat_bytes(3));
    array!(16, j, L::and(L::right(words[j % 8], if j < 8 { shift } else { shift + 2 }), mask))
}

/// One more bit for each quant: bits 2c and 2c + 1 of the high bytes, for the first and second half of chunk c, to bit `to`.
#[inline(always)]
fn one_bit_more<L: Lanes<R>, const R: usize>(v: [L::I; 16], high: [L::I; 8], chunk: usize, to: i32) -> [L::I; 16] {
    let (by, bit) = (to - 2 * chunk as i32, L::splat_bytes(1 << to));
    array!(16, j, L::or_masked(v[j], L::shifted(high[j % 8], if j < 8 { by } else { by - 1 }), bit))
}

pub(crate) struct Q4K;
impl Unpack for Q4K {
    const GROUP: usize = 32;
    const OFFSET: i32 = 0;
    const MOST: i32 = 15;
    const MINIMA: bool = true;
    const STEP_BYTES: usize = 144;

    #[inline(always)]
    unsafe fn scales<L: Lanes<R>, const R: usize>(rows: &Starts<R>, scales: &mut Grid<R>, minima: &mut Grid<R>) {
        // SAFETY: a block begins with its sixteen bytes of scales.
        unsafe { six_bit_scales::<L, R>(rows, scales, minima) }
    }

    #[inline(always)]
    unsafe fn interleaved<L: Lanes<R>, const R: usize>(
        rows: &Starts<R>,
        chunk: usize,
        _scales: &mut Grid<R>,
        _minima: &mut Grid<R>,
    ) -> [L::I; 16] {
        // SAFETY: 128 bytes of quants follow 16 bytes of scales; chunk < 4.
        split::<L, R, 8, 16>(unsafe { L::words_32(rows, 16 + 32 * chunk) })
    }
}

pub(crate) struct Q5K;
impl Unpack for Q5K {
    const GROUP: usize = 32;
    const OFFSET: i32 = 0;
    const MOST: i32 = 31;
    const MINIMA: bool = true;
    const STEP_BYTES: usize = 176;

    #[inline(always)]
    unsafe fn scales<L: Lanes<R>, const R: usize>(rows: &Starts<R>, scales: &mut Grid<R>, minima: &mut Grid<R>) {
        // SAFETY: a block begins with its sixteen bytes of scales.
        unsafe { six_bit_scales::<L, R>(rows, scales, minima) }
    }

    #[inline(always)]
    unsafe fn interleaved<L: Lanes<R>, const R: usize>(
        rows: &Starts<R>,
        chunk: usize,
        _scales: &mut Grid<R>,
        _minima: &mut Grid<R>,
    ) -> [L::I; 16] {
        // SAFETY: 32 bytes of high bits and 128 bytes of low nibbles follow 16 bytes of scales; chunk < 4.
        let (low, high) = unsafe { (L::words_32(rows, 48 + 32 * chunk), L::words_32(rows, 16)) };
        one_bit_more::<L, R>(split::<L, R, 8, 16>(low), high, chunk, 4)
    }
}

pub(crate) struct Q6K;
impl Unpack for Q6K {
    const GROUP: usize = 16;
    const OFFSET: i32 = 32;
    const MOST: i32 = 63;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 210;

    #[inline(always)]
    unsafe fn scales<L: Lanes<R>, const R: usize>(rows: &Starts<R>, scales: &mut Grid<R>, _minima: &mut Grid<R>) {
        // SAFETY: a block ends with sixteen i8 scales, at byte 192, and an f16.
        let (words, [.., d]) = unsafe { (L::words_16(rows, 192), L::words_16(rows, 194)) };
        let d = L::low_halves(L::right(d, 16));
        for i in 0..4 {
            for j in 0..4 {
                let scale = L::right_signed(L::left(words[i], 24 - 8 * j as i32), 24);
                L::put(&mut scales[4 * i + j], L::mul(d, L::to_f(scale)));
            }
        }
    }

    #[inline(always)]
    unsafe fn interleaved<L: Lanes<R>, const R: usize>(
        rows: &Starts<R>,
        chunk: usize,
        _scales: &mut Grid<R>,
        _minima: &mut Grid<R>,
    ) -> [L::I; 16] {
        let (half, nibble) = (chunk / 2, 4 * (chunk % 2) as i32);
        // SAFETY: 128 bytes of low nibbles, then 64 bytes of high bits; chunk < 4.
        let (a, b, high) = unsafe {
            (L::words_32(rows, 64 * half), L::words_32(rows, 64 * half + 32), L::words_32(rows, 128 + 32 * half))
        };
        let (low, two) = (L::splat_bytes(15), L::splat_bytes(0x30));
        let v = join(a, b);
        array!(16, j, {
            let high = L::shifted(high[j % 8], if j < 8 { 4 - nibble } else { 2 - nibble });
            L::or_masked(L::and(L::right(v[j], nibble), low), high, two)
        })
    }
}

pub(crate) struct Q8_0;
impl Unpack for Q8_0 {
    const GROUP: usize = 32;
    const OFFSET: i32 = 128;
    const MOST: i32 = 255;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 8 * 34;

    #[inline(always)]
    unsafe fn interleaved<L: Lanes<R>, const R: usize>(
        rows: &Starts<R>,
        chunk: usize,
        scales: &mut Grid<R>,
        _minima: &mut Grid<R>,
    ) -> [L::I; 16] {
        // SAFETY: two blocks of 34 bytes, 32 of them quants after the f16 scale.
        let v = unsafe {
            half_scales::<L, R>(rows, chunk, 34, scales);
            join(L::words_32(rows, 68 * chunk + 2), L::words_32(rows, 68 * chunk + 36))
        };
        array!(16, j, L::xor(v[j], L::splat_bytes(0x80)))
    }
}

pub(crate) struct Q4_0;
impl Unpack for Q4_0 {
    const GROUP: usize = 32;
    const OFFSET: i32 = 8;
    const MOST: i32 = 15;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 8 * 18;

    #[inline(always)]
    unsafe fn interleaved<L: Lanes<R>, const R: usize>(
        rows: &Starts<R>,
        chunk: usize,
        scales: &mut Grid<R>,
        _minima: &mut Grid<R>,
    ) -> [L::I; 16] {
        // SAFETY: two blocks of 18 bytes, 16 of them quants after the f16 scale.
        unsafe {
            half_scales::<L, R>(rows, chunk, 18, scales);
            nibble_blocks::<L, R>(rows, 36 * chunk + 2, 36 * chunk + 20)
        }
    }
}

pub(crate) struct Q5_0;
impl Unpack for Q5_0 {
    const GROUP: usize = 32;
    const OFFSET: i32 = 16;
    const MOST: i32 = 31;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 8 * 22;

    #[inline(always)]
    unsafe fn interleaved<L: Lanes<R>, const R: usize>(
        rows: &Starts<R>,
        chunk: usize,
        scales: &mut Grid<R>,
        _minima: &mut Grid<R>,
    ) -> [L::I; 16] {
        let [first, second] = &mut scales[2 * chunk..2 * chunk + 2] else { unreachable!() };
        // SAFETY: two blocks of 22 bytes.
        unsafe { join(q5_0_block::<L, R>(rows, 44 * chunk, first), q5_0_block::<L, R>(rows, 44 * chunk + 22, second)) }
    }
}

pub(crate) struct Q4_1;
impl Unpack for Q4_1 {
    const GROUP: usize = 32;
    const OFFSET: i32 = 0;
    const MOST: i32 = 15;
    const MINIMA: bool = true;
    const STEP_BYTES: usize = 8 * 20;

    #[inline(always)]
    unsafe fn interleaved<L: Lanes<R>, const R: usize>(
        rows: &Starts<R>,
        chunk: usize,
        scales: &mut Grid<R>,
        minima: &mut Grid<R>,
    ) -> [L::I; 16] {
        let [at, next] = [40 * chunk, 40 * chunk + 20];
        // SAFETY: two blocks of 20 bytes: f16 scale and minimum, 16 bytes of nibbles.
        unsafe {
            scale_and_minimum::<L, R>(word::<L, R>(rows, at), &mut scales[2 * chunk], &mut minima[2 * chunk]);
            scale_and_minimum::<L, R>(word::<L, R>(rows, next), &mut scales[2 * chunk + 1], &mut minima[2 * chunk + 1]);
            nibble_blocks::<L, R>(rows, at + 4, next + 4)
        }
    }
}

pub(crate) struct Q5_1;
impl Unpack for Q5_1 {
    const GROUP: usize = 32;
    const OFFSET: i32 = 0;
    const MOST: i32 = 31;
    const MINIMA: bool = true;
    const STEP_BYTES: usize = 8 * 24;

    #[inline(always)]
    unsafe fn interleaved<L: Lanes<R>, const R: usize>(
        rows: &Starts<R>,
        chunk: usize,
        scales: &mut Grid<R>,
        minima: &mut Grid<R>,
    ) -> [L::I; 16] {
        let [at, next] = [48 * chunk, 48 * chunk + 24];
        // SAFETY: two blocks of 24 bytes: f16 scale and minimum, 32 fifth bits, 16 bytes of nibbles.
        let ([a, bits_a, ..], low_a, [b, bits_b, ..], low_b) = unsafe {
            (L::words_16(rows, at), L::words_16(rows, at + 8), L::words_16(rows, next), L::words_16(rows, next + 8))
        };
        scale_and_minimum::<L, R>(a, &mut scales[2 * chunk], &mut minima[2 * chunk]);
        scale_and_minimum::<L, R>(b, &mut scales[2 * chunk + 1], &mut minima[2 * chunk + 1]);
        join(five_bits::<L, R>(low_a, bits_a), five_bits::<L, R>(low_b, bits_b))
    }
}

pub(crate) struct Iq4Nl;
impl Unpack for Iq4Nl {
    const GROUP: usize = 32;
    const OFFSET: i32 = 128;
    const MOST: i32 = 255;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 8 * 18;

    #[inline(always)]
    unsafe fn interleaved<L: Lanes<R>, const R: usize>(
        rows: &Starts<R>,
        chunk: usize,
        scales: &mut Grid<R>,
        _minima: &mut Grid<R>,
    ) -> [L::I; 16] {
        // SAFETY: two blocks of 18 bytes, 16 of them nibbles after the f16 scale.
        let v = unsafe {
            half_scales::<L, R>(rows, chunk, 18, scales);
            nibble_blocks::<L, R>(rows, 36 * chunk + 2, 36 * chunk + 20)
        };
        look_up::<L, R>(&NONLINEAR, v)
    }
}

pub(crate) struct Mxfp4;
impl Unpack for Mxfp4 {
    const GROUP: usize = 32;
    const OFFSET: i32 = 12;
    const MOST: i32 = 24;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 8 * 17;

    #[inline(always)]
    unsafe fn interleaved<L: Lanes<R>, const R: usize>(
        rows: &Starts<R>,
        chunk: usize,
        scales: &mut Grid<R>,
        _minima: &mut Grid<R>,
    ) -> [L::I; 16] {
        for b in 0..2 {
            // SAFETY: two blocks of 17 bytes, the first of each an exponent.
            let e = L::and(unsafe { word::<L, R>(rows, 34 * chunk + 17 * b) }, L::splat(0xff));
            // 2^(e - 128), the smallest two of which are subnormal
            let normal = L::left(L::add(e, L::splat(-1)), 23);
            let small = L::left(L::add(e, L::splat(1)), 21);
            L::put(&mut scales[2 * chunk + b], L::as_f(L::below(e, 2, small, normal)));
        }
        // SAFETY: sixteen bytes of nibbles follow the exponents.
        look_up::<L, R>(&E2M1, unsafe { nibble_blocks::<L, R>(rows, 34 * chunk + 1, 34 * chunk + 18) })
    }
}

pub(crate) struct Iq4Xs;
impl Unpack for Iq4Xs {
    const GROUP: usize = 32;
    const OFFSET: i32 = 128;
    const MOST: i32 = 255;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 136;

    #[inline(always)]
    unsafe fn scales<L: Lanes<R>, const R: usize>(rows: &Starts<R>, scales: &mut Grid<R>, _minima: &mut Grid<R>) {
        // SAFETY: a block begins with an f16 scale, eight times two high bits, eight low nibbles.
        let [first, mut low, ..] = unsafe { L::words_16(rows, 0) };
        let (d, mut high) = (L::low_halves(first), L::right(first, 12));
        for s in &mut scales[..8] {
            // The high bits stand at bits 4 and 5.
            let both = L::or_masked(L::and(low, L::splat(15)), high, L::splat(0x30));
            L::put(s, L::mul(d, L::to_f(L::add(both, L::splat(-32)))));
            (low, high) = (L::right(low, 4), L::right(high, 2));
        }
    }

    #[inline(always)]
    unsafe fn interleaved<L: Lanes<R>, const R: usize>(
        rows: &Starts<R>,
        chunk: usize,
        _scales: &mut Grid<R>,
        _minima: &mut Grid<R>,
    ) -> [L::I; 16] {
        // SAFETY: 128 bytes of nibbles follow eight bytes of scales, 16 for each group; chunk < 4.
        let v = unsafe { nibble_blocks::<L, R>(rows, 8 + 32 * chunk, 24 + 32 * chunk) };
        look_up::<L, R>(&NONLINEAR, v)
    }
}

pub(crate) struct Q2K;
impl Unpack for Q2K {
    const GROUP: usize = 16;
    const OFFSET: i32 = 0;
    const MOST: i32 = 3;
    const MINIMA: bool = true;
    const STEP_BYTES: usize = 84;

    #[inline(always)]
    unsafe fn scales<L: Lanes<R>, const R: usize>(rows: &Starts<R>, scales: &mut Grid<R>, minima: &mut Grid<R>) {
        // SAFETY: a block begins with sixteen pairs of nibbles and ends with two halves, at byte 80.
        let (words, [.., d]) = unsafe { (L::words_16(rows, 0), L::words_16(rows, 68)) };
        let (d, dmin) = (L::low_halves(d), L::low_halves(L::right(d, 16)));
        let mask = L::splat_bytes(15);
        for i in 0..4 {
            byte_scales::<L, R>(L::and(words[i], mask), 0, d, &mut scales[4 * i..4 * i + 4]);
            byte_scales::<L, R>(L::and(L::right(words[i], 4), mask), 0, dmin, &mut minima[4 * i..4 * i + 4]);
        }
    }

    #[inline(always)]
    unsafe fn interleaved<L: Lanes<R>, const R: usize>(
        rows: &Starts<R>,
        chunk: usize,
        _scales: &mut Grid<R>,
        _minima: &mut Grid<R>,
    ) -> [L::I; 16] {
        // SAFETY: 64 bytes of four quants each follow sixteen bytes of scales; chunk < 4.
        two_bits::<L, R>(unsafe { L::words_32(rows, 16 + 32 * (chunk / 2)) }, chunk)
    }
}

pub(crate) struct Q3K;
impl Unpack for Q3K {
    const GROUP: usize = 16;
    const OFFSET: i32 = 4;
    const MOST: i32 = 7;
    const MINIMA: bool = false;
    const STEP_BYTES: usize = 110;

    #[inline(always)]
    unsafe fn scales<L: Lanes<R>, const R: usize>(rows: &Starts<R>, scales: &mut Grid<R>, _minima: &mut Grid<R>) {
        // SAFETY: a block ends with twelve bytes of scales, at byte 96, and an f16.
        let ([_, a, b, high], [.., d]) = unsafe { (L::words_16(rows, 92), L::words_16(rows, 94)) };
        let d = L::low_halves(L::right(d, 16));
        let (four, two) = (L::splat_bytes(15), L::splat_bytes(0x30));
        let low = [a, b, L::right(a, 4), L::right(b, 4)];
        // Two bits more for each byte, at bits 4 and 5.
        let high = [L::left(high, 4), L::left(high, 2), high, L::right(high, 2)];
        for i in 0..4 {
            let word = L::or_masked(L::and(low[i], four), high[i], two);
            byte_scales::<L, R>(word, 32, d, &mut scales[4 * i..4 * i + 4]);
        }
    }

    #[inline(always)]
    unsafe fn interleaved<L: Lanes<R>, const R: usize>(
        rows: &Starts<R>,
        chunk: usize,
        _scales: &mut Grid<R>,
        _minima: &mut Grid<R>,
    ) -> [L::I; 16] {
        // SAFETY: 32 bytes of high bits and 64 bytes of two low bits; chunk < 4.
        let (high, low) = unsafe { (L::words_32(rows, 0), L::words_32(rows, 32 + 32 * (chunk / 2))) };
        one_bit_more::<L, R>(two_bits::<L, R>(low, chunk), high, chunk, 2)
    }
}
