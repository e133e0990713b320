//! What all parts of a forward and a backward share.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use kernels::Pool;
use kernels::training::{Gemm, Precision, gemm};
use model::structure::{Pairing, Rope};

use crate::batch::Batch;
use crate::buffers::Buffers;

/// Rows that go to a thread together.
pub(crate) const ROWS: usize = 32;

/// A vector of numbers for each parameter.
pub type Values = Vec<Vec<f32>>;

/// One pass over a batch.
pub(crate) struct Pass<'a> {
    pub pool: &'a Pool,
    pub precision: Precision,
    pub weights: &'a Values,
    pub batch: &'a Batch,
    /// Of every token, in its document.
    pub positions: &'a [usize],
    pub norm_eps: f32,
    pub buffers: &'a mut Buffers,
    /// Nanoseconds that products and attention took so far.
    pub product_nanos: &'a AtomicU64,
    /// Tables of ropes that were needed so far.
    pub angles: RefCell<Vec<Arc<AngleTable>>>,
}

impl Pass<'_> {
    pub fn tokens(&self) -> usize {
        self.batch.tokens.len()
    }

    pub fn multiply(&self, products: &mut [Gemm]) {
        self.multiply_in(self.precision, products);
    }

    pub fn multiply_in(&self, precision: Precision, products: &mut [Gemm]) {
        self.timed(|| gemm(self.pool, precision, products));
    }

    /// Adds the time that a product or attention takes to `product_nanos`.
    pub fn timed(&self, compute: impl FnOnce()) {
        let started = Instant::now();
        compute();
        self.product_nanos.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }
}

/// All become zeros.
pub(crate) fn clear(pool: &Pool, values: &mut Values) {
    pool.each(values, |x| x.fill(0.0));
}

/// `out += x`, by all threads.
pub(crate) fn add_all(pool: &Pool, out: &mut [f32], x: &[f32]) {
    const LEN: usize = 1 << 14;
    let mut parts: Vec<_> = out.chunks_mut(LEN).zip(x.chunks(LEN)).collect();
    pool.each(&mut parts, |(out, x)| kernels::add(out, x));
}

/// Cosines and sines of the angles of every position of a batch.
pub(crate) struct Angles<'a> {
    positions: &'a [usize],
    table: Arc<AngleTable>,
}

/// Of positions from the first on.
pub(crate) struct AngleTable {
    rope: Rope,
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// Sines of the angles back.
    back: Vec<f32>,
}

impl AngleTable {
    fn new(rope: &Rope, positions: usize) -> AngleTable {
        let angles = (0..positions).flat_map(|p| rope.frequencies.iter().map(move |f| p as f32 * f));
        let (cos, sin): (Vec<f32>, Vec<f32>) =
            angles.map(|a| (a.cos() * rope.amplitude, a.sin() * rope.amplitude)).unzip();
        let back = sin.iter().map(|x| -x).collect();
        AngleTable { rope: rope.clone(), cos, sin, back }
    }
}

impl<'a> Pass<'a> {
    /// The angles of a rope, computed once a pass: layers mostly have the same one.
    pub fn angles(&self, rope: &Rope) -> Angles<'a> {
        let mut tables = self.angles.borrow_mut();
        let known = tables.iter().find(|table| table.rope == *rope).cloned();
        let table = known.unwrap_or_else(|| {
            let longest = self.positions.iter().max().map_or(0, |p| p + 1);
            tables.push(Arc::new(AngleTable::new(rope, longest)));
            Arc::clone(tables.last().expect("one was pushed"))
        });
        Angles { positions: self.positions, table }
    }
}

impl Angles<'_> {
    /// Of each `stride` numbers of `x` those that are rotated, which come first.
    pub fn rotate(&self, token: usize, x: &mut [f32], stride: usize) {
        self.turn(token, (x, stride), &self.table.sin);
    }

    /// The backward of `rotate`: its transposition, which turns the other way.
    pub fn rotate_back(&self, token: usize, x: &mut [f32], stride: usize) {
        self.turn(token, (x, stride), &self.table.back);
    }

    fn turn(&self, token: usize, (x, stride): (&mut [f32], usize), sin: &[f32]) {
        let AngleTable { ref rope, ref cos, .. } = *self.table;
        let pairs = rope.frequencies.len();
        let at = self.positions[token] * pairs..(self.positions[token] + 1) * pairs;
        match rope.pairing {
            Pairing::Interleaved => kernels::rotate_interleaved(x, stride, &cos[at.clone()], &sin[at]),
            Pairing::Halves => kernels::rotate_halves(x, stride, &cos[at.clone()], &sin[at]),
        }
    }
}
