//! Matrices in memory as factors of a product, and their panels: what tiles read, in the order in which they read it.

use std::ops::Range;

use super::multiply::Multiply;
use crate::vectors::{Vectors, array};

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
    pub(super) fn shape(&self) -> (usize, usize) {
        let rows = self.list.map_or(self.x.len() / self.cols, <[u32]>::len);
        if self.transposed { (self.cols, rows) } else { (rows, self.cols) }
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [f32] {
        let row = self.list.map_or(row, |list| list[row] as usize);
        &self.x[row * self.cols..][..self.cols]
    }

    /// Pack the panel of some rows of what it stands for, the columns `ks`: `[word][width]`. Lanes past the rows are undefined, numbers
    /// past the columns zero. Sixteen words after a panel
    /// whose `width` is no multiple of sixteen are overwritten.
    #[inline(always)]
    pub(super) fn pack<V: Vectors, M: Multiply<V>>(
        &self,
        (isa, mul): (V, M),
        rows: Range<usize>,
        ks: Range<usize>,
        width: usize,
        panel: &mut [i32],
    ) {
        for lane in (0..rows.len()).step_by(16) {
            let (lanes, panel) = (rows.start + lane..rows.end.min(rows.start + lane + 16), &mut panel[lane..]);
            if self.transposed {
                self.pack_across((isa, mul), lanes, ks.clone(), width, panel);
            } else {
                self.pack_along((isa, mul), lanes, ks.clone(), width, panel);
            }
        }
    }

    /// Lanes lie in rows of their own.
    #[inline(always)]
    fn pack_along<V: Vectors, M: Multiply<V>>(
        &self,
        (isa, mul): (V, M),
        lanes: Range<usize>,
        ks: Range<usize>,
        width: usize,
        panel: &mut [i32],
    ) {
        let words = M::words(ks.len());
        let rows: [&[f32]; 16] =
            array!(16, r, if r < lanes.len() { &self.row(lanes.start + r)[ks.clone()] } else { &[] });
        for word in (0..words).step_by(16) {
            let from = word * M::NUMBERS;
            let mut v = array!(16, r, if r < lanes.len() { mul.along(isa, &rows[r][from..]) } else { isa.splat_i(0) });
            isa.transpose(&mut v);
            for w in 0..16.min(words - word) {
                isa.store_i(v[w ^ M::SWAPPED], &mut panel[(word + w) * width..]);
            }
        }
    }

    /// Lanes lie side by side.
    #[inline(always)]
    fn pack_across<V: Vectors, M: Multiply<V>>(
        &self,
        (isa, mul): (V, M),
        lanes: Range<usize>,
        ks: Range<usize>,
        width: usize,
        panel: &mut [i32],
    ) {
        let (words, end) = (M::words(ks.len()), ks.end);
        for (pair, k) in ks.step_by(2).enumerate() {
            let even = self.load(isa, k, &lanes);
            let odd = if k + 1 < end { self.load(isa, k + 1, &lanes) } else { isa.splat(0.0) };
            let (v, word) = (mul.across(isa, even, odd), pair * (2 / M::NUMBERS));
            for w in 0..(2 / M::NUMBERS).min(words - word) {
                isa.store_i(v[w], &mut panel[(word + w) * width..]);
            }
        }
    }

    /// Sixteen columns of a row in memory, of which `lanes` are looked at.
    #[inline(always)]
    fn load<V: Vectors>(&self, isa: V, row: usize, lanes: &Range<usize>) -> V::F {
        let row = self.row(row);
        match row.get(lanes.start..lanes.start + 16) {
            Some(row) => isa.load(row),
            None => isa.load_part(&row[lanes.clone()]),
        }
    }
}
