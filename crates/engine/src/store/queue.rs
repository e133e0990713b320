//! What waits for the writer: a queue with a bound in bytes, which refuses rather than waits.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Key;

/// Something to do for the writer.
pub(super) enum WriteJob {
    Write(Key, Vec<u8>),
    /// Blocks were used at these times, in nanoseconds since 1970.
    Touch(Vec<(Key, u64)>),
}

impl WriteJob {
    fn bytes(&self) -> usize {
        match self {
            WriteJob::Write(_, page) => page.len(),
            WriteJob::Touch(blocks) => size_of_val(&blocks[..]),
        }
    }
}

/// What the writer finds.
pub(super) enum Next {
    WriteJob(WriteJob),
    /// Nothing for the time it waited.
    Idle,
    /// There will be nothing any more.
    Closed,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<WriteJob>,
    bytes: usize,
    busy: bool,
    closed: bool,
}

/// Between those who put and the one who writes.
pub(super) struct WriteQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
    bytes_max: usize,
}

impl WriteQueue {
    /// With room for `bytes_max`, and always for one job.
    pub fn new(bytes_max: usize) -> WriteQueue {
        WriteQueue { state: Mutex::default(), changed: Condvar::new(), bytes_max }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there was room.
    pub fn push(&self, job: WriteJob) -> bool {
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
        Next::WriteJob(job)
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
        *state = QueueState { closed: true, ..QueueState::default() };
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_refuses_and_a_closed_one_forgets() {
        let queue = WriteQueue::new(100);
        let write = |bytes| WriteJob::Write(Key::new([0; 32]), vec![0; bytes]);
        assert!(queue.push(write(1000)), "one job has room, whatever its size");
        assert!(!queue.push(write(1)));
        assert!(matches!(queue.next(Duration::ZERO), Next::WriteJob(WriteJob::Write(_, page)) if page.len() == 1000));
        assert!(
            queue.push(write(60))
                && queue.push(write(40))
                && !queue.push(WriteJob::Touch(vec![(Key::new([1; 32]), 1)]))
        );
        assert!(
            matches!(queue.next(Duration::ZERO), Next::WriteJob(_))
                && matches!(queue.next(Duration::ZERO), Next::WriteJob(_))
        );
        assert!(matches!(queue.next(Duration::ZERO), Next::Idle));
        assert!(queue.push(write(1)));
        queue.close();
        assert!(matches!(queue.next(Duration::ZERO), Next::Closed) && !queue.push(write(1)));
        queue.wait_until_done();
    }
}
