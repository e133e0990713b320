//! Connections: how many, how patient, and how they end.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Sleep, sleep};

use crate::State;
use crate::routes::router;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Fields of a request's head.
const HEADERS_MAX: usize = 100;

/// Serve until `end` comes; then finish what runs, but no longer than the bounds allow. True when all was finished.
///
/// # Errors
/// None after the start: a connection that fails harms nobody else.
pub async fn listen(listener: TcpListener, state: Arc<State>, end: impl Future<Output = ()>) -> bool {
    let bounds = state.bounds;
    let places = Arc::new(Semaphore::new(bounds.connections));
    let (ending, ended) = watch::channel(false);
    let app = router(Arc::clone(&state));
    let mut end = pin!(end);
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => break,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely: let some connections end first.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (app, ended) = (app.clone(), ended.clone());
        tokio::spawn(async move {
            connection(stream, app, bounds.patience, ended).await;
            drop(place);
        });
    }
    drop(listener);
    let _ = ending.send(true);
    if let Some(model) = state.model() {
        model.service.end();
    }
    let all = u32::try_from(bounds.connections).unwrap_or(u32::MAX);
    tokio::time::timeout(bounds.drain, places.acquire_many(all)).await.is_ok()
}

async fn connection(stream: TcpStream, app: axum::Router, patience: Duration, mut ended: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let service = hyper_util::service::TowerToHyperService::new(app);
    let stream = Patient { stream, patience, waiting: None };
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = ended.wait_for(|ended| *ended) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// A connection whose other side must take what is written to it.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn judge<T>(&mut self, task: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.waiting = None;
            return outcome;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
        match waiting.as_mut().poll(task) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(task, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(task, bytes);
        self.judge(task, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(task, parts);
        self.judge(task, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(task);
        self.judge(task, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}
