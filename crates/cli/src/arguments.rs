//! Arguments that several commands share: how a model is loaded, how tokens are chosen.

use clap::Args;
use engine::{Sampling, SamplingError};
use farthing::{LoadOptions, LoadedModel, PlannedModel};
use model::checkpoint::Generation;
use model::{CacheFormat, Checkpoint};

use crate::terminal::{note, number, threads, whole};
use crate::{Failure, Outcome};
use crate::{completions, fetch};

/// The model a command works on: as its first argument, or by `-m` as other programs have it.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct ModelArgument {
    /// Path, org/name or short name (`farthing models`)
    #[arg(value_name = "MODEL", id = "model", add = completions::models())]
    first: Option<String>,
    /// MODEL, as an option
    #[arg(long = "model", short = 'm', value_name = "MODEL", id = "model_option")]
    option: Option<String>,
}

impl std::ops::Deref for ModelArgument {
    type Target = str;

    fn deref(&self) -> &str {
        self.first.as_deref().or(self.option.as_deref()).unwrap_or_default()
    }
}

/// Loading of a model.
#[derive(Args, Clone, Debug)]
pub struct LoadArguments {
    /// Context length in tokens, prompt included [default: the model's, at most 4096; 16384 for serve]
    #[arg(long, short = 'c', visible_alias = "ctx-size", alias = "max-model-len")]
    #[arg(value_name = "TOKENS", value_parser = whole::<usize>)]
    pub context: Option<usize>,
    /// Number of threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<u16>,
    /// Print no memory plan
    #[arg(long, short)]
    pub quiet: bool,
    /// Format of the KV cache: f32, bf16, q8 or q6 (q8 and q6 take 9 and 7 bits per value) [default: f32 if most weights are f32, else bf16]
    #[arg(long, value_name = "FORMAT")]
    pub cache: Option<String>,
}

impl LoadArguments {
    /// The library's options.
    pub fn options(&self) -> Result<LoadOptions, farthing::Error> {
        let cache = self.cache.as_deref().map(|name| {
            let named = CacheFormat::ALL.into_iter().find(|(_, known)| *known == name).map(|(format, _)| format);
            named.ok_or_else(|| farthing::Error::Argument(format!("--cache {name}: give f32, bf16, q8 or q6")))
        });
        let (context, threads) = (self.context, self.threads.map(usize::from));
        Ok(LoadOptions { context, threads, cache: cache.transpose()?, cached: None })
    }

    /// Find and plan a model, say what it will take, and refuse what does not fit. `change` sets options by the checkpoint.
    pub fn plan(
        &self,
        model: &str,
        change: impl FnOnce(&Checkpoint, &mut LoadOptions) -> Outcome,
    ) -> Result<PlannedModel, Failure> {
        let checkpoint = Checkpoint::open(&fetch::find(model, &self.options()?, self.quiet)?)?;
        let mut options = self.options()?;
        change(&checkpoint, &mut options)?;
        self.fitting(PlannedModel::new(checkpoint, &options)?)
    }

    /// Say what a model will take, and refuse what does not fit.
    pub fn fitting(&self, planned: PlannedModel) -> Result<PlannedModel, Failure> {
        let planned = planned.fitting()?;
        if !self.quiet {
            note(&format!("plan: {}; {} available", planned.describe(), planned.available()));
        }
        Ok(planned)
    }

    /// Load a model to generate with.
    pub fn load(&self, model: &str) -> Result<LoadedModel, Failure> {
        Ok(self.plan(model, |_, _| Ok(()))?.load()?)
    }
}

/// Sampling. Defaults are what the model's generation_config.json advises, and the values in brackets where it advises nothing.
#[derive(Args, Clone, Debug)]
pub struct SamplingArguments {
    /// 0 always takes the most likely token; higher is more varied [default: the model's advice, else 0.8]
    #[arg(long, short, alias = "temp", value_parser = number)]
    pub temperature: Option<f32>,
    /// Sample from this many of the most likely tokens (0 = all) [default: the model's advice, else 40]
    #[arg(long, value_parser = whole::<usize>)]
    pub top_k: Option<usize>,
    /// Sample from the most likely tokens that together have this probability (1 = all) [default: the model's advice, else 0.95]
    #[arg(long, value_parser = number)]
    pub top_p: Option<f32>,
    /// Drop tokens less likely than this share of the most likely one's probability (0 = none) [default: 0.05 where the model advises nothing]
    #[arg(long, value_parser = number)]
    pub min_p: Option<f32>,
    /// Locally typical sampling: tokens of typical surprise that together have this probability (1 = all)
    #[arg(long, value_parser = number)]
    pub typical_p: Option<f32>,
    /// Penalize tokens that already occurred, by this factor (1 = off)
    #[arg(long, value_parser = number)]
    pub repetition_penalty: Option<f32>,
    /// Subtract this from the logits of tokens that already occurred (0 = off)
    #[arg(long, allow_hyphen_values = true, value_parser = number)]
    pub presence_penalty: Option<f32>,
    /// Subtract this for each time a token occurred (0 = off)
    #[arg(long, allow_hyphen_values = true, value_parser = number)]
    pub frequency_penalty: Option<f32>,
    /// Tokens that the penalties look back over (0 = all)
    #[arg(long, value_name = "TOKENS", value_parser = whole::<usize>)]
    pub penalty_window: Option<usize>,
    /// Add VALUE to a token's logit; repeatable
    #[arg(long, value_name = "ID:VALUE", value_parser = bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Random seed: the same seed gives the same text [default: a new one each time]
    #[arg(long, value_parser = whole::<u64>)]
    pub seed: Option<u64>,
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once(':').and_then(|(id, value)| Some((id.parse().ok()?, value.parse().ok()?)));
    let within = parsed.filter(|(_, value)| (-1000.0..=1000.0).contains(value));
    within.ok_or_else(|| "give a token id and a number from -1000 to 1000, such as 42:-3.5".to_string())
}

impl SamplingArguments {
    /// Values for the sampler, checked.
    pub fn sampling(&self, generation: &Generation, vocab: usize) -> Result<Sampling, Failure> {
        self.check()?;
        let sampling = self.over(farthing::loading::advised_sampling(generation));
        let unknown = |(id, _): &(u32, f32)| *id as usize >= vocab;
        sampling.validate(vocab).map_err(|e| {
            // The rest was checked, so it is the model's own file.
            if self.logit_bias.iter().any(unknown) { Failure::usage(e) } else { e.into() }
        })?;
        Ok(sampling)
    }

    /// What was given, over what the model advises.
    pub fn over(&self, advised: Sampling) -> Sampling {
        Sampling {
            temperature: self.temperature.unwrap_or(advised.temperature),
            top_k: self.top_k.unwrap_or(advised.top_k),
            top_p: self.top_p.unwrap_or(advised.top_p),
            min_p: self.min_p.unwrap_or(advised.min_p),
            typical_p: self.typical_p.unwrap_or(advised.typical_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(advised.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(advised.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(advised.frequency_penalty),
            penalty_window: self.penalty_window.unwrap_or(advised.penalty_window),
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
        }
    }

    /// Refuse values of the command line that suit no model.
    pub fn check(&self) -> Outcome {
        let given = SamplingArguments { logit_bias: Vec::new(), ..self.clone() };
        given.over(Sampling::default()).validate(usize::MAX).map_err(|SamplingError { field, value, allowed }| {
            Failure::usage(format!("--{} {value}: give a number {allowed}", field.replace('_', "-")))
        })
    }
}
