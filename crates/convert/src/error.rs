//! What can go wrong, in one line each that says what to do.

use std::io;
use std::path::{Path, PathBuf};

use model::CheckpointError;
use text::TextError;
use thiserror::Error;

/// Why nothing was written.
#[derive(Debug, Error)]
pub enum ConvertError {
    /// The source cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its tokenizer cannot be written.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The source.
        path: PathBuf,
        /// Why.
        source: TextError,
    },
    /// The system would not write.
    #[error("{}: {source}{}; nothing is left of it", path.display(), full(source))]
    Write {
        /// The file that was to be written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A weight that is no number, or one that the format cannot hold.
    #[error("{}: tensor {tensor} has {value} in row {row}, column {column}, which {format} cannot hold; {next}", path.display())]
    Number {
        /// The source.
        path: PathBuf,
        /// Tensor of the output.
        tensor: String,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// What is there.
        value: f32,
        /// The format that was to be written.
        format: &'static str,
        /// What to do.
        next: &'static str,
    },
    /// A model that cannot be written in this way.
    #[error("{}: {what}", path.display())]
    Refused {
        /// The source.
        path: PathBuf,
        /// What, and what to do.
        what: String,
    },
    /// A person's wish.
    #[error("stopped; nothing is left of {}", path.display())]
    Stopped {
        /// The file that was being written.
        path: PathBuf,
    },
}

fn full(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => " (give another place for it)",
        _ => "",
    }
}

impl ConvertError {
    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> ConvertError {
        |source| ConvertError::Write { path: path.to_path_buf(), source }
    }

    pub(crate) fn refused(path: &Path, what: impl Into<String>) -> ConvertError {
        ConvertError::Refused { path: path.to_path_buf(), what: what.into() }
    }
}
