//! Slices to slices: the arithmetic of Farthing.
//!
//! The only crate with `unsafe`, but for the file mapping. It knows block formats, vectors and threads; it knows no file, no layer, no model.
//! Kernels are written once over `vectors::Vectors`; `Scalar` is their definition and oracle, and every other instruction set gives its bits.

#[doc(hidden)]
pub mod attend;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[doc(hidden)]
pub mod blocks;
#[doc(hidden)]
pub mod dispatch;
mod elements;
mod fixed;
mod floats;
pub mod formats;
mod gated;
mod lanes;
pub mod measure;
mod panels;
pub mod pool;
mod products;
mod small;
mod unpack;
#[doc(hidden)]
pub mod vectors;

use std::marker::PhantomData;
use std::ops::Range;

pub use attend::Shape;
pub use dispatch::{instruction_set, instruction_set_from_env, instruction_sets};
pub use formats::Format;
pub use gated::{Gated, Hidden, gated};
pub use panels::Quantized;
pub use pool::Pool;
pub use small::{SIX_BYTES, SMALL, to_eight, to_six};

use dispatch::table;
use panels::{Selection, with_panels};

/// Keys that one `attend` call may see.
pub const PAGE_MAX: usize = 64;

/// A borrowed weight: `rows x cols`, row-major, blocks of `format`. The bytes may lie at any address.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// How numbers are stored.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// `rows * format.row_bytes(cols)` bytes.
    pub bytes: &'a [u8],
    /// FP8: factors of the tensor's 128x128 blocks, row-major, `ceil(cols / 128)` a row.
    pub scales: Option<&'a [f32]>,
    /// Rows of the tensor before this matrix's first: where it stands in the grid of factors.
    pub scale_row: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix over `bytes`.
    ///
    /// # Panics
    /// When sizes do not agree.
    pub fn new(format: Format, rows: usize, cols: usize, bytes: &'a [u8]) -> Self {
        let row = format.row_bytes(cols).expect("a row is a whole number of blocks");
        assert_eq!(Some(bytes.len()), row.checked_mul(rows), "{format:?} {rows}x{cols}");
        assert!(format != Format::F8E4M3 || rows == 0, "FP8 comes with scales: use with_scales");
        Matrix { format, rows, cols, bytes, scales: None, scale_row: 0 }
    }

    /// An FP8 matrix that starts `scale_row` rows into its tensor.
    ///
    /// # Panics
    /// When sizes do not agree.
    pub fn with_scales(rows: usize, cols: usize, bytes: &'a [u8], scales: &'a [f32], scale_row: usize) -> Self {
        assert_eq!(Some(bytes.len()), rows.checked_mul(cols));
        assert!(scales.len() >= (scale_row + rows).div_ceil(128) * cols.div_ceil(128), "scales cover the matrix");
        Matrix { format: Format::F8E4M3, rows, cols, bytes, scales: Some(scales), scale_row }
    }

    /// One row to f32.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        self.check();
        assert!(row < self.rows && out.len() == self.cols);
        // SAFETY: the table holds only functions whose instruction set this processor has.
        unsafe { (table().decode_row)(self, row, out) }
    }

    /// Fields are public, and kernels trust that rows are whole blocks.
    fn check(&self) {
        let row = self.format.row_bytes(self.cols).expect("a row is a whole number of blocks");
        assert_eq!(Some(self.bytes.len()), row.checked_mul(self.rows), "{:?} {}x{}", self.format, self.rows, self.cols);
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [u8] {
        let bytes = self.cols / self.format.block_elems() * self.format.block_bytes();
        &self.bytes[row * bytes..(row + 1) * bytes]
    }

    /// Bytes from `row` on.
    fn rows_from(&self, row: usize) -> &'a [u8] {
        &self.bytes[self.bytes.len() / self.rows.max(1) * row..]
    }

    #[inline(always)]
    fn scales_of_row(&self, row: usize) -> &'a [f32] {
        let blocks = self.cols.div_ceil(128);
        match self.scales {
            Some(scales) => &scales[(self.scale_row + row) / 128 * blocks..][..blocks],
            None => &[],
        }
    }
}

