//! The route table, and the handlers of routes that generate nothing.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{MatchedPath, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use serde_json::{Value, json};

use crate::api::fields::{Fields, wrong};
use crate::api::files::KEPT_PATHS;
use crate::api::generate::{Endpoint, complete};
use crate::api::ollama::Form;
use crate::api::redeem::redeem;
use crate::api::{admin, batches, embeddings, files, llama_cpp, message_batches};
use crate::api::{ollama_library, ollama_models, rerank, tokenize, user};
use crate::error::{ApiError, refused};
use crate::generation::model_pool::{LoadState, ModelDescription};
use crate::http::admission::REDEEM;
use crate::http::page;
use crate::http::request_body::read_json;
use crate::state::AppState;
use crate::words::date;

type Route = MethodRouter<Arc<AppState>>;

/// All routes: method, path and handler.
pub fn table() -> Vec<(&'static str, &'static str, Route)> {
    let mut all = vec![
        ("GET", "/", get(root)),
        ("GET", "/page/{file}", get(page::file)),
        ("GET", "/health", get(health)),
        ("GET", "/ready", get(ready)),
        ("GET", "/openapi.json", get(openapi)),
        ("GET", "/v1/models", get(models)),
        ("GET", "/v1/models/{id}", get(model)),
        ("GET", "/api/tags", get(ollama_models::tags)),
        ("POST", "/api/show", post(ollama_models::show)),
        ("GET", "/api/ps", get(ollama_models::ps)),
        ("GET", "/api/version", get(ollama_models::version)),
        ("POST", "/api/pull", post(ollama_library::pull)),
        ("DELETE", "/api/delete", delete(ollama_library::delete)),
        // DeepSeek's base URLs.
        ("GET", "/models", get(models)),
        ("GET", "/models/{id}", get(model)),
        // The operator's; the paths are those of llama.cpp's router.
        ("POST", "/models/load", post(load)),
        ("POST", "/models/unload", post(unload)),
        ("GET", "/anthropic/v1/models", get(models)),
        ("GET", "/anthropic/v1/models/{id}", get(model)),
        ("GET", "/tokenizer_info", get(tokenize::info)),
        ("GET", "/props", get(llama_cpp::props)),
        ("POST", REDEEM, post(redeem)),
    ];
    all.extend(metered_routes().into_iter().map(|(path, route)| ("POST", path, route)));
    all.extend(batch_routes());
    all.extend(user::routes());
    all.extend(admin::routes());
    all
}

/// Routes whose requests use a model and are metered, all POST: path and handler.
fn metered_routes() -> Vec<(&'static str, Route)> {
    let asked = |kind: Endpoint| {
        post(move |State(state): State<Arc<AppState>>, request: Request| complete(state, request, kind))
    };
    let embeds = |form: embeddings::Form| {
        post(move |State(state): State<Arc<AppState>>, request: Request| embeddings::embed(state, request, form))
    };
    let chat = || asked(Endpoint::Chat);
    let completion = || asked(Endpoint::Completion);
    let messages = || asked(Endpoint::Messages);
    let responses = || asked(Endpoint::Responses);
    vec![
        ("/v1/chat/completions", chat()),
        ("/v1/completions", completion()),
        ("/v1/responses", responses()),
        ("/v1/embeddings", embeds(embeddings::Form::OpenAi)),
        ("/v1/rerank", post(rerank::rerank)),
        ("/rerank", post(rerank::rerank)),
        ("/v1/messages", messages()),
        ("/v1/messages/count_tokens", post(tokenize::count)),
        ("/api/chat", asked(Endpoint::Ollama(Form::Chat))),
        ("/api/generate", asked(Endpoint::Ollama(Form::Generate))),
        ("/api/embed", embeds(embeddings::Form::Ollama)),
        ("/api/embeddings", embeds(embeddings::Form::OllamaOne)),
        // DeepSeek's base URLs.
        ("/chat/completions", chat()),
        ("/completions", completion()),
        ("/responses", responses()),
        ("/beta/chat/completions", chat()),
        ("/beta/completions", completion()),
        ("/beta/v1/chat/completions", chat()),
        ("/beta/v1/completions", completion()),
        ("/anthropic/v1/messages", messages()),
        ("/anthropic/v1/messages/count_tokens", post(tokenize::count)),
        // vLLM's and llama.cpp's.
        ("/tokenize", post(tokenize::tokenize)),
        ("/detokenize", post(tokenize::detokenize)),
        ("/apply-template", post(tokenize::apply)),
        ("/completion", asked(Endpoint::LlamaCompletion)),
        ("/infill", asked(Endpoint::Infill)),
    ]
}

