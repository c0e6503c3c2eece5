//! Which addresses candidates carry: the announced one, or the usable ones of
//! this machine.

use std::net::{IpAddr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::config::Config;

/// Why there can be no server when nothing is announced.
pub const NONE: &str = "MEDIASOUP_ANNOUNCED_IP is not set and this machine has no usable address";

/// Most addresses that are announced: each costs a candidate on every
/// transport, and clients check every pair.
pub const MAX_ANNOUNCED: usize = 8;

/// Interfaces that lead only to containers and virtual machines of this host.
const BRIDGES: [&str; 9] = [
    "docker", "br-", "veth", "cni", "virbr", "podman", "lxcbr", "lxdbr", "cali",
];

/// One address of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Name of the interface, for example `eth0`.
    pub interface: String,
    /// Its address.
    pub ip: IpAddr,
    /// Whether the interface is up.
    pub up: bool,
}

/// What a candidate carries as its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnouncedAddress {
    /// An IP address, IPv6 without brackets, or a host name.
    pub address: String,
    /// Family of the address; `None` for a host name.
    pub family: Option<Family>,
}

/// Family of an IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl AnnouncedAddress {
    /// From an IP address or a host name.
    pub fn new(address: impl Into<String>) -> Self {
        let address = address.into();
        let family = match address.parse() {
            Ok(IpAddr::V4(_)) => Some(Family::V4),
            Ok(IpAddr::V6(_)) => Some(Family::V6),
            Err(_) => None,
        };
        Self { address, family }
    }

    /// The IP address, `None` for a host name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.parse().ok()
    }
}

/// The addresses of this machine, as the kernel lists them; empty when it
/// does not tell.
pub fn interfaces() -> Vec<InterfaceAddress> {
    let Ok(list) = getifaddrs() else {
        return Vec::new();
    };
    list.filter_map(|entry| {
        let address = entry.address?;
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) => IpAddr::V6(v6.ip()),
            _ => return None,
        };
        Some(InterfaceAddress {
            interface: entry.interface_name,
            ip,
            up: entry.flags.contains(InterfaceFlags::IFF_UP),
        })
    })
    .collect()
}

/// The addresses that candidates carry, most useful first, at most
/// [`MAX_ANNOUNCED`]. Empty when a wildcard listens and the machine has no
/// usable address.
pub fn announced(config: &Config, machine: &[InterfaceAddress]) -> Vec<AnnouncedAddress> {
    if !config.announced.is_empty() {
        let given = config.announced.iter();
        return given.map(AnnouncedAddress::new).collect();
    }
    let listen = config.media_listen_ip;
    if !listen.is_unspecified() {
        return vec![AnnouncedAddress::new(listen.to_string())];
    }
    let usable: Vec<&InterfaceAddress> = machine
        .iter()
        .filter(|a| a.up && is_usable(a.ip) && (listen.is_ipv6() || a.ip.is_ipv4()))
        .collect();
    let outside = |bridges: bool| -> Vec<IpAddr> {
        usable
            .iter()
            .filter(|a| !a.ip.is_loopback() && is_bridge(&a.interface) == bridges)
            .map(|a| a.ip)
            .collect()
    };
    let mut chosen = outside(false);
    if chosen.is_empty() {
        chosen = outside(true);
    }
    let loopback = usable.iter().map(|a| a.ip).filter(IpAddr::is_loopback);
    let mut chosen = alternate(chosen);
    chosen.extend(alternate(loopback.collect()));
    chosen.truncate(MAX_ANNOUNCED);
    chosen
        .into_iter()
        .map(|ip| AnnouncedAddress::new(ip.to_string()))
        .collect()
}

/// Whether clients outside cannot reach `ip`: loopback, RFC 1918, RFC 6598,
/// RFC 4193.
pub fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_loopback() || v4.is_private() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local(),
    }
}

fn is_bridge(interface: &str) -> bool {
    BRIDGES.iter().any(|prefix| interface.starts_with(prefix))
}

fn is_usable(ip: IpAddr) -> bool {
    if ip.is_unspecified() || ip.is_multicast() {
        return false;
    }
    match ip {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && !is_mapped(v6),
    }
}

fn is_mapped(ip: Ipv6Addr) -> bool {
    ip.to_ipv4_mapped().is_some()
}

