//! `farthing data` as a person uses it: plans, runs, reports, stops, wrong arguments, a full disk.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn farthing(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_farthing")).current_dir(folder).arg("data").args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A recipe over one file of lines.
fn recipe(folder: &Path, documents: usize) {
    let text =
        "The first of the stones was to be left in the river, and the second one that they had with them was heavy. ";
    let lines: Vec<String> =
        (0..documents).map(|i| format!("{{\"text\": \"{}{}\"}}", text.repeat(3), i % (documents - 1))).collect();
    std::fs::write(folder.join("lines.jsonl"), lines.join("\n")).unwrap();
    let recipe = "name = \"corpus\"\n[[sources]]\nname = \"lines\"\nfiles = [\"lines.jsonl\"]\nlicence = \"CC0-1.0\"\n\
                  [[steps]]\nstep = \"gopher_quality\"\n[[steps]]\nstep = \"exact_dedup\"\n";
    std::fs::write(folder.join("recipe.toml"), recipe).unwrap();
}

#[test]
fn a_recipe_is_planned_run_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    recipe(folder.path(), 40);
    let planned = farthing(folder.path(), &["recipe.toml", "--plan"]);
    assert!(planned.status.success(), "{}", error(&planned));
    assert!(out(&planned).contains("phase 2: exact_dedup"), "{}", out(&planned));
    assert!(!folder.path().join("corpus").exists());

    let run = farthing(folder.path(), &["recipe.toml"]);
    assert!(run.status.success(), "{}", error(&run));
    assert!(out(&run).contains("lines") && out(&run).contains("exact_dedup"), "{}", out(&run));
    let card = std::fs::read_to_string(folder.path().join("corpus/README.md")).unwrap();
    assert!(card.contains("| lines | 40 | 39 |") && card.contains("CC0-1.0"), "{card}");
    assert!(std::fs::read_to_string(folder.path().join("corpus/report.html")).unwrap().contains("<svg"));

    let json =
        farthing(folder.path(), &["recipe.toml", "--out", "other", "--json", "--threads", "1", "--memory", "64M"]);
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(report["total"]["kept"]["documents"], 39);
    assert!(error(&json).lines().all(|line| line.starts_with("{\"note\":")), "{}", error(&json));
}

#[test]
fn a_preview_shows_documents_before_and_after_each_step() {
    let folder = tempfile::tempdir().unwrap();
    recipe(folder.path(), 40);
    let lines = std::fs::read_to_string(folder.path().join("lines.jsonl")).unwrap();
    let first = "{\"text\": \"short \\u001b[31m\"}\nno json\n";
    std::fs::write(folder.path().join("lines.jsonl"), format!("{first}{lines}")).unwrap();
    let shown = farthing(folder.path(), &["recipe.toml", "--preview", "2"]);
    assert!(shown.status.success(), "{}", error(&shown));
    let text = out(&shown);
    for said in [
        "source lines: 2 documents\n",
        "  damaged: lines.jsonl:2: no JSON",
        "lines/lines.jsonl#0: 11 B\n  | short \u{fffd}[31m\n  gopher_quality: dropped by gopher_quality.words_min: ",
        "  gopher_quality: kept\n  exact_dedup: decided once all documents are read\n",
    ] {
        assert!(text.contains(said), "{said:?} is not in {text}");
    }
    // Three documents unless a number is given, and the same as JSON.
    let json = farthing(folder.path(), &["recipe.toml", "--json", "--preview"]);
    let preview: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(preview["sources"][0]["documents"].as_array().unwrap().len(), 3);
    assert_eq!(preview["sources"][0]["documents"][0]["steps"][0]["effect"], "dropped");
    assert_eq!(preview["sources"][0]["damaged"][0]["place"], "lines.jsonl:2");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is written");
    assert_eq!(farthing(folder.path(), &["recipe.toml", "--preview", "0"]).status.code(), Some(2));
}

#[test]
fn steps_and_generators_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let listed = farthing(folder.path(), &["--steps"]);
    assert!(out(&listed).contains("gopher_quality") && out(&listed).contains("Generators"), "{}", out(&listed));
    let json: serde_json::Value =
        serde_json::from_slice(&farthing(folder.path(), &["--steps", "--json"]).stdout).unwrap();
    assert!(json["steps"].as_array().unwrap().iter().all(|step| step["help"].as_str().is_some_and(|h| !h.is_empty())));
}

