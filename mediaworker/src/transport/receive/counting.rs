//! What is counted of the producers of a transport.

use std::time::Instant;

use router::ProducerKey;
use str0m::stats::MediaIngressStats;

use super::inbound::Inbound;
use super::{Entry, Orientation, Receiving, guard};
use crate::transport::packet::MediaPacket;
use crate::transport::stats::{Feedback, StreamStats, Totals};

/// The datagram that str0m is being given.
#[derive(Debug, Clone, Copy, Default)]
pub struct Arriving {
    /// Its length.
    pub len: usize,
    /// It is a retransmission.
    pub repair: bool,
    /// It has become a packet of a producer.
    pub used: bool,
    /// How its picture has to be turned, if it tells.
    pub orientation: Option<Orientation>,
}

/// Score of one encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodingScore {
    /// Index of the encoding.
    pub stream: usize,
    /// Its SSRC.
    pub ssrc: u32,
    /// Its RTP stream id.
    pub rid: Option<String>,
    /// 0–10.
    pub score: u8,
}

impl Entry {
    /// Takes note of a packet of an encoding.
    pub(super) fn count(
        &mut self,
        stream: usize,
        packet: &MediaPacket,
        arriving: Arriving,
        new_source: bool,
    ) {
        let (kind, paused) = (self.spec.kind, self.paused);
        let codec = self.spec.codecs.first();
        let clock_rate = codec.map_or(0, |c| c.payload_type.clock_rate);
        let Some(place) = self.inbound.get_mut(stream) else {
            return;
        };
        let inbound = place.get_or_insert_with(|| {
            let mut inbound = Inbound::new(packet.arrived, kind, clock_rate);
            if paused {
                inbound.set_paused(packet.arrived, true);
            }
            inbound
        });
        inbound.receive(packet, arriving, new_source);
    }

    fn seen(&self) -> impl Iterator<Item = (usize, &Inbound)> {
        let all = self.inbound.iter().enumerate();
        all.filter_map(|(stream, inbound)| Some((stream, inbound.as_ref()?)))
    }
}

impl Receiving {
    /// Notes what the next datagram for str0m is, by its clear header.
    pub(super) fn arrives(&mut self, rtp: &[u8]) {
        let pt = guard::payload_type(rtp).unwrap_or(0);
        let orientation = self.orientation_id.and_then(|id| {
            let byte = guard::extension(rtp, id)?.first()?;
            Some(Orientation::from_byte(*byte))
        });
        self.arriving = Arriving {
            len: rtp.len(),
            repair: self.repair_types & (1 << pt) != 0,
            used: false,
            orientation,
        };
    }

    /// The datagram that str0m was given last.
    pub fn arriving(&self) -> Arriving {
        self.arriving
    }

    /// str0m has been drained after that datagram: if it came to nothing, that is
    /// counted.
    pub fn arrived(&mut self, rtp: &[u8]) {
        if self.arriving.used || self.arriving.repair {
            return;
        }
        let bound = guard::ssrc(rtp).and_then(|ssrc| self.streams.get(&ssrc).copied());
        if let Some((producer, stream)) = bound
            && let Some(inbound) = self.inbound_mut(producer, stream)
        {
            inbound.discard();
        }
    }

    /// Notes which payload types are retransmissions.
    pub(super) fn learn_repair_types(&mut self) {
        let codecs = self.entries.iter().flat_map(|e| &e.spec.codecs);
        let types = codecs.filter_map(|c| c.payload_type.rtx);
        self.repair_types = types.fold(0, |set, pt| set | 1 << (pt & 0x7f));
    }

    pub(super) fn inbound_mut(
        &mut self,
        producer: ProducerKey,
        stream: usize,
    ) -> Option<&mut Inbound> {
        let entry = self.entries.iter_mut().find(|e| e.key == producer)?;
        entry.inbound.get_mut(stream)?.as_mut()
    }

    /// The client is asked for a packet of this SSRC again.
    pub fn nacked(&mut self, ssrc: u32) {
        if let Some(&(producer, stream)) = self.streams.get(&ssrc)
            && let Some(inbound) = self.inbound_mut(producer, stream)
        {
            inbound.nacked();
        }
    }

