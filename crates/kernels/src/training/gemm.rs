//! `out = A B` or `out += A B` for many pairs of f32 matrices at once, each as it lies in memory or transposed, whole or some of its rows.
//!
//! A stretch of the inner dimension at a time, right factors are packed first, by all threads, and left factors that are transposed; then
//! threads claim parts of all products together, and pack the rows that they take of other left factors themselves. A stretch is short enough
//! for what is packed of a product to stay in the second cache, unless its output is large beside that. Where there are many products of
//! about one size, as of experts, a thread computes one from end to end.

use std::cell::Cell;
use std::ops::Range;

use super::factor::Factor;
use super::scores::{Gradients, QUERIES, Running, Tile};
use super::tiles::{DEPTH, Left, Part, Strips};
use crate::Pool;
use crate::dispatch::table;
use crate::out::{Out, SharedOut};
use crate::scratch::aligned;
use crate::table::Table;

/// What numbers are multiplied as. Sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As they are: fused multiply-adds in ascending order of the inner dimension, the same bits on every instruction set.
    F32,
    /// Rounded to bfloat16 first, to the nearest even, and added as VDPBF16PS does (Intel SDM): fused multiply-adds over pairs of the inner
    /// dimension, the second of a pair before the first, subnormal numbers taken as zeros. Without that instruction (`bf16_products`)
    /// subnormal sums are kept; bits are the same where no exact sum is below the smallest normal number.
    Bf16,
}

/// One product.
pub struct Gemm<'a> {
    /// `[m, k]`
    pub a: Factor<'a>,
    /// `[k, n]`
    pub b: Factor<'a>,
    /// `[m, n]`
    pub out: &'a mut [f32],
    /// Whether the product is added to what `out` holds.
    pub add: bool,
}

/// Functions of an instruction set for products of one precision.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// Numbers of the inner dimension in a word of a panel.
    pub numbers: usize,
    /// Words of so many numbers.
    pub words: fn(usize) -> usize,
    /// Columns of a panel of a right factor.
    pub columns: usize,
    /// Words of packed rows of a left factor, by rows and words of each.
    pub left: fn(usize, usize) -> usize,
    /// Some columns of a right factor to panels.
    pub pack: unsafe fn(&Factor, Range<usize>, Range<usize>, &mut [i32]),
    /// Some rows of a left factor to panels.
    pub pack_left: unsafe fn(&Factor, Range<usize>, Range<usize>, &mut [i32]),
    /// Some rows and columns of a product.
    pub product: unsafe fn(&Part, Range<usize>, Range<usize>, &mut Out),
    /// Some rows of a left factor as `Layout::Rows`, whose planes are so many words apart.
    pub pack_rows: unsafe fn(&Factor, Range<usize>, Range<usize>, usize, &mut [i32]),
    /// Some rows and columns of a product of factors that are packed.
    pub strips: unsafe fn(&Strips, usize, usize, &mut Out),
    /// See `scores`.
    pub exponentials: unsafe fn(Tile, &mut Running, &mut [f32], &mut [i32]),
    pub gradients: unsafe fn(Tile, &[f32], &[[f32; QUERIES]; 2], Gradients),
    /// Steps of tiles as fast as they go.
    pub spin: unsafe fn(u64) -> f32,
}

impl Kernel {
    /// That of a table for a precision.
    pub fn of(table: &Table, precision: Precision) -> &Kernel {
        match precision {
            Precision::F32 => &table.f32,
            Precision::Bf16 => &table.bf16,
        }
    }
}

/// The functions over `$isa` and `$format`, compiled with `$feature`s.
macro_rules! kernel {
    ($V:ty, $isa:expr, $M:ty, $format:expr $(, $feature:literal)?) => {{
        use std::ops::Range;
        use $crate::Out;
        use $crate::training::multiply::Multiply;
        use $crate::training::scores::{Gradients, QUERIES, Running, Tile};
        use $crate::training::tiles::Strips;
        use $crate::training::{Factor, Part};
        $crate::table::compiled! {
            [$($feature)?]
            fn pack(b: &Factor, columns: Range<usize>, ks: Range<usize>, packed: &mut [i32]) =
                $crate::training::tiles::pack($isa, $format, b, columns, ks, packed);
            fn pack_left(a: &Factor, rows: Range<usize>, ks: Range<usize>, packed: &mut [i32]) =
                $crate::training::tiles::pack_left($isa, $format, a, rows, ks, packed);
            fn spin(rounds: u64) -> f32 = $crate::spin::spin_steps($isa, $format, rounds);
            fn product(part: &Part, rows: Range<usize>, columns: Range<usize>, out: &mut Out) =
                $crate::training::tiles::product($isa, $format, part, rows, columns, out);
            fn pack_rows(a: &Factor, rows: Range<usize>, ks: Range<usize>, plane: usize, packed: &mut [i32]) =
                $crate::training::tiles::pack_rows($isa, $format, a, rows, ks, plane, packed);
            fn strips(strips: &Strips, rows: usize, columns: usize, out: &mut Out) =
                $crate::training::tiles::strips($isa, $format, strips, rows, columns, out);
            fn exponentials(tile: Tile, running: &mut Running, acc: &mut [f32], packed: &mut [i32]) =
                $crate::training::scores::exponentials($isa, $format, tile, running, acc, packed);
            fn gradients(tile: Tile, d_weights: &[f32], of: &[[f32; QUERIES]; 2], to: Gradients) =
                $crate::training::scores::gradients($isa, $format, tile, d_weights, of, to);
        }
        $crate::training::Kernel {
            numbers: <$M as Multiply<$V>>::NUMBERS,
            words: <$M as Multiply<$V>>::words,
            columns: $crate::training::tiles::panel_columns::<$V>(),
            left: $crate::training::tiles::left_packed::<$V>,
            pack,
            pack_left,
            product,
            pack_rows,
            strips,
            exponentials,
            gradients,
            spin,
        }
    }};
}
pub(crate) use kernel;

