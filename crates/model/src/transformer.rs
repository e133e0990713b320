//! The forward. Read this first: embed; per layer attention and feed-forward on the residual stream; norm; head.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kernels::{Pool, Product, Quantized, Rows, matmul};

use crate::attention::{self, Call, Form, each_row};
use crate::batch::Batch;
use crate::cache::Cache;
use crate::feed_forward::{self, Routes};
use crate::mmap::Mapping;
use crate::structure::{Layer, Structure};
use crate::weight::prepare;
use crate::weights::{LayerWeights, Weights};

/// A model: its structure and its weights.
pub struct Transformer {
    /// What it is.
    pub structure: Structure,
    weights: Weights,
    counts: Arc<ExpertCounts>,
}

/// How often each expert of each layer was chosen. Forwards count; anybody may read meanwhile.
#[derive(Debug)]
pub struct ExpertCounts(Vec<Vec<AtomicU64>>);

impl ExpertCounts {
    fn new(structure: &Structure) -> ExpertCounts {
        let of_layer = |layer: &Layer| {
            let (experts, _) = layer.feed_forward.experts().unwrap_or_default();
            (0..experts).map(|_| AtomicU64::new(0)).collect()
        };
        ExpertCounts(structure.layers.iter().map(of_layer).collect())
    }

    /// Of each layer the counts of its experts: none where it has no mixture.
    pub fn read(&self) -> Vec<Vec<u64>> {
        self.0.iter().map(|layer| layer.iter().map(|count| count.load(Ordering::Relaxed)).collect()).collect()
    }
}

/// Buffers that forwards use again.
#[derive(Default)]
pub struct Scratch {
    stream: Vec<f32>,
    normed: Vec<f32>,
    delta: Vec<f32>,
    logits: Vec<f32>,
    states: Vec<f32>,
    quantized: Quantized,
    attention: attention::Buffers,
    feed_forward: feed_forward::Buffers,
    form: Form,
}

impl Scratch {
    /// Empty buffers.
    pub fn new() -> Scratch {
        Scratch::default()
    }

    /// Logits of the last forward.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Final hidden states of the rows of the last forward that were wanted, `[wanted, hidden]`.
    pub fn states(&self) -> &[f32] {
        &self.states
    }

    /// Buffers of a forward that takes one form of latent attention for every token: for comparing the forms.
    #[doc(hidden)]
    pub fn with_form(form: Form) -> Scratch {
        Scratch { form, ..Scratch::default() }
    }
}

/// What went on inside a forward, for comparing implementations.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Per layer the stream after it, `[rows * hidden]`, before the final norm.
    pub hidden: Vec<Vec<f32>>,
    /// Per layer the routes of its mixture.
    pub routes: Vec<Option<Routes>>,
}

impl Transformer {
    /// A model of weights that fit the structure, as `Checkpoint` makes them.
    pub fn new(structure: Structure, weights: Weights) -> Transformer {
        assert_eq!(structure.layers.len(), weights.layers.len());
        let fits = |(layer, weights): (&Layer, &LayerWeights)| {
            weights.attention.is_of(&*layer.attention) && weights.feed_forward.is_of(&*layer.feed_forward)
        };
        assert!(structure.layers.iter().zip(&weights.layers).all(fits), "weights were loaded for this structure");
        let counts = Arc::new(ExpertCounts::new(&structure));
        Transformer { structure, weights, counts }
    }

    /// How often each expert was chosen.
    pub fn expert_counts(&self) -> &Arc<ExpertCounts> {
        &self.counts
    }

    /// A file of the weights from which bytes have gone while it was mapped: what was computed since is not to be believed.
    pub fn lost(&self) -> Option<&Path> {
        self.weights.files.iter().find(|f| f.lost()).map(|f| f.path())
    }

    /// A file of the weights that is no longer what was opened. One system call a file.
    pub fn changed(&self) -> Option<&Path> {
        self.weights.files.iter().find(|f| f.changed()).map(|f| f.path())
    }

    /// The files of the weights. With the structure they are all that the model's numbers follow from.
    pub fn files(&self) -> &[Arc<Mapping>] {
        &self.weights.files
    }

    /// Aligned blocks of so many prompt positions are computed in a form of their own, where attention has two; see `batch::Span`.
    pub fn form_block(&self) -> Option<usize> {
        self.structure.layers.iter().find_map(|layer| layer.attention.prompt_block())
    }

