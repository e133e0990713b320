//! What `farthing data` needs past one machine, with heavy dependencies: object stores (feature `store`), and duplicates found by DataFusion and Ballista (feature `plan`)

#[cfg(feature = "plan")]
pub mod pairs;
#[cfg(feature = "store")]
pub mod store;