/// Whether `Precision::Bf16` computes as VDPBF16PS does, subnormal sums and all: by that instruction, or by its definition in the plain set.
pub fn bf16_products() -> bool {
    table().bf16.numbers == 2
}

/// Rows of a part at most: those that are packed stay in the second cache.
const ROWS_MAX: usize = 192;
/// Rows and columns of a part where there are few parts: packing should stay a small share of the work.
const ROWS_FEW: usize = 48;
const COLUMNS_FEW: usize = 128;
/// Parts for each thread, where products are large enough.
const PARTS_A_THREAD: usize = 4;
/// Columns of a right factor, or rows of a left one, that are packed together: whole panels.
const PACKED_TOGETHER: usize = 384;
/// Numbers of the inner dimension that are packed before they are multiplied, at most: what bounds the memory that is taken.
const STRETCH: usize = 2048;
/// Words of packed factors of a product and a thread that are to stay in the second cache until they are multiplied.
const PACKED_NEAR: usize = 160 << 10;
/// Products for each thread from which on every one is computed by a single thread.
const PRODUCTS_A_THREAD: usize = 4;

/// Sizes of a product, and how its inner dimension is divided.
#[derive(Clone, Copy)]
struct Sizes {
    m: usize,
    n: usize,
    k: usize,
    /// Numbers of the inner dimension that are treated at a time, an even number.
    depth: usize,
    /// Numbers of the inner dimension that are packed together, about.
    stretch: usize,
}

impl Sizes {
    fn of(product: &Gemm, kernel: &Kernel, threads: usize) -> Sizes {
        let ((m, k), (inner, n)) = (product.a.shape(), product.b.shape());
        assert!(k == inner && product.out.len() == m * n, "shapes of a product");
        let deepest = DEPTH * kernel.numbers;
        let depth = k.div_ceil(k.div_ceil(deepest).max(1)).next_multiple_of(32).max(32);
        // Sums go through memory between stretches, so these should not be short beside large outputs.
        let lanes = if product.a.transposed() { m + n } else { n };
        let near = (threads * PACKED_NEAR * kernel.numbers / lanes.max(1)).max(4 * m * n / (m + n).max(1));
        Sizes { m, n, k, depth, stretch: near.min(STRETCH) }
    }

    /// A stretch of the inner dimension; the last is followed by empty ones.
    fn stretch(self, pass: usize) -> Range<usize> {
        let numbers = (self.stretch / self.depth).max(1) * self.depth;
        self.k.min(pass * numbers)..self.k.min((pass + 1) * numbers)
    }

    /// Ranges of a stretch.
    fn depths(self, stretch: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        stretch.clone().step_by(self.depth).map(move |k| k..stretch.end.min(k + self.depth))
    }

    /// Rows and columns of a part of a stretch of `k`, where a part should take no more than `work` multiplications.
    fn part(self, work: usize, k: usize, kernel: &Kernel) -> (usize, usize) {
        let Sizes { m, n, .. } = self;
        let most = if m * n * k > 2 * work { ROWS_FEW } else { ROWS_MAX };
        let rows = m.div_ceil(m.div_ceil(most)).next_multiple_of(12);
        let columns = (work / (rows * k)).max(COLUMNS_FEW);
        // About equal parts.
        let columns = n.div_ceil(((n + columns / 2) / columns).max(1)).next_multiple_of(kernel.columns);
        (rows, columns)
    }
}

thread_local! {
    static PACKED: Cell<Vec<i32>> = const { Cell::new(Vec::new()) };
}

/// Rows of a left factor or columns of a right one, to be packed.
struct Packing<'a> {
    factor: Factor<'a>,
    left: bool,
    lanes: Range<usize>,
    ks: Range<usize>,
    packed: &'a mut [i32],
}

