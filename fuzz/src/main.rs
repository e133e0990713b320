//! Fuzzing without instrumentation, on a stable compiler: changed seeds go through every target for some seconds. Each target has a process
//! of its own with bounded memory, so that an abort, a hang or an overflown stack is a finding like a panic.

mod mutate;
mod targets;

use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};

const USAGE: &str = "usage: farthing-fuzz [--seconds N] [--seed N|random] [TARGET...]
       farthing-fuzz --replay TARGET FILE...

Without TARGET all of them run. Inputs follow from the seed (1 unless given). What breaks a target is kept in fuzz/artifacts.";

/// Bytes of address space of a target.
const MEMORY: u64 = 4 << 30;

/// The longest time for one input.
const PATIENCE: Duration = Duration::from_secs(20);

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where a target's process writes each input, with its length, before it runs.
fn current(target: &str) -> PathBuf {
    folder().join("artifacts").join(format!("{target}.current"))
}

/// Seeds and findings of a target, in the order of their names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = ["seeds", "findings"]
        .iter()
        .filter_map(|kind| std::fs::read_dir(folder().join(kind).join(target)).ok())
        .flatten()
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("a readable file")).collect()
}

struct Options {
    seconds: u64,
    seed: u64,
    targets: Vec<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
        let mut options = Options { seconds: 10, seed: 1, targets: Vec::new() };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--seconds" => options.seconds = arguments.next()?.parse().ok()?,
                "--seed" => {
                    let seed = arguments.next()?;
                    let now = || std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos() as u64);
                    options.seed = if seed == "random" { now() } else { seed.parse().ok()? };
                }
                name => {
                    targets::named(name)?;
                    options.targets.push(argument);
                }
            }
        }
        if options.targets.is_empty() {
            options.targets = targets::TARGETS.iter().map(|(name, _)| name.to_string()).collect();
        }
        Some(options)
    }
}

/// Runs one target in this process until the time is up. Whatever is wrong ends the process.
fn fuzz(target: &str, seconds: u64, seed: u64) {
    let run = targets::named(target).expect("a target");
    let corpus = corpus(target);
    let file = std::fs::File::create(current(target)).expect("a writable fuzz/artifacts");
    let limit = Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) };
    setrlimit(Resource::As, limit).expect("a limit on memory");
    // A panic on any thread is a finding, also where something above would catch it; but for those of the tokenizer and Parquet libraries, which become errors.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !text::panic_is_caught() && !data::panics::is_caught() {
            told(panic);
            std::process::abort();
        }
    }));
    static INPUT: AtomicU64 = AtomicU64::new(0);
    std::thread::spawn(|| {
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let input = INPUT.load(Ordering::Relaxed);
            if input != seen {
                (seen, since) = (input, Instant::now());
            } else if since.elapsed() > PATIENCE {
                eprintln!("input {input} takes more than {} s", PATIENCE.as_secs());
                std::process::abort();
            }
        }
    });
    let start = Instant::now();
    let mut record = Vec::new();
    for input in 0.. {
        // The corpus itself first.
        let data = match corpus.get(input as usize) {
            Some(data) => data.clone(),
            None => mutate::input(&corpus, &mut mutate::Random::of(seed, input)),
        };
        record.clear();
        record.extend((data.len() as u64).to_le_bytes());
        record.extend(&data);
        file.write_all_at(&record, 0).expect("a writable fuzz/artifacts");
        INPUT.store(input, Ordering::Relaxed);
        run(&data);
        if input as usize >= corpus.len() && start.elapsed().as_secs() >= seconds {
            println!("{target}: {} inputs in {:.1} s", input + 1, start.elapsed().as_secs_f64());
            return;
        }
    }
}