/// Ask the system to back a large buffer with large pages, where it can: attention reads all of a cache, a little everywhere.
/// No more than a hint.
pub fn prefer_large_pages<T>(buffer: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        unsafe extern "C" {
            fn madvise(at: *mut std::ffi::c_void, len: usize, advice: i32) -> i32;
        }
        const PAGE: usize = 4096;
        const HUGE_PAGE: i32 = 14; // MADV_HUGEPAGE
        let bytes = std::mem::size_of_val(buffer);
        let start = buffer.as_mut_ptr().cast::<u8>();
        let skip = start.align_offset(PAGE);
        if bytes > skip {
            // SAFETY: the range lies within the buffer; this advice changes no contents, and an error leaves things as they are.
            unsafe { madvise(start.add(skip).cast(), (bytes - skip) / PAGE * PAGE, HUGE_PAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = buffer;
}

/// What a product multiplies with: `rows x cols` f32, and the same rows quantised for weights that want it.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// `[rows, cols]`
    pub x: &'a [f32],
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// The same rows; needed where `Format::wants_quantized_input`.
    pub quantized: Option<&'a Quantized>,
}

/// Which input rows a product uses.
#[derive(Clone, Copy)]
pub enum Rows<'a> {
    /// All of them.
    All,
    /// From, count.
    Range(usize, usize),
    /// These.
    List(&'a [u32]),
}

impl Rows<'_> {
    /// How many, of `total`.
    #[inline(always)]
    pub fn len(self, total: usize) -> usize {
        match self {
            Rows::All => total,
            Rows::Range(_, count) => count,
            Rows::List(list) => list.len(),
        }
    }

    #[inline(always)]
    fn at(self, i: usize) -> usize {
        match self {
            Rows::All => i,
            Rows::Range(from, _) => from + i,
            Rows::List(list) => list[i] as usize,
        }
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

/// An output whose parts several threads write.
struct SharedOut<'a> {
    ptr: *mut f32,
    rows: usize,
    cols: usize,
    lives: PhantomData<&'a mut [f32]>,
}

// SAFETY: a `&mut [f32]`; its numbers are reached through `part` alone, which asks that no two parts overlap.
unsafe impl Sync for SharedOut<'_> {}
// SAFETY: as above.
unsafe impl Send for SharedOut<'_> {}

impl<'a> SharedOut<'a> {
    fn new(out: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(out.len(), rows * cols);
        SharedOut { ptr: out.as_mut_ptr(), rows, cols, lives: PhantomData }
    }

    /// Some rows of some columns.
    ///
    /// # Safety
    /// No other part that has some of these numbers lives as long as this one.
    unsafe fn part(&self, rows: Range<usize>, columns: Range<usize>) -> Out<'_> {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        assert!(columns.start <= columns.end && columns.end <= self.cols);
        Out {
            ptr: self.ptr.wrapping_add(rows.start * self.cols + columns.start),
            rows: rows.len(),
            stride: self.cols,
            columns,
            lives: PhantomData,
        }
    }
}

/// A part of an output that is one thread's alone: rows, numbered from the part's first, of some columns, numbered as the output's.
#[doc(hidden)]
pub struct Out<'a> {
    ptr: *mut f32,
    rows: usize,
    /// Numbers from one row to the next.
    stride: usize,
    columns: Range<usize>,
    lives: PhantomData<&'a mut [f32]>,
}

impl<'a> Out<'a> {
    /// Columns `columns` of an output, which are all that `out` has.
    fn new(out: &'a mut [f32], rows: usize, columns: Range<usize>) -> Self {
        assert_eq!(out.len(), rows * columns.len());
        Out { ptr: out.as_mut_ptr(), rows, stride: columns.len(), columns, lives: PhantomData }
    }

