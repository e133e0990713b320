//! A weight as it lies in its file, and the set of weights a model needs. Formats stay as stored.

use std::sync::Arc;

use kernels::formats::Format;

use crate::attention::AttentionLayer;
use crate::feed_forward::FeedForwardLayer;
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
    /// Bytes it takes in its file.
    pub fn byte_len(&self) -> usize {
        self.rows * self.format.row_bytes(self.cols).expect("checked when the weight was made")
    }

    /// For the kernels.
    pub fn matrix(&self) -> kernels::Matrix<'_> {
        let bytes = &self.file.bytes()[self.offset..self.offset + self.byte_len()];
        match &self.scales {
            Some(scales) => kernels::Matrix::with_scales(self.rows, self.cols, bytes, scales, self.scale_row),
            None => kernels::Matrix::new(self.format, self.rows, self.cols, bytes),
        }
    }

    /// Rows `from..from + rows` of this weight, as a weight.
    pub fn view(&self, from: usize, rows: usize) -> Weight {
        assert!(from + rows <= self.rows);
        let row_bytes = self.format.row_bytes(self.cols).expect("checked when the weight was made");
        Weight { rows, offset: self.offset + from * row_bytes, scale_row: self.scale_row + from, ..self.clone() }
    }
}

/// Everything `Transformer` multiplies with. Vectors (norms, biases) are widened to f32 at load: they are small.
pub struct Weights {
    /// `[vocab, hidden]`
    pub embedding: Weight,
    /// One per layer.
    pub layers: Vec<LayerWeights>,
    /// `[hidden]`
    pub final_norm: Vec<f32>,
    /// `[vocab, hidden]`; the embedding again when tied.
    pub head: Weight,
    /// The files that all of these lie in.
    pub files: Vec<Arc<Mapping>>,
}

/// Weights of a decoder layer.
pub struct LayerWeights {
    /// `[hidden]`
    pub attention_norm: Vec<f32>,
    /// Its sizes are the structure's.
    pub attention: AttentionLayer,
    /// `[hidden]`
    pub feed_forward_norm: Vec<f32>,
    /// Its sizes are the structure's.
    pub feed_forward: FeedForwardLayer,
    /// Norms of what attention and feed-forward give, `[hidden]` each.
    pub after: Option<[Vec<f32>; 2]>,
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

impl Weights {
    /// Every matrix in turn.
    pub fn each_matrix(&mut self, f: &mut dyn FnMut(&mut Weight)) {
        f(&mut self.embedding);
        f(&mut self.head);
        for layer in &mut self.layers {
            layer.attention.matrices().into_iter().for_each(&mut *f);
            layer.feed_forward.matrices().into_iter().for_each(&mut *f);
        }
    }
}
