//! What the trainer writes, in software of others: transformers' logits for the directory, llama.cpp's for the GGUF file.
//!
//! `data/make_written.py` made the reference values from the models that `WRITTEN=DIR cargo test -p farthing-train --test written` keeps in DIR.

extern crate model as farthing_model;

#[path = "../../model/tests/running/mod.rs"]
mod running;
mod tiny;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use convert::{ChatTemplates, GgufPlan, Mix, write_gguf};
use farthing_train::export::Format;
use kernels::Pool;
use model::Checkpoint;
use safetensors::SafeTensors;
use text::{Tokenizer, Vocabulary};
use tiny::{MODEL, Notes, construct, open, recipe_on};

/// Each structure by its `model_type`.
fn structures() -> [(&'static str, String); 4] {
    let dense = "active = \"60K\"\ncontext = 48\nconfig = { hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 4, num_key_value_heads = 2";
    let experts = ", num_experts = 4, num_experts_per_tok = 2, moe_intermediate_size = 32";
    [
        ("deepseek_v3", MODEL.to_string()),
        ("deepseek_v2", format!("structure = \"mla-moe-v2\"\n{MODEL}")),
        ("llama", format!("structure = \"gqa\"\n{dense} }}")),
        ("qwen3_moe", format!("structure = \"gqa-moe\"\n{dense}{experts} }}")),
    ]
}

/// A model of a few steps, as a directory and as a GGUF file beside it. Its text is of this file alone, and its products are in f32: the same
/// everywhere but for rounding.
fn written(folder: &Path, lines: &str) -> (PathBuf, PathBuf) {
    let syllable = |i: u32| ["ba", "den", "fi", "go", "hul", "ka", "lem", "mi", "nor", "pu", "ra"][i as usize % 11];
    let text = |i: u32| {
        let (a, b) = (i * 37 % 101, i * i % 89);
        let name = [i * 3, i * 7 + i / 5, i * i + 2].map(syllable).concat();
        let things = [i * 5 + 1, i / 11 + i * 2].map(syllable).concat();
        format!("{{\"text\": \"{name} took {a} {things} and {b} shells: {} things lie there.\"}}\n", a + b)
    };
    fs::write(folder.join("text.jsonl"), (0..300).map(text).collect::<String>()).unwrap();
    let data = construct(folder, "files = [\"text.jsonl\"]");
    let train = "tokens = 4000\nbatch = 1024\nmicro_batch = 512\nprecision = \"f32\"\nrate = 0.02\nwarm_up = 0.0";
    let mut notes = Notes::default();
    let mut trainer = open(recipe_on(&data, folder, lines, train), folder, &mut notes);
    trainer.run(&AtomicBool::new(false), &mut notes).unwrap();
    assert!(notes.steps.last().unwrap().loss < notes.steps[0].loss, "{lines}: it learns");
    let directory = trainer.export(Format::F32).unwrap();

    let checkpoint = Checkpoint::open(&directory).unwrap();
    let mut plan = GgufPlan::new(&checkpoint).unwrap();
    plan.choose(Mix::named("F32").unwrap(), BTreeMap::new()).unwrap();
    let json = fs::read(directory.join("tokenizer.json")).unwrap();
    let tokenizer = Tokenizer::from_json(&json).unwrap();
    let vocabulary = Vocabulary::of_tokenizer(&json, &tokenizer, checkpoint.structure.vocab, None, None).unwrap();
    plan.set_tokenizer(Some(&vocabulary), None, &ChatTemplates::default());
    let file = folder.join("model.gguf");
    write_gguf(&plan, &file, &Pool::new(1), &(), |_| Ok(())).unwrap();
    (directory, file)
}

#[test]
fn others_read_what_is_written_and_get_the_same_logits() {
    let references = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/written.safetensors");
    let references = fs::read(references).unwrap();
    let references = SafeTensors::deserialize(&references).unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let folder = std::env::var_os("WRITTEN").map_or(temporary.path().to_path_buf(), PathBuf::from);
    let models = structures().map(|(name, lines)| {
        fs::create_dir_all(folder.join(name)).unwrap();
        (name, written(&folder.join(name), &lines))
    });
    for (name, (directory, file)) in models {
        let tensor = |what: &str| references.tensor(&format!("{name}.{what}")).unwrap();
        let ids = running::ids(&tensor("ids"));
        for (software, path) in [("transformers", &directory), ("llama.cpp", &file)] {
            let expected = running::floats(&tensor(software));
            let found = running::Runner::open(path).whole(&ids).0;
            // Every tenth logit is kept.
            let found: Vec<f32> = found.into_iter().step_by(10).collect();
            assert_eq!(found.len(), expected.len());
            let largest = expected.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
            let apart = running::largest_difference(&found, &expected);
            assert!(largest > 0.5 && apart < 1e-4, "{name} in {software}: {apart} of {largest}");
        }
    }
}
