//! Every setting of the server: what it may be, where it comes from (a flag
//! wins over the environment, which wins over the configuration file, which
//! wins over the default) and what of it may be shown.

mod bitrates;
mod file;
mod settings;
mod turn;
mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::ortc::CodecName;
use crate::workers::ports;

pub use bitrates::OutgoingBitrate;
pub use settings::{Origin, SECRET_VARIABLES, Setting};
pub use turn::{IceServer, TurnHost, TurnProto, TurnTransport};
pub use value::{ConfigError, ConfigErrors};

use settings::{Request, Sources};

/// What is shown in place of a secret that is set.
pub const REDACTED: &str = "[redacted]";

/// The effective configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Address of the HTTPS and WSS listener (`PROTOO_LISTEN_IP`). `::` is dual stack.
    pub listen_ip: IpAddr,
    /// Port of the HTTPS and WSS listener (`PROTOO_LISTEN_PORT`), 1–65535.
    pub listen_port: u16,
    /// Whether that port speaks TLS (`HTTPS_ENABLED`).
    pub https_enabled: bool,
    /// Whose `X-Forwarded-*` headers are believed (`TRUSTED_PROXIES`).
    pub trusted_proxies: Vec<IpNet>,
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
    /// Addresses and host names that candidates carry (`MEDIASOUP_ANNOUNCED_IP`), the
    /// preferred ones first; an IPv6 address is without brackets. Empty: those of this
    /// machine.
    pub announced: Vec<String>,
    /// First port of the RTC range (`MEDIASOUP_MIN_PORT`).
    pub min_port: u16,
    /// Last port of the RTC range, inclusive (`MEDIASOUP_MAX_PORT`).
    pub max_port: u16,
    /// Number of media workers; `None`: one per CPU that this process may use
    /// (`MEDIASOUP_NUM_WORKERS`).
    pub num_workers: Option<u16>,
    /// What workers are pinned to; `None`: the CPUs that this process may use,
    /// or nothing under a CPU quota without a cpuset (`MEDIASOUP_WORKER_CPUS`).
    pub worker_cpus: Option<WorkerCpus>,
    /// How long a worker's media thread may stall before it is killed
    /// (`WORKER_TIMEOUT`), 1 second to 10 minutes.
    pub worker_timeout: Duration,
    /// Most rooms (`MAX_ROOMS`).
    pub max_rooms: u32,
    /// Most peers in all rooms (`MAX_PEERS`).
    pub max_peers: u32,
    /// Most transports on a worker (`WORKER_MAX_TRANSPORTS`).
    pub worker_max_transports: u32,
    /// Most consumers on a worker (`WORKER_MAX_CONSUMERS`).
    pub worker_max_consumers: u32,
    /// Time that calls have to end by themselves when the server ends
    /// (`DRAIN_TIMEOUT`), at most 1 day.
    pub drain_timeout: Duration,
    /// The most that a client is told to send on one transport, bits per second; 0
    /// is no limit (`TRANSPORT_MAX_INCOMING_BITRATE`).
    pub max_incoming_bitrate: u64,
    /// What is taken for available towards a client.
    pub outgoing_bitrate: OutgoingBitrate,
    /// Codecs that rooms route, preferred ones first (`ROUTER_CODECS`); not
    /// empty, each once.
    pub router_codecs: Vec<CodecName>,
    /// Bearer token of the admin paths (`ADMIN_TOKEN`).
    pub admin_token: Option<Secret>,
    /// Address of the admin paths, which are then not on the public port
    /// (`ADMIN_LISTEN`).
    pub admin_listen: Option<SocketAddr>,
    /// Bearer token for making rooms and for broadcasters (`API_TOKEN`).
    pub api_token: Option<Secret>,
    /// Origins of pages that may use the API and the signaling, as browsers
    /// write them (`CORS_ORIGINS`); `None`: any.
    pub cors_origins: Option<Vec<String>>,
    /// TURN server that clients are told about (`MEDIASOUP_CLIENT_ICESERVER_*`).
    pub ice_server: IceServer,
    /// Most peers in a room that does not state its own limit (`ROOM_MAX_PEERS`), ≥ 2.
    pub room_max_peers: u32,
    /// Most broadcasters in a room (`ROOM_MAX_BROADCASTERS`).
    pub room_max_broadcasters: u32,
    /// Time that a broadcaster may be without a transport
    /// (`ROOM_BROADCASTER_TIMEOUT`), 1 second to 1 day.
    pub room_broadcaster_timeout: Duration,
    /// Silence after which a broadcaster's stream has the score 0
    /// (`ROOM_BROADCASTER_SILENCE`), 1 second to 1 hour; `None`: what everybody's has.
    pub room_broadcaster_silence: Option<Duration>,
    /// A peer's connection creates the room that it names (`ROOM_AUTO_CREATE`).
    pub room_auto_create: bool,
    /// Life of a room that was made over HTTP and that nobody joins
    /// (`ROOM_EMPTY_TIMEOUT`), 1 second to 1 day.
    pub room_empty_timeout: Duration,
    /// Key that webhooks are signed with (`WEBHOOK_SECRET`).
    pub webhook_secret: Option<Secret>,
    /// Webhooks may go to addresses that are not public (`WEBHOOK_ALLOW_PRIVATE`).
    pub webhook_allow_private: bool,
    /// Time that a connected client has to join (`ROOM_JOIN_TIMEOUT`), 1 second
    /// to 1 day.
    pub room_join_timeout: Duration,
    /// Most extra consumers of each producer that a client gets for the asking
    /// (`CONSUMER_REPLICAS_MAX`), 0–100.
    pub consumer_replicas_max: u8,
    /// What a client has to know to throttle its own media
    /// (`NETWORK_THROTTLE_SECRET`); `None`: nobody can.
    pub network_throttle_secret: Option<Secret>,
    /// What is logged, in the syntax of tracing's `EnvFilter` (`RUST_LOG`, else
    /// `LOG_LEVEL`).
    pub log: String,
    /// How it looks (`LOG_FORMAT`).
    pub log_format: LogFormat,
    /// Collector that traces go to, by OTLP over gRPC (`OTEL_EXPORTER_OTLP_ENDPOINT`).
    pub otlp_endpoint: Option<String>,
    /// Where each setting that was given came from, by its variable.
    pub origins: BTreeMap<&'static str, Origin>,
}

