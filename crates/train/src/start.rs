//! What weights a training starts from.

use model::checkpoint::Kind;
use model::families::to_gguf::{GgufPlace, gguf_place};
use model::structure::{Attention, Head, Mla, Pairing};
use model::{Checkpoint, CheckpointError};

use crate::error::Error;
use crate::network::Network;
use crate::parameters::{Parameter, Role};
use crate::random::Random;

/// The weights of a checkpoint, widened to f32. A bias of choice that it lacks begins as zeros.
///
/// # Errors
/// A tensor that is missing, of another shape, or holds what is no number.
pub fn from_checkpoint(network: &Network, checkpoint: &Checkpoint) -> Result<Vec<Vec<f32>>, Error> {
    let read = |parameter: &Parameter| match checkpoint.kind {
        Kind::Gguf => from_gguf(network, checkpoint, parameter),
        Kind::Safetensors if lacks(checkpoint, parameter, &parameter.name) => Ok(vec![0.0; parameter.len()]),
        Kind::Safetensors => checkpoint.tensors.widened(&parameter.name, &parameter.shape),
    };
    Ok(network.parameters.iter().map(read).collect::<Result<_, _>>()?)
}

/// A bias of choice may be absent: such checkpoints were balanced by a loss.
fn lacks(checkpoint: &Checkpoint, parameter: &Parameter, stored: &str) -> bool {
    parameter.role == Role::Choice && !checkpoint.tensors.has(stored)
}

/// A parameter of a GGUF file, whose names, stacks of experts and order of rows are llama.cpp's.
fn from_gguf(network: &Network, checkpoint: &Checkpoint, parameter: &Parameter) -> Result<Vec<f32>, CheckpointError> {
    let missing = |tensor: &str| CheckpointError::Missing { path: checkpoint.path.clone(), tensor: tensor.to_string() };
    let tensors = &checkpoint.tensors;
    match gguf_place(&parameter.name, network.structure.layers.len()) {
        Some(GgufPlace::Whole { name, .. }) if lacks(checkpoint, parameter, &name) => Ok(vec![0.0; parameter.len()]),
        Some(GgufPlace::Whole { name, keys }) => {
            let stored = tensors.widened(&name, &parameter.shape)?;
            match (keys, checkpoint.structure.layers.first().map(|layer| &layer.attention)) {
                (Some(keys), Some(Attention::Gqa(gqa))) if gqa.rope.pairing == Pairing::Interleaved => {
                    let heads = if keys { gqa.kv_heads } else { gqa.heads };
                    Ok(halves(&stored, parameter.shape[0], heads))
                }
                _ => Ok(stored),
            }
        }
        Some(GgufPlace::Expert { name, expert }) => expert_of(checkpoint, &name, expert, parameter),
        Some(GgufPlace::Expansion { names: [keys, values] }) => {
            let joint = keys.replace("attn_k_b", "attn_kv_b");
            if tensors.has(&joint) {
                return tensors.widened(&joint, &parameter.shape);
            }
            let first = checkpoint.structure.layers.first().map(|layer| &layer.attention);
            let Some(Attention::Mla(mla)) = first else { return Err(missing(&keys)) };
            expansion(checkpoint, mla, [&keys, &values])
        }
        Some(GgufPlace::Nowhere) | None => Err(missing(&parameter.name)),
    }
}

/// Rows of heads whose channels rotate as neighbours, in the order of channels that rotate half a head apart: llama.cpp's converter permutes
/// q and k of some architectures.
fn halves(stored: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (cols, width) = (stored.len() / rows, rows / heads);
    let mut out = vec![0.0; stored.len()];
    for (row, numbers) in stored.chunks(cols).enumerate() {
        let (head, at) = (row / width, row % width);
        let to = head * width + at % 2 * (width / 2) + at / 2;
        out[to * cols..(to + 1) * cols].copy_from_slice(numbers);
    }
    out
}

/// Rows of a tensor of this shape, decoded and finite.
fn rows(
    checkpoint: &Checkpoint,
    name: &str,
    shape: &[usize],
    range: std::ops::Range<usize>,
) -> Result<Vec<f32>, CheckpointError> {
    let weight = checkpoint.tensors.rows(name)?;
    let found = &checkpoint.tensors.by_name[name].shape;
    let damaged = |what: String| CheckpointError::Damaged { path: checkpoint.path.clone(), what };
    if found != shape {
        return Err(damaged(format!("tensor {name} has the shape {found:?}; the model needs {shape:?}")));
    }
    let mut out = vec![0.0; range.len() * weight.cols];
    let part = weight.view(range.start, range.len());
    out.chunks_mut(weight.cols).enumerate().for_each(|(row, out)| part.matrix().decode_row(row, out));
    match out.iter().position(|x| !x.is_finite()) {
        None => Ok(out),
        Some(at) => Err(damaged(format!("tensor {name} holds {}; it is damaged: fetch it again", out[at]))),
    }
}

/// An expert's matrix in the stack of all.
fn expert_of(
    checkpoint: &Checkpoint,
    name: &str,
    expert: usize,
    parameter: &Parameter,
) -> Result<Vec<f32>, CheckpointError> {
    let &[own, cols] = &parameter.shape[..] else { unreachable!("an expert has matrices") };
    let mixtures = checkpoint.structure.layers.iter().filter_map(|layer| layer.feed_forward.experts());
    let experts = mixtures.map(|(experts, _)| experts).max().unwrap_or(0);
    rows(checkpoint, name, &[experts, own, cols], expert * own..(expert + 1) * own)
}

