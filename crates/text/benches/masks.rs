//! What a mask costs: `cargo bench -p farthing-text --bench masks -- TOKENIZER.json VOCAB DIR [SCHEMAS]`. DIR has JSON Schemas, JSONSchemaBench's say.
//!
//! Each schema is compiled as `strict: false` and followed along random outputs of at most 400 tokens. A mask must stay below 1.5 ms: 5 %
//! of the 30 ms that a decoded token takes at least.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use farthing_text::Tokenizer;
use farthing_text::grammar::{Constraint, Grammars};
use serde_json::Value;

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "json") {
            found.push(path);
        }
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|p| p.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn quantiles(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let over = times.iter().filter(|t| t.as_micros() > 1500).count();
    let mean = times.iter().sum::<Duration>() / times.len() as u32;
    println!(
        "{what}: {} times, mean {mean:?}, p50 {:?}, p95 {:?}, p99 {:?}, p99.9 {:?}, max {:?}; {over} above 1.5 ms",
        times.len(),
        at(0.5),
        at(0.95),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [tokenizer, vocab, directory, rest @ ..] = arguments.as_slice() else {
        println!("masks: TOKENIZER.json VOCAB DIR [SCHEMAS]");
        return;
    };
    let tokenizer = Tokenizer::from_json(&std::fs::read(tokenizer).expect("a tokenizer")).expect("a tokenizer");
    let vocab: usize = vocab.parse().expect("a number");
    let eos = (0..vocab as u32).rfind(|&id| tokenizer.is_special(id)).expect("a special token");
    let before = resident_bytes();
    let begin = Instant::now();
    let grammars = Grammars::new(&tokenizer, &[eos], vocab).expect("grammars");
    println!("{vocab} tokens: built in {:?}, {} MB more resident", begin.elapsed(), (resident_bytes() - before) >> 20);

    let mut paths = Vec::new();
    files(Path::new(directory), &mut paths);
    paths.sort();
    let wanted: usize = rest.first().map_or(300, |n| n.parse().expect("a number"));
    let step = (paths.len() / wanted).max(1);
    let (mut compiles, mut masks, mut accepts) = (Vec::new(), Vec::new(), Vec::new());
    let mut slowest: Vec<(Duration, PathBuf, usize)> = Vec::new();
    let mut limits = 0;
    let pieces: Vec<Vec<u8>> = (0..vocab as u32).map(|id| tokenizer.bytes(id).unwrap_or_default()).collect();
    for path in paths.iter().step_by(step) {
        let schema: Value = serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON");
        // The same output three times, and of each mask the shortest time: other programs take the processor away now and then.
        let mut times: Vec<Duration> = Vec::new();
        for pass in 0..3 {
            let begin = Instant::now();
            let outcome = grammars.compile(&Constraint::JsonSchema { schema: schema.clone(), strict: false });
            compiles.push(begin.elapsed());
            let Ok(mut matcher) = outcome else { break };
            let mut state = 7u64;
            let mut random = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                state >> 33
            };
            for at in 0..400 {
                let begin = Instant::now();
                let Ok(bits) = matcher.allowed() else {
                    limits += usize::from(pass == 0);
                    break;
                };
                let took = begin.elapsed();
                match times.get_mut(at) {
                    Some(time) => *time = took.min(*time),
                    None => times.push(took),
                }
                let may = |id: u32| id != eos && bits[id as usize / 32] >> (id % 32) & 1 == 1;
                let allowed: Vec<u32> = (0..vocab as u32).filter(|&id| may(id)).collect();
                // Half of the time what closes, else anything.
                let closes = |id: &u32| pieces[*id as usize].iter().any(|b| b"\"}],".contains(b));
                let closing: Vec<u32> = allowed.iter().copied().filter(closes).collect();
                let from = if !closing.is_empty() && random() % 2 == 0 { &closing } else { &allowed };
                if from.is_empty() {
                    break;
                }
                let id = from[(random() % from.len() as u64) as usize];
                let begin = Instant::now();
                if matcher.accept(id).is_err() {
                    limits += usize::from(pass == 0);
                    break;
                }
                accepts.push(begin.elapsed());
            }
        }
        let worst = times.iter().copied().zip(0..).max().unwrap_or_default();
        slowest.push((worst.0, path.clone(), worst.1));
        masks.extend(times);
    }
    quantiles("compile", compiles);
    quantiles("mask", masks);
    quantiles("accept", accepts);
    println!("{limits} outputs stopped by a limit; {} MB resident", resident_bytes() >> 20);
    slowest.sort();
    for (took, path, at) in slowest.iter().rev().take(8) {
        println!("slowest: {took:?} at token {at} of {}", path.display());
    }
}
