//! Middleware around all routes: request ids, API-key check, access log, CORS, refusal during shutdown.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer, ExposeHeaders};

use crate::error::{ApiError, Dialect};
use crate::http::access_log::{FIRST_BYTES_MAX, HELD_BYTES_MAX, LogEntry, RequestLog, plain};
use crate::http::admission::{Origin, REDEEM};
use crate::http::api_keys::credentials;
use crate::http::client::{self, Client};
use crate::http::connections::{Connection, ConnectionRequest};
use crate::http::metering::rate_headers;
use crate::http::metrics::plain_metrics;
use crate::ids::fresh_id;
use crate::state::AppState;

/// Header that lists schema keywords which are not enforced.
pub(crate) const SCHEMA_NOT_KEPT: HeaderName = HeaderName::from_static("x-schema-not-kept");

/// Header that names the tools and items which a request was served without.
pub(crate) const TOOLS_IGNORED: HeaderName = HeaderName::from_static("x-tools-ignored");

/// Most bytes of a client's request id that is adopted.
const ID_BYTES_MAX: usize = 128;

/// Adds `/metrics` and the middleware to the routes.
pub(crate) fn layered(app: Router, state: &Arc<AppState>) -> Router {
    let metrics = get(metrics).with_state(Arc::clone(state));
    let app = app.route("/metrics", metrics).layer(from_fn_with_state(Arc::clone(state), handle));
    match cors(&state.admission.access.origins) {
        Some(layer) => app.layer(layer),
        None => app,
    }
}

/// CORS headers. No credentials: pages send keys themselves, cookies are not read.
fn cors(origins: &[Origin]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.contains(&Origin::any()) {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().map(|o| o.0.clone()))
    };
    let exposed = [X_REQUEST_ID, header::RETRY_AFTER, SCHEMA_NOT_KEPT, TOOLS_IGNORED];
    let exposed = exposed.into_iter().chain(rate_headers());
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods(AllowMethods::list([Method::GET, Method::POST, Method::DELETE]))
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(ExposeHeaders::list(exposed))
        .max_age(std::time::Duration::from_secs(3600));
    Some(layer)
}

