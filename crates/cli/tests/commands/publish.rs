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
    for name in
        ["README.md", "chat_template.jinja", "config.json", "model.safetensors", "seed-Q8_0.gguf", "tokenizer.json"]
    {
        assert!(named.contains(&name), "{name} of {named:?}");
    }
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
}
