//! Muon (Jordan et al., 2024): the momentum of a matrix is orthogonalised before it becomes a step, by five Newton-Schulz iterations.
//!
//! Steps are scaled to the size of AdamW's (arXiv 2502.16982, section 2.2), so that one learning rate and one weight decay serve both.

use kernels::Pool;
use kernels::training::{Factor, Gemm, Precision, gemm};

/// Coefficients of an iteration: they bring singular values from 0..1 close to 1 fast, not exactly.
const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
const ITERATIONS: usize = 5;

/// A matrix `[rows, cols]` whose singular values are about 1, in the place of one with its singular vectors.
pub(crate) fn orthogonalise(pool: &Pool, precision: Precision, x: Vec<f32>, rows: usize, cols: usize) -> Vec<f32> {
    // The smaller side's products are the cheaper ones: a tall matrix is worked on as its transposition.
    let mut work = Work::new(x, rows, cols);
    work.scale();
    for _ in 0..ITERATIONS {
        // A = X X^T, B = b A + c A A, X = a X + B X
        gemm(pool, precision, &mut [work.gram()]);
        gemm(pool, precision, &mut [work.square()]);
        work.polynomial();
        gemm(pool, precision, &mut [work.apply()]);
        work.step();
    }
    work.finish()
}

/// Numbers that are there at once for a matrix: itself, what it becomes, and two squares of its smaller side.
pub(crate) fn scratch(rows: usize, cols: usize) -> usize {
    2 * rows * cols + 2 * rows.min(cols).pow(2)
}

struct Work {
    x: Vec<f32>,
    /// No more than `cols`.
    rows: usize,
    cols: usize,
    transposed: bool,
    gram: Vec<f32>,
    square: Vec<f32>,
    next: Vec<f32>,
}

fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for (i, row) in x.chunks(cols).enumerate() {
        row.iter().enumerate().for_each(|(j, &v)| out[j * rows + i] = v);
    }
    out
}

impl Work {
    fn new(x: Vec<f32>, rows: usize, cols: usize) -> Work {
        let transposed = rows > cols;
        let (x, rows, cols) = if transposed { (transpose(&x, rows, cols), cols, rows) } else { (x, rows, cols) };
        let (small, next) = (vec![0.0; rows * rows], vec![0.0; x.len()]);
        Work { x, rows, cols, transposed, gram: small.clone(), square: small, next }
    }

    fn scale(&mut self) {
        let norm = self.x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let factor = (1.0 / (norm + 1e-7)) as f32;
        self.x.iter_mut().for_each(|x| *x *= factor);
    }

    fn gram(&mut self) -> Gemm<'_> {
        let x = Factor::new(&self.x, self.cols);
        Gemm { a: x, b: x.t(), out: &mut self.gram, add: false }
    }

    fn square(&mut self) -> Gemm<'_> {
        let gram = Factor::new(&self.gram, self.rows);
        Gemm { a: gram, b: gram, out: &mut self.square, add: false }
    }

    fn polynomial(&mut self) {
        let [_, b, c] = COEFFICIENTS;
        self.square.iter_mut().zip(&self.gram).for_each(|(s, g)| *s = b * g + c * *s);
    }

    fn apply(&mut self) -> Gemm<'_> {
        let (b, x) = (Factor::new(&self.square, self.rows), Factor::new(&self.x, self.cols));
        Gemm { a: b, b: x, out: &mut self.next, add: false }
    }

    fn step(&mut self) {
        self.x.iter_mut().zip(&self.next).for_each(|(x, n)| *x = COEFFICIENTS[0] * *x + n);
    }

    fn finish(self) -> Vec<f32> {
        if self.transposed { transpose(&self.x, self.rows, self.cols) } else { self.x }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Rows of a wide matrix become orthogonal, columns of a tall one; singular values lie within 0.7 and 1.2 or so.
    #[test]
    fn singular_values_become_about_one() {
        for (rows, cols) in [(8, 24), (24, 8), (16, 16)] {
            let mut random = Random::new(&[rows as u64, cols as u64]);
            let x: Vec<f32> = (0..rows * cols).map(|_| random.normal() as f32).collect();
            let y = orthogonalise(&Pool::new(1), Precision::F32, x.clone(), rows, cols);
            // The trace of X^T Y is the sum of singular values times about one; Y's squares sum to about the rank.
            let rank = rows.min(cols) as f32;
            let squares: f32 = y.iter().map(|y| y * y).sum();
            assert!((0.5 * rank..1.3 * rank).contains(&squares), "{rows} x {cols}: {squares}");
            assert!(x.iter().zip(&y).map(|(x, y)| x * y).sum::<f32>() > 0.0);
            let by_small = if rows <= cols { y.clone() } else { transpose(&y, rows, cols) };
            let (small, large) = (rows.min(cols), rows.max(cols));
            for i in 0..small {
                for j in 0..i {
                    let dot: f32 = (0..large).map(|k| by_small[i * large + k] * by_small[j * large + k]).sum();
                    assert!(dot.abs() < 0.35, "{rows} x {cols}: rows {i} and {j}: {dot}");
                }
            }
        }
    }
}
