//! `/api/pull` and `/api/delete`: Ollama's routes that change which models there are, for administrators

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream::unfold;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::api::fields::Fields;
use crate::error::{ApiError, Dialect, refused};
use crate::generation::model_library::{LibraryError, ModelLibrary, PullProgress};
use crate::http::access_log::plain;
use crate::http::request_body::read_json;
use crate::state::AppState;

/// Shortest time between two lines about a download.
const PAUSE: Duration = Duration::from_millis(200);

impl From<LibraryError> for ApiError {
    fn from(error: LibraryError) -> ApiError {
        let message = error.to_string();
        match error {
            LibraryError::Unknown(_) => ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message).of("model"),
            LibraryError::Refused(_) => ApiError::bad("model_refused", message).of("model"),
            LibraryError::Denied(_) => ApiError::new(StatusCode::FORBIDDEN, "hub_denied", message).of("model"),
            LibraryError::Busy(_) => ApiError::new(StatusCode::CONFLICT, "model_in_use", message).of("model"),
            LibraryError::Hub(_) => ApiError::new(StatusCode::BAD_GATEWAY, "hub_failed", message),
            LibraryError::Full(_) => ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", message),
            LibraryError::Stopped(_) => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "ending", message),
            LibraryError::Failed { .. } => ApiError::fault(message),
        }
    }
}

/// A line for the log, which has the cause too. A hub's words may have any characters.
fn tell(what: &str, error: &LibraryError) {
    let said = match error {
        LibraryError::Failed { cause } => cause.clone(),
        error => error.to_string(),
    };
    tracing::warn!(target: "farthing", "{what} failed: {}", plain(&said, 400));
}

/// The name of a request, whether its answer is streamed, and the library.
async fn asked(state: &AppState, request: Request) -> Result<(String, bool, Arc<dyn ModelLibrary>), ApiError> {
    let (head, content) = request.into_parts();
    // What changes files on this machine is for named administrators, also where the server is open.
    if !state.admission.has_admin_key(&head.headers, &head.extensions) {
        return Err(ApiError::admins_only("models are pulled and deleted"));
    }
    let content = read_json(state, &head, content).await?;
    let mut fields = Fields::parse(&content.bytes)?;
    let (model, older) = (fields.text("model")?, fields.text("name")?);
    let missing = || ApiError::bad("invalid_value", "model is missing; give {\"model\": \"org/name\"}").of("model");
    let name = named(model, older).ok_or_else(missing)?;
    let stream = fields.flag("stream")?.unwrap_or(true);
    fields.unused("insecure", |v| *v == false, "the hub is asked over HTTPS only")?;
    let library = state.library.clone();
    let library =
        library.ok_or_else(|| ApiError::bad("models_unmanaged", "this server has no place for further models"))?;
    Ok((name, stream, library))
}

/// The model's name in a body: `model`, or Ollama's older `name`. An empty one is none.
pub(super) fn named(model: Option<String>, older: Option<String>) -> Option<String> {
    [model, older].into_iter().flatten().find(|name| !name.is_empty())
}

/// Sends a line now and then. Nobody who reads them means that nobody waits.
struct Lines {
    to: Sender<Value>,
    state: Arc<AppState>,
    last: Mutex<Option<Instant>>,
}

impl PullProgress for Lines {
    fn file(&self, name: &str, here: u64, size: u64) {
        let mut last = self.last.lock();
        if here < size && last.is_some_and(|last| last.elapsed() < PAUSE) {
            return;
        }
        *last = Some(Instant::now());
        // Clients show a bar for each digest; what does not fit is told by the next line.
        let line = json!({"status": format!("pulling {name}"), "digest": name, "total": size, "completed": here});
        let _ = self.to.try_send(line);
    }

    fn note(&self, text: &str) {
        let _ = self.to.try_send(json!({ "status": text }));
    }

    fn cancelled(&self) -> bool {
        // The next pull resumes it.
        self.to.is_closed() || self.state.admission.shutting_down()
    }
}

