//! Outputs that several threads write, each a part of its own.

use std::marker::PhantomData;
use std::ops::Range;

/// An output whose parts several threads write.
pub(crate) struct SharedOut<'a> {
    ptr: *mut f32,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    lives: PhantomData<&'a mut [f32]>,
}

// SAFETY: a `&mut [f32]`; its numbers are reached through `part` alone, which asks that no two parts overlap.
unsafe impl Sync for SharedOut<'_> {}
// SAFETY: as above.
unsafe impl Send for SharedOut<'_> {}

impl<'a> SharedOut<'a> {
    pub(crate) fn new(out: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(out.len(), rows * cols);
        SharedOut { ptr: out.as_mut_ptr(), rows, cols, lives: PhantomData }
    }

    /// Some rows of some columns.
    ///
    /// # Safety
    /// No other part that has some of these numbers lives as long as this one.
    pub(crate) unsafe fn part(&self, rows: Range<usize>, columns: Range<usize>) -> Out<'_> {
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

impl SharedOut<'_> {
    /// As `part`, with the columns numbered from the part's first.
    ///
    /// # Safety
    /// As of `part`.
    pub(crate) unsafe fn block(&self, rows: Range<usize>, columns: Range<usize>) -> Out<'_> {
        // SAFETY: asked of the caller.
        let part = unsafe { self.part(rows, columns) };
        Out { columns: 0..part.columns.len(), ..part }
    }
}

/// A part of an output that is one thread's alone: rows, numbered from the part's first, of some columns, numbered as the output's.
pub(crate) struct Out<'a> {
    ptr: *mut f32,
    rows: usize,
    /// Numbers from one row to the next.
    stride: usize,
    columns: Range<usize>,
    lives: PhantomData<&'a mut [f32]>,
}

impl<'a> Out<'a> {
    /// Columns `columns` of an output, which are all that `out` has.
    pub(crate) fn new(out: &'a mut [f32], rows: usize, columns: Range<usize>) -> Self {
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
    pub(crate) fn write(&mut self, row: usize, col: usize, x: &[f32]) {
        let at = self.check(row, col, x.len());
        // SAFETY: within the part by `check`.
        unsafe { std::ptr::copy_nonoverlapping(x.as_ptr(), self.ptr.add(at), x.len()) }
    }

    #[inline(always)]
    pub(crate) fn read(&self, row: usize, col: usize, x: &mut [f32]) {
        let at = self.check(row, col, x.len());
        // SAFETY: within the part by `check`.
        unsafe { std::ptr::copy_nonoverlapping(self.ptr.add(at), x.as_mut_ptr(), x.len()) }
    }

    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize, col: usize, len: usize) -> &mut [f32] {
        let at = self.check(row, col, len);
        // SAFETY: within the part by `check`, and this thread's alone.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(at), len) }
    }

    /// `R` rows of `N` columns.
    #[inline(always)]
    pub(crate) fn tile<const R: usize, const N: usize>(&mut self, row: usize, col: usize) -> OutTile<'_, R, N> {
        let at = self.check(row, col, N);
        assert!(R <= self.rows - row);
        OutTile { ptr: self.ptr.wrapping_add(at), stride: self.stride, lives: PhantomData }
    }

    /// Some of its rows and columns, these and the block's own numbered from the first.
    pub(crate) fn block(&mut self, rows: Range<usize>, columns: Range<usize>) -> Out<'_> {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        assert!(columns.start <= columns.end && columns.end <= self.columns.len());
        let ptr = self.ptr.wrapping_add(rows.start * self.stride + columns.start);
        Out { ptr, rows: rows.len(), stride: self.stride, columns: 0..columns.len(), lives: PhantomData }
    }
}

/// `R` rows of `N` columns of an output: checked once, since each row is a check too many for a small tile.
pub(crate) struct OutTile<'a, const R: usize, const N: usize> {
    ptr: *mut f32,
    stride: usize,
    lives: PhantomData<&'a mut [f32]>,
}

impl<const R: usize, const N: usize> OutTile<'_, R, N> {
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32; N] {
        assert!(row < R);
        // SAFETY: all rows are within the part, as `tile` has checked, and this thread's alone.
        unsafe { &mut *self.ptr.add(row * self.stride).cast::<[f32; N]>() }
    }
}