#[test]
fn what_is_wrong_is_told_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    recipe(folder.path(), 5);
    for (arguments, code, said) in [
        (vec!["none.toml"], 1, "none.toml"),
        (vec![], 2, "RECIPE"),
        (vec!["recipe.toml", "--rank", "2", "--world", "2"], 2, "ranks count from 0"),
        (vec!["recipe.toml", "--rank", "2"], 2, "--world"),
        (vec!["recipe.toml", "--out", "recipe.toml"], 1, "recipe.toml"),
        (vec!["lines.jsonl"], 1, "lines.jsonl:1: "),
        (vec!["--preview", "recipe.toml"], 2, "the recipe comes first: recipe.toml --preview"),
        (vec!["recipe.toml", "--memory", "1M"], 2, "16M"),
        (vec!["recipe.toml", "--memory", "much"], 2, "such as"),
        #[cfg(not(feature = "cluster"))]
        (vec!["recipe.toml", "--cluster", "in-process"], 2, "cargo build --release --features cluster"),
        #[cfg(feature = "cluster")]
        (vec!["recipe.toml", "--cluster", "node1"], 2, "HOST:PORT"),
    ] {
        let output = farthing(folder.path(), &arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", error(&output));
        assert!(error(&output).contains(said), "{arguments:?}: {}", error(&output));
    }
    std::fs::write(
        folder.path().join("recipe.toml"),
        "name = \"a\"\n\n[[sources]]\nname = \"s\"\nfiles = [\"*\"]\nformt = 1\n",
    )
    .unwrap();
    let output = farthing(folder.path(), &["recipe.toml"]);
    assert!(error(&output).starts_with("farthing: recipe.toml:6: unknown field `formt`"), "{}", error(&output));
}

/// The files of all sources in one go, and no line of a recipe can make another one here.
#[test]
fn missing_files_are_told_a_line_each() {
    let folder = tempfile::tempdir().unwrap();
    let source =
        |name: &str| format!("[[sources]]\nname = {name:?}\nfiles = [\"{name}.jsonl\"]\nget = \"fetch\\n{name}\"\n");
    let recipe = format!("name = \"a\"\n{}{}", source("s"), source("t"));
    std::fs::write(folder.path().join("recipe.toml"), recipe).unwrap();
    let planned = farthing(folder.path(), &["recipe.toml", "--plan"]);
    let told = error(&planned);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!((planned.status.code(), lines.len()), (Some(1), 3), "{told}");
    assert!(lines[0].ends_with("s.jsonl: no such file, which source s needs; fetch s"), "{told}");
    assert!(
        lines[1].contains("source t") && lines[2] == "farthing: 2 sources lack files; how to get them stands above",
        "{told}"
    );
    let json = error(&farthing(folder.path(), &["recipe.toml", "--plan", "--json"]));
    assert!(json.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{json}");
}

/// A run that finds everything made names no speed.
#[test]
fn nothing_is_read_twice_and_no_rate_is_told_then() {
    let folder = tempfile::tempdir().unwrap();
    recipe(folder.path(), 40);
    assert!(error(&farthing(folder.path(), &["recipe.toml"])).contains("iB/s; report, card"));
    let again = error(&farthing(folder.path(), &["recipe.toml"]));
    assert!(again.contains("nothing was left to be read; report, card") && !again.contains("/s;"), "{again}");
}

/// Killed without warning at many moments, then finished: the bytes of a run that was left alone.
#[test]
fn a_killed_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    recipe(folder.path(), 3000);
    let whole = farthing(folder.path(), &["recipe.toml", "--out", "whole", "--quiet"]);
    assert!(whole.status.success(), "{}", error(&whole));
    let mut killed = 0;
    for attempt in 0..40u64 {
        let mut run = Command::new(env!("CARGO_BIN_EXE_farthing"))
            .current_dir(folder.path())
            .args(["data", "recipe.toml", "--out", "killed", "--quiet"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(5 + 3 * attempt));
        run.kill().unwrap();
        if run.wait().unwrap().success() {
            break;
        }
        killed += 1;
    }
    assert!(killed > 0);
    let last = farthing(folder.path(), &["recipe.toml", "--out", "killed", "--quiet"]);
    assert!(last.status.success(), "{}", error(&last));
    let manifest = |name: &str| std::fs::read_to_string(folder.path().join(name).join("dataset.json")).unwrap();
    assert_eq!(manifest("whole"), manifest("killed"));
}

#[test]
fn ctrl_c_stops_a_run_at_once() {
    let folder = tempfile::tempdir().unwrap();
    recipe(folder.path(), 150_000);
    let mut run = Command::new(env!("CARGO_BIN_EXE_farthing"))
        .current_dir(folder.path())
        .args(["data", "recipe.toml", "--threads", "1"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !folder.path().join("corpus/work").exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let asked = Instant::now();
    let pid = rustix::process::Pid::from_child(&run);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = run.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert!(!folder.path().join("corpus/dataset.json").exists());
}
