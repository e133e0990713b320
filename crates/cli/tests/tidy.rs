//! What the documents claim about the tree is true, and `unsafe` stays where it belongs.

use std::collections::{BTreeMap, BTreeSet};
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
    let sources = all_sources();
    let missing: Vec<&String> = sources.iter().filter(|file| !listed.contains(file)).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md lacks {missing:?}");
    listed.sort();
    listed.iter().zip(&sources).for_each(|(listed, source)| assert_eq!(listed, source, "listed twice, or not there"));
    assert_eq!(listed.len(), sources.len(), "listed twice");
}

/// Files that the text of ARCHITECTURE.md names, such as `engine/worker.rs` for `crates/engine/src/worker.rs`.
#[test]
fn architecture_names_files_that_exist() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let spans =
        text.split('`').skip(1).step_by(2).filter(|s| s.ends_with(".rs") && s.contains('/') && !s.contains('\n'));
    let exists = |name: &str| {
        let (folder, rest) = name.split_once('/').unwrap();
        let places = [
            PathBuf::from(name),
            Path::new("crates").join(name),
            Path::new("crates").join(folder).join("src").join(rest),
        ];
        places.iter().any(|place| root().join(place).is_file())
    };
    let (found, missing): (Vec<&str>, Vec<&str>) = spans.partition(|name| exists(name));
    assert!(missing.is_empty(), "{missing:?}");
    assert!(found.len() >= 80, "{} files: are they still found?", found.len());
}

/// Packages that documents and scripts hand to cargo.
#[test]
fn packages_that_are_named_exist() {
    let package = |folder: &Path| {
        let manifest: toml::Table = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap().parse().unwrap();
        manifest["package"]["name"].as_str().unwrap().to_string()
    };
    let mut known: BTreeSet<String> =
        std::fs::read_dir(root().join("crates")).unwrap().map(|e| package(&e.unwrap().path())).collect();
    known.insert(package(&root().join("fuzz")));
    let mut named = 0;
    for folder in [".", "docs", "packaging", "fuzz"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            // The log keeps commands as they were given.
            if path.ends_with("LOG.md") {
                continue;
            }
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            for line in text.lines().filter(|line| line.contains("cargo ")) {
                let words: Vec<&str> = line.split_whitespace().collect();
                for pair in words.windows(2).filter(|pair| ["-p", "--package"].contains(&pair[0])) {
                    assert!(known.contains(pair[1]), "{}: {} is none of {known:?}", path.display(), pair[1]);
                    named += 1;
                }
            }
        }
    }
    assert!(named >= 6, "{named}: are they still found?");
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

/// What both READMEs have in common whatever their language: commands without their comments, code spans, links, and the number of headings,
/// rows and points.
fn outline(name: &str) -> (Vec<String>, BTreeSet<String>, [usize; 3]) {
    let text = std::fs::read_to_string(root().join(name)).unwrap();
    let (mut commands, mut names) = (Vec::new(), BTreeSet::new());
    for (i, part) in text.split("```").enumerate() {
        if i % 2 == 1 {
            let code = |line: &str| line.split(" #").next().unwrap().split(" //").next().unwrap().trim().to_string();
            commands.extend(part.lines().map(code));
        } else {
            names.extend(part.split('`').skip(1).step_by(2).map(str::to_string));
            let links = part.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
            names.extend(links.filter(|link| !link.starts_with("README")).map(str::to_string));
        }
    }
    let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    (commands, names, ["## ", "|", "- "].map(count))
}

#[test]
fn both_readmes_say_the_same() {
    assert_eq!(outline("README.md"), outline("README.zh-CN.md"));
}

/// The table of well-known models is that of `farthing models`.
#[test]
fn both_readmes_have_the_known_models() {
    let row = |known: &farthing::known::KnownModel| {
        let (parameters, decode) = (known.parameters_in_words(), known.decode_in_words());
        let [size, memory] = [known.bytes, known.memory].map(farthing::words::bytes);
        let cells = [known.id, known.structure, &parameters, &size, &memory, known.licence, &decode].join(" | ");
        format!("| `{}` | {cells} |", known.name)
    };
    let rows: Vec<String> = farthing::known::KNOWN.iter().map(row).collect();
    for name in ["README.md", "README.zh-CN.md"] {
        let text = std::fs::read_to_string(root().join(name)).unwrap();
        assert!(text.contains(&rows.join("\n")), "{name} lacks:\n{}", rows.join("\n"));
    }
}

/// The README names the first models that `farthing models` suggests.
#[test]
fn first_models_are_those_that_are_suggested() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let line = readme.lines().find(|line| line.starts_with("A first model")).unwrap();
    let named = |part: &str| {
        let (memory, rest) = part.rsplit_once(" GB `")?;
        let memory: u64 = memory.rsplit(' ').next()?.parse().ok()?;
        Some((memory, rest.split('`').next()?.to_string()))
    };
    let rows: Vec<(u64, String)> = line.split(", ").flat_map(|part| part.split(": ")).filter_map(named).collect();
    for (memory, name) in &rows {
        assert_eq!(
            farthing::known::suggested(memory << 30).map(|known| known.name),
            Some(name.as_str()),
            "{memory} GB"
        );
    }
    let first = farthing::known::KNOWN.iter().filter(|known| known.first);
    assert_eq!(
        rows.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(),
        first.map(|k| k.name).collect::<Vec<_>>()
    );
}

/// Lines of a function from its signature to its closing brace; above that it has to be on the list below.
const FUNCTION_LINES: usize = 70;

/// Longer functions, to be shortened: a new one does not belong here, and one that became shorter leaves.
const LONG_FUNCTIONS: [&str; 2] = ["kernels/attend.rs attend", "kernels/training/attention_backward.rs backward"];

