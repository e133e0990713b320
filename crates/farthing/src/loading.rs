//! From a path to something that runs: checkpoint, plan, tokenizer, template, engine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use engine::{Engine, Limits, Sampling};
use kernels::{Format, Pool};
use model::cache::PAGE;
use model::checkpoint::{Generation, TokenizerSource};
use model::gguf::Value;
use model::plan::MemoryPlan;
use model::tensors::Stored;
use model::weight::Weights;
use model::{Cache, CacheFormat, Checkpoint, Transformer};
use serve::Render;
use text::chat::Template;
use text::{Tokenizer, Vocabulary};

use crate::rendering::Apart;
use crate::terminal::bytes;
use crate::{Failure, Outcome};

/// How a model is loaded.
#[derive(Args, Clone, Debug)]
pub struct Load {
    /// Tokens a text may have, prompt included [default: the model's, at most 4096]
    #[arg(long, value_name = "TOKENS")]
    pub context: Option<usize>,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Print no memory plan
    #[arg(long, short)]
    pub quiet: bool,
    /// Numbers of the cache: f32, bf16, q8 or q6 (9 and 7 bits a number) [default: f32 where the weights are, else bf16]
    #[arg(long, value_name = "FORMAT")]
    pub cache: Option<String>,
    /// Tokens that the cache holds, of all texts together; `None` = one text's.
    #[arg(skip)]
    pub cached: Option<usize>,
}

/// How tokens are chosen. What is not given comes from the model's generation_config.json, else is off.
#[derive(Args, Clone, Debug)]
pub struct Choose {
    /// 0 always takes the likeliest token; higher is more varied
    #[arg(long, short)]
    pub temperature: Option<f32>,
    /// Choose among this many of the likeliest tokens (0 = all)
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Choose among the likeliest tokens that together have this probability (1 = all)
    #[arg(long)]
    pub top_p: Option<f32>,
    /// Drop tokens below this share of the likeliest one's probability (0 = none)
    #[arg(long)]
    pub min_p: Option<f32>,
    /// Choose among tokens of typical surprise that together have this probability (1 = all)
    #[arg(long)]
    pub typical_p: Option<f32>,
    /// Make tokens that were there less likely, by this factor (1 = off)
    #[arg(long)]
    pub repetition_penalty: Option<f32>,
    /// Subtract this from logits of tokens that were there (0 = off)
    #[arg(long, allow_hyphen_values = true)]
    pub presence_penalty: Option<f32>,
    /// Subtract this for each time a token was there (0 = off)
    #[arg(long, allow_hyphen_values = true)]
    pub frequency_penalty: Option<f32>,
    /// Last tokens that count for the penalties (0 = all)
    #[arg(long, value_name = "TOKENS")]
    pub penalty_window: Option<usize>,
    /// Add VALUE to a token's logit; may be given again
    #[arg(long, value_name = "ID:VALUE", value_parser = bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, same text
    #[arg(long)]
    pub seed: Option<u64>,
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once(':').and_then(|(id, value)| Some((id.parse().ok()?, value.parse().ok()?)));
    parsed.ok_or_else(|| "give a token id and a number, such as 42:-3.5".to_string())
}

impl Choose {
    /// Values for the sampler, checked.
    pub fn sampling(&self, generation: &Generation, vocab: usize) -> Result<Sampling, Failure> {
        let off = Sampling::default();
        let sampling = Sampling {
            temperature: self.temperature.or(generation.temperature).unwrap_or(1.0),
            top_k: self.top_k.or(generation.top_k).unwrap_or(off.top_k),
            top_p: self.top_p.or(generation.top_p).unwrap_or(off.top_p),
            min_p: self.min_p.unwrap_or(off.min_p),
            typical_p: self.typical_p.unwrap_or(off.typical_p),
            repetition_penalty: self
                .repetition_penalty
                .or(generation.repetition_penalty)
                .unwrap_or(off.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(off.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(off.frequency_penalty),
            penalty_window: self.penalty_window.unwrap_or(off.penalty_window),
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
        };
        sampling.validate(vocab)?;
        Ok(sampling)
    }
}

/// A model that runs, and what it says of itself.
pub struct Loaded {
    /// The engine.
    pub engine: Engine,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its template.
    pub template: Box<dyn Render>,
    /// Spelling of the token that starts a text.
    pub bos: String,
    /// Spelling of the token that ends one.
    pub eos: String,
    /// Defaults.
    pub generation: Generation,
    /// Ids that end a text.
    pub stops: Vec<u32>,
}

/// The bundled model's files.
const BUNDLED: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../../../models/seed-5.7m/config.json")),
    ("generation_config.json", include_bytes!("../../../models/seed-5.7m/generation_config.json")),
    ("tokenizer.json", include_bytes!("../../../models/seed-5.7m/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../models/seed-5.7m/tokenizer_config.json")),
    ("model.safetensors", include_bytes!("../../../models/seed-5.7m/model.safetensors")),
];

/// The bundled model's template.
fn bundled_template() -> Option<String> {
    let (_, config) = BUNDLED.iter().find(|(name, _)| *name == "tokenizer_config.json")?;
    let config: serde_json::Value = serde_json::from_slice(config).ok()?;
    config["chat_template"].as_str().map(str::to_string)
}

/// A directory of the user's, by the XDG rules: `variable`, or `fallback` under the home.
pub fn xdg(variable: &str, fallback: &str) -> Option<PathBuf> {
    let set = std::env::var_os(variable).map(PathBuf::from).filter(|p| p.is_absolute());
    set.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(fallback))).map(|p| p.join("farthing"))
}

