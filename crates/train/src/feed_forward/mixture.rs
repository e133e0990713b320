//! A mixture of gated blocks behind a router, and an always-active shared block (DeepSeekMoE, arXiv 2401.06066).

use std::ops::Range;

use kernels::training::{Factor, Gemm, Precision, row_dots, silu_mul_backward};
use model::feed_forward::{Routes, choose};
use model::structure::{Moe, Score};

use super::balance::{Balance, Load, sequence_loss};
use super::dense::{DenseNet, DenseSaved, activated};
use crate::buffers::Buffer;
use crate::parameters::{Id, Parameters, Role};
use crate::pass::{Pass, ROWS, Values, add_all};

pub(crate) struct MixtureNet {
    shape: Moe,
    hidden: usize,
    router: Id,
    choice: Option<Id>,
    /// One after the other for all experts: gates, ups, downs.
    gates: Range<Id>,
    ups: Range<Id>,
    downs: Range<Id>,
    shared: Option<DenseNet>,
}

pub(crate) struct MixtureSaved {
    /// `[tokens, experts]`
    logits: Buffer,
    /// As the model's router tells: of every token, in ascending order of expert.
    routes: Routes,
    lists: Lists,
    /// Gates and ups side by side, `[tokens * active, 2, inner]`, expert after expert, before the activation.
    gate_up: Buffer,
    shared: Option<DenseSaved>,
}

/// Which tokens each expert has.
struct Lists {
    /// Expert after expert, tokens in order.
    tokens: Vec<u32>,
    /// Of each of them, the place in `Routes`.
    places: Vec<u32>,
    /// Where each expert's are.
    ranges: Vec<Range<usize>>,
    /// The inverse of `places`.
    slots: Vec<u32>,
}

impl Lists {
    fn new(routes: &Routes, active: usize, experts: usize) -> Lists {
        let mut counts = vec![0; experts];
        routes.experts.iter().for_each(|&e| counts[e as usize] += 1);
        let mut ranges: Vec<Range<usize>> = Vec::with_capacity(experts);
        let mut at = 0;
        for count in counts {
            ranges.push(at..at);
            at += count;
        }
        let mut lists = Lists { tokens: vec![0; at], places: vec![0; at], slots: vec![0; at], ranges };
        for (place, &expert) in routes.experts.iter().enumerate() {
            let range = &mut lists.ranges[expert as usize];
            lists.tokens[range.end] = (place / active) as u32;
            lists.places[range.end] = place as u32;
            lists.slots[place] = range.end as u32;
            range.end += 1;
        }
        lists
    }

    /// Experts that have tokens.
    fn used(&self) -> impl Iterator<Item = (usize, &Range<usize>)> {
        self.ranges.iter().enumerate().filter(|(_, range)| !range.is_empty())
    }

    fn load(&self) -> Vec<u64> {
        self.ranges.iter().map(|range| range.len() as u64).collect()
    }
}

impl MixtureSaved {
    /// Let go of what a forward saved.
    pub fn give(self, pass: &mut Pass) {
        [self.logits, self.gate_up].into_iter().for_each(|b| pass.buffers.give(b));
        if let Some(shared) = self.shared {
            shared.give(pass);
        }
    }
}

impl MixtureNet {
    pub fn new(all: &mut Parameters, prefix: &str, hidden: usize, shape: &Moe) -> MixtureNet {
        let Moe { experts, hidden: inner, shared_hidden, ref router, .. } = *shape;
        let weight = all.add(format!("{prefix}.mlp.gate.weight"), &[experts, hidden], Role::Router);
        let bias = || all.add(format!("{prefix}.mlp.gate.e_score_correction_bias"), &[experts], Role::Choice);
        let choice = router.bias.then(bias);
        let mut stack = |part: &str, shape: &[usize], role| {
            let ids: Vec<Id> =
                (0..experts).map(|e| all.add(format!("{prefix}.mlp.experts.{e}.{part}.weight"), shape, role)).collect();
            ids[0]..ids[0] + experts
        };
        let gates = stack("gate_proj", &[inner, hidden], Role::Matrix);
        let ups = stack("up_proj", &[inner, hidden], Role::Matrix);
        let downs = stack("down_proj", &[hidden, inner], Role::Output);
        let shared = (shared_hidden > 0)
            .then(|| DenseNet::new(all, &format!("{prefix}.mlp.shared_experts"), hidden, shared_hidden, false));
        MixtureNet { shape: shape.clone(), hidden, router: weight, choice, gates, ups, downs, shared }
    }

