//! What the documents claim about the tree is true, and `unsafe` stays where it belongs.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn sources(directory: &Path, found: &mut Vec<String>) {
    let mut entries: Vec<_> = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_string());
        }
    }
}

fn all_sources() -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        sources(&entry.unwrap().path().join("src"), &mut found);
    }
    found.sort();
    found
}

#[test]
fn architecture_lists_every_source() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let map = text.split("```tree\n").nth(1).and_then(|t| t.split("```").next()).expect("a tree in ARCHITECTURE.md");
    let (mut listed, mut folder) = (Vec::new(), String::new());
    for line in map.lines().filter(|l| !l.trim().is_empty()) {
        if let Some(name) = line.strip_suffix('/') {
            folder = name.to_string();
        } else {
            listed.push(format!("{folder}/{}", line.split_whitespace().next().unwrap()));
        }
    }
    listed.sort();
    assert_eq!(listed, all_sources());
}

#[test]
fn unsafe_stays_in_the_kernels_and_the_mapping() {
    for source in all_sources() {
        let text = std::fs::read_to_string(root().join(&source)).unwrap();
        let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        let used = code.into_iter().any(|l| l.contains("unsafe ") || l.contains("unsafe_code"));
        let allowed = source.starts_with("crates/kernels/") || source == "crates/model/src/mmap.rs";
        assert!(allowed || !used, "{source} uses unsafe");
        let name = Path::new(&source).file_stem().unwrap().to_str().unwrap();
        assert!(!["utils", "util", "common", "helpers", "misc"].contains(&name), "{source}: name it by what it is");
    }
}

#[test]
fn readme_has_the_two_commands() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let setup = text.split("## Two commands").nth(1).and_then(|t| t.split("\n## ").next()).unwrap();
    let commands: Vec<&str> = setup.split("```sh\n").skip(1).map(|t| t.split("```").next().unwrap().trim()).collect();
    assert_eq!(commands, ["cargo run --release -- chat", "./check"]);
    assert!(std::fs::read_to_string(root().join(".ci/run")).unwrap().contains("./check"));
}
