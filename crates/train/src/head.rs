//! From the last hidden states to the loss, some rows at a time: all logits of a batch would be its largest buffer by far.

use kernels::training::{Factor, Gemm, cross_entropy};

use crate::batch::NO_TARGET;
use crate::parameters::Id;
use crate::pass::{Pass, Values};

/// Rows whose logits are there at once.
const CHUNK: usize = 512;

/// What a head's targets cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct HeadLoss {
    /// Nats over all targets.
    pub sum: f64,
    pub targets: usize,
}

/// The loss of `x[tokens, hidden]` (normed) against `targets`. With `gradients`, `d_x =` and the head's own gradient, each target's loss
/// having the factor `weight`.
pub(crate) fn loss(
    pass: &mut Pass,
    head: Id,
    (x, hidden): (&[f32], usize),
    targets: &[u32],
    mut back: Option<(f32, &mut [f32], &mut Values)>,
) -> HeadLoss {
    let wanted: Vec<u32> = (0..targets.len() as u32).filter(|&i| targets[i as usize] != NO_TARGET).collect();
    let vocab = pass.weights[head].len() / hidden;
    if let Some((_, d_x, _)) = &mut back {
        let mut parts: Vec<_> = d_x.chunks_mut(CHUNK * hidden).collect();
        pass.pool.each(&mut parts, |part| part.fill(0.0));
    }
    let mut sum = 0.0;
    let rows = Factor::new(x, hidden);
    let most = CHUNK.min(targets.len());
    let (mut logits, mut d_rows) = (pass.buffers.take_fixed(most * vocab), pass.buffers.take_fixed(most * hidden));
    for list in wanted.chunks(CHUNK) {
        let (logits, d_rows) = (&mut logits[..list.len() * vocab], &mut d_rows[..list.len() * hidden]);
        let table = Factor::new(&pass.weights[head], hidden);
        pass.multiply(&mut [Gemm { a: rows.rows(list), b: table.t(), out: logits, add: false }]);
        let weight = back.as_ref().map_or(0.0, |(weight, ..)| *weight);
        let mut losses: Vec<_> = logits.chunks_mut(vocab).zip(list).map(|(row, &i)| (row, i, 0f32)).collect();
        pass.pool.each(&mut losses, |(row, i, loss)| *loss = cross_entropy(row, targets[*i as usize] as usize, weight));
        sum += losses.iter().map(|l| f64::from(l.2)).sum::<f64>();
        if let Some((_, d_x, gradients)) = &mut back {
            let mut d_head = std::mem::take(&mut gradients[head]);
            let d_logits = Factor::new(logits, vocab);
            pass.multiply(&mut [
                Gemm { a: d_logits, b: table, out: d_rows, add: false },
                Gemm { a: d_logits.t(), b: rows.rows(list), out: &mut d_head, add: true },
            ]);
            gradients[head] = d_head;
            for (d_row, &i) in d_rows.chunks(hidden).zip(list) {
                d_x[i as usize * hidden..(i as usize + 1) * hidden].copy_from_slice(d_row);
            }
        }
    }
    [logits, d_rows].into_iter().for_each(|b| pass.buffers.give(b));
    HeadLoss { sum, targets: wanted.len() }
}
