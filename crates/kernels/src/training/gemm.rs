//! `out = A B` or `out += A B` for many pairs of f32 matrices at once, each as it lies in memory or transposed, whole or some of its rows.
//!
//! Right factors are packed first, by all threads; then threads claim parts of all products together, and pack the rows that they take of
//! left factors themselves.

use std::cell::Cell;
use std::ops::Range;

use super::factor::Factor;
use super::tiles::{DEPTH, Part};
use crate::Pool;
use crate::dispatch::table;
use crate::out::{Out, SharedOut};
use crate::scratch::aligned;

/// What numbers are multiplied as. Sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As they are: fused multiply-adds in ascending order of the inner dimension, the same bits on every instruction set.
    F32,
    /// Rounded to bfloat16 first, to the nearest even, and added as VDPBF16PS does (Intel SDM): fused multiply-adds over pairs of the inner
    /// dimension, the second of a pair before the first, subnormal numbers taken as zeros. Without that instruction (`bf16_products`)
    /// subnormal sums are kept; bits are the same where there are none.
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
    /// Some columns of a right factor to panels.
    pub pack: unsafe fn(&Factor, Range<usize>, Range<usize>, &mut [i32]),
    /// Some rows and columns of a product.
    pub product: unsafe fn(&Part, Range<usize>, Range<usize>, &mut Out),
    /// Steps of tiles as fast as they go.
    pub spin: unsafe fn(u64) -> f32,
}

/// The functions over `$isa` and `$format`, compiled with `$feature`s.
macro_rules! kernel {
    ($V:ty, $isa:expr, $M:ty, $format:expr $(, $feature:literal)?) => {{
        use std::ops::Range;
        use $crate::Out;
        use $crate::training::multiply::Multiply;
        use $crate::training::{Factor, Part};
        $crate::table::compiled! {
            [$($feature)?]
            fn pack(b: &Factor, columns: Range<usize>, ks: Range<usize>, packed: &mut [i32]) =
                $crate::training::tiles::pack($isa, $format, b, columns, ks, packed);
            fn spin(rounds: u64) -> f32 = $crate::spin::spin_steps($isa, $format, rounds);
            fn product(part: &Part, rows: Range<usize>, columns: Range<usize>, out: &mut Out) =
                $crate::training::tiles::product($isa, $format, part, rows, columns, out);
        }
        $crate::training::Kernel {
            numbers: <$M as Multiply<$V>>::NUMBERS,
            words: <$M as Multiply<$V>>::words,
            columns: $crate::training::tiles::panel_columns::<$V>(),
            pack,
            product,
            spin,
        }
    }};
}
pub(crate) use kernel;

/// Whether products of bf16 are computed by an instruction for them.
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
/// Columns that are packed together.
const COLUMNS_PACKED: usize = 256;

/// Sizes of a product, and how its inner dimension is divided.
#[derive(Clone, Copy)]
struct Sizes {
    m: usize,
    n: usize,
    k: usize,
    /// Numbers of the inner dimension that are treated at a time, an even number.
    depth: usize,
}

impl Sizes {
    fn of(product: &Gemm, kernel: &Kernel) -> Sizes {
        let ((m, k), (inner, n)) = (product.a.shape(), product.b.shape());
        assert!(k == inner && product.out.len() == m * n, "shapes of a product");
        let deepest = DEPTH * kernel.numbers;
        let depth = k.div_ceil(k.div_ceil(deepest).max(1)).next_multiple_of(32).max(32);
        Sizes { m, n, k, depth }
    }

    /// Ranges of the inner dimension.
    fn depths(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.k).step_by(self.depth).map(move |k| k..self.k.min(k + self.depth))
    }

    /// Words of the packed right factor.
    fn packed(self, kernel: &Kernel) -> usize {
        self.depths().map(|ks| (kernel.words)(ks.len())).sum::<usize>() * self.n.next_multiple_of(16)
    }

    /// Rows and columns of a part, where a part should take no more than `work` multiplications.
    fn part(self, work: usize, kernel: &Kernel) -> (usize, usize) {
        let Sizes { m, n, k, .. } = self;
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

/// Columns of a right factor to be packed.
struct Packing<'a> {
    b: Factor<'a>,
    columns: Range<usize>,
    ks: Range<usize>,
    packed: &'a mut [i32],
}

/// Compute all products in one parallel section. The bits of a number do not depend on threads, nor on the other products.
///
/// # Panics
/// When shapes do not agree.
pub fn gemm(pool: &Pool, precision: Precision, products: &mut [Gemm<'_>]) {
    let kernel = match precision {
        Precision::F32 => table().f32,
        Precision::Bf16 => table().bf16,
    };
    let sizes: Vec<Sizes> = products.iter().map(|product| Sizes::of(product, &kernel)).collect();
    let mut room = PACKED.take();
    let all = sizes.iter().map(|s| s.packed(&kernel)).sum();
    let packed = aligned(&mut room, all);
    let mut rest = &mut *packed;
    let mut packings = Vec::new();
    for (product, s) in products.iter().zip(&sizes) {
        for ks in s.depths() {
            let words = (kernel.words)(ks.len());
            for from in (0..s.n).step_by(COLUMNS_PACKED) {
                let columns = from..s.n.min(from + COLUMNS_PACKED);
                let packed = rest.split_off_mut(..words * columns.len().next_multiple_of(16)).expect("room for all");
                packings.push(Packing { b: product.b, columns, ks: ks.clone(), packed });
            }
        }
    }
    pool.each(&mut packings, |Packing { b, columns, ks, packed }| {
        // SAFETY: the table holds only functions whose instruction set this processor has.
        unsafe { (kernel.pack)(b, columns.clone(), ks.clone(), packed) }
    });
    drop(packings);
    multiply(pool, &kernel, products, &sizes, packed);
    PACKED.set(room);
}

fn multiply(pool: &Pool, kernel: &Kernel, products: &mut [Gemm<'_>], sizes: &[Sizes], packed: &[i32]) {
    let work: usize = sizes.iter().map(|s| s.m * s.n * s.k).sum::<usize>() / (PARTS_A_THREAD * pool.threads());
    let (mut parts, mut pieces, mut rest) = (Vec::with_capacity(products.len()), Vec::new(), packed);
    for (Gemm { a, out, add, .. }, s) in products.iter_mut().zip(sizes) {
        let b = rest.split_off(..s.packed(kernel)).expect("all are packed");
        if s.k == 0 && !*add {
            out.fill(0.0);
        }
        if s.m * s.n * s.k > 0 {
            let (rows, columns) = s.part(work, kernel);
            for row in (0..s.m).step_by(rows) {
                for col in (0..s.n).step_by(columns) {
                    pieces.push((parts.len(), row..s.m.min(row + rows), col..s.n.min(col + columns)));
                }
            }
        }
        let part = Part { a: *a, b, columns: s.n, inner: s.k, depth: s.depth, add: *add };
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
