//! Who may use the admin paths: the bearer of `ADMIN_TOKEN`, or, where there is
//! none, whoever asks from this machine itself.

use std::net::{IpAddr, SocketAddr};

use axum::Extension;
use axum::extract::{ConnectInfo, FromRequestParts};
use http::request::Parts;
use http::{HeaderMap, Uri, header};
use url::{Host, Url};

use super::AppState;
use super::access::{has_token, own_origin};
use super::forwarded::{Neighbor, is_trusted};
use crate::error::Error;

/// Headers by which a proxy says that a request came from elsewhere; besides
/// those that begin with [`FORWARDED_PREFIX`].
const PROXY_HEADERS: [&str; 3] = ["forwarded", "x-real-ip", "via"];

/// How all others of these begin.
const FORWARDED_PREFIX: &str = "x-forwarded-";

/// Marks requests that came in on `ADMIN_LISTEN`, where no proxy is expected.
#[derive(Debug, Clone, Copy)]
pub(super) struct OnAdminListener;

/// Extracted by handlers that only admins may use.
#[derive(Debug)]
pub(super) struct AdminAccess;

impl FromRequestParts<AppState> for AdminAccess {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Error> {
        check(state, parts).map(|()| AdminAccess)
    }
}

/// Extracted by handlers that tell admins more than others; without the token,
/// where one is configured, it refuses.
#[derive(Debug)]
pub(super) struct IsAdmin(pub bool);

impl FromRequestParts<AppState> for IsAdmin {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Error> {
        match check(state, parts) {
            Ok(()) => Ok(IsAdmin(true)),
            Err(Error::AdminOnly) => Ok(IsAdmin(false)),
            Err(error) => Err(error),
        }
    }
}

/// Errors unless the request is an admin's.
fn check(state: &AppState, parts: &Parts) -> Result<(), Error> {
    match &state.config.admin_token {
        Some(token) if has_token(&parts.headers, token) => Ok(()),
        Some(_) => Err(Error::Unauthorized),
        None if is_of_this_machine(state, parts) => Ok(()),
        None => Err(Error::AdminOnly),
    }
}

/// As [`AdminAccess`], for what is no secret but serves admins alone: with a
/// token configured anybody may load it.
#[derive(Debug)]
pub(super) struct AdminPageAccess;

impl FromRequestParts<AppState> for AdminPageAccess {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Error> {
        match check(state, parts) {
            Err(Error::AdminOnly) => Err(Error::AdminOnly),
            _ => Ok(AdminPageAccess),
        }
    }
}

fn is_of_this_machine(state: &AppState, parts: &Parts) -> bool {
    let config = &state.config;
    let extensions = &parts.extensions;
    // No proxy is believed here.
    let remote = match extensions.get::<Neighbor>() {
        Some(Neighbor(address)) => Some(address),
        None => extensions.get().map(|ConnectInfo(address)| address),
    };
    let Some(remote) = remote.map(SocketAddr::ip) else {
        return false;
    };
    // Where a proxy on this machine is expected, one that adds no header must
    // not open the door.
    let by_proxy = !config.https_enabled || is_trusted(remote, &config.trusted_proxies);
    let direct = extensions.get::<OnAdminListener>().is_some() || !by_proxy;
    direct && is_loopback(remote, &parts.uri, &parts.headers)
}

/// Whether the request comes from this machine itself: not through a proxy,
/// and not from a page of somebody else's in a local browser.
fn is_loopback(remote: IpAddr, uri: &Uri, headers: &HeaderMap) -> bool {
    let by_proxy = |name: &str| PROXY_HEADERS.contains(&name) || name.starts_with(FORWARDED_PREFIX);
    remote.to_canonical().is_loopback()
        && !headers.keys().any(|name| by_proxy(name.as_str()))
        && names_this_machine(uri, headers)
        && is_own_origin(uri, headers)
}

/// Whether the request was sent to an address or to `localhost`. A name of
/// somebody else's can be made to lead here (DNS rebinding), and a page of that
/// name would then count as the server's own.
fn names_this_machine(uri: &Uri, headers: &HeaderMap) -> bool {
    let header = || headers.get(header::HOST).and_then(|it| it.to_str().ok());
    let host = uri.authority().map(|it| it.as_str()).or_else(header);
    let url = host.and_then(|host| Url::parse(&format!("http://{host}")).ok());
    match url.as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
        None => false,
    }
}

/// Whether the request comes from no page, or from one of this server.
fn is_own_origin(uri: &Uri, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let own = |scheme| own_origin(scheme, uri, headers);
    ["https", "http"]
        .into_iter()
        .any(|scheme| own(scheme).is_some_and(|own| origin == own.as_str()))
}

/// The layer that marks what comes in on `ADMIN_LISTEN`.
pub(super) fn mark() -> Extension<OnAdminListener> {
    Extension(OnAdminListener)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const PAGE: (&str, &str) = ("host", "localhost:4443");

    fn local(remote: &str, list: &[(&'static str, &str)]) -> bool {
        let parse = |(name, value): &(&'static str, &str)| {
            let value = HeaderValue::from_str(value).unwrap();
            (HeaderName::from_static(name), value)
        };
        let headers = list.iter().map(parse).collect();
        is_loopback(remote.parse().unwrap(), &Uri::from_static("/"), &headers)
    }

    #[test]
    fn loopback() {
        for remote in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            for name in ["user-agent", "viable", "forwarded-by-me", "x-real-ip-was"] {
                assert!(local(remote, &[PAGE, (name, "x")]), "{name}");
            }
            for name in [
                "forwarded",
                "x-forwarded-for",
                "x-forwarded-proto",
                "x-forwarded-host",
                "x-forwarded-anything",
                "x-real-ip",
                "via",
                "origin",
            ] {
                assert!(!local(remote, &[PAGE, (name, "x")]), "{name}");
            }
        }
        for remote in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"] {
            assert!(!local(remote, &[PAGE]), "{remote}");
        }
    }

    #[test]
    fn pages_of_others_are_not_of_this_machine() {
        for (host, origin, want) in [
            ("localhost:4443", Some("https://localhost:4443"), true),
            ("127.0.0.1:9090", Some("http://127.0.0.1:9090"), true),
            ("[::1]:9090", Some("http://[::1]:9090"), true),
            ("127.0.0.1:9090", Some("http://127.0.0.1:9091"), false),
            ("127.0.0.1:9090", Some("null"), false),
            ("localhost:4443", Some("https://evil.example"), false),
            // Its name leads here.
            ("evil.example", None, false),
            ("evil.example", Some("http://evil.example"), false),
            ("localhost.evil.example", None, false),
            ("127.0.0.1", None, true),
            ("a b", None, false),
            ("", None, false),
        ] {
            let mut list = vec![("host", host)];
            list.extend(origin.map(|origin| ("origin", origin)));
            assert_eq!(local("127.0.0.1", &list), want, "{host} {origin:?}");
        }
        assert!(!local("127.0.0.1", &[]));
    }
}
