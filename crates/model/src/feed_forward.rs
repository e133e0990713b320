//! What happens to each token alone: a gated block, or a mixture of them behind a router.

use kernels::{Hidden, Input, Pool, Product, Quantized, Rows, matmul};

use crate::structure::{GroupScore, Router, Score};
use crate::weight::{BlockBiases, GatedBlock, Weight};

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

/// The chosen experts of every row: `[rows * active]`, ids ascending within a row, and their weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    /// Expert ids.
    pub experts: Vec<u32>,
    /// What each expert's output is multiplied with.
    pub weights: Vec<f32>,
}

/// Whether any of these weights takes quantised input.
pub(crate) fn quantized_wanted<'a>(weights: impl IntoIterator<Item = &'a Weight>) -> bool {
    weights.into_iter().any(|w| w.format.wants_quantized_input())
}

/// `out[rows, hidden] = block(x[rows, hidden])`
pub fn dense(
    pool: &Pool,
    block: &GatedBlock,
    biases: Option<&BlockBiases>,
    input: Input,
    buffers: &mut Buffers,
    out: &mut [f32],
) {
    if let Some(biases) = biases {
        return biased(pool, block, biases, input, buffers, out);
    }
    let one = [(block, Rows::All, input.rows)];
    gated(pool, &one, input, buffers);
    out.copy_from_slice(&buffers.down[..out.len()]);
}

/// As `dense`, with biases: the fused kernel has no place for them, so the halves are made one after the other.
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

/// `out = sum of the chosen experts' outputs, weighted, in ascending order of expert; then the shared block's`
#[allow(clippy::too_many_arguments)] // a layer's parts, named where it is called
pub fn mixture(
    pool: &Pool,
    router: &Router,
    active: usize,
    router_weight: &Weight,
    router_bias: Option<&[f32]>,
    experts: &[GatedBlock],
    shared: Option<&GatedBlock>,
    input: Input,
    buffers: &mut Buffers,
    out: &mut [f32],
) -> Routes {
    let (rows, hidden) = (input.rows, input.cols);
    let mut scores = std::mem::take(&mut buffers.scores);
    scores.resize(rows * experts.len(), 0.0);
    matmul(pool, &mut [Product { weight: router_weight.matrix(), input, rows: Rows::All, out: &mut scores }]);
    let mut routes = Routes::default();
    for row in scores.chunks_mut(experts.len()) {
        choose(router, active, router_bias, row, &mut routes);
    }
    buffers.scores = scores;

    // Rows of each expert, in order.
    let mut lists: Vec<Vec<u32>> = vec![Vec::new(); experts.len()];
    for (i, &e) in routes.experts.iter().enumerate() {
        lists[e as usize].push((i / active) as u32);
    }
    let used: Vec<usize> = (0..experts.len()).filter(|&e| !lists[e].is_empty()).collect();
    let mut blocks: Vec<_> = used.iter().map(|&e| (&experts[e], Rows::List(&lists[e]), lists[e].len())).collect();
    blocks.extend(shared.map(|block| (block, Rows::All, rows)));
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
    let sum = |(row, (out, places)): &mut (usize, (&mut [f32], &[(usize, f32)]))| {
        out.fill(0.0);
        for &(at, weight) in *places {
            kernels::add_scaled(out, &down[at..at + hidden], weight);
        }
        if shared.is_some() {
            kernels::add(out, &down[at + *row * hidden..at + (*row + 1) * hidden]);
        }
    };
    if rows < 8 {
        sums.iter_mut().for_each(sum)
    } else {
        pool.each(&mut sums, sum)
    }
    drop(sums);
    routes
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
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| key(b).total_cmp(&key(a)).then(a.cmp(&b)));
    order.truncate(n);
    order
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
