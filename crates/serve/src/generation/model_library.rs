//! What fetches and deletes models while a server runs: it comes from outside, as the loader does.

use thiserror::Error;

use crate::generation::model_pool::ModelDescription;

/// Tells how far a download is, and is asked whether to go on. Called from several threads.
pub trait PullProgress: Sync {
    /// So many bytes of a file are here, of `size`.
    fn file(&self, name: &str, here: u64, size: u64);
    /// Something a person may want to know, such as a retry.
    fn note(&self, text: &str);
    /// Whether nobody waits for the model any more.
    fn cancelled(&self) -> bool;
}

/// Why a model was not fetched or deleted. Messages are for clients, and name no file of the server.
#[allow(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, Error)]
pub enum LibraryError {
    /// There is none of that name.
    #[error("{0}")]
    Unknown(String),
    /// The name, or the model, is of no use here.
    #[error("{0}")]
    Refused(String),
    /// The hub wants a token or an accepted licence, or it must not be asked.
    #[error("{0}")]
    Denied(String),
    /// Others are at work on it.
    #[error("{0}")]
    Busy(String),
    /// The hub cannot be reached, or what it sends cannot be trusted.
    #[error("{0}")]
    Hub(String),
    /// The disk has no room for it.
    #[error("{0}")]
    Full(String),
    /// Nobody waits any more, or the server ends.
    #[error("{0}")]
    Stopped(String),
    /// The disk, or the server's settings. The cause names files of the server, and is for its log.
    #[error("the server could not do that; its log says why")]
    Failed { cause: String },
}

/// The models on this machine. All calls block.
pub trait ModelLibrary: Send + Sync {
    /// Fetches a model, and tells what it is. The loader knows it from then on. An interrupted download is resumed. The first note comes
    /// when the name is one of a model that may be fetched.
    ///
    /// # Errors
    /// See [`LibraryError`].
    fn pull(&self, name: &str, progress: &dyn PullProgress) -> Result<ModelDescription, LibraryError>;

    /// Ids of the models whose files would be deleted, whatever they are called.
    ///
    /// # Errors
    /// It is no name of a model at a hub, or of none that is here.
    fn served_from(&self, name: &str) -> Result<Vec<String>, LibraryError>;

    /// Deletes a model's files. It is not in use.
    ///
    /// # Errors
    /// See [`LibraryError`]; a model that was not fetched from a hub is refused.
    fn delete(&self, name: &str) -> Result<(), LibraryError>;
}
