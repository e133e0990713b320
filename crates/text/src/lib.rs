//! Text to tokens and back: tokenizers, incremental detokenizer, stop strings, chat templates, parsers of reasoning and tool calls, constrained output.
//!
//! It knows no model and reads no file: it is given bytes.

pub mod chat;
pub mod detokenizer;
pub mod ends;
pub mod families;
mod gguf_tokenizer;
mod gguf_vocabulary;
pub mod grammar;
mod growth;
mod least;
pub mod reply;
pub mod tokenizer;

pub use detokenizer::{Detokenizer, StopStrings};
pub use gguf_tokenizer::Vocabulary;
pub use tokenizer::{Tokenizer, panic_is_caught};

use thiserror::Error;

/// What can be wrong with text that comes from outside. Each message is one line.
#[derive(Debug, Error)]
pub enum TextError {
    /// The tokenizer's description cannot be used.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A text that is too long to take.
    #[error("the text has {bytes} bytes; at most {max} are taken at once: split it")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// Limit.
        max: usize,
    },
    /// A text of more tokens than are taken.
    #[error("the text has at least {least} tokens; at most {most} are taken: shorten it")]
    TooMany {
        /// It has no fewer.
        least: usize,
        /// Limit.
        most: usize,
    },
    /// Nobody waits for it any more.
    #[error("nobody waits for this text any more")]
    Left,
    /// The chat template took more steps than any sound one does.
    #[error(
        "the model's chat template does not come to an end: give the model another one (chat_template.jinja), or fetch it again"
    )]
    EndlessTemplate,
    /// The chat template cannot be used, or refused the conversation.
    #[error("chat template: {0}")]
    Template(String),
}
