//! Why a request or a forward failed, in one line each.

use std::any::Any;

use thiserror::Error;

/// Why a request or a forward failed.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum EngineError {
    /// More tokens than a sequence may have.
    #[error("the prompt has {tokens} tokens, {over} more than the context of {context}; shorten it or raise --context")]
    TooLong {
        /// Tokens.
        tokens: usize,
        /// How many too many.
        over: usize,
        /// Limit.
        context: usize,
    },
    /// Nothing to read.
    #[error("the prompt is empty; give at least one token")]
    Empty,
    /// A token that the model does not have.
    #[error("token {token} is outside the vocabulary of {vocab}")]
    Vocabulary {
        /// Token.
        token: u32,
        /// Vocabulary.
        vocab: usize,
    },
    /// A text is wanted of a model that gives none.
    #[error("this model embeds or scores texts and generates none; use it for that, or another model")]
    NoText,
    /// Outputs are wanted that the model does not have.
    #[error("output {output} is wanted of a model with {outputs}")]
    Output {
        /// Output.
        output: u32,
        /// How many there are.
        outputs: usize,
    },
    /// A file of the weights is not what it was when it was opened.
    #[error("{file} was changed while it was in use; start again to read it as it is now")]
    Changed {
        /// The file.
        file: String,
    },
    /// The model's answer is no number: weights are damaged.
    #[error(
        "the model computed {value} for token {token}: some weight is damaged; `farthing show --check` of this model names the tensor"
    )]
    NotFinite {
        /// First id whose logit is none.
        token: usize,
        /// What it is.
        value: f32,
    },
    /// The queue was full, its account had most requests there, and one of another account came.
    #[error("the queue is full, and most that wait there are yours; send it again later")]
    Displaced,
    /// It waited longer than it wanted to.
    #[error("the request waited {seconds:.1} s for its turn; send it again later, or raise its limit")]
    Waited {
        /// So long.
        seconds: f64,
    },
    /// The text cannot go on as it must.
    #[error("the text cannot go on within its constraint: {0}")]
    Constraint(String),
    /// Its constraint took too long over one token. That budget is the clock's; those of the constraint's own work end in `Constraint`.
    #[error(
        "the constraint took more than {seconds:.0} s to say what may come next; make the schema or grammar simpler"
    )]
    ConstraintLate {
        /// So long.
        seconds: f64,
    },
    /// A mistake in this program, caught.
    #[error("a fault inside: {0}; please report it")]
    Fault(String),
}

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").replace('\n', " ")
}
