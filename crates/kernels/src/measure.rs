//! What the machine can do, measured: the yardsticks of `bench`.

use std::time::Instant;

use crate::dispatch::table;
use crate::spin::{F32_STEPS, INT8_COLUMNS, INT8_ROWS};
use crate::{Format, Input, Matrix, Pool, Product, Quantized, Rows, matmul};

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

/// What products with weights of one format reach, all threads together.
#[derive(Clone, Copy, Debug)]
pub struct ProductRates {
    /// Bytes of weight per second with one input row, from memory.
    pub bytes: f64,
    /// Operations per second (a multiply-add counts two) with 128 input rows.
    pub operations: f64,
}

/// Run the products of the instruction set in use over weights of one format: a tenth of a second, or a few where they are slow.
pub fn product_rates(pool: &Pool, format: Format) -> ProductRates {
    const COLUMNS: usize = 2048;
    const INPUTS: usize = 128;
    /// More than the caches of most machines.
    const FAR_BYTES: usize = 96 << 20;
    const NEAR_ROWS: usize = 512;
    let row = format.row_bytes(COLUMNS).expect("whole blocks of every format");
    // The byte makes numbers and scales of moderate size in every format.
    let bytes = vec![0x2b_u8; FAR_BYTES / row * row];
    let x: Vec<f32> = (0..INPUTS * COLUMNS).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let factors = vec![1.0; (bytes.len() / row).div_ceil(128) * COLUMNS.div_ceil(128)];
    let run = |weights: usize, inputs: usize| {
        let (x, bytes) = (&x[..inputs * COLUMNS], &bytes[..weights * row]);
        let mut quantized = Quantized::new();
        quantized.quantize(pool, x, inputs, COLUMNS);
        let weight = match format {
            Format::F8E4M3 => Matrix::with_scales(weights, COLUMNS, bytes, &factors, 0),
            _ => Matrix::new(format, weights, COLUMNS, bytes),
        };
        let mut out = vec![0.0; inputs * weights];
        let mut fastest = f64::INFINITY;
        let begun = Instant::now();
        for _ in 0..4 {
            let input = Input { x, rows: inputs, cols: COLUMNS, quantized: Some(&quantized) };
            let started = Instant::now();
            matmul(pool, &mut [Product { weight, input, rows: Rows::All, out: &mut out }]);
            fastest = fastest.min(started.elapsed().as_secs_f64());
            if begun.elapsed().as_secs_f64() > 0.1 {
                break;
            }
        }
        std::hint::black_box(&out);
        fastest
    };
    ProductRates {
        bytes: bytes.len() as f64 / run(bytes.len() / row, 1),
        operations: (2 * NEAR_ROWS * COLUMNS * INPUTS) as f64 / run(NEAR_ROWS, INPUTS),
    }
}

/// Eight pieces a thread of `spin` are timed three times; the best counts. The plain kernels are slow: they take fewer rounds.
fn peak(pool: &Pool, operations_per_round: f64, spin: impl Fn(u64) + Sync) -> f64 {
    const ROUNDS: u64 = 1 << 16;
    let pieces = pool.threads() * 8;
    let started = Instant::now();
    spin(ROUNDS >> 8);
    let rounds = if started.elapsed().as_secs_f64() < 1e-3 { ROUNDS } else { ROUNDS >> 5 };
    let seconds = best(3, || pool.run(pieces, |_| spin(rounds)));
    operations_per_round * rounds as f64 * pieces as f64 / seconds
}

/// Operations per second (a multiply-add counts two) of 8-bit dot products, all threads together: what the instruction set in use can do
/// with 4- to 6-bit weights that are unpacked and lie in the first cache, without scales. AVX-512 has one instruction for it; AVX2 takes
/// five for twice as many products of half the width.
pub fn int8_peak(pool: &Pool) -> f64 {
    peak(pool, (16 * INT8_COLUMNS * INT8_ROWS * 2) as f64, |rounds| {
        // SAFETY: the table holds only functions whose instruction set this processor has.
        std::hint::black_box(unsafe { (table().spin_int8)(rounds) });
    })
}

/// Operations per second (a multiply-add counts two) of fused f32 multiply-adds between registers, all threads together. The plain kernels
/// have no instruction for them on old processors, and compute them in f64.
pub fn f32_peak(pool: &Pool) -> f64 {
    peak(pool, (F32_STEPS * 16 * 2) as f64, |rounds| {
        // SAFETY: the table holds only functions whose instruction set this processor has.
        std::hint::black_box(unsafe { (table().spin_f32)(rounds) });
    })
}

/// Operations per second (a multiply-add counts two) of products of bf16 with f32 sums between registers, all threads together: by the
/// instruction for them where there is one (`training::bf16_products`), else by multiply-adds of f32.
pub fn bf16_peak(pool: &Pool) -> f64 {
    let kernel = table().bf16;
    peak(pool, (F32_STEPS * 16 * 2 * kernel.numbers) as f64, |rounds| {
        // SAFETY: the table holds only functions whose instruction set this processor has.
        std::hint::black_box(unsafe { (kernel.spin)(rounds) });
    })
}
