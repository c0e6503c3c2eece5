//! The TURN servers that clients are told about: what the settings may say of
//! them, and the addresses that come out of it.

use std::fmt;
use std::time::Duration;

use super::{Secret, value};

/// Most TURN servers. Browsers gather candidates from each of them, and warn
/// from five URLs on.
const MAX_HOSTS: usize = 8;

/// The TURN servers offered to clients; nothing is offered without a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IceServer {
    /// `MEDIASOUP_CLIENT_ENABLE_ICESERVER`; yes/true/1/on in any case.
    pub enabled: bool,
    /// `MEDIASOUP_CLIENT_ICESERVER_PROTO`, at least one.
    pub protos: Vec<TurnProto>,
    /// `MEDIASOUP_CLIENT_ICESERVER_PORT`, for hosts and transports without one.
    pub port: u16,
    /// `MEDIASOUP_CLIENT_ICESERVER_USER`.
    pub user: Option<String>,
    /// `MEDIASOUP_CLIENT_ICESERVER_PASS`.
    pub pass: Option<Secret>,
    /// `MEDIASOUP_CLIENT_ICESERVER_HOST`.
    pub hosts: Vec<TurnHost>,
    /// `MEDIASOUP_CLIENT_ICESERVER_SECRET`; with it every client gets a login
    /// of its own, and `user` and `pass` are not used.
    pub secret: Option<Secret>,
    /// `MEDIASOUP_CLIENT_ICESERVER_TTL`: life of such a login.
    pub ttl: Duration,
}

/// One TURN server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnHost {
    /// Name or address; an IPv6 address is in brackets, as in a `turn:` URL.
    pub host: String,
    /// Its own port.
    pub port: Option<u16>,
}

/// A transport to the TURN servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnProto {
    /// What carries it.
    pub transport: TurnTransport,
    /// The port that it has on every server.
    pub port: Option<u16>,
}

/// What carries TURN between a client and its server (RFC 7065).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnTransport {
    /// `turn:` over UDP.
    Udp,
    /// `turn:` over TCP.
    Tcp,
    /// `turns:`, TLS over TCP.
    Tls,
}

impl TurnTransport {
    /// Its name in the setting.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

impl IceServer {
    /// Whether clients are told about any server.
    pub fn is_offered(&self) -> bool {
        self.enabled && !self.hosts.is_empty()
    }

    /// The port of a server for a transport: the transport's own, else the
    /// server's own, else the common one.
    pub fn port_of(&self, host: &TurnHost, proto: TurnProto) -> u16 {
        proto.port.or(host.port).unwrap_or(self.port)
    }
}

impl Default for IceServer {
    fn default() -> Self {
        let udp = TurnProto {
            transport: TurnTransport::Udp,
            port: None,
        };
        Self {
            enabled: true,
            protos: vec![udp],
            port: 3478,
            user: None,
            pass: None,
            hosts: Vec::new(),
            secret: None,
            ttl: Duration::from_secs(86_400),
        }
    }
}

impl fmt::Display for TurnHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Display for TurnProto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.transport.name())?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A list as the setting says it.
pub fn listed<T: fmt::Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    items.join(",")
}

/// Hosts with commas between them.
pub fn hosts(raw: &str) -> Option<Vec<TurnHost>> {
    let hosts: Option<Vec<_>> = raw.split(',').map(|one| host(one.trim())).collect();
    hosts.filter(|hosts| hosts.len() <= MAX_HOSTS)
}

/// `HOST`, `HOST:PORT`, `[IPv6]:PORT`, or an IPv6 address with or without
/// brackets.
fn host(raw: &str) -> Option<TurnHost> {
    if let Some(host) = value::url_host(raw) {
        return Some(TurnHost { host, port: None });
    }
    let (host, port) = raw.rsplit_once(':')?;
    // Without brackets it could not be told where an IPv6 address ends.
    if host.contains(':') && !host.starts_with('[') {
        return None;
    }
    Some(TurnHost {
        host: value::url_host(host)?,
        port: Some(value::port(port)?),
    })
}

/// Transports with commas between them, none twice.
pub fn protos(raw: &str) -> Option<Vec<TurnProto>> {
    let mut protos: Vec<TurnProto> = Vec::new();
    for one in raw.split(',') {
        let proto = proto(one.trim())?;
        if protos.iter().any(|it| it.transport == proto.transport) {
            return None;
        }
        protos.push(proto);
    }
    Some(protos)
}

fn proto(raw: &str) -> Option<TurnProto> {
    let (name, port) = match raw.split_once(':') {
        Some((name, port)) => (name, Some(value::port(port)?)),
        None => (raw, None),
    };
    let transport = match name.to_ascii_lowercase().as_str() {
        "udp" => TurnTransport::Udp,
        "tcp" => TurnTransport::Tcp,
        "tls" => TurnTransport::Tls,
        _ => return None,
    };
    Some(TurnProto { transport, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_and_without_ports() {
        for (raw, want) in [
            ("turn.example.com", "turn.example.com"),
            ("turn.example.com:443", "turn.example.com:443"),
            ("192.0.2.1:3479,turn.example", "192.0.2.1:3479,turn.example"),
            ("a.example, b.example:5", "a.example,b.example:5"),
            ("2001:DB8::1", "[2001:db8::1]"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("[2001:db8::1]:3479", "[2001:db8::1]:3479"),
        ] {
            assert_eq!(hosts(raw).as_deref().map(listed).as_deref(), Some(want));
        }
        let many = ["a.example"; MAX_HOSTS + 1].join(",");
        for raw in [
            "turn:a.example",
            "a.example:0",
            "a.example:65536",
            "a.example:",
            "a.example,",
            ",",
            "a.example b.example",
            "a.example?transport=tcp",
            "[a.example]:1",
            "[::1:5",
            &many,
        ] {
            assert_eq!(hosts(raw), None, "{raw}");
        }
    }

    #[test]
    fn transports_with_and_without_ports() {
        for (raw, want) in [
            ("udp", "udp"),
            ("UDP,tcp", "udp,tcp"),
            ("udp, tls:5349", "udp,tls:5349"),
            ("tls:443,tcp:80,udp:53", "tls:443,tcp:80,udp:53"),
        ] {
            assert_eq!(protos(raw).as_deref().map(listed).as_deref(), Some(want));
        }
        for raw in [
            "sctp",
            "",
            "udp,",
            "udp,udp",
            "udp:1,UDP:2",
            "tls:",
            "tls:0",
        ] {
            assert_eq!(protos(raw), None, "{raw}");
        }
    }

    #[test]
    fn the_port_of_a_transport_wins_over_the_port_of_a_host() {
        let ports = |hosts_raw: &str, protos_raw: &str| {
            let server = IceServer {
                hosts: hosts(hosts_raw).unwrap(),
                protos: protos(protos_raw).unwrap(),
                ..IceServer::default()
            };
            server.port_of(&server.hosts[0], server.protos[0])
        };
        assert_eq!(ports("a.example", "udp"), 3478);
        assert_eq!(ports("a.example:1", "udp"), 1);
        assert_eq!(ports("a.example", "tls:2"), 2);
        assert_eq!(ports("a.example:1", "tls:2"), 2);
    }
}
