//! What waits for the writer: a queue with a bound in bytes, which refuses rather than waits.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Key;

/// Something to do for the writer.
pub(super) enum Job {
    /// Write a block.
    Write(Key, Vec<u8>),
    /// Blocks were used at these times, in nanoseconds since 1970.
    Touch(Vec<(Key, u64)>),
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Job::Write(_, page) => page.len(),
            Job::Touch(blocks) => size_of_val(&blocks[..]),
        }
    }
}

/// What the writer finds.
pub(super) enum Next {
    Job(Job),
    /// Nothing for the time it waited.
    Idle,
    /// There will be nothing any more.
    Closed,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    bytes: usize,
    busy: bool,
    closed: bool,
}

/// Between those who put and the one who writes.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    bytes_max: usize,
}

impl Queue {
    /// With room for `bytes_max`, and always for one job.
    pub fn new(bytes_max: usize) -> Queue {
        Queue { state: Mutex::default(), changed: Condvar::new(), bytes_max }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there was room.
    pub fn push(&self, job: Job) -> bool {
        let mut state = self.state();
        let bytes = state.bytes + job.bytes();
        if state.closed || bytes > self.bytes_max && !state.jobs.is_empty() {
            return false;
        }
        state.bytes = bytes;
        state.jobs.push_back(job);
        self.changed.notify_all();
        true
    }

    /// For the one writer: what comes next, once what came last is done.
    pub fn next(&self, wait: Duration) -> Next {
        let mut state = self.state();
        state.busy = false;
        self.changed.notify_all();
        if state.jobs.is_empty() && !state.closed {
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.closed {
            return Next::Closed;
        }
        let Some(job) = state.jobs.pop_front() else { return Next::Idle };
        state.bytes -= job.bytes();
        state.busy = true;
        Next::Job(job)
    }

    /// Wait until all that was pushed is done, or never will be.
    pub fn wait_until_done(&self) {
        let mut state = self.state();
        while !state.closed && (state.busy || !state.jobs.is_empty()) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing more is taken; what waits is forgotten.
    pub fn close(&self) {
        let mut state = self.state();
        *state = State { closed: true, ..State::default() };
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_refuses_and_a_closed_one_forgets() {
        let queue = Queue::new(100);
        let write = |bytes| Job::Write(Key([0; 32]), vec![0; bytes]);
        assert!(queue.push(write(1000)), "one job has room, whatever its size");
        assert!(!queue.push(write(1)));
        assert!(matches!(queue.next(Duration::ZERO), Next::Job(Job::Write(_, page)) if page.len() == 1000));
        assert!(queue.push(write(60)) && queue.push(write(40)) && !queue.push(Job::Touch(vec![(Key([1; 32]), 1)])));
        assert!(
            matches!(queue.next(Duration::ZERO), Next::Job(_)) && matches!(queue.next(Duration::ZERO), Next::Job(_))
        );
        assert!(matches!(queue.next(Duration::ZERO), Next::Idle));
        assert!(queue.push(write(1)));
        queue.close();
        assert!(matches!(queue.next(Duration::ZERO), Next::Closed) && !queue.push(write(1)));
        queue.wait_until_done();
    }
}
