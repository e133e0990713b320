//! Recipes of a training: a file that says which data, which structure, how large, how long.

use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::optimizer::Kind as OptimizerKind;
use crate::schedule::{Schedule, Shape};
use crate::sizes::Kind;

/// Bytes of a recipe: more than any that people write.
const RECIPE_BYTES_MAX: u64 = 1 << 20;

/// Prompts that are continued at every measurement.
const PROMPTS_MAX: usize = 16;

/// A recipe as it is written, with what it leaves out filled in where that needs no data.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Where it was read from, for messages.
    #[serde(skip)]
    pub file: PathBuf,
    /// The file's text.
    #[serde(skip)]
    pub text: String,
    /// Name of the model.
    pub name: String,
    /// What the model is, for its card.
    #[serde(default)]
    pub description: String,
    /// Directory that `farthing data` made, from the folder of the recipe.
    pub data: PathBuf,
    /// Seed of all that is drawn.
    #[serde(default)]
    pub seed: u64,
    /// The structure.
    pub model: ModelSettings,
    /// How it is trained.
    pub train: TrainSettings,
    /// What is measured on the way.
    #[serde(default)]
    pub evaluate: EvaluateSettings,
}

/// The structure: from a dial, or an existing checkpoint's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// A checkpoint to go on from, from the folder of the recipe; then it decides the structure.
    pub from: Option<PathBuf>,
    /// Kind of structure.
    #[serde(default)]
    pub structure: Kind,
    /// Parameters that a token's forward uses; all sizes follow.
    #[serde(default, deserialize_with = "count_or_none")]
    pub active: Option<u64>,
    /// Positions.
    pub context: Option<usize>,
    /// Whether a module of multi-token prediction is trained beside (DeepSeek-V3, section 2.2).
    #[serde(default)]
    pub predict: bool,
    /// Keys of the configuration that are given, by the names of Hugging Face.
    #[serde(default)]
    pub config: Map<String, Value>,
}

/// How a model is trained. What is absent follows from the size.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// Tokens that are seen in all.
    #[serde(deserialize_with = "count")]
    pub tokens: u64,
    /// Tokens a step.
    #[serde(default, deserialize_with = "count_or_none")]
    pub batch: Option<u64>,
    /// Tokens that are computed together; absent: 4096, or a step where that is less.
    #[serde(default, deserialize_with = "count_or_none")]
    pub micro_batch: Option<u64>,
    /// Peak of the learning rate.
    pub rate: Option<f64>,
    /// Factor of the rate for the embedding's rows; absent: 10 for fresh ones, which are of size one, and 1 for a checkpoint's and those that
    /// are the head too.
    pub embedding_rate: Option<f64>,
    /// Of matrices.
    #[serde(default)]
    pub optimizer: OptimizerKind,
    /// Weight decay.
    #[serde(default = "decay")]
    pub decay: f64,
    /// Decay only what a step moves towards zero anyway.
    #[serde(default = "yes")]
    pub cautious: bool,
    /// Decay of Muon's momentum.
    #[serde(default = "momentum")]
    pub momentum: f64,
    /// Decays of AdamW's means.
    #[serde(default = "betas")]
    pub betas: [f64; 2],
    /// Shape of the learning rate.
    #[serde(default)]
    pub schedule: Shape,
    /// Share of the tokens over which the rate goes up.
    #[serde(default = "warm_up")]
    pub warm_up: f64,
    /// Share of the tokens over which it goes down.
    #[serde(default = "cool_down")]
    pub cool_down: f64,
    /// Where it ends, as a share of its peak.
    #[serde(default)]
    pub end: f64,
    /// Largest norm of the gradients.
    #[serde(default = "one")]
    pub clip: f64,
    /// What products are computed in.
    #[serde(default)]
    pub precision: PrecisionSetting,
    /// Whether activations are computed again in the backward; absent: where memory asks for it.
    pub recompute: Option<bool>,
    /// Factor of the experts' balance loss; absent: 0.0001 beside biases, 0.01 without.
    pub balance_loss: Option<f64>,
    /// What an expert's bias of choice moves by; absent: 0.001.
    pub balance_bias: Option<f64>,
    /// Factor of the loss of multi-token prediction.
    #[serde(default = "prediction")]
    pub prediction: f64,
    /// Minutes between states on disk.
    #[serde(default = "save_minutes")]
    pub save_minutes: f64,
}

