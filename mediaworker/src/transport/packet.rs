//! A packet of a producer, whatever kind of transport it came in on.

use std::sync::Arc;
use std::time::Instant;

use str0m::rtp::{ExtensionValues, RtpPacket};

/// An RTP packet, decrypted and without padding.
#[derive(Debug)]
pub struct MediaPacket {
    /// SSRC of its stream.
    pub ssrc: u32,
    /// Extended sequence number.
    pub sequence: u64,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Marker bit.
    pub marker: bool,
    /// What its header extensions say.
    pub extensions: ExtensionValues,
    /// Payload, shared by all who get it.
    pub payload: Arc<[u8]>,
    /// When it arrived.
    pub arrived: Instant,
}

impl From<RtpPacket> for MediaPacket {
    fn from(packet: RtpPacket) -> Self {
        Self {
            ssrc: *packet.header.ssrc,
            sequence: *packet.seq_no,
            timestamp: packet.header.timestamp,
            marker: packet.header.marker,
            extensions: packet.header.ext_vals,
            payload: packet.payload,
            arrived: packet.timestamp,
        }
    }
}
