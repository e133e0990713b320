//! What can go wrong.

use model::CheckpointError;

/// Why something was not trained.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A checkpoint that cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A part of a structure that has no backward.
    #[error("layer {layer}: {what} is not trained; take a model without it")]
    Structure {
        /// The layer.
        layer: usize,
        /// The part.
        what: &'static str,
    },
}
