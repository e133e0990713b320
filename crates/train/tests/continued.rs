//! Training goes on from a checkpoint: a Hugging Face directory, one in several files, and the same model as a GGUF file, with the same numbers.

mod tiny;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use convert::{ChatTemplates, GgufPlan, Mix, write_gguf};
use farthing_train::export::Format;
use farthing_train::{Recipe, Setup};
use kernels::Pool;
use model::Checkpoint;
use safetensors::SafeTensors;
use serde_json::Value;
use text::{Tokenizer, Vocabulary};
use tiny::{Notes, dataset, open};

const TRAIN: &str = "tokens = 1500\nbatch = 512\nmicro_batch = 256\nprecision = \"f32\"\nrate = 0.002\nwarm_up = 0.0";

/// A directory with a reference checkpoint of the model crate and the tokenizer of the dataset.
fn directory(folder: &Path, case: &str) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data/oracle").join(case);
    let to = folder.join(case);
    fs::create_dir_all(&to).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(dataset().join("tokenizer").join(name), to.join(name)).unwrap();
    }
    to
}

/// The same in two files with an index.
fn sharded(directory: &Path) -> PathBuf {
    let to = directory.with_extension("sharded");
    fs::create_dir_all(&to).unwrap();
    let bytes = fs::read(directory.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (mut parts, mut places) = ([Vec::new(), Vec::new()], BTreeMap::new());
    for (i, (name, tensor)) in tensors.tensors().into_iter().enumerate() {
        places.insert(name.clone(), format!("model-0000{}-of-00002.safetensors", i % 2 + 1));
        parts[i % 2].push((name, tensor));
    }
    for (i, part) in parts.into_iter().enumerate() {
        let file = to.join(format!("model-0000{}-of-00002.safetensors", i + 1));
        safetensors::serialize_to_file(part, None, &file).unwrap();
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": places});
    fs::write(to.join("model.safetensors.index.json"), index.to_string()).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(directory.join(name), to.join(name)).unwrap();
    }
    to
}

/// The same as a GGUF file, in a mix of formats.
fn gguf(directory: &Path, mix: &str) -> PathBuf {
    let checkpoint = Checkpoint::open(directory).unwrap();
    let mut plan = GgufPlan::new(&checkpoint).unwrap();
    plan.choose(Mix::named(mix).unwrap(), BTreeMap::new()).unwrap();
    let json = fs::read(directory.join("tokenizer.json")).unwrap();
    let tokenizer = Tokenizer::from_json(&json).unwrap();
    let vocabulary = Vocabulary::of_tokenizer(&json, &tokenizer, checkpoint.structure.vocab, None, None).unwrap();
    let templates = ChatTemplates { default: Some("{{ messages[0].content }}".to_string()), tool_use: None };
    plan.set_tokenizer(Some(&vocabulary), None, &templates);
    let file = directory.with_extension(format!("{mix}.gguf"));
    write_gguf(&plan, &file, &Pool::new(1), &(), |_| Ok(())).unwrap();
    file
}

fn recipe(folder: &Path, from: &Path) -> Recipe {
    tiny::recipe(folder, &format!("from = {:?}\ncontext = 64", from.display().to_string()), TRAIN)
}

fn out(from: &Path) -> PathBuf {
    let name = from.file_name().unwrap().to_str().unwrap();
    from.with_file_name(format!("{name}-trained"))
}

/// Losses, the exported tensors and the exported configuration.
fn trained(folder: &Path, from: &Path) -> (Vec<f64>, Vec<u8>, Value) {
    let out = out(from);
    let mut notes = Notes::default();
    let mut trainer = open(recipe(folder, from), &out, &mut notes);
    assert_eq!(trainer.setup.embedding_rate, 1.0, "rows that have learnt something");
    trainer.run(&AtomicBool::new(false), &mut notes).unwrap();
    let model = trainer.export(Format::F32).unwrap();
    let config = serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    let losses = notes.steps.iter().map(|step| step.loss).collect();
    (losses, fs::read(model.join("model.safetensors")).unwrap(), config)
}

#[test]
fn a_directory_its_parts_and_a_gguf_file_give_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let cases =
        ["llama-gqa", "qwen2-bias", "qwen3-moe", "deepseek-v2-lite-shape", "deepseek-v2-shape", "deepseek-v3-shape"];
    for case in cases {
        let directory = directory(folder.path(), case);
        let (losses, tensors, config) = trained(folder.path(), &directory);
        assert!(losses.len() >= 3 && losses[2] < losses[0] - 0.01, "{case}: {losses:?}");
        let (of_parts, parts, _) = trained(folder.path(), &sharded(&directory));
        assert_eq!(of_parts, losses, "{case} in parts");
        assert!(parts == tensors, "{case} in parts");
        let file = gguf(&directory, "F32");
        let (of_gguf, from_gguf, described) = trained(folder.path(), &file);
        assert_eq!(of_gguf, losses, "{case} as GGUF");
        assert!(from_gguf == tensors, "{case} as GGUF");
        let structure = |config: &Value| model::families::from_config(Path::new("config.json"), config).unwrap().0;
        assert_eq!(structure(&described), structure(&config), "{case}: {described}");
        // What is exported runs, with the template that the file had.
        let out = out(&file).join("model");
        Checkpoint::open(&out).unwrap().complete().unwrap();
        assert_eq!(fs::read_to_string(out.join("chat_template.jinja")).unwrap(), "{{ messages[0].content }}");
    }
}

/// Quantised weights are dequantised: what is trained on is what the engine computes with, to the rounding of its inputs.
#[test]
fn quantised_weights_are_dequantised() {
    let folder = tempfile::tempdir().unwrap();
    let directory = directory(folder.path(), "llama-gqa");
    let (exact, ..) = trained(folder.path(), &directory);
    let (rounded, ..) = trained(folder.path(), &gguf(&directory, "Q8_0"));
    assert_ne!(exact[0], rounded[0]);
    assert!((exact[0] - rounded[0]).abs() < 2e-2, "{exact:?} {rounded:?}");
    assert!(rounded[2] < rounded[0] - 0.01, "{rounded:?}");
}

fn refused(folder: &Path, from: &Path) -> String {
    Setup::new(recipe(folder, from)).err().expect("refused").to_string()
}

#[test]
fn another_tokenizer_or_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let directory = directory(folder.path(), "llama-gqa");
    let file = directory.join("tokenizer.json");
    let own = fs::read_to_string(&file).unwrap();
    // Two pieces change places: every count is as before.
    let mut json: Value = serde_json::from_str(&own).unwrap();
    let (a, b) = (json["model"]["merges"][5].clone(), json["model"]["merges"][6].clone());
    (json["model"]["merges"][5], json["model"]["merges"][6]) = (b, a);
    fs::write(&file, json.to_string()).unwrap();
    let error = refused(folder.path(), &directory);
    assert!(error.contains("tokenizer.json") && error.contains("another tokenizer"), "{error}");
    let error = refused(folder.path(), &gguf(&directory, "F32"));
    assert!(error.contains("merge 5 is ") && error.contains("llama-gqa.F32.gguf"), "{error}");
    fs::remove_file(&file).unwrap();
    let error = refused(folder.path(), &directory);
    assert!(error.contains("llama-gqa") && error.contains("tokenizer.json"), "{error}");
}
