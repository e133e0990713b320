//! A training: from a recipe to a model, step by step, resumable to the bit.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use data::shards::Split;
use kernels::Pool;
use kernels::training::Precision;
use serde_json::Value;

use crate::batch::Batch;
use crate::checkpoint::{self, Numbers, State};
use crate::corpus::Corpus;
use crate::error::Error;
use crate::export;
use crate::feed_forward::{Balance, Load, move_bias};
use crate::network::{self, Network, Outcome};
use crate::optimizer::{self, Optimizer};
use crate::pass::Values;
use crate::recipe::{PrecisionSetting, Recipe};
use crate::schedule::Schedule;
use crate::sizes::Wanted;
use crate::start;

/// States that stay on disk.
const KEPT: usize = 2;

/// What a recipe comes to, before anything is computed.
pub struct Setup {
    /// The recipe.
    pub recipe: Recipe,
    /// The configuration, in the keys of published checkpoints.
    pub config: Value,
    /// The network.
    pub network: Network,
    /// What is trained on.
    pub corpus: Corpus,
    /// What is measured on, where there is any.
    pub held_out: Option<Corpus>,
    /// Tokens a step.
    pub batch: u64,
    /// Peak of the learning rate.
    pub rate: f64,
    /// Of the loss.
    pub settings: network::Settings,
    /// Bytes of every token, for bits a byte.
    token_bytes: Vec<u32>,
    from: Option<model::Checkpoint>,
    identity: String,
}

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

/// What a micro-batch came to, without the optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// See `Step::operations`.
    pub operations_per_second: f64,
    /// Bytes of all that is kept for the backward, and of buffers.
    pub activation_bytes: u64,
}

/// Who is told of what happens.
pub trait Observer {
    /// A step was taken.
    fn step(&mut self, step: &Step);
    /// Held-out text was measured.
    fn evaluated(&mut self, evaluation: &Evaluation);
    /// A state is on disk.
    fn saved(&mut self, path: &Path);
    /// Something that a person should know.
    fn warned(&mut self, what: &str);
}

impl Setup {
    /// What a recipe comes to. Opens the data and, where it goes on from one, the checkpoint's headers.
    ///
    /// # Errors
    /// Data that is missing or damaged, settings that contradict each other or the data, a structure that is not trained.
    pub fn new(recipe: Recipe) -> Result<Setup, Error> {
        if !recipe.data.join("shards").exists() {
            let problem = "no dataset with shards is there; `farthing data` makes one, from a recipe with [tokenizer] and [shards]";
            return Err(Error::file(&recipe.data, problem));
        }
        let from = recipe.model.from.as_deref().map(model::Checkpoint::open).transpose()?;
        let (config, mut structure) = match &from {
            Some(checkpoint) => (export::config_of(checkpoint)?, checkpoint.structure.clone()),
            None => {
                let vocabulary = data::shards::Shards::open(&recipe.data.join("shards"))?.vocabulary;
                let wanted = Wanted {
                    kind: recipe.model.structure,
                    active: recipe.model.active.unwrap_or_default(),
                    vocabulary,
                    context: recipe.model.context.unwrap_or(1024),
                    given: recipe.model.config.clone(),
                };
                wanted.config()?
            }
        };
        let context = recipe.model.context.unwrap_or(structure.context).min(structure.context);
        if recipe.train.micro_batch < context as u64 {
            let problem = format!("[train] micro_batch = {} is below the context, {context}", recipe.train.micro_batch);
            return Err(Error::Recipe { file: recipe.data.clone(), problem });
        }
        let corpus = Corpus::open(&recipe.data, Split::Train, context, recipe.seed)?.ok_or_else(|| {
            let problem = "no document has two tokens or more: there is nothing to learn from; give the recipe of the data more sources";
            Error::file(recipe.data.join("shards"), problem)
        })?;
        if corpus.vocabulary() > structure.vocab {
            let problem = format!(
                "the shards are of a tokenizer of {} tokens, the model has {}: take shards made with the model's tokenizer",
                corpus.vocabulary(),
                structure.vocab
            );
            return Err(Error::file(recipe.data.join("shards"), problem));
        }
        if let Some(checkpoint) = &from {
            same_tokenizer(&checkpoint.path, &corpus, &recipe.data)?;
        }
        let held_out = Corpus::open(&recipe.data, Split::HeldOut, context, recipe.seed)?;
        structure.context = structure.context.max(context);
        let network = Network::new(structure, recipe.model.predict)?;
        let active = network.structure.parameters().active as f64;
        // DeepSeek LLM (arXiv 2401.02954), section 3.1: of the arithmetic of the whole training.
        let compute = 6.0 * active * recipe.train.tokens as f64;
        let rate = recipe.train.rate.unwrap_or(0.3118 * compute.powf(-0.1250));
        let batch = recipe.train.batch.unwrap_or_else(|| {
            let wanted = (0.2920 * compute.powf(0.3271)) as u64;
            let most = (recipe.train.tokens / 200).max(recipe.train.micro_batch);
            (wanted.min(most) / recipe.train.micro_batch).max(1) * recipe.train.micro_batch
        });
        let settings = loss_settings(&recipe, &network);
        let token_bytes = token_bytes(&recipe.data, corpus.vocabulary())?;
        let identity = identity(&recipe, &config, &corpus, &format!("{settings:?} {rate} {batch}"));
        Ok(Setup { recipe, config, network, corpus, held_out, batch, rate, settings, token_bytes, from, identity })
    }

