//! Writing to people and to pipes.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Failure;

/// Begins the message of a failure that is a person's wish: the exit code is 130.
pub const STOPPED: &str = "\u{0}";

/// The message of a failure that is none: the reader of our output has gone.
pub const CLOSED: &str = "the output was closed";

/// Write to stdout and flush.
pub fn put(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Failure(CLOSED.to_string()),
        _ => Failure(format!("cannot write the output: {e}")),
    })
}

/// Set by ctrl-c; whoever generates looks at it between tokens.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on ctrl-c sets a flag instead of ending the program; a second one before the flag is looked at ends it.
pub fn catch_interrupts() {
    let handler = || {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    };
    // Only fails when a handler is there already.
    let _ = ctrlc::set_handler(handler);
}

/// Whether ctrl-c came since the last time this was asked.
pub fn interrupted() -> bool {
    INTERRUPTED.swap(false, Ordering::SeqCst)
}

/// Whether ctrl-c came and nobody has asked yet.
pub fn interrupt_pending() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// A number of bytes for people.
pub fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        _ if n < 1024.0 => format!("{n} B"),
        _ if n < 1024.0 * 1024.0 => format!("{:.1} KiB", n / 1024.0),
        _ if n < 1024.0 * 1024.0 * 1024.0 => format!("{:.1} MiB", n / 1_048_576.0),
        _ => format!("{:.2} GiB", n / 1_073_741_824.0),
    }
}

/// A count for people: 15.7 B, 5.73 M.
pub fn count(n: u64) -> String {
    let x = n as f64;
    match n {
        1_000_000_000.. => format!("{:.2} B", x / 1e9),
        1_000_000.. => format!("{:.2} M", x / 1e6),
        _ => n.to_string(),
    }
}

/// A bar for reading a prompt of this many tokens; hidden where stderr is no terminal or the prompt is short.
pub fn prompt_bar(tokens: usize) -> indicatif::ProgressBar {
    if tokens < 512 {
        return indicatif::ProgressBar::hidden();
    }
    let style = indicatif::ProgressStyle::with_template("reading the prompt {bar:30} {pos}/{len} tokens, {eta} left");
    indicatif::ProgressBar::new(tokens as u64).with_style(style.expect("a sound template"))
}