/// Files and batches, of OpenAI's and Anthropic's APIs.
fn batch_routes() -> Vec<(&'static str, &'static str, Route)> {
    vec![
        ("POST", "/v1/files", post(files::upload)),
        ("GET", "/v1/files", get(files::list)),
        ("GET", "/v1/files/{file}", get(files::one)),
        ("DELETE", "/v1/files/{file}", delete(files::delete)),
        ("GET", "/v1/files/{file}/content", get(files::content)),
        ("POST", "/v1/batches", post(batches::create)),
        ("GET", "/v1/batches", get(batches::list)),
        ("GET", "/v1/batches/{batch}", get(batches::one)),
        ("POST", "/v1/batches/{batch}/cancel", post(batches::cancel)),
        ("POST", "/v1/messages/batches", post(message_batches::create)),
        ("GET", "/v1/messages/batches", get(message_batches::list)),
        ("GET", "/v1/messages/batches/{batch}", get(message_batches::one)),
        ("DELETE", "/v1/messages/batches/{batch}", delete(message_batches::delete)),
        ("POST", "/v1/messages/batches/{batch}/cancel", post(message_batches::cancel)),
        ("GET", "/v1/messages/batches/{batch}/results", get(message_batches::results)),
        ("POST", "/anthropic/v1/messages/batches", post(message_batches::create)),
        ("GET", "/anthropic/v1/messages/batches", get(message_batches::list)),
        ("GET", "/anthropic/v1/messages/batches/{batch}", get(message_batches::one)),
        ("DELETE", "/anthropic/v1/messages/batches/{batch}", delete(message_batches::delete)),
        ("POST", "/anthropic/v1/messages/batches/{batch}/cancel", post(message_batches::cancel)),
        ("GET", "/anthropic/v1/messages/batches/{batch}/results", get(message_batches::results)),
    ]
}

/// The router of all routes.
pub fn router(state: Arc<AppState>) -> Router {
    let mut router = Router::new();
    for (_, path, route) in table() {
        // Model ids may contain slashes.
        router = router.route(&path.replace("{id}", "{*id}"), route);
    }
    router.method_not_allowed_fallback(wrong_method).fallback(nothing_here).with_state(state)
}

/// Most routes suggested for an unknown path, and the least similarity (Jaro) of one.
const NEAR_MAX: usize = 3;
const NEAR: f64 = 0.8;

/// Why a key cannot be for a path of the API: no server has it, or uses no model and keeps no files there; and what is near it.
pub fn check_metered(path: &str) -> Result<(), String> {
    let known = || metered_routes().into_iter().map(|(known, _)| known).chain(KEPT_PATHS);
    if known().any(|known| known == path) {
        return Ok(());
    }
    let near = known().max_by(|a, b| {
        let likeness = |route: &str| strsim::jaro(path, route);
        likeness(a).total_cmp(&likeness(b))
    });
    Err(format!("no server uses a model at {path}; near it is {}", near.unwrap_or_default()))
}

fn shown(uri: &Uri) -> String {
    uri.path().chars().take(200).collect()
}

/// Suggestions for a path, best first: its suffixes, then similar spellings.
fn near(path: &str) -> Vec<String> {
    let path: String = path.trim_end_matches('/').chars().take(200).collect();
    let suffix = |route: &str| path.ends_with(route) && route.len() * 5 > path.len() * 3;
    let likeness = |route: &str| match (suffix(route), path.len() > 1 && route.ends_with(&path)) {
        (true, _) => 1.0 + route.len() as f64,
        (_, true) => 1.0,
        _ => strsim::jaro(&path, route),
    };
    let all = table().into_iter().map(|(method, route, _)| (likeness(route), method, route));
    let mut all: Vec<_> = all.filter(|(likeness, ..)| *likeness >= NEAR).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.into_iter().take(NEAR_MAX).map(|(_, method, route)| format!("{method} {route}")).collect()
}

async fn nothing_here(request: Request) -> Response {
    let (head, _) = request.into_parts();
    let near = match near(head.uri.path()) {
        near if near.is_empty() => "none is like it".to_string(),
        near => format!("near it is {}", near.join(", ")),
    };
    let message = format!("{} {} is not served; {near}; GET /openapi.json lists all", head.method, shown(&head.uri));
    refused(ApiError::new(StatusCode::NOT_FOUND, "not_found", message), &head)
}

