//! Response bodies that are written while the engine works: server-sent events, and JSON preceded by blank lines.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use http_body::Frame;
use serde_json::Value;
use tokio::time::{Instant, Sleep, sleep};

use crate::api::wire::ResponseWriter;
use crate::generation::events::OutputEvent;
use crate::generation::in_flight::InFlight;

/// A response body that is being computed.
type LateValue = Pin<Box<dyn Future<Output = Value> + Send>>;

/// Time without a sign after which one is given that somebody works on it.
const INTERVAL: Duration = Duration::from_secs(10);

/// Rings when nothing was sent for a while.
struct KeepAlive(Pin<Box<Sleep>>);

impl KeepAlive {
    fn new() -> KeepAlive {
        KeepAlive(Box::pin(sleep(INTERVAL)))
    }

    fn reset(&mut self) {
        self.0.as_mut().reset(Instant::now() + INTERVAL);
    }

    fn poll(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let rung = self.0.as_mut().poll(task);
        if rung.is_ready() {
            self.reset();
        }
        rung
    }
}

/// A streamed answer. Dropping it (the client left) drops its tickets, which cancels the request.
pub struct SseBody {
    in_flight: Option<InFlight>,
    wire: Box<dyn ResponseWriter>,
    ready: VecDeque<Bytes>,
    keep_alive: KeepAlive,
}

impl SseBody {
    /// Stream what runs, after what is ready.
    pub fn new(in_flight: InFlight, wire: Box<dyn ResponseWriter>, ready: Vec<Bytes>) -> SseBody {
        SseBody { in_flight: Some(in_flight), wire, ready: ready.into(), keep_alive: KeepAlive::new() }
    }

    fn take(&mut self, next: Option<Result<(usize, OutputEvent), crate::error::ApiError>>) {
        match next {
            Some(Ok((choice, part))) => self.ready.extend(self.wire.part(choice, &part)),
            Some(Err(error)) => {
                self.in_flight = None;
                self.ready.extend(self.wire.failed(&error));
            }
            None => {
                if let Some(in_flight) = self.in_flight.take() {
                    self.ready.extend(self.wire.closing(&in_flight.usage()));
                }
            }
        }
    }
}

impl HttpBody for SseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                self.keep_alive.reset();
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            let Some(in_flight) = &mut self.in_flight else { return Poll::Ready(None) };
            match in_flight.poll(task) {
                Poll::Ready(next) => self.take(next),
                Poll::Pending if self.keep_alive.poll(task).is_ready() => {
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b": keep-alive\n\n")))));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// An answer that is long in coming: empty lines, then its JSON.
pub struct SlowJsonBody {
    outcome: Option<LateValue>,
    begun: bool,
    keep_alive: KeepAlive,
}

impl SlowJsonBody {
    /// The body of what comes.
    pub fn new(outcome: LateValue) -> SlowJsonBody {
        SlowJsonBody { outcome: Some(outcome), begun: false, keep_alive: KeepAlive::new() }
    }
}

impl HttpBody for SlowJsonBody {
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
        if self.keep_alive.poll(task).is_ready() { line() } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use serde_json::json;

    use super::*;

    async fn next(late: &mut SlowJsonBody) -> Option<String> {
        let frame = poll_fn(|task| Pin::new(&mut *late).poll_frame(task)).await?;
        let Ok(frame) = frame;
        Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
    }

    /// Empty lines until the answer is there; together they are JSON.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_late_is_announced() {
        let outcome = async {
            sleep(INTERVAL * 2 + Duration::from_secs(1)).await;
            json!({"done": true})
        };
        let mut late = SlowJsonBody::new(Box::pin(outcome));
        let begun = Instant::now();
        let mut all = Vec::new();
        while let Some(text) = next(&mut late).await {
            all.push((begun.elapsed().as_secs(), text));
        }
        assert_eq!(all.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 10, 20, 21]);
        let text: String = all.into_iter().map(|(_, text)| text).collect();
        assert_eq!(text, "\n\n\n{\"done\":true}");
    }
}
