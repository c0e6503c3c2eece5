//! Where the remote of a plain transport is, and how it is found out.
//!
//! With `comedia` its address is that of its first packet that makes sense; until
//! then nothing is sent. From then on, and with an address that was given from the
//! start, packets from elsewhere are not its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::transport::{Protocol, TransportError, Tuple};

/// The ports of a plain transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnPorts {
    /// For RTP, and with multiplexing (RFC 5761) for RTCP.
    pub rtp: u16,
    /// For RTCP, unless it is multiplexed.
    pub rtcp: Option<u16>,
}

impl OwnPorts {
    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        std::iter::once(self.rtp).chain(self.rtcp)
    }
}

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Media.
    Rtp,
    /// Reports and feedback.
    Rtcp,
}

/// The addresses of the two ends.
#[derive(Debug)]
pub struct Remote {
    ports: OwnPorts,
    comedia: bool,
    rtp: Option<Tuple>,
    /// Unless RTCP is multiplexed.
    rtcp: Option<Tuple>,
}

impl Remote {
    /// Nothing is known of the remote yet.
    pub fn new(ports: OwnPorts, comedia: bool) -> Self {
        Self {
            ports,
            comedia,
            rtp: None,
            rtcp: None,
        }
    }

    /// Our ports.
    pub fn ports(&self) -> OwnPorts {
        self.ports
    }

    /// RTP and RTCP share a port.
    pub fn is_muxed(&self) -> bool {
        self.ports.rtcp.is_none()
    }

    /// Addresses are those of the first packets.
    pub fn is_comedia(&self) -> bool {
        self.comedia
    }

    /// The way for RTP.
    pub fn rtp(&self) -> Option<Tuple> {
        self.rtp
    }

    /// The way for RTCP.
    pub fn rtcp(&self) -> Option<Tuple> {
        if self.is_muxed() { self.rtp } else { self.rtcp }
    }

    /// Checks the address that was given, and answers the ways to it. `None` when
    /// none was given, as it has to be with `comedia`.
    ///
    /// # Errors
    /// [`TransportError::Invalid`], naming the field.
    pub fn check(
        &self,
        address: Option<&str>,
        port: Option<u32>,
        rtcp_port: Option<u32>,
    ) -> Result<Option<Given>, TransportError> {
        let invalid = |text: &str| Err(TransportError::Invalid(text.into()));
        if self.comedia {
            for (field, given) in [
                ("ip", address.is_some()),
                ("port", port.is_some()),
                ("rtcpPort", rtcp_port.is_some()),
            ] {
                if given {
                    return invalid(&format!("{field}: is learnt with comedia"));
                }
            }
            return Ok(None);
        }
        let Some(address) = address else {
            return invalid("ip: is missing");
        };
        let parsed = address.parse::<IpAddr>().map(|ip| ip.to_canonical());
        let Some(ip) = parsed.ok().filter(is_one_host) else {
            return invalid(&format!("ip: {address:?} is not the address of a host"));
        };
        let rtp = tuple(ip, self.ports.rtp, number("port", port)?);
        let rtcp = match (self.ports.rtcp, rtcp_port) {
            (None, Some(_)) => return invalid("rtcpPort: not with rtcpMux"),
            (None, None) => None,
            (Some(own), port) => Some(tuple(ip, own, number("rtcpPort", port)?)),
        };
        Ok(Some(Given { rtp, rtcp }))
    }

    /// Takes an address that was checked.
    pub fn set(&mut self, given: Given) {
        self.rtp = Some(given.rtp);
        self.rtcp = given.rtcp;
    }

    /// Whether a packet comes from the remote, as far as that is known.
    pub fn admits(&self, channel: Channel, from: Tuple) -> bool {
        let known = match channel {
            Channel::Rtcp if !self.is_muxed() => self.rtcp,
            _ => self.rtp,
        };
        match known {
            Some(known) => known.remote == from.remote,
            None if !self.comedia => false,
            // RTCP comes from where RTP does, not the other way round: it is easier to
            // make up.
            None => {
                let rtp = self.rtp;
                rtp.is_none_or(|rtp| rtp.remote.ip() == from.remote.ip())
            }
        }
    }

    /// A packet that makes sense has come: with `comedia`, the first one shows
    /// where the remote is. True if that is news.
    pub fn learn(&mut self, channel: Channel, from: Tuple) -> bool {
        let is_muxed = self.is_muxed();
        let place = match channel {
            Channel::Rtcp if !is_muxed => &mut self.rtcp,
            _ => &mut self.rtp,
        };
        let is_news = self.comedia && place.is_none();
        if is_news {
            *place = Some(from);
        }
        if channel == Channel::Rtp {
            let ip = from.remote.ip();
            self.rtcp = self.rtcp.filter(|rtcp| rtcp.remote.ip() == ip);
        }
        is_news
    }

    /// Forgets what was learnt.
    pub fn forget(&mut self) {
        if self.comedia {
            (self.rtp, self.rtcp) = (None, None);
        }
    }
}

/// Ways to an address that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    rtp: Tuple,
    rtcp: Option<Tuple>,
}

