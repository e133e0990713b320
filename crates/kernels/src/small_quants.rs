//! Numbers of a cache in 8 or 6 bits: blocks of 16 with one bfloat16 scale. Encoding is plain arithmetic, the same on every
//! instruction set; decoding is exact.
//!
//! Six bits: eight bytes with the low four bits of numbers i and 8 + i, then four bytes with the high two bits of numbers
//! i, 4 + i, 8 + i and 12 + i; the value is the six bits less 32.

/// Numbers that share a scale.
pub const SMALL: usize = 16;

/// Bytes of a block of six bits, its scale apart.
pub const SIX_BYTES: usize = 12;

#[inline(always)]
pub(crate) fn wide(scale: u16) -> f32 {
    f32::from_bits(u32::from(scale) << 16)
}

/// The scale of a block whose largest quant is `most`, rounded up to bfloat16 so that no quant passes `most`; and its inverse.
fn scale(x: &[f32], most: f32) -> (u16, f32) {
    let largest = f32::from_bits(x.iter().fold(0, |most, x| most.max(x.abs().to_bits())));
    let exact = (largest / most).to_bits();
    let bits = if exact & 0xffff == 0 { exact >> 16 } else { (exact >> 16) + 1 } as u16;
    let inverse = if wide(bits) > 0.0 { 1.0 / wide(bits) } else { 0.0 };
    (bits, inverse)
}

/// A row to 8 bits. Its length is a multiple of 16.
pub fn to_eight(x: &[f32], quants: &mut [i8], scales: &mut [u16]) {
    assert!(x.len().is_multiple_of(SMALL) && quants.len() == x.len() && scales.len() == x.len() / SMALL);
    for ((x, q), s) in x.chunks_exact(SMALL).zip(quants.chunks_exact_mut(SMALL)).zip(scales) {
        let (bits, inverse) = scale(x, 127.0);
        *s = bits;
        for (q, x) in q.iter_mut().zip(x) {
            *q = (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
        }
    }
}

/// A row to 6 bits. Its length is a multiple of 16.
pub fn to_six(x: &[f32], bytes: &mut [u8], scales: &mut [u16]) {
    let blocks = x.len() / SMALL;
    assert!(x.len().is_multiple_of(SMALL) && bytes.len() == blocks * SIX_BYTES && scales.len() == blocks);
    for ((x, out), s) in x.chunks_exact(SMALL).zip(bytes.chunks_exact_mut(SIX_BYTES)).zip(scales) {
        let (bits, inverse) = scale(x, 31.0);
        *s = bits;
        let quant = |i: usize| ((x[i] * inverse).round_ties_even().clamp(-31.0, 31.0) as i8 + 32) as u8;
        for i in 0..8 {
            out[i] = (quant(i) & 15) | (quant(8 + i) & 15) << 4;
        }
        for i in 0..4 {
            let high = |j: usize| quant(4 * j + i) >> 4;
            out[8 + i] = high(0) | high(1) << 2 | high(2) << 4 | high(3) << 6;
        }
    }
}

/// Quants of 8 bits, or bytes of packed quants of 6 bits.
pub(crate) trait SmallQuants: Sized {
    /// A bound on the magnitudes of quants.
    const MOST: f32;

    /// Sixteen numbers, from number `at` on (a multiple of 16).
    fn lanes(quants: &[Self], scales: &[u16], at: usize) -> [f32; 16];
}

impl SmallQuants for i8 {
    const MOST: f32 = 128.0;

    #[inline(always)]
    fn lanes(quants: &[i8], scales: &[u16], at: usize) -> [f32; 16] {
        let (quants, scale) = (&quants[at..at + 16], wide(scales[at / SMALL]));
        let mut lanes = [0f32; 16];
        for i in 0..16 {
            lanes[i] = f32::from(quants[i]) * scale;
        }
        lanes
    }
}

impl SmallQuants for u8 {
    const MOST: f32 = 32.0;

    #[inline(always)]
    fn lanes(bytes: &[u8], scales: &[u16], at: usize) -> [f32; 16] {
        let (block, scale) = (&bytes[at / SMALL * SIX_BYTES..][..SIX_BYTES], wide(scales[at / SMALL]));
        let mut lanes = [0f32; 16];
        for i in 0..16 {
            let four = (block[i % 8] >> (i / 8 * 4)) & 15;
            let two = (block[8 + i % 4] >> (i / 4 * 2)) & 3;
            lanes[i] = f32::from((four | two << 4) as i8 - 32) * scale;
        }
        lanes
    }
}
