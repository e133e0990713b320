//! API errors: status, code, field and message, in the form that each dialect's clients expect.

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use engine::{EngineError, SubmitError};
use serde_json::{Value, json};
use text::TextError;

use crate::generation::model_pool::ModelUnavailable;
use crate::http::access_log::{RequestLog, plain};

/// The API whose clients use a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    OpenAi,
    /// DeepSeek's paths: OpenAI's API, but an invalid value is a 422.
    DeepSeek,
    Anthropic,
    /// Ollama's paths, under `/api`.
    Ollama,
}

impl Dialect {
    /// The dialect of a path.
    pub fn of(path: &str) -> Dialect {
        let mut parts = path.split('/').filter(|p| !p.is_empty());
        match parts.next() {
            Some("anthropic") => Dialect::Anthropic,
            Some("api") => Dialect::Ollama,
            Some("v1") if parts.next() == Some("messages") => Dialect::Anthropic,
            Some("chat" | "completions" | "beta") => Dialect::DeepSeek,
            _ => Dialect::OpenAi,
        }
    }
}

/// An error response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// Status of OpenAI's API; other dialects may have another.
    pub status: StatusCode,
    /// Error code.
    pub code: &'static str,
    /// Path of the field that is wrong: `messages[2].content`.
    pub param: Option<String>,
    /// One line with what is wrong and what is allowed.
    pub message: String,
    /// Seconds for `Retry-After`.
    pub retry: Option<u64>,
    /// Further headers of the response.
    pub headers: Option<Box<HeaderMap>>,
    /// Of a prompt that is too long: its tokens, and the context. Clients know such an error by its words, and each dialect has its own.
    pub over: Option<(usize, usize)>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        let again = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        ApiError {
            status,
            code,
            param: None,
            message: message.into(),
            retry: again.then_some(1),
            headers: None,
            over: None,
        }
    }

    /// A prompt of more tokens than the context has.
    fn too_long(tokens: usize, context: usize, at_least: &str) -> ApiError {
        let message = format!(
            "This model's maximum context length is {context} tokens and the prompt is too long: it has {at_least}{tokens}, {} too many; shorten it",
            tokens.saturating_sub(context)
        );
        ApiError { over: Some((tokens, context)), ..ApiError::bad("context_length_exceeded", message) }
    }

    pub(crate) fn bad(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// Refusal of what only administrators do.
    pub(crate) fn admins_only(what: &str) -> ApiError {
        let message = format!("{what} with a key of --admin-key-file");
        ApiError::new(StatusCode::FORBIDDEN, "admin_key_needed", message)
    }

    pub(crate) fn fault(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// With the field that is wrong.
    pub(crate) fn of(self, param: impl Into<String>) -> ApiError {
        ApiError { param: Some(param.into()), ..self }
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::PAYMENT_REQUIRED => "insufficient_quota",
            s if s.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    fn anthropic_kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            402 => "billing_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 | 529 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        }
    }

    /// The error as a response body or as a streamed event.
    pub(crate) fn json(&self, dialect: Dialect, id: Option<&str>) -> Value {
        match dialect {
            Dialect::OpenAi | Dialect::DeepSeek => {
                let ApiError { code, param, message, .. } = self;
                json!({"error": {"message": message, "type": self.kind(), "param": param, "code": code}})
            }
            Dialect::Ollama => json!({ "error": self.message }),
            Dialect::Anthropic => {
                let message = match self.over {
                    Some((tokens, context)) => format!("prompt is too long: {tokens} tokens > {context} maximum"),
                    None => self.message.clone(),
                };
                let error = json!({"type": self.anthropic_kind(), "message": message});
                json!({"type": "error", "error": error, "request_id": id})
            }
        }
    }

    /// The status that a dialect's clients expect.
    fn status(&self, dialect: Dialect) -> StatusCode {
        if dialect == Dialect::DeepSeek && self.status == StatusCode::BAD_REQUEST && self.param.is_some() {
            return StatusCode::UNPROCESSABLE_ENTITY;
        }
        self.status
    }

    /// Adds the error to the access log.
    pub(crate) fn logged(self, head: &Parts) -> ApiError {
        if let Some(log) = head.extensions.get::<RequestLog>() {
            log.update(|f| f.error = Some(self.code));
        }
        self
    }

    pub(crate) fn respond(&self, dialect: Dialect, id: Option<&str>) -> Response {
        let mut response = (self.status(dialect), axum::Json(self.json(dialect, id))).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(headers) = &self.headers {
            response.headers_mut().extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        if let Some(seconds) = self.retry {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(Ok(id)) = id.filter(|_| dialect == Dialect::Anthropic).map(HeaderValue::from_str) {
            response.headers_mut().insert(HeaderName::from_static("request-id"), id);
        }
        response
    }
}

/// The response of a refused request, in the dialect of its path.
pub(crate) fn refused(error: ApiError, head: &Parts) -> Response {
    error.logged(head).respond(Dialect::of(head.uri.path()), id_of(head).as_deref())
}

/// The id that the middleware gave to a request.
pub fn id_of(head: &Parts) -> Option<String> {
    head.extensions.get::<RequestLog>().map(RequestLog::id)
}

impl From<ModelUnavailable> for ApiError {
    fn from(error: ModelUnavailable) -> ApiError {
        if let ModelUnavailable::Failed { name, cause } = &error {
            tracing::error!(target: "farthing", model = name, "could not be loaded: {}", plain(cause, 1000));
        }
        let (status, code) = match &error {
            ModelUnavailable::Unknown { .. } => (StatusCode::NOT_FOUND, "model_not_found"),
            ModelUnavailable::Loading => (StatusCode::SERVICE_UNAVAILABLE, "loading"),
            ModelUnavailable::TooLarge { .. } | ModelUnavailable::NoRoom { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "no_room")
            }
            ModelUnavailable::Failed { .. } => (StatusCode::SERVICE_UNAVAILABLE, "model_failed"),
            ModelUnavailable::InUse { .. } => (StatusCode::CONFLICT, "model_in_use"),
        };
        let answer = ApiError::new(status, code, error.to_string());
        if matches!(error, ModelUnavailable::Unknown { .. }) { answer.of("model") } else { answer }
    }
}

impl From<TextError> for ApiError {
    fn from(error: TextError) -> ApiError {
        match &error {
            TextError::Template(_) | TextError::TooLong { .. } => ApiError::bad("prompt_refused", error.to_string()),
            TextError::TooMany { least, most } => ApiError::too_long(*least, *most, "at least "),
            // There is nobody to tell.
            TextError::Left => ApiError::new(StatusCode::REQUEST_TIMEOUT, "left", error.to_string()),
            TextError::Tokenizer(_) | TextError::EndlessTemplate => ApiError::fault(error.to_string()),
        }
    }
}

impl From<&EngineError> for ApiError {
    fn from(error: &EngineError) -> ApiError {
        let overloaded = |code| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, error.to_string());
        match error {
            EngineError::TooLong { tokens, context, .. } => ApiError::too_long(*tokens, *context, ""),
            EngineError::Empty => {
                ApiError::bad("invalid_value", "prompt is \"\"; it must hold at least one token for this model")
            }
            EngineError::Vocabulary { .. } => ApiError::bad("invalid_value", format!("prompt: {error}")),
            EngineError::Constraint(_) => ApiError::bad("constraint_failed", error.to_string()),
            EngineError::ConstraintLate { .. } => ApiError::bad("constraint_timeout", error.to_string()),
            EngineError::Waited { .. } => overloaded("waited_too_long"),
            EngineError::Displaced => ApiError::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", error.to_string()),
            _ => ApiError::fault(error.to_string()),
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(refused: SubmitError) -> ApiError {
        match &refused {
            SubmitError::Prompt(error) => ApiError::from(error),
            SubmitError::Busy { .. } => ApiError::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", refused.to_string()),
            SubmitError::Stopped(_) => ApiError::fault(refused.to_string()),
            SubmitError::Ending => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "ending", refused.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dialect_follows_from_the_path() {
        for path in ["/v1/messages", "/v1/messages/count_tokens", "/anthropic/v1/messages", "/anthropic/v1/models"] {
            assert_eq!(Dialect::of(path), Dialect::Anthropic, "{path}");
        }
        for path in ["/", "/v1/chat/completions", "/v1/models/messages-7b", "/v1/responses", "/metrics", "/tokenize"] {
            assert_eq!(Dialect::of(path), Dialect::OpenAi, "{path}");
        }
        for path in ["/api/chat", "/api/tags"] {
            assert_eq!(Dialect::of(path), Dialect::Ollama, "{path}");
        }
        for path in ["/chat/completions", "/beta/completions", "/beta/v1/chat/completions"] {
            assert_eq!(Dialect::of(path), Dialect::DeepSeek, "{path}");
        }
    }

    #[test]
    fn every_dialect_has_its_own_shape() {
        let problem = ApiError::bad("invalid_value", "n is 0").of("n");
        assert_eq!(problem.json(Dialect::OpenAi, None)["error"]["param"], "n");
        let theirs = problem.json(Dialect::Anthropic, Some("req_1"));
        let wanted = json!({"type": "error", "error": {"type": "invalid_request_error", "message": "n is 0"}, "request_id": "req_1"});
        assert_eq!(theirs, wanted);
        let status = |dialect| problem.respond(dialect, None).status().as_u16();
        assert_eq!((status(Dialect::OpenAi), status(Dialect::DeepSeek), status(Dialect::Anthropic)), (400, 422, 400));
        assert_eq!(problem.json(Dialect::Ollama, None), json!({"error": "n is 0"}));
        // Agents know a prompt that is too long by these words.
        let long = ApiError::too_long(6004, 2048, "");
        assert_eq!(
            long.json(Dialect::OpenAi, None)["error"]["message"],
            "This model's maximum context length is 2048 tokens and the prompt is too long: it has 6004, 3956 too many; shorten it"
        );
        let theirs = long.json(Dialect::Anthropic, None);
        assert_eq!(theirs["error"]["message"], "prompt is too long: 6004 tokens > 2048 maximum");
        let busy = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", "later");
        assert_eq!(busy.respond(Dialect::OpenAi, None).headers()["retry-after"], "1");
        let nobody = ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", "no key");
        assert_eq!(nobody.respond(Dialect::OpenAi, None).headers()["www-authenticate"], "Bearer");
    }
}
