//! Models to serve, and the plan of each: its context, its KV cache, its memory.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use model::Checkpoint;
use model::checkpoint::{Kind, Purpose};
use model::plan::MemoryPlan;
use serve::generation::model_pool::{ModelDescription, ModelFiles};

use crate::bundled;
use crate::error::Error;
use crate::loading::{LoadOptions, PlannedModel, cache_format};
use crate::names::find;

/// Longest text where the options do not say.
const CONTEXT: usize = 16_384;
/// Contexts that the KV cache holds at most where the options do not say.
const CONTEXTS: usize = 16;
/// A model to serve.
#[derive(Clone, Debug, Default)]
pub struct ModelSource {
    /// Its files; `None`: the bundled model.
    pub path: Option<PathBuf>,
    /// Its id in the API.
    pub name: String,
    /// Further ids of it.
    pub aliases: Vec<String>,
}

impl ModelSource {
    /// MODEL as `names::find` takes it; its id is the name, or the last part of the path.
    ///
    /// # Errors
    /// As `names::find`.
    pub fn find(model: &str, options: &LoadOptions) -> Result<ModelSource, Error> {
        Ok(ModelSource { path: Some(find(model, options)?), name: api_name(model), aliases: Vec::new() })
    }

    /// The bundled model.
    pub fn bundled() -> ModelSource {
        ModelSource { path: None, name: bundled::NAME.to_string(), aliases: Vec::new() }
    }
}

/// The id of MODEL in the API: its name at the hub, or the last part of its path.
pub fn api_name(model: &str) -> String {
    let path = Path::new(model);
    if !path.exists() {
        return model.to_string();
    }
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let name = whole.file_name().map_or_else(|| model.to_string(), |name| name.to_string_lossy().into_owned());
    name.strip_suffix(".gguf").unwrap_or(&name).to_string()
}

/// How models are planned.
pub(crate) struct Planner {
    pub(crate) load: LoadOptions,
    pub(crate) memory: Option<u64>,
    /// Models that share the memory.
    pub(crate) models: u64,
}

impl Planner {
    /// How a model is loaded to serve many: the longest text, and the tokens that the KV cache holds, from what memory allows.
    fn load_options(&self, checkpoint: &Checkpoint) -> Result<LoadOptions, Error> {
        let most = checkpoint.structure.context;
        let format = cache_format(checkpoint, &self.load)?;
        let layout = checkpoint.structure.cache_layout(format);
        let plan = MemoryPlan::new(checkpoint, most.min(CONTEXT), format);
        let free = self.memory.or(plan.available).map(|n| n.saturating_sub(plan.weights.saturating_add(plan.scratch)));
        let share = free.map(|n| layout.tokens_within(n / 4 / self.models));
        // Where little is free, a text of 4096 tokens is tried all the same: the plan says whether it fits.
        let fitting = share.unwrap_or(CONTEXT).max(4096);
        let context = self.load.context.unwrap_or(most.min(CONTEXT).min(fitting));
        let cached = self.load.cached.unwrap_or_else(|| share.unwrap_or(0).min(context.saturating_mul(CONTEXTS)));
        Ok(LoadOptions { context: Some(context), cached: Some(cached.max(context)), ..self.load.clone() })
    }

    /// Plans a model, and tells the memory that is available.
    pub(crate) fn candidate(&self, source: &ModelSource, created: u64) -> Result<(Candidate, Option<u64>), Error> {
        let path = source.path.clone().map_or_else(bundled::bundled, Ok)?;
        let checkpoint = Checkpoint::open(&path)?;
        let load = self.load_options(&checkpoint)?;
        let planned = PlannedModel::new(checkpoint, &load)?;
        let (bytes, context) = (planned.plan.total(), planned.plan.context);
        let (name, aliases) = (source.name.clone(), source.aliases.clone());
        let capability = match planned.checkpoint.purpose {
            Purpose::Generate => "completion",
            Purpose::Embed(_) => "embedding",
            Purpose::Rank(_) => "rerank",
        };
        let files = files(&planned.checkpoint);
        let description = ModelDescription { name, aliases, files, bytes, context, capability, created };
        let (threads, cached, plan) = (planned.threads, planned.cached(), planned.describe());
        Ok((Candidate { path, load, description, threads, cached, plan }, planned.plan.available))
    }
}

fn files(checkpoint: &Checkpoint) -> ModelFiles {
    let weights = checkpoint.bytes_by_format().into_iter().max_by_key(|(_, (_, bytes))| *bytes);
    ModelFiles {
        bytes: checkpoint.file_bytes(),
        format: match checkpoint.kind {
            Kind::Gguf => "gguf",
            Kind::Safetensors => "safetensors",
        },
        family: checkpoint.structure.architecture.clone(),
        parameters: checkpoint.structure.parameters().total,
        weights: weights.map(|(name, _)| name).unwrap_or_default(),
    }
}

pub(crate) fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A model that will be served.
pub(crate) struct Candidate {
    pub(crate) path: PathBuf,
    pub(crate) load: LoadOptions,
    pub(crate) description: ModelDescription,
    pub(crate) threads: usize,
    pub(crate) cached: usize,
    /// Its memory plan in words.
    pub(crate) plan: String,
}

impl Candidate {
    pub(crate) fn has(&self, id: &str) -> bool {
        self.description.name == id || self.description.aliases.iter().any(|alias| alias == id)
    }
}