/// The bundled model's directory: its files, which the binary carries, are written to the cache directory once.
pub fn bundled() -> Result<PathBuf, Failure> {
    let directory = xdg("XDG_CACHE_HOME", ".cache").unwrap_or_else(std::env::temp_dir).join("seed-5.7m");
    let failed = |what: &Path, e: std::io::Error| {
        Failure(format!("{}: {e}; set XDG_CACHE_HOME to a directory that can be written", what.display()))
    };
    std::fs::create_dir_all(&directory).map_err(|e| failed(&directory, e))?;
    for (name, contents) in BUNDLED {
        let path = directory.join(name);
        let there = std::fs::read(&path).is_ok_and(|bytes| bytes == contents);
        if !there {
            let part = directory.join(format!("{name}.{}.part", std::process::id()));
            std::fs::write(&part, contents).and_then(|()| std::fs::rename(&part, &path)).map_err(|e| {
                let _ = std::fs::remove_file(&part);
                failed(&path, e)
            })?;
        }
    }
    Ok(directory)
}

/// Cores, not counting a core's second thread.
pub fn cores() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    let siblings = |cpu: usize| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
    };
    let mut cores: Vec<String> = (0..4096).map_while(siblings).collect();
    cores.sort();
    cores.dedup();
    if cores.is_empty() { logical } else { logical.min(cores.len()) }
}

