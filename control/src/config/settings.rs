//! The table of settings, `--help` made from it, and the look-up of a setting
//! in flags, environment, file and default, in this order.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, Command};

use super::{ConfigError, file};

/// Variable of the configuration file's path; the flag is `--config`.
const FILE_VARIABLE: &str = "WEBRTC_SERVER_CONFIG";
/// Name of that flag.
const FILE_FLAG: &str = "config";
/// Name of the argument that says what to do.
const ACTION: &str = "ACTION";
/// The action that only looks whether a start would work.
const CHECK: &str = "check";

/// Most media workers that can be asked for. More can only be a mistake, and
/// would keep the machine from doing anything else.
pub const MAX_WORKERS: u16 = 256;
/// Most peers that a room can be given.
pub const MOST_ROOM_PEERS: u32 = 10_000;
/// Most of anything that can be counted in a limit of the server.
pub const MOST: u32 = 1_000_000;
/// Longest stall of a worker that can be put up with, seconds.
pub const MAX_STALL_SECONDS: u64 = 600;
/// Most broadcasters that a room can be given.
pub const MAX_BROADCASTERS: u32 = 1000;
/// Most extra consumers of each producer that a client can be granted.
pub const MAX_CONSUMER_REPLICAS: u8 = 100;
/// Most that a client's transport can be limited to, bits per second.
pub const MAX_BITRATE: u64 = 1_000_000_000;
/// Longest time that can be set, seconds.
pub const MAX_SECONDS: u64 = 86_400;
/// Longest silence of a broadcaster's stream that leaves its score alone, seconds.
pub const MAX_SILENCE_SECONDS: u64 = 3_600;
/// Longest life of a login for a TURN server, seconds.
pub const MAX_TURN_SECONDS: u64 = 604_800;

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Environment variable; the flag is the same in lower case with dashes.
    pub variable: &'static str,
    /// Value when neither flag nor variable is set; empty for none.
    pub default: &'static str,
    /// What happens when it is not set, for a setting without default.
    unset: &'static str,
    /// What it is, for `--help`.
    help: &'static str,
    /// What is allowed, for errors and `--help`.
    allowed: &'static str,
    /// Its value is never shown.
    pub secret: bool,
}

impl Setting {
    /// Name of the flag, without the dashes in front.
    pub fn flag(&self) -> String {
        self.variable.to_ascii_lowercase().replace('_', "-")
    }
}

macro_rules! settings {
    ($($name:ident { $($field:ident: $value:expr),* $(,)? })*) => {
        $(
            pub static $name: Setting = Setting {
                variable: stringify!($name),
                $($field: $value,)*
                ..NOTHING
            };
        )*
        /// Every setting, in the order of `--help`.
        pub static ALL: &[&Setting] = &[$(&$name),*];
    };
}

const NOTHING: Setting = Setting {
    variable: "",
    default: "",
    unset: "not set",
    help: "",
    allowed: "",
    secret: false,
};

const PORT: &str = "a port, 1 to 65535";
const LISTEN_IP: &str = "an IPv4 or IPv6 address";
const HOST: &str = "a host name or IP address, without scheme, port or path";
const LOG_FILTER: &str = "a tracing filter, for example info or info,control=debug";
const COLLECTOR: &str = "http://HOST:PORT";
const TEXT: &str = "at most 512 bytes without control characters";
const TOKEN: &str = "at most 512 visible ASCII characters";
const ROUTER_CODECS_ALLOWED: &str = "each at most once: opus, multiopus4, multiopus6, multiopus8, \
     pcmu, pcma, g722, vp8, vp9, vp9-profile2, h264-baseline, h264-main and av1";
const BOOLEAN: &str = "yes, true, 1, on, no, false, 0 or off";

