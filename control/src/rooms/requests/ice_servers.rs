//! The TURN servers in the answer to createWebRtcTransport, in two shapes: the
//! seed's `iceServer` with its six string fields, which can say one server, and
//! the `iceServers` that newer clients hand to their RTCPeerConnection.
//!
//! With a secret shared with the servers, each transport gets a login of its
//! own that expires (draft-uberti-behave-turn-rest-00, coturn's
//! `use-auth-secret`): the user name begins with the moment of its end, the
//! password is the user name's HMAC.

use std::time::SystemTime;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::config::{IceServer, Secret, TurnHost, TurnProto, TurnTransport};

/// What one transport is told about the TURN servers.
pub(super) struct TurnOffer<'a> {
    server: &'a IceServer,
    user: String,
    pass: String,
}

impl<'a> TurnOffer<'a> {
    /// `name` is what TURN servers see of the client in a login of its own: no
    /// colon in it, which would end the time.
    pub(super) fn new(server: &'a IceServer, name: &str, now: SystemTime) -> Self {
        let (user, pass) = match &server.secret {
            _ if !server.is_offered() => (String::new(), String::new()),
            Some(secret) => expiring_login(server, secret, name, now),
            None => {
                let pass = server.pass.as_ref().map(Secret::expose);
                let user = server.user.as_deref();
                let owned = |text: Option<&str>| text.unwrap_or_default().to_owned();
                (owned(user), owned(pass))
            }
        };
        Self { server, user, pass }
    }

    /// The seed's `iceServer`: always all six fields, always strings. It has no
    /// word for TLS, so a first server that speaks nothing else is not offered.
    pub(super) fn seed(&self) -> Value {
        let plain = |proto: &&TurnProto| proto.transport != TurnTransport::Tls;
        let proto = self.server.protos.iter().find(plain);
        let offered = proto.and_then(|proto| Some((self.hosts().first()?, *proto)));
        match offered {
            Some((host, proto)) => json!({
                "enableIceServer": "yes",
                "iceServerHost": host.host,
                "iceServerProto": proto.transport.name(),
                "iceServerPort": self.server.port_of(host, proto).to_string(),
                "iceServerUser": self.user,
                "iceServerPass": self.pass,
            }),
            None => json!({
                "enableIceServer": "no",
                "iceServerHost": "",
                "iceServerProto": proto.map_or("udp", |proto| proto.transport.name()),
                "iceServerPort": self.server.port.to_string(),
                "iceServerUser": "",
                "iceServerPass": "",
            }),
        }
    }

    /// W3C `RTCIceServer`s: every server by every transport. Empty without
    /// credentials too: browsers throw on a `turn:` URL without them, which
    /// would cost the client its transport.
    pub(super) fn standard(&self) -> Value {
        if self.hosts().is_empty() || self.user.is_empty() || self.pass.is_empty() {
            return json!([]);
        }
        let of_host = |host| {
            let protos = self.server.protos.iter();
            protos.map(move |proto| self.url(host, *proto))
        };
        let urls: Vec<String> = self.hosts().iter().flat_map(of_host).collect();
        json!([{
            "urls": urls,
            "username": self.user,
            "credential": self.pass,
            "credentialType": "password",
        }])
    }

    fn hosts(&self) -> &[TurnHost] {
        match self.server.is_offered() {
            true => &self.server.hosts,
            false => &[],
        }
    }

    /// RFC 7065.
    fn url(&self, host: &TurnHost, proto: TurnProto) -> String {
        let (scheme, transport) = match proto.transport {
            TurnTransport::Udp => ("turn", "udp"),
            TurnTransport::Tcp => ("turn", "tcp"),
            TurnTransport::Tls => ("turns", "tcp"),
        };
        let port = self.server.port_of(host, proto);
        format!("{scheme}:{}:{port}?transport={transport}", host.host)
    }
}

