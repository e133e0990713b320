//! The accept loop: connection limits, timeouts, TLS and graceful shutdown.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use crate::http::admission::ConflictingLengths;
use crate::http::connections::{Connection, Connections};
use crate::http::framing::Followed;
use crate::http::middleware::layered;
use crate::http::routes::router;
use crate::http::tls::Tls;
use crate::state::AppState;

const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 100;
/// What a client has to take of a response while a write waits its time.
const TAKEN_BYTES_MIN: usize = 16 << 10;
/// Time for idle connections to close during shutdown.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Serves until `end` completes, with TLS if there is a certificate. Then new requests are refused, and running ones have
/// `ServerLimits::drain` to finish. Returns whether all did, and the output of `end`.
pub async fn listen<T>(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    state: Arc<AppState>,
    end: impl Future<Output = T>,
) -> (bool, T) {
    let limits = state.limits;
    let connections = Connections::new(limits.connections);
    let (ending, ended) = watch::channel(false);
    let app = layered(router(Arc::clone(&state)), &state);
    let mut end = pin!(async {
        let why = end.await;
        state.admission.shut_down();
        (tokio::time::timeout(limits.drain, state.admission.wait_idle()).await.is_ok(), why)
    });
    let (finished, why) = loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &connections) => accepted,
            finished = &mut end => break finished,
        };
        let Some((stream, open)) = accepted else {
            // Probably out of file descriptors: let some connections end first.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (app, tls, ended) = (app.clone(), tls.clone(), ended.clone());
        let metrics = Arc::clone(&state.metrics);
        tokio::spawn(async move {
            metrics.connection(true);
            tokio::select! {
                () = connection(stream, tls.as_deref(), app, limits.patience, (&open, ended)) => {}
                () = open.closing() => metrics.shed(),
            }
            metrics.connection(false);
        });
    };
    drop(listener);
    let _ = ending.send(true);
    for (_, model) in state.models.loaded() {
        model.engine.end();
    }
    if !finished {
        // Their requests are logged like others.
        connections.close();
    }
    // Only connections without a request are left.
    let closed = tokio::time::timeout(limits.patience.min(CLOSE_MAX), connections.empty()).await.is_ok();
    (closed && finished, why)
}

/// Accepts a connection and waits for a place in the table.
async fn accept(listener: &TcpListener, connections: &Arc<Connections>) -> Option<(TcpStream, Arc<Connection>)> {
    let (stream, peer) = listener.accept().await.ok()?;
    Some((stream, connections.open(peer.ip()).await))
}

async fn connection(
    stream: TcpStream,
    tls: Option<&Tls>,
    app: axum::Router,
    patience: Duration,
    (open, ended): (&Arc<Connection>, watch::Receiver<bool>),
) {
    let _ = stream.set_nodelay(true);
    let stream = WriteTimeout { stream, patience, waiting: None, taken: 0 };
    match tls.map(Tls::acceptor) {
        None => speak(stream, app, patience, (open, ended)).await,
        Some(acceptor) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(patience, acceptor.accept(stream)).await {
                speak(stream, app, patience, (open, ended)).await;
            }
        }
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Send + Unpin>(
    stream: S,
    app: axum::Router,
    patience: Duration,
    (open, mut ended): (&Arc<Connection>, watch::Receiver<bool>),
) {
    let (app, open) = (TowerToHyperService::new(app), Arc::clone(open));
    let (read, write) = tokio::io::split(stream);
    let (read, ambiguous) = Followed::new(read);
    let write = Flushes { write, connection: Arc::clone(&open) };
    let requests = AtomicU64::new(0);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        if ambiguous.is(requests.fetch_add(1, Ordering::Relaxed)) {
            request.extensions_mut().insert(ConflictingLengths);
        }
        request.extensions_mut().insert(Arc::clone(&open));
        app.call(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(tokio::io::join(read, write)), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = ended.wait_for(|ended| *ended) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// The writing half of a connection, which tells it when the socket takes no more, and when all was written to it: hyper flushes what it writes to when it holds
/// nothing back itself.
struct Flushes<W> {
    write: W,
    connection: Arc<Connection>,
}

impl<W> Flushes<W> {
    fn seen<T>(&self, outcome: Poll<T>) -> Poll<T> {
        if outcome.is_pending() {
            self.connection.blocked();
        }
        outcome
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Flushes<W> {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.write).poll_write(task, bytes);
        self.seen(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.write).poll_write_vectored(task, parts);
        self.seen(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.write.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.write).poll_flush(task);
        if matches!(outcome, Poll::Ready(Ok(()))) {
            self.connection.flushed();
        }
        self.seen(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(task)
    }
}

/// A stream whose writes time out, also where a client takes so little now and then that it would have no end.
struct WriteTimeout {
    stream: TcpStream,
    patience: Duration,
    /// Runs from a write that was pending until all is written, or enough.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Bytes that were written since it runs.
    taken: usize,
}

impl WriteTimeout {
    fn end_waiting(&mut self) {
        (self.waiting, self.taken) = (None, 0);
    }

    fn pending<T>(&mut self, task: &mut Context<'_>) -> Poll<io::Result<T>> {
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
        match waiting.as_mut().poll(task) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn wrote(&mut self, task: &mut Context<'_>, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match outcome {
            Poll::Ready(Ok(bytes)) => {
                self.taken += bytes;
                if self.taken >= TAKEN_BYTES_MIN {
                    self.end_waiting();
                }
                outcome
            }
            Poll::Ready(Err(_)) => outcome,
            Poll::Pending => self.pending(task),
        }
    }

    fn flushed(&mut self, task: &mut Context<'_>, outcome: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        if outcome.is_pending() {
            return self.pending(task);
        }
        self.end_waiting();
        outcome
    }
}

impl AsyncRead for WriteTimeout {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(task, buffer)
    }
}

impl AsyncWrite for WriteTimeout {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(task, bytes);
        self.wrote(task, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(task, parts);
        self.wrote(task, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(task);
        self.flushed(task, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}
