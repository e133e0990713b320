//! The sampler: what each step keeps, by hand and against a plain twin.

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
    let logits: Vec<f32> = (0..100).map(|i| (i * 37 % 101) as f32).collect();
    let mut sorted: Vec<u32> = (0..100).collect();
    sorted.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    let likeliest: Vec<u32> = log_probabilities(&logits, 0, 20).1.iter().map(|t| t.0).collect();
    assert_eq!(likeliest, sorted[..20]);
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

/// `adjust` and `truncate` by the book: every step sorts, weighs and keeps anew, and nothing is shared with them but the order of equals.
fn plainly(s: &Sampling, logits: &[f32], history: &[u32]) -> Vec<(u32, f32)> {
    let window =
        if s.penalty_window == 0 { history } else { &history[history.len().saturating_sub(s.penalty_window)..] };
    let mut left: Vec<(u32, f32)> = Vec::new();
    for (id, &logit) in (0u32..).zip(logits) {
        let mut x = s.logit_bias.iter().filter(|(biased, _)| *biased == id).fold(logit, |x, (_, bias)| x + bias);
        let times = window.iter().filter(|&&seen| seen == id).count();
        if times > 0 {
            // A penalty above 1 makes every token less likely, whichever sign its logit has.
            x = if x > 0.0 { x / s.repetition_penalty } else { x * s.repetition_penalty };
            x -= s.presence_penalty + s.frequency_penalty * times as f32;
        }
        left.push((id, x));
    }
    let sort = |left: &mut Vec<(u32, f32)>| left.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
    let shares = |left: &[(u32, f32)]| -> Vec<f64> {
        let weights: Vec<f64> = left.iter().map(|c| f64::from(c.1 - left[0].1).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.iter().map(|w| w / total).collect()
    };
    let enough = |shares: &[f64], p: f32| {
        let mut sum = 0.0;
        let reached = shares.iter().position(|share| {
            sum += share;
            sum >= f64::from(p)
        });
        reached.map_or(shares.len(), |at| at + 1)
    };
    sort(&mut left);
    if s.top_k > 0 {
        left.truncate(s.top_k);
    }
    let least = left[0].1 - 40.0 * s.temperature.max(1.0);
    left.retain(|c| c.1 >= least);
    if s.typical_p < 1.0 {
        let p = shares(&left);
        let expected: f64 = p.iter().map(|p| -p * p.ln()).sum();
        let mut order: Vec<usize> = (0..left.len()).collect();
        order.sort_by(|&a, &b| (-p[a].ln() - expected).abs().total_cmp(&(-p[b].ln() - expected).abs()).then(a.cmp(&b)));
        let ordered: Vec<f64> = order.iter().map(|&at| p[at]).collect();
        left = order[..enough(&ordered, s.typical_p)].iter().map(|&at| left[at]).collect();
        sort(&mut left);
    }
    if s.top_p < 1.0 {
        let kept = enough(&shares(&left), s.top_p);
        left.truncate(kept);
    }
    let best = left[0].1;
    left.retain(|c| f64::from(c.1 - best).exp() >= f64::from(s.min_p));
    left
}

fn kept(s: &Sampling, logits: &[f32], history: &[u32]) -> Vec<(u32, f32)> {
    let sampler = Sampler::new(s.clone());
    let mut candidates: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    sampler.adjust(&mut candidates, history);
    sampler.truncate(&mut candidates);
    candidates.sort_by(likelier);
    candidates
}

#[test]
fn each_truncation_sees_what_the_one_before_it_left() {
    let logits = [4f32.ln(), 2f32.ln(), 0.0, 0.0];
    let ids = |s: Sampling| kept(&s, &logits, &[]).iter().map(|c| c.0).collect::<Vec<_>>();
    // Of 0.5 and 0.25 the first alone would be 0.6 of what min-p leaves: min-p comes after top-p.
    assert_eq!(ids(Sampling { top_p: 0.6, min_p: 0.3, ..warm() }), [0, 1]);
    // Of the first two the first is two thirds: top-p comes after top-k.
    assert_eq!(ids(Sampling { top_k: 2, top_p: 0.6, ..warm() }), [0]);
    // The typical one is the second: it alone is what top-p sees.
    assert_eq!(ids(Sampling { typical_p: 0.2, top_p: 0.5, ..warm() }), [1]);
}

#[test]
fn top_p_that_is_reached_exactly_is_enough() {
    // Sums of quarters have no rounding.
    let kept = |top_p: f32| kept(&Sampling { top_p, ..warm() }, &[0.0; 4], &[]).len();
    assert_eq!([0.25, 0.26, 0.5, 0.51, 0.75].map(kept), [1, 2, 2, 3, 3]);
}

#[test]
fn typical_p_that_is_reached_exactly_is_enough_and_min_p_1_keeps_the_likeliest() {
    let kept = |s: Sampling, logits: &[f32]| kept(&s, logits, &[]).iter().map(|c| c.0).collect::<Vec<_>>();
    assert_eq!(kept(Sampling { typical_p: 0.25, ..warm() }, &[0.0; 4]), [0]);
    assert_eq!(kept(Sampling { typical_p: 0.0, ..warm() }, &[0.0; 4]), [0]);
    assert_eq!(kept(Sampling { min_p: 1.0, ..warm() }, &[0.0, 1.0, 1.0, 0.5]), [1, 2]);
    // A share that is too small for a number counts nothing.
    let logits = [4f32.ln(), 2f32.ln(), 0.0, 0.0, -1000.0];
    assert_eq!(kept(Sampling { typical_p: 0.2, temperature: 30.0, ..warm() }, &logits), [1]);
}

/// Only differences of logits matter: no exponential of a large one is taken.
#[test]
fn large_logits_are_as_good_as_small_ones() {
    let logits = [4f32.ln(), 2f32.ln(), 0.0, 0.0].map(|x| x + 4096.0);
    for s in [
        Sampling { top_p: 0.6, ..warm() },
        Sampling { top_k: 2, ..warm() },
        Sampling { typical_p: 0.6, ..warm() },
        Sampling { min_p: 0.4, ..warm() },
    ] {
        let seen: Vec<usize> = counts(s.clone(), &logits, 1000);
        assert!(seen[0] > 500 && seen[1] > 200 && seen[2] + seen[3] == 0, "{s:?}: {seen:?}");
    }
}

#[test]
fn truncations_leave_the_likeliest_first() {
    let logits: Vec<f32> = (0..200).map(|i| (i * 77 % 199) as f32 / 50.0).collect();
    for s in
        [Sampling { top_k: 50, ..warm() }, Sampling { typical_p: 0.5, ..warm() }, Sampling { top_p: 0.5, ..warm() }]
    {
        let mut left: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        Sampler::new(s.clone()).truncate(&mut left);
        assert!(left.len() > 20 && left.is_sorted_by(|a, b| likelier(a, b).is_le()), "{s:?}");
    }
}

/// What is not a number is nothing, whichever way a token is chosen.
#[test]
fn logits_that_are_no_numbers_are_never_chosen() {
    let logits = [f32::NAN, 1.0, 0.0, -f32::NAN];
    for s in [
        Sampling { top_k: 1, ..warm() },
        Sampling { top_p: 0.1, ..warm() },
        Sampling { typical_p: 0.9, top_k: 2, ..warm() },
        Sampling { logit_bias: vec![(2, 0.1)], ..Sampling::default() },
        Sampling::default(),
    ] {
        let mut sampler = Sampler::new(Sampling { seed: Some(5), ..s.clone() });
        assert!((0..50).all(|_| matches!(sampler.sample(&logits, &[]), 1 | 2)), "{s:?}");
        assert_eq!(sampler.sample(&[f32::NAN, f32::INFINITY, 2.0], &[]), 1, "{s:?}");
    }
}

/// Truncations are for drawing; at temperature 0 the likeliest is taken even where they would leave it out.
#[test]
fn greedy_knows_no_truncation() {
    let s = Sampling { typical_p: 0.2, logit_bias: vec![(3, 0.1)], ..Sampling::default() };
    assert_eq!(Sampler::new(s).sample(&[4f32.ln(), 2f32.ln(), 0.0, 0.0], &[]), 0);
}

#[test]
fn a_repetition_penalty_makes_tokens_less_likely_whatever_their_sign() {
    let s = Sampling { repetition_penalty: 2.0, ..warm() };
    assert_eq!(kept(&s, &[1.0, -1.0, 0.0, 3.0], &[0, 1, 2]), [(3, 3.0), (0, 0.5), (2, 0.0), (1, -2.0)]);
}

#[test]
fn what_cannot_matter_is_left_out_and_no_more() {
    let reaches =
        |temperature: f32, below: f32| kept(&Sampling { temperature, ..warm() }, &[5.0, 5.0 - below], &[]).len() == 2;
    assert!(reaches(1.0, 39.5) && !reaches(1.0, 40.5) && reaches(0.1, 39.5) && !reaches(0.1, 40.5));
    assert!(reaches(2.0, 79.5) && !reaches(2.0, 80.5));
}

/// The first numbers of the seed 0, as the generator's authors publish them, and the whole range of a unit.
#[test]
fn random_numbers_are_those_of_splitmix() {
    let mut random = Random(0);
    let first = [random.next(), random.next(), random.next()];
    assert_eq!(first, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    let units: Vec<f64> = (0..1000).map(|_| random.unit()).collect();
    assert!(units.iter().all(|u| (0.0..1.0).contains(u)));
    assert!(units.iter().any(|u| *u < 0.01) && units.iter().any(|u| *u > 0.99));
    assert_eq!(Random(0).unit(), (0xe220_a839_7b1d_cdaf_u64 >> 11) as f64 / 9_007_199_254_740_992.0);
}

#[test]
fn a_draw_is_the_token_at_that_point_of_the_distribution() {
    let candidates = [(7u32, 1.0f32), (3, 0.0), (9, -1.0), (4, 2.0)];
    for seed in 0..200 {
        let temperature = 0.5 + seed as f32 / 100.0;
        let mut sampler = Sampler::new(Sampling { temperature, seed: Some(seed), ..warm() });
        let weights = candidates.map(|c| f64::from(c.1 / temperature).exp());
        let at = Random(seed).unit() * weights.iter().sum::<f64>();
        let expected = (0..4).find(|&i| at < weights[..=i].iter().sum()).unwrap();
        assert_eq!(sampler.draw(&candidates), candidates[expected].0, "{seed}");
        assert_eq!(sampler.seed(), seed);
    }
    // Without a seed each sampler has its own.
    assert_ne!(Sampler::new(warm()).seed(), Sampler::new(warm()).seed());
    // JSON's readers keep 53 bits of a number.
    assert!((0..20).all(|_| Sampler::new(warm()).seed() < 1 << 53));
}

#[test]
fn greedy_with_nothing_else_is_greedy_with_all_allowed() {
    let logits = [0.5, -2.0, 3.0, 3.0];
    let greedy = |s: Sampling| Sampler::new(s).sample_of(&logits, &[2], Some(&[u32::MAX]));
    assert_eq!(greedy(Sampling::default()), Some(2));
    // Each penalty and each bias by itself is felt by the greedy choice.
    for s in [
        Sampling { repetition_penalty: 1.5, ..Sampling::default() },
        Sampling { presence_penalty: 0.1, ..Sampling::default() },
        Sampling { frequency_penalty: 0.1, ..Sampling::default() },
        Sampling { logit_bias: vec![(2, -0.1)], ..Sampling::default() },
    ] {
        assert_eq!(Sampler::new(s.clone()).sample(&logits, &[2]), 3, "{s:?}");
    }
    assert_eq!(Sampler::new(Sampling::default()).sample(&[f32::INFINITY, f32::INFINITY], &[]), 0);
    for seed in 0..20 {
        let mut sampler = Sampler::new(Sampling { seed: Some(seed), ..warm() });
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY, f32::NAN, -1e30], &[]), 2);
    }
}

