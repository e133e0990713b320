//! How the learning rate goes with the tokens that were seen.

use serde::{Deserialize, Serialize};

/// A shape of the learning rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Warm-up, hold, and a long linear decay (MiniCPM, arXiv 2404.06395; linear to zero: arXiv 2405.18392).
    #[default]
    Wsd,
    /// Warm-up and half a cosine.
    Cosine,
}

/// A learning rate over a training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Tokens of the whole training.
    pub tokens: u64,
    /// Its shape.
    pub shape: Shape,
    /// Share of the tokens at the start over which the rate goes up from zero.
    pub warm_up: f64,
    /// Share of the tokens at the end over which it goes down (of `Wsd`).
    // The name of the first states' files.
    #[serde(rename = "decay")]
    pub cool_down: f64,
    /// Where it ends, as a share of its peak.
    pub end: f64,
}

impl Schedule {
    /// The share of the peak once so many tokens were seen.
    pub fn at(&self, tokens: f64) -> f64 {
        let progress = (tokens / self.tokens as f64).clamp(0.0, 1.0);
        if progress < self.warm_up {
            return progress / self.warm_up;
        }
        let down = match self.shape {
            Shape::Wsd if progress <= 1.0 - self.cool_down => return 1.0,
            Shape::Wsd => (1.0 - progress) / self.cool_down,
            Shape::Cosine => {
                0.5 + 0.5 * (std::f64::consts::PI * (progress - self.warm_up) / (1.0 - self.warm_up)).cos()
            }
        };
        self.end + (1.0 - self.end) * down
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_hold_down() {
        let schedule = Schedule { tokens: 1000, shape: Shape::Wsd, warm_up: 0.1, cool_down: 0.4, end: 0.0 };
        let near = |at: f64, rate: f64| assert!((schedule.at(1000.0 * at) - rate).abs() < 1e-12, "{at}");
        near(0.0, 0.0);
        near(0.05, 0.5);
        near(0.1, 1.0);
        near(0.6, 1.0);
        near(0.8, 0.5);
        near(1.0, 0.0);
        let cosine = Schedule { shape: Shape::Cosine, end: 0.1, ..schedule };
        assert!((cosine.at(550.0) - 0.55).abs() < 1e-12);
        assert!((cosine.at(2000.0) - 0.1).abs() < 1e-12);
    }
}
