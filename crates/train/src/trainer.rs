//! A training: from a recipe to a model, step by step, resumable to the bit.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kernels::Pool;

use crate::batch::Batch;
use crate::checkpoint::{self, Numbers, State};
use crate::error::Error;
use crate::export;
use crate::feed_forward::{Load, move_bias};
use crate::network::Outcome;
use crate::optimizer::{self, Optimizer};
use crate::pass::{Values, clear};
use crate::ranks::{self, Alone, Communicator};
use crate::samples::Sample;
use crate::schedule::Schedule;
use crate::setup::{Setup, distances};
use crate::start;
use crate::tokenizer::text_bytes;

/// States that stay on disk.
const KEPT: usize = 2;

/// A loss of so many times that of a uniform guess is a training that has diverged.
const LOSS_MAX: f64 = 4.0;

/// What a step came to.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its number, from 1.
    pub step: u64,
    /// Tokens seen so far, this step included.
    pub tokens: u64,
    /// Tokens of this step.
    pub step_tokens: u64,
    /// Mean loss in nats a token.
    pub loss: f64,
    /// Bits a byte of the text of this step before it was learnt from; `None` where no target has text.
    pub bits_per_byte: Option<f64>,
    /// Mean loss of multi-token prediction, where there is a module.
    pub prediction: Option<f64>,
    /// Norm of the gradients before clipping.
    pub norm: f64,
    /// Learning rate.
    pub rate: f64,
    /// Of each mixture.
    pub loads: Vec<Load>,
    /// Seconds it took.
    pub seconds: f64,
    /// Of which in the optimizer.
    pub optimizer_seconds: f64,
    /// Floating-point operations of the model in it: two a multiply-add, of products and attention, forward and backward, nothing counted
    /// that is computed again.
    pub operations: f64,
}

/// What held-out text came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Tokens seen so far.
    pub tokens: u64,
    /// Nats a token.
    pub loss: f64,
    /// Bits a byte of text.
    pub bits_per_byte: f64,
}

/// Texts that the model wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// Tokens seen so far.
    pub tokens: u64,
    /// Seconds that writing them took.
    pub seconds: f64,
    /// One for each prompt.
    pub texts: Vec<Sample>,
}

/// Who is told of what happens.
pub trait Observer {
    /// A step was taken.
    fn step(&mut self, step: &Step);
    /// Held-out text was measured.
    fn evaluated(&mut self, evaluation: &Evaluation);
    /// Prompts were continued.
    fn sampled(&mut self, samples: &Samples);
    /// A state is about to be written: what was told of the steps before it should be on disk by then.
    fn saving(&mut self);
    /// A state is on disk.
    fn saved(&mut self, path: &Path);
    /// Something that a person should know.
    fn warned(&mut self, what: &str);
}

/// A training in the middle of it.
pub struct Trainer {
    /// What it follows.
    pub setup: Setup,
    pool: Pool,
    weights: Values,
    gradients: Values,
    optimizer: Optimizer,
    schedule: Schedule,
    place: u64,
    tokens: u64,
    step: u64,
    seconds: f64,
    directory: PathBuf,
    ranks: Rc<dyn Communicator>,
}

/// Whether a training may go on by this schedule: by its own, or by another with the same rate where it is.
fn same_rate(states: &Path, state: &State, schedule: &Schedule, observer: &mut dyn Observer) -> Result<(), Error> {
    let old = &state.schedule;
    if old == schedule {
        return Ok(());
    }
    let tokens = state.tokens as f64;
    let (before, after) = (old.at(tokens), schedule.at(tokens));
    if before != after {
        let problem = format!(
            "[train] tokens, schedule, warm_up, cool_down or end has changed, and after {tokens} tokens the rate would jump from {before:.3} to \
             {after:.3} of its peak; a training may change them while its rate is held",
        );
        return Err(Error::file(states, problem));
    }
    let problem = format!("the schedule has changed: from {} to {} tokens in all", old.tokens, schedule.tokens);
    observer.warned(&problem);
    Ok(())
}

