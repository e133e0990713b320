//! A mixture of gated blocks behind a router, and an always-active shared block (DeepSeekMoE, arXiv 2401.06066).

use std::any::Any;

use kernels::{Input, Pool, Product, Rows, matmul};

use super::{Buffers, FeedForwardKind, FeedForwardLayer, gated};
use crate::attention::each_row;
use crate::error::CheckpointError;
use crate::identity::IdentityFields;
use crate::loader::Names;
use crate::parameters::{Parameters, sum, times};
use crate::tensors::Kind;
use crate::weight::{GatedBlock, Weight};

/// Routed experts, and an always-active shared block when `shared_hidden > 0`.
#[derive(Clone, Debug, PartialEq)]
pub struct Moe {
    /// Routed experts.
    pub experts: usize,
    /// Experts per token.
    pub active: usize,
    /// Inner width of a routed expert.
    pub hidden: usize,
    /// Inner width of the shared block (all shared experts together); 0 = none.
    pub shared_hidden: usize,
    /// How experts are chosen and weighed.
    pub router: Router,
}

/// How a token's experts are chosen and weighed. Routers compute in f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// Affinity from router logits.
    pub score: Score,
    /// Groups the experts are divided into; 1 = no grouping.
    pub groups: usize,
    /// Groups that may be chosen from; the others count as minus infinity.
    pub groups_active: usize,
    /// How a group is scored.
    pub group_score: GroupScore,
    /// A per-expert bias added for the choice only (noaux_tc, arXiv 2412.19437 section 2.1.2).
    pub bias: bool,
    /// Divide the chosen weights by their sum (+ 1e-20).
    pub normalize: bool,
    /// Factor on the weights after that.
    pub scale: f32,
}

/// Router affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// Softmax over all experts.
    Softmax,
    /// Sigmoid of each.
    Sigmoid,
}

/// Score of a group of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScore {
    /// Largest member (V2).
    Max,
    /// Sum of the two largest members (V3).
    TopTwo,
}

impl FeedForwardKind for Moe {
    fn experts(&self) -> Option<(usize, usize)> {
        Some((self.experts, self.active))
    }

    fn parameters(&self, hidden: usize) -> Parameters {
        let bias = if self.router.bias { self.experts as u64 } else { 0 };
        let fixed = sum(&[times(&[self.experts, hidden]), times(&[3, hidden, self.shared_hidden]), bias]);
        let routed = |n: usize| sum(&[fixed, times(&[3, hidden, self.hidden, n])]);
        Parameters { total: routed(self.experts), active: routed(self.active) }
    }

    fn identify(&self, fields: &mut IdentityFields) {
        let Moe { experts, active, hidden, shared_hidden, router } = self;
        fields.size("moe.experts", *experts);
        fields.size("moe.active", *active);
        fields.size("moe.hidden", *hidden);
        fields.size("moe.shared_hidden", *shared_hidden);
        let Router { score, groups, groups_active, group_score, bias, normalize, scale } = router;
        fields.flag("router.sigmoid", matches!(score, Score::Sigmoid));
        fields.size("router.groups", *groups);
        fields.size("router.groups_active", *groups_active);
        fields.flag("router.top_two", matches!(group_score, GroupScore::TopTwo));
        fields.flag("router.bias", *bias);
        fields.flag("router.normalize", *normalize);
        fields.float("router.scale", *scale);
    }

    fn describe(&self) -> String {
        let Moe { experts, active, hidden, shared_hidden, router } = self;
        let score = if router.score == Score::Softmax { "softmax" } else { "sigmoid" };
        let groups = if router.groups > 1 {
            format!(", {} of {} groups", router.groups_active, router.groups)
        } else {
            String::new()
        };
        let shared = if *shared_hidden > 0 { format!(" + shared {shared_hidden}") } else { String::new() };
        format!("{active} of {experts} experts of {hidden}{shared} ({score}{groups})")
    }

