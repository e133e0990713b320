//! Texts to tokens and back, for clients that count or have no tokenizer of their own.

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::State;
use crate::ask::{Ask, Input};
use crate::complete::{addressed, fields};
use crate::loaded::Loaded;
use crate::prepare::conversation;
use crate::problem::{Dialect, Problem, id_of};
use crate::turn::{Turn, apart};
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
        Ok((bytes, served)) => apart(&state.parsing, move |turn| work(&served, fields(&bytes, &served)?, turn)).await,
        Err(problem) => Err(problem),
    };
    match outcome {
        Ok(value) => axum::Json(value).into_response(),
        Err(problem) => problem.noted(&head).respond(dialect, id_of(&head).as_deref()),
    }
}

fn of(served: &Loaded) -> Model<'_> {
    Model { defaults: &served.defaults, vocab: served.service.vocab() }
}

/// Tokens of a conversation, as the model would read them.
fn rendered(served: &Loaded, ask: &Ask, turn: &Turn) -> Result<Vec<u32>, Problem> {
    let Input::Conversation { messages, continues } = &ask.input else { return Ok(Vec::new()) };
    let (text, _) = conversation(served, ask, messages, *continues, turn)?;
    Ok(served.tokenizer.encode_prompt(&text)?)
}

/// `POST /tokenize`
pub async fn tokenize(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let work = |served: &Loaded, mut fields: Fields, turn: &Turn| {
        let (ids, spelled) = match validate::tokenize(&mut fields, of(served))? {
            Tokenize::Text { text, special, spelled } => (served.tokenizer.encode(&text, special)?, spelled),
            Tokenize::Conversation { ask, spelled } => (rendered(served, &ask, turn)?, spelled),
        };
        let piece = |&id: &u32| served.tokenizer.piece(id).unwrap_or_default();
        let strings = if spelled { ids.iter().map(piece).collect::<Value>() } else { Value::Null };
        let most = served.service.limits().context;
        Ok(json!({"count": ids.len(), "max_model_len": most, "tokens": ids, "token_strs": strings}))
    };
    done(state, request, Dialect::OpenAi, work).await
}

/// `POST /detokenize`
pub async fn detokenize(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let work = |served: &Loaded, mut fields: Fields, _: &Turn| {
        let ids = validate::detokenize(&mut fields, of(served))?;
        Ok(json!({"prompt": served.tokenizer.decode(&ids, false)}))
    };
    done(state, request, Dialect::OpenAi, work).await
}

/// `POST /apply-template`: the prompt of a conversation, as the model would read it.
pub async fn apply(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let work = |served: &Loaded, mut fields: Fields, turn: &Turn| match validate::tokenize(&mut fields, of(served))? {
        Tokenize::Text { text, .. } => Ok(json!({ "prompt": text })),
        Tokenize::Conversation { ask, .. } => {
            Ok(json!({"prompt": served.tokenizer.decode(&rendered(served, &ask, turn)?, false)}))
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
        "model_max_length": served.service.limits().context,
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
