//! Response bodies that are written while the engine works: server-sent events, and JSON preceded by blank lines.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use http_body::Frame;
use serde_json::Value;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::api::response::ResponseWriter;
use crate::error::ApiError;
use crate::generation::events::OutputEvent;
use crate::generation::in_flight::InFlight;

/// A response body that is being computed.
type LateValue = Pin<Box<dyn Future<Output = Value> + Send>>;

/// Longest silence of a body; then a sign that the request is still being worked on is sent.
const INTERVAL: Duration = Duration::from_secs(10);

/// The events of a streamed response. Dropping it (the client left) drops the request's handles, which cancels it.
struct EventStream {
    in_flight: Option<InFlight>,
    writer: Box<dyn ResponseWriter>,
    ready: VecDeque<Event>,
}

/// A response that streams a request's output.
pub fn stream(in_flight: InFlight, mut writer: Box<dyn ResponseWriter>) -> Response {
    let ready = writer.opening().into();
    let events = EventStream { in_flight: Some(in_flight), writer, ready };
    Sse::new(events).keep_alive(KeepAlive::new().interval(INTERVAL).text("keep-alive")).into_response()
}

impl EventStream {
    fn take(&mut self, next: Option<Result<(usize, OutputEvent), ApiError>>) {
        match next {
            Some(Ok((choice, event))) => self.ready.extend(self.writer.event(choice, &event)),
            Some(Err(error)) => {
                self.in_flight = None;
                self.ready.extend(self.writer.failed(&error));
            }
            None => {
                if let Some(in_flight) = self.in_flight.take() {
                    self.ready.extend(self.writer.closing(&in_flight.usage()));
                }
            }
        }
    }
}

impl Stream for EventStream {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            let Some(in_flight) = &mut self.in_flight else { return Poll::Ready(None) };
            let next = ready!(in_flight.poll(task));
            self.take(next);
        }
    }
}

/// A response of JSON that takes long to compute: blank lines show meanwhile that the request is being worked on.
pub fn slow_json(value: impl Future<Output = Value> + Send + 'static) -> Response {
    let mut response = Body::new(SlowJsonBody::new(Box::pin(value))).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// JSON that takes long to compute, preceded by blank lines: one at once, then one in each interval.
struct SlowJsonBody {
    value: Option<LateValue>,
    lines: Interval,
}

impl SlowJsonBody {
    fn new(value: LateValue) -> SlowJsonBody {
        let mut lines = interval(INTERVAL);
        lines.set_missed_tick_behavior(MissedTickBehavior::Delay);
        SlowJsonBody { value: Some(value), lines }
    }
}

impl HttpBody for SlowJsonBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(value) = &mut self.value else { return Poll::Ready(None) };
        let bytes = match value.as_mut().poll(task) {
            Poll::Ready(value) => {
                self.value = None;
                Bytes::from(value.to_string())
            }
            Poll::Pending => {
                ready!(self.lines.poll_tick(task));
                Bytes::from_static(b"\n")
            }
        };
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use serde_json::json;
    use tokio::time::{Instant, sleep};

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
