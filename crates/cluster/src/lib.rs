//! What `farthing data` needs past one machine, with heavy dependencies: object stores (feature `store`)

#[cfg(feature = "store")]
pub mod store;
