//! What all parts of a forward and a backward share.

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

    /// Counts what a product or attention takes.
    pub fn timed(&self, compute: impl FnOnce()) {
        let started = Instant::now();
        compute();
        self.product_nanos.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }
}

/// Cosines and sines of the angles of every position of a batch.
pub(crate) struct Angles<'a> {
    positions: &'a [usize],
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// Sines of the angles back.
    back: Vec<f32>,
    pairs: usize,
    pairing: Pairing,
}

impl Angles<'_> {
    /// `positions` are those of the tokens.
    pub fn new<'a>(rope: &Rope, positions: &'a [usize]) -> Angles<'a> {
        let longest = positions.iter().max().map_or(0, |p| p + 1);
        let angles = (0..longest).flat_map(|p| rope.frequencies.iter().map(move |f| p as f32 * f));
        let (cos, sin): (Vec<f32>, Vec<f32>) =
            angles.map(|a| (a.cos() * rope.amplitude, a.sin() * rope.amplitude)).unzip();
        let back = sin.iter().map(|x| -x).collect();
        Angles { positions, cos, sin, back, pairs: rope.frequencies.len(), pairing: rope.pairing }
    }

    pub fn rotate(&self, token: usize, x: &mut [f32]) {
        self.turn(token, x, &self.sin);
    }

    /// The backward of `rotate`: its transposition, which turns the other way.
    pub fn rotate_back(&self, token: usize, x: &mut [f32]) {
        self.turn(token, x, &self.back);
    }

    fn turn(&self, token: usize, x: &mut [f32], sin: &[f32]) {
        let at = self.positions[token] * self.pairs..(self.positions[token] + 1) * self.pairs;
        match self.pairing {
            Pairing::Interleaved => kernels::rotate_interleaved(x, &self.cos[at.clone()], &sin[at]),
            Pairing::Halves => kernels::rotate_halves(x, &self.cos[at.clone()], &sin[at]),
        }
    }
}
