//! A weight as it lies in its file. Formats stay as stored.

use std::sync::Arc;

use kernels::formats::Format;
use kernels::{Input, Pool, Quantized};

use crate::mmap::Mapping;

/// A matrix `rows x cols` (row-major, `y = W x`), bytes borrowed from a mapped file.
#[derive(Clone)]
pub struct Weight {
    /// How its numbers are stored.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// The file it lies in.
    pub file: Arc<Mapping>,
    /// First byte in the file.
    pub offset: usize,
    /// FP8 only: factors of the stored tensor's 128x128 blocks, row-major.
    pub scales: Option<Arc<[f32]>>,
    /// Rows of the stored tensor before this view's first.
    pub scale_row: usize,
}

impl Weight {
    fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.cols).expect("checked when the weight was made")
    }

    /// For the kernels.
    pub fn matrix(&self) -> kernels::Matrix<'_> {
        let bytes = &self.file.bytes()[self.offset..self.offset + self.rows * self.row_bytes()];
        match &self.scales {
            Some(scales) => kernels::Matrix::with_scales(self.rows, self.cols, bytes, scales, self.scale_row),
            None => kernels::Matrix::new(self.format, self.rows, self.cols, bytes),
        }
    }

    /// Rows `from..from + rows` of this weight, as a weight.
    pub fn view(&self, from: usize, rows: usize) -> Weight {
        assert!(from + rows <= self.rows);
        Weight { rows, offset: self.offset + from * self.row_bytes(), scale_row: self.scale_row + from, ..self.clone() }
    }
}

/// An input for products with `weights`: rows `x[rows, cols]`, quantised if any of the weights wants that.
pub(crate) fn prepare<'a, 'w>(
    pool: &Pool,
    x: &'a [f32],
    rows: usize,
    cols: usize,
    quantized: &'a mut Quantized,
    weights: impl IntoIterator<Item = &'w Weight>,
) -> Input<'a> {
    let wanted = weights.into_iter().any(|w| w.format.wants_quantized_input());
    if wanted {
        quantized.quantize(pool, x, rows, cols);
    }
    Input { x, rows, cols, quantized: wanted.then_some(&*quantized) }
}

/// A matrix and its optional bias.
pub struct Linear {
    /// The matrix.
    pub weight: Weight,
    /// `[rows]`
    pub bias: Option<Vec<f32>>,
}

/// SwiGLU block.
pub struct GatedBlock {
    /// `[inner, hidden]`
    pub gate: Weight,
    /// `[inner, hidden]`
    pub up: Weight,
    /// `[hidden, inner]`
    pub down: Weight,
}

impl GatedBlock {
    /// Its three matrices.
    pub fn matrices(&mut self) -> [&mut Weight; 3] {
        [&mut self.gate, &mut self.up, &mut self.down]
    }
}
