//! Lines of batches: requests as clients write them down, and results as they read them.

use batches::{Batch, BatchError, Form, LINE_BYTES_MAX, Lines, StoreError};
use serde_json::{Map, Value, json};

use crate::api::Fields;
use crate::error::{ApiError, Dialect};
use crate::ids::fresh_id;

/// Lines of a batch at most.
pub const LINES_MAX: usize = 50_000;
/// Bytes of a `custom_id` at most.
pub const CUSTOM_ID_BYTES_MAX: usize = 512;
/// Errors of a batch that are listed.
const ERRORS_MAX: usize = 100;
/// Characters that are listed of an error.
const SHOWN_MAX: usize = 400;

/// An endpoint that answers lines of batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEndpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/responses`
    Responses,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/messages`, whose lines come with the request that makes the batch.
    Messages,
}

impl LineEndpoint {
    /// Those of OpenAI's batches.
    pub const OPENAI: [LineEndpoint; 4] =
        [LineEndpoint::Chat, LineEndpoint::Completions, LineEndpoint::Responses, LineEndpoint::Embeddings];

    /// Its path.
    pub fn path(self) -> &'static str {
        match self {
            LineEndpoint::Chat => "/v1/chat/completions",
            LineEndpoint::Completions => "/v1/completions",
            LineEndpoint::Responses => "/v1/responses",
            LineEndpoint::Embeddings => "/v1/embeddings",
            LineEndpoint::Messages => "/v1/messages",
        }
    }

    /// That of a batch.
    pub fn of(batch: &Batch) -> Option<LineEndpoint> {
        match batch.form {
            Form::Anthropic => Some(LineEndpoint::Messages),
            Form::OpenAi => LineEndpoint::OPENAI.into_iter().find(|endpoint| endpoint.path() == batch.endpoint),
        }
    }
}

/// A request of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct LineRequest {
    /// The client's name for it.
    pub custom_id: String,
    /// Model that it asks.
    pub model: Option<String>,
    /// Body of the request.
    pub body: Map<String, Value>,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// A word for programs.
    pub code: &'static str,
    /// What is wrong and what is allowed, on one line.
    pub message: String,
    /// Field of the line.
    pub param: Option<String>,
}

impl LineError {
    fn new(code: &'static str, param: &str, message: impl Into<String>) -> LineError {
        LineError { code, message: message.into(), param: Some(param.to_string()) }
    }

    /// As the batch lists it: short, as a line may have names of any length.
    fn listed(self, line: usize) -> BatchError {
        let short = |text: String, most: usize| text.chars().take(most).collect::<String>();
        let (message, param) = (short(self.message, SHOWN_MAX), self.param.map(|param| short(param, SHOWN_MAX)));
        BatchError { code: self.code.to_string(), message, param, line: Some(line + 1) }
    }
}

/// A string of a line.
fn text(fields: &mut Fields, key: &'static str) -> Result<String, LineError> {
    match fields.take(key) {
        Some(Value::String(text)) => Ok(text),
        None => Err(LineError::new("missing_required_parameter", key, format!("{key} is missing"))),
        Some(_) => Err(LineError::new("invalid_value", key, format!("{key} must be a string"))),
    }
}

/// Parses a line, which must be for this endpoint.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn parse_line(bytes: &[u8], endpoint: LineEndpoint) -> Result<LineRequest, LineError> {
    let unreadable = |error: ApiError| LineError {
        code: "invalid_json_line",
        message: error.message.replacen("the body", "the line", 1),
        param: error.param,
    };
    let mut fields = Fields::parse(bytes).map_err(unreadable)?;
    let custom_id = text(&mut fields, "custom_id")?;
    check_custom_id(&custom_id)?;
    let body = if endpoint == LineEndpoint::Messages {
        "params"
    } else {
        let (method, url) = (text(&mut fields, "method")?, text(&mut fields, "url")?);
        if method != "POST" {
            return Err(LineError::new("invalid_method", "method", "method must be POST"));
        }
        if url != endpoint.path() {
            let message = format!("url must be the endpoint of the batch, {}", endpoint.path());
            return Err(LineError::new("mismatched_url", "url", message));
        }
        "body"
    };
    let body = match fields.take(body) {
        Some(Value::Object(map)) => map,
        None => return Err(LineError::new("missing_required_parameter", body, format!("{body} is missing"))),
        Some(_) => return Err(LineError::new("invalid_value", body, format!("{body} must be an object"))),
    };
    let model = match body.get("model") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name.clone()),
        Some(_) => return Err(LineError::new("invalid_value", "model", "model must be a string")),
    };
    if body.get("stream").is_some_and(|stream| !matches!(stream, Value::Null | Value::Bool(false))) {
        return Err(LineError::new("stream_unsupported", "stream", "a batch has no streams; leave stream out"));
    }
    Ok(LineRequest { custom_id, model, body })
}

fn check_custom_id(id: &str) -> Result<(), LineError> {
    if (1..=CUSTOM_ID_BYTES_MAX).contains(&id.len()) {
        return Ok(());
    }
    let message = format!("custom_id has {} bytes; it must have 1 to {CUSTOM_ID_BYTES_MAX}", id.len());
    Err(LineError::new("invalid_custom_id", "custom_id", message))
}

/// What the lines of a batch are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validated {
    /// Lines that are not blank.
    pub total: usize,
    /// What is wrong; nothing if the batch can run.
    pub errors: Vec<BatchError>,
}

/// Looks at all lines of a batch. `known` says whether there is a model of a name, and if not, in words.
///
/// # Errors
/// The disk.
pub fn validate<R: std::io::BufRead>(
    mut lines: Lines<R>,
    endpoint: LineEndpoint,
    known: impl Fn(Option<&str>) -> Result<(), String>,
) -> std::io::Result<Validated> {
    let mut seen = std::collections::HashSet::new();
    let mut first: Option<Option<String>> = None;
    let mut all = Validated::default();
    while let Some(line) = lines.next_line()? {
        all.total += 1;
        if all.total > LINES_MAX {
            let message = format!("the file has more than {LINES_MAX} lines; send it in parts");
            all.errors.push(BatchError { code: "too_many_tasks".into(), message, param: None, line: None });
            break;
        }
        let outcome = if line.whole {
            parse_line(&line.bytes, endpoint)
        } else {
            let message = format!("the line has more than {LINE_BYTES_MAX} bytes");
            Err(LineError { code: "line_too_long", message, param: None })
        };
        let outcome = outcome.and_then(|request| {
            if !seen.insert(request.custom_id) {
                let message = "another line has this custom_id; each needs one of its own";
                return Err(LineError::new("duplicate_custom_id", "custom_id", message));
            }
            match &first {
                None => {
                    known(request.model.as_deref())
                        .map_err(|message| LineError::new("model_not_found", "model", message))?;
                    first = Some(request.model);
                }
                Some(model) if *model != request.model => {
                    let message = "all lines of a batch ask the same model; this one asks another than the first";
                    return Err(LineError::new("mismatched_model", "model", message));
                }
                Some(_) => {}
            }
            Ok(())
        });
        if let Err(error) = outcome {
            all.errors.push(error.listed(line.index));
            if all.errors.len() >= ERRORS_MAX {
                break;
            }
        }
    }
    if all.total == 0 {
        let message = "the file has no lines; each is a request such as {\"custom_id\": \"1\", \"method\": \"POST\", \"url\": ..., \"body\": {...}}";
        all.errors.push(BatchError { code: "empty_file".into(), message: message.into(), param: None, line: None });
    }
    Ok(all)
}

/// Why a line has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Expired,
    Cancelled,
    Failed,
}

/// The result of a line that was answered, with success or an error. `body` is JSON.
pub(crate) fn answered(form: Form, custom_id: &str, (status, request_id): (u16, &str), body: &str) -> String {
    let custom_id = Value::from(custom_id);
    match form {
        Form::OpenAi => {
            let (id, request_id) = (fresh_id("batch_req_"), Value::from(request_id));
            format!(
                "{{\"id\":\"{id}\",\"custom_id\":{custom_id},\"response\":{{\"status_code\":{status},\"request_id\":{request_id},\"body\":{body}}},\"error\":null}}"
            )
        }
        Form::Anthropic if status == 200 => {
            format!("{{\"custom_id\":{custom_id},\"result\":{{\"type\":\"succeeded\",\"message\":{body}}}}}")
        }
        Form::Anthropic => {
            format!("{{\"custom_id\":{custom_id},\"result\":{{\"type\":\"errored\",\"error\":{body}}}}}")
        }
    }
}

/// The result of a line that could not be answered.
pub(crate) fn failed(form: Form, custom_id: &str, error: &ApiError) -> String {
    match form {
        Form::OpenAi => unanswered(custom_id, error.code, &error.message),
        Form::Anthropic => {
            let body = error.json(Dialect::Anthropic, None).to_string();
            answered(form, custom_id, (error.status.as_u16(), ""), &body)
        }
    }
}

fn unanswered(custom_id: &str, code: &str, message: &str) -> String {
    let error = json!({"code": code, "message": message});
    json!({"id": fresh_id("batch_req_"), "custom_id": custom_id, "response": null, "error": error}).to_string()
}

/// The result of a line that was left.
pub(crate) fn left(form: Form, custom_id: &str, why: Left) -> String {
    let (code, kind, message) = match why {
        Left::Expired => ("batch_expired", "expired", "the time of the batch was over before this line was answered"),
        Left::Cancelled => ("batch_cancelled", "canceled", "the batch was cancelled before this line was answered"),
        Left::Failed => ("batch_failed", "errored", "the batch failed before this line was answered"),
    };
    match form {
        Form::OpenAi => unanswered(custom_id, code, message),
        Form::Anthropic if why == Left::Failed => failed(form, custom_id, &ApiError::bad(code, message)),
        Form::Anthropic => json!({"custom_id": custom_id, "result": {"type": kind}}).to_string(),
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        use axum::http::StatusCode;
        let (status, code) = match &error {
            StoreError::Unknown { .. } => (StatusCode::NOT_FOUND, "not_found"),
            StoreError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "file_too_large"),
            StoreError::NoRoom { .. } | StoreError::DiskFull { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "storage_full"),
            StoreError::Many { .. } => (StatusCode::CONFLICT, "too_many"),
            StoreError::State { .. } => (StatusCode::CONFLICT, "batch_state"),
            StoreError::Locked(_) | StoreError::Damaged { .. } | StoreError::Disk { .. } => {
                // What it says names places on this machine.
                tracing::error!(target: "farthing", %error, "batches cannot be read or written");
                return ApiError::fault("what the server keeps of batches cannot be read or written at present");
            }
        };
        ApiError::new(status, code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(custom_id: &str, body: Value) -> String {
        json!({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}).to_string()
    }

    fn looked_at(text: &str) -> Vec<(String, Option<usize>)> {
        let known = |model: Option<&str>| match model {
            None | Some("m") => Ok(()),
            Some(other) => Err(format!("model is {other:?}; it must be m")),
        };
        let all = validate(Lines::over(text.as_bytes()), LineEndpoint::Chat, known).unwrap();
        all.errors.into_iter().map(|error| (error.code, error.line)).collect()
    }

    #[test]
    fn every_line_is_looked_at_and_told_by_its_number() {
        let good = chat("a", json!({"model": "m"}));
        assert_eq!(looked_at(&good), []);
        let expected = |code: &str, line| vec![(code.to_string(), Some(line))];
        for (line, code) in [
            ("{".to_string(), "invalid_json_line"),
            ("[]".to_string(), "invalid_json_line"),
            (good.replace("\"b\"", "").replacen('{', "{\"url\":1,", 1), "invalid_json_line"),
            (chat("", json!({"model": "m"})), "invalid_custom_id"),
            (chat(&"x".repeat(513), json!({"model": "m"})), "invalid_custom_id"),
            (good.replace("custom_id", "id"), "missing_required_parameter"),
            (good.replace("\"a\"", "1"), "invalid_value"),
            (chat("a", json!({"model": "m"})), "duplicate_custom_id"),
            (chat("b", json!({"model": "m"})).replace("POST", "GET"), "invalid_method"),
            (chat("b", json!({"model": "m"})).replace("chat/", ""), "mismatched_url"),
            (chat("b", json!({"model": "n"})), "mismatched_model"),
            (chat("b", json!({})), "mismatched_model"),
            (chat("b", json!({"model": 1})), "invalid_value"),
            (chat("b", json!({"model": "m", "stream": true})), "stream_unsupported"),
            (chat("b", json!([])), "invalid_value"),
            (chat("b", Value::Null), "missing_required_parameter"),
            ("x".repeat(LINE_BYTES_MAX + 1), "line_too_long"),
        ] {
            assert_eq!(looked_at(&format!("{good}\n\n{line}\n")), expected(code, 3), "{line:.100}");
        }
        assert_eq!(looked_at(&chat("a", json!({"model": "n"}))), expected("model_not_found", 1));
        assert_eq!(looked_at("\n \n"), [("empty_file".to_string(), None)]);
        assert_eq!(looked_at(&"{\n".repeat(1000)).len(), ERRORS_MAX);
        let long = "x".repeat(1 << 20);
        let twice = format!("{{\"{long}\": 1, \"{long}\": 1}}");
        let all = validate(Lines::over(twice.as_bytes()), LineEndpoint::Chat, |_| Ok(())).unwrap();
        assert!(all.errors[0].message.len() <= SHOWN_MAX && all.errors[0].param.as_ref().unwrap().len() <= SHOWN_MAX);
    }

    #[test]
    fn as_many_lines_as_there_may_be() {
        let lines = |count: usize| (0..count).map(|n| chat(&n.to_string(), json!({})) + "\n").collect::<String>();
        assert_eq!(looked_at(&lines(LINES_MAX)), []);
        assert_eq!(looked_at(&lines(LINES_MAX + 1)), [("too_many_tasks".to_string(), None)]);
    }

    #[test]
    fn results_are_json_in_the_form_of_their_clients() {
        let parsed = |line: String| serde_json::from_str::<Value>(&line).unwrap();
        let name = "a \"b\"\n\u{7f}";
        let openai = parsed(answered(Form::OpenAi, name, (200, "r"), "{\"x\": 1}"));
        assert_eq!((&openai["custom_id"], &openai["error"]), (&json!(name), &Value::Null));
        assert_eq!(openai["response"], json!({"status_code": 200, "request_id": "r", "body": {"x": 1}}));
        let theirs = parsed(answered(Form::Anthropic, name, (200, "r"), "{}"));
        assert_eq!(theirs, json!({"custom_id": name, "result": {"type": "succeeded", "message": {}}}));
        let error = ApiError::bad("c", "said");
        assert_eq!(parsed(failed(Form::OpenAi, name, &error))["error"], json!({"code": "c", "message": "said"}));
        let theirs = parsed(failed(Form::Anthropic, name, &error));
        assert_eq!(theirs["result"]["error"]["error"]["type"], "invalid_request_error");
        for (why, code, kind) in [
            (Left::Expired, "batch_expired", "expired"),
            (Left::Cancelled, "batch_cancelled", "canceled"),
            (Left::Failed, "batch_failed", "errored"),
        ] {
            assert_eq!(parsed(left(Form::OpenAi, name, why))["error"]["code"], code);
            assert_eq!(parsed(left(Form::Anthropic, name, why))["result"]["type"], kind);
        }
    }
}
