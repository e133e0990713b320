//! Checkpoint to logits: reads checkpoints of other people's making, and runs the one forward over their structure.
//!
//! It knows no request, no sampling and no text, and has no threads of its own.

pub mod mmap;
pub mod structure;
pub mod weight;