/// Functions of a formatted source with their lines, without those of its tests. The closing brace stands under the start of the signature.
fn functions(source: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = source.lines().collect();
    let end = lines.windows(2).position(|w| w[0] == "#[cfg(test)]" && w[1].starts_with("mod ") && w[1].ends_with('{'));
    let lines = &lines[..end.unwrap_or(lines.len())];
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let signature = line.trim_start();
        let indent = &line[..line.len() - signature.len()];
        let Some((before, rest)) = signature.split_once("fn ") else { continue };
        let words = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern", "\"C\""];
        if !before.split_whitespace().all(|w| words.contains(&w)) {
            continue;
        }
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let closing = format!("{indent}}}");
        // A declaration without a body, or one on a single line, ends before any brace under it.
        let ends =
            |l: &str| l == closing || l.starts_with(&format!("{indent}fn ")) || l.starts_with(&format!("{indent}pub "));
        // A macro's function has its body elsewhere.
        if line.ends_with(['}', ';', '=']) || line.ends_with("$body") {
            continue;
        }
        if let Some(length) = lines[start + 1..].iter().position(|l| ends(l))
            && lines[start + 1 + length] == closing
        {
            found.push((name, length + 2));
        }
    }
    found
}

#[test]
fn functions_stay_short() {
    let mut long = BTreeSet::new();
    for source in all_sources() {
        let (name, file) = source.strip_prefix("crates/").and_then(|s| s.split_once("/src/")).unwrap();
        if file.split('/').any(|part| ["tests.rs", "tests"].contains(&part)) {
            continue;
        }
        let text = std::fs::read_to_string(root().join(&source)).unwrap();
        let lines = functions(&text).into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES);
        long.extend(lines.map(|(function, _)| format!("{name}/{file} {function}")));
    }
    let listed: BTreeSet<String> = LONG_FUNCTIONS.iter().map(|s| s.to_string()).collect();
    let new: Vec<_> = long.difference(&listed).collect();
    assert!(new.is_empty(), "longer than {FUNCTION_LINES} lines: {new:#?}");
    let gone: Vec<_> = listed.difference(&long).collect();
    assert!(gone.is_empty(), "no longer that long, or gone; take off the list: {gone:#?}");
}

#[test]
fn lengths_of_functions_are_seen() {
    let source = "fn a() {\n    b();\n}\n\nimpl X {\n    pub fn c(\n        x: u8,\n    ) -> u8 {\n        x\n    }\n    fn d(&self);\n}\n\
                  #[cfg(test)]\nmod tests {\n    fn e() {\n        f();\n    }\n}\n";
    assert_eq!(functions(source), [("a".to_string(), 3), ("c".to_string(), 5)]);
}

/// The crates of this workspace by the names under which the manifests know them: name to folder under `crates`.
fn crates() -> BTreeMap<String, String> {
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let dependencies = manifest["workspace"]["dependencies"].as_table().unwrap();
    let paths = dependencies.iter().filter_map(|(name, d)| Some((name, d.get("path")?.as_str()?)));
    paths.map(|(name, path)| (name.clone(), path.strip_prefix("crates/").unwrap().to_string())).collect()
}

/// What each crate may use is a column of the table in ARCHITECTURE.md. Tests may use more; they are not looked at.
#[test]
fn arrows_between_crates_are_those_of_the_table() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let table = text.split("| crate | uses |").nth(1).and_then(|t| t.split("\n\n").next()).expect("the table of rooms");
    let allowed: BTreeMap<String, BTreeSet<String>> = table
        .lines()
        .skip(2)
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let uses = cells[2].split(", ").filter(|name| !name.is_empty());
            (cells[1].trim_matches('`').to_string(), uses.map(|name| name.trim_matches('`').to_string()).collect())
        })
        .collect();
    let crates = crates();
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        let folder = entry.unwrap();
        let manifest: toml::Table = std::fs::read_to_string(folder.path().join("Cargo.toml")).unwrap().parse().unwrap();
        // Dependencies of one system, in tables under `target`, too.
        let targets = manifest.get("target").and_then(|t| t.as_table()).into_iter().flat_map(|t| t.values());
        let tables = std::iter::once(&toml::Value::Table(manifest.clone())).chain(targets).cloned().collect::<Vec<_>>();
        let uses: BTreeSet<String> = tables
            .iter()
            .flat_map(|t| ["dependencies", "build-dependencies"].map(|kind| t.get(kind).and_then(|d| d.as_table())))
            .flatten()
            .flat_map(|d| d.keys())
            .filter_map(|name| crates.get(name).cloned())
            .collect();
        found.insert(folder.file_name().into_string().unwrap(), uses);
    }
    assert_eq!(found, allowed);
}

/// The tests that docs/SECURITY.md names, and the paths of its links.
#[test]
fn tests_of_the_threat_model_exist() {
    let text = std::fs::read_to_string(root().join("docs/SECURITY.md")).unwrap();
    let mut all = Vec::new();
    sources(&root().join("crates"), &mut all);
    let code: String = all.iter().map(|path| std::fs::read_to_string(root().join(path)).unwrap()).collect();
    let rows = text.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let rows: Vec<_> = rows.filter(|cells| cells.len() == 6 && !["class", "---"].contains(&cells[1])).collect();
    assert!(rows.len() > 20, "{}", rows.len());
    for cells in rows {
        let tests: Vec<&str> = cells[4].split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{cells:?}");
        for test in tests {
            assert!(code.contains(&format!("fn {test}()")), "{test}: {cells:?}");
        }
    }
}
