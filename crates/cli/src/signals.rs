//! Signals to the server: the first that ends it, the second that does so at once, and SIGHUP.

use std::process;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serve::Tls;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use tokio::signal::unix::{SignalKind, signal};

use crate::notify::{is_managed, notify};

/// The exit code of a program that was stopped.
pub const EXIT_STOPPED: i32 = 130;

/// Time beyond `--drain` after which the process ends whatever still runs in it.
const BEYOND: Duration = Duration::from_secs(15);

/// What SIGHUP means to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hangup {
    /// It was started so that it outlives its terminal (nohup).
    Ignored,
    /// The certificate is read anew.
    Reloads,
    /// Nothing to read anew, and no terminal that could hang up.
    Logged,
    /// The terminal is gone.
    Ends,
}

impl Hangup {
    fn of(ignored: bool, tls: bool, managed: bool) -> Hangup {
        match (ignored, tls, managed) {
            (true, ..) => Hangup::Ignored,
            (_, true, _) => Hangup::Reloads,
            (_, _, true) => Hangup::Logged,
            _ => Hangup::Ends,
        }
    }
}

/// Whether a signal is ignored, by `/proc/self/status`: a mask in hexadecimal digits, signal 1 its lowest bit.
pub fn is_ignored(status: &str, number: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (number - 1) & 1 == 1
}

/// Waits for the first signal that ends the server. A second one ends the process whatever runs in it; so does the time that
/// requests have after the first.
pub fn until_told(tls: Option<Arc<Tls>>, drain: Duration) -> std::io::Result<impl Future<Output = ()>> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let on_hangup = Hangup::of(is_ignored(&status, SIGHUP), tls.is_some(), is_managed());
    let told = Arc::new(AtomicBool::new(false));
    let ending = [SIGTERM, SIGINT].into_iter().chain((on_hangup == Hangup::Ends).then_some(SIGHUP));
    for number in ending {
        // In this order: the signal that sets the flag does not see it set. Both run in the signal's handler, so no thread
        // has to be free for it.
        flag::register_conditional_shutdown(number, EXIT_STOPPED, Arc::clone(&told))?;
        flag::register(number, Arc::clone(&told))?;
    }
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = if on_hangup == Hangup::Ignored { None } else { Some(signal(SignalKind::hangup())?) };
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        loop {
            let hung_up = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hung_up => match (on_hangup, &tls) {
                    (Hangup::Reloads, Some(tls)) => match tls.reload() {
                        Ok(()) => tracing::info!(target: "farthing", "the certificate was read anew"),
                        Err(e) => tracing::error!(target: "farthing", "the certificate stays as it was: {e}"),
                    },
                    (Hangup::Ends, _) => break,
                    _ => tracing::info!(target: "farthing", "SIGHUP: there is no certificate to read anew; nothing changes"),
                },
            }
        }
        notify("STOPPING=1");
        tracing::info!(target: "farthing", "shutting down: running requests finish first (a second signal exits at once)");
        let _ = end.send(());
        std::thread::spawn(move || {
            std::thread::sleep(drain + BEYOND);
            tracing::error!(target: "farthing", "some work did not end in time and was left");
            process::exit(1);
        });
    });
    Ok(async move { drop(ended.await) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_hangup_means_follows_from_how_the_server_runs() {
        for (ignored, tls, managed, means) in [
            (true, true, true, Hangup::Ignored),
            (true, false, false, Hangup::Ignored),
            (false, true, true, Hangup::Reloads),
            (false, true, false, Hangup::Reloads),
            (false, false, true, Hangup::Logged),
            (false, false, false, Hangup::Ends),
        ] {
            assert_eq!(Hangup::of(ignored, tls, managed), means);
        }
    }

    #[test]
    fn ignored_signals_are_read_from_a_mask() {
        let status = "Name:\tx\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        assert!(is_ignored(status, 1) && is_ignored(status, 13));
        assert!(!is_ignored(status, 2) && !is_ignored(status, 15) && !is_ignored("", 1));
    }
}
