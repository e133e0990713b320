//! A fixed pool of threads that meet often and briefly: workers spin a little for the next job, then park.
//!
//! Work is claimed piece by piece: each thread has a share of neighbouring pieces, which it takes from the front, so that it reads memory in
//! one stream; when its share is done, it takes from the back of another's. The caller takes part, and waits only for workers that
//! have entered the job, never for one that has not started (it may be off its processor). A nested or concurrent call runs its
//! work on the calling thread.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};
#[cfg(not(loom))]
use std::{hint, sync, thread};

#[cfg(loom)]
use loom::{hint, sync, thread};
use sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use sync::{Arc, Mutex};
use thread::{JoinHandle, Thread};

/// How long an idle worker spins before it parks. A model has no clock: there it parks at once.
const SPIN: Duration = if cfg!(loom) { Duration::ZERO } else { Duration::from_micros(200) };

/// How often a spinning worker looks at the clock.
const SPINS_A_LOOK: u32 = if cfg!(loom) { 1 } else { 64 };

/// Bit of `gate` that says a job may be entered; the bits below count the workers inside.
const OPEN: usize = 1 << (usize::BITS - 1);

/// A fixed set of threads, the caller included.
pub struct Pool {
    shared: Arc<PoolShared>,
    callers: Mutex<()>,
    workers: Vec<(JoinHandle<()>, Thread)>,
}

struct PoolShared {
    /// Counts jobs, so that workers see a new one.
    epoch: AtomicUsize,
    gate: AtomicUsize,
    /// By thread, the caller first.
    shares: Vec<Share>,
    /// The job: a `Job` on the caller's stack, valid while the gate is open or someone is inside.
    job: AtomicPtr<()>,
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

impl PoolShared {
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
            let mut epoch = self.epoch.load(Ordering::Acquire);
            let started = Instant::now();
            let mut spins = 0u32;
            while epoch == seen && !self.stop.load(Ordering::Relaxed) {
                spins += 1;
                if spins.is_multiple_of(SPINS_A_LOOK) && started.elapsed() >= SPIN {
                    // Swaps on both sides: of this one and the caller's, after its count of the epoch, the later sees what was before the
                    // other. So either the caller wakes this thread, or the epoch is seen to have changed.
                    self.sleeping[index].swap(true, Ordering::AcqRel);
                    if self.epoch.load(Ordering::Acquire) == seen && !self.stop.load(Ordering::Acquire) {
                        thread::park();
                    }
                    self.sleeping[index].store(false, Ordering::Relaxed);
                }
                hint::spin_loop();
                epoch = self.epoch.load(Ordering::Acquire);
            }
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            seen = epoch;
            if self.enter() {
                let job = self.job.load(Ordering::Relaxed).cast::<Job<'_>>();
                // SAFETY: inside the gate the caller of `run` cannot return, so its job is alive; the pointer was stored
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
        let shared = Arc::new(PoolShared {
            epoch: AtomicUsize::new(0),
            gate: AtomicUsize::new(0),
            shares: (0..=workers).map(|_| Share(AtomicU64::new(0))).collect(),
            job: AtomicPtr::new(std::ptr::null_mut()),
            sleeping: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let workers = (0..workers)
            .map(|index| {
                let shared = Arc::clone(&shared);
                let handle = thread::Builder::new()
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
        shared.job.store((&raw const job).cast_mut().cast(), Ordering::Relaxed);
        shared.gate.store(OPEN, Ordering::Release);
        shared.epoch.fetch_add(1, Ordering::Release);
        for (sleeping, (_, thread)) in shared.sleeping.iter().zip(&self.workers) {
            if sleeping.swap(false, Ordering::AcqRel) {
                thread.unpark();
            }
        }
        shared.work(0, job);
        shared.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0u32;
        while shared.gate.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins.is_multiple_of(1 << 14) { thread::yield_now() } else { hint::spin_loop() }
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
        self.shared.stop.store(true, Ordering::Release);
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
