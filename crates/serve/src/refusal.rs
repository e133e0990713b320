//! Errors that are told before a route is reached, in the shape that the path's clients know.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Whose clients a path is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// OpenAI's, DeepSeek's, and everything else.
    OpenAi,
    /// Anthropic's.
    Anthropic,
}

impl Family {
    /// By the parts of a path: `/v1/messages`, `/anthropic/v1/messages/count_tokens`.
    pub fn of(path: &str) -> Family {
        let anthropic = path.split('/').take(8).any(|part| part == "messages" || part == "anthropic");
        if anthropic { Family::Anthropic } else { Family::OpenAi }
    }
}

/// A refusal: status, the code that OpenAI's clients read, and words.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Status of the response.
    pub status: StatusCode,
    /// `code` in OpenAI's shape.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// As a response.
    pub fn respond(&self, family: Family) -> Response {
        let kind = match (family, self.status) {
            (Family::Anthropic, StatusCode::UNAUTHORIZED) => "authentication_error",
            (Family::Anthropic, StatusCode::SERVICE_UNAVAILABLE) => "overloaded_error",
            (Family::Anthropic, status) if status.is_server_error() => "api_error",
            (Family::OpenAi, status) if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let body = match family {
            Family::Anthropic => json!({"type": "error", "error": {"type": kind, "message": self.message}}),
            Family::OpenAi => {
                json!({"error": {"message": self.message, "type": kind, "param": null, "code": self.code}})
            }
        };
        let mut response = (self.status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_family_follows_from_the_path() {
        for path in ["/v1/messages", "/v1/messages/count_tokens", "/anthropic/v1/messages", "/anthropic/v1/models"] {
            assert_eq!(Family::of(path), Family::Anthropic, "{path}");
        }
        for path in ["/", "/v1/chat/completions", "/v1/models/messages-7b", "/v1/responses"] {
            assert_eq!(Family::of(path), Family::OpenAi, "{path}");
        }
    }
}