/// What the operator wants media workers to be pinned to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerCpus {
    /// Nothing.
    Unpinned,
    /// These CPUs, a worker each, in this order; not empty, each CPU once.
    List(Vec<usize>),
}

impl fmt::Display for WorkerCpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkerCpus::Unpinned => f.write_str("none"),
            WorkerCpus::List(cpus) => f.write_str(&cpu_list(cpus)),
        }
    }
}

/// CPUs as the kernel lists them, for example `2-5,8`.
pub fn cpu_list(cpus: &[usize]) -> String {
    let runs = cpus.chunk_by(|a, b| a + 1 == *b);
    let texts = runs.filter_map(|run| match (run.first()?, run.last()?) {
        (first, last) if first == last => Some(first.to_string()),
        (first, last) => Some(format!("{first}-{last}")),
    });
    texts.collect::<Vec<_>>().join(",")
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: a JSON object in each line.
    Json,
}

impl LogFormat {
    /// Its name in the setting.
    pub fn name(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
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

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// Run the server.
    Run(Box<Config>),
    /// Tell everything that would keep it from running: what is wrong with
    /// single values, with the defaults in their place in the configuration.
    Check(Box<Config>, Vec<ConfigError>),
    /// Print this text (`--help`, `--version`) and end well.
    Print(String),
}

/// Reads the text of a configuration file, and has all of it checked.
#[cfg(test)]
pub(crate) fn of_file(text: &str) -> (Vec<ConfigError>, Result<Parsed, ConfigErrors>) {
    let (given, problems) = file::parse(std::path::Path::new("file"), text);
    let env = |name: &str| {
        let found = given.iter().find(|(setting, _)| setting.variable == name);
        found.map(|(_, value)| OsString::from(value))
    };
    (problems, Config::parse(["webrtc-server".into()], env))
}

impl Config {
    /// Reads the configuration from the arguments (the first one is the
    /// program's name), from the environment, given as a look-up, and from the
    /// configuration file that either of them names. A variable that is empty
    /// counts as not set.
    ///
    /// # Errors
    /// A flag that does not exist, or everything that makes no sense: one line
    /// each that names the variable, the value and what is allowed.
    pub fn parse<A, E>(args: A, env: E) -> Result<Parsed, ConfigErrors>
    where
        A: IntoIterator<Item = OsString>,
        E: Fn(&str) -> Option<OsString>,
    {
        let request = Sources::read(args, env).map_err(|error| ConfigErrors(vec![error]))?;
        match request {
            Request::Print(text) => Ok(Parsed::Print(text)),
            Request::Check(sources) => {
                let (config, problems) = Self::validated(sources);
                Ok(Parsed::Check(Box::new(config), problems))
            }
            Request::Run(sources) => match Self::validated(sources) {
                (config, problems) if problems.is_empty() => Ok(Parsed::Run(Box::new(config))),
                (_, problems) => Err(ConfigErrors(problems)),
            },
        }
    }