    /// Logits of the wanted rows, `[wanted, outputs]`. Every row's entry is written to the cache.
    ///
    /// # Panics
    /// When a token is outside the vocabulary, a span has too few pages, spans do not follow each other, or logits are wanted of a model
    /// without a head.
    pub fn forward<'s>(
        &self,
        pool: &Pool,
        batch: &Batch,
        cache: &mut Cache,
        scratch: &'s mut Scratch,
        mut trace: Option<&mut Trace>,
    ) -> &'s [f32] {
        batch.check(cache.layout().page());
        let (rows, hidden) = (batch.tokens.len(), self.structure.hidden);
        let Scratch { stream, normed, delta, logits, states, quantized, attention, feed_forward, form } = scratch;
        for buffer in [&mut *stream, &mut *normed, &mut *delta] {
            buffer.resize(rows * hidden, 0.0);
        }
        let embedding = self.weights.embedding.matrix();
        for (&token, row) in batch.tokens.iter().zip(stream.chunks_mut(hidden)) {
            embedding.decode_row(token as usize, row);
            scale(row, self.structure.scales.embedding);
        }
        for (i, layer) in self.weights.layers.iter().enumerate() {
            self.norm(pool, stream, &layer.attention_norm, normed);
            let input = prepare(pool, normed, rows, hidden, quantized, layer.attention.inputs());
            let call = Call { pool, layer: i, input, batch, norm_eps: self.structure.norm_eps, form: *form };
            layer.attention.forward(&call, cache, attention, delta);
            self.norm_after(pool, layer, 0, delta, normed);
            scale(delta, self.structure.scales.residual);
            add(pool, stream, delta, hidden);

            self.norm(pool, stream, &layer.feed_forward_norm, normed);
            let input = prepare(pool, normed, rows, hidden, quantized, layer.feed_forward.inputs());
            let routes = layer.feed_forward.forward(pool, input, feed_forward, delta);
            self.norm_after(pool, layer, 1, delta, normed);
            scale(delta, self.structure.scales.residual);
            for &expert in routes.iter().flat_map(|routes| &routes.experts) {
                self.counts.0[i][expert as usize].fetch_add(1, Ordering::Relaxed);
            }
            add(pool, stream, delta, hidden);
            if let Some(trace) = trace.as_deref_mut() {
                trace.hidden.push(stream.clone());
                trace.routes.push(routes);
            }
        }
        self.final_norm(stream, &batch.states(), states);
        let wanted = batch.wanted();
        logits.resize(wanted.len() * self.structure.outputs(), 0.0);
        if wanted.is_empty() {
            return logits;
        }
        self.final_norm(stream, &wanted, normed);
        let head = self.weights.head.as_ref().expect("logits are wanted of models with a head");
        let input = prepare(pool, normed, wanted.len(), hidden, quantized, [head]);
        matmul(pool, &mut [Product { weight: head.matrix(), input, rows: Rows::All, out: logits }]);
        scale(logits, self.structure.scales.logits);
        logits
    }

    /// The final norm of these rows of the stream.
    fn final_norm(&self, stream: &[f32], rows: &[usize], out: &mut Vec<f32>) {
        let Structure { hidden, norm_eps, .. } = self.structure;
        out.resize(rows.len() * hidden, 0.0);
        for (&row, out) in rows.iter().zip(out.chunks_mut(hidden)) {
            let state = &stream[row * hidden..(row + 1) * hidden];
            kernels::rms_norm(state, &self.weights.final_norm, norm_eps, out);
        }
    }

    /// What attention (0) or feed-forward (1) gave, normed where the layer has a norm for it.
    fn norm_after(&self, pool: &Pool, layer: &LayerWeights, half: usize, delta: &mut Vec<f32>, to: &mut Vec<f32>) {
        if let Some(after) = &layer.after {
            self.norm(pool, delta, &after[half], to);
            std::mem::swap(delta, to);
        }
    }

    fn norm(&self, pool: &Pool, x: &[f32], weight: &[f32], out: &mut [f32]) {
        let hidden = self.structure.hidden;
        let mut tasks: Vec<_> = x.chunks(hidden).zip(out.chunks_mut(hidden)).collect();
        each_row(pool, &mut tasks, |(x, out)| kernels::rms_norm(x, weight, self.structure.norm_eps, out));
    }
}

/// `x *= by`, which in most families is nothing.
fn scale(x: &mut [f32], by: f32) {
    if by != 1.0 {
        x.iter_mut().for_each(|x| *x *= by);
    }
}

/// `stream += delta`, rows of `hidden`.
fn add(pool: &Pool, stream: &mut [f32], delta: &[f32], hidden: usize) {
    let mut tasks: Vec<_> = stream.chunks_mut(16 * hidden).zip(delta.chunks(16 * hidden)).collect();
    let one = |(x, d): &mut (&mut [f32], &[f32])| kernels::add(x, d);
    if tasks.len() < 2 { tasks.iter_mut().for_each(one) } else { pool.each(&mut tasks, one) }
}
