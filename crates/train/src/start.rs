//! What weights a training starts from.

use model::checkpoint::Kind;
use model::families::to_gguf::{GgufPlace, gguf_place};
use model::structure::{Attention, Mla, Pairing};
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

/// Fresh weights: norms are ones; what adds to the stream and biases are zeros, so that every layer begins as nothing; a matrix is normally
/// distributed with the standard deviation of its inputs' root, so that it keeps the size of what it multiplies; embedding and head, whose
/// rows are moved one by one, with 0.02. Each parameter has a stream of its own: it does not depend on the others.
pub fn fresh(network: &Network, seed: u64) -> Vec<Vec<f32>> {
    let fill = |parameter: &Parameter| {
        let normal = |deviation: f64| {
            let name = blake3::hash(parameter.name.as_bytes());
            let name = u64::from_le_bytes(name.as_bytes()[..8].try_into().expect("eight bytes"));
            let mut random = Random::new(&[seed, name]);
            (0..parameter.len()).map(|_| (deviation * random.normal()) as f32).collect()
        };
        match parameter.role {
            Role::Norm => vec![1.0; parameter.len()],
            Role::Output | Role::Bias | Role::Choice => vec![0.0; parameter.len()],
            Role::Embedding | Role::Head => normal(0.02),
            Role::Matrix | Role::Router => normal((1.0 / parameter.shape[1] as f64).sqrt()),
        }
    };
    network.parameters.iter().map(fill).collect()
}
