//! Products of training: against f64 in every orientation, the definition bit for bit on every instruction set, and with any number of threads.
#![cfg(not(loom))]

use farthing_kernels::dispatch::{tables, with_table};
use farthing_kernels::training::{Factor, Gemm, Precision, bf16_products, gemm};
use farthing_kernels::{Pool, bf16_to_f32, f32_to_bf16};

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 20) as usize % n
    }
    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }
}

/// A factor `[rows, cols]` with what it is made of: rows of a larger matrix by a list with repeats, or all, of which it has columns from 3 on
/// or all; transposed, or not. That matrix lies in one place or in two.
struct Matrix {
    x: Vec<f32>,
    /// Rows that lie in the first place.
    above: usize,
    stored_cols: usize,
    first: usize,
    list: Option<Vec<u32>>,
    transposed: bool,
}

impl Matrix {
    fn new(rows: usize, cols: usize, listed: bool, transposed: bool, random: &mut Random) -> Matrix {
        let (used, stored_cols) = if transposed { (cols, rows) } else { (rows, cols) };
        let stored = if listed { used / 2 + 3 } else { used };
        let list = listed.then(|| (0..used).map(|_| random.below(stored) as u32).collect());
        let first = if random.below(2) == 0 { 3 } else { 0 };
        let stored_cols = stored_cols + 2 * first;
        let above = if random.below(2) == 0 { random.below(stored + 1) } else { stored };
        Matrix { x: random.floats(stored * stored_cols), above, stored_cols, first, list, transposed }
    }

    fn factor(&self) -> Factor<'_> {
        let (above, below) = self.x.split_at(self.above * self.stored_cols);
        let all = Factor::stacked(above, below, self.stored_cols);
        let end = self.stored_cols - self.first;
        // Columns of columns.
        let whole =
            all.columns(self.first / 2..self.stored_cols).columns(self.first - self.first / 2..end - self.first / 2);
        let some = self.list.as_ref().map_or(whole, |list| whole.rows(list));
        if self.transposed { some.t() } else { some }
    }

    fn at(&self, row: usize, col: usize) -> f32 {
        let (row, col) = if self.transposed { (col, row) } else { (row, col) };
        self.x[self.list.as_ref().map_or(row, |list| list[row] as usize) * self.stored_cols + self.first + col]
    }
}

struct Product {
    a: Matrix,
    b: Matrix,
    size: (usize, usize, usize),
    start: Option<Vec<f32>>,
}

impl Product {
    /// Orientation, lists and addition by the bits of `kind`, 32 in all.
    fn new((m, n, k): (usize, usize, usize), kind: usize, random: &mut Random) -> Product {
        let bit = |i: usize| kind >> i & 1 == 1;
        Product {
            a: Matrix::new(m, k, bit(0), bit(1), random),
            b: Matrix::new(k, n, bit(2), bit(3), random),
            size: (m, n, k),
            start: bit(4).then(|| random.floats(m * n)),
        }
    }

    fn compute(products: &[Product], precision: Precision, pool: &Pool) -> Vec<Vec<f32>> {
        let out = |p: &Product| p.start.clone().unwrap_or(vec![f32::NAN; p.size.0 * p.size.1]);
        let mut outs: Vec<Vec<f32>> = products.iter().map(out).collect();
        let with = |(p, out)| {
            let p: &Product = p;
            let out: &mut Vec<f32> = out;
            Gemm { a: p.a.factor(), b: p.b.factor(), out, add: p.start.is_some() }
        };
        let mut gemms: Vec<Gemm> = products.iter().zip(&mut outs).map(with).collect();
        gemm(pool, precision, &mut gemms);
        drop(gemms);
        outs
    }