    pub fn choice(&self) -> Option<Id> {
        self.choice
    }

    fn router<'a>(&self, pass: &'a Pass) -> Factor<'a> {
        Factor::new(&pass.weights[self.router], self.hidden)
    }

    /// The gate's weight of an expert, and below it the up's.
    fn gate_and_up<'a>(&self, pass: &'a Pass, expert: usize) -> Factor<'a> {
        let [gate, up] = [&self.gates, &self.ups].map(|stack| &pass.weights[stack.start + expert]);
        Factor::stacked(gate, up, self.hidden)
    }

    /// The router's logits, and the choice that the model's router makes of them.
    fn route(&self, pass: &mut Pass, x: &[f32]) -> (Buffer, Routes) {
        let Moe { experts, active, ref router, .. } = self.shape;
        let (tokens, hidden) = (pass.tokens(), self.hidden);
        let mut logits = pass.buffers.take(tokens * experts);
        // Routers compute in f32.
        let product = Gemm { a: Factor::new(x, hidden), b: self.router(pass).t(), out: &mut logits, add: false };
        pass.multiply_in(Precision::F32, &mut [product]);
        let bias = self.choice.map(|id| pass.weights[id].as_slice());
        let mut parts: Vec<(&[f32], Routes)> =
            logits.chunks(ROWS * experts).map(|rows| (rows, Routes::default())).collect();
        pass.pool.each(&mut parts, |(rows, routes)| {
            let mut scores = vec![0f32; experts];
            for row in rows.chunks(experts) {
                scores.copy_from_slice(row);
                choose(router, active, bias, &mut scores, routes);
            }
        });
        let mut routes = Routes::default();
        for (_, part) in parts {
            routes.experts.extend(part.experts);
            routes.weights.extend(part.weights);
        }
        (logits, routes)
    }

    pub fn forward(&self, pass: &mut Pass, x: &[f32], out: &mut [f32]) -> MixtureSaved {
        let Moe { experts, active, hidden: inner, .. } = self.shape;
        let (tokens, hidden) = (pass.tokens(), self.hidden);
        let (logits, routes) = self.route(pass, x);
        let lists = Lists::new(&routes, active, experts);

        let rows = tokens * active;
        let (mut gate_up, mut act) = (pass.buffers.take(2 * rows * inner), pass.buffers.take(rows * inner));
        let (mut products, mut rest) = (Vec::with_capacity(experts), &mut gate_up[..]);
        for (e, range) in lists.used() {
            products.push(Gemm {
                a: Factor::new(x, hidden).rows(&lists.tokens[range.clone()]),
                b: self.gate_and_up(pass, e).t(),
                out: rest.split_off_mut(..2 * range.len() * inner).expect("room for all"),
                add: false,
            });
        }
        pass.multiply(&mut products);
        drop(products);
        activated(pass.pool, &gate_up, inner, &mut act);
        let mut down = pass.buffers.take(rows * hidden);
        let mut products = Vec::with_capacity(experts);
        let mut rest = &mut down[..];
        for (e, range) in lists.used() {
            products.push(Gemm {
                a: Factor::new(&act[range.start * inner..range.end * inner], inner),
                b: Factor::new(&pass.weights[self.downs.start + e], inner).t(),
                out: rest.split_off_mut(..range.len() * hidden).expect("room for all"),
                add: false,
            });
        }
        pass.multiply(&mut products);
        drop(products);
        pass.buffers.give(act);

        // Ascending experts for every token, then the shared block, as in the model.
        let mut parts: Vec<_> = out.chunks_mut(ROWS * hidden).enumerate().collect();
        pass.pool.each(&mut parts, |(part, out)| {
            for (i, out) in out.chunks_mut(hidden).enumerate() {
                out.fill(0.0);
                let first = (*part * ROWS + i) * active;
                for place in first..first + active {
                    let slot = lists.slots[place] as usize;
                    kernels::add_scaled(out, &down[slot * hidden..(slot + 1) * hidden], routes.weights[place]);
                }
            }
        });
        drop(parts);
        pass.buffers.give(down);
        let shared = self.shared.as_ref().map(|block| {
            let mut more = pass.buffers.take(out.len());
            let saved = block.forward(pass, x, &mut more);
            add_all(pass.pool, out, &more);
            pass.buffers.give(more);
            saved
        });
        MixtureSaved { logits, routes, lists, gate_up, shared }
    }

    pub fn backward(
        &self,
        pass: &mut Pass,
        (x, saved): (&[f32], MixtureSaved),
        (dy, balance): (&[f32], Balance),
        dx: &mut [f32],
        gradients: &mut Values,
    ) -> Load {
        let MixtureSaved { logits, routes, lists, mut gate_up, shared } = saved;
        let d_weights = self.experts_backward(pass, (x, &routes, &lists), &mut gate_up, (dy, dx), gradients);
        pass.buffers.give(gate_up);
        if let (Some(block), Some(saved)) = (&self.shared, shared) {
            block.backward(pass, (x, saved), dy, (dx, true), gradients);
        }
        let mut d_logits = pass.buffers.take(logits.len());
        let loss = self.router_backward(pass, (&logits, &routes), (&d_weights, balance), &mut d_logits);
        let mut d_router = std::mem::take(&mut gradients[self.router]);
        let d_rows = Factor::new(&d_logits, self.shape.experts);
        pass.multiply_in(
            Precision::F32,
            &mut [
                Gemm { a: d_rows, b: self.router(pass), out: dx, add: true },
                Gemm { a: d_rows.t(), b: Factor::new(x, self.hidden), out: &mut d_router, add: true },
            ],
        );
        gradients[self.router] = d_router;
        [logits, d_logits].into_iter().for_each(|b| pass.buffers.give(b));
        Load { tokens: lists.load(), loss }
    }

    /// Routed experts: `dx =` and the experts' gradients; returns those of `routes.weights`. `gate_up` is overwritten.
    fn experts_backward(
        &self,
        pass: &mut Pass,
        (x, routes, lists): (&[f32], &Routes, &Lists),
        gate_up: &mut [f32],
        (dy, dx): (&[f32], &mut [f32]),
        gradients: &mut Values,
    ) -> Vec<f32> {
        let inner = self.shape.hidden;
        let (hidden, rows) = (self.hidden, lists.tokens.len());
        let [mut act, mut d_act] = [(); 2].map(|()| pass.buffers.take(rows * inner));
        activated(pass.pool, gate_up, inner, &mut act);
        let mut products = Vec::new();
        let mut rest = &mut d_act[..];
        for (e, range) in lists.used() {
            products.push(Gemm {
                a: Factor::new(dy, hidden).rows(&lists.tokens[range.clone()]),
                b: Factor::new(&pass.weights[self.downs.start + e], inner),
                out: rest.split_off_mut(..range.len() * inner).expect("room for all"),
                add: false,
            });
        }
        pass.multiply(&mut products);
        drop(products);

        // The output is `sum weight * down(act)`: the weight's gradient is that of `act` along `act`.
        let mut along = vec![0f32; rows];
        let chunk = ROWS * inner;
        let by_rows = act.chunks_mut(chunk).zip(d_act.chunks_mut(chunk)).zip(gate_up.chunks_mut(2 * chunk));
        let mut parts: Vec<_> = by_rows.zip(along.chunks_mut(ROWS)).zip(lists.places.chunks(ROWS)).collect();
        pass.pool.each(&mut parts, |((((act, d_act), gate_up), along), places)| {
            row_dots(act, d_act, inner, along);
            let rows = act.chunks_mut(inner).zip(d_act.chunks_mut(inner));
            for (i, (act, d_act)) in rows.enumerate() {
                let weight = routes.weights[places[i] as usize];
                act.iter_mut().for_each(|a| *a *= weight);
                d_act.iter_mut().for_each(|d| *d *= weight);
            }
            silu_mul_backward(gate_up, inner, d_act);
        });
        drop(parts);
        let d_weights = lists.slots.iter().map(|&slot| along[slot as usize]).collect();

        self.weights_backward(pass, (x, lists), (gate_up, &act), dy, gradients);
        let mut d_slots = pass.buffers.take(rows * hidden);
        let (mut products, mut rest) = (Vec::new(), &mut d_slots[..]);
        for (e, range) in lists.used() {
            products.push(Gemm {
                a: Factor::new(&gate_up[2 * range.start * inner..2 * range.end * inner], 2 * inner),
                b: self.gate_and_up(pass, e),
                out: rest.split_off_mut(..range.len() * hidden).expect("room for all"),
                add: false,
            });
        }
        pass.multiply(&mut products);
        drop(products);
        self.gather(pass, lists, &d_slots, dx);
        [act, d_act, d_slots].into_iter().for_each(|b| pass.buffers.give(b));
        d_weights
    }

    /// `out =` the sum of a token's rows in expert after expert, in ascending order of expert.
    fn gather(&self, pass: &Pass, lists: &Lists, slots: &[f32], out: &mut [f32]) {
        let (active, hidden) = (self.shape.active, self.hidden);
        let mut parts: Vec<_> = out.chunks_mut(ROWS * hidden).enumerate().collect();
        pass.pool.each(&mut parts, |(part, out)| {
            for (i, out) in out.chunks_mut(hidden).enumerate() {
                out.fill(0.0);
                let first = (*part * ROWS + i) * active;
                for &slot in &lists.slots[first..first + active] {
                    kernels::add(out, &slots[slot as usize * hidden..(slot as usize + 1) * hidden]);
                }
            }
        });
    }

    /// The experts' own gradients, from those of their gates and ups, and the weighted inputs of their downs.
    fn weights_backward(
        &self,
        pass: &Pass,
        (x, lists): (&[f32], &Lists),
        (gate_up, act): (&[f32], &[f32]),
        dy: &[f32],
        gradients: &mut Values,
    ) {
        let (inner, hidden) = (self.shape.hidden, self.hidden);
        // Gates, ups and downs lie one after the other.
        let all = &mut gradients[self.gates.start..self.downs.end];
        let (d_gates, rest) = all.split_at_mut(self.gates.len());
        let (d_ups, d_downs) = rest.split_at_mut(self.ups.len());
        let mut products = Vec::new();
        for (e, range) in lists.used() {
            let (tokens, part) = (&lists.tokens[range.clone()], range.start * inner..range.end * inner);
            let d_gate_up = Factor::new(&gate_up[2 * part.start..2 * part.end], 2 * inner);
            let (d_gate, d_up) = (d_gate_up.columns(0..inner), d_gate_up.columns(inner..2 * inner));
            let (input, output) = (Factor::new(x, hidden).rows(tokens), Factor::new(dy, hidden).rows(tokens));
            products.push((d_gate.t(), input, std::mem::take(&mut d_gates[e]), e));
            products.push((d_up.t(), input, std::mem::take(&mut d_ups[e]), e));
            products.push((output.t(), Factor::new(&act[part], inner), std::mem::take(&mut d_downs[e]), e));
        }
        let mut weights: Vec<_> =
            products.iter_mut().map(|(a, b, out, _)| Gemm { a: *a, b: *b, out, add: true }).collect();
        pass.multiply(&mut weights);
        drop(weights);
        for three in products.chunks_mut(3) {
            let e = three[0].3;
            for (place, product) in [&mut d_gates[e], &mut d_ups[e], &mut d_downs[e]].into_iter().zip(three) {
                *place = std::mem::take(&mut product.2);
            }
        }
    }

    /// From gradients of the chosen experts' weights, and the balance loss, to those of the router's logits. Returns the mean balance loss.
    fn router_backward(
        &self,
        pass: &Pass,
        (logits, routes): (&[f32], &Routes),
        (d_weights, balance): (&[f32], Balance),
        d_logits: &mut [f32],
    ) -> f64 {
        let Moe { experts, active, ref router, .. } = self.shape;
        let tokens = pass.tokens();
        // Each document's loss counts by its tokens.
        let mut rest = &mut *d_logits;
        let mut parts: Vec<_> = Vec::with_capacity(pass.batch.documents.len());
        for document in &pass.batch.documents {
            let out = rest.split_off_mut(..document.len() * experts).expect("documents of all tokens");
            parts.push((document, out, 0f64));
        }
        pass.pool.each(&mut parts, |(document, out, loss)| {
            let places = document.start * active..document.end * active;
            let logits = &logits[document.start * experts..document.end * experts];
            let mut loads = vec![0u64; experts];
            routes.experts[places.clone()].iter().for_each(|&e| loads[e as usize] += 1);
            let mut shares = logits.to_vec();
            shares.chunks_mut(experts).for_each(|row| shares_of(router.score, row));
            let mut d_shares = vec![0f32; experts];
            let share = document.len() as f64 / tokens as f64;
            *loss = share * sequence_loss(&shares, &loads, active, f64::from(balance.loss) * share, &mut d_shares);
            for (i, out) in out.chunks_mut(experts).enumerate() {
                let of = |x: &'_ [f32]| -> Vec<f32> { x[i * experts..(i + 1) * experts].to_vec() };
                let mut scores = of(logits);
                match router.score {
                    Score::Softmax => kernels::softmax(&mut scores),
                    Score::Sigmoid => kernels::sigmoid(&mut scores),
                }
                let chosen = places.start + i * active..places.start + (i + 1) * active;
                let mut d_scores = vec![0f32; experts];
                chosen_backward(self, &routes.experts[chosen.clone()], &d_weights[chosen], &scores, &mut d_scores);
                score_backward(router.score, &scores, &d_scores, out);
                if balance.loss != 0.0 {
                    share_backward(router.score, &shares[i * experts..(i + 1) * experts], (&scores, &d_shares), out);
                }
            }
        });
        parts.iter().map(|(_, _, loss)| loss).sum()
    }
}

