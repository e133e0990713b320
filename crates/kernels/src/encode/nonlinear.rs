//! Indices into the non-linear table: `IQ4_NL` and `IQ4_XS`.

use super::rounding::{ZERO, extreme, importance_weights, nearest, squares};
use super::{put_f16, put_nibbles};
use crate::dequantize::NONLINEAR;
use crate::formats::Format;

/// The table's values, from -127 to 113.
fn value(index: u8) -> f32 {
    f32::from(i16::from(NONLINEAR[index as usize]) - 128)
}

/// The index of the nearest value; of two that are equally near, the larger one.
fn nearest_index(x: f32) -> u8 {
    let above = (0..16).find(|&index| x < value(index)).unwrap_or(16);
    match above {
        0 => 0,
        16 => 15,
        above if x - value(above - 1) < value(above) - x => above - 1,
        above => above,
    }
}

pub(super) fn encode(format: Format, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let (elems, bytes) = (format.block_elems(), format.block_bytes());
    for (i, (x, out)) in x.chunks_exact(elems).zip(out.chunks_exact_mut(bytes)).enumerate() {
        let importance = importance.map(|importance| &importance[elems * i..elems * (i + 1)]);
        let mean_square = squares(x) * (2.0 / elems as f32);
        let mut scales = [0f32; 8];
        for (g, (x, scale)) in x.chunks_exact(32).zip(&mut scales).enumerate() {
            let mut weights = [0f32; 32];
            match importance {
                Some(importance) => {
                    importance_weights(x, &importance[32 * g..32 * g + 32], mean_square, &mut weights);
                }
                None => weights.iter_mut().zip(x).for_each(|(w, x)| *w = x * x),
            }
            *scale = best_scale(x, &weights);
        }
        match format {
            Format::Iq4Nl => {
                put_f16(out, 0, scales[0]);
                put_indices(x, scales[0], &mut out[2..]);
            }
            _ => scales_of_six_bits(x, &scales, out),
        }
    }
}

/// The best of sixteen scales: one that maps the extreme to the table's first value, and those that map it up to seven beside.
fn best_scale(x: &[f32], weights: &[f32]) -> f32 {
    let extreme = extreme(x);
    if extreme.abs() < ZERO {
        return 0.0;
    }
    let fit = |inverse: f32| {
        let (mut xq, mut qq) = (0f32, 0f32);
        for (&x, &w) in x.iter().zip(weights) {
            let q = value(nearest_index(inverse * x));
            xq += w * q * x;
            qq += w * q * q;
        }
        (xq, qq)
    };
    let (xq, qq) = fit(1.0 / (-extreme / value(0)));
    let mut scale = if qq > 0.0 { xq / qq } else { 0.0 };
    let mut best = scale * xq;
    for step in -7i16..=7 {
        let (xq, qq) = fit((f32::from(step) + value(0)) / extreme);
        if qq > 0.0 && xq * xq > best * qq {
            scale = xq / qq;
            best = scale * xq;
        }
    }
    scale
}

fn put_indices(x: &[f32], scale: f32, out: &mut [u8]) {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut indices = [0u8; 32];
    indices.iter_mut().zip(x).for_each(|(index, x)| *index = nearest_index(inverse * x));
    put_nibbles(&indices, out);
}

/// A block of `IQ4_XS`: the groups' scales in six bits, from -32 to 31.
fn scales_of_six_bits(x: &[f32], scales: &[f32; 8], out: &mut [u8]) {
    let scale = -extreme(scales) / 32.0;
    // Indices are chosen by the scale as it is, not as it is stored.
    put_f16(out, 0, scale);
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut high = 0u16;
    out[4..8].fill(0);
    for (g, x) in x.chunks_exact(32).enumerate() {
        let quant = nearest(inverse * scales[g]).clamp(-32, 31);
        put_indices(x, scale * quant as f32, &mut out[8 + 16 * g..24 + 16 * g]);
        let bits = (quant + 32) as u16;
        out[4 + g / 2] |= ((bits & 15) as u8) << (4 * (g % 2));
        high |= (bits >> 4) << (2 * g);
    }
    out[2..4].copy_from_slice(&high.to_le_bytes());
}
