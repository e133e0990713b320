//! Encoding: rows of f32 to the formats in which weights are stored, the inverse of `dequantize`.
//!
//! The bytes of block formats are those that llama.cpp's quantizers write, with and without an importance matrix, and those of the Python package `gguf` for
//! the formats that it writes. Plain arithmetic in one order, so every machine writes the same bytes.

mod blocks_of_256;
mod blocks_of_32;
mod nonlinear;
mod rounding;

use crate::dequantize::f32_to_bf16;
use crate::formats::Format;

/// Side of the blocks that share a factor in FP8.
pub const FP8_BLOCK: usize = 128;

/// Largest number of E4M3.
const E4M3_MAX: f32 = 448.0;

/// f32 to f16 bits, to nearest even; what is too large becomes infinite, a NaN stays one.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> u16 {
    let sign = ((x.to_bits() >> 16) & 0x8000) as u16;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let rounded = if magnitude > 0x7f80_0000 {
        0x7e00
    } else if magnitude >= 0x4780_0000 {
        0x7c00
    } else if magnitude < 0x3880_0000 {
        // Subnormal: a sum with 1/2 leaves units of 2^-24 in the lowest bits.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0x3f00_0000
    } else {
        (magnitude - 0x3800_0000 + 0xfff + ((magnitude >> 13) & 1)) >> 13
    };
    sign | rounded as u16
}

/// f32 to E4M3 bits, to nearest even; what is too large becomes 448, a NaN stays one.
#[inline(always)]
pub fn f32_to_e4m3(x: f32) -> u8 {
    let sign = ((x.to_bits() >> 24) & 0x80) as u8;
    let magnitude = x.abs();
    let rounded = if x.is_nan() {
        0x7f
    } else if magnitude >= E4M3_MAX {
        0x7e
    } else if magnitude < 0.015625 {
        // Subnormal: units of 2^-9; eight of them are the smallest normal number.
        (magnitude * 512.0).round_ties_even() as u8
    } else {
        let bits = magnitude.to_bits();
        (((bits + 0x7_ffff + ((bits >> 20) & 1)) >> 20) - (120 << 3)).min(0x7e) as u8
    };
    sign | rounded
}

/// A row in a format, but for FP8, whose factors are of blocks. `importance` weighs the errors of each column; it counts in block formats but Q8_0 and
/// MXFP4.
///
/// # Panics
/// For FP8, and where lengths are not those of the row.
pub fn encode_row(format: Format, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    assert_eq!(format.row_bytes(x.len()), Some(out.len()), "bytes of the row");
    assert!(importance.is_none_or(|importance| importance.len() == x.len()), "one importance a column");
    match format {
        Format::F32 => x.iter().zip(out.chunks_exact_mut(4)).for_each(|(x, o)| o.copy_from_slice(&x.to_le_bytes())),
        Format::F16 => two_bytes(x, out, f32_to_f16),
        Format::Bf16 => two_bytes(x, out, f32_to_bf16),
        Format::F8E4M3 => panic!("FP8 is encoded by blocks of rows"),
        Format::Q8_0 | Format::Mxfp4 => blocks_of_32::encode(format, x, None, out),
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 => blocks_of_32::encode(format, x, importance, out),
        Format::Iq4Nl | Format::Iq4Xs => nonlinear::encode(format, x, importance, out),
        Format::Q2K | Format::Q3K | Format::Q4K | Format::Q5K | Format::Q6K => {
            blocks_of_256::encode(format, x, importance, out);
        }
    }
}

fn two_bytes(x: &[f32], out: &mut [u8], encode: fn(f32) -> u16) {
    x.iter().zip(out.chunks_exact_mut(2)).for_each(|(&x, o)| o.copy_from_slice(&encode(x).to_le_bytes()));
}

/// At most 128 rows in FP8, `out[rows, cols]`, and the factors of their blocks of 128 columns: the largest number of a block becomes 448.
///
/// # Panics
/// Where lengths are not those of the rows, or there are more than 128.
pub fn encode_fp8(x: &[f32], cols: usize, out: &mut [u8], factors: &mut [f32]) {
    assert!(x.len() == out.len() && x.len().is_multiple_of(cols) && x.len() / cols <= FP8_BLOCK, "rows of a block");
    assert_eq!(factors.len(), cols.div_ceil(FP8_BLOCK), "one factor for 128 columns");
    for (block, factor) in factors.iter_mut().enumerate() {
        let columns = block * FP8_BLOCK..(block * FP8_BLOCK + FP8_BLOCK).min(cols);
        let largest = x.chunks(cols).flat_map(|row| &row[columns.clone()]).fold(0f32, |most, x| most.max(x.abs()));
        // The quotient of numbers that are nearly nothing is nothing.
        *factor = Some(largest / E4M3_MAX).filter(|factor| *factor > 0.0).unwrap_or(1.0);
        for (row, out) in x.chunks(cols).zip(out.chunks_mut(cols)) {
            for (x, o) in row[columns.clone()].iter().zip(&mut out[columns.clone()]) {
                *o = f32_to_e4m3(x / *factor);
            }
        }
    }
}

/// A scale at its place in a block, and what it is once it is rounded.
fn put_f16(out: &mut [u8], at: usize, x: f32) -> f32 {
    let bits = f32_to_f16(x);
    out[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    crate::dequantize::f16_to_f32(bits)
}

/// Pairs of quants in bytes: those of the first half low, those of the second high.
fn put_nibbles(quants: &[u8], out: &mut [u8]) {
    let (low, high) = quants.split_at(quants.len() / 2);
    out.iter_mut().zip(low.iter().zip(high)).for_each(|(o, (l, h))| *o = (l & 15) | (h << 4));
}
