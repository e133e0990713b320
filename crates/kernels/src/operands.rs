//! What kernels read and write, borrowed: weights, activations, pages of a cache, a running softmax.

use crate::formats::Format;
use crate::panels::Quantized;
use crate::small_quants::{SIX_BYTES, SMALL, SmallQuants};

/// A borrowed weight: `rows x cols`, row-major, blocks of `format`. The bytes may lie at any address.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// How numbers are stored.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// `rows * format.row_bytes(cols)` bytes.
    pub bytes: &'a [u8],
    /// FP8: factors of the tensor's 128x128 blocks, row-major, `ceil(cols / 128)` a row.
    pub scales: Option<&'a [f32]>,
    /// Rows of the tensor before this matrix's first: where it stands in the grid of factors.
    pub scale_row: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix over `bytes`.
    ///
    /// # Panics
    /// When sizes do not agree.
    pub fn new(format: Format, rows: usize, cols: usize, bytes: &'a [u8]) -> Self {
        assert!(format != Format::F8E4M3 || rows == 0, "FP8 comes with scales: use with_scales");
        let matrix = Matrix { format, rows, cols, bytes, scales: None, scale_row: 0 };
        matrix.check();
        matrix
    }

    /// An FP8 matrix that starts `scale_row` rows into its tensor.
    ///
    /// # Panics
    /// When sizes do not agree.
    pub fn with_scales(rows: usize, cols: usize, bytes: &'a [u8], scales: &'a [f32], scale_row: usize) -> Self {
        assert_eq!(Some(bytes.len()), rows.checked_mul(cols));
        assert!(scales.len() >= (scale_row + rows).div_ceil(128) * cols.div_ceil(128), "scales cover the matrix");
        Matrix { format: Format::F8E4M3, rows, cols, bytes, scales: Some(scales), scale_row }
    }

    /// Fields are public, and kernels trust that rows are whole blocks.
    pub(crate) fn check(&self) {
        let row = self.format.row_bytes(self.cols).expect("a row is a whole number of blocks");
        assert_eq!(Some(self.bytes.len()), row.checked_mul(self.rows), "{:?} {}x{}", self.format, self.rows, self.cols);
    }

    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &'a [u8] {
        let bytes = self.cols / self.format.block_elems() * self.format.block_bytes();
        &self.bytes[row * bytes..(row + 1) * bytes]
    }

    /// Bytes from `row` on.
    pub(crate) fn rows_from(&self, row: usize) -> &'a [u8] {
        &self.bytes[self.bytes.len() / self.rows.max(1) * row..]
    }

    #[inline(always)]
    pub(crate) fn scales_of_row(&self, row: usize) -> &'a [f32] {
        let blocks = self.cols.div_ceil(128);
        match self.scales {
            Some(scales) => &scales[(self.scale_row + row) / 128 * blocks..][..blocks],
            None => &[],
        }
    }
}

/// What a product multiplies with: `rows x cols` f32, and the same rows quantised for weights that want it.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// `[rows, cols]`
    pub x: &'a [f32],
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// The same rows; needed where `Format::wants_quantized_input`.
    pub quantized: Option<&'a Quantized>,
}

/// Which input rows a product uses.
#[derive(Clone, Copy)]
pub enum Rows<'a> {
    /// All of them.
    All,
    /// From, count.
    Range(usize, usize),
    /// These.
    List(&'a [u32]),
}

impl Rows<'_> {
    /// How many, of `total`.
    #[inline(always)]
    pub fn len(self, total: usize) -> usize {
        match self {
            Rows::All => total,
            Rows::Range(_, count) => count,
            Rows::List(list) => list.len(),
        }
    }

    /// Which row of the input is row `i` of these.
    #[inline(always)]
    pub fn at(self, i: usize) -> usize {
        match self {
            Rows::All => i,
            Rows::Range(from, _) => from + i,
            Rows::List(list) => list[i] as usize,
        }
    }
}

/// Both sides of a product.
#[derive(Clone, Copy)]
pub(crate) struct Sides<'a> {
    pub w: &'a Matrix<'a>,
    pub input: &'a Input<'a>,
    /// Which rows of the input.
    pub rows: Rows<'a>,
}

impl<'a> Sides<'a> {
    /// How many input rows.
    #[inline(always)]
    pub fn inputs(self) -> usize {
        self.rows.len(self.input.rows)
    }

    /// Row `i` of the input's.
    #[inline(always)]
    pub fn row(self, i: usize) -> &'a [f32] {
        let cols = self.input.cols;
        &self.input.x[self.rows.at(i) * cols..][..cols]
    }

    /// The input, quantised.
    #[inline(always)]
    pub fn quantized(self) -> &'a Quantized {
        self.input.quantized.expect("a quantised weight needs quantised input")
    }
}

