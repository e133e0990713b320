//! Block formats in which weights are stored: sizes and names. A row is a whole number of blocks.

/// How the numbers of a weight are stored. Layouts of the quantised formats are those of GGUF (ggml block structs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// 32-bit float.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit float (4 exponent, 3 mantissa bits, no infinities), scaled by a grid of f32, one per 128x128 block.
    F8E4M3,
    /// 32 x i8, one f16 scale.
    Q8_0,
    /// 32 x 4 bit, one f16 scale, centre 8.
    Q4_0,
    /// 32 x 4 bit, f16 scale and minimum.
    Q4_1,
    /// 32 x 5 bit, one f16 scale, centre 16.
    Q5_0,
    /// 32 x 5 bit, f16 scale and minimum.
    Q5_1,
    /// 256 x 2 bit, 16 groups with 4-bit scales and minima.
    Q2K,
    /// 256 x 3 bit, 16 groups with 6-bit scales.
    Q3K,
    /// 256 x 4 bit, 8 groups with 6-bit scales and minima.
    Q4K,
    /// 256 x 5 bit, 8 groups with 6-bit scales and minima.
    Q5K,
    /// 256 x 6 bit, 16 groups with 8-bit scales.
    Q6K,
    /// 32 x 4 bit indices into a fixed non-linear table, one f16 scale.
    Iq4Nl,
    /// 256 x 4 bit indices into the same table, 8 groups with 6-bit scales.
    Iq4Xs,
    /// 32 x 4-bit floats (e2m1) with one power-of-two scale (e8m0).
    Mxfp4,
}

/// Every format in order of declaration: its name, the numbers of a block, and the bytes of one.
const TABLE: [(Format, &str, usize, usize); 17] = [
    (Format::F32, "F32", 1, 4),
    (Format::F16, "F16", 1, 2),
    (Format::Bf16, "BF16", 1, 2),
    (Format::F8E4M3, "FP8", 1, 1),
    (Format::Q8_0, "Q8_0", 32, 34),
    (Format::Q4_0, "Q4_0", 32, 18),
    (Format::Q4_1, "Q4_1", 32, 20),
    (Format::Q5_0, "Q5_0", 32, 22),
    (Format::Q5_1, "Q5_1", 32, 24),
    (Format::Q2K, "Q2_K", 256, 84),
    (Format::Q3K, "Q3_K", 256, 110),
    (Format::Q4K, "Q4_K", 256, 144),
    (Format::Q5K, "Q5_K", 256, 176),
    (Format::Q6K, "Q6_K", 256, 210),
    (Format::Iq4Nl, "IQ4_NL", 32, 18),
    (Format::Iq4Xs, "IQ4_XS", 256, 136),
    (Format::Mxfp4, "MXFP4", 32, 17),
];

impl Format {
    /// Every format, in order of declaration.
    pub const ALL: [Format; TABLE.len()] = {
        let (mut all, mut i) = ([Format::F32; TABLE.len()], 0);
        while i < all.len() {
            all[i] = TABLE[i].0;
            assert!(all[i] as usize == i, "a format's row is found by its number");
            i += 1;
        }
        all
    };

    /// The name people know it by.
    pub const fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    /// Numbers per block.
    pub const fn block_elems(self) -> usize {
        TABLE[self as usize].2
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        TABLE[self as usize].3
    }

    /// Bytes of a row of `cols` numbers; `None` when `cols` is not a whole number of blocks or the size overflows.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_elems()) {
            return None;
        }
        (cols / self.block_elems()).checked_mul(self.block_bytes())
    }

    /// Whether products with this format take their input in 8-bit blocks (`Quantized`) rather than f32.
    pub const fn wants_quantized_input(self) -> bool {
        !matches!(self, Format::F32 | Format::F16 | Format::Bf16 | Format::F8E4M3)
    }
}
