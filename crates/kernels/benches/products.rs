//! Products at the shapes of a 16B mixture-of-experts checkpoint, beside what the machine can do: bytes of weight per second for one
//! input row (the limit is the memory), operations per second for many (the limit is the dot-product unit). Medians of interleaved runs.
//!
//! `cargo bench -p farthing-kernels`; arguments are parts of format names to keep. One thread unless `THREADS` says otherwise;
//! `INPUTS` (as `1,4,8`) names other numbers of input rows, `SHAPES` (as `8192x2048`) other shapes.

use std::time::Instant;

use farthing_kernels::*;

struct Case {
    format: Format,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
    copies: usize,
    inputs: usize,
    seconds: Vec<f64>,
}

fn main() {
    farthing_kernels::instruction_set_from_env().expect("an instruction set of this processor");
    let threads = std::env::var("THREADS").ok().and_then(|t| t.parse().ok()).unwrap_or(1);
    let inputs: Vec<usize> = match std::env::var("INPUTS") {
        Ok(list) => list.split(',').map(|n| n.parse().expect("a number of input rows")).collect(),
        Err(_) => vec![1, 2, 4, 8, 12, 128],
    };
    let shapes: Vec<(usize, usize)> = match std::env::var("SHAPES") {
        Ok(list) => list.split(',').map(shape).collect(),
        Err(_) => vec![(1408, 2048), (2048, 1408), (2048, 10944)],
    };
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let pool = Pool::new(threads);
    println!(
        "{} threads, {}: read {:.1} GB/s, int8 {:.0} GOP/s, f32 {:.0} GFLOP/s",
        threads,
        instruction_set(),
        measure::read_bandwidth(&pool, 512 << 20) / 1e9,
        measure::int8_peak(&pool) / 1e9,
        measure::f32_peak(&pool) / 1e9
    );
    let formats =
        Format::ALL.into_iter().filter(|f| wanted.is_empty() || wanted.iter().any(|w| f.name().contains(w.as_str())));
    let mut cases = Vec::new();
    for format in formats {
        for &(rows, cols) in &shapes {
            let Some(row) = format.row_bytes(cols) else { continue };
            for &inputs in &inputs {
                // Enough copies that one input row reads memory, not a cache.
                let copies = if inputs < 12 && std::env::var_os("NEAR").is_none() {
                    (160usize << 20).div_ceil(row * rows).min(64)
                } else {
                    1
                };
                let mut state = 1u64;
                let mut bytes = vec![0u8; row * rows * copies];
                for chunk in bytes.chunks_mut(8) {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let word = (state ^ state >> 29) & 0x3f3f_3f3f_3f3f_3f3f;
                    chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
                }
                cases.push(Case { format, rows, cols, bytes, copies, inputs, seconds: Vec::new() });
            }
        }
        // A format at a time: its cases interleave, its memory goes before the next.
        for _ in 0..9 {
            cases.iter_mut().for_each(|case| measure_once(case, &pool));
        }
        for case in cases.drain(..) {
            let mut seconds = case.seconds;
            seconds.sort_by(f64::total_cmp);
            let one = seconds[seconds.len() / 2] / case.copies as f64;
            let weights = (case.rows * case.cols) as f64;
            println!(
                "{:6} {:6}x{:<5} inputs {:4}: {:9.1} us  {:6.2} GB/s  {:7.1} GOP/s",
                case.format.name(),
                case.rows,
                case.cols,
                case.inputs,
                one * 1e6,
                (case.bytes.len() / case.copies) as f64 / one / 1e9,
                2.0 * weights * case.inputs as f64 / one / 1e9
            );
        }
    }
}

/// Rows and columns of a weight, as `1408x2048`.
fn shape(text: &str) -> (usize, usize) {
    let (rows, cols) = text.split_once('x').expect("ROWSxCOLUMNS");
    (rows.parse().expect("rows"), cols.parse().expect("columns"))
}

fn measure_once(case: &mut Case, pool: &Pool) {
    let Case { format, rows, cols, inputs, .. } = *case;
    let x: Vec<f32> = (0..inputs * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let mut quantized = Quantized::new();
    if format.wants_quantized_input() {
        quantized.quantize(pool, &x, inputs, cols);
    }
    let input = Input { x: &x, rows: inputs, cols, quantized: format.wants_quantized_input().then_some(&quantized) };
    let factors = vec![1.0; rows.div_ceil(128) * cols.div_ceil(128)];
    let mut out = vec![0.0; inputs * rows];
    let start = Instant::now();
    for bytes in case.bytes.chunks_exact(case.bytes.len() / case.copies) {
        let weight = match format {
            Format::F8E4M3 => Matrix::with_scales(rows, cols, bytes, &factors, 0),
            _ => Matrix::new(format, rows, cols, bytes),
        };
        matmul(pool, &mut [Product { weight, input, rows: Rows::All, out: &mut out }]);
    }
    case.seconds.push(start.elapsed().as_secs_f64());
    std::hint::black_box(&out);
}
