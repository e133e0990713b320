//! Block formats in registers: unsigned quants of 64 columns of as many weight rows as a register has lanes.
//!
//! Quants are interleaved by four columns; scales and minima are one vector per group (lane = weight row). A step is up to 256 columns.
//! Written once over `Lanes`; no products here: those of each instruction set multiply what this file unpacks. `dequantize` has the plain
//! definition of every format.

use crate::Matrix;
use crate::dequantize::{self, Block, E2M1, NONLINEAR};
use crate::lanes::Lanes;
use crate::vectors::array;

/// Columns of a step.
pub(crate) const STEP: usize = 256;

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Scales and minima of a step: one vector of rows per group; sixteen groups at most.
pub(crate) struct Grid<const ROWS: usize> {
    pub scales: [[f32; ROWS]; 16],
    pub minima: [[f32; ROWS]; 16],
}

/// Start of the same step in each of some weight rows.
pub(crate) type Starts<const ROWS: usize> = [*const u8; ROWS];

/// A block format whose quants are unpacked in registers.
pub(crate) trait Unpack: Block {
    /// The largest unsigned quant.
    const MOST: i32;
    /// Whether quants have 8 bits: products of two with bytes may not fit in 16 bits.
    const EIGHT_BITS: bool = Self::MOST > 127;
    /// Bytes of 256 columns.
    const STEP_BYTES: usize = STEP / Self::ELEMS * Self::BYTES;

    /// Scales and minima of a step. Formats with a block for each 32 columns have nothing to do here.
    ///
    /// # Safety
    /// Each row has the blocks of a step readable.
    unsafe fn scales<L: Lanes<R>, const R: usize>(isa: L, rows: &Starts<R>, to: &mut Grid<R>);

    /// Columns `64 * chunk ..` of the rows as unsigned quants, interleaved: byte i of lane r of vector j is column `4 * j + i`
    /// of row r. Formats with a block for each 32 columns put their scales and minima too.
    ///
    /// # Safety
    /// As for `scales`, of the blocks of those 64 columns.
    unsafe fn interleaved<L: Lanes<R>, const R: usize>(
        isa: L,
        rows: &Starts<R>,
        chunk: usize,
        to: &mut Grid<R>,
    ) -> [L::I; 16];
}

