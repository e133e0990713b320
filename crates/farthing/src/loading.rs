//! From a checkpoint to a model that runs: options, memory plan, weights, tokenizer, template.

use std::path::Path;

use engine::{Limits, Runner, Sampling};
use kernels::{Format, Pool};
use model::checkpoint::{Generation, Purpose};
use model::plan::MemoryPlan;
use model::tensors::Stored;
use model::{CacheFormat, Checkpoint, Transformer};
use serde_json::Value;
use text::chat::{Context, Render, Template};
use text::families::{PLAIN_TEMPLATE, turn_ends};
use text::{TextError, Tokenizer};

use crate::bundled::is_bundled_template;
use crate::error::{Error, NOT_ISOLATED};
use crate::isolation::{IsolatedTemplate, is_isolated};
use crate::machine::cores;
use crate::tokenizer::{TokenizerParts, tokenizer};
use crate::words::bytes;

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Most tokens of a text, prompt included; `None`: the model's, at most 4096.
    pub context: Option<usize>,
    /// Threads; `None`: one per core.
    pub threads: Option<usize>,
    /// Format of the KV cache; `None`: f32 where most weights are f32, else bf16.
    pub cache: Option<CacheFormat>,
    /// Tokens that the KV cache holds, of all texts together; `None`: one text's.
    pub cached: Option<usize>,
}

/// The sampling of a model whose files advise nothing: values that most programs of this field use, and with which small models keep to the
/// point.
pub fn usual_sampling() -> Sampling {
    Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..Sampling::default() }
}

/// The sampling that a model's own files advise, or the usual one where they advise nothing. Files that advise something mean the rest to be off.
pub fn advised_sampling(generation: &Generation) -> Sampling {
    if !generation.advises_sampling() {
        return usual_sampling();
    }
    let off = Sampling::default();
    Sampling {
        temperature: generation.temperature.unwrap_or(1.0),
        top_k: generation.top_k.unwrap_or(off.top_k),
        top_p: generation.top_p.unwrap_or(off.top_p),
        repetition_penalty: generation.repetition_penalty.unwrap_or(off.repetition_penalty),
        ..off
    }
}

/// The format of the KV cache: as asked for, else exact where the weights are, and half the bytes elsewhere.
pub(crate) fn cache_format(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<CacheFormat, Error> {
    if let Some(format) = options.cache {
        if !checkpoint.structure.cache_layout(format).is_sound() {
            return Err(Error::Argument(format!(
                "--cache {}: a scale is shared by 16 numbers, and this model's entries are no multiples of that; give bf16",
                cache_name(format)
            )));
        }
        return Ok(format);
    }
    let of = |wanted: bool| -> usize {
        let tensors = checkpoint.tensors.by_name.values();
        tensors.filter(|t| (t.stored == Stored::As(Format::F32)) == wanted).map(|t| t.bytes).sum()
    };
    Ok(if of(true) > of(false) { CacheFormat::F32 } else { CacheFormat::Bf16 })
}

/// A format's name on the command line.
pub fn cache_name(format: CacheFormat) -> &'static str {
    CacheFormat::ALL.into_iter().find(|(known, _)| *known == format).map_or("", |(_, name)| name)
}

