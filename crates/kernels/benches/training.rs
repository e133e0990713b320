//! Kernels of training at the shapes of a small model, beside the peak of the same run: products forward, for the gradient of the input and
//! for that of the weight, in f32 and bf16; attention over documents, forward and backward. Medians of interleaved runs.
//!
//! `cargo bench -p farthing-kernels --bench training`, with a part of names to pick cases; `THREADS` threads, 2 unless it says otherwise.

use std::time::Instant;

use farthing_kernels::training::{
    Factor, Gemm, Packed, Precision, Shape, attention, attention_backward, bf16_products, gemm,
};
use farthing_kernels::{Pool, instruction_set, measure};

const TOKENS: usize = 4096;

struct Case {
    name: String,
    operations: f64,
    /// Whether its peak is that of bf16.
    bf16: bool,
    run: Box<dyn FnMut(&Pool)>,
    seconds: Vec<f64>,
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect()
}

/// Which of the three products of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pass {
    Forward,
    Input,
    Weight,
}

/// A layer's product for each of `lists`: rows of the tokens that it takes. Weights are `[outer, inner]`.
fn layer(pass: Pass, (inner, outer): (usize, usize), lists: Vec<Vec<u32>>, bf16: bool) -> Case {
    let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
    let x = numbers(TOKENS * inner);
    let (weight, count) = (numbers(lists.len() * inner * outer), lists.len());
    let rows: usize = lists.iter().map(Vec::len).sum();
    let dy = numbers(rows * outer);
    let mut out = vec![
        0.0;
        match pass {
            Pass::Forward => rows * outer,
            Pass::Input => rows * inner,
            Pass::Weight => weight.len(),
        }
    ];
    let run = move |pool: &Pool| {
        let (mut products, mut at, mut rest) = (Vec::new(), 0, &mut out[..]);
        for (list, weight) in lists.iter().zip(weight.chunks(inner * outer)) {
            let dy = Factor::new(&dy[at * outer..][..list.len() * outer], outer);
            let (x, w) = (Factor::new(&x, inner).rows(list), Factor::new(weight, inner));
            let (a, b, size) = match pass {
                Pass::Forward => (x, w.t(), list.len() * outer),
                Pass::Input => (dy, w, list.len() * inner),
                Pass::Weight => (dy.t(), x, inner * outer),
            };
            products.push(Gemm { a, b, out: rest.split_off_mut(..size).unwrap(), add: pass == Pass::Weight });
            at += list.len();
        }
        gemm(pool, precision, &mut products);
    };
    let experts = if count == 1 { String::new() } else { format!("{count} experts ") };
    let format = if bf16 { "bf16" } else { "f32" };
    Case {
        name: format!("{format} {experts}({inner}, {outer}) {pass:?}"),
        operations: 2.0 * (rows * inner * outer) as f64,
        bf16,
        run: Box::new(run),
        seconds: Vec::new(),
    }
}

/// Attention over documents of about so many tokens, or its backward. The operations are those of scores that are seen.
fn documents(length: usize, backward: bool, precision: Precision) -> Case {
    const SHAPE: Shape = Shape { heads: 8, kv_heads: 8, key: 48, value: 32, scale: 0.144, window: None };
    let Shape { heads, key, value, .. } = SHAPE;
    let (mut documents, mut at) = (Vec::new(), 0);
    while at < TOKENS {
        let end = (at + length * (3 + documents.len() % 3) / 4).min(TOKENS);
        documents.push(at..end);
        at = end;
    }
    let pairs: usize = documents.iter().map(|d| d.len() * (d.len() + 1) / 2).sum();
    let widths = if backward { 3 * key + 2 * value } else { key + value };
    let (q, k, v) = (numbers(TOKENS * heads * key), numbers(TOKENS * heads * key), numbers(TOKENS * heads * value));
    let (mut out, mut log_sums) = (v.clone(), vec![0.0; TOKENS * heads]);
    let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
    let d_out = v.clone();
    let run = move |pool: &Pool| {
        let x = Packed { q: &q, k: &k, v: &v, documents: &documents };
        if backward {
            attention_backward(pool, precision, SHAPE, x, (&out, &log_sums), &d_out, (&mut dq, &mut dk, &mut dv));
        } else {
            attention(pool, precision, SHAPE, x, (&mut out, &mut log_sums));
        }
    };
    Case {
        name: format!("{precision:?} attention of {length}{}", if backward { ", backward" } else { "" }).to_lowercase(),
        operations: 2.0 * (heads * pairs * widths) as f64,
        bf16: precision == Precision::Bf16,
        run: Box::new(run),
        seconds: Vec::new(),
    }
}

fn main() {
    farthing_kernels::instruction_set_from_env().expect("an instruction set of this processor");
    let threads = std::env::var("THREADS").ok().and_then(|t| t.parse().ok()).unwrap_or(2);
    let rounds = std::env::var("ROUNDS").ok().and_then(|t| t.parse().ok()).unwrap_or(15);
    let pool = Pool::new(threads);
    let wanted = std::env::args().nth(1).filter(|a| !a.starts_with('-')).unwrap_or_default();
    let mut cases = Vec::new();
    for bf16 in [false, true] {
        for sizes in [(320, 1152), (320, 320), (512, 320), (320, 4096)] {
            for pass in [Pass::Forward, Pass::Input, Pass::Weight] {
                cases.push(layer(pass, sizes, vec![(0..TOKENS as u32).collect()], bf16));
            }
        }
        for pass in [Pass::Forward, Pass::Input, Pass::Weight] {
            // Four of sixteen experts a token, not all as often.
            let list = |expert: usize| {
                (0..TOKENS).filter(move |t| (t * 7 + t / 5 + expert) % 16 < 4 - expert % 2 + expert / 8)
            };
            let lists = (0..16).map(|expert| list(expert).map(|t| t as u32).collect()).collect();
            cases.push(layer(pass, (320, 192), lists, bf16));
        }
    }
    for length in [200, 1024] {
        for precision in [Precision::F32, Precision::Bf16] {
            cases.extend([false, true].map(|backward| documents(length, backward, precision)));
        }
    }
    cases.retain(|case| case.name.contains(&wanted));
    let mut peaks = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        peaks[0].push(measure::f32_peak(&pool));
        peaks[1].push(measure::bf16_peak(&pool));
        for case in &mut cases {
            let start = Instant::now();
            (case.run)(&pool);
            case.seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let [f32_peak, bf16_peak] = peaks.map(median);
    let (set, native) = (instruction_set(), if bf16_products() { " (products of bf16)" } else { "" });
    println!(
        "{threads} threads, {set}{native}: f32 {:.0} GFLOP/s, bf16 {:.0} GFLOP/s",
        f32_peak / 1e9,
        bf16_peak / 1e9
    );
    for Case { name, operations, bf16, seconds, .. } in cases {
        let fastest = seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let (rate, peak) = (operations / median(seconds), if bf16 { bf16_peak } else { f32_peak });
        let (most, share) = (operations / fastest, rate / peak * 100.0);
        println!("{name:36} {:7.1} GFLOP/s, {share:5.1} % of the peak; at best {:7.1}", rate / 1e9, most / 1e9);
    }
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}