/// A format by its largest quant, the function that unpacks a step's scales, and the body of `interleaved`.
macro_rules! unpack {
    ($name:ident, $most:expr, $scales:ident, |$isa:ident, $rows:ident, $chunk:ident, $to:pat_param| $interleaved:block) => {
        impl Unpack for dequantize::$name {
            const MOST: i32 = $most;

            #[inline(always)]
            unsafe fn scales<L: Lanes<R>, const R: usize>(isa: L, rows: &Starts<R>, to: &mut Grid<R>) {
                // SAFETY: the blocks of a step are there, as the caller says.
                unsafe { $scales(isa, rows, to) }
            }

            #[inline(always)]
            unsafe fn interleaved<L: Lanes<R>, const R: usize>(
                $isa: L,
                $rows: &Starts<R>,
                $chunk: usize,
                $to: &mut Grid<R>,
            ) -> [L::I; 16] {
                $interleaved
            }
        }
    };
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

/// Low nibbles of each vector, then high nibbles of each.
#[inline(always)]
fn split<L: Lanes<R>, const R: usize, const N: usize, const M: usize>(isa: L, v: [L::I; N]) -> [L::I; M] {
    let mask = isa.splat_bytes(15);
    array!(M, i, if i < N { isa.and(v[i % N], mask) } else { isa.and(isa.right(v[i % N], 4), mask) })
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
unsafe fn six_bit_scales<L: Lanes<R>, const R: usize>(isa: L, rows: &Starts<R>, to: &mut Grid<R>) {
    // SAFETY: the caller vouches for sixteen bytes of every row.
    let [d, a, b, c] = unsafe { isa.words_16(rows, 0) };
    let (dmin, d) = (isa.low_halves(isa.right(d, 16)), isa.low_halves(d));
    let (six, four, two) = (isa.splat_bytes(0x3f), isa.splat_bytes(0x0f), isa.splat_bytes(0x30));
    let words = [
        isa.and(a, six),
        isa.or_masked(isa.and(c, four), isa.right(a, 2), two),
        isa.and(b, six),
        isa.or_masked(isa.and(isa.right(c, 4), four), isa.right(b, 2), two),
    ];
    for i in 0..2 {
        byte_scales(isa, words[i], 0, d, &mut to.scales[4 * i..4 * i + 4]);
        byte_scales(isa, words[2 + i], 0, dmin, &mut to.minima[4 * i..4 * i + 4]);
    }
}

/// The bytes of each lane, less `less`, times `d`: four vectors of a grid.
#[inline(always)]
fn byte_scales<L: Lanes<R>, const R: usize>(isa: L, mut word: L::I, less: i32, d: L::F, out: &mut [[f32; R]]) {
    for out in out {
        let byte = isa.and(word, isa.splat(0xff));
        isa.put(out, isa.mul(d, isa.to_f(isa.add(byte, isa.splat(-less)))));
        word = isa.right(word, 8);
    }
}

/// The 32-bit word at `offset` of each row.
///
/// # Safety
/// Sixteen bytes at `offset` of every row are readable.
#[inline(always)]
unsafe fn word<L: Lanes<R>, const R: usize>(isa: L, rows: &Starts<R>, offset: usize) -> L::I {
    // SAFETY: as the caller's. What is not asked for is not computed.
    unsafe { isa.words_16(rows, offset)[0] }
}

/// The f16 scales at the start of two blocks of `bytes` bytes, at least sixteen, that make a chunk.
///
/// # Safety
/// Two blocks at `2 * chunk * bytes` of every row are readable.
#[inline(always)]
unsafe fn half_scales<L: Lanes<R>, const R: usize>(
    isa: L,
    rows: &Starts<R>,
    chunk: usize,
    bytes: usize,
    to: &mut Grid<R>,
) {
    for b in 2 * chunk..2 * chunk + 2 {
        // SAFETY: as the caller's.
        isa.put(&mut to.scales[b], isa.low_halves(unsafe { word(isa, rows, b * bytes) }));
    }
}

/// Of group `g` the halves in the low 16 bits of each lane as scale, those in the high 16 bits, negated, as minimum.
#[inline(always)]
fn scale_and_minimum<L: Lanes<R>, const R: usize>(isa: L, word: L::I, to: &mut Grid<R>, g: usize) {
    isa.put(&mut to.scales[g], isa.low_halves(word));
    isa.put(&mut to.minima[g], isa.negate(isa.low_halves(isa.right(word, 16))));
}

/// Two blocks' sixteen bytes of nibbles.
///
/// # Safety
/// Sixteen bytes at both offsets of every row are readable.
#[inline(always)]
unsafe fn nibble_blocks<L: Lanes<R>, const R: usize>(isa: L, rows: &Starts<R>, a: usize, b: usize) -> [L::I; 16] {
    // SAFETY: as the caller's.
    let (a, b) = unsafe { (isa.words_16(rows, a), isa.words_16(rows, b)) };
    join(split::<L, R, 4, 8>(isa, a), split::<L, R, 4, 8>(isa, b))
}

/// Sixteen bytes of nibbles of every row, with fifth bits.
#[inline(always)]
fn five_bits<L: Lanes<R>, const R: usize>(isa: L, low: [L::I; 4], bits: L::I) -> [L::I; 8] {
    let (fifth, mask) = (isa.fifth_bits(bits), isa.splat_bytes(15));
    array!(8, j, isa.or_masked(fifth[j], if j < 4 { low[j % 4] } else { isa.right(low[j % 4], 4) }, mask))
}

/// One block of Q5_0 of every row: scale and quants.
///
/// # Safety
/// 22 bytes at `offset` of every row are readable.
#[inline(always)]
unsafe fn q5_0_block<L: Lanes<R>, const R: usize>(
    isa: L,
    rows: &Starts<R>,
    offset: usize,
    scale: &mut [f32; R],
) -> [L::I; 8] {
    // SAFETY: as the caller's. The f16 scale and 32 fifth bits are in the first two words, 16 bytes of nibbles follow.
    let ([first, second, ..], low) = unsafe { (isa.words_16(rows, offset), isa.words_16(rows, offset + 6)) };
    isa.put(scale, isa.low_halves(first));
    five_bits(isa, low, isa.or(isa.right(first, 16), isa.left(second, 16)))
}

/// Bytes to those that a table has for them.
#[inline(always)]
fn look_up<L: Lanes<R>, const R: usize>(isa: L, table: &[u8; 16], v: [L::I; 16]) -> [L::I; 16] {
    array!(16, j, isa.look_up(table, v[j]))
}

/// Quants of two bits: of four in each byte the first two for even chunks, the others for odd ones.
#[inline(always)]
fn two_bits<L: Lanes<R>, const R: usize>(isa: L, words: [L::I; 8], chunk: usize) -> [L::I; 16] {
    let (shift, mask) = (4 * (chunk % 2) as i32, isa.splat_bytes(3));
    array!(16, j, isa.and(isa.right(words[j % 8], if j < 8 { shift } else { shift + 2 }), mask))
}

/// One more bit for each quant: bits 2c and 2c + 1 of the high bytes, for the first and second half of chunk c, to bit `to`.
#[inline(always)]
fn one_bit_more<L: Lanes<R>, const R: usize>(
    isa: L,
    v: [L::I; 16],
    high: [L::I; 8],
    chunk: usize,
    to: i32,
) -> [L::I; 16] {
    let (by, bit) = (to - 2 * chunk as i32, isa.splat_bytes(1 << to));
    array!(16, j, isa.or_masked(v[j], isa.shifted(high[j % 8], if j < 8 { by } else { by - 1 }), bit))
}

/// Of formats with a block for each 32 columns: `interleaved` unpacks their scales.
///
/// # Safety
/// Always given.
#[inline(always)]
unsafe fn scales_in_chunks<L: Lanes<R>, const R: usize>(_: L, _: &Starts<R>, _: &mut Grid<R>) {}

unpack!(Q4K, 15, six_bit_scales, |isa, rows, chunk, _| {
    // SAFETY: 128 bytes of quants follow 16 bytes of scales; chunk < 4.
    split::<L, R, 8, 16>(isa, unsafe { isa.words_32(rows, 16 + 32 * chunk) })
});

unpack!(Q5K, 31, six_bit_scales, |isa, rows, chunk, _| {
    // SAFETY: 32 bytes of high bits and 128 bytes of low nibbles follow 16 bytes of scales; chunk < 4.
    let (low, high) = unsafe { (isa.words_32(rows, 48 + 32 * chunk), isa.words_32(rows, 16)) };
    one_bit_more(isa, split::<L, R, 8, 16>(isa, low), high, chunk, 4)
});

/// Sixteen 8-bit scales per row, as Q6_K keeps them.
///
/// # Safety
/// A block of every row is readable.
#[inline(always)]
unsafe fn q6_k_scales<L: Lanes<R>, const R: usize>(isa: L, rows: &Starts<R>, to: &mut Grid<R>) {
    // SAFETY: a block ends with sixteen i8 scales, at byte 192, and an f16.
    let (words, [.., d]) = unsafe { (isa.words_16(rows, 192), isa.words_16(rows, 194)) };
    let d = isa.low_halves(isa.right(d, 16));
    for i in 0..4 {
        for j in 0..4 {
            let scale = isa.right_signed(isa.left(words[i], 24 - 8 * j as i32), 24);
            isa.put(&mut to.scales[4 * i + j], isa.mul(d, isa.to_f(scale)));
        }
    }
}

unpack!(Q6K, 63, q6_k_scales, |isa, rows, chunk, _| {
    let (half, nibble) = (chunk / 2, 4 * (chunk % 2) as i32);
    // SAFETY: 128 bytes of low nibbles, then 64 bytes of high bits; chunk < 4.
    let (a, b, high) = unsafe {
        (isa.words_32(rows, 64 * half), isa.words_32(rows, 64 * half + 32), isa.words_32(rows, 128 + 32 * half))
    };
    let (low, two) = (isa.splat_bytes(15), isa.splat_bytes(0x30));
    let v = join(a, b);
    array!(16, j, {
        let high = isa.shifted(high[j % 8], if j < 8 { 4 - nibble } else { 2 - nibble });
        isa.or_masked(isa.and(isa.right(v[j], nibble), low), high, two)
    })
});

unpack!(Q8_0, 255, scales_in_chunks, |isa, rows, chunk, to| {
    // SAFETY: two blocks of 34 bytes, 32 of them quants after the f16 scale.
    let v = unsafe {
        half_scales(isa, rows, chunk, 34, to);
        join(isa.words_32(rows, 68 * chunk + 2), isa.words_32(rows, 68 * chunk + 36))
    };
    array!(16, j, isa.xor(v[j], isa.splat_bytes(0x80)))
});

unpack!(Q4_0, 15, scales_in_chunks, |isa, rows, chunk, to| {
    // SAFETY: two blocks of 18 bytes, 16 of them quants after the f16 scale.
    unsafe {
        half_scales(isa, rows, chunk, 18, to);
        nibble_blocks(isa, rows, 36 * chunk + 2, 36 * chunk + 20)
    }
});

unpack!(Q5_0, 31, scales_in_chunks, |isa, rows, chunk, to| {
    let [at, next] = [44 * chunk, 44 * chunk + 22];
    // SAFETY: two blocks of 22 bytes.
    unsafe {
        let first = q5_0_block(isa, rows, at, &mut to.scales[2 * chunk]);
        join(first, q5_0_block(isa, rows, next, &mut to.scales[2 * chunk + 1]))
    }
});

unpack!(Q4_1, 15, scales_in_chunks, |isa, rows, chunk, to| {
    let [at, next] = [40 * chunk, 40 * chunk + 20];
    // SAFETY: two blocks of 20 bytes: f16 scale and minimum, 16 bytes of nibbles.
    unsafe {
        scale_and_minimum(isa, word(isa, rows, at), to, 2 * chunk);
        scale_and_minimum(isa, word(isa, rows, next), to, 2 * chunk + 1);
        nibble_blocks(isa, rows, at + 4, next + 4)
    }
});

unpack!(Q5_1, 31, scales_in_chunks, |isa, rows, chunk, to| {
    let [at, next] = [48 * chunk, 48 * chunk + 24];
    // SAFETY: two blocks of 24 bytes: f16 scale and minimum, 32 fifth bits, 16 bytes of nibbles.
    let ([a, bits_a, ..], low_a, [b, bits_b, ..], low_b) = unsafe {
        (isa.words_16(rows, at), isa.words_16(rows, at + 8), isa.words_16(rows, next), isa.words_16(rows, next + 8))
    };
    scale_and_minimum(isa, a, to, 2 * chunk);
    scale_and_minimum(isa, b, to, 2 * chunk + 1);
    join(five_bits(isa, low_a, bits_a), five_bits(isa, low_b, bits_b))
});

unpack!(Iq4Nl, 255, scales_in_chunks, |isa, rows, chunk, to| {
    // SAFETY: two blocks of 18 bytes, 16 of them nibbles after the f16 scale.
    let v = unsafe {
        half_scales(isa, rows, chunk, 18, to);
        nibble_blocks(isa, rows, 36 * chunk + 2, 36 * chunk + 20)
    };
    look_up(isa, &NONLINEAR, v)
});

unpack!(Mxfp4, 24, scales_in_chunks, |isa, rows, chunk, to| {
    for b in 0..2 {
        // SAFETY: two blocks of 17 bytes, the first of each an exponent.
        let e = isa.and(unsafe { word(isa, rows, 34 * chunk + 17 * b) }, isa.splat(0xff));
        // 2^(e - 128), the smallest two of which are subnormal
        let normal = isa.left(isa.add(e, isa.splat(-1)), 23);
        let small = isa.left(isa.add(e, isa.splat(1)), 21);
        isa.put(&mut to.scales[2 * chunk + b], isa.as_f(isa.below(e, 2, small, normal)));
    }
    // SAFETY: sixteen bytes of nibbles follow the exponents.
    look_up(isa, &E2M1, unsafe { nibble_blocks(isa, rows, 34 * chunk + 1, 34 * chunk + 18) })
});

/// Eight 6-bit scales per row, as IQ4_XS keeps them.
///
/// # Safety
/// A block of every row is readable.
#[inline(always)]
unsafe fn iq4_xs_scales<L: Lanes<R>, const R: usize>(isa: L, rows: &Starts<R>, to: &mut Grid<R>) {
    // SAFETY: a block begins with an f16 scale, eight times two high bits, eight low nibbles.
    let [first, mut low, ..] = unsafe { isa.words_16(rows, 0) };
    let (d, mut high) = (isa.low_halves(first), isa.right(first, 12));
    for s in &mut to.scales[..8] {
        // The high bits stand at bits 4 and 5.
        let both = isa.or_masked(isa.and(low, isa.splat(15)), high, isa.splat(0x30));
        isa.put(s, isa.mul(d, isa.to_f(isa.add(both, isa.splat(-32)))));
        (low, high) = (isa.right(low, 4), isa.right(high, 2));
    }
}

unpack!(Iq4Xs, 255, iq4_xs_scales, |isa, rows, chunk, _| {
    // SAFETY: 128 bytes of nibbles follow eight bytes of scales, 16 for each group; chunk < 4.
    let v = unsafe { nibble_blocks(isa, rows, 8 + 32 * chunk, 24 + 32 * chunk) };
    look_up(isa, &NONLINEAR, v)
});

/// Sixteen 4-bit scales and minima per row, as Q2_K keeps them.
///
/// # Safety
/// A block of every row is readable.
#[inline(always)]
unsafe fn q2_k_scales<L: Lanes<R>, const R: usize>(isa: L, rows: &Starts<R>, to: &mut Grid<R>) {
    // SAFETY: a block begins with sixteen pairs of nibbles and ends with two halves, at byte 80.
    let (words, [.., d]) = unsafe { (isa.words_16(rows, 0), isa.words_16(rows, 68)) };
    let (d, dmin) = (isa.low_halves(d), isa.low_halves(isa.right(d, 16)));
    let mask = isa.splat_bytes(15);
    for i in 0..4 {
        byte_scales(isa, isa.and(words[i], mask), 0, d, &mut to.scales[4 * i..4 * i + 4]);
        byte_scales(isa, isa.and(isa.right(words[i], 4), mask), 0, dmin, &mut to.minima[4 * i..4 * i + 4]);
    }
}

unpack!(Q2K, 3, q2_k_scales, |isa, rows, chunk, _| {
    // SAFETY: 64 bytes of four quants each follow sixteen bytes of scales; chunk < 4.
    two_bits(isa, unsafe { isa.words_32(rows, 16 + 32 * (chunk / 2)) }, chunk)
});

/// Sixteen 6-bit scales per row, as Q3_K keeps them.
///
/// # Safety
/// A block of every row is readable.
#[inline(always)]
unsafe fn q3_k_scales<L: Lanes<R>, const R: usize>(isa: L, rows: &Starts<R>, to: &mut Grid<R>) {
    // SAFETY: a block ends with twelve bytes of scales, at byte 96, and an f16.
    let ([_, a, b, high], [.., d]) = unsafe { (isa.words_16(rows, 92), isa.words_16(rows, 94)) };
    let d = isa.low_halves(isa.right(d, 16));
    let (four, two) = (isa.splat_bytes(15), isa.splat_bytes(0x30));
    let low = [a, b, isa.right(a, 4), isa.right(b, 4)];
    // Two bits more for each byte, at bits 4 and 5.
    let high = [isa.left(high, 4), isa.left(high, 2), high, isa.right(high, 2)];
    for i in 0..4 {
        let word = isa.or_masked(isa.and(low[i], four), high[i], two);
        byte_scales(isa, word, 32, d, &mut to.scales[4 * i..4 * i + 4]);
    }
}

unpack!(Q3K, 7, q3_k_scales, |isa, rows, chunk, _| {
    // SAFETY: 32 bytes of high bits and 64 bytes of two low bits; chunk < 4.
    let (high, low) = unsafe { (isa.words_32(rows, 0), isa.words_32(rows, 32 + 32 * (chunk / 2))) };
    one_bit_more(isa, two_bits(isa, low, chunk), high, chunk, 2)
});
