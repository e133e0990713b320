//! How fast a model runs here: prompts, cached prompts, and answers of several sequences at once

use std::path::Path;
use std::time::{Duration, Instant};

use engine::{Disk, Engine, EngineError, Event, Positions, Request, Runner, Settings};
use kernels::Pool;
use model::cache::PAGE;

use crate::error::Error;
use crate::power::Power;

/// Bytes of disk that the measurement of cached prompts may take.
const DISK_BYTES: u64 = 8 << 30;
/// Longest wait for the hashes of a model's files, and for one prompt.
const WAIT: Duration = Duration::from_secs(600);

/// `n` token ids below `vocab` that differ from each other, so that a mixture's routing is spread.
pub fn tokens(n: usize, vocab: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| ((i + seed).wrapping_mul(2_654_435_761) % vocab) as u32).collect()
}

/// Positions of the cache that `together` needs for so many sequences.
pub fn positions_of(sequences: usize, shared: usize, decoded: usize) -> usize {
    (sequences + 1) * (shared + decoded).next_multiple_of(PAGE) + PAGE
}

/// A runner that is timed. Rates are tokens per second.
pub struct Pace {
    /// What computes; its cache's pages are used from the first one on.
    pub runner: Runner,
    vocab: usize,
}

impl Pace {
    /// A runner whose prompts are made of the ids below `vocab`.
    pub fn new(runner: Runner, vocab: usize) -> Pace {
        Pace { runner, vocab }
    }

    /// The threads.
    pub fn pool(&self) -> &Pool {
        self.runner.pool()
    }

    /// Ids for this model.
    pub fn tokens(&self, n: usize, seed: usize) -> Vec<u32> {
        tokens(n, self.vocab, seed)
    }

    /// One short pass, so that pages are touched and threads are awake.
    ///
    /// # Errors
    /// As [`Runner::read`].
    pub fn warm_up(&mut self) -> Result<(), EngineError> {
        let mut at = Positions::new(0, 2);
        self.runner.read(&mut at, &[1])?;
        self.runner.decode(&mut [(&mut at, 1)]).map(|_| ())
    }

    /// Rate at which a prompt of `n` tokens is read.
    ///
    /// # Errors
    /// As [`Runner::read`].
    pub fn prefill(&mut self, n: usize, seed: usize) -> Result<f64, EngineError> {
        let prompt = self.tokens(n, 7 * seed);
        let began = Instant::now();
        self.runner.read(&mut Positions::new(0, n), &prompt)?;
        Ok(n as f64 / began.elapsed().as_secs_f64())
    }

    /// Rate of decoding `n` tokens after the positions that are there; those of the `n` are forgotten again.
    ///
    /// # Errors
    /// As [`Runner::decode`].
    pub fn decode(&mut self, at: &mut Positions, n: usize, seed: usize) -> Result<f64, EngineError> {
        let before = at.len();
        let began = Instant::now();
        for token in self.tokens(n, seed) {
            self.runner.decode(&mut [(&mut *at, token)])?;
        }
        let rate = n as f64 / began.elapsed().as_secs_f64();
        at.rewind(before);
        Ok(rate)
    }

    /// Rate of all `sequences` together, each of which decodes `n` tokens after `shared` others that all have. Reading those is not timed.
    ///
    /// # Errors
    /// As [`Runner::read`] and [`Runner::decode`].
    pub fn together(&mut self, sequences: usize, shared: usize, n: usize, seed: usize) -> Result<f64, EngineError> {
        let each = (shared + n).next_multiple_of(PAGE);
        let place = |i: usize| Positions::new(i * each / PAGE, each);
        let mut prompt = place(0);
        let ids = self.tokens(shared, 5);
        self.runner.read(&mut prompt, &ids)?;
        let mut copies: Vec<Positions> = (1..=sequences).map(place).collect();
        copies.iter_mut().for_each(|copy| self.runner.copy(&prompt, copy));
        let all = self.tokens(sequences * n, seed);
        let began = Instant::now();
        for step in all.chunks(sequences) {
            self.runner.decode(&mut copies.iter_mut().zip(step.iter().copied()).collect::<Vec<_>>())?;
        }
        Ok((sequences * n) as f64 / began.elapsed().as_secs_f64())
    }
}

