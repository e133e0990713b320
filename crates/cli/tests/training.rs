//! `farthing train` as a person uses it: two at once, killed, a full disk, a loss that runs away; and what `farthing publish` takes of a training.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use kernels::Format;
use model::tensors::{Stored, Tensors};
use serde_json::{Value, json};

/// A small dataset, made once.
fn dataset() -> &'static Path {
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let recipe = "name = \"tiny\"\nseed = 3\nheld_out = 0.1\n[[sources]]\nname = \"sums\"\ngenerate = \"sums\"\ndocuments = 160\n\
                      licence = \"CC0-1.0\"\n[tokenizer]\nvocabulary_size = 400\n[shards]\n";
        std::fs::write(folder.path().join("data.toml"), recipe).unwrap();
        let made = farthing(folder.path(), &["data", "data.toml", "--quiet"]);
        assert!(made.status.success(), "{}", error(&made));
        folder
    });
    folder.path()
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farthing"));
    command.current_dir(folder).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn farthing(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

fn error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A folder with a recipe in it; `train` are lines of its last table.
fn folder(train: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset().join("tiny");
    let recipe = format!(
        "name = \"m\"\ndescription = \"Sums.\"\ndata = {:?}\nseed = 5\n[model]\nactive = \"60K\"\ncontext = 48\n\
         config = {{ hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 2, n_routed_experts = 4, num_experts_per_tok = 2, \
         intermediate_size = 64, moe_intermediate_size = 32, kv_lora_rank = 32 }}\n\
         [train]\nbatch = 512\nmicro_batch = 512\nprecision = \"f32\"\n{train}\n",
        data.display().to_string()
    );
    std::fs::write(folder.path().join("m.toml"), recipe).unwrap();
    folder
}

const ARGUMENTS: [&str; 5] = ["train", "m.toml", "--quiet", "--threads", "1"];

fn lines(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Steps and losses of a log.
fn losses(log: &Path) -> Vec<(u64, f64)> {
    lines(log).iter().filter_map(|line| Some((line["step"].as_u64()?, line["loss"].as_f64()?))).collect()
}

fn states(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("m/states")).into_iter().flatten();
    // What is being written has another name.
    let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("step-");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(named).collect();
    paths.sort();
    paths
}

/// Waits for something of a command that has to be running still.
fn wait_for(child: &mut Child, what: &str, there: impl Fn() -> bool) {
    let started = Instant::now();
    while !there() {
        assert!(child.try_wait().unwrap().is_none(), "over before there was {what}");
        assert!(started.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a training without any trouble logs.
fn undisturbed(train: &str) -> Vec<(u64, f64)> {
    let folder = folder(train);
    let whole = farthing(folder.path(), &ARGUMENTS);
    assert!(whole.status.success(), "{}", error(&whole));
    losses(&folder.path().join("m/log.jsonl"))
}

const LONG: &str = "tokens = 40000\nsave_minutes = 0.0001";

#[test]
fn a_second_training_in_the_same_directory_is_refused_with_who_holds_it() {
    let folder = folder("tokens = 100000000\nsave_minutes = 0.0001");
    let mut first = command(folder.path(), &ARGUMENTS).spawn().unwrap();
    wait_for(&mut first, "a state", || !states(folder.path()).is_empty());
    let second = farthing(folder.path(), &ARGUMENTS);
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = error(&second);
    assert!(
        said.contains("another run works in this directory: ") && said.contains(&format!("process {} on ", first.id())),
        "{said}"
    );
    assert!(said.ends_with("wait until it ends, or name another directory\n"), "{said}");
}

/// Killed at several moments: the log has every step once, with the losses of a training that was left alone.
#[test]
fn a_killed_training_goes_on_and_its_log_has_every_step_once() {
    let expected = undisturbed(LONG);
    assert!(expected.len() > 60, "{}", expected.len());
    let folder = folder(LONG);
    let log = folder.path().join("m/log.jsonl");
    for (kill, steps) in [10, 25, 45].into_iter().enumerate() {
        let mut run = command(folder.path(), &ARGUMENTS).spawn().unwrap();
        let logged = || std::fs::read_to_string(&log).unwrap_or_default().matches("\"step\":").count();
        wait_for(&mut run, "a step", || logged() >= steps);
        run.kill().unwrap();
        assert_eq!(run.wait().unwrap().signal(), Some(9), "{kill}");
    }
    let last = farthing(folder.path(), &ARGUMENTS);
    assert!(last.status.success(), "{}", error(&last));
    assert_eq!(losses(&log), expected);
    // What was written in between is there once, too.
    let all = lines(&log);
    let counted = |key: &str| -> Vec<u64> {
        all.iter().filter(|line| !line[key].is_null()).map(|line| line["tokens"].as_u64().unwrap()).collect()
    };
    let measured = counted("held_out_loss");
    assert!(measured.len() > 20 && measured.is_sorted_by(|a, b| a < b), "{measured:?}");
    assert_eq!(counted("samples"), measured);
    let page = std::fs::read_to_string(folder.path().join("m/report.html")).unwrap();
    assert!(page.contains("The training is finished.") && page.contains("<svg"));
}

/// Runs a training that may write files of so many bytes, as if the disk were full behind them.
fn limited(folder: &Path, bytes: u64) -> Output {
    // In blocks of 512 bytes. A write beyond the limit is an error where the signal is ignored.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", bytes / 512);
    let mut command = Command::new("sh");
    command.current_dir(folder).args(["-c", &script, env!("CARGO_BIN_EXE_farthing")]).args(ARGUMENTS);
    command.output().unwrap()
}

#[test]
fn a_disk_that_is_full_at_a_state_leaves_the_last_one_whole() {
    let folder = folder(LONG);
    let mut run = command(folder.path(), &ARGUMENTS).spawn().unwrap();
    wait_for(&mut run, "a state", || !states(folder.path()).is_empty());
    run.kill().unwrap();
    run.wait().unwrap();
    let before = states(folder.path());
    let output = limited(folder.path(), 64 << 10);
    assert_eq!(output.status.code(), Some(1));
    let (said, last) = (error(&output), Path::new("m/states").join(before.last().unwrap().file_name().unwrap()));
    let expected = format!("the last whole state is {}; the same command goes on from it", last.display());
    assert!(said.contains("farthing: no state was written: ") && said.contains(&expected), "{said}");
    assert_eq!(states(folder.path()), before, "nothing new");
    let last = farthing(folder.path(), &ARGUMENTS);
    assert!(last.status.success(), "{}", error(&last));
    assert_eq!(losses(&folder.path().join("m/log.jsonl")), undisturbed(LONG));
}

#[test]
fn a_disk_that_is_full_at_a_line_of_the_log_is_told_and_the_training_goes_on() {
    let folder = folder("tokens = 8000");
    let log = folder.path().join("m/log.jsonl");
    std::fs::create_dir(folder.path().join("m")).unwrap();
    // As long as no state is: what is behind it does not fit.
    let limit = 1 << 20;
    let start = "{\"note\":\"\"}\n";
    let long = start.replace("\"\"", &format!("\"{}\"", "x".repeat(limit - start.len() - 10)));
    std::fs::write(&log, &long).unwrap();
    let output = limited(folder.path(), limit as u64);
    let said = error(&output);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("the training goes on, its log or report is not whole").count(), 1, "{said}");
    assert!(said.contains("m/log.jsonl: "), "{said}");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), long, "no part of a line");
    assert!(!states(folder.path()).is_empty() && folder.path().join("m/model/config.json").exists());
    let run: Value = serde_json::from_slice(&std::fs::read(folder.path().join("m/run.json")).unwrap()).unwrap();
    assert_eq!((&run["finished"], run["steps"].as_u64()), (&Value::Bool(true), Some(15)));
}

/// In a user namespace anybody may mount. Where that is not allowed the test says so, and fails with `FARTHING_MOUNT=required`.
#[cfg(target_os = "linux")]
#[test]
fn a_small_disk_is_refused_with_what_a_state_needs() {
    let folder = folder("tokens = 8000");
    std::fs::create_dir(folder.path().join("m")).unwrap();
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.current_dir(folder.path()).args(["--map-root-user", "--mount", "sh", "-c", script]);
        command.arg(env!("CARGO_BIN_EXE_farthing")).args(ARGUMENTS).output()
    };
    let mount = "mount -t tmpfs -o size=1m,mode=700 tmpfs m";
    let mounted = unshare(mount);
    if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
        assert!(std::env::var("FARTHING_MOUNT").as_deref() != Ok("required"), "no small disk: {mounted:?}");
        eprintln!("SKIPPED a small disk: none can be mounted here");
        return;
    }
    let output = unshare(&format!("{mount} && exec \"$0\" \"$@\"")).unwrap();
    let said = error(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("m/states: a state needs ") && said.contains("the last whole state is none yet; make room"),
        "{said}"
    );
}

