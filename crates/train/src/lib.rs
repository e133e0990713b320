//! Shards to checkpoint: training of the structures that `model` runs, forward and backward written by hand over the kernels.
//!
//! The structure, rotary frequencies, the router's choice and the names of tensors are the model's, so that what is trained is what is served.

mod arithmetic;
mod attention;
mod batch;
mod buffers;
mod checkpoint;
pub mod corpus;
mod error;
pub mod events;
pub mod export;
mod feed_forward;
mod head;
mod linear;
pub mod log;
mod memory;
#[cfg(feature = "mpi")]
mod mpi;
pub mod network;
mod norm;
pub mod optimizer;
mod parameters;
mod pass;
mod random;
pub mod ranks;
pub mod recipe;
pub mod samples;
pub mod schedule;
mod setup;
pub mod sizes;
pub mod speed;
mod start;
mod tokenizer;
pub mod trainer;
mod whole;

pub use batch::{Batch, NO_TARGET};
pub use error::Error;
pub use feed_forward::{Balance, Load};
pub use memory::Memory;
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use network::{Network, Outcome, Settings};
pub use optimizer::clip;
pub use parameters::{Parameter, Parameters, Role};
pub use recipe::Recipe;
pub use setup::{Measured, Setup};
pub use start::{fresh, from_checkpoint};
pub use trainer::{Evaluation, Observer, Samples, Step, Trainer};
