//! What a value may look like: one small function per kind of value, `None`
//! for a value that makes no sense.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

use super::Secret;

/// Longest part of a refused value that an error repeats, characters.
const SHOWN: usize = 80;
/// Longest user name, password or token, bytes.
const MAX_TEXT: usize = 512;

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
        }
    }
}

impl std::error::Error for ConfigError {}

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

/// A tracing filter.
pub fn log_filter(raw: &str) -> Option<String> {
    EnvFilter::try_new(raw).ok().map(|_| raw.to_owned())
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

/// An address or host name as it goes into an ICE candidate.
pub fn announced(raw: &str) -> Option<String> {
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