async fn metrics(State(state): State<Arc<AppState>>, request: Request) -> Response {
    state.update_metrics();
    let all = state.admission.is_admin(request.headers(), request.extensions());
    let text = state.metrics.text(all);
    let accepts = request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/plain") && !accepts.contains("openmetrics") {
        let kind = "text/plain; version=0.0.4; charset=utf-8";
        return ([(header::CONTENT_TYPE, kind)], plain_metrics(&text)).into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The client's request id if it is sane, else a new one.
fn id_of(request: &Request) -> String {
    let given = request.headers().get(X_REQUEST_ID).and_then(|id| id.to_str().ok());
    let sane = |id: &&str| (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    given.filter(sane).map_or_else(|| fresh_id("req_"), str::to_string)
}

async fn handle(State(state): State<Arc<AppState>>, mut request: Request, next: Next) -> Response {
    let id = id_of(&request);
    let route = request.extensions().get::<MatchedPath>().map(|m| m.as_str().to_string());
    let (method, path) = (plain(request.method().as_str(), 20), plain(request.uri().path(), 200));
    let entry = LogEntry { id: id.clone(), method, path, route, ..LogEntry::default() };
    let log = RequestLog::new(entry, Arc::clone(&state.metrics), state.admission.active.clone());
    let bodiless = request.method() == Method::HEAD;
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let address =
        connection.as_ref().map(|c| client::address(c.peer, request.headers(), &state.admission.access.proxies));
    let body = !request.body().is_end_stream();
    let active = connection.as_ref().zip(address).map(|(connection, client)| connection.request(client, body));
    let admitted = match caller(&state, &mut request).await {
        Ok(()) => state.admission.admit(&request),
        Err(failed) => Err(failed),
    };
    let mut response = match admitted {
        Err(refusal) => {
            let refusal = too_many_keys(&state, &request, address, refusal);
            log.update(|f| f.error = Some(refusal.code));
            refusal.respond(Dialect::of(request.uri().path()), Some(&id))
        }
        Ok(account) => {
            if let Some(account) = account {
                log.change(|entry| entry.account = Some(account));
                request.extensions_mut().insert(account);
            }
            let client = address.map_or_else(Client::unknown, |address| Client::new(account.as_ref(), address));
            request.extensions_mut().insert(client);
            request.extensions_mut().insert(log.clone());
            next.run(request).await
        }
    };
    // The end of an unsupported body is unknown.
    if state.admission.shutting_down() || response.status() == StatusCode::NOT_IMPLEMENTED {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    log.change(|entry| entry.status = Some(response.status().as_u16()));
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    if bodiless || response.body().is_end_stream() {
        log.taken(0, false, true);
    }
    if let Some(connection) = &connection {
        connection.answer(log.clone());
    }
    let length = response.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    response
        .map(|body| Body::new(LoggedBody { body, left: length, rest: Bytes::new(), log, connection, _active: active }))
}

/// What is said to a key that is wrong, which is another thing after too many of them. Keys that are right are served whatever came from their address.
fn too_many_keys(state: &AppState, request: &Request, address: Option<IpAddr>, refusal: ApiError) -> ApiError {
    let wrong = refusal.status == StatusCode::UNAUTHORIZED && credentials(request.headers()).next().is_some();
    let Some(address) = address.filter(|_| wrong) else { return refusal };
    let Err(wait) = state.key_tries.take(client::prefix(address), Instant::now()) else { return refusal };
    let seconds = wait.as_secs() + 1;
    let message = format!("too many keys that are not known here; try again in {seconds} s");
    ApiError { retry: Some(seconds), ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_keys", message) }
}

/// Finds the key of a request in the ledger, where there is one, and puts it into the extensions.
async fn caller(state: &AppState, request: &mut Request) -> Result<(), ApiError> {
    state.admission.check(request)?;
    // Probes have no keys, and say themselves what is wrong. Nor have people with an invitation.
    if let Some(metering) = &state.admission.access.metering
        && !["/health", "/ready", REDEEM].contains(&request.uri().path())
        && let Some(caller) = metering.caller(request.headers()).await?
    {
        request.extensions_mut().insert(caller);
    }
    Ok(())
}

/// A response body that records how much of it the connection has taken.
struct LoggedBody {
    body: Body,
    /// Bytes that are to come, where the response has a length: the connection does not ask for an end after them.
    left: Option<u64>,
    /// Of a large piece, what the connection has not taken yet.
    rest: Bytes,
    log: RequestLog,
    connection: Option<Arc<Connection>>,
    /// Keeps the connection from counting as idle.
    _active: Option<ConnectionRequest>,
}

impl HttpBody for LoggedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        // No more than the books know of.
        match self.log.poll_metered(task) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(gone)) => {
                self.log.update(|f| f.error = Some(gone.code));
                return Poll::Ready(Some(Err(axum::Error::new(gone.message))));
            }
            Poll::Pending => return Poll::Pending,
        }
        if self.connection.is_some() && self.log.poll_written(task).is_pending() {
            return Poll::Pending;
        }
        let begins = self.rest.is_empty();
        let frame = match begins {
            true => Pin::new(&mut self.body).poll_frame(task),
            false => Poll::Ready(Some(Ok(http_body::Frame::data(std::mem::take(&mut self.rest))))),
        };
        let frame = match frame {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(mut data) => {
                    let most = match begins && data.len() > FIRST_BYTES_MAX {
                        true => FIRST_BYTES_MAX,
                        false => HELD_BYTES_MAX,
                    };
                    self.rest = data.split_off(data.len().min(most));
                    if begins && !self.rest.is_empty() {
                        self.log.begins();
                    }
                    Poll::Ready(Some(Ok(http_body::Frame::data(data))))
                }
                Err(other) => Poll::Ready(Some(Ok(other))),
            },
            other => other,
        };
        let bytes = match &frame {
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().map(Bytes::len),
            _ => None,
        };
        self.left = self.left.map(|left| left.saturating_sub(bytes.unwrap_or(0) as u64));
        let last = match &frame {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => self.rest.is_empty() && (self.body.is_end_stream() || self.left == Some(0)),
            _ => false,
        };
        if bytes.is_some() || last {
            self.log.taken(bytes.unwrap_or(0), bytes.is_some() && self.rest.is_empty(), last);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        let (hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut whole = http_body::SizeHint::new();
        whole.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + rest);
        }
        whole
    }
}

