//! The recipes that come with the program: each is planned, and the one of generators alone is run whole.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes")
}

fn farthing(folder: &Path, recipe: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farthing"));
    // Recipes of corpora are named so; the others train.
    let data = recipe.file_stem().unwrap().to_str().unwrap().ends_with("-data");
    command.current_dir(folder).arg(if data { "data" } else { "train" });
    command.arg(recipe).args(arguments).output().unwrap()
}

fn error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Copies a recipe to an empty folder, where its sources are not.
fn alone(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join(name);
    std::fs::copy(recipes().join(name), &recipe).unwrap();
    (folder, recipe)
}

#[test]
fn every_recipe_is_sound_and_says_how_to_get_what_it_needs() {
    let files = std::fs::read_dir(recipes()).unwrap().map(|entry| entry.unwrap().path());
    let names: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_string())
        .collect();
    assert!(names.len() >= 2, "{names:?}");
    for name in names {
        let (folder, recipe) = alone(&name);
        let text = std::fs::read_to_string(&recipe).unwrap();
        let planned = farthing(folder.path(), &recipe, &["--plan"]);
        if !name.ends_with("-data.toml") {
            // It is whole but for its data, whose recipe is here too.
            let said = error(&planned);
            assert!(said.contains("no dataset with shards is there"), "{name}: {said}");
            let table: toml::Table = text.parse().unwrap();
            let data = Path::new(table["data"].as_str().unwrap()).file_name().unwrap().to_str().unwrap();
            assert!(recipes().join(format!("{data}.toml")).exists(), "{name}: {data}");
            continue;
        }
        if !text.contains("files = [") {
            assert!(planned.status.success(), "{name}: {}", error(&planned));
            continue;
        }
        assert_eq!(planned.status.code(), Some(1), "{name}");
        let said = error(&planned);
        assert!(said.contains("no such file") && said.contains("git clone https://"), "{name}: {said}");
    }
}

/// Every source of files says where it is from, which version, under which licence, and how to get it.
#[test]
fn sources_are_named_with_their_origin() {
    let text = std::fs::read_to_string(recipes().join("pocket-data.toml")).unwrap();
    let recipe: toml::Table = text.parse().unwrap();
    for source in recipe["sources"].as_array().unwrap() {
        let (name, get) = (source["name"].as_str().unwrap(), source.get("get").and_then(|get| get.as_str()));
        if source.get("generate").is_some() {
            continue;
        }
        assert!(source.get("licence").is_some() && source.get("url").is_some(), "{name}");
        let get = get.unwrap_or_else(|| panic!("{name} has no get"));
        // A version is a commit, or that of a package in its address.
        if let Some(commit) = source.get("commit").and_then(|commit| commit.as_str()) {
            assert!(get.contains(commit) || get.starts_with("the files of the source"), "{name}: {get}");
        } else {
            assert!(get.contains("sha256sum --check"), "{name}: {get}");
        }
    }
}

#[test]
fn the_recipe_of_generators_runs_whole() {
    let (folder, recipe) = alone("generated-data.toml");
    let run = farthing(folder.path(), &recipe, &["--json"]);
    assert!(run.status.success(), "{}", error(&run));
    let report: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    let kept = report["total"]["kept"]["documents"].as_u64().unwrap();
    let bytes = report["total"]["kept"]["bytes"].as_u64().unwrap();
    assert!(kept >= 15_000 && bytes >= 1 << 20, "{report}");
    for source in report["sources"].as_array().unwrap() {
        let count = |of: &str| source["tally"][of]["documents"].as_u64().unwrap_or_else(|| panic!("{source}"));
        assert!(count("kept") * 10 >= count("read") * 9, "{source}");
    }
    let made = folder.path().join("generated-data");
    assert!(made.join("dataset.json").exists() && made.join("README.md").exists());
}
