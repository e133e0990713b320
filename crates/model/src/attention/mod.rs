//! How tokens look at each other: grouped-query and latent attention over the paged cache.

mod latent;
mod paged;

use kernels::{Input, Pool, Product, Quantized, Queries, Rows, matmul};
pub use latent::BLOCK as FORM_BLOCK;

/// Leading tokens of a prompt that latent attention expands: the whole blocks before its last token. The last one never is, so that a
/// prompt that is found in a cache costs one absorbed token, not the expansion of all before it.
pub fn expanded_prompt(prompt: usize) -> usize {
    prompt.saturating_sub(1) / FORM_BLOCK * FORM_BLOCK
}

use crate::batch::{Batch, Span};
use crate::cache::{Cache, PAGE};
use crate::structure::{Attention, Pairing, Rope};
use crate::weight::{AttentionWeights, Linear};
use paged::{Part, Query, Widths, attend_paged, rows_together};

/// Buffers used again from layer to layer. They only grow, and what they held is overwritten, not cleared.
#[derive(Default)]
pub struct Buffers {
    angles: Angles,
    quantized: Quantized,
    parts: Vec<Part>,
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
fn each_row<T: Send>(pool: &Pool, rows: &mut [T], f: impl Fn(&mut T) + Sync) {
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
    match (kind, weights) {
        (Attention::Gqa { .. }, AttentionWeights::Gqa { .. }) => gqa(pool, kind, weights, call, cache, buffers),
        (Attention::Mla { .. }, AttentionWeights::Mla { .. }) => latent::mla(pool, kind, weights, call, cache, buffers),
        _ => unreachable!("structure and weights are made together"),
    }
    let last = match weights {
        AttentionWeights::Gqa { out, .. } | AttentionWeights::Mla { out, .. } => out,
    };
    let Buffers { mixed, quantized, .. } = buffers;
    let rows = call.input.rows;
    project(pool, &mut [(last, &mut *out)], &mixed[..rows * last.weight.cols], rows, quantized);
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
fn positions(batch: &Batch) -> impl Iterator<Item = usize> {
    batch.spans.iter().flat_map(|s| s.position..s.position + s.len)
}

/// Page and slot of every row's entry in the cache.
fn places(batch: &Batch) -> Vec<(u32, usize)> {
    let place = |s: &Span, position: usize| (s.pages[position / PAGE], position % PAGE);
    batch.spans.iter().flat_map(|s| (s.position..s.position + s.len).map(move |p| place(s, p))).collect()
}

fn gqa(
    pool: &Pool,
    kind: &Attention,
    weights: &AttentionWeights,
    call: &Call,
    cache: &mut Cache,
    buffers: &mut Buffers,
) {
    let (
        Attention::Gqa { heads, kv_heads, head_dim, window, rope, .. },
        AttentionWeights::Gqa { q, k, v, q_norm, k_norm, .. },
    ) = (kind, weights)
    else {
        unreachable!("checked by the caller")
    };
    let (heads, kv_heads, d) = (*heads, *kv_heads, *head_dim);
    let Buffers { angles, parts, queries: qs, keys: ks, values: vs, mixed, .. } = buffers;
    let (n, width) = (call.input.rows, kv_heads * d);
    let (qs, ks, vs) = (sized(qs, n * heads * d), sized(ks, n * width), sized(vs, n * width));
    project_input(pool, &mut [(q, &mut *qs), (k, &mut *ks), (v, &mut *vs)], call.input);
    angles.update(rope, call.batch);
    let turn = |row: usize, xs: &mut [f32], norm: &Option<Vec<f32>>| {
        let mut normed = vec![0f32; if norm.is_some() { d } else { 0 }];
        for head in xs.chunks_mut(d) {
            if let Some(norm) = norm {
                kernels::rms_norm(head, norm, call.norm_eps, &mut normed);
                head.copy_from_slice(&normed);
            }
            angles.rotate(row, rope.pairing, head);
        }
    };
    let cached = cache.rows(call.layer, &places(call.batch));
    let by_row = qs.chunks_mut(heads * d).zip(ks.chunks_mut(width)).zip(vs.chunks(width)).zip(cached);
    let mut tasks: Vec<_> = by_row.enumerate().collect();
    each_row(pool, &mut tasks, |(row, (((q, k), v), cached))| {
        turn(*row, q, q_norm);
        turn(*row, k, k_norm);
        cached.write(0, k);
        cached.write(width, v);
    });
    drop(tasks);
    let qs = &*qs;
    let mixed = sized(mixed, n * heads * d);
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
    let widths = Widths { key: d, value: d, scale: rope.score_scale, fixed: !cache.is_exact() };
    attend_paged(pool, &mut queries, widths, cache, call.layer, parts);
}
