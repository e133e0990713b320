//! Wrong arguments and files that are no model, cut or damaged: one line that names the value and the next step, with its exit code.

use super::*;

#[test]
fn mistakes_are_one_line() {
    let model = bundled();
    let model = model.to_str().unwrap();
    assert!(fail(&["generate", "/nowhere/at/all", "-p", "x"]).contains("/nowhere/at/all: No such file"));
    assert!(fails_with(2, &["generate", model, "-p", ""]).contains("the prompt is empty"));
    assert!(
        fails_with(2, &["generate", model, "-p", "x", "--top-p", "2"]).contains("--top-p 2: give a number from 0 to 1")
    );
    let long = "cat ".repeat(600);
    assert!(fail(&["generate", model, "-p", &long, "--context", "256"]).contains("more than the context of 256"));
    assert!(fails_with(2, &["generate", model, "-p", "x", "--context", "99999"]).contains("2048"));
    assert!(fails_with(2, &["trace", model, "--tokens", "1,x", "-o", "/tmp/never"]).contains("\"x\" is no token id"));
    assert!(
        fails_with(2, &["trace", model, "--tokens", "1,99999", "-o", "/tmp/never"])
            .contains("outside the vocabulary of 2048")
    );
    let json: serde_json::Value = serde_json::from_str(&fail(&["show", "/nowhere", "--json"])).unwrap();
    assert!(json["error"]["message"].as_str().unwrap().contains("/nowhere"));
    assert_eq!(run_with(&["generate"], "").status.code(), Some(2));
    for (args, said) in [
        (&["generate", model, "-p", "x", "--logit-bias", "5:nan"][..], "a number from -1000 to 1000"),
        (&["loss", model, "--text", "x.txt", "--tokens", "1"], "'--tokens <TOKENS>': give at least 2"),
        (&["serve", model, "--name", "a,a"], "--name: \"a\" is given twice"),
    ] {
        let output = run_with(args, "");
        assert!(
            output.status.code() == Some(2) && text(&output.stderr).contains(said),
            "{args:?}: {}",
            text(&output.stderr)
        );
    }
    assert!(fail(&["serve", model, "--api-key-file", "/no/such/keys"]).contains("--api-key-file /no/such/keys: "));
    let isa =
        Command::new(env!("CARGO_BIN_EXE_farthing")).args(["show", model]).env("FARTHING_ISA", "mmx").output().unwrap();
    assert!(text(&isa.stderr).contains("FARTHING_ISA=mmx"));
}

#[test]
fn damaged_and_unsupported_files_are_one_line() {
    let scratch = Scratch::new("damaged");
    let model = scratch.model();
    let path = model.to_str().unwrap();
    let weights = model.join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    for length in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&weights, &whole[..length]).unwrap();
        assert!(fail(&["generate", path, "-p", "x"]).contains("model.safetensors"));
    }
    std::fs::write(&weights, &whole).unwrap();
    let config = std::fs::read_to_string(model.join("config.json")).unwrap();
    let spoil = |from: &str, to: &str| {
        assert!(config.contains(from), "{from}");
        std::fs::write(model.join("config.json"), config.replace(from, to)).unwrap();
        fail(&["generate", path, "-p", "x"])
    };
    assert!(spoil("\"deepseek_v2\"", "\"mamba\"").contains("architecture \"mamba\""));
    assert!(
        spoil("\"hidden_size\": 192", "\"hidden_size\": 200")
            .contains("model.embed_tokens.weight has shape [2048, 192]")
    );
    assert!(spoil("\"num_hidden_layers\": 5", "\"num_hidden_layers\": -5").contains("num_hidden_layers is -5"));
    assert!(spoil("\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 9").contains("9 active of 8 experts"));
    assert!(spoil("{", "").contains("not JSON"));
    std::fs::write(model.join("config.json"), &config).unwrap();
    let tokenizer = std::fs::read_to_string(model.join("tokenizer.json")).unwrap();
    std::fs::write(model.join("tokenizer.json"), "{}").unwrap();
    assert!(fail(&["generate", path, "-p", "x"]).contains("tokenizer.json"));
    // The library panics on this one, and the panic is not printed.
    let mut contradiction: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    contradiction["model"]["continuing_subword_prefix"] = "abcdefgh".into();
    std::fs::write(model.join("tokenizer.json"), contradiction.to_string()).unwrap();
    assert!(fail(&["generate", path, "-p", "x"]).contains("the description contradicts itself"));

    let gguf = std::fs::read(reference("stories260K/model-q8_0.gguf")).unwrap();
    let file = scratch.0.join("cut.gguf");
    for length in [3, 4, 20, 200, 5000, gguf.len() - 600] {
        std::fs::write(&file, &gguf[..length]).unwrap();
        assert!(fail(&["generate", file.to_str().unwrap(), "-p", "x"]).contains("cut.gguf"));
    }
    assert!(
        fail(&["generate", reference("everything.gguf").to_str().unwrap(), "-p", "x"])
            .contains("token_embd.weight is missing")
    );
}

