//! What the machine can do, measured: the yardsticks of `bench`.

use std::time::Instant;

use crate::Pool;
use crate::dispatch::table;
use crate::vectors::Vectors;

#[inline(always)]
pub(crate) fn spin_int8<V: Vectors>(rounds: u64) -> i64 {
    let tile: [u8; 64] = std::hint::black_box(std::array::from_fn(|i| i as u8));
    let x: [i8; 4] = std::hint::black_box([1, 2, -3, 4]);
    let mut acc = [V::splat_i(0); 16];
    for _ in 0..rounds {
        for a in &mut acc {
            *a = V::dot_step(*a, &tile, &x);
        }
    }
    acc.iter().map(|&a| V::sum(V::to_f(a)) as i64).sum()
}

#[inline(always)]
pub(crate) fn spin_f32<V: Vectors>(rounds: u64) -> f32 {
    let (a, b) = (V::splat(std::hint::black_box(0.999)), V::splat(std::hint::black_box(0.001)));
    let mut acc = [V::splat(1.0); 16];
    for _ in 0..rounds {
        for v in &mut acc {
            *v = V::fma(*v, a, b);
        }
    }
    acc.iter().map(|&v| V::sum(v)).sum()
}

/// Best of a few timings of `f`, in seconds.
fn best(times: usize, f: impl Fn()) -> f64 {
    (0..times)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

/// Bytes per second that all threads read from memory together, over a buffer of `bytes` (take far more than the caches hold).
pub fn read_bandwidth(pool: &Pool, bytes: usize) -> f64 {
    let buffer = vec![1u64; bytes / 8];
    let seconds = best(4, || {
        pool.range(buffer.len(), 1 << 16, |range| {
            let mut sums = [0u64; 32];
            for chunk in buffer[range].chunks_exact(32) {
                sums.iter_mut().zip(chunk).for_each(|(s, x)| *s = s.wrapping_add(*x));
            }
            std::hint::black_box(sums);
        });
    });
    (buffer.len() * 8) as f64 / seconds
}

fn peak(pool: &Pool, operations_per_round: f64, spin: impl Fn(u64) + Sync) -> f64 {
    const ROUNDS: u64 = 1 << 18;
    let pieces = pool.threads() * 8;
    let seconds = best(3, || pool.run(pieces, |_| spin(ROUNDS)));
    operations_per_round * ROUNDS as f64 * pieces as f64 / seconds
}

/// Operations per second (a multiply-add counts two) of 8-bit dot products, all threads together.
pub fn int8_peak(pool: &Pool) -> f64 {
    peak(pool, 16.0 * 64.0 * 2.0, |rounds| {
        // SAFETY: the table holds only functions whose instruction set this processor has.
        std::hint::black_box(unsafe { (table().spin_int8)(rounds) });
    })
}

/// Operations per second (a multiply-add counts two) of f32 multiply-adds, all threads together.
pub fn f32_peak(pool: &Pool) -> f64 {
    peak(pool, 16.0 * 16.0 * 2.0, |rounds| {
        // SAFETY: the table holds only functions whose instruction set this processor has.
        std::hint::black_box(unsafe { (table().spin_f32)(rounds) });
    })
}