    /// The definition of one number, and the sum in f64 with that of magnitudes.
    fn number(&self, precision: Precision, i: usize, j: usize) -> (f32, f64, f64) {
        let (k, start) = (self.size.2, self.start.as_ref().map_or(0.0, |x| x[i * self.size.1 + j]));
        let pair = |l: usize| if l < k { (self.a.at(i, l), self.b.at(l, j)) } else { (0.0, 0.0) };
        let exact = (0..k).map(|l| f64::from(pair(l).0) * f64::from(pair(l).1)).sum::<f64>() + f64::from(start);
        let size = (0..k).map(|l| f64::from(pair(l).0 * pair(l).1).abs()).sum::<f64>() + f64::from(start.abs());
        let defined = match precision {
            Precision::F32 => (0..k).fold(start, |sum, l| pair(l).0.mul_add(pair(l).1, sum)),
            Precision::Bf16 => (0..k.next_multiple_of(2)).fold(start, |sum, l| {
                let (a, b) = pair(l ^ 1);
                rounded(a).mul_add(rounded(b), sum)
            }),
        };
        (defined, exact, size)
    }
}

fn rounded(x: f32) -> f32 {
    let (mut bits, mut out) = ([0u16], [0f32]);
    f32_to_bf16(&[x], &mut bits);
    bf16_to_f32(&bits, &mut out);
    out[0]
}

/// Sizes about those of tiles, panels, ranges and stretches of the inner dimension; nothing, and one.
const SIZES: [(usize, usize, usize); 15] = [
    (1, 1, 1),
    (0, 5, 3),
    (5, 0, 3),
    (7, 9, 0),
    (12, 32, 16),
    (13, 33, 17),
    (6, 16, 2),
    (5, 47, 31),
    (25, 64, 33),
    (9, 50, 515),
    (110, 20, 64),
    (200, 300, 40),
    (97, 129, 67),
    (4, 4, 1100),
    (20, 40, 4701),
];

