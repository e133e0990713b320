//! A request from the command line: its tokens as they come, a bar while its prompt is read, ctrl-c.

use std::ops::ControlFlow;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use engine::{Engine, Event, Finish, Request, Runner, Settings, SubmitError, Timing};

use crate::Failure;
use crate::terminal::{interrupted, prompt_bar};

/// How often the bar moves and ctrl-c is looked for while nothing comes.
const GLANCE: Duration = Duration::from_millis(50);

/// An engine for one who asks one thing after another.
pub fn engine(runner: Runner) -> Engine {
    Engine::start(runner, Settings { running: 1, waiting: 1, ..Settings::default() })
}

/// How a text ended.
pub struct Ended {
    pub finish: Finish,
    pub timing: Timing,
    /// With it the text can be made again.
    pub seed: u64,
}

/// Why there is no text.
pub enum Unanswered {
    /// The request was not taken.
    Refused(SubmitError),
    /// It failed, or whoever took its tokens did.
    Failed(Failure),
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Unanswered {
        Unanswered::Failed(failure)
    }
}

impl From<Unanswered> for Failure {
    fn from(unanswered: Unanswered) -> Failure {
        match unanswered {
            Unanswered::Refused(error) => error.into(),
            Unanswered::Failed(failure) => failure,
        }
    }
}

/// Give each token of a request's text. `Break` ends it, as ctrl-c does; then it is `Cancelled`.
pub fn answer(
    engine: &Engine,
    request: Request,
    each: &mut dyn FnMut(u32) -> Result<ControlFlow<()>, Failure>,
) -> Result<Ended, Unanswered> {
    let bar = prompt_bar(request.prompt.len());
    let (handle, events) = engine.generate(request).map_err(Unanswered::Refused)?;
    let (mut handle, mut given, mut seed) = (Some(handle), 0, 0);
    let (finish, mut timing) = loop {
        if interrupted() {
            handle = None;
        }
        match events.recv_timeout(GLANCE) {
            Ok(Event::Started { seed: its, .. }) => seed = its,
            Ok(Event::Token { id, .. }) if handle.is_some() => {
                bar.finish_and_clear();
                given += 1;
                if each(id)?.is_break() {
                    handle = None;
                }
            }
            Ok(Event::Read { .. } | Event::Prompt(_) | Event::Token { .. }) => {}
            Ok(Event::End { finish, timing }) => break (finish, timing),
            Ok(Event::Failed(error)) => return Err(Unanswered::Failed(error.into())),
            Err(RecvTimeoutError::Timeout) => {
                bar.set_position(handle.as_ref().map_or(0, |handle| handle.prompt_progress() as u64));
            }
            // It was stopped before it began.
            Err(RecvTimeoutError::Disconnected) => break (Finish::Cancelled, Timing::default()),
        }
    };
    bar.finish_and_clear();
    if handle.is_none() {
        // What the engine was ahead of the one who stopped it was not given.
        timing.generated = given;
    }
    Ok(Ended { finish: if handle.is_none() { Finish::Cancelled } else { finish }, timing, seed })
}
