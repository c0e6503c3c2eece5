//! Every setting of the server: its name, environment variable, default, check
//! and redaction.

use std::net::IpAddr;
use std::path::PathBuf;

/// The effective configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of the HTTPS and WSS listener (`PROTOO_LISTEN_IP`). `::` is dual stack.
    pub listen_ip: IpAddr,
    /// Port of the HTTPS and WSS listener (`PROTOO_LISTEN_PORT`), 1–65535.
    pub listen_port: u16,
    /// Certificate chain in PEM (`HTTPS_CERT_FULLCHAIN`).
    pub tls_cert: PathBuf,
    /// Private key in PEM (`HTTPS_CERT_PRIVKEY`).
    pub tls_key: PathBuf,
    /// Host that clients reach the server by (`MEDIASOUP_INGRESS_HOST`).
    pub ingress_host: Option<String>,
    /// Port that clients reach the server by (`MEDIASOUP_CLIENT_PROTOOPORT`).
    pub client_port: u16,
    /// Address that media sockets bind to (`MEDIASOUP_LISTEN_IP`).
    pub media_listen_ip: IpAddr,
    /// Address or host name that candidates carry (`MEDIASOUP_ANNOUNCED_IP`).
    pub announced: Option<String>,
    /// First port of the RTC range (`MEDIASOUP_MIN_PORT`).
    pub min_port: u16,
    /// Last port of the RTC range, inclusive (`MEDIASOUP_MAX_PORT`).
    pub max_port: u16,
    /// Number of media workers; `None`: one per CPU that this process may use
    /// (`MEDIASOUP_NUM_WORKERS`).
    pub num_workers: Option<u16>,
    /// Bearer token of the admin paths (`ADMIN_TOKEN`).
    pub admin_token: Option<Secret>,
    /// TURN server that clients are told about (`MEDIASOUP_CLIENT_ICESERVER_*`).
    pub ice_server: IceServer,
    /// Most peers in a room that does not state its own limit (`ROOM_MAX_PEERS`), ≥ 2.
    pub room_max_peers: u32,
}

/// The TURN server offered to clients; nothing is offered without a host.
#[derive(Debug, Clone, Default)]
pub struct IceServer {
    /// `MEDIASOUP_CLIENT_ENABLE_ICESERVER`; yes/true/1 in any case.
    pub enabled: bool,
    /// `MEDIASOUP_CLIENT_ICESERVER_PROTO`, for example `udp`.
    pub proto: String,
    /// `MEDIASOUP_CLIENT_ICESERVER_PORT`.
    pub port: u16,
    /// `MEDIASOUP_CLIENT_ICESERVER_USER`.
    pub user: Option<String>,
    /// `MEDIASOUP_CLIENT_ICESERVER_PASS`.
    pub pass: Option<Secret>,
    /// `MEDIASOUP_CLIENT_ICESERVER_HOST`.
    pub host: Option<String>,
}

/// A value that must never be logged or served.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}
