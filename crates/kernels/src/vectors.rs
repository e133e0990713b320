//! The sixteen-lane vector that kernels are written over, and its plain form: the definition that other instruction sets must equal bit for bit.
//!
//! A value of an instruction set's type is the proof that the processor has the set: functions compiled for it make one, and only they.
//! So kernels, which are handed it (`isa`), are safe code.

use std::mem::transmute;

use crate::dequantize;

/// `[f(0), f(1), ..]` of numbers that copy. Not `std::array::from_fn`: a closure is compiled without the instruction set of the
/// kernel that it stands in, and then every vector operation in it is a call.
macro_rules! array {
    ($n:expr, $i:ident, $element:expr) => {{
        let mut array = [{
            let $i = 0;
            let _ = $i;
            $element
        }; $n];
        for $i in 1..$n {
            let _ = $i;
            array[$i] = $element;
        }
        array
    }};
}
pub(crate) use array;

/// Methods of a type whose values are the proof of `$features`. Bodies are compiled with them, so that operations on registers need no
/// `unsafe` there; those on memory do.
#[cfg(target_arch = "x86_64")]
macro_rules! for_features {
    ($features:literal; $($(#[$meta:meta])* fn $name:ident(self $(, $arg:ident: $T:ty)*) $(-> $R:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[inline(always)]
        fn $name(self $(, $arg: $T)*) $(-> $R)? {
            #[target_feature(enable = $features)]
            #[inline]
            fn compiled($($arg: $T),*) $(-> $R)? $body
            // SAFETY: `self` is the proof that the processor has these features.
            unsafe { compiled($($arg),*) }
        }
    )*};
}
#[cfg(target_arch = "x86_64")]
pub(crate) use for_features;

/// Sixteen lanes of f32 and of i32, as an instruction set holds them.
pub trait Vectors: Copy + 'static {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// Whether a kernel may hold sixteen sums and their operands in registers.
    const MANY_REGISTERS: bool;
    /// Input rows of a tile of `dot_tile` with four weight rows, at most 4.
    const TILE_ROWS: usize = 4;

    /// All lanes the same.
    fn splat(self, x: f32) -> Self::F;
    /// The first 16 numbers.
    fn load(self, x: &[f32]) -> Self::F;
    /// To the first 16 places.
    fn store(self, v: Self::F, out: &mut [f32]);
    /// 16 little-endian f32 (64 bytes).
    fn load_f32_bytes(self, x: &[u8]) -> Self::F;
    /// 16 bf16 (32 bytes).
    fn load_bf16_bytes(self, x: &[u8]) -> Self::F;
    /// 16 bf16.
    fn load_bf16(self, x: &[u16]) -> Self::F;
    /// 16 f16 (32 bytes).
    fn load_f16_bytes(self, x: &[u8]) -> Self::F;
    /// 16 E4M3, unscaled.
    fn load_e4m3(self, x: &[u8]) -> Self::F;
    /// Ask for the line of the first number; no more than a hint.
    fn prefetch<T>(self, x: &[T]);
    /// a + b
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// a - b
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// a / b
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c, rounded once
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// -(a * b) + c, rounded once
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Neighbouring lanes change places: a1, a0, a3, a2, ...
    fn swap_pairs(self, a: Self::F) -> Self::F;
    /// a where a > b, else b (so b where either is NaN).
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// a where a < b, else b.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// 2^n for integral n in -126..=127.
    fn exp2(self, n: Self::F) -> Self::F;
    /// To bfloat16 and back: to the nearest even; subnormal numbers to zeros, a NaN to a quiet one.
    fn to_bf16(self, x: Self::F) -> Self::F;
    /// The bits of each lane.
    fn as_i(self, v: Self::F) -> Self::I;
    /// Lanes of these bits.
    fn as_f(self, v: Self::I) -> Self::F;
    /// a where x < bound, else b.
    fn below(self, x: Self::F, bound: Self::F, a: Self::F, b: Self::F) -> Self::F;

    /// All lanes the same.
    fn splat_i(self, x: i32) -> Self::I;
    /// Exact for what dot products of 32 bytes give.
    fn to_f(self, v: Self::I) -> Self::F;
    /// Per lane r: `acc + sum_{k<4} tile[4 r + k] * x[k]`; `tile` has 64 bytes.
    fn dot_step(self, acc: Self::I, tile: &[u8], x: &[i8]) -> Self::I;

    /// Per lane r: `acc + sum_{k<4} (tile[4 r + k] * x[k] + tile[64 + 4 r + k] * x[4 + k])`; `tile` has 128 bytes, all below 64.
    #[inline(always)]
    fn dot_two_steps(self, acc: Self::I, tile: &[u8], x: &[i8]) -> Self::I {
        self.dot_step(self.dot_step(acc, &tile[..64], &x[..4]), &tile[64..128], &x[4..8])
    }

    /// The first 16 numbers.
    fn load_i(self, x: &[i32]) -> Self::I;
    /// To the first 16 places.
    fn store_i(self, v: Self::I, out: &mut [i32]);
    /// To the nearest integer, ties to even; undefined from 2^22 on.
    fn to_i(self, v: Self::F) -> Self::I;
    /// Numbers of 32 lanes to pairs of 16 bits, saturated. For each l < 4: `a[4l..4l + 4]`, then `b[4l..4l + 4]`.
    fn pack(self, a: Self::I, b: Self::I) -> Self::I;
    /// Lanes of `a` paired with lanes of `b`, where `x` packs `a` with another and `y` packs `b`.
    fn pairs_low(self, x: Self::I, y: Self::I) -> Self::I;
    /// As `pairs_low`, of the second vectors that `x` and `y` pack.
    fn pairs_high(self, x: Self::I, y: Self::I) -> Self::I;
    /// Per lane, both pairs of 16 bits: `acc + a.0 * b.0 + a.1 * b.1`, wrapping.
    fn dot_pairs(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I;
    /// `v[i][j]` to `v[j][i]`
    fn transpose(self, v: &mut [Self::I; 16]);

    /// Sixteen partial sums of every `w` with every `x`, added to `acc`; all have the same whole number of vectors.
    #[inline(always)]
    fn dot_tile<const O: usize, const R: usize>(self, w: [&[f32]; O], x: [&[f32]; R], acc: &mut [[Self::F; R]; O]) {
        let mut sums = *acc;
        for k in (0..w[0].len()).step_by(16) {
            let xv: [Self::F; R] = array!(R, r, self.load(&x[r][k..]));
            for a in 0..O {
                let wv = self.load(&w[a][k..]);
                for r in 0..R {
                    sums[a][r] = self.fma(wv, xv[r], sums[a][r]);
                }
            }
        }
        *acc = sums;
    }

    /// `v[query][position]` to four vectors `[4 positions][4 queries]`.
    #[inline(always)]
    fn by_four(self, v: [Self::F; 4]) -> [Self::F; 4] {
        let mut lanes = [[0f32; 16]; 4];
        for (v, lanes) in v.into_iter().zip(&mut lanes) {
            self.store(v, lanes);
        }
        array!(4, block, self.load(&array!(16, i, lanes[i % 4][4 * block + i / 4])))
    }

    /// 64 columns of 16 rows to 16 steps of `dot_step`: `out[64 s + 4 r + k] = u[r * stride + 4 s + k]`.
    #[inline(always)]
    fn interleave(self, u: &[u8], stride: usize, out: &mut [u8]) {
        for step in 0..16 {
            for r in 0..16 {
                let from = r * stride + 4 * step;
                out[64 * step + 4 * r..64 * step + 4 * r + 4].copy_from_slice(&u[from..from + 4]);
            }
        }
    }

    /// The first `x.len()` numbers (at most 16), the other lanes zero.
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::F {
        let mut whole = [0f32; 16];
        whole[..x.len()].copy_from_slice(x);
        self.load(&whole)
    }

    /// To all of `out`, which has at most 16 places.
    #[inline(always)]
    fn store_part(self, v: Self::F, out: &mut [f32]) {
        let mut whole = [0f32; 16];
        self.store(v, &mut whole);
        out.copy_from_slice(&whole[..out.len()]);
    }

    /// The largest magnitude in both, as their bits are ordered: NaN above all.
    fn largest(self, a: Self::F, b: Self::F) -> f32;
    /// To the nearest integers within -127..=127, ties to even, those beyond to the last, a NaN to zero; and their sum. Never -128: its
    /// magnitude has no signed byte, which products by signs need.
    fn to_bytes(self, v: Self::F, out: &mut [i8]) -> i32;

    /// The sum of all lanes, in the one order: halves are added until one is left.
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        let mut a = [0f32; 16];
        self.store(v, &mut a);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] += a[i + half];
            }
        }
        a[0]
    }

    /// Lane r: `sum(v[r])`.
    #[inline(always)]
    fn sums(self, v: &[Self::F; 16]) -> Self::F {
        self.load(&array!(16, r, self.sum(v[r])))
    }

    /// e^x, relative error below 2e-7 where the result is a normal number; 0 below -87.3; the argument is held to at most 88. A NaN stays one.
    /// Cephes' `expf`: n = round(x / ln 2), a polynomial on the rest.
    #[inline(always)]
    fn exp(self, x: Self::F) -> Self::F {
        let low = self.splat(-87.3);
        // This order of operands lets a NaN through.
        let held = self.max(low, self.min(self.splat(88.0), x));
        let n = self.round(self.mul(held, self.splat(std::f32::consts::LOG2_E)));
        let r = self.fnma(n, self.splat(0.693_359_4), held);
        let r = self.fnma(n, self.splat(-2.121_944_4e-4), r);
        let mut p = self.splat(1.987_569_1e-4);
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = self.fma(p, r, self.splat(c));
        }
        let p = self.add(self.fma(self.mul(p, r), r, r), self.splat(1.0));
        self.below(x, low, self.splat(0.0), self.mul(p, self.exp2(n)))
    }
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub struct Scalar;

