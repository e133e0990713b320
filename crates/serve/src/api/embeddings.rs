//! `/v1/embeddings` (OpenAI), `/api/embed` and `/api/embeddings` (Ollama): texts or token ids to vectors

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engine::{Embedding, EngineError, Pooled, Purpose};
use serde::Serialize;
use serde_json::{Value, json};
use text::ends::first_tokens;
use text::tokenizer::Within;
use text::{TextError, Tokenizer};

use crate::api::completions::prompts;
use crate::api::fields::{Fields, ModelDefaults, wrong};
use crate::api::generate::{context, receive};
use crate::error::{ApiError, refused};
use crate::generation::pooled::PooledRequest;
use crate::generation::served_model::ServedModel;
use crate::http::access_log::RequestLog;
use crate::http::metering::{self, Size};
use crate::http::request_body::in_slot;
use crate::http::work_slots::WorkSlot;
use crate::request::Prompt;
use crate::state::AppState;

/// Most inputs of one request.
pub const INPUTS_MAX: usize = 2048;
/// Most tokens of all inputs of one request.
const TOKENS_MAX: usize = 1 << 20;

/// Whose clients ask, and so the form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `/v1/embeddings`
    OpenAi,
    /// `/api/embed`
    Ollama,
    /// `/api/embeddings`, Ollama's older one.
    OllamaOne,
}

/// A request for embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbedRequest {
    /// What to embed. None only in Ollama's forms: then the model is loaded.
    pub inputs: Vec<Prompt>,
    /// Leading numbers of each vector that are wanted.
    pub dimensions: Option<usize>,
    /// Vectors as Base64 of their little-endian bytes.
    pub base64: bool,
    /// Cut inputs that are longer than the context.
    pub truncate: bool,
    /// Name of the prompt to put before each text.
    pub prompt_name: Option<String>,
    /// Names of fields that were ignored.
    pub unknown: Vec<String>,
}

/// Parses a body.
///
/// # Errors
/// The first invalid field.
pub fn parse(fields: &mut Fields, form: Form, model: ModelDefaults<'_>) -> Result<EmbedRequest, ApiError> {
    fields.text("model")?;
    let key = if form == Form::OllamaOne { "prompt" } else { "input" };
    let given = match form {
        Form::OllamaOne => fields.text(key)?.map_or(Value::Null, Value::from),
        Form::OpenAi | Form::Ollama => fields.take(key).unwrap_or_default(),
    };
    let none = form != Form::OpenAi && (given.is_null() || given == "" || given == json!([]));
    let inputs = if none { Vec::new() } else { prompts(key, given.clone(), (INPUTS_MAX, "inputs"), model.vocab)? };
    if form != Form::OpenAi && inputs.iter().any(|input| matches!(input, Prompt::Tokens(_))) {
        return Err(wrong(key, &given, "a string, or an array of strings"));
    }
    let mut request = EmbedRequest {
        inputs,
        dimensions: None,
        base64: false,
        truncate: false,
        prompt_name: None,
        unknown: Vec::new(),
    };
    if form != Form::OllamaOne {
        request.dimensions = fields.count("dimensions", 1, u64::from(u32::MAX))?.map(|n| n as usize);
    }
    if form == Form::OpenAi {
        request.base64 = match fields.text("encoding_format")?.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(other) => return Err(wrong("encoding_format", &other.into(), "float or base64")),
        };
        request.prompt_name = fields.text("prompt_name")?;
        fields.about(&["user"]);
    } else {
        request.truncate = form == Form::OllamaOne || fields.flag("truncate")?.unwrap_or(true);
        fields.about(&["options", "keep_alive"]);
    }
    request.unknown = fields.unknown();
    Ok(request)
}

