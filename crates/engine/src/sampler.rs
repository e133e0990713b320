//! A row of logits to a token. In order: bias, penalties, top-k, typical, top-p, min-p, temperature (the order llama.cpp uses by default).
//! Each truncation looks at the distribution that the ones before it left, at temperature 1. At least one token always remains.

use thiserror::Error;

/// How tokens are chosen. The default is greedy with nothing else on.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 = the likeliest token; else logits are divided by it.
    pub temperature: f32,
    /// Keep this many of the likeliest; 0 = all.
    pub top_k: usize,
    /// Keep the likeliest until their probability reaches this; 1 = all.
    pub top_p: f32,
    /// Keep those of at least this share of the likeliest's probability; 0 = all.
    pub min_p: f32,
    /// Keep those whose surprise is nearest to the expected one until their probability reaches this (arXiv 2202.00666); 1 = all.
    pub typical_p: f32,
    /// Divide positive, multiply negative logits of tokens seen (arXiv 1909.05858); 1 = off.
    pub repetition_penalty: f32,
    /// Subtracted from logits of tokens seen; 0 = off.
    pub presence_penalty: f32,
    /// Subtracted once for each time a token was seen; 0 = off.
    pub frequency_penalty: f32,
    /// Last tokens that count as seen; 0 = all.
    pub penalty_window: usize,
    /// Added to logits of these ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, same choices; `None` = a fresh one.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: 0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// A value that cannot be.
#[derive(Debug, Error, PartialEq)]
#[error("{field} is {value}; it must be {allowed}")]
pub struct SamplingError {
    /// Which.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What would do.
    pub allowed: String,
}

impl Sampling {
    /// Check every value; `vocab` bounds the ids.
    ///
    /// # Errors
    /// The first value that cannot be.
    pub fn validate(&self, vocab: usize) -> Result<(), SamplingError> {
        let check = |field, value: f32, low: f32, high: f32| {
            if value.is_finite() && value >= low && value <= high {
                return Ok(());
            }
            Err(SamplingError { field, value: value.to_string(), allowed: format!("from {low} to {high}") })
        };
        check("temperature", self.temperature, 0.0, 100.0)?;
        check("top_p", self.top_p, 0.0, 1.0)?;
        check("min_p", self.min_p, 0.0, 1.0)?;
        check("typical_p", self.typical_p, 0.0, 1.0)?;
        check("repetition_penalty", self.repetition_penalty, 0.01, 100.0)?;
        check("presence_penalty", self.presence_penalty, -100.0, 100.0)?;
        check("frequency_penalty", self.frequency_penalty, -100.0, 100.0)?;
        for &(id, bias) in &self.logit_bias {
            check("logit_bias", bias, -1000.0, 1000.0)?;
            if id as usize >= vocab {
                return Err(SamplingError {
                    field: "logit_bias",
                    value: format!("for id {id}"),
                    allowed: format!("for ids below {vocab}"),
                });
            }
        }
        Ok(())
    }
}