    /// The parts of the step that begins at `place`, and the place behind it.
    fn batches(&mut self, mut place: u64) -> Result<(Vec<Batch>, u64), Error> {
        let (mut batches, mut tokens) = (Vec::new(), 0u64);
        while tokens < self.batch {
            let room = self.recipe.train.micro_batch.min(self.batch - tokens).max(1);
            let (batch, next) = self.corpus.batch(place, room as usize)?;
            tokens += batch.tokens.len() as u64;
            place = next;
            batches.push(batch);
        }
        Ok((batches, place))
    }

    /// Time some tokens with fresh weights: a micro-batch, after one that makes buffers ready.
    ///
    /// # Errors
    /// Shards that cannot be read.
    pub fn measure(&mut self, pool: &Pool) -> Result<Measured, Error> {
        let (batch, _) = self.corpus.batch(0, self.recipe.train.micro_batch as usize)?;
        let weights = start::fresh(&self.network, self.recipe.seed);
        let mut gradients = self.network.parameters.zeros();
        let mut seconds = f64::INFINITY;
        for _ in 0..2 {
            let started = Instant::now();
            self.network.train(pool, &self.settings, (&weights, &mut gradients), &batch, 1.0);
            seconds = seconds.min(started.elapsed().as_secs_f64());
        }
        let seen = distances(&batch);
        let tokens = batch.tokens.len() as f64;
        Ok(Measured {
            tokens_per_second: tokens / seconds,
            operations_per_second: tokens * self.operations_per_token(seen / tokens) / seconds,
            activation_bytes: self.network.buffer_bytes() as u64,
        })
    }

    /// Floating-point operations of a forward and backward a token, at a mean distance of attention: see `Step::operations`.
    pub fn operations_per_token(&self, seen: f64) -> f64 {
        let structure = &self.network.structure;
        let products = structure.parameters().active as f64 + self.predicted_parameters();
        let attention: f64 = structure
            .layers
            .iter()
            .map(|layer| {
                let heads = layer.attention.heads();
                (heads.count * heads.cache_width) as f64 * seen
            })
            .sum();
        6.0 * (products + attention)
    }

    /// Active parameters of the module of multi-token prediction, its use of the head included.
    fn predicted_parameters(&self) -> f64 {
        let structure = &self.network.structure;
        let Some(last) = structure.layers.last().filter(|_| self.network.predicts()) else { return 0.0 };
        let layer = last.attention.parameters(structure.hidden)
            + last.feed_forward.parameters(structure.hidden).active
            + (2 * structure.hidden * structure.hidden + structure.vocab * structure.hidden) as u64;
        layer as f64
    }
}

/// How the loss is computed, as a recipe says.
fn loss_settings(recipe: &Recipe, network: &Network) -> network::Settings {
    let biased = network.choices().iter().any(Option::is_some);
    let train = &recipe.train;
    let precision = match train.precision {
        PrecisionSetting::F32 => Precision::F32,
        PrecisionSetting::Bf16 => Precision::Bf16,
        PrecisionSetting::Auto if kernels::training::bf16_products() => Precision::Bf16,
        PrecisionSetting::Auto => Precision::F32,
    };
    network::Settings {
        precision,
        recompute: train.recompute.unwrap_or(false),
        balance: Balance {
            loss: train.balance_loss.unwrap_or(if biased { 1e-4 } else { 1e-2 }) as f32,
            bias: train.balance_bias.unwrap_or(1e-3) as f32,
        },
        prediction: train.prediction as f32,
    }
}

