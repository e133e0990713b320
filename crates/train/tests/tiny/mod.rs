//! What tests of trainings share: a small dataset, and recipes over it.
#![allow(dead_code)] // each test uses its part

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use data::generators::manual::Manual;
use data::progress::Progress;
use data::run::{Options, Run};
use farthing_train::{Evaluation, Observer, Recipe, Samples, Setup, Step, Trainer};
use kernels::Pool;

/// Sums in several shards, with a tokenizer of 400 tokens.
pub fn dataset() -> &'static Path {
    static MADE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &MADE
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let out = construct(folder.path(), "generate = \"sums\"\ndocuments = 160");
            (folder, out)
        })
        .1
}

/// A dataset of one source.
pub fn construct(folder: &Path, source: &str) -> PathBuf {
    let recipe = folder.join("data.toml");
    let text = format!(
        "name = \"tiny\"\nseed = 3\nheld_out = 0.1\n[[sources]]\nname = \"lines\"\n{source}
        [tokenizer]\nvocabulary_size = 400\n[shards]\nshard_tokens = 2048\n"
    );
    std::fs::write(&recipe, text).unwrap();
    let recipe = data::recipe::Recipe::read(&recipe, &Manual::default()).unwrap();
    let out = folder.join("tiny");
    let options = Options {
        out: out.clone(),
        threads: 1,
        rank: 0,
        world: 1,
        memory_bytes: 16 << 20,
        keep_work: false,
        folder: None,
        replace: false,
    };
    Run::plan(&recipe, options, &Progress::default()).unwrap().make().unwrap().unwrap();
    assert!(out.join("shards/train-00001.bin").exists(), "more than one shard");
    out
}

/// A recipe with these lines of `[model]` and of `[train]`.
pub fn recipe(folder: &Path, model: &str, train: &str) -> Recipe {
    recipe_on(dataset(), folder, model, train)
}

/// The same on another dataset.
pub fn recipe_on(data: &Path, folder: &Path, model: &str, train: &str) -> Recipe {
    let file = folder.join("recipe.toml");
    let data = data.display();
    std::fs::write(&file, format!("name = \"m\"\ndata = \"{data}\"\nseed = 5\n[model]\n{model}\n[train]\n{train}\n"))
        .unwrap();
    Recipe::read(&file).unwrap()
}

/// A mixture that is as small as can be.
pub const MODEL: &str = "active = \"60K\"\ncontext = 48
config = { hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 2, n_routed_experts = 4, num_experts_per_tok = 2, intermediate_size = 64, moe_intermediate_size = 32, kv_lora_rank = 32 }";

/// Remembers what it is told.
#[derive(Default)]
pub struct Notes {
    pub steps: Vec<Step>,
    pub evaluations: Vec<Evaluation>,
    pub samples: Vec<Samples>,
    pub warnings: Vec<String>,
}

impl Observer for Notes {
    fn step(&mut self, step: &Step) {
        self.steps.push(step.clone());
    }

    fn evaluated(&mut self, evaluation: &Evaluation) {
        self.evaluations.push(*evaluation);
    }

    fn sampled(&mut self, samples: &Samples) {
        self.samples.push(samples.clone());
    }

    fn saving(&mut self) {}

    fn saved(&mut self, _: &Path) {}

    fn warned(&mut self, what: &str) {
        self.warnings.push(what.to_string());
    }
}

pub fn open(recipe: Recipe, folder: &Path, notes: &mut Notes) -> Trainer {
    Trainer::open(Setup::new(recipe).unwrap(), Pool::new(1), folder, notes).unwrap()
}