/// MLA's expansion `[heads * (nope + value), rank]` from keys `[heads, rank, nope]` and values `[heads, value, rank]`.
fn expansion(checkpoint: &Checkpoint, mla: &Mla, names: [&str; 2]) -> Result<Vec<f32>, CheckpointError> {
    let Mla { heads, kv_rank: rank, nope_dim: nope, value_dim: value, .. } = *mla;
    let keys = rows(checkpoint, names[0], &[heads, rank, nope], 0..heads * rank)?;
    let values = rows(checkpoint, names[1], &[heads, value, rank], 0..heads * value)?;
    let mut out = Vec::with_capacity(heads * (nope + value) * rank);
    for (keys, values) in keys.chunks(rank * nope).zip(values.chunks(value * rank)) {
        out.extend((0..nope).flat_map(|channel| keys.iter().skip(channel).step_by(nope)));
        out.extend(values);
    }
    Ok(out)
}

/// Standard deviations of a fresh embedding: of what is each row's own, and of what all rows share.
///
/// Nothing else in these structures is constant, and without something constant in queries and rotary keys no head can prefer a distance:
/// with rows that share nothing (and of 0.02, as embeddings often begin) the first three of six layers saw all tokens alike after 84 million
/// tokens, and a token's row was lost beside what the first block made of it. docs/TRAIN.md has the measurements.
const EMBEDDING: [f64; 2] = [0.3, 0.9];

/// Fresh weights: norms are ones; what adds to the stream and biases are zeros, so that every layer begins as nothing; a matrix is normally
/// distributed with the standard deviation of its inputs' root, so that it keeps the size of what it multiplies; the embedding's rows are
/// of size one, mostly shared; the head's rows, and an embedding's that is the head too, have a deviation of 0.02. Each parameter has a stream
/// of its own: it does not depend on the others.
pub fn fresh(network: &Network, seed: u64) -> Vec<Vec<f32>> {
    let tied = network.structure.head == Head::Tied;
    let fill = |parameter: &Parameter| {
        let normal = |count: usize, deviation: f64, what: &str| -> Vec<f32> {
            let name = blake3::hash(what.as_bytes());
            let name = u64::from_le_bytes(name.as_bytes()[..8].try_into().expect("eight bytes"));
            let mut random = Random::new(&[seed, name]);
            (0..count).map(|_| (deviation * random.normal()) as f32).collect()
        };
        let own = |deviation| normal(parameter.len(), deviation, &parameter.name);
        match parameter.role {
            Role::Norm => vec![1.0; parameter.len()],
            Role::Output | Role::Bias | Role::Choice => vec![0.0; parameter.len()],
            Role::Embedding if !tied => {
                let [each, all] = EMBEDDING;
                let shared = normal(parameter.shape[1], all, &format!("{}, shared", parameter.name));
                let mut rows = own(each);
                rows.chunks_mut(shared.len()).for_each(|row| row.iter_mut().zip(&shared).for_each(|(x, s)| *x += s));
                rows
            }
            Role::Embedding | Role::Head => own(0.02),
            Role::Matrix | Role::Router => own((1.0 / parameter.shape[1] as f64).sqrt()),
        }
    };
    network.parameters.iter().map(fill).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::sizes::{Kind, Wanted};

    fn network(tied: bool) -> Network {
        let given = Map::from_iter([("tie_word_embeddings".to_string(), json!(tied))]);
        let wanted = Wanted { kind: Kind::MlaMoe, active: 1_000_000, vocabulary: 600, context: 64, given };
        Network::new(wanted.config().unwrap().1, false).unwrap()
    }

    /// The size of what all rows of a fresh embedding share, and that of a row's rest.
    fn sizes(network: &Network) -> [f64; 2] {
        let at = network.parameters.iter().position(|p| p.role == Role::Embedding).unwrap();
        let [rows, width] = network.parameters[at].shape[..] else { panic!("a matrix") };
        let table = &fresh(network, 3)[at];
        let size = |squares: f64, count: usize| (squares / count as f64).sqrt();
        let mean =
            |column: usize| table.iter().skip(column).step_by(width).map(|&x| f64::from(x)).sum::<f64>() / rows as f64;
        let means: Vec<f64> = (0..width).map(mean).collect();
        let rest: f64 = table.iter().zip(means.iter().cycle()).map(|(&x, mean)| (f64::from(x) - mean).powi(2)).sum();
        [size(means.iter().map(|m| m * m).sum(), width), size(rest, table.len())]
    }

    #[test]
    fn rows_of_a_fresh_embedding_share_most_of_what_they_are() {
        let [shared, own] = sizes(&network(false));
        assert!((0.75..1.05).contains(&shared) && (0.29..0.31).contains(&own), "{shared} {own}");
        // 600 rows of 0.02 have a mean of 0.0008.
        let [shared, own] = sizes(&network(true));
        assert!(shared < 0.002 && (0.019..0.021).contains(&own), "{shared} {own}");
    }
}