/// How this model embeds.
fn embedding(served: &ServedModel) -> Result<&Embedding, ApiError> {
    let Purpose::Embed(embedding) = &served.purpose else {
        let message =
            format!("{} makes no embeddings; they need a model made for them, such as Qwen3-Embedding", served.name);
        return Err(ApiError::bad("embeddings_unsupported", message).of("model"));
    };
    Ok(embedding)
}

/// The tokens of each input.
fn tokenized(served: &ServedModel, request: &EmbedRequest, slot: &WorkSlot) -> Result<Vec<Vec<u32>>, ApiError> {
    let embedding = embedding(served)?;
    let name = request.prompt_name.as_ref().or(embedding.default_prompt.as_ref());
    let before = match name {
        None => "",
        Some(name) => embedding.prompts.get(name).ok_or_else(|| {
            let known: Vec<&str> = embedding.prompts.keys().map(String::as_str).collect();
            let allowed = match known.is_empty() {
                true => "left out: this model has no prompts".to_string(),
                false => format!("one of the model's prompts: {}", known.join(", ")),
            };
            wrong("prompt_name", &name.as_str().into(), &allowed)
        })?,
    };
    let (context, left) = (served.engine.limits().context, || slot.cancelled());
    let (mut all, mut total) = (Vec::with_capacity(request.inputs.len()), 0);
    for (i, input) in request.inputs.iter().enumerate() {
        let ids = match input {
            Prompt::Text(text) if request.truncate => {
                truncated(&served.tokenizer, &format!("{before}{text}"), context, &left)
            }
            Prompt::Text(text) => {
                let within = Within { tokens_max: context, left: &left };
                served.tokenizer.encode_within(&format!("{before}{text}"), true, within)
            }
            Prompt::Tokens(ids) => Ok(ids.clone()),
        };
        let param = format!("input[{i}]");
        let ids = ids.map_err(|e| ApiError::from(e).of(&param))?;
        total += ids.len();
        checked(served, &ids, total, &param)?;
        all.push(ids);
    }
    Ok(all)
}

/// Refuses a prompt that is empty or too long, and too many tokens in all.
pub(super) fn checked(served: &ServedModel, ids: &[u32], total: usize, param: &str) -> Result<(), ApiError> {
    let (tokens, context) = (ids.len(), served.engine.limits().context);
    if tokens == 0 {
        return Err(wrong(param, &"".into(), "at least one token for this model"));
    }
    if tokens > context {
        return Err(ApiError::from(&EngineError::TooLong { tokens, over: tokens - context, context }).of(param));
    }
    if total > TOKENS_MAX {
        let message =
            format!("{param} is beyond the {TOKENS_MAX} tokens that one request may have; send fewer at once");
        return Err(ApiError::bad("too_many_tokens", message).of(param));
    }
    Ok(())
}

/// The tokens of a text, of which those that do not fit are left out; what the tokenizer adds around a text stays.
fn truncated(
    tokenizer: &Tokenizer,
    text: &str,
    context: usize,
    left: &dyn Fn() -> bool,
) -> Result<Vec<u32>, TextError> {
    let encode = |text: &str, special| tokenizer.encode_within(text, special, Within { tokens_max: usize::MAX, left });
    let whole = first_tokens(text, context, |text| encode(text, true))?;
    if whole.len() <= context {
        return Ok(whole);
    }
    let (around, inner) = (encode("a", true)?, encode("a", false)?);
    let added = around.len().saturating_sub(inner.len());
    let begins = (0..=added).find(|&at| around[at..].starts_with(&inner)).unwrap_or(0);
    let (before, after) = (&around[..begins], &around[begins + inner.len()..]);
    let keep = context.saturating_sub(added);
    let mut kept = first_tokens(text, keep, |text| encode(text, false))?;
    kept.truncate(keep);
    kept = [before, &kept, after].concat();
    kept.truncate(context);
    Ok(kept)
}

/// The vector that is answered: its leading numbers, and of length 1 where the model or the API wants that.
fn finished(mut vector: Vec<f32>, dimensions: Option<usize>, normalize: bool) -> Vec<f32> {
    vector.truncate(dimensions.unwrap_or(usize::MAX));
    let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if normalize && length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
    vector
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}

