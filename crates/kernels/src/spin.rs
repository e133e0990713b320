//! Loops that keep the arithmetic busy and nothing else, for the yardsticks of `measure`.

use crate::training::multiply::Multiply;
use crate::vectors::{Vectors, array};

/// Vector multiply-adds of a round of `spin_f32`, and steps of one of `spin_steps`: a multiple of every number of sums.
pub const F32_STEPS: usize = 48;

/// Input rows of a round of `spin_int8`.
pub const INT8_ROWS: usize = 12;
/// Bytes of each.
pub const INT8_COLUMNS: usize = 32;

/// Sixteen weight rows of 32 bytes with input rows of as many, from the first cache and into registers.
#[inline(always)]
pub(crate) fn spin_int8<V: Vectors>(isa: V, rounds: u64) -> i64 {
    if V::MANY_REGISTERS { dots::<V, INT8_ROWS>(isa, rounds) } else { dots::<V, 4>(isa, rounds) }
}

#[inline(always)]
fn dots<V: Vectors, const N: usize>(isa: V, rounds: u64) -> i64 {
    // More than one tile and row, so that no product can be kept from round to round.
    let mut tiles = [[0u8; 16 * INT8_COLUMNS]; 4];
    let mut x = [[1i8; INT8_COLUMNS]; 8];
    for (i, u) in tiles.as_flattened_mut().iter_mut().enumerate() {
        *u = i as u8 & 63;
    }
    for (i, x) in x.as_flattened_mut().iter_mut().enumerate() {
        *x = i as i8;
    }
    let (tiles, x) = (std::hint::black_box(tiles), std::hint::black_box(x));
    let mut acc = [isa.splat_i(0); N];
    for round in 0..rounds as usize * (INT8_ROWS / N) {
        let tile = &tiles[round % 4];
        for step in 0..INT8_COLUMNS / 8 {
            for r in 0..N {
                let x = &x[(round / 4 + r) % 8][8 * step..8 * step + 8];
                acc[r] = isa.dot_two_steps(acc[r], &tile[128 * step..128 * step + 128], x);
            }
        }
    }
    acc.iter().map(|&a| isa.sum(isa.to_f(a)) as i64).sum()
}

/// Multiply-adds of registers, in as many chains as fit.
#[inline(always)]
pub(crate) fn spin_f32<V: Vectors>(isa: V, rounds: u64) -> f32 {
    // Sixteen sums and two operands are 36 of the 16 registers of AVX2.
    if V::MANY_REGISTERS { chains::<V, 16>(isa, rounds) } else { chains::<V, 6>(isa, rounds) }
}

#[inline(always)]
fn chains<V: Vectors, const N: usize>(isa: V, rounds: u64) -> f32 {
    let (a, b) = (isa.splat(std::hint::black_box(0.999)), isa.splat(std::hint::black_box(0.001)));
    let mut acc = [isa.splat(1.0); N];
    for _ in 0..rounds {
        for _ in 0..F32_STEPS / N {
            for v in &mut acc {
                *v = isa.fma(*v, a, b);
            }
        }
    }
    acc.iter().map(|&v| isa.sum(v)).sum()
}

/// Steps of tiles between registers, in as many chains as fit.
#[inline(always)]
pub(crate) fn spin_steps<V: Vectors, M: Multiply<V>>(isa: V, mul: M, rounds: u64) -> f32 {
    if V::MANY_REGISTERS { step_chains::<V, M, 16>(isa, mul, rounds) } else { step_chains::<V, M, 6>(isa, mul, rounds) }
}

#[inline(always)]
fn step_chains<V: Vectors, M: Multiply<V>, const N: usize>(isa: V, mul: M, rounds: u64) -> f32 {
    // Sums grow by 1 a step, or 2, until they are large.
    let ones = std::hint::black_box(if M::NUMBERS == 2 { 0x3f80_3f80 } else { 0x3f80_0000 });
    let (b, mut acc) = (isa.splat_i(ones), array!(N, i, isa.splat(i as f32)));
    for _ in 0..rounds {
        for _ in 0..F32_STEPS / N {
            for sum in &mut acc {
                *sum = mul.step(isa, *sum, ones, b);
            }
        }
    }
    acc.iter().map(|&sum| isa.sum(sum)).sum()
}
