//! `/v1/rerank`, in the form of Jina and Cohere: a query and documents to relevance scores

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use engine::{Pooled, Purpose, RERANK_INSTRUCTION, Ranking};
use serde_json::{Value, json};
use text::tokenizer::Within;

use crate::api::embeddings::{INPUTS_MAX, checked};
use crate::api::fields::{Field, Fields, unsupported, wrong};
use crate::api::generate::{context, receive};
use crate::error::{ApiError, refused};
use crate::generation::pooled::PooledRequest;
use crate::generation::served_model::ServedModel;
use crate::http::access_log::RequestLog;
use crate::http::metering::{self, Size};
use crate::http::request_body::in_slot;
use crate::http::work_slots::WorkSlot;
use crate::ids::fresh_id;
use crate::state::AppState;

/// Bytes of a prompt after which no more is put into it.
const TEXT_MAX: usize = 64 << 20;

/// A request for scores.
#[derive(Clone, Debug, PartialEq)]
pub struct RerankRequest {
    /// What is looked for.
    pub query: String,
    /// At least one.
    pub documents: Vec<String>,
    /// The most relevant ones that are wanted.
    pub top_n: usize,
    /// The answer repeats the documents.
    pub return_documents: bool,
    /// In the place of the instruction in the model's prompt.
    pub instruction: Option<String>,
    /// Names of fields that were ignored.
    pub unknown: Vec<String>,
}

/// Parses a body.
///
/// # Errors
/// The first invalid field.
pub fn parse(fields: &mut Fields) -> Result<RerankRequest, ApiError> {
    fields.text("model")?;
    let query = fields.text("query")?;
    let query = query.ok_or_else(|| wrong("query", &Value::Null, "a string"))?;
    let list = fields.take("documents").unwrap_or_default();
    let documents = match &list {
        Value::Array(items) if (1..=INPUTS_MAX).contains(&items.len()) => {
            items.iter().enumerate().map(|(i, item)| document(&Field::new(format!("documents[{i}]"), item)))
        }
        _ => return Err(wrong("documents", &list, &format!("an array of 1 to {INPUTS_MAX} documents"))),
    };
    let documents = documents.collect::<Result<Vec<String>, ApiError>>()?;
    let top_n = fields.count("top_n", 1, u64::MAX)?.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let return_documents = fields.flag("return_documents")?.unwrap_or(false);
    let instruction = fields.text("instruction")?;
    Ok(RerankRequest { query, documents, top_n, return_documents, instruction, unknown: fields.unknown() })
}

fn document(item: &Field) -> Result<String, ApiError> {
    let text = item.value.as_str().or_else(|| item.value.get("text")?.as_str());
    text.map(str::to_string).ok_or_else(|| item.wrong("a string, or an object with a text"))
}

fn ranking(served: &ServedModel) -> Result<&Ranking, ApiError> {
    let Purpose::Rank(ranking) = &served.purpose else {
        let message =
            format!("{} scores no documents; that needs a model made for it, such as Qwen3-Reranker", served.name);
        return Err(ApiError::bad("rerank_unsupported", message).of("model"));
    };
    Ok(ranking)
}

/// The prompt of each document.
fn tokenized(served: &ServedModel, request: &RerankRequest, slot: &WorkSlot) -> Result<Vec<Vec<u32>>, ApiError> {
    let Ranking { prompt, .. } = ranking(served)?;
    let plain = |text: &str| served.tokenizer.escape_special_tokens(text);
    if let Some(given) = request.instruction.as_ref().filter(|_| !prompt.contains(RERANK_INSTRUCTION)) {
        let instead = "the model's prompt has none: leave it out";
        return Err(unsupported("instruction", &given.as_str().into(), instead));
    }
    let instruction = plain(request.instruction.as_deref().unwrap_or(RERANK_INSTRUCTION));
    let query = plain(&request.query);
    let within = Within { tokens_max: served.engine.limits().context, left: &|| slot.cancelled() };
    let encode = |query: &str, document: &str, param: &str| {
        let places = [("{query}", query), ("{document}", document), (RERANK_INSTRUCTION, &instruction)];
        let ids = served.tokenizer.encode_prompt_within(&filled(prompt, places), within);
        ids.map_err(|e| ApiError::from(e).of(param))
    };
    // What is too long without any document is the fault of none.
    if request.instruction.is_some() {
        encode("", "", "instruction")?;
    }
    encode(&query, "", "query")?;
    let (mut all, mut total) = (Vec::with_capacity(request.documents.len()), 0);
    for (i, document) in request.documents.iter().enumerate() {
        let param = format!("documents[{i}]");
        let ids = encode(&query, &plain(document), &param)?;
        total += ids.len();
        checked(served, &ids, total, &param)?;
        all.push(ids);
    }
    Ok(all)
}

