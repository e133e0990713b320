//! Conversations of several turns with and without the prompt cache on disk: their time, and what a million prompt tokens cost by it.
//! `cargo run --release -p farthing-cli --example turns -- MODEL [CONVERSATIONS [TURNS [USER [ANSWER [ROUNDS]]]]]`
//!
//! The conversations take turns, and memory holds a single one: when the next turn of one comes, its pages have been given up. A round runs all of it once
//! without the disk cache and once with an empty one. Prompts are random tokens; an answer goes into the prompt of the next turn.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use engine::{Disk, Engine, Event, Request, Sampling, Settings};
use farthing::pace::{median, tokens};
use farthing::{LoadOptions, PlannedModel};
use ledger::cost::{MachineCost, Rate};

/// Rent of the machine, a unit an hour: costs are in proportion to it.
const MACHINE: MachineCost = MachineCost { hour: 1.0, kilowatt_hour: 0.0, idle_watts: 0.0 };

/// How long the conversations are, in tokens.
#[derive(Clone, Copy)]
struct Shape {
    conversations: usize,
    turns: usize,
    user: usize,
    answer: usize,
}

/// What all conversations took.
#[derive(Default)]
struct Taken {
    seconds: f64,
    hits: usize,
    misses: usize,
}

fn engine(model: &Path, shape: Shape, disk: Option<&Path>) -> Result<Engine, Box<dyn Error>> {
    let context = shape.turns * (shape.user + shape.answer) + 1;
    let options = LoadOptions { context: Some(context), cached: Some(context), ..LoadOptions::default() };
    let runner = PlannedModel::open(model, &options)?.fitting()?.runner()?;
    let disk =
        disk.map(|dir| Disk { dir: dir.to_path_buf(), bytes_max: 8 << 30, warn: Box::new(|why| eprintln!("{why}")) });
    let waits = disk.is_some();
    let engine = Engine::start(runner, Settings { disk, ..Settings::default() });
    while waits && engine.statistics().disk.is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(engine)
}

/// One turn: its answer, and how many tokens of its prompt were found.
fn turn(engine: &Engine, prompt: Vec<u32>, answer: usize) -> Result<(Vec<u32>, usize), Box<dyn Error>> {
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let (_handle, events) =
        engine.generate(Request { prompt, tokens_max: answer, sampling: greedy, ..Request::default() })?;
    let (mut ids, mut found) = (Vec::new(), 0);
    for event in events {
        match event {
            Event::Started { cached, .. } => found = cached,
            Event::Token { id, .. } => ids.push(id),
            Event::Failed(error) => return Err(error.into()),
            Event::End { .. } => break,
            _ => {}
        }
    }
    Ok((ids, found))
}

fn run(model: &Path, shape: Shape, disk: Option<&Path>) -> Result<Taken, Box<dyn Error>> {
    let engine = engine(model, shape, disk)?;
    turn(&engine, vec![1, 2, 3], 2)?;
    let mut prompts: Vec<Vec<u32>> = vec![Vec::new(); shape.conversations];
    let mut taken = Taken::default();
    for number in 0..shape.turns {
        for (at, prompt) in prompts.iter_mut().enumerate() {
            prompt.extend(tokens(shape.user, engine.vocab(), 1 + 1000 * at + 37 * number));
            let began = Instant::now();
            let (answer, found) = turn(&engine, prompt.clone(), shape.answer)?;
            taken.seconds += began.elapsed().as_secs_f64();
            taken.hits += found;
            taken.misses += prompt.len() - found;
            prompt.extend(answer);
        }
    }
    Ok(taken)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, numbers @ ..] = &arguments[..] else { return Err("give MODEL".into()) };
    let number = |at: usize, usual: usize| numbers.get(at).map_or(Ok(usual), |text| text.parse());
    let shape =
        Shape { conversations: number(0, 6)?, turns: number(1, 6)?, user: number(2, 128)?, answer: number(3, 32)? };
    let rounds: usize = number(4, 3)?;
    let mut seconds = [Vec::new(), Vec::new()];
    println!("{:<14} {:>9} {:>9} {:>9} {:>18}", "disk cache", "seconds", "hits", "misses", "cost a million");
    for _ in 0..rounds {
        for (with, seconds) in seconds.iter_mut().enumerate() {
            let directory = tempfile::tempdir()?;
            let taken = run(Path::new(model), shape, (with == 1).then_some(directory.path()))?;
            let rate = (taken.hits + taken.misses) as f64 / taken.seconds;
            let cost = MACHINE.per_million(Rate { tokens_per_second: rate, watts: 0.0 }, 1.0);
            let name = ["off", "on"][with];
            println!("{name:<14} {:>9.2} {:>9} {:>9} {cost:>18.4}", taken.seconds, taken.hits, taken.misses);
            seconds.push(taken.seconds);
        }
    }
    let [off, on] = seconds.map(|seconds| median(&seconds));
    println!(
        "with the cache the same conversations cost {:.2} times as much (medians {on:.2} and {off:.2} s)",
        on / off
    );
    Ok(())
}