fn context(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<usize, Error> {
    let most = checkpoint.structure.context;
    match options.context {
        Some(0) => Err(Error::Argument("--context 0: give at least 1".to_string())),
        Some(n) if n > most => {
            Err(Error::Argument(format!("--context {n}: this model was made for {most} tokens; give at most that")))
        }
        Some(n) => Ok(n),
        None => Ok(most.min(4096)),
    }
}

/// A checkpoint with what it will take in memory. No weight is read yet.
pub struct PlannedModel {
    /// Structure, tensors and tokenizer files.
    pub checkpoint: Checkpoint,
    /// Memory.
    pub plan: MemoryPlan,
    /// Format of the KV cache.
    pub cache: CacheFormat,
    /// Threads that compute.
    pub threads: usize,
    /// Tokens that the KV cache holds.
    cached: usize,
}

impl PlannedModel {
    /// Reads headers, and plans.
    ///
    /// # Errors
    /// A checkpoint that cannot be read, or options that do not suit it. A model that does not fit is no error yet.
    pub fn open(path: &Path, options: &LoadOptions) -> Result<PlannedModel, Error> {
        PlannedModel::new(Checkpoint::open(path)?, options)
    }

    /// Plans a checkpoint.
    ///
    /// # Errors
    /// Options that do not suit it.
    pub fn new(checkpoint: Checkpoint, options: &LoadOptions) -> Result<PlannedModel, Error> {
        let cache = cache_format(&checkpoint, options)?;
        let mut plan = MemoryPlan::new(&checkpoint, context(&checkpoint, options)?, cache);
        let layout = checkpoint.structure.cache_layout(cache);
        let cached = options.cached.unwrap_or(plan.context).max(plan.context).next_multiple_of(layout.page());
        plan.cache = layout.bytes_of(cached);
        Ok(PlannedModel { checkpoint, plan, cache, threads: options.threads.unwrap_or_else(cores), cached })
    }

    /// Tokens that the KV cache will hold.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// The plan in words.
    pub fn describe(&self) -> String {
        let plan = &self.plan;
        format!(
            "weights {} (mapped) + cache {} ({} tokens) + buffers {} = {}",
            bytes(plan.weights),
            bytes(plan.cache),
            plan.context,
            bytes(plan.scratch),
            bytes(plan.total())
        )
    }

    /// What would fit where not even the weights do: the size of their files, and what that is a weight of this model.
    pub fn smaller_weights(&self) -> String {
        let room = self.plan.largest_weights().unwrap_or(0);
        let bits = room as f64 * 8.0 / self.checkpoint.structure.parameters().total.max(1) as f64;
        format!(
            "not even the weights fit: files of at most {} would, a quantisation of this model with {bits:.1} bits a weight or a smaller model",
            bytes(room)
        )
    }

    /// Available memory in words.
    pub fn available(&self) -> String {
        self.plan.available.map_or_else(|| "unknown".to_string(), bytes)
    }

    /// Refuses what does not fit.
    ///
    /// # Errors
    /// `DoesNotFit`, with what would.
    pub fn fitting(self) -> Result<PlannedModel, Error> {
        if self.plan.fits() {
            return Ok(self);
        }
        let advice = match self.plan.longest_context {
            0 => self.smaller_weights(),
            longest => format!("what fits is --context {longest}"),
        };
        Err(Error::DoesNotFit { needs: self.describe(), available: self.available(), advice })
    }

    /// The model and its KV cache. Weights are mapped, and brought into memory beside the work that begins.
    ///
    /// # Errors
    /// A tensor that is missing or of no use.
    pub fn runner(self) -> Result<Runner, Error> {
        let weights = self.checkpoint.weights()?;
        let files = weights.files.clone();
        // Without the thread the run brings in what it touches.
        let _ = std::thread::Builder::new()
            .name("bring-in".to_string())
            .spawn(move || files.iter().for_each(|file| file.bring_in()));
        let limits = Limits { context: self.plan.context, cached: self.cached };
        let transformer = Transformer::new(self.checkpoint.structure, weights);
        Ok(Runner::new(transformer, Pool::new(self.threads), self.cache, limits))
    }

    /// The tokenizer, and the template for all conversations and the one for those with tools.
    ///
    /// # Errors
    /// Files that cannot be used, or do not belong together.
    pub(crate) fn texts(&self) -> Result<Texts, Error> {
        let TokenizerParts { tokenizer, template, tool_template, bos, eos } = tokenizer(&self.checkpoint)?;
        let path = self.checkpoint.path.display().to_string();
        let vocab = self.checkpoint.structure.vocab;
        if let Some((id, piece)) = tokenizer.largest_id().filter(|(id, _)| *id as usize >= vocab) {
            return Err(Error::Tokenizer(format!(
                "{path}: the tokenizer's token {piece:?} has id {id}, but the model's vocabulary has {vocab} tokens; tokenizer and weights do not belong together"
            )));
        }
        let template = template_of(&path, template)?;
        let tool_template = tool_template.map(|source| template_of(&path, Some(source))).transpose()?;
        Ok(Texts { tokenizer, template, tool_template, bos, eos })
    }

    /// The model with its tokenizer and template.
    ///
    /// # Errors
    /// Files that cannot be used, or do not belong together.
    pub fn load(self) -> Result<LoadedModel, Error> {
        let Texts { tokenizer, template, tool_template, bos, eos } = self.texts()?;
        let (path, vocab) = (self.checkpoint.path.display().to_string(), self.checkpoint.structure.vocab);
        let generation = self.checkpoint.generation.clone();
        // Whatever the configuration, the generation configuration and the tokenizer call the end.
        let mut stops = generation.eos.clone();
        stops.extend(tokenizer.id_of(&eos).filter(|_| !eos.is_empty()));
        stops.extend(turn_ends().filter_map(|piece| tokenizer.id_of(piece)).filter(|&id| tokenizer.is_special(id)));
        stops.sort_unstable();
        stops.dedup();
        let mut purpose = self.checkpoint.purpose.clone();
        if let Purpose::Rank(ranking) = &mut purpose
            && ranking.outputs.is_empty()
        {
            let ids = ["yes", "no"].map(|word| tokenizer.id_of(word).filter(|&id| (id as usize) < vocab));
            ranking.outputs = ids.into_iter().collect::<Option<_>>().ok_or_else(|| {
                let what = "the tokens \"yes\" and \"no\", of which a model that scores documents chooses, are not in its tokenizer";
                Error::Tokenizer(format!("{path}: {what}"))
            })?;
        }
        let runner = self.runner()?;
        Ok(LoadedModel { runner, purpose, tokenizer, template, tool_template, bos, eos, generation, stops })
    }
}

/// What turns conversations into tokens and back.
pub(crate) struct Texts {
    tokenizer: Tokenizer,
    template: Box<dyn Render>,
    tool_template: Option<Box<dyn Render>>,
    bos: String,
    eos: String,
}

/// A model that runs, and what it says of itself.
pub struct LoadedModel {
    /// Model and KV cache.
    pub runner: Runner,
    /// What it is for.
    pub purpose: Purpose,
    /// Tokenizer.
    pub tokenizer: Tokenizer,
    /// Chat template.
    pub template: Box<dyn Render>,
    /// Chat template of conversations with tools, where the model has another one for them.
    pub tool_template: Option<Box<dyn Render>>,
    /// Spelling of the token that starts a text.
    pub bos: String,
    /// Spelling of the token that ends one.
    pub eos: String,
    /// Sampling that the model's files advise, and its special tokens.
    pub generation: Generation,
    /// Ids that end a text.
    pub stops: Vec<u32>,
}

/// A template that is not run.
struct Refused(String);

impl Render for Refused {
    fn source(&self) -> &str {
        &self.0
    }

    fn render(&self, _: &[Value], _: &Context, _: &dyn Fn() -> bool) -> Result<String, TextError> {
        Err(TextError::Template(NOT_ISOLATED.to_string()))
    }
}

fn template_of(path: &str, template: Option<String>) -> Result<Box<dyn Render>, Error> {
    Ok(match template {
        // Our own templates need no process.
        None => Box::new(Template::new(PLAIN_TEMPLATE)?),
        Some(source) if is_bundled_template(&source) => Box::new(Template::new(&source)?),
        Some(source) if is_isolated() => {
            let named = |e: Error| Error::Tokenizer(format!("{path}: {e}"));
            Box::new(IsolatedTemplate::new(&source).map_err(named)?)
        }
        Some(source) => Box::new(Refused(source)),
    })
}