impl Trainer {
    /// Begin, or go on from the newest whole state below `directory/states`.
    ///
    /// # Errors
    /// A state of another training; a checkpoint that cannot be read.
    pub fn open(setup: Setup, pool: Pool, directory: &Path, observer: &mut dyn Observer) -> Result<Trainer, Error> {
        let (network, train) = (&setup.network, &setup.recipe.train);
        let settings = optimizer::Settings {
            kind: train.optimizer,
            momentum: train.momentum,
            betas: train.betas,
            epsilon: 1e-8,
            decay: train.decay,
            cautious: train.cautious,
            embedding_rate: setup.embedding_rate,
            precision: setup.settings.precision,
        };
        let mut optimizer = Optimizer::new(settings, &network.parameters);
        let states = directory.join("states");
        let mut damaged = |path: &Path, error: &Error| {
            observer.warned(&format!("{}: passed over: {error}", path.display()));
        };
        let schedule = train.schedule();
        let found = checkpoint::newest(&states, &network.parameters, &setup.identity, &mut damaged)?;
        let (weights, state) = match found {
            Some((state, Numbers { weights, means, squares })) => {
                same_rate(&states, &state, &schedule, observer)?;
                optimizer.restore(state.step, means, squares).map_err(|problem| Error::file(&states, problem))?;
                (weights, Some(state))
            }
            None => match &setup.from {
                Some(checkpoint) => (start::from_checkpoint(network, checkpoint)?, None),
                None => (start::fresh(network, setup.recipe.seed), None),
            },
        };
        let gradients = network.parameters.zeros();
        let (step, place, tokens, seconds) = state.map_or((0, 0, 0, 0.0), |s| (s.step, s.place, s.tokens, s.seconds));
        let directory = directory.to_path_buf();
        let ranks = Rc::new(Alone);
        let trainer = Trainer {
            setup,
            pool,
            weights,
            gradients,
            optimizer,
            schedule,
            place,
            tokens,
            step,
            seconds,
            directory,
            ranks,
        };
        Ok(trainer)
    }

    /// Take steps together with other ranks from here on. Rank 0 writes; all have read the same state.
    ///
    /// # Errors
    /// Ranks of another training or at another step; more ranks than micro-batches in a step.
    pub fn join(&mut self, ranks: Rc<dyn Communicator>) -> Result<(), Error> {
        let Setup { recipe, batch, .. } = &self.setup;
        let micro_batches = batch.div_ceil(recipe.train.micro_batch());
        if (ranks.size() as u64) > micro_batches {
            let problem = format!(
                "a step of [train] batch = {batch} has {micro_batches} micro-batches of {}, fewer than {} ranks: raise batch, lower micro_batch, or start fewer",
                recipe.train.micro_batch(),
                ranks.size()
            );
            return Err(recipe.problem(problem));
        }
        self.ranks = ranks;
        self.alike()
    }

    /// Whether all ranks have the same weights of the same training, to the bit.
    fn alike(&self) -> Result<(), Error> {
        if self.ranks.size() == 1 {
            return Ok(());
        }
        let mut hasher = blake3::Hasher::new();
        for weights in &self.weights {
            hasher.update(&checkpoint::bytes(weights));
        }
        let (training, weights) = (&self.setup.identity[..16], hasher.finalize().to_hex());
        let text = format!("training {training}, step {}, weights {}", self.step, &weights[..16]);
        ranks::same(&*self.ranks, &text, "this rank is at another place")
    }

    /// Tokens seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Seconds of training, those before a stop included.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// The weights.
    pub fn weights(&self) -> &[Vec<f32>] {
        &self.weights
    }