    #[inline(always)]
    fn check(&self, row: usize, col: usize, len: usize) -> usize {
        let (from, width) = (col.wrapping_sub(self.columns.start), self.columns.len());
        assert!(row < self.rows && from <= width && len <= width - from);
        row * self.stride + from
    }

    #[inline(always)]
    fn write(&mut self, row: usize, col: usize, x: &[f32]) {
        let at = self.check(row, col, x.len());
        // SAFETY: within the part by `check`.
        unsafe { std::ptr::copy_nonoverlapping(x.as_ptr(), self.ptr.add(at), x.len()) }
    }

    #[inline(always)]
    fn read(&self, row: usize, col: usize, x: &mut [f32]) {
        let at = self.check(row, col, x.len());
        // SAFETY: within the part by `check`.
        unsafe { std::ptr::copy_nonoverlapping(self.ptr.add(at), x.as_mut_ptr(), x.len()) }
    }
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
fn selection<'a>(w: &Matrix, input: &Input<'a>, rows: Rows<'a>) -> Option<Selection<'a>> {
    let wanted = table().panels && w.format.wants_quantized_input() && rows.len(input.rows) > 0;
    // Blocks of 32 columns may end within a chunk of 64.
    let quantized = input.quantized.filter(|_| wanted && w.cols.is_multiple_of(64) && w.cols > 0)?;
    Some(Selection::new(w.format, quantized, rows))
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

/// Numbers of a cache.
#[derive(Clone, Copy)]
pub enum Numbers<'a> {
    /// 32 bits.
    F32(&'a [f32]),
    /// bfloat16 bits.
    Bf16(&'a [u16]),
    /// 8 bits, and a bfloat16 scale for 16.
    Eight(&'a [i8], &'a [u16]),
    /// 6 bits (12 bytes for 16), and a bfloat16 scale for 16.
    Six(&'a [u8], &'a [u16]),
}

impl<'a> Numbers<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Numbers::F32(x) => x.len(),
            Numbers::Bf16(x) => x.len(),
            Numbers::Eight(x, _) => x.len(),
            Numbers::Six(x, _) => x.len() / SIX_BYTES * SMALL,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `len` numbers from `at` on; of 8 and 6 bits whole blocks of 16.
    #[inline(always)]
    pub fn part(self, at: usize, len: usize) -> Numbers<'a> {
        let blocks = at / SMALL..(at + len) / SMALL;
        let whole = at.is_multiple_of(SMALL) && len.is_multiple_of(SMALL);
        match self {
            Numbers::F32(x) => Numbers::F32(&x[at..at + len]),
            Numbers::Bf16(x) => Numbers::Bf16(&x[at..at + len]),
            Numbers::Eight(x, s) => {
                assert!(whole, "whole blocks");
                Numbers::Eight(&x[at..at + len], &s[blocks])
            }
            Numbers::Six(x, s) => {
                assert!(whole, "whole blocks");
                Numbers::Six(&x[blocks.start * SIX_BYTES..blocks.end * SIX_BYTES], &s[blocks])
            }
        }
    }

    /// All from `at` on.
    pub fn skip(self, at: usize) -> Numbers<'a> {
        self.part(at, self.len() - at)
    }
}

/// The first numbers of `x` as f32.
pub fn widen(x: Numbers, out: &mut [f32]) {
    match x {
        Numbers::F32(x) => out.copy_from_slice(&x[..out.len()]),
        Numbers::Bf16(x) => bf16_to_f32(&x[..out.len()], out),
        Numbers::Eight(x, s) => {
            for (c, out) in out.chunks_mut(16).enumerate() {
                out.copy_from_slice(&small::eight_lanes(x, s, 16 * c)[..out.len()]);
            }
        }
        Numbers::Six(x, s) => {
            for (c, out) in out.chunks_mut(16).enumerate() {
                out.copy_from_slice(&small::six_lanes(x, s, 16 * c)[..out.len()]);
            }
        }
    }
}

