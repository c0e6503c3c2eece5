//! What a value may look like: one small function per kind of value, `None`
//! for a value that makes no sense.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;
use url::Url;

use super::{LogFormat, Secret, WorkerCpus};
use crate::addresses::MAX_ANNOUNCED;
use crate::ortc::CodecName;

/// Longest part of a refused value that an error repeats, characters.
const SHOWN: usize = 80;
/// Highest number of a CPU that the kernel's masks can name (CPU_SETSIZE).
const MAX_CPU: usize = 1023;
/// Most networks in a list: each request is compared with all of them.
const MAX_NETWORKS: usize = 256;
/// Longest user name, password or token, bytes.
const MAX_TEXT: usize = 512;

/// Most origins of pages.
const MAX_ORIGINS: usize = 64;

/// Why the configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// A value that makes no sense.
    Value {
        /// The environment variable of the setting.
        variable: &'static str,
        /// The value, made printable and short; `None` for a secret.
        value: Option<String>,
        /// What is allowed.
        allowed: String,
    },
    /// The command line itself is wrong; the text says how.
    Usage(String),
    /// The configuration file, or something in it that is no value.
    File {
        /// Its path.
        path: PathBuf,
        /// What is wrong, one line.
        reason: String,
    },
}

impl ConfigError {
    /// An error for a value that may be shown.
    pub fn value(variable: &'static str, value: &str, allowed: impl Into<String>) -> Self {
        let mut shown: String = value.chars().take(SHOWN).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self::Value {
            variable,
            value: Some(shown),
            allowed: allowed.into(),
        }
    }

