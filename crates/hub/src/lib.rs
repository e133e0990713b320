//! Models by Hugging Face name, over the standard Hugging Face cache layout that the Python tools share.
//!
//! [`Cache`] looks at what is on disk and never asks the network. [`Hub`] asks the hub for a [`Listing`], and pulls what
//! [`choose`] picked from it into the cache. All calls block.

mod cache;
mod disk_space;
mod download;
mod error;
mod listing;
mod name;
mod preview;
mod pull;
mod remote;
mod removal;
mod select;
mod settings;
mod snapshot;

pub use cache::{Cache, Pulled};
pub use disk_space::free_bytes;
pub use download::Progress;
pub use error::HubError;
pub use name::Name;
pub use remote::{Hub, Patience};
pub use select::{Listing, RemoteFile, Selection, choose};
pub use settings::Settings;
