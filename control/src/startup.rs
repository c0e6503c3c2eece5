//! What is told once everything is up: where to open the server, and what it
//! runs on. A block of text for people, an event for logs that machines read.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tracing::{info, warn};

use crate::addresses::{AnnouncedAddress, is_private};
use crate::config::Config;
use crate::workers::WorkerStatus;

/// Longest list of URLs; more would hide the first.
const MAX_URLS: usize = 4;

/// What the block tells.
#[derive(Debug, Clone, Copy)]
pub struct Startup<'a> {
    /// The effective configuration.
    pub config: &'a Config,
    /// Addresses of this machine that can be opened in a browser, see
    /// [`crate::addresses::announced`].
    pub announced: &'a [AnnouncedAddress],
    /// The workers, all of them ready.
    pub workers: &'a [WorkerStatus],
    /// One line about the certificate in use.
    pub certificate: &'a str,
    /// What the operator should know, one line each.
    pub notes: &'a [String],
}

impl Startup<'_> {
    /// The block, several lines with a line end after the last. No secret is
    /// in it.
    pub fn block(&self) -> String {
        let mut block = format!("\nwebrtc-server {} is ready\n\n", env!("CARGO_PKG_VERSION"));
        rows(&mut block, "Open", self.urls());
        rows(&mut block, "Admin", self.admin_url());
        rows(&mut block, "Certificate", [self.certificate.to_owned()]);
        rows(&mut block, "Announced", [self.announced()]);
        rows(&mut block, "Workers", self.workers.iter().map(worker));
        rows(
            &mut block,
            "Note",
            self.notes.iter().cloned().chain(self.hint()),
        );
        block.push('\n');
        block
    }

    /// The same as one event. The notes are left to the caller, the hint is not.
    pub fn log(&self) {
        let workers: Vec<String> = self.workers.iter().map(worker).collect();
        info!(
            version = env!("CARGO_PKG_VERSION"),
            urls = self.urls().join(", "),
            admin = self.admin_url(),
            certificate = self.certificate,
            announced = self.announced(),
            workers = workers.join(", "),
            "the server is ready"
        );
        if let Some(hint) = self.hint() {
            warn!("{hint}");
        }
    }

    fn announced(&self) -> String {
        let announced = self.announced.iter().map(|a| a.address.as_str());
        let announced: Vec<&str> = announced.collect();
        match announced.as_slice() {
            [] => "nothing".to_owned(),
            list => list.join(", "),
        }
    }

    /// Where a browser finds the server: by its public name first, then on
    /// this machine, then by the addresses that it listens on.
    fn urls(&self) -> Vec<String> {
        let config = self.config;
        let mut urls = Vec::new();
        if let Some(host) = &config.ingress_host {
            // Clients always come by HTTPS, if need be to a proxy.
            urls.push(url("https", host, config.client_port));
        }
        let scheme = if config.https_enabled {
            "https"
        } else {
            "http"
        };
        let own = |host: &str| url(scheme, host, config.listen_port);
        let listen = config.listen_ip;
        if listen.is_unspecified() {
            urls.push(own("localhost"));
            let reachable = self
                .announced
                .iter()
                .filter_map(AnnouncedAddress::ip)
                .filter(|ip| !ip.is_loopback() && (listen.is_ipv6() || ip.is_ipv4()));
            urls.extend(reachable.map(|ip| own(&in_url(ip))));
        } else if [
            IpAddr::from([127, 0, 0, 1]),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ]
        .contains(&listen)
        {
            urls.push(own("localhost"));
        } else {
            urls.push(own(&in_url(listen)));
        }
        urls.truncate(MAX_URLS);
        urls
    }

    /// Where the admin paths are, if they have an address of their own.
    fn admin_url(&self) -> Option<String> {
        let address = self.config.admin_listen?;
        let scheme = match admin_speaks_tls(self.config, address) {
            true => "https",
            false => "http",
        };
        Some(format!("{scheme}://{address}/admin"))
    }

    /// The most common mistake: nobody outside can reach the media.
    fn hint(&self) -> Option<String> {
        if self.announced.is_empty() {
            return Some(
                "this machine has no usable address for media; set MEDIASOUP_ANNOUNCED_IP"
                    .to_owned(),
            );
        }
        let private = |a: &AnnouncedAddress| a.ip().is_some_and(is_private);
        let only_private = self.announced.iter().all(private);
        (only_private && self.config.announced.is_empty()).then(|| {
            "clients outside this network cannot reach private addresses; for them set \
             MEDIASOUP_ANNOUNCED_IP to the public address"
                .to_owned()
        })
    }
}

