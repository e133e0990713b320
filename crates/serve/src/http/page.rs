//! The page for browsers: the bundle of `crates/serve/page/dist`, with the headers that keep it to itself.
//!
//! Its files hold no secret and need no key; what it asks for goes through the API, with the key that its user gives.

use std::io::Write;
use std::sync::{Arc, LazyLock};

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::error::{ApiError, refused};
use crate::state::AppState;

/// What the page may do: run and ask for what this server has, and nothing else. Text becomes elements through DOMPurify only.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'; \
                      require-trusted-types-for 'script'; trusted-types dompurify";

const HEADERS: [(HeaderName, &str); 8] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=(), usb=(), clipboard-write=(self)",
    ),
    (header::VARY, "accept, accept-encoding"),
];

/// A file of the page.
struct File {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
    gzip: Bytes,
    /// In quotes, of what it holds.
    tag: String,
}

impl File {
    fn new(name: &'static str, kind: &'static str, bytes: &'static [u8]) -> File {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let gzip = encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("a vector takes all bytes");
        let digest = Sha256::digest(bytes);
        let hash: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        File { name, kind, bytes, gzip: gzip.into(), tag: format!("\"{hash}\"") }
    }

    /// Whether an address ends with the hash of this file: what it leads to stays the same for good.
    fn is_pinned(&self, query: Option<&str>) -> bool {
        query.is_some_and(|query| query == self.tag.trim_matches('"'))
    }
}

const INDEX: &str = "index.html";

/// Compressed once, when a browser first comes.
static FILES: LazyLock<[File; 5]> = LazyLock::new(|| {
    [
        File::new(INDEX, "text/html; charset=utf-8", include_bytes!("../../page/dist/index.html")),
        File::new("app.js", "text/javascript; charset=utf-8", include_bytes!("../../page/dist/app.js")),
        File::new("app.css", "text/css; charset=utf-8", include_bytes!("../../page/dist/app.css")),
        File::new("icon.svg", "image/svg+xml", include_bytes!("../../page/dist/icon.svg")),
        File::new("licences.txt", "text/plain; charset=utf-8", include_bytes!("../../page/dist/licences.txt")),
    ]
});

/// Whether a request is a browser's for a page.
pub(crate) fn is_wanted(state: &AppState, headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    state.admission.access.page && kinds.any(|kinds| kinds.to_ascii_lowercase().contains("text/html"))
}

/// The page itself.
pub(crate) fn index(head: &Parts) -> Response {
    respond(&FILES[0], head)
}

/// `GET /page/{file}`: what the page is made of.
pub(crate) async fn file(
    State(state): State<Arc<AppState>>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let name = name.map_or_else(|_| String::new(), |Path(name)| name);
    match FILES.iter().find(|file| file.name == name && file.name != INDEX && state.admission.access.page) {
        Some(file) => respond(file, &head),
        None => {
            let name: String = name.chars().take(100).collect();
            let message = format!("the page has no file {name:?}; it is at /");
            refused(ApiError::new(StatusCode::NOT_FOUND, "not_found", message), &head)
        }
    }
}

fn respond(file: &File, head: &Parts) -> Response {
    let given = |name| head.headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let mut known = given(header::IF_NONE_MATCH).flat_map(|tags| tags.split(','));
    let is_known = |tag: &str| tag.trim().trim_start_matches("W/") == file.tag;
    let cached = if file.is_pinned(head.uri.query()) { "public, max-age=31536000, immutable" } else { "no-cache" };
    let zipped = given(header::ACCEPT_ENCODING).any(takes_gzip);
    let mut response = if known.any(is_known) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if zipped {
        ([(header::CONTENT_ENCODING, "gzip")], file.gzip.clone()).into_response()
    } else {
        file.bytes.into_response()
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cached));
    headers.insert(header::ETAG, HeaderValue::from_str(&file.tag).expect("digits in quotes"));
    response
}

