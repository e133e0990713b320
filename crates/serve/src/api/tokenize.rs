//! `/tokenize`, `/detokenize`, `/apply-template`, `/tokenizer_info` and `count_tokens`, for clients without a tokenizer of their own.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use text::tokenizer::Within;
use text::{Detokenizer, TextError};

use crate::api::chat::conversation;
use crate::api::completions::ids;
use crate::api::fields::{Fields, ModelDefaults, unsupported, wrong};
use crate::api::generate::{first, receive};
use crate::api::params::{thinking_max, variables};
use crate::api::{messages, tools};
use crate::error::{ApiError, Dialect, id_of, refused};
use crate::generation::prepared::Conversation;
use crate::generation::served_model::ServedModel;
use crate::generation::tool_prompt::{ToolPrompt, enabled};
use crate::http::metering::{self, Size};
use crate::http::request_body::in_slot;
use crate::http::work_slots::WorkSlot;
use crate::request::{GenerateRequest, Params, RequestInput};
use crate::state::AppState;

/// A request of `/tokenize` or `/apply-template`.
#[derive(Debug)]
pub enum TokenizeRequest {
    /// A text, in vLLM's form.
    Text {
        /// The text to tokenize.
        text: String,
        /// Add the special tokens that the model expects around a text.
        special: bool,
        /// Return the tokens' texts.
        spelled: bool,
    },
    /// A text, in llama.cpp's form, which the response has too.
    Content {
        /// The text to tokenize.
        text: String,
        /// Add the special tokens that the model expects around a text.
        special: bool,
        /// Parse names of special tokens in the text as these tokens.
        named: bool,
        /// Return the tokens' texts.
        spelled: bool,
    },
    /// A conversation, for the chat template.
    Conversation {
        /// The request, as for `/v1/chat/completions`.
        request: Box<GenerateRequest>,
        /// Return the tokens' texts.
        spelled: bool,
    },
}

/// Parses a body of `/tokenize` or `/apply-template`.
///
/// # Errors
/// The first invalid field.
pub fn parse_tokenize(fields: &mut Fields, model: ModelDefaults<'_>) -> Result<TokenizeRequest, ApiError> {
    let spelled = fields.flag("return_token_strs")?.unwrap_or(false);
    let special = fields.flag("add_special_tokens")?;
    let name = fields.text("model")?;
    let continued = fields.flag("continue_final_message")?.unwrap_or(false);
    fields.flag("add_generation_prompt")?;
    thinking_max(fields, None, "max_tokens")?;
    let (tools, template) = (tools::openai(fields)?, variables(fields)?);
    if let Some(content) = content(fields)? {
        return Ok(content);
    }
    if let Some(text) = fields.text("prompt")? {
        if let Some(messages) = fields.take("messages") {
            return Err(wrong("messages", &messages, "absent where prompt is given"));
        }
        return Ok(TokenizeRequest::Text { text, special: special.unwrap_or(true), spelled });
    }
    let (messages, prefixed) =
        conversation(fields).map_err(|invalid| match invalid.message.starts_with("messages is null") {
            true => wrong("prompt", &Value::Null, "a string, unless messages are given"),
            false => invalid,
        })?;
    let continues = continued || prefixed;
    let params = Params { model: name, unknown: fields.unknown(), ..Params::new(model.defaults.clone()) };
    let input = RequestInput::Conversation { messages, continues };
    let request = GenerateRequest { tools, template, ..GenerateRequest::new(input, params) };
    Ok(TokenizeRequest::Conversation { request: Box::new(request), spelled })
}

/// A body in llama.cpp's form, if it is one.
fn content(fields: &mut Fields) -> Result<Option<TokenizeRequest>, ApiError> {
    const FLAGS: [&str; 3] = ["add_special", "parse_special", "with_pieces"];
    let mut flags = [None; 3];
    for (flag, key) in flags.iter_mut().zip(FLAGS) {
        *flag = fields.flag(key)?;
    }
    let Some(text) = fields.text("content")? else {
        return match flags.into_iter().zip(FLAGS).find_map(|(flag, key)| Some((flag?, key))) {
            Some((flag, key)) => Err(wrong(key, &flag.into(), "absent unless content is given")),
            None => Ok(None),
        };
    };
    for key in ["prompt", "messages"] {
        if let Some(value) = fields.peek(key) {
            return Err(wrong(key, &value, "absent where content is given"));
        }
    }
    let [special, named, spelled] = flags;
    let (special, named) = (special.unwrap_or(false), named.unwrap_or(true));
    if special && !named {
        let instead = "with add_special names of special tokens are these tokens: leave out one of the two";
        return Err(unsupported("parse_special", &false.into(), instead));
    }
    Ok(Some(TokenizeRequest::Content { text, special, named, spelled: spelled.unwrap_or(false) }))
}

/// Parses a body of `/detokenize` with at most `most` ids.
///
/// # Errors
/// No list of ids.
pub fn parse_detokenize(fields: &mut Fields, model: ModelDefaults<'_>, most: usize) -> Result<Vec<u32>, ApiError> {
    fields.text("model")?;
    match fields.take("tokens") {
        Some(Value::Array(items)) if items.len() <= most => ids("tokens", &items, model.vocab),
        other => {
            let allowed = format!("an array of at most {most} token ids (the context length)");
            Err(wrong("tokens", &other.unwrap_or(Value::Null), &allowed))
        }
    }
}

