//! Blocks of 256 with quantized scales: `Q2_K` to `Q6_K`.
//!
//! Each group's best scale (and minimum) is searched in f32, the scales of a block are quantized, and the quants are rounded again under those.

use super::put_f16;
use super::rounding::{
    Trials, UNDER_IMPORTANCE, ZERO, affine, importance_weights, nearest, positive, squares, symmetric,
    symmetric_by_descent,
};
use crate::formats::Format;

pub(super) fn encode(format: Format, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    for (i, (x, out)) in x.chunks_exact(256).zip(out.chunks_exact_mut(format.block_bytes())).enumerate() {
        let importance = importance.map(|importance| &importance[256 * i..256 * i + 256]);
        match format {
            Format::Q2K => two_bits(x, importance, out),
            Format::Q3K => three_bits(x, importance, out),
            Format::Q4K => four_or_five_bits(x, importance, 15, out),
            Format::Q5K => four_or_five_bits(x, importance, 31, out),
            Format::Q6K => six_bits(x, importance, out),
            other => unreachable!("{other:?} is encoded elsewhere"),
        }
    }
}

/// Four quants of two bits a byte: those of 32 columns in the same bits of 32 bytes.
fn put_pairs_of_bits(quants: &[u8; 256], out: &mut [u8]) {
    for (quants, out) in quants.chunks_exact(128).zip(out.chunks_exact_mut(32)) {
        for (l, o) in out.iter_mut().enumerate() {
            *o = (0..4).fold(0, |byte, part| byte | ((quants[32 * part + l] & 3) << (2 * part)));
        }
    }
}

/// Quants of a group under its final scale and minimum. Those of a group whose scale is 0 stay as they were found.
fn round_again(x: &[f32], scale: f32, minimum: f32, lowest: i32, most: i32, quants: &mut [u8]) {
    if scale == 0.0 {
        return;
    }
    for (q, x) in quants.iter_mut().zip(x) {
        *q = (nearest((x + minimum) / scale).clamp(lowest, lowest + most) - lowest) as u8;
    }
}

/// The largest of numbers, or 0.
fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0f32, |most, &x| if x > most { x } else { most })
}

/// Scales that are not negative as shares of the largest, in whole numbers up to `most`; what a share of 1 stands for.
fn shares(x: &[f32], most: f32, quants: &mut [u8]) -> f32 {
    let largest = largest(x);
    let inverse = if largest > 0.0 { most / largest } else { 0.0 };
    x.iter().zip(quants).for_each(|(x, q)| *q = nearest(inverse * x) as u8);
    largest / most
}

fn two_bits(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    const TRIALS: Trials = Trials { from: -0.5, step: 0.1, count: 15, absolute: true };
    let mean_square = squares(x) / 256.0;
    let (mut quants, mut weights) = ([0u8; 256], [0f32; 16]);
    let (mut scales, mut minima, mut sums) = ([0f32; 16], [0f32; 16], [0f32; 16]);
    for (g, (x, quants)) in x.chunks_exact(16).zip(quants.chunks_exact_mut(16)).enumerate() {
        let trials = match importance {
            Some(importance) => {
                importance_weights(x, &importance[16 * g..16 * g + 16], mean_square, &mut weights);
                UNDER_IMPORTANCE
            }
            None => {
                weights.iter_mut().zip(x).for_each(|(w, x)| *w = x.abs());
                TRIALS
            }
        };
        sums[g] = weights.iter().fold(0.0, |sum, w| sum + w);
        (scales[g], minima[g]) = affine(x, &weights, 3, trials, quants);
    }
    let (mut scale_quants, mut min_quants) = ([0u8; 16], [0u8; 16]);
    let (scale, min) = match importance {
        Some(_) => (positive(&scales, &sums, 15, &mut scale_quants), positive(&minima, &sums, 15, &mut min_quants)),
        None => (shares(&scales, 15.0, &mut scale_quants), shares(&minima, 15.0, &mut min_quants)),
    };
    let (scale, min) = (put_f16(out, 80, scale), put_f16(out, 82, min));
    for (g, (x, quants)) in x.chunks_exact(16).zip(quants.chunks_exact_mut(16)).enumerate() {
        out[g] = scale_quants[g] | (min_quants[g] << 4);
        let (s, m) = (scale * f32::from(out[g] & 15), min * f32::from(out[g] >> 4));
        round_again(x, s, m, 0, 3, quants);
    }
    put_pairs_of_bits(&quants, &mut out[16..80]);
}

fn three_bits(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let mean_square = 2.0 * squares(x) / 256.0;
    let (mut quants, mut weights) = ([0u8; 256], [0f32; 16]);
    let (mut scales, mut sums) = ([0f32; 16], [0f32; 16]);
    for (g, (x, quants)) in x.chunks_exact(16).zip(quants.chunks_exact_mut(16)).enumerate() {
        scales[g] = match importance {
            Some(importance) => {
                importance_weights(x, &importance[16 * g..16 * g + 16], mean_square, &mut weights);
                sums[g] = weights.iter().fold(0.0, |sum, w| sum + w);
                symmetric(x, &weights, 4, quants)
            }
            None => symmetric_by_descent(x, 4, quants),
        };
    }
    // Scales of either sign in six bits, from -32 to 31.
    let mut scale_quants = [0u8; 16];
    let scale = if importance.is_some() {
        symmetric(&scales, &sums, 32, &mut scale_quants)
    } else {
        let extreme = super::rounding::extreme(&scales);
        let inverse = if extreme == 0.0 { 0.0 } else { -32.0 / extreme };
        if inverse != 0.0 {
            let quant = |scale: f32| (nearest(inverse * scale).clamp(-32, 31) + 32) as u8;
            scale_quants.iter_mut().zip(&scales).for_each(|(q, &scale)| *q = quant(scale));
        }
        if inverse == 0.0 { 0.0 } else { 1.0 / inverse }
    };
    let scale = put_f16(out, 108, scale);
    out[96..108].fill(0);
    for (g, &q) in scale_quants.iter().enumerate() {
        out[96 + g % 8] |= (q & 15) << (4 * (g / 8));
        out[104 + g % 4] |= (q >> 4) << (2 * (g / 4));
    }
    for (g, (x, quants)) in x.chunks_exact(16).zip(quants.chunks_exact_mut(16)).enumerate() {
        round_again(x, scale * f32::from(scale_quants[g] as i8 - 32), 0.0, -4, 7, quants);
    }
    out[..32].fill(0);
    for (i, q) in quants.iter().enumerate() {
        out[i % 32] |= (q >> 2) << (i / 32);
    }
    put_pairs_of_bits(&quants, &mut out[32..96]);
}