/// Whether the listener of the admin paths speaks TLS. Nobody can listen in on
/// loopback, and what scrapes metrics there has no certificate to trust.
pub fn admin_speaks_tls(config: &Config, address: SocketAddr) -> bool {
    config.https_enabled && !address.ip().to_canonical().is_loopback()
}

/// What the operator should know of `ADMIN_LISTEN`, one line each.
pub fn admin_notes(config: &Config) -> Vec<String> {
    let mut notes = Vec::new();
    let Some(address) = config.admin_listen else {
        return notes;
    };
    if address.ip().to_canonical().is_loopback() {
        return notes;
    }
    if config.admin_token.is_none() {
        notes.push(
            "ADMIN_LISTEN is reachable from other machines, but without ADMIN_TOKEN none of them \
             is answered"
                .to_owned(),
        );
    }
    if !config.https_enabled {
        notes.push(
            "HTTPS_ENABLED=no: the admin token passes ADMIN_LISTEN in the clear; keep it in a \
             network that you trust"
                .to_owned(),
        );
    }
    notes
}

fn url(scheme: &str, host: &str, port: u16) -> String {
    match (scheme, port) {
        ("https", 443) | ("http", 80) => format!("{scheme}://{host}/"),
        (scheme, port) => format!("{scheme}://{host}:{port}/"),
    }
}

