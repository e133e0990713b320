//! Bodies that come while the engine works: streams of events, and answers that are waited for with empty lines.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep};

use crate::complete::Outcome;
use crate::running::Running;
use crate::wire::{Part, Wire};

/// Time without a sign after which one is given that somebody works on it.
const SILENCE: Duration = Duration::from_secs(10);

/// Rings when nothing was sent for a while.
struct Silence(Pin<Box<Sleep>>);

impl Silence {
    fn new() -> Silence {
        Silence(Box::pin(sleep(SILENCE)))
    }

    fn heard(&mut self) {
        self.0.as_mut().reset(Instant::now() + SILENCE);
    }

    fn poll(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let rung = self.0.as_mut().poll(task);
        if rung.is_ready() {
            self.heard();
        }
        rung
    }
}

/// A streamed answer. Dropping it (the client left) drops its tickets, which cancels the request.
pub struct Streamed {
    running: Option<Running>,
    wire: Box<dyn Wire>,
    ready: VecDeque<Bytes>,
    silence: Silence,
}

impl Streamed {
    /// Stream what runs, after what is ready.
    pub fn new(running: Running, wire: Box<dyn Wire>, ready: Vec<Bytes>) -> Streamed {
        Streamed { running: Some(running), wire, ready: ready.into(), silence: Silence::new() }
    }

    fn take(&mut self, next: Option<Result<(usize, Part), crate::problem::Problem>>) {
        match next {
            Some(Ok((choice, part))) => self.ready.extend(self.wire.part(choice, &part)),
            Some(Err(problem)) => {
                self.running = None;
                self.ready.extend(self.wire.failed(&problem));
            }
            None => {
                if let Some(running) = self.running.take() {
                    self.ready.extend(self.wire.closing(&running.usage()));
                }
            }
        }
    }
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                self.silence.heard();
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            let Some(running) = &mut self.running else { return Poll::Ready(None) };
            match running.poll(task) {
                Poll::Ready(next) => self.take(next),
                Poll::Pending if self.silence.poll(task).is_ready() => {
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b": keep-alive\n\n")))));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// An answer that is long in coming: empty lines, then its JSON.
pub struct Late {
    outcome: Option<Outcome>,
    begun: bool,
    silence: Silence,
}

impl Late {
    /// The body of what comes.
    pub fn new(outcome: Outcome) -> Late {
        Late { outcome: Some(outcome), begun: false, silence: Silence::new() }
    }
}

impl HttpBody for Late {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let line = || Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"\n")))));
        let Some(outcome) = &mut self.outcome else { return Poll::Ready(None) };
        if let Poll::Ready(value) = outcome.as_mut().poll(task) {
            self.outcome = None;
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from(value.to_string())))));
        }
        if !self.begun {
            self.begun = true;
            return line();
        }
        if self.silence.poll(task).is_ready() { line() } else { Poll::Pending }
    }
}
