//! Rotary embeddings: frequencies and their scalings for longer contexts.

use std::f64::consts::PI;

/// Rotary embedding, ready to use.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Angle per position of each pair (half as many as rotated channels), scaling applied.
    pub frequencies: Vec<f32>,
    /// Which channels make a pair.
    pub pairing: Pairing,
    /// Factor on cos and sin.
    pub amplitude: f32,
    /// Factor of scores before the softmax, `dim^-0.5` and YaRN's correction included.
    pub score_scale: f32,
}

/// Which channels rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `(x0, x1), (x2, x3), ...`
    Interleaved,
    /// `(x_i, x_{i + d/2})`
    Halves,
}

/// A scaling of frequencies.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// As trained.
    None,
    /// All frequencies divided.
    Linear { factor: f64 },
    /// Llama 3: long waves divided, short ones kept, a ramp between.
    Llama3 { factor: f64, low: f64, high: f64, original: f64 },
    /// YaRN (arXiv 2309.00071) as DeepSeek defines it: a ramp over pair indices.
    Yarn { factor: f64, original: f64, beta_fast: f64, beta_slow: f64 },
    /// Each frequency divided by a stored factor.
    Factors(Vec<f32>),
}

/// Angle per position of each of the `dim / 2` pairs.
pub fn frequencies(dim: usize, theta: f64, scaling: &Scaling) -> Vec<f32> {
    let plain = (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64));
    let scaled = |(i, f): (usize, f64)| -> f64 {
        match *scaling {
            Scaling::None => f,
            Scaling::Linear { factor } => f / factor,
            Scaling::Factors(ref factors) => f / factors[i] as f64,
            Scaling::Llama3 { factor, low, high, original } => {
                let wavelength = 2.0 * PI / f;
                if wavelength < original / high {
                    f
                } else if wavelength > original / low {
                    f / factor
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            }
            Scaling::Yarn { factor, original, beta_fast, beta_slow } => {
                let at = |turns: f64| dim as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
                let low = at(beta_fast).floor().max(0.0);
                let mut high = at(beta_slow).ceil().min(dim as f64 - 1.0);
                if low == high {
                    high += 0.001;
                }
                let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                f / factor * ramp + f * (1.0 - ramp)
            }
        }
    };
    plain.enumerate().map(scaled).map(|f| f as f32).collect()
}

/// YaRN's temperature: `0.1 m ln(factor) + 1` (arXiv 2405.04434, section 3.1.4).
pub fn yarn_temperature(factor: f64, m: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yarn_of_deepseek_v2() {
        let scaling = Scaling::Yarn { factor: 40.0, original: 4096.0, beta_fast: 32.0, beta_slow: 1.0 };
        let (plain, yarn) = (frequencies(64, 1e4, &Scaling::None), frequencies(64, 1e4, &scaling));
        // The ramp runs over pairs 10..=23 (correction dimensions 10.47 and 22.51).
        assert_eq!(plain[..11], yarn[..11]);
        assert!(yarn[11] < plain[11] && yarn[22] > plain[22] / 40.0 * 1.001);
        assert!((yarn[23] * 40.0 / plain[23] - 1.0).abs() < 1e-6);
        assert!((yarn_temperature(40.0, 0.707).powi(2) - 1.5896).abs() < 1e-4);
        assert!((yarn_temperature(40.0, 1.0).powi(2) - 1.8739).abs() < 1e-4);
        assert_eq!(yarn_temperature(0.5, 1.0), 1.0);
    }

    /// The ramp's ends are whole pairs, within the rotated channels, and apart.
    #[test]
    fn ends_of_yarns_ramp() {
        // For 64 channels and a theta of 1e4 the dimension of some turns is 3.474 ln(original / 2 pi turns).
        let share = |original: f64, beta_fast: f64, i: usize| {
            let scaling = Scaling::Yarn { factor: 40.0, original, beta_fast, beta_slow: 1.0 };
            let (plain, yarn) = (frequencies(64, 1e4, &Scaling::None), frequencies(64, 1e4, &scaling));
            (1.0 - yarn[i] / plain[i]) / (1.0 - 1.0 / 40.0)
        };
        let near = |a: f32, b: f32| assert!((a - b).abs() < 1e-4, "{a} {b}");
        // 10.69 and 22.51.
        near(share(4096.0, 30.0, 11), 1.0 / 13.0);
        near(share(4096.0, 30.0, 22), 12.0 / 13.0);
        // -2.43, which is 0, and 9.61.
        near(share(100.0, 32.0, 5), 0.5);
        // 17.62, and 65.61, which is 63.
        near(share(1e9, 1e6, 31), 14.0 / 46.0);
        // Both 0: a step behind the first pair.
        near(share(6.0, 32.0, 0), 0.0);
        near(share(6.0, 32.0, 1), 1.0);
    }
}
