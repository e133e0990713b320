//! What weights a training starts from.

use model::Checkpoint;

use crate::error::Error;
use crate::network::Network;
use crate::parameters::{Parameter, Role};
use crate::random::Random;

/// The weights of a Hugging Face checkpoint, widened to f32. A bias of choice that it lacks begins as zeros.
///
/// # Errors
/// A tensor that is missing, of another shape, or holds what is no number.
pub fn from_checkpoint(network: &Network, checkpoint: &Checkpoint) -> Result<Vec<Vec<f32>>, Error> {
    let read = |parameter: &Parameter| match parameter.role {
        Role::Choice if !checkpoint.tensors.has(&parameter.name) => Ok(vec![0.0; parameter.len()]),
        _ => checkpoint.tensors.widened(&parameter.name, &parameter.shape),
    };
    Ok(network.parameters.iter().map(read).collect::<Result<_, _>>()?)
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
