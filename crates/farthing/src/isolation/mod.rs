//! Strangers' programs in processes of their own: chat templates that came with a model, constraints that came with a request.
//!
//! Both can compute without end and without bound on memory. In a process of its own each has a time and a memory that it cannot pass.
//! The process is this program, started again with a first argument that [`isolate`] looks for.

mod constraint;
mod process;
mod template;

use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use constraint::IsolatedTrials;
pub(crate) use template::IsolatedTemplate;

static ISOLATED: AtomicBool = AtomicBool::new(false);

/// Call this as the first thing in `main`. Where this process was started to do isolated work, it does that and does not return.
/// From then on strangers' chat templates and constraints run in such processes, and [`crate::Server`] can be used.
pub fn isolate() {
    let work: Option<fn() -> std::io::Result<()>> = match std::env::args_os().nth(1) {
        Some(word) if word == template::COMMAND => Some(template::work),
        Some(word) if word == constraint::COMMAND => Some(constraint::work),
        _ => None,
    };
    if let Some(work) = work {
        let outcome = work();
        if let Err(e) = &outcome {
            eprintln!("farthing: {e}");
        }
        std::process::exit(i32::from(outcome.is_err()));
    }
    ISOLATED.store(true, Ordering::Relaxed);
}

/// Whether `isolate` was called.
pub(crate) fn is_isolated() -> bool {
    ISOLATED.load(Ordering::Relaxed)
}