/// A prompt with texts in its places. What is put in names no places.
fn filled(prompt: &str, places: [(&str, &str); 3]) -> String {
    let (mut text, mut rest) = (String::new(), prompt);
    let next = |rest: &str| {
        let found = places.iter().filter_map(|(place, value)| Some((rest.find(place)?, place.len(), *value)));
        found.min_by_key(|(at, ..)| *at)
    };
    // Longer texts fit into no context.
    while let Some((at, length, value)) = next(rest).filter(|_| text.len() < TEXT_MAX) {
        text.push_str(&rest[..at]);
        text.push_str(value);
        rest = &rest[at + length..];
    }
    text + rest
}

/// A score from 0 to 1: the share of the first of two logits by softmax, or the sigmoid of one.
fn score(logits: &[f32]) -> f64 {
    let against = logits.get(1).copied().unwrap_or(0.0);
    1.0 / (1.0 + (f64::from(against) - f64::from(logits.first().copied().unwrap_or(0.0))).exp())
}

async fn answer(state: &Arc<AppState>, head: &Parts, content: Body) -> Result<Response, ApiError> {
    let log = head.extensions.get::<RequestLog>().cloned();
    let log = log.ok_or_else(|| ApiError::fault("a request without a record"))?;
    let context = context(state, head)?;
    let (content, served) = receive(state, head, content).await?;
    let of = Arc::clone(&served);
    let (request, prompts) = in_slot(state, head, content, move |bytes, slot| {
        ranking(&of)?;
        let request = parse(&mut Fields::parse(bytes)?)?;
        let prompts = tokenized(&of, &request, slot)?;
        Ok((request, prompts))
    })
    .await?;
    let (model, wanted) = (served.name.clone(), Pooled::Logits(ranking(&served)?.outputs.clone()));
    let RerankRequest { documents, top_n, return_documents, unknown, .. } = request;
    log.update(|f| f.unknown = unknown);
    let pooled = PooledRequest { served, prompts, wanted, context };
    let tokens = pooled.tokens();
    let reserved = metering::reserve(state, head, &model, Size { prompt: tokens, ..Size::default() }).await?;
    let logits = pooled.run(Arc::clone(state), log).await?;
    let mut scored: Vec<(usize, f64)> = logits.iter().map(|l| score(l)).enumerate().collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1));
    let result = |&(index, score): &(usize, f64)| {
        let mut result = json!({"index": index, "relevance_score": score});
        if return_documents {
            result["document"] = json!({"text": documents[index]});
        }
        result
    };
    let answer = json!({
        "id": fresh_id("rerank-"),
        "object": "list",
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "results": scored.iter().take(top_n).map(result).collect::<Value>(),
    });
    let mut response = axum::Json(answer).into_response();
    response.headers_mut().extend(reserved.headers);
    Ok(response)
}

/// `POST /v1/rerank`
pub async fn rerank(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, content) = request.into_parts();
    match answer(&state, &head, content).await {
        Ok(response) => response,
        Err(error) => refused(error, &head),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_a_share() {
        assert_eq!(score(&[0.0]), 0.5);
        assert!((score(&[2.0, 1.0]) - 0.731_058_578_630_004_9).abs() < 1e-12);
        assert_eq!((score(&[1e30, -1e30]), score(&[-1e30, 1e30])), (1.0, 0.0));
    }

    /// An instruction of many places once asked for 380 GB.
    #[test]
    fn what_is_put_into_a_prompt_names_no_places() {
        let prompt = format!("{RERANK_INSTRUCTION}: {{query}} in {{document}}!");
        let places = |query, document, instruction| {
            filled(&prompt, [("{query}", query), ("{document}", document), (RERANK_INSTRUCTION, instruction)])
        };
        assert_eq!(places("{document}", "{query}", "{document} {query}"), "{document} {query}: {document} in {query}!");
        let large = "d".repeat(1 << 20);
        assert!(
            filled(&"{document}".repeat(1000), [("{query}", ""), ("{document}", &large), ("I", "")]).len() < 80 << 20
        );
    }
}