#[test]
fn wrong_arguments_for_machines() {
    let output = run_with(&["show", "--jsno", "--json"], "");
    assert_eq!(output.status.code(), Some(2));
    let json: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(json["error"]["kind"], "arguments");
    assert!(json["error"]["message"].as_str().unwrap().contains("--jsno"));
    assert!(output.stdout.is_empty());
    for (args, said, hint) in [
        (&["show", "--jsn", "--json"][..], "unexpected argument '--jsn' found", "a similar argument exists: '--json'"),
        (&["pull", "--json"], "the following required arguments were not provided: <MODEL>", "Usage: farthing pull"),
        (&["shwo", "--json"], "unrecognized subcommand 'shwo'", "a similar subcommand exists: 'show'"),
        (
            &["serve", "--log-format=json", "--log-level", "x"],
            "invalid value 'x' for '--log-level <LEVEL>' [possible values: error, warn, info, debug]",
            "--help",
        ),
        (
            &["serve", "--log-format=json", "--host", "no such host"],
            "give an address of this machine, or a name of one",
            "--help",
        ),
    ] {
        let output = run_with(args, "");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let json: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        let told = |field: &str| json["error"][field].as_str().unwrap().to_string();
        assert!(told("message").contains(said) && told("hint").contains(hint), "{args:?}: {json}");
        assert!(!json.to_string().contains("\\u001b") && !told("message").contains("Usage"), "{json}");
    }
    // What only the command sees is told as such too.
    let output = run_with(&["show", "", "--json"], "");
    let json: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((output.status.code(), &json["error"]["kind"]), (Some(2), &"arguments".into()));
}

#[test]
fn damaged_weights_are_named_and_stop_a_run() {
    let scratch = Scratch::new("nan");
    let model = scratch.model();
    let path = model.to_str().unwrap();
    assert!(succeed(&["show", path, "--check", "--no-speed"], "").contains("every weight is a number"));
    let weights = model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let places: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let name = "model.layers.3.self_attn.o_proj.weight";
    let at = 8 + header + places[name]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[at + 2..at + 4].copy_from_slice(&[0xff, 0xff]);
    std::fs::write(&weights, bytes).unwrap();
    let line = fail(&["generate", path, "-p", "x", "-q"]);
    assert!(line.contains("some weight is damaged; `farthing show --check` of this model names the tensor"), "{line}");
    let output = run_with(&["show", path, "--check", "--no-speed"], "");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(said.contains(&format!("damaged     tensor {name} holds NaN in row 0, column 1")), "{said}");
    let json = run_with(&["show", path, "--check", "--json", "--no-speed"], "");
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(report["damaged"][0]["tensor"], name);
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let scratch = Scratch::new("tokenizer");
    let model = scratch.model();
    let file = model.join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let mut token = json["added_tokens"][0].clone();
    token["id"] = 2048.into();
    token["content"] = "<beyond>".into();
    json["added_tokens"].as_array_mut().unwrap().push(token);
    std::fs::write(&file, json.to_string()).unwrap();
    let line = fail(&["generate", model.to_str().unwrap(), "-p", "x"]);
    assert!(line.contains("\"<beyond>\" has id 2048") && line.contains("vocabulary has 2048 tokens"), "{line}");
}

#[test]
fn with_json_stderr_holds_nothing_else() {
    let scratch = Scratch::new("json-only");
    let model = bundled();
    let (plot, missing) = (scratch.0.join("plot.svg"), scratch.0.join("none"));
    let (model, plot, missing) = (model.to_str().unwrap(), plot.to_str().unwrap(), missing.to_str().unwrap());
    for (args, code) in [
        (&["generate", model, "-p", "The fox", "-n", "3", "--json"][..], 0),
        (&["show", model, "--json"], 0),
        (&["bench", model, "--prefill", "16", "--decode", "4", "--repetitions", "1", "--plot", plot, "--json"], 0),
        (&["generate", missing, "-p", "x", "--json"], 1),
        (&["generate", model, "--no-such-option", "--json"], 2),
        (&["serve", missing, "--log-format", "json"], 1),
        (&["serve", "--log-format=json", "--port", "70000"], 2),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_farthing")).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(code == 0 || !said.is_empty());
        for line in said.lines() {
            let value: Result<serde_json::Value, _> = serde_json::from_str(line);
            assert!(value.is_ok_and(|v| v.is_object()), "{args:?}: {line}");
        }
    }
}

