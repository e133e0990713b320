//! How long requests take, for telling those that are turned away when to come again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Longest time that is told.
const SECONDS_MAX: u64 = 60;

/// A running mean of the time that requests take, in milliseconds.
#[derive(Debug, Default)]
pub struct Pace(AtomicU64);

impl Pace {
    /// A request took so long.
    pub fn ended(&self, time: Duration) {
        let now = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).min(3_600_000);
        let before = self.0.load(Ordering::Relaxed);
        // The eighth part of the new one; of two that end at once, one may be forgotten.
        let mean = if before == 0 { now } else { before - before / 8 + now / 8 };
        self.0.store(mean, Ordering::Relaxed);
    }

    /// Seconds after which a place in a full queue is likely: half of what a request takes, as one is under way.
    pub fn retry_after(&self) -> u64 {
        (self.0.load(Ordering::Relaxed) / 2000).clamp(1, SECONDS_MAX)
    }
}
