//! From gradients to weights.

mod adamw;

pub use adamw::AdamW;

/// The Euclidean norm of all gradients together.
pub fn norm(gradients: &[Vec<f32>]) -> f64 {
    gradients.iter().flatten().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt()
}

/// Scale all gradients so that their norm is at most `most`; returns what it was.
pub fn clip(gradients: &mut [Vec<f32>], most: f64) -> f64 {
    let norm = norm(gradients);
    if norm > most {
        // As torch does, which the reference values come from.
        let factor = (most / (norm + 1e-6)) as f32;
        gradients.iter_mut().flatten().for_each(|g| *g *= factor);
    }
    norm
}
