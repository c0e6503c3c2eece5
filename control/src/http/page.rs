//! The pages, embedded into the executable: the call page `/`, the page about
//! the API `/API`, the admin page `/admin`, and the files they load.
//!
//! `build.rs` builds it from `web/`; where npm was missing, `/` says how to get
//! it instead. Everything the page loads comes from this server, which the
//! content security policy makes sure of.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{self, HeaderMap, HeaderName};
use http::{HeaderValue, StatusCode};

use super::AppState;
use super::admin_access::AdminPageAccess;

/// One embedded file.
#[derive(Debug, Clone, Copy)]
struct Asset {
    /// Path on the server.
    path: &'static str,
    mime: &'static str,
    /// Quoted hash of the content (RFC 9110 section 8.8.3).
    etag: &'static str,
    bytes: &'static [u8],
}

const ASSETS: &[Asset] = include!(concat!(env!("OUT_DIR"), "/page_assets.rs"));

/// What the page may load and do. `wss:` is spelled out because older browsers
/// do not count it as `'self'`.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self' wss:; media-src 'self' blob: mediastream:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// Headers of every answer. The files keep their names when they change, so a
/// browser asks each time, and mostly hears 304.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(CONTENT_SECURITY_POLICY),
    ),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    // The address names the room.
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static("camera=(self), microphone=(self)"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

/// Where the admin page and its files are.
const ADMIN: &str = "/admin";

/// Routes of the pages and the files they load, for GET and HEAD; without the
/// admin page.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let public = ASSETS.iter().filter(|it| !it.path.starts_with(ADMIN));
    public.fold(Router::new(), |router, asset| {
        router.route(
            asset.path,
            get(move |request: HeaderMap| async move { serve(asset, &request) }),
        )
    })
}

/// Routes of the admin page. There is no secret in it; it asks for the token
/// itself. Where there is none, it is for whom the admin paths answer.
pub(super) fn admin_routes() -> Router<AppState> {
    let admin = ASSETS.iter().filter(|it| it.path.starts_with(ADMIN));
    admin.fold(Router::new(), |router, asset| {
        let serve =
            move |_: AdminPageAccess, request: HeaderMap| async move { serve(asset, &request) };
        router.route(asset.path, get(serve))
    })
}

fn serve(asset: &'static Asset, request: &HeaderMap) -> Response {
    let etag = (header::ETAG, HeaderValue::from_static(asset.etag));
    let mut response = if matches_etag(request, asset.etag) {
        (StatusCode::NOT_MODIFIED, [etag]).into_response()
    } else {
        let mime = (header::CONTENT_TYPE, HeaderValue::from_static(asset.mime));
        ([etag, mime], asset.bytes).into_response()
    };
    response.headers_mut().extend(HEADERS);
    response
}

/// Whether If-None-Match names `etag` (RFC 9110 section 13.1.2, weak comparison).
fn matches_etag(request: &HeaderMap, etag: &str) -> bool {
    request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use http::Request;
    use tower::ServiceExt;

    async fn fetch(method: &str, path: &str, if_none_match: Option<&str>) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(tag) = if_none_match {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let request = request.body(Body::empty()).unwrap();
        routes::<()>().oneshot(request).await.unwrap()
    }

    async fn body(response: Response) -> String {
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// The values of `href="…"` and `src="…"` that are files of this server.
    fn linked_files(html: &str) -> Vec<String> {
        let value = |part: &str| part.split('"').next().unwrap().to_owned();
        ["href=\"", "src=\""]
            .iter()
            .flat_map(|attribute| html.split(attribute).skip(1).map(value))
            .filter(|link| !link.starts_with('#'))
            .collect()
    }

    #[tokio::test]
    async fn the_pages_and_all_they_link_are_served() {
        for (page, style) in [("/?room=a&name=b", "style.css"), ("/API", "API/api.css")] {
            let page = fetch("GET", page, None).await;
            assert_eq!(page.status(), StatusCode::OK);
            let mime = &page.headers()[header::CONTENT_TYPE];
            assert_eq!(mime, "text/html; charset=utf-8");
            let html = body(page).await;
            let links = linked_files(&html);
            assert!(links.contains(&style.to_owned()), "links: {links:?}");
            // The document is no file.
            let files = links.iter().filter(|it| !it.ends_with("openapi.json"));
            for link in files {
                let file = fetch("GET", &format!("/{link}"), None).await;
                assert_eq!(file.status(), StatusCode::OK, "{link}");
                assert!(!body(file).await.is_empty(), "{link}");
            }
        }
    }

    #[tokio::test]
    async fn every_answer_carries_the_security_headers() {
        for asset in ASSETS.iter().filter(|it| !it.path.starts_with(ADMIN)) {
            let response = fetch("GET", asset.path, None).await;
            let headers = response.headers();
            assert_eq!(headers[header::CONTENT_TYPE], asset.mime);
            for (name, value) in HEADERS {
                assert_eq!(headers[&name], value, "{} of {}", name, asset.path);
            }
        }
    }

    #[tokio::test]
    async fn nothing_inline_that_the_policy_would_block() {
        for page in ["/", "/API"] {
            let html = body(fetch("GET", page, None).await).await;
            for inline in [
                "<style",
                " style=",
                "<script>",
                " onclick=",
                "http://",
                "https://",
            ] {
                assert!(!html.contains(inline), "{inline} in {page}");
            }
        }
    }

    #[tokio::test]
    async fn an_unchanged_file_is_not_sent_again() {
        let first = fetch("GET", "/style.css", None).await;
        let etag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
        for tag in [etag.clone(), format!("\"other\", W/{etag}"), "*".to_owned()] {
            let again = fetch("GET", "/style.css", Some(&tag)).await;
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{tag}");
            assert_eq!(again.headers()[header::ETAG], etag.as_str());
            assert_eq!(body(again).await, "");
        }
        let changed = fetch("GET", "/style.css", Some("\"other\"")).await;
        assert_eq!(changed.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn only_reading_is_allowed() {
        assert_eq!(fetch("HEAD", "/", None).await.status(), StatusCode::OK);
        let post = fetch("POST", "/", None).await;
        assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
