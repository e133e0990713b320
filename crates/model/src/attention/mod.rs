//! How tokens look at each other: grouped-query and latent attention over the paged cache.

mod grouped;
mod latent;
mod mla;
pub mod paged;

use std::any::Any;
use std::ops::Deref;

pub use grouped::{Gqa, GqaLayer};
use kernels::{Input, Pool, Product, Quantized, Rows, matmul};
pub use mla::BLOCK as FORM_BLOCK;
pub use mla::{Mla, MlaExpansion, MlaLayer, MlaQuery};

use crate::batch::{Batch, Span};
use crate::cache::{Cache, CacheFormat, RowKind};
use crate::error::CheckpointError;
use crate::identity::IdentityFields;
use crate::loader::Names;
use crate::rope::{Pairing, Rope};
use crate::weight::{Linear, Weight, prepare};
use paged::SplitPart;

/// Leading tokens of a prompt that latent attention expands: the whole blocks before its last token. The last one never is, so that a
/// prompt that is found in a cache costs one absorbed token, not the expansion of all before it.
pub fn expanded_prompt(prompt: usize) -> usize {
    prompt.saturating_sub(1) / FORM_BLOCK * FORM_BLOCK
}

/// Buffers used again from layer to layer. They only grow, and what they held is overwritten, not cleared.
#[derive(Default)]
pub struct Buffers {
    angles: Angles,
    quantized: Quantized,
    parts: Vec<SplitPart>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Heads' outputs, `[rows, heads * value]`.
    mixed: Vec<f32>,
    latent: latent::Buffers,
}

/// The first `len` numbers of a buffer, whatever they are.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Run `f` on every row, on all threads where there are many.
pub(crate) fn each_row<T: Send>(pool: &Pool, rows: &mut [T], f: impl Fn(&mut T) + Sync) {
    if rows.len() < 8 { rows.iter_mut().for_each(f) } else { pool.each(rows, f) }
}

/// Cosines and sines of every row of a batch, kept while layers rotate alike.
#[derive(Default)]
struct Angles {
    frequencies: Vec<f32>,
    amplitude: f32,
    positions: Vec<usize>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    fn update(&mut self, rope: &Rope, batch: &Batch) {
        let same = self.frequencies == rope.frequencies && self.amplitude == rope.amplitude;
        if same && self.positions.iter().copied().eq(positions(batch)) {
            return;
        }
        self.frequencies = rope.frequencies.clone();
        self.amplitude = rope.amplitude;
        self.positions = positions(batch).collect();
        let angles = self.positions.iter().flat_map(|&p| rope.frequencies.iter().map(move |f| p as f32 * f));
        (self.cos, self.sin) = angles.map(|a| (a.cos() * rope.amplitude, a.sin() * rope.amplitude)).unzip();
    }

    /// Of each `stride` numbers of a row those that are rotated, which come first.
    fn rotate(&self, row: usize, pairing: Pairing, x: &mut [f32], stride: usize) {
        let pairs = self.frequencies.len();
        let (cos, sin) = (&self.cos[row * pairs..(row + 1) * pairs], &self.sin[row * pairs..(row + 1) * pairs]);
        match pairing {
            Pairing::Interleaved => kernels::rotate_interleaved(x, stride, cos, sin),
            Pairing::Halves => kernels::rotate_halves(x, stride, cos, sin),
        }
    }
}

/// Which form latent attention takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Form {
    /// By a token's place in its prompt.
    #[default]
    ByPlace,
    /// Always absorbed (for comparisons).
    Absorbed,
    /// Always expanded (for comparisons).
    Expanded,
}

/// What an attention layer is computed from, besides its weights.
pub struct Call<'a> {
    /// Threads.
    pub pool: &'a Pool,
    /// The layer's number in the cache.
    pub layer: usize,
    /// Normed rows.
    pub input: Input<'a>,
    /// Rows' sequences and positions.
    pub batch: &'a Batch<'a>,
    /// Epsilon of the model's norms.
    pub norm_eps: f32,
    /// Form of latent attention.
    pub form: Form,
}

/// Kinds of attention.
#[derive(Clone, Debug, PartialEq)]
pub enum Attention {
    /// Grouped-query.
    Gqa(Gqa),
    /// Multi-head latent.
    Mla(Mla),
}

