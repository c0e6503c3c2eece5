//! What holds whatever requests say of where they come from, and of what they are for.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use ipnet::IpNet;
use url::Url;

use super::forwarded::{client, forwarded_host, is_trusted};
use super::ws_url::PublicAddress;
use crate::rooms::RoomId;

/// Reads lines: who a proxy says that the client is, the host that it says was asked for,
/// the host that the request names, and the room.
///
/// # Panics
/// When a client is believed whom no proxy vouches for, or when a URL is made that is none.
pub(crate) fn headers(input: &[u8]) {
    let mut lines = input.split(|octet| *octet == b'\n');
    let mut headers = HeaderMap::new();
    for name in ["x-forwarded-for", "x-forwarded-host", "host"] {
        let line = lines.next().unwrap_or_default();
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    let room = lines.next().unwrap_or_default();
    let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let remote = SocketAddr::from(([10, 0, 0, 1], 99));
    let client = client(remote, &headers, &trusted);
    // Who is no proxy has been named last by those that are.
    if !is_trusted(client.ip(), &trusted) {
        let said = headers.get("x-forwarded-for").unwrap();
        let text = String::from_utf8_lossy(said.as_bytes()).into_owned();
        assert!(!text.trim().is_empty());
    }
    if let Some(host) = forwarded_host(&headers) {
        assert!(!host.is_empty() && !host.as_bytes().contains(&b','));
        headers.insert(header::HOST, host);
    }
    let Ok(address) = PublicAddress::of(None, 443, &Uri::from_static("/"), &headers) else {
        return;
    };
    if let Ok(room) = RoomId::parse(&String::from_utf8_lossy(room)) {
        let url = Url::parse(&address.room_url(&room)).unwrap();
        assert_eq!(url.scheme(), "wss");
        assert!(url.has_host() && url.username().is_empty() && url.fragment().is_none());
        let (_, value) = url.query_pairs().next().unwrap();
        assert_eq!(
            (value.as_ref(), url.query_pairs().count()),
            (room.as_str(), 1)
        );
    }
}
