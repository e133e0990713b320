//! What can be wrong with a checkpoint, in one line each.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// What can be wrong with a checkpoint. Each message is one line that says what to do.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The system would not read it.
    #[error("{}: {source}", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Bytes that cannot be what they claim.
    #[error("{}: {what}", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// What.
        what: String,
    },
    /// Sound, but not for this program.
    #[error("{}: not supported: {what}", path.display())]
    Unsupported {
        /// File.
        path: PathBuf,
        /// What, and what is supported.
        what: String,
    },
    /// A configuration value that cannot be.
    #[error("{}: {key} is {value}; it must be {expected}", path.display())]
    Config {
        /// File.
        path: PathBuf,
        /// Key.
        key: String,
        /// Its value.
        value: String,
        /// What would do.
        expected: String,
    },
    /// A tensor that the structure needs is not there.
    #[error("{}: tensor {tensor} is missing; the checkpoint is incomplete: fetch it again", path.display())]
    Missing {
        /// File.
        path: PathBuf,
        /// Name.
        tensor: String,
    },
    /// A tensor that the structure has no use for.
    #[error(
        "{}: tensor {tensor}{} is in the checkpoint, but the model as its configuration describes it does not use it; \
        check the two against each other (biases, layers, kind of router), or take another checkpoint",
        path.display(), and_others(*others)
    )]
    Unused {
        /// File.
        path: PathBuf,
        /// Name.
        tensor: String,
        /// Other tensors of which the same is true.
        others: usize,
    },
    /// A tensor's shape contradicts the configuration.
    #[error("{}: tensor {tensor} has shape {found:?}, the configuration says {expected:?}", path.display())]
    Shape {
        /// File.
        path: PathBuf,
        /// Name.
        tensor: String,
        /// In the file, outermost first.
        found: Vec<usize>,
        /// By the configuration.
        expected: Vec<usize>,
    },
}

fn and_others(others: usize) -> String {
    if others == 0 { String::new() } else { format!(" (and {others} more)") }
}

impl CheckpointError {
    /// Bytes that cannot be what they claim.
    pub fn damaged(path: &Path, what: impl Into<String>) -> Self {
        CheckpointError::Damaged { path: path.to_path_buf(), what: what.into() }
    }

    /// Sound, but not for this program.
    pub fn unsupported(path: &Path, what: impl Into<String>) -> Self {
        CheckpointError::Unsupported { path: path.to_path_buf(), what: what.into() }
    }

    pub(crate) fn read(path: &Path, source: std::io::Error) -> Self {
        CheckpointError::Read { path: path.to_path_buf(), source }
    }
}
