//! How tokens look at each other: grouped-query and latent attention over the paged cache.

mod latent;
mod paged;

use kernels::{Input, Pool, Product, Quantized, Queries, Rows, matmul};

use crate::batch::{Batch, Span};
use crate::cache::{Cache, PAGE};
use crate::structure::{Attention, Pairing, Rope};
use crate::weight::{AttentionWeights, Linear};
use paged::{Query, Widths, attend_paged, rows_together};

/// Buffers used again from layer to layer.
#[derive(Default)]
pub struct Buffers {
    angles: Angles,
    quantized: Quantized,
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
    fn update(&mut self, rope: &Rope, positions: &[usize]) {
        if self.frequencies == rope.frequencies && self.amplitude == rope.amplitude && self.positions == positions {
            return;
        }
        self.frequencies = rope.frequencies.clone();
        self.amplitude = rope.amplitude;
        self.positions = positions.to_vec();
        let angles = positions.iter().flat_map(|&p| rope.frequencies.iter().map(move |f| p as f32 * f));
        (self.cos, self.sin) = angles.map(|a| (a.cos() * rope.amplitude, a.sin() * rope.amplitude)).unzip();
    }

    fn rotate(&self, row: usize, pairing: Pairing, x: &mut [f32]) {
        let pairs = self.frequencies.len();
        let (cos, sin) = (&self.cos[row * pairs..(row + 1) * pairs], &self.sin[row * pairs..(row + 1) * pairs]);
        match pairing {
            Pairing::Interleaved => kernels::rotate_interleaved(x, cos, sin),
            Pairing::Halves => kernels::rotate_halves(x, cos, sin),
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

/// `out[rows, hidden]`; keys and values, or latents, of all rows are written to the cache first.
pub fn attention(
    pool: &Pool,
    kind: &Attention,
    weights: &AttentionWeights,
    call: &Call,
    cache: &mut Cache,
    buffers: &mut Buffers,
    out: &mut [f32],
) {
    let mixed = match (kind, weights) {
        (Attention::Gqa { .. }, AttentionWeights::Gqa { .. }) => gqa(pool, kind, weights, call, cache, buffers),
        (Attention::Mla { .. }, AttentionWeights::Mla { .. }) => latent::mla(pool, kind, weights, call, cache, buffers),
        _ => unreachable!("structure and weights are made together"),
    };
    let last = match weights {
        AttentionWeights::Gqa { out, .. } | AttentionWeights::Mla { out, .. } => out,
    };
    let rows = call.input.rows;
    project(pool, &mut [(last, &mut *out)], &mixed, rows, &mut buffers.quantized);
}

/// `out = W x + b` for several projections of one input.
fn project(pool: &Pool, to: &mut [(&Linear, &mut [f32])], x: &[f32], rows: usize, quantized: &mut Quantized) {
    let cols = to[0].0.weight.cols;
    let wanted = crate::feed_forward::quantized_wanted(to.iter().map(|(l, _)| &l.weight));
    if wanted {
        quantized.quantize(pool, x, rows, cols);
    }
    project_input(pool, to, Input { x, rows, cols, quantized: wanted.then_some(&*quantized) });
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
fn positions(batch: &Batch) -> Vec<usize> {
    batch.spans.iter().flat_map(|s| s.position..s.position + s.len).collect()
}

/// Every row with its span and position.
fn rows<'a>(batch: &'a Batch<'a>) -> impl Iterator<Item = (usize, &'a Span<'a>, usize)> {
    batch.spans.iter().flat_map(|s| (0..s.len).map(move |i| (s.first + i, s, s.position + i)))
}

fn gqa(
    pool: &Pool,
    kind: &Attention,
    weights: &AttentionWeights,
    call: &Call,
    cache: &mut Cache,
    buffers: &mut Buffers,
) -> Vec<f32> {
    let (
        Attention::Gqa { heads, kv_heads, head_dim, window, rope, .. },
        AttentionWeights::Gqa { q, k, v, q_norm, k_norm, .. },
    ) = (kind, weights)
    else {
        unreachable!("checked by the caller")
    };
    let (heads, kv_heads, d) = (*heads, *kv_heads, *head_dim);
    let n = call.input.rows;
    let mut qs = vec![0f32; n * heads * d];
    let mut ks = vec![0f32; n * kv_heads * d];
    let mut vs = vec![0f32; n * kv_heads * d];
    project_input(pool, &mut [(q, &mut qs), (k, &mut ks), (v, &mut vs)], call.input);
    buffers.angles.update(rope, &positions(call.batch));
    let mut normed = vec![0f32; d];
    let mut turn = |row: usize, xs: &mut [f32], norm: &Option<Vec<f32>>| {
        for head in xs.chunks_mut(d) {
            if let Some(norm) = norm {
                kernels::rms_norm(head, norm, call.norm_eps, &mut normed);
                head.copy_from_slice(&normed);
            }
            buffers.angles.rotate(row, rope.pairing, head);
        }
    };
    let width = kv_heads * d;
    let mut entry = vec![0f32; 2 * width];
    for (row, span, position) in rows(call.batch) {
        turn(row, &mut qs[row * heads * d..(row + 1) * heads * d], q_norm);
        turn(row, &mut ks[row * width..(row + 1) * width], k_norm);
        entry[..width].copy_from_slice(&ks[row * width..(row + 1) * width]);
        entry[width..].copy_from_slice(&vs[row * width..(row + 1) * width]);
        cache.write(call.layer, span.pages[position / PAGE], position % PAGE, &entry);
    }
    let mut mixed = vec![0f32; n * heads * d];
    let group = heads / kv_heads;
    let mut queries: Vec<Query> = Vec::new();
    let mut outs: Vec<_> = mixed.chunks_mut(d).map(Some).collect();
    for span in call.batch.spans {
        let together = rows_together(group, kv_heads, span.len, pool.threads());
        let mut i = 0;
        while i < span.len {
            // Rows that run together see the same first key.
            let position = span.position + i;
            let slides = window.is_some_and(|w| position + together > w);
            let count = if slides { 1 } else { together.min(span.len - i) };
            for head in 0..kv_heads {
                let at = |row: usize| (span.first + i + row) * heads + head * group;
                let places = (0..count).flat_map(|row| at(row)..at(row) + group);
                queries.push(Query {
                    queries: Queries { q: &qs[at(0) * d..], heads: group, stride: heads * d },
                    outs: places.map(|place| outs[place].take().expect("every place once")).collect(),
                    pages: span.pages,
                    first: window.map_or(0, |w| (position + 1).saturating_sub(w)),
                    end: position + 1,
                    key_at: head * d,
                    value_at: width + head * d,
                });
            }
            i += count;
        }
    }
    let widths = Widths { key: d, value: d, scale: rope.score_scale };
    attend_paged(pool, &mut queries, widths, cache, call.layer);
    drop(queries);
    mixed
}
