//! Ranks of `farthing train`: what all of them do, what rank 0 alone does, and how what fails on one ends all.

use std::path::Path;
use std::rc::Rc;

use ::train::ranks::{self, Communicator};
use ::train::{Evaluation, Measured, Observer, Samples, Step};
use serde_json::{Value, json};

use crate::terminal::{self, bytes};
use crate::{Failure, Outcome};

/// All ranks of this run.
#[cfg(feature = "mpi")]
fn communicator() -> Result<Rc<dyn Communicator>, Failure> {
    Ok(Rc::new(::train::Mpi::start()?))
}

/// This process alone.
#[cfg(not(feature = "mpi"))]
fn communicator() -> Result<Rc<dyn Communicator>, Failure> {
    Ok(Rc::new(ranks::Alone))
}

/// Work that all ranks do. What fails on one fails on all, and rank 0 says it.
pub fn together(work: impl FnOnce(&Rc<dyn Communicator>) -> Outcome) -> Outcome {
    let ranks = communicator()?;
    match work(&ranks) {
        Err(_) if ranks.rank() > 0 => Ok(()),
        outcome => outcome,
    }
}

/// A result that fails on all ranks where it fails on one.
pub fn agree<T>(ranks: &dyn Communicator, result: Result<T, Failure>) -> Result<T, Failure> {
    let message = result.as_ref().err().map(ToString::to_string);
    match ranks::first_failure(ranks, message.as_deref()) {
        Some((rank, message)) if rank != ranks.rank() => Err(Failure::failed(format!("rank {rank}: {message}"))),
        _ => result,
    }
}

/// What was measured on all ranks, which work at the same time, and what they need to exchange.
pub struct Together {
    /// Ranks.
    pub ranks: usize,
    /// Machines that they are on.
    pub machines: usize,
    /// Of all together; memory is a rank's.
    pub measured: Measured,
    /// Of the sum of gradients in a step.
    exchange_bytes: u64,
    /// Seconds that it takes.
    pub exchange_seconds: f64,
}

impl Together {
    /// From what this rank measured, and the numbers of its gradients.
    pub fn new(ranks: &dyn Communicator, measured: Measured, numbers: usize) -> Together {
        let Measured { tokens_per_second, operations_per_second, peak_operations_per_second, .. } = measured;
        let machine = 1.0 / ranks.local_size() as f64;
        let mut sums = [tokens_per_second, operations_per_second, peak_operations_per_second, machine];
        ranks.sum_f64(&mut sums);
        let [tokens_per_second, operations_per_second, peak_operations_per_second, machines] = sums;
        let alone = ranks.size() == 1;
        Together {
            ranks: ranks.size(),
            machines: machines.round() as usize,
            measured: Measured { tokens_per_second, operations_per_second, peak_operations_per_second, ..measured },
            exchange_bytes: if alone { 0 } else { 4 * numbers as u64 },
            exchange_seconds: if alone { 0.0 } else { ranks::exchange_seconds(ranks, numbers) },
        }
    }

    /// Keys of the plan.
    pub fn plan(&self) -> Value {
        json!({
            "ranks": self.ranks,
            "machines": self.machines,
            "exchange_bytes": self.exchange_bytes,
            "exchange_seconds": self.exchange_seconds,
        })
    }
}

/// The plan's line; none for a rank alone.
pub fn line(plan: &Value) -> Option<String> {
    let of = &plan["ranks"];
    let ranks = of["ranks"].as_u64().filter(|&ranks| ranks > 1)?;
    Some(format!(
        "{ranks} ranks on {}; each step they exchange {} of gradients (measured: {:.3} s); memory is a rank's",
        terminal::several(of["machines"].as_u64().unwrap_or(1) as usize, "machine"),
        bytes(of["exchange_bytes"].as_u64().unwrap_or(0)),
        of["exchange_seconds"].as_f64().unwrap_or(0.0),
    ))
}

/// Who is told on ranks that do not write.
pub struct Silent;

impl Observer for Silent {
    fn step(&mut self, _: &Step) {}

    fn evaluated(&mut self, _: &Evaluation) {}

    fn sampled(&mut self, _: &Samples) {}

    fn saving(&mut self) {}

    fn saved(&mut self, _: &Path) {}

    fn warned(&mut self, _: &str) {}
}
