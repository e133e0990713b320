//! Slices to slices: the arithmetic of Farthing.
//!
//! The only crate with `unsafe`, but for the file mapping. It knows block formats, vectors and threads; it knows no file, no layer, no model.
//! Kernels are written once over `vectors::Vectors`; `Scalar` is their definition and oracle, and every other instruction set gives its bits.
// The model of tests/pool_orders.rs has the pool by its path; the rest would only take its time to compile.
#![cfg(not(loom))]

#[doc(hidden)]
pub mod attend;
mod attend_fixed;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[doc(hidden)]
pub mod dequantize;
#[doc(hidden)]
pub mod dispatch;
mod elements;
pub mod encode;
mod floats;
pub mod formats;
mod lanes;
pub mod measure;
mod observe;
mod operands;
mod out;
mod panels;
pub mod pool;
mod products;
mod quantize;
mod scratch;
mod small_quants;
mod spin;
mod swiglu;
mod table;
pub mod training;
mod unpack;
#[doc(hidden)]
pub mod vectors;

use std::ops::Range;

pub use attend::Shape;
pub use dispatch::{instruction_set, instruction_set_from_env, instruction_sets};
pub use formats::Format;
pub use observe::{Observer, Seen, observed};
pub use operands::{Attended, Input, Keys, Matrix, Numbers, Queries, Rows, widen};
pub use panels::Quantized;
pub use pool::Pool;
pub use small_quants::{SIX_BYTES, SMALL, to_eight, to_six};
pub use swiglu::{Gated, Hidden, gated};

use dispatch::table;
use out::{Out, SharedOut};
use panels::{RowSelection, with_panels};

/// Keys that one `attend` call may see.
pub const PAGE_MAX: usize = 64;

impl Matrix<'_> {
    /// One row to f32.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        self.check();
        assert!(row < self.rows && out.len() == self.cols);
        // SAFETY: the table holds only functions whose instruction set this processor has.
        unsafe { (table().decode_row)(self, row, out) }
    }
}

/// One matrix product: `out[i][o] = sum_k weight[o][k] * input[rows[i]][k]`.
pub struct Product<'a> {
    /// The weight.
    pub weight: Matrix<'a>,
    /// The activations.
    pub input: Input<'a>,
    /// Which of them.
    pub rows: Rows<'a>,
    /// `[selected rows, weight.rows]`, overwritten.
    pub out: &'a mut [f32],
}

/// Bytes of weight a thread claims at a time.
const PIECE_BYTES: usize = 1 << 16;

/// How many rows a product takes, after a look at its shapes.
fn checked(w: &Matrix, input: &Input, rows: Rows) -> usize {
    w.check();
    assert_eq!(w.cols, input.cols, "the weight's inputs");
    if w.format.wants_quantized_input() {
        let q = input.quantized.expect("a quantised weight needs quantised input");
        assert!(q.rows() == input.rows && q.cols() == input.cols, "the quantised input's shape");
    } else {
        assert_eq!(input.x.len(), input.rows * input.cols, "the input's shape");
    }
    match rows {
        Rows::All => {}
        Rows::Range(from, count) => assert!(from <= input.rows && count <= input.rows - from, "input rows"),
        Rows::List(list) => assert!(list.iter().all(|&r| (r as usize) < input.rows), "input rows"),
    }
    rows.len(input.rows)
}

/// The panels that the kernels in use take for a product, if they take any.
fn selection<'a>(w: &Matrix, input: &Input<'a>, rows: Rows<'a>) -> Option<RowSelection<'a>> {
    let wanted = table().panels && w.format.wants_quantized_input() && rows.len(input.rows) > 0;
    // Blocks of 32 columns may end within a chunk of 64.
    let quantized = input.quantized.filter(|_| wanted && w.cols.is_multiple_of(64) && w.cols > 0)?;
    Some(RowSelection::new(w.format, quantized, rows))
}

/// Weight rows that go to a thread together: whole tiles, of about `bytes`. Two tiles go together where inputs are many.
fn rows_a_piece(row_bytes: usize, bytes: usize) -> usize {
    let tiles = 2 * products::TILE;
    (bytes / row_bytes.max(1)).next_multiple_of(tiles).max(tiles)
}

