//! What training computes besides the forward of serving: products of f32 matrices in every orientation, attention over whole documents with
//! its backward, and the backward of single rows.

mod attention;
mod gemm;
mod rows;

pub use attention::{Packed, Shape, attention, attention_backward};
pub use gemm::{Factor, Gemm, Precision, gemm};
pub use rows::{cross_entropy, rms_norm_backward, silu_mul_backward};
