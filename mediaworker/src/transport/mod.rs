//! Transports: what connects one remote endpoint to a router.

pub mod bandwidth;
pub mod clock;
pub mod crypto;
pub mod data;
pub(crate) mod dtls;
pub mod extensions;
mod guard;
pub mod ice;
pub mod kind;
pub mod media;
pub mod packet;
pub mod plain;
pub mod receive;
pub mod rtcp;
pub mod sctp;
pub mod sealing;
pub mod send;
pub mod srtp;
pub mod stats;
pub mod supplies;
pub mod throttle;
pub mod webrtc;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use slotmap::new_key_type;

/// A table that is looked into for packets. Its hash is fast and does not withstand keys that
/// are chosen against it: how many of them a client can put in is bounded.
pub type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

new_key_type! {
    /// A TCP connection to the worker; never names another one later.
    pub struct ConnectionKey;
}

/// Transport protocol of a tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// One datagram, one packet, over the port that all WebRTC transports share.
    Udp,
    /// The same, over a port that a plain transport has for itself.
    OwnPort(u16),
    /// One frame of a TCP connection (RFC 4571), one packet; to the same port number
    /// as [`Protocol::Udp`].
    Tcp(ConnectionKey),
}

/// A way to reach a remote: its address, and ours that it talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Remote address.
    pub remote: SocketAddr,
    /// Local address that the remote sent to; answers come from it.
    pub local: IpAddr,
    /// Protocol between the two.
    pub protocol: Protocol,
}

impl Tuple {
    /// Whether both lead to the same place in the same way, whichever of our addresses
    /// is talked to.
    pub fn is_same_way(&self, other: &Self) -> bool {
        self.remote == other.remote && self.protocol == other.protocol
    }

    /// The TCP connection that it is, if it is one.
    pub fn connection(&self) -> Option<ConnectionKey> {
        match self.protocol {
            Protocol::Tcp(connection) => Some(connection),
            Protocol::Udp | Protocol::OwnPort(_) => None,
        }
    }
}

/// A datagram, or a packet in a frame, and its way.
pub type Datagram = (Tuple, Vec<u8>);

/// What a datagram carries, by its first bytes (RFC 7983).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    /// STUN message.
    Stun,
    /// DTLS record.
    Dtls,
    /// RTP packet.
    Rtp,
    /// RTCP packet (RFC 5761 §4).
    Rtcp,
}

impl PacketKind {
    /// Kind of a datagram; `None` for anything else.
    pub fn of(datagram: &[u8]) -> Option<Self> {
        match (datagram.first()?, datagram.get(1)) {
            (0..=3, _) => Some(Self::Stun),
            (20..=63, _) => Some(Self::Dtls),
            (128..=191, Some(192..=223)) => Some(Self::Rtcp),
            (128..=191, Some(_)) => Some(Self::Rtp),
            _ => None,
        }
    }
}

/// Why a command to a transport failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// A field makes no sense; the text names it.
    #[error("{0}")]
    Invalid(String),
    /// The transport is in the wrong state.
    #[error("{0}")]
    State(String),
    /// A stated limit is reached.
    #[error("{0}")]
    Limit(String),
    /// str0m refused something that passed our own checks.
    #[error("{0}")]
    Internal(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_told_apart_by_their_first_bytes() {
        for (bytes, kind) in [
            (&[][..], None),
            (&[0, 1], Some(PacketKind::Stun)),
            (&[22, 254], Some(PacketKind::Dtls)),
            (&[64, 0], None),
            (&[0x80], None),
            (&[0x80, 200], Some(PacketKind::Rtcp)),
            (&[0x80, 111], Some(PacketKind::Rtp)),
            (&[0x90, 0x80 | 100], Some(PacketKind::Rtp)),
            (&[192, 0], None),
        ] {
            assert_eq!(PacketKind::of(bytes), kind, "{bytes:?}");
        }
    }
}
