//! Random numbers from seeds of several parts. What is derived from the generator's bits is written here, so that a training's results do
//! not change with a library's version.

use rand::Rng;
use rand_pcg::Pcg64;

/// A stream of random numbers.
pub(crate) struct Random(Pcg64);

impl Random {
    /// The stream of a seed's parts: what it is for, and where.
    pub fn new(parts: &[u64]) -> Random {
        let mut hash = blake3::Hasher::new();
        parts.iter().for_each(|part| {
            hash.update(&part.to_le_bytes());
        });
        let hash = hash.finalize();
        let half = |at: usize| u128::from_le_bytes(hash.as_bytes()[at..at + 16].try_into().expect("sixteen bytes"));
        Random(Pcg64::new(half(0), half(16)))
    }

    /// In `0..n`, by the high half of a product.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// In `0..1`.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normally distributed, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// By Fisher and Yates.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}
