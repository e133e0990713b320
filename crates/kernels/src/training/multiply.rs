//! What numbers of a product are multiplied as: how they are packed in words of 32 bits, and what a step of a tile does with them.

use crate::dequantize::{bf16_to_f32, f32_to_bf16};
use crate::vectors::{Scalar, Vectors, fused};

/// A format of packed factors over an instruction set.
pub(crate) trait Multiply<V: Vectors>: Copy {
    /// Numbers of the inner dimension in a word.
    const NUMBERS: usize;
    /// What a word's number is combined with by exclusive or: one where the words of a pair change places, else zero.
    const SWAPPED: usize;

    /// Words of so many numbers.
    fn words(numbers: usize) -> usize;
    /// Sixteen words of one row.
    fn along(self, isa: V, row: &[f32]) -> V::I;
    /// Words of sixteen columns of two rows: two with one number each, or the first alone with two.
    fn across(self, isa: V, even: V::F, odd: V::F) -> [V::I; 2];
    /// Numbers of one row as words in their order: two vectors of sixteen, or the first alone. Pairs whose words change places elsewhere
    /// keep theirs here.
    fn in_order(self, isa: V, low: V::F, high: V::F) -> [V::I; 2];
    /// `sum + a * b` in every lane.
    fn step(self, isa: V, sum: V::F, a: i32, b: V::I) -> V::F;

    /// Words of less than sixteen, then zeros.
    #[inline(always)]
    fn along_part(self, isa: V, row: &[f32]) -> V::I {
        let low = if row.len() < 16 { isa.load_part(row) } else { isa.load(row) };
        let high = if row.len() > 16 { isa.load_part(&row[16..]) } else { isa.splat(0.0) };
        self.in_order(isa, low, high)[0]
    }
}

/// f32, one fused multiply-add a step.
#[derive(Clone, Copy)]
pub(crate) struct Floats;

impl<V: Vectors> Multiply<V> for Floats {
    const NUMBERS: usize = 1;
    const SWAPPED: usize = 0;

    #[inline(always)]
    fn words(numbers: usize) -> usize {
        numbers
    }

    #[inline(always)]
    fn along(self, isa: V, row: &[f32]) -> V::I {
        isa.as_i(isa.load(row))
    }

    #[inline(always)]
    fn across(self, isa: V, even: V::F, odd: V::F) -> [V::I; 2] {
        [isa.as_i(even), isa.as_i(odd)]
    }

    #[inline(always)]
    fn in_order(self, isa: V, low: V::F, high: V::F) -> [V::I; 2] {
        [isa.as_i(low), isa.as_i(high)]
    }

    #[inline(always)]
    fn step(self, isa: V, sum: V::F, a: i32, b: V::I) -> V::F {
        isa.fma(isa.splat(f32::from_bits(a as u32)), isa.as_f(b), sum)
    }
}

/// bf16 in f32, for processors without products of bf16: in the order of `Pairs`, but sums that are subnormal are kept.
#[derive(Clone, Copy)]
pub(crate) struct Rounded;

impl<V: Vectors> Multiply<V> for Rounded {
    const NUMBERS: usize = 1;
    const SWAPPED: usize = 1;

    #[inline(always)]
    fn words(numbers: usize) -> usize {
        numbers.next_multiple_of(2)
    }

    #[inline(always)]
    fn along(self, isa: V, row: &[f32]) -> V::I {
        isa.as_i(isa.to_bf16(isa.load(row)))
    }

    #[inline(always)]
    fn across(self, isa: V, even: V::F, odd: V::F) -> [V::I; 2] {
        [isa.as_i(isa.to_bf16(odd)), isa.as_i(isa.to_bf16(even))]
    }

    #[inline(always)]
    fn in_order(self, isa: V, low: V::F, high: V::F) -> [V::I; 2] {
        [isa.as_i(isa.to_bf16(low)), isa.as_i(isa.to_bf16(high))]
    }

    #[inline(always)]
    fn step(self, isa: V, sum: V::F, a: i32, b: V::I) -> V::F {
        Floats.step(isa, sum, a, b)
    }
}

/// Two bf16 a word, the even one below, as the instruction VDPBF16PS takes them (Intel SDM): the odd product is added first, each sum is
/// rounded, subnormal numbers are zeros before and after.
#[derive(Clone, Copy)]
pub(crate) struct Pairs;

/// `a * b + c`, rounded with an exponent without bounds, then flushed to zero if that is below the smallest normal number (tininess after rounding).
fn normal(a: f32, b: f32, c: f32) -> f32 {
    let sum = fused(a, b, c);
    // Rounded up to the smallest normal number: only as a subnormal one, perhaps. Factors are normal, so none of these is too large.
    let scale = 2f32.powi(64);
    if sum.abs() == f32::MIN_POSITIVE && fused(a * scale, b, c * scale).abs() < f32::MIN_POSITIVE * scale {
        return 0f32.copysign(sum);
    }
    flushed(sum)
}

/// A number with zero for subnormal ones.
fn flushed(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0f32.copysign(x) } else { x }
}

impl Pairs {
    /// Two numbers, rounded, in a word.
    fn word(even: f32, odd: f32) -> i32 {
        let bits = |x| u32::from(f32_to_bf16(flushed(x)));
        (bits(even) | bits(odd) << 16) as i32
    }

    fn fused(sum: f32, a: i32, b: i32) -> f32 {
        let halves = |word: i32| (bf16_to_f32(word as u16), bf16_to_f32((word >> 16) as u16));
        let ((a_even, a_odd), (b_even, b_odd)) = (halves(a), halves(b));
        normal(a_even, b_even, normal(a_odd, b_odd, flushed(sum)))
    }
}

impl Multiply<Scalar> for Pairs {
    const NUMBERS: usize = 2;
    const SWAPPED: usize = 0;

    fn words(numbers: usize) -> usize {
        numbers.div_ceil(2)
    }

    fn along(self, _: Scalar, row: &[f32]) -> [i32; 16] {
        std::array::from_fn(|i| Pairs::word(row[2 * i], row[2 * i + 1]))
    }

    fn across(self, _: Scalar, even: [f32; 16], odd: [f32; 16]) -> [[i32; 16]; 2] {
        [std::array::from_fn(|i| Pairs::word(even[i], odd[i])), [0; 16]]
    }

    fn in_order(self, _: Scalar, low: [f32; 16], high: [f32; 16]) -> [[i32; 16]; 2] {
        let all = [low, high];
        [std::array::from_fn(|i| Pairs::word(all[i / 8][2 * i % 16], all[i / 8][2 * i % 16 + 1])), [0; 16]]
    }

    fn step(self, _: Scalar, sum: [f32; 16], a: i32, b: [i32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| Pairs::fused(sum[i], a, b[i]))
    }
}
