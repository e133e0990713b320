//! Steps that look at each document alone: MB/s a core in CPU-seconds, each step by itself on the same documents, the median of several interleaved rounds.
//!
//! `cargo bench -p farthing-data --bench rules -- DOCUMENTS.jsonl [ROUNDS]`, a document a line, `{"id": .., "text": ..}`; without a file, of text that it makes.
//! `-- DOCUMENTS.jsonl decisions` prints what each quality filter decides instead, in the form of `tests/data/rules_by_datatrove.py`.

use std::path::Path;

use farthing_data::steps::{KINDS, Made, Surroundings, c4};
use farthing_data::{Document, Step, Verdict};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value};

const FILTERS: [&str; 4] = ["gopher_quality", "gopher_repetition", "c4", "fineweb"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let documents = arguments.first().map_or_else(made, |file| read(file));
    if arguments.get(1).is_some_and(|argument| argument == "decisions") {
        return documents.iter().for_each(|document| println!("{}", Value::from(decisions(document))));
    }
    let rounds = arguments.get(1).map_or(9, |rounds| rounds.parse().expect("a number of rounds"));
    let bytes: usize = documents.iter().map(|document| document.text().len()).sum();
    println!(
        "{} documents, {:.1} MB, MB/s: least, median, most of {rounds} rounds",
        documents.len(),
        bytes as f64 / 1e6
    );

    let mut measured: Vec<(String, Vec<Box<dyn Step>>, Vec<f64>)> = vec![("split words".into(), vec![], vec![])];
    for name in KINDS.iter().filter_map(|kind| step(kind.name).map(|_| kind.name)) {
        measured.push((name.into(), step(name).into_iter().collect(), vec![]));
    }
    measured.push((FILTERS.join(" + "), FILTERS.iter().filter_map(|name| step(name)).collect(), vec![]));
    for _ in 0..rounds {
        for (_, steps, speeds) in &mut measured {
            let mut copies = documents.clone();
            let seconds = timed(|| copies.iter_mut().for_each(|document| apply(steps, document)));
            speeds.push(bytes as f64 / 1e6 / seconds);
        }
    }
    for (name, _, mut speeds) in measured {
        speeds.sort_by(f64::total_cmp);
        println!("{name:60} {:8.1} {:8.1} {:8.1}", speeds[0], speeds[speeds.len() / 2], speeds[speeds.len() - 1]);
    }
}

/// Applies steps; all of them, as a pipeline of documents that are kept does.
fn apply(steps: &[Box<dyn Step>], document: &mut Document) {
    if steps.is_empty() {
        document.split_words();
    }
    for step in steps {
        std::hint::black_box(step.apply(document));
    }
}

/// A step with its own settings, if it has no need of files.
fn step(name: &str) -> Option<Box<dyn Step>> {
    let kind = KINDS.iter().find(|kind| kind.name == name)?;
    let surroundings = Surroundings { directory: Path::new("."), seed: 0 };
    match (kind.make)(toml::Table::new(), surroundings) {
        Ok(Made::Alone(step)) => Some(step),
        _ => None,
    }
}

fn decisions(document: &Document) -> Map<String, Value> {
    let mut decisions = Map::from_iter([("id".into(), document.id.clone().into())]);
    for name in FILTERS {
        let verdict = step(name).expect("a step of the table").apply(&mut document.clone());
        let (rule, detail) = match verdict {
            Verdict::Keep => ("", String::new()),
            Verdict::Drop(reason) => (reason.rule, reason.detail.into_owned()),
        };
        decisions.insert(name.into(), rule.into());
        decisions.insert(format!("{name}_detail"), detail.into());
    }
    let mut labelled = document.clone();
    step("language").expect("a step of the table").apply(&mut labelled);
    decisions.extend(labelled.labels);
    let lines = c4::Lines { terminal_punctuation: false, ..c4::Lines::default() };
    match lines.lines_left(document.text()) {
        Ok(left) => {
            decisions.insert("c4_lines".into(), "".into());
            decisions.insert("c4_text".into(), left.into());
        }
        Err(reason) => {
            decisions.insert("c4_lines".into(), reason.rule.into());
        }
    }
    decisions
}

fn read(file: &str) -> Vec<Document> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{file}: {e}"));
    let record =
        |line: &str| serde_json::from_str::<Map<String, Value>>(line).unwrap_or_else(|e| panic!("{file}: {e}"));
    let field = |record: &Map<String, Value>, name: &str| record[name].as_str().expect("a string").to_owned();
    text.lines().map(record).map(|record| Document::new(field(&record, "id"), field(&record, "text"))).collect()
}

/// Sentences of words of many lengths, in lines of some hundred characters.
fn made() -> Vec<Document> {
    let mut state = 1_u64;
    let mut next = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let words: Vec<String> =
        (0..5000).map(|_| (0..1 + next(4) + next(5)).map(|_| char::from(b'a' + next(26) as u8)).collect()).collect();
    let mut sentence = || {
        let length = 5 + next(20);
        let chosen: Vec<&str> =
            (0..length).map(|_| words[(next(5000) * next(5000) / 5000) as usize].as_str()).collect();
        format!("The {}, and {}.", chosen[..3].join(" "), chosen[3..].join(" "))
    };
    let mut line = || [sentence(), sentence(), sentence()].join(" ");
    (0..4000).map(|i| Document::new(i.to_string(), (0..10).map(|_| line() + "\n").collect::<String>())).collect()
}

/// CPU-seconds of this thread.
fn timed(work: impl FnOnce()) -> f64 {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let start = now();
    work();
    now() - start
}
