//! Who waits and who runs, for those who submit: it bounds the queue and tells the load at any time, whatever the worker does meanwhile.

use std::collections::HashMap;

use crate::scheduler::Id;

/// Requests that were taken and have not ended.
#[derive(Default)]
pub struct Queue {
    waiting_max: usize,
    running_max: usize,
    requests: HashMap<Id, Place>,
    running: usize,
    /// Of those in the background, which take no place from others: how many run, and how many there are.
    background: (usize, usize),
}

#[derive(Clone, Copy)]
struct Place {
    runs: bool,
    background: bool,
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

    /// One more waits. Those in the background have a queue as long as the others'.
    ///
    /// # Errors
    /// The queue is full.
    pub fn enter(&mut self, id: Id, background: bool) -> Result<(), QueueFull> {
        let (ran, all) = self.background;
        let (running, waiting) = match background {
            true => (ran, all - ran),
            false => (self.running - ran, self.requests.len() - self.running - (all - ran)),
        };
        if waiting >= self.waiting_max + self.running_max.saturating_sub(running) {
            return Err(QueueFull { waiting });
        }
        self.requests.insert(id, Place { runs: false, background });
        self.background.1 += usize::from(background);
        Ok(())
    }

    /// One begins to run, or waits again. Nothing for one that has left.
    pub fn runs(&mut self, id: Id, runs: bool) {
        if let Some(place) = self.requests.get_mut(&id)
            && place.runs != runs
        {
            place.runs = runs;
            let change = |count: &mut usize| *count = if runs { *count + 1 } else { *count - 1 };
            change(&mut self.running);
            if place.background {
                change(&mut self.background.0);
            }
        }
    }

    /// One has ended, or its client has gone. It may leave twice.
    pub fn leave(&mut self, id: Id) {
        self.runs(id, false);
        if self.requests.remove(&id).is_some_and(|place| place.background) {
            self.background.1 -= 1;
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
        assert_eq!([0, 1, 2].map(|id| queue.enter(id, false)), [Ok(()); 3]);
        assert_eq!((queue.enter(3, false), queue.load()), (Err(QueueFull { waiting: 3 }), (0, 3)));
        queue.runs(0, true);
        queue.runs(0, true);
        queue.runs(1, true);
        assert_eq!((queue.enter(3, false), queue.load()), (Err(QueueFull { waiting: 1 }), (2, 1)));
        // One gives way, one ends: a place is free, and one more may wait for it.
        queue.runs(1, false);
        queue.leave(0);
        queue.leave(0);
        queue.runs(0, true);
        assert_eq!(queue.load(), (0, 2));
        assert_eq!((queue.enter(3, false), queue.enter(4, false)), (Ok(()), Err(QueueFull { waiting: 3 })));
        (1..4).for_each(|id| queue.leave(id));
        assert_eq!(queue.load(), (0, 0));
    }

    #[test]
    fn the_background_takes_no_place_from_others() {
        let mut queue = Queue::new(1, 2);
        assert_eq!([0, 1, 2].map(|id| queue.enter(id, true)), [Ok(()); 3]);
        assert_eq!(queue.enter(3, true), Err(QueueFull { waiting: 3 }));
        queue.runs(0, true);
        queue.runs(1, true);
        assert_eq!(queue.load(), (2, 1));
        assert_eq!([10, 11, 12].map(|id| queue.enter(id, false)), [Ok(()); 3]);
        assert_eq!(queue.enter(13, false), Err(QueueFull { waiting: 3 }));
        // It gives way and ends, each twice.
        queue.runs(0, false);
        queue.runs(0, false);
        [0, 0, 1, 2].into_iter().for_each(|id| queue.leave(id));
        assert_eq!((queue.load(), queue.enter(3, true)), ((0, 3), Ok(())));
    }
}
