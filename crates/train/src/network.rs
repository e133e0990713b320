//! The whole network: a structure's parameters, and its loss with all gradients.

use std::cell::RefCell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use kernels::training::{Factor, Gemm, Precision};
use kernels::{Pool, add};
use model::structure::{Head, Layer, Norms, Scales, Structure};

use crate::attention::{AttentionNet, AttentionSaved};
use crate::batch::{Batch, NO_TARGET};
use crate::buffers::{Buffer, Buffers};
use crate::error::Error;
use crate::feed_forward::{Balance, FeedForwardNet, FeedForwardSaved, Load};
use crate::head::{self, HeadLoss};
use crate::linear::Linear;
use crate::norm;
use crate::parameters::{Id, Parameters, Role};
use crate::pass::{Pass, ROWS, Values, add_all};

/// A structure with its parameters' names and places.
pub struct Network {
    /// What is computed.
    pub structure: Structure,
    /// All parameters.
    pub parameters: Parameters,
    embedding: Id,
    layers: Vec<LayerNet>,
    final_norm: Id,
    head: Id,
    predictor: Option<Predictor>,
    buffers: Mutex<Buffers>,
    product_nanos: AtomicU64,
}

struct LayerNet {
    attention_norm: Id,
    attention: AttentionNet,
    feed_forward_norm: Id,
    feed_forward: FeedForwardNet,
}

/// A module of multi-token prediction (DeepSeek-V3, arXiv 2412.19437, section 2.2): a layer that sees the last hidden state of a token and
/// the embedding of the next, and predicts the one after that.
struct Predictor {
    embedding_norm: Id,
    hidden_norm: Id,
    joint: Linear,
    layer: LayerNet,
    head_norm: Id,
}

/// What a layer's forward leaves for its backward.
struct LayerSaved {
    /// Its input and what attention made of it.
    x: Buffer,
    middle: Buffer,
    /// `None` where they are computed again.
    parts: Option<(AttentionSaved, FeedForwardSaved)>,
}

/// How a loss is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Of products of weights with activations and of attention; routers, norms, softmax and all sums are f32.
    pub precision: Precision,
    /// Keep only the input of each layer for the backward and compute the rest again: less memory, a third more arithmetic.
    pub recompute: bool,
    /// Of experts.
    pub balance: Balance,
    /// Factor of the loss of multi-token prediction.
    pub prediction: f32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { precision: Precision::F32, recompute: false, balance: Balance::default(), prediction: 0.1 }
    }
}

/// What a batch cost.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Nats over all targets; balance and prediction are apart.
    pub loss: f64,
    /// Targets.
    pub targets: usize,
    /// Of the module of multi-token prediction.
    pub prediction: f64,
    /// Its targets.
    pub prediction_targets: usize,
    /// Of each mixture, in the order of layers, that of the prediction module last.
    pub loads: Vec<Load>,
}

impl Outcome {
    /// Add that of another part of the batch.
    pub fn add(&mut self, other: &Outcome) {
        self.loss += other.loss;
        self.targets += other.targets;
        self.prediction += other.prediction;
        self.prediction_targets += other.prediction_targets;
        self.loads.resize(other.loads.len().max(self.loads.len()), Load::default());
        self.loads.iter_mut().zip(&other.loads).for_each(|(a, b)| a.add(b));
    }
}

impl LayerNet {
    fn new(all: &mut Parameters, i: usize, hidden: usize, layer: &Layer) -> Result<LayerNet, Error> {
        let prefix = format!("model.layers.{i}");
        Ok(LayerNet {
            attention_norm: all.add(format!("{prefix}.input_layernorm.weight"), &[hidden], Role::Norm),
            attention: AttentionNet::new(all, &prefix, hidden, &layer.attention)?,
            feed_forward_norm: all.add(format!("{prefix}.post_attention_layernorm.weight"), &[hidden], Role::Norm),
            feed_forward: FeedForwardNet::new(all, (i, &prefix), hidden, &layer.feed_forward)?,
        })
    }

    fn normed(&self, pass: &mut Pass, x: &[f32], norm: Id) -> Buffer {
        let mut normed = pass.buffers.take(x.len());
        norm::forward(pass.pool, x, &pass.weights[norm], pass.norm_eps, &mut normed);
        normed
    }

