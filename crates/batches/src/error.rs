//! What can be wrong with a store, in one line each.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a store did not do what was asked.
#[allow(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, Error)]
pub enum StoreError {
    /// Nothing of the owner's has this id.
    #[error("there is no {what} {id:?}")]
    Unknown { what: &'static str, id: String },
    /// An upload that is too long.
    #[error("the file has more than {bytes_max} bytes, the most that one may have; send it in parts")]
    TooLarge { bytes_max: u64 },
    /// The owner's, or everybody's, room is used up.
    #[error("{whose} hold {used} of at most {most} bytes; delete some")]
    NoRoom { whose: &'static str, used: u64, most: u64 },
    /// What is left of the disk is for others.
    #[error(
        "the server's disk has {free} bytes free, and uploads leave {least}; try again later, or ask its operator for room"
    )]
    DiskFull { free: u64, least: u64 },
    /// As many as there may be.
    #[error("there are {count} {what}, as many as there may be; {step}")]
    Many { what: &'static str, count: usize, step: &'static str },
    /// The batch has ended, or has no results yet.
    #[error("batch {id:?} {why}")]
    State { id: String, why: &'static str },
    /// Another process has the directory.
    #[error("{}: another server keeps its batches there; give another directory", .0.display())]
    Locked(PathBuf),
    /// Not as this program left it.
    #[error("{}: {why}", .path.display())]
    Damaged { path: PathBuf, why: String },
    /// The disk.
    #[error("{}: {source}", .path.display())]
    Disk { path: PathBuf, source: io::Error },
}

/// Names the file of an error.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_path_buf();
    move |source| StoreError::Disk { path, source }
}
