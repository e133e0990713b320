//! From a recipe to all that a training needs before its first step.

use std::time::Instant;

use data::shards::Split;
use kernels::Pool;
use kernels::training::Precision;
use model::CheckpointError;
use model::checkpoint::Purpose;
use model::families::to_hf;
use model::structure::{Head, Structure};
use serde_json::Value;

use crate::batch::Batch;
use crate::corpus::Corpus;
use crate::error::Error;
use crate::feed_forward::Balance;
use crate::memory::Memory;
use crate::network::{self, Network};
use crate::pass::Values;
use crate::recipe::{PrecisionSetting, Recipe};
use crate::samples::Prompts;
use crate::sizes::Wanted;
use crate::start;
use crate::tokenizer;

/// Architectures whose every part has a backward, and whose tensors are written under the names that they were read by.
const TRAINED: [&str; 8] = ["llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "deepseek_v2", "deepseek_v3", "kimi_k2"];

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
    /// Tokens of a piece of text, at most.
    pub context: usize,
    /// Peak of the learning rate.
    pub rate: f64,
    /// Factor of it for the embedding's rows.
    pub embedding_rate: f64,
    /// Of the loss.
    pub settings: network::Settings,
    /// Bytes of every token, for bits a byte.
    pub(crate) token_bytes: Vec<u32>,
    /// What samples begin with.
    pub(crate) prompts: Prompts,
    pub(crate) from: Option<model::Checkpoint>,
    pub(crate) identity: String,
}

/// What a micro-batch came to, without the optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// See `Step::operations`.
    pub operations_per_second: f64,
    /// Of the whole training.
    pub memory: Memory,
    /// Bytes that the system can give, as far as it says.
    pub available: Option<u64>,
    /// What the machine reaches in the precision of products, measured beside it.
    pub peak_operations_per_second: f64,
}

/// Tokens whose activations are measured to tell what a micro-batch takes.
const PROBE_TOKENS: [usize; 2] = [512, 1024];

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
        let (config, structure) = match &from {
            Some(checkpoint) => going_on(checkpoint)?,
            None => from_dial(&recipe)?,
        };
        let context = recipe.model.context.unwrap_or(structure.context);
        if context > structure.context {
            let problem = format!("[model] context = {context}: the checkpoint was made for {}", structure.context);
            return Err(recipe.problem(problem));
        }
        let micro_batch = recipe.train.micro_batch();
        if micro_batch < context as u64 {
            let problem = format!("[train] micro_batch = {micro_batch} is below [model] context = {context}");
            return Err(recipe.problem(problem));
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
        tokenizer::of_shards(&corpus, &recipe.data)?;
        if let Some(checkpoint) = &from {
            tokenizer::same(checkpoint, &corpus, &recipe.data)?;
        }
        let held_out = Corpus::open(&recipe.data, Split::HeldOut, context, recipe.seed)?;
        let network = Network::new(structure, recipe.model.predict)?;
        let compute = compute(&recipe, &network);
        let rate = recipe.train.rate.unwrap_or_else(|| rate_of(compute));
        let embedding_rate = embedding_rate(&recipe, &network);
        let batch = recipe.train.batch.unwrap_or_else(|| batch_of(compute, &recipe).min(recipe.train.tokens));
        network.reserve(micro_batch.min(batch) as usize);
        let settings = loss_settings(&recipe, &network);
        let text = tokenizer::open(&recipe.data)?;
        let token_bytes = tokenizer::token_bytes(&text, corpus.vocabulary());
        let prompts = Prompts::new(&recipe, &text, held_out.as_ref(), context)?;
        // The same bits come out whether activations are kept or computed again.
        let facts = network::Settings { recompute: false, ..settings };
        let identity =
            identity(&recipe, &config, &corpus, &format!("{facts:?} {rate} {embedding_rate} {batch} {context}"));
        Ok(Setup {
            recipe,
            config,
            network,
            corpus,
            held_out,
            batch,
            context,
            rate,
            embedding_rate,
            settings,
            token_bytes,
            prompts,
            from,
            identity,
        })
    }

    /// The parts of the step that begins at `place`, and the place behind it.
    pub(crate) fn batches(&mut self, mut place: u64) -> Result<(Vec<Batch>, u64), Error> {
        let (mut batches, mut tokens) = (Vec::new(), 0u64);
        while tokens < self.batch {
            let room = self.recipe.train.micro_batch().min(self.batch - tokens).max(1);
            let (batch, next) = self.corpus.batch(place, room as usize)?;
            tokens += batch.tokens.len() as u64;
            place = next;
            batches.push(batch);
        }
        Ok((batches, place))
    }

    /// Time some tokens with fresh weights: a micro-batch, after one that makes buffers ready. Where the recipe leaves it open, activations
    /// are computed again in the backward from here on if they do not fit into the memory that is there.
    ///
    /// # Errors
    /// Shards that cannot be read; too little memory for the weights alone.
    pub fn measure(&mut self, pool: &Pool) -> Result<Measured, Error> {
        self.measure_within(pool, model::plan::available())
    }

    /// As `measure`, with so many bytes of memory.
    ///
    /// # Errors
    /// As `measure`.
    pub fn measure_within(&mut self, pool: &Pool, available: Option<u64>) -> Result<Measured, Error> {
        let needed = self.memory(0, pool.threads()).total();
        if let Some(available) = available.filter(|available| *available < needed) {
            let mib = |bytes: u64| bytes >> 20;
            return Err(self.recipe.problem(format!(
                "[model]: weights, gradients and optimizer need {} MiB, and {} MiB are available: take a smaller model, or a larger machine",
                mib(needed),
                mib(available)
            )));
        }
        let (batch, _) = self.corpus.batch(0, self.recipe.train.micro_batch() as usize)?;
        let weights = start::fresh(&self.network, self.recipe.seed);
        let mut gradients = self.network.parameters.zeros();
        if let (None, Some(available)) = (self.recipe.train.recompute, available) {
            let activations = self.probe(pool, &weights, &mut gradients, batch.tokens.len())?;
            self.settings.recompute = self.memory(activations, pool.threads()).total() > available;
        }
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
            operations_per_second: tokens * self.network.operations_per_token(seen / tokens) / seconds,
            memory: self.memory(self.network.buffer_bytes() as u64, pool.threads()),
            available,
            peak_operations_per_second: match self.settings.precision {
                Precision::F32 => kernels::measure::f32_peak(pool),
                Precision::Bf16 => kernels::measure::bf16_peak(pool),
            },
        })
    }

    fn memory(&self, activations: u64, threads: usize) -> Memory {
        Memory::new(&self.recipe, &self.network, (self.corpus.pieces(), self.batch), activations, threads)
    }

    /// Bytes of the activations of so many tokens, nothing computed again, along the line through those of fewer: some buffers are of one
    /// size whatever the tokens.
    fn probe(&mut self, pool: &Pool, weights: &Values, gradients: &mut Values, tokens: usize) -> Result<u64, Error> {
        let settings = network::Settings { recompute: false, ..self.settings };
        let mut measured = [(0.0, 0.0); 2];
        for (point, room) in measured.iter_mut().zip(PROBE_TOKENS) {
            let (batch, _) = self.corpus.batch(0, room.min(tokens))?;
            let network = Network::new(self.network.structure.clone(), self.network.predicts())?;
            network.train(pool, &settings, (weights, gradients), &batch, 1.0);
            *point = (batch.tokens.len() as f64, network.buffer_bytes() as f64);
        }
        let [(few, less), (many, more)] = measured;
        let slope = if many > few { (more - less) / (many - few) } else { more / many };
        Ok((more + slope * (tokens as f64 - many)) as u64)
    }
}