async fn wrong_method(request: Request) -> Response {
    let (head, _) = request.into_parts();
    let matched = head.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    let route = matched.unwrap_or_default().replace("{*id}", "{id}");
    let taken: Vec<&str> =
        table().into_iter().filter(|(_, path, _)| *path == route).map(|(method, ..)| method).collect();
    let taken = if taken.is_empty() { "GET".to_string() } else { taken.join(" and ") };
    let message = format!(
        "{} does not take {}, it takes {taken}; GET /openapi.json lists all routes",
        shown(&head.uri),
        head.method
    );
    refused(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message), &head)
}

async fn health(State(state): State<Arc<AppState>>) -> Response {
    match state.fault() {
        None => axum::Json(json!({"status": "ok"})).into_response(),
        // The panic message is in the log only: this route is public.
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, axum::Json(json!({"status": "failed"}))).into_response(),
    }
}

/// The page for browsers, else a text. Names of models are for those who may use them.
async fn root(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    if page::is_wanted(&state, &head.headers) {
        return page::index(&head);
    }
    let open = state.admission.open();
    let names: Vec<String> = state.models.list().into_iter().filter(|_| open).map(|(model, _)| model.name).collect();
    let models = if open { format!("Models: {}\n", names.join(", ")) } else { String::new() };
    let text = format!(
        "Farthing {} is running.\n\n{models}OpenAI's API is at /v1, Anthropic's at /v1/messages; /openapi.json describes all routes.\n\
         Clients take this address with /v1 as their base URL (Anthropic's take it without).\n",
        env!("CARGO_PKG_VERSION")
    );
    ([(header::VARY, "accept")], text).into_response()
}

/// The model that an administrator names.
async fn administered(state: &AppState, head: &Parts, content: Body) -> Result<String, ApiError> {
    if !state.admission.is_admin(&head.headers, &head.extensions) {
        return Err(ApiError::admins_only("models are loaded and unloaded"));
    }
    let content = read_json(state, head, content).await?;
    let mut fields = Fields::parse(&content.bytes)?;
    match fields.take("model") {
        Some(Value::String(name)) => Ok(name),
        given => Err(wrong("model", &given.unwrap_or(Value::Null), "the id of a model")),
    }
}

async fn load(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, content) = request.into_parts();
    let outcome = async {
        let name = administered(&state, &head, content).await?;
        Ok::<String, ApiError>(state.models.get(Some(&name)).await.map(|_| name)?)
    };
    match outcome.await {
        Ok(model) => axum::Json(json!({"success": true, "model": model, "state": "ready"})).into_response(),
        Err(error) => refused(error, &head),
    }
}

async fn unload(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, content) = request.into_parts();
    let outcome = async {
        let name = administered(&state, &head, content).await?;
        let gone = state.models.unload(&name)?;
        // Dropping joins the engine's thread.
        let _ = tokio::task::spawn_blocking(move || drop(gone)).await;
        Ok::<String, ApiError>(name)
    };
    match outcome.await {
        Ok(model) => axum::Json(json!({"success": true, "model": model, "state": "absent"})).into_response(),
        Err(error) => refused(error, &head),
    }
}

async fn ready(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    if let Some(error) = state.unready() {
        return refused(error, &head);
    }
    axum::Json(json!({"status": "ready"})).into_response()
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], crate::OPENAPI).into_response()
}

/// A model in OpenAI's and Anthropic's form, under one of its ids.
fn described((model, phase): &(ModelDescription, LoadState), id: &str) -> Value {
    json!({
        "id": id,
        "object": "model",
        "created": model.created,
        "owned_by": "farthing",
        "context_length": model.context,
        "max_model_len": model.context,
        "bytes": model.bytes,
        "state": phase,
        "type": "model",
        "display_name": id,
        "created_at": date(model.created),
        "lifecycle": "active",
        "max_input_tokens": model.context,
    })
}

async fn models(State(state): State<Arc<AppState>>) -> Response {
    let all = state.models.list();
    let ids = |model: &(ModelDescription, LoadState)| -> Vec<Value> {
        std::iter::once(&model.0.name).chain(&model.0.aliases).map(|id| described(model, id)).collect()
    };
    let data: Vec<Value> = all.iter().flat_map(ids).collect();
    let id = |model: Option<&Value>| model.map(|m| m["id"].clone());
    let (first, last) = (id(data.first()), id(data.last()));
    let list = json!({"object": "list", "data": data, "has_more": false, "first_id": first, "last_id": last});
    axum::Json(list).into_response()
}