    /// The stream after attention, and what attention saved.
    fn attend(&self, pass: &mut Pass, x: &[f32]) -> (Buffer, AttentionSaved) {
        let normed = self.normed(pass, x, self.attention_norm);
        let mut middle = pass.buffers.take(x.len());
        let saved = self.attention.forward(pass, &normed, &mut middle);
        add_all(pass.pool, &mut middle, x);
        pass.buffers.give(normed);
        (middle, saved)
    }

    /// The stream after the layer, and what its feed-forward saved.
    fn feed(&self, pass: &mut Pass, middle: &[f32]) -> (Buffer, FeedForwardSaved) {
        let normed = self.normed(pass, middle, self.feed_forward_norm);
        let mut out = pass.buffers.take(middle.len());
        let saved = self.feed_forward.forward(pass, &normed, &mut out);
        add_all(pass.pool, &mut out, middle);
        pass.buffers.give(normed);
        (out, saved)
    }

    /// The stream after the layer, and all that a backward needs.
    fn forward(&self, pass: &mut Pass, x: Buffer, recompute: bool) -> (Buffer, LayerSaved) {
        let (middle, attention) = self.attend(pass, &x);
        let (out, feed_forward) = self.feed(pass, &middle);
        if !recompute {
            return (out, LayerSaved { x, middle, parts: Some((attention, feed_forward)) });
        }
        self.attention.discard(pass, attention);
        feed_forward.give(pass);
        pass.buffers.give(middle);
        (out, LayerSaved { x, middle: Buffer::default(), parts: None })
    }

    /// `d` is the gradient of the layer's output, and then of its input.
    fn backward(
        &self,
        pass: &mut Pass,
        saved: LayerSaved,
        balance: Balance,
        d: &mut [f32],
        gradients: &mut Values,
    ) -> Option<Load> {
        let LayerSaved { x, middle, parts } = saved;
        let (middle, attention, feed_forward) = match parts {
            Some((attention, feed_forward)) => (middle, attention, feed_forward),
            None => {
                let (middle, attention) = self.attend(pass, &x);
                let (out, feed_forward) = self.feed(pass, &middle);
                pass.buffers.give(out);
                (middle, attention, feed_forward)
            }
        };
        let mut d_normed = pass.buffers.take(x.len());
        let normed = self.normed(pass, &middle, self.feed_forward_norm);
        let load = self.feed_forward.backward(pass, (&normed, feed_forward), (d, balance), &mut d_normed, gradients);
        pass.buffers.give(normed);
        self.norm_backward(pass, (&middle, self.feed_forward_norm), &d_normed, d, gradients);
        let normed = self.normed(pass, &x, self.attention_norm);
        self.attention.backward(pass, (&normed, attention), d, &mut d_normed, gradients);
        pass.buffers.give(normed);
        self.norm_backward(pass, (&x, self.attention_norm), &d_normed, d, gradients);
        [x, middle, d_normed].into_iter().for_each(|b| pass.buffers.give(b));
        load
    }

    fn norm_backward(&self, pass: &Pass, (x, id): (&[f32], Id), dy: &[f32], dx: &mut [f32], gradients: &mut Values) {
        norm::backward(pass.pool, x, &pass.weights[id], pass.norm_eps, dy, dx, &mut gradients[id]);
    }
}

impl Network {
    /// The parameters of a structure. `predict` adds a module of multi-token prediction whose layer is like the last one.
    ///
    /// # Errors
    /// A part that has no backward.
    pub fn new(structure: Structure, predict: bool) -> Result<Network, Error> {
        let refuse = |layer, what| Err(Error::Structure { layer, what });
        if structure.norms != Norms::default() {
            return refuse(0, "a norm after attention or with an offset");
        }
        if structure.scales != Scales::default() {
            return refuse(0, "a factor on embedding, residuals or logits");
        }
        if !structure.generates() {
            return refuse(0, "a head of labels, or none");
        }
        let (mut all, hidden) = (Parameters::default(), structure.hidden);
        let table = [structure.vocab, hidden];
        let embedding = all.add("model.embed_tokens.weight".to_string(), &table, Role::Embedding);
        let layers = structure.layers.iter().enumerate();
        let layers: Vec<LayerNet> =
            layers.map(|(i, layer)| LayerNet::new(&mut all, i, hidden, layer)).collect::<Result<_, _>>()?;
        let final_norm = all.add("model.norm.weight".to_string(), &[hidden], Role::Norm);
        let head = match structure.head {
            Head::Own => all.add("lm_head.weight".to_string(), &table, Role::Head),
            _ => embedding,
        };
        let predictor = match structure.layers.last() {
            Some(last) if predict => Some(Predictor::new(&mut all, structure.layers.len(), hidden, last)?),
            _ => None,
        };
        let (buffers, product_nanos) = (Mutex::default(), AtomicU64::new(0));
        let parameters = all;
        Ok(Network { structure, parameters, embedding, layers, final_norm, head, predictor, buffers, product_nanos })
    }

