//! Parameters of a model, counted so that sizes from files cannot overflow.

/// Parameters of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// All.
    pub total: u64,
    /// Those that a token's forward uses, each once: of a mixture the experts that it chooses, of the embedding one row, which counts
    /// with the output where they are tied. Never more than `total`.
    pub active: u64,
}

/// A product that stays at the largest number rather than wrap: sizes come from files.
pub(crate) fn times(sizes: &[usize]) -> u64 {
    sizes.iter().fold(1u64, |product, &n| product.saturating_mul(n as u64))
}

pub(crate) fn sum(parts: &[u64]) -> u64 {
    parts.iter().fold(0u64, |sum, &n| sum.saturating_add(n))
}
