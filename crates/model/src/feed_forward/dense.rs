//! One gated block for every token.

use kernels::{Input, Pool, Product, Rows, matmul};

use super::{Buffers, FeedForwardKind, gated};
use crate::checkpoint::CheckpointError;
use crate::identity::Fields;
use crate::loader::Names;
use crate::plan::{Parameters, sum, times};
use crate::weight::GatedBlock;

/// One block for every token.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// Inner width.
    pub hidden: usize,
    /// Biases on the three projections.
    pub bias: bool,
}

impl FeedForwardKind for Dense {
    fn parameters(&self, hidden: usize) -> Parameters {
        let biases = if self.bias { times(&[2, self.hidden]).saturating_add(hidden as u64) } else { 0 };
        let all = sum(&[times(&[3, hidden, self.hidden]), biases]);
        Parameters { total: all, active: all }
    }

    fn identify(&self, fields: &mut Fields) {
        let Dense { hidden, bias } = self;
        fields.size("dense.hidden", *hidden);
        fields.flag("dense.bias", *bias);
    }

    fn describe(&self) -> String {
        format!("dense {}{}", self.hidden, if self.bias { ", biases" } else { "" })
    }
}

impl Dense {
    pub(crate) fn load(&self, names: &Names, i: usize, hidden: usize) -> Result<DenseLayer, CheckpointError> {
        let biases = || {
            Ok::<_, CheckpointError>(BlockBiases {
                gate: names.bias(i, "mlp.gate_proj", self.hidden)?,
                up: names.bias(i, "mlp.up_proj", self.hidden)?,
                down: names.bias(i, "mlp.down_proj", hidden)?,
            })
        };
        let block = names.block(i, "mlp", self.hidden, hidden)?;
        Ok(DenseLayer { block, biases: self.bias.then(biases).transpose()? })
    }
}

/// A layer of it.
pub struct DenseLayer {
    /// The block.
    pub block: GatedBlock,
    /// Its biases, where it has any.
    pub biases: Option<BlockBiases>,
}

/// Biases of a gated block.
pub struct BlockBiases {
    /// `[inner]`
    pub gate: Vec<f32>,
    /// `[inner]`
    pub up: Vec<f32>,
    /// `[hidden]`
    pub down: Vec<f32>,
}

impl DenseLayer {
    /// `out[rows, hidden] = block(x[rows, hidden])`
    pub fn forward(&self, pool: &Pool, input: Input, buffers: &mut Buffers, out: &mut [f32]) {
        if let Some(biases) = &self.biases {
            return biased(pool, &self.block, biases, input, buffers, out);
        }
        gated(pool, &[(&self.block, Rows::All, input.rows)], input, buffers);
        out.copy_from_slice(&buffers.down[..out.len()]);
    }
}

/// A block with biases: the fused kernel has no place for them, so the halves are made one after the other.
fn biased(pool: &Pool, block: &GatedBlock, biases: &BlockBiases, input: Input, buffers: &mut Buffers, out: &mut [f32]) {
    let (rows, inner) = (input.rows, block.gate.rows);
    let Buffers { gate, up, quantized, .. } = buffers;
    gate.resize(rows * inner, 0.0);
    up.resize(rows * inner, 0.0);
    let mut halves = [
        Product { weight: block.gate.matrix(), input, rows: Rows::All, out: gate },
        Product { weight: block.up.matrix(), input, rows: Rows::All, out: up },
    ];
    matmul(pool, &mut halves);
    let mut tasks: Vec<_> = gate.chunks_mut(inner).zip(up.chunks_mut(inner)).collect();
    pool.each(&mut tasks, |(gate, up)| {
        kernels::add(gate, &biases.gate);
        kernels::add(up, &biases.up);
        kernels::silu_mul(gate, up);
    });
    drop(tasks);
    let wanted = block.down.format.wants_quantized_input();
    if wanted {
        quantized.quantize(pool, gate, rows, inner);
    }
    let input = Input { x: gate, rows, cols: inner, quantized: wanted.then_some(&*quantized) };
    matmul(pool, &mut [Product { weight: block.down.matrix(), input, rows: Rows::All, out: &mut *out }]);
    out.chunks_mut(biases.down.len()).for_each(|row| kernels::add(row, &biases.down));
}
