//! Checkpoints to checkpoints: any model that is read, written as a GGUF file in a mix of formats, or as safetensors; and what is published beside it.
//!
//! It knows no terminal and computes no logits. Memory is bounded by a piece of one tensor, whatever the model's size.

mod encode;
mod error;
mod gguf_file;
mod mix;
mod plan;
mod source;
mod vocabulary;

pub use encode::Progress;
pub use error::ConvertError;
pub use gguf_file::{Written, write_gguf};
pub use mix::{MIXES, Mix, ModelFacts};
pub use plan::{GgufPlan, Planned};
pub use source::Source;
pub use vocabulary::ChatTemplates;
