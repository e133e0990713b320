//! The handler of the endpoints that generate text, from the body's bytes to the response, the same for all dialects.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::api::chat::ChatWriter;
use crate::api::completions::CompletionWriter;
use crate::api::fields::{Fields, ModelDefaults};
use crate::api::kept_items::KeptItems;
use crate::api::llama_cpp::LlamaCppWriter;
use crate::api::messages::MessagesWriter;
use crate::api::ollama::{Form, OllamaWriter};
use crate::api::response::{ResponseInfo, ResponseWriter};
use crate::api::responses::ResponsesWriter;
use crate::api::{chat, completions, llama_cpp, messages, ollama, responses};
use crate::error::{ApiError, Dialect};
use crate::generation::batch_runner::BatchLine;
use crate::generation::in_flight::InFlight;
use crate::generation::model_pool::requested_model;
use crate::generation::prepared::{PreparedRequest, RequestContext};
use crate::generation::served_model::ServedModel;
use crate::http::access_log::{RequestLog, plain};
use crate::http::api_keys::Account;
use crate::http::metering;
use crate::http::middleware::{SCHEMA_NOT_KEPT, TOOLS_IGNORED};
use crate::http::request_body::{RequestBody, in_slot, read_json};
use crate::http::response_body;
use crate::ids::fresh_id;
use crate::request::GenerateRequest;
use crate::state::AppState;
use crate::words::now;

/// Longest wait of an unstreamed response for its status; after it, errors can only be told in the body.
const JSON_DELAY_MAX: Duration = Duration::from_secs(15);

/// An endpoint that generates text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`
    Messages,
    /// `/api/chat` and `/api/generate`
    Ollama(Form),
    /// llama.cpp's `/completion`
    LlamaCompletion,
    /// llama.cpp's `/infill`
    Infill,
}

impl Endpoint {
    fn validate(self, fields: &mut Fields, model: ModelDefaults<'_>) -> Result<GenerateRequest, ApiError> {
        match self {
            Endpoint::Chat => chat::parse(fields, model),
            Endpoint::Completion => completions::parse(fields, model),
            Endpoint::Responses => responses::parse(fields, model),
            Endpoint::Messages => messages::parse(fields, model),
            Endpoint::Ollama(Form::Chat) => ollama::parse_chat(fields, model),
            Endpoint::Ollama(Form::Generate) => ollama::parse_generate(fields, model),
            Endpoint::LlamaCompletion => llama_cpp::parse_completion(fields, model),
            Endpoint::Infill => llama_cpp::parse_infill(fields, model),
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Endpoint::Chat => "chatcmpl-",
            Endpoint::Completion => "cmpl-",
            Endpoint::Responses => "resp_",
            Endpoint::Messages => "msg_",
            Endpoint::Ollama(_) | Endpoint::LlamaCompletion | Endpoint::Infill => "",
        }
    }

    fn writer(
        self,
        served: &ServedModel,
        request: &GenerateRequest,
        times: (Instant, Duration),
        kept: (Arc<KeptItems>, u64),
    ) -> Box<dyn ResponseWriter> {
        let head = ResponseInfo { id: fresh_id(self.prefix()), created: now(), model: served.name.clone() };
        let (w, log_probabilities) = (&request.params, request.params.log_probabilities.is_some());
        let include_usage = w.include_usage;
        match self {
            Endpoint::Chat => {
                Box::new(ChatWriter { head, log_probabilities, include_usage, older: request.tools.older })
            }
            Endpoint::Completion => Box::new(CompletionWriter { head, log_probabilities, include_usage }),
            Endpoint::Responses => Box::new(ResponsesWriter::new(head, request, kept)),
            Endpoint::Messages => Box::new(MessagesWriter::new(head)),
            Endpoint::Ollama(form) => Box::new(OllamaWriter::new(form, head.model, log_probabilities, times)),
            Endpoint::LlamaCompletion | Endpoint::Infill => {
                let repeated = request.repeated.clone();
                Box::new(LlamaCppWriter { model: head.model, log_probabilities, repeated })
            }
        }
    }
}

