//! The routes: which path asks for what.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State as Shared};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde_json::{Value, json};

use crate::State;
use crate::complete::{Kind, complete, fresh_id};
use crate::loaded::Loaded;
use crate::problem::{Dialect, Problem};
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

async fn nothing_here(method: Method, uri: Uri) -> Response {
    let message = format!("{method} {} is not served; there are {ROUTES}", shown(&uri));
    Problem::new(StatusCode::NOT_FOUND, "not_found", message).respond(Dialect::of(uri.path()), Some(&fresh_id("req_")))
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let message = format!("{} does not take {method}; there are {ROUTES}", shown(&uri));
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
    problem.respond(Dialect::of(uri.path()), Some(&fresh_id("req_")))
}

async fn health() -> Response {
    axum::Json(json!({"status": "ok"})).into_response()
}

async fn ready(Shared(state): Shared<Arc<State>>) -> Result<Response, Response> {
    let model = state.loaded().map_err(|p| p.respond(Dialect::OpenAi, None))?;
    let (running, waiting) = model.service.load();
    let report = json!({"status": "ready", "model": model.name, "running": running, "waiting": waiting});
    Ok(axum::Json(report).into_response())
}

async fn openapi() -> Response {
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (kind, crate::OPENAPI).into_response()
}

/// A model, to OpenAI's clients and to Anthropic's.
fn described(model: &Loaded) -> Value {
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "farthing",
        "context_length": model.service.limits().context,
        "max_model_len": model.service.limits().context,
        "type": "model",
        "display_name": model.name,
        "created_at": tokens::date(model.created),
        "lifecycle": "active",
        "max_input_tokens": model.service.limits().context,
    })
}

async fn models(Shared(state): Shared<Arc<State>>, uri: Uri) -> Result<Response, Response> {
    let model = state.loaded().map_err(|p| p.respond(Dialect::of(uri.path()), None))?;
    let list = json!({
        "object": "list",
        "data": [described(&model)],
        "has_more": false,
        "first_id": model.name,
        "last_id": model.name,
    });
    Ok(axum::Json(list).into_response())
}

async fn model(Shared(state): Shared<Arc<State>>, Path(id): Path<String>, uri: Uri) -> Result<Response, Response> {
    let found = state.loaded().and_then(|_| state.named(Some(&id)));
    let model = found.map_err(|p| p.respond(Dialect::of(uri.path()), Some(&fresh_id("req_"))))?;
    Ok(axum::Json(described(&model)).into_response())
}

async fn embeddings(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let (head, content) = request.into_parts();
    let problem = match crate::complete::body(&state, &head.headers, content).await {
        Ok(_) => {
            let message =
                "this server has no model for embeddings; it answers at /v1/chat/completions and /v1/completions";
            Problem::bad("embeddings_unsupported", message)
        }
        Err(problem) => problem,
    };
    problem.respond(Dialect::OpenAi, None)
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
                    (_, "/health") => &["200"],
                    ("post", "/v1/embeddings") => &["400", "401", "405", "408", "413", "415", "500", "503"],
                    ("post", _) => &["200", "400", "401", "404", "405", "408", "413", "415", "500", "503"],
                    _ => &["200", "401", "405"],
                };
                for status in needed {
                    assert!(responses.contains_key(*status), "{method} {path}: {status}");
                }
                assert!(Dialect::of(path) != Dialect::DeepSeek || responses.contains_key("422"), "{path}: 422");
            }
        }
        let routes: BTreeSet<_> = table().iter().map(|(m, p, _)| (m.to_string(), p.to_string())).collect();
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
