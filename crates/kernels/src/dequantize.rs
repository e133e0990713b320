//! Dequantization: one stored block to unsigned quants, scales and minima, and stored numbers to f32. The meaning of every format is here.
//!
//! Quantised formats are groups of 16 or 32 weights: `w = scale * (u - OFFSET) - minimum`. All functions are plain Rust,
//! inlined into the instruction-set files so that each compiles them for its own vectors.

use crate::formats::Format;

/// f16 bits to f32, exact.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = ((bits & 0x8000) as u32) << 16;
    let magnitude = (bits & 0x7fff) as u32;
    // Shift into place and rebias by a product, exact for subnormals too.
    let value = f32::from_bits(magnitude << 13) * f32::from_bits(0x7780_0000);
    let value = if magnitude >= 0x7c00 { f32::from_bits(0x7f80_0000 | (magnitude << 13)) } else { value };
    f32::from_bits(value.to_bits() | sign)
}

/// bf16 bits to f32, exact.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// f32 to bf16 bits, to nearest even; a NaN stays a NaN.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return ((bits >> 16) | 0x40) as u16;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// E4M3 (finite, `S.1111.111` is NaN) to f32, exact.
#[inline(always)]
pub fn e4m3_to_f32(bits: u8) -> f32 {
    if bits & 0x7f == 0x7f {
        return f32::NAN;
    }
    let half = (((bits & 0x80) as u16) << 8) | (((bits & 0x7f) as u16) << 7);
    f16_to_f32(half) * 256.0
}

#[inline(always)]
fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// A quantised format: how one block unpacks.
pub trait Block {
    /// Which format this is.
    const FORMAT: Format;
    /// Weights per block.
    const ELEMS: usize;
    /// Bytes per block.
    const BYTES: usize;
    /// Weights that share a scale: 16 or 32.
    const GROUP: usize;
    /// Integer offset of the quants.
    const OFFSET: i32;
    /// Whether groups have minima.
    const HAS_MIN: bool;

    /// `bytes[BYTES]` to `u[ELEMS]`, `s[ELEMS / GROUP]`, `m[ELEMS / GROUP]` (`m` is left alone without minima).
    fn unpack(bytes: &[u8], u: &mut [u8], s: &mut [f32], m: &mut [f32]);
}

macro_rules! block {
    ($name:ident, $format:ident, $group:expr, $offset:expr, $min:expr, |$bytes:ident, $u:ident, $s:ident, $m:ident| $body:block) => {
        #[doc = concat!("The format ", stringify!($format), ".")]
        pub struct $name;
        impl Block for $name {
            const FORMAT: Format = Format::$format;
            const ELEMS: usize = Format::$format.block_elems();
            const BYTES: usize = Format::$format.block_bytes();
            const GROUP: usize = $group;
            const OFFSET: i32 = $offset;
            const HAS_MIN: bool = $min;
            #[inline(always)]
            fn unpack($bytes: &[u8], $u: &mut [u8], $s: &mut [f32], $m: &mut [f32]) {
                let $bytes = &$bytes[..Self::BYTES];
                let $u = &mut $u[..Self::ELEMS];
                let $s = &mut $s[..Self::ELEMS / Self::GROUP];
                let $m = &mut $m[..if Self::HAS_MIN { Self::ELEMS / Self::GROUP } else { 0 }];
                let _ = &$m;
                $body
            }
        }
    };
}

/// N bytes of nibbles: low halves, then high halves. Bytes are taken by value, or the compiler would leave them in scalar registers.
#[inline(always)]
fn nibbles<const N: usize>(qs: &[u8], u: &mut [u8]) {
    let qs: [u8; N] = *qs.first_chunk().expect("N bytes");
    let (low, high) = u[..2 * N].split_at_mut(N);
    for j in 0..N {
        low[j] = qs[j] & 15;
        high[j] = qs[j] >> 4;
    }
}

/// As `nibbles`, of 16 bytes, with a fifth bit for each quant from `bits`.
#[inline(always)]
fn nibbles_and_bit(qs: &[u8], bits: &[u8], u: &mut [u8]) {
    let bits: [u8; 4] = *bits.first_chunk().expect("four bytes");
    let mut fifth = [0u8; 32];
    for j in 0..32 {
        fifth[j] = if bits[j / 8] & (1 << (j % 8)) != 0 { 16 } else { 0 };
    }
    nibbles::<16>(qs, u);
    u[..32].iter_mut().zip(fifth).for_each(|(u, fifth)| *u |= fifth);
}

/// Indices to the non-linear 4-bit table, plus 128.
pub(crate) const NONLINEAR: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

/// Twice the e2m1 values, plus 12.
pub(crate) const E2M1: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