#[inline(always)]
fn map<T: Copy + Default>(f: impl Fn(usize) -> T) -> [T; 16] {
    // Not `from_fn`, which the compiler does not always inline.
    let mut lanes = [T::default(); 16];
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = f(i);
    }
    lanes
}

/// Methods that are always inlined.
macro_rules! plain {
    ($(fn $name:ident(self $(, $arg:ident: $T:ty)*) $(-> $R:ty)? $body:block)*) => {$(
        #[inline(always)]
        fn $name(self $(, $arg: $T)*) $(-> $R)? $body
    )*};
}

impl Vectors for Scalar {
    type F = [f32; 16];
    type I = [i32; 16];
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn prefetch<T>(self, _: &[T]) {}

    plain! {
        fn splat(self, x: f32) -> [f32; 16] { [x; 16] }
        fn load(self, x: &[f32]) -> [f32; 16] { map(|i| x[i]) }
        fn store(self, v: [f32; 16], out: &mut [f32]) { out[..16].copy_from_slice(&v); }
        fn load_f32_bytes(self, x: &[u8]) -> [f32; 16] {
            map(|i| f32::from_le_bytes([x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]]))
        }
        fn load_bf16_bytes(self, x: &[u8]) -> [f32; 16] {
            map(|i| dequantize::bf16_to_f32(u16::from_le_bytes([x[2 * i], x[2 * i + 1]])))
        }
        fn load_bf16(self, x: &[u16]) -> [f32; 16] { map(|i| dequantize::bf16_to_f32(x[i])) }
        fn load_f16_bytes(self, x: &[u8]) -> [f32; 16] {
            map(|i| dequantize::f16_to_f32(u16::from_le_bytes([x[2 * i], x[2 * i + 1]])))
        }
        fn load_e4m3(self, x: &[u8]) -> [f32; 16] { map(|i| dequantize::e4m3_to_f32(x[i])) }
        fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] { map(|i| a[i] + b[i]) }
        fn sub(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] { map(|i| a[i] - b[i]) }
        fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] { map(|i| a[i] * b[i]) }
        fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] { map(|i| a[i] / b[i]) }
        fn fma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] { fused_lanes(a, b, c) }
        fn fnma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] { fused_lanes(map(|i| -a[i]), b, c) }
        fn swap_pairs(self, a: [f32; 16]) -> [f32; 16] { map(|i| a[i ^ 1]) }
        fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] { map(|i| if a[i] > b[i] { a[i] } else { b[i] }) }
        fn min(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] { map(|i| if a[i] < b[i] { a[i] } else { b[i] }) }
        fn round(self, a: [f32; 16]) -> [f32; 16] { map(|i| rounded(a[i])) }
        fn exp2(self, n: [f32; 16]) -> [f32; 16] {
            map(|i| f32::from_bits((integer(n[i]).wrapping_add(127) as u32) << 23))
        }
        fn to_bf16(self, x: [f32; 16]) -> [f32; 16] {
            map(|i| {
                let flushed = if x[i].abs() < f32::MIN_POSITIVE { 0f32.copysign(x[i]) } else { x[i] };
                dequantize::bf16_to_f32(dequantize::f32_to_bf16(flushed))
            })
        }
        fn as_i(self, v: [f32; 16]) -> [i32; 16] { map(|i| v[i].to_bits() as i32) }
        fn as_f(self, v: [i32; 16]) -> [f32; 16] { map(|i| f32::from_bits(v[i] as u32)) }
        fn below(self, x: [f32; 16], bound: [f32; 16], a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
            map(|i| if x[i] < bound[i] { a[i] } else { b[i] })
        }
        fn splat_i(self, x: i32) -> [i32; 16] { [x; 16] }
        fn to_f(self, v: [i32; 16]) -> [f32; 16] { map(|i| v[i] as f32) }
        fn dot_step(self, acc: [i32; 16], tile: &[u8], x: &[i8]) -> [i32; 16] {
            map(|r| (0..4).fold(acc[r], |acc, k| acc + i32::from(tile[4 * r + k]) * i32::from(x[k])))
        }
        fn load_i(self, x: &[i32]) -> [i32; 16] { array!(16, i, x[i]) }
        fn store_i(self, v: [i32; 16], out: &mut [i32]) { out[..16].copy_from_slice(&v); }
        fn to_i(self, v: [f32; 16]) -> [i32; 16] { array!(16, i, integer(v[i])) }
        fn pack(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
            let from = |i: usize| if i % 4 < 2 { &a } else { &b };
            let at = |i: usize| i / 4 * 4 + i % 2 * 2;
            std::array::from_fn(|i| pair(saturated(from(i)[at(i)]), saturated(from(i)[at(i) + 1])))
        }
        fn pairs_low(self, x: [i32; 16], y: [i32; 16]) -> [i32; 16] {
            std::array::from_fn(|i| pair(half(&x, i / 4 * 8 + i % 4), half(&y, i / 4 * 8 + i % 4)))
        }
        fn pairs_high(self, x: [i32; 16], y: [i32; 16]) -> [i32; 16] {
            std::array::from_fn(|i| pair(half(&x, i / 4 * 8 + 4 + i % 4), half(&y, i / 4 * 8 + 4 + i % 4)))
        }
        fn dot_pairs(self, acc: [i32; 16], a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
            // As numbers of 16 bits, which the compiler turns into one instruction for both products; their order is of no account.
            // SAFETY: both are 64 bytes of plain numbers.
            let (a, b) = unsafe { (transmute::<[i32; 16], [i16; 32]>(a), transmute::<[i32; 16], [i16; 32]>(b)) };
            let mut sums = acc;
            for i in 0..16 {
                let (low, high) =
                    (i32::from(a[2 * i]) * i32::from(b[2 * i]), i32::from(a[2 * i + 1]) * i32::from(b[2 * i + 1]));
                sums[i] = sums[i].wrapping_add(low.wrapping_add(high));
            }
            sums
        }
        fn largest(self, a: [f32; 16], b: [f32; 16]) -> f32 {
            let mut most = 0;
            for x in a.into_iter().chain(b) {
                most = most.max((x.to_bits() & 0x7fff_ffff) as i32);
            }
            f32::from_bits(most as u32)
        }
        fn to_bytes(self, v: [f32; 16], out: &mut [i8]) -> i32 {
            let (out, mut sum) = (&mut out[..16], 0);
            for i in 0..16 {
                let number = if v[i].is_nan() { 0.0 } else { v[i] };
                let held = if number < 127.0 { number } else { 127.0 };
                let whole = integer(if held > -127.0 { held } else { -127.0 });
                out[i] = whole as i8;
                sum += whole;
            }
            sum
        }
        fn transpose(self, v: &mut [[i32; 16]; 16]) {
            let rows = *v;
            *v = std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]));
        }
    }
}