/// Hash of all that the numbers follow from: names, descriptions and how often something is saved or measured are not among it.
fn identity(recipe: &Recipe, config: &Value, corpus: &Corpus, derived: &str) -> String {
    let train = &recipe.train;
    let facts = format!(
        "1 {config} {} {} {:?} {derived} {} {} {:?} {} {} {} {:?}",
        corpus.identity(),
        recipe.seed,
        recipe.model,
        train.tokens,
        train.micro_batch,
        (train.optimizer, train.decay, train.cautious, train.momentum),
        train.warm_up,
        train.cool_down,
        train.end,
        (train.schedule, train.clip, train.betas)
    );
    blake3::hash(facts.as_bytes()).to_hex().to_string()
}

/// Whether the shards are of the tokenizer of a checkpoint, where that has one.
fn same_tokenizer(checkpoint: &Path, corpus: &Corpus, dataset: &Path) -> Result<(), Error> {
    let file = checkpoint.join("tokenizer.json");
    if !file.exists() {
        return Ok(());
    }
    let own = blake3::hash(&data::tokenizer::encode::read_json(&file)?).to_hex().to_string();
    if own == corpus.tokenizer() {
        return Ok(());
    }
    let problem = format!(
        "the shards of {} were made with another tokenizer; set [tokenizer] file to this one in the recipe of the data",
        dataset.display()
    );
    Err(Error::file(file, problem))
}

/// Keys that all tokens of a batch see, together.
fn distances(batch: &Batch) -> f64 {
    batch.documents.iter().map(|d| (d.len() * (d.len() + 1) / 2) as f64).sum()
}

