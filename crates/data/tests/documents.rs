//! docs/DATA.md has every step with its settings, and every generator.

use std::path::Path;

use farthing_data::steps::Surroundings;
use farthing_data::{generators, steps};

/// What an unknown key is answered with: the known ones.
fn keys(problem: Option<String>) -> Vec<String> {
    let problem = problem.expect("an unknown key is refused");
    let expected = problem.split_once("expected").map_or("", |(_, expected)| expected).to_string();
    expected.split('`').skip(1).step_by(2).map(str::to_string).collect()
}

#[test]
fn every_step_and_generator_is_described_with_its_settings() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/DATA.md")).unwrap();
    let unknown: toml::Table = "no_such_key = 1".parse().unwrap();
    let surroundings = Surroundings { directory: Path::new("."), seed: 0 };
    let steps = steps::KINDS.iter().map(|kind| (kind.name, keys((kind.make)(unknown.clone(), surroundings).err())));
    let manual = generators::manual::Manual::default();
    let made = generators::KINDS.iter().map(|kind| (kind.name, keys((kind.make)(unknown.clone(), &manual).err())));
    let mut missing = Vec::new();
    for (name, keys) in steps.chain(made) {
        let row = text.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap_or_default();
        missing
            .extend(keys.iter().filter(|key| !row.contains(&format!("`{key}`"))).map(|key| format!("{name}: {key}")));
        if row.is_empty() {
            missing.push(format!("{name}: a row"));
        }
    }
    assert!(missing.is_empty(), "docs/DATA.md lacks {missing:#?}");
}