impl Drop for LoggedBody {
    /// What the connection took last is still to be written to the socket. Without a connection all that was taken is delivered.
    fn drop(&mut self) {
        match &self.connection {
            Some(connection) => connection.body_ended(&self.log),
            None => self.log.flushed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use axum::extract::Extension;
    use axum::routing::post;
    use futures_util::StreamExt;
    use tower::ServiceExt;

    use super::*;
    use crate::generation::model_pool::{ModelDescription, ModelFiles, ModelPool};
    use crate::generation::usage::Usage;
    use crate::http::admission::Access;
    use crate::http::api_keys::{Account, ApiKeys};
    use crate::http::connections::Connections;
    use crate::state::ServerLimits;

    fn state(keys: &[&str], open_metrics: bool, origins: &[&str]) -> Arc<AppState> {
        let keys: Vec<String> = keys.iter().map(|k| k.to_string()).collect();
        let keys = ApiKeys::new(&keys, false).unwrap();
        let origins = origins.iter().map(|o| o.parse().unwrap()).collect();
        with_access(Access { keys, open_metrics, origins, ..Access::default() })
    }

    fn with_access(access: Access) -> Arc<AppState> {
        let description = ModelDescription {
            name: "m".to_string(),
            aliases: Vec::new(),
            files: ModelFiles::default(),
            bytes: 1,
            context: 1,
            capability: "completion",
            created: 0,
        };
        AppState::new(
            ServerLimits::default(),
            access,
            ModelPool::new(vec![description], None, false, Box::new(|_| Err("none".to_string()))),
            None,
            None,
        )
    }

    /// A response of one large piece.
    async fn large(Extension(log): Extension<RequestLog>) -> Vec<u8> {
        log.update(|f| (f.model, f.completion_tokens) = (Some("m".to_string()), Some(400)));
        log.announce(Usage { completion: 400, ..Usage::default() });
        vec![b'x'; 500_000]
    }

    /// Routes that say who asks.
    fn app(state: &Arc<AppState>) -> Router {
        async fn who(account: Option<Extension<Account>>, Extension(log): Extension<RequestLog>) -> String {
            log.update(|f| (f.model, f.prompt_tokens) = (Some("m".to_string()), Some(7)));
            account.map_or_else(|| "nobody".to_string(), |a| format!("{:x}", a.id))
        }
        let mut app = Router::new();
        for path in ["/health", "/ready"] {
            app = app.route(path, get(who));
        }
        for path in ["/v1/chat/completions", "/v1/messages"] {
            app = app.route(path, post(who));
        }
        layered(app, state)
    }

    /// A response of three pieces, each with one token more.
    async fn pieces(Extension(log): Extension<RequestLog>) -> Body {
        log.update(|f| (f.model, f.completion_tokens) = (Some("m".to_string()), Some(3)));
        Body::from_stream(futures_util::stream::iter(1..=3).map(move |completion| {
            log.announce(Usage { completion, ..Usage::default() });
            Ok::<_, std::convert::Infallible>("piece")
        }))
    }

    #[tokio::test]
    async fn tokens_count_when_they_were_written_to_the_socket() {
        let state = state(&[], false, &[]);
        let app = layered(Router::new().route("/v1/responses", post(pieces)), &state);
        let connections = Connections::new(1);
        let tokens = async || {
            let text = ask(&app, "GET /metrics", &[]).await.2;
            let line = text.lines().find(|line| line.starts_with("farthing_generation_tokens_total"));
            line.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        };
        let begin = async |connection: &Arc<Connection>| {
            let request = Request::builder().method("POST").uri("/v1/responses").header("host", "localhost");
            let request = request.extension(Arc::clone(connection)).body(Body::empty()).unwrap();
            app.clone().oneshot(request).await.unwrap().into_body()
        };
        let take = async |body: &mut Body| poll_fn(|task| Pin::new(&mut *body).poll_frame(task)).await.is_some();
        // The client leaves: one piece was written, two were only taken.
        let connection = connections.open([10, 0, 0, 1].into()).await;
        let mut body = begin(&connection).await;
        assert!(take(&mut body).await);
        connection.flushed();
        assert!(take(&mut body).await && take(&mut body).await);
        drop(body);
        assert_eq!(tokens().await, None, "still on its way");
        drop(connection);
        assert_eq!(tokens().await, Some(1));
        // All was taken, then written.
        let connection = connections.open([10, 0, 0, 1].into()).await;
        let mut body = begin(&connection).await;
        while take(&mut body).await {}
        drop(body);
        assert_eq!(tokens().await, Some(1), "still on its way");
        connection.flushed();
        assert_eq!(tokens().await, Some(4));
        let text = ask(&app, "GET /metrics", &[]).await.2;
        for (status, count) in [("0", 1), ("200", 1)] {
            let line =
                format!("farthing_requests_total{{route=\"/v1/responses\",status=\"{status}\",finish=\"\"}} {count}");
            assert!(text.contains(&line), "{text}");
        }
    }

    /// The connection takes what the length says, and asks for no end.
    #[tokio::test]
    async fn a_response_of_a_known_length_is_whole_when_its_bytes_were_written() {
        let state = state(&[], false, &[]);
        let parts =
            || Body::from_stream(futures_util::stream::iter(["ab", "cd"].map(Ok::<_, std::convert::Infallible>)));
        let sized = move || async move { ([(header::CONTENT_LENGTH, "4")], parts()) };
        let app = layered(Router::new().route("/v1/files/{id}/content", get(sized)), &state);
        let connections = Connections::new(1);
        for pieces in [1, 2] {
            let connection = connections.open([10, 0, 0, 1].into()).await;
            let request = Request::builder().uri("/v1/files/f/content").header("host", "localhost");
            let request = request.extension(Arc::clone(&connection)).body(Body::empty()).unwrap();
            let mut body = app.clone().oneshot(request).await.unwrap().into_body();
            for _ in 0..pieces {
                assert!(poll_fn(|task| Pin::new(&mut body).poll_frame(task)).await.unwrap().is_ok());
            }
            drop(body);
            connection.flushed();
        }
        let text = ask(&app, "GET /metrics", &[]).await.2;
        for status in [0, 200] {
            let line = format!(
                "farthing_requests_total{{route=\"/v1/files/{{id}}/content\",status=\"{status}\",finish=\"\"}} 1"
            );
            assert!(text.contains(&line), "{text}");
        }
    }

    /// The text of an answer comes first: who has read that may leave the rest.
    #[tokio::test]
    async fn a_large_answer_counts_once_its_beginning_was_written() {
        let state = state(&[], false, &[]);
        let app = layered(Router::new().route("/v1/responses", post(large)), &state);
        let connections = Connections::new(1);
        for (written, charged) in [(false, Some("0")), (true, Some("400"))] {
            let connection = connections.open([10, 0, 0, 1].into()).await;
            let request = Request::builder().method("POST").uri("/v1/responses").header("host", "localhost");
            let request = request.extension(Arc::clone(&connection)).body(Body::empty()).unwrap();
            let mut body = app.clone().oneshot(request).await.unwrap().into_body();
            let frame = poll_fn(|task| Pin::new(&mut body).poll_frame(task)).await.unwrap().unwrap();
            assert_eq!(frame.data_ref().map(Bytes::len), Some(4096));
            // No more before that is on its way to the client.
            let mut task = Context::from_waker(std::task::Waker::noop());
            assert!(Pin::new(&mut body).poll_frame(&mut task).is_pending());
            if written {
                connection.flushed();
                let frame = poll_fn(|task| Pin::new(&mut body).poll_frame(task)).await.unwrap().unwrap();
                assert_eq!(frame.data_ref().map(Bytes::len), Some(HELD_BYTES_MAX));
            }
            drop((body, connection));
            let text = ask(&app, "GET /metrics", &[]).await.2;
            let counted = text.lines().find(|line| line.starts_with("farthing_generation_tokens_total"));
            assert_eq!(counted.and_then(|line| line.rsplit(' ').next()), charged);
        }
    }

    async fn ask(app: &Router, line: &str, headers: &[(&str, &str)]) -> (u16, axum::http::HeaderMap, String) {
        let (method, path) = line.split_once(' ').unwrap();
        let builder = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = headers.iter().fold(builder, |r, (n, v)| r.header(*n, *v));
        let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (head.status.as_u16(), head.headers, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn without_a_key_only_probes_pass_and_each_family_is_told_in_its_shape() {
        let app = app(&state(&["k1"], false, &[]));
        assert_eq!(ask(&app, "GET /health", &[]).await.2, "nobody");
        assert_eq!(ask(&app, "GET /ready", &[]).await.2, "nobody");
        let (status, headers, body) = ask(&app, "POST /v1/chat/completions", &[("api-key", "k2")]).await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, headers["www-authenticate"].to_str().unwrap()), (401, "Bearer"));
        assert_eq!(body["error"]["code"], "invalid_api_key");
        assert!(body["error"]["param"].is_null() && body["error"]["type"] == "invalid_request_error", "{body}");
        assert!(!body.to_string().contains("k2"));
        let (status, _, body) = ask(&app, "POST /v1/messages", &[]).await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (status, &body["type"], &body["error"]["type"]),
            (401, &"error".into(), &"authentication_error".into())
        );
        // What is not there is not told to strangers.
        assert_eq!(ask(&app, "GET /v1/nothing", &[]).await.0, 401);
        assert_eq!(ask(&app, "GET /v1/nothing", &[("x-api-key", "k1")]).await.0, 404);
        let (status, _, who) = ask(&app, "POST /v1/messages", &[("x-api-key", "k1")]).await;
        assert!(status == 200 && who.len() > 8 && who != "nobody", "{who}");
        assert_eq!(ask(&app, "POST /v1/chat/completions", &[("authorization", "Bearer k1")]).await.2, who);
    }

    #[tokio::test]
    async fn metrics_are_open_where_everything_is_or_by_wish() {
        assert_eq!(ask(&app(&state(&["k"], false, &[])), "GET /metrics", &[]).await.0, 401);
        assert_eq!(ask(&app(&state(&["k"], false, &[])), "GET /metrics", &[("api-key", "k")]).await.0, 200);
        assert_eq!(ask(&app(&state(&["k"], true, &[])), "GET /metrics", &[]).await.0, 200);
        let app = app(&state(&[], false, &[]));
        assert_eq!(ask(&app, "POST /v1/messages", &[]).await.2, "0");
        let (_, headers, text) = ask(&app, "GET /metrics", &[]).await;
        assert!(headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
        let line = r#"farthing_requests_total{route="/v1/messages",status="200",finish=""} 1"#;
        assert!(text.contains(line) && text.contains("farthing_prompt_tokens_total{model=\"m\"} 7\n"), "{text}");
    }

    /// The list of models alone: neither one of them nor another dialect's list.
    #[tokio::test]
    async fn the_list_of_models_is_open_by_wish() {
        let keys = || ApiKeys::new(&["k".to_string()], false).unwrap();
        let app = |open_models| {
            let state = with_access(Access { keys: keys(), open_models, ..Access::default() });
            let list = ["/v1/models", "/v1/models/{id}", "/api/tags"];
            layered(list.into_iter().fold(Router::new(), |app, path| app.route(path, get(async || "m"))), &state)
        };
        for (open, path, status) in [
            (false, "/v1/models", 401),
            (true, "/v1/models", 200),
            (true, "/v1/models/m", 401),
            (true, "/api/tags", 401),
            (true, "/metrics", 401),
        ] {
            assert_eq!(ask(&app(open), &format!("GET {path}"), &[]).await.0, status, "{open} {path}");
        }
        assert_eq!(ask(&app(true), "GET /v1/models", &[("x-api-key", "wrong")]).await.0, 200);
    }

    #[tokio::test]
    async fn ids_are_taken_where_they_are_sane() {
        let app = app(&state(&[], false, &[]));
        let id = async |given: &str| {
            let headers = ask(&app, "GET /health", &[("x-request-id", given)]).await.1;
            headers["x-request-id"].to_str().unwrap().to_string()
        };
        assert_eq!(id("trace-1:a/b").await, "trace-1:a/b");
        for bad in ["", "two words", "tab\tin", &"x".repeat(129)] {
            let made = id(bad).await;
            assert!(made.starts_with("req_") && made.len() == 36, "{made}");
        }
        assert_ne!(id("").await, id("").await);
    }

    #[tokio::test]
    async fn the_end_refuses_the_new_and_waits_for_the_old() {
        let state = state(&[], false, &[]);
        let app = app(&state);
        let request =
            Request::builder().method("POST").uri("/v1/messages").header("host", "a").body(Body::empty()).unwrap();
        let under_way = app.clone().oneshot(request).await.unwrap();
        state.admission.shut_down();
        for line in ["POST /v1/messages", "GET /ready", "POST /v1/chat/completions"] {
            let (status, headers, _) = ask(&app, line, &[]).await;
            assert_eq!(
                (status, headers["retry-after"].as_bytes(), headers["connection"].as_bytes()),
                (503, &b"1"[..], &b"close"[..])
            );
        }
        assert_eq!(ask(&app, "GET /health", &[]).await.0, 200);
        let idle = state.admission.wait_idle();
        let mut idle = std::pin::pin!(idle);
        let soon = std::time::Duration::from_millis(30);
        assert!(tokio::time::timeout(soon, &mut idle).await.is_err(), "a response is not read yet");
        drop(under_way);
        assert!(tokio::time::timeout(soon * 100, idle).await.is_ok());
    }

    #[tokio::test]
    async fn browsers_may_ask_from_the_named_origins_only() {
        let preflight = [
            ("origin", "https://a.example"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization"),
        ];
        let asked = async |origins: &[&str], headers: &[(&str, &str)], line: &str| {
            ask(&app(&state(&["k"], false, origins)), line, headers).await
        };
        let line = "OPTIONS /v1/messages";
        assert!(!asked(&[], &preflight, line).await.1.contains_key("access-control-allow-origin"));
        let (status, headers, _) = asked(&["https://b.example", "https://a.example"], &preflight, line).await;
        assert_eq!((status, headers["access-control-allow-origin"].as_bytes()), (200, &b"https://a.example"[..]));
        assert_eq!(headers["access-control-allow-headers"].as_bytes(), b"authorization");
        assert!(!headers.contains_key("access-control-allow-credentials"));
        assert!(!asked(&["https://b.example"], &preflight, line).await.1.contains_key("access-control-allow-origin"));
        // A refusal can be read by the page too.
        let (status, headers, _) = asked(&["*"], &preflight[..1], "POST /v1/messages").await;
        assert_eq!((status, headers["access-control-allow-origin"].as_bytes()), (401, &b"*"[..]));
        for bad in ["a.example", "https://a.example/", "https://", "null", "https://a b"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}
