//! Many schemas: every output that finishes validates. A hundred of ours lie in `data/schemas.jsonl`; a directory of others, such as
//! JSONSchemaBench, takes their place by `FARTHING_SCHEMAS=DIR cargo test -p farthing-text --test schemas -- --nocapture`.

mod sampler;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use farthing_text::Tokenizer;
use farthing_text::grammar::{Constraint, GrammarError, Grammars};
use sampler::{Random, sample, text_of};
use serde_json::Value;

/// Schemas that are looked at, evenly spread over the directory.
const SCHEMAS: usize = 400;

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "json") {
            found.push(path);
        }
    }
}

/// Schemas of a directory, each with its file.
fn others(directory: &Path) -> Vec<(String, Value)> {
    let mut paths = Vec::new();
    files(directory, &mut paths);
    paths.sort();
    let wanted: usize = std::env::var("FARTHING_SCHEMAS_MAX").ok().and_then(|n| n.parse().ok()).unwrap_or(SCHEMAS);
    let step = (paths.len() / wanted).max(1);
    let read = |path: &PathBuf| {
        let file = serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).ok()?;
        // Files of MaskBench have the schema inside.
        let schema = file.get("schema").filter(|s| s.is_object()).unwrap_or(&file).clone();
        Some((path.display().to_string(), schema))
    };
    paths.iter().step_by(step).filter_map(read).collect()
}

/// Our own.
fn ours() -> Vec<(String, Value)> {
    let lines = include_str!("data/schemas.jsonl").lines();
    lines.map(|line| (line.to_string(), serde_json::from_str(line).unwrap())).collect()
}

fn sort_of(error: &GrammarError) -> String {
    match error {
        GrammarError::Unsupported { keyword, .. } => format!("keyword {keyword}"),
        GrammarError::TooLarge { what, .. } => format!("limit {}", what.rsplit(' ').next().unwrap_or_default()),
        GrammarError::Invalid { reason, .. } => format!("invalid: {}", reason.chars().take(60).collect::<String>()),
        GrammarError::Unsatisfiable { reason, .. } => {
            format!("no value: {}", reason.chars().take(60).collect::<String>())
        }
        GrammarError::TooComplex(_) => "too complex".to_string(),
        other => format!("other: {other}"),
    }
}

#[test]
fn outputs_of_foreign_schemas_validate() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m/tokenizer.json");
    let tokenizer = Tokenizer::from_json(&std::fs::read(path).unwrap()).unwrap();
    let grammars = Grammars::new(&tokenizer, &[1], 2048).unwrap();
    let schemas = std::env::var_os("FARTHING_SCHEMAS").map_or_else(ours, |directory| others(Path::new(&directory)));
    assert!(schemas.len() > 90, "{} schemas", schemas.len());
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    let (mut looked, mut compiled, mut lenient, mut outputs, mut finished, mut unjudged) = (0, 0, 0, 0, 0, 0);
    let mut stuck = Vec::new();
    let (mut wrong, mut slowest) = (Vec::new(), (Duration::ZERO, String::new()));
    for (path, schema) in schemas {
        looked += 1;
        let begin = Instant::now();
        let outcome = grammars.compile(&Constraint::JsonSchema { schema: schema.clone(), strict: true });
        if begin.elapsed() > slowest.0 {
            slowest = (begin.elapsed(), path.clone());
        }
        let matcher = match outcome {
            Ok(matcher) => matcher,
            Err(error) => {
                *refused.entry(sort_of(&error)).or_default() += 1;
                // What is kept of it is a grammar too, and no text may end in the middle.
                if let Ok(matcher) = grammars.compile(&Constraint::JsonSchema { schema, strict: false }) {
                    lenient += 1;
                    let mut random = Random(looked as u64 * 100);
                    if let Err(error) = sample(&mut matcher.clone(), &tokenizer, 1, &mut random, 2000, &[]) {
                        stuck.push(format!("{path}: {error}"));
                    }
                }
                continue;
            }
        };
        compiled += 1;
        let Ok(validator) = jsonschema::options().should_validate_formats(true).build(&schema) else {
            unjudged += 1;
            continue;
        };
        for seed in 0..3 {
            outputs += 1;
            let mut random = Random(seed + looked as u64 * 100);
            match sample(&mut matcher.clone(), &tokenizer, 1, &mut random, 2000, &[]) {
                Ok(output) if output.finished => {
                    finished += 1;
                    let text = text_of(&tokenizer, &output.ids);
                    let said = match serde_json::from_str::<Value>(&text) {
                        Ok(value) => validator.validate(&value).map_err(|e| e.to_string()),
                        Err(e) => Err(e.to_string()),
                    };
                    if let Err(said) = said {
                        wrong.push(format!("{path}: {said:.300}: {text:.300}"));
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    stuck.push(format!("{path}: {error}"));
                }
            }
        }
    }
    println!(
        "{looked} schemas: {compiled} compile strictly, {lenient} more leniently; {unjudged} the validator does not take"
    );
    println!("refused: {refused:#?}");
    println!(
        "{outputs} outputs: {finished} finished, {} stopped by a limit, {} do not validate",
        stuck.len(),
        wrong.len()
    );
    println!("{}", stuck.join("\n"));
    println!("slowest compile: {slowest:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let dead_end = GrammarError::DeadEnd.to_string();
    assert!(!stuck.iter().any(|line| line.ends_with(&dead_end)), "{}", stuck.join("\n"));
    assert!(compiled * 2 > looked && finished * 10 > outputs * 8, "{compiled} of {looked}, {finished} of {outputs}");
}