#[test]
fn every_bound_is_checked_at_both_ends() {
    let fields: [(&str, fn(f32) -> Sampling, f32, f32); 7] = [
        ("temperature", |v| Sampling { temperature: v, ..Sampling::default() }, 0.0, 100.0),
        ("top_p", |v| Sampling { top_p: v, ..Sampling::default() }, 0.0, 1.0),
        ("min_p", |v| Sampling { min_p: v, ..Sampling::default() }, 0.0, 1.0),
        ("typical_p", |v| Sampling { typical_p: v, ..Sampling::default() }, 0.0, 1.0),
        ("repetition_penalty", |v| Sampling { repetition_penalty: v, ..Sampling::default() }, 0.01, 100.0),
        ("presence_penalty", |v| Sampling { presence_penalty: v, ..Sampling::default() }, -100.0, 100.0),
        ("frequency_penalty", |v| Sampling { frequency_penalty: v, ..Sampling::default() }, -100.0, 100.0),
    ];
    let biased: (&str, fn(f32) -> Sampling, f32, f32) =
        ("logit_bias", |v| Sampling { logit_bias: vec![(9, v)], ..Sampling::default() }, -1000.0, 1000.0);
    for (name, with, low, high) in fields.into_iter().chain([biased]) {
        assert!(with(low).validate(10).is_ok() && with(high).validate(10).is_ok(), "{name}");
        for wrong in [low - 0.005, high * 1.01, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(with(wrong).validate(10).unwrap_err().field, name, "{name} {wrong}");
        }
    }
}

