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
    /// Of those that wait, how many have lost their places to others and are told of it soon.
    refused: usize,
}

#[derive(Clone, Copy)]
struct Place {
    account: u64,
    runs: bool,
    begun: bool,
    background: bool,
    refused: bool,
}

impl Place {
    /// Waits for its first turn, and could be refused.
    fn is_new(&self) -> bool {
        !(self.begun || self.background || self.refused)
    }
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

    /// One more waits. Those in the background have a queue as long as the others'. In a full queue it takes the place of the newest of the account that has most,
    /// where its own has fewer: that one is returned, and has to leave.
    ///
    /// # Errors
    /// The queue is full.
    pub fn enter(&mut self, id: Id, account: u64, background: bool) -> Result<Option<Id>, QueueFull> {
        let (ran, all) = self.background;
        let (running, waiting) = match background {
            true => (ran, all - ran),
            false => (self.running - ran, self.requests.len() - self.running - (all - ran) - self.refused),
        };
        let full = waiting >= self.waiting_max + self.running_max.saturating_sub(running);
        let refused = if full && !background { self.refuse(account) } else { None };
        if full && refused.is_none() {
            return Err(QueueFull { waiting });
        }
        self.requests.insert(id, Place { account, runs: false, begun: false, background, refused: false });
        self.background.1 += usize::from(background);
        Ok(refused)
    }

    /// Refuses the newest that has not begun of the account that has most of them, if it has more than `account` even then.
    fn refuse(&mut self, account: u64) -> Option<Id> {
        let mut counts: HashMap<u64, (usize, Id)> = HashMap::new();
        for (&id, place) in self.requests.iter().filter(|(_, place)| place.is_new()) {
            let (count, newest) = counts.entry(place.account).or_default();
            (*count, *newest) = (*count + 1, id.max(*newest));
        }
        let own = counts.get(&account).map_or(0, |(count, _)| *count);
        let (_, newest) = counts.into_values().max().filter(|(most, _)| *most > own + 1)?;
        self.requests.get_mut(&newest)?.refused = true;
        self.refused += 1;
        Some(newest)
    }

    /// One begins to run, or waits again. Nothing for one that has left.
    pub fn runs(&mut self, id: Id, runs: bool) {
        if let Some(place) = self.requests.get_mut(&id)
            && place.runs != runs
        {
            place.runs = runs;
            place.begun = true;
            // It began while its place was given away: both stay.
            self.refused -= usize::from(std::mem::take(&mut place.refused));
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
        if let Some(place) = self.requests.remove(&id) {
            self.background.1 -= usize::from(place.background);
            self.refused -= usize::from(place.refused);
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
        assert_eq!([0, 1, 2].map(|id| queue.enter(id, 0, false)), [Ok(None); 3]);
        assert_eq!((queue.enter(3, 0, false), queue.load()), (Err(QueueFull { waiting: 3 }), (0, 3)));
        queue.runs(0, true);
        queue.runs(0, true);
        queue.runs(1, true);
        assert_eq!((queue.enter(3, 0, false), queue.load()), (Err(QueueFull { waiting: 1 }), (2, 1)));
        // One gives way, one ends: a place is free, and one more may wait for it.
        queue.runs(1, false);
        queue.leave(0);
        queue.leave(0);
        queue.runs(0, true);
        assert_eq!(queue.load(), (0, 2));
        assert_eq!((queue.enter(3, 0, false), queue.enter(4, 0, false)), (Ok(None), Err(QueueFull { waiting: 3 })));
        (1..4).for_each(|id| queue.leave(id));
        assert_eq!(queue.load(), (0, 0));
    }

    #[test]
    fn the_background_takes_no_place_from_others() {
        let mut queue = Queue::new(1, 2);
        assert_eq!([0, 1, 2].map(|id| queue.enter(id, 0, true)), [Ok(None); 3]);
        assert_eq!(queue.enter(3, 0, true), Err(QueueFull { waiting: 3 }));
        queue.runs(0, true);
        queue.runs(1, true);
        assert_eq!(queue.load(), (2, 1));
        assert_eq!([10, 11, 12].map(|id| queue.enter(id, 0, false)), [Ok(None); 3]);
        assert_eq!(queue.enter(13, 0, false), Err(QueueFull { waiting: 3 }));
        // It gives way and ends, each twice.
        queue.runs(0, false);
        queue.runs(0, false);
        [0, 0, 1, 2].into_iter().for_each(|id| queue.leave(id));
        assert_eq!((queue.load(), queue.enter(3, 0, true)), ((0, 3), Ok(None)));
    }

    #[test]
    fn a_full_queue_refuses_the_newest_of_who_has_most() {
        let mut queue = Queue::new(3, 1);
        (0..2).for_each(|id| assert_eq!(queue.enter(id, 7, false), Ok(None)));
        // One that has begun and waits again is not refused.
        queue.runs(0, true);
        queue.runs(0, false);
        (2..4).for_each(|id| assert_eq!(queue.enter(id, 7, false), Ok(None)));
        assert_eq!(queue.enter(4, 7, false), Err(QueueFull { waiting: 4 }), "its own account has most");
        assert_eq!(queue.enter(4, 8, false), Ok(Some(3)));
        assert_eq!(queue.enter(5, 8, false), Err(QueueFull { waiting: 4 }), "two are not more than two");
        assert_eq!(queue.enter(5, 9, true), Ok(None), "the background has places of its own");
        queue.leave(3);
        assert_eq!((queue.load(), queue.enter(6, 9, false)), ((0, 5), Ok(Some(2))));
        assert_eq!(queue.enter(7, 9, false), Err(QueueFull { waiting: 4 }), "all have few");
        // One that began meanwhile stays beside the one that has its place.
        (0..7).for_each(|id| queue.leave(id));
        (10..14).for_each(|id| assert_eq!(queue.enter(id, 7, false), Ok(None)));
        assert_eq!(queue.enter(14, 8, false), Ok(Some(13)));
        queue.runs(13, true);
        assert_eq!((queue.load(), queue.enter(15, 9, false)), ((1, 4), Ok(Some(12))));
        (10..16).for_each(|id| queue.leave(id));
        assert_eq!((queue.load(), queue.refused), ((0, 0), 0));
    }
}
