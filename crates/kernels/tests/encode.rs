//! What is encoded is, byte for byte, what the programs that define the formats write: the Python package `gguf` and llama.cpp's quantizers, whose bytes are in
//! `data/encoded.safetensors` (`data/README.md`).

use farthing_kernels::encode::{encode_fp8, encode_row, f32_to_e4m3, f32_to_f16};
use farthing_kernels::{Format, Matrix};
use proptest::prelude::*;
use safetensors::SafeTensors;

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn encoded(format: Format, x: &[f32], cols: usize, importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0xa5; x.len() / cols * format.row_bytes(cols).unwrap()];
    for (x, out) in x.chunks(cols).zip(out.chunks_mut(format.row_bytes(cols).unwrap())) {
        encode_row(format, x, importance, out);
    }
    out
}

/// The file that `ENCODED` names instead, which may be much larger.
fn reference() -> Vec<u8> {
    match std::env::var_os("ENCODED") {
        Some(path) => std::fs::read(path).unwrap(),
        None => include_bytes!("data/encoded.safetensors").to_vec(),
    }
}

#[test]
fn rows_are_encoded_to_the_reference_bytes() {
    let file = reference();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let input = tensors.tensor("input").unwrap();
    let (cols, x) = (input.shape()[1], floats(input.data()));
    let importance = floats(tensors.tensor("importance").unwrap().data());
    let (mut plain, mut weighed) = (0, 0);
    for format in Format::ALL {
        for (name, importance, seen) in [
            (format.name().to_string(), None, &mut plain),
            (format!("{}.importance", format.name()), Some(&importance[..]), &mut weighed),
        ] {
            let Ok(wanted) = tensors.tensor(&name) else { continue };
            let found = encoded(format, &x, cols, importance);
            let block = format.block_bytes();
            let differ = found.chunks(block).zip(wanted.data().chunks(block)).position(|(a, b)| a != b);
            assert!(found.len() == wanted.data().len() && differ.is_none(), "{name}: block {differ:?}");
            *seen += 1;
        }
    }
    assert_eq!((plain, weighed), (15, 11));
}

#[test]
fn f16_to_nearest_even() {
    for (x, bits) in [
        (0.0, 0u16),
        (-0.0, 0x8000),
        (1.0, 0x3c00),
        (65504.0, 0x7bff),
        (65519.996, 0x7bff),
        (65520.0, 0x7c00),
        (-1e30, 0xfc00),
        (f32::INFINITY, 0x7c00),
        (5.9604645e-8, 1),
        (2.9802322e-8, 0), // half of the smallest: ties to even
        (2.980233e-8, 1),
        (8.940697e-8, 2), // one and a half of it
        (6.103_515_6e-5, 0x0400),
        (6.100e-5, 0x03ff),
        (1.000_488_3, 0x3c00), // between two: ties to even
        (1.000_488_4, 0x3c01),
    ] {
        assert_eq!(f32_to_f16(x), bits, "{x}");
    }
    assert_eq!(f32_to_f16(f32::NAN), 0x7e00);
}

fn e4m3(byte: u8) -> f32 {
    let mut out = [0f32; 1];
    Matrix::with_scales(1, 1, &[byte], &[1.0], 0).decode_row(0, &mut out);
    out[0]
}

proptest! {
    #[test]
    fn e4m3_is_the_nearest(x in prop_oneof![-500f32..500.0, -0.1f32..0.1]) {
        let found = f32_to_e4m3(x);
        let all = (0..=255u8).filter(|&byte| byte & 0x7f != 0x7f);
        let least = all.clone().map(|byte| (e4m3(byte) - x).abs()).fold(f32::MAX, f32::min);
        prop_assert_eq!((e4m3(found) - x).abs(), least);
        // Of two that are equally near, the even one.
        let near = all.filter(|&byte| (e4m3(byte) - x).abs() == least && byte & 0x80 == found & 0x80).count();
        prop_assert!(near == 1 || found & 1 == 0, "{x}: {found}");
    }

    /// Every format stays within its step of the numbers, whatever they are.
    #[test]
    fn what_is_decoded_is_near(seed in any::<u64>(), size in -6i32..14) {
        let mut state = seed | 1;
        let x: Vec<f32> = (0..512).map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f32 / 8388608.0 - 1.0) * 2f32.powi(size)
        }).collect();
        let importance: Vec<f32> = x.iter().rev().map(|x| x.abs()).collect();
        for format in Format::ALL.into_iter().filter(|&format| format != Format::F8E4M3) {
            for importance in [None, Some(&importance[..])] {
                let bytes = encoded(format, &x, 512, importance);
                let mut decoded = vec![0f32; 512];
                Matrix::new(format, 1, 512, &bytes).decode_row(0, &mut decoded);
                let square = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>();
                let lost = square(&mut x.iter().zip(&decoded).map(|(a, b)| a - b)) / square(&mut x.iter().copied());
                let most = match format.row_bytes(512).unwrap() * 8 / 512 {
                    0..=2 => 0.2,
                    3 => 0.06,
                    4 => 0.03,
                    5..=6 => 0.005,
                    _ => 0.0002,
                };
                prop_assert!(lost < most, "{} loses {lost} of {most} at 2^{size}", format.name());
            }
        }
    }
}

#[test]
fn fp8_has_a_factor_for_each_block() {
    let (rows, cols) = (3, 130);
    let x: Vec<f32> =
        (0..rows * cols).map(|i| (i as f32 - 190.0) * if i % cols < 128 { 1.0 } else { 1000.0 }).collect();
    let (mut bytes, mut factors) = (vec![0u8; rows * cols], vec![0f32; 2]);
    encode_fp8(&x, cols, &mut bytes, &mut factors);
    assert_eq!(factors, [197.0 / 448.0, 199_000.0 / 448.0]);
    let matrix = Matrix::with_scales(rows, cols, &bytes, &factors, 0);
    let mut row = vec![0f32; cols];
    for (r, x) in x.chunks(cols).enumerate() {
        matrix.decode_row(r, &mut row);
        for (c, (a, b)) in x.iter().zip(&row).enumerate() {
            let step = factors[c / 128] * 0.001;
            assert!((a - b).abs() <= a.abs() / 16.0 + step, "row {r} column {c}: {a} became {b}");
        }
    }
    // A block of zeros has a factor that is a number above 0.
    let (mut bytes, mut factors) = (vec![9u8; 5], vec![0f32; 1]);
    encode_fp8(&[0.0; 5], 5, &mut bytes, &mut factors);
    assert_eq!((bytes, factors), (vec![0; 5], vec![1.0]));
}
