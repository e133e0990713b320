//! `farthing publish` with the bundled model: what is written loads, and its checksums are right.

use sha2::{Digest, Sha256};

use super::*;

const FACTS: &str =
    r#"{"name": "Seed", "license": "apache-2.0", "languages": ["en"], "limits": ["It tells stories only."]}"#;

#[test]
fn a_published_directory_is_whole() {
    let scratch = Scratch::new("publish");
    let facts = scratch.0.join("facts.json");
    std::fs::write(&facts, FACTS).unwrap();
    let (model, out) = (bundled(), scratch.0.join("seed"));
    let [model, facts, out] = [&model, &facts, &out].map(|path| path.to_str().unwrap());
    let args = ["publish", model, "--card", facts, "--out", out, "--weights", "F32", "--gguf", "Q8_0"];
    succeed(&args, "");
    let generate = |model: &str| {
        succeed(&["generate", model, "--temperature", "0", "-n", "48", "-q", "-p", "Once upon a time"], "")
    };
    assert_eq!(generate(out), generate(model));
    assert!(generate(&format!("{out}/seed-Q8_0.gguf")).starts_with(", there was a little girl"));
    let read = |name: &str| std::fs::read(Path::new(out).join(name)).unwrap();
    let sums = String::from_utf8(read("SHA256SUMS")).unwrap();
    let mut named = Vec::new();
    for line in sums.lines() {
        let (digest, name) = line.split_once("  ").unwrap();
        let own: String = Sha256::digest(read(name)).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, own, "{name}");
        named.push(name);
    }
    let expected = [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "seed-Q8_0.gguf",
        "tokenizer.json",
    ];
    for name in expected {
        assert!(named.contains(&name), "{name} of {named:?}");
    }
    let shown = succeed(&["show", &format!("{out}/seed-Q8_0.gguf"), "--no-speed"], "");
    assert!(!shown.contains("FP8"), "{shown}");
    assert!(read("seed-Q8_0.gguf").windows(4).any(|bytes| bytes == b"Seed"), "the card's name is the file's");
    let card = String::from_utf8(read("README.md")).unwrap();
    assert!(card.starts_with("---\nlicense: \"apache-2.0\"\n") && card.contains("It tells stories only."), "{card}");
    let config: serde_json::Value = serde_json::from_slice(&read("config.json")).unwrap();
    assert_eq!(config["torch_dtype"], "float32");

    // A place that is taken stays as it is, and facts that are none are named.
    let refused = |args: &[&str]| {
        let output = run_with(args, "");
        assert!(!output.status.success());
        text(&output.stderr)
    };
    assert!(refused(&args).contains("it is there already"));
    std::fs::write(facts, r#"{"licence": "x"}"#).unwrap();
    let other = format!("{out}-2");
    let said = refused(&["publish", model, "--card", facts, "--out", &other]);
    assert!(said.contains("unknown field `licence`"), "{said}");
    assert!(!Path::new(&other).exists());
}

#[test]
fn fp8_has_its_factors_and_loads() {
    let scratch = Scratch::new("publish-fp8");
    let facts = scratch.0.join("facts.json");
    std::fs::write(&facts, FACTS).unwrap();
    let (model, out) = (bundled(), scratch.0.join("seed"));
    let [model, facts, out] = [&model, &facts, &out].map(|path| path.to_str().unwrap());
    succeed(&["publish", model, "--card", facts, "--out", out, "--weights", "fp8"], "");
    let shown = succeed(&["show", out, "--no-speed"], "");
    assert!(shown.contains("FP8") && shown.contains("BF16"), "{shown}");
    let said = succeed(&["generate", out, "--temperature", "0", "-n", "16", "-q", "-p", "Once upon a time"], "");
    assert!(said.starts_with(", there was a little"), "{said}");
    // What is published of it in another format does not say that it is FP8.
    let again = format!("{out}-again");
    succeed(&["publish", out, "--card", facts, "--out", &again, "--weights", "bf16"], "");
    let configs = [out, &again].map(|folder| std::fs::read_to_string(format!("{folder}/config.json")).unwrap());
    assert_eq!(configs.map(|config| config.contains("quantization_config")), [true, false]);
    let card = std::fs::read_to_string(format!("{again}/README.md")).unwrap();
    assert!(!card.contains("gguf"), "{card}");
}

/// Facts of a training are those of its own model, and another program's file of that name is no obstacle.
#[test]
fn facts_beside_a_model_are_its_own() {
    let scratch = Scratch::new("publish-beside");
    let (facts, copy, out) = (scratch.0.join("facts.json"), scratch.0.join("copy"), scratch.0.join("out"));
    std::fs::write(&facts, FACTS).unwrap();
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(bundled()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let [facts, copy, out] = [&facts, &copy, &out].map(|path| path.to_str().unwrap());
    let run = scratch.0.join("run.json");
    std::fs::write(&run, r#"{"finished": true, "model": "elsewhere/model", "card": {"name": "Other"}}"#).unwrap();
    let said = text(&run_with(&["publish", copy, "--out", out], "").stderr);
    assert!(said.contains("no run.json of a training is beside the model"), "{said}");
    std::fs::write(&run, "{").unwrap();
    assert!(fail(&["publish", copy, "--out", out]).contains("run.json: not the facts of a card"));
    let output = run_with(&["publish", copy, "--card", facts, "--out", out], "");
    assert!(output.status.success() && text(&output.stderr).contains("not taken: "), "{}", text(&output.stderr));
    assert!(std::fs::read_to_string(format!("{out}/README.md")).unwrap().contains("# Seed"));
}