fn four_or_five_bits(x: &[f32], importance: Option<&[f32]>, most: i32, out: &mut [u8]) {
    let trials = match (importance, most) {
        (Some(_), _) => UNDER_IMPORTANCE,
        (None, 15) => Trials { from: -1.0, step: 0.1, count: 20, absolute: false },
        (None, _) => Trials { from: -0.5, step: 0.1, count: 15, absolute: false },
    };
    let mean_square = 2.0 * squares(x) / 256.0;
    let (mut quants, mut weights) = ([0u8; 256], [0f32; 32]);
    let (mut scales, mut minima, mut sums) = ([0f32; 8], [0f32; 8], [0f32; 8]);
    for (g, (x, quants)) in x.chunks_exact(32).zip(quants.chunks_exact_mut(32)).enumerate() {
        match importance {
            Some(importance) => {
                importance_weights(x, &importance[32 * g..32 * g + 32], mean_square, &mut weights);
                sums[g] = weights.iter().fold(0.0, |sum, w| sum + w);
            }
            None => {
                let size = (squares(x) / 32.0).sqrt();
                weights.iter_mut().zip(x).for_each(|(w, x)| *w = size + x.abs());
            }
        }
        (scales[g], minima[g]) = affine(x, &weights, most, trials, quants);
    }
    let (mut scale_quants, mut min_quants) = ([0u8; 8], [0u8; 8]);
    let (scale, min) = match importance {
        Some(_) => (positive(&scales, &sums, 63, &mut scale_quants), positive(&minima, &sums, 63, &mut min_quants)),
        None => (shares(&scales, 63.0, &mut scale_quants), shares(&minima, 63.0, &mut min_quants)),
    };
    for quants in [&mut scale_quants, &mut min_quants] {
        quants.iter_mut().for_each(|q| *q = (*q).min(63));
    }
    let (scale, min) = (put_f16(out, 0, scale), put_f16(out, 2, min));
    put_scales(&scale_quants, &min_quants, &mut out[4..16]);
    for (g, (x, quants)) in x.chunks_exact(32).zip(quants.chunks_exact_mut(32)).enumerate() {
        let (s, m) = (scale * f32::from(scale_quants[g]), min * f32::from(min_quants[g]));
        round_again(x, s, m, 0, most, quants);
    }
    let low_at = if most == 31 { 48 } else { 16 };
    if most == 31 {
        out[16..48].fill(0);
        for (i, q) in quants.iter().enumerate() {
            out[16 + i % 32] |= (q >> 4) << (i / 32);
        }
    }
    for (quants, out) in quants.chunks_exact(64).zip(out[low_at..].chunks_exact_mut(32)) {
        super::put_nibbles(quants, out);
    }
}

/// Eight scales and eight minima of six bits in twelve bytes: the high bits of the last four are in those of the first four.
fn put_scales(scales: &[u8; 8], minima: &[u8; 8], out: &mut [u8]) {
    for g in 0..4 {
        out[g] = scales[g] | ((scales[g + 4] >> 4) << 6);
        out[g + 4] = minima[g] | ((minima[g + 4] >> 4) << 6);
        out[g + 8] = (scales[g + 4] & 15) | (minima[g + 4] << 4);
    }
}

fn six_bits(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let (mut quants, mut scales) = ([0u8; 256], [0f32; 16]);
    for (g, (x, quants)) in x.chunks_exact(16).zip(quants.chunks_exact_mut(16)).enumerate() {
        let mut weights = [0f32; 16];
        match importance {
            Some(importance) => weights.copy_from_slice(&importance[16 * g..16 * g + 16]),
            None => weights.iter_mut().zip(x).for_each(|(w, x)| *w = x * x),
        }
        scales[g] = symmetric(x, &weights, 32, quants);
    }
    let extreme = super::rounding::extreme(&scales);
    if extreme.abs() < ZERO {
        out.fill(0);
        return;
    }
    let inverse = -128.0 / extreme;
    let scale = put_f16(out, 208, 1.0 / inverse);
    for (g, (x, quants)) in x.chunks_exact(16).zip(quants.chunks_exact_mut(16)).enumerate() {
        let quant = nearest(inverse * scales[g]).min(127) as i8;
        out[192 + g] = quant as u8;
        round_again(x, scale * f32::from(quant), 0.0, -32, 63, quants);
    }
    for (half, quants) in quants.chunks_exact(128).enumerate() {
        for l in 0..32 {
            let [a, b, c, d] = [0, 32, 64, 96].map(|part| quants[part + l]);
            out[64 * half + l] = (a & 15) | (c << 4);
            out[64 * half + l + 32] = (b & 15) | (d << 4);
            out[128 + 32 * half + l] = (a >> 4) | ((b >> 4) << 2) | ((c >> 4) << 4) | ((d >> 4) << 6);
        }
    }
}