fn in_url(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn worker(status: &WorkerStatus) -> String {
    let pid = status.pid.map_or("none".to_owned(), |pid| pid.to_string());
    let core = match status.cpu {
        Some(cpu) => format!("core {cpu}"),
        None => "unpinned".to_owned(),
    };
    let (first, last) = status.ports;
    format!(
        "mediaworker-{}  pid {pid}  {core}  ports {first}–{last}",
        status.index
    )
}

/// One row for each value; only the first carries the label.
fn rows(block: &mut String, label: &str, values: impl IntoIterator<Item = String>) {
    let mut label = label;
    for value in values {
        // Writing into a String cannot fail.
        let _ = writeln!(block, "  {label:<13}{value}");
        label = "";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers() -> Vec<WorkerStatus> {
        let status = |index, cpu, ports| WorkerStatus {
            index,
            pid: Some(100 + index as u32),
            cpu,
            ports,
            ..WorkerStatus::default()
        };
        vec![
            status(0, Some(0), (40_000, 44_999)),
            status(1, None, (45_000, 49_999)),
        ]
    }

    fn block(config: &Config, announced: &[&str], notes: &[String]) -> String {
        let announced: Vec<_> = announced
            .iter()
            .map(|a| AnnouncedAddress::new(*a))
            .collect();
        Startup {
            config,
            announced: &announced,
            workers: &workers(),
            certificate: "certs/fullchain.pem (self-signed, just made)",
            notes,
        }
        .block()
    }

    #[test]
    fn the_block_shows_everything() {
        let notes = ["something odd".to_owned()];
        let text = block(&Config::default(), &["192.168.0.2", "127.0.0.1"], &notes);
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            text,
            format!(
                "
webrtc-server {version} is ready

  Open         https://localhost:4443/
               https://192.168.0.2:4443/
  Certificate  certs/fullchain.pem (self-signed, just made)
  Announced    192.168.0.2, 127.0.0.1
  Workers      mediaworker-0  pid 100  core 0  ports 40000–44999
               mediaworker-1  pid 101  unpinned  ports 45000–49999
  Note         something odd
               clients outside this network cannot reach private addresses; for them set \
                 MEDIASOUP_ANNOUNCED_IP to the public address

"
            )
        );
    }

    fn urls(listen: &str, ingress: Option<&str>, announced: &[&str]) -> Vec<String> {
        let config = Config {
            listen_ip: listen.parse().unwrap(),
            ingress_host: ingress.map(str::to_owned),
            ..Config::default()
        };
        let text = block(&config, announced, &[]);
        let urls = text.split_whitespace().filter(|w| w.starts_with("https"));
        urls.map(str::to_owned).collect()
    }

    #[test]
    fn urls_are_those_that_can_be_opened() {
        let both = &["192.0.2.1", "2001:db8::1"];
        assert_eq!(
            urls("0.0.0.0", None, both),
            ["https://localhost:4443/", "https://192.0.2.1:4443/"]
        );
        assert_eq!(
            urls("::", None, both),
            [
                "https://localhost:4443/",
                "https://192.0.2.1:4443/",
                "https://[2001:db8::1]:4443/"
            ]
        );
        assert_eq!(urls("127.0.0.1", None, both), ["https://localhost:4443/"]);
        assert_eq!(urls("127.0.0.2", None, both), ["https://127.0.0.2:4443/"]);
        assert_eq!(urls("192.0.2.1", None, both), ["https://192.0.2.1:4443/"]);
        assert_eq!(
            urls("192.0.2.1", Some("rtc.example.com"), both),
            ["https://rtc.example.com/", "https://192.0.2.1:4443/"]
        );
        assert_eq!(
            urls("0.0.0.0", None, &["sfu.example"]),
            ["https://localhost:4443/"]
        );
        assert_eq!(urls("0.0.0.0", None, &["192.0.2.1"; 9]).len(), MAX_URLS);
    }

    #[test]
    fn urls_without_tls_say_so() {
        for (port, want) in [(80, "http://localhost/"), (443, "http://localhost:443/")] {
            let config = Config {
                listen_ip: IpAddr::from([127, 0, 0, 1]),
                listen_port: port,
                https_enabled: false,
                ingress_host: Some("rtc.example.com".into()),
                ..Config::default()
            };
            let text = block(&config, &[], &[]);
            let urls: Vec<&str> = text
                .split_whitespace()
                .filter(|w| w.contains("://"))
                .collect();
            assert_eq!(urls, ["https://rtc.example.com/", want]);
        }
    }

    #[test]
    fn the_address_of_the_admin_paths() {
        for (address, https, token, url, notes) in [
            (
                "127.0.0.1:9090",
                true,
                false,
                "http://127.0.0.1:9090/admin",
                0,
            ),
            ("[::1]:9090", false, false, "http://[::1]:9090/admin", 0),
            (
                "10.0.0.1:9090",
                true,
                true,
                "https://10.0.0.1:9090/admin",
                0,
            ),
            (
                "10.0.0.1:9090",
                true,
                false,
                "https://10.0.0.1:9090/admin",
                1,
            ),
            (
                "10.0.0.1:9090",
                false,
                false,
                "http://10.0.0.1:9090/admin",
                2,
            ),
        ] {
            let config = Config {
                admin_listen: Some(address.parse().unwrap()),
                https_enabled: https,
                admin_token: token.then(|| crate::config::Secret::new("t")),
                ..Config::default()
            };
            let text = block(&config, &[], &[]);
            assert!(text.contains(&format!("  Admin        {url}\n")), "{text}");
            assert_eq!(admin_notes(&config).len(), notes, "{address}");
        }
        assert!(!block(&Config::default(), &[], &[]).contains("Admin"));
    }

    #[test]
    fn the_hint_is_for_those_who_need_it() {
        let hint = |announced: Option<&str>, list: &[&str]| {
            let config = Config {
                announced: announced.map(str::to_owned).into_iter().collect(),
                ..Config::default()
            };
            block(&config, list, &[]).contains("MEDIASOUP_ANNOUNCED_IP")
        };
        assert!(hint(None, &["10.0.0.1", "127.0.0.1"]));
        assert!(hint(None, &[]));
        assert!(!hint(None, &["10.0.0.1", "8.8.8.8"]));
        assert!(!hint(Some("10.0.0.1"), &["10.0.0.1"]));
        assert!(!hint(Some("sfu.example"), &["sfu.example"]));
    }
}