/// Chooses tokens, one after the other.
pub struct Sampler {
    sampling: Sampling,
    seed: u64,
    random: Random,
    candidates: Vec<(u32, f32)>,
}

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and a mixing a number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Logit order with the lower id first among equals. There must be no NaN.
fn likelier(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

impl Sampler {
    /// A sampler of checked values.
    pub fn new(sampling: Sampling) -> Sampler {
        let fresh = || {
            use std::hash::{BuildHasher, RandomState};
            RandomState::new().hash_one(std::time::SystemTime::now()) >> 11
        };
        let seed = sampling.seed.unwrap_or_else(fresh);
        Sampler { sampling, seed, random: Random(seed), candidates: Vec::new() }
    }

    /// The seed in use: with it a run can be repeated.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Choose from one row. `history` is every token so far, prompt included. Logits that are not numbers are never chosen.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        self.sample_of(logits, history, None).unwrap_or(0)
    }

    /// As `sample`, but one of the `allowed` ids, given as bits (id `i` is bit `i % 32` of word `i / 32`). `None` when none is.
    pub fn sample_of(&mut self, logits: &[f32], history: &[u32], allowed: Option<&[u32]>) -> Option<u32> {
        if self.sampling.temperature == 0.0
            && allowed.is_none()
            && self.sampling.logit_bias.is_empty()
            && !self.penalizes()
        {
            return greediest(logits);
        }
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        let sound = |x: f32| if x.is_nan() { f32::NEG_INFINITY } else { x.clamp(-1e30, 1e30) };
        candidates.extend(
            logits.iter().enumerate().map(|(i, &x)| (i as u32, if x == f32::NEG_INFINITY { x } else { sound(x) })),
        );
        self.adjust(&mut candidates, history);
        if let Some(bits) = allowed {
            candidates.retain(|(id, _)| bits.get(*id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1));
            if candidates.is_empty() {
                self.candidates = candidates;
                return None;
            }
        }
        let chosen = if self.sampling.temperature == 0.0 {
            candidates.iter().min_by(|a, b| likelier(a, b)).map_or(0, |c| c.0)
        } else {
            self.truncate(&mut candidates);
            self.draw(&candidates)
        };
        self.candidates = candidates;
        Some(chosen)
    }

    /// Whether some penalty is on.
    fn penalizes(&self) -> bool {
        let s = &self.sampling;
        s.repetition_penalty != 1.0 || s.presence_penalty != 0.0 || s.frequency_penalty != 0.0
    }

    /// Bias and penalties.
    fn adjust(&self, candidates: &mut [(u32, f32)], history: &[u32]) {
        let s = &self.sampling;
        for &(id, bias) in &s.logit_bias {
            if let Some(c) = candidates.get_mut(id as usize) {
                c.1 += bias;
            }
        }
        if !self.penalizes() {
            return;
        }
        let from = if s.penalty_window == 0 { 0 } else { history.len().saturating_sub(s.penalty_window) };
        let mut seen: Vec<u32> = history[from..].to_vec();
        seen.sort_unstable();
        for run in seen.chunk_by(|a, b| a == b) {
            let Some(c) = candidates.get_mut(run[0] as usize) else { continue };
            c.1 = if c.1 > 0.0 { c.1 / s.repetition_penalty } else { c.1 * s.repetition_penalty };
            c.1 -= s.presence_penalty + s.frequency_penalty * run.len() as f32;
        }
    }

    /// Keep what the truncations leave, one at least: likeliest first, or in order of ids where there are none.
    fn truncate(&self, candidates: &mut Vec<(u32, f32)>) {
        let s = &self.sampling;
        if s.top_k > 0 && s.top_k < candidates.len() {
            candidates.select_nth_unstable_by(s.top_k - 1, likelier);
            candidates.truncate(s.top_k);
            candidates.sort_unstable_by(likelier);
        }
        // What is e^-40 as likely as the best cannot matter to any later step.
        let best = best(candidates);
        let reach = 40.0 * s.temperature.max(1.0);
        candidates.retain(|c| c.1 >= best - reach);
        if s.typical_p < 1.0 {
            candidates.sort_unstable_by(likelier);
            let weights: Vec<f64> = candidates.iter().map(|c| f64::from(c.1 - best).exp()).collect();
            let total: f64 = weights.iter().sum();
            let p: Vec<f64> = weights.into_iter().map(|w| w / total).collect();
            let entropy: f64 = -p.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>();
            let mut order: Vec<usize> = (0..p.len()).collect();
            let off = |i: usize| (-p[i].ln() - entropy).abs();
            order.sort_by(|&a, &b| off(a).total_cmp(&off(b)).then(a.cmp(&b)));
            let mut sum = 0.0;
            let reaches = |&i: &usize| {
                sum += p[i];
                sum >= f64::from(s.typical_p)
            };
            let kept = order.iter().position(reaches).map_or(order.len(), |last| last + 1);
            let mut left: Vec<_> = order[..kept].iter().map(|&i| candidates[i]).collect();
            left.sort_unstable_by(likelier);
            *candidates = left;
        }
        if s.top_p < 1.0 {
            nucleus(candidates, s.top_p);
        }
        if s.min_p > 0.0 {
            let best = self::best(candidates);
            candidates.retain(|c| f64::from(c.1 - best).exp() >= f64::from(s.min_p));
        }
    }

    fn draw(&mut self, candidates: &[(u32, f32)]) -> u32 {
        let best = best(candidates);
        let weight = |c: &(u32, f32)| f64::from((c.1 - best) / self.sampling.temperature).exp();
        let total: f64 = candidates.iter().map(weight).sum();
        let mut at = self.random.unit() * total;
        for c in candidates {
            let w = weight(c);
            if at < w {
                return c.0;
            }
            at -= w;
        }
        candidates.iter().min_by(|a, b| likelier(a, b)).map_or(0, |c| c.0)
    }
}

/// The likeliest id, the lower of equals; NaN is nothing.
fn greediest(logits: &[f32]) -> Option<u32> {
    let mut top = (0, f32::NEG_INFINITY);
    for (id, &x) in logits.iter().enumerate() {
        if x > top.1 {
            top = (id as u32, x);
        }
    }
    Some(top.0)
}

fn best(candidates: &[(u32, f32)]) -> f32 {
    candidates.iter().map(|c| c.1).fold(f32::NEG_INFINITY, f32::max)
}

/// Keep the likeliest until their probability reaches `p`, likeliest first. Only as many are sorted as are kept, or some times that.
fn nucleus(candidates: &mut Vec<(u32, f32)>, p: f32) {
    let best = best(candidates);
    let weight = |c: &(u32, f32)| f64::from(c.1 - best).exp();
    let total: f64 = candidates.iter().map(weight).sum();
    let (mut sorted, mut first) = (0, 64);
    let mut sum = 0.0;
    while sorted < candidates.len() {
        let end = first.min(candidates.len());
        if end < candidates.len() {
            candidates[sorted..].select_nth_unstable_by(end - sorted, likelier);
        }
        candidates[sorted..end].sort_unstable_by(likelier);
        for at in sorted..end {
            sum += weight(&candidates[at]) / total;
            if sum >= f64::from(p) {
                candidates.truncate(at + 1);
                return;
            }
        }
        (sorted, first) = (end, first * 8);
    }
}

/// Log-probability of `token` under the row as the model gave it, and the `most` likeliest ids with theirs, likeliest first.
pub fn log_probabilities(logits: &[f32], token: u32, most: usize) -> (f32, Vec<(u32, f32)>) {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&x| f64::from(x - top).exp()).sum();
    let of = |x: f32| (f64::from(x - top) - total.ln()) as f32;
    let most = most.min(logits.len());
    let mut all: Vec<(u32, f32)> = Vec::new();
    if most > 0 {
        all.extend(logits.iter().enumerate().map(|(i, &x)| (i as u32, x)));
        all.select_nth_unstable_by(most - 1, likelier);
        all.truncate(most);
        all.sort_unstable_by(likelier);
        all.iter_mut().for_each(|c| c.1 = of(c.1));
    }
    (of(logits[token as usize]), all)
}

#[cfg(test)]
mod tests;
