//! The TURN server in the answer to createWebRtcTransport, in two shapes: the
//! seed's `iceServer` with its six string fields, and the `iceServers` that
//! newer clients hand to their RTCPeerConnection.

use serde_json::{Value, json};

use crate::config::{IceServer, Secret};

/// The seed's `iceServer`: always all six fields, always strings.
pub(super) fn seed_ice_server(server: &IceServer) -> Value {
    let host = host(server);
    let enabled = if host.is_some() { "yes" } else { "no" };
    json!({
        "enableIceServer": enabled,
        "iceServerHost": host.unwrap_or_default(),
        "iceServerProto": server.proto,
        "iceServerPort": server.port.to_string(),
        "iceServerUser": server.user.as_deref().unwrap_or_default(),
        "iceServerPass": server.pass.as_ref().map(Secret::expose).unwrap_or_default(),
    })
}

/// W3C `RTCIceServer`s. Empty without credentials too: browsers throw on a
/// `turn:` URL without them, which would cost the client its transport.
pub(super) fn ice_servers(server: &IceServer) -> Value {
    match (host(server), &server.user, &server.pass) {
        (Some(host), Some(user), Some(pass)) => json!([{
            "urls": [format!("turn:{host}:{}?transport={}", server.port, server.proto)],
            "username": user,
            "credential": pass.expose(),
            "credentialType": "password",
        }]),
        _ => json!([]),
    }
}

fn host(server: &IceServer) -> Option<&str> {
    let host = server.host.as_deref().filter(|host| !host.is_empty());
    host.filter(|_| server.enabled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> IceServer {
        IceServer {
            enabled: true,
            proto: "udp".into(),
            port: 3478,
            user: Some("test".into()),
            pass: Some(Secret::new("test123")),
            host: Some("turn.example".into()),
        }
    }

    #[test]
    fn configured() {
        let expected = json!({
            "enableIceServer": "yes",
            "iceServerHost": "turn.example",
            "iceServerProto": "udp",
            "iceServerPort": "3478",
            "iceServerUser": "test",
            "iceServerPass": "test123",
        });
        assert_eq!(seed_ice_server(&server()), expected);
        let expected = json!([{
            "urls": ["turn:turn.example:3478?transport=udp"],
            "username": "test",
            "credential": "test123",
            "credentialType": "password",
        }]);
        assert_eq!(ice_servers(&server()), expected);
    }

    #[test]
    fn nothing_is_offered_without_a_host_or_when_switched_off() {
        let off = IceServer {
            enabled: false,
            ..server()
        };
        let no_host = IceServer {
            host: None,
            ..server()
        };
        let empty = IceServer {
            host: Some(String::new()),
            ..server()
        };
        for server in [off, no_host, empty] {
            assert_eq!(seed_ice_server(&server)["enableIceServer"], "no");
            assert_eq!(ice_servers(&server), json!([]));
        }
    }

    #[test]
    fn without_credentials() {
        let server = IceServer {
            pass: None,
            user: None,
            ..server()
        };
        let seed = seed_ice_server(&server);
        assert_eq!(seed["iceServerUser"], "");
        assert_eq!(seed["iceServerPass"], "");
        assert_eq!(ice_servers(&server), json!([]));
    }
}
