//! Who waits and who runs, for those who submit: it bounds the queue and tells the load at any time, whatever the worker does meanwhile.

use std::collections::HashMap;

use crate::scheduler::Id;

/// Requests that were taken and have not ended.
#[derive(Default)]
pub struct Queue {
    waiting_max: usize,
    running_max: usize,
    /// True for those that run.
    requests: HashMap<Id, bool>,
    running: usize,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull {
    /// Requests that wait.
    pub waiting: usize,
}

impl Queue {
    /// An empty queue. Places to run that are free let as many more wait: they begin with the next step.
    pub fn new(waiting_max: usize, running_max: usize) -> Queue {
        Queue { waiting_max, running_max, ..Queue::default() }
    }

    /// Requests that run, and that wait.
    pub fn load(&self) -> (usize, usize) {
        (self.running, self.requests.len() - self.running)
    }

    /// One more waits.
    ///
    /// # Errors
    /// The queue is full.
    pub fn enter(&mut self, id: Id) -> Result<(), QueueFull> {
        let (running, waiting) = self.load();
        if waiting >= self.waiting_max + self.running_max.saturating_sub(running) {
            return Err(QueueFull { waiting });
        }
        self.requests.insert(id, false);
        Ok(())
    }

    /// One begins to run, or waits again. Nothing for one that has left.
    pub fn runs(&mut self, id: Id, runs: bool) {
        if let Some(now) = self.requests.get_mut(&id)
            && *now != runs
        {
            *now = runs;
            self.running = if runs { self.running + 1 } else { self.running - 1 };
        }
    }

    /// One has ended, or its client has gone. It may leave twice.
    pub fn leave(&mut self, id: Id) {
        if self.requests.remove(&id) == Some(true) {
            self.running -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_whatever_comes_twice() {
        let mut queue = Queue::new(1, 2);
        // Two that may run at once, and one that waits for them.
        assert_eq!([0, 1, 2].map(|id| queue.enter(id)), [Ok(()); 3]);
        assert_eq!((queue.enter(3), queue.load()), (Err(QueueFull { waiting: 3 }), (0, 3)));
        queue.runs(0, true);
        queue.runs(0, true);
        queue.runs(1, true);
        assert_eq!((queue.enter(3), queue.load()), (Err(QueueFull { waiting: 1 }), (2, 1)));
        // One gives way, one ends: a place is free, and one more may wait for it.
        queue.runs(1, false);
        queue.leave(0);
        queue.leave(0);
        queue.runs(0, true);
        assert_eq!(queue.load(), (0, 2));
        assert_eq!((queue.enter(3), queue.enter(4)), (Ok(()), Err(QueueFull { waiting: 3 })));
        (1..4).for_each(|id| queue.leave(id));
        assert_eq!(queue.load(), (0, 0));
    }
}
