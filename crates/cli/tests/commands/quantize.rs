//! `farthing quantize` on the bundled model: the file is the model, whole or not there.

use super::*;

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_of_the_same_numbers_writes_the_same_text() {
    let scratch = Scratch::new("quantize");
    let model = bundled();
    let out = scratch.0.join("seed-BF16.gguf");
    let out = out.to_str().unwrap();
    let args = ["quantize", model.to_str().unwrap(), "--to", "bf16", "--out", out, "--json"];
    let report: serde_json::Value = serde_json::from_str(&succeed(&args, "")).unwrap();
    assert_eq!((report["mix"].as_str(), report["file"].as_str()), (Some("BF16"), Some(out)));
    assert_eq!(report["bytes"].as_u64(), Some(std::fs::metadata(out).unwrap().len()));
    assert_eq!(files(&scratch.0), ["seed-BF16.gguf"]);
    let generate = |model: &str| {
        succeed(&["generate", model, "--temperature", "0", "-n", "48", "-q", "-p", "Once upon a time"], "")
    };
    assert_eq!(generate(out), generate(model.to_str().unwrap()));
    // The tokenizer and the chat template came along.
    let tokens = |model: &str| succeed(&["tokenize", model, "Lily's 1234 dogs: \u{4f60}\u{597d}", "--special"], "");
    assert_eq!(tokens(out), tokens(model.to_str().unwrap()));

    // And again, from the file: smaller, and still sensible.
    let small = scratch.0.join("seed-Q8_0.gguf");
    let said = succeed(&["quantize", out, "--to", "Q8_0", "-o", small.to_str().unwrap(), "-q"], "");
    assert!(said.contains("8.54 bits a weight in 5.73 M weights (20 F32, 54 Q8_0 tensors)"), "{said}");
    assert!(generate(small.to_str().unwrap()).starts_with(", there was a little girl named Lily."));
}

#[test]
fn the_plan_writes_nothing() {
    let scratch = Scratch::new("quantize-plan");
    let model = scratch.model();
    let before = files(&model);
    let args = ["quantize", model.to_str().unwrap(), "--to", "Q4_K_M", "--plan", "--json"];
    let plan: serde_json::Value = serde_json::from_str(&succeed(&args, "")).unwrap();
    let format = |name: &str| {
        let tensors = plan["tensors"].as_array().unwrap();
        tensors.iter().find(|t| t["name"] == name).unwrap()["format"].as_str().unwrap().to_string()
    };
    // Rows of 192 are no blocks of 256.
    let chosen = ["output.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight", "output_norm.weight"].map(format);
    assert_eq!(chosen, ["Q8_0", "Q5_0", "Q4_K", "F32"]);
    assert_eq!(files(&model), before);
}

#[test]
fn what_is_wrong_is_said_and_nothing_is_left() {
    let scratch = Scratch::new("quantize-wrong");
    let model = scratch.model();
    let path = model.to_str().unwrap();
    let out = scratch.0.join("out.gguf");
    let out = out.to_str().unwrap();
    let said = |args: &[&str]| {
        let output = run_with(&[&["quantize", path], args].concat(), "");
        assert!(!output.status.success() && output.stdout.is_empty(), "{args:?}");
        text(&output.stderr)
    };
    assert!(said(&["--to", "IQ2_XXS"]).contains("give one of F32, BF16, F16, Q8_0"));
    assert!(said(&["--to", "Q2_K_S", "-o", out]).contains("needs an importance matrix"));
    std::fs::write(out, "mine").unwrap();
    assert!(said(&["-o", out]).contains("it is there already: give --replace"));
    assert_eq!(std::fs::read(out).unwrap(), b"mine");
    let own = model.join("model.safetensors");
    assert!(said(&["-o", own.to_str().unwrap(), "--replace"]).contains("that is the model itself"));
    let under = format!("{out}/x.gguf");
    assert!(said(&["-o", &under]).contains("out.gguf"));
    // A weight that is no number: named, and the file that was there stays.
    let weights = model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&[0xc0, 0x7f]);
    std::fs::write(&weights, bytes).unwrap();
    let error = said(&["-o", out, "--replace", "--to", "Q8_0"]);
    assert!(error.contains("NaN") && error.contains("column"), "{error}");
    assert_eq!(std::fs::read(out).unwrap(), b"mine");
    assert!(files(&scratch.0).iter().all(|name| !name.ends_with(".part")), "{:?}", files(&scratch.0));
}