/// The context of a request: its account, and its timeouts from `x-request-timeout` within the server's limits.
pub(super) fn context(state: &AppState, head: &Parts) -> Result<RequestContext, ApiError> {
    const NAME: &str = "x-request-timeout";
    let Account { id: account, salt, owner, .. } = head.extensions.get().copied().unwrap_or(Account::EVERYBODY);
    if head.extensions.get::<BatchLine>().is_some() {
        // It rests while others are served, for as long as its batch may take.
        return Ok(RequestContext { account, salt, owner, background: true, ..RequestContext::default() });
    }
    let (wait_max, time_max) = (Some(state.limits.wait), state.limits.time);
    let mut context = RequestContext { account, salt, owner, wait_max, time_max, ..RequestContext::default() };
    let headers = &head.headers;
    if let Some(value) = headers.get(NAME) {
        let seconds = value.to_str().ok().and_then(|v| v.trim().parse::<f64>().ok());
        let Some(seconds) = seconds.filter(|s| (0.001..=604_800.0).contains(s)) else {
            let value: String = String::from_utf8_lossy(value.as_bytes()).chars().take(100).collect();
            let message = format!("{NAME} is {value:?}; it must be a number of seconds from 0.001 to 604800");
            return Err(ApiError::bad("invalid_value", message).of(NAME));
        };
        let wanted = Duration::from_secs_f64(seconds);
        if context.time_max.is_none_or(|most| wanted < most) {
            (context.time_max, context.time_asked) = (Some(wanted), true);
        }
        context.wait_max = context.wait_max.map(|wait| wait.min(wanted));
    }
    Ok(context)
}

/// The first model, loaded for who may have it.
pub(super) async fn first(state: &AppState, head: &Parts) -> Result<Arc<ServedModel>, ApiError> {
    metering::check(state, head, None).await?;
    Ok(state.model(None).await?)
}

/// Reads a body and loads the model that it names.
pub async fn receive(
    state: &AppState,
    head: &Parts,
    content: Body,
) -> Result<(RequestBody, Arc<ServedModel>), ApiError> {
    let content = read_json(state, head, content).await?;
    let wanted = requested_model(&content.bytes);
    metering::check(state, head, wanted.as_deref()).await?;
    let served = state.model(wanted.as_deref()).await?;
    if let Some(log) = head.extensions.get::<RequestLog>() {
        log.update(|f| f.model = Some(served.name.clone()));
    }
    Ok((content, served))
}

/// Handles a request.
pub async fn complete(state: Arc<AppState>, request: Request, endpoint: Endpoint) -> Response {
    let path = request.uri().path();
    let dialect = if endpoint == Endpoint::Messages { Dialect::Anthropic } else { Dialect::of(path) };
    let Some(log) = request.extensions().get::<RequestLog>().cloned() else {
        return ApiError::fault("a request without a record").respond(dialect, None);
    };
    let id = log.id();
    match answer(&state, request, endpoint, dialect, &log).await {
        Ok(mut response) => {
            if let Some(Ok(id)) = (dialect == Dialect::Anthropic).then(|| HeaderValue::from_str(&id)) {
                response.headers_mut().insert(HeaderName::from_static("request-id"), id);
            }
            response
        }
        Err(error) => {
            log.update(|f| f.error = Some(error.code));
            error.respond(dialect, Some(&id))
        }
    }
}

/// A request that was read.
enum Ready {
    Generate(Box<PreparedRequest>, Box<dyn ResponseWriter>),
    /// It only loads the model, and this is the answer.
    Loaded(Value),
}

async fn prepare(state: &Arc<AppState>, head: &Parts, content: Body, endpoint: Endpoint) -> Result<Ready, ApiError> {
    let context = context(state, head)?;
    let begun = Instant::now();
    let (content, served) = receive(state, head, content).await?;
    let (times, kept_items) = ((begun, begun.elapsed()), Arc::clone(&state.kept_items));
    if !served.engine.generates() {
        let message = format!("{} embeds or scores texts and generates none; ask another model", served.name);
        return Err(ApiError::bad("generation_unsupported", message).of("model"));
    }
    in_slot(state, head, content, move |bytes, slot| {
        let mut fields = Fields::parse(bytes)?;
        if endpoint == Endpoint::Responses {
            kept_items.resolve(context.account, &mut fields)?;
        }
        if let Endpoint::Ollama(form) = endpoint
            && let Some(loaded) = form.loads(&mut fields, (&served.name, ModelDefaults::of(&served)), times)?
        {
            return Ok(Ready::Loaded(loaded));
        }
        let request = endpoint.validate(&mut fields, ModelDefaults::of(&served))?;
        let writer = endpoint.writer(&served, &request, times, (kept_items, context.account));
        let prepared = PreparedRequest::new(&served, request, context, slot)?;
        Ok(Ready::Generate(Box::new(prepared), writer))
    })
    .await
}

