//! The pool: every piece once, in the order that is promised, awake and asleep, nested, and after a panic.
#![cfg(not(loom))]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use farthing_kernels::Pool;

#[test]
fn every_task_runs_once() {
    for threads in [1, 2, 3, 7] {
        let pool = Pool::new(threads);
        for n in [0, 1, 2, 5, 100] {
            let mut tasks = vec![0u32; n];
            pool.each(&mut tasks, |t| *t += 1);
            assert!(tasks.iter().all(|&t| t == 1));
        }
        let sum = AtomicUsize::new(0);
        pool.range(1000, 7, |r| {
            sum.fetch_add(r.sum::<usize>(), Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 499_500);
    }
}

#[test]
fn what_comes_next_is_run_next_or_by_another_and_once() {
    for threads in [1, 2, 3, 7] {
        let pool = Pool::new(threads);
        for n in [0, 1, 5, 30, 300] {
            let runs: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
            let [told, wrong] = [(); 2].map(|_| AtomicUsize::new(0));
            thread_local!(static NEXT: std::cell::Cell<Option<usize>> = const { std::cell::Cell::new(None) });
            pool.run_ahead(n, |piece, next| {
                runs[piece].fetch_add(1, Ordering::Relaxed);
                if NEXT.get().is_some_and(|told| told != piece) {
                    wrong.fetch_add(1, Ordering::Relaxed);
                }
                told.fetch_add(next.is_some() as usize, Ordering::Relaxed);
                NEXT.set(next);
            });
            assert!(runs.iter().all(|r| r.load(Ordering::Relaxed) == 1));
            // A share that was finished from its back: one false hint each.
            assert!(wrong.into_inner() <= threads);
            assert!(n < 300 || threads > 1 || told.into_inner() == n - 1);
            assert!(!(NEXT.get().is_some() && threads == 1));
        }
    }
}

#[test]
fn a_thread_runs_its_share_in_order_and_then_the_other_from_its_back() {
    let pool = Pool::new(2);
    let caller = std::thread::current().id();
    for _ in 0..20 {
        let (order, begun) = (Mutex::new(Vec::new()), Instant::now());
        pool.run(100, |piece| {
            if std::thread::current().id() == caller {
                order.lock().unwrap().push(piece);
            } else {
                // The worker's first piece takes until nothing else is left.
                while order.lock().unwrap().len() < 99 && begun.elapsed() < Duration::from_secs(30) {
                    std::thread::yield_now();
                }
            }
        });
        let order = order.into_inner().unwrap();
        let want: Vec<usize> = (0..50).chain((50..100).rev()).collect();
        assert_eq!(order, want[..order.len()]);
        assert!(order.len() >= 99, "{order:?}");
    }
}

#[test]
fn many_tiny_joins_awake_and_asleep() {
    let pool = Pool::new(3);
    for round in 0..3000 {
        let mut tasks = [0usize; 4];
        pool.each(&mut tasks, |t| *t = round);
        assert_eq!(tasks, [round; 4]);
        if round % 500 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn nested_and_concurrent_calls_finish() {
    let pool = Pool::new(2);
    let count = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..200 {
                    pool.run(4, |_| {
                        pool.run(3, |_| {
                            count.fetch_add(1, Ordering::Relaxed);
                        })
                    });
                }
            });
        }
    });
    assert_eq!(count.into_inner(), 3 * 200 * 12);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let pool = Pool::new(2);
    for _ in 0..50 {
        let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(8, |i| assert_ne!(i, 5, "planned"))));
        assert!(outcome.is_err());
        let mut tasks = [0u8; 16];
        pool.each(&mut tasks, |t| *t = 1);
        assert_eq!(tasks, [1; 16]);
    }
}