    /// The configuration with defaults in place of values that make no sense,
    /// and what is wrong with those.
    fn validated(mut sources: Sources) -> (Self, Vec<ConfigError>) {
        let mut problems = std::mem::take(&mut sources.problems);
        let config = loop {
            match Self::from_sources(&sources) {
                Ok(config) => break config,
                Err(error) => {
                    // Without it the next one shows. No default is refused.
                    let goes_on = matches!(&error, ConfigError::Value { variable, .. }
                        if sources.forget(variable));
                    problems.push(error);
                    if !goes_on {
                        break Self::default();
                    }
                }
            }
        };
        // Values that are not the operator's may well not fit together.
        if problems.is_empty() {
            let checks = [
                config.check_addresses(&sources),
                config.check_ports(&sources),
                config.outgoing_bitrate.check(&sources),
            ];
            problems.extend(checks.into_iter().filter_map(Result::err));
        }
        (config, problems)
    }

    fn from_sources(sources: &Sources) -> Result<Self, ConfigError> {
        use settings as s;
        use value as v;
        let tls_default =
            !sources.is_set(&s::HTTPS_CERT_FULLCHAIN) && !sources.is_set(&s::HTTPS_CERT_PRIVKEY);
        Ok(Self {
            listen_ip: sources.required(&s::PROTOO_LISTEN_IP, v::listen_ip)?,
            listen_port: sources.required(&s::PROTOO_LISTEN_PORT, v::port)?,
            https_enabled: sources.required(&s::HTTPS_ENABLED, v::boolean)?,
            trusted_proxies: sources
                .optional(&s::TRUSTED_PROXIES, v::networks)?
                .unwrap_or_default(),
            tls_cert: sources.required(&s::HTTPS_CERT_FULLCHAIN, v::path)?,
            tls_key: sources.required(&s::HTTPS_CERT_PRIVKEY, v::path)?,
            tls_default,
            ingress_host: sources.optional(&s::MEDIASOUP_INGRESS_HOST, v::url_host)?,
            client_port: sources.required(&s::MEDIASOUP_CLIENT_PROTOOPORT, v::port)?,
            media_listen_ip: sources.required(&s::MEDIASOUP_LISTEN_IP, v::listen_ip)?,
            announced: sources
                .optional(&s::MEDIASOUP_ANNOUNCED_IP, v::announced)?
                .unwrap_or_default(),
            min_port: sources.required(&s::MEDIASOUP_MIN_PORT, v::port)?,
            max_port: sources.required(&s::MEDIASOUP_MAX_PORT, v::port)?,
            num_workers: sources.optional(&s::MEDIASOUP_NUM_WORKERS, |raw| {
                v::number(raw, 1..=s::MAX_WORKERS)
            })?,
            worker_cpus: sources.optional(&s::MEDIASOUP_WORKER_CPUS, v::worker_cpus)?,
            worker_timeout: sources.required(&s::WORKER_TIMEOUT, |raw| {
                v::number(raw, 1..=s::MAX_STALL_SECONDS).map(Duration::from_secs)
            })?,
            max_rooms: sources.required(&s::MAX_ROOMS, |raw| v::number(raw, 1..=s::MOST))?,
            max_peers: sources.required(&s::MAX_PEERS, |raw| v::number(raw, 1..=s::MOST))?,
            worker_max_transports: sources
                .required(&s::WORKER_MAX_TRANSPORTS, |raw| v::number(raw, 1..=s::MOST))?,
            worker_max_consumers: sources
                .required(&s::WORKER_MAX_CONSUMERS, |raw| v::number(raw, 1..=s::MOST))?,
            drain_timeout: sources.required(&s::DRAIN_TIMEOUT, |raw| {
                v::number(raw, 0..=s::MAX_SECONDS).map(Duration::from_secs)
            })?,
            max_incoming_bitrate: sources.required(&s::TRANSPORT_MAX_INCOMING_BITRATE, |raw| {
                v::number(raw, 0..=s::MAX_BITRATE)
            })?,
            outgoing_bitrate: OutgoingBitrate::from(sources)?,
            router_codecs: sources.required(&s::ROUTER_CODECS, v::router_codecs)?,
            admin_token: sources.optional(&s::ADMIN_TOKEN, v::token)?,
            admin_listen: sources.optional(&s::ADMIN_LISTEN, v::socket_address)?,
            api_token: sources.optional(&s::API_TOKEN, v::token)?,
            cors_origins: sources.optional(&s::CORS_ORIGINS, v::origins)?,
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
            room_max_peers: sources.required(&s::ROOM_MAX_PEERS, |raw| {
                v::number(raw, 2..=s::MOST_ROOM_PEERS)
            })?,
            room_max_broadcasters: sources.required(&s::ROOM_MAX_BROADCASTERS, |raw| {
                v::number(raw, 0..=s::MAX_BROADCASTERS)
            })?,
            room_broadcaster_timeout: sources.required(&s::ROOM_BROADCASTER_TIMEOUT, |raw| {
                v::number(raw, 1..=s::MAX_SECONDS).map(Duration::from_secs)
            })?,
            room_broadcaster_silence: sources.optional(&s::ROOM_BROADCASTER_SILENCE, |raw| {
                v::number(raw, 1..=s::MAX_SILENCE_SECONDS).map(Duration::from_secs)
            })?,
            room_auto_create: sources.required(&s::ROOM_AUTO_CREATE, v::boolean)?,
            room_empty_timeout: sources.required(&s::ROOM_EMPTY_TIMEOUT, |raw| {
                v::number(raw, 1..=s::MAX_SECONDS).map(Duration::from_secs)
            })?,
            webhook_secret: sources.optional(&s::WEBHOOK_SECRET, v::text)?.map(Secret),
            webhook_allow_private: sources.required(&s::WEBHOOK_ALLOW_PRIVATE, v::boolean)?,
            room_join_timeout: sources.required(&s::ROOM_JOIN_TIMEOUT, |raw| {
                v::number(raw, 1..=s::MAX_SECONDS).map(Duration::from_secs)
            })?,
            consumer_replicas_max: sources.required(&s::CONSUMER_REPLICAS_MAX, |raw| {
                v::number(raw, 0..=s::MAX_CONSUMER_REPLICAS)
            })?,
            network_throttle_secret: sources
                .optional(&s::NETWORK_THROTTLE_SECRET, v::text)?
                .map(Secret),
            log: match sources.optional(&s::RUST_LOG, v::log_filter)? {
                Some(filter) => filter,
                None => sources.required(&s::LOG_LEVEL, v::log_filter)?,
            },
            log_format: sources.required(&s::LOG_FORMAT, v::log_format)?,
            otlp_endpoint: sources.optional(&s::OTEL_EXPORTER_OTLP_ENDPOINT, v::collector)?,
            origins: sources.origins(),
        })
    }

