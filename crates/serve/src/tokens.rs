//! Texts to tokens and back, for clients that count or have no tokenizer of their own.

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use text::tokenizer::Within;
use text::{Stream, TextError};

use crate::State;
use crate::ask::{Ask, Input};
use crate::complete::{addressed, at_turn};
use crate::loaded::Loaded;
use crate::prepare::conversation;
use crate::problem::{Dialect, Problem, id_of};
use crate::turns::Turn;
use crate::validate::{self, Fields, Model, Tokenize};

/// Read a request, and do something with it that may take a while.
async fn done(
    state: Arc<State>,
    request: Request,
    dialect: Dialect,
    work: impl FnOnce(&Loaded, Fields, &Turn) -> Result<Value, Problem> + Send + 'static,
) -> Response {
    let (head, content) = request.into_parts();
    let outcome = match addressed(&state, &head, content).await {
        Ok((content, served)) => {
            let work = move |bytes: &[u8], turn: &Turn| work(&served, Fields::parse(bytes)?, turn);
            at_turn(&state, &head, content, work).await
        }
        Err(problem) => Err(problem),
    };
    match outcome {
        Ok(value) => axum::Json(value).into_response(),
        Err(problem) => problem.noted(&head).respond(dialect, id_of(&head).as_deref()),
    }
}

fn of(served: &Loaded) -> Model<'_> {
    Model { defaults: &served.defaults, vocab: served.engine.vocab() }
}

/// Tokens of a conversation, as the model would read them.
fn rendered(served: &Loaded, ask: &Ask, turn: &Turn) -> Result<Vec<u32>, Problem> {
    let Input::Conversation { messages, continues } = &ask.input else { return Ok(Vec::new()) };
    let (text, _) = conversation(served, ask, messages, *continues, turn)?;
    fits(served, &text)?;
    Ok(served.tokenizer.encode_prompt_within(&text, counted(&|| turn.left()))?)
}

/// Texts are counted to their end, as long as somebody waits.
fn counted(left: &dyn Fn() -> bool) -> Within<'_> {
    Within { tokens_max: usize::MAX, left }
}

/// What the model could never read is not counted.
fn fits(served: &Loaded, text: &str) -> Result<(), TextError> {
    let (least, most) = (served.tokenizer.tokens_least(text), served.engine.limits().context);
    if least > most { Err(TextError::TooMany { least, most }) } else { Ok(()) }
}

/// The text of ids, as long as somebody waits.
fn spelled(served: &Loaded, ids: &[u32], turn: &Turn) -> Result<String, TextError> {
    let mut stream = Stream::new(served.tokenizer.as_ref(), false);
    let mut text = String::new();
    for ids in ids.chunks(1024) {
        if turn.left() {
            return Err(TextError::Left);
        }
        ids.iter().for_each(|&id| text.push_str(&stream.push(id)));
    }
    Ok(text + &stream.finish())
}

/// `POST /tokenize`
pub async fn tokenize(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let work = |served: &Loaded, mut fields: Fields, turn: &Turn| {
        let (ids, spelled) = match validate::tokenize(&mut fields, of(served))? {
            Tokenize::Content { text, special, named, spelled } => {
                fits(served, &text)?;
                let ids = if named {
                    served.tokenizer.encode_within(&text, special, counted(&|| turn.left()))?
                } else {
                    served.tokenizer.encode_prompt_within(&served.tokenizer.shield(&text), counted(&|| turn.left()))?
                };
                let piece = |&id: &u32| json!({"id": id, "piece": piece(served, id)});
                let tokens = if spelled { ids.iter().map(piece).collect::<Value>() } else { json!(ids) };
                return Ok(json!({ "tokens": tokens }));
            }
            Tokenize::Text { text, special, spelled } => {
                fits(served, &text)?;
                (served.tokenizer.encode_within(&text, special, counted(&|| turn.left()))?, spelled)
            }
            Tokenize::Conversation { ask, spelled } => (rendered(served, &ask, turn)?, spelled),
        };
        let piece = |&id: &u32| served.tokenizer.piece(id).unwrap_or_default();
        let strings = if spelled { ids.iter().map(piece).collect::<Value>() } else { Value::Null };
        let most = served.engine.limits().context;
        Ok(json!({"count": ids.len(), "max_model_len": most, "tokens": ids, "token_strs": strings}))
    };
    done(state, request, Dialect::OpenAi, work).await
}

/// The bytes of a token, as llama.cpp gives them: text, or numbers where they are none alone.
fn piece(served: &Loaded, id: u32) -> Value {
    String::from_utf8(served.tokenizer.bytes(id).unwrap_or_default())
        .map_or_else(|e| json!(e.into_bytes()), Value::from)
}

/// `POST /detokenize`, as vLLM (`prompt`) and llama.cpp (`content`) answer: both send the same.
pub async fn detokenize(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let work = |served: &Loaded, mut fields: Fields, turn: &Turn| {
        let ids = validate::detokenize(&mut fields, of(served), served.engine.limits().context)?;
        let text = spelled(served, &ids, turn)?;
        Ok(json!({"prompt": text, "content": text}))
    };
    done(state, request, Dialect::OpenAi, work).await
}

/// `POST /apply-template`: the prompt of a conversation, as the model would read it.
pub async fn apply(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let work = |served: &Loaded, mut fields: Fields, turn: &Turn| match validate::tokenize(&mut fields, of(served))? {
        Tokenize::Text { text, .. } | Tokenize::Content { text, .. } => Ok(json!({ "prompt": text })),
        Tokenize::Conversation { ask, .. } => {
            let ids = rendered(served, &ask, turn)?;
            Ok(json!({"prompt": spelled(served, &ids, turn)?}))
        }
    };
    done(state, request, Dialect::OpenAi, work).await
}

/// `POST /v1/messages/count_tokens`
pub async fn count(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let work = |served: &Loaded, mut fields: Fields, turn: &Turn| {
        let ask = validate::messages(&mut fields, of(served))?;
        Ok(json!({"input_tokens": rendered(served, &ask, turn)?.len()}))
    };
    done(state, request, Dialect::Anthropic, work).await
}

/// `GET /tokenizer_info`: of the first model.
pub async fn info(Shared(state): Shared<Arc<State>>) -> Response {
    let served = match state.model(None).await {
        Ok(served) => served,
        Err(error) => return Problem::from(error).respond(Dialect::OpenAi, None),
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
