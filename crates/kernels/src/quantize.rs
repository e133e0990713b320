//! Activations to 8-bit blocks, by one thread or many.

use crate::dispatch::table;
use crate::panels::{ALONE, BLOCK};
use crate::{Pool, Quantized};

/// Some blocks of columns of one panel, to be written.
struct Blocks<'a> {
    /// First row, first column.
    at: (usize, usize),
    rows: usize,
    x: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
}

impl Quantized {
    /// Take `x[rows * cols]`; `cols` is a multiple of 32.
    pub fn quantize(&mut self, pool: &Pool, x: &[f32], rows: usize, cols: usize) {
        self.shape([rows], cols);
        assert_eq!(x.len(), self.rows * cols, "the input's shape");
        let few = self.rows * cols <= ALONE;
        let blocks = cols / BLOCK;
        // Some blocks a task.
        let step = if few { blocks.max(1) } else { 8 };
        let (mut q, mut scales, mut sums) = (&mut self.x[..], &mut self.scales[..], &mut self.sums[..]);
        let mut tasks = Vec::new();
        for bounds in self.bounds.windows(2) {
            let (first, rows) = (bounds[0], bounds[1] - bounds[0]);
            for from in (0..blocks).step_by(step) {
                let places = rows * step.min(blocks - from);
                tasks.push(Blocks {
                    at: (first, from * BLOCK),
                    rows,
                    x: q.split_off_mut(..places * BLOCK).expect("room for all"),
                    scales: scales.split_off_mut(..places).expect("room for all"),
                    sums: sums.split_off_mut(..2 * places).expect("room for all"),
                });
            }
        }
        let fill = |blocks: &mut Blocks| {
            let (row, column) = blocks.at;
            let from = &x[row * cols + column..];
            // SAFETY: the table holds only functions whose instruction set this processor has.
            unsafe {
                (table().quantize)(from, (blocks.rows, cols), &mut *blocks.x, &mut *blocks.scales, &mut *blocks.sums)
            }
        };
        if few { tasks.iter_mut().for_each(fill) } else { pool.each(&mut tasks, fill) }
    }

    /// Addresses for writers of separate blocks.
    pub(crate) fn writer(&mut self) -> BlockWriter<'_> {
        BlockWriter {
            bounds: &self.bounds,
            cols: self.cols,
            x: self.x.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            sums: self.sums.as_mut_ptr(),
        }
    }
}

/// A `Quantized` that several threads write, each its own blocks.
pub(crate) struct BlockWriter<'a> {
    bounds: &'a [usize],
    cols: usize,
    x: *mut i8,
    scales: *mut f32,
    sums: *mut i32,
}

// SAFETY: a `&mut Quantized` in parts; `block` asks that no two threads write the same block.
unsafe impl Sync for BlockWriter<'_> {}
// SAFETY: as above.
unsafe impl Send for BlockWriter<'_> {}

impl BlockWriter<'_> {
    /// Quantise `values[rows][32]` to block `block` of the rows from `first` on, which must be one panel.
    ///
    /// # Safety
    /// No other thread writes that block of these rows.
    pub unsafe fn block(&self, first: usize, rows: usize, block: usize, values: &[f32]) {
        let panel = self.bounds.binary_search(&first).expect("the first row of a panel");
        assert!(self.bounds[panel + 1] - first == rows && block < self.cols / BLOCK && values.len() == rows * BLOCK);
        let at = first * (self.cols / BLOCK) + block * rows;
        // SAFETY: the buffers have room for all blocks of all rows (`shape`); the caller's thread alone writes these.
        unsafe {
            let x = std::slice::from_raw_parts_mut(self.x.add(BLOCK * at), BLOCK * rows);
            let scales = std::slice::from_raw_parts_mut(self.scales.add(at), rows);
            let sums = std::slice::from_raw_parts_mut(self.sums.add(2 * at), 2 * rows);
            // The table holds only functions whose instruction set this processor has.
            (table().quantize)(values, (rows, BLOCK), x, scales, sums)
        }
    }
}