    /// A sender report of an SSRC ends an interval.
    pub(super) fn end_interval(&mut self, now: Instant, ssrc: u32) {
        if let Some(&(producer, stream)) = self.streams.get(&ssrc)
            && let Some(inbound) = self.inbound_mut(producer, stream)
        {
            inbound.end_interval(now);
        }
    }

    /// Takes in what str0m counts. Encodings that only their SSRCs tell apart
    /// share it.
    pub fn handle_stats(&mut self, stats: &MediaIngressStats) {
        let Some(entry) = self.entries.iter_mut().find(|e| e.mid == stats.mid) else {
            return;
        };
        let single = entry.rids.len() == 1;
        let places = entry.rids.iter().zip(&mut entry.inbound);
        let meant = places.filter(|(rid, _)| single || **rid == stats.rid);
        for inbound in meant.filter_map(|(_, inbound)| inbound.as_mut()) {
            inbound.set_feedback(Feedback {
                nacks: stats.nacks,
                nack_packets: 0,
                plis: stats.plis,
                firs: stats.firs,
                round_trip_time: stats.rtt,
            });
        }
    }

    /// A producer is paused, or not any more: its silence means nothing then.
    pub fn set_paused(&mut self, now: Instant, producer: ProducerKey, paused: bool) {
        let entry = self.entries.iter_mut().find(|e| e.key == producer);
        if let Some(entry) = entry.filter(|e| e.paused != paused) {
            entry.paused = paused;
            for inbound in entry.inbound.iter_mut().flatten() {
                inbound.set_paused(now, paused);
            }
        }
    }

    /// Scores of a producer's encodings that have been seen, lowest first.
    pub fn scores(&self, now: Instant, producer: ProducerKey) -> Vec<EncodingScore> {
        let Some(entry) = self.entries.iter().find(|e| e.key == producer) else {
            return Vec::new();
        };
        entry
            .seen()
            .map(|(stream, inbound)| EncodingScore {
                stream,
                ssrc: inbound.ssrc(),
                rid: entry.spec.encodings.get(stream).and_then(|e| e.rid.clone()),
                score: inbound.score(now),
            })
            .collect()
    }

    /// Statistics of a producer's encodings that have been seen, lowest first,
    /// each with its index.
    pub fn stats(&self, now: Instant, producer: ProducerKey) -> Vec<(usize, StreamStats)> {
        let Some(entry) = self.entries.iter().find(|e| e.key == producer) else {
            return Vec::new();
        };
        entry
            .seen()
            .map(|(stream, inbound)| {
                let encoding = entry.spec.encodings.get(stream);
                let stats = StreamStats {
                    rtx_ssrc: encoding.and_then(|e| e.rtx_ssrc),
                    rid: encoding.and_then(|e| e.rid.clone()),
                    ..inbound.stats(now)
                };
                (stream, stats)
            })
            .collect()
    }

    /// How a producer's pictures have to be turned, once they have told.
    pub fn orientation(&self, producer: ProducerKey) -> Option<Orientation> {
        let entry = self.entries.iter().find(|e| e.key == producer)?;
        entry.orientation
    }

    /// Bits per second of one encoding.
    pub fn bitrate(&self, now: Instant, producer: ProducerKey, stream: usize) -> u64 {
        let entry = self.entries.iter().find(|e| e.key == producer);
        let inbound = entry.and_then(|e| e.inbound.get(stream)?.as_ref());
        inbound.map_or(0, |inbound| inbound.bitrate(now))
    }

    /// What the encodings of a producer come to.
    pub fn totals_of(&self, producer: ProducerKey) -> Totals {
        let entry = self.entries.iter().find(|it| it.key == producer);
        let seen = entry.into_iter().flat_map(Entry::seen);
        let totals = seen.map(|(_, inbound)| inbound.totals());
        totals.fold(Totals::default(), Totals::and)
    }

    /// What all encodings come to.
    pub fn totals(&self) -> Totals {
        let seen = self.entries.iter().flat_map(Entry::seen);
        let totals = seen.map(|(_, inbound)| inbound.totals());
        totals.fold(Totals::default(), Totals::and)
    }

    /// Packets expected and lost in the last intervals of all encodings.
    pub fn loss(&self) -> (u64, u64) {
        self.entries
            .iter()
            .flat_map(Entry::seen)
            .map(|(_, inbound)| inbound.interval())
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}
