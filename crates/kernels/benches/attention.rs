//! Attention over pages at the shapes of real models, beside the f32 peak of the same run: absorbed latents, rebuilt keys of a prompt,
//! grouped queries; the f32 kernel and the one in fixed point. The best of interleaved runs.
//!
//! `cargo bench -p farthing-kernels --bench attention`, with a part of names to pick cases; one thread unless `THREADS` says otherwise.

use std::time::Instant;

use farthing_kernels::*;

struct Case {
    name: &'static str,
    shape: Shape,
    /// Numbers from one key to the next; values lie in the same rows from `value_at` on.
    stride: usize,
    value_at: usize,
    /// 64 positions a page.
    pages: usize,
    half: bool,
    /// Of `attend` and of `attend_fixed`.
    seconds: [Vec<f64>; 2],
}

fn case(name: &'static str, (heads, key, value): (usize, usize, usize), stride: usize, value_at: usize) -> Case {
    let shape = Shape { heads, key, value, scale: 0.1 };
    Case { name, shape, stride, value_at, pages: 512, half: true, seconds: Default::default() }
}

fn main() {
    farthing_kernels::instruction_set_from_env().expect("an instruction set of this processor");
    let threads = std::env::var("THREADS").ok().and_then(|t| t.parse().ok()).unwrap_or(1);
    let pool = Pool::new(threads);
    let wanted = std::env::args().nth(1).filter(|a| !a.starts_with('-')).unwrap_or_default();
    let mut cases = [
        case("latents, 16 heads", (16, 576, 512), 576, 0),
        Case { pages: 8, ..case("latents, 16 heads, near", (16, 576, 512), 576, 0) },
        Case { pages: 8, ..case("latents, 4 heads, near", (4, 576, 512), 576, 0) },
        case("latents, 4 heads", (4, 576, 512), 576, 0),
        case("latents, 64 rows", (64, 576, 512), 576, 0),
        case("latents, 128 heads", (128, 576, 512), 576, 0),
        Case { half: false, pages: 64, ..case("rebuilt keys, 32 rows", (32, 192, 128), 320, 192) },
        Case { half: false, pages: 64, ..case("rebuilt keys, 64 rows", (64, 192, 128), 320, 192) },
        Case { half: false, pages: 64, ..case("rebuilt keys, 128 rows", (128, 192, 128), 320, 192) },
        case("groups of 4 heads", (4, 128, 128), 2 * 8 * 128, 8 * 128),
        case("groups of 4 heads, 8 rows", (32, 128, 128), 2 * 8 * 128, 8 * 128),
        case("one head", (1, 128, 128), 2 * 8 * 128, 8 * 128),
    ];
    let mut peaks = Vec::new();
    for _ in 0..9 {
        peaks.push(measure::f32_peak(&pool));
        for case in cases.iter_mut().filter(|case| case.name.contains(&wanted)) {
            measure_once(case, &pool, 0);
            measure_once(case, &pool, 1);
        }
    }
    peaks.sort_by(f64::total_cmp);
    let peak = peaks[peaks.len() - 1];
    println!("{} threads, {}: f32 {:.0} GFLOP/s", threads, instruction_set(), peak / 1e9);
    for case in cases.into_iter().filter(|case| case.name.contains(&wanted)) {
        let Case { shape, seconds, .. } = case;
        let operations = (2 * shape.heads * 64 * (shape.key + shape.value)) as f64;
        let [exact, fixed] = seconds.map(|mut seconds| {
            seconds.sort_by(f64::total_cmp);
            seconds[0]
        });
        println!(
            "{:26} {:8.1} us a page, {:3.0} % of the peak; fixed {:8.1} us, {:3.0} %: {:.2} times as fast",
            case.name,
            exact * 1e6 * threads as f64,
            operations / exact / peak * 100.0,
            fixed * 1e6 * threads as f64,
            operations / fixed / peak * 100.0,
            exact / fixed
        );
    }
}

fn measure_once(case: &mut Case, pool: &Pool, fixed: usize) {
    let Case { shape, stride, value_at, pages, half, .. } = *case;
    let number = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 50.0;
    let q: Vec<f32> = (0..shape.heads * shape.key).map(number).collect();
    let page = 64 * stride;
    let f32s: Vec<f32> = (0..pages * page).map(number).collect();
    let mut halves = vec![0u16; f32s.len()];
    f32_to_bf16(&f32s, &mut halves);
    let from = |at: usize| if half { Numbers::Bf16(&halves[at..]) } else { Numbers::F32(&f32s[at..]) };
    // Eight pages a task, as one long sequence is cut.
    let mut tasks: Vec<_> = (0..pages / 8).collect();
    if pages <= 16 {
        tasks = tasks.iter().copied().cycle().take(64).collect();
    }
    let start = Instant::now();
    pool.each(&mut tasks, |task| {
        let (mut max, mut sum) = (vec![f32::NEG_INFINITY; shape.heads], vec![0f32; shape.heads]);
        let mut acc = vec![0f32; shape.heads * shape.value];
        let mut state = Attended { max: &mut max, sum: &mut sum, acc: &mut acc };
        let queries = Queries::one(&q, shape.heads);
        let keys = |i: usize| {
            let (key_stride, value_stride) = (stride, stride);
            let (keys, values) = (from(i * page), from(i * page + value_at));
            let next = (i % 8 < 7).then(|| (from((i + 1) * page), from((i + 1) * page + value_at)));
            Keys { keys, key_stride, values, value_stride, count: 64, first_sees: Keys::ALL, next }
        };
        let pages = (8 * *task..8 * *task + 8).map(keys);
        if fixed == 1 {
            attend_fixed(queries, shape, pages, &mut state);
        } else {
            pages.for_each(|keys| attend(queries, shape, keys, &mut state));
        }
        std::hint::black_box(&acc);
    });
    case.seconds[fixed].push(start.elapsed().as_secs_f64() / tasks.len() as f64 / 8.0);
}