/// Keeps the input that a target's process was at when it ended.
fn keep(target: &str) -> PathBuf {
    let record = std::fs::read(current(target)).unwrap_or_default();
    let (length, data) = record.split_first_chunk().map_or((0, &[][..]), |(l, data)| (u64::from_le_bytes(*l), data));
    let data = &data[..data.len().min(length as usize)];
    let place = (0..).map(|n| folder().join("artifacts").join(format!("{target}-{n}"))).find(|p| !p.exists());
    let place = place.expect("a name that is not taken");
    std::fs::write(&place, data).expect("a writable fuzz/artifacts");
    place
}

/// Runs the targets, each in a process of its own, as many at a time as there are cores. Returns whether all were well.
fn all(options: &Options) -> bool {
    std::fs::create_dir_all(folder().join("artifacts")).expect("a writable fuzz folder");
    let binary = std::env::current_exe().expect("this binary");
    let (queue, broken) = (Mutex::new(VecDeque::from(options.targets.clone())), AtomicU64::new(0));
    let work = || {
        while let Some(target) = { queue.lock().expect("no panic under the lock").pop_front() } {
            let numbers = [options.seconds.to_string(), options.seed.to_string()];
            let output = Command::new(&binary).args(["--one", &target]).args(numbers).output().expect("a process");
            let _ = std::io::stdout().write_all(&output.stdout);
            if !output.status.success() {
                broken.fetch_add(1, Ordering::Relaxed);
                let text = String::from_utf8_lossy(&output.stderr);
                eprintln!("{target} (seed {}): {}\n{text}", options.seed, output.status);
                eprintln!("the input: {}; again: farthing-fuzz --replay {target} FILE", keep(&target).display());
            }
            let _ = std::fs::remove_file(current(&target));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(work);
        }
    });
    broken.into_inner() == 0
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        // What `all` starts.
        ["--one", target, seconds, seed] => {
            fuzz(target, seconds.parse().expect("a number"), seed.parse().expect("a number"));
            return ExitCode::SUCCESS;
        }
        [targets::template::RENDER] => {
            targets::template::serve();
            return ExitCode::SUCCESS;
        }
        ["--replay", target, ref files @ ..] => {
            let Some(run) = targets::named(target) else {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            };
            for file in files {
                println!("{file}");
                run(&std::fs::read(file).expect("a readable file"));
            }
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let Some(options) = Options::parse(arguments.into_iter()) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if all(&options) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_seeds() {
        for (name, _) in targets::TARGETS {
            assert!(!corpus(name).is_empty(), "fuzz/seeds/{name}");
        }
        for kind in ["seeds", "findings"] {
            for entry in std::fs::read_dir(folder().join(kind)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(targets::named(&name).is_some(), "fuzz/{kind}/{name} belongs to no target");
            }
        }
    }

    #[test]
    fn inputs_follow_from_seed_and_number_and_differ() {
        let corpus = [b"{\"a\": 12, \"b\": [true]}".to_vec(), b"GGUF\x03\0\0\0".to_vec(), Vec::new()];
        let inputs = |seed| -> Vec<Vec<u8>> {
            (0..2000).map(|i| mutate::input(&corpus, &mut mutate::Random::of(seed, i))).collect()
        };
        assert_eq!(inputs(1), inputs(1));
        let different: std::collections::HashSet<_> = inputs(1).into_iter().chain(inputs(2)).collect();
        assert!(different.len() > 2500, "{}", different.len());
        assert!(different.iter().all(|data| data.len() <= 4096));
    }

    #[test]
    fn options() {
        let parse = |text: &str| Options::parse(text.split_whitespace().map(String::from));
        let options = parse("--seconds 3 gguf --seed 7").unwrap();
        assert_eq!((options.seconds, options.seed, options.targets), (3, 7, vec!["gguf".to_string()]));
        assert_eq!(parse("").unwrap().targets.len(), targets::TARGETS.len());
        assert!(["--seconds", "--seconds x", "nothing", "--seed -1"].iter().all(|t| parse(t).is_none()));
    }
}