/// A token's affinities as shares of one. Sigmoids are compared by their logarithms, so that affinities which are all too small for a
/// number still have shares: with an epsilon beneath, a router could make the loss small by making them so.
fn shares_of(score: Score, logits: &mut [f32]) {
    if score == Score::Sigmoid {
        // ln sigmoid(x) = -ln(1 + e^-x)
        logits.iter_mut().for_each(|x| *x = x.min(0.0) - (-x.abs()).exp().ln_1p());
    }
    kernels::softmax(logits);
}

/// From weights of the chosen to affinities.
fn chosen_backward(net: &MixtureNet, chosen: &[u32], d_weights: &[f32], scores: &[f32], d_scores: &mut [f32]) {
    let router = &net.shape.router;
    let of = |&e: &u32| scores[e as usize];
    if router.normalize {
        // w_i = scale s_i / sum s
        let total = chosen.iter().map(of).sum::<f32>() + 1e-20;
        let along: f32 = chosen.iter().zip(d_weights).map(|(e, d)| d * of(e)).sum::<f32>() / total;
        for (&e, d) in chosen.iter().zip(d_weights) {
            d_scores[e as usize] += router.scale * (d - along) / total;
        }
    } else {
        for (&e, d) in chosen.iter().zip(d_weights) {
            d_scores[e as usize] += router.scale * d;
        }
    }
}

/// `out =` from affinities to logits.
fn score_backward(score: Score, scores: &[f32], d_scores: &[f32], out: &mut [f32]) {
    let along: f32 = scores.iter().zip(d_scores).map(|(s, d)| s * d).sum();
    for ((out, s), d) in out.iter_mut().zip(scores).zip(d_scores) {
        *out = match score {
            Score::Softmax => s * (d - along),
            Score::Sigmoid => d * s * (1.0 - s),
        };
    }
}

/// `out +=` from shares of one to logits: of sigmoids `ln sigmoid(x)` has the derivative `1 - sigmoid(x)`.
fn share_backward(score: Score, shares: &[f32], (scores, d_shares): (&[f32], &[f32]), out: &mut [f32]) {
    let along: f32 = shares.iter().zip(d_shares).map(|(s, d)| s * d).sum();
    for (i, out) in out.iter_mut().enumerate() {
        let inner = if score == Score::Sigmoid { 1.0 - scores[i] } else { 1.0 };
        *out += shares[i] * (d_shares[i] - along) * inner;
    }
}
