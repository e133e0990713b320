//! The binary as a person or a script uses it, with the bundled model.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m")
}

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data").join(name)
}

/// A directory of this test's own, removed with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("farthing-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    /// A copy of the bundled model that may be spoilt.
    fn model(&self) -> PathBuf {
        for entry in std::fs::read_dir(bundled()).unwrap() {
            let from = entry.unwrap().path();
            std::fs::copy(&from, self.0.join(from.file_name().unwrap())).unwrap();
        }
        self.0.clone()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run_with(args: &[&str], stdin: &str) -> Output {
    let state = std::env::temp_dir().join(format!("farthing-test-{}-state", std::process::id()));
    let mut child = Command::new(env!("CARGO_BIN_EXE_farthing"))
        .args(args)
        .env("XDG_CACHE_HOME", &state)
        .env("XDG_STATE_HOME", &state)
        .env_remove("FARTHING_ISA")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input may have gone already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn succeed(args: &[&str], stdin: &str) -> String {
    let output = run_with(args, stdin);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The one line of a failure.
fn fail(args: &[&str]) -> String {
    fails_with(1, args)
}

/// The one line of a failure with an exit code.
fn fails_with(code: i32, args: &[&str]) -> String {
    let output = run_with(args, "");
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
    assert!(output.stdout.is_empty());
    let stderr = text(&output.stderr);
    let line = stderr.lines().last().unwrap().to_string();
    assert!(line.starts_with("farthing: ") || line.starts_with('{'), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    line
}

const ONCE: &str = ", there was a little girl named Lily. She loved to play with her toys and play with her friends. \
One day, she saw a big tree with a big, red ball. She wanted to play with it, but it was too";

#[test]
fn generate_gives_the_reference_text() {
    let model = bundled();
    let model = model.to_str().unwrap();
    let args = ["generate", model, "--temperature", "0", "-n", "48", "-q"];
    assert_eq!(succeed(&[&args[..], &["-p", "Once upon a time"]].concat(), "").trim_end(), ONCE);
    assert_eq!(succeed(&args, "Once upon a time\n").trim_end(), ONCE);
    // The same bits, and so the same text, without vector instructions.
    let plain = Command::new(env!("CARGO_BIN_EXE_farthing"))
        .args(args)
        .args(["-p", "Once upon a time"])
        .env("FARTHING_ISA", "scalar")
        .output()
        .unwrap();
    assert_eq!(text(&plain.stdout).trim_end(), ONCE);
}

#[test]
fn a_seed_repeats_its_text_and_json_tells_everything() {
    let model = bundled();
    let args = ["generate", model.to_str().unwrap(), "-p", "The fox", "--seed", "3", "-n", "20", "--json"];
    let report = |args: &[&str]| -> serde_json::Value { serde_json::from_str(&succeed(args, "")).unwrap() };
    let (a, b) = (report(&args), report(&args));
    assert_eq!(a["text"], b["text"]);
    assert_eq!(a["tokens"].as_array().unwrap().len(), 20);
    assert_eq!((a["finish_reason"].as_str(), a["seed"].as_u64()), (Some("length"), Some(3)));
    assert!(a["timings"]["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
    let stopped = report(&[
        "generate",
        model.to_str().unwrap(),
        "-p",
        "Once upon a time",
        "-t",
        "0",
        "--stop",
        " girl",
        "--json",
    ]);
    assert_eq!(
        (stopped["text"].as_str(), stopped["finish_reason"].as_str()),
        (Some(", there was a little"), Some("stop"))
    );
}

#[test]
fn chat_through_a_pipe() {
    let scratch = Scratch::new("chat");
    let file = scratch.0.join("talk.json");
    let script = format!(
        "/help\n/set temperature 0\n/stats\nTell me a story about a cat.\n\"\"\"\ntwo\nlines\n\"\"\"\n/set top_p 9\n/nothing\n/save {}\n/reset\n/quit\n",
        file.display()
    );
    let output = run_with(&["chat", "-n", "40", "-q"], &script);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{err}");
    assert!(out.contains("/system") && out.contains("I am a very good dog."), "{out}");
    assert!(err.contains("prompt tokens") && err.contains("from 0 to 1") && err.contains("no command"), "{err}");
    let saved: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(saved["messages"][0]["content"], "Tell me a story about a cat.");
    assert_eq!(saved["messages"][2]["content"], "two\nlines");
    assert_eq!(saved["messages"].as_array().unwrap().len(), 4);
}

#[test]
fn show_reads_headers_only() {
    let model = bundled();
    let report: serde_json::Value =
        serde_json::from_str(&succeed(&["show", model.to_str().unwrap(), "--json", "--tensors"], "")).unwrap();
    // The count that follows from the structure is the count of stored numbers.
    let stored: u64 = report["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product::<u64>())
        .sum();
    assert_eq!(report["parameters"]["total"].as_u64(), Some(stored));
    assert_eq!(report["cache_bytes_per_token"]["this"].as_u64(), Some(5 * 80 * 2));
    assert_eq!(report["cache_bytes_per_token"]["multi_head"].as_u64(), Some(5 * 6 * (32 + 16 + 32) * 2));
    assert_eq!(report["plan"]["fits"], true);
    // A file whose weights are a hole larger than any memory: its header is enough.
    let scratch = Scratch::new("show");
    let copy = scratch.model();
    let people = succeed(&["show", copy.to_str().unwrap()], "");
    assert!(people.contains("MLA, 6 heads") && people.contains("2 of 8 experts"), "{people}");
    assert!(people.contains(" in 1 file, ") && !people.contains("1 files"), "{people}");
}

#[test]
fn trace_equals_the_reference() {
    let scratch = Scratch::new("trace");
    let out = scratch.0.join("trace.safetensors");
    let model = bundled();
    succeed(
        &["trace", model.to_str().unwrap(), "--tokens", "0,655,561,267,468", "--layers", "-o", out.to_str().unwrap()],
        "",
    );
    let floats = |t: safetensors::tensor::TensorView| -> Vec<f32> {
        t.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let (ours, theirs) =
        (std::fs::read(&out).unwrap(), std::fs::read(reference("seed-5.7m/oracle.safetensors")).unwrap());
    let ours = safetensors::SafeTensors::deserialize(&ours).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&theirs).unwrap();
    let (a, b) = (floats(ours.tensor("logits").unwrap()), floats(theirs.tensor("p0.logits").unwrap()));
    assert_eq!(a.len(), b.len());
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-3));
    assert_eq!(ours.tensor("hidden.4").unwrap().shape(), [5, 192]);
    assert_eq!(ours.tensor("moe.1.experts").unwrap().shape(), [5, 2]);
    assert!(ours.tensor("moe.0.experts").is_err());
}

#[test]
fn tokenize_there_and_back() {
    let model = bundled();
    let model = model.to_str().unwrap();
    assert_eq!(succeed(&["tokenize", model, "Once upon a time", "--ids-only"], ""), "655,561,267,468\n");
    assert_eq!(succeed(&["tokenize", model, "--ids-only", "--special"], "Once upon a time"), "0,655,561,267,468\n");
    assert_eq!(succeed(&["tokenize", model, "--decode", "655 561,267,468"], ""), "Once upon a time\n");
    // A GGUF file brings its own vocabulary.
    let gguf = reference("oracle/deepseek-v2-lite-shape/model-f32.gguf");
    assert_eq!(
        succeed(&["tokenize", gguf.to_str().unwrap(), "Hello world", "--ids-only", "--special"], ""),
        "630,39,410,78,526,312\n"
    );
    let spm = reference("stories260K/model-f32.gguf");
    let ids = succeed(&["tokenize", spm.to_str().unwrap(), "Once upon a time", "--ids-only", "--special"], "");
    assert_eq!(
        succeed(&["tokenize", spm.to_str().unwrap(), "--decode", ids.trim()], "").trim(),
        "<s> Once upon a time"
    );
}

#[test]
fn bench_measures() {
    let model = bundled();
    let scratch = Scratch::new("bench");
    let plot = scratch.0.join("speed.svg");
    let other = r#"echo '[{"n_prompt": 64, "n_gen": 0, "avg_ts": 1.0}, {"n_prompt": 0, "n_gen": 8, "n_depth": 128, "avg_ts": 2.0}]'"#;
    let mut args = vec!["bench", model.to_str().unwrap(), "--prefill", "64", "--depth", "0,128", "--sequences", "1,3"];
    args.extend([
        "--decode",
        "8",
        "--repetitions",
        "2",
        "--against",
        other,
        "--json",
        "--plot",
        plot.to_str().unwrap(),
    ]);
    let report: serde_json::Value = serde_json::from_str(&succeed(&args, "")).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["prefill 64", "decode", "decode at depth 128", "1 sequence", "3 sequences at once"]);
    for row in rows {
        assert!(row["tokens_per_second"]["median"].as_f64().unwrap() > 0.0 && row["share"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(rows[0]["against"]["median"], 1.0);
    assert_eq!(rows[2]["against"]["median"], 2.0);
    assert!(rows[1].get("against").is_none() && rows[2]["ratio"].as_f64().unwrap() > 1.0);
    assert!(report["bandwidth_bytes_per_second"].as_f64().unwrap() > 1e8);
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("sequences at once") && svg.contains("tokens already read"));
    args.retain(|a| *a != "--json");
    assert!(succeed(&args, "").contains("ratio"));
    assert!(fail(&["bench", model.to_str().unwrap(), "--against", "false"]).contains("\"false\" ended with"));
    assert!(fails_with(2, &["bench", model.to_str().unwrap(), "--depth", "5000"]).contains("give a smaller --depth"));
    assert!(fails_with(2, &["bench", model.to_str().unwrap(), "--sequences", "0"]).contains("at least 1"));
}

#[test]
fn mistakes_are_one_line() {
    let model = bundled();
    let model = model.to_str().unwrap();
    assert!(fail(&["generate", "/nowhere/at/all", "-p", "x"]).contains("/nowhere/at/all: No such file"));
    assert!(fails_with(2, &["generate", model, "-p", ""]).contains("the prompt is empty"));
    assert!(
        fails_with(2, &["generate", model, "-p", "x", "--top-p", "2"]).contains("top_p is 2; it must be from 0 to 1")
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
    std::fs::write(model.join("tokenizer.json"), "{}").unwrap();
    assert!(fail(&["generate", path, "-p", "x"]).contains("tokenizer.json"));

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
fn a_reader_who_leaves_ends_it_quietly() {
    let model = bundled();
    let mut child = Command::new(env!("CARGO_BIN_EXE_farthing"))
        .args([
            "generate",
            model.to_str().unwrap(),
            "-p",
            "Once",
            "-n",
            "1500",
            "--seed",
            "1",
            "--logit-bias",
            "1:-1000",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!text(&output.stderr).contains("panicked"));
}

#[test]
fn doctor_measures_this_machine() {
    let report: serde_json::Value =
        serde_json::from_str(&succeed(&["doctor", "--json", "--threads", "1"], "")).unwrap();
    assert!(report["all_threads"]["bandwidth_bytes_per_second"].as_f64().unwrap() > 1e8);
    assert!(report["memory"]["available"].as_u64().unwrap() > 0 && report["cores"].as_u64().unwrap() > 0);
    let sets: Vec<&str> = report["instruction_sets"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    assert!(sets.contains(&"scalar") && sets.contains(&report["instruction_set"].as_str().unwrap()));
    let people = succeed(&["doctor", "--threads", "1"], "");
    for line in ["processor", "uses", "memory", "models", "So models of up to"] {
        assert!(people.lines().any(|l| l.starts_with(line)), "{people}");
    }
}

#[test]
fn help_teaches() {
    let long = succeed(&["--help"], "");
    for part in ["The first hour:", "org/name:Q4_K_M", "Exit codes: 0 done", "HF_HOME", "FARTHING_ISA"] {
        assert!(long.contains(part), "{long}");
    }
    assert!(!long.contains("render-template"));
    for command in [
        "chat",
        "generate",
        "serve",
        "show",
        "pull",
        "list",
        "rm",
        "doctor",
        "bench",
        "tokenize",
        "trace",
        "completions",
    ] {
        let help = succeed(&["help", command], "");
        assert!(help.contains("Usage: farthing") && help.lines().count() > 8, "{command}: {help}");
        assert!(long.contains(command));
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = succeed(&["completions", shell], "");
        assert!(script.contains("farthing") && script.contains("tokenize"), "{shell}");
    }
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
    assert!(line.contains("some weight is damaged; `farthing show MODEL --check` names the tensor"), "{line}");
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

/// The loss of the reference's own greedy text is that of its logits; a smaller cache costs a little.
#[test]
fn loss_is_that_of_the_reference_logits() {
    let scratch = Scratch::new("loss");
    let model = bundled();
    let file = scratch.0.join("text.txt");
    std::fs::write(&file, format!("Once upon a time{ONCE}")).unwrap();
    let measure = |cache: &str, window: &str| -> serde_json::Value {
        let args = [
            "loss",
            model.to_str().unwrap(),
            "--text",
            file.to_str().unwrap(),
            "--cache",
            cache,
            "--window",
            window,
            "--json",
        ];
        serde_json::from_str(&succeed(&args, "")).unwrap()
    };
    let loss = |report: &serde_json::Value| report["loss"].as_f64().unwrap();
    let exact = measure("f32", "512");
    // The same by hand, from a trace.
    let ids = succeed(
        &["tokenize", model.to_str().unwrap(), &format!("Once upon a time{ONCE}"), "--ids-only", "--special"],
        "",
    );
    let ids: Vec<usize> = ids.trim().split(',').map(|i| i.parse().unwrap()).collect();
    let out = scratch.0.join("trace.safetensors");
    let list = ids.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    succeed(&["trace", model.to_str().unwrap(), "--tokens", &list, "-o", out.to_str().unwrap()], "");
    let bytes = std::fs::read(&out).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let logits: Vec<f64> = tensors
        .tensor("logits")
        .unwrap()
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()).into())
        .collect();
    let by_hand: f64 = (1..ids.len())
        .map(|t| {
            let row = &logits[(t - 1) * 2048..t * 2048];
            row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[ids[t]]
        })
        .sum::<f64>()
        / (ids.len() - 1) as f64;
    assert!((loss(&exact) - by_hand).abs() < 1e-4, "{exact} {by_hand}");
    assert_eq!(exact["tokens"].as_u64(), Some(ids.len() as u64 - 1));
    for (cache, most) in [("bf16", 0.01), ("q8", 0.02), ("q6", 0.1)] {
        assert!((loss(&measure(cache, "512")) - loss(&exact)).abs() < most, "{cache}");
    }
    // Windows that know less of what came before predict worse.
    assert!(loss(&measure("f32", "8")) > loss(&exact) + 0.1);
    assert!(fail(&["loss", model.to_str().unwrap(), "--text", "/nowhere.txt"]).contains("/nowhere.txt"));
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
        (&["generate", model, "-p", "x", "-t", "-1"][..], "temperature is -1; it must be from 0 to 100"),
        (&["generate", model, "-p", "x", "--top-p", "-0.5"], "top_p is -0.5; it must be from 0 to 1"),
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
        (&["serve", model, "-t", "-1"], "temperature is -1; it must be from 0 to 100"),
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
    assert!(fail(&["show", weights.to_str().unwrap()]).contains("the directory is named, not a file in it"));
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
