//! Every setting of the server: what it may be, where it comes from (a flag
//! wins over the environment, which wins over the default) and what of it may
//! be shown.

mod settings;
mod turn;
mod value;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::workers::ports;

pub use settings::{SECRET_VARIABLES, Setting};
pub use turn::{IceServer, TurnHost, TurnProto, TurnTransport};
pub use value::ConfigError;

use settings::Sources;

/// What is shown in place of a secret that is set.
pub const REDACTED: &str = "[redacted]";

/// The effective configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Address of the HTTPS and WSS listener (`PROTOO_LISTEN_IP`). `::` is dual stack.
    pub listen_ip: IpAddr,
    /// Port of the HTTPS and WSS listener (`PROTOO_LISTEN_PORT`), 1–65535.
    pub listen_port: u16,
    /// Certificate chain in PEM (`HTTPS_CERT_FULLCHAIN`).
    pub tls_cert: PathBuf,
    /// Private key in PEM (`HTTPS_CERT_PRIVKEY`).
    pub tls_key: PathBuf,
    /// Neither of the two paths was set: a pair that is missing may be made.
    pub tls_default: bool,
    /// Host that clients reach the server by (`MEDIASOUP_INGRESS_HOST`); an
    /// IPv6 address is in brackets, as in a URL.
    pub ingress_host: Option<String>,
    /// Port that clients reach the server by (`MEDIASOUP_CLIENT_PROTOOPORT`).
    pub client_port: u16,
    /// Address that media sockets bind to (`MEDIASOUP_LISTEN_IP`).
    pub media_listen_ip: IpAddr,
    /// Address or host name that candidates carry (`MEDIASOUP_ANNOUNCED_IP`);
    /// an IPv6 address is without brackets.
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
    /// Life of a room that was made over HTTP and that nobody joins
    /// (`ROOM_EMPTY_TIMEOUT`), 1 second to 1 day.
    pub room_empty_timeout: Duration,
    /// What is logged, in the syntax of tracing's `EnvFilter` (`RUST_LOG`).
    pub log: String,
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
        f.write_str(REDACTED)
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// Run the server.
    Run(Box<Config>),
    /// Print this text (`--help`, `--version`) and end well.
    Print(String),
}

impl Config {
    /// Reads the configuration from the arguments (the first one is the
    /// program's name) and from the environment, given as a look-up. A variable
    /// that is empty counts as not set.
    ///
    /// # Errors
    /// A flag that does not exist, or a value that makes no sense; the latter
    /// is one line that names the variable, the value and what is allowed.
    pub fn parse<A, E>(args: A, env: E) -> Result<Parsed, ConfigError>
    where
        A: IntoIterator<Item = OsString>,
        E: Fn(&str) -> Option<OsString>,
    {
        let sources = match Sources::read(args, env)? {
            Ok(sources) => sources,
            Err(text) => return Ok(Parsed::Print(text)),
        };
        let config = Self::from_sources(&sources)?;
        config.check_addresses(&sources)?;
        config.check_ports(&sources)?;
        Ok(Parsed::Run(Box::new(config)))
    }

    fn from_sources(sources: &Sources) -> Result<Self, ConfigError> {
        use settings as s;
        use value as v;
        let tls_default =
            !sources.is_set(&s::HTTPS_CERT_FULLCHAIN) && !sources.is_set(&s::HTTPS_CERT_PRIVKEY);
        Ok(Self {
            listen_ip: sources.required(&s::PROTOO_LISTEN_IP, v::listen_ip)?,
            listen_port: sources.required(&s::PROTOO_LISTEN_PORT, v::port)?,
            tls_cert: sources.required(&s::HTTPS_CERT_FULLCHAIN, v::path)?,
            tls_key: sources.required(&s::HTTPS_CERT_PRIVKEY, v::path)?,
            tls_default,
            ingress_host: sources.optional(&s::MEDIASOUP_INGRESS_HOST, v::url_host)?,
            client_port: sources.required(&s::MEDIASOUP_CLIENT_PROTOOPORT, v::port)?,
            media_listen_ip: sources.required(&s::MEDIASOUP_LISTEN_IP, v::listen_ip)?,
            announced: sources.optional(&s::MEDIASOUP_ANNOUNCED_IP, v::announced)?,
            min_port: sources.required(&s::MEDIASOUP_MIN_PORT, v::port)?,
            max_port: sources.required(&s::MEDIASOUP_MAX_PORT, v::port)?,
            num_workers: sources.optional(&s::MEDIASOUP_NUM_WORKERS, |raw| {
                v::number(raw, 1..=s::MAX_WORKERS)
            })?,
            admin_token: sources.optional(&s::ADMIN_TOKEN, v::token)?,
            ice_server: IceServer {
                enabled: sources.required(&s::MEDIASOUP_CLIENT_ENABLE_ICESERVER, v::boolean)?,
                protos: sources.required(&s::MEDIASOUP_CLIENT_ICESERVER_PROTO, turn::protos)?,
                port: sources.required(&s::MEDIASOUP_CLIENT_ICESERVER_PORT, v::port)?,
                user: sources.optional(&s::MEDIASOUP_CLIENT_ICESERVER_USER, v::text)?,
                pass: sources
                    .optional(&s::MEDIASOUP_CLIENT_ICESERVER_PASS, v::text)?
                    .map(Secret),
                hosts: sources
                    .optional(&s::MEDIASOUP_CLIENT_ICESERVER_HOST, turn::hosts)?
                    .unwrap_or_default(),
                secret: sources
                    .optional(&s::MEDIASOUP_CLIENT_ICESERVER_SECRET, v::text)?
                    .map(Secret),
                ttl: sources.required(&s::MEDIASOUP_CLIENT_ICESERVER_TTL, |raw| {
                    v::number(raw, 1..=s::MAX_TURN_SECONDS).map(Duration::from_secs)
                })?,
            },
            room_max_peers: sources
                .required(&s::ROOM_MAX_PEERS, |raw| v::number(raw, 2..=s::MAX_PEERS))?,
            room_empty_timeout: sources.required(&s::ROOM_EMPTY_TIMEOUT, |raw| {
                v::number(raw, 1..=s::MAX_SECONDS).map(Duration::from_secs)
            })?,
            log: sources.required(&s::RUST_LOG, v::log_filter)?,
        })
    }

