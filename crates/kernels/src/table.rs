//! A table of kernels: all that is compiled for each instruction set, from the common source.

use std::ops::Range;

use crate::attend::Shape;
use crate::panels::Hints;
use crate::training::scores::QUERIES;
use crate::training::{AdamW, Kernel};
use crate::{Attended, Input, Keys, Matrix, Out, Queries, Rows};

/// Kernels of one instruction set, all compiled from the same source. Calling one is safe where the set exists.
pub struct Table {
    /// The set's name.
    pub name: &'static str,
    /// Outputs of one product, a range of the weight's rows.
    pub(crate) product: unsafe fn(&Matrix, Range<usize>, &Input, Rows, Hints, &mut Out),
    /// Whether `product` takes quantised input in panels.
    pub(crate) panels: bool,
    pub(crate) transposed: unsafe fn(&Matrix, &[f32], Range<usize>, &mut Out),
    pub(crate) decode_row: unsafe fn(&Matrix, usize, &mut [f32]),
    pub(crate) quantize: unsafe fn(&[f32], (usize, usize), &mut [i8], &mut [f32], &mut [i32]),
    pub(crate) attend: unsafe fn(&Queries, Shape, &Keys, &mut Attended),
    pub(crate) attend_fixed: unsafe fn(&Queries, Shape, &mut dyn Iterator<Item = Keys>, &mut Attended),
    pub(crate) merge: unsafe fn(usize, usize, (&[f32], &[f32], &[f32]), &mut Attended),
    pub(crate) rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    pub(crate) silu_mul: unsafe fn(&mut [f32], &[f32]),
    pub(crate) sigmoid: unsafe fn(&mut [f32]),
    pub(crate) softmax: unsafe fn(&mut [f32]),
    pub(crate) add_scaled: unsafe fn(&mut [f32], &[f32], f32),
    pub(crate) rotate_interleaved: unsafe fn(&mut [f32], usize, &[f32], &[f32]),
    pub(crate) rotate_halves: unsafe fn(&mut [f32], usize, &[f32], &[f32]),
    /// See `training::scores`.
    pub(crate) turn: unsafe fn(&[f32], usize, &[f32; QUERIES], &mut Out, usize),
    pub(crate) dots: unsafe fn(&[f32], &[f32], usize, &mut [f32]),
    /// See `training::rows`.
    pub(crate) rms_norm_backward: unsafe fn((&[f32], &[f32], f32), &[f32], &mut [f32], &mut [f32]),
    pub(crate) silu_mul_rows: unsafe fn(&[f32], usize, &mut [f32]),
    pub(crate) silu_mul_backward: unsafe fn(&mut [f32], usize, &[f32]),
    pub(crate) cross_entropy: unsafe fn(&mut [f32], usize, f32) -> f32,
    pub(crate) adamw: unsafe fn(&AdamW, &mut [f32], &[f32], (&mut [f32], &mut [f32])),
    pub(crate) sum_of_squares: unsafe fn(&[f32]) -> f64,
    /// Products of f32 matrices, and those whose numbers are rounded to bf16.
    pub(crate) f32: Kernel,
    pub(crate) bf16: Kernel,
    /// Dot products of bytes as fast as they go; returns a number that depends on all.
    pub(crate) spin_int8: unsafe fn(u64) -> i64,
    /// Multiply-adds of f32 as fast as they go.
    pub(crate) spin_f32: unsafe fn(u64) -> f32,
}