settings! {
    PROTOO_LISTEN_IP {
        help: "Address that HTTPS and WSS listen on; :: is IPv6 and IPv4",
        default: "0.0.0.0",
        allowed: LISTEN_IP,
    }
    PROTOO_LISTEN_PORT {
        help: "Port that HTTPS and WSS listen on",
        default: "4443",
        allowed: PORT,
    }
    HTTPS_ENABLED {
        help: "Whether the port speaks TLS. Without it, a proxy in front has to: browsers give \
               camera and microphone only to pages that came over HTTPS",
        default: "yes",
        allowed: BOOLEAN,
    }
    HTTPS_CERT_FULLCHAIN {
        help: "Certificate chain in PEM, the server's own certificate first. Where neither this \
               nor the private key is set and both files are missing, a self-signed pair is made",
        default: "certs/fullchain.pem",
        allowed: "the path of a file",
    }
    HTTPS_CERT_PRIVKEY {
        help: "Private key in PEM",
        default: "certs/privkey.pem",
        allowed: "the path of a file",
    }
    TRUSTED_PROXIES {
        help: "Proxies in front whose X-Forwarded-For and X-Forwarded-Host are believed",
        unset: "nobody's are",
        allowed: "at most 256 IP addresses and networks, for example 10.0.0.0/8,192.0.2.1",
    }
    MEDIASOUP_INGRESS_HOST {
        help: "Host that clients reach this server by, for wsUrl",
        unset: "the host and port of each request",
        allowed: HOST,
    }
    MEDIASOUP_CLIENT_PROTOOPORT {
        help: "Port that clients reach this server by, for wsUrl with an ingress host",
        default: "443",
        allowed: PORT,
    }
    MEDIASOUP_LISTEN_IP {
        help: "Address that media sockets bind to; :: is IPv6 and IPv4",
        default: "0.0.0.0",
        allowed: LISTEN_IP,
    }
    MEDIASOUP_ANNOUNCED_IP {
        help: "Public IP addresses or host names that clients send media to, with commas between them, preferred ones first",
        unset: "the listen address, or every usable address of this machine",
        allowed: "up to 8 different IP addresses that can be reached, or host names, with commas between them",
    }
    MEDIASOUP_MIN_PORT {
        help: "First port for media",
        default: "40000",
        allowed: PORT,
    }
    MEDIASOUP_MAX_PORT {
        help: "Last port for media; the workers share the range equally",
        default: "49999",
        allowed: PORT,
    }
    MEDIASOUP_NUM_WORKERS {
        help: "Number of media worker processes",
        unset: "one per CPU that this process may use",
        allowed: "1 to 256",
    }
    MEDIASOUP_WORKER_CPUS {
        help: "CPUs that media workers are pinned to, one each in this order, or none. With a \
               list, the CPU quota of a container does not matter",
        unset: "those that this process may use; none under a CPU quota without a cpuset",
        allowed: "none, or numbers and ranges, each CPU once, for example 2-5,8",
    }
    WORKER_TIMEOUT {
        help: "Seconds that a media worker may stall before it is killed and replaced",
        default: "10",
        allowed: "1 to 600",
    }
    WORKER_MAX_TRANSPORTS {
        help: "Most transports on one media worker; more are refused",
        default: "10000",
        allowed: "1 to 1000000",
    }
    WORKER_MAX_CONSUMERS {
        help: "Most consumers on one media worker; more are not made",
        default: "50000",
        allowed: "1 to 1000000",
    }
    MAX_ROOMS {
        help: "Most rooms at a time; more are refused",
        default: "10000",
        allowed: "1 to 1000000",
    }
    MAX_PEERS {
        help: "Most joined peers in all rooms; more are refused",
        default: "10000",
        allowed: "1 to 1000000",
    }
    DRAIN_TIMEOUT {
        help: "Seconds that calls may go on after SIGTERM, in which no new rooms are taken; 0 \
               ends them at once",
        default: "30",
        allowed: "0 to 86400",
    }
    TRANSPORT_MAX_INCOMING_BITRATE {
        help: "The most that a client is told to send on one transport, bits per second; 0 is no \
               limit",
        default: "5000000",
        allowed: "0 to 1000000000",
    }
    TRANSPORT_INITIAL_OUTGOING_BITRATE {
        help: "What is taken for available towards a client until its feedback tells, bits per \
               second",
        default: "1000000",
        allowed: "1 to 1000000000",
    }
    TRANSPORT_MIN_OUTGOING_BITRATE {
        help: "The least that is taken for available towards a client, bits per second",
        default: "30000",
        allowed: "0 to 1000000000",
    }
    TRANSPORT_MAX_OUTGOING_BITRATE {
        help: "The most that is taken for available towards a client, bits per second; 0 is no \
               limit",
        default: "0",
        allowed: "0 to 1000000000, at least the minimum",
    }
    ROUTER_CODECS {
        help: "Codecs that rooms route, with commas between them. Clients that do not choose \
               take the first that they have",
        default: "opus,vp8,vp9-profile2,h264-main,h264-baseline",
        allowed: ROUTER_CODECS_ALLOWED,
    }
    MEDIASOUP_CLIENT_ENABLE_ICESERVER {
        help: "Whether clients are told about the TURN server",
        default: "yes",
        allowed: BOOLEAN,
    }
    MEDIASOUP_CLIENT_ICESERVER_HOST {
        help: "Public addresses of the TURN servers, with commas between them, each with a port of \
               its own or without; without any none is offered",
        allowed: "at most 8 of HOST or HOST:PORT, an IPv6 address with a port in brackets",
    }
    MEDIASOUP_CLIENT_ICESERVER_PORT {
        help: "Port of the TURN servers that state none",
        default: "3478",
        allowed: PORT,
    }
    MEDIASOUP_CLIENT_ICESERVER_PROTO {
        help: "Transports to the TURN servers, with commas between them; one with a port of its \
               own, as in tls:5349, uses that on every server",
        default: "udp",
        allowed: "udp, tcp and tls, each once and with or without :PORT",
    }
    MEDIASOUP_CLIENT_ICESERVER_USER {
        help: "User name for the TURN servers",
        allowed: TEXT,
        secret: true,
    }
    MEDIASOUP_CLIENT_ICESERVER_PASS {
        help: "Password for the TURN servers; every process can read flags, so use the variable",
        allowed: TEXT,
        secret: true,
    }
    MEDIASOUP_CLIENT_ICESERVER_SECRET {
        help: "Secret shared with the TURN servers (coturn: static-auth-secret). With it each \
               client gets a login of its own that expires, in place of user name and password; \
               every process can read flags, so use the variable",
        allowed: TEXT,
        secret: true,
    }
    MEDIASOUP_CLIENT_ICESERVER_TTL {
        help: "Seconds that such a login can be used",
        default: "86400",
        allowed: "1 to 604800",
    }
    ADMIN_TOKEN {
        help: "Bearer token that /config, /metrics and /admin want; every process can read flags, \
               so use the variable",
        unset: "they answer this machine alone, and /config tells others its documented part",
        allowed: TOKEN,
        secret: true,
    }
    ADMIN_LISTEN {
        help: "Address and port of their own for /config, /metrics and /admin: plain HTTP on \
               loopback, elsewhere TLS as on the public port",
        unset: "they are on the public port",
        allowed: "IP:PORT, for example 127.0.0.1:9090 or [::]:9090",
    }
    API_TOKEN {
        help: "Bearer token for making rooms over HTTP and for broadcasters; every process can \
               read flags, so use the variable",
        unset: "anybody may",
        allowed: TOKEN,
        secret: true,
    }
    CORS_ORIGINS {
        help: "Origins of pages that may use the API and the signaling, with commas between them",
        unset: "any origin",
        allowed: "at most 64 origins such as https://app.example.com",
    }
    ROOM_AUTO_CREATE {
        help: "Whether a peer's connection creates the room that it names",
        default: "yes",
        allowed: BOOLEAN,
    }
    ROOM_MAX_PEERS {
        help: "Most peers in a room that was not given its own limit",
        default: "100",
        allowed: "2 to 10000",
    }
    ROOM_MAX_BROADCASTERS {
        help: "Most broadcasters in a room",
        default: "16",
        allowed: "0 to 1000",
    }
    ROOM_BROADCASTER_TIMEOUT {
        help: "Seconds that a broadcaster may be without a transport; then it is removed",
        default: "60",
        allowed: "1 to 86400",
    }
    ROOM_BROADCASTER_SILENCE {
        help: "Seconds without a packet after which a broadcaster's stream has the score 0",
        unset: "as for everybody: 1.5 of video, 5 of audio",
        allowed: "1 to 3600",
    }
    ROOM_EMPTY_TIMEOUT {
        help: "Seconds until a room that was made over HTTP and that nobody joined is closed",
        default: "300",
        allowed: "1 to 86400",
    }
    WEBHOOK_SECRET {
        help: "Key that webhooks are signed with (HMAC-SHA256); every process can read flags, so \
               use the variable",
        unset: "webhooks are not signed",
        allowed: TEXT,
        secret: true,
    }
    WEBHOOK_ALLOW_PRIVATE {
        help: "Whether webhooks may go to addresses that are not on the public internet",
        default: "yes",
        allowed: BOOLEAN,
    }
    ROOM_JOIN_TIMEOUT {
        help: "Seconds that a connected client has to join its room",
        default: "30",
        allowed: "1 to 86400",
    }
    CONSUMER_REPLICAS_MAX {
        help: "Most extra consumers of each producer that a client may ask for with \
               consumerReplicas in its URL; more are not made",
        default: "4",
        allowed: "0 to 100",
    }
    NETWORK_THROTTLE_SECRET {
        help: "What a client has to know to throttle its own media, for tests of bad networks; \
               every process can read flags, so use the variable",
        unset: "nobody can throttle",
        allowed: TEXT,
        secret: true,
    }
    LOG_FORMAT {
        help: "How log lines look: text for people, json for machines, one object in a line",
        default: "text",
        allowed: "text or json",
    }
    OTEL_EXPORTER_OTLP_ENDPOINT {
        help: "Collector that traces of requests go to, by OTLP over gRPC: http://HOST:PORT",
        unset: "no traces are made",
        allowed: COLLECTOR,
    }
    LOG_LEVEL {
        help: "What is logged: error, warn, info, debug or trace, also for single modules",
        default: "info",
        allowed: LOG_FILTER,
    }
    RUST_LOG {
        help: "The same as LOG_LEVEL; wins over it",
        unset: "LOG_LEVEL",
        allowed: LOG_FILTER,
    }
}

