//! `/v1/files`: files for batches, uploaded, listed, read and deleted.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use batches::{Content, Purpose, StoredFile, Upload};
use futures_util::stream::unfold;
use multer::{Constraints, Field, Multipart, SizeLimit};
use serde_json::{Value, json};

use crate::error::{ApiError, refused};
use crate::generation::batch_runner::{Batches, owner};
use crate::http::access_log::plain;
use crate::http::api_keys::Account;
use crate::http::connections::Connection;
use crate::http::metering;
use crate::ids::fresh_id;
use crate::state::AppState;
use crate::words::now;

/// Seconds for which files are kept where nothing is said, and as long as may be asked for.
pub(super) const KEPT_SECONDS: u64 = 30 * 86_400;
const KEPT_SECONDS_MIN: u64 = 3600;
/// Bytes of a form around its file, and of one of its texts.
const FORM_BYTES_MAX: u64 = 64 << 10;
const TEXT_BYTES_MAX: usize = 1 << 10;
/// Bytes of a file that are read at once.
const PIECE: usize = 64 << 10;
/// Entries of a list of files at most.
const LISTED_MAX: usize = 10_000;

/// Paths under which files and batches are, of which a key may be for some.
/// Paths of the API that files and batches are at: a key that is for some paths only needs one of these.
pub(crate) const KEPT_PATHS: [&str; 4] =
    ["/v1/files", "/v1/batches", "/v1/messages/batches", "/anthropic/v1/messages/batches"];

/// Files and batches of the server, for a request that may have them.
///
/// # Errors
/// It keeps none, or the key is for other paths.
pub(super) fn kept<'a>(state: &'a AppState, head: &Parts) -> Result<&'a Arc<Batches>, ApiError> {
    let path = head.uri.path();
    metering::check_endpoint(head, KEPT_PATHS.into_iter().find(|base| path.starts_with(base)).unwrap_or(path))?;
    state.batches.as_ref().ok_or_else(|| {
        let message = "this server keeps no files and runs no batches; `--batches` names a directory for them";
        ApiError::new(StatusCode::NOT_FOUND, "batches_off", message)
    })
}

/// Whose files and batches a request means.
pub(super) fn owner_of(head: &Parts) -> String {
    owner(&head.extensions.get().copied().unwrap_or(Account::EVERYBODY))
}

/// The id in a request's path.
pub(super) fn id_in(path: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    path.map(|Path(id)| id).map_err(|_| ApiError::new(StatusCode::NOT_FOUND, "not_found", "the id is not UTF-8"))
}

/// An object, or what is wrong in the form of the path's dialect.
pub(super) fn answered(outcome: Result<Value, ApiError>, head: &Parts) -> Response {
    match outcome {
        Ok(object) => axum::Json(object).into_response(),
        Err(error) => refused(error, head),
    }
}

/// Parameters of a list.
pub(super) struct Listing {
    query: HashMap<String, String>,
    pub limit: usize,
}

