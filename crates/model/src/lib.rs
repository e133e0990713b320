//! Checkpoint to logits: reads checkpoints of other people's making, and runs the one forward over their structure.
//!
//! It knows no request, no sampling and no text, and has no threads of its own.

pub mod attention;
pub mod batch;
pub mod cache;
pub mod checkpoint;
mod error;
pub mod families;
pub mod feed_forward;
pub mod gguf;
mod identity;
mod loader;
pub mod mmap;
mod parameters;
pub mod plan;
mod rope;
pub mod settings;
pub mod structure;
pub mod tensors;
pub mod transformer;
pub mod weight;
pub mod weights;

pub use batch::{Batch, Span, Wanted};
pub use cache::{Cache, CacheFormat, CacheLayout};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use transformer::{ExpertCounts, Scratch, Trace, Transformer};
