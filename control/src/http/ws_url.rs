//! The `wsUrl` that clients are told to connect to.

use http::uri::Authority;
use http::{HeaderMap, Uri, header};
use url::form_urlencoded;

use crate::error::Error;
use crate::rooms::RoomId;

/// Port of https and wss URLs that state none.
const DEFAULT_PORT: u16 = 443;

/// Host and port that clients reach this server by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublicAddress {
    host: String,
    port: u16,
}

impl PublicAddress {
    /// The configured ingress host and client port; with no ingress host, what
    /// the request itself was sent to, so that a local start works as it is.
    ///
    /// # Errors
    /// [`Error::BadField`] when that is neither configured nor usable.
    pub fn of(
        ingress_host: Option<&str>,
        client_port: u16,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Self, Error> {
        if let Some(host) = ingress_host.filter(|host| !host.is_empty()) {
            return Ok(Self {
                host: host.to_owned(),
                port: client_port,
            });
        }
        let header = headers.get(header::HOST).and_then(|it| it.to_str().ok());
        let from_header = || header.and_then(|it| it.parse::<Authority>().ok());
        // A request line with a whole URL wins over the header (RFC 9112 §3.2.2).
        let authority = uri.authority().cloned().or_else(from_header);
        authority
            .and_then(|it| Self::from_authority(&it))
            .ok_or_else(|| Error::field("Host", "header must name a host"))
    }

    fn from_authority(authority: &Authority) -> Option<Self> {
        let host = authority.host();
        // What is neither a name nor an address has no place in a URL that we
        // hand out.
        let parsed = url::Host::parse(host).ok()?;
        // With a login in front of the host, this is no prefix.
        let port = match authority.as_str().strip_prefix(host)? {
            "" | ":" => DEFAULT_PORT,
            port => port.strip_prefix(':')?.parse().ok().filter(|it| *it != 0)?,
        };
        let host = parsed.to_string();
        Some(Self { host, port })
    }

    /// `wss://HOST:PORT?roomId=ID`
    pub fn room_url(&self, room: &RoomId) -> String {
        let room: String = form_urlencoded::byte_serialize(room.as_str().as_bytes()).collect();
        format!("wss://{}:{}?roomId={room}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn url(ingress: Option<&str>, host: Option<&[u8]>) -> Result<String, String> {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(header::HOST, HeaderValue::from_bytes(host).unwrap());
        }
        let room = RoomId::parse("a room").unwrap();
        PublicAddress::of(ingress, 8443, &Uri::from_static("/rooms"), &headers)
            .map(|address| address.room_url(&room))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_configured_host_wins() {
        let expected = "wss://sfu.example:8443?roomId=a+room";
        assert_eq!(url(Some("sfu.example"), Some(b"x:1")).unwrap(), expected);
        assert_eq!(url(Some("sfu.example"), None).unwrap(), expected);
    }

    /// Defect seed 22: never `wss://host:undefined`.
    #[test]
    fn else_the_host_of_the_request() {
        let table: [(&[u8], &str); 7] = [
            (b"localhost:4443", "localhost:4443"),
            (b"localhost", "localhost:443"),
            (b"127.0.0.1:4443", "127.0.0.1:4443"),
            (b"[::1]:4443", "[::1]:4443"),
            (b"[::1]", "[::1]:443"),
            (b"Sfu.Example:443", "sfu.example:443"),
            (b"localhost:", "localhost:443"),
        ];
        for (host, expected) in table {
            let expected = format!("wss://{expected}?roomId=a+room");
            assert_eq!(url(None, Some(host)), Ok(expected));
            assert!(url(Some(""), Some(host)).is_ok());
        }
    }

    #[test]
    fn a_host_that_is_none() {
        let table: [Option<&[u8]>; 9] = [
            None,
            Some(b""),
            Some(b"a b"),
            Some(b"user@host"),
            Some(b"host:99999"),
            Some(b"host:0"),
            Some(b"host:x"),
            Some(b"a/b"),
            Some(b"\xff"),
        ];
        for host in table {
            let error = url(None, host).unwrap_err();
            assert_eq!(error, "Host header must name a host", "{host:?}");
        }
    }

    #[test]
    fn an_absolute_request_line_wins_over_the_header() {
        let uri = Uri::from_static("https://other.example:9/rooms");
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("x"));
        let address = PublicAddress::of(None, 443, &uri, &headers).unwrap();
        assert_eq!((address.host.as_str(), address.port), ("other.example", 9));
    }
}
