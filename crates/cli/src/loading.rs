//! From a path to something that runs: checkpoint, plan, tokenizer, template, engine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use engine::{Limits, Runner, Sampling};
use kernels::{Format, Pool};
use model::cache::PAGE;
use model::checkpoint::{Generation, TokenizerSource};
use model::gguf::Value;
use model::plan::MemoryPlan;
use model::tensors::Stored;
use model::weights::Weights;
use model::{CacheFormat, Checkpoint, Transformer};
use serve::Render;
use text::chat::Template;
use text::{Tokenizer, Vocabulary};

use crate::rendering::Apart;
use crate::terminal::{bytes, number, whole};
use crate::{Failure, Outcome};

/// How a model is loaded.
#[derive(Args, Clone, Debug)]
pub struct Load {
    /// Tokens a text may have, prompt included [default: the model's, at most 4096, or 16384 to serve]
    #[arg(long, value_name = "TOKENS", value_parser = whole::<usize>)]
    pub context: Option<usize>,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = crate::terminal::threads)]
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
    #[arg(long, short, value_parser = number)]
    pub temperature: Option<f32>,
    /// Choose among this many of the likeliest tokens (0 = all)
    #[arg(long, value_parser = whole::<usize>)]
    pub top_k: Option<usize>,
    /// Choose among the likeliest tokens that together have this probability (1 = all)
    #[arg(long, value_parser = number)]
    pub top_p: Option<f32>,
    /// Drop tokens below this share of the likeliest one's probability (0 = none)
    #[arg(long, value_parser = number)]
    pub min_p: Option<f32>,
    /// Choose among tokens of typical surprise that together have this probability (1 = all)
    #[arg(long, value_parser = number)]
    pub typical_p: Option<f32>,
    /// Make tokens that were there less likely, by this factor (1 = off)
    #[arg(long, value_parser = number)]
    pub repetition_penalty: Option<f32>,
    /// Subtract this from logits of tokens that were there (0 = off)
    #[arg(long, allow_hyphen_values = true, value_parser = number)]
    pub presence_penalty: Option<f32>,
    /// Subtract this for each time a token was there (0 = off)
    #[arg(long, allow_hyphen_values = true, value_parser = number)]
    pub frequency_penalty: Option<f32>,
    /// Last tokens that count for the penalties (0 = all)
    #[arg(long, value_name = "TOKENS", value_parser = whole::<usize>)]
    pub penalty_window: Option<usize>,
    /// Add VALUE to a token's logit; may be given again
    #[arg(long, value_name = "ID:VALUE", value_parser = bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, same text
    #[arg(long, value_parser = whole::<u64>)]
    pub seed: Option<u64>,
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once(':').and_then(|(id, value)| Some((id.parse().ok()?, value.parse().ok()?)));
    parsed.ok_or_else(|| "give a token id and a number, such as 42:-3.5".to_string())
}

impl Choose {
    /// Values for the sampler, checked.
    pub fn sampling(&self, generation: &Generation, vocab: usize) -> Result<Sampling, Failure> {
        self.check()?;
        let sampling = self.values(generation);
        let unknown = |(id, _): &(u32, f32)| *id as usize >= vocab;
        sampling.validate(vocab).map_err(|e| {
            // The rest was checked, so it is the model's own file.
            if self.logit_bias.iter().any(unknown) { Failure::usage(e) } else { Failure(e.to_string()) }
        })?;
        Ok(sampling)
    }

    fn values(&self, generation: &Generation) -> Sampling {
        let off = Sampling::default();
        Sampling {
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
        }
    }

    /// Refuse values of the command line that suit no model.
    pub fn check(&self) -> Outcome {
        let given = Choose { logit_bias: Vec::new(), ..self.clone() };
        let nothing = Generation::default();
        given.values(&nothing).validate(usize::MAX).map_err(Failure::usage)
    }
}

