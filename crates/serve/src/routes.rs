//! The routes: which path asks for what.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State as Shared};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde_json::{Value, json};

use crate::State;
use crate::complete::{Kind, complete};
use crate::models::{Description, NoModel, Phase};
use crate::problem::{Dialect, Problem, id_of};
use crate::tokens;

type Route = MethodRouter<Arc<State>>;

/// Every route, as the description of the API names it.
pub fn table() -> Vec<(&'static str, &'static str, Route)> {
    let asked =
        |kind: Kind| post(move |Shared(state): Shared<Arc<State>>, request: Request| complete(state, request, kind));
    let chat = || asked(Kind::Chat);
    let completion = || asked(Kind::Completion);
    let messages = || asked(Kind::Messages);
    let responses = || asked(Kind::Responses);
    vec![
        ("GET", "/health", get(health)),
        ("GET", "/ready", get(ready)),
        ("GET", "/openapi.json", get(openapi)),
        ("GET", "/v1/models", get(models)),
        ("GET", "/v1/models/{id}", get(model)),
        ("POST", "/v1/chat/completions", chat()),
        ("POST", "/v1/completions", completion()),
        ("POST", "/v1/responses", responses()),
        ("POST", "/v1/embeddings", post(embeddings)),
        ("POST", "/v1/messages", messages()),
        ("POST", "/v1/messages/count_tokens", post(tokens::count)),
        // DeepSeek's base URLs.
        ("GET", "/models", get(models)),
        ("GET", "/models/{id}", get(model)),
        ("POST", "/chat/completions", chat()),
        ("POST", "/completions", completion()),
        ("POST", "/responses", responses()),
        ("POST", "/beta/chat/completions", chat()),
        ("POST", "/beta/completions", completion()),
        ("POST", "/beta/v1/chat/completions", chat()),
        ("POST", "/beta/v1/completions", completion()),
        ("POST", "/anthropic/v1/messages", messages()),
        ("POST", "/anthropic/v1/messages/count_tokens", post(tokens::count)),
        ("GET", "/anthropic/v1/models", get(models)),
        ("GET", "/anthropic/v1/models/{id}", get(model)),
        // vLLM's and llama.cpp's.
        ("POST", "/tokenize", post(tokens::tokenize)),
        ("POST", "/detokenize", post(tokens::detokenize)),
        ("POST", "/apply-template", post(tokens::apply)),
        ("GET", "/tokenizer_info", get(tokens::info)),
    ]
}

/// All routes.
pub fn router(state: Arc<State>) -> Router {
    let mut router = Router::new();
    for (_, path, route) in table() {
        // Names of models have slashes in them.
        router = router.route(&path.replace("{id}", "{*id}"), route);
    }
    router.method_not_allowed_fallback(wrong_method).fallback(nothing_here).with_state(state)
}

const ROUTES: &str = "GET /health, /ready, /v1/models, /openapi.json; POST /v1/chat/completions, /v1/completions, \
    /v1/responses, /v1/messages, /tokenize, /detokenize";

fn shown(uri: &Uri) -> String {
    uri.path().chars().take(200).collect()
}

async fn nothing_here(request: Request) -> Response {
    let (head, _) = request.into_parts();
    let message = format!("{} {} is not served; there are {ROUTES}", head.method, shown(&head.uri));
    refused(Problem::new(StatusCode::NOT_FOUND, "not_found", message), &head)
}

async fn wrong_method(request: Request) -> Response {
    let (head, _) = request.into_parts();
    let message = format!("{} does not take {}; there are {ROUTES}", shown(&head.uri), head.method);
    refused(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message), &head)
}

fn refused(problem: Problem, head: &Parts) -> Response {
    problem.noted(head).respond(Dialect::of(head.uri.path()), id_of(head).as_deref())
}

async fn health(Shared(state): Shared<Arc<State>>) -> Response {
    match state.fault() {
        None => axum::Json(json!({"status": "ok"})).into_response(),
        // What it said is in the log: the route is open to everybody.
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, axum::Json(json!({"status": "failed"}))).into_response(),
    }
}

async fn ready(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    if !state.ready() {
        return refused(NoModel::Loading.into(), &head);
    }
    axum::Json(json!({"status": "ready"})).into_response()
}

async fn openapi() -> Response {
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (kind, crate::OPENAPI).into_response()
}

/// A model, to OpenAI's clients and to Anthropic's.
fn described((model, phase): &(Description, Phase)) -> Value {
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "farthing",
        "context_length": model.context,
        "max_model_len": model.context,
        "bytes": model.bytes,
        "state": phase.name(),
        "type": "model",
        "display_name": model.name,
        "created_at": tokens::date(model.created),
        "lifecycle": "active",
        "max_input_tokens": model.context,
    })
}

async fn models(Shared(state): Shared<Arc<State>>) -> Response {
    let all = state.models.list();
    let name = |model: Option<&(Description, Phase)>| model.map(|(d, _)| d.name.clone());
    let list = json!({
        "object": "list",
        "data": all.iter().map(described).collect::<Vec<_>>(),
        "has_more": false,
        "first_id": name(all.first()),
        "last_id": name(all.last()),
    });
    axum::Json(list).into_response()
}

async fn model(Shared(state): Shared<Arc<State>>, Path(id): Path<String>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    match state.models.describe(Some(&id)) {
        Ok(model) => axum::Json(described(&model)).into_response(),
        Err(error) => refused(error.into(), &head),
    }
}

async fn embeddings(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let (head, content) = request.into_parts();
    let problem = match crate::complete::body(&state, &head, content).await {
        Ok(_) => {
            let message =
                "this server has no model for embeddings; it answers at /v1/chat/completions and /v1/completions";
            Problem::bad("embeddings_unsupported", message)
        }
        Err(problem) => problem,
    };
    refused(problem, &head)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

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
                    ("post", "/v1/embeddings") => {
                        &["400", "401", "405", "408", "413", "415", "421", "500", "501", "503"]
                    }
                    ("post", _) => {
                        &["200", "400", "401", "404", "405", "408", "413", "415", "421", "500", "501", "503"]
                    }
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