/// Compute all products in one parallel section.
///
/// # Panics
/// When shapes do not agree, a row is out of range, or quantised input is missing.
pub fn matmul(pool: &Pool, products: &mut [Product<'_>]) {
    // Of each, the product and its columns.
    let mut pieces: Vec<(usize, Range<usize>)> = Vec::new();
    let mut parts: Vec<(Matrix, Input, Rows, SharedOut)> = Vec::with_capacity(products.len());
    let mut selections = Vec::with_capacity(products.len());
    for product in products.iter_mut() {
        let (w, input, rows) = (product.weight, product.input, product.rows);
        let n = checked(&w, &input, rows);
        observe::show(w, input, rows);
        let out = SharedOut::new(product.out, n, w.rows);
        if n > 0 && w.rows > 0 {
            let step = rows_a_piece(w.bytes.len() / w.rows, PIECE_BYTES);
            let product = parts.len();
            pieces.extend((0..w.rows).step_by(step).map(|from| (product, from..(from + step).min(w.rows))));
        }
        parts.push((w, input, rows, out));
        selections.push(selection(&w, &input, rows));
    }
    with_panels(pool, &selections, |panels, ranges| {
        pool.run_ahead(pieces.len(), |i, next| {
            let (product, range) = &pieces[i];
            let (w, input, rows, out) = &parts[*product];
            let panels = &panels[ranges[*product].clone()];
            let ahead = next.map_or(&[][..], |next| parts[pieces[next].0].0.rows_from(pieces[next].1.start));
            // SAFETY: a product's pieces have columns of their own, and each is run once. The table holds only functions whose instruction
            // set this processor has.
            unsafe {
                let mut out = out.part(0..out.rows, range.clone());
                (table().product)(w, range.clone(), input, *rows, (panels, ahead), &mut out)
            }
        })
    });
}

/// One transposed product: `out[r][c] = sum_j x[r][j] * weight[j][c]`.
pub struct Transposed<'a> {
    /// The weight.
    pub weight: Matrix<'a>,
    /// `[rows, weight.rows]`
    pub x: &'a [f32],
    /// Input rows.
    pub rows: usize,
    /// `[rows, weight.cols]`, overwritten.
    pub out: &'a mut [f32],
}

/// Compute all transposed products in one parallel section, in f32 over rows decoded on the way.
///
/// # Panics
/// When shapes do not agree.
pub fn matmul_transposed(pool: &Pool, products: &mut [Transposed<'_>]) {
    // Weights are decoded once a piece: long pieces where there are enough of them.
    let rows_a_piece = if products.len() >= 4 * pool.threads() { 256 } else { 64 };
    let mut pieces = Vec::new();
    let mut parts = Vec::with_capacity(products.len());
    for product in products.iter_mut() {
        let (w, x, rows) = (product.weight, product.x, product.rows);
        w.check();
        assert_eq!(x.len(), rows * w.rows, "the input's shape");
        if w.rows == 0 {
            product.out.fill(0.0);
        }
        let out = SharedOut::new(product.out, rows, w.cols);
        if w.rows > 0 && w.cols > 0 {
            let part = parts.len();
            pieces.extend((0..rows).step_by(rows_a_piece).map(|from| (part, from..(from + rows_a_piece).min(rows))));
        }
        parts.push((w, x, out));
    }
    pool.run(pieces.len(), |i| {
        let (part, range) = &pieces[i];
        let (w, x, out) = &parts[*part];
        // SAFETY: a product's pieces have rows of their own, and each is run once. The table holds only functions whose instruction set
        // this processor has.
        unsafe {
            let mut out = out.part(range.clone(), 0..out.cols);
            (table().transposed)(w, x, range.clone(), &mut out)
        }
    });
}

/// Attend from queries to one page, and merge it into `state`. `shape.heads` counts the heads of all rows.
///
/// # Panics
/// When shapes do not agree.
pub fn attend(queries: Queries<'_>, shape: Shape, keys: Keys<'_>, state: &mut Attended<'_>) {
    check_state(queries, shape, state);
    check_page(&keys, shape);
    if keys.count > 0 && shape.heads > 0 {
        // SAFETY: the table holds only functions whose instruction set this processor has.
        unsafe { (table().attend)(&queries, shape, &keys, state) }
    }
}

/// As `attend` to page after page, faster and less exact: keys and values are rounded to integers of 14 bits of the largest beside
/// them, queries to 13 (`attend_fixed` has the details). A row's bits depend on what it sees alone, page by page.
///
/// # Panics
/// When shapes do not agree.
pub fn attend_fixed<'a>(
    queries: Queries<'_>,
    shape: Shape,
    pages: impl Iterator<Item = Keys<'a>>,
    state: &mut Attended<'_>,
) {
    check_state(queries, shape, state);
    let mut pages = pages.inspect(|keys| check_page(keys, shape)).filter(|keys| keys.count > 0 && shape.heads > 0);
    // SAFETY: the table holds only functions whose instruction set this processor has.
    unsafe { (table().attend_fixed)(&queries, shape, &mut pages, state) }
}