    /// Biases of choice, in the order of `Outcome::loads`; `None` for a mixture without.
    pub fn choices(&self) -> Vec<Option<Id>> {
        let predictor = self.predictor.iter().map(|p| &p.layer);
        let mixtures = self.layers.iter().chain(predictor).filter_map(|layer| match &layer.feed_forward {
            FeedForwardNet::Mixture(net) => Some(net.choice()),
            FeedForwardNet::Dense(_) => None,
        });
        mixtures.collect()
    }

    /// Whether there is a module of multi-token prediction.
    pub fn predicts(&self) -> bool {
        self.predictor.is_some()
    }

    /// The loss of a batch, and its gradients added to `gradients`: those of `weight` times the sum over targets, with the balance loss,
    /// a mean that counts by the batch's share of `weight` times targets, and the sum over targets of prediction, as `settings` say.
    pub fn train(
        &self,
        pool: &Pool,
        settings: &Settings,
        (weights, gradients): (&Values, &mut Values),
        batch: &Batch,
        weight: f32,
    ) -> Outcome {
        let positions = batch.positions();
        let buffers = &mut *self.buffers.lock().unwrap_or_else(|e| e.into_inner());
        let pass = &mut self.pass(pool, settings, weights, (batch, &positions), buffers);
        let (last, saved) = self.stream(pass, settings.recompute);
        let mut normed = pass.buffers.take(last.len());
        norm::forward(pool, &last, &weights[self.final_norm], pass.norm_eps, &mut normed);
        let mut d_normed = pass.buffers.take(last.len());
        let hidden = self.structure.hidden;
        let back = Some((weight, &mut d_normed[..], &mut *gradients));
        let HeadLoss { sum, targets } = head::loss(pass, self.head, (&normed, hidden), &batch.targets, back);
        let mut outcome = Outcome { loss: sum, targets, ..Outcome::default() };
        let share = weight * batch.wanted() as f32;
        let balance = Balance { loss: settings.balance.loss * share, ..settings.balance };
        let mut predicted = None;
        if let Some(predictor) = &self.predictor {
            let factor = (settings, weight * settings.prediction, balance);
            let (loss, load) = predictor.train(self, pass, factor, &normed, (&mut d_normed, gradients));
            (outcome.prediction, outcome.prediction_targets) = (loss.sum, loss.targets);
            predicted = load;
        }
        let mut d = pass.buffers.zeros(last.len());
        let final_norm = &weights[self.final_norm];
        norm::backward(pool, &last, final_norm, pass.norm_eps, &d_normed, &mut d, &mut gradients[self.final_norm]);
        [last, normed, d_normed].into_iter().for_each(|b| pass.buffers.give(b));
        let back = self.layers.iter().zip(saved).rev();
        let mut loads: Vec<Load> =
            back.filter_map(|(layer, saved)| layer.backward(pass, saved, balance, &mut d, gradients)).collect();
        loads.reverse();
        loads.extend(predicted);
        outcome.loads = loads;
        for (&token, d) in batch.tokens.iter().zip(d.chunks(hidden)) {
            add(&mut gradients[self.embedding][token as usize * hidden..(token as usize + 1) * hidden], d);
        }
        pass.buffers.give(d);
        outcome
    }

    /// The loss of a batch alone.
    pub fn loss(&self, pool: &Pool, settings: &Settings, weights: &Values, batch: &Batch) -> Outcome {
        self.forward(pool, settings, weights, batch, |pass, normed| {
            let hidden = self.structure.hidden;
            let HeadLoss { sum, targets } = head::loss(pass, self.head, (normed, hidden), &batch.targets, None);
            Outcome { loss: sum, targets, ..Outcome::default() }
        })
    }