/// Variables whose values no other process needs: workers start without them.
pub static SECRET_VARIABLES: [&str; 7] = [
    "MEDIASOUP_CLIENT_ICESERVER_USER",
    "MEDIASOUP_CLIENT_ICESERVER_PASS",
    "MEDIASOUP_CLIENT_ICESERVER_SECRET",
    "ADMIN_TOKEN",
    "API_TOKEN",
    "WEBHOOK_SECRET",
    "NETWORK_THROTTLE_SECRET",
];

/// Where the value of a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// The configuration file.
    File,
}

impl Origin {
    /// Its name in `GET /config`.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Flag => "flag",
            Origin::Environment => "environment",
            Origin::File => "file",
        }
    }
}

/// What the command line asks for.
pub enum Request {
    /// Print this text (`--help`, `--version`).
    Print(String),
    /// Run with these settings.
    Run(Sources),
    /// Look whether that would work.
    Check(Sources),
}

/// The settings that were given.
pub struct Sources {
    given: BTreeMap<&'static str, (Origin, String)>,
    /// What was wrong before any value was looked at.
    pub problems: Vec<ConfigError>,
}

impl Sources {
    /// Parses the flags, looks the other settings up in `env`, and the rest in
    /// the configuration file if there is one.
    ///
    /// # Errors
    /// [`ConfigError::Usage`]; anything else goes to [`Self::problems`].
    pub fn read<A, E>(args: A, env: E) -> Result<Request, ConfigError>
    where
        A: IntoIterator<Item = OsString>,
        E: Fn(&str) -> Option<OsString>,
    {
        let mut flags = match command().try_get_matches_from(args) {
            Ok(flags) => flags,
            Err(error) => match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    return Ok(Request::Print(error.to_string()));
                }
                _ => return Err(ConfigError::Usage(error.to_string().trim_end().to_owned())),
            },
        };
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let mut flag = |name: &str| flags.remove_one::<OsString>(name);
        let path = flag(FILE_FLAG).or_else(|| env(FILE_VARIABLE));
        let path = path.filter(|path| !path.is_empty()).map(PathBuf::from);
        let (in_file, mut problems) = path.map(|path| file::read(&path)).unwrap_or_default();

        let mut given = BTreeMap::new();
        for setting in ALL {
            let name = setting.variable;
            let flag = flag(name).map(|value| (Origin::Flag, value));
            let env = || Some((Origin::Environment, env(name)?));
            let in_file = || {
                let found = in_file.iter().find(|(it, _)| it.variable == name);
                found.map(|(_, value)| (Origin::File, value.into()))
            };
            let Some((origin, raw)) = flag.or_else(env).or_else(in_file) else {
                continue;
            };
            match raw.into_string() {
                // A flag that is empty takes back what is set elsewhere.
                Ok(value) if value.is_empty() => {}
                Ok(value) => {
                    given.insert(name, (origin, value));
                }
                Err(raw) => problems.push(refusal(setting, &raw.to_string_lossy(), "valid UTF-8")),
            }
        }
        let sources = Self { given, problems };
        Ok(match flags.contains_id(ACTION) {
            true => Request::Check(sources),
            false => Request::Run(sources),
        })
    }

    /// Whether this setting was given.
    pub fn is_set(&self, setting: &Setting) -> bool {
        self.given.contains_key(setting.variable)
    }

    /// Where each setting that was given came from.
    pub fn origins(&self) -> BTreeMap<&'static str, Origin> {
        let origins = self.given.iter();
        origins
            .map(|(name, (origin, _))| (*name, *origin))
            .collect()
    }

    /// Goes on with the default of a setting whose value was refused; answers
    /// whether it was given at all.
    pub fn forget(&mut self, variable: &str) -> bool {
        self.given.remove(variable).is_some()
    }

    /// The value of a setting that has a default.
    pub fn required<T>(
        &self,
        setting: &'static Setting,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let raw = self.raw(setting);
        parse(raw).ok_or_else(|| refusal(setting, raw, setting.allowed))
    }

    /// The value of a setting that may be left out.
    pub fn optional<T>(
        &self,
        setting: &'static Setting,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        if self.is_set(setting) {
            self.required(setting, parse).map(Some)
        } else {
            Ok(None)
        }
    }

    /// An error that refuses the current value of `setting`.
    pub fn refuse(&self, setting: &'static Setting, allowed: &str) -> ConfigError {
        refusal(setting, self.raw(setting), allowed)
    }

    fn raw(&self, setting: &Setting) -> &str {
        self.given
            .get(setting.variable)
            .map_or(setting.default, |(_, value)| value)
    }
}

