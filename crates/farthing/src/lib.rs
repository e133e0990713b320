//! Run and serve language models (DeepSeek, Llama, Qwen, Mistral, Gemma and others) on one ordinary machine.
//!
//! [`Model`] opens a checkpoint (a Hugging Face directory or a GGUF file, by path or by name) and generates text. [`PlannedModel`] says what
//! a model takes before a weight is read, [`inspect()`] what it is. [`Server`] serves models over HTTP to the clients of OpenAI, DeepSeek and
//! Anthropic. The command `farthing` is built on this crate.
//!
//! ```no_run
//! use farthing::{Message, Model};
//!
//! // Chat templates of models from elsewhere run in processes of their own; this starts them.
//! farthing::isolate();
//! let model = Model::open("Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0")?;
//! for piece in model.chat(&[Message::user("Why is the sky blue?")], &model.options())? {
//!     print!("{}", piece?);
//! }
//! # Ok::<(), farthing::Error>(())
//! ```
//!
//! Environment: `FARTHING_ISA=scalar|avx2|avx512` pins an instruction set; `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` as for
//! other tools of the Hugging Face hub.

mod answer;
pub mod average;
mod bundled;
mod candidate;
mod error;
mod generation;
pub mod inspect;
mod isolation;
pub mod known;
mod library;
pub mod loading;
pub mod machine;
pub mod names;
pub mod pace;
mod paths;
pub mod power;
pub mod publish;
pub mod quantize;
mod scoring;
pub mod server;
pub mod stand_in;
mod tokenizer;
pub mod words;

pub use answer::{Answer, Poll};
pub use bundled::bundled;
pub use engine::{Finish, Sampling, Timing};
pub use error::Error;
pub use generation::{GenerateOptions, Model};
pub use inspect::inspect;
pub use isolation::isolate;
pub use loading::{LoadOptions, LoadedModel, PlannedModel};
pub use paths::xdg;
pub use quantize::quantize;
pub use scoring::Scoring;
pub use serve::http::api_keys::ApiKeys;
pub use serve::{Access, ServerLimits, Tls};
pub use server::{ModelSource, Server, ServerOptions};
pub use text::chat::{Message, Role};
pub use tokenizer::{TokenizerParts, save_tokenizer, tokenizer};
