//! Block formats decode to what another implementation says they hold, bit for bit.

use farthing_kernels::{Format, Matrix};
use safetensors::SafeTensors;

#[test]
fn blocks_decode_to_the_reference_values() {
    let file = include_bytes!("data/blocks.safetensors");
    let tensors = SafeTensors::deserialize(file).unwrap();
    let mut seen = 0;
    for format in Format::ALL {
        let Ok(bytes) = tensors.tensor(&format!("{}.bytes", format.name())) else { continue };
        let values = tensors.tensor(&format!("{}.values", format.name())).unwrap();
        let values: Vec<f32> =
            values.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let matrix = Matrix::new(format, 1, values.len(), bytes.data());
        let mut decoded = vec![0f32; values.len()];
        for table in farthing_kernels::dispatch::tables() {
            farthing_kernels::dispatch::with_table(table, || matrix.decode_row(0, &mut decoded));
            for (i, (a, b)) in decoded.iter().zip(&values).enumerate() {
                assert!(a.to_bits() == b.to_bits(), "{} {} value {i}: {a} is not {b}", table.name, format.name());
            }
        }
        seen += 1;
    }
    assert_eq!(seen, 14);
}

#[test]
fn e4m3_has_448_subnormals_and_nan() {
    let decode = |byte: u8| {
        let mut out = [0f32; 1];
        Matrix::with_scales(1, 1, &[byte], &[1.0], 0).decode_row(0, &mut out);
        out[0]
    };
    assert_eq!(decode(0x7e), 448.0);
    assert_eq!(decode(0xfe), -448.0);
    assert_eq!(decode(0x01), 0.001953125);
    assert_eq!(decode(0x38), 1.0);
    assert!(decode(0x7f).is_nan() && decode(0xff).is_nan());
}
