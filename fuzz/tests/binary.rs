//! The binary as `./check` runs it.

use std::path::Path;
use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_farthing-fuzz")).args(arguments).output().unwrap()
}

#[test]
fn a_target_runs_its_corpus_and_more() {
    let output = run(&["--seconds", "0", "index"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let count: usize = text.strip_prefix("index: ").and_then(|t| t.split(' ').next()?.parse().ok()).expect(&text);
    // Four seeds, a finding, and one made from them.
    assert!(count > 5, "{text}");
}

#[test]
fn every_target_takes_its_seeds_and_findings() {
    let mut count = 0;
    for kind in ["seeds", "findings"] {
        for folder in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(kind)).unwrap() {
            let folder = folder.unwrap();
            let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect();
            let mut fuzz = Command::new(env!("CARGO_BIN_EXE_farthing-fuzz"));
            let output = fuzz.arg("--replay").arg(folder.file_name()).args(&files).output().unwrap();
            assert!(output.status.success(), "{folder:?}: {}", String::from_utf8_lossy(&output.stderr));
            count += files.len();
        }
    }
    assert!(count >= 60, "{count}");
}

#[test]
fn what_breaks_a_target_ends_with_an_error() {
    let missing = run(&["--replay", "index", "no/such/file"]);
    assert_eq!(missing.status.code(), Some(101));
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/findings/index/empty-name.json");
    assert!(run(&["--replay", "index", file]).status.success());
    for wrong in [&["nothing"][..], &["--seconds", "x"], &["--replay", "nothing", file]] {
        assert_eq!(run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}