#[test]
fn products_are_their_definition_on_every_instruction_set() {
    let mut random = Random(3);
    let pool = Pool::new(1);
    for kind in 0..32 {
        let mut products: Vec<Product> = SIZES.iter().map(|&size| Product::new(size, kind, &mut random)).collect();
        // Rows without columns have no number.
        products.retain(|p| p.a.stored_cols > 0 && p.b.stored_cols > 0);
        products.retain(|p| p.size.2 < 2048 || kind % 5 == 0);
        for precision in PRECISIONS {
            // All numbers of small products and some of large ones.
            let scalar = with_table(tables().last().unwrap(), || Product::compute(&products, precision, &pool));
            for (p, out) in products.iter().zip(&scalar) {
                let (_, n, _) = p.size;
                assert_eq!(out.len(), p.size.0 * n);
                for at in (0..out.len()).step_by(1 + out.len() / 400) {
                    let (want, exact, size) = p.number(precision, at / n, at % n);
                    assert_eq!(
                        out[at].to_bits(),
                        want.to_bits(),
                        "{precision:?} {:?} kind {kind}: number {at}",
                        p.size
                    );
                    // Two roundings to eight bits each, and f32 sums.
                    let part = if precision == Precision::F32 { 1e-6 } else { 1.0 / 128.0 };
                    assert!(
                        (f64::from(out[at]) - exact).abs() <= part * size,
                        "{precision:?} {:?} number {at}",
                        p.size
                    );
                }
            }
            for table in tables() {
                let got = with_table(table, || Product::compute(&products, precision, &pool));
                for ((p, got), want) in products.iter().zip(&got).zip(&scalar) {
                    let same = got.iter().zip(want).all(|(got, want)| got.to_bits() == want.to_bits());
                    assert!(same, "{} {precision:?} {:?} kind {kind}", table.name, p.size);
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_company() {
    let mut random = Random(5);
    let unequal = [(700, 320, 300), (64, 40, 5), (33, 1000, 1300), (1, 1, 2000), (30, 48, 5000), (8, 8, 8)];
    // So many of about one size that a thread computes each from end to end.
    let many: Vec<(usize, usize, usize)> = (0..30).map(|i| (60 + i % 7, 50 - i % 3, 70 + i)).collect();
    for sizes in [&unequal[..], &many] {
        alone_and_together(sizes, &mut random);
    }
}

fn alone_and_together(sizes: &[(usize, usize, usize)], random: &mut Random) {
    let products: Vec<Product> = sizes.iter().map(|&size| Product::new(size, random.below(32), random)).collect();
    for precision in PRECISIONS {
        let alone = Pool::new(1);
        let one_by_one: Vec<Vec<f32>> =
            products.iter().flat_map(|p| Product::compute(std::slice::from_ref(p), precision, &alone)).collect();
        for threads in [1, 2, 3, 7] {
            let got = Product::compute(&products, precision, &Pool::new(threads));
            for ((got, want), size) in got.iter().zip(&one_by_one).zip(sizes) {
                let same = got.iter().zip(want).all(|(got, want)| got.to_bits() == want.to_bits());
                assert!(same, "{precision:?} {size:?}, {threads} threads");
            }
        }
    }
}

/// Numbers of every kind, not in pairs only: what the plain kernels say is what the instruction does. Sets without it keep subnormal sums.
#[test]
fn special_numbers() {
    const BITS: [u32; 14] = [
        0,
        0x8000_0000,
        1,
        0x807f_ffff,
        0x0080_0000,
        0x8080_8000,
        0x3f80_8000,
        0xbf81_8000,
        0x7f7f_ffff,
        0x7f80_0000,
        0xff80_0000,
        0x7fa0_0000,
        0x2000_0000,
        0x1f80_0001,
    ];
    let mut random = Random(9);
    let pool = Pool::new(1);
    for round in 0..200 {
        let mut p = Product::new((20, 36, 1 + round % 9), 24 + round % 4, &mut random);
        // Infinities and NaN in a third of the rounds: elsewhere they would leave nothing else.
        let kinds = if round % 3 == 0 { BITS.len() } else { 8 };
        for x in [&mut p.a.x, &mut p.b.x, p.start.as_mut().unwrap()] {
            x.iter_mut().for_each(|x| match random.below(3) {
                0 => *x = f32::from_bits(BITS[random.below(kinds)]),
                1 => *x *= f32::from_bits(0x0f80_0000 + ((random.below(64) as u32) << 23)),
                _ => {}
            });
        }
        let p = [p];
        for precision in PRECISIONS {
            let scalar = with_table(tables().last().unwrap(), || Product::compute(&p, precision, &pool));
            for table in tables() {
                let (got, flushes) = with_table(table, || (Product::compute(&p, precision, &pool), bf16_products()));
                let near = |got: f32, want: f32| {
                    // At most one subnormal sum is lost a step.
                    precision == Precision::Bf16 && !flushes && (got - want).abs() <= 2.0 * f32::MIN_POSITIVE * 10.0
                };
                for (at, (&got, &want)) in got[0].iter().zip(&scalar[0]).enumerate() {
                    let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                    assert!(
                        same || near(got, want),
                        "{} {precision:?} round {round}, {at}: {got:e}, not {want:e}",
                        table.name
                    );
                }
            }
        }
    }
}

/// 2^-126 less three quarters of 2^-150 is below the normal numbers when it is rounded to 24 bits, and 2^-126 when it is rounded as a subnormal one.
#[test]
fn what_rounds_up_to_a_normal_number_only_as_a_subnormal_one_is_zero() {
    let (a, b) = (1.5 * 2f32.powi(-75), -2f32.powi(-76));
    let product = Product {
        a: Matrix { x: vec![a], above: 1, stored_cols: 1, first: 0, list: None, transposed: false },
        b: Matrix { x: vec![b], above: 1, stored_cols: 1, first: 0, list: None, transposed: false },
        size: (1, 1, 1),
        start: Some(vec![f32::MIN_POSITIVE]),
    };
    for table in tables() {
        let compute = || Product::compute(std::slice::from_ref(&product), Precision::Bf16, &Pool::new(1));
        let (got, flushes) = with_table(table, || (compute(), bf16_products()));
        assert_eq!(got, [[if flushes { 0.0 } else { f32::MIN_POSITIVE }]], "{}", table.name);
    }
}
