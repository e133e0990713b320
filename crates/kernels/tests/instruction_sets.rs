//! Every instruction set gives the bits of the scalar kernels, one row those of many, and both are near plain arithmetic in f64.

use farthing_kernels::dispatch::{tables, with_table};
use farthing_kernels::*;
use proptest::prelude::*;

/// A small generator, so that a failing case repeats from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

/// Random valid bytes: quants are random, scales are moderate.
fn weight(format: Format, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..format.row_bytes(cols).unwrap() * rows).map(|_| random.next() as u8).collect();
    let block = format.block_bytes();
    let half = |bytes: &mut [u8], at: usize, random: &mut Random| {
        let bits = 0x2000 | (random.next() as u16 & 0x83ff); // magnitudes of 2^-7
        bytes[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    };
    for b in bytes.chunks_mut(block) {
        match format {
            Format::F32 => b.copy_from_slice(&random.unit().to_le_bytes()),
            Format::F16 => half(b, 0, random),
            Format::Bf16 => b.copy_from_slice(&((random.unit().to_bits() >> 16) as u16).to_le_bytes()),
            Format::F8E4M3 => b[0] &= 0xbf,
            Format::Q8_0 | Format::Q4_0 | Format::Q5_0 | Format::Iq4Nl | Format::Iq4Xs => half(b, 0, random),
            Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => {
                half(b, 0, random);
                half(b, 2, random);
            }
            Format::Q2K => {
                half(b, 80, random);
                half(b, 82, random);
            }
            Format::Q3K => half(b, 108, random),
            Format::Q6K => half(b, 208, random),
            Format::Mxfp4 => b[0] = 118 + b[0] % 8,
        }
    }
    bytes
}

fn matrix<'a>(format: Format, rows: usize, cols: usize, bytes: &'a [u8], scales: &'a [f32]) -> Matrix<'a> {
    if format == Format::F8E4M3 {
        Matrix::with_scales(rows, cols, bytes, scales, 5)
    } else {
        Matrix::new(format, rows, cols, bytes)
    }
}