/// A model that runs, and what it says of itself.
pub struct Loaded {
    /// Model and cache.
    pub runner: Runner,
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
        let format = named.ok_or_else(|| Failure::usage(format!("--cache {name}: give f32, bf16, q8 or q6")))?;
        if !checkpoint.structure.cache_layout(format).is_sound() {
            return Err(Failure::usage(format!(
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
        Some(0) => Err(Failure::usage("--context 0: give at least 1")),
        Some(n) if n > most => {
            Err(Failure::usage(format!("--context {n}: this model was made for {most} tokens; give at most that")))
        }
        Some(n) => Ok(n),
        None => Ok(most.min(4096)),
    }
}

/// What a model will take, with the numbers of its cache.
pub fn planned(checkpoint: &Checkpoint, load: &Load) -> Result<(MemoryPlan, CacheFormat), Failure> {
    let format = cache_format(checkpoint, load)?;
    let plan = MemoryPlan::new(checkpoint, context(checkpoint, load)?, format);
    let cached = load.cached.map_or(plan.context, |cached| cached.max(plan.context));
    let cache = checkpoint.structure.cache_layout(format).bytes_of(cached);
    Ok((MemoryPlan { cache, ..plan }, format))
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
pub fn would_fit(checkpoint: &Checkpoint, plan: &MemoryPlan) -> String {
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
        let wrong = || Failure(format!("{}: {name} is {}; it must be {expected}", path.display(), value.shown()));
        read(value).map(Some).ok_or_else(wrong)
    }
    let id = |name: &str| of(path, keys, name, "a token's id, or -1 for none", Value::token_id).map(Option::flatten);
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
            let (own, bos, eos) = match config {
                Some(path) => beside(path, &read(path)?)?,
                None => Default::default(),
            };
            let template = match template {
                Some(path) => {
                    let not_text = |_| Failure(format!("{}: not UTF-8 text", path.display()));
                    Some(String::from_utf8(read(path)?).map_err(not_text)?)
                }
                None => own,
            };
            (parsed, template, bos, eos)
        }
        TokenizerSource::Gguf(keys) => {
            let named = |e: text::TextError| Failure(format!("{}: {e}", checkpoint.path.display()));
            let parsed = Tokenizer::from_vocabulary(&vocabulary(&checkpoint.path, keys)?).map_err(named)?;
            let template = match keys.get("tokenizer.chat_template") {
                None => None,
                Some(Value::Text(template)) => Some(template.clone()),
                Some(other) => {
                    let (path, given) = (checkpoint.path.display(), other.shown());
                    return Err(Failure(format!("{path}: tokenizer.chat_template is {given}; it must be a text")));
                }
            };
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

/// What `tokenizer_config.json` says: the template, and the spelling of bos and eos. What is absent or null is empty.
fn beside(path: &Path, bytes: &[u8]) -> Result<(Option<String>, String, String), Failure> {
    let wrong = |what: String| Failure(format!("{}: {what}", path.display()));
    let config: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| wrong(format!("not JSON: {e}")))?;
    if !config.is_object() {
        return Err(wrong("it must be a JSON object".to_string()));
    }
    let spelled = |key: &str| match &config[key] {
        serde_json::Value::Null => Ok(String::new()),
        given => given.as_str().or(given["content"].as_str()).map(str::to_string).ok_or_else(|| {
            let given: String = given.to_string().chars().take(80).collect();
            wrong(format!("{key} is {given}; it must be a text, or an object with the text as content"))
        }),
    };
    Ok((chosen_template(&config["chat_template"]).map_err(wrong)?, spelled("bos_token")?, spelled("eos_token")?))
}

/// A template, or the one named default of a list, or its first.
fn chosen_template(value: &serde_json::Value) -> Result<Option<String>, String> {
    let chosen = match value {
        serde_json::Value::Null => return Ok(None),
        serde_json::Value::Array(list) if list.is_empty() => return Ok(None),
        serde_json::Value::Array(list) => &list.iter().find(|t| t["name"] == "default").unwrap_or(&list[0])["template"],
        other => other,
    };
    let wrong = || {
        let given: String = value.to_string().chars().take(80).collect();
        format!("chat_template is {given}; it must be a text, or a list of objects with name and template")
    };
    chosen.as_str().map(|template| Some(template.to_string())).ok_or_else(wrong)
}

/// Pieces that end a turn in the families that are read.
const TURN_ENDS: [&str; 7] = [
    "<end_of_turn>",
    "<|eot_id|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",
    "<|EOT|>",
];

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
        Some(source) => {
            let named = |Failure(said)| Failure(format!("{}: {said}", path.display()));
            Box::new(Apart::new(&source).map_err(named)?)
        }
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
    let runner = Runner::new(Transformer::new(checkpoint.structure, weights), pool, format, limits);
    Ok(Loaded { runner, tokenizer, template, bos, eos, generation, stops })
}

/// Refuse a prompt of no tokens in words.
pub fn not_empty(text: &str) -> Outcome {
    if text.is_empty() { Err(Failure::usage("the prompt is empty; give text with -p or on stdin")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(name: &str, value: Value) -> Result<Vocabulary, String> {
        let keys = BTreeMap::from([(format!("tokenizer.ggml.{name}"), value)]);
        vocabulary(Path::new("m.gguf"), &keys).map_err(|Failure(said)| said)
    }

    #[test]
    fn vocabularies_of_the_wrong_type_are_named() {
        let (text, texts) = (Value::Text("x".to_string()), Value::Texts(vec!["x".to_string(); 3]));
        for (name, value, given) in [
            ("model", Value::U64(1), "1; it must be a text"),
            ("pre", Value::Bool(true), "true; it must be a text"),
            ("tokens", text.clone(), "\"x\"; it must be a list of texts"),
            ("tokens", Value::Integers(vec![1, 2]), "a list of 2 whole numbers; it must be a list of texts"),
            ("merges", Value::Floats(vec![1.0]), "a list of 1 numbers; it must be a list of texts"),
            ("scores", texts.clone(), "a list of 3 texts; it must be a list of numbers"),
            ("scores", Value::Integers(vec![1]), "a list of 1 whole numbers; it must be a list of numbers"),
            ("token_type", Value::Floats(vec![]), "a list of 0 numbers; it must be a list of whole numbers"),
            ("token_type", Value::U64(1), "1; it must be a list of whole numbers"),
            ("bos_token_id", text.clone(), "\"x\"; it must be a token's id, or -1"),
            ("eos_token_id", Value::I64(-2), "-2; it must be a token's id"),
            ("unknown_token_id", Value::F64(1.5), "1.5; it must be a token's id"),
            ("unknown_token_id", Value::U64(1 << 40), "1099511627776; it must be a token's id"),
            ("unknown_token_id", Value::F64(f64::NAN), "NaN; it must be a token's id"),
            ("add_bos_token", Value::U64(1), "1; it must be true or false"),
            ("add_eos_token", text, "\"x\"; it must be true or false"),
            ("add_space_prefix", texts, "a list of 3 texts; it must be true or false"),
        ] {
            let said = key(name, value).err().unwrap_or_else(|| panic!("{name} is taken"));
            assert!(said.starts_with(&format!("m.gguf: tokenizer.ggml.{name} is {given}")), "{said}");
        }
        for none in [Value::I64(-1), Value::U64(u32::MAX.into()), Value::F64(-1.0)] {
            assert_eq!(key("unknown_token_id", none).unwrap().unknown, None);
        }
        assert_eq!(key("unknown_token_id", Value::U64(7)).unwrap().unknown, Some(7));
    }

    #[test]
    fn what_stands_beside_a_tokenizer_has_its_type() {
        let of = |json: serde_json::Value| beside(Path::new("c.json"), json.to_string().as_bytes()).map_err(|f| f.0);
        for (given, said) in [
            (json!([]), "it must be a JSON object"),
            (json!({"bos_token": 7}), "bos_token is 7; it must be a text"),
            (json!({"eos_token": false}), "eos_token is false; it must be a text"),
            (json!({"eos_token": {"content": 7}}), "eos_token is {\"content\":7}; it must be a text"),
            (json!({"chat_template": 7}), "chat_template is 7; it must be a text, or a list"),
            (json!({"chat_template": {"default": "x"}}), "chat_template is {\"default\":\"x\"}"),
            (json!({"chat_template": ["x"]}), "chat_template is [\"x\"]"),
            (json!({"chat_template": [{"name": "default"}]}), "chat_template is [{\"name\":\"default\"}]"),
            (
                json!({"chat_template": [{"name": "a", "template": "x"}, {"name": "default", "template": 7}]}),
                "7}]; it must",
            ),
        ] {
            let error = of(given).unwrap_err();
            assert!(error.starts_with("c.json: ") && error.contains(said), "{error}");
        }
        let (template, bos, eos) = of(json!({
            "chat_template": [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}],
            "bos_token": {"content": "<s>", "special": true}, "eos_token": "</s>"
        }))
        .unwrap();
        assert_eq!((template.as_deref(), &*bos, &*eos), (Some("b"), "<s>", "</s>"));
        let first = of(json!({"chat_template": [{"name": "rag", "template": "a"}], "bos_token": null})).unwrap();
        assert_eq!(first, (Some("a".to_string()), String::new(), String::new()));
        assert_eq!(of(json!({"chat_template": []})).unwrap().0, None);
    }
}
