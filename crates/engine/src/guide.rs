//! A request's constraint on a thread of its own: what may come next is computed while the forward runs, and whoever is late sits out steps alone.
//!
//! The answers are the constraint's, whenever they come: the clock decides when a token is chosen, never which.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::error::{EngineError, panic_message};
use crate::request::Constraint;

/// Constraints judge a token in microseconds; so long it is waited for, rather than that every request sits out a step.
const PATIENCE: Duration = Duration::from_micros(500);
/// A thread that worked longer than this on one answer gives way to those that compute forwards.
const SLOW: Duration = Duration::from_millis(50);

/// What the thread says, in turns: what may come first; then of each token whether it ends the text, and where not, what may come next.
enum Reply {
    Mask(Vec<u32>),
    Accepted { done: bool },
    Failed(EngineError),
}

/// A constraint at work. Dropping it stops it.
pub(crate) struct Guide {
    tokens: Sender<u32>,
    replies: Receiver<Reply>,
    stop: Box<dyn Fn() + Send>,
    /// Since when somebody waits for the next reply.
    pub since: Option<Instant>,
}

impl Guide {
    /// Begin with the first mask. `wake` is called on the thread after each reply.
    pub fn start(mut constraint: Box<dyn Constraint>, wake: impl Fn() + Send + 'static) -> Result<Guide, EngineError> {
        let (tokens, chosen) = channel();
        let (sender, replies) = channel();
        let stop = constraint.stopper();
        let work = move || {
            let obeyed = catch_unwind(AssertUnwindSafe(|| obey(&mut *constraint, &chosen, &sender, &wake)));
            let error = match obeyed {
                Ok(Ok(())) => return,
                Ok(Err(why)) => EngineError::Constraint(why),
                Err(payload) => EngineError::Fault(panic_message(&*payload)),
            };
            let _ = sender.send(Reply::Failed(error));
            wake();
        };
        let thread = std::thread::Builder::new().name("constraint".into()).spawn(work);
        thread.map_err(|e| EngineError::Fault(format!("no thread for a constraint: {e}")))?;
        Ok(Guide { tokens, replies, stop, since: None })
    }

    /// What may come next; `None`: not known yet.
    pub fn mask(&mut self) -> Result<Option<Vec<u32>>, EngineError> {
        match self.reply(Duration::ZERO)? {
            None => Ok(None),
            Some(Reply::Mask(mask)) => Ok(Some(mask)),
            Some(_) => Err(out_of_turn()),
        }
    }

    /// This token was chosen; `accepted` tells what comes of it.
    pub fn chose(&mut self, token: u32) {
        // A thread that has gone has said why.
        let _ = self.tokens.send(token);
    }

    /// Whether the token that was chosen ends the text; `None`: not known yet.
    pub fn accepted(&mut self) -> Result<Option<bool>, EngineError> {
        match self.reply(PATIENCE)? {
            None => Ok(None),
            Some(Reply::Accepted { done }) => Ok(Some(done)),
            Some(_) => Err(out_of_turn()),
        }
    }

    fn reply(&mut self, patience: Duration) -> Result<Option<Reply>, EngineError> {
        match self.replies.recv_timeout(patience) {
            Ok(Reply::Failed(error)) => Err(error),
            Ok(reply) => {
                self.since = None;
                Ok(Some(reply))
            }
            Err(RecvTimeoutError::Timeout) => {
                self.since.get_or_insert_with(Instant::now);
                Ok(None)
            }
            Err(RecvTimeoutError::Disconnected) => Err(EngineError::Fault("a constraint's thread ended".to_string())),
        }
    }
}

impl Drop for Guide {
    fn drop(&mut self) {
        (self.stop)();
    }
}

fn out_of_turn() -> EngineError {
    EngineError::Fault("a constraint answered out of turn".to_string())
}

/// The constraint's side, until the text ends, nobody asks any more, or it fails.
fn obey(
    constraint: &mut dyn Constraint,
    chosen: &Receiver<u32>,
    replies: &Sender<Reply>,
    wake: &impl Fn(),
) -> Result<(), String> {
    let mut slow = false;
    loop {
        let begun = Instant::now();
        let mask = constraint.allowed()?.to_vec();
        if replies.send(Reply::Mask(mask)).is_err() {
            return Ok(());
        }
        wake();
        if begun.elapsed() > SLOW && !std::mem::replace(&mut slow, true) {
            give_way(10);
        }
        let Ok(token) = chosen.recv() else { return Ok(()) };
        constraint.accept(token)?;
        let done = constraint.is_done();
        if replies.send(Reply::Accepted { done }).is_err() || done {
            wake();
            return Ok(());
        }
        wake();
    }
}

/// The calling thread gives way to others. On Linux it is that thread alone whose priority this is; elsewhere nothing is done.
pub(crate) fn give_way(niceness: i32) {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, niceness);
    #[cfg(not(target_os = "linux"))]
    let _ = niceness;
}
