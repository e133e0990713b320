//! The APIs of OpenAI, DeepSeek and Anthropic: requests parsed and validated, responses written

pub(crate) mod generate;
pub(crate) mod tokenize;
pub mod validate;
pub(crate) mod wire;