async fn answer(
    state: &Arc<AppState>,
    request: Request,
    endpoint: Endpoint,
    dialect: Dialect,
    log: &RequestLog,
) -> Result<Response, ApiError> {
    let (head, content) = request.into_parts();
    let (mut prepared, writer) = match prepare(state, &head, content, endpoint).await? {
        Ready::Generate(prepared, writer) => (*prepared, writer),
        Ready::Loaded(answer) => return Ok(axum::Json(answer).into_response()),
    };
    let reserved = metering::reserve(state, &head, &prepared.served.name, prepared.size()).await?;
    if let Some(most) = reserved.output {
        prepared.params.tokens_max = Some(most);
    }
    log.update(|f| (f.unknown, f.ignored) = (prepared.params.unknown.clone(), prepared.params.ignored.clone()));
    let (stream, prompt_tokens, warnings) =
        (prepared.params.stream, prepared.prompt_tokens(), warnings(prepared.schema_warnings()));
    let ignored = ignored(&prepared.params.ignored);
    let in_flight = InFlight::start(Arc::clone(state), prepared, log.clone())?;
    // A rejected request counts no tokens.
    log.update(|f| f.prompt_tokens = Some(prompt_tokens));
    let mut response = if head.extensions.get::<BatchLine>().is_some() {
        axum::Json(collect(in_flight, writer).await?).into_response()
    } else if stream {
        response_body::stream(in_flight, writer)
    } else {
        json_in_time(collect(in_flight, writer), dialect, log.clone()).await?
    };
    response.headers_mut().extend(warnings.into_iter().chain(ignored).chain(reserved.headers));
    Ok(response)
}

/// A response that is not streamed. One that takes long begins with blank lines, and its errors are in its body.
///
/// # Errors
/// What fails soon enough for a status.
async fn json_in_time(
    whole: impl Future<Output = Result<Value, ApiError>> + Send + 'static,
    dialect: Dialect,
    log: RequestLog,
) -> Result<Response, ApiError> {
    let mut whole = Box::pin(whole);
    if let Ok(outcome) = tokio::time::timeout(JSON_DELAY_MAX, whole.as_mut()).await {
        return Ok(axum::Json(outcome?).into_response());
    }
    Ok(response_body::slow_json(async move {
        whole.await.unwrap_or_else(|error| {
            log.update(|f| f.error = Some(error.code));
            error.json(dialect, Some(&log.id()))
        })
    }))
}

/// The header of schema warnings: a JSON array in ASCII.
fn warnings(lines: &[String]) -> Option<(HeaderName, HeaderValue)> {
    const BYTES_MAX: usize = 4096;
    let escaped = |c: char| match c {
        ' '..='~' => String::from(c),
        _ => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    };
    let mut text = String::new();
    for line in lines {
        let ascii: String = Value::from(line.as_str()).to_string().chars().map(escaped).collect();
        if text.len() + ascii.len() > BYTES_MAX {
            break;
        }
        text.push_str(if text.is_empty() { "[" } else { ", " });
        text.push_str(&ascii);
    }
    let value = HeaderValue::try_from(text + "]").ok()?;
    (!lines.is_empty() && value != "]").then_some((SCHEMA_NOT_KEPT, value))
}

/// The header of tools and items that were left out.
fn ignored(names: &[String]) -> Option<(HeaderName, HeaderValue)> {
    let names: Vec<String> = names.iter().map(|name| plain(name, 60).replace(',', "?")).collect();
    (!names.is_empty()).then(|| Some((TOOLS_IGNORED, HeaderValue::try_from(names.join(", ")).ok()?))).flatten()
}

/// The whole response. Dropping it cancels the request.
async fn collect(mut in_flight: InFlight, mut writer: Box<dyn ResponseWriter>) -> Result<Value, ApiError> {
    let choices = in_flight.collect().await?;
    in_flight.announce();
    Ok(writer.whole(&choices, &in_flight.usage()))
}

#[cfg(test)]
mod tests {
    use super::warnings;

    #[test]
    fn what_is_not_kept_is_told_in_a_header_of_ascii() {
        assert_eq!(warnings(&[]), None);
        let lines = ["#/a\u{e9}\u{1f600}: `not` is not supported".to_string(), "b\n".to_string()];
        let (name, value) = warnings(&lines).unwrap();
        assert_eq!(name, "x-schema-not-kept");
        assert_eq!(value, "[\"#/a\\u00e9\\ud83d\\ude00: `not` is not supported\", \"b\\n\"]");
        assert_eq!(serde_json::from_str::<Vec<String>>(value.to_str().unwrap()).unwrap(), lines);
        let many = vec!["x".repeat(900); 100];
        let (_, value) = warnings(&many).unwrap();
        assert_eq!(serde_json::from_str::<Vec<String>>(value.to_str().unwrap()).unwrap(), many[..4]);
    }
}
