//! What can go wrong: every message is one line that names the file, the value and the next step.

use std::path::{Path, PathBuf};

use model::CheckpointError;

/// Why something was not trained.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A checkpoint that cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Shards that cannot be read, or a file that cannot be written.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// A part of a structure that has no backward.
    #[error("layer {layer}: {what} is not trained; take a model without it")]
    Structure {
        /// The layer.
        layer: usize,
        /// The part.
        what: &'static str,
    },
    /// A recipe whose settings cannot be.
    #[error("{file}: {problem}", file = .file.display())]
    Recipe {
        /// The recipe.
        file: PathBuf,
        /// What is wrong, with the value, and what would do.
        problem: String,
    },
    /// A loss or gradient that is no number.
    #[error("step {step}: {what} is {value} on {batch}; the last good checkpoint is {checkpoint}; {advice}")]
    Diverged {
        /// The step.
        step: u64,
        /// What is no number.
        what: String,
        /// What it is.
        value: f64,
        /// Which part of the data.
        batch: String,
        /// Where the training can go on from.
        checkpoint: String,
        /// What may help.
        advice: &'static str,
    },
    /// A disk without room for a state.
    #[error(
        "{directory}: a state needs {needed} bytes and {free} are free; the last whole state is {last}; make room, and the same command goes on from it",
        directory = .directory.display()
    )]
    Space {
        /// Where states are.
        directory: PathBuf,
        /// Bytes of a state.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// The newest state on disk, or that there is none.
        last: String,
    },
    /// A state that could not be written, though there seemed to be room.
    #[error("no state was written: {source}; the last whole state is {last}; the same command goes on from it")]
    Unsaved {
        /// What the system said.
        source: Box<Error>,
        /// The newest state on disk, or that there is none.
        last: String,
    },
    /// What went wrong on another rank.
    #[error("rank {rank}: {message}")]
    Rank {
        /// The rank.
        rank: usize,
        /// Its error.
        message: String,
    },
    /// Ranks that would not take the same steps.
    #[error(
        "{what}: {own}, where rank 0 has {first}; give all ranks the same program, recipe, data and states, in directories that all of them see"
    )]
    Unlike {
        /// What differs.
        what: &'static str,
        /// This rank's.
        own: String,
        /// Rank 0's.
        first: String,
    },
    /// A library of MPI that cannot be used.
    #[error("MPI gives no threads beside its own ({library}); build it with thread support, or leave the launcher out")]
    Mpi {
        /// What the library says of itself.
        library: String,
    },
    /// Somebody wanted it to stop.
    #[error("stopped; the same command goes on from here")]
    Stopped,
}

impl Error {
    /// A file that is not what it is taken for.
    pub(crate) fn file(file: impl AsRef<Path>, problem: impl Into<String>) -> Error {
        Error::Data(data::Error::file(file, problem))
    }

    /// A refusal of the system.
    pub(crate) fn io(file: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        |source| Error::Data(data::Error::io(file)(source))
    }
}