    /// An announced address of a family that the media sockets do not listen
    /// on would give candidates that nobody can reach.
    fn check_addresses(&self, sources: &Sources) -> Result<(), ConfigError> {
        let dual_stack = self.media_listen_ip.is_ipv6() && self.media_listen_ip.is_unspecified();
        let listens_on = |ip: IpAddr| dual_stack || ip.is_ipv4() == self.media_listen_ip.is_ipv4();
        let addresses = self.announced.iter().filter_map(|one| one.parse().ok());
        if addresses.into_iter().all(listens_on) {
            return Ok(());
        }
        let family = if self.media_listen_ip.is_ipv4() {
            "IPv4"
        } else {
            "IPv6"
        };
        Err(sources.refuse(
            &settings::MEDIASOUP_ANNOUNCED_IP,
            &format!(
                "{family} addresses or host names, as MEDIASOUP_LISTEN_IP is {}",
                self.media_listen_ip
            ),
        ))
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
            "httpsEnabled": self.https_enabled,
            "trustedProxies": self.trusted_proxies.iter().map(IpNet::to_string).collect::<Vec<_>>(),
            "client": {
                "ingressHost": self.ingress_host,
                "protooPort": self.client_port,
            },
            "mediasoup": {
                "listenIp": self.media_listen_ip.to_string(),
                "announcedIp": (!self.announced.is_empty()).then(|| self.announced.join(",")),
                "minPort": self.min_port,
                "maxPort": self.max_port,
                "numWorkers": self.num_workers,
                "workerCpus": self.worker_cpus.as_ref().map(WorkerCpus::to_string),
                "maxIncomingBitrate": self.max_incoming_bitrate,
                "initialOutgoingBitrate": self.outgoing_bitrate.initial,
                "minOutgoingBitrate": self.outgoing_bitrate.min,
                "maxOutgoingBitrate": self.outgoing_bitrate.max,
            },
            "workers": {
                "timeoutSeconds": self.worker_timeout.as_secs(),
                "maxTransports": self.worker_max_transports,
                "maxConsumers": self.worker_max_consumers,
            },
            "maxRooms": self.max_rooms,
            "maxPeers": self.max_peers,
            "drainTimeoutSeconds": self.drain_timeout.as_secs(),
            "routerCodecs": self.router_codecs.iter().map(|it| it.name()).collect::<Vec<_>>(),
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
                "maxBroadcasters": self.room_max_broadcasters,
                "broadcasterTimeoutSeconds": self.room_broadcaster_timeout.as_secs(),
                "broadcasterSilenceSeconds": self.room_broadcaster_silence.map(|it| it.as_secs()),
                "autoCreate": self.room_auto_create,
                "emptyTimeoutSeconds": self.room_empty_timeout.as_secs(),
                "joinTimeoutSeconds": self.room_join_timeout.as_secs(),
                "consumerReplicasMax": self.consumer_replicas_max,
            },
            "webhooks": {
                "secret": hidden(self.webhook_secret.is_some()),
                "allowPrivate": self.webhook_allow_private,
            },
            "corsOrigins": self.cors_origins,
            "networkThrottleSecret": hidden(self.network_throttle_secret.is_some()),
            "adminListen": self.admin_listen.map(|it| it.to_string()),
            "adminToken": hidden(self.admin_token.is_some()),
            "apiToken": hidden(self.api_token.is_some()),
            "log": self.log,
            "logFormat": self.log_format.name(),
            "otlpEndpoint": self.otlp_endpoint,
            "sources": self.sources_json(),
        })
    }
}

