//! The sixteen-lane vector that kernels are written over, and its plain form: the definition that other instruction sets must equal bit for bit.
//!
//! Methods of other instruction sets may only run where the processor has been asked; the table in `dispatch` sees to that.

use crate::blocks;

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

/// Sixteen lanes of f32 and of i32, as an instruction set holds them.
pub trait Vectors: Copy + 'static {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// Whether a kernel may hold sixteen sums and their operands in registers.
    const MANY_REGISTERS: bool;

    /// All lanes the same.
    fn splat(x: f32) -> Self::F;
    /// The first 16 numbers.
    fn load(x: &[f32]) -> Self::F;
    /// To the first 16 places.
    fn store(v: Self::F, out: &mut [f32]);
    /// 16 little-endian f32 (64 bytes).
    fn load_f32_bytes(x: &[u8]) -> Self::F;
    /// 16 bf16 (32 bytes).
    fn load_bf16_bytes(x: &[u8]) -> Self::F;
    /// 16 bf16.
    fn load_bf16(x: &[u16]) -> Self::F;
    /// 16 f16 (32 bytes).
    fn load_f16_bytes(x: &[u8]) -> Self::F;
    /// 16 E4M3, unscaled.
    fn load_e4m3(x: &[u8]) -> Self::F;
    /// Ask for the line of the first number; no more than a hint.
    fn prefetch<T>(x: &[T]);
    /// a + b
    fn add(a: Self::F, b: Self::F) -> Self::F;
    /// a - b
    fn sub(a: Self::F, b: Self::F) -> Self::F;
    /// a * b
    fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// a / b
    fn div(a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c, rounded once
    fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// -(a * b) + c, rounded once
    fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// a where a > b, else b (so b where either is NaN).
    fn max(a: Self::F, b: Self::F) -> Self::F;
    /// a where a < b, else b.
    fn min(a: Self::F, b: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    fn round(a: Self::F) -> Self::F;
    /// 2^n for integral n in -126..=127.
    fn exp2(n: Self::F) -> Self::F;
    /// a where x < bound, else b.
    fn below(x: Self::F, bound: Self::F, a: Self::F, b: Self::F) -> Self::F;

    /// All lanes the same.
    fn splat_i(x: i32) -> Self::I;
    /// Exact for what dot products of 32 bytes give.
    fn to_f(v: Self::I) -> Self::F;
    /// Per lane r: `start + sum_k u[r * stride + k] * x[k]`, k over `GROUP` (16 or 32) numbers.
    fn dots<const GROUP: usize>(u: &[u8], stride: usize, x: &[i8], start: i32) -> Self::I;
    /// Per lane r: `acc + sum_{k<4} tile[4 r + k] * x[k]`; `tile` has 64 bytes.
    fn dot_step(acc: Self::I, tile: &[u8], x: &[i8]) -> Self::I;

    /// The first 16 numbers.
    fn load_i(x: &[i32]) -> Self::I;
    /// To the first 16 places.
    fn store_i(v: Self::I, out: &mut [i32]);
    /// To the nearest integer, ties to even; undefined for what no i32 holds.
    fn to_i(v: Self::F) -> Self::I;
    /// Numbers of 32 lanes to pairs of 16 bits, saturated. For each l < 4: `a[4l..4l + 4]`, then `b[4l..4l + 4]`.
    fn pack(a: Self::I, b: Self::I) -> Self::I;
    /// Lanes of `a` paired with lanes of `b`, where `x` packs `a` with another and `y` packs `b`.
    fn pairs_low(x: Self::I, y: Self::I) -> Self::I;
    /// As `pairs_low`, of the second vectors that `x` and `y` pack.
    fn pairs_high(x: Self::I, y: Self::I) -> Self::I;
    /// Per lane, both pairs of 16 bits: `acc + a.0 * b.0 + a.1 * b.1`, wrapping.
    fn dot_pairs(acc: Self::I, a: Self::I, b: Self::I) -> Self::I;
    /// `v[i][j]` to `v[j][i]`
    fn transpose(v: &mut [Self::I; 16]);

    /// `v[query][position]` to four vectors `[4 positions][4 queries]`.
    #[inline(always)]
    fn by_four(v: [Self::F; 4]) -> [Self::F; 4] {
        let mut lanes = [[0f32; 16]; 4];
        for (v, lanes) in v.into_iter().zip(&mut lanes) {
            Self::store(v, lanes);
        }
        array!(4, block, Self::load(&array!(16, i, lanes[i % 4][4 * block + i / 4])))
    }

    /// 64 columns of 16 rows to 16 steps of `dot_step`: `out[64 s + 4 r + k] = u[r * stride + 4 s + k]`.
    #[inline(always)]
    fn interleave(u: &[u8], stride: usize, out: &mut [u8]) {
        for step in 0..16 {
            for r in 0..16 {
                let from = r * stride + 4 * step;
                out[64 * step + 4 * r..64 * step + 4 * r + 4].copy_from_slice(&u[from..from + 4]);
            }
        }
    }

    /// The first `x.len()` numbers (at most 16), the other lanes zero.
    #[inline(always)]
    fn load_part(x: &[f32]) -> Self::F {
        let mut whole = [0f32; 16];
        whole[..x.len()].copy_from_slice(x);
        Self::load(&whole)
    }

    /// The largest magnitude in both, as their bits are ordered: NaN above all.
    #[inline(always)]
    fn largest(a: Self::F, b: Self::F) -> f32 {
        let mut lanes = [0f32; 32];
        Self::store(a, &mut lanes);
        Self::store(b, &mut lanes[16..]);
        let mut most = 0;
        for x in lanes {
            most = most.max(x.abs().to_bits());
        }
        f32::from_bits(most)
    }

    /// To the nearest integers within -127..=127, ties to even, those beyond to the last, a NaN to zero; and their sum. Never -128: its
    /// magnitude has no signed byte, which products by signs need.
    #[inline(always)]
    fn to_bytes(v: Self::F, out: &mut [i8]) -> i32 {
        let mut lanes = [0f32; 16];
        Self::store(v, &mut lanes);
        let mut sum = 0;
        for (x, out) in lanes.iter().zip(&mut out[..16]) {
            *out = (x.round_ties_even() as i8).max(-127);
            sum += *out as i32;
        }
        sum
    }

    /// The sum of all lanes, in the one order: halves are added until one is left.
    #[inline(always)]
    fn sum(v: Self::F) -> f32 {
        let mut a = [0f32; 16];
        Self::store(v, &mut a);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] += a[i + half];
            }
        }
        a[0]
    }

    /// Lane r: `sum(v[r])`.
    #[inline(always)]
    fn sums(v: &[Self::F; 16]) -> Self::F {
        Self::load(&array!(16, r, Self::sum(v[r])))
    }

    /// e^x, relative error below 2e-7 where the result is a normal number; 0 below -87.3; the argument is held to at most 88. A NaN stays one.
    /// Cephes' `expf`: n = round(x / ln 2), a polynomial on the rest.
    #[inline(always)]
    fn exp(x: Self::F) -> Self::F {
        let s = Self::splat;
        let low = s(-87.3);
        // This order of operands lets a NaN through.
        let held = Self::max(low, Self::min(s(88.0), x));
        let n = Self::round(Self::mul(held, s(std::f32::consts::LOG2_E)));
        let r = Self::fnma(n, s(0.693_359_4), held);
        let r = Self::fnma(n, s(-2.121_944_4e-4), r);
        let mut p = s(1.987_569_1e-4);
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = Self::fma(p, r, s(c));
        }
        let p = Self::add(Self::fma(Self::mul(p, r), r, r), s(1.0));
        Self::below(x, low, s(0.0), Self::mul(p, Self::exp2(n)))
    }
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub struct Scalar;

