//! Shards to checkpoint: training of the structures that `model` runs, forward and backward written by hand over the kernels.
//!
//! The structure, rotary frequencies, the router's choice and the names of tensors are the model's, so that what is trained is what is served.

mod attention;
mod batch;
mod buffers;
mod error;
mod feed_forward;
mod head;
mod linear;
mod network;
mod norm;
mod optimizer;
mod parameters;
mod pass;
mod start;

pub use batch::{Batch, NO_TARGET};
pub use error::Error;
pub use feed_forward::{Balance, Load};
pub use network::{Network, Outcome, Settings};
pub use start::from_checkpoint;
pub use optimizer::{AdamW, clip};
pub use parameters::{Parameter, Parameters, Role};
