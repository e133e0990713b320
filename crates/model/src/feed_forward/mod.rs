//! What happens to each token alone: a gated block, or a mixture of them behind a router. A block is `down(silu(gate(x)) * up(x))` (SwiGLU) unless it says otherwise.

mod dense;
mod mixture;

use std::any::Any;
use std::ops::Deref;

pub use dense::{Activation, BlockBiases, Dense, DenseLayer};
use kernels::{Hidden, Input, Pool, Product, Quantized, Rows, matmul};
pub use mixture::{GroupScore, Moe, MoeLayer, Router, Routes, Score, choose};

use crate::error::CheckpointError;
use crate::identity::IdentityFields;
use crate::loader::Names;
use crate::parameters::Parameters;
use crate::weight::{GatedBlock, Weight};

/// Kinds of feed-forward.
#[derive(Clone, Debug, PartialEq)]
pub enum FeedForward {
    /// One block for every token.
    Dense(Dense),
    /// Routed experts.
    Moe(Moe),
}

/// A layer of feed-forward: its sizes and its weights.
pub trait FeedForwardLayer: Any + Send + Sync {
    /// Whether it has the sizes of this kind.
    fn is_of(&self, kind: &dyn Any) -> bool;
    /// Weights that multiply the layer's input.
    fn inputs(&self) -> Vec<&Weight>;
    /// Every matrix.
    fn matrices(&mut self) -> Vec<&mut Weight>;
    /// `out[rows, hidden]`, and the experts that were chosen where there are any.
    fn forward(&self, pool: &Pool, input: Input, buffers: &mut Buffers, out: &mut [f32]) -> Option<Routes>;
}

/// What others need to know of a kind of feed-forward. Sizes may come from a file: none of this may overflow or be slow.
pub trait FeedForwardKind: Any {
    /// Routed experts, and how many a token chooses; `None` without a router.
    fn experts(&self) -> Option<(usize, usize)> {
        None
    }
    /// Parameters beside a stream of `hidden`.
    fn parameters(&self, hidden: usize) -> Parameters;
    /// Everything that the numbers follow from.
    fn identify(&self, fields: &mut IdentityFields);
    /// For people.
    fn describe(&self) -> String;
    /// A layer of this kind with the tensors of layer `i`.
    ///
    /// # Errors
    /// A tensor that is missing or cannot be.
    fn load(&self, names: &Names, i: usize, hidden: usize) -> Result<Box<dyn FeedForwardLayer>, CheckpointError>;
}

impl Deref for FeedForward {
    type Target = dyn FeedForwardKind;

    fn deref(&self) -> &(dyn FeedForwardKind + 'static) {
        match self {
            FeedForward::Dense(block) => block,
            FeedForward::Moe(block) => block,
        }
    }
}

/// Buffers used again from layer to layer.
#[derive(Default)]
pub struct Buffers {
    hidden: Vec<Hidden>,
    down: Vec<f32>,
    scores: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    quantized: Quantized,
}

/// All blocks on their rows at once; the outputs lie one after the other in `buffers.down`.
fn gated(pool: &Pool, blocks: &[(&GatedBlock, Rows, usize)], input: Input, buffers: &mut Buffers) {
    let Buffers { hidden, down, .. } = buffers;
    // Runs of blocks of one inner width, whose second halves take the same kind of input, share a buffer.
    let kind = |b: &GatedBlock| (b.gate.rows, b.down.format.wants_quantized_input());
    let runs: Vec<&[(&GatedBlock, Rows, usize)]> = blocks.chunk_by(|a, b| kind(a.0) == kind(b.0)).collect();
    hidden.resize_with(runs.len().max(hidden.len()), Hidden::default);
    let hidden = &mut hidden[..runs.len()];
    let mut halves = Vec::with_capacity(blocks.len());
    for (i, (run, hidden)) in runs.iter().zip(&mut *hidden).enumerate() {
        let rows: Vec<usize> = run.iter().map(|b| b.2).collect();
        let (width, in_bytes) = kind(run[0].0);
        hidden.shape(&rows, width, in_bytes);
        halves.extend(run.iter().map(|&(block, rows, _)| kernels::Gated {
            gate: block.gate.matrix(),
            up: block.up.matrix(),
            input,
            rows,
            hidden: i,
        }));
    }
    kernels::gated(pool, &halves, hidden);

    let outer: usize = blocks.iter().map(|(b, _, n)| n * b.down.rows).sum();
    down.resize(outer.max(down.len()), 0.0);
    let mut downs = &mut down[..outer];
    let mut products = Vec::with_capacity(blocks.len());
    for (run, hidden) in runs.iter().zip(&*hidden) {
        let (input, mut first) = (hidden.input(), 0);
        for &(block, _, n) in *run {
            let out = downs.split_off_mut(..n * block.down.rows).expect("room for all");
            products.push(Product { weight: block.down.matrix(), input, rows: Rows::Range(first, n), out });
            first += n;
        }
    }
    matmul(pool, &mut products);
}
