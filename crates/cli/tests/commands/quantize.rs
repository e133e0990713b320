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

/// A command that is stopped as soon as a part of what it writes is there.
fn stopped(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farthing"));
    let mut child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !files(folder).iter().any(|name| name.ends_with(".part")) {
        assert!(child.try_wait().unwrap().is_none(), "over before it was stopped");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    child.wait_with_output().unwrap()
}

#[test]
fn ctrl_c_leaves_what_was_there() {
    let scratch = Scratch::new("quantize-stopped");
    let (model, out, hub) = (bundled(), scratch.0.join("out.gguf"), scratch.0.join("hub"));
    let [model, out, hub] = [&model, &out, &hub].map(|path| path.to_str().unwrap());
    std::fs::write(out, "mine").unwrap();
    let output = stopped(&scratch.0, &["quantize", model, "--to", "Q2_K", "-o", out, "--replace", "--threads", "1"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("stopped") && said.contains("out.gguf") && output.stdout.is_empty(), "{said}");
    assert_eq!(std::fs::read(out).unwrap(), b"mine");
    assert_eq!(files(&scratch.0), ["out.gguf"]);

    let facts = scratch.0.join("facts.json");
    std::fs::write(&facts, "{}").unwrap();
    let facts = facts.to_str().unwrap();
    let args = ["publish", model, "--card", facts, "--out", hub, "--gguf", "Q2_K", "--threads", "1"];
    let output = stopped(&scratch.0, &args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("stopped; nothing is left of ") && output.stdout.is_empty(), "{said}");
    assert_eq!(files(&scratch.0), ["facts.json", "out.gguf"]);
}

/// At several sizes: within the header, within the tensors, in the last bytes; a write beyond the limit is an error where the signal is ignored.
#[test]
fn a_full_disk_leaves_what_was_there() {
    let scratch = Scratch::new("quantize-full");
    let (model, out, facts) = (bundled(), scratch.0.join("out.gguf"), scratch.0.join("facts.json"));
    std::fs::write(&out, "mine").unwrap();
    std::fs::write(&facts, "{}").unwrap();
    let [model, path, facts] = [&model, &out, &facts].map(|path| path.to_str().unwrap());
    let hub = scratch.0.join("hub");
    let whole = scratch.0.join("whole.gguf");
    succeed(&["quantize", model, "--to", "Q8_0", "-o", whole.to_str().unwrap(), "-q"], "");
    let bytes = std::fs::metadata(&whole).unwrap().len();
    std::fs::remove_file(&whole).unwrap();
    let quantize = ["quantize", model, "--to", "Q8_0", "-o", path, "--replace"];
    let publish = ["publish", model, "--card", facts, "--out", hub.to_str().unwrap()];
    let all = [(&quantize[..], 0), (&quantize, bytes / 2), (&quantize, bytes - 512), (&publish, 1 << 20)];
    for (args, limit) in all {
        let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", limit / 512);
        let output =
            Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_farthing")]).args(args).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{limit}: {said}");
        assert!(said.to_lowercase().contains("too large") && output.stdout.is_empty(), "{limit}: {said}");
        assert_eq!(std::fs::read(&out).unwrap(), b"mine", "{limit}");
        assert_eq!(files(&scratch.0), ["facts.json", "out.gguf"], "{limit}");
    }
}

/// What `--save` writes is the model's tokenizer, from a directory to the byte and from a GGUF file by its results, and data can be made with it.
#[test]
fn a_tokenizer_that_was_saved_gives_the_models_tokens() {
    let scratch = Scratch::new("tokenizer-saved");
    let (model, file) = (bundled(), scratch.0.join("seed.gguf"));
    let [model_path, file_path] = [&model, &file].map(|path| path.to_str().unwrap());
    succeed(&["quantize", model_path, "--to", "Q8_0", "-o", file_path, "-q"], "");
    let odd = "Lily's 1234 dogs:\n\n  \u{4f60}\u{597d} caf\u{e9} <|user|> {\"a\": [1, 2]}";
    let ids = |model: &str| succeed(&["tokenize", model, odd, "--ids-only", "--special"], "");
    for (from, name) in [(model_path, "directory"), (file_path, "file")] {
        let folder = scratch.0.join(name);
        let output = run_with(&["tokenize", from, "--save", folder.to_str().unwrap()], "");
        assert!(output.status.success() && output.stdout.is_empty(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stderr), format!("the tokenizer is in {}\n", folder.display()));
        // A model with this tokenizer in the place of its own.
        let other = scratch.0.join(format!("with-{name}"));
        std::fs::create_dir(&other).unwrap();
        for own in ["config.json", "model.safetensors"] {
            std::fs::copy(model.join(own), other.join(own)).unwrap();
        }
        for saved in files(&folder) {
            std::fs::copy(folder.join(&saved), other.join(&saved)).unwrap();
        }
        assert_eq!(ids(other.to_str().unwrap()), ids(model_path), "{name}");
        let recipe = format!(
            "name = \"sums\"\n[[sources]]\nname = \"sums\"\ngenerate = \"sums\"\ndocuments = 20\n[tokenizer]\nfile = \"{name}/tokenizer.json\"\n[shards]\n"
        );
        let recipe_file = scratch.0.join("data.toml");
        std::fs::write(&recipe_file, recipe).unwrap();
        let out = scratch.0.join(format!("sums-{name}"));
        succeed(&["data", recipe_file.to_str().unwrap(), "--out", out.to_str().unwrap(), "--quiet"], "");
        assert!(out.join("shards/shards.json").exists(), "{name}");
    }
    let config = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(scratch.0.join(name).join("tokenizer_config.json")).unwrap()).unwrap()
    };
    let special = |config: serde_json::Value| {
        ["bos_token", "eos_token", "pad_token"].map(|token| {
            config[token]
                .as_str()
                .or(config[token]["content"].as_str())
                .unwrap_or_else(|| panic!("{token}"))
                .to_string()
        })
    };
    assert_eq!(special(config("file")), special(config("directory")));
    assert_eq!(
        std::fs::read(scratch.0.join("directory/tokenizer.json")).unwrap(),
        std::fs::read(model.join("tokenizer.json")).unwrap()
    );
    let said = fail(&["tokenize", model_path, "--save", &format!("{file_path}/x")]);
    assert!(said.contains("seed.gguf/x") || said.contains("seed.gguf"), "{said}");

    // Another tokenizer's files stay unless somebody says otherwise; the same ones are no obstacle.
    let folder = scratch.0.join("directory");
    let save = ["tokenize", model_path, "--save", folder.to_str().unwrap()];
    succeed(&save, "");
    for (name, bytes) in [("tokenizer.json", "{}"), ("chat_template.jinja", "{{ mine }}")] {
        let own = std::fs::read(folder.join(name)).ok();
        std::fs::write(folder.join(name), bytes).unwrap();
        let said = fail(&save);
        assert!(said.contains(name) && said.contains("--replace"), "{said}");
        assert_eq!(std::fs::read_to_string(folder.join(name)).unwrap(), bytes);
        succeed(&[&save[..], &["--replace"]].concat(), "");
        assert_eq!(std::fs::read(folder.join(name)).ok(), own, "{name}");
    }
}