/// Compute all products. The bits of a number do not depend on threads, nor on the other products.
///
/// # Panics
/// When shapes do not agree.
pub fn gemm(pool: &Pool, precision: Precision, products: &mut [Gemm<'_>]) {
    let (kernel, threads) = (Kernel::of(table(), precision), pool.threads());
    let work = |product: &Gemm| product.a.shape().0 * product.a.shape().1 * product.b.shape().1;
    let (all, largest) = products.iter().map(work).fold((0, 0), |(all, most), work| (all + work, most.max(work)));
    // What a thread packs is in its own caches when it multiplies, but no thread should be the last for long.
    if products.len() >= PRODUCTS_A_THREAD * threads && 2 * threads * largest <= all {
        pool.each(products, |product| together((pool, 1), kernel, std::slice::from_mut(product)));
    } else {
        together((pool, threads), kernel, products);
    }
}

/// Products of which each is divided among so many threads.
fn together((pool, threads): (&Pool, usize), kernel: &Kernel, products: &mut [Gemm<'_>]) {
    let sizes: Vec<Sizes> = products.iter().map(|product| Sizes::of(product, kernel, threads)).collect();
    for (product, s) in products.iter_mut().zip(&sizes) {
        if s.k == 0 && !product.add {
            product.out.fill(0.0);
        }
    }
    let mut room = PACKED.take();
    for pass in 0.. {
        if sizes.iter().all(|s| s.stretch(pass).is_empty()) {
            break;
        }
        multiply((pool, threads), kernel, products, &sizes, pass, &mut room);
    }
    PACKED.set(room);
}

/// A stretch of every product.
fn multiply(
    (pool, threads): (&Pool, usize),
    kernel: &Kernel,
    products: &mut [Gemm<'_>],
    sizes: &[Sizes],
    pass: usize,
    room: &mut Vec<i32>,
) {
    // A left factor that is transposed is packed before too: its rows in memory are then read from end to end.
    let lengths = |(product, s): (&Gemm, &Sizes)| {
        let words = |ks: Range<usize>| (kernel.words)(ks.len());
        let left = |ks: Range<usize>| if product.a.transposed() { (kernel.left)(s.m, words(ks)) } else { 0 };
        let right = |ks: Range<usize>| words(ks) * s.n.next_multiple_of(16);
        (s.depths(s.stretch(pass)).map(left).sum::<usize>(), s.depths(s.stretch(pass)).map(right).sum::<usize>())
    };
    let lengths: Vec<(usize, usize)> = products.iter().zip(sizes).map(lengths).collect();
    let packed = aligned(room, lengths.iter().map(|(left, right)| left + right).sum());
    let (mut rest, mut packings) = (&mut *packed, Vec::new());
    for (product, s) in products.iter().zip(sizes) {
        for (factor, left, lanes) in [(product.a, true, s.m), (product.b, false, s.n)] {
            if left && !product.a.transposed() {
                continue;
            }
            for ks in s.depths(s.stretch(pass)) {
                let words = (kernel.words)(ks.len());
                for from in (0..lanes).step_by(PACKED_TOGETHER) {
                    let lanes = from..lanes.min(from + PACKED_TOGETHER);
                    let columns = lanes.len().next_multiple_of(16);
                    let size = if left { (kernel.left)(lanes.len(), words) } else { words * columns };
                    let packed = rest.split_off_mut(..size).expect("room for all");
                    packings.push(Packing { factor, left, lanes, ks: ks.clone(), packed });
                }
            }
        }
    }
    pool.each(&mut packings, |p| {
        let pack = if p.left { kernel.pack_left } else { kernel.pack };
        // SAFETY: the table holds only functions whose instruction set this processor has.
        unsafe { pack(&p.factor, p.lanes.clone(), p.ks.clone(), p.packed) }
    });
    drop(packings);
    let all = sizes.iter().map(|s| s.m * s.n * s.stretch(pass).len()).sum::<usize>();
    let work = if threads == 1 { all } else { all / (PARTS_A_THREAD * threads) };
    let (mut parts, mut pieces, mut rest) = (Vec::with_capacity(products.len()), Vec::new(), &*packed);
    for ((Gemm { a, out, add, .. }, s), lengths) in products.iter_mut().zip(sizes).zip(lengths) {
        let [left, b] = [lengths.0, lengths.1].map(|len| rest.split_off(..len).expect("all are packed"));
        let inner = s.stretch(pass);
        if s.m * s.n * inner.len() > 0 {
            let (rows, columns) = s.part(work, inner.len(), kernel);
            for row in (0..s.m).step_by(rows) {
                for col in (0..s.n).step_by(columns) {
                    pieces.push((parts.len(), row..s.m.min(row + rows), col..s.n.min(col + columns)));
                }
            }
        }
        let left = if a.transposed() { Left::Packed(left, s.m) } else { Left::Plain(*a) };
        let part = Part { left, b, columns: s.n, inner, depth: s.depth, add: *add || pass > 0 };
        parts.push((part, SharedOut::new(out, s.m, s.n)));
    }
    pool.run(pieces.len(), |i| {
        let (product, rows, columns) = &pieces[i];
        let (part, out) = &parts[*product];
        // SAFETY: pieces have numbers of their own, and each is run once. The table holds only functions whose instruction set this
        // processor has.
        unsafe {
            let mut out = out.part(rows.clone(), columns.clone());
            (kernel.product)(part, rows.clone(), columns.clone(), &mut out)
        }
    });
}
