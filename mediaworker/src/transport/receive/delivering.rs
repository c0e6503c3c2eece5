//! A packet whose producer is known, on its way into the books and out again.

use router::ProducerKey;

use super::{Received, Receiving};
use crate::transport::clock::Report;
use crate::transport::packet::MediaPacket;

/// Where a packet comes from.
pub(super) struct Origin {
    /// Its producer and encoding.
    pub bound: (ProducerKey, usize),
    /// See [`Received::new_source`].
    pub new_source: bool,
    /// Payload type that it had on the wire.
    pub pt: u8,
    /// The last sender report of its stream.
    pub report: Option<Report>,
}

impl Receiving {
    /// Enters a packet into the books of its producer. `None`: it is not of the
    /// producer's media codec.
    pub(super) fn deliver(&mut self, origin: Origin, packet: MediaPacket) -> Option<Received> {
        let (producer, stream) = origin.bound;
        let entry = self.entries.iter_mut().find(|e| e.key == producer)?;
        let types = entry.spec.codecs.first()?.payload_type;
        if origin.pt != types.pt && Some(origin.pt) != types.rtx {
            return None;
        }
        self.arriving.used = true;
        entry.count(stream, &packet, self.arriving, origin.new_source);
        if entry.spec.kind.is_video() {
            entry.orientation = self.arriving.orientation.or(entry.orientation);
        }
        let codec = entry.spec.codecs.first()?;
        let captured = origin.report.and_then(|report| {
            let clock_rate = codec.payload_type.clock_rate;
            self.clock
                .captured(packet.arrived, report, packet.timestamp, clock_rate)
        });
        Some(Received {
            producer,
            stream,
            new_source: origin.new_source,
            codec: codec.codec,
            captured,
            packet,
        })
    }
}