/// What is measured on the way.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluateSettings {
    /// Tokens between two measurements on held-out text; absent: a fortieth of all.
    #[serde(default, deserialize_with = "count_or_none")]
    pub every: Option<u64>,
    /// Held-out tokens that are measured, at most.
    #[serde(default = "evaluated", deserialize_with = "count")]
    pub tokens: u64,
    /// Texts that the model continues; absent: a few beginnings of held-out texts.
    pub prompts: Option<Vec<String>>,
}

impl Default for EvaluateSettings {
    fn default() -> EvaluateSettings {
        EvaluateSettings { every: None, tokens: evaluated(), prompts: None }
    }
}

/// What products are computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionSetting {
    /// bfloat16 where the processor multiplies it, else f32.
    #[default]
    Auto,
    /// f32.
    F32,
    /// bfloat16 with f32 sums.
    Bf16,
}

impl TrainSettings {
    /// Tokens that are computed together.
    pub fn micro_batch(&self) -> u64 {
        self.micro_batch.unwrap_or(MICRO_BATCH.min(self.batch.unwrap_or(MICRO_BATCH)))
    }

    /// How the learning rate goes.
    pub fn schedule(&self) -> Schedule {
        let TrainSettings { tokens, schedule: shape, warm_up, cool_down, end, .. } = *self;
        Schedule { tokens, shape, warm_up, cool_down, end }
    }
}

/// Tokens that are computed together where nothing else is said: more leave the caches, fewer pack weights too often.
pub(crate) const MICRO_BATCH: u64 = 4096;

/// Tokens of a step, and of what is computed together, at most: their activations are in memory.
const BATCH_MAX: u64 = 1 << 30;
const MICRO_BATCH_MAX: u64 = 1 << 20;

fn decay() -> f64 {
    0.1
}
fn yes() -> bool {
    true
}
fn momentum() -> f64 {
    0.95
}
fn betas() -> [f64; 2] {
    [0.9, 0.95]
}
fn warm_up() -> f64 {
    0.02
}
fn cool_down() -> f64 {
    0.45
}
fn one() -> f64 {
    1.0
}
fn prediction() -> f64 {
    0.1
}
fn save_minutes() -> f64 {
    10.0
}
fn evaluated() -> u64 {
    200_000
}

/// A count such as `5000000` or `5M`: K, M and G are thousands.
///
/// # Errors
/// In words: what is none.
pub fn count_of(text: &str) -> Result<u64, String> {
    let problem = || format!("{text:?} is no count; write it as 5000000 or \"5M\" (K, M, G)");
    let (digits, factor) = match text.chars().last() {
        Some('K' | 'k') => (&text[..text.len() - 1], 1e3),
        Some('M' | 'm') => (&text[..text.len() - 1], 1e6),
        Some('G' | 'g' | 'B' | 'b') => (&text[..text.len() - 1], 1e9),
        _ => (text, 1.0),
    };
    let number: f64 = digits.trim().parse().map_err(|_| problem())?;
    let count = (number * factor).round();
    if (0.0..1e18).contains(&count) { Ok(count as u64) } else { Err(problem()) }
}

/// A whole number, or a text: see `count_of`.
fn count<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u64),
        Text(String),
    }
    match Written::deserialize(from)? {
        Written::Number(n) => Ok(n),
        Written::Text(text) => count_of(&text).map_err(D::Error::custom),
    }
}

fn count_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    count(from).map(Some)
}

impl Recipe {
    /// Read a recipe. Paths in it are from its folder.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown key, a setting that cannot be.
    pub fn read(file: &Path) -> Result<Recipe, Error> {
        let bytes = model::tensors::read_bounded(file, RECIPE_BYTES_MAX)?;
        let problem = |problem: String| Error::Recipe { file: file.to_path_buf(), problem };
        let text = String::from_utf8(bytes).map_err(|_| problem("it is no UTF-8 text".to_string()))?;
        let mut recipe: Recipe = toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let message = e.message().lines().collect::<Vec<_>>().join(" ");
            problem(format!("line {line}: {message}{}", meant(&message)))
        })?;
        recipe.check().map_err(problem)?;
        recipe.file = file.to_path_buf();
        recipe.text = text;
        let folder = file.parent().unwrap_or(Path::new("."));
        recipe.data = folder.join(&recipe.data);
        recipe.model.from = recipe.model.from.map(|from| folder.join(from));
        Ok(recipe)
    }

    /// An error of this recipe's settings.
    pub(crate) fn problem(&self, problem: impl Into<String>) -> Error {
        Error::Recipe { file: self.file.clone(), problem: problem.into() }
    }

    fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(plain) {
            return Err(format!("name = {:?}: letters, digits, '-', '_' and '.' make a name", self.name));
        }
        if self.model.from.is_none() && self.model.active.is_none() {
            return Err("[model] says neither active (such as \"5M\") nor from (a checkpoint)".to_string());
        }
        if self.model.from.is_some() && (self.model.active.is_some() || !self.model.config.is_empty()) {
            return Err("[model] from = a checkpoint decides the structure: leave out active and config".to_string());
        }
        if self.model.active == Some(0) {
            return Err("[model] active = 0: at least 1, such as \"5M\"".to_string());
        }
        if let Some(context) = self.model.context.filter(|c| !(2..=1 << 20).contains(c)) {
            return Err(format!("[model] context = {context}: from 2 to 1048576"));
        }
        if self.evaluate.every == Some(0) || self.evaluate.tokens == 0 {
            return Err("[evaluate] every and tokens are at least 1".to_string());
        }
        if let Some(prompts) = self.evaluate.prompts.as_ref().filter(|prompts| prompts.len() > PROMPTS_MAX) {
            return Err(format!("[evaluate] prompts: {} of them; at most {PROMPTS_MAX}", prompts.len()));
        }
        self.train.check_counts()?;
        self.train.check_numbers()
    }
}