/// Tensors as a safetensors file: names with shapes of f32, as many zeros as that takes (a hole in the file), and the model's own.
fn with_zeros(model: &Path, name: &str, shape: &[u64], own: bool) {
    let weights = model.join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut places: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let data = if own { &bytes[8 + header..] } else { &[] };
    if !own {
        places = serde_json::json!({});
    }
    let zeros = 4 * shape.iter().product::<u64>();
    places[name] = serde_json::json!({
        "dtype": "F32", "shape": shape, "data_offsets": [data.len(), data.len() as u64 + zeros]
    });
    let header = places.to_string();
    let mut file = std::fs::File::create(&weights).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.write_all(data).unwrap();
    file.set_len((8 + header.len() + data.len()) as u64 + zeros).unwrap();
}

/// What will not load is told before anything is loaded, and the same by both commands.
#[test]
fn show_names_tensors_that_keep_a_model_from_loading() {
    let scratch = Scratch::new("unused");
    let model = scratch.model();
    let path = model.to_str().unwrap();
    let name = "model.layers.1.self_attn.what.weight";
    with_zeros(&model, name, &[3], true);
    let shown = run_with(&["show", path, "--no-speed"], "");
    assert_eq!(shown.status.code(), Some(1));
    assert!(text(&shown.stdout).contains("structure   5 layers"), "it is shown all the same");
    let line = text(&shown.stderr);
    assert!(line.starts_with("farthing: ") && line.lines().count() == 1, "{line}");
    assert!(line.contains(name) && line.contains("model.safetensors"), "{line}");
    assert_eq!(line.trim_end(), fail(&["generate", path, "-p", "x", "-q"]));

    let json = run_with(&["show", path, "--no-speed", "--json"], "");
    assert_eq!(json.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(report["will_not_load"].as_str().unwrap().contains(name) && report["layers"] == 5);
    let whole = serde_json::from_str::<serde_json::Value>(&succeed(
        &["show", bundled().to_str().unwrap(), "--no-speed", "--json"],
        "",
    ));
    assert!(whole.unwrap().get("will_not_load").is_none());
}

/// A model larger than any memory: every command that would load it says so, with a size that fits, and loads nothing.
#[test]
fn what_does_not_fit_is_refused_with_a_size_that_would() {
    let scratch = Scratch::new("large");
    let model = scratch.model();
    let path = model.to_str().unwrap();
    // 4 TiB.
    with_zeros(&model, "model.embed_tokens.weight", &[1 << 20, 1 << 20], false);
    let size = |line: &str| -> f64 {
        let at = line.find("files of at most ").unwrap_or_else(|| panic!("{line}")) + "files of at most ".len();
        let words: Vec<&str> = line[at..].split_whitespace().take(2).collect();
        assert!(words[1] == "GiB" || words[1] == "MiB", "{line}");
        words[0].parse::<f64>().unwrap() * if words[1] == "GiB" { 1024.0 } else { 1.0 }
    };
    let text_file = scratch.0.join("text.txt");
    std::fs::write(&text_file, "Once upon a time").unwrap();
    let file = text_file.to_str().unwrap();
    for args in [
        &["generate", path, "-p", "x"][..],
        &["chat", path],
        &["bench", path],
        &["loss", path, "--text", file],
        &["trace", path, "--tokens", "1,2", "-o", "/nowhere"],
    ] {
        let line = fail(args);
        assert!(line.contains("weights 4096.00 GiB") && line.contains("bits a weight or a smaller model"), "{line}");
        // More than nothing, and no more than there is.
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.windows(2).position(|w| w == ["are", "available;"]).unwrap();
        let available: f64 = words[at - 2].parse().unwrap();
        let available = if words[at - 1] == "GiB" { available * 1024.0 } else { available };
        let fits = size(&line);
        assert!(fits > 1.0 && fits < available, "{line}");
    }
    let shown = text(&run_with(&["show", path, "--no-speed"], "").stdout);
    let line = shown.lines().find(|l| l.contains("does not fit")).unwrap();
    assert!(size(line) > 1.0 && line.contains("bits a weight"), "{line}");
}

/// Values that cannot be are named with their option and what would do, negative ones too; inputs without end are not read to it.
#[test]
fn values_that_cannot_be_are_named_with_what_would_do() {
    let model = bundled();
    let model = model.to_str().unwrap();
    for (args, said) in [
        (&["generate", model, "-p", "x", "--context", "-1"][..], "'-1' for '--context <TOKENS>': give a whole number"),
        (&["generate", model, "-p", "x", "-n", "-1"], "'-1' for '--max-tokens <MAX_TOKENS>': give a whole number"),
        (&["generate", model, "-p", "x", "-n", "99999999999999999999"], "the number is too large"),
        (
            &["generate", model, "-p", "x", "--threads", "0"],
            "'0' for '--threads <N>': give a whole number from 1 to 1024",
        ),
        (
            &["generate", model, "-p", "x", "--threads", "-2"],
            "'-2' for '--threads <N>': give a whole number from 1 to 1024",
        ),
        (&["generate", model, "-p", "x", "-t", "hot"], "'hot' for '--temperature <TEMPERATURE>': give a number"),
        (&["generate", model, "-p", "x", "--seed", "-3"], "'-3' for '--seed <SEED>': give a whole number"),
        (&["bench", model, "--depth", "5,-1"], "'-1' for '--depth <TOKENS>': give a whole number"),
        (&["loss", model, "--text", "x", "--tokens", "-1"], "'-1' for '--tokens <TOKENS>': give a whole number"),
        (&["doctor", "--threads", "x"], "'x' for '--threads <N>': give a whole number from 1 to 1024"),
    ] {
        let output = run_with(args, "");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(text(&output.stderr).contains(said), "{args:?}: {}", text(&output.stderr));
    }
    let directory = Scratch::new("values");
    let directory = directory.0.to_str().unwrap();
    for (args, said) in [
        (&["generate", model, "-p", "x", "-t", "-1"][..], "--temperature -1: give a number from 0 to 100"),
        (&["generate", model, "-p", "x", "--top-p", "-0.5"], "--top-p -0.5: give a number from 0 to 1"),
        (&["bench", model, "--decode", "0"], "--decode 0: give at least 1"),
        (&["bench", model, "--prefill", "5,0"], "--prefill 0: give at least 1"),
        (&["bench", model, "--context", "0"], "--context 0: give at least 1"),
        (&["bench", model, "--context", "3000"], "--context 3000: this model was made for 2048"),
        (&["bench", model, "--depth", "3000"], "give a smaller --depth"),
        (&["generate", model, "-p", "x", "--logit-bias", "99999:1"], "99999"),
        (&["generate", model, "-p", "x", "--context", "0"], "--context 0: give at least 1"),
        (&["generate", model, "-p", "x", "--cache", "q5"], "--cache q5: give f32, bf16, q8 or q6"),
        (&["generate", model, "-p", ""], "the prompt is empty"),
        (&["tokenize", model, "--decode", "5,4000000000"], "no token of this model has id 4000000000"),
        (&["tokenize", model, "--decode", "5,x"], "\"x\" is no token id"),
        (&["trace", model, "--tokens", ",", "-o", "/tmp/never"], "no token is given"),
        (&["serve", model, "-t", "-1"], "--temperature -1: give a number from 0 to 100"),
        (&["serve", model, "--name", "a", "--name", "b"], "--name was given for 2 models and there are 1"),
        (&["serve", model, "--tls-cert", "a"], "--tls-cert and --tls-key belong together"),
        (&["serve", model, "--cors-origin", "*", "--cors-origin", "https://a"], "--cors-origin * is any origin"),
        (&["serve", model, model], "give each a --name"),
        (&["show", ""], "MODEL is empty; give a file"),
    ] {
        let line = fails_with(2, args);
        assert!(line.contains(said) && !line.contains('\u{1}'), "{args:?}: {line}");
    }
    for (args, said) in [
        (&["loss", model, "--text", "/dev/zero"][..], "/dev/zero: more than 33554432 bytes of text"),
        (&["loss", model, "--text", "/dev/null"], "/dev/null: 0 tokens are too few to measure; give at least 2"),
        (
            &["trace", model, "--tokens", "1", "-o", "/nowhere/x"],
            "/nowhere/x: No such file or directory (os error 2); give another --output",
        ),
        (&["trace", "/no/model", "--tokens", "1", "-o", "/nowhere/x"], "/nowhere/x: "),
        (&["trace", "/no/model", "--tokens", "1", "-o", directory], "Is a directory; give the name of a file"),
        (&["loss", model, "--text", "/tmp"], "/tmp: Is a directory"),
        (&["trace", model, "--tokens", "@/dev/zero", "-o", "/tmp/never"], "/dev/zero: more than 33554432 bytes"),
    ] {
        assert!(fail(args).contains(said), "{args:?}: {}", fail(args));
    }
    for args in [&["generate", model, "-q"][..], &["tokenize", model]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farthing"));
        let output = command.args(args).stdin(std::fs::File::open("/dev/zero").unwrap()).output().unwrap();
        assert!(text(&output.stderr).contains("on stdin: more than 33554432 bytes of text"), "{args:?}: {output:?}");
    }
}

/// What a newcomer meets: a file in the place of its directory, the other way round, and files that were not fetched.
#[test]
fn what_is_not_quite_a_model_is_told_with_the_next_step() {
    let scratch = Scratch::new("newcomer");
    let model = scratch.model();
    let path = model.to_str().unwrap();
    let show = || fail(&["show", path, "--no-speed"]);
    let weights = model.join("model.safetensors");
    // A file of a model's directory means the directory; one that lies alone is none.
    assert!(succeed(&["show", weights.to_str().unwrap(), "--no-speed"], "").contains("deepseek_v2 in 1 file"));
    let alone = scratch.0.join("alone");
    std::fs::create_dir_all(&alone).unwrap();
    std::fs::copy(&weights, alone.join("model.safetensors")).unwrap();
    let line = fail(&["show", alone.join("model.safetensors").to_str().unwrap()]);
    assert!(line.contains("the directory is named, not a file in it"), "{line}");
    let whole = std::fs::read(&weights).unwrap();
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n";
    std::fs::write(&weights, lfs).unwrap();
    assert!(show().contains("model.safetensors: a pointer of Git LFS"));
    std::fs::remove_file(&weights).unwrap();
    assert!(show().contains("neither model.safetensors nor"));
    std::fs::write(model.join("pytorch_model.bin"), "x").unwrap();
    assert!(show().contains("pytorch_model.bin is no format that is read"));
    std::fs::write(model.join("model-00001-of-00002.safetensors"), "x").unwrap();
    assert!(show().contains("model-00001-of-00002.safetensors is there, but neither"));
    std::os::unix::fs::symlink("/nowhere/blob", &weights).unwrap();
    assert!(show().contains("model.safetensors is no plain file, or a link to none"));
    std::fs::remove_file(&weights).unwrap();
    std::fs::write(&weights, whole).unwrap();

    let tokenizer = model.join("tokenizer.json");
    std::fs::write(&tokenizer, lfs).unwrap();
    assert!(fail(&["generate", path, "-p", "x", "-q"]).contains("tokenizer.json: a pointer of Git LFS"));
    std::fs::write(&tokenizer, "{").unwrap();
    let output = run_with(&["show", path, "--no-speed"], "");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("tokenizer.json: tokenizer: it is damaged: EOF while parsing"), "{said}");
    std::fs::remove_file(&tokenizer).unwrap();
    assert!(fail(&["generate", path, "-p", "x", "-q"]).contains("no tokenizer.json in it; put the model's own"));
    assert!(succeed(&["show", path, "--no-speed"], "").contains("tokenizer   none"));
    std::fs::copy(bundled().join("tokenizer.json"), &tokenizer).unwrap();
    std::fs::write(model.join("tokenizer_config.json"), r#"{"chat_template": "{{ broken"}"#).unwrap();
    let line = fail(&["generate", path, "-p", "x", "-q"]);
    assert!(line.starts_with(&format!("farthing: {path}: chat template: ")), "{line}");

    // A directory of GGUF files is none of them.
    let from = reference("stories260K/model-q8_0.gguf");
    std::fs::remove_file(model.join("config.json")).unwrap();
    std::fs::copy(&from, model.join("b.gguf")).unwrap();
    assert!(show().contains(&format!("which is named itself: {path}/b.gguf")), "{}", show());
    std::fs::copy(&from, model.join("a.gguf")).unwrap();
    assert!(show().contains(&format!("2 GGUF files: name one of them, such as {path}/a.gguf")));
    let part = model.join("c-00001-of-00002.gguf");
    std::fs::copy(&from, &part).unwrap();
    let line = fail(&["show", part.to_str().unwrap(), "--no-speed"]);
    assert!(line.contains("c-00002-of-00002.gguf: a part of ") && line.contains("in one directory"), "{line}");
}
