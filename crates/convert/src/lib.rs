//! Checkpoints to checkpoints: a model that is read, written as a GGUF file in a mix of formats, or as safetensors; and what is published beside it.
//!
//! It knows no terminal and computes no logits. Memory is bounded by a piece of one tensor, whatever the model's size.

mod card;
mod encode;
mod error;
mod gguf_file;
mod importance;
mod measure;
mod mix;
mod plan;
mod safetensors_file;
mod source;
mod vocabulary;
mod whole_file;

pub use card::{CardData, CardEarlier, CardFiles, CardResult, CardShare, CardTraining, ModelCard};
pub use encode::Progress;
pub use error::ConvertError;
pub use gguf_file::{Written, write_gguf};
pub use importance::{importance_of, read_importance};
pub use measure::Measure;
pub use mix::{MIXES, Mix, ModelFacts};
pub use plan::{GgufPlan, Planned};
pub use safetensors_file::{Averaged, write_safetensors};
pub use source::Source;
pub use vocabulary::ChatTemplates;
pub use whole_file::write_whole;