/// `a * b + c`, rounded once. Where the target has no such instruction, in f64: the product is exact there; the sum is rounded to odd, so
/// that its own rounding never decides that to f32 (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
#[inline(always)]
pub fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        return a.mul_add(b, c);
    }
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let part = sum - product;
    // What the sum lost; a NaN where it is no number or infinite, which is then left as it is.
    let lost = (product - (sum - part)) + (c - part);
    let inexact = 0u64.wrapping_sub(u64::from(lost.abs() > 0.0));
    let beyond = (lost.to_bits() ^ sum.to_bits()) >> 63;
    f64::from_bits(sum.to_bits().wrapping_sub(beyond & inexact) | (inexact & 1)) as f32
}

/// `fused` of each lane. A sum in f64 goes wrong to f32 only where it lies in the middle of two f32 (whose last 29 bits are then a one and
/// zeros) or among subnormal ones; so all lanes are rounded twice, and again by `fused` if one of them may be so.
#[inline(always)]
pub fn fused_lanes(a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        return map(|i| fused(a[i], b[i], c[i]));
    }
    let sums: [f64; 16] = map(|i| f64::from(a[i]) * f64::from(b[i]) + f64::from(c[i]));
    let rounded: [f32; 16] = map(|i| sums[i] as f32);
    let mut doubtful = 0;
    for i in 0..16 {
        doubtful |= u32::from(sums[i].to_bits() as u32 & 0x1fff_ffff == 0x1000_0000);
    }
    for i in 0..16 {
        doubtful |= u32::from(rounded[i].abs() <= f32::MIN_POSITIVE);
    }
    if doubtful == 0 { rounded } else { fused_one_by_one(&a, &b, &c) }
}