/// Numbers of a cache.
#[derive(Clone, Copy)]
pub enum Numbers<'a> {
    /// 32 bits.
    F32(&'a [f32]),
    /// bfloat16 bits.
    Bf16(&'a [u16]),
    /// 8 bits, and a bfloat16 scale for 16.
    Eight(&'a [i8], &'a [u16]),
    /// 6 bits (12 bytes for 16), and a bfloat16 scale for 16.
    Six(&'a [u8], &'a [u16]),
}

impl<'a> Numbers<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Numbers::F32(x) => x.len(),
            Numbers::Bf16(x) => x.len(),
            Numbers::Eight(x, _) => x.len(),
            Numbers::Six(x, _) => x.len() / SIX_BYTES * SMALL,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `len` numbers from `at` on; of 8 and 6 bits whole blocks of 16.
    #[inline(always)]
    pub fn part(self, at: usize, len: usize) -> Numbers<'a> {
        let blocks = at / SMALL..(at + len) / SMALL;
        let whole = || assert!(at.is_multiple_of(SMALL) && len.is_multiple_of(SMALL), "whole blocks");
        match self {
            Numbers::F32(x) => Numbers::F32(&x[at..at + len]),
            Numbers::Bf16(x) => Numbers::Bf16(&x[at..at + len]),
            Numbers::Eight(x, s) => {
                whole();
                Numbers::Eight(&x[at..at + len], &s[blocks])
            }
            Numbers::Six(x, s) => {
                whole();
                Numbers::Six(&x[blocks.start * SIX_BYTES..blocks.end * SIX_BYTES], &s[blocks])
            }
        }
    }

    /// All from `at` on.
    pub fn skip(self, at: usize) -> Numbers<'a> {
        self.part(at, self.len() - at)
    }
}

/// The first numbers of `x` as f32.
pub fn widen(x: Numbers, out: &mut [f32]) {
    match x {
        Numbers::F32(x) => out.copy_from_slice(&x[..out.len()]),
        Numbers::Bf16(x) => crate::bf16_to_f32(&x[..out.len()], out),
        Numbers::Eight(x, s) => widen_small(x, s, out),
        Numbers::Six(x, s) => widen_small(x, s, out),
    }
}

fn widen_small<Q: SmallQuants>(x: &[Q], scales: &[u16], out: &mut [f32]) {
    for (c, out) in out.chunks_mut(SMALL).enumerate() {
        out.copy_from_slice(&Q::lanes(x, scales, SMALL * c)[..out.len()]);
    }
}

/// A page of keys and values. Row i of the keys starts at `i * key_stride`, of the values at `i * value_stride`.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    /// Keys.
    pub keys: Numbers<'a>,
    /// Numbers from one key to the next.
    pub key_stride: usize,
    /// Values.
    pub values: Numbers<'a>,
    /// Numbers from one value to the next.
    pub value_stride: usize,
    /// Keys to see, at most `PAGE_MAX`.
    pub count: usize,
    /// How many of them the first row of queries sees; every further row sees one more, up to `count`. `Keys::ALL` for all;
    /// what is below zero (a row before the page) sees none.
    pub first_sees: isize,
    /// Keys and values of the page that will be seen next, laid out as these: hints to fetch them.
    pub next: Option<(Numbers<'a>, Numbers<'a>)>,
}

impl Keys<'_> {
    /// Every row sees every key.
    pub const ALL: isize = isize::MAX;

    /// How many keys query `h` sees.
    #[inline(always)]
    pub(crate) fn seen_by(&self, queries: &Queries, h: usize) -> usize {
        let row = (h / queries.heads) as isize;
        self.first_sees.saturating_add(row).clamp(0, self.count as isize) as usize
    }
}

/// Queries of one or more consecutive rows: heads of a row lie side by side.
#[derive(Clone, Copy)]
pub struct Queries<'a> {
    /// The numbers.
    pub q: &'a [f32],
    /// Heads of a row that share the keys.
    pub heads: usize,
    /// Numbers from one row to the next.
    pub stride: usize,
}

impl<'a> Queries<'a> {
    /// Heads of one row.
    pub fn one(q: &'a [f32], heads: usize) -> Self {
        Queries { q, heads, stride: 0 }
    }

    #[inline(always)]
    pub(crate) fn query(&self, h: usize, key: usize) -> &'a [f32] {
        let from = h / self.heads * self.stride + h % self.heads * key;
        &self.q[from..from + key]
    }
}

/// A running softmax: per head the largest score, the sum of exponentials and the weighted values.
pub struct Attended<'a> {
    /// `[heads]`, minus infinity at first.
    pub max: &'a mut [f32],
    /// `[heads]`, 0 at first.
    pub sum: &'a mut [f32],
    /// `[heads * value]`, 0 at first.
    pub acc: &'a mut [f32],
}

impl Attended<'_> {
    /// Back to the state before any key.
    pub fn reset(&mut self) {
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.acc.fill(0.0);
    }
}
