//! What the plain vectors do without an instruction for it: fused multiply-adds and rounding.
#![cfg(not(loom))]

use farthing_kernels::vectors::{fused, fused_lanes, integer, rounded};

/// Bits of every kind: special, of one sign or exponent, with few bits set, at the ends of the range.
fn number(random: u64) -> f32 {
    const SPECIAL: [u32; 12] = [
        0,
        0x8000_0000,
        1,
        0x8000_0001,
        0x007f_ffff,
        0x0080_0000,
        0x7f7f_ffff,
        0x7f80_0000,
        0xff80_0000,
        0x3f80_0000,
        0x3380_0000,
        0x7fc0_0000,
    ];
    let bits = (random >> 32) as u32;
    f32::from_bits(match random % 7 {
        0 => SPECIAL[(random >> 8) as usize % SPECIAL.len()],
        1 => bits,
        2 => bits & 0x807f_ffff | 0x3f00_0000,
        3 => bits & 0x8000_0fff | 0x3f80_0000,
        4 => bits & 0x80ff_ffff,
        5 => bits & 0x8f7f_f000 | 0x3000_0000,
        _ => bits & 0x807f_ffff | 0x1f00_0000,
    })
}

#[test]
fn a_fused_multiply_add_is_rounded_once() {
    let mut state = 1u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for i in 0..4_000_000u32 {
        let (a, b) = (number(random()), number(random()));
        // A third of the sums cancels, or adds a half of a last place.
        let near = i / 3 % 50;
        let product = (-a * b).to_bits();
        let c = match i % 3 {
            0 => f32::from_bits(if near < 25 { product } else { product.wrapping_sub((near.wrapping_sub(12)) << 23) }),
            _ => number(random()),
        };
        let want = a.mul_add(b, c);
        let lanes = fused_lanes(std::array::from_fn(|i| if i % 2 == 0 { 1.0 } else { a }), [b; 16], [c; 16]);
        for got in [fused(a, b, c), lanes[1], lanes[15]] {
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{a:e} * {b:e} + {c:e}: {got:e}, not {want:e}"
            );
        }
    }
}

#[test]
fn integers_are_the_nearest_and_even_between_two() {
    for i in 0..1u32 << 20 {
        let x = f32::from_bits(i.wrapping_mul(4097));
        assert!(rounded(x).to_bits() == x.round_ties_even().to_bits() || x.is_nan(), "{x}");
        if x.abs() < 4_194_304.0 {
            assert_eq!(integer(x), x.round_ties_even() as i32, "{x}");
        }
    }
}
