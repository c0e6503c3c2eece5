//! The table of settings, `--help` made from it, and the look-up of a setting
//! in flags, environment and default, in this order.

use std::collections::HashMap;
use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Arg, Command};

use super::ConfigError;

/// Most media workers that can be asked for. More can only be a mistake, and
/// would keep the machine from doing anything else.
pub const MAX_WORKERS: u16 = 256;
/// Most peers that a room can be given.
pub const MAX_PEERS: u32 = 10_000;
/// Longest time that can be set, seconds.
pub const MAX_SECONDS: u64 = 86_400;
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
const TEXT: &str = "at most 512 bytes without control characters";

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
        help: "Public IP address or host name that clients send media to",
        unset: "the listen address, or every usable address of this machine",
        allowed: "an IP address that can be reached, or a host name",
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
    MEDIASOUP_CLIENT_ENABLE_ICESERVER {
        help: "Whether clients are told about the TURN server",
        default: "yes",
        allowed: "yes, true, 1, on, no, false, 0 or off",
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
        help: "Bearer token that /config and the admin paths want; every process can read flags, \
               so use the variable",
        unset: "the admin paths answer loopback only",
        allowed: "at most 512 visible ASCII characters",
        secret: true,
    }
    ROOM_MAX_PEERS {
        help: "Most peers in a room that was not given its own limit",
        default: "100",
        allowed: "2 to 10000",
    }
    ROOM_EMPTY_TIMEOUT {
        help: "Seconds until a room that was made over HTTP and that nobody joined is closed",
        default: "300",
        allowed: "1 to 86400",
    }
    RUST_LOG {
        help: "What is logged: error, warn, info, debug or trace, also for single modules",
        default: "info",
        allowed: "a tracing filter, for example info or info,control=debug",
    }
}

/// Variables whose values no other process needs: workers start without them.
pub static SECRET_VARIABLES: [&str; 4] = [
    "MEDIASOUP_CLIENT_ICESERVER_USER",
    "MEDIASOUP_CLIENT_ICESERVER_PASS",
    "MEDIASOUP_CLIENT_ICESERVER_SECRET",
    "ADMIN_TOKEN",
];

/// The settings that were given, by flag or variable.
pub struct Sources {
    given: HashMap<&'static str, String>,
}

impl Sources {
    /// Parses the flags and looks the other settings up in `env`. The inner
    /// error is the text of `--help` or `--version`.
    pub fn read<A, E>(args: A, env: E) -> Result<Result<Self, String>, ConfigError>
    where
        A: IntoIterator<Item = OsString>,
        E: Fn(&str) -> Option<OsString>,
    {
        let mut flags = match command().try_get_matches_from(args) {
            Ok(flags) => flags,
            Err(error) => match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    return Ok(Err(error.to_string()));
                }
                _ => return Err(ConfigError::Usage(error.to_string().trim_end().to_owned())),
            },
        };
        let mut given = HashMap::new();
        for setting in ALL {
            let raw = flags
                .remove_one::<OsString>(setting.variable)
                .or_else(|| env(setting.variable));
            match raw.map(OsString::into_string) {
                None => {}
                Some(Ok(value)) if value.is_empty() => {}
                Some(Ok(value)) => {
                    given.insert(setting.variable, value);
                }
                Some(Err(raw)) => {
                    return Err(refusal(setting, &raw.to_string_lossy(), "valid UTF-8"));
                }
            }
        }
        Ok(Ok(Self { given }))
    }

    /// Whether a flag or variable gave this setting.
    pub fn is_set(&self, setting: &Setting) -> bool {
        self.given.contains_key(setting.variable)
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
            .map_or(setting.default, String::as_str)
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
            "A flag wins over its variable. An empty variable counts as not set.\n\
             `webrtc-server health` asks the server with the same settings on this machine, and \
             ends with 0 while it takes rooms.",
        )
        .next_line_help(true);
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