    /// Logits of every position, `[tokens, vocab]`.
    pub fn logits(&self, pool: &Pool, settings: &Settings, weights: &Values, batch: &Batch) -> Vec<f32> {
        self.forward(pool, settings, weights, batch, |pass, normed| {
            let mut logits = vec![0.0; pass.tokens() * self.structure.vocab];
            let hidden = self.structure.hidden;
            let (a, b) = (Factor::new(normed, hidden), Factor::new(&pass.weights[self.head], hidden).t());
            pass.multiply(&mut [Gemm { a, b, out: &mut logits, add: false }]);
            logits
        })
    }

    /// Logits of what follows each document, `[documents, vocab]`.
    pub fn next_logits(&self, pool: &Pool, settings: &Settings, weights: &Values, batch: &Batch) -> Vec<f32> {
        self.forward(pool, settings, weights, batch, |pass, normed| {
            let hidden = self.structure.hidden;
            let last: Vec<f32> =
                batch.documents.iter().flat_map(|d| &normed[(d.end - 1) * hidden..d.end * hidden]).copied().collect();
            let mut logits = vec![0.0; batch.documents.len() * self.structure.vocab];
            let (a, b) = (Factor::new(&last, hidden), Factor::new(&pass.weights[self.head], hidden).t());
            pass.multiply(&mut [Gemm { a, b, out: &mut logits, add: false }]);
            logits
        })
    }

    fn forward<T>(
        &self,
        pool: &Pool,
        settings: &Settings,
        weights: &Values,
        batch: &Batch,
        then: impl FnOnce(&mut Pass, &[f32]) -> T,
    ) -> T {
        let positions = batch.positions();
        let buffers = &mut *self.buffers.lock().unwrap_or_else(|e| e.into_inner());
        let pass = &mut self.pass(pool, settings, weights, (batch, &positions), buffers);
        let mut x = self.embed(pass, &batch.tokens);
        for layer in &self.layers {
            let (out, saved) = layer.forward(pass, x, true);
            pass.buffers.give(saved.x);
            x = out;
        }
        let mut normed = pass.buffers.take(x.len());
        norm::forward(pool, &x, &weights[self.final_norm], pass.norm_eps, &mut normed);
        let result = then(pass, &normed);
        [x, normed].into_iter().for_each(|b| pass.buffers.give(b));
        result
    }

    fn pass<'a>(
        &'a self,
        pool: &'a Pool,
        settings: &Settings,
        weights: &'a Values,
        (batch, positions): (&'a Batch, &'a [usize]),
        buffers: &'a mut Buffers,
    ) -> Pass<'a> {
        buffers.begin(batch.tokens.len());
        let (norm_eps, product_nanos) = (self.structure.norm_eps, &self.product_nanos);
        let (precision, angles) = (settings.precision, RefCell::default());
        Pass { pool, precision, weights, batch, positions, norm_eps, buffers, product_nanos, angles }
    }

    fn embed(&self, pass: &mut Pass, tokens: &[u32]) -> Buffer {
        let hidden = self.structure.hidden;
        let mut x = pass.buffers.take(tokens.len() * hidden);
        let table = &pass.weights[self.embedding];
        let mut parts: Vec<_> = tokens.chunks(ROWS).zip(x.chunks_mut(ROWS * hidden)).collect();
        pass.pool.each(&mut parts, |(tokens, x)| {
            for (&token, x) in tokens.iter().zip(x.chunks_mut(hidden)) {
                x.copy_from_slice(&table[token as usize * hidden..(token as usize + 1) * hidden]);
            }
        });
        drop(parts);
        x
    }

    /// The stream behind the last layer, and what each layer saved.
    fn stream(&self, pass: &mut Pass, recompute: bool) -> (Buffer, Vec<LayerSaved>) {
        let mut x = self.embed(pass, &pass.batch.tokens);
        let mut all = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (out, saved) = layer.forward(pass, x, recompute);
            all.push(saved);
            x = out;
        }
        (x, all)
    }

    /// Seconds that products and attention took so far, what packs their factors included.
    pub fn product_seconds(&self) -> f64 {
        self.product_nanos.load(Ordering::Relaxed) as f64 / 1e9
    }

    /// Batches will have up to so many tokens: buffers have room for them from the first one on.
    pub fn reserve(&self, tokens: usize) {
        self.buffers.lock().unwrap_or_else(|e| e.into_inner()).reserve(tokens);
    }

    /// Bytes of buffers.
    pub fn buffer_bytes(&self) -> usize {
        self.buffers.lock().unwrap_or_else(|e| e.into_inner()).bytes()
    }
}