/// Arithmetic of the whole training, in floating-point operations.
fn compute(recipe: &Recipe, network: &Network) -> f64 {
    6.0 * network.structure.parameters().active as f64 * recipe.train.tokens as f64
}

/// The peak of the learning rate (DeepSeek LLM, arXiv 2401.02954, section 3.1).
fn rate_of(compute: f64) -> f64 {
    0.3118 * compute.powf(-0.1250)
}

/// The factor of the learning rate for the embedding's rows, which are of size one where they are fresh and not the head too.
fn embedding_rate(recipe: &Recipe, network: &Network) -> f64 {
    let small = recipe.model.from.is_some() || network.structure.head == Head::Tied;
    recipe.train.embedding_rate.unwrap_or(if small { 1.0 } else { 10.0 })
}

/// Tokens a step for so much arithmetic (the same section), in whole micro-batches and at least 200 steps.
fn batch_of(compute: f64, recipe: &Recipe) -> u64 {
    let micro_batch = recipe.train.micro_batch();
    let wanted = (0.2920 * compute.powf(0.3271)) as u64;
    let most = (recipe.train.tokens / 200).max(micro_batch);
    (wanted.min(most) / micro_batch).max(1) * micro_batch
}

/// The configuration and structure of a size.
fn from_dial(recipe: &Recipe) -> Result<(Value, Structure), Error> {
    let wanted = Wanted {
        kind: recipe.model.structure,
        active: recipe.model.active.unwrap_or_default(),
        vocabulary: data::shards::Shards::open(&recipe.data.join("shards"))?.vocabulary,
        context: recipe.model.context.unwrap_or(1024),
        given: recipe.model.config.clone(),
    };
    let (config, structure) = wanted.config().map_err(|e| recipe.problem(e.to_string()))?;
    let kind = config["model_type"].as_str().unwrap_or_default();
    if !TRAINED.contains(&kind) {
        let problem = format!("[model] config: model_type {kind:?} is not trained; trained are {}", TRAINED.join(", "));
        return Err(recipe.problem(problem));
    }
    Ok((config, structure))
}

/// The configuration and structure of a checkpoint whose tensors are all there.
fn going_on(checkpoint: &model::Checkpoint) -> Result<(Value, Structure), Error> {
    let (config, structure) = to_hf::configuration(checkpoint)?;
    let refuse = |what: String| {
        Err(CheckpointError::Unsupported { path: checkpoint.path.clone(), what: format!("training of {what}") }.into())
    };
    let kind = config["model_type"].as_str().unwrap_or_default();
    if !TRAINED.contains(&kind) {
        return refuse(format!("architecture {kind}; trained are {}", TRAINED.join(", ")));
    }
    if checkpoint.purpose != Purpose::Generate {
        return refuse("a model that embeds or scores texts; take one that generates them".to_string());
    }
    checkpoint.complete()?;
    Ok((config, structure))
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

/// Hash of all that the numbers follow from: names, paths, descriptions and how often something is saved or measured are not among it, nor is
/// the schedule, which states have themselves.
fn identity(recipe: &Recipe, config: &Value, corpus: &Corpus, derived: &str) -> String {
    let train = &recipe.train;
    let facts = format!(
        "4 {config} {} {} {} {derived} {} {:?} {:?}",
        corpus.identity(),
        recipe.seed,
        recipe.model.predict,
        train.micro_batch(),
        (train.optimizer, train.decay, train.cautious, train.momentum),
        (train.clip, train.betas)
    );
    blake3::hash(facts.as_bytes()).to_hex().to_string()
}

/// Keys that all tokens of a batch see, together.
pub(crate) fn distances(batch: &Batch) -> f64 {
    batch.documents.iter().map(|d| (d.len() * (d.len() + 1) / 2) as f64).sum()
}