impl Listing {
    /// With so many entries where nothing is said, and at most.
    pub fn of(head: &Parts, listed: usize, limit_max: usize) -> Result<Listing, ApiError> {
        let query = Query::<HashMap<String, String>>::try_from_uri(&head.uri).map(|Query(query)| query);
        let query = query.map_err(|_| ApiError::bad("invalid_query", "the query cannot be read"))?;
        let limit = match query.get("limit") {
            None => listed,
            Some(text) => text.parse().ok().filter(|limit| (1..=limit_max).contains(limit)).ok_or_else(|| {
                let message =
                    format!("limit is {:?}; it must be a whole number from 1 to {limit_max}", plain(text, 40));
                ApiError::bad("invalid_value", message).of("limit")
            })?,
        };
        Ok(Listing { query, limit })
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// Of a whole list: what follows the entry that `after` names, or comes before that of `before`, and whether there is more.
    pub fn page<T>(
        &self,
        mut all: Vec<T>,
        id: impl Fn(&T) -> &str,
        names: [&str; 2],
    ) -> Result<(Vec<T>, bool), ApiError> {
        let place = |name: &str, all: &[T]| {
            let Some(wanted) = self.get(name) else { return Ok(None) };
            all.iter().position(|entry| id(entry) == wanted).map(Some).ok_or_else(|| {
                let message = format!("{name} is {:?}; it must be the id of an entry", plain(wanted, 60));
                ApiError::bad("invalid_value", message).of(name)
            })
        };
        if let Some(before) = place(names[1], &all)? {
            all.truncate(before);
            let more = all.len() > self.limit;
            return Ok((all.split_off(all.len().saturating_sub(self.limit)), more));
        }
        if let Some(after) = place(names[0], &all)? {
            all.drain(..=after);
        }
        let more = all.len() > self.limit;
        all.truncate(self.limit);
        Ok((all, more))
    }
}

/// A file in OpenAI's form.
fn described(file: &StoredFile) -> Value {
    json!({
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.name,
        "purpose": word(file.purpose),
        "status": "processed",
        "status_details": null,
    })
}

fn word(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Batch => "batch",
        Purpose::BatchOutput => "batch_output",
    }
}

fn malformed(error: &multer::Error) -> ApiError {
    match error {
        multer::Error::StreamSizeExceeded { limit } => large(*limit),
        multer::Error::FieldSizeExceeded { limit, .. } => large(*limit),
        other => {
            let message = format!("the form cannot be read: {}", plain(&other.to_string(), 200));
            ApiError::bad("form_malformed", message)
        }
    }
}

fn large(limit: u64) -> ApiError {
    let message = format!("the form has more than {limit} bytes; send the file in parts");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "file_too_large", message)
}

/// What a form says beside its file.
#[derive(Default)]
struct Texts {
    purpose: Option<String>,
    anchor: Option<String>,
    seconds: Option<String>,
}

impl Texts {
    /// Where a text of this name goes.
    fn place(&mut self, name: &str) -> Option<&mut Option<String>> {
        match name {
            "purpose" => Some(&mut self.purpose),
            "expires_after[anchor]" => Some(&mut self.anchor),
            "expires_after[seconds]" => Some(&mut self.seconds),
            _ => None,
        }
    }

    /// For how long the file is kept.
    fn check(&self) -> Result<u64, ApiError> {
        match self.purpose.as_deref() {
            Some("batch") => {}
            given => {
                let given = given.map_or("not given".to_string(), |text| format!("{text:?}"));
                let message = format!("purpose is {given}; it must be batch, as files are for batches only");
                return Err(ApiError::bad("invalid_value", message).of("purpose"));
            }
        }
        let seconds = self.seconds.as_ref().map(|text| Value::from(text.as_str()));
        kept_seconds(
            self.anchor.as_deref(),
            seconds.as_ref().and_then(|text| text.as_str()?.parse().ok()),
            seconds.is_some(),
        )
    }
}

/// For how long a file is kept by `expires_after`.
pub(super) fn kept_seconds(anchor: Option<&str>, seconds: Option<u64>, given: bool) -> Result<u64, ApiError> {
    if anchor.is_none() && !given {
        return Ok(KEPT_SECONDS);
    }
    if anchor.is_some_and(|anchor| anchor != "created_at") {
        let message = "expires_after.anchor must be created_at";
        return Err(ApiError::bad("invalid_value", message).of("expires_after.anchor"));
    }
    seconds.filter(|seconds| (KEPT_SECONDS_MIN..=KEPT_SECONDS).contains(seconds)).ok_or_else(|| {
        let message = format!("expires_after.seconds must be a whole number from {KEPT_SECONDS_MIN} to {KEPT_SECONDS}");
        ApiError::bad("invalid_value", message).of("expires_after.seconds")
    })
}

