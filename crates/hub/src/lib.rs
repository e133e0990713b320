//! Models by Hugging Face name, over the standard Hugging Face cache layout that the Python tools share.
//!
//! [`Cache`] looks at what is on disk and never asks the network. [`Hub`] asks the hub for a [`Listing`], and pulls what
//! [`choose`] picked from it into the cache. All calls block; a runtime of their own works behind them.

mod cache;
mod choice;
mod completeness;
mod digest;
mod download;
mod error;
mod listing;
mod lock;
mod name;
mod preview;
mod pull;
mod remote;
mod removal;
mod room;
mod settings;
mod workers;

pub use cache::{Cache, Pulled};
pub use choice::{Listing, RemoteFile, Selection, choose};
pub use download::Progress;
pub use error::HubError;
pub use name::Name;
pub use remote::{Hub, Patience};
pub use room::free_bytes;
pub use settings::Settings;