impl TrainSettings {
    fn check_counts(&self) -> Result<(), String> {
        let TrainSettings { tokens, batch, micro_batch, .. } = *self;
        let zero = [("tokens", Some(tokens)), ("batch", batch), ("micro_batch", micro_batch)];
        if let Some((name, _)) = zero.into_iter().find(|(_, count)| *count == Some(0)) {
            return Err(format!("[train] {name} = 0: at least 1"));
        }
        for (name, count, max) in [("batch", batch, BATCH_MAX), ("micro_batch", micro_batch, MICRO_BATCH_MAX)] {
            if let Some(count) = count.filter(|count| *count > max) {
                return Err(format!("[train] {name} = {count}: at most {max}"));
            }
        }
        if let (Some(batch), Some(micro_batch)) = (batch, micro_batch)
            && micro_batch > batch
        {
            return Err(format!(
                "[train] micro_batch = {micro_batch} is more than batch = {batch}: a step has at least one micro-batch"
            ));
        }
        match batch {
            Some(batch) if batch > tokens => {
                Err(format!("[train] batch = {batch} is more than tokens = {tokens}: there would be no whole step"))
            }
            _ => Ok(()),
        }
    }

    fn check_numbers(&self) -> Result<(), String> {
        let TrainSettings { warm_up, cool_down, .. } = *self;
        let within = |name: &str, value: f64, sound: bool, expected: &str| match sound {
            true => Ok(()),
            false => Err(format!("[train] {name} = {value}: {expected}")),
        };
        if let Some(rate) = self.rate {
            within("rate", rate, rate > 0.0 && rate <= 1.0, "above 0, at most 1")?;
        }
        for (name, value) in [("warm_up", warm_up), ("cool_down", cool_down), ("end", self.end), ("decay", self.decay)]
        {
            within(name, value, (0.0..=1.0).contains(&value), "a share, from 0 to 1")?;
        }
        let [first, second] = self.betas;
        for (name, value) in [("momentum", self.momentum), ("betas[0]", first), ("betas[1]", second)] {
            within(name, value, (0.0..1.0).contains(&value), "a decay, from 0 to below 1")?;
        }
        match self.schedule {
            Shape::Wsd if warm_up + cool_down > 1.0 => {
                return Err(format!("[train] warm_up = {warm_up} and cool_down = {cool_down} are more than all of it"));
            }
            Shape::Wsd => {}
            Shape::Cosine => within("warm_up", warm_up, warm_up < 1.0, "below 1, since a cosine comes behind it")?,
        }
        within("clip", self.clip, self.clip > 0.0, "above 0")?;
        let factors = [
            ("embedding_rate", self.embedding_rate),
            ("balance_loss", self.balance_loss),
            ("balance_bias", self.balance_bias),
            ("prediction", Some(self.prediction)),
        ];
        for (name, value) in factors {
            let value = value.unwrap_or(0.0);
            within(name, value, value >= 0.0 && value.is_finite(), "a number from 0 on")?;
        }
        within("save_minutes", self.save_minutes, self.save_minutes > 0.0, "above 0")
    }
}

/// The key that was likely meant, from an error that names an unknown one and those that are known.
fn meant(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let (true, Some(given)) = (message.starts_with("unknown "), names.next()) else { return String::new() };
    let near = names.map(|name| (strsim::jaro(given, name), name)).max_by(|a, b| a.0.total_cmp(&b.0));
    near.filter(|(likeness, _)| *likeness > 0.7).map_or(String::new(), |(_, name)| format!("; did you mean `{name}`?"))
}
