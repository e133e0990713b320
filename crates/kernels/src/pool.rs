//! A fixed pool of threads that meet often and briefly: workers spin a little for the next job, then park.
//!
//! Work is claimed piece by piece: each thread has a share of neighbouring pieces, which it takes from the front, so that it reads memory in
//! one stream; when its share is done, it takes from the back of another's. The caller takes part, and waits only for workers that
//! have entered the job, never for one that has not started (it may be off its processor). A nested or concurrent call runs its
//! work on the calling thread.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle worker spins before it parks.
const SPIN: Duration = Duration::from_micros(200);

/// Bit of `gate` that says a job may be entered; the bits below count the workers inside.
const OPEN: usize = 1 << (usize::BITS - 1);

/// A fixed set of threads, the caller included.
pub struct Pool {
    shared: Arc<Shared>,
    callers: Mutex<()>,
    workers: Vec<(JoinHandle<()>, Thread)>,
}

struct Shared {
    /// Counts jobs, so that workers see a new one.
    epoch: AtomicUsize,
    gate: AtomicUsize,
    /// By thread, the caller first.
    shares: Vec<Share>,
    /// The job: address of a `Job` on the caller's stack, valid while the gate is open or someone is inside.
    job: AtomicUsize,
    sleeping: Vec<AtomicBool>,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A piece, and the one that this thread will probably run next, `NONE` where it does not know.
type Job<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// No piece.
const NONE: usize = usize::MAX;

/// Pieces that are left of a thread's share: the first in the high half, the end in the low one. Alone in its cache lines.
#[repr(align(128))]
#[derive(Default)]
struct Share(AtomicU64);

impl Share {
    fn set(&self, pieces: Range<usize>) {
        let bound = |piece| u32::try_from(piece).expect("fewer than 2^32 pieces");
        let (first, end) = (bound(pieces.start), bound(pieces.end));
        self.0.store(u64::from(first) << 32 | u64::from(end), Ordering::Relaxed);
    }

    /// Claim the first piece, or the last one.
    fn claim(&self, from_front: bool) -> Option<Range<usize>> {
        let mut left = self.0.load(Ordering::Relaxed);
        loop {
            let (first, end) = (left >> 32, left & u64::from(u32::MAX));
            if first >= end {
                return None;
            }
            let less = if from_front { left + (1 << 32) } else { left - 1 };
            match self.0.compare_exchange_weak(left, less, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) if from_front => return Some(first as usize..end as usize),
                Ok(_) => return Some(end as usize - 1..end as usize),
                Err(now) => left = now,
            }
        }
    }
}

impl Shared {
    /// Claim and run pieces as thread `index` until none is left. A panic is kept for the caller.
    fn work(&self, index: usize, job: Job) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            while let Some(pieces) = self.shares[index].claim(true) {
                let next = pieces.start + 1;
                job(pieces.start, if next < pieces.end { next } else { NONE });
            }
            let threads = self.shares.len();
            for other in 1..threads {
                while let Some(piece) = self.shares[(index + other) % threads].claim(false) {
                    job(piece.start, NONE);
                }
            }
        }));
        if let Err(payload) = outcome {
            self.shares.iter().for_each(|share| share.set(0..0));
            *self.panic.lock().unwrap_or_else(|e| e.into_inner()) = Some(payload);
        }
    }

    fn enter(&self) -> bool {
        let mut gate = self.gate.load(Ordering::Relaxed);
        while gate & OPEN != 0 {
            match self.gate.compare_exchange_weak(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => gate = now,
            }
        }
        false
    }

    fn worker(&self, index: usize) {
        let mut seen = 0;
        loop {
            let mut epoch = self.epoch.load(Ordering::SeqCst);
            let started = Instant::now();
            let mut spins = 0u32;
            while epoch == seen && !self.stop.load(Ordering::Relaxed) {
                spins += 1;
                if spins.is_multiple_of(64) && started.elapsed() > SPIN {
                    self.sleeping[index].store(true, Ordering::SeqCst);
                    if self.epoch.load(Ordering::SeqCst) == seen && !self.stop.load(Ordering::SeqCst) {
                        std::thread::park();
                    }
                    self.sleeping[index].store(false, Ordering::SeqCst);
                }
                std::hint::spin_loop();
                epoch = self.epoch.load(Ordering::SeqCst);
            }
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            seen = epoch;
            if self.enter() {
                let job = self.job.load(Ordering::Relaxed) as *const Job<'_>;
                // SAFETY: inside the gate the caller of `run` cannot return, so its job is alive; the address was stored
                // before the gate opened (release) and read after entering it (acquire).
                self.work(index + 1, unsafe { *job });
                self.gate.fetch_sub(1, Ordering::Release);
            }
        }
    }
}