    fn load(&self, names: &Names, i: usize, hidden: usize) -> Result<Box<dyn FeedForwardLayer>, CheckpointError> {
        let Moe { experts, hidden: inner, shared_hidden, ref router, .. } = *self;
        let mixtral = format!("model.layers.{i}.block_sparse_moe");
        let old_mixtral = names.kind == Kind::Safetensors && names.tensors.has(&format!("{mixtral}.gate.weight"));
        let router_weight = if old_mixtral {
            names.whole(&format!("{mixtral}.gate.weight"), experts, hidden)?
        } else {
            names.matrix(i, "mlp.gate", experts, hidden)?
        };
        let bias_name = match names.kind {
            Kind::Safetensors => format!("model.layers.{i}.mlp.gate.e_score_correction_bias"),
            Kind::Gguf => format!("blk.{i}.exp_probs_b.bias"),
        };
        let router_bias = router.bias.then(|| names.vector(&bias_name, experts)).transpose()?;
        let stacked = |part: &str, rows, cols| -> Result<Vec<Weight>, CheckpointError> {
            let together = format!("blk.{i}.ffn_{part}_exps.weight");
            if names.tensors.has(&together) || !names.tensors.has(&format!("blk.{i}.ffn_{part}.0.weight")) {
                return names.stack(&together, experts, rows, cols);
            }
            (0..experts).map(|e| names.whole(&format!("blk.{i}.ffn_{part}.{e}.weight"), rows, cols)).collect()
        };
        let blocks = match names.kind {
            Kind::Gguf => {
                let (gate, up) = (stacked("gate", inner, hidden)?, stacked("up", inner, hidden)?);
                let down = stacked("down", hidden, inner)?;
                let blocks = gate.into_iter().zip(up).zip(down);
                blocks.map(|((gate, up), down)| GatedBlock { gate, up, down }).collect()
            }
            Kind::Safetensors => {
                let part = |e: usize, part: &str| format!("{mixtral}.experts.{e}.{part}.weight");
                let block = |e: usize| match old_mixtral {
                    true => names.block_named(["w1", "w3", "w2"].map(|w| part(e, w)), inner, hidden),
                    false => names.block(i, &format!("mlp.experts.{e}"), inner, hidden),
                };
                (0..experts).map(block).collect::<Result<_, _>>()?
            }
        };
        let shared =
            (shared_hidden > 0).then(|| names.block(i, "mlp.shared_experts", shared_hidden, hidden)).transpose()?;
        Ok(Box::new(MoeLayer { shape: self.clone(), router: router_weight, router_bias, experts: blocks, shared }))
    }
}

/// A layer of it.
pub struct MoeLayer {
    /// Its sizes.
    pub shape: Moe,
    /// `[experts, hidden]`
    pub router: Weight,
    /// `[experts]`, when the router has a choice bias.
    pub router_bias: Option<Vec<f32>>,
    /// One per routed expert.
    pub experts: Vec<GatedBlock>,
    /// The always-active block.
    pub shared: Option<GatedBlock>,
}

/// The chosen experts of every row: `[rows * active]`, ids ascending within a row, and their weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    /// Expert ids.
    pub experts: Vec<u32>,
    /// What each expert's output is multiplied with.
    pub weights: Vec<f32>,
}

impl FeedForwardLayer for MoeLayer {
    fn is_of(&self, kind: &dyn Any) -> bool {
        kind.downcast_ref() == Some(&self.shape)
    }

    fn inputs(&self) -> Vec<&Weight> {
        let blocks = self.experts.iter().chain(&self.shared).flat_map(|b| [&b.gate, &b.up]);
        std::iter::once(&self.router).chain(blocks).collect()
    }

    fn matrices(&mut self) -> Vec<&mut Weight> {
        let blocks = self.experts.iter_mut().chain(&mut self.shared).flat_map(GatedBlock::matrices);
        std::iter::once(&mut self.router).chain(blocks).collect()
    }

    /// `out = sum of the chosen experts' outputs, weighted, in ascending order of expert; then the shared block's`
    fn forward(&self, pool: &Pool, input: Input, buffers: &mut Buffers, out: &mut [f32]) -> Option<Routes> {
        let MoeLayer { shape, experts, shared, .. } = self;
        let active = shape.active;
        let (rows, hidden) = (input.rows, input.cols);
        let mut scores = std::mem::take(&mut buffers.scores);
        scores.resize(rows * experts.len(), 0.0);
        matmul(pool, &mut [Product { weight: self.router.matrix(), input, rows: Rows::All, out: &mut scores }]);
        let mut routes = Routes::default();
        for row in scores.chunks_mut(experts.len()) {
            choose(&shape.router, active, self.router_bias.as_deref(), row, &mut routes);
        }
        buffers.scores = scores;

        // Rows of each expert, in order.
        let mut lists: Vec<Vec<u32>> = vec![Vec::new(); experts.len()];
        for (i, &e) in routes.experts.iter().enumerate() {
            lists[e as usize].push((i / active) as u32);
        }
        let used: Vec<usize> = (0..experts.len()).filter(|&e| !lists[e].is_empty()).collect();
        let mut blocks: Vec<_> = used.iter().map(|&e| (&experts[e], Rows::List(&lists[e]), lists[e].len())).collect();
        blocks.extend(shared.as_ref().map(|block| (block, Rows::All, rows)));
        gated(pool, &blocks, input, buffers);

        // Ascending experts for every row: the order of the sum follows from the row's own choice.
        let mut places = vec![(0usize, 0f32); rows * active];
        let (mut at, mut next) = (0, vec![0; rows]);
        for &e in &used {
            for &row in &lists[e] {
                let place = row as usize * active + next[row as usize];
                places[place] = (at, routes.weights[place]);
                next[row as usize] += 1;
                at += hidden;
            }
        }
        let down = &buffers.down;
        let mut sums: Vec<_> = out.chunks_mut(hidden).zip(places.chunks(active)).enumerate().collect();
        each_row(pool, &mut sums, |(row, (out, places))| {
            out.fill(0.0);
            for &(at, weight) in *places {
                kernels::add_scaled(out, &down[at..at + hidden], weight);
            }
            if shared.is_some() {
                kernels::add(out, &down[at + *row * hidden..at + (*row + 1) * hidden]);
            }
        });
        drop(sums);
        Some(routes)
    }
}

