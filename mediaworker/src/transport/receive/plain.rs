//! The books of a plain transport's producers. Packets are told apart by their
//! SSRCs there, and nothing has to be taught to str0m.

use std::time::{Instant, SystemTime};

use router::ProducerKey;

use super::{Origin, ProducerSpec, Received, Receiving};
use crate::transport::TransportError;
use crate::transport::clock::Report;
use crate::transport::packet::MediaPacket;
use crate::transport::stats::{Feedback, StreamStats};

/// What a packet of a plain transport is.
#[derive(Debug, Clone, Copy)]
pub struct PlainArrival {
    /// Payload type that it had on the wire.
    pub pt: u8,
    /// It was sent again.
    pub repair: bool,
    /// Its stream has started anew.
    pub new_source: bool,
    /// The last sender report of its stream.
    pub report: Option<Report>,
}

impl Receiving {
    /// Checks a new producer of a plain transport.
    ///
    /// # Errors
    /// [`TransportError`], naming the field.
    pub fn check_plain(&self, spec: &ProducerSpec) -> Result<(), TransportError> {
        self.check(spec)?;
        if spec.encodings.iter().any(|e| e.ssrc.is_none()) {
            let text = "encodings.ssrc: is needed on a plain transport";
            return Err(TransportError::Invalid(text.into()));
        }
        Ok(())
    }

    /// Adds a checked producer of a plain transport.
    pub fn add_plain(&mut self, key: ProducerKey, spec: ProducerSpec) {
        let ssrcs: Vec<Option<u32>> = spec.encodings.iter().map(|e| e.ssrc).collect();
        self.add(key, spec);
        for (stream, ssrc) in ssrcs.into_iter().enumerate() {
            if let Some(ssrc) = ssrc {
                self.streams.insert(ssrc, (key, stream));
            }
        }
    }

    /// The id that the client uses for a header extension.
    pub fn extension_id(&self, uri: &str) -> Option<u8> {
        let ids = (1u8..).zip(&self.extension_ids);
        let mut found = ids.filter(|(_, held)| held.is_some_and(|held| held.uri == uri));
        found.next().map(|(id, _)| id)
    }

    /// Enters a packet into the books. `datagram`: as it arrived. `None`: it is
    /// not of the producer's media codec.
    pub fn accept_plain(
        &mut self,
        datagram: &[u8],
        arrival: PlainArrival,
        packet: MediaPacket,
    ) -> Option<Received> {
        self.arrives(datagram);
        self.arriving.repair = arrival.repair;
        let origin = Origin {
            bound: *self.streams.get(&packet.ssrc)?,
            new_source: arrival.new_source,
            pt: arrival.pt,
            report: arrival.report,
        };
        self.deliver(origin, packet)
    }

    /// A packet of an SSRC came to nothing.
    pub fn discard_plain(&mut self, ssrc: u32) {
        if let Some(&(producer, stream)) = self.streams.get(&ssrc)
            && let Some(inbound) = self.inbound_mut(producer, stream)
        {
            inbound.discard();
        }
    }

    /// Takes in the wall clock of a sender report.
    pub fn handle_plain_report(&mut self, now: Instant, ntp: SystemTime) {
        self.clock.handle_report(now, ntp);
    }

    /// Ends the interval of an SSRC, and answers what a receiver report says of it.
    pub fn end_plain_interval(&mut self, now: Instant, ssrc: u32) -> Option<StreamStats> {
        let &(producer, stream) = self.streams.get(&ssrc)?;
        let inbound = self.inbound_mut(producer, stream)?;
        inbound.end_interval(now);
        Some(inbound.stats(now))
    }

    /// Takes in what the remote was asked for an SSRC until now.
    pub fn set_plain_feedback(&mut self, ssrc: u32, feedback: Feedback) {
        if let Some(&(producer, stream)) = self.streams.get(&ssrc)
            && let Some(inbound) = self.inbound_mut(producer, stream)
        {
            inbound.set_feedback(feedback);
        }
    }
}
