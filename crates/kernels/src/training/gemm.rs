//! `out = A B` or `out += A B` for many pairs of f32 matrices at once, each as it lies in memory or transposed, whole or some of its rows.

use crate::Pool;

/// What numbers are multiplied as. Sums are f32, in ascending order of the inner dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    F32,
    /// Rounded to bfloat16 first, to the nearest even.
    Bf16,
}

/// A matrix in memory, row-major, as a factor of a product.
#[derive(Clone, Copy)]
pub struct Factor<'a> {
    x: &'a [f32],
    cols: usize,
    list: Option<&'a [u32]>,
    transposed: bool,
}

impl<'a> Factor<'a> {
    /// Rows of so many columns.
    pub fn new(x: &'a [f32], cols: usize) -> Factor<'a> {
        assert!(cols > 0 && x.len().is_multiple_of(cols), "whole rows");
        Factor { x, cols, list: None, transposed: false }
    }

    /// Only these of its rows, in this order.
    pub fn rows(self, list: &'a [u32]) -> Factor<'a> {
        assert!(list.iter().all(|&row| (row as usize) < self.x.len() / self.cols), "rows of the matrix");
        Factor { list: Some(list), ..self }
    }

    /// Its transposition (of the selected rows).
    pub fn t(self) -> Factor<'a> {
        Factor { transposed: !self.transposed, ..self }
    }

    /// Rows and columns of what it stands for.
    fn shape(&self) -> (usize, usize) {
        let rows = self.list.map_or(self.x.len() / self.cols, <[u32]>::len);
        if self.transposed { (self.cols, rows) } else { (rows, self.cols) }
    }

    fn at(&self, row: usize, col: usize) -> f32 {
        let (row, col) = if self.transposed { (col, row) } else { (row, col) };
        self.x[self.list.map_or(row, |list| list[row] as usize) * self.cols + col]
    }
}

/// One product.
pub struct Gemm<'a> {
    /// `[m, k]`
    pub a: Factor<'a>,
    /// `[k, n]`
    pub b: Factor<'a>,
    /// `[m, n]`
    pub out: &'a mut [f32],
    /// Whether the product is added to what `out` holds.
    pub add: bool,
}

/// Compute all products in one parallel section. The bits of a number do not depend on threads, nor on the other products.
///
/// # Panics
/// When shapes do not agree.
pub fn gemm(pool: &Pool, precision: Precision, products: &mut [Gemm<'_>]) {
    let rounded = |x: f32| match precision {
        Precision::F32 => x,
        Precision::Bf16 => crate::dequantize::bf16_to_f32(crate::dequantize::f32_to_bf16(x)),
    };
    for Gemm { a, b, out, add } in products {
        let ((m, k), (inner, n)) = (a.shape(), b.shape());
        assert!(k == inner && out.len() == m * n, "shapes of a product");
        if n == 0 {
            continue;
        }
        let mut rows: Vec<_> = out.chunks_mut(n).enumerate().collect();
        pool.each(&mut rows, |(i, row)| {
            for (j, out) in row.iter_mut().enumerate() {
                let start = if *add { *out } else { 0.0 };
                *out = (0..k).fold(start, |sum, l| rounded(a.at(*i, l)).mul_add(rounded(b.at(l, j)), sum));
            }
        });
    }
}
