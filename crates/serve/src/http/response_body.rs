//! Response bodies that are written while the engine works: server-sent events, and JSON preceded by blank lines.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream::unfold;
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use crate::api::response::{Event, ResponseWriter};
use crate::generation::in_flight::InFlight;

/// Longest silence of a body; then a sign that the request is still being worked on is sent.
const INTERVAL: Duration = Duration::from_secs(10);

/// A response that streams a request's output. Dropping it (the client left) drops the request's handles, which cancels it.
pub fn stream(in_flight: InFlight, mut writer: Box<dyn ResponseWriter>) -> Response {
    let lines = writer.lines();
    let ready = VecDeque::from(writer.opening());
    let events = unfold((Some(in_flight), writer, ready), |(mut in_flight, mut writer, mut ready)| async {
        loop {
            if let Some(event) = ready.pop_front() {
                return Some((event, (in_flight, writer, ready)));
            }
            let running = in_flight.as_mut()?;
            match running.next().await {
                Some(Ok((choice, event))) => {
                    ready.extend(writer.event(choice, &event));
                    // Tokens that complete no piece are announced with the next one that comes.
                    if !ready.is_empty() {
                        running.announce();
                    }
                }
                Some(Err(error)) => {
                    in_flight = None;
                    ready.extend(writer.failed(&error));
                }
                None => {
                    ready.extend(writer.closing(&running.usage()));
                    running.announce();
                    in_flight = None;
                }
            }
        }
    });
    if lines {
        let line = |event: Event| Ok::<_, Infallible>(Bytes::from(event.data + "\n"));
        return ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(events.map(line))).into_response();
    }
    let events = events.map(|event| Ok::<_, Infallible>(sse(event)));
    Sse::new(events).keep_alive(KeepAlive::new().interval(INTERVAL).text("keep-alive")).into_response()
}

/// A server-sent event.
pub fn sse(event: Event) -> sse::Event {
    let named = event.name.map_or_else(sse::Event::default, |name| sse::Event::default().event(name));
    named.data(event.data)
}

/// A response of JSON that takes long to compute: blank lines show meanwhile that the request is being worked on.
pub fn slow_json(value: impl Future<Output = Value> + Send + 'static) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], slow_json_body(value)).into_response()
}

/// JSON that takes long to compute, preceded by blank lines: one at once, then one in each interval.
fn slow_json_body(value: impl Future<Output = Value> + Send + 'static) -> Body {
    let mut lines = interval(INTERVAL);
    lines.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Body::from_stream(unfold(Some((Box::pin(value), lines)), |state| async {
        let (mut value, mut lines) = state?;
        let (bytes, rest) = tokio::select! {
            biased;
            value = &mut value => (Bytes::from(value.to_string()), None),
            _ = lines.tick() => (Bytes::from_static(b"\n"), Some((value, lines))),
        };
        Some((Ok::<_, Infallible>(bytes), rest))
    }))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;

    use axum::body::HttpBody;
    use serde_json::json;
    use tokio::time::{Instant, sleep};

    use super::*;

    async fn next(late: &mut Body) -> Option<String> {
        let frame = poll_fn(|task| Pin::new(&mut *late).poll_frame(task)).await?;
        Some(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
    }

    /// Empty lines until the answer is there; together they are JSON.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_late_is_announced() {
        let outcome = async {
            sleep(INTERVAL * 2 + Duration::from_secs(1)).await;
            json!({"done": true})
        };
        let mut late = slow_json_body(outcome);
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