/// User name and password that can be used until `ttl` from now.
fn expiring_login(
    server: &IceServer,
    secret: &Secret,
    name: &str,
    now: SystemTime,
) -> (String, String) {
    // A clock before 1970 gives logins that have expired, as such a machine's
    // certificates are not valid either.
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let user = format!("{}:{name}", (now + server.ttl).as_secs());
    // The scheme leaves no choice: TURN servers compute HMAC-SHA1, which is
    // not touched by SHA-1's collisions.
    let key = hmac::Key::new(
        hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        secret.expose().as_bytes(),
    );
    let pass = STANDARD.encode(hmac::sign(&key, user.as_bytes()));
    (user, pass)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn host(host: &str, port: Option<u16>) -> TurnHost {
        TurnHost {
            host: host.into(),
            port,
        }
    }

    fn proto(transport: TurnTransport, port: Option<u16>) -> TurnProto {
        TurnProto { transport, port }
    }

    fn server() -> IceServer {
        IceServer {
            user: Some("test".into()),
            pass: Some(Secret::new("test123")),
            hosts: vec![host("turn.example", None)],
            ..IceServer::default()
        }
    }

    fn offer(server: &IceServer) -> TurnOffer<'_> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        TurnOffer::new(server, "9f2c", now)
    }

    #[test]
    fn configured() {
        let server = server();
        let expected = json!({
            "enableIceServer": "yes",
            "iceServerHost": "turn.example",
            "iceServerProto": "udp",
            "iceServerPort": "3478",
            "iceServerUser": "test",
            "iceServerPass": "test123",
        });
        assert_eq!(offer(&server).seed(), expected);
        let expected = json!([{
            "urls": ["turn:turn.example:3478?transport=udp"],
            "username": "test",
            "credential": "test123",
            "credentialType": "password",
        }]);
        assert_eq!(offer(&server).standard(), expected);
    }

    #[test]
    fn every_server_by_every_transport() {
        let server = IceServer {
            hosts: vec![host("a.example", None), host("[2001:db8::1]", Some(3479))],
            protos: vec![
                proto(TurnTransport::Tls, Some(443)),
                proto(TurnTransport::Tcp, None),
                proto(TurnTransport::Udp, None),
            ],
            ..server()
        };
        let expected = json!([
            "turns:a.example:443?transport=tcp",
            "turn:a.example:3478?transport=tcp",
            "turn:a.example:3478?transport=udp",
            "turns:[2001:db8::1]:443?transport=tcp",
            "turn:[2001:db8::1]:3479?transport=tcp",
            "turn:[2001:db8::1]:3479?transport=udp",
        ]);
        assert_eq!(offer(&server).standard()[0]["urls"], expected);
        let seed = offer(&server).seed();
        assert_eq!(seed["iceServerHost"], "a.example");
        assert_eq!(seed["iceServerProto"], "tcp");
        assert_eq!(seed["iceServerPort"], "3478");
    }

    #[test]
    fn the_seeds_shape_cannot_say_tls() {
        let server = IceServer {
            protos: vec![proto(TurnTransport::Tls, None)],
            ..server()
        };
        assert_eq!(offer(&server).seed()["enableIceServer"], "no");
        let urls = &offer(&server).standard()[0]["urls"];
        assert_eq!(*urls, json!(["turns:turn.example:3478?transport=tcp"]));
    }

    #[test]
    fn a_login_of_ones_own() {
        let server = IceServer {
            secret: Some(Secret::new("north")),
            ..server()
        };
        // printf '1700086400:9f2c' | openssl dgst -sha1 -hmac north -binary | base64
        let pass = "I3DwhtODNoENegXFjDNUquSFvbA=";
        let offer = offer(&server);
        assert_eq!(offer.seed()["iceServerUser"], "1700086400:9f2c");
        assert_eq!(offer.seed()["iceServerPass"], pass);
        assert_eq!(offer.standard()[0]["username"], "1700086400:9f2c");
        assert_eq!(offer.standard()[0]["credential"], pass);
    }

    #[test]
    fn a_login_lives_as_long_as_configured() {
        let server = IceServer {
            secret: Some(Secret::new("north")),
            ttl: Duration::from_secs(60),
            ..server()
        };
        assert_eq!(offer(&server).user, "1700000060:9f2c");
        let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(TurnOffer::new(&server, "x", before_1970).user, "60:x");
    }

    /// Defect m: never `turn:undefined`.
    #[test]
    fn nothing_is_offered_without_a_host_or_when_switched_off() {
        let off = IceServer {
            enabled: false,
            ..server()
        };
        let no_host = IceServer {
            hosts: Vec::new(),
            ..server()
        };
        for server in [off, no_host] {
            for secret in [None, Some(Secret::new("north"))] {
                let server = IceServer {
                    secret,
                    ..server.clone()
                };
                let expected = json!({
                    "enableIceServer": "no",
                    "iceServerHost": "",
                    "iceServerProto": "udp",
                    "iceServerPort": "3478",
                    "iceServerUser": "",
                    "iceServerPass": "",
                });
                assert_eq!(offer(&server).seed(), expected);
                assert_eq!(offer(&server).standard(), json!([]));
            }
        }
    }

    #[test]
    fn without_credentials() {
        let server = IceServer {
            pass: None,
            user: None,
            ..server()
        };
        let seed = offer(&server).seed();
        assert_eq!(seed["enableIceServer"], "yes");
        assert_eq!(seed["iceServerUser"], "");
        assert_eq!(seed["iceServerPass"], "");
        assert_eq!(offer(&server).standard(), json!([]));
    }
}