fn product(pool: &Pool, w: Matrix, x: &[f32], rows: usize, selected: Rows) -> Vec<f32> {
    let mut q = Quantized::new();
    if w.format.wants_quantized_input() {
        q.quantize(pool, x, rows, w.cols);
    }
    let mut out = vec![f32::NAN; selected.len(rows) * w.rows];
    let quantized = w.format.wants_quantized_input().then_some(&q);
    let input = Input { x, rows, cols: w.cols, quantized };
    matmul(pool, &mut [Product { weight: w, input, rows: selected, out: &mut out }]);
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// More rows than are treated together, and widths that end within a step of 256 columns.
#[test]
fn many_rows_and_long_ones() {
    let mut random = Random(7);
    let pool = Pool::new(1);
    for format in Format::ALL {
        for (out_rows, cols, rows) in [(37, 832, 3), (49, 576, 71), (16, 288, 130)] {
            let cols = cols / format.block_elems().max(32) * format.block_elems().max(32);
            let stored = weight(format, out_rows, cols, &mut random);
            let scales = vec![0.75; out_rows.div_ceil(128) * cols.div_ceil(128) + 16];
            let w = matrix(format, out_rows, cols, &stored, &scales);
            let x = random.floats(rows * cols);
            let scalar = with_table(tables().last().unwrap(), || product(&pool, w, &x, rows, Rows::All));
            for table in tables() {
                let got = with_table(table, || product(&pool, w, &x, rows, Rows::All));
                assert_eq!(bits(&got), bits(&scalar), "{} {format:?} {out_rows}x{cols} rows {rows}", table.name);
            }
        }
    }
}

/// Rows of a block, one product after the other: what `gated` must equal.
fn gated_plainly(pool: &Pool, [gate, up]: [Matrix; 2], x: &[f32], rows: usize, selected: Rows) -> Vec<f32> {
    let mut g = product(pool, gate, x, rows, selected);
    silu_mul(&mut g, &product(pool, up, x, rows, selected));
    g
}

/// What a buffer holds for the second halves, decoded.
fn held(hidden: &Hidden) -> Vec<f32> {
    let input = hidden.input();
    match input.quantized {
        Some(q) => (0..input.rows).flat_map(|r| q.decode_row(r)).collect(),
        None => input.x.to_vec(),
    }
}

/// Gated blocks of several widths, formats and numbers of rows, none and more than a panel's among them, give what separate products give.
#[test]
fn gated_blocks() {
    let mut random = Random(23);
    let pools = [Pool::new(1), Pool::new(3)];
    let (cols, rows) = (256, 211);
    let x = random.floats(rows * cols);
    let formats = [
        (Format::Q4K, Format::Q4K),
        (Format::Q5_0, Format::Q6K),
        (Format::Bf16, Format::Q8_0),
        (Format::F32, Format::F32),
    ];
    let lists: [Vec<u32>; 5] = [
        vec![],
        vec![210],
        (0..rows as u32).step_by(17).collect(),
        (3..150).collect(),
        (0..rows as u32).filter(|r| r % 2 == 1).collect(),
    ];
    for (g, u) in formats {
        for (width, in_bytes) in [(32, true), (96, true), (160, false), (45, false)] {
            let stored: Vec<[Vec<u8>; 2]> =
                lists.iter().map(|_| [g, u].map(|f| weight(f, width, cols, &mut random))).collect();
            let other = [g, u].map(|f| weight(f, 64, cols, &mut random));
            let mut seen: Option<Vec<Vec<u32>>> = None;
            for table in tables() {
                for pool in &pools[..if std::ptr::eq(table, tables()[0]) { 2 } else { 1 }] {
                    let got = with_table(table, || {
                        let mut q = Quantized::new();
                        q.quantize(pool, &x, rows, cols);
                        let input = Input { x: &x, rows, cols, quantized: Some(&q) };
                        let mut hidden = [Hidden::default(), Hidden::default()];
                        let counts: Vec<usize> = lists.iter().map(Vec::len).collect();
                        hidden[0].shape(&counts, width, in_bytes);
                        hidden[1].shape(&[rows], 64, true);
                        let mut blocks: Vec<Gated> = lists
                            .iter()
                            .zip(&stored)
                            .map(|(list, [a, b])| Gated {
                                gate: Matrix::new(g, width, cols, a),
                                up: Matrix::new(u, width, cols, b),
                                input,
                                rows: Rows::List(list),
                                hidden: 0,
                            })
                            .collect();
                        blocks.push(Gated {
                            gate: Matrix::new(g, 64, cols, &other[0]),
                            up: Matrix::new(u, 64, cols, &other[1]),
                            input,
                            rows: Rows::All,
                            hidden: 1,
                        });
                        gated(pool, &blocks, &mut hidden);
                        let plain: Vec<f32> = blocks[..lists.len()]
                            .iter()
                            .flat_map(|b| gated_plainly(pool, [b.gate, b.up], &x, rows, b.rows))
                            .collect();
                        let last = &blocks[lists.len()];
                        let plain = [plain, gated_plainly(pool, [last.gate, last.up], &x, rows, Rows::All)];
                        for (i, (plain, hidden)) in plain.iter().zip(&hidden).enumerate() {
                            let width = hidden.input().cols;
                            let expected = match hidden.input().quantized {
                                None => plain.clone(),
                                Some(_) => {
                                    let mut q = Quantized::new();
                                    q.quantize(pool, plain, plain.len() / width, width);
                                    (0..plain.len() / width).flat_map(|r| q.decode_row(r)).collect()
                                }
                            };
                            assert_eq!(bits(&held(hidden)), bits(&expected), "{} {g:?} {u:?} {width} {i}", table.name);
                        }
                        hidden.iter().map(|h| bits(&held(h))).collect::<Vec<_>>()
                    });
                    assert_eq!(seen.get_or_insert_with(|| got.clone()), &got, "{}", table.name);
                }
            }
        }
    }
}

/// Exponents at the ends of MXFP4's range.
#[test]
fn extreme_exponents() {
    let mut random = Random(11);
    let pool = Pool::new(1);
    let mut stored = weight(Format::Mxfp4, 16, 64, &mut random);
    for (i, block) in stored.chunks_mut(17).enumerate() {
        block[0] = [0, 1, 2, 3, 200, 253][i % 6];
    }
    let w = Matrix::new(Format::Mxfp4, 16, 64, &stored);
    let x: Vec<f32> = random.floats(64).iter().map(|x| x * 1e-3).collect();
    let scalar = with_table(tables().last().unwrap(), || product(&pool, w, &x, 1, Rows::All));
    for table in tables() {
        assert_eq!(bits(&with_table(table, || product(&pool, w, &x, 1, Rows::All))), bits(&scalar), "{}", table.name);
    }
}

/// Inputs so small that the inverse of their scale is infinite, and the largest quants of both signs on both sides.
#[test]
fn extreme_quants() {
    let pool = Pool::new(1);
    let (rows, cols) = (21, 128);
    for format in Format::ALL.into_iter().filter(|f| f.wants_quantized_input()) {
        let cols = cols / format.block_elems().min(cols) * format.block_elems();
        for fill in [0x00, 0x7f, 0x80, 0x81, 0xff] {
            let mut stored = weight(format, rows, cols, &mut Random(3));
            for (i, byte) in stored.iter_mut().enumerate() {
                // Quants of one kind, scales as they were.
                if format == Format::Q8_0 && i % 34 >= 2 || format == Format::Q6K && i % 210 < 192 {
                    *byte = fill;
                }
            }
            let w = Matrix::new(format, rows, cols, &stored);
            for size in [1e-40, 1.0, 1e30] {
                for signs in [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]] {
                    let x: Vec<f32> = (0..5 * cols).map(|i| size * signs[i % 2]).collect();
                    let scalar = with_table(tables().last().unwrap(), || product(&pool, w, &x, 5, Rows::All));
                    for table in tables() {
                        let got = with_table(table, || product(&pool, w, &x, 5, Rows::All));
                        assert_eq!(bits(&got), bits(&scalar), "{} {format:?} {fill:#x} {size}", table.name);
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn products(seed: u64, format in 0usize..17, out_rows in 0usize..40, blocks in 0usize..5, rows in 0usize..13, shift in 0usize..3) {
        let format = Format::ALL[format];
        let mut random = Random(seed);
        let cols = if format.block_elems() == 1 { blocks * 37 } else { blocks * format.block_elems() };
        let mut stored = vec![0u8; shift];
        stored.extend(weight(format, out_rows, cols, &mut random));
        let scales: Vec<f32> = (0..2 * cols.div_ceil(128).max(1)).map(|_| 0.5 + random.unit().abs()).collect();
        let w = matrix(format, out_rows, cols, &stored[shift..], &scales);
        let x = random.floats(rows * cols);
        let pools = [Pool::new(1), Pool::new(2)];
        let scalar = with_table(tables().last().unwrap(), || product(&pools[0], w, &x, rows, Rows::All));

        // Near the exact sum over decoded weights and the input as the product sees it.
        let mut decoded = vec![0f32; cols];
        let mut q = Quantized::new();
        if format.wants_quantized_input() { q.quantize(&pools[0], &x, rows, cols); }
        for r in 0..rows {
            let seen = if format.wants_quantized_input() { q.decode_row(r) } else { x[r * cols..(r + 1) * cols].to_vec() };
            for o in 0..out_rows {
                w.decode_row(o, &mut decoded);
                let exact: f64 = decoded.iter().zip(&seen).map(|(&w, &x)| w as f64 * x as f64).sum();
                // Formats with minima subtract two large sums: the bound follows their size.
                let size: f64 = decoded.iter().zip(&seen).map(|(&w, &x)| (w as f64 * x as f64).abs()).sum::<f64>() + cols as f64 * 0.5;
                let got = scalar[r * out_rows + o] as f64;
                prop_assert!((got - exact).abs() <= 1e-5 * size, "{format:?} {got} {exact}");
            }
        }
        for table in tables() {
            let one = with_table(table, || product(&pools[0], w, &x, rows, Rows::All));
            prop_assert_eq!(bits(&one), bits(&scalar), "{} {:?} {}x{} rows {}", table.name, format, out_rows, cols, rows);
            // A row alone has the bits it has in company; a list of rows those of its rows.
            for r in 0..rows {
                let alone = with_table(table, || product(&pools[0], w, &x, rows, Rows::Range(r, 1)));
                prop_assert_eq!(bits(&alone), bits(&scalar[r * out_rows..(r + 1) * out_rows]));
            }
            let list: Vec<u32> = (0..rows as u32).rev().step_by(2).collect();
            let listed = with_table(table, || product(&pools[0], w, &x, rows, Rows::List(&list)));
            for (i, &r) in list.iter().enumerate() {
                let r = r as usize;
                prop_assert_eq!(bits(&listed[i * out_rows..(i + 1) * out_rows]), bits(&scalar[r * out_rows..(r + 1) * out_rows]));
            }
        }
        prop_assert_eq!(bits(&product(&pools[1], w, &x, rows, Rows::All)), bits(&scalar));
    }

    #[test]
    fn transposed_products(seed: u64, format in 0usize..17, w_rows in 0usize..70, blocks in 0usize..3, rows in 0usize..5) {
        let format = Format::ALL[format];
        let mut random = Random(seed);
        let cols = if format.block_elems() == 1 { blocks * 53 } else { blocks * format.block_elems() };
        let stored = weight(format, w_rows, cols, &mut random);
        let scales: Vec<f32> = (0..4 * cols.div_ceil(128).max(1)).map(|_| 0.5 + random.unit().abs()).collect();
        let w = matrix(format, w_rows, cols, &stored, &scales);
        let x = random.floats(rows * w_rows);
        let pool = Pool::new(1);
        let run = || {
            let mut out = vec![f32::NAN; rows * cols];
            matmul_transposed(&pool, &mut [Transposed { weight: w, x: &x, rows, out: &mut out }]);
            out
        };
        let scalar = with_table(tables().last().unwrap(), run);
        let mut exact = vec![0f64; rows * cols];
        let mut decoded = vec![0f32; cols];
        for j in 0..w_rows {
            w.decode_row(j, &mut decoded);
            for r in 0..rows {
                for c in 0..cols {
                    exact[r * cols + c] += x[r * w_rows + j] as f64 * decoded[c] as f64;
                }
            }
        }
        for (a, b) in scalar.iter().zip(&exact) {
            prop_assert!((*a as f64 - b).abs() <= 1e-4 * (1.0 + b.abs()), "{} {}", a, b);
        }
        for table in tables() {
            prop_assert_eq!(bits(&with_table(table, run)), bits(&scalar), "{} {:?}", table.name, format);
        }
    }

    #[test]
    fn attention(
        seed: u64, heads in 1usize..10, rows in 1usize..7, key in 1usize..90, value in 1usize..150, count in 1usize..150, form in 0usize..4, within: bool
    ) {
        let mut random = Random(seed);
        // Numbers of 8 and 6 bits come in whole blocks.
        let unit = if form < 2 { 1 } else { SMALL };
        let (key, value) = (key.next_multiple_of(unit), value.next_multiple_of(unit));
        // Values are the first numbers of their keys, or lie beside them.
        let value = if within { value.min(key) } else { value };
        let beside = if form < 2 { 3 } else { SMALL };
        let (value_at, width) = if within { (0, key + beside) } else { (key, key + value + beside) };
        let stride = heads * key + 5;
        let (q, numbers) = (random.floats(rows * stride), random.floats(count * width));
        let mut halves = vec![0u16; numbers.len()];
        f32_to_bf16(&numbers, &mut halves);
        let blocks = numbers.len() / SMALL;
        let (mut eights, mut sixes) = (vec![0i8; blocks * SMALL], vec![0u8; blocks * SIX_BYTES]);
        let (mut eight_scales, mut six_scales) = (vec![0u16; blocks], vec![0u16; blocks]);
        to_eight(&numbers[..blocks * SMALL], &mut eights, &mut eight_scales);
        to_six(&numbers[..blocks * SMALL], &mut sixes, &mut six_scales);
        let shape = Shape { heads, key, value, scale: 2.0 };
        // Row i sees the first `first + i` positions of all pages.
        let first = count.saturating_sub(rows / 2).max(1) as isize;
        let all = match form {
            0 => Numbers::F32(&numbers),
            1 => Numbers::Bf16(&halves),
            2 => Numbers::Eight(&eights, &eight_scales),
            _ => Numbers::Six(&sixes, &six_scales),
        };
        let from = |at: usize| all.skip(at);
        let page = |at: usize, row: usize| Keys {
            keys: from(at * width),
            key_stride: width,
            values: from(at * width + value_at),
            value_stride: width,
            count: (count - at).min(64),
            first_sees: first + row as isize - at as isize,
            next: (at + 64 < count).then(|| (from((at + 64) * width), from((at + 64) * width + value_at))),
        };
        // Some rows and some heads, page after page, merged as they come or apart; in f32 or in fixed point.
        let runs = |fixed: bool, row: usize, some_rows: usize, head: usize, some: usize, split: bool| {
            let all = some_rows * some;
            let queries = Queries { q: &q[row * stride + head * key..], heads: some, stride };
            let shape = Shape { heads: all, ..shape };
            let state = || (vec![f32::NEG_INFINITY; all], vec![0f32; all], vec![0f32; all * value]);
            let mut whole = state();
            let mut into = Attended { max: &mut whole.0, sum: &mut whole.1, acc: &mut whole.2 };
            for at in (0..count).step_by(64) {
                if split {
                    let mut part = state();
                    let mut apart = Attended { max: &mut part.0, sum: &mut part.1, acc: &mut part.2 };
                    if fixed {
                        attend_fixed(queries, shape, [page(at, row)].into_iter(), &mut apart);
                    } else {
                        attend(queries, shape, page(at, row), &mut apart);
                    }
                    attend_merge(all, value, (&part.0, &part.1, &part.2), &mut into);
                } else if !fixed {
                    attend(queries, shape, page(at, row), &mut into);
                }
            }
            if fixed && !split {
                attend_fixed(queries, shape, (0..count).step_by(64).map(|at| page(at, row)), &mut into);
            }
            attend_finish(all, value, &mut into);
            whole.2
        };
        for fixed in [false, true] {
        let run = |row, some_rows, head, some, split| runs(fixed, row, some_rows, head, some, split);
        let scalar = with_table(tables().last().unwrap(), || run(0, rows, 0, heads, false));
        let mut seen = vec![0f32; all.len()];
        widen(all, &mut seen);
        let near = if fixed { 4e-3 } else { 2e-5 };
        for row in 0..rows {
            let sees = ((first + row as isize) as usize).min(count);
            for h in 0..heads {
                let q = &q[row * stride + h * key..];
                let score = |i: usize| 2.0 * (0..key).map(|j| q[j] as f64 * seen[i * width + j] as f64).sum::<f64>();
                let weights: Vec<f64> = (0..sees).map(|i| score(i).exp()).collect();
                let total: f64 = weights.iter().sum();
                for j in 0..value {
                    let exact = (0..sees).map(|i| weights[i] * seen[i * width + value_at + j] as f64).sum::<f64>() / total;
                    let got = scalar[(row * heads + h) * value + j];
                    prop_assert!((got as f64 - exact).abs() < near, "{} {}", got, exact);
                }
            }
        }
        for table in tables() {
            prop_assert_eq!(bits(&with_table(table, || run(0, rows, 0, heads, false))), bits(&scalar), "{}", table.name);
            prop_assert_eq!(bits(&with_table(table, || run(0, rows, 0, heads, true))), bits(&scalar), "{}: apart", table.name);
            // A row alone, and a few heads of it, have the bits they have in company.
            for row in 0..rows {
                let whole = &scalar[row * heads * value..(row + 1) * heads * value];
                let some = 1 + (seed as usize + row) % heads;
                let head = (seed as usize / 7 + row) % (heads - some + 1);
                prop_assert_eq!(bits(&with_table(table, || run(row, 1, 0, heads, false))), bits(whole), "{}: a row", table.name);
                let part = &whole[head * value..(head + some) * value];
                prop_assert_eq!(bits(&with_table(table, || run(row, 1, head, some, false))), bits(part), "{}: {} heads", table.name, some);
            }
        }
        }
    }

    #[test]
    fn single_rows(seed: u64, n in 1usize..200) {
        let mut random = Random(seed);
        let x: Vec<f32> = random.floats(n).iter().map(|x| x * 40.0).collect();
        let y = random.floats(n);
        let run = || {
            let mut normed = vec![0f32; n];
            rms_norm(&x, &y, 1e-6, &mut normed);
            let (mut gate, mut sigmoids, mut soft, mut sum) = (x.clone(), x.clone(), x.clone(), y.clone());
            silu_mul(&mut gate, &y);
            sigmoid(&mut sigmoids);
            softmax(&mut soft);
            add_scaled(&mut sum, &x, 0.3);
            [normed, gate, sigmoids, soft, sum]
        };
        let scalar = with_table(tables().last().unwrap(), run);
        let mean = x.iter().map(|&x| (x as f64).powi(2)).sum::<f64>() / n as f64;
        let top = x.iter().fold(f64::MIN, |a, &b| a.max(b as f64));
        let total: f64 = x.iter().map(|&x| (x as f64 - top).exp()).sum();
        for i in 0..n {
            let (a, b) = (x[i] as f64, y[i] as f64);
            let exact = [a / (mean + 1e-6).sqrt() * b, a / (1.0 + (-a).exp()) * b, 1.0 / (1.0 + (-a).exp()), (a - top).exp() / total, b + 0.3 * a];
            for (got, want) in scalar.iter().zip(exact) {
                prop_assert!((got[i] as f64 - want).abs() <= 2e-6 * (want.abs() + 1e-3) + 1e-7 * a.abs(), "{} {}", got[i], want);
            }
        }
        for table in tables() {
            for (a, b) in with_table(table, run).iter().zip(&scalar) {
                prop_assert_eq!(bits(a), bits(b), "{}", table.name);
            }
        }
    }
}

#[test]
fn quantised_rows_are_equal_and_near() {
    let mut random = Random(7);
    let x: Vec<f32> =
        random.floats(32 * 9).iter().enumerate().map(|(i, x)| if i / 32 == 3 { 0.0 } else { x * 5.0 }).collect();
    let pool = Pool::new(1);
    let run = || {
        let mut q = Quantized::new();
        q.quantize(&pool, &x, 3, 96);
        (0..3).flat_map(|r| q.decode_row(r)).collect::<Vec<_>>()
    };
    let scalar = with_table(tables().last().unwrap(), run);
    for (a, b) in scalar.iter().zip(&x) {
        assert!((a - b).abs() <= 5.0 / 127.0 / 2.0 * 1.001);
    }
    for table in tables() {
        assert_eq!(bits(&with_table(table, run)), bits(&scalar));
    }
}

#[test]
fn rotations_turn_pairs() {
    // Whole vectors of pairs and some that are left; heads of no more than what is turned, and longer ones, of which the last ends with it.
    for (half, stride) in [(1, 2), (2, 7), (8, 16), (8, 48), (9, 20), (16, 32), (21, 50), (32, 64)] {
        let mut random = Random(17 + half as u64);
        let (cos, sin) = (random.floats(half), random.floats(half));
        let x = random.floats(2 * stride + 2 * half);
        for interleaved in [true, false] {
            let mut want = x.clone();
            for head in want.chunks_mut(stride) {
                for (i, (c, s)) in cos.iter().zip(&sin).enumerate() {
                    let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
                    (head[a], head[b]) = (head[a] * c - head[b] * s, head[a] * s + head[b] * c);
                }
            }
            for table in tables() {
                let mut got = x.clone();
                let turn = if interleaved { rotate_interleaved } else { rotate_halves };
                with_table(table, || turn(&mut got, stride, &cos, &sin));
                assert_eq!(bits(&got), bits(&want), "{}: {half} of {stride}", table.name);
            }
        }
    }
}
