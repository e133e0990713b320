//! What commands give with the bundled model: texts, scores, measurements and help.

use super::*;

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
    let output = run_with(&["chat", bundled().to_str().unwrap(), "-n", "40", "-q"], &script);
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
fn a_question_on_farthing_comes_with_paragraphs_of_its_help() {
    let prompt_tokens = |args: &[&str], question: &str| -> usize {
        let output = run_with(&[&["chat", "-q", "-v", "-n", "8", "-t", "0"], args].concat(), question);
        let err = text(&output.stderr);
        let tokens = err
            .split(" prompt tokens")
            .next()
            .and_then(|before| before.rsplit(char::is_whitespace).next()?.parse().ok());
        tokens.unwrap_or_else(|| panic!("{err}"))
    };
    let question = "How do I serve with a key?\n";
    assert!(prompt_tokens(&[], question) > 60);
    // Neither for a task, nor beside a system prompt, nor of a model that was named.
    assert!(prompt_tokens(&[], "Tell me a story of a key.\n") < 30);
    assert!(prompt_tokens(&["--system", "Hello."], question) < 30);
    assert!(prompt_tokens(&[bundled().to_str().unwrap()], question) < 30);
}

#[test]
fn bytes_that_are_no_text_do_not_end_a_chat_and_a_seed_repeats_itself() {
    let output = run_with(&["chat", "-n", "3", "-q", "--seed", "5"], b"h\xffi\n/retry\n/quit\n");
    let err = text(&output.stderr);
    assert!(output.status.success() && err.contains("(bytes that are not UTF-8 were replaced"), "{err}");
    assert!(err.contains("(with seed 5 the answer is the same: /set seed random gives another)"), "{err}");
}

/// A script that pipes a conversation learns from the exit code that there was no answer.
#[test]
fn an_answer_that_fails_ends_a_chat_through_a_pipe() {
    let scratch = Scratch::new("chat-fails");
    let copy = scratch.model();
    let config = copy.join("tokenizer_config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    json["chat_template"] = "{{ raise_exception('not this one') }}".into();
    std::fs::write(&config, json.to_string()).unwrap();
    let output = run_with(&["chat", copy.to_str().unwrap(), "-q", "-n", "3"], "hi\nhello\n");
    let err = text(&output.stderr);
    assert_eq!((output.status.code(), err.matches("not this one").count()), (Some(1), 1), "{err}");
    // A template without end is not the conversation's fault.
    let long = "{% for i in range(100000) %}";
    json["chat_template"] = format!("{long}{long}x{{% endfor %}}{{% endfor %}}").into();
    std::fs::write(&config, json.to_string()).unwrap();
    let said = fail(&["generate", copy.to_str().unwrap(), "--chat", "-p", "hi", "-q"]);
    assert!(said.contains("template does not come to an end: give the model another one"), "{said}");
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
fn a_training_step_is_measured() {
    let scratch = Scratch::new("bench-train");
    let config = scratch.0.join("config.json");
    let path = config.to_str().unwrap();
    // The other program finds the configuration, and is as slow as it says.
    let other = format!(r#"grep -q deepseek_v2 {path} && echo '{{"precision": "f32", "tokens_per_second": 1}}'"#);
    let size =
        ["--length", "32", "--documents", "4", "--repetitions", "2", "--precision", "f32,bf16", "--threads", "1"];
    let shape = ["--active", "100K", "--structure", "mla-moe-v2", "--vocabulary", "256", "--write-config", path];
    let all = [&["bench", "train", "--json", "--against", &other], &shape[..], &size].concat();
    let report: serde_json::Value = serde_json::from_str(&succeed(&all, "")).unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.iter().map(|r| r["precision"].as_str().unwrap()).collect::<Vec<_>>(), ["f32", "bf16"]);
    for row in rows {
        let rate = row["tokens_per_second"]["median"].as_f64().unwrap();
        // Six operations a parameter and token, and those of attention.
        let each = row["operations_per_second"].as_f64().unwrap() / rate;
        assert!((6e5..2e6).contains(&each), "{row}");
        let share =
            row["operations_per_second"].as_f64().unwrap() / row["peak_operations_per_second"].as_f64().unwrap();
        assert_eq!(row["model_flops_utilisation"].as_f64().unwrap(), share, "{row}");
        let of = |name: &str| row[name].as_f64().unwrap();
        assert!(of("product_share") > 0.1 && of("product_share") + of("optimizer_share") < 1.0, "{row}");
        let products = each * 128.0 / of("product_seconds") / of("peak_operations_per_second");
        assert!(
            (of("product_utilisation") / products - 1.0).abs() < 0.5 && of("product_seconds") < of("seconds"),
            "{row}"
        );
        assert_eq!(row["tokens"], 128);
    }
    assert_eq!(rows[0]["against"]["ratio"], rows[0]["tokens_per_second"]["median"]);
    assert!(rows[1]["against"].is_null(), "{report}");
    // The same from the file.
    let text = succeed(&[&["bench", "train", "--config", path, "--adamw"], &size[..]].concat(), "");
    assert!(text.lines().count() == 2 && text.contains("% of a peak"), "{text}");
    assert!(fail(&["bench", "train", "--config", path, "--length", "33"]).contains("of 2 to 32"));
    let silent = ["bench", "train", "--config", path, "--against", "true"];
    assert!(fail(&[&silent[..], &size].concat()).contains("no JSON line"));
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
    assert_eq!(succeed(&["--version"], ""), format!("farthing {}\n", env!("CARGO_PKG_VERSION")));
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
        "models",
        "trace",
        "completions",
    ] {
        let help = succeed(&["help", command], "");
        assert!(help.contains("Usage: farthing") && help.lines().count() > 8, "{command}: {help}");
        assert!(long.contains(command));
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = succeed(&["completions", shell], "");
        assert!(script.contains("farthing") && script.contains("COMPLETE"), "{shell}");
    }
    // What a shell asks when a person presses the tab key.
    let completed = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farthing"));
        let index = (words.len() - 1).to_string();
        command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", index).env("_CLAP_IFS", "\n");
        text(&command.arg("--").args(words).output().unwrap().stdout)
    };
    assert!(completed(&["farthing", "tok"]).contains("tokenize"));
    assert!(completed(&["farthing", "chat", "--temp"]).contains("--temperature"));
    assert!(completed(&["farthing", "chat", "qwen3-4"]).contains("qwen3-4b"));
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