/// Whether gzip is among codings that are accepted (RFC 9110, section 12.5.3).
fn takes_gzip(codings: &str) -> bool {
    codings.split(',').any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let none = weight.trim().strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()) == Some(0.0);
        ["gzip", "x-gzip", "*"].iter().any(|known| name.trim().eq_ignore_ascii_case(known)) && !none
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use axum::Router;
    use axum::body::Body;
    use flate2::read::GzDecoder;
    use tower::ServiceExt;

    use super::*;
    use crate::generation::model_pool::{ModelDescription, ModelFiles, ModelPool};
    use crate::http::admission::Access;
    use crate::http::api_keys::ApiKeys;
    use crate::http::hosts::Hosts;
    use crate::http::middleware::layered;
    use crate::http::routes::router;
    use crate::state::ServerLimits;

    /// A server with a key, and names of this machine only.
    fn app(page: bool) -> Router {
        let keys = ApiKeys::new(&["k".to_string()], false).unwrap();
        let access = Access { keys, hosts: Hosts::new(&[], true), page, ..Access::default() };
        let description = ModelDescription {
            name: "m".to_string(),
            aliases: Vec::new(),
            files: ModelFiles::default(),
            bytes: 1,
            context: 1,
            capability: "completion",
            created: 0,
        };
        let models = ModelPool::new(vec![description], None, false, Box::new(|_| Err("none".to_string())));
        let state = AppState::new(ServerLimits::default(), access, models, None, None);
        layered(router(Arc::clone(&state)), &state)
    }

    async fn ask(app: &Router, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Vec<u8>) {
        let host = headers.iter().find(|(name, _)| *name == "host").map_or("localhost", |(_, host)| host);
        let builder = Request::builder().uri(path).header("host", host);
        let others = headers.iter().filter(|(name, _)| *name != "host");
        let request = others.fold(builder, |r, (name, value)| r.header(*name, *value)).body(Body::empty()).unwrap();
        let (head, body) = app.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = axum::body::to_bytes(body, 4 << 20).await.unwrap();
        (head.status.as_u16(), head.headers, bytes.to_vec())
    }

    const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");

    #[tokio::test]
    async fn a_browser_gets_the_page_and_a_program_a_text() {
        let app = app(true);
        let (status, headers, body) = ask(&app, "/", &[BROWSER]).await;
        assert_eq!((status, headers["content-type"].as_bytes()), (200, &b"text/html; charset=utf-8"[..]));
        assert!(String::from_utf8(body).unwrap().contains("/page/app.js?"));
        for accept in ["*/*", "application/json"] {
            let (status, headers, body) = ask(&app, "/", &[("accept", accept)]).await;
            assert!(status == 200 && headers["content-type"].to_str().unwrap().starts_with("text/plain"), "{accept}");
            assert!(String::from_utf8(body).unwrap().contains("is running"), "{accept}");
        }
        let without = self::app(false);
        assert!(String::from_utf8(ask(&without, "/", &[BROWSER]).await.2).unwrap().contains("is running"));
        assert_eq!(ask(&without, "/page/app.js", &[]).await.0, 404);
    }

    /// Only its files are open; what is behind the API is not, and another name is refused.
    #[tokio::test]
    async fn the_page_needs_no_key_and_opens_nothing_else() {
        let app = app(true);
        for file in FILES.iter().filter(|file| file.name != INDEX) {
            assert_eq!(ask(&app, &format!("/page/{}", file.name), &[]).await.0, 200, "{}", file.name);
        }
        for (path, status) in [("/page/index.html", 404), ("/page/nothing", 404), ("/page/..%2fetc%2fpasswd", 404)] {
            assert_eq!(ask(&app, path, &[]).await.0, status, "{path}");
        }
        for path in ["/page", "/page/", "/page/a/b", "/pages/app.js", "/v1/models", "/metrics"] {
            assert_eq!(ask(&app, path, &[BROWSER]).await.0, 401, "{path}");
        }
        for path in ["/", "/page/app.js"] {
            assert_eq!(ask(&app, path, &[BROWSER, ("host", "evil.example")]).await.0, 421, "{path}");
        }
    }

    /// Scripts and styles of this server only, no frames, nothing that is guessed, nothing that is told to others.
    #[tokio::test]
    async fn the_page_is_kept_to_itself() {
        let app = app(true);
        for path in ["/", "/page/app.js", "/page/icon.svg", "/page/licences.txt"] {
            let (_, headers, _) = ask(&app, path, &[BROWSER]).await;
            let policy = headers["content-security-policy"].to_str().unwrap();
            assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'), "{policy}");
            for rule in [
                "default-src 'none'",
                "script-src 'self'",
                "style-src 'self'",
                "connect-src 'self'",
                "img-src 'self'",
                "frame-ancestors 'none'",
                "base-uri 'none'",
                "form-action 'none'",
                "require-trusted-types-for 'script'",
            ] {
                assert!(policy.split("; ").any(|one| one == rule), "{path}: {rule}: {policy}");
            }
            for (name, value) in [
                ("x-content-type-options", "nosniff"),
                ("x-frame-options", "DENY"),
                ("referrer-policy", "no-referrer"),
                ("cross-origin-opener-policy", "same-origin"),
            ] {
                assert_eq!(headers[name], value, "{path}");
            }
        }
    }

    #[tokio::test]
    async fn files_are_compressed_and_kept_by_browsers() {
        let app = app(true);
        let plain = ask(&app, "/page/app.js", &[]).await;
        let (_, headers, zipped) = ask(&app, "/page/app.js", &[("accept-encoding", "br, gzip;q=0.5")]).await;
        assert_eq!((plain.1.get("content-encoding"), headers["content-encoding"].as_bytes()), (None, &b"gzip"[..]));
        let mut unzipped = Vec::new();
        GzDecoder::new(&zipped[..]).read_to_end(&mut unzipped).unwrap();
        assert!(unzipped == plain.2 && zipped.len() * 2 < plain.2.len());
        for none in ["gzip;q=0", "br", "identity"] {
            let (_, headers, _) = ask(&app, "/page/app.js", &[("accept-encoding", none)]).await;
            assert!(!headers.contains_key("content-encoding"), "{none}");
        }
        let tag = headers["etag"].to_str().unwrap();
        assert_eq!(ask(&app, "/page/app.js", &[("if-none-match", tag)]).await.0, 304);
        assert_eq!(ask(&app, "/page/app.js", &[("if-none-match", "\"0\"")]).await.0, 200);
        // The page names its files by their hashes, and is itself asked for anew.
        let page = String::from_utf8(ask(&app, "/", &[BROWSER]).await.2).unwrap();
        for name in ["app.js", "app.css", "icon.svg"] {
            let address = page.split('"').find(|part| part.starts_with(&format!("/page/{name}?"))).unwrap();
            let (status, headers, _) = ask(&app, address, &[]).await;
            assert!(status == 200 && headers["cache-control"].to_str().unwrap().contains("immutable"), "{address}");
        }
        for path in ["/", "/page/app.js", "/page/app.js?0"] {
            assert_eq!(ask(&app, path, &[BROWSER]).await.1["cache-control"], "no-cache", "{path}");
        }
    }

    /// A first visit loads little, and nothing in it leads elsewhere.
    #[test]
    fn the_page_is_light_and_whole() {
        let bytes: usize = FILES.iter().map(|file| file.gzip.len()).sum();
        assert!(bytes < 400 << 10, "{bytes}");
        let page = std::str::from_utf8(FILES[0].bytes).unwrap();
        assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("<style"), "{page}");
        assert!(!page.contains("<script>") && !page.contains("style=") && !page.contains("onload"), "{page}");
        let licences = std::str::from_utf8(FILES[4].bytes).unwrap();
        for package in ["dompurify", "highlight.js", "marked", "preact", "temml", "uplot"] {
            assert!(licences.contains(&format!("\n{package} ")), "{package}");
        }
    }
}