#[inline(always)]
fn map(f: impl Fn(usize) -> f32) -> [f32; 16] {
    std::array::from_fn(f)
}

impl Vectors for Scalar {
    type F = [f32; 16];
    type I = [i32; 16];
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn splat(x: f32) -> [f32; 16] {
        [x; 16]
    }
    #[inline(always)]
    fn load(x: &[f32]) -> [f32; 16] {
        map(|i| x[i])
    }
    #[inline(always)]
    fn store(v: [f32; 16], out: &mut [f32]) {
        out[..16].copy_from_slice(&v);
    }
    #[inline(always)]
    fn load_f32_bytes(x: &[u8]) -> [f32; 16] {
        map(|i| f32::from_le_bytes([x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]]))
    }
    #[inline(always)]
    fn load_bf16_bytes(x: &[u8]) -> [f32; 16] {
        map(|i| blocks::bf16_to_f32(u16::from_le_bytes([x[2 * i], x[2 * i + 1]])))
    }
    #[inline(always)]
    fn load_bf16(x: &[u16]) -> [f32; 16] {
        map(|i| blocks::bf16_to_f32(x[i]))
    }
    #[inline(always)]
    fn load_f16_bytes(x: &[u8]) -> [f32; 16] {
        map(|i| blocks::f16_to_f32(u16::from_le_bytes([x[2 * i], x[2 * i + 1]])))
    }
    #[inline(always)]
    fn load_e4m3(x: &[u8]) -> [f32; 16] {
        map(|i| blocks::e4m3_to_f32(x[i]))
    }
    #[inline(always)]
    fn prefetch<T>(_: &[T]) {}
    #[inline(always)]
    fn add(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        map(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn fnma(a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        map(|i| (-a[i]).mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn round(a: [f32; 16]) -> [f32; 16] {
        map(|i| a[i].round_ties_even())
    }
    #[inline(always)]
    fn exp2(n: [f32; 16]) -> [f32; 16] {
        map(|i| f32::from_bits(((n[i] as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn below(x: [f32; 16], bound: [f32; 16], a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map(|i| if x[i] < bound[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn splat_i(x: i32) -> [i32; 16] {
        [x; 16]
    }
    #[inline(always)]
    fn to_f(v: [i32; 16]) -> [f32; 16] {
        map(|i| v[i] as f32)
    }
    #[inline(always)]
    fn dots<const GROUP: usize>(u: &[u8], stride: usize, x: &[i8], start: i32) -> [i32; 16] {
        let x = &x[..GROUP];
        std::array::from_fn(|r| {
            let row = &u[r * stride..r * stride + GROUP];
            row.iter().zip(x).fold(start, |acc, (&u, &x)| acc + u as i32 * x as i32)
        })
    }
    #[inline(always)]
    fn dot_step(acc: [i32; 16], tile: &[u8], x: &[i8]) -> [i32; 16] {
        std::array::from_fn(|r| (0..4).fold(acc[r], |acc, k| acc + tile[4 * r + k] as i32 * x[k] as i32))
    }
    #[inline(always)]
    fn load_i(x: &[i32]) -> [i32; 16] {
        array!(16, i, x[i])
    }
    #[inline(always)]
    fn store_i(v: [i32; 16], out: &mut [i32]) {
        out[..16].copy_from_slice(&v);
    }
    #[inline(always)]
    fn to_i(v: [f32; 16]) -> [i32; 16] {
        array!(16, i, v[i].round_ties_even() as i32)
    }
    #[inline(always)]
    fn pack(a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        let from = |i: usize| if i % 4 < 2 { &a } else { &b };
        let at = |i: usize| i / 4 * 4 + i % 2 * 2;
        std::array::from_fn(|i| pair(saturated(from(i)[at(i)]), saturated(from(i)[at(i) + 1])))
    }
    #[inline(always)]
    fn pairs_low(x: [i32; 16], y: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|i| pair(half(&x, i / 4 * 8 + i % 4), half(&y, i / 4 * 8 + i % 4)))
    }
    #[inline(always)]
    fn pairs_high(x: [i32; 16], y: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|i| pair(half(&x, i / 4 * 8 + 4 + i % 4), half(&y, i / 4 * 8 + 4 + i % 4)))
    }
    #[inline(always)]
    fn dot_pairs(acc: [i32; 16], a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        let product = |i: usize, k: usize| i32::from(half(&a, 2 * i + k)) * i32::from(half(&b, 2 * i + k));
        std::array::from_fn(|i| acc[i].wrapping_add(product(i, 0).wrapping_add(product(i, 1))))
    }
    #[inline(always)]
    fn transpose(v: &mut [[i32; 16]; 16]) {
        let rows = *v;
        *v = std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]));
    }
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