fn check_state(queries: Queries, shape: Shape, state: &Attended) {
    let Shape { heads, value, .. } = shape;
    assert!(queries.heads > 0);
    assert!(state.max.len() == heads && state.sum.len() == heads && state.acc.len() == heads * value);
}

fn check_page(keys: &Keys, shape: Shape) {
    assert!(keys.count <= PAGE_MAX);
    if keys.count > 0 && shape.heads > 0 {
        assert!(keys.keys.len() >= (keys.count - 1) * keys.key_stride + shape.key, "keys");
        assert!(keys.values.len() >= (keys.count - 1) * keys.value_stride + shape.value, "values");
    }
}

/// Merge the state `(max, sum, acc)` of later pages into `state`.
///
/// # Panics
/// When shapes do not agree.
pub fn attend_merge(heads: usize, value: usize, from: (&[f32], &[f32], &[f32]), state: &mut Attended<'_>) {
    assert!(from.0.len() == heads && from.1.len() == heads && from.2.len() == heads * value);
    assert!(state.max.len() == heads && state.sum.len() == heads && state.acc.len() == heads * value);
    // SAFETY: the table holds only functions whose instruction set this processor has.
    unsafe { (table().merge)(heads, value, from, state) }
}

/// Divide the weighted values by their sums.
pub fn attend_finish(heads: usize, value: usize, state: &mut Attended<'_>) {
    for h in 0..heads {
        let sum = state.sum[h];
        state.acc[h * value..(h + 1) * value].iter_mut().for_each(|x| *x /= sum);
    }
}

/// `out = x / sqrt(mean(x^2) + eps) * weight`, one row.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len());
    // SAFETY: the table holds only functions whose instruction set this processor has.
    unsafe { (table().rms_norm)(x, weight, eps, out) }
}

/// `gate = silu(gate) * up`
pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    // SAFETY: the table holds only functions whose instruction set this processor has.
    unsafe { (table().silu_mul)(gate, up) }
}

/// `x = 1 / (1 + e^-x)`
pub fn sigmoid(x: &mut [f32]) {
    // SAFETY: the table holds only functions whose instruction set this processor has.
    unsafe { (table().sigmoid)(x) }
}

/// Softmax in place.
pub fn softmax(x: &mut [f32]) {
    // SAFETY: the table holds only functions whose instruction set this processor has.
    unsafe { (table().softmax)(x) }
}

/// `out += a * x`
pub fn add_scaled(out: &mut [f32], x: &[f32], a: f32) {
    assert_eq!(out.len(), x.len());
    // SAFETY: the table holds only functions whose instruction set this processor has.
    unsafe { (table().add_scaled)(out, x, a) }
}

/// `out += x`
pub fn add(out: &mut [f32], x: &[f32]) {
    add_scaled(out, x, 1.0);
}

/// Rotate pairs `(x0, x1), (x2, x3), ...` of each `stride` numbers of `x`, from their first on, by the angles whose cosines and sines are
/// given.
pub fn rotate_interleaved(x: &mut [f32], stride: usize, cos: &[f32], sin: &[f32]) {
    check_rotated(x, stride, cos, sin);
    // SAFETY: the table holds only functions whose instruction set this processor has.
    unsafe { (table().rotate_interleaved)(x, stride, cos, sin) }
}

/// As `rotate_interleaved`, pairs `(x_i, x_{i + d/2})`, of `d` numbers that are rotated.
pub fn rotate_halves(x: &mut [f32], stride: usize, cos: &[f32], sin: &[f32]) {
    check_rotated(x, stride, cos, sin);
    // SAFETY: the table holds only functions whose instruction set this processor has.
    unsafe { (table().rotate_halves)(x, stride, cos, sin) }
}

fn check_rotated(x: &[f32], stride: usize, cos: &[f32], sin: &[f32]) {
    let (width, last) = (2 * cos.len(), x.len() % stride.max(1));
    assert!(cos.len() == sin.len() && stride > 0 && width <= stride && (last == 0 || width <= last));
}

/// To bfloat16, nearest even.
pub fn f32_to_bf16(x: &[f32], out: &mut [u16]) {
    assert_eq!(x.len(), out.len());
    x.iter().zip(out).for_each(|(&x, o)| *o = dequantize::f32_to_bf16(x));
}

/// From bfloat16, exact.
pub fn bf16_to_f32(x: &[u16], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    x.iter().zip(out).for_each(|(&x, o)| *o = dequantize::bf16_to_f32(x));
}