/// Median: of an even number, the mean of the two in the middle; of none, no number.
pub fn median(x: &[f64]) -> f64 {
    let mut x = x.to_vec();
    x.sort_by(f64::total_cmp);
    if x.is_empty() { f64::NAN } else { (x[(x.len() - 1) / 2] + x[x.len() / 2]) / 2.0 }
}

/// Repetitions of one measurement.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Repeated {
    /// Tokens per second.
    pub rates: Vec<f64>,
    /// Watts meanwhile, where the machine tells them.
    pub watts: Vec<f64>,
}

impl Repeated {
    /// Median of the rates.
    pub fn rate(&self) -> f64 {
        median(&self.rates)
    }

    /// Median of the watts.
    pub fn watts(&self) -> Option<f64> {
        Some(median(&self.watts)).filter(|watts| watts.is_finite())
    }

    /// Measure once more.
    fn add<E>(&mut self, power: Option<&Power>, work: impl FnOnce() -> Result<f64, E>) -> Result<(), E> {
        let from = power.and_then(|power| power.read().ok());
        self.rates.push(work()?);
        if let (Some(power), Some(from)) = (power, from)
            && let Ok(to) = power.read()
        {
            self.watts.push(power.watts(&from, &to));
        }
        Ok(())
    }
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Tokens of prompts, and of what is read before answers.
    pub prompt: usize,
    /// Tokens of answers.
    pub decoded: usize,
    /// Numbers of sequences that are decoded at once, ascending.
    pub sequences: Vec<usize>,
    /// Longest time between two tokens of a sequence.
    pub latency: Duration,
    /// Repetitions, of which each runs everything once.
    pub repetitions: usize,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Prompts that are computed.
    pub prefill: Repeated,
    /// Prompts found in memory: tokens that were found, over the time from the request to the end of its prompt.
    pub memory: Repeated,
    /// Prompts found on disk, as `memory`; the files are in the system's page cache.
    pub disk: Repeated,
    /// Answers of so many sequences at once, all tokens together. The last may take longer than was wanted; larger numbers were left out then.
    pub answers: Vec<(usize, Repeated)>,
    /// Watts before the work.
    pub idle_watts: Option<f64>,
}

impl Measured {
    /// The fastest answers that keep to the latency: how many at once, and their rate. `None`: one alone takes longer.
    pub fn best(&self, latency: Duration) -> Option<(usize, &Repeated)> {
        let within = self.answers.iter().filter(|(n, r)| seconds_per_token(*n, r.rate()) <= latency.as_secs_f64());
        within.max_by(|(_, a), (_, b)| a.rate().total_cmp(&b.rate())).map(|(n, r)| (*n, r))
    }
}

/// Time between two tokens of one of so many sequences, in seconds, at a rate of all together.
pub fn seconds_per_token(sequences: usize, rate: f64) -> f64 {
    sequences as f64 / rate
}

/// Measure a model. `runner` gives a new one each time; ids below `vocab` are used; `go_on` is told what comes next and may say no, which gives `None`.
///
/// # Errors
/// A runner that fails; a disk that cannot be written.
pub fn measure(
    runner: &mut dyn FnMut() -> Result<Runner, Error>,
    vocab: usize,
    wanted: &Wanted,
    power: Option<&Power>,
    go_on: &mut dyn FnMut(&str) -> bool,
) -> Result<Option<Measured>, Error> {
    let mut measured = Measured { idle_watts: power.and_then(idle_watts), ..Measured::default() };
    let directory = tempfile::Builder::new().prefix("farthing-pace-").tempdir()?;
    if !cached(runner, vocab, wanted, directory.path(), power, go_on, &mut measured)? {
        return Ok(None);
    }
    drop(directory);
    let mut pace = Pace::new(runner()?, vocab);
    pace.warm_up()?;
    let Wanted { prompt, decoded, latency, repetitions, .. } = *wanted;
    let mut sequences = wanted.sequences.clone();
    measured.answers = sequences.iter().map(|&n| (n, Repeated::default())).collect();
    for i in 0..repetitions {
        let repetition = format!("repetition {} of {repetitions}", i + 1);
        if !go_on(&format!("{repetition}: prompts")) {
            return Ok(None);
        }
        measured.prefill.add(power, || pace.prefill(prompt, i))?;
        for (at, n) in sequences.clone().into_iter().enumerate() {
            if !go_on(&format!("{repetition}: {n} at once")) {
                return Ok(None);
            }
            let answers = &mut measured.answers[at].1;
            answers.add(power, || pace.together(n, prompt, decoded, i))?;
            // More at once would take longer still.
            if i == 0 && seconds_per_token(n, answers.rate()) > latency.as_secs_f64() {
                sequences.truncate(at + 1);
                break;
            }
        }
    }
    measured.answers.truncate(sequences.len());
    Ok(Some(measured))
}