/// Columns that matter for a text lose less: another file, the same size, and the matrix is one that is read again.
#[test]
fn importance_is_measured_on_a_text() {
    let scratch = Scratch::new("quantize-importance");
    let book = scratch.0.join("book.txt");
    std::fs::write(&book, "Once upon a time there was a little girl named Lily. She liked to play. ".repeat(40))
        .unwrap();
    let at = |name: &str| scratch.0.join(name).to_str().unwrap().to_string();
    let (model, book) = (bundled(), at("book.txt"));
    let quantize = |out: &str, more: &[&str]| {
        let args = ["quantize", model.to_str().unwrap(), "--to", "Q4_0", "-o", out, "-q"];
        succeed(&[&args[..], more].concat(), "");
        std::fs::read(out).unwrap()
    };
    let plain = quantize(&at("plain.gguf"), &[]);
    let matrix = at("imatrix.gguf");
    let measured =
        quantize(&at("a.gguf"), &["--imatrix-text", &book, "--imatrix-out", &matrix, "--imatrix-tokens", "600"]);
    assert!(measured != plain && measured.len().abs_diff(plain.len()) < 4096, "{} {}", measured.len(), plain.len());
    assert!(
        quantize(&at("b.gguf"), &["--imatrix", &matrix]) == measured,
        "the matrix that was written is that which was used"
    );
    for (more, said) in [
        (&["--imatrix-text", "nowhere.txt"][..], "nowhere.txt"),
        (&["--imatrix-text", &book, "--imatrix", &matrix], "cannot be used with"),
        (&["--imatrix-out", &matrix], "--imatrix-text"),
    ] {
        let args = ["quantize", model.to_str().unwrap(), "-o", &at("c.gguf")];
        let output = run_with(&[&args[..], more].concat(), "");
        let told = text(&output.stderr);
        assert!(!output.status.success() && told.contains(said), "{told}");
        assert!(!Path::new(&at("c.gguf")).exists());
    }
    let told = fail(&["quantize", &at("plain.gguf"), "-o", &at("c.gguf"), "--imatrix-text", &book]);
    assert!(told.contains("take the original"), "{told}");
}