#[cold]
#[inline(never)]
fn fused_one_by_one(a: &[f32; 16], b: &[f32; 16], c: &[f32; 16]) -> [f32; 16] {
    map(|i| fused(a[i], b[i], c[i]))
}

/// To the nearest integer, ties to even, without a call where the target has no such instruction.
#[inline(always)]
pub fn rounded(x: f32) -> f32 {
    const WHOLE: f32 = 8_388_608.0; // from 2^23 on all numbers are integers
    let shift = WHOLE.copysign(x);
    let near = ((x + shift) - shift).copysign(x);
    if x.abs() < WHOLE { near } else { x }
}

/// To the nearest integer, ties to even; for magnitudes below 2^22.
#[inline(always)]
pub fn integer(x: f32) -> i32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23: the last bits of a sum are the integer
    (x + SHIFT).to_bits().wrapping_sub(SHIFT.to_bits()) as i32
}

/// Two numbers of 16 bits in one lane, the first below.
#[inline(always)]
fn pair(low: i16, high: i16) -> i32 {
    i32::from(low as u16) | i32::from(high) << 16
}

/// Number `i` of 32.
#[inline(always)]
fn half(v: &[i32; 16], i: usize) -> i16 {
    (v[i / 2] >> (i % 2 * 16)) as i16
}

#[inline(always)]
fn saturated(x: i32) -> i16 {
    x.clamp(i16::MIN.into(), i16::MAX.into()) as i16
}
