//! Matrices in memory as factors of a product, and their panels: what tiles read, in the order in which they read it.

use std::ops::Range;

use super::multiply::Multiply;
use crate::vectors::{Vectors, array};

/// A matrix in memory, row-major, as a factor of a product.
#[derive(Clone, Copy)]
pub struct Factor<'a> {
    x: &'a [f32],
    /// Rows of `x`, and those that follow them.
    above: usize,
    below: &'a [f32],
    /// Numbers from one row to the next.
    stride: usize,
    /// The first column and their number.
    first: usize,
    cols: usize,
    list: Option<&'a [u32]>,
    transposed: bool,
}

impl<'a> Factor<'a> {
    /// Rows of so many columns.
    pub fn new(x: &'a [f32], cols: usize) -> Factor<'a> {
        assert!(cols > 0 && x.len().is_multiple_of(cols), "whole rows");
        Factor { x, above: x.len() / cols, below: &[], stride: cols, first: 0, cols, list: None, transposed: false }
    }

    /// Rows of so many columns, and below them those of another matrix.
    pub fn stacked(x: &'a [f32], below: &'a [f32], cols: usize) -> Factor<'a> {
        assert!(cols > 0 && below.len().is_multiple_of(cols), "whole rows");
        Factor { below, ..Factor::new(x, cols) }
    }

    fn matrix_rows(&self) -> usize {
        self.above + self.below.len() / self.stride
    }

    /// Only these of its rows, in this order.
    pub fn rows(self, list: &'a [u32]) -> Factor<'a> {
        let rows = self.matrix_rows();
        assert!(list.iter().all(|&row| (row as usize) < rows), "rows of the matrix");
        Factor { list: Some(list), ..self }
    }

    /// Only these of its columns.
    pub fn columns(self, columns: Range<usize>) -> Factor<'a> {
        assert!(!self.transposed && columns.start <= columns.end && columns.end <= self.cols, "columns of the matrix");
        Factor { first: self.first + columns.start, cols: columns.len(), ..self }
    }