impl Predictor {
    fn new(all: &mut Parameters, i: usize, hidden: usize, last: &Layer) -> Result<Predictor, Error> {
        let name = |part: &str| format!("model.layers.{i}.{part}");
        Ok(Predictor {
            embedding_norm: all.add(name("enorm.weight"), &[hidden], Role::Norm),
            hidden_norm: all.add(name("hnorm.weight"), &[hidden], Role::Norm),
            joint: Linear::new(all, &name("eh_proj"), (hidden, 2 * hidden), false, Role::Matrix),
            layer: LayerNet::new(all, i, hidden, last)?,
            head_norm: all.add(name("shared_head.norm.weight"), &[hidden], Role::Norm),
        })
    }

    /// The loss of each token's next but one, from the normed last hidden states. Adds to their gradient.
    fn train(
        &self,
        network: &Network,
        pass: &mut Pass,
        (settings, weight, balance): (&Settings, f32, Balance),
        normed: &[f32],
        (d_normed, gradients): (&mut [f32], &mut Values),
    ) -> (HeadLoss, Option<Load>) {
        let (hidden, eps, pool, weights) = (network.structure.hidden, pass.norm_eps, pass.pool, pass.weights);
        let batch = pass.batch;
        // The next token. The last of a document has none: no target sees what is computed in its place, but experts are chosen for it too.
        let mut next = batch.tokens.clone();
        let mut targets = vec![NO_TARGET; next.len()];
        for document in &batch.documents {
            for i in document.clone().take(document.len().saturating_sub(1)) {
                next[i] = batch.tokens[i + 1];
                targets[i] = batch.targets[i + 1];
            }
        }
        let embedded = network.embed(pass, &next);
        let [mut left, mut right] = [(); 2].map(|()| pass.buffers.take(normed.len()));
        norm::forward(pool, &embedded, &weights[self.embedding_norm], eps, &mut left);
        norm::forward(pool, normed, &weights[self.hidden_norm], eps, &mut right);
        let mut joined = pass.buffers.take(2 * normed.len());
        for ((both, l), r) in joined.chunks_mut(2 * hidden).zip(left.chunks(hidden)).zip(right.chunks(hidden)) {
            both[..hidden].copy_from_slice(l);
            both[hidden..].copy_from_slice(r);
        }
        let mut x = pass.buffers.take(normed.len());
        self.joint.forward(pass, &joined, &mut x);
        let (last, saved) = self.layer.forward(pass, x, settings.recompute);
        let mut out = pass.buffers.take(last.len());
        norm::forward(pool, &last, &weights[self.head_norm], eps, &mut out);
        let mut d_out = pass.buffers.take(last.len());
        let back = Some((weight, &mut d_out[..], &mut *gradients));
        let loss = head::loss(pass, network.head, (&out, hidden), &targets, back);

        let mut d = pass.buffers.zeros(last.len());
        norm::backward(pool, &last, &weights[self.head_norm], eps, &d_out, &mut d, &mut gradients[self.head_norm]);
        let load = self.layer.backward(pass, saved, balance, &mut d, gradients);
        let mut d_joined = pass.buffers.take(joined.len());
        self.joint.backward(pass, &joined, &d, (&mut d_joined, false), gradients);
        for ((both, l), r) in d_joined.chunks(2 * hidden).zip(left.chunks_mut(hidden)).zip(right.chunks_mut(hidden)) {
            l.copy_from_slice(&both[..hidden]);
            r.copy_from_slice(&both[hidden..]);
        }
        let (d_left, d_right) = (left, right);
        let ids = [self.embedding_norm, self.hidden_norm];
        norm::backward(pool, normed, &weights[ids[1]], eps, &d_right, d_normed, &mut gradients[ids[1]]);
        d.fill(0.0);
        norm::backward(pool, &embedded, &weights[ids[0]], eps, &d_left, &mut d, &mut gradients[ids[0]]);
        for (&token, d) in next.iter().zip(d.chunks(hidden)) {
            let at = token as usize * hidden;
            add(&mut gradients[network.embedding][at..at + hidden], d);
        }
        let all = [embedded, d_left, d_right, joined, last, out, d_out, d, d_joined];
        all.into_iter().for_each(|b| pass.buffers.give(b));
        (loss, load)
    }
}