/// Choose a row's experts from its router logits (DeepSeek-V2 section 2.2, V3 section 2.1.2). Ties go to the lower id.
pub fn choose(router: &Router, active: usize, bias: Option<&[f32]>, logits: &mut [f32], routes: &mut Routes) {
    match router.score {
        Score::Softmax => kernels::softmax(logits),
        Score::Sigmoid => kernels::sigmoid(logits),
    }
    let scores = &*logits;
    let mut choice: Vec<f32> = match bias {
        Some(bias) => scores.iter().zip(bias).map(|(s, b)| s + b).collect(),
        None => scores.to_vec(),
    };
    if router.groups > 1 {
        let size = choice.len() / router.groups;
        let group_scores: Vec<f32> = choice
            .chunks(size)
            .map(|group| {
                let best = largest(group, 2);
                match router.group_score {
                    GroupScore::Max => group[best[0]],
                    GroupScore::TopTwo => best.iter().map(|&i| group[i]).sum(),
                }
            })
            .collect();
        let kept = largest(&group_scores, router.groups_active);
        for (g, group) in choice.chunks_mut(size).enumerate() {
            if !kept.contains(&g) {
                group.fill(f32::NEG_INFINITY);
            }
        }
    }
    let mut chosen = largest(&choice, active);
    chosen.sort_unstable();
    let mut total = 0.0;
    for &e in &chosen {
        total += scores[e];
    }
    for &e in &chosen {
        let weight = if router.normalize { scores[e] / (total + 1e-20) } else { scores[e] };
        routes.experts.push(e as u32);
        routes.weights.push(weight * router.scale);
    }
}

/// Indices of the `n` largest, largest first, the lower index before an equal one. A NaN counts as the smallest.
fn largest(x: &[f32], n: usize) -> Vec<usize> {
    let key = |i: usize| if x[i].is_nan() { f32::NEG_INFINITY } else { x[i] };
    let mut best: Vec<usize> = Vec::with_capacity(n + 1);
    for i in 0..x.len() {
        // Most are smaller than all of the best.
        let at = best.iter().rposition(|&b| key(i).total_cmp(&key(b)).is_le()).map_or(0, |last| last + 1);
        if at < n {
            best.insert(at, i);
            best.truncate(n);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(score: Score) -> Router {
        Router {
            score,
            groups: 1,
            groups_active: 1,
            group_score: GroupScore::Max,
            bias: false,
            normalize: false,
            scale: 1.0,
        }
    }

    #[test]
    fn groups_are_masked_with_minus_infinity() {
        // Biased scores of the kept group are negative: a zero in a dropped group must not beat them.
        let router = Router { groups: 2, groups_active: 1, group_score: GroupScore::TopTwo, ..router(Score::Sigmoid) };
        let bias = [-2.0, -2.1, -1.9, -9.0];
        let mut routes = Routes::default();
        choose(&router, 2, Some(&bias), &mut [0.0, 0.0, 0.0, 0.0], &mut routes);
        assert_eq!(routes.experts, [0, 1]);
        assert_eq!(routes.weights, [0.5, 0.5]);
    }

    #[test]
    fn ties_go_to_the_lower_id_and_weights_follow() {
        let mut routes = Routes::default();
        choose(
            &Router { normalize: true, scale: 2.0, ..router(Score::Softmax) },
            2,
            None,
            &mut [1.0, 3.0, 3.0, 3.0],
            &mut routes,
        );
        assert_eq!((routes.experts, routes.weights), (vec![1, 2], vec![1.0, 1.0]));
    }
}
