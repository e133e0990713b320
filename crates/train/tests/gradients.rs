//! Gradients against differences of the loss, for what no reference has: balance losses, multi-token prediction, masks and packing.

use farthing_train::sizes::{Kind, Wanted};
use farthing_train::{Balance, Batch, NO_TARGET, Network, Outcome, Role, Settings, fresh};
use kernels::Pool;
use serde_json::{Map, Value, json};

fn network(kind: Kind, predict: bool, more: Value) -> Network {
    let given = json!({
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "moe_intermediate_size": 16,
        "n_routed_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "kv_lora_rank": 16,
    });
    let mut given: Map<String, Value> = given.as_object().unwrap().clone();
    given.extend(more.as_object().unwrap().clone());
    let wanted = Wanted { kind, active: 100_000, vocabulary: 64, context: 64, given };
    Network::new(wanted.config().unwrap().1, predict).unwrap()
}

/// Weights with nothing at zero, so that every gradient counts.
fn weights(network: &Network) -> Vec<Vec<f32>> {
    let mut weights = fresh(network, 7);
    let mut state = 1u32;
    for (values, parameter) in weights.iter_mut().zip(network.parameters.iter()) {
        let size = if parameter.role == Role::Choice { 0.01 } else { 0.2 };
        for value in values {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *value += size * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0);
        }
    }
    weights
}

fn batch() -> Batch {
    let mut batch = Batch::default();
    for (length, seed) in [(9usize, 3u32), (1, 0), (14, 5), (2, 9)] {
        batch.document(&(0..length as u32).map(|i| (i * i * 7 + seed * 11 + i) % 64).collect::<Vec<_>>());
    }
    batch.targets[3] = NO_TARGET;
    batch
}

/// What is made small: all losses with their factors.
fn total(outcome: &Outcome, settings: &Settings) -> f64 {
    let balance: f64 = outcome.loads.iter().map(|load| load.loss).sum();
    (outcome.loss + f64::from(settings.prediction) * outcome.prediction) / outcome.targets as f64
        + f64::from(settings.balance.loss) * balance
}

fn check(network: &Network, settings: Settings, least: usize) {
    let (pool, batch) = (Pool::new(1), batch());
    let weight = 1.0 / batch.wanted() as f32;
    let mut weights = weights(network);
    let run = |weights: &Vec<Vec<f32>>| {
        let mut gradients = network.parameters.zeros();
        let outcome = network.train(&pool, &settings, (weights, &mut gradients), &batch, weight);
        (outcome, gradients)
    };
    let (outcome, gradients) = run(&weights);
    let mut compared = 0;
    for (i, parameter) in network.parameters.iter().enumerate() {
        let length = gradients[i].iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        if parameter.role == Role::Choice || length < 1e-3 {
            assert!(parameter.role != Role::Choice || length == 0.0, "{}", parameter.name);
            continue;
        }
        // Along the gradient: one difference tells of all numbers.
        let step = 3e-3f64;
        let before = weights[i].clone();
        let mut sides = [0.0; 2];
        let mut same_choice = true;
        for (side, sign) in sides.iter_mut().zip([1.0, -1.0]) {
            for ((w, b), g) in weights[i].iter_mut().zip(&before).zip(&gradients[i]) {
                *w = (f64::from(*b) + sign * step * f64::from(*g) / length) as f32;
            }
            let (moved, _) = run(&weights);
            let tokens = |o: &Outcome| o.loads.iter().map(|l| l.tokens.clone()).collect::<Vec<_>>();
            same_choice &= tokens(&moved) == tokens(&outcome);
            *side = total(&moved, &settings);
        }
        weights[i] = before;
        // A difference across another choice of experts is none of a smooth function.
        if !same_choice {
            continue;
        }
        let slope = (sides[0] - sides[1]) / (2.0 * step);
        assert!((slope - length).abs() < 0.03 * length + 2e-4, "{}: {slope}, not {length}", parameter.name);
        compared += 1;
    }
    assert!(compared >= least, "{compared} parameters compared");
}

#[test]
fn every_gradient_is_the_slope_of_the_loss() {
    let none = json!({});
    check(
        &network(Kind::Gqa, false, json!({"attention_bias": true, "mlp_bias": true, "num_key_value_heads": 1})),
        Settings::default(),
        20,
    );
    check(&network(Kind::GqaMoe, false, none.clone()), Settings::default(), 15);
    check(&network(Kind::Mla, false, json!({"q_lora_rank": 24})), Settings::default(), 20);
    let balance = Balance { loss: 0.3, bias: 0.0 };
    for kind in [Kind::MlaMoe, Kind::MlaMoeV2] {
        let settings = Settings { balance, prediction: 0.7, ..Settings::default() };
        check(&network(kind, false, json!({"n_shared_experts": 0})), settings, 15);
        check(&network(kind, true, none.clone()), settings, 25);
        check(&network(kind, true, none.clone()), Settings { recompute: true, ..settings }, 25);
    }
}