/// Functions that are compiled with features, or with none, each by the call that it makes.
macro_rules! compiled {
    ($features:tt) => {};
    ([$($feature:literal)?] fn $name:ident($($arg:ident: $T:ty),*) $(-> $R:ty)? = $call:expr; $($rest:tt)*) => {
        $(#[target_feature(enable = $feature)])?
        fn $name($($arg: $T),*) $(-> $R)? {
            $call
        }
        $crate::table::compiled! { [$($feature)?] $($rest)* }
    };
}
pub(crate) use compiled;

/// A table of kernels over `$isa`, each compiled with `$feature`s; products of bf16 are as `$bf16` has them.
macro_rules! kernels {
    ($name:expr, $V:ty, $isa:expr, $bf16:ident $(, $feature:literal)?) => {{
        use $crate::attend::Shape;
        use $crate::operands::Sides;
        use $crate::panels::Hints;
        use $crate::products::{SCRATCH, ProductScratch};
        use $crate::{Attended, Input, Keys, Matrix, Out, Queries, Rows};
        use $crate::training::{AdamW, kernel};
        use $crate::training::scores::QUERIES;
        use $crate::training::multiply::{Floats, $bf16};
        use std::ops::Range;
        // A function for each block format: one of all formats takes the compiler minutes. Floats are faster within.
        $(#[target_feature(enable = $feature)])?
        #[inline(never)]
        fn of_blocks<B: $crate::dequantize::Block>(x: Sides, range: Range<usize>, out: &mut Out, scratch: &mut ProductScratch) {
            $crate::products::quantised::<_, B>($isa, x, range, out, scratch)
        }
        $(#[target_feature(enable = $feature)])?
        fn product(w: &Matrix, range: Range<usize>, input: &Input, rows: Rows, hints: Hints, out: &mut Out) {
            let x = Sides { w, input, rows };
            if w.format.wants_quantized_input() {
                let mut scratch = SCRATCH.take();
                $crate::dequantize::with_format!(w.format, B, of_blocks::<B>(x, range, out, &mut scratch));
                SCRATCH.set(scratch);
            } else {
                $crate::floats::product($isa, x, range, hints.1, out)
            }
        }
        $crate::table::compiled! {
            [$($feature)?]
            fn transposed(w: &Matrix, x: &[f32], range: Range<usize>, out: &mut Out) =
                $crate::products::transposed($isa, w, x, range, out);
            fn decode_row(w: &Matrix, row: usize, out: &mut [f32]) = $crate::products::decode_row(w, row, out);
            fn quantize(x: &[f32], rows: (usize, usize), q: &mut [i8], scales: &mut [f32], sums: &mut [i32]) =
                $crate::products::quantize($isa, x, rows, q, scales, sums);
            fn attend(q: &Queries, shape: Shape, keys: &Keys, state: &mut Attended) =
                $crate::attend::attend($isa, q, shape, keys, state);
            fn attend_fixed(q: &Queries, shape: Shape, pages: &mut dyn Iterator<Item = Keys>, state: &mut Attended) =
                $crate::attend_fixed::attend($isa, q, shape, pages, state);
            fn merge(heads: usize, value: usize, from: (&[f32], &[f32], &[f32]), state: &mut Attended) =
                $crate::attend::merge($isa, heads, value, from, state);
            fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) =
                $crate::elements::rms_norm($isa, x, weight, eps, out);
            fn silu_mul(gate: &mut [f32], up: &[f32]) = $crate::elements::silu_mul($isa, gate, up);
            fn sigmoid(x: &mut [f32]) = $crate::elements::sigmoid($isa, x);
            fn softmax(x: &mut [f32]) = $crate::elements::softmax($isa, x);
            fn add_scaled(out: &mut [f32], x: &[f32], a: f32) = $crate::elements::add_scaled($isa, out, x, a);
            fn rotate_interleaved(x: &mut [f32], stride: usize, cos: &[f32], sin: &[f32]) =
                $crate::elements::rotate_interleaved($isa, x, stride, cos, sin);
            fn rotate_halves(x: &mut [f32], stride: usize, cos: &[f32], sin: &[f32]) =
                $crate::elements::rotate_halves($isa, x, stride, cos, sin);
            fn turn(x: &[f32], columns: usize, factors: &[f32; QUERIES], out: &mut Out, queries: usize) =
                $crate::training::scores::turn($isa, x, columns, factors, out, queries);
            fn dots(a: &[f32], b: &[f32], width: usize, out: &mut [f32]) =
                $crate::training::scores::dots($isa, a, b, width, out);
            fn rms_norm_backward(x: (&[f32], &[f32], f32), dy: &[f32], dx: &mut [f32], d_weight: &mut [f32]) =
                $crate::training::rows::norm_backward($isa, x, dy, dx, d_weight);
            fn silu_mul_rows(gate_up: &[f32], width: usize, out: &mut [f32]) =
                $crate::training::rows::gated($isa, gate_up, width, out);
            fn silu_mul_backward(gate_up: &mut [f32], width: usize, d_hidden: &[f32]) =
                $crate::training::rows::gated_backward($isa, gate_up, width, d_hidden);
            fn cross_entropy(logits: &mut [f32], target: usize, weight: f32) -> f32 =
                $crate::training::rows::loss($isa, logits, target, weight);
            fn adamw(settings: &AdamW, weights: &mut [f32], gradient: &[f32], moments: (&mut [f32], &mut [f32])) =
                $crate::training::rows::step(settings, weights, gradient, moments);
            fn sum_of_squares(x: &[f32]) -> f64 = $crate::training::rows::squares(x);
            fn spin_int8(rounds: u64) -> i64 = $crate::spin::spin_int8($isa, rounds);
            fn spin_f32(rounds: u64) -> f32 = $crate::spin::spin_f32($isa, rounds);
        }
        $crate::table::Table {
            name: $name,
            product,
            panels: false,
            transposed,
            decode_row,
            quantize,
            attend,
            attend_fixed,
            merge,
            rms_norm,
            silu_mul,
            sigmoid,
            softmax,
            add_scaled,
            rotate_interleaved,
            rotate_halves,
            turn,
            dots,
            rms_norm_backward,
            silu_mul_rows,
            silu_mul_backward,
            cross_entropy,
            adamw,
            sum_of_squares,
            f32: kernel!($V, $isa, Floats, Floats $(, $feature)?),
            bf16: kernel!($V, $isa, $bf16, $bf16 $(, $feature)?),
            spin_int8,
            spin_f32,
        }
    }};
}
pub(crate) use kernels;
