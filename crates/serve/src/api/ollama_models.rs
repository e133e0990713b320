//! Ollama's routes about models: `/api/tags`, `/api/show`, `/api/ps`, `/api/version`

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::fields::Fields;
use crate::api::ollama_library::named;
use crate::error::{ApiError, refused};
use crate::generation::model_pool::{LoadState, ModelDescription, ModelFiles};
use crate::http::request_body::read_json;
use crate::state::AppState;
use crate::words::date;

/// The version of Ollama whose API this is, and that has `/v1/responses` and `/v1/messages` too. Clients refuse one that is too
/// old for them (Codex below 0.13.4).
const VERSION: &str = "0.14.0";

fn details(files: &ModelFiles) -> Value {
    json!({
        "parent_model": "", "format": files.format, "family": files.family, "families": [files.family],
        "parameter_size": count(files.parameters), "quantization_level": files.weights,
    })
}

/// A number of weights, as Ollama writes it.
fn count(n: u64) -> String {
    let x = n as f64;
    match n {
        1_000_000_000.. => format!("{:.1}B", x / 1e9),
        1_000_000.. => format!("{:.2}M", x / 1e6),
        _ => n.to_string(),
    }
}

fn described(model: &ModelDescription) -> Value {
    let digest = Sha256::new().chain_update(&model.name).chain_update(model.files.bytes.to_le_bytes()).finalize();
    json!({
        "name": model.name,
        "model": model.name,
        "modified_at": date(model.created),
        "size": model.files.bytes,
        // Of its name and size: clients tell models by it, and print its beginning.
        "digest": digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        "details": details(&model.files),
    })
}

/// `GET /api/tags`
pub async fn tags(State(state): State<Arc<AppState>>) -> Response {
    let models: Vec<Value> = state.models.list().iter().map(|(model, _)| described(model)).collect();
    axum::Json(json!({ "models": models })).into_response()
}

/// `GET /api/ps`
pub async fn ps(State(state): State<Arc<AppState>>) -> Response {
    let ready = |(model, phase): &(ModelDescription, LoadState)| {
        let mut entry = described(model);
        // In memory, with its KV cache.
        entry["size"] = model.bytes.into();
        entry["size_vram"] = 0.into();
        entry["context_length"] = model.context.into();
        // Not known: it stays until others need the room.
        entry["expires_at"] = "9999-12-31T23:59:59Z".into();
        (*phase == LoadState::Ready).then_some(entry)
    };
    let models: Vec<Value> = state.models.list().iter().filter_map(ready).collect();
    axum::Json(json!({ "models": models })).into_response()
}

/// `GET /api/version`
pub async fn version() -> Response {
    axum::Json(json!({"version": VERSION, "farthing": env!("CARGO_PKG_VERSION")})).into_response()
}

/// `POST /api/show`. It loads nothing: a model that is not in memory has no template here.
pub async fn show(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, content) = request.into_parts();
    let outcome = async {
        let content = read_json(&state, &head, content).await?;
        let mut fields = Fields::parse(&content.bytes)?;
        let (model, older) = (fields.text("model")?, fields.text("name")?);
        let missing = || ApiError::bad("invalid_value", "model is missing; give {\"model\": \"NAME\"}").of("model");
        let (model, _) = state.models.describe(Some(&named(model, older).ok_or_else(missing)?))?;
        let loaded = state.models.loaded().into_iter().find(|(name, _)| *name == model.name);
        let template = loaded.as_ref().map(|(_, served)| served.template.source());
        let thinks = loaded.as_ref().is_some_and(|(_, served)| served.format.reasons());
        // Tools are told to every model, by its template or in words.
        let capabilities: Vec<&str> = match model.capability {
            "completion" => ["completion", "tools"].into_iter().chain(thinks.then_some("thinking")).collect(),
            other => vec![other],
        };
        Ok::<Value, ApiError>(json!({
            "modelfile": format!("FROM {}\n", model.name),
            "parameters": "",
            "template": template.unwrap_or_default(),
            "details": details(&model.files),
            "model_info": {
                "general.architecture": model.files.family,
                "general.parameter_count": model.files.parameters,
                format!("{}.context_length", model.files.family): model.context,
            },
            "capabilities": capabilities,
            "modified_at": date(model.created),
        }))
    };
    match outcome.await {
        Ok(answer) => axum::Json(answer).into_response(),
        Err(error) => refused(error, &head),
    }
}