impl Config {
    /// Where the value of each setting comes from, by its variable.
    fn sources_json(&self) -> Value {
        let all = settings::ALL.iter().map(|setting| {
            let origin = self.origins.get(setting.variable);
            let name = origin.map_or("default", |origin| origin.name());
            (setting.variable.to_owned(), Value::from(name))
        });
        Value::Object(all.collect())
    }
}

impl Default for Config {
    /// The documented defaults, as with no flag and an empty environment.
    fn default() -> Self {
        Self {
            listen_ip: IpAddr::from([0, 0, 0, 0]),
            listen_port: 4443,
            https_enabled: true,
            trusted_proxies: Vec::new(),
            tls_cert: PathBuf::from("certs/fullchain.pem"),
            tls_key: PathBuf::from("certs/privkey.pem"),
            tls_default: true,
            ingress_host: None,
            client_port: 443,
            media_listen_ip: IpAddr::from([0, 0, 0, 0]),
            announced: Vec::new(),
            min_port: 40_000,
            max_port: 49_999,
            num_workers: None,
            worker_cpus: None,
            worker_timeout: Duration::from_secs(10),
            max_rooms: 10_000,
            max_peers: 10_000,
            worker_max_transports: 10_000,
            worker_max_consumers: 50_000,
            drain_timeout: Duration::from_secs(30),
            max_incoming_bitrate: 5_000_000,
            outgoing_bitrate: OutgoingBitrate::default(),
            router_codecs: CodecName::DEFAULT.to_vec(),
            admin_token: None,
            admin_listen: None,
            api_token: None,
            cors_origins: None,
            ice_server: IceServer::default(),
            room_max_peers: 100,
            room_max_broadcasters: 16,
            room_broadcaster_timeout: Duration::from_secs(60),
            room_broadcaster_silence: None,
            room_auto_create: true,
            room_empty_timeout: Duration::from_secs(300),
            webhook_secret: None,
            webhook_allow_private: true,
            room_join_timeout: Duration::from_secs(30),
            consumer_replicas_max: 4,
            network_throttle_secret: None,
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            otlp_endpoint: None,
            origins: BTreeMap::new(),
        }
    }
}