/// The cache's numbers: exact where the weights are, half the bytes elsewhere.
pub fn cache_format(checkpoint: &Checkpoint, load: &Load) -> Result<CacheFormat, Failure> {
    if let Some(name) = load.cache.as_deref() {
        let named = CacheFormat::ALL.into_iter().find(|(_, n)| *n == name).map(|(format, _)| format);
        let format = named.ok_or_else(|| Failure(format!("--cache {name}: give f32, bf16, q8 or q6")))?;
        if !format.suits(&checkpoint.structure) {
            return Err(Failure(format!(
                "--cache {name}: a scale is shared by 16 numbers, and this model's entries are no multiples of that; give bf16"
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

/// The context to use.
pub fn context(checkpoint: &Checkpoint, load: &Load) -> Result<usize, Failure> {
    let most = checkpoint.structure.context;
    match load.context {
        Some(0) => Err(Failure("--context 0: give at least 1".to_string())),
        Some(n) if n > most => {
            Err(Failure(format!("--context {n}: this model was made for {most} tokens; give at most that")))
        }
        Some(n) => Ok(n),
        None => Ok(most.min(4096)),
    }
}

/// What a model will take, with the numbers of its cache.
pub fn planned(checkpoint: &Checkpoint, load: &Load) -> Result<(MemoryPlan, CacheFormat), Failure> {
    let format = cache_format(checkpoint, load)?;
    let plan = MemoryPlan::new(checkpoint, context(checkpoint, load)?, format);
    let page = Cache::bytes_per_page(&checkpoint.structure, format) as u64;
    let pages = load.cached.map_or(plan.context, |cached| cached.max(plan.context)).div_ceil(PAGE) as u64;
    Ok((MemoryPlan { cache: pages.saturating_mul(page), ..plan }, format))
}

/// A plan in words.
pub fn told(plan: &MemoryPlan) -> String {
    format!(
        "weights {} (mapped) + cache {} ({} tokens) + buffers {} = {}",
        bytes(plan.weights),
        bytes(plan.cache),
        plan.context,
        bytes(plan.scratch),
        bytes(plan.total())
    )
}

/// What would fit where not even the weights do: their largest size, and what that is a weight of this model.
fn would_fit(checkpoint: &Checkpoint, plan: &MemoryPlan) -> String {
    let room = plan.largest_weights().unwrap_or(0);
    let bits = room as f64 * 8.0 / checkpoint.structure.parameters().total.max(1) as f64;
    format!(
        "not even the weights fit: files of at most {} would, a quantisation of this model with {bits:.1} bits a weight or a smaller model",
        bytes(room)
    )
}

/// Say what a model will take, and refuse what does not fit.
pub fn plan(checkpoint: &Checkpoint, load: &Load) -> Result<(MemoryPlan, CacheFormat), Failure> {
    let (plan, format) = planned(checkpoint, load)?;
    let parts = told(&plan);
    let available = plan.available.map_or_else(|| "unknown".to_string(), bytes);
    if !plan.fits() {
        let advice = match plan.longest_context {
            0 => would_fit(checkpoint, &plan),
            longest => format!("what fits is --context {longest}"),
        };
        return Err(Failure(format!("it needs {parts}, but {available} are available; {advice}")));
    }
    if !load.quiet {
        crate::terminal::note(&format!("plan: {parts}; {available} available"));
    }
    Ok((plan, format))
}

fn vocabulary(path: &Path, keys: &BTreeMap<String, Value>) -> Result<Vocabulary, Failure> {
    /// A key's value by `read`, nothing where the key is absent, or an error that names it.
    fn of<'a, T>(
        path: &Path,
        keys: &'a BTreeMap<String, Value>,
        name: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        let name = format!("tokenizer.ggml.{name}");
        let Some(value) = keys.get(&name) else { return Ok(None) };
        let wrong = || Failure(format!("{}: {name} is of another type; it must be {expected}", path.display()));
        read(value).map(Some).ok_or_else(wrong)
    }
    // -1 says none, in 32 bits without a sign too.
    let id = |name: &str| {
        let id = of(path, keys, name, "a token's id", |v| v.number().filter(|n| n.fract() == 0.0))?;
        Ok::<_, Failure>(id.filter(|&v| (0.0..u32::MAX as f64).contains(&v)).map(|v| v as u32))
    };
    let flag = |name: &str| of(path, keys, name, "true or false", Value::boolean);
    let text = |name: &str| of(path, keys, name, "a text", |v| v.text().map(str::to_string));
    let texts = |name: &str| {
        let read = |v: &Value| if let Value::Texts(texts) = v { Some(texts.clone()) } else { None };
        of(path, keys, name, "a list of texts", read).map(Option::unwrap_or_default)
    };
    let floats = |v: &Value| if let Value::Floats(scores) = v { Some(scores.clone()) } else { None };
    let integers = |v: &Value| if let Value::Integers(types) = v { Some(types.clone()) } else { None };
    Ok(Vocabulary {
        model: text("model")?.unwrap_or_default(),
        pre: text("pre")?,
        tokens: texts("tokens")?,
        scores: of(path, keys, "scores", "a list of numbers", floats)?.unwrap_or_default(),
        types: of(path, keys, "token_type", "a list of whole numbers", integers)?.unwrap_or_default(),
        merges: texts("merges")?,
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        unknown: id("unknown_token_id")?,
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
    })
}

/// The tokenizer of a checkpoint, its chat template and the spelling of bos and eos.
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<(Tokenizer, Option<String>, String, String), Failure> {
    let (tokenizer, mut template, mut bos, mut eos) = match &checkpoint.tokenizer {
        TokenizerSource::HuggingFace { tokenizer, config, template } => {
            let read = |path: &Path| model::tensors::read_bounded(path, BESIDE_BYTES_MAX).map_err(Failure::from);
            let named = |e: text::TextError| Failure(format!("{}: {e}", tokenizer.display()));
            let parsed = Tokenizer::from_json(&read(tokenizer)?).map_err(named)?;
            let config: serde_json::Value = match config {
                Some(path) => serde_json::from_slice(&read(path)?)
                    .map_err(|e| Failure(format!("{}: not JSON: {e}", path.display())))?,
                None => serde_json::Value::Null,
            };
            let template = match template {
                Some(path) => Some(String::from_utf8_lossy(&read(path)?).into_owned()),
                None => chosen_template(&config["chat_template"]),
            };
            let spelled =
                |key: &str| config[key].as_str().or(config[key]["content"].as_str()).unwrap_or_default().to_string();
            (parsed, template, spelled("bos_token"), spelled("eos_token"))
        }
        TokenizerSource::Gguf(keys) => {
            let named = |e: text::TextError| Failure(format!("{}: {e}", checkpoint.path.display()));
            let parsed = Tokenizer::from_vocabulary(&vocabulary(&checkpoint.path, keys)?).map_err(named)?;
            let template = keys.get("tokenizer.chat_template").and_then(Value::text).map(str::to_string);
            (parsed, template, String::new(), String::new())
        }
        TokenizerSource::None => {
            return Err(Failure(format!(
                "{}: no tokenizer.json in it; put the model's own beside its weights",
                checkpoint.path.display()
            )));
        }
    };
    let piece = |id: Option<u32>| id.and_then(|id| tokenizer.piece(id)).unwrap_or_default();
    if bos.is_empty() {
        bos = piece(checkpoint.generation.bos);
    }
    if eos.is_empty() {
        eos = piece(checkpoint.generation.eos.first().copied());
    }
    if template.as_ref().is_some_and(|t| t.trim().is_empty()) {
        template = None;
    }
    Ok((tokenizer, template, bos, eos))
}

/// Longest file beside the weights.
const BESIDE_BYTES_MAX: u64 = 128 << 20;

/// A template, or the one named default of a list.
fn chosen_template(value: &serde_json::Value) -> Option<String> {
    if let Some(list) = value.as_array() {
        let named = |name: &str| list.iter().find(|t| t["name"] == name).and_then(|t| t["template"].as_str());
        return named("default").or(list.first().and_then(|t| t["template"].as_str())).map(str::to_string);
    }
    value.as_str().map(str::to_string)
}

/// Pieces that end a turn in the families that are read.
const TURN_ENDS: [&str; 6] =
    ["<|eot_id|>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "<|EOT|>"];

/// Bring the weights' files into memory beside the work that begins: the first prompt then finds most of them mapped.
pub fn bring_in(weights: &Weights) {
    let files = weights.files.clone();
    // Without the thread the run brings in what it touches.
    let _ = std::thread::Builder::new()
        .name("bring-in".to_string())
        .spawn(move || files.iter().for_each(|file| file.bring_in()));
}

/// Load a model to run it.
pub fn load(path: &Path, load: &Load) -> Result<Loaded, Failure> {
    let checkpoint = Checkpoint::open(path)?;
    let (plan, format) = plan(&checkpoint, load)?;
    let (tokenizer, template, bos, eos) = tokenizer(&checkpoint)?;
    let structure = &checkpoint.structure;
    if let Some((id, piece)) = tokenizer.largest_id().filter(|(id, _)| *id as usize >= structure.vocab) {
        return Err(Failure(format!(
            "{}: the tokenizer's token {piece:?} has id {id}, but the model's vocabulary has {} tokens; tokenizer and weights do not belong together",
            path.display(),
            structure.vocab
        )));
    }
    let template: Box<dyn Render> = match template {
        // Our own templates need no guard.
        Some(source) if bundled_template().as_deref() == Some(&*source) => Box::new(Template::new(&source)?),
        Some(source) => Box::new(Apart::new(&source)?),
        None => Box::new(Template::new(text::chat::PLAIN)?),
    };
    let weights = checkpoint.weights()?;
    bring_in(&weights);
    let generation = checkpoint.generation.clone();
    let mut stops = generation.eos.clone();
    stops.extend(TURN_ENDS.iter().filter_map(|piece| tokenizer.id_of(piece)).filter(|&id| tokenizer.is_special(id)));
    stops.sort_unstable();
    stops.dedup();
    let pool = Pool::new(load.threads.map_or_else(cores, usize::from));
    let limits = Limits {
        context: plan.context,
        cached: load.cached.unwrap_or(plan.context).max(plan.context).next_multiple_of(PAGE),
    };
    let engine = Engine::new(Transformer::new(checkpoint.structure, weights), pool, format, limits);
    Ok(Loaded { engine, tokenizer, template, bos, eos, generation, stops })
}

/// Refuse a prompt of no tokens in words.
pub fn not_empty(text: &str) -> Outcome {
    if text.is_empty() {
        Err(Failure("the prompt is empty; give text with -p or on stdin".to_string()))
    } else {
        Ok(())
    }
}