#[inline(always)]
fn table(qs: &[u8], values: &[u8; 16], u: &mut [u8]) {
    for j in 0..16 {
        u[j] = values[(qs[j] & 15) as usize];
        u[j + 16] = values[(qs[j] >> 4) as usize];
    }
}

/// The 6-bit scales and minima in the first 16 bytes of Q4_K and Q5_K.
#[inline(always)]
fn k_scales(bytes: &[u8], s: &mut [f32], m: &mut [f32]) {
    let (d, dmin, packed) = (f16_at(bytes, 0), f16_at(bytes, 2), &bytes[4..16]);
    for j in 0..8 {
        let (scale, min) = if j < 4 {
            (packed[j] & 63, packed[j + 4] & 63)
        } else {
            ((packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4), (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4))
        };
        s[j] = d * scale as f32;
        m[j] = dmin * min as f32;
    }
}

block!(Q8_0, Q8_0, 32, 128, false, |bytes, u, s, m| {
    s[0] = f16_at(bytes, 0);
    let qs: [u8; 32] = *bytes[2..].first_chunk().expect("32 bytes");
    for j in 0..32 {
        u[j] = qs[j] ^ 0x80;
    }
});

block!(Q4_0, Q4_0, 32, 8, false, |bytes, u, s, m| {
    s[0] = f16_at(bytes, 0);
    nibbles::<16>(&bytes[2..], u);
});

block!(Q4_1, Q4_1, 32, 0, true, |bytes, u, s, m| {
    s[0] = f16_at(bytes, 0);
    m[0] = -f16_at(bytes, 2);
    nibbles::<16>(&bytes[4..], u);
});

block!(Q5_0, Q5_0, 32, 16, false, |bytes, u, s, m| {
    s[0] = f16_at(bytes, 0);
    nibbles_and_bit(&bytes[6..], &bytes[2..], u);
});

block!(Q5_1, Q5_1, 32, 0, true, |bytes, u, s, m| {
    s[0] = f16_at(bytes, 0);
    m[0] = -f16_at(bytes, 2);
    nibbles_and_bit(&bytes[8..], &bytes[4..], u);
});

block!(Q2K, Q2K, 16, 0, true, |bytes, u, s, m| {
    let (d, dmin) = (f16_at(bytes, 80), f16_at(bytes, 82));
    for g in 0..16 {
        s[g] = d * (bytes[g] & 15) as f32;
        m[g] = dmin * (bytes[g] >> 4) as f32;
    }
    for half in 0..2 {
        let qs: [u8; 32] = *bytes[16 + 32 * half..].first_chunk().expect("32 bytes");
        for part in 0..4 {
            let out = &mut u[128 * half + 32 * part..128 * half + 32 * part + 32];
            for j in 0..32 {
                out[j] = (qs[j] >> (2 * part)) & 3;
            }
        }
    }
});

block!(Q3K, Q3K, 16, 4, false, |bytes, u, s, m| {
    let d = f16_at(bytes, 108);
    let packed = &bytes[96..108];
    for g in 0..16 {
        let low = if g < 8 { packed[g] & 15 } else { packed[g - 8] >> 4 };
        let high = (packed[8 + g % 4] >> (2 * (g / 4))) & 3;
        s[g] = d * ((low | (high << 4)) as i32 - 32) as f32;
    }
    let mask = &bytes[0..32];
    for half in 0..2 {
        let qs = &bytes[32 + 32 * half..64 + 32 * half];
        for part in 0..4 {
            let out = &mut u[128 * half + 32 * part..128 * half + 32 * part + 32];
            for ((o, &q), &h) in out.iter_mut().zip(qs).zip(mask) {
                *o = ((q >> (2 * part)) & 3) | (((h >> (4 * half + part)) & 1) << 2);
            }
        }
    }
});

block!(Q4K, Q4K, 32, 0, true, |bytes, u, s, m| {
    k_scales(bytes, s, m);
    for chunk in 0..4 {
        nibbles::<32>(&bytes[16 + 32 * chunk..], &mut u[64 * chunk..]);
    }
});

block!(Q5K, Q5K, 32, 0, true, |bytes, u, s, m| {
    k_scales(bytes, s, m);
    let high = &bytes[16..48];
    for chunk in 0..4 {
        let qs = &bytes[48 + 32 * chunk..80 + 32 * chunk];
        let (a, b) = u[64 * chunk..64 * chunk + 64].split_at_mut(32);
        for l in 0..32 {
            a[l] = (qs[l] & 15) | (((high[l] >> (2 * chunk)) & 1) << 4);
            b[l] = (qs[l] >> 4) | (((high[l] >> (2 * chunk + 1)) & 1) << 4);
        }
    }
});