impl Vector {
    fn new(numbers: Vec<f32>, base64: bool) -> Vector {
        if !base64 {
            return Vector::Numbers(numbers);
        }
        Vector::Base64(STANDARD.encode(numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()))
    }
}

#[derive(Serialize)]
struct Entry {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

/// An answer, in the order of its members.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    OpenAi {
        object: &'static str,
        data: Vec<Entry>,
        model: String,
        usage: Value,
    },
    Ollama {
        model: String,
        embeddings: Vec<Vec<f32>>,
        total_duration: u64,
        load_duration: u64,
        prompt_eval_count: usize,
    },
    OllamaOne {
        embedding: Vec<f32>,
    },
}

async fn answer(state: &Arc<AppState>, head: &Parts, content: Body, form: Form) -> Result<Response, ApiError> {
    let begun = Instant::now();
    let log = head.extensions.get::<RequestLog>().cloned();
    let log = log.ok_or_else(|| ApiError::fault("a request without a record"))?;
    let context = context(state, head)?;
    let (content, served) = receive(state, head, content).await?;
    let loaded = begun.elapsed();
    let of = Arc::clone(&served);
    let (request, prompts) = in_slot(state, head, content, move |bytes, slot| {
        embedding(&of)?;
        let mut fields = Fields::parse(bytes)?;
        let request = parse(&mut fields, form, ModelDefaults::of(&of))?;
        if let Some(dimensions) = request.dimensions.filter(|&n| n > of.width) {
            let allowed = format!("at most {}, the width of this model's embeddings", of.width);
            return Err(wrong("dimensions", &dimensions.into(), &allowed));
        }
        let prompts = tokenized(&of, &request, slot)?;
        Ok((request, prompts))
    })
    .await?;
    let Embedding { pooling, normalize, .. } = *embedding(&served)?;
    log.update(|f| f.unknown = request.unknown);
    let (model, wanted) = (served.name.clone(), Pooled::States(pooling));
    let pooled = PooledRequest { served, prompts, wanted, context };
    let tokens = pooled.tokens();
    let reserved = metering::reserve(state, head, &model, Size { prompt: tokens, ..Size::default() }).await?;
    let vectors = pooled.run(Arc::clone(state), log).await?.into_iter();
    let mut vectors = vectors.map(|v| finished(v, request.dimensions, normalize || form == Form::Ollama));
    let nanoseconds = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let answer = match form {
        Form::OpenAi => {
            let entry = |(index, v)| Entry { object: "embedding", index, embedding: Vector::new(v, request.base64) };
            let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
            Answer::OpenAi { object: "list", data: vectors.enumerate().map(entry).collect(), model, usage }
        }
        Form::Ollama => Answer::Ollama {
            model,
            embeddings: vectors.collect(),
            total_duration: nanoseconds(begun.elapsed()),
            load_duration: nanoseconds(loaded),
            prompt_eval_count: tokens,
        },
        Form::OllamaOne => Answer::OllamaOne { embedding: vectors.next_back().unwrap_or_default() },
    };
    // Millions of numbers take a while to write.
    let bytes = tokio::task::spawn_blocking(move || serde_json::to_vec(&answer)).await;
    let bytes = bytes.ok().and_then(Result::ok).ok_or_else(|| ApiError::fault("an answer that cannot be written"))?;
    let mut response = ([(header::CONTENT_TYPE, "application/json")], Body::from(bytes)).into_response();
    response.headers_mut().extend(reserved.headers);
    Ok(response)
}

/// Handles a request.
pub async fn embed(state: Arc<AppState>, request: Request, form: Form) -> Response {
    let (head, content) = request.into_parts();
    match answer(&state, &head, content, form).await {
        Ok(response) => response,
        Err(error) => refused(error, &head),
    }
}