/// IPv4 and IPv6 in turn and without repetition, so that a machine with many
/// addresses of one family still announces the other.
fn alternate(ips: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut v4 = ips.iter().copied().filter(IpAddr::is_ipv4);
    let mut v6 = ips.iter().copied().filter(IpAddr::is_ipv6);
    let mut order: Vec<IpAddr> = Vec::with_capacity(ips.len());
    loop {
        let pair = [v4.next(), v6.next()];
        if pair == [None, None] {
            return order;
        }
        for ip in pair.into_iter().flatten() {
            if !order.contains(&ip) {
                order.push(ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(list: &[(&str, &str)]) -> Vec<InterfaceAddress> {
        list.iter()
            .map(|(interface, ip)| InterfaceAddress {
                interface: interface.trim_end_matches('!').to_owned(),
                ip: ip.parse().unwrap(),
                up: !interface.ends_with('!'),
            })
            .collect()
    }

    fn chosen(listen: &str, announce: Option<&str>, list: &[(&str, &str)]) -> Vec<String> {
        let config = Config {
            media_listen_ip: listen.parse().unwrap(),
            announced: announce
                .map(|list| list.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
            ..Config::default()
        };
        announced(&config, &machine(list))
            .into_iter()
            .map(|a| a.address)
            .collect()
    }

    const LAPTOP: &[(&str, &str)] = &[
        ("lo", "127.0.0.1"),
        ("lo", "::1"),
        ("docker0", "172.17.0.1"),
        ("br-1a2b", "172.18.0.1"),
        ("eth0", "192.0.2.2"),
        ("eth0", "2001:db8::2"),
        ("eth0", "fe80::1"),
        ("wlan0", "169.254.3.4"),
        ("wlan0", "10.0.0.7"),
        ("tun0!", "10.9.9.9"),
    ];

    /// Defect seed 20: an announced address that was given wins.
    #[test]
    fn addresses_are_chosen() {
        type Row<'a> = (
            &'a str,
            Option<&'a str>,
            &'a [(&'a str, &'a str)],
            &'a [&'a str],
        );
        let bridges_only: &[(&str, &str)] = &[
            ("lo", "127.0.0.1"),
            ("docker0", "172.17.0.1"),
            ("veth1", "169.254.1.1"),
        ];
        let table: &[Row] = &[
            (
                "0.0.0.0",
                None,
                LAPTOP,
                &["192.0.2.2", "10.0.0.7", "127.0.0.1"],
            ),
            (
                "::",
                None,
                LAPTOP,
                &["192.0.2.2", "2001:db8::2", "10.0.0.7", "127.0.0.1", "::1"],
            ),
            ("0.0.0.0", None, bridges_only, &["172.17.0.1", "127.0.0.1"]),
            ("0.0.0.0", None, &[("lo", "127.0.0.1")], &["127.0.0.1"]),
            ("0.0.0.0", None, &[], &[]),
            ("127.0.0.1", None, LAPTOP, &["127.0.0.1"]),
            ("2001:db8::2", None, LAPTOP, &["2001:db8::2"]),
            ("0.0.0.0", Some("203.0.113.9"), LAPTOP, &["203.0.113.9"]),
            ("::", Some("sfu.example.com"), LAPTOP, &["sfu.example.com"]),
            (
                "::",
                Some("203.0.113.9,2001:db8::9"),
                LAPTOP,
                &["203.0.113.9", "2001:db8::9"],
            ),
        ];
        for (listen, announce, list, want) in table {
            assert_eq!(
                chosen(listen, *announce, list),
                *want,
                "{listen} {announce:?}"
            );
        }
    }

    #[test]
    fn many_addresses_of_one_family_do_not_crowd_out_the_other() {
        let mut list = Vec::new();
        let v6: Vec<String> = (1..20).map(|n| format!("2001:db8::{n:x}")).collect();
        list.extend(v6.iter().map(|ip| ("eth0", ip.as_str())));
        list.push(("eth0", "192.0.2.2"));
        list.push(("eth1", "192.0.2.2"));
        let got = chosen("::", None, &list);
        assert_eq!(got.len(), MAX_ANNOUNCED);
        assert_eq!(got[..2], ["192.0.2.2", "2001:db8::1"]);
        assert_eq!(got.iter().filter(|ip| *ip == "192.0.2.2").count(), 1);
    }

    #[test]
    fn families() {
        assert_eq!(AnnouncedAddress::new("192.0.2.1").family, Some(Family::V4));
        assert_eq!(AnnouncedAddress::new("::1").family, Some(Family::V6));
        assert_eq!(AnnouncedAddress::new("a.example").family, None);
        assert_eq!(AnnouncedAddress::new("a.example").ip(), None);
    }

    #[test]
    fn private_addresses() {
        for ip in [
            "127.0.0.1",
            "10.1.1.1",
            "172.31.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "fd00::1",
            "::1",
        ] {
            assert!(is_private(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:db8::1"] {
            assert!(!is_private(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn this_machine_has_a_loopback_address() {
        assert!(interfaces().iter().any(|a| a.up && a.ip.is_loopback()));
    }
}