impl Pool {
    /// `threads` threads in all, at least one: the caller and `threads - 1` workers.
    pub fn new(threads: usize) -> Pool {
        let workers = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            gate: AtomicUsize::new(0),
            shares: (0..=workers).map(|_| Share::default()).collect(),
            job: AtomicUsize::new(0),
            sleeping: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let workers = (0..workers)
            .map(|index| {
                let shared = Arc::clone(&shared);
                let handle = std::thread::Builder::new()
                    .name(format!("pool-{index}"))
                    .spawn(move || shared.worker(index))
                    .expect("the system starts a thread");
                let thread = handle.thread().clone();
                (handle, thread)
            })
            .collect();
        Pool { shared, callers: Mutex::new(()), workers }
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Run `job(0..pieces)`, each piece once, on all threads; returns when all are done.
    ///
    /// # Panics
    /// When a job does, or there are 2^32 pieces.
    pub fn run(&self, pieces: usize, job: impl Fn(usize) + Sync) {
        self.pieces(pieces, &|piece, _| job(piece));
    }

    /// As `run`; each thread also knows the piece that it will run after this one, unless another takes it first, so that it can ask for
    /// what that needs.
    pub fn run_ahead(&self, pieces: usize, job: impl Fn(usize, Option<usize>) + Sync) {
        self.pieces(pieces, &|piece, next| job(piece, Some(next).filter(|&next| next != NONE)));
    }

    fn pieces(&self, pieces: usize, job: Job<'_>) {
        let claim = if pieces > 1 && !self.workers.is_empty() { self.callers.try_lock().ok() } else { None };
        if claim.is_none() {
            (0..pieces).for_each(|piece| job(piece, if piece + 1 < pieces { piece + 1 } else { NONE }));
            return;
        }
        let (shared, threads) = (&*self.shared, self.threads());
        for (t, share) in shared.shares.iter().enumerate() {
            share.set(pieces * t / threads..pieces * (t + 1) / threads);
        }
        shared.job.store(&raw const job as usize, Ordering::Relaxed);
        shared.gate.store(OPEN, Ordering::Release);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (sleeping, (_, thread)) in shared.sleeping.iter().zip(&self.workers) {
            if sleeping.swap(false, Ordering::SeqCst) {
                thread.unpark();
            }
        }
        shared.work(0, job);
        shared.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0u32;
        while shared.gate.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins.is_multiple_of(1 << 14) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        let panic = shared.panic.lock().unwrap_or_else(|e| e.into_inner()).take();
        drop(claim);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Run `f` on every task, each on one thread.
    pub fn each<T: Send>(&self, tasks: &mut [T], f: impl Fn(&mut T) + Sync) {
        let base = Tasks(tasks.as_mut_ptr());
        self.run(tasks.len(), |piece| {
            // SAFETY: every piece is claimed once and is within the slice, so the references are disjoint; `T: Send`.
            f(unsafe { &mut *base.at(piece) });
        });
    }

    /// Run `f` over `0..n` in ranges of about `grain`.
    pub fn range(&self, n: usize, grain: usize, f: impl Fn(Range<usize>) + Sync) {
        let grain = grain.max(1);
        self.run(n.div_ceil(grain), |piece| f(piece * grain..((piece + 1) * grain).min(n)));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for (handle, thread) in self.workers.drain(..) {
            thread.unpark();
            let _ = handle.join();
        }
    }
}

/// A base address that threads may share; see `Pool::each` for why that is sound.
struct Tasks<T>(*mut T);

impl<T> Tasks<T> {
    fn at(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

// SAFETY: only used to reach disjoint elements of a slice of `Send` values.
unsafe impl<T: Send> Sync for Tasks<T> {}

#[cfg(test)]
mod tests {
    use super::*;

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
}
