//! What training computes besides the forward of serving: products of f32 matrices in every orientation, attention over whole documents with
//! its backward, and the backward of single rows.

mod attention;
mod attention_backward;
mod factor;
mod gemm;
pub(crate) mod multiply;
pub(crate) mod rows;
pub(crate) mod scores;
pub(crate) mod tiles;

pub use attention::{Packed, Shape, attention};
pub use attention_backward::attention_backward;
pub use factor::Factor;
pub use gemm::{Gemm, Precision, bf16_products, gemm};
pub(crate) use gemm::{Kernel, kernel};
pub use rows::{
    AdamW, adamw, cross_entropy, rms_norm_backward, row_dots, silu_mul_backward, silu_mul_rows, sum_of_squares,
};
pub(crate) use tiles::Part;