    /// An announced address of a family that the media sockets do not listen
    /// on would give candidates that nobody can reach.
    fn check_addresses(&self, sources: &Sources) -> Result<(), ConfigError> {
        let Some(announced) = self.announced.as_deref() else {
            return Ok(());
        };
        let dual_stack = self.media_listen_ip.is_ipv6() && self.media_listen_ip.is_unspecified();
        match announced.parse::<IpAddr>() {
            Ok(ip) if !dual_stack && ip.is_ipv4() != self.media_listen_ip.is_ipv4() => {
                let family = if self.media_listen_ip.is_ipv4() {
                    "an IPv4"
                } else {
                    "an IPv6"
                };
                Err(sources.refuse(
                    &settings::MEDIASOUP_ANNOUNCED_IP,
                    &format!(
                        "{family} address or a host name, as MEDIASOUP_LISTEN_IP is {}",
                        self.media_listen_ip
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    fn check_ports(&self, sources: &Sources) -> Result<(), ConfigError> {
        if self.min_port > self.max_port {
            return Err(sources.refuse(
                &settings::MEDIASOUP_MIN_PORT,
                &format!("1 to MEDIASOUP_MAX_PORT, which is {}", self.max_port),
            ));
        }
        // Without a configured number the workers are counted later, and
        // checked then.
        let workers = usize::from(self.num_workers.unwrap_or(1));
        ports::slices(self.min_port, self.max_port, workers).map(|_| ())
    }

    /// The configuration as `GET /config` answers it under `config`: the seed's
    /// `https` part, then the rest. A secret that is set shows as
    /// [`REDACTED`], one that is not as `null`; no value of a secret is in it.
    pub fn redacted_json(&self) -> Value {
        let hidden = |set: bool| set.then_some(REDACTED);
        json!({
            "https": {
                "listenIp": self.listen_ip.to_string(),
                "listenPort": self.listen_port,
                "tls": {
                    "cert": self.tls_cert.to_string_lossy(),
                    "key": self.tls_key.to_string_lossy(),
                },
            },
            "client": {
                "ingressHost": self.ingress_host,
                "protooPort": self.client_port,
            },
            "mediasoup": {
                "listenIp": self.media_listen_ip.to_string(),
                "announcedIp": self.announced,
                "minPort": self.min_port,
                "maxPort": self.max_port,
                "numWorkers": self.num_workers,
            },
            "iceServer": {
                "enabled": self.ice_server.enabled,
                "host": turn::listed(&self.ice_server.hosts),
                "port": self.ice_server.port,
                "proto": turn::listed(&self.ice_server.protos),
                "user": hidden(self.ice_server.user.is_some()),
                "pass": hidden(self.ice_server.pass.is_some()),
                "secret": hidden(self.ice_server.secret.is_some()),
                "ttlSeconds": self.ice_server.ttl.as_secs(),
            },
            "rooms": {
                "maxPeers": self.room_max_peers,
                "emptyTimeoutSeconds": self.room_empty_timeout.as_secs(),
            },
            "adminToken": hidden(self.admin_token.is_some()),
            "log": self.log,
        })
    }
}

impl Default for Config {
    /// The documented defaults, as with no flag and an empty environment.
    fn default() -> Self {
        Self {
            listen_ip: IpAddr::from([0, 0, 0, 0]),
            listen_port: 4443,
            tls_cert: PathBuf::from("certs/fullchain.pem"),
            tls_key: PathBuf::from("certs/privkey.pem"),
            tls_default: true,
            ingress_host: None,
            client_port: 443,
            media_listen_ip: IpAddr::from([0, 0, 0, 0]),
            announced: None,
            min_port: 40_000,
            max_port: 49_999,
            num_workers: None,
            admin_token: None,
            ice_server: IceServer::default(),
            room_max_peers: 100,
            room_empty_timeout: Duration::from_secs(300),
            log: "info".to_owned(),
        }
    }
}
