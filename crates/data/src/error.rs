//! What can go wrong: every message is one line that names the file, the value and the next step; files that are missing have a line each

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error as ThisError;

/// Why a corpus could not be made. Damaged records are not among it: they are counted and kept aside.
#[derive(Debug, ThisError)]
pub enum Error {
    /// A recipe that cannot be followed.
    #[error("{file}:{line}: {problem}", file = .file.display())]
    Recipe {
        /// The recipe.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong, with the value, and what would do.
        problem: String,
    },
    /// A file that is not what the recipe takes it for.
    #[error("{file}: {problem}", file = .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong, with the value, and what would do.
        problem: String,
    },
    /// Files that sources need are not there.
    #[error("{}", .0.iter().map(Missing::to_string).collect::<Vec<_>>().join("\n"))]
    Missing(Vec<Missing>),
    /// The system refused.
    #[error("{file}: {source}{}", hint(source), file = .file.display())]
    Io {
        /// The file or directory.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody wanted it to stop.
    #[error("stopped; the same command goes on from here")]
    Stopped,
}

/// A file that is not there.
#[derive(Debug, PartialEq, Eq)]
pub struct Missing {
    file: PathBuf,
    source: String,
    get: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: no such file, which source {} needs; {}", self.file.display(), self.source, self.get)
    }
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::ReadOnlyFilesystem => "; name a directory that can be written with --out",
        std::io::ErrorKind::StorageFull => "; make room, then the same command goes on from here",
        _ => "",
    }
}

impl Error {
    /// A refusal of the system.
    pub fn io(file: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { file: file.as_ref().to_path_buf(), source }
    }

    /// A file that a source needs, and how to get it.
    pub fn missing(file: impl AsRef<Path>, source: &str, get: &str) -> Error {
        Error::Missing(vec![Missing { file: file.as_ref().to_path_buf(), source: source.into(), get: get.into() }])
    }

    /// A file that is not what it is taken for.
    pub fn file(file: impl AsRef<Path>, problem: impl Into<String>) -> Error {
        Error::File { file: file.as_ref().to_path_buf(), problem: problem.into() }
    }
}
