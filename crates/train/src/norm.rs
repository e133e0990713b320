//! RMS norms of rows.

use kernels::training::rms_norm_backward;
use kernels::{Pool, rms_norm};

use crate::pass::ROWS;

/// `out` = rows of `x`, normed.
pub(crate) fn forward(pool: &Pool, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let n = weight.len();
    let mut parts: Vec<_> = x.chunks(ROWS * n).zip(out.chunks_mut(ROWS * n)).collect();
    pool.each(&mut parts, |(x, out)| {
        for (x, out) in x.chunks(n).zip(out.chunks_mut(n)) {
            rms_norm(x, weight, eps, out);
        }
    });
}

/// `dx +=`, `d_weight +=`, from the gradient `dy` of the normed rows. The order of every sum is the same for any number of threads.
pub(crate) fn backward(
    pool: &Pool,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    d_weight: &mut [f32],
) {
    let n = weight.len();
    let mut sums = vec![0f32; x.len().div_ceil(ROWS * n) * n];
    let by_part = x.chunks(ROWS * n).zip(dy.chunks(ROWS * n)).zip(dx.chunks_mut(ROWS * n)).zip(sums.chunks_mut(n));
    let mut parts: Vec<_> = by_part.collect();
    pool.each(&mut parts, |(((x, dy), dx), d_weight)| {
        for ((x, dy), dx) in x.chunks(n).zip(dy.chunks(n)).zip(dx.chunks_mut(n)) {
            rms_norm_backward(x, weight, eps, dy, dx, d_weight);
        }
    });
    drop(parts);
    sums.chunks(n).for_each(|part| kernels::add(d_weight, part));
}