/// A page of keys and values. Row i of the keys starts at `i * key_stride`, of the values at `i * value_stride`.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    /// Keys.
    pub keys: Numbers<'a>,
    /// Numbers from one key to the next.
    pub key_stride: usize,
    /// Values.
    pub values: Numbers<'a>,
    /// Numbers from one value to the next.
    pub value_stride: usize,
    /// Keys to see, at most `PAGE_MAX`.
    pub count: usize,
    /// How many of them the first row of queries sees; every further row sees one more, up to `count`. `Keys::ALL` for all;
    /// what is below zero (a row before the page) sees none.
    pub first_sees: isize,
    /// Keys and values of the page that will be seen next, laid out as these: hints to fetch them.
    pub next: Option<(Numbers<'a>, Numbers<'a>)>,
}

impl Keys<'_> {
    /// Every row sees every key.
    pub const ALL: isize = isize::MAX;

    /// How many keys query `h` sees.
    #[inline(always)]
    fn seen_by(&self, queries: &Queries, h: usize) -> usize {
        let row = (h / queries.heads) as isize;
        self.first_sees.saturating_add(row).clamp(0, self.count as isize) as usize
    }
}

/// Queries of one or more consecutive rows: heads of a row lie side by side.
#[derive(Clone, Copy)]
pub struct Queries<'a> {
    /// The numbers.
    pub q: &'a [f32],
    /// Heads of a row that share the keys.
    pub heads: usize,
    /// Numbers from one row to the next.
    pub stride: usize,
}

impl<'a> Queries<'a> {
    /// Heads of one row.
    pub fn one(q: &'a [f32], heads: usize) -> Self {
        Queries { q, heads, stride: 0 }
    }

    #[inline(always)]
    fn query(&self, h: usize, key: usize) -> &'a [f32] {
        let from = h / self.heads * self.stride + h % self.heads * key;
        &self.q[from..from + key]
    }
}

/// A running softmax: per head the largest score, the sum of exponentials and the weighted values.
pub struct Attended<'a> {
    /// `[heads]`, minus infinity at first.
    pub max: &'a mut [f32],
    /// `[heads]`, 0 at first.
    pub sum: &'a mut [f32],
    /// `[heads * value]`, 0 at first.
    pub acc: &'a mut [f32],
}

impl Attended<'_> {
    /// Back to the state before any key.
    pub fn reset(&mut self) {
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.acc.fill(0.0);
    }
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
/// them, queries to 13 (`fixed` has the details). A row's bits depend on what it sees alone, page by page.
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
    assert_eq!(out.len(), x.len());
    out.iter_mut().zip(x).for_each(|(o, x)| *o += x);
}

/// Rotate pairs `(x0, x1), (x2, x3), ...` by the angles whose cosines and sines are given.
pub fn rotate_interleaved(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    assert!(x.len() == 2 * cos.len() && cos.len() == sin.len());
    for ((pair, c), s) in x.chunks_exact_mut(2).zip(cos).zip(sin) {
        let (a, b) = (pair[0], pair[1]);
        pair[0] = a * c - b * s;
        pair[1] = a * s + b * c;
    }
}

/// Rotate pairs `(x_i, x_{i + d/2})`.
pub fn rotate_halves(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    assert!(x.len() == 2 * cos.len() && cos.len() == sin.len());
    let (low, high) = x.split_at_mut(cos.len());
    for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
    }
}

/// To bfloat16, nearest even.
pub fn f32_to_bf16(x: &[f32], out: &mut [u16]) {
    assert_eq!(x.len(), out.len());
    x.iter().zip(out).for_each(|(&x, o)| *o = blocks::f32_to_bf16(x));
}

/// From bfloat16, exact.
pub fn bf16_to_f32(x: &[u16], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    x.iter().zip(out).for_each(|(&x, o)| *o = blocks::bf16_to_f32(x));
}