/// Reads a request and runs `work` on it in a slot.
async fn done(
    state: Arc<AppState>,
    request: Request,
    dialect: Dialect,
    work: impl FnOnce(&ServedModel, Fields, &WorkSlot) -> Result<Value, ApiError> + Send + 'static,
) -> Response {
    let (head, content) = request.into_parts();
    let outcome = match receive(&state, &head, content).await {
        Ok((content, served)) => {
            let name = served.name.clone();
            let work = move |bytes: &[u8], slot: &WorkSlot| work(&served, Fields::parse(bytes)?, slot);
            // Counted as a request, which costs no token.
            match metering::reserve(&state, &head, &name, Size::default()).await {
                Ok(_) => in_slot(&state, &head, content, work).await,
                Err(refused) => Err(refused),
            }
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(value) => axum::Json(value).into_response(),
        Err(error) => error.logged(&head).respond(dialect, id_of(&head).as_deref()),
    }
}

/// Tokens of a conversation's prompt.
fn rendered(served: &ServedModel, request: GenerateRequest, slot: &WorkSlot) -> Result<Vec<u32>, ApiError> {
    let GenerateRequest { input, tools, template: variables, .. } = request;
    let RequestInput::Conversation { messages, continues } = input else { return Ok(Vec::new()) };
    let conversation = Conversation { messages, continues, tools: &tools, variables };
    let chat = served.chat_template(enabled(&tools));
    let (text, _) = conversation.render(served, &ToolPrompt::new(chat.format, chat.takes_tools, &tools), slot)?;
    fits(served, &text)?;
    Ok(served.tokenizer.encode_prompt_within(&text, counted(&|| slot.cancelled()))?)
}

/// No limit on tokens; stops when the client leaves.
fn counted(left: &dyn Fn() -> bool) -> Within<'_> {
    Within { tokens_max: usize::MAX, left }
}

/// Refuses a text that cannot fit into the context, before it is tokenized.
fn fits(served: &ServedModel, text: &str) -> Result<(), TextError> {
    let (least, most) = (served.tokenizer.tokens_least(text), served.engine.limits().context);
    if least > most { Err(TextError::TooMany { least, most }) } else { Ok(()) }
}

/// Text of ids; stops when the client leaves.
fn spelled(served: &ServedModel, ids: &[u32], slot: &WorkSlot) -> Result<String, TextError> {
    let mut stream = Detokenizer::new(served.tokenizer.as_ref(), false);
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
        let (ids, spelled) = match parse_tokenize(&mut fields, ModelDefaults::of(served))? {
            TokenizeRequest::Content { text, special, named, spelled } => {
                fits(served, &text)?;
                let ids = if named {
                    served.tokenizer.encode_within(&text, special, counted(&|| slot.cancelled()))?
                } else {
                    served.tokenizer.encode_prompt_within(
                        &served.tokenizer.escape_special_tokens(&text),
                        counted(&|| slot.cancelled()),
                    )?
                };
                let piece = |&id: &u32| json!({"id": id, "piece": piece(served, id)});
                let tokens = if spelled { ids.iter().map(piece).collect::<Value>() } else { json!(ids) };
                return Ok(json!({ "tokens": tokens }));
            }
            TokenizeRequest::Text { text, special, spelled } => {
                fits(served, &text)?;
                (served.tokenizer.encode_within(&text, special, counted(&|| slot.cancelled()))?, spelled)
            }
            TokenizeRequest::Conversation { request, spelled } => (rendered(served, *request, slot)?, spelled),
        };
        let piece = |&id: &u32| served.tokenizer.piece(id).unwrap_or_default();
        let strings = if spelled { ids.iter().map(piece).collect::<Value>() } else { Value::Null };
        let most = served.engine.limits().context;
        Ok(json!({"count": ids.len(), "max_model_len": most, "tokens": ids, "token_strs": strings}))
    };
    done(state, request, Dialect::OpenAi, work).await
}

/// A token's bytes in llama.cpp's form: text, or numbers if they are not UTF-8.
fn piece(served: &ServedModel, id: u32) -> Value {
    String::from_utf8(served.tokenizer.bytes(id).unwrap_or_default())
        .map_or_else(|e| json!(e.into_bytes()), Value::from)
}

/// `POST /detokenize`, as vLLM (`prompt`) and llama.cpp (`content`) answer: both send the same.
pub async fn detokenize(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let work = |served: &ServedModel, mut fields: Fields, slot: &WorkSlot| {
        let ids = parse_detokenize(&mut fields, ModelDefaults::of(served), served.engine.limits().context)?;
        let text = spelled(served, &ids, slot)?;
        Ok(json!({"prompt": text, "content": text}))
    };
    done(state, request, Dialect::OpenAi, work).await
}

/// `POST /apply-template`: the prompt of a conversation, as the model would read it.
pub async fn apply(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let work = |served: &ServedModel, mut fields: Fields, slot: &WorkSlot| match parse_tokenize(
        &mut fields,
        ModelDefaults::of(served),
    )? {
        TokenizeRequest::Text { text, .. } | TokenizeRequest::Content { text, .. } => Ok(json!({ "prompt": text })),
        TokenizeRequest::Conversation { request, .. } => {
            let ids = rendered(served, *request, slot)?;
            Ok(json!({"prompt": spelled(served, &ids, slot)?}))
        }
    };
    done(state, request, Dialect::OpenAi, work).await
}

/// `POST /v1/messages/count_tokens`
pub async fn count(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let work = |served: &ServedModel, mut fields: Fields, slot: &WorkSlot| {
        let request = messages::parse(&mut fields, ModelDefaults::of(served))?;
        Ok(json!({"input_tokens": rendered(served, request, slot)?.len()}))
    };
    done(state, request, Dialect::Anthropic, work).await
}

/// `GET /tokenizer_info`: of the first model.
pub async fn info(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let served = match first(&state, &head).await {
        Ok(served) => served,
        Err(error) => return refused(error, &head),
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