proptest! {
    #[test]
    fn what_is_kept_is_what_the_book_says(
        logits in proptest::collection::vec(-30f32..30.0, 1..60),
        history in proptest::collection::vec(0u32..70, 0..40),
        bias in proptest::collection::vec((0u32..60, -9f32..9.0), 0..3),
        (temperature, top_k, top_p) in (0.1f32..3.0, prop_oneof![Just(0usize), 1usize..80], prop_oneof![Just(1f32), 0f32..1.0]),
        (min_p, typical_p) in (prop_oneof![Just(0f32), 0f32..1.0], prop_oneof![Just(1f32), 0f32..1.0]),
        (repetition_penalty, presence_penalty, frequency_penalty) in
            (prop_oneof![Just(1f32), 0.5f32..2.0], prop_oneof![Just(0f32), -2f32..2.0], prop_oneof![Just(0f32), -1f32..1.0]),
        penalty_window in prop_oneof![Just(0usize), 1usize..50]
    ) {
        let s = Sampling {
            temperature, top_k, top_p, min_p, typical_p, repetition_penalty, presence_penalty, frequency_penalty, penalty_window,
            logit_bias: bias, seed: Some(1),
        };
        prop_assert_eq!(kept(&s, &logits, &history), plainly(&s, &logits, &history));
    }
}
