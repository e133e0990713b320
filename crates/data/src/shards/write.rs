//! Shards of a plan are written: each alone, whole or not at all, the same bytes whoever writes it

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::manifest::Description;
use super::megatron::{self, TokenType};
use super::mix::{Plan, Shard};
use super::run;
use crate::Error;

/// Documents whose places are in memory at once, 48 bytes each, unless a single shard has more.
const PLACES: u64 = 1 << 21;

/// Token runs that are open at once in a thread.
const OPEN_MAX: usize = 64;

/// Who writes: rank `rank` of `world` processes, with some threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// Number of this process, from 0.
    pub rank: usize,
    /// Processes.
    pub world: usize,
    /// Threads of this process.
    pub threads: usize,
}

/// A document at its place.
#[derive(Clone, Copy)]
struct Placed {
    place: u64,
    run: u32,
    entry: run::Entry,
}

/// Writes the shards of a plan that fall to this process into a directory, but for those that are finished. `written` is told the tokens of each
/// document, and may end the work.
///
/// # Errors
/// Damaged runs, where the system refuses, and what `written` gives.
///
/// # Panics
/// If there is no such rank, or no thread.
pub fn write_shards(
    plan: &Plan,
    directory: &Path,
    workers: Workers,
    written: &(dyn Fn(u64) -> Result<(), Error> + Sync),
) -> Result<(), Error> {
    let Workers { rank, world, threads } = workers;
    assert!(rank < world && threads > 0, "{workers:?}");
    let mut missing = Vec::new();
    for shard in plan.shards().skip(rank).step_by(world) {
        written(0)?;
        // The tokens of an earlier run are hashed here; those of this one were while they were written.
        if !Description::finished(plan, shard, directory)?.is_some_and(|d| d.is_written(directory)) {
            missing.push(shard);
        }
    }
    let shards = plan.shards().count().max(1) as u64;
    let documents: f64 = plan.sources().iter().map(documents_of).sum();
    let at_once = (PLACES as f64 * shards as f64 / documents.max(1.0)).clamp(1.0, 1e6) as usize;
    for shards in missing.chunks(at_once) {
        let places = gather(plan, shards)?.into_iter().map(Mutex::new).collect::<Vec<_>>();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut runs = Runs::new(plan);
            while let Some(places) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (shard, places) = std::mem::take(&mut *places.lock().expect("no other thread has it"));
                let shard = shard.expect("taken once");
                write_shard(plan, shard, places, directory, &mut runs, written)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.min(shards.len())).map(|_| scope.spawn(work)).collect();
            let results: Vec<Result<(), Error>> = workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
                .collect();
            results.into_iter().collect::<Result<(), Error>>()
        })?;
    }
    Ok(())
}

fn documents_of(mixed: &super::mix::Mixed) -> f64 {
    mixed.source.train.documents as f64 * mixed.epochs() + mixed.source.held_out.documents as f64
}

/// The documents of some shards, in one pass over the records of all runs.
fn gather(plan: &Plan, shards: &[Shard]) -> Result<Vec<(Option<Shard>, Vec<Placed>)>, Error> {
    let slots: HashMap<(u8, usize), usize> =
        shards.iter().enumerate().map(|(slot, shard)| ((shard.split as u8, shard.number), slot)).collect();
    let mut places: Vec<(Option<Shard>, Vec<Placed>)> = shards.iter().map(|&shard| (Some(shard), Vec::new())).collect();
    for (number, (mixed, path)) in plan.runs().enumerate() {
        let run = number as u32;
        run::Reader::open(path)?.scan(|entry| {
            for (shard, place) in plan.places(mixed, &entry) {
                if let Some(&slot) = slots.get(&(shard.split as u8, shard.number)) {
                    places[slot].1.push(Placed { place, run, entry });
                }
            }
            Ok(())
        })?;
    }
    for (_, places) in &mut places {
        places.sort_unstable_by_key(|placed| (placed.place, placed.run, placed.entry.start, placed.entry.id));
    }
    Ok(places)
}

fn write_shard(
    plan: &Plan,
    shard: Shard,
    places: Vec<Placed>,
    directory: &Path,
    runs: &mut Runs,
    written: &(dyn Fn(u64) -> Result<(), Error> + Sync),
) -> Result<(), Error> {
    let mut writer =
        megatron::Writer::create(&directory.join(shard.name()), TokenType::of_vocabulary(plan.vocabulary()))?;
    let mask = directory.join(shard.mask_name());
    let mut mask_writer = plan.masks().then(|| megatron::Writer::create(&mask, TokenType::Uint8)).transpose()?;
    let (mut tokens, mut mask) = (Vec::new(), Vec::new());
    for placed in places {
        runs.open(placed.run)?.read(&placed.entry, &mut tokens)?;
        if let Some(writer) = &mut mask_writer {
            mask.clear();
            mask.extend(tokens.iter().map(|token| u32::from(token & run::MASKED == 0)));
            writer.document(&mask)?;
        }
        tokens.iter_mut().for_each(|token| *token &= !run::MASKED);
        writer.document(&tokens)?;
        written(tokens.len() as u64)?;
    }
    let mask = mask_writer.map(megatron::Writer::finish).transpose()?;
    Description::new(plan, shard, writer.finish()?, mask).write(directory)
}

/// Token runs by number; not more are open than a process may have.
struct Runs<'a> {
    paths: Vec<&'a Path>,
    open: HashMap<u32, run::Reader>,
}

impl<'a> Runs<'a> {
    fn new(plan: &'a Plan) -> Runs<'a> {
        Runs { paths: plan.runs().map(|(_, path)| path.as_path()).collect(), open: HashMap::new() }
    }

    fn open(&mut self, number: u32) -> Result<&run::Reader, Error> {
        if !self.open.contains_key(&number) && self.open.len() >= OPEN_MAX {
            self.open.clear();
        }
        match self.open.entry(number) {
            std::collections::hash_map::Entry::Occupied(run) => Ok(run.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => {
                Ok(place.insert(run::Reader::open(self.paths[number as usize])?))
            }
        }
    }
}
