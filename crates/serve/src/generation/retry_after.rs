//! The time for `Retry-After`, estimated from the durations of requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

const SECONDS_MAX: u64 = 600;

/// Durations of requests: a running mean of those that ended, and the start times of those running.
#[derive(Debug, Default)]
pub struct RequestTimes(Mutex<Durations>);

#[derive(Debug, Default)]
struct Durations {
    mean: Option<Duration>,
    timers: HashMap<u64, Instant>,
    next: u64,
}

/// A running request; dropping it forgets its start.
#[derive(Debug)]
pub struct Timer {
    request_times: Arc<RequestTimes>,
    id: u64,
}

impl RequestTimes {
    /// Starts the timer of a request that left the queue.
    pub fn began(self: &Arc<RequestTimes>) -> Timer {
        let mut inner = self.0.lock();
        let id = inner.next;
        inner.next += 1;
        inner.timers.insert(id, Instant::now());
        Timer { request_times: Arc::clone(self), id }
    }

    /// Records the duration of a request.
    pub fn ended(&self, time: Duration) {
        let mut inner = self.0.lock();
        // The new duration weighs one eighth.
        inner.mean = Some(inner.mean.map_or(time, |mean| mean - mean / 8 + time / 8));
    }

    /// Seconds until the queue is expected to be empty: waiting requests replace running ones, each for the mean duration. A
    /// request that has run for long is expected to take as long again.
    pub fn retry_after(&self, running: usize, waiting: usize) -> u64 {
        let inner = self.0.lock();
        let ages: Duration = inner.timers.values().map(Instant::elapsed).sum();
        let age = ages / u32::try_from(inner.timers.len()).unwrap_or(u32::MAX).max(1);
        let one = inner.mean.unwrap_or_default().max(age);
        let seconds = one.as_secs_f64() * (waiting + 1) as f64 / running.max(1) as f64;
        (seconds.ceil() as u64).clamp(1, SECONDS_MAX)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.request_times.0.lock().timers.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_the_queue_will_take() {
        let request_times = Arc::new(RequestTimes::default());
        assert_eq!(request_times.retry_after(0, 0), 1, "nothing is known");
        request_times.ended(Duration::from_secs(8));
        assert_eq!(request_times.retry_after(1, 0), 8);
        // Ten more behind four that run: eleven eighths of a request's time, by fours.
        assert_eq!(request_times.retry_after(4, 10), 22);
        assert_eq!(request_times.retry_after(1, 10_000), SECONDS_MAX);
        request_times.ended(Duration::from_secs(16));
        assert_eq!(request_times.retry_after(1, 0), 9);
        // One under way has run for a minute.
        let long = request_times.began();
        let minute = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        request_times.0.lock().timers.insert(long.id, minute);
        assert_eq!(request_times.retry_after(2, 1), 61);
        drop(long);
        assert_eq!(request_times.retry_after(1, 0), 9);
    }

    #[test]
    fn requests_under_way_are_told_apart() {
        let request_times = Arc::new(RequestTimes::default());
        let (one, two) = (request_times.began(), request_times.began());
        assert_eq!(request_times.0.lock().timers.len(), 2);
        drop(one);
        assert_eq!(request_times.0.lock().timers.keys().collect::<Vec<_>>(), [&two.id]);
        drop(two);
        assert!(request_times.0.lock().timers.is_empty());
    }
}
