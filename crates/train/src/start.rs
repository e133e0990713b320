//! What weights a training starts from.

use model::Checkpoint;

use crate::error::Error;
use crate::network::Network;
use crate::parameters::Role;

/// The weights of a Hugging Face checkpoint, widened to f32. A bias of choice or a module of multi-token prediction that it lacks begins as
/// zeros, norms as ones.
///
/// # Errors
/// A tensor that is missing, of another shape, or holds what is no number.
pub fn from_checkpoint(network: &Network, checkpoint: &Checkpoint) -> Result<Vec<Vec<f32>>, Error> {
    let read = |parameter: &crate::Parameter| match parameter.role {
        Role::Choice if !checkpoint.tensors.has(&parameter.name) => Ok(vec![0.0; parameter.len()]),
        _ => checkpoint.tensors.widened(&parameter.name, &parameter.shape),
    };
    Ok(network.parameters.iter().map(read).collect::<Result<_, _>>()?)
}
