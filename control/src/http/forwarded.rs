//! What proxies in front say about a request (`X-Forwarded-For` and
//! `X-Forwarded-Host`), believed from those that the operator trusts alone:
//! everybody else could claim to be anybody.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The other end of the socket that a request came over, whomever it stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neighbor(pub SocketAddr);

/// Puts the client's address and the host that it asked for in place of those
/// of a trusted proxy. The headers stay, and the proxy is the [`Neighbor`], so
/// that a request through one is still told from one of this machine itself.
pub(super) async fn believe_proxies(
    State(trusted): State<Arc<[IpNet]>>,
    mut request: Request,
    next: Next,
) -> Response {
    let trusted = trusted.as_ref();
    let remote = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let Some(&ConnectInfo(remote)) = remote else {
        return next.run(request).await;
    };
    request.extensions_mut().insert(Neighbor(remote));
    if is_trusted(remote.ip(), trusted) {
        let client = client(remote, request.headers(), trusted);
        request.extensions_mut().insert(ConnectInfo(client));
        if let Some(host) = forwarded_host(request.headers()) {
            request.headers_mut().insert(header::HOST, host);
            // A whole URL in the request line would win over the header.
            if let Some(path) = request.uri().path_and_query().cloned() {
                *request.uri_mut() = Uri::from(path);
            }
        }
    }
    next.run(request).await
}

/// Whether this is the address of a trusted proxy.
pub(super) fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|net| net.contains(&address))
}

/// The client's address: each proxy has added the one that it was reached
/// from, so from the end on, the first that is no trusted proxy's. An entry
/// that is no address ends the way; what was there before could be made up.
pub(super) fn client(remote: SocketAddr, headers: &HeaderMap, trusted: &[IpNet]) -> SocketAddr {
    let mut client = remote;
    let values = headers.get_all(FORWARDED_FOR);
    let entries: Vec<&[u8]> = values
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .collect();
    for entry in entries.into_iter().rev() {
        let Some(address) = address(entry) else {
            break;
        };
        client = address;
        if !is_trusted(client.ip(), trusted) {
            break;
        }
    }
    client
}

/// An entry of `X-Forwarded-For`: an address, some proxies add the port. Port 0
/// where there is none.
fn address(entry: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim();
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let ip: IpAddr = bare.unwrap_or(text).parse().ok()?;
    Some(SocketAddr::new(ip, 0))
}

/// The host that the client asked the proxy for: the last one, for that is
/// from the proxy nearest to us.
pub(super) fn forwarded_host(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get_all(FORWARDED_HOST).iter().next_back()?;
    let last = value.as_bytes().rsplit(|byte| *byte == b',').next()?;
    HeaderValue::from_bytes(last.trim_ascii())
        .ok()
        .filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::{Router, middleware};
    use tower::ServiceExt;

    use super::*;

    fn headers(name: HeaderName, values: &[&str]) -> HeaderMap {
        let pairs = values
            .iter()
            .map(|value| (name.clone(), HeaderValue::from_str(value).unwrap()));
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn the_client_is_the_first_from_the_end_that_is_no_proxy() {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"]
            .iter()
            .map(|net| net.parse().unwrap())
            .collect();
        let table: [(&[&str], &str); 13] = [
            (&[], "10.0.0.1:99"),
            (&["192.0.2.1"], "192.0.2.1:0"),
            (&["192.0.2.1:77"], "192.0.2.1:77"),
            (&["2001:db8::1"], "[2001:db8::1]:0"),
            (&["[2001:db8::1]"], "[2001:db8::1]:0"),
            (&["[2001:db8::1]:77"], "[2001:db8::1]:77"),
            // Behind two proxies.
            (&["192.0.2.1, 10.2.2.2"], "192.0.2.1:0"),
            (&["192.0.2.1,fd00::5 ", "10.2.2.2"], "192.0.2.1:0"),
            // What the client itself sent is not believed.
            (&["127.0.0.1, 192.0.2.1, 10.2.2.2"], "192.0.2.1:0"),
            (&["127.0.0.1", "192.0.2.1"], "192.0.2.1:0"),
            // All of them proxies: the farthest.
            (&["10.3.3.3, 10.2.2.2"], "10.3.3.3:0"),
            (&["unknown"], "10.0.0.1:99"),
            (&["192.0.2.1, unknown, 10.2.2.2"], "10.2.2.2:0"),
        ];
        let remote: SocketAddr = "10.0.0.1:99".parse().unwrap();
        for (values, want) in table {
            let headers = headers(FORWARDED_FOR, values);
            let got = client(remote, &headers, &trusted);
            assert_eq!(got.to_string(), want, "{values:?}");
        }
    }

    #[test]
    fn the_host_is_that_of_the_nearest_proxy() {
        let table: [(&[&str], Option<&str>); 6] = [
            (&[], None),
            (&[""], None),
            (&["a.example"], Some("a.example")),
            (&["a.example:8443"], Some("a.example:8443")),
            (&["a.example, b.example"], Some("b.example")),
            (&["a.example", "b.example "], Some("b.example")),
        ];
        for (values, want) in table {
            let got = forwarded_host(&headers(FORWARDED_HOST, values));
            assert_eq!(
                got.as_ref().map(|h| h.to_str().unwrap()),
                want,
                "{values:?}"
            );
        }
    }

    /// What a handler behind [`believe_proxies`] sees: neighbor, client, host, URI.
    async fn seen(remote: &str, trusted: &[&str]) -> String {
        let trusted: Arc<[IpNet]> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        let handler = async |request: Request| {
            let ConnectInfo(client) = request
                .extensions()
                .get::<ConnectInfo<SocketAddr>>()
                .unwrap();
            let Neighbor(neighbor) = request.extensions().get().unwrap();
            let host = request.headers()[header::HOST].to_str().unwrap();
            format!("{neighbor} {client} {host} {}", request.uri())
        };
        let app = Router::new()
            .fallback(handler)
            .layer(middleware::from_fn_with_state(trusted, believe_proxies));
        let request = Request::builder()
            .uri("http://inner.example/rooms?a=b")
            .header("host", "inner.example")
            .header("x-forwarded-for", "192.0.2.1")
            .header("x-forwarded-host", "outer.example")
            .extension(ConnectInfo(remote.parse::<SocketAddr>().unwrap()))
            .body(Body::empty())
            .unwrap();
        let answer = app.oneshot(request).await.unwrap();
        let body = axum::body::to_bytes(answer.into_body(), 1000)
            .await
            .unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn only_trusted_proxies_are_believed() {
        let inner = "inner.example http://inner.example/rooms?a=b";
        for trusted in [&[][..], &["10.0.0.2/32"]] {
            let got = seen("10.0.0.1:99", trusted).await;
            assert_eq!(got, format!("10.0.0.1:99 10.0.0.1:99 {inner}"));
        }
        let got = seen("10.0.0.1:99", &["10.0.0.1/32"]).await;
        assert_eq!(got, "10.0.0.1:99 192.0.2.1:0 outer.example /rooms?a=b");
    }

    #[test]
    fn proxies_are_trusted_by_network() {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        for (address, want) in [
            ("10.9.9.9", true),
            ("11.0.0.0", false),
            ("::ffff:10.0.0.1", true),
            ("::1", true),
            ("::2", false),
        ] {
            let got = is_trusted(address.parse().unwrap(), &trusted);
            assert_eq!(got, want, "{address}");
        }
        assert!(!is_trusted("127.0.0.1".parse().unwrap(), &[]));
    }
}
