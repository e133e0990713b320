//! Why something could not be done, in one line each.

use convert::ConvertError;
use engine::{EngineError, SamplingError, SubmitError};
use hub::HubError;
use model::checkpoint::CheckpointError;
use text::TextError;
use thiserror::Error;

/// What to do where strangers' programs would have to run in this process.
pub(crate) const NOT_ISOLATED: &str = "strangers' chat templates and constraints run in processes of their own: call farthing::isolate() as the first thing in main";

/// Why something could not be done. Each message is one line that names the value and the next step.
#[derive(Debug, Error)]
pub enum Error {
    /// An option or a name that cannot be used here; the message names it as the command line does (`--context 0: ...`).
    #[error("{0}")]
    Argument(String),
    /// The checkpoint cannot be read or run.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A model cannot be written in another format.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// The model needs more memory than is available.
    #[error("it needs {needs}, but {available} are available; {advice}")]
    DoesNotFit {
        /// The memory plan in words.
        needs: String,
        /// Available memory in words.
        available: String,
        /// What would fit.
        advice: String,
    },
    /// The tokenizer, the chat template or what stands beside them cannot be used.
    #[error("{0}")]
    Tokenizer(String),
    /// A text cannot be tokenized, or the chat template refused the messages.
    #[error(transparent)]
    Text(#[from] TextError),
    /// No model of that name.
    #[error("{0}")]
    NoModel(String),
    /// The hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A pull was stopped by its `Progress`.
    #[error("{name}: stopped; `farthing pull {name}` goes on from here")]
    Stopped {
        /// The model.
        name: String,
    },
    /// A model that would not run here was not fetched.
    #[error("{name}: not fetched, it would not {what}: {why}; `farthing pull --anyway` fetches it all the same")]
    NotFetched {
        /// The model.
        name: String,
        /// `load` or `run here`.
        what: &'static str,
        /// The reason, and what would run.
        why: String,
    },
    /// Values for the sampler that the model's own files give and that cannot be used.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The engine refused a request.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The engine failed at a request.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A server without `isolate`.
    #[error("{NOT_ISOLATED}")]
    NotIsolated,
    /// A process for isolated work does not start.
    #[error("the model's chat template runs in a process of its own, but {0}")]
    Isolation(String),
    /// A model that was loaded to be served failed.
    #[error("{0}")]
    Serve(String),
    /// A file.
    #[error("{file}: {source}{step}")]
    File {
        /// Its path.
        file: String,
        /// The system's error.
        source: std::io::Error,
        /// What to do, after a semicolon; or nothing.
        step: &'static str,
    },
    /// The system.
    #[error(transparent)]
    System(#[from] std::io::Error),
}