    /// An error about the configuration file.
    pub fn file(path: &Path, reason: impl Into<String>) -> Self {
        Self::File {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // `{:?}` escapes line ends and control characters: one line, always.
            Self::Value {
                variable,
                value: Some(value),
                allowed,
            } => write!(f, "{variable}={value:?} makes no sense; allowed: {allowed}"),
            Self::Value {
                variable,
                value: None,
                allowed,
            } => write!(
                f,
                "{variable} makes no sense (its value is not shown); allowed: {allowed}"
            ),
            Self::Usage(text) => f.write_str(text),
            Self::File { path, reason } => write!(f, "{}: {reason}", path.display()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Everything that is wrong with the configuration, a line each; not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ConfigError::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

/// A whole number in `range`, in decimal digits.
pub fn number<T: FromStr + PartialOrd>(raw: &str, range: RangeInclusive<T>) -> Option<T> {
    if !raw.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    raw.parse().ok().filter(|n| range.contains(n))
}

/// A port, 1–65535.
pub fn port(raw: &str) -> Option<u16> {
    number(raw, 1..=u16::MAX)
}

/// A yes or no, in any case.
pub fn boolean(raw: &str) -> Option<bool> {
    match raw.to_ascii_lowercase().as_str() {
        "yes" | "true" | "1" | "on" => Some(true),
        "no" | "false" | "0" | "off" => Some(false),
        _ => None,
    }
}

/// An IP address to listen on.
pub fn listen_ip(raw: &str) -> Option<IpAddr> {
    raw.parse::<IpAddr>().ok().filter(|ip| !ip.is_multicast())
}

/// An IP address and a port to listen on.
pub fn socket_address(raw: &str) -> Option<SocketAddr> {
    let address = raw.parse::<SocketAddr>().ok()?;
    (!address.ip().is_multicast() && address.port() != 0).then_some(address)
}

/// A file's path.
pub fn path(raw: &str) -> Option<PathBuf> {
    (!raw.contains('\0')).then(|| PathBuf::from(raw))
}

/// Text that goes into JSON and into a `turn:` login.
pub fn text(raw: &str) -> Option<String> {
    (raw.len() <= MAX_TEXT && !raw.chars().any(char::is_control)).then(|| raw.to_owned())
}

/// A bearer token: what an `Authorization` header can carry as one word.
pub fn token(raw: &str) -> Option<Secret> {
    (raw.len() <= MAX_TEXT && raw.bytes().all(|b| b.is_ascii_graphic())).then(|| Secret::new(raw))
}

/// Origins with commas between them, as browsers write them in `Origin`.
pub fn origins(raw: &str) -> Option<Vec<String>> {
    let origins: Option<Vec<String>> = raw.split(',').map(|one| origin(one.trim())).collect();
    origins.filter(|origins| origins.len() <= MAX_ORIGINS)
}

/// One origin (RFC 6454 §6.2): a default port is left out, a path refused.
fn origin(raw: &str) -> Option<String> {
    let (scheme, authority) = raw.split_once("://")?;
    let url = Url::parse(raw).ok().filter(Url::has_host)?;
    if authority.contains(['/', '?', '#', '@']) {
        return None;
    }
    if matches!(scheme, "http" | "https") {
        return Some(url.origin().ascii_serialization());
    }
    // Native web views have schemes of their own.
    Some(raw.to_ascii_lowercase())
}

/// A collector of traces: an `http` URL of a host, with nothing else in it.
pub fn collector(raw: &str) -> Option<String> {
    let url = Url::parse(raw).ok().filter(Url::has_host)?;
    let bare = url.username().is_empty() && url.password().is_none() && url.path() == "/";
    let bare = bare && url.query().is_none() && url.fragment().is_none();
    (bare && url.scheme() == "http").then(|| raw.to_owned())
}

/// A tracing filter.
pub fn log_filter(raw: &str) -> Option<String> {
    EnvFilter::try_new(raw).ok().map(|_| raw.to_owned())
}

/// Which CPUs workers are pinned to: `none`, or numbers and ranges, each CPU
/// once.
pub fn worker_cpus(raw: &str) -> Option<WorkerCpus> {
    if raw.eq_ignore_ascii_case("none") {
        return Some(WorkerCpus::Unpinned);
    }
    let mut cpus = Vec::new();
    for part in raw.split(',') {
        let part = part.trim();
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = number(first, 0..=MAX_CPU)?..=number(last, 0..=MAX_CPU)?;
        if range.is_empty() || range.clone().any(|cpu| cpus.contains(&cpu)) {
            return None;
        }
        cpus.extend(range);
    }
    Some(WorkerCpus::List(cpus))
}

/// Addresses and networks (CIDR), an address being the network of itself.
pub fn networks(raw: &str) -> Option<Vec<IpNet>> {
    let one = |text: &str| {
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        text.parse().ok().or_else(address)
    };
    let all: Option<Vec<IpNet>> = raw.split(',').map(|part| one(part.trim())).collect();
    all.filter(|all| all.len() <= MAX_NETWORKS)
}

/// Codecs by name, each once, at least one.
pub fn router_codecs(raw: &str) -> Option<Vec<CodecName>> {
    let mut codecs = Vec::new();
    for name in raw.split(',') {
        let codec = CodecName::parse(name.trim())?;
        if codecs.contains(&codec) {
            return None;
        }
        codecs.push(codec);
    }
    Some(codecs)
}

/// How log lines look.
pub fn log_format(raw: &str) -> Option<LogFormat> {
    match raw.to_ascii_lowercase().as_str() {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    }
}

/// A host as it goes into a URL: an IPv6 address gets brackets.
pub fn url_host(raw: &str) -> Option<String> {
    let bare = raw
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match bare.unwrap_or(raw).parse::<Ipv6Addr>() {
        Ok(ip) => Some(format!("[{ip}]")),
        Err(_) => host_name(raw),
    }
}

/// Addresses and host names as they go into ICE candidates, each once.
pub fn announced(raw: &str) -> Option<Vec<String>> {
    let mut all = Vec::new();
    for one in raw.split(',') {
        let one = announced_address(one.trim())?;
        if all.contains(&one) || all.len() == MAX_ANNOUNCED {
            return None;
        }
        all.push(one);
    }
    Some(all)
}

fn announced_address(raw: &str) -> Option<String> {
    match raw.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() || ip.is_multicast() => None,
        Ok(ip) => Some(ip.to_string()),
        Err(_) => host_name(raw),
    }
}

/// A host name (RFC 1123, underscores tolerated) or an IPv4 address. A name
/// whose last label is all digits can only be an address, so it must be one.
fn host_name(raw: &str) -> Option<String> {
    if raw.parse::<std::net::Ipv4Addr>().is_ok() {
        return Some(raw.to_owned());
    }
    let name = raw.strip_suffix('.').unwrap_or(raw);
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit());
    (name.len() <= 253 && name.split('.').all(label_ok) && !numeric).then(|| raw.to_owned())
}
