//! How fast steps of a structure are, without data: documents of random tokens.

use std::path::Path;
use std::time::Instant;

use kernels::Pool;
use model::structure::Structure;
use serde_json::Value;

use crate::batch::Batch;
use crate::error::Error;
use crate::network::{Network, Outcome, Settings};
use crate::optimizer::{self, Kind, Optimizer};
use crate::pass::{Values, clear};
use crate::random::Random;
use crate::recipe::MICRO_BATCH;
use crate::setup::distances;
use crate::start;

/// What the random numbers of tokens are for.
const TOKENS: u64 = 7;

/// What a step took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Taken {
    /// Of all.
    pub seconds: f64,
    /// Of which in products and attention, forward and backward.
    pub product_seconds: f64,
    /// Of which in the optimizer.
    pub optimizer_seconds: f64,
    /// Mean loss in nats a token.
    pub loss: f64,
}

/// A training of one batch, again and again.
pub struct Speed {
    /// The network.
    pub network: Network,
    /// Bytes of weights, gradients and what the optimizer keeps.
    pub number_bytes: u64,
    settings: Settings,
    batches: Vec<Batch>,
    weights: Values,
    gradients: Values,
    optimizer: Optimizer,
}

impl Speed {
    /// Fresh weights, and a batch of `documents` with `length` tokens each.
    ///
    /// # Errors
    /// A structure that is not trained; no tokens.
    pub fn new(
        structure: Structure,
        settings: Settings,
        kind: Kind,
        (documents, length): (usize, usize),
    ) -> Result<Speed, Error> {
        if length < 2 || documents == 0 || length > structure.context {
            let problem =
                format!("{documents} documents of {length} tokens: give one or more, of 2 to {}", structure.context);
            return Err(Error::file(Path::new("bench"), problem));
        }
        let network = Network::new(structure, false)?;
        let (mut batches, mut random) = (vec![Batch::default()], Random::new(&[1, TOKENS]));
        for _ in 0..documents {
            let tokens: Vec<u32> = (0..length).map(|_| random.below(network.structure.vocab as u64) as u32).collect();
            let last = batches.last_mut().expect("one or more");
            // As a training computes them: some at a time.
            if last.tokens.is_empty() || last.tokens.len() + length <= MICRO_BATCH as usize {
                last.document(&tokens);
            } else {
                let mut batch = Batch::default();
                batch.document(&tokens);
                batches.push(batch);
            }
        }
        let of = optimizer::Settings {
            kind,
            momentum: 0.95,
            betas: [0.9, 0.95],
            epsilon: 1e-8,
            decay: 0.1,
            cautious: true,
            embedding_rate: 1.0,
            precision: settings.precision,
        };
        let optimizer = Optimizer::new(of, &network.parameters);
        let (weights, gradients) = (start::fresh(&network, 1), network.parameters.zeros());
        let all = [&weights, &gradients, &optimizer.means, &optimizer.squares];
        let numbers: usize = all.iter().flat_map(|values| values.iter()).map(Vec::len).sum();
        Ok(Speed { network, number_bytes: 4 * numbers as u64, settings, batches, weights, gradients, optimizer })
    }

    /// One step, with the optimizer's.
    pub fn step(&mut self, pool: &Pool) -> Taken {
        let (started, before) = (Instant::now(), self.network.product_seconds());
        clear(pool, &mut self.gradients);
        let weight = 1.0 / self.batches.iter().map(Batch::wanted).sum::<usize>() as f32;
        let mut outcome = Outcome::default();
        for batch in &self.batches {
            let numbers = (&self.weights, &mut self.gradients);
            outcome.add(&self.network.train(pool, &self.settings, numbers, batch, weight));
        }
        let optimizing = Instant::now();
        optimizer::clip(pool, &mut self.gradients, 1.0);
        self.optimizer.step(pool, &self.network.parameters, 1e-3, &mut self.weights, &self.gradients);
        Taken {
            seconds: started.elapsed().as_secs_f64(),
            product_seconds: self.network.product_seconds() - before,
            optimizer_seconds: optimizing.elapsed().as_secs_f64(),
            loss: outcome.loss / outcome.targets as f64,
        }
    }

    /// Tokens of a step.
    pub fn tokens(&self) -> usize {
        self.batches.iter().map(|batch| batch.tokens.len()).sum()
    }

    /// Floating-point operations of the model in a step: see `Step::operations`.
    pub fn operations(&self) -> f64 {
        let tokens = self.tokens() as f64;
        tokens * self.network.operations_per_token(self.batches.iter().map(distances).sum::<f64>() / tokens)
    }
}

/// A structure as a configuration says.
///
/// # Errors
/// What has no model here.
pub fn structure(file: &Path, config: &Value) -> Result<Structure, Error> {
    Ok(model::families::from_config(file, config)?.0)
}
