//! Slices to slices: the arithmetic of Farthing.
//!
//! The only crate with `unsafe`. It knows block formats, vectors and threads; it knows no file, no layer, no model.
//! `scalar` is the definition of every kernel and its oracle; `avx2` and `avx512` hold inner loops under the same names.

pub mod formats;