block!(Q6K, Q6K, 16, 32, false, |bytes, u, s, m| {
    let d = f16_at(bytes, 208);
    for g in 0..16 {
        s[g] = d * (bytes[192 + g] as i8) as f32;
    }
    for half in 0..2 {
        let low = &bytes[64 * half..64 * half + 64];
        let high = &bytes[128 + 32 * half..160 + 32 * half];
        let out = &mut u[128 * half..128 * half + 128];
        for l in 0..32 {
            out[l] = (low[l] & 15) | ((high[l] & 3) << 4);
            out[l + 32] = (low[l + 32] & 15) | (((high[l] >> 2) & 3) << 4);
            out[l + 64] = (low[l] >> 4) | (((high[l] >> 4) & 3) << 4);
            out[l + 96] = (low[l + 32] >> 4) | ((high[l] >> 6) << 4);
        }
    }
});

block!(Iq4Nl, Iq4Nl, 32, 128, false, |bytes, u, s, m| {
    s[0] = f16_at(bytes, 0);
    table(&bytes[2..18], &NONLINEAR, u);
});

block!(Iq4Xs, Iq4Xs, 32, 128, false, |bytes, u, s, m| {
    let d = f16_at(bytes, 0);
    let high = u16::from_le_bytes([bytes[2], bytes[3]]);
    for g in 0..8 {
        let low = (bytes[4 + g / 2] >> (4 * (g % 2))) & 15;
        let scale = low as i32 | (((high >> (2 * g)) & 3) as i32) << 4;
        s[g] = d * (scale - 32) as f32;
        table(&bytes[8 + 16 * g..24 + 16 * g], &NONLINEAR, &mut u[32 * g..32 * g + 32]);
    }
});

block!(Mxfp4, Mxfp4, 32, 12, false, |bytes, u, s, m| {
    // Half of 2^(e - 127), as the quants are doubled.
    let e = bytes[0] as u32;
    s[0] = f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 });
    table(&bytes[1..17], &E2M1, u);
});

/// Run `$body` with `$B` bound to the type of a quantised `$format`.
macro_rules! with_format {
    ($format:expr, $B:ident, $body:expr) => {{
        macro_rules! run {
            ($name:ident) => {{
                type $B = $crate::dequantize::$name;
                $body
            }};
        }
        use $crate::Format;
        match $format {
            Format::Q4K => run!(Q4K),
            Format::Q5K => run!(Q5K),
            Format::Q6K => run!(Q6K),
            Format::Q2K => run!(Q2K),
            Format::Q3K => run!(Q3K),
            Format::Iq4Xs => run!(Iq4Xs),
            Format::Q8_0 => run!(Q8_0),
            Format::Q4_0 => run!(Q4_0),
            Format::Q4_1 => run!(Q4_1),
            Format::Q5_0 => run!(Q5_0),
            Format::Q5_1 => run!(Q5_1),
            Format::Iq4Nl => run!(Iq4Nl),
            Format::Mxfp4 => run!(Mxfp4),
            Format::F32 | Format::F16 | Format::Bf16 | Format::F8E4M3 => unreachable!("not made of blocks"),
        }
    }};
}
pub(crate) use with_format;

/// A whole quantised row to f32.
#[inline(always)]
pub fn decode_blocks<B: Block>(bytes: &[u8], out: &mut [f32]) {
    let mut u = [0u8; 256];
    let (mut s, mut m) = ([0f32; 16], [0f32; 16]);
    for (block, out) in bytes.chunks_exact(B::BYTES).zip(out.chunks_exact_mut(B::ELEMS)) {
        B::unpack(block, &mut u, &mut s, &mut m);
        for (i, (o, &q)) in out.iter_mut().zip(&u).enumerate() {
            let g = i / B::GROUP;
            let w = s[g] * (q as i32 - B::OFFSET) as f32;
            *o = if B::HAS_MIN { w - m[g] } else { w };
        }
    }
}

/// A whole row of float numbers to f32; `scales` (FP8) holds one factor per 128 columns.
#[inline(always)]
pub fn decode_floats(format: Format, bytes: &[u8], scales: &[f32], out: &mut [f32]) {
    match format {
        Format::F32 => {
            for (o, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        Format::F16 => {
            for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *o = f16_to_f32(u16::from_le_bytes([b[0], b[1]]));
            }
        }
        Format::Bf16 => {
            for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *o = bf16_to_f32(u16::from_le_bytes([b[0], b[1]]));
            }
        }
        Format::F8E4M3 => {
            for (i, (o, &b)) in out.iter_mut().zip(bytes).enumerate() {
                *o = e4m3_to_f32(b) * scales[i / 128];
            }
        }
        other => unreachable!("{other:?} is not a float"),
    }
}