/// The balance loss alone moves the router, whichever affinity it has.
#[test]
fn the_balance_loss_has_a_gradient() {
    for kind in [Kind::MlaMoe, Kind::MlaMoeV2] {
        let network = network(kind, false, json!({}));
        let weights = weights(&network);
        let router = network.parameters.iter().position(|p| p.role == Role::Router).unwrap();
        let gradient = |loss: f32| {
            let mut gradients = network.parameters.zeros();
            let settings = Settings { balance: Balance { loss, bias: 0.0 }, ..Settings::default() };
            let batch = batch();
            network.train(&Pool::new(1), &settings, (&weights, &mut gradients), &batch, 1.0 / batch.wanted() as f32);
            gradients[router].clone()
        };
        let (without, with) = (gradient(0.0), gradient(1.0));
        let apart: f32 = without.iter().zip(&with).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
        assert!(apart > 1e-3, "{kind:?}: {apart}");
    }
}

/// A router cannot make the balance loss small by making all affinities vanish: they count as shares of one.
#[test]
fn affinities_that_vanish_do_not_fool_the_balance_loss() {
    let network = network(Kind::MlaMoe, false, json!({}));
    let mut weights = weights(&network);
    let router = network.parameters.iter().position(|p| p.role == Role::Router).unwrap();
    let norm = network.parameters.iter().position(|p| p.name.contains("layers.1.post_attention_layernorm")).unwrap();
    // Every logit is the same very negative number, so that sigmoids are below any epsilon: one input is always positive.
    weights[norm].fill(0.0);
    weights[norm][0] = 1.0;
    let settings = Settings { balance: Balance { loss: 1.0, bias: 0.0 }, ..Settings::default() };
    let loss = |size: f32, weights: &mut Vec<Vec<f32>>| {
        for (i, w) in weights[router].iter_mut().enumerate() {
            *w = if i % 32 == 0 { size } else { 0.0 };
        }
        let mut gradients = network.parameters.zeros();
        let batch = batch();
        let outcome = network.train(&Pool::new(1), &settings, (weights, &mut gradients), &batch, 1.0);
        outcome.loads[0].loss
    };
    let (large, vanishing) = (loss(1.0, &mut weights), loss(300.0, &mut weights));
    // Equal affinities are shares of a quarter each: the loss is one whatever is chosen.
    assert!((large - 1.0).abs() < 1e-3 && (vanishing - 1.0).abs() < 1e-3, "{large} {vanishing}");
}

/// A document's numbers do not depend on what is packed beside it.
#[test]
fn documents_see_only_themselves() {
    let network = network(Kind::MlaMoe, false, json!({}));
    let (weights, pool, settings) = (weights(&network), Pool::new(2), Settings::default());
    let packed = batch();
    let logits = network.logits(&pool, &settings, &weights, &packed);
    for document in &packed.documents {
        let mut alone = Batch::default();
        alone.document(&packed.tokens[document.clone()]);
        let own = network.logits(&pool, &settings, &weights, &alone);
        let expected = &logits[document.start * 64..document.end * 64];
        assert!(own.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{document:?}");
    }
}

/// Parts of a step add up to what the whole gives at once, and threads change no bit.
#[test]
fn gradients_of_parts_add_up() {
    for kind in [Kind::Mla, Kind::MlaMoe] {
        parts_add_up(&network(kind, false, json!({})));
    }
}

fn parts_add_up(network: &Network) {
    let (weights, whole) = (weights(network), batch());
    let weight = 1.0 / whole.wanted() as f32;
    let gradients = |batches: &[Batch], threads: usize| {
        let mut gradients = network.parameters.zeros();
        let mut outcome = Outcome::default();
        for batch in batches {
            let numbers = (&weights, &mut gradients);
            outcome.add(&network.train(&Pool::new(threads), &Settings::default(), numbers, batch, weight));
        }
        (outcome.loss, gradients)
    };
    let mut parts = [Batch::default(), Batch::default()];
    for (i, document) in whole.documents.iter().enumerate() {
        let part = &mut parts[i / 2];
        part.document(&whole.tokens[document.clone()]);
        let at = part.targets.len() - document.len();
        part.targets[at..].copy_from_slice(&whole.targets[document.clone()]);
    }
    let ((loss, once), (sum, twice)) = (gradients(std::slice::from_ref(&whole), 1), gradients(&parts, 1));
    assert!((loss - sum).abs() < 1e-4 * loss, "{loss} {sum}");
    for ((once, twice), parameter) in once.iter().zip(&twice).zip(network.parameters.iter()) {
        let length = once.iter().map(|g| g * g).sum::<f32>().sqrt();
        let apart = once.iter().zip(twice).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
        assert!(apart <= 1e-4 * length + 1e-7, "{}: {apart} of {length}", parameter.name);
    }
    for threads in [2, 3] {
        assert_eq!(gradients(std::slice::from_ref(&whole), threads), (loss, once.clone()), "{threads} threads");
    }
}