/// `POST /api/pull`. A client that leaves ends the download; the next one resumes it.
pub async fn pull(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, content) = request.into_parts();
    let asked = asked(&state, Request::from_parts(head.clone(), content)).await;
    let (name, stream, library) = match asked {
        Ok(asked) => asked,
        Err(error) => return refused(error, &head),
    };
    let (to, lines) = channel(64);
    let done = tokio::task::spawn_blocking(move || {
        let progress = Lines { to, last: Mutex::default(), state: Arc::clone(&state) };
        // Told here, as nobody may wait for the outcome.
        let model = library.pull(&name, &progress).inspect_err(|e| tell("a pull", e))?;
        tracing::info!(target: "farthing", model = model.name, "pulled");
        state.models.add(model);
        Ok::<Value, ApiError>(json!({"status": "success"}))
    });
    let done = async move { done.await.unwrap_or_else(|_| Err(ApiError::fault("a fault while pulling"))) };
    if stream {
        return streamed(lines, done).await.unwrap_or_else(|error| refused(error, &head));
    }
    // It is open while somebody waits. A status of its own is worth the wait, as with Ollama: clients look at nothing else.
    let _lines = lines;
    match done.await {
        Ok(done) => axum::Json(done).into_response(),
        Err(error) => refused(error, &head),
    }
}

/// Lines as they come, and the outcome as the last one.
///
/// # Errors
/// What fails before the first line, while there is a status to give.
async fn streamed(
    mut lines: Receiver<Value>,
    done: impl Future<Output = Result<Value, ApiError>> + Send + 'static,
) -> Result<Response, ApiError> {
    let Some(first) = lines.recv().await else { return Ok(axum::Json(done.await?).into_response()) };
    let told = unfold(lines, |mut lines| async { lines.recv().await.map(|line| (line, lines)) });
    let told = futures_util::stream::once(async { first }).chain(told);
    let last = futures_util::stream::once(done);
    let last = last.map(|outcome| outcome.unwrap_or_else(|error| error.json(Dialect::Ollama, None)));
    let bytes = told.chain(last).map(|line| Ok::<_, Infallible>(Bytes::from(format!("{line}\n"))));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(bytes)).into_response())
}

/// `DELETE /api/delete`. A model that answers requests is not deleted.
pub async fn delete(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, content) = request.into_parts();
    let outcome = async {
        let (name, _, library) = asked(&state, Request::from_parts(head.clone(), content)).await?;
        let ids = library.served_from(&name).inspect_err(|e| tell("a deletion", e))?;
        let first = || state.models.describe(None).ok().map(|(model, _)| model.name);
        let before = first();
        let unloaded = ids.iter().map(|id| state.models.unload(id)).collect::<Result<Vec<_>, _>>()?;
        let deleted = name.clone();
        let done = tokio::task::spawn_blocking(move || {
            // Dropping them joins the engines' threads.
            drop(unloaded);
            library.delete(&name)
        });
        let outcome = done.await.unwrap_or_else(|_| Err(LibraryError::Failed { cause: "a fault".to_string() }));
        outcome.inspect_err(|e| tell("a deletion", e))?;
        ids.iter().for_each(|id| state.models.remove(id));
        tracing::info!(target: "farthing", model = plain(&deleted, 200), "deleted");
        if let Some(first) = first().filter(|first| before.as_ref() != Some(first)) {
            tracing::warn!(target: "farthing", model = first, "requests that name no model go to this one now: the first was deleted");
        }
        Ok::<(), ApiError>(())
    };
    match outcome.await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => refused(error, &head),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As docs/API.md has them.
    #[test]
    fn each_refusal_has_a_status() {
        let said = || "said".to_string();
        for (error, status) in [
            (LibraryError::Unknown(said()), 404),
            (LibraryError::Refused(said()), 400),
            (LibraryError::Denied(said()), 403),
            (LibraryError::Busy(said()), 409),
            (LibraryError::Hub(said()), 502),
            (LibraryError::Full(said()), 507),
            (LibraryError::Stopped(said()), 503),
            (LibraryError::Failed { cause: "/models/a".to_string() }, 500),
        ] {
            let error = ApiError::from(error);
            assert!(error.status.as_u16() == status && !error.message.contains("/models"), "{}", error.message);
        }
    }
}
