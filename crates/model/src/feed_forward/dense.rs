//! One gated block for every token.

use std::any::Any;

use kernels::{Input, Pool, Product, Rows, matmul};

use super::{Buffers, FeedForwardKind, FeedForwardLayer, Routes, gated};
use crate::error::CheckpointError;
use crate::identity::IdentityFields;
use crate::loader::Names;
use crate::parameters::{Parameters, sum, times};
use crate::weight::{GatedBlock, Weight, prepare};

/// One block for every token.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// Inner width.
    pub hidden: usize,
    /// Biases on the three projections.
    pub bias: bool,
    /// What its gate goes through.
    pub activation: Activation,
}

/// What a block's gate goes through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`
    #[default]
    Silu,
    /// GELU by its approximation with tanh (arXiv 1606.08415, section 2).
    GeluTanh,
}

impl FeedForwardKind for Dense {
    fn parameters(&self, hidden: usize) -> Parameters {
        let biases = if self.bias { times(&[2, self.hidden]).saturating_add(hidden as u64) } else { 0 };
        let all = sum(&[times(&[3, hidden, self.hidden]), biases]);
        Parameters { total: all, active: all }
    }

    fn identify(&self, fields: &mut IdentityFields) {
        let Dense { hidden, bias, activation } = self;
        fields.size("dense.hidden", *hidden);
        fields.flag("dense.bias", *bias);
        fields.optional("dense.gelu", (*activation == Activation::GeluTanh).then_some(1));
    }

    fn describe(&self) -> String {
        let activation = if self.activation == Activation::Silu { "" } else { ", GELU" };
        format!("dense {}{}{activation}", self.hidden, if self.bias { ", biases" } else { "" })
    }

    fn load(&self, names: &Names, i: usize, hidden: usize) -> Result<Box<dyn FeedForwardLayer>, CheckpointError> {
        let biases = || {
            Ok::<_, CheckpointError>(BlockBiases {
                gate: names.bias(i, "mlp.gate_proj", self.hidden)?,
                up: names.bias(i, "mlp.up_proj", self.hidden)?,
                down: names.bias(i, "mlp.down_proj", hidden)?,
            })
        };
        let block = names.block(i, "mlp", self.hidden, hidden)?;
        Ok(Box::new(DenseLayer { shape: self.clone(), block, biases: self.bias.then(biases).transpose()? }))
    }
}

/// A layer of it.
pub struct DenseLayer {
    /// Its sizes.
    pub shape: Dense,
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

impl FeedForwardLayer for DenseLayer {
    fn is_of(&self, kind: &dyn Any) -> bool {
        kind.downcast_ref() == Some(&self.shape)
    }

    fn inputs(&self) -> Vec<&Weight> {
        vec![&self.block.gate, &self.block.up]
    }

    fn matrices(&mut self) -> Vec<&mut Weight> {
        self.block.matrices().into()
    }

    /// `out[rows, hidden] = block(x[rows, hidden])`
    fn forward(&self, pool: &Pool, input: Input, buffers: &mut Buffers, out: &mut [f32]) -> Option<Routes> {
        if self.biases.is_some() || self.shape.activation != Activation::Silu {
            self.in_halves(pool, input, buffers, out);
        } else {
            gated(pool, &[(&self.block, Rows::All, input.rows)], input, buffers);
            out.copy_from_slice(&buffers.down[..out.len()]);
        }
        None
    }
}

impl DenseLayer {
    /// What the fused kernel has no place for: the halves are made one after the other.
    fn in_halves(&self, pool: &Pool, input: Input, buffers: &mut Buffers, out: &mut [f32]) {
        let DenseLayer { shape, block, biases } = self;
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
            if let Some(biases) = biases {
                kernels::add(gate, &biases.gate);
                kernels::add(up, &biases.up);
            }
            match shape.activation {
                Activation::Silu => kernels::silu_mul(gate, up),
                Activation::GeluTanh => gelu_mul(gate, up),
            }
        });
        drop(tasks);
        let input = prepare(pool, gate, rows, inner, quantized, [&block.down]);
        matmul(pool, &mut [Product { weight: block.down.matrix(), input, rows: Rows::All, out: &mut *out }]);
        if let Some(biases) = biases {
            out.chunks_mut(biases.down.len()).for_each(|row| kernels::add(row, &biases.down));
        }
    }
}

/// `gate = gelu(gate) * up`. `(1 + tanh(u)) / 2` is `sigmoid(2 u)`; products and sums are rounded one by one, so all instruction sets agree.
fn gelu_mul(gate: &mut [f32], up: &[f32]) {
    use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
    const TWICE: f32 = 2.0 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2; // 2 sqrt(2 / pi)
    let mut share: Vec<f32> = gate.iter().map(|&x| TWICE * (x + 0.044_715 * x * x * x)).collect();
    kernels::sigmoid(&mut share);
    for ((gate, share), up) in gate.iter_mut().zip(share).zip(up) {
        *gate = *gate * share * up;
    }
}