fn number(field: &str, port: Option<u32>) -> Result<u16, TransportError> {
    let Some(port) = port else {
        return Err(TransportError::Invalid(format!("{field}: is missing")));
    };
    let found = u16::try_from(port).ok().filter(|port| *port > 0);
    found.ok_or_else(|| TransportError::Invalid(format!("{field}: {port} is not in 1..=65535")))
}

fn is_one_host(ip: &IpAddr) -> bool {
    let is_special = match ip {
        IpAddr::V4(v4) => v4.is_broadcast(),
        // Which link that is on, the address does not say.
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(ip.is_unspecified() || ip.is_multicast() || is_special)
}

/// The kernel picks our own address.
fn tuple(ip: IpAddr, own: u16, port: u16) -> Tuple {
    Tuple {
        remote: SocketAddr::new(ip, port),
        local: match ip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        },
        protocol: Protocol::OwnPort(own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPLIT: OwnPorts = OwnPorts {
        rtp: 4000,
        rtcp: Some(4001),
    };
    const MUXED: OwnPorts = OwnPorts {
        rtp: 4000,
        rtcp: None,
    };

    fn from(text: &str) -> Tuple {
        Tuple {
            remote: text.parse().unwrap(),
            local: [10, 0, 0, 1].into(),
            protocol: Protocol::OwnPort(4000),
        }
    }

    #[test]
    fn the_first_address_is_the_only_one() {
        use Channel::{Rtcp, Rtp};
        let mut remote = Remote::new(SPLIT, true);
        assert!(remote.admits(Rtp, from("1.1.1.1:5")));
        assert!(remote.admits(Rtcp, from("2.2.2.2:6")));
        remote.learn(Rtp, from("1.1.1.1:5"));
        assert!(!remote.admits(Rtp, from("1.1.1.1:6")));
        assert!(!remote.admits(Rtcp, from("2.2.2.2:6")), "another host");
        assert!(remote.admits(Rtcp, from("1.1.1.1:6")));
        assert_eq!(remote.rtcp(), None);
        remote.learn(Rtcp, from("1.1.1.1:6"));
        remote.learn(Rtp, from("1.1.1.1:9"));
        assert!(!remote.admits(Rtcp, from("1.1.1.1:7")));
        assert_eq!(remote.rtp(), Some(from("1.1.1.1:5")));
        assert_eq!(remote.rtcp(), Some(from("1.1.1.1:6")));

        let mut remote = Remote::new(MUXED, true);
        remote.learn(Rtcp, from("1.1.1.1:5"));
        assert_eq!(remote.rtp(), Some(from("1.1.1.1:5")));
        assert!(!remote.admits(Rtp, from("1.1.1.1:6")));
    }

    #[test]
    fn a_given_address_is_checked() {
        let remote = |ports, comedia| Remote::new(ports, comedia);
        for (remote, address, port, rtcp, error) in [
            (remote(MUXED, false), None, Some(1), None, "ip: is missing"),
            (remote(MUXED, false), Some("x"), Some(1), None, "ip: \"x\""),
            (remote(MUXED, false), Some("0.0.0.0"), Some(1), None, "ip: "),
            (remote(MUXED, false), Some("fe80::1"), Some(1), None, "ip: "),
            (
                remote(MUXED, false),
                Some("::ffff:255.255.255.255"),
                Some(1),
                None,
                "ip: ",
            ),
            (
                remote(MUXED, false),
                Some("224.0.0.1"),
                Some(1),
                None,
                "ip: ",
            ),
            (remote(MUXED, false), Some("::1"), None, None, "port: is"),
            (remote(MUXED, false), Some("::1"), Some(0), None, "port: 0"),
            (
                remote(MUXED, false),
                Some("::1"),
                Some(65_536),
                None,
                "port: 65536",
            ),
            (
                remote(MUXED, false),
                Some("::1"),
                Some(1),
                Some(2),
                "rtcpPort: not",
            ),
            (
                remote(SPLIT, false),
                Some("::1"),
                Some(1),
                None,
                "rtcpPort: is",
            ),
            (
                remote(SPLIT, false),
                Some("::1"),
                Some(1),
                Some(0),
                "rtcpPort: 0",
            ),
            (
                remote(SPLIT, true),
                Some("::1"),
                None,
                None,
                "ip: is learnt",
            ),
            (remote(SPLIT, true), None, Some(1), None, "port: is learnt"),
            (
                remote(SPLIT, true),
                None,
                None,
                Some(1),
                "rtcpPort: is learnt",
            ),
        ] {
            let refused = remote.check(address, port, rtcp).unwrap_err().to_string();
            assert!(refused.starts_with(error), "{refused}");
        }
        let mut split = remote(SPLIT, false);
        assert!(!split.admits(Channel::Rtp, from("1.2.3.4:5")));
        let given = split.check(Some("1.2.3.4"), Some(5), Some(6)).unwrap();
        split.set(given.unwrap());
        assert!(split.admits(Channel::Rtp, from("1.2.3.4:5")));
        assert!(split.admits(Channel::Rtcp, from("1.2.3.4:6")));
        assert!(!split.admits(Channel::Rtcp, from("1.2.3.4:5")));
        let mut mapped = remote(MUXED, false);
        let given = mapped.check(Some("::ffff:1.2.3.4"), Some(5), None).unwrap();
        mapped.set(given.unwrap());
        assert!(mapped.admits(Channel::Rtp, from("1.2.3.4:5")));
    }
}