    /// Train to the end.
    ///
    /// # Errors
    /// What `step` and `save` say; `Stopped` once `stop` is set, with a state on disk.
    pub fn run(&mut self, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<(), Error> {
        let wanted = self.setup.recipe.train.tokens;
        let every = self.setup.recipe.evaluate.every.unwrap_or(wanted / 40).max(1);
        let minutes = Duration::from_secs_f64((60.0 * self.setup.recipe.train.save_minutes).clamp(0.0, 1e9));
        let mut saved = Instant::now();
        while self.tokens < wanted {
            match self.step_and_measure(stop, every, observer) {
                Err(Error::Stopped) => {
                    observer.saving();
                    observer.saved(&self.save()?);
                    return Err(Error::Stopped);
                }
                taken => taken?,
            }
            if ranks::decide(&*self.ranks, saved.elapsed() >= minutes) || self.tokens >= wanted {
                observer.saving();
                observer.saved(&self.save()?);
                saved = Instant::now();
            }
        }
        Ok(())
    }

    /// One step, and every so many tokens and at the end what it came to.
    fn step_and_measure(&mut self, stop: &AtomicBool, every: u64, observer: &mut dyn Observer) -> Result<(), Error> {
        let before = self.tokens;
        observer.step(&self.step(stop)?);
        if before / every == self.tokens / every && self.tokens < self.setup.recipe.train.tokens {
            return Ok(());
        }
        if let Some(evaluation) = self.evaluate(stop)? {
            observer.evaluated(&evaluation);
        }
        let samples = if self.ranks.rank() == 0 { self.samples(stop) } else { None };
        if let Some(samples) = samples.filter(|samples| !samples.texts.is_empty()) {
            observer.sampled(&samples);
        }
        Ok(())
    }

    /// One step.
    ///
    /// # Errors
    /// Shards that cannot be read; a loss or gradient that is no number, and then nothing has changed; `Stopped`, likewise.
    pub fn step(&mut self, stop: &AtomicBool) -> Result<Step, Error> {
        let started = Instant::now();
        let computed = self.compute(stop);
        let (batches, place, mut outcome) = ranks::agree(&*self.ranks, computed)?;
        ranks::sum(&*self.ranks, &mut self.gradients);
        ranks::sum_outcome(&*self.ranks, &mut outcome);
        let tokens: u64 = batches.iter().map(|b| b.tokens.len() as u64).sum();
        let norm = optimizer::clip(&self.pool, &mut self.gradients, self.setup.recipe.train.clip);
        let loss = outcome.loss / outcome.targets.max(1) as f64;
        ranks::agree(&*self.ranks, self.finite(loss, norm, place))?;

        let optimizing = Instant::now();
        // The rate in the middle of the step: both the first and the last one move.
        let rate = self.setup.rate * self.schedule.at(self.tokens as f64 + tokens as f64 / 2.0);
        let network = &self.setup.network;
        self.optimizer.step(&self.pool, &network.parameters, rate, &mut self.weights, &self.gradients);
        for (choice, load) in network.choices().into_iter().zip(&outcome.loads) {
            if let Some(choice) = choice {
                move_bias(&mut self.weights[choice], load, self.setup.settings.balance.bias);
            }
        }
        let seen = batches.iter().map(distances).sum::<f64>();
        let bytes: u64 = batches.iter().map(|batch| text_bytes(&self.setup.token_bytes, batch)).sum();
        self.place = place;
        self.tokens += tokens;
        self.step += 1;
        let seconds = started.elapsed().as_secs_f64();
        self.seconds += seconds;
        let prediction =
            (outcome.prediction_targets > 0).then(|| outcome.prediction / outcome.prediction_targets as f64);
        Ok(Step {
            step: self.step,
            tokens: self.tokens,
            step_tokens: tokens,
            loss,
            bits_per_byte: (bytes > 0).then(|| outcome.loss / std::f64::consts::LN_2 / bytes as f64),
            prediction,
            norm,
            rate,
            loads: outcome.loads,
            seconds,
            optimizer_seconds: optimizing.elapsed().as_secs_f64(),
            operations: tokens as f64 * self.setup.network.operations_per_token(seen / tokens as f64),
        })
    }

    /// The step's micro-batches, the place behind them, and what this rank's share of them came to; its gradients are in `gradients`.
    fn compute(&mut self, stop: &AtomicBool) -> Result<(Vec<Batch>, u64, Outcome), Error> {
        let (batches, place) = self.setup.batches(self.place)?;
        let Setup { network, settings, .. } = &self.setup;
        let weight = 1.0 / batches.iter().map(Batch::wanted).sum::<usize>().max(1) as f32;
        clear(&self.pool, &mut self.gradients);
        let mut outcome = Outcome::default();
        for batch in &batches[ranks::share(&*self.ranks, batches.len())] {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            let numbers = (&self.weights, &mut self.gradients);
            outcome.add(&network.train(&self.pool, settings, numbers, batch, weight));
        }
        Ok((batches, place, outcome))
    }

    /// Whether loss and gradients are numbers, and the loss is one of a training.
    fn finite(&self, loss: f64, norm: f64, next: u64) -> Result<(), Error> {
        // A model that knows nothing has the logarithm of the vocabulary; far above it, it is sure of what is wrong.
        let worst = LOSS_MAX * (self.setup.network.structure.vocab as f64).ln();
        if loss <= worst && norm.is_finite() {
            return Ok(());
        }
        let bad = self.gradients.iter().zip(self.setup.network.parameters.iter());
        let bad = bad.into_iter().find_map(|(g, p)| g.iter().find(|g| !g.is_finite()).map(|g| (p, *g)));
        let (what, value) = match bad {
            _ if !loss.is_finite() || loss > worst => ("the loss".to_string(), loss),
            Some((parameter, value)) => (format!("the gradient of {}", parameter.name), f64::from(value)),
            None => ("the norm of the gradients".to_string(), norm),
        };
        let pieces = self.setup.corpus.pieces();
        let piece = |place: u64| format!("piece {} of epoch {}", place % pieces, place / pieces);
        let batch = format!("{} to {}", piece(self.place), piece(next - 1));
        Err(self.diverged(self.step + 1, what, value, batch))
    }

    fn diverged(&self, step: u64, what: String, value: f64, batch: String) -> Error {
        let checkpoint = checkpoint::last(&self.directory.join("states"));
        Error::Diverged { step, what, value, batch, checkpoint, advice: "lower [train] rate, or lengthen warm_up" }
    }

    /// Whether all weights are numbers: after the last step no loss tells.
    fn finite_weights(&self) -> Result<(), Error> {
        let mut all = self.weights.iter().zip(self.setup.network.parameters.iter());
        let bad = all.find_map(|(weights, p)| weights.iter().find(|w| !w.is_finite()).map(|w| (p, *w)));
        match bad {
            None => Ok(()),
            Some((p, value)) => {
                Err(self.diverged(self.step, p.name.clone(), f64::from(value), "what was seen so far".into()))
            }
        }
    }

    /// The loss on held-out text; `None` where there is none.
    ///
    /// # Errors
    /// Shards that cannot be read; `Stopped` once `stop` is set.
    pub fn evaluate(&mut self, stop: &AtomicBool) -> Result<Option<Evaluation>, Error> {
        if self.setup.held_out.is_none() {
            return Ok(None);
        }
        let measured = self.measure_held_out(stop);
        let (bytes, mut outcome) = ranks::agree(&*self.ranks, measured)?;
        ranks::sum_outcome(&*self.ranks, &mut outcome);
        let bits = outcome.loss / std::f64::consts::LN_2;
        Ok(Some(Evaluation {
            tokens: self.tokens,
            loss: outcome.loss / outcome.targets.max(1) as f64,
            bits_per_byte: bits / bytes.max(1) as f64,
        }))
    }

    /// Bytes of the held-out text, and what this rank's micro-batches of it came to: every so many ranks, one.
    fn measure_held_out(&mut self, stop: &AtomicBool) -> Result<(u64, Outcome), Error> {
        let Setup { network, held_out, settings, recipe, token_bytes, .. } = &mut self.setup;
        let (mut place, mut tokens, mut bytes, mut outcome) = (0, 0, 0u64, Outcome::default());
        let Some(corpus) = held_out else { return Ok((bytes, outcome)) };
        let mut turns = (0..self.ranks.size()).cycle();
        while place < corpus.pieces() && tokens < recipe.evaluate.tokens {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            let room = recipe.train.micro_batch().min(recipe.evaluate.tokens - tokens) as usize;
            let (mut batch, next) = corpus.batch(place, room)?;
            // Not beyond the epoch: each text counts once.
            let over = next.saturating_sub(corpus.pieces()) as usize;
            batch.documents.truncate(batch.documents.len() - over);
            let end = batch.documents.last().map_or(0, |d| d.end);
            batch.tokens.truncate(end);
            batch.targets.truncate(end);
            place = next;
            tokens += end as u64;
            bytes += text_bytes(token_bytes, &batch);
            if turns.next() == Some(self.ranks.rank()) {
                outcome.add(&network.loss(&self.pool, settings, &self.weights, &batch));
            }
        }
        Ok((bytes, outcome))
    }

    /// Continue the prompts as the weights are; `None` once `stop` is set.
    pub fn samples(&self, stop: &AtomicBool) -> Option<Samples> {
        let started = Instant::now();
        let Setup { network, settings, prompts, .. } = &self.setup;
        let texts = prompts.continued(network, &self.pool, settings, &self.weights, stop)?;
        Some(Samples { tokens: self.tokens, seconds: started.elapsed().as_secs_f64(), texts })
    }

    /// Write a state from which the training goes on to the bit.
    ///
    /// # Errors
    /// Where the system refuses, or a weight is no number; earlier states stay. Ranks whose weights are no longer the same.
    pub fn save(&mut self) -> Result<PathBuf, Error> {
        self.alike()?;
        let saved = if self.ranks.rank() == 0 { self.write_state() } else { Ok(self.directory.join("states")) };
        ranks::agree(&*self.ranks, saved)
    }

    fn write_state(&mut self) -> Result<PathBuf, Error> {
        self.finite_weights()?;
        let state = State::new(&self.setup.identity, self.schedule, (self.step, self.place), self.tokens, self.seconds);
        let numbers = Numbers {
            weights: std::mem::take(&mut self.weights),
            means: std::mem::take(&mut self.optimizer.means),
            squares: std::mem::take(&mut self.optimizer.squares),
        };
        let directory = self.directory.join("states");
        let saved = checkpoint::save(&directory, &self.setup.network.parameters, state, &numbers, KEPT);
        (self.weights, self.optimizer.means, self.optimizer.squares) =
            (numbers.weights, numbers.means, numbers.squares);
        saved
    }

    /// Write the model as a Hugging Face directory to `directory/model`, with the tokenizer of the data.
    ///
    /// # Errors
    /// Where the system refuses; what was there before stays then.
    pub fn export(&self, format: export::Format) -> Result<PathBuf, Error> {
        let out = self.directory.join("model");
        let written = if self.ranks.rank() == 0 { self.write_model(format, &out) } else { Ok(()) };
        ranks::agree(&*self.ranks, written.map(|()| out))
    }

    fn write_model(&self, format: export::Format, out: &Path) -> Result<(), Error> {
        let tokenizer = self.setup.recipe.data.join("tokenizer");
        let Setup { network, config, from, .. } = &self.setup;
        let template = from.as_ref().map(export::template_of).transpose()?.flatten();
        let model = export::Model { network, weights: &self.weights, config, tokenizer: &tokenizer, template };
        export::write(&model, format, out)
    }
}
