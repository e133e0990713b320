//! What a model is and what it will take, and whether its weights are numbers.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kernels::Pool;
use model::Checkpoint;
use model::checkpoint::{Embedding, Purpose, TokenizerSource};
use model::structure::{Head, Layer};
use model::tensors::Stored;
use serde::Serialize;

use crate::loading::PlannedModel;
use crate::machine::{Expected, cores, expected};
use crate::tokenizer::tokenizer;

/// What a model is and what it will take. Its JSON is that of `farthing show --json`.
#[derive(Clone, Debug, Serialize)]
pub struct ModelReport {
    /// Name of the architecture.
    pub architecture: String,
    /// What the model is for.
    pub purpose: String,
    /// Weight files.
    pub files: usize,
    /// Bytes of all tensors.
    pub file_bytes: u64,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Layers for multi-token prediction, which are not used.
    pub skipped_layers: usize,
    /// Runs of equal layers in words.
    pub layer_kinds: Vec<String>,
    /// Longest text the model was made for, in tokens.
    pub context: usize,
    /// The output matrix is the embedding.
    pub tied: bool,
    /// Weights.
    pub parameters: ParameterCounts,
    /// By stored format.
    pub bytes_by_format: BTreeMap<String, FormatBytes>,
    /// Bytes of weights that a decoded token reads.
    pub bytes_per_token: u64,
    /// Bytes of KV cache a token.
    pub cache_bytes_per_token: CacheBytes,
    /// Memory.
    pub plan: PlanReport,
    /// Every tensor by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<TensorReport>,
    /// Tokens per second to expect here, where they were measured.
    #[serde(rename = "expected_tokens_per_second", skip_serializing_if = "Option::is_none")]
    pub expected: Option<Expected>,
    /// Why the model will not load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub will_not_load: Option<String>,
    /// Whether it can read and write text.
    #[serde(skip)]
    pub has_tokenizer: bool,
    /// What would fit, where not even the weights do.
    #[serde(skip)]
    pub smaller_weights: String,
}

/// Weights in all, and those that a token uses.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ParameterCounts {
    /// All.
    pub total: u64,
    /// Used by a token.
    pub active: u64,
}

/// Tensors of one stored format.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FormatBytes {
    /// How many.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Bytes of KV cache a token, beside those of other kinds of attention with the same heads.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CacheBytes {
    /// This model's.
    pub this: u64,
    /// With grouped queries, 8 heads a key.
    pub grouped_8: u64,
    /// With a key for each head.
    pub multi_head: u64,
}

/// A memory plan, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PlanReport {
    /// Tokens of a text.
    pub context: usize,
    /// Weights (mapped).
    pub weights: u64,
    /// KV cache.
    pub cache: u64,
    /// Buffers.
    pub buffers: u64,
    /// All of it.
    pub total: u64,
    /// Available memory; `None`: unknown.
    pub available: Option<u64>,
    /// Whether it fits.
    pub fits: bool,
    /// The longest context that fits; 0: not even the weights do.
    pub longest_context: usize,
}

/// A tensor.
#[derive(Clone, Debug, Serialize)]
pub struct TensorReport {
    /// Its name in the file.
    pub name: String,
    /// Stored format.
    pub format: String,
    /// Rows and columns, as stored.
    pub shape: Vec<usize>,
    /// Bytes.
    pub bytes: usize,
}

/// Runs of equal layers in words.
pub(crate) fn layer_kinds(layers: &[Layer]) -> Vec<String> {
    let mut first = 0;
    let mut lines = Vec::new();
    for run in layers.chunk_by(|a, b| a == b) {
        let last = first + run.len() - 1;
        let which = if first == last { format!("layer {first}") } else { format!("layers {first}-{last}") };
        lines.push(format!("{which}: {}; {}", run[0].attention.describe(), run[0].feed_forward.describe()));
        first = last + 1;
    }
    lines
}

/// What a model is for, in words.
fn purpose(purpose: &Purpose, width: usize) -> String {
    match purpose {
        Purpose::Generate => "text".to_string(),
        Purpose::Rank(_) => "scores of documents for a query".to_string(),
        Purpose::Embed(Embedding { pooling, normalize, prompts, .. }) => {
            let names = prompts.keys().map(|name| format!("{:?}", name.chars().take(80).collect::<String>()));
            let names = names.take(20).collect::<Vec<_>>().join(", ");
            format!(
                "embeddings of {width} numbers: {} pooling{}{}",
                pooling.name(),
                if *normalize { ", normalized" } else { "" },
                if names.is_empty() { String::new() } else { format!(", prompts {names}") }
            )
        }
    }
}

