//! A few threads that share a list of jobs.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::HubError;

/// Jobs at the same time.
const WORKERS: usize = 4;

/// Do `work` for all items, a few at a time. The first error sets `stop`, which the others are to watch, and is given back.
pub(crate) fn share<T: Sync>(
    items: &[T],
    stop: &AtomicBool,
    work: impl Fn(&T) -> Result<(), HubError> + Sync,
) -> Result<(), HubError> {
    let next = AtomicUsize::new(0);
    let first: Mutex<Option<HubError>> = Mutex::new(None);
    let run = || {
        while !stop.load(Ordering::Relaxed) {
            let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(error) = work(item) {
                first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let spawn = || std::thread::Builder::new().name("hub".to_string()).spawn_scoped(scope, run);
        let spawned = (0..WORKERS.min(items.len())).filter_map(|_| spawn().ok()).count();
        if spawned == 0 && !items.is_empty() {
            let why = "the system starts no more threads".to_string();
            first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(HubError::Client { why });
        }
    });
    first.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
