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

/// Logit order with the lower id first among equals; NaN last.
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
        if self.sampling.temperature == 0.0 && allowed.is_none() && self.leaves_logits() {
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

    /// Whether no bias and no penalty changes a logit.
    fn leaves_logits(&self) -> bool {
        let s = &self.sampling;
        let penalties = s.repetition_penalty != 1.0 || s.presence_penalty != 0.0 || s.frequency_penalty != 0.0;
        s.logit_bias.is_empty() && !penalties
    }

    /// Bias and penalties.
    fn adjust(&self, candidates: &mut [(u32, f32)], history: &[u32]) {
        let s = &self.sampling;
        for &(id, bias) in &s.logit_bias {
            if let Some(c) = candidates.get_mut(id as usize) {
                c.1 += bias;
            }
        }
        if s.repetition_penalty == 1.0 && s.presence_penalty == 0.0 && s.frequency_penalty == 0.0 {
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

    /// Keep what the truncations leave: likeliest first, or in order of ids where there are none.
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
        if candidates.is_empty() {
            candidates.push((0, 0.0));
        }
        if s.typical_p < 1.0 {
            candidates.sort_unstable_by(likelier);
            let weights: Vec<f64> = candidates.iter().map(|c| f64::from(c.1 - best).exp()).collect();
            let total: f64 = weights.iter().sum();
            let p: Vec<f64> = weights.into_iter().map(|w| w / total).collect();
            let entropy: f64 = -p.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>();
            let mut order: Vec<usize> = (0..p.len()).collect();
            let off = |i: usize| (-p[i].ln() - entropy).abs();
            order.sort_by(|&a, &b| off(a).total_cmp(&off(b)).then(a.cmp(&b)));
            let mut kept = up_to(order.iter().map(|&i| p[i]), s.typical_p);
            kept = kept.max(1);
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

/// How many of the first probabilities it takes to reach `p`.
fn up_to(probabilities: impl Iterator<Item = f64>, p: f32) -> usize {
    let mut sum = 0.0;
    let mut count = 0;
    for q in probabilities {
        count += 1;
        sum += q;
        if sum >= f64::from(p) {
            break;
        }
    }
    count
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(sampling: Sampling, logits: &[f32], n: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(Sampling { seed: Some(11), ..sampling });
        let mut counts = vec![0; logits.len()];
        (0..n).for_each(|_| counts[sampler.sample(logits, &[]) as usize] += 1);
        counts
    }

    fn warm() -> Sampling {
        Sampling { temperature: 1.0, ..Sampling::default() }
    }

    #[test]
    fn greedy_takes_the_largest_and_the_lower_of_equals() {
        let mut sampler = Sampler::new(Sampling::default());
        assert_eq!(sampler.sample(&[0.0, 3.0, 3.0, 1.0], &[]), 1);
        assert_eq!(sampler.sample(&[f32::NAN, -1.0, f32::NEG_INFINITY], &[]), 1);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [1.0f32, 0.0, -1.0, 2.0];
        for temperature in [0.5f32, 1.0, 2.0] {
            let n = 40_000;
            let seen = counts(Sampling { temperature, ..warm() }, &logits, n);
            let total: f32 = logits.iter().map(|x| (x / temperature).exp()).sum();
            // Chi-square with 3 degrees of freedom: 16.3 is passed once in a thousand.
            let chi: f32 = logits
                .iter()
                .zip(&seen)
                .map(|(x, &seen)| {
                    let expected = (x / temperature).exp() / total * n as f32;
                    (seen as f32 - expected).powi(2) / expected
                })
                .sum();
            assert!(chi < 16.3, "{temperature}: {chi}");
        }
    }

    #[test]
    fn truncations_keep_what_they_say() {
        // Probabilities 0.5, 0.25, 0.125, 0.125.
        let logits = [4f32.ln(), 2f32.ln(), 0.0, 0.0];
        let kept = |s: Sampling| counts(s, &logits, 4000).iter().filter(|&&c| c > 0).count();
        assert_eq!(kept(warm()), 4);
        assert_eq!(kept(Sampling { top_k: 3, ..warm() }), 3);
        assert_eq!(kept(Sampling { top_p: 0.5, ..warm() }), 1);
        assert_eq!(kept(Sampling { top_p: 0.6, ..warm() }), 2);
        assert_eq!(kept(Sampling { min_p: 0.4, ..warm() }), 2);
        // Surprise 0.69, 1.39, 2.08; expected 1.21: the second token is the typical one.
        assert_eq!(counts(Sampling { typical_p: 0.2, ..warm() }, &logits, 100)[1], 100);
        assert_eq!(kept(Sampling { top_p: 0.0, ..warm() }), 1);
    }

    #[test]
    fn only_what_is_allowed_is_chosen() {
        let logits = [9.0, 1.0, 2.0, 8.0];
        for temperature in [0.0, 1.0] {
            let mut sampler = Sampler::new(Sampling { temperature, top_p: 0.1, ..Sampling::default() });
            assert_eq!(sampler.sample_of(&logits, &[], Some(&[0b0110])), Some(2));
            assert_eq!(sampler.sample_of(&logits, &[], Some(&[])), None);
            assert_eq!(sampler.sample_of(&logits, &[], Some(&[0, 1])), None);
            assert_eq!(sampler.sample_of(&[f32::NEG_INFINITY, 0.0], &[], Some(&[1])), Some(0));
        }
    }

    #[test]
    fn penalties_and_bias_move_the_choice() {
        let one = |s: Sampling, history: &[u32]| Sampler::new(s).sample(&[2.0, 1.5, -1.0], history);
        let s = Sampling::default;
        assert_eq!(one(Sampling { repetition_penalty: 2.0, ..s() }, &[0]), 1);
        assert_eq!(one(Sampling { presence_penalty: 0.6, ..s() }, &[0, 0]), 1);
        assert_eq!(one(Sampling { frequency_penalty: 0.3, ..s() }, &[0]), 0);
        assert_eq!(one(Sampling { frequency_penalty: 0.3, ..s() }, &[0, 0]), 1);
        assert_eq!(one(Sampling { presence_penalty: 9.0, penalty_window: 1, ..s() }, &[0, 1]), 0);
        assert_eq!(one(Sampling { logit_bias: vec![(2, 10.0)], ..s() }, &[]), 2);
        assert_eq!(one(Sampling { repetition_penalty: 5.0, ..s() }, &[900]), 0);
    }

    #[test]
    fn log_probabilities_are_those_of_the_softmax() {
        let (chosen, top) = log_probabilities(&[4f32.ln(), 0.0, 2f32.ln(), 0.0], 2, 3);
        assert!((chosen - 0.25f32.ln()).abs() < 1e-6);
        assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), [0, 2, 1]);
        assert!((top[0].1 - 0.5f32.ln()).abs() < 1e-6 && (top[2].1 - 0.125f32.ln()).abs() < 1e-6);
        assert_eq!(log_probabilities(&[0.0; 2], 1, 9).1.len(), 2);
        assert!(log_probabilities(&[0.0; 2], 1, 0).1.is_empty());
    }

    #[test]
    fn impossible_values_are_named() {
        let error = Sampling { top_p: 1.5, ..warm() }.validate(10).unwrap_err();
        assert_eq!(error.to_string(), "top_p is 1.5; it must be from 0 to 1");
        assert!(Sampling { temperature: f32::NAN, ..warm() }.validate(10).is_err());
        assert!(Sampling { logit_bias: vec![(10, 1.0)], ..warm() }.validate(10).is_err());
        assert!(warm().validate(10).is_ok());
    }

    /// What `truncate` leaves for top-p, by sorting everything.
    fn nucleus_plainly(mut candidates: Vec<(u32, f32)>, p: f32) -> Vec<u32> {
        candidates.sort_by(likelier);
        let weights: Vec<f64> = candidates.iter().map(|c| f64::from(c.1 - candidates[0].1).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let reached = weights.iter().position(|w| {
            sum += w / total;
            sum >= f64::from(p)
        });
        candidates[..reached.map_or(candidates.len(), |at| at + 1)].iter().map(|c| c.0).collect()
    }

    proptest! {
        #[test]
        fn a_nucleus_is_what_sorting_everything_gives(
            logits in proptest::collection::vec(prop_oneof![-3f32..3.0, Just(1.0f32)], 1..700), p in 0f32..0.98
        ) {
            let all: Vec<(u32, f32)> = (0..).zip(logits).collect();
            let mut kept = all.clone();
            nucleus(&mut kept, p);
            prop_assert_eq!(kept.iter().map(|c| c.0).collect::<Vec<_>>(), nucleus_plainly(all, p));
        }

        #[test]
        fn same_seed_same_choices_and_always_an_id(
            logits in proptest::collection::vec(prop_oneof![-50f32..50.0, Just(f32::NAN), Just(f32::NEG_INFINITY), Just(f32::INFINITY)], 1..40),
            temperature in 0f32..3.0, top_k in 0usize..50, top_p in 0f32..1.0, min_p in 0f32..1.0, typical_p in 0f32..1.0, seed: u64
        ) {
            let sampling = Sampling { temperature, top_k, top_p, min_p, typical_p, seed: Some(seed), ..Sampling::default() };
            let (mut a, mut b) = (Sampler::new(sampling.clone()), Sampler::new(sampling));
            for _ in 0..5 {
                let id = a.sample(&logits, &[0, 1]);
                prop_assert!((id as usize) < logits.len());
                prop_assert_eq!(id, b.sample(&logits, &[0, 1]));
            }
        }
    }
}
