//! The pool's protocol in every order that threads and memory may take: a model for loom. Run it with
//! `RUSTFLAGS="--cfg loom" cargo test -p farthing-kernels --test pool_orders --target-dir target/loom`; without the flag it is empty.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};

#[path = "../src/pool.rs"]
#[allow(dead_code, reason = "the model uses a part of it")]
mod pool;
use pool::Pool;

/// A number without a lock, of which loom tells who reads and writes it unordered.
struct Plain(UnsafeCell<usize>);

// SAFETY: loom fails where two threads use it at once.
unsafe impl Sync for Plain {}

impl Plain {
    fn new() -> Self {
        Plain(UnsafeCell::new(0))
    }

    fn get(&self) -> usize {
        // SAFETY: loom fails where another thread writes.
        self.0.with(|x| unsafe { *x })
    }

    fn add(&self, more: usize) {
        // SAFETY: loom fails where another thread reads or writes.
        self.0.with_mut(|x| unsafe { *x += more });
    }
}

/// Every order with at most three switches that no thread asked for; all of them would take hours.
fn bounded(work: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(work);
}

#[test]
fn pieces_see_what_was_before_and_the_caller_sees_what_they_did() {
    bounded(|| {
        let pool = Pool::new(2);
        let (input, outputs) = (Plain::new(), [(); 2].map(|_| Plain::new()));
        for job in 1..3 {
            input.add(1);
            pool.run(2, |piece| outputs[piece].add(input.get()));
            // Each piece ran once, with this job's input.
            outputs.iter().for_each(|x| assert_eq!(x.get(), job * (job + 1) / 2));
        }
    });
}

#[test]
fn a_sleeping_worker_is_woken() {
    loom::model(|| {
        let pool = Pool::new(2);
        let met = Arc::new((Mutex::new(0), Condvar::new()));
        // Each piece waits for the other: one thread alone would wait for ever.
        pool.run(2, |_| {
            let mut there = met.0.lock().unwrap();
            *there += 1;
            met.1.notify_all();
            while *there < 2 {
                there = met.1.wait(there).unwrap();
            }
        });
    });
}

#[test]
fn a_thread_whose_share_is_done_takes_from_the_other_and_each_piece_is_run_once() {
    bounded(|| {
        let pool = Pool::new(2);
        let runs = [(); 4].map(|_| Plain::new());
        pool.run(4, |piece| runs[piece].add(1));
        runs.iter().for_each(|x| assert_eq!(x.get(), 1));
    });
}

#[test]
fn a_pool_that_nobody_used_ends() {
    loom::model(|| drop(Pool::new(3)));
}