/// Watts of a second without work.
fn idle_watts(power: &Power) -> Option<f64> {
    let from = power.read().ok()?;
    std::thread::sleep(Duration::from_secs(1));
    Some(power.watts(&from, &power.read().ok()?))
}

/// An engine with a prompt cache in `directory` that has come into use.
fn engine(runner: Runner, directory: &Path) -> Result<Engine, Error> {
    let disk = Disk { dir: directory.to_path_buf(), bytes_max: DISK_BYTES, warn: Box::new(|_| ()) };
    let engine = Engine::start(runner, Settings { disk: Some(disk), ..Settings::default() });
    let began = Instant::now();
    while engine.statistics().disk.is_none() {
        if began.elapsed() > WAIT {
            return Err(Error::Serve("the prompt cache on disk did not come into use within ten minutes".to_string()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(engine)
}

/// Tokens of a prompt that were in the cache, and the time that all of it took.
fn read(engine: &Engine, prompt: Vec<u32>) -> Result<(usize, f64), Error> {
    let began = Instant::now();
    let request = Request { prompt, time_max: Some(WAIT), ..Request::default() };
    let (_handle, events) = engine.generate(request)?;
    let mut found = 0;
    for event in events {
        match event {
            Event::Started { cached, .. } => found = cached,
            Event::Failed(error) => return Err(error.into()),
            Event::End { .. } => break,
            _ => {}
        }
    }
    Ok((found, began.elapsed().as_secs_f64()))
}

/// Prompts of `wanted.prompt` tokens and one more, which is computed: an engine of one runner writes them to a prompt cache in `directory`, that of another
/// reads each once from disk and once from memory. False if it is not to go on.
fn cached(
    runner: &mut dyn FnMut() -> Result<Runner, Error>,
    vocab: usize,
    wanted: &Wanted,
    directory: &Path,
    power: Option<&Power>,
    go_on: &mut dyn FnMut(&str) -> bool,
    measured: &mut Measured,
) -> Result<bool, Error> {
    let prompt = |i: usize| tokens(wanted.prompt + 1, vocab, 1 + 31 * i);
    if !go_on("prompts are written to a cache") {
        return Ok(false);
    }
    let writer = engine(runner()?, directory)?;
    for i in 0..wanted.repetitions {
        read(&writer, prompt(i))?;
    }
    // Its end writes what waits.
    drop(writer);
    if !go_on("cached prompts") {
        return Ok(false);
    }
    let reader = engine(runner()?, directory)?;
    // Threads are awake, and all weights are in memory.
    read(&reader, tokens(wanted.prompt + 1, vocab, 3))?;
    for i in 0..wanted.repetitions {
        for of in [&mut measured.disk, &mut measured.memory] {
            of.add(power, || match read(&reader, prompt(i))? {
                (0, _) => Err(Error::Serve(format!(
                    "a prompt of {} tokens was not found in the cache in {}: is there room on that disk?",
                    wanted.prompt,
                    directory.display()
                ))),
                (found, seconds) => Ok(found as f64 / seconds),
            })?;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_lies_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_fastest_that_keeps_to_the_latency_is_the_best() {
        let answers = [(1, 100.0), (4, 200.0), (8, 190.0), (16, 250.0)];
        let of = |(n, rate): (usize, f64)| (n, Repeated { rates: vec![rate], watts: Vec::new() });
        let measured = Measured { answers: answers.map(of).to_vec(), ..Measured::default() };
        let best = |ms: u64| measured.best(Duration::from_millis(ms)).map(|(n, r)| (n, r.rate()));
        // 10, 20, 42 and 64 ms a token.
        assert_eq!(best(9), None);
        assert_eq!(best(10), Some((1, 100.0)));
        assert_eq!(best(50), Some((4, 200.0)));
        assert_eq!(best(64), Some((16, 250.0)));
    }
}