/// Bytes of the text of every token.
fn token_bytes(dataset: &Path, vocabulary: usize) -> Result<Vec<u32>, Error> {
    let file = dataset.join("tokenizer").join("tokenizer.json");
    let tokenizer = data::tokenizer::encode::Tokenizer::open(&file, &data::tokenizer::encode::Ends::default())?;
    let bytes = |id: u32| if tokenizer.is_special(id) { 0 } else { tokenizer.bytes(id).len() as u32 };
    let known = tokenizer.vocabulary().min(vocabulary) as u32;
    let mut all: Vec<u32> = (0..known).map(bytes).collect();
    all.resize(vocabulary, 0);
    Ok(all)
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
            precision: setup.settings.precision,
        };
        let mut optimizer = Optimizer::new(settings, &network.parameters);
        let states = directory.join("states");
        let mut damaged = |path: &Path, error: &Error| {
            observer.warned(&format!("{}: passed over: {error}", path.display()));
        };
        let found = checkpoint::newest(&states, &network.parameters, &setup.identity, &mut damaged)?;
        let (weights, state) = match found {
            Some((state, Numbers { weights, means, squares })) => {
                optimizer.restore(state.step, means, squares).map_err(|problem| Error::file(&states, problem))?;
                (weights, Some(state))
            }
            None => match &setup.from {
                Some(checkpoint) => (start::from_checkpoint(network, checkpoint)?, None),
                None => (start::fresh(network, setup.recipe.seed), None),
            },
        };
        let gradients = network.parameters.zeros();
        let schedule =
            Schedule { shape: train.schedule, warm_up: train.warm_up, decay: train.cool_down, end: train.end };
        let (step, place, tokens, seconds) = state.map_or((0, 0, 0, 0.0), |s| (s.step, s.place, s.tokens, s.seconds));
        let directory = directory.to_path_buf();
        Ok(Trainer { setup, pool, weights, gradients, optimizer, schedule, place, tokens, step, seconds, directory })
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
            let before = self.tokens;
            let step = match self.step(stop) {
                Err(Error::Stopped) => {
                    observer.saved(&self.save()?);
                    return Err(Error::Stopped);
                }
                step => step?,
            };
            observer.step(&step);
            let due = before / every != self.tokens / every || self.tokens >= wanted;
            if let Some(evaluation) = due.then(|| self.evaluate()).transpose()?.flatten() {
                observer.evaluated(&evaluation);
            }
            if saved.elapsed() >= minutes || self.tokens >= wanted {
                observer.saved(&self.save()?);
                saved = Instant::now();
            }
        }
        Ok(())
    }

    /// One step.
    ///
    /// # Errors
    /// Shards that cannot be read; a loss or gradient that is no number, and then nothing has changed; `Stopped`, likewise.
    pub fn step(&mut self, stop: &AtomicBool) -> Result<Step, Error> {
        let started = Instant::now();
        let (batches, place) = self.setup.batches(self.place)?;
        let tokens: u64 = batches.iter().map(|b| b.tokens.len() as u64).sum();
        let Setup { network, settings, recipe, .. } = &self.setup;
        let weight = 1.0 / batches.iter().map(Batch::wanted).sum::<usize>().max(1) as f32;
        self.gradients.iter_mut().for_each(|g| g.fill(0.0));
        let mut outcome = Outcome::default();
        for batch in &batches {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            let numbers = (&self.weights, &mut self.gradients);
            outcome.add(&network.train(&self.pool, settings, numbers, batch, weight));
        }
        let norm = optimizer::clip(&self.pool, &mut self.gradients, recipe.train.clip);
        let loss = outcome.loss / outcome.targets.max(1) as f64;
        self.finite(loss, norm, place)?;

        let optimizing = Instant::now();
        // The rate in the middle of the step: both the first and the last one move.
        let progress = (self.tokens as f64 + tokens as f64 / 2.0) / self.setup.recipe.train.tokens as f64;
        let rate = self.setup.rate * self.schedule.at(progress);
        let network = &self.setup.network;
        self.optimizer.step(&self.pool, &network.parameters, rate, &mut self.weights, &self.gradients);
        for (choice, load) in network.choices().into_iter().zip(&outcome.loads) {
            if let Some(choice) = choice {
                move_bias(&mut self.weights[choice], load, self.setup.settings.balance.bias);
            }
        }
        let seen = batches.iter().map(distances).sum::<f64>();
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
            prediction,
            norm,
            rate,
            loads: outcome.loads,
            seconds,
            optimizer_seconds: optimizing.elapsed().as_secs_f64(),
            operations: tokens as f64 * self.setup.operations_per_token(seen / tokens as f64),
        })
    }

    /// Whether loss and gradients are numbers.
    fn finite(&self, loss: f64, norm: f64, next: u64) -> Result<(), Error> {
        if loss.is_finite() && norm.is_finite() {
            return Ok(());
        }
        let bad = self.gradients.iter().zip(self.setup.network.parameters.iter());
        let bad = bad.into_iter().find_map(|(g, p)| g.iter().find(|g| !g.is_finite()).map(|g| (p, *g)));
        let (what, value) = match bad {
            _ if !loss.is_finite() => ("the loss".to_string(), loss),
            Some((parameter, value)) => (format!("the gradient of {}", parameter.name), f64::from(value)),
            None => ("the norm of the gradients".to_string(), norm),
        };
        let pieces = self.setup.corpus.pieces();
        let batch =
            format!("pieces {} to {} of epoch {}", self.place % pieces, (next - 1) % pieces, self.place / pieces);
        Err(Error::Diverged {
            step: self.step + 1,
            what,
            value,
            batch,
            checkpoint: self.directory.join("states").display().to_string(),
            advice: "lower [train] rate, or lengthen warm_up",
        })
    }

    /// The loss on held-out text; `None` where there is none.
    ///
    /// # Errors
    /// Shards that cannot be read.
    pub fn evaluate(&mut self) -> Result<Option<Evaluation>, Error> {
        let Setup { network, held_out, settings, recipe, token_bytes, .. } = &mut self.setup;
        let Some(corpus) = held_out else { return Ok(None) };
        let (mut place, mut tokens, mut bytes, mut outcome) = (0, 0, 0u64, Outcome::default());
        while place < corpus.pieces() && tokens < recipe.evaluate.tokens {
            let room = recipe.train.micro_batch as usize;
            let (mut batch, next) = corpus.batch(place, room)?;
            // Not beyond the epoch: each text counts once.
            let over = next.saturating_sub(corpus.pieces()) as usize;
            batch.documents.truncate(batch.documents.len() - over);
            let end = batch.documents.last().map_or(0, |d| d.end);
            batch.tokens.truncate(end);
            batch.targets.truncate(end);
            place = next;
            tokens += end as u64;
            bytes += batch
                .targets
                .iter()
                .map(|&t| u64::from(token_bytes.get(t as usize).copied().unwrap_or(0)))
                .sum::<u64>();
            outcome.add(&network.loss(&self.pool, settings, &self.weights, &batch));
        }
        let bits = outcome.loss / std::f64::consts::LN_2;
        Ok(Some(Evaluation {
            tokens: self.tokens,
            loss: outcome.loss / outcome.targets.max(1) as f64,
            bits_per_byte: bits / bytes.max(1) as f64,
        }))
    }

    /// Write a state from which the training goes on to the bit.
    ///
    /// # Errors
    /// Where the system refuses; earlier states stay.
    pub fn save(&mut self) -> Result<PathBuf, Error> {
        let state = State::new(&self.setup.identity, self.step, self.place, self.tokens, self.seconds);
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
        let tokenizer = self.setup.recipe.data.join("tokenizer");
        export::write(&self.setup.network, &self.weights, &self.setup.config, &tokenizer, format, &out)?;
        Ok(out)
    }
}