/// What a model is and what it will take. Reads headers only.
///
/// `tensors`: list them; `speed`: measure for about a second what to expect here.
pub fn inspect(planned: &PlannedModel, tensors: bool, speed: bool) -> ModelReport {
    let (checkpoint, plan) = (&planned.checkpoint, &planned.plan);
    let s = &checkpoint.structure;
    let parameters = s.parameters();
    let has_tokenizer = !matches!(checkpoint.tokenizer, TokenizerSource::None);
    let cache = |width: usize| planned.cache.bytes_of(width) as u64;
    let format = |stored: &Stored| match stored {
        Stored::As(format) => format.name().to_string(),
        Stored::Unknown(name) => name.clone(),
    };
    let listed = checkpoint.tensors.by_name.iter().filter(|_| tensors).map(|(name, t)| TensorReport {
        name: name.clone(),
        format: format(&t.stored),
        shape: t.shape.clone(),
        bytes: t.bytes,
    });
    let by_format = checkpoint.bytes_by_format().into_iter();
    ModelReport {
        architecture: s.architecture.to_string(),
        purpose: purpose(&checkpoint.purpose, s.hidden),
        files: checkpoint.tensors.files.len(),
        file_bytes: checkpoint.file_bytes(),
        vocab: s.vocab,
        hidden: s.hidden,
        layers: s.layers.len(),
        skipped_layers: checkpoint.skipped_layers,
        layer_kinds: layer_kinds(&s.layers),
        context: s.context,
        tied: s.head == Head::Tied,
        parameters: ParameterCounts { total: parameters.total, active: parameters.active },
        bytes_by_format: by_format.map(|(name, (tensors, bytes))| (name, FormatBytes { tensors, bytes })).collect(),
        bytes_per_token: checkpoint.bytes_per_token(),
        cache_bytes_per_token: CacheBytes {
            this: s.cache_layout(planned.cache).bytes_per_token() as u64,
            grouped_8: cache(s.cache_width_grouped()),
            multi_head: cache(s.cache_width_multi_head()),
        },
        plan: PlanReport {
            context: plan.context,
            weights: plan.weights,
            cache: plan.cache,
            buffers: plan.scratch,
            total: plan.total(),
            available: plan.available,
            fits: plan.fits(),
            longest_context: plan.longest_context,
        },
        tensors: listed.collect(),
        expected: if speed { expected(checkpoint, &Pool::new(planned.threads)) } else { None },
        will_not_load: checkpoint
            .complete()
            .err()
            .map(|e| e.to_string())
            .or_else(|| tokenizer(checkpoint).err().filter(|_| has_tokenizer).map(|e| e.to_string())),
        has_tokenizer,
        smaller_weights: planned.smaller_weights(),
    }
}

/// A tensor with a value that is no number.
#[derive(Clone, Debug, PartialEq)]
pub struct Damage {
    /// Its name.
    pub tensor: String,
    /// Row of the first such value.
    pub row: usize,
    /// Column of it.
    pub column: usize,
    /// NaN or an infinity.
    pub value: f32,
}

/// Reads every weight and finds tensors that hold NaN or infinity. `progress` gets the bytes of each tensor that was read, on several
/// threads; when it returns false the check stops and the result is `None`.
pub fn damaged(checkpoint: &Checkpoint, progress: &(dyn Fn(u64) -> bool + Sync)) -> Option<Vec<Damage>> {
    let tensors = &checkpoint.tensors;
    let names: Vec<&String> = tensors.by_name.keys().collect();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..cores() {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some((row, column, value)) = tensors.not_finite(name) {
                        let damage = Damage { tensor: name.to_string(), row, column, value };
                        found.lock().unwrap_or_else(|e| e.into_inner()).push(damage);
                    }
                    if !progress(tensors.by_name[*name].bytes as u64) {
                        // The others find nothing more to do.
                        next.store(names.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    if !progress(0) {
        return None;
    }
    let mut found = found.into_inner().unwrap_or_else(|e| e.into_inner());
    found.sort_by(|a: &Damage, b| a.tensor.cmp(&b.tensor));
    Some(found)
}