/// Query heads of a kind of attention.
pub struct Heads<'a> {
    /// How many.
    pub count: usize,
    /// Widths of the parts of one.
    pub widths: Vec<usize>,
    /// Numbers that the key and value of one would take in a cache.
    pub cache_width: usize,
    /// Their rotary embedding.
    pub rope: &'a Rope,
}

/// What others need to know of a kind of attention. Sizes may come from a file: none of this may overflow or be slow.
pub trait AttentionKind: Any {
    /// Its query heads.
    fn heads(&self) -> Heads<'_>;
    /// What the cache keeps of a layer.
    fn cache(&self, format: CacheFormat) -> Vec<RowKind>;
    /// Aligned blocks of so many prompt positions are computed in a form of their own.
    fn prompt_block(&self) -> Option<usize> {
        None
    }
    /// Parameters beside a stream of `hidden`.
    fn parameters(&self, hidden: usize) -> u64;
    /// Everything that the numbers follow from.
    fn identify(&self, fields: &mut IdentityFields);
    /// For people.
    fn describe(&self) -> String;
    /// A layer of this kind with the tensors of layer `i`.
    ///
    /// # Errors
    /// A tensor that is missing or cannot be.
    fn load(&self, names: &Names, i: usize, hidden: usize) -> Result<Box<dyn AttentionLayer>, CheckpointError>;
}

/// A layer of attention: its sizes and its weights.
pub trait AttentionLayer: Any + Send + Sync {
    /// Whether it has the sizes of this kind.
    fn is_of(&self, kind: &dyn Any) -> bool;
    /// Weights that multiply the layer's input.
    fn inputs(&self) -> Vec<&Weight>;
    /// The projection back to the stream.
    fn out(&self) -> &Linear;
    /// Every matrix.
    fn matrices(&mut self) -> Vec<&mut Weight>;
    /// Keys and values, or latents, of all rows to the cache, and heads' outputs `[rows, heads * value]` to `buffers.mixed`.
    fn attend(&self, call: &Call, cache: &mut Cache, buffers: &mut Buffers);
}

impl Deref for Attention {
    type Target = dyn AttentionKind;

    fn deref(&self) -> &(dyn AttentionKind + 'static) {
        match self {
            Attention::Gqa(shape) => shape,
            Attention::Mla(shape) => shape,
        }
    }
}

impl dyn AttentionLayer {
    /// `out[rows, hidden]`; keys and values, or latents, of all rows are written to the cache first.
    pub fn forward(&self, call: &Call, cache: &mut Cache, buffers: &mut Buffers, out: &mut [f32]) {
        self.attend(call, cache, buffers);
        let last = self.out();
        let Buffers { mixed, quantized, .. } = buffers;
        let rows = call.input.rows;
        project(call.pool, &mut [(last, &mut *out)], &mixed[..rows * last.weight.cols], rows, quantized);
    }
}

/// `out = W x + b` for several projections of one input.
fn project(pool: &Pool, to: &mut [(&Linear, &mut [f32])], x: &[f32], rows: usize, quantized: &mut Quantized) {
    let cols = to[0].0.weight.cols;
    let input = prepare(pool, x, rows, cols, quantized, to.iter().map(|(l, _)| &l.weight));
    project_input(pool, to, input);
}

/// As `project`, from an input made before.
fn project_input(pool: &Pool, to: &mut [(&Linear, &mut [f32])], input: Input) {
    let mut products: Vec<_> =
        to.iter_mut().map(|(l, out)| Product { weight: l.weight.matrix(), input, rows: Rows::All, out }).collect();
    matmul(pool, &mut products);
    for (linear, out) in to {
        if let Some(bias) = &linear.bias {
            out.chunks_mut(bias.len()).for_each(|row| kernels::add(row, bias));
        }
    }
}

/// Position of every row.
fn positions(batch: &Batch) -> impl Iterator<Item = usize> {
    batch.spans.iter().flat_map(|s| s.position..s.position + s.len)
}

/// Where in the cache the entry of every row goes, with so many tokens a page: which page, and which row of it.
fn places(batch: &Batch, page: usize) -> Vec<(u32, usize)> {
    let place = |s: &Span, position: usize| (s.pages[position / page], position % page);
    batch.spans.iter().flat_map(|s| (s.position..s.position + s.len).map(move |p| place(s, p))).collect()
}