/// Reads a form piece by piece, its file to disk.
async fn receive(state: &AppState, head: &Parts, body: Body) -> Result<StoredFile, ApiError> {
    let batches = kept(state, head)?;
    let kind = head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let boundary = multer::parse_boundary(kind).map_err(|_| {
        let message =
            format!("the content type is {:?}; it must be multipart/form-data with a boundary", plain(kind, 100));
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    })?;
    let size = SizeLimit::new().whole_stream(batches.store.limits().file_bytes.saturating_add(FORM_BYTES_MAX));
    let constraints = Constraints::new().size_limit(size);
    let mut form = Multipart::with_constraints(body.into_data_stream(), boundary, constraints);
    let (id, owner) = (fresh_id("file-"), owner_of(head));
    let (mut texts, mut file): (Texts, Option<(Upload, String)>) = Default::default();
    while let Some(mut field) = in_time(state, form.next_field()).await?.map_err(|e| malformed(&e))? {
        let name = field.name().unwrap_or_default().to_string();
        if name == "file" && file.is_none() {
            let shown = field.file_name().unwrap_or("file").chars().take(255);
            let shown = shown.map(|c| if c.is_control() { '?' } else { c }).collect();
            let (owner, id) = (owner.clone(), id.clone());
            let upload = batches.work(move |store| store.upload(&owner, &id)).await?;
            file = Some((write(state, batches, field, upload).await?, shown));
        } else {
            let text = read_text(state, &mut field, &name).await?;
            if let Some(place) = texts.place(&name) {
                *place = Some(text);
            }
        }
    }
    if let Some(connection) = head.extensions.get::<Arc<Connection>>() {
        connection.received();
    }
    let kept = texts.check()?;
    let (upload, name) = file
        .ok_or_else(|| ApiError::bad("invalid_value", "file is missing; send it as a part of the form").of("file"))?;
    let created = now();
    batches.work(move |_| upload.finish(&id, &name, Purpose::Batch, (created, Some(created + kept)))).await
}

/// Waits for the next piece of a body.
async fn in_time<T>(state: &AppState, next: impl Future<Output = T>) -> Result<T, ApiError> {
    tokio::time::timeout(state.limits.patience, next).await.map_err(|_| {
        let message = format!("no more of the body came within {:?}", state.limits.patience);
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
    })
}

async fn write(
    state: &AppState,
    batches: &Batches,
    mut field: Field<'_>,
    mut upload: Upload,
) -> Result<Upload, ApiError> {
    while let Some(piece) = in_time(state, field.chunk()).await?.map_err(|e| malformed(&e))? {
        let written = move |_: &Arc<batches::Store>| upload.write(&piece).map(|()| upload);
        upload = batches.work(written).await?;
    }
    Ok(upload)
}

