//! Blocks of 32 with one scale: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0` and `MXFP4`.

use super::rounding::{UNDER_IMPORTANCE, affine, extreme, importance_weights, squares, symmetric};
use super::{put_f16, put_nibbles};
use crate::dequantize::E2M1;
use crate::formats::Format;

pub(super) fn encode(format: Format, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let mean_square = if importance.is_some() { squares(x) / x.len() as f32 } else { 0.0 };
    for (i, (x, out)) in x.chunks_exact(32).zip(out.chunks_exact_mut(format.block_bytes())).enumerate() {
        let mut weights = [0f32; 32];
        let weights = importance.map(|importance| {
            importance_weights(x, &importance[32 * i..32 * i + 32], mean_square, &mut weights);
            &weights
        });
        match format {
            Format::Q8_0 => eight_bits(x, out),
            Format::Mxfp4 => float_4(x, out),
            Format::Q4_0 => centred(x, weights, 4, out),
            Format::Q5_0 => centred(x, weights, 5, out),
            Format::Q4_1 => with_minimum(x, weights, 4, out),
            Format::Q5_1 => with_minimum(x, weights, 5, out),
            other => unreachable!("{other:?} is encoded elsewhere"),
        }
    }
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

fn eight_bits(x: &[f32], out: &mut [u8]) {
    let scale = extreme(x).abs() / 127.0;
    put_f16(out, 0, scale);
    let inverse = inverse(scale);
    // `round` takes ties away from zero.
    out[2..].iter_mut().zip(x).for_each(|(o, x)| *o = (x * inverse).round() as i8 as u8);
}

/// Quants of `bits` bits from byte `at` on: fifth bits first, where there are any.
fn put_quants(quants: &[u8; 32], bits: u32, at: usize, out: &mut [u8]) {
    let mut at = at;
    if bits == 5 {
        let fifth = quants.iter().enumerate().fold(0u32, |all, (j, q)| all | (u32::from(q >> 4) << j));
        out[at..at + 4].copy_from_slice(&fifth.to_le_bytes());
        at += 4;
    }
    put_nibbles(quants, &mut out[at..]);
}

/// The extreme becomes the lowest quant.
fn centred(x: &[f32], weights: Option<&[f32; 32]>, bits: u32, out: &mut [u8]) {
    let most = 1i32 << (bits - 1);
    let mut quants = [0u8; 32];
    let scale = match weights {
        Some(weights) => symmetric(x, weights, most, &mut quants),
        None => {
            let scale = extreme(x) / -most as f32;
            let (inverse, centre) = (inverse(scale), most as f32 + 0.5);
            for (q, &x) in quants.iter_mut().zip(x) {
                *q = (x * inverse + centre).min(2.0 * most as f32 - 1.0) as u8;
            }
            scale
        }
    };
    put_f16(out, 0, scale);
    put_quants(&quants, bits, 2, out);
}

fn with_minimum(x: &[f32], weights: Option<&[f32; 32]>, bits: u32, out: &mut [u8]) {
    let most = (1i32 << bits) - 1;
    let mut quants = [0u8; 32];
    let (scale, min) = match weights {
        Some(weights) => {
            let (scale, minimum) = affine(x, weights, most, UNDER_IMPORTANCE, &mut quants);
            (scale, -minimum)
        }
        None => {
            let min = x.iter().fold(f32::MAX, |min, &x| if x < min { x } else { min });
            let max = x.iter().fold(-f32::MAX, |max, &x| if x > max { x } else { max });
            let scale = (max - min) / most as f32;
            let inverse = inverse(scale);
            for (q, &x) in quants.iter_mut().zip(x) {
                *q = ((x - min) * inverse + 0.5).min(most as f32) as u8;
            }
            (scale, min)
        }
    };
    put_f16(out, 0, scale);
    put_f16(out, 2, min);
    put_quants(&quants, bits, 4, out);
}

/// The scale is the power of two that brings the largest number between 4 and 8; numbers go to the nearest of the 16, the first of equal ones.
fn float_4(x: &[f32], out: &mut [u8]) {
    let largest = extreme(x).abs();
    let exponent = if largest > 0.0 { (largest.log2().floor() - 2.0 + 127.0) as u8 } else { 0 };
    out[0] = exponent;
    let e = u32::from(exponent);
    let half = f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 });
    let mut quants = [0u8; 32];
    for (q, x) in quants.iter_mut().zip(x) {
        let apart = |index: usize| (f32::from(E2M1[index] as i8 - 12) * half - x).abs();
        *q = (1..16).fold(0, |best, index| if apart(index) < apart(best) { index } else { best }) as u8;
    }
    put_nibbles(&quants, &mut out[1..]);
}