    /// Its transposition (of the selected rows and columns).
    pub fn t(self) -> Factor<'a> {
        Factor { transposed: !self.transposed, ..self }
    }

    pub(super) fn transposed(&self) -> bool {
        self.transposed
    }

    /// Rows and columns of what it stands for.
    pub(super) fn shape(&self) -> (usize, usize) {
        let rows = self.list.map_or(self.matrix_rows(), <[u32]>::len);
        if self.transposed { (self.cols, rows) } else { (rows, self.cols) }
    }

    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &'a [f32] {
        &self.from(row)[..self.cols]
    }

    /// A row and what follows in memory.
    #[inline(always)]
    fn from(&self, row: usize) -> &'a [f32] {
        let row = self.list.map_or(row, |list| list[row] as usize);
        let (x, row) = if row < self.above { (self.x, row) } else { (self.below, row - self.above) };
        &x[row * self.stride + self.first..]
    }

    /// Pack panels of some rows of what it stands for, the columns `ks`: each `[word][width]`. Lanes past the rows are undefined, numbers
    /// past the columns zero.
    #[inline(always)]
    pub(super) fn pack<V: Vectors, M: Multiply<V>>(
        &self,
        isa: V,
        mul: M,
        (rows, ks): (Range<usize>, Range<usize>),
        panels: Panels,
        packed: &mut [i32],
    ) {
        if self.transposed {
            self.pack_across(isa, mul, (rows, ks), panels, packed);
            return;
        }
        for (i, from) in rows.clone().step_by(panels.width).enumerate() {
            let width = panels.width_of(rows.end - from);
            for lane in (0..width).step_by(16) {
                let lanes = from + lane..rows.end.min(from + panels.width).min(from + lane + 16);
                if ks.len() <= SHORT {
                    for row in lanes.end..rows.end.min(lanes.end + 16) {
                        self.row(row)[ks.clone()].chunks(16).for_each(|line| isa.prefetch(line));
                    }
                }
                self.pack_along(isa, mul, lanes, ks.clone(), width, &mut packed[i * panels.stride + lane..]);
            }
        }
    }

    /// At most sixteen lanes that lie in rows of their own.
    #[inline(always)]
    fn pack_along<V: Vectors, M: Multiply<V>>(
        &self,
        isa: V,
        mul: M,
        lanes: Range<usize>,
        ks: Range<usize>,
        width: usize,
        panel: &mut [i32],
    ) {
        let (words, numbers) = (M::words(ks.len()), ks.len());
        // Lanes past the last repeat it: nobody looks at them.
        let rows: [&[f32]; 16] = array!(16, r, &self.row((lanes.start + r).min(lanes.end - 1))[ks.clone()]);
        let whole = numbers / (16 * M::NUMBERS) * 16;
        for word in (0..whole).step_by(16) {
            let at = word * M::NUMBERS..(word + 16) * M::NUMBERS;
            let mut v = array!(16, r, mul.along(isa, &rows[r][at.clone()]));
            isa.transpose(&mut v);
            let panel = &mut panel[word * width..][..15 * width + 16];
            for w in 0..16 {
                isa.store_i(v[w ^ M::SWAPPED], &mut panel[w * width..]);
            }
        }
        if whole < words {
            let mut v = array!(16, r, mul.along_part(isa, &rows[r][whole * M::NUMBERS..]));
            isa.transpose(&mut v);
            for w in 0..words - whole {
                isa.store_i(v[w ^ M::SWAPPED], &mut panel[(whole + w) * width..]);
            }
        }
    }

    /// Lanes that lie side by side: each row in memory is read once, for all panels.
    #[inline(always)]
    fn pack_across<V: Vectors, M: Multiply<V>>(
        &self,
        isa: V,
        mul: M,
        (lanes, ks): (Range<usize>, Range<usize>),
        panels: Panels,
        packed: &mut [i32],
    ) {
        let (words, end) = (M::words(ks.len()), ks.end);
        for (pair, k) in ks.step_by(2).enumerate() {
            let word = pair * (2 / M::NUMBERS);
            let second = M::NUMBERS == 1 && word + 1 < words;
            let (even, odd) = (self.lanes(k, &lanes), if k + 1 < end { self.lanes(k + 1, &lanes) } else { &[] });
            // Rows are too short for the processor to see that another follows.
            for ahead in [k + AHEAD, k + AHEAD + 1] {
                if ahead < end {
                    self.row(ahead)[lanes.clone()].chunks(16).for_each(|line| isa.prefetch(line));
                }
            }
            for (i, from) in (0..lanes.len()).step_by(panels.width).enumerate() {
                let width = panels.width_of(lanes.len() - from);
                let panel = &mut packed[i * panels.stride + word * width..];
                for lane in (0..width).step_by(16) {
                    let v = mul.across(isa, sixteen(isa, even, from + lane), sixteen(isa, odd, from + lane));
                    isa.store_i(v[0], &mut panel[lane..]);
                    if second {
                        isa.store_i(v[1], &mut panel[width + lane..]);
                    }
                }
            }
        }
    }

    /// Of a row, these columns and what follows in memory.
    #[inline(always)]
    fn lanes(&self, row: usize, lanes: &Range<usize>) -> &'a [f32] {
        assert!(lanes.end <= self.cols);
        &self.from(row)[lanes.start..]
    }
}

/// Rows that are asked for before they are packed.
const AHEAD: usize = 16;
/// Numbers of a row at most where the processor does not see in time that another follows.
const SHORT: usize = 64;

/// Numbers from one on, zeros past the end.
#[inline(always)]
fn sixteen<V: Vectors>(isa: V, row: &[f32], from: usize) -> V::F {
    match row.get(from..from + 16) {
        Some(row) => isa.load(row),
        None => isa.load_part(&row[from.min(row.len())..]),
    }
}

/// How lanes are divided in panels.
#[derive(Clone, Copy)]
pub(super) struct Panels {
    pub width: usize,
    /// Widths of a last panel, in ascending order, of which the first that is enough is taken.
    pub last: [usize; 2],
    /// Words from one panel to the next: at least sixteen more than a panel has where a width is no multiple of sixteen, since vectors are
    /// stored whole.
    pub stride: usize,
}

impl Panels {
    /// The width of the panel that starts where so many lanes are left.
    #[inline(always)]
    pub fn width_of(&self, left: usize) -> usize {
        match left {
            left if left <= self.last[0] => self.last[0],
            left if left <= self.last[1] => self.last[1],
            _ => self.width,
        }
    }
}
