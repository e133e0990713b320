//! `/tokenize`, `/detokenize`, `/apply-template`, `/tokenizer_info` and `count_tokens`, for clients without a tokenizer of their own.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use text::tokenizer::Within;
use text::{Stream, TextError};

use crate::api::generate::{in_slot, receive};
use crate::api::validate::{self, Fields, ModelDefaults, TokenizeRequest};
use crate::error::{ApiError, Dialect, id_of};
use crate::generation::prepared::render_conversation;
use crate::generation::served_model::ServedModel;
use crate::http::work_slots::WorkSlot;
use crate::request::{GenerateRequest, Input};
use crate::state::AppState;

/// Read a request, and do something with it that may take a while.
async fn done(
    state: Arc<AppState>,
    request: Request,
    dialect: Dialect,
    work: impl FnOnce(&ServedModel, Fields, &WorkSlot) -> Result<Value, ApiError> + Send + 'static,
) -> Response {
    let (head, content) = request.into_parts();
    let outcome = match receive(&state, &head, content).await {
        Ok((content, served)) => {
            let work = move |bytes: &[u8], slot: &WorkSlot| work(&served, Fields::parse(bytes)?, slot);
            in_slot(&state, &head, content, work).await
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(value) => axum::Json(value).into_response(),
        Err(error) => error.logged(&head).respond(dialect, id_of(&head).as_deref()),
    }
}

fn of(served: &ServedModel) -> ModelDefaults<'_> {
    ModelDefaults { defaults: &served.defaults, vocab: served.engine.vocab() }
}

/// Tokens of a conversation, as the model would read them.
fn rendered(served: &ServedModel, request: &GenerateRequest, slot: &WorkSlot) -> Result<Vec<u32>, ApiError> {
    let Input::Conversation { messages, continues } = &request.input else { return Ok(Vec::new()) };
    let (text, _) = render_conversation(served, request, messages, *continues, slot)?;
    fits(served, &text)?;
    Ok(served.tokenizer.encode_prompt_within(&text, counted(&|| slot.cancelled()))?)
}

/// Texts are counted to their end, as long as somebody waits.
fn counted(left: &dyn Fn() -> bool) -> Within<'_> {
    Within { tokens_max: usize::MAX, left }
}

/// What the model could never read is not counted.
fn fits(served: &ServedModel, text: &str) -> Result<(), TextError> {
    let (least, most) = (served.tokenizer.tokens_least(text), served.engine.limits().context);
    if least > most { Err(TextError::TooMany { least, most }) } else { Ok(()) }
}

/// The text of ids, as long as somebody waits.
fn spelled(served: &ServedModel, ids: &[u32], slot: &WorkSlot) -> Result<String, TextError> {
    let mut stream = Stream::new(served.tokenizer.as_ref(), false);
    let mut text = String::new();
    for ids in ids.chunks(1024) {
        if slot.cancelled() {
            return Err(TextError::Left);
        }
        ids.iter().for_each(|&id| text.push_str(&stream.push(id)));
    }
    Ok(text + &stream.finish())
}

/// `POST /tokenize`
pub async fn tokenize(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let work = |served: &ServedModel, mut fields: Fields, slot: &WorkSlot| {
        let (ids, spelled) = match validate::tokenize(&mut fields, of(served))? {
            TokenizeRequest::Content { text, special, named, spelled } => {
                fits(served, &text)?;
                let ids = if named {
                    served.tokenizer.encode_within(&text, special, counted(&|| slot.cancelled()))?
                } else {
                    served
                        .tokenizer
                        .encode_prompt_within(&served.tokenizer.shield(&text), counted(&|| slot.cancelled()))?
                };
                let piece = |&id: &u32| json!({"id": id, "piece": piece(served, id)});
                let tokens = if spelled { ids.iter().map(piece).collect::<Value>() } else { json!(ids) };
                return Ok(json!({ "tokens": tokens }));
            }
            TokenizeRequest::Text { text, special, spelled } => {
                fits(served, &text)?;
                (served.tokenizer.encode_within(&text, special, counted(&|| slot.cancelled()))?, spelled)
            }
            TokenizeRequest::Conversation { request, spelled } => (rendered(served, &request, slot)?, spelled),
        };
        let piece = |&id: &u32| served.tokenizer.piece(id).unwrap_or_default();
        let strings = if spelled { ids.iter().map(piece).collect::<Value>() } else { Value::Null };
        let most = served.engine.limits().context;
        Ok(json!({"count": ids.len(), "max_model_len": most, "tokens": ids, "token_strs": strings}))
    };
    done(state, request, Dialect::OpenAi, work).await
}

/// The bytes of a token, as llama.cpp gives them: text, or numbers where they are none alone.
fn piece(served: &ServedModel, id: u32) -> Value {
    String::from_utf8(served.tokenizer.bytes(id).unwrap_or_default())
        .map_or_else(|e| json!(e.into_bytes()), Value::from)
}

/// `POST /detokenize`, as vLLM (`prompt`) and llama.cpp (`content`) answer: both send the same.
pub async fn detokenize(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let work = |served: &ServedModel, mut fields: Fields, slot: &WorkSlot| {
        let ids = validate::detokenize(&mut fields, of(served), served.engine.limits().context)?;
        let text = spelled(served, &ids, slot)?;
        Ok(json!({"prompt": text, "content": text}))
    };
    done(state, request, Dialect::OpenAi, work).await
}

/// `POST /apply-template`: the prompt of a conversation, as the model would read it.
pub async fn apply(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let work = |served: &ServedModel, mut fields: Fields, slot: &WorkSlot| match validate::tokenize(
        &mut fields,
        of(served),
    )? {
        TokenizeRequest::Text { text, .. } | TokenizeRequest::Content { text, .. } => Ok(json!({ "prompt": text })),
        TokenizeRequest::Conversation { request, .. } => {
            let ids = rendered(served, &request, slot)?;
            Ok(json!({"prompt": spelled(served, &ids, slot)?}))
        }
    };
    done(state, request, Dialect::OpenAi, work).await
}

/// `POST /v1/messages/count_tokens`
pub async fn count(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let work = |served: &ServedModel, mut fields: Fields, slot: &WorkSlot| {
        let request = validate::messages(&mut fields, of(served))?;
        Ok(json!({"input_tokens": rendered(served, &request, slot)?.len()}))
    };
    done(state, request, Dialect::Anthropic, work).await
}

/// `GET /tokenizer_info`: of the first model.
pub async fn info(State(state): State<Arc<AppState>>) -> Response {
    let served = match state.model(None).await {
        Ok(served) => served,
        Err(error) => return ApiError::from(error).respond(Dialect::OpenAi, None),
    };
    let info = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": served.bos,
        "eos_token": served.eos,
        "pad_token": served.eos,
        "vocab_size": served.tokenizer.vocab_size(),
        "model_max_length": served.engine.limits().context,
        "chat_template": served.template.source(),
    });
    axum::Json(info).into_response()
}

/// Seconds since 1970, as RFC 3339 has them.
pub fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days: years begin in March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates() {
        for (seconds, said) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(date(seconds), said);
        }
    }
}
