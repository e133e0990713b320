//! Numbers of a cache in 8 and 6 bits come back near what they were.
#![cfg(not(loom))]

use farthing_kernels::{Numbers, SMALL, to_eight, to_six, widen};
use proptest::prelude::*;

fn wide(scale: u16) -> f32 {
    f32::from_bits(u32::from(scale) << 16)
}

/// Sixteen numbers from number `at` on.
fn lanes(x: Numbers, at: usize) -> [f32; 16] {
    let mut lanes = [0.0; 16];
    widen(x.part(at, 16), &mut lanes);
    lanes
}

proptest! {
    /// Every number is within half a step of what was stored, and a step is at most the block's largest over 127 or 31.
    #[test]
    fn numbers_come_back_within_half_a_step(x in proptest::collection::vec(-8f32..8.0, 64..=64), small: bool) {
        let x: Vec<f32> = x.iter().map(|v| if small { v * 1e-30 } else { *v }).collect();
        let (mut q, mut bytes, mut s8, mut s6) = (vec![0i8; 64], vec![0u8; 48], vec![0u16; 4], vec![0u16; 4]);
        to_eight(&x, &mut q, &mut s8);
        to_six(&x, &mut bytes, &mut s6);
        for at in (0..64).step_by(16) {
            let (eight, six) = (lanes(Numbers::Eight(&q, &s8), at), lanes(Numbers::Six(&bytes, &s6), at));
            let block = at / SMALL;
            let largest = x[at..at + 16].iter().fold(0f32, |m, v| m.max(v.abs()));
            prop_assert!(wide(s8[block]) <= largest / 127.0 * 1.01 && wide(s6[block]) <= largest / 31.0 * 1.01);
            for i in 0..16 {
                prop_assert!((eight[i] - x[at + i]).abs() <= wide(s8[block]) * 0.5001);
                prop_assert!((six[i] - x[at + i]).abs() <= wide(s6[block]) * 0.5001);
            }
        }
    }
}

#[test]
fn zeros_and_what_is_no_number() {
    let mut x = [0f32; 16];
    let (mut q, mut s) = ([1i8; 16], [9u16; 1]);
    to_eight(&x, &mut q, &mut s);
    assert!(q == [0; 16] && s == [0]);
    x[3] = f32::NAN;
    to_eight(&x, &mut q, &mut s);
    assert!(lanes(Numbers::Eight(&q, &s), 0).iter().any(|v| v.is_nan()));
}