async fn model(
    State(state): State<Arc<AppState>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let Ok(Path(id)) = id else {
        let message = format!("{} is not UTF-8 where it is percent-encoded; send the id of a model", shown(&head.uri));
        return refused(ApiError::bad("invalid_path", message), &head);
    };
    match state.models.describe(Some(&id)) {
        Ok(model) => axum::Json(described(&model, &id)).into_response(),
        Err(error) => refused(error.into(), &head),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::error::Dialect;

    /// The description names every route, and nothing else.
    #[test]
    fn every_route_is_described() {
        let described: Value = serde_json::from_str(crate::OPENAPI).unwrap();
        let mut named = BTreeSet::new();
        for (path, operations) in described["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                named.insert((method.to_uppercase(), path.clone()));
                let responses = operation["responses"].as_object().unwrap();
                let needed: &[&str] = match (method.as_str(), path.as_str()) {
                    (_, "/health") => &["200", "421", "501", "503"],
                    ("delete" | "get", path) if path.starts_with("/admin/") => {
                        &["200", "400", "401", "403", "404", "405", "421", "500", "501", "503"]
                    }
                    // Without a body.
                    (_, path) if path.ends_with("/cancel") => &["200", "401", "403", "404", "405", "409", "421", "501"],
                    ("delete", path) if path != "/api/delete" => {
                        &["200", "401", "403", "404", "405", "409", "421", "501"]
                    }
                    // For people without a key.
                    (_, REDEEM) => {
                        &["200", "400", "403", "404", "405", "408", "413", "415", "421", "429", "500", "501", "503"]
                    }
                    ("post", "/models/load" | "/models/unload") | ("delete", _) => {
                        &["200", "400", "401", "403", "404", "405", "408", "409", "413", "415", "421", "501", "503"]
                    }
                    ("post", _) => {
                        &["200", "400", "401", "403", "404", "405", "408", "413", "415", "421", "500", "501", "503"]
                    }
                    (_, path) if path.ends_with("{id}") => &["200", "400", "401", "403", "404", "405", "421", "501"],
                    _ => &["200", "401", "405", "421", "501"],
                };
                for status in needed {
                    assert!(responses.contains_key(*status), "{method} {path}: {status}");
                }
                assert!(Dialect::of(path) != Dialect::DeepSeek || responses.contains_key("422"), "{path}: 422");
            }
        }
        // The gate has one of its own.
        let gate = [("GET".to_string(), "/metrics".to_string())];
        let routes: BTreeSet<_> = table().iter().map(|(m, p, _)| (m.to_string(), p.to_string())).chain(gate).collect();
        assert_eq!(named, routes);
    }

    #[test]
    fn keys_are_for_paths_that_use_models_or_keep_files() {
        for path in ["/v1/chat/completions", "/v1/files", "/v1/batches", "/v1/messages/batches"] {
            assert_eq!(check_metered(path), Ok(()));
        }
        assert!(check_metered("/v1/chat/completion").unwrap_err().ends_with("near it is /v1/chat/completions"));
        for wrong in ["/v1/models", "/admin/keys", "/health", "/v1/batches/batch_1", "/v1/chat/completions/", "", "/"] {
            assert!(check_metered(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_unknown_path_is_told_what_is_near() {
        for (path, first) in [
            ("/v1/chat/completion", "POST /v1/chat/completions"),
            ("/v1/chat/completions/", "POST /v1/chat/completions"),
            ("/api/v1/chat/completions", "POST /v1/chat/completions"),
            ("/v1/v1/messages", "POST /v1/messages"),
            ("/v1/tokenize", "POST /tokenize"),
            ("/v1/model", "GET /v1/models"),
            ("/healthz", "GET /health"),
        ] {
            assert_eq!(near(path).first().map(String::as_str), Some(first), "{path}: {:?}", near(path));
            assert!(near(path).len() <= NEAR_MAX);
        }
        assert!(near("/zzz").is_empty(), "{:?}", near("/zzz"));
        assert!(near(&"/x".repeat(1 << 20)).len() <= NEAR_MAX);
    }

    /// Every `$ref` leads somewhere.
    #[test]
    fn the_description_is_whole() {
        fn walk(value: &Value, whole: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                        assert!(whole.pointer(target.trim_start_matches('#')).is_some(), "{target}");
                    }
                    map.values().for_each(|v| walk(v, whole));
                }
                Value::Array(items) => items.iter().for_each(|v| walk(v, whole)),
                _ => {}
            }
        }
        let described: Value = serde_json::from_str(crate::OPENAPI).unwrap();
        walk(&described, &described);
        assert_eq!(described["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