/// The rate is far too high: exit code 1, the step and its data named, and the states from before stay.
#[test]
fn a_training_that_diverges_fails_with_the_step_and_the_last_state() {
    let folder = folder(
        "tokens = 40000\nsave_minutes = 0.0001\nrate = 1.0\nwarm_up = 0.0\noptimizer = \"adamw\"\nclip = 1000.0",
    );
    let output = farthing(folder.path(), &ARGUMENTS);
    let said = error(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap();
    assert!(
        last.starts_with("farthing: step ") && last.contains(" of epoch 0; the last good checkpoint is m/states/step-"),
        "{said}"
    );
    assert!(last.ends_with("lower [train] rate, or lengthen warm_up"), "{said}");
    assert!(!folder.path().join("m/model").exists() && !states(folder.path()).is_empty());
}

/// What a training knows is on the card, and what a person gives holds over it.
#[test]
fn a_training_is_published_with_what_it_knows() {
    let folder = folder("tokens = 8000");
    let path = folder.path();
    let trained = farthing(path, &[&ARGUMENTS[..], &["--watts", "65", "--electricity", "0.3"]].concat());
    assert!(trained.status.success(), "{}", error(&trained));
    let published = farthing(path, &["publish", "m/model", "--out", "hub"]);
    let said = error(&published);
    assert!(published.status.success(), "{said}");
    assert!(said.contains("m/run.json\n") && said.contains("the card has no licence"), "{said}");
    let card = std::fs::read_to_string(path.join("hub/README.md")).unwrap();
    let run: Value = serde_json::from_slice(&std::fs::read(path.join("m/run.json")).unwrap()).unwrap();
    let number = |key: &str| run[key].as_f64().unwrap();
    let tokens = number("tokens") as u64;
    for expected in [
        "# m\n\nSums.\n".to_string(),
        format!("| sums | CC0-1.0 | {tokens} |"),
        format!("- 15 steps, {tokens} tokens\n"),
        format!("- loss on held-out text: {:.4} nats a token\n", number("held_out_loss")),
        format!("- bits a byte of held-out text: {:.4}\n", number("bits_per_byte")),
        " kWh\n".to_string(),
        "for electricity at 0.3 a kilowatt-hour\n".to_string(),
        "1 thread, ".to_string(),
        "[train]\nbatch = 512\n".to_string(),
        "It was trained on texts of 48 tokens at most.".to_string(),
    ] {
        assert!(card.contains(&expected), "{expected}: {card}");
    }
    assert!(!card.contains("license:"));

    std::fs::write(
        path.join("facts.json"),
        r#"{"name": "M", "license": "apache-2.0", "training": {"machine": "a laptop"}}"#,
    )
    .unwrap();
    let published = farthing(path, &["publish", "m/model/", "--card", "facts.json", "--out", "hub-2"]);
    assert!(published.status.success() && !error(&published).contains("no licence"), "{}", error(&published));
    let card = std::fs::read_to_string(path.join("hub-2/README.md")).unwrap();
    assert!(card.starts_with("---\nlicense: \"apache-2.0\"\n") && card.contains("# M\n"), "{card}");
    assert!(
        card.contains("- machine: a laptop\n") && card.contains("- 15 steps, ") && !card.contains("1 thread, "),
        "{card}"
    );

    // A training that goes on has other figures than the model that lies there.
    let running =
        std::fs::read_to_string(path.join("m/run.json")).unwrap().replace("\"finished\": true", "\"finished\": false");
    std::fs::write(path.join("m/run.json"), running).unwrap();
    let refused = farthing(path, &["publish", "m/model", "--out", "hub-3"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(error(&refused).contains("m/run.json: the training has not ended"), "{}", error(&refused));
    let given = farthing(path, &["publish", "m/model", "--out", "hub-3", "--card", "facts.json"]);
    assert_eq!(given.status.code(), Some(1), "steps are not known then");
    std::fs::remove_file(path.join("m/run.json")).unwrap();
    let refused = farthing(path, &["publish", "m/model", "--out", "hub-3"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(error(&refused).contains("give the facts of the card with --card"), "{}", error(&refused));
    assert!(!path.join("hub-3").exists());
}

/// The card of a model that went on from another of ours has what that one was trained on, and how.
#[test]
fn a_training_that_goes_on_from_another_names_that_one_and_its_sources() {
    let folder = folder("tokens = 8000");
    let path = folder.path();
    let trained = farthing(path, &ARGUMENTS);
    assert!(trained.status.success(), "{}", error(&trained));
    let run = |out: &str| -> Value {
        serde_json::from_slice(&std::fs::read(path.join(out).join("run.json")).unwrap()).unwrap()
    };
    // A source that the second one does not have.
    let file = path.join("m/run.json");
    let mut first = run("m");
    first["card"]["data"].as_array_mut().unwrap().push(json!({"name": "letters", "license": "CC0-1.0", "tokens": 77}));
    std::fs::write(&file, first.to_string()).unwrap();
    let recipe = std::fs::read_to_string(path.join("m.toml")).unwrap();
    let (head, _) = recipe.split_once("[model]").unwrap();
    let further = "[model]\nfrom = \"m/model\"\n[train]\nbatch = 512\nmicro_batch = 512\ntokens = 4000\n";
    std::fs::write(path.join("further.toml"), format!("{head}{further}")).unwrap();
    let train = |out: &str| farthing(path, &["train", "further.toml", "--quiet", "--out", out, "--threads", "1"]);
    let next = train("next");
    assert!(next.status.success(), "{}", error(&next));
    let (before, after) = (first["tokens"].as_u64().unwrap(), run("next")["tokens"].as_u64().unwrap());
    let card = run("next")["card"].clone();
    assert_eq!(card["training"]["from"], "model");
    assert_eq!(card["earlier"][0]["training"], first["card"]["training"]);
    assert_eq!(card["earlier"][0]["recipe"], first["card"]["recipe"]);
    let tokens: Vec<_> =
        card["data"].as_array().unwrap().iter().map(|source| (&source["name"], &source["tokens"])).collect();
    assert_eq!(tokens, [(&json!("sums"), &json!(before + after)), (&json!("letters"), &json!(77))]);
    let all = format!("{:.2} M tokens of the sources above", (before + after) as f64 / 1e6);
    assert!(card["limits"][0].as_str().unwrap().contains(&all), "{all}: {}", card["limits"]);

    // Whose model has been trained further since: other figures than those beside it.
    first["finished"] = json!(false);
    std::fs::write(&file, first.to_string()).unwrap();
    let other = train("other");
    assert!(error(&other).contains("m/run.json: the training has not ended"), "{}", error(&other));
    assert_eq!(run("other")["card"]["earlier"], Value::Null);
    // What is no such file is said, and stops nothing.
    std::fs::write(&file, r#"{"model": "m/model", "finished": true, "card": {"tokens": 1}}"#).unwrap();
    let broken = train("broken");
    assert!(
        broken.status.success() && error(&broken).contains("run.json: not the facts of a card"),
        "{}",
        error(&broken)
    );
}

/// All numbers of a checkpoint, by the names of its tensors.
fn numbers(path: &Path) -> std::collections::BTreeMap<String, Vec<f32>> {
    let weights = ["model.safetensors", "weights.safetensors"].map(|name| path.join(name));
    let tensors = Tensors::of_safetensors(weights.iter().find(|file| file.exists()).unwrap()).unwrap();
    let of = |name: &String| (name.clone(), tensors.widened(name, &tensors.by_name[name].shape).unwrap());
    tensors.by_name.keys().map(of).collect()
}

/// A mean has the numbers of its checkpoints by their shares, and its card what they were trained on; what has no mean is refused by name.
#[test]
fn checkpoints_are_averaged() {
    let folder = folder("tokens = 8000");
    let path = folder.path();
    let trained = farthing(path, &ARGUMENTS);
    assert!(trained.status.success(), "{}", error(&trained));
    let recipe = std::fs::read_to_string(path.join("m.toml")).unwrap();
    let (head, _) = recipe.split_once("[model]").unwrap();
    let further = "[model]\nfrom = \"m/model\"\n[train]\nbatch = 512\nmicro_batch = 512\ntokens = 4000\n";
    std::fs::write(path.join("further.toml"), format!("{head}{further}")).unwrap();
    let next = farthing(path, &["train", "further.toml", "--quiet", "--out", "next", "--threads", "1"]);
    assert!(next.status.success(), "{}", error(&next));
    let state = std::fs::read_dir(path.join("next/states")).unwrap().next().unwrap().unwrap().path();
    let state = state.strip_prefix(path).unwrap().to_str().unwrap();

    let mean = farthing(path, &["average", "m/model", state, "--shares", "1,3", "--weights", "f32", "--out", "mean"]);
    assert!(mean.status.success(), "{}", error(&mean));
    let said = String::from_utf8(mean.stdout).unwrap();
    assert!(said.contains(&format!(": 0.250 of m/model, 0.750 of {state}\n")), "{said}");
    let [first, second, mean] = ["m/model", state, "mean/model"].map(|name| numbers(&path.join(name)));
    assert!(mean.len() > 10 && mean.len() == first.len());
    let mut differ = 0;
    for (name, numbers) in &mean {
        for ((x, a), b) in numbers.iter().zip(&first[name]).zip(&second[name]) {
            let expected = 0.25 * a + 0.75 * b;
            assert!((x - expected).abs() <= 1e-6 * (1.0 + expected.abs()), "{name}: {x} of {a} and {b}");
            differ += usize::from(a != b);
        }
    }
    assert!(differ > 1000, "{differ} numbers differ");

    // The second training went on from the first: its card has both.
    let published = farthing(path, &["publish", "mean/model", "--out", "hub"]);
    assert!(published.status.success(), "{}", error(&published));
    let card = std::fs::read_to_string(path.join("hub/README.md")).unwrap();
    assert!(card.contains("| the mean of | share |\n| --- | --- |\n| m/model | 0.250 |\n| next/step-"), "{card}");
    assert!(card.contains("## Earlier training, 1 of 1\n\n- 15 steps, "), "{card}");
    let (last, _) = card.split_once("## Earlier training").unwrap();
    assert!(last.contains("## Training\n\n- 8 steps, ") && !last.contains("loss on held-out text"), "{card}");
    assert!(card.contains("- No loss of the mean was measured."), "{card}");
    let eval = farthing(path, &["average", "m/model", "next/model", "--out", "half", "--json"]);
    let report: Value = serde_json::from_slice(&eval.stdout).unwrap();
    assert_eq!(report["mean_of"][1], json!({"checkpoint": "next/model", "share": 0.5}));
    // A choice of experts stays exact in 16 bits, in the mean and in what is published of it.
    let bias = "model.layers.1.mlp.gate.e_score_correction_bias";
    let stored = |name: &str| {
        let tensors = Tensors::of_safetensors(&path.join(name).join("model.safetensors")).unwrap();
        tensors.by_name[bias].stored.clone()
    };
    assert_eq!(["half/model", "hub", "m/model"].map(stored), [(); 3].map(|()| Stored::As(Format::F32)));

    let wider = recipe.replace("hidden_size = 32", "hidden_size = 64");
    std::fs::write(path.join("wider.toml"), wider).unwrap();
    let wider = farthing(path, &["train", "wider.toml", "--quiet", "--out", "wider", "--threads", "1"]);
    assert!(wider.status.success(), "{}", error(&wider));
    let wider_state = std::fs::read_dir(path.join("wider/states")).unwrap().next().unwrap().unwrap().path();
    let wider_state = wider_state.to_str().unwrap();
    let pocket = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/pocket/pocket-Q8_0.gguf");
    for (arguments, code, words) in [
        (&["m/model", "wider/model", "--out", "x"][..], 1, "its structure is another"),
        (&["m/model", wider_state, "--out", "x"], 1, "has the shape"),
        (&["m/model", pocket, "--out", "x"], 1, "a GGUF file, to be averaged"),
        (&["m/model", "next/model", "--out", "mean"], 2, "mean: it is there already"),
        (&["m/model", "next/model", "--out", "x", "--shares", "1"], 2, "--shares: 1 of them, and 2 checkpoints"),
        (&["m/model", "next/model", "--out", "x", "--shares", "0,0"], 2, "all are 0"),
        (&["m/model", "next/model", "--out", "x", "--shares", "1,-1"], 2, "a number from 0 on"),
        (&[state, "m/model", "--out", "x"], 2, "give a model's directory first"),
        (&["m/model", "nowhere", "--out", "x"], 1, "nowhere"),
        (&["m/model", "--out", "x"], 2, "2 values required"),
    ] {
        let refused = farthing(path, &[&["average"], arguments].concat());
        let said = error(&refused);
        assert!(refused.status.code() == Some(code) && said.contains(words), "{arguments:?}: {said}");
    }
    // A state that was cut off, and one of another structure.
    let weights = path.join(state).join("weights.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    let cut = farthing(path, &["average", "m/model", state, "--out", "x"]);
    assert!(cut.status.code() == Some(1) && error(&cut).contains("weights.safetensors"), "{}", error(&cut));
    assert!(!path.join("x").exists());
    let left = std::fs::read_dir(path).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.ends_with(".part")).count(), 0);
}

/// Curves and samples of a training that is over, from its log.
#[test]
fn a_report_is_written_again() {
    let folder = folder("tokens = 8000\n[evaluate]\nprompts = [\"<script>alert(1)</script>\"]");
    let trained = farthing(folder.path(), &ARGUMENTS);
    assert!(trained.status.success(), "{}", error(&trained));
    let file = folder.path().join("m/report.html");
    let page = std::fs::read_to_string(&file).unwrap();
    assert!(page.contains("&lt;script&gt;alert(1)&lt;&#x2f;script&gt;</b>") && !page.contains("<script"), "{page}");
    std::fs::remove_file(&file).unwrap();
    let shown = farthing(folder.path(), &["train", "m.toml", "--replay"]);
    let said = String::from_utf8(shown.stdout).unwrap();
    assert!(said.ends_with("15 steps; curves and samples are in m/report.html\n"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), page);
    // The second layer is the one with experts; TensorBoard gets it by name in every step.
    let mut events = std::fs::read_dir(folder.path().join("m/tensorboard")).unwrap();
    let events = std::fs::read(events.next().unwrap().unwrap().path()).unwrap();
    for tag in ["experts/busiest_of_layer_1", "experts/idlest_of_layer_1"] {
        assert_eq!(events.windows(tag.len()).filter(|bytes| *bytes == tag.as_bytes()).count(), 15, "{tag}");
    }
}