fn refusal(setting: &'static Setting, raw: &str, allowed: &str) -> ConfigError {
    if setting.secret {
        ConfigError::Value {
            variable: setting.variable,
            value: None,
            allowed: allowed.to_owned(),
        }
    } else {
        ConfigError::value(setting.variable, raw, allowed)
    }
}

fn command() -> Command {
    let mut command = Command::new("webrtc-server")
        .version(env!("CARGO_PKG_VERSION"))
        .about("WebRTC SFU server for mediasoup clients")
        .after_help(
            "A flag wins over its variable, and a variable over the configuration file. An empty \
             variable counts as not set.\n\
             `webrtc-server health` asks the server with the same settings on this machine, and \
             ends with 0 while it takes rooms.",
        )
        .next_line_help(true)
        .arg(
            Arg::new(ACTION)
                .value_parser(clap::builder::PossibleValuesParser::new([CHECK]))
                .hide_possible_values(true)
                .help("check: only tell everything that would keep the server from starting"),
        )
        .arg(
            Arg::new(FILE_FLAG)
                .long(FILE_FLAG)
                .value_name("PATH")
                .value_parser(clap::value_parser!(OsString))
                .help(format!(
                    "Configuration file in TOML: the variables below, in upper or lower case\n\
                     [env: {FILE_VARIABLE}] [unset: none]"
                )),
        );
    for setting in ALL {
        let fallback = match setting.default {
            "" => format!("[unset: {}]", setting.unset),
            default => format!("[default: {default}]"),
        };
        let help = format!(
            "{}\n[env: {}] {fallback} [allowed: {}]",
            setting.help, setting.variable, setting.allowed
        );
        command = command.arg(
            Arg::new(setting.variable)
                .long(setting.flag())
                .value_name("VALUE")
                .value_parser(clap::value_parser!(OsString))
                // A value such as "-5" is told to be wrong by name, not as an
                // unknown flag.
                .allow_hyphen_values(true)
                .help(help),
        );
    }
    command
}