async fn read_text(state: &AppState, field: &mut Field<'_>, name: &str) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(piece) = in_time(state, field.chunk()).await?.map_err(|e| malformed(&e))? {
        if bytes.len() + piece.len() > TEXT_BYTES_MAX {
            let message = format!("the part {:?} has more than {TEXT_BYTES_MAX} bytes", plain(name, 60));
            return Err(ApiError::bad("invalid_value", message));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `POST /v1/files`
pub async fn upload(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    answered(receive(&state, &head, body).await.map(|file| described(&file)), &head)
}

/// `GET /v1/files`
pub async fn list(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let outcome = || {
        let (listing, mut files) =
            (Listing::of(&head, LISTED_MAX, LISTED_MAX)?, kept(&state, &head)?.store.files(&owner_of(&head)));
        if let Some(purpose) = listing.get("purpose") {
            files.retain(|file| word(file.purpose) == purpose);
        }
        match listing.get("order") {
            Some("asc") => files.reverse(),
            None | Some("desc") => {}
            Some(other) => {
                let message = format!("order is {:?}; it must be asc or desc", plain(other, 40));
                return Err(ApiError::bad("invalid_value", message).of("order"));
            }
        }
        let (files, more) = listing.page(files, |file| &file.id, ["after", "before"])?;
        let data: Vec<Value> = files.iter().map(described).collect();
        Ok(listed(data, more))
    };
    answered(outcome(), &head)
}

/// A list in the form that OpenAI's and Anthropic's clients read.
pub(super) fn listed(data: Vec<Value>, more: bool) -> Value {
    let id = |entry: Option<&Value>| entry.map(|entry| entry["id"].clone());
    let (first, last) = (id(data.first()), id(data.last()));
    json!({"object": "list", "data": data, "has_more": more, "first_id": first, "last_id": last})
}

/// `GET /v1/files/{file}`
pub async fn one(
    State(state): State<Arc<AppState>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let outcome = || Ok::<_, ApiError>(kept(&state, &head)?.store.file(&owner_of(&head), &id_in(id)?)?);
    answered(outcome().map(|file| described(&file)), &head)
}

/// `DELETE /v1/files/{file}`
pub async fn delete(
    State(state): State<Arc<AppState>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let outcome = async {
        let (id, owner) = (id_in(id)?, owner_of(&head));
        let gone = id.clone();
        kept(&state, &head)?.work(move |store| store.delete_file(&owner, &gone)).await?;
        Ok::<_, ApiError>(json!({"id": id, "object": "file", "deleted": true}))
    };
    answered(outcome.await, &head)
}

/// `GET /v1/files/{file}/content`
pub async fn content(
    State(state): State<Arc<AppState>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let outcome = async {
        let (id, owner) = (id_in(id)?, owner_of(&head));
        kept(&state, &head)?.work(move |store| store.content(&owner, &id)).await
    };
    match outcome.await {
        Ok(content) => streamed(content, "application/octet-stream"),
        Err(error) => refused(error, &head),
    }
}

/// Bytes from disk as a response. A disk that fails in the middle cuts it short, which its length shows.
pub(super) fn streamed(content: Content, kind: &'static str) -> Response {
    let length = content.bytes();
    let pieces = unfold(Some((Arc::new(content), 0)), |state| async {
        let (content, at) = state?;
        let read = Arc::clone(&content);
        let piece = tokio::task::spawn_blocking(move || read.read(at, PIECE)).await;
        let piece = piece.unwrap_or_else(|_| Err(std::io::Error::other("a fault")));
        match piece {
            Ok(piece) if piece.is_empty() => None,
            Ok(piece) => {
                let next = at + piece.len() as u64;
                Some((Ok(Bytes::from(piece)), Some((content, next))))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    let headers = [(header::CONTENT_TYPE, kind.to_string()), (header::CONTENT_LENGTH, length.to_string())];
    (headers, Body::from_stream(pieces)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(uri: &str) -> Result<Listing, ApiError> {
        let (head, _) = Request::builder().uri(uri).body(Body::empty()).unwrap().into_parts();
        Listing::of(&head, 5, 6)
    }

    #[test]
    fn a_list_comes_in_pages_from_either_side() {
        let page = |uri: &str| {
            let all = vec!["a", "b", "c", "d", "e", "f", "g"];
            listing(uri)?.page(all, |id| id, ["after", "before"]).map(|(page, more)| (page.concat(), more))
        };
        for (uri, ids, more) in [
            ("/", "abcde", true),
            ("/?limit=2", "ab", true),
            ("/?limit=2&after=b", "cd", true),
            ("/?limit=2&after=e", "fg", false),
            ("/?after=g", "", false),
            ("/?limit=2&before=d", "bc", true),
            ("/?limit=3&before=%64", "abc", false),
        ] {
            assert_eq!(page(uri), Ok((ids.to_string(), more)), "{uri}");
        }
        for bad in ["/?limit=0", "/?limit=7", "/?limit=x", "/?after=z", "/?before="] {
            assert!(page(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_are_kept_as_long_as_is_said() {
        assert_eq!(kept_seconds(None, None, false), Ok(KEPT_SECONDS));
        assert_eq!(kept_seconds(Some("created_at"), Some(3600), true), Ok(3600));
        for (anchor, seconds) in [(Some("now"), Some(3600)), (None, Some(3599)), (None, None), (None, Some(u64::MAX))] {
            assert!(kept_seconds(anchor, seconds, true).is_err(), "{anchor:?} {seconds:?}");
        }
    }
}
