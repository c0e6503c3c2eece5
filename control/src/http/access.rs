//! Who may use what: bearer tokens, and the origins of pages.

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Uri, header};
use subtle::ConstantTimeEq;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use url::Url;

use super::AppState;
use crate::config::{Config, Secret};
use crate::error::Error;

/// Extracted by handlers that want the API's token, where one is configured, and
/// no page of a foreign origin. CORS alone would only keep the answer from such a
/// page: what a simple request asks for would be done.
#[derive(Debug)]
pub(super) struct ApiAccess;

impl FromRequestParts<AppState> for ApiAccess {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Error> {
        check_origin(&state.config, &parts.uri, &parts.headers)?;
        match &state.config.api_token {
            Some(token) if !has_token(&parts.headers, token) => Err(Error::Unauthorized),
            _ => Ok(ApiAccess),
        }
    }
}

/// Whether the request carries the token, compared in constant time.
pub(super) fn has_token(headers: &HeaderMap, token: &Secret) -> bool {
    let value = headers.get(header::AUTHORIZATION);
    let value = value.map(|value| value.as_bytes()).unwrap_or_default();
    let Some((scheme, given)) = value.split_at_checked("Bearer ".len()) else {
        return false;
    };
    scheme.eq_ignore_ascii_case(b"Bearer ")
        && bool::from(given.trim_ascii().ct_eq(token.expose().as_bytes()))
}

/// CORS of the public paths.
pub(super) fn cors(config: &Config) -> CorsLayer {
    // `*` for headers would not cover Authorization (Fetch standard, CORS).
    let cors = CorsLayer::permissive().allow_headers(AllowHeaders::mirror_request());
    let Some(origins) = &config.cors_origins else {
        return cors;
    };
    let values = origins.iter().map(|it| HeaderValue::try_from(it.as_str()));
    cors.allow_origin(AllowOrigin::list(values.filter_map(Result::ok)))
}

/// Errors when the request comes from a page that may not use the signaling.
/// The server's own page may, and so may what is no page and has no origin.
///
/// # Errors
/// [`Error::ForeignOrigin`].
pub(super) fn check_origin(config: &Config, uri: &Uri, headers: &HeaderMap) -> Result<(), Error> {
    let (Some(allowed), Some(origin)) = (&config.cors_origins, headers.get(header::ORIGIN)) else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or_default();
    let scheme = if config.https_enabled {
        "https"
    } else {
        "http"
    };
    let own = |scheme| own_origin(scheme, uri, headers);
    // Behind a proxy that adds TLS, its pages are https all the same.
    let own = || {
        [scheme, "https"]
            .iter()
            .any(|it| own(it).as_deref() == Some(origin))
    };
    if allowed.iter().any(|it| it == origin) || own() {
        return Ok(());
    }
    Err(Error::ForeignOrigin)
}

/// The origin of pages that come from the host that the request was sent to.
pub(super) fn own_origin(scheme: &str, uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let header = || headers.get(header::HOST).and_then(|it| it.to_str().ok());
    let host = uri.authority().map(|it| it.as_str()).or_else(header)?;
    let url = Url::parse(&format!("{scheme}://{host}")).ok()?;
    Some(url.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let parse = |(name, value): &(&'static str, &str)| {
            let value = HeaderValue::from_str(value).unwrap();
            (HeaderName::from_static(name), value)
        };
        list.iter().map(parse).collect()
    }

    #[test]
    fn tokens() {
        let token = Secret::new("s3cret");
        let table = [
            ("Bearer s3cret", true),
            ("bearer s3cret", true),
            ("Bearer s3cre", false),
            ("Bearer s3cret2", false),
            ("Bearer ", false),
            ("Bearer", false),
            ("Basic s3cret", false),
            ("s3cret", false),
            ("", false),
        ];
        for (value, allowed) in table {
            let headers = headers(&[("authorization", value)]);
            assert_eq!(has_token(&headers, &token), allowed, "{value}");
        }
        assert!(!has_token(&headers(&[]), &token));
    }

    #[test]
    fn origins() {
        let config = Config {
            cors_origins: Some(vec!["https://app.example".into()]),
            ..Config::default()
        };
        let uri = Uri::from_static("/");
        let table = [
            (Some("https://app.example"), true),
            (None, true),
            // The page of this server.
            (Some("https://sfu.example:4443"), true),
            (Some("http://sfu.example:4443"), false),
            (Some("https://sfu.example"), false),
            (Some("https://app.example:8443"), false),
            (Some("http://app.example"), false),
            (Some("https://app.example.evil.example"), false),
            (Some("https://evil.example"), false),
            (Some("null"), false),
            (Some(""), false),
        ];
        for (origin, allowed) in table {
            let mut headers = headers(&[("host", "sfu.example:4443")]);
            if let Some(origin) = origin {
                headers.insert("origin", origin.parse().unwrap());
            }
            let answer = check_origin(&config, &uri, &headers);
            assert_eq!(answer.is_ok(), allowed, "{origin:?}");
            assert_eq!(check_origin(&Config::default(), &uri, &headers), Ok(()));
        }
        let plain = Config {
            https_enabled: false,
            ..config.clone()
        };
        for own in ["http://sfu.example:4443", "https://sfu.example:4443"] {
            let headers = headers(&[("host", "sfu.example:4443"), ("origin", own)]);
            assert_eq!(check_origin(&plain, &uri, &headers), Ok(()), "{own}");
        }
        let without_host = headers(&[("origin", "null")]);
        assert!(check_origin(&config, &uri, &without_host).is_err());
    }
}
